//! Where two nodes are, seen from each other: at two ends of the internet, or with something in common.

use super::topology::HostId;
use crate::nat::{Families, Filtering, Hairpin, NatKind, NatSpec, Side};
use crate::oracle::{Expect, depends_on_history, expect, expect_together};

/// How the places of two nodes relate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Each behind its own NATs, with nothing in common.
    Apart,
    /// Both in the network behind the caller's NATs; the callee's kind plays no part.
    OneNetwork,
    /// Each behind its own NATs, and these in the network of one carrier, whose NAT hairpins like this.
    OneCarrier(Hairpin),
    /// As apart, but the caller's NATs stand in a carrier's network.
    BehindCarrier,
}

/// Every place.
pub const PLACES: [Place; 6] = [
    Place::Apart,
    Place::OneNetwork,
    Place::OneCarrier(Hairpin::Off),
    Place::OneCarrier(Hairpin::Internal),
    Place::OneCarrier(Hairpin::External),
    Place::BehindCarrier,
];

impl Place {
    /// The word on command lines.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Apart => "apart",
            Self::OneNetwork => "one-network",
            Self::OneCarrier(Hairpin::Off) => "one-carrier",
            Self::OneCarrier(Hairpin::Internal) => "one-carrier-internal",
            Self::OneCarrier(Hairpin::External) => "one-carrier-hairpin",
            Self::BehindCarrier => "behind-carrier",
        }
    }

    /// The place with this word.
    #[must_use]
    pub fn named(word: &str) -> Option<Self> {
        PLACES.into_iter().find(|place| place.word() == word)
    }

    /// The NAT of the carrier, if there is one.
    pub(crate) fn carrier(self) -> Option<NatSpec> {
        let hairpin = match self {
            Self::Apart | Self::OneNetwork => return None,
            Self::OneCarrier(hairpin) => hairpin,
            Self::BehindCarrier => Hairpin::External,
        };
        // After RFC 6888, which asks for the behaviour of RFC 4787, and of its filters for the open one (REQ-7).
        Some(NatSpec {
            filtering: Filtering::EndpointIndependent,
            hairpin,
            ..NatSpec::default()
        })
    }
}

/// What is before two hosts at the moment: what the oracle is asked about.
#[derive(Clone, Debug)]
pub(super) struct Situation {
    /// The NATs that each has for itself, innermost first, and its addresses.
    pub(super) own: [Side; 2],
    /// The NATs before both of them, innermost first.
    pub(super) common: Vec<NatSpec>,
}

impl Situation {
    /// The situation of a caller and a callee of these kinds.
    pub(super) fn new(place: Place, [a, b]: [Side; 2]) -> Self {
        match (place, place.carrier()) {
            (Place::OneNetwork, _) => Self {
                own: [bare(a.families), bare(a.families)],
                common: a.nats,
            },
            (Place::OneCarrier(_), Some(carrier)) => Self {
                own: [a, b],
                common: vec![carrier],
            },
            (_, carrier) => Self {
                own: [behind(a, carrier), b],
                common: Vec::new(),
            },
        }
    }

    /// What it allows.
    pub(super) fn expect(&self) -> Expect {
        let [a, b] = &self.own;
        if self.common.is_empty() {
            expect(a, b)
        } else {
            expect_together(a, b, &self.common)
        }
    }

    /// Must a direct path come about, whatever happened before?
    pub(super) fn must_again(&self) -> bool {
        let [a, b] = &self.own;
        self.expect() == Expect::Must && !depends_on_history(a, b)
    }

    /// Each side with everything between it and the internet.
    pub(super) fn whole(&self) -> [Side; 2] {
        self.own.clone().map(|side| behind(side, self.common.clone()))
    }

    /// One of the two is elsewhere now, with nothing in common with the other any more.
    pub(super) fn moved(&mut self, side: usize, to: Side) {
        self.own = self.whole();
        self.common.clear();
        self.own[side] = to;
    }
}

/// Two hosts with the places they are at, and what they allow.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) hosts: [HostId; 2],
    pub(super) sites: [super::build::SiteId; 2],
    /// How long a packet of the server takes to each.
    pub(super) one_way: [std::time::Duration; 2],
    pub(super) situation: Situation,
}

/// The sides of two kinds, given where the server is.
pub(super) fn sides(kinds: [&NatKind; 2], servers: &[std::net::IpAddr]) -> [Side; 2] {
    kinds.map(|kind| kind.side(servers))
}

fn bare(families: Families) -> Side {
    Side {
        nats: Vec::new(),
        families,
    }
}

fn behind(mut side: Side, outer: impl IntoIterator<Item = NatSpec>) -> Side {
    side.nats.extend(outer);
    side
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::kind;

    fn expected(place: Place, a: &str, b: &str) -> Expect {
        let side = |name: &str| kind(name).unwrap().side(&[]);
        Situation::new(place, [side(a), side(b)]).expect()
    }

    #[test]
    fn words_name_places() {
        for place in PLACES {
            assert_eq!(Place::named(place.word()), Some(place));
        }
        assert_eq!(Place::named("nowhere"), None);
    }

    #[test]
    fn what_is_in_common_decides() {
        assert_eq!(expected(Place::Apart, "symmetric", "symmetric"), Expect::May);
        assert_eq!(
            expected(Place::OneNetwork, "symmetric", "symmetric"),
            Expect::Must
        );
        let homes = ["port-restricted", "port-restricted"];
        for (hairpin, expect) in [
            (Hairpin::Off, Expect::Cannot),
            (Hairpin::Internal, Expect::Cannot),
            (Hairpin::External, Expect::Must),
        ] {
            assert_eq!(expected(Place::OneCarrier(hairpin), homes[0], homes[1]), expect);
        }
        assert_eq!(expected(Place::BehindCarrier, homes[0], homes[1]), Expect::Must);
    }

    #[test]
    fn who_moves_away_has_nothing_in_common_any_more() {
        let side = |name: &str| kind(name).unwrap().side(&[]);
        let homes = [side("port-restricted"), side("port-restricted")];
        let mut situation = Situation::new(Place::OneCarrier(Hairpin::Off), homes);
        assert_eq!(situation.expect(), Expect::Cannot);
        situation.moved(0, side("symmetric"));
        assert_eq!(
            (situation.own[1].nats.len(), situation.expect()),
            (2, Expect::Likely)
        );
        situation.moved(0, side("open"));
        assert_eq!(situation.expect(), Expect::Must);
    }
}
