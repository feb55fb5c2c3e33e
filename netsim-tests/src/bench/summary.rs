//! From runs to lines: medians, ratios, what a gibibyte costs. Plain arithmetic.

use serde::Serialize;

use super::contestant::{Contestant, Load};
use super::course::{Outcome, Sample};
use super::stats::{Spread, ratio};
use super::usage::Used;

/// Bytes of a gibibyte.
const GIB: f64 = (1_u64 << 30) as f64;

/// All lines, in the order in which the contestants came.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// One for each contestant.
    pub lines: Vec<Line>,
}

/// One contestant's runs, summed up.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Who.
    pub contestant: Contestant,
    /// Gbit/s.
    pub gbit: Option<Spread>,
    /// The rate that the program itself tells, median.
    pub said_gbit: Option<f64>,
    /// Seconds of a run, median.
    pub seconds: Option<f64>,
    /// Median rate as a multiple of plain QUIC's in this measurement.
    pub to_quic: Option<f64>,
    /// Median rate as a multiple of that of `scp` with the same load.
    pub to_scp: Option<f64>,
    /// What the sender used.
    pub sender: Option<Cost>,
    /// What the receiver used.
    pub receiver: Option<Cost>,
    /// What the server used.
    pub server: Option<Cost>,
    /// Is a program not installed?
    pub missing: bool,
    /// Which.
    pub lacks: Option<&'static str>,
    /// Why it failed.
    pub error: Option<String>,
    /// Every run.
    pub samples: Vec<Sample>,
}

/// What a process used.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Seconds of processor time for each GiB of payload, median.
    pub cpu_seconds_per_gib: f64,
    /// Largest memory in KiB of all runs.
    pub peak_kib: u64,
}

/// Sums up what came of all turns.
#[must_use]
pub fn sum_up(turns: &[(Contestant, Outcome)]) -> Report {
    let mut lines: Vec<Line> = Vec::new();
    for (contestant, outcome) in turns {
        let known = lines.iter().position(|line| line.contestant == *contestant);
        let index = known.unwrap_or_else(|| {
            lines.push(Line::empty(*contestant));
            lines.len() - 1
        });
        let line = &mut lines[index];
        match outcome {
            Outcome::Ran(sample) => line.samples.push(sample.clone()),
            Outcome::Missing(program) => (line.missing, line.lacks) = (true, Some(*program)),
            Outcome::Failed(why) => line.error = Some(why.clone()),
        }
    }
    lines.iter_mut().for_each(Line::work_out);
    let median = |lines: &[Line], who: Contestant| {
        let line = lines.iter().find(|line| line.contestant == who)?;
        line.gbit.map(|gbit| gbit.median)
    };
    let quic = median(&lines, Contestant::Quic);
    let scp = median(&lines, Contestant::Scp);
    let scp_folder = median(&lines, Contestant::ScpFolder);
    for line in &mut lines {
        let Some(gbit) = line.gbit else { continue };
        let scp = match line.contestant.load() {
            Load::Stream => None,
            Load::File => scp,
            Load::Folder => scp_folder,
        };
        line.to_quic = quic.and_then(|quic| ratio(gbit.median, quic));
        line.to_scp = scp.and_then(|scp| ratio(gbit.median, scp));
    }
    Report { lines }
}

impl Line {
    fn empty(contestant: Contestant) -> Self {
        Self {
            contestant,
            gbit: None,
            said_gbit: None,
            seconds: None,
            to_quic: None,
            to_scp: None,
            sender: None,
            receiver: None,
            server: None,
            missing: false,
            lacks: None,
            error: None,
            samples: Vec::new(),
        }
    }

    fn work_out(&mut self) {
        let samples = &self.samples;
        let median = |spread: Option<Spread>| spread.map(|spread| spread.median);
        self.gbit = Spread::of(samples.iter().map(|sample| sample.gbit));
        self.seconds = median(Spread::of(samples.iter().map(|sample| sample.seconds)));
        self.said_gbit = median(Spread::of(samples.iter().filter_map(|sample| sample.said_gbit)));
        self.sender = cost(samples, |sample| Some(sample.sender));
        self.receiver = cost(samples, |sample| Some(sample.receiver));
        self.server = cost(samples, |sample| sample.server);
    }
}

fn cost(samples: &[Sample], of: impl Fn(&Sample) -> Option<Used>) -> Option<Cost> {
    let used: Vec<(Used, f64)> = samples
        .iter()
        .filter_map(|sample| Some((of(sample)?, sample.bytes as f64 / GIB)))
        .filter(|(_, gib)| *gib > 0.0)
        .collect();
    let cpu = Spread::of(used.iter().map(|(used, gib)| used.cpu_seconds / gib))?;
    Some(Cost {
        cpu_seconds_per_gib: cpu.median,
        peak_kib: used.iter().map(|(used, _)| used.peak_kib).max().unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(gbit: f64, cpu_seconds: f64) -> Outcome {
        let used = Used {
            cpu_seconds,
            peak_kib: 1000,
        };
        // A GiB at this rate.
        let seconds = GIB * 8e-9 / gbit;
        Outcome::Ran(Sample::new(1 << 30, seconds, used, Used::default()))
    }

    #[test]
    fn ratios_are_to_the_medians_of_the_same_load() {
        let turns = [
            (Contestant::Quic, ran(4.0, 1.0)),
            (Contestant::Send, ran(3.0, 2.0)),
            (Contestant::Scp, ran(1.0, 1.0)),
            (Contestant::Folder, ran(0.5, 1.0)),
            (Contestant::Quic, ran(2.0, 1.0)),
            (Contestant::Send, ran(3.0, 4.0)),
            (Contestant::Quic, ran(3.0, 1.0)),
            (Contestant::Send, ran(1.5, 9.0)),
        ];
        let report = sum_up(&turns);
        let line = |who| report.lines.iter().find(|line| line.contestant == who).unwrap();
        let quic = line(Contestant::Quic).gbit.unwrap();
        assert!(
            (quic.median - 3.0).abs() < 1e-9
                && (quic.min - 2.0).abs() < 1e-9
                && (quic.max - 4.0).abs() < 1e-9
        );
        let send = line(Contestant::Send);
        assert!((send.to_quic.unwrap() - 1.0).abs() < 1e-9);
        assert!((send.to_scp.unwrap() - 3.0).abs() < 1e-9);
        assert!((send.sender.unwrap().cpu_seconds_per_gib - 4.0).abs() < 1e-9);
        assert_eq!(send.server, None);
        assert_eq!(line(Contestant::Folder).to_scp, None, "scp -r did not run");
        assert_eq!(line(Contestant::Quic).to_scp, None, "a stream is no file");
    }

    #[test]
    fn who_failed_or_is_missing_has_a_line_without_numbers() {
        let turns = [
            (Contestant::Rsync, Outcome::Missing("sshd")),
            (Contestant::Scp, ran(1.0, 1.0)),
            (Contestant::Scp, Outcome::Failed("broke".to_owned())),
        ];
        let report = sum_up(&turns);
        let rsync = &report.lines[0];
        assert!(rsync.missing && rsync.gbit.is_none());
        assert_eq!(rsync.lacks, Some("sshd"));
        let scp = &report.lines[1];
        assert_eq!((scp.samples.len(), scp.error.as_deref()), (1, Some("broke")));
        assert_eq!(scp.to_quic, None, "nothing to compare with");
    }
}
