//! The folder for received files against links, and what is there already.

use std::os::unix::fs::symlink;

use super::*;
use crate::app::transfer::manifest::Builder;

fn entry(parent: u32, name: &str, kind: Kind) -> Entry {
    Entry {
        parent,
        name: name.to_owned(),
        kind,
        size: 0,
        mode: 0o644,
        modified_ns: 1_000_000_000,
        stamp: 0,
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

    fn make(&self, list: &Manifest, conflict: Conflict, known: &Roots) -> io::Result<Roots> {
        self.inbox.make_folders(list, conflict, known, |_, _| Ok(()))
    }

    /// Put a new file of this name in place.
    fn store(&self, name: &str, conflict: Conflict) -> io::Result<Choice> {
        fs::write(self.path(".new"), "new")?;
        let root = self.inbox.root();
        let choice = self.inbox.choose((root, name), conflict, None)?;
        self.inbox.place((root, ".new"), root, &choice)?;
        Ok(choice)
    }
}

#[test]
fn a_link_in_place_of_a_folder_is_not_followed() {
    let place = Place::new();
    let outside = place.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, place.path("d")).unwrap();
    let list = manifest(&[entry(0, "d", Kind::Folder), entry(1, "e", Kind::Folder)]);
    assert!(place.make(&list, Conflict::Overwrite, &Roots::new()).is_err());
    let known = Roots::from([("d".to_owned(), "d".to_owned())]);
    assert!(place.make(&list, Conflict::Rename, &known).is_err());
    let roots = place.make(&list, Conflict::Rename, &Roots::new()).unwrap();
    assert_eq!(roots["d"], "d (1)");
    fs::remove_dir_all(place.path("d (1)")).unwrap();
    symlink(&outside, place.path("d (1)")).unwrap();
    assert!(Folders::new(&place.inbox, &list, &roots).get(1).is_err());
    assert!(Folders::new(&place.inbox, &list, &roots).get(2).is_err());
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn a_link_in_place_of_a_file_is_not_written_through() {
    let place = Place::new();
    let victim = place.dir.path().join("victim");
    fs::write(&victim, "old").unwrap();
    symlink(&victim, place.path("f")).unwrap();
    let new = |name: &str| Choice::New(name.to_owned());
    assert_eq!(place.store("f", Conflict::Skip).unwrap(), Choice::Kept);
    assert_eq!(place.store("f", Conflict::Rename).unwrap(), new("f (1)"));
    assert_eq!(
        place.store("f", Conflict::Overwrite).unwrap(),
        Choice::Replace("f".to_owned())
    );
    assert_eq!(fs::read_to_string(&victim).unwrap(), "old");
    let link = fs::symlink_metadata(place.path("f")).unwrap();
    assert!(link.is_file(), "the link itself was replaced");
}

#[test]
fn a_name_that_is_taken_between_choosing_and_placing_is_not_overwritten() {
    let place = Place::new();
    fs::write(place.path(".new"), "new").unwrap();
    let root = place.inbox.root();
    let choice = place.inbox.choose((root, "f"), Conflict::Rename, None).unwrap();
    fs::write(place.path("f"), "quicker").unwrap();
    let error = place.inbox.place((root, ".new"), root, &choice).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read_to_string(place.path("f")).unwrap(), "quicker");
}

#[test]
fn only_an_untouched_file_of_an_earlier_attempt_is_replaced() {
    let place = Place::new();
    let root = place.inbox.root();
    fs::write(place.path("f (3)"), "earlier").unwrap();
    let seen = look((root, "f (3)")).unwrap().unwrap();
    let ours = ("f (3)".to_owned(), seen);
    let choose = |ours| {
        place
            .inbox
            .choose((root, "f"), Conflict::Rename, Some(ours))
            .unwrap()
    };
    assert_eq!(choose(&ours), Choice::Replace("f (3)".to_owned()));
    let touched = Seen {
        modified_ns: seen.modified_ns - 1,
        ..seen
    };
    assert_eq!(
        choose(&("f (3)".to_owned(), touched)),
        Choice::New("f".to_owned())
    );
}

#[test]
fn the_longest_names_get_numbers() {
    let place = Place::new();
    let long = format!("{}.txt", "\u{e9}".repeat(125));
    assert_eq!(
        place.store(&long, Conflict::Rename).unwrap(),
        Choice::New(long.clone())
    );
    let second = place.store(&long, Conflict::Rename).unwrap();
    assert_eq!(second, Choice::New(numbered(&long, 1)));
}

#[test]
fn folders_that_an_earlier_attempt_made_are_used_again() {
    let place = Place::new();
    let list = manifest(&[entry(0, "d", Kind::Folder), entry(1, "e", Kind::Folder)]);
    fs::create_dir(place.path("d")).unwrap();
    let mut noted = Vec::new();
    let note = |name: &str, stored: &str| {
        noted.push((name.to_owned(), stored.to_owned(), place.path(stored).exists()));
        Ok(())
    };
    let roots = place
        .inbox
        .make_folders(&list, Conflict::Rename, &Roots::new(), note)
        .unwrap();
    assert_eq!(
        noted,
        [("d".to_owned(), "d (1)".to_owned(), false)],
        "before it was made"
    );
    fs::write(place.path("d (1)/e/x"), "x").unwrap();
    assert_eq!(place.make(&list, Conflict::Rename, &roots).unwrap(), roots);
    assert!(place.path("d (1)/e/x").exists() && !place.path("d (2)").exists());
}
