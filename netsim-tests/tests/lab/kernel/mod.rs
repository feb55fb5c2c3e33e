//! NATs that the kernel plays, over real sockets: do the rules do what the description says? Classes of behaviour in
//! `classes.rs`, ports and addresses in `choices.rs`, what only shows in special cases in `habits.rs`, lives of mappings in `lives.rs`, the ways through
//! several NATs in `ways.rs`.

mod choices;
mod classes;
mod habits;
mod lives;
mod ways;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use knothole_netsim::fabric::{HostSpec, Lab, LabBuilder, NatEngine};
use knothole_netsim::nat::NatSpec;

use crate::support::*;

const PORTS: [u16; 2] = [3478, 3479];
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 11);

/// A lab to be with the observer and a stranger, in which the kernel plays all NATs.
fn by_kernel() -> LabBuilder {
    with_server()
        .engine(NatEngine::Kernel)
        .host("str", HostSpec::public([STRANGER]))
}

/// Built, and really by the kernel.
fn built(lab: LabBuilder) -> Lab {
    let lab = lab.build().unwrap();
    let mut nats = lab.nats();
    assert!(nats.all(|(_, engine)| engine == NatEngine::Kernel));
    drop(nats);
    lab
}

/// Host a behind these NATs.
fn lab_of(chain: Vec<NatSpec>) -> Lab {
    built(by_kernel().host("a", HostSpec::behind(chain, LAN_A)))
}

/// Hosts a and b in one network behind one NAT.
fn two_inside(spec: NatSpec) -> Lab {
    let hosts = by_kernel()
        .nat("home", spec)
        .host("a", HostSpec::lan("home", LAN_A));
    built(hosts.host("b", HostSpec::lan("home", NEIGHBOUR)))
}

/// The first observing socket, and where it is.
fn server(lab: &Lab) -> (UdpSocket, SocketAddr) {
    observer(lab, 0, PORTS[0])
}

/// A socket of the observer on its address of this number.
fn observer(lab: &Lab, number: usize, port: u16) -> (UdpSocket, SocketAddr) {
    let at = SocketAddr::from((SERVERS[number], port));
    (socket(lab, "srv", SERVERS[number], port), at)
}

fn stranger(lab: &Lab) -> (UdpSocket, SocketAddr) {
    (
        socket(lab, "str", STRANGER, PORTS[0]),
        (STRANGER, PORTS[0]).into(),
    )
}

fn reaches(from: &UdpSocket, to: &UdpSocket, address: SocketAddr) -> bool {
    seen(from, to, address).is_some()
}

fn pause(time: Duration) {
    let (never, waiting) = std::sync::mpsc::channel::<()>();
    let _elapsed = waiting.recv_timeout(time);
    drop(never);
}
