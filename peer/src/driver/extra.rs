//! The extra sockets that the connector wants: opened and closed at once, and made full members when a path may use them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use knothole_proto::connector::{Input, LinkId};
use knothole_proto::path::SocketId;

use super::run::Driver;
use crate::net::source;

impl Driver {
    /// It can be sent from when this returns; the connector hears of it after what it has already asked for.
    pub(super) fn open_socket(&mut self, socket: SocketId, v6: bool) {
        let input = match self.ports.socket.open(socket, v6) {
            Ok(port) => Input::Opened {
                socket,
                local: SocketAddr::new(self.source_towards_server(v6), port),
            },
            Err(error) => {
                tracing::debug!(%error, v6, "an extra socket could not be opened");
                Input::NotOpened { socket }
            }
        };
        self.opened.push_back(input);
    }

    pub(super) fn close_socket(&mut self, socket: SocketId) {
        // Its number may be given anew before the connector hears of it.
        self.opened.retain(|input| {
            !matches!(input, Input::Opened { socket: of, .. } | Input::NotOpened { socket: of } if *of == socket)
        });
        self.ports.sockets.close(socket);
    }

    /// The peer is there: QUIC may come from it before a path is chosen.
    pub(super) fn on_source(&mut self, link: LinkId, socket: SocketId, remote: SocketAddr) {
        if self.ports.paths.add_source(link, socket, remote) {
            self.ports.socket.promote(socket);
        }
    }

    /// Unspecified where the server has no address of that family, or there is no way to it.
    fn source_towards_server(&mut self, v6: bool) -> IpAddr {
        let known = self.sources.entry(v6).or_insert_with(|| {
            let server = self.ports.paths.load().server_of(v6)?;
            source(server)
        });
        known.unwrap_or(if v6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        })
    }
}
