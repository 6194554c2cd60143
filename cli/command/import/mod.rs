//! `sherd import`: documents from files.
//!
//! * `inputs`: files, globs and standard input, and what each is; `sidecar`: what an export says of a file;
//! * `dry_run`: all is read and checked, and nothing written;
//! * `run`: what is under way, with its checkpoints; `pace`: how fast it may go.

mod dry_run;
mod inputs;
mod pace;
mod run;
mod sidecar;

use std::path::PathBuf;

use clap::Args;
use sherd_client::{Client, Expiry};

use crate::error::Error;
use crate::formats::{Format, KeyOf, ReadOptions, Schema};
use crate::load::{
    Asked, BATCHES_UNDER_WAY, Checkpoint, CheckpointFile, Conflict, Point, RejectsFile, Summary,
    Window,
};
use crate::units::{now, parse_ttl};

use self::inputs::{Inputs, is_same};
use self::pace::{Rate, parse_rate};
use self::run::{Run, marks};
use super::{Context, ensure_index, expect_index, parse_index};

/// Between two checkpoints at most so much is read: it is what is sent again after a crash, and what
/// must be remembered to count it once. A checkpoint waits for all that is under way.
const WINDOW: Window = Window { rows: 1_000_000, bytes: 256 << 20 };

/// Batches that may be under way at most.
const MAX_JOBS: u16 = 64;

/// Import documents from files
///
/// From files, globs and standard input (`-`, or no file), plain or compressed by gzip or zstd, which is
/// told by the content. The format is told by the name (`.rows`, `.jsonl`, `.ndjson`, `.csv`, `.tsv`,
/// `.msgpack`, with `.gz` or `.zst` behind it), or by --format.
///
/// rows: `key|value`, as `write` reads them. jsonl: an object a line, `{"key": …, "record": …}`, with
/// `"version"` and `"expires_at"` or not; with --key the object is the document. csv, tsv: under a
/// header; the column `key` is the key and the others are the document, or --key says what makes the
/// key. msgpack: maps as in jsonl.
///
/// A bad row does not stop the rest: it is reported, and goes to --rejects. What is done is kept in a
/// checkpoint, INDEX.import in the current directory, until all is: after a crash of this command, of a
/// shard, Ctrl-C or SIGTERM, --resume goes on from there, and ends with the same documents, counted once.
#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The index
    #[arg(value_name = "INDEX", value_parser = parse_index)]
    index: String,
    /// Files, globs in quotes, or - for standard input
    #[arg(value_name = "FILE")]
    files: Vec<String>,
    /// The format, where names do not tell it, or whatever they tell
    #[arg(long, value_name = "FORMAT")]
    format: Option<Format>,
    /// What makes the key of an object: a field, or several as in '{country}:{id}'
    #[arg(long, value_name = "FIELD|TEMPLATE")]
    key: Option<KeyOf>,
    /// The types of columns of csv and tsv, as in name:string,population:int; int, float, bool, string
    /// or json. Others are what their cells look like
    #[arg(long, value_name = "COLUMN:TYPE,…", default_value = "", hide_default_value = true, value_parser = parse_schema)]
    schema: Schema,
    /// What becomes of a row whose key is in the index already
    #[arg(long, value_name = "WHAT", default_value = "skip")]
    on_conflict: Conflict,
    /// Documents for which the input does not say it expire that long after the import began, such as
    /// 500ms, 30s or 7d
    #[arg(long, value_name = "DURATION", value_parser = parse_ttl)]
    ttl: Option<u64>,
    /// Create the index if it does not exist
    #[arg(long)]
    force: bool,
    /// Batches of rows that are under way at a time
    #[arg(long, value_name = "N", default_value_t = BATCHES_UNDER_WAY as u16, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_JOBS)))]
    jobs: u16,
    /// The most rows a second, or bytes of input where it has a unit, such as 10MiB
    #[arg(long, value_name = "ROWS|BYTES", value_parser = parse_rate)]
    rate: Option<Rate>,
    /// Read and check everything, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Where rows go that were not written: JSON lines with file, line, reason and row
    #[arg(long, value_name = "FILE")]
    rejects: Option<PathBuf>,
    /// Stop when more than so many rows failed
    #[arg(long, value_name = "N")]
    max_errors: Option<u64>,
    /// Where the checkpoint is kept [default: INDEX.import]
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// How many rows are read between two checkpoints, at most
    #[arg(long, value_name = "ROWS", default_value_t = WINDOW.rows, hide = true,
        value_parser = clap::value_parser!(u64).range(1..=WINDOW.rows))]
    checkpoint_rows: u64,
    /// Go on from the checkpoint of an import that did not end, with the same inputs
    #[arg(long, conflicts_with = "dry_run")]
    resume: bool,
}

fn parse_schema(text: &str) -> Result<Schema, String> {
    if text.is_empty() { Ok(Schema::default()) } else { text.parse() }
}

impl Import {
    /// Imports.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let inputs = self.inputs()?;
        self.check_rejects(&inputs)?;
        if self.dry_run {
            return self.try_out(context, &inputs);
        }
        let file = self.checkpoint_file();
        let _lock = file.lock()?;
        let before = file.load()?;
        let path = file.path().display();
        match (&before, self.resume) {
            (Some(_), false) => {
                return Err(Error::Failed(format!(
                    "{path} is of an import that did not end: --resume goes on with it, and after \
                     `{}` it begins anew",
                    file.removal()
                )));
            }
            (None, true) => {
                return Err(Error::Failed(format!(
                    "there is no checkpoint {path} to go on from; without --resume the import \
                     begins at the beginning"
                )));
            }
            _ => {}
        }
        let client = context.connect().await?;
        if self.force {
            ensure_index(&client, &self.index).await?;
        }
        let index_id = expect_index(&client, &self.index).await?;
        let asked = self.asked(&client, index_id, &inputs);
        let is_resumed = before.is_some();
        let checkpoint = match before {
            Some(before) => {
                if let Some(difference) = before.asked.difference(&asked) {
                    return Err(Error::Failed(format!(
                        "this is not the import of the checkpoint {path}: {difference}; go on with \
                         what it was, or begin anew after `{}`",
                        file.removal()
                    )));
                }
                before
            }
            None => Checkpoint {
                version: 0,
                asked,
                began_at: now(),
                at: Point::default(),
                window: Window { rows: self.checkpoint_rows, ..WINDOW },
                marks: marks(&client).await?,
                counts: Summary::default(),
                rejects_bytes: 0,
                mismatches: Vec::new(),
                is_finished: false,
            },
        };
        let rejects = self.rejects_file(checkpoint.rejects_bytes)?;
        let is_lost = false;
        let run = Run { import: &self, inputs: &inputs, file: &file, client, checkpoint, is_lost };
        run.run(context, rejects, is_resumed).await
    }

    fn checkpoint_file(&self) -> CheckpointFile {
        let path = self.checkpoint.clone();
        CheckpointFile::new(path.unwrap_or_else(|| PathBuf::from(format!("{}.import", self.index))))
    }

    /// Makes sure that the file of rejects, which is cut to its length, is nothing that is needed.
    fn check_rejects(&self, inputs: &Inputs) -> Result<(), Error> {
        let Some(rejects) = &self.rejects else { return Ok(()) };
        let checkpoint = self.checkpoint_file().paths();
        let files = inputs.inputs.iter().filter_map(|input| input.source.path());
        let mut all = files.chain(checkpoint.iter().map(PathBuf::as_path));
        if let Some(needed) = all.find(|needed| is_same(needed, rejects)) {
            return Err(Error::Usage(format!(
                "the rows of --rejects would take the place of {}: name another file",
                needed.display()
            )));
        }
        if !self.dry_run {
            return Ok(());
        }
        let unended = self.checkpoint_file().load()?.and_then(|it| it.asked.rejects);
        if unended.is_some_and(|needed| is_same(&needed, rejects)) {
            return Err(Error::Usage(format!(
                "{} has rows of an import that did not end, which --resume needs: name another file for \
                 the dry run",
                rejects.display()
            )));
        }
        Ok(())
    }

    fn rejects_file(&self, length: u64) -> Result<Option<RejectsFile>, Error> {
        self.rejects.as_ref().map(|path| RejectsFile::open(path, length)).transpose()
    }

    fn read_options(&self) -> ReadOptions {
        let keep_rows = self.rejects.is_some();
        ReadOptions { key: self.key.clone(), schema: self.schema.clone(), keep_rows }
    }

    fn expiry(&self, began_at: u64) -> Expiry {
        self.ttl.map_or(Expiry::Default, |ttl| Expiry::At(began_at.saturating_add(ttl)))
    }

    fn asked(&self, client: &Client, index_id: u32, inputs: &Inputs) -> Asked {
        Asked {
            cluster: client.known_map().cluster,
            index: self.index.clone(),
            index_id,
            inputs: inputs.are.clone(),
            on_conflict: self.on_conflict,
            ttl: self.ttl,
            key: self.key.as_ref().map(ToString::to_string),
            schema: self.schema.to_string(),
            rejects: self.rejects.clone(),
        }
    }
}
