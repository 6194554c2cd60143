//! `sherd backup verify DIR`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use sherd_engine::verify::Fault;

use crate::backup::{Backup, Checked, Directory, check};
use crate::command::{blocking, print_fault};
use crate::error::Error;
use crate::output::{Output, say};
use crate::units::{show_count, show_size};

use super::super::Context;

/// Check backups without changing them
///
/// Reads every byte: the checksums of files and of records, how the segments of a log go on from each
/// other, and what all documents come to, which must be what the shards said at the cut, by digest. Goes
/// on behind a fault; prints one a line, `FILE:OFFSET: WHAT`, then what was checked. Exits 1 if there is
/// any, and where all are checked, if one has lost its BACKUP.json or the newest is not finished.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The backup, where not all are to be checked
    #[arg(value_name = "BACKUP")]
    backup: Option<String>,
}

/// What was checked, for programs.
#[derive(Serialize)]
struct CheckedView<'a> {
    checked: CheckedFields<'a>,
}

#[derive(Serialize)]
struct CheckedFields<'a> {
    backup: &'a str,
    shards: u64,
    segments: u64,
    bytes: u64,
    records: u64,
    documents: u64,
    digest: &'a str,
    faults: u64,
    notes: &'a [String],
}

impl Verify {
    /// Checks them.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let json = context.json;
        blocking(move || self.check(json)).await
    }

    fn check(&self, json: bool) -> Result<(), Error> {
        let directory = Directory::new(&self.dir);
        let mut held = directory.held()?;
        let mut output = Output::new();
        let all = held.backups.clone();
        if let Some(id) = &self.backup {
            held.backups.retain(|backup| backup.id == *id);
            held.faults.retain(|fault| fault.file.starts_with(directory.of(id)));
            if held.unfinished.contains(id) {
                return Err(Error::Failed(format!("{id} was not finished: it is no backup")));
            }
        }
        // Of one that has lost what makes it one it is said below.
        let is_none = self.backup.is_some() || held.lost(&directory).is_none();
        if held.backups.is_empty() && held.faults.is_empty() && is_none {
            let shown = self.dir.display();
            return Err(Error::DoesNotHold(match &self.backup {
                Some(id) => format!("{shown} has no backup {id}; see `sherd backup list {shown}`"),
                None => format!("{shown} has no backup"),
            }));
        }
        let mut faults = held.faults.len() as u64;
        for fault in &held.faults {
            print_fault(&mut output, fault, json)?;
        }
        for backup in &held.backups {
            let mut printed = Ok(());
            let mut on_fault = |fault: Fault| {
                // Found faults decide the exit status, whoever still reads of them.
                if printed.is_ok() {
                    printed = print_fault(&mut output, &fault, json);
                }
            };
            let before = backup.follows();
            let before = before.and_then(|id| all.iter().find(|backup| backup.id == id));
            let checked = check(&directory, backup, before, &mut on_fault)?;
            faults += checked.faults;
            printed.and_then(|()| print(&mut output, backup, &checked, json))?;
        }
        let newest = held.unfinished_after_all().filter(|_| self.backup.is_none());
        let mut is_complete = true;
        for id in held.unfinished.iter().filter(|_| self.backup.is_none()) {
            let is_begun = directory.is_begun(id);
            let why = if is_begun { "was not finished" } else { "has no BACKUP.json" };
            say!("{id} {why}: it is no backup, and was not checked");
            is_complete &= is_begun && newest != Some(id.as_str());
        }
        if faults == 0 && is_complete { Ok(()) } else { Err(Error::FailedSaid) }
    }
}

fn print(output: &mut Output, backup: &Backup, checked: &Checked, json: bool) -> Result<(), Error> {
    let Checked { shards, segments, bytes, records, total, faults, notes } = checked;
    if json {
        output.json(&CheckedView {
            checked: CheckedFields {
                backup: &backup.id,
                shards: *shards,
                segments: *segments,
                bytes: *bytes,
                records: *records,
                documents: total.documents,
                digest: &total.digest,
                faults: *faults,
                notes,
            },
        })?;
        return output.flush();
    }
    for note in notes {
        output.line(format_args!("note: {note}"))?;
    }
    output.line(format_args!("checked {}", backup.id))?;
    output.line(format_args!(
        "  {}: {}, {}, {}",
        show_count(*shards, "shard"),
        show_count(*segments, "segment"),
        show_size(*bytes),
        show_count(*records, "record")
    ))?;
    match faults {
        0 => output.line(format_args!(
            "  {}, digest {}: no fault found",
            show_count(total.documents, "document"),
            total.digest
        ))?,
        1 => output.line("  1 fault found")?,
        faults => output.line(format_args!("  {faults} faults found"))?,
    }
    output.flush()
}
