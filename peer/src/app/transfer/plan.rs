//! What a receiver wants of an offer, given what earlier attempts left.
//!
//! Three kinds of files need not be sent whole: those that an earlier attempt had put in their places and that did not
//! change at the sender since; those of which chunks are in a partial file; and those whose former version is in place,
//! whose chunks may serve the new one. What the journal says is compared with the disk here as far as that costs no reading;
//! the content of chunks is checked later, while others arrive.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::AtomicU8;

use super::inbox::{Conflict, Folders, Inbox, Roots, Seen, exists, look, open_read};
use super::journal::{Journal, Memory, PathKey, Record, StoredMemory};
use super::manifest::Manifest;
use super::messages::{Entry, Kind, Outcome, Run, STREAMS_MAX};
use super::part::Part;
use super::partial::{Partial, file_name, path_key};
use super::tree::{CHUNKS_MAX, Geometry};

/// Chunks of partial files that are told to the sender at most; it keeps a value of 32 bytes for each. What is beyond is
/// sent again: 256 GiB of partial files, or more of larger ones.
const CLAIMS_MAX: usize = 262_144;

/// Chunks, there or not, of all partial files that are gone on with: each takes 33 bytes, 17 MB together. Enough for the largest
/// files that an attempt can have been sending when it broke off; what is beyond is sent again.
const GONE_ON_CHUNKS_MAX: u64 = STREAMS_MAX as u64 * CHUNKS_MAX;

/// A file is not to be sent: a folder, or there already.
pub(super) const UNWANTED: u8 = 0;
/// Its data may come.
pub(super) const WANTED: u8 = 1;
/// Its data, one chunk, is coming or was taken.
pub(super) const TAKEN: u8 = 2;
/// It is decided what became of it.
pub(super) const RESOLVED: u8 = 3;

/// What is wanted and what is there.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// For each entry one of the numbers above.
    pub(super) states: Vec<AtomicU8>,
    pub(super) wanted: Vec<Run>,
    pub(super) wanted_files: u32,
    /// Bytes of wanted files and of those that are there whole.
    pub(super) bytes: u64,
    /// Bytes of that which are there.
    pub(super) resumed: u64,
    /// Files that are there whole.
    pub(super) whole: u32,
    /// Their bytes.
    pub(super) whole_bytes: u64,
    /// Names of those at the top that are there whole.
    pub(super) names: Vec<(u32, String)>,
    /// Files that stay as they are, because somebody else's is there.
    pub(super) others: Vec<(u32, Outcome)>,
    /// Files of which chunks are there.
    pub(super) parts: Vec<Arc<Part>>,
    /// Former versions that an earlier attempt put in place and nobody touched since; the new version may replace them.
    pub(super) ours: HashMap<u32, (String, Seen)>,
}

/// What a plan is made from.
pub(super) struct Planner<'a> {
    pub(super) inbox: &'a Inbox,
    pub(super) manifest: &'a Manifest,
    pub(super) roots: &'a Roots,
    pub(super) partial: &'a Partial,
    pub(super) conflict: Conflict,
    pub(super) memory: Memory,
}

/// What is to become of one file.
enum Fate {
    Whole(String),
    Kept,
    Wanted(Option<Part>),
}

impl Planner<'_> {
    /// Make the plan. `journal` is told of parts that go on under a new size.
    ///
    /// # Errors
    /// Of the file system.
    pub(super) fn plan(mut self, journal: &mut Journal) -> io::Result<Plan> {
        let mut plan = Plan::default();
        let (mut claims, mut chunks) = (0, 0);
        let manifest = self.manifest;
        let mut folders = Folders::new(self.inbox, manifest, self.roots);
        for (index, entry) in manifest.indexed() {
            if entry.kind != Kind::File {
                plan.states.push(AtomicU8::new(UNWANTED));
                continue;
            }
            let fate = self.judge(index, entry, &mut folders, journal, &mut plan)?;
            let state = if matches!(fate, Fate::Wanted(_)) {
                WANTED
            } else {
                UNWANTED
            };
            plan.states.push(AtomicU8::new(state));
            match fate {
                Fate::Kept => plan.others.push((index, Outcome::Kept)),
                Fate::Whole(name) => plan.note_whole(index, entry, name),
                Fate::Wanted(part) => {
                    plan.want(index, entry.size);
                    let Some(part) = part else { continue };
                    let (there, all) = (part.claims().len(), u64::from(part.geometry.chunks()));
                    let fits = claims + there <= CLAIMS_MAX && chunks + all <= GONE_ON_CHUNKS_MAX;
                    if there > 0 && fits {
                        claims += there;
                        chunks += all;
                        plan.resumed += part.bytes();
                        plan.parts.push(Arc::new(part));
                    }
                }
            }
        }
        Ok(plan)
    }

    fn judge(
        &mut self,
        index: u32,
        entry: &Entry,
        folders: &mut Folders<'_>,
        journal: &mut Journal,
        plan: &mut Plan,
    ) -> io::Result<Fate> {
        if self.memory.stored.is_empty() && self.memory.parts.is_empty() && self.conflict != Conflict::Skip {
            return Ok(Fate::Wanted(None));
        }
        let folder = folders.get(entry.parent)?;
        let key = path_key(self.manifest, index);
        let mut former = None;
        if let Some(stored) = self.memory.stored.get(&key) {
            let same = stored.seen.size == entry.size && stored.stamp == entry.stamp;
            let in_place = look((folder, &stored.name))? == Some(stored.seen);
            if in_place && same {
                return Ok(Fate::Whole(stored.name.clone()));
            }
            if !in_place && same && look((self.partial.folder(), &file_name(&key)))? == Some(stored.seen) {
                // It was whole and on disk, and its new name was lost.
                return self.place_again(&key, (folder, entry), journal, stored);
            }
            let ours = match in_place {
                true => Some((stored.name.clone(), stored.seen)),
                false => former_in_place(folder, stored)?,
            };
            if let Some((name, seen)) = ours {
                former = Some(open_read((folder, &name))?);
                plan.ours.insert(index, (name, seen));
            }
        }
        if self.conflict == Conflict::Skip
            && !plan.ours.contains_key(&index)
            && exists((folder, &entry.name))?
        {
            return Ok(Fate::Kept);
        }
        let part = self.part(index, entry, &key, former.as_ref(), journal)?;
        Ok(Fate::Wanted(part))
    }

    fn place_again(
        &self,
        key: &PathKey,
        (folder, entry): (BorrowedFd<'_>, &Entry),
        journal: &mut Journal,
        stored: &StoredMemory,
    ) -> io::Result<Fate> {
        let ours = former_in_place(folder, stored)?;
        let ours = ours.as_ref();
        let choice = self.inbox.choose((folder, &entry.name), self.conflict, ours)?;
        if let Some(name) = choice.name() {
            journal.append(&[Record::Stored {
                key: *key,
                stamp: stored.stamp,
                name: name.to_owned(),
                seen: stored.seen,
            }])?;
            journal.sync()?;
        }
        let from = file_name(key);
        self.inbox
            .place((self.partial.folder(), &from), folder, &choice)?;
        Ok(choice
            .name()
            .map_or(Fate::Kept, |name| Fate::Whole(name.to_owned())))
    }

    /// What is there of a file, as a part that can be gone on with.
    fn part(
        &mut self,
        index: u32,
        entry: &Entry,
        key: &PathKey,
        former: Option<&File>,
        journal: &mut Journal,
    ) -> io::Result<Option<Part>> {
        let Some(known) = self.memory.parts.remove(key) else {
            return Ok(None);
        };
        if Geometry::new(entry.size).is_single() || known.values.is_empty() {
            return Ok(None);
        }
        let file = match (self.partial.open_file(key)?, former) {
            (Some(file), _) => file,
            // The chunks are in the former version; they are checked one by one, as all claims are.
            (None, Some(former)) => {
                let file = self.partial.create(key, entry.mode)?;
                io::copy(&mut &*former, &mut &file)?;
                // The journal says of these chunks that they are on disk.
                self.inbox.disk().sync_file(&file)?;
                self.inbox.disk().sync_folder(self.partial.folder())?;
                file
            }
            (None, None) => return Ok(None),
        };
        let (old, new) = (Geometry::new(known.size), Geometry::new(entry.size));
        let there = file.metadata()?.size().min(known.size);
        let claims = known.values.into_iter().filter(|(chunk, _)| {
            old.start(*chunk) == new.start(*chunk)
                && old.len(*chunk) == new.len(*chunk)
                && new.start(*chunk) + new.len(*chunk) <= there
        });
        journal.append(&[Record::Part {
            key: *key,
            size: entry.size,
        }])?;
        self.inbox.disk().set_len(&file, entry.size)?;
        Ok(Some(Part::new(index, *key, entry.size, file, false, claims)))
    }
}

/// The version before this one that is still where it was put.
fn former_in_place(folder: BorrowedFd<'_>, stored: &StoredMemory) -> io::Result<Option<(String, Seen)>> {
    for (name, seen) in stored.former.iter().rev() {
        if look((folder, name))? == Some(*seen) {
            return Ok(Some((name.clone(), *seen)));
        }
    }
    Ok(None)
}

impl Plan {
    fn note_whole(&mut self, index: u32, entry: &Entry, name: String) {
        self.whole += 1;
        self.whole_bytes += entry.size;
        self.bytes += entry.size;
        self.resumed += entry.size;
        if entry.parent == 0 {
            self.names.push((index, name));
        }
    }

    fn want(&mut self, index: u32, size: u64) {
        self.wanted_files += 1;
        self.bytes = self.bytes.saturating_add(size);
        match self.wanted.last_mut() {
            Some(run) if run.first + run.count == index => run.count += 1,
            _ => self.wanted.push(Run {
                first: index,
                count: 1,
            }),
        }
    }
}
