//! The address book: which machines this one is paired with, under which names, and which server they meet at.
//!
//! One JSON file that only its owner can read, because it holds what paired machines share. It changes in one step
//! (a new file takes the old one's name), and never by two processes at once: [`AddressBook::update`] holds a lock,
//! reads, changes, writes. Nothing here talks to the network.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::HEXLOWER;
use knothole_proto::id::{Name, PairSecret, PeerId};
use knothole_proto::server_url::ServerUrl;
use knothole_proto::wire::ACCEPT_TAGS_MAX;
use serde::{Deserialize, Serialize};

use crate::node::Peer;

/// Version of the file's layout.
const SCHEMA: u32 = 1;

/// Most paired machines: the server is told of each one's tag, and takes so many.
pub const CONTACTS_MAX: usize = ACCEPT_TAGS_MAX;

/// Largest file that is read, in bytes. 512 contacts take about 150 kB.
const FILE_LEN_MAX: u64 = 1024 * 1024;

/// The address book in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressBook {
    /// The server that this machine registers at.
    pub server: Option<ServerUrl>,
    /// The name under which it does.
    pub name: Option<Name>,
    contacts: BTreeMap<Name, Contact>,
}

/// A paired machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// What this machine's person calls it.
    pub petname: Name,
    /// Its key.
    pub id: PeerId,
    /// What the two share.
    pub secret: PairSecret,
    /// What it calls itself at the server.
    pub name: Option<Name>,
    /// When the two were paired.
    pub added: SystemTime,
}

impl Contact {
    /// The entry for a node's configuration.
    pub fn to_peer(&self) -> Peer {
        Peer {
            id: self.id,
            secret: self.secret.clone(),
        }
    }
}

impl AddressBook {
    /// The book in this file; an empty one if there is no such file.
    ///
    /// # Errors
    /// Any [`BookError`] but [`BookError::Write`]. A file that others can read is refused.
    pub fn load(path: &Path) -> Result<Self, BookError> {
        let failed = |source| BookError::Read {
            path: path.to_owned(),
            source,
        };
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(failed(error)),
        };
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(BookError::Readable {
                path: path.to_owned(),
                mode,
            });
        }
        let mut text = String::new();
        let length = file
            .take(FILE_LEN_MAX)
            .read_to_string(&mut text)
            .map_err(failed)?;
        let stored = serde_json::from_str::<Stored>(&text)
            .ok()
            .filter(|_| (length as u64) < FILE_LEN_MAX);
        let stored = stored.ok_or_else(|| BookError::Malformed {
            path: path.to_owned(),
        })?;
        if stored.schema != SCHEMA {
            return Err(BookError::Newer {
                path: path.to_owned(),
            });
        }
        stored.into_book().ok_or_else(|| BookError::Malformed {
            path: path.to_owned(),
        })
    }

    /// Change the book in this file, alone: read it, let `change` change it, write it. Returns what `change` returns.
    ///
    /// # Errors
    /// Any [`BookError`], also those that `change` returns; the file is then as it was.
    pub fn update<T>(
        path: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, BookError>,
    ) -> Result<T, BookError> {
        let failed = |source| BookError::Write {
            path: path.to_owned(),
            source,
        };
        let directory = path.parent().unwrap_or(Path::new("."));
        let made = fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        made.map_err(failed)?;
        // A file of its own: the book itself is replaced while the lock is held.
        let mut options = OpenOptions::new();
        let lock = options
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.with_extension("lock"));
        let lock = lock.map_err(failed)?;
        lock.lock().map_err(failed)?;
        let mut book = Self::load(path)?;
        let before = book.clone();
        let result = change(&mut book)?;
        if book != before {
            book.store(path).map_err(failed)?;
        }
        Ok(result)
    }

    /// All paired machines, by petname.
    pub fn contacts(&self) -> impl Iterator<Item = &Contact> {
        self.contacts.values()
    }

    /// The entries for a node's configuration.
    pub fn to_peers(&self) -> Vec<Peer> {
        self.contacts().map(Contact::to_peer).collect()
    }

    /// The paired machine with this key.
    pub fn by_id(&self, id: PeerId) -> Option<&Contact> {
        self.contacts().find(|contact| contact.id == id)
    }

    /// The paired machine that somebody means by a petname, by its own name at the server, or by the beginning of its
    /// id; looked for in this order.
    ///
    /// # Errors
    /// Any [`ResolveError`].
    pub fn resolve(&self, text: &str) -> Result<&Contact, ResolveError> {
        if let Some(contact) = self.contacts().find(|contact| contact.petname.as_str() == text) {
            return Ok(contact);
        }
        for matches in [
            |contact: &Contact, text: &str| contact.name.as_ref().is_some_and(|name| name.as_str() == text),
            |contact: &Contact, text: &str| contact.id.has_prefix(text),
        ] {
            let mut found = self.contacts().filter(|contact| matches(contact, text));
            match (found.next(), found.next()) {
                (Some(contact), None) => return Ok(contact),
                (Some(one), Some(two)) => {
                    return Err(ResolveError::Ambiguous(one.petname.clone(), two.petname.clone()));
                }
                (None, _) => {}
            }
        }
        Err(ResolveError::Unknown)
    }

    /// Add a machine, or renew what is shared with one that is there already, under its old petname. Returns the petname:
    /// the wanted one, or that with a number if it belongs to another machine.
    ///
    /// # Errors
    /// [`BookError::Full`].
    pub fn add(&mut self, mut contact: Contact) -> Result<Name, BookError> {
        if let Some(known) = self.contacts.values_mut().find(|known| known.id == contact.id) {
            contact.petname = known.petname.clone();
            *known = contact;
            return Ok(known.petname.clone());
        }
        if self.contacts.len() >= CONTACTS_MAX {
            return Err(BookError::Full);
        }
        let free = (1..=CONTACTS_MAX)
            .filter_map(|number| numbered(&contact.petname, number))
            .find(|name| !self.contacts.contains_key(name));
        let petname = free.ok_or(BookError::Full)?;
        contact.petname = petname.clone();
        self.contacts.insert(petname.clone(), contact);
        Ok(petname)
    }

    /// Forget a machine; `false` if it was not there.
    pub fn remove(&mut self, id: PeerId) -> bool {
        let before = self.contacts.len();
        self.contacts.retain(|_, contact| contact.id != id);
        self.contacts.len() < before
    }

    fn store(&self, path: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(&Stored::of(self))?;
        text.push(b'\n');
        let directory = path.parent().unwrap_or(Path::new("."));
        // Made with mode 0600.
        let mut file = tempfile::Builder::new().prefix(".book").tempfile_in(directory)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    }
}

/// `name` for 1, `name-2` for 2 and so on; `None` if that would be no name.
fn numbered(name: &Name, number: usize) -> Option<Name> {
    if number == 1 {
        return Some(name.clone());
    }
    let tail = format!("-{number}");
    let room = knothole_proto::id::NAME_LEN_MAX.saturating_sub(tail.len());
    let stem = name.as_str().get(..room).unwrap_or(name.as_str());
    format!("{}{tail}", stem.trim_end_matches('-')).parse().ok()
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    schema: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Name>,
    peers: Vec<StoredContact>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredContact {
    petname: Name,
    id: String,
    secret: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<Name>,
    added_unix_s: u64,
}

impl Stored {
    fn of(book: &AddressBook) -> Self {
        let stored = |contact: &Contact| StoredContact {
            petname: contact.petname.clone(),
            id: contact.id.to_string(),
            secret: HEXLOWER.encode(contact.secret.as_bytes()),
            name: contact.name.clone(),
            added_unix_s: contact
                .added
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_secs(),
        };
        Self {
            schema: SCHEMA,
            server: book.server.as_ref().map(ServerUrl::reveal),
            name: book.name.clone(),
            peers: book.contacts().map(stored).collect(),
        }
    }

    /// `None` if a value is not what it should be, or two entries claim one name or one key.
    fn into_book(self) -> Option<AddressBook> {
        let mut book = AddressBook {
            server: self.server.map(|text| text.parse()).transpose().ok()?,
            name: self.name,
            contacts: BTreeMap::new(),
        };
        for stored in self.peers {
            let secret = HEXLOWER.decode(stored.secret.as_bytes()).ok()?;
            let contact = Contact {
                petname: stored.petname.clone(),
                id: stored.id.parse().ok()?,
                secret: PairSecret::from_bytes(secret.try_into().ok()?),
                name: stored.name,
                added: UNIX_EPOCH.checked_add(Duration::from_secs(stored.added_unix_s))?,
            };
            if book.by_id(contact.id).is_some() || book.contacts.len() >= CONTACTS_MAX {
                return None;
            }
            if book.contacts.insert(stored.petname, contact).is_some() {
                return None;
            }
        }
        Some(book)
    }
}

/// Why nobody in the book is meant by a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No petname, no name, and no id beginning with it.
    #[error("no paired machine has that name")]
    Unknown,
    /// More than one.
    #[error("both {0} and {1} are meant by it")]
    Ambiguous(Name, Name),
}

/// Why the book cannot be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BookError {
    /// The file cannot be read.
    #[error("cannot read the address book {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the address book {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read the file, and so the secrets in it.
    #[error("the address book {} can be read by others (mode {mode:04o})", path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not an address book.
    #[error("{} is not an address book, or is damaged", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// A newer version of the program wrote the file.
    #[error("the address book {} was written by another version of this program", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
    },
    /// There are [`CONTACTS_MAX`] machines in it.
    #[error("the address book is full ({CONTACTS_MAX} machines)")]
    Full,
    /// The petname belongs to another machine.
    #[error("`{0}` is the name of another paired machine")]
    PetnameTaken(Name),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contact(petname: &str, number: u8) -> Contact {
        Contact {
            petname: petname.parse().unwrap(),
            id: PeerId::from_bytes([number; 32]),
            secret: PairSecret::from_bytes([number.wrapping_add(100); 32]),
            name: Some(format!("host-{number}").parse().unwrap()),
            added: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        }
    }

    fn path() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("home/book.json");
        (dir, path)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_book_is_the_same_after_a_restart_and_only_its_owner_can_read_it() {
        let (_dir, path) = path();
        assert_eq!(AddressBook::load(&path).unwrap(), AddressBook::default());
        let server: ServerUrl = format!("knot://host:1/{}?token=abc", PeerId::from_bytes([9; 32]))
            .parse()
            .unwrap();
        let written = AddressBook::update(&path, |book| {
            book.server = Some(server.clone());
            book.name = Some("desk".parse().unwrap());
            book.add(contact("nas", 1))?;
            book.add(contact("lap", 2))?;
            Ok(book.clone())
        })
        .unwrap();
        assert_eq!(AddressBook::load(&path).unwrap(), written);
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 2, "the book and its lock: {left:?}");
    }

    #[test]
    fn a_book_that_others_can_read_is_refused() {
        let (_dir, path) = path();
        AddressBook::update(&path, |book| book.add(contact("nas", 1))).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            AddressBook::load(&path),
            Err(BookError::Readable { mode: 0o640, .. })
        ));
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let (_dir, path) = path();
        AddressBook::update(&path, |book| book.add(contact("nas", 1))).unwrap();
        let before = fs::read(&path).unwrap();
        let result = AddressBook::update(&path, |book| {
            book.remove(PeerId::from_bytes([1; 32]));
            Err::<(), _>(BookError::Full)
        });
        assert!(matches!(result, Err(BookError::Full)));
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    #[test]
    fn changes_of_many_writers_at_once_are_all_kept() {
        let (_dir, path) = path();
        std::thread::scope(|scope| {
            for number in 0..16 {
                let path = &path;
                scope.spawn(move || {
                    AddressBook::update(path, |book| book.add(contact("nas", number))).unwrap()
                });
            }
            for _ in 0..50 {
                assert!(
                    AddressBook::load(&path).is_ok(),
                    "a reader never sees half a book"
                );
            }
        });
        assert_eq!(AddressBook::load(&path).unwrap().contacts().count(), 16);
    }

    #[test]
    fn damage_is_noticed_and_left_alone() {
        let (_dir, path) = path();
        AddressBook::update(&path, |book| book.add(contact("nas", 1))).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for damaged in [
            text.get(..text.len() / 2).unwrap().to_owned(),
            String::new(),
            text.replace("6565", "65"),
            text.replace("\"petname\"", "\"petnam\""),
            text.replace("\"nas\"", "\"N A S\""),
        ] {
            assert_ne!(damaged, text);
            fs::write(&path, &damaged).unwrap();
            assert!(
                matches!(AddressBook::load(&path), Err(BookError::Malformed { .. })),
                "{damaged}"
            );
            assert!(AddressBook::update(&path, |book| book.add(contact("x", 2))).is_err());
            assert_eq!(fs::read_to_string(&path).unwrap(), damaged);
        }
        fs::write(&path, text.replace("\"schema\": 1", "\"schema\": 2")).unwrap();
        assert!(matches!(AddressBook::load(&path), Err(BookError::Newer { .. })));
    }

    #[test]
    fn a_machine_is_found_by_petname_then_by_name_then_by_id() {
        let mut book = AddressBook::default();
        book.add(contact("nas", 1)).unwrap();
        book.add(contact("host-1", 2)).unwrap();
        let id = PeerId::from_bytes([1; 32]).to_string();
        let found = |text: &str| {
            book.resolve(text)
                .map(|contact| contact.petname.as_str().to_owned())
        };
        assert_eq!(found("nas").unwrap(), "nas");
        assert_eq!(
            found("host-1").unwrap(),
            "host-1",
            "a petname goes before the other's own name"
        );
        assert_eq!(found("host-2").unwrap(), "host-1");
        assert_eq!(found(&id[..8]).unwrap(), "nas");
        assert_eq!(found(&id[..7]), Err(ResolveError::Unknown));
        assert_eq!(found("other"), Err(ResolveError::Unknown));
    }

    #[test]
    fn two_machines_of_one_name_are_ambiguous() {
        let mut book = AddressBook::default();
        for (petname, number) in [("a", 1), ("b", 2)] {
            let name = Some("same".parse().unwrap());
            book.add(Contact {
                name,
                ..contact(petname, number)
            })
            .unwrap();
        }
        assert!(matches!(book.resolve("same"), Err(ResolveError::Ambiguous(..))));
    }

    #[test]
    fn a_second_machine_of_one_petname_gets_a_number_and_a_known_one_keeps_its_own() {
        let mut book = AddressBook::default();
        let added = |book: &mut AddressBook, contact| book.add(contact).unwrap().as_str().to_owned();
        assert_eq!(added(&mut book, contact("nas", 1)), "nas");
        assert_eq!(added(&mut book, contact("nas", 2)), "nas-2");
        assert_eq!(added(&mut book, contact("nas", 3)), "nas-3");
        let secret = PairSecret::from_bytes([7; 32]);
        let again = Contact {
            secret: secret.clone(),
            ..contact("other", 2)
        };
        assert_eq!(added(&mut book, again), "nas-2");
        assert_eq!(book.by_id(PeerId::from_bytes([2; 32])).unwrap().secret, secret);
        assert_eq!(book.contacts().count(), 3);
        let long = "x".repeat(63);
        assert_eq!(added(&mut book, contact(&long, 4)), long);
        assert_eq!(
            added(&mut book, contact(&long, 5)),
            format!("{}-2", "x".repeat(61))
        );
    }

    #[test]
    fn a_forgotten_machine_is_gone() {
        let mut book = AddressBook::default();
        book.add(contact("nas", 1)).unwrap();
        assert!(book.remove(PeerId::from_bytes([1; 32])));
        assert!(!book.remove(PeerId::from_bytes([1; 32])));
        assert_eq!(book.to_peers(), []);
    }
}
