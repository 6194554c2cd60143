//! `sherd write`: one document, or rows from standard input.

use std::io::{self, IsTerminal};
use std::sync::Arc;

use clap::Args;
use serde::Serialize;
use sherd_client::{Client, Condition, Expiry};

use crate::document;
use crate::error::Error;
use crate::formats::{Format, ReadOptions, Source};
use crate::interrupt::stopping;
use crate::load::{self, BATCHES_UNDER_WAY, Conflict, Input, Load, Point, Rejects, read_batches};
use crate::output::{Output, say};
use crate::units::parse_ttl;

use super::{Context, ensure_index, expect_index, parse_index, parse_key};

/// Write documents
///
/// One document: KEY and VALUE. Otherwise rows `key|value` from standard input, one a line, split
/// at the first `|`. A value that parses as JSON is JSON, else it is a string.
///
/// Existing keys are left as they are, unless with --overwrite: a single one is an error (exit
/// status 3), in rows they are counted. Of rows with the same key the first counts, with
/// --overwrite the last. Lines end with LF or CR LF (another CR in a value makes a bad row); lines of
/// nothing but white space are passed over. A bad row is reported with its line number on standard
/// error and does not stop the rest; the exit status is then 1. A row whose shard was lost before it
/// answered is reported as unknown: it may have been written or not.
#[derive(Debug, Args)]
pub(crate) struct Write {
    /// The index
    #[arg(value_name = "INDEX", value_parser = parse_index)]
    index: String,
    /// The key of a single document
    #[arg(
        value_name = "KEY",
        value_parser = parse_key,
        requires = "value",
        allow_negative_numbers = true
    )]
    key: Option<String>,
    /// Its value
    #[arg(value_name = "VALUE", allow_negative_numbers = true)]
    value: Option<String>,
    /// Create the index if it does not exist
    #[arg(long)]
    force: bool,
    /// Replace the documents of existing keys
    #[arg(long)]
    overwrite: bool,
    /// The documents expire that long from now, such as 500ms, 30s or 7d, instead of after the time
    /// to live of the index
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    ttl: Option<u64>,
}

impl Write {
    /// Writes.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        if self.force {
            ensure_index(&client, &self.index).await?;
        }
        match (&self.key, &self.value) {
            (Some(key), Some(value)) => self.write_one(context, &client, key, value).await,
            _ => self.write_rows(context, client).await,
        }
    }

    fn condition(&self) -> Condition {
        if self.overwrite { Condition::Any } else { Condition::Absent }
    }

    fn expiry(&self) -> Expiry {
        self.ttl.map_or(Expiry::Default, Expiry::After)
    }

    async fn write_one(
        &self,
        context: &Context,
        client: &Client,
        key: &str,
        value: &str,
    ) -> Result<(), Error> {
        let document = document::parse(value)
            .map_err(|fault| Error::Failed(format!("the value cannot be written: {fault}")))?;
        let (condition, expiry) = (self.condition(), self.expiry());
        let written = client.write_expiring(&self.index, key, &document, condition, expiry).await;
        let version = written.map_err(|error| match error {
            sherd_client::Error::ConditionFailed { .. } => Error::DoesNotHold(format!(
                "key {key:?} is in index {:?} already; --overwrite replaces its document",
                self.index
            )),
            error => error.into(),
        })?;
        let mut output = Output::new();
        if context.json {
            let hash_ = client.position(key).fraction();
            output.json(&Written { key, hash_, version })?;
        } else {
            output.line(format_args!("written, version {version}"))?;
        }
        output.flush()
    }

    async fn write_rows(&self, context: &Context, client: Client) -> Result<(), Error> {
        expect_index(&client, &self.index).await?;
        if io::stdin().is_terminal() {
            say!("reading rows key|value from the terminal; Ctrl-D ends them");
        }
        let on_conflict = if self.overwrite { Conflict::Overwrite } else { Conflict::Skip };
        let options = load::Options {
            index: self.index.as_str().into(),
            on_conflict,
            expiry: self.expiry(),
            jobs: BATCHES_UNDER_WAY,
            patience: None,
            max_errors: None,
        };
        let mut load = Load::new(client, options, Rejects::default());
        let mut stopping = stopping()?;
        let result = tokio::select! {
            result = load_rows(&mut load) => result,
            signal = stopping.asked() => {
                let again = "what was written stays; give the rows again for the rest";
                Err(signal.ends(format!("interrupted; {again}")))
            }
        };
        // What is under way is waited for, and counted.
        let summary = load.finish().await;
        let mut output = Output::new();
        if context.json {
            output.json(&summary)?;
        } else {
            output.line(summary)?;
        }
        output.flush()?;
        result?;
        if summary.is_complete() { Ok(()) } else { Err(Error::FailedSaid) }
    }
}

/// Loads the rows of standard input.
async fn load_rows(load: &mut Load) -> Result<(), Error> {
    let input = Input { source: Source::Stdin, format: Format::Rows, digest_of: None };
    let (options, from) = (ReadOptions::default(), Point::default());
    let mut batches = read_batches(vec![input], options, from, None, Arc::default())?;
    while let Some(mut batch) = batches.recv().await {
        let error = batch.error.take();
        load.take(batch).await?;
        if let Some(error) = error {
            return Err(Error::Failed(format!("cannot read standard input: {error}")));
        }
    }
    Ok(())
}

/// A single document written, for programs.
#[derive(Serialize)]
struct Written<'a> {
    key: &'a str,
    hash_: f64,
    version: u64,
}
