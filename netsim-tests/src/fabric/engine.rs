//! The thread that is the wire: reads all devices, drives the [`Network`], writes what arrives. Decides
//! nothing about packets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::netns::Tun;

use super::network::{Delivery, Network};
use super::packet::{Packet, VNET_LEN};
use super::stats::FabricDrop;

/// Packets and bytes read from one device before the others get their turn. More saves system calls under load, fewer
/// let the answers of the other side through sooner: 256 KiB take the wire about 0.1 ms.
const BATCH: usize = 64;
const BATCH_BYTES: usize = 256 << 10;

/// The running wire; stops when dropped.
#[derive(Debug)]
pub(super) struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    network: Mutex<Network>,
    stop: AtomicBool,
    wake: OwnedFd,
}

impl Engine {
    /// Starts the thread. `tuns` are the devices of the network's [ports](Network::ports), in their order.
    pub(super) fn start(network: Network, tuns: Vec<Tun>) -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared {
            network: Mutex::new(network),
            stop: AtomicBool::new(false),
            wake,
        });
        let running = Arc::clone(&shared);
        let wire = move || {
            running.run(&tuns);
            close(tuns);
        };
        let thread = std::thread::Builder::new()
            .name("lab fabric".to_owned())
            .spawn(wire)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// The network, between two packets. The wire stands still while the guard lives.
    pub(super) fn network(&self) -> MutexGuard<'_, Network> {
        self.shared.network()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        // The counter cannot be full after one write, and any other failure leaves the join below to wait for traffic.
        let _full = rustix::io::write(&self.shared.wake, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

impl Shared {
    fn network(&self) -> MutexGuard<'_, Network> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, tuns: &[Tun]) {
        let fds = tuns.iter().map(|tun| tun.fd.as_fd()).chain([self.wake.as_fd()]);
        let mut polled: Vec<PollFd<'_>> = fds
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN))
            .collect();
        let mut arrived = Vec::new();
        while !self.stop.load(Ordering::Acquire) {
            let timeout = self.network().next_due().map(until);
            if let Err(error) = poll(&mut polled, timeout.as_ref())
                && error != Errno::INTR
            {
                tracing::error!(%error, "the wire cannot wait for packets and stops");
                return;
            }
            let mut network = self.network();
            for (port, tun) in tuns.iter().enumerate() {
                if polled[port].revents().contains(PollFlags::IN) {
                    read_batch(&mut network, tuns, port, tun, &mut arrived);
                }
            }
            network.run_until(Instant::now(), &mut arrived);
            deliver(&mut network, tuns, &mut arrived);
        }
    }
}

/// Closing a device takes the kernel some 30 ms of waiting (it lets all readers of its device list finish), which
/// several can do at once.
fn close(tuns: Vec<Tun>) {
    std::thread::scope(|scope| {
        for tun in tuns {
            // Without room for a thread the closure is dropped, which closes the device just as well.
            let _closing = std::thread::Builder::new().spawn_scoped(scope, move || drop(tun));
        }
    });
}

/// Takes in what one device has sent.
fn read_batch(network: &mut Network, tuns: &[Tun], port: usize, tun: &Tun, arrived: &mut Vec<Delivery>) {
    let start = if tun.offload { 0 } else { VNET_LEN };
    let mut bytes = 0;
    for _ in 0..BATCH {
        if bytes >= BATCH_BYTES {
            return;
        }
        let mut buffer = network.pool.take_largest();
        buffer[..start].fill(0);
        let Ok(length) = rustix::io::read(&tun.fd, &mut buffer[start..]) else {
            network.pool.give(buffer);
            return;
        };
        bytes += length;
        let now = Instant::now();
        network.run_until(now, arrived);
        match Packet::parse(buffer, start + length) {
            Ok(packet) => network.receive(port, packet, now, arrived),
            Err(buffer) => {
                network.count_drop(FabricDrop::Malformed);
                network.pool.give(buffer);
            }
        }
        deliver(network, tuns, arrived);
    }
}

/// Writes packets to their devices.
fn deliver(network: &mut Network, tuns: &[Tun], arrived: &mut Vec<Delivery>) {
    for Delivery { port, packet } in arrived.drain(..) {
        let tun = &tuns[port];
        let bytes = if tun.offload { packet.bytes() } else { packet.ip() };
        if rustix::io::write(&tun.fd, bytes).is_err() {
            network.count_drop(FabricDrop::NotTaken);
        }
        network.pool.give(packet.into_buffer());
    }
}

fn until(due: Instant) -> Timespec {
    let wait = due.saturating_duration_since(Instant::now());
    let seconds = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
    Timespec {
        tv_sec: seconds,
        tv_nsec: i64::from(wait.subsec_nanos()),
    }
}
