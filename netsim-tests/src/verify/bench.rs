//! [`Bench`]: sockets on a [`Ground`], with the observer answering STUN among them. Sends and catches; concludes nothing.
//!
//! What must come is waited for long, since it ends the wait. What must not come is not waited for: a *fence* is sent after
//! it by the same way, a packet that does pass, and when that has come the others have had their turn. So a busy machine
//! makes measuring slow, not wrong.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use knothole_proto::seed::Seed;
use knothole_proto::stun::{
    BindingAnswer, BindingRequest, Change, ServerSocket, StunConfig, StunPolicy, StunServer,
};

use super::facts::Said;
use super::ground::{Arrival, Ground, GroundError, Handle, News, Place, View};

/// How long what must come is waited for. Ten thousand times what a packet needs to cross a lab at rest.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// First byte of a datagram that is thrown; no STUN message begins so (RFC 8489 section 5: two zero bits).
const TAGGED: u8 = 0xf5;

/// Length of a thrown datagram: that byte, and the number.
const THROWN_LEN: usize = 9;

/// A datagram that was thrown, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tag(u64);

/// Where a thrown datagram came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Catch {
    pub(super) socket: Handle,
    pub(super) from: SocketAddr,
}

/// The hands of whoever measures.
pub(super) struct Bench<'g> {
    ground: &'g mut dyn Ground,
    observers: Vec<Observer>,
    grace: Duration,
    caught: HashMap<Tag, Catch>,
    told: BTreeMap<Handle, Said>,
    next: u64,
}

/// The observer of one family: four sockets and our STUN server.
struct Observer {
    sockets: [(ServerSocket, Handle); 4],
    server: StunServer,
}

const SOCKETS: [ServerSocket; 4] = [
    ServerSocket::Main,
    ServerSocket::AlternatePort,
    ServerSocket::AlternateAddress,
    ServerSocket::AlternateBoth,
];

impl<'g> Bench<'g> {
    /// A bench on this ground. `grace` is how long stragglers are waited for behind a fence.
    pub(super) fn new(ground: &'g mut dyn Ground, grace: Duration) -> Self {
        Self {
            ground,
            observers: Vec::new(),
            grace,
            caught: HashMap::new(),
            told: BTreeMap::new(),
            next: 1,
        }
    }

    /// Opens the observer's four sockets, which answer STUN from now on; they are returned in the order of
    /// [`View::servers`].
    pub(super) fn observe(&mut self, view: &View) -> Result<[Handle; 4], GroundError> {
        let mut handles = [Handle(0); 4];
        for (handle, at) in handles.iter_mut().zip(view.servers) {
            *handle = self.ground.open(Place::Server, at, None)?;
        }
        let config = StunConfig {
            // Other people's clients ask here too; ours pad their requests and need no policy.
            policy: StunPolicy::Public,
            sockets: SOCKETS.into_iter().zip(view.servers).collect(),
        };
        let server = StunServer::new(config, &Seed::from_number(0), self.ground.now());
        let pairs = [0, 1, 2, 3].map(|index| (SOCKETS[index], handles[index]));
        self.observers.push(Observer {
            sockets: pairs,
            server,
        });
        Ok(handles)
    }

    /// A socket on any free port of a host inside.
    pub(super) fn inside(&mut self, view: &View, host: usize) -> Result<Handle, GroundError> {
        self.ground.open(Place::Inside(host), view.local(host), None)
    }

    /// A socket at an endpoint.
    pub(super) fn open(
        &mut self,
        place: Place,
        local: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> Result<Handle, GroundError> {
        self.ground.open(place, local, peer)
    }

    /// Closes sockets.
    pub(super) fn close(&mut self, sockets: impl IntoIterator<Item = Handle>) {
        for socket in sockets {
            self.told.remove(&socket);
            self.ground.close(socket);
        }
    }

    /// The endpoint that a socket has on its host.
    pub(super) fn local(&self, socket: Handle) -> SocketAddr {
        self.ground.local(socket)
    }

    /// Now.
    pub(super) fn now(&self) -> Instant {
        self.ground.now()
    }

    /// The world below.
    pub(super) fn ground(&mut self) -> &mut dyn Ground {
        self.ground
    }

    /// Sends a datagram that is recognised wherever it comes out.
    pub(super) fn throw(&mut self, from: Handle, to: SocketAddr) -> Result<Tag, GroundError> {
        self.throw_with(from, to, None)
    }

    /// The same with a time to live.
    pub(super) fn throw_with(
        &mut self,
        from: Handle,
        to: SocketAddr,
        ttl: Option<u8>,
    ) -> Result<Tag, GroundError> {
        let tag = Tag(self.number());
        let mut bytes = vec![TAGGED];
        bytes.extend(tag.0.to_be_bytes());
        self.ground.send(from, to, ttl, &bytes)?;
        Ok(tag)
    }

    /// Waits until all have come, for `patience` at most. In the order of `tags`.
    pub(super) fn catch(
        &mut self,
        tags: &[Tag],
        patience: Duration,
    ) -> Result<Vec<Option<Catch>>, GroundError> {
        let until = self.ground.now() + patience;
        while !tags.iter().all(|tag| self.caught.contains_key(tag)) && self.pump(until)? {}
        Ok(tags.iter().map(|tag| self.caught.get(tag).copied()).collect())
    }

    /// Waits for the fence, and then the grace for the others, unless they have all come.
    pub(super) fn fenced(&mut self, tags: &[Tag], fence: Tag) -> Result<Vec<Option<Catch>>, GroundError> {
        self.catch(&[fence], PATIENCE)?;
        self.catch(tags, self.grace)
    }

    /// Sends from one socket to an endpoint: whom does the receiver see? `None`: nothing came.
    pub(super) fn seen(&mut self, from: Handle, to: SocketAddr) -> Result<Option<SocketAddr>, GroundError> {
        let tag = self.throw(from, to)?;
        let caught = self.catch(&[tag], PATIENCE)?;
        Ok(caught.into_iter().flatten().next().map(|catch| catch.from))
    }

    /// Lets time pass, while the observer answers.
    pub(super) fn wait(&mut self, time: Duration) -> Result<(), GroundError> {
        let until = self.ground.now() + time;
        self.wait_until(until)
    }

    /// The same until a moment.
    pub(super) fn wait_until(&mut self, until: Instant) -> Result<(), GroundError> {
        while self.pump(until)? {}
        Ok(())
    }

    /// What the network last said to a socket.
    pub(super) fn told(&self, socket: Handle) -> Said {
        self.told.get(&socket).copied().unwrap_or(Said::Nothing)
    }

    /// Asks the observer, all questions at once and in this order. The last one is the fence of the others.
    pub(super) fn ask(
        &mut self,
        socket: Handle,
        questions: &[(SocketAddr, Change)],
    ) -> Result<Vec<Option<BindingAnswer>>, GroundError> {
        let begun = self.ground.now();
        let mut asked = Vec::new();
        for (server, change) in questions {
            let mut id = [0; 12];
            id[4..].copy_from_slice(&self.number().to_be_bytes());
            asked.push((BindingRequest::with_id(*server, *change, id, begun), None));
        }
        let mut fence_at = None;
        loop {
            let now = self.ground.now();
            for (request, _) in &mut asked {
                while let Some(bytes) = request.poll_transmit(now) {
                    self.ground.send(socket, request.server(), None, &bytes)?;
                }
            }
            let grace_over = fence_at.map(|at: Instant| at + self.grace);
            let deadlines = asked.iter().filter_map(|(request, _)| request.poll_timeout());
            let next = deadlines.chain(grace_over).min();
            let Some(next) = next.filter(|_| grace_over.is_none_or(|over| now < over)) else {
                break;
            };
            if let Some(arrival) = self.pump_once(next)?
                && arrival.socket == socket
            {
                let now = self.ground.now();
                for (request, answer) in &mut asked {
                    if answer.is_none() {
                        *answer = request.handle_datagram(arrival.from, &arrival.bytes, now);
                    }
                }
                let fence_came = asked.last().is_some_and(|(_, answer)| answer.is_some());
                if fence_came && fence_at.is_none() {
                    fence_at = Some(now);
                }
            }
            if asked.iter().all(|(_, answer)| answer.is_some()) {
                break;
            }
        }
        Ok(asked.into_iter().map(|(_, answer)| answer).collect())
    }

    /// Where the observer sees a socket that asks it at `server`; `None`: no answer.
    pub(super) fn mapped(
        &mut self,
        socket: Handle,
        server: SocketAddr,
    ) -> Result<Option<SocketAddr>, GroundError> {
        let answers = self.ask(socket, &[(server, Change::None)])?;
        Ok(answers.into_iter().flatten().next().map(|answer| answer.mapped))
    }

    /// Handles what happens next; false when nothing does until `until`.
    fn pump(&mut self, until: Instant) -> Result<bool, GroundError> {
        if self.ground.now() >= until {
            return Ok(false);
        }
        self.pump_once(until)?;
        Ok(true)
    }

    /// Handles what happens next. Datagrams are passed on, for those who wait for STUN answers.
    fn pump_once(&mut self, until: Instant) -> Result<Option<Arrival>, GroundError> {
        match self.ground.receive(until)? {
            None => Ok(None),
            Some(News::Told(socket, said)) => {
                self.told.insert(socket, said);
                Ok(None)
            }
            Some(News::Arrived(arrival)) => {
                if !self.note(&arrival) {
                    self.answer(&arrival)?;
                }
                Ok(Some(arrival))
            }
        }
    }

    /// Notes a thrown datagram that came out; false if it is none.
    fn note(&mut self, arrival: &Arrival) -> bool {
        let Some((&TAGGED, number)) = arrival.bytes.split_first() else {
            return false;
        };
        if arrival.bytes.len() == THROWN_LEN
            && let Ok(number) = number.try_into()
        {
            let catch = Catch {
                socket: arrival.socket,
                from: arrival.from,
            };
            self.caught.insert(Tag(u64::from_be_bytes(number)), catch);
        }
        true
    }

    /// Answers a STUN request to the observer.
    fn answer(&mut self, arrival: &Arrival) -> Result<(), GroundError> {
        let now = self.ground.now();
        for observer in &mut self.observers {
            let on = observer
                .sockets
                .iter()
                .find(|(_, handle)| *handle == arrival.socket);
            if let Some((on, _)) = on
                && let Some(reply) = observer.server.handle(*on, arrival.from, &arrival.bytes, now)
                && let Some((_, via)) = observer.sockets.iter().find(|(socket, _)| *socket == reply.via)
            {
                self.ground.send(*via, reply.to, None, &reply.bytes)?;
            }
        }
        Ok(())
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}
