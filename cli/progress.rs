//! How far long work is, on standard error: a bar on a terminal, elsewhere a line now and then.

use std::io::{IsTerminal, Write, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::output::say;
use crate::units::show_size;

/// How often a bar is drawn.
const BAR_INTERVAL: Duration = Duration::from_millis(200);

/// How often a line is written where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// How many cells a bar has.
const BAR_CELLS: u64 = 20;

/// A bar that is full by so much.
pub(crate) fn bar(done: u64, all: u64) -> String {
    let full = (u128::from(done) * u128::from(BAR_CELLS) / u128::from(all.max(1))) as usize;
    let full = full.min(BAR_CELLS as usize);
    "█".repeat(full) + &"░".repeat(BAR_CELLS as usize - full)
}

/// Draws over the line before, on a terminal.
pub(crate) fn draw(line: std::fmt::Arguments<'_>) {
    // Back to the beginning of the line, and clear it (ECMA-48).
    _ = write!(stderr(), "\r\x1b[K{line}");
}

/// The figures of work under way, for whoever does it to keep up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) rows: Arc<AtomicU64>,
    /// Of what there is to be done, in bytes.
    pub(crate) bytes: Arc<AtomicU64>,
}

impl Figures {
    fn now(&self) -> (u64, u64) {
        (self.rows.load(Ordering::Relaxed), self.bytes.load(Ordering::Relaxed))
    }
}

/// Shows figures in a thread of its own until it is dropped.
pub(crate) struct Progress {
    is_over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Progress {
    /// Shows `figures`; of `all` bytes, where that is known.
    pub(crate) fn start(what: &'static str, figures: Figures, all: Option<u64>) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&is_over);
        let show = move || Shown::new(what, figures, all).show_until(&seen);
        // Without a thread nothing is shown; the work is done all the same.
        let thread = std::thread::Builder::new().name("progress".to_owned()).spawn(show).ok();
        Self { is_over, thread }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            _ = thread.join();
        }
    }
}

struct Shown {
    what: &'static str,
    figures: Figures,
    all: Option<u64>,
    began: Instant,
    before: (u64, u64),
}

impl Shown {
    fn new(what: &'static str, figures: Figures, all: Option<u64>) -> Self {
        let before = figures.now();
        Self { what, figures, all, began: Instant::now(), before }
    }

    fn show_until(&self, is_over: &AtomicBool) {
        let is_terminal = stderr().is_terminal();
        let interval = if is_terminal { BAR_INTERVAL } else { LINE_INTERVAL };
        let mut next = Instant::now() + interval;
        while !is_over.load(Ordering::Relaxed) {
            let now = Instant::now();
            if now < next {
                std::thread::park_timeout(next - now);
                continue;
            }
            next = now + interval;
            let line = self.line(is_terminal);
            if is_terminal {
                draw(format_args!("{line}"));
            } else {
                say!("{line}");
            }
        }
        if is_terminal {
            draw(format_args!(""));
        }
    }

    fn line(&self, has_bar: bool) -> String {
        let (rows, bytes) = self.figures.now();
        let seconds = self.began.elapsed().as_secs_f64().max(0.001);
        let a_second = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
        let (row_rate, byte_rate) = (a_second(rows, self.before.0), a_second(bytes, self.before.1));
        let mut line = format!("{} ", self.what);
        if let Some(all) = self.all.filter(|_| has_bar) {
            line += &format!("{} ", bar(bytes, all));
        }
        line += &format!("{rows} rows, {row_rate}/s, {}", show_size(bytes));
        if let Some(all) = self.all {
            line += &format!(" of {}", show_size(all));
        }
        line += &format!(", {}/s", show_size(byte_rate));
        if let Some(left) =
            self.all.and_then(|all| all.saturating_sub(bytes).checked_div(byte_rate))
        {
            line += &format!(", {left} s left");
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rate_bytes_and_time_left() {
        let figures = Figures::default();
        let mut shown = Shown::new("importing", figures.clone(), Some(3 << 20));
        shown.began = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        figures.rows.store(5000, Ordering::Relaxed);
        figures.bytes.store(1 << 20, Ordering::Relaxed);
        let line = shown.line(true);
        let expected = "importing ██████░░░░░░░░░░░░░░ ";
        assert!(line.starts_with(expected), "{line}");
        assert!(line.contains("5000 rows, ") && line.contains("1.0 MiB of 3.0 MiB, "), "{line}");
        // A little more than 10 s have passed.
        assert!(line.ends_with(" s left") && line.contains(", 2"), "{line}");
        assert_eq!(bar(7, 0), "█".repeat(20));
    }
}
