//! Pairing two machines by a short code that two people exchange.

mod agent;
mod code;
mod words;

pub use agent::{PairAgent, PairBroken, PairSide, Paired};
pub use code::{Code, CodeError, WORDS_LEN_MAX};
pub use words::WORDS;
