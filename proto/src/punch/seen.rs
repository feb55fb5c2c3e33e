//! Which nonces of the peer were taken already: a recorded probe that comes again is nothing.

use std::collections::VecDeque;

use super::config::SEEN_MAX;

/// The last nonces, at most [`SEEN_MAX`].
#[derive(Debug, Default)]
pub(super) struct Seen {
    nonces: VecDeque<u64>,
}

impl Seen {
    /// Is this nonce new? It is not from now on.
    pub(super) fn insert(&mut self, nonce: u64) -> bool {
        // Newest first: an immediate duplicate is found at once, and 256 numbers are 2 KB, which a scan passes quickly.
        if self.nonces.contains(&nonce) {
            return false;
        }
        if self.nonces.len() == SEEN_MAX {
            self.nonces.pop_back();
        }
        self.nonces.push_front(nonce);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_new_once() {
        let mut seen = Seen::default();
        assert!(seen.insert(1));
        assert!(!seen.insert(1));
        for nonce in 2..=SEEN_MAX as u64 {
            assert!(seen.insert(nonce));
        }
        assert!(!seen.insert(1), "the window holds as many as it says");
        assert_eq!(seen.nonces.len(), SEEN_MAX);
    }
}
