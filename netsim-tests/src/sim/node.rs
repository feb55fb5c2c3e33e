//! A node of the world: the project's own [`Connector`], and around it what a node's driver does.
//!
//! The driver of this world holds the control connection, the table of paths, and application traffic on every link.
//! It is fed datagrams, commands and wake-ups, and leaves what it wants sent and what happened, in its order, in
//! [`Node::take_news`]. It opens no socket and decides nothing that the connector decides.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use knothole_proto::connector::{Command, Connector, ConnectorConfig, Event, Input, Link, LinkId, Output};
use knothole_proto::id::{ChannelId, PeerId};
use knothole_proto::path::{Path, SocketId, Why};
use knothole_proto::seed::Seed;
use knothole_proto::wire::{FromServer, Introduction, Kind, Role, ToServer, codec, relay};

use super::app::{Datagram, Kind as AppKind, Traffic, TrafficStats, Via};
use super::client::{Client, Told};
use super::clock::HostClock;
use super::control;

/// Outputs that a connector may have after one input. The largest honest answer is a burst of 20 probes and a few
/// events; thousands mean that it never ends.
const OUTPUTS_MAX: usize = 4_096;

/// A datagram to send.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) socket: SocketId,
    pub(super) to: SocketAddr,
    pub(super) ttl: Option<u8>,
    pub(super) bytes: Vec<u8>,
}

/// What the world has to carry out, and what its checks and its journal are to know.
#[derive(Debug)]
pub(super) enum News {
    /// The node sends this.
    Send(Outgoing),
    /// The connector said this.
    Event(Event),
    /// The server introduced this node.
    Introduced(Box<Introduction>),
    /// The connector did not stop to want things.
    Flood,
    /// A message of the connector could not be encoded.
    Unencodable(String),
}

/// Where a node's sockets are, at least one, and where its server is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    pub(super) v4: Option<SocketAddr>,
    pub(super) v6: Option<SocketAddr>,
    pub(super) server: SocketAddr,
    pub(super) server_v6: SocketAddr,
}

impl Addresses {
    /// The socket and the address of the server that control connection and relay use: IPv4 where the node has it.
    fn control(&self) -> (SocketId, SocketAddr) {
        match self.v4 {
            Some(_) => (SocketId::V4, self.server),
            None => (SocketId::V6, self.server_v6),
        }
    }
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    clock: HostClock,
    connector: Connector,
    own: PeerId,
    addresses: Addresses,
    client: Client,
    deadline: Option<Duration>,
    links: BTreeMap<LinkId, LinkState>,
    channels: BTreeMap<ChannelId, LinkId>,
    sources: BTreeMap<(SocketId, SocketAddr), LinkId>,
    period: Option<Duration>,
    news: Vec<News>,
}

#[derive(Debug)]
struct LinkState {
    peer: PeerId,
    role: Role,
    channel: Option<ChannelId>,
    path: Path,
    after: Duration,
    traffic: Traffic,
}

impl Node {
    /// A node that has just started and knows nobody. `period` is the time between two pings on each of its links.
    pub(super) fn new(
        config: ConnectorConfig,
        addresses: Addresses,
        clock: HostClock,
        period: Option<Duration>,
        seed: &Seed,
        now: Duration,
    ) -> Self {
        let own = config.own;
        Self {
            connector: Connector::new(config, &seed.child("connector", 0), clock.read(now)),
            clock,
            own,
            addresses,
            client: Client::new(own, &seed.child("client", 0), now),
            deadline: None,
            links: BTreeMap::new(),
            channels: BTreeMap::new(),
            sources: BTreeMap::new(),
            period,
            news: Vec::new(),
        }
    }

    /// A datagram arrived. `authentic` is what encryption would tell of QUIC's: did the other end make it?
    pub(super) fn receive(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        bytes: &[u8],
        authentic: bool,
        now: Duration,
    ) {
        match Kind::of(bytes) {
            Kind::Stun | Kind::Probe => self.feed(Input::Datagram { socket, from, bytes }, now),
            Kind::Relay => self.receive_frame(from, bytes, authentic, now),
            Kind::Quic if !authentic => {}
            Kind::Quic if bytes.first() == Some(&control::FIRST_BYTE) => {
                self.receive_control(from, bytes, now)
            }
            Kind::Quic => self.receive_direct(socket, from, bytes, now),
            Kind::Unknown => {}
        }
        self.flush(now);
    }

    /// The moment of [`Node::wake_at`] has come.
    pub(super) fn wake(&mut self, now: Duration) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.feed(Input::Timeout, now);
        }
        let told = self.client.wake(now);
        self.hear(told, now);
        self.ping(now);
        self.flush(now);
    }

    /// When the node wants to be woken.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let pings = self.links.values().filter_map(|link| link.traffic.next());
        pings.chain(self.deadline).chain(self.client.wake_at()).min()
    }

    /// Somebody at this node wants something.
    pub(super) fn command(&mut self, command: Command, now: Duration) {
        self.feed(Input::Command(command), now);
        self.flush(now);
    }

    /// The node's own addresses are these now.
    pub(super) fn set_local(&mut self, candidates: Vec<knothole_proto::addr::Candidate>, now: Duration) {
        self.feed(Input::LocalCandidates(candidates), now);
        self.flush(now);
    }

    /// The sockets are elsewhere now.
    pub(super) fn move_to(&mut self, addresses: Addresses) {
        self.addresses = addresses;
    }

    /// Starts or stops the pings on all links.
    pub(super) fn set_period(&mut self, period: Option<Duration>, now: Duration) {
        self.period = period;
        for link in self.links.values_mut() {
            let pings = link.role == Role::Caller;
            link.traffic
                .schedule(period.filter(|_| pings).map(|period| now + period));
            link.traffic.reset_stats();
        }
    }

    /// What the node wants sent and what happened since this was asked before, in the order in which it came about.
    pub(super) fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// Its sockets and its server.
    pub(super) fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The newest link with a peer: number, path, time it took.
    pub(super) fn link_to(&self, peer: PeerId) -> Option<(LinkId, Path, Duration)> {
        let mut links = self.links.iter().rev().filter(|(_, link)| link.peer == peer);
        links.next().map(|(id, link)| (*id, link.path, link.after))
    }

    /// Application traffic with a peer on the newest link.
    pub(super) fn traffic(&self, peer: PeerId) -> Option<TrafficStats> {
        let mut links = self.links.values().rev().filter(|link| link.peer == peer);
        links.next().map(|link| link.traffic.stats())
    }

    /// Is the control connection open?
    pub(super) fn is_connected(&self) -> bool {
        self.client.is_up()
    }

    /// Entries in all tables and queues of the node's driver.
    pub(super) fn queued(&self) -> usize {
        self.client.queued() + self.links.len() + self.sources.len() + self.channels.len()
    }

    fn receive_control(&mut self, from: SocketAddr, bytes: &[u8], now: Duration) {
        if from == self.addresses.control().1 {
            let told = self.client.receive(bytes, now);
            self.hear(told, now);
        }
    }

    fn receive_frame(&mut self, from: SocketAddr, bytes: &[u8], authentic: bool, now: Duration) {
        let Some((channel, inner)) = relay::split(bytes) else {
            return;
        };
        let Some(link) = self.channels.get(&channel).copied() else {
            return;
        };
        if from == self.addresses.control().1 && authentic {
            self.receive_app(link, Via::Relay, inner, now);
        }
    }

    fn receive_direct(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8], now: Duration) {
        if let Some(link) = self.sources.get(&(socket, from)).copied() {
            return self.receive_app(link, Via::Direct, bytes, now);
        }
        let Some(sender) = Datagram::read(bytes).map(|datagram| datagram.sender) else {
            return;
        };
        if let Some(link) = self.links.values_mut().rev().find(|link| link.peer == sender) {
            link.traffic.note_unknown_source();
        }
    }

    fn receive_app(&mut self, link: LinkId, via: Via, bytes: &[u8], now: Duration) {
        let (Some(datagram), Some(state)) = (Datagram::read(bytes), self.links.get_mut(&link)) else {
            return;
        };
        if datagram.sender != state.peer {
            return;
        }
        state.traffic.note_received(via, now);
        if datagram.kind == AppKind::Ping {
            self.send_app(link, AppKind::Pong, datagram.sequence);
            self.report(link, now);
        }
    }

    fn ping(&mut self, now: Duration) {
        let period = self.period;
        let due = |(id, link): (&LinkId, &mut LinkState)| Some((*id, link.traffic.take_due(period, now)?));
        let pings: Vec<(LinkId, u64)> = self.links.iter_mut().filter_map(due).collect();
        for (link, sequence) in pings {
            self.send_app(link, AppKind::Ping, sequence);
            self.report(link, now);
        }
    }

    fn send_app(&mut self, link: LinkId, kind: AppKind, sequence: u64) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let datagram = Datagram {
            kind,
            sender: self.own,
            sequence,
        };
        let bytes = datagram.write();
        let (via, socket, to, bytes) = match (state.path, state.channel) {
            (Path::Direct { socket, remote, .. }, _) => (Via::Direct, socket, remote, bytes),
            (Path::Relay(_), Some(channel)) => {
                let frame = [relay::header(channel).as_slice(), &bytes].concat();
                let (socket, server) = self.addresses.control();
                (Via::Relay, socket, server, frame)
            }
            _ => return state.traffic.note_sent(None),
        };
        state.traffic.note_sent(Some(via));
        self.news.push(News::Send(Outgoing {
            socket,
            to,
            ttl: None,
            bytes,
        }));
    }

    /// Tells the connector what passed on the direct path, as a driver does once for every batch of datagrams.
    fn report(&mut self, link: LinkId, now: Duration) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let (sent, received) = state.traffic.take_unreported();
        if sent || received {
            self.feed(Input::Traffic { link, sent, received }, now);
        }
    }

    fn hear(&mut self, told: Vec<Told>, now: Duration) {
        for told in told {
            match told {
                Told::Up => {
                    let Addresses {
                        server, server_v6, ..
                    } = self.addresses;
                    let v4 = self.addresses.v4.map(|_| (SocketId::V4, server));
                    let v6 = self.addresses.v6.map(|_| (SocketId::V6, server_v6));
                    let stun = v4.into_iter().chain(v6).collect();
                    self.feed(Input::ControlUp { stun }, now);
                }
                Told::Down => self.feed(Input::ControlDown, now),
                Told::Message(bytes) => match codec::decode::<FromServer>(&bytes) {
                    Ok(message) => {
                        if let FromServer::Introduction(introduction) = &message {
                            self.news.push(News::Introduced(Box::new(introduction.clone())));
                        }
                        self.feed(Input::Control(message), now);
                    }
                    Err(error) => self.news.push(News::Unencodable(error.to_string())),
                },
            }
        }
    }

    fn feed(&mut self, input: Input<'_>, now: Duration) {
        let reading = self.clock.read(now);
        self.connector.handle_input(input, reading);
        for _ in 0..OUTPUTS_MAX {
            match self.connector.poll_output(reading) {
                Output::Wait(next) => {
                    self.deadline = next.map(|(at, _)| self.clock.when(at).max(now));
                    return;
                }
                output => self.obey(output, now),
            }
        }
        self.news.push(News::Flood);
    }

    fn obey(&mut self, output: Output, now: Duration) {
        match output {
            Output::Control(message) => self.tell_server(&message),
            Output::Transmit(transmit) => self.news.push(News::Send(Outgoing {
                socket: transmit.socket,
                to: transmit.to,
                ttl: transmit.ttl,
                bytes: transmit.bytes,
            })),
            Output::Event(event) => {
                self.apply(&event, now);
                self.news.push(News::Event(event));
            }
            Output::Open { .. } | Output::Close { .. } | Output::Wait(_) => {}
        }
    }

    fn tell_server(&mut self, message: &ToServer) {
        match codec::encode(message) {
            Ok(bytes) => self.client.send(bytes),
            Err(error) => self.news.push(News::Unencodable(error.to_string())),
        }
    }

    fn apply(&mut self, event: &Event, now: Duration) {
        match event {
            Event::LinkUp(link) => self.open_link(link, now),
            Event::Channel { link, channel } => {
                self.channels.retain(|_, known| known != link);
                self.channels.extend(channel.map(|channel| (channel, *link)));
                if let Some(state) = self.links.get_mut(link) {
                    state.channel = *channel;
                }
            }
            Event::Source { link, socket, remote } => {
                self.sources.insert((*socket, *remote), *link);
            }
            Event::SourceGone { link, socket, remote } => {
                let place = (*socket, *remote);
                if self.sources.get(&place) == Some(link) {
                    self.sources.remove(&place);
                }
            }
            Event::Path { link, path, after } => {
                if let Some(state) = self.links.get_mut(link) {
                    (state.path, state.after) = (*path, *after);
                }
            }
            Event::LinkDown { link, .. } => {
                self.links.remove(link);
                self.channels.retain(|_, known| known != link);
                self.sources.retain(|_, known| known != link);
            }
            Event::Refused(_) => self.client.give_up(),
            Event::Draining { retry_after } => self.client.hold_off(*retry_after),
            _ => {}
        }
    }

    /// A link is there, or was there and answers another wish.
    fn open_link(&mut self, link: &Link, now: Duration) {
        let pings = self.period.filter(|_| link.role == Role::Caller);
        let path = link
            .channel
            .map_or(Path::None(Why::Punching), |_| Path::Relay(Why::Punching));
        let state = self.links.entry(link.link).or_insert_with(|| LinkState {
            peer: link.peer,
            role: link.role,
            channel: link.channel,
            path,
            after: Duration::ZERO,
            traffic: Traffic::new(pings.map(|_| now)),
        });
        state.channel = link.channel;
        if state.role != link.role {
            // The one who asked last is the caller.
            state.role = link.role;
            state.traffic.schedule(pings.map(|_| now));
        }
        self.channels.retain(|_, known| *known != link.link);
        self.channels
            .extend(link.channel.map(|channel| (channel, link.link)));
    }

    fn flush(&mut self, now: Duration) {
        let (socket, to) = self.addresses.control();
        while let Some(bytes) = self.client.poll_transmit(now) {
            self.news.push(News::Send(Outgoing {
                socket,
                to,
                ttl: None,
                bytes,
            }));
        }
    }
}
