//! What processes use: processor time and memory, as `/proc` tells it. Knows nothing of what they do.
//!
//! A process and whatever it starts is [watched](Watch) from its start to its end. One that goes on running is looked at
//! [before and after](Before) what it did.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::Serialize;

/// How often a process is looked at. Its peak of memory is told by the kernel, so what is missed is only what it grew in
/// its last moments.
const LOOK: Duration = Duration::from_millis(10);

/// What a process used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Used {
    /// Seconds of processor time, in user programs and in the kernel on their behalf.
    pub cpu_seconds: f64,
    /// Largest resident set in KiB; of several processes, the sum of theirs.
    pub peak_kib: u64,
}

/// Watches a child of this process until it has ended. Whoever started it waits for it only afterwards.
#[derive(Debug)]
pub(super) struct Watch {
    thread: Option<JoinHandle<Used>>,
    enough: Arc<AtomicBool>,
}

impl Watch {
    pub(super) fn start(pid: u32) -> Self {
        let enough = Arc::<AtomicBool>::default();
        let until = Arc::clone(&enough);
        let thread = std::thread::Builder::new()
            .name("usage".to_owned())
            .spawn(move || watch(pid, &until))
            .ok();
        Self { thread, enough }
    }

    /// What it used, once it has ended; at once if `now`.
    pub(super) fn finish(mut self, now: bool) -> Used {
        if now {
            self.enough.store(true, Ordering::Relaxed);
        }
        self.thread
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
    }
}

fn watch(pid: u32, enough: &AtomicBool) -> Used {
    let mut peaks = BTreeMap::new();
    loop {
        note_peaks(pid, &mut peaks);
        let is_over = has_ended(pid) || enough.load(Ordering::Relaxed);
        if is_over {
            return Used {
                cpu_seconds: cpu_seconds(pid),
                peak_kib: peaks.values().sum(),
            };
        }
        std::thread::park_timeout(LOOK);
    }
}

/// Has the child ended? It stays to be waited for, and until then the kernel tells what it used.
pub(super) fn has_ended(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return true;
    };
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    // An error means that it is no child any more.
    !matches!(waitid(WaitId::Pid(pid), look), Ok(None))
}

/// Notes the largest memory of a process and of its descendants.
fn note_peaks(pid: u32, peaks: &mut BTreeMap<u32, u64>) {
    if let Some(kib) = peak_kib(pid) {
        let known = peaks.entry(pid).or_default();
        *known = kib.max(*known);
    }
    let tasks = fs::read_dir(format!("/proc/{pid}/task"));
    for task in tasks.into_iter().flatten().flatten() {
        let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|child| child.parse().ok()) {
            note_peaks(child, peaks);
        }
    }
}

/// A process that goes on running, before it did something.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    pid: u32,
    cpu_seconds: f64,
}

impl Before {
    pub(super) fn of(pid: u32) -> Self {
        // Where the kernel refuses to forget the peak so far, the next one is that since the start of the process.
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        Self {
            pid,
            cpu_seconds: cpu_seconds(pid),
        }
    }

    pub(super) fn after(self) -> Used {
        Used {
            cpu_seconds: (cpu_seconds(self.pid) - self.cpu_seconds).max(0.0),
            peak_kib: peak_kib(self.pid).unwrap_or(0),
        }
    }
}

/// Processor time of a process and of the descendants that it waited for; 0 once it is gone.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ticks = ticks_of(&stat).unwrap_or(0);
    ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64
}

/// The ticks in a line of `/proc/PID/stat`: user and system time, own and of waited-for children (proc(5), fields 14 to 17).
fn ticks_of(stat: &str) -> Option<u64> {
    // The name stands in parentheses and may hold anything, so the last one counts.
    let (_, fields) = stat.rsplit_once(')')?;
    let times = fields.split_whitespace().skip(11).take(4);
    let times: Vec<u64> = times.map_while(|field| field.parse().ok()).collect();
    (times.len() == 4).then(|| times.iter().sum())
}

fn peak_kib(pid: u32) -> Option<u64> {
    peak_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn peak_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 500 9 0 0 150 50 30 20 20 0 3 0 99 1 2";
        assert_eq!(ticks_of(stat), Some(250));
        assert_eq!(ticks_of("7 (x) S 1 2"), None);
        assert_eq!(ticks_of(""), None);
        assert_eq!(
            peak_of("Name:\tx\nVmHWM:\t  2345 kB\nVmRSS:\t 1 kB\n"),
            Some(2345)
        );
        assert_eq!(peak_of("Name:\tx\n"), None);
    }

    /// A shell whose child is busy until it has counted far.
    fn busy() -> Child {
        let count = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done";
        Command::new("sh")
            .args(["-c", &format!("sh -c '{count}'; exit 3")])
            .spawn()
            .unwrap()
    }

    #[test]
    fn an_ended_process_leaves_its_time_and_memory_and_its_exit_code() {
        let mut child = busy();
        let used = Watch::start(child.id()).finish(false);
        assert!(used.cpu_seconds > 0.01, "{used:?}");
        assert!(used.peak_kib > 100, "{used:?}");
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }

    #[test]
    fn a_running_process_is_told_from_what_it_was_before() {
        let own = std::process::id();
        let before = Before::of(own);
        let ballast = vec![1_u8; 32 << 20];
        while before.after().cpu_seconds < 0.03 {
            std::hint::black_box(ballast.iter().map(|byte| u64::from(*byte)).sum::<u64>());
        }
        let after = before.after();
        assert!(after.peak_kib > 32 << 10, "{after:?}");
        assert!(after.cpu_seconds < 60.0, "{after:?}");
    }
}
