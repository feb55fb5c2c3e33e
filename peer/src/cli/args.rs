//! Arguments as a person types them, and the environment names that stand in for each flag.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use knothole_proto::id::Name;
use knothole_proto::wire::PathPolicy;

use crate::app::speed::SECONDS_MAX;
use crate::app::transfer::Conflict;

/// Widest help text in columns, so that it reads well in the narrowest usual terminal.
const HELP_COLUMNS: usize = 80;

/// Longest time that a person may set: a day. Beyond it a typing error is likelier than a wish.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Two machines behind NATs find each other by name and talk directly.
#[derive(Parser, Debug)]
#[command(name = "knothole", version, max_term_width = HELP_COLUMNS, disable_help_subcommand = true)]
#[command(
    after_help = "Every flag can be set by a variable: KNOTHOLE_ and its long name.\n\
    KNOTHOLE_HOME moves all files of this machine's node into one directory."
)]
pub(super) struct Cli {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Option<Command>,
}

/// Flags that every command takes.
#[derive(Args, Debug, Clone)]
pub(super) struct Global {
    /// The line that the server printed (- reads it from stdin); remembered after the first `up` or `pair`
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "KNOTHOLE_SERVER",
        hide_env_values = true
    )]
    pub(super) server: Option<String>,
    /// Read that line from a file
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "KNOTHOLE_SERVER_FILE",
        conflicts_with = "server"
    )]
    pub(super) server_file: Option<PathBuf>,
    /// May traffic go through the server's relay?
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        env = "KNOTHOLE_RELAY"
    )]
    pub(super) relay: Relay,
    /// May ports be guessed, with up to a thousand packets, where a router picks a new one for each destination?
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        env = "KNOTHOLE_GUESS"
    )]
    pub(super) guess: Guess,
    /// Give up after this time, such as 500ms, 30s or 2m
    #[arg(long, global = true, value_name = "TIME", env = "KNOTHOLE_TIMEOUT", value_parser = time)]
    pub(super) timeout: Option<Duration>,
    /// Facts as JSON Lines on stdout
    #[arg(long, global = true, env = "KNOTHOLE_JSON", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) json: bool,
    /// Log more; up to three times (RUST_LOG says it in detail)
    #[arg(short, long, global = true, env = "KNOTHOLE_VERBOSE", action = ArgAction::Count)]
    pub(super) verbose: u8,
    /// Say nothing but facts and errors
    #[arg(short, long, global = true, env = "KNOTHOLE_QUIET", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) quiet: bool,
    /// Write a qlog trace of every connection into this folder
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "KNOTHOLE_QLOG",
        hide_short_help = true
    )]
    pub(super) qlog: Option<PathBuf>,
    /// Use loopback addresses too, for tests on one machine
    #[arg(long, global = true, env = "KNOTHOLE_ALLOW_LOOPBACK", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, hide = true)]
    pub(super) allow_loopback: bool,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Stay reachable for paired machines, and take the files they send
    Up(UpArgs),
    /// Get to know another machine: without a code, show one and wait
    Pair(PairArgs),
    /// List the paired machines
    Peers,
    /// No longer know a machine
    Forget(ForgetArgs),
    /// Print this machine's id
    Id,
    /// Send files and folders: to a paired machine, or to whoever gets the code that is shown
    Send(SendArgs),
    /// Take one transfer: from a paired machine, or from whoever showed this code
    Recv(RecvArgs),
    /// Measure the way to a paired machine, and say which one it is
    Ping(PingArgs),
    /// Say what the network does: public address, kind of NAT, with whom connections will be direct
    Netcheck(NetcheckArgs),
    /// Measure how much data a second goes to a paired machine, or comes from it
    Speed(SpeedArgs),
    /// Say what `up` on this machine is doing
    Status,
}

/// Arguments of `up`.
#[derive(Args, Debug)]
pub(super) struct UpArgs {
    /// Name of this machine at the server [default: the remembered one, or the host's]
    #[arg(long, env = "KNOTHOLE_NAME")]
    pub(super) name: Option<Name>,
    /// Take files from paired machines into this folder without asking
    #[arg(long, value_name = "DIR", env = "KNOTHOLE_INBOX")]
    pub(super) inbox: Option<PathBuf>,
    /// Do not ask before taking files
    #[arg(long, env = "KNOTHOLE_YES", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) yes: bool,
}

/// Arguments of `pair`.
#[derive(Args, Debug)]
pub(super) struct PairArgs {
    /// The code that the other machine shows; - reads it from stdin
    #[arg(value_name = "CODE")]
    pub(super) code: Option<String>,
    /// What to call the other machine here [default: what it calls itself]
    #[arg(long = "as", value_name = "NAME", env = "KNOTHOLE_AS")]
    pub(super) petname: Option<Name>,
    /// Name of this machine [default: the remembered one, or the host's]
    #[arg(long, env = "KNOTHOLE_NAME")]
    pub(super) name: Option<Name>,
}

/// Arguments of `forget`.
#[derive(Args, Debug)]
pub(super) struct ForgetArgs {
    /// A paired machine: its name, or the first 8 or more characters of its id
    pub(super) peer: String,
    /// Do not ask
    #[arg(long, env = "KNOTHOLE_YES", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) yes: bool,
}

/// Arguments of `send`.
#[derive(Args, Debug)]
pub(super) struct SendArgs {
    /// Files and folders; - reads one file from stdin. Links go as links
    #[arg(required = true, value_name = "PATH")]
    pub(super) paths: Vec<PathBuf>,
    /// A paired machine: its name, or the first 8 or more characters of its id; may be given several times. Without it a code
    /// is shown that works once
    #[arg(long, value_name = "PEER", env = "KNOTHOLE_TO", value_delimiter = ',')]
    pub(super) to: Vec<String>,
    /// Name of what comes from stdin
    #[arg(
        long = "as",
        value_name = "NAME",
        default_value = "stdin",
        env = "KNOTHOLE_AS"
    )]
    pub(super) name: String,
    /// Most that is sent in a second, such as 10MB/s, 500k or 80Mbit/s
    #[arg(long, value_name = "RATE", env = "KNOTHOLE_LIMIT", value_parser = byte_rate)]
    pub(super) limit: Option<u64>,
}

/// Arguments of `recv`.
#[derive(Args, Debug)]
pub(super) struct RecvArgs {
    /// The code that the sender shows; - reads it from stdin. Without it, what a paired machine sends
    #[arg(value_name = "CODE")]
    pub(super) code: Option<String>,
    /// Where to put what arrives; - writes one file to stdout
    #[arg(short, long, value_name = "DIR", default_value = ".", env = "KNOTHOLE_OUT")]
    pub(super) out: PathBuf,
    /// What to do when a file of that name is there already
    #[arg(long, value_enum, default_value = "rename", env = "KNOTHOLE_CONFLICT")]
    pub(super) conflict: OnConflict,
    /// Do not ask before taking files
    #[arg(long, env = "KNOTHOLE_YES", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) yes: bool,
    /// Most that is taken in a second, such as 10MB/s, 500k or 80Mbit/s
    #[arg(long, value_name = "RATE", env = "KNOTHOLE_LIMIT", value_parser = byte_rate)]
    pub(super) limit: Option<u64>,
}

/// Arguments of `ping`.
#[derive(Args, Debug)]
pub(super) struct PingArgs {
    /// A paired machine: its name, or the first 8 or more characters of its id
    pub(super) peer: String,
    /// How often to ask [default: 10]
    #[arg(long, value_name = "N", env = "KNOTHOLE_COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) count: Option<u32>,
    /// Ask until the path is direct; exit code 7 if it stays relayed until the timeout
    #[arg(long, env = "KNOTHOLE_UNTIL_DIRECT", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) until_direct: bool,
}

/// Arguments of `speed`.
#[derive(Args, Debug)]
pub(super) struct SpeedArgs {
    /// A paired machine, on which `up` runs: its name, or the first 8 or more characters of its id
    pub(super) peer: String,
    /// How long to measure
    #[arg(long, value_name = "N", default_value = "10", env = "KNOTHOLE_SECONDS", value_parser = clap::value_parser!(u32).range(1..=i64::from(SECONDS_MAX)))]
    pub(super) seconds: u32,
    /// From the other machine to this one
    #[arg(long, env = "KNOTHOLE_REVERSE", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) reverse: bool,
    /// Streams at once
    #[arg(long, value_name = "N", default_value = "1", env = "KNOTHOLE_STREAMS", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) streams: u8,
}

/// Arguments of `netcheck`.
#[derive(Args, Debug)]
pub(super) struct NetcheckArgs {
    /// A STUN server that follows RFC 5780 [default: this machine's own server]; twice, if its addresses of the two families
    /// have different names
    #[arg(long, value_name = "HOST:PORT", env = "KNOTHOLE_STUN", value_delimiter = ',')]
    pub(super) stun: Vec<String>,
    /// Measure anew, though this network was measured within a day
    #[arg(long, env = "KNOTHOLE_FRESH", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) fresh: bool,
}

/// `--relay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Relay {
    /// At once, until a direct path is proven
    Auto,
    /// Direct or not at all
    Never,
    /// No direct path; the other side does not learn this machine's addresses
    Only,
}

impl Relay {
    /// The policy that it stands for.
    pub(super) fn policy(self) -> PathPolicy {
        match self {
            Self::Auto => PathPolicy::Auto,
            Self::Never => PathPolicy::DirectOnly,
            Self::Only => PathPolicy::RelayOnly,
        }
    }
}

/// `--guess`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Guess {
    /// Where nothing else helps, and the other side and the server agree
    Auto,
    /// For networks that take it for a port scan; the relay serves instead
    Never,
}

/// `--conflict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum OnConflict {
    /// The new one gets a number
    Rename,
    /// The old one stays
    Skip,
    /// The new one replaces the old one
    Overwrite,
}

impl OnConflict {
    /// What it means to a transfer.
    pub(super) fn conflict(self) -> Conflict {
        match self {
            Self::Rename => Conflict::Rename,
            Self::Skip => Conflict::Skip,
            Self::Overwrite => Conflict::Overwrite,
        }
    }
}

/// A time as people write it: a number with `ms`, `s`, `m` or `h`, or seconds without.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("the unit is one of ms, s, m, h".to_owned()),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| "a number with a unit, such as 30s".to_owned())?;
    let time = Duration::try_from_secs_f64(number * unit).map_err(|_| "not a length of time".to_owned())?;
    if time.is_zero() || time > TIMEOUT_MAX {
        return Err("more than nothing and at most a day".to_owned());
    }
    Ok(time)
}

/// Bytes a second as people write them: `10MB/s`, `500k`, `1.5MiB/s`, `80Mbit/s`. Powers of 1000, with an `i` of 1024.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss
)] // the range is checked
fn byte_rate(text: &str) -> Result<u64, String> {
    let plain = text.strip_suffix("/s").unwrap_or(text);
    let digits = plain.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = plain.get(digits.len()..).unwrap_or_default();
    let (prefix, bits) = match unit.strip_suffix("bit") {
        Some(prefix) => (prefix, 8.0),
        None => (unit.strip_suffix('B').unwrap_or(unit), 1.0),
    };
    let factor = match prefix {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err("the unit is one of B, kB, MB, GB, KiB, MiB, GiB, kbit, Mbit, Gbit".to_owned()),
    };
    let number: f64 = digits
        .parse()
        .map_err(|_| "a number with a unit, such as 10MB/s".to_owned())?;
    let rate = number * factor / bits;
    if !rate.is_finite() || !(1.0..=1e15).contains(&rate) {
        return Err("at least a byte a second".to_owned());
    }
    Ok(rate as u64)
}

/// Does the environment ask for JSON, whatever is wrong with the arguments?
pub(super) fn wants_json() -> bool {
    #[derive(Parser)]
    struct Json {
        #[arg(long, env = "KNOTHOLE_JSON", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
        json: bool,
    }
    Json::try_parse_from(["knothole"]).is_ok_and(|asked| asked.json)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn commands() -> Vec<clap::Command> {
        let mut all: Vec<_> = Cli::command().get_subcommands().cloned().collect();
        all.push(Cli::command());
        all
    }

    #[test]
    fn every_long_flag_has_its_environment_name_and_never_shows_its_value() {
        Cli::command().debug_assert();
        for command in commands() {
            for arg in command.get_arguments() {
                let Some(long) = arg.get_long() else { continue };
                if ["help", "version"].contains(&long) {
                    continue;
                }
                let name = format!("KNOTHOLE_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(name.as_str()));
                assert!(long != "server" || arg.is_hide_env_values_set());
            }
        }
    }

    #[test]
    fn flags_are_hyphenated_and_every_argument_is_explained() {
        for command in commands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments() {
                assert!(!arg.get_long().unwrap_or_default().contains('_'));
                assert!(
                    arg.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    arg.get_id()
                );
            }
        }
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        for line in [
            "knothole --relay never --json ping nas",
            "knothole ping nas --relay never --json",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert!(cli.global.json && cli.global.relay == Relay::Never, "{line}");
        }
    }

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, ms) in [
            ("30s", 30_000),
            ("500ms", 500),
            ("2m", 120_000),
            ("1.5", 1500),
            ("1h", 3_600_000),
        ] {
            assert_eq!(time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "s", "0", "-1s", "25h", "1d", "1 s", "nan", "inf", "1e400s"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, rate) in [
            ("10MB/s", 10_000_000),
            ("500k", 500_000),
            ("1.5MiB/s", 1_572_864),
            ("80Mbit/s", 10_000_000),
            ("64KiB", 65_536),
            ("1G", 1_000_000_000),
            ("700", 700),
        ] {
            assert_eq!(byte_rate(text), Ok(rate), "{text}");
        }
        for bad in [
            "", "k", "0", "-1MB", "1 MB", "5 mb", "nan", "inf", "1e400", "3bit", "1TB/h",
        ] {
            assert!(byte_rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn send_needs_a_path_and_may_go_to_several_machines() {
        for line in ["knothole send", "knothole send --to nas"] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
        let parse = |line: &str| match Cli::try_parse_from(line.split(' ')).unwrap().command {
            Some(Command::Send(args)) => (args.paths.len(), args.to),
            other => panic!("{other:?}"),
        };
        assert_eq!(parse("knothole send x"), (1, Vec::new()));
        let both = ["nas".to_owned(), "lap".to_owned()];
        assert_eq!(parse("knothole send x y --to nas --to lap"), (2, both.to_vec()));
        assert_eq!(parse("knothole send x y --to nas,lap"), (2, both.to_vec()));
    }

    #[test]
    fn a_name_that_is_none_is_a_usage_error() {
        for bad in ["A", "a b", "-x", "\u{1b}"] {
            let parsed = Cli::try_parse_from(["knothole", "up", &format!("--name={bad}")]);
            assert_eq!(parsed.unwrap_err().exit_code(), 2, "{bad}");
        }
    }
}
