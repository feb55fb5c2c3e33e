//! How far a transfer is: a line of its own on a terminal, one below the other if there are several, and now and then an
//! event for programs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use knothole_proto::path::Path;
use serde_json::json;

use super::output::{Output, path_fields, path_words, rate};

/// Shortest time between two `transfer` events; a script wants to see progress, not to be busy with it.
const TRANSFER_EVERY: Duration = Duration::from_millis(500);

/// One transfer. Its line goes with it.
pub(super) struct Meter {
    output: Arc<Output>,
    name: String,
    peer: String,
    total: u64,
    bar: Option<ProgressBar>,
    pace: Mutex<Pace>,
}

impl Meter {
    /// It begins; so much of it is there. `label` says on the line whose it is.
    pub(super) fn begin(
        output: &Arc<Output>,
        name: &str,
        peer: &str,
        label: &str,
        total: u64,
        there: u64,
    ) -> Self {
        let bar = output.add_line(|| {
            let bar = ProgressBar::new(total).with_style(style(!label.is_empty()));
            bar.set_prefix(label.to_owned());
            bar
        });
        if let Some(bar) = &bar {
            // The rate is that of bytes that move now.
            bar.set_position(there);
            bar.reset_eta();
        }
        Self {
            output: Arc::clone(output),
            name: name.to_owned(),
            peer: peer.to_owned(),
            total,
            bar,
            pace: Mutex::new(Pace {
                seen: (Instant::now(), there),
                rate: None,
            }),
        }
    }

    /// It came so far, on this path.
    pub(super) fn at(&self, bytes: u64, path: &Path) {
        if let Some(bar) = &self.bar {
            bar.set_message(path_words(path));
            bar.set_position(bytes);
        }
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rate) = pace.look(bytes, Instant::now()) else {
            return;
        };
        drop(pace);
        let left_s = (rate > 0).then(|| self.total.saturating_sub(bytes).div_ceil(rate));
        self.output.event(
            "transfer",
            json!({
                "name": self.name, "peer": self.peer, "bytes": bytes, "total": self.total, "rate": rate,
                "left_s": left_s, "path": path_fields(path),
            }),
        );
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            self.output.remove_line(bar);
        }
    }
}

/// How fast it is.
struct Pace {
    /// When it was last told how far it is, and how far that was.
    seen: (Instant, u64),
    rate: Option<u64>,
}

impl Pace {
    /// Bytes a second of late, if it is time to tell them.
    fn look(&mut self, bytes: u64, now: Instant) -> Option<u64> {
        let (then, before) = self.seen;
        let took = now.duration_since(then);
        // The first is told at once: a script sees that it has begun.
        if took < TRANSFER_EVERY && self.rate.is_some() {
            return None;
        }
        let late = rate(bytes.saturating_sub(before), took);
        // Half of what was: a rate that jumps makes a time left that nobody believes.
        let smooth = self.rate.map_or(late, |rate| rate / 2 + late / 2);
        self.seen = (now, bytes);
        self.rate = Some(smooth);
        Some(smooth)
    }
}

fn style(labelled: bool) -> ProgressStyle {
    let label = if labelled { "{prefix}  " } else { "" };
    // With eighty columns some twenty-four are left for the path.
    let rest = "{bytes:>10} of {total_bytes} {bar:8} {bytes_per_sec}  {eta} left  {wide_msg}";
    let ascii = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    // Fails only for a template that is none.
    ProgressStyle::with_template(&format!("{label}{rest}"))
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars(if ascii { "=> " } else { "━╸─" })
}

#[cfg(test)]
mod tests {
    use std::io;

    use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};
    use knothole_proto::path::Why;

    use super::*;

    /// A terminal that remembers what was last drawn on it.
    #[derive(Clone, Debug, Default)]
    struct Paper(Arc<Mutex<[Vec<String>; 2]>>);

    impl Paper {
        fn drawn(&self) -> Vec<String> {
            let lines = self.0.lock().unwrap()[1].clone();
            let bare = lines.iter().map(|line| line.trim().to_owned());
            bare.filter(|line| !line.is_empty()).collect()
        }

        fn write(&self, text: &str) -> io::Result<()> {
            self.0.lock().unwrap()[0].push(text.to_owned());
            Ok(())
        }
    }

    impl TermLike for Paper {
        fn width(&self) -> u16 {
            80
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write(text)
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.write(text)
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            let mut lines = self.0.lock().unwrap();
            lines[1] = std::mem::take(&mut lines[0]);
            Ok(())
        }
    }

    #[test]
    fn every_transfer_has_a_line_with_its_name_until_it_ends() {
        let paper = Paper::default();
        let target = ProgressDrawTarget::term_like(Box::new(paper.clone()));
        let output = Arc::new(Output::on(MultiProgress::with_draw_target(target)));
        let begin = |peer: &str, label: &str| Meter::begin(&output, "x", peer, label, 2_000, 0);
        let drawn = || {
            output.beside_the_lines(|| ());
            paper.drawn()
        };
        let (nas, laptop) = (begin("nas", "nas   "), begin("laptop", "laptop"));
        nas.at(500, &Path::Relay(Why::Policy));
        laptop.at(1_500, &Path::Relay(Why::Punching));
        let lines = drawn();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].starts_with("nas          500 B of 1.95 KiB"),
            "{lines:?}"
        );
        assert!(
            lines[1].starts_with("laptop    1.46 KiB of 1.95 KiB"),
            "{lines:?}"
        );
        // The rest of it stands where the rate leaves room.
        assert!(lines[1].contains("  relay: still"), "{lines:?}");
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{lines:?}");
        drop(nas);
        let lines = drawn();
        assert!(lines.len() == 1 && lines[0].starts_with("laptop"), "{lines:?}");
        drop(laptop);
        assert_eq!(drawn(), [""; 0]);
    }

    #[test]
    fn the_rate_is_told_at_once_and_then_every_half_second() {
        let begun = Instant::now();
        let mut pace = Pace {
            seen: (begun, 0),
            rate: None,
        };
        let ms = |ms| begun + Duration::from_millis(ms);
        assert_eq!(pace.look(1_000, ms(100)), Some(10_000));
        assert_eq!(pace.look(2_000, ms(500)), None);
        assert_eq!(pace.look(6_000, ms(600)), Some(10_000));
    }
}
