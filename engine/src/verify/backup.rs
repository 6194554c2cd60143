//! What a backup of a shard's log has: checked, summed up, and read.
//!
//! A backup is a manifest and the segments of a log as of a cut, wherever their files are. The
//! documents are found as a rebuild finds them; nothing is opened for writing, and no index is made.
//! Read beyond the cut of its manifest, with the segments that a later backup has of the same log, it
//! is the shard as of any LSN in between.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use twox_hash::xxhash3_128;

use crate::command::{Assignment, Document, IndexId, Key, Version};
use crate::effect::Effect;
use crate::error::{Error, Result};
use crate::fs::{self, Fs, ReadOnlyFs};
use crate::index::{Entry, IndexKey};
use crate::log::{Lsn, record};
use crate::manifest::Manifest;
use crate::state::{Share, Sums};

use super::live::{AllTotals, LiveSet};
use super::log::{Log, Walked};
use super::{Fault, Faults, Round, compare_totals, parts};

/// How many documents are held in memory at a time, see [`super::DOCUMENTS_AT_A_TIME`].
const DOCUMENTS_AT_A_TIME: u64 = 1_000_000;

/// How much of a file is read at a time to be summed up.
const SUM_BYTES: usize = 256 * 1024;

/// The files of a shard's log in a backup.
#[derive(Clone, Debug)]
pub struct ShardFiles {
    /// The manifest.
    pub manifest: PathBuf,
    /// The segments, in the order of their numbers: those that the manifest names, and those after
    /// them.
    pub segments: Vec<SegmentFile>,
}

/// A segment in a backup.
#[derive(Clone, Debug)]
pub struct SegmentFile {
    /// Its number.
    pub number: u32,
    /// How long it must be: every byte up to there is checked.
    pub length: u32,
    /// Its file.
    pub path: PathBuf,
}

/// As of when a backup is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Moment {
    /// The cut of its manifest.
    #[default]
    Cut,
    /// An LSN, not before the cut: of a group in the middle of which it lies nothing counts.
    Lsn(Version),
    /// A time in milliseconds since 1970, by the shard's clock, not before the cut: all batches that were
    /// written by then.
    Time(u64),
}

/// What a shard has as of an LSN.
#[derive(Clone, Debug, Default)]
pub struct ShardContents {
    /// The identity of the data directory.
    pub identity: u128,
    /// The last LSN that counts: the last of a whole group.
    pub lsn: Version,
    /// What the shard owned then.
    pub assignment: Option<Assignment>,
    /// What it had of that, by index: of the indexes that there were.
    pub indexes: BTreeMap<IndexId, IndexContents>,
    /// Read as of a time, by which more was written, but only after the shard's clock had gone back from a
    /// later one: which state is meant is not known.
    pub is_ambiguous: bool,
    /// The records that were read.
    pub records: u64,
    /// The faults that were found.
    pub faults: u64,
}

/// What a shard has of an index, in what it owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexContents {
    /// Its name.
    pub name: Arc<str>,
    /// What its documents come to.
    pub sums: Sums,
}

/// A document of a backup.
#[derive(Clone, Debug)]
pub struct BackedUp<'a> {
    /// The name of its index.
    pub index: &'a str,
    /// The id that the index had.
    pub id: IndexId,
    /// Its key.
    pub key: Key,
    /// The document.
    pub document: Document,
    /// Its share in a digest.
    pub content_hash: u128,
}

/// Called with each document.
type Visit<'a, E> = &'a mut dyn FnMut(BackedUp<'_>) -> std::result::Result<(), E>;

/// The XXH3 of 128 bits, seed 0, of a file's bytes, and how many there are.
///
/// # Errors
/// When it cannot be read.
pub fn file_sum(path: &Path) -> std::io::Result<(u128, u64)> {
    let file = ReadOnlyFs.open(path)?;
    let mut hasher = xxhash3_128::Hasher::new();
    let mut bytes = vec![0; SUM_BYTES];
    let mut offset = 0;
    loop {
        let count = file.read_at(&mut bytes, offset)?;
        if count == 0 {
            return Ok((hasher.finish_128(), offset));
        }
        hasher.write(&bytes[..count]);
        offset += count as u64;
    }
}

/// Checks every byte of a shard's backup, and what its documents come to as of a moment. Each fault is
/// handed to `on_fault`. Blocks.
///
/// # Errors
/// [`Error::UnknownFormat`].
pub fn check_backup(
    files: &ShardFiles,
    at: Moment,
    on_fault: &mut dyn FnMut(Fault),
) -> Result<ShardContents> {
    let no_documents: Option<Visit<'_, Error>> = None;
    read(files, at, on_fault, no_documents)
}

/// As [`check_backup`], and hands each document that the shard owned to `visit`, in no order. A fault
/// is an error here: what is restored must be whole.
///
/// # Errors
/// [`Error::Corrupt`] for the first fault; [`Error::UnknownFormat`]; [`Error::Io`]; what `visit` returns.
pub fn read_backup<E: From<Error>>(
    files: &ShardFiles,
    at: Moment,
    visit: &mut dyn FnMut(BackedUp<'_>) -> std::result::Result<(), E>,
) -> std::result::Result<ShardContents, E> {
    let mut first = None;
    let mut on_fault = |fault: Fault| {
        first.get_or_insert(fault);
    };
    let contents = read(files, at, &mut on_fault, Some(visit))?;
    match first {
        Some(Fault { file, offset, what }) => {
            let offset = offset.unwrap_or_default();
            Err(Error::Corrupt { file, offset, what: what.into() }.into())
        }
        None => Ok(contents),
    }
}

fn read<E: From<Error>>(
    files: &ShardFiles,
    at: Moment,
    on_fault: &mut dyn FnMut(Fault),
    visit: Option<Visit<'_, E>>,
) -> std::result::Result<ShardContents, E> {
    let mut faults = Faults { found: 0, on_fault };
    let fs = &ReadOnlyFs;
    let manifest = match read_manifest(fs, &files.manifest) {
        Ok(manifest) => manifest,
        Err(error @ Error::UnknownFormat { .. }) => return Err(error.into()),
        Err(error) => {
            faults.add(error.into());
            return Ok(ShardContents { faults: faults.found, ..ShardContents::default() });
        }
    };
    let log = Log::of(fs, &files.segments, &manifest, &mut faults);
    let checkpoint = manifest.checkpoint_lsn;
    let (until, is_ambiguous) = match at {
        Moment::Cut => (checkpoint, false),
        Moment::Lsn(at) => (last_group(fs, &log, at), false),
        Moment::Time(at) => last_batch(fs, &log, checkpoint, at),
    };
    let mut reading = Reading {
        fs,
        log: &log,
        manifest: &manifest,
        until,
        contents: ShardContents {
            identity: manifest.identity,
            lsn: until,
            is_ambiguous,
            ..ShardContents::default()
        },
    };
    let totals = reading.all_parts(&mut faults, visit)?;
    let mut contents = reading.contents;
    let walked_to = contents.lsn;
    if walked_to < checkpoint {
        let what = format!("the log does not reach LSN {checkpoint}, the cut");
        faults.add(Fault::new(&files.manifest, 0, what));
    }
    if faults.found == 0 {
        compare_totals(&manifest, &totals, &files.manifest, &mut faults);
    }
    contents.faults = faults.found;
    Ok(contents)
}

fn read_manifest(fs: &dyn Fs, path: &Path) -> Result<Manifest> {
    let bytes =
        fs::read_all(fs, path).map_err(|error| Error::failed("read the manifest", path, error))?;
    Manifest::decode(path, &bytes)
}

/// The LSN that the last whole group up to `at` ends with.
fn last_group(fs: &dyn Fs, log: &Log, at: Lsn) -> Lsn {
    let mut last = 0;
    let mut ignored = |_: Fault| {};
    let mut faults = Faults { found: 0, on_fault: &mut ignored };
    _ = log.walk(fs, &mut faults, Round::Further, |place, _, _| {
        let record = &place.located.record;
        if record.last_of_group && record.lsn <= at {
            last = record.next_lsn() - 1;
        }
    });
    last.min(at)
}

/// The LSN that the last batch ends with that was written by a time; at least the checkpoint. And whether
/// more was written by that time, behind what is of a later one.
fn last_batch(fs: &dyn Fs, log: &Log, checkpoint: Lsn, at: u64) -> (Lsn, bool) {
    let (mut last, mut ended, mut is_ambiguous) = (checkpoint, false, false);
    let mut ignored = |_: Fault| {};
    let mut faults = Faults { found: 0, on_fault: &mut ignored };
    _ = log.walk(fs, &mut faults, Round::Further, |place, effect, _| {
        let record = &place.located.record;
        if let Effect::Time(time) = effect
            && record.lsn > checkpoint
        {
            // After a restart a clock may be behind what it was; otherwise it stands still.
            if *time > at {
                ended = true;
            } else if ended {
                is_ambiguous = true;
            } else {
                last = record.lsn;
            }
        }
    });
    (last, is_ambiguous)
}

struct Reading<'a> {
    fs: &'a dyn Fs,
    log: &'a Log,
    manifest: &'a Manifest,
    until: Lsn,
    contents: ShardContents,
}

/// A document to be read, and where it is.
struct Found {
    index: IndexId,
    key: IndexKey,
    entry: Entry,
}

impl Reading<'_> {
    /// Reads one part of the ring after the other. Returns what the log amounts to.
    fn all_parts<E: From<Error>>(
        &mut self,
        faults: &mut Faults<'_>,
        mut visit: Option<Visit<'_, E>>,
    ) -> std::result::Result<AllTotals, E> {
        let mut totals = AllTotals::default();
        for (i, part) in parts(self.manifest, DOCUMENTS_AT_A_TIME).into_iter().enumerate() {
            let round = if i == 0 { Round::First } else { Round::Further };
            let (mut live, assignment, walked) = self.part(part, round, faults);
            totals.add(&live);
            if i == 0 {
                self.contents.records = walked.records;
                self.contents.lsn = self.until.min(walked.next_lsn.saturating_sub(1));
            }
            let found = self.take(&mut live, assignment.as_ref());
            self.contents.assignment = assignment;
            if let Some(visit) = &mut visit
                && faults.found == 0
            {
                self.documents(&found, visit)?;
            }
        }
        Ok(totals)
    }

    /// What the log amounts to in a part of the ring.
    fn part(
        &self,
        part: Range<u32>,
        round: Round,
        faults: &mut Faults<'_>,
    ) -> (LiveSet, Option<Assignment>, Walked) {
        let mut live = LiveSet::new(self.manifest, part).of_the_last_state();
        let mut assignment = self.manifest.assignment.clone();
        let checkpoint = self.manifest.checkpoint_lsn;
        let walked = self.log.walk(self.fs, faults, round, |place, effect, faults| {
            let lsn = place.located.record.lsn;
            if lsn > self.until {
                return;
            }
            if let Effect::Assign(assigned) = effect
                && lsn > checkpoint
            {
                assignment = Some(assigned.clone());
            }
            live.apply(place, effect, faults);
        });
        (live, assignment, walked)
    }

    /// The documents of what is owned, in the order in which they lie. They are counted.
    fn take(&mut self, live: &mut LiveSet, assignment: Option<&Assignment>) -> Vec<Found> {
        let ranges = assignment.map_or(&[][..], |assignment| &assignment.ranges);
        let is_owned =
            |position: u32| ranges.iter().any(|&(start, end)| (start..end).contains(&position));
        let names: Vec<_> = live.indexes().map(|(id, name)| (id, Arc::clone(name))).collect();
        let mut all = Vec::new();
        for (index, name) in names {
            let of_index = self.contents.indexes.entry(index);
            let of_index =
                of_index.or_insert_with(|| IndexContents { name, sums: Sums::default() });
            for (key, slot) in std::mem::take(live.table_mut(index)) {
                if let Some(&entry) = slot.last()
                    && is_owned(key.position())
                {
                    of_index.sums.add(Share::from(&entry));
                    all.push(Found { index, key, entry });
                }
            }
        }
        all.sort_unstable_by_key(|found| found.entry.place());
        all
    }

    fn documents<E: From<Error>>(
        &self,
        all: &[Found],
        visit: &mut dyn FnMut(BackedUp<'_>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        for of_segment in all.chunk_by(|a, b| a.entry.segment == b.entry.segment) {
            let path = self.log.path(of_segment[0].entry.segment);
            let failed = |error| Error::failed("read a segment", &path, error);
            let file = self.fs.open(&path).map_err(failed)?;
            for Found { index, key, entry } in of_segment {
                let mut bytes = vec![0; entry.record_bytes()];
                file.read_exact_at(&mut bytes, u64::from(entry.offset)).map_err(failed)?;
                let bytes = Bytes::from(bytes);
                let corrupt = |what: &str| Error::corrupt(&path, entry.offset as usize, what);
                let record = record::decode(&bytes, self.log.checksum()).map_err(corrupt)?;
                let effect = Effect::decode(record.kind, record.payload).map_err(corrupt)?;
                let Effect::Put(put) = effect else {
                    return Err(corrupt("another record than a moment ago").into());
                };
                let document = Document {
                    version: entry.version,
                    expires_at: entry.expires_at,
                    bytes: bytes.slice_ref(put.document),
                };
                let key = Key { position: key.position(), bytes: bytes.slice_ref(put.key) };
                let name = self.contents.indexes.get(index).map(|index| Arc::clone(&index.name));
                visit(BackedUp {
                    index: name.as_deref().unwrap_or_default(),
                    id: *index,
                    key,
                    document,
                    content_hash: entry.content_hash.into(),
                })?;
            }
        }
        Ok(())
    }
}
