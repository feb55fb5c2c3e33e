//! Who gets in, and who gets which name.

use knothole_proto::addr::{CANDIDATES_MAX, Candidate, CandidateKind};
use knothole_proto::id::{Instance, PairTag, RequestId, Token};
use knothole_proto::rendezvous::{Record, RegistryConfig, StoreFailed};
use knothole_proto::wire::{ACCEPT_TAGS_MAX, FromServer, Hello, Refusal, ToServer, Update, Welcome};

use super::world::{World, hello, key, open};
use crate::support::{addr, ms};

fn token(text: &str) -> Token {
    text.parse().unwrap()
}

fn by_invitation() -> RegistryConfig {
    RegistryConfig {
        tokens: vec![token("first"), token("second")],
        ..RegistryConfig::default()
    }
}

fn with_token(hello: Hello, text: &str) -> ToServer {
    ToServer::Hello(Hello {
        token: Some(token(text)),
        ..hello
    })
}

fn plain(number: u32, name: Option<&str>) -> ToServer {
    ToServer::Hello(hello(number, name))
}

#[test]
fn a_node_is_welcomed_with_its_name_and_what_the_server_sees() {
    let config = RegistryConfig {
        alternate_port: 5669,
        alternate: Some(addr("8.8.8.8:5669")),
        ..open()
    };
    let mut world = World::new(config);
    world.wait(ms(1500));
    let conn = world.connect_from(1, "[::ffff:5.5.5.5]:4660");
    world.say(conn, plain(1, Some("nas")));
    let told = world.told(conn);
    let [FromServer::Welcome(welcome)] = &told[..] else {
        panic!("{told:?}");
    };
    let Welcome {
        name,
        reflexive,
        server,
        refresh_ms,
        alternate_port,
        alternate,
        relay,
    } = welcome;
    assert_eq!(name.as_ref().map(|name| name.as_str()), Some("nas"));
    assert_eq!(*reflexive, addr("5.5.5.5:4660"), "in its one spelling");
    assert_eq!(server.0, 1_500_000);
    assert_eq!((*refresh_ms, *alternate_port, *relay), (15_000, 5669, true));
    assert_eq!(*alternate, Some(addr("8.8.8.8:5669")));
    let stats = world.stats();
    assert_eq!(
        (stats.connected, stats.keys, stats.names, stats.welcomed),
        (1, 1, 1, 1)
    );
}

#[test]
fn a_stranger_needs_one_of_the_tokens() {
    let mut world = World::new(by_invitation());
    let conn = world.connect(1);
    world.say(conn, plain(1, Some("nas")));
    world.assert_refused(conn, Refusal::TokenMissing);
    for wrong in ["First", "firs", "first2", "third"] {
        let conn = world.connect(1);
        world.say(conn, with_token(hello(1, Some("nas")), wrong));
        world.assert_refused(conn, Refusal::TokenWrong);
    }
    assert_eq!(
        (world.stats().keys, world.stats().names),
        (0, 0),
        "a refused key leaves nothing"
    );
    for (number, right) in [(1, "first"), (2, "second")] {
        let conn = world.connect(number);
        world.say(conn, with_token(hello(number, None), right));
        assert!(matches!(world.told(conn)[..], [FromServer::Welcome(_)]));
    }
    assert_eq!(world.stats().refused[&Refusal::TokenWrong], 4);
}

#[test]
fn a_server_without_tokens_that_is_not_open_admits_no_stranger() {
    let mut world = World::new(RegistryConfig::default());
    let conn = world.connect(1);
    world.say(conn, with_token(hello(1, None), "any"));
    world.assert_refused(conn, Refusal::TokenWrong);
}

#[test]
fn a_key_on_record_needs_no_token_any_more_also_after_a_restart() {
    let record = Record {
        peer: key(1),
        name: Some("nas".parse().unwrap()),
    };
    let mut world = World::with_records(by_invitation(), vec![record]);
    world.disk_is_fast = false;
    let conn = world.connect(1);
    world.say(conn, with_token(hello(1, Some("nas")), "long-revoked"));
    assert!(matches!(world.told(conn)[..], [FromServer::Welcome(_)]));
    assert_eq!(world.writes, [], "nothing new to write");
    let conn = world.connect(2);
    world.say(conn, with_token(hello(2, Some("nas")), "first"));
    world.assert_refused(conn, Refusal::NameTaken);
}

#[test]
fn a_name_belongs_to_the_first_key_for_good() {
    let mut world = World::new(open());
    let first = world.join(1, Some("nas"));
    world.disconnect(first);
    world.wait(ms(86_400_000));
    let thief = world.connect(2);
    world.say(thief, plain(2, Some("nas")));
    world.assert_refused(thief, Refusal::NameTaken);
    world.join(1, Some("nas"));
}

#[test]
fn nothing_is_confirmed_before_it_is_on_disk() {
    let mut world = World::new(open());
    world.disk_is_fast = false;
    let conn = world.connect(1);
    world.say(conn, plain(1, Some("nas")));
    assert_eq!(world.told(conn), []);
    assert_eq!(
        (world.stats().connected, world.stats().names, world.stats().claims),
        (0, 0, 1)
    );
    let record = &world.writes[0].1;
    assert_eq!(
        (record.peer, record.name.as_ref().unwrap().as_str()),
        (key(1), "nas")
    );
    world.disk(Ok(()));
    assert!(matches!(world.told(conn)[..], [FromServer::Welcome(_)]));
    assert_eq!(
        (world.stats().connected, world.stats().names, world.stats().claims),
        (1, 1, 0)
    );
}

#[test]
fn while_a_claim_is_being_written_nobody_else_gets_the_name() {
    let mut world = World::new(open());
    world.disk_is_fast = false;
    let (first, second) = (world.connect(1), world.connect(2));
    world.say(first, plain(1, Some("nas")));
    world.say(second, plain(2, Some("nas")));
    world.assert_refused(second, Refusal::NameTaken);
    world.disk(Ok(()));
    assert!(matches!(world.told(first)[..], [FromServer::Welcome(_)]));
    assert_eq!(world.writes, []);
}

#[test]
fn a_claim_that_the_disk_refuses_is_refused_and_the_name_is_free_again() {
    let mut world = World::new(open());
    world.disk_is_fast = false;
    let first = world.connect(1);
    world.say(first, plain(1, Some("nas")));
    world.disk(Err(StoreFailed));
    world.assert_refused(first, Refusal::Storage);
    assert_eq!((world.stats().names, world.stats().keys), (0, 0));
    let second = world.connect(2);
    world.say(second, plain(2, Some("nas")));
    world.disk(Ok(()));
    assert!(matches!(world.told(second)[..], [FromServer::Welcome(_)]));
}

#[test]
fn a_claim_whose_node_left_meanwhile_still_counts() {
    let mut world = World::new(open());
    world.disk_is_fast = false;
    let first = world.connect(1);
    world.say(first, plain(1, Some("nas")));
    world.disconnect(first);
    world.disk(Ok(()));
    assert_eq!(world.told(first), []);
    let second = world.connect(2);
    world.say(second, plain(2, Some("nas")));
    world.assert_refused(second, Refusal::NameTaken);
}

#[test]
fn of_a_thousand_claimants_exactly_one_succeeds() {
    for writes_until_answer in [0, 1, 500] {
        let mut world = World::new(open());
        world.disk_is_fast = false;
        let conns: Vec<_> = (1..=1000).map(|number| (number, world.connect(number))).collect();
        let mut welcomed = 0;
        let mut refused = 0;
        for (n, (number, conn)) in conns.iter().enumerate() {
            world.say(*conn, plain(*number, Some("nas")));
            if n >= writes_until_answer && !world.writes.is_empty() {
                world.disk(Ok(()));
            }
        }
        for (_, conn) in conns {
            match world.told(conn)[..] {
                [FromServer::Welcome(_)] => welcomed += 1,
                [FromServer::Refused(Refusal::NameTaken)] => refused += 1,
                ref other => panic!("{other:?}"),
            }
        }
        assert_eq!((welcomed, refused, world.stats().names), (1, 999, 1));
    }
}

#[test]
fn the_same_key_may_claim_twice_at_once() {
    let mut world = World::new(open());
    world.disk_is_fast = false;
    let (one, other) = (world.connect(1), world.connect(1));
    world.say(one, plain(1, Some("nas")));
    let again = Hello {
        instance: Instance(77),
        ..hello(1, Some("nas"))
    };
    world.say(other, ToServer::Hello(again));
    world.disk(Err(StoreFailed));
    world.disk(Ok(()));
    world.assert_refused(one, Refusal::Storage);
    assert!(matches!(world.told(other)[..], [FromServer::Welcome(_)]));
    assert_eq!(world.stats().names, 1);
}

#[test]
fn a_key_holds_sixteen_names_and_no_more() {
    let mut world = World::new(open());
    for n in 0..16 {
        let conn = world.join(1, Some(&format!("name-{n}")));
        world.disconnect(conn);
    }
    let conn = world.connect(1);
    world.say(conn, plain(1, Some("name-16")));
    world.assert_refused(conn, Refusal::TooManyNames);
    world.join(1, Some("name-3"));
    world.join(2, Some("name-16"));
    assert_eq!((world.stats().names, world.stats().keys), (17, 2));
}

#[test]
fn names_on_the_way_to_the_disk_count_as_held() {
    let mut world = World::new(open());
    world.disk_is_fast = false;
    let wave = |world: &mut World, from: u64| {
        for n in from..from + 8 {
            let conn = world.connect(1);
            let hello = Hello {
                instance: Instance(n),
                ..hello(1, Some(&format!("name-{n}")))
            };
            world.say(conn, ToServer::Hello(hello));
            world.disconnect(conn);
        }
    };
    wave(&mut world, 0);
    wave(&mut world, 8);
    wave(&mut world, 16);
    assert_eq!(world.writes.len(), 16);
    assert_eq!(world.stats().refused[&Refusal::TooManyNames], 8);
}

#[test]
fn a_dial_only_node_needs_no_name() {
    let mut world = World::new(open());
    let conn = world.join(1, None);
    assert!(!world.is_closed(conn));
    assert_eq!((world.stats().keys, world.stats().names), (1, 0));
}

#[test]
fn anything_but_a_hello_first_ends_the_connection() {
    let first_words = [
        ToServer::Time {
            sent_us: 0,
            rtt_us: 0,
        },
        ToServer::Update(Update::default()),
        ToServer::PairOpen,
        ToServer::Bye,
    ];
    for word in first_words {
        let mut world = World::new(open());
        let conn = world.connect(1);
        world.say(conn, word);
        world.assert_refused(conn, Refusal::Protocol);
        world.assert_empty();
    }
}

#[test]
fn a_second_hello_ends_the_connection() {
    let mut world = World::new(open());
    let conn = world.join(1, Some("nas"));
    world.say(conn, plain(1, Some("other")));
    world.assert_refused(conn, Refusal::Protocol);
    assert_eq!(world.stats().names, 1);
}

#[test]
fn before_its_welcome_a_node_may_ask_for_the_time_and_for_nothing_else() {
    let mut world = World::new(open());
    world.disk_is_fast = false;
    let conn = world.connect(1);
    world.say(conn, plain(1, Some("nas")));
    world.say(
        conn,
        ToServer::Time {
            sent_us: 5,
            rtt_us: 0,
        },
    );
    assert!(matches!(
        world.told(conn)[..],
        [FromServer::Time { sent_us: 5, .. }]
    ));
    world.say(conn, ToServer::PairOpen);
    world.assert_refused(conn, Refusal::Protocol);
    world.disk(Ok(()));
    assert_eq!(world.told(conn), []);
}

#[test]
fn a_message_that_does_not_decode_ends_the_connection() {
    let mut world = World::new(open());
    let conn = world.join(1, None);
    world.registry.handle_garbage(conn, world.now);
    world.wait(ms(0));
    world.say(conn, ToServer::PairOpen);
    world.assert_refused(conn, Refusal::Protocol);
    world.assert_empty();
}

#[test]
fn facts_beyond_their_limits_end_the_connection() {
    let hosts = |count: usize| -> Vec<Candidate> {
        let host = |port| Candidate {
            kind: CandidateKind::Host,
            addr: std::net::SocketAddr::from(([10, 0, 0, 2], port)),
        };
        (1..).map(host).take(count).collect()
    };
    let tags =
        |count: usize| -> Vec<PairTag> { (0_u128..).map(|n| PairTag(n.to_be_bytes())).take(count).collect() };
    let most = Update {
        candidates: hosts(CANDIDATES_MAX),
        accept: tags(ACCEPT_TAGS_MAX),
        ..Update::default()
    };
    let too_many_candidates = Update {
        candidates: hosts(CANDIDATES_MAX + 1),
        ..Update::default()
    };
    let too_many_tags = Update {
        accept: tags(ACCEPT_TAGS_MAX + 1),
        ..Update::default()
    };
    let unsorted = Update {
        accept: vec![PairTag([2; 16]), PairTag([1; 16])],
        ..Update::default()
    };
    let twice = Update {
        accept: vec![PairTag([1; 16]), PairTag([1; 16])],
        ..Update::default()
    };
    let mut world = World::new(open());
    let conn = world.join(1, None);
    world.say(conn, ToServer::Update(most));
    assert!(!world.is_closed(conn));
    for facts in [too_many_candidates, too_many_tags, unsorted, twice] {
        let conn = world.join(1, None);
        world.say(conn, ToServer::Update(facts.clone()));
        world.assert_refused(conn, Refusal::Protocol);
        let conn = world.connect(1);
        world.say(
            conn,
            ToServer::Hello(Hello {
                facts,
                ..hello(1, None)
            }),
        );
        world.assert_refused(conn, Refusal::Protocol);
    }
    let conn = world.connect(1);
    let agent = "a".repeat(65);
    world.say(
        conn,
        ToServer::Hello(Hello {
            agent,
            ..hello(1, None)
        }),
    );
    world.assert_refused(conn, Refusal::Protocol);
}

#[test]
fn a_flood_of_messages_ends_the_connection_and_no_other() {
    let mut world = World::new(open());
    let (flooder, calm) = (world.join(1, None), world.join(2, None));
    let time = || ToServer::Time {
        sent_us: 0,
        rtt_us: 0,
    };
    let mut taken = 0;
    while !world.is_closed(flooder) {
        world.say(flooder, time());
        taken += 1;
        assert!(taken < 1000, "never stopped");
    }
    assert!((190..=201).contains(&taken), "{taken}");
    assert_eq!(
        world.told(flooder).pop(),
        Some(FromServer::Refused(Refusal::Protocol))
    );
    for _ in 0..1000 {
        world.wait(ms(20));
        world.say(calm, time());
    }
    assert!(!world.is_closed(calm), "fifty a second are allowed");
}

#[test]
fn a_full_server_says_so() {
    let mut config = open();
    config.limits.connections = 3;
    config.limits.connections_per_key = 2;
    let mut world = World::new(config);
    let (one, _) = (world.connect(1), world.connect(1));
    let third_of_key = world.connect(1);
    world.assert_refused(third_of_key, Refusal::Busy);
    let _ = world.connect(2);
    let over = world.connect(3);
    world.assert_refused(over, Refusal::Busy);
    world.disconnect(one);
    let conn = world.connect(3);
    assert!(!world.is_closed(conn));
}

#[test]
fn a_full_book_admits_those_who_are_in_it() {
    let mut config = open();
    config.limits.keys = 2;
    let mut world = World::new(config);
    world.join(1, Some("one"));
    world.join(2, Some("two"));
    let conn = world.connect(3);
    world.say(conn, plain(3, Some("three")));
    world.assert_refused(conn, Refusal::Busy);
    world.join(1, Some("one"));
}

#[test]
fn a_slow_disk_bounds_the_claims_that_wait() {
    let mut config = open();
    config.limits.claims = 2;
    let mut world = World::new(config);
    world.disk_is_fast = false;
    for number in 1..=3 {
        let conn = world.connect(number);
        world.say(conn, plain(number, None));
        if number == 3 {
            world.assert_refused(conn, Refusal::Busy);
        }
    }
    assert_eq!(world.writes.len(), 2);
}

#[test]
fn one_network_cannot_fill_the_book_at_once() {
    let mut config = open();
    config.limits.new_keys_per_network.burst = 5;
    let mut world = World::new(config);
    let mut admitted = 0;
    for number in 1..=50 {
        let conn = world.connect_from(number, "9.9.9.9:4660");
        world.say(conn, plain(number, None));
        admitted += u32::from(!world.is_closed(conn));
    }
    assert_eq!(admitted, 5);
    world.join(100, None);
}

#[test]
fn names_are_looked_up_by_those_who_are_registered() {
    let mut world = World::new(open());
    let conn = world.join(1, Some("nas"));
    let offline = world.join(2, Some("laptop"));
    world.disconnect(offline);
    for (n, text, peer) in [
        (7, "nas", Some(key(1))),
        (8, "laptop", Some(key(2))),
        (9, "absent", None),
    ] {
        let request = RequestId(n);
        let name = text.parse().unwrap();
        world.say(conn, ToServer::Lookup { request, name });
        assert_eq!(world.told(conn), [FromServer::Found { request, peer }], "{text}");
    }
    let stranger = world.connect(3);
    let name = "nas".parse().unwrap();
    world.say(
        stranger,
        ToServer::Lookup {
            request: RequestId(1),
            name,
        },
    );
    world.assert_refused(stranger, Refusal::Protocol);
}
