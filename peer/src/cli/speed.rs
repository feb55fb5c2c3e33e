//! `knothole speed`: how much data a second goes to a paired machine, or comes from it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::args::SpeedArgs;
use super::context::{Context, Wanted};
use super::failure::{Failure, code};
use super::output::{bit_rate, is_final, ms, path_fields, path_words, rate, size};
use crate::app::framed::FrameError;
use crate::app::speed::{self, Direction, Report};
use crate::book::AddressBook;
use crate::node::Node;
use crate::session::Connection;

/// How long a direct path is waited for before the measurement begins: pairs of networks that need luck mostly have it by
/// then, and those without a direct path are measured on the relay.
const DIRECT_PATIENCE: Duration = Duration::from_secs(4);

/// Time between two lines.
const TICK: Duration = Duration::from_secs(1);

/// Measure, show every second, and sum up.
pub(super) async fn run(context: &Context, args: SpeedArgs) -> Result<(), Failure> {
    let book = context.book()?;
    let server = context.server(&book).await?;
    let node = context.start(&book, &server, Wanted::Dialling).await?;
    let measured = measure(context, &args, &book, &node).await;
    node.shutdown().await;
    measured
}

async fn measure(
    context: &Context,
    args: &SpeedArgs,
    book: &AddressBook,
    node: &Node,
) -> Result<(), Failure> {
    let contact = context.peer(book, node, &args.peer).await?;
    let (connection, teller) = context.connect(node, &contact).await?;
    settle(&connection).await;
    // Each line says the path.
    drop(teller);
    let running = Running::start(&connection, args);
    let measured = tokio::select! {
        measured = running.finish(context, args, &connection, contact.petname.as_str()) => measured,
        () = context.stop.wait() => Err(Failure::interrupted()),
    };
    connection.close();
    measured
}

/// Wait for a direct path, if one may come.
async fn settle(connection: &Connection) {
    let mut path = connection.path();
    let settled = path.wait_for(|state| state.path.is_direct() || is_final(&state.path));
    // Without one the relay is what there is to measure.
    let _ = tokio::time::timeout(DIRECT_PATIENCE, settled).await;
}

/// Streams that are being measured.
struct Running {
    streams: JoinSet<Result<Report, Failure>>,
    /// What the receiver said last of each.
    reports: Arc<Mutex<Vec<Report>>>,
    direction: Direction,
}

impl Running {
    fn start(connection: &Connection, args: &SpeedArgs) -> Self {
        let reports = Arc::new(Mutex::new(vec![Report::default(); args.streams.into()]));
        let direction = if args.reverse {
            Direction::Receive
        } else {
            Direction::Send
        };
        let time = Duration::from_secs(args.seconds.into());
        let mut streams = JoinSet::new();
        for number in 0..usize::from(args.streams) {
            let (connection, reports) = (connection.clone(), Arc::clone(&reports));
            streams.spawn(async move {
                let (send, recv) = connection.open(speed::SERVICE).await?;
                let tell = |report| {
                    if let Some(place) = lock(&reports).get_mut(number) {
                        *place = report;
                    }
                };
                let measured = speed::measure(send, recv, direction, time, tell).await;
                measured.map_err(failure)
            });
        }
        Self {
            streams,
            reports,
            direction,
        }
    }

    async fn finish(
        mut self,
        context: &Context,
        args: &SpeedArgs,
        connection: &Connection,
        peer: &str,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let mut before = 0;
        let mut tick = tokio::time::interval_at(began + TICK, TICK);
        let mut total = Report::default();
        loop {
            tokio::select! {
                ended = self.streams.join_next() => match ended {
                    Some(ended) => {
                        let report = ended.map_err(|error| Failure::new(code::OTHER, error.to_string(), ""))??;
                        total.bytes += report.bytes;
                        total.micros = total.micros.max(report.micros);
                    }
                    None => break,
                },
                _ = tick.tick() => {
                    let bytes = lock(&self.reports).iter().map(|report| report.bytes).sum::<u64>();
                    self.tell(context, connection, began.elapsed(), (before, bytes));
                    before = bytes;
                }
            }
        }
        sum_up(context, args, connection, peer, (self.direction, total));
        Ok(())
    }

    fn tell(&self, context: &Context, connection: &Connection, after: Duration, (before, bytes): (u64, u64)) {
        let path = connection.path().borrow().path;
        let rate = rate(bytes.saturating_sub(before), TICK);
        context.output.fact(format_args!(
            "{:5.1} s  {:>13}  {}",
            after.as_secs_f64(),
            bit_rate(rate),
            path_words(&path)
        ));
        context.output.event(
            "speed",
            json!({
                "seconds": after.as_secs_f64(), "bytes": bytes, "bits_per_second": rate.saturating_mul(8),
                "path": path_fields(&path),
            }),
        );
    }
}

fn sum_up(
    context: &Context,
    args: &SpeedArgs,
    connection: &Connection,
    peer: &str,
    (direction, total): (Direction, Report),
) {
    let took = Duration::from_micros(total.micros);
    let path = connection.path().borrow().path;
    let (stats, rtt) = (connection.stats(), connection.rtt());
    let rate = rate(total.bytes, took);
    let (word, to_or_from) = match direction {
        Direction::Send => ("send", "to"),
        Direction::Receive => ("receive", "from"),
    };
    context.output.fact(format_args!(
        "{to_or_from} {peer}: {} in {:.1} s, {}, {}, round trip {:.1} ms",
        size(total.bytes),
        took.as_secs_f64(),
        bit_rate(rate),
        path_words(&path),
        ms(rtt)
    ));
    let mut fields = json!({
        "direction": word, "streams": args.streams, "bytes": total.bytes, "seconds": took.as_secs_f64(),
        "bits_per_second": rate.saturating_mul(8), "path": path_fields(&path), "rtt_ms": ms(rtt),
    });
    if let Value::Object(fields) = &mut fields
        && direction == Direction::Send
    {
        // Of what comes, only the other side knows them.
        fields.insert("packets_sent".to_owned(), json!(stats.path.sent_packets));
        fields.insert("packets_lost".to_owned(), json!(stats.path.lost_packets));
    }
    context.output.event("summary", fields);
}

/// A stream that nobody answers is reset at once.
fn failure(error: FrameError) -> Failure {
    let is_refused = matches!(
        &error,
        FrameError::Write(quinn::WriteError::Stopped(_)) | FrameError::Read(quinn::ReadError::Reset(_))
    );
    if is_refused {
        let hint = "the same version on both machines, and `knothole up` on the other one";
        return Failure::new(code::REFUSED, "the other side does not measure", hint);
    }
    error.into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Numbers are replaced in one step: a panic elsewhere leaves them whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
