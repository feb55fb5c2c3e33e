//! STUN: the vectors of RFC 5769, the node's question, and when the server answers.

use proptest::collection::vec;
use proptest::prelude::*;

use knothole_proto::seed::Seed;
use knothole_proto::stun::{
    BindingRequest, Change, REQUEST_LEN, ServerSocket, StunConfig, StunPolicy, StunReply, StunServer,
};

use super::support::{addr, epoch, ms};

/// RFC 5769 section 2.1: a request with SOFTWARE, PRIORITY, ICE-CONTROLLED, USERNAME, integrity and fingerprint.
const RFC_5769_REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74\
     002400046e0001ff80290008932ff9b151263b36000600096576746a3a683676592020200008\
     00149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";

/// RFC 5769 section 2.2: the answer over IPv4.
const RFC_5769_IPV4: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
     002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";

/// RFC 5769 section 2.3: the answer over IPv6.
const RFC_5769_IPV6: &str = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
     002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275\
     bfe3ed4180280004c8fb0b4c";

const RFC_5769_ID: [u8; 12] = [
    0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae,
];

fn bytes(hex: &str) -> Vec<u8> {
    let nibbles: Vec<u8> = hex
        .chars()
        .map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap())
        .collect();
    nibbles.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn server(policy: StunPolicy, sockets: &[(ServerSocket, &str)]) -> StunServer {
    let sockets = sockets
        .iter()
        .map(|(socket, text)| (*socket, addr(text)))
        .collect();
    StunServer::new(StunConfig { policy, sockets }, &Seed::from_number(1), epoch())
}

/// A server with everything RFC 5780 wants.
fn full(policy: StunPolicy) -> StunServer {
    server(
        policy,
        &[
            (ServerSocket::Main, "7.7.7.7:5668"),
            (ServerSocket::AlternatePort, "7.7.7.7:5669"),
            (ServerSocket::AlternateAddress, "8.8.8.8:5668"),
            (ServerSocket::AlternateBoth, "8.8.8.8:5669"),
        ],
    )
}

fn question(change: Change) -> BindingRequest {
    BindingRequest::with_id(addr("7.7.7.7:5668"), change, [5; 12], epoch())
}

fn ask(server: &mut StunServer, change: Change) -> Option<StunReply> {
    let request = question(change).poll_transmit(epoch()).unwrap();
    server.handle(ServerSocket::Main, addr("5.5.5.5:4660"), &request, epoch())
}

/// A Binding request without any attribute, as most programs send it.
fn bare_request() -> Vec<u8> {
    [&bytes("000100002112a442")[..], &[6; 12]].concat()
}

#[test]
fn the_answers_of_rfc_5769_are_read_as_it_says() {
    let ask = || BindingRequest::with_id(addr("7.7.7.7:3478"), Change::None, RFC_5769_ID, epoch());
    let from = addr("7.7.7.7:3478");
    let v4 = ask()
        .handle_datagram(from, &bytes(RFC_5769_IPV4), epoch())
        .unwrap();
    assert_eq!(v4.mapped, addr("192.0.2.1:32853"));
    assert_eq!((v4.origin, v4.other), (None, None));
    let v6 = ask()
        .handle_datagram(from, &bytes(RFC_5769_IPV6), epoch())
        .unwrap();
    assert_eq!(v6.mapped, addr("[2001:db8:1234:5678:11:2233:4455:6677]:32853"));
}

#[test]
fn an_answer_with_a_wrong_fingerprint_is_none() {
    let mut answer = bytes(RFC_5769_IPV4);
    *answer.last_mut().unwrap() ^= 1;
    let mut question = BindingRequest::with_id(addr("7.7.7.7:3478"), Change::None, RFC_5769_ID, epoch());
    assert_eq!(
        question.handle_datagram(addr("7.7.7.7:3478"), &answer, epoch()),
        None
    );
    assert!(!question.is_over(), "the true answer may still come");
}

#[test]
fn the_request_of_rfc_5769_gets_the_error_that_names_what_is_not_understood() {
    let from = addr("5.5.5.5:4660");
    let reply = full(StunPolicy::Public).handle(ServerSocket::Main, from, &bytes(RFC_5769_REQUEST), epoch());
    let reply = reply.unwrap();
    assert_eq!(reply.bytes[..2], [0x01, 0x11], "Binding error response");
    assert_eq!(reply.bytes[8..20], RFC_5769_ID);
    assert_eq!(reply.bytes[20..28], [0, 9, 0, 4, 0, 0, 4, 20], "ERROR-CODE 420");
    assert_eq!(
        reply.bytes[28..],
        [0, 10, 0, 2, 0, 0x24, 0, 0],
        "UNKNOWN-ATTRIBUTES: PRIORITY"
    );
}

#[test]
fn a_request_is_as_long_as_the_longest_answer_and_asks_as_rfc_5780_says() {
    let request = |change| question(change).poll_transmit(epoch()).unwrap();
    let plain = request(Change::None);
    assert_eq!(plain.len(), REQUEST_LEN);
    assert_eq!(plain[..8], [0, 1, 0, 76, 0x21, 0x12, 0xa4, 0x42]);
    assert_eq!(plain[8..20], [5; 12]);
    assert_eq!(plain[20..24], [0, 0x26, 0, 72], "PADDING");
    let port = request(Change::Port(5669));
    assert_eq!(
        port[20..28],
        [0, 3, 0, 4, 0, 0, 0, 2],
        "CHANGE-REQUEST, change port"
    );
    let both = request(Change::AddressAndPort(addr("8.8.8.8:5669")));
    assert_eq!(
        both[20..28],
        [0, 3, 0, 4, 0, 0, 0, 6],
        "CHANGE-REQUEST, change both"
    );
    assert_eq!((port.len(), both.len()), (REQUEST_LEN, REQUEST_LEN));
}

#[test]
fn a_question_is_repeated_three_times_and_then_given_up() {
    let mut question = question(Change::None);
    let mut sent = Vec::new();
    for after in 0..3000 {
        if question.poll_transmit(epoch() + ms(after)).is_some() {
            sent.push(after);
        }
    }
    assert_eq!(sent, [0, 100, 300, 700]);
    assert!(question.is_over());
    assert_eq!(question.poll_timeout(), None);
}

#[test]
fn a_node_learns_its_address_and_the_servers_others() {
    let mut question = question(Change::None);
    let request = question.poll_transmit(epoch()).unwrap();
    let from = addr("5.5.5.5:4660");
    let reply = full(StunPolicy::Nodes)
        .handle(ServerSocket::Main, from, &request, epoch())
        .unwrap();
    assert_eq!((reply.via, reply.to), (ServerSocket::Main, from));
    let answer = question
        .handle_datagram(addr("7.7.7.7:5668"), &reply.bytes, epoch())
        .unwrap();
    assert_eq!(answer.mapped, from);
    assert_eq!(answer.origin, Some(addr("7.7.7.7:5668")));
    assert_eq!(answer.other, Some(addr("8.8.8.8:5669")));
    assert!(question.is_over());
    assert_eq!(question.poll_transmit(epoch() + ms(5000)), None);
}

#[test]
fn an_answer_counts_only_from_the_right_address_with_the_right_id() {
    let mut question = question(Change::None);
    let reply = ask(&mut full(StunPolicy::Nodes), Change::None).unwrap().bytes;
    for wrong in ["7.7.7.7:5669", "8.8.8.8:5668", "[::ffff:8.8.8.8]:5668"] {
        assert_eq!(
            question.handle_datagram(addr(wrong), &reply, epoch()),
            None,
            "{wrong}"
        );
    }
    let mut other = reply.clone();
    other[8] ^= 1;
    let right = addr("7.7.7.7:5668");
    assert_eq!(question.handle_datagram(right, &other, epoch()), None);
    let own = question.poll_transmit(epoch()).unwrap();
    assert_eq!(
        question.handle_datagram(right, &own, epoch()),
        None,
        "a question is no answer"
    );
    assert!(
        question
            .handle_datagram(addr("[::ffff:7.7.7.7]:5668"), &reply, epoch())
            .is_some()
    );
    assert_eq!(
        question.handle_datagram(right, &reply, epoch()),
        None,
        "a repeat tells nothing new"
    );
}

#[test]
fn the_server_answers_from_where_it_is_asked_to() {
    let mut full = full(StunPolicy::Nodes);
    let other = Change::AddressAndPort(addr("8.8.8.8:5669"));
    let via = |server: &mut StunServer, change| ask(server, change).map(|reply| reply.via);
    assert_eq!(
        via(&mut full, Change::Port(5669)),
        Some(ServerSocket::AlternatePort)
    );
    assert_eq!(via(&mut full, other), Some(ServerSocket::AlternateBoth));
    let request = question(Change::Port(5668)).poll_transmit(epoch()).unwrap();
    let reply = full.handle(ServerSocket::AlternateBoth, addr("5.5.5.5:1"), &request, epoch());
    assert_eq!(reply.unwrap().via, ServerSocket::AlternateAddress);

    let mut question = question(other);
    let reply = ask(&mut full, other).unwrap().bytes;
    assert_eq!(
        question.handle_datagram(addr("7.7.7.7:5668"), &reply, epoch()),
        None
    );
    let answer = question
        .handle_datagram(addr("8.8.8.8:5669"), &reply, epoch())
        .unwrap();
    assert_eq!(answer.origin, Some(addr("8.8.8.8:5669")));
}

#[test]
fn a_server_without_the_other_address_says_so() {
    let small = [
        (ServerSocket::Main, "7.7.7.7:5668"),
        (ServerSocket::AlternatePort, "7.7.7.7:5669"),
    ];
    let mut small = server(StunPolicy::Nodes, &small);
    let reply = ask(&mut small, Change::AddressAndPort(addr("8.8.8.8:5669"))).unwrap();
    assert_eq!(
        (reply.via, &reply.bytes[..2]),
        (ServerSocket::Main, &[0x01, 0x11][..])
    );
    assert_eq!(
        reply.bytes[28..34],
        [0, 10, 0, 2, 0, 3],
        "UNKNOWN-ATTRIBUTES: CHANGE-REQUEST"
    );
    let mut question = question(Change::None);
    let reply = ask(&mut small, Change::None).unwrap().bytes;
    let answer = question
        .handle_datagram(addr("7.7.7.7:5668"), &reply, epoch())
        .unwrap();
    assert_eq!(
        answer.other,
        Some(addr("7.7.7.7:5669")),
        "the second port is all there is"
    );
}

#[test]
fn a_server_that_does_not_know_its_address_does_not_tell_one() {
    let mut any = server(StunPolicy::Nodes, &[(ServerSocket::Main, "0.0.0.0:5668")]);
    let reply = ask(&mut any, Change::None).unwrap().bytes;
    let answer = question(Change::None)
        .handle_datagram(addr("7.7.7.7:5668"), &reply, epoch())
        .unwrap();
    assert_eq!((answer.origin, answer.other), (None, None));
    assert_eq!(answer.mapped, addr("5.5.5.5:4660"));
}

#[test]
fn for_nodes_alone_a_short_request_gets_nothing_and_a_public_server_answers_it() {
    let from = addr("5.5.5.5:4660");
    let mut nodes = full(StunPolicy::Nodes);
    assert_eq!(
        nodes.handle(ServerSocket::Main, from, &bare_request(), epoch()),
        None
    );
    let mut public = full(StunPolicy::Public);
    let reply = public
        .handle(ServerSocket::Main, from, &bare_request(), epoch())
        .unwrap();
    assert_eq!(reply.bytes[..2], [1, 1]);
    assert!(reply.bytes.len() <= 3 * bare_request().len());
    let mut off = full(StunPolicy::Off);
    assert_eq!(ask(&mut off, Change::None), None);
    assert_eq!(
        off.handle(ServerSocket::Main, from, &bare_request(), epoch()),
        None
    );
}

#[test]
fn a_longer_answer_is_given_ten_times_a_second_for_each_network() {
    let mut public = full(StunPolicy::Public);
    let begin = epoch();
    let mut flood = |from, count: u64| {
        (0..count)
            .filter(|n| {
                public
                    .handle(ServerSocket::Main, addr(from), &bare_request(), begin + ms(*n))
                    .is_some()
            })
            .count()
    };
    let answered = flood("5.5.5.5:4660", 10_000);
    assert!((105..=110).contains(&answered), "{answered} in ten seconds");
    assert_eq!(flood("6.6.6.6:1", 5), 5, "another network is not concerned");
    assert_eq!(public.stats().limited, 10_000 - answered as u64);
}

#[test]
fn no_answer_is_ever_answered() {
    for policy in [StunPolicy::Nodes, StunPolicy::Public] {
        let mut one = full(policy);
        let mut two = full(policy);
        let success = ask(&mut one, Change::None).unwrap().bytes;
        let small = [(ServerSocket::Main, "7.7.7.7:5668")];
        let error = ask(&mut server(policy, &small), Change::Port(1)).unwrap().bytes;
        for answer in [success, error, bytes(RFC_5769_IPV4), bytes(RFC_5769_IPV6)] {
            assert_eq!(
                two.handle(ServerSocket::Main, addr("7.7.7.7:5668"), &answer, epoch()),
                None
            );
        }
        let indication = [&[0, 0x11][..], &bare_request()[2..]].concat();
        assert_eq!(
            two.handle(ServerSocket::Main, addr("5.5.5.5:1"), &indication, epoch()),
            None
        );
    }
}

#[test]
fn no_answer_goes_to_where_nobody_can_have_asked_from() {
    let mut public = full(StunPolicy::Public);
    for from in [
        "5.5.5.5:0",
        "255.255.255.255:9",
        "224.0.0.1:9",
        "0.0.0.0:9",
        "[ff02::1]:9",
    ] {
        assert_eq!(
            public.handle(ServerSocket::Main, addr(from), &bare_request(), epoch()),
            None,
            "{from}"
        );
    }
}

#[test]
fn a_request_for_another_port_of_the_asker_is_refused() {
    // RESPONSE-PORT 9 (RFC 5780 section 7.5), then PADDING up to 96 bytes.
    let head = [
        &bytes("0001004c2112a442")[..],
        &[6; 12],
        &bytes("0027000400090000"),
        &bytes("00260040"),
    ]
    .concat();
    let request = [head, vec![b'0'; 64]].concat();
    let reply = full(StunPolicy::Nodes).handle(ServerSocket::Main, addr("5.5.5.5:4660"), &request, epoch());
    let reply = reply.unwrap();
    assert_eq!(reply.to, addr("5.5.5.5:4660"));
    assert_eq!(reply.bytes[..2], [0x01, 0x11]);
}

#[test]
fn padding_comes_back_in_public_and_never_exceeds_the_request() {
    let request = question(Change::None).poll_transmit(epoch()).unwrap();
    let from = addr("5.5.5.5:4660");
    let reply = full(StunPolicy::Public)
        .handle(ServerSocket::Main, from, &request, epoch())
        .unwrap();
    assert_eq!(reply.bytes.len(), request.len());
    let reply = full(StunPolicy::Nodes)
        .handle(ServerSocket::Main, from, &request, epoch())
        .unwrap();
    assert_eq!(reply.bytes.len(), 56);
}

#[test]
fn noise_gets_no_answer() {
    let mut public = full(StunPolicy::Public);
    let mut rng = Seed::from_number(3).rng();
    for n in 0..200_000_u64 {
        let noise: [u8; 96] = rng.bytes();
        let len = usize::try_from(rng.below(97)).unwrap();
        let from = addr("5.5.5.5:4660");
        let now = epoch() + ms(n);
        assert_eq!(public.handle(ServerSocket::Main, from, &noise[..len], now), None);
    }
    assert_eq!((public.stats().ignored, public.stats().bytes_out), (200_000, 0));
}

proptest! {
    #[test]
    fn for_nodes_no_answer_is_longer_than_its_request(
        body in vec(any::<u8>(), 0..200),
        head in proptest::bool::ANY,
        v6 in proptest::bool::ANY,
    ) {
        // Half of the inputs have a true header in front, so that the attributes are reached.
        let len = u16::try_from(body.len()).unwrap().to_be_bytes();
        let header = [&[0, 1], &len[..], &[0x21, 0x12, 0xa4, 0x42], &[6; 12]].concat();
        let datagram = if head { [header, body].concat() } else { body };
        let from = addr(if v6 { "[2a00::1]:9" } else { "5.5.5.5:4660" });
        let mut server = full(StunPolicy::Nodes);
        if let Some(reply) = server.handle(ServerSocket::Main, from, &datagram, epoch()) {
            prop_assert!(reply.bytes.len() <= datagram.len());
            prop_assert_eq!(reply.to, from);
        }
    }

    #[test]
    fn a_request_of_any_length_is_answered_within_its_length(padding in 0..1400_usize, v6 in proptest::bool::ANY) {
        let len = padding - padding % 4;
        let attribute = [&[0, 0x26], &u16::try_from(len).unwrap().to_be_bytes()[..], &vec![b'x'; len]].concat();
        let total = u16::try_from(attribute.len()).unwrap().to_be_bytes();
        let request = [&[0, 1], &total[..], &[0x21, 0x12, 0xa4, 0x42], &[6; 12], &attribute].concat();
        let from = addr(if v6 { "[2a00::1]:9" } else { "5.5.5.5:4660" });
        let reply = full(StunPolicy::Nodes).handle(ServerSocket::Main, from, &request, epoch());
        let shortest = if v6 { 68 } else { 56 };
        prop_assert_eq!(reply.is_some(), request.len() >= shortest, "{} bytes", request.len());
        prop_assert!(reply.is_none_or(|reply| reply.bytes.len() <= request.len()));
    }
}
