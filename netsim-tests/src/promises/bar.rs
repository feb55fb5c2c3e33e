//! What is promised of a row, in numbers.

use std::fmt::Write;

/// The bar that a row is held against. What is `None` is not promised.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bar {
    /// At least this share of the attempts becomes direct, in percent; 0 where the relay is all that can be.
    pub direct: f64,
    /// Half of the direct ones take so many milliseconds at most, from the request to a proven path at both ends.
    pub p50_ms: Option<u64>,
    /// 95 of 100 of them take so many at most.
    pub p95_ms: Option<u64>,
    /// No side sends more probes.
    pub probes: Option<u32>,
    /// No side sends more packets: probes and questions to the server.
    pub packets_side: Option<u32>,
    /// Both sides together send no more packets in 99 of 100 attempts.
    pub packets: Option<u32>,
    /// In 99 of 100 attempts no more entries in the NATs of either side.
    pub entries: Option<u64>,
    /// No NAT holds more entries at a time, those of the survey and of the server among them, where they are counted.
    pub held: Option<u64>,
    /// No more than this share of a subscriber's ports, where these are few: one part in so many.
    pub block_part: Option<u16>,
    /// The relay has carried the first datagram to the callee after so many milliseconds.
    pub data_ms: Option<u64>,
    /// Nobody becomes direct, nobody guesses, and the reason is said.
    pub relay_only: bool,
}

impl Bar {
    /// The bar in as few characters as can be read: `100 % p50 400 p95 600 probes 30`.
    #[must_use]
    pub fn words(&self) -> String {
        let mut out = if self.relay_only {
            "relay, no guess".to_owned()
        } else {
            format!("{} %", self.direct)
        };
        let mut add = |name: &str, value: Option<u64>| {
            if let Some(value) = value {
                // Writing to a string cannot fail.
                let _ = write!(out, " {name} {value}");
            }
        };
        add("p50", self.p50_ms);
        add("p95", self.p95_ms);
        add("probes", self.probes.map(u64::from));
        add("packets/side", self.packets_side.map(u64::from));
        add("packets", self.packets.map(u64::from));
        add("entries", self.entries);
        add("held", self.held);
        add("block/", self.block_part.map(u64::from));
        add("data", self.data_ms);
        out
    }
}
