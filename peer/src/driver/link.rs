//! A link as the rest of the crate holds it: shared facts, and a count of who uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use knothole_proto::connector::LinkId;
use knothole_proto::id::{Name, PeerId};
use tokio::sync::{Notify, watch};

use crate::session::PathState;

/// Facts about one link, shared by its connections and the driver.
#[derive(Debug)]
pub(crate) struct LinkShared {
    id: LinkId,
    peer: PeerId,
    peer_name: Option<Name>,
    path: watch::Sender<PathState>,
    down: watch::Sender<bool>,
    uses: AtomicUsize,
    unused: Arc<Notify>,
}

/// One use of a link: while it exists the driver keeps the link open.
#[derive(Debug)]
pub(crate) struct LinkUse(Arc<LinkShared>);

impl LinkUse {
    pub(crate) fn peer(&self) -> PeerId {
        self.0.peer
    }

    pub(crate) fn peer_name(&self) -> Option<&Name> {
        self.0.peer_name.as_ref()
    }

    pub(crate) fn path(&self) -> watch::Receiver<PathState> {
        self.0.path.subscribe()
    }

    /// Turns true when the link is gone.
    pub(crate) fn down(&self) -> watch::Receiver<bool> {
        self.0.down.subscribe()
    }
}

impl Drop for LinkUse {
    fn drop(&mut self) {
        if self.0.uses.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.unused.notify_one();
        }
    }
}
