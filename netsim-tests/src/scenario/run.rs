//! Carrying out a timeline: when what is done, and what came of it. Knows no world.

use std::collections::BTreeMap;
use std::time::Duration;

use super::model::{Action, Check, Item, LinkPair, NodeIndex, PathKind, Place, Scenario, Start, What, When};
use super::stage::{Acted, Stage, StageError};
use super::words::Seconds;
use crate::link::Loss;
use crate::oracle::Expect;

/// How often the world is looked at while time passes. A silence is measured to this; shorter costs the machine more in
/// the world that runs in real time.
const TICK: Duration = Duration::from_millis(50);

/// Why the traffic of the end that answers is not counted between namespaces.
const ONE_END: &str = "who answers cannot be watched here; watch the one who asks";

/// Something that happened in a run, in order.
#[derive(Clone, Debug)]
pub struct Told<'a> {
    /// Time since time zero.
    pub at: Duration,
    /// The line of the file that is at work.
    pub line: usize,
    /// The step or expectation in words.
    pub text: &'a str,
    /// What came of it.
    pub verdict: Verdict,
    /// What was seen, or why.
    pub saw: String,
    /// How much later it was than the file says.
    pub late: Option<Duration>,
}

/// What came of a step or an expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A step was taken.
    Done,
    /// An expectation was met.
    Met,
    /// It was not.
    Failed,
    /// This world cannot do or see it.
    Skipped,
}

impl Verdict {
    /// The word in machine-readable output.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Met => "met",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// How a run ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Steps taken.
    pub steps: usize,
    /// Expectations met.
    pub met: usize,
    /// Lines of the expectations that were not.
    pub failed: Vec<usize>,
    /// Lines of what this world could not do or see.
    pub skipped: Vec<usize>,
    /// Time from time zero to the end.
    pub took: Duration,
    /// Hash of everything that happened, where a run repeats exactly.
    pub trace: Option<String>,
}

impl Report {
    /// Was nothing wrong?
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.failed.is_empty()
    }
}

/// Carries out a scenario's timeline on a stage that was built for it. An expectation that is not met does not end it.
///
/// # Errors
///
/// What broke the world.
pub fn run(
    scenario: &Scenario,
    stage: &mut dyn Stage,
    tell: &mut dyn FnMut(&Told<'_>),
) -> Result<Report, StageError> {
    let mut silences = BTreeMap::new();
    for item in &scenario.timeline {
        if let What::Expect {
            check: Check::Traffic { from, to, .. } | Check::Answer { from, to },
            ..
        } = item.what
        {
            silences.insert((from, to), Silence::default());
        }
    }
    let mut running = Running {
        scenario,
        stage,
        links: scenario.links.iter().copied().collect(),
        dark: BTreeMap::new(),
        silences,
        uplinks: BTreeMap::new(),
        report: Report::default(),
    };
    for item in &scenario.timeline {
        running.item(item, tell)?;
    }
    running.report.took = running.stage.now();
    running.report.trace = running.stage.trace();
    Ok(running.report)
}

struct Running<'a> {
    scenario: &'a Scenario,
    stage: &'a mut dyn Stage,
    /// How each link is when it is not dead.
    links: BTreeMap<Place, LinkPair>,
    /// The directions that are dead, and until when.
    dark: BTreeMap<Place, Dark>,
    silences: BTreeMap<(NodeIndex, NodeIndex), Silence>,
    /// Where the machines are that moved.
    uplinks: BTreeMap<NodeIndex, usize>,
    report: Report,
}

#[derive(Clone, Copy, Debug)]
struct Dark {
    up: bool,
    down: bool,
    until: Option<Duration>,
}

/// The longest time without an answer since the last step, or since a watch began.
#[derive(Clone, Copy, Debug, Default)]
struct Silence {
    /// Answers so far.
    count: u64,
    /// Answers up to the last step.
    before: u64,
    since: Duration,
    longest: Duration,
}

/// What a look at the world says of an expectation.
struct Look {
    /// `None`: it cannot be seen.
    holds: Option<bool>,
    saw: String,
}

impl Running<'_> {
    fn item(&mut self, item: &Item, tell: &mut dyn FnMut(&Told<'_>)) -> Result<(), StageError> {
        let begun = self.stage.now();
        let due = match &item.what {
            What::Step { start, .. } => match start {
                Start::At(time) => *time,
                Start::After(time) => begun + *time,
            },
            What::Expect { when, .. } => match when {
                When::At(time) => *time,
                _ => begun,
            },
        };
        let late = begun.saturating_sub(due);
        while self.stage.now() < due {
            self.tick(due)?;
        }
        let (text, verdict, saw) = match &item.what {
            What::Step { action, .. } => self.step(action)?,
            What::Expect { when, check } => self.expectation(*when, check)?,
        };
        match verdict {
            Verdict::Done => self.report.steps += 1,
            Verdict::Met => self.report.met += 1,
            Verdict::Failed => self.report.failed.push(item.line),
            Verdict::Skipped => self.report.skipped.push(item.line),
        }
        tell(&Told {
            at: self.stage.now(),
            line: item.line,
            text: &text,
            verdict,
            saw,
            late: (late > TICK).then_some(late),
        });
        Ok(())
    }

    fn step(&mut self, action: &Action) -> Result<(String, Verdict, String), StageError> {
        let text = self.scenario.say_action(action);
        let now = self.stage.now();
        for ((from, to), silence) in &mut self.silences {
            let count = self.stage.arrivals(*from, *to).unwrap_or(0);
            *silence = Silence {
                count,
                before: count,
                since: now,
                longest: Duration::ZERO,
            };
        }
        let acted = match action {
            Action::SetLink(place, pair) => {
                self.links.insert(*place, *pair);
                self.dark.remove(place);
                self.apply(*place)?
            }
            Action::Blackout {
                place,
                up,
                down,
                lasts,
            } => {
                let dark = Dark {
                    up: *up,
                    down: *down,
                    until: lasts.map(|time| now + time),
                };
                self.dark.insert(*place, dark);
                self.apply(*place)?
            }
            action => self.stage.act(action)?,
        };
        if let (Action::Switch { node, uplink }, Acted::Done) = (action, &acted) {
            self.uplinks.insert(*node, *uplink);
        }
        Ok(match acted {
            Acted::Done => (text, Verdict::Done, String::new()),
            Acted::Met(saw) => (text, Verdict::Met, saw),
            Acted::Failed(saw) => (text, Verdict::Failed, saw),
            Acted::Skipped(why) => (text, Verdict::Skipped, why),
        })
    }

    fn expectation(&mut self, when: When, check: &Check) -> Result<(String, Verdict, String), StageError> {
        let text = self.scenario.say_expectation(check, when);
        let begun = self.stage.now();
        if let (Check::Traffic { from, to, .. }, When::For(_)) = (check, when)
            && let Some(silence) = self.silences.get_mut(&(*from, *to))
        {
            (silence.since, silence.longest) = (begun, Duration::ZERO);
        }
        let end = match when {
            When::Now | When::At(_) => begun,
            When::Within(time) | When::For(time) => begun + time,
        };
        let look = loop {
            let look = self.look(check);
            let decided = match (look.holds, when) {
                (None, _) => true,
                (Some(holds), When::For(_)) => !holds,
                (Some(holds), _) => holds,
            };
            if decided || self.stage.now() >= end {
                break look;
            }
            self.tick(end)?;
        };
        Ok(match look.holds {
            None => (text, Verdict::Skipped, look.saw),
            Some(true) if matches!(when, When::Within(_)) => {
                let took = Seconds(self.stage.now().saturating_sub(begun));
                (text, Verdict::Met, format!("{} after {took}", look.saw))
            }
            Some(true) => (text, Verdict::Met, look.saw),
            Some(false) => (text, Verdict::Failed, look.saw),
        })
    }

    /// Lets a little time pass and looks around.
    fn tick(&mut self, limit: Duration) -> Result<(), StageError> {
        let mut next = (self.stage.now() + TICK).min(limit);
        let ends = self.dark.values().filter_map(|dark| dark.until);
        next = ends.fold(next, |next, end| {
            if end > self.stage.now() {
                next.min(end)
            } else {
                next
            }
        });
        self.stage.pass(next)?;
        let now = self.stage.now();
        let over: Vec<Place> = self
            .dark
            .iter()
            .filter(|(_, dark)| dark.until.is_some_and(|until| until <= now))
            .map(|(place, _)| *place)
            .collect();
        for place in over {
            self.dark.remove(&place);
            self.apply(place)?;
        }
        for ((from, to), silence) in &mut self.silences {
            let Some(count) = self.stage.arrivals(*from, *to) else {
                continue;
            };
            silence.longest = silence.longest.max(now.saturating_sub(silence.since));
            if count != silence.count {
                (silence.count, silence.since) = (count, now);
            }
        }
        Ok(())
    }

    /// Lets a link be as it is to be now.
    fn apply(&mut self, place: Place) -> Result<Acted, StageError> {
        let mut pair = self.links.get(&place).copied().unwrap_or_default();
        if let Some(dark) = self.dark.get(&place) {
            for (is_dark, spec) in [(dark.up, &mut pair.up), (dark.down, &mut pair.down)] {
                if is_dark {
                    spec.loss = Loss::Uniform(1.0);
                }
            }
        }
        self.stage.act(&Action::SetLink(place, pair))
    }

    fn look(&self, check: &Check) -> Look {
        match check {
            Check::Path {
                from,
                to,
                kind,
                how,
                why,
            } => self.look_at_path((*from, *to), *kind, how.as_deref(), why.as_deref()),
            Check::Registered { nodes, is } => {
                let wrong = nodes
                    .iter()
                    .filter(|node| self.stage.is_registered(**node) != *is);
                let wrong: Vec<&str> = wrong.map(|node| self.scenario.node_name(*node)).collect();
                let saw = match (wrong.is_empty(), is) {
                    (true, _) => "as expected".to_owned(),
                    (false, true) => format!("not registered: {}", wrong.join(", ")),
                    (false, false) => format!("registered: {}", wrong.join(", ")),
                };
                seen(wrong.is_empty(), saw)
            }
            Check::Answer { from, to } => {
                let before = self
                    .silences
                    .get(&(*from, *to))
                    .map_or(0, |silence| silence.before);
                match self.stage.arrivals(*from, *to) {
                    None => unseen(ONE_END),
                    // A node that starts anew counts anew.
                    Some(count) if count != before => seen(count > 0, "an answer".to_owned()),
                    Some(_) => seen(false, "no answer".to_owned()),
                }
            }
            Check::Traffic { from, to, gap } => {
                let silence = self.silences.get(&(*from, *to)).copied().unwrap_or_default();
                if self.stage.arrivals(*from, *to).is_none() {
                    return unseen(ONE_END);
                }
                let longest = silence
                    .longest
                    .max(self.stage.now().saturating_sub(silence.since));
                seen(longest <= *gap, format!("longest silence {}", Seconds(longest)))
            }
            Check::Probes { node, max } => match self.stage.probes(*node) {
                None => unseen("probes of real programs are not counted"),
                Some(count) => seen(count <= *max, format!("{count} probes")),
            },
            Check::NatEntries { nat, max } => match self.stage.nat_entries(*nat) {
                None => unseen("entries of this NAT are not counted"),
                Some(count) => seen(count <= *max, format!("{count} entries at most")),
            },
        }
    }

    fn look_at_path(
        &self,
        (from, to): (NodeIndex, NodeIndex),
        kind: PathKind,
        how: Option<&str>,
        why: Option<&str>,
    ) -> Look {
        let Some(path) = self.stage.path(from, to) else {
            return unseen("this end's path cannot be seen here; look from the other end");
        };
        let place = |node: NodeIndex| (node, self.uplinks.get(&node).copied().unwrap_or(0));
        let mut saw = path.words();
        let fits = match kind {
            PathKind::Oracle => {
                let oracle = self
                    .scenario
                    .expect(place(from), place(to), &self.stage.servers());
                saw = format!("{saw}; the oracle says {}", oracle.word());
                match oracle {
                    Expect::Must => path.kind == PathKind::Direct,
                    Expect::Likely | Expect::May => path.kind != PathKind::None,
                    Expect::Cannot => path.kind != PathKind::Direct,
                }
            }
            kind => path.kind == kind,
        };
        let how = how.is_none_or(|how| path.detail == how);
        let why = why.is_none_or(|why| path.detail.contains(why));
        seen(fits && how && why, saw)
    }
}

fn seen(holds: bool, saw: String) -> Look {
    Look {
        holds: Some(holds),
        saw,
    }
}

fn unseen(why: &str) -> Look {
    Look {
        holds: None,
        saw: why.to_owned(),
    }
}
