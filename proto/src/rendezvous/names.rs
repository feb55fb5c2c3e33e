//! Who holds which name: what is on disk, and what is being written there.
//!
//! A key holds its names for good; nothing here expires, and at its cap it refuses instead of forgetting. A name is
//! confirmed only after it was written, and while it is being written nobody else gets it.

use std::collections::{BTreeMap, BTreeSet};

use super::command::{ClaimId, ConnId, Record, StoreFailed};
use super::config::Limits;
use crate::id::{Name, PeerId};
use crate::wire::Refusal;

/// The book of names.
#[derive(Debug, Default)]
pub(super) struct Names {
    holders: BTreeMap<Name, PeerId>,
    keys: BTreeMap<PeerId, BTreeSet<Name>>,
    claims: BTreeMap<ClaimId, (ConnId, Record)>,
    next_claim: u64,
}

/// The answer to a claim.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is on record already.
    Held,
    /// It may be, once this is written.
    Write(ClaimId, Record),
    /// It may not.
    Refused(Refusal),
}

impl Names {
    /// The book as it was on disk.
    pub(super) fn new(records: Vec<Record>) -> Self {
        let mut names = Self::default();
        for record in records {
            names.enter(record);
        }
        names
    }

    /// Is there a record of this key?
    pub(super) fn knows(&self, peer: PeerId) -> bool {
        self.keys.contains_key(&peer)
    }

    /// The key that holds this name.
    pub(super) fn holder(&self, name: &Name) -> Option<PeerId> {
        self.holders.get(name).copied()
    }

    /// A key that may register wants this name, or none.
    pub(super) fn claim(
        &mut self,
        conn: ConnId,
        peer: PeerId,
        name: Option<&Name>,
        limits: &Limits,
    ) -> Verdict {
        let known = self.keys.get(&peer);
        let held = match name {
            None => known.is_some(),
            Some(name) => known.is_some_and(|names| names.contains(name)),
        };
        if held {
            return Verdict::Held;
        }
        if let Some(refusal) = name.and_then(|name| self.refuse_name(peer, name, limits)) {
            return Verdict::Refused(refusal);
        }
        if self.claims.len() >= limits.claims || (known.is_none() && self.keys.len() >= limits.keys) {
            return Verdict::Refused(Refusal::Busy);
        }
        let claim = ClaimId(self.next_claim);
        self.next_claim += 1;
        let record = Record {
            peer,
            name: name.cloned(),
        };
        self.claims.insert(claim, (conn, record.clone()));
        Verdict::Write(claim, record)
    }

    /// A write came back. Returns whose it was and what became of it; `None` if there was no such write.
    pub(super) fn stored(
        &mut self,
        claim: ClaimId,
        result: Result<(), StoreFailed>,
    ) -> Option<(ConnId, bool)> {
        let (conn, record) = self.claims.remove(&claim)?;
        if result.is_ok() {
            self.enter(record);
        }
        Some((conn, result.is_ok()))
    }

    pub(super) fn keys(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn len(&self) -> usize {
        self.holders.len()
    }

    pub(super) fn claims(&self) -> usize {
        self.claims.len()
    }

    fn refuse_name(&self, peer: PeerId, name: &Name, limits: &Limits) -> Option<Refusal> {
        let under_way =
            |record: &&(ConnId, Record)| record.1.name.as_ref() == Some(name) && record.1.peer != peer;
        if self.holders.contains_key(name) || self.claims.values().any(|claim| under_way(&claim)) {
            return Some(Refusal::NameTaken);
        }
        let mut wanted: BTreeSet<&Name> = self.keys.get(&peer).into_iter().flatten().collect();
        let own = self.claims.values().filter(|(_, record)| record.peer == peer);
        wanted.extend(own.filter_map(|(_, record)| record.name.as_ref()));
        wanted.insert(name);
        (wanted.len() > limits.names_per_key).then_some(Refusal::TooManyNames)
    }

    fn enter(&mut self, record: Record) {
        let names = self.keys.entry(record.peer).or_default();
        if let Some(name) = record.name {
            names.insert(name.clone());
            self.holders.insert(name, record.peer);
        }
    }
}
