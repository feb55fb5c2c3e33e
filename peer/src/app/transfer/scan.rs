//! What lies under the paths that a person wants to send.
//!
//! Blocking; run it off the async threads. Nothing is opened here but folders, and no link is followed. Links go as they
//! are if they stay within what is sent; links that do not, sockets, pipes and devices are left out, and said so. What
//! cannot be read does not keep the rest from being sent: it is counted, and makes the transfer a partial one.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::manifest::{Builder, Manifest, ManifestError, Renamed};
use super::messages::{Entry, Kind, ORIGIN_LEN};
use super::names::safe_name;
use crate::untrusted::Untrusted;

/// Most left-out paths that are remembered for showing.
const SKIPPED_SHOWN_MAX: usize = 32;

/// What will be sent, and from where.
#[derive(Debug)]
pub struct Sources {
    /// The list.
    pub manifest: Manifest,
    /// What was left out, and why; the first of them.
    pub skipped: Vec<(PathBuf, String)>,
    /// How much was left out.
    pub skipped_count: usize,
    /// How much of that was left out because it could not be read.
    pub unreadable: usize,
    /// Stands for where on this disk it lies.
    pub(super) origin: [u8; ORIGIN_LEN],
    places: Places,
}

/// Where entries lie on this disk, as far as their names and folders do not say it.
#[derive(Debug, Default)]
struct Places {
    roots: HashMap<u32, PathBuf>,
    renamed: HashMap<u32, OsString>,
}

impl Sources {
    /// Names that are sent under another, safe name.
    pub fn renamed(&self) -> &[Renamed] {
        self.manifest.renamed()
    }

    /// Where an entry lies on this disk.
    pub fn place(&self, index: u32) -> Option<PathBuf> {
        let mut names = Vec::new();
        let mut at = index;
        let mut path = loop {
            if let Some(root) = self.places.roots.get(&at) {
                break root.clone();
            }
            let entry = self.manifest.entry(at)?;
            match self.places.renamed.get(&at) {
                Some(name) => names.push(name.as_os_str()),
                None => names.push(entry.name.as_ref()),
            }
            at = self.manifest.parent(entry)?.0;
        };
        path.extend(names.iter().rev());
        Some(path)
    }
}

/// Look at everything under these paths.
///
/// # Errors
/// Any [`ScanError`]. Nothing is sent then: a path that a person named and that is not there is a mistake.
pub fn scan(paths: &[PathBuf]) -> Result<Sources, ScanError> {
    let mut walk = Walk::default();
    for path in paths {
        let meta = fs::symlink_metadata(path).map_err(|source| ScanError::read(path, source))?;
        let name = root_name(path)?;
        walk.visit(path, 0, &name, &meta)?;
        while let Some((folder, number)) = walk.folders.pop_front() {
            walk.list(&folder, number)?;
        }
    }
    if walk.builder.is_empty()
        && let Some((path, source)) = walk.refused
    {
        return Err(ScanError::read(&path, source));
    }
    let manifest = walk.builder.finish().map_err(ScanError::Manifest)?;
    Ok(Sources {
        manifest,
        skipped: walk.skipped,
        skipped_count: walk.skipped_count,
        unreadable: walk.unreadable,
        origin: origin(paths),
        places: walk.places,
    })
}

/// The same for the same places, however they are written.
fn origin(paths: &[PathBuf]) -> [u8; ORIGIN_LEN] {
    let mut hasher = blake3::Hasher::new_derive_key("knothole 1 origin");
    for path in paths {
        // A link that leads nowhere has no other path than its own.
        let place = fs::canonicalize(path).or_else(|_| std::path::absolute(path));
        let place = place.unwrap_or_else(|_| path.clone());
        hasher.update(place.as_os_str().as_encoded_bytes());
        hasher.update(&[0]);
    }
    let mut origin = [0; ORIGIN_LEN];
    hasher.finalize_xof().fill(&mut origin);
    origin
}

/// A number that is another one whenever a file may have changed: the kernel moves the time of change on every write, on
/// every change of its length, and when somebody sets the time of modification back.
pub fn stamp(meta: &Metadata) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for number in [meta.dev(), meta.ino(), meta.len()] {
        hasher.update(&number.to_le_bytes());
    }
    for number in [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()] {
        hasher.update(&number.to_le_bytes());
    }
    let mut stamp = [0; 8];
    hasher.finalize_xof().fill(&mut stamp);
    u64::from_le_bytes(stamp)
}

#[derive(Default)]
struct Walk {
    builder: Builder,
    places: Places,
    /// Folders that are to be listed, and their numbers in the list.
    folders: VecDeque<(PathBuf, u32)>,
    skipped: Vec<(PathBuf, String)>,
    skipped_count: usize,
    unreadable: usize,
    refused: Option<(PathBuf, io::Error)>,
}

impl Walk {
    fn list(&mut self, folder: &Path, number: u32) -> Result<(), ScanError> {
        let listed = fs::read_dir(folder).and_then(|entries| {
            let names = entries.map(|entry| Ok(entry?.file_name()));
            names.collect::<io::Result<Vec<OsString>>>()
        });
        let mut names = match listed {
            Ok(names) => names,
            Err(error) => {
                self.cannot_read(folder, &error);
                return Ok(());
            }
        };
        // The same folder gives the same list every time.
        names.sort();
        for name in names {
            let path = folder.join(&name);
            match fs::symlink_metadata(&path) {
                Ok(meta) => self.visit(&path, number, &name, &meta)?,
                // Deleted between listing and looking: it is not there to be sent.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => self.cannot_read(&path, &error),
            }
        }
        Ok(())
    }

    fn visit(&mut self, path: &Path, parent: u32, name: &OsString, meta: &Metadata) -> Result<(), ScanError> {
        let text = name.to_string_lossy().into_owned();
        if let Err(error) = safe_name(&text, parent == 0) {
            self.skip(path, format!("its name is not acceptable: {error}"));
            return Ok(());
        }
        let kind = match self.kind(path, parent, meta) {
            Ok(kind) => kind,
            Err(why) => {
                self.skip(path, why);
                return Ok(());
            }
        };
        let is_file = kind == Kind::File;
        let is_folder = kind == Kind::Folder;
        let index = u32::try_from(self.builder.len()).unwrap_or(u32::MAX);
        let entry = Entry {
            parent,
            name: text,
            kind,
            size: if is_file { meta.len() } else { 0 },
            mode: meta.mode() & 0o7777,
            modified_ns: modified_ns(meta),
            stamp: stamp(meta),
        };
        let stored = self.builder.push_numbered(entry).map_err(ScanError::Manifest)?;
        if parent == 0 {
            self.places.roots.insert(index, path.to_owned());
        } else if name.to_str() != Some(&stored) {
            self.places.renamed.insert(index, name.clone());
        }
        if is_folder {
            self.folders.push_back((path.to_owned(), index + 1));
        }
        Ok(())
    }

    fn kind(&self, path: &Path, parent: u32, meta: &Metadata) -> Result<Kind, String> {
        if meta.is_file() {
            return Ok(Kind::File);
        }
        if meta.is_dir() {
            return Ok(Kind::Folder);
        }
        if !meta.is_symlink() {
            return Err(format!("it is {}", what(meta)));
        }
        let target = fs::read_link(path).map_err(|error| format!("the link cannot be read: {error}"))?;
        match target.into_os_string().into_string() {
            Ok(target) if self.builder.keeps_link(parent, &target) => Ok(Kind::Link { target }),
            _ => Err("it is a symbolic link that leads out of what is sent".to_owned()),
        }
    }

    fn cannot_read(&mut self, path: &Path, error: &io::Error) {
        self.unreadable += 1;
        if self.refused.is_none() {
            self.refused = Some((path.to_owned(), error.kind().into()));
        }
        self.skip(path, format!("it cannot be read: {error}"));
    }

    fn skip(&mut self, path: &Path, why: String) {
        self.skipped_count += 1;
        if self.skipped.len() < SKIPPED_SHOWN_MAX {
            self.skipped.push((path.to_owned(), why));
        }
    }
}

/// The name under which a path is sent: its last component; for `.` and the like, that of the folder it means.
fn root_name(path: &Path) -> Result<OsString, ScanError> {
    if let Some(name) = path.file_name() {
        return Ok(name.to_owned());
    }
    let real = path
        .canonicalize()
        .map_err(|source| ScanError::read(path, source))?;
    let name = real.file_name().map(OsString::from);
    name.ok_or_else(|| ScanError::NoName(shown(path)))
}

fn what(meta: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = meta.file_type();
    if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a device"
    }
}

/// Time of last modification in nanoseconds since 1970.
pub fn modified_ns(meta: &Metadata) -> i64 {
    meta.mtime()
        .saturating_mul(1_000_000_000)
        .saturating_add(meta.mtime_nsec())
}

fn shown(path: &Path) -> String {
    Untrusted(&path.to_string_lossy()).to_string()
}

/// Why nothing can be sent. Paths in it are escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ScanError {
    /// A file or folder cannot be looked at.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which, escaped.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The root of the file system has no name to send it under.
    #[error("{0} has no name to send it under")]
    NoName(String),
    /// The list as a whole would be refused.
    #[error(transparent)]
    Manifest(ManifestError),
}

impl ScanError {
    fn read(path: &Path, source: io::Error) -> Self {
        Self::Read {
            path: shown(path),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    fn paths(sources: &Sources) -> Vec<String> {
        let manifest = &sources.manifest;
        manifest
            .indexed()
            .map(|(index, _)| manifest.joined(index))
            .collect()
    }

    #[test]
    fn a_folder_is_listed_parents_first_and_links_that_lead_out_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("sub/deep")).unwrap();
        fs::write(top.join("b"), "12345").unwrap();
        fs::write(top.join("sub/a"), "").unwrap();
        symlink("/etc", top.join("sub/etc")).unwrap();
        symlink(&top, top.join("loop")).unwrap();
        symlink("sub/a", top.join("near")).unwrap();
        let sources = scan(&[top.clone(), top.join("b")]).unwrap();
        assert_eq!(
            paths(&sources),
            [
                "top",
                "top/b",
                "top/near",
                "top/sub",
                "top/sub/a",
                "top/sub/deep",
                "b"
            ]
        );
        assert_eq!((sources.manifest.files(), sources.manifest.bytes()), (3, 10));
        assert_eq!((sources.skipped_count, sources.unreadable), (2, 0));
        assert!(
            sources
                .skipped
                .iter()
                .all(|(_, why)| why.contains("symbolic link"))
        );
        assert_eq!(sources.place(4), Some(top.join("sub/a")));
        assert_eq!(sources.place(6), Some(top.join("b")));
        assert_eq!(sources.place(7), None);
    }

    #[test]
    fn the_current_folder_is_sent_under_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("photos");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("x"), "x").unwrap();
        let sources = scan(&[inner.join(".")]).unwrap();
        assert_eq!(paths(&sources), ["photos", "photos/x"]);
        assert_eq!(
            paths(&scan(&[inner.join("..").join("photos/..")]).unwrap()).len(),
            3
        );
        assert!(matches!(scan(&[PathBuf::from("/")]), Err(ScanError::NoName(_))));
    }

    #[test]
    fn names_that_clash_or_cannot_be_sent_as_they_are_get_others_and_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir(&top).unwrap();
        let names: [&[u8]; 5] = [b"README", b"readme", b"bad\xff", b"two\nlines", b"CON"];
        for name in names {
            fs::write(top.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
        }
        for folder in ["one", "two"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("same"), folder).unwrap();
        }
        let sources = scan(&[top, dir.path().join("one/same"), dir.path().join("two/same")]).unwrap();
        let list = paths(&sources);
        assert_eq!(
            list,
            [
                "top",
                "top/_CON",
                "top/README",
                "top/bad\u{fffd}",
                "top/readme (1)",
                "top/two_lines",
                "same",
                "same (1)"
            ]
        );
        let read = |index| fs::read(sources.place(index).unwrap()).unwrap();
        assert_eq!(read(1), b"CON");
        assert_eq!(read(3), b"bad\xff");
        assert_eq!(read(4), b"readme");
        assert_eq!(read(7), b"two");
        // What is no text has no other form to be told in.
        assert_eq!(sources.renamed().len(), 4);
    }

    #[test]
    fn a_path_that_is_not_there_is_an_error_before_anything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let missing = scan(&[dir.path().join("none\u{1b}")]).unwrap_err().to_string();
        assert!(missing.contains("none\\u{1b}"), "{missing}");
        symlink("x", dir.path().join("link")).unwrap();
        let link = scan(&[dir.path().join("link")]);
        assert!(matches!(link, Err(ScanError::Manifest(ManifestError::Nothing))));
    }

    #[test]
    fn the_stamp_changes_with_content_length_and_a_time_that_is_set_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "one").unwrap();
        let stamp_now = || stamp(&fs::metadata(&path).unwrap());
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let first = stamp_now();
        assert_eq!(stamp_now(), first);
        // The clock of a file system may tick as slowly as every 10 ms.
        for _ in 0..1000 {
            fs::write(&path, "two").unwrap();
            let file = fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(modified).unwrap();
            if stamp_now() != first {
                break;
            }
            std::thread::park_timeout(std::time::Duration::from_millis(1));
        }
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), modified);
        assert_ne!(stamp_now(), first);
    }
}
