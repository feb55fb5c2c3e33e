//! NATs played by the kernel: the same [`NatSpec`](crate::nat::NatSpec) as rules of nftables, in a router namespace.
//!
//! It is what real Linux routers do, with connection tracking and all its habits, where the
//! [`NatBox`](crate::nat::NatBox) does what the description says. [`NatSpec::kernel_form`](crate::nat::NatSpec::kernel_form) tells
//! whether a description can be played and makes its rules, without any I/O; the router runs them between two TUN
//! devices, `lan0` and `wan0`, that the [fabric](crate::fabric) serves.
//!
//! # How the rules work
//!
//! Linux's own translation maps by connection. What RFC 4787 asks beyond that is kept in maps that packets fill: a chain
//! after the translation sees the finished external endpoint and stores it, both ways round, with the life that
//! connection tracking gives the flow; the translation of the next flow looks there first. Inbound packets are translated only
//! if the filter lets them in, so that all others are for the router itself, whose input policy then says what becomes of
//! them: dropped or refused they leave no trace, accepted they take the flow (the conntrack clash).
//!
//! # What differs from the model
//!
//! * A mapping in the maps has the life of the last packet through it: a new flow of a socket shortens to
//!   [`unreplied_timeout`](crate::nat::NatSpec::unreplied_timeout) what an older one had extended to
//!   [`stream_timeout`](crate::nat::NatSpec::stream_timeout). The older flow itself goes on.
//! * A random port is drawn without regard to mappings of other flows: with `n` of them the chance is `n` in 64,000 that two
//!   share one towards different destinations. In a block it is drawn nine times at most, and counts as free when the flow
//!   ends that it was drawn for. Counted ports come round after at most 4,096, in use or not.
//! * A packet whose life ends at the NAT itself leaves no trace there, inbound or outbound; the model remembers inbound ones.
//! * The table size counts flows of both protocols and never remembered unsolicited ones.
//! * Fragments are put together and ICMP errors translated, as Linux does.
//! * The NAT answers an echo request from inside to its own address, and one from outside where its input policy accepts.
//! * After a reboot counted ports begin elsewhere.

#[cfg(target_os = "linux")]
mod conntrack;
#[cfg(target_os = "linux")]
mod foreign;
mod form;
mod ports;
#[cfg(target_os = "linux")]
mod router;
mod rules;
mod service;
mod six;
mod table;

pub use form::{KernelForm, NoKernelForm, Place};
#[cfg(target_os = "linux")]
pub(crate) use router::{DeviceSpec, Devices, Router};
