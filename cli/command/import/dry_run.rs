//! Reads everything, checks it, and writes nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::Serialize;

use crate::error::Error;
use crate::load::{Point, Rejects, read_batches, too_many_failed};
use crate::output::{Output, say};
use crate::progress::{Figures, Progress};
use crate::units::{now, show_count};

use super::inputs::Inputs;
use super::{Context, Import};

/// What a dry run found, for programs.
#[derive(Serialize)]
struct DryView {
    rows: u64,
    expired: u64,
    failed: u64,
}

impl Import {
    /// Reads everything and writes nothing.
    pub(super) fn try_out(&self, context: &Context, inputs: &Inputs) -> Result<(), Error> {
        let figures = Figures::default();
        let mut rejects = Rejects::new(inputs.names(), self.rejects_file(0)?);
        let progress = Progress::start("reading", figures.clone(), inputs.bytes());
        let (options, from) = (self.read_options(), Point::default());
        let read = Arc::clone(&figures.bytes);
        let mut batches = read_batches(inputs.inputs.clone(), options, from, None, read)?;
        let mut found = DryView { rows: 0, expired: 0, failed: 0 };
        let (mut mismatches, now) = (Vec::new(), now());
        let mut result = Ok(());
        while let Some(batch) = tokio::task::block_in_place(|| batches.blocking_recv()) {
            for entry in &batch.entries {
                let has_expired = entry.expires_at.is_some_and(|at| at <= now);
                *(if has_expired { &mut found.expired } else { &mut found.rows }) += 1;
            }
            for bad in &batch.bad {
                found.failed += 1;
                rejects.bad(batch.end.input, bad)?;
            }
            figures.rows.store(found.rows + found.expired + found.failed, Ordering::Relaxed);
            mismatches.extend(inputs.mismatch(&batch));
            if let Some(error) = &batch.error {
                result = Err(inputs.unreadable(batch.end.input, error));
            }
            if let Some(most) = self.max_errors.filter(|&most| found.failed > most) {
                result = Err(Error::Failed(too_many_failed(most)));
            }
            if result.is_err() {
                break;
            }
        }
        drop(progress);
        rejects.sync()?;
        rejects.say_rest();
        let mut output = Output::new();
        if context.json {
            output.json(&found)?;
        } else {
            let DryView { rows, expired, failed } = found;
            output.line(format_args!(
                "{} to be written, {failed} failed, {expired} expired; nothing was written",
                show_count(rows, "row")
            ))?;
        }
        output.flush()?;
        for mismatch in &mismatches {
            say!("{mismatch}");
        }
        result?;
        if found.failed == 0 && mismatches.is_empty() { Ok(()) } else { Err(Error::FailedSaid) }
    }
}
