//! The relay's table: who gets what, and how much passes.

use std::time::Instant;

use knothole_proto::id::ChannelId;
use knothole_proto::rendezvous::{ConnId, RelayConfig, RelayTable, Route};

use super::support::{addr, epoch, ms};

const CHANNEL: ChannelId = ChannelId(9);
const A: &str = "5.5.5.5:1000";
const B: &str = "6.6.6.6:2000";

fn table(bits: u64, now: Instant) -> RelayTable {
    let mut table = RelayTable::new(RelayConfig::new(bits), now);
    assert!(table.open(CHANNEL, [(ConnId(1), addr(A)), (ConnId(2), addr(B))], now));
    table
}

#[test]
fn what_comes_from_one_end_goes_to_the_other() {
    let mut table = table(1_000_000, epoch());
    assert_eq!(table.route(CHANNEL, addr(A)), Route::To(addr(B)));
    assert_eq!(table.route(CHANNEL, addr(B)), Route::To(addr(A)));
    assert_eq!(
        table.route(CHANNEL, addr("[::ffff:5.5.5.5]:1000")),
        Route::To(addr(B))
    );
}

#[test]
fn a_frame_from_elsewhere_or_of_no_channel_goes_nowhere() {
    let mut table = table(1_000_000, epoch());
    let wrong = Route::WrongSource([ConnId(1), ConnId(2)]);
    for from in ["5.5.5.5:1001", "9.9.9.9:1000"] {
        assert_eq!(table.route(CHANNEL, addr(from)), wrong, "{from}");
    }
    assert_eq!(table.route(ChannelId(8), addr(A)), Route::UnknownChannel);
    table.close(CHANNEL);
    assert_eq!(table.route(CHANNEL, addr(A)), Route::UnknownChannel);
    let stats = table.stats();
    assert_eq!(
        (stats.wrong_source, stats.unknown_channel, stats.channels),
        (2, 2, 0)
    );
}

#[test]
fn an_end_that_moves_takes_all_its_channels_along() {
    let begin = epoch();
    let mut table = table(1_000_000, begin);
    let other = ChannelId(10);
    assert!(table.open(
        other,
        [(ConnId(3), addr("7.7.7.7:1")), (ConnId(1), addr(A))],
        begin
    ));
    let moved = addr("5.5.5.5:1001");
    table.move_end(ConnId(1), moved);
    assert_eq!(table.route(CHANNEL, moved), Route::To(addr(B)));
    assert_eq!(table.route(other, addr("7.7.7.7:1")), Route::To(moved));
    assert_eq!(
        table.route(CHANNEL, addr(A)),
        Route::WrongSource([ConnId(1), ConnId(2)])
    );
    table.move_end(ConnId(77), moved);
    assert_eq!(
        table.route(CHANNEL, addr(B)),
        Route::To(moved),
        "an unknown connection moves nothing"
    );
}

#[test]
fn a_channel_that_is_opened_again_has_its_new_ends_only() {
    let begin = epoch();
    let mut table = table(1_000_000, begin);
    assert!(table.open(
        CHANNEL,
        [(ConnId(4), addr("8.8.8.8:4")), (ConnId(2), addr(B))],
        begin
    ));
    assert_eq!(table.route(CHANNEL, addr(B)), Route::To(addr("8.8.8.8:4")));
    table.move_end(ConnId(1), addr("9.9.9.9:9"));
    assert_eq!(table.route(CHANNEL, addr(B)), Route::To(addr("8.8.8.8:4")));
    assert_eq!(table.stats().channels, 1);
}

#[test]
fn the_total_holds_within_five_percent_whatever_is_offered() {
    for (bits, size, every_us) in [
        (200_000_000_u64, 1_200_usize, 10_u64),
        (200_000_000, 64_000, 300),
        (10_000_000_000, 60_000, 20),
        (2_000_000, 1_200, 100),
    ] {
        let begin = epoch();
        let mut table = table(bits, begin);
        let seconds = 20;
        let mut passed = 0;
        let mut offered = 0;
        for n in 0..seconds * 1_000_000 / every_us {
            let now = begin + std::time::Duration::from_micros(n * every_us);
            offered += size as u64;
            if table.admit(size, now) {
                passed += size as u64;
            }
        }
        let allowed = bits / 8 * seconds;
        assert!(offered > allowed * 2, "the test offers too little to tell");
        let ratio = passed as f64 / allowed as f64;
        assert!(
            (0.95..=1.06).contains(&ratio),
            "{bits} bit/s in {size} bytes: {ratio}"
        );
        let stats = table.stats();
        assert_eq!(stats.forwarded_bytes, passed);
        assert_eq!(stats.forwarded_bytes + stats.refused_bytes, offered);
        assert_eq!(
            stats.forwarded_batches + stats.refused_batches,
            seconds * 1_000_000 / every_us
        );
    }
}

#[test]
fn what_stays_below_the_total_passes_without_loss() {
    let begin = epoch();
    let mut table = table(10_000_000, begin);
    let all = (0..10_000).all(|n| table.admit(1_200, begin + ms(n)));
    assert!(all, "9.6 of 10 Mbit/s");
}

#[test]
fn a_total_of_nothing_forwards_nothing() {
    let begin = epoch();
    let mut table = table(0, begin);
    assert!((0..100).all(|n| !table.admit(1, begin + ms(n * 1000))));
}
