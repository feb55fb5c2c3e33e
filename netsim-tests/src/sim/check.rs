//! What must hold after every event, whatever the network does.
//!
//! The world tells [`Checks`] everything that the machines could only guess: which host really made a packet, and
//! where it really came from. A broken rule is a [`Violation`]. The numbers P1.. are those of the project's list of properties
//! in the comments of [`Rule`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use knothole_proto::addr::{Reach, canonical};
use knothole_proto::connector::{Event, LinkId};
use knothole_proto::id::{SessionId, SessionTag};
use knothole_proto::path::{Path, SocketId};
use knothole_proto::wire::probe::session_of;
use knothole_proto::wire::{Introduction, Kind};

use super::topology::HostId;

/// Probes that an address may get before it answers, if the server did not attest it.
const UNATTESTED_PROBES_MAX: u32 = 2;

/// Probes per destination address and round that an attested address may get before it answers.
const ATTESTED_PROBES_MAX: u32 = 64;

/// An introduction that follows another one so soon may find that one's round not yet begun, because a question was asked
/// again and both answers came late: then each has its budget. A question is given up after 5 s.
const ROUND_MAX: Duration = Duration::from_secs(5);

/// Probes to one IP address in a minute while it does not answer: claimed by somebody, and attested by the server (P4).
const UNATTESTED_MINUTE_MAX: u32 = 60;

/// See [`UNATTESTED_MINUTE_MAX`].
const ATTESTED_MINUTE_MAX: u32 = 600;

/// Probes to an attested address in a round that may guess ports, in all: as many more as the round's kind allows. It is also
/// what one IP address may get from a round, over all of its ports.
const GUESS_MAX: u32 = 1_536;

/// Minutes in an hour in which one IP address that does not answer may get more than [`ATTESTED_MINUTE_MAX`] probes.
const GUESSES_MAX: usize = 4;

/// See [`GUESSES_MAX`].
const HOUR: Duration = Duration::from_secs(3600);

/// STUN in a minute to addresses that are none of the server's: six datagrams to where it believes itself to be, to learn whether
/// its router lets it come back, and as many questions as somebody on the way can lead astray who forges the server's answers.
const STRAY_MAX: u32 = 24;

/// The window of [`UNATTESTED_MINUTE_MAX`].
const MINUTE: Duration = Duration::from_secs(60);

/// Application data may leave on a path so long after the last sign of the peer from there (RFC 7675 section 5.1).
const CONSENT: Duration = Duration::from_secs(30);

/// Time-outs in a row at one moment of a host's clock. A machine may have several things due at once, each of which
/// takes a call; more means that it asks for a moment that has passed.
const SPIN_MAX: u32 = 64;

/// A rule of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Time never goes backwards.
    Time,
    /// Every queue and table is bounded.
    Bounded,
    /// A machine that says it waits until a moment does something then, and does not ask for the same moment again.
    Progress,
    /// An address that the server did not attest gets two probes until it answers, an attested one a schedule (P4),
    /// and each of them an answer to whatever comes from there (P2).
    ProbeBudget,
    /// No datagram goes to an address of a class that nobody may name (P7).
    Destination,
    /// A direct path leads to an address from which the peer itself was heard (P1, P8).
    Proof,
    /// Application data leaves only on a path on which the peer was heard within 30 s (P5).
    Consent,
    /// The server sends only to addresses that it heard from (P3).
    ServerSends,
    /// After a link is down nothing more is said about it.
    AfterClose,
    /// What a machine says can be encoded, what it hears can be decoded.
    Codec,
    /// Where a direct path must come about, it does (P9), and both sides agree on it.
    Liveness,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// When, since the start of the world.
    pub at: Duration,
    /// Which host, by number.
    pub host: usize,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.as_secs_f64();
        write!(
            f,
            "{:?} broken at {at:.6} s by host {}: {}",
            self.rule, self.host, self.what
        )
    }
}

/// What the checks remember.
#[derive(Debug, Default)]
pub(super) struct Checks {
    nodes: BTreeMap<HostId, NodeChecks>,
    server_heard: BTreeSet<SocketAddr>,
    sent: BTreeMap<HostId, Sent>,
}

/// What a node has sent so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Probes, answers to probes among them.
    pub probes: u32,
    /// STUN requests.
    pub questions: u32,
}

#[derive(Debug, Default)]
struct NodeChecks {
    /// When a genuine datagram of each other node last came from an address: by socket and address.
    heard: BTreeMap<(SocketId, SocketAddr), (HostId, Duration)>,
    /// From where the other host saw what was sent to an address.
    seen_as: BTreeMap<(SocketId, SocketAddr), (HostId, SocketAddr)>,
    /// Addresses that the server attested in the latest round of each session.
    attested: BTreeMap<SessionId, BTreeSet<IpAddr>>,
    /// When a round of each session began last that may guess ports.
    guessing: BTreeMap<SessionTag, Duration>,
    /// STUN to other addresses than the server's in the minute that began then.
    strays: (Duration, u32),
    /// When an IP address began to get more probes than a round takes that guesses nothing.
    guesses: BTreeMap<IpAddr, Vec<Duration>>,
    /// The latest introduction to each session, and how many came within [`ROUND_MAX`] of one another.
    rounds: BTreeMap<SessionTag, (Duration, u32)>,
    /// Probes of each session to each address in these rounds, while nothing genuine came from there.
    unanswered: BTreeMap<(SessionTag, SocketAddr), u32>,
    /// Probes to each IP address in the minute that began then, while nothing genuine came from there.
    minutes: BTreeMap<IpAddr, (Duration, u32)>,
    /// Datagrams that came from each address, whoever made them: each may be answered once (P2).
    came: BTreeMap<SocketAddr, u32>,
    closed: BTreeSet<LinkId>,
    last_wake: Option<(Duration, u32)>,
}

impl Checks {
    /// A node sends a datagram.
    pub(super) fn node_sends(
        &mut self,
        host: HostId,
        socket: SocketId,
        to: SocketAddr,
        bytes: &[u8],
        servers: &[SocketAddr],
        now: Duration,
    ) -> Result<(), Violation> {
        let broken = |rule, what| Err(violation(rule, now, host, what));
        if to != canonical(to) || matches!(Reach::of(to), Reach::Never | Reach::Loopback) {
            return broken(Rule::Destination, format!("datagram to {to}"));
        }
        let sent = self.sent.entry(host).or_default();
        match Kind::of(bytes) {
            Kind::Probe => sent.probes += 1,
            Kind::Stun => sent.questions += 1,
            Kind::Relay | Kind::Quic | Kind::Unknown => {}
        }
        if servers.contains(&to) {
            return Ok(());
        }
        let node = self.nodes.entry(host).or_default();
        let heard = node.heard.get(&(socket, to)).copied();
        match Kind::of(bytes) {
            Kind::Probe if heard.is_some() => Ok(()),
            Kind::Probe => node
                .probes(to, bytes, now)
                .map_err(|what| violation(Rule::ProbeBudget, now, host, what)),
            Kind::Stun => node
                .strays(to, now)
                .map_err(|what| violation(Rule::ProbeBudget, now, host, what)),
            Kind::Quic => match heard {
                Some((_, at)) if now <= at + CONSENT => Ok(()),
                Some((_, at)) => broken(
                    Rule::Consent,
                    format!("data to {to}, last heard {:?} ago", now.saturating_sub(at)),
                ),
                None => broken(Rule::Consent, format!("data to {to}, never heard")),
            },
            kind => broken(Rule::Destination, format!("{kind:?} to {to}, which is no server")),
        }
    }

    /// A genuine datagram of the node `origin`, which it had addressed to `addressed` from `origin_socket`, reached a
    /// node from `from`.
    pub(super) fn node_hears(
        &mut self,
        host: HostId,
        socket: SocketId,
        from: SocketAddr,
        (origin, origin_socket, addressed): (HostId, SocketId, SocketAddr),
        now: Duration,
    ) {
        let node = self.nodes.entry(host).or_default();
        node.heard.insert((socket, from), (origin, now));
        node.unanswered.retain(|(_, to), _| *to != from);
        node.minutes.remove(&from.ip());
        node.guesses.remove(&from.ip());
        let sender = self.nodes.entry(origin).or_default();
        sender.seen_as.insert((origin_socket, addressed), (host, from));
    }

    /// A datagram that the other node did not make reached a node.
    pub(super) fn node_hears_stranger(&mut self, host: HostId, from: SocketAddr) {
        let node = self.nodes.entry(host).or_default();
        *node.came.entry(from).or_default() += 1;
    }

    /// A socket of a node is closed; another one may get its number.
    pub(super) fn closed(&mut self, host: HostId, socket: SocketId) {
        let node = self.nodes.entry(host).or_default();
        node.heard.retain(|(known, _), _| *known != socket);
        node.seen_as.retain(|(known, _), _| *known != socket);
    }

    /// The server hears something.
    pub(super) fn server_hears(&mut self, from: SocketAddr) {
        self.server_heard.insert(from);
    }

    /// The server sends something.
    pub(super) fn server_sends(&self, host: HostId, to: SocketAddr, now: Duration) -> Result<(), Violation> {
        if self.server_heard.contains(&to) {
            return Ok(());
        }
        Err(violation(
            Rule::ServerSends,
            now,
            host,
            format!("datagram to {to}"),
        ))
    }

    /// The server introduced a node.
    pub(super) fn introduced(&mut self, host: HostId, introduction: &Introduction, now: Duration) {
        let node = self.nodes.entry(host).or_default();
        let attested = introduction.candidates.iter().filter(|offer| offer.attested);
        let ips = attested
            .map(|offer| canonical(offer.candidate.addr).ip())
            .collect();
        node.attested.insert(introduction.session, ips);
        // Another round is another introduction, with a budget of its own.
        let tag = introduction.session.tag();
        let agreed = introduction.networks.iter().all(|network| network.guesses);
        if introduction.guess && agreed {
            node.guessing.insert(tag, now);
        }
        match node.rounds.get_mut(&tag) {
            Some((last, rounds)) if now < *last + ROUND_MAX => (*last, *rounds) = (now, *rounds + 1),
            _ => {
                node.rounds.insert(tag, (now, 1));
                node.unanswered.retain(|(session, _), _| *session != tag);
            }
        }
    }

    /// A connector says something.
    pub(super) fn event(&mut self, host: HostId, event: &Event, now: Duration) -> Result<(), Violation> {
        let node = self.nodes.entry(host).or_default();
        if let Some(link) = link_of(event)
            && node.closed.contains(&link)
        {
            return Err(violation(Rule::AfterClose, now, host, format!("{event:?}")));
        }
        match event {
            Event::LinkDown { link, .. } => {
                node.closed.insert(*link);
            }
            Event::Path {
                path: Path::Direct { socket, remote, .. },
                ..
            } if !node.heard.contains_key(&(*socket, *remote)) => {
                return Err(violation(
                    Rule::Proof,
                    now,
                    host,
                    format!("path to {remote}, never heard"),
                ));
            }
            _ => {}
        }
        Ok(())
    }

    /// A node has started anew: its links are counted from the beginning.
    pub(super) fn restarted(&mut self, host: HostId) {
        self.nodes.entry(host).or_default().closed.clear();
    }

    /// A host is woken.
    pub(super) fn wake(&mut self, host: HostId, now: Duration) -> Result<(), Violation> {
        let node = self.nodes.entry(host).or_default();
        let count = match node.last_wake {
            Some((at, count)) if at == now => count + 1,
            _ => 0,
        };
        node.last_wake = Some((now, count));
        if count > SPIN_MAX {
            return Err(violation(
                Rule::Progress,
                now,
                host,
                format!("woken {count} times"),
            ));
        }
        Ok(())
    }

    /// Two direct paths, each as (host, socket, remote): does what one side sends arrive from where the other side
    /// sends to?
    pub(super) fn agree(
        &self,
        one: (HostId, SocketId, SocketAddr),
        two: (HostId, SocketId, SocketAddr),
    ) -> bool {
        let leads = |from: (HostId, SocketId, SocketAddr), to: (HostId, SocketId, SocketAddr)| {
            let seen = self
                .nodes
                .get(&from.0)
                .and_then(|node| node.seen_as.get(&(from.1, from.2)));
            seen.is_some_and(|(host, addr)| *host == to.0 && *addr == to.2)
        };
        leads(one, two) && leads(two, one)
    }

    /// What a node has sent so far.
    pub(super) fn sent(&self, host: HostId) -> Sent {
        self.sent.get(&host).copied().unwrap_or_default()
    }
}

impl NodeChecks {
    /// Counts a probe to an address that has not answered.
    fn probes(&mut self, to: SocketAddr, bytes: &[u8], now: Duration) -> Result<(), String> {
        let attested = self.attested.values().any(|ips| ips.contains(&to.ip()));
        let tag = session_of(bytes).ok_or("not a probe")?;
        // What a round may cost counts for the whole minute, in which another one may follow that guesses nothing.
        let guesses = self.guessing.get(&tag).is_some_and(|at| now < *at + MINUTE);
        let (schedule, minute) = match (attested, guesses) {
            (true, true) => (ATTESTED_PROBES_MAX + GUESS_MAX, ATTESTED_MINUTE_MAX + GUESS_MAX),
            // Counters are stepped through without leave.
            (true, false) => (ATTESTED_PROBES_MAX, ATTESTED_MINUTE_MAX + GUESS_MAX),
            (false, _) => (UNATTESTED_PROBES_MAX, UNATTESTED_MINUTE_MAX),
        };
        let came = self.came.get(&to).copied().unwrap_or(0);
        let schedule = schedule * self.rounds.get(&tag).map_or(1, |(_, rounds)| *rounds);
        let count = self.unanswered.entry((tag, to)).or_default();
        *count += 1;
        if *count > schedule + came {
            return Err(format!(
                "probe {count} of {} to {to} in one round",
                schedule + came
            ));
        }
        let (begun, count) = self.minutes.entry(to.ip()).or_insert((now, 0));
        if now >= *begun + MINUTE {
            (*begun, *count) = (now, 0);
        }
        *count += 1;
        if *count > minute + came {
            return Err(format!(
                "probe {count} of {} to {} in a minute",
                minute + came,
                to.ip()
            ));
        }
        if *count == ATTESTED_MINUTE_MAX + 1 {
            let guesses = self.guesses.entry(to.ip()).or_default();
            guesses.retain(|at| now < *at + HOUR);
            guesses.push(now);
            if guesses.len() > GUESSES_MAX {
                return Err(format!(
                    "{} rounds of guesses at {} in an hour",
                    guesses.len(),
                    to.ip()
                ));
            }
        }
        Ok(())
    }

    fn strays(&mut self, to: SocketAddr, now: Duration) -> Result<(), String> {
        let (begun, count) = &mut self.strays;
        if now >= *begun + MINUTE {
            (*begun, *count) = (now, 0);
        }
        *count += 1;
        if *count > STRAY_MAX {
            return Err(format!(
                "question {count} in a minute to others than the server: {to}"
            ));
        }
        Ok(())
    }
}

/// A violation at a host.
pub(super) fn violation(rule: Rule, at: Duration, host: HostId, what: String) -> Violation {
    Violation {
        rule,
        at,
        host: host.0,
        what,
    }
}

fn link_of(event: &Event) -> Option<LinkId> {
    match event {
        Event::LinkUp(link) => Some(link.link),
        Event::Channel { link, .. }
        | Event::Source { link, .. }
        | Event::Path { link, .. }
        | Event::LinkDown { link, .. } => Some(*link),
        _ => None,
    }
}
