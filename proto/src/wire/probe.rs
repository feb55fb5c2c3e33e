//! Probes: 64-byte datagrams by which two nodes prove a path to each other.
//!
//! ```text
//!  0       1        2       3       4        12      20      28         46          48        64
//!  | 0x04  | layout | flags | round | tag    | nonce | echo  | observed | 0  0      | MAC     |
//!  | 1     | 1 = 1  | 1     | 1     | 8      | 8     | 8     | 18       | 2         | 16      |
//! ```
//!
//! Numbers are big-endian. `tag` finds the session, `nonce` is to be echoed, `echo` is the last nonce that the sender
//! got from this address (0: none). `observed` is where the sender saw the other side's datagrams come from (16 bytes
//! IPv6 or IPv4-mapped, 2 bytes port; zero: not yet), XORed with a pad so that no box on the way rewrites it. The MAC
//! is BLAKE3 keyed with the sender's direction of the session key, over everything before it, cut to 128 bits.
//!
//! Only a probe with [`Flags::ANSWER_ME`] is ever answered, and the answer never carries that flag: a reply cannot
//! cause a reply. An answer has the size of its question.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::addr::canonical;
use crate::id::{PairSecret, PeerId, SessionId, SessionTag};

/// First byte of a probe.
pub const FIRST_BYTE: u8 = 4;

/// Length of every probe in bytes.
pub const LEN: usize = 64;

// The only layout there is, then where each field begins, as drawn above.
const LAYOUT: u8 = 1;
const TAG: usize = 4;
const NONCE: usize = 12;
const ECHO: usize = 20;
const OBSERVED: usize = 28;
const RESERVED: usize = 46;
const MAC: usize = 48;
const OBSERVED_LEN: usize = 18;

/// Bits in the third byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// The sender wants its nonce echoed.
    pub const ANSWER_ME: Self = Self(1);
    /// The sender has seen its own nonce echoed on this pair of addresses.
    pub const PROVEN: Self = Self(2);
    /// The sender sends its traffic on this pair of addresses.
    pub const IN_USE: Self = Self(4);

    // A probe with other bits set is of a later layout and is dropped.
    const KNOWN: u8 = 7;

    /// Does this set hold all of `other`?
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets together.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// What a probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// See [`Flags`].
    pub flags: Flags,
    /// The sender's round of the session.
    pub round: u8,
    /// Random, never 0; to be echoed if the flags ask for it.
    pub nonce: u64,
    /// The last nonce that the sender got on this pair of addresses; 0 if none.
    pub echo: u64,
    /// Where the sender saw the receiver's datagrams come from.
    pub observed: Option<SocketAddr>,
}

/// Keys of one session, seen from one side.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ProbeKeys {
    tag: [u8; 8],
    outbound: [u8; 32],
    inbound: [u8; 32],
    pad: [u8; OBSERVED_LEN],
}

impl ProbeKeys {
    /// Keys from what the two machines share, the session, and which of the two this side is.
    pub fn new(secret: &PairSecret, session: SessionId, own: PeerId, peer: PeerId) -> Self {
        let direction = |sender: PeerId| {
            let mut hasher = blake3::Hasher::new_derive_key("knothole 1 probe key");
            hasher
                .update(secret.as_bytes())
                .update(session.as_bytes())
                .update(sender.as_bytes());
            *hasher.finalize().as_bytes()
        };
        let mut pad = [0; OBSERVED_LEN];
        let mut hasher = blake3::Hasher::new_derive_key("knothole 1 probe address pad");
        hasher.update(secret.as_bytes()).update(session.as_bytes());
        hasher.finalize_xof().fill(&mut pad);
        Self {
            tag: session.tag().0,
            outbound: direction(own),
            inbound: direction(peer),
            pad,
        }
    }

    /// The tag that probes of this session carry.
    pub fn tag(&self) -> SessionTag {
        SessionTag(self.tag)
    }

    /// Write and authenticate a probe.
    pub fn seal(&self, probe: &Probe) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[0] = FIRST_BYTE;
        bytes[1] = LAYOUT;
        bytes[2] = probe.flags.0;
        bytes[3] = probe.round;
        bytes[TAG..NONCE].copy_from_slice(&self.tag);
        bytes[NONCE..ECHO].copy_from_slice(&probe.nonce.to_be_bytes());
        bytes[ECHO..OBSERVED].copy_from_slice(&probe.echo.to_be_bytes());
        let mut observed = write_address(probe.observed);
        xor(&mut observed, &self.pad);
        bytes[OBSERVED..RESERVED].copy_from_slice(&observed);
        let mac = mac(&self.outbound, &bytes[..MAC]);
        bytes[MAC..].copy_from_slice(&mac);
        bytes
    }

    /// Read a probe of this session that the other side sealed; `None` if it is anything else.
    pub fn open(&self, datagram: &[u8]) -> Option<Probe> {
        if session_of(datagram)? != self.tag() {
            return None;
        }
        let bytes: &[u8; LEN] = datagram.try_into().ok()?;
        let authentic: bool = mac(&self.inbound, &bytes[..MAC]).ct_eq(&bytes[MAC..]).into();
        if !authentic || bytes[1] != LAYOUT || bytes[2] & !Flags::KNOWN != 0 || bytes[RESERVED..MAC] != [0, 0]
        {
            return None;
        }
        let mut observed = [0; OBSERVED_LEN];
        observed.copy_from_slice(&bytes[OBSERVED..RESERVED]);
        xor(&mut observed, &self.pad);
        let nonce = number(bytes, NONCE);
        (nonce != 0).then_some(Probe {
            flags: Flags(bytes[2]),
            round: bytes[3],
            nonce,
            echo: number(bytes, ECHO),
            observed: read_address(observed),
        })
    }
}

impl std::fmt::Debug for ProbeKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ProbeKeys({:?})", self.tag())
    }
}

/// The session that a datagram claims to be a probe of; `None` if it has not the form of a probe.
pub fn session_of(datagram: &[u8]) -> Option<SessionTag> {
    let bytes: &[u8; LEN] = datagram.try_into().ok()?;
    if bytes[0] != FIRST_BYTE {
        return None;
    }
    let mut tag = [0; 8];
    tag.copy_from_slice(&bytes[TAG..NONCE]);
    Some(SessionTag(tag))
}

fn mac(key: &[u8; 32], bytes: &[u8]) -> [u8; LEN - MAC] {
    let full = blake3::keyed_hash(key, bytes);
    let mut short = [0; LEN - MAC];
    short.copy_from_slice(&full.as_bytes()[..LEN - MAC]);
    short
}

fn number(bytes: &[u8; LEN], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(number)
}

fn xor(bytes: &mut [u8; OBSERVED_LEN], pad: &[u8; OBSERVED_LEN]) {
    for (byte, pad) in bytes.iter_mut().zip(pad) {
        *byte ^= pad;
    }
}

fn write_address(addr: Option<SocketAddr>) -> [u8; OBSERVED_LEN] {
    let mut bytes = [0; OBSERVED_LEN];
    if let Some(addr) = addr {
        let ip = match addr.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        bytes[..16].copy_from_slice(&ip.octets());
        bytes[16..].copy_from_slice(&addr.port().to_be_bytes());
    }
    bytes
}

fn read_address(bytes: [u8; OBSERVED_LEN]) -> Option<SocketAddr> {
    let mut ip = [0; 16];
    ip.copy_from_slice(&bytes[..16]);
    let port = u16::from_be_bytes([bytes[16], bytes[17]]);
    let addr = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, 0));
    (bytes != [0; OBSERVED_LEN]).then(|| canonical(addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (ProbeKeys, ProbeKeys) {
        let (a, b) = (PeerId::from_spki(b"a"), PeerId::from_spki(b"b"));
        let (secret, session) = (PairSecret::from_bytes([3; 32]), SessionId::from_bytes([9; 16]));
        (
            ProbeKeys::new(&secret, session, a, b),
            ProbeKeys::new(&secret, session, b, a),
        )
    }

    fn probe() -> Probe {
        Probe {
            flags: Flags::ANSWER_ME.with(Flags::PROVEN),
            round: 2,
            nonce: 0x0102_0304_0506_0708,
            echo: 0x1112_1314_1516_1718,
            observed: Some("5.5.5.5:4660".parse().unwrap()),
        }
    }

    #[test]
    fn the_other_side_reads_what_was_sealed_and_nobody_else_does() {
        let (a, b) = keys();
        let bytes = a.seal(&probe());
        assert_eq!(b.open(&bytes), Some(probe()));
        assert_eq!(
            a.open(&bytes),
            None,
            "an own probe that comes back proves nothing"
        );
        for at in 0..LEN {
            let mut bent = bytes;
            bent[at] ^= 1;
            assert_eq!(b.open(&bent), None, "byte {at}");
        }
        assert_eq!(b.open(&bytes[..LEN - 1]), None);
        assert_eq!(b.open(&[bytes.as_slice(), &[0]].concat()), None);
    }

    #[test]
    fn the_layout_is_that_of_the_protocol_text() {
        let bytes = keys().0.seal(&Probe {
            observed: None,
            ..probe()
        });
        assert_eq!(bytes[..4], [4, 1, 3, 2]);
        assert_eq!(bytes[4..12], [9; 8]);
        assert_eq!(bytes[12..20], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(bytes[20..28], [0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18]);
        assert_eq!(bytes[46..48], [0, 0]);
    }

    #[test]
    fn an_address_is_nowhere_in_clear() {
        let bytes = keys().0.seal(&probe());
        assert!(!bytes.windows(4).any(|w| w == [5, 5, 5, 5]));
        let v6 = Probe {
            observed: Some("[2a00::1]:9".parse().unwrap()),
            ..probe()
        };
        let (a, b) = keys();
        assert_eq!(b.open(&a.seal(&v6)), Some(v6));
    }
}
