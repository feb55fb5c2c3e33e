//! Loss and return: of the server, of the peer, of the path, of the network.

use super::*;
use crate::support::traffic;

#[test]
fn a_lost_server_takes_the_relay_but_not_the_direct_path() {
    let mut town = met();
    let link = town.links(0)[0];
    town.clear();
    town.control_down(0);
    town.control_down(1);
    town.run(town.now + 300 * SECOND);
    for index in [0, 1] {
        assert_eq!(events(&town, index), [Event::Channel { link, channel: None }]);
    }
    // And a call serves itself with it.
    town.clear();
    town.connect(0, 1, PathPolicy::Auto);
    assert_eq!(town.links(0), [link]);
    assert!(town.path(0).is_some_and(|path| path.is_direct()));
}

#[test]
fn after_the_return_of_the_server_links_get_their_relay_back() {
    for first in [0, 1] {
        let mut town = met();
        let link = town.links(0)[0];
        town.clear();
        town.replace_server();
        town.run(town.now + 3 * SECOND);
        town.control_up(first);
        town.run(town.now + 5 * SECOND);
        town.control_up(1 - first);
        town.run(town.now + 120 * SECOND);
        for index in [0, 1] {
            let told = events(&town, index);
            let back =
                |event: &Event| matches!(event, Event::Channel { link: l, channel: Some(_) } if *l == link);
            assert!(told.iter().any(back), "{told:?}");
            assert!(
                !told
                    .iter()
                    .any(|event| matches!(event, Event::Path { .. } | Event::LinkDown { .. })),
                "{told:?}"
            );
        }
    }
}

#[test]
fn a_relayed_link_outlives_a_restart_of_the_server() {
    let mut town = relayed();
    let link = town.links(0)[0];
    town.clear();
    town.replace_server();
    assert_eq!(town.path(0), Some(Path::None(Why::Silence)));
    town.run(town.now + 3 * SECOND);
    town.control_up(0);
    town.control_up(1);
    town.run(town.now + 30 * SECOND);
    for index in [0, 1] {
        assert!(
            matches!(town.path(index), Some(Path::Relay(_))),
            "{:?}",
            events(&town, index)
        );
        assert!(down(&town, index).is_none());
        let back =
            |event: &Event| matches!(event, Event::Channel { link: l, channel: Some(_) } if *l == link);
        assert!(events(&town, index).iter().any(back));
    }
}

#[test]
fn a_peer_that_loses_the_server_for_a_moment_keeps_its_relayed_link() {
    for index in [0, 1] {
        let mut town = relayed();
        town.clear();
        town.control_down(index);
        town.run(town.now + SECOND);
        town.control_up(index);
        town.run(town.now + 30 * SECOND);
        for side in [0, 1] {
            assert!(down(&town, side).is_none());
            assert!(
                matches!(town.path(side), Some(Path::Relay(_))),
                "{:?}",
                events(&town, side)
            );
        }
    }
}

#[test]
fn a_peer_that_vanishes_from_a_relayed_link_is_given_up_after_a_minute() {
    for gone in [0, 1] {
        let mut town = relayed();
        let begun = town.now;
        town.clear();
        town.control_down(gone);
        town.run(begun + 120 * SECOND);
        let stays = 1 - gone;
        let (when, why) = down(&town, stays).unwrap();
        assert_eq!(why, LinkEnd::PeerGone);
        assert!((59 * SECOND..=62 * SECOND).contains(&(when - begun)), "{when:?}");
        town.clear();
        town.run(begun + 600 * SECOND);
        assert_eq!(connects(&town, stays), 0);
    }
}

#[test]
fn a_peer_that_closes_ends_a_relayed_link_at_once_and_a_direct_one_after_a_check() {
    for (mut town, within) in [(relayed(), ms(100)), (met(), ms(1200))] {
        let begun = town.now;
        let link = town.links(1)[0];
        town.clear();
        town.command(1, Command::Close { link });
        assert_eq!(down(&town, 1), Some((begun, LinkEnd::Closed)));
        town.run(begun + 60 * SECOND);
        let (when, why) = down(&town, 0).unwrap();
        assert_eq!(why, LinkEnd::PeerGone);
        assert!(when - begun <= within, "{:?}", when - begun);
        assert_eq!(connects(&town, 0), 0, "nobody calls back one that left");
    }
}

#[test]
fn a_link_to_a_machine_that_is_no_longer_paired_ends() {
    let mut town = met();
    town.clear();
    town.command(0, Command::SetPeers(Vec::new()));
    assert_eq!(down(&town, 0).map(|(_, why)| why), Some(LinkEnd::Unpaired));
    town.run(town.now + 5 * SECOND);
    assert_eq!(down(&town, 1).map(|(_, why)| why), Some(LinkEnd::PeerGone));
    town.clear();
    town.connect(1, 0, PathPolicy::Auto);
    town.run(town.now + 5 * SECOND);
    let why = ConnectFailure::Refused(ConnectRefusal::Offline);
    assert!(town.has(
        1,
        &Event::ConnectFailed {
            request: RequestId(77),
            why
        }
    ));
    assert!(events(&town, 0).is_empty());
}

#[test]
fn a_path_that_dies_falls_back_to_the_relay_and_comes_back() {
    let mut town = met();
    town.clear();
    town.passes = Box::new(|_, _| false);
    let link = town.links(0).first().copied().unwrap_or(LinkId(1));
    for _ in 0..60 {
        let now = town.now + ms(50);
        town.run(now);
        for index in [0, 1] {
            town.feed(
                index,
                Input::Traffic {
                    link,
                    report: traffic(false),
                },
            );
        }
    }
    for index in [0, 1] {
        assert_eq!(town.paths(index).first(), Some(&Path::Relay(Why::PathLost)));
    }
    assert!(connects(&town, 0) >= 1 && connects(&town, 1) == 0);
    town.passes = Box::new(|_, _| true);
    town.run(town.now + 20 * SECOND);
    for index in [0, 1] {
        assert!(town.path(index).is_some_and(|path| path.is_direct()));
    }
}

#[test]
fn a_public_address_that_changes_leads_to_a_check_and_a_new_round() {
    let mut town = met();
    town.clear();
    town.moves(0, "5.0.0.9:4000");
    town.run(town.now + 3 * SECOND);
    assert_eq!(
        connects(&town, 0),
        1,
        "{:?} {:?}",
        events(&town, 0),
        town.citizens[0].said
    );
    let Some(Path::Direct { remote, .. }) = town.path(1) else {
        panic!("{:?}", events(&town, 1));
    };
    assert_eq!(remote, addr("5.0.0.9:4000"));
    assert!(
        !town.paths(0).iter().any(|path| !path.is_direct()),
        "{:?}",
        town.paths(0)
    );
}
