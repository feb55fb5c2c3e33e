//! What the counters say of what became of everything.

use super::*;

#[test]
fn what_is_forwarded_is_counted_in_bytes_frames_and_calls_by_its_worker() {
    let world = World::new(4);
    let frames: Vec<_> = (0..10).map(|n| frame(CHANNEL, n, 100)).collect();
    world.receive(0, NODE_A, 100, &frames);
    world.receive(0, NODE_B, 50, &[frame(OTHER_CHANNEL, 1, 50)]);
    let relay = world.datagrams.relay_stats();
    let counted = (
        relay.forwarded_bytes,
        relay.forwarded_frames,
        relay.forwarded_batches,
    );
    // Ten frames are three calls where four go together.
    assert_eq!(counted, (1_050, 11, 4));
    assert_eq!(relay.channels, 2);
    let worker = world.datagrams.counters.workers()[0];
    assert_eq!(worker.received_batches, 2);
    assert_eq!(
        counted,
        (
            worker.forwarded_bytes,
            worker.forwarded_frames,
            worker.forwarded_batches
        )
    );
}

#[test]
fn what_goes_nowhere_is_counted_under_its_reason() {
    let world = World::new(64);
    world.receive(
        0,
        NODE_A,
        100,
        &[frame(ChannelId(1), 1, 100), frame(ChannelId(2), 1, 100)],
    );
    world.receive(0, "203.0.113.5:5", 100, &[frame(CHANNEL, 1, 100)]);
    world.receive(0, NODE_A, 100, &[vec![9; 100], vec![9; 100], vec![9; 100]]);
    let (relay, dropped) = (world.datagrams.relay_stats(), world.datagrams.counters.read());
    assert_eq!((relay.unknown_channel, relay.wrong_source), (2, 1));
    assert_eq!((dropped.unknown, dropped.relay_malformed), (3, 0));
    assert_eq!((relay.forwarded_frames, relay.queue.dropped_batches), (0, 0));
}

#[tokio::test]
async fn what_waits_for_a_full_socket_is_counted_while_it_waits_and_when_it_left() {
    let world = World::new(64);
    world.sockets[0].room.store(0, Ordering::Relaxed);
    world.receive(
        0,
        NODE_A,
        1_000,
        &[frame(CHANNEL, 1, 1_000), frame(CHANNEL, 2, 1_000)],
    );
    let waits = world.datagrams.relay_stats();
    assert_eq!((waits.queue.lanes, waits.queue.held_bytes), (1, 2 * 1024));
    assert_eq!((waits.forwarded_bytes, waits.queue.delayed_bytes), (0, 0));
    world.sockets[0].room.store(usize::MAX, Ordering::Relaxed);
    let_out(&world, 2_000).await;
    let left = world.datagrams.relay_stats();
    assert_eq!((left.queue.lanes, left.queue.held_bytes), (0, 0));
    assert_eq!((left.forwarded_bytes, left.queue.delayed_bytes), (2_000, 2_000));
    assert_eq!(left.queue.held_bytes_max, 2 * 1024);
}

/// Ten frames of 100 bytes wait, and the socket has taken four of them and is full again.
async fn sent_in_part() -> World {
    let world = World::new(4);
    world.sockets[0].room.store(0, Ordering::Relaxed);
    let frames: Vec<_> = (0..10).map(|n| frame(CHANNEL, n, 100)).collect();
    world.receive(0, NODE_A, 100, &frames);
    world.sockets[0].room.store(1, Ordering::Relaxed);
    let_out(&world, 400).await;
    world
}

#[tokio::test]
async fn what_leaves_in_parts_is_counted_once() {
    let world = sent_in_part().await;
    let relay = world.datagrams.relay_stats();
    assert_eq!((relay.forwarded_bytes, relay.queue.delayed_bytes), (400, 400));
    world.sockets[0].room.store(usize::MAX, Ordering::Relaxed);
    let_out(&world, 600).await;
    let relay = world.datagrams.relay_stats();
    // Four frames, four and two.
    assert_eq!((relay.forwarded_frames, relay.forwarded_batches), (10, 3));
    assert_eq!((relay.forwarded_bytes, relay.queue.delayed_bytes), (1_000, 1_000));
    assert_eq!(relay.queue.held_bytes, 0);
}

#[tokio::test]
async fn of_what_left_in_part_only_the_rest_goes_stale_and_is_given_back() {
    let world = sent_in_part().await;
    let backlog = &world.datagrams.relay.backlog;
    backlog.socket_ready();
    // Longer than anything may wait.
    let next = backlog.next(world.now + Duration::from_secs(3_600));
    assert!(matches!(next, super::super::Next::Idle), "{next:?}");
    let relay = world.datagrams.relay_stats();
    // What is counted as stale is what its limit gets back.
    assert_eq!((relay.forwarded_bytes, relay.queue.stale_bytes), (400, 600));
    assert_eq!((relay.queue.dropped_batches, relay.queue.held_bytes), (1, 0));
}

#[test]
fn what_finds_its_queue_full_is_counted_as_overflow() {
    let world = World::new(64);
    world.sockets[0].room.store(0, Ordering::Relaxed);
    let batch: Vec<_> = (0..60).map(|n| frame(CHANNEL, n, 1_000)).collect();
    // At 1 Gbit/s a lane holds 4 MiB, and each of these takes 64 KiB.
    for _ in 0..70 {
        world.receive(0, NODE_A, 1_000, &batch);
    }
    let queue = world.datagrams.relay_stats().queue;
    assert_eq!((queue.held_bytes, queue.lanes), (64 * 64 * 1024, 1));
    assert_eq!((queue.dropped_batches, queue.overflow_bytes), (6, 6 * 60_000));
    assert_eq!(queue.dropped_bytes(), queue.overflow_bytes);
}
