//! What happened in one attempt, in lines for people: what the nodes said, the probes, and what was lost of them.

use crate::sim::{Attempt, World};

/// Most lines: a round of probes and what came of it, without its repetitions.
const LINES_MAX: usize = 90;

/// Longest line in characters; what nodes say can be longer, and begins with what matters.
const LINE_MAX: usize = 170;

/// What the journal has besides: the control connection, pings, and STUN, which are the same in every attempt.
const BESIDES: [&str; 4] = [" wakes", " Quic ", " Relay ", " Stun "];

/// What is the same in every line and tells nothing here: there is one link, and one socket for each family.
const NUMBERS: [&str; 3] = [
    "link: LinkId(1), ",
    "socket: SocketId(0), ",
    "socket: SocketId(1), ",
];

/// Hosts by their number in the journal.
const HOSTS: [(&str, &str); 3] = [("0 ", "server "), ("1 ", "a "), ("2 ", "b ")];

/// Runs the attempt once more and writes down what concerns the path.
pub(super) fn of(attempt: &Attempt) -> Vec<String> {
    let mut world = World::at(attempt.epoch, attempt.seed);
    world.keep_journal();
    // What broke, if anything did, is in the cell already.
    let _ = attempt.observe(&mut world);
    let telling = |text: &str| {
        !BESIDES
            .iter()
            .any(|word| text.ends_with(word) || text.contains(word))
    };
    let mut lines = world.journal().filter(|line| telling(&line.text));
    let mut told: Vec<String> = lines
        .by_ref()
        .take(LINES_MAX)
        .map(|line| {
            let named = HOSTS
                .iter()
                .find_map(|(number, name)| Some(format!("{name}{}", line.text.strip_prefix(number)?)));
            let said = named.unwrap_or_else(|| line.text.clone());
            let said = NUMBERS.iter().fold(said, |said, number| said.replace(number, ""));
            let text = format!("{:>10.3} {said}", line.at.as_secs_f64() * 1000.0);
            match text.char_indices().nth(LINE_MAX) {
                Some((end, _)) => format!("{}...", &text[..end]),
                None => text,
            }
        })
        .collect();
    match lines.count() {
        0 => {}
        more => told.push(format!("... and {more} more like these")),
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::kind;
    use crate::sim::Weather;

    #[test]
    fn a_trace_has_the_probes_and_the_path_and_is_short() {
        let home = kind("port-restricted").unwrap();
        let lines = of(&Attempt::new(home, home, Weather::STEADY, 1));
        assert!(lines.len() <= LINES_MAX + 1, "{}", lines.len());
        assert!(
            lines
                .iter()
                .any(|line| line.contains(" a sends ") && line.contains("Probe")),
            "{lines:?}"
        );
        assert!(
            lines
                .iter()
                .any(|line| line.contains(" b says Path") && line.contains("Direct")),
            "{lines:?}"
        );
        assert!(
            lines
                .iter()
                .all(|line| line.chars().count() <= LINE_MAX + 3 && !line.contains("wakes"))
        );
    }
}
