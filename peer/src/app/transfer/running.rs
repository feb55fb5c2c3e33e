//! Transfers that are being received now, so that a new attempt takes the place of the old one.
//!
//! A sender that was killed comes back at once, while the receiver may go on waiting for the old connection until it is
//! surely dead. Whoever begins the same transfer again is the one to go on with.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::partial::TransferKey;

/// All transfers that one program receives at the moment.
#[derive(Clone, Debug, Default)]
pub struct Running(Arc<Mutex<HashMap<TransferKey, watch::Sender<bool>>>>);

/// One of them, until dropped.
#[derive(Debug)]
pub(super) struct Turn {
    running: Running,
    key: TransferKey,
    replaced: watch::Receiver<bool>,
}

impl Running {
    /// It is this one's turn now; whoever had it before is told to end.
    pub(super) fn enter(&self, key: TransferKey) -> Turn {
        let (sender, replaced) = watch::channel(false);
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(old) = running.insert(key, sender) {
            old.send_replace(true);
        }
        Turn {
            running: self.clone(),
            key,
            replaced,
        }
    }
}

impl Turn {
    /// Wait until another one takes the turn.
    pub(super) async fn replaced(&self) {
        // Fails when the sender was dropped after saying so.
        let _ = self.replaced.clone().wait_for(|replaced| *replaced).await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut running = self.running.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !*self.replaced.borrow() {
            running.remove(&self.key);
        }
    }
}
