//! Plans and moves, for people.

use sherd_protocol::message::{MoveStatus, MoveStep, MovesStatus};
use sherd_protocol::range_map::OwnedRange;
use sherd_protocol::{Plan, RING_SIZE};

use crate::error::Error;
use crate::output::{Output, table};
use crate::units::{show_count, show_size};

/// How many cells the bar of a map has.
const BAR_CELLS: u32 = 60;

/// About how many bytes a second a move brings while it works, as it was measured (see
/// docs/redistribution.md): 128 MB in 20 to 23 s, on two cores that had much else to do.
const MEASURED_RATE: u64 = 6_000_000;

/// A move works half of its time.
const GUESSED_RATE: u64 = MEASURED_RATE / 2;

/// Prints a plan, of which so many bytes a second may move.
pub(super) fn plan(output: &mut Output, plan: &Plan, rate: Option<u64>) -> Result<(), Error> {
    if plan.moves.is_empty() {
        output.line("nothing moves")?;
    } else {
        let mut moves = table(["RANGE", "FROM", "TO", "DOCUMENTS", "BYTES"]);
        for planned in &plan.moves {
            moves.add_row([
                planned.range.to_string(),
                planned.from.clone(),
                planned.to.clone(),
                planned.documents.to_string(),
                show_size(planned.bytes),
            ]);
        }
        output.line(moves.trim_fmt())?;
        let bytes: u64 = plan.moves.iter().map(|planned| planned.bytes).sum();
        let documents: u64 = plan.moves.iter().map(|planned| planned.documents).sum();
        let rate = rate.map_or(GUESSED_RATE, |rate| rate.clamp(1, GUESSED_RATE));
        output.line(format_args!(
            "{}, {}: an estimated {} s, at {} a second",
            show_count(documents, "document"),
            show_size(bytes),
            bytes.div_ceil(rate),
            show_size(rate)
        ))?;
    }
    output.line("")?;
    let mut shards = table(["SHARD", "BEFORE", "AT MOST", "AFTER"]);
    for shard in &plan.bytes {
        shards.add_row([
            shard.shard.clone(),
            show_size(shard.before),
            show_size(shard.peak),
            show_size(shard.after),
        ]);
    }
    output.line(shards.trim_fmt())?;
    output.line("")?;
    let names: Vec<&str> = plan.bytes.iter().map(|shard| shard.shard.as_str()).collect();
    output.line(format_args!("before  {}", bar(&plan.before, &names)))?;
    output.line(format_args!("after   {}", bar(&plan.after, &names)))?;
    let legend = names.iter().enumerate().map(|(i, name)| format!("{} {name}", letter(i)));
    output.line(format_args!("        {}", legend.collect::<Vec<_>>().join("  ")))
}

/// The ring from left to right, a letter for each shard.
fn bar(ranges: &[OwnedRange], names: &[&str]) -> String {
    let owner = |cell: u32| {
        // The middle of the cell.
        let place = (u64::from(cell) * 2 + 1) * u64::from(RING_SIZE) / u64::from(BAR_CELLS * 2);
        let owned = ranges.iter().find(|owned| u64::from(owned.end) > place);
        let shard = owned.map_or("", |owned| owned.shard.as_str());
        names.iter().position(|name| *name == shard).map_or('?', letter)
    };
    (0..BAR_CELLS).map(owner).collect()
}

fn letter(shard: usize) -> char {
    char::from(b'A' + (shard % 26) as u8)
}

/// Prints what is left to move.
pub(super) fn moves(output: &mut Output, status: &MovesStatus) -> Result<(), Error> {
    if status.moves.is_empty() {
        return output.line("nothing moves");
    }
    let mut rows = table(["RANGE", "FROM", "TO", "STATE", "MOVED", "OF", "WHY"]);
    for it in &status.moves {
        let (moved, why) = (moved(it), why(it));
        rows.add_row([
            it.range.to_string(),
            it.from.clone(),
            it.to.clone(),
            state(it, status.paused).to_owned(),
            show_size(moved),
            show_size(it.bytes),
            why,
        ]);
    }
    output.line(rows.trim_fmt())
}

/// Says what is being handed over, which nobody can stop any more.
pub(super) fn handing_over(output: &mut Output, status: &MovesStatus) -> Result<(), Error> {
    for it in status.moves.iter().filter(|it| it.step == MoveStep::HandingOver) {
        output.line(format_args!(
            "{} is being handed over from {} to {}, which goes on; `sherd cluster status` says how far \
             it is",
            it.range, it.from, it.to
        ))?;
    }
    Ok(())
}

/// How many bytes of a move are there. More are brought where pages are read again.
pub(super) fn moved(it: &MoveStatus) -> u64 {
    it.progress.as_ref().map_or(0, |progress| progress.bytes.min(it.bytes))
}

/// Where a move stands, in a word.
pub(super) fn state(it: &MoveStatus, paused: bool) -> &'static str {
    match it.step {
        MoveStep::Copying if paused => "paused",
        MoveStep::Waiting => "waiting",
        MoveStep::Copying if it.progress.as_ref().is_some_and(|progress| progress.copied) => {
            "catching up"
        }
        MoveStep::Copying => "copying",
        MoveStep::HandingOver => "handing over",
        MoveStep::Failed => "failed",
    }
}

/// Why it does not go on.
pub(super) fn why(it: &MoveStatus) -> String {
    let of_progress = || it.progress.as_ref().and_then(|progress| progress.error.clone());
    it.why.clone().or_else(of_progress).unwrap_or_else(|| "-".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_is_a_bar_of_letters() {
        let owned = |start, end, shard: &str| OwnedRange { start, end, shard: shard.to_owned() };
        let ranges = [owned(0, 5_000_000, "x"), owned(5_000_000, RING_SIZE, "y")];
        let expected = "A".repeat(30) + &"B".repeat(30);
        assert_eq!(bar(&ranges, &["x", "y"]), expected);
        assert_eq!(bar(&ranges, &["y", "x"]), "B".repeat(30) + &"A".repeat(30));
    }
}
