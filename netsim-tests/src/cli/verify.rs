//! `knothole-netsim verify`: is each NAT what it says, in each world?

use std::error::Error;
use std::io;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::json;

use super::say;
use knothole_netsim::nat::{NatKind, kinds};
use knothole_netsim::netns;
use knothole_netsim::verify::{
    Path, Property, Report, Value, World, has_coturn, verify_in_memory, verify_in_namespaces,
};

/// A NAT was not what it says: a problem found, as `doctor` counts it.
const PROBLEM: u8 = 12;

/// The machine does not allow a lab.
const CONFIGURATION: u8 = 3;

/// Measures each kind of NAT with RFC 5780 probes: is it what it says?
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Only these kinds, separated by commas; `knothole-netsim kinds` lists them
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = super::kind)]
    kinds: Vec<&'static NatKind>,
    /// In memory or between network namespaces; both unless said, as far as this machine allows
    #[arg(long, value_enum)]
    world: Option<Where>,
    /// Who plays the NATs between namespaces
    #[arg(long, value_enum, default_value_t = Player::Model)]
    nat: Player,
    /// Between namespaces: ask coturn's client for a second opinion, if it is installed
    #[arg(long, value_enum, default_value_t = Switch::Auto)]
    coturn: Switch,
    /// One JSON object a line instead of a table
    #[arg(long, env = "KNOTHOLE_JSON")]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Where {
    /// In memory, with virtual time
    Sim,
    /// Between network namespaces, with real sockets
    Netns,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Player {
    /// The lab's own NAT
    Model,
    /// The rules of this machine's kernel; needs the program `nft`
    Kernel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// If it is installed
    Auto,
    /// Not at all
    Off,
}

/// Measures, and says what came of it.
pub(crate) fn run(args: &VerifyArgs) -> ExitCode {
    let wanted = |place| args.world.is_none_or(|world| world == place);
    let lab = wanted(Where::Netns).then(|| lab(args.nat));
    let world = args.nat.world();
    match &lab {
        Some(Err(error)) if args.world == Some(Where::Netns) => return no_lab(error.as_ref(), args.json),
        Some(Err(error)) => eprintln!("{} is left out: {error}", world.word()),
        Some(Ok(())) | None => {}
    }
    let chosen: Vec<&'static NatKind> = if args.kinds.is_empty() {
        kinds().iter().collect()
    } else {
        args.kinds.clone()
    };
    let mut paper = Paper::new(args.json);
    if wanted(Where::Sim) {
        for kind in &chosen {
            match verify_in_memory(kind) {
                Ok(report) => paper.add(report),
                Err(error) => return failed(&error, args.json),
            }
        }
    }
    if let Some(Ok(())) = lab {
        let second = args.coturn == Switch::Auto && has_coturn();
        if let Err(error) = verify_in_namespaces(&chosen, world, second, |report| paper.add(report)) {
            return failed(&error, args.json);
        }
    }
    paper.conclude()
}

/// Can this machine run the lab?
fn lab(player: Player) -> Result<(), Box<dyn Error>> {
    netns::become_lab_root()?;
    let probe = netns::probe()?;
    match player {
        Player::Model => Ok(()),
        Player::Kernel => Ok(probe.kernel_nat?),
    }
}

impl Player {
    fn world(self) -> World {
        match self {
            Self::Model => World::Netns,
            Self::Kernel => World::Kernel,
        }
    }
}

fn no_lab(error: &dyn Error, json: bool) -> ExitCode {
    if json {
        let message = error.to_string();
        let event = json!({ "schema": 1, "event": "error", "code": CONFIGURATION, "message": message, "hint": IN_MEMORY });
        let _unread = say(event);
    }
    eprintln!("error: no lab can be made here: {error}\n{IN_MEMORY}");
    ExitCode::from(CONFIGURATION)
}

const IN_MEMORY: &str = "the same in memory needs no rights: --world sim";

fn failed(error: &dyn Error, json: bool) -> ExitCode {
    if json {
        let message = error.to_string();
        let _unread = say(json!({ "schema": 1, "event": "error", "code": 1, "message": message }));
    }
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// What has been written, and what is to be written in the end.
struct Paper {
    json: bool,
    begun: bool,
    reports: Vec<Report>,
}

impl Paper {
    fn new(json: bool) -> Self {
        Self {
            json,
            begun: false,
            reports: Vec::new(),
        }
    }

    /// Writes a report. A reader that has seen enough is no failure.
    fn add(&mut self, report: Report) {
        let _unread = if self.json {
            say(line(&report))
        } else {
            self.rows(&report)
        };
        self.reports.push(report);
    }

    fn rows(&mut self, report: &Report) -> io::Result<()> {
        if !self.begun {
            self.begun = true;
            say(row([
                "kind", "path", "world", "map", "filt", "ports", "hairpin", "verdict",
            ]
            .map(String::from)))?;
        }
        if report.measured.0.is_empty() {
            let (kind, world) = (report.kind.name, report.world.word());
            return say(row(
                [kind, "-", world, "-", "-", "-", "-", "absent"].map(String::from)
            ));
        }
        let paths = [Path::V4, Path::V6, Path::Nat64];
        for path in paths {
            let word = |property| match report.measured.get(path, property) {
                None | Some(Value::Unmeasured(_)) => "-".to_owned(),
                Some(value) => value.to_string(),
            };
            if report.measured.get(path, Property::Reach).is_some() {
                let cells = [
                    report.kind.name.to_owned(),
                    path.word().to_owned(),
                    report.world.word().to_owned(),
                    word(Property::Mapping),
                    word(Property::Filtering),
                    ports(report, path).unwrap_or_else(|| word(Property::Reach)),
                    word(Property::Hairpin),
                    verdict(report).to_owned(),
                ];
                say(row(cells))?;
            }
        }
        Ok(())
    }

    fn conclude(self) -> ExitCode {
        let wrong: Vec<&Report> = self.reports.iter().filter(|report| !report.agrees()).collect();
        let _unread = if self.json {
            let (measured, agree) = (self.reports.len(), self.reports.len() - wrong.len());
            say(json!({ "schema": 1, "event": "done", "measured": measured, "agree": agree }))
        } else {
            self.details()
        };
        if wrong.is_empty() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(PROBLEM)
        }
    }

    /// What the table has no room for.
    fn details(&self) -> io::Result<()> {
        let notes: Vec<String> = self.reports.iter().flat_map(notes).collect();
        if !notes.is_empty() {
            say("")?;
            notes.iter().try_for_each(say)?;
        }
        let measured = |report: &&Report| !report.measured.0.is_empty();
        let there: Vec<&Report> = self.reports.iter().filter(measured).collect();
        let agree = there.iter().filter(|report| report.agrees()).count();
        let opinions = self
            .reports
            .iter()
            .filter(|report| report.second.is_some())
            .count();
        say(format_args!(
            "\n{agree} of {} are what they say; coturn's client was asked about {opinions}",
            there.len()
        ))
    }
}

/// Where UDP passes freely, how ports are given out; elsewhere that is told first.
fn ports(report: &Report, path: Path) -> Option<String> {
    let ports = report.measured.get(path, Property::Ports)?;
    Some(ports.to_string())
}

fn verdict(report: &Report) -> &'static str {
    match (report.agrees(), report.known) {
        (false, _) => "DIFFERS",
        (true, Some(_)) => "as said",
        (true, None) => "agrees",
    }
}

/// One line of the table, at most 80 columns.
fn row(cells: [String; 8]) -> String {
    let [kind, path, world, mapping, filter, ports, hairpin, verdict] = cells;
    format!("{kind:<24} {path:<5} {world:<6} {mapping:<4} {filter:<4} {ports:<13} {hairpin:<8} {verdict}")
}

/// Disagreements, contradictions and known differences of a report, a line each.
fn notes(report: &Report) -> Vec<String> {
    let about = format!("{} ({})", report.kind.name, report.world.word());
    let disagreements = report.disagreements.iter().map(|one| format!("{about}: {one}"));
    let contradictions = report.second.iter().flat_map(|second| &second.contradictions);
    let contradictions = contradictions.map(|one| format!("{about}: {one}"));
    let known = report.known.map(|known| match report.measured.0.is_empty() {
        true => format!("{about}: absent: {known}"),
        false => format!("{about}: known to differ: {known}"),
    });
    disagreements.chain(contradictions).chain(known).collect()
}

fn line(report: &Report) -> serde_json::Value {
    let disagreements: Vec<String> = report.disagreements.iter().map(ToString::to_string).collect();
    let second = report
        .second
        .as_ref()
        .map(|second| json!({ "says": second.says, "contradictions": second.contradictions }));
    json!({
        "schema": 1, "event": "verified", "kind": report.kind.name, "world": report.world.word(),
        "agrees": report.agrees(), "facts": report.measured, "disagreements": disagreements,
        "known": report.known, "coturn": second,
    })
}
