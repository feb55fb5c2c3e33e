//! The server's own key: made once, kept in its data directory, shown to nodes as a self-signed certificate.
//!
//! The key is what nodes pin (its hash stands in the server's URL). The certificate around it is made anew at each
//! start and carries no meaning; nothing here trusts a name or a date in a certificate.

use std::path::Path;

use knothole_proto::id::PeerId;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::private_files::{self, FileError};

/// Name of the key's file in the data directory: PKCS#8 in PEM.
pub(crate) const KEY_FILE: &str = "server.key";

/// The name in the certificate. Nodes do not look at it; TLS wants one.
const CERTIFICATE_NAME: &str = "knothole";

/// An Ed25519 key and its certificate.
pub(crate) struct Identity {
    key: KeyPair,
    certificate: CertificateDer<'static>,
    peer: PeerId,
}

impl Identity {
    /// A new key from the operating system's entropy.
    ///
    /// # Errors
    /// [`IdentityError::Key`] if the generator fails.
    pub(crate) fn generate() -> Result<Self, IdentityError> {
        Self::from_key(KeyPair::generate_for(&PKCS_ED25519).map_err(|_| IdentityError::Key)?)
    }

    /// The key in `file`.
    ///
    /// # Errors
    /// Any [`IdentityError`].
    pub(crate) fn load(file: &Path) -> Result<Self, IdentityError> {
        let pem = private_files::read(file)?;
        let key = KeyPair::from_pem(&pem).map_err(|_| IdentityError::Unreadable)?;
        if !key.is_compatible(&PKCS_ED25519) {
            return Err(IdentityError::Unreadable);
        }
        Self::from_key(key)
    }

    /// Write the key to `file`, which must not exist.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub(crate) fn save(&self, file: &Path) -> Result<(), IdentityError> {
        Ok(private_files::create(file, &self.key.serialize_pem())?)
    }

    /// Hash of the public key: what nodes pin.
    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    /// The certificate to show.
    pub(crate) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// The private key in the form that TLS takes.
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    /// 32 secret bytes for one purpose, the same at every start.
    pub(crate) fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, self.key.serialized_der())
    }

    fn from_key(key: KeyPair) -> Result<Self, IdentityError> {
        let certificate = CertificateParams::new(vec![CERTIFICATE_NAME.to_owned()])
            .and_then(|params| params.self_signed(&key))
            .map_err(|_| IdentityError::Key)?
            .der()
            .clone();
        let peer = peer_of(&certificate).ok_or(IdentityError::Key)?;
        Ok(Self {
            key,
            certificate,
            peer,
        })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?})", self.peer)
    }
}

/// The id of the key in a certificate; `None` if the bytes are not a certificate.
pub(crate) fn peer_of(certificate: &CertificateDer<'_>) -> Option<PeerId> {
    let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
    Some(PeerId::from_spki(&parsed.subject_public_key_info()))
}

/// The server's key could not be made, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file system refused, or the file is open to others.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds no Ed25519 key in PKCS#8 PEM.
    #[error("{KEY_FILE} holds no Ed25519 private key")]
    Unreadable,
    /// The key could not be made.
    #[error("a key could not be made")]
    Key,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_key_loads_as_the_same_identity() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(KEY_FILE);
        let made = Identity::generate().unwrap();
        made.save(&file).unwrap();
        assert_eq!(Identity::load(&file).unwrap().peer(), made.peer());
    }

    #[test]
    fn a_file_without_an_ed25519_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("garbage", "no key".to_owned()),
            ("other", KeyPair::generate().unwrap().serialize_pem()),
        ] {
            let file = dir.path().join(name);
            private_files::create(&file, &text).unwrap();
            assert!(
                matches!(Identity::load(&file), Err(IdentityError::Unreadable)),
                "{name}"
            );
        }
    }
}
