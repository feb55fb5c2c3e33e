//! The node's end of the control connection: opens it, keeps it, opens it again when it is gone.

use std::time::Duration;

use knothole_proto::id::PeerId;
use knothole_proto::seed::{Rng, Seed};

use super::control::{Frame, Kind, Stream};

/// Time between two tries to open; doubles each time up to [`RETRY_MAX`]. QUIC sends its first packet again after
/// about a second.
const RETRY: Duration = Duration::from_secs(1);

/// See [`RETRY`].
const RETRY_MAX: Duration = Duration::from_secs(8);

/// What the driver is to know.
#[derive(Debug)]
pub(super) enum Told {
    /// The connection is open.
    Up,
    /// The connection is gone.
    Down,
    /// A message arrived.
    Message(Vec<u8>),
}

/// The client side of the control connection.
#[derive(Debug)]
pub(super) struct Client {
    own: PeerId,
    rng: Rng,
    state: State,
    tries: u32,
    hold_off: Option<Duration>,
}

#[derive(Debug)]
enum State {
    /// Opens at this moment.
    Waiting(Duration),
    /// Asked the server.
    Opening {
        conn: u64,
        first: Duration,
        sent: Option<Duration>,
        copies: u32,
        /// The second datagram of a repetition is still to be sent (RFC 9002 section 6.2.4).
        again: bool,
    },
    /// Open.
    Up(Stream),
    /// Not wanted any more.
    Given,
}

impl Client {
    /// A client that opens a connection at once.
    pub(super) fn new(own: PeerId, seed: &Seed, now: Duration) -> Self {
        Self {
            own,
            rng: seed.rng(),
            state: State::Waiting(now),
            tries: 0,
            hold_off: None,
        }
    }

    /// A datagram of the server arrived.
    pub(super) fn receive(&mut self, bytes: &[u8], now: Duration) -> Vec<Told> {
        let Some(frame) = Frame::read(bytes) else {
            return Vec::new();
        };
        match &mut self.state {
            State::Opening {
                conn, first, copies, ..
            } if *conn == frame.conn => match frame.kind {
                Kind::Reset | Kind::Close => self.fall(now),
                kind => {
                    let rtt = (*copies == 1).then(|| now.saturating_sub(*first));
                    let mut stream = Stream::new(frame.conn, rtt, now);
                    let mut told = vec![Told::Up];
                    if kind == Kind::Data {
                        take(&mut stream, &frame, &mut told, now);
                    }
                    self.state = State::Up(stream);
                    self.tries = 0;
                    told
                }
            },
            State::Up(stream) if stream.conn() == frame.conn => match frame.kind {
                Kind::Reset | Kind::Close => self.fall(now),
                Kind::Open | Kind::Accept => Vec::new(),
                Kind::Data | Kind::Ack => {
                    let mut told = Vec::new();
                    take(stream, &frame, &mut told, now);
                    told
                }
            },
            _ => Vec::new(),
        }
    }

    /// The moment of [`Client::wake_at`] has come.
    pub(super) fn wake(&mut self, now: Duration) -> Vec<Told> {
        match &self.state {
            State::Waiting(at) if *at <= now => {
                self.state = State::Opening {
                    conn: self.rng.nonzero_u64(),
                    first: now,
                    sent: None,
                    copies: 0,
                    again: false,
                };
                Vec::new()
            }
            State::Up(stream) if stream.is_dead(now) => self.fall(now),
            _ => Vec::new(),
        }
    }

    /// When [`Client::wake`] or [`Client::poll_transmit`] has something to do.
    pub(super) fn wake_at(&self) -> Option<Duration> {
        match &self.state {
            State::Waiting(at) => Some(*at),
            State::Opening { sent, copies, .. } => {
                Some(sent.map_or(Duration::ZERO, |sent| sent + retry(*copies)))
            }
            State::Up(stream) => Some(stream.poll_timeout()),
            State::Given => None,
        }
    }

    /// The next datagram for the server.
    pub(super) fn poll_transmit(&mut self, now: Duration) -> Option<Vec<u8>> {
        match &mut self.state {
            State::Opening {
                conn,
                sent,
                copies,
                again,
                ..
            } => {
                if *again {
                    *again = false;
                } else if sent.is_some_and(|sent| sent + retry(*copies) > now) {
                    return None;
                } else {
                    *again = sent.is_some();
                    *sent = Some(now);
                    *copies += 1;
                }
                let frame = Frame {
                    kind: Kind::Open,
                    conn: *conn,
                    number: 0,
                    sequence: 0,
                    ack: 0,
                    body: self.own.as_bytes(),
                };
                Some(frame.write())
            }
            State::Up(stream) => stream.poll_transmit(now),
            State::Waiting(_) | State::Given => None,
        }
    }

    /// Queues a message; without a connection it is dropped, as a driver does.
    pub(super) fn send(&mut self, body: Vec<u8>) {
        if let State::Up(stream) = &mut self.state {
            stream.send(body);
        }
    }

    /// Opens no connection again.
    pub(super) fn give_up(&mut self) {
        self.state = State::Given;
    }

    /// Once the connection is gone, opens the next one so much later.
    pub(super) fn hold_off(&mut self, time: Duration) {
        self.hold_off = Some(time);
    }

    /// Is the connection open?
    pub(super) fn is_up(&self) -> bool {
        matches!(self.state, State::Up(_))
    }

    /// Messages that wait.
    pub(super) fn queued(&self) -> usize {
        match &self.state {
            State::Up(stream) => stream.queued(),
            _ => 0,
        }
    }

    /// The connection is gone; the next try comes after a while that grows, with a share of chance.
    fn fall(&mut self, now: Duration) -> Vec<Told> {
        let was_up = self.is_up();
        let pause = self.hold_off.take().unwrap_or_else(|| retry(self.tries + 1));
        let chance = Duration::from_millis(self.rng.below(250));
        self.tries += 1;
        self.state = State::Waiting(now + pause + chance);
        if was_up { vec![Told::Down] } else { Vec::new() }
    }
}

fn take(stream: &mut Stream, frame: &Frame<'_>, told: &mut Vec<Told>, now: Duration) {
    let mut messages = Vec::new();
    stream.handle(frame, &mut messages, now);
    told.extend(messages.into_iter().map(Told::Message));
}

fn retry(copies: u32) -> Duration {
    (RETRY * 2u32.saturating_pow(copies.saturating_sub(1).min(8))).min(RETRY_MAX)
}
