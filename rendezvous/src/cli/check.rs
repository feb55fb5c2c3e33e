//! `check`: would `run` work, and what has to change if not?

use std::net::IpAddr;
use std::process::ExitCode;

use knothole_proto::addr::Reach;
use serde_json::json;

use super::args::ServerArgs;
use super::failure::{CONFIG, DONE, Failure};
use super::say;
use crate::{Inspected, Inspection, Server, StartError};

/// One thing that was looked at.
struct Finding {
    what: &'static str,
    ok: bool,
    message: String,
    hint: Option<String>,
}

pub(super) fn check(args: &ServerArgs, json: bool) -> Result<ExitCode, Failure> {
    let config = args.config()?;
    let Inspection { data, sockets, host } = Server::inspect(&config);
    let running = matches!(data, Ok(Inspected::InUse { .. }));
    let mut findings = vec![match data {
        Ok(found) => fine("data", describe(&found)),
        Err(why) => bad("data", StartError::Data(why)),
    }];
    findings.push(match sockets {
        Ok(addrs) => fine("ports", format!("free: {}", join(&addrs))),
        Err(StartError::PortInUse { addr }) if running => fine(
            "ports",
            format!("{addr} is in use, most likely by the server that runs with this data"),
        ),
        Err(why) => bad("ports", why),
    });
    if let Some(host) = host {
        findings.push(reached(&host.to_string(), config.public_host.is_none()));
    }
    for finding in &findings {
        finding.tell(json);
    }
    let ok = findings.iter().all(|finding| finding.ok);
    Ok(ExitCode::from(if ok { DONE } else { CONFIG }))
}

fn describe(found: &Inspected) -> String {
    match found {
        Inspected::New => "nothing there; the first run makes key, token and database".to_owned(),
        Inspected::Whole { key, records } => format!("key {key}, {records} records"),
        Inspected::InUse { key } => format!("key {key}, in use by a running server"),
    }
}

/// Is the host one that nodes elsewhere can reach?
fn reached(host: &str, guessed: bool) -> Finding {
    let ip: Option<IpAddr> = host.parse().ok();
    let reach = ip.map(|ip| Reach::of((ip, 1).into()));
    let how = if guessed { "guessed" } else { "as told" };
    let mut finding = fine("public", format!("nodes will be told to look at {host} ({how})"));
    if guessed && reach.is_some_and(|reach| reach != Reach::Global) {
        finding.message.push_str(", which only this network can reach");
        finding.hint = Some("--public HOST with the name or address that others see".to_owned());
    }
    finding
}

fn fine(what: &'static str, message: String) -> Finding {
    Finding {
        what,
        ok: true,
        message,
        hint: None,
    }
}

fn bad(what: &'static str, why: StartError) -> Finding {
    let failure = Failure::from(why);
    Finding {
        what,
        ok: false,
        message: failure.message,
        hint: failure.hint,
    }
}

fn join<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

impl Finding {
    fn tell(&self, json: bool) {
        if json {
            say(&json!({
                "schema": 1, "event": "check",
                "what": self.what, "ok": self.ok, "message": self.message, "hint": self.hint,
            }));
            return;
        }
        let word = if self.ok { "ok  " } else { "FAIL" };
        say(&format_args!("{word}  {}: {}", self.what, self.message));
        if let Some(hint) = &self.hint {
            say(&format_args!("      try: {hint}"));
        }
    }
}
