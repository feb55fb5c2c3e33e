//! The Linux conntrack clash over real links: packets that come before our own first one (`reference/netsim.md`
//! section 5).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use knothole_netsim::fabric::{HostSpec, Lab, NatEngine};
use knothole_netsim::link::LinkSpec;

use crate::support::*;

const ONE_WAY: Duration = Duration::from_millis(60);
const RETRANSMISSION: Duration = Duration::from_millis(5);

/// Do two hosts meet that both send every few milliseconds, the second one beginning `skew` after the first?
fn punch(engine: NatEngine, kind: &str, skew: Duration) -> bool {
    let half = LinkSpec::delay(ONE_WAY / 2);
    let lab = Lab::builder()
        .engine(engine)
        .host("a", HostSpec::behind(chain(kind), LAN_A))
        .host("b", HostSpec::behind(chain(kind), LAN_B))
        .link("a", half)
        .link("b", half)
        .build()
        .unwrap();
    let (a, b) = (socket(&lab, "a", LAN_A, 5000), socket(&lab, "b", LAN_B, 6000));
    for socket in [&a, &b] {
        socket.set_read_timeout(Some(RETRANSMISSION)).unwrap();
    }
    let to_a = SocketAddr::new(lab.host("a").unwrap().public_ip(), 5000);
    let to_b = SocketAddr::new(lab.host("b").unwrap().public_ip(), 6000);
    let start = Instant::now();
    let mut met = (false, false);
    while start.elapsed() < skew + Duration::from_millis(400) && met != (true, true) {
        a.send_to(b"a", to_b).unwrap();
        if start.elapsed() >= skew {
            b.send_to(b"b", to_a).unwrap();
        }
        met.0 |= source_of(&a, b"b").is_some();
        met.1 |= source_of(&b, b"a").is_some();
    }
    met == (true, true)
}

#[test]
fn punching_two_linux_nats_fails_exactly_when_the_skew_exceeds_the_one_way_delay() {
    if !possible() {
        return;
    }
    let _quiet = quiet();
    skewed(NatEngine::Model);
}

#[test]
fn so_does_punching_two_nats_that_the_kernel_plays() {
    if !kernel_possible() {
        return;
    }
    let _quiet = quiet();
    skewed(NatEngine::Kernel);
}

fn skewed(engine: NatEngine) {
    assert!(punch(engine, "linux-input-accept", Duration::ZERO));
    assert!(punch(engine, "linux-input-accept", ONE_WAY / 3));
    assert!(!punch(engine, "linux-input-accept", ONE_WAY * 3));
    assert!(
        punch(engine, "port-restricted", ONE_WAY * 3),
        "with INPUT drop the skew does not matter"
    );
}
