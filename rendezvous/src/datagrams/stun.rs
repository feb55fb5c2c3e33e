//! STUN between sockets: which of the server's addresses a request came to, and from which the answer leaves.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use knothole_proto::stun::{ServerSocket, StunServer, StunStats};
use quinn::udp::RecvMeta;

use super::Wire;

/// An answer and the socket that sends it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) wire: usize,
    pub(super) to: SocketAddr,
    pub(super) source: Option<IpAddr>,
    pub(super) bytes: Vec<u8>,
}

/// One listening address with the sockets that belong to it: a STUN server of its own.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) server: Mutex<StunServer>,
    /// Its sockets, and the number of each.
    pub(crate) sockets: Vec<(ServerSocket, usize)>,
}

/// All sites.
#[derive(Debug, Default)]
pub(crate) struct Stun {
    pub(crate) sites: Vec<Site>,
}

impl Stun {
    pub(super) fn answer(
        &self,
        wires: &[Wire],
        number: usize,
        request: &[u8],
        meta: &RecvMeta,
        now: Instant,
    ) -> Option<Answer> {
        let (site, on) = self.sites.iter().find_map(|site| {
            let (socket, _) = site.sockets.iter().find(|(_, wire)| *wire == number)?;
            Some((site, *socket))
        })?;
        let reply = site
            .server
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .handle_at(on, meta.dst_ip, meta.addr, request, now)?;
        let (_, wire) = site.sockets.iter().find(|(socket, _)| *socket == reply.via)?;
        // A socket on all addresses answers from the one that was asked; one on a single address has no choice.
        let everywhere = wires
            .get(*wire)
            .is_some_and(|wire| wire.local.ip().is_unspecified());
        Some(Answer {
            wire: *wire,
            to: reply.to,
            source: meta.dst_ip.filter(|_| everywhere),
            bytes: reply.bytes,
        })
    }

    /// Counters of all sites together.
    pub(crate) fn stats(&self) -> StunStats {
        self.sites.iter().fold(StunStats::default(), |sum, site| {
            let stats = site.server.lock().unwrap_or_else(PoisonError::into_inner).stats();
            StunStats {
                answered: sum.answered + stats.answered,
                bytes_in: sum.bytes_in + stats.bytes_in,
                bytes_out: sum.bytes_out + stats.bytes_out,
                ignored: sum.ignored + stats.ignored,
                limited: sum.limited + stats.limited,
            }
        })
    }
}
