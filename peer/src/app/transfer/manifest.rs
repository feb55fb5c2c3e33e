//! The list of everything in a transfer, checked as a whole before the first byte is written.
//!
//! Both sides build it by the same rules: the sender from its disk, so that it learns before sending what would be
//! refused; the receiver from the pages that arrive. A manifest that exists is consistent: every folder comes before what
//! lies in it, no two entries would share a place on any disk, no link leads out, and the numbers are those of the offer.
//! An entry takes about 150 bytes, however deep it lies: it knows its folder and not its path.

use std::collections::HashMap;
use std::path::PathBuf;

use super::messages::{
    ENTRIES_MAX, Entry, FORMAT, Kind, NAMES_LEN_MAX, Offer, ROOTS_SHOWN_MAX, TARGET_LEN_MAX, TransferId,
};
use super::names::{DEPTH_MAX, NameError, PATH_LEN_MAX, folded, numbered, safe_name};
use crate::untrusted::Untrusted;

/// A consistent list of entries under safe names.
#[derive(Debug, Default)]
pub struct Manifest {
    entries: Vec<Entry>,
    files: u32,
    bytes: u64,
    renamed: Vec<Renamed>,
}

/// A name that was made safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// As it was offered, slashes between components; untrusted.
    pub offered: String,
    /// As it will be stored.
    pub stored: String,
}

/// Builds a [`Manifest`] entry by entry.
#[derive(Debug, Default)]
pub struct Builder {
    manifest: Manifest,
    /// Which entry took a place: half a hash of folder and folded name, because whole paths would take ten times as much.
    places: HashMap<[u8; 16], u32>,
    names_len: usize,
}

/// Most renamed entries that are remembered for showing; more would fill a screen and say no more.
const RENAMED_SHOWN_MAX: usize = 32;

/// How many numbers are tried for a name whose place is taken.
const NUMBERS_MAX: u32 = 999;

impl Manifest {
    /// The entries, under safe names, in the order of the offer.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The entry of this index.
    pub fn entry(&self, index: u32) -> Option<&Entry> {
        self.entries.get(index as usize)
    }

    /// Number of files.
    pub fn files(&self) -> u32 {
        self.files
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The first names that were made safe.
    pub fn renamed(&self) -> &[Renamed] {
        &self.renamed
    }

    /// What lies at the top.
    pub fn roots(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.parent == 0)
    }

    /// Everything with its index.
    pub fn indexed(&self) -> impl DoubleEndedIterator<Item = (u32, &Entry)> + ExactSizeIterator {
        let index = |at| u32::try_from(at).unwrap_or(u32::MAX);
        self.entries
            .iter()
            .enumerate()
            .map(move |(at, entry)| (index(at), entry))
    }

    /// The folder that holds an entry; `None` at the top.
    pub fn parent(&self, entry: &Entry) -> Option<(u32, &Entry)> {
        let index = entry.parent.checked_sub(1)?;
        Some((index, self.entry(index)?))
    }

    /// Names from the top down to this entry.
    pub fn path(&self, index: u32) -> Vec<&str> {
        let mut names = Vec::new();
        let mut at = self.entry(index);
        while let Some(entry) = at {
            names.push(entry.name.as_str());
            at = self.parent(entry).map(|(_, parent)| parent);
        }
        names.reverse();
        names
    }

    /// The path of an entry as one text; untrusted.
    pub fn joined(&self, index: u32) -> String {
        self.path(index).join("/")
    }

    /// The message that announces this list.
    pub fn offer(&self, transfer: TransferId) -> Offer {
        Offer {
            format: FORMAT,
            transfer,
            entries: u32::try_from(self.entries.len()).unwrap_or(u32::MAX),
            files: self.files,
            bytes: self.bytes,
            roots: self
                .roots()
                .take(ROOTS_SHOWN_MAX)
                .map(|entry| entry.name.clone())
                .collect(),
        }
    }

    /// Is this list what the offer announced?
    ///
    /// # Errors
    /// [`ManifestError::Numbers`].
    pub fn matches(&self, offer: &Offer) -> Result<(), ManifestError> {
        let counted = u32::try_from(self.entries.len()).ok();
        if counted != Some(offer.entries) || self.files != offer.files || self.bytes != offer.bytes {
            return Err(ManifestError::Numbers);
        }
        let own = self.roots().take(ROOTS_SHOWN_MAX);
        let shown = offer.roots.iter().map(|name| safe_name(name, true).ok());
        if !shown.eq(own.map(|entry| Some(entry.name.clone()))) {
            return Err(ManifestError::Numbers);
        }
        Ok(())
    }
}

impl Builder {
    /// Add the next entry under its safe name.
    ///
    /// # Errors
    /// Any [`ManifestError`]; the list is then not to be used.
    pub fn push(&mut self, mut entry: Entry) -> Result<(), ManifestError> {
        let index = self.next_index()?;
        self.check_parent(&entry)?;
        let safe = self.safe_name(&entry)?;
        if let Some(other) = self.places.insert(place(entry.parent, &safe), index) {
            let taken = self.shown(other);
            return Err(ManifestError::SamePlace(taken, self.shown_under(&entry, &safe)));
        }
        self.check_size(&entry, &safe)?;
        self.check_link(&entry)?;
        self.count(&entry)?;
        if safe != entry.name {
            self.note_renamed(&entry, &safe);
            entry.name = safe;
        }
        self.manifest.entries.push(entry);
        Ok(())
    }

    /// As [`Self::push`], but an entry whose place is taken gets a number: two names that differ in case only are no
    /// reason to send neither. Returns the name that it got.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_numbered(&mut self, mut entry: Entry) -> Result<String, ManifestError> {
        let safe = self.safe_name(&entry)?;
        let free = (0..=NUMBERS_MAX)
            .map(|number| numbered(&safe, number))
            .find(|name| !self.places.contains_key(&place(entry.parent, name)));
        if let Some(free) = free.filter(|free| *free != safe) {
            self.note_renamed(&entry, &free);
            entry.name = free;
        }
        self.push(entry)?;
        Ok(self
            .manifest
            .entries
            .last()
            .map_or_else(String::new, |entry| entry.name.clone()))
    }

    /// The finished list.
    ///
    /// # Errors
    /// [`ManifestError::Nothing`] if nothing was added.
    pub fn finish(self) -> Result<Manifest, ManifestError> {
        if self.manifest.entries.is_empty() {
            return Err(ManifestError::Nothing);
        }
        Ok(self.manifest)
    }

    /// Number of entries so far.
    pub fn len(&self) -> usize {
        self.manifest.entries.len()
    }

    /// Was nothing added yet?
    pub fn is_empty(&self) -> bool {
        self.manifest.entries.is_empty()
    }

    /// Would this link stay within what is sent, in a folder of that number?
    pub fn keeps_link(&self, parent: u32, target: &str) -> bool {
        let Some(depth) = self.depth(parent) else {
            return false;
        };
        let mut climbs = 0;
        let mut names = target.split('/').peekable();
        while names.next_if_eq(&"..").is_some() {
            climbs += 1;
        }
        // Only at the beginning: behind a name, `..` may lead out of what another link points to. The folder at the top is
        // the limit.
        !target.is_empty()
            && target.len() <= TARGET_LEN_MAX
            && !target.contains('\0')
            && climbs < depth
            && names.all(|name| !matches!(name, "" | ".."))
    }

    fn next_index(&self) -> Result<u32, ManifestError> {
        let index = u32::try_from(self.manifest.entries.len()).unwrap_or(u32::MAX);
        if index >= ENTRIES_MAX {
            return Err(ManifestError::TooMany);
        }
        Ok(index)
    }

    fn safe_name(&self, entry: &Entry) -> Result<String, ManifestError> {
        safe_name(&entry.name, entry.parent == 0).map_err(|error| ManifestError::Name {
            path: self.shown_under(entry, &entry.name),
            error,
        })
    }

    /// The folder that holds this entry must be in the list, before it, as a folder.
    fn check_parent(&self, entry: &Entry) -> Result<(), ManifestError> {
        match (entry.parent, self.manifest.parent(entry)) {
            (0, _) => Ok(()),
            (_, None) => Err(ManifestError::NoFolder(Untrusted(&entry.name).to_string())),
            (_, Some((_, holder))) if holder.kind == Kind::Folder => Ok(()),
            (_, Some((index, _))) => Err(ManifestError::FileAsFolder(self.shown(index))),
        }
    }

    fn check_size(&mut self, entry: &Entry, name: &str) -> Result<(), ManifestError> {
        self.names_len += name.len() + entry.target_len();
        if self.names_len > NAMES_LEN_MAX {
            return Err(ManifestError::NamesTooLong);
        }
        let mut length = name.len() + 1;
        let mut depth = 1;
        let mut at = self.manifest.parent(entry);
        while let Some((_, folder)) = at {
            length += folder.name.len() + 1;
            depth += 1;
            at = self.manifest.parent(folder);
        }
        let error = match (depth, length) {
            (depth, _) if depth > DEPTH_MAX => NameError::TooDeep(depth),
            (_, length) if length > PATH_LEN_MAX => NameError::PathTooLong(length),
            _ => return Ok(()),
        };
        let path = self.shown_under(entry, name);
        Err(ManifestError::Name { path, error })
    }

    fn check_link(&self, entry: &Entry) -> Result<(), ManifestError> {
        match &entry.kind {
            Kind::Link { target } if !self.keeps_link(entry.parent, target) => {
                Err(ManifestError::LinkLeaves(self.shown_under(entry, &entry.name)))
            }
            _ => Ok(()),
        }
    }

    fn count(&mut self, entry: &Entry) -> Result<(), ManifestError> {
        match entry.kind {
            Kind::File => self.manifest.files += 1,
            _ if entry.size != 0 => return Err(ManifestError::Numbers),
            _ => {}
        }
        self.manifest.bytes = self
            .manifest
            .bytes
            .checked_add(entry.size)
            .ok_or(ManifestError::Numbers)?;
        Ok(())
    }

    /// How many folders lie above what is in this one, itself included.
    fn depth(&self, parent: u32) -> Option<usize> {
        match parent.checked_sub(1) {
            None => Some(0),
            Some(index) => self
                .manifest
                .entry(index)
                .map(|_| self.manifest.path(index).len()),
        }
    }

    fn note_renamed(&mut self, entry: &Entry, stored: &str) {
        if self.manifest.renamed.len() < RENAMED_SHOWN_MAX {
            self.manifest.renamed.push(Renamed {
                offered: self.joined_under(entry, &entry.name),
                stored: self.joined_under(entry, stored),
            });
        }
    }

    fn joined_under(&self, entry: &Entry, name: &str) -> String {
        match self.manifest.parent(entry) {
            Some((index, _)) => format!("{}/{name}", self.manifest.joined(index)),
            None => name.to_owned(),
        }
    }

    fn shown_under(&self, entry: &Entry, name: &str) -> String {
        Untrusted(&self.joined_under(entry, name)).to_string()
    }

    fn shown(&self, index: u32) -> String {
        Untrusted(&self.manifest.joined(index)).to_string()
    }
}

/// The path of an entry for the local file system, relative.
pub fn local_path(manifest: &Manifest, index: u32) -> PathBuf {
    manifest.path(index).iter().collect()
}

fn place(parent: u32, name: &str) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&parent.to_le_bytes());
    hasher.update(folded(name).as_bytes());
    let mut half = [0; 16];
    hasher.finalize_xof().fill(&mut half);
    half
}

/// Why a list of entries is refused as a whole. Names in it are escaped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// A name or path is not acceptable.
    #[error("`{path}` is not acceptable: {error}")]
    Name {
        /// The path, escaped.
        path: String,
        /// Why.
        error: NameError,
    },
    /// Two entries would share one place, at least on disks that ignore case.
    #[error("`{0}` and `{1}` would be the same file on a disk that ignores case")]
    SamePlace(String, String),
    /// Something lies in what is a file.
    #[error("`{0}` is both a file and a folder")]
    FileAsFolder(String),
    /// An entry comes before the folder that holds it.
    #[error("the folder of `{0}` is missing from the list")]
    NoFolder(String),
    /// More than [`ENTRIES_MAX`] entries.
    #[error("more than {ENTRIES_MAX} files and folders at once")]
    TooMany,
    /// All names and what links say exceed [`NAMES_LEN_MAX`] together.
    #[error("all names together, with what links say, exceed {NAMES_LEN_MAX} bytes")]
    NamesTooLong,
    /// A link does not stay within what is sent.
    #[error("the link `{0}` points out of what is sent")]
    LinkLeaves(String),
    /// Sizes overflow, a folder has a size, or the list is not what the offer announced.
    #[error("the list is not what the offer announced")]
    Numbers,
    /// The list is empty.
    #[error("there is nothing to send")]
    Nothing,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(parent: u32, name: &str, kind: Kind, size: u64) -> Entry {
        Entry {
            parent,
            name: name.to_owned(),
            kind,
            size,
            mode: 0o644,
            modified_ns: 0,
            stamp: 0,
        }
    }

    fn file(parent: u32, name: &str, size: u64) -> Entry {
        entry(parent, name, Kind::File, size)
    }

    fn folder(parent: u32, name: &str) -> Entry {
        entry(parent, name, Kind::Folder, 0)
    }

    fn link(parent: u32, name: &str, target: &str) -> Entry {
        let target = target.to_owned();
        entry(parent, name, Kind::Link { target }, 0)
    }

    fn build(entries: &[Entry]) -> Result<Manifest, ManifestError> {
        let mut builder = Builder::default();
        for entry in entries {
            builder.push(entry.clone())?;
        }
        builder.finish()
    }

    #[test]
    fn a_tree_is_counted_and_knows_its_paths() {
        let manifest = build(&[
            folder(0, "d"),
            file(1, "a", 5),
            folder(1, "e"),
            file(3, "b", 7),
            file(0, "c", 0),
            link(3, "l", "../a"),
        ])
        .unwrap();
        assert_eq!((manifest.files(), manifest.bytes()), (3, 12));
        assert_eq!(manifest.path(3), ["d", "e", "b"]);
        assert_eq!(manifest.joined(4), "c");
        let offer = manifest.offer(TransferId(1));
        assert_eq!(offer.roots, ["d", "c"]);
        assert_eq!(manifest.matches(&offer), Ok(()));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        for lie in [
            Offer {
                bytes: 11,
                ..offer.clone()
            },
            Offer {
                files: 2,
                ..offer.clone()
            },
            Offer {
                entries: 7,
                ..offer.clone()
            },
            Offer {
                roots: names(&["d", "other"]),
                ..offer.clone()
            },
            Offer {
                roots: names(&["d"]),
                ..offer.clone()
            },
        ] {
            assert_eq!(manifest.matches(&lie), Err(ManifestError::Numbers));
        }
    }

    #[test]
    fn two_entries_cannot_share_a_place_but_a_sender_can_number_them() {
        for pair in [
            ["a", "a"],
            ["README", "readme"],
            ["stra\u{df}e", "STRASSE"],
            ["na\u{200b}me", "name"],
            ["x\u{1}", "x\u{2}"],
        ] {
            let both = pair.map(|name| file(0, name, 1));
            let result = build(&both);
            assert!(matches!(result, Err(ManifestError::SamePlace(..))), "{pair:?}");
            let mut builder = Builder::default();
            for entry in both {
                builder.push_numbered(entry).unwrap();
            }
            let manifest = builder.finish().unwrap();
            assert!(manifest.entries()[1].name.ends_with(" (1)"), "{pair:?}");
            let renamed = manifest.renamed().last().unwrap();
            assert_eq!(
                (renamed.offered.as_str(), &renamed.stored),
                (pair[1], &manifest.entries()[1].name)
            );
            build(manifest.entries()).unwrap();
        }
        build(&[
            folder(0, "a"),
            folder(0, "b"),
            file(1, "same", 1),
            file(2, "same", 1),
        ])
        .unwrap();
    }

    #[test]
    fn folders_come_first_and_files_hold_nothing() {
        assert_eq!(
            build(&[file(0, "a", 1), file(1, "b", 1)]).unwrap_err(),
            ManifestError::FileAsFolder("a".to_owned())
        );
        for parent in [1, 2, u32::MAX] {
            assert_eq!(
                build(&[file(parent, "b", 1)]).unwrap_err(),
                ManifestError::NoFolder("b".to_owned())
            );
        }
        let mut deep: Vec<Entry> = (0..64).map(|n| folder(n, "d")).collect();
        build(&deep).unwrap();
        deep.push(folder(64, "d"));
        let error = build(&deep).unwrap_err();
        assert!(matches!(
            error,
            ManifestError::Name {
                error: NameError::TooDeep(65),
                ..
            }
        ));
        let long: Vec<Entry> = (0..21).map(|n| folder(n, &"d".repeat(200))).collect();
        let error = build(&long).unwrap_err();
        assert!(matches!(
            error,
            ManifestError::Name {
                error: NameError::PathTooLong(4221),
                ..
            }
        ));
    }

    #[test]
    fn links_stay_within_the_folder_that_is_sent() {
        let tree = |target: &str| build(&[folder(0, "top"), folder(1, "sub"), link(2, "l", target)]);
        for inside in ["x", "a/b", "../x", "../sub/./x", "..", "."] {
            tree(inside).unwrap();
        }
        for outside in [
            "",
            "/etc/passwd",
            "../..",
            "../../x",
            "a/../../../x",
            "a/..",
            "a//b",
            "x\0",
        ] {
            let error = tree(outside).unwrap_err();
            assert_eq!(
                error,
                ManifestError::LinkLeaves("top/sub/l".to_owned()),
                "{outside}"
            );
        }
        assert!(
            build(&[link(0, "l", "x")]).is_err(),
            "beside other files of the receiver"
        );
    }

    #[test]
    fn sums_that_overflow_and_folders_with_a_size_are_refused() {
        let max = u64::MAX;
        assert_eq!(
            build(&[file(0, "a", max), file(0, "b", 1)]).unwrap_err(),
            ManifestError::Numbers
        );
        assert_eq!(
            build(&[entry(0, "d", Kind::Folder, 1)]).unwrap_err(),
            ManifestError::Numbers
        );
        assert_eq!(build(&[]).unwrap_err(), ManifestError::Nothing);
    }

    #[test]
    fn the_list_has_a_limit_in_entries_and_in_bytes() {
        let mut builder = Builder::default();
        for n in 0..ENTRIES_MAX {
            builder.push(file(0, &n.to_string(), 0)).unwrap();
        }
        assert_eq!(builder.push(file(0, "x", 0)), Err(ManifestError::TooMany));
        let mut builder = Builder::default();
        let long = "n".repeat(245);
        let result = (0..).find_map(|n| builder.push(file(0, &format!("{long}{n}"), 0)).err());
        assert_eq!(result, Some(ManifestError::NamesTooLong));
        assert!(builder.len() > 60_000);
    }

    #[test]
    fn the_fullest_list_takes_less_than_70_mb_on_either_side() {
        // The entry, its name on the heap with what an allocation costs, and the place that it took with room to grow.
        let place = size_of::<([u8; 16], u32)>() + 1;
        let each = size_of::<Entry>() + 16 + place * 16 / 7;
        let names = NAMES_LEN_MAX;
        let all = each * ENTRIES_MAX as usize + names;
        assert!(all < 70_000_000, "{all} bytes, {each} an entry");
    }

    #[test]
    fn one_bad_name_refuses_the_whole_list_and_shows_it_escaped() {
        let error = build(&[file(0, "a", 1), file(0, "..", 1)]).unwrap_err();
        assert_eq!(error.to_string(), "`..` is not acceptable: a name is `.` or `..`");
        let shown = build(&[file(0, "\u{1b}[2J/etc", 1)]).unwrap_err().to_string();
        assert!(
            !shown.contains('\u{1b}') && shown.contains("\\u{1b}[2J/etc"),
            "{shown}"
        );
    }

    #[test]
    fn a_name_that_was_made_safe_is_told() {
        let manifest = build(&[folder(0, "d"), file(1, "NUL", 1)]).unwrap();
        let (offered, stored) = ("d/NUL".to_owned(), "d/_NUL".to_owned());
        assert_eq!(manifest.renamed(), [Renamed { offered, stored }]);
    }
}
