//! Pairing two machines by a short code that two people exchange.

mod code;

pub use code::{Code, CodeError};
