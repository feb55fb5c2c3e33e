//! A second opinion: `turnutils_natdiscovery` of coturn asks our observer from the host that is measured.

use std::io::{ErrorKind, Read};
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

/// Lets the program measure mapping and filter over IPv4. `None` where that cannot be: no IPv4, UDP blocked.
pub(super) fn opinion(
    ground: &mut Namespaces<'_>,
    stage: &Stage,
    measured: &Facts,
) -> Result<Option<Second>, VerifyError> {
    let view = stage.views().into_iter().find(|view| view.path == Path::V4);
    let reach = measured.get(Path::V4, Property::Reach);
    let Some(view) = view.filter(|_| reach != Some(Value::Reach(Reach::Blocked))) else {
        return Ok(None);
    };
    let mut command = Command::new(PROGRAM);
    let [server, ..] = view.servers;
    command
        .args(["-m", "-f", "-p", &server.port().to_string()])
        .arg(server.ip().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = ground.spawn(command)?;
    let mut bench = Bench::new(ground, LOOK);
    let answered = bench
        .observe(&view)
        .and_then(|sockets| serve(&mut bench, &mut child).map(|()| sockets));
    let sockets = match answered {
        Ok(sockets) => sockets,
        Err(error) => {
            end(&mut child);
            return Err(error.into());
        }
    };
    bench.close(sockets);
    let text = output(&mut child).map_err(|source| LabError::Spawn {
        program: PROGRAM.to_owned(),
        source,
    })?;
    Ok(Some(judge(&text, measured)))
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

/// Its words for mapping and filter, and where they contradict ours.
fn judge(text: &str, measured: &Facts) -> Second {
    let mut second = Second::default();
    let questions = [(Property::Mapping, MAPPINGS), (Property::Filtering, FILTERS)];
    for (property, sentences) in questions {
        let ours = measured.get(Path::V4, property).map(|value| value.to_string());
        let says = says(text, &sentences);
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
    second
}

/// Which of the sentences is in the text. One is the end of another, so that it is looked at what stands before.
fn says(text: &str, sentences: &[(&str, &'static str)]) -> Option<&'static str> {
    let lines = text.lines().map(str::trim);
    let mut words = lines.filter_map(|line| {
        let found = sentences.iter().filter(|(sentence, _)| line.contains(sentence));
        found
            .max_by_key(|(sentence, _)| sentence.len())
            .map(|(_, word)| *word)
    });
    words.next()
}
