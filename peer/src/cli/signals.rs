//! Ctrl-C and its relatives: the first asks for a clean stop, the second ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::failure::{Failure, code};

/// Has the person asked for a stop? Clones ask the same person.
#[derive(Clone, Debug)]
pub(super) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listen for SIGINT and SIGTERM from now on.
    pub(super) fn listen() -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            Failure::new(code::OTHER, format!("cannot listen for signals: {error}"), "")
        };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let (told, stop) = watch::channel(false);
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if told.send_replace(true) {
                    std::process::exit(i32::from(code::INTERRUPTED));
                }
            }
        });
        Ok(Self(stop))
    }

    /// Has the person asked for it by now?
    pub(super) fn is_asked(&self) -> bool {
        *self.0.borrow()
    }

    /// Wait until the person asks for a stop.
    pub(super) async fn wait(&self) {
        // Fails only when the listening task is gone, with the runtime.
        if self.0.clone().wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// A person that a test plays.
    #[cfg(test)]
    pub(super) fn told_by(person: &watch::Sender<bool>) -> Self {
        Self(person.subscribe())
    }
}
