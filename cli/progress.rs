//! How far long work is, on standard error: a bar on a terminal, elsewhere a line now and then.

use std::fmt::Write as _;
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

/// What is done so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    /// The share of the whole, from 0 to 1, where that is known.
    pub(crate) fraction: Option<f64>,
    pub(crate) documents: u64,
    pub(crate) bytes: u64,
}

/// Work that is watched by those who wait for it, and of which a share of the whole is known.
pub(crate) struct Watch {
    /// What is done, as in `export of cities`.
    what: String,
    /// What had been done before, by an earlier attempt.
    before: Done,
    begun: Instant,
    shown: Instant,
    is_terminal: bool,
    has_bar: bool,
}

impl Watch {
    /// Begins to watch work of which `before` was done by an earlier attempt.
    pub(crate) fn new(what: String, before: Done) -> Self {
        let (now, is_terminal) = (Instant::now(), stderr().is_terminal());
        Self { what, before, begun: now, shown: now, is_terminal, has_bar: false }
    }

    /// Shows what is done, if it is time to; may be called as often as one likes.
    pub(crate) fn show(&mut self, done: Done) {
        let interval = if self.is_terminal { BAR_INTERVAL } else { LINE_INTERVAL };
        let now = Instant::now();
        if now - self.shown < interval {
            return;
        }
        self.shown = now;
        let line = self.line(done, now - self.begun);
        if self.is_terminal {
            self.has_bar = true;
            draw(format_args!("{line}"));
        } else {
            say!("{line}");
        }
    }

    /// Takes the bar away, before something else is said.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.has_bar) {
            draw(format_args!(""));
        }
    }

    fn line(&self, done: Done, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs_f64().max(0.001);
        let rate = |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds) as u64;
        let mut line = self.what.clone();
        if let Some(fraction) = done.fraction {
            let fraction = fraction.clamp(0.0, 1.0);
            if self.is_terminal {
                _ = write!(line, " {}", bar((fraction * 1000.0) as u64, 1000));
            }
            _ = write!(line, " {:.0} %", fraction * 100.0);
        }
        _ = write!(
            line,
            ", {} documents, {}, {}/s, {}/s",
            done.documents,
            show_size(done.bytes),
            rate(done.documents, self.before.documents),
            show_size(rate(done.bytes, self.before.bytes)),
        );
        if let Some(fraction) = done.fraction {
            let gained = fraction - self.before.fraction.unwrap_or(0.0);
            if gained > 0.0 {
                let left = seconds * (1.0 - fraction) / gained;
                _ = write!(line, ", {left:.0} s left");
            }
        }
        line
    }
}

/// Work that is given up leaves no bar behind.
impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

/// How long something took and how fast it was, to be said behind what was done; nothing where it took no time
/// to speak of.
pub(crate) fn rate(documents: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64();
    match seconds {
        1.0.. => format!(" in {seconds:.1} s, {:.0}/s", documents as f64 / seconds),
        _ => String::new(),
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

    #[test]
    fn a_line_says_rates_since_this_attempt_began_and_the_time_left() {
        let before = Done { fraction: Some(0.25), documents: 1000, bytes: 1 << 20 };
        let mut progress = Watch::new("export of cities".to_owned(), before);
        progress.is_terminal = false;
        let done = Done { fraction: Some(0.5), documents: 3000, bytes: 3 << 20 };
        assert_eq!(
            progress.line(done, Duration::from_secs(2)),
            "export of cities 50 %, 3000 documents, 3.0 MiB, 1000/s, 1.0 MiB/s, 4 s left"
        );
        progress.is_terminal = true;
        let bar = progress.line(done, Duration::from_secs(2));
        assert!(bar.starts_with("export of cities ██████████░░░░░░░░░░ 50 %, 3000"), "{bar}");
        let done = Done { fraction: None, ..done };
        let unknown = progress.line(done, Duration::from_secs(2));
        assert_eq!(unknown, "export of cities, 3000 documents, 3.0 MiB, 1000/s, 1.0 MiB/s");
    }
}
