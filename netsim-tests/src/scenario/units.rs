//! Quantities as text with a unit: `20ms`, `1%`, `50Mbit/s`, `256KiB`. A space before the unit is allowed, a missing or
//! wrong unit is an error that lists the right ones.

use std::time::Duration;

use super::error::Trouble;
use super::reader::Value;

/// Longest time that a scenario may name: a day. Beyond it a typing error is likelier than a wish.
const TIME_MAX_S: f64 = 86_400.0;

/// Largest rate in bits a second: beyond 1 Tbit/s no limit is meant.
const RATE_MAX: f64 = 1e12;

/// Largest size in bytes: 1 GiB, more than any queue or output that a lab should hold.
const SIZE_MAX: f64 = 1_073_741_824.0;

/// Units with their factors, and what a right value looks like.
struct Quantity {
    units: &'static [(&'static str, f64)],
    expected: &'static str,
    max: f64,
}

/// Factors to seconds.
const TIME: Quantity = Quantity {
    units: &[
        ("us", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("min", 60.0),
        ("h", 3600.0),
    ],
    expected: "a time with a unit (us, ms, s, min, h) of at most a day, such as \"20ms\"",
    max: TIME_MAX_S,
};

/// Factors to a share of one.
const SHARE: Quantity = Quantity {
    units: &[("%", 0.01)],
    expected: "a share from 0% to 100%, such as \"1.5%\"",
    max: 1.0,
};

/// Factors to bits a second.
const RATE: Quantity = Quantity {
    units: &[("bit/s", 1.0), ("kbit/s", 1e3), ("Mbit/s", 1e6), ("Gbit/s", 1e9)],
    expected: "a rate with a unit (bit/s, kbit/s, Mbit/s, Gbit/s), such as \"50Mbit/s\"",
    max: RATE_MAX,
};

/// Factors to bytes.
const SIZE: Quantity = Quantity {
    units: &[
        ("B", 1.0),
        ("kB", 1e3),
        ("KiB", 1024.0),
        ("MB", 1e6),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
    ],
    expected: "a size with a unit (B, kB, KiB, MB, MiB, GiB) of at most 1GiB, such as \"256KiB\"",
    max: SIZE_MAX,
};

/// A length of time.
pub(super) fn time(value: &Value<'_>, name: &str) -> Result<Duration, Trouble> {
    Ok(Duration::from_secs_f64(TIME.read(value, name)?))
}

/// A share, 0.0 to 1.0.
pub(super) fn share(value: &Value<'_>, name: &str) -> Result<f64, Trouble> {
    SHARE.read(value, name)
}

/// Bits a second.
pub(super) fn rate(value: &Value<'_>, name: &str) -> Result<u64, Trouble> {
    RATE.read(value, name).map(whole)
}

/// Bytes.
pub(super) fn size(value: &Value<'_>, name: &str) -> Result<usize, Trouble> {
    let bytes = whole(SIZE.read(value, name)?);
    Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
}

impl Quantity {
    fn read(&self, value: &Value<'_>, name: &str) -> Result<f64, Trouble> {
        let text = value.text(name, self.expected)?;
        self.parse(text)
            .ok_or_else(|| value.wrong(format!("`{name}` is {text:?}"), self.expected))
    }

    fn parse(&self, text: &str) -> Option<f64> {
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = text.split_at(digits);
        let unit = unit.trim_start_matches(' ');
        let (_, factor) = self.units.iter().find(|(known, _)| *known == unit)?;
        let value = number.parse::<f64>().ok()? * factor;
        (0.0..=self.max).contains(&value).then_some(value)
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // between 0 and 10^12, checked above
fn whole(value: f64) -> u64 {
    value.round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_with_and_without_a_space() {
        for (quantity, text, value) in [
            (&TIME, "20ms", 0.02),
            (&TIME, "20 ms", 0.02),
            (&TIME, "1.5s", 1.5),
            (&TIME, "2min", 120.0),
            (&SHARE, "1%", 0.01),
            (&SHARE, "100 %", 1.0),
            (&RATE, "50Mbit/s", 5e7),
            (&RATE, "64 kbit/s", 6.4e4),
            (&SIZE, "256KiB", 262_144.0),
            (&SIZE, "1500B", 1500.0),
        ] {
            let read = quantity.parse(text).unwrap();
            assert!((read - value).abs() < 1e-9 * value, "{text}: {read}");
        }
    }

    #[test]
    fn a_wrong_unit_and_a_value_out_of_range_are_refused() {
        for (quantity, texts) in [
            (
                &TIME,
                ["20", "ms", "20 sec", "20MS", "2d", "-1s", "25h", ""].as_slice(),
            ),
            (&SHARE, ["1", "101%", "0.01", "1 percent", "-1%"].as_slice()),
            (&RATE, ["50", "50Mbps", "50MB/s", "5000Gbit/s"].as_slice()),
            (&SIZE, ["256", "256K", "2GiB", "1e3B"].as_slice()),
        ] {
            for text in texts {
                assert_eq!(quantity.parse(text), None, "{text}");
            }
        }
    }
}
