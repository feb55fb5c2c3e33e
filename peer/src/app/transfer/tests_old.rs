//! Sender and receiver against each other, and against liars, over a QUIC connection on loopback.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::messages::{
    AbortReason, DataHeader, Entry, FORMAT, FromReceiver, FromSender, Kind, Offer, Outcome, Refused, Run,
    TransferId,
};
use super::*;
use crate::app::{Bulk, Event, Listener, framed};
use crate::session::StreamError;

impl Bulk for quinn::Connection {
    async fn open_uni(&self) -> Result<SendStream, StreamError> {
        Ok(Self::open_uni(self).await?)
    }

    async fn accept_uni(&self) -> Result<RecvStream, StreamError> {
        Ok(Self::accept_uni(self).await?)
    }
}

/// Remembers what it hears.
#[derive(Default)]
struct Ears(Mutex<Vec<Event>>);

impl Listener for Ears {
    fn on(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

struct Pair {
    _ends: [quinn::Endpoint; 2],
    sender: quinn::Connection,
    receiver: quinn::Connection,
    dir: tempfile::TempDir,
}

impl Pair {
    async fn new() -> Self {
        let key = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap();
        let cert = CertificateDer::from(key.cert);
        let private = PrivatePkcs8KeyDer::from(key.signing_key.serialize_der());
        let server = quinn::ServerConfig::with_single_cert(vec![cert.clone()], private.into()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cert).unwrap();
        let client = quinn::ClientConfig::with_root_certificates(Arc::new(roots)).unwrap();
        let local = (Ipv4Addr::LOCALHOST, 0).into();
        let far = quinn::Endpoint::server(server, local).unwrap();
        let near = quinn::Endpoint::client(local).unwrap();
        let connecting = near.connect_with(client, far.local_addr().unwrap(), "x").unwrap();
        let (sender, receiver) = tokio::join!(connecting, async { far.accept().await.unwrap().await });
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("in")).unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        Self {
            _ends: [near, far],
            sender: sender.unwrap(),
            receiver: receiver.unwrap(),
            dir,
        }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join("out").join(name)
    }

    fn inbox(&self, name: &str) -> PathBuf {
        self.dir.path().join("in").join(name)
    }

    async fn send(&self, paths: &[PathBuf]) -> Result<Sent, SendError> {
        let sources = Arc::new(scan(paths).unwrap());
        let control = self.sender.open_bi().await.unwrap();
        send(
            &self.sender,
            control,
            sources,
            TransferId(7),
            Arc::new(Ears::default()),
        )
        .await
    }

    async fn incoming(&self) -> Result<Incoming, ReceiveError> {
        let (send, recv) = self.receiver.accept_bi().await.unwrap();
        Incoming::read(send, recv).await
    }

    async fn receive_at(&self, at: &Path, conflict: Conflict) -> Result<Received, ReceiveError> {
        let inbox = Arc::new(Inbox::open(at).unwrap());
        let incoming = self.incoming().await?;
        let ears = Arc::new(Ears::default());
        incoming
            .receive(&self.receiver, inbox, conflict, ears, std::future::pending())
            .await
    }

    async fn receive(&self, conflict: Conflict) -> Result<Received, ReceiveError> {
        self.receive_at(&self.dir.path().join("in"), conflict).await
    }

    async fn both(&self, paths: &[PathBuf], conflict: Conflict) -> (Sent, Received) {
        let (sent, received) = tokio::join!(self.send(paths), self.receive(conflict));
        (sent.unwrap(), received.unwrap())
    }
}

/// Bytes that are not the same everywhere.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_arrives_whole_with_its_time_and_without_its_execute_bit() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let pair = Pair::new().await;
    let bytes = noise(3 * BLOCK_LEN + 17);
    fs::write(pair.out("big"), &bytes).unwrap();
    fs::set_permissions(pair.out("big"), fs::Permissions::from_mode(0o700)).unwrap();
    let (sent, received) = pair.both(&[pair.out("big")], Conflict::Rename).await;
    assert_eq!((sent.stored, sent.bytes), (1, bytes.len() as u64));
    assert_eq!(sent.hash, Some(*blake3::hash(&bytes).as_bytes()));
    assert_eq!(received.hash, sent.hash);
    assert_eq!(received.places, [pair.inbox("big").canonicalize().unwrap()]);
    assert!(fs::read(pair.inbox("big")).unwrap() == bytes);
    let (here, there) = (
        fs::metadata(pair.out("big")).unwrap(),
        fs::metadata(pair.inbox("big")).unwrap(),
    );
    assert_eq!(there.mode() & 0o777, 0o600);
    assert_eq!(
        (here.mtime(), here.mtime_nsec()),
        (there.mtime(), there.mtime_nsec())
    );
    assert_eq!(
        names(&pair.dir.path().join("in")),
        ["big"],
        "no partial file is left"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_empty_files_and_many_small_files_arrive() {
    let pair = Pair::new().await;
    fs::create_dir_all(pair.out("tree/empty folder")).unwrap();
    fs::write(pair.out("tree/empty"), "").unwrap();
    for n in 0..500 {
        fs::write(pair.out(&format!("tree/{n}")), n.to_string().repeat(n)).unwrap();
    }
    fs::write(pair.out("beside"), "x").unwrap();
    let (sent, received) = pair
        .both(&[pair.out("tree"), pair.out("beside")], Conflict::Rename)
        .await;
    assert_eq!((sent.stored, received.stored), (502, 502));
    assert!(sent.others.is_empty() && received.others.is_empty());
    assert_eq!(names(&pair.inbox("tree")), names(&pair.out("tree")));
    assert_eq!(
        fs::read(pair.inbox("tree/499")).unwrap(),
        "499".repeat(499).as_bytes()
    );
    assert_eq!(fs::read(pair.inbox("tree/empty")).unwrap(), b"");
    assert!(pair.inbox("tree/empty folder").is_dir());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_overwritten_unless_asked_for() {
    let pair = Pair::new().await;
    fs::create_dir(pair.out("d")).unwrap();
    fs::write(pair.out("d/f"), "new").unwrap();
    fs::write(pair.out("a.txt"), "new").unwrap();
    let paths = [pair.out("d"), pair.out("a.txt")];
    let old = || {
        fs::create_dir_all(pair.inbox("d")).unwrap();
        fs::write(pair.inbox("d/f"), "old").unwrap();
        fs::write(pair.inbox("a.txt"), "old").unwrap();
    };
    let read = |name: &str| fs::read_to_string(pair.inbox(name)).unwrap();
    old();
    let (_, received) = pair.both(&paths, Conflict::Rename).await;
    assert_eq!((read("d/f"), read("a.txt")), ("old".to_owned(), "old".to_owned()));
    assert_eq!(
        (read("d (1)/f"), read("a (1).txt")),
        ("new".to_owned(), "new".to_owned())
    );
    assert!(received.places[0].ends_with("d (1)") && received.places[1].ends_with("a (1).txt"));
    let (sent, received) = pair.both(&paths, Conflict::Skip).await;
    assert_eq!((sent.stored, received.stored), (0, 0));
    assert_eq!(received.others, [(1, Outcome::Kept), (2, Outcome::Kept)]);
    assert_eq!((read("d/f"), read("a.txt")), ("old".to_owned(), "old".to_owned()));
    let (sent, _) = pair.both(&paths, Conflict::Overwrite).await;
    assert_eq!(sent.stored, 2);
    assert_eq!((read("d/f"), read("a.txt")), ("new".to_owned(), "new".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_reaches_the_sender() {
    let pair = Pair::new().await;
    fs::write(pair.out("a"), "x").unwrap();
    let paths = [pair.out("a")];
    let (sent, ()) = tokio::join!(pair.send(&paths), async {
        pair.incoming().await.unwrap().decline(Refused::Person).await;
    });
    assert!(
        matches!(sent, Err(SendError::Declined(Refused::Person))),
        "{sent:?}"
    );
    assert_eq!(names(&pair.dir.path().join("in")), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_shrinks_or_vanishes_does_not_stop_the_others() {
    let pair = Pair::new().await;
    for name in ["gone", "less", "fine"] {
        fs::write(pair.out(name), noise(2 * BLOCK_LEN)).unwrap();
    }
    let sources = Arc::new(scan(&["gone", "less", "fine"].map(|name| pair.out(name))).unwrap());
    fs::remove_file(pair.out("gone")).unwrap();
    fs::write(pair.out("less"), noise(BLOCK_LEN + 1)).unwrap();
    let control = pair.sender.open_bi().await.unwrap();
    let sending = send(
        &pair.sender,
        control,
        sources,
        TransferId(1),
        Arc::new(Ears::default()),
    );
    let (sent, received) = tokio::join!(sending, pair.receive(Conflict::Rename));
    let others = [(0, Outcome::Incomplete), (1, Outcome::Incomplete)];
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert_eq!((sent.stored, sent.others.as_slice()), (1, others.as_slice()));
    assert_eq!(
        (received.stored, received.others.as_slice()),
        (1, others.as_slice())
    );
    assert_eq!(received.places, [pair.inbox("fine").canonicalize().unwrap()]);
    assert_eq!(names(&pair.dir.path().join("in")), ["fine"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_disappears_leaves_a_partial_file_and_no_wrong_one() {
    let pair = Pair::new().await;
    let offer = one_file_offer(1 << 20);
    let (mut control, mut answers) = open_with(&pair, &offer).await;
    let (_, received) = tokio::join!(
        async {
            let _: FromReceiver = framed::expect(&mut answers).await.unwrap();
            let mut data = pair.sender.open_uni().await.unwrap();
            framed::write(&mut data, &header(0, 1 << 20)).await.unwrap();
            data.write_all(&noise(600_000)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            control.finish().unwrap();
        },
        pair.receive(Conflict::Rename)
    );
    assert!(
        matches!(
            received,
            Err(ReceiveError::Interrupted {
                stored: 0,
                left: 1,
                ..
            })
        ),
        "{received:?}"
    );
    assert_eq!(names(&pair.dir.path().join("in")), ["f.knothole-part"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_hash_is_told_and_leaves_nothing() {
    let pair = Pair::new().await;
    let offer = one_file_offer(5);
    let (mut control, mut answers) = open_with(&pair, &offer).await;
    let liar = async {
        let _: FromReceiver = framed::expect(&mut answers).await.unwrap();
        data(&pair, header(0, 5), b"12345").await;
        framed::write(
            &mut control,
            &FromSender::FileDone {
                index: 0,
                hash: [9; 32],
            },
        )
        .await
        .unwrap();
        let verdict: FromReceiver = framed::expect(&mut answers).await.unwrap();
        framed::write(&mut control, &FromSender::End).await.unwrap();
        let _: FromReceiver = framed::expect(&mut answers).await.unwrap();
        verdict
    };
    let (verdict, received) = tokio::join!(liar, pair.receive(Conflict::Rename));
    let outcome = Outcome::HashMismatch;
    assert_eq!(verdict, FromReceiver::FileResult { index: 0, outcome });
    assert_eq!(received.unwrap().others, [(0, outcome)]);
    assert_eq!(names(&pair.dir.path().join("in")), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_lies_about_data_is_stopped_and_writes_at_most_what_it_announced() {
    let lies: [(DataHeader, &[u8]); 6] = [
        (header(0, 5), b"123456"),
        (header(0, 6), b"123456"),
        (header(0, 4), b"1234"),
        (header(1, 5), b"12345"),
        (header(u32::MAX, 5), b"12345"),
        (
            DataHeader {
                offset: 1,
                ..header(0, 4)
            },
            b"2345",
        ),
    ];
    for (lie, bytes) in lies {
        let pair = Pair::new().await;
        let offer = one_file_offer(5);
        let (_control, mut answers) = open_with(&pair, &offer).await;
        let liar = async {
            let _: FromReceiver = framed::expect(&mut answers).await.unwrap();
            data(&pair, lie, bytes).await;
            framed::expect::<FromReceiver>(&mut answers).await.unwrap()
        };
        let (last, received) = tokio::join!(liar, pair.receive(Conflict::Rename));
        assert_eq!(last, FromReceiver::Abort(AbortReason::Protocol), "{lie:?}");
        assert!(matches!(received, Err(ReceiveError::Protocol(_))), "{lie:?}");
        let left = fs::read(pair.inbox("f.knothole-part")).unwrap_or_default();
        assert!(left.len() <= 5 && !pair.inbox("f").exists(), "{lie:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_left_over_from_another_transfer_are_turned_away() {
    let pair = Pair::new().await;
    fs::write(pair.out("a"), "right").unwrap();
    let stale = DataHeader {
        transfer: TransferId(6),
        ..header(0, 5)
    };
    data_without_waiting(&pair, stale, b"wrong").await;
    let (sent, _) = pair.both(&[pair.out("a")], Conflict::Rename).await;
    assert_eq!(sent.stored, 1);
    assert_eq!(fs::read(pair.inbox("a")).unwrap(), b"right");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_taken_only_once() {
    let pair = Pair::new().await;
    let offer = one_file_offer(5);
    let (_control, mut answers) = open_with(&pair, &offer).await;
    let liar = async {
        let _: FromReceiver = framed::expect(&mut answers).await.unwrap();
        data(&pair, header(0, 5), b"12345").await;
        data(&pair, header(0, 5), b"54321").await;
        framed::expect::<FromReceiver>(&mut answers).await.unwrap()
    };
    let (last, _) = tokio::join!(liar, pair.receive(Conflict::Rename));
    assert_eq!(last, FromReceiver::Abort(AbortReason::Protocol));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_not_acceptable_is_declined_before_anything_is_made() {
    let entry = one_file_offer(5).1.remove(0);
    let at = |path: &[&str]| Entry {
        path: path.iter().map(|c| (*c).to_owned()).collect(),
        ..entry.clone()
    };
    for entries in [
        vec![at(&["..", "x"])],
        vec![at(&["/etc/passwd"])],
        vec![at(&["a"]), at(&["A"])],
        vec![at(&["a"]), at(&["a", "b"])],
        vec![at(&[])],
        vec![at(&["ok"]), at(&["ok2"])],
    ] {
        let pair = Pair::new().await;
        let (mut offer, _) = one_file_offer(5);
        offer.roots = entries
            .iter()
            .filter_map(|e| e.path.first().cloned())
            .take(1)
            .collect();
        let (_control, mut answers) = open_with(&pair, &(offer, entries.clone())).await;
        let (answer, received) = tokio::join!(
            framed::expect::<FromReceiver>(&mut answers),
            pair.receive(Conflict::Rename)
        );
        assert_eq!(
            answer.unwrap(),
            FromReceiver::Decline(Refused::Names),
            "{entries:?}"
        );
        assert!(matches!(received, Err(ReceiveError::Manifest(_))), "{entries:?}");
        assert_eq!(names(&pair.dir.path().join("in")), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_of_the_format_is_declined_with_that_reason() {
    let pair = Pair::new().await;
    let (mut offer, entries) = one_file_offer(5);
    offer.format = FORMAT + 1;
    let (_control, mut answers) = open_with(&pair, &(offer, entries)).await;
    let (answer, received) = tokio::join!(
        framed::expect::<FromReceiver>(&mut answers),
        pair.receive(Conflict::Rename)
    );
    assert_eq!(answer.unwrap(), FromReceiver::Decline(Refused::Format));
    assert!(matches!(received, Err(ReceiveError::Format(2))), "{received:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_asks_for_what_was_not_offered_is_refused() {
    for runs in [
        vec![Run { first: 1, count: 1 }],
        vec![Run { first: 0, count: 0 }],
        vec![Run {
            first: 0,
            count: u32::MAX,
        }],
        vec![Run { first: 0, count: 1 }, Run { first: 0, count: 1 }],
    ] {
        let pair = Pair::new().await;
        fs::write(pair.out("a"), "x").unwrap();
        let paths = [pair.out("a")];
        let (sent, _keep) = tokio::join!(pair.send(&paths), async {
            let (mut send, recv) = pair.receiver.accept_bi().await.unwrap();
            framed::write(
                &mut send,
                &FromReceiver::Wanted {
                    runs: runs.clone(),
                    last: true,
                },
            )
            .await
            .unwrap();
            (send, recv)
        });
        assert!(matches!(sent, Err(SendError::Protocol)), "{runs:?}: {sent:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_stops_tells_the_sender_and_keeps_the_part() {
    let pair = Pair::new().await;
    fs::write(pair.out("big"), noise(64 << 20)).unwrap();
    let paths = [pair.out("big")];
    let ears = Arc::new(Ears::default());
    let receiving = async {
        let inbox = Arc::new(Inbox::open(&pair.dir.path().join("in")).unwrap());
        let watch = Arc::clone(&ears);
        let stop = async move {
            while watch.0.lock().unwrap().len() < 4 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        pair.incoming()
            .await
            .unwrap()
            .receive(&pair.receiver, inbox, Conflict::Rename, ears, stop)
            .await
    };
    let (sent, received) = tokio::join!(pair.send(&paths), receiving);
    assert!(
        matches!(received, Err(ReceiveError::Stopped { left: 1, .. })),
        "{received:?}"
    );
    let why = AbortReason::Stopped;
    assert!(
        matches!(sent, Err(SendError::Aborted { why: w, stored: 0 }) if w == why),
        "{sent:?}"
    );
    assert_eq!(names(&pair.dir.path().join("in")), ["big.knothole-part"]);
}

fn one_file_offer(size: u64) -> (Offer, Vec<Entry>) {
    let offer = Offer {
        format: FORMAT,
        transfer: TransferId(7),
        entries: 1,
        files: 1,
        bytes: size,
        roots: vec!["f".to_owned()],
    };
    let entry = Entry {
        path: vec!["f".to_owned()],
        kind: Kind::File,
        size,
        mode: 0o644,
        modified_ns: 0,
    };
    (offer, vec![entry])
}

fn header(index: u32, length: u64) -> DataHeader {
    DataHeader {
        transfer: TransferId(7),
        index,
        offset: 0,
        length,
    }
}

async fn open_with(pair: &Pair, (offer, entries): &(Offer, Vec<Entry>)) -> (SendStream, RecvStream) {
    let (mut send, recv) = pair.sender.open_bi().await.unwrap();
    framed::write(&mut send, &FromSender::Offer(offer.clone()))
        .await
        .unwrap();
    let entries = FromSender::Entries {
        entries: entries.clone(),
        last: true,
    };
    framed::write(&mut send, &entries).await.unwrap();
    (send, recv)
}

async fn data(pair: &Pair, header: DataHeader, bytes: &[u8]) {
    let stream = data_without_waiting(pair, header, bytes).await;
    let _ = stream.stopped().await;
}

async fn data_without_waiting(pair: &Pair, header: DataHeader, bytes: &[u8]) -> SendStream {
    let mut stream = pair.sender.open_uni().await.unwrap();
    framed::write(&mut stream, &header).await.unwrap();
    // A receiver that refuses the header may stop the stream at once.
    let _ = stream.write_all(bytes).await;
    let _ = stream.finish();
    stream
}
