//! What can be known of a network, as plain data: each fact is known, or says why it is not.
//!
//! The words are those of RFC 4787. Every enum has a `word` for programs and is read back by `from_word`, so that a driver
//! can keep what it learnt. How the facts come about stands in [`machine`](super::machine).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Something that was tested, or the reason why it was not. Never a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact<T> {
    /// It was seen.
    Known(T),
    /// It could not be seen.
    NotTestable(Obstacle),
}

impl<T: Copy> Fact<T> {
    /// The value, if it is known.
    pub fn known(&self) -> Option<T> {
        match self {
            Self::Known(value) => Some(*value),
            Self::NotTestable(_) => None,
        }
    }

    /// Why it is not known, if it is not.
    pub fn obstacle(&self) -> Option<Obstacle> {
        match self {
            Self::Known(_) => None,
            Self::NotTestable(why) => Some(*why),
        }
    }
}

/// Declares an enum whose variants each have a word, and the way back from the word.
macro_rules! words {
    ($(#[$outer:meta])* $name:ident { $($(#[$inner:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$inner])* $variant,)* }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word for programs.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// The value that this word stands for.
            pub fn from_word(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|value| value.word() == word)
            }
        }
    };
}

words! {
    /// Why a fact is not known.
    Obstacle {
        /// The test did not end.
        NotReached = "not-reached",
        /// It is not tested for this family of addresses.
        NotAsked = "not-asked",
        /// No answer came back at all.
        NoAnswer = "no-answer",
        /// The server names no other address or port of its own (RFC 5780 OTHER-ADDRESS).
        NoOtherAddress = "no-other-address",
        /// The server has one address; the question needs two.
        OneAddress = "one-address",
        /// The other address or port that the server names does not answer.
        OtherSilent = "other-silent",
        /// The server does not answer from elsewhere when asked to (RFC 5780 CHANGE-REQUEST).
        NotObeyed = "not-obeyed",
        /// Every destination sees another port, so there is no port to test with.
        NoStablePort = "no-stable-port",
        /// Nothing filters, so every packet passes and none tells anything.
        NothingFilters = "nothing-filters",
        /// There is no translation.
        NotTranslated = "not-translated",
        /// This machine has no address of that family.
        NoLocalAddress = "no-local-address",
        /// The server has no address of that family.
        NoServerAddress = "no-server-address",
        /// Too many answers were lost.
        TooLossy = "too-lossy",
        /// This machine could not open a socket.
        NoSocket = "no-socket",
        /// Its presence would show; its absence does not.
        NoSign = "no-sign",
    }
}

impl Obstacle {
    /// The sentence for people, without a full stop.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::NotReached => "the test did not end in time",
            Self::NotAsked => "it is not tested for this kind of address",
            Self::NoAnswer => "no answer came back",
            Self::NoOtherAddress => "the server names no second address or port of its own",
            Self::OneAddress => "the server has one address, and it takes two to tell",
            Self::OtherSilent => "the second address or port that the server names does not answer",
            Self::NotObeyed => "the server does not answer from elsewhere when asked to",
            Self::NoStablePort => "every destination sees another port",
            Self::NothingFilters => "nothing filters, so every packet passes",
            Self::NotTranslated => "nothing is translated",
            Self::NoLocalAddress => "this machine has no such address",
            Self::NoServerAddress => "the server has no such address",
            Self::TooLossy => "too many answers were lost",
            Self::NoSocket => "this machine could not open another socket",
            Self::NoSign => "nothing points to it, and that proves nothing",
        }
    }
}

words! {
    /// Which destinations see one socket at the same external endpoint (RFC 4787 section 4.1).
    Mapping {
        /// All of them (EIM).
        EndpointIndependent = "endpoint-independent",
        /// Those of one address (ADM).
        AddressDependent = "address-dependent",
        /// None but the very same (APDM, "symmetric").
        AddressAndPortDependent = "address-and-port-dependent",
    }
}

words! {
    /// Who may send to an external endpoint (RFC 4787 section 5).
    Filtering {
        /// Anyone (EIF).
        EndpointIndependent = "endpoint-independent",
        /// Any port of an address that was sent to (ADF).
        AddressDependent = "address-dependent",
        /// Only an endpoint that was sent to (APDF).
        AddressAndPortDependent = "address-and-port-dependent",
    }
}

/// How the external port of a new mapping is chosen (RFC 4787 section 4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocation {
    /// It is the inside port.
    Preserving,
    /// The inside port for a socket's first destination, counted ones for all others.
    PreserveFirst {
        /// Distance of two counted ports in a row; `None`: the others follow no counter.
        step: Option<i32>,
    },
    /// The one before plus a step.
    Counter {
        /// Distance of two ports in a row.
        step: i32,
        /// New mappings a second that others make behind the same box; `None`: not measured.
        rate: Option<u32>,
    },
    /// A random one inside a range of less than 8,192 ports. These bounds hold nearly all of the range; they are inferred
    /// from what was seen, whose own bounds are `seen`.
    Block {
        /// Lowest port of the range.
        low: u16,
        /// Highest port of the range.
        high: u16,
        /// Lowest and highest port that was seen.
        seen: (u16, u16),
    },
    /// A random one from this port on, half of all ports or less (32768 or 49152).
    HalfRange {
        /// The lowest.
        from: u16,
    },
    /// A random one of all.
    Random,
}

impl Allocation {
    /// The word for programs.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Preserving => "preserving",
            Self::PreserveFirst { .. } => "preserve-first",
            Self::Counter { .. } => "counter",
            Self::Block { .. } => "block",
            Self::HalfRange { .. } => "half-range",
            Self::Random => "random",
        }
    }
}

words! {
    /// What happens to a packet from inside to the own external address (RFC 4787 section 6).
    Hairpin {
        /// It comes back in with the sender's external source, as RFC 4787 REQ-9 asks.
        External = "external",
        /// It comes back in with the sender's inside source.
        Internal = "internal",
        /// It does not come back. A machine that drops packets with its own address as source (as Linux does) cannot tell
        /// this from [`Hairpin::Internal`].
        Absent = "absent",
    }
}

words! {
    /// Does a family of addresses work?
    Reach {
        /// The server answered.
        Works = "works",
        /// It was asked and did not answer.
        NoAnswer = "no-answer",
        /// This machine has no address of the family.
        NoLocalAddress = "no-local-address",
        /// The server has no address of the family, so nothing was asked.
        NoServerAddress = "no-server-address",
    }
}

/// Something that points to a carrier's NAT, or to more than one NAT on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sign {
    /// This machine itself has an address of the range that carriers use inside (RFC 6598).
    SharedLocal(IpAddr),
    /// A router on the way has one.
    SharedHop {
        /// How many hops away it is.
        ttl: u8,
        /// Its address.
        router: IpAddr,
    },
    /// A router behind the first one has a private address: another network lies between it and the internet.
    PrivateHop {
        /// How many hops away it is.
        ttl: u8,
        /// Its address.
        router: IpAddr,
    },
    /// Packets pass a filter more than one hop away, so there are two of them.
    FilterAtHop(u8),
    /// Ports come out of a block, as carriers give one to each subscriber.
    PortBlock,
    /// There are several public addresses.
    SeveralAddresses,
}

impl Sign {
    /// The word for programs.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::SharedLocal(_) => "shared-local",
            Self::SharedHop { .. } => "shared-hop",
            Self::PrivateHop { .. } => "private-hop",
            Self::FilterAtHop(_) => "filter-at-hop",
            Self::PortBlock => "port-block",
            Self::SeveralAddresses => "several-addresses",
        }
    }

    /// The sentence for people, without a full stop.
    pub fn sentence(&self) -> String {
        match self {
            Self::SharedLocal(ip) => {
                format!("this machine's own address {ip} is one that carriers use inside (RFC 6598)")
            }
            Self::SharedHop { ttl, router } => {
                format!(
                    "the router {ttl} hops away, {router}, has an address that carriers use inside (RFC 6598)"
                )
            }
            Self::PrivateHop { ttl, router } => {
                format!(
                    "the router {ttl} hops away, {router}, has a private address: there is a network behind the first one"
                )
            }
            Self::FilterAtHop(hop) => {
                format!("the outermost filter is {hop} hops away: a second NAT, or a router before it")
            }
            Self::PortBlock => {
                "ports come out of a block, as carriers give one to each subscriber".to_owned()
            }
            Self::SeveralAddresses => "there are several public addresses, as with a carrier".to_owned(),
        }
    }
}

/// What is known of one family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FamilyFacts {
    /// Does it work at all?
    pub reach: Reach,
    /// The machine's own endpoint that asked.
    pub local: Option<SocketAddr>,
    /// Where the server saw it.
    pub reflexive: Option<SocketAddr>,
    /// Is the one not the other?
    pub translated: Fact<bool>,
    /// Which destinations see the same endpoint.
    pub mapping: Fact<Mapping>,
    /// Do two ports of one address see different ones? Known more often than [`FamilyFacts::mapping`]: it takes one
    /// server address only.
    pub port_dependent: Fact<bool>,
    /// Who may send to it.
    pub filtering: Fact<Filtering>,
    /// Does another port of an address that was sent to pass? Known more often than [`FamilyFacts::filtering`].
    pub other_port_passes: Fact<bool>,
    /// Lowest time to live with which a packet opens the outermost filter (1: this machine's own).
    pub opener_ttl: Fact<u8>,
}

impl FamilyFacts {
    /// Nothing is known.
    pub const fn unknown(reach: Reach, why: Obstacle) -> Self {
        Self {
            reach,
            local: None,
            reflexive: None,
            translated: Fact::NotTestable(why),
            mapping: Fact::NotTestable(why),
            port_dependent: Fact::NotTestable(why),
            filtering: Fact::NotTestable(why),
            other_port_passes: Fact::NotTestable(why),
            opener_ttl: Fact::NotTestable(why),
        }
    }
}

words! {
    /// A network in one word, for tables. The port allocation is part of it only where it decides what can be done.
    Class {
        /// A public address, reachable by anyone.
        Open = "open",
        /// A public address behind a filter.
        Firewall = "firewall",
        /// A public address; whether something filters is not known.
        Public = "public",
        /// EIM and EIF.
        FullCone = "full-cone",
        /// EIM and ADF.
        AddressRestricted = "address-restricted",
        /// EIM and APDF.
        PortRestricted = "port-restricted",
        /// One external port for both ports of the server; what else is not known, as with a server of one address.
        Cone = "cone",
        /// ADM.
        AddressDependent = "address-dependent",
        /// APDM, ports counted.
        SymmetricCounter = "symmetric-counter",
        /// APDM, the first port kept.
        SymmetricPreserveFirst = "symmetric-preserve-first",
        /// APDM, random ports of a small range.
        PortBlock = "port-block",
        /// APDM, random ports.
        SymmetricRandom = "symmetric-random",
        /// APDM, allocation not known.
        Symmetric = "symmetric",
        /// Translated; how is not known.
        Translated = "translated",
        /// No UDP came back.
        UdpBlocked = "udp-blocked",
        /// Nothing could be asked.
        Unknown = "unknown",
    }
}

/// Everything that was learnt of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// IPv4, directly or through a translator of the network.
    pub v4: FamilyFacts,
    /// IPv6.
    pub v6: FamilyFacts,
    /// IPv4 was reached from an IPv6 address, through a translator (RFC 6146).
    pub through_nat64: bool,
    /// All public IPv4 addresses that were seen, the one seen most often first.
    pub addresses: Vec<IpAddr>,
    /// How external IPv4 ports are chosen.
    pub ports: Fact<Allocation>,
    /// Packets to the own external IPv4 address.
    pub hairpin: Fact<Hairpin>,
    /// No answer to any question within a second.
    pub udp_blocked: Fact<bool>,
    /// What points to a carrier's NAT or to several NATs.
    pub signs: Vec<Sign>,
    /// Round trip to the server, the shortest seen.
    pub rtt: Option<Duration>,
    /// Datagrams sent.
    pub packets: u16,
    /// How long it took.
    pub took: Duration,
}

impl Fingerprint {
    /// The network in one word.
    pub fn class(&self) -> Class {
        match (self.v4.reach, self.v6.reach) {
            (Reach::Works, _) => class_of(&self.v4, self.ports),
            (_, Reach::Works) => class_of(&self.v6, Fact::NotTestable(Obstacle::NotAsked)),
            _ if self.udp_blocked.known() == Some(true) => Class::UdpBlocked,
            _ => Class::Unknown,
        }
    }

    /// Could another run learn more of this network at this moment? So where tests did not end, answers were lost, or this
    /// machine lacked sockets.
    pub fn is_unfinished(&self) -> bool {
        let worth = |why: Option<Obstacle>| {
            matches!(
                why,
                Some(Obstacle::NotReached | Obstacle::TooLossy | Obstacle::NoSocket | Obstacle::NoAnswer)
            )
        };
        let family = |facts: &FamilyFacts| {
            let tests = [
                facts.mapping.obstacle(),
                facts.filtering.obstacle(),
                facts.opener_ttl.obstacle(),
            ];
            facts.reach == Reach::Works && tests.into_iter().any(worth)
        };
        let v4 =
            self.v4.reach == Reach::Works && (worth(self.ports.obstacle()) || worth(self.hairpin.obstacle()));
        v4 || family(&self.v4) || family(&self.v6)
    }

    /// Has this machine an address that others see as it is?
    pub fn public_address(&self) -> Fact<bool> {
        match (self.v4.translated, self.v6.translated) {
            (Fact::Known(false), _) | (_, Fact::Known(false)) => Fact::Known(true),
            (Fact::Known(true), _) | (_, Fact::Known(true)) => Fact::Known(false),
            (Fact::NotTestable(why), _) => Fact::NotTestable(why),
        }
    }

    /// Is there a carrier's NAT? Known only if this machine has a carrier's inside address itself, or nothing is
    /// translated; [`Fingerprint::signs`] tell what else points to one.
    pub fn carrier_nat(&self) -> Fact<bool> {
        let shared = self.signs.iter().any(|sign| matches!(sign, Sign::SharedLocal(_)));
        match self.v4.translated {
            Fact::Known(true) if shared => Fact::Known(true),
            Fact::Known(false) => Fact::Known(false),
            Fact::Known(true) => Fact::NotTestable(Obstacle::NoSign),
            Fact::NotTestable(why) => Fact::NotTestable(why),
        }
    }
}

fn class_of(facts: &FamilyFacts, ports: Fact<Allocation>) -> Class {
    if facts.translated.known() == Some(false) {
        return match facts.filtering.known() {
            Some(Filtering::EndpointIndependent) => Class::Open,
            Some(_) => Class::Firewall,
            None if facts.other_port_passes.known() == Some(false) => Class::Firewall,
            None => Class::Public,
        };
    }
    match (facts.mapping.known(), facts.filtering.known()) {
        (Some(Mapping::EndpointIndependent), Some(Filtering::EndpointIndependent)) => Class::FullCone,
        (Some(Mapping::EndpointIndependent), Some(Filtering::AddressDependent)) => Class::AddressRestricted,
        (Some(Mapping::EndpointIndependent), Some(_)) => Class::PortRestricted,
        (Some(Mapping::EndpointIndependent), None) => Class::Cone,
        (Some(Mapping::AddressDependent), _) => Class::AddressDependent,
        (Some(Mapping::AddressAndPortDependent), _) => match ports.known() {
            Some(Allocation::Counter { .. }) => Class::SymmetricCounter,
            Some(Allocation::PreserveFirst { .. }) => Class::SymmetricPreserveFirst,
            Some(Allocation::Block { .. }) => Class::PortBlock,
            Some(Allocation::Random | Allocation::HalfRange { .. }) => Class::SymmetricRandom,
            Some(Allocation::Preserving) | None => Class::Symmetric,
        },
        (None, _) if facts.port_dependent.known() == Some(false) => Class::Cone,
        (None, _) => Class::Translated,
    }
}
