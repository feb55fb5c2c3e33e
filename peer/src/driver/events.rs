//! What the control task and the connector say, carried to whom it concerns.

use std::sync::Arc;
use std::time::Duration;

use knothole_proto::connector::{ConnectFailure, Event, Input, Link, LinkEnd, LinkId, Nat, PairEvent};
use knothole_proto::id::ChannelId;
use knothole_proto::path::Path;
use knothole_proto::punch::Plan;
use knothole_proto::wire::{ConnectRefusal, FromServer};

use super::control::ControlEvent;
use super::dial::{DialFailure, HANDSHAKE_TIMEOUT};
use super::link::{LinkShared, LinkUse};
use super::request::Granted;
use super::run::{Driver, LinkEntry, NUDGES};
use crate::net::{LinkPath, Route};
use crate::node::{ConnectError, LookupError, NodeEvent, Registered, StartError};
use crate::session::PathState;

/// A server that refuses this node is asked again only so often; nothing but its operator can change its mind.
const AFTER_REFUSAL: Duration = Duration::from_secs(60);

impl Driver {
    pub(crate) fn on_control(&mut self, event: Option<ControlEvent>) {
        match event {
            Some(ControlEvent::Up { stun, outgoing }) => {
                self.to_server = Some(outgoing);
                self.feed(Input::ControlUp { stun });
            }
            Some(ControlEvent::Message(FromServer::Odds { request, rows })) => self.on_odds(request, rows),
            Some(ControlEvent::Message(message)) => self.feed(Input::Control(message)),
            Some(ControlEvent::Down) => {
                self.to_server = None;
                self.odds.clear();
                self.fail_start(StartError::ServerLost);
                if self.ports.registered.borrow().is_some() {
                    tracing::info!("the connection to the server is lost");
                    self.tell(NodeEvent::ServerLost);
                }
                self.feed(Input::ControlDown);
            }
            Some(ControlEvent::Failed(failure)) => self.on_dial_failure(failure),
            None => self.stop(None),
        }
    }

    fn on_dial_failure(&mut self, failure: DialFailure) {
        let (host, port) = (self.config.server.host.clone(), self.config.server.port);
        let error = match failure {
            DialFailure::Resolve(source) => StartError::Resolve { host, source },
            DialFailure::Silence => StartError::Unreachable {
                server: format!("{host}:{port}"),
                waited: HANDSHAKE_TIMEOUT,
            },
            DialFailure::WrongKey => {
                tracing::warn!("the server shows another key than its address says");
                StartError::WrongServerKey
            }
            DialFailure::BrokenOff => StartError::ServerLost,
        };
        self.fail_start(error);
    }

    fn fail_start(&mut self, error: StartError) {
        if let Some(started) = self.ports.started.take() {
            // Whoever waited may have given up; the node stops either way.
            let _ = started.send(Err(error));
            self.stop(None);
        }
    }

    pub(crate) fn on_event(&mut self, event: Event) {
        match event {
            Event::Registered {
                name,
                reflexive,
                relay,
            } => self.on_registered(name, reflexive, relay),
            Event::Refused(refusal) => {
                tracing::warn!(?refusal, "the server does not admit this node");
                self.ports.handle.hold(AFTER_REFUSAL);
                self.fail_start(StartError::Refused(refusal));
                self.tell(NodeEvent::Refused(refusal));
            }
            Event::Nat { reflexive, nat } => self.on_nat(reflexive, nat),
            Event::Fingerprint(fingerprint) => self.on_fingerprint(fingerprint),
            Event::Plan { link, round, plan } => self.on_plan(link, round, plan),
            Event::Draining { retry_after } => {
                self.ports.handle.hold(retry_after);
                self.tell(NodeEvent::Draining { retry_after });
            }
            Event::LinkUp(link) => self.on_link_up(&link),
            Event::Channel { link, channel } => {
                if let Some(entry) = self.links.get_mut(&link) {
                    entry.channel = channel;
                    self.set_channel(link, channel);
                }
            }
            Event::Source { link, socket, remote } => self.on_source(link, socket, remote),
            Event::SourceGone { link, socket, remote } => {
                self.ports.paths.remove_source(link, socket, remote)
            }
            Event::Path { link, path, after } => self.on_path(link, path, after),
            Event::ConnectFailed { request, why } => {
                if let Some(reply) = self.connects.remove(&request) {
                    // Whoever asked may have given up.
                    let _ = reply.send(Err(connect_error(why)));
                } else if let Some(reply) = self.lookups.remove(&request) {
                    // As above.
                    let _ = reply.send(Err(lookup_error(why)));
                }
            }
            Event::LinkDown { link, why } => self.on_link_down(link, why),
            Event::Found { request, peer } => {
                if let Some(reply) = self.lookups.remove(&request) {
                    // As above.
                    let _ = reply.send(Ok(peer));
                }
            }
            Event::Pair(step) => self.on_pair_step(step),
        }
    }

    fn on_registered(
        &mut self,
        name: Option<knothole_proto::id::Name>,
        reflexive: std::net::SocketAddr,
        relay: bool,
    ) {
        self.recall_network(reflexive);
        let nat = self
            .ports
            .registered
            .borrow()
            .as_ref()
            .map_or(Nat::Unknown, |old| old.nat);
        let now = Registered {
            id: self.config.identity.peer_id(),
            name,
            reflexive,
            nat,
            relay,
        };
        tracing::info!(name = ?now.name, relay, "registered at the server");
        self.ports.registered.send_replace(Some(now.clone()));
        // Told first: whoever listens after the start hears of later registrations only.
        self.tell(NodeEvent::Registered(now.clone()));
        if let Some(started) = self.ports.started.take()
            && started.send(Ok(now)).is_err()
        {
            // Nobody waits for the node any more.
            self.stop(None);
        }
    }

    fn on_nat(&mut self, reflexive: std::net::SocketAddr, nat: Nat) {
        self.ports.registered.send_if_modified(|now| {
            let Some(now) = now else { return false };
            let changed = (now.reflexive, now.nat) != (reflexive, nat);
            (now.reflexive, now.nat) = (reflexive, nat);
            changed
        });
        tracing::info!(?nat, "what the NAT does");
        self.tell(NodeEvent::Nat { reflexive, nat });
    }

    fn on_link_up(&mut self, link: &Link) {
        let id = link.link;
        if !self.links.contains_key(&id) {
            let transport = Arc::new(LinkPath::new(id));
            self.ports.paths.add_link(Arc::clone(&transport));
            let shared = Arc::new(LinkShared::new(link, transport, Arc::clone(&self.ports.unused)));
            let entry = LinkEntry {
                path: shared.path(),
                shared,
                role: link.role,
                policy: link.policy,
                channel: None,
                nudges: 0,
                idle_since: None,
            };
            self.links.insert(id, entry);
            tracing::debug!(link = id.0, peer = ?link.peer, role = ?link.role, "link up");
        }
        let Some(entry) = self.links.get_mut(&id) else {
            return;
        };
        (entry.role, entry.policy, entry.channel) = (link.role, link.policy, link.channel);
        let granted = LinkUse::new(&entry.shared);
        if let Some(reply) = link.request.and_then(|request| self.connects.remove(&request)) {
            // Whoever asked may have given up; then the use ends here.
            let _ = reply.send(Ok(Granted {
                link: granted,
                used: false,
            }));
        }
        self.set_channel(id, link.channel);
    }

    fn set_channel(&mut self, link: LinkId, channel: Option<ChannelId>) {
        self.ports.paths.set_channel(link, channel);
        self.apply_route(link);
        if let Some(channel) = channel {
            self.ports.quic.release_early(channel);
        }
    }

    fn on_plan(&mut self, link: LinkId, round: u8, plan: Plan) {
        let Some(entry) = self.links.get(&link) else {
            return;
        };
        let peer = entry.shared.peer();
        tracing::info!(?peer, round, plan = plan.word(), "plan");
        self.tell(NodeEvent::Plan { peer, round, plan });
    }

    fn on_path(&mut self, link: LinkId, path: Path, after: Duration) {
        let Some(entry) = self.links.get_mut(&link) else {
            return;
        };
        entry.path = path;
        let effort = self.connector.effort(link).unwrap_or_default();
        entry.shared.set_path(PathState { path, after, effort });
        let peer = entry.shared.peer();
        match path {
            Path::Direct { how, remote, rtt, .. } => {
                tracing::info!(?peer, how = how.word(), ?rtt, ?after, "direct path");
                tracing::debug!(link = link.0, %remote, "direct path");
            }
            Path::Relay(why) => tracing::info!(?peer, why = why.word(), ?after, "relay"),
            Path::None(why) => tracing::info!(?peer, why = why.word(), ?after, "no path"),
        }
        self.apply_route(link);
    }

    /// Put into the path table what path and channel come to.
    fn apply_route(&mut self, link: LinkId) {
        let Some(entry) = self.links.get_mut(&link) else {
            return;
        };
        let route = match (entry.path, entry.channel) {
            (Path::Direct { socket, remote, .. }, _) => {
                self.ports.socket.promote(socket);
                Route::Direct { socket, remote }
            }
            (Path::Relay(_), Some(channel)) => Route::Relay(channel),
            (Path::Relay(_), None) | (Path::None(_), _) => Route::None,
        };
        let in_use = entry.shared.in_use();
        let before = self.ports.paths.set_route(link, route);
        // What was sent on a path that died is missing, and QUIC's timer has backed off meanwhile: an acknowledgement
        // of anything sent now brings out what to send again, after one round trip instead of seconds.
        if in_use && before != route && route != Route::None && !matches!(before, Route::Relay(_)) {
            entry.nudges = NUDGES;
            self.ports.quic.nudge();
        }
    }

    fn on_link_down(&mut self, link: LinkId, why: LinkEnd) {
        if let Some(entry) = self.links.remove(&link) {
            tracing::debug!(link = link.0, ?why, "link down");
            entry.shared.set_down();
            self.ports.paths.remove_link(link);
        }
    }

    fn on_pair_step(&mut self, step: PairEvent) {
        let last = matches!(step, PairEvent::Paired { .. } | PairEvent::Failed(_));
        if let Some(steps) = &self.pairing {
            // Whoever paired may have given up; the channel has room for every step that there is.
            let _ = steps.try_send(Ok(step));
        }
        if last {
            self.pairing = None;
        }
    }

    pub(super) fn tell(&self, event: NodeEvent) {
        // Fails only when nobody listens.
        let _ = self.ports.events.send(event);
    }
}

fn lookup_error(why: ConnectFailure) -> LookupError {
    match why {
        ConnectFailure::Timeout => LookupError::Timeout,
        ConnectFailure::Refused(_) => LookupError::TooFast,
        _ => LookupError::ServerLost,
    }
}

fn connect_error(why: ConnectFailure) -> ConnectError {
    match why {
        ConnectFailure::NotPaired => ConnectError::NotPaired,
        ConnectFailure::ServerLost => ConnectError::ServerLost,
        ConnectFailure::Timeout => ConnectError::Timeout { path: None },
        ConnectFailure::Refused(ConnectRefusal::Unknown) => ConnectError::Unknown,
        ConnectFailure::Refused(ConnectRefusal::TooFast) => ConnectError::TooFast,
        ConnectFailure::Refused(ConnectRefusal::Yourself) => ConnectError::Yourself,
        ConnectFailure::Refused(ConnectRefusal::TooMany) => ConnectError::TooMany,
        // Also for reasons and refusals that this version does not know: the caller can only try again.
        ConnectFailure::Refused(_) => ConnectError::Offline,
        _ => ConnectError::ServerLost,
    }
}
