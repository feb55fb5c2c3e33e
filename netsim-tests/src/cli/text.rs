//! Text for a terminal: lines that are no wider than the narrowest one.

/// Width of the narrowest terminal that is thought of, in columns.
pub(crate) const COLUMNS: usize = 80;

/// One line broken at spaces into as many as it takes, all but the first indented by so many columns.
pub(crate) fn wrap(line: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in line.split_inclusive(' ') {
        let width = word.trim_end().chars().count();
        if column > indent && column + width > COLUMNS {
            out.truncate(out.trim_end().len());
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
        }
        out.push_str(word);
        column += word.chars().count();
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_line_is_broken_at_spaces_and_a_short_one_is_left() {
        assert_eq!(wrap("short", 4), "short");
        let lines: Vec<String> = wrap(&"word ".repeat(40), 7)
            .split('\n')
            .map(ToOwned::to_owned)
            .collect();
        assert!(lines.len() == 3 && lines.iter().all(|l| l.trim_end().chars().count() <= COLUMNS));
        assert!(lines[1].starts_with("       word"), "{lines:?}");
    }

    #[test]
    fn a_word_wider_than_the_terminal_stays_whole() {
        let word = "x".repeat(100);
        assert_eq!(wrap(&word, 2), word);
    }
}
