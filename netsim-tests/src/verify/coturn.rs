//! A second opinion: `turnutils_natdiscovery` of coturn asks our observer from the host that is measured.
//!
//! Its third question on mapping is to go to the second address and second port (RFC 5780 section 4.3), but it takes them
//! from the second answer's OTHER-ADDRESS, which counts from where that answer came (section 7.4): it asks the first address
//! at the second port, and calls an address-dependent mapping address and port dependent. What it saw is right, and the
//! first and third answer, of one address, tell the two apart.

use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::netns::LabError;

use super::batch::VerifyError;
use super::bench::Bench;
use super::facts::{Facts, Path, Property, Reach, Value};
use super::ground::{GroundError, Stage};
use super::namespaces::Namespaces;
use super::report::Second;

/// The program, found by its name.
const PROGRAM: &str = "turnutils_natdiscovery";

/// Longest run of it: a filter test waits some seconds for answers that do not come.
const LONGEST: Duration = Duration::from_secs(30);

/// How often it is looked whether it has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Most bytes of its output that are read.
const OUTPUT_MAX: u64 = 65_536;

/// What it says of its findings, and our words for them. It has one sentence for each.
const MAPPINGS: [(&str, &str); 3] = [
    ("Endpoint Independent Mapping", "EIM"),
    ("Address Dependent Mapping", "ADM"),
    ("Address and Port Dependent Mapping", "APDM"),
];
const FILTERS: [(&str, &str); 3] = [
    ("Endpoint Independent Filtering", "EIF"),
    ("Address Dependent Filtering", "ADF"),
    ("Address and Port Dependent Filtering", "APDF"),
];

/// Is the program installed?
#[must_use]
pub fn has_coturn() -> bool {
    let run = Command::new(PROGRAM)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    !run.is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Its words for mapping and filter, ours as it were; `None` where it said nothing of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words {
    mapping: Option<&'static str>,
    filtering: Option<&'static str>,
}

/// Lets the program measure mapping and filter over IPv4. `None` where there is no IPv4.
pub(super) fn opinion(ground: &mut Namespaces<'_>, stage: &Stage) -> Result<Option<Words>, VerifyError> {
    let Some(view) = stage.views().into_iter().find(|view| view.path == Path::V4) else {
        return Ok(None);
    };
    let host = ground.subject()?;
    let mut bench = Bench::new(ground, LOOK);
    // The program asks each question once: whoever answers must be there first.
    let sockets = bench.observe(&view)?;
    let mut child = host.spawn(command(view.servers[0]))?;
    if let Err(error) = serve(&mut bench, &mut child) {
        end(&mut child);
        return Err(error.into());
    }
    bench.close(sockets);
    let text = output(&mut child).map_err(|source| LabError::Spawn {
        program: PROGRAM.to_owned(),
        source,
    })?;
    Ok(Some(Words {
        mapping: mapping(&text),
        filtering: says(&text, &FILTERS),
    }))
}

fn command(server: SocketAddr) -> Command {
    let mut command = Command::new(PROGRAM);
    command
        .args(["-m", "-f", "-p", &server.port().to_string()])
        .arg(server.ip().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// Answers until the program has ended, or has had its time.
fn serve(bench: &mut Bench<'_>, child: &mut Child) -> Result<(), GroundError> {
    let until = Instant::now() + LONGEST;
    while Instant::now() < until && matches!(child.try_wait(), Ok(None)) {
        bench.wait(LOOK)?;
    }
    Ok(())
}

fn output(child: &mut Child) -> std::io::Result<String> {
    end(child);
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(OUTPUT_MAX).read_to_end(&mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Ends the program if it has not ended yet.
fn end(child: &mut Child) {
    // It may be gone already, which is what is wanted.
    let _gone = child.kill();
    let _reaped = child.wait();
}

impl Words {
    /// The opinion, and where it contradicts what was measured; `None` where no UDP gets out.
    pub(super) fn judge(self, measured: &Facts) -> Option<Second> {
        if measured.get(Path::V4, Property::Reach) == Some(Value::Reach(Reach::Blocked)) {
            return None;
        }
        let mut second = Second::default();
        let words = [
            (Property::Mapping, self.mapping),
            (Property::Filtering, self.filtering),
        ];
        for (property, says) in words {
            let ours = measured.get(Path::V4, property).map(|value| value.to_string());
            let theirs = says.unwrap_or("nothing");
            if !second.says.is_empty() {
                second.says.push_str(", ");
            }
            second.says.push_str(theirs);
            if ours.as_deref() != says {
                let (word, ours) = (property.word(), ours.as_deref().unwrap_or("nothing"));
                let contradiction = format!("coturn's client finds the {word} {theirs}, measured was {ours}");
                second.contradictions.push(contradiction);
            }
        }
        Some(second)
    }
}

/// Its word for the mapping, or what its three answers say where it asked otherwise than it thinks.
fn mapping(text: &str) -> Option<&'static str> {
    let said = says(text, &MAPPINGS)?;
    let seen = answers(text);
    match (said, seen.as_slice()) {
        ("APDM", [first, _, third, ..]) if first.0.ip() == third.0.ip() && first.1 == third.1 => Some("ADM"),
        _ => Some(said),
    }
}

/// Who answered, and as whom he saw the program's socket; in the order of the answers.
fn answers(text: &str) -> Vec<(SocketAddr, SocketAddr)> {
    let (mut origin, mut answers) = (None, Vec::new());
    for line in text.lines() {
        let address = |after: &str| {
            let (_, rest) = line.split_once(after)?;
            rest.trim_start_matches([':', ' ']).trim().parse().ok()
        };
        if let Some(from) = address("Response origin") {
            origin = Some(from);
        } else if let (Some(origin), Some(seen)) = (origin, address("UDP reflexive addr")) {
            answers.push((origin, seen));
        }
    }
    answers
}

/// Which of the sentences is in the text; the longest, since one contains another.
fn says(text: &str, sentences: &[(&str, &'static str)]) -> Option<&'static str> {
    let mut words = text.lines().filter_map(|line| {
        let found = sentences.iter().filter(|(sentence, _)| line.contains(sentence));
        found
            .max_by_key(|(sentence, _)| sentence.len())
            .map(|(_, word)| *word)
    });
    words.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "-= Mapping Behavior Discovery =-\n";

    fn three(third: &str) -> String {
        let answer = |origin, seen| {
            format!(
                "0: : IPv4. Response origin: : {origin}\n0: : IPv4. Other addr: : 5.5.5.2:3479\n\
                 0: : IPv4. UDP reflexive addr: {seen}\n"
            )
        };
        let first = answer("5.5.5.1:3478", "5.5.16.2:18708");
        let second = answer("5.5.5.2:3478", "5.5.16.2:57052");
        let third = answer("5.5.5.1:3479", third);
        format!("{HEAD}{first}{second}{third}NAT with Address and Port Dependent Mapping!\n")
    }

    #[test]
    fn an_address_dependent_mapping_is_told_by_what_the_program_saw() {
        assert_eq!(mapping(&three("5.5.16.2:18708")), Some("ADM"));
        assert_eq!(mapping(&three("5.5.16.2:18709")), Some("APDM"));
    }

    #[test]
    fn a_sentence_within_another_is_not_taken_for_it() {
        let text = "NAT with Address Dependent Filtering!\n";
        assert_eq!(says(text, &FILTERS), Some("ADF"));
        let text = "No NAT! (Endpoint Independent Mapping)\n";
        assert_eq!(mapping(text), Some("EIM"));
        assert_eq!(mapping("STUN receive timeout..\n"), None);
    }
}
