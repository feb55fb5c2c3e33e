//! The exchange by which two machines that know one code come to share a secret: SPAKE2, then proof in both directions.
//!
//! It is not the nameplate (the server keeps that) and has no deadline (whoever drives it has). To drive it: create it
//! once both sides are at the nameplate, carry what [`PairAgent::poll_message`] gives to the other side, feed what
//! comes from there to [`PairAgent::handle_message`], and look at [`PairAgent::poll_outcome`] after each.
//!
//! ```text
//! both:  1 | element                    the SPAKE2 message, 33 bytes
//! both:  2 | peer id | name | MAC       who I am, under a key that only the same code gives
//! both:  3 | MAC                        I have accepted what you said
//! ```
//!
//! Whoever carries the messages gets one guess at the code: a wrong one shows at the second message, and ends it.
//! Each direction has its own keys, so a message that is sent back to its author proves nothing. The third message
//! tells each side that the other one has accepted, so that none stores a partner which gave up.

use spake2::{Ed25519Group, Identity, Password, Spake2};
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::Code;
use crate::id::{Name, PairSecret, PeerId};
use crate::seed::Seed;

/// Which side of the nameplate this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairSide {
    /// Opened the nameplate and showed the code.
    Opener,
    /// Typed the code.
    Joiner,
}

/// What pairing gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paired {
    /// The other machine's key.
    pub peer: PeerId,
    /// The name that it calls itself.
    pub name: Option<Name>,
    /// What the two share from now on.
    pub secret: PairSecret,
}

/// Pairing failed: the codes differ, or somebody on the way meddled. The code is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the two codes differ, or somebody meddled")]
pub struct PairBroken;

/// One side of the exchange.
pub struct PairAgent {
    side: PairSide,
    own: PeerId,
    name: Option<Name>,
    state: State,
    message: Option<Vec<u8>>,
    outcome: Option<Result<Paired, PairBroken>>,
}

enum State {
    Element(Spake2<Ed25519Group>),
    Identity { key: [u8; 32], own: Vec<u8> },
    Ack { expected: [u8; MAC_LEN], paired: Paired },
    Over,
}

// First byte of each body, in the order in which they come; then the lengths of their parts in bytes.
const ELEMENT: u8 = 1;
const IDENTITY: u8 = 2;
const ACK: u8 = 3;
const ID_LEN: usize = 32;
const MAC_LEN: usize = 32;

impl PairAgent {
    /// A new exchange for `code`; `own` and `name` are what the other side will learn of this machine.
    pub fn new(code: &Code, side: PairSide, own: PeerId, name: Option<Name>, seed: &Seed) -> Self {
        let identity = format!("knothole 1 pairing at {}", code.nameplate().0);
        let (exchange, element) = Spake2::<Ed25519Group>::start_symmetric_with_rng(
            &Password::new(code.words()),
            &Identity::new(identity.as_bytes()),
            seed.rng().inner(),
        );
        Self {
            side,
            own,
            name,
            state: State::Element(exchange),
            message: Some(with_kind(ELEMENT, &element)),
            outcome: None,
        }
    }

    /// A message came from the other side, or from somebody who pretends to be it.
    pub fn handle_message(&mut self, body: &[u8]) {
        let state = std::mem::replace(&mut self.state, State::Over);
        let next = match (state, body.split_first()) {
            (State::Over, _) => return,
            (State::Element(exchange), Some((&ELEMENT, element))) => self.on_element(exchange, element),
            (State::Identity { key, own }, Some((&IDENTITY, _))) => self.on_identity(key, &own, body),
            (State::Ack { expected, paired }, Some((&ACK, mac))) => {
                bool::from(mac.ct_eq(&expected)).then(|| {
                    self.outcome = Some(Ok(paired));
                    State::Over
                })
            }
            _ => None,
        };
        match next {
            Some(state) => self.state = state,
            None => self.outcome = Some(Err(PairBroken)),
        }
    }

    /// The next message for the other side.
    pub fn poll_message(&mut self) -> Option<Vec<u8>> {
        self.message.take()
    }

    /// How it ended, once. Carry what [`Self::poll_message`] still gives before leaving the nameplate.
    pub fn poll_outcome(&mut self) -> Option<Result<Paired, PairBroken>> {
        self.outcome.take()
    }

    fn on_element(&mut self, exchange: Spake2<Ed25519Group>, element: &[u8]) -> Option<State> {
        let mut shared = exchange.finish(element).ok()?;
        let key = blake3::derive_key("knothole 1 pairing key", &shared);
        shared.zeroize();
        let own = self.identity(&key);
        self.message = Some(own.clone());
        Some(State::Identity { key, own })
    }

    fn on_identity(&mut self, mut key: [u8; 32], own: &[u8], theirs: &[u8]) -> Option<State> {
        let paired = read_identity(&key, self.side.other(), theirs).filter(|(peer, _)| *peer != self.own);
        let state = paired.map(|(peer, name)| {
            let both = self.side.in_order(own, theirs);
            self.message = Some(with_kind(ACK, &mac(&key, Purpose::Ack, self.side, &both)));
            State::Ack {
                expected: mac(&key, Purpose::Ack, self.side.other(), &both),
                paired: Paired {
                    peer,
                    name,
                    secret: pair_secret(&key, self.own, peer),
                },
            }
        });
        key.zeroize();
        state
    }

    fn identity(&self, key: &[u8; 32]) -> Vec<u8> {
        let mut body = with_kind(IDENTITY, self.own.as_bytes());
        body.extend_from_slice(self.name.as_ref().map_or("", Name::as_str).as_bytes());
        let mac = mac(key, Purpose::Identity, self.side, &body);
        body.extend_from_slice(&mac);
        body
    }
}

impl std::fmt::Debug for PairAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PairAgent")
            .field("side", &self.side)
            .finish_non_exhaustive()
    }
}

impl PairSide {
    fn other(self) -> Self {
        match self {
            Self::Opener => Self::Joiner,
            Self::Joiner => Self::Opener,
        }
    }

    fn in_order(self, own: &[u8], theirs: &[u8]) -> Vec<u8> {
        match self {
            Self::Opener => [own, theirs].concat(),
            Self::Joiner => [theirs, own].concat(),
        }
    }
}

#[derive(Clone, Copy)]
enum Purpose {
    Identity,
    Ack,
}

fn with_kind(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(1 + body.len());
    message.push(kind);
    message.extend_from_slice(body);
    message
}

fn read_identity(key: &[u8; 32], sender: PairSide, message: &[u8]) -> Option<(PeerId, Option<Name>)> {
    let (body, tag) = message.split_at_checked(message.len().checked_sub(MAC_LEN)?)?;
    let authentic: bool = mac(key, Purpose::Identity, sender, body).ct_eq(tag).into();
    let (peer, name) = body.get(1..)?.split_at_checked(ID_LEN)?;
    let name = std::str::from_utf8(name).ok()?;
    let name = if name.is_empty() {
        None
    } else {
        Some(name.parse().ok()?)
    };
    let peer = PeerId::from_bytes(peer.try_into().ok()?);
    authentic.then_some((peer, name))
}

/// MAC under a key that depends on what it is for and who sends it.
fn mac(key: &[u8; 32], purpose: Purpose, sender: PairSide, body: &[u8]) -> [u8; MAC_LEN] {
    let context = match (purpose, sender) {
        (Purpose::Identity, PairSide::Opener) => "knothole 1 pairing identity of opener",
        (Purpose::Identity, PairSide::Joiner) => "knothole 1 pairing identity of joiner",
        (Purpose::Ack, PairSide::Opener) => "knothole 1 pairing acceptance of opener",
        (Purpose::Ack, PairSide::Joiner) => "knothole 1 pairing acceptance of joiner",
    };
    *blake3::keyed_hash(&blake3::derive_key(context, key), body).as_bytes()
}

fn pair_secret(key: &[u8; 32], own: PeerId, peer: PeerId) -> PairSecret {
    let mut hasher = blake3::Hasher::new_derive_key("knothole 1 pair secret");
    hasher
        .update(key)
        .update(own.min(peer).as_bytes())
        .update(own.max(peer).as_bytes());
    PairSecret::from_bytes(*hasher.finalize().as_bytes())
}
