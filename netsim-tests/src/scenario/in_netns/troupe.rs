//! [`Troupe`]: the project's own programs on the machines of a lab: the server, `up` on every node, and a `ping` for
//! every link that is wanted. What they say is remembered as far as somebody may ask.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::build;
use crate::fabric::Lab;
use crate::role::{Role, RoleError, Stop};
use crate::scenario::model::{NodeIndex, NodeRole, PathKind, Relay, Scenario};
use crate::scenario::stage::{PathView, StageError};

/// How long any single small thing may take: seconds on an idle machine, more where others use it too.
const SOON: Duration = Duration::from_secs(60);

/// Relay rate that the server grants, in Mbit/s: more than the lab carries, so that a test of a link is not one of it.
const RELAY_MBIT: &str = "100000";

/// A ping that ended is started again after this.
const PING_AGAIN: Duration = Duration::from_secs(1);

/// A path is no longer believed in when no answer came for this long: questions go out every second, and an answer may
/// take as long again over the worst of links.
const SILENT_AFTER: Duration = Duration::from_secs(3);

/// Questions of one ping: it ends when it is no longer wanted.
const PING_COUNT: &str = "1000000";

/// Port of the server, as in its documentation.
const PORT: u16 = 5668;

/// The programs on a lab's machines. They end when this is dropped.
#[derive(Debug)]
pub struct Troupe {
    executable: PathBuf,
    dir: PathBuf,
    names: Vec<String>,
    /// The line that a node needs, by family: nodes without IPv4 look elsewhere.
    urls: BTreeMap<NodeIndex, String>,
    servers: Vec<IpAddr>,
    server: Option<(NodeIndex, Option<Role>)>,
    ups: BTreeMap<NodeIndex, Up>,
    pings: BTreeMap<(NodeIndex, NodeIndex), Ping>,
    started: usize,
}

/// `knothole up` on a node.
#[derive(Debug, Default)]
struct Up {
    role: Option<Role>,
    registered: bool,
    paths: BTreeMap<String, PathView>,
}

/// `knothole ping`, for as long as the link is wanted.
#[derive(Debug)]
struct Ping {
    relay: Relay,
    role: Option<Role>,
    again: Instant,
    path: PathView,
    pongs: u64,
    /// When the last answer came.
    heard: Option<Instant>,
}

impl Troupe {
    /// Starts the server, lets the pairs get to know each other, and starts the nodes. Files and logs go to `dir`,
    /// `executable` is the lab's own.
    ///
    /// # Errors
    ///
    /// A program that does not do its part, with the end of its log.
    pub fn start(
        scenario: &Scenario,
        lab: &Lab,
        executable: &Path,
        dir: &Path,
        stop: &Stop,
    ) -> Result<Self, StageError> {
        let mut troupe = Self {
            executable: executable.to_owned(),
            dir: dir.to_owned(),
            names: scenario.nodes.iter().map(|node| node.name.clone()).collect(),
            urls: BTreeMap::new(),
            servers: build::servers(scenario),
            server: None,
            ups: BTreeMap::new(),
            pings: BTreeMap::new(),
            started: 0,
        };
        let Some(server) = scenario.server() else {
            return Ok(troupe);
        };
        let url = troupe.start_server(server, lab, stop)?;
        let reaching = |node: NodeIndex| scenario.reaches_server(node, &troupe.servers);
        let nodes = scenario.nodes.iter().enumerate();
        let nodes: Vec<NodeIndex> = nodes
            .filter(|(_, node)| node.role == NodeRole::Node)
            .map(|(index, _)| index)
            .collect();
        let reaches: Vec<NodeIndex> = nodes.iter().copied().filter(|node| reaching(*node)).collect();
        for node in &nodes {
            let url = troupe.url_for(scenario, *node, &url);
            troupe.urls.insert(*node, url);
        }
        for (one, two) in &scenario.pairs {
            // Who cannot talk to the server cannot get to know anybody by it.
            if reaches.contains(one) && reaches.contains(two) {
                troupe.pair(*one, *two, lab, stop)?;
            }
        }
        for node in &nodes {
            troupe.start_up(*node, lab)?;
        }
        troupe.wait_for_registration(&reaches, stop)?;
        Ok(troupe)
    }

    /// The home of a node: its key, its address book.
    #[must_use]
    pub fn home(&self, node: NodeIndex) -> PathBuf {
        self.dir.join(format!("{}.home", self.names[node]))
    }

    /// Takes in what the programs said, and starts the pings again that ended.
    ///
    /// # Errors
    ///
    /// A program that cannot be started.
    pub fn attend(&mut self, lab: &Lab) -> Result<(), StageError> {
        for up in self.ups.values_mut() {
            up.listen();
        }
        let mut due = Vec::new();
        for (ends, ping) in &mut self.pings {
            ping.listen();
            let from_is_up = self.ups.get(&ends.0).is_some_and(|up| up.role.is_some());
            if ping.role.is_none() && from_is_up && Instant::now() >= ping.again {
                due.push(*ends);
            }
        }
        for (from, to) in due {
            self.ping(from, to, lab)?;
        }
        Ok(())
    }

    /// From now on this link is wanted.
    pub(super) fn connect(
        &mut self,
        from: NodeIndex,
        to: NodeIndex,
        relay: Relay,
        lab: &Lab,
    ) -> Result<(), StageError> {
        let pongs = self.pings.remove(&(from, to)).map_or(0, |ping| ping.pongs);
        let ping = Ping {
            relay,
            role: None,
            again: Instant::now(),
            path: PathView::nothing(),
            pongs,
            heard: None,
        };
        self.pings.insert((from, to), ping);
        self.ping(from, to, lab)
    }

    /// From now on it is not.
    pub(super) fn disconnect(&mut self, from: NodeIndex, to: NodeIndex) {
        self.pings.remove(&(from, to));
    }

    /// The program of a node or the server dies.
    pub(super) fn kill(&mut self, node: NodeIndex) {
        if let Some((server, role)) = &mut self.server
            && *server == node
            && let Some(role) = role.take()
        {
            role.kill();
        }
        if let Some(up) = self.ups.get_mut(&node) {
            let role = up.role.take();
            *up = Up::default();
            if let Some(role) = role {
                role.kill();
            }
        }
        for (ends, ping) in &mut self.pings {
            if ends.0 == node
                && let Some(role) = ping.role.take()
            {
                role.kill();
                ping.path = PathView::nothing();
            }
        }
    }

    /// It starts again, if it does not run.
    pub(super) fn revive(&mut self, node: NodeIndex, lab: &Lab, stop: &Stop) -> Result<(), StageError> {
        if matches!(&self.server, Some((server, None)) if *server == node) {
            self.start_server(node, lab, stop)?;
        }
        if self.ups.get(&node).is_some_and(|up| up.role.is_none()) {
            self.start_up(node, lab)?;
        }
        Ok(())
    }

    pub(super) fn is_registered(&self, node: NodeIndex) -> bool {
        self.ups.get(&node).is_some_and(|up| up.registered)
    }

    /// The path as the one who asks sees it, else as the one who is asked does.
    pub(super) fn path(&self, from: NodeIndex, to: NodeIndex) -> PathView {
        if let Some(ping) = self.pings.get(&(from, to)) {
            return match ping.heard.map(|heard| heard.elapsed()) {
                Some(silent) if silent > SILENT_AFTER && ping.path.kind != PathKind::None => PathView {
                    detail: format!("no answer for {:.1} s", silent.as_secs_f64()),
                    ..PathView::nothing()
                },
                _ => ping.path.clone(),
            };
        }
        let seen = self.ups.get(&from).and_then(|up| up.paths.get(&self.names[to]));
        seen.cloned().unwrap_or_else(PathView::nothing)
    }

    /// Answers that came to the one who asks; `None` where another asks.
    pub(super) fn arrivals(&self, from: NodeIndex, to: NodeIndex) -> Option<u64> {
        match (self.pings.get(&(from, to)), self.pings.get(&(to, from))) {
            (Some(ping), _) => Some(ping.pongs),
            (None, None) => Some(0),
            (None, Some(_)) => None,
        }
    }

    /// Starts the server; the line that a node needs.
    fn start_server(&mut self, node: NodeIndex, lab: &Lab, stop: &Stop) -> Result<String, StageError> {
        let data = self.dir.join("server").to_string_lossy().into_owned();
        let public = self.servers.first().map_or_else(String::new, ToString::to_string);
        let mut arguments: Vec<String> = ["run", "--open", "--json", "--relay-total-mbit", RELAY_MBIT]
            .map(ToOwned::to_owned)
            .to_vec();
        for ip in &self.servers {
            arguments.extend([
                "--listen".to_owned(),
                std::net::SocketAddr::new(*ip, PORT).to_string(),
            ]);
        }
        arguments.extend(["--public".to_owned(), public, "--data".to_owned(), data]);
        let role = self.play(node, "knothole-rendezvous", "server", &arguments, lab)?;
        let ready = role.wait_for("ready", Instant::now() + SOON, stop)?;
        let url = ready["server"].as_str().unwrap_or_default().to_owned();
        self.server = Some((node, Some(role)));
        Ok(url)
    }

    /// The server's line for a node: with its IPv6 address where the node has no other.
    fn url_for(&self, scenario: &Scenario, node: NodeIndex, url: &str) -> String {
        let v6 = self.servers.iter().find(|ip| ip.is_ipv6());
        match (scenario.nodes[node].families.v4, self.servers.first(), v6) {
            (false, Some(first), Some(v6)) => url.replacen(&first.to_string(), &format!("[{v6}]"), 1),
            _ => url.to_owned(),
        }
    }

    fn pair(&mut self, one: NodeIndex, two: NodeIndex, lab: &Lab, stop: &Stop) -> Result<(), StageError> {
        let deadline = Instant::now() + SOON;
        let arguments = |troupe: &Self, node: NodeIndex| {
            [
                "--server",
                &troupe.urls[&node],
                "--name",
                &troupe.names[node],
                "--json",
            ]
            .map(ToOwned::to_owned)
            .to_vec()
        };
        let mut line = vec!["pair".to_owned()];
        line.extend(arguments(self, one));
        let shows = self.play(one, "knothole", "pair", &line, lab)?;
        let event = shows.wait_for("code", deadline, stop)?;
        let code = event["code"].as_str().unwrap_or_default().to_owned();
        let mut line = vec!["pair".to_owned(), code];
        line.extend(arguments(self, two));
        let types = self.play(two, "knothole", "pair", &line, lab)?;
        types.wait_for("paired", deadline, stop)?;
        shows.wait_for("paired", deadline, stop)?;
        types.finish(deadline, stop)?;
        shows.finish(deadline, stop)?;
        Ok(())
    }

    fn start_up(&mut self, node: NodeIndex, lab: &Lab) -> Result<(), StageError> {
        let inbox = self.home(node).join("inbox").to_string_lossy().into_owned();
        let line = [
            "up",
            "--server",
            &self.urls[&node],
            "--name",
            &self.names[node],
            "--inbox",
            &inbox,
            "--json",
        ];
        let role = self.play(node, "knothole", "up", &line.map(ToOwned::to_owned), lab)?;
        let up = Up {
            role: Some(role),
            ..Up::default()
        };
        self.ups.insert(node, up);
        Ok(())
    }

    fn wait_for_registration(&mut self, nodes: &[NodeIndex], stop: &Stop) -> Result<(), StageError> {
        let deadline = Instant::now() + SOON;
        for node in nodes {
            if let Some(up) = self.ups.get_mut(node)
                && let Some(role) = &up.role
            {
                role.wait_for("registered", deadline, stop)?;
                up.registered = true;
            }
        }
        Ok(())
    }

    fn ping(&mut self, from: NodeIndex, to: NodeIndex, lab: &Lab) -> Result<(), StageError> {
        let Some(relay) = self.pings.get(&(from, to)).map(|ping| ping.relay) else {
            return Ok(());
        };
        let line = [
            "ping",
            &self.names[to],
            "--count",
            PING_COUNT,
            "--relay",
            relay.word(),
            "--server",
            &self.urls[&from],
            "--json",
        ];
        let role = self.play(from, "knothole", "ping", &line.map(ToOwned::to_owned), lab)?;
        if let Some(ping) = self.pings.get_mut(&(from, to)) {
            ping.role = Some(role);
        }
        Ok(())
    }

    /// Starts a program of the project on a machine.
    fn play(
        &mut self,
        node: NodeIndex,
        program: &str,
        what: &str,
        arguments: &[String],
        lab: &Lab,
    ) -> Result<Role, StageError> {
        let name = self.names[node].clone();
        let home = self.home(node);
        fs::create_dir_all(&home).map_err(|source| RoleError::Files {
            what: "the home of a node",
            source,
        })?;
        self.started += 1;
        let label = format!("{:03}-{name}-{what}", self.started);
        let log = self.dir.join(format!("{label}.log"));
        let mut command = Role::command(&self.executable, program, &log)?;
        command.args(arguments).env("KNOTHOLE_HOME", home);
        let child = lab.host(&name)?.spawn(command)?;
        Ok(Role::new(&format!("{what} on {name}"), child, &log))
    }
}

impl Drop for Troupe {
    /// All are asked before the first is waited for.
    fn drop(&mut self) {
        let pings = self.pings.values().filter_map(|ping| ping.role.as_ref());
        let ups = self.ups.values().filter_map(|up| up.role.as_ref());
        pings.chain(ups).for_each(Role::ask_to_end);
        self.pings.clear();
        self.ups.clear();
    }
}

impl Up {
    fn listen(&mut self) {
        let Some(role) = &self.role else { return };
        let Some(news) = role.news() else {
            *self = Self::default();
            return;
        };
        for event in news {
            let peer = event["peer"].as_str().unwrap_or_default().to_owned();
            match event["event"].as_str() {
                Some("registered") => self.registered = true,
                Some("server-lost") => self.registered = false,
                Some("path") => {
                    self.paths.insert(peer, view(&event));
                }
                Some("disconnected") => {
                    self.paths.remove(&peer);
                }
                _ => {}
            }
        }
    }
}

impl Ping {
    fn listen(&mut self) {
        let Some(role) = &self.role else { return };
        let Some(news) = role.news() else {
            self.role = None;
            self.again = Instant::now() + PING_AGAIN;
            return;
        };
        for event in news {
            match event["event"].as_str() {
                Some("pong") => {
                    self.pongs += 1;
                    self.heard = Some(Instant::now());
                    self.path = view(&event);
                }
                Some("error") => {
                    let message = event["message"].as_str().unwrap_or("no message");
                    self.path = PathView {
                        detail: message.to_owned(),
                        ..PathView::nothing()
                    };
                }
                _ => {}
            }
        }
    }
}

/// A path as the programs' events tell it.
fn view(event: &Value) -> PathView {
    let text = |key: &str| event[key].as_str().map(ToOwned::to_owned);
    let kind = match event["kind"].as_str() {
        Some("direct") => PathKind::Direct,
        Some("relay") => PathKind::Relay,
        _ => PathKind::None,
    };
    PathView {
        kind,
        detail: text("how").or_else(|| text("why")).unwrap_or_default(),
        remote: text("remote"),
    }
}
