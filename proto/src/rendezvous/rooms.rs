//! The registry's part in pairing: nameplates with their quotas and their ends.

use std::time::Instant;

use super::command::ConnId;
use super::config::NAMEPLATE_TTL;
use super::deadlines::Due;
use super::nameplates::{Join, Pass};
use super::registry::Registry;
use crate::addr::Reach;
use crate::id::{Nameplate, PeerId};
use crate::wire::{FromServer, PairEnd};

/// Stands for "none" in an answer to a node that wanted to open a nameplate and got none.
const NO_NAMEPLATE: Nameplate = Nameplate(0);

impl Registry {
    pub(super) fn pair_open(&mut self, conn: ConnId, now: Instant) {
        let key = self.pairing_admitted(conn, now);
        let opened = key.and_then(|key| self.nameplates.open(conn, key, &self.config.limits));
        let Some(nameplate) = opened else {
            return self.end_for(conn, NO_NAMEPLATE, PairEnd::TooFast);
        };
        self.deadlines.set(Due::Nameplate(nameplate), now + NAMEPLATE_TTL);
        let ttl_ms = u32::try_from(NAMEPLATE_TTL.as_millis()).unwrap_or(u32::MAX);
        self.send(conn, FromServer::PairOpened { nameplate, ttl_ms });
    }

    pub(super) fn pair_join(&mut self, conn: ConnId, nameplate: Nameplate, now: Instant) {
        let Some(key) = self.pairing_admitted(conn, now) else {
            return self.end_for(conn, nameplate, PairEnd::TooFast);
        };
        match self.nameplates.join(nameplate, conn, key) {
            Join::With(opener) => {
                self.counts.paired += 1;
                self.send(opener, FromServer::PairJoined { nameplate });
                self.send(conn, FromServer::PairJoined { nameplate });
            }
            Join::Unknown => self.end_for(conn, nameplate, PairEnd::Unknown),
            Join::Yourself => self.end_for(conn, nameplate, PairEnd::Yourself),
        }
    }

    pub(super) fn pair_message(&mut self, conn: ConnId, nameplate: Nameplate, body: Vec<u8>, now: Instant) {
        match self.nameplates.pass(nameplate, conn, body.len()) {
            Pass::To(other) => self.send(other, FromServer::PairMessage { nameplate, body }),
            Pass::Unknown => self.end_for(conn, nameplate, PairEnd::Unknown),
            Pass::Excess => self.end_nameplate(nameplate, PairEnd::TooFast, None, now),
        }
    }

    pub(super) fn pair_leave(&mut self, conn: ConnId, nameplate: Nameplate, now: Instant) {
        if self.nameplates.has(nameplate, conn) {
            self.end_nameplate(nameplate, PairEnd::PeerLeft, Some(conn), now);
        }
    }

    /// The key behind this connection, if it and its network have not tried too often.
    fn pairing_admitted(&mut self, conn: ConnId, now: Instant) -> Option<PeerId> {
        let connection = self.connections.get(conn)?;
        let (key, from) = (connection.peer, connection.from);
        let limits = &self.config.limits;
        let admitted = self.pairings.admit(key.as_bytes(), limits.pairings, now)
            && (Reach::of(from) == Reach::Loopback
                || self
                    .pairing_networks
                    .admit_prefix(from, limits.pairings_per_network, now));
        admitted.then_some(key)
    }

    fn end_for(&mut self, conn: ConnId, nameplate: Nameplate, why: PairEnd) {
        self.send(conn, FromServer::PairEnded { nameplate, why });
    }
}
