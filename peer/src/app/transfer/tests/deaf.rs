//! Senders that take nothing of what is said to them.

use std::future::pending;

use bytes::Bytes;
use knothole_proto::wire::codec::{self, LENGTH_PREFIX};
use quinn::VarInt;
use tokio::sync::Notify;

use super::liars::{data, right};
use super::*;
use crate::app::Bulk;
use crate::app::flow::Outflow;
use crate::app::framed::{self, FrameError};
use crate::app::memory::MemoryIn;
use crate::app::transfer::messages::{FromReceiver, FromSender, Piece, STREAM_TORN};
use crate::session::StreamError;

/// The receiver's end of a control stream. The other end takes half of the first message that it is deaf to, and later
/// whatever comes behind it.
#[derive(Clone)]
struct Mouth {
    deaf_to: fn(&FromReceiver) -> bool,
    said: Arc<Mutex<Said>>,
}

#[derive(Default)]
struct Said {
    words: Vec<FromReceiver>,
    half: bool,
    /// What came behind half a message.
    behind: Vec<FromReceiver>,
    reset: Option<VarInt>,
}

impl Outflow for Mouth {
    async fn write(&mut self, bytes: Bytes) -> Result<(), FrameError> {
        let word = codec::decode(&bytes[LENGTH_PREFIX..]).unwrap();
        {
            let mut said = self.said.lock().unwrap();
            if said.half {
                said.behind.push(word);
                return Ok(());
            }
            if !(self.deaf_to)(&word) {
                said.words.push(word);
                return Ok(());
            }
            said.half = true;
        }
        pending().await
    }

    fn finish(&mut self) {}

    fn abandon(&mut self, code: VarInt) {
        self.said.lock().unwrap().reset = Some(code);
    }

    async fn settled(&mut self) {}
}

/// The receiver's end of a connection.
#[derive(Clone)]
struct Far(Memory);

impl Bulk for Far {
    type Out = Mouth;
    type In = MemoryIn;

    async fn open_uni(&self) -> Result<Mouth, StreamError> {
        Err(StreamError::Ended)
    }

    async fn accept_uni(&self) -> Result<MemoryIn, StreamError> {
        self.0.accept_uni().await
    }
}

/// A sender, and a receiver that it does not listen to.
struct Deaf {
    bulk: Memory,
    control: Control,
    said: Arc<Mutex<Said>>,
    ears: Arc<Ears>,
    stop: Arc<Notify>,
    receiving: tokio::task::JoinHandle<Result<Received, ReceiveError>>,
}

impl Deaf {
    async fn offering(
        place: &Place,
        sources: &Sources,
        terms: Terms,
        deaf_to: fn(&FromReceiver) -> bool,
    ) -> Self {
        let (_, [(bulk, control), (far, (_, recv))]) = memory::connection(i64::MAX);
        let said = Arc::<Mutex<Said>>::default();
        let (ears, stop) = (Arc::new(Ears::default()), Arc::new(Notify::new()));
        let mouth = Mouth {
            deaf_to,
            said: Arc::clone(&said),
        };
        let (listener, stopped) = (Arc::clone(&ears), Arc::clone(&stop));
        let inbox = Arc::new(place.open());
        let receiving = tokio::spawn(async move {
            let incoming = Incoming::read(mouth, recv).await?;
            let stop = async { stopped.notified().await };
            incoming.receive(&Far(far), inbox, terms, listener, stop).await
        });
        let mut deaf = Self {
            bulk,
            control,
            said,
            ears,
            stop,
            receiving,
        };
        let offer = sources.manifest.offer(TransferId(7));
        let entries = sources.manifest.entries().to_vec();
        deaf.say(FromSender::Offer(offer)).await;
        deaf.say(FromSender::Origin(sources.origin)).await;
        deaf.say(FromSender::Entries { entries, last: true }).await;
        deaf
    }

    async fn say(&mut self, word: FromSender) {
        framed::write(&mut self.control.0, &word).await.unwrap();
    }

    /// Wait until the receiver said half of something.
    async fn until_half_said(&self) {
        until(|| self.said.lock().unwrap().half).await;
    }

    /// How the receiver ended; behind half a message it said nothing more, and it took that back.
    async fn end(self) -> Result<Received, ReceiveError> {
        let ended = tokio::time::timeout(PATIENCE, self.receiving).await;
        let ended = ended.expect("the receiver waits for a sender that takes nothing");
        let said = self.said.lock().unwrap();
        assert!(said.half);
        assert_eq!(said.behind, []);
        assert_eq!(said.reset, Some(VarInt::from_u32(STREAM_TORN)));
        ended.unwrap()
    }
}

/// One small file.
fn offered(place: &Place) -> Arc<Sources> {
    fs::write(place.out("f"), "12345").unwrap();
    Arc::new(scan(&[place.out("f")]).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_takes_nothing_of_the_plan_is_given_up() {
    let place = Place::new();
    let terms = Terms {
        patience: Duration::from_millis(200),
        ..terms(Conflict::Rename)
    };
    let deaf = Deaf::offering(&place, &offered(&place), terms, |_| true).await;
    let ended = deaf.end().await;
    assert!(matches!(ended, Err(ReceiveError::Stalled)), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_is_stopped_whatever_the_sender_does_not_take() {
    type IsSaid = fn(&FromReceiver) -> bool;
    let wrong = Piece {
        value: Some([9; 32]),
        ..right(b"12345")
    };
    let cases: [(IsSaid, Piece, u32); 4] = [
        (
            |word| matches!(word, FromReceiver::Plan { .. }),
            right(b"12345"),
            0,
        ),
        (
            |word| matches!(word, FromReceiver::Wanted { .. }),
            right(b"12345"),
            0,
        ),
        (
            |word| matches!(word, FromReceiver::Results(_)),
            right(b"12345"),
            1,
        ),
        (|word| matches!(word, FromReceiver::Again { .. }), wrong, 0),
    ];
    for (case, (deaf_to, piece, in_place)) in cases.into_iter().enumerate() {
        let place = Place::new();
        let deaf = Deaf::offering(&place, &offered(&place), terms(Conflict::Rename), deaf_to).await;
        data(&deaf.bulk, 7, &[(piece, b"12345")]).await;
        deaf.until_half_said().await;
        deaf.stop.notify_one();
        let ended = deaf.end().await;
        assert!(
            matches!(ended, Err(ReceiveError::Stopped { stored, left })
                if (stored, left) == (in_place, 1 - in_place)),
            "{case}: {ended:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_begins_anew_takes_the_turn_of_one_whose_sender_takes_nothing() {
    let cases: [fn(&FromReceiver) -> bool; 2] = [
        |word| matches!(word, FromReceiver::Plan { .. }),
        |word| matches!(word, FromReceiver::Abort(_)),
    ];
    for (case, deaf_to) in cases.into_iter().enumerate() {
        let place = Place::new();
        let sources = offered(&place);
        let running = Running::default();
        let terms = || Terms {
            running: running.clone(),
            ..terms(Conflict::Rename)
        };
        let deaf = Deaf::offering(&place, &sources, terms(), deaf_to).await;
        // Before it has this turn there is nobody to take it from.
        until(|| deaf.ears.accepted() || deaf.said.lock().unwrap().half).await;
        let (sent, received) = send_into(place.open(), sources, terms(), i64::MAX).await;
        sent.unwrap();
        received.unwrap();
        let ended = deaf.end().await;
        assert!(matches!(ended, Err(ReceiveError::Replaced)), "{case}: {ended:?}");
        assert_eq!(fs::read(place.inbox("f")).unwrap(), b"12345");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_does_not_take_the_summary_finds_everything_there_the_next_time() {
    let place = Place::new();
    let sources = offered(&place);
    let deaf_to = |word: &FromReceiver| matches!(word, FromReceiver::Summary { .. });
    let mut deaf = Deaf::offering(&place, &sources, terms(Conflict::Rename), deaf_to).await;
    data(&deaf.bulk, 7, &[(right(b"12345"), b"12345")]).await;
    let said = Arc::clone(&deaf.said);
    until(|| {
        let said = said.lock().unwrap();
        said.words
            .iter()
            .any(|word| matches!(word, FromReceiver::Results(_)))
    })
    .await;
    deaf.say(FromSender::End).await;
    deaf.until_half_said().await;
    deaf.stop.notify_one();
    let received = deaf.end().await.unwrap();
    assert_eq!((received.stored, received.bytes), (1, 5));
    let (sent, received) = place.both_of(sources, Conflict::Rename, i64::MAX).await;
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert_eq!((sent.stored, sent.resumed, received.resumed), (1, 5, 5));
    assert_eq!(place.received(), ["f"]);
}
