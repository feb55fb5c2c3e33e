//! A timeline of changes for two nodes that have met: routers start anew, links go dark one way or become others, nodes
//! move. Then nothing is wrong any more, and everything must work again.

use std::time::Duration;

use knothole_proto::seed::{Rng, Seed};

use super::build::{SERVER_IP, SERVER_IP6};
use super::check::Violation;
use super::place::Pair;
use super::recovery::{Meeting, meet, register};
use super::weather::Weather;
use super::world::World;
use crate::link::{LinkSpec, Loss};
use crate::nat::{Side, kinds};
use crate::oracle::reaches;

/// Most changes in one attempt: few enough that the attempt stays short, enough for one to meet the next.
const CHANGES_MAX: u64 = 5;

/// Longest pauses between two changes, in milliseconds: while a round of probes is under way, about as long as a round, and
/// longer than a path is trusted in silence (30 s) in a few cases.
const PAUSES_MS: [u64; 4] = [200, 3_000, 3_000, 40_000];

/// Lets changes happen to the pair and then demands what must be true again. The links of the pair are calm afterwards.
///
/// # Errors
/// The first rule that was broken.
pub(super) fn live_through(world: &mut World, pair: &mut Pair, seed: u64) -> Result<(), Violation> {
    let mut timeline = Timeline {
        rng: Seed::from_number(seed).child("changes", 0).rng(),
        world,
        pair,
    };
    for _ in 0..=timeline.rng.below(CHANGES_MAX) {
        timeline.change()?;
        let most = PAUSES_MS[timeline.below(PAUSES_MS.len())];
        let pause = Duration::from_millis(timeline.rng.below(most));
        timeline.world.run_for(pause)?;
    }
    for side in 0..2 {
        timeline.set_links(side, |calm| calm);
    }
    let whole = pair.situation.whole();
    register(world, &pair.hosts, whole.iter().flat_map(|side| &side.nats))?;
    let meeting = Meeting {
        hosts: pair.hosts,
        must: pair.situation.must_again(),
    };
    meet(world, &[meeting]).map(|_| ())
}

struct Timeline<'a> {
    rng: Rng,
    world: &'a mut World,
    pair: &'a mut Pair,
}

impl Timeline<'_> {
    fn change(&mut self) -> Result<(), Violation> {
        let side = self.below(2);
        let dark = |link| LinkSpec {
            loss: Loss::Uniform(1.0),
            ..link
        };
        match self.below(5) {
            0 => self.world.reboot_nats(self.pair.sites[side]),
            1 => self.set_links(side, |(up, down)| (dark(up), down)),
            2 => self.set_links(side, |(up, down)| (up, dark(down))),
            3 => self.set_links(side, |calm| calm),
            _ => self.move_away(side)?,
        }
        Ok(())
    }

    /// The access of a side is another one, changed like this.
    fn set_links(&mut self, side: usize, change: impl FnOnce((LinkSpec, LinkSpec)) -> (LinkSpec, LinkSpec)) {
        let (up, down) = change(Weather::CALM.draw(&mut self.rng));
        self.world.set_links(self.pair.sites[side], up, down);
    }

    /// A node is in another network, of any kind from which the server can be reached and in which it has an address.
    fn move_away(&mut self, side: usize) -> Result<(), Violation> {
        let families = self.pair.situation.own[side].families;
        let servers = [SERVER_IP, SERVER_IP6];
        let to = loop {
            let kind = &kinds()[self.below(kinds().len())];
            let to = Side {
                families,
                ..kind.side(&servers)
            };
            if reaches(&to, &servers) {
                break to;
            }
        };
        let (up, down) = Weather::CALM.draw(&mut self.rng);
        let site = self.world.add_site(&to.nats, up, down);
        self.world.move_node(self.pair.hosts[side], site)?;
        self.pair.sites[side] = site;
        self.pair.situation.moved(side, to);
        Ok(())
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.rng.below(bound as u64)).unwrap_or(0)
    }
}
