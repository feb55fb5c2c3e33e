//! `knothole pair`: two machines get to know each other by a code that one shows and the other types.

use std::time::Duration;

use knothole_proto::pairing::Code;
use knothole_proto::server_url::ServerUrl;
use serde_json::json;

use super::args::PairArgs;
use super::context::{Context, Wanted, own_name};
use super::failure::Failure;
use super::local::{self, Asked};
use super::meeting::{self, read_code};
use crate::book::{AddressBook, BookError};
use crate::node::{Node, Paired};

/// Pair, and put the other machine into the address book.
pub(super) async fn run(context: &Context, args: PairArgs) -> Result<(), Failure> {
    let typed = match &args.code {
        Some(code) => Some(read_code(context, code).await?),
        None => None,
    };
    let book = context.book()?;
    if let Some(petname) = &args.petname
        && book.contacts().any(|contact| contact.petname == *petname)
    {
        // Before the code is used up.
        return Err(BookError::PetnameTaken(petname.clone()).into());
    }
    let server = context.server(&book).await?;
    let wanted = Wanted::Named {
        name: match &args.name {
            Some(name) => name.clone(),
            None => own_name(&book)?,
        },
        explicit: args.name.is_some(),
        accepting: false,
    };
    let node = context.start(&book, &server, wanted).await?;
    let paired = match meet(context, &node, &server, typed).await {
        Ok(paired) => paired,
        Err(failure) => {
            node.shutdown().await;
            return Err(failure);
        }
    };
    context.remember(&server, &node)?;
    let petname = add(context, &paired, &args)?;
    local::ask(&context.home.socket(), Asked::Reload).await;
    tell_paired(context, &node, &paired, &petname);
    node.shutdown().await;
    Ok(())
}

async fn meet(
    context: &Context,
    node: &Node,
    server: &ServerUrl,
    typed: Option<Code>,
) -> Result<Paired, Failure> {
    if let Some(code) = typed {
        return Ok(context
            .within("the other machine", node.pair_join(code))
            .await??);
    }
    let pairing = context.within("a code", node.pair_open()).await??;
    tell_code(context, pairing.code(), pairing.ttl(), server);
    Ok(context.within("the other machine", pairing.finish()).await??)
}

fn tell_code(context: &Context, code: &Code, ttl: Duration, server: &ServerUrl) {
    let output = &context.output;
    let command = format!("knothole pair {code}");
    // One fact: the code on a line of its own, and the exact command for the other side.
    output.fact(format_args!(
        "On the other machine, type\n\n    {command}\n\nor `knothole pair -` and then the code:\n\n    {code}\n\n\
         It works once, within {} minutes. A machine without a server needs also\n    --server '{}'",
        ttl.as_secs() / 60,
        server.reveal()
    ));
    output.event(
        "code",
        json!({ "code": code.to_string(), "command": command, "ttl_s": ttl.as_secs() }),
    );
}

fn add(context: &Context, paired: &Paired, args: &PairArgs) -> Result<String, Failure> {
    let contact = meeting::contact(paired, args.petname.clone(), "pair again with --as NAME")?;
    let petname = AddressBook::update(&context.home.book(), |book| book.add(contact))?;
    Ok(petname.as_str().to_owned())
}

fn tell_paired(context: &Context, node: &Node, paired: &Paired, petname: &str) {
    let output = &context.output;
    let width = petname.len().max("this machine".len());
    output.fact(format_args!("paired with {petname}"));
    output.fact(format_args!("  {:width$}  {}", petname, paired.peer));
    output.fact(format_args!("  {:width$}  {}", "this machine", node.id()));
    output.talk("The other machine shows the same two ids; next: knothole up on one, then knothole ping on the other.");
    output.event(
        "paired",
        json!({
            "name": petname, "id": paired.peer.to_string(), "own_id": node.id().to_string(),
            "their_name": paired.name.as_ref().map(|name| name.as_str()),
        }),
    );
}
