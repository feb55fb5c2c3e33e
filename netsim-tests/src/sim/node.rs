//! A node of the world: the project's own [`Connector`], and around it what a node's driver does.
//!
//! The driver of this world holds the control connection, the table of paths, and application traffic on every link.
//! It is fed datagrams, commands and wake-ups, and leaves what it wants sent and what happened, in its order, in
//! [`Node::take_news`]. It opens no socket and decides nothing that the connector decides.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use knothole_proto::connector::{
    Command, Connector, ConnectorConfig, Effort, Event, Input, Link, LinkId, Output,
};
use knothole_proto::id::{ChannelId, PeerId};
use knothole_proto::path::{Path, SocketId, Why};
use knothole_proto::punch::TrafficReport;
use knothole_proto::seed::Seed;
use knothole_proto::wire::{FromServer, Introduction, Kind, Role, ToServer, codec, relay};

use super::app::{Datagram, Kind as AppKind, Traffic, TrafficStats, Via};
use super::client::{Client, Told};
use super::clock::HostClock;
use super::control;
use super::late::{Late, Skew};
use super::sockets::{Addresses, Leaves, Sockets};

/// Outputs that a connector may have after one input, the answers to its own wishes for sockets among them. The largest
/// honest answer opens or closes 600 sockets; thousands mean that it never ends.
const OUTPUTS_MAX: usize = 8_192;

/// A datagram to send.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) socket: SocketId,
    /// Where the socket was when it was sent: it may be closed in the same breath.
    pub(super) leaves: Leaves,
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
    /// A socket is gone; its number may come again.
    Closed(SocketId),
    /// The connector did not stop to want things.
    Flood,
    /// A message of the connector could not be encoded.
    Unencodable(String),
}

/// One node.
#[derive(Debug)]
pub(super) struct Node {
    clock: HostClock,
    connector: Connector,
    own: PeerId,
    sockets: Sockets,
    /// Sockets that were asked for, with their endpoint if there is one: told after the outputs that wish for them.
    opened: VecDeque<(SocketId, Option<SocketAddr>)>,
    client: Client,
    late: Late,
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
        let (own, max) = (config.own, config.sockets_max);
        Self {
            connector: Connector::new(config, &seed.child("connector", 0), clock.read(now)),
            clock,
            own,
            sockets: Sockets::new(addresses, max, &seed.child("sockets", 0)),
            opened: VecDeque::new(),
            late: Late::default(),
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
        while let Some(message) = self.late.take_due(now) {
            self.be_told(message, now);
        }
        self.ping(now);
        self.flush(now);
    }

    /// When the node wants to be woken.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        let pings = self.links.values().filter_map(|link| link.traffic.next());
        let due = self.client.wake_at().into_iter().chain(self.late.wake_at());
        pings.chain(self.deadline).chain(due).min()
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
        self.sockets.addresses = addresses;
    }

    /// Introductions come so late from now on.
    pub(super) fn set_skew(&mut self, skew: Option<Skew>) {
        self.late.set(skew);
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
        self.sockets.addresses
    }

    /// Its sockets.
    pub(super) fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    /// What its newest link with a peer has cost, as the node itself says.
    pub(super) fn effort(&self, peer: PeerId) -> Option<Effort> {
        self.connector.effort(self.link_to(peer)?.0)
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
        let tables = self.links.len() + self.sources.len() + self.channels.len();
        self.client.queued() + self.late.len() + self.sockets.len() + tables
    }

    fn receive_control(&mut self, from: SocketAddr, bytes: &[u8], now: Duration) {
        if from == self.addresses().control().1 {
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
        if from == self.addresses().control().1 && authentic {
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
        let control = self.addresses().control();
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
                let (socket, server) = control;
                (Via::Relay, socket, server, frame)
            }
            _ => return state.traffic.note_sent(None),
        };
        state.traffic.note_sent(Some(via));
        self.post(socket, to, None, bytes);
    }

    /// Has the world send a datagram.
    fn post(&mut self, socket: SocketId, to: SocketAddr, ttl: Option<u8>, bytes: Vec<u8>) {
        let leaves = self.sockets.leaves(socket);
        self.news.push(News::Send(Outgoing {
            socket,
            leaves,
            to,
            ttl,
            bytes,
        }));
    }

    /// Tells the connector what passed directly and through the relay, as a driver does once for every batch of datagrams.
    fn report(&mut self, link: LinkId, now: Duration) {
        let Some(state) = self.links.get_mut(&link) else {
            return;
        };
        let report = state.traffic.take_unreported();
        if report != TrafficReport::default() {
            self.feed(Input::Traffic { link, report }, now);
        }
    }

    fn hear(&mut self, told: Vec<Told>, now: Duration) {
        for told in told {
            match told {
                Told::Up => {
                    let at = self.addresses();
                    let v4 = at.v4.map(|_| (SocketId::V4, at.server));
                    let v6 = at.v6.map(|_| (SocketId::V6, at.server_v6));
                    let stun = v4.into_iter().chain(v6).collect();
                    self.feed(Input::ControlUp { stun }, now);
                }
                Told::Down => {
                    self.late.clear();
                    self.feed(Input::ControlDown, now);
                }
                Told::Message(bytes) => match codec::decode::<FromServer>(&bytes) {
                    Ok(message) => {
                        if let Some(message) = self.late.receive(message, now) {
                            self.be_told(message, now);
                        }
                    }
                    Err(error) => self.news.push(News::Unencodable(error.to_string())),
                },
            }
        }
    }

    fn be_told(&mut self, message: FromServer, now: Duration) {
        if let FromServer::Introduction(introduction) = &message {
            self.news.push(News::Introduced(Box::new(introduction.clone())));
        }
        self.feed(Input::Control(message), now);
    }

    fn feed(&mut self, input: Input<'_>, now: Duration) {
        let reading = self.clock.read(now);
        self.connector.handle_input(input, reading);
        for _ in 0..OUTPUTS_MAX {
            match self.connector.poll_output(reading) {
                Output::Wait(next) => {
                    self.deadline = next.map(|(at, _)| self.clock.when(at).max(now));
                    let Some((socket, local)) = self.opened.pop_front() else {
                        return;
                    };
                    let told = local.map_or(Input::NotOpened { socket }, |local| Input::Opened {
                        socket,
                        local,
                    });
                    self.connector.handle_input(told, reading);
                }
                output => self.obey(output, now),
            }
        }
        self.news.push(News::Flood);
    }

    fn obey(&mut self, output: Output, now: Duration) {
        match output {
            Output::Control(message) => self.tell_server(&message),
            Output::Transmit(transmit) => {
                self.post(transmit.socket, transmit.to, transmit.ttl, transmit.bytes);
            }
            Output::Event(event) => {
                self.apply(&event, now);
                self.news.push(News::Event(event));
            }
            Output::Open { socket, v6 } => {
                let local = self.sockets.open(socket, v6);
                self.opened.push_back((socket, local));
            }
            Output::Close { socket } => {
                self.sockets.close(socket);
                self.opened.retain(|(opened, _)| *opened != socket);
                self.sources.retain(|(known, _), _| *known != socket);
                self.news.push(News::Closed(socket));
            }
            Output::Wait(_) => {}
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
        let (socket, to) = self.addresses().control();
        while let Some(bytes) = self.client.poll_transmit(now) {
            self.post(socket, to, None, bytes);
        }
    }
}
