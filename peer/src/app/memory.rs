//! Streams in memory: a connection that can break after any byte.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use quinn::{ReadError, VarInt};
use tokio::sync::{Mutex, mpsc, watch};

use crate::app::Bulk;
use crate::app::flow::{Inflow, Outflow, Runs};
use crate::app::framed::FrameError;
use crate::session::StreamError;

/// Writes that may wait in a stream.
const IN_FLIGHT_MAX: usize = 16;

/// What both ends share.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Bytes until it breaks.
    budget: AtomicI64,
    /// Does it fall silent then, until somebody cuts it?
    silent: AtomicBool,
    /// Streams of which the end was lost.
    endless: std::sync::Mutex<Vec<mpsc::Sender<Bytes>>>,
    dead: watch::Sender<bool>,
    /// Bytes that were read from streams in one direction.
    pub(crate) data: AtomicU64,
    /// Bytes that were read and forgotten.
    pub(crate) discarded: AtomicU64,
}

impl Wire {
    /// What exceeds the budget is lost on the way instead of breaking the connection.
    pub(crate) fn falls_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    pub(crate) fn cut(&self) {
        self.dead.send_replace(true);
    }
}

/// One end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    wire: Arc<Wire>,
    opened: mpsc::Sender<MemoryIn>,
    accepted: Arc<Mutex<mpsc::Receiver<MemoryIn>>>,
}

#[derive(Debug)]
pub(crate) struct MemoryOut {
    wire: Arc<Wire>,
    sender: Option<mpsc::Sender<Bytes>>,
    abandoned: Arc<OnceLock<VarInt>>,
}

#[derive(Debug)]
pub(crate) struct MemoryIn {
    wire: Arc<Wire>,
    receiver: mpsc::Receiver<Bytes>,
    abandoned: Arc<OnceLock<VarInt>>,
    rest: Bytes,
    is_data: bool,
}

pub(crate) type Control = (MemoryOut, MemoryIn);

/// Both ends of a connection and of a stream in two directions; it breaks after so many bytes.
pub(crate) fn connection(budget: i64) -> (Arc<Wire>, [(Memory, Control); 2]) {
    let wire = Arc::new(Wire {
        budget: AtomicI64::new(budget),
        silent: AtomicBool::new(false),
        endless: std::sync::Mutex::default(),
        dead: watch::Sender::new(false),
        data: AtomicU64::new(0),
        discarded: AtomicU64::new(0),
    });
    let ((to_far, at_far), (to_near, at_near)) = (mpsc::channel(64), mpsc::channel(64));
    let end = |opened, accepted| Memory {
        wire: Arc::clone(&wire),
        opened,
        accepted: Arc::new(Mutex::new(accepted)),
    };
    let (near, far) = (end(to_far, at_near), end(to_near, at_far));
    let (near_out, far_in) = stream(&wire, false);
    let (far_out, near_in) = stream(&wire, false);
    (wire, [(near, (near_out, near_in)), (far, (far_out, far_in))])
}

fn stream(wire: &Arc<Wire>, is_data: bool) -> (MemoryOut, MemoryIn) {
    let (sender, receiver) = mpsc::channel(IN_FLIGHT_MAX);
    let abandoned = Arc::new(OnceLock::new());
    let out = MemoryOut {
        wire: Arc::clone(wire),
        sender: Some(sender),
        abandoned: Arc::clone(&abandoned),
    };
    let into = MemoryIn {
        wire: Arc::clone(wire),
        receiver,
        abandoned,
        rest: Bytes::new(),
        is_data,
    };
    (out, into)
}

async fn unless_dead<T>(wire: &Wire, work: impl Future<Output = T>) -> Result<T, FrameError> {
    let mut dead = wire.dead.subscribe();
    tokio::select! {
        biased;
        _ = dead.wait_for(|dead| *dead) => Err(FrameError::Ended),
        done = work => Ok(done),
    }
}

impl MemoryIn {
    /// The writer is gone.
    fn ended(&self) -> Result<Option<usize>, FrameError> {
        let abandoned = self.abandoned.get().copied();
        abandoned.map_or(Ok(None), |code| Err(FrameError::Read(ReadError::Reset(code))))
    }
}

impl Outflow for MemoryOut {
    async fn write(&mut self, mut bytes: Bytes) -> Result<(), FrameError> {
        let wire = Arc::clone(&self.wire);
        let length = i64::try_from(bytes.len()).unwrap();
        let before = wire.budget.fetch_sub(length, Ordering::SeqCst);
        let breaks = before < length;
        if breaks {
            bytes.truncate(usize::try_from(before.max(0)).unwrap());
            if bytes.is_empty() && wire.silent.load(Ordering::SeqCst) {
                return Ok(());
            }
        }
        let sender = self.sender.as_ref().ok_or(FrameError::Ended)?;
        let sent = unless_dead(&wire, sender.send(bytes)).await?;
        if breaks && !wire.silent.load(Ordering::SeqCst) {
            wire.cut();
        }
        sent.map_err(|_| FrameError::Ended)
    }

    fn finish(&mut self) {
        let sender = self.sender.take();
        if self.wire.budget.load(Ordering::SeqCst) < 0 {
            self.wire.endless.lock().unwrap().extend(sender);
        }
    }

    fn abandon(&mut self, code: VarInt) {
        let _ = self.abandoned.set(code);
        self.sender = None;
    }

    async fn settled(&mut self) {}
}

impl Inflow for MemoryIn {
    async fn read(&mut self, into: &mut [u8]) -> Result<Option<usize>, FrameError> {
        while self.rest.is_empty() {
            match unless_dead(&self.wire, self.receiver.recv()).await? {
                Some(bytes) => self.rest = bytes,
                None => return self.ended(),
            }
        }
        let bytes = self.rest.split_to(self.rest.len().min(into.len()));
        into[..bytes.len()].copy_from_slice(&bytes);
        if self.is_data {
            self.wire.data.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        }
        Ok(Some(bytes.len()))
    }

    async fn discard(&mut self, _: &mut Runs) -> Result<Option<usize>, FrameError> {
        if self.rest.is_empty() {
            match unless_dead(&self.wire, self.receiver.recv()).await? {
                Some(bytes) => self.rest = bytes,
                None => return self.ended(),
            }
        }
        let bytes = std::mem::take(&mut self.rest).len();
        self.wire.discarded.fetch_add(bytes as u64, Ordering::SeqCst);
        Ok(Some(bytes))
    }

    fn refuse(&mut self, _code: u32) {
        self.receiver.close();
    }
}

impl Bulk for Memory {
    type Out = MemoryOut;
    type In = MemoryIn;

    async fn open_uni(&self) -> Result<MemoryOut, StreamError> {
        let (out, into) = stream(&self.wire, true);
        let opened = unless_dead(&self.wire, self.opened.send(into)).await;
        opened.ok().and_then(Result::ok).ok_or(StreamError::Ended)?;
        Ok(out)
    }

    async fn accept_uni(&self) -> Result<MemoryIn, StreamError> {
        let mut accepted = self.accepted.lock().await;
        let next = unless_dead(&self.wire, accepted.recv()).await;
        next.ok().flatten().ok_or(StreamError::Ended)
    }
}
