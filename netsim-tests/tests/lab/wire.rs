//! Links over real sockets: is what was configured what a program sees?

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use knothole_netsim::fabric::{AccessLink, HostSpec, Lab};
use knothole_netsim::link::LinkSpec;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

use crate::support::*;

const MS: Duration = Duration::from_millis(1);

fn lab_with(link: impl Into<AccessLink>) -> Lab {
    with_server()
        .host("a", HostSpec::behind(chain("port-restricted"), LAN_A))
        .link("a", link)
        .build()
        .unwrap()
}

/// Round trips of single packets, sorted.
fn round_trips(a: &UdpSocket, server: &UdpSocket, count: usize) -> Vec<Duration> {
    for socket in [a, server] {
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    }
    let mut times = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 64];
            for _ in 0..count {
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                server.send_to(&buffer[..length], from).unwrap();
            }
        });
        let mut buffer = [0; 64];
        let one = |_| {
            let start = Instant::now();
            a.send_to(b"ping", (SERVERS[0], 3478)).unwrap();
            a.recv(&mut buffer).unwrap();
            start.elapsed()
        };
        (0..count).map(one).collect::<Vec<_>>()
    });
    times.sort();
    times
}

#[test]
fn the_delay_that_a_program_sees_is_the_configured_one() {
    if !possible() {
        return;
    }
    let _quiet = quiet();
    let up = LinkSpec::delay(20 * MS);
    let lab = lab_with(AccessLink {
        up,
        down: LinkSpec::delay(10 * MS),
    });
    assert!(typical_within(&lab, 30 * MS));
    lab.set_link("a", LinkSpec::default()).unwrap();
    assert!(typical_within(&lab, Duration::ZERO));
}

/// Is the lower quartile of the round trips at most 1 ms above what was asked, and none below? Several attempts, and not
/// the median: other programs on the machine may take the processors for longer than that.
fn typical_within(lab: &Lab, asked: Duration) -> bool {
    let (a, server) = (any(lab, "a"), socket(lab, "srv", SERVERS[0], 3478));
    (0..5).any(|_| {
        let times = round_trips(&a, &server, 50);
        let (least, quartile, median, most) = (times[0], times[12], times[25], times[49]);
        println!("round trip asked {asked:?}: least {least:?}, quartile {quartile:?}, median {median:?}, most {most:?}");
        assert!(least >= asked);
        quartile < asked + MS
    })
}

/// Sends `count` packets at a pace that no buffer overflows at, and counts what arrives.
fn arrivals(lab: &Lab, count: u32) -> u32 {
    let (a, server) = (any(lab, "a"), socket(lab, "srv", SERVERS[0], 3478));
    server.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    std::thread::scope(|scope| {
        let counter = scope.spawn(|| {
            let mut buffer = [0; 2048];
            (0..).take_while(|_| server.recv(&mut buffer).is_ok()).count()
        });
        for i in 0..count {
            a.send_to(&[7; 200], (SERVERS[0], 3478)).unwrap();
            if i % 16 == 15 {
                pause(MS);
            }
        }
        u32::try_from(counter.join().unwrap()).unwrap()
    })
}

fn pause(time: Duration) {
    let (never, waiting) = std::sync::mpsc::channel::<()>();
    let _elapsed = waiting.recv_timeout(time);
    drop(never);
}

#[test]
fn the_loss_that_a_program_sees_is_the_configured_one() {
    if !possible() {
        return;
    }
    let _quiet = quiet();
    for loss in [0.0, 0.05, 0.3] {
        let up = LinkSpec::default().with_loss(loss);
        let lab = lab_with(AccessLink {
            up,
            down: LinkSpec::default(),
        });
        let measured = 1.0 - f64::from(arrivals(&lab, 10_000)) / 10_000.0;
        println!("loss asked {loss}, measured {measured:.4}");
        assert!(
            (measured - loss).abs() < 0.02,
            "asked {loss}, measured {measured}"
        );
    }
}

#[test]
fn duplicates_arrive_twice() {
    if !possible() {
        return;
    }
    let lab = lab_with(LinkSpec {
        duplicate: 1.0,
        ..LinkSpec::delay(MS)
    });
    // So few that they fit into the receiver's buffer even if nobody reads meanwhile.
    assert_eq!(arrivals(&lab, 100), 200);
}

#[test]
fn a_rate_limit_holds_for_what_a_program_sends() {
    if !possible() {
        return;
    }
    let _quiet = quiet();
    let lab = lab_with(LinkSpec {
        queue: 1 << 20,
        ..LinkSpec::default().with_rate(8_000_000)
    });
    let (a, server) = (any(&lab, "a"), socket(&lab, "srv", SERVERS[0], 3478));
    server.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let start = Instant::now();
    for _ in 0..200 {
        a.send_to(&[7; 972], (SERVERS[0], 3478)).unwrap();
    }
    let mut buffer = [0; 2048];
    for _ in 0..200 {
        server.recv(&mut buffer).unwrap();
    }
    // 200 packets of 1000 bytes at one byte per microsecond.
    let time = start.elapsed();
    println!("200 kB at 8 Mbit/s took {time:?}");
    assert!((199 * MS..250 * MS).contains(&time), "{time:?}");
}

#[test]
fn a_path_with_a_smaller_mtu_swallows_larger_packets() {
    if !possible() {
        return;
    }
    let lab = lab_with(LinkSpec {
        mtu: 1280,
        ..LinkSpec::default()
    });
    let (a, server) = (any(&lab, "a"), socket(&lab, "srv", SERVERS[0], 3478));
    for (payload, arrives) in [(1252, true), (1253, false), (1472, false)] {
        a.send_to(&vec![7; payload], (SERVERS[0], 3478)).unwrap();
        assert_eq!(
            source_of(&server, &vec![7; payload]).is_some(),
            arrives,
            "{payload}"
        );
    }
    lab.set_link("a", LinkSpec::default()).unwrap();
    a.send_to(&[7; 1472], (SERVERS[0], 3478)).unwrap();
    assert!(source_of(&server, &[7; 1472]).is_some());
}

const SEGMENT: usize = 1200;
const SEGMENTS: usize = 54;

/// Sends 54 segments in one system call; gives how many arrive unharmed and in how many receives.
fn super_packet(lab: &Lab) -> (usize, usize) {
    let (a, server) = (any(lab, "a"), socket(lab, "srv", SERVERS[0], 3478));
    let (sender, receiver) = (state(&a), state(&server));
    assert!(sender.max_gso_segments() >= SEGMENTS);
    let contents: Vec<u8> = (0..SEGMENTS)
        .flat_map(|i| [u8::try_from(i).unwrap(); SEGMENT])
        .collect();
    let transmit = Transmit {
        destination: (SERVERS[0], 3478).into(),
        ecn: None,
        contents: &contents,
        segment_size: Some(SEGMENT),
        src_ip: None,
    };
    sender.send((&a).into(), &transmit).unwrap();
    let mut received = Vec::new();
    let mut calls = 0;
    let deadline = Instant::now() + 3 * PATIENCE;
    while received.len() < contents.len() && Instant::now() < deadline {
        let mut buffer = vec![0; 65_536];
        let mut meta = [RecvMeta::default()];
        match receiver.recv(
            (&server).into(),
            &mut [std::io::IoSliceMut::new(&mut buffer)],
            &mut meta,
        ) {
            Ok(_) => {
                calls += 1;
                received.extend_from_slice(&buffer[..meta[0].len]);
            }
            Err(_) => pause(MS),
        }
    }
    let intact = received
        .chunks(SEGMENT)
        .zip(contents.chunks(SEGMENT))
        .filter(|(a, b)| a == b)
        .count();
    (intact, calls)
}

fn state(socket: &UdpSocket) -> UdpSocketState {
    UdpSocketState::new(socket.into()).unwrap()
}

#[test]
fn a_super_packet_of_64_kib_passes_whole() {
    if !possible() {
        return;
    }
    let lab = lab_with(LinkSpec::delay(MS));
    let (intact, calls) = super_packet(&lab);
    assert_eq!(intact, SEGMENTS);
    if lab.offload() {
        assert_eq!(calls, 1, "one receive brings all segments");
        assert_eq!(lab.stats().links["a.nat0"].up.offered, 1);
    }
    assert_eq!(lab.stats().hosts["srv"].received_packets, SEGMENTS as u64);
}

#[test]
fn without_offload_the_same_packets_arrive_one_by_one() {
    if !possible() {
        return;
    }
    let lab = with_server()
        .host("a", HostSpec::behind(chain("port-restricted"), LAN_A))
        .without_offload()
        .build()
        .unwrap();
    assert!(!lab.offload());
    let (intact, calls) = super_packet(&lab);
    assert_eq!((intact, calls), (SEGMENTS, SEGMENTS));
    assert_eq!(lab.stats().links["a.nat0"].up.offered, SEGMENTS as u64);
}

#[test]
fn a_link_that_counts_packets_meets_every_segment() {
    if !possible() {
        return;
    }
    let fast = LinkSpec::default().with_rate(10_000_000_000);
    let lab = lab_with(fast);
    let (intact, _) = super_packet(&lab);
    assert_eq!(intact, SEGMENTS);
    assert_eq!(lab.stats().links["a.nat0"].up.offered, SEGMENTS as u64);
    lab.set_link("a", fast.with_loss(0.5)).unwrap();
    let before = lab.stats().links["a.nat0"].up.lost;
    super_packet(&lab);
    let lost = lab.stats().links["a.nat0"].up.lost - before;
    assert!((10..44).contains(&lost), "{lost} of 54 lost");
}
