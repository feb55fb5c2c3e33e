//! Ends that do not do as they said.

use std::time::Duration;

use knothole_proto::wire::codec;

use super::*;
use crate::app::flow::{Inflow, Outflow};
use crate::app::framed;
use crate::app::transfer::messages::{
    DataHeader, Entry, FORMAT, FromReceiver, FromSender, Kind, Offer, Piece, Run,
};

const MIB: u64 = 1024 * 1024;

pub(super) fn file(size: u64) -> Entry {
    Entry {
        parent: 0,
        name: "f".to_owned(),
        kind: Kind::File,
        size,
        mode: 0o644,
        modified_ns: 0,
        stamp: 0,
    }
}

fn offer_of(entries: &[Entry]) -> Offer {
    Offer {
        format: FORMAT,
        transfer: TransferId(7),
        entries: u32::try_from(entries.len()).unwrap(),
        files: entries
            .iter()
            .filter(|e| e.kind == Kind::File)
            .count()
            .try_into()
            .unwrap(),
        bytes: entries.iter().map(|e| e.size).sum(),
        roots: entries
            .iter()
            .filter(|e| e.parent == 0)
            .map(|e| e.name.clone())
            .collect(),
    }
}

/// A sender that says what it likes, and a receiver.
pub(super) struct Liar {
    bulk: Memory,
    pub(super) control: Control,
    pub(super) receiving: tokio::task::JoinHandle<Result<Received, ReceiveError>>,
}

impl Liar {
    async fn offering(place: &Place, offer: Offer, entries: Vec<Entry>) -> Self {
        let mut liar = Self::to(place, terms(Conflict::Rename));
        liar.say_list(offer, entries).await;
        liar
    }

    /// One that has said nothing yet.
    fn to(place: &Place, terms: Terms) -> Self {
        Self::heard_by(place.open(), terms, Arc::default())
    }

    fn heard_by(inbox: Inbox, terms: Terms, ears: Arc<Ears>) -> Self {
        let (_, [(bulk, control), far]) = memory::connection(i64::MAX);
        let receiving = tokio::spawn(receive_over(far, inbox, terms, ears));
        Self {
            bulk,
            control,
            receiving,
        }
    }

    /// One that has offered these.
    pub(super) async fn with_files(inbox: Inbox, ears: Arc<Ears>, entries: Vec<Entry>) -> Self {
        let mut liar = Self::heard_by(inbox, terms(Conflict::Rename), ears);
        liar.say_list(offer_of(&entries), entries).await;
        liar
    }

    /// One file of this size, which was accepted.
    async fn with_file(place: &Place, size: u64) -> Self {
        let mut liar = Self::offering(place, offer_of(&[file(size)]), vec![file(size)]).await;
        assert!(matches!(liar.hear().await, FromReceiver::Plan { .. }));
        assert!(matches!(liar.hear().await, FromReceiver::Wanted { .. }));
        liar
    }

    async fn say_list(&mut self, offer: Offer, entries: Vec<Entry>) {
        self.say(FromSender::Offer(offer)).await;
        self.say(FromSender::Origin([1; 16])).await;
        self.say(FromSender::Entries { entries, last: true }).await;
    }

    pub(super) async fn say(&mut self, word: FromSender) {
        // A receiver that has heard enough may be gone.
        let _ = framed::write(&mut self.control.0, &word).await;
    }

    pub(super) async fn hear(&mut self) -> FromReceiver {
        loop {
            match framed::expect(&mut self.control.1).await.unwrap() {
                FromReceiver::Progress { .. } => {}
                word => return word,
            }
        }
    }

    pub(super) async fn data(&self, transfer: u64, pieces: &[(Piece, &[u8])]) {
        data(&self.bulk, transfer, pieces).await;
    }
}

/// A data stream that holds these pieces.
pub(super) async fn data(bulk: &Memory, transfer: u64, pieces: &[(Piece, &[u8])]) {
    use crate::app::Bulk;
    let mut stream = bulk.open_uni().await.unwrap();
    let transfer = TransferId(transfer);
    let mut bytes = codec::encode_framed(&DataHeader { transfer }).unwrap();
    for (piece, data) in pieces {
        bytes.extend(codec::encode_framed(piece).unwrap());
        bytes.extend_from_slice(data);
    }
    let _ = stream.write(bytes.into()).await;
    stream.finish();
}

/// Size of the file, and what comes on a stream.
type Lie<'a> = (u64, Vec<(Piece, &'a [u8])>);

fn piece(offset: u64, length: u32, value: Option<[u8; 32]>) -> Piece {
    Piece {
        index: 0,
        offset,
        length,
        zeros: false,
        value,
    }
}

pub(super) fn right(bytes: &[u8]) -> Piece {
    let length = u32::try_from(bytes.len()).unwrap();
    piece(0, length, Some(*blake3::hash(bytes).as_bytes()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_value_is_asked_for_again_and_given_up_in_the_end() {
    let place = Place::new();
    let mut liar = Liar::with_file(&place, 5).await;
    let lie = piece(0, 5, Some([9; 32]));
    for _ in 0..16 {
        liar.data(7, &[(lie, b"12345")]).await;
        let again = liar.hear().await;
        assert_eq!(
            again,
            FromReceiver::Again {
                index: 0,
                chunks: vec![0]
            }
        );
    }
    liar.data(7, &[(lie, b"12345")]).await;
    assert_eq!(
        liar.hear().await,
        FromReceiver::Results(vec![(0, Outcome::HashMismatch)])
    );
    liar.say(FromSender::End).await;
    assert!(matches!(
        liar.hear().await,
        FromReceiver::Summary { stored: 0, .. }
    ));
    liar.say(FromSender::Thanks).await;
    let received = liar.receiving.await.unwrap().unwrap();
    assert_eq!(received.others, [(0, Outcome::HashMismatch)]);
    assert!(!place.inbox("f").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_was_wrong_once_does_no_harm() {
    let place = Place::new();
    let mut liar = Liar::with_file(&place, 5).await;
    liar.data(7, &[(right(b"12345"), b"12x45")]).await;
    assert!(matches!(liar.hear().await, FromReceiver::Again { .. }));
    liar.data(7, &[(right(b"12345"), b"12345")]).await;
    assert_eq!(
        liar.hear().await,
        FromReceiver::Results(vec![(0, Outcome::Stored)])
    );
    assert_eq!(fs::read(place.inbox("f")).unwrap(), b"12345");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hash_of_the_whole_that_does_not_fit_its_chunks_leaves_nothing() {
    let place = Place::new();
    let bytes = Dice(1).bytes(usize::try_from(MIB + 5).unwrap());
    let mut liar = Liar::with_file(&place, MIB + 5).await;
    let geometry = crate::app::transfer::tree::Geometry::new(MIB + 5);
    let (first, last) = bytes.split_at(usize::try_from(MIB).unwrap());
    let value = |chunk, bytes: &[u8]| {
        let mut hasher = geometry.hasher(chunk);
        hasher.update(bytes);
        Some(hasher.value())
    };
    liar.data(
        7,
        &[
            (piece(MIB, 5, value(1, last)), last),
            (piece(0, 1 << 20, value(0, first)), first),
        ],
    )
    .await;
    let hash = [3; 32];
    liar.say(FromSender::FileDone {
        index: 0,
        hash,
        chunks: 2,
    })
    .await;
    assert_eq!(
        liar.hear().await,
        FromReceiver::Results(vec![(0, Outcome::HashMismatch)])
    );
    assert!(!place.inbox("f").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_lies_about_data_is_stopped_and_writes_at_most_what_it_announced() {
    let five: &[u8] = b"12345";
    let lies: [Lie<'_>; 9] = [
        (5, vec![(right(b"123456"), b"123456")]),
        (5, vec![(piece(0, 4, None), b"1234")]),
        (5, vec![(piece(0, 5, None), five)]),
        (5, vec![(piece(0, 3, Some([1; 32])), b"123")]),
        (5, vec![(piece(1, 4, Some([1; 32])), b"2345")]),
        (5, vec![(piece(u64::MAX, 5, Some([1; 32])), five)]),
        (
            5,
            vec![(
                Piece {
                    index: 1,
                    ..right(five)
                },
                five,
            )],
        ),
        (
            5,
            vec![(
                Piece {
                    index: u32::MAX,
                    ..right(five)
                },
                five,
            )],
        ),
        (3 * MIB, vec![(piece(MIB + 1, 5, None), five)]),
    ];
    for (size, pieces) in lies {
        let place = Place::new();
        let mut liar = Liar::with_file(&place, size).await;
        liar.data(7, &pieces).await;
        let word = liar.hear().await;
        assert_eq!(word, FromReceiver::Abort(AbortReason::Protocol), "{pieces:?}");
        let received = liar.receiving.await.unwrap();
        assert!(
            matches!(received, Err(ReceiveError::Protocol(_))),
            "{pieces:?}: {received:?}"
        );
        let written: u64 = tree(&place.inbox(".knothole-partial"))
            .into_iter()
            .filter(|(path, _)| !path.ends_with("journal"))
            .filter_map(|(_, content)| content)
            .map(|content| content.len() as u64)
            .sum();
        assert!(written <= size, "{pieces:?}: {written}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_file_that_comes_twice_is_refused_or_stored_once() {
    let place = Place::new();
    let mut liar = Liar::with_file(&place, 5).await;
    let (first, second) = (b"12345", b"12345");
    liar.data(7, &[(right(first), first), (right(second), second)])
        .await;
    let word = liar.hear().await;
    if word == FromReceiver::Abort(AbortReason::Protocol) {
        return;
    }
    // The first was in its place before the second was seen, which is then data that nobody needs.
    assert_eq!(word, FromReceiver::Results(vec![(0, Outcome::Stored)]));
    liar.say(FromSender::End).await;
    let summary = FromReceiver::Summary { stored: 1, bytes: 5 };
    assert_eq!(liar.hear().await, summary);
    assert_eq!(fs::read(place.inbox("f")).unwrap(), b"12345");
}

/// The end takes the acknowledgement of the thanks along; a sender that waited for a delayed one would be slower by 25 ms.
#[tokio::test(flavor = "multi_thread")]
async fn the_receiver_ends_its_stream_when_it_was_thanked() {
    let place = Place::new();
    let mut liar = Liar::with_file(&place, 5).await;
    liar.data(7, &[(right(b"12345"), b"12345")]).await;
    assert!(matches!(liar.hear().await, FromReceiver::Results(_)));
    liar.say(FromSender::End).await;
    assert!(matches!(liar.hear().await, FromReceiver::Summary { .. }));
    let mut room = [0; 8];
    let early = tokio::time::timeout(Duration::from_millis(100), liar.control.1.read(&mut room));
    assert!(
        early.await.is_err(),
        "it said more, or ended, before it was thanked"
    );
    liar.say(FromSender::Thanks).await;
    assert!(matches!(liar.control.1.read(&mut room).await, Ok(None)));
    assert_eq!(liar.receiving.await.unwrap().unwrap().stored, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_compares_is_waited_for_and_one_that_says_nothing_is_not() {
    let place = Place::new();
    let patience = Duration::from_secs(2);
    let terms = Terms {
        patience,
        ..terms(Conflict::Rename)
    };
    let mut liar = Liar::to(&place, terms);
    liar.say_list(offer_of(&[file(5)]), vec![file(5)]).await;
    assert!(matches!(liar.hear().await, FromReceiver::Plan { .. }));
    assert!(matches!(liar.hear().await, FromReceiver::Wanted { .. }));
    for _ in 0..6 {
        tokio::time::sleep(patience / 3).await;
        liar.say(FromSender::Comparing).await;
    }
    assert!(!liar.receiving.is_finished());
    let word = tokio::time::timeout(10 * patience, liar.hear()).await;
    assert_eq!(word, Ok(FromReceiver::Abort(AbortReason::Stalled)));
    assert!(matches!(
        liar.receiving.await.unwrap(),
        Err(ReceiveError::Stalled)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_breaks_off_is_no_matter_of_names() {
    let place = Place::new();
    let mut liar = Liar::to(&place, terms(Conflict::Rename));
    liar.say(FromSender::Offer(offer_of(&[file(5)]))).await;
    liar.say(FromSender::Origin([1; 16])).await;
    liar.say(FromSender::End).await;
    assert_eq!(liar.hear().await, FromReceiver::Abort(AbortReason::Protocol));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_of_a_large_file_comes_once() {
    let place = Place::new();
    let mut liar = Liar::with_file(&place, 3 * MIB).await;
    let zeros = Piece {
        zeros: true,
        ..piece(2 * MIB, 1 << 20, None)
    };
    let geometry = crate::app::transfer::tree::Geometry::new(3 * MIB);
    let mut hasher = geometry.hasher(2);
    hasher.update(&vec![0; 1 << 20]);
    let zeros = Piece {
        value: Some(hasher.value()),
        ..zeros
    };
    liar.data(7, &[(zeros, b""), (zeros, b"")]).await;
    assert_eq!(liar.hear().await, FromReceiver::Abort(AbortReason::Protocol));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_left_over_from_another_transfer_are_turned_away() {
    let place = Place::new();
    let mut liar = Liar::with_file(&place, 5).await;
    liar.data(6, &[(right(b"wrong"), b"wrong")]).await;
    liar.data(7, &[(right(b"right"), b"right")]).await;
    assert_eq!(
        liar.hear().await,
        FromReceiver::Results(vec![(0, Outcome::Stored)])
    );
    assert_eq!(fs::read(place.inbox("f")).unwrap(), b"right");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_before_all_files_is_no_end() {
    let place = Place::new();
    let mut liar = Liar::with_file(&place, 5).await;
    liar.say(FromSender::End).await;
    assert_eq!(liar.hear().await, FromReceiver::Abort(AbortReason::Protocol));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_not_acceptable_is_declined_before_anything_is_made() {
    let named = |name: &str, parent| Entry {
        name: name.to_owned(),
        parent,
        ..file(5)
    };
    let target = "../../etc/passwd".to_owned();
    let link = Entry {
        kind: Kind::Link { target },
        size: 0,
        ..named("l", 0)
    };
    for entries in [
        vec![named("..", 0)],
        vec![named("/etc/passwd", 0)],
        vec![named("a", 0), named("A", 0)],
        vec![named("a", 0), named("b", 1)],
        vec![named("a", 5)],
        vec![named("", 0)],
        vec![link],
        Vec::new(),
    ] {
        let place = Place::new();
        let mut liar = Liar::offering(&place, offer_of(&entries), entries.clone()).await;
        assert_eq!(
            liar.hear().await,
            FromReceiver::Decline(Refused::Names),
            "{entries:?}"
        );
        let received = liar.receiving.await.unwrap();
        assert!(matches!(received, Err(ReceiveError::Manifest(_))), "{entries:?}");
        assert_eq!(place.received(), [""; 0]);
    }
    let place = Place::new();
    let lie = Offer {
        bytes: 4,
        ..offer_of(&[file(5)])
    };
    let mut liar = Liar::offering(&place, lie, vec![file(5)]).await;
    assert_eq!(liar.hear().await, FromReceiver::Decline(Refused::Names));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_of_the_format_is_declined_with_that_reason() {
    let place = Place::new();
    let offer = Offer {
        format: FORMAT + 1,
        ..offer_of(&[file(5)])
    };
    let mut liar = Liar::offering(&place, offer, vec![file(5)]).await;
    assert_eq!(liar.hear().await, FromReceiver::Decline(Refused::Format));
    let received = liar.receiving.await.unwrap();
    assert!(matches!(received, Err(ReceiveError::Format(4))), "{received:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_what_was_not_offered_is_refused() {
    let run = |first, count| Run { first, count };
    let wanted = |runs: &[Run]| FromReceiver::Wanted {
        runs: runs.to_vec(),
        last: true,
    };
    let have = |index, first, count| FromReceiver::Have {
        index,
        first,
        values: vec![[1; 32]; count],
    };
    let again = |index, chunk| FromReceiver::Again {
        index,
        chunks: vec![chunk],
    };
    let all = wanted(&[run(0, 1)]);
    for words in [
        vec![wanted(&[run(1, 1)])],
        vec![wanted(&[run(0, 0)])],
        vec![wanted(&[run(0, u32::MAX)])],
        vec![wanted(&[run(0, 1), run(0, 1)])],
        vec![have(0, 3, 1)],
        vec![have(0, 1, 3)],
        vec![have(1, 0, 1)],
        vec![have(0, 0, 0)],
        vec![all.clone(), again(0, 3)],
        vec![all.clone(), again(1, 0)],
        vec![all.clone(), FromReceiver::Results(vec![(1, Outcome::Stored)])],
        vec![all, FromReceiver::Summary { stored: 1, bytes: 1 }],
    ] {
        let place = Place::new();
        fs::write(place.out("a"), Dice(1).bytes(3 << 20)).unwrap();
        let sources = Arc::new(scan(&[place.out("a")]).unwrap());
        let (_, [near, (_bulk, mut control)]) = memory::connection(i64::MAX);
        let (bytes, resumed, files) = (3 << 20, 0, 0);
        let plan = FromReceiver::Plan {
            bytes,
            resumed,
            files,
        };
        let lie = async {
            for word in [plan].iter().chain(&words) {
                framed::write(&mut control.0, word).await.unwrap();
            }
        };
        let (sent, ()) = tokio::join!(send_over(near, sources, Arc::default()), lie);
        assert!(matches!(sent, Err(SendError::Protocol)), "{words:?}: {sent:?}");
    }
}
