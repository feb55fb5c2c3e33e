//! Who is being introduced to whom: one session for each pair of node runs, with its rounds and its relay channel.

use std::collections::{BTreeMap, BTreeSet};

use super::command::ConnId;
use super::connection::Run;
use crate::id::{ChannelId, PairTag, SessionId};
use crate::plan::Plan;
use crate::wire::{NetworkClass, PathPolicy, Role};

/// One side of a session.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) conn: ConnId,
    pub(super) run: Run,
    /// What it asked for; a side that never asked takes what the other wants.
    pub(super) policy: PathPolicy,
}

/// A session. The first end is the caller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    pub(super) ends: [End; 2],
    pub(super) round: u8,
    /// A round began in which enough was known of both networks.
    pub(super) informed: bool,
    /// The caller said that the last round led to a path.
    pub(super) direct: bool,
    /// The tag by which the two were last introduced.
    pub(super) tag: PairTag,
    /// The limits of whoever asked last let a round guess.
    pub(super) guess: bool,
    pub(super) channel: Option<ChannelId>,
    /// What this round and the one before try, as long as no report on it has come.
    pub(super) tried: [Option<Tried>; 2],
}

/// What a round tries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tried {
    pub(super) round: u8,
    /// Caller first.
    pub(super) classes: [NetworkClass; 2],
    pub(super) plan: Plan,
}

impl Session {
    /// Which side this connection is.
    pub(super) fn role_of(&self, conn: ConnId) -> Option<Role> {
        let [caller, callee] = self.ends;
        if caller.conn == conn {
            Some(Role::Caller)
        } else {
            (callee.conn == conn).then_some(Role::Callee)
        }
    }

    /// The two connections, caller first.
    pub(super) fn conns(&self) -> [ConnId; 2] {
        self.ends.map(|end| end.conn)
    }

    /// What the two policies come to.
    pub(super) fn policy(&self) -> Agreed {
        let [caller, callee] = self.ends.map(|end| end.policy);
        let either = |policy| caller == policy || callee == policy;
        match (either(PathPolicy::RelayOnly), either(PathPolicy::DirectOnly)) {
            (false, false) => Agreed::new(PathPolicy::Auto, true, true),
            (false, true) => Agreed::new(PathPolicy::DirectOnly, true, false),
            (true, false) => Agreed::new(PathPolicy::RelayOnly, false, true),
            // One hides its address and the other refuses the relay: no path pleases both.
            (true, true) => Agreed::new(PathPolicy::RelayOnly, false, false),
        }
    }
}

/// What two policies come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    /// The word for it.
    pub(super) policy: PathPolicy,
    /// May each learn the other's addresses?
    pub(super) direct: bool,
    /// May the two use a channel?
    pub(super) relay: bool,
}

impl Agreed {
    const fn new(policy: PathPolicy, direct: bool, relay: bool) -> Self {
        Self {
            policy,
            direct,
            relay,
        }
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    all: BTreeMap<SessionId, Session>,
    of_pair: BTreeMap<(Run, Run), SessionId>,
    of_conn: BTreeMap<ConnId, BTreeSet<SessionId>>,
}

impl Sessions {
    pub(super) fn insert(&mut self, id: SessionId, session: Session) {
        let [one, other] = session.ends;
        self.of_pair.insert(pair(one.run, other.run), id);
        for conn in session.conns() {
            self.of_conn.entry(conn).or_default().insert(id);
        }
        self.all.insert(id, session);
    }

    pub(super) fn remove(&mut self, id: SessionId) -> Option<Session> {
        let session = self.all.remove(&id)?;
        let [one, other] = session.ends;
        self.of_pair.remove(&pair(one.run, other.run));
        for conn in session.conns() {
            if let Some(ids) = self.of_conn.get_mut(&conn) {
                ids.remove(&id);
                if ids.is_empty() {
                    self.of_conn.remove(&conn);
                }
            }
        }
        Some(session)
    }

    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.all.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.all.get_mut(&id)
    }

    /// The session of these two runs, whichever called.
    pub(super) fn of_pair(&self, one: Run, other: Run) -> Option<SessionId> {
        self.of_pair.get(&pair(one, other)).copied()
    }

    pub(super) fn of_conn(&self, conn: ConnId) -> Vec<SessionId> {
        self.of_conn.get(&conn).into_iter().flatten().copied().collect()
    }

    pub(super) fn count_of_conn(&self, conn: ConnId) -> usize {
        self.of_conn.get(&conn).map_or(0, BTreeSet::len)
    }

    pub(super) fn ids(&self) -> Vec<SessionId> {
        self.all.keys().copied().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn channels(&self) -> usize {
        self.all
            .values()
            .filter(|session| session.channel.is_some())
            .count()
    }
}

fn pair(one: Run, other: Run) -> (Run, Run) {
    if one <= other { (one, other) } else { (other, one) }
}
