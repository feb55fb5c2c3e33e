//! Wire types and every decision-making state machine of Knothole.
//!
//! This crate opens no socket, reads no clock, draws no entropy and awaits nothing. A driver owns those, and hands
//! them in: datagrams and messages as they arrive, `now` as the last argument of every call, a [`seed::Seed`] in the
//! constructor. The same machines therefore run in the server, in a node, in a simulation with virtual time, and
//! under a fuzzer, and equal inputs give equal outputs.
//!
//! # How to drive a machine
//!
//! Methods come in four kinds. *Constructors* take configuration, a seed and `now`. `handle_*` methods feed one input.
//! `poll_*` methods take what the machine wants done; after every input drain them until they return nothing.
//! `poll_timeout` names the next deadline and the reason for it; when that moment comes, call `handle_timeout`.
//! `now` never goes backwards. Nothing happens between calls.
//!
//! # Map
//!
//! | module | what |
//! |---|---|
//! | [`id`], [`addr`], [`path`], [`seed`], [`quota`], [`transmit`], [`server_url`], [`aligned`], [`receive_buffers`], [`refusals`] | words that all the others use |
//! | [`wire`] | everything that crosses the network: types and bytes |
//! | [`pairing`] | two machines get to know each other by a short code |
//! | [`rendezvous`] | the server: registry, introductions, relay |
//! | [`plan`] | what two nodes do in a round, from what is known of both networks |
//! | [`punch`] | two nodes open a path to each other and keep it |
//! | [`stun`] | what address do I have? The node's question and the server's answer |
//! | [`fingerprint`] | what does the network around a node do to its packets? |
//! | [`connector`] | the node: the facade over everything it decides |
#![forbid(unsafe_code)]

pub mod addr;
pub mod aligned;
pub mod connector;
pub mod fingerprint;
pub mod id;
pub mod pairing;
pub mod path;
pub mod plan;
pub mod punch;
pub mod quota;
pub mod receive_buffers;
pub mod refusals;
pub mod rendezvous;
pub mod seed;
pub mod server_url;
pub mod stun;
#[cfg(test)]
mod testing;
pub mod transmit;
pub mod wire;
