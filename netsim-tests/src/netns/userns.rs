//! [`become_lab_root`]: the right to make network namespaces, for an ordinary user. Does nothing for root.

use std::fs;
use std::io;

use rustix::thread::{CapabilitySet, UnshareFlags};

use super::error::LabError;
use super::sys;

/// Makes sure that this process may create network namespaces and TUN devices.
///
/// With the capabilities at hand (root) it returns at once. Otherwise it moves the whole process into a user namespace
/// in which its user is root, which the kernel allows only while the process has a single thread: call it first thing
/// in `main`, before any runtime.
///
/// # Errors
///
/// [`LabError::Threads`] when called too late, [`LabError::UserNamespace`] when the machine refuses, with the setting
/// that changes it.
pub fn become_lab_root() -> Result<(), LabError> {
    if has_capabilities() {
        return Ok(());
    }
    let uid = rustix::process::geteuid().as_raw();
    let gid = rustix::process::getegid().as_raw();
    sys::unshare(UnshareFlags::NEWUSER).map_err(|source| match source.raw_os_error() {
        Some(libc::EINVAL) => LabError::Threads,
        _ => refused(source),
    })?;
    // Where AppArmor restricts user namespaces the call above succeeds and these writes fail.
    fs::write("/proc/self/setgroups", "deny").map_err(refused)?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).map_err(refused)?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).map_err(refused)
}

fn has_capabilities() -> bool {
    let needed = CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN;
    rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed))
}

fn refused(source: io::Error) -> LabError {
    LabError::UserNamespace { hint: hint(), source }
}

/// Which setting of this machine stands in the way.
fn hint() -> String {
    let is = |name: &str, value: &str| {
        fs::read_to_string(format!("/proc/sys/{name}")).is_ok_and(|text| text.trim() == value)
    };
    if is("kernel/unprivileged_userns_clone", "0") {
        "set sysctl kernel.unprivileged_userns_clone=1".to_owned()
    } else if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        "set sysctl kernel.apparmor_restrict_unprivileged_userns=0".to_owned()
    } else if is("user/max_user_namespaces", "0") {
        "set sysctl user.max_user_namespaces to some thousands".to_owned()
    } else {
        "a container or security profile forbids it".to_owned()
    }
}
