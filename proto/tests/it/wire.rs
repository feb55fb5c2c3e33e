//! The control messages as bytes: what is pinned, what survives, what is refused.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::strategy::Union;

use knothole_proto::addr::{CANDIDATES_MAX, Candidate, CandidateKind, OfferedCandidate};
use knothole_proto::id::{
    ChannelId, Instance, Name, Nameplate, PairTag, PeerId, RequestId, SessionId, Token,
};
use knothole_proto::wire::codec::{
    CodecError, MESSAGE_LEN_MAX, announced_len, decode, encode, encode_framed,
};
use knothole_proto::wire::network::{Filtering, Mapping, Ports};
use knothole_proto::wire::{
    ACCEPT_TAGS_MAX, Aim, CloseReason, Connect, ConnectRefusal, FromServer, Hello, Introduction, Kind,
    Network, PairEnd, PathPolicy, Refusal, Report, Role, ServerTime, Span, ToServer, Update, Welcome,
};

use super::support::addr;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn token(text: &str) -> Token {
    text.parse().unwrap()
}

fn facts() -> Update {
    let candidate = |kind, text| Candidate {
        kind,
        addr: addr(text),
    };
    Update {
        candidates: vec![
            candidate(CandidateKind::Host, "10.0.0.2:4660"),
            candidate(CandidateKind::Mapped, "[2a00::1]:80"),
        ],
        accept: vec![PairTag([1; 16]), PairTag([2; 16])],
        network: network(),
    }
}

/// A network with every field set.
fn network() -> Network {
    Network {
        mapping: Mapping::AddressAndPort,
        filtering: Filtering::Address,
        ports: Ports::Counter { step: -2, rate: 300 },
        opener_ttl: 3,
        several_addresses: true,
        guesses: true,
    }
}

fn aim() -> Aim {
    Aim {
        session: SessionId::from_bytes([3; 16]),
        round: 1,
        spans: vec![Span {
            first: 1024,
            last: 200,
        }],
        opened: true,
    }
}

fn introduction() -> Introduction {
    Introduction {
        session: SessionId::from_bytes([3; 16]),
        round: 1,
        role: Role::Callee,
        request: Some(RequestId(6)),
        peer: PeerId::from_bytes([4; 32]),
        peer_name: Some(name("nas")),
        peer_instance: Instance(5),
        tag: PairTag([1; 16]),
        candidates: vec![OfferedCandidate {
            candidate: Candidate {
                kind: CandidateKind::Reflexive,
                addr: addr("5.5.5.5:4660"),
            },
            attested: true,
        }],
        channel: Some(ChannelId(7)),
        policy: PathPolicy::RelayOnly,
        start: ServerTime(1_000_000),
        now: ServerTime(900),
        second: ServerTime(1_100_000),
        networks: [network(), Network::default()],
        guess: true,
        again: true,
    }
}

/// Every message to the server, in the order of its numbers, with its bytes.
fn to_server() -> Vec<(ToServer, &'static str)> {
    [to_server_on_nodes(), to_server_on_pairing_and_rounds()].concat()
}

fn to_server_on_nodes() -> Vec<(ToServer, &'static str)> {
    let hello = Hello {
        instance: Instance(0x0102_0304_0506_0708),
        name: Some(name("nas")),
        token: Some(token("t0ken")),
        accepting: true,
        agent: "a/1".to_owned(),
        facts: facts(),
    };
    let connect = Connect {
        request: RequestId(300),
        peer: PeerId::from_bytes([4; 32]),
        tag: PairTag([1; 16]),
        policy: PathPolicy::DirectOnly,
        guess: true,
    };
    let lookup = ToServer::Lookup {
        request: RequestId(1),
        name: name("nas"),
    };
    let session = SessionId::from_bytes([3; 16]);
    vec![
        (
            ToServer::Hello(hello),
            "010100fd080706050403020101036e6173010574306b656e0103612f310200000a000002\
             fb341201012a000000000000000000000000000001500201010101010101010101010101\
             0101010202020202020202020202020202020204020303fb2c01030101",
        ),
        (
            ToServer::Update(facts()),
            "0101010200000a000002fb341201012a0000000000000000000000000000015002010101\
             010101010101010101010101010202020202020202020202020202020204020303fb2c01\
             030101",
        ),
        (
            ToServer::Time {
                sent_us: 250,
                rtt_us: 251,
            },
            "010102fafbfb00",
        ),
        (
            ToServer::Connect(connect),
            "010103fb2c01040404040404040404040404040404040404040404040404040404040404\
             0404010101010101010101010101010101010101",
        ),
        (lookup, "01010401036e6173"),
        (
            ToServer::Leave { session },
            "01010503030303030303030303030303030303",
        ),
    ]
}

fn to_server_on_pairing_and_rounds() -> Vec<(ToServer, &'static str)> {
    let pair_message = ToServer::PairMessage {
        nameplate: Nameplate(7),
        body: vec![9, 8],
    };
    let session = SessionId::from_bytes([3; 16]);
    let nameplate = Nameplate(70_000);
    vec![
        (ToServer::PairOpen, "010106"),
        (ToServer::PairJoin { nameplate }, "010107fc70110100"),
        (pair_message, "01010807020908"),
        (
            ToServer::PairLeave {
                nameplate: Nameplate(7),
            },
            "01010907",
        ),
        (ToServer::Bye, "01010a"),
        (
            ToServer::Aim(aim()),
            "01010b030303030303030303030303030303030101fb0004c801",
        ),
        (
            ToServer::Report(Report {
                session,
                round: 1,
                direct_ms: Some(400),
                probes: 30,
            }),
            "01010c030303030303030303030303030303030101fb90011e",
        ),
    ]
}

/// Every message from the server, in the order of its numbers, with its bytes.
fn from_server() -> Vec<(FromServer, &'static str)> {
    [
        from_server_on_nodes(),
        from_server_on_pairing(),
        from_server_on_odds(),
    ]
    .concat()
}

fn from_server_on_nodes() -> Vec<(FromServer, &'static str)> {
    let welcome = Welcome {
        name: Some(name("nas")),
        reflexive: addr("5.5.5.5:4660"),
        server: ServerTime(0x1_0000_0000),
        refresh_ms: 15_000,
        alternate_port: 5669,
        alternate: Some(addr("6.6.6.6:5669")),
        relay: true,
    };
    let request = RequestId(1);
    let session = SessionId::from_bytes([3; 16]);
    let found = FromServer::Found {
        request,
        peer: Some(PeerId::from_bytes([4; 32])),
    };
    vec![
        (
            FromServer::Welcome(welcome),
            "01010001036e61730005050505fb3412fd0000000001000000fb983afb25160100060606\
             06fb251601",
        ),
        (FromServer::Refused(Refusal::NameTaken), "01010102"),
        (
            FromServer::Observed {
                reflexive: addr("[2a00::1]:80"),
            },
            "010102012a00000000000000000000000000000150",
        ),
        (
            FromServer::Time {
                sent_us: 250,
                server: ServerTime(251),
            },
            "010103fafbfb00",
        ),
        (
            FromServer::Introduction(introduction()),
            "010104030303030303030303030303030303030101010604040404040404040404040404\
             0404040404040404040404040404040404040401036e6173050101010101010101010101\
             010101010101020005050505fb341201010702fc40420f00fb8403fce0c8100004020303\
             fb2c010301010000000000000101",
        ),
        (
            FromServer::ConnectFailed {
                request,
                why: ConnectRefusal::TooFast,
            },
            "0101050102",
        ),
        (
            found,
            "010106010104040404040404040404040404040404040404040404040404040404040404\
             04",
        ),
        (
            FromServer::SessionClosed {
                session,
                why: CloseReason::Idle,
            },
            "0101070303030303030303030303030303030302",
        ),
    ]
}

fn from_server_on_pairing() -> Vec<(FromServer, &'static str)> {
    let nameplate = Nameplate(7);
    vec![
        (
            FromServer::PairOpened {
                nameplate,
                ttl_ms: 600_000,
            },
            "01010807fcc0270900",
        ),
        (FromServer::PairJoined { nameplate }, "01010907"),
        (
            FromServer::PairMessage {
                nameplate,
                body: vec![9, 8],
            },
            "01010a07020908",
        ),
        (
            FromServer::PairEnded {
                nameplate,
                why: PairEnd::Yourself,
            },
            "01010b0704",
        ),
        (FromServer::Draining { retry_after_ms: 500 }, "01010cfbf401"),
        (
            FromServer::Aim(aim()),
            "01010d030303030303030303030303030303030101fb0004c801",
        ),
    ]
}

fn from_server_on_odds() -> Vec<(FromServer, &'static str)> {
    use knothole_proto::wire::{NetworkClass, OddsRow};
    let row = OddsRow {
        classes: [NetworkClass::PortRestricted, NetworkClass::Random],
        attempts: 1_240,
        direct: 1_215,
        median_ms: 400,
    };
    let odds = FromServer::Odds {
        request: RequestId(300),
        rows: vec![row],
    };
    vec![(odds, "01010efb2c01010409fbd804fbbf04fb9001")]
}

/// With what was added last.
fn all_to_server() -> Vec<(ToServer, &'static str)> {
    let odds = ToServer::Odds {
        request: RequestId(300),
    };
    [to_server(), vec![(odds, "01010dfb2c01")]].concat()
}

#[test]
fn every_message_has_the_bytes_that_are_written_down() {
    for (number, (message, golden)) in all_to_server().into_iter().enumerate() {
        let bytes = encode(&message).unwrap();
        assert_eq!(hex(&bytes), golden, "{message:?}");
        assert_eq!(
            usize::from(bytes[2]),
            number,
            "numbers of variants are their order"
        );
        assert_eq!(decode::<ToServer>(&bytes), Ok(message));
    }
    for (number, (message, golden)) in from_server().into_iter().enumerate() {
        let bytes = encode(&message).unwrap();
        assert_eq!(hex(&bytes), golden, "{message:?}");
        assert_eq!(
            usize::from(bytes[2]),
            number,
            "numbers of variants are their order"
        );
        assert_eq!(decode::<FromServer>(&bytes), Ok(message));
    }
}

#[test]
fn the_table_of_bytes_leaves_no_variant_out() {
    // Zeros are a value of every type here, so a variant past the table would leave some of them over instead.
    let past_the_end = |count: usize| [vec![1, 1, u8::try_from(count).unwrap()], vec![0; 400]].concat();
    assert_eq!(
        decode::<ToServer>(&past_the_end(all_to_server().len())),
        Err(CodecError::Malformed)
    );
    assert_eq!(
        decode::<FromServer>(&past_the_end(from_server().len())),
        Err(CodecError::Malformed)
    );
}

#[test]
fn classes_of_networks_have_the_numbers_that_are_written_down() {
    use knothole_proto::wire::{NetworkClass, OddsRow};
    for (number, class) in (0_u32..).zip(NetworkClass::ALL) {
        let row = OddsRow {
            classes: [NetworkClass::Unknown, class],
            attempts: 0,
            direct: 0,
            median_ms: 0,
        };
        let bytes = encode(&row).unwrap();
        assert_eq!(u32::from(bytes[3]), number, "{class:?}");
    }
    assert_eq!(NetworkClass::ALL.len(), 11);
}

#[test]
fn reasons_have_the_numbers_that_are_written_down() {
    let number = |message: FromServer| *encode(&message).unwrap().last().unwrap();
    let refusals = [
        Refusal::TokenMissing,
        Refusal::TokenWrong,
        Refusal::NameTaken,
        Refusal::Busy,
        Refusal::Protocol,
        Refusal::Storage,
        Refusal::TooManyNames,
    ];
    for (expected, why) in (0..).zip(refusals) {
        assert_eq!(number(FromServer::Refused(why)), expected, "{why:?}");
    }
    let connect = [
        ConnectRefusal::Unknown,
        ConnectRefusal::Offline,
        ConnectRefusal::TooFast,
        ConnectRefusal::Yourself,
        ConnectRefusal::TooMany,
    ];
    for (expected, why) in (0..).zip(connect) {
        let request = RequestId(0);
        assert_eq!(
            number(FromServer::ConnectFailed { request, why }),
            expected,
            "{why:?}"
        );
    }
    let closed = [
        CloseReason::PeerLeft,
        CloseReason::PeerGone,
        CloseReason::Idle,
        CloseReason::Ended,
    ];
    for (expected, why) in (0..).zip(closed) {
        let session = SessionId::from_bytes([0; 16]);
        assert_eq!(
            number(FromServer::SessionClosed { session, why }),
            expected,
            "{why:?}"
        );
    }
    let ended = [
        PairEnd::Unknown,
        PairEnd::Expired,
        PairEnd::PeerLeft,
        PairEnd::TooFast,
        PairEnd::Yourself,
    ];
    for (expected, why) in (0..).zip(ended) {
        let nameplate = Nameplate(0);
        assert_eq!(
            number(FromServer::PairEnded { nameplate, why }),
            expected,
            "{why:?}"
        );
    }
}

#[test]
fn on_a_stream_the_length_stands_in_front() {
    let framed = encode_framed(&ToServer::Bye).unwrap();
    assert_eq!(framed, [0, 0, 0, 3, 1, 1, 10]);
    assert_eq!(announced_len([0, 0, 0, 3]), Ok(3));
}

#[test]
fn the_largest_lawful_message_fits() {
    let candidate = Candidate {
        kind: CandidateKind::Host,
        addr: addr("[2a00::1]:65535"),
    };
    let hello = ToServer::Hello(Hello {
        instance: Instance(u64::MAX),
        name: Some(name(&"n".repeat(63))),
        token: Some(token(&"t".repeat(128))),
        accepting: true,
        agent: "a".repeat(64),
        facts: Update {
            candidates: vec![candidate; CANDIDATES_MAX],
            accept: vec![PairTag([255; 16]); ACCEPT_TAGS_MAX],
            network: network(),
        },
    });
    let bytes = encode(&hello).unwrap();
    assert!(bytes.len() < 9_216, "{} bytes", bytes.len());
    assert_eq!(decode::<ToServer>(&bytes), Ok(hello));
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
    assert_eq!(announced_len([0, 0, 0x40, 0]), Ok(MESSAGE_LEN_MAX));
    assert_eq!(
        announced_len([0, 0, 0x40, 1]),
        Err(CodecError::TooLong {
            len: MESSAGE_LEN_MAX + 1
        })
    );
    assert_eq!(
        announced_len([255; 4]),
        Err(CodecError::TooLong {
            len: u32::MAX as usize
        })
    );
    assert_eq!(announced_len([0, 0, 0, 1]), Err(CodecError::TooShort));
    let long = vec![1; MESSAGE_LEN_MAX + 1];
    assert_eq!(
        decode::<ToServer>(&long),
        Err(CodecError::TooLong { len: long.len() })
    );
}

#[test]
fn a_value_beyond_the_limit_is_not_sent() {
    let message = ToServer::PairMessage {
        nameplate: Nameplate(1),
        body: vec![0; MESSAGE_LEN_MAX],
    };
    assert!(encode(&message).is_err());
    assert!(encode_framed(&message).is_err());
}

#[test]
fn a_length_inside_a_message_that_the_message_does_not_hold_is_refused() {
    // PairMessage at nameplate 7 with a body that claims 2^64 - 1, 2^32 - 1 and 200 bytes, and holds none.
    for claim in [
        vec![253, 255, 255, 255, 255, 255, 255, 255, 255],
        vec![252, 255, 255, 255, 255],
        vec![200],
    ] {
        let bytes = [vec![1, 1, 8, 7], claim].concat();
        assert_eq!(
            decode::<ToServer>(&bytes),
            Err(CodecError::Malformed),
            "{bytes:?}"
        );
    }
    // Update that claims as many candidates.
    let bytes = [1, 1, 1, 253, 255, 255, 255, 255, 255, 255, 255, 255];
    assert_eq!(decode::<ToServer>(&bytes), Err(CodecError::Malformed));
}

#[test]
fn other_versions_and_formats_are_refused_by_name() {
    let mut bytes = encode(&ToServer::Bye).unwrap();
    bytes[0] = 2;
    assert_eq!(decode::<ToServer>(&bytes), Err(CodecError::Version(2)));
    bytes[..2].copy_from_slice(&[1, 2]);
    assert_eq!(decode::<ToServer>(&bytes), Err(CodecError::Codec(2)));
    for short in [&[][..], &[1], &[1, 1]] {
        assert!(decode::<ToServer>(short).is_err(), "{short:?}");
    }
}

#[test]
fn one_message_has_one_encoding() {
    assert_eq!(
        decode::<ToServer>(&[1, 1, 10, 0]),
        Err(CodecError::TrailingBytes(1))
    );
    assert_eq!(
        decode::<ToServer>(&[1, 1, 9, 7]).unwrap(),
        ToServer::PairLeave {
            nameplate: Nameplate(7)
        }
    );
    // Seven as a 16-bit, a 32-bit and a 64-bit number; and the number of the variant likewise.
    for bytes in [
        &[1, 1, 9, 251, 7, 0][..],
        &[1, 1, 9, 252, 7, 0, 0, 0],
        &[1, 1, 9, 253, 7, 0, 0, 0, 0, 0, 0, 0],
        &[1, 1, 251, 9, 0, 7],
    ] {
        let refused = decode::<ToServer>(bytes).unwrap_err();
        assert!(
            matches!(refused, CodecError::NotCanonical | CodecError::Malformed),
            "{bytes:?}: {refused}"
        );
    }
}

#[test]
fn text_that_is_no_name_or_token_does_not_get_in() {
    // Lookup { request 1, name }, the name being 3 bytes.
    for text in ["a b", "-aa", "A-a", "a\u{1b}a", "a\u{7f}a"] {
        let bytes = [&[1, 1, 4, 1, 3], text.as_bytes()].concat();
        assert_eq!(decode::<ToServer>(&bytes), Err(CodecError::Malformed), "{text:?}");
    }
    assert!(decode::<ToServer>(&[1, 1, 4, 1, 3, b'n', b'a', b's']).is_ok());
    assert_eq!(
        decode::<ToServer>(&[1, 1, 4, 1, 3, 0xff, 0xfe, b's']),
        Err(CodecError::Malformed)
    );
}

#[test]
fn a_datagram_is_told_by_its_first_byte() {
    let kinds = (0..=255).map(|byte| Kind::of(&[byte, 0]));
    for (byte, kind) in (0..=255_u8).zip(kinds) {
        let expected = match byte {
            0..=3 => Kind::Stun,
            4 => Kind::Probe,
            5 => Kind::Relay,
            64..=255 => Kind::Quic,
            _ => Kind::Unknown,
        };
        assert_eq!(kind, expected, "{byte}");
    }
    assert_eq!(Kind::of(&[]), Kind::Unknown);
}

fn any_name() -> impl Strategy<Value = Name> {
    "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?"
        .prop_filter("an internationalised name", |text| !text.starts_with("xn--"))
        .prop_map(|text| name(&text))
}

fn any_candidate() -> impl Strategy<Value = Candidate> {
    let kinds = [
        CandidateKind::Host,
        CandidateKind::Mapped,
        CandidateKind::Reflexive,
    ];
    let kind = proptest::sample::select(kinds.to_vec());
    (kind, any::<std::net::SocketAddr>()).prop_map(|(kind, addr)| {
        // Flow and scope of an IPv6 address are not on the wire.
        let addr = std::net::SocketAddr::new(addr.ip(), addr.port());
        Candidate { kind, addr }
    })
}

fn any_update() -> impl Strategy<Value = Update> {
    let tags = vec(any::<[u8; 16]>().prop_map(PairTag), 0..20);
    (vec(any_candidate(), 0..16), tags, any_network()).prop_map(|(candidates, accept, network)| Update {
        candidates,
        accept,
        network,
    })
}

fn any_network() -> impl Strategy<Value = Network> {
    let ports = Union::new([
        Just(Ports::Unknown).boxed(),
        Just(Ports::Preserving).boxed(),
        any::<i16>()
            .prop_map(|step| Ports::PreserveFirst { step })
            .boxed(),
        (any::<i16>(), any::<u16>())
            .prop_map(|(step, rate)| Ports::Counter { step, rate })
            .boxed(),
        (any::<u16>(), any::<u16>())
            .prop_map(|(low, high)| Ports::Block { low, high })
            .boxed(),
        any::<u16>().prop_map(Ports::From).boxed(),
        Just(Ports::Random).boxed(),
    ]);
    (ports, any::<u8>(), any::<bool>(), any::<bool>()).prop_map(
        |(ports, opener_ttl, several_addresses, guesses)| Network {
            ports,
            opener_ttl,
            several_addresses,
            guesses,
            ..network()
        },
    )
}

fn any_hello() -> impl Strategy<Value = Hello> {
    let token = option::of("[!-~]{1,128}".prop_map(|text| text.parse::<Token>().unwrap()));
    let parts = (
        any::<u64>(),
        option::of(any_name()),
        token,
        any::<bool>(),
        ".{0,16}",
        any_update(),
    );
    parts.prop_map(|(instance, name, token, accepting, agent, facts)| Hello {
        instance: Instance(instance),
        name,
        token,
        accepting,
        agent,
        facts,
    })
}

fn any_policy() -> impl Strategy<Value = PathPolicy> {
    proptest::sample::select(vec![
        PathPolicy::Auto,
        PathPolicy::DirectOnly,
        PathPolicy::RelayOnly,
    ])
}

fn any_to_server() -> impl Strategy<Value = ToServer> {
    let connect = (any::<u32>(), any::<[u8; 32]>(), any::<[u8; 16]>(), any_policy());
    Union::new([
        any_hello().prop_map(ToServer::Hello).boxed(),
        any_update().prop_map(ToServer::Update).boxed(),
        (any::<u64>(), any::<u32>())
            .prop_map(|(sent_us, rtt_us)| ToServer::Time { sent_us, rtt_us })
            .boxed(),
        connect
            .prop_map(|(request, peer, tag, policy)| {
                ToServer::Connect(Connect {
                    request: RequestId(request),
                    peer: PeerId::from_bytes(peer),
                    tag: PairTag(tag),
                    policy,
                    guess: false,
                })
            })
            .boxed(),
        (any::<u32>(), vec(any::<u8>(), 0..512))
            .prop_map(|(nameplate, body)| ToServer::PairMessage {
                nameplate: Nameplate(nameplate),
                body,
            })
            .boxed(),
    ])
}

fn any_introduction() -> impl Strategy<Value = Introduction> {
    let ids = (
        any::<[u8; 16]>(),
        any::<[u8; 32]>(),
        any::<[u8; 16]>(),
        any::<u64>(),
    );
    let rest = (
        any::<u8>(),
        option::of(any::<u32>()),
        option::of(any_name()),
        vec((any_candidate(), any::<bool>()), 0..16),
        option::of(any::<u64>()),
        any_policy(),
        (any::<u64>(), any::<u64>(), any_network()),
    );
    (ids, rest).prop_map(|((session, peer, tag, instance), rest)| {
        let (round, request, peer_name, candidates, channel, policy, (start, now, network)) = rest;
        let offered = |(candidate, attested)| OfferedCandidate { candidate, attested };
        Introduction {
            session: SessionId::from_bytes(session),
            round,
            role: Role::Caller,
            request: request.map(RequestId),
            peer: PeerId::from_bytes(peer),
            peer_name,
            peer_instance: Instance(instance),
            tag: PairTag(tag),
            candidates: candidates.into_iter().map(offered).collect(),
            channel: channel.map(ChannelId),
            policy,
            start: ServerTime(start),
            now: ServerTime(now),
            second: ServerTime(start),
            networks: [network, Network::default()],
            guess: true,
            again: false,
        }
    })
}

proptest! {
    #[test]
    fn what_a_node_says_survives_the_wire(message in any_to_server()) {
        let bytes = encode(&message).unwrap();
        prop_assert_eq!(decode::<ToServer>(&bytes), Ok(message));
    }

    #[test]
    fn what_the_server_says_survives_the_wire(introduction in any_introduction()) {
        let message = FromServer::Introduction(introduction);
        let bytes = encode(&message).unwrap();
        prop_assert_eq!(decode::<FromServer>(&bytes), Ok(message));
    }

    #[test]
    fn a_message_cut_short_or_made_longer_is_none(message in any_to_server(), extra in 1..4_usize) {
        let bytes = encode(&message).unwrap();
        for len in 0..bytes.len() {
            prop_assert!(decode::<ToServer>(&bytes[..len]).is_err());
        }
        let longer = [bytes, vec![0; extra]].concat();
        prop_assert!(decode::<ToServer>(&longer).is_err());
    }

    #[test]
    fn whatever_decodes_is_the_one_encoding_of_itself(bytes in vec(any::<u8>(), 0..200), variant in 0..13_u8) {
        let bytes = [vec![1, 1, variant], bytes].concat();
        if let Ok(message) = decode::<ToServer>(&bytes) {
            prop_assert_eq!(&encode(&message).unwrap(), &bytes);
        }
        if let Ok(message) = decode::<FromServer>(&bytes) {
            prop_assert_eq!(&encode(&message).unwrap(), &bytes);
        }
    }
}
