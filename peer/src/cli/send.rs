//! `knothole send`: files and folders to paired machines, or to whoever types the code that is shown.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::json;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::Instant;

use super::args::SendArgs;
use super::context::{Context, PathTeller, Wanted};
use super::failure::{Failure, code};
use super::meeting;
use super::transfer::{Done, RETURN_PATIENCE, Teller, amount, is_lost, name_some};
use crate::app::transfer::messages::TransferId;
use crate::app::transfer::names::safe_name;
use crate::app::transfer::{self, Limit, SendError, Sending, Sent, Sources};
use crate::book::Contact;
use crate::node::Node;
use crate::session::Connection;
use crate::untrusted::Untrusted;

/// How long a machine that has just typed the code may take to be reachable at the server.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(15);

/// How long between two attempts to connect.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Look at the paths, connect, send, sum up.
pub(super) async fn run(context: &Context, args: SendArgs) -> Result<(), Failure> {
    let mut book = context.book()?;
    let server = context.server(&book).await?;
    let spool = spool_stdin(context, &args).await?;
    let paths = match &spool {
        Some((_, path)) => vec![path.clone()],
        None => args.paths.clone(),
    };
    let scanning = tokio::task::spawn_blocking(move || transfer::scan(&paths));
    let scanned = context.unless_stopped(scanning).await?;
    let sources = Arc::new(scanned.map_err(|error| Failure::new(code::OTHER, error.to_string(), ""))??);
    tell_sources(context, &sources);

    let wanted = match (&book.name, args.to.is_empty()) {
        // Whoever types the code sees who sends.
        (Some(name), true) => Wanted::Named {
            name: name.clone(),
            explicit: false,
            accepting: false,
        },
        _ => Wanted::Dialling,
    };
    let node = context.start(&book, &server, wanted).await?;
    let receivers = async {
        if args.to.is_empty() {
            return Ok(vec![meeting::show(context, &mut book, &node, &server).await?]);
        }
        let mut receivers: Vec<Contact> = Vec::new();
        for name in &args.to {
            let contact = context.peer(&book, &node, name).await?;
            if receivers.iter().all(|known| known.id != contact.id) {
                receivers.push(contact);
            }
        }
        Ok(receivers)
    };
    let sent = match receivers.await {
        Ok(receivers) => send_to_all(context, &args, node, receivers, &sources).await,
        Err(failure) => {
            node.shutdown().await;
            Err(failure)
        }
    };
    drop(spool);
    sent
}

/// Everything from stdin as a file of the wanted name, if that is what is to be sent. It is read to its end first: a
/// transfer announces its size, and can be resumed.
async fn spool_stdin(
    context: &Context,
    args: &SendArgs,
) -> Result<Option<(tempfile::TempDir, PathBuf)>, Failure> {
    let stdin = Path::new("-");
    if args.paths.iter().all(|path| path != stdin) {
        return Ok(None);
    }
    if args.paths.len() > 1 {
        let message = "stdin cannot be sent together with other files";
        return Err(Failure::new(code::USAGE, message, "one after the other"));
    }
    let name = safe_name(&args.name, true)
        .map_err(|error| Failure::new(code::USAGE, error.to_string(), "another --as"))?;
    let failed = |error: std::io::Error| {
        let message = format!("cannot keep what came from stdin: {error}");
        Failure::new(code::OTHER, message, "space in the folder that TMPDIR names")
    };
    let dir = tempfile::tempdir().map_err(failed)?;
    let path = dir.path().join(name);
    let mut file = std::fs::File::create(&path).map_err(failed)?;
    // The thread that reads cannot be called back. It does not own the folder, which is gone at once when the person stops.
    let copying = tokio::task::spawn_blocking(move || std::io::copy(&mut std::io::stdin().lock(), &mut file));
    let copied = context.unless_stopped(copying).await?;
    copied.map_err(std::io::Error::other).flatten().map_err(failed)?;
    Ok(Some((dir, path)))
}

/// To all receivers at once. With several of them each failure is told when it happens, and the command's has the code of
/// the first.
async fn send_to_all(
    context: &Context,
    args: &SendArgs,
    node: Node,
    receivers: Vec<Contact>,
    sources: &Arc<Sources>,
) -> Result<(), Failure> {
    let (node, count) = (Arc::new(node), receivers.len());
    let limit = args.limit.map(Limit::new);
    let widest = receivers
        .iter()
        .map(|contact| contact.petname.as_str().len())
        .max();
    let width = widest.filter(|_| count > 1).unwrap_or(0);
    // Waiting for a path is bound to one thread.
    let (local, mut sends) = (LocalSet::new(), JoinSet::new());
    for contact in receivers {
        let peer = contact.petname.as_str();
        let errand = Errand {
            context: context.clone(),
            node: Arc::clone(&node),
            label: (count > 1).then(|| format!("{peer:width$}")),
            contact,
            sources: Arc::clone(sources),
            limit: limit.clone(),
            by_code: args.to.is_empty(),
        };
        sends.spawn_local_on(async move { errand.run().await }, &local);
    }
    let (mut first, mut failed) = (None, 0);
    while let Some(sent) = local.run_until(sends.join_next()).await {
        let sent = sent.unwrap_or_else(|error| Err(Failure::new(code::OTHER, error.to_string(), "")));
        failed += usize::from(sent.is_err());
        first = first.or(sent.err());
    }
    node.shutdown().await;
    match first {
        None => Ok(()),
        Some(failure) if count > 1 => Err(Failure::new(
            failure.code,
            format!("{failed} of {count} machines did not get it"),
            "the same command again; what is there does not go again",
        )),
        Some(failure) => Err(failure),
    }
}

/// One receiver of a transfer.
struct Errand {
    context: Context,
    node: Arc<Node>,
    contact: Contact,
    sources: Arc<Sources>,
    limit: Option<Limit>,
    /// What its lines begin with if it is one of several.
    label: Option<String>,
    /// Does it know this machine by a code only?
    by_code: bool,
}

impl Errand {
    /// To the end. Where others go on, how it ended is told now.
    async fn run(&self) -> Result<(), Failure> {
        let sent = self.deliver().await;
        if let (Err(failure), Some(_)) = (&sent, &self.label) {
            let (output, peer) = (&self.context.output, self.contact.petname.as_str());
            let Failure { code, message, hint } = failure;
            // What kept it from being reached begins with its name already.
            let named = message.starts_with(&format!("{peer}: "));
            let whose = if named { String::new() } else { format!("{peer}: ") };
            output.talk(format_args!("{whose}{message}"));
            if !hint.is_empty() {
                output.talk(format_args!("  try: {hint}"));
            }
            output.event(
                "failed",
                json!({ "peer": peer, "code": code, "message": message, "hint": hint }),
            );
        }
        sent
    }

    async fn deliver(&self) -> Result<(), Failure> {
        let name = name_some(self.sources.manifest.roots().map(|entry| entry.name.as_str()));
        let patience = if self.by_code {
            ARRIVAL_PATIENCE
        } else {
            Duration::ZERO
        };
        let (mut connection, mut teller) = self.connect(patience).await?;
        // Until when it is tried to go on, as long as nothing more gets there.
        let mut give_up = None;
        let sent = loop {
            let moved = Arc::new(AtomicBool::new(false));
            let sent = tokio::select! {
                sent = self.send(&connection, &name, &moved) => sent,
                () = self.context.stop.wait() => Err(Stopped::Person),
            };
            let broken = match sent {
                Err(Stopped::Error(error)) if broke_off(&error, &connection) => error,
                sent => break sent,
            };
            let peer = self.contact.petname.as_str();
            self.context
                .output
                .talk(format_args!("{peer}: {broken}; trying to go on"));
            drop(teller);
            let now = Instant::now();
            let until = give_up.filter(|_| !moved.load(Ordering::Relaxed));
            let until = *give_up.insert(until.unwrap_or(now + RETURN_PATIENCE));
            // Somebody who is there and breaks it off each time is not worth more than somebody who is away.
            let again = match now < until {
                true => self.connect(until.saturating_duration_since(now)).await,
                false => return Err(partial(&broken)),
            };
            match again {
                Ok(again) => (connection, teller) = again,
                Err(failure) if failure.code == code::INTERRUPTED => return Err(Stopped::Person.into()),
                // What broke off matters, and not that nobody came back.
                Err(_) => return Err(partial(&broken)),
            }
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
            file: self.sources.place(0).as_deref(),
            others: &sent.others,
            unreadable: self.sources.unreadable,
            hash: sent.hash,
            peer: self.contact.petname.as_str(),
            of_several: self.label.is_some(),
            to_stdout: true,
        }
        .tell(&self.context.output)
    }

    /// Connect; a machine that is not there yet or not there again is waited for.
    async fn connect(&self, patience: Duration) -> Result<(Connection, PathTeller), Failure> {
        let give_up = Instant::now() + patience;
        loop {
            match self.context.connect(&self.node, &self.contact).await {
                Err(failure) if failure.code != code::INTERRUPTED && Instant::now() < give_up => {
                    tokio::select! {
                        () = tokio::time::sleep(RETRY_EVERY) => {}
                        () = self.context.stop.wait() => return Err(Failure::interrupted()),
                    }
                }
                connected => return connected,
            }
        }
    }

    /// One attempt; `moved` tells whether anything got there that was not there before.
    async fn send(
        &self,
        connection: &Connection,
        name: &str,
        moved: &Arc<AtomicBool>,
    ) -> Result<Sent, Stopped> {
        let teller = Arc::new(Teller {
            output: Arc::clone(&self.context.output),
            name: name.to_owned(),
            peer: self.contact.petname.as_str().to_owned(),
            path: connection.path(),
            label: self.label.clone().unwrap_or_default(),
            meter: OnceLock::new(),
            moved: Arc::clone(moved),
        });
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(|error| {
            let message = format!("the operating system gave no randomness: {error}");
            Stopped::Failure(Failure::new(code::OTHER, message, "again"))
        })?;
        let sending = Sending {
            transfer: TransferId(u64::from_le_bytes(number)),
            limit: self.limit.clone(),
        };
        let control = connection.open(transfer::SERVICE).await;
        let control = control.map_err(|error| Stopped::Error(error.into()))?;
        let sources = Arc::clone(&self.sources);
        let sent = transfer::send(connection, control, sources, sending, teller).await;
        sent.map_err(Stopped::Error)
    }
}

/// Why a transfer did not come to its end.
enum Stopped {
    Person,
    Error(SendError),
    Failure(Failure),
}

impl From<Stopped> for Failure {
    fn from(stopped: Stopped) -> Self {
        match stopped {
            Stopped::Person => Self::new(
                code::PARTIAL,
                "stopped; what the other machine has of it stays there",
                "the same command again; it goes on where it stopped",
            ),
            Stopped::Error(error) => error.into(),
            Stopped::Failure(failure) => failure,
        }
    }
}

/// Did it break off because the connection did? The receiver may have accepted without this side's knowing, and waits then.
fn broke_off(error: &SendError, connection: &Connection) -> bool {
    match error {
        SendError::Interrupted { .. } => true,
        SendError::Frame(_) | SendError::Stream(_) => is_lost(connection),
        _ => false,
    }
}

/// It broke off, and nobody came back. The receiver may have a part of it, whatever this side knows.
fn partial(broken: &SendError) -> Failure {
    let hint = "the same command again; it goes on where it stopped";
    Failure::new(code::PARTIAL, broken.to_string(), hint)
}

fn tell_sources(context: &Context, sources: &Sources) {
    let output = &context.output;
    for (path, what) in &sources.skipped {
        let path = path.to_string_lossy();
        output.talk(format_args!("left out: {}: {what}", Untrusted(&path)));
    }
    let more = sources.skipped_count - sources.skipped.len();
    if more > 0 {
        output.talk(format_args!("left out: {more} more"));
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
