//! Questions to the person at the terminal.
//!
//! A question ends with its answer, or is withdrawn when nobody needs one any more: from then on nothing reads what is typed,
//! so that it answers no other question than the one that was meant.

use std::io::{self, ErrorKind, stdin};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::process::getpgrp;
use rustix::termios::{QueueSelector, tcflush, tcgetpgrp};

use super::output::Output;

/// Longest answer in bytes; what is longer is no yes.
const ANSWER_LEN_MAX: usize = 256;

/// Something was typed.
const TYPED: Token = Token(0);

/// The question was withdrawn.
const WITHDRAWN: Token = Token(1);

/// Put a yes-or-no question to the person at the terminal. Anything but a yes is a no. Withdrawn when it is cancelled.
pub(super) async fn ask(output: &Output, question: &str) -> bool {
    output.ask(question);
    answer().await.is_ok_and(|answer| is_yes(&answer))
}

/// Forget what was typed until now, half a line included: it was not meant for what is asked next.
pub(super) fn forget_typed() {
    if is_in_background() {
        return;
    }
    // Fails at a terminal that is gone, and nobody answers at that.
    let _ = tcflush(stdin(), QueueSelector::IFlush);
}

/// Is what is typed meant for somebody else? Who touches the terminal then is stopped.
fn is_in_background() -> bool {
    tcgetpgrp(stdin()).is_ok_and(|group| group != getpgrp())
}

/// The next line that is typed.
async fn answer() -> io::Result<String> {
    let poll = Poll::new()?;
    let terminal = stdin().as_raw_fd();
    poll.registry()
        .register(&mut SourceFd(&terminal), TYPED, Interest::READABLE)?;
    let waker = Arc::new(Waker::new(poll.registry(), WITHDRAWN)?);
    let withdrawal = Withdrawal(Arc::clone(&waker));
    let reading = tokio::task::spawn_blocking(move || {
        // A waker that is gone wakes nobody, so it lives as long as its sleeper.
        let _waker = waker;
        read(poll)
    });
    let answer = reading.await.map_err(io::Error::other).flatten();
    drop(withdrawal);
    answer
}

/// Wait for a line and read it, unless the question is withdrawn before.
fn read(mut poll: Poll) -> io::Result<String> {
    let mut events = Events::with_capacity(2);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        if events.iter().any(|event| event.token() == WITHDRAWN) {
            return Err(ErrorKind::Interrupted.into());
        }
        // What is typed later is told again.
        if !events.is_empty() && !is_in_background() {
            break;
        }
    }
    // A terminal hands out one line at a time, and there is one.
    let mut line = [0; ANSWER_LEN_MAX];
    let length = rustix::io::read(stdin(), line.as_mut_slice())?;
    Ok(String::from_utf8_lossy(line.get(..length).unwrap_or_default()).into_owned())
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// Ends the reading of an answer when dropped.
struct Withdrawal(Arc<Waker>);

impl Drop for Withdrawal {
    fn drop(&mut self) {
        if let Err(error) = self.0.wake() {
            tracing::debug!(%error, "a question stays open");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_yes_is_one() {
        for yes in ["y\n", "Y", "yes\n", " YES \r\n"] {
            assert!(is_yes(yes), "{yes:?}");
        }
        for no in ["", "\n", "n\n", "yy\n", "yes please\n", "\u{fffd}y\n"] {
            assert!(!is_yes(no), "{no:?}");
        }
    }
}
