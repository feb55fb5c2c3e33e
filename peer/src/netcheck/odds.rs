//! With whom will this network connect directly? What the server counted where it did, and what the plan for the two
//! networks lets expect.

use knothole_proto::fingerprint::{Class, Fact, Filtering, Fingerprint};
use knothole_proto::plan::{Plan, plan};
use knothole_proto::wire::{NetworkClass, OddsRow};

/// What the plan lets expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A direct path.
    Direct,
    /// A direct path nearly always, after ports were counted or guessed, or taken anew.
    Guess,
    /// The relay.
    Relay,
    /// Nothing: too little is known.
    Unknown,
}

impl Expected {
    /// The word for programs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Guess => "guess",
            Self::Relay => "relay",
            Self::Unknown => "unknown",
        }
    }

    /// The words for people.
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Guess => "direct nearly always, once its port is found",
            Self::Relay => "the relay",
            Self::Unknown => "not known",
        }
    }
}

/// What to expect with networks of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Odds {
    /// The other side's network.
    pub with: NetworkClass,
    /// How a first attempt would go about it.
    pub plan: Plan,
    /// What it lets expect.
    pub expected: Expected,
    /// What came of it at the server; `None` if it has counted nothing.
    pub counted: Option<OddsRow>,
}

/// What to expect with networks of each class that is known; nothing if this network is not.
pub fn odds(fingerprint: &Fingerprint, counted: &[OddsRow]) -> Vec<Odds> {
    let own = class(fingerprint);
    if own == NetworkClass::Unknown {
        return Vec::new();
    }
    let others = NetworkClass::ALL
        .into_iter()
        .filter(|class| *class != NetworkClass::Unknown);
    others
        .map(|with| {
            let plan = plan([own.example(), with.example()], false, true);
            let mut pair = [own, with];
            pair.sort_unstable();
            Odds {
                with,
                plan,
                expected: expected(plan),
                counted: counted
                    .iter()
                    .copied()
                    .find(|row| row.classes == pair && row.attempts > 0),
            }
        })
        .collect()
}

fn expected(plan: Plan) -> Expected {
    match plan {
        Plan::Dial | Plan::Punch | Plan::Reverse { .. } => Expected::Direct,
        Plan::Fresh | Plan::Bracket { .. } | Plan::Block { .. } | Plan::Birthday { .. } | Plan::Steps => {
            Expected::Guess
        }
        Plan::NoGuess | Plan::Hopeless => Expected::Relay,
        _ => Expected::Unknown,
    }
}

/// This network as the server counts it.
fn class(fingerprint: &Fingerprint) -> NetworkClass {
    match fingerprint.class() {
        Class::Open => NetworkClass::Open,
        Class::FullCone => NetworkClass::FullCone,
        Class::AddressRestricted => NetworkClass::AddressRestricted,
        Class::PortRestricted => NetworkClass::PortRestricted,
        Class::Firewall if fingerprint.v4.filtering == Fact::Known(Filtering::AddressDependent) => {
            NetworkClass::AddressRestricted
        }
        Class::Firewall => NetworkClass::PortRestricted,
        Class::Public | Class::Cone => NetworkClass::Cone,
        Class::SymmetricCounter => NetworkClass::Counter,
        Class::SymmetricPreserveFirst => NetworkClass::PreserveFirst,
        Class::PortBlock => NetworkClass::Block,
        Class::SymmetricRandom => NetworkClass::Random,
        Class::AddressDependent | Class::Symmetric => ports(fingerprint),
        Class::Translated | Class::UdpBlocked | Class::Unknown => NetworkClass::Unknown,
    }
}

/// By its ports alone.
fn ports(fingerprint: &Fingerprint) -> NetworkClass {
    match fingerprint.ports.known().map(|ports| ports.word()) {
        Some("counter") => NetworkClass::Counter,
        Some("preserve-first") => NetworkClass::PreserveFirst,
        Some("block") => NetworkClass::Block,
        Some("random" | "half-range") => NetworkClass::Random,
        _ => NetworkClass::Symmetric,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use knothole_proto::fingerprint::{Allocation, FamilyFacts, Hairpin, Mapping, Obstacle, Reach};

    use super::*;

    fn behind(mapping: Mapping, filtering: Filtering, ports: Allocation) -> Fingerprint {
        let v4 = FamilyFacts {
            translated: Fact::Known(true),
            mapping: Fact::Known(mapping),
            filtering: Fact::Known(filtering),
            ..FamilyFacts::unknown(Reach::Works, Obstacle::NotReached)
        };
        Fingerprint {
            v4,
            v6: FamilyFacts::unknown(Reach::NoLocalAddress, Obstacle::NoLocalAddress),
            through_nat64: false,
            addresses: Vec::new(),
            ports: Fact::Known(ports),
            hairpin: Fact::Known(Hairpin::Absent),
            udp_blocked: Fact::Known(false),
            signs: Vec::new(),
            rtt: None,
            packets: 40,
            took: Duration::from_secs(1),
        }
    }

    fn home() -> Fingerprint {
        behind(
            Mapping::EndpointIndependent,
            Filtering::AddressAndPortDependent,
            Allocation::Preserving,
        )
    }

    fn with(odds: &[Odds], with: NetworkClass) -> Odds {
        *odds.iter().find(|odds| odds.with == with).unwrap()
    }

    #[test]
    fn without_counts_the_plan_says_what_to_expect() {
        let odds = odds(&home(), &[]);
        assert_eq!(odds.len(), NetworkClass::ALL.len() - 1);
        for (class, expected) in [
            (NetworkClass::Open, Expected::Direct),
            (NetworkClass::PortRestricted, Expected::Direct),
            (NetworkClass::Random, Expected::Guess),
            (NetworkClass::Counter, Expected::Guess),
        ] {
            assert_eq!(with(&odds, class).expected, expected, "{class:?}");
        }
        assert!(odds.iter().all(|odds| odds.counted.is_none()));
        let hard = behind(
            Mapping::AddressDependent,
            Filtering::AddressAndPortDependent,
            Allocation::Random,
        );
        assert_eq!(
            with(&super::odds(&hard, &[]), NetworkClass::Random).expected,
            Expected::Relay
        );
    }

    #[test]
    fn counts_are_those_of_this_network_whichever_number_is_smaller() {
        let row = |classes, attempts| OddsRow {
            classes,
            attempts,
            direct: attempts / 2,
            median_ms: 400,
        };
        let rows = [
            row([NetworkClass::Open, NetworkClass::PortRestricted], 10),
            row([NetworkClass::PortRestricted, NetworkClass::Random], 20),
            row([NetworkClass::Open, NetworkClass::Random], 30),
            row([NetworkClass::PortRestricted, NetworkClass::Block], 0),
        ];
        let odds = odds(&home(), &rows);
        assert_eq!(with(&odds, NetworkClass::Open).counted, Some(rows[0]));
        assert_eq!(with(&odds, NetworkClass::Random).counted, Some(rows[1]));
        assert_eq!(with(&odds, NetworkClass::Block).counted, None, "nothing counted");
        assert_eq!(with(&odds, NetworkClass::FullCone).counted, None);
    }

    #[test]
    fn nothing_is_said_of_a_network_that_is_not_known() {
        let mut unknown = home();
        unknown.v4 = FamilyFacts::unknown(Reach::Works, Obstacle::NotReached);
        assert_eq!(odds(&unknown, &[]), []);
    }
}
