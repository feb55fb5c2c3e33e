//! Tests of the core through its public interface, one file for each part.
#![allow(clippy::unwrap_used)] // A test that meets something unexpected ends there.

mod connector;
mod duo;
mod entries;
mod fingerprint;
mod pairing;
mod punch;
mod registry;
mod relay;
mod renewal;
mod shaping;
mod stun;
mod support;
mod town;
mod wire;
