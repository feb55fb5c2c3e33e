//! A node for tests: a key, a control connection, and the socket under it for datagrams that are not QUIC.

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use knothole_proto::addr::{Candidate, CandidateKind};
use knothole_proto::id::{Instance, PairTag, PeerId, RequestId, Token};
use knothole_proto::wire::codec::{LENGTH_PREFIX, announced_len, encode_framed};
use knothole_proto::wire::{
    CONTROL_ALPN, Connect, FromServer, Hello, Introduction, Kind, PathPolicy, Refusal, ToServer, Update,
    Welcome, decode, segments,
};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncUdpSocket, ClientConfig, Connection, Endpoint, RecvStream, Runtime, SendStream, TokioRuntime,
    UdpPoller,
};
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Nothing on loopback takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Where a server is, as its URL says.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    pub(crate) key: PeerId,
    pub(crate) token: Option<Token>,
}

impl Target {
    pub(crate) fn of(url: &str) -> Self {
        let rest = url.strip_prefix("knot://").expect("the scheme");
        let (addr, rest) = rest.split_once('/').expect("a host and a key");
        let (key, token) = match rest.split_once("?token=") {
            Some((key, token)) => (key, Some(token.parse().expect("a token"))),
            None => (rest, None),
        };
        Self {
            addr: addr.parse().expect("an address"),
            key: key.parse().expect("a key"),
            token,
        }
    }
}

/// A key and its certificate.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) peer: PeerId,
    certificate: CertificateDer<'static>,
    private: Vec<u8>,
}

impl Key {
    pub(crate) fn new() -> Self {
        Self::of_kind(&KeyPair::generate_for(&PKCS_ED25519).expect("a key"))
    }

    pub(crate) fn of_kind(pair: &KeyPair) -> Self {
        let params = CertificateParams::new(vec!["node".to_owned()]).expect("a name");
        let certificate = params.self_signed(pair).expect("a certificate").der().clone();
        let parsed = webpki::EndEntityCert::try_from(&certificate).expect("a certificate");
        Self {
            peer: PeerId::from_spki(&parsed.subject_public_key_info()),
            private: pair.serialize_der(),
            certificate,
        }
    }

    /// This certificate with the private key of another: somebody who pretends.
    pub(crate) fn with_private_key_of(&self, other: &Self) -> Self {
        Self {
            private: other.private.clone(),
            ..self.clone()
        }
    }
}

/// A node whose control connection is established.
pub(crate) struct Node {
    pub(crate) target: Target,
    pub(crate) peer: PeerId,
    pub(crate) endpoint: Endpoint,
    pub(crate) connection: Connection,
    pub(crate) send: SendStream,
    pub(crate) receive: RecvStream,
    /// The socket again, to send anything from.
    pub(crate) raw: UdpSocket,
    /// Datagrams that were not QUIC.
    pub(crate) others: mpsc::UnboundedReceiver<Vec<u8>>,
    /// How many of them there were.
    pub(crate) tally: Arc<Tally>,
    /// What quinn receives through.
    pub(crate) siphon: Arc<Siphon>,
}

/// Datagrams that were not QUIC, counted.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) bytes: AtomicU64,
    /// Count alone: nothing is kept for [`Node::others`].
    pub(crate) only_count: AtomicBool,
}

impl Node {
    pub(crate) async fn connect(url: &str) -> Self {
        Self::connect_as(url, &Key::new())
            .await
            .expect("the handshake succeeds")
    }

    pub(crate) async fn connect_as(url: &str, key: &Key) -> Result<Self, quinn::ConnectionError> {
        let target = Target::of(url);
        let local = if target.addr.is_ipv4() {
            "127.0.0.1:0"
        } else {
            "[::1]:0"
        };
        let raw = UdpSocket::bind(local).expect("a socket");
        let (siphon, others) = mpsc::unbounded_channel();
        let tally = Arc::new(Tally::default());
        let inner = TokioRuntime
            .wrap_udp_socket(raw.try_clone().expect("a second handle"))
            .expect("a socket");
        let mut config = quinn::EndpointConfig::default();
        config.grease_quic_bit(false);
        let siphon = Arc::new(Siphon {
            inner,
            siphon,
            tally: tally.clone(),
        });
        let endpoint =
            Endpoint::new_with_abstract_socket(config, None, siphon.clone(), Arc::new(TokioRuntime))
                .expect("an endpoint");
        let connecting = endpoint
            .connect_with(client_config(key, target.key), target.addr, "knothole")
            .expect("a connection attempt");
        let connection = timeout(PATIENCE, connecting).await.expect("an answer in time")?;
        let (send, receive) = connection.open_bi().await?;
        Ok(Self {
            peer: key.peer,
            target,
            endpoint,
            connection,
            send,
            receive,
            raw,
            others,
            tally,
            siphon,
        })
    }

    /// A registered node that accepts introductions of those who hold the tag.
    pub(crate) async fn registered(url: &str, name: &str, tag: PairTag) -> Self {
        let mut node = Self::connect(url).await;
        let mut hello = node.hello_message(Some(name));
        hello.facts.accept = vec![tag];
        hello.facts.candidates = vec![Candidate {
            kind: CandidateKind::Host,
            addr: node.raw.local_addr().expect("an address"),
        }];
        node.say(&ToServer::Hello(hello)).await;
        node.welcome().await;
        node
    }

    pub(crate) fn hello_message(&self, name: Option<&str>) -> Hello {
        Hello {
            instance: Instance(u64::from(self.raw.local_addr().expect("an address").port())),
            name: name.map(|name| name.parse().expect("a name")),
            token: self.target.token.clone(),
            accepting: true,
            agent: "test".to_owned(),
            facts: Update::default(),
        }
    }

    pub(crate) async fn say(&mut self, message: &ToServer) {
        let bytes = encode_framed(message).expect("a message");
        self.send.write_all(&bytes).await.expect("the stream is open");
    }

    pub(crate) async fn hello(&mut self, name: Option<&str>) -> FromServer {
        let hello = self.hello_message(name);
        self.say(&ToServer::Hello(hello)).await;
        self.hear().await
    }

    pub(crate) async fn welcome(&mut self) -> Welcome {
        match self.hear().await {
            FromServer::Welcome(welcome) => welcome,
            other => panic!("{other:?}"),
        }
    }

    /// The next message.
    pub(crate) async fn hear(&mut self) -> FromServer {
        timeout(PATIENCE, self.next())
            .await
            .expect("a message in time")
            .expect("a message")
    }

    async fn next(&mut self) -> Result<FromServer, quinn::ReadExactError> {
        let mut prefix = [0; LENGTH_PREFIX];
        self.receive.read_exact(&mut prefix).await?;
        let mut bytes = vec![0; announced_len(prefix).expect("a length")];
        self.receive.read_exact(&mut bytes).await?;
        Ok(decode(&bytes).expect("a message"))
    }

    /// Hear a refusal, and then the end of the connection.
    pub(crate) async fn refused(&mut self) -> Refusal {
        let FromServer::Refused(refusal) = self.hear().await else {
            panic!("not refused")
        };
        timeout(PATIENCE, self.connection.closed())
            .await
            .expect("the connection ends");
        refusal
    }

    /// Prove that the server still works for this node.
    pub(crate) async fn ask_the_time(&mut self) {
        self.say(&ToServer::Time {
            sent_us: 7,
            rtt_us: 0,
        })
        .await;
        loop {
            if let FromServer::Time { sent_us, .. } = self.hear().await {
                assert_eq!(sent_us, 7);
                return;
            }
        }
    }

    pub(crate) async fn introduced_to(&mut self, peer: PeerId, tag: PairTag) -> Introduction {
        let connect = Connect {
            request: RequestId(1),
            peer,
            tag,
            policy: PathPolicy::Auto,
            guess: false,
        };
        self.say(&ToServer::Connect(connect)).await;
        self.introduction().await
    }

    pub(crate) async fn introduction(&mut self) -> Introduction {
        match self.hear().await {
            FromServer::Introduction(introduction) => introduction,
            other => panic!("{other:?}"),
        }
    }
}

fn client_config(key: &Key, server: PeerId) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Pinned {
        server,
        algorithms: provider.signature_verification_algorithms,
    });
    let signing = rustls::crypto::ring::sign::any_supported_type(&PrivateKeyDer::Pkcs8(
        PrivatePkcs8KeyDer::from(key.private.clone()),
    ))
    .expect("a key");
    // Not the checked way, so that a test may show a certificate that is not its own.
    let certified = rustls::sign::CertifiedKey::new(vec![key.certificate.clone()], signing);
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    tls.alpn_protocols = vec![CONTROL_ALPN.to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("a cipher suite")))
}

/// Accepts one key.
#[derive(Debug)]
struct Pinned {
    server: PeerId,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed =
            webpki::EndEntityCert::try_from(end_entity).map_err(|_| CertificateError::BadEncoding)?;
        if PeerId::from_spki(&parsed.subject_public_key_info()) == self.server {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Takes datagrams that are not QUIC out of what quinn receives.
#[derive(Debug)]
pub(crate) struct Siphon {
    inner: Arc<dyn AsyncUdpSocket>,
    siphon: mpsc::UnboundedSender<Vec<u8>>,
    tally: Arc<Tally>,
}

impl AsyncUdpSocket for Siphon {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.inner.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.inner.try_send(transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let Poll::Ready(count) = self.inner.poll_recv(cx, buffers, metas)? else {
            return Poll::Pending;
        };
        for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()).take(count) {
            let all_relayed =
                segments(&buffer[..meta.len], meta.stride).all(|one| Kind::of(one) == Kind::Relay);
            if all_relayed && self.tally.only_count.load(Ordering::Relaxed) {
                self.tally.bytes.fetch_add(meta.len as u64, Ordering::Relaxed);
                meta.len = 0;
                continue;
            }
            let datagrams: Vec<Vec<u8>> = segments(&buffer[..meta.len], meta.stride)
                .map(<[u8]>::to_vec)
                .collect();
            let mut kept = 0;
            for datagram in datagrams {
                if Kind::of(&datagram) == Kind::Quic {
                    buffer[kept..kept + datagram.len()].copy_from_slice(&datagram);
                    kept += datagram.len();
                } else {
                    self.tally
                        .bytes
                        .fetch_add(datagram.len() as u64, Ordering::Relaxed);
                    let _ = self.siphon.send(datagram);
                }
            }
            meta.len = kept;
        }
        Poll::Ready(Ok(count))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.inner.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.inner.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.inner.may_fragment()
    }
}
