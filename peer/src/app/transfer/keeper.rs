//! The thread that makes what arrived last: data to disk, then the journal, then names.
//!
//! It works in rounds. A round takes everything that waits, so that one call to the disk serves as many files as came in
//! while the former call ran; nothing waits for a timer. The order within a round is the whole point: bytes are on disk
//! before the journal says so, and a file has its final name only after both.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::desk::{Desk, Job, Notice, lock};
use super::disk::set_modified;
use super::inbox::{Choice, Folders, Seen, is_disk_full};
use super::journal::{Record, VALUES_MAX};
use super::messages::Outcome;
use super::part::Part;
use super::partial::{file_name, path_key};
use super::tree::Value;

/// Up to so many small files are synced one by one; beyond it one call for the whole file system is cheaper.
const SMALL_SYNCED_MAX: usize = 4;

/// How often a name may be taken by somebody else between choosing and taking it; after that somebody does it on purpose.
const TRIES_MAX: u32 = 16;

/// Keep what comes until the queue is closed and empty.
pub(super) fn run(desk: &Desk) {
    let mut folders = Folders::new(&desk.inbox, &desk.manifest, &desk.roots);
    while let Some(jobs) = desk.queue.take_all() {
        let bytes = jobs.iter().map(Job::bytes).sum();
        if let Err(error) = round(desk, &mut folders, jobs) {
            desk.tell(Notice::Disk(error));
            desk.queue.close();
            return;
        }
        desk.queue.done(bytes);
    }
}

/// A file that is whole.
struct Whole {
    index: u32,
    seen: Seen,
    hash: Option<Value>,
    file: Option<Arc<Part>>,
    /// How often somebody else took its name.
    tries: u32,
}

fn round(desk: &Desk, folders: &mut Folders<'_>, jobs: Vec<Job>) -> io::Result<()> {
    let (mut chunks, mut whole) = (Vec::new(), Vec::new());
    for job in jobs {
        match job {
            Job::Chunk { part, chunk, value } => chunks.push((part, chunk, value)),
            Job::Small {
                index, seen, hash, ..
            } => whole.push(Whole {
                index,
                seen,
                hash: Some(hash),
                file: None,
                tries: 0,
            }),
            Job::Finish(part) => {
                if let Some(finished) = finish(desk, part)? {
                    whole.push(finished);
                }
            }
        }
    }
    sync(desk, &chunks, &whole)?;
    keep_chunks(desk, &chunks)?;
    let placed = match whole.is_empty() {
        true => Vec::new(),
        false => place(desk, folders, whole)?,
    };
    for (part, chunk, _) in chunks {
        part.kept(chunk);
        let bytes = part.geometry.len(chunk);
        let index = part.index;
        // Its places may be free by the time that somebody hears of it.
        drop(part);
        if !desk.tell(Notice::Kept { index, bytes }) {
            return Ok(());
        }
    }
    for notice in placed {
        if !desk.tell(notice) {
            return Ok(());
        }
    }
    Ok(())
}

/// The last touches on a file of several chunks.
fn finish(desk: &Desk, part: Arc<Part>) -> io::Result<Option<Whole>> {
    let Some(entry) = desk.manifest.entry(part.index) else {
        return Ok(None);
    };
    set_mode(&part.file, entry.mode);
    set_modified(&part.file, entry.modified_ns);
    Ok(Some(Whole {
        index: part.index,
        seen: Seen::of(&part.file)?,
        hash: part.root(),
        file: Some(part),
        tries: 0,
    }))
}

/// Data and names in the private folder to disk.
fn sync(desk: &Desk, chunks: &[(Arc<Part>, u32, Value)], whole: &[Whole]) -> io::Result<()> {
    let disk = desk.inbox.disk();
    let small = whole.iter().filter(|whole| whole.file.is_none());
    if small.clone().count() > SMALL_SYNCED_MAX {
        return disk.sync_all(desk.partial.folder());
    }
    let mut parts: Vec<&Arc<Part>> = chunks.iter().map(|(part, ..)| part).collect();
    parts.extend(whole.iter().filter_map(|whole| whole.file.as_ref()));
    parts.sort_by_key(|part| part.index);
    parts.dedup_by_key(|part| part.index);
    for part in parts {
        disk.sync_file(&part.file)?;
    }
    let mut new_names = false;
    for whole in small {
        if let Some(file) = desk.partial.open_file(&path_key(&desk.manifest, whole.index))? {
            disk.sync_file(&file)?;
            new_names = true;
        }
    }
    if new_names {
        disk.sync_folder(desk.partial.folder())?;
    }
    Ok(())
}

fn keep_chunks(desk: &Desk, chunks: &[(Arc<Part>, u32, Value)]) -> io::Result<()> {
    let mut records: Vec<Record> = Vec::new();
    for (part, chunk, value) in chunks {
        if let Some(Record::Chunks { key, first, values }) = records.last_mut()
            && *key == part.key
            && u32::try_from(values.len())
                .ok()
                .and_then(|len| first.checked_add(len))
                == Some(*chunk)
            && values.len() < VALUES_MAX
        {
            values.push(*value);
            continue;
        }
        records.push(Record::Chunks {
            key: part.key,
            first: *chunk,
            values: vec![*value],
        });
    }
    if records.is_empty() {
        return Ok(());
    }
    let mut journal = lock(&desk.journal);
    journal.append(&records)?;
    journal.sync()
}

/// Give whole files their names.
fn place(desk: &Desk, folders: &mut Folders<'_>, mut whole: Vec<Whole>) -> io::Result<Vec<Notice>> {
    // A file that was given up meanwhile stays where it is.
    whole.retain(|whole| desk.resolve(whole.index));
    let mut notices = Vec::new();
    // Again for those whose name somebody else took in between.
    while !whole.is_empty() {
        let choices = choose(desk, folders, &whole)?;
        let mut taken = Vec::new();
        for (whole, choice) in whole.into_iter().zip(choices) {
            let placed =
                choice.and_then(|choice| place_one(desk, folders, whole.index, &choice).map(|()| choice));
            let (outcome, name) = match placed {
                Ok(Choice::Kept) => (Outcome::Kept, None),
                Ok(Choice::New(name) | Choice::Replace(name)) => (Outcome::Stored, Some(name)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && whole.tries < TRIES_MAX => {
                    taken.push(Whole {
                        tries: whole.tries + 1,
                        ..whole
                    });
                    continue;
                }
                Err(error) if is_disk_full(&error) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "a file cannot be put in its place");
                    (Outcome::Unwritable, None)
                }
            };
            let index = whole.index;
            desk.let_go(index);
            notices.push(Notice::Placed {
                index,
                outcome,
                name,
                hash: whole.hash,
            });
        }
        whole = taken;
    }
    Ok(notices)
}

/// Choose names, and have the journal know them before anything gets one: a name that nothing explains after a crash would
/// be taken for somebody else's file.
fn choose(desk: &Desk, folders: &mut Folders<'_>, whole: &[Whole]) -> io::Result<Vec<io::Result<Choice>>> {
    let (mut choices, mut records) = (Vec::new(), Vec::new());
    for whole in whole {
        let entry = desk.manifest.entry(whole.index).ok_or(io::ErrorKind::NotFound)?;
        let ours = desk.ours.get(&whole.index);
        let choice = folders
            .get(entry.parent)
            .and_then(|folder| desk.inbox.choose((folder, &entry.name), desk.conflict, ours));
        if let Ok(Some(name)) = choice.as_ref().map(Choice::name) {
            records.push(Record::Stored {
                key: path_key(&desk.manifest, whole.index),
                stamp: entry.stamp,
                name: name.to_owned(),
                seen: whole.seen,
            });
        }
        choices.push(choice);
    }
    let mut journal = lock(&desk.journal);
    journal.append(&records)?;
    journal.sync()?;
    Ok(choices)
}

fn place_one(desk: &Desk, folders: &mut Folders<'_>, index: u32, choice: &Choice) -> io::Result<()> {
    let entry = desk.manifest.entry(index).ok_or(io::ErrorKind::NotFound)?;
    let from = file_name(&path_key(&desk.manifest, index));
    let folder = folders.get(entry.parent)?;
    desk.inbox.place((desk.partial.folder(), &from), folder, choice)
}

/// Permissions of a file that was made for another version of the same path.
fn set_mode(file: &File, mode: u32) {
    use std::os::unix::fs::MetadataExt;
    // What the mask of the process took from the file when it was made stays taken.
    let Ok(meta) = file.metadata() else { return };
    let wanted = rustix::fs::Mode::from_raw_mode(meta.mode() & ((mode & 0o777) | 0o600));
    // A file system without permissions is no reason to lose a file.
    let _ = rustix::fs::fchmod(file, wanted);
}
