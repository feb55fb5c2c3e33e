//! How much is received at once: few transfers, and few lists of what is offered, which may take tens of megabytes each.
//!
//! A list has its own place, so that one that comes slowly takes none from transfers; and nobody has all the places of either
//! kind, so that one machine that is slow, or whose offers nobody answers, keeps nobody else out.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use knothole_proto::id::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Transfers received at once, each with its list and up to 16 MiB in memory; and those of one peer.
const TRANSFERS_MAX: usize = 4;
const TRANSFERS_OF_ONE_MAX: usize = 3;

/// Lists that are read at once; and those of one peer.
const LISTS_MAX: usize = 4;
const LISTS_OF_ONE_MAX: usize = 2;

/// How long a transfer may wait for a place. The connection of a sender that was killed may hold one until it is surely dead; a new
/// attempt of it waits.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a list may wait to be read: longer than a dead connection with another list lives (30 s). A sender waits for minutes.
const LIST_PATIENCE: Duration = Duration::from_secs(40);

/// All places of a machine.
#[derive(Debug)]
pub(super) struct Places {
    transfers: Kind,
    lists: Kind,
}

/// Places of one kind.
#[derive(Debug)]
struct Kind {
    all: Arc<Semaphore>,
    of_one: usize,
    /// What each peer may still take. One entry a peer; those that nobody uses go when the next comes.
    peers: Mutex<BTreeMap<PeerId, Arc<Semaphore>>>,
}

/// A place, until dropped.
#[derive(Debug)]
pub(super) struct Place {
    _of_peer: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl Places {
    /// All free.
    pub(super) fn new() -> Self {
        Self {
            transfers: Kind::new(TRANSFERS_MAX, TRANSFERS_OF_ONE_MAX),
            lists: Kind::new(LISTS_MAX, LISTS_OF_ONE_MAX),
        }
    }

    /// A place for a transfer of this peer; one is waited for.
    pub(super) async fn find(&self, sender: PeerId) -> Option<Place> {
        self.transfers.find(sender, PATIENCE).await
    }

    /// A place for a list of this peer while it is read; one is waited for.
    pub(super) async fn find_list(&self, sender: PeerId) -> Option<Place> {
        self.lists.find(sender, LIST_PATIENCE).await
    }
}

impl Kind {
    fn new(all: usize, of_one: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(all)),
            of_one,
            peers: Mutex::default(),
        }
    }

    async fn find(&self, sender: PeerId, patience: Duration) -> Option<Place> {
        let (of_peer, of_all) = (self.of_peer(sender), Arc::clone(&self.all));
        let place = async {
            // Fails only when a semaphore is closed, which nobody does. Who waits for the first holds nothing of the second.
            Some(Place {
                _of_peer: of_peer.acquire_owned().await.ok()?,
                _of_all: of_all.acquire_owned().await.ok()?,
            })
        };
        tokio::time::timeout(patience, place).await.ok().flatten()
    }

    fn of_peer(&self, sender: PeerId) -> Arc<Semaphore> {
        // What is guarded changes in one step: a panic elsewhere leaves it whole.
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        peers.retain(|_, of| Arc::strong_count(of) > 1);
        let new = || Arc::new(Semaphore::new(self.of_one));
        Arc::clone(peers.entry(sender).or_insert_with(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerId {
        PeerId::from_bytes([number; 32])
    }

    /// A place that is free now.
    async fn at_once(find: impl Future<Output = Option<Place>>) -> Option<Place> {
        tokio::time::timeout(Duration::ZERO, find).await.ok().flatten()
    }

    #[tokio::test]
    async fn lists_that_come_slowly_leave_places_to_others_and_to_transfers() {
        let places = Places::new();
        let mut slow = Vec::new();
        for number in [1, 1, 2, 2] {
            slow.push(at_once(places.find_list(peer(number))).await.unwrap());
            let own = if slow.len() == 2 { 1 } else { 3 };
            let more = at_once(places.find_list(peer(own))).await;
            assert_eq!(
                more.is_some(),
                slow.len() == 1 || slow.len() == 3,
                "{}",
                slow.len()
            );
        }
        assert!(at_once(places.find(peer(1))).await.is_some());
        slow.pop();
        assert!(at_once(places.find_list(peer(3))).await.is_some());
        assert!(at_once(places.find_list(peer(1))).await.is_none(), "it has two");
    }

    #[tokio::test]
    async fn nobody_has_all_places_for_transfers() {
        let places = Places::new();
        let mut taken = Vec::new();
        for _ in 0..TRANSFERS_OF_ONE_MAX {
            taken.push(at_once(places.find(peer(1))).await.unwrap());
        }
        assert!(at_once(places.find(peer(1))).await.is_none());
        taken.push(at_once(places.find(peer(2))).await.unwrap());
        assert!(at_once(places.find(peer(3))).await.is_none(), "all are taken");
        taken.clear();
        assert!(at_once(places.find(peer(3))).await.is_some());
        let peers = places.transfers.peers.lock().unwrap();
        assert_eq!(peers.len(), 1, "who is gone is forgotten");
    }
}
