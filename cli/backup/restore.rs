//! Restoring a backup into a cluster: its documents, read from the logs, written as any client writes.
//!
//! A thread reads the logs; a few batches are under way at a time. Every document is in a backup once, so
//! their order does not matter, and one whose outcome is unknown is written again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use sherd_client::{
    Client, Condition, Contents, Digest, Document, Expiry, Item, Mutation, ScanOptions,
};
use sherd_engine::content_hash;
use sherd_engine::verify::{
    BackedUp, Fault, Moment, ShardContents, ShardFiles, check_backup, read_backup,
};
use sherd_protocol::message::Index;
use sherd_protocol::ring::RING_SIZE;
use sherd_protocol::{Change, IndexSettings, SettingsChange};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::check::is_said;
use super::file::{ShardBackup, hex};
use crate::command::blocking;
use crate::error::Error;
use crate::output::say;
use crate::units::{now, show_count};

/// A batch is sent at this many documents or bytes. It may be over by one document.
const BATCH_DOCUMENTS: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;

/// Batches that wait to be sent.
const BATCHES_READ_AHEAD: usize = 2;

/// How often a document of unknown outcome is written again.
const ATTEMPTS: u32 = 5;

/// For how long a digest is waited for that differs by documents that expire, before they are read.
const EXPIRY_PATIENCE: Duration = Duration::from_secs(5);

/// The clocks of the shards may be ahead of the one here by so many seconds.
const CLOCK_SECONDS: u64 = 2;

/// A shard's log and up to where it is read.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// The shard's name, for messages.
    pub(crate) name: String,
    pub(crate) files: ShardFiles,
    pub(crate) at: Moment,
    /// What the backup says of it.
    pub(crate) said: ShardBackup,
}

/// What is to be restored.
#[derive(Debug)]
pub(crate) struct Restore {
    pub(crate) sources: Vec<Source>,
    /// The indexes of which the settings are known; of two of a name, the one of the higher id counts.
    pub(crate) indexes: Vec<Index>,
    /// Only these, where any are named.
    pub(crate) only: Vec<String>,
    /// Into indexes that have documents.
    pub(crate) overwrite: bool,
    /// Batches under way.
    pub(crate) jobs: usize,
}

/// What was restored.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    pub(crate) documents: u64,
    pub(crate) bytes: u64,
    pub(crate) digest: Digest,
    /// Documents that had expired and were left out.
    pub(crate) expired: u64,
    /// What was restored of each index.
    pub(crate) indexes: BTreeMap<String, Contents>,
    /// Of which indexes documents were evicted meanwhile.
    pub(crate) evicted: BTreeMap<String, Evicted>,
}

/// What became of an index that had no room for all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evicted {
    pub(crate) documents: u64,
    /// What it has now.
    pub(crate) left: Contents,
}

/// What is expected of an index, or found in it.
#[derive(Clone, Debug, Default)]
struct Expected {
    all: Sum,
    /// Of those that expire, by the second in which they do.
    expiring: BTreeMap<u64, Sum>,
}

impl Expected {
    fn add(&mut self, bytes: u64, content_hash: u128, expires_at: u64) {
        self.all.add(bytes, content_hash);
        if expires_at > 0 {
            self.expiring.entry(expires_at / 1000).or_default().add(bytes, content_hash);
        }
    }

    /// What does not expire up to the end of a second.
    fn after(&self, second: u64) -> Sum {
        self.expiring.range(..=second).fold(self.all, |left, (_, sum)| left.without(*sum))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    documents: u64,
    bytes: u64,
    digest: u128,
}

impl Sum {
    fn add(&mut self, bytes: u64, digest: u128) {
        self.documents += 1;
        self.bytes += bytes;
        self.digest = self.digest.wrapping_add(digest);
    }

    fn without(self, other: Self) -> Self {
        Self {
            documents: self.documents - other.documents,
            bytes: self.bytes - other.bytes,
            digest: self.digest.wrapping_sub(other.digest),
        }
    }
}

impl From<Contents> for Sum {
    fn from(contents: Contents) -> Self {
        let Contents { documents, bytes, digest } = contents;
        Self { documents, bytes, digest: digest.0 }
    }
}

impl Restore {
    /// Restores into a cluster, and proves it.
    ///
    /// # Errors
    /// Before anything is changed where indexes have documents; afterwards where the backup is damaged, a
    /// document is refused, or the cluster does not come to what was restored.
    pub(crate) async fn run(mut self, client: &Client) -> Result<Restored, Error> {
        // All of it is read before anything is changed.
        let sources = self.sources.clone();
        let indexes = self.indexes.clone();
        let only = std::mem::take(&mut self.only);
        let is_cut = sources.iter().all(|source| source.at == Moment::Cut);
        self.indexes = blocking(move || {
            let checked = sources.iter().map(check).collect::<Result<Vec<_>, _>>()?;
            check_ranges(&checked)?;
            catalogue(&checked, &indexes, is_cut, &only)
        })
        .await?;
        let there = client.indexes().await?;
        let there: BTreeMap<String, IndexSettings> =
            there.into_iter().map(|index| (index.name, index.settings)).collect();
        let contents = client.contents().await?;
        for index in &self.indexes {
            let documents = contents.get(&index.name).map_or(0, |contents| contents.documents);
            if documents > 0 && !self.overwrite {
                return Err(Error::Failed(format!(
                    "index {:?} has {}: nothing is restored over what is there; drop it first, leave it \
                     out with --index, or go on with a restore that was interrupted with --overwrite",
                    index.name,
                    show_count(documents, "document")
                )));
            }
        }
        for index in self.indexes.iter().filter(|index| !there.contains_key(&index.name)) {
            client.create_index_with(&index.name, without_limits(index)).await?;
        }
        let before = evictions(client).await?;
        let (mut restored, expected) = self.copy(client).await?;
        for (index, expected) in &expected {
            prove(client, index, expected, &before).await?;
        }
        for index in &self.indexes {
            let found = there.get(&index.name);
            // One that a restore made that was interrupted, and is gone on with.
            let is_ours = |found: &IndexSettings| self.overwrite && *found == without_limits(index);
            if found.is_none_or(is_ours) {
                set_limits(client, index).await?;
            } else if found.is_some_and(|found| *found != index.settings) {
                say!(
                    "index {:?} was there and keeps its settings, which are not those of the backup: see \
                     `sherd index set`",
                    index.name
                );
            }
        }
        let (after, contents) = (evictions(client).await?, client.contents().await?);
        for index in &self.indexes {
            let documents = evicted_since(&before, &after, &index.name);
            if documents > 0 {
                let left = contents.get(&index.name).copied().unwrap_or_default();
                restored.evicted.insert(index.name.clone(), Evicted { documents, left });
            }
        }
        Ok(restored)
    }

    /// Writes all documents. Returns what each index must have then.
    async fn copy(&self, client: &Client) -> Result<(Restored, BTreeMap<String, Expected>), Error> {
        let wanted: BTreeSet<u32> = self.indexes.iter().map(|index| index.id).collect();
        let (sender, mut batches) = mpsc::channel(BATCHES_READ_AHEAD);
        let sources = self.sources.clone();
        let reader = tokio::task::spawn_blocking(move || read(&sources, &wanted, &sender));
        let mut writing = JoinSet::new();
        let mut failed = None;
        while let Some(batch) = batches.recv().await {
            while writing.len() >= self.jobs.max(1) {
                note(writing.join_next().await, &mut failed);
            }
            if failed.is_some() {
                break;
            }
            let client = client.clone();
            writing.spawn(async move { write(&client, batch).await });
        }
        drop(batches);
        while let Some(ended) = writing.join_next().await {
            note(Some(ended), &mut failed);
        }
        let read = reader.await;
        if let Some(error) = failed {
            return Err(error);
        }
        let (mut restored, expected) =
            read.map_err(|error| Error::Failed(format!("reading the backup failed: {error}")))??;
        for index in &self.indexes {
            let all = expected.get(&index.name).map(|expected| expected.all).unwrap_or_default();
            restored.documents += all.documents;
            restored.bytes += all.bytes;
            restored.digest = Digest(restored.digest.0.wrapping_add(all.digest));
            let Sum { documents, bytes, digest } = all;
            let contents = Contents { documents, bytes, digest: Digest(digest) };
            restored.indexes.insert(index.name.clone(), contents);
        }
        let of_all = self.indexes.iter().map(|index| {
            (index.name.clone(), expected.get(&index.name).cloned().unwrap_or_default())
        });
        Ok((restored, of_all.collect()))
    }
}

fn note(
    ended: Option<Result<Result<(), Error>, tokio::task::JoinError>>,
    failed: &mut Option<Error>,
) {
    let error = match ended {
        Some(Err(error)) => Error::Failed(format!("writing failed: {error}")),
        Some(Ok(Err(error))) => error,
        Some(Ok(Ok(()))) | None => return,
    };
    failed.get_or_insert(error);
}

/// Reads what there is of a shard: whole, or the reason why nothing is restored.
fn check(source: &Source) -> Result<ShardContents, Error> {
    let mut first = None;
    let mut on_fault = |fault: Fault| {
        first.get_or_insert(fault);
    };
    let contents = check_backup(&source.files, source.at, &mut on_fault);
    let contents = contents.map_err(|error| Error::Failed(error.to_string()))?;
    let name = &source.name;
    if let Some(fault) = first {
        return Err(Error::Failed(format!(
            "{fault}: nothing is restored, for the backup of shard {name} is damaged; `sherd backup \
             verify` tells all that is wrong with it"
        )));
    }
    let is_said = match source.at {
        Moment::Cut => is_said(&source.said, &contents),
        // Of another moment nothing else is said.
        Moment::Lsn(_) | Moment::Time(_) => hex(contents.identity) == source.said.identity,
    };
    if !is_said {
        return Err(Error::Failed(format!(
            "{}: what was backed up of shard {name} is not what BACKUP.json says of it: nothing is \
             restored, for these are the files of another backup or of another shard",
            source.files.manifest.display()
        )));
    }
    if contents.is_ambiguous {
        return Err(Error::Failed(format!(
            "the clock of shard {name} was put back over a restart, and that time came twice: choose another one, or a \
             state by --at-lsn"
        )));
    }
    Ok(contents)
}

/// Of the ranges of all shards, each position must be in one, or documents would be missing or there
/// twice. At the cut of a backup it is so; at another moment a range may be on its way.
fn check_ranges(shards: &[ShardContents]) -> Result<(), Error> {
    let ranges = shards.iter().filter_map(|shard| shard.assignment.as_ref());
    let mut ranges: Vec<_> = ranges.flat_map(|held| held.ranges.iter().copied()).collect();
    ranges.sort_unstable();
    let mut end = 0;
    for (start, until) in ranges {
        if start != end {
            end = u32::MAX;
            break;
        }
        end = until;
    }
    if end == RING_SIZE {
        return Ok(());
    }
    Err(Error::Failed(
        "at that moment a range was being handed over from one shard to another: choose one a little \
         before or after"
            .to_owned(),
    ))
}

/// The indexes that there were, as they are to be.
fn catalogue(
    shards: &[ShardContents],
    known: &[Index],
    is_cut: bool,
    only: &[String],
) -> Result<Vec<Index>, Error> {
    // At a cut the catalogue says which there are: of one that was just dropped, documents may be left.
    let mut indexes = if is_cut { known.to_vec() } else { indexes_of(shards, known) };
    if let Some(missing) = only.iter().find(|name| indexes.iter().all(|it| it.name != **name)) {
        return Err(Error::DoesNotHold(format!("index {missing:?} is not in the backup")));
    }
    indexes.retain(|index| only.is_empty() || only.contains(&index.name));
    Ok(indexes)
}

/// The indexes that shards have, as far as their settings are known.
fn indexes_of(shards: &[ShardContents], known: &[Index]) -> Vec<Index> {
    let mut found: BTreeMap<String, u32> = BTreeMap::new();
    for (&id, index) in shards.iter().flat_map(|shard| &shard.indexes) {
        // One that was dropped, and created anew, may be there still at another shard.
        let newest = found.entry(index.name.as_ref().to_owned()).or_default();
        *newest = id.max(*newest);
    }
    let indexes = found.into_iter().map(|(name, id)| {
        let settings = known.iter().find(|index| index.id == id);
        let settings = settings.map(|index| index.settings).unwrap_or_default();
        Index { id, name, settings }
    });
    let mut indexes: Vec<Index> = indexes.collect();
    indexes.sort_unstable_by_key(|index| index.id);
    indexes
}

/// What stops the reading of a log.
enum Stopped {
    /// Nobody takes any more.
    Unwanted,
    Engine(sherd_engine::Error),
}

impl From<sherd_engine::Error> for Stopped {
    fn from(error: sherd_engine::Error) -> Self {
        Self::Engine(error)
    }
}

/// Reads the logs, and sends the documents of the wanted indexes in batches. Blocks.
fn read(
    sources: &[Source],
    wanted: &BTreeSet<u32>,
    sender: &mpsc::Sender<Vec<Mutation>>,
) -> Result<(Restored, BTreeMap<String, Expected>), Error> {
    let mut restored = Restored::default();
    let mut expected: BTreeMap<String, Expected> = BTreeMap::new();
    for Source { name, files, at, .. } in sources {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        let mut visit = |found: BackedUp<'_>| -> Result<(), Stopped> {
            if !wanted.contains(&found.id) {
                return Ok(());
            }
            let expires_at = found.document.expires_at;
            if expires_at > 0 && expires_at <= now() {
                restored.expired += 1;
                return Ok(());
            }
            let key = String::from_utf8_lossy(&found.key.bytes).into_owned();
            let size = (key.len() + found.document.bytes.len()) as u64;
            let of_index = expected.entry(found.index.to_owned()).or_default();
            of_index.add(size, found.content_hash, expires_at);
            bytes += size as usize;
            batch.push(Mutation::Write {
                index: found.index.into(),
                key,
                // Its own memory: what it was read into is a whole record.
                document: Bytes::copy_from_slice(&found.document.bytes),
                condition: Condition::Any,
                expiry: if expires_at > 0 { Expiry::At(expires_at) } else { Expiry::Never },
            });
            if batch.len() >= BATCH_DOCUMENTS || bytes >= BATCH_BYTES {
                bytes = 0;
                let sent = sender.blocking_send(std::mem::take(&mut batch));
                return sent.map_err(|_| Stopped::Unwanted);
            }
            Ok(())
        };
        let ended = read_backup(files, *at, &mut visit);
        match ended {
            Ok(_) => {}
            // Why is said elsewhere.
            Err(Stopped::Unwanted) => return Ok((restored, expected)),
            Err(Stopped::Engine(error)) => {
                return Err(Error::Failed(format!(
                    "the backup of shard {name} cannot be restored: {error}; `sherd backup verify` \
                     tells all that is wrong with it"
                )));
            }
        }
        if !batch.is_empty() && sender.blocking_send(batch).is_err() {
            break;
        }
    }
    Ok((restored, expected))
}

/// Writes a batch, what of it is of unknown outcome once more: nobody else writes these keys.
async fn write(client: &Client, mut batch: Vec<Mutation>) -> Result<(), Error> {
    for attempt in 1.. {
        let results = client.batch(&batch).await;
        let mut again = Vec::new();
        for (mutation, result) in batch.into_iter().zip(results) {
            match result {
                Ok(_) => {}
                Err(error) if error.is_outcome_unknown() && attempt < ATTEMPTS => {
                    again.push(mutation);
                }
                Err(error) => {
                    say!("key {:?} of index {:?}: {error}", mutation.key(), mutation.index());
                    return Err(Error::Failed(
                        "not everything is restored; put right what is wrong, and restore again \
                         with --overwrite"
                            .to_owned(),
                    ));
                }
            }
        }
        if again.is_empty() {
            break;
        }
        batch = again;
    }
    Ok(())
}

/// How many documents of each index were evicted, ever.
async fn evictions(client: &Client) -> Result<BTreeMap<String, u64>, Error> {
    let mut evicted: BTreeMap<String, u64> = BTreeMap::new();
    for view in client.stat().await {
        for index in view.stat?.indexes {
            *evicted.entry(index.name).or_default() += index.counts.evicted;
        }
    }
    Ok(evicted)
}

fn evicted_since(before: &BTreeMap<String, u64>, now: &BTreeMap<String, u64>, index: &str) -> u64 {
    let of = |evicted: &BTreeMap<String, u64>| evicted.get(index).copied().unwrap_or_default();
    of(now).saturating_sub(of(before))
}

/// Compares what an index has with what was restored. Documents may expire meanwhile: those of whole
/// seconds may be gone. Where some expire at any time, no digest is that of a whole second, and the
/// documents themselves are read. As many as were evicted since `before` may be gone; then no digest tells which.
async fn prove(
    client: &Client,
    index: &str,
    expected: &Expected,
    before: &BTreeMap<String, u64>,
) -> Result<(), Error> {
    let begun = Instant::now();
    loop {
        let contents = client.contents().await?;
        let found = Sum::from(contents.get(index).copied().unwrap_or_default());
        let mut left = expected.all;
        if found == left {
            return Ok(());
        }
        let present = now() / 1000;
        let due = expected.expiring.range(..=present);
        let mut expires = false;
        for (_, sum) in due {
            expires = true;
            left = left.without(*sum);
            if found == left {
                return Ok(());
            }
        }
        let evicted = evicted_since(before, &evictions(client).await?, index);
        let is_evicted = found.documents < expected.all.documents;
        if evicted > 0 && is_evicted && found.documents + evicted >= left.documents {
            return Ok(());
        }
        let is_late = begun.elapsed() > EXPIRY_PATIENCE;
        if expires && is_late && has_what_stays(client, index, expected).await? {
            return Ok(());
        }
        if !expires || is_late {
            let Sum { documents, digest, .. } = expected.all;
            return Err(Error::Failed(format!(
                "index {index:?} has {} with digest {:032x}, and {documents} with digest {digest:032x} were \
                 restored: somebody else writes to it, or it had others before",
                show_count(found.documents, "document"),
                found.digest
            )));
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Whether an index has exactly what was restored, apart from what has expired by the time at which all of it
/// is read.
async fn has_what_stays(client: &Client, index: &str, expected: &Expected) -> Result<bool, Error> {
    let mut found = Expected::default();
    let mut scratch = Vec::new();
    let mut pages = client.scan(index, ScanOptions::default())?;
    while let Some(items) = pages.next_page().await? {
        for Item { key, document: Document { bytes, expires_at, .. } } in items {
            let hash = content_hash(&mut scratch, index, key.as_bytes(), expires_at, &bytes);
            found.add((key.len() + bytes.len()) as u64, hash, expires_at);
        }
    }
    let second = now() / 1000 + CLOCK_SECONDS;
    Ok(found.after(second) == expected.after(second))
}

/// What an index is made with. Its limits come last: a shard's share of them may be less than what it is to
/// hold of the backup, and nothing may be evicted before the digests are compared.
fn without_limits(index: &Index) -> IndexSettings {
    IndexSettings { ttl: index.settings.ttl, ..IndexSettings::default() }
}

/// Sets the limits and the policy that an index had.
async fn set_limits(client: &Client, index: &Index) -> Result<(), Error> {
    let IndexSettings { max_bytes, max_documents, policy, .. } = index.settings;
    let set = |limit: Option<u64>| limit.map_or(Change::Keep, Change::Set);
    let change = SettingsChange {
        max_bytes: set(max_bytes),
        max_documents: set(max_documents),
        policy: policy.map_or(Change::Keep, Change::Set),
        ttl: Change::Keep,
    };
    if change != SettingsChange::default() {
        client.set_index(&index.name, change).await?;
    }
    Ok(())
}
