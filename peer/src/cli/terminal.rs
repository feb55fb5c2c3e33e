//! The terminal that progress is drawn on. One that is gone, or that takes nothing at the moment, is no error: the command goes on.
//!
//! The library that draws ends the program when it cannot (`MultiProgress::suspend` unwraps), and keeps what it could not write.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressDrawTarget, TermLike};
use rustix::termios::tcgetwinsize;

/// Redraws in a second at the most (the library's usual number).
const REDRAWS: u8 = 20;

/// Columns and rows of a terminal that does not tell.
const USUAL: (u16, u16) = (80, 24);

/// Standard error.
pub(super) fn target() -> ProgressDrawTarget {
    ProgressDrawTarget::term_like_with_hz(Box::new(Terminal::new(io::stderr())), REDRAWS)
}

/// What is drawn is collected and written at once, so that nobody sees half of it.
#[derive(Debug)]
struct Terminal<W> {
    drawn: Mutex<(String, W)>,
}

impl<W: Write> Terminal<W> {
    fn new(to: W) -> Self {
        Self {
            drawn: Mutex::new((String::new(), to)),
        }
    }

    fn with(&self, draw: impl FnOnce(&mut String, &mut W)) {
        // Text is whole after every change.
        let mut drawn = self.drawn.lock().unwrap_or_else(PoisonError::into_inner);
        let (text, to) = &mut *drawn;
        draw(text, to);
    }

    fn add(&self, parts: [&str; 2]) {
        self.with(|text, _| text.extend(parts));
    }

    /// Moves by so many lines or columns (ECMA-48 section 8.3: CUU, CUD, CUF, CUB).
    fn go(&self, n: usize, letter: &str) {
        if n > 0 {
            self.add([&format!("\x1b[{n}"), letter]);
        }
    }
}

fn size() -> (u16, u16) {
    match tcgetwinsize(io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col, size.ws_row),
        _ => USUAL,
    }
}

impl<W: Write + Send + std::fmt::Debug> TermLike for Terminal<W> {
    fn width(&self) -> u16 {
        size().0
    }

    fn height(&self) -> u16 {
        size().1
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.go(n, "A");
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.go(n, "B");
        Ok(())
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.go(n, "C");
        Ok(())
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.go(n, "D");
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.add([text, "\n"]);
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.add([text, ""]);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        // EL: the whole line.
        self.add(["\r\x1b[2K", ""]);
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        self.with(|text, to| {
            let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
            text.clear();
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use indicatif::{MultiProgress, ProgressBar};

    use super::*;

    /// A terminal whose window was closed.
    #[derive(Debug)]
    struct Gone;

    impl Write for Gone {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(5))
        }

        fn flush(&mut self) -> io::Result<()> {
            Err(io::Error::from_raw_os_error(5))
        }
    }

    #[test]
    fn a_terminal_that_is_gone_ends_nothing() {
        let target = ProgressDrawTarget::term_like(Box::new(Terminal::new(Gone)));
        let lines = MultiProgress::with_draw_target(target);
        let bar = lines.add(ProgressBar::new(10));
        bar.set_position(5);
        let mut printed = 0;
        for _ in 0..3 {
            bar.tick();
            lines.suspend(|| printed += 1);
        }
        bar.finish_and_clear();
        assert_eq!(printed, 3);
    }

    #[test]
    fn what_is_drawn_is_written_at_once_and_only_then() {
        let terminal = Terminal::new(Vec::new());
        terminal.write_str("a").unwrap();
        terminal.move_cursor_up(0).unwrap();
        terminal.move_cursor_up(2).unwrap();
        terminal.clear_line().unwrap();
        terminal.write_line("b").unwrap();
        terminal.with(|_, to| assert!(to.is_empty()));
        terminal.flush().unwrap();
        terminal.flush().unwrap();
        terminal.with(|text, to| {
            assert_eq!(to.as_slice(), b"a\x1b[2A\r\x1b[2Kb\n");
            assert!(text.is_empty());
        });
    }
}
