//! The system calls that have no safe wrapper: `unshare`, the ioctls of `/dev/net/tun`, the hook between fork and
//! exec. The only file of the workspace with `unsafe`; nothing here decides anything.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use rustix::thread::UnshareFlags;

/// What the lab asks of the kernel so that super-packets pass whole: partial checksums and segmentation of TCP and
/// UDP over both IP versions. Dropping one means that the kernel cuts those packets up before the lab sees them.
const OFFLOAD: libc::c_uint =
    libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_USO4 | libc::TUN_F_USO6;

/// A TUN device; it exists as long as this does.
#[derive(Debug)]
pub(crate) struct Tun {
    /// Where packets are read and written, non-blocking.
    pub(crate) fd: OwnedFd,
    /// Does each packet carry a virtio-net header in front, and may it be a super-packet?
    pub(crate) offload: bool,
}

/// Moves the calling thread into new namespaces of these kinds.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the only hazard of unshare is a file descriptor table of one's own (FILES), which nobody here asks for.
    unsafe { rustix::thread::unshare_unsafe(flags) }?;
    Ok(())
}

/// Makes the child die when the thread that spawns it ends, however that happens.
pub(super) fn die_with_parent(command: &mut Command) {
    let hook = || {
        Ok(rustix::process::set_parent_process_death_signal(Some(
            Signal::KILL,
        ))?)
    };
    // SAFETY: the hook runs between fork and exec; it makes one system call, allocates nothing, takes no lock.
    unsafe { command.pre_exec(hook) };
}

/// Creates the TUN device `name` in the namespace of the calling thread, with offload where it is wanted and the
/// kernel has it.
pub(crate) fn open_tun(name: &str, offload: bool) -> io::Result<Tun> {
    let flags = libc::IFF_TUN | libc::IFF_NO_PI;
    if offload {
        let fd = open_device()?;
        set_interface(&fd, name, flags | libc::IFF_VNET_HDR)?;
        if set_offload(&fd).is_ok() {
            return Ok(Tun { fd, offload });
        }
    }
    let fd = open_device()?;
    set_interface(&fd, name, flags)?;
    Ok(Tun { fd, offload: false })
}

fn open_device() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/net/tun", flags, Mode::empty())?)
}

fn set_interface(fd: &OwnedFd, name: &str, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: ifreq is plain data, for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero and ends the name.
    let room = request.ifr_name.len() - 1;
    if name.len() > room {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(flags).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives on this stack frame for the whole call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    check(result)
}

fn set_offload(fd: &OwnedFd) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of this process.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(OFFLOAD)) };
    check(result)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
