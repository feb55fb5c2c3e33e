//! What STUN tells about this node's own address: questions to the server's two ports from each socket.
//!
//! Two ports of one address tell a mapping that depends on the destination's port from one that does not; they
//! cannot tell apart what depends on the destination's address alone.

use std::net::SocketAddr;
use std::time::Instant;

use super::config::STUN_REPEAT;
use super::{Nat, Transmit};
use crate::addr::{Candidate, CandidateKind};
use crate::path::SocketId;
use crate::seed::Rng;
use crate::stun::{BindingRequest, Change};

#[derive(Debug, Default)]
pub(super) struct Discovery {
    views: Vec<View>,
}

/// What one socket learns.
#[derive(Debug)]
struct View {
    socket: SocketId,
    main: Port,
    alternate: Option<Port>,
    /// The control connection does not keep this socket's mapping open; questions do.
    repeat_at: Option<Instant>,
}

#[derive(Debug)]
struct Port {
    server: SocketAddr,
    question: Option<BindingRequest>,
    mapped: Option<SocketAddr>,
}

impl Discovery {
    /// Begin anew with these servers; `control_v6` is the family of the control connection.
    pub(super) fn begin(
        &mut self,
        servers: &[(SocketId, SocketAddr)],
        alternate_port: u16,
        control_v6: bool,
        rng: &mut Rng,
        now: Instant,
    ) {
        self.views = servers
            .iter()
            .map(|(socket, server)| View {
                socket: *socket,
                main: Port::new(*server),
                alternate: (alternate_port != 0)
                    .then(|| Port::new(SocketAddr::new(server.ip(), alternate_port))),
                repeat_at: (server.is_ipv6() != control_v6).then(|| now + STUN_REPEAT),
            })
            .collect();
        self.ask(rng, now);
    }

    /// Ask everything again: something about the network has changed.
    pub(super) fn ask(&mut self, rng: &mut Rng, now: Instant) {
        for view in &mut self.views {
            view.main.ask(rng, now);
            if let Some(alternate) = &mut view.alternate {
                alternate.ask(rng, now);
            }
        }
    }

    pub(super) fn stop(&mut self) {
        self.views.clear();
    }

    /// A STUN datagram arrived. Does it tell anything new?
    pub(super) fn handle_datagram(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> bool {
        let mut news = false;
        for view in self.views.iter_mut().filter(|view| view.socket == socket) {
            for port in std::iter::once(&mut view.main).chain(&mut view.alternate) {
                let question = port.question.as_mut();
                if let Some(answer) = question.and_then(|question| question.handle_datagram(from, bytes, now))
                {
                    news |= port.mapped.replace(answer.mapped) != Some(answer.mapped);
                    port.question = None;
                }
            }
        }
        news
    }

    /// A question that is due to be sent.
    pub(super) fn poll_transmit(&mut self, rng: &mut Rng, now: Instant) -> Option<Transmit> {
        for view in &mut self.views {
            if view.repeat_at.is_some_and(|at| at <= now) {
                view.repeat_at = Some(now + STUN_REPEAT);
                view.main.ask(rng, now);
            }
            for port in std::iter::once(&mut view.main).chain(&mut view.alternate) {
                let Some(question) = &mut port.question else {
                    continue;
                };
                if let Some(bytes) = question.poll_transmit(now) {
                    return Some(Transmit {
                        socket: view.socket,
                        to: port.server,
                        bytes,
                        ttl: None,
                    });
                }
                if question.is_over() {
                    port.question = None;
                }
            }
        }
        None
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let view_due = |view: &View| {
            let ports = std::iter::once(&view.main).chain(&view.alternate);
            let questions = ports.filter_map(|port| port.question.as_ref()?.poll_timeout());
            questions.chain(view.repeat_at).min()
        };
        self.views.iter().filter_map(view_due).min()
    }

    /// What is known of the NAT: of IPv4 if that was answered, else of IPv6.
    pub(super) fn verdict(&self, local: &[Candidate]) -> Option<(SocketAddr, Nat)> {
        let answered = |view: &&View| view.main.mapped.is_some();
        let view = self
            .views
            .iter()
            .filter(answered)
            .min_by_key(|view| view.main.server.is_ipv6())?;
        let reflexive = view.main.mapped?;
        let own =
            |candidate: &Candidate| candidate.kind == CandidateKind::Host && candidate.addr == reflexive;
        let nat = if local.iter().any(own) {
            Nat::None
        } else {
            match view.alternate.as_ref().and_then(|port| port.mapped) {
                None => Nat::Unknown,
                Some(mapped) if mapped == reflexive => Nat::EndpointIndependent,
                Some(_) => Nat::EndpointDependent,
            }
        };
        Some((reflexive, nat))
    }

    /// Addresses that the server does not see by itself: those of the family that the control connection does not use.
    pub(super) fn reflexive(&self) -> impl Iterator<Item = Candidate> {
        let others = self.views.iter().filter(|view| view.repeat_at.is_some());
        others.filter_map(|view| {
            view.main.mapped.map(|addr| Candidate {
                kind: CandidateKind::Reflexive,
                addr,
            })
        })
    }

    /// The server's IPv4 endpoints that can be asked, the main one first.
    pub(super) fn servers_v4(&self) -> impl Iterator<Item = SocketAddr> {
        let views = self.views.iter().filter(|view| view.main.server.is_ipv4());
        let ports = views.flat_map(|view| std::iter::once(&view.main).chain(&view.alternate));
        ports.map(|port| port.server)
    }

    /// The sockets that can reach the server, with their family.
    pub(super) fn sockets(&self) -> impl Iterator<Item = (SocketId, bool)> {
        self.views
            .iter()
            .map(|view| (view.socket, view.main.server.is_ipv6()))
    }
}

impl Port {
    fn new(server: SocketAddr) -> Self {
        Self {
            server,
            question: None,
            mapped: None,
        }
    }

    fn ask(&mut self, rng: &mut Rng, now: Instant) {
        self.question = Some(BindingRequest::new(self.server, Change::None, rng, now));
    }
}
