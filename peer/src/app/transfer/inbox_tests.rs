//! The folder for received files against hostile names, links, and what is there already.

use std::io::Write;
use std::os::unix::fs::symlink;

use super::*;
use crate::app::transfer::manifest::Builder;
use crate::app::transfer::names::corpus::HOSTILE;
use crate::app::transfer::names::safe_path;

fn entry(path: &[&str], kind: Kind) -> Entry {
    Entry {
        path: path.iter().map(|c| (*c).to_owned()).collect(),
        kind,
        size: 0,
        mode: 0o644,
        modified_ns: 1_000_000_000,
    }
}

fn manifest(entries: &[Entry]) -> Manifest {
    let mut builder = Builder::default();
    for entry in entries {
        builder.push(entry.clone()).unwrap();
    }
    builder.finish().unwrap()
}

struct Place {
    dir: tempfile::TempDir,
    inbox: Inbox,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let inbox = Inbox::open(&dir.path().join("in")).unwrap();
        Self { dir, inbox }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("in").join(name)
    }

    fn store(&self, entry: &Entry, conflict: Conflict) -> io::Result<Placed> {
        let layout = self
            .inbox
            .prepare(&manifest(std::slice::from_ref(entry)), conflict)?;
        let mut part = self.inbox.begin(&layout, entry)?;
        part.file().write_all(b"new")?;
        part.place(conflict)
    }
}

#[test]
fn no_hostile_name_leaves_the_folder() {
    let place = Place::new();
    let sentinel = place.dir.path().join("sentinel");
    fs::write(&sentinel, "untouched").unwrap();
    let mut stored = 0;
    for name in HOSTILE {
        let Ok(path) = safe_path(&[(*name).to_owned()]) else {
            continue;
        };
        let entry = Entry {
            path,
            ..entry(&["x"], Kind::File)
        };
        assert!(
            matches!(place.store(&entry, Conflict::Rename), Ok(Placed::Stored(_))),
            "{name:?}"
        );
        stored += 1;
    }
    let outside: Vec<_> = fs::read_dir(place.dir.path()).unwrap().collect();
    assert_eq!(outside.len(), 2, "only the folder and the sentinel");
    assert_eq!(fs::read_to_string(sentinel).unwrap(), "untouched");
    assert_eq!(fs::read_dir(place.path("")).unwrap().count(), stored);
}

#[test]
fn a_link_in_place_of_a_folder_is_not_followed() {
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, place.path("d")).unwrap();
    let list = manifest(&[entry(&["d"], Kind::Folder), entry(&["d", "f"], Kind::File)]);
    assert!(place.inbox.prepare(&list, Conflict::Overwrite).is_err());
    let layout = place.inbox.prepare(&list, Conflict::Rename).unwrap();
    fs::remove_dir(place.path("d (1)")).unwrap();
    symlink(&outside, place.path("d (1)")).unwrap();
    assert!(place.inbox.begin(&layout, &list.entries()[1]).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_link_in_place_of_a_file_or_a_part_is_not_written_through() {
    let place = Place::new();
    let victim = place.dir.path().join("victim");
    fs::write(&victim, "old").unwrap();
    symlink(&victim, place.path("f.knothole-part")).unwrap();
    symlink(&victim, place.path("f")).unwrap();
    let file = entry(&["f"], Kind::File);
    assert_eq!(place.store(&file, Conflict::Skip).unwrap(), Placed::Kept);
    assert_eq!(
        place.store(&file, Conflict::Rename).unwrap(),
        Placed::Stored("f (1)".to_owned())
    );
    assert_eq!(
        place.store(&file, Conflict::Overwrite).unwrap(),
        Placed::Stored("f".to_owned())
    );
    assert_eq!(fs::read_to_string(&victim).unwrap(), "old");
    assert_eq!(
        fs::read_to_string(place.path("f")).unwrap(),
        "new",
        "the link itself was replaced"
    );
}

#[test]
fn two_transfers_of_one_name_do_not_share_a_partial_file() {
    let place = Place::new();
    let file = entry(&["f"], Kind::File);
    let layout = place
        .inbox
        .prepare(&manifest(std::slice::from_ref(&file)), Conflict::Rename)
        .unwrap();
    let mut one = place.inbox.begin(&layout, &file).unwrap();
    let mut two = place.inbox.begin(&layout, &file).unwrap();
    one.file().write_all(b"one").unwrap();
    two.file().write_all(b"two").unwrap();
    assert_eq!(
        one.place(Conflict::Rename).unwrap(),
        Placed::Stored("f".to_owned())
    );
    assert_eq!(
        two.place(Conflict::Rename).unwrap(),
        Placed::Stored("f (1)".to_owned())
    );
    assert_eq!(fs::read_to_string(place.path("f (1)")).unwrap(), "two");
}

#[test]
fn a_partial_file_of_an_ended_transfer_is_begun_anew() {
    let place = Place::new();
    let file = entry(&["f"], Kind::File);
    let layout = place
        .inbox
        .prepare(&manifest(std::slice::from_ref(&file)), Conflict::Rename)
        .unwrap();
    let mut first = place.inbox.begin(&layout, &file).unwrap();
    first.file().write_all(b"longer than the second").unwrap();
    drop(first);
    assert!(place.path("f.knothole-part").exists());
    assert_eq!(
        place.store(&file, Conflict::Rename).unwrap(),
        Placed::Stored("f".to_owned())
    );
    assert_eq!(fs::read_to_string(place.path("f")).unwrap(), "new");
}

#[test]
fn a_part_with_a_second_name_is_not_cut() {
    let place = Place::new();
    fs::write(place.path("precious"), "old").unwrap();
    fs::hard_link(place.path("precious"), place.path("f.knothole-part")).unwrap();
    place.store(&entry(&["f"], Kind::File), Conflict::Rename).unwrap();
    assert_eq!(fs::read_to_string(place.path("precious")).unwrap(), "old");
}

#[test]
fn the_longest_names_get_numbers_and_parts_of_their_own() {
    let place = Place::new();
    let long = format!("{}.txt", "\u{e9}".repeat(125));
    let other = format!("{}.pdf", "\u{e9}".repeat(125));
    assert_ne!(part_name(&long, 0), part_name(&other, 0));
    for number in [0, 1, 999] {
        assert!(part_name(&long, number).len() <= NAME_LEN_MAX);
        assert!(numbered(&long, number).len() <= NAME_LEN_MAX);
    }
    let file = entry(&[&long], Kind::File);
    assert_eq!(
        place.store(&file, Conflict::Rename).unwrap(),
        Placed::Stored(long.clone())
    );
    assert_eq!(
        place.store(&file, Conflict::Rename).unwrap(),
        Placed::Stored(numbered(&long, 1))
    );
}

#[test]
fn numbers_stand_before_the_ending() {
    assert_eq!(numbered("a.txt", 1), "a (1).txt");
    assert_eq!(numbered("a", 2), "a (2)");
    assert_eq!(numbered(".hidden", 3), ".hidden (3)");
    assert_eq!(
        numbered("v1.a sentence that is no ending", 1),
        "v1.a sentence that is no ending (1)"
    );
}

#[test]
fn what_is_there_is_not_asked_for_when_it_is_to_stay() {
    let place = Place::new();
    fs::write(place.path("b"), "old").unwrap();
    let list = manifest(&["a", "b", "c", "d"].map(|name| entry(&[name], Kind::File)));
    let layout = place.inbox.prepare(&list, Conflict::Skip).unwrap();
    assert_eq!(
        layout.wanted,
        [Run { first: 0, count: 1 }, Run { first: 2, count: 2 }]
    );
    assert_eq!(layout.wanted_files, 3);
}
