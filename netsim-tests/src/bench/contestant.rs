//! Who takes part in a measurement. Names and words, no behaviour.

use serde::{Serialize, Serializer};

/// One line of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Contestant {
    /// One TCP connection of the kernel.
    Tcp,
    /// One QUIC stream with the settings of connections between nodes, over a plain socket.
    Quic,
    /// `iperf3`, one stream.
    Iperf3,
    /// `knothole speed` on a direct path.
    Speed,
    /// The same through the relay.
    SpeedRelay,
    /// `knothole send` of one file on a direct path.
    Send,
    /// The same through the relay.
    SendRelay,
    /// `scp` of one file.
    Scp,
    /// `rsync` of one file over ssh.
    Rsync,
    /// `sendme` of one file.
    Sendme,
    /// `wormhole` of one file.
    Wormhole,
    /// `croc` of one file.
    Croc,
    /// `knothole send` of a folder of small files on a direct path.
    Folder,
    /// `tar` of that folder through a plain QUIC stream into `tar`.
    Tar,
    /// `scp -r` of that folder.
    ScpFolder,
    /// `rsync -a` of that folder over ssh.
    RsyncFolder,
    /// `sendme` of that folder.
    SendmeFolder,
    /// `wormhole` of that folder.
    WormholeFolder,
    /// `croc` of that folder.
    CrocFolder,
}

/// What it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Bytes from nowhere to nowhere, for a time.
    Stream,
    /// One large file.
    File,
    /// A folder of many small ones.
    Folder,
}

impl Contestant {
    /// All, in the order of the table and of a round.
    pub const ALL: [Self; 19] = [
        Self::Tcp,
        Self::Quic,
        Self::Iperf3,
        Self::Speed,
        Self::SpeedRelay,
        Self::Send,
        Self::SendRelay,
        Self::Scp,
        Self::Rsync,
        Self::Sendme,
        Self::Wormhole,
        Self::Croc,
        Self::Folder,
        Self::Tar,
        Self::ScpFolder,
        Self::RsyncFolder,
        Self::SendmeFolder,
        Self::WormholeFolder,
        Self::CrocFolder,
    ];

    /// The name on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Iperf3 => "iperf3",
            Self::Speed => "speed",
            Self::SpeedRelay => "speed-relay",
            Self::Send => "send",
            Self::SendRelay => "send-relay",
            Self::Scp => "scp",
            Self::Rsync => "rsync",
            Self::Sendme => "sendme",
            Self::Wormhole => "wormhole",
            Self::Croc => "croc",
            Self::Folder => "folder",
            Self::Tar => "tar",
            Self::ScpFolder => "scp-folder",
            Self::RsyncFolder => "rsync-folder",
            Self::SendmeFolder => "sendme-folder",
            Self::WormholeFolder => "wormhole-folder",
            Self::CrocFolder => "croc-folder",
        }
    }

    /// The contestant of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }

    /// What it carries.
    #[must_use]
    pub fn load(self) -> Load {
        match self {
            Self::Tcp | Self::Quic | Self::Iperf3 | Self::Speed | Self::SpeedRelay => Load::Stream,
            Self::Send
            | Self::SendRelay
            | Self::Scp
            | Self::Rsync
            | Self::Sendme
            | Self::Wormhole
            | Self::Croc => Load::File,
            Self::Folder
            | Self::Tar
            | Self::ScpFolder
            | Self::RsyncFolder
            | Self::SendmeFolder
            | Self::WormholeFolder
            | Self::CrocFolder => Load::Folder,
        }
    }

    /// Is it Knothole itself, for which a server and a receiver must be up?
    #[must_use]
    pub fn is_own(self) -> bool {
        matches!(
            self,
            Self::Speed | Self::SpeedRelay | Self::Send | Self::SendRelay | Self::Folder
        )
    }
}

impl Serialize for Contestant {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_contestant_is_found_by_its_name_and_by_no_other() {
        for one in Contestant::ALL {
            assert_eq!(Contestant::named(one.name()), Some(one));
        }
        assert_eq!(Contestant::named("QUIC"), None);
    }
}
