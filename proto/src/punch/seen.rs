//! Which nonces of the peer were taken already: a recorded probe that comes again is nothing.
//!
//! A copy can also come *before* its original, if somebody on the way is quick and sends it from an address of its own.
//! So that this does not silence the peer, a nonce is taken from a second address as well, but only at once.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::config::{RACE, SEEN_MAX};
use crate::path::SocketId;

/// The last nonces, at most [`SEEN_MAX`].
#[derive(Debug, Default)]
pub(super) struct Seen {
    nonces: VecDeque<Taken>,
}

#[derive(Debug)]
struct Taken {
    nonce: u64,
    socket: SocketId,
    from: SocketAddr,
    at: Instant,
    twice: bool,
}

impl Seen {
    /// May a probe with this nonce be taken from there? It may not from now on.
    pub(super) fn take(&mut self, nonce: u64, socket: SocketId, from: SocketAddr, now: Instant) -> bool {
        // Newest first: a copy is mostly near its original, and a scan of all is short against the MAC before it.
        if let Some(taken) = self.nonces.iter_mut().find(|taken| taken.nonce == nonce) {
            let elsewhere = (taken.socket, taken.from) != (socket, from);
            let in_time = now.saturating_duration_since(taken.at) <= RACE;
            return elsewhere && in_time && !std::mem::replace(&mut taken.twice, true);
        }
        if self.nonces.len() == SEEN_MAX {
            self.nonces.pop_back();
        }
        self.nonces.push_front(Taken {
            nonce,
            socket,
            from,
            at: now,
            twice: false,
        });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    #[test]
    fn a_nonce_is_taken_once() {
        let now = epoch();
        let from = "5.5.5.5:5".parse().unwrap();
        let mut seen = Seen::default();
        assert!(seen.take(1, SocketId::V4, from, now));
        for nonce in 2..=SEEN_MAX as u64 {
            assert!(seen.take(nonce, SocketId::V4, from, now));
        }
        assert!(
            !seen.take(1, SocketId::V4, from, now),
            "the window holds as many as it says"
        );
        assert_eq!(seen.nonces.len(), SEEN_MAX);
    }

    #[test]
    fn a_copy_that_wins_the_race_does_not_silence_the_original() {
        let now = epoch();
        let [copier, peer, third] = [1, 2, 3].map(|n| SocketAddr::from(([5, 5, 5, n], 5)));
        let mut seen = Seen::default();
        assert!(seen.take(1, SocketId::V4, copier, now));
        assert!(seen.take(1, SocketId::V4, peer, now + RACE));
        assert!(!seen.take(1, SocketId::V4, third, now + RACE));
        assert!(seen.take(2, SocketId::V4, peer, now));
        assert!(!seen.take(2, SocketId::V4, copier, now + RACE * 2), "a recording");
    }
}
