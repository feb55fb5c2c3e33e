//! A link as the rest of the crate holds it: shared facts, and a count of who uses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use knothole_proto::connector::{Effort, Link};
use knothole_proto::id::{Name, PeerId};
use knothole_proto::path::{Path, Why};
use tokio::sync::{Notify, watch};

use crate::net::LinkPath;
use crate::session::PathState;

/// Facts about one link, shared by its connections and the driver.
#[derive(Debug)]
pub(crate) struct LinkShared {
    peer: PeerId,
    peer_name: Option<Name>,
    transport: Arc<LinkPath>,
    path: watch::Sender<PathState>,
    down: watch::Sender<bool>,
    uses: AtomicUsize,
    unused: Arc<Notify>,
}

impl LinkShared {
    /// `unused` is told whenever the last use ends.
    pub(crate) fn new(link: &Link, transport: Arc<LinkPath>, unused: Arc<Notify>) -> Self {
        let path = match link.channel {
            Some(_) => Path::Relay(Why::Punching),
            None => Path::None(Why::Punching),
        };
        Self {
            peer: link.peer,
            peer_name: link.peer_name.clone(),
            transport,
            path: watch::Sender::new(PathState {
                path,
                after: Duration::ZERO,
                effort: Effort::default(),
            }),
            down: watch::Sender::new(false),
            uses: AtomicUsize::new(0),
            unused,
        }
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    pub(crate) fn transport(&self) -> &Arc<LinkPath> {
        &self.transport
    }

    pub(crate) fn path(&self) -> Path {
        self.path.borrow().path
    }

    pub(crate) fn set_path(&self, state: PathState) {
        self.path.send_if_modified(|now| {
            let changed = *now != state;
            *now = state;
            changed
        });
    }

    /// The link is gone; everything that runs on it ends.
    pub(crate) fn set_down(&self) {
        self.down.send_replace(true);
    }

    pub(crate) fn in_use(&self) -> bool {
        self.uses.load(Ordering::Acquire) > 0
    }
}

/// One use of a link: while it exists the driver keeps the link open.
#[derive(Debug)]
pub(crate) struct LinkUse(Arc<LinkShared>);

impl LinkUse {
    pub(crate) fn new(link: &Arc<LinkShared>) -> Self {
        link.uses.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(link))
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.0.peer
    }

    pub(crate) fn peer_name(&self) -> Option<&Name> {
        self.0.peer_name.as_ref()
    }

    pub(crate) fn transport(&self) -> &Arc<LinkPath> {
        &self.0.transport
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
