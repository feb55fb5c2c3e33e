//! What most commands need: the files of this machine's node, its server, a running node, a peer.

use std::io::{BufRead, IsTerminal, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use knothole_proto::id::{Name, PeerId};
use knothole_proto::server_url::ServerUrl;
use knothole_proto::wire::Refusal;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep};

use super::args::{Global, Guess};
use super::failure::{Failure, code};
use super::output::{
    Output, effort_fields, nat_words, path_fields, path_words, plan_fields, registered_fields,
};
use super::signals::Stop;
use crate::book::{AddressBook, Contact, ResolveError};
use crate::home::Home;
use crate::identity::Identity;
use crate::node::{ConnectError, ConnectOptions, Node, NodeConfig, NodeEvent, StartError};
use crate::session::Connection;

/// How long a connection is waited for unless told otherwise: as long as a person waits before thinking it broken.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a machine is waited for that the server knows and that is not there: one that lost the server, or whose server
/// was restarted, is back within five seconds, or some more if it is busy, and one that was just paired says so within a
/// second. Longer keeps those waiting whose machine is off.
const ABSENCE_PATIENCE: Duration = Duration::from_secs(8);

/// How long between two questions after it, or after one that came too fast. The server answers five a second.
const ABSENCE_RETRY: Duration = Duration::from_millis(500);

/// Longest secret that is read from stdin or a file, in bytes: a server's line is about 200.
const SECRET_LEN_MAX: u64 = 4096;

/// One command's surroundings.
#[derive(Clone)]
pub(super) struct Context {
    /// The flags that every command takes.
    pub(super) global: Global,
    /// Where words go.
    pub(super) output: Arc<Output>,
    /// Where files are.
    pub(super) home: Home,
    /// Does the person want it to end?
    pub(super) stop: Stop,
}

/// What kind of node a command needs.
pub(super) enum Wanted {
    /// Only dials; has no name.
    Dialling,
    /// Accepts connections; has no name.
    Accepting,
    /// Is known by a name. `explicit`: the person chose it, so no other will do.
    Named {
        /// The name.
        name: Name,
        /// Chosen by the person now.
        explicit: bool,
        /// Accepts connections.
        accepting: bool,
    },
}

impl Context {
    /// The address book.
    pub(super) fn book(&self) -> Result<AddressBook, Failure> {
        Ok(AddressBook::load(&self.home.book())?)
    }

    /// This machine's key, made if it has none.
    pub(super) fn identity(&self) -> Result<Identity, Failure> {
        Ok(Identity::load_or_create(&self.home.identity())?)
    }

    /// The server that was named now, or else the remembered one.
    pub(super) async fn server(&self, book: &AddressBook) -> Result<ServerUrl, Failure> {
        let text = match (&self.global.server, &self.global.server_file) {
            (Some(text), _) if text == "-" => self.line("the server's line").await?,
            (Some(text), _) => text.clone(),
            (None, Some(path)) => read_secret_file(path)?,
            (None, None) => {
                return book.server.clone().ok_or_else(|| {
                    Failure::new(
                        code::CONFIG,
                        "this machine has no server yet",
                        "knothole up --server 'knot://HOST:5668/KEY?token=TOKEN', the line that the server printed",
                    )
                });
            }
        };
        Ok(text.parse::<ServerUrl>()?)
    }

    /// Start a node and register it, unless the person gives up first.
    pub(super) async fn start(
        &self,
        book: &AddressBook,
        server: &ServerUrl,
        wanted: Wanted,
    ) -> Result<Node, Failure> {
        let mut config = NodeConfig::new(self.identity()?, server.clone());
        config.peers = book.to_peers();
        config.allow_loopback = self.global.allow_loopback;
        config.qlog.clone_from(&self.global.qlog);
        config.guesses = self.global.guess == Guess::Auto;
        config.networks = Some(self.home.networks());
        config.accepting = matches!(wanted, Wanted::Accepting);
        let mut spare = None;
        if let Wanted::Named {
            name,
            explicit,
            accepting,
        } = wanted
        {
            config.accepting = accepting;
            if !explicit {
                spare = spare_name(&name, config.identity.peer_id());
            }
            config.name = Some(name);
        }
        let node = match self.within("the server", Node::start(config.clone())).await? {
            Err(StartError::Refused(Refusal::NameTaken)) if spare.is_some() => {
                config.name = spare;
                self.within("the server", Node::start(config)).await??
            }
            started => started?,
        };
        self.tell_plans(&node);
        Ok(node)
    }

    /// Say how attempts to reach a machine directly go about it, as long as the node runs.
    fn tell_plans(&self, node: &Node) {
        let (mut events, output) = (node.events(), Arc::clone(&self.output));
        let (book, wordy) = (self.home.book(), self.global.verbose > 0);
        tokio::spawn(async move {
            loop {
                match events.recv().await {
                    Ok(NodeEvent::Plan { peer, round, plan }) => {
                        let peer = name_of(&book, peer);
                        output.event("plan", plan_fields(&peer, round, plan));
                        if wordy {
                            output.talk(format_args!("{peer}  {}: {}", plan.word(), plan.reason()));
                        }
                    }
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    /// Keep the server and the name for the commands to come.
    pub(super) fn remember(&self, server: &ServerUrl, node: &Node) -> Result<(), Failure> {
        let name = node.registered().name;
        Ok(AddressBook::update(&self.home.book(), |book| {
            book.server = Some(server.clone());
            book.name = name.or(book.name.take());
            Ok(())
        })?)
    }

    /// The paired machine that a person means.
    pub(super) async fn peer(&self, book: &AddressBook, node: &Node, text: &str) -> Result<Contact, Failure> {
        let error = match book.resolve(text) {
            Ok(contact) => return Ok(contact.clone()),
            Err(error) => error,
        };
        let Ok(name) = text.parse::<Name>() else {
            return Err(error.into());
        };
        if error != ResolveError::Unknown {
            return Err(error.into());
        }
        match self.within("the server", node.lookup(name.clone())).await?? {
            Some(id) => book.by_id(id).cloned().ok_or_else(|| {
                let message = format!("the server knows {name}, but this machine is not paired with it");
                Failure::new(code::PEER, message, "`knothole pair` on both machines")
            }),
            None => {
                let message =
                    format!("no paired machine is called {name}, and the server knows none of that name");
                Err(Failure::new(
                    code::PEER,
                    message,
                    "`knothole peers` lists them; `knothole pair` adds one",
                ))
            }
        }
    }

    /// Connect, and show the path whenever it changes, until the guard is dropped. A machine that is away for a moment is
    /// waited for.
    pub(super) async fn connect(
        &self,
        node: &Node,
        contact: &Contact,
    ) -> Result<(Connection, PathTeller), Failure> {
        let petname = contact.petname.as_str();
        let short = contact.id.short();
        self.output
            .talk(format_args!("connecting to {petname} ({short}) ..."));
        let connection = tokio::select! {
            connected = self.connect_in_time(node, contact) => connected.map_err(|error| {
                let mut failure = Failure::from(error);
                failure.message = format!("{petname}: {}", failure.message);
                failure
            })?,
            () = self.stop.wait() => return Err(Failure::interrupted()),
        };
        let teller = PathTeller::start(&connection, petname, &self.output);
        Ok((connection, teller))
    }

    async fn connect_in_time(&self, node: &Node, contact: &Contact) -> Result<Connection, ConnectError> {
        let begun = Instant::now();
        let give_up = begun + self.timeout();
        let mut told = false;
        // The last time that it was away.
        let mut away = None;
        loop {
            let options = ConnectOptions {
                policy: self.global.relay.policy(),
                timeout: give_up.saturating_duration_since(Instant::now()),
            };
            let error = match node.connect(contact.id, options).await {
                Ok(connection) => return Ok(connection),
                // Others of this command are waited for as well, or there was no time left for an answer; that one is away is
                // still what there is to say.
                Err(ConnectError::TooFast | ConnectError::Timeout { path: None })
                    if let Some(away) = away.take() =>
                {
                    away
                }
                Err(error) => error,
            };
            let until = ask_until(&error, begun, give_up);
            if until.is_none_or(|until| Instant::now() + ABSENCE_RETRY >= until) {
                return Err(error);
            }
            let is_away = is_absence(&error);
            if is_away && !std::mem::replace(&mut told, true) {
                self.output.talk(format_args!(
                    "{}: {error}; waiting for it for a few seconds",
                    contact.petname.as_str()
                ));
            }
            sleep(ABSENCE_RETRY).await;
            away = is_away.then_some(error);
        }
    }

    /// `--timeout`, or what is usual.
    pub(super) fn timeout(&self) -> Duration {
        self.global.timeout.unwrap_or(CONNECT_TIMEOUT)
    }

    /// Do something that the person may end, and that `--timeout` ends if it was given.
    pub(super) async fn within<T>(&self, what: &str, work: impl Future<Output = T>) -> Result<T, Failure> {
        let limit = async {
            match self.global.timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            done = work => Ok(done),
            () = limit => Err(Failure::timeout(what)),
            () = self.stop.wait() => Err(Failure::interrupted()),
        }
    }

    /// Do something that the person may end.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            done = work => Ok(done),
            () = self.stop.wait() => Err(Failure::interrupted()),
        }
    }

    /// A line from stdin, unless the person gives up first. The thread that reads cannot be called back and ends with the
    /// process.
    pub(super) async fn line(&self, what: &'static str) -> Result<String, Failure> {
        let reading = tokio::task::spawn_blocking(move || read_line(what));
        let read = self.within(what, reading).await?;
        read.unwrap_or_else(|error| Err(Failure::new(code::OTHER, error.to_string(), "")))
    }

    /// Say who this node is, for people and programs.
    pub(super) fn tell_registered(&self, node: &Node, server: &ServerUrl) {
        let registered = node.registered();
        self.output.event("registered", registered_fields(&registered));
        let name = registered.name.as_ref().map_or("(no name)", Name::as_str);
        self.output
            .talk(format_args!("this machine    {name}  {}", registered.id));
        self.output
            .talk(format_args!("server          {}:{}", server.host, server.port));
        self.output
            .talk(format_args!("public address  {}", registered.reflexive));
        self.output
            .talk(format_args!("NAT             {}", nat_words(registered.nat)));
    }
}

/// Until when it is worth asking again after this.
fn ask_until(error: &ConnectError, begun: Instant, give_up: Instant) -> Option<Instant> {
    match error {
        // Others of this command ask as well. The server lets in a few a second, so the turn of each comes.
        ConnectError::TooFast => Some(give_up),
        error if is_absence(error) => Some(give_up.min(begun + ABSENCE_PATIENCE)),
        _ => None,
    }
}

/// May the next moment show the contrary? The machine, or this one, may be on its way back to the server.
fn is_absence(error: &ConnectError) -> bool {
    matches!(
        error,
        ConnectError::Offline | ConnectError::PeerGone | ConnectError::ServerLost
    )
}

/// Shows each change of a connection's path, until dropped.
pub(super) struct PathTeller(tokio::task::JoinHandle<()>);

impl PathTeller {
    /// Begin with the path of this moment.
    pub(super) fn start(connection: &Connection, peer: &str, output: &Arc<Output>) -> Self {
        let (mut path, peer, output) = (connection.path(), peer.to_owned(), Arc::clone(output));
        Self(tokio::spawn(async move {
            loop {
                let state = *path.borrow_and_update();
                let mut fields = path_fields(&state.path);
                fields.extend(effort_fields(state.effort));
                fields.insert("peer".to_owned(), peer.clone().into());
                output.event("path", fields.into());
                output.talk(format_args!("{peer}  {}", path_words(&state.path)));
                if path.changed().await.is_err() {
                    return;
                }
            }
        }))
    }
}

impl Drop for PathTeller {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a machine is called here now; somebody may have paired it since.
fn name_of(book: &Path, id: PeerId) -> String {
    let book = AddressBook::load(book).ok();
    let contact = book.as_ref().and_then(|book| book.by_id(id));
    contact.map_or_else(|| id.short(), |contact| contact.petname.as_str().to_owned())
}

/// A line from stdin, without its end: for secrets that should not stand on a command line.
fn read_line(what: &str) -> Result<String, Failure> {
    let mut line = String::new();
    let read = std::io::stdin().lock().take(SECRET_LEN_MAX).read_line(&mut line);
    match read {
        Ok(1..) if !line.trim().is_empty() => Ok(line.trim().to_owned()),
        _ => Err(Failure::new(
            code::USAGE,
            format!("{what} was expected on stdin"),
            "type it, or pipe it in",
        )),
    }
}

/// Does a person sit at stdin?
pub(super) fn is_attended() -> bool {
    std::io::stdin().is_terminal()
}

/// The name that this machine is known by unless a person says otherwise: the remembered one, or the host's.
pub(super) fn own_name(book: &AddressBook) -> Result<Name, Failure> {
    if let Some(name) = &book.name {
        return Ok(name.clone());
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    name_from_host(&host).ok_or_else(|| {
        Failure::new(
            code::CONFIG,
            "the name of this host cannot be its name at the server",
            "--name NAME",
        )
    })
}

fn name_from_host(host: &str) -> Option<Name> {
    /// Longest part of a host name that is taken; leaves room for the characters that make it unique.
    const TAKEN_MAX: usize = 40;
    let label = host.split('.').next().unwrap_or_default().to_lowercase();
    let legal = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let mapped: String = label.chars().map(legal).take(TAKEN_MAX).collect();
    mapped.trim_matches('-').parse().ok()
}

/// `name-` and the first characters of the id: free as good as always.
fn spare_name(name: &Name, id: PeerId) -> Option<Name> {
    let tail: String = id.to_string().chars().take(4).collect();
    let stem: String = name.as_str().chars().take(58).collect();
    format!("{stem}-{tail}").parse().ok()
}

fn read_secret_file(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(SECRET_LEN_MAX).read_to_string(&mut text));
    read.map_err(|error| {
        let message = format!("cannot read {}: {error}", path.display());
        Failure::new(
            code::CONFIG,
            message,
            "the path of a file that holds the server's line",
        )
    })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_becomes_a_name_where_it_can() {
        for (host, name) in [
            ("nas", "nas"),
            ("My-PC.example.org", "my-pc"),
            ("a_b", "a-b"),
            ("-x-", "x"),
            ("(none)", "none"),
        ] {
            assert_eq!(name_from_host(host).unwrap().as_str(), name);
        }
        for host in ["", "...", "\u{dc}", "xn--a"] {
            assert_eq!(name_from_host(host), None, "{host}");
        }
        assert!(name_from_host(&"x".repeat(64)).is_some());
    }

    #[test]
    fn who_asked_too_fast_asks_again_until_the_timeout_and_for_who_is_away_the_patience_is_shorter() {
        let begun = Instant::now();
        let (long, short) = (begun + Duration::from_secs(60), begun + Duration::from_secs(1));
        let until = |error: ConnectError, give_up| ask_until(&error, begun, give_up);
        assert_eq!(until(ConnectError::TooFast, long), Some(long));
        assert_eq!(until(ConnectError::Offline, long), Some(begun + ABSENCE_PATIENCE));
        assert_eq!(until(ConnectError::Offline, short), Some(short));
        assert_eq!(until(ConnectError::Unknown, long), None);
        assert_eq!(until(ConnectError::TooMany, long), None);
    }

    #[test]
    fn a_name_that_is_taken_gets_a_tail_of_the_id() {
        let id = PeerId::from_bytes([0; 32]);
        assert_eq!(
            spare_name(&"nas".parse().unwrap(), id).unwrap().as_str(),
            "nas-aaaa"
        );
        assert_eq!(
            spare_name(&"x".repeat(63).parse().unwrap(), id)
                .unwrap()
                .as_str()
                .len(),
            63
        );
    }
}
