//! Where traffic between two nodes runs, in the words that every interface uses.

use std::net::SocketAddr;
use std::time::Duration;

/// How a direct path came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum How {
    /// Both ends are on one network.
    Lan,
    /// Over IPv6, without translation.
    Ipv6,
    /// To a port that a router mapped on request.
    Mapped,
    /// Through a hole that both ends opened at once.
    Punched,
    /// Over TCP.
    Tcp,
}

impl How {
    /// The word in machine-readable output.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Ipv6 => "ipv6",
            Self::Mapped => "mapped",
            Self::Punched => "punched",
            Self::Tcp => "tcp",
        }
    }

    /// The words for people.
    pub const fn phrase(self) -> &'static str {
        match self {
            Self::Lan => "same network",
            Self::Ipv6 => "IPv6",
            Self::Mapped => "mapped port",
            Self::Punched => "hole punched",
            Self::Tcp => "TCP",
        }
    }
}

/// Why traffic runs through the relay, each as a sentence a person can act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Why {
    /// The attempt has not ended yet.
    Punching,
    /// One side asked for the relay.
    Policy,
    /// The two have no address family in common, or one offered no address.
    NoCandidates,
    /// Nothing that the peer sent arrived, and it heard nothing from us.
    Silence,
    /// The peer's probes arrive, but it does not see ours.
    OneWayIn,
    /// The peer hears us, but nothing of it arrives here.
    OneWayOut,
    /// A direct path worked and then fell silent.
    PathLost,
    /// Both routers take ports that nobody can foresee.
    Unforeseeable,
    /// Ports would have to be guessed, which one side or a limit does not allow.
    NoGuess,
}

impl Why {
    /// The word in logs.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Punching => "punching",
            Self::Policy => "policy",
            Self::NoCandidates => "no-candidates",
            Self::Silence => "silence",
            Self::OneWayIn => "one-way-in",
            Self::OneWayOut => "one-way-out",
            Self::PathLost => "path-lost",
            Self::Unforeseeable => "unforeseeable",
            Self::NoGuess => "no-guess",
        }
    }

    /// The sentence for people.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Punching => "still punching",
            Self::Policy => "one side asked for the relay only",
            Self::NoCandidates => "the two sides have no kind of address in common",
            Self::Silence => {
                "no probe got through either way: a firewall lets UDP pass only to the server, or a router changes ports; \
                 open a UDP port on one side"
            }
            Self::OneWayIn => {
                "their probes arrive here but ours do not reach them: allow incoming UDP on their side"
            }
            Self::OneWayOut => {
                "our probes reach them but theirs do not arrive here: allow incoming UDP on this side"
            }
            Self::PathLost => "the direct path fell silent; trying again",
            Self::Unforeseeable => {
                "both routers take a new port for each destination, and nobody can foresee it: map a port on one side, or use IPv6"
            }
            Self::NoGuess => {
                "a hole could be found only by trying many ports, which one side or a limit does not allow now"
            }
        }
    }
}

/// Where traffic to a peer runs at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// Nowhere: no direct path, and no relay (not granted, or forbidden by `--relay never`).
    None(Why),
    /// Through the server's relay.
    Relay(Why),
    /// Straight to the peer.
    Direct {
        /// How the path came about.
        how: How,
        /// The socket it leaves from.
        socket: SocketId,
        /// The peer's address as seen from here.
        remote: SocketAddr,
        /// Smoothed round trip of the probes.
        rtt: Duration,
    },
}

impl Path {
    /// Is this a direct path?
    pub const fn is_direct(&self) -> bool {
        matches!(self, Self::Direct { .. })
    }
}

/// One of the node's UDP sockets. The drivers number them; a machine only passes the number back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u16);

impl SocketId {
    /// The main socket for IPv4.
    pub const V4: Self = Self(0);
    /// The main socket for IPv6.
    pub const V6: Self = Self(1);
}
