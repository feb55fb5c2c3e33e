//! How fast does the relay forward, and what does it cost? A server in a process of its own, pairs of nodes around it
//! on loopback, and senders that hand the kernel as much at once as it takes.
//!
//! ```text
//! cargo run --release -p knothole-rendezvous --example relay_rate -- --pairs 4 --seconds 5
//! ```
//!
//! One line for each run: what arrived, what share of what was sent that is, and the server's processor time for each
//! GiB that arrived. The last is what to compare: rates on a machine that senders, server and receivers share depend on
//! who gets the processor, costs hardly do.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::disallowed_methods, // a sender is a thread of its own, without a runtime
    missing_docs
)]

#[allow(dead_code)] // what only the tests use
#[path = "../tests/it/node.rs"]
mod node;

use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use knothole_proto::id::{ChannelId, PairTag};
use knothole_proto::wire::relay::header;
use knothole_rendezvous::{Config, Server};
use node::Node;
use quinn::udp::{Transmit, UdpSocketState};

/// Bytes of receive buffer at a node, so that what is lost is lost at the server.
const NODE_BUFFER: usize = 16 * 1024 * 1024;

/// Bytes that a sender gives the kernel at once at the most: what one UDP datagram may hold, with room for headers.
const BATCH_MAX: usize = 65_000;

/// Before a run is measured: connections settle, the kernel's buffers grow.
const WARM_UP: Duration = Duration::from_millis(500);

/// Clock ticks of `/proc/PID/stat` in a second: the same on every Linux that runs this.
const TICKS: f64 = 100.0;

#[derive(Debug, Parser)]
struct Args {
    /// Pairs of nodes with a channel each
    #[arg(long, default_value_t = 1)]
    pairs: usize,
    /// Length of a frame in bytes
    #[arg(long, default_value_t = 1452)]
    frame: usize,
    /// Frames that a sender gives the kernel at once; as many as it takes if there are none said
    #[arg(long)]
    batch: Option<usize>,
    /// Rate of each sender in Mbit/s; as fast as it can if there is none said
    #[arg(long)]
    mbit: Option<u64>,
    /// Total limit of the server in Mbit/s
    #[arg(long, default_value_t = 1_000_000)]
    limit_mbit: u64,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[arg(long, default_value_t = 1)]
    runs: usize,
    /// Be the server
    #[arg(long, hide = true)]
    serve: bool,
}

fn main() {
    let args = Args::parse();
    if args.serve {
        return serve(&args);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let (mut server, url) = start_server(&args);
    runtime.block_on(measure(&args, &server, &url));
    server.kill().unwrap();
    server.wait().unwrap();
}

/// Serve until the other process goes away.
fn serve(args: &Args) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let config = Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            allow_loopback: true,
            relay_total_bits: args.limit_mbit * 1_000_000,
            ..Config::default()
        };
        let server = Server::start(config).await.unwrap();
        println!("{}", server.ready().server_url);
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()))
            .await
            .unwrap()
            .unwrap();
        server.shutdown().await;
    });
}

fn start_server(args: &Args) -> (Child, String) {
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--serve", "--limit-mbit", &args.limit_mbit.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut url = String::new();
    BufReader::new(server.stdout.take().unwrap())
        .read_line(&mut url)
        .unwrap();
    (server, url.trim().to_owned())
}

async fn measure(args: &Args, server: &Child, url: &str) {
    let mut pairs = Vec::new();
    for number in 0..args.pairs {
        pairs.push(pair(url, number).await);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU64::new(0));
    let senders: Vec<_> = pairs
        .iter()
        .map(|(from, _, channel)| {
            let socket = from.raw.try_clone().unwrap();
            let sender = Sender::new(args, socket, from.target.addr, *channel);
            let (stop, sent) = (stop.clone(), sent.clone());
            std::thread::spawn(move || sender.run(&stop, &sent))
        })
        .collect();
    tokio::time::sleep(WARM_UP).await;
    for _ in 0..args.runs {
        let arrived = || -> Vec<u64> {
            let of = |(_, to, _): &(Node, Node, ChannelId)| to.tally.bytes.load(Ordering::Relaxed);
            pairs.iter().map(of).collect()
        };
        let before = (
            Instant::now(),
            processor_time(server.id()),
            arrived(),
            sent.load(Ordering::Relaxed),
        );
        tokio::time::sleep(Duration::from_secs(args.seconds)).await;
        let seconds = before.0.elapsed().as_secs_f64();
        let cost = processor_time(server.id()) - before.1;
        let each: Vec<u64> = arrived()
            .iter()
            .zip(&before.2)
            .map(|(now, then)| now - then)
            .collect();
        let all = each.iter().sum::<u64>() as f64;
        let given = (sent.load(Ordering::Relaxed) - before.3) as f64;
        let (least, most) = (each.iter().min().unwrap(), each.iter().max().unwrap());
        println!(
            "{:6.2} Gbit/s  {:5.1} % arrived  {:.3} CPU s/GiB at the server, which used {:.2} of a core  least/most share {:.2}",
            all * 8.0 / seconds / 1e9,
            100.0 * all / given,
            cost / (all / f64::from(1 << 30)),
            cost / seconds,
            *least as f64 / *most as f64,
        );
    }
    stop.store(true, Ordering::Relaxed);
    for sender in senders {
        sender.join().unwrap();
    }
}

/// Two nodes with a channel between them; the first is going to send.
async fn pair(url: &str, number: usize) -> (Node, Node, ChannelId) {
    let tag = PairTag([7; 16]);
    let mut from = Node::registered(url, &format!("from-{number}"), PairTag([1; 16])).await;
    let mut to = Node::registered(url, &format!("to-{number}"), tag).await;
    let channel = from.introduced_to(to.peer, tag).await.channel.unwrap();
    to.introduction().await;
    to.tally.only_count.store(true, Ordering::Relaxed);
    for socket in [&from.raw, &to.raw] {
        let socket = socket2::SockRef::from(socket);
        socket.set_recv_buffer_size(NODE_BUFFER).unwrap();
        socket.set_send_buffer_size(NODE_BUFFER).unwrap();
    }
    (from, to, channel)
}

struct Sender {
    socket: UdpSocket,
    state: UdpSocketState,
    server: std::net::SocketAddr,
    batch: Vec<u8>,
    frame: usize,
    /// Time that a batch takes at the rate that was asked for.
    interval: Option<Duration>,
}

impl Sender {
    fn new(args: &Args, socket: UdpSocket, server: std::net::SocketAddr, channel: ChannelId) -> Self {
        let state = UdpSocketState::new((&socket).into()).unwrap();
        let mut frame = header(channel).to_vec();
        frame.resize(args.frame, 0xa5);
        let fits = (BATCH_MAX / args.frame).min(state.max_gso_segments());
        let batch = frame.repeat(args.batch.unwrap_or(fits).clamp(1, fits));
        let time = |mbit: u64| Duration::from_secs_f64(batch.len() as f64 * 8.0 / (mbit as f64 * 1e6));
        Self {
            interval: args.mbit.map(time),
            frame: args.frame,
            socket,
            state,
            server,
            batch,
        }
    }

    fn run(&self, stop: &AtomicBool, sent: &AtomicU64) {
        let transmit = Transmit {
            destination: self.server,
            ecn: None,
            contents: &self.batch,
            segment_size: (self.batch.len() > self.frame).then_some(self.frame),
            src_ip: None,
        };
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            if let Some(interval) = self.interval {
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                next += interval;
            }
            match self.state.send((&self.socket).into(), &transmit) {
                Ok(()) => sent.fetch_add(self.batch.len() as u64, Ordering::Relaxed),
                Err(_) => {
                    std::thread::yield_now();
                    0
                }
            };
        }
    }
}

/// Seconds of processor time that a process has used, its own and the kernel's for it.
fn processor_time(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let ticks = fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|field| field.parse::<f64>().unwrap());
    ticks.sum::<f64>() / TICKS
}
