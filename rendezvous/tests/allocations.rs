//! What is relayed costs no allocation, however much it is. A test program of its own, because it counts what its threads
//! allocate; the server has a thread to itself, on which all of its tasks run.
#![allow(clippy::unwrap_used, clippy::expect_used)] // in helpers too, a failure is the test's failure

#[allow(dead_code)] // what only the other tests use
#[path = "it/node.rs"]
mod node;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use knothole_proto::id::{ChannelId, PairTag};
use knothole_proto::wire::relay::header;
use knothole_rendezvous::{Config, Server, Stats};
use node::{Node, PATIENCE};
use quinn::udp::{Transmit, UdpSocketState};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

/// Bytes of a frame on the wire: what nodes send.
const FRAME: usize = 1_452;

/// Frames that are relayed before anything is counted: tables, buffers and queues have their size by then.
const WARM_UP: u64 = 4_000;

/// Frames that are relayed while it is counted.
const COUNTED: u64 = 20_000;

/// The same where a limit makes them wait.
const COUNTED_WAITING: u64 = 6_000;

/// Allocations that do not come from frames: timers of control connections, acknowledgements, more of them the longer it takes.
/// One for each batch of twenty that waits would be at least 300.
const HANDFUL: u64 = 120;

/// Frames under way at the most, well below what the sockets of a node hold: what is lost would only take longer.
const WINDOW: u64 = 100;

/// Bit/s, below what a busy machine carries in windows of [`WINDOW`] frames: who is slower than the limit does not wait.
const LIMIT: u64 = 20_000_000;

#[test]
fn frames_that_leave_at_once_cost_no_allocation() {
    for together in [1, 20] {
        let mut world = World::start(|config| config.relay_total_bits = 100_000_000_000);
        world.relay(together, WARM_UP);
        let allocations = world.relay(together, COUNTED);
        let relay = world.stop().relay;
        assert!(allocations <= HANDFUL, "{allocations} in batches of {together}");
        assert!(relay.forwarded_frames >= COUNTED);
        assert_eq!(relay.queue.delayed_bytes, 0, "none of them waited");
    }
}

#[test]
fn frames_that_wait_for_a_limit_cost_no_allocation() {
    let limits: [fn(&mut Config); 2] = [
        |config| config.relay_total_bits = LIMIT,
        |config| (config.relay_total_bits, config.relay_key_bits) = (100_000_000_000, Some(LIMIT)),
    ];
    for limit in limits {
        let mut world = World::start(limit);
        world.relay(20, WARM_UP);
        let allocations = world.relay(20, COUNTED_WAITING);
        let queue = world.stop().relay.queue;
        assert!(allocations <= HANDFUL, "{allocations}; {queue:?}");
        let waited = queue.delayed_bytes / FRAME as u64;
        assert!(waited > COUNTED_WAITING, "they did not wait: {queue:?}");
    }
}

/// A server on a thread of its own, and two nodes with a channel between them.
struct World {
    runtime: Runtime,
    server: JoinHandle<Stats>,
    turns: Sender<Turn>,
    from: Node,
    to: Node,
    channel: ChannelId,
}

/// The server works until it is told; the answer is what its thread allocated meanwhile.
struct Turn {
    until: Arc<Notify>,
    allocations: Sender<u64>,
}

impl World {
    fn start(limit: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            allow_loopback: true,
            workers: std::num::NonZeroUsize::new(1),
            ..Config::default()
        };
        limit(&mut config);
        let (turns, taken) = channel();
        let (ready, url) = channel();
        let server = thread::spawn(move || serve(config, &ready, &taken));
        let url = url.recv().unwrap();
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let (until, counted) = turn(&turns);
        let (from, to, channel) = runtime.block_on(pair(&url));
        until.notify_one();
        let allocations = counted.recv().unwrap();
        assert!(
            allocations > HANDFUL,
            "to admit two nodes took {allocations}: it does not count"
        );
        Self {
            runtime,
            server,
            turns,
            from,
            to,
            channel,
        }
    }

    /// Have so many frames relayed; what the server allocates for it.
    fn relay(&mut self, together: usize, frames: u64) -> u64 {
        let (until, allocations) = turn(&self.turns);
        let state = UdpSocketState::new((&self.from.raw).into()).unwrap();
        let mut frame = header(self.channel).to_vec();
        frame.resize(FRAME, 7);
        let batch = frame.repeat(together);
        let transmit = Transmit {
            destination: self.from.target.addr,
            ecn: None,
            contents: &batch,
            segment_size: (together > 1).then_some(FRAME),
            src_ip: None,
        };
        let arrived = || self.to.tally.bytes.load(Ordering::Relaxed) / FRAME as u64;
        let (before, mut deadline) = (arrived(), Instant::now() + PATIENCE);
        let mut sent = before;
        while arrived() < before + frames {
            assert!(
                Instant::now() < deadline,
                "{} of {frames} frames",
                arrived() - before
            );
            if sent < arrived() + WINDOW {
                // A full socket takes the next one.
                let _ = state.send((&self.from.raw).into(), &transmit);
                sent += together as u64;
                continue;
            }
            let there = arrived();
            pause(Duration::from_millis(1));
            if arrived() > there {
                deadline = Instant::now() + PATIENCE;
                continue;
            }
            pause(Duration::from_millis(20));
            if arrived() == there {
                // What is under way was lost.
                sent = there;
            }
        }
        until.notify_one();
        allocations.recv().unwrap()
    }

    /// How things stand at the end.
    fn stop(self) -> Stats {
        drop(self.turns);
        let stats = self.server.join().unwrap();
        self.runtime.shutdown_background();
        stats
    }
}

#[allow(clippy::disallowed_methods)] // no runtime has tasks on this thread
fn pause(time: Duration) {
    thread::sleep(time);
}

fn turn(turns: &Sender<Turn>) -> (Arc<Notify>, Receiver<u64>) {
    let until = Arc::new(Notify::new());
    let (allocations, counted) = channel();
    turns
        .send(Turn {
            until: until.clone(),
            allocations,
        })
        .unwrap();
    (until, counted)
}

/// Serve in turns until there are no more.
fn serve(config: Config, ready: &Sender<String>, turns: &Receiver<Turn>) -> Stats {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(Server::start(config)).unwrap();
    ready.send(server.ready().server_url.clone()).unwrap();
    while let Ok(turn) = turns.recv() {
        let info = allocation_counter::measure(|| runtime.block_on(turn.until.notified()));
        turn.allocations.send(info.count_total).unwrap();
    }
    runtime.block_on(server.stats())
}

async fn pair(url: &str) -> (Node, Node, ChannelId) {
    let tag = PairTag([7; 16]);
    let mut from = Node::registered(url, "from", PairTag([1; 16])).await;
    let mut to = Node::registered(url, "to", tag).await;
    let channel = from.introduced_to(to.peer, tag).await.channel.unwrap();
    to.introduction().await;
    to.tally.only_count.store(true, Ordering::Relaxed);
    (from, to, channel)
}
