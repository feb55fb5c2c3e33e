//! Captures of hosts: is in the file what was on the wire?

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use knothole_netsim::fabric::{HostSpec, Lab};
use knothole_netsim::link::LinkSpec;
use knothole_netsim::netns::LabError;
use knothole_netsim::sim::{NodeSpec, SERVER_IP, ServerSpec, World};

use crate::support::*;

fn one_lab() -> Lab {
    with_server()
        .host("a", HostSpec::behind(chain("symmetric-open"), LAN_A))
        .build()
        .unwrap()
}

/// The packets of a capture, which begin behind 24 bytes, each behind 16.
fn packets(file: &[u8]) -> Vec<&[u8]> {
    assert_eq!(file[..4], 0xa1b2_3c4du32.to_le_bytes());
    let mut rest = &file[24..];
    let mut found = Vec::new();
    while let Some((header, after)) = rest.split_at_checked(16) {
        let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        assert_eq!(word(8), word(12), "nothing was cut off");
        let (packet, next) = after.split_at(word(8).try_into().unwrap());
        found.push(packet);
        rest = next;
    }
    assert!(rest.is_empty());
    found
}

/// Source and destination of a UDP or TCP packet without options.
fn ends(ip: &[u8]) -> (SocketAddr, SocketAddr) {
    let end = |ip_at: usize, port_at: usize| {
        let octets: [u8; 4] = ip[ip_at..ip_at + 4].try_into().unwrap();
        let port = u16::from_be_bytes([ip[port_at], ip[port_at + 1]]);
        SocketAddr::from((octets, port))
    };
    (end(12, 20), end(16, 22))
}

/// What tcpdump reads out of the file, checking every checksum; `None` where there is no tcpdump.
fn tcpdump(path: &Path) -> Option<String> {
    let output = Command::new("tcpdump")
        .args(["-n", "-vv", "-tt", "-r"])
        .arg(path)
        .output();
    let Ok(output) = output else {
        assert!(
            std::env::var("CI").as_deref() != Ok("true"),
            "tcpdump must be here"
        );
        println!("skipped in part: tcpdump is not installed");
        return None;
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    // With what stands before it: a checksum in hexadecimal may contain "bad".
    for complaint in [" bad", "[bad", "(bad", "incorrect", "truncated", "wrong"] {
        assert!(!text.contains(complaint), "{text}");
    }
    Some(text)
}

#[test]
fn a_capture_at_each_end_shows_the_addresses_of_that_end() {
    if !possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (at_a, at_srv) = (folder.path().join("a.pcap"), folder.path().join("srv.pcap"));
    let lab = one_lab();
    let (a, server) = (any(&lab, "a"), socket(&lab, "srv", SERVERS[0], 3478));
    let to = SocketAddr::from((SERVERS[0], 3478));
    a.send_to(b"before", to).unwrap();
    assert!(source_of(&server, b"before").is_some());
    let inside = lab.capture("a", &at_a).unwrap();
    let outside = lab.capture("srv", &at_srv).unwrap();
    let external = seen(&a, &server, to).unwrap();
    assert!(seen(&server, &a, external).is_some());
    let stats = inside.stop().unwrap();
    assert_eq!((stats.written, stats.missed), (2, 0));
    a.send_to(b"after", to).unwrap();
    assert!(source_of(&server, b"after").is_some());
    drop(outside);
    drop(lab);
    let own = SocketAddr::from((LAN_A, a.local_addr().unwrap().port()));
    let file = fs::read(&at_a).unwrap();
    let found: Vec<_> = packets(&file).into_iter().map(ends).collect();
    assert_eq!(found, [(own, to), (to, own)]);
    let file = fs::read(&at_srv).unwrap();
    let found: Vec<_> = packets(&file).into_iter().map(ends).collect();
    assert_eq!(found, [(external, to), (to, external), (external, to)]);
    if let Some(text) = tcpdump(&at_srv) {
        let line = format!(
            "{}.{} > {}.{}:",
            external.ip(),
            external.port(),
            to.ip(),
            to.port()
        );
        assert!(text.contains(&line), "{text}");
    }
}

#[test]
fn a_connection_is_captured_in_packets_of_a_wire_with_right_checksums() {
    if !possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tcp.pcap");
    let lab = one_lab();
    let capture = lab.capture("a", &path).unwrap();
    let server = lab.host("srv").unwrap();
    let listener = server
        .run(|| TcpListener::bind((SERVERS[0], 443)))
        .unwrap()
        .unwrap();
    let sent = vec![7; 300_000];
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut received = Vec::new();
            listener.accept().unwrap().0.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), 300_000);
        });
        let connect = || {
            TcpStream::connect((SERVERS[0], 443))
                .unwrap()
                .write_all(&sent)
                .unwrap()
        };
        lab.host("a").unwrap().run(connect).unwrap();
    });
    let stats = capture.stop().unwrap();
    assert_eq!(stats.missed, 0);
    let file = fs::read(&path).unwrap();
    let found = packets(&file);
    assert_eq!(found.len() as u64, stats.written);
    assert!(found.iter().all(|packet| packet.len() <= 1500));
    let data: usize = found
        .iter()
        .filter(|packet| ends(packet).1.port() == 443)
        .map(|packet| packet.len() - 20 - usize::from(packet[32] >> 4) * 4)
        .sum();
    assert!(data >= sent.len(), "{data}");
    tcpdump(&path);
}

#[test]
fn a_capture_that_cannot_be_written_says_so() {
    if !possible() {
        return;
    }
    let lab = one_lab();
    let missing = lab.capture("a", "/nowhere/at/all.pcap");
    assert!(matches!(missing, Err(LabError::Capture { .. })), "{missing:?}");
    let unknown = lab.capture("nobody", "x.pcap");
    assert!(matches!(unknown, Err(LabError::UnknownHost(_))), "{unknown:?}");
}

#[test]
fn a_world_in_memory_is_captured_with_its_own_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("world.pcap");
    let mut world = World::new(7);
    let link = || LinkSpec::delay(Duration::from_millis(20));
    world.add_server(ServerSpec::default(), link(), link());
    let site = world.add_site(&chain("port-restricted"), link(), link());
    let node = world.add_node(site, NodeSpec::default()).unwrap();
    world.capture(node, fs::File::create(&path).unwrap()).unwrap();
    world.run_for(Duration::from_secs(2)).unwrap();
    let written = world.end_captures().unwrap();
    let file = fs::read(&path).unwrap();
    let found = packets(&file);
    assert_eq!(found.len() as u64, written);
    let (from, to) = ends(found[0]);
    assert_eq!(to.ip(), SERVER_IP);
    // The node sets out at 0 ms, and the answer has crossed two links twice.
    assert_eq!(file[24..32], [0; 8]);
    let answer = found.iter().position(|packet| ends(packet) == (to, from));
    let before: usize = found[..answer.unwrap()]
        .iter()
        .map(|packet| 16 + packet.len())
        .sum();
    let time = [0u32, 80_000_000].map(u32::to_le_bytes).concat();
    assert_eq!(file[24 + before..][..8], time);
    if let Some(text) = tcpdump(&path) {
        let line = format!("{}.{} > {}.{}:", to.ip(), to.port(), from.ip(), from.port());
        assert!(text.contains("\n0.080000 IP"), "{text}");
        assert!(text.contains(&line), "{text}");
    }
}
