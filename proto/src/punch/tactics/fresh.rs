//! Fresh: both sides take a socket that nothing has left from, so no router remembers anything about it.
//!
//! It heals the clash that an early packet leaves behind in a Linux NAT whose INPUT chain accepts, and does not
//! depend on clocks: each side opens its router with a packet that dies behind it, says so, and fires when the
//! other has said so. A NAT that keeps the inside port for a socket's first destination is met in the same way: there the
//! port need not be asked for, and must not be.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Step, Stock};
use crate::path::SocketId;
use crate::punch::config::{FRESH_PATIENCE, OPENER_TTL_ASSUMED};
use crate::wire::Aim;
use crate::wire::network::{Mapping, Ports, Span};

#[derive(Debug)]
pub(super) struct Fresh {
    socket: Option<SocketId>,
    /// The own port as the peer will see it.
    own: Option<u16>,
    /// The peer's port.
    peer: Option<u16>,
    opened: bool,
    fired: bool,
    /// When to fire although the peer has not said that it has opened: its word may be lost, or its router need none.
    fire_at: Instant,
}

impl Fresh {
    pub(super) fn new(stock: &mut Stock, now: Instant) -> Self {
        let socket = stock.orders.sockets.first().copied();
        let fresh = Self {
            socket,
            own: None,
            peer: None,
            opened: false,
            fired: false,
            fire_at: stock.orders.second + FRESH_PATIENCE,
        };
        let server = stock.orders.stun.first().copied();
        if let (Some(socket), Some(server)) = (socket, server.filter(|_| !keeps_inside_port(stock))) {
            stock.ask_at(now, socket, server);
        }
        fresh
    }

    pub(super) fn handle_opened(&mut self, stock: &mut Stock, local: SocketAddr) {
        if keeps_inside_port(stock) && self.own.is_none() {
            self.own = Some(local.port());
            self.advance(stock);
        }
    }

    pub(super) fn handle_reading(&mut self, stock: &mut Stock, reading: super::Reading) {
        if Some(reading.socket) == self.socket && self.own.is_none() {
            self.own = Some(reading.port);
            self.advance(stock);
        }
    }

    pub(super) fn handle_aim(&mut self, stock: &mut Stock, aim: &Aim) {
        let port = aim.spans.first().map(|span| span.first).filter(|port| *port != 0);
        if self.peer.is_none() {
            self.peer = port;
            self.open(stock);
        }
        if aim.opened {
            self.fire(stock);
        }
    }

    pub(super) fn handle_time(&mut self, stock: &mut Stock, now: Instant) {
        if now >= self.fire_at {
            self.fire(stock);
        }
    }

    pub(super) fn due(&self) -> Option<Instant> {
        (self.opened && !self.fired).then_some(self.fire_at)
    }

    /// The own port is known: tell it, once the hole is open if the peer's port is known already.
    fn advance(&mut self, stock: &mut Stock) {
        if self.peer.is_some() {
            self.open(stock);
        } else {
            self.tell(stock, false);
        }
    }

    /// Both ports are known: open the own router.
    fn open(&mut self, stock: &mut Stock) {
        let (Some(socket), Some(_), Some(peer)) = (self.socket, self.own, self.peer) else {
            return;
        };
        if std::mem::replace(&mut self.opened, true) {
            return;
        }
        let ttl = match stock.orders.own.opener_ttl {
            0 => OPENER_TTL_ASSUMED,
            ttl => ttl,
        };
        let to = stock.at_port(peer);
        stock.steps.push_back(Step::Shot {
            socket,
            to,
            ttl: Some(ttl),
        });
        self.tell(stock, true);
    }

    fn fire(&mut self, stock: &mut Stock) {
        let (Some(socket), Some(peer), true) = (self.socket, self.peer, self.opened) else {
            return;
        };
        if !std::mem::replace(&mut self.fired, true) {
            let remote = stock.at_port(peer);
            stock.steps.push_back(Step::Pair { socket, remote });
        }
    }

    fn tell(&self, stock: &mut Stock, opened: bool) {
        if let Some(port) = self.own {
            let spans = vec![Span {
                first: port,
                last: port,
            }];
            stock.steps.push_back(Step::Tell { spans, opened });
        }
    }
}

/// Will the peer see the port that the socket has on this machine? Then a question to the server tells nothing, and may
/// spoil it.
fn keeps_inside_port(stock: &Stock) -> bool {
    let own = &stock.orders.own;
    let first = matches!(own.ports, Ports::PreserveFirst { .. }) && !stock.orders.again;
    first || own.mapping == Mapping::None
}
