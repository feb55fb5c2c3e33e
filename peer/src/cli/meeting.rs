//! A transfer between machines that do not know each other: one shows a code that works once, the other types it.
//!
//! The two are paired for as long as the command runs; nothing of it goes into the address book.

use std::time::SystemTime;

use knothole_proto::id::Name;
use knothole_proto::pairing::Code;
use knothole_proto::server_url::ServerUrl;
use serde_json::json;

use super::context::Context;
use super::failure::{Failure, code};
use crate::book::{AddressBook, Contact};
use crate::node::{Node, Paired};

/// A code as a person typed it, or from stdin for `-`.
pub(super) async fn read_code(context: &Context, text: &str) -> Result<Code, Failure> {
    let text = if text == "-" {
        context.line("the code").await?
    } else {
        text.to_owned()
    };
    text.parse().map_err(|error: knothole_proto::pairing::CodeError| {
        Failure::new(
            code::USAGE,
            error.to_string(),
            "the code as the other machine shows it",
        )
    })
}

/// Show a code and wait for whoever types it.
pub(super) async fn show(
    context: &Context,
    book: &mut AddressBook,
    node: &Node,
    server: &ServerUrl,
) -> Result<Contact, Failure> {
    let pairing = context.within("a code", node.pair_open()).await??;
    let (code, ttl) = (pairing.code(), pairing.ttl());
    let command = format!("knothole recv {code}");
    // One fact: the exact command for the other side.
    context.output.fact(format_args!(
        "On the other machine, type\n\n    {command}\n\nIt works once, within {} minutes. A machine without a server needs also\n    \
         --server '{}'",
        ttl.as_secs() / 60,
        server.reveal()
    ));
    context.output.event(
        "code",
        json!({ "code": code.to_string(), "command": command, "ttl_s": ttl.as_secs() }),
    );
    let paired = context.within("the other machine", pairing.finish()).await??;
    meet(book, node, &paired).await
}

/// Use the code that the other machine shows.
pub(super) async fn join(
    context: &Context,
    book: &mut AddressBook,
    node: &Node,
    code: Code,
) -> Result<Contact, Failure> {
    let joined = context.within("the other machine", node.pair_join(code)).await?;
    let paired = joined.map_err(|error| {
        let mut failure = Failure::from(error);
        failure.hint = "`knothole send` there again, for a new code".to_owned();
        failure
    })?;
    meet(book, node, &paired).await
}

/// Let the two connect while this node lives. `book` is not written.
async fn meet(book: &mut AddressBook, node: &Node, paired: &Paired) -> Result<Contact, Failure> {
    let contact = contact(paired, None, "again")?;
    book.add(contact)?;
    node.set_peers(book.to_peers()).await;
    book.by_id(paired.peer).cloned().ok_or_else(|| {
        Failure::new(
            code::OTHER,
            "the other machine is not in the address book",
            "again",
        )
    })
}

/// What is to be known of a machine that was just met: by the name that was chosen for it here, or else by its own. One
/// without a name is called by the beginning of its id, which is a legal name.
pub(super) fn contact(paired: &Paired, chosen: Option<Name>, hint: &str) -> Result<Contact, Failure> {
    let petname = match chosen.or_else(|| paired.name.clone()) {
        Some(petname) => petname,
        None => paired
            .peer
            .short()
            .parse()
            .map_err(|_| Failure::new(code::OTHER, "the other machine has no name", hint))?,
    };
    Ok(Contact {
        petname,
        id: paired.peer,
        secret: paired.secret.clone(),
        name: paired.name.clone(),
        added: SystemTime::now(),
    })
}
