//! TLS and QUIC settings of control connections. No decision about who may register is made here.
//!
//! TLS 1.3 alone, both sides show a certificate. The server accepts any Ed25519 key, because a key is an identity and
//! not a permission; but the handshake's signature by that key is always verified, so nobody can use another's.

use std::sync::Arc;
use std::time::Duration;

use knothole_proto::wire::CONTROL_ALPN;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{EndpointConfig, IdleTimeout, TransportConfig, VarInt};
use quinn_proto::HashedConnectionIdGenerator;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, SignatureScheme,
};

use crate::control::Witnesses;
use crate::identity::{Identity, peer_of};

/// A connection without a packet for this long is gone, in milliseconds. Nodes are told to speak every 15 s; two lost
/// signs of life fit in. Longer keeps dead nodes listed, shorter drops those behind a bad link.
const IDLE_MS: u32 = 30_000;

/// The server pings this often when nothing else is sent: below the 30 s that the worst NATs keep a UDP mapping.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Bytes a node may send ahead on its stream: four of the largest messages. Bounds what one connection can buffer.
const STREAM_WINDOW: u32 = 64 * 1024;

/// Bytes a node may send ahead on all streams (it has one). Room for retransmission in flight, not for more data.
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// Bytes kept for a node that does not acknowledge, before writing to it waits.
const SEND_WINDOW: u64 = 256 * 1024;

/// Bytes of out-of-order handshake kept per connection: a certificate takes 400, so this is never reached honestly.
const CRYPTO_BUFFER: usize = 16 * 1024;

/// Connection attempts that wait for us to look at them. Each may buffer [`INCOMING_BUFFER`] bytes.
const INCOMING_MAX: usize = 1024;

/// Bytes buffered for one attempt that is not accepted yet.
const INCOMING_BUFFER: u64 = 64 * 1024;

/// Bytes buffered for all attempts together.
const INCOMING_BUFFER_TOTAL: u64 = 8 * 1024 * 1024;

/// The QUIC server settings for this identity.
///
/// # Errors
/// [`TlsError`] if the key is unusable.
pub(crate) fn server_config(identity: &Identity) -> Result<quinn::ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::new(AnyKey::new(&provider)))
        .with_single_cert(vec![identity.certificate()], identity.private_key())?;
    tls.alpn_protocols = vec![CONTROL_ALPN.to_vec()];
    // No resumption: every connection proves its key afresh, and no early data can be replayed.
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    let crypto = QuicServerConfig::try_from(tls)
        .map_err(|_| TlsError::General("no cipher suite for QUIC's first packets".into()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport()))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL);
    Ok(config)
}

/// Endpoint settings. Packets are told apart by their first byte, so QUIC's fixed bit must stay fixed.
///
/// What recognises the packets of an earlier run comes from the server's key. So after a crash nodes are told at their
/// next packet that their connection is gone (RFC 9000 section 10.3), instead of finding out by silence.
pub(crate) fn endpoint_config(identity: &Identity) -> EndpointConfig {
    let mut config = EndpointConfig::new(Arc::new(ResetKey(identity.derive("knothole 1 stateless reset"))));
    let [a, b, c, d, e, f, g, h, ..] = identity.derive("knothole 1 connection ids");
    let connection_ids = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    config
        .grease_quic_bit(false)
        .cid_generator(move || Box::new(HashedConnectionIdGenerator::from_key(connection_ids)));
    config
}

/// Makes the tokens by which a node recognises a stateless reset.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        for (to, from) in signature_out
            .iter_mut()
            .zip(blake3::keyed_hash(&self.0, data).as_bytes())
        {
            *to = *from;
        }
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let given = <[u8; blake3::OUT_LEN]>::try_from(signature).map_err(|_| CryptoError)?;
        // `blake3::Hash` compares in constant time.
        (blake3::keyed_hash(&self.0, data) == given)
            .then_some(())
            .ok_or(CryptoError)
    }
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .crypto_buffer_size(CRYPTO_BUFFER)
        .datagram_receive_buffer_size(None)
        .congestion_controller_factory(Arc::new(Witnesses))
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE));
    transport
}

/// Accepts every Ed25519 key that proves itself by the handshake's signature.
#[derive(Debug)]
struct AnyKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyKey {
    fn new(provider: &CryptoProvider) -> Self {
        Self {
            algorithms: provider.signature_verification_algorithms,
        }
    }
}

impl ClientCertVerifier for AnyKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        // No chain and no dates: the key is the identity. It must be readable, or no signature could be checked.
        match peer_of(end_entity) {
            Some(_) => Ok(ClientCertVerified::assertion()),
            None => Err(CertificateError::BadEncoding.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("only TLS 1.3 is spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        if dss.scheme != SignatureScheme::ED25519 {
            return Err(CertificateError::BadSignature.into());
        }
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
