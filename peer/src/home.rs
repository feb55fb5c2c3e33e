//! Where a node's files are.
//!
//! Either everything lies in one directory that the person chose, so that several nodes live on one machine, or in the
//! places that the XDG Base Directory Specification gives a program. Nothing is created here.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;

/// Name of the program in the directories of a user.
const PROGRAM: &str = "knothole";

/// The places of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    config: PathBuf,
    data: PathBuf,
    runtime: PathBuf,
}

impl Home {
    /// Everything in this directory.
    pub fn at(directory: &Path) -> Self {
        Self {
            config: directory.to_owned(),
            data: directory.to_owned(),
            runtime: directory.to_owned(),
        }
    }

    /// The usual places of the user who runs this process; `None` if the user has no home directory.
    pub fn of_user() -> Option<Self> {
        let base = etcetera::choose_base_strategy().ok()?;
        let data = base.data_dir().join(PROGRAM);
        Some(Self {
            config: base.config_dir().join(PROGRAM),
            // Without a runtime directory (no login session) the socket lies beside the inbox.
            runtime: base
                .runtime_dir()
                .map_or_else(|| data.clone(), |dir| dir.join(PROGRAM)),
            data,
        })
    }

    /// The node's key.
    pub fn identity(&self) -> PathBuf {
        self.config.join("identity.pem")
    }

    /// The address book.
    pub fn book(&self) -> PathBuf {
        self.config.join("book.json")
    }

    /// The folder for received files.
    pub fn inbox(&self) -> PathBuf {
        self.data.join("inbox")
    }

    /// What was learnt of the networks that this machine was in.
    pub fn networks(&self) -> PathBuf {
        self.data.join("networks.json")
    }

    /// The socket by which commands talk to a running `knothole up`.
    pub fn socket(&self) -> PathBuf {
        self.runtime.join("up.sock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_holds_everything_of_a_node() {
        let home = Home::at(Path::new("/x"));
        for path in [
            home.identity(),
            home.book(),
            home.inbox(),
            home.networks(),
            home.socket(),
        ] {
            assert_eq!(path.parent(), Some(Path::new("/x")));
        }
    }
}
