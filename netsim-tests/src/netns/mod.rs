//! Linux network namespaces as values: made by a thread, held by a file descriptor, gone with it.
//!
//! Nothing is named under `/run/netns`, no program is spawned to configure anything (but `nft`, for packet filter rules,
//! of which only kernel NATs have any), and children die with the thread
//! that made their namespace, so a crash or `kill -9` of the lab leaves nothing behind.
//!
//! As root this works at once. An ordinary user calls [`become_lab_root`] first thing in `main`, before any thread
//! exists. [`probe()`] tells what the machine can do. Limits that stay: `net.core.rmem_max` and `wmem_max` belong to the
//! whole machine and cannot be raised inside; a program that wants larger socket buffers uses `SO_RCVBUFFORCE`, which
//! works only for root outside of a user namespace.

mod error;
mod interface;
mod namespace;
mod nft;
mod probe;
mod sys;
mod userns;

pub use error::LabError;
pub use namespace::Namespace;
pub use probe::{Probe, probe};
pub use userns::become_lab_root;

pub(crate) use interface::{InterfaceSpec, Reach, configure, full_len, remove_address, sysctl};
pub(crate) use nft::load_rules;
pub(crate) use sys::{Tun, open_tun};
