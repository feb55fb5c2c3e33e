//! `knothole recv`: one transfer from a paired machine, then the end.

use std::sync::Arc;

use super::args::RecvArgs;
use super::context::{Context, Wanted, own_name};
use super::failure::{Failure, code};
use super::serve::{Ended, Host, Taking};
use crate::book::AddressBook;
use crate::node::Node;

/// Wait for a transfer, take it, sum up.
pub(super) async fn run(context: &Context, args: RecvArgs) -> Result<(), Failure> {
    let book = context.book()?;
    let server = context.server(&book)?;
    if book.contacts().next().is_none() {
        let hint = "`knothole pair` on both machines";
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
    let node = context.start(&book, &server, wanted).await?;
    context.tell_registered(&node, &server);
    let taking = Taking::new(args.out.clone(), args.conflict.conflict(), args.yes);
    context.output.talk(format_args!(
        "waiting for files, which go to {}",
        args.out.display()
    ));
    let taken = take_one(context, &node, book, taking).await;
    node.shutdown().await;
    taken
}

/// Serve connections until one of them has brought a transfer to an end.
async fn take_one(context: &Context, node: &Node, book: AddressBook, taking: Taking) -> Result<(), Failure> {
    let (host, mut ended) = Host::new(context, book, taking);
    let host = Arc::new(host);
    let mut connections = tokio::task::JoinSet::new();
    let waiting = async {
        loop {
            tokio::select! {
                connection = node.accept() => match connection {
                    Some(connection) => host.spawn(&mut connections, connection),
                    None => return Err(Failure::new(code::SERVER, "the node has stopped", "again")),
                },
                Some(end) = ended.recv() => match end {
                    // Somebody else may still send something that is wanted.
                    Ended::Declined => {}
                    Ended::Taken(result) => return result,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    };
    // A running transfer sees the stop itself and ends it cleanly; `--timeout` is for waiting only.
    tokio::pin!(waiting);
    let limit = async {
        match context.global.timeout {
            Some(timeout) => {
                tokio::time::sleep(timeout).await;
                host.idle().await;
            }
            None => std::future::pending().await,
        }
    };
    let stopped = async {
        context.stop.wait().await;
        host.idle().await;
    };
    tokio::select! {
        biased;
        ended = &mut waiting => ended,
        () = limit => Err(Failure::timeout("a transfer")),
        () = stopped => Err(Failure::interrupted()),
    }
}
