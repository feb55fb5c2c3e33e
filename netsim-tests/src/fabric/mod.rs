//! The simulated internet between namespaces: real sockets and programs at the ends, NATs and links in user space.
//!
//! ```text
//! host eth0 (TUN) -- home NAT == access link == outer NATs -- core, two hops -- ... the same way in
//! ```
//!
//! Each host is a [namespace](crate::netns) with one TUN device; one thread reads them all, routes the packets through
//! [`NatBox`](crate::nat::NatBox)es and [`Link`](crate::link::Link)s in real time, and writes them to the receiver.
//!
//! * The access link lies on the outer side of a host's innermost NAT, as between a home router and its provider, and is
//!   shared by all hosts behind that NAT; a public host has its own. Packets between two hosts of one LAN meet no link.
//! * Every NAT and both routers of the core take one from the TTL. From behind one NAT to behind another: TTL 1 ends at
//!   the own NAT and makes no mapping, 2 and 3 end in the core, 4 reaches the other NAT's tables, 5 the other host.
//! * Routers say what ended at them, as `traceroute` wants: time exceeded, no route, and whatever a NAT refuses. The core
//!   speaks as 5.5.0.1 and 5.5.0.2, a NAT as the .1 of the network inside and as its external address outside; in all at
//!   most 1000 times a second. ICMP errors, also those of hosts, pass NATs with the packet that they quote translated
//!   (RFC 5508) and change no session.
//! * A host may be in several networks at once ([`HostSpec::also_behind`]); the source address of a packet says which
//!   way it goes.
//! * [`Lab::capture`] writes what a host sends and receives as a file for `tcpdump`.
//! * Super-packets (TCP TSO, UDP GSO) pass whole over links that only delay. A link that treats packets one by one (loss,
//!   reordering, duplication, rate, small MTU) makes the fabric cut them up first. The link then sees the packets that a
//!   wire would carry; the lab's ceiling falls to that of single packets.
//! * A NAT can also be [played by the kernel](NatEngine::Kernel): a router namespace with a device on either side, which the
//!   same thread serves. Everything else stays: a kernel NAT behind a modelled one, or before it, links, neighbours.
//! * A link with a small MTU swallows what is larger without a word, unless [`LabBuilder::with_mtu_reports`]. Fragments are
//!   routed but not translated: they end
//!   at the first NAT. Multicasts and broadcasts end where they begin.
//! * What a sender offers beyond the speed of the wire is lost in the queue of its device (2000 packets), as on a slow
//!   network card. On two processors the wire carries about 24 Gbit/s of UDP GSO, 16 Gbit/s of TCP, 0.15 to 0.25 million
//!   single packets a second (`knothole-netsim bench ceiling` measures the machine at hand, [`crate::ceiling`] does it for programs). Over long links TCP is limited by
//!   the kernel's default windows.
//! * IPv6 addresses are routed as they are; the NATs on the way act as stateful firewalls, or as NAT64, which makes IPv4
//!   packets of them (RFC 7915). What comes back longer than 1480 bytes is refused with "too big".
//!
//! ```no_run
//! use std::net::{Ipv4Addr, UdpSocket};
//! use std::process::Command;
//! use std::time::Duration;
//!
//! use knothole_netsim::fabric::{HostSpec, Lab};
//! use knothole_netsim::link::LinkSpec;
//! use knothole_netsim::nat::kind;
//! use knothole_netsim::netns::become_lab_root;
//!
//! become_lab_root()?; // first thing in main
//! let server = Ipv4Addr::new(5, 5, 5, 1);
//! let nats = |name: &str| kind(name).map(|kind| kind.chain(&[server.into()])).unwrap_or_default();
//! let lab = Lab::builder()
//!     .host("srv", HostSpec::public([server, Ipv4Addr::new(5, 5, 5, 2)]))
//!     .host("a", HostSpec::behind(nats("port-restricted"), Ipv4Addr::new(192, 168, 1, 10)))
//!     .link("a", LinkSpec::delay(Duration::from_millis(20)).with_loss(0.01))
//!     .build()?;
//! let socket = lab.host("a")?.run(|| UdpSocket::bind("0.0.0.0:0"))??;
//! let child = lab.host("srv")?.spawn(Command::new("true"))?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod builder;
mod capture;
mod engine;
mod headers;
mod icmp;
mod kernel_nat;
mod lab;
mod network;
mod packet;
mod pool;
mod quote;
mod refusal;
mod segment;
mod stats;
mod translate;

pub use builder::{AccessLink, HostSpec, LabBuilder};
pub use capture::{Capture, CaptureStats};
pub use kernel_nat::NatEngine;
pub use lab::{HostHandle, Lab};
pub use stats::{FabricDrop, HostStats, LabStats, LinkPairStats, NatReport, RefusalStats};
