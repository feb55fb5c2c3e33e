//! Which connection attempts are worth a handshake. It counts; it keeps nothing about an address that is not connected.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use knothole_proto::addr::canonical;
use knothole_proto::quota::{BucketTable, Rate};
use knothole_proto::seed::Seed;

/// Handshakes at a time. Each may hold some 60 KB of buffers; more attempts wait for their own retransmission.
const HANDSHAKES_MAX: usize = 1024;

/// Beyond this many handshakes at a time an address must first prove that it receives (RFC 9000 section 8.1.2), which
/// costs an honest node one round trip and a forged address everything.
const HANDSHAKES_TRUSTED: usize = 512;

/// Attempts from one network that are taken without that proof: a crowd behind one NAT at once, then 50 a second.
const TRUSTED_RATE: Rate = Rate::new(Duration::from_millis(20), 200);

/// Buckets for that rate, 16 bytes each.
const BUCKETS: usize = 65_536;

/// Connections at a time. One that is idle takes about 40 KB, one that misuses all its buffers half a megabyte.
const CONNECTIONS_MAX: usize = 32_768;

/// Connections at a time from one network (an IPv4 address, an IPv6 /56). Many people share one address behind a
/// carrier's NAT; with fewer, one machine could not fill the server alone.
const CONNECTIONS_PER_NETWORK: u32 = 2048;

/// What to do with an attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Go on with it.
    Accept(Permit),
    /// Ask it to prove its address.
    Prove,
    /// Say nothing.
    Ignore,
}

/// The counts.
#[derive(Debug)]
pub(crate) struct Gate {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rates: BucketTable,
    handshakes: usize,
    connections: usize,
    networks: HashMap<IpAddr, u32>,
    ignored: u64,
    asked_for_proof: u64,
}

impl Gate {
    pub(crate) fn new(seed: &Seed, now: Instant) -> Self {
        Self {
            state: Mutex::new(State {
                rates: BucketTable::new(BUCKETS, &seed.child("gate", 0), now),
                handshakes: 0,
                connections: 0,
                networks: HashMap::new(),
                ignored: 0,
                asked_for_proof: 0,
            }),
        }
    }

    /// Judge an attempt from this address; `proven` if it has shown that it receives there.
    pub(crate) fn judge(self: &Arc<Self>, from: SocketAddr, proven: bool, now: Instant) -> Verdict {
        let network = network(from);
        let mut state = self.lock();
        let there = state.networks.get(&network).copied().unwrap_or(0);
        if state.handshakes >= HANDSHAKES_MAX
            || state.connections >= CONNECTIONS_MAX
            || there >= CONNECTIONS_PER_NETWORK
        {
            state.ignored += 1;
            return Verdict::Ignore;
        }
        let crowded = state.handshakes >= HANDSHAKES_TRUSTED;
        if !proven && (crowded || !state.rates.admit_prefix(from, TRUSTED_RATE, now)) {
            state.asked_for_proof += 1;
            return Verdict::Prove;
        }
        state.handshakes += 1;
        state.connections += 1;
        state.networks.insert(network, there + 1);
        Verdict::Accept(Permit {
            gate: self.clone(),
            network,
            shaking: true,
        })
    }

    /// Attempts left without an answer, and attempts asked to prove their address, since the start.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let state = self.lock();
        (state.ignored, state.asked_for_proof)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right of one connection to exist; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    gate: Arc<Gate>,
    network: IpAddr,
    shaking: bool,
}

impl Permit {
    /// The handshake is over.
    pub(crate) fn established(&mut self) {
        if std::mem::take(&mut self.shaking) {
            let mut state = self.gate.lock();
            state.handshakes = state.handshakes.saturating_sub(1);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.established();
        let mut state = self.gate.lock();
        state.connections = state.connections.saturating_sub(1);
        if let Some(there) = state.networks.get_mut(&self.network) {
            *there = there.saturating_sub(1);
            if *there == 0 {
                state.networks.remove(&self.network);
            }
        }
    }
}

fn network(from: SocketAddr) -> IpAddr {
    match canonical(from).ip() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => {
            let mut octets = ip.octets();
            octets[7..].fill(0);
            IpAddr::from(octets)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(now: Instant) -> Arc<Gate> {
        Arc::new(Gate::new(&Seed::from_number(1), now))
    }

    fn accepted(verdict: Verdict) -> Permit {
        match verdict {
            Verdict::Accept(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_flood_from_one_network_must_prove_its_address_and_others_need_not() {
        let now = Instant::now();
        let gate = gate(now);
        let attacker: SocketAddr = "1.2.3.4:5".parse().unwrap();
        let mut permits = Vec::new();
        for _ in 0..TRUSTED_RATE.burst {
            permits.push(accepted(gate.judge(attacker, false, now)));
        }
        assert!(matches!(gate.judge(attacker, false, now), Verdict::Prove));
        assert!(matches!(gate.judge(attacker, true, now), Verdict::Accept(_)));
        let honest = "5.6.7.8:9".parse().unwrap();
        assert!(matches!(gate.judge(honest, false, now), Verdict::Accept(_)));
    }

    #[test]
    fn handshakes_in_progress_are_bounded_and_given_back() {
        let now = Instant::now();
        let gate = gate(now);
        let mut permits: Vec<_> = (0..HANDSHAKES_MAX)
            .map(|n| {
                let [high, low] = u16::try_from(n).unwrap().to_be_bytes();
                accepted(gate.judge(SocketAddr::from(([9, 9, high, low], 1)), true, now))
            })
            .collect();
        let next = "5.6.7.8:9".parse().unwrap();
        assert!(matches!(gate.judge(next, true, now), Verdict::Ignore));
        permits[0].established();
        assert!(matches!(gate.judge(next, true, now), Verdict::Accept(_)));
        permits.clear();
        let state = gate.lock();
        assert_eq!(
            (state.handshakes, state.connections, state.networks.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn one_network_cannot_hold_all_connections() {
        let now = Instant::now();
        let gate = gate(now);
        let permits: Vec<_> = (0..CONNECTIONS_PER_NETWORK)
            .map(|n| {
                let inside = format!("[2001:db8:0:{:x}::1]:7", n % 256).parse().unwrap();
                let mut permit = accepted(gate.judge(inside, true, now));
                permit.established();
                permit
            })
            .collect();
        let inside = "[2001:db8:0:77::9]:7".parse().unwrap();
        assert!(matches!(gate.judge(inside, true, now), Verdict::Ignore));
        let outside = "[2001:db8:1::9]:7".parse().unwrap();
        assert!(matches!(gate.judge(outside, true, now), Verdict::Accept(_)));
        drop(permits);
        assert!(matches!(gate.judge(inside, true, now), Verdict::Accept(_)));
    }
}
