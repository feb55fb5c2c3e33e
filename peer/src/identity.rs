//! Who this node is: an Ed25519 key in a PKCS#8 PEM file that only its owner can read.
//!
//! The certificate shown in handshakes is made from the key at every start and never stored: peers pin the hash of
//! the public key, so nothing else in it matters. Losing the file means being a stranger to every paired machine.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use knothole_proto::id::PeerId;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519, PublicKeyData};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

/// Largest key file that is read, in bytes. An Ed25519 key in PEM takes about 240.
const KEY_FILE_LEN_MAX: u64 = 8 * 1024;

/// The name in the certificate. Nobody verifies it; it is what a network trace shows.
const CERTIFICATE_NAME: &str = "knothole";

/// A key pair with its certificate. Clones share the key.
#[derive(Clone)]
pub struct Identity {
    peer_id: PeerId,
    certified: Arc<CertifiedKey>,
}

impl Identity {
    /// The identity in this file; if there is no such file, a new identity is made and stored there.
    ///
    /// The directory is created with mode 0700 if it is missing, the file with mode 0600.
    ///
    /// # Errors
    /// Any [`IdentityError`]. A file that others can read, or a directory that others can write to, is refused.
    pub fn load_or_create(path: &Path) -> Result<Self, IdentityError> {
        match Self::load(path) {
            Err(IdentityError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let key = new_key()?;
        match store(path, &key) {
            // Another process was faster: its key is the one that counts.
            Err(IdentityError::Write { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                Self::load(path)
            }
            Err(error) => Err(error),
            Ok(()) => Self::from_key(&key),
        }
    }

    /// The identity in this file.
    ///
    /// # Errors
    /// Any [`IdentityError`].
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let read = |source| IdentityError::Read {
            path: path.to_owned(),
            source,
        };
        let meta = fs::metadata(path).map_err(read)?;
        check_access(path, &meta)?;
        if meta.len() > KEY_FILE_LEN_MAX {
            return Err(IdentityError::Malformed {
                path: path.to_owned(),
            });
        }
        let pem = fs::read_to_string(path).map_err(read)?;
        let key = KeyPair::from_pem(&pem).map_err(|_| IdentityError::Malformed {
            path: path.to_owned(),
        })?;
        if !key.is_compatible(&PKCS_ED25519) {
            return Err(IdentityError::Malformed {
                path: path.to_owned(),
            });
        }
        Self::from_key(&key)
    }

    /// A new identity that lives in memory only.
    ///
    /// # Errors
    /// [`IdentityError::Generate`].
    pub fn generate() -> Result<Self, IdentityError> {
        Self::from_key(&new_key()?)
    }

    /// The id by which others know this node.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }

    fn from_key(key: &KeyPair) -> Result<Self, IdentityError> {
        let certificate = CertificateParams::new(vec![CERTIFICATE_NAME.to_owned()])
            .and_then(|params| params.self_signed(key))
            .map_err(|_| IdentityError::Generate)?;
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = rustls::crypto::ring::sign::any_eddsa_type(&match private {
            PrivateKeyDer::Pkcs8(ref der) => der.clone_key(),
            _ => return Err(IdentityError::Generate),
        })
        .map_err(|_| IdentityError::Generate)?;
        Ok(Self {
            peer_id: PeerId::from_spki(&key.subject_public_key_info()),
            certified: Arc::new(CertifiedKey::new(vec![certificate.der().clone()], signer)),
        })
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?})", self.peer_id)
    }
}

fn new_key() -> Result<KeyPair, IdentityError> {
    KeyPair::generate_for(&PKCS_ED25519).map_err(|_| IdentityError::Generate)
}

/// Write the key beside its final place and move it there in one step, so that a crash leaves a whole file or none.
fn store(path: &Path, key: &KeyPair) -> Result<(), IdentityError> {
    let write = |source| IdentityError::Write {
        path: path.to_owned(),
        source,
    };
    let directory = directory_of(path);
    create_private(directory).map_err(write)?;
    let mut file = tempfile::Builder::new()
        .prefix(".identity")
        .tempfile_in(directory)
        .map_err(write)?;
    file.write_all(key.serialize_pem().as_bytes()).map_err(write)?;
    file.as_file().sync_all().map_err(write)?;
    let kept = file.persist_noclobber(path).map_err(|error| write(error.error))?;
    // Others are told of this key right after: a power cut must not take it.
    let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
    synced.map_err(write)?;
    check_access(path, &kept.metadata().map_err(write)?)
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(unix)]
fn create_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
}

#[cfg(not(unix))]
fn create_private(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)
}

/// Nobody else may read the key; nobody else may put another in its place.
#[cfg(unix)]
fn check_access(path: &Path, meta: &fs::Metadata) -> Result<(), IdentityError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = meta.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Readable {
            path: path.to_owned(),
            mode,
        });
    }
    let directory = directory_of(path);
    let read = |source| IdentityError::Read {
        path: directory.to_owned(),
        source,
    };
    let mode = fs::metadata(directory).map_err(read)?.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(IdentityError::Replaceable {
            path: directory.to_owned(),
            mode,
        });
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_access(_path: &Path, _meta: &fs::Metadata) -> Result<(), IdentityError> {
    Ok(())
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdentityError {
    /// The file or its directory cannot be read.
    #[error("cannot read the identity {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The new key cannot be stored.
    #[error("cannot store the identity {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Other users can read the key.
    #[error("the identity {} can be read by others (mode {mode:04o}): chmod 600 it, or delete it if they may have", path.display())]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Other users can put another key in its place.
    #[error("the directory {} can be written to by others (mode {mode:04o}): chmod 700 it", path.display())]
    Replaceable {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file holds no Ed25519 key in PKCS#8 PEM form.
    #[error("{} holds no Ed25519 key in PKCS#8 PEM form", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// No key or certificate could be made.
    #[error("no key could be made: the operating system gave no randomness")]
    Generate,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_the_same_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/identity.pem");
        let first = Identity::load_or_create(&path).unwrap();
        let second = Identity::load_or_create(&path).unwrap();
        assert_eq!(first.peer_id(), second.peer_id());
        assert_ne!(first.peer_id(), Identity::generate().unwrap().peer_id());
    }

    #[cfg(unix)]
    #[test]
    fn a_key_that_others_can_read_or_replace_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("own/identity.pem");
        Identity::load_or_create(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!((mode(&path), mode(directory_of(&path))), (0o600, 0o700));
        set(&path, 0o640);
        assert!(matches!(
            Identity::load_or_create(&path),
            Err(IdentityError::Readable { mode: 0o640, .. })
        ));
        set(&path, 0o600);
        set(directory_of(&path), 0o770);
        assert!(matches!(
            Identity::load_or_create(&path),
            Err(IdentityError::Replaceable { mode: 0o770, .. })
        ));
    }

    #[test]
    fn a_file_that_is_no_key_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("identity.pem");
        store(&path, &new_key().unwrap()).unwrap();
        fs::write(&path, "not a key").unwrap();
        assert!(matches!(
            Identity::load_or_create(&path),
            Err(IdentityError::Malformed { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "not a key");
    }
}
