//! The steps of the demonstration, in order. Each is a few lines: start a program, wait for its word.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{DemoError, PathSeen, Plan, Progress, Report, Stop, Transfer, files, measure};
use crate::fabric::{HostSpec, Lab};
use crate::link::LinkSpec;
use crate::nat::NatKind;
use crate::role::Role;

/// The server's public address. Globally scoped inside the lab, because real software refuses documentation ranges.
const SERVER: Ipv4Addr = Ipv4Addr::new(5, 5, 5, 1);

/// How long any single small step may take: seconds on an idle machine, more where others use it too.
const STEP: Duration = Duration::from_secs(60);

/// Slowest transfer that is still waited for, in bytes a second; below it something is wrong.
const SLOWEST: u64 = 2 << 20;

/// Relay rate that the server of the demonstration grants, in Mbit/s: more than the lab carries, so that a relayed
/// transfer shows the relay and not its limit.
const RELAY_MBIT: &str = "100000";

/// Where the demonstration's files are, and who plays.
struct Stage<'a> {
    plan: &'a Plan,
    lab: Lab,
    dir: tempfile::TempDir,
    stop: &'a Stop,
}

/// Carry out the plan, telling `observe` what happens. Whatever the outcome, nothing is left behind.
///
/// # Errors
/// [`DemoError`], with the end of the failing program's log.
pub fn run(plan: &Plan, stop: &Stop, observe: &mut dyn FnMut(Progress)) -> Result<Report, DemoError> {
    let dir = tempfile::Builder::new()
        .prefix("knothole-demo-")
        .tempdir()
        .map_err(|source| DemoError::Files {
            what: "a temporary folder",
            source,
        })?;
    let stage = Stage {
        plan,
        lab: build(plan)?,
        dir,
        stop,
    };
    let (_server, url) = stage.server(observe)?;
    observe(Progress::Machine {
        name: "desk",
        kind: plan.a,
    });
    observe(Progress::Machine {
        name: "nas",
        kind: plan.b,
    });
    stage.pair(&url, observe)?;
    let receiver = stage.receiver(&url)?;
    let (to_direct_ms, ping) = stage.ping(&url, observe)?;
    let transfer = stage.send(&url)?;
    observe(Progress::Sent(transfer.clone()));
    let (equal, hash) = stage.compare()?;
    observe(Progress::Compared { equal, hash });
    Ok(Report {
        a: plan.a.name.to_owned(),
        b: plan.b.name.to_owned(),
        to_direct_ms,
        ping,
        transfer,
        equal,
        receiver_peak_kib: measure::peak_memory_kib(receiver.id()),
    })
}

fn build(plan: &Plan) -> Result<Lab, DemoError> {
    let link = LinkSpec {
        delay: plan.delay,
        ..LinkSpec::default()
    };
    let behind =
        |kind: &NatKind, lan: [u8; 4]| HostSpec::behind(kind.chain(&[IpAddr::V4(SERVER)]), IpAddr::from(lan));
    let lab = Lab::builder()
        .host("server", HostSpec::public([SERVER]))
        .host("desk", behind(plan.a, [192, 168, 1, 10]))
        .host("nas", behind(plan.b, [192, 168, 2, 20]))
        .link("desk", link)
        .link("nas", link)
        .build()?;
    Ok(lab)
}

impl Stage<'_> {
    fn server(&self, observe: &mut dyn FnMut(Progress)) -> Result<(Role, String), DemoError> {
        let data = self.path("server");
        let data = data.to_string_lossy();
        let public = SERVER.to_string();
        let listen = format!("{SERVER}:5668");
        let arguments = [
            "run",
            "--listen",
            &listen,
            "--public",
            &public,
            "--data",
            &data,
            "--relay-total-mbit",
            RELAY_MBIT,
            "--json",
        ];
        let role = self.start("server", "knothole-rendezvous", "server", None, &arguments)?;
        let ready = role.wait_for("ready", Instant::now() + STEP, self.stop)?;
        let url = ready["server"].as_str().unwrap_or_default().to_owned();
        observe(Progress::Server { address: listen });
        Ok((role, url))
    }

    fn pair(&self, url: &str, observe: &mut dyn FnMut(Progress)) -> Result<(), DemoError> {
        let begun = Instant::now();
        let deadline = begun + STEP;
        let shows = self.start(
            "desk",
            "knothole",
            "pair-desk",
            Some("desk"),
            &["pair", "--server", url, "--name", "desk", "--json"],
        )?;
        let event = shows.wait_for("code", deadline, self.stop)?;
        let code = event["code"].as_str().unwrap_or_default().to_owned();
        let types = self.start(
            "nas",
            "knothole",
            "pair-nas",
            Some("nas"),
            &["pair", &code, "--server", url, "--name", "nas", "--json"],
        )?;
        types.wait_for("paired", deadline, self.stop)?;
        shows.wait_for("paired", deadline, self.stop)?;
        types.finish(deadline, self.stop)?;
        shows.finish(deadline, self.stop)?;
        observe(Progress::Paired {
            code,
            took: begun.elapsed(),
        });
        Ok(())
    }

    fn receiver(&self, url: &str) -> Result<Role, DemoError> {
        let inbox = self.path("inbox");
        let inbox = inbox.to_string_lossy();
        let arguments = [
            "up", "--server", url, "--name", "nas", "--inbox", &inbox, "--json",
        ];
        let role = self.start("nas", "knothole", "up-nas", Some("nas"), &arguments)?;
        role.wait_for("registered", Instant::now() + STEP, self.stop)?;
        Ok(role)
    }

    /// Ping until direct, or until it is clear that it stays relayed. Returns the moment of the first direct answer.
    fn ping(
        &self,
        url: &str,
        observe: &mut dyn FnMut(Progress),
    ) -> Result<(Option<u64>, PathSeen), DemoError> {
        let arguments = [
            "ping",
            "nas",
            "--server",
            url,
            "--until-direct",
            "--timeout",
            "5s",
            "--relay",
            &self.plan.relay,
            "--json",
        ];
        let role = self.start("desk", "knothole", "ping-desk", Some("desk"), &arguments)?;
        let deadline = Instant::now() + STEP;
        let (mut to_direct_ms, mut last) = (None, None);
        while let Some(event) = role.next(deadline, self.stop)? {
            match event["event"].as_str() {
                Some("pong") => {
                    let path = path_of(&event);
                    let at_ms = event["at_ms"].as_u64().unwrap_or_default();
                    let rtt_ms = event["rtt_ms"].as_f64().unwrap_or_default();
                    observe(Progress::Pong {
                        rtt_ms,
                        path: path.clone(),
                        at_ms,
                    });
                    last = Some(path);
                }
                Some("summary") => to_direct_ms = event["direct_after_ms"].as_u64(),
                _ => {}
            }
        }
        let Some(last) = last else {
            return Err(DemoError::Timeout {
                role: "ping".to_owned(),
                log: self.log_of("ping-desk"),
            });
        };
        Ok((to_direct_ms, last))
    }

    fn send(&self, url: &str) -> Result<Transfer, DemoError> {
        let file = self.path("holiday.bin");
        files::make(&file, self.plan.size, 1, self.stop).map_err(|source| DemoError::Files {
            what: "the file to send",
            source,
        })?;
        let file = file.to_string_lossy();
        let arguments = [
            "send",
            &file,
            "--to",
            "nas",
            "--server",
            url,
            "--relay",
            &self.plan.relay,
            "--json",
        ];
        let role = self.start("desk", "knothole", "send-desk", Some("desk"), &arguments)?;
        let deadline = Instant::now() + STEP + Duration::from_secs(self.plan.size / SLOWEST);
        let done = role.wait_for("done", deadline, self.stop)?;
        let path = if done["path"].is_object() {
            path_of(&done["path"])
        } else {
            path_of(&done)
        };
        Ok(Transfer {
            bytes: done["bytes"].as_u64().unwrap_or_default(),
            seconds: done["seconds"].as_f64().unwrap_or_default(),
            path,
            verified: done["verified"].as_bool().unwrap_or_default(),
        })
    }

    fn compare(&self) -> Result<(bool, String), DemoError> {
        let hash = |path: &Path, what| files::hash(path).map_err(|source| DemoError::Files { what, source });
        let sent = hash(&self.path("holiday.bin"), "the file that was sent")?;
        let arrived = hash(&self.path("inbox").join("holiday.bin"), "the file that arrived")?;
        Ok((sent == arrived, arrived.chars().take(16).collect()))
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
        let mut command = Role::command(&self.plan.executable, program, &log)?;
        command.args(arguments);
        if let Some(home) = home {
            command.env("KNOTHOLE_HOME", self.path(home));
        }
        let child = self.lab.host(host)?.spawn(command)?;
        Ok(Role::new(label, child, &log))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn log_of(&self, label: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{label}.log"))).unwrap_or_default()
    }
}

fn path_of(event: &Value) -> PathSeen {
    let text = |key: &str| event[key].as_str().map(ToOwned::to_owned);
    PathSeen {
        kind: text("kind").unwrap_or_default(),
        detail: text("how").or_else(|| text("why")).unwrap_or_default(),
    }
}
