//! The ports that a NAT gives by choice, and drawing one of a range. Knows no NAT.

use rand_chacha::ChaCha8Rng;
use rand_core::RngCore;

/// Lowest port that is handed out by choice: the registered well-known ports below are only ever preserved.
pub(super) const FIRST_PORT: u16 = 1024;

/// How many ports there are to choose from: 1024 up to 65535.
pub(super) const PORTS: u32 = 65_536 - FIRST_PORT as u32;

/// Random tries before the free places are walked in order. At nine tenths full, 64 tries miss in one case of a
/// thousand; more tries cost time in a full table, fewer make ports less random in a nearly full one.
const RANDOM_TRIES: usize = 64;

/// One of `0..count` for which `free` holds, or `None` if there is none.
pub(super) fn draw(rng: &mut ChaCha8Rng, count: u32, free: impl Fn(u32) -> bool) -> Option<u32> {
    if count == 0 {
        return None;
    }
    for _ in 0..RANDOM_TRIES {
        let place = rng.next_u32() % count;
        if free(place) {
            return Some(place);
        }
    }
    let start = rng.next_u32() % count;
    (start..count).chain(0..start).find(|place| free(*place))
}

/// One of `count` ports from `first` on for which `free` holds, or `None` if there is none.
pub(super) fn draw_port(
    rng: &mut ChaCha8Rng,
    first: u16,
    count: u32,
    free: impl Fn(u16) -> bool,
) -> Option<u16> {
    let port = |place: u32| u16::try_from(u32::from(first) + place).unwrap_or(u16::MAX);
    draw(rng, count, |place| free(port(place))).map(port)
}

/// Any port, free or not.
pub(super) fn random_port(rng: &mut ChaCha8Rng) -> u16 {
    FIRST_PORT + u16::try_from(rng.next_u32() % PORTS).unwrap_or(0)
}
