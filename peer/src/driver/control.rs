//! The control connection, kept up: dial, carry messages both ways, and when it ends come back after a pause.
//!
//! A task of its own. It tells the driver what happens through [`ControlEvent`]s and decides nothing but when to dial.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use knothole_proto::path::SocketId;
use knothole_proto::seed::Rng;
use knothole_proto::wire::codec::{self, LENGTH_PREFIX};
use knothole_proto::wire::{FromServer, ToServer};
use quinn::{RecvStream, SendStream, VarInt};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep};

use super::dial::{DialFailure, Dialer};

/// Messages in each direction that may wait. The connector says a few at a time; a server that sends faster than the
/// driver takes is held back by QUIC.
const MESSAGES_MAX: usize = 64;

/// First pause after a loss, at most: nodes that lost their server together come back spread over this.
const FIRST_PAUSE_MAX: Duration = Duration::from_secs(1);

/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// A connection that lived this long was a good one: the next pause is short again.
const GOOD_LIFE: Duration = Duration::from_secs(20);

/// After a change of network the server must have said something within this time, or the connection is given up:
/// three round trips of a slow path.
const PROOF_OF_LIFE: Duration = Duration::from_secs(4);

/// How long the last messages may take to be acknowledged when the node stops.
const FAREWELL: Duration = Duration::from_millis(500);

/// What the driver hears.
#[derive(Debug)]
pub(crate) enum ControlEvent {
    /// A connection stands.
    Up {
        /// Where STUN questions go.
        stun: Vec<(SocketId, std::net::SocketAddr)>,
        /// Messages to the server. Dropping it ends the connection after they are delivered.
        outgoing: mpsc::Sender<ToServer>,
    },
    /// The server said this.
    Message(FromServer),
    /// The connection is over.
    Down,
    /// No connection came about.
    Failed(DialFailure),
}

/// How the driver influences the task.
#[derive(Debug, Default)]
pub(crate) struct ControlHandle {
    hold_ms: AtomicU64,
    prove: Notify,
}

impl ControlHandle {
    /// Make the next pause at least this long.
    pub(crate) fn hold(&self, pause: Duration) {
        let ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        self.hold_ms.store(ms, Ordering::Relaxed);
    }

    /// The network may have changed: the connection must show that it lives; a pause ends at once.
    pub(crate) fn prove(&self) {
        self.prove.notify_one();
    }
}

/// Run until the driver is gone.
pub(crate) async fn run(
    dialer: Dialer,
    handle: Arc<ControlHandle>,
    events: mpsc::Sender<ControlEvent>,
    mut rng: Rng,
) {
    let mut pauses = 0;
    loop {
        let begun = Instant::now();
        let heard = match dialer.reach().await {
            Ok(reached) => {
                dialer.paths.set_relay(Some(reached.addr));
                let heard = converse(&reached.connection, reached.stun, &handle, &events).await;
                dialer.paths.set_relay(None);
                heard
            }
            Err(failure) => {
                tracing::debug!(?failure, "the server was not reached");
                events.send(ControlEvent::Failed(failure)).await.is_ok()
            }
        };
        if !heard {
            return;
        }
        if begun.elapsed() > GOOD_LIFE {
            pauses = 0;
        }
        let pause =
            pause(pauses, &mut rng).max(Duration::from_millis(handle.hold_ms.swap(0, Ordering::Relaxed)));
        pauses += 1;
        tokio::select! {
            () = sleep(pause) => {}
            () = handle.prove.notified() => {}
            () = events.closed() => return,
        }
    }
}

/// Carry messages until the connection ends; false if the driver is gone.
async fn converse(
    connection: &quinn::Connection,
    stun: Vec<(SocketId, std::net::SocketAddr)>,
    handle: &ControlHandle,
    events: &mpsc::Sender<ControlEvent>,
) -> bool {
    let (outgoing, to_send) = mpsc::channel(MESSAGES_MAX);
    let Ok((send, recv)) = connection.open_bi().await else {
        return events
            .send(ControlEvent::Failed(DialFailure::BrokenOff))
            .await
            .is_ok();
    };
    if events.send(ControlEvent::Up { stun, outgoing }).await.is_err() {
        return false;
    }
    let end = tokio::select! {
        end = read_all(recv, events) => end,
        end = write_all(send, to_send, connection) => end,
        end = watch_life(connection, handle) => end,
    };
    tracing::debug!(end, reason = ?connection.close_reason(), "the control connection ended");
    connection.close(VarInt::from_u32(0), b"");
    events.send(ControlEvent::Down).await.is_ok()
}

async fn read_all(mut recv: RecvStream, events: &mpsc::Sender<ControlEvent>) -> &'static str {
    loop {
        let mut prefix = [0; LENGTH_PREFIX];
        if recv.read_exact(&mut prefix).await.is_err() {
            return "closed by the server or lost";
        }
        let Ok(len) = codec::announced_len(prefix) else {
            return "bad length from the server";
        };
        let mut bytes = vec![0; len];
        if recv.read_exact(&mut bytes).await.is_err() {
            return "closed by the server or lost";
        }
        match codec::decode(&bytes) {
            Ok(message) => {
                tracing::trace!(?message, "from the server");
                if events.send(ControlEvent::Message(message)).await.is_err() {
                    return "driver gone";
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the server said something that this version does not understand");
                return "bad message from the server";
            }
        }
    }
}

async fn write_all(
    mut send: SendStream,
    mut to_send: mpsc::Receiver<ToServer>,
    connection: &quinn::Connection,
) -> &'static str {
    while let Some(mut message) = to_send.recv().await {
        if let ToServer::Time { rtt_us, .. } = &mut message {
            *rtt_us = u32::try_from(connection.rtt().as_micros()).unwrap_or(u32::MAX);
        }
        tracing::trace!(?message, "to the server");
        let Ok(bytes) = codec::encode_framed(&message) else {
            return "message cannot be encoded";
        };
        if send.write_all(&bytes).await.is_err() {
            return "closed by the server or lost";
        }
    }
    // The driver let go: what it said last shall arrive, but it is not waited for long. Both fail only on a lost connection.
    let _ = send.finish();
    let _ = tokio::time::timeout(FAREWELL, send.stopped()).await;
    "driver done"
}

/// Ends when the connection did not prove that it lives after it was asked to.
async fn watch_life(connection: &quinn::Connection, handle: &ControlHandle) -> &'static str {
    loop {
        handle.prove.notified().await;
        let before = connection.stats().udp_rx.datagrams;
        sleep(PROOF_OF_LIFE).await;
        if connection.stats().udp_rx.datagrams == before {
            return "silent after a change of network";
        }
    }
}

/// 0 to 1 s at first, then twice as long each time around 2, 4, .. 30 s, spread by a half.
fn pause(number: u32, rng: &mut Rng) -> Duration {
    let longest = FIRST_PAUSE_MAX
        .saturating_mul(2_u32.saturating_pow(number))
        .min(PAUSE_MAX);
    let longest_ms = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
    let fixed = if number == 0 { 0 } else { longest_ms / 2 };
    Duration::from_millis(fixed + rng.below(longest_ms - fixed + 1))
}

#[cfg(test)]
mod tests {
    use knothole_proto::seed::Seed;

    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute_and_never_agree() {
        let mut rng = Seed::from_number(1).rng();
        for (number, shortest, longest) in [
            (0, 0, 1_000),
            (1, 1_000, 2_000),
            (3, 4_000, 8_000),
            (99, 15_000, 30_000),
        ] {
            let seen: Vec<u128> = (0..100).map(|_| pause(number, &mut rng).as_millis()).collect();
            assert!(
                seen.iter().all(|ms| (shortest..=longest).contains(ms)),
                "pause {number}: {seen:?}"
            );
            let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
            assert!(distinct.len() > 50, "pause {number} is spread");
        }
    }
}
