//! Entries on their way into a cluster.
//!
//! * `batches`: a thread reads and parses entries into batches;
//! * this module sends them, a few at a time. No two of those under way hold the same key, and a batch
//!   keeps the order of its entries, so that entries of one key take effect in their order;
//! * `rejects`: what becomes of rows that are not written;
//! * `checkpoint`: how an import that was interrupted goes on.
//!
//! Memory is bounded: by a few batches read ahead, each of [`batches::BATCH_BYTES`] and one row, by
//! [`BYTES_UNDER_WAY`] of batches under way, and by [`batches::BYTES_HELD`] of both together, which has long
//! rows read one by one.

mod batches;
mod checkpoint;
mod rejects;

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sherd_client::{Client, Condition, Expiry, Mutation, Outcome};
use sherd_protocol::WireError;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::error::Error;
use crate::output::say;
use crate::units::{now, show_count};

pub(crate) use batches::{Batch, Input, Point, Window, read_batches};
pub(crate) use checkpoint::{Asked, Checkpoint, CheckpointFile, InputIs, Marks};
pub(crate) use rejects::{Rejects, RejectsFile};

use checkpoint::Written;
use rejects::Why;

/// Batches sent and not answered, unless told: enough to keep a few shards busy.
pub(crate) const BATCHES_UNDER_WAY: usize = 8;

/// The bytes of them, unless a single one has more: large documents are sent one by one rather than
/// held in memory.
const BYTES_UNDER_WAY: usize = 16 * batches::BATCH_BYTES;

/// The pause before entries are sent again whose shard was lost, and the longest one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// What becomes of an entry whose key is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Conflict {
    /// The document stays as it is, and is counted
    Skip,
    /// The document is replaced
    Overwrite,
    /// The row is rejected
    Fail,
}

/// What became of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Summary {
    pub(crate) written: u64,
    /// Left as they were.
    pub(crate) existing: u64,
    /// Not written, for they had expired.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) expired: u64,
    /// Bad rows and refused ones.
    pub(crate) failed: u64,
    /// Sent and not answered: written or not.
    pub(crate) unknown: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Summary {
    /// Whether every row is stored, or its key was.
    pub(crate) fn is_complete(&self) -> bool {
        self.failed == 0 && self.unknown == 0
    }

    /// How many rows that are.
    pub(crate) fn rows(&self) -> u64 {
        let Self { written, existing, expired, failed, unknown } = self;
        written + existing + expired + failed + unknown
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { written, existing, expired, failed, unknown } = self;
        write!(f, "{written} written, {existing} existing, {failed} failed")?;
        if *expired > 0 {
            write!(f, ", {expired} expired")?;
        }
        if *unknown > 0 { write!(f, ", {unknown} unknown") } else { Ok(()) }
    }
}

/// How entries are written.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) index: Arc<str>,
    pub(crate) on_conflict: Conflict,
    /// Of documents for which the entry does not say it.
    pub(crate) expiry: Expiry,
    /// Batches under way.
    pub(crate) jobs: usize,
    /// How long to send entries again whose shard does not answer, while none of them is answered;
    /// without it, such a row is reported as of unknown outcome.
    pub(crate) patience: Option<Duration>,
    /// More rows than that may not fail.
    pub(crate) max_errors: Option<u64>,
}

/// Hashes of keys, which need not be hashed again.
type Hashes = HashSet<u64, BuildHasherDefault<AsItIs>>;

#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A window under way: what tells rows that were written in it from those that were there before.
struct Since {
    marks: Arc<Marks>,
    /// An earlier run may have written of it.
    is_replayed: bool,
    /// The keys of rows that are answered. Two keys of one hash are as good as none.
    met: Met,
}

/// Hashes of keys that were met. They are told apart when somebody asks, which is seldom.
#[derive(Default)]
struct Met {
    noted: Vec<u64>,
    known: Hashes,
}

impl Met {
    fn note(&mut self, hash: u64) {
        self.noted.push(hash);
    }

    fn has(&mut self, hash: u64) -> bool {
        self.known.extend(self.noted.drain(..));
        self.known.contains(&hash)
    }
}

/// What a row needs to be told of when it is answered.
struct Name {
    number: u64,
    hash: u64,
    row: Vec<u8>,
}

/// A batch that has been answered, or given up.
struct Answered {
    input: usize,
    names: Vec<Name>,
    mutations: Vec<Mutation>,
    bytes: usize,
    results: Vec<Result<Done, sherd_client::Error>>,
    gave_up: GaveUp,
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Done {
    Written,
    Existing,
    /// There is a document that was written since the window began, by an earlier run or by an
    /// attempt of this one, unless by another row of the same key.
    WrittenBefore,
}

/// Writes entries into an index.
pub(crate) struct Load {
    client: Client,
    options: Arc<Options>,
    under_way: JoinSet<Answered>,
    bytes_under_way: usize,
    /// The hashes of the keys under way. Two keys of one hash only wait for each other needlessly.
    hashes: Hashes,
    hasher: RandomState,
    window: Option<Since>,
    rejects: Rejects,
    summary: Summary,
    /// A row was taken.
    has_begun: bool,
    stop: Option<Stop>,
}

/// Why no more is sent.
#[derive(Clone, Debug)]
enum Stop {
    /// No row of a whole batch got an answer.
    ClusterGone,
    /// Not all of what was sent is answered.
    Unanswered(String),
    /// All of it is.
    Answered(String),
}

impl Load {
    pub(crate) fn new(client: Client, options: Options, rejects: Rejects) -> Self {
        Self {
            client,
            options: Arc::new(options),
            under_way: JoinSet::new(),
            bytes_under_way: 0,
            hashes: Hashes::default(),
            hasher: RandomState::new(),
            window: None,
            rejects,
            summary: Summary::default(),
            has_begun: false,
            stop: None,
        }
    }

    /// Begins with these counts, at a checkpoint that was made before. Rows that had failed by then
    /// count for [`Options::max_errors`].
    pub(crate) fn resume(&mut self, counts: Summary) {
        self.summary = counts;
        self.stop_if_too_many_failed();
    }

    /// What follows is in a window that began with `marks`; nothing is under way.
    pub(crate) fn begin_window(&mut self, marks: Marks, is_replayed: bool) {
        let marks = Arc::new(marks);
        self.window = Some(Since { marks, is_replayed, met: Met::default() });
    }

    /// Whether an earlier run may have written rows behind those of this one.
    pub(crate) fn is_replaying(&self) -> bool {
        self.window.as_ref().is_some_and(|window| window.is_replayed)
    }

    /// The counts, of what is answered.
    pub(crate) fn summary(&self) -> Summary {
        self.summary
    }

    /// Makes durable which rows were rejected; the length of their file.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn sync_rejects(&mut self) -> Result<u64, Error> {
        self.rejects.sync()
    }

    /// Takes note of the rows of a batch that are none, and sends the others as soon as there is room
    /// and none of their keys is under way.
    ///
    /// # Errors
    /// When the cluster does not answer any more, or the file of rejects cannot be written. The rows of
    /// the batch may then not have been tried.
    pub(crate) async fn take(&mut self, batch: Batch) -> Result<(), Error> {
        self.has_begun |= !batch.bad.is_empty() || !batch.entries.is_empty();
        for bad in &batch.bad {
            self.reject(batch.end.input, Why::Bad(bad))?;
        }
        let first = batch.entries.first().map(|entry| entry.number);
        if let Some(first) = first {
            let first = self.rejects.line(batch.end.input, first);
            self.send(batch).await?;
            if matches!(self.stop, Some(Stop::ClusterGone)) {
                return Err(Error::Failed(format!(
                    "rows after those of the batch from {first} were not tried: the cluster \
                     does not answer"
                )));
            }
        }
        Ok(())
    }

    /// Whether more is to be sent.
    ///
    /// # Errors
    /// Why not: what was sent is not answered, or too many rows failed.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match &self.stop {
            Some(Stop::Unanswered(why) | Stop::Answered(why)) => Err(Error::Failed(why.clone())),
            _ => Ok(()),
        }
    }

    /// Waits for what is under way.
    ///
    /// # Errors
    /// As [`Load::take`].
    pub(crate) async fn drain(&mut self) -> Result<(), Error> {
        while self.settle_one().await? {}
        Ok(())
    }

    /// Whether a row was taken, if only to be rejected.
    pub(crate) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether nothing is under way, and nothing is of unknown outcome.
    pub(crate) fn is_answered(&self) -> bool {
        self.under_way.is_empty() && !matches!(self.stop, Some(Stop::Unanswered(_)))
    }

    /// Waits for what is under way, and says what is left to be said.
    pub(crate) async fn finish(mut self) -> Summary {
        while matches!(self.settle_one().await, Ok(true)) {}
        self.rejects.say_rest();
        self.summary
    }

    async fn send(&mut self, batch: Batch) -> Result<(), Error> {
        let (input, bytes, held) = (batch.end.input, batch.bytes, batch.held);
        let condition = match self.options.on_conflict {
            Conflict::Skip | Conflict::Fail => Condition::Absent,
            Conflict::Overwrite => Condition::Any,
        };
        let (mut names, mut mutations) = (Vec::new(), Vec::new());
        let now = now();
        for entry in batch.entries {
            let expiry = entry.expires_at.map_or(self.options.expiry, Expiry::At);
            if matches!(expiry, Expiry::At(at) if at <= now) {
                self.summary.expired += 1;
                continue;
            }
            let (index, key) = (Arc::clone(&self.options.index), entry.key);
            let hash = self.hasher.hash_one(&key);
            names.push(Name { number: entry.number, hash, row: entry.row });
            let document = Bytes::from(entry.document);
            mutations.push(Mutation::Write { index, key, document, condition, expiry });
        }
        // Where no key comes twice, nobody need look for those that do.
        let is_distinct = loop {
            let is_room = self.under_way.len() < self.options.jobs
                && (self.bytes_under_way == 0 || self.bytes_under_way + bytes <= BYTES_UNDER_WAY);
            if is_room && let Some(is_distinct) = self.begin(&names) {
                break is_distinct;
            }
            self.settle_one().await?;
            // A row of the same key may have been given up: this one must not overtake it.
            if matches!(self.stop, Some(Stop::Unanswered(_))) {
                return Ok(());
            }
        };
        self.bytes_under_way += bytes;
        let (client, options) = (self.client.clone(), Arc::clone(&self.options));
        let window = self.window.as_ref();
        let marks = window.map(|window| (Arc::clone(&window.marks), window.is_replayed));
        self.under_way.spawn(async move {
            let (results, gave_up) = match options.patience {
                None => (client.batch(&mutations).await.into_iter().map(done).collect(), None),
                Some(patience) if is_distinct => {
                    write_group(&client, &mutations, patience, marks.as_ref()).await
                }
                Some(patience) => write_all(&client, &mutations, patience, marks).await,
            };
            // Not when it is settled: who waits for the next batch does not settle this one.
            drop(held);
            Answered { input, names, mutations, bytes, results, gave_up }
        });
        Ok(())
    }

    /// Has keys be under way, unless one of them is: then `None`, else whether they all differ.
    fn begin(&mut self, names: &[Name]) -> Option<bool> {
        let begun = names.iter().take_while(|name| self.hashes.insert(name.hash)).count();
        if begun == names.len() {
            return Some(true);
        }
        for name in &names[..begun] {
            self.hashes.remove(&name.hash);
        }
        let hashes: Hashes = names.iter().map(|name| name.hash).collect();
        if !self.hashes.is_disjoint(&hashes) {
            return None;
        }
        self.hashes.extend(&hashes);
        Some(false)
    }

    /// Waits for one batch to be answered, and takes note; `false` if none is under way.
    async fn settle_one(&mut self) -> Result<bool, Error> {
        let answered = match self.under_way.join_next().await {
            None => return Ok(false),
            Some(Ok(answered)) => answered,
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        };
        let Answered { input, names, mutations, bytes, results, gave_up } = answered;
        for name in &names {
            self.hashes.remove(&name.hash);
        }
        self.bytes_under_way -= bytes;
        let is_unreached = |result: &Result<_, sherd_client::Error>| matches!(result, Err(error) if error.is_retryable() && error.wire().is_none());
        if let Some(waited) = gave_up {
            self.give_up(input, &names, &mutations, &results, waited);
            return Ok(true);
        }
        if !results.is_empty() && results.iter().all(is_unreached) {
            self.stop.get_or_insert(Stop::ClusterGone);
        }
        for ((name, mutation), result) in names.iter().zip(&mutations).zip(results) {
            let Name { number, hash, row } = name;
            let (number, key) = (*number, mutation.key());
            let mut met = self.window.as_mut().map(|window| &mut window.met);
            let mut is_first = || met.as_mut().is_none_or(|met| !met.has(*hash));
            match result {
                Ok(Done::Written) => self.summary.written += 1,
                Ok(Done::WrittenBefore) if is_first() => self.summary.written += 1,
                Ok(_) if self.options.on_conflict == Conflict::Fail => {
                    self.reject(input, Why::There { number, key, row })?;
                }
                Ok(_) => self.summary.existing += 1,
                Err(error) if error.is_outcome_unknown() => {
                    self.summary.unknown += 1;
                    say!("{}: {error}", self.rejects.line(input, number));
                }
                Err(error) => {
                    let error = &error;
                    self.reject(input, Why::Refused { number, key, row, error })?;
                }
            }
            if let Some(window) = &mut self.window {
                window.met.note(*hash);
            }
        }
        Ok(true)
    }

    /// A batch could not be written whole, and is as if it had never been sent.
    fn give_up(
        &mut self,
        input: usize,
        names: &[Name],
        mutations: &[Mutation],
        results: &[Result<Done, sherd_client::Error>],
        waited: Duration,
    ) {
        let line = |name: &Name| self.rejects.line(input, name.number);
        let failed = || names.iter().zip(mutations).zip(results);
        let stopped = failed().find_map(|((name, _), result)| match result {
            Err(error) if stops(error) => Some(format!("{}: {error}", line(name))),
            _ => None,
        });
        let unanswered = || {
            failed().find_map(|((name, mutation), result)| match result {
                Err(error) if is_unanswered(error) => {
                    Some(not_answered(&line(name), mutation.key(), error, waited))
                }
                _ => None,
            })
        };
        let why = stopped.or_else(unanswered).unwrap_or_default();
        // It tells more than that others were not answered.
        if !matches!(self.stop, Some(Stop::Unanswered(_))) {
            self.stop = Some(Stop::Unanswered(why));
        }
    }

    fn reject(&mut self, input: usize, why: Why<'_>) -> Result<(), Error> {
        self.summary.failed += 1;
        if let Err(error) = self.rejects.add(input, why) {
            // What is not kept must come again.
            self.stop = Some(Stop::Unanswered(error.to_string()));
            return Err(error);
        }
        self.stop_if_too_many_failed();
        Ok(())
    }

    fn stop_if_too_many_failed(&mut self) {
        let failed = self.summary.failed;
        if let Some(most) = self.options.max_errors.filter(|&most| failed > most) {
            let why = format!("{}; --resume goes on with a higher one", too_many_failed(most));
            self.stop.get_or_insert(Stop::Answered(why));
        }
    }
}

/// Says that more rows failed than may.
pub(crate) fn too_many_failed(most: u64) -> String {
    format!("more than {} failed, which is what --max-errors allows", show_count(most, "row"))
}

fn done(result: Result<Outcome, sherd_client::Error>) -> Result<Done, sherd_client::Error> {
    result.map(|outcome| match outcome {
        Outcome::Written(_) => Done::Written,
        _ => Done::Existing,
    })
}

/// Whether an error is of the whole import and not of a row.
fn stops(error: &sherd_client::Error) -> bool {
    matches!(
        error.wire(),
        Some(
            WireError::IndexNotFound { .. }
                | WireError::Poisoned { .. }
                | WireError::DiskFull { .. }
                | WireError::Unauthorized
                | WireError::UnsupportedVersion { .. }
                | WireError::WrongCluster { .. }
        )
    ) || matches!(error, sherd_client::Error::WrongCluster { .. })
}

/// Whether an entry may be written when its shard is back, if it is not.
fn is_unanswered(error: &sherd_client::Error) -> bool {
    error.is_outcome_unknown() || error.is_retryable()
}

/// Says that a row was tried for so long; how often and how long each attempt was says nothing.
fn not_answered(line: &str, key: &str, error: &sherd_client::Error, waited: Duration) -> String {
    let (seconds, last) = (waited.as_secs(), last_reason(error));
    format!("{line}: key {key:?} was tried for {seconds} s and not answered: {last}")
}

/// Why the last attempt of several failed, which are made again.
pub(crate) fn last_reason(error: &sherd_client::Error) -> String {
    match error {
        sherd_client::Error::Deadline { last, .. } => last_reason(last),
        sherd_client::Error::OutcomeUnknown(unknown) => {
            format!("{} did not answer: {}", unknown.node, unknown.reason)
        }
        error => error.to_string(),
    }
}

type Results = Vec<Result<Done, sherd_client::Error>>;

/// That entries were given up, and how long none of them had been answered then.
type GaveUp = Option<Duration>;

/// Writes entries until all are answered, those whose shard was lost again and again; and whether that
/// had to be given up.
///
/// Entries of one key follow each other: the later one is sent when the earlier one is answered.
async fn write_all(
    client: &Client,
    mutations: &[Mutation],
    patience: Duration,
    marks: Option<(Arc<Marks>, bool)>,
) -> (Results, GaveUp) {
    let mut results: Results = Vec::with_capacity(mutations.len());
    let mut rest = mutations;
    while !rest.is_empty() {
        let mut keys = HashSet::new();
        let count = rest.iter().take_while(|mutation| keys.insert(mutation.key())).count();
        let (group, later) = rest.split_at(count);
        rest = later;
        let (of_group, gave_up) = write_group(client, group, patience, marks.as_ref()).await;
        results.extend(of_group);
        if gave_up.is_some() {
            return (results, gave_up);
        }
    }
    (results, None)
}

/// [`write_all`] of different keys.
async fn write_group(
    client: &Client,
    group: &[Mutation],
    patience: Duration,
    marks: Option<&(Arc<Marks>, bool)>,
) -> (Results, GaveUp) {
    let mut results = Vec::with_capacity(group.len());
    for (mutation, result) in group.iter().zip(client.batch(group).await) {
        results.push(match (marks, result) {
            (Some((marks, true)), Ok(Outcome::ConditionFailed(Some(version)))) => {
                written_before(client, mutation, version, marks).await
            }
            (_, result) => done(result),
        });
    }
    let mut unanswered = unanswered(&results);
    let (mut since, mut pause) = (Instant::now(), FIRST_PAUSE);
    while !unanswered.is_empty() {
        let waited = since.elapsed();
        if is_stopped(&results) || waited > patience {
            return (results, Some(waited));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
        let again: Vec<_> = unanswered.iter().map(|&place| group[place].clone()).collect();
        for (&place, result) in unanswered.iter().zip(client.batch(&again).await) {
            results[place] = match (marks, result) {
                // It may be of the attempt before, or of another row.
                (Some((marks, _)), Ok(Outcome::ConditionFailed(Some(version)))) => {
                    written_before(client, &group[place], version, marks).await
                }
                (_, result) => done(result),
            };
        }
        let left = self::unanswered(&results);
        if left.len() < unanswered.len() {
            (since, pause) = (Instant::now(), FIRST_PAUSE);
        }
        unanswered = left;
    }
    let gave_up = is_stopped(&results).then(|| since.elapsed());
    (results, gave_up)
}

fn is_stopped(results: &Results) -> bool {
    results.iter().any(|result| matches!(result, Err(error) if stops(error)))
}

fn unanswered(results: &Results) -> Vec<usize> {
    let is_it = |&place: &usize| matches!(&results[place], Err(error) if is_unanswered(error));
    (0..results.len()).filter(is_it).collect()
}

/// Whether the document that is in the way was written since the window began.
async fn written_before(
    client: &Client,
    mutation: &Mutation,
    version: u64,
    marks: &Marks,
) -> Result<Done, sherd_client::Error> {
    let position = client.position(mutation.key());
    match marks.written(position, version, &client.known_map()) {
        Written::BeforeWindow => Ok(Done::Existing),
        Written::Since => Ok(Done::WrittenBefore),
        Written::Unclear => {
            let found = client.read(mutation.index(), mutation.key()).await?;
            let is_same = matches!(
                (&found, mutation),
                (Some(found), Mutation::Write { document, .. }) if found.bytes == *document
            );
            Ok(if is_same { Done::WrittenBefore } else { Done::Existing })
        }
    }
}

#[cfg(test)]
mod tests {
    use sherd_client::Error;

    use super::*;

    #[test]
    fn a_row_that_is_not_answered_says_how_long_it_was_tried_and_why_at_last() {
        let node = || "shard left (127.0.0.1:5050)".to_owned();
        let away = Error::Connect { node: node(), reason: "connection refused".to_owned() };
        let (what, deadline) = ("write of \"k\"".to_owned(), Duration::from_secs(10));
        let error = Error::Deadline { what, deadline, attempts: 12, last: Box::new(away) };
        let rejects = Rejects::new(vec!["a.rows".to_owned(), "b.rows".to_owned()], None);
        let waited = Duration::from_millis(61_500);
        assert_eq!(
            not_answered(&rejects.line(1, 5), "k", &error, waited),
            "b.rows line 5: key \"k\" was tried for 61 s and not answered: cannot connect to shard \
             left (127.0.0.1:5050): connection refused"
        );
        let unanswered = Error::Unanswered { node: node(), reason: "r".to_owned() };
        assert_eq!(last_reason(&unanswered), "shard left (127.0.0.1:5050) did not answer: r");
    }
}
