//! Sockets inside labs, and waiting for packets.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use knothole_netsim::fabric::{HostSpec, Lab, LabBuilder};
use knothole_netsim::nat::{NatSpec, kind};
use knothole_netsim::netns;

/// The two addresses of the observer and the address of a host that nobody has sent to.
pub(crate) const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(5, 5, 5, 1), Ipv4Addr::new(5, 5, 5, 2)];
pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(5, 5, 6, 1);
pub(crate) const LAN_A: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
pub(crate) const LAN_B: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 20);

/// Long enough for a packet to cross a lab on a busy machine, short enough to wait for what must not come.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

/// Can this machine run a lab? Says why if not.
pub(crate) fn possible() -> bool {
    match netns::probe() {
        Ok(_) => true,
        Err(error) => {
            assert!(
                std::env::var("CI").as_deref() != Ok("true"),
                "the lab must run here: {error}"
            );
            println!("skipped: {error}");
            false
        }
    }
}

/// Is this program installed? Says so if not.
pub(crate) fn installed(program: &str, is: bool) -> bool {
    if !is {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "{program} must be installed here"
        );
        println!("skipped: {program} is not installed");
    }
    is
}

/// Can the kernel of this machine play NATs? Says why if not.
pub(crate) fn kernel_possible() -> bool {
    let reason = match netns::probe() {
        Ok(probe) => probe.kernel_nat.err(),
        Err(error) => Some(error.to_string()),
    };
    let Some(reason) = reason else {
        return true;
    };
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "the kernel's NATs must run here: {reason}"
    );
    println!("skipped: {reason}");
    false
}

/// Taken by tests that measure time, and by those that load the machine, so that they do not measure each other.
pub(crate) fn quiet() -> MutexGuard<'static, ()> {
    static QUIET: Mutex<()> = Mutex::new(());
    QUIET.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lab to be, with the observer `srv`.
pub(crate) fn with_server() -> LabBuilder {
    Lab::builder().host("srv", HostSpec::public(SERVERS))
}

pub(crate) fn chain(name: &str) -> Vec<NatSpec> {
    let servers = SERVERS.map(IpAddr::from);
    kind(name).expect("a known kind").chain(&servers)
}

/// A UDP socket of a host on this address and port; 0.0.0.0 and 0 as usual.
pub(crate) fn socket(lab: &Lab, host: &str, ip: impl Into<IpAddr>, port: u16) -> UdpSocket {
    let address = SocketAddr::new(ip.into(), port);
    let socket = lab
        .host(host)
        .unwrap()
        .run(|| UdpSocket::bind(address))
        .unwrap()
        .unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) fn any(lab: &Lab, host: &str) -> UdpSocket {
    socket(lab, host, Ipv4Addr::UNSPECIFIED, 0)
}

/// The source of the next packet with this content, or `None` within [`PATIENCE`]. Others are passed over.
pub(crate) fn source_of(socket: &UdpSocket, content: &[u8]) -> Option<SocketAddr> {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) if buffer[..length] == *content => return Some(from),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return None,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends from one socket to another and gives the source that the other saw.
pub(crate) fn seen(from: &UdpSocket, to: &UdpSocket, address: SocketAddr) -> Option<SocketAddr> {
    let content = format!("{:?} to {address}", from.local_addr().unwrap());
    from.send_to(content.as_bytes(), address).unwrap();
    source_of(to, content.as_bytes())
}
