//! Real sessions through the limits of the relay: they are slowed down to them, and nothing breaks.

use std::time::Instant;

use knothole::app::speed::{self, Direction};

use super::*;

/// The limit, in bit/s: low enough that processors and buffers have no say.
const LIMIT: u64 = 24_000_000;

/// Bytes of the stream: three and a half seconds at the limit.
const BYTES: usize = 10 << 20;

/// Bytes after which the rate is taken: the burst that a rested limit lets pass, and what a sender needs to settle.
const SETTLED: usize = 3 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_through_the_limit_of_its_key_runs_at_the_limit() {
    stream_at_the_limit(|config| config.relay_key_bits = Some(LIMIT)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_through_the_total_limit_runs_at_the_limit() {
    stream_at_the_limit(|config| config.relay_total_bits = LIMIT).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_measurement_of_a_slow_path_ends_in_time_whatever_is_still_buffered() {
    // What a connection buffers would take this path two minutes.
    let world = World::start_with(|config| config.relay_total_bits = 2_000_000).await;
    let (alice, bob) = world.pair().await;
    let (from, to) = relayed(&world, &alice, &bob).await;
    let answering = tokio::spawn(async move {
        while let Ok((_, send, recv)) = to.accept().await {
            speed::answer(send, recv).await.unwrap();
        }
    });
    for direction in [Direction::Send, Direction::Receive] {
        let (send, recv) = from.open(speed::SERVICE).await.unwrap();
        let begun = Instant::now();
        let time = Duration::from_secs(2);
        let report = speed::measure(send, recv, direction, time, |_| {}).await.unwrap();
        let (took, burst) = (begun.elapsed(), 256 * 1024);
        assert!(took < Duration::from_secs(6), "{direction:?} took {took:?}");
        // In two seconds at the limit.
        let most = 500_000 * 2 + burst;
        assert!(
            (100_000..most).contains(&report.bytes),
            "{direction:?}: {report:?}"
        );
    }
    from.close();
    answering.await.unwrap();
}

async fn stream_at_the_limit(limit: impl FnOnce(&mut Config)) {
    let world = World::start_with(limit).await;
    let (alice, bob) = world.pair().await;
    let (from, to) = relayed(&world, &alice, &bob).await;
    let settled = receive(&from, &to, BYTES).await;
    let rate = bits(BYTES - SETTLED, settled);
    let queue = world.server.stats().await.relay.queue;
    // A machine with other work holds a sender up, or the clock at the mark; nothing but the limit lets bytes wait.
    assert!((0.4..=1.25).contains(&rate), "{rate:.2} of the limit; {queue:?}");
    assert!(
        queue.delayed_bytes > BYTES as u64 / 4,
        "it was not the limit: {queue:?}"
    );
    for connection in [&from, &to] {
        assert_eq!(connection.path().borrow().path, Path::Relay(Why::Policy));
        assert!(connection.close_reason().is_none());
    }
}

/// A connection of the two over the relay, as each of them sees it.
async fn relayed(world: &World, from: &Node, to: &Node) -> (Connection, Connection) {
    let (from, to) = tokio::join!(connect(from, world.bob, PathPolicy::RelayOnly), to.accept());
    (from, to.unwrap())
}

/// Send so much, and receive all of it; how long it took from [`SETTLED`] to the end.
async fn receive(from: &Connection, to: &Connection, bytes: usize) -> Duration {
    let sent = async {
        let mut send = from.open_uni().await.unwrap();
        send.write_all(&pattern(bytes)).await.unwrap();
        send.finish().unwrap();
        send.stopped().await.unwrap();
    };
    let received = async {
        let mut stream = to.accept_uni().await.unwrap();
        let (mut all, mut settled) = (Vec::with_capacity(bytes), None);
        while let Some(chunk) = stream.read_chunk(64 * 1024, true).await.unwrap() {
            all.extend_from_slice(&chunk.bytes);
            if all.len() >= SETTLED {
                settled.get_or_insert_with(Instant::now);
            }
        }
        assert!(all == pattern(bytes), "what arrived is not what was sent");
        settled.unwrap().elapsed()
    };
    let ((), took) = timeout(SOON, async { tokio::join!(sent, received) })
        .await
        .unwrap();
    took
}

/// A rate in parts of the limit.
#[allow(clippy::cast_precision_loss)] // far below 2^53
fn bits(bytes: usize, took: Duration) -> f64 {
    bytes as f64 * 8.0 / took.as_secs_f64() / LIMIT as f64
}
