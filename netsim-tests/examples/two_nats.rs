//! Two UDP sockets of anybody's software behind two NATs: do they reach each other?
//!
//! `cargo run -p knothole-netsim --example two_nats` prints what each side was seen as and who got through. The same ten
//! lines are a test in anybody's crate, with `knothole-netsim` as a dev-dependency.

#![allow(clippy::print_stdout, reason = "an example talks to whoever runs it")]

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use knothole_netsim::fabric::{HostSpec, Lab};
use knothole_netsim::nat::kind;
use knothole_netsim::netns::become_lab_root;

const SERVER: Ipv4Addr = Ipv4Addr::new(5, 5, 5, 1);

fn main() -> Result<(), Box<dyn Error>> {
    become_lab_root()?; // before any thread exists
    let nats = |name: &str| {
        kind(name)
            .map(|kind| kind.chain(&[SERVER.into()]))
            .unwrap_or_default()
    };
    let lab = Lab::builder()
        .host("server", HostSpec::public([SERVER]))
        .host(
            "a",
            HostSpec::behind(nats("port-restricted"), Ipv4Addr::new(192, 168, 1, 10)),
        )
        .host(
            "b",
            HostSpec::behind(nats("full-cone"), Ipv4Addr::new(192, 168, 2, 20)),
        )
        .build()?;
    let socket = |host: &str| -> Result<UdpSocket, Box<dyn Error>> {
        let socket = lab.host(host)?.run(|| UdpSocket::bind("0.0.0.0:4000"))??;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        Ok(socket)
    };
    let (server, a, b) = (socket("server")?, socket("a")?, socket("b")?);

    // The server tells each side where the other is, as a rendezvous server does.
    let seen = |from: &UdpSocket| -> Result<SocketAddr, Box<dyn Error>> {
        from.send_to(b"where am I?", (IpAddr::from(SERVER), 4000))?;
        Ok(server.recv_from(&mut [0; 64])?.1)
    };
    let (a_seen, b_seen) = (seen(&a)?, seen(&b)?);
    println!("a is seen as {a_seen}, b as {b_seen}");

    a.send_to(b"hello b", b_seen)?;
    b.send_to(b"hello a", a_seen)?;
    for (name, socket) in [("a", &a), ("b", &b)] {
        match socket.recv_from(&mut [0; 64]) {
            Ok((_, from)) => println!("{name} was reached from {from}"),
            Err(_) => println!("{name} was not reached"),
        }
    }
    println!("{:#?}", lab.stats().nats);
    Ok(())
}
