//! Orders the steps of several threads as chance might have.
//!
//! A workload has one driver, and the engine's background threads are made to work while it waits,
//! or work on files of their own. So what each thread does is a function of the seed, but how their
//! steps mix is not. Here they are mixed anew, by the seed, in one of the orders that there can be:
//!
//! * the preparing of a segment lies anywhere between the moment at which the one before it was
//!   taken into use and the moment at which it is itself;
//! * a checkpoint goes on for as long as no other begins, while more batches are written.

use std::collections::HashMap;
use std::path::Path;

use rand::Rng;
use rand::rngs::StdRng;
use sherd_engine::fs::{Event, FileId, Step};

const SPARE_THREAD: &str = "log-spare";
const CHECKPOINT_THREAD: &str = "checkpointer";

/// How far a step of the background falls behind at most, in steps of the foreground.
const MAX_DELAY: usize = 40;

/// What a mark means to the background.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// A process has recovered.
    Begin,
    /// A process has ended: nothing of it may come later.
    End,
    /// Nothing.
    None,
}

/// Mixes the steps; `boundary` says what a mark means.
pub fn interleave(
    steps: Vec<Step>,
    rng: &mut StdRng,
    boundary: impl Fn(u64) -> Boundary,
) -> Vec<Event> {
    let mut foreground = Vec::new();
    // With the number of steps of the foreground before.
    let mut spares: Vec<(usize, Vec<Event>)> = Vec::new();
    let mut checkpoints: Vec<(usize, Vec<Event>)> = Vec::new();
    for step in steps {
        let at = foreground.len();
        match step.thread.as_ref() {
            SPARE_THREAD => match (&step.event, spares.last_mut()) {
                (Event::Create { .. }, _) | (_, None) => spares.push((at, vec![step.event])),
                (_, Some(spare)) => spare.1.push(step.event),
            },
            CHECKPOINT_THREAD => match checkpoints.last_mut() {
                Some(checkpoint) if checkpoint.0 == at => checkpoint.1.push(step.event),
                _ => checkpoints.push((at, vec![step.event])),
            },
            _ => foreground.push(step.event),
        }
    }
    let all = |wanted| {
        positions(&foreground, |event| match event {
            Event::Mark(mark) => boundary(*mark) == wanted,
            _ => false,
        })
    };
    let (begins, ends) = (all(Boundary::Begin), all(Boundary::End));
    let end_of_life =
        |at: usize| ends.iter().copied().find(|&end| end >= at).unwrap_or(foreground.len());
    let mut slots: Vec<Vec<Event>> = vec![Vec::new(); foreground.len() + 1];
    for (i, (at, events)) in checkpoints.iter().enumerate() {
        let next = checkpoints.get(i + 1).map_or(foreground.len(), |(next, _)| *next);
        let until = next.min(end_of_life(*at));
        let delay = if rng.random_bool(0.5) { MAX_DELAY.min(until - at) } else { 0 };
        spread(events, (*at, at + delay), rng, &mut slots);
    }
    for (at, events) in &spares {
        let file = events.iter().find_map(Event::file);
        let end = end_of_life(*at);
        let begin = begins.iter().rfind(|&&begin| begin < end).map_or(end, |begin| begin + 1);
        let window = spare_window(&foreground, (*at, file), (begin, end));
        spread(events, window, rng, &mut slots);
    }
    let mut mixed = Vec::new();
    let mut foreground = foreground.into_iter();
    for slot in slots {
        mixed.extend(slot);
        mixed.extend(foreground.next());
    }
    number_files(&mut mixed);
    mixed
}

fn positions(events: &[Event], wanted: impl Fn(&Event) -> bool) -> Vec<usize> {
    (0..events.len()).filter(|&i| wanted(&events[i])).collect()
}

/// Between which steps of the foreground a spare segment is prepared.
fn spare_window(
    foreground: &[Event],
    (at, file): (usize, Option<FileId>),
    (begin, end): (usize, usize),
) -> (usize, usize) {
    let spare = |path: &Path| path.ends_with("spare");
    let life = &foreground[begin.min(end)..end];
    // It is waited for before it is used, and before another is made in its place. A sealing cut
    // comes right before the use.
    let touched = |event: &Event| event.file().is_some() && event.file() == file;
    let replaced = |event: &Event| matches!(event, Event::Create { path, .. } if spare(path));
    let used = life.iter().position(touched).or_else(|| {
        let begun = at.saturating_sub(begin).min(life.len());
        Some(begun + life[begun..].iter().position(replaced)?)
    });
    let until = used.map_or(life.len(), |used| {
        let sealing = used > 0 && matches!(life[used - 1], Event::SetLength { .. });
        used - usize::from(sealing)
    });
    // Right behind the sync of the directory that named the segment before it.
    let from = life[..until]
        .iter()
        .rposition(|event| matches!(event, Event::Rename { from, .. } if spare(from)))
        .map_or(0, |renamed| (renamed + 2).min(until));
    (begin + from, begin + until)
}

/// Puts events into slots, in their order.
fn spread(
    events: &[Event],
    (from, until): (usize, usize),
    rng: &mut StdRng,
    slots: &mut [Vec<Event>],
) {
    let mut places: Vec<_> = events.iter().map(|_| rng.random_range(from..=until)).collect();
    places.sort_unstable();
    for (event, place) in events.iter().zip(places) {
        slots[place].push(event.clone());
    }
}

/// Numbers the files in the order of their creation; those there were before keep their numbers.
fn number_files(events: &mut [Event]) {
    let old = events.iter().filter(|event| matches!(event, Event::Create { .. }));
    let mut old: Vec<_> = old.filter_map(Event::file).collect();
    let mut new = old.clone();
    new.sort_unstable();
    let numbers: HashMap<FileId, FileId> = old.drain(..).zip(new).collect();
    for event in events {
        if let Event::Create { file, .. }
        | Event::Write { file, .. }
        | Event::SetLength { file, .. }
        | Event::SyncFile { file, .. } = event
        {
            *file = numbers.get(file).copied().unwrap_or(*file);
        }
    }
}
