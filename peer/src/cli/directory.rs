//! Commands that only look into the files of this machine: `id`, `peers`, `forget`, and `knothole` alone.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::args::ForgetArgs;
use super::context::{Context, is_attended};
use super::failure::{Failure, code};
use super::local::{self, Asked};
use super::question::ask;
use crate::book::{AddressBook, Contact};

/// Print this machine's id, making a key if it has none.
pub(super) fn id(context: &Context) -> Result<(), Failure> {
    let (identity, book) = (context.identity()?, context.book()?);
    let id = identity.peer_id().to_string();
    context.output.fact(&id);
    context.output.event(
        "id",
        json!({ "id": id, "name": book.name.as_ref().map(|name| name.as_str()) }),
    );
    Ok(())
}

/// List the paired machines.
pub(super) fn peers(context: &Context) -> Result<(), Failure> {
    let book = context.book()?;
    for contact in book.contacts() {
        let name = contact.name.as_ref().map(|name| name.as_str());
        context.output.fact(format_args!(
            "{:<20}  {}  paired {}",
            contact.petname.as_str(),
            contact.id.short(),
            age(contact.added)
        ));
        context.output.event(
            "peer",
            json!({
                "peer": contact.petname.as_str(), "id": contact.id.to_string(), "name": name,
                "added_unix_s": contact.added.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            }),
        );
    }
    if book.contacts().next().is_none() {
        context.output.talk("no paired machines yet; next: knothole pair");
    }
    Ok(())
}

/// Take a machine out of the address book.
pub(super) async fn forget(context: &Context, args: &ForgetArgs) -> Result<(), Failure> {
    let book = context.book()?;
    let Contact { petname, id, .. } = book.resolve(&args.peer)?.clone();
    if !args.yes && is_attended() {
        let question = format!("forget {petname} ({})? Only pairing anew undoes it.", id.short());
        if !context.unless_stopped(ask(&context.output, &question)).await? {
            return Err(Failure::new(
                code::REFUSED,
                format!("{petname} stays in the address book"),
                "--yes",
            ));
        }
    }
    AddressBook::update(&context.home.book(), |book| {
        book.remove(id);
        Ok(())
    })?;
    local::ask(&context.home.socket(), Asked::Reload).await;
    context.output.fact(format_args!("{petname} is forgotten"));
    context.output.event(
        "forgotten",
        json!({ "peer": petname.as_str(), "id": id.to_string() }),
    );
    Ok(())
}

/// What this program is, the state of this machine, and what to do next.
pub(super) async fn overview(context: &Context) -> Result<(), Failure> {
    let book = context.book()?;
    let running = local::ask(&context.home.socket(), Asked::Status).await.is_some();
    let paired = book.contacts().count();
    let state = match (&book.server, &book.name) {
        (None, _) => "no server set".to_owned(),
        (Some(server), name) => {
            let name = name.as_ref().map_or_else(String::new, |name| format!("{name}, "));
            let up = if running { "up runs" } else { "up does not run" };
            format!("{name}server {}, {paired} paired machines, {up}", server.host)
        }
    };
    let next = match (&book.server, paired, running) {
        (None, ..) => "knothole up --server 'knot://...'   (the line that the server printed)",
        (_, 0, _) => "knothole pair",
        (_, _, false) => "knothole up",
        (..) => "knothole send PATH --to PEER",
    };
    let output = &context.output;
    output.fact("knothole: two machines behind NATs find each other by name and talk directly");
    output.fact(format_args!("state:    {state}"));
    output.fact(format_args!("next:     {next}   (all commands: knothole --help)"));
    output.event(
        "overview",
        json!({ "state": state, "next": next, "peers": paired, "running": running }),
    );
    Ok(())
}

/// How long ago, in the largest unit that is not zero.
fn age(then: SystemTime) -> String {
    let seconds = SystemTime::now()
        .duration_since(then)
        .unwrap_or_default()
        .as_secs();
    let (number, unit) = match seconds {
        0..=59 => return "just now".to_owned(),
        60..=3599 => (seconds / 60, "minute"),
        3600..=86_399 => (seconds / 3600, "hour"),
        _ => (seconds / 86_400, "day"),
    };
    format!("{number} {unit}{} ago", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ages_are_read_at_a_glance() {
        let ago = |seconds| age(SystemTime::now() - Duration::from_secs(seconds));
        assert_eq!(ago(5), "just now");
        assert_eq!(ago(61), "1 minute ago");
        assert_eq!(ago(7200), "2 hours ago");
        assert_eq!(ago(900_000), "10 days ago");
        assert_eq!(age(SystemTime::now() + Duration::from_secs(99)), "just now");
    }
}
