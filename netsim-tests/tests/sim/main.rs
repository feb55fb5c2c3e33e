//! The project's own machines on simulated networks, in virtual time.

mod attempts;
mod faults;
mod fleet;
mod networks;
mod pairing;
mod regressions;
mod relay;
mod repeat;
mod stage;
mod stranger;
