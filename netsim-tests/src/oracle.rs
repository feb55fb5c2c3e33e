//! What must come of two NATs, told from their descriptions alone.
//!
//! Every world is held against it: a simulation or a real network in which a pair that must become direct stays on the relay
//! has a bug, and so has one in which a pair that cannot becomes direct. It knows RFC 4787 behaviour and the plain
//! technique (both sides send to each other's address at once); it runs nothing.

use crate::nat::{Filtering, InputPolicy, Mapping, NatSpec, UdpPolicy};

/// What two NATs allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expect {
    /// A direct path comes about always.
    Must,
    /// It depends on luck or timing: a port is guessed, or a packet must not come too early.
    May,
    /// No direct path is possible over UDP.
    Cannot,
}

impl Expect {
    /// The word in tables and JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::May => "may",
            Self::Cannot => "cannot",
        }
    }
}

/// What the NATs in front of two hosts, innermost first, allow. The hosts are at different sites.
#[must_use]
pub fn expect(a: &[NatSpec], b: &[NatSpec]) -> Expect {
    let (a, b) = (Chain::of(a), Chain::of(b));
    if !a.udp || !b.udp {
        return Expect::Cannot;
    }
    let through = match (a.stable, b.stable) {
        (true, true) => Expect::Must,
        // The unstable side comes from a port that nobody foresaw; the stable side's filter must not mind ports.
        (true, false) if a.ports_free => Expect::Must,
        (false, true) if b.ports_free => Expect::Must,
        _ => Expect::May,
    };
    let clash = (a.clash && !a.ports_free) || (b.clash && !b.ports_free);
    if clash { through.max(Expect::May) } else { through }
}

/// What matters about the NATs in front of one host, taken together.
struct Chain {
    /// UDP passes to anywhere.
    udp: bool,
    /// Every NAT maps endpoint-independently: what the server saw is what the peer will see.
    stable: bool,
    /// No filter looks at the remote port.
    ports_free: bool,
    /// A packet that comes too early costs the port.
    clash: bool,
}

impl Chain {
    fn of(nats: &[NatSpec]) -> Self {
        Self {
            udp: nats.iter().all(|nat| nat.udp == UdpPolicy::Open),
            stable: nats.iter().all(|nat| nat.mapping == Mapping::EndpointIndependent),
            ports_free: nats
                .iter()
                .all(|nat| nat.filtering != Filtering::AddressAndPortDependent),
            clash: nats
                .iter()
                .any(|nat| nat.input == InputPolicy::AcceptConntrackClash),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::kind;

    fn of(a: &str, b: &str) -> Expect {
        let chain = |name| kind(name).unwrap().chain(&[]);
        expect(&chain(a), &chain(b))
    }

    #[test]
    fn the_table_of_the_literature_comes_out() {
        assert_eq!(of("port-restricted", "port-restricted"), Expect::Must);
        assert_eq!(of("symmetric", "address-restricted"), Expect::Must);
        assert_eq!(of("full-cone", "symmetric"), Expect::Must);
        assert_eq!(of("open", "symmetric"), Expect::Must);
        assert_eq!(of("symmetric", "port-restricted"), Expect::May);
        assert_eq!(of("symmetric", "symmetric"), Expect::May);
        assert_eq!(of("linux-input-accept", "port-restricted"), Expect::May);
        assert_eq!(of("udp-server-only", "open"), Expect::Cannot);
    }

    #[test]
    fn it_does_not_matter_which_side_is_which() {
        let kinds = crate::nat::kinds();
        for a in kinds {
            for b in kinds {
                assert_eq!(of(a.name, b.name), of(b.name, a.name), "{} {}", a.name, b.name);
            }
        }
    }
}
