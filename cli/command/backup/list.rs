//! `sherd backup list DIR`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::backup::{Backup, Directory};
use crate::command::blocking;
use crate::error::Error;
use crate::output::{Output, say, table};
use crate::units::{show_size, show_time};

use super::super::Context;

/// List the backups in a directory, oldest first
///
/// Says what they say of themselves, and reads no document: `sherd backup verify` does. Exits 1 if what
/// one says of itself is damaged.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// The directory
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// A backup, for programs.
#[derive(Serialize)]
struct View<'a> {
    backup: &'a str,
    taken: u64,
    cluster: &'a str,
    epoch: u64,
    shards: usize,
    documents: u64,
    digest: &'a str,
    bytes: u64,
    shared_bytes: u64,
    builds_on: &'a [String],
}

impl List {
    /// Lists them.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let directory = Directory::new(&self.dir);
        let held = blocking(move || directory.held()).await?;
        let mut output = Output::new();
        if context.json {
            for backup in &held.backups {
                output.json(&view(backup))?;
            }
        } else {
            let header =
                ["BACKUP", "TAKEN (UTC)", "SHARDS", "DOCUMENTS", "SIZE", "SHARED", "DIGEST"];
            let mut rows = table(header);
            for backup in &held.backups {
                let (bytes, shared) = backup.bytes();
                rows.add_row([
                    backup.id.clone(),
                    show_time(backup.cut_until),
                    backup.shards.len().to_string(),
                    backup.total.documents.to_string(),
                    show_size(bytes),
                    show_size(shared),
                    backup.total.digest.clone(),
                ]);
            }
            output.line(rows.trim_fmt())?;
        }
        output.flush()?;
        let directory = Directory::new(&self.dir);
        for id in &held.unfinished {
            if directory.is_begun(id) {
                say!("{id} is not finished: it is being taken, or the next backup removes it");
            } else {
                say!("{id} has no BACKUP.json: it is no backup, or not any more");
            }
        }
        for fault in &held.faults {
            say!("{fault}");
        }
        if held.faults.is_empty() { Ok(()) } else { Err(Error::FailedSaid) }
    }
}

fn view(backup: &Backup) -> View<'_> {
    let (bytes, shared_bytes) = backup.bytes();
    View {
        backup: &backup.id,
        taken: backup.cut_until,
        cluster: &backup.map.cluster,
        epoch: backup.map.epoch,
        shards: backup.shards.len(),
        documents: backup.total.documents,
        digest: &backup.total.digest,
        bytes,
        shared_bytes,
        builds_on: &backup.builds_on,
    }
}
