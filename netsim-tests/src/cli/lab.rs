//! The commands of the interactive lab: `up`, `exec`, `ls`, `down`, and the hidden `keep` that `up` starts.

mod up;

use std::ffi::OsString;
use std::io::{ErrorKind, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::json;

use super::say;
use knothole_netsim::interactive::{Found, InteractiveError, StateDir, enter};
use knothole_netsim::role::RoleError;
use knothole_netsim::scenario::StageError;

pub(crate) use up::{KeepArgs, UpArgs, keep, up};

/// Exit codes of shells for a program that is not there, and one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Runs a program on a node of a lab, with this terminal.
#[derive(Args, Debug)]
pub(crate) struct ExecArgs {
    /// The node
    node: String,
    /// The lab, if there are several
    #[arg(long, env = "KNOTHOLE_LAB")]
    lab: Option<String>,
    /// Program and arguments, after --; without, a shell
    #[arg(last = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Lists the labs that are up.
#[derive(Args, Debug)]
pub(crate) struct LsArgs {
    /// One JSON object a line instead of text
    #[arg(long, env = "KNOTHOLE_JSON")]
    json: bool,
}

/// Ends a lab and everything in it.
#[derive(Args, Debug)]
pub(crate) struct DownArgs {
    /// The lab, if there are several
    name: Option<String>,
    /// Every lab of this user
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

/// Become the program on the node.
pub(crate) fn exec(args: &ExecArgs) -> ExitCode {
    let found = StateDir::open().and_then(|labs| Ok((labs.find(args.lab.as_deref())?, labs)));
    let (lab, labs) = match found {
        Ok(found) => found,
        Err(error) => return fail(false, &error),
    };
    let mut command = args.command.clone();
    if command.is_empty() {
        let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty());
        command.push(shell.unwrap_or_else(|| "/bin/sh".into()));
        if std::io::stderr().is_terminal() {
            eprintln!("a shell on {} of lab {}; exit leaves it", args.node, lab.name);
        }
    }
    fail(false, &enter(&labs, &lab, &args.node, &command))
}

/// List them. What a lab left whose keeper died is removed, and said.
pub(crate) fn ls(args: &LsArgs) -> ExitCode {
    let all = StateDir::open().and_then(|labs| Ok((labs.all()?, labs)));
    let (all, labs) = match all {
        Ok(all) => all,
        Err(error) => return fail(args.json, &error),
    };
    let mut shown = 0;
    for found in &all {
        if !found.alive {
            eprintln!("lab {}: its keeper has ended; removed what it left", found.name);
            if let Err(error) = labs.end(found) {
                return fail(args.json, &error);
            }
            continue;
        }
        shown += 1;
        // A reader that has seen enough is no failure.
        let _ = if args.json {
            say(lab_json(found))
        } else {
            say(lab_text(found))
        };
    }
    if shown == 0 && !args.json {
        eprintln!("no lab is up; next: knothole-netsim up FILE.toml");
    }
    ExitCode::SUCCESS
}

/// End it.
pub(crate) fn down(args: &DownArgs) -> ExitCode {
    let ended = StateDir::open().and_then(|labs| {
        let doomed = if args.all {
            labs.all()?
        } else {
            vec![labs.find(args.name.as_deref())?]
        };
        for found in &doomed {
            labs.end(found)?;
            let note = if found.alive {
                ""
            } else {
                ", whose keeper had ended before"
            };
            eprintln!("lab {} is down{note}", found.name);
        }
        Ok(())
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(false, &error),
    }
}

/// Says why, and the exit code for it.
pub(super) fn fail(json: bool, error: &InteractiveError) -> ExitCode {
    let code = exit_code(error);
    if json {
        // A reader that has seen enough is no failure.
        let _ = say(json!({ "schema": 1, "event": "error", "code": code, "message": error.to_string() }));
    } else {
        eprintln!("knothole-netsim: {error}");
    }
    ExitCode::from(code)
}

fn exit_code(error: &InteractiveError) -> u8 {
    match error {
        InteractiveError::Program { source, .. } if source.kind() == ErrorKind::NotFound => NOT_FOUND,
        InteractiveError::Program { .. } => NOT_EXECUTABLE,
        InteractiveError::Stage(StageError::Role(RoleError::Timeout { .. })) => 8,
        InteractiveError::Stage(StageError::Role(RoleError::Stopped)) => 130,
        InteractiveError::Stage(StageError::Role(_)) | InteractiveError::Keeper(_) => 1,
        _ => 3,
    }
}

/// The lab and its nodes, for people.
pub(super) fn lab_text(found: &Found) -> String {
    let Some(state) = &found.state else {
        return format!("{}  is being made", found.name);
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = now
        .saturating_sub(Duration::from_secs(state.since_unix_s))
        .as_secs();
    let age = match age {
        0..=119 => format!("{age} s"),
        120..=7199 => format!("{} min", age / 60),
        _ => format!("{} h", age / 3600),
    };
    let not_yet = if state.ready { "" } else { ", not ready yet" };
    let mut text = format!(
        "{}  {} ({}), up for {age}{not_yet}",
        state.name, state.title, state.file
    );
    for node in &state.nodes {
        let own: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
        let place = match (&node.public, node.behind.is_empty()) {
            (Some(ip), false) => format!("behind {}, public {ip}", node.behind),
            (None, false) => format!("behind {}", node.behind),
            _ => "public".to_owned(),
        };
        let role = if node.role == "host" {
            String::new()
        } else {
            format!(", {}", node.role)
        };
        text += &format!("\n  {:<12} {:<16} {place}{role}", node.name, own.join(" "));
    }
    text
}

/// The same for programs.
pub(super) fn lab_json(found: &Found) -> serde_json::Value {
    let mut value = json!({ "schema": 1, "event": "lab", "name": found.name });
    if let (Some(target), Ok(serde_json::Value::Object(source))) =
        (value.as_object_mut(), serde_json::to_value(&found.state))
    {
        target.extend(source);
    }
    value
}
