//! What must come of two NATs, told from their descriptions alone.
//!
//! Every world is held against it: a simulation or a real network in which a pair that must become direct stays on the relay
//! has a bug, and so has one in which a pair that cannot becomes direct. It knows RFC 4787 behaviour, the plain
//! technique (both sides send to each other's address at once, and answer to where packets come from), fresh ports in a
//! second round, and what can be foreseen or guessed of ports; it runs nothing.

mod ports;

use std::net::IpAddr;
use std::time::Duration;

use crate::nat::{
    Families, FilterScope, Filtering, Hairpin, InputPolicy, Ipv6, Mapping, NatKind, NatSpec, Pooling, Side,
    UdpPolicy, kind, kinds,
};

/// Longest silence towards the server that a node allows itself, with room for a lost packet. A NAT that forgets
/// sooner may show the peer an address that is no longer there.
const LONGEST_SILENCE: Duration = Duration::from_secs(16);

/// What two NATs allow. Ordered from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Expect {
    /// A direct path comes about always: at once, or with fresh ports in a second round.
    Must,
    /// More than the plain technique makes it direct in at least 97 of 100 attempts: ports are counted, or guessed in a block
    /// or among all.
    Likely,
    /// It depends on luck or timing: a packet must not come too early, an address is to be translated, a port would have to be
    /// guessed on both sides.
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
            Self::Likely => "likely",
            Self::May => "may",
            Self::Cannot => "cannot",
        }
    }
}

/// Share of the attempts of a [`Expect::Likely`] pair that may stay on the relay.
const MISSES: f64 = 0.03;

/// How unlikely a number of misses must be before it is taken for a fault: less than once in all cells of a hundred matrices.
const UNLIKELY: f64 = 1e-6;

/// Are there more misses among so many attempts of a [`Expect::Likely`] pair than chance explains?
#[must_use]
pub fn misses_too_often(runs: u32, misses: u32) -> bool {
    // The binomial distribution, term by term; by logarithms, because the first terms of a long series are too small for a float.
    let (mut term, mut below) = (f64::from(runs) * (1.0 - MISSES).ln(), 0.0);
    for count in 0..misses {
        below += term.exp();
        term += (f64::from(runs - count) / f64::from(count + 1) * MISSES / (1.0 - MISSES)).ln();
    }
    1.0 - below < UNLIKELY
}

/// What the NATs in front of two hosts at different sites allow.
#[must_use]
pub fn expect(a: &Side, b: &Side) -> Expect {
    let mut best = Expect::Cannot;
    if a.families.v4 && b.families.v4 {
        best = best.min(over_v4(&a.nats, &b.nats));
    }
    if a.families.v6 && b.families.v6 {
        best = best.min(over_v6(&a.nats, &b.nats));
    }
    if translated(a, b) || translated(b, a) {
        best = best.min(Expect::May);
    }
    best
}

/// The kinds that the plain technique opens in every pair among them: both sides send to each other's address at once.
pub fn easy_kinds() -> impl Iterator<Item = &'static NatKind> {
    // Two boxes that are stable and forget nothing; whatever meets both of them meets everything that does so.
    let plain = ["port-restricted", "address-restricted"].map(|name| kind(name).map(|kind| kind.side(&[])));
    kinds().iter().filter(move |kind| {
        let side = kind.side(&[]);
        let meets = |other: &Side| plainly(&side, other);
        plain.iter().flatten().all(meets) && meets(&side)
    })
}

/// Does a kind let in a peer whose port nobody foresees?
#[must_use]
pub fn easy_to_unforeseen(kind: &NatKind) -> bool {
    let random = super::nat::kind("symmetric").map(|random| random.side(&[]));
    random.is_some_and(|random| plainly(&kind.side(&[]), &random))
}

/// Does the plain technique open the two?
fn plainly(a: &Side, b: &Side) -> bool {
    let early = [a, b].map(|side| side.families.v4 && Chain::of(&side.nats).early);
    expect(a, b) == Expect::Must && !early.contains(&true)
}

/// What two hosts allow that have the NATs `common` in front of them together, innermost first, and behind these each
/// its own. With no NAT of its own on either side they are on one network.
#[must_use]
pub fn expect_together(a: &Side, b: &Side, common: &[NatSpec]) -> Expect {
    let Some(meeting) = common.first() else {
        return expect(a, b);
    };
    // IPv6 is routed inside the common NAT, and meets only the firewalls that each has for itself.
    let v6 = if a.families.v6 && b.families.v6 {
        over_v6(&a.nats, &b.nats)
    } else {
        Expect::Cannot
    };
    v6.min(together_over_v4(a, b, meeting))
}

/// The same over IPv4, or by way of a translator.
fn together_over_v4(a: &Side, b: &Side, meeting: &NatSpec) -> Expect {
    // Inside the common NAT each knows the other's private address, which is of use where that is not hidden again.
    let inside = if a.nats.is_empty() || b.nats.is_empty() {
        expect(a, b)
    } else {
        Expect::Cannot
    };
    let with = |side: &Side| {
        let nats = side.nats.iter().chain([meeting]).cloned().collect();
        let families = Families {
            v6: false,
            ..side.families
        };
        Side { nats, families }
    };
    let open = |side: &Side| {
        side.nats
            .iter()
            .all(|nat| nat.filtering == Filtering::EndpointIndependent)
    };
    let by_hairpin = match meeting.hairpin {
        Hairpin::External => expect(&with(a), &with(b)),
        // The source is one that nobody has sent to, so the homes must be open. It is also one that neither the server
        // nor the peer has named: whoever is heard from there is asked a few times and not answered, lest a stranger who
        // sends copies from an address of his choice aim the answers. Then it depends on whose question echoes which.
        Hairpin::Internal if open(a) && open(b) => expect(&with(a), &with(b)).max(Expect::May),
        Hairpin::Internal | Hairpin::Off => Expect::Cannot,
    };
    inside.min(by_hairpin)
}

/// Does it matter, beyond what [`expect`] says, what the two have sent before?
///
/// Where both map by destination, one that lets anybody in answers from the port that was sent to, because the answer
/// belongs to the session that came in. After a change it may have tried the peer's old endpoint first; that made a
/// mapping of its own, from which the answers come now, and which the peer's filter does not know. And where a packet that
/// comes too early spoils something, it takes a round to get over that.
#[must_use]
pub fn depends_on_history(a: &Side, b: &Side) -> bool {
    let both_v6 = a.families.v6 && b.families.v6;
    let [a, b] = [a, b].map(|side| Chain::of(&side.nats));
    !both_v6 && ((!a.stable && !b.stable) || a.early || b.early)
}

/// Does UDP pass between the host and the server at one of these addresses?
#[must_use]
pub fn reaches(side: &Side, servers: &[IpAddr]) -> bool {
    let usable = |ip: &IpAddr| match ip {
        IpAddr::V4(_) => side.families.v4,
        IpAddr::V6(_) => side.families.v6,
    };
    let passes = |ip: &IpAddr| side.nats.iter().all(|nat| nat.udp.allows(*ip));
    servers.iter().any(|ip| usable(ip) && passes(ip))
}

fn over_v4(a_nats: &[NatSpec], b_nats: &[NatSpec]) -> Expect {
    let (a, b) = (Chain::of(a_nats), Chain::of(b_nats));
    if !a.udp || !b.udp {
        return Expect::Cannot;
    }
    let through = match (a.stable, b.stable) {
        (true, true) => Expect::Must,
        (false, true) if b.lets_in(&a) => Expect::Must,
        (true, false) if a.lets_in(&b) => Expect::Must,
        (false, false) if a.lets_in(&b) || b.lets_in(&a) => Expect::Must,
        _ => ports::guessed([a_nats, b_nats], [a.stable, b.stable]),
    };
    // Fresh ports on both sides are ports to which nothing has come yet.
    let renewed = a.stable && b.stable && !a.bars && !b.bars;
    if ((a.early || b.early) && !renewed) || a.forgets || b.forgets {
        through.max(Expect::May)
    } else {
        through
    }
}

/// Nothing is translated; both firewalls open to the endpoints that are told.
fn over_v6(a: &[NatSpec], b: &[NatSpec]) -> Expect {
    let (a, b) = (Chain::of(a), Chain::of(b));
    if a.udp && b.udp {
        Expect::Must
    } else {
        Expect::Cannot
    }
}

/// Can an IPv6-only host reach an IPv4 host through a translator, if its node makes up the address?
fn translated(from: &Side, to: &Side) -> bool {
    let translator = from.nats.iter().any(|nat| nat.ipv6 == Ipv6::Nat64);
    let udp = Chain::of(&from.nats).udp && Chain::of(&to.nats).udp;
    translator && udp && !from.families.v4 && to.families.v4
}

/// What matters about the NATs in front of one host, taken together.
struct Chain {
    /// UDP passes to anywhere.
    udp: bool,
    /// Every NAT maps endpoint-independently: what the server saw is what the peer will see.
    stable: bool,
    /// Packets leave from the address that the server saw, if not from the port.
    fixed_address: bool,
    /// Packets from any port of an address that was sent to pass at the endpoint that the server saw.
    ports_free: bool,
    /// Packets from anywhere pass there.
    all_free: bool,
    /// A packet that comes too early spoils something.
    early: bool,
    /// What it spoils is not the port but the way of its sender.
    bars: bool,
    /// The endpoint that the server saw may be gone when it is wanted.
    forgets: bool,
}

impl Chain {
    fn of(nats: &[NatSpec]) -> Self {
        let stable = |nat: &NatSpec| nat.mapping == Mapping::EndpointIndependent;
        let all_free = |nat: &NatSpec| nat.filtering == Filtering::EndpointIndependent;
        let one_address = |nat: &NatSpec| nat.addresses <= 1 || nat.pooling == Pooling::Paired;
        let by_address = |nat: &NatSpec| {
            nat.filtering == Filtering::AddressDependent
                && (stable(nat) || nat.filter_scope == FilterScope::Endpoint)
        };
        let spoils = |nat: &NatSpec| {
            let trace = matches!(
                nat.input,
                InputPolicy::AcceptConntrackClash | InputPolicy::Blacklist { .. }
            );
            trace && !all_free(nat)
        };
        let bars = |nat: &NatSpec| matches!(nat.input, InputPolicy::Blacklist { .. }) && spoils(nat);
        let forgets = |nat: &NatSpec| nat.unreplied_timeout.min(nat.stream_timeout) < LONGEST_SILENCE;
        Self {
            udp: nats.iter().all(|nat| nat.udp == UdpPolicy::Open),
            stable: nats.iter().all(stable),
            fixed_address: nats.iter().all(|nat| stable(nat) || one_address(nat)),
            ports_free: nats.iter().all(|nat| all_free(nat) || by_address(nat)),
            all_free: nats.iter().all(all_free),
            early: nats.iter().any(spoils),
            bars: nats.iter().any(bars),
            forgets: nats.iter().any(forgets),
        }
    }

    /// Does a packet from a port that nobody foresaw pass at the endpoint that the server saw?
    fn lets_in(&self, from: &Self) -> bool {
        self.all_free || (self.ports_free && from.fixed_address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(name: &str) -> Side {
        kind(name).unwrap().side(&[])
    }

    fn of(a: &str, b: &str) -> Expect {
        expect(&side(a), &side(b))
    }

    fn behind(nats: &[NatSpec]) -> Side {
        Side {
            nats: nats.to_vec(),
            families: Families::V4,
        }
    }

    #[test]
    fn the_table_of_the_literature_comes_out() {
        assert_eq!(of("port-restricted", "port-restricted"), Expect::Must);
        assert_eq!(of("symmetric", "address-restricted"), Expect::Must);
        assert_eq!(of("full-cone", "symmetric"), Expect::Must);
        assert_eq!(of("open", "symmetric"), Expect::Must);
        assert_eq!(of("symmetric-open", "symmetric"), Expect::Must);
        assert_eq!(of("symmetric", "port-restricted"), Expect::Likely);
        assert_eq!(of("symmetric", "symmetric"), Expect::May);
        assert_eq!(of("linux-input-accept", "port-restricted"), Expect::Must);
        assert_eq!(of("linux-input-accept", "symmetric"), Expect::May);
        assert_eq!(of("blacklisting", "port-restricted"), Expect::May);
        assert_eq!(of("linux-input-reject", "port-restricted"), Expect::Must);
        assert_eq!(of("udp-server-only", "open"), Expect::Cannot);
        assert_eq!(of("udp-blocked", "open"), Expect::Cannot);
    }

    #[test]
    fn where_a_filter_remembers_decides_between_two_symmetric_nats() {
        let by_mapping = NatSpec {
            filter_scope: FilterScope::Mapping,
            ..side("symmetric-address").nats[0].clone()
        };
        assert_eq!(of("symmetric-address", "symmetric-address"), Expect::Must);
        assert_eq!(
            expect(
                &behind(std::slice::from_ref(&by_mapping)),
                &behind(std::slice::from_ref(&by_mapping))
            ),
            Expect::May
        );
    }

    #[test]
    fn a_symmetric_nat_with_changing_addresses_needs_an_open_filter() {
        let pool = NatSpec {
            addresses: 4,
            pooling: Pooling::Arbitrary,
            ..side("symmetric").nats[0].clone()
        };
        assert_eq!(
            expect(&behind(std::slice::from_ref(&pool)), &side("address-restricted")),
            Expect::May
        );
        assert_eq!(expect(&behind(&[pool]), &side("full-cone")), Expect::Must);
    }

    #[test]
    fn two_hosts_meet_in_a_family_that_both_have() {
        assert_eq!(of("ipv6-firewall", "ipv6-firewall"), Expect::Must);
        assert_eq!(of("ipv6-firewall", "dual-stack"), Expect::Must);
        assert_eq!(of("ipv6-firewall", "port-restricted"), Expect::Cannot);
        assert_eq!(of("dual-stack", "symmetric"), Expect::Likely);
        assert_eq!(of("nat64", "port-restricted"), Expect::May);
        assert_eq!(of("nat64", "ipv6-firewall"), Expect::Must);
    }

    #[test]
    fn behind_a_common_nat_it_is_the_hairpin_that_counts() {
        let (host, home) = (behind(&[]), side("port-restricted"));
        let cgn = |hairpin| {
            [NatSpec {
                hairpin,
                ..side("full-cone").nats[0].clone()
            }]
        };
        let (off, internal, external) = (cgn(Hairpin::Off), cgn(Hairpin::Internal), cgn(Hairpin::External));
        assert_eq!(expect_together(&host, &host, &off), Expect::Must);
        assert_eq!(expect_together(&host, &home, &off), Expect::Must);
        assert_eq!(expect_together(&home, &home, &off), Expect::Cannot);
        assert_eq!(expect_together(&home, &home, &internal), Expect::Cannot);
        assert_eq!(expect_together(&home, &home, &external), Expect::Must);
        let open = side("full-cone");
        assert_eq!(expect_together(&open, &open, &internal), Expect::May);
        assert_eq!(expect_together(&open, &open, &external), Expect::Must);
    }

    #[test]
    fn what_was_sent_before_matters_where_both_map_by_destination() {
        let depends = |a: &str, b: &str| depends_on_history(&side(a), &side(b));
        assert!(depends("symmetric-open", "symmetric"));
        assert!(!depends("symmetric-open", "port-restricted"));
        assert!(!depends("open", "symmetric"));
    }

    #[test]
    fn ipv6_passes_between_two_homes_of_one_carrier_whatever_it_does_with_ipv4() {
        let carrier = [NatSpec::default()];
        let (both, v6) = (side("dual-stack"), side("ipv6-firewall"));
        assert_eq!(expect_together(&both, &v6, &carrier), Expect::Must);
        assert_eq!(expect_together(&both, &both, &carrier), Expect::Must);
        let v4 = side("port-restricted");
        assert_eq!(expect_together(&both, &v4, &carrier), Expect::Cannot);
        let blocked = Side {
            nats: side("udp-blocked").nats,
            families: Families::V6,
        };
        assert_eq!(expect_together(&both, &blocked, &carrier), Expect::Cannot);
    }

    #[test]
    fn the_server_is_reached_in_a_family_of_the_host_that_the_firewall_lets_through() {
        let servers: [IpAddr; 2] = ["5.5.5.1".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let reach = |name: &str| reaches(&kind(name).unwrap().side(&servers), &servers);
        assert!(reach("port-restricted") && reach("ipv6-firewall") && reach("udp-server-only"));
        assert!(!reach("udp-blocked") && !reach("http-proxy-only"));
        assert!(!reaches(&side("ipv6-firewall"), &servers[..1]));
    }

    #[test]
    fn a_share_is_held_against_chance_and_not_against_itself() {
        assert!(!misses_too_often(1, 1), "it happens");
        assert!(!misses_too_often(20, 6) && misses_too_often(20, 8));
        assert!(!misses_too_often(1_000, 55) && misses_too_often(1_000, 70));
        assert!(!misses_too_often(100_000, 3_100) && misses_too_often(100_000, 4_000));
        assert!(!misses_too_often(0, 0));
    }

    #[test]
    fn it_does_not_matter_which_side_is_which() {
        for a in kinds() {
            for b in kinds() {
                assert_eq!(of(a.name, b.name), of(b.name, a.name), "{} {}", a.name, b.name);
            }
        }
    }

    #[test]
    fn every_pair_of_easy_kinds_must_become_direct() {
        let easy: Vec<&str> = easy_kinds().map(|kind| kind.name).collect();
        assert!(easy.len() > 8 && easy.contains(&"full-cone") && easy.contains(&"home-behind-cgn"));
        assert!(!easy.contains(&"symmetric") && !easy.contains(&"linux-input-accept"));
        for a in &easy {
            for b in &easy {
                assert_eq!(of(a, b), Expect::Must, "{a} {b}");
            }
        }
    }
}
