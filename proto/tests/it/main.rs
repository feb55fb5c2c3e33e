//! Tests of the core through its public interface, one file for each part.

mod registry;
mod relay;
mod stun;
mod support;
mod wire;
