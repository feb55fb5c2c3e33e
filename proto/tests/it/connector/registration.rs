//! Registration, questions to the server, clocks and the view of the NAT.

use super::*;

#[test]
fn a_node_says_hello_first_and_is_registered() {
    let town = Town::new(1);
    let ToServer::Hello(hello) = &town.citizens[0].said[0] else {
        panic!("{:?}", town.citizens[0].said[0]);
    };
    assert_eq!(hello.instance, Instance(1));
    assert_eq!(hello.facts.candidates.len(), 1);
    let registered = Event::Registered {
        name: Some("node-0".parse().unwrap()),
        reflexive: addr("5.0.0.1:1000"),
        relay: true,
    };
    assert!(town.has(0, &registered));
}

#[test]
fn clocks_are_compared_three_times_at_once_and_then_at_every_refresh() {
    let mut town = Town::new(1);
    town.run(601 * SECOND);
    let times: Vec<u32> = town.citizens[0]
        .said
        .iter()
        .filter_map(|said| match said {
            ToServer::Time { rtt_us, .. } => Some(*rtt_us),
            _ => None,
        })
        .collect();
    assert!((43..=49).contains(&times.len()), "{} in ten minutes", times.len());
    assert!(times[1..].iter().all(|rtt| *rtt == 40_000), "{times:?}");
}

#[test]
fn a_refusal_is_told_and_nothing_more_is_said() {
    let mut town = Town::new(1);
    town.clear();
    town.feed(0, Input::Control(FromServer::Refused(Refusal::NameTaken)));
    assert!(town.has(0, &Event::Refused(Refusal::NameTaken)));
    town.run(60 * SECOND);
    assert!(town.citizens[0].said.is_empty());
}

#[test]
fn a_wish_that_cannot_be_fulfilled_is_answered_with_the_reason() {
    let mut town = Town::new(2);
    let failed = |town: &mut Town, peer| {
        town.clear();
        let (request, policy) = (RequestId(5), PathPolicy::Auto);
        town.command(
            0,
            Command::Connect {
                request,
                peer,
                policy,
            },
        );
        let now = town.now;
        town.run(now + SECOND);
        events(town, 0).into_iter().find_map(|event| match event {
            Event::ConnectFailed {
                request: RequestId(5),
                why,
            } => Some(why),
            _ => None,
        })
    };
    assert_eq!(
        failed(&mut town, id(0)),
        Some(ConnectFailure::Refused(ConnectRefusal::Yourself))
    );
    assert_eq!(failed(&mut town, id(9)), Some(ConnectFailure::NotPaired));
    town.control_down(1);
    assert_eq!(
        failed(&mut town, id(1)),
        Some(ConnectFailure::Refused(ConnectRefusal::Offline))
    );
    town.control_down(0);
    assert_eq!(failed(&mut town, id(1)), Some(ConnectFailure::ServerLost));
}

#[test]
fn questions_that_nobody_answers_fail_after_five_seconds() {
    let mut town = Town::new(2);
    town.clear();
    town.citizens[0].conn = None;
    town.connect(0, 1, PathPolicy::Auto);
    town.command(
        0,
        Command::Lookup {
            request: RequestId(8),
            name: "node-1".parse().unwrap(),
        },
    );
    town.run(town.now + 6 * SECOND);
    for request in [RequestId(77), RequestId(8)] {
        assert!(town.has(
            0,
            &Event::ConnectFailed {
                request,
                why: ConnectFailure::Timeout
            }
        ));
    }
}

#[test]
fn a_name_is_looked_up() {
    let mut town = Town::new(2);
    for (name, peer) in [("node-1", Some(id(1))), ("nobody", None)] {
        let request = RequestId(3);
        town.command(
            0,
            Command::Lookup {
                request,
                name: name.parse().unwrap(),
            },
        );
        town.run(town.now + SECOND);
        assert!(town.has(0, &Event::Found { request, peer }), "{name}");
    }
}

#[test]
fn a_deadline_that_comes_early_or_twice_changes_nothing() {
    let mut town = met();
    town.clear();
    for _ in 0..10 {
        town.feed(0, Input::Timeout);
    }
    assert!(town.citizens[0].said.is_empty() && town.citizens[0].sent.is_empty());
    assert!(events(&town, 0).is_empty());
    let now = town.at();
    let Output::Wait(Some((when, timer))) = town.citizens[0].connector.poll_output(now) else {
        panic!("there is always a refresh to come");
    };
    assert!(when > now && matches!(timer, Timer::Refresh | Timer::Punch(_)));
}

#[test]
fn stun_answers_tell_what_the_nat_does() {
    for (ports, expected) in [
        ([1000, 1000], Nat::EndpointIndependent),
        ([1000, 1001], Nat::EndpointDependent),
    ] {
        let mut town = Town::new(1);
        town.feed(
            0,
            Input::ControlUp {
                stun: vec![(SocketId::V4, addr("9.9.9.9:5668"))],
            },
        );
        let welcome = Welcome {
            name: None,
            reflexive: addr("5.0.0.1:1000"),
            server: ServerTime(0),
            refresh_ms: 15_000,
            alternate_port: 5669,
            alternate: None,
            relay: true,
        };
        town.clear();
        town.feed(0, Input::Control(FromServer::Welcome(welcome)));
        let asked = town.citizens[0].sent.clone();
        let to: Vec<_> = asked.iter().map(|sent| sent.to.port()).collect();
        assert_eq!(to, [5668, 5669]);
        for (sent, port) in asked.iter().zip(ports) {
            let mapped = format!("5.0.0.1:{port}");
            let answer = stun_answer(&sent.bytes, &mapped);
            town.feed(
                0,
                Input::Datagram {
                    socket: SocketId::V4,
                    from: sent.to,
                    bytes: &answer,
                },
            );
        }
        let nat = events(&town, 0).into_iter().rev().find_map(|event| match event {
            Event::Nat { nat, .. } => Some(nat),
            _ => None,
        });
        assert_eq!(nat, Some(expected));
    }
}

/// A Binding success with an XOR-MAPPED-ADDRESS (RFC 8489 section 14.2), by hand.
fn stun_answer(request: &[u8], mapped: &str) -> Vec<u8> {
    let mapped = addr(mapped);
    let std::net::IpAddr::V4(ip) = mapped.ip() else {
        panic!("IPv4 only");
    };
    let mut answer = vec![0x01, 0x01, 0, 12];
    answer.extend_from_slice(&request[4..20]);
    answer.extend_from_slice(&[0x00, 0x20, 0, 8, 0, 1]);
    answer.extend_from_slice(&(mapped.port() ^ 0x2112).to_be_bytes());
    let octets = (u32::from(ip) ^ 0x2112_a442).to_be_bytes();
    answer.extend_from_slice(&octets);
    answer
}

#[test]
fn equal_seeds_and_inputs_give_equal_lives() {
    let life = || {
        let mut town = met();
        town.run(120 * SECOND);
        let citizens = std::mem::take(&mut town.citizens);
        citizens
            .into_iter()
            .map(|citizen| (citizen.events, citizen.said, citizen.sent))
            .collect::<Vec<_>>()
    };
    assert_eq!(life(), life());
}
