//! `sherd verify`: a shard's data directory, checked without a change.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use sherd_engine::verify::{Fault, Report, verify};

use crate::error::Error;
use crate::output::Output;
use crate::units::show_size;

use super::{Context, blocking, shard_directory, shard_error};

/// Check a shard's data directory without changing it
///
/// Checks the manifest, every segment of the log and how it goes on from the one before, the
/// checksum of every record, the documents against the totals, and the index against the log:
/// every document has its entry, and every entry its document. Goes on behind a fault, so that
/// each is found; prints one a line, `FILE:OFFSET: WHAT`, then what was checked. Exits 1 if there
/// is any.
///
/// The shard must be stopped; it cannot be started meanwhile. Nothing is written to DIR. To look at
/// the index it is copied to a temporary directory (below TMPDIR, else /tmp), which needs as much
/// space as DIR/index.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The data directory of one shard; with `sherd up` DIR/shard0 and so on
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Leave the index out: it can be rebuilt, and needs no temporary space then
    #[arg(long)]
    no_index: bool,
}

/// A fault, for programs.
#[derive(Serialize)]
struct FaultView<'a> {
    fault: FaultFields<'a>,
}

#[derive(Serialize)]
struct FaultFields<'a> {
    file: &'a str,
    offset: Option<u64>,
    what: &'a str,
}

/// What was checked, for programs.
#[derive(Serialize)]
struct ReportView<'a> {
    checked: ReportFields<'a>,
}

#[derive(Serialize)]
struct ReportFields<'a> {
    segments: u64,
    log_bytes: u64,
    records: u64,
    last_lsn: u64,
    checkpoint_lsn: u64,
    indexes: u64,
    documents: u64,
    used: u64,
    entries: Option<u64>,
    notes: &'a [String],
    faults: u64,
}

impl Verify {
    /// Checks the directory.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        shard_directory(&self.data)?;
        let json = context.json;
        blocking(move || self.check(json)).await
    }

    fn check(&self, json: bool) -> Result<(), Error> {
        let mut output = Output::new();
        let mut printed = Ok(());
        let mut on_fault = |fault: Fault| {
            // Found faults decide the exit status, whoever still reads of them.
            if printed.is_ok() {
                printed = print_fault(&mut output, &fault, json);
            }
        };
        let verified = silently(|| verify(&self.data, !self.no_index, &mut on_fault));
        let report = match verified {
            Err(error @ sherd_engine::Error::UnknownFormat { .. }) if json => {
                // A program that reads the faults hears of it as of any other.
                print_fault(&mut output, &Fault::from(error.clone()), json)?;
                return Err(shard_error(error));
            }
            verified => verified.map_err(shard_error)?,
        };
        let printed = printed.and_then(|()| self.print(&mut output, &report, json));
        match report.faults {
            0 => printed,
            _ => Err(Error::FailedSaid),
        }
    }

    fn print(&self, output: &mut Output, report: &Report, json: bool) -> Result<(), Error> {
        if json {
            output.json(&ReportView { checked: ReportFields::of(report) })?;
            return output.flush();
        }
        for note in &report.notes {
            output.line(format_args!("note: {note}"))?;
        }
        output.line(format_args!("checked {}", self.data.display()))?;
        output.line(format_args!(
            "  log: {} of {}, {} to LSN {}",
            count(report.segments, "segment"),
            show_size(report.log_bytes),
            count(report.records, "record"),
            report.last_lsn
        ))?;
        output.line(format_args!(
            "  documents: {} of {} in {}",
            report.documents,
            show_size(report.used),
            if report.indexes == 1 {
                "1 index".to_owned()
            } else {
                format!("{} indexes", report.indexes)
            },
        ))?;
        match report.entries {
            Some(1) => output.line("  index: 1 entry")?,
            Some(entries) => output.line(format_args!("  index: {entries} entries"))?,
            None => output.line("  index: not checked")?,
        }
        match report.faults {
            0 => output.line("no fault found")?,
            faults => output.line(format_args!("{} found", count(faults, "fault")))?,
        }
        output.flush()
    }
}

impl<'a> ReportFields<'a> {
    fn of(report: &'a Report) -> Self {
        Self {
            segments: report.segments,
            log_bytes: report.log_bytes,
            records: report.records,
            last_lsn: report.last_lsn,
            checkpoint_lsn: report.checkpoint_lsn,
            indexes: report.indexes,
            documents: report.documents,
            used: report.used,
            entries: report.entries,
            notes: &report.notes,
            faults: report.faults,
        }
    }
}

/// Prints a fault as it is found: the next may take a while.
pub(crate) fn print_fault(output: &mut Output, fault: &Fault, json: bool) -> Result<(), Error> {
    if json {
        let file = fault.file.to_string_lossy();
        let fields = FaultFields { file: &file, offset: fault.offset, what: &fault.what };
        output.json(&FaultView { fault: fields })?;
    } else {
        output.line(fault)?;
    }
    output.flush()
}

/// Runs without the trace that a panic prints: sled panics on damaged files, which is caught and told
/// as a fault. A panic of our own is still told by whoever waits for this thread.
fn silently<T>(run: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = run();
    std::panic::set_hook(hook);
    result
}

fn count(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}
