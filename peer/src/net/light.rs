//! Extra sockets while they are many and do little: they send probes and questions, and what comes in is a probe, an
//! answer, or nothing.
//!
//! All of them are watched by one thread through one poll instance of the system: a socket costs a descriptor and no task,
//! opening one is three system calls, and closing one is over when it returns. The one that a path comes to use is taken
//! out and becomes a full member (see `sockets.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use knothole_proto::addr::canonical;
use knothole_proto::path::SocketId;
use knothole_proto::wire::Kind;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};

use super::raw;
use super::to_driver::ToDriver;

/// Sockets that are told ready in one look; the others are told in the next.
const READY_AT_ONCE: usize = 128;

/// Datagrams that one socket hands over before the next one's turn, so that a flood to one does not starve the others.
const DATAGRAMS_AT_ONCE: usize = 8;

/// Room for one datagram, in bytes: one more than the longest that is used, so that a longer one shows.
const BUFFER_LEN: usize = 1501;

/// What the thread is told besides sockets; beyond any number that a socket can have.
const END: Token = Token(usize::MAX);

/// The sockets and whoever reads them.
#[derive(Debug, Default)]
pub(crate) struct LightSockets {
    open: Arc<Mutex<BTreeMap<SocketId, UdpSocket>>>,
    /// Begins with the first socket.
    watch: Mutex<Option<Watch>>,
}

/// The reading thread, which ends when this is dropped.
#[derive(Debug)]
struct Watch {
    registry: Registry,
    waker: Waker,
    ended: Arc<AtomicBool>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // Cannot fail for a poll instance that is there.
        let _ = self.waker.wake();
    }
}

impl LightSockets {
    /// Open one on a port of the system's choice. Returns where it is bound.
    ///
    /// # Errors
    /// Of the system; above all that there are no descriptors left.
    pub(crate) fn open(&self, id: SocketId, addr: SocketAddr, driver: &ToDriver) -> io::Result<SocketAddr> {
        let socket = UdpSocket::from(raw::bind(addr)?);
        let local = socket.local_addr()?;
        let mut watch = lock(&self.watch);
        let watch = match &mut *watch {
            Some(watch) => watch,
            None => watch.insert(self.begin_watch(driver)?),
        };
        let token = Token(id.0.into());
        // In the map before it is watched: the reader may look for it at once.
        let mut open = lock(&self.open);
        watch
            .registry
            .register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
        open.insert(id, socket);
        Ok(local)
    }

    /// Send one datagram; `None` if there is no such socket. What cannot be sent at once is lost, as UDP may.
    pub(crate) fn send(
        &self,
        id: SocketId,
        to: SocketAddr,
        bytes: &[u8],
        ttl: Option<u8>,
    ) -> Option<io::Result<()>> {
        let open = lock(&self.open);
        open.get(&id).map(|socket| raw::send(socket, to, bytes, ttl))
    }

    pub(crate) fn has(&self, id: SocketId) -> bool {
        lock(&self.open).contains_key(&id)
    }

    /// Take one out: nothing of it is read here from now on. Dropping it closes it.
    pub(crate) fn take(&self, id: SocketId) -> Option<UdpSocket> {
        let socket = lock(&self.open).remove(&id)?;
        if let Some(watch) = &*lock(&self.watch) {
            // Fails only for what is not registered.
            let _ = watch.registry.deregister(&mut SourceFd(&socket.as_raw_fd()));
        }
        Some(socket)
    }

    fn begin_watch(&self, driver: &ToDriver) -> io::Result<Watch> {
        let poll = Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = Waker::new(&registry, END)?;
        let ended = Arc::<AtomicBool>::default();
        let reader = Reader {
            open: Arc::clone(&self.open),
            driver: driver.clone(),
            ended: Arc::clone(&ended),
            ready: VecDeque::new(),
        };
        std::thread::Builder::new()
            .name("knothole-sockets".to_owned())
            .spawn(move || reader.run(poll))?;
        Ok(Watch {
            registry,
            waker,
            ended,
        })
    }
}

/// What the thread does.
struct Reader {
    open: Arc<Mutex<BTreeMap<SocketId, UdpSocket>>>,
    driver: ToDriver,
    ended: Arc<AtomicBool>,
    /// Those that may hold more: the system tells when something comes, and not again.
    ready: VecDeque<SocketId>,
}

impl Reader {
    fn run(mut self, mut poll: Poll) {
        let mut events = Events::with_capacity(READY_AT_ONCE);
        while !self.ended.load(Ordering::Acquire) {
            let patience = (!self.ready.is_empty()).then_some(Duration::ZERO);
            match poll.poll(&mut events, patience) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::warn!(%error, "extra sockets cannot be read any more");
                    return;
                }
            }
            let told = events
                .iter()
                .filter_map(|event| u16::try_from(event.token().0).ok());
            for id in told.map(SocketId) {
                if !self.ready.contains(&id) {
                    self.ready.push_back(id);
                }
            }
            self.read_ready();
        }
    }

    /// Each of those that are ready once.
    fn read_ready(&mut self) {
        let mut buffer = [0; BUFFER_LEN];
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop_front() else { return };
            let open = lock(&self.open);
            let Some(socket) = open.get(&id) else { continue };
            if self.read(id, socket, &mut buffer) {
                self.ready.push_back(id);
            }
        }
    }

    /// May there be more?
    fn read(&self, id: SocketId, socket: &UdpSocket, buffer: &mut [u8]) -> bool {
        for _ in 0..DATAGRAMS_AT_ONCE {
            match socket.recv_from(buffer) {
                Ok((len, from)) => {
                    let datagram = buffer.get(..len).unwrap_or_default();
                    match Kind::of(datagram) {
                        Kind::Stun | Kind::Probe => self.driver.offer(id, canonical(from), datagram),
                        Kind::Quic | Kind::Relay | Kind::Unknown => self.driver.refuse(),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                // That of one datagram that was sent before; reading it has cleared it.
                Err(_) => {}
            }
        }
        true
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
