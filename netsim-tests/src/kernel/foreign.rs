//! [`Foreign`]: the other people behind a NAT that counts its ports. Each of their flows moves the counter; none goes
//! anywhere.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

use crate::netns::{LabError, Namespace};

use super::rules::NOWHERE;

/// Most flows a second. More would take a processor, and go round all ports within seconds.
const RATE_MAX: u32 = 2000;

/// Any port; nobody is there.
const PORT: u16 = 9;

/// A thread that opens flows at random moments (Poisson), until it is dropped.
#[derive(Debug)]
pub(super) struct Foreign {
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Foreign {
    /// Begins with `rate` flows a second in the namespace of a router. Its rules end the packets after the translation, so
    /// each is a new flow again and nothing is remembered.
    pub(super) fn start(namespace: &Namespace, rate: u32, seed: u64) -> Result<Self, LabError> {
        let socket = namespace
            .run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?
            .map_err(LabError::Thread)?;
        let (stop, stopped) = sync_channel::<()>(0);
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let work = move || {
            while stopped.recv_timeout(gap(&mut rng, rate)) == Err(RecvTimeoutError::Timeout) {
                // The rules refuse every one of them, which the socket learns as an error.
                let _refused = socket.send_to(&[], (Ipv4Addr::from(NOWHERE), PORT));
            }
        };
        let thread = std::thread::Builder::new()
            .name("lab foreign".to_owned())
            .spawn(work)
            .map_err(LabError::Thread)?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Time to the next flow: exponentially distributed, with a mean of one over the rate.
fn gap(rng: &mut ChaCha8Rng, rate: u32) -> Duration {
    // 1..=2^32 over 2^32: never zero, whose logarithm there is none.
    let unit = (f64::from(rng.next_u32()) + 1.0) / (f64::from(u32::MAX) + 1.0);
    Duration::from_secs_f64(-unit.ln() / f64::from(rate.clamp(1, RATE_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_come_at_the_rate_that_was_asked_and_not_in_a_beat() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let gaps: Vec<f64> = (0..10_000).map(|_| gap(&mut rng, 50).as_secs_f64()).collect();
        let mean = gaps.iter().sum::<f64>() / 10_000.0;
        assert!((0.0194..0.0206).contains(&mean), "{mean}");
        let long = gaps.iter().filter(|gap| **gap > 0.04).count();
        // e^-2 of them are longer than two means.
        assert!((1200..1500).contains(&long), "{long}");
    }
}
