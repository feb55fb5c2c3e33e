//! The Knothole lab: simulated networks in which the real machines and the real programs meet.
//!
//! [`nat`] and [`link`] say what a network does to packets, as pure machines driven by virtual or real time.
//! [`fabric`] builds an internet of them between [namespaces](netns) of the Linux kernel, whose own packet filter can play
//! the NATs instead ([`kernel`]); [`sim`] is a world in memory, with virtual time, in which the machines themselves run.
//! [`oracle`] tells what must come of two NATs in any world, and [`verify`] measures whether each NAT of each world is
//! what it is described as. [`promises`] are what is
//! promised of pairs of NATs, measured. A [`scenario`] is a file that both worlds can run. [`ceiling`] is how much data the lab carries on
//! this machine, and [`mod@bench`] how much of that programs get; [`pcap`] writes what either world sees.

#[cfg(target_os = "linux")]
pub mod bench;
#[cfg(target_os = "linux")]
pub mod ceiling;
#[cfg(target_os = "linux")]
pub mod demo;
#[cfg(target_os = "linux")]
pub mod fabric;
mod inet;
#[cfg(target_os = "linux")]
pub mod interactive;
pub mod kernel;
pub mod link;
#[cfg(target_os = "linux")]
pub mod matrix;
pub mod nat;
#[cfg(target_os = "linux")]
pub mod netns;
pub mod oracle;
pub mod parallel;
pub mod pcap;
#[cfg(target_os = "linux")]
pub mod promises;
#[cfg(target_os = "linux")]
pub mod role;
pub mod scenario;
pub mod sim;
pub mod verify;
