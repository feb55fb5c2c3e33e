//! TLS 1.3 with pinned keys on both sides: a handshake succeeds only with the one key that is expected.
//!
//! There is no authority and no name to verify: the id of the public key in the certificate is compared, and the
//! handshake signature is verified with that key. No session is ever resumed and nothing is sent before the handshake
//! is done (0-RTT can be replayed), so every connection proves both keys anew.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use knothole_proto::id::PeerId;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::NoServerSessionStorage;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::SingleCertAndKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme, version::TLS13,
};
use webpki::EndEntityCert;

use crate::identity::Identity;

/// The name given to TLS when dialling. It is not sent and not verified.
pub(crate) const TLS_NAME: &str = "knothole";

/// The rustls part of a connection that this node opens to the holder of `expected`.
pub(crate) fn client(
    identity: &Identity,
    expected: Pin,
    alpn: &[u8],
) -> Result<Arc<QuicClientConfig>, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|_| TlsError)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(expected))
        .with_client_cert_resolver(own_key(identity));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    let quic = QuicClientConfig::try_from(config).map_err(|_| TlsError)?;
    Ok(Arc::new(quic))
}

/// The rustls part of a connection that the holder of `expected` opens to this node.
pub(crate) fn server(
    identity: &Identity,
    expected: Pin,
    alpn: &[u8],
) -> Result<Arc<QuicServerConfig>, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|_| TlsError)?
        .with_client_cert_verifier(Arc::new(expected))
        .with_cert_resolver(own_key(identity));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    let quic = QuicServerConfig::try_from(config).map_err(|_| TlsError)?;
    Ok(Arc::new(quic))
}

/// The key that the other side must show.
#[derive(Debug)]
pub(crate) struct Pin {
    expected: PeerId,
    /// Set when another key was shown, so that the caller can tell an impostor from a broken connection.
    mismatch: Arc<AtomicBool>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// Tells whether a handshake failed because of the key.
#[derive(Clone, Debug)]
pub(crate) struct Mismatch(Arc<AtomicBool>);

impl Mismatch {
    pub(crate) fn seen(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Pin {
    pub(crate) fn new(expected: PeerId) -> (Self, Mismatch) {
        let mismatch = Arc::new(AtomicBool::new(false));
        let pin = Self {
            expected,
            mismatch: Arc::clone(&mismatch),
            algorithms: ring::default_provider().signature_verification_algorithms,
        };
        (pin, Mismatch(mismatch))
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let bad = |error| Error::InvalidCertificate(error);
        let parsed = EndEntityCert::try_from(certificate).map_err(|_| bad(CertificateError::BadEncoding))?;
        if PeerId::from_spki(&parsed.subject_public_key_info()) == self.expected {
            return Ok(());
        }
        self.mismatch.store(true, Ordering::Release);
        Err(bad(CertificateError::ApplicationVerificationFailure))
    }

    fn check_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::Tls13RequiredForQuic))
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

impl ClientCertVerifier for Pin {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Ring, with AES-128 first: on processors with AES instructions it is the fastest of the three suites of TLS 1.3,
/// and 128 bits are what the key exchange gives.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    provider.cipher_suites = vec![
        ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
        ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ring::cipher_suite::TLS13_AES_256_GCM_SHA384,
    ];
    Arc::new(provider)
}

fn own_key(identity: &Identity) -> Arc<SingleCertAndKey> {
    Arc::new(SingleCertAndKey::from(Arc::clone(identity.certified())))
}

/// The TLS library refused a configuration.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("no TLS configuration could be made")]
pub(crate) struct TlsError;
