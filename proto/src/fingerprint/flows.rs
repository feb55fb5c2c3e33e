//! Which flows a run has opened, in order: a counting NAT moves with each of them, and they must not be taken for others'.

use std::net::SocketAddr;
use std::time::Instant;

use super::facts::Mapping;
use crate::path::SocketId;

/// A socket and a destination that it sent to for the first time.
#[derive(Clone, Copy, Debug)]
struct Flow {
    socket: SocketId,
    to: SocketAddr,
    at: Instant,
}

/// All of them; bounded by the packets of a run.
#[derive(Debug, Default)]
pub(super) struct Flows(Vec<Flow>);

impl Flows {
    /// A packet left.
    pub(super) fn note(&mut self, socket: SocketId, to: SocketAddr, now: Instant) {
        if !self.0.iter().any(|flow| (flow.socket, flow.to) == (socket, to)) {
            self.0.push(Flow { socket, to, at: now });
        }
    }

    /// How many mappings a NAT of this behaviour had made for the run before this flow.
    pub(super) fn place(&self, socket: SocketId, to: SocketAddr, mapping: Option<Mapping>) -> i32 {
        let same = |a: &Flow, b: &Flow| {
            a.socket == b.socket
                && match mapping {
                    Some(Mapping::AddressAndPortDependent) => a.to == b.to,
                    Some(Mapping::AddressDependent) => a.to.ip() == b.to.ip(),
                    Some(Mapping::EndpointIndependent) | None => true,
                }
        };
        let mut distinct: Vec<&Flow> = Vec::new();
        for flow in self.0.iter().filter(|flow| flow.to.is_ipv4() == to.is_ipv4()) {
            if flow.socket == socket && flow.to == to {
                break;
            }
            if !distinct.iter().any(|known| same(known, flow)) {
                distinct.push(flow);
            }
        }
        i32::try_from(distinct.len()).unwrap_or(i32::MAX)
    }

    /// When the flow was opened.
    pub(super) fn opened(&self, socket: SocketId, to: SocketAddr) -> Option<Instant> {
        let flow = self
            .0
            .iter()
            .find(|flow| (flow.socket, flow.to) == (socket, to))?;
        Some(flow.at)
    }
}
