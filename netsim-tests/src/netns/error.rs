//! [`LabError`]: why a lab could not be made or changed. Text for people, no behaviour.

use std::io;
use std::net::IpAddr;

/// Why a lab could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The kernel or its configuration refuses user namespaces to ordinary users.
    #[error("cannot enter a user namespace ({source}): {hint}; or run as root")]
    UserNamespace {
        /// Which setting to change.
        hint: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// User namespaces can be entered only before the first thread exists.
    #[error("cannot enter a user namespace: the process already has threads, call this first thing in main")]
    Threads,
    /// No network namespace can be made.
    #[error("cannot make a network namespace ({0}): run as root, or as a user with user namespaces")]
    Namespace(#[source] io::Error),
    /// The calling thread cannot move into a namespace.
    #[error("cannot enter the namespace of {host} ({source})")]
    Enter {
        /// Whose namespace.
        host: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// `/dev/net/tun` is missing or closed to this user.
    #[error(
        "cannot open /dev/net/tun ({0}): load the tun module, and let this user read and write the device"
    )]
    Tun(#[source] io::Error),
    /// An interface, address, route or kernel setting inside a namespace.
    #[error("cannot set {what} ({source})")]
    Configure {
        /// What was to be set.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program could not be started.
    #[error("cannot start {program} ({source})")]
    Spawn {
        /// Which one.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The program that loads packet filter rules is not installed.
    #[error("cannot find the program nft, which the kernel's NATs need: install the package nftables")]
    NoNft,
    /// The kernel, or the program `nft`, refuses the rules of a NAT.
    #[error(
        "the packet filter rules of {at} are refused ({said}): this kernel or nft lacks a feature of NAT"
    )]
    Rules {
        /// Whose rules.
        at: String,
        /// What the program said.
        said: String,
    },
    /// A thread of the lab could not be started, or ended before its time.
    #[error("a thread of the lab failed ({0})")]
    Thread(#[source] io::Error),
    /// No host of this name.
    #[error("no host is called {0}")]
    UnknownHost(String),
    /// No NAT of this name.
    #[error("no nat is called {0}")]
    UnknownNat(String),
    /// Two hosts or two NATs of one name.
    #[error("two are called {0}")]
    DuplicateName(String),
    /// Two owners of one address in one network.
    #[error("address {0} is used twice in one network")]
    DuplicateAddress(IpAddr),
    /// A host without any address, or more NATs than the lab has addresses for.
    #[error("no address for {0}")]
    NoAddress(String),
    /// Asked to change the NAT of a host that has none.
    #[error("host {0} is behind no nat")]
    NoNat(String),
}
