//! What a round does beyond probing the addresses that were offered: fresh sockets, openers, readings, guesses.
//!
//! A [`Tactics`] is one side's part in one round. It sends nothing itself: the agent takes its [`Step`]s when they are
//! due, seals the probes, and makes pairs of what answers. Which part a side plays follows from the
//! [`Plan`]; each has a file of its own.
//!
//! | plan | the side whose ports change | the other side |
//! |---|---|---|
//! | punch | an opener that dies behind the own router, just before the start | the same |
//! | fresh | a fresh socket; tell its port; open; fire when the peer has opened | the same |
//! | bracket | a reading, six openers, a reading, all from fresh sockets; tell both readings | probe what lies between |
//! | block | a few openers from fresh sockets | probe the block in random order |
//! | birthday | many openers from fresh sockets | probe random ports |
//! | steps | one fresh socket: read, tell, step through the peer's ports | the same, with the other step |

mod bracket;
mod fresh;
mod guess;
mod steps;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use self::bracket::Bracket;
use self::fresh::Fresh;
use self::steps::Steps;
use super::config::{FIND_PAUSE, OPENER_GAP, OPENER_TTL_ASSUMED, OVERDUE, SCHEDULE_OPENER_MS};
use crate::path::SocketId;
use crate::plan::Plan;
use crate::seed::Rng;
use crate::stun::{BindingRequest, Change};
use crate::wire::network::{Filtering, Mapping, Network, Span};
use crate::wire::{Aim, Role};

/// Lowest port that routers give: those below are for services (RFC 6335).
const LOWEST_PORT: u16 = 1024;

/// What a round asks of one side, beyond the addresses that were offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orders {
    /// What both sides do.
    pub plan: Plan,
    /// Was it tried before?
    pub again: bool,
    /// When both begin what needs an exchange after the introduction.
    pub second: Instant,
    /// The own network.
    pub own: Network,
    /// The peer's network.
    pub peer: Network,
    /// Numbers for fresh IPv4 sockets, at most as many as [`sockets_wanted`] says; each is opened before it is used.
    pub sockets: Vec<SocketId>,
    /// Two ports of the server, if it has two, at its IPv4 address.
    pub stun: Vec<SocketAddr>,
    /// The server sees both at one address, so they may be in one network.
    pub together: bool,
}

/// How many fresh sockets a side needs for its part.
pub fn sockets_wanted(plan: Plan, role: Role, own: Network) -> usize {
    match plan {
        Plan::Fresh | Plan::Steps => 1,
        Plan::Bracket { hard } if hard == role => bracket::SOCKETS,
        Plan::Block { hard } if hard == role => guess::block_openers(own.ports),
        Plan::Birthday { hard } if hard == role => super::config::BIRTHDAY_OPENERS,
        _ => 0,
    }
}

/// Something to be done now.
#[derive(Debug)]
pub(super) enum Step {
    /// Send this question to the server.
    Ask {
        socket: SocketId,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// Send a probe there. `ttl`: it is to open the own router and need not arrive.
    Shot {
        socket: SocketId,
        to: SocketAddr,
        ttl: Option<u8>,
    },
    /// Tell the peer.
    Tell { spans: Vec<Span>, opened: bool },
    /// The peer is there: probe on this pair from now on.
    Pair { socket: SocketId, remote: SocketAddr },
}

/// One side's part in one round.
#[derive(Debug)]
pub(super) struct Tactics {
    part: Part,
    stock: Stock,
    /// Nothing is sent until then: something was found and may be enough.
    paused: Option<Instant>,
}

#[derive(Debug)]
enum Part {
    /// Only what was planned at the beginning.
    Plain,
    /// Wait for the readings of the peer, then probe between them.
    Between,
    Bracket(Bracket),
    Fresh(Fresh),
    Steps(Steps),
}

/// What all parts use: planned shots, questions under way, steps that are ready.
#[derive(Debug)]
struct Stock {
    orders: Orders,
    role: Role,
    /// Where the server sees the peer.
    target: SocketAddr,
    main: SocketId,
    shots: VecDeque<Shot>,
    questions: Vec<Question>,
    steps: VecDeque<Step>,
    rng: Rng,
}

/// Something that is to leave at a moment.
#[derive(Clone, Copy, Debug)]
struct Shot {
    at: Instant,
    socket: SocketId,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Probe { to: SocketAddr, ttl: Option<u8> },
    Question { server: SocketAddr },
}

/// A question to the server; its repeats find the same mapping again.
#[derive(Debug)]
struct Question {
    socket: SocketId,
    asked: Instant,
    request: BindingRequest,
}

/// What the server saw.
#[derive(Clone, Copy, Debug)]
struct Reading {
    socket: SocketId,
    asked: Instant,
    server: SocketAddr,
    port: u16,
}

impl Tactics {
    /// The part of this side. `target`: where the server sees the peer, over IPv4; `main`: the own main socket for it.
    pub(super) fn new(
        orders: Orders,
        role: Role,
        main: SocketId,
        target: SocketAddr,
        start: Instant,
        rng: Rng,
        now: Instant,
    ) -> Self {
        let (plan, start) = (orders.plan, start.max(now));
        let mut stock = Stock {
            orders,
            role,
            target,
            main,
            shots: VecDeque::new(),
            questions: Vec::new(),
            steps: VecDeque::new(),
            rng,
        };
        let part = match plan {
            Plan::Punch => {
                stock.plan_opener(start, now);
                Part::Plain
            }
            Plan::Reverse { by } if by != role => {
                stock.plan_side_opener(start);
                Part::Plain
            }
            Plan::Fresh => Part::Fresh(Fresh::new(&mut stock, now)),
            Plan::Steps => Part::Steps(Steps::new(&mut stock, now)),
            Plan::Bracket { hard } if hard == role => Part::Bracket(Bracket::new(&mut stock, start)),
            Plan::Bracket { .. } => Part::Between,
            Plan::Block { hard } if hard == role => {
                stock.plan_openers(start);
                Part::Plain
            }
            Plan::Birthday { hard } if hard == role => {
                stock.plan_openers(start);
                Part::Plain
            }
            Plan::Block { .. } => {
                guess::plan_block(&mut stock, start);
                Part::Plain
            }
            Plan::Birthday { .. } => {
                guess::plan_birthday(&mut stock, start);
                Part::Plain
            }
            _ => Part::Plain,
        };
        Self {
            part,
            stock,
            paused: None,
        }
    }

    /// A fresh socket has this address of its own.
    pub(super) fn handle_opened(&mut self, local: SocketAddr) {
        if let Part::Fresh(fresh) = &mut self.part {
            fresh.handle_opened(&mut self.stock, local);
        }
    }

    /// This socket could not be opened: what was to leave from it does not.
    pub(super) fn handle_not_opened(&mut self, socket: SocketId) {
        self.stock.shots.retain(|shot| shot.socket != socket);
        self.stock.questions.retain(|question| question.socket != socket);
    }

    /// A STUN datagram came in on a fresh socket.
    pub(super) fn handle_stun(&mut self, socket: SocketId, from: SocketAddr, bytes: &[u8], now: Instant) {
        let Some(reading) = self.stock.take_reading(socket, from, bytes, now) else {
            return;
        };
        match &mut self.part {
            Part::Bracket(bracket) => bracket.handle_reading(&mut self.stock, reading, now),
            Part::Fresh(fresh) => fresh.handle_reading(&mut self.stock, reading),
            Part::Steps(steps) => steps.handle_reading(&mut self.stock, reading, now),
            Part::Plain | Part::Between => {}
        }
    }

    /// The peer says where it is to be found.
    pub(super) fn handle_aim(&mut self, aim: &Aim, now: Instant) {
        match &mut self.part {
            Part::Between => {
                // Not before the pause is over: what is overdue by then would be left out.
                let at = self.paused.map_or(now, |until| until.max(now));
                if bracket::probe_between(&mut self.stock, &aim.spans, at) {
                    self.part = Part::Plain;
                }
            }
            Part::Fresh(fresh) => fresh.handle_aim(&mut self.stock, aim),
            Part::Steps(steps) => steps.handle_aim(&mut self.stock, aim, now),
            Part::Plain | Part::Bracket(_) => {}
        }
    }

    /// The peer was heard on a way that was not known: that may be it. `false`: another find is being looked into.
    pub(super) fn handle_found(&mut self, now: Instant) -> bool {
        let many = matches!(
            self.stock.orders.plan,
            Plan::Bracket { .. } | Plan::Block { .. } | Plan::Birthday { .. } | Plan::Steps
        );
        let busy = many && self.paused.is_some_and(|until| now < until);
        if !busy {
            self.paused = Some(now + FIND_PAUSE);
            self.stock.put_off(FIND_PAUSE);
        }
        !busy
    }

    /// What is to be done now.
    pub(super) fn poll(&mut self, now: Instant) -> Option<Step> {
        match &mut self.part {
            Part::Bracket(bracket) => bracket.handle_time(&mut self.stock, now),
            Part::Fresh(fresh) => fresh.handle_time(&mut self.stock, now),
            _ => {}
        }
        let paused = self.paused.is_some_and(|until| now < until);
        self.stock.poll(paused, now)
    }

    /// When [`Tactics::poll`] is to be called next.
    pub(super) fn due(&self) -> Option<Instant> {
        let part = match &self.part {
            Part::Bracket(bracket) => bracket.due(),
            Part::Fresh(fresh) => fresh.due(),
            _ => None,
        };
        let shots = self
            .stock
            .shots
            .front()
            .map(|shot| self.paused.map_or(shot.at, |until| until.max(shot.at)));
        let questions = self.stock.questions.iter();
        questions
            .filter_map(|question| question.request.poll_timeout())
            .chain(part)
            .chain(shots)
            .min()
    }

    /// Does all depend on one fresh socket?
    pub(super) fn is_fresh(&self) -> bool {
        matches!(self.part, Part::Fresh(_))
    }

    /// The fresh sockets.
    pub(super) fn sockets(&self) -> &[SocketId] {
        &self.stock.orders.sockets
    }
}

impl Stock {
    /// Just before the start a packet that dies behind the own router, where it is known how far that is: the peer's
    /// probe then meets an open router also if clocks differ, and no router of the peer is met too early.
    fn plan_opener(&mut self, start: Instant, now: Instant) {
        let ttl = self.orders.own.opener_ttl;
        let at = start.checked_sub(OPENER_GAP).filter(|at| *at >= now);
        if let Some(at) = at.filter(|_| ttl != 0) {
            let what = What::Probe {
                to: self.target,
                ttl: Some(ttl),
            };
            self.shots.push_back(Shot {
                at,
                socket: self.main,
                what,
            });
        }
    }

    /// Let the peer's address in where the own filter goes by address. Where ports change with the destination it goes to a
    /// port at which nobody is, lest the answer to the peer leaves from a mapping of its own.
    fn plan_side_opener(&mut self, start: Instant) {
        let own = self.orders.own;
        if own.filtering == Filtering::Independent {
            return;
        }
        let keeps = matches!(own.mapping, Mapping::None | Mapping::Independent);
        let to = match keeps {
            true => self.target,
            false => self.at_port((self.target.port() ^ 1).max(1)),
        };
        for ms in SCHEDULE_OPENER_MS {
            let what = What::Probe { to, ttl: None };
            self.shots.push_back(Shot {
                at: start + Duration::from_millis(*ms),
                socket: self.main,
                what,
            });
        }
    }

    /// One opener from each fresh socket, one after the other.
    fn plan_openers(&mut self, start: Instant) {
        let mut at = start;
        for (number, socket) in self.orders.sockets.clone().into_iter().enumerate() {
            let what = self.opener(number);
            self.shots.push_back(Shot { at, socket, what });
            at += super::config::OPENER_SPACING;
        }
    }

    /// One of many openers. Where the depth of the own router is not known every other one goes all the way: one that dies
    /// too early opens nothing, and one that goes too far may shut the peer's router for its port.
    fn opener(&self, number: usize) -> What {
        let ttl = match self.orders.own.opener_ttl {
            0 if number.is_multiple_of(2) => None,
            0 => Some(OPENER_TTL_ASSUMED),
            ttl => Some(ttl),
        };
        What::Probe { to: self.target, ttl }
    }

    /// The peer at this port.
    fn at_port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.target.ip(), port)
    }

    fn ask_at(&mut self, at: Instant, socket: SocketId, server: SocketAddr) {
        let what = What::Question { server };
        self.shots.push_back(Shot { at, socket, what });
    }

    /// Probes of these ports of the peer from `at` on, in this order and at this pace.
    fn guess(
        &mut self,
        socket: SocketId,
        ports: impl IntoIterator<Item = u16>,
        mut at: Instant,
        pace: Duration,
    ) {
        for port in ports {
            let what = What::Probe {
                to: self.at_port(port),
                ttl: None,
            };
            self.shots.push_back(Shot { at, socket, what });
            at += pace;
        }
    }

    /// Everything that has not left leaves so much later.
    fn put_off(&mut self, by: Duration) {
        for shot in &mut self.shots {
            shot.at += by;
        }
    }

    /// Shots are taken in the order of their moments.
    fn sort(&mut self) {
        self.shots.make_contiguous().sort_by_key(|shot| shot.at);
    }

    fn take_reading(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> Option<Reading> {
        let mut on_it = self
            .questions
            .iter_mut()
            .enumerate()
            .filter(|(_, question)| question.socket == socket);
        let (number, answer) = on_it.find_map(|(number, question)| {
            Some((number, question.request.handle_datagram(from, bytes, now)?))
        })?;
        let question = self.questions.remove(number);
        Some(Reading {
            socket,
            asked: question.asked,
            server: question.request.server(),
            port: answer.mapped.port(),
        })
    }

    fn poll(&mut self, paused: bool, now: Instant) -> Option<Step> {
        if let Some(step) = self.steps.pop_front() {
            return Some(step);
        }
        for question in &mut self.questions {
            if let Some(bytes) = question.request.poll_transmit(now) {
                return Some(Step::Ask {
                    socket: question.socket,
                    to: question.request.server(),
                    bytes,
                });
            }
        }
        // Without the answer nothing goes on, and the round ends soon enough.
        for question in self
            .questions
            .iter_mut()
            .filter(|question| question.request.is_over())
        {
            let server = question.request.server();
            question.request = BindingRequest::new(server, Change::None, &mut self.rng, now);
        }
        if paused {
            return None;
        }
        // What is long overdue is left out: after a sleep of the machine all of it would leave at once.
        let overdue = |shot: &Shot| shot.at + OVERDUE < now;
        while self.shots.front().is_some_and(overdue) {
            self.shots.pop_front();
        }
        if self.shots.front()?.at > now {
            return None;
        }
        let Shot { socket, what, .. } = self.shots.pop_front()?;
        match what {
            What::Probe { to, ttl } => Some(Step::Shot { socket, to, ttl }),
            What::Question { server } => {
                let request = BindingRequest::new(server, Change::None, &mut self.rng, now);
                self.questions.push(Question {
                    socket,
                    asked: now,
                    request,
                });
                self.poll(paused, now)
            }
        }
    }
}
