//! Captures of what hosts send and receive, written beside the wire: it hands a copy of each packet to a thread of the
//! capture's own and never waits for it. What the thread cannot keep up with is counted and not written.
//!
//! A capture shows what a wire at the host would carry: super-packets cut up, every checksum complete. Times are those
//! of the wire: when a packet was read from its sender, or came out of its last link.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::netns::LabError;
use crate::pcap::{PcapWriter, SNAP_MAX};

use super::lab::Lab;
use super::network::Network;
use super::packet::Packet;
use super::segment::segments;

/// Packets and bytes that may wait for the writer: what the wire carries in some 30 ms. More would hide for longer
/// that the disk is too slow, and cost memory.
const QUEUE: usize = 8192;
const QUEUE_BYTES: usize = 32 << 20;

/// What a capture has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureStats {
    /// Packets in the file, as a wire would carry them.
    pub written: u64,
    /// Packets of the lab that are not in the file because it could not be written fast enough, or at all. A super-packet
    /// counts once.
    pub missed: u64,
}

/// A running capture. It goes on when this is dropped, until the lab is dropped or [`Capture::stop`] is called.
#[derive(Debug)]
pub struct Capture<'a> {
    lab: &'a Lab,
    host: usize,
    number: u64,
    counters: Arc<Counters>,
}

impl Lab {
    /// Begins to write every packet from and to a host into a file in the pcap format, which `tcpdump -r` reads. A file
    /// that is there is replaced.
    ///
    /// # Errors
    ///
    /// [`LabError::UnknownHost`], [`LabError::Capture`], [`LabError::Thread`].
    pub fn capture(&self, host: &str, path: impl AsRef<Path>) -> Result<Capture<'_>, LabError> {
        let path = path.as_ref();
        let host = self.index_of(host)?;
        let tap = Tap::start(path)?;
        let mut network = self.network();
        network.captures += 1;
        let (number, counters) = (network.captures, Arc::clone(&tap.counters));
        network.hosts[host].taps.push((number, tap));
        Ok(Capture {
            lab: self,
            host,
            number,
            counters,
        })
    }
}

impl Capture<'_> {
    /// What has been written so far.
    #[must_use]
    pub fn stats(&self) -> CaptureStats {
        self.counters.stats()
    }

    /// Ends the capture when everything that waits is written.
    ///
    /// # Errors
    ///
    /// [`LabError::Capture`] if something could not be written.
    pub fn stop(self) -> Result<CaptureStats, LabError> {
        let tap = self.lab.network().remove_tap(self.host, self.number);
        // The wire goes on while the rest is written.
        tap.map_or(Ok(()), Tap::finish)?;
        Ok(self.counters.stats())
    }
}

impl Network {
    fn remove_tap(&mut self, host: usize, number: u64) -> Option<Tap> {
        let taps = &mut self.hosts[host].taps;
        let at = taps.iter().position(|(known, _)| *known == number)?;
        Some(taps.swap_remove(at).1)
    }
}

/// The wire's end of a capture.
#[derive(Debug)]
pub(super) struct Tap {
    queue: Option<SyncSender<Record>>,
    counters: Arc<Counters>,
    writer: Option<JoinHandle<()>>,
    path: PathBuf,
    /// One moment on both clocks.
    started: (Instant, Duration),
}

#[derive(Debug)]
struct Record {
    at: Duration,
    /// With the virtio-net header.
    bytes: Vec<u8>,
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    missed: AtomicU64,
    waiting: AtomicUsize,
    failure: Mutex<Option<io::Error>>,
}

impl Counters {
    fn stats(&self) -> CaptureStats {
        CaptureStats {
            written: self.written.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
        }
    }
}

impl Tap {
    fn start(path: &Path) -> Result<Self, LabError> {
        let failed = |source| LabError::Capture {
            path: path.to_owned(),
            source,
        };
        let file = File::create(path).map_err(failed)?;
        let mut capture = PcapWriter::new(BufWriter::new(file), SNAP_MAX).map_err(failed)?;
        capture.flush().map_err(failed)?;
        let (queue, records) = sync_channel(QUEUE);
        let counters = Arc::new(Counters::default());
        let shared = Arc::clone(&counters);
        let writer = std::thread::Builder::new()
            .name("lab capture".to_owned())
            .spawn(move || write_all(&records, capture, &shared))
            .map_err(LabError::Thread)?;
        let real = SystemTime::now().duration_since(UNIX_EPOCH);
        Ok(Self {
            queue: Some(queue),
            counters,
            writer: Some(writer),
            path: path.to_owned(),
            started: (Instant::now(), real.unwrap_or_default()),
        })
    }

    /// Hands on a copy, or counts it as missed.
    pub(super) fn see(&self, packet: &Packet, now: Instant) {
        let (counters, bytes) = (&self.counters, packet.bytes());
        let (instant, real) = self.started;
        let record = Record {
            at: real + now.saturating_duration_since(instant),
            bytes: bytes.to_vec(),
        };
        let waiting = counters.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        let sent = match &self.queue {
            Some(queue) if waiting + bytes.len() <= QUEUE_BYTES => queue.try_send(record).is_ok(),
            _ => false,
        };
        if !sent {
            counters.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
            counters.missed.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits for the writer.
    fn finish(mut self) -> Result<(), LabError> {
        self.close();
        let failure = self.counters.failure.lock();
        let failure = failure.unwrap_or_else(PoisonError::into_inner).take();
        failure.map_or(Ok(()), |source| {
            Err(LabError::Capture {
                path: self.path.clone(),
                source,
            })
        })
    }

    fn close(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            let _panicked = writer.join();
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.close();
        let missed = self.counters.stats().missed;
        if missed > 0 {
            tracing::warn!(path = %self.path.display(), missed, "the capture is not complete");
        }
    }
}

/// The writer: until the wire lets go of the queue. After a failure it only takes things from the queue.
fn write_all(records: &Receiver<Record>, mut capture: PcapWriter<impl Write>, counters: &Counters) {
    let mut alive = true;
    loop {
        let record = match records.try_recv() {
            Ok(record) => record,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                // Somebody may be reading along.
                alive &= noted(capture.flush(), counters);
                match records.recv() {
                    Ok(record) => record,
                    Err(_) => break,
                }
            }
        };
        counters.waiting.fetch_sub(record.bytes.len(), Ordering::Relaxed);
        alive = alive && noted(write(record, &mut capture, counters), counters);
        if !alive {
            counters.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
    if alive {
        noted(capture.flush(), counters);
    }
}

/// Writes a packet as the wire would carry it.
fn write(record: Record, capture: &mut PcapWriter<impl Write>, counters: &Counters) -> io::Result<()> {
    let end = record.bytes.len();
    let Ok(packet) = Packet::parse(record.bytes, end) else {
        return Ok(());
    };
    let mut pieces = segments(&packet, |length| vec![0; length]);
    if pieces.is_empty() {
        pieces.push(packet);
    }
    for piece in &mut pieces {
        piece.complete();
        capture.packet(record.at, piece.ip())?;
        counters.written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Was it done? The first failure is kept.
fn noted(result: io::Result<()>, counters: &Counters) -> bool {
    let Err(error) = result else {
        return true;
    };
    let mut failure = counters.failure.lock().unwrap_or_else(PoisonError::into_inner);
    failure.get_or_insert(error);
    false
}

#[cfg(test)]
mod tests {
    use super::super::packet::VNET_LEN;
    use super::super::packet::tests::{build, checksums_hold};
    use super::*;
    use crate::nat::Proto;

    #[test]
    fn a_super_packet_is_written_as_the_packets_of_a_wire() {
        let mut bytes = build(Proto::Udp, "5.5.16.2:5000", "5.5.5.1:3478", &[7; 3000], true);
        bytes[1] = 5;
        bytes[4..6].copy_from_slice(&1200u16.to_ne_bytes());
        let at = Duration::from_secs(9);
        let mut capture = PcapWriter::new(Vec::new(), SNAP_MAX).unwrap();
        let counters = Counters::default();
        write(Record { at, bytes }, &mut capture, &counters).unwrap();
        assert_eq!(counters.stats().written, 3);
        let file = capture.into_inner();
        let mut rest = &file[24..];
        for length in [1228usize, 1228, 628] {
            let (header, packets) = rest.split_at(16);
            assert_eq!(header[8..12], u32::try_from(length).unwrap().to_le_bytes());
            let (packet, after) = packets.split_at(length);
            assert!(checksums_hold(&[&[0; VNET_LEN], packet].concat()));
            rest = after;
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_writer_that_is_too_slow_costs_packets_and_nothing_else() {
        let (queue, records) = sync_channel(1);
        let tap = Tap {
            queue: Some(queue),
            counters: Arc::default(),
            writer: None,
            path: PathBuf::new(),
            started: (Instant::now(), Duration::ZERO),
        };
        let bytes = build(Proto::Udp, "5.5.16.2:5000", "5.5.5.1:3478", b"x", false);
        let end = bytes.len();
        let packet = Packet::parse(bytes, end).unwrap();
        for _ in 0..3 {
            tap.see(&packet, Instant::now());
        }
        assert_eq!(tap.counters.stats().missed, 2);
        assert_eq!(tap.counters.waiting.load(Ordering::Relaxed), end);
        drop(records);
    }

    #[test]
    fn a_full_disk_ends_the_capture_with_its_reason() {
        let tap = Tap::start(Path::new("/dev/full"));
        assert!(matches!(tap, Err(LabError::Capture { .. })), "{tap:?}");
    }
}
