//! `knothole-netsim up`: checks the scenario, starts the keeper, waits until the lab can be entered. And the keeper's own
//! command, which nobody types.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::Args;
use serde_json::{Value, json};

use super::super::say;
use super::{exit_code, fail, lab_json, lab_text};
use knothole_netsim::interactive::{self, Found, InteractiveError, StateDir};
use knothole_netsim::nat::NatKind;
use knothole_netsim::role::Stop;
use knothole_netsim::scenario::Scenario;

/// The lab's name where no file gives one.
const NAMELESS: &str = "lab";

/// Makes a lab that stays until `down`; `exec` runs programs in it.
#[derive(Args, Debug)]
pub(crate) struct UpArgs {
    /// A scenario, of which the steps and expectations are left out
    #[arg(required_unless_present_any = ["a", "b"], conflicts_with_all = ["a", "b"])]
    file: Option<PathBuf>,
    /// Instead of a file: hosts `a` and `b` behind NATs, and a public `web`; the NAT in front of a
    #[arg(long, value_name = "KIND", env = "KNOTHOLE_A", value_parser = super::super::kind)]
    a: Option<&'static NatKind>,
    /// The NAT in front of b [default of both: port-restricted]
    #[arg(long, value_name = "KIND", env = "KNOTHOLE_B", value_parser = super::super::kind)]
    b: Option<&'static NatKind>,
    /// What to call the lab [default: the file's name]
    #[arg(long, env = "KNOTHOLE_NAME")]
    name: Option<String>,
    /// One JSON object a line instead of text
    #[arg(long, env = "KNOTHOLE_JSON")]
    json: bool,
}

/// Keeps a lab; `up` starts it.
#[derive(Args, Debug)]
pub(crate) struct KeepArgs {
    #[arg(long)]
    state: PathBuf,
    #[arg(long)]
    name: String,
    #[arg(long)]
    file: String,
}

/// Make it.
pub(crate) fn up(args: &UpArgs) -> ExitCode {
    match try_up(args) {
        Ok(found) => {
            let _ = if args.json {
                say(lab_json(&found))
            } else {
                say(lab_text(&found)).and_then(|()| say(hints(&found)))
            };
            ExitCode::SUCCESS
        }
        Err(Failed::Here(error)) => fail(args.json, &error),
        Err(Failed::Keeper(code, message)) => {
            if args.json {
                let _ = say(json!({ "schema": 1, "event": "error", "code": code, "message": message }));
            } else {
                eprintln!("knothole-netsim: {message}");
            }
            ExitCode::from(code)
        }
    }
}

/// Why there is no lab: found out here, or said by the keeper with its exit code.
enum Failed {
    Here(InteractiveError),
    Keeper(u8, String),
}

impl<E: Into<InteractiveError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Here(error.into())
    }
}

fn try_up(args: &UpArgs) -> Result<Found, Failed> {
    let (text, file) = match &args.file {
        Some(file) => {
            Scenario::read(file)?;
            (
                fs::read_to_string(file).map_err(|error| files(file, error))?,
                file.clone(),
            )
        }
        None => {
            let usual = knothole_netsim::nat::kind("port-restricted").ok_or_else(|| keeper("no kinds"))?;
            let (a, b) = (args.a.unwrap_or(usual), args.b.unwrap_or(usual));
            let file = PathBuf::from(format!("--a {} --b {}", a.name, b.name));
            (interactive::two_behind(a, b), file)
        }
    };
    let stem = args.file.as_ref().and_then(|file| file.file_stem()?.to_str());
    let name = args.name.as_deref().or(stem).unwrap_or(NAMELESS);
    let labs = StateDir::open()?;
    let folder = labs.reserve(name)?;
    let made = make(&labs, name, &folder, &text, &file);
    if made.is_err() {
        // What the keeper could not remove; why there is no lab matters more than that.
        let _ = fs::remove_dir_all(&folder);
    }
    made
}

/// Starts the keeper and waits for its word.
fn make(labs: &StateDir, name: &str, folder: &Path, text: &str, file: &Path) -> Result<Found, Failed> {
    let scenario = folder.join("scenario.toml");
    fs::write(&scenario, text).map_err(|error| files(&scenario, error))?;
    let log_file = folder.join("keeper.log");
    let log = File::create(&log_file).map_err(|error| files(&log_file, error))?;
    let executable = std::env::current_exe().map_err(|error| files(Path::new("this program"), error))?;
    let mut child = Command::new(executable)
        .args(["keep", "--name", name, "--state"])
        .arg(labs.path())
        .arg(format!("--file={}", file.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .spawn()
        .map_err(|error| files(Path::new("this program"), error))?;
    let mut line = String::new();
    if let Some(output) = child.stdout.take() {
        // No word is no lab.
        let _ = BufReader::new(output).read_line(&mut line);
    }
    let word: Value = serde_json::from_str(&line).unwrap_or_default();
    if word["event"] == "ready" {
        return Ok(labs.find(Some(name))?);
    }
    let status = child.wait().ok().and_then(|status| status.code());
    let message = word["message"].as_str().map(ToOwned::to_owned);
    let message = message.unwrap_or_else(|| {
        let log = fs::read_to_string(&log_file).unwrap_or_default();
        format!("the lab did not come up: {}", log.trim())
    });
    Err(Failed::Keeper(
        status.and_then(|code| u8::try_from(code).ok()).unwrap_or(1),
        message,
    ))
}

/// Be the lab. Standard output is `up`, which waits for one line; standard error is the log.
pub(crate) fn keep(args: &KeepArgs) -> ExitCode {
    // A session of its own: the terminal's Ctrl-C and its end are not for the lab.
    if let Err(error) = rustix::process::setsid() {
        eprintln!("no session of its own: {error}");
    }
    let labs = StateDir::at(args.state.clone());
    let executable = std::env::current_exe().unwrap_or_default();
    let watch = || {
        let stop = Stop::default();
        if let Err(error) = super::super::signals::raise_on_interrupt(stop.clone()) {
            eprintln!("the lab will end without its last words: {error}");
        }
        stop
    };
    let kept = interactive::keep(&labs, &args.name, &args.file, &executable, watch, |_| {
        let line = json!({ "schema": 1, "event": "ready" });
        let heard = writeln!(std::io::stdout(), "{line}").is_ok();
        silence_stdout();
        heard
    });
    match kept {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            let code = exit_code(&error);
            let line = json!({ "schema": 1, "event": "error", "code": code, "message": error.to_string() });
            if say(line).is_err() {
                // Nobody is left who would remove it, or read the log in it.
                let _ = fs::remove_dir_all(labs.lab(&args.name));
            }
            ExitCode::from(code)
        }
    }
}

/// Lets go of the pipe to `up`, which reads on until its end.
fn silence_stdout() {
    let null = File::options().write(true).open("/dev/null");
    if let Err(error) = null.and_then(|null| Ok(rustix::stdio::dup2_stdout(&null)?)) {
        eprintln!("standard output stays open: {error}");
    }
}

/// The commands to try.
fn hints(found: &Found) -> String {
    let Some(state) = &found.state else {
        return String::new();
    };
    let role = |role: &str| state.nodes.iter().find(|node| node.role == role);
    let public = state
        .nodes
        .iter()
        .find(|node| node.behind.is_empty() && node.role == "host");
    let hidden = state.nodes.iter().find(|node| !node.behind.is_empty());
    let mut lines = vec!["\ntry:".to_owned()];
    if let (Some(public), Some(hidden)) = (public, hidden) {
        lines.push(format!(
            "  knothole-netsim exec {} -- python3 -m http.server",
            public.name
        ));
        lines.push(format!(
            "  knothole-netsim exec {} -- curl http://{}:8000/",
            hidden.name, public.name
        ));
    }
    if role("server").is_some() {
        let mut nodes = state.nodes.iter().filter(|node| node.role == "node");
        if let (Some(one), Some(two)) = (nodes.next(), nodes.next()) {
            lines.push(format!(
                "  knothole-netsim exec {} -- knothole ping {}",
                one.name, two.name
            ));
        }
    }
    if let Some(node) = hidden.or(public).or(state.nodes.first()) {
        lines.push(format!("  knothole-netsim exec {}", node.name));
    }
    lines.push(format!("  knothole-netsim down {}", state.name));
    lines.join("\n")
}

fn files(path: &Path, source: std::io::Error) -> InteractiveError {
    InteractiveError::Files {
        path: path.to_owned(),
        source,
    }
}

fn keeper(what: &str) -> InteractiveError {
    InteractiveError::Keeper(what.to_owned())
}
