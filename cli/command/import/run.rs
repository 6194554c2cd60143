//! An import under way: batches that are sent, and checkpoints between windows of them.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;
use sherd_client::Client;
use tokio::time::Instant;

use crate::error::Error;
use crate::formats::Source;
use crate::interrupt::stopping;
use crate::load::{
    Checkpoint, CheckpointFile, Load, Marks, Options, Point, Rejects, RejectsFile, Summary,
    last_reason, read_batches,
};
use crate::output::{Output, say};
use crate::progress::{Figures, Progress};

use super::inputs::{Inputs, length_and_time};
use super::pace::Pace;
use super::{Context, Import};

/// How long shards that do not answer are waited for, while nothing at all is answered.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two attempts to ask the cluster something.
const PAUSE: Duration = Duration::from_millis(200);

/// The result, for programs.
#[derive(Serialize)]
struct View {
    written: u64,
    existing: u64,
    expired: u64,
    failed: u64,
}

/// What the shards have written, which all of them must say.
pub(super) async fn marks(client: &Client) -> Result<Marks, Error> {
    let began = Instant::now();
    loop {
        let why = match client.map().await {
            Err(error) => last_reason(&error),
            Ok(map) => {
                let mut lsns = BTreeMap::new();
                let mut away = None;
                for view in client.stat().await {
                    match view.stat {
                        Ok(stat) => _ = lsns.insert(view.shard.name, stat.durable_lsn),
                        Err(error) => away = Some(last_reason(&error)),
                    }
                }
                match away {
                    None => return Ok(Marks { epoch: map.epoch, ranges: map.ranges, lsns }),
                    Some(why) => why,
                }
            }
        };
        let waited = began.elapsed();
        if waited > PATIENCE {
            let seconds = waited.as_secs();
            return Err(Error::Failed(format!(
                "no checkpoint can be made, which was tried for {seconds} s: {why}"
            )));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// An import under way.
pub(super) struct Run<'a> {
    pub(super) import: &'a Import,
    pub(super) inputs: &'a Inputs,
    pub(super) file: &'a CheckpointFile,
    pub(super) client: Client,
    /// The last one.
    pub(super) checkpoint: Checkpoint,
    /// There is no going on from it.
    pub(super) is_lost: bool,
}

impl Run<'_> {
    pub(super) async fn run(
        mut self,
        context: &Context,
        rejects: Option<RejectsFile>,
        is_resumed: bool,
    ) -> Result<(), Error> {
        if !is_resumed {
            self.file.save(&self.checkpoint)?;
        }
        let Import { index, on_conflict, jobs, max_errors, .. } = self.import;
        let options = Options {
            index: index.as_str().into(),
            on_conflict: *on_conflict,
            expiry: self.import.expiry(self.checkpoint.began_at),
            jobs: usize::from(*jobs),
            patience: Some(PATIENCE),
            max_errors: *max_errors,
        };
        let rejects = Rejects::new(self.inputs.names(), rejects);
        let mut load = Load::new(self.client.clone(), options, rejects);
        load.resume(self.checkpoint.counts);
        let mut result = Ok(());
        if !self.checkpoint.is_finished {
            load.begin_window(self.checkpoint.marks.clone(), is_resumed);
            // Too many rows may have failed before the checkpoint: then nothing more is read.
            result = match load.check() {
                Ok(()) => self.load(&mut load).await,
                stopped => stopped,
            };
        }
        let is_stopped = result.is_err();
        let has_begun = is_resumed || load.has_begun();
        let summary = load.finish().await;
        let mut output = Output::new();
        if context.json {
            let Summary { written, existing, expired, failed, .. } = summary;
            output.json(&View { written, existing, expired, failed })?;
        } else {
            output.line(summary)?;
        }
        output.flush()?;
        for mismatch in &self.checkpoint.mismatches {
            say!("{mismatch}; its documents are written all the same");
        }
        if is_stopped {
            if !has_begun && !self.is_lost {
                // There is nothing to go on with, and the file would be in the way of the command
                // put right. What stopped it is more than that the file could not be removed.
                _ = self.file.remove();
            } else if !self.is_lost {
                let file = self.file.path().display();
                say!(
                    "{file} knows how far it is: --resume goes on, with the same input; to begin anew, with \
                     other input or options, remove it"
                );
            }
            return result;
        }
        self.file.remove()?;
        let is_whole = summary.is_complete() && self.checkpoint.mismatches.is_empty();
        if is_whole { Ok(()) } else { Err(Error::FailedSaid) }
    }

    /// Loads what is left to the end, or to where no more is to be sent.
    async fn load(&mut self, load: &mut Load) -> Result<(), Error> {
        let figures = Figures::default();
        let all = self.inputs.bytes();
        let progress = Progress::start("importing", figures.clone(), all);
        if io::stdin().is_terminal()
            && self.inputs.inputs.iter().any(|it| it.source == Source::Stdin)
        {
            say!("reading from the terminal; Ctrl-D ends it");
        }
        let mut stopping = stopping()?;
        // What was read before is not read again.
        let before: u64 =
            self.inputs.are.iter().take(self.checkpoint.at.input).map(|it| it.bytes).sum();
        figures.bytes.store(before, Ordering::Relaxed);
        let (options, from) = (self.import.read_options(), self.checkpoint.at);
        let (window, read) = (Some(self.checkpoint.window), Arc::clone(&figures.bytes));
        let inputs = self.inputs.inputs.clone();
        let mut batches = read_batches(inputs, options, from, window, read)?;
        let mut pace = Pace::new(self.import.rate, from);
        // Up to here everything is sent.
        let mut sent = from;
        let mut result = Ok(());
        loop {
            let next = async {
                let batch = batches.recv().await?;
                pace.wait(batch.end).await;
                Some(batch)
            };
            let next = tokio::select! {
                biased;
                signal = stopping.asked() => {
                    result = Err(signal.ends("interrupted".to_owned()));
                    break;
                }
                next = next => next,
            };
            let Some(mut batch) = next else { break };
            let (ends_window, ends_input) = (batch.ends_window, batch.ends_input);
            let (end, error) = (batch.end, batch.error.take());
            self.checkpoint.mismatches.extend(self.inputs.mismatch(&batch));
            result = load.take(batch).await;
            if result.is_err() {
                break;
            }
            // All of it is sent, or refused before.
            sent =
                if ends_input { Point { input: end.input + 1, ..Point::default() } } else { end };
            figures.rows.store(load.summary().rows(), Ordering::Relaxed);
            if let Some(error) = error {
                result = Err(self.inputs.unreadable(end.input, &error));
                break;
            }
            if ends_input {
                result = self.check_unchanged(end.input);
            }
            if ends_window {
                result = result.and(load.drain().await);
            }
            result = result.and_then(|()| load.check());
            if result.is_err() {
                break;
            }
            if ends_window {
                self.save(load, sent).await?;
            }
        }
        drop(progress);
        if let Err(error) = result {
            return Err(self.stopped(load, sent, error).await);
        }
        load.drain().await?;
        if let Err(error) = load.check() {
            return Err(self.stopped(load, sent, error).await);
        }
        self.checkpoint.is_finished = true;
        self.save_at(load, sent).await
    }

    /// Makes a checkpoint there, with nothing under way, and begins a window.
    async fn save(&mut self, load: &mut Load, at: Point) -> Result<(), Error> {
        self.checkpoint.marks = marks(&self.client).await?;
        self.save_at(load, at).await?;
        load.begin_window(self.checkpoint.marks.clone(), false);
        Ok(())
    }

    /// Saves the checkpoint: everything before `at` is answered.
    async fn save_at(&mut self, load: &mut Load, at: Point) -> Result<(), Error> {
        self.check_index().await?;
        self.checkpoint.at = at;
        self.checkpoint.counts = load.summary();
        self.checkpoint.rejects_bytes = load.sync_rejects()?;
        self.file.save(&self.checkpoint)
    }

    /// Makes sure that the index is the one that the rows before were written to.
    async fn check_index(&mut self) -> Result<(), Error> {
        let name = &self.import.index;
        let id = self.checkpoint.asked.index_id;
        let began = Instant::now();
        loop {
            match self.client.indexes().await {
                Ok(indexes) if indexes.iter().any(|it| it.id == id && it.name == *name) => {
                    return Ok(());
                }
                Ok(_) => {
                    self.is_lost = true;
                    return Err(Error::Failed(format!(
                        "the index {name:?} was dropped while it was imported into, and the rows \
                         before with it; remove {} and begin anew",
                        self.file.path().display()
                    )));
                }
                Err(error) if began.elapsed() > PATIENCE => {
                    let (seconds, why) = (began.elapsed().as_secs(), last_reason(&error));
                    return Err(Error::Failed(format!(
                        "the index {name:?} could not be looked up, which was tried for {seconds} s: \
                         {why}"
                    )));
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Makes sure that an input is still what it was when it was looked at.
    fn check_unchanged(&mut self, input: usize) -> Result<(), Error> {
        let (Some(path), Some(is)) =
            (self.inputs.inputs[input].source.path(), self.inputs.are.get(input))
        else {
            return Ok(());
        };
        // Of a pipe or a terminal neither says anything.
        if !path.is_file() || length_and_time(path)? == (is.bytes, is.modified) {
            return Ok(());
        }
        self.is_lost = true;
        Err(Error::Failed(format!(
            "{} was changed while it was read: what was imported of it may be of both; when it is \
             whole, remove {} and import it anew",
            is.name,
            self.file.path().display()
        )))
    }

    /// Makes a checkpoint where it stops, if it can be one: everything before is answered, and no
    /// earlier run may have written what is behind. Otherwise the one before counts.
    async fn stopped(&mut self, load: &mut Load, sent: Point, error: Error) -> Error {
        _ = load.drain().await;
        let has_news = load.has_begun() && load.is_answered();
        if has_news && !load.is_replaying() && !self.is_lost {
            // It is the first error that is told.
            _ = self.save(load, sent).await;
        }
        error
    }
}
