//! Text that another machine supplied, made safe to show.
//!
//! Not for storing or comparing: [`Untrusted`] only displays. Whatever could move a cursor, recolour a terminal, start
//! a new line in a log, or make text read differently than it is stored is written as `\u{..}` instead.

use std::fmt::{self, Write};

/// Most characters shown of one piece of remote text. A file name has at most 255 bytes; longer text is not a name.
const SHOWN_CHARS_MAX: usize = 512;

/// Displays remote text with everything dangerous escaped, and cut at 512 characters.
#[derive(Clone, Copy)]
pub struct Untrusted<'a>(pub &'a str);

impl fmt::Display for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shown, c) in self.0.chars().enumerate() {
            if shown == SHOWN_CHARS_MAX {
                return f.write_str("...");
            }
            if is_dangerous(c) || c == '\\' {
                write!(f, "{}", c.escape_unicode())?;
            } else {
                f.write_char(c)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Untrusted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

/// Does this character control rather than show?
pub fn is_dangerous(c: char) -> bool {
    c.is_control() || is_bidi_control(c) || is_invisible(c)
}

/// Characters that reorder what follows (Unicode Standard Annex 9, table 4), and the line separators.
pub fn is_bidi_control(c: char) -> bool {
    matches!(c,
        '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// Characters without width that hide or join: zero-width spaces and joiners, soft hyphen, fillers, variation
/// selectors, the byte order mark, interlinear annotation, invisible operators and tags.
pub fn is_invisible(c: char) -> bool {
    matches!(c,
        '\u{00AD}' | '\u{034F}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{180B}'..='\u{180F}'
        | '\u{200B}'..='\u{200D}' | '\u{2060}'..='\u{2065}' | '\u{206A}'..='\u{206F}' | '\u{3164}'
        | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF0}'..='\u{FFFB}' | '\u{1BCA0}'..='\u{1BCA3}'
        | '\u{1D173}'..='\u{1D17A}' | '\u{E0000}'..='\u{E0FFF}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_that_controls_survives() {
        for c in (0..=0x0010_FFFF).filter_map(char::from_u32) {
            let shown = Untrusted(&c.to_string()).to_string();
            assert!(!shown.chars().any(is_dangerous), "{c:?} shows as {shown:?}");
        }
    }

    #[test]
    fn an_escape_sequence_becomes_readable_text() {
        let name = "a\u{1b}[31mred\r\nb\u{202e}gpj.exe";
        assert_eq!(
            Untrusted(name).to_string(),
            "a\\u{1b}[31mred\\u{d}\\u{a}b\\u{202e}gpj.exe"
        );
    }

    #[test]
    fn a_written_out_escape_cannot_pass_for_a_real_one() {
        assert_ne!(Untrusted("\u{1b}").to_string(), Untrusted("\\u{1b}").to_string());
    }

    #[test]
    fn ordinary_text_in_any_script_is_shown_as_it_is() {
        for text in ["report 2026 (1).pdf", "Übung", "写真", "صورة", "фото", "😀"] {
            assert_eq!(Untrusted(text).to_string(), text);
        }
    }

    #[test]
    fn long_text_is_cut() {
        assert_eq!(Untrusted(&"x".repeat(10_000)).to_string().len(), 515);
    }
}
