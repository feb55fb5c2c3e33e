//! The registry, driven as the server drives it, in the order of a node's life.

mod admission;
mod anything;
mod expiry;
mod introduction;
mod nameplates;
mod outcomes;
mod plans;
mod world;
