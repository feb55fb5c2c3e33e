//! How a packet comes out of a link: when, how often, and with which bit flipped. Data only.

use std::time::Instant;

/// When a packet comes out of a link: never, once or twice. Iterates over the arrivals in the order of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DueTimes {
    first: Option<Arrival>,
    second: Option<Arrival>,
}

/// One copy of a packet at the far end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// When.
    pub at: Instant,
    /// The bit to flip in what it carries, if the link corrupted it.
    pub flip: Option<Flip>,
}

/// One bit of a payload of any length, drawn by the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flip(u32);

impl DueTimes {
    pub(super) fn new(one: Arrival, other: Option<Arrival>) -> Self {
        let (first, second) = match other {
            Some(other) if other.at < one.at => (other, Some(one)),
            other => (one, other),
        };
        Self {
            first: Some(first),
            second,
        }
    }

    /// How many copies come out.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.first.is_some()) + usize::from(self.second.is_some())
    }

    /// Is the packet gone?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }
}

impl IntoIterator for DueTimes {
    type Item = Arrival;
    type IntoIter = std::iter::Flatten<std::array::IntoIter<Option<Arrival>, 2>>;

    fn into_iter(self) -> Self::IntoIter {
        [self.first, self.second].into_iter().flatten()
    }
}

impl Flip {
    pub(super) fn drawn(random: u32) -> Self {
        Self(random)
    }

    /// Which byte of a payload of `len` bytes it is in, and the mask of its bit; `None` for an empty payload.
    #[must_use]
    pub fn place(self, len: usize) -> Option<(usize, u8)> {
        let byte = usize::try_from(self.0 >> 3).unwrap_or(0).checked_rem(len)?;
        Some((byte, 1 << (self.0 & 7)))
    }

    /// Flips the bit. The same flip twice changes nothing; nor does one of an empty payload.
    pub fn apply(self, payload: &mut [u8]) {
        if let Some((byte, mask)) = self.place(payload.len()) {
            payload[byte] ^= mask;
        }
    }
}
