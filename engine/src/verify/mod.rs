//! Verifying a data directory: every byte of the log and the manifest under a checksum, the
//! documents against the totals, and the index against the log.
//!
//! Nothing is changed, and no damage ends it: behind a damaged record it goes on with the next one
//! that checks out, so that one run finds every fault. Three parts do the work: `log` walks the
//! records, `live` keeps the documents that they amount to, `index` compares.
//!
//! What the log amounts to is found as a rebuild of the index finds it. Up to the checkpoint the
//! newest record of each key counts, of the indexes that the manifest has; their totals must be the
//! manifest's. Each later record says what it replaced, and that must be what there was. The index
//! may be as of the checkpoint or later, so of a key that changed since it may have any state of
//! these.

mod backup;
mod index;
mod live;
mod log;

use std::any::Any;
use std::collections::BTreeSet;
use std::fmt;
use std::io::ErrorKind;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::INDEX_DIR;
use crate::error::{Error, Result};
use crate::fs::{Fs, ReadOnlyFs};
use crate::index::{Index, IndexStore, SledStore};
use crate::log::Lsn;
use crate::manifest::Manifest;
use crate::recovery::LOCK_FILE;
use crate::state::Totals;

pub use backup::{
    BackedUp, IndexContents, Moment, SegmentFile, ShardContents, ShardFiles, check_backup,
    file_sum, read_backup,
};
use live::{AllTotals, LiveSet};
use log::{Log, Walked};

/// How many documents are held in memory at a time, some 150 bytes each. Where there are more, the
/// log is read again for each further part of the ring.
const DOCUMENTS_AT_A_TIME: u64 = 2_000_000;

/// The number of positions on the ring.
const RING: u32 = 10_000_000;

/// What sled may cache of the copy.
const INDEX_CACHE_BYTES: u64 = 64 * 1024 * 1024;

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file; of an entry of the index, the directory of sled's files.
    pub file: PathBuf,
    /// Where in the file; sled does not tell where its entries lie.
    pub offset: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl Fault {
    fn new(
        file: impl Into<PathBuf>,
        offset: impl Into<Option<u64>>,
        what: impl Into<String>,
    ) -> Self {
        Self { file: file.into(), offset: offset.into(), what: what.into() }
    }
}

/// `FILE:OFFSET: WHAT`.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, "{offset}:")?;
        }
        write!(f, " {}", self.what)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        match error {
            Error::Corrupt { file, offset, what } => Self::new(file, offset, what.as_ref()),
            Error::UnknownFormat { file, found, known } => {
                let what = format!("format version {found} is not known here, {known} is");
                Self::new(file, 8, what)
            }
            Error::Io { what, file, error } => {
                Self::new(file, None, format!("cannot {what}: {error}"))
            }
            error => Self::new("", None, error.to_string()),
        }
    }
}

/// What was checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The last LSN that the index is to hold.
    pub checkpoint_lsn: u64,
    /// The last LSN of the log.
    pub last_lsn: u64,
    /// Segments of the log.
    pub segments: u64,
    /// Their records that checked out.
    pub records: u64,
    /// The bytes of their files.
    pub log_bytes: u64,
    /// The indexes of the catalogue.
    pub indexes: u64,
    /// The documents that the log amounts to.
    pub documents: u64,
    /// The bytes of their keys and of themselves.
    pub used: u64,
    /// The entries of the index that were compared; `None` where it was not looked at.
    pub entries: Option<u64>,
    /// How many faults were found.
    pub faults: u64,
    /// What is no fault, and what could not be checked.
    pub notes: Vec<String>,
}

/// Verifies a data directory, of which nothing is changed: each fault is handed to `on_fault` as it
/// is found.
///
/// Opening sled writes, so with `with_index` the index is copied to a directory of its own in the
/// system's temporary directory, which needs as much space.
///
/// # Errors
/// [`Error::InUse`] while a process has it open for writing; [`Error::UnknownFormat`];
/// [`Error::Io`] when it is no data directory or the index cannot be copied.
pub fn verify(dir: &Path, with_index: bool, on_fault: &mut dyn FnMut(Fault)) -> Result<Report> {
    let _lock = lock(&ReadOnlyFs, dir)?;
    let mut verifier = Verifier::new(&ReadOnlyFs, dir, on_fault);
    let copy = if with_index { verifier.copy_index()? } else { None };
    let store = copy.as_ref().map(|copy| SledStore::new(copy.path(), INDEX_CACHE_BYTES));
    let index = match (with_index, &store) {
        (true, Some(store)) => Some(store as &dyn IndexStore),
        _ => None,
    };
    verifier.run(index)
}

/// Verifies a data directory in a filesystem, and an index of the caller's choice, which is opened
/// and read.
///
/// # Errors
/// As [`verify`].
pub fn verify_with(
    fs: &dyn Fs,
    store: Option<&dyn IndexStore>,
    dir: &Path,
    on_fault: &mut dyn FnMut(Fault),
) -> Result<Report> {
    let _lock = lock(fs, dir)?;
    Verifier::new(fs, dir, on_fault).run(store)
}

fn lock(fs: &dyn Fs, dir: &Path) -> Result<Box<dyn Any + Send + Sync>> {
    fs.lock(&dir.join(LOCK_FILE)).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => Error::InUse { dir: dir.to_owned() },
        _ => Error::io("lock the data directory", dir, error),
    })
}

struct Verifier<'a> {
    fs: &'a dyn Fs,
    dir: &'a Path,
    documents_at_a_time: u64,
    faults: Faults<'a>,
    report: Report,
}

impl<'a> Verifier<'a> {
    fn new(fs: &'a dyn Fs, dir: &'a Path, on_fault: &'a mut dyn FnMut(Fault)) -> Self {
        Self {
            fs,
            dir,
            documents_at_a_time: DOCUMENTS_AT_A_TIME,
            faults: Faults { found: 0, on_fault },
            report: Report::default(),
        }
    }

    fn index_dir(&self) -> PathBuf {
        self.dir.join(INDEX_DIR)
    }

    /// Copies the index to a temporary directory; `None` when it cannot be read.
    fn copy_index(&mut self) -> Result<Option<tempfile::TempDir>> {
        let from = self.index_dir();
        let failed =
            |error| Error::io("make a temporary directory in", std::env::temp_dir(), error);
        let copy = tempfile::Builder::new().prefix("sherd-verify-").tempdir().map_err(failed)?;
        match index::copy(&from, copy.path()) {
            Ok(()) => Ok(Some(copy)),
            Err(index::CopyError::Read(path, error)) if error.kind() == ErrorKind::NotFound => {
                // Of a directory in which nothing was written yet.
                tracing::debug!(path = %path.display(), "no index");
                Ok(Some(copy))
            }
            Err(index::CopyError::Read(path, error)) => {
                self.faults.add(Fault::new(path, None, format!("cannot be read: {error}")));
                Ok(None)
            }
            Err(index::CopyError::Write(path, error)) => {
                Err(Error::io("copy the index", path, error))
            }
        }
    }

    fn run(mut self, store: Option<&dyn IndexStore>) -> Result<Report> {
        let manifest = self.read_manifest()?;
        let log = Log::find(self.fs, self.dir, manifest.as_ref(), &mut self.faults)?;
        self.report.notes.extend_from_slice(&log.notes);
        match &manifest {
            Some(manifest) => self.check(manifest, &log, store),
            None => {
                let walked = log.walk(self.fs, &mut self.faults, Round::First, |_, _, _| {});
                self.take(walked);
                self.note("without the manifest neither totals nor the index can be checked");
            }
        }
        self.report.faults = self.faults.found;
        Ok(self.report)
    }

    fn read_manifest(&mut self) -> Result<Option<Manifest>> {
        let path = Manifest::path(self.dir);
        match Manifest::read(self.fs, self.dir) {
            Ok(Some(manifest)) => return Ok(Some(manifest)),
            Ok(None) => self.faults.add(Fault::new(path, 0, "the manifest is missing")),
            Err(error @ Error::UnknownFormat { .. }) => return Err(error),
            Err(error) => self.faults.add(error.into()),
        }
        Ok(None)
    }

    /// Checks the log, the totals and the index, one part of the ring after the other.
    fn check(&mut self, manifest: &Manifest, log: &Log, store: Option<&dyn IndexStore>) {
        let checkpoint = manifest.checkpoint_lsn;
        let index = store.and_then(|store| self.open_index(store, checkpoint));
        let mut entries = index.as_ref().map(|_| 0);
        let mut totals = AllTotals::default();
        let mut walked = Walked::default();
        let mut known = BTreeSet::new();
        for (i, part) in parts(manifest, self.documents_at_a_time).into_iter().enumerate() {
            let mut live = LiveSet::new(manifest, part);
            let round = if i == 0 { Round::First } else { Round::Further };
            walked = log.walk(self.fs, &mut self.faults, round, |found, effect, faults| {
                live.apply(found, effect, faults);
            });
            totals.add(&live);
            if let (Some(index), Some(entries)) = (&index, &mut entries) {
                let dir = self.index_dir();
                *entries +=
                    index::compare(index.as_ref(), &dir, &mut live, &walked, &mut self.faults);
            }
            known = live.indexes().map(|(id, _)| id).collect();
        }
        self.compare_totals(manifest, &totals, &walked);
        if walked.next_lsn <= checkpoint {
            let what = format!(
                "the log ends with LSN {}, but everything to LSN {checkpoint} was durable",
                walked.next_lsn - 1
            );
            let (path, offset) = walked.end.clone();
            self.faults.add(Fault::new(path, offset, what));
        }
        self.report.checkpoint_lsn = checkpoint;
        self.report.indexes = known.len() as u64;
        self.report.documents = totals.at_end.documents;
        self.report.used = totals.at_end.bytes;
        self.report.entries = entries;
        self.take(walked);
        if let Some(index) = index {
            for id in index.indexes().unwrap_or_default() {
                if !known.contains(&id) && !manifest.indexes.contains_key(&id) {
                    self.note(&format!(
                        "the index has entries of index {id}, which there is not; the next start \
                         drops them"
                    ));
                }
            }
            // sled may panic on its way out as well.
            _ = catch_unwind(AssertUnwindSafe(move || drop(index)));
        }
    }

    /// Opens the index; `None` when there is nothing to compare with.
    fn open_index(&mut self, store: &dyn IndexStore, checkpoint: Lsn) -> Option<Arc<dyn Index>> {
        let opened = store.open().and_then(|index| Ok((index.checkpoint()?, index)));
        let what = match opened {
            Ok((flushed, index)) if flushed >= checkpoint => return Some(index),
            Ok((0, _)) => "the index is missing or was never finished".to_owned(),
            Ok((flushed, _)) => {
                format!("the index is of LSN {flushed}, the checkpoint of LSN {checkpoint}")
            }
            Err(error) => format!("the index cannot be opened: {error}"),
        };
        self.faults.add(Fault::new(self.index_dir(), None, what));
        None
    }

    fn compare_totals(&mut self, manifest: &Manifest, totals: &AllTotals, walked: &Walked) {
        if !walked.gaps.is_empty() {
            self.note("the totals of the manifest cannot be checked, for the log is damaged");
            return;
        }
        compare_totals(manifest, totals, &Manifest::path(self.dir), &mut self.faults);
    }

    fn take(&mut self, walked: Walked) {
        self.report.segments = walked.segments;
        self.report.records = walked.records;
        self.report.log_bytes = walked.bytes;
        self.report.last_lsn = walked.next_lsn.saturating_sub(1);
        self.report.notes.extend(walked.notes);
    }

    fn note(&mut self, note: &str) {
        self.report.notes.push(note.to_owned());
    }
}

/// The ring in parts, each with as many documents as memory is to hold.
fn parts(manifest: &Manifest, documents_at_a_time: u64) -> Vec<Range<u32>> {
    let documents: u64 = manifest.indexes.values().map(|index| index.totals.documents).sum();
    // A manifest that lies must not cost more than a read of the log for each thousandth.
    let count = (documents / documents_at_a_time + 1).min(1000) as u32;
    let start = |i| if i == count { u32::MAX } else { RING / count * i };
    (0..count).map(|i| start(i)..start(i + 1)).collect()
}

/// What the log amounts to at the checkpoint must be what the manifest, at `path`, says.
fn compare_totals(manifest: &Manifest, totals: &AllTotals, path: &Path, faults: &mut Faults<'_>) {
    for (id, index) in &manifest.indexes {
        let counted = totals.at_checkpoint.get(id).copied().unwrap_or_default();
        if counted != index.totals {
            let what = format!(
                "index {:?} has {} at LSN {}, the manifest says {}",
                index.name,
                show(&counted),
                manifest.checkpoint_lsn,
                show(&index.totals)
            );
            faults.add(Fault::new(path, 0, what));
        }
    }
}

fn show(totals: &Totals) -> String {
    let Totals { documents, bytes, digest, versions } = totals;
    format!("{documents} documents of {bytes} bytes, digest {digest:032x}, versions {versions}")
}

/// Hands faults on and counts them.
struct Faults<'a> {
    found: u64,
    on_fault: &'a mut dyn FnMut(Fault),
}

impl Faults<'_> {
    fn add(&mut self, fault: Fault) {
        self.found += 1;
        (self.on_fault)(fault);
    }
}

/// Whether the log is read for the first time: its own faults are told once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    First,
    Further,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Expiry, IndexSettings, Policy};

    #[test]
    fn the_parts_of_the_ring_meet_and_cover_it() {
        let mut manifest = Manifest::new(1);
        for documents in [0, 1, DOCUMENTS_AT_A_TIME, 7 * DOCUMENTS_AT_A_TIME, u64::MAX] {
            let totals = Totals { documents, ..Totals::default() };
            let index = crate::state::IndexState {
                name: "i".into(),
                totals,
                settings: IndexSettings::default(),
                removals: crate::state::Removals::default(),
                distribution: [0; 5],
                owned_bytes: 0,
                buckets: crate::state::Buckets::default(),
            };
            manifest.indexes.insert(1, index);
            let parts = parts(&manifest, DOCUMENTS_AT_A_TIME);
            assert_eq!((parts[0].start, parts[parts.len() - 1].end), (0, u32::MAX));
            assert!(parts.windows(2).all(|pair| pair[0].end == pair[1].start));
            assert!(parts.iter().all(|part| part.start < part.end));
        }
    }

    #[test]
    fn the_log_read_in_parts_comes_to_the_same() {
        use crate::{Assignment, Command, Condition, Engine, Key, Mutation, Options};

        let (fs, store) = (crate::fs::SimFs::new(), crate::index::MemoryStore::new());
        let dir = Path::new("/data");
        let options = Options { segment_bytes: 4096, compaction: false, ..Options::default() };
        let (engine, _) = Engine::open_with(Arc::new(fs.clone()), &store, dir, options).unwrap();
        engine
            .execute(Command::Assign(Assignment {
                cluster: "c".to_owned(),
                name: "s".to_owned(),
                hash_method: "md5".to_owned(),
                epoch: 1,
                lineage: 0,
                ranges: vec![(0, RING)],
                limit: u64::MAX,
                policy: Policy::Reject,
            }))
            .unwrap();
        engine
            .execute(Command::CreateIndex {
                id: 1,
                name: "index".to_owned(),
                settings: IndexSettings::default(),
            })
            .unwrap();
        for i in 0..100u32 {
            if i == 80 {
                engine.checkpoint().unwrap();
            }
            let key = Key { position: i % 60 * 166_000, bytes: format!("key{}", i % 60).into() };
            let mutation = if i % 9 == 8 {
                Mutation::Remove { index: 1, key, version: None }
            } else {
                let document = format!("document {i}").into();
                Mutation::Write {
                    index: 1,
                    key,
                    document,
                    condition: Condition::Any,
                    expiry: Expiry::Default,
                }
            };
            engine.execute(Command::Mutate { mutations: vec![mutation], atomic: false }).unwrap();
        }
        drop(engine);
        let run = |documents_at_a_time| {
            let mut faults = Vec::new();
            let mut on_fault = |fault| faults.push(fault);
            let mut verifier = Verifier::new(&fs, dir, &mut on_fault);
            verifier.documents_at_a_time = documents_at_a_time;
            let report = verifier.run(Some(&store)).unwrap();
            faults.sort_unstable_by_key(ToString::to_string);
            (report, faults)
        };
        let whole = run(1000);
        assert_eq!(whole.1, []);
        assert!(whole.0.documents > 40);
        for documents_at_a_time in [1, 7, 30] {
            assert_eq!(run(documents_at_a_time), whole);
        }
        let path = dir.join("log/0000000002.log");
        let mut bytes = fs.bytes(&path).unwrap();
        for place in [200, 2000] {
            bytes[place] ^= 1;
        }
        fs.damage(&path, bytes);
        let whole = run(1000);
        assert!(whole.1.len() >= 2);
        for documents_at_a_time in [1, 7, 30] {
            assert_eq!(run(documents_at_a_time), whole);
        }
    }
}
