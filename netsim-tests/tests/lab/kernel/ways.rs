//! Kernel NATs among others: depth, mixtures with the model, links, TCP, super-packets, and what they leave behind.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use knothole_netsim::fabric::FabricDrop;
use knothole_netsim::link::LinkSpec;
use knothole_netsim::nat::{Filtering, Hairpin};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

use super::*;

fn carrier() -> NatSpec {
    NatSpec {
        filtering: Filtering::EndpointIndependent,
        hairpin: Hairpin::External,
        ..NatSpec::default()
    }
}

#[test]
fn two_hosts_behind_one_kernel_nat_share_its_address_and_meet_directly() {
    if !kernel_possible() {
        return;
    }
    let lab = two_inside(NatSpec::default());
    let (a, b) = (any(&lab, "a"), socket(&lab, "b", NEIGHBOUR, 6000));
    let (server, at) = server(&lab);
    let (of_a, of_b) = (seen(&a, &server, at).unwrap(), seen(&b, &server, at).unwrap());
    assert_eq!(of_a.ip(), lab.host("a").unwrap().public_ip());
    assert_eq!(of_a.ip(), of_b.ip());
    assert!(reaches(&server, &a, of_a) && reaches(&server, &b, of_b));
    let sessions = lab.stats().nats["home"].stats.sessions;
    let from = seen(&a, &b, (NEIGHBOUR, 6000).into()).unwrap();
    assert_eq!(from.ip(), LAN_A);
    assert_eq!(
        lab.stats().nats["home"].stats.sessions,
        sessions,
        "it saw nothing of that"
    );
}

#[test]
fn any_mixture_of_kernel_and_model_passes_packets_both_ways() {
    if !kernel_possible() {
        return;
    }
    let engines = [NatEngine::Kernel, NatEngine::Model];
    for (outer, inner) in engines
        .iter()
        .flat_map(|outer| engines.map(|inner| (*outer, inner)))
    {
        let lab = with_server()
            .nat_by("cgn", carrier(), None, outer)
            .nat_by("home-a", NatSpec::default(), Some("cgn"), inner)
            .nat_by("home-b", NatSpec::default(), Some("cgn"), inner)
            .host("a", HostSpec::lan("home-a", LAN_A))
            .host("b", HostSpec::lan("home-b", LAN_B))
            .build()
            .unwrap();
        let played: Vec<NatEngine> = lab.nats().map(|(_, engine)| engine).collect();
        assert_eq!(played, [outer, inner, inner]);
        let (a, b) = (any(&lab, "a"), any(&lab, "b"));
        let (server, at) = server(&lab);
        let (of_a, of_b) = (seen(&a, &server, at).unwrap(), seen(&b, &server, at).unwrap());
        assert_eq!(of_a.ip(), lab.host("a").unwrap().public_ip());
        assert!(reaches(&server, &a, of_a));
        // They meet by the hairpin of the carrier's NAT.
        assert_eq!(seen(&a, &b, of_b), None, "the home of b does not know a yet");
        assert_eq!(seen(&b, &a, of_a), Some(of_b), "{outer:?} {inner:?}");
        assert_eq!(seen(&a, &b, of_b), Some(of_a), "{outer:?} {inner:?}");
    }
}

#[test]
fn a_packet_with_little_life_ends_where_the_map_says() {
    if !kernel_possible() {
        return;
    }
    let lab = built(
        by_kernel()
            .host("a", HostSpec::behind(chain("port-restricted"), LAN_A))
            .host("b", HostSpec::behind(chain("full-cone"), LAN_B)),
    );
    let (a, b) = (any(&lab, "a"), socket(&lab, "b", LAN_B, 6000));
    let (server, at) = server(&lab);
    let to_b = seen(&b, &server, at).unwrap();
    let sessions = |nat: &str| lab.stats().nats[nat].stats.sessions;
    for (ttl, of_a, in_core) in [(1, 0, 0), (2, 1, 1), (3, 1, 2), (4, 1, 2)] {
        a.set_ttl(ttl).unwrap();
        assert_eq!(seen(&a, &b, to_b), None, "TTL {ttl}");
        assert_eq!(sessions("a.nat0"), of_a, "TTL {ttl}");
        assert_eq!(
            sessions("b.nat0"),
            1,
            "what ends at a router leaves no trace there"
        );
        let ended = lab.stats().drops.get(&FabricDrop::TtlExpired).copied();
        assert_eq!(ended.unwrap_or(0), in_core, "TTL {ttl}");
    }
    a.set_ttl(5).unwrap();
    assert!(seen(&a, &b, to_b).is_some());
}

#[test]
fn the_access_link_is_on_the_outer_side_of_a_kernel_nat() {
    if !kernel_possible() {
        return;
    }
    let delay = Duration::from_millis(40);
    let home = by_kernel().host("a", HostSpec::behind(chain("port-restricted"), LAN_A));
    let lab = built(home.link("a", LinkSpec::delay(delay)));
    let (client, (server, at)) = (any(&lab, "a"), server(&lab));
    let start = Instant::now();
    let external = seen(&client, &server, at).unwrap();
    assert!(reaches(&server, &client, external));
    assert!(start.elapsed() >= 2 * delay);
    let link = &lab.stats().links["a.nat0"];
    assert_eq!((link.up.offered, link.down.offered), (1, 1));
}

#[test]
fn tcp_passes_two_kernel_nats_whole_and_unharmed() {
    if !kernel_possible() {
        return;
    }
    let lab = lab_of(vec![NatSpec::default(), NatSpec::default()]);
    let at = SocketAddr::from((SERVERS[1], 443));
    let listen = || TcpListener::bind(at);
    let listener = lab.host("srv").unwrap().run(listen).unwrap().unwrap();
    let sent: Vec<u8> = (0..3_000_000u32)
        .map(|i| u8::try_from(i % 253).unwrap())
        .collect();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, from) = listener.accept().unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap();
            (received, from)
        });
        let send = || TcpStream::connect(at).unwrap().write_all(&sent).unwrap();
        lab.host("a").unwrap().run(send).unwrap();
        let (received, from) = receiver.join().unwrap();
        assert!(received == sent);
        assert_eq!(from.ip(), lab.host("a").unwrap().public_ip());
    });
}

const SEGMENT: usize = 1200;
const SEGMENTS: usize = 54;

#[test]
fn a_super_packet_passes_two_kernel_nats_whole() {
    if !kernel_possible() {
        return;
    }
    for hairpin in [Hairpin::Off, Hairpin::Internal] {
        let home = NatSpec {
            hairpin,
            ..NatSpec::default()
        };
        let lab = lab_of(vec![home, carrier()]);
        let (client, (server, at)) = (any(&lab, "a"), server(&lab));
        let (sender, receiver) = [&client, &server]
            .map(|s| UdpSocketState::new(s.into()).unwrap())
            .into();
        let contents: Vec<u8> = (0..SEGMENTS)
            .flat_map(|i| [u8::try_from(i).unwrap(); SEGMENT])
            .collect();
        let transmit = Transmit {
            destination: at,
            ecn: None,
            contents: &contents,
            segment_size: Some(SEGMENT),
            src_ip: None,
        };
        sender.send((&client).into(), &transmit).unwrap();
        let mut buffer = vec![0; 65_536];
        let mut meta = [RecvMeta::default()];
        server.set_nonblocking(false).unwrap();
        server.set_read_timeout(Some(10 * PATIENCE)).unwrap();
        let mut slices = [std::io::IoSliceMut::new(&mut buffer)];
        receiver.recv((&server).into(), &mut slices, &mut meta).unwrap();
        if lab.offload() {
            assert_eq!((meta[0].len, meta[0].stride), (contents.len(), SEGMENT));
            assert!(buffer[..contents.len()] == contents);
        }
    }
}

#[test]
fn checksums_are_right_where_the_kernel_completes_them_itself() {
    if !kernel_possible() {
        return;
    }
    for hairpin in [Hairpin::Internal, Hairpin::External] {
        let home = by_kernel().nat("home", NatSpec { hairpin, ..carrier() });
        let hosts = home
            .host("a", HostSpec::lan("home", LAN_A))
            .host("b", HostSpec::lan("home", NEIGHBOUR));
        let lab = built(hosts.without_offload());
        assert!(!lab.offload());
        let (a, b) = (any(&lab, "a"), any(&lab, "b"));
        let (server, at) = server(&lab);
        let (of_a, of_b) = (seen(&a, &server, at).unwrap(), seen(&b, &server, at).unwrap());
        assert!(reaches(&server, &a, of_a));
        assert!(reaches(&a, &b, of_b) && reaches(&b, &a, of_a), "{hairpin:?}");
    }
}

fn gone(name: &str) -> Lab {
    let nats = by_kernel().nat(&format!("{name}1"), carrier()).nat_behind(
        &format!("{name}2"),
        &format!("{name}1"),
        NatSpec::default(),
    );
    built(nats.host("a", HostSpec::lan(&format!("{name}2"), LAN_A)))
}

#[test]
fn a_lab_with_two_kernel_nats_is_there_at_once_and_leaves_nothing() {
    if !kernel_possible() {
        return;
    }
    let start = Instant::now();
    let labs: Vec<Lab> = (0..5).map(|_| gone("drop")).collect();
    let built = start.elapsed() / 5;
    assert_eq!(keepers("drop"), 10);
    let start = Instant::now();
    drop(labs);
    let ended = start.elapsed() / 5;
    println!("a lab with two kernel NATs: built in {built:?}, gone in {ended:?}");
    assert_eq!(keepers("drop"), 0);
    assert!(built < Duration::from_secs(5));
}

#[test]
fn a_panic_leaves_nothing_either() {
    if !kernel_possible() {
        return;
    }
    let panics = || {
        let _lab = gone("panic");
        std::panic::panic_any(keepers("panic"));
    };
    let panic = std::thread::spawn(panics).join().unwrap_err();
    assert_eq!(panic.downcast_ref(), Some(&2usize));
    assert_eq!(keepers("panic"), 0);
}

/// Threads in the namespaces of NATs whose names begin so.
fn keepers(name: &str) -> usize {
    let threads = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("comm")).ok());
    names
        .filter(|comm| comm.starts_with(&format!("lab {name}")))
        .count()
}
