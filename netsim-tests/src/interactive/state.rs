//! [`StateDir`]: the folder in which labs leave word of themselves, one folder each. Who is named there is looked up in
//! `/proc` before it is believed.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::error::InteractiveError;

/// A folder without a word in it belongs to a lab that is just being made, if it is younger than this.
const BEING_MADE: Duration = Duration::from_secs(10);

/// How long a keeper and the programs in its lab may take to end before they are killed. The project's own programs say
/// goodbye within 3 s.
const GRACE: Duration = Duration::from_secs(6);

/// How often it is looked whether they have.
const POLL: Duration = Duration::from_millis(20);

/// Longest name of a lab.
const NAME_MAX: usize = 32;

/// The folder of all labs of this user.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// What a lab says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LabState {
    /// Its name.
    pub name: String,
    /// The title of its scenario.
    pub title: String,
    /// The file that it was made from, or what stands for it.
    pub file: String,
    /// Process that keeps it.
    pub pid: u32,
    /// When that process started, in ticks since boot: a number of a process is used again, with another time.
    pub started: u64,
    /// Seconds since 1970 at that time.
    pub since_unix_s: u64,
    /// Is it in a user namespace of its own?
    pub rootless: bool,
    /// Can it be entered?
    pub ready: bool,
    /// Its machines.
    pub nodes: Vec<NodeState>,
}

/// What a lab says of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeState {
    /// Its name.
    pub name: String,
    /// What runs there: `host`, `server`, `node`.
    pub role: String,
    /// What it is behind, in words.
    pub behind: String,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// The IPv4 address by which the core knows it, if any.
    pub public: Option<IpAddr>,
    /// Descriptor of its network namespace in the keeper.
    pub fd: i32,
    /// Number of that namespace.
    pub inode: u64,
}

/// One folder that was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The lab's name.
    pub name: String,
    /// What it says, if it said anything yet.
    pub state: Option<LabState>,
    /// Does its keeper live?
    pub alive: bool,
}

impl StateDir {
    /// The folder of this user, made if it is not there: `knothole-netsim` in `$XDG_RUNTIME_DIR`, else
    /// `/tmp/knothole-netsim-UID`.
    ///
    /// # Errors
    ///
    /// [`InteractiveError::Untrusted`] if others could have put something there.
    pub fn open() -> Result<Self, InteractiveError> {
        let uid = rustix::process::geteuid().as_raw();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let runtime = runtime.filter(|path| path.is_absolute() && path.is_dir());
        let path = match runtime {
            Some(runtime) => runtime.join("knothole-netsim"),
            None => PathBuf::from(format!("/tmp/knothole-netsim-{uid}")),
        };
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&path, error)),
            _ => {}
        }
        // Not followed: a link put there by somebody else is not of this user.
        let meta = fs::symlink_metadata(&path).map_err(|error| failed(&path, error))?;
        if !meta.is_dir() || meta.uid() != uid || meta.mode() & 0o077 != 0 {
            return Err(InteractiveError::Untrusted(path));
        }
        Ok(Self { path })
    }

    /// A folder that was opened before, by another process.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of one lab.
    #[must_use]
    pub fn lab(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Makes the folder of a new lab. What a dead lab of that name left is removed.
    ///
    /// # Errors
    ///
    /// [`InteractiveError::Exists`], [`InteractiveError::Name`].
    pub fn reserve(&self, name: &str) -> Result<PathBuf, InteractiveError> {
        let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if name.is_empty() || name.len() > NAME_MAX || name.starts_with('-') || !name.bytes().all(legal) {
            return Err(InteractiveError::Name(name.to_owned()));
        }
        let folder = self.lab(name);
        if let Some(found) = self.all()?.into_iter().find(|found| found.name == name) {
            if found.alive {
                return Err(InteractiveError::Exists(name.to_owned()));
            }
            self.end(&found)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(&folder) {
            Ok(()) => Ok(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(InteractiveError::Exists(name.to_owned()))
            }
            Err(error) => Err(failed(&folder, error)),
        }
    }

    /// Every lab, by name.
    ///
    /// # Errors
    ///
    /// [`InteractiveError::Files`].
    pub fn all(&self) -> Result<Vec<Found>, InteractiveError> {
        let entries = fs::read_dir(&self.path).map_err(|error| failed(&self.path, error))?;
        let mut all = Vec::new();
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            let state = read(&entry.path().join("state.json"));
            let alive = match &state {
                Some(state) => started(state.pid) == Some(state.started),
                None => is_young(&entry.path()),
            };
            all.push(Found { name, state, alive });
        }
        all.sort_by(|one, two| one.name.cmp(&two.name));
        Ok(all)
    }

    /// The lab of this name, or the only one.
    ///
    /// # Errors
    ///
    /// [`InteractiveError::UnknownLab`], [`InteractiveError::NoLab`], [`InteractiveError::Several`].
    pub fn find(&self, name: Option<&str>) -> Result<Found, InteractiveError> {
        let mut all = self.all()?;
        let names: Vec<&str> = all.iter().map(|found| found.name.as_str()).collect();
        let known = names.join(", ");
        match name {
            None if all.len() > 1 => Err(InteractiveError::Several(known)),
            None => all.pop().ok_or(InteractiveError::NoLab),
            Some(name) => match names.iter().position(|known| *known == name) {
                Some(index) => Ok(all.swap_remove(index)),
                None if all.is_empty() => Err(InteractiveError::NoLab),
                None => Err(InteractiveError::UnknownLab {
                    name: name.to_owned(),
                    known: format!("up are {known}"),
                }),
            },
        }
    }

    /// Ends a lab: its keeper, then whoever is still in its namespaces, then its files. Politely first.
    ///
    /// # Errors
    ///
    /// [`InteractiveError::Files`].
    pub fn end(&self, found: &Found) -> Result<(), InteractiveError> {
        if let Some(state) = &found.state {
            end_process(state.pid, Some(state.started));
            let inside = inhabitants(state);
            let deadline = Instant::now() + Duration::from_secs(1);
            for (pid, started) in &inside {
                signal(*pid, *started, Signal::TERM);
            }
            while Instant::now() < deadline && !inhabitants(state).is_empty() {
                std::thread::park_timeout(POLL);
            }
            for (pid, started) in inhabitants(state) {
                end_process(pid, Some(started));
            }
        }
        let folder = self.lab(&found.name);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&folder, error)),
            _ => Ok(()),
        }
    }
}

impl LabState {
    /// Writes it where others look for it; a reader sees the old or the new, never half of one.
    ///
    /// # Errors
    ///
    /// [`InteractiveError::Files`].
    pub fn write(&self, folder: &Path) -> Result<(), InteractiveError> {
        let (file, draft) = (folder.join("state.json"), folder.join("state.json.new"));
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed(&file, error.into()))?;
        fs::write(&draft, text).map_err(|error| failed(&draft, error))?;
        fs::rename(&draft, &file).map_err(|error| failed(&file, error))
    }

    /// The node of this name.
    ///
    /// # Errors
    ///
    /// [`InteractiveError::UnknownNode`].
    pub fn node(&self, name: &str) -> Result<&NodeState, InteractiveError> {
        let known = || {
            self.nodes
                .iter()
                .map(|node| node.name.as_str())
                .collect::<Vec<_>>()
        };
        let found = self.nodes.iter().find(|node| node.name == name);
        found.ok_or_else(|| InteractiveError::UnknownNode {
            lab: self.name.clone(),
            node: name.to_owned(),
            known: known().join(", "),
        })
    }
}

/// When a process started, in ticks since boot; `None` if it is no more, or dead and not yet buried.
#[must_use]
pub(super) fn started(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may hold anything, also spaces and brackets; what follows its last bracket does not.
    let (_, after) = text.rsplit_once(')')?;
    let mut fields = after.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?;
    (state != "Z" && state != "X").then(|| started.parse().ok())?
}

/// The processes in a lab's namespaces that its keeper did not end: programs that people started there.
fn inhabitants(state: &LabState) -> Vec<(u32, u64)> {
    let namespaces: Vec<String> = state
        .nodes
        .iter()
        .map(|node| format!("net:[{}]", node.inode))
        .collect();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let link = fs::read_link(format!("/proc/{pid}/ns/net")).ok()?;
        let inside = namespaces.iter().any(|known| link.as_os_str() == known.as_str());
        (inside && pid != std::process::id()).then(|| Some((pid, started(pid)?)))?
    })
    .collect()
}

/// Ends a process, politely first.
fn end_process(pid: u32, since: Option<u64>) {
    let Some(since) = since.or_else(|| started(pid)) else {
        return;
    };
    signal(pid, since, Signal::TERM);
    let deadline = Instant::now() + GRACE;
    while started(pid) == Some(since) && Instant::now() < deadline {
        std::thread::park_timeout(POLL);
    }
    signal(pid, since, Signal::KILL);
    let deadline = Instant::now() + GRACE;
    while started(pid) == Some(since) && Instant::now() < deadline {
        std::thread::park_timeout(POLL);
    }
}

/// Sends a signal to the very process that started then, or to nobody.
fn signal(pid: u32, since: u64, signal: Signal) {
    let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    // Opened first and looked at then: what the descriptor holds cannot become another process.
    if let Ok(process) = pidfd_open(number, PidfdFlags::empty())
        && started(pid) == Some(since)
    {
        // It may end at this very moment.
        let _ = pidfd_send_signal(process, signal);
    }
}

fn read(file: &Path) -> Option<LabState> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

fn is_young(folder: &Path) -> bool {
    let made = fs::metadata(folder).and_then(|meta| meta.modified());
    let age = made.map(|made| SystemTime::now().duration_since(made).unwrap_or_default());
    age.is_ok_and(|age| age < BEING_MADE)
}

pub(super) fn failed(path: &Path, source: io::Error) -> InteractiveError {
    InteractiveError::Files {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let own = std::process::id();
        let since = started(own).unwrap();
        assert!(since > 0);
        assert_eq!(started(own), Some(since));
        assert_eq!(started(0), None);
    }

    #[test]
    fn a_lab_whose_process_started_at_another_time_is_dead() {
        let dir = tempfile::tempdir().unwrap();
        let labs = StateDir::at(dir.path().to_owned());
        let folder = labs.reserve("one").unwrap();
        assert!(matches!(labs.reserve("one"), Err(InteractiveError::Exists(_))));
        let mut state = LabState {
            name: "one".to_owned(),
            title: String::new(),
            file: String::new(),
            pid: std::process::id(),
            started: started(std::process::id()).unwrap(),
            since_unix_s: 0,
            rootless: false,
            ready: true,
            nodes: Vec::new(),
        };
        state.write(&folder).unwrap();
        assert!(labs.find(None).unwrap().alive);
        state.started += 1;
        state.write(&folder).unwrap();
        let found = labs.find(Some("one")).unwrap();
        assert!(!found.alive);
        labs.reserve("one").unwrap();
        labs.end(&found).unwrap();
        assert!(matches!(labs.find(None), Err(InteractiveError::NoLab)));
    }

    #[test]
    fn names_that_are_none_and_labs_that_are_none_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let labs = StateDir::at(dir.path().to_owned());
        for bad in ["", "../x", "A", "a b", "-x", ".."] {
            assert!(
                matches!(labs.reserve(bad), Err(InteractiveError::Name(_))),
                "{bad}"
            );
        }
        labs.reserve("one").unwrap();
        labs.reserve("two").unwrap();
        assert!(matches!(labs.find(None), Err(InteractiveError::Several(_))));
        assert!(matches!(
            labs.find(Some("three")),
            Err(InteractiveError::UnknownLab { .. })
        ));
    }
}
