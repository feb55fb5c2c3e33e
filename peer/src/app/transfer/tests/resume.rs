//! Attempts that go on where others stopped, one case at a time.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::*;
use crate::app::framed;
use crate::app::transfer::disk::{Act, Disk, Fate};
use crate::app::transfer::messages::{FromReceiver, FromSender, Piece};
use crate::app::transfer::tree::Geometry;

const MIB: usize = 1024 * 1024;

fn noise(len: usize) -> Vec<u8> {
    Dice(5).bytes(len)
}

/// An attempt of which no more than so many bytes come through, and that breaks once it has got this far.
async fn broken(place: &Place, names: &[&str], budget: usize, far_enough: impl Fn(&Ears) -> bool) {
    let paths: Vec<_> = names.iter().map(|name| place.out(name)).collect();
    let sources = Arc::new(scan(&paths).unwrap());
    let (wire, [near, far]) = memory::connection(i64::try_from(budget).unwrap());
    wire.falls_silent();
    let ears = Arc::new(Ears::default());
    let (sent, received, ()) = tokio::join!(
        send_over(near, sources, Arc::default()),
        receive_over(far, place.open(), terms(Conflict::Rename), Arc::clone(&ears)),
        async {
            let began = std::time::Instant::now();
            while !far_enough(&ears) {
                assert!(began.elapsed() < PATIENCE, "{} verified", ears.verified());
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            wire.cut();
        },
    );
    assert!(sent.is_err() && received.is_err(), "{sent:?} {received:?}");
}

/// So many bytes are verified, of which a later attempt must find all again.
fn verified(bytes: usize) -> impl Fn(&Ears) -> bool {
    move |ears| ears.verified() >= bytes as u64
}

/// As many broken attempts as it takes until this file, the first, has its place: which stream is the fastest is not said.
async fn until_in_place(place: &Place, first: &str, names: &[&str], budget: usize) {
    let first = place.inbox(first);
    while !first.exists() {
        let before = std::cell::Cell::new(None);
        broken(place, names, budget, |ears| {
            let begun = before.get().unwrap_or_else(|| ears.verified());
            before.set(Some(begun));
            first.exists() || ears.verified() >= begun + MIB as u64
        })
        .await;
    }
}

/// An attempt that does not, and how many bytes came on data streams.
async fn undisturbed(place: &Place, names: &[&str]) -> (Sent, Received, u64) {
    let paths: Vec<_> = names.iter().map(|name| place.out(name)).collect();
    let sources = Arc::new(scan(&paths).unwrap());
    let (wire, [near, far]) = memory::connection(i64::MAX);
    let (sent, received) = tokio::join!(
        send_over(near, sources, Arc::default()),
        receive_over(far, place.open(), terms(Conflict::Rename), Arc::default()),
    );
    (sent.unwrap(), received.unwrap(), wire.data.load(Ordering::SeqCst))
}

/// Headers of pieces, at most.
const OVERHEAD: u64 = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_new_command_goes_on_with_the_chunks_that_are_missing() {
    let place = Place::new();
    fs::write(place.out("f"), noise(8 * MIB)).unwrap();
    broken(&place, &["f"], 5 * MIB + MIB / 2, verified(MIB)).await;
    assert_eq!(place.received(), [".knothole-partial"]);
    let (sent, received, came) = undisturbed(&place, &["f"]).await;
    assert_eq!(sent.resumed, received.resumed);
    assert!(received.resumed >= 1 << 20, "{}", received.resumed);
    assert!(came + received.resumed <= (8 << 20) + OVERHEAD);
    assert!(fs::read(place.inbox("f")).unwrap() == noise(8 * MIB));
    assert_eq!(place.received(), ["f"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_were_whole_are_not_sent_again_and_keep_their_names() {
    let place = Place::new();
    fs::create_dir(place.out("d")).unwrap();
    for n in 0..100 {
        fs::write(place.out(&format!("d/{n:03}")), noise(20_000 + n)).unwrap();
    }
    // Somebody else's folder of that name: the attempts share another one.
    fs::create_dir(place.inbox("d")).unwrap();
    broken(&place, &["d"], MIB, verified(200_000)).await;
    broken(&place, &["d"], MIB / 3, verified(400_000)).await;
    let (sent, _, came) = undisturbed(&place, &["d"]).await;
    assert_eq!((sent.stored, sent.others.len()), (100, 0));
    assert!(
        came + sent.resumed <= sent.bytes + OVERHEAD && sent.resumed >= 400_000,
        "{came} {sent:?}"
    );
    assert_eq!(place.received(), ["d", "d (1)"]);
    assert!(tree(&place.inbox("d (1)")) == tree(&place.out("d")));
    // That was the end of it: once more is a new transfer.
    let (sent, ..) = undisturbed(&place, &["d"]).await;
    assert_eq!(sent.resumed, 0);
    assert_eq!(place.received(), ["d", "d (1)", "d (2)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_file_that_changed_only_what_changed_is_sent() {
    let place = Place::new();
    let mut bytes = noise(10 * MIB);
    fs::write(place.out("f"), &bytes).unwrap();
    broken(&place, &["f"], 8 * MIB, verified(2 * MIB)).await;
    bytes[1000] ^= 1;
    bytes.extend(noise(100));
    fs::write(place.out("f"), &bytes).unwrap();
    let (sent, _, came) = undisturbed(&place, &["f"]).await;
    assert!(sent.resumed >= 1 << 20, "{sent:?}");
    assert!(
        came <= sent.bytes - sent.resumed + (1 << 20) + OVERHEAD,
        "{came} {sent:?}"
    );
    assert!(fs::read(place.inbox("f")).unwrap() == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_file_that_was_in_place_and_changed_only_what_changed_is_sent() {
    let place = Place::new();
    let mut bytes = noise(6 * MIB);
    fs::write(place.out("a"), &bytes).unwrap();
    fs::write(place.out("b"), noise(60 * MIB)).unwrap();
    until_in_place(&place, "a", &["a", "b"], 12 * MIB).await;
    assert!(fs::read(place.inbox("a")).unwrap() == bytes);
    bytes[3 * MIB] ^= 1;
    fs::write(place.out("a"), &bytes).unwrap();
    let (sent, _, came) = undisturbed(&place, &["a", "b"]).await;
    assert!(
        came <= sent.bytes - sent.resumed + (1 << 20) + OVERHEAD,
        "{came} {sent:?}"
    );
    assert_eq!(sent.stored, 2);
    assert!(fs::read(place.inbox("a")).unwrap() == bytes);
    assert_eq!(place.received(), ["a", "b"], "the former version is gone");
}

/// A disk whose program is killed when a file is about to replace another.
#[derive(Default)]
struct KilledBeforeReplacing(std::sync::atomic::AtomicBool);

impl Fate for KilledBeforeReplacing {
    fn decide(&self, act: &Act<'_>) -> io::Result<bool> {
        if matches!(act, Act::Rename(_, true)) {
            self.0.store(true, Ordering::SeqCst);
        }
        match self.0.load(Ordering::SeqCst) {
            true => Err(io::Error::other("killed")),
            false => Ok(true),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_that_was_about_to_replace_the_former_one_does_so_in_the_next_attempt() {
    let place = Place::new();
    fs::write(place.out("a"), "the former version").unwrap();
    fs::write(place.out("b"), noise(40 * MIB)).unwrap();
    until_in_place(&place, "a", &["a", "b"], 3 * MIB).await;
    // Twice: the version that did not come to its place changes once more.
    for version in ["the second version.", "the third version.."] {
        fs::write(place.out("a"), version).unwrap();
        let sources = Arc::new(scan(&[place.out("a"), place.out("b")]).unwrap());
        let fate = Some(Arc::new(KilledBeforeReplacing::default()) as Arc<_>);
        let inbox = place.open().with_disk(Disk { fate });
        let (sent, received) = send_into(inbox, sources, terms(Conflict::Rename), i64::MAX).await;
        assert!(sent.is_err() && received.is_err(), "{sent:?} {received:?}");
        assert_eq!(
            fs::read_to_string(place.inbox("a")).unwrap(),
            "the former version"
        );
    }
    undisturbed(&place, &["a", "b"]).await;
    assert_eq!(
        fs::read_to_string(place.inbox("a")).unwrap(),
        "the third version.."
    );
    assert_eq!(place.received(), ["a", "b"], "the former version is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_same_names_from_elsewhere_replace_nothing() {
    let place = Place::new();
    for (card, content) in [("one", "from the first card"), ("two", "from the second one")] {
        fs::create_dir_all(place.out(card).join("photos")).unwrap();
        fs::write(place.out(card).join("photos/1"), content).unwrap();
    }
    fs::write(place.out("one/photos/2"), noise(40 * MIB)).unwrap();
    let first = place.inbox("photos/1");
    broken(&place, &["one/photos"], 3 * MIB, |_| first.exists()).await;
    undisturbed(&place, &["two/photos"]).await;
    assert_eq!(fs::read_to_string(&first).unwrap(), "from the first card");
    let second = place.inbox("photos (1)/1");
    assert_eq!(fs::read_to_string(second).unwrap(), "from the second one");
    // However the place is written, it is the same.
    undisturbed(&place, &["two/../one/photos"]).await;
    assert!(tree(&place.inbox("photos")) == tree(&place.out("one/photos")));
    assert_eq!(place.received(), ["photos", "photos (1)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_large_files_is_gone_on_with() {
    const FILES: usize = 66;
    let place = Place::new();
    fs::create_dir(place.out("d")).unwrap();
    for n in 0..FILES {
        fs::write(place.out(&format!("d/{n:02}")), noise(MIB + 1)).unwrap();
    }
    fs::write(place.out("d/last"), noise(16 * MIB)).unwrap();
    let inbox = place.inbox("d");
    let there = |_: &Ears| inbox.is_dir() && names(&inbox).len() == FILES;
    broken(&place, &["d"], (FILES + 10) * MIB, there).await;
    // To the receiver they are other files now, all of them, and before any of them comes a new one.
    for n in 0..FILES {
        let file = fs::File::options()
            .write(true)
            .open(place.out(&format!("d/{n:02}")));
        let yesterday = std::time::SystemTime::now() - Duration::from_secs(86_400);
        file.unwrap().set_modified(yesterday).unwrap();
    }
    fs::write(place.out("d/0"), noise(2 * MIB)).unwrap();
    let (sent, ..) = undisturbed(&place, &["d"]).await;
    assert_eq!((sent.stored as usize, sent.others.len()), (FILES + 2, 0));
    assert!(sent.resumed >= (FILES * MIB) as u64, "{sent:?}");
    assert!(tree(&place.inbox("d")) == tree(&place.out("d")));
}

/// A disk without links.
struct Linkless;

impl Fate for Linkless {
    fn decide(&self, act: &Act<'_>) -> io::Result<bool> {
        match act {
            Act::Link(..) => Err(io::ErrorKind::Unsupported.into()),
            _ => Ok(true),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_cannot_be_made_is_told_to_both_sides() {
    let place = Place::new();
    fs::create_dir(place.out("d")).unwrap();
    fs::write(place.out("d/file"), "content").unwrap();
    for name in ["one", "two"] {
        std::os::unix::fs::symlink("file", place.out("d").join(name)).unwrap();
    }
    let sources = Arc::new(scan(&[place.out("d")]).unwrap());
    let fate = Some(Arc::new(Linkless) as Arc<_>);
    let inbox = place.open().with_disk(Disk { fate });
    let (sent, received) = send_into(inbox, sources, terms(Conflict::Rename), i64::MAX).await;
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert_eq!((sent.stored, received.stored), (1, 1));
    assert_eq!(sent.others, received.others);
    let outcomes: Vec<_> = sent.others.iter().map(|(_, outcome)| *outcome).collect();
    assert_eq!(outcomes, [Outcome::Unwritable; 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_somebody_touched_meanwhile_stays_and_the_new_one_gets_a_number() {
    let place = Place::new();
    fs::write(place.out("a"), "from the sender").unwrap();
    fs::write(place.out("b"), noise(40 * MIB)).unwrap();
    until_in_place(&place, "a", &["a", "b"], 3 * MIB).await;
    assert!(place.inbox("a").exists());
    fs::write(place.inbox("a"), "from somebody..").unwrap();
    undisturbed(&place, &["a", "b"]).await;
    assert_eq!(fs::read_to_string(place.inbox("a")).unwrap(), "from somebody..");
    assert_eq!(
        fs::read_to_string(place.inbox("a (1)")).unwrap(),
        "from the sender"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_partial_file_is_noticed_and_mended() {
    let place = Place::new();
    fs::write(place.out("f"), noise(8 * MIB)).unwrap();
    broken(&place, &["f"], 6 * MIB, verified(MIB)).await;
    let partial = place.inbox(".knothole-partial");
    let transfer = partial.join(&names(&partial)[0]);
    let part = names(&transfer)
        .into_iter()
        .find(|name| name != "journal")
        .unwrap();
    let part = fs::File::options().write(true).open(transfer.join(part)).unwrap();
    part.write_all_at(b"damage", MIB as u64 + 7).unwrap();
    part.write_all_at(b"damage", 3 * MIB as u64).unwrap();
    let (sent, received, came) = undisturbed(&place, &["f"]).await;
    assert!(fs::read(place.inbox("f")).unwrap() == noise(8 * MIB));
    assert!(came + received.resumed >= sent.bytes, "{came} {received:?}");
    assert!(
        received.resumed <= 4 << 20,
        "two chunks were of no use: {received:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_begins_anew_takes_the_turn_of_the_attempt_that_hangs() {
    let place = Place::new();
    fs::write(place.out("f"), noise(4 * MIB)).unwrap();
    let sources = Arc::new(scan(&[place.out("f")]).unwrap());
    let running = Running::default();
    let terms = || Terms {
        running: running.clone(),
        ..terms(Conflict::Rename)
    };
    // The sender is gone, and the connection does not know it.
    let (_, [near, far]) = memory::connection(i64::MAX);
    let (bulk, mut control) = near;
    let hanging = tokio::spawn(receive_over(far, place.open(), terms(), Arc::default()));
    let offer = sources.manifest.offer(TransferId(1));
    framed::write(&mut control.0, &FromSender::Offer(offer))
        .await
        .unwrap();
    framed::write(&mut control.0, &FromSender::Origin(sources.origin))
        .await
        .unwrap();
    let entries = sources.manifest.entries().to_vec();
    let entries = FromSender::Entries { entries, last: true };
    framed::write(&mut control.0, &entries).await.unwrap();
    let _: FromReceiver = framed::expect(&mut control.1).await.unwrap();
    let (sent, received) = send_into(place.open(), sources, terms(), i64::MAX).await;
    sent.unwrap();
    received.unwrap();
    let ended = hanging.await.unwrap();
    assert!(matches!(ended, Err(ReceiveError::Replaced)), "{ended:?}");
    assert!(fs::read(place.inbox("f")).unwrap() == noise(4 * MIB));
    drop(bulk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_stops_tells_the_sender_and_keeps_what_came() {
    let place = Place::new();
    fs::write(place.out("f"), noise(40 * MIB)).unwrap();
    let sources = Arc::new(scan(&[place.out("f")]).unwrap());
    let (_, [near, (bulk, control)]) = memory::connection(i64::MAX);
    let ears = Arc::new(Ears::default());
    let watch = Arc::clone(&ears);
    let receiving = async {
        let incoming = Incoming::read(control.0, control.1).await.unwrap();
        let stop = async move {
            while watch.verified() < 4 << 20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let inbox = Arc::new(place.open());
        incoming
            .receive(&bulk, inbox, terms(Conflict::Rename), ears, stop)
            .await
    };
    let (sent, received) = tokio::join!(send_over(near, sources, Arc::default()), receiving);
    assert!(
        matches!(received, Err(ReceiveError::Stopped { stored: 0, left: 1 })),
        "{received:?}"
    );
    let why = AbortReason::Stopped;
    assert!(
        matches!(sent, Err(SendError::Aborted { why: w, stored: 0 }) if w == why),
        "{sent:?}"
    );
    let (sent, ..) = undisturbed(&place, &["f"]).await;
    assert!(sent.resumed >= 4 << 20, "{sent:?}");
}

/// A disk with room for so many bytes.
struct Full(AtomicU64);

impl Fate for Full {
    fn decide(&self, act: &Act<'_>) -> io::Result<bool> {
        if let Act::Write(_, bytes, _) = act {
            let length = bytes.len() as u64;
            let room = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |room| {
                room.checked_sub(length)
            });
            room.map_err(|_| io::Error::from(io::ErrorKind::StorageFull))?;
        }
        Ok(true)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_to_both_sides_and_with_room_it_goes_on() {
    let place = Place::new();
    fs::write(place.out("f"), noise(24 * MIB)).unwrap();
    let sources = Arc::new(scan(&[place.out("f")]).unwrap());
    let fate = Some(Arc::new(Full(AtomicU64::new(20 << 20))) as Arc<_>);
    let inbox = place.open().with_disk(Disk { fate });
    let (sent, received) = send_into(inbox, sources, terms(Conflict::Rename), i64::MAX).await;
    assert!(
        matches!(received, Err(ReceiveError::DiskFull { stored: 0, left: 1 })),
        "{received:?}"
    );
    let why = AbortReason::DiskFull;
    assert!(
        matches!(sent, Err(SendError::Aborted { why: w, .. }) if w == why),
        "{sent:?}"
    );
    let (sent, ..) = undisturbed(&place, &["f"]).await;
    assert!(sent.resumed >= 4 << 20, "at most 16 MiB again: {sent:?}");
    assert!(fs::read(place.inbox("f")).unwrap() == noise(24 * MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_chunk_of_a_tebibyte_is_sent_kept_and_known_again() {
    const TIB: u64 = 1 << 40;
    let place = Place::new();
    let source = fs::File::create(place.out("f")).unwrap();
    source.set_len(TIB).unwrap();
    source.write_all_at(b"the end", TIB - 7).unwrap();
    let sources = Arc::new(scan(&[place.out("f")]).unwrap());
    let geometry = Geometry::new(TIB);
    let last = geometry.chunks() - 1;
    // Twice: the second attempt finds what the first one left.
    for attempt in 0..2 {
        let (_, [near, far]) = memory::connection(i64::MAX);
        let ears = Arc::new(Ears::default());
        let receiving = tokio::spawn(receive_over(
            far,
            place.open(),
            terms(Conflict::Rename),
            Arc::clone(&ears),
        ));
        let (bulk, mut control) = near;
        let offer = sources.manifest.offer(TransferId(7));
        framed::write(&mut control.0, &FromSender::Offer(offer))
            .await
            .unwrap();
        framed::write(&mut control.0, &FromSender::Origin(sources.origin))
            .await
            .unwrap();
        let entries = sources.manifest.entries().to_vec();
        let entries = FromSender::Entries { entries, last: true };
        framed::write(&mut control.0, &entries).await.unwrap();
        let plan: FromReceiver = framed::expect(&mut control.1).await.unwrap();
        let resumed = if attempt == 0 { 0 } else { 8 << 20 };
        let (bytes, files) = (TIB, 0);
        assert_eq!(
            plan,
            FromReceiver::Plan {
                bytes,
                resumed,
                files
            }
        );
        if attempt == 0 {
            send_chunk(&bulk, &sources, last).await;
            while ears.verified() < 8 << 20 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        } else {
            let FromReceiver::Have {
                index: 0,
                first,
                values,
            } = framed::expect(&mut control.1).await.unwrap()
            else {
                panic!("no claim")
            };
            assert_eq!((first, values.len()), (last, 1));
        }
        drop(control);
        receiving.await.unwrap().unwrap_err();
    }
}

/// One chunk, read by the code that reads them all.
async fn send_chunk(bulk: &Memory, sources: &Arc<Sources>, chunk: u32) {
    use crate::app::Bulk;
    use crate::app::flow::Outflow;
    use crate::app::transfer::source::{Job, Pool, Read, read};
    let mut stream = bulk.open_uni().await.unwrap();
    let transfer = TransferId(7);
    framed::write(
        &mut stream,
        &crate::app::transfer::messages::DataHeader { transfer },
    )
    .await
    .unwrap();
    let (out, mut pieces) = tokio::sync::mpsc::channel(2);
    let sources = Arc::clone(sources);
    tokio::task::spawn_blocking(move || {
        let chunks = vec![chunk];
        read(
            &sources,
            Job::Again { index: 0, chunks },
            &Pool::default(),
            &out,
            &|_| false,
        );
    });
    while let Some(piece) = pieces.recv().await {
        let Read::Wire(bytes) = piece else {
            panic!("{piece:?}")
        };
        stream.write(bytes).await.unwrap();
    }
    stream.finish();
    assert!(size_of::<Piece>() < 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_came_back_for_is_removed_after_a_week() {
    let place = Place::new();
    for name in ["old", "young", "new"] {
        fs::write(place.out(name), noise(3 * MIB)).unwrap();
    }
    let partial = place.inbox(".knothole-partial");
    broken(&place, &["old"], 2 * MIB, |_| partial.exists()).await;
    let old = names(&partial).remove(0);
    let journal = fs::File::options()
        .write(true)
        .open(partial.join(&old).join("journal"))
        .unwrap();
    let days_ago = std::time::SystemTime::now() - Duration::from_secs(8 * 24 * 60 * 60);
    // Its threads may still be at work.
    while journal.try_lock().is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    journal.set_modified(days_ago).unwrap();
    journal.unlock().unwrap();
    broken(&place, &["young"], 2 * MIB, |_| names(&partial) != [old.as_str()]).await;
    let young = names(&partial);
    assert!(young.len() == 1 && young[0] != old, "{young:?}");
    undisturbed(&place, &["new"]).await;
    assert_eq!(names(&partial), young, "what is young stays");
}
