//! How much is received at once: few transfers, and few lists of what is offered, which may take tens of megabytes each.
//!
//! A place is looked for before the list is read, so that nothing of an offer is kept for which there is none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use knothole_proto::id::PeerId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Transfers received at once, each with its list and up to 16 MiB in memory.
const TRANSFERS_MAX: usize = 4;

/// Lists of one peer that are read at once: one that sends them slowly leaves places to others.
const LISTS_OF_ONE_MAX: usize = 2;

/// How long a transfer may wait for a place.
const PATIENCE: Duration = Duration::from_secs(10);

/// All places of a machine.
#[derive(Debug)]
pub(super) struct Places {
    transfers: Semaphore,
    /// Who has lists read or waits for it. One entry a peer; those that nobody uses go when the next comes.
    lists: Mutex<BTreeMap<PeerId, Arc<Semaphore>>>,
}

/// A place for a transfer, until dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    _transfer: SemaphorePermit<'a>,
    list: Option<OwnedSemaphorePermit>,
}

impl Places {
    /// All free.
    pub(super) fn new() -> Self {
        Self {
            transfers: Semaphore::new(TRANSFERS_MAX),
            lists: Mutex::default(),
        }
    }

    /// A place for what this peer offers; one is waited for.
    pub(super) async fn find(&self, sender: PeerId) -> Option<Place<'_>> {
        let lists = self.lists_of(sender);
        let place = async {
            // Fails only when a semaphore is closed, which nobody does. Who waits for the first holds nothing of the second.
            let list = lists.acquire_owned().await.ok()?;
            let transfer = self.transfers.acquire().await.ok()?;
            Some(Place {
                _transfer: transfer,
                list: Some(list),
            })
        };
        // The connection of a sender that was killed may hold a place until it is surely dead; a new attempt of it waits.
        tokio::time::timeout(PATIENCE, place).await.ok().flatten()
    }

    fn lists_of(&self, sender: PeerId) -> Arc<Semaphore> {
        // What is guarded changes in one step: a panic elsewhere leaves it whole.
        let mut lists = self.lists.lock().unwrap_or_else(PoisonError::into_inner);
        lists.retain(|_, of| Arc::strong_count(of) > 1);
        let new = || Arc::new(Semaphore::new(LISTS_OF_ONE_MAX));
        Arc::clone(lists.entry(sender).or_insert_with(new))
    }
}

impl Place<'_> {
    /// The list is there, and another one of this peer may be read.
    pub(super) fn list_is_read(&mut self) {
        self.list = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place that is free now.
    async fn at_once(places: &Places, number: u8) -> Option<Place<'_>> {
        let find = places.find(PeerId::from_bytes([number; 32]));
        tokio::time::timeout(Duration::ZERO, find).await.ok().flatten()
    }

    #[tokio::test]
    async fn who_sends_its_lists_slowly_leaves_places_to_others() {
        let places = Places::new();
        let mut slow = [at_once(&places, 1).await, at_once(&places, 1).await];
        assert!(slow.iter().all(Option::is_some));
        assert!(at_once(&places, 1).await.is_none());
        assert!(at_once(&places, 2).await.is_some());
        slow[0].as_mut().unwrap().list_is_read();
        assert!(at_once(&places, 1).await.is_some());
    }

    #[tokio::test]
    async fn no_more_lists_are_read_than_transfers_are_taken() {
        let places = Places::new();
        let mut taken = Vec::new();
        for number in 0..TRANSFERS_MAX {
            taken.push(at_once(&places, u8::try_from(number).unwrap()).await.unwrap());
        }
        assert!(at_once(&places, 200).await.is_none());
        for place in &mut taken {
            place.list_is_read();
        }
        assert!(
            at_once(&places, 200).await.is_none(),
            "the list stays as long as the transfer"
        );
        taken.pop();
        assert!(at_once(&places, 200).await.is_some());
        drop(taken);
        assert!(at_once(&places, 201).await.is_some());
        assert_eq!(places.lists.lock().unwrap().len(), 1, "who is gone is forgotten");
    }
}
