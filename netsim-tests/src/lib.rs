//! The Knothole lab: simulated networks in which the real machines and the real programs meet.
//!
//! [`nat`] and [`link`] say what a network does to packets, as pure machines driven by virtual or real time.

pub mod link;
pub mod nat;
