//! `sherd import`: documents from files.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};

use clap::Args;
use serde::{Deserialize, Serialize};
use sherd_client::{Client, Expiry};
use sherd_protocol::Digest;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::Error;
use crate::formats::{Format, KeyOf, ReadError, ReadOptions, Schema, Source};
use crate::load::{
    Asked, BATCHES_UNDER_WAY, Batch, Checkpoint, CheckpointFile, Conflict, Input, InputIs, Load,
    Marks, Options, Point, Rejects, RejectsFile, Summary, Window, now, read_batches,
};
use crate::output::{Output, say};
use crate::progress::{Figures, Progress};
use crate::units::{parse_size, parse_ttl};

use super::{Context, ensure_index, expect_index, parse_index};

/// Between two checkpoints at most so much is read: it is what is sent again after a crash, and what
/// must be remembered to count it once. A checkpoint waits for all that is under way.
const WINDOW: Window = Window { rows: 1_000_000, bytes: 256 << 20 };

/// Batches that may be under way at most.
const MAX_JOBS: u16 = 64;

/// How long shards that do not answer are waited for, while nothing at all is answered.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two attempts to ask the cluster something.
const PAUSE: Duration = Duration::from_millis(200);

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
/// shard, or Ctrl-C, --resume goes on from there, and ends with the same documents, counted once.
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

/// How much may be read in a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rate {
    Rows(u64),
    Bytes(u64),
}

fn parse_rate(text: &str) -> Result<Rate, String> {
    let rate = match text.trim().parse() {
        Ok(rows) => Rate::Rows(rows),
        Err(_) => Rate::Bytes(parse_size(text)?),
    };
    match rate {
        Rate::Rows(0) | Rate::Bytes(0) => Err("at that rate it would never end".to_owned()),
        rate => Ok(rate),
    }
}

/// Keeps to a rate.
struct Pace {
    rate: Option<Rate>,
    began: Instant,
    /// Rows or bytes since then.
    taken: u64,
    place: Point,
}

impl Pace {
    fn new(rate: Option<Rate>, place: Point) -> Self {
        Self { rate, began: Instant::now(), taken: 0, place }
    }

    /// Waits until a batch that ends there may be sent.
    async fn wait(&mut self, end: Point) {
        let before = std::mem::replace(&mut self.place, end);
        let Some(rate) = self.rate else { return };
        let is_same = before.input == end.input;
        let since = |of_end: u64, of_before: u64| if is_same { of_end - of_before } else { of_end };
        let a_second = match rate {
            Rate::Rows(rows) => {
                self.taken += since(end.place.row, before.place.row);
                rows
            }
            Rate::Bytes(bytes) => {
                self.taken += since(end.place.offset, before.place.offset);
                bytes
            }
        };
        let due = Duration::from_secs_f64(self.taken as f64 / a_second as f64);
        tokio::time::sleep_until(self.began + due).await;
    }
}

/// What an export says of a file, beside it.
#[derive(Debug, Deserialize)]
struct Sidecar {
    index: String,
    documents: u64,
    digest: String,
    #[serde(default)]
    format: Option<Format>,
}

impl Sidecar {
    /// What is said of a file, if anything.
    fn of(path: &Path) -> Result<Option<Self>, Error> {
        let mut name = path.as_os_str().to_owned();
        name.push(".digest.json");
        let path = PathBuf::from(name);
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", path)(error)),
        };
        let sidecar = serde_json::from_slice(&text).map_err(|error| {
            Error::Failed(format!(
                "{} does not say what its file holds ({error}); put it right, or remove it to import \
                 the file unchecked",
                path.display()
            ))
        })?;
        Ok(Some(sidecar))
    }

    /// How a file that came to this differs.
    fn mismatch(&self, name: &str, documents: u64, digest: Digest) -> Option<String> {
        let Self { documents: expected, digest: of_export, .. } = self;
        if documents != *expected {
            return Some(format!(
                "{name} is not what was exported: it has {documents} documents, and had {expected}"
            ));
        }
        (digest.to_string() != *of_export).then(|| {
            format!("{name} is not what was exported: its digest is {digest}, and was {of_export}")
        })
    }
}

/// What is to be imported.
struct Inputs {
    inputs: Vec<Input>,
    sidecars: Vec<Option<Sidecar>>,
    /// As they are now.
    are: Vec<InputIs>,
}

impl Inputs {
    /// The bytes of all, if that is known.
    fn bytes(&self) -> Option<u64> {
        let is_known = self.inputs.iter().all(|input| input.source.path().is_some());
        is_known.then(|| self.are.iter().map(|input| input.bytes).sum())
    }

    fn names(&self) -> Vec<String> {
        self.are.iter().map(|input| input.name.clone()).collect()
    }
}

/// The result, for programs.
#[derive(Serialize)]
struct View {
    written: u64,
    existing: u64,
    expired: u64,
    failed: u64,
}

/// What a dry run found, for programs.
#[derive(Serialize)]
struct DryView {
    rows: u64,
    expired: u64,
    failed: u64,
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
                    "{path} is of an import that did not end: --resume goes on with it, and \
                     without the file it begins anew"
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
                         what it was, or remove the file to begin anew"
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
        let needed = all.find(|needed| is_same(needed, rejects));
        match needed {
            Some(needed) => Err(Error::Usage(format!(
                "the rows of --rejects would take the place of {}: name another file",
                needed.display()
            ))),
            None => Ok(()),
        }
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

    /// The inputs that were named, with their formats.
    fn inputs(&self) -> Result<Inputs, Error> {
        let mut sources = Vec::new();
        for name in &self.files {
            sources.extend(self.sources_of(name)?);
        }
        if sources.is_empty() {
            sources.push(Source::Stdin);
        }
        if sources.iter().filter(|source| **source == Source::Stdin).count() > 1 {
            return Err(Error::Usage("standard input can be read once".to_owned()));
        }
        let mut all = Inputs { inputs: Vec::new(), sidecars: Vec::new(), are: Vec::new() };
        for source in sources {
            let name = source.name();
            let (mut sidecar, mut bytes, mut modified) = (None, 0, 0);
            if let Some(path) = source.path() {
                if path.is_dir() {
                    return Err(Error::Usage(format!(
                        "{name} is a directory; name its files, as '{name}/*.jsonl'"
                    )));
                }
                sidecar = Sidecar::of(path)?;
                (bytes, modified) = length_and_time(path)?;
            }
            let of_sidecar = sidecar.as_ref().and_then(|sidecar| sidecar.format);
            let told = source.path().and_then(Format::of_path).or(of_sidecar);
            let format = self.format.or(told).ok_or_else(|| {
                Error::Usage(format!(
                    "the format of {name} is not told by its name; say it with --format, one of \
                     rows, jsonl, csv, tsv and msgpack"
                ))
            })?;
            self.check_options(format, &name)?;
            let digest_of = sidecar.as_ref().map(|sidecar| sidecar.index.clone());
            all.inputs.push(Input { source, format, digest_of });
            all.sidecars.push(sidecar);
            all.are.push(InputIs { name, format, bytes, modified });
        }
        Ok(all)
    }

    /// The sources that a name on the command line stands for.
    fn sources_of(&self, name: &str) -> Result<Vec<Source>, Error> {
        if name == "-" {
            return Ok(vec![Source::Stdin]);
        }
        let path = PathBuf::from(name);
        if path.exists() || !name.contains(['*', '?', '[']) {
            return Ok(vec![Source::File(path)]);
        }
        let wrong = |error: String| Error::Usage(format!("{name} is no pattern of files: {error}"));
        let own: Vec<PathBuf> =
            self.rejects.iter().cloned().chain(self.checkpoint_file().paths()).collect();
        let paths = glob::glob(name).map_err(|error| wrong(error.to_string()))?;
        let mut files = Vec::new();
        for path in paths {
            let path = path.map_err(|error| Error::Failed(error.to_string()))?;
            // What an export says of a file is not one of the files, nor is what this import writes.
            let is_said = path.to_string_lossy().ends_with(".digest.json");
            let is_ours = own.iter().any(|own| is_same(own, &path));
            if path.is_file() && !is_said && !is_ours {
                files.push(Source::File(path));
            }
        }
        if files.is_empty() {
            return Err(Error::Failed(format!("no file matches {name}")));
        }
        Ok(files)
    }

    fn check_options(&self, format: Format, name: &str) -> Result<(), Error> {
        if self.key.is_some() && format == Format::Rows {
            return Err(Error::Usage(format!(
                "--key is for objects, and {name} has rows, whose keys are in front"
            )));
        }
        if !self.schema.is_empty() && !matches!(format, Format::Csv | Format::Tsv) {
            let format = format.name();
            return Err(Error::Usage(format!(
                "--schema is for columns, and {name} is {format}, which has types"
            )));
        }
        Ok(())
    }

    /// Reads everything and writes nothing.
    fn try_out(&self, context: &Context, inputs: &Inputs) -> Result<(), Error> {
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
            mismatches.extend(mismatch(inputs, &batch));
            if let Some(error) = &batch.error {
                result = Err(unreadable(inputs, batch.end.input, error));
            }
            if self.max_errors.is_some_and(|most| found.failed > most) {
                result = Err(too_many(self.max_errors));
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
                "{rows} rows to be written, {failed} failed, {expired} expired; nothing was written"
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

/// Why an input ends early.
fn unreadable(inputs: &Inputs, input: usize, error: &ReadError) -> Error {
    let name = inputs.are.get(input).map_or("", |input| input.name.as_str());
    Error::Failed(format!("cannot read {name}: {error}"))
}

fn too_many(most: Option<u64>) -> Error {
    let most = most.unwrap_or(0);
    Error::Failed(format!("more than {most} rows failed, which is what --max-errors allows"))
}

/// How long a file is, and when it was changed last, in nanoseconds since 1970.
fn length_and_time(path: &Path) -> Result<(u64, u64), Error> {
    let metadata = std::fs::metadata(path).map_err(Error::file("read", path))?;
    let since = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Ok((metadata.len(), since.map_or(0, |since| since.as_nanos() as u64)))
}

/// Whether two names are of one file, which may not be there yet.
fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| std::fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
    match (file(one), file(other)) {
        (Some(one), Some(other)) => one == other,
        (None, None) => std::path::absolute(one).ok() == std::path::absolute(other).ok(),
        _ => false,
    }
}

/// What the end of an input says against its sidecar.
fn mismatch(inputs: &Inputs, batch: &Batch) -> Option<String> {
    let Point { input, documents, digest, .. } = batch.end;
    let sidecar = inputs.sidecars.get(input).filter(|_| batch.ends_input)?.as_ref()?;
    sidecar.mismatch(&inputs.are[input].name, documents, digest)
}

/// What the shards have written, which all of them must say.
async fn marks(client: &Client) -> Result<Marks, Error> {
    let began = Instant::now();
    loop {
        let why = match client.map().await {
            Err(error) => error.to_string(),
            Ok(map) => {
                let mut lsns = BTreeMap::new();
                let mut away = None;
                for view in client.stat().await {
                    match view.stat {
                        Ok(stat) => _ = lsns.insert(view.shard.name, stat.durable_lsn),
                        Err(error) => away = Some(error.to_string()),
                    }
                }
                match away {
                    None => return Ok(Marks { epoch: map.epoch, ranges: map.ranges, lsns }),
                    Some(why) => why,
                }
            }
        };
        if began.elapsed() > PATIENCE {
            return Err(Error::Failed(format!("no checkpoint can be made: {why}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// An import under way.
struct Run<'a> {
    import: &'a Import,
    inputs: &'a Inputs,
    file: &'a CheckpointFile,
    client: Client,
    /// The last one.
    checkpoint: Checkpoint,
    /// There is no going on from it.
    is_lost: bool,
}

impl Run<'_> {
    async fn run(
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
            result = self.load(&mut load).await;
        }
        let is_stopped = result.is_err();
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
            if !self.is_lost {
                say!("{} knows how far it is: --resume goes on", self.file.path().display());
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
        let mut interrupted = on_interrupt();
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
                () = interrupted.comes() => {
                    result = Err(Error::Failed("interrupted".to_owned()));
                    break;
                }
                next = next => next,
            };
            let Some(mut batch) = next else { break };
            let (ends_window, ends_input) = (batch.ends_window, batch.ends_input);
            let (end, error) = (batch.end, batch.error.take());
            self.checkpoint.mismatches.extend(mismatch(self.inputs, &batch));
            result = load.take(batch).await;
            if result.is_err() {
                break;
            }
            // All of it is sent, or refused before.
            sent =
                if ends_input { Point { input: end.input + 1, ..Point::default() } } else { end };
            figures.rows.store(load.summary().rows(), Ordering::Relaxed);
            if let Some(error) = error {
                result = Err(unreadable(self.inputs, end.input, &error));
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
        self.check_index().await?;
        self.checkpoint.is_finished = true;
        self.checkpoint.at = sent;
        self.checkpoint.counts = load.summary();
        self.checkpoint.rejects_bytes = load.sync_rejects()?;
        self.file.save(&self.checkpoint)
    }

    /// Makes a checkpoint there, with nothing under way, and begins a window.
    async fn save(&mut self, load: &mut Load, at: Point) -> Result<(), Error> {
        self.checkpoint.marks = marks(&self.client).await?;
        self.check_index().await?;
        self.checkpoint.at = at;
        self.checkpoint.counts = load.summary();
        self.checkpoint.rejects_bytes = load.sync_rejects()?;
        self.file.save(&self.checkpoint)?;
        load.begin_window(self.checkpoint.marks.clone(), false);
        Ok(())
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
                Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
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
        if load.is_answered() && !load.is_replaying() && !self.is_lost {
            // It is the first error that is told.
            _ = self.save(load, sent).await;
        }
        error
    }
}

/// Whether Ctrl-C was pressed.
struct Interrupt(watch::Receiver<bool>);

impl Interrupt {
    async fn comes(&mut self) {
        if self.0.wait_for(|came| *came).await.is_err() {
            // Nobody listens for it.
            std::future::pending::<()>().await;
        }
    }
}

/// Listens for Ctrl-C; the second one ends the process at once.
fn on_interrupt() -> Interrupt {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            say!("stopping; Ctrl-C again stops at once");
            _ = sender.send(true);
        }
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
    Interrupt(receiver)
}
