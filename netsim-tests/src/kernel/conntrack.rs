//! The connection tracking of one namespace: its timeouts, how much it holds, forgetting everything.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use netlink_packet_core::{NLM_F_ACK, NLM_F_REQUEST};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

use crate::netns::{LabError, sysctl};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE` of linux/netfilter: without attributes it is about all flows.
const DELETE: u16 = 1 << 8 | 2;

/// Bytes of a netlink header, and of `nfgenmsg` behind it: family, version, resource. All zero: every family.
const HEADER_LEN: usize = 16;
const MESSAGE_LEN: u8 = 20;

/// Where the answer to a request says how it went.
const STATUS_AT: usize = HEADER_LEN;

/// Longest text of a number of flows.
const NUMBER_LEN: usize = 24;

/// Sets how long UDP flows are remembered in the namespace of the calling thread.
pub(super) fn set_timeouts(unreplied: Duration, stream: Duration) -> Result<(), LabError> {
    let set = |name: &str, life: Duration| {
        let name = format!("net/netfilter/nf_conntrack_udp_timeout{name}");
        sysctl(&name, &life.as_secs().to_string())
    };
    set("", unreplied)?;
    set("_stream", stream)
}

/// Forgets all flows of the namespace of the calling thread.
pub(super) fn forget() -> Result<(), LabError> {
    try_forget().map_err(|source| LabError::Configure {
        what: "connection tracking".to_owned(),
        source,
    })
}

fn try_forget() -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = [0; MESSAGE_LEN as usize];
    request[..4].copy_from_slice(&u32::from(MESSAGE_LEN).to_ne_bytes());
    request[4..6].copy_from_slice(&DELETE.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    socket.send(&request, 0)?;
    let (reply, _) = socket.recv_from_full()?;
    let status = reply
        .get(STATUS_AT..)
        .and_then(|rest| rest.first_chunk().copied())
        .ok_or(io::ErrorKind::InvalidData)?;
    match i32::from_ne_bytes(status) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error)),
    }
}

/// How many flows a namespace remembers.
#[derive(Debug)]
pub(super) struct Count(File);

impl Count {
    /// Of the namespace of the calling thread, from wherever it is asked later.
    pub(super) fn open() -> io::Result<Self> {
        File::open("/proc/sys/net/netfilter/nf_conntrack_count").map(Self)
    }

    /// Now; those that have ended may be counted until the kernel comes by.
    pub(super) fn read(&self) -> Option<usize> {
        let mut text = [0; NUMBER_LEN];
        let length = self.0.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..length]).ok()?.trim().parse().ok()
    }
}
