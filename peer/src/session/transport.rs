//! The numbers of QUIC: windows, timers, packet sizes, limits.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, QlogStream, TransportConfig, VarInt};

use super::congestion::EpochFactory;

/// Largest QUIC packet, in bytes of UDP payload: quinn's own limit of 1452 (Ethernet, IPv6, UDP) less the ten bytes
/// of a relay frame, so that the same packet fits both ways of going and no switch of paths runs into a black hole.
const MTU_MAX: u16 = 1442;

/// What one stream may have in flight towards this node, in bytes: 1 Gbit/s over 100 ms are 12.5 MB.
const STREAM_WINDOW: u32 = 16 * 1024 * 1024;

/// What all streams of a connection together may have in flight towards this node, in bytes: 1 Gbit/s over 200 ms. It bounds the
/// memory of a reader that is slower than the network, which is one and a half times as much, packets being what they are. While
/// bulk data comes it is less where the path needs less ([`super::window`]).
pub(super) const CONNECTION_WINDOW: u32 = 24 * 1024 * 1024;

/// Unacknowledged data that is kept for sending again, in bytes.
const SEND_WINDOW: u64 = 32 * 1024 * 1024;

/// Streams in two directions that the peer may have open at a time: a browser behind a SOCKS listener opens hundreds.
const BIDI_STREAMS_MAX: u32 = 1024;

/// Streams in one direction that the peer may have open at a time.
const UNI_STREAMS_MAX: u32 = 256;

/// A connection without any packet for this long is dead. Control connections are noticed dead within it.
const IDLE_TIMEOUT_MS: u32 = 30_000;

/// A packet goes out at least this often; three of them fit into [`IDLE_TIMEOUT_MS`].
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// First guess of the round trip. RFC 9002 says 333 ms, which makes a lost first packet cost a second; paths on which
/// 150 ms is too little send one packet twice.
const INITIAL_RTT: Duration = Duration::from_millis(150);

/// Packets that may arrive before one is acknowledged. At 1 Gbit/s QUIC's own two mean 24 Mbit/s of acknowledgements,
/// more than the uplink of many a home; five mean 10. More than the first window holds (eight packets) would make every
/// connection begin with a wait for the delayed acknowledgement. Processor time is the same (measured on loopback).
const ACK_EVERY: u32 = 5;

/// Transport parameters of a connection to a peer; `epoch` counts the moves of its link's path.
pub(crate) fn for_peer(epoch: Arc<AtomicU64>, trace: Option<QlogStream>) -> Arc<TransportConfig> {
    let mut config = common();
    let mut ack_frequency = AckFrequencyConfig::default();
    ack_frequency.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY - 1));
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(BIDI_STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(UNI_STREAMS_MAX))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .ack_frequency_config(Some(ack_frequency))
        .congestion_controller_factory(Arc::new(EpochFactory::new(epoch)))
        .qlog_stream(trace);
    Arc::new(config)
}

/// Transport parameters of the control connection: one stream of small messages, opened by this node.
pub(crate) fn for_control(trace: Option<QlogStream>) -> Arc<TransportConfig> {
    let mut config = common();
    config
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(256 * 1024))
        .receive_window(VarInt::from_u32(256 * 1024))
        .send_window(256 * 1024)
        .qlog_stream(trace);
    Arc::new(config)
}

fn common() -> TransportConfig {
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(MTU_MAX);
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .mtu_discovery_config(Some(discovery))
        .datagram_receive_buffer_size(None);
    config
}
