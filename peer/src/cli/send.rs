//! `knothole send`: files and folders to a paired machine.

use std::sync::Arc;

use super::args::SendArgs;
use super::context::{Context, Wanted};
use super::failure::{Failure, code};
use super::transfer::{Done, Teller, amount, name_some};
use crate::app::transfer::messages::TransferId;
use crate::app::transfer::{self, Sending, Sent, Sources};
use crate::book::{AddressBook, Contact};
use crate::node::Node;
use crate::session::Connection;
use crate::untrusted::Untrusted;

/// Look at the paths, connect, send, sum up.
pub(super) async fn run(context: &Context, args: SendArgs) -> Result<(), Failure> {
    let book = context.book()?;
    let server = context.server(&book)?;
    let paths = args.paths.clone();
    let scanned = tokio::task::spawn_blocking(move || transfer::scan(&paths)).await;
    let sources = Arc::new(scanned.map_err(|error| Failure::new(code::OTHER, error.to_string(), ""))??);
    tell_sources(context, &sources);

    let node = context.start(&book, &server, Wanted::Dialling).await?;
    let sent = connect_and_send(context, &args, &book, &node, sources).await;
    node.shutdown().await;
    sent
}

async fn connect_and_send(
    context: &Context,
    args: &SendArgs,
    book: &AddressBook,
    node: &Node,
    sources: Arc<Sources>,
) -> Result<(), Failure> {
    let contact = context.peer(book, node, &args.to).await?;
    let (connection, _teller) = context.connect(node, &contact).await?;
    let name = name_some(sources.manifest.roots().map(|entry| entry.name.as_str()));
    let sent = tokio::select! {
        sent = send(context, &connection, &contact, Arc::clone(&sources), &name) => sent,
        () = context.stop.wait() => Err(Failure::new(
            code::PARTIAL,
            "stopped; what the other machine has stored stays there",
            "the same command again",
        )),
    };
    let path = connection.path().borrow().path;
    connection.close();
    let sent = sent?;
    Done {
        verb: "sent",
        name: &name,
        files: sent.stored,
        bytes: sent.bytes,
        resumed: sent.resumed,
        took: sent.took,
        path,
        file: sources.place(0).as_deref(),
        others: &sent.others,
        hash: sent.hash,
        peer: contact.petname.as_str(),
    }
    .tell(&context.output)
}

async fn send(
    context: &Context,
    connection: &Connection,
    contact: &Contact,
    sources: Arc<Sources>,
    name: &str,
) -> Result<Sent, Failure> {
    let teller = Arc::new(Teller {
        output: Arc::clone(&context.output),
        name: name.to_owned(),
        peer: contact.petname.as_str().to_owned(),
    });
    let mut number = [0; 8];
    getrandom::fill(&mut number).map_err(|error| {
        Failure::new(
            code::OTHER,
            format!("the operating system gave no randomness: {error}"),
            "again",
        )
    })?;
    let transfer = TransferId(u64::from_le_bytes(number));
    let sending = Sending {
        transfer,
        limit: None,
    };
    let control = connection.open(transfer::SERVICE).await?;
    Ok(transfer::send(connection, control, sources, sending, teller).await?)
}

fn tell_sources(context: &Context, sources: &Sources) {
    let output = &context.output;
    for (path, what) in &sources.skipped {
        let path = path.to_string_lossy();
        output.talk(format_args!("left out: {}: {what}", Untrusted(&path)));
    }
    let more = sources.skipped_count - sources.skipped.len();
    if more > 0 {
        output.talk(format_args!("left out: {more} more links and special files"));
    }
    for renamed in sources.renamed() {
        output.talk(format_args!(
            "sent as {}: {}",
            Untrusted(&renamed.stored),
            Untrusted(&renamed.offered)
        ));
    }
    output.talk(amount(sources.manifest.files(), sources.manifest.bytes()));
}
