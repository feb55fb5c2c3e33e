//! The node's UDP sockets: one for each address family, bound once and kept for the life of the node, and extra ones that
//! come and go with attempts to reach a peer.
//!
//! A full member is wrapped (`udp.rs`) by QUIC's own object for sockets, which brings segmentation offload, receive offload, ECN
//! and the don't-fragment bit. A second handle of each lets the driver set the hop limit of a single probe. Main sockets are full
//! members; an extra one is light (`light.rs`) until a path comes to use it, and then is promoted.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use knothole_proto::path::SocketId;
use quinn::AsyncUdpSocket;
use socket2::SockRef;

use super::light::LightSockets;
use super::to_driver::ToDriver;
use super::udp::Udp;
use super::{Bind, raw};

/// All sockets; at least one main one is there.
#[derive(Debug)]
pub(crate) struct Sockets {
    v4: Option<Bound>,
    v6: Option<Bound>,
    light: LightSockets,
    promoted: RwLock<Promoted>,
    /// How many are promoted: nobody takes the lock while there are none, which is nearly always.
    promoted_len: AtomicUsize,
}

/// Extra sockets that are full members.
pub(crate) type Promoted = Arc<[Arc<Bound>]>;

/// A full member.
#[derive(Debug)]
pub(crate) struct Bound {
    id: SocketId,
    local: SocketAddr,
    io: Arc<dyn AsyncUdpSocket>,
    raw: UdpSocket,
}

/// A full member that was looked up.
#[derive(Debug)]
pub(crate) enum Member<'a> {
    Main(&'a Bound),
    Promoted(Arc<Bound>),
}

impl Deref for Member<'_> {
    type Target = Bound;

    fn deref(&self) -> &Bound {
        match self {
            Self::Main(bound) => bound,
            Self::Promoted(bound) => bound,
        }
    }
}

impl Sockets {
    /// Bind the main ones. A family that this machine lacks is left out.
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
                light: LightSockets::default(),
                promoted: RwLock::default(),
                promoted_len: AtomicUsize::new(0),
            }),
        }
    }

    /// The main socket that can reach this address.
    pub(crate) fn for_family(&self, ip: IpAddr) -> Option<&Bound> {
        match ip {
            IpAddr::V4(_) => self.v4.as_ref(),
            IpAddr::V6(_) => self.v6.as_ref(),
        }
    }

    /// The main sockets.
    pub(crate) fn main(&self) -> impl Iterator<Item = &Bound> {
        self.v4.iter().chain(&self.v6)
    }

    /// The promoted ones at this moment.
    pub(crate) fn promoted(&self) -> Option<Promoted> {
        // What is promoted while this is asked is seen the next time: whoever promotes wakes the reader.
        if self.promoted_len.load(Ordering::Acquire) == 0 {
            return None;
        }
        Some(Arc::clone(
            &self.promoted.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    /// The full member with this number.
    pub(crate) fn get(&self, id: SocketId) -> Option<Member<'_>> {
        if let Some(bound) = self.main().find(|bound| bound.id == id) {
            return Some(Member::Main(bound));
        }
        let promoted = self.promoted()?;
        let bound = promoted.iter().find(|bound| bound.id == id)?;
        Some(Member::Promoted(Arc::clone(bound)))
    }

    /// Open an extra socket beside the main one of its family. Returns its port.
    ///
    /// # Errors
    /// Of the system, and if this node does not use that family or has a socket of that number.
    pub(crate) fn open(&self, id: SocketId, v6: bool, driver: &ToDriver) -> io::Result<u16> {
        if self.has(id) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let main = if v6 { &self.v6 } else { &self.v4 };
        let main = main.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        let local = self.light.open(id, SocketAddr::new(main.local.ip(), 0), driver)?;
        Ok(local.port())
    }

    /// Make an extra socket a full member. Is it now, and was not before?
    pub(crate) fn promote(&self, id: SocketId) -> bool {
        let Some(socket) = self.light.take(id) else {
            return false;
        };
        match Bound::wrap(id, socket) {
            Ok(bound) => {
                self.change(|all| all.push(Arc::new(bound)));
                true
            }
            Err(error) => {
                tracing::warn!(%error, "a path is lost: its socket could not be taken over");
                false
            }
        }
    }

    /// Close an extra socket. Main ones stay.
    pub(crate) fn close(&self, id: SocketId) {
        if self.light.take(id).is_none() && self.promoted().is_some() {
            self.change(|all| all.retain(|bound| bound.id != id));
        }
    }

    /// Send one datagram from any socket, with this hop limit if one is given. What cannot be sent at once is lost, as UDP
    /// may.
    ///
    /// A QUIC packet that another thread sends in the same microseconds may get the low hop limit and be lost; QUIC
    /// sends it again.
    ///
    /// # Errors
    /// Of the system, and that there is no such socket.
    pub(crate) fn send(&self, id: SocketId, to: SocketAddr, bytes: &[u8], ttl: Option<u8>) -> io::Result<()> {
        match self.get(id) {
            Some(bound) => raw::send(&bound.raw, to, bytes, ttl),
            None => self
                .light
                .send(id, to, bytes, ttl)
                .unwrap_or(Err(io::ErrorKind::NotFound.into())),
        }
    }

    fn has(&self, id: SocketId) -> bool {
        self.get(id).is_some() || self.light.has(id)
    }

    fn change(&self, edit: impl FnOnce(&mut Vec<Arc<Bound>>)) {
        let mut promoted = self.promoted.write().unwrap_or_else(PoisonError::into_inner);
        let mut all = promoted.to_vec();
        edit(&mut all);
        self.promoted_len.store(all.len(), Ordering::Release);
        *promoted = all.into();
    }
}

impl Bound {
    fn new(id: SocketId, addr: SocketAddr) -> io::Result<Self> {
        Self::wrap(id, raw::bind(addr)?.into())
    }

    fn wrap(id: SocketId, socket: UdpSocket) -> io::Result<Self> {
        raw::enlarge_buffers(SockRef::from(&socket));
        let raw = socket.try_clone()?;
        Ok(Self {
            id,
            local: socket.local_addr()?,
            io: Arc::new(Udp::new(socket)?),
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
}
