//! A server and two machines behind NATs of two kinds, in namespaces, with the steps by which they get to know each other.
//!
//! Every step starts one of the project's programs and waits for its word. What the steps are for is the caller's
//! matter: the demonstration sends a file afterwards, the matrix counts how the pings ran.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use knothole::ServerUrl;
use serde_json::Value;

use super::late::Late;
use super::sites::settle;
use super::{DemoError, PathSeen, Stop};
use crate::fabric::{HostSpec, Lab, NatEngine};
use crate::link::LinkSpec;
use crate::nat::NatKind;
use crate::role::{Role, RoleError};
use crate::sim::Place;

/// The server's public addresses. Globally scoped inside the lab, because real software refuses documentation ranges.
pub(crate) const SERVERS: [IpAddr; 2] = [IpAddr::V4(SERVER), IpAddr::V6(SERVER6)];

const SERVER: Ipv4Addr = Ipv4Addr::new(5, 5, 5, 1);
/// Where the server answers STUN besides, so that machines can tell a mapping for all destinations from one for each address.
const SERVER_ALTERNATE: &str = "5.5.5.2:5669";

const SERVER6: Ipv6Addr = Ipv6Addr::new(0x2a01, 5, 5, 5, 0, 0, 0, 1);

/// How long any single small step may take: seconds on an idle machine, more where others use it too.
pub(crate) const STEP: Duration = Duration::from_secs(60);

/// Relay rate that the server grants, in Mbit/s: more than the lab carries, so that a relayed transfer shows the relay
/// and not its limit.
const RELAY_MBIT: u64 = 100_000;

/// Who is to meet, and over what.
#[derive(Clone, Debug)]
pub(crate) struct Cast {
    /// Names of the two machines, at the server and in the lab.
    pub(crate) names: [&'static str; 2],
    /// The NATs in front of them.
    pub(crate) kinds: [&'static NatKind; 2],
    /// What they have in common.
    pub(crate) place: Place,
    /// By how much the news of the introduction reach the second later than is to be expected.
    pub(crate) late: Duration,
    /// The access links of the two machines, the same both ways.
    pub(crate) links: [LinkSpec; 2],
    /// One-way delay of the server's access link.
    pub(crate) server_delay: Duration,
    /// Where the randomness of NATs and links comes from.
    pub(crate) seed: u64,
    /// The executable that plays the roles: the lab's own.
    pub(crate) executable: PathBuf,
    /// Who plays the NATs.
    pub(crate) engine: NatEngine,
}

/// The lab with its players. Dropping it ends them and leaves nothing.
pub(crate) struct Meeting {
    // The programs end before the network that they are in.
    server: Option<Role>,
    url: Option<ServerUrl>,
    cast: Cast,
    lab: Lab,
    dir: tempfile::TempDir,
    stop: Stop,
}

/// One answer to a ping.
#[derive(Clone, Debug)]
pub(crate) struct Pong {
    pub(crate) rtt_ms: f64,
    pub(crate) path: PathSeen,
    /// Milliseconds since the command began.
    pub(crate) at_ms: u64,
}

/// How the pings went.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pings {
    /// Milliseconds from the start of the command to the first answer over a direct path.
    pub(crate) direct_after_ms: Option<u64>,
    /// The last answer's path; `None` if none came.
    pub(crate) last: Option<PathSeen>,
    /// What the rounds were, by word.
    pub(crate) plans: Vec<String>,
    /// When the first round's plan was told, in milliseconds from the start of the command.
    pub(crate) plan_ms: Option<u64>,
    /// When the first direct path was told, likewise.
    pub(crate) path_ms: Option<u64>,
    /// Probes that the command says it sent in all.
    pub(crate) probes: Option<u32>,
    /// Sockets that it opened, likewise.
    pub(crate) sockets: Option<u32>,
    /// Entries in a NAT that it thinks it made, likewise.
    pub(crate) nat_entries: Option<u64>,
}

impl Meeting {
    /// Builds the lab.
    ///
    /// # Errors
    /// [`DemoError`].
    pub(crate) fn new(cast: Cast, stop: &Stop) -> Result<Self, DemoError> {
        Self::new_in(&std::env::temp_dir(), cast, stop)
    }

    /// The same with its files in a folder below `parent`.
    ///
    /// # Errors
    /// [`DemoError`].
    pub(crate) fn new_in(parent: &Path, cast: Cast, stop: &Stop) -> Result<Self, DemoError> {
        let dir = tempfile::Builder::new()
            .prefix("knothole-demo-")
            .tempdir_in(parent)
            .map_err(|source| DemoError::files("a temporary folder", source))?;
        let [a, b] = cast.names;
        let servers = SERVERS.into_iter().chain(alternate());
        let builder = Lab::builder()
            .seed(cast.seed)
            .engine(cast.engine)
            .host("server", HostSpec::public(servers));
        let lab = settle(builder, &cast)
            .link("server", LinkSpec::delay(cast.server_delay))
            .link(a, cast.links[0])
            .link(b, cast.links[1])
            .build()?;
        Ok(Self {
            server: None,
            url: None,
            cast,
            lab,
            dir,
            stop: stop.clone(),
        })
    }

    /// Starts the server; answers where it listens.
    ///
    /// # Errors
    /// [`DemoError`].
    pub(crate) fn serve(&mut self) -> Result<String, DemoError> {
        self.serve_with(RELAY_MBIT)
    }

    /// The same with a relay that forwards so many Mbit/s.
    ///
    /// # Errors
    /// [`DemoError`].
    pub(crate) fn serve_with(&mut self, relay_mbit: u64) -> Result<String, DemoError> {
        let relay_mbit = relay_mbit.to_string();
        let data = self.path("server");
        let (data, public) = (data.to_string_lossy(), SERVER.to_string());
        let (listen, listen6) = (format!("{SERVER}:5668"), format!("[{SERVER6}]:5668"));
        let arguments = [
            "run",
            "--listen",
            &listen,
            "--listen",
            &listen6,
            "--alt",
            SERVER_ALTERNATE,
            "--public",
            &public,
            "--data",
            &data,
            "--relay-total-mbit",
            &relay_mbit,
            "--json",
        ];
        let role = self.start("server", "knothole-rendezvous", "server", None, &arguments)?;
        let ready = role.wait_for("ready", Instant::now() + STEP, &self.stop)?;
        let url = ready["server"].as_str().unwrap_or_default();
        let url = url.parse().map_err(|error| RoleError::Ended {
            role: "server".to_owned(),
            message: format!("its line for nodes is none: {error}"),
            log: self.log_of("server"),
        })?;
        self.url = Some(url);
        self.server = Some(role);
        Ok(listen)
    }

    /// Lets the two get to know each other by a code; answers the code and how long it took.
    ///
    /// # Errors
    /// [`DemoError`].
    pub(crate) fn pair(&self) -> Result<(String, Duration), DemoError> {
        let begun = Instant::now();
        let deadline = begun + STEP;
        let shows = self.node(0, "pair", &["pair"])?;
        let event = shows.wait_for("code", deadline, &self.stop)?;
        let code = event["code"].as_str().unwrap_or_default().to_owned();
        let types = self.node(1, "pair", &["pair", &code])?;
        types.wait_for("paired", deadline, &self.stop)?;
        shows.wait_for("paired", deadline, &self.stop)?;
        types.finish(deadline, &self.stop)?;
        shows.finish(deadline, &self.stop)?;
        Ok((code, begun.elapsed()))
    }

    /// Keeps the second machine reachable, with its files in `inbox`.
    ///
    /// # Errors
    /// [`DemoError`].
    pub(crate) fn up(&self) -> Result<Role, DemoError> {
        let inbox = self.path("inbox");
        let role = self.node(1, "up", &["up", "--inbox", &inbox.to_string_lossy()])?;
        role.wait_for("registered", Instant::now() + STEP, &self.stop)?;
        Ok(role)
    }

    /// Lets a machine find out what its network does, and keep it.
    ///
    /// # Errors
    /// [`DemoError`].
    pub(crate) fn survey(&self, side: usize) -> Result<(), DemoError> {
        let role = self.node(side, "netcheck", &["netcheck"])?;
        role.finish(Instant::now() + STEP, &self.stop)?;
        Ok(())
    }

    /// The first machine pings the second until the path is direct, until it is clear that it stays relayed, or for `limit`.
    ///
    /// # Errors
    /// [`DemoError`].
    pub(crate) fn ping(
        &self,
        limit: Duration,
        relay: &str,
        observe: &mut dyn FnMut(Pong),
    ) -> Result<Pings, DemoError> {
        let limit = format!("{}ms", limit.as_millis());
        let arguments = [
            "ping",
            self.cast.names[1],
            "--until-direct",
            "--timeout",
            &limit,
            "--relay",
            relay,
        ];
        let late = Late::begin(&self.lab, self.cast.names[1], self.cast.links[1], self.cast.late)?;
        let role = self.node(0, "ping", &arguments)?;
        let deadline = Instant::now() + STEP;
        let mut pings = Pings::default();
        while let Some(event) = role.next(deadline, &self.stop)? {
            match event["event"].as_str() {
                Some("pong") => {
                    let path = path_of(&event);
                    pings.last = Some(path.clone());
                    observe(Pong {
                        rtt_ms: event["rtt_ms"].as_f64().unwrap_or_default(),
                        path,
                        at_ms: event["at_ms"].as_u64().unwrap_or_default(),
                    });
                }
                Some("plan") => {
                    late.end()?;
                    pings.plan_ms = pings.plan_ms.or(event["at_ms"].as_u64());
                    pings.plans.extend(event["plan"].as_str().map(ToOwned::to_owned));
                }
                Some("path") if event["kind"] == "direct" => {
                    pings.path_ms = pings.path_ms.or(event["at_ms"].as_u64());
                }
                Some("summary") => {
                    let count = |name: &str| event[name].as_u64().and_then(|count| u32::try_from(count).ok());
                    pings.direct_after_ms = event["direct_after_ms"].as_u64();
                    (pings.probes, pings.sockets) = (count("probes"), count("sockets"));
                    pings.nat_entries = event["nat_entries"].as_u64();
                }
                _ => {}
            }
        }
        Ok(pings)
    }

    /// Can this machine's programs talk to the server? If not, the error that they end with; they give up after `limit`.
    ///
    /// # Errors
    /// [`DemoError`] for anything but an answer to the question.
    pub(crate) fn reach(&self, side: usize, limit: Duration) -> Result<Result<(), String>, DemoError> {
        let limit = format!("{}ms", limit.as_millis());
        let role = self.node(side, "reach", &["pair", "--timeout", &limit])?;
        let deadline = Instant::now() + STEP;
        while let Some(event) = role.next(deadline, &self.stop)? {
            match event["event"].as_str() {
                Some("code") => return Ok(Ok(())),
                Some("error") => {
                    let message = event["message"].as_str().unwrap_or("no message");
                    return Ok(Err(message.to_owned()));
                }
                _ => {}
            }
        }
        Ok(Err("ended without a word".to_owned()))
    }

    /// Starts a command of the node on one of the two machines, with the options that all of them have.
    ///
    /// # Errors
    /// [`DemoError`].
    pub(crate) fn node(&self, side: usize, label: &str, arguments: &[&str]) -> Result<Role, DemoError> {
        let name = self.cast.names[side];
        let url = self.url(side);
        let mut all = arguments.to_vec();
        all.extend(["--server", &url, "--json"]);
        if arguments
            .first()
            .is_some_and(|verb| ["up", "pair"].contains(verb))
        {
            all.extend(["--name", name]);
        }
        self.start(name, "knothole", &format!("{label}-{name}"), Some(name), &all)
    }

    /// Most entries that any of the NATs has held: all that the machines behind it do, not only with each other. Where the kernel
    /// plays it, what connection tracking counts now.
    pub(crate) fn nat_entries(&self) -> usize {
        let stats = self.lab.stats();
        let held = stats.nats.values().map(|nat| nat.stats.peak_entries);
        held.max().unwrap_or(0)
    }

    /// Starts such a command with the files of `home` instead of the machine's own, as another person there would; the
    /// folder's name is the node's name too.
    ///
    /// # Errors
    /// [`DemoError`].
    pub(crate) fn node_of(&self, side: usize, home: &str, arguments: &[&str]) -> Result<Role, DemoError> {
        let url = self.url(side);
        let mut all = arguments.to_vec();
        all.extend(["--server", &url, "--json"]);
        let verb = arguments.first().copied().unwrap_or_default();
        if ["up", "pair"].contains(&verb) {
            all.extend(["--name", home]);
        }
        let label = format!("{verb}-{home}");
        self.start(self.cast.names[side], "knothole", &label, Some(home), &all)
    }

    /// Ends the server; answers what it told last of how things stand.
    ///
    /// # Errors
    /// [`DemoError`].
    pub(crate) fn dismiss_server(&mut self, deadline: Instant) -> Result<Value, DemoError> {
        let mut last = Value::Null;
        if let Some(server) = self.server.take() {
            server.ask_to_end();
            while let Some(event) = server.next(deadline, &self.stop)? {
                if event["event"] == "stats" {
                    last = event;
                }
            }
        }
        Ok(last)
    }

    /// The server's process, once it runs.
    pub(crate) fn server_id(&self) -> Option<u32> {
        self.server.as_ref().map(Role::id)
    }

    /// The lab.
    pub(crate) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Where a file of the meeting is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What a program said, from the label of its start.
    pub(crate) fn log_of(&self, label: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{label}.log"))).unwrap_or_default()
    }

    /// The server's line for this machine, with an address of a family that the machine has.
    fn url(&self, side: usize) -> String {
        let Some(url) = &self.url else {
            return String::new();
        };
        let mut url = url.clone();
        if !self.cast.kinds[side].families.v4 {
            url.host = SERVER6.to_string();
        }
        url.reveal()
    }

    fn start(
        &self,
        host: &str,
        program: &str,
        label: &str,
        home: Option<&str>,
        arguments: &[&str],
    ) -> Result<Role, DemoError> {
        let log = self.path(&format!("{label}.log"));
        let mut command = Role::command(&self.cast.executable, program, &log)?;
        command.args(arguments);
        if let Some(home) = home {
            command.env("KNOTHOLE_HOME", self.path(home));
        }
        let child = self.lab.host(host)?.spawn(command)?;
        Ok(Role::new(label, child, &log))
    }
}

/// Where else the server is.
fn alternate() -> Option<IpAddr> {
    let addr: SocketAddr = SERVER_ALTERNATE.parse().ok()?;
    Some(addr.ip())
}

/// A host behind the NATs of a kind, with the addresses that it has there: NATs of its own, or those that lead to `inner`.
/// The path that an event tells of.
pub(crate) fn path_of(event: &Value) -> PathSeen {
    let text = |key: &str| event[key].as_str().map(ToOwned::to_owned);
    PathSeen {
        kind: text("kind").unwrap_or_default(),
        detail: text("how").or_else(|| text("why")).unwrap_or_default(),
    }
}

/// The end of a program's output, for errors.
pub(crate) fn silent(role: &str, log: String) -> DemoError {
    DemoError::Role(RoleError::Timeout {
        role: role.to_owned(),
        log,
    })
}

/// The hash of a file of the meeting.
pub(crate) fn hash(path: &Path, what: &'static str) -> Result<String, DemoError> {
    super::files::hash(path).map_err(|source| DemoError::files(what, source))
}
