//! The QUIC endpoint: dials the server and peers, accepts peers; every connection with the key it must show.
//!
//! Who may connect is not decided here: a datagram reaches QUIC only if the path table knows its source, and a caller
//! says for each connection which key it demands.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use knothole_proto::id::{ChannelId, PeerId};
use knothole_proto::wire::{CONTROL_ALPN, PEER_ALPN};
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{
    ClientConfig, ConnectionError, Endpoint, EndpointConfig, Incoming, ServerConfig, TokioRuntime, VarInt,
};

use super::tls::{self, Mismatch, Pin, TLS_NAME, TlsError};
use super::{qlog::Traces, transport};
use crate::identity::Identity;
use crate::net::{PAYLOAD_MAX, PathSocket};

/// Handshakes of peers that wait for the driver; it takes them within microseconds.
const INCOMING_MAX: usize = 64;

/// How long the good-byes of the last connections may take to leave: a moment of a busy machine. QUIC would stay for three
/// probe timeouts, 200 ms and more, to repeat them to stragglers (RFC 9000, section 10.2); whoever misses one hears it from
/// the server, and nobody wants to wait for that at the end of a command.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(20);

/// The endpoint with the keys it shows.
#[derive(Clone, Debug)]
pub(crate) struct Quic {
    endpoint: Endpoint,
    identity: Identity,
    socket: Arc<PathSocket>,
    traces: Traces,
}

impl Quic {
    pub(crate) fn new(
        identity: Identity,
        socket: Arc<PathSocket>,
        traces: Traces,
    ) -> Result<Self, EndpointError> {
        let mut config = EndpointConfig::default();
        // The first byte tells QUIC from the rest only while its fixed bit is set (RFC 9287 allows to grease it).
        config.grease_quic_bit(false);
        // Fails only below 1,200 bytes.
        let _ = config.max_udp_payload_size(PAYLOAD_MAX);
        // Nothing is ever accepted with this one: each link has its own, with its peer's key.
        let (nobody, _) = Pin::new(identity.peer_id());
        let server = server_config(tls::server(&identity, nobody, PEER_ALPN)?);
        let endpoint = Endpoint::new_with_abstract_socket(
            config,
            Some(server),
            Arc::clone(&socket) as Arc<dyn quinn::AsyncUdpSocket>,
            Arc::new(TokioRuntime),
        )?;
        Ok(Self {
            endpoint,
            identity,
            socket,
            traces,
        })
    }

    /// Open the control connection to this address of the server.
    pub(crate) async fn dial_server(
        &self,
        addr: SocketAddr,
        key: PeerId,
    ) -> Result<quinn::Connection, DialError> {
        let (pin, mismatch) = Pin::new(key);
        let mut config = ClientConfig::new(tls::client(&self.identity, pin, CONTROL_ALPN)?);
        config.transport_config(transport::for_control(self.traces.begin("control", key)));
        self.dial(config, addr, &mismatch).await
    }

    /// Open a connection to the peer behind this virtual address.
    pub(crate) async fn dial_peer(
        &self,
        addr: SocketAddr,
        key: PeerId,
        epoch: &Arc<AtomicU64>,
    ) -> Result<quinn::Connection, DialError> {
        let (pin, mismatch) = Pin::new(key);
        let mut config = ClientConfig::new(tls::client(&self.identity, pin, PEER_ALPN)?);
        let trace = self.traces.begin("dial", key);
        config.transport_config(transport::for_peer(Arc::clone(epoch), trace));
        self.dial(config, addr, &mismatch).await
    }

    /// The next handshake that somebody began; `None` when the endpoint is closed.
    pub(crate) async fn incoming(&self) -> Option<Incoming> {
        self.endpoint.accept().await
    }

    /// Finish a handshake that the holder of this key must have begun.
    pub(crate) async fn accept(
        &self,
        incoming: Incoming,
        key: PeerId,
        epoch: &Arc<AtomicU64>,
    ) -> Result<quinn::Connection, DialError> {
        let (pin, mismatch) = Pin::new(key);
        let mut config = server_config(tls::server(&self.identity, pin, PEER_ALPN)?);
        let trace = self.traces.begin("accept", key);
        config.transport_config(transport::for_peer(Arc::clone(epoch), trace));
        let connecting = incoming
            .accept_with(Arc::new(config))
            .map_err(DialError::Connection)?;
        connecting.await.map_err(|error| DialError::of(error, &mismatch))
    }

    /// The link behind this channel exists now; packets that came before it did are taken up.
    pub(crate) fn release_early(&self, channel: ChannelId) {
        self.socket.release_early(channel);
    }

    /// Send something on every connection at once: the network under them may have changed.
    pub(crate) fn nudge(&self) {
        let socket = Arc::clone(&self.socket) as Arc<dyn quinn::AsyncUdpSocket>;
        if let Err(error) = self.endpoint.rebind_abstract(socket) {
            tracing::debug!(%error, "cannot nudge the connections");
        }
    }

    /// Close everything and wait a moment for the good-byes to leave.
    pub(crate) async fn close(&self, code: VarInt) {
        self.endpoint.close(code, b"");
        // Peers that do not answer are not waited for.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.endpoint.wait_idle()).await;
    }

    async fn dial(
        &self,
        config: ClientConfig,
        addr: SocketAddr,
        mismatch: &Mismatch,
    ) -> Result<quinn::Connection, DialError> {
        let connecting = self
            .endpoint
            .connect_with(config, addr, TLS_NAME)
            .map_err(|_| DialError::Config)?;
        connecting.await.map_err(|error| DialError::of(error, mismatch))
    }
}

fn server_config(crypto: Arc<QuicServerConfig>) -> ServerConfig {
    let mut config = ServerConfig::with_crypto(crypto);
    // Virtual addresses never change, so there is nothing to migrate.
    config.migration(false).max_incoming(INCOMING_MAX);
    config
}

/// Why there is no endpoint.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    /// TLS refused.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The socket refused.
    #[error(transparent)]
    Socket(#[from] io::Error),
}

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// The other side holds another key.
    #[error("the other side holds another key")]
    WrongKey,
    /// It was not answered, or broken off.
    #[error(transparent)]
    Connection(ConnectionError),
    /// It could not be begun: the endpoint is closing, or refused its configuration.
    #[error("the handshake could not be begun")]
    Config,
}

impl DialError {
    fn of(error: ConnectionError, mismatch: &Mismatch) -> Self {
        if mismatch.seen() {
            Self::WrongKey
        } else {
            Self::Connection(error)
        }
    }
}

impl From<TlsError> for DialError {
    fn from(_: TlsError) -> Self {
        Self::Config
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use knothole_proto::connector::LinkId;
    use knothole_proto::path::SocketId;
    use tokio::sync::mpsc;

    use super::*;
    use crate::net::{Bind, Counters, LinkPath, PathTable, Route, Sockets};

    const LINK: LinkId = LinkId(1);

    /// An endpoint on loopback with one link, and what a test needs of it.
    struct Side {
        quic: Quic,
        paths: Arc<PathTable>,
        link: Arc<LinkPath>,
        addr: SocketAddr,
    }

    fn side() -> Side {
        let bind = Bind {
            v4: Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)),
            v6: None,
        };
        let sockets = Arc::new(Sockets::bind(bind).unwrap());
        let addr = sockets.get(SocketId::V4).unwrap().local();
        let paths = Arc::<PathTable>::default();
        let (driver, _) = mpsc::channel(1);
        let socket = PathSocket::new(sockets, Arc::clone(&paths), driver, Arc::<Counters>::default());
        let link = Arc::new(LinkPath::new(LINK));
        paths.add_link(Arc::clone(&link));
        let quic = Quic::new(Identity::generate().unwrap(), socket, Traces::default()).unwrap();
        Side {
            quic,
            paths,
            link,
            addr,
        }
    }

    /// Two sides with a direct path between them.
    fn sides() -> (Side, Side) {
        let (a, b) = (side(), side());
        for (own, other) in [(&a, &b), (&b, &a)] {
            let (socket, remote) = (SocketId::V4, other.addr);
            own.paths.set_route(LINK, Route::Direct { socket, remote });
            own.paths.add_source(LINK, socket, remote);
        }
        (a, b)
    }

    async fn shake_hands(
        (a, b): (&Side, &Side),
        a_expects: PeerId,
        b_expects: PeerId,
    ) -> [Result<quinn::Connection, DialError>; 2] {
        let accept = async {
            let incoming = b.quic.incoming().await.unwrap();
            b.quic.accept(incoming, b_expects, b.link.epoch()).await
        };
        let dial = a.quic.dial_peer(a.link.virtual_addr(), a_expects, a.link.epoch());
        let (dialled, accepted) = tokio::join!(dial, accept);
        [dialled, accepted]
    }

    #[tokio::test]
    async fn each_side_talks_to_the_expected_key_only() {
        let (a, b) = sides();
        let [a_id, b_id] = [&a, &b].map(|side| side.quic.identity.peer_id());
        let stranger = PeerId::from_bytes([9; 32]);
        let [dialled, accepted] = shake_hands((&a, &b), b_id, a_id).await;
        assert!(dialled.is_ok() && accepted.is_ok());
        let [dialled, accepted] = shake_hands((&a, &b), stranger, a_id).await;
        assert!(matches!(dialled, Err(DialError::WrongKey)));
        assert!(accepted.is_err());
        let [dialled, accepted] = shake_hands((&a, &b), b_id, stranger).await;
        assert!(matches!(accepted, Err(DialError::WrongKey)));
        // The dialling side is done with its part before the other side has looked at its key.
        if let Ok(connection) = dialled {
            let end = tokio::time::timeout(Duration::from_secs(5), connection.closed()).await;
            assert!(matches!(end, Ok(ConnectionError::ConnectionClosed(_))), "{end:?}");
        }
    }

    #[tokio::test]
    async fn a_nudge_disturbs_no_connection() {
        let (a, b) = sides();
        let [a_id, b_id] = [&a, &b].map(|side| side.quic.identity.peer_id());
        let [dialled, accepted] = shake_hands((&a, &b), b_id, a_id).await;
        let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
        for round in 0..20_u8 {
            let mut send = dialled.open_uni().await.unwrap();
            send.write_all(&[round; 10_000]).await.unwrap();
            a.quic.nudge();
            b.quic.nudge();
            send.finish().unwrap();
            let mut recv = accepted.accept_uni().await.unwrap();
            assert_eq!(recv.read_to_end(10_000).await.unwrap(), [round; 10_000]);
        }
    }
}
