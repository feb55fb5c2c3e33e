//! How attempts to connect directly ended at a server, by what the two networks are. No address and no key is in it.

use serde::{Deserialize, Serialize};

use super::network::{Filtering, Mapping, Network, Ports};

/// Most rows of one answer: nearly all pairs of classes, of which few occur.
pub const ODDS_ROWS_MAX: usize = 64;

/// A network in one word: what decides whether two meet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NetworkClass {
    /// 0: not known.
    #[default]
    Unknown,
    /// 1: nothing is translated, and anyone may send.
    Open,
    /// 2: one port for all, and anyone may send to it.
    FullCone,
    /// 3: one port for all; any port of an address that was sent to may send to it. Also a firewall of that kind.
    AddressRestricted,
    /// 4: one port for all; only an endpoint that was sent to may send to it. Also a firewall of that kind.
    PortRestricted,
    /// 5: one port for all; who may send to it is not known.
    Cone,
    /// 6: a port for each destination, counted.
    Counter,
    /// 7: a port for each destination; the first is the inside port.
    PreserveFirst,
    /// 8: a port for each destination, from a small range.
    Block,
    /// 9: a port for each destination, random.
    Random,
    /// 10: a port for each destination; how it is chosen is not known.
    Symmetric,
}

impl NetworkClass {
    /// Every class, in the order of its number.
    pub const ALL: [Self; 11] = [
        Self::Unknown,
        Self::Open,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::Cone,
        Self::Counter,
        Self::PreserveFirst,
        Self::Block,
        Self::Random,
        Self::Symmetric,
    ];

    /// The word in machine-readable output and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Open => "open",
            Self::FullCone => "full-cone",
            Self::AddressRestricted => "address-restricted",
            Self::PortRestricted => "port-restricted",
            Self::Cone => "cone",
            Self::Counter => "counter",
            Self::PreserveFirst => "preserve-first",
            Self::Block => "block",
            Self::Random => "random",
            Self::Symmetric => "symmetric",
        }
    }

    /// A network of this class as plans see it.
    pub fn example(self) -> Network {
        let of = |mapping, filtering, ports| Network {
            mapping,
            filtering,
            ports,
            guesses: true,
            ..Network::default()
        };
        let cone = |filtering| of(Mapping::Independent, filtering, Ports::Preserving);
        let hard = |ports| of(Mapping::AddressAndPort, Filtering::AddressAndPort, ports);
        match self {
            Self::Unknown => of(Mapping::Unknown, Filtering::Unknown, Ports::Unknown),
            Self::Open => of(Mapping::None, Filtering::Independent, Ports::Preserving),
            Self::FullCone => cone(Filtering::Independent),
            Self::AddressRestricted => cone(Filtering::Address),
            Self::PortRestricted => cone(Filtering::AddressAndPort),
            Self::Cone => cone(Filtering::Unknown),
            Self::Counter => hard(Ports::Counter { step: 1, rate: 0 }),
            Self::PreserveFirst => hard(Ports::PreserveFirst { step: 0 }),
            Self::Block => hard(Ports::Block {
                low: 1024,
                high: 1535,
            }),
            Self::Random => hard(Ports::Random),
            Self::Symmetric => hard(Ports::Unknown),
        }
    }
}

impl From<&Network> for NetworkClass {
    fn from(network: &Network) -> Self {
        match (network.mapping, network.filtering, network.ports) {
            (Mapping::Unknown, ..) => Self::Unknown,
            (Mapping::None, Filtering::Independent, _) => Self::Open,
            (Mapping::Independent, Filtering::Independent, _) => Self::FullCone,
            (Mapping::None | Mapping::Independent, Filtering::Address, _) => Self::AddressRestricted,
            (Mapping::None | Mapping::Independent, Filtering::AddressAndPort, _) => Self::PortRestricted,
            (Mapping::None | Mapping::Independent, Filtering::Unknown, _) => Self::Cone,
            (Mapping::Address | Mapping::AddressAndPort, _, ports) => match ports {
                Ports::Counter { .. } => Self::Counter,
                Ports::PreserveFirst { .. } => Self::PreserveFirst,
                Ports::Block { .. } => Self::Block,
                Ports::From(_) | Ports::Random => Self::Random,
                Ports::Preserving | Ports::Unknown => Self::Symmetric,
            },
        }
    }
}

impl Network {
    /// The network in one word, for counters and events.
    pub fn class(&self) -> &'static str {
        NetworkClass::from(self).word()
    }
}

/// What came of attempts between networks of two classes, whatever the plan and whoever called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OddsRow {
    /// The two, the smaller number first.
    pub classes: [NetworkClass; 2],
    /// Rounds that were reported since the server started.
    pub attempts: u32,
    /// Those of them that found a direct path.
    pub direct: u32,
    /// Of these, half were faster, in milliseconds; 0 if there were none.
    pub median_ms: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_example_of_a_class_is_of_that_class_and_every_class_has_a_word_of_its_own() {
        let mut words: Vec<&str> = NetworkClass::ALL.iter().map(|class| class.word()).collect();
        for class in NetworkClass::ALL {
            assert_eq!(NetworkClass::from(&class.example()), class);
            assert_eq!(class.example().class(), class.word());
        }
        words.sort_unstable();
        words.dedup();
        assert_eq!(words.len(), NetworkClass::ALL.len());
        assert!(NetworkClass::ALL.is_sorted());
    }

    #[test]
    fn a_firewall_counts_as_the_filter_that_it_is_and_mapping_by_address_as_its_ports() {
        let firewall = Network {
            mapping: Mapping::None,
            ..NetworkClass::PortRestricted.example()
        };
        assert_eq!(firewall.class(), "port-restricted");
        let by_address = Network {
            mapping: Mapping::Address,
            ..NetworkClass::Random.example()
        };
        assert_eq!(by_address.class(), "random");
    }
}
