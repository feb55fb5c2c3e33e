//! The code that one person reads to another: `7-copper-lantern`.
//!
//! The number says where to meet at the server and is public. The words are the secret; they never leave the two
//! machines, and one wrong guess uses the code up.

use std::fmt;
use std::str::FromStr;

use super::words::WORDS;
use crate::id::Nameplate;
use crate::seed::Rng;

/// Longest words part in bytes; two words of the list are at most 17.
pub const WORDS_LEN_MAX: usize = 64;

/// A pairing code.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    nameplate: Nameplate,
    words: String,
}

impl Code {
    /// A new code for a nameplate: two words of [`WORDS`], 20 bits. With one guess per nameplate and an exchange that
    /// gives nothing to test further guesses against, that is one chance in 1,048,576.
    pub fn generate(nameplate: Nameplate, rng: &mut Rng) -> Self {
        let mut word = || {
            let index = usize::try_from(rng.below(WORDS.len() as u64)).unwrap_or(0);
            WORDS[index % WORDS.len()]
        };
        let words = format!("{}-{}", word(), word());
        Self { nameplate, words }
    }

    /// Where to meet.
    pub fn nameplate(&self) -> Nameplate {
        self.nameplate
    }

    /// The secret part, in the form in which both sides feed it to the key exchange.
    pub fn words(&self) -> &str {
        &self.words
    }
}

impl FromStr for Code {
    type Err = CodeError;

    /// Reads what a person typed: case, surrounding space, and spaces for hyphens do not matter.
    fn from_str(text: &str) -> Result<Self, CodeError> {
        let text = text
            .trim()
            .to_ascii_lowercase()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join("-");
        let (number, words) = text.split_once('-').ok_or(CodeError)?;
        let nameplate = number.parse().map(Nameplate).map_err(|_| CodeError)?;
        let legal = |c: u8| c.is_ascii_lowercase() || c == b'-';
        if words.is_empty() || words.len() > WORDS_LEN_MAX || !words.bytes().all(legal) {
            return Err(CodeError);
        }
        Ok(Self {
            nameplate,
            words: words.to_owned(),
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.nameplate.0, self.words)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Code({}-..)", self.nameplate.0)
    }
}

/// Text that is not a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a code is a number and words, like 7-copper-lantern")]
pub struct CodeError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        let code: Code = "7-copper-lantern".parse().unwrap();
        assert_eq!(" 7 Copper  lantern\n".parse::<Code>(), Ok(code.clone()));
        assert_eq!(code.to_string(), "7-copper-lantern");
        assert_eq!(format!("{code:?}"), "Code(7-..)");
        for bad in [
            "",
            "7",
            "7-",
            "copper-lantern",
            "-1-a",
            "7-co\u{1b}pper",
            "99999999999-a",
        ] {
            assert_eq!(bad.parse::<Code>(), Err(CodeError), "{bad}");
        }
    }
}
