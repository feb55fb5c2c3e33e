//! How much data a connection carries: one side fills streams, the other counts and throws away.
//!
//! Every stream in two directions is a measurement of its own; several at once are so many streams of this service. What
//! counts is what arrived, so the receiver's numbers are the result, and in either direction they come from the receiver.

use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn::{ReadError, VarInt};
use serde::{Deserialize, Serialize};

use super::flow::{Inflow, Outflow, Runs};
use super::framed::{self, FrameError};

/// Name of the service.
pub const SERVICE: &str = "speed";

/// Longest measurement in seconds: an answering machine is busy for no longer, whatever it is asked for.
pub const SECONDS_MAX: u32 = 600;

/// The time is over: the stream ends with this application error code, whatever is still on its way. To wait for that would
/// take long where the path is slow, and measure the buffers of this machine.
const TIME_OVER: VarInt = VarInt::from_u32(18);

/// Bytes handed to a stream at once. Larger ones save calls, and take longer to notice that the time is over.
const BLOCK_LEN: usize = 256 * 1024;

/// How often the receiver says how far it is.
const REPORT_EVERY: Duration = Duration::from_millis(250);

/// How long the other side may be silent when the time is over: longer than any queue lasts.
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// Zeros, of which every block is a view; encryption makes noise of them.
static BLOCK: [u8; BLOCK_LEN] = [0; BLOCK_LEN];

/// Where the bytes go, seen from the side that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// To the other side.
    Send,
    /// From the other side.
    Receive,
}

/// First message of the asking side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ask {
    direction: Direction,
    /// At most [`SECONDS_MAX`].
    seconds: u32,
}

/// What arrived so far, since the first byte of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// So many bytes.
    pub bytes: u64,
    /// From the first to the last, in microseconds.
    pub micros: u64,
}

/// Measure one stream of this service for so long. `tell` hears the receiver's numbers while it runs.
///
/// # Errors
/// [`FrameError`] if the stream broke off.
pub async fn measure(
    mut send: impl Outflow,
    mut recv: impl Inflow,
    direction: Direction,
    time: Duration,
    mut tell: impl FnMut(Report) + Send,
) -> Result<Report, FrameError> {
    let seconds = u32::try_from(time.as_secs())
        .unwrap_or(SECONDS_MAX)
        .clamp(1, SECONDS_MAX);
    framed::write(&mut send, &Ask { direction, seconds }).await?;
    let time = Duration::from_secs(seconds.into());
    match direction {
        Direction::Send => {
            let filling = fill(&mut send, time);
            let hearing = async {
                let mut last = Report::default();
                while let Some(report) = framed::read(&mut recv).await? {
                    last = report;
                    tell(report);
                }
                Ok::<_, FrameError>(last)
            };
            let drained = tokio::time::timeout(time + END_TIMEOUT, async {
                tokio::try_join!(filling, hearing).map(|((), last)| last)
            });
            drained.await.unwrap_or(Err(FrameError::Ended))
        }
        Direction::Receive => {
            let counted = tokio::time::timeout(time + END_TIMEOUT, async {
                let (mut count, mut runs) = (Count::default(), Runs::default());
                while let Some(bytes) = more(&mut recv, &mut runs).await? {
                    if let Some(report) = count.add(bytes) {
                        tell(report);
                    }
                }
                Ok(count.report())
            });
            counted.await.unwrap_or(Err(FrameError::Ended))
        }
    }
}

/// Answer on one stream of this service.
///
/// # Errors
/// [`FrameError`] if it broke off.
pub async fn answer(mut send: impl Outflow, mut recv: impl Inflow) -> Result<(), FrameError> {
    let Ask { direction, seconds } = framed::expect(&mut recv).await?;
    let time = Duration::from_secs(seconds.min(SECONDS_MAX).into());
    match direction {
        Direction::Receive => fill(&mut send, time).await?,
        Direction::Send => {
            let counted = tokio::time::timeout(time + END_TIMEOUT, async {
                let (mut count, mut runs) = (Count::default(), Runs::default());
                while let Some(bytes) = more(&mut recv, &mut runs).await? {
                    if let Some(report) = count.add(bytes) {
                        framed::write(&mut send, &report).await?;
                    }
                }
                framed::write(&mut send, &count.report()).await
            });
            counted.await.unwrap_or(Err(FrameError::Ended))?;
            send.finish();
            send.settled().await;
        }
    }
    Ok(())
}

/// Bytes that arrived, `None` when the time is over.
async fn more(recv: &mut impl Inflow, runs: &mut Runs) -> Result<Option<usize>, FrameError> {
    match recv.discard(runs).await {
        Err(FrameError::Read(ReadError::Reset(TIME_OVER))) => Ok(None),
        read => read,
    }
}

/// Write for so long, and end the stream.
async fn fill(send: &mut impl Outflow, time: Duration) -> Result<(), FrameError> {
    let writing = async {
        loop {
            send.write(Bytes::from_static(&BLOCK)).await?;
        }
    };
    if let Ok(broken) = tokio::time::timeout(time, writing).await {
        return broken;
    }
    send.abandon(TIME_OVER);
    Ok(())
}

/// What arrived.
#[derive(Default)]
struct Count {
    bytes: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    told: Option<Instant>,
}

impl Count {
    /// So many bytes more; a report if one is due.
    fn add(&mut self, bytes: usize) -> Option<Report> {
        let now = Instant::now();
        self.bytes += bytes as u64;
        self.last = Some(now);
        let first = *self.first.get_or_insert(now);
        let due = now.duration_since(self.told.unwrap_or(first)) >= REPORT_EVERY;
        due.then(|| {
            self.told = Some(now);
            self.report()
        })
    }

    fn report(&self) -> Report {
        let took = match (self.first, self.last) {
            (Some(first), Some(last)) => last.duration_since(first),
            _ => Duration::ZERO,
        };
        Report {
            bytes: self.bytes,
            micros: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::app::memory;

    async fn measured(direction: Direction) -> (Report, u64, usize) {
        let (wire, [(_near, (send, recv)), (_far, (far_send, far_recv))]) = memory::connection(i64::MAX);
        let answering = tokio::spawn(answer(far_send, far_recv));
        let mut told = 0;
        let time = Duration::from_millis(1);
        let report = measure(send, recv, direction, time, |_| told += 1).await.unwrap();
        answering.await.unwrap().unwrap();
        (report, wire.discarded.load(Ordering::SeqCst), told)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn in_both_directions_what_arrived_is_what_counts() {
        for direction in [Direction::Send, Direction::Receive] {
            let (report, arrived, told) = measured(direction).await;
            assert_eq!(report.bytes, arrived, "{direction:?}");
            assert!(report.bytes >= BLOCK_LEN as u64, "{report:?}");
            // A second is the least that is measured.
            assert!((900_000..20_000_000).contains(&report.micros), "{report:?}");
            assert!(told >= 2, "{told} reports");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_connection_that_breaks_is_an_error_at_both_ends() {
        for direction in [Direction::Send, Direction::Receive] {
            let (_, [(_near, (send, recv)), (_far, (far_send, far_recv))]) = memory::connection(10 << 20);
            let answering = tokio::spawn(answer(far_send, far_recv));
            let time = Duration::from_secs(5);
            assert!(measure(send, recv, direction, time, |_| {}).await.is_err());
            assert!(answering.await.unwrap().is_err());
        }
    }

    #[test]
    fn the_first_message_on_the_wire() {
        let ask = Ask {
            direction: Direction::Receive,
            seconds: 10,
        };
        let bytes = knothole_proto::wire::codec::encode_framed(&ask).unwrap();
        assert_eq!(bytes, [0, 0, 0, 4, 1, 1, 1, 10]);
    }
}
