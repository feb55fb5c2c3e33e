//! Becoming a program on a node: into its network, with the lab's names in `/etc/hosts`, and then that program, on the
//! caller's terminal. For a process with a single thread.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::InteractiveError;
use super::state::{Found, StateDir, failed};
use crate::netns::{LabError, join, with_own_files};

/// What a program on a node finds instead of the machine's own.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Its `/etc/hosts`.
    pub hosts: PathBuf,
    /// Its `/etc/resolv.conf`.
    pub resolv: PathBuf,
}

/// Makes the calling process a program on a node. Comes back only if that is not possible.
#[must_use]
pub fn enter(labs: &StateDir, lab: &Found, node: &str, command: &[OsString]) -> InteractiveError {
    match into_network(labs, lab, node) {
        Ok(surroundings) => {
            let folder = labs.lab(&lab.name);
            let mut search = folder.join("bin").into_os_string();
            if let Some(path) = std::env::var_os("PATH") {
                search.push(":");
                search.push(path);
            }
            let variables = [
                ("PATH", search),
                ("KNOTHOLE_HOME", folder.join(format!("{node}.home")).into()),
                ("KNOTHOLE_LAB", lab.name.clone().into()),
                ("KNOTHOLE_LAB_NODE", node.into()),
            ];
            become_program(&surroundings, command, &variables)
        }
        Err(error) => error,
    }
}

/// Makes the calling process this program, with other surroundings, where it is. Comes back only if that is not possible.
#[must_use]
pub fn become_program(
    surroundings: &Surroundings,
    command: &[OsString],
    variables: &[(&str, OsString)],
) -> InteractiveError {
    let files = [
        (surroundings.hosts.as_path(), Path::new("/etc/hosts")),
        (surroundings.resolv.as_path(), Path::new("/etc/resolv.conf")),
    ];
    if let Err(error) = with_own_files(&files) {
        return error.into();
    }
    let Some((program, arguments)) = command.split_first() else {
        return InteractiveError::Program {
            program: "nothing".to_owned(),
            source: std::io::ErrorKind::InvalidInput.into(),
        };
    };
    let mut new = Command::new(program);
    new.args(arguments);
    for (name, value) in variables {
        new.env(name, value);
    }
    InteractiveError::Program {
        program: program.to_string_lossy().into_owned(),
        source: new.exec(),
    }
}

fn into_network(labs: &StateDir, lab: &Found, node: &str) -> Result<Surroundings, InteractiveError> {
    let gone = || InteractiveError::Gone(lab.name.clone());
    let state = lab
        .state
        .as_ref()
        .filter(|state| lab.alive && state.ready)
        .ok_or_else(gone)?;
    let node = state.node(node)?;
    let keeper = PathBuf::from(format!("/proc/{}", state.pid));
    let open = |path: PathBuf| File::open(&path).map_err(|error| failed(&path, error));
    let user = state.rootless.then(|| open(keeper.join("ns/user"))).transpose()?;
    let network = open(keeper.join(format!("fd/{}", node.fd)))?;
    // The keeper may have ended since it was looked up, and its number been given away.
    let inode = rustix::fs::fstat(&network).map(|stat| stat.st_ino);
    if inode.map_err(|error| LabError::Enter {
        host: node.name.clone(),
        source: error.into(),
    })? != node.inode
    {
        return Err(gone());
    }
    join(&node.name, user.as_ref().map(AsFd::as_fd), network.as_fd())?;
    let folder = labs.lab(&lab.name);
    Ok(Surroundings {
        hosts: folder.join(format!("{}.hosts", node.name)),
        resolv: folder.join("resolv.conf"),
    })
}
