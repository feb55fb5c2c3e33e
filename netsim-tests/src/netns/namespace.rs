//! [`Namespace`]: one network namespace, a thread that stays in it, and ways to run things inside.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::error::LabError;
use super::sys;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace. It lasts until this value, all sockets and all processes in it are gone; processes started
/// by [`Namespace::spawn`] are killed when this value is dropped or the lab dies.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    fd: OwnedFd,
    /// The thread that spawns: its end is the death signal of the children.
    jobs: Option<SyncSender<Job>>,
    keeper: Option<JoinHandle<()>>,
}

impl Namespace {
    /// Makes an empty namespace: a loopback device that is down, and nothing else. `name` is for messages only.
    ///
    /// # Errors
    ///
    /// [`LabError::Namespace`] without the right to, [`LabError::Thread`] without room for a thread.
    pub fn create(name: &str) -> Result<Self, LabError> {
        let (announce, announced) = sync_channel(1);
        let (jobs, inbox) = sync_channel::<Job>(1);
        let keeper = std::thread::Builder::new()
            .name(format!("lab {name}"))
            .spawn(move || {
                let made = unshare_and_open();
                let usable = made.is_ok();
                if announce.send(made).is_ok() && usable {
                    inbox.into_iter().for_each(|job| job());
                }
            });
        let keeper = keeper.map_err(LabError::Thread)?;
        let made = announced
            .recv()
            .map_err(|_| LabError::Thread(io::ErrorKind::BrokenPipe.into()))?;
        let fd = made.map_err(LabError::Namespace)?;
        Ok(Self {
            name: name.to_owned(),
            fd,
            jobs: Some(jobs),
            keeper: Some(keeper),
        })
    }

    /// The name given to [`Namespace::create`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into the namespace for good. Threads and processes that it starts are born there.
    ///
    /// # Errors
    ///
    /// [`LabError::Enter`].
    pub fn enter(&self) -> Result<(), LabError> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|source| {
            LabError::Enter {
                host: self.name.clone(),
                source: source.into(),
            }
        })
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for the result. Sockets made there stay in
    /// the namespace wherever they are used; an async runtime built there has all its threads inside.
    ///
    /// # Errors
    ///
    /// [`LabError::Enter`], [`LabError::Thread`]. A panic of `work` continues in the caller.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, LabError> {
        let inside = || self.enter().map(|()| work());
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new()
                .spawn_scoped(scope, inside)
                .map_err(LabError::Thread)?;
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a program inside. It is killed when the namespace is dropped, or when this process ends in any way; what
    /// it has started itself is not.
    ///
    /// # Errors
    ///
    /// [`LabError::Spawn`].
    pub fn spawn(&self, mut command: Command) -> Result<Child, LabError> {
        let program = command.get_program().to_string_lossy().into_owned();
        let failed = |source| LabError::Spawn {
            program: program.clone(),
            source,
        };
        let (reply, answer) = sync_channel(1);
        let job = Box::new(move || {
            sys::die_with_parent(&mut command);
            // The caller waits for this message; if it is gone, so is the interest in the child.
            let _unheard = reply.send(command.spawn());
        });
        let gone = || failed(io::ErrorKind::BrokenPipe.into());
        self.jobs
            .as_ref()
            .ok_or_else(gone)?
            .send(job)
            .map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?.map_err(failed)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(keeper) = self.keeper.take() {
            // A keeper that panicked has ended, which is all that matters here.
            let _panicked = keeper.join();
        }
    }
}

fn unshare_and_open() -> io::Result<OwnedFd> {
    sys::unshare(UnshareFlags::NEWNET)?;
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}
