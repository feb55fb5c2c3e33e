//! Entering the namespaces of another process, and giving a program files of its own. For a process with a single
//! thread that is about to become another program.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::error::LabError;
use super::sys;

/// Moves the calling thread into a network namespace, and before that into the user namespace that it belongs to, if it
/// is not that of the caller. The latter is allowed only while the process has one thread.
///
/// # Errors
///
/// [`LabError::Enter`]; `name` is for its message.
pub fn join(name: &str, user: Option<BorrowedFd<'_>>, network: BorrowedFd<'_>) -> Result<(), LabError> {
    let enter = |fd, kind| {
        move_into_link_name_space(fd, Some(kind)).map_err(|source| LabError::Enter {
            host: name.to_owned(),
            source: source.into(),
        })
    };
    if let Some(user) = user {
        enter(user, LinkNameSpaceType::User)?;
    }
    enter(network, LinkNameSpaceType::Network)
}

/// Lets the process, and what it starts, see other files in the place of some, and nobody else. Each pair is what is
/// seen and where; a place that does not exist is left alone.
///
/// # Errors
///
/// [`LabError::Configure`].
pub fn with_own_files(files: &[(&Path, &Path)]) -> Result<(), LabError> {
    let failed = |what: &Path, source: io::Error| LabError::Configure {
        what: format!("{} for one program alone", what.display()),
        source,
    };
    sys::unshare(UnshareFlags::NEWNS).map_err(|source| failed(Path::new("files"), source))?;
    let root = Path::new("/");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change(root, private).map_err(|source| failed(root, source.into()))?;
    for (from, to) in files {
        if to.exists() {
            mount_bind(*from, *to).map_err(|source| failed(to, source.into()))?;
        }
    }
    Ok(())
}
