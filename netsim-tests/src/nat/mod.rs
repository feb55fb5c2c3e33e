//! A NAT as data ([`NatSpec`]) and as a machine ([`NatBox`]).
//!
//! The description is written once, in the words of RFC 4787, and runs in both worlds: the in-memory world hands its
//! packets to a [`NatBox`] in virtual time, the [fabric](crate::fabric) hands it the packets of real sockets.
//! Nothing here does I/O, reads a clock or draws entropy: time comes as the last argument, randomness from a seed.

mod allocation;
mod flow;
mod icmp_error;
mod kinds;
pub mod nat64;
mod nat_box;
mod spec;
mod state;
#[cfg(test)]
mod tests;
mod translate;
mod variants;

pub use flow::{DropReason, Flow, NatStats, Proto, Verdict};
pub use kinds::{Families, Kernel, NatKind, PROXY, Side, kind, kinds};
pub use nat_box::NatBox;
pub use spec::{
    FilterScope, Filtering, Hairpin, InputPolicy, Ipv6, Mapping, NAT64_PREFIX, NatSpec, Pooling,
    PortAllocation, Refusal, TcpPolicy, UdpPolicy,
};
pub use variants::variants;
