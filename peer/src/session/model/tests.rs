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
        dead: None,
    }
}

/// Long enough for slow start on the longest path, and seven seconds of steady state.
fn measured(link: Link, names: &[&str]) -> Outcome {
    let from = ms(5_000).max(link.rtt * 40);
    run(link, names, from, from + ms(7_000))
}

#[test]
fn radio_noise_leaves_a_gigabit_over_a_tenth_of_a_second_usable() {
    for queue in [ms(50), ms(2)] {
        let share = measured(link(1000, ms(100), 1, queue), &["model"]).shares[0];
        assert!(share >= 0.8, "{share} with a queue of {queue:?}");
    }
}

#[test]
fn a_link_with_a_deep_queue_is_used_whatever_its_rate_and_length() {
    for (mbit, rtts) in [
        (10, &[0, 20, 100, 300][..]),
        (100, &[0, 20, 150, 300]),
        (1000, &[0, 50]),
    ] {
        for &rtt in rtts {
            for loss in [0, 1] {
                let link = link(mbit, ms(rtt).max(Duration::from_micros(400)), loss, ms(50));
                let share = measured(link, &["model"]).shares[0];
                assert!(
                    share >= 0.8,
                    "{share}: {mbit} Mbit/s, {rtt} ms, {loss} in a thousand lost"
                );
            }
        }
    }
}

#[test]
fn a_round_never_loses_as_many_packets_as_quinn_bears_gaps() {
    for rtt in [20, 50, 100, 150] {
        let outcome = run(link(1000, ms(rtt), 0, ms(2)), &["model"], ms(4_000), ms(8_000));
        assert!(outcome.lost_packets < 1024, "{rtt} ms: {outcome:?}");
        if rtt >= 100 {
            assert!(outcome.lost_share <= 0.10, "{rtt} ms: {outcome:?}");
        }
    }
}

#[test]
fn one_sender_keeps_a_deep_queue_short() {
    for (mbit, rtt) in [(100, 20), (100, 100), (1000, 50)] {
        let outcome = measured(link(mbit, ms(rtt), 0, ms(50)), &["model"]);
        assert!(outcome.queue <= ms(10), "{mbit} Mbit/s, {rtt} ms: {outcome:?}");
    }
}

#[test]
fn two_senders_share_within_two_to_one() {
    for (rtt, loss) in [(20, 0), (50, 1), (100, 0)] {
        let outcome = run(
            link(100, ms(rtt), loss, ms(50)),
            &["model", "model"],
            ms(15_000),
            ms(40_000),
        );
        let (a, b) = (outcome.shares[0], outcome.shares[1]);
        assert!(a.max(b) <= 2.0 * a.min(b), "{rtt} ms: {outcome:?}");
        assert!(a + b >= 0.8, "{rtt} ms: {outcome:?}");
    }
}

#[test]
fn neither_this_nor_cubic_starves_the_other_in_a_deep_queue() {
    let outcome = run(
        link(100, ms(50), 0, ms(50)),
        &["model", "cubic"],
        ms(15_000),
        ms(45_000),
    );
    assert!(outcome.shares.iter().all(|&share| share >= 0.1), "{outcome:?}");
}

#[test]
fn a_link_that_falls_to_a_quarter_or_rises_fourfold_is_followed_within_seconds() {
    for (before, after) in [(100, 25), (25, 100)] {
        for rtt in [20, 100] {
            let link = Link {
                later: Some((ms(8_000), after * MBIT)),
                ..link(before, ms(rtt), 0, ms(50))
            };
            let outcome = run(link, &["model"], ms(13_000), ms(18_000));
            assert!(
                outcome.shares[0] >= 0.8,
                "{before} to {after}, {rtt} ms: {outcome:?}"
            );
            assert!(
                outcome.queue <= ms(25),
                "{before} to {after}, {rtt} ms: {outcome:?}"
            );
        }
    }
}

#[test]
fn a_bad_moment_among_the_first_packets_does_not_end_slow_start() {
    // The first window; the second; what comes between; and all of it.
    for (from, to) in [(0, 50), (90, 150), (120, 160), (0, 150)] {
        let link = Link {
            dead: Some((ms(from), ms(to))),
            ..link(1000, ms(100), 0, ms(50))
        };
        let outcome = run(link, &["model"], ms(3_500), ms(5_500));
        assert!(outcome.shares[0] >= 0.8, "{from} to {to} ms: {outcome:?}");
    }
}

/// A model in the middle of a full window over 50 ms, at the time that is returned.
fn busy(rounds: u64) -> (Model, Instant) {
    let (mut model, mut now) = (Model::new(Instant::now(), 1200), Instant::now());
    for _ in 0..rounds {
        let (sent, window) = (now, model.window());
        model.on_sent(window);
        now += ms(50);
        for packet in 0..window / 1200 {
            model.on_ack(now, sent, 1200, window - packet * 600, false);
        }
    }
    (model, now)
}

#[test]
fn persistent_congestion_begins_anew_with_two_packets() {
    let (mut model, now) = busy(4);
    assert!(model.window() > 20 * 1200);
    model.on_loss(now, now, 50_000, true);
    assert_eq!(model.window(), 2 * 1200);
    assert_eq!(model.mode, Mode::Startup);
}

#[test]
fn a_mark_of_a_router_is_congestion_and_few_losses_are_not() {
    let (mut model, now) = busy(6);
    let before = model.window();
    model.on_loss(now, now - ms(50), 1200, false);
    assert_eq!(model.window(), before);
    let later = now + ms(50);
    model.on_ack(later, now, 1200, before, false);
    let before = model.window();
    model.on_loss(later, now, 0, false);
    assert!(model.window() < before);
}

/// What counts of marks, or of losses of so many bytes, that are told of in every tenth of a round trip.
fn answers(rtt: Duration, lost: u64) -> Vec<u128> {
    let (mut model, begin) = busy(6);
    let mut answers = Vec::new();
    for step in 0..60 {
        let (now, window) = (begin + rtt * step / 10, model.window());
        model.on_sent(window);
        // As quinn does: first what arrived, then what is missing or was marked.
        for _ in 0..window / 12_000 {
            model.on_ack(now, now - rtt, 1200, window, false);
        }
        let before = model.answered_at;
        model.on_loss(now, now - rtt, lost, false);
        if model.answered_at != before {
            answers.push((now - begin).as_millis());
        }
    }
    answers
}

#[test]
fn marks_count_once_a_round_trip_and_those_of_before_the_answer_do_not_count_again() {
    assert_eq!(answers(ms(60), 0), [0, 60, 120, 180, 240, 300]);
}

#[test]
fn losses_of_before_the_answer_do_not_count_again() {
    let far_too_much = 10_000_000;
    assert_eq!(answers(ms(60), far_too_much), [0, 60, 120, 180, 240, 300]);
    let (mut model, now) = busy(6);
    model.on_loss(now, now - ms(1), far_too_much, false);
    // The rest of what was on its way becomes known only with what was sent since.
    let later = now + ms(50);
    model.on_ack(later, now, 1200, 12_000, false);
    let (answered, tally) = (model.answered_at, model.tally);
    model.on_loss(later, now - ms(1), far_too_much, false);
    assert_eq!((model.answered_at, model.tally), (answered, tally));
}

#[test]
fn persistent_congestion_is_the_answer_to_all_that_was_sent_before() {
    let (mut model, now) = busy(4);
    model.on_loss(now, now - ms(50), 50_000, true);
    model.on_loss(now + ms(1), now - ms(1), 50_000, false);
    assert_eq!((model.mode, model.window()), (Mode::Startup, 2 * 1200));
}

/// A flight as long as the window, in packets less the one that quinn keeps free, to a receiver that acknowledges the fifth packet at
/// once and fewer after 25 ms; the time at which all of it is acknowledged.
fn flight(model: &mut Model, sent: Instant, packets: u64, app_limited: bool) -> Instant {
    model.on_sent(packets * 1200);
    let mut now = sent;
    for packet in 0..packets {
        let is_late = packet >= packets / 5 * 5;
        now = sent + ms(if is_late { 75 } else { 50 });
        // quinn tells what is in flight only after all acknowledgements of a frame.
        let in_flight = (packets - packet / 5 * 5) * 1200;
        model.on_ack(now, sent, 1200, in_flight, app_limited && is_late);
    }
    now
}

#[test]
fn late_acknowledgements_of_lone_packets_do_not_end_slow_start() {
    let (mut model, mut now) = busy(2);
    model.on_loss(now, now - ms(50), 50_000, true);
    while model.window() < 40 * 1200 {
        let packets = (model.window() / 1200).saturating_sub(1);
        now = flight(&mut model, now, packets, false);
        assert_eq!(model.mode, Mode::Startup, "with {packets} packets in flight");
    }
}

#[test]
fn a_short_message_that_is_acknowledged_late_does_not_end_slow_start() {
    let (mut model, mut now) = busy(1);
    for _ in 0..10 {
        now = flight(&mut model, now + ms(400), 4, true);
        assert_eq!(model.mode, Mode::Startup);
    }
}

#[test]
fn the_empty_round_trip_is_not_learnt_from_an_idle_connection() {
    let (mut model, mut now) = busy(20);
    let keep_alives = |model: &mut Model, now: &mut Instant| {
        for _ in 0..9 {
            *now += ms(10_000);
            model.on_sent(1200);
            model.on_ack(*now + ms(75), *now, 1200, 0, true);
        }
    };
    model.enter(Mode::Cruise, now);
    keep_alives(&mut model, &mut now);
    assert_eq!((model.mode, model.least()), (Mode::Cruise, ms(50)));
    // One that falls idle in the middle of a look, or of a drain, leaves it as well.
    for mode in [Mode::Look, Mode::Drain] {
        let shared = model.shared;
        model.enter(mode, now);
        keep_alives(&mut model, &mut now);
        assert_eq!((model.mode, model.least()), (Mode::Cruise, ms(50)));
        assert_eq!(model.shared, shared, "after {mode:?}");
    }
    // And one that has much to send looks: the path may have become longer.
    for _ in 0..4 {
        now += ms(10_000);
        let window = model.window();
        model.on_sent(window);
        for _ in 0..2 {
            model.on_ack(now + ms(60), now, window / 2, window, false);
        }
    }
    assert_eq!(model.least(), ms(60));
}

#[test]
fn a_sender_with_little_to_send_keeps_its_window() {
    let (mut model, mut now) = busy(5);
    let before = model.window();
    for _ in 0..100 {
        now += ms(50);
        model.on_sent(1200);
        model.on_ack(now, now - ms(50), 1200, 0, true);
    }
    assert_eq!(model.window(), before);
}

// Not a check but the source of a document: it asserts nothing that the tests above do not, and takes a minute or two, so it
// runs only when somebody renews the table.
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
