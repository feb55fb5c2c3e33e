//! The line that tells a node where its server is: `knot://HOST:5668/<server key>?token=<token>`. The server prints it, a
//! node reads it.
//!
//! The key pins the server: whoever holds the host name or the address cannot pose as it. The token is a secret; it
//! is kept out of [`ServerUrl`]'s `Display`, and only [`ServerUrl::reveal`] shows it. Nothing is resolved here.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use crate::id::{IdError, PeerId, Token};
use crate::wire::SERVER_PORT;

/// The scheme in front, with its separator.
const SCHEME: &str = "knot://";

/// Longest host name in bytes (RFC 1035 section 2.3.4, in its text form).
pub const HOST_LEN_MAX: usize = 253;

/// Where the server is, which key it must show, and what admits this node to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// A host name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// The UDP port.
    pub port: u16,
    /// The only key that is accepted from it.
    pub key: PeerId,
    /// Needed for the first registration of a key at a server that is not open.
    pub token: Option<Token>,
}

impl ServerUrl {
    /// The whole line, token included: for a configuration file, never for a log.
    pub fn reveal(&self) -> String {
        match &self.token {
            Some(token) => format!("{self}?token={}", token.reveal()),
            None => self.to_string(),
        }
    }
}

impl fmt::Display for ServerUrl {
    /// The line without its token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "{SCHEME}[{}]:{}/{}", self.host, self.port, self.key)
        } else {
            write!(f, "{SCHEME}{}:{}/{}", self.host, self.port, self.key)
        }
    }
}

impl FromStr for ServerUrl {
    type Err = ServerUrlError;

    fn from_str(text: &str) -> Result<Self, ServerUrlError> {
        let rest = text.trim().strip_prefix(SCHEME).ok_or(ServerUrlError::Scheme)?;
        let (place, query) = match rest.split_once('?') {
            Some((place, query)) => (place, Some(query)),
            None => (rest, None),
        };
        let (authority, key) = place.split_once('/').ok_or(ServerUrlError::KeyMissing)?;
        let key = key.trim_end_matches('/');
        if key.is_empty() {
            return Err(ServerUrlError::KeyMissing);
        }
        let (host, port) = split_authority(authority)?;
        let token = match query.filter(|query| !query.is_empty()) {
            Some(query) => Some(
                query
                    .strip_prefix("token=")
                    .ok_or(ServerUrlError::Query)?
                    .parse()?,
            ),
            None => None,
        };
        Ok(Self {
            host,
            port,
            key: key.parse()?,
            token,
        })
    }
}

fn split_authority(authority: &str) -> Result<(String, u16), ServerUrlError> {
    let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, port) = bracketed.split_once(']').ok_or(ServerUrlError::Host)?;
        host.parse::<Ipv6Addr>().map_err(|_| ServerUrlError::Host)?;
        (host, port)
    } else {
        let end = authority.find(':').unwrap_or(authority.len());
        authority.split_at(end)
    };
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_' | b':');
    if host.is_empty() || host.len() > HOST_LEN_MAX || !host.bytes().all(legal) {
        return Err(ServerUrlError::Host);
    }
    let port = match port.strip_prefix(':') {
        Some(port) => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or(ServerUrlError::Port)?,
        None if port.is_empty() => SERVER_PORT,
        None => return Err(ServerUrlError::Port),
    };
    Ok((host.to_owned(), port))
}

/// Text that is not a server's line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ServerUrlError {
    /// It does not begin with `knot://`.
    #[error("a server address begins with knot://")]
    Scheme,
    /// No legal host name or address.
    #[error("the host in the server address is neither a name nor an address")]
    Host,
    /// The port is not a number from 1 to 65535.
    #[error("the port in the server address is not a number from 1 to 65535")]
    Port,
    /// The server's key is missing.
    #[error(
        "the server address lacks the server's key after the host: copy the whole line that the server printed"
    )]
    KeyMissing,
    /// Something other than a token follows the question mark.
    #[error("only token=... may follow the question mark in a server address")]
    Query,
    /// The key or the token is malformed.
    #[error(transparent)]
    Id(#[from] IdError),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> PeerId {
        PeerId::from_spki(b"server")
    }

    #[test]
    fn a_line_survives_its_text_form() {
        for host in ["knot.example.org", "192.0.2.1", "[2001:db8::1]"] {
            let text = format!("knot://{host}:5668/{}?token=abc-def", key());
            let url: ServerUrl = text.parse().unwrap();
            assert_eq!(url.key, key());
            assert_eq!(url.reveal(), text);
            assert_eq!(
                url.to_string(),
                text.trim_end_matches("?token=abc-def"),
                "the token is not shown"
            );
        }
    }

    #[test]
    fn the_port_has_a_default_and_the_token_may_be_absent() {
        let url: ServerUrl = format!(" knot://host/{}\n", key()).parse().unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.token),
            ("host", SERVER_PORT, None)
        );
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let key = key();
        for (text, error) in [
            ("http://host/".to_owned(), ServerUrlError::Scheme),
            ("knot://host:5668".to_owned(), ServerUrlError::KeyMissing),
            ("knot://host:5668/".to_owned(), ServerUrlError::KeyMissing),
            (format!("knot://:5668/{key}"), ServerUrlError::Host),
            (format!("knot://ho\u{1b}st/{key}"), ServerUrlError::Host),
            (format!("knot://[fe80/{key}"), ServerUrlError::Host),
            (format!("knot://host:0/{key}"), ServerUrlError::Port),
            (format!("knot://host:99999/{key}"), ServerUrlError::Port),
            (format!("knot://[::1]5668/{key}"), ServerUrlError::Port),
            (format!("knot://host/{key}?key=1"), ServerUrlError::Query),
            (
                "knot://host/abc".to_owned(),
                ServerUrlError::Id(IdError::PeerIdText),
            ),
            (
                format!("knot://host/{key}?token="),
                ServerUrlError::Id(IdError::TokenText),
            ),
        ] {
            assert_eq!(text.parse::<ServerUrl>(), Err(error), "{text}");
        }
    }
}
