//! Waiting for moves, with a bar.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use sherd_client::Client;
use sherd_protocol::message::{MoveStatus, MoveStep, MovesStatus};

use crate::error::Error;
use crate::output::{Output, say};
use crate::progress::{bar, draw};
use crate::units::show_size;

use super::show;

/// How often bootstrap is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Waits until there are no more moves, and shows on standard error how far they are: as a bar on a
/// terminal, else a line where that is another one.
///
/// # Errors
/// When a move has failed, or bootstrap does not answer.
pub(super) async fn follow(client: &Client) -> Result<(), Error> {
    let mut shown = Shown::new();
    loop {
        let status = client.moves().await?;
        let Some(current) = status.moves.first() else {
            return Ok(());
        };
        if current.step == MoveStep::Failed {
            return Err(failed(current));
        }
        shown.show(current, &status);
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// Prints as JSON how far the moves are, a line whenever that changes, until there are none.
///
/// # Errors
/// As [`follow`].
pub(super) async fn print(client: &Client) -> Result<(), Error> {
    let mut printed = None;
    loop {
        let status = client.moves().await?;
        if printed.as_ref() != Some(&status) {
            let mut output = Output::new();
            output.json(&status)?;
            output.flush()?;
        }
        match status.moves.first() {
            None => return Ok(()),
            Some(current) if current.step == MoveStep::Failed => return Err(failed(current)),
            Some(_) => printed = Some(status),
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn failed(current: &MoveStatus) -> Error {
    Error::Failed(format!(
        "{} stays at {}: {}; `sherd cluster cancel` ends the plan",
        current.range,
        current.from,
        show::why(current)
    ))
}

/// What was shown last.
struct Shown {
    is_terminal: bool,
    /// The move, when it was seen first, and its bytes then.
    of: Option<(String, Instant, u64)>,
    line: String,
}

impl Shown {
    fn new() -> Self {
        Self { is_terminal: stderr().is_terminal(), of: None, line: String::new() }
    }

    fn show(&mut self, it: &MoveStatus, status: &MovesStatus) {
        let moved = show::moved(it);
        if self.of.as_ref().is_none_or(|(id, ..)| *id != it.id) {
            self.of = Some((it.id.clone(), Instant::now(), moved));
        }
        let state = show::state(it, status.paused);
        let head = format!("{} {} -> {}: {state}", it.range, it.from, it.to);
        let error = it.progress.as_ref().and_then(|progress| progress.error.as_ref());
        let why = error.map_or_else(String::new, |error| format!(" ({error})"));
        if !self.is_terminal {
            let line = head + &why;
            if line != self.line {
                say!("{line}");
                self.line = line;
            }
            return;
        }
        let rate = self.of.as_ref().map_or(0, |(_, since, before)| {
            let seconds = since.elapsed().as_secs_f64().max(0.001);
            (moved.saturating_sub(*before) as f64 / seconds) as u64
        });
        let left = it.bytes.saturating_sub(moved).checked_div(rate);
        let left = left.map_or_else(String::new, |left| format!(", {left} s left"));
        let bar = bar(moved, it.bytes);
        let waiting = status.moves.len() - 1;
        draw(format_args!(
            "{head} {bar} {} of {}, {}/s{left}, {waiting} more{why}",
            show_size(moved),
            show_size(it.bytes),
            show_size(rate)
        ));
    }
}

impl Drop for Shown {
    /// What is said next is not said behind the bar.
    fn drop(&mut self) {
        if self.is_terminal && self.of.is_some() {
            _ = writeln!(stderr());
        }
    }
}
