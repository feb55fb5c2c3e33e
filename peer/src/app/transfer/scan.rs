//! What lies under the paths that a person wants to send.
//!
//! Blocking; run it off the async threads. Nothing is opened here but folders, and no link is followed: links, sockets,
//! pipes and devices are left out, and said so.

use std::collections::VecDeque;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::manifest::{Builder, Manifest, ManifestError, Renamed};
use super::messages::{Entry, Kind};
use crate::untrusted::Untrusted;

/// Most left-out paths that are remembered for showing.
const SKIPPED_SHOWN_MAX: usize = 32;

/// What will be sent, and from where.
#[derive(Debug)]
pub struct Sources {
    /// The list.
    pub manifest: Manifest,
    /// Where each entry of the list lies on this disk.
    pub places: Vec<PathBuf>,
    /// What was left out, and why; the first of them.
    pub skipped: Vec<(PathBuf, &'static str)>,
    /// How much was left out.
    pub skipped_count: usize,
}

impl Sources {
    /// Names that are sent under another, safe name.
    pub fn renamed(&self) -> &[Renamed] {
        self.manifest.renamed()
    }
}

/// Look at everything under these paths.
///
/// # Errors
/// Any [`ScanError`]. Nothing is sent then: half of what was asked for would look like all of it.
pub fn scan(paths: &[PathBuf]) -> Result<Sources, ScanError> {
    let mut walk = Walk::default();
    for path in paths {
        let meta = fs::symlink_metadata(path).map_err(|source| ScanError::read(path, source))?;
        let name = root_name(path)?;
        walk.visit(path.clone(), vec![name], &meta)?;
        while let Some((folder, components)) = walk.folders.pop_front() {
            walk.list(&folder, &components)?;
        }
    }
    let manifest = walk.builder.finish().map_err(ScanError::Manifest)?;
    Ok(Sources {
        manifest,
        places: walk.places,
        skipped: walk.skipped,
        skipped_count: walk.skipped_count,
    })
}

#[derive(Default)]
struct Walk {
    builder: Builder,
    places: Vec<PathBuf>,
    folders: VecDeque<(PathBuf, Vec<String>)>,
    skipped: Vec<(PathBuf, &'static str)>,
    skipped_count: usize,
}

impl Walk {
    fn list(&mut self, folder: &Path, components: &[String]) -> Result<(), ScanError> {
        let read = |source| ScanError::read(folder, source);
        let mut found = Vec::new();
        for entry in fs::read_dir(folder).map_err(read)? {
            found.push(entry.map_err(read)?.path());
        }
        // The same folder gives the same list every time.
        found.sort();
        for path in found {
            let meta = match fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                // Deleted between listing and looking: it is not there to be sent.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(ScanError::read(&path, error)),
            };
            let mut components = components.to_vec();
            components.push(utf8_name(&path)?);
            self.visit(path, components, &meta)?;
        }
        Ok(())
    }

    fn visit(&mut self, path: PathBuf, components: Vec<String>, meta: &Metadata) -> Result<(), ScanError> {
        let kind = if meta.is_file() {
            Kind::File
        } else if meta.is_dir() {
            Kind::Folder
        } else {
            self.skip(path, what(meta));
            return Ok(());
        };
        self.builder
            .push(Entry {
                path: components.clone(),
                kind,
                size: if kind == Kind::File { meta.len() } else { 0 },
                mode: meta.mode() & 0o7777,
                modified_ns: modified_ns(meta),
            })
            .map_err(ScanError::Manifest)?;
        if kind == Kind::Folder {
            self.folders.push_back((path.clone(), components));
        }
        self.places.push(path);
        Ok(())
    }

    fn skip(&mut self, path: PathBuf, why: &'static str) {
        self.skipped_count += 1;
        if self.skipped.len() < SKIPPED_SHOWN_MAX {
            self.skipped.push((path, why));
        }
    }
}

/// The name under which a path is sent: its last component; for `.` and the like, that of the folder it means.
fn root_name(path: &Path) -> Result<String, ScanError> {
    if path.file_name().is_some() {
        return utf8_name(path);
    }
    let real = path
        .canonicalize()
        .map_err(|source| ScanError::read(path, source))?;
    if real.file_name().is_none() {
        return Err(ScanError::NoName(shown(path)));
    }
    utf8_name(&real)
}

fn utf8_name(path: &Path) -> Result<String, ScanError> {
    let name = path.file_name().unwrap_or_default();
    name.to_str()
        .map(str::to_owned)
        .ok_or_else(|| ScanError::NotUtf8(shown(path)))
}

fn what(meta: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let kind = meta.file_type();
    if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_socket() {
        "a socket"
    } else if kind.is_fifo() {
        "a pipe"
    } else {
        "a device"
    }
}

fn modified_ns(meta: &Metadata) -> i64 {
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
    /// A name is not valid UTF-8.
    #[error("the name of {0} is not valid UTF-8; rename it")]
    NotUtf8(String),
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
        sources
            .manifest
            .entries()
            .iter()
            .map(|e| e.path.join("/"))
            .collect()
    }

    #[test]
    fn a_folder_is_listed_parents_first_and_links_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(top.join("sub/deep")).unwrap();
        fs::write(top.join("b"), "12345").unwrap();
        fs::write(top.join("sub/a"), "").unwrap();
        symlink("/etc", top.join("sub/etc")).unwrap();
        symlink(&top, top.join("loop")).unwrap();
        let sources = scan(&[top.clone(), top.join("b")]).unwrap();
        assert_eq!(
            paths(&sources),
            ["top", "top/b", "top/sub", "top/sub/a", "top/sub/deep", "b"]
        );
        assert_eq!((sources.manifest.files(), sources.manifest.bytes()), (3, 10));
        assert_eq!(sources.skipped_count, 2);
        assert!(sources.skipped.iter().all(|(_, why)| *why == "a symbolic link"));
        assert_eq!(sources.places.len(), sources.manifest.entries().len());
    }

    #[test]
    fn the_current_folder_is_sent_under_its_own_name() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("photos");
        fs::create_dir(&inner).unwrap();
        fs::write(inner.join("x"), "x").unwrap();
        assert_eq!(paths(&scan(&[inner.join(".")]).unwrap()), ["photos", "photos/x"]);
        assert_eq!(
            paths(&scan(&[inner.join("..").join("photos/..")]).unwrap()).len(),
            3
        );
        assert!(matches!(scan(&[PathBuf::from("/")]), Err(ScanError::NoName(_))));
    }

    #[test]
    fn what_would_be_refused_is_an_error_before_anything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["one", "two"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join("same"), "x").unwrap();
        }
        let twice = scan(&[dir.path().join("one/same"), dir.path().join("two/same")]);
        assert!(
            matches!(twice, Err(ScanError::Manifest(ManifestError::SamePlace(..)))),
            "{twice:?}"
        );
        let not_utf8 = dir.path().join(std::ffi::OsStr::from_bytes(b"bad\xff"));
        fs::write(&not_utf8, "x").unwrap();
        assert!(matches!(scan(&[not_utf8]), Err(ScanError::NotUtf8(_))));
        let missing = scan(&[dir.path().join("none\u{1b}")]).unwrap_err().to_string();
        assert!(missing.contains("none\\u{1b}"), "{missing}");
        symlink("x", dir.path().join("link")).unwrap();
        let link = scan(&[dir.path().join("link")]);
        assert!(matches!(link, Err(ScanError::Manifest(ManifestError::Nothing))));
    }
}
