//! Arguments, their environment names, and how they become a [`Config`].

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::FalseyValueParser;
use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use etcetera::BaseStrategy;
use knothole_proto::wire::SERVER_PORT;

use super::failure::Failure;
use crate::{Config, PublicHost, StunPolicy};

/// Bit/s in one Mbit/s.
const MEGABIT: u64 = 1_000_000;

/// The Knothole rendezvous server: lets machines behind NATs find each other by name, introduces them, and relays for
/// those that cannot reach each other directly.
#[derive(Debug, Parser)]
#[command(name = "knothole-rendezvous", version, arg_required_else_help = true)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) global: Global,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, clap::Args)]
pub(super) struct Global {
    /// Facts as JSON Lines on stdout
    #[arg(long, global = true, env = "KNOTHOLE_JSON", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    pub(super) json: bool,
    /// Log more; twice for every packet (RUST_LOG says it in detail)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
    /// Log warnings only; twice for errors only
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(super) quiet: u8,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve until Ctrl-C; prints the line that nodes need
    Run(ServerArgs),
    /// Say whether `run` with the same options would work, and what to change if not. Changes nothing
    Check(ServerArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// UDP address to listen on, for its own family; may be repeated [default: every address, port 5668]
    #[arg(long, value_name = "ADDR[:PORT]", env = "KNOTHOLE_LISTEN", value_delimiter = ',', value_parser = listen_addr)]
    listen: Vec<SocketAddr>,
    /// Second port, or second address and port, by which nodes learn what their NAT does [default: the port after the first]
    #[arg(long, value_name = "[ADDR:]PORT", env = "KNOTHOLE_ALT", value_parser = alternate_addr)]
    alt: Option<SocketAddr>,
    /// Directory for the server's key, its token and the names [default: $STATE_DIRECTORY under systemd, else
    /// ~/.local/state/knothole-rendezvous]
    #[arg(long, value_name = "DIR", env = "KNOTHOLE_DATA")]
    data: Option<PathBuf>,
    /// Host name or address by which nodes reach this server [default: a guess]
    #[arg(long, value_name = "HOST[:PORT]", env = "KNOTHOLE_PUBLIC")]
    public: Option<PublicHost>,
    /// Admit every node, without a token
    #[arg(long, env = "KNOTHOLE_OPEN", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue)]
    open: bool,
    /// Whose STUN requests to answer: those of nodes, everybody's (reflects up to three times the bytes), or none
    #[arg(long, value_enum, default_value_t, env = "KNOTHOLE_STUN")]
    stun: Stun,
    /// Most that the relay forwards in all, in Mbit/s, so that nobody else's traffic becomes your bill; 0: no relay
    #[arg(long, value_name = "N", env = "KNOTHOLE_RELAY_TOTAL_MBIT", default_value_t = crate::RELAY_TOTAL_BITS / MEGABIT)]
    relay_total_mbit: u64,
    /// Most that the relay forwards of what one node sends, in Mbit/s [default: its fair share of the total]
    #[arg(long, value_name = "N", env = "KNOTHOLE_RELAY_KEY_MBIT", value_parser = clap::value_parser!(u64).range(1..))]
    relay_key_mbit: Option<u64>,
    /// Sockets and tasks that forward at each address [default: one for each processor]
    #[arg(long, value_name = "N", env = "KNOTHOLE_WORKERS")]
    workers: Option<NonZeroUsize>,
    /// Pass on loopback addresses, for tests on one machine
    #[arg(long, env = "KNOTHOLE_ALLOW_LOOPBACK", value_parser = FalseyValueParser::new(), action = ArgAction::SetTrue, hide = true)]
    allow_loopback: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Stun {
    #[default]
    Nodes,
    Public,
    Off,
}

impl ServerArgs {
    /// The configuration that these arguments mean.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        Ok(Config {
            listen: self.listen.clone(),
            alternate: self.alt,
            data: Some(match &self.data {
                Some(dir) => dir.clone(),
                None => default_data_dir()?,
            }),
            public_host: self.public.clone(),
            open: self.open,
            relay_total_bits: self.relay_total_mbit.saturating_mul(MEGABIT),
            relay_key_bits: self.relay_key_mbit.map(|mbit| mbit.saturating_mul(MEGABIT)),
            workers: self.workers,
            stun: match self.stun {
                Stun::Nodes => StunPolicy::Nodes,
                Stun::Public => StunPolicy::Public,
                Stun::Off => StunPolicy::Off,
            },
            allow_loopback: self.allow_loopback,
        })
    }
}

fn default_data_dir() -> Result<PathBuf, Failure> {
    // systemd names the directories that it made for a service, separated by colons (systemd.exec, StateDirectory=).
    let made = std::env::var_os("STATE_DIRECTORY").and_then(|dirs| std::env::split_paths(&dirs).next());
    if let Some(dir) = made.filter(|dir| dir.is_absolute()) {
        return Ok(dir);
    }
    etcetera::choose_base_strategy()
        .ok()
        .and_then(|base| base.state_dir())
        .map(|dir| dir.join("knothole-rendezvous"))
        .ok_or_else(|| Failure::config("there is no home directory to keep data in", "--data DIR"))
}

fn listen_addr(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    match (text.parse(), bare.parse::<IpAddr>()) {
        (Ok(addr), _) => Ok(addr),
        (_, Ok(ip)) => Ok(SocketAddr::new(ip, SERVER_PORT)),
        _ => Err("an IP address with or without a port, such as 0.0.0.0:5668 or [::]:5668".to_owned()),
    }
}

fn alternate_addr(text: &str) -> Result<SocketAddr, String> {
    match (text.parse(), text.parse::<u16>()) {
        (Ok(addr), _) => Ok(addr),
        (_, Ok(port)) => Ok(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)),
        _ => Err("a port, or an IP address with a port".to_owned()),
    }
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

    #[test]
    fn every_long_flag_has_its_environment_name() {
        Args::command().debug_assert();
        for command in Args::command().get_subcommands() {
            for arg in command.get_arguments() {
                let Some(long) = arg.get_long().filter(|long| !["help", "version"].contains(long)) else {
                    continue;
                };
                let name = format!("KNOTHOLE_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(arg.get_env().and_then(|env| env.to_str()), Some(name.as_str()));
            }
        }
    }

    #[test]
    fn addresses_may_leave_out_what_is_usual() {
        assert_eq!(listen_addr("127.0.0.1").unwrap().to_string(), "127.0.0.1:5668");
        assert_eq!(listen_addr("[::1]").unwrap().to_string(), "[::1]:5668");
        assert_eq!(listen_addr("[::1]:9").unwrap().to_string(), "[::1]:9");
        assert!(listen_addr("example.org:9").is_err());
        assert_eq!(alternate_addr("9").unwrap().to_string(), "0.0.0.0:9");
        assert_eq!(alternate_addr("10.0.0.2:9").unwrap().to_string(), "10.0.0.2:9");
        assert!(alternate_addr("x").is_err());
    }
}
