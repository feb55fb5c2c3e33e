//! Named NATs that measurements ask for besides the [kinds](mod@super::kinds): counters with other steps and other people's
//! flows, larger blocks. A registry, no behaviour.
//!
//! They are found by [`kind`](super::kind) like the others and stand in no list of all kinds: what matters of them is how
//! a number shows in a result, not that somebody sells them.

use super::kinds::{NatKind, named, one, symmetric};
use super::spec::{NatSpec, PortAllocation};

/// Every variant.
#[must_use]
pub fn variants() -> &'static [NatKind] {
    &VARIANTS
}

static VARIANTS: [NatKind; 5] = [
    named("counter-step-2", "As symmetric-counter, two apart.", |_| {
        counter(2, 0)
    }),
    named(
        "counter-30",
        "As symmetric-counter, with thirty new flows a second of other people.",
        |_| counter(1, 30),
    ),
    named(
        "counter-100",
        "As symmetric-counter, with a hundred new flows a second of other people.",
        |_| counter(1, 100),
    ),
    named("counter-100-step-2", "The same, two apart.", |_| counter(2, 100)),
    named(
        "port-block-1024",
        "As port-block, with 1,024 ports for each subscriber.",
        |_| {
            one(NatSpec {
                ports: PortAllocation::Block { size: 1024 },
                ..symmetric()
            })
        },
    ),
];

fn counter(step: u16, foreign: u32) -> Vec<NatSpec> {
    one(NatSpec {
        ports: PortAllocation::Counter { step, foreign },
        ..symmetric()
    })
}

#[cfg(test)]
mod tests {
    use super::super::{kind, kinds};
    use super::*;

    #[test]
    fn a_variant_is_found_by_its_name_and_is_no_kind_of_its_own() {
        for variant in variants() {
            assert_eq!(kind(variant.name).map(|kind| kind.doc), Some(variant.doc));
            assert!(kinds().iter().all(|kind| kind.name != variant.name));
        }
    }
}
