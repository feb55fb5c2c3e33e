//! The numbers of the sockets beside the main ones, whose they are, and what comes of them. The driver opens them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use super::machine::Connector;
use super::{LinkId, Output};
use crate::path::SocketId;

/// Sockets that are open, or were asked for.
#[derive(Debug)]
pub(super) struct FreshSockets {
    owners: BTreeMap<SocketId, Owner>,
    next: u16,
}

/// Whose a socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A link punches with it, or has its path there.
    Link(LinkId),
    /// The survey of the network asks from it; under this number there.
    Survey(SocketId),
}

/// The first number after those of the main sockets.
const FIRST: u16 = SocketId::V6.0 + 1;

impl Default for FreshSockets {
    fn default() -> Self {
        Self {
            owners: BTreeMap::new(),
            next: FIRST,
        }
    }
}

impl FreshSockets {
    pub(super) fn owner(&self, socket: SocketId) -> Option<Owner> {
        self.owners.get(&socket).copied()
    }

    /// A number that no open socket has; `None` if there are `max` of them.
    fn take(&mut self, owner: Owner, max: u16) -> Option<SocketId> {
        if self.owners.len() >= usize::from(max) {
            return None;
        }
        // At most `max` numbers are taken, so one is found after as many steps.
        for _ in 0..=max {
            let socket = SocketId(self.next);
            self.next = self.next.checked_add(1).unwrap_or(FIRST);
            if let std::collections::btree_map::Entry::Vacant(free) = self.owners.entry(socket) {
                free.insert(owner);
                return Some(socket);
            }
        }
        None
    }

    /// The socket to which the survey has given this number.
    pub(super) fn of_survey(&self, number: SocketId) -> Option<SocketId> {
        let mut found = self
            .owners
            .iter()
            .filter(|(_, owner)| **owner == Owner::Survey(number));
        found.next().map(|(socket, _)| *socket)
    }

    fn of(&self, owner: impl Fn(Owner) -> bool) -> Vec<SocketId> {
        let whose = self.owners.iter().filter(|(_, known)| owner(**known));
        whose.map(|(socket, _)| *socket).collect()
    }
}

impl Connector {
    /// Have a socket opened; `None` if there may be no more.
    pub(super) fn open_socket(&mut self, owner: Owner, v6: bool) -> Option<SocketId> {
        let socket = self.sockets.take(owner, self.config.sockets_max)?;
        self.push(Output::Open { socket, v6 });
        Some(socket)
    }

    /// A socket is of no more use.
    pub(super) fn close_socket(&mut self, socket: SocketId) {
        if self.sockets.owners.remove(&socket).is_some() {
            self.push(Output::Close { socket });
        }
    }

    /// So are all of a link.
    pub(super) fn close_sockets_of(&mut self, link: LinkId) {
        for socket in self.sockets.of(|owner| owner == Owner::Link(link)) {
            self.close_socket(socket);
        }
    }

    /// So are those of the survey.
    pub(super) fn close_sockets_of_survey(&mut self) {
        for socket in self.sockets.of(|owner| matches!(owner, Owner::Survey(_))) {
            self.close_socket(socket);
        }
    }

    pub(super) fn on_opened(&mut self, socket: SocketId, local: SocketAddr, now: Instant) {
        match self.sockets.owner(socket) {
            Some(Owner::Link(id)) => {
                self.tell_agent(id, now, |agent| agent.handle_opened(socket, local, now));
            }
            Some(Owner::Survey(number)) => self.survey_opened(number, local, now),
            None => {}
        }
    }

    pub(super) fn on_not_opened(&mut self, socket: SocketId, now: Instant) {
        match self.sockets.owners.remove(&socket) {
            Some(Owner::Link(id)) => {
                self.tell_agent(id, now, |agent| agent.handle_not_opened(socket, now));
            }
            Some(Owner::Survey(number)) => self.survey_not_opened(number, now),
            None => {}
        }
    }

    /// A STUN datagram came in on a socket beside the main ones. Was it one?
    pub(super) fn on_fresh_stun(
        &mut self,
        socket: SocketId,
        from: SocketAddr,
        bytes: &[u8],
        now: Instant,
    ) -> bool {
        match self.sockets.owner(socket) {
            Some(Owner::Link(id)) => {
                self.tell_agent(id, now, |agent| agent.handle_stun(socket, from, bytes, now));
                true
            }
            Some(Owner::Survey(number)) => {
                self.survey_datagram(number, from, bytes, now);
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner::Link(LinkId(1));

    #[test]
    fn numbers_go_round_and_pass_over_those_in_use() {
        let mut sockets = FreshSockets::default();
        let kept = sockets.take(OWNER, 3);
        assert_eq!(kept, Some(SocketId(FIRST)));
        for _ in 0..200_000 {
            let socket = sockets.take(OWNER, 3).unwrap();
            assert!(socket.0 > FIRST, "never that of a main socket, nor one in use");
            sockets.owners.remove(&socket);
        }
    }

    #[test]
    fn there_are_never_more_than_allowed() {
        let mut sockets = FreshSockets::default();
        let taken = (0..10).filter(|_| sockets.take(OWNER, 4).is_some()).count();
        assert_eq!(taken, 4);
    }
}
