//! Rules about the text of one source file.

/// A source file of the workspace.
pub struct Source {
    /// Path from the root, with slashes.
    pub name: String,
    /// What stands in it.
    pub text: String,
}

/// Most lines in one file: beyond it a file holds more than one concept.
const FILE_LINES_MAX: usize = 800;

/// Most lines in one function, signature and closing brace included.
const FUNCTION_LINES_MAX: usize = 70;

/// A word, where it may stand, and why nowhere else. Test modules and test folders are exempt.
struct Ban {
    words: &'static [&'static str],
    within: &'static str,
    except: &'static [&'static str],
    why: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        words: &["Instant::now(", ".elapsed()", "SystemTime::", "UNIX_EPOCH"],
        within: "proto/src/",
        except: &[],
        why: "the core reads no clock; `now` is an argument",
    },
    Ban {
        words: &[
            "getrandom",
            "OsRng",
            "thread_rng",
            "rand::rng",
            "rand::random",
            "from_entropy",
            "from_os_rng",
            "RandomState",
        ],
        within: "proto/src/",
        except: &[],
        why: "the core draws no entropy; a seed is an argument of the constructor",
    },
    Ban {
        words: &[
            "std::env",
            "std::fs",
            "std::process",
            "std::thread",
            "UdpSocket",
            "TcpStream",
            "async fn",
            "tokio::",
            "quinn::",
        ],
        within: "proto/src/",
        except: &[],
        why: "the core does no I/O",
    },
    Ban {
        words: &["bincode::"],
        within: "",
        except: &["proto/src/wire/codec.rs"],
        why: "one file names the serializer",
    },
    Ban {
        words: &["stun_rs::"],
        within: "",
        except: &["proto/src/stun/"],
        why: "one folder names the STUN library",
    },
    Ban {
        words: &["AsyncUdpSocket for"],
        within: "",
        except: &[
            "peer/src/net/socket.rs",
            "peer/src/net/udp.rs",
            "rendezvous/src/socket.rs",
            "rendezvous/src/udp.rs",
        ],
        why: "one file of each program implements quinn's socket trait for paths, one for the kernel's sockets",
    },
    Ban {
        words: &["clap::", "println!", "eprintln!", "print!(", "process::exit"],
        within: "",
        except: &["peer/src/cli/", "rendezvous/src/cli", "netsim-tests/src/cli/"],
        why: "only the command line parses arguments, prints and exits",
    },
    Ban {
        words: &["crate::session", "crate::app", "crate::cli", "crate::node"],
        within: "peer/src/net/",
        except: &[],
        why: "sockets know nothing of what runs on them",
    },
    Ban {
        words: &["crate::app", "crate::cli"],
        within: "peer/src/driver/",
        except: &[],
        why: "the driver serves nodes, not applications",
    },
    Ban {
        words: &["crate::app", "crate::cli"],
        within: "peer/src/session/",
        except: &[],
        why: "a session knows nothing of what runs on it",
    },
    Ban {
        words: &[
            "knothole_proto::punch",
            "knothole_proto::connector",
            "knothole_proto::rendezvous",
            "crate::net",
            "crate::driver",
        ],
        within: "peer/src/app/",
        except: &[],
        why: "applications see nodes and connections, not how they came about",
    },
    Ban {
        words: &[
            "crate::punch",
            "crate::connector",
            "crate::rendezvous",
            "crate::pairing",
            "crate::stun",
            "crate::path",
        ],
        within: "proto/src/wire/",
        except: &[],
        why: "the wire knows ids and addresses and nothing else",
    },
    Ban {
        words: &["crate::connector", "crate::rendezvous"],
        within: "proto/src/punch/",
        except: &[],
        why: "only the connector knows all machines",
    },
    Ban {
        words: &["crate::connector", "crate::punch"],
        within: "proto/src/rendezvous/",
        except: &[],
        why: "the server does not know how nodes decide",
    },
    Ban {
        words: &["knothole::", "knothole_rendezvous::", "Instant::now("],
        within: "netsim-tests/src/sim/",
        except: &[],
        why: "the in-memory world runs the machines alone, in its own time",
    },
    Ban {
        words: &[
            "crate::sim",
            "crate::fabric",
            "crate::kernel",
            "crate::netns",
            "Instant::now(",
        ],
        within: "netsim-tests/src/nat/",
        except: &[],
        why: "the model of a NAT knows no world, and time is an argument",
    },
    Ban {
        words: &[
            "crate::sim",
            "crate::fabric",
            "crate::kernel",
            "crate::netns",
            "Instant::now(",
        ],
        within: "netsim-tests/src/link/",
        except: &[],
        why: "the model of a link knows no world, and time is an argument",
    },
    Ban {
        words: &[
            "crate::connector",
            "crate::punch",
            "crate::rendezvous",
            "crate::pairing",
            "crate::wire",
        ],
        within: "proto/src/fingerprint/",
        except: &[],
        why: "a fingerprint of the network comes from STUN alone",
    },
    Ban {
        words: &["unsafe {", "unsafe fn", "unsafe impl"],
        within: "",
        except: &["netsim-tests/src/netns/sys.rs"],
        why: "one file makes the system calls that have no safe wrapper",
    },
    Ban {
        words: &["todo!(", "unimplemented!(", "FIXME", "TODO", "XXX", "HACK"],
        within: "",
        except: &[],
        why: "nothing is half done",
    },
];

/// What is wrong with this file, one line each.
pub fn complaints(source: &Source) -> Vec<String> {
    // This file names the words that it bans.
    if source.name.starts_with("netsim-tests/tests/tidy/") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let lines: Vec<&str> = source.text.lines().collect();
    if lines.len() > FILE_LINES_MAX {
        found.push(format!(
            "{}: {} lines; the limit is {FILE_LINES_MAX}",
            source.name,
            lines.len()
        ));
    }
    if source.name.contains("/src/") && !lines.first().is_some_and(|l| l.starts_with("//!")) {
        found.push(format!(
            "{}: does not begin by saying what it is (`//!`)",
            source.name
        ));
    }
    found.extend(long_functions(&source.name, &lines));
    found.extend(banned_words(&source.name, &lines));
    found.extend(bare_constants(&source.name, &lines));
    found
}

/// Lines outside test code: a test module stands at the end of its file.
fn product<'a>(name: &str, lines: &'a [&'a str]) -> &'a [&'a str] {
    if !name.contains("/src/") || name.ends_with("/tests.rs") || name.contains("/tests/") {
        return &[];
    }
    let end = lines
        .iter()
        .position(|l| l.trim() == "#[cfg(test)]")
        .unwrap_or(lines.len());
    &lines[..end]
}

fn banned_words(name: &str, lines: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for ban in BANS {
        if !name.starts_with(ban.within) || ban.except.iter().any(|e| name.starts_with(e)) {
            continue;
        }
        for (number, line) in product(name, lines).iter().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            for word in ban.words.iter().filter(|w| code.contains(**w)) {
                found.push(format!("{name}:{}: `{word}`: {}", number + 1, ban.why));
            }
        }
    }
    found
}

/// Functions longer than the limit, found by indentation, which rustfmt guarantees.
fn long_functions(name: &str, lines: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let begins = [
            "fn ",
            "pub fn ",
            "async fn ",
            "pub async fn ",
            "pub(crate) fn ",
            "pub(super) fn ",
            "const fn ",
            "pub const fn ",
        ]
        .iter()
        .any(|b| code.starts_with(b));
        if !begins || code.ends_with(';') || code.ends_with('}') {
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - code.len()]);
        let length = lines[start..]
            .iter()
            .position(|l| *l == close)
            .map_or(0, |at| at + 1);
        if length > FUNCTION_LINES_MAX {
            found.push(format!(
                "{name}:{}: function of {length} lines; the limit is {FUNCTION_LINES_MAX}",
                start + 1
            ));
        }
    }
    found
}

/// Constants with a size or a duration need a comment that says why.
fn bare_constants(name: &str, lines: &[&str]) -> Vec<String> {
    let lines = product(name, lines);
    let measures = ["Duration", "usize", "u64", "u32", "u16", "u8", "f64", "i64"];
    let mut found = Vec::new();
    for (number, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let constant = code.starts_with("pub const ")
            || code.starts_with("const ")
            || code.starts_with("pub(crate) const ");
        let Some((_, typed)) = code.split_once(": ").filter(|_| constant && code.contains('=')) else {
            continue;
        };
        let above = number
            .checked_sub(1)
            .map_or("", |above| lines[above].trim_start());
        let commented = above.starts_with("//") && !above.starts_with("//!");
        let grouped = above.contains("const ");
        if measures.iter().any(|m| typed.starts_with(m)) && !commented && !grouped {
            found.push(format!(
                "{name}:{}: a number without its unit and reason",
                number + 1
            ));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str) -> Vec<String> {
        complaints(&Source {
            name: name.to_owned(),
            text: text.to_owned(),
        })
    }

    #[test]
    fn a_clock_read_in_the_core_is_caught_but_not_in_its_tests() {
        let bad = check("proto/src/x.rs", "//! X.\nfn f() { let now = Instant::now(); }\n");
        assert!(bad.iter().any(|c| c.contains("reads no clock")), "{bad:?}");
        assert_eq!(
            check(
                "proto/src/x.rs",
                "//! X.\n#[cfg(test)]\nmod tests { fn f() { Instant::now(); } }\n"
            ),
            [""; 0]
        );
        assert_eq!(
            check("proto/src/x.rs", "//! X.\n// Instant::now( is not for us\n"),
            [""; 0]
        );
    }

    #[test]
    fn entropy_in_the_core_is_caught() {
        assert_eq!(
            check("proto/src/x.rs", "//! X.\nuse rand_core::OsRng;\n").len(),
            1
        );
    }

    #[test]
    fn a_long_file_and_a_long_function_are_caught() {
        let file = format!("//! X.\n{}", "// line\n".repeat(800));
        assert_eq!(check("peer/src/x.rs", &file).len(), 1);
        let function = format!("//! X.\nfn f() {{\n{}}}\n", "    x();\n".repeat(69));
        assert_eq!(check("peer/src/x.rs", &function).len(), 1);
        let fits = format!("//! X.\nfn f() {{\n{}}}\n", "    x();\n".repeat(68));
        assert_eq!(check("peer/src/x.rs", &fits), [""; 0]);
    }

    #[test]
    fn layers_may_not_look_up() {
        assert_eq!(
            check("peer/src/net/x.rs", "//! X.\nuse crate::session::Y;\n").len(),
            1
        );
        assert_eq!(
            check("peer/src/app/x.rs", "//! X.\nuse knothole_proto::punch::Y;\n").len(),
            1
        );
        assert_eq!(
            check("peer/src/session/x.rs", "//! X.\nuse crate::net::Y;\n"),
            [""; 0]
        );
    }

    #[test]
    fn a_number_without_a_reason_is_caught() {
        assert_eq!(
            check("peer/src/x.rs", "//! X.\nconst A_MAX: usize = 7;\n").len(),
            1
        );
        assert_eq!(
            check("peer/src/x.rs", "//! X.\n/// Why.\nconst A_MAX: usize = 7;\n"),
            [""; 0]
        );
    }

    #[test]
    fn a_file_says_what_it_is() {
        assert_eq!(check("peer/src/x.rs", "use a::b;\n").len(), 1);
    }
}
