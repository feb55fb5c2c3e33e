//! Any description, any packets: what must hold whatever happens.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use super::*;

/// Boxes that are tried, and packets at each.
const BOXES: u64 = 400;
const PACKETS: usize = 600;

/// Longer than any life in a random description, and than that of a TCP connection.
const FOREVER: Duration = Duration::from_secs(3 * 3600);

struct Dice(ChaCha8Rng);

impl Dice {
    fn below(&mut self, sides: u32) -> u32 {
        self.0.next_u32() % sides
    }

    fn one_of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(u32::try_from(choices.len()).unwrap()) as usize].clone()
    }

    fn seconds(&mut self, below: u32) -> Duration {
        SECOND * self.below(below)
    }

    fn port(&mut self) -> u16 {
        // Few, so that they collide.
        self.one_of(&[80, 443, 5000, 5001, 6000, 65_535])
    }

    fn host(&mut self) -> SocketAddr {
        let (low, port) = (1 + self.below(5), self.port());
        let ip = if self.below(3) == 0 {
            IpAddr::V6(Ipv6Addr::new(
                0x2a01,
                0,
                0,
                0,
                0,
                0,
                0,
                u16::try_from(low).unwrap(),
            ))
        } else {
            IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + low))
        };
        SocketAddr::new(ip, port)
    }

    /// Somebody whom `host` may send to: outside, in the prefix, or the box itself.
    fn remote(&mut self, host: SocketAddr) -> SocketAddr {
        let low = self.below(3);
        let v4 = match self.below(6) {
            0 => Ipv4Addr::from(u32::from(W) + low),
            _ => Ipv4Addr::from(0x0505_0501 + low),
        };
        let ip = match (host, self.below(2)) {
            (SocketAddr::V4(_), _) => IpAddr::V4(v4),
            (SocketAddr::V6(_), 0) => IpAddr::V6(nat64::embed(v4)),
            (SocketAddr::V6(_), _) => "2a02::20".parse().unwrap(),
        };
        SocketAddr::new(ip, self.port())
    }

    fn spec(&mut self) -> NatSpec {
        use {Filtering as F, Mapping as M};
        let life = self.seconds(5);
        NatSpec {
            mapping: self.one_of(&[
                M::EndpointIndependent,
                M::AddressDependent,
                M::AddressAndPortDependent,
            ]),
            filtering: self.one_of(&[
                F::EndpointIndependent,
                F::AddressDependent,
                F::AddressAndPortDependent,
            ]),
            filter_scope: self.one_of(&[FilterScope::Mapping, FilterScope::Endpoint]),
            ports: self.ports(),
            addresses: self.one_of(&[0, 1, 2, 3]),
            pooling: self.one_of(&[Pooling::Paired, Pooling::Arbitrary]),
            hairpin: self.one_of(&[Hairpin::Off, Hairpin::Internal, Hairpin::External]),
            unreplied_timeout: self.seconds(31),
            stream_timeout: self.seconds(121),
            absolute_timeout: self.one_of(&[None, Some(5 * SECOND), Some(90 * SECOND)]),
            inbound_refresh: self.below(2) == 0,
            table_size: self.one_of(&[0, 1, 5, 30, 65_535]),
            input: self.one_of(&[
                InputPolicy::Drop,
                InputPolicy::Reject(Refusal::PortUnreachable),
                InputPolicy::AcceptConntrackClash,
                InputPolicy::Blacklist {
                    life,
                    refreshed: true,
                },
                InputPolicy::Blacklist {
                    life,
                    refreshed: false,
                },
            ]),
            udp: self.one_of(&[
                UdpPolicy::Open,
                UdpPolicy::Open,
                UdpPolicy::Open,
                UdpPolicy::OnlyTo(["5.5.5.1".parse().unwrap()].into()),
                UdpPolicy::Blocked(Some(Refusal::AdminProhibited)),
            ]),
            tcp: self.one_of(&[
                TcpPolicy::Open,
                TcpPolicy::OnlyPort(443),
                TcpPolicy::OnlyTo(PROXY),
            ]),
            ipv6: self.one_of(&[Ipv6::Firewall, Ipv6::Open, Ipv6::Nat64]),
        }
    }

    fn ports(&mut self) -> PortAllocation {
        use PortAllocation as P;
        let step = self.one_of(&[0, 1, 2, 1000, u16::MAX]);
        let foreign = self.one_of(&[0, 1, 30, 100_000]);
        let size = self.one_of(&[0, 1, 4, 512, 32_768, u16::MAX]);
        self.one_of(&[
            P::Preserving,
            P::Random,
            P::Counter { step, foreign },
            P::Block { size },
            P::PreserveThenCounter { step },
        ])
    }
}

/// What the host inside sent and how it left, as far as the box must still know it.
type Sent = BTreeMap<(Proto, SocketAddr, SocketAddr), (SocketAddr, Instant)>;

fn check_box(nat: &NatBox) {
    nat.tables.assert_consistent();
    let stats = nat.stats();
    let entries = stats.sessions + stats.unsolicited;
    assert!(entries <= nat.spec().table_size && stats.peak_entries <= nat.spec().table_size);
}

/// Does what leaves with this source leave with one that the box may give?
fn check_source(nat: &NatBox, inside: SocketAddr, external: SocketAddr, to: SocketAddr) {
    if to.is_ipv6() {
        return assert_eq!(external, inside, "IPv6 keeps its addresses");
    }
    let known = nat.externals().any(|ip| IpAddr::V4(ip) == external.ip());
    assert!(known && external.port() != 0, "{external}");
}

/// An answer from where a packet just went.
fn check_answer(nat: &mut NatBox, inside: Flow, outside: Flow, now: Instant) {
    let answer = Flow {
        src: outside.dst,
        dst: outside.src,
        ..outside
    };
    match nat.inbound(answer, now) {
        Verdict::Forward(back) => {
            assert_eq!((back.src, back.dst), (inside.dst, inside.src), "{:?}", nat.spec());
        }
        Verdict::Drop(DropReason::Barred) => {
            assert!(matches!(nat.spec().input, InputPolicy::Blacklist { .. }));
        }
        other => panic!(
            "{other:?} for the answer to {inside:?} from {outside:?} at {:?}",
            nat.spec()
        ),
    }
}

/// Every flow that no timer can have ended yet is where it was: no two of one protocol share an external endpoint.
fn check_sent(nat: &NatBox, sent: &mut Sent, now: Instant) {
    let spec = nat.spec();
    let shortest = spec.unreplied_timeout.min(spec.stream_timeout);
    let life = spec.absolute_timeout.unwrap_or(shortest).min(shortest);
    sent.retain(|_, (_, at)| *at + life > now);
    let mut owners = BTreeMap::new();
    for ((proto, inside, _), (external, _)) in &*sent {
        let owner = owners.entry((*proto, *external)).or_insert(*inside);
        assert_eq!(owner, inside, "two inside endpoints share {external}: {spec:?}");
    }
}

/// A packet from inside, and the answer to it.
fn send_out(nat: &mut NatBox, flow: Flow, sent: &mut Sent, now: Instant) -> Verdict {
    let verdict = nat.outbound(flow, now);
    if let Verdict::Forward(out) = verdict {
        check_source(nat, flow.src, out.src, out.dst);
        if !out.dst.is_ipv6() {
            sent.insert((flow.proto, flow.src, flow.dst), (out.src, now));
        }
        // With a life of nothing there is no time to answer.
        if flow.proto != Proto::Udp || !nat.spec().unreplied_timeout.is_zero() {
            check_answer(nat, flow, out, now);
        }
    }
    verdict
}

/// Where a packet from outside may go: to a mapping, or to any port of an address that may be the box's.
fn target(dice: &mut Dice, sent: &Sent) -> SocketAddr {
    let any = SocketAddr::new(Ipv4Addr::from(u32::from(W) + dice.below(3)).into(), dice.port());
    let known = sent.values().nth(dice.below(8) as usize);
    known.map_or(any, |(external, _)| *external)
}

/// ICMP errors about a packet, real or made up.
fn send_errors(nat: &mut NatBox, quoted: Flow, now: Instant) {
    let before = nat.stats().sessions;
    let about = (nat.inbound_error(quoted, now), nat.outbound_error(quoted, now));
    assert!(
        nat.stats().sessions <= before,
        "an error made a session: {about:?}"
    );
}

fn play(seed: u64) -> Vec<Verdict> {
    let mut dice = Dice(ChaCha8Rng::seed_from_u64(seed));
    let mut nat = NatBox::new(dice.spec(), W, seed);
    let start = Instant::now();
    let (mut now, mut sent, mut verdicts) = (start, Sent::new(), Vec::new());
    for _ in 0..PACKETS {
        let waits = [
            Duration::ZERO,
            Duration::from_millis(40),
            SECOND,
            dice.seconds(60),
        ];
        now += dice.one_of(&waits);
        let proto = dice.one_of(&[Proto::Udp, Proto::Udp, Proto::Udp, Proto::Tcp, Proto::Icmp]);
        let src = dice.host();
        let dst = dice.remote(src);
        let flow = Flow { proto, src, dst };
        match dice.below(8) {
            0..4 => verdicts.push(send_out(&mut nat, flow, &mut sent, now)),
            4..7 => {
                let src = dice.remote(at("10.0.0.1:1"));
                let dst = target(&mut dice, &sent);
                verdicts.push(nat.inbound(Flow { proto, src, dst }, now));
            }
            _ => send_errors(&mut nat, flow, now),
        }
        check_box(&nat);
        check_sent(&nat, &mut sent, now);
    }
    nat.tables.expire(now + FOREVER);
    check_box(&nat);
    let stats = nat.stats();
    assert_eq!((stats.sessions, stats.mappings, stats.unsolicited), (0, 0, 0));
    verdicts
}

#[test]
fn whatever_the_description_and_the_packets_the_tables_hold_and_answers_come_back() {
    let mut seen = BTreeMap::new();
    for seed in 0..BOXES {
        for verdict in play(seed) {
            let what = match verdict {
                Verdict::Forward(_) => "forward",
                Verdict::Hairpin(_) => "hairpin",
                Verdict::Drop(reason) => reason.name(),
                Verdict::Reject(..) => "reject",
            };
            *seen.entry(what).or_insert(0) += 1;
        }
    }
    // The packets must be such that everything happens.
    let reasons = DropReason::ALL.map(DropReason::name);
    let missing: Vec<_> = reasons
        .into_iter()
        .chain(["forward", "hairpin", "reject"])
        .filter(|what| !seen.contains_key(what))
        .collect();
    assert!(missing.is_empty(), "never seen: {missing:?} in {seen:?}");
}

#[test]
fn the_same_seed_and_packets_give_the_same_verdicts() {
    for seed in 0..20 {
        assert_eq!(play(seed), play(seed));
    }
}
