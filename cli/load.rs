//! Rows from standard input on their way into a cluster.
//!
//! A thread reads and parses rows into batches; a few batches are under way at a time. No two of
//! those hold the same key, and a batch keeps the order of its rows, so that rows of one key take
//! effect in their order. Memory is bounded by [`BATCHES_UNDER_WAY`] and [`BATCHES_READ_AHEAD`]
//! batches, and a batch by [`BATCH_BYTES`] and one row.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufReader, Read};
use std::mem::{Discriminant, discriminant};

use bytes::Bytes;
use serde::Serialize;
use sherd_client::{Client, Condition, Expiry, Mutation, Outcome};
use sherd_protocol::WireError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::error::Error;
use crate::formats::{BadRow, Entry, Format, Place, ReadError, ReadOptions, Reader};
use crate::output::say;

/// A batch is sent at this many rows or bytes: enough that a round trip costs little beside the
/// work in it. It may be over by one row.
const BATCH_ROWS: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;

/// Batches sent and not answered: enough to keep a few shards busy.
const BATCHES_UNDER_WAY: usize = 4;

/// Batches that wait to be sent.
const BATCHES_READ_AHEAD: usize = 2;

/// How much is read from standard input at a time.
const READ_BYTES: usize = 256 * 1024;

/// Rows to be sent together.
#[derive(Debug, Default)]
struct Batch {
    rows: Vec<Entry>,
    /// Lines among them that are no rows.
    bad: Vec<BadRow>,
    /// Why nothing comes after it, if that is not the end of the input.
    error: Option<ReadError>,
}

/// So many refusals are said one by one; of a full shard's, one a row, nobody reads more.
const REFUSALS_SAID: u64 = 20;

/// Rows that were refused: the first ones are said, the others counted by their error.
#[derive(Debug, Default)]
struct Refusals {
    said: u64,
    /// What kind of error, the first message of that kind, and how many. There are few kinds.
    others: Vec<(Kind, String, u64)>,
}

/// Errors of a kind differ in their figures only: the client's, and the node's in it, if there is one.
type Kind = (Discriminant<sherd_client::Error>, Option<Discriminant<WireError>>);

impl Refusals {
    /// Takes note, and says whether it is to be said by itself.
    fn add(&mut self, error: &sherd_client::Error) -> bool {
        if self.said < REFUSALS_SAID {
            self.said += 1;
            return true;
        }
        let kind = (discriminant(error), error.wire().map(discriminant));
        match self.others.iter_mut().find(|(of, ..)| *of == kind) {
            Some((.., count)) => *count += 1,
            None => self.others.push((kind, error.to_string(), 1)),
        }
        false
    }

    /// What is to be said at the end, if anything.
    fn rest(&self) -> Option<String> {
        let total: u64 = self.others.iter().map(|(.., count)| count).sum();
        let each = self.others.iter().map(|(_, error, count)| format!("{count} as in: {error}"));
        let each: Vec<_> = each.collect();
        (total > 0).then(|| format!("{total} more rows were refused: {}", each.join("; ")))
    }
}

/// What became of the rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    pub(crate) written: u64,
    /// Left as they were.
    pub(crate) existing: u64,
    /// Bad rows and refused ones.
    pub(crate) failed: u64,
    /// Sent and not answered: written or not.
    pub(crate) unknown: u64,
}

impl Summary {
    /// Whether every row is stored, or its key was.
    pub(crate) fn is_complete(&self) -> bool {
        self.failed == 0 && self.unknown == 0
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { written, existing, failed, unknown } = self;
        write!(f, "{written} written, {existing} existing, {failed} failed")?;
        if *unknown > 0 { write!(f, ", {unknown} unknown") } else { Ok(()) }
    }
}

/// A batch that has been answered.
struct Answered {
    /// Line and key of each row.
    rows: Vec<(u64, String)>,
    /// The hashes of the keys.
    hashes: HashSet<u64>,
    results: Vec<Result<Outcome, sherd_client::Error>>,
}

/// Writes rows into an index.
pub(crate) struct Load {
    client: Client,
    index: String,
    condition: Condition,
    expiry: Expiry,
    under_way: JoinSet<Answered>,
    /// The hashes of the keys under way. Two keys of one hash only wait for each other needlessly.
    hashes: HashSet<u64>,
    hasher: RandomState,
    summary: Summary,
    refusals: Refusals,
    /// No row of a whole batch got an answer.
    is_cluster_gone: bool,
}

impl Load {
    pub(crate) fn new(client: Client, index: String, condition: Condition, expiry: Expiry) -> Self {
        Self {
            client,
            index,
            condition,
            expiry,
            under_way: JoinSet::new(),
            hashes: HashSet::new(),
            hasher: RandomState::new(),
            summary: Summary::default(),
            refusals: Refusals::default(),
            is_cluster_gone: false,
        }
    }

    /// Reads standard input to its end and writes what is in it. What is wrong with single rows is
    /// said and counted.
    ///
    /// # Errors
    /// When the input cannot be read, or the cluster does not answer any more: rows have then not
    /// been tried.
    pub(crate) async fn run(&mut self) -> Result<(), Error> {
        let mut batches = read_batches(io::stdin())?;
        while let Some(Batch { rows, bad, error }) = batches.recv().await {
            for BadRow { number: line, fault, .. } in bad {
                self.summary.failed += 1;
                say!("line {line}: {fault}");
            }
            if let Some(row) = rows.first() {
                let first = row.number;
                self.send(rows).await;
                if self.is_cluster_gone {
                    return Err(Error::Failed(format!(
                        "rows after those of the batch from line {first} were not tried: the \
                         cluster does not answer"
                    )));
                }
            }
            if let Some(error) = error {
                return Err(Error::Failed(format!("cannot read standard input: {error}")));
            }
        }
        Ok(())
    }

    /// Waits for what is under way.
    pub(crate) async fn finish(mut self) -> Summary {
        while self.settle_one().await {}
        if let Some(rest) = self.refusals.rest() {
            say!("{rest}");
        }
        self.summary
    }

    /// Sends a batch as soon as there is room for it and none of its keys is under way.
    async fn send(&mut self, rows: Vec<Entry>) {
        let hashes: HashSet<_> = rows.iter().map(|row| self.hasher.hash_one(&row.key)).collect();
        while self.under_way.len() >= BATCHES_UNDER_WAY || !self.hashes.is_disjoint(&hashes) {
            self.settle_one().await;
        }
        self.hashes.extend(&hashes);
        let (client, index) = (self.client.clone(), self.index.clone());
        let (condition, expiry) = (self.condition, self.expiry);
        self.under_way.spawn(async move {
            let mut names = Vec::with_capacity(rows.len());
            let mut mutations = Vec::with_capacity(rows.len());
            for Entry { number: line, key, document, .. } in rows {
                names.push((line, key.clone()));
                let (index, document) = (index.clone(), Bytes::from(document));
                mutations.push(Mutation::Write { index, key, document, condition, expiry });
            }
            let results = client.batch(&mutations).await;
            Answered { rows: names, hashes, results }
        });
    }

    /// Waits for one batch to be answered, and takes note; `false` if none is under way.
    async fn settle_one(&mut self) -> bool {
        let Answered { rows, hashes, results } = match self.under_way.join_next().await {
            None => return false,
            Some(Ok(answered)) => answered,
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        };
        for hash in hashes {
            self.hashes.remove(&hash);
        }
        self.is_cluster_gone |= results.iter().all(
            |result| matches!(result, Err(error) if error.is_retryable() && error.wire().is_none()),
        );
        for ((line, key), result) in rows.into_iter().zip(results) {
            match result {
                Ok(Outcome::Written(_)) => self.summary.written += 1,
                Ok(_) => self.summary.existing += 1,
                Err(error) if error.is_outcome_unknown() => {
                    self.summary.unknown += 1;
                    say!("line {line}: {error}");
                }
                Err(error) => {
                    self.summary.failed += 1;
                    if self.refusals.add(&error) {
                        say!("line {line}: key {key:?}: {error}");
                    }
                }
            }
        }
        true
    }
}

/// Reads batches in a thread of their own, until the input ends or nobody wants more. A thread and
/// not a task, for a runtime waits for reads even when nobody needs them any more.
fn read_batches(input: impl Read + Send + 'static) -> Result<mpsc::Receiver<Batch>, Error> {
    let (sender, batches) = mpsc::channel(BATCHES_READ_AHEAD);
    let read = move || {
        let input = BufReader::with_capacity(READ_BYTES, input);
        let options = ReadOptions::default();
        let mut rows = match Reader::new(input, Format::Rows, &options, Place::default()) {
            Ok(rows) => rows,
            Err(error) => {
                _ = sender.blocking_send(Batch { error: Some(error), ..Batch::default() });
                return;
            }
        };
        loop {
            let (batch, is_last) = read_batch(&mut rows);
            if sender.blocking_send(batch).is_err() || is_last {
                break;
            }
        }
    };
    let thread = std::thread::Builder::new().name("rows".to_owned()).spawn(read);
    thread.map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))?;
    Ok(batches)
}

/// Reads a batch, and whether it is the last. It ends early rather than wait for more input.
fn read_batch(rows: &mut Reader<impl Read>) -> (Batch, bool) {
    let mut batch = Batch::default();
    let mut bytes = 0;
    loop {
        match rows.next() {
            Ok(Some(Ok(row))) => {
                bytes += row.key.len() + row.document.len();
                batch.rows.push(row);
            }
            Ok(Some(Err(bad))) => batch.bad.push(bad),
            Ok(None) => return (batch, true),
            Err(error) => {
                batch.error = Some(error);
                return (batch, true);
            }
        }
        let count = batch.rows.len() + batch.bad.len();
        if count >= BATCH_ROWS || bytes >= BATCH_BYTES || !rows.has_more_at_hand() {
            return (batch, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batches(input: impl Read + Send + 'static) -> Vec<(usize, usize, bool)> {
        let mut batches = read_batches(input).unwrap();
        let mut all = Vec::new();
        while let Some(batch) = batches.blocking_recv() {
            all.push((batch.rows.len(), batch.bad.len(), batch.error.is_some()));
        }
        all
    }

    #[test]
    fn batches_are_cut_by_rows_and_by_bytes() {
        let rows: String = (0..2500).map(|n| format!("{n}|{n}\n")).collect();
        let sizes: Vec<_> = batches(io::Cursor::new(rows)).iter().map(|batch| batch.0).collect();
        assert_eq!(sizes, [1000, 1000, 500, 0]);
        let large = format!("{{}}|{}\n", "x".repeat(BATCH_BYTES)).repeat(2);
        let sizes = batches(io::Cursor::new(large));
        assert!(sizes.iter().all(|batch| batch.0 <= 1), "{sizes:?}");
    }

    #[test]
    fn of_many_refusals_the_first_are_said_and_the_others_counted_by_their_kind() {
        let refused = |error| sherd_client::Error::Refused { node: "n".to_owned(), error };
        let full = |used| refused(WireError::QuotaExceeded { used, limit: 9, needed: 1 });
        let away = || sherd_client::Error::Connect { node: "n".to_owned(), reason: "r".to_owned() };
        let mut refusals = Refusals::default();
        let said = (0..REFUSALS_SAID).filter(|&i| refusals.add(&full(i))).count();
        assert_eq!((said as u64, refusals.rest()), (REFUSALS_SAID, None));
        for i in 0..100_000 {
            assert!(!refusals.add(&if i % 4 == 0 { away() } else { full(i) }));
        }
        let rest = refusals.rest().unwrap();
        let expected = format!(
            "100000 more rows were refused: 25000 as in: {}; 75000 as in: {}",
            away(),
            full(1)
        );
        assert_eq!(rest, expected);
    }

    #[test]
    fn rows_are_not_held_back_until_more_come() {
        let slow = io::Cursor::new("1|a\n2|b\n").chain(io::Cursor::new("bad\n3|c\n"));
        assert_eq!(batches(slow), [(2, 0, false), (1, 1, false), (0, 0, false)]);
    }

    #[test]
    fn an_input_that_fails_gives_what_came_before() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("unplugged"))
            }
        }
        let failing = io::Cursor::new("1|a\n").chain(Fails);
        assert_eq!(batches(failing), [(1, 0, false), (0, 0, true)]);
    }
}
