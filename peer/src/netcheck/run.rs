//! Driving the machine: what it wants is done, what happens is told it, until it has its result.

use std::time::{Duration, Instant};

use knothole_proto::fingerprint::{Fingerprint, FingerprintConfig, Fingerprinter, Input, Learnt, Output};
use knothole_proto::path::SocketId;
use knothole_proto::seed::Seed;
use knothole_proto::stun::{BindingRequest, Change};
use knothole_proto::transmit::Transmit;

use super::NetcheckError;
use super::cache::Locals;
use super::servers::Servers;
use super::sockets::{Arrived, Sockets};

/// A whole run.
pub(super) async fn run(
    servers: &Servers,
    local: &Locals,
    observe: &mut impl FnMut(&Learnt),
) -> Result<Fingerprint, NetcheckError> {
    let config = FingerprintConfig {
        others: None,
        server_v4: servers.v4,
        server_v6: servers.v6,
        nat64: servers.nat64,
        local: local.clone(),
    };
    let mut sockets = Sockets::new();
    let mut machine = Fingerprinter::new(config, &seed()?, Instant::now());
    loop {
        match machine.poll_output(Instant::now()) {
            Output::Open { socket, towards } => {
                let opened = sockets.open(socket, towards);
                let input = match opened {
                    Ok(local) => Input::Opened { socket, local },
                    Err(error) => {
                        tracing::debug!(%error, "a socket could not be opened");
                        Input::NotOpened { socket }
                    }
                };
                machine.handle_input(input, Instant::now());
            }
            Output::Transmit(transmit) => sockets.send(&transmit).await,
            Output::Learnt(fact) => observe(&fact),
            Output::Done(fingerprint) => return Ok(*fingerprint),
            Output::Wait(until) => {
                // After its end it is not asked again.
                let until = until.unwrap_or_else(Instant::now);
                tokio::select! {
                    arrived = sockets.next() => match arrived {
                        Some(Arrived::Datagram { socket, from, bytes }) => {
                            machine.handle_input(Input::Datagram { socket, from, bytes: &bytes }, Instant::now());
                        }
                        Some(Arrived::Hop { ttl, router }) => {
                            machine.handle_input(Input::Hop { ttl, router }, Instant::now());
                        }
                        None => {}
                    },
                    () = tokio::time::sleep_until(until.into()) => machine.handle_input(Input::Timeout, Instant::now()),
                }
            }
        }
    }
}

/// Does the server see this machine at the address that it had when this was learnt? One question.
pub(super) async fn still_the_same(servers: &Servers, before: &Fingerprint) -> Result<bool, NetcheckError> {
    let (server, expected) = match (before.v4.reflexive, before.v6.reflexive) {
        (Some(seen), _) => (servers.nat64.or(servers.v4), seen),
        (None, Some(seen)) => (servers.v6, seen),
        (None, None) => return Ok(false),
    };
    let Some(server) = server else { return Ok(false) };
    let (mut sockets, number) = (Sockets::new(), SocketId(0));
    if sockets.open(number, server).is_err() {
        return Ok(false);
    }
    let mut rng = seed()?.child("recheck", 0).rng();
    let mut question = BindingRequest::new(server, Change::None, &mut rng, Instant::now());
    while !question.is_over() {
        if let Some(bytes) = question.poll_transmit(Instant::now()) {
            sockets
                .send(&Transmit {
                    socket: number,
                    to: server,
                    bytes,
                    ttl: None,
                })
                .await;
        }
        let until = question.poll_timeout().unwrap_or_else(Instant::now);
        let arrived = tokio::time::timeout_at(until.into(), sockets.next()).await;
        if let Ok(Some(Arrived::Datagram { from, bytes, .. })) = arrived
            && let Some(answer) = question.handle_datagram(from, &bytes, Instant::now())
        {
            let known = before.addresses.contains(&answer.mapped.ip());
            return Ok(known || answer.mapped.ip() == expected.ip());
        }
    }
    Ok(false)
}

/// Whole seconds between two clocks of this machine, which may have been set back.
pub(super) fn since(then: u64, now: u64) -> Option<Duration> {
    now.checked_sub(then).map(Duration::from_secs)
}

fn seed() -> Result<Seed, NetcheckError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|_| NetcheckError::Entropy)?;
    Ok(Seed::from_bytes(bytes))
}
