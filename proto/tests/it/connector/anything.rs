//! Anything in any order: what must hold whatever applications, servers, peers and strangers do.

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use knothole_proto::addr::Reach;
use knothole_proto::punch::TrafficReport;
use knothole_proto::wire::{CloseReason, Kind};

use super::hostile::introduction;
use super::*;

/// One thing that happens to node 0. Numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    ControlDown,
    ControlUp,
    Server(Box<FromServer>),
    Datagram { from: u8, bytes: Vec<u8> },
    Replay { from: u8, index: usize },
    Call(u8, PathPolicy),
    Called(PathPolicy),
    Close(u64),
    Peers(bool),
    Traffic(u64, bool, bool, bool),
    Local(u8),
    PairOpen,
    PairJoin(u32),
    PairCancel,
    Cut(bool),
    Early,
}

fn policies() -> impl Strategy<Value = PathPolicy> {
    prop_oneof![
        Just(PathPolicy::Auto),
        Just(PathPolicy::DirectOnly),
        Just(PathPolicy::RelayOnly)
    ]
}

/// What a server may say without being asked, true or not.
fn from_server() -> impl Strategy<Value = FromServer> {
    let introduction = (
        any::<u8>(),
        any::<u8>(),
        policies(),
        any::<bool>(),
        0..4u64,
        any::<bool>(),
    )
        .prop_map(|(session, round, policy, caller, instance, channel)| {
            let mut told = introduction(1, secret(0, 1).tag());
            told.session = SessionId::from_bytes([session % 4; 16]);
            told.round = round;
            told.policy = policy;
            told.role = if caller { Role::Caller } else { Role::Callee };
            told.peer_instance = Instance(instance);
            told.channel = channel.then_some(ChannelId(session.into()));
            told.request = (round % 3 == 0).then_some(RequestId(u32::from(round) / 16));
            FromServer::Introduction(told)
        });
    prop_oneof![
        4 => introduction,
        1 => (0..4u8, any::<bool>()).prop_map(|(session, left)| FromServer::SessionClosed {
            session: SessionId::from_bytes([session; 16]),
            why: if left { CloseReason::PeerLeft } else { CloseReason::PeerGone },
        }),
        1 => any::<u8>().prop_map(|last| FromServer::Observed { reflexive: addr(&format!("5.0.0.{last}:7")) }),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(sent_us, server)| FromServer::Time {
            sent_us,
            server: ServerTime(server),
        }),
        1 => (0..8u32).prop_map(|n| FromServer::ConnectFailed {
            request: RequestId(n),
            why: ConnectRefusal::Offline,
        }),
        1 => (0..8u32).prop_map(|n| FromServer::PairOpened { nameplate: Nameplate(n), ttl_ms: u32::MAX }),
        1 => (0..8u32).prop_map(|n| FromServer::PairJoined { nameplate: Nameplate(n) }),
        1 => (0..8u32, vec(any::<u8>(), 0..100))
            .prop_map(|(n, body)| FromServer::PairMessage { nameplate: Nameplate(n), body }),
        1 => (0..8u32).prop_map(|n| FromServer::PairEnded { nameplate: Nameplate(n), why: PairEnd::PeerLeft }),
        1 => any::<u32>().prop_map(|retry_after_ms| FromServer::Draining { retry_after_ms }),
        1 => Just(FromServer::Refused(Refusal::Busy)),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5_000u64).prop_map(Step::Wait),
        1 => (0..100_000u64).prop_map(Step::Wait),
        1 => Just(Step::ControlDown),
        2 => Just(Step::ControlUp),
        6 => from_server().prop_map(|message| Step::Server(Box::new(message))),
        2 => (any::<u8>(), vec(any::<u8>(), 0..100)).prop_map(|(from, bytes)| Step::Datagram { from, bytes }),
        4 => (any::<u8>(), any::<usize>()).prop_map(|(from, index)| Step::Replay { from, index }),
        3 => (0..4u8, policies()).prop_map(|(peer, policy)| Step::Call(peer, policy)),
        2 => policies().prop_map(Step::Called),
        1 => (0..4u64).prop_map(Step::Close),
        1 => any::<bool>().prop_map(Step::Peers),
        2 => (0..4u64, any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(link, sent, received, relayed)| Step::Traffic(link, sent, received, relayed)),
        1 => any::<u8>().prop_map(Step::Local),
        1 => Just(Step::PairOpen),
        1 => (0..8u32).prop_map(Step::PairJoin),
        1 => Just(Step::PairCancel),
        1 => any::<bool>().prop_map(Step::Cut),
        2 => Just(Step::Early),
    ]
}

fn take(town: &mut Town, step: Step) {
    match step {
        Step::Wait(wait) => town.run(town.now + ms(wait)),
        Step::ControlDown => town.control_down(0),
        Step::ControlUp => town.control_up(0),
        Step::Server(message) => town.feed(0, Input::Control(*message)),
        Step::Datagram { from, bytes } => {
            datagram(town, &format!("5.0.0.{from}:1000"), &bytes);
        }
        Step::Replay { from, index } => {
            let sent = &town.citizens[1].sent;
            if let Some(bytes) = sent.get(index % sent.len().max(1)).map(|sent| sent.bytes.clone()) {
                datagram(town, &format!("66.0.0.{from}:1000"), &bytes);
            }
        }
        Step::Call(peer, policy) => town.connect(0, peer.into(), policy),
        Step::Called(policy) => town.connect(1, 0, policy),
        Step::Close(link) => town.command(0, Command::Close { link: LinkId(link) }),
        Step::Peers(some) => {
            let peers = if some {
                vec![(id(1), secret(0, 1))]
            } else {
                Vec::new()
            };
            town.command(0, Command::SetPeers(peers));
        }
        Step::Traffic(link, sent, received, relayed) => {
            let report = TrafficReport {
                sent,
                received,
                relayed,
            };
            town.feed(
                0,
                Input::Traffic {
                    link: LinkId(link),
                    report,
                },
            );
        }
        Step::Local(last) => {
            let host = |text: String| Candidate {
                kind: CandidateKind::Host,
                addr: addr(&text),
            };
            let local = vec![
                host(format!("10.0.0.{last}:1000")),
                host("127.0.0.1:9".to_owned()),
            ];
            town.feed(0, Input::LocalCandidates(local));
        }
        Step::PairOpen => town.command(0, Command::PairOpen),
        Step::PairJoin(n) => {
            let code = format!("{n}-acorn-acorn").parse().unwrap();
            town.command(0, Command::PairJoin { code });
        }
        Step::PairCancel => town.command(0, Command::PairCancel),
        Step::Cut(open) => town.passes = Box::new(move |_, _| open),
        Step::Early => town.feed(0, Input::Timeout),
    }
}

fn datagram(town: &mut Town, from: &str, bytes: &[u8]) {
    let (socket, from) = (SocketId::V4, addr(from));
    town.feed(0, Input::Datagram { socket, from, bytes });
}

/// Links are born, live and die in this order, and paths and sources belong to living ones.
fn check_events(events: &[Event]) {
    let mut alive = BTreeSet::new();
    let mut sources: BTreeSet<(LinkId, SocketId, std::net::SocketAddr)> = BTreeSet::new();
    for event in events {
        match event {
            Event::LinkUp(link) => {
                alive.insert(link.link);
                assert!(alive.len() <= 64);
            }
            Event::LinkDown { link, .. } => {
                assert!(alive.remove(link), "{link:?} ends twice");
                sources.retain(|(of, ..)| of != link);
            }
            Event::Source { link, socket, remote } => {
                assert!(
                    alive.contains(link) && sources.insert((*link, *socket, *remote)),
                    "{event:?}"
                );
            }
            Event::SourceGone { link, socket, remote } => {
                assert!(sources.remove(&(*link, *socket, *remote)), "{event:?}");
            }
            Event::Path { link, path, .. } => {
                assert!(alive.contains(link), "{event:?}");
                if let Path::Direct { socket, remote, .. } = path {
                    assert!(
                        sources.contains(&(*link, *socket, *remote)),
                        "{event:?} from nowhere"
                    );
                }
            }
            Event::Channel { link, .. } => assert!(alive.contains(link), "{event:?}"),
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_happens_breaks_the_order_of_events_or_stops_the_machine(steps in vec(steps(), 1..80)) {
        let mut town = Town::new(2);
        for step in steps {
            take(&mut town, step);
        }
        check_events(&events(&town, 0));
        for sent in &town.citizens[0].sent {
            prop_assert!(matches!(Kind::of(&sent.bytes), Kind::Probe | Kind::Stun));
            prop_assert!(matches!(Reach::of(sent.to), Reach::Global | Reach::Private));
        }
        // Whatever was, the machine still works: it comes to rest, and a fresh call succeeds.
        town.passes = Box::new(|_, _| true);
        town.command(0, Command::SetPeers(vec![(id(1), secret(0, 1))]));
        for index in [0, 1] {
            for link in town.links(index) {
                town.command(index, Command::Close { link });
            }
            town.control_down(index);
        }
        town.run(town.now + 200 * SECOND);
        town.control_up(0);
        town.control_up(1);
        town.run(town.now + 20 * SECOND);
        town.clear();
        town.connect(0, 1, PathPolicy::Auto);
        town.run(town.now + 20 * SECOND);
        prop_assert!(town.path(0).is_some_and(|path| path.is_direct()), "{:?}", events(&town, 0));
    }
}
