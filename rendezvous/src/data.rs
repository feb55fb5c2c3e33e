//! The data directory: the server's key, its join token, and the database of names.
//!
//! The key is written last. So a directory with a key is one in which a server has run, and there a missing database
//! is a loss that nobody should overlook: every name would be free for the taking.

use std::path::Path;

use data_encoding::BASE32_NOPAD;
use knothole_proto::id::{PeerId, Token};
use knothole_proto::rendezvous::Record;
use knothole_proto::seed::Rng;

use crate::identity::{Identity, IdentityError, KEY_FILE};
use crate::private_files::{self, FileError};
use crate::store::{DATABASE_FILE, Store, StoreError};

/// Name of the join token's file: one line.
pub(crate) const TOKEN_FILE: &str = "token";

/// Bytes of randomness in a token: beyond guessing for ever.
const TOKEN_BYTES: usize = 16;

/// What a server keeps.
pub(crate) struct Data {
    pub(crate) identity: Identity,
    pub(crate) token: Token,
    pub(crate) store: Store,
    pub(crate) records: Vec<Record>,
}

impl Data {
    /// Everything new, and nothing kept.
    ///
    /// # Errors
    /// [`DataError::Identity`] if no key can be made.
    pub(crate) fn in_memory(rng: &mut Rng) -> Result<Self, DataError> {
        Ok(Self {
            identity: Identity::generate()?,
            token: new_token(rng)?,
            store: Store::Memory,
            records: Vec::new(),
        })
    }

    /// Look at `dir` without making anything. A database that was not closed properly is mended, as a start would.
    ///
    /// # Errors
    /// What [`Data::open`] would say.
    pub(crate) fn inspect(dir: &Path) -> Result<Inspected, DataError> {
        let there = |file: &Path| file.try_exists().map_err(|source| FileError::io(file, source));
        if !there(dir)? {
            return Ok(Inspected::New);
        }
        private_files::check_dir(dir)?;
        let token = dir.join(TOKEN_FILE);
        if there(&token)? {
            parse_token(&private_files::read(&token)?)?;
        }
        let key = dir.join(KEY_FILE);
        if !there(&key)? {
            return Ok(Inspected::New);
        }
        let key = Identity::load(&key)?.peer();
        match Store::open(&dir.join(DATABASE_FILE), false) {
            Ok((_, records)) => Ok(Inspected::Whole {
                key,
                records: records.len(),
            }),
            Err(StoreError::InUse { .. }) => Ok(Inspected::InUse { key }),
            Err(why) => Err(why.into()),
        }
    }

    /// What is in `dir`; made there at the first run.
    ///
    /// # Errors
    /// Any [`DataError`]. Nothing that is there is replaced.
    pub(crate) fn open(dir: &Path, rng: &mut Rng) -> Result<Self, DataError> {
        private_files::ensure_dir(dir)?;
        let key_file = dir.join(KEY_FILE);
        let first_run = !key_file
            .try_exists()
            .map_err(|source| FileError::io(&key_file, source))?;
        let (store, records) = Store::open(&dir.join(DATABASE_FILE), first_run)?;
        let token = open_token(&dir.join(TOKEN_FILE), rng)?;
        let identity = if first_run {
            let identity = Identity::generate()?;
            identity.save(&key_file)?;
            identity
        } else {
            Identity::load(&key_file)?
        };
        Ok(Self {
            identity,
            token,
            store,
            records,
        })
    }
}

/// What is in a data directory.
#[derive(Debug)]
#[non_exhaustive]
pub enum Inspected {
    /// Nothing; the first run will make everything.
    New,
    /// A whole set of files.
    Whole {
        /// The server's key.
        key: PeerId,
        /// Keys and names on record.
        records: usize,
    },
    /// A whole set of files, which a running server uses.
    InUse {
        /// The server's key.
        key: PeerId,
    },
}

/// The token in `file`, or a new one if there is no file: whoever deletes it wants another.
fn open_token(file: &Path, rng: &mut Rng) -> Result<Token, DataError> {
    if file.try_exists().map_err(|source| FileError::io(file, source))? {
        return parse_token(&private_files::read(file)?);
    }
    let token = new_token(rng)?;
    private_files::create(file, &format!("{}\n", token.reveal()))?;
    Ok(token)
}

fn new_token(rng: &mut Rng) -> Result<Token, DataError> {
    let text = BASE32_NOPAD
        .encode(&rng.bytes::<TOKEN_BYTES>())
        .to_ascii_lowercase();
    parse_token(&text)
}

/// A token that can stand in a URL inside single quotes as it is.
fn parse_token(text: &str) -> Result<Token, DataError> {
    let text = text.trim();
    let plain = text
        .bytes()
        .all(|c| c.is_ascii_alphanumeric() || b"-._~".contains(&c));
    match text.parse() {
        Ok(token) if plain => Ok(token),
        _ => Err(DataError::Token),
    }
}

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// A file or the directory itself.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The token.
    #[error("the file {TOKEN_FILE:?} holds no token: one line of up to 128 letters, digits and - . _ ~")]
    Token,
}

#[cfg(test)]
mod tests {
    use std::fs;

    use knothole_proto::seed::Seed;

    use super::*;

    #[test]
    fn the_second_run_finds_the_key_and_the_token_of_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = Seed::from_number(1).rng();
        let first = Data::open(dir.path(), &mut rng).unwrap();
        let (peer, token) = (first.identity.peer(), first.token.clone());
        drop(first);
        let second = Data::open(dir.path(), &mut rng).unwrap();
        assert_eq!(second.identity.peer(), peer);
        assert_eq!(second.token, token);
        assert_eq!(token.reveal().len(), 26);
    }

    #[test]
    fn a_database_that_vanished_is_not_silently_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut rng = Seed::from_number(1).rng();
        drop(Data::open(dir.path(), &mut rng).unwrap());
        fs::remove_file(dir.path().join(DATABASE_FILE)).unwrap();
        let again = Data::open(dir.path(), &mut rng);
        assert!(matches!(again, Err(DataError::Store(StoreError::Missing { .. }))));
        assert!(!dir.path().join(DATABASE_FILE).exists());
    }

    #[test]
    fn a_token_that_would_break_the_line_to_copy_is_refused() {
        assert!(parse_token("abc-DEF_1.~\n").is_ok());
        for bad in ["", "\n", "a'b", "a b", "a&b", "a%20", &"x".repeat(129)] {
            assert!(matches!(parse_token(bad), Err(DataError::Token)), "{bad}");
        }
    }
}
