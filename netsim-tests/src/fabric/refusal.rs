//! Telling senders that their packets have ended: which router speaks, from which address, and how often. The packets
//! themselves are made in `icmp.rs`.
//!
//! * The two routers of the core are 5.5.0.1 and 5.5.0.2 (2a00:5::1 and ::2), in the order in which a packet meets
//!   them, whichever way it goes.
//!   For links that report their MTU the first of them speaks.
//! * A NAT speaks to its inside as the first address of the addressee's network: 192.168.1.1 to 192.168.1.10. Should a
//!   host have that address, it is the last but one (.254). To the outside it speaks as the external address that the
//!   packet was sent to. Under IPv6 it is ::1 of the addressee's network inside, 2a00:5:0:1:: and its number outside.
//! * Nothing is said about ICMP errors, later fragments, broadcasts and multicasts, so that nothing loops; what is said
//!   is limited for the lab as a whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::nat::{Proto, Refusal};

use super::headers::Transport;
use super::icmp::{Complaint, error, reset};
use super::network::{At, CORE, Network};
use super::packet::Packet;

/// Errors and resets that the routers of a lab send in a second, and at once after a pause. Linux limits all errors of a
/// machine to 1000 a second; more would let a flood of packets to nowhere double itself.
const RATE: u32 = 1000;
const BURST: u32 = 1000;

/// Addresses of the core: 5.5.0.1 on, 2a00:5::1 on.
const CORE_V4: Ipv4Addr = Ipv4Addr::new(5, 5, 0, 1);
const CORE_V6: Ipv6Addr = Ipv6Addr::new(0x2a00, 5, 0, 0, 0, 0, 0, 1);

/// Where the outsides of NATs have their IPv6 addresses.
const NATS_V6: Ipv6Addr = Ipv6Addr::new(0x2a00, 5, 0, 1, 0, 0, 0, 1);

/// The router that speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// The n-th router of the core.
    Core(u8),
    /// A NAT, to somebody inside.
    Inside(usize),
    /// A NAT, to somebody outside.
    Outside(usize),
    /// The router at either end of an access link.
    Provider(usize),
}

impl Network {
    /// Ends a packet and tells its sender, if that may be and the limit allows it.
    pub(super) fn complain(&mut self, packet: Packet, speaker: Speaker, complaint: Complaint, now: Instant) {
        let from = self.address_of(speaker, &packet);
        let pool = &mut self.pool;
        let answer = error(&packet, complaint, from, |length| pool.take(length));
        self.pool.give(packet.into_buffer());
        self.say(answer, speaker, now);
    }

    /// Ends a packet that a NAT refuses, and tells its sender so.
    pub(super) fn refuse(&mut self, packet: Packet, speaker: Speaker, refusal: Refusal, now: Instant) {
        let complaint = match refusal {
            Refusal::AdminProhibited => Complaint::AdminProhibited,
            Refusal::Reset if packet.transport() == Transport::Ports(Proto::Tcp) => {
                let pool = &mut self.pool;
                let answer = reset(&packet, |length| pool.take(length));
                self.pool.give(packet.into_buffer());
                return self.say(answer, speaker, now);
            }
            Refusal::PortUnreachable | Refusal::Reset => Complaint::PortUnreachable,
        };
        self.complain(packet, speaker, complaint, now);
    }

    fn say(&mut self, answer: Option<Packet>, speaker: Speaker, now: Instant) {
        let Some(answer) = answer else {
            return;
        };
        if !self.budget.take(now) {
            self.refusals.withheld += 1;
            return self.pool.give(answer.into_buffer());
        }
        self.refusals.sent += 1;
        let at = match speaker {
            Speaker::Core(_) => At::Realm(CORE),
            Speaker::Inside(nat) => At::Realm(self.nats[nat].inside),
            Speaker::Outside(nat) => self.nats[nat].way_out(),
            Speaker::Provider(access) => At::Realm(self.accesses[access].outside),
        };
        self.work.push_back((at, answer));
    }

    fn address_of(&self, speaker: Speaker, about: &Packet) -> IpAddr {
        match (speaker, about.source()) {
            (Speaker::Core(hop), IpAddr::V4(_)) => after(CORE_V4.into(), hop.into()),
            (Speaker::Core(hop), IpAddr::V6(_)) => after(CORE_V6.into(), hop.into()),
            (Speaker::Provider(_), IpAddr::V4(_)) => CORE_V4.into(),
            (Speaker::Provider(_), IpAddr::V6(_)) => CORE_V6.into(),
            (Speaker::Inside(nat), to) => self.gateway_for(nat, to),
            // A NAT is sent nothing but what is for one of its external addresses.
            (Speaker::Outside(_), IpAddr::V4(_)) => about.destination(),
            (Speaker::Outside(nat), IpAddr::V6(_)) => after(NATS_V6.into(), u16::try_from(nat).unwrap_or(0)),
        }
    }

    /// The address of a NAT in the network of a host inside.
    fn gateway_for(&self, nat: usize, host: IpAddr) -> IpAddr {
        let numbers = [1, 254];
        let candidates = numbers.map(|number| match host {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                IpAddr::from([a, b, c, number])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, d, ..] = ip.segments();
                IpAddr::from([a, b, c, d, 0, 0, 0, u16::from(number)])
            }
        });
        let routes = &self.realms[self.nats[nat].inside].routes;
        let free = candidates.iter().find(|ip| !routes.contains_key(ip));
        *free.unwrap_or(&candidates[0])
    }
}

/// The address so many after this one.
fn after(ip: IpAddr, count: u16) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => Ipv4Addr::from_bits(ip.to_bits() + u32::from(count)).into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() + u128::from(count)).into(),
    }
}

/// How much may still be said: a bucket that empties with time and is full at [`BURST`].
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// When the bucket will be empty.
    empty_at: Option<Instant>,
}

impl Budget {
    /// One more?
    fn take(&mut self, now: Instant) -> bool {
        let one = Duration::from_secs(1) / RATE;
        let empty_at = self.empty_at.map_or(now, |at| at.max(now));
        if empty_at + one > now + one * BURST {
            return false;
        }
        self.empty_at = Some(empty_at + one);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::network::{Delivery, Hop, Host, Nat, Realm};
    use super::super::packet::tests::build;
    use super::super::stats::{FabricDrop, HostStats};
    use super::*;
    use crate::nat::{Flow, NatBox, NatSpec};

    const INSIDE: &str = "192.168.1.10";
    const INSIDE_6: &str = "2a01:1::10";
    const OUTSIDE: &str = "5.5.5.1";

    /// Host 0 behind a NAT with the address 5.5.16.2, host 1 in the core.
    fn network() -> Network {
        let mut network = Network::new();
        network.realms.push(Realm {
            gateway: Some(0),
            ..Realm::default()
        });
        let external = Ipv4Addr::new(5, 5, 16, 2);
        network.nats.push(Nat {
            nat: NatBox::new(NatSpec::default(), external, 1),
            kernel: None,
            outside: CORE,
            inside: 1,
            access: None,
        });
        for (realm, ip) in [(1, INSIDE), (1, INSIDE_6), (CORE, OUTSIDE)] {
            let host = usize::from(realm == CORE);
            let hop = Hop::Host(host);
            network.realms[realm].routes.insert(ip.parse().unwrap(), hop);
        }
        network.realms[CORE].routes.insert(external.into(), Hop::Nat(0));
        for realm in [1, CORE] {
            network.hosts.push(Host {
                realm,
                access: None,
                more: Vec::new(),
                taps: Vec::new(),
                stats: HostStats::default(),
            });
        }
        network
    }

    fn packet(proto: Proto, src: &str, dst: &str, length: usize) -> Packet {
        let bytes = build(proto, src, dst, &vec![7; length], true);
        let end = bytes.len();
        Packet::parse(bytes, end).unwrap()
    }

    /// What arrives once everything has been moved on.
    fn arrivals(network: &mut Network, now: Instant) -> Vec<Delivery> {
        let mut out = Vec::new();
        network.advance(now, &mut out);
        out
    }

    #[test]
    fn a_nat_refuses_in_three_ways_to_both_sides() {
        let now = Instant::now();
        let (inside, outside) = ("192.168.1.10:5000", "5.5.5.1:443");
        let external = "5.5.16.2:5000";
        for (proto, refusal, kind, code) in [
            (Proto::Udp, Refusal::AdminProhibited, 3, 13),
            (Proto::Udp, Refusal::PortUnreachable, 3, 3),
            (Proto::Udp, Refusal::Reset, 3, 3),
            (Proto::Tcp, Refusal::AdminProhibited, 3, 13),
            (Proto::Tcp, Refusal::PortUnreachable, 3, 3),
        ] {
            for (speaker, src, dst, host, from) in [
                (Speaker::Inside(0), inside, outside, 0, "192.168.1.1"),
                (Speaker::Outside(0), outside, external, 1, "5.5.16.2"),
            ] {
                let mut network = network();
                network.refuse(packet(proto, src, dst, 5), speaker, refusal, now);
                let out = arrivals(&mut network, now);
                assert_eq!(out.len(), 1);
                assert_eq!(out[0].port, host);
                assert_eq!(out[0].packet.source(), from.parse::<IpAddr>().unwrap());
                assert_eq!(out[0].packet.transport_bytes()[..2], [kind, code]);
                assert_eq!((network.refusals.sent, network.refusals.withheld), (1, 0));
            }
        }
        let mut network = network();
        let syn = packet(Proto::Tcp, inside, outside, 0);
        network.refuse(syn, Speaker::Inside(0), Refusal::Reset, now);
        let out = arrivals(&mut network, now);
        let expected = Flow {
            proto: Proto::Tcp,
            src: outside.parse().unwrap(),
            dst: inside.parse().unwrap(),
        };
        assert_eq!(out[0].packet.flow(), Some(expected));
    }

    #[test]
    fn a_gateway_has_an_address_that_no_host_has() {
        let mut network = network();
        let about = |network: &Network, ip: &str| network.gateway_for(0, ip.parse().unwrap()).to_string();
        assert_eq!(about(&network, INSIDE), "192.168.1.1");
        assert_eq!(about(&network, INSIDE_6), "2a01:1::1");
        let first = "192.168.1.1".parse().unwrap();
        network.realms[1].routes.insert(first, Hop::Host(0));
        assert_eq!(about(&network, INSIDE), "192.168.1.254");
    }

    #[test]
    fn a_packet_from_ipv6_comes_out_as_ipv4_and_its_answer_back() {
        let now = Instant::now();
        let (inside, seen_inside) = ("[2a01:1::10]:5000", "[64:ff9b::505:501]:3478");
        let (external, server) = ("5.5.16.2:61000", "5.5.5.1:3478");
        let flow = |src: &str, dst: &str| Flow::udp(src.parse().unwrap(), dst.parse().unwrap());
        let mut network = network();
        let request = packet(Proto::Udp, inside, seen_inside, 5);
        let there = flow(external, server);
        network.forward(At::Realm(CORE), request, &there, Speaker::Inside(0), now);
        let out = arrivals(&mut network, now);
        assert_eq!((out[0].port, out[0].packet.flow()), (1, Some(there)));
        let reply = packet(Proto::Udp, server, external, 1452);
        let back = flow(seen_inside, inside);
        network.forward(At::Realm(1), reply, &back, Speaker::Outside(0), now);
        let out = arrivals(&mut network, now);
        assert_eq!((out[0].port, out[0].packet.flow()), (0, Some(back)));
        assert_eq!(out[0].packet.ip().len(), 1500);
    }

    #[test]
    fn what_is_too_long_for_ipv6_is_reported_with_the_limit() {
        let now = Instant::now();
        let mut network = network();
        let reply = packet(Proto::Udp, "5.5.5.1:3478", "5.5.16.2:61000", 1453);
        let back = Flow::udp(
            "[64:ff9b::505:501]:3478".parse().unwrap(),
            "[2a01:1::10]:5000".parse().unwrap(),
        );
        network.forward(At::Realm(1), reply, &back, Speaker::Outside(0), now);
        let out = arrivals(&mut network, now);
        assert_eq!(out[0].port, 1);
        let message = &out[0].packet.transport_bytes()[..8];
        assert_eq!((&message[..2], &message[6..]), (&[3, 4][..], &[0x05, 0xc8][..]));
        assert_eq!(
            network.drops().find(|(reason, _)| *reason == FabricDrop::TooBig),
            Some((FabricDrop::TooBig, 1))
        );
    }

    #[test]
    fn a_flood_is_answered_at_the_rate_and_not_faster() {
        let start = Instant::now();
        let mut budget = Budget::default();
        let mut said = |at: Duration| (0..10_000).filter(|_| budget.take(start + at)).count();
        assert_eq!(said(Duration::ZERO), 1000);
        assert_eq!(said(Duration::from_millis(1)), 1);
        assert_eq!(said(Duration::from_millis(501)), 500);
        // A long pause earns one burst, not more.
        assert_eq!(said(Duration::from_secs(100)), 1000);
        assert_eq!(said(Duration::from_secs(100)), 0);
    }
}
