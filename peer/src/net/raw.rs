//! UDP sockets as the system gives them, before anything is wrapped around them.

use std::io;
use std::net::{SocketAddr, UdpSocket};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// Kernel buffer asked for in each direction, in bytes: 30 ms at 1 Gbit/s, so that a busy scheduler loses nothing. The
/// kernel grants what its limits allow (`net.core.rmem_max`).
const BUFFER_LEN: usize = 4 * 1024 * 1024;

/// A bound socket that does not block and, for IPv6, takes no IPv4.
pub(crate) fn bind(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// A bound socket with the buffers that bulk data gets, for QUIC without a path table.
pub(crate) fn bulk_socket(addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = bind(addr)?;
    enlarge_buffers(SockRef::from(&socket));
    Ok(socket.into())
}

/// Ask for buffers that bulk data needs.
pub(crate) fn enlarge_buffers(socket: SockRef<'_>) {
    // A smaller buffer than asked for costs speed, not function.
    let _ = socket.set_recv_buffer_size(BUFFER_LEN);
    let _ = socket.set_send_buffer_size(BUFFER_LEN);
    tracing::debug!(
        receive = socket.recv_buffer_size().unwrap_or_default(),
        send = socket.send_buffer_size().unwrap_or_default(),
        "socket buffers granted"
    );
}

/// Send one datagram, with this hop limit if one is given.
pub(crate) fn send(socket: &UdpSocket, to: SocketAddr, bytes: &[u8], ttl: Option<u8>) -> io::Result<()> {
    let Some(ttl) = ttl else {
        return socket.send_to(bytes, to).map(drop);
    };
    let handle = SockRef::from(socket);
    if to.is_ipv4() {
        let before = handle.ttl_v4()?;
        handle.set_ttl_v4(ttl.into())?;
        let sent = socket.send_to(bytes, to);
        handle.set_ttl_v4(before)?;
        sent.map(drop)
    } else {
        let before = handle.unicast_hops_v6()?;
        handle.set_unicast_hops_v6(ttl.into())?;
        let sent = socket.send_to(bytes, to);
        handle.set_unicast_hops_v6(before)?;
        sent.map(drop)
    }
}
