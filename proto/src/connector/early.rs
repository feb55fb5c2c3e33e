//! Probes of sessions that this node was not told of yet: the peer's message came quicker over the network than the
//! server's over its connection, which repeats what was lost. They are kept for a while and looked at again when the
//! introduction comes. Nothing is believed or answered before.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::id::SessionTag;
use crate::path::SocketId;
use crate::wire::probe::LEN;

/// Probes that are kept, about 150 bytes each. Anybody can fill them; then the peer's are lost, as they would be
/// without them.
const KEPT_MAX: usize = 32;

/// How long: the mapping in the peer's NAT from which a probe came lives no shorter than this.
const LIFETIME: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Early {
    kept: VecDeque<EarlyProbe>,
}

#[derive(Clone, Debug)]
pub(super) struct EarlyProbe {
    tag: SessionTag,
    at: Instant,
    pub(super) socket: SocketId,
    pub(super) from: SocketAddr,
    pub(super) bytes: [u8; LEN],
}

impl Early {
    /// Keep a probe. Of one session from one address the last is enough.
    pub(super) fn keep(
        &mut self,
        tag: SessionTag,
        socket: SocketId,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) {
        let Ok(bytes) = bytes.try_into() else {
            return;
        };
        self.kept.retain(|kept| {
            (kept.tag, kept.socket, kept.from) != (tag, socket, from) && kept.at + LIFETIME > now
        });
        if self.kept.len() == KEPT_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(EarlyProbe {
            tag,
            at: now,
            socket,
            from,
            bytes,
        });
    }

    /// One probe of this session, if one was kept.
    pub(super) fn take(&mut self, tag: SessionTag, now: Instant) -> Option<EarlyProbe> {
        self.kept.retain(|kept| kept.at + LIFETIME > now);
        let index = self.kept.iter().position(|kept| kept.tag == tag)?;
        self.kept.remove(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    #[test]
    fn the_last_probe_of_each_address_is_kept_for_a_while() {
        let now = epoch();
        let tag = SessionTag([1; 8]);
        let from = |n: u8| SocketAddr::from(([5, 5, 5, n], 5));
        let mut early = Early::default();
        early.keep(tag, SocketId::V4, from(1), &[1; LEN], now);
        early.keep(tag, SocketId::V4, from(1), &[2; LEN], now);
        early.keep(tag, SocketId::V4, from(2), &[3; LEN - 1], now);
        assert!(early.take(SessionTag([2; 8]), now).is_none());
        assert_eq!(early.take(tag, now).map(|kept| kept.bytes), Some([2; LEN]));
        assert!(early.take(tag, now).is_none());
        for n in 0..100 {
            early.keep(tag, SocketId::V4, from(n), &[n; LEN], now);
        }
        assert_eq!(early.kept.len(), KEPT_MAX);
        assert!(early.take(tag, now + LIFETIME).is_none());
        assert!(early.kept.is_empty());
    }
}
