//! Sender and receiver against each other: whole, with liars, broken off and gone on with.

mod deaf;
mod fate;
mod kills;
mod liars;
mod parts;
mod resume;
mod whole;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::messages::TransferId;
use super::*;
use crate::app::memory::{self, Control, Memory};
use crate::app::{Event, Listener};

/// Key of the sender in all tests.
const SENDER: [u8; 32] = [7; 32];

/// Remembers what it hears.
#[derive(Default)]
struct Ears(Mutex<Vec<Event>>);

impl Listener for Ears {
    fn on(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

impl Ears {
    /// Was an offer accepted?
    fn accepted(&self) -> bool {
        let events = self.0.lock().unwrap();
        events.iter().any(|event| matches!(event, Event::Accepted { .. }))
    }

    /// Bytes that were said to be verified at last.
    fn verified(&self) -> u64 {
        let events = self.0.lock().unwrap();
        let told = events.iter().rev().find_map(|event| match event {
            Event::Progress { bytes, .. } => Some(*bytes),
            Event::Accepted { resumed, .. } => Some(*resumed),
            _ => None,
        });
        told.unwrap_or(0)
    }
}

/// Numbers from a seed (splitmix64).
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let seed = self.next().to_le_bytes();
        blake3::Hasher::new()
            .update(&seed)
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }
}

/// Two folders on a disk in memory, where there is one.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let fast = Path::new("/dev/shm");
        let dir = if fast.is_dir() {
            tempfile::tempdir_in(fast).unwrap()
        } else {
            tempfile::tempdir().unwrap()
        };
        for folder in ["in", "out", "stash"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        Self { dir }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join("out").join(name)
    }

    fn inbox(&self, name: &str) -> PathBuf {
        self.dir.path().join("in").join(name)
    }

    fn received(&self) -> Vec<String> {
        names(&self.dir.path().join("in"))
    }

    fn open(&self) -> Inbox {
        Inbox::open(&self.dir.path().join("in")).unwrap()
    }

    /// Send these and take them.
    async fn both(
        &self,
        paths: &[PathBuf],
        conflict: Conflict,
    ) -> (Result<Sent, SendError>, Result<Received, ReceiveError>) {
        let sources = Arc::new(scan(paths).unwrap());
        self.both_of(sources, conflict, i64::MAX).await
    }

    /// The same over a connection that breaks after so many bytes.
    async fn both_of(
        &self,
        sources: Arc<Sources>,
        conflict: Conflict,
        budget: i64,
    ) -> (Result<Sent, SendError>, Result<Received, ReceiveError>) {
        send_into(self.open(), sources, terms(conflict), budget).await
    }
}

/// Send these into this inbox, over a connection that breaks after so many bytes.
async fn send_into(
    inbox: Inbox,
    sources: Arc<Sources>,
    terms: Terms,
    budget: i64,
) -> (Result<Sent, SendError>, Result<Received, ReceiveError>) {
    let (_, [near, far]) = memory::connection(budget);
    tokio::join!(
        send_over(near, sources, Arc::default()),
        receive_over(far, inbox, terms, Arc::default()),
    )
}

fn terms(conflict: Conflict) -> Terms {
    Terms {
        sender: SENDER,
        conflict,
        limit: None,
        running: Running::default(),
        patience: STALL_TIMEOUT,
    }
}

fn sending() -> Sending {
    Sending {
        transfer: TransferId(7),
        limit: None,
    }
}

async fn send_over(
    (bulk, control): (Memory, Control),
    sources: Arc<Sources>,
    ears: Arc<Ears>,
) -> Result<Sent, SendError> {
    send(&bulk, control, sources, sending(), ears).await
}

async fn receive_over(
    (bulk, control): (Memory, Control),
    inbox: Inbox,
    terms: Terms,
    ears: Arc<Ears>,
) -> Result<Received, ReceiveError> {
    let incoming = Incoming::read(control.0, control.1).await?;
    incoming
        .receive(&bulk, Arc::new(inbox), terms, ears, std::future::pending())
        .await
}

/// How long a test waits for what must come: longer than any machine is busy with something else.
const PATIENCE: Duration = Duration::from_secs(60);

/// Wait until it is so.
async fn until(so: impl Fn() -> bool) {
    let began = Instant::now();
    while !so() {
        assert!(began.elapsed() < PATIENCE, "it does not come to that");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Everything under a folder: relative paths, and what is there.
fn tree(dir: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(dir).unwrap().to_owned();
            let meta = fs::symlink_metadata(&path).unwrap();
            let content = if meta.is_dir() {
                folders.push(path);
                None
            } else if meta.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                Some(target.into_os_string().into_encoded_bytes())
            } else {
                Some(fs::read(&path).unwrap())
            };
            found.push((relative, content));
        }
    }
    found.sort();
    found
}
