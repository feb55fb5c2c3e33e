//! Transfers that run to their ends.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

const MIB: usize = 1024 * 1024;

fn noise(len: usize) -> Vec<u8> {
    Dice(9).bytes(len)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_arrives_whole_with_its_time_and_its_permissions_but_no_power_over_users() {
    let place = Place::new();
    let bytes = noise(3 * MIB + 17);
    fs::write(place.out("big"), &bytes).unwrap();
    fs::set_permissions(place.out("big"), fs::Permissions::from_mode(0o4750)).unwrap();
    fs::write(place.out("small"), "x").unwrap();
    fs::set_permissions(place.out("small"), fs::Permissions::from_mode(0o6500)).unwrap();
    let (sent, received) = place
        .both(&[place.out("big"), place.out("small")], Conflict::Rename)
        .await;
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert_eq!(
        (sent.stored, sent.bytes, sent.resumed),
        (2, 3 * MIB as u64 + 18, 0)
    );
    assert_eq!(
        (received.stored, received.bytes, received.resumed),
        (2, 3 * MIB as u64 + 18, 0)
    );
    assert!(fs::read(place.inbox("big")).unwrap() == bytes);
    for (name, mode) in [("big", 0o750), ("small", 0o700)] {
        let (here, there) = (
            fs::metadata(place.out(name)).unwrap(),
            fs::metadata(place.inbox(name)).unwrap(),
        );
        // The mask of this process may take from it.
        assert_eq!(there.mode() & 0o7777 & !mode, 0, "{name}: {:o}", there.mode());
        assert_eq!(there.mode() & 0o700, mode & 0o700);
        assert_eq!(
            (here.mtime(), here.mtime_nsec()),
            (there.mtime(), there.mtime_nsec())
        );
    }
    assert_eq!(place.received(), ["big", "small"], "nothing else is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hash_of_an_only_file_is_plain_blake3() {
    for len in [0, 5, MIB, 2 * MIB + 1] {
        let place = Place::new();
        fs::write(place.out("f"), noise(len)).unwrap();
        let (sent, received) = place.both(&[place.out("f")], Conflict::Rename).await;
        let hash = *blake3::hash(&noise(len)).as_bytes();
        assert_eq!(received.unwrap().hash, Some(hash), "{len} bytes");
        assert_eq!(sent.unwrap().hash, Some(hash));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_links_empty_sparse_and_many_small_files_arrive() {
    let place = Place::new();
    fs::create_dir_all(place.out("tree/empty folder")).unwrap();
    fs::write(place.out("tree/empty"), "").unwrap();
    for n in 0..700 {
        fs::write(place.out(&format!("tree/{n}")), n.to_string().repeat(n)).unwrap();
    }
    let sparse = fs::File::create(place.out("tree/sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"x", (32 << 20) + 5).unwrap();
    symlink("499", place.out("tree/link")).unwrap();
    symlink("/etc/passwd", place.out("tree/bad link")).unwrap();
    fs::write(place.out("beside"), "x").unwrap();
    let (sent, received) = place
        .both(&[place.out("tree"), place.out("beside")], Conflict::Rename)
        .await;
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert_eq!((sent.stored, received.stored), (703, 703));
    assert!(sent.others.is_empty() && received.others.is_empty());
    fs::remove_file(place.out("tree/bad link")).unwrap();
    assert!(tree(&place.out("tree")) == tree(&place.inbox("tree")));
    assert_eq!(fs::read_link(place.inbox("tree/link")).unwrap(), Path::new("499"));
    let blocks = fs::metadata(place.inbox("tree/sparse")).unwrap().blocks();
    assert!(
        blocks * 512 <= 2 << 20,
        "what was a hole is a hole: {blocks} blocks"
    );
    let times = |path| fs::metadata(path).unwrap().modified().unwrap();
    assert_eq!(
        times(place.inbox("tree/empty folder")),
        times(place.out("tree/empty folder"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_overwritten_unless_asked_for() {
    let place = Place::new();
    fs::create_dir(place.out("d")).unwrap();
    fs::write(place.out("d/f"), "new").unwrap();
    fs::write(place.out("a.txt"), "new").unwrap();
    symlink("f", place.out("d/l")).unwrap();
    let paths = [place.out("d"), place.out("a.txt")];
    fs::create_dir_all(place.inbox("d")).unwrap();
    fs::write(place.inbox("d/f"), "old").unwrap();
    fs::write(place.inbox("a.txt"), "old").unwrap();
    symlink("elsewhere", place.inbox("d/l")).unwrap();
    let read = |name: &str| fs::read_to_string(place.inbox(name)).unwrap();
    let link = |name: &str| fs::read_link(place.inbox(name)).unwrap();
    let received = place.both(&paths, Conflict::Rename).await.1.unwrap();
    assert_eq!((read("d/f"), read("a.txt")), ("old".to_owned(), "old".to_owned()));
    assert_eq!(
        (read("d (1)/f"), read("a (1).txt")),
        ("new".to_owned(), "new".to_owned())
    );
    assert!(received.places[0].ends_with("d (1)") && received.places[1].ends_with("a (1).txt"));
    let (sent, received) = place.both(&paths, Conflict::Skip).await;
    let (sent, received) = (sent.unwrap(), received.unwrap());
    assert_eq!((sent.stored, received.stored), (0, 0));
    assert_eq!(received.others, [(1, Outcome::Kept), (3, Outcome::Kept)]);
    assert_eq!(sent.others, received.others, "the sender knows it too");
    assert_eq!((read("d/f"), read("a.txt")), ("old".to_owned(), "old".to_owned()));
    assert_eq!(link("d/l"), Path::new("elsewhere"));
    let (sent, _) = place.both(&paths, Conflict::Overwrite).await;
    assert_eq!(sent.unwrap().stored, 2);
    assert_eq!((read("d/f"), read("a.txt")), ("new".to_owned(), "new".to_owned()));
    assert_eq!(link("d/l"), Path::new("f"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_reaches_the_sender() {
    let place = Place::new();
    fs::write(place.out("a"), "x").unwrap();
    let (_, [near, (_far, control)]) = memory::connection(i64::MAX);
    let sources = Arc::new(scan(&[place.out("a")]).unwrap());
    let (sent, ()) = tokio::join!(send_over(near, sources, Arc::default()), async {
        let incoming = Incoming::read(control.0, control.1).await.unwrap();
        assert_eq!(incoming.manifest().bytes(), 1);
        incoming.decline(Refused::Person).await;
    });
    assert!(
        matches!(sent, Err(SendError::Declined(Refused::Person))),
        "{sent:?}"
    );
    assert_eq!(place.received(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_vanish_shrink_or_change_do_not_stop_the_others() {
    let place = Place::new();
    let names = ["gone", "less", "other", "fine"];
    for name in names {
        fs::write(place.out(name), noise(2 * MIB)).unwrap();
    }
    let sources = Arc::new(scan(&names.map(|name| place.out(name))).unwrap());
    fs::remove_file(place.out("gone")).unwrap();
    fs::write(place.out("less"), noise(MIB + 1)).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    fs::write(place.out("other"), noise(2 * MIB)).unwrap();
    let (sent, received) = place.both_of(sources, Conflict::Rename, i64::MAX).await;
    let (sent, received) = (sent.unwrap(), received.unwrap());
    let mut others = sent.others.clone();
    others.sort_by_key(|(index, _)| *index);
    assert_eq!(others, [0, 1, 2].map(|index| (index, Outcome::Incomplete)));
    assert_eq!((sent.stored, received.stored), (1, 1));
    assert_eq!(received.places, [place.inbox("fine").canonicalize().unwrap()]);
    let seen: Vec<_> = place
        .received()
        .into_iter()
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(seen, ["fine"]);
    // The same once more: the file that is there is not sent again.
    let sources = Arc::new(scan(&["less", "other", "fine"].map(|name| place.out(name))).unwrap());
    let (sent, _) = place.both_of(sources, Conflict::Rename, i64::MAX).await;
    assert_eq!(sent.unwrap().stored, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_name_that_a_disk_can_hold_arrives_in_a_safe_form() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let place = Place::new();
    fs::create_dir(place.out("d")).unwrap();
    let mut count = 0;
    for name in crate::app::transfer::names::corpus::HOSTILE {
        let path = place.out("d").join(OsStr::from_bytes(name.as_bytes()));
        let legal = name.len() <= 255 && !name.contains(['/', '\0']) && !matches!(*name, "" | "." | "..");
        if legal && fs::write(path, name).is_ok() {
            count += 1;
        }
    }
    assert!(count > 100, "{count}");
    let long = "l".repeat(255);
    fs::write(place.out("d").join(&long), "long").unwrap();
    let (sent, _) = place.both(&[place.out("d")], Conflict::Rename).await;
    assert_eq!(sent.unwrap().stored, count + 1);
    assert_eq!(place.received(), ["d"]);
    let arrived = tree(&place.inbox("d"));
    assert_eq!(arrived.len(), count as usize + 1);
    assert!(arrived.iter().all(|(path, _)| path.components().count() == 1));
    let contents = |tree: &[(PathBuf, Option<Vec<u8>>)]| {
        let mut contents: Vec<_> = tree.iter().map(|(_, content)| content.clone()).collect();
        contents.sort();
        contents
    };
    assert_eq!(contents(&arrived), contents(&tree(&place.out("d"))));
    assert_eq!(fs::read(place.inbox("d").join(long)).unwrap(), b"long");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_the_rate_holds() {
    let place = Place::new();
    fs::write(place.out("f"), noise(2 * MIB)).unwrap();
    let sources = Arc::new(scan(&[place.out("f")]).unwrap());
    let (_, [(near, control), far]) = memory::connection(i64::MAX);
    let limited = Sending {
        limit: Some(Limit::new(4 << 20)),
        ..sending()
    };
    let began = std::time::Instant::now();
    let (sent, received) = tokio::join!(
        send(&near, control, sources, limited, Arc::new(Ears::default())),
        receive_over(far, place.open(), terms(Conflict::Rename), Arc::default()),
    );
    sent.unwrap();
    received.unwrap();
    // The first piece is free.
    assert!(began.elapsed().as_millis() >= 440, "{:?}", began.elapsed());
}
