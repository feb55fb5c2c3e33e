//! Links as a file describes them: `link = { delay = "20ms", up = { rate = "5Mbit/s" } }`.

use super::error::Trouble;
use super::model::LinkPair;
use super::reader::{Table, Value};
use super::units;
use crate::link::{LinkSpec, Loss, Reorder};

/// Smallest and largest MTU: what IPv4 guarantees (RFC 791 section 3.1), and the devices of the lab have.
const MTU: std::ops::RangeInclusive<u64> = 68..=1500;

/// Longest mean run of lost packets.
const BURST_MAX: u64 = 10_000;

/// Reads both directions. What stands in the table holds both ways; `up` and `down` say more about one.
pub(super) fn read(value: &Value<'_>) -> Result<LinkPair, Trouble> {
    let table = value.table("link", "a table such as { delay = \"20ms\", loss = \"1%\" }")?;
    pair(table)
}

/// The same, where the table is at hand already; keys that were asked for before are left alone.
pub(super) fn pair(table: Table<'_>) -> Result<LinkPair, Trouble> {
    let both = one_way(&table, LinkSpec::default())?;
    let mut pair = LinkPair { up: both, down: both };
    for (key, spec) in [("up", &mut pair.up), ("down", &mut pair.down)] {
        if let Some(value) = table.get(key) {
            let direction = value.table(key, "a table as `link` is one")?;
            *spec = one_way(&direction, both)?;
            direction.finish()?;
        }
    }
    table.finish()?;
    Ok(pair)
}

fn one_way(table: &Table<'_>, mut spec: LinkSpec) -> Result<LinkSpec, Trouble> {
    if let Some(value) = table.get("delay") {
        spec.delay = units::time(&value, "delay")?;
    }
    if let Some(value) = table.get("jitter") {
        spec.jitter = units::time(&value, "jitter")?;
    }
    loss(table, &mut spec)?;
    if let Some(value) = table.get("reorder") {
        spec.reorder = Some(reorder(&value)?);
    }
    if let Some(value) = table.get("duplicate") {
        spec.duplicate = units::share(&value, "duplicate")?;
    }
    if let Some(value) = table.get("corrupt") {
        spec.corrupt = units::share(&value, "corrupt")?;
    }
    if let Some(value) = table.get("rate") {
        spec.rate = Some(units::rate(&value, "rate")?);
    }
    if let Some(value) = table.get("queue") {
        spec.queue = units::size(&value, "queue")?;
    }
    if let Some(value) = table.get("mtu") {
        spec.mtu = value.whole("mtu", MTU)?;
    }
    Ok(spec)
}

fn loss(table: &Table<'_>, spec: &mut LinkSpec) -> Result<(), Trouble> {
    let loss = table.get("loss");
    let burst = table.get("burst");
    let Some(loss) = loss else {
        return match burst {
            Some(burst) => Err(burst.wrong("`burst` without `loss`", "`loss` = a share beside it")),
            None => Ok(()),
        };
    };
    let rate = units::share(&loss, "loss")?;
    spec.loss = match burst {
        None if rate == 0.0 => Loss::None,
        None => Loss::Uniform(rate),
        Some(burst) if rate < 1.0 => Loss::Burst {
            rate,
            length: f64::from(burst.whole::<u32>("burst", 1..=BURST_MAX)?),
        },
        Some(_) => {
            return Err(loss.wrong(
                "`loss` of everything has no bursts",
                "less than 100%, or no `burst`",
            ));
        }
    };
    Ok(())
}

fn reorder(value: &Value<'_>) -> Result<Reorder, Trouble> {
    let table = value.table("reorder", "a table such as { share = \"1%\", by = \"10ms\" }")?;
    let reorder = Reorder {
        probability: units::share(&table.need("share", "a share, such as \"1%\"")?, "share")?,
        by: units::time(&table.need("by", "a time, such as \"10ms\"")?, "by")?,
    };
    table.finish()?;
    Ok(reorder)
}
