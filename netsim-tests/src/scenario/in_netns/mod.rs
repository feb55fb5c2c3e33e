//! [`InNetns`]: a scenario between network namespaces, with real sockets and real programs.

mod build;
mod program;
mod troupe;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use build::{begin_captures, build_lab, hosts_file};
pub use troupe::Troupe;

use self::program::{Background, Surroundings};
use super::model::{Action, NatIndex, NodeIndex, Run, Scenario, UdpWord, WorldKind};
use super::stage::{Acted, PathView, Stage, StageError};
use crate::fabric::Lab;
use crate::nat::UdpPolicy;
use crate::role::Stop;

/// What `/etc/resolv.conf` says inside: names come from `/etc/hosts`, and no question leaves the machine.
pub const RESOLV: &str = "# names are in /etc/hosts\nnameserver 127.0.0.1\noptions timeout:1 attempts:1\n";

/// A scenario between namespaces. Dropping it ends the programs and lets the namespaces go.
#[derive(Debug)]
pub struct InNetns<'a> {
    // Dropped in this order: the programs before the lab that they run in.
    background: Vec<Background>,
    troupe: Troupe,
    lab: Lab,
    scenario: &'a Scenario,
    executable: PathBuf,
    dir: PathBuf,
    stop: &'a Stop,
    zero: Instant,
}

impl<'a> InNetns<'a> {
    /// Builds the lab, starts the programs and waits for time zero. `executable` is the lab's own, files and logs go to
    /// `dir`, which must exist.
    ///
    /// # Errors
    ///
    /// What the scenario asks for and the lab does not have, what the machine does not allow, a program that does not
    /// do its part. Nothing is left then.
    pub fn build(
        scenario: &'a Scenario,
        seed: u64,
        executable: &Path,
        dir: &Path,
        stop: &'a Stop,
    ) -> Result<Self, StageError> {
        let lab = build_lab(scenario, seed)?;
        begin_captures(scenario, &lab, dir)?;
        for (index, node) in scenario.nodes.iter().enumerate() {
            let file = dir.join(format!("{}.hosts", node.name));
            write(&file, &hosts_file(scenario, &lab, index))?;
        }
        write(&dir.join("resolv.conf"), RESOLV)?;
        let troupe = Troupe::start(scenario, &lab, executable, dir, stop)?;
        Ok(Self {
            background: Vec::new(),
            troupe,
            lab,
            scenario,
            executable: executable.to_owned(),
            dir: dir.to_owned(),
            stop,
            zero: Instant::now(),
        })
    }

    fn run(&mut self, run: &Run) -> Result<Acted, StageError> {
        let name = self.scenario.node_name(run.node);
        let around = Surroundings {
            executable: self.executable.clone(),
            hosts: self.dir.join(format!("{name}.hosts")),
            resolv: self.dir.join("resolv.conf"),
        };
        let host = self.lab.host(name)?;
        if !run.background {
            return program::to_the_end(run, host, &around, self.stop);
        }
        let (running, acted) = program::background(run, host, &around, self.stop)?;
        self.background.extend(running);
        Ok(acted)
    }

    /// The names that a NAT has in the lab: several where its kind is a row of them.
    fn layers(&self, nat: NatIndex) -> Vec<String> {
        let nat = &self.scenario.nats[nat];
        build::layer_names(nat, nat.recipe.specs(&self.servers()).len())
    }
}

impl Stage for InNetns<'_> {
    fn world(&self) -> WorldKind {
        WorldKind::Netns
    }

    fn servers(&self) -> Vec<IpAddr> {
        build::servers(self.scenario)
    }

    fn now(&self) -> Duration {
        self.zero.elapsed()
    }

    fn pass(&mut self, until: Duration) -> Result<(), StageError> {
        loop {
            self.stop.check()?;
            let left = until.saturating_sub(self.zero.elapsed());
            if left.is_zero() {
                break;
            }
            std::thread::park_timeout(left);
        }
        self.troupe.attend(&self.lab)
    }

    fn act(&mut self, action: &Action) -> Result<Acted, StageError> {
        match action {
            Action::Connect { from, to, relay } => self.troupe.connect(*from, *to, *relay, &self.lab)?,
            Action::Disconnect { from, to } => self.troupe.disconnect(*from, *to),
            Action::Reboot(nat) => {
                for name in self.layers(*nat) {
                    self.lab.reboot_nat_called(&name)?;
                }
            }
            Action::SetLink(place, pair) => {
                if let Some((host, from)) = build::end_of(self.scenario, *place) {
                    let name = self.scenario.node_name(host);
                    self.lab.set_uplink(name, from, build::access_link(pair))?;
                }
            }
            Action::Blackout { .. } => return Ok(Acted::Skipped("not an action of a world".to_owned())),
            Action::Udp(nat, word) => {
                let policy = match word {
                    UdpWord::Open => UdpPolicy::Open,
                    UdpWord::ServerOnly => UdpPolicy::OnlyTo(self.servers().into_iter().collect()),
                    UdpWord::Blocked => UdpPolicy::Blocked(None),
                };
                // As in the world in memory, the outermost one decides.
                if let Some(name) = self.layers(*nat).last() {
                    self.lab.set_udp_policy_called(name, policy)?;
                }
            }
            Action::Kill(node) => self.troupe.kill(*node),
            Action::Start(node) => self.troupe.revive(*node, &self.lab, self.stop)?,
            Action::Restart(node) => {
                self.troupe.kill(*node);
                self.troupe.revive(*node, &self.lab, self.stop)?;
            }
            Action::Switch { node, uplink } => build::switch(self.scenario, &self.lab, *node, *uplink)?,
            Action::Run(run) => return self.run(run),
        }
        Ok(Acted::Done)
    }

    fn path(&self, from: NodeIndex, to: NodeIndex) -> Option<PathView> {
        Some(self.troupe.path(from, to))
    }

    fn is_registered(&self, node: NodeIndex) -> bool {
        self.troupe.is_registered(node)
    }

    fn arrivals(&self, from: NodeIndex, to: NodeIndex) -> Option<u64> {
        self.troupe.arrivals(from, to)
    }

    fn probes(&self, _node: NodeIndex) -> Option<u64> {
        None
    }

    fn nat_entries(&self, nat: NatIndex) -> Option<usize> {
        let stats = self.lab.stats();
        let layers = self.layers(nat).into_iter();
        layers
            .filter_map(|name| Some(stats.nats.get(&name)?.stats.peak_entries))
            .max()
    }
}

fn write(file: &Path, text: &str) -> Result<(), StageError> {
    fs::write(file, text).map_err(|source| StageError::Files {
        what: file.display().to_string(),
        source,
    })
}
