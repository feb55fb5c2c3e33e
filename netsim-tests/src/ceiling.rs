//! How much data the lab itself carries on this machine, so that a measurement inside it knows its ceiling. Measures; prints
//! nothing and judges nothing.
//!
//! Each [`Path`] is a lab of its own, in which plain sockets send as fast as they can in three ways: UDP with
//! segmentation offload, UDP in single packets, TCP.

use std::io::{self, ErrorKind, IoSliceMut, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};

use crate::fabric::{HostSpec, Lab, NatEngine};
use crate::link::LinkSpec;
use crate::nat::NatSpec;
use crate::netns::{InterfaceSpec, LabError, Namespace, Reach, configure, connect};

/// How long each of the three ways is measured by default. Shorter is less even, longer makes people wait.
pub const TIME: Duration = Duration::from_millis(800);

/// Nothing has arrived for so long after the last was sent: it is over. Longer than any delay of a path.
const PAUSE: Duration = Duration::from_millis(200);

/// A connection that is not made in this time, or stands still for it, is broken: a TCP that has lost everything tries
/// again after 1 s and 3 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a first packet is sent until one arrives: for [`PATIENCE`] in all.
const TRIES: u32 = 50;

/// Payload bytes of each packet, and packets to a system call with offload: the most that fits 64 KiB.
const SEGMENT: usize = 1200;
const SEGMENTS: usize = 54;

/// Bytes asked for as the receiver's buffer; the kernel gives as much of it as it allows.
const BUFFER: usize = 8 << 20;

/// Bytes to a system call of TCP.
const BLOCK: usize = 1 << 20;

/// Bytes of IP packet on the plain cable, and packets that its devices queue: Linux's defaults for Ethernet.
const MTU: u32 = 1500;
const QUEUE: u32 = 1000;

/// The two ends: one behind two NATs (a home's and a carrier's), if there are any, one public; and the receiver's ports.
const A: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
const B: Ipv4Addr = Ipv4Addr::new(5, 5, 5, 1);
const UDP_PORTS: [u16; 2] = [6000, 6001];
const TCP_PORT: u16 = 443;

/// What lies between sender and receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// A pair of Ethernet devices and no lab at all: the most that two namespaces of this kernel exchange.
    Cable,
    /// Two NATs of the model one behind the other, and links without any limit.
    Nats,
    /// The same played by the kernel; needs the program `nft`.
    KernelNats,
    /// The same on a kernel that cuts up super-packets before the lab sees them.
    NatsWithoutOffload,
    /// Two NATs and a delay of 5 ms each way.
    Delay,
    /// The same over links that look at packets one by one, so that the lab cuts up super-packets.
    Packets,
}

impl Path {
    /// Every path, the least work first.
    pub const ALL: [Self; 6] = [
        Self::Cable,
        Self::Nats,
        Self::KernelNats,
        Self::NatsWithoutOffload,
        Self::Delay,
        Self::Packets,
    ];

    /// Short name for JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cable => "cable",
            Self::Nats => "nats",
            Self::KernelNats => "kernel-nats",
            Self::NatsWithoutOffload => "nats-without-offload",
            Self::Delay => "delay",
            Self::Packets => "packets",
        }
    }

    /// What it is, for people.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Cable => "plain veth, no lab",
            Self::Nats => "two NATs",
            Self::KernelNats => "two NATs, nftables",
            Self::NatsWithoutOffload => "two NATs, no offload",
            Self::Delay => "two NATs, 5 ms",
            Self::Packets => "two NATs, 5 ms, cut up",
        }
    }

    /// Do super-packets pass whole here, if the kernel lets the lab see them?
    #[must_use]
    pub fn passes_whole(self) -> bool {
        match self {
            Self::Cable | Self::Nats | Self::KernelNats | Self::Delay => true,
            Self::NatsWithoutOffload | Self::Packets => false,
        }
    }

    fn link(self) -> LinkSpec {
        let delay = LinkSpec::delay(Duration::from_millis(5));
        match self {
            Self::Cable | Self::Nats | Self::KernelNats | Self::NatsWithoutOffload => LinkSpec::default(),
            Self::Delay => delay,
            // A loss that never happens makes the link look at every packet.
            Self::Packets => delay.with_loss(1e-12),
        }
    }
}

/// What a path carries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    /// UDP, 54 packets of 1200 bytes to a system call.
    pub udp_offload: Flow,
    /// UDP, one packet of 1200 bytes to a system call.
    pub udp_single: Flow,
    /// TCP, one connection, with the kernel's default windows.
    pub tcp_gbit: f64,
    /// Did super-packets pass whole?
    pub offload: bool,
}

/// One way of sending UDP: what arrived.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Flow {
    /// Payload in Gbit/s.
    pub gbit: f64,
    /// Packets of 1200 bytes a second.
    pub packets: f64,
    /// Share of what was sent, 0 to 1. A sender without congestion control is faster than most receivers.
    pub arrived: f64,
}

/// Why nothing could be measured.
#[derive(Debug, thiserror::Error)]
pub enum CeilingError {
    /// No lab on this machine.
    #[error(transparent)]
    Lab(#[from] LabError),
    /// A socket inside it.
    #[error("the {what} of the measurement failed ({source})")]
    Socket {
        /// Which one.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Measures one path, each of the three ways for `time`.
///
/// # Errors
///
/// [`CeilingError`].
pub fn measure(path: Path, time: Duration) -> Result<Ceiling, CeilingError> {
    let stage = Stage::build(path)?;
    let udp_offload = udp(&stage, UDP_PORTS[0], SEGMENTS, time)?;
    let udp_single = udp(&stage, UDP_PORTS[1], 1, time)?;
    let tcp_gbit = tcp(&stage, time)?;
    Ok(Ceiling {
        udp_offload,
        udp_single,
        tcp_gbit,
        offload: path.passes_whole() && stage.offload(),
    })
}

/// Two machines and the path between them.
enum Stage {
    Cable(Namespace, Namespace),
    Lab(Lab),
}

/// One of the two machines.
#[derive(Clone, Copy)]
enum End {
    Sender,
    Receiver,
}

impl Stage {
    fn build(path: Path) -> Result<Self, LabError> {
        if path == Path::Cable {
            return cable();
        }
        let nats = vec![NatSpec::default(), NatSpec::default()];
        let mut builder = Lab::builder()
            .host("a", HostSpec::behind(nats, A))
            .host("b", HostSpec::public([B]))
            .link("a", path.link());
        match path {
            Path::NatsWithoutOffload => builder = builder.without_offload(),
            Path::KernelNats => builder = builder.engine(NatEngine::Kernel),
            _ => {}
        }
        builder.build().map(Self::Lab)
    }

    fn offload(&self) -> bool {
        match self {
            Self::Cable(..) => true,
            Self::Lab(lab) => lab.offload(),
        }
    }

    /// Runs `work` at one end.
    fn at<R: Send>(&self, end: End, work: impl FnOnce() -> R + Send) -> Result<R, LabError> {
        match (self, end) {
            (Self::Cable(sender, _), End::Sender) => sender.run(work),
            (Self::Cable(_, receiver), End::Receiver) => receiver.run(work),
            (Self::Lab(lab), End::Sender) => lab.host("a")?.run(work),
            (Self::Lab(lab), End::Receiver) => lab.host("b")?.run(work),
        }
    }
}

fn cable() -> Result<Stage, LabError> {
    let (a, b) = (Namespace::create("a")?, Namespace::create("b")?);
    connect(&a, &b, "eth0")?;
    for (namespace, ip) in [(&a, A), (&b, B)] {
        let addresses = [(ip.into(), 24)];
        let spec = InterfaceSpec {
            name: "eth0",
            addresses: &addresses,
            reach: Reach::Everything,
            mtu: MTU,
            queue: QUEUE,
        };
        namespace.run(|| configure(&spec))??;
    }
    Ok(Stage::Cable(a, b))
}

fn failed(what: &'static str) -> impl Fn(io::Error) -> CeilingError {
    move |source| CeilingError::Socket { what, source }
}

/// Sends UDP with so many packets to a system call.
fn udp(stage: &Stage, port: u16, batch: usize, time: Duration) -> Result<Flow, CeilingError> {
    let open = |end, ip: Ipv4Addr| -> Result<UdpSocket, CeilingError> {
        let socket = stage.at(end, || UdpSocket::bind((ip, port)))?;
        socket.map_err(failed("UDP socket"))
    };
    let (a, b) = (open(End::Sender, A)?, open(End::Receiver, B)?);
    let to = SocketAddr::from((B, port));
    warm_up(&a, to, &b).map_err(failed("way there"))?;
    let is_over = AtomicBool::new(false);
    let (sent, received) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&b, &is_over));
        let sent = send(&a, to, batch, time);
        is_over.store(true, Ordering::Release);
        (
            sent,
            receiver.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())),
        )
    });
    let sent = sent.map_err(failed("UDP sender"))?;
    let (received, span) = received.map_err(failed("UDP receiver"))?;
    // What came all at once took the sender its time.
    let gbit = gbit(received, span.max(time));
    Ok(Flow {
        gbit,
        packets: gbit * 1e9 / 8.0 / to_f64(SEGMENT),
        arrived: to_f64(received) / to_f64(sent).max(1.0),
    })
}

/// Lets the kernel find the neighbour, and the NATs make their mappings, before anything is measured.
fn warm_up(a: &UdpSocket, to: SocketAddr, b: &UdpSocket) -> io::Result<()> {
    b.set_read_timeout(Some(PAUSE))?;
    for _ in 0..TRIES {
        a.send_to(b"open", to)?;
        match b.recv(&mut [0; 16]) {
            Ok(_) => return Ok(()),
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// Bytes sent.
fn send(socket: &UdpSocket, to: SocketAddr, batch: usize, time: Duration) -> io::Result<usize> {
    let state = UdpSocketState::new(socket.into())?;
    socket.set_nonblocking(false)?;
    let contents = vec![7; SEGMENT * batch];
    let transmit = Transmit {
        destination: to,
        ecn: None,
        contents: &contents,
        segment_size: (batch > 1).then_some(SEGMENT),
        src_ip: None,
    };
    let start = Instant::now();
    let mut sent = 0;
    while start.elapsed() < time {
        match state.try_send(socket.into(), &transmit) {
            Ok(()) => sent += contents.len(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}

/// Bytes received until a pause after the end, and the time from the first to the last.
fn receive(socket: &UdpSocket, is_over: &AtomicBool) -> io::Result<(usize, Duration)> {
    let state = UdpSocketState::new(socket.into())?;
    let _limited = state.set_recv_buffer_size(socket.into(), BUFFER);
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(PAUSE))?;
    let mut buffers = vec![vec![0u8; 65_536]; 8];
    let mut metas = [RecvMeta::default(); 8];
    let (mut total, mut span) = (0, None);
    loop {
        let was_over = is_over.load(Ordering::Acquire);
        let mut slices: Vec<IoSliceMut<'_>> =
            buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
        match state.recv(socket.into(), &mut slices, &mut metas) {
            Ok(count) => {
                let now = Instant::now();
                span = Some((span.map_or(now, |(first, _)| first), now));
                total += metas[..count].iter().map(|meta| meta.len).sum::<usize>();
            }
            Err(error) if !is_pause(&error) => return Err(error),
            Err(_) if was_over => break,
            Err(_) => {}
        }
    }
    let (first, last) = span.ok_or(ErrorKind::TimedOut)?;
    Ok((total, last - first))
}

fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Received Gbit/s.
fn tcp(stage: &Stage, time: Duration) -> Result<f64, CeilingError> {
    let listener = stage.at(End::Receiver, || TcpListener::bind((B, TCP_PORT)))?;
    let listener = listener.map_err(failed("TCP listener"))?;
    let to = SocketAddr::from((B, TCP_PORT));
    let stream = stage.at(End::Sender, || TcpStream::connect_timeout(&to, PATIENCE))?;
    let stream = stream.map_err(failed("TCP connection"))?;
    // It is made, so that nothing is waited for here.
    let (other, _) = listener.accept().map_err(failed("TCP listener"))?;
    let (sent, received) = std::thread::scope(|scope| {
        let receiver = scope.spawn(|| drain(other));
        let sent = fill(stream, time);
        (
            sent,
            receiver.join().unwrap_or_else(|_| Err(ErrorKind::Other.into())),
        )
    });
    sent.map_err(failed("TCP sender"))?;
    let (received, span) = received.map_err(failed("TCP receiver"))?;
    Ok(gbit(received, span))
}

fn fill(mut stream: TcpStream, time: Duration) -> io::Result<()> {
    stream.set_write_timeout(Some(PATIENCE))?;
    let block = vec![7; BLOCK];
    let start = Instant::now();
    while start.elapsed() < time {
        stream.write_all(&block)?;
    }
    Ok(())
}

/// Bytes received to the end, and in what time.
fn drain(mut stream: TcpStream) -> io::Result<(usize, Duration)> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let start = Instant::now();
    let mut buffer = vec![0; BLOCK];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok((total, start.elapsed())),
            length => total += length,
        }
    }
}

fn gbit(bytes: usize, time: Duration) -> f64 {
    to_f64(bytes) * 8e-9 / time.as_secs_f64().max(1e-6)
}

fn to_f64(bytes: usize) -> f64 {
    bytes as f64
}
