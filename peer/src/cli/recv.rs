//! `knothole recv`: one transfer, from a paired machine or from whoever showed a code, then the end.

use std::path::Path;
use std::sync::Arc;

use knothole_proto::server_url::ServerUrl;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::args::RecvArgs;
use super::context::{Context, Wanted, is_attended, own_name};
use super::failure::{Failure, code};
use super::meeting;
use super::serve::{Host, Taking};
use super::waiting::Waiting;
use crate::app::transfer::Limit;
use crate::book::AddressBook;
use crate::node::Node;

/// Wait for a transfer, take it, sum up.
pub(super) async fn run(context: &Context, args: RecvArgs) -> Result<(), Failure> {
    let book = context.book()?;
    let server = context.server(&book).await?;
    let to_stdout = args.out == Path::new("-");
    if to_stdout && context.global.json {
        let message = "a file and events cannot both go to stdout";
        return Err(Failure::new(code::USAGE, message, "-o DIR, or no --json"));
    }
    let spool = match to_stdout {
        true => Some(tempfile::tempdir().map_err(|error| {
            let message = format!("no place to keep a file until it is whole: {error}");
            Failure::new(code::OTHER, message, "a folder that you may write to, in TMPDIR")
        })?),
        false => None,
    };
    let folder = spool.as_ref().map_or(args.out.as_path(), tempfile::TempDir::path);
    let mut taking = Taking::new(folder.to_owned(), args.conflict.conflict(), args.yes);
    taking.limit = args.limit.map(Limit::new);
    taking.only_one = true;
    taking.to_stdout = to_stdout;
    let taken = match &args.code {
        Some(code) => by_code(context, book, &server, &args, code, taking).await,
        None => from_paired(context, book, &server, &args, taking).await,
    };
    match taken {
        Err(failure) if to_stdout && failure.code == code::PARTIAL => {
            let message = "the transfer broke off, and nothing of it is kept for stdout";
            Err(Failure::new(
                code::OTHER,
                message,
                "have it sent again, or -o DIR",
            ))
        }
        taken => taken,
    }
}

async fn from_paired(
    context: &Context,
    book: AddressBook,
    server: &ServerUrl,
    args: &RecvArgs,
    taking: Taking,
) -> Result<(), Failure> {
    if book.contacts().next().is_none() {
        let hint =
            "`knothole recv CODE` with the code that the sender shows, or `knothole pair` on both machines";
        return Err(Failure::new(
            code::PEER,
            "this machine is not paired with any other",
            hint,
        ));
    }
    let wanted = Wanted::Named {
        name: own_name(&book)?,
        explicit: false,
        accepting: true,
    };
    let node = context.start(&book, server, wanted).await?;
    context.tell_registered(&node, server);
    context.output.talk(format_args!(
        "waiting for files, which go to {}",
        args.out.display()
    ));
    let taken = take_one(context, &node, book, taking).await;
    node.shutdown().await;
    taken
}

async fn by_code(
    context: &Context,
    mut book: AddressBook,
    server: &ServerUrl,
    args: &RecvArgs,
    code: &str,
    mut taking: Taking,
) -> Result<(), Failure> {
    let code = meeting::read_code(context, code).await?;
    if !args.yes && !is_attended() {
        // Before the code is used up.
        let message = "nobody is at a terminal to say yes to what a stranger sends";
        return Err(Failure::new(code::REFUSED, message, "--yes, to take it unseen"));
    }
    // Without a name: that a code was typed here is no reason to hold one at the server.
    let node = context.start(&book, server, Wanted::Accepting).await?;
    let met = meeting::join(context, &mut book, &node, code).await;
    let taken = match met {
        Ok(contact) => {
            taking.only = Some(contact.id);
            take_one(context, &node, book, taking).await
        }
        Err(failure) => Err(failure),
    };
    node.shutdown().await;
    taken
}

/// Serve connections until one of them has brought a transfer to an end.
async fn take_one(
    context: &Context,
    node: &Node,
    book: AddressBook,
    mut taking: Taking,
) -> Result<(), Failure> {
    let by_code = taking.only.is_some();
    let give_up = context.global.timeout.map(|timeout| Instant::now() + timeout);
    taking.until = give_up;
    let (host, ended) = Host::new(context, book, taking);
    let host = Arc::new(host);
    let waiting = Waiting::new(host.seat(), ended, context.stop.clone(), by_code, give_up);
    let mut connections = JoinSet::new();
    let serving = async {
        loop {
            tokio::select! {
                connection = node.accept() => match connection {
                    Some(connection) => host.spawn(&mut connections, connection),
                    None => return Failure::new(code::SERVER, "the node has stopped", "again"),
                },
                Some(_) = connections.join_next() => {}
            }
        }
    };
    tokio::select! {
        biased;
        ended = waiting.run() => ended,
        failure = serving => Err(failure),
    }
}
