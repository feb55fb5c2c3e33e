//! What the controller promises, on simulated paths.

mod link;
mod rivals;

use std::time::Duration;

use link::{Link, Outcome, run};

use super::*;

const MBIT: u64 = 1_000_000;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn link(mbit: u64, rtt: Duration, loss_per_mille: u32, queue: Duration) -> Link {
    Link {
        rate: mbit * MBIT,
        rtt,
        loss_per_mille,
        queue,
        later: None,
    }
}

/// Long enough for slow start on the longest path, and seven seconds of steady state.
fn measured(link: Link, names: &[&str]) -> Outcome {
    let from = ms(5_000).max(link.rtt * 40);
    run(link, names, from, from + ms(7_000))
}

#[test]
#[ignore = "prints the table of docs/congestion.md; a minute or two"]
fn table() {
    println!(
        "| rtt ms | loss % | queue | Mbit/s | cubic | filter | model | most lost in a round | queue ms |"
    );
    for mbit in [10, 100, 1000] {
        for (queue, name) in [(ms(50), "deep"), (ms(2), "shallow")] {
            for loss in [0, 1, 10] {
                for rtt in [400, 20_000, 50_000, 100_000, 150_000, 300_000].map(Duration::from_micros) {
                    let link = link(mbit, rtt, loss, queue);
                    let share = |who| measured(link, &[who]).shares[0];
                    let model = measured(link, &["model"]);
                    println!(
                        "| {} | {} | {name} | {mbit} | {:.2} | {:.2} | {:.2} | {} ({:.0} %) | {:.1} |",
                        rtt.as_secs_f64() * 1e3,
                        f64::from(loss) / 10.0,
                        share("cubic"),
                        share("filter"),
                        model.shares[0],
                        model.lost_packets,
                        100.0 * model.lost_share,
                        1e3 * model.queue.as_secs_f64(),
                    );
                }
            }
        }
    }
}
