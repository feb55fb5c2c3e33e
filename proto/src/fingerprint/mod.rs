//! What the network around a node does to its packets, told from questions to a STUN server (RFC 5780).
//!
//! [`Fingerprinter`] is a machine without I/O: it asks its driver for fresh sockets, hands out datagrams to send, is fed those
//! that arrive, and ends with a [`Fingerprint`]. Every [`Fact`] in it is known or says why it is not; nothing is guessed. With
//! a server of two addresses and two ports all of it is testable; with one address and two ports the mapping is only
//! told apart by port, and a filter that lets another port pass is not told from one that lets everybody pass.
//!
//! It is not the connector: it decides nothing about peers, and a run ends. One run takes 20 to 50 datagrams where nothing
//! gets lost and never more than [`PACKETS_MAX`], 2 ms apart or more. The first fact comes after one round trip, the last after
//! about 1.5 s, or 2 s where ports are counted, and 3 s where packets get lost. A server that lies can make it send at most
//! 16 datagrams of 96 bytes and six of 20 to addresses of its choice, unless these answer.
//!
//! # How to drive it
//!
//! ```text
//! loop {
//!     match fingerprinter.poll_output(now) {
//!         Output::Open { socket, towards } => bind one, then handle_input(Opened { .. })
//!         Output::Transmit(datagram) => send it from its socket, with its ttl if it has one
//!         Output::Learnt(fact) => show it
//!         Output::Done(fingerprint) => the end
//!         Output::Wait(until) => wait for a datagram or until then; handle_input(Datagram or Timeout)
//!     }
//! }
//! ```
//!
//! # What is asked, in order
//!
//! 1. The server's first address and port, in each family: the own address, translated or not. No answer within a second
//!    in any family: UDP is blocked (or the server is down; the machine cannot tell).
//! 2. Its other addresses and ports from the same socket: mapping. Places that see different endpoints are asked once more, from the
//!    same socket, until each has said the same twice: a single wrong answer makes any network look hard.
//! 3. Eight fresh sockets, 2 ms apart: port allocation. Where the first port is kept, the same eight once more to another
//!    destination; where ports are counted, eight more 1.5 s later for the rate of foreign flows. The step is told
//!    before that ([`Learnt::Counted`]), because most plans need no more.
//! 4. At the same time: answers from elsewhere (filtering, and a control that the server does answer from elsewhere),
//!    packets to the own external address (hairpin), packets with a short life before answers from elsewhere (depth of the
//!    outermost filter). Whether another port passes is told as soon as its answer comes or is late ([`Learnt::OtherPort`]),
//!    because plans wait for it.
//!
//! Silence is taken for a no only after four questions, and after eight where anything else was seen to get lost. In the lab
//! no fact was wrong in 31,000 runs without loss, and one in 31,000 runs with 5 % of the packets lost.

mod burst;
mod depth;
mod facts;
mod flows;
mod hairpin;
mod io;
mod machine;
mod plan;
mod ports;
mod question;
mod result;
mod side;

pub use facts::{
    Allocation, Class, Fact, FamilyFacts, Filtering, Fingerprint, Hairpin, Mapping, Obstacle, Reach, Sign,
};
pub use io::{FingerprintConfig, Input, Learnt, Output};
pub use machine::{Fingerprinter, PACKETS_MAX};
