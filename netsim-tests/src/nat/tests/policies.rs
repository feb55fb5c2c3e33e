//! What does not pass at all.

use super::*;

#[test]
fn udp_goes_only_where_the_policy_lets_it() {
    let udp = UdpPolicy::OnlyTo([server().ip()].into());
    let mut nat = boxed(NatSpec {
        udp,
        ..NatSpec::default()
    });
    let now = Instant::now();
    let external = send(&mut nat, inside(), server(), now);
    assert_eq!(arrives(&mut nat, server(), external, now), Ok(inside()));
    let elsewhere = Flow::udp(inside(), at("5.5.5.2:1"));
    assert_eq!(
        nat.outbound(elsewhere, now),
        Verdict::Drop(DropReason::UdpBlocked)
    );
    let tcp = Flow {
        proto: Proto::Tcp,
        ..elsewhere
    };
    assert!(
        matches!(nat.outbound(tcp, now), Verdict::Forward(_)),
        "TCP is another matter"
    );
    nat.set_udp(UdpPolicy::Blocked(None));
    assert_eq!(
        arrives(&mut nat, server(), external, now),
        Err(DropReason::UdpBlocked)
    );
    nat.set_udp(UdpPolicy::Open);
    assert!(matches!(nat.outbound(elsewhere, now), Verdict::Forward(_)));
}

fn outbound_verdict(spec: &NatSpec, proto: Proto, dst: &str) -> Verdict {
    let flow = Flow {
        proto,
        src: inside(),
        dst: at(dst),
    };
    boxed(spec.clone()).outbound(flow, Instant::now())
}

#[test]
fn blocked_packets_are_refused_as_the_firewall_refuses() {
    for refusal in [
        None,
        Some(Refusal::AdminProhibited),
        Some(Refusal::PortUnreachable),
    ] {
        let spec = NatSpec {
            udp: UdpPolicy::Blocked(refusal),
            tcp: TcpPolicy::OnlyPort(443),
            ..NatSpec::default()
        };
        let ended =
            |reason| refusal.map_or(Verdict::Drop(reason), |refusal| Verdict::Reject(reason, refusal));
        assert_eq!(
            outbound_verdict(&spec, Proto::Udp, "5.5.5.1:443"),
            ended(DropReason::UdpBlocked)
        );
        for (proto, dst) in [(Proto::Tcp, "5.5.5.1:80"), (Proto::Icmp, "5.5.5.1:0")] {
            assert_eq!(outbound_verdict(&spec, proto, dst), ended(DropReason::TcpBlocked));
        }
        let passes = outbound_verdict(&spec, Proto::Tcp, "5.5.5.1:443");
        assert!(matches!(passes, Verdict::Forward(_)), "{passes:?}");
    }
}

#[test]
fn behind_a_proxy_nothing_passes_but_tcp_to_it() {
    let spec = kind("http-proxy-only").unwrap().chain(&[]).remove(0);
    let proxy = PROXY.to_string();
    assert!(matches!(
        outbound_verdict(&spec, Proto::Tcp, &proxy),
        Verdict::Forward(_)
    ));
    for (proto, dst, reason) in [
        (Proto::Tcp, "5.5.7.1:443", DropReason::TcpBlocked),
        (Proto::Tcp, "5.5.5.1:3128", DropReason::TcpBlocked),
        (Proto::Udp, proxy.as_str(), DropReason::UdpBlocked),
        (Proto::Icmp, "5.5.7.1:0", DropReason::TcpBlocked),
    ] {
        assert_eq!(
            outbound_verdict(&spec, proto, dst),
            Verdict::Drop(reason),
            "{proto:?} {dst}"
        );
    }
}

#[test]
fn answers_of_an_allowed_tcp_flow_pass_and_nothing_else_comes_in() {
    let mut nat = boxed(NatSpec {
        tcp: TcpPolicy::OnlyPort(443),
        ..NatSpec::default()
    });
    let now = Instant::now();
    let tcp = |src, dst| Flow {
        proto: Proto::Tcp,
        src,
        dst,
    };
    let web = at("5.5.5.1:443");
    let Verdict::Forward(out) = nat.outbound(tcp(inside(), web), now) else {
        panic!("port 443 is open")
    };
    let answer = nat.inbound(tcp(web, out.src), now);
    assert_eq!(answer, Verdict::Forward(tcp(web, inside())));
    assert_eq!(
        nat.inbound(tcp(at("5.5.5.1:80"), out.src), now),
        Verdict::Drop(DropReason::TcpBlocked)
    );
    assert_eq!(
        nat.inbound(tcp(at("5.5.5.2:443"), out.src), now),
        Verdict::Drop(DropReason::Filtered)
    );
}

#[test]
fn a_firewall_looks_at_ipv6_as_at_ipv4() {
    let mut nat = boxed(NatSpec {
        udp: UdpPolicy::Blocked(Some(Refusal::AdminProhibited)),
        ..NatSpec::default()
    });
    let flow = Flow::udp(at("[2a01::10]:5000"), at("[2a02::20]:700"));
    let refused = Verdict::Reject(DropReason::UdpBlocked, Refusal::AdminProhibited);
    assert_eq!(nat.outbound(flow, Instant::now()), refused);
}
