//! `knothole ping`: the round trip to a paired machine, and which path it takes.

use std::time::Duration;

use knothole_proto::connector::Effort;
use knothole_proto::path::Path;
use serde_json::json;
use tokio::time::Instant;

use super::args::PingArgs;
use super::context::{Context, Wanted};
use super::failure::{Failure, code};
use super::output::{effort_fields, is_final, ms, path_fields, path_words};
use crate::app::ping::{Pinger, Pong};
use crate::book::AddressBook;
use crate::node::Node;

/// Questions unless told otherwise.
const COUNT: u32 = 10;

/// Time between two questions: what people know from other programs of this name.
const INTERVAL: Duration = Duration::from_secs(1);

/// Time between two questions while a direct path is waited for; shorter would flood the screen and show no more.
const INTERVAL_UNTIL_DIRECT: Duration = Duration::from_millis(200);

/// What came of the questions so far.
#[derive(Default)]
struct Tally {
    sent: u32,
    received: u32,
    direct_after: Option<Duration>,
    last: Option<Path>,
    effort: Effort,
    stopped: bool,
}

/// Ask, show each answer, and sum up.
pub(super) async fn run(context: &Context, args: PingArgs) -> Result<(), Failure> {
    let deadline = Instant::now() + context.timeout();
    let book = context.book()?;
    let server = context.server(&book).await?;
    let node = context.start(&book, &server, Wanted::Dialling).await?;
    let asked = ping(context, &args, &book, &node, deadline).await;
    node.shutdown().await;
    asked
}

async fn ping(
    context: &Context,
    args: &PingArgs,
    book: &AddressBook,
    node: &Node,
    deadline: Instant,
) -> Result<(), Failure> {
    let contact = context.peer(book, node, &args.peer).await?;
    let (connection, teller) = context.connect(node, &contact).await?;
    // Each answer says its path.
    drop(teller);
    let peer = contact.petname.as_str();
    let mut tally = Tally::default();
    let asked = async {
        let mut pinger = Pinger::open(&connection).await?;
        ask(context, args, peer, &mut pinger, &mut tally, deadline).await
    }
    .await;
    tally.effort = connection.path().borrow().effort;
    connection.close();
    sum_up(context, args, &tally);
    asked?;
    let direct_missing = args.until_direct && tally.direct_after.is_none();
    if tally.stopped && (direct_missing || tally.received == 0) {
        return Err(Failure::interrupted());
    }
    match &tally.last {
        None => Err(Failure::timeout("an answer")),
        Some(last) if direct_missing => Err(Failure::new(
            code::PATH,
            format!("no direct path: {}", why(last)),
            "a UDP port open on one side, or a longer --timeout",
        )),
        Some(_) => Ok(()),
    }
}

async fn ask(
    context: &Context,
    args: &PingArgs,
    peer: &str,
    pinger: &mut Pinger,
    tally: &mut Tally,
    deadline: Instant,
) -> Result<(), Failure> {
    let count = args
        .count
        .unwrap_or(if args.until_direct { u32::MAX } else { COUNT });
    let interval = if args.until_direct {
        INTERVAL_UNTIL_DIRECT
    } else {
        INTERVAL
    };
    for turn in 0..count {
        let began = Instant::now();
        tally.sent += 1;
        let limit = if args.until_direct {
            deadline
        } else {
            began + context.timeout()
        };
        let pong = tokio::select! {
            pong = tokio::time::timeout_at(limit, pinger.ping()) => match pong {
                Ok(pong) => pong?,
                Err(_) => return Ok(()),
            },
            () = context.stop.wait() => {
                tally.stopped = true;
                return Ok(());
            }
        };
        tell(context, peer, &pong, tally);
        let over = args.until_direct && (tally.direct_after.is_some() || is_final(&pong.path));
        let next = began + interval;
        if over || turn + 1 == count || (args.until_direct && next >= deadline) {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep_until(next) => {}
            () = context.stop.wait() => {
                tally.stopped = true;
                return Ok(());
            }
        }
    }
    Ok(())
}

fn tell(context: &Context, peer: &str, pong: &Pong, tally: &mut Tally) {
    let output = &context.output;
    tally.received += 1;
    tally.last = Some(pong.path);
    let remote = match pong.path {
        Path::Direct { remote, .. } => format!("  {remote}"),
        _ => String::new(),
    };
    let mut moment = String::new();
    if pong.path.is_direct() && tally.direct_after.is_none() {
        tally.direct_after = Some(pong.since);
        moment = format!("  direct after {:.1} s", pong.since.as_secs_f64());
    }
    output.fact(format_args!(
        "{peer}  {:7.1} ms  {}{remote}{moment}",
        ms(pong.rtt),
        path_words(&pong.path)
    ));
    let mut fields = path_fields(&pong.path);
    fields.insert("seq".to_owned(), json!(pong.seq));
    fields.insert("rtt_ms".to_owned(), json!(ms(pong.rtt)));
    output.event("pong", fields.into());
}

/// Why a path is not direct.
fn why(path: &Path) -> &'static str {
    match path {
        Path::Relay(why) | Path::None(why) => why.sentence(),
        Path::Direct { how, .. } => how.phrase(),
    }
}

fn sum_up(context: &Context, args: &PingArgs, tally: &Tally) {
    let output = &context.output;
    let direct_after_ms = tally
        .direct_after
        .map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
    let mut fields = effort_fields(tally.effort);
    for (name, value) in [
        ("sent", json!(tally.sent)),
        ("received", json!(tally.received)),
        ("direct_after_ms", json!(direct_after_ms)),
    ] {
        fields.insert(name.to_owned(), value);
    }
    output.event("summary", fields.into());
    output.talk(format_args!("{} asked, {} answered", tally.sent, tally.received));
    if let Some(path) = tally.last.filter(|path| !path.is_direct() && !args.until_direct) {
        output.talk(format_args!("no direct path: {}", why(&path)));
    }
}
