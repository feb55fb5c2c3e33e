//! The table of promises: which pairs, under which conditions, and what is promised. Data.

use std::time::Duration;

use super::{Bar, Promise, Setup};
use crate::nat::{Hairpin, NatKind, kind};
use crate::oracle::{easy_kinds, easy_to_unforeseen};
use crate::sim::{Place, Weather};

/// Latest start of a side that learns of it too late.
const SKEW_MAX: Duration = Duration::from_millis(500);

/// An eighth of a subscriber's ports may be used up.
const BLOCK_PART: u16 = 8;

/// Two round trips to the server, in milliseconds.
const TWO_ROUND_TRIPS: u64 = 200;

/// NATs that count their ports, with up to a hundred foreign flows a second.
const COUNTERS: [&str; 7] = [
    "symmetric-counter",
    "counter-step-2",
    "symmetric-preserve-first",
    "counter-30",
    "symmetric-counter-busy",
    "counter-100",
    "counter-100-step-2",
];

/// How many of them have thirty or fewer.
const QUIET_COUNTERS: usize = 5;

/// NATs with another port for each destination, whichever.
const SYMMETRIC: [&str; 7] = [
    "symmetric-address",
    "address-dependent",
    "symmetric-preserve-first",
    "symmetric-counter-busy",
    "counter-100",
    "port-block",
    "symmetric",
];

/// All rows: first what is promised on a steady line, then the same with loss and jitter.
#[must_use]
pub fn promises() -> Vec<Promise> {
    let mut rows = easy_rows();
    rows.extend(hard_rows(Weather::STEADY, ""));
    rows.extend(other_rows());
    rows.extend(weather_rows());
    rows
}

/// Pairs that send to each other at once and meet.
fn easy_rows() -> Vec<Promise> {
    let bar = Bar {
        direct: 100.0,
        p50_ms: Some(400),
        p95_ms: Some(600),
        probes: Some(30),
        ..Bar::default()
    };
    let easy: Vec<&NatKind> = easy_kinds().collect();
    let six = names(&["ipv6-firewall", "dual-stack", "nat64"]);
    let with_six =
        pairs(&six, &six).filter(|setup| setup.kinds.iter().any(|kind| kind.name == "ipv6-firewall"));
    vec![
        Promise {
            name: "easy",
            pairs: "any two easy kinds",
            setups: pairs(&easy, &easy).collect(),
            bar,
            rival: Some("iroh 1.4.1, port-restricted x port-restricted: 627 ms warm, 932 ms cold"),
        },
        Promise {
            name: "one-nat",
            pairs: "two nodes behind one NAT, with hairpin and without",
            setups: easy
                .iter()
                .chain(&names(&["symmetric", "port-block"]))
                .map(|kind| together(kind))
                .collect(),
            bar,
            rival: None,
        },
        Promise {
            name: "one-carrier",
            pairs: "two homes behind one carrier's NAT that hairpins",
            setups: pairs(&easy, &easy)
                .map(|setup| Setup {
                    place: Place::OneCarrier(Hairpin::External),
                    ..setup
                })
                .collect(),
            bar,
            rival: None,
        },
        Promise {
            name: "ipv6",
            pairs: "IPv6 firewalls",
            setups: with_six.collect(),
            bar,
            rival: None,
        },
    ]
}

/// Pairs with a port that nobody knows beforehand.
fn hard_rows(weather: Weather, suffix: &str) -> Vec<Promise> {
    let rows = [
        counter_row(),
        reverse_row(),
        random_row(),
        block_row("block-512", "port-block", 512),
        block_row("block-1024", "port-block-1024", 1024),
        steps_row(),
    ];
    let named = |row: Promise| Promise {
        name: match suffix {
            "" => row.name,
            suffix => with_suffix(row.name, suffix),
        },
        setups: row
            .setups
            .into_iter()
            .map(|setup| Setup { weather, ..setup })
            .collect(),
        ..row
    };
    rows.into_iter().map(named).collect()
}

fn counter_row() -> Promise {
    let easy: Vec<&NatKind> = easy_kinds().collect();
    Promise {
        name: "counter",
        pairs: "easy x symmetric with counted ports, up to 100 foreign flows/s",
        setups: both_ways(&easy, &names(&COUNTERS)),
        bar: Bar {
            direct: 99.0,
            p95_ms: Some(1500),
            packets: Some(60),
            entries: Some(12),
            ..Bar::default()
        },
        rival: Some("iroh 1.4.1, port-restricted x any symmetric: 0 % direct"),
    }
}

fn reverse_row() -> Promise {
    let open: Vec<&NatKind> = easy_kinds().filter(|kind| easy_to_unforeseen(kind)).collect();
    Promise {
        name: "reverse",
        pairs: "full cone or address-restricted x any symmetric",
        setups: both_ways(&open, &names(&SYMMETRIC)),
        bar: Bar {
            direct: 99.0,
            p95_ms: Some(1000),
            probes: Some(10),
            ..Bar::default()
        },
        rival: None,
    }
}

fn random_row() -> Promise {
    Promise {
        name: "random",
        pairs: "port-restricted x symmetric with random ports",
        setups: both_ways(&by_port(), &names(&["symmetric", "address-dependent"])),
        bar: Bar {
            direct: 98.0,
            p50_ms: Some(2000),
            p95_ms: Some(4000),
            entries: Some(1100),
            held: Some(1100),
            ..Bar::default()
        },
        rival: Some("iroh 1.4.1, port-restricted x any symmetric: 0 % direct"),
    }
}

fn block_row(name: &'static str, hard: &'static str, size: u16) -> Promise {
    let with_block = |setup: Setup| Setup {
        block: Some((usize::from(setup.kinds[1].name == hard), size)),
        ..setup
    };
    Promise {
        name,
        pairs: match size {
            512 => "port-restricted x random ports in a block of 512",
            _ => "port-restricted x random ports in a block of 1,024",
        },
        setups: both_ways(&by_port(), &names(&[hard]))
            .into_iter()
            .map(with_block)
            .collect(),
        bar: Bar {
            direct: 99.0,
            p95_ms: Some(2000),
            block_part: Some(BLOCK_PART),
            ..Bar::default()
        },
        rival: Some("iroh 1.4.1, port-restricted x any symmetric: 0 % direct"),
    }
}

fn steps_row() -> Promise {
    let counters = names(&COUNTERS[..QUIET_COUNTERS]);
    Promise {
        name: "steps",
        pairs: "counted ports on both sides, up to 30 foreign flows/s",
        setups: pairs(&counters, &counters).collect(),
        bar: Bar {
            direct: 97.0,
            p95_ms: Some(3000),
            packets_side: Some(300),
            ..Bar::default()
        },
        rival: None,
    }
}

/// What cannot become direct, and what becomes so only if it is done with care.
fn other_rows() -> Vec<Promise> {
    let relay = Bar {
        data_ms: Some(TWO_ROUND_TRIPS),
        relay_only: true,
        ..Bar::default()
    };
    let blocked = names(&["udp-server-only"]);
    let some = names(&["open", "port-restricted", "symmetric", "dual-stack"]);
    let homes = names(&["port-restricted", "port-restricted-random"]);
    let mut cannot = both_ways(&blocked, &some);
    cannot.extend(both_ways(
        &names(&["ipv6-firewall"]),
        &names(&["port-restricted", "symmetric"]),
    ));
    let one_carrier = pairs(&homes, &homes).map(|setup| Setup {
        place: Place::OneCarrier(Hairpin::Off),
        ..setup
    });
    let random = names(&["symmetric", "port-block"]);
    let mut hopeless: Vec<Setup> = pairs(&random, &random).collect();
    hopeless.extend(both_ways(&random, &names(&["symmetric-counter"])));
    vec![
        Promise {
            name: "cannot",
            pairs: "pairs that cannot become direct",
            setups: cannot,
            bar: relay,
            rival: None,
        },
        Promise {
            name: "cannot-carrier",
            pairs: "two homes behind one carrier's NAT that does not hairpin",
            setups: one_carrier.collect(),
            // The carrier's link is one more on the way: 150 ms to the server and back.
            bar: Bar {
                data_ms: Some(TWO_ROUND_TRIPS * 3 / 2),
                ..relay
            },
            rival: None,
        },
        Promise {
            name: "hopeless",
            pairs: "ports that nobody can foresee on both sides",
            setups: hopeless,
            bar: relay,
            rival: None,
        },
        Promise {
            name: "skew",
            pairs: "Linux with an accepting INPUT, one side 0 to 500 ms late",
            setups: skewed(),
            bar: Bar {
                direct: 100.0,
                ..Bar::default()
            },
            rival: Some("iroh 1.4.1, both sides so: 0 % direct"),
        },
    ]
}

/// The rows again with loss and jitter. The bars are shares alone: what part 3 of the research foresees for each technique,
/// the last column of its tables where there is one, its formulas where there is not.
fn weather_rows() -> Vec<Promise> {
    let mut rows = Vec::new();
    for (weather, suffix, shares) in [
        // Probes: nine of each side, of which one pair is enough. Bracket: 99.7 % and 92.8 % for each try, and a second one.
        // Birthday and block: 1 - exp(-K(1-q)M(1-q)^2/N) with their K and M. Steps: every flow twice, three tries.
        (
            Weather::STEADY_LOSS_2,
            "-loss-2",
            [100.0, 99.0, 99.0, 99.5, 99.5, 99.5, 97.0],
        ),
        (
            Weather::STEADY_LOSS_10,
            "-loss-10",
            [99.9, 98.0, 98.0, 99.0, 97.0, 97.0, 90.0],
        ),
        (
            Weather::STEADY_JITTER,
            "-jitter",
            [100.0, 99.0, 99.0, 98.0, 99.0, 99.0, 97.0],
        ),
    ] {
        let easy = easy_rows().into_iter().take(1).map(|row| Promise {
            name: with_suffix(row.name, suffix),
            setups: row
                .setups
                .into_iter()
                .map(|setup| Setup { weather, ..setup })
                .collect(),
            ..row
        });
        let all = easy.chain(hard_rows(weather, suffix)).zip(shares);
        rows.extend(all.map(|(row, direct)| Promise {
            bar: Bar {
                direct,
                ..Bar::default()
            },
            rival: None,
            ..row
        }));
    }
    rows
}

/// Names of rows in other weather.
fn with_suffix(name: &str, suffix: &str) -> &'static str {
    const NAMES: [&str; 21] = [
        "easy-loss-2",
        "counter-loss-2",
        "reverse-loss-2",
        "random-loss-2",
        "block-512-loss-2",
        "block-1024-loss-2",
        "steps-loss-2",
        "easy-loss-10",
        "counter-loss-10",
        "reverse-loss-10",
        "random-loss-10",
        "block-512-loss-10",
        "block-1024-loss-10",
        "steps-loss-10",
        "easy-jitter",
        "counter-jitter",
        "reverse-jitter",
        "random-jitter",
        "block-512-jitter",
        "block-1024-jitter",
        "steps-jitter",
    ];
    let whole = NAMES
        .iter()
        .find(|whole| whole.strip_prefix(name) == Some(suffix));
    whole.copied().unwrap_or("unnamed")
}

/// Both sides, or one of them, lose their port to a packet that comes too early; either side is late.
fn skewed() -> Vec<Setup> {
    let accept = names(&["linux-input-accept"]);
    let mut all: Vec<Setup> = pairs(&accept, &accept).collect();
    all.extend(both_ways(
        &accept,
        &names(&["port-restricted", "linux-input-reject"]),
    ));
    let late = |setup: Setup| {
        [0, 1].map(|side| Setup {
            late: Some((side, SKEW_MAX)),
            ..setup
        })
    };
    all.into_iter().flat_map(late).collect()
}

/// Easy kinds that let nobody in from a port that was not sent to, and whose tables hold what guessing takes.
fn by_port() -> Vec<&'static NatKind> {
    easy_kinds()
        .filter(|kind| !easy_to_unforeseen(kind) && kind.name != "small-table")
        .collect()
}

fn names(names: &[&str]) -> Vec<&'static NatKind> {
    names.iter().filter_map(|name| kind(name)).collect()
}

fn pairs<'a>(
    callers: &'a [&'static NatKind],
    callees: &'a [&'static NatKind],
) -> impl Iterator<Item = Setup> + 'a {
    callers
        .iter()
        .flat_map(move |a| callees.iter().map(move |b| Setup::new(a, b)))
}

fn both_ways(one: &[&'static NatKind], other: &[&'static NatKind]) -> Vec<Setup> {
    pairs(one, other).chain(pairs(other, one)).collect()
}

fn together(kind: &'static NatKind) -> Setup {
    Setup {
        place: Place::OneNetwork,
        ..Setup::new(kind, kind)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_row_has_a_name_of_its_own_and_pairs_to_try() {
        let rows = promises();
        let names: BTreeSet<&str> = rows.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), rows.len());
        assert!(!names.contains("unnamed"), "{names:?}");
        for row in &rows {
            assert!(
                row.setups.iter().any(Setup::is_real),
                "{} in namespaces",
                row.name
            );
        }
    }

    #[test]
    fn no_name_of_a_kind_is_wrong() {
        for name in COUNTERS.iter().chain(&SYMMETRIC) {
            assert!(kind(name).is_some(), "{name}");
        }
        let rows = promises();
        let row = |name: &str| {
            rows.iter()
                .find(|row| row.name == name)
                .map(|row| row.setups.len())
        };
        assert_eq!(row("steps"), Some(QUIET_COUNTERS * QUIET_COUNTERS));
        assert_eq!(row("skew"), Some(10));
        assert!(row("easy") >= Some(100) && row("counter") >= Some(100));
    }

    #[test]
    fn the_block_is_at_the_side_that_has_it() {
        let rows = promises();
        for row in rows.iter().filter(|row| row.name.starts_with("block-512")) {
            for setup in &row.setups {
                let (side, size) = setup.block.expect("a block");
                assert_eq!((setup.kinds[side].name, size), ("port-block", 512));
            }
        }
    }
}
