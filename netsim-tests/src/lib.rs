//! The Knothole lab: simulated networks in which the real machines and the real programs meet.
//!
//! [`nat`] and [`link`] say what a network does to packets, as pure machines driven by virtual or real time.
//! [`fabric`] builds an internet of them between [namespaces](netns) of the Linux kernel; [`sim`] is a world in memory, with
//! virtual time, in which the machines themselves run. [`oracle`] tells what must come of two NATs in any world.
//! A [`scenario`] is a file that both worlds can run.

#[cfg(target_os = "linux")]
pub mod demo;
#[cfg(target_os = "linux")]
pub mod fabric;
#[cfg(target_os = "linux")]
pub mod interactive;
pub mod link;
pub mod nat;
#[cfg(target_os = "linux")]
pub mod netns;
pub mod oracle;
#[cfg(target_os = "linux")]
pub mod role;
pub mod scenario;
pub mod sim;
