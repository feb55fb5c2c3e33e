//! Names that another machine chose, made safe to create here, or refused.
//!
//! Works on text alone; nothing is opened. Two kinds of trouble are told apart. What no honest sender produces (an
//! empty name, `..`, a separator inside a name) refuses the whole transfer. What an honest person may have on disk
//! but should not spread (control characters, text direction marks, names that are devices elsewhere) is replaced,
//! and the result is what all later checks see.

use crate::untrusted::{Untrusted, is_bidi_control, is_invisible};

/// Longest name in bytes: the limit of every common file system (`NAME_MAX`).
pub const NAME_LEN_MAX: usize = 255;

/// Deepest path. Deeper trees exist only to break what walks them.
pub const DEPTH_MAX: usize = 64;

/// Longest relative path in bytes (`PATH_MAX` of Linux), separators counted; also keeps an entry within one message.
pub const PATH_LEN_MAX: usize = 4096;

/// Base names that are devices on Windows, whatever follows their first dot.
const DEVICES: &[&str] = &["con", "prn", "aux", "nul", "conin$", "conout$", "clock$"];

/// What stands in place of a character that may not be in a name.
const SUBSTITUTE: char = '_';

/// One name, safe to create in a folder. `at_root`: it would lie directly in the folder for received files, where a
/// hidden name is made visible, because programs look for files like `.profile` in some folders.
///
/// # Errors
/// Any [`NameError`] but those about paths; the name is then not to be used in any form.
pub fn safe_name(name: &str, at_root: bool) -> Result<String, NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name == "." || name == ".." {
        return Err(NameError::Dots);
    }
    if name.contains(['/', '\0']) {
        return Err(NameError::Separator(Untrusted(name).to_string()));
    }
    if name.len() > NAME_LEN_MAX {
        return Err(NameError::TooLong(name.len()));
    }
    let mut safe: String = name
        .chars()
        .filter(|c| !is_invisible(*c))
        .map(|c| {
            if c.is_control() || is_bidi_control(c) || c == '\\' {
                SUBSTITUTE
            } else {
                c
            }
        })
        .collect();
    if safe.ends_with(['.', ' ']) {
        safe.pop();
        safe.push(SUBSTITUTE);
    }
    if at_root && safe.starts_with('.') {
        safe.replace_range(..1, "_");
    }
    if safe.is_empty() {
        safe.push(SUBSTITUTE);
    }
    if is_device(&safe) {
        safe.insert(0, SUBSTITUTE);
    }
    if safe.len() > NAME_LEN_MAX {
        return Err(NameError::TooLong(safe.len()));
    }
    Ok(safe)
}

/// The form in which two names are the same on a disk that ignores case. Upper case first, so that characters with
/// several lower-case forms (sharp s, long s, final sigma, Kelvin sign) fall together.
pub fn folded(name: &str) -> String {
    name.to_uppercase().to_lowercase()
}

/// `name (1).txt` for number 1; the name itself for 0. Cut so that it stays a legal name.
pub fn numbered(name: &str, number: u32) -> String {
    if number == 0 {
        return name.to_owned();
    }
    let (stem, ending) = match name.rfind('.') {
        Some(at) if at > 0 && name.len() - at <= 16 => name.split_at(at),
        _ => (name, ""),
    };
    let tail = format!(" ({number}){ending}");
    format!("{}{tail}", cut(stem, NAME_LEN_MAX - tail.len()))
}

/// The longest beginning of at most `len` bytes that ends between characters.
fn cut(text: &str, len: usize) -> &str {
    let end = (0..=len.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text.get(..end.unwrap_or(0)).unwrap_or_default()
}

fn is_device(name: &str) -> bool {
    let base = folded(name.split('.').next().unwrap_or_default().trim_end());
    if DEVICES.contains(&base.as_str()) {
        return true;
    }
    let Some(number) = base.strip_prefix("com").or_else(|| base.strip_prefix("lpt")) else {
        return false;
    };
    let mut digits = number.chars();
    matches!(
        (digits.next(), digits.next()),
        (Some('0'..='9' | '\u{b9}' | '\u{b2}' | '\u{b3}'), None)
    )
}

/// Why a name or path is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// A path without components or a component without characters.
    #[error("a name is empty")]
    Empty,
    /// `.` or `..`.
    #[error("a name is `.` or `..`")]
    Dots,
    /// A separator or a zero byte inside one component. Holds the name, escaped.
    #[error("the name `{0}` contains a path separator")]
    Separator(String),
    /// Longer than [`NAME_LEN_MAX`]. Holds the length.
    #[error("a name of {0} bytes exceeds the limit of {NAME_LEN_MAX}")]
    TooLong(usize),
    /// Longer than [`PATH_LEN_MAX`]. Holds the length.
    #[error("a path of {0} bytes exceeds the limit of {PATH_LEN_MAX}")]
    PathTooLong(usize),
    /// Deeper than [`DEPTH_MAX`]. Holds the depth.
    #[error("a path of {0} levels exceeds the limit of {DEPTH_MAX}")]
    TooDeep(usize),
}

#[cfg(test)]
pub(crate) mod corpus;

#[cfg(test)]
mod tests {
    use super::corpus::HOSTILE;
    use super::*;
    use crate::untrusted::is_dangerous;

    #[test]
    fn no_hostile_name_gets_through_as_it_is() {
        assert!(HOSTILE.len() >= 100, "only {} names", HOSTILE.len());
        for name in HOSTILE {
            assert_ne!(safe_name(name, true).as_deref(), Ok(*name), "{name:?}");
        }
    }

    #[test]
    fn what_comes_out_is_always_one_safe_name_and_stays_as_it_is() {
        for name in HOSTILE {
            for at_root in [true, false] {
                let Ok(safe) = safe_name(name, at_root) else {
                    continue;
                };
                assert!(!safe.is_empty() && safe.len() <= NAME_LEN_MAX, "{name:?}");
                assert!(safe != "." && safe != "..", "{name:?}");
                assert!(
                    !safe.contains(|c| is_dangerous(c) || matches!(c, '/' | '\\')),
                    "{name:?} became {safe:?}"
                );
                assert!(
                    !safe.ends_with(['.', ' ']) && !is_device(&safe),
                    "{name:?} became {safe:?}"
                );
                assert!(!(at_root && safe.starts_with('.')), "{name:?}");
                assert_eq!(safe_name(&safe, at_root).as_deref(), Ok(&*safe), "{name:?}");
            }
        }
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        for name in [
            "a",
            "report 2026 (1).pdf",
            "photo.tar.gz",
            "12:30 notes",
            "-rf",
            "~backup",
            "\u{dc}bung",
            "\u{5199}\u{771f}.jpg",
            "\u{1f600}",
            "console.log",
            "com10",
            "community.txt",
            "a..b",
        ] {
            assert_eq!(safe_name(name, true).as_deref(), Ok(name));
        }
        assert_eq!(safe_name(".git", false).as_deref(), Ok(".git"));
    }

    #[test]
    fn harmless_trouble_is_replaced() {
        for (name, safe) in [
            ("a\u{1b}[2Jb", "a_[2Jb"),
            ("invoice\u{202e}fdp.exe", "invoice_fdp.exe"),
            ("na\u{200b}me", "name"),
            ("dir\\..\\x", "dir_.._x"),
            ("CON", "_CON"),
            ("lpt1.txt", "_lpt1.txt"),
            ("name.", "name_"),
            ("name ", "name_"),
            (".bashrc", "_bashrc"),
            ("\u{200b}", "_"),
            (".\u{200b}.", "__"),
        ] {
            assert_eq!(safe_name(name, true).as_deref(), Ok(safe), "{name:?}");
        }
    }

    #[test]
    fn what_no_honest_sender_produces_refuses_everything() {
        use NameError::{Dots, Empty, TooLong};
        assert_eq!(safe_name("", true), Err(Empty));
        assert_eq!(safe_name("..", false), Err(Dots));
        assert!(matches!(
            safe_name("/etc/passwd", true),
            Err(NameError::Separator(_))
        ));
        assert!(matches!(safe_name("a\0b", true), Err(NameError::Separator(_))));
        assert_eq!(safe_name(&"x".repeat(256), true), Err(TooLong(256)));
    }

    #[test]
    fn a_number_goes_before_the_ending_and_the_name_stays_legal() {
        for (name, number, result) in [
            ("a.txt", 0, "a.txt"),
            ("a.txt", 1, "a (1).txt"),
            (".hidden", 2, ".hidden (2)"),
            ("no ending", 3, "no ending (3)"),
            (
                "tar.of.very-long-name-ending",
                1,
                "tar.of.very-long-name-ending (1)",
            ),
        ] {
            assert_eq!(numbered(name, number), result);
        }
        let long = numbered(&format!("{}.txt", "\u{e4}".repeat(125)), 12);
        assert!(
            long.len() <= NAME_LEN_MAX && long.ends_with("\u{e4} (12).txt"),
            "{long}"
        );
    }

    #[test]
    fn names_that_a_disk_may_confuse_fold_together() {
        for (a, b) in [
            ("README", "readme"),
            ("stra\u{df}e", "STRASSE"),
            ("\u{212a}", "k"),
            ("\u{17f}", "S"),
            ("\u{3a3}", "\u{3c2}"),
        ] {
            assert_eq!(folded(a), folded(b), "{a} {b}");
        }
        assert_ne!(folded("a"), folded("b"));
    }
}
