//! QUIC as a node speaks it, over a plain UDP socket: the same keys, cipher, windows, timers and socket buffers, and none of
//! the layers between. No node uses this; it is the yardstick that says what those layers cost.
//!
//! One end calls [`Reference::listen`], the other [`Reference::dial`], each with the key that the other one must show.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use knothole_proto::id::PeerId;
use knothole_proto::wire::PEER_ALPN;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::{
    ClientConfig, Connection, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};

use super::tls::{self, Pin, TLS_NAME, TlsError};
use super::transport;
use crate::identity::Identity;
use crate::net::bulk_socket;

/// Who decides how much may be in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Controller {
    /// What connections between nodes have.
    #[default]
    Own,
    /// CUBIC (RFC 9438) as the QUIC library has it.
    Cubic,
    /// BBR as the QUIC library has it.
    Bbr,
}

/// One end of a connection with the settings of those between nodes.
#[derive(Clone, Debug)]
pub struct Reference {
    /// The key that this end shows.
    pub identity: Identity,
    /// The key that the other end must show.
    pub peer: PeerId,
    /// Congestion control of what this end sends.
    pub controller: Controller,
    /// Bytes that may be in flight either way, if not as many as between nodes.
    pub window: Option<u32>,
}

impl Reference {
    /// An endpoint to accept the other end at. It is to be called inside a runtime.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub fn listen(&self, local: SocketAddr) -> Result<Endpoint, ReferenceError> {
        let (pin, _) = Pin::new(self.peer);
        let mut config = ServerConfig::with_crypto(tls::server(&self.identity, pin, PEER_ALPN)?);
        config.transport_config(self.transport());
        endpoint(local, Some(config))
    }

    /// A connection to the other end, and the endpoint that it lives by. It is to be called inside a runtime.
    ///
    /// # Errors
    /// [`ReferenceError`].
    pub async fn dial(
        &self,
        local: SocketAddr,
        remote: SocketAddr,
    ) -> Result<(Endpoint, Connection), ReferenceError> {
        let (pin, _) = Pin::new(self.peer);
        let mut config = ClientConfig::new(tls::client(&self.identity, pin, PEER_ALPN)?);
        config.transport_config(self.transport());
        let endpoint = endpoint(local, None)?;
        let connecting = endpoint.connect_with(config, remote, TLS_NAME)?;
        let connection = connecting.await?;
        Ok((endpoint, connection))
    }

    fn transport(&self) -> Arc<TransportConfig> {
        // The path never changes, so the epoch stands still.
        let mut shared = transport::for_peer(Arc::new(AtomicU64::new(0)), None);
        if let Some(config) = Arc::get_mut(&mut shared) {
            if let Some(window) = self.window {
                config
                    .stream_receive_window(VarInt::from_u32(window))
                    .receive_window(VarInt::from_u32(window))
                    .send_window(window.into());
            }
            let controller: Option<Arc<dyn ControllerFactory + Send + Sync>> = match self.controller {
                Controller::Own => None,
                Controller::Cubic => Some(Arc::new(CubicConfig::default())),
                Controller::Bbr => Some(Arc::new(BbrConfig::default())),
            };
            if let Some(controller) = controller {
                config.congestion_controller_factory(controller);
            }
        }
        shared
    }
}

fn endpoint(local: SocketAddr, server: Option<ServerConfig>) -> Result<Endpoint, ReferenceError> {
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false);
    let socket = bulk_socket(local)?;
    Ok(Endpoint::new(config, server, socket, Arc::new(TokioRuntime))?)
}

/// Why there is no connection of this kind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// The TLS library refused.
    #[error("no keys can be set up for the connection")]
    Tls,
    /// The socket.
    #[error("no socket for the connection ({0})")]
    Socket(#[from] io::Error),
    /// It could not be begun.
    #[error("the connection could not be begun ({0})")]
    Connect(#[from] quinn::ConnectError),
    /// It was not answered, or broken off.
    #[error("the connection failed ({0})")]
    Connection(#[from] quinn::ConnectionError),
}

impl From<TlsError> for ReferenceError {
    fn from(_: TlsError) -> Self {
        Self::Tls
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    async fn carries(controller: Controller, right_key: bool) -> Result<Vec<u8>, ReferenceError> {
        let [a, b] = [(); 2].map(|()| Identity::generate().unwrap());
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let end = |identity: &Identity, peer| Reference {
            identity: identity.clone(),
            peer,
            controller,
            window: Some(1 << 20),
        };
        let stranger = PeerId::from_bytes([9; 32]);
        let expected = if right_key { b.peer_id() } else { stranger };
        let listener = end(&b, a.peer_id()).listen(any)?;
        let remote = listener.local_addr()?;
        let receive = async {
            let connection = listener.accept().await.unwrap().await?;
            let mut stream = connection.accept_uni().await?;
            Ok(stream.read_to_end(1 << 20).await.unwrap())
        };
        let send = async {
            let (_endpoint, connection) = end(&a, expected).dial(any, remote).await?;
            let mut stream = connection.open_uni().await?;
            stream.write_all(&[7; 300_000]).await.unwrap();
            stream.finish().unwrap();
            stream.stopped().await.unwrap();
            Ok::<_, ReferenceError>(())
        };
        let (received, sent) = tokio::join!(receive, send);
        sent.and(received)
    }

    #[tokio::test]
    async fn every_controller_carries_data_between_the_two_keys() {
        for controller in [Controller::Own, Controller::Cubic, Controller::Bbr] {
            let received = carries(controller, true).await.unwrap();
            assert!(received == vec![7; 300_000], "{controller:?}");
        }
    }

    #[tokio::test]
    async fn another_key_than_the_expected_one_is_refused() {
        let refused = carries(Controller::Own, false).await;
        assert!(
            matches!(refused, Err(ReferenceError::Connection(_))),
            "{refused:?}"
        );
    }
}
