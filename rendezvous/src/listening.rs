//! Opening the server's sockets: the addresses it listens on, and for each a second port for behaviour discovery.
//!
//! Nodes are told one alternate port, so it is the same number at every address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use knothole_proto::stun::ServerSocket;
use knothole_proto::wire::SERVER_PORT;
use tracing::{info, warn};

use crate::config::{Config, StartError};
use crate::datagrams::Purpose;
use crate::socket;

/// Free ports tried when the port after the first one is taken: the system picks one at one address, and it may be
/// taken at another.
const TRIES: usize = 16;

/// An address with its open sockets.
pub(crate) struct Bound {
    /// One for each worker where there is a relay, else one.
    pub(crate) sockets: Vec<UdpSocket>,
    pub(crate) local: SocketAddr,
    pub(crate) purpose: Purpose,
}

/// All open sockets.
pub(crate) struct Listening {
    pub(crate) sockets: Vec<Bound>,
    /// For each listening address its sockets by their role in discovery.
    pub(crate) sites: Vec<Vec<(ServerSocket, usize)>>,
    /// 0 if there is none.
    pub(crate) alternate_port: u16,
    /// Second address and port, if one was given.
    pub(crate) alternate: Option<SocketAddr>,
}

impl Listening {
    /// Open what this configuration asks for.
    ///
    /// # Errors
    /// [`StartError`]'s socket variants. A second port that nobody asked for by number is done without if there is none.
    pub(crate) fn open(config: &Config) -> Result<Self, StartError> {
        let mains = open_mains(&config.listen)?;
        let second = config
            .alternate
            .map(|alternate| second_address(&mains, alternate))
            .transpose()?;
        let mut listening = Self {
            sites: (0..mains.len())
                .map(|number| vec![(ServerSocket::Main, number)])
                .collect(),
            sockets: mains,
            alternate_port: 0,
            alternate: second.flatten(),
        };
        let port = match config
            .alternate
            .map(|alternate| alternate.port())
            .filter(|port| *port != 0)
        {
            Some(port) => Some(listening.open_discovery(port)?),
            None => listening.open_any_discovery(),
        };
        listening.alternate_port = port.unwrap_or(0);
        if let Some(alternate) = &mut listening.alternate {
            alternate.set_port(listening.alternate_port);
        }
        for bound in &mut listening.sockets {
            if bound.purpose == Purpose::Main {
                bound.multiply(config.worker_count())?;
            }
            let Some(granted) = bound.sockets.first().map(socket::buffers) else {
                continue;
            };
            info!(addr = %bound.local, purpose = ?bound.purpose, sockets = bound.sockets.len(), receive_buffer = granted.receive, send_buffer = granted.send, "listening");
            if granted.receive < socket::BUFFER && bound.purpose == Purpose::Main {
                warn!(
                    "the receive buffer is smaller than {} bytes; for a busy relay: sysctl -w net.core.rmem_max={}",
                    socket::BUFFER,
                    2 * socket::BUFFER
                );
            }
        }
        Ok(listening)
    }

    /// The port after the first one, or any that is free.
    fn open_any_discovery(&mut self) -> Option<u16> {
        let first = self.sockets.first().map(|bound| bound.local);
        let next = first.and_then(|addr| addr.port().checked_add(1));
        if let Some(port) = next.and_then(|port| self.open_discovery(port).ok()) {
            return Some(port);
        }
        let free = |_| {
            let any = socket::bind(SocketAddr::new(first?.ip(), 0)).ok()?;
            any.local_addr().ok().map(|addr| addr.port())
        };
        let port = (0..TRIES)
            .filter_map(free)
            .find_map(|port| self.open_discovery(port).ok());
        if port.is_none() {
            warn!("no second port for NAT behaviour discovery; nodes do without");
        }
        port
    }

    /// Open the sockets for discovery with this second port, all or none.
    fn open_discovery(&mut self, port: u16) -> Result<u16, StartError> {
        let mut sockets = Vec::new();
        let mut sites = self.sites.clone();
        for site in &mut sites {
            let Some(main) = site.first().and_then(|(_, number)| self.sockets.get(*number)) else {
                continue;
            };
            let second = self.alternate.map(|alternate| alternate.ip());
            let mut wanted = vec![(
                ServerSocket::AlternatePort,
                SocketAddr::new(main.local.ip(), port),
            )];
            if let Some(ip) = second.filter(|ip| ip.is_ipv4() == main.local.is_ipv4()) {
                wanted.push((
                    ServerSocket::AlternateAddress,
                    SocketAddr::new(ip, main.local.port()),
                ));
                wanted.push((ServerSocket::AlternateBoth, SocketAddr::new(ip, port)));
            }
            for (role, addr) in wanted {
                site.push((role, self.sockets.len() + sockets.len()));
                sockets.push(bind(addr, Purpose::Discovery)?);
            }
        }
        self.sockets.extend(sockets);
        self.sites = sites;
        Ok(port)
    }
}

impl Bound {
    /// Open further sockets at this address, if there are to be several.
    fn multiply(&mut self, count: usize) -> Result<(), StartError> {
        if let Some(first) = self.sockets.pop() {
            self.sockets =
                socket::multiply(first, count).map_err(|source| StartError::socket(self.local, source))?;
        }
        Ok(())
    }
}

fn open_mains(listen: &[SocketAddr]) -> Result<Vec<Bound>, StartError> {
    if !listen.is_empty() {
        return listen.iter().map(|addr| bind(*addr, Purpose::Main)).collect();
    }
    let everywhere = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    ];
    let mut open = Vec::new();
    let mut lacking = None;
    for ip in everywhere {
        match bind(SocketAddr::new(ip, SERVER_PORT), Purpose::Main) {
            Ok(bound) => open.push(bound),
            Err(taken @ StartError::PortInUse { .. }) => return Err(taken),
            Err(why) => {
                info!(%why, "doing without this family");
                lacking = Some(why);
            }
        }
    }
    match lacking {
        Some(why) if open.is_empty() => Err(why),
        _ => Ok(open),
    }
}

/// The second address for discovery, if this names one and not just a port.
fn second_address(mains: &[Bound], alternate: SocketAddr) -> Result<Option<SocketAddr>, StartError> {
    let family = |bound: &&Bound| bound.local.is_ipv4() == alternate.is_ipv4();
    if alternate.ip().is_unspecified() || mains.iter().any(|main| main.local.ip() == alternate.ip()) {
        return Ok(None);
    }
    let specific = mains
        .iter()
        .filter(family)
        .all(|main| !main.local.ip().is_unspecified());
    let several = mains.iter().filter(family).count() != 1;
    if several || !specific {
        return Err(StartError::AlternateNeedsAddress { alternate });
    }
    Ok(Some(alternate))
}

fn bind(addr: SocketAddr, purpose: Purpose) -> Result<Bound, StartError> {
    let opened = || -> io::Result<Bound> {
        let socket = socket::bind(addr)?;
        let local = socket.local_addr()?;
        Ok(Bound {
            sockets: vec![socket],
            local,
            purpose,
        })
    };
    opened().map_err(|source| StartError::socket(addr, source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(listen: &[&str], alternate: Option<&str>) -> Result<Listening, StartError> {
        Listening::open(&Config {
            listen: listen.iter().map(|addr| addr.parse().unwrap()).collect(),
            alternate: alternate.map(|addr| addr.parse().unwrap()),
            ..Config::default()
        })
    }

    #[tokio::test]
    async fn a_second_port_is_the_next_one_or_any_that_is_free() {
        let first = open(&["127.0.0.1:0"], None).unwrap();
        assert_ne!(first.alternate_port, 0);
        assert_ne!(first.alternate_port, first.sockets[0].local.port());
        assert_eq!(
            first.sites,
            [vec![(ServerSocket::Main, 0), (ServerSocket::AlternatePort, 1)]]
        );

        // Below the one just opened: its next port is taken by a bystander.
        let bystander = UdpSocket::bind("127.0.0.1:0").unwrap();
        let below = bystander.local_addr().unwrap().port() - 1;
        if let Ok(second) = open(&[&format!("127.0.0.1:{below}")], None) {
            assert_ne!(second.alternate_port, 0);
            assert_ne!(second.alternate_port, below + 1);
        }
    }

    #[tokio::test]
    async fn a_port_asked_for_by_number_is_that_port_or_an_error() {
        let bystander = UdpSocket::bind("127.0.0.1:0").unwrap();
        let taken = bystander.local_addr().unwrap();
        let refused = open(&["127.0.0.1:0"], Some(&taken.to_string()));
        assert!(matches!(refused, Err(StartError::PortInUse { addr }) if addr == taken));
        let refused = open(&[&taken.to_string()], None);
        assert!(matches!(refused, Err(StartError::PortInUse { addr }) if addr == taken));
    }

    #[tokio::test]
    async fn a_second_address_takes_both_ports_and_needs_a_first_address() {
        let both = open(&["127.0.0.1:0"], Some("127.0.0.2:0")).unwrap();
        assert_eq!(both.sites[0].len(), 4);
        assert_eq!(
            both.alternate,
            Some(SocketAddr::from(([127, 0, 0, 2], both.alternate_port)))
        );
        let refused = open(&["0.0.0.0:0"], Some("127.0.0.2:0"));
        assert!(matches!(refused, Err(StartError::AlternateNeedsAddress { .. })));
        let refused = open(&["203.0.113.1:0"], None);
        assert!(matches!(refused, Err(StartError::NotOurAddress { .. })));
    }
}
