//! Two nodes meet at a nameplate, and nobody else does.

use knothole_proto::id::Nameplate;
use knothole_proto::rendezvous::ConnId;
use knothole_proto::wire::{FromServer, PAIR_BODY_LEN_MAX, PairEnd, ToServer};

use super::world::{World, open};
use crate::support::ms;

const MINUTE: u64 = 60_000;

fn plate(world: &mut World, conn: ConnId) -> Nameplate {
    world.say(conn, ToServer::PairOpen);
    match world.told(conn)[..] {
        [
            FromServer::PairOpened {
                nameplate,
                ttl_ms: 600_000,
            },
        ] => nameplate,
        ref other => panic!("{other:?}"),
    }
}

fn join(world: &mut World, conn: ConnId, nameplate: Nameplate) -> Vec<FromServer> {
    world.say(conn, ToServer::PairJoin { nameplate });
    world.told(conn)
}

fn body(world: &mut World, conn: ConnId, nameplate: Nameplate, body: &[u8]) {
    let body = body.to_vec();
    world.say(conn, ToServer::PairMessage { nameplate, body });
}

fn ended(nameplate: Nameplate, why: PairEnd) -> Vec<FromServer> {
    vec![FromServer::PairEnded { nameplate, why }]
}

/// Two nodes at a nameplate.
fn met() -> (World, ConnId, ConnId, Nameplate) {
    let mut world = World::new(open());
    let (one, two) = (world.join(1, None), world.join(2, None));
    let nameplate = plate(&mut world, one);
    let joined = [FromServer::PairJoined { nameplate }];
    assert_eq!(join(&mut world, two, nameplate), joined);
    assert_eq!(world.told(one), joined);
    (world, one, two, nameplate)
}

#[test]
fn what_one_says_the_other_hears_in_order() {
    let (mut world, one, two, nameplate) = met();
    for n in 0..8_u8 {
        body(&mut world, one, nameplate, &[n]);
        body(&mut world, two, nameplate, &[100 + n]);
    }
    let heard = |from: u8| -> Vec<_> {
        let body = |n| FromServer::PairMessage {
            nameplate,
            body: vec![n],
        };
        (from..from + 8).map(body).collect()
    };
    assert_eq!(world.told(two), heard(0));
    assert_eq!(world.told(one), heard(100));
    assert_eq!(world.stats().paired, 1);
}

#[test]
fn the_smallest_free_number_is_given() {
    let mut world = World::new(open());
    let (one, two) = (world.join(1, None), world.join(2, None));
    let numbers = [
        plate(&mut world, one),
        plate(&mut world, two),
        plate(&mut world, one),
    ];
    assert_eq!(numbers, [Nameplate(1), Nameplate(2), Nameplate(3)]);
}

#[test]
fn a_third_cannot_join_nor_listen_nor_speak_nor_end_it() {
    let (mut world, one, two, nameplate) = met();
    let third = world.join(3, None);
    assert_eq!(
        join(&mut world, third, nameplate),
        ended(nameplate, PairEnd::Unknown)
    );
    body(&mut world, third, nameplate, b"let me in");
    assert_eq!(world.told(third), ended(nameplate, PairEnd::Unknown));
    world.say(third, ToServer::PairLeave { nameplate });
    assert_eq!((world.told(one), world.told(two)), (vec![], vec![]));
    body(&mut world, one, nameplate, b"secret");
    assert_eq!(world.told(third), []);
    assert_eq!(world.told(two).len(), 1);
}

#[test]
fn a_code_is_used_up_by_whoever_joins() {
    let (mut world, one, two, nameplate) = met();
    world.say(two, ToServer::PairLeave { nameplate });
    assert_eq!(world.told(one), ended(nameplate, PairEnd::PeerLeft));
    assert_eq!(world.told(two), []);
    assert_eq!(
        join(&mut world, two, nameplate),
        ended(nameplate, PairEnd::Unknown)
    );
    body(&mut world, one, nameplate, b"still there?");
    assert_eq!(world.told(one), ended(nameplate, PairEnd::Unknown));
    world.say(one, ToServer::PairLeave { nameplate });
    assert_eq!((world.told(one), world.told(two)), (vec![], vec![]));
}

#[test]
fn a_number_rests_after_its_use() {
    let (mut world, one, two, nameplate) = met();
    world.say(one, ToServer::PairLeave { nameplate });
    assert_eq!(plate(&mut world, one), Nameplate(2));
    world.wait_alive(ms(10 * MINUTE - 30_000), &[one, two]);
    assert_eq!(plate(&mut world, one), Nameplate(3));
    world.wait_alive(ms(MINUTE), &[one, two]);
    world.told(one);
    assert_eq!(plate(&mut world, one), nameplate, "after ten minutes");
}

#[test]
fn nobody_pairs_with_itself() {
    let mut world = World::new(open());
    let one = world.join(1, None);
    let nameplate = plate(&mut world, one);
    assert_eq!(
        join(&mut world, one, nameplate),
        ended(nameplate, PairEnd::Yourself)
    );
    let two = world.join(2, None);
    assert_eq!(
        join(&mut world, two, nameplate).len(),
        1,
        "and the mistake costs nothing"
    );
}

#[test]
fn a_number_that_was_never_given_is_unknown() {
    let mut world = World::new(open());
    let one = world.join(1, None);
    for number in [0, 1, 77, u32::MAX] {
        let nameplate = Nameplate(number);
        assert_eq!(
            join(&mut world, one, nameplate),
            ended(nameplate, PairEnd::Unknown)
        );
        body(&mut world, one, nameplate, b"hello?");
        assert_eq!(world.told(one), ended(nameplate, PairEnd::Unknown));
    }
}

#[test]
fn one_who_waits_alone_says_nothing_to_nobody() {
    let mut world = World::new(open());
    let one = world.join(1, None);
    let nameplate = plate(&mut world, one);
    body(&mut world, one, nameplate, b"early");
    assert_eq!(world.told(one), ended(nameplate, PairEnd::Unknown));
}

#[test]
fn a_code_that_nobody_uses_expires_and_so_does_an_endless_conversation() {
    let (mut world, one, two, nameplate) = met();
    let lonely = plate(&mut world, one);
    world.wait_alive(ms(10 * MINUTE - 1), &[one, two]);
    assert_eq!((world.told(one), world.told(two)), (vec![], vec![]));
    world.wait(ms(2));
    assert_eq!(
        world.told(one),
        [
            ended(nameplate, PairEnd::Expired),
            ended(lonely, PairEnd::Expired)
        ]
        .concat()
    );
    assert_eq!(world.told(two), ended(nameplate, PairEnd::Expired));
    assert_eq!(
        (world.stats().nameplates, world.stats().nameplates_resting),
        (0, 2)
    );
    world.wait_alive(ms(11 * MINUTE), &[one, two]);
    assert_eq!(world.stats().nameplates_resting, 0);
}

#[test]
fn who_vanishes_ends_the_nameplate() {
    let (mut world, one, two, nameplate) = met();
    world.disconnect(one);
    assert_eq!(world.told(two), ended(nameplate, PairEnd::PeerLeft));
    let alone = plate(&mut world, two);
    world.disconnect(two);
    let three = world.join(3, None);
    assert_eq!(join(&mut world, three, alone), ended(alone, PairEnd::Unknown));
}

#[test]
fn too_much_talk_ends_the_nameplate_for_both() {
    let (mut world, one, two, nameplate) = met();
    for _ in 0..8 {
        body(&mut world, one, nameplate, &[0; PAIR_BODY_LEN_MAX]);
    }
    assert_eq!(world.told(two).len(), 8);
    body(&mut world, one, nameplate, &[0]);
    assert_eq!(world.told(one), ended(nameplate, PairEnd::TooFast));
    assert_eq!(world.told(two), ended(nameplate, PairEnd::TooFast));

    let (mut world, one, two, nameplate) = met();
    body(&mut world, one, nameplate, &[0; PAIR_BODY_LEN_MAX + 1]);
    assert_eq!(world.told(one), ended(nameplate, PairEnd::TooFast));
    assert_eq!(world.told(two), ended(nameplate, PairEnd::TooFast));
}

#[test]
fn a_key_has_ten_attempts_and_then_one_in_six_minutes() {
    let mut world = World::new(open());
    let guesser = world.join(1, None);
    let nameplate = Nameplate(5);
    let guess = |world: &mut World, conn| join(world, conn, nameplate) == ended(nameplate, PairEnd::Unknown);
    assert_eq!((0..100).filter(|_| guess(&mut world, guesser)).count(), 10);
    world.say(guesser, ToServer::PairOpen);
    assert_eq!(world.told(guesser), ended(Nameplate(0), PairEnd::TooFast));
    world.disconnect(guesser);
    let again = world.join(1, None);
    assert!(
        !guess(&mut world, again),
        "a new connection brings no new attempts"
    );
    world.wait_alive(ms(60 * MINUTE), &[again]);
    assert_eq!(
        (0..50).filter(|_| guess(&mut world, again)).count(),
        10,
        "ten an hour"
    );
    let other = world.join(2, None);
    assert!(guess(&mut world, other));
}

#[test]
fn many_keys_of_one_network_have_a_bound_together() {
    let mut world = World::new(open());
    let mut guesses = 0;
    for number in 1..=30 {
        let conn = world.connect_from(number, "9.9.9.9:4660");
        world.say(conn, ToServer::Hello(super::world::hello(number, None)));
        world.told(conn);
        for _ in 0..10 {
            let answer = join(&mut world, conn, Nameplate(5));
            guesses += u32::from(answer == ended(Nameplate(5), PairEnd::Unknown));
        }
    }
    assert_eq!(guesses, 60);
}

#[test]
fn nameplates_are_bounded_in_use_and_resting() {
    let mut config = open();
    config.limits.nameplates = 2;
    config.limits.nameplates_resting = 3;
    let mut world = World::new(config);
    let one = world.join(1, None);
    let refused = ended(Nameplate(0), PairEnd::TooFast);
    let (first, second) = (plate(&mut world, one), plate(&mut world, one));
    world.say(one, ToServer::PairOpen);
    assert_eq!(world.told(one), refused);
    world.say(one, ToServer::PairLeave { nameplate: first });
    plate(&mut world, one);
    world.say(one, ToServer::PairLeave { nameplate: second });
    world.say(one, ToServer::PairOpen);
    assert_eq!(world.told(one), refused, "three numbers are out");
    world.wait_alive(ms(11 * MINUTE), &[one]);
    world.told(one);
    world.wait_alive(ms(11 * MINUTE), &[one]);
    assert_eq!(plate(&mut world, one), Nameplate(1));
}
