//! The relay's table: who gets what.

use std::net::SocketAddr;

use knothole_proto::id::ChannelId;
use knothole_proto::rendezvous::{ConnId, LaneId, RelayTable, Route};

use super::support::addr;

const CHANNEL: ChannelId = ChannelId(9);
const A: &str = "5.5.5.5:1000";
const B: &str = "6.6.6.6:2000";

fn table() -> RelayTable {
    let mut table = RelayTable::new();
    assert!(
        table
            .open(CHANNEL, [(ConnId(1), addr(A)), (ConnId(2), addr(B))])
            .is_some()
    );
    table
}

/// Where it goes, if anywhere.
fn goes(table: &RelayTable, channel: ChannelId, from: SocketAddr) -> Option<SocketAddr> {
    match table.route(channel, from) {
        Route::To { to, .. } => Some(to),
        Route::UnknownChannel | Route::WrongSource(_) => None,
    }
}

#[test]
fn what_comes_from_one_end_goes_to_the_other() {
    let table = table();
    assert_eq!(goes(&table, CHANNEL, addr(A)), Some(addr(B)));
    assert_eq!(goes(&table, CHANNEL, addr(B)), Some(addr(A)));
    assert_eq!(
        goes(&table, CHANNEL, addr("[::ffff:5.5.5.5]:1000")),
        Some(addr(B))
    );
}

#[test]
fn each_direction_is_a_lane_of_its_own() {
    let table = table();
    let lane = |from_second| LaneId {
        channel: CHANNEL,
        from_second,
    };
    let lanes = [A, B].map(|from| match table.route(CHANNEL, addr(from)) {
        Route::To { lane, .. } => Some(lane),
        _ => None,
    });
    assert_eq!(lanes, [Some(lane(false)), Some(lane(true))]);
}

#[test]
fn a_frame_from_elsewhere_or_of_no_channel_goes_nowhere() {
    let mut table = table();
    let wrong = Route::WrongSource([ConnId(1), ConnId(2)]);
    for from in ["5.5.5.5:1001", "9.9.9.9:1000"] {
        assert_eq!(table.route(CHANNEL, addr(from)), wrong, "{from}");
    }
    assert_eq!(table.route(ChannelId(8), addr(A)), Route::UnknownChannel);
    table.close(CHANNEL);
    assert_eq!(table.route(CHANNEL, addr(A)), Route::UnknownChannel);
    assert!(table.is_empty());
}

#[test]
fn an_end_that_moves_takes_all_its_channels_along() {
    let mut table = table();
    let other = ChannelId(10);
    assert!(
        table
            .open(other, [(ConnId(3), addr("7.7.7.7:1")), (ConnId(1), addr(A))])
            .is_some()
    );
    let moved = addr("5.5.5.5:1001");
    table.move_end(ConnId(1), moved);
    assert_eq!(goes(&table, CHANNEL, moved), Some(addr(B)));
    assert_eq!(goes(&table, other, addr("7.7.7.7:1")), Some(moved));
    assert_eq!(
        table.route(CHANNEL, addr(A)),
        Route::WrongSource([ConnId(1), ConnId(2)])
    );
    table.move_end(ConnId(77), moved);
    assert_eq!(
        goes(&table, CHANNEL, addr(B)),
        Some(moved),
        "an unknown connection moves nothing"
    );
}

#[test]
fn a_channel_that_is_opened_again_has_its_new_ends_only() {
    let mut table = table();
    assert!(
        table
            .open(CHANNEL, [(ConnId(4), addr("8.8.8.8:4")), (ConnId(2), addr(B))])
            .is_some()
    );
    assert_eq!(goes(&table, CHANNEL, addr(B)), Some(addr("8.8.8.8:4")));
    table.move_end(ConnId(1), addr("9.9.9.9:9"));
    assert_eq!(goes(&table, CHANNEL, addr(B)), Some(addr("8.8.8.8:4")));
    assert_eq!(table.len(), 1);
}
