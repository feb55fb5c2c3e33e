//! The world: hosts, networks between them, and the one loop that moves time.
//!
//! Build it (server, sites, nodes), then [`World::run_for`] and [`World::run_until`]. Between two runs the test does
//! what people and misfortune do: connect, pair, reboot a router, restart the server. Everything random comes
//! from the seed; equal seeds and equal calls give equal journals. It reads no clock and starts no thread.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use knothole_proto::connector::{Command, Event};
use knothole_proto::id::{PairSecret, PeerId};
use knothole_proto::seed::Seed;

use super::build::Home;
use super::busy::Busy;
use super::capture::Captures;
use super::check::{Checks, Rule, Violation, violation};
use super::clock::epoch;
use super::journal::{Journal, Line};
use super::node::{News, Node, Outgoing};
use super::queue::Queue;
use super::server::{Reply, Server};
use super::sockets::Leaves;
use super::stranger::Stranger;
use super::topology::{DEFAULT_TTL, Hop, HostId, NetId, Origin, Packet, Step, Topology};
use crate::link::Arrival;

/// Most events that may wait at once. Ten hosts with full congestion windows stay below a thousand.
const QUEUE_MAX: usize = 65_536;

/// Most entries in the tables and queues of one host's driver.
const HOST_QUEUE_MAX: usize = 4_096;

/// Most events of each node that are remembered for tests; older ones stay, newer ones are counted only.
const EVENTS_MAX: usize = 10_000;

/// Hosts, networks, and what happens next. See the module.
#[derive(Debug)]
pub struct World {
    pub(super) seed: Seed,
    pub(super) epoch: Instant,
    pub(super) now: Duration,
    queue: Queue<Happening>,
    pub(super) topology: Topology,
    pub(super) hosts: Vec<Host>,
    pub(super) sites: u8,
    pub(super) checks: Checks,
    pub(super) journal: Journal,
    pub(super) captures: Captures,
    pub(super) stranger: Option<Stranger>,
    pub(super) servers: Vec<SocketAddr>,
    pub(super) next_request: u32,
}

/// A machine on the network.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) net: NetId,
    /// Its key; all zero for the server, whose key this world has no use for.
    pub(super) key: PeerId,
    /// The machines that a node is paired with.
    pub(super) book: Vec<(PeerId, PairSecret)>,
    pub(super) role: HostRole,
    /// Where a node lives; `None` for the server.
    pub(super) home: Option<Home>,
    pub(super) events: Vec<(Duration, Event)>,
    /// Its machine has much else to do.
    pub(super) busy: Option<Busy>,
    scheduled: Option<Duration>,
}

#[derive(Debug)]
pub(super) enum HostRole {
    Server(Box<Server>),
    Node(Box<Node>),
    /// Switched off.
    Off,
}

#[derive(Debug)]
enum Happening {
    Arrive(Hop, Box<Packet>),
    /// A busy host gets to read what came.
    Hear(HostId, Box<Packet>),
    Wake(HostId),
}

/// Numbers of the events in the journal.
mod mark {
    pub(super) const SEND: u8 = 1;
    pub(super) const DELIVER: u8 = 2;
    pub(super) const LOST: u8 = 3;
    pub(super) const WAKE: u8 = 4;
    pub(super) const SAY: u8 = 5;
    pub(super) const COPY: u8 = 6;
    pub(super) const BEND: u8 = 7;
}

impl World {
    /// An empty internet.
    pub fn new(seed: u64) -> Self {
        Self::at(epoch(), seed)
    }

    /// An empty internet whose clocks count from `epoch`.
    pub fn at(epoch: Instant, seed: u64) -> Self {
        Self {
            seed: Seed::from_number(seed),
            epoch,
            now: Duration::ZERO,
            queue: Queue::new(),
            topology: Topology::new(),
            hosts: Vec::new(),
            sites: 0,
            checks: Checks::default(),
            journal: Journal::new(),
            captures: Captures::default(),
            stranger: None,
            servers: Vec::new(),
            next_request: 0,
        }
    }

    /// Time since the start.
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Lets time pass.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn run_for(&mut self, time: Duration) -> Result<(), Violation> {
        self.run_until(time, |_| false).map(|_| ())
    }

    /// Lets time pass until `done` or until `limit` is over; was it done?
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn run_until(&mut self, limit: Duration, done: impl Fn(&Self) -> bool) -> Result<bool, Violation> {
        let end = self.now + limit;
        self.wake_all();
        while !done(self) {
            match self.queue.next_at() {
                Some(at) if at <= end => self.step()?,
                _ => {
                    self.now = end;
                    return Ok(done(self));
                }
            }
        }
        Ok(true)
    }

    /// Handles the next event, if any, and checks every rule that it may have broken.
    ///
    /// # Errors
    /// The first rule that was broken.
    pub fn step(&mut self) -> Result<(), Violation> {
        let Some((at, happening)) = self.queue.pop() else {
            return Ok(());
        };
        if at < self.now {
            return Err(violation(
                Rule::Time,
                self.now,
                HostId(0),
                format!("event of {at:?}"),
            ));
        }
        self.now = at;
        match happening {
            Happening::Arrive(hop, mut packet) => {
                let step = self.topology.resume(hop, &mut packet, self.epoch + at);
                self.follow(step, packet)?;
            }
            Happening::Hear(host, packet) => self.follow(Step::Deliver(host), packet)?,
            Happening::Wake(host) => self.wake(host)?,
        }
        if self.queue.len() > QUEUE_MAX {
            let what = format!("{} events wait", self.queue.len());
            return Err(violation(Rule::Bounded, at, HostId(0), what));
        }
        Ok(())
    }

    /// Something was done to a host from outside: carries on with what it wants now.
    pub(super) fn touched(&mut self, host: HostId) -> Result<(), Violation> {
        self.drain(host)
    }

    /// Adds a host and wakes it at once.
    pub(super) fn add_host(&mut self, net: NetId, key: PeerId, role: HostRole) -> HostId {
        let host = HostId(self.hosts.len());
        self.hosts.push(Host {
            net,
            key,
            book: Vec::new(),
            role,
            home: None,
            events: Vec::new(),
            busy: None,
            scheduled: None,
        });
        self.schedule(host);
        host
    }

    /// Feeds a command to a node.
    pub(super) fn feed(&mut self, host: HostId, command: Command) -> Result<(), Violation> {
        let now = self.now;
        if let HostRole::Node(node) = &mut self.hosts[host.0].role {
            node.command(command, now);
        }
        self.touched(host)
    }

    /// The lines of the journal; empty unless [`World::keep_journal`] was called.
    pub fn journal(&self) -> impl Iterator<Item = &Line> {
        self.journal.lines()
    }

    /// Keeps readable lines from now on, for looking at one seed.
    pub fn keep_journal(&mut self) {
        self.journal.keep_lines();
    }

    /// The hash of everything that happened so far. Equal hashes: equal runs.
    pub fn trace(&self) -> [u8; 32] {
        self.journal.hash()
    }

    /// How many events went into [`World::trace`].
    pub fn events_handled(&self) -> u64 {
        self.journal.events()
    }

    fn wake_all(&mut self) {
        for index in 0..self.hosts.len() {
            self.schedule(HostId(index));
        }
    }

    fn wake(&mut self, host: HostId) -> Result<(), Violation> {
        let now = self.now;
        let state = &mut self.hosts[host.0];
        if state.scheduled != Some(now) {
            return Ok(());
        }
        state.scheduled = None;
        if let Some(until) = state.busy.as_mut().and_then(|busy| busy.waits_until(now)) {
            state.scheduled = Some(until);
            self.queue.push(until, Happening::Wake(host));
            return Ok(());
        }
        self.journal
            .record(now, mark::WAKE, host.0, &[], || format!("{} wakes", host.0));
        self.checks.wake(host, now)?;
        match &mut state.role {
            HostRole::Server(server) => server.wake(now),
            HostRole::Node(node) => node.wake(now),
            HostRole::Off => {}
        }
        self.drain(host)
    }

    /// Makes sure that a host is woken when it wants to be. An earlier wake-up that is no longer wanted happens and
    /// finds nothing to do.
    fn schedule(&mut self, host: HostId) {
        let state = &mut self.hosts[host.0];
        let wanted = match &state.role {
            HostRole::Server(server) => server.wake_at(),
            HostRole::Node(node) => node.wake_at(),
            HostRole::Off => None,
        };
        let Some(at) = wanted.map(|at| at.max(self.now)) else {
            return;
        };
        if state.scheduled.is_none_or(|scheduled| at < scheduled) {
            state.scheduled = Some(at);
            self.queue.push(at, Happening::Wake(host));
        }
    }

    /// Carries on with what a host wants after it was given something.
    fn drain(&mut self, host: HostId) -> Result<(), Violation> {
        match &mut self.hosts[host.0].role {
            HostRole::Server(server) => {
                let replies = server.take_outgoing();
                let (queued, flooded) = (server.queued(), server.is_flooded());
                self.bounded(host, queued, flooded)?;
                for reply in replies {
                    self.server_sends(host, reply)?;
                }
            }
            HostRole::Node(node) => {
                let (news, queued) = (node.take_news(), node.queued());
                self.bounded(host, queued, false)?;
                for news in news {
                    self.hear(host, news)?;
                }
            }
            HostRole::Off => {}
        }
        self.schedule(host);
        Ok(())
    }

    fn bounded(&self, host: HostId, queued: usize, flooded: bool) -> Result<(), Violation> {
        if queued > HOST_QUEUE_MAX || flooded {
            let what = format!("{queued} entries, endless: {flooded}");
            return Err(violation(Rule::Bounded, self.now, host, what));
        }
        Ok(())
    }

    fn hear(&mut self, host: HostId, news: News) -> Result<(), Violation> {
        let now = self.now;
        match news {
            News::Send(outgoing) => self.node_sends(host, outgoing),
            News::Event(event) => {
                let text = format!("{event:?}");
                self.journal.record(now, mark::SAY, host.0, text.as_bytes(), || {
                    format!("{} says {text}", host.0)
                });
                self.checks.event(host, &event, now)?;
                let events = &mut self.hosts[host.0].events;
                if events.len() < EVENTS_MAX {
                    events.push((now, event));
                }
                Ok(())
            }
            News::Introduced(introduction) => {
                self.checks.introduced(host, &introduction, now);
                Ok(())
            }
            News::Closed(socket) => {
                self.checks.closed(host, socket);
                Ok(())
            }
            News::Flood => Err(violation(
                Rule::Bounded,
                now,
                host,
                "outputs never end".to_owned(),
            )),
            News::Unencodable(error) => Err(violation(Rule::Codec, now, host, error)),
        }
    }

    fn node_sends(&mut self, host: HostId, outgoing: Outgoing) -> Result<(), Violation> {
        let Outgoing {
            socket,
            leaves,
            to,
            ttl,
            bytes,
        } = outgoing;
        let src = match leaves {
            Leaves::From(src) if src.is_ipv4() == to.is_ipv4() => src,
            Leaves::Nowhere => return Ok(()),
            Leaves::From(_) | Leaves::NoSocket => {
                let what = format!("{to} from socket {}", socket.0);
                return Err(violation(Rule::Destination, self.now, host, what));
            }
        };
        self.checks
            .node_sends(host, socket, to, &bytes, &self.servers, self.now)?;
        let packet = Packet::new(Origin::Host(host), src, to, ttl, bytes);
        self.send(host, Packet { socket, ..packet })
    }

    fn server_sends(&mut self, host: HostId, reply: Reply) -> Result<(), Violation> {
        self.checks.server_sends(host, reply.to, self.now)?;
        self.send(
            host,
            Packet::new(Origin::Host(host), reply.from, reply.to, None, reply.bytes),
        )
    }

    fn send(&mut self, host: HostId, packet: Packet) -> Result<(), Violation> {
        let (now, flow) = (self.now, packet.flow);
        self.journal.record(now, mark::SEND, host.0, &packet.bytes, || {
            format!(
                "{} sends {} -> {} {}{}",
                host.0,
                flow.src,
                flow.dst,
                describe(&packet.bytes),
                if packet.ttl < DEFAULT_TTL {
                    format!(" ttl {}", packet.ttl)
                } else {
                    String::new()
                }
            )
        });
        self.captures.see(host, &packet, now);
        self.launch(self.hosts[host.0].net, packet)
    }

    /// A packet sets out in a network.
    pub(super) fn launch(&mut self, net: NetId, packet: Packet) -> Result<(), Violation> {
        let mut packet = Box::new(packet);
        let step = self.topology.route(net, &mut packet, self.epoch + self.now);
        self.follow(step, packet)
    }

    fn follow(&mut self, step: Step, packet: Box<Packet>) -> Result<(), Violation> {
        match step {
            Step::Deliver(host) => {
                let busy = self.hosts[host.0].busy.as_mut();
                match busy.and_then(|busy| busy.waits_until(self.now)) {
                    Some(until) => self.queue.push(until, Happening::Hear(host, packet)),
                    None => self.deliver(host, &packet)?,
                }
                Ok(())
            }
            Step::Transit(hop, due) => {
                self.overhear(hop, &packet);
                let mut due = due.into_iter();
                let Some(first) = due.next() else {
                    self.lose(&packet, "on the link");
                    return Ok(());
                };
                if let Some(second) = due.next() {
                    self.arrive(second, hop, packet.clone());
                }
                self.arrive(first, hop, packet);
                Ok(())
            }
            Step::Lost(loss) => {
                self.lose(&packet, loss.word());
                Ok(())
            }
        }
    }

    /// A packet will come out of a link, as it was or bent.
    fn arrive(&mut self, arrival: Arrival, hop: Hop, mut packet: Box<Packet>) {
        if let Some(flip) = arrival.flip {
            packet.bend(flip);
            let flow = packet.flow;
            self.journal.record(self.now, mark::BEND, 0, &packet.bytes, || {
                format!("bent {} -> {} {}", flow.src, flow.dst, describe(&packet.bytes))
            });
        }
        self.queue
            .push(arrival.at - self.epoch, Happening::Arrive(hop, packet));
    }

    fn lose(&mut self, packet: &Packet, why: &'static str) {
        let flow = packet.flow;
        self.journal.record(self.now, mark::LOST, 0, why.as_bytes(), || {
            format!(
                "lost {} -> {} {why} {}",
                flow.src,
                flow.dst,
                describe(&packet.bytes)
            )
        });
    }

    fn deliver(&mut self, host: HostId, packet: &Packet) -> Result<(), Violation> {
        let (now, from, at) = (self.now, packet.flow.src, packet.flow.dst);
        self.journal
            .record(now, mark::DELIVER, host.0, &packet.bytes, || {
                format!("{} gets {} -> {} {}", host.0, from, at, describe(&packet.bytes))
            });
        self.captures.see(host, packet, now);
        let authentic = matches!(packet.origin, Origin::Host(_));
        match &mut self.hosts[host.0].role {
            HostRole::Server(server) => {
                self.checks.server_hears(from);
                server.receive(at, from, &packet.bytes, authentic, now);
            }
            HostRole::Node(node) => {
                let Some(socket) = node.sockets().at(at) else {
                    self.lose(packet, "at a closed port");
                    return Ok(());
                };
                match packet.origin {
                    // A node that tries whether its router lets it come back to itself.
                    Origin::Host(origin) | Origin::Copied(origin) if origin == host => {}
                    Origin::Host(origin) | Origin::Copied(origin) => {
                        let sent = (origin, packet.socket, packet.addressed);
                        self.checks.node_hears(host, socket, from, sent, now);
                    }
                    Origin::Stranger => self.checks.node_hears_stranger(host, from),
                }
                node.receive(socket, from, &packet.bytes, authentic, now);
            }
            HostRole::Off => {}
        }
        self.drain(host)
    }

    /// The stranger sees a packet that enters a link, and may send copies.
    fn overhear(&mut self, hop: Hop, packet: &Packet) {
        let Some(stranger) = &mut self.stranger else {
            return;
        };
        if !matches!(packet.origin, Origin::Host(_)) {
            return;
        }
        for (after, hop, copy) in stranger.hear(hop, packet) {
            let flow = copy.flow;
            self.journal.record(self.now, mark::COPY, 0, &copy.bytes, || {
                format!(
                    "stranger sends {} -> {} {}",
                    flow.src,
                    flow.dst,
                    describe(&copy.bytes)
                )
            });
            self.queue
                .push(self.now + after, Happening::Arrive(hop, Box::new(copy)));
        }
    }
}

fn describe(bytes: &[u8]) -> String {
    format!(
        "{:?} {} bytes",
        knothole_proto::wire::Kind::of(bytes),
        bytes.len()
    )
}
