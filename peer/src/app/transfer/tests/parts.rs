//! Large files that are begun and not whole: how many, and what happens to the others when one of them is slow or fails.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;

use super::liars::{Liar, file};
use super::*;
use crate::app::transfer::desk::PLACES;
use crate::app::transfer::disk::{Act, Disk, Fate};
use crate::app::transfer::messages::{Entry, FromReceiver, FromSender, Piece, STREAMS_MAX, SourceTrouble};
use crate::app::transfer::tree::{CHUNKS_MAX, Geometry, Value};

const MIB: u64 = 1024 * 1024;

/// A file of as many chunks as there can be; the last one has 5 bytes.
const GIANT: u64 = (CHUNKS_MAX - 1) * MIB + 5;

fn named(name: &str, size: u64) -> Entry {
    Entry {
        name: name.to_owned(),
        ..file(size)
    }
}

fn giants(count: usize) -> Vec<Entry> {
    (0..count).map(|n| named(&n.to_string(), GIANT)).collect()
}

/// A chunk of nothing but zeros.
fn blank(index: u32, size: u64, chunk: u32) -> (Piece, &'static [u8]) {
    let geometry = Geometry::new(size);
    let length = u32::try_from(geometry.len(chunk)).unwrap();
    let mut hasher = geometry.hasher(chunk);
    hasher.update(&vec![0; length as usize]);
    let piece = Piece {
        index,
        offset: geometry.start(chunk),
        length,
        zeros: true,
        value: Some(hasher.value()),
    };
    (piece, b"")
}

fn last_chunk(index: u32) -> (Piece, &'static [u8]) {
    blank(index, GIANT, Geometry::new(GIANT).chunks() - 1)
}

/// The hash of a file of so many zeros.
fn blank_hash(size: u64) -> Value {
    *blake3::hash(&vec![0; usize::try_from(size).unwrap()]).as_bytes()
}

/// The next word but progress, if it comes.
async fn hear(liar: &mut Liar) -> FromReceiver {
    let word = tokio::time::timeout(PATIENCE, liar.hear()).await;
    word.expect("the receiver says nothing")
}

/// A disk that needs long to make a file of this size: until the other end of the channel is dropped.
struct Slow {
    size: u64,
    begun: AtomicU32,
    made: AtomicU32,
    done: Mutex<mpsc::Receiver<()>>,
}

impl Slow {
    fn new(size: u64) -> (Arc<Self>, mpsc::Sender<()>) {
        let (hold, done) = mpsc::channel();
        let slow = Self {
            size,
            begun: AtomicU32::new(0),
            made: AtomicU32::new(0),
            done: Mutex::new(done),
        };
        (Arc::new(slow), hold)
    }
}

impl Fate for Slow {
    fn decide(&self, act: &Act<'_>) -> io::Result<bool> {
        match act {
            Act::Create(_, name) if *name != "journal" => {
                self.made.fetch_add(1, Ordering::SeqCst);
            }
            Act::SetLen(_, length) if *length == self.size => {
                self.begun.fetch_add(1, Ordering::SeqCst);
                // Nothing is ever sent: it ends with the other end.
                let _ = self.done.lock().unwrap().recv();
            }
            _ => {}
        }
        Ok(true)
    }
}

/// A liar, and a receiver with this disk that wants all of these.
async fn accepted(place: &Place, fate: Arc<dyn Fate>, entries: Vec<Entry>) -> Liar {
    let inbox = place.open().with_disk(Disk { fate: Some(fate) });
    let mut liar = Liar::with_files(inbox, Arc::default(), entries).await;
    assert!(matches!(hear(&mut liar).await, FromReceiver::Plan { .. }));
    assert!(matches!(hear(&mut liar).await, FromReceiver::Wanted { .. }));
    liar
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_to_its_place_while_the_disk_is_slow_to_make_another() {
    let place = Place::new();
    let (ready, slow) = (MIB + 5, 2 * MIB);
    let (fate, hold) = Slow::new(slow);
    let entries = vec![named("ready", ready), named("slow", slow)];
    let mut liar = accepted(&place, Arc::clone(&fate) as Arc<_>, entries).await;
    let pieces = [blank(0, ready, 0), blank(0, ready, 1), blank(1, slow, 0)];
    liar.data(7, &pieces).await;
    until(|| fate.begun.load(Ordering::SeqCst) > 0).await;
    let done = |index, size| FromSender::FileDone {
        index,
        hash: blank_hash(size),
        chunks: 2,
    };
    liar.say(done(0, ready)).await;
    let stored = |index| FromReceiver::Results(vec![(index, Outcome::Stored)]);
    assert_eq!(hear(&mut liar).await, stored(0));
    drop(hold);
    liar.data(7, &[blank(1, slow, 1)]).await;
    liar.say(done(1, slow)).await;
    assert_eq!(hear(&mut liar).await, stored(1));
    assert_eq!(fs::metadata(place.inbox("slow")).unwrap().len(), slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_streams_that_begin_a_file_together_make_it_once() {
    let place = Place::new();
    let size = 2 * MIB;
    let (fate, hold) = Slow::new(size);
    let mut liar = accepted(&place, Arc::clone(&fate) as Arc<_>, vec![file(size)]).await;
    for chunk in 0..2 {
        liar.data(7, &[blank(0, size, chunk)]).await;
    }
    until(|| fate.begun.load(Ordering::SeqCst) > 0).await;
    // Time for the other one to get as far; if it does not, this proves less.
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(hold);
    let hash = blank_hash(size);
    liar.say(FromSender::FileDone {
        index: 0,
        hash,
        chunks: 2,
    })
    .await;
    let stored = FromReceiver::Results(vec![(0, Outcome::Stored)]);
    assert_eq!(hear(&mut liar).await, stored);
    assert_eq!(fate.made.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_the_largest_files_a_stream_are_begun_and_no_more_until_one_is_let_go() {
    let place = Place::new();
    let many = 2 * STREAMS_MAX;
    let ears = Arc::new(Ears::default());
    let mut liar = Liar::with_files(place.open(), Arc::clone(&ears), giants(many + 2)).await;
    assert!(matches!(hear(&mut liar).await, FromReceiver::Plan { .. }));
    assert!(matches!(hear(&mut liar).await, FromReceiver::Wanted { .. }));
    let next = u32::try_from(many).unwrap();
    let pieces: Vec<_> = (0..next).map(last_chunk).collect();
    liar.data(7, &pieces).await;
    until(|| ears.verified() == 5 * many as u64).await;
    liar.say(FromSender::FileFailed {
        index: 0,
        why: SourceTrouble::Unreadable,
    })
    .await;
    let failed = FromReceiver::Results(vec![(0, Outcome::Incomplete)]);
    assert_eq!(hear(&mut liar).await, failed);
    liar.data(7, &[last_chunk(next)]).await;
    until(|| ears.verified() == 5 * (many as u64 + 1)).await;
    liar.data(7, &[last_chunk(next + 1)]).await;
    let refused = FromReceiver::Abort(AbortReason::Protocol);
    assert_eq!(hear(&mut liar).await, refused);
    let received = liar.receiving.await.unwrap();
    assert!(matches!(received, Err(ReceiveError::Protocol(_))), "{received:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_of_the_largest_files_are_gone_on_with_than_were_being_sent() {
    let place = Place::new();
    let many = STREAMS_MAX + 1;
    let ears = Arc::new(Ears::default());
    let mut liar = Liar::with_files(place.open(), Arc::clone(&ears), giants(many)).await;
    assert!(matches!(hear(&mut liar).await, FromReceiver::Plan { .. }));
    let pieces: Vec<_> = (0..u32::try_from(many).unwrap()).map(last_chunk).collect();
    liar.data(7, &pieces).await;
    until(|| ears.verified() == 5 * many as u64).await;
    drop(liar.control);
    liar.receiving.await.unwrap().unwrap_err();
    let mut liar = Liar::with_files(place.open(), Arc::default(), giants(many)).await;
    let plan = FromReceiver::Plan {
        bytes: GIANT * many as u64,
        resumed: 5 * STREAMS_MAX as u64,
        files: 0,
    };
    assert_eq!(hear(&mut liar).await, plan);
    for _ in 0..STREAMS_MAX {
        assert!(matches!(hear(&mut liar).await, FromReceiver::Have { .. }));
    }
    assert!(matches!(hear(&mut liar).await, FromReceiver::Wanted { .. }));
}

/// A disk that writes nothing into large files.
struct Unwritable;

impl Fate for Unwritable {
    fn decide(&self, act: &Act<'_>) -> io::Result<bool> {
        match act {
            Act::Write(file, ..) if file.metadata()?.len() > MIB => Err(io::Error::other("no")),
            _ => Ok(true),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_large_files_that_cannot_be_written_does_not_stop_the_others() {
    let place = Place::new();
    let many = PLACES + 2;
    fs::create_dir(place.out("d")).unwrap();
    for n in 0..many {
        let bytes = Dice(3).bytes(usize::try_from(MIB + 1).unwrap());
        fs::write(place.out(&format!("d/{n:02}")), bytes).unwrap();
    }
    fs::write(place.out("d/last"), "fine").unwrap();
    let sources = Arc::new(scan(&[place.out("d")]).unwrap());
    let fate = Some(Arc::new(Unwritable) as Arc<_>);
    let inbox = place.open().with_disk(Disk { fate });
    let (sent, received) = send_into(inbox, sources, terms(Conflict::Rename), i64::MAX).await;
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert_eq!((sent.stored, received.stored), (1, 1));
    assert_eq!((sent.others.len(), received.others.len()), (many, many));
    assert!(
        sent.others
            .iter()
            .all(|(_, outcome)| *outcome == Outcome::Unwritable)
    );
    assert_eq!(fs::read(place.inbox("d/last")).unwrap(), b"fine");
}
