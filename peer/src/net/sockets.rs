//! The node's UDP sockets, one per address family, bound once and kept for the life of the node.
//!
//! They are wrapped by QUIC's own runtime object, which brings segmentation offload, receive offload, ECN and the
//! don't-fragment bit. A second handle of each lets the driver set the hop limit of a single probe.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use knothole_proto::path::SocketId;
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::Bind;

/// Kernel buffer asked for in each direction, in bytes: 30 ms at 1 Gbit/s, so that a busy scheduler loses nothing. The
/// kernel grants what its limits allow (`net.core.rmem_max`).
const BUFFER_LEN: usize = 4 * 1024 * 1024;

/// Both sockets; at least one is there.
#[derive(Debug)]
pub(crate) struct Sockets {
    v4: Option<Bound>,
    v6: Option<Bound>,
}

/// A bound socket.
#[derive(Debug)]
pub(crate) struct Bound {
    id: SocketId,
    local: SocketAddr,
    io: Arc<dyn AsyncUdpSocket>,
    raw: UdpSocket,
}

impl Sockets {
    /// Bind them. A family that this machine lacks is left out.
    ///
    /// # Errors
    /// The error of the last family tried, if none could be bound, or of a port that was asked for and is taken.
    pub(crate) fn bind(bind: Bind) -> io::Result<Self> {
        let v4 = bind.v4.map(|addr| Bound::new(SocketId::V4, addr.into()));
        let v6 = bind.v6.map(|addr| Bound::new(SocketId::V6, addr.into()));
        match (v4, v6) {
            (None, None) => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "no address family was asked for",
            )),
            (Some(Err(error)), None | Some(Err(_))) | (None, Some(Err(error))) => Err(error),
            (Some(Err(error)), _) | (_, Some(Err(error))) if error.kind() == io::ErrorKind::AddrInUse => {
                Err(error)
            }
            (v4, v6) => Ok(Self {
                v4: v4.and_then(Result::ok),
                v6: v6.and_then(Result::ok),
            }),
        }
    }

    /// The socket with this number.
    pub(crate) fn get(&self, id: SocketId) -> Option<&Bound> {
        self.all().find(|bound| bound.id == id)
    }

    /// The socket that can reach this address.
    pub(crate) fn for_family(&self, ip: IpAddr) -> Option<&Bound> {
        match ip {
            IpAddr::V4(_) => self.v4.as_ref(),
            IpAddr::V6(_) => self.v6.as_ref(),
        }
    }

    /// All sockets there are.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Bound> {
        self.v4.iter().chain(&self.v6)
    }
}

impl Bound {
    fn new(id: SocketId, addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // A smaller buffer than asked for costs speed, not function.
        let _ = socket.set_recv_buffer_size(BUFFER_LEN);
        let _ = socket.set_send_buffer_size(BUFFER_LEN);
        tracing::debug!(
            receive = socket.recv_buffer_size().unwrap_or_default(),
            send = socket.send_buffer_size().unwrap_or_default(),
            "socket buffers granted"
        );
        socket.set_nonblocking(true)?;
        socket.bind(&addr.into())?;
        let std: UdpSocket = socket.into();
        let raw = std.try_clone()?;
        Ok(Self {
            id,
            local: std.local_addr()?,
            io: TokioRuntime.wrap_udp_socket(std)?,
            raw,
        })
    }

    pub(crate) fn id(&self) -> SocketId {
        self.id
    }

    /// The address it is bound to; the IP may be unspecified, the port is real.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    pub(crate) fn io(&self) -> &Arc<dyn AsyncUdpSocket> {
        &self.io
    }

    /// Send one datagram, with this hop limit if one is given. What cannot be sent at once is lost, as UDP may.
    ///
    /// A QUIC packet that another thread sends in the same microseconds may get the low hop limit and be lost; QUIC
    /// sends it again.
    pub(crate) fn send(&self, to: SocketAddr, bytes: &[u8], ttl: Option<u8>) -> io::Result<()> {
        let Some(ttl) = ttl else {
            return self.raw.send_to(bytes, to).map(drop);
        };
        let handle = SockRef::from(&self.raw);
        if self.local.is_ipv4() {
            let before = handle.ttl_v4()?;
            handle.set_ttl_v4(ttl.into())?;
            let sent = self.raw.send_to(bytes, to);
            handle.set_ttl_v4(before)?;
            sent.map(drop)
        } else {
            let before = handle.unicast_hops_v6()?;
            handle.set_unicast_hops_v6(ttl.into())?;
            let sent = self.raw.send_to(bytes, to);
            handle.set_unicast_hops_v6(before)?;
            sent.map(drop)
        }
    }
}
