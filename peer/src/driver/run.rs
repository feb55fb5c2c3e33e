//! The driver's loop: one input at a time into the connector, then everything that the connector wants.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use knothole_proto::addr::Candidate;
use knothole_proto::connector::{Command, Connector, Input, LinkId, Output, PairEvent, Transmit};
use knothole_proto::id::{ChannelId, PeerId, RequestId};
use knothole_proto::pairing::Code;
use knothole_proto::path::Path;
use knothole_proto::punch::TrafficReport;
use knothole_proto::wire::{OddsRow, PathPolicy, Role, ToServer};
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::control::{ControlEvent, ControlHandle};
use super::link::{LinkShared, LinkUse};
use super::network::Recalled;
use super::request::{Granted, Request};
use super::start::offered;
use crate::net::{Counters, Datagram, OutboundWatch, PathSocket, PathTable, Sockets, SuspendWatch};
use crate::node::{ConnectError, LookupError, NodeConfig, NodeEvent, PairError, Registered, StartError};
use crate::session::{CODE_DONE, Connection, Quic};

/// How often traffic is reported to the connector and unused links are looked for. The connector judges a path by it
/// within seconds; more often wakes idle machines for nothing.
const TICK: Duration = Duration::from_millis(200);

/// In so many ticks after a move from a path that may have been dead QUIC is made to send something: for the acknowledgements
/// that went the old way until the peer had moved as well, and for those that a full window holds back. Each costs a packet.
pub(super) const NUDGES: u32 = 5;

/// How often the way to the server is looked up, to notice a change of network: a fourth of the time in which traffic
/// is to flow again after one.
const GLANCE: Duration = Duration::from_millis(500);

/// How often the interfaces are read again and sleep is looked for.
const LOOK_AROUND: Duration = Duration::from_secs(5);

/// A link that nobody uses is kept this long, so that the next connection needs no introduction.
const LINGER: Duration = Duration::from_secs(30);

/// A link that the peer opened is kept this long without a connection on it: the peer's attempt may last as long.
const LINGER_CALLEE: Duration = Duration::from_secs(60);

/// A node that only dials lets go of a link after this long: the good-bye of the last connection leaves meanwhile.
const LINGER_DIAL_ONLY: Duration = Duration::from_millis(500);

/// How long the server's farewell may take when the node stops.
const FAREWELL: Duration = Duration::from_millis(600);

/// How long the good-byes to peers get to leave before the server closes the relay's channels.
const GOODBYE_LEAD: Duration = Duration::from_millis(30);

/// Handshakes of peers that may go on at a time.
const HANDSHAKES_MAX: usize = 64;

/// The deadline when there is none.
const NEVER: Duration = Duration::from_secs(3600);

/// Everything that a driver writes to.
pub(crate) struct Ports {
    pub(crate) quic: Quic,
    /// The socket under QUIC, through which extra ones come and go.
    pub(crate) socket: Arc<PathSocket>,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) paths: Arc<PathTable>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) handle: Arc<ControlHandle>,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    pub(crate) accepted: mpsc::Sender<Connection>,
    pub(crate) registered: watch::Sender<Option<Registered>>,
    /// Waits for the first registration.
    pub(crate) started: Option<oneshot::Sender<Result<Registered, StartError>>>,
    /// Waits until the first look at what is known of the network is done; nothing is sent, it ends.
    pub(crate) recalled: Option<oneshot::Sender<()>>,
    /// Told when the last use of a link ends.
    pub(crate) unused: Arc<Notify>,
}

/// A link as the driver keeps it.
pub(crate) struct LinkEntry {
    pub(crate) shared: Arc<LinkShared>,
    pub(crate) role: Role,
    pub(crate) policy: PathPolicy,
    pub(crate) channel: Option<ChannelId>,
    /// The path as the connector last named it.
    pub(crate) path: Path,
    /// Traffic was moved away from a path that may have been dead: how often QUIC is still to be made to send something
    /// once the peer is heard on the new one.
    pub(crate) nudges: u32,
    /// Since when nobody uses it.
    pub(crate) idle_since: Option<Instant>,
}

/// See the module.
pub(crate) struct Driver {
    pub(crate) connector: Connector,
    pub(crate) config: NodeConfig,
    pub(crate) ports: Ports,
    pub(crate) links: BTreeMap<LinkId, LinkEntry>,
    pub(crate) connects: BTreeMap<RequestId, oneshot::Sender<Result<Granted, ConnectError>>>,
    pub(crate) lookups: BTreeMap<RequestId, oneshot::Sender<Result<Option<PeerId>, LookupError>>>,
    /// Who wants to know how attempts end.
    pub(super) odds: BTreeMap<RequestId, oneshot::Sender<Vec<OddsRow>>>,
    pub(crate) pairing: Option<mpsc::Sender<Result<PairEvent, PairError>>>,
    pub(crate) to_server: Option<mpsc::Sender<ToServer>>,
    pub(crate) handshakes: Arc<Semaphore>,
    /// What the connector has yet to hear of the sockets that it wanted.
    pub(super) opened: VecDeque<Input<'static>>,
    /// Own addresses towards the server by family, while one batch of outputs is carried out.
    pub(super) sources: BTreeMap<bool, Option<IpAddr>>,
    /// Where what was known of a network before arrives.
    pub(super) recalled: (mpsc::Sender<Recalled>, mpsc::Receiver<Recalled>),
    next_request: u32,
    candidates: Vec<Candidate>,
    suspend: SuspendWatch,
    outbound: OutboundWatch,
    /// Set when the loop shall end; whoever asked for it is told by the end of the channel.
    stopping: Option<Vec<oneshot::Sender<()>>>,
}

impl Driver {
    pub(crate) fn new(
        connector: Connector,
        config: NodeConfig,
        ports: Ports,
        candidates: Vec<Candidate>,
    ) -> Self {
        Self {
            connector,
            config,
            ports,
            links: BTreeMap::new(),
            connects: BTreeMap::new(),
            lookups: BTreeMap::new(),
            odds: BTreeMap::new(),
            pairing: None,
            to_server: None,
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            opened: VecDeque::new(),
            sources: BTreeMap::new(),
            recalled: mpsc::channel(1),
            next_request: 0,
            candidates,
            suspend: SuspendWatch::new(Instant::now(), SystemTime::now()),
            outbound: OutboundWatch::default(),
            stopping: None,
        }
    }

    /// Run until every handle is gone or one says stop.
    pub(crate) async fn run(
        mut self,
        mut requests: mpsc::Receiver<Request>,
        mut datagrams: mpsc::Receiver<Datagram>,
        mut control: mpsc::Receiver<ControlEvent>,
    ) {
        let unused = Arc::clone(&self.ports.unused);
        let quic = self.ports.quic.clone();
        let [mut tick, mut glance, mut look] = [TICK, GLANCE, LOOK_AROUND].map(interval);
        for timer in [&mut tick, &mut glance, &mut look] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let (seen, mut candidates) = mpsc::channel(1);
        let mut deadline = self.drain();
        while self.stopping.is_none() {
            tokio::select! {
                request = requests.recv() => self.on_request(request),
                Some(datagram) = datagrams.recv() => self.on_datagram(&datagram),
                event = control.recv() => self.on_control(event),
                Some(incoming) = quic.incoming() => self.on_incoming(incoming),
                Some(now) = candidates.recv() => self.on_candidates(now),
                Some(recalled) = self.recalled.1.recv() => self.on_recalled(recalled),
                _ = tick.tick(), if !self.links.is_empty() => self.on_tick(),
                () = unused.notified() => self.on_tick(),
                _ = glance.tick() => self.glance(&seen),
                _ = look.tick() => self.look_around(&seen),
                () = sleep_until(deadline.into()) => self.feed(Input::Timeout),
            }
            deadline = self.drain();
        }
        self.say_goodbye(&mut control).await;
    }

    pub(crate) fn feed(&mut self, input: Input<'_>) {
        self.connector.handle_input(input, Instant::now());
    }

    /// End the loop after this input.
    pub(crate) fn stop(&mut self, reply: Option<oneshot::Sender<()>>) {
        self.stopping.get_or_insert_default().extend(reply);
    }

    /// Carry out what the connector wants; returns when it wants to be called again.
    fn drain(&mut self) -> Instant {
        loop {
            match self.connector.poll_output(Instant::now()) {
                Output::Control(message) => self.tell_server(message),
                Output::Transmit(transmit) => self.transmit(&transmit),
                Output::Open { socket, v6 } => self.open_socket(socket, v6),
                Output::Close { socket } => self.close_socket(socket),
                Output::Event(event) => self.on_event(event),
                Output::Wait(until) => match self.opened.pop_front() {
                    Some(input) => self.feed(input),
                    None => {
                        self.sources.clear();
                        return until.map_or_else(|| Instant::now() + NEVER, |(when, _)| when);
                    }
                },
            }
        }
    }

    pub(super) fn tell_server(&mut self, message: ToServer) {
        let Some(to_server) = &self.to_server else { return };
        if to_server.try_send(message).is_err() {
            // The connection is dying or does not keep up; either way what follows would be out of context.
            tracing::debug!("the control connection does not take messages");
            self.to_server = None;
        }
    }

    fn transmit(&self, transmit: &Transmit) {
        let Transmit {
            socket,
            to,
            bytes,
            ttl,
        } = transmit;
        if let Err(error) = self.ports.sockets.send(*socket, *to, bytes, *ttl) {
            tracing::trace!(to = %transmit.to, %error, "a probe or question was not sent");
        }
    }

    fn on_datagram(&mut self, datagram: &Datagram) {
        self.feed(Input::Datagram {
            socket: datagram.socket,
            from: datagram.from,
            bytes: &datagram.bytes,
        });
    }

    fn on_request(&mut self, request: Option<Request>) {
        match request {
            Some(Request::SetPeers(peers)) => {
                let peers = peers.into_iter().map(|peer| (peer.id, peer.secret)).collect();
                self.feed(Input::Command(Command::SetPeers(peers)));
            }
            Some(Request::Connect {
                peer,
                policy,
                afresh,
                reply,
            }) => self.on_connect(peer, policy, afresh, reply),
            Some(Request::Lookup { name, reply }) => {
                let request = self.request_id();
                self.lookups.retain(|_, reply| !reply.is_closed());
                self.lookups.insert(request, reply);
                self.feed(Input::Command(Command::Lookup { request, name }));
            }
            Some(Request::Odds { reply }) => self.ask_odds(reply),
            Some(Request::Pair { code, steps }) => self.on_pair(code, steps),
            Some(Request::Shutdown { reply }) => self.stop(Some(reply)),
            None => self.stop(None),
        }
    }

    fn on_connect(
        &mut self,
        peer: PeerId,
        policy: PathPolicy,
        afresh: bool,
        reply: oneshot::Sender<Result<Granted, ConnectError>>,
    ) {
        let fits = |entry: &&LinkEntry| {
            let link = &entry.shared;
            link.peer() == peer && entry.policy == policy && link.in_use()
        };
        if let Some(entry) = self.links.values().find(fits).filter(|_| !afresh) {
            let link = LinkUse::new(&entry.shared);
            // Whoever asked may have given up; then the use ends here.
            let _ = reply.send(Ok(Granted { link, used: true }));
            return;
        }
        let request = self.request_id();
        self.connects.retain(|_, reply| !reply.is_closed());
        self.connects.insert(request, reply);
        self.feed(Input::Command(Command::Connect {
            request,
            peer,
            policy,
        }));
    }

    fn on_pair(&mut self, code: Option<Code>, steps: mpsc::Sender<Result<PairEvent, PairError>>) {
        self.drop_abandoned_pairing();
        if self.pairing.is_some() {
            // Whoever asked may have given up already.
            let _ = steps.try_send(Err(PairError::Busy));
            return;
        }
        self.pairing = Some(steps);
        self.feed(Input::Command(match code {
            Some(code) => Command::PairJoin { code },
            None => Command::PairOpen,
        }));
    }

    fn drop_abandoned_pairing(&mut self) {
        if self.pairing.as_ref().is_some_and(mpsc::Sender::is_closed) {
            self.pairing = None;
            self.feed(Input::Command(Command::PairCancel));
        }
    }

    fn on_candidates(&mut self, now: Vec<Candidate>) {
        if now != self.candidates {
            tracing::debug!(count = now.len(), "the addresses of this machine changed");
            self.candidates.clone_from(&now);
            self.feed(Input::LocalCandidates(now));
            self.network_changed();
        }
    }

    fn look_around(&mut self, seen: &mpsc::Sender<Vec<Candidate>>) {
        self.drop_abandoned_pairing();
        if self.suspend.slept(Instant::now(), SystemTime::now()) {
            tracing::info!("this machine slept; its connections are checked");
            // The connector doubts every path when the addresses change, and mappings do not survive a sleep.
            self.feed(Input::LocalCandidates(Vec::new()));
            self.feed(Input::LocalCandidates(self.candidates.clone()));
            self.network_changed();
        }
        self.read_interfaces(seen);
    }

    /// Cheap enough to be done often: did the way to the server change?
    fn glance(&mut self, seen: &mpsc::Sender<Vec<Candidate>>) {
        let server = self.ports.paths.load().server();
        if server.is_some_and(|server| self.outbound.changed(server)) {
            tracing::debug!("the way to the server changed");
            self.network_changed();
            self.read_interfaces(seen);
        }
    }

    fn read_interfaces(&self, seen: &mpsc::Sender<Vec<Candidate>>) {
        if let Ok(permit) = seen.clone().try_reserve_owned() {
            let reading = offered(self.config.allow_loopback, Arc::clone(&self.ports.sockets));
            tokio::spawn(async move {
                permit.send(reading.await);
            });
        }
    }

    fn network_changed(&self) {
        self.ports.quic.nudge();
        self.ports.handle.prove();
    }

    /// Report traffic, and let go of links that nobody used for long enough.
    fn on_tick(&mut self) {
        let now = Instant::now();
        let (mut traffic, mut done, mut nudge) = (Vec::new(), Vec::new(), false);
        for (link, entry) in &mut self.links {
            let report = entry.shared.transport().take_traffic();
            let is_direct = entry.path.is_direct();
            let heard = if is_direct {
                report.received
            } else {
                report.relayed
            };
            if is_direct && report != TrafficReport::default() {
                traffic.push((*link, report));
            }
            if entry.nudges > 0 && (heard || entry.nudges < NUDGES) {
                entry.nudges -= 1;
                nudge = true;
            }
            if entry.shared.in_use() {
                entry.idle_since = None;
            } else if now.duration_since(*entry.idle_since.get_or_insert(now)) >= linger(&self.config, entry)
            {
                done.push(*link);
            }
        }
        if nudge {
            self.ports.quic.nudge();
        }
        for (link, report) in traffic {
            self.feed(Input::Traffic { link, report });
        }
        for link in done {
            tracing::debug!(?link, "nobody uses the link any more");
            self.feed(Input::Command(Command::Close { link }));
        }
    }

    /// Peers first, while the relay still carries it; then the server; then whatever is left.
    async fn say_goodbye(mut self, control: &mut mpsc::Receiver<ControlEvent>) {
        for entry in self.links.values() {
            entry.shared.set_down();
        }
        // A direct path needs no server.
        if self.links.values().any(|entry| !entry.path.is_direct()) {
            sleep(GOODBYE_LEAD).await;
        }
        self.feed(Input::Command(Command::Bye));
        self.drain();
        if self.to_server.take().is_some() {
            let server_told = async {
                while let Some(event) = control.recv().await {
                    if matches!(event, ControlEvent::Down) {
                        break;
                    }
                }
            };
            // A server that does not answer is not waited for.
            let _ = timeout(FAREWELL, server_told).await;
        }
        self.ports.quic.close(CODE_DONE).await;
        tracing::debug!(dropped = self.ports.counters.line(), "the node stopped");
    }

    pub(super) fn request_id(&mut self) -> RequestId {
        self.next_request = self.next_request.wrapping_add(1);
        RequestId(self.next_request)
    }
}

fn linger(config: &NodeConfig, entry: &LinkEntry) -> Duration {
    match entry.role {
        _ if !config.accepting => LINGER_DIAL_ONLY,
        Role::Caller => LINGER,
        Role::Callee => LINGER_CALLEE,
    }
}
