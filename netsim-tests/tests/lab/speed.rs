//! What the lab can carry, so that a measurement inside knows its ceiling. Prints; the bounds only catch a lab that is
//! broken. `cargo test --release -p knothole-netsim --test lab speed -- --nocapture`.

use std::io::{ErrorKind, IoSliceMut, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use knothole_netsim::fabric::{HostSpec, Lab};
use knothole_netsim::link::LinkSpec;
use knothole_netsim::nat::NatSpec;
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

use crate::support::*;

const TIME: Duration = Duration::from_millis(800);
const SEGMENT: usize = 1200;

fn two_hosts(link: LinkSpec) -> Lab {
    with_server()
        .host("a", HostSpec::behind(chain("port-restricted"), LAN_A))
        .host("b", HostSpec::behind(chain("port-restricted"), LAN_B))
        .host(
            "c",
            HostSpec::behind(vec![NatSpec::default(), NatSpec::default()], LAN_A),
        )
        .link("a", link)
        .link("c", link)
        .build()
        .unwrap()
}

/// Received Gbit/s of payload from a to b, `batch` segments to a send; and the share that arrived.
fn udp(lab: &Lab, batch: usize) -> (f64, f64) {
    let (a, b) = (socket(lab, "a", LAN_A, 5000), socket(lab, "b", LAN_B, 6000));
    let to_a = SocketAddr::new(lab.host("a").unwrap().public_ip(), 5000);
    let to_b = SocketAddr::new(lab.host("b").unwrap().public_ip(), 6000);
    a.send_to(b"open", to_b).unwrap();
    b.send_to(b"open", to_a).unwrap();
    assert!(source_of(&a, b"open").is_some());
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&b));
        let sent = send(&a, to_b, batch);
        let (received, time) = receiver.join().unwrap();
        let gbit = to_f64(received) * 8e-9 / time.as_secs_f64();
        (gbit, to_f64(received) / to_f64(sent))
    })
}

fn send(socket: &UdpSocket, to: SocketAddr, batch: usize) -> usize {
    let state = UdpSocketState::new(socket.into()).unwrap();
    socket.set_nonblocking(false).unwrap();
    let contents = vec![7; SEGMENT * batch];
    let segment_size = (batch > 1).then_some(SEGMENT);
    let transmit = Transmit {
        destination: to,
        ecn: None,
        contents: &contents,
        segment_size,
        src_ip: None,
    };
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < TIME {
        match state.try_send(socket.into(), &transmit) {
            Ok(()) => sent += contents.len(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
    sent
}

/// Bytes received until a pause, and the time from the first to the last.
fn receive(socket: &UdpSocket) -> (usize, Duration) {
    let state = UdpSocketState::new(socket.into()).unwrap();
    let _limited = state.set_recv_buffer_size(socket.into(), 8 << 20);
    socket.set_nonblocking(false).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffers = vec![vec![0u8; 65_536]; 8];
    let mut metas = [RecvMeta::default(); 8];
    let (mut total, mut span) = (0, None);
    loop {
        let mut slices: Vec<IoSliceMut<'_>> =
            buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        let Ok(count) = state.recv(socket.into(), &mut slices, &mut metas) else {
            break;
        };
        let now = Instant::now();
        span = Some((span.map_or(now, |(first, _)| first), now));
        total += metas[..count].iter().map(|meta| meta.len).sum::<usize>();
    }
    let (first, last) = span.expect("something arrived");
    (total, last - first)
}

/// Received Gbit/s from c, behind two NATs, to the server.
fn tcp(lab: &Lab) -> f64 {
    let server = lab.host("srv").unwrap();
    let listener = server
        .run(|| TcpListener::bind((SERVERS[0], 443)))
        .unwrap()
        .unwrap();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            let start = Instant::now();
            let mut buffer = vec![0; 1 << 20];
            let mut total = 0;
            loop {
                match stream.read(&mut buffer).unwrap() {
                    0 => return to_f64(total) * 8e-9 / start.elapsed().as_secs_f64(),
                    length => total += length,
                }
            }
        });
        let send = || {
            let mut stream = TcpStream::connect((SERVERS[0], 443)).unwrap();
            let block = vec![7; 1 << 20];
            let start = Instant::now();
            while start.elapsed() < TIME {
                stream.write_all(&block).unwrap();
            }
        };
        lab.host("c").unwrap().run(send).unwrap();
        receiver.join().unwrap()
    })
}

fn to_f64(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes / 1000).unwrap()) * 1000.0
}

#[test]
fn the_ceiling_of_the_lab_is_known() {
    if !possible() {
        return;
    }
    let _quiet = quiet();
    let cases = [
        ("no delay", LinkSpec::default(), true),
        ("5 ms", LinkSpec::delay(Duration::from_millis(5)), true),
        (
            "5 ms, cut into packets",
            LinkSpec::delay(Duration::from_millis(5)).with_loss(1e-9),
            false,
        ),
    ];
    for (name, link, whole) in cases {
        let lab = two_hosts(link);
        let (gso, kept) = udp(&lab, 54);
        let (plain, plain_kept) = udp(&lab, 1);
        let tcp = tcp(&lab);
        println!(
            "{name}: udp gso {gso:.2} Gbit/s ({:.0} % arrived), udp single {plain:.2} ({:.0} %), tcp {tcp:.2}",
            kept * 100.0,
            plain_kept * 100.0,
        );
        println!("  {:?}", lab.stats().drops);
        assert!(gso > 0.05 && plain > 0.02 && tcp > 0.02);
        assert!(
            !whole || !lab.offload() || gso > 0.5,
            "super-packets do not seem to pass whole"
        );
    }
}
