//! `knothole up`: stay reachable, serve paired machines, say what happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use knothole_proto::connector::Nat;
use knothole_proto::server_url::ServerUrl;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::args::UpArgs;
use super::context::{Context, Wanted, own_name};
use super::failure::{Failure, code};
use super::local::{Asked, Local, Waiting};
use super::output::{nat_word, nat_words, registered_fields};
use super::serve::{Host, Taking};
use crate::app::transfer::Conflict;
use crate::book::AddressBook;
use crate::node::{Node, NodeEvent, StartError};

/// How often the address book is looked at, for changes that nobody told of. One look at a file's times is nothing.
const BOOK_LOOK: Duration = Duration::from_secs(2);

/// How long the first question about the NAT may delay the first lines.
const NAT_PATIENCE: Duration = Duration::from_millis(500);

/// How long transfers may take to say good-bye when the person stops the program.
const GOODBYE: Duration = Duration::from_secs(5);

/// A running `up`.
struct Up {
    context: Context,
    node: Node,
    server: ServerUrl,
    host: Arc<Host>,
    connections: JoinSet<()>,
    started: Instant,
    book_seen: Option<SystemTime>,
    connected: bool,
    told_nat: Option<(SocketAddr, Nat)>,
}

/// Register, and serve until the person stops it.
pub(super) async fn run(context: Context, args: UpArgs) -> Result<(), Failure> {
    let book = context.book()?;
    let server = context.server(&book).await?;
    let mut local = match Local::bind(&context.home.socket()).await {
        Ok(local) => Some(local),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let message = "`knothole up` runs already for this machine";
            return Err(Failure::new(
                code::OTHER,
                message,
                "`knothole status`, or another KNOTHOLE_HOME",
            ));
        }
        Err(error) => {
            tracing::warn!(%error, "no socket for `knothole status`");
            None
        }
    };
    let wanted = Wanted::Named {
        name: match &args.name {
            Some(name) => name.clone(),
            None => own_name(&book)?,
        },
        explicit: args.name.is_some(),
        accepting: true,
    };
    let node = context.start(&book, &server, wanted).await?;
    context.remember(&server, &node)?;
    let book_seen = changed_at(&context);
    let folder = args.inbox.clone().unwrap_or_else(|| context.home.inbox());
    let taking = Taking::new(folder.clone(), Conflict::Rename, args.yes || args.inbox.is_some());
    let asks = taking.asks();
    let (host, ended) = Host::new(&context, book.clone(), taking);
    // Each end was said already.
    drop(ended);
    let mut up = Up {
        context,
        node,
        server,
        host: Arc::new(host),
        connections: JoinSet::new(),
        started: Instant::now(),
        book_seen,
        connected: true,
        told_nat: None,
    };
    let events = up.node.events();
    up.wait_for_nat().await;
    let registered = up.node.registered();
    up.told_nat = Some((registered.reflexive, registered.nat));
    up.context.tell_registered(&up.node, &up.server);
    let how = if asks {
        "after asking here"
    } else {
        "without asking"
    };
    up.context.output.talk(format_args!(
        "files from paired machines go to {} {how}",
        folder.display()
    ));
    if book.contacts().next().is_none() {
        up.context
            .output
            .talk("no paired machines yet; next: knothole pair, in another terminal");
    }
    let ended = up.serve(events, &mut local).await;
    up.say_goodbye().await;
    ended
}

impl Up {
    async fn serve(
        &mut self,
        mut events: tokio::sync::broadcast::Receiver<NodeEvent>,
        local: &mut Option<Local>,
    ) -> Result<(), Failure> {
        let mut look = tokio::time::interval(BOOK_LOOK);
        let stop = self.context.stop.clone();
        loop {
            let asked = async {
                match local {
                    Some(local) => local.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.wait() => return Ok(()),
                connection = self.node.accept() => match connection {
                    Some(connection) => self.host.spawn(&mut self.connections, connection),
                    None => return Err(Failure::new(code::SERVER, "the node has stopped", "knothole up")),
                },
                event = events.recv() => match event {
                    Ok(event) => self.heard(event)?,
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => {
                        return Err(Failure::new(code::SERVER, "the node has stopped", "knothole up"));
                    }
                },
                waiting = asked => self.answer(waiting).await,
                _ = look.tick() => self.look_at_book().await,
                Some(_) = self.connections.join_next() => {}
            }
        }
    }

    /// Give the node a moment to learn what its NAT does, so that the first lines say it.
    async fn wait_for_nat(&self) {
        let mut events = self.node.events();
        let known = async {
            while self.node.registered().nat == Nat::Unknown {
                if let Err(RecvError::Closed) = events.recv().await {
                    return;
                }
            }
        };
        // Not knowing is said too.
        let _ = tokio::time::timeout(NAT_PATIENCE, known).await;
    }

    fn heard(&mut self, event: NodeEvent) -> Result<(), Failure> {
        let output = &self.context.output;
        match event {
            NodeEvent::Registered(registered) => {
                output.event("registered", registered_fields(&registered));
                output.talk("the server is back");
                self.connected = true;
            }
            NodeEvent::ServerLost => {
                output.event("server-lost", json!({}));
                output.talk("the server is lost; direct connections live on; trying again");
                self.connected = false;
            }
            NodeEvent::Refused(refusal) => return Err(StartError::Refused(refusal).into()),
            // While it is measured anew the old word holds.
            NodeEvent::Nat {
                nat: Nat::Unknown, ..
            } => {}
            NodeEvent::Nat { reflexive, nat } if self.told_nat == Some((reflexive, nat)) => {}
            NodeEvent::Nat { reflexive, nat } => {
                self.told_nat = Some((reflexive, nat));
                output.event(
                    "nat",
                    json!({ "reflexive": reflexive.to_string(), "nat": nat_word(nat) }),
                );
                output.talk(format_args!("public address {reflexive}, NAT {}", nat_words(nat)));
            }
            // Plans are told for every command alike; of the network `netcheck` says more.
            NodeEvent::Network(_) | NodeEvent::Plan { .. } => {}
            NodeEvent::Draining { retry_after } => {
                output.talk(format_args!(
                    "the server stops; back to it in {} s",
                    retry_after.as_secs()
                ));
            }
        }
        Ok(())
    }

    async fn answer(&mut self, waiting: Waiting) {
        let answer = match waiting.asked {
            Asked::Status => self.status(),
            Asked::Reload => {
                self.book_seen = None;
                self.look_at_book().await;
                json!({ "schema": 1, "ok": true })
            }
        };
        // Whoever asked may be gone.
        let _ = waiting.answer.send(answer);
    }

    fn status(&self) -> Value {
        let registered = registered_fields(&self.node.registered());
        json!({
            "schema": 1, "running": true, "connected": self.connected, "registered": registered,
            "server": self.server.to_string(), "up_s": self.started.elapsed().as_secs(), "links": self.host.links(),
        })
    }

    /// Take in what `pair` and `forget` changed.
    async fn look_at_book(&mut self) {
        let now = changed_at(&self.context);
        if now == self.book_seen {
            return;
        }
        self.book_seen = now;
        match AddressBook::load(&self.context.home.book()) {
            Ok(book) => {
                self.node.set_peers(book.to_peers()).await;
                self.host.set_book(book);
            }
            Err(error) => tracing::warn!(%error, "the address book as it was stays in use"),
        }
    }

    async fn say_goodbye(&mut self) {
        let transfers = tokio::time::timeout(GOODBYE, self.host.wind_up()).await;
        if transfers.is_err() {
            tracing::warn!("a transfer did not end in time");
        }
        self.node.shutdown().await;
    }
}

fn changed_at(context: &Context) -> Option<SystemTime> {
    std::fs::metadata(context.home.book())
        .and_then(|meta| meta.modified())
        .ok()
}
