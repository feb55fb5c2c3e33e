//! Names of things: newtypes for keys, sessions, channels and human names.
//!
//! Two values of one primitive type that play different roles are different types here, so that they cannot be
//! swapped by accident. Secrets never print themselves, compare in constant time, and are wiped when dropped.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of the shortest text prefix by which a person may name a peer id: 8 base32 characters are 40 bits,
/// so two ids in one address book collide by chance once in about a billion books of 50 entries.
pub const PEER_ID_PREFIX_MIN: usize = 8;

/// Longest human name in bytes; one DNS label (RFC 1035 section 2.3.4), so that a name can become a host name.
pub const NAME_LEN_MAX: usize = 63;

/// Longest join token in bytes. Ours are 26 characters; the rest is room for tokens that people choose.
pub const TOKEN_LEN_MAX: usize = 128;

/// Who a machine is: a hash of the public key in its certificate.
///
/// 32 bytes, BLAKE3 in key-derivation mode over the DER of the SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7).
/// Text form: base32 (RFC 4648 section 6), lower case, no padding, 52 characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PeerId([u8; 32]);

impl PeerId {
    /// The id of the holder of this key; `spki` is the DER of a SubjectPublicKeyInfo.
    pub fn from_spki(spki: &[u8]) -> Self {
        Self(blake3::derive_key("knothole 1 peer id", spki))
    }

    /// An id from its 32 bytes, as stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight characters of the text form: enough for people, not for security.
    pub fn short(&self) -> String {
        self.to_string().chars().take(PEER_ID_PREFIX_MIN).collect()
    }

    /// Does the text form of this id begin with `prefix`? Shorter prefixes than [`PEER_ID_PREFIX_MIN`] never match.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        prefix.len() >= PEER_ID_PREFIX_MIN && self.to_string().starts_with(&prefix.to_ascii_lowercase())
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE32_NOPAD.encode(&self.0).to_ascii_lowercase())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", self.short())
    }
}

impl FromStr for PeerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let bytes = BASE32_NOPAD
            .decode(text.to_ascii_uppercase().as_bytes())
            .map_err(|_| IdError::PeerIdText)?;
        Ok(Self(bytes.try_into().map_err(|_| IdError::PeerIdText)?))
    }
}

/// One introduction of two nodes to each other: 16 bytes drawn by the server, the same for both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SessionId([u8; 16]);

impl SessionId {
    /// A session id from 16 bytes of the server's generator.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The part of the id that travels in every probe so that a receiver finds the session in one look-up.
    pub fn tag(&self) -> SessionTag {
        let mut tag = [0; 8];
        tag.copy_from_slice(&self.0[..8]);
        SessionTag(tag)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({})", HEXLOWER.encode(&self.0[..4]))
    }
}

/// First eight bytes of a [`SessionId`]; not a secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionTag(pub [u8; 8]);

impl fmt::Debug for SessionTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionTag({})", HEXLOWER.encode(&self.0[..4]))
    }
}

/// One run of one node: drawn when the node starts, so that a restarted or cloned node is told from the old one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Instance(pub u64);

/// A relay channel between two nodes: unguessable, drawn by the server, the same in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChannelId(pub u64);

/// Chosen by a node to match the server's answer to its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u32);

/// The public number in a pairing code: where the two sides meet at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Nameplate(pub u32);

/// What two paired machines share: 32 bytes out of the pairing's key exchange. Never sent.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct PairSecret([u8; 32]);

impl PairSecret {
    /// A secret from its 32 bytes, as stored.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, for the address book on disk.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The tag by which the server may connect these two nodes: each lists it, neither reveals the secret by it.
    pub fn tag(&self) -> PairTag {
        let full = blake3::derive_key("knothole 1 introduction tag", &self.0);
        let mut tag = [0; 16];
        tag.copy_from_slice(&full[..16]);
        PairTag(tag)
    }
}

impl PartialEq for PairSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for PairSecret {}

impl fmt::Debug for PairSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairSecret(..)")
    }
}

/// Permission to be introduced, derived from a [`PairSecret`]: a node lists the tags of those who may reach it,
/// a caller shows the tag it shares. The server compares; it cannot derive one tag from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PairTag(pub [u8; 16]);

impl fmt::Debug for PairTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PairTag({})", HEXLOWER.encode(&self.0[..3]))
    }
}

/// The name that a person gives a machine: 1 to 63 characters of `a-z 0-9 -`, not beginning or ending with `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let whole = !text.is_empty() && text.len() <= NAME_LEN_MAX && text.bytes().all(legal);
        // "xn--" would be read as an internationalised name by a browser, and could imitate another one.
        if !whole || text.starts_with('-') || text.ends_with('-') || text.starts_with("xn--") {
            return Err(IdError::NameText);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Name {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// What lets a node register at a server for the first time. 1 to 128 printable ASCII characters without spaces.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(try_from = "String", into = "String")]
pub struct Token(String);

impl Token {
    /// The token as text: for the line that people copy, nowhere else.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Token {}

impl FromStr for Token {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        if text.is_empty() || text.len() > TOKEN_LEN_MAX || !text.bytes().all(|c| c.is_ascii_graphic()) {
            return Err(IdError::TokenText);
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Token {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<Token> for String {
    fn from(token: Token) -> Self {
        token.0.clone()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Text that is not the name of the thing it should name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Not 52 characters of base32.
    #[error("a peer id is 52 characters of a-z and 2-7")]
    PeerIdText,
    /// Not a legal name.
    #[error("a name is 1 to 63 characters of a-z, 0-9 and -, and neither begins nor ends with -")]
    NameText,
    /// Not a legal token.
    #[error("a token is 1 to 128 printable characters without spaces")]
    TokenText,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_id_survives_its_text_form() {
        let id = PeerId::from_spki(b"some key");
        assert_eq!(id.to_string().len(), 52);
        assert_eq!(id.to_string().parse::<PeerId>(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse::<PeerId>(), Ok(id));
        assert_eq!("short".parse::<PeerId>(), Err(IdError::PeerIdText));
    }

    #[test]
    fn a_prefix_needs_eight_characters() {
        let id = PeerId::from_spki(b"some key");
        let text = id.to_string();
        assert!(id.has_prefix(&text[..8]));
        assert!(!id.has_prefix(&text[..7]));
        assert!(!id.has_prefix("zzzzzzzz"));
    }

    #[test]
    fn names_are_one_dns_label() {
        for good in ["a", "nas", "my-nas-2", "0", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a b",
            "a.b",
            "a_b",
            "xn--a",
            "ä",
            "a\u{1b}",
            &"x".repeat(64),
        ] {
            assert_eq!(bad.parse::<Name>(), Err(IdError::NameText), "{bad}");
        }
    }

    #[test]
    fn secrets_do_not_print_themselves() {
        assert_eq!(format!("{:?}", PairSecret::from_bytes([7; 32])), "PairSecret(..)");
        let token: Token = "abc".parse().unwrap();
        assert_eq!(format!("{token:?}"), "Token(..)");
    }

    #[test]
    fn the_tag_depends_on_the_secret_alone() {
        let one = PairSecret::from_bytes([1; 32]);
        assert_eq!(one.tag(), PairSecret::from_bytes([1; 32]).tag());
        assert_ne!(one.tag(), PairSecret::from_bytes([2; 32]).tag());
    }
}
