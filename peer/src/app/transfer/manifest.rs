//! The list of everything in a transfer, checked as a whole before the first byte is written.
//!
//! Both sides build it by the same rules: the sender from its disk, so that it learns before sending what would be
//! refused; the receiver from the pages that arrive. A manifest that exists is consistent: every folder comes before what
//! lies in it, no two entries would share a place on any disk, and the numbers are those of the offer.

use std::collections::HashMap;
use std::path::PathBuf;

use super::messages::{ENTRIES_MAX, Entry, FORMAT, Kind, Offer, PATHS_LEN_MAX, ROOTS_SHOWN_MAX, TransferId};
use super::names::{NameError, folded, safe_name, safe_path};
use crate::untrusted::Untrusted;

/// A consistent list of entries under safe names.
#[derive(Debug)]
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
#[derive(Debug)]
pub struct Builder {
    manifest: Manifest,
    places: HashMap<String, u32>,
    paths_len: usize,
}

/// Most renamed entries that are remembered for showing; more would fill a screen and say no more.
const RENAMED_SHOWN_MAX: usize = 32;

impl Manifest {
    /// The entries, under safe names, in the order of the offer.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
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

    /// Names of what lies at the top.
    pub fn roots(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.path.len() == 1)
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
                .filter_map(|entry| entry.path.first().cloned())
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
        if !shown.eq(own.map(|entry| entry.path.first().cloned())) {
            return Err(ManifestError::Numbers);
        }
        Ok(())
    }
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            manifest: Manifest {
                entries: Vec::new(),
                files: 0,
                bytes: 0,
                renamed: Vec::new(),
            },
            places: HashMap::new(),
            paths_len: 0,
        }
    }
}

impl Builder {
    /// Add the next entry under its safe name.
    ///
    /// # Errors
    /// Any [`ManifestError`]; the list is then not to be used.
    pub fn push(&mut self, mut entry: Entry) -> Result<(), ManifestError> {
        let index = u32::try_from(self.manifest.entries.len()).unwrap_or(u32::MAX);
        if index >= ENTRIES_MAX {
            return Err(ManifestError::TooMany);
        }
        let safe = safe_path(&entry.path).map_err(|error| ManifestError::Name {
            path: Untrusted(&entry.path.join("/")).to_string(),
            error,
        })?;
        let path = safe.join("/");
        self.paths_len += path.len();
        if self.paths_len > PATHS_LEN_MAX {
            return Err(ManifestError::PathsTooLong);
        }
        self.check_parent(&safe, &path)?;
        if let Some(other) = self.places.insert(folded(&path), index) {
            return Err(ManifestError::SamePlace(self.shown(other), shown_path(&path)));
        }
        self.count(&entry)?;
        if safe != entry.path && self.manifest.renamed.len() < RENAMED_SHOWN_MAX {
            self.manifest.renamed.push(Renamed {
                offered: entry.path.join("/"),
                stored: path,
            });
        }
        entry.path = safe;
        self.manifest.entries.push(entry);
        Ok(())
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

    /// The folder that holds this entry must be in the list, as a folder, in exactly this spelling.
    fn check_parent(&self, safe: &[String], path: &str) -> Result<(), ManifestError> {
        let Some((_, parent)) = safe.split_last().filter(|(_, parent)| !parent.is_empty()) else {
            return Ok(());
        };
        let place = self.places.get(&folded(&parent.join("/"))).copied();
        let holder = place.and_then(|index| self.manifest.entries.get(usize::try_from(index).ok()?));
        match holder {
            None => Err(ManifestError::NoFolder(shown_path(path))),
            Some(entry) if entry.kind != Kind::Folder => {
                Err(ManifestError::FileAsFolder(shown_path(&entry.path.join("/"))))
            }
            Some(entry) if entry.path != parent => Err(ManifestError::SamePlace(
                shown_path(&entry.path.join("/")),
                shown_path(&parent.join("/")),
            )),
            Some(_) => Ok(()),
        }
    }

    fn count(&mut self, entry: &Entry) -> Result<(), ManifestError> {
        match entry.kind {
            Kind::Folder if entry.size != 0 => return Err(ManifestError::Numbers),
            Kind::Folder => {}
            Kind::File => self.manifest.files += 1,
        }
        self.manifest.bytes = self
            .manifest
            .bytes
            .checked_add(entry.size)
            .ok_or(ManifestError::Numbers)?;
        Ok(())
    }

    fn shown(&self, index: u32) -> String {
        let entry = usize::try_from(index)
            .ok()
            .and_then(|index| self.manifest.entries.get(index));
        entry.map_or_else(String::new, |entry| shown_path(&entry.path.join("/")))
    }
}

/// The path of an entry for the local file system, relative.
pub fn local_path(entry: &Entry) -> PathBuf {
    entry.path.iter().collect()
}

fn shown_path(path: &str) -> String {
    Untrusted(path).to_string()
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
    #[error("more than {ENTRIES_MAX} files and folders")]
    TooMany,
    /// All paths together exceed [`PATHS_LEN_MAX`].
    #[error("all paths together exceed {PATHS_LEN_MAX} bytes")]
    PathsTooLong,
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

    fn entry(path: &str, kind: Kind, size: u64) -> Entry {
        Entry {
            path: path.split('/').map(str::to_owned).collect(),
            kind,
            size,
            mode: 0o644,
            modified_ns: 0,
        }
    }

    fn build(entries: &[(&str, Kind, u64)]) -> Result<Manifest, ManifestError> {
        let mut builder = Builder::default();
        for (path, kind, size) in entries {
            builder.push(entry(path, *kind, *size))?;
        }
        builder.finish()
    }

    #[test]
    fn a_tree_is_counted() {
        let manifest = build(&[
            ("d", Kind::Folder, 0),
            ("d/a", Kind::File, 5),
            ("d/e", Kind::Folder, 0),
            ("d/e/b", Kind::File, 7),
            ("c", Kind::File, 0),
        ])
        .unwrap();
        assert_eq!((manifest.files(), manifest.bytes()), (3, 12));
        let offer = manifest.offer(TransferId(1));
        assert_eq!(offer.roots, ["d", "c"]);
        assert_eq!(manifest.matches(&offer), Ok(()));
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
                entries: 6,
                ..offer.clone()
            },
            Offer {
                roots: vec!["d".to_owned(), "other".to_owned()],
                ..offer.clone()
            },
            Offer {
                roots: vec!["d".to_owned()],
                ..offer.clone()
            },
        ] {
            assert_eq!(manifest.matches(&lie), Err(ManifestError::Numbers));
        }
    }

    #[test]
    fn two_entries_cannot_share_a_place() {
        for pair in [
            ["a", "a"],
            ["README", "readme"],
            ["stra\u{df}e", "STRASSE"],
            ["na\u{200b}me", "name"],
            ["x\u{1}", "x\u{2}"],
        ] {
            let result = build(&[(pair[0], Kind::File, 1), (pair[1], Kind::File, 1)]);
            assert!(matches!(result, Err(ManifestError::SamePlace(..))), "{pair:?}");
        }
    }

    #[test]
    fn folders_hold_files_and_files_hold_nothing() {
        assert_eq!(
            build(&[("a", Kind::File, 1), ("a/b", Kind::File, 1)]).unwrap_err(),
            ManifestError::FileAsFolder("a".to_owned())
        );
        assert_eq!(
            build(&[("a/b", Kind::File, 1)]).unwrap_err(),
            ManifestError::NoFolder("a/b".to_owned())
        );
        assert!(matches!(
            build(&[("Dir", Kind::Folder, 0), ("dir/b", Kind::File, 1)]),
            Err(ManifestError::SamePlace(..))
        ));
    }

    #[test]
    fn sums_that_overflow_and_folders_with_a_size_are_refused() {
        let max = u64::MAX;
        assert_eq!(
            build(&[("a", Kind::File, max), ("b", Kind::File, 1)]).unwrap_err(),
            ManifestError::Numbers
        );
        assert_eq!(
            build(&[("d", Kind::Folder, 1)]).unwrap_err(),
            ManifestError::Numbers
        );
        assert_eq!(build(&[]).unwrap_err(), ManifestError::Nothing);
    }

    #[test]
    fn the_list_has_a_limit_in_entries_and_in_bytes() {
        let mut builder = Builder::default();
        for n in 0..ENTRIES_MAX {
            builder.push(entry(&n.to_string(), Kind::File, 0)).unwrap();
        }
        assert_eq!(
            builder.push(entry("x", Kind::File, 0)),
            Err(ManifestError::TooMany)
        );
        let mut builder = Builder::default();
        let long = "n".repeat(245);
        let result = (0..).find_map(|n| builder.push(entry(&format!("{long}{n}"), Kind::File, 0)).err());
        assert_eq!(result, Some(ManifestError::PathsTooLong));
        assert!(builder.len() > 60_000);
    }

    #[test]
    fn one_bad_name_refuses_the_whole_list_and_shows_it_escaped() {
        let error = build(&[("a", Kind::File, 1), ("..", Kind::File, 1)]).unwrap_err();
        assert_eq!(error.to_string(), "`..` is not acceptable: a name is `.` or `..`");
        let mut hostile = entry("x", Kind::File, 1);
        hostile.path = vec!["\u{1b}[2J/etc".to_owned()];
        let shown = Builder::default().push(hostile).unwrap_err().to_string();
        assert!(
            !shown.contains('\u{1b}') && shown.contains("\\u{1b}[2J/etc"),
            "{shown}"
        );
    }

    #[test]
    fn a_name_that_was_made_safe_is_told() {
        let manifest = build(&[("NUL", Kind::File, 1)]).unwrap();
        assert_eq!(
            manifest.renamed(),
            [Renamed {
                offered: "NUL".to_owned(),
                stored: "_NUL".to_owned()
            }]
        );
    }
}
