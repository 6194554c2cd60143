//! Recovery: from a data directory to a running state.
//!
//! Reads the manifest, opens the index, replays the log after the checkpoint into the overlay, and
//! recounts. The recount compares every entry with the totals that the log amounts to; an index
//! that lost something without noticing, as sled may, is found out here. An index that is missing,
//! damaged, older than the checkpoint or that does not count right is set aside and rebuilt from
//! the whole log.
//!
//! Recovery changes nothing of the log before it has read to its end, and what it changes then can be
//! changed again: a crash on the way recovers again.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use parking_lot::RwLock;

use crate::cache::DocumentCache;
use crate::checkpoint;
use crate::defect::{Defect, Defects};
use crate::effect::{self, Effect};
use crate::engine::{Options, Recovery};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::index::{Entry, Index, IndexKey, IndexStore};
use crate::log::record::Checksum;
use crate::log::{
    LOG_DIR, Located, LogWriter, Lsn, Segment, SegmentEnd, Segments, Source, read_header,
    read_segment, segment_name, segment_number,
};
use crate::manifest::Manifest;
use crate::overlay::Overlay;
use crate::read;
use crate::shared::{Poison, Shared, View};
use crate::state::{Change, Share, State};

/// The file whose lock keeps a second process out, in the data directory.
const LOCK_FILE: &str = "LOCK";

/// A recovered engine, not yet running.
pub(crate) struct Recovered {
    pub(crate) shared: Arc<Shared>,
    pub(crate) log: LogWriter,
    pub(crate) report: Recovery,
}

/// Recovers the data directory `dir`, making it if there is none.
pub(crate) fn recover(
    fs: Arc<dyn Fs>,
    dir: &Path,
    store: &dyn IndexStore,
    options: &Options,
) -> Result<Recovered> {
    let log_dir = dir.join(LOG_DIR);
    // Also what an earlier process made and did not sync before it was killed: it is about to be
    // used, and must not be lost afterwards.
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs.create_dir_all(&log_dir)
        .and_then(|()| fs.sync_dir(&log_dir))
        .and_then(|()| fs.sync_dir(dir))
        .and_then(|()| fs.sync_dir(parent.unwrap_or(Path::new("."))))
        .map_err(|error| Error::io("make the data directory", dir, error))?;
    let lock = fs.lock(&dir.join(LOCK_FILE)).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock => Error::InUse { dir: dir.to_owned() },
        _ => Error::io("lock the data directory", dir, error),
    })?;
    let manifest = read_or_make_manifest(fs.as_ref(), dir, &log_dir)?;
    let mut log = Log::open(fs.as_ref(), &log_dir, &manifest)?;
    log.checksum = log.checksum.with(options.defects);
    let (replayed, rebuilt) = match use_index(store, &log, &manifest, options) {
        Ok(replayed) => (replayed, None),
        Err(Unusable::Index(why)) => {
            tracing::warn!(dir = %dir.display(), %why, "the index is rebuilt from the log");
            store.set_aside()?;
            (rebuild(store, dir, &log, &manifest, options)?, Some(why))
        }
        Err(Unusable::Log(error)) => return Err(error),
    };
    let Replayed { view, index, end, records } = replayed;
    log.cut_sealed()?;
    let log_writer = LogWriter::resume(
        Arc::clone(&fs),
        log_dir,
        manifest.identity,
        Arc::clone(&log.segments),
        options.segment_bytes,
        end,
        options.defects,
    )?;
    let durable_lsn = log_writer.durable_lsn();
    let mut checkpoint_lsn = manifest.checkpoint_lsn;
    let mut view = view;
    if rebuilt.is_some() {
        // At once, or the next opening would rebuild again.
        checkpoint::drain(index.as_ref(), &std::mem::take(&mut view.overlay.active))?;
        index.flush(durable_lsn)?;
        let segments = log.segments.all().iter().map(|segment| segment.number).collect();
        Manifest::of(manifest.identity, durable_lsn, &view.state, segments)
            .write(fs.as_ref(), dir)?;
        checkpoint_lsn = durable_lsn;
    }
    let shared = Arc::new(Shared {
        view: RwLock::new(view),
        index,
        segments: log.segments,
        cache: DocumentCache::new(options.document_cache_bytes),
        poison: Poison::default(),
        durable_lsn: AtomicU64::new(durable_lsn),
        checkpoint_lsn: AtomicU64::new(checkpoint_lsn),
        fs,
        dir: dir.to_owned(),
        identity: manifest.identity,
        checksum: log.checksum,
        _lock: lock,
    });
    Ok(Recovered { shared, log: log_writer, report: Recovery { replayed: records, rebuilt } })
}

fn read_or_make_manifest(fs: &dyn Fs, dir: &Path, log_dir: &Path) -> Result<Manifest> {
    if let Some(manifest) = Manifest::read(fs, dir)? {
        return Ok(manifest);
    }
    let names = fs.list(log_dir).map_err(|error| Error::io("list the log", log_dir, error))?;
    if names.iter().any(|name| segment_number(name).is_some()) {
        let path = Manifest::path(dir);
        return Err(Error::corrupt(path, 0, "the manifest is missing, though there is a log"));
    }
    let manifest = Manifest::new(random_identity()?);
    manifest.write(fs, dir)?;
    Ok(manifest)
}

/// 128 random bits of the operating system.
fn random_identity() -> Result<u128> {
    let mut bytes = [0; 16];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(u128::from_le_bytes(bytes)),
        Err(error) => Err(Error::failed("draw random bytes", "the operating system", error.into())),
    }
}

/// The segments as they are found, before anything is replayed.
struct Log {
    dir: PathBuf,
    segments: Arc<Segments>,
    checksum: Checksum,
    /// In the order of their numbers.
    found: Vec<Found>,
}

struct Found {
    segment: Arc<Segment>,
    /// The length that the next segment's header gives; the last has none.
    sealed: Option<u32>,
}

impl Log {
    /// Opens the segments and checks that their headers make a chain and that none is missing.
    fn open(fs: &dyn Fs, dir: &Path, manifest: &Manifest) -> Result<Self> {
        let failed = |error| Error::io("list the log", dir, error);
        let names = fs.list(dir).map_err(failed)?;
        let mut files: HashMap<u32, PathBuf> = HashMap::new();
        for name in names {
            if let Some(number) = segment_number(&name) {
                files.insert(number, dir.join(name));
            }
        }
        let mut numbers: Vec<_> = files.keys().copied().collect();
        numbers.sort_unstable();
        for number in &manifest.segments {
            if !files.contains_key(number) {
                let path = dir.join(segment_name(*number));
                return Err(Error::corrupt(
                    path,
                    0,
                    "a segment that the manifest names is missing",
                ));
            }
        }
        let segments = Arc::new(Segments::default());
        let mut found: Vec<Found> = Vec::new();
        for (i, number) in numbers.iter().enumerate() {
            let path = files.remove(number).unwrap_or_default();
            let is_last = i + 1 == numbers.len();
            let Some((segment, previous_length)) =
                open_segment(fs, path, *number, manifest, is_last)?
            else {
                break;
            };
            let segment = segments.add(segment);
            if let Some(previous) = found.last_mut() {
                if previous.segment.number + 1 != *number {
                    let path = &segment.path;
                    return Err(Error::corrupt(path, 0, "the segment before this one is missing"));
                }
                previous.sealed = Some(previous_length);
            }
            found.push(Found { segment, sealed: None });
        }
        Ok(Self { dir: dir.to_owned(), segments, checksum: Checksum::of(manifest.identity), found })
    }

    /// Cuts sealed segments to their length. What is behind was never part of them, see
    /// `LogWriter::make_room`.
    fn cut_sealed(&self) -> Result<()> {
        for Found { segment, sealed } in &self.found {
            let Some(sealed) = *sealed else { continue };
            let cut = || {
                if segment.file.length()? > u64::from(sealed) {
                    segment.file.set_len(u64::from(sealed))?;
                }
                Ok(())
            };
            cut().map_err(|error| Error::io("seal a segment", &segment.path, error))?;
        }
        Ok(())
    }

    /// Visits the records after `lsn`, in order.
    fn replay(
        &self,
        after: Lsn,
        mut visit: impl FnMut(&Segment, Located<'_>) -> Result<()>,
    ) -> Result<Option<(Arc<Segment>, SegmentEnd)>> {
        let begin = self.found.partition_point(|found| found.segment.first_lsn <= after + 1);
        let mut last: Option<(Arc<Segment>, SegmentEnd)> = None;
        for found in &self.found[begin.saturating_sub(1)..] {
            let segment = &found.segment;
            if let Some((previous, end)) = &last
                && end.next_lsn != segment.first_lsn
            {
                let what = "the segment's last LSN is not the one before the next segment's first";
                return Err(Error::corrupt(&previous.path, end.offset as usize, what));
            }
            let bytes = read_file(segment)?;
            let sealed = found.sealed;
            let source = Source { path: &segment.path, bytes: &bytes, checksum: &self.checksum };
            let end = read_segment(source, segment.first_lsn, sealed, |located| {
                if located.record.lsn > after { visit(segment, located) } else { Ok(()) }
            })?;
            last = Some((Arc::clone(segment), end));
        }
        let next_lsn = last.as_ref().map_or(1, |(_, end)| end.next_lsn);
        if next_lsn <= after {
            let (path, offset) = match &last {
                Some((segment, end)) => (segment.path.clone(), end.offset as usize),
                None => (self.dir.clone(), 0),
            };
            let what = format!(
                "the log ends with LSN {}, but everything to LSN {after} was durable",
                next_lsn - 1
            );
            return Err(Error::corrupt(path, offset, &what));
        }
        Ok(last)
    }
}

fn open_segment(
    fs: &dyn Fs,
    path: PathBuf,
    number: u32,
    manifest: &Manifest,
    is_last: bool,
) -> Result<Option<(Segment, u32)>> {
    let failed = |error| Error::io("open a segment", &path, error);
    let file = fs.open(&path).map_err(failed)?;
    let mut header = [0; crate::log::SEGMENT_HEADER_BYTES];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        // Cut off inside its header, it never held a record.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof && is_last => return Ok(None),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(Error::corrupt(&path, 0, "the segment's header is cut off"));
        }
        Err(error) => return Err(failed(error)),
    }
    let header = read_header(&path, &header)?;
    if header.number != number {
        return Err(Error::corrupt(&path, 12, "the segment has the name of another"));
    }
    if header.identity != manifest.identity {
        return Err(Error::corrupt(&path, 16, "the segment is of another data directory"));
    }
    let first_lsn = header.first_lsn;
    Ok(Some((Segment { number, first_lsn, path, file }, header.previous_length)))
}

fn read_file(segment: &Segment) -> Result<Vec<u8>> {
    let read = || {
        let length = usize::try_from(segment.file.length()?).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; length];
        segment.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    read().map_err(|error| Error::io("read a segment", &segment.path, error))
}

/// What a replay comes to.
struct Replayed {
    view: View,
    index: Arc<dyn Index>,
    end: Option<(Arc<Segment>, SegmentEnd)>,
    records: u64,
}

/// Why recovery cannot go on as it began.
enum Unusable {
    /// The index is to be rebuilt.
    Index(String),
    /// There is nothing to rebuild it from.
    Log(Error),
}

impl From<Error> for Unusable {
    fn from(error: Error) -> Self {
        match error {
            Error::Index(why) => Self::Index(why.as_ref().to_owned()),
            error => Self::Log(error),
        }
    }
}

/// Replays what came after the checkpoint over the index that there is.
fn use_index(
    store: &dyn IndexStore,
    log: &Log,
    manifest: &Manifest,
    options: &Options,
) -> std::result::Result<Replayed, Unusable> {
    let begun = Instant::now();
    let index = store.open()?;
    tracing::debug!(elapsed = ?begun.elapsed(), "opened the index");
    let used = try_index(&index, log, manifest, options.defects);
    used.map(|(view, end, records)| Replayed { view, index: Arc::clone(&index), end, records })
        .inspect_err(|_| {
            // sled may panic on its way out as well.
            _ = catch_unwind(AssertUnwindSafe(move || drop(index)));
        })
}

type Used = (View, Option<(Arc<Segment>, SegmentEnd)>, u64);

fn try_index(
    index: &Arc<dyn Index>,
    log: &Log,
    manifest: &Manifest,
    defects: Defects,
) -> std::result::Result<Used, Unusable> {
    let flushed = index.checkpoint()?;
    let checkpoint = manifest.checkpoint_lsn;
    if flushed < checkpoint {
        let why =
            format!("it was last flushed at LSN {flushed}, the checkpoint is at {checkpoint}");
        return Err(Unusable::Index(why));
    }
    let begun = Instant::now();
    let believed = defects.has(Defect::TotalsFromIndex).then(|| Arc::clone(index));
    let mut replay = Replay { believed, ..Replay::new(manifest.state()) };
    let end = log.replay(checkpoint, |segment, located| replay.apply(segment, located))?;
    for id in index.indexes()? {
        if !replay.view.state.indexes.contains_key(&id) {
            replay.view.overlay.active.dropped.push(id);
        }
    }
    tracing::debug!(records = replay.records, elapsed = ?begun.elapsed(), "replayed the log");
    let begun = Instant::now();
    let counted = read::recount(&replay.view, index.as_ref())?;
    tracing::debug!(
        documents = counted.documents(), elapsed = ?begun.elapsed(), "recounted the index"
    );
    let state = &mut replay.view.state;
    if !counted.same_totals(state) && replay.believed.is_none() {
        let why = format!(
            "it has {} documents of {} bytes where the log amounts to {} of {}",
            counted.documents(),
            counted.used,
            state.documents(),
            state.used
        );
        return Err(Unusable::Index(why));
    }
    state.take_distribution(&counted);
    Ok((replay.view, end, replay.records))
}

/// Replays the whole log into an empty index.
fn rebuild(
    store: &dyn IndexStore,
    dir: &Path,
    log: &Log,
    manifest: &Manifest,
    options: &Options,
) -> Result<Replayed> {
    let index = store.open()?;
    let mut replay = Replay::new(State::default());
    let mut at_checkpoint = (manifest.checkpoint_lsn == 0).then(State::default);
    let end = log.replay(0, |segment, located| {
        replay.apply(segment, located)?;
        if located.record.lsn == manifest.checkpoint_lsn {
            at_checkpoint = Some(replay.view.state.clone());
        }
        let overlay = &mut replay.view.overlay;
        if overlay.active.keys >= options.checkpoint_keys {
            // Until the first flush says otherwise, this index counts as empty.
            checkpoint::drain(index.as_ref(), &std::mem::take(&mut overlay.active))?;
        }
        Ok(())
    })?;
    let consistent = at_checkpoint.is_some_and(|state| state.same_totals(&manifest.state()));
    if !consistent {
        return Err(Error::corrupt(
            Manifest::path(dir),
            0,
            "the log does not amount to the totals of the manifest; restore the shard's data",
        ));
    }
    let counted = read::recount(&replay.view, index.as_ref())?;
    if !counted.same_totals(&replay.view.state) {
        return Err(Error::Index("rebuilt, it does not count right".into()));
    }
    replay.view.state.take_distribution(&counted);
    Ok(Replayed { view: replay.view, index, end, records: replay.records })
}

/// A state that grows by the records of the log.
struct Replay {
    view: View,
    records: u64,
    scratch: Vec<u8>,
    /// Asked what was there before, only by [`Defect::TotalsFromIndex`].
    believed: Option<Arc<dyn Index>>,
}

impl Replay {
    fn new(state: State) -> Self {
        let view = View { state, overlay: Overlay::default() };
        Self { view, records: 0, scratch: Vec::new(), believed: None }
    }

    fn apply(&mut self, segment: &Segment, located: Located<'_>) -> Result<()> {
        let Located { offset, record } = located;
        let corrupt = |what: &str| Error::corrupt(&segment.path, offset as usize, what);
        let effect = Effect::decode(record.kind, record.payload).map_err(corrupt)?;
        let change = match effect {
            Effect::Put(put) => {
                let index = self.view.state.indexes.get(&put.index);
                let index = index.ok_or_else(|| corrupt("a document of an unknown index"))?;
                let content_hash = effect::content_hash(
                    &mut self.scratch,
                    &index.name,
                    put.key,
                    put.expires_at,
                    put.document,
                );
                let entry = Entry {
                    segment: segment.number,
                    offset,
                    length: record.length as u32,
                    bytes: (put.key.len() + put.document.len()) as u32,
                    version: put.version,
                    expires_at: put.expires_at,
                    content_hash,
                };
                let replaced = put.replaced.as_ref().map(Share::from);
                let key = IndexKey::new(put.position, put.key);
                Change::Document { index: put.index, key, entry: Some(entry), replaced }
            }
            Effect::Remove(remove) => Change::Document {
                index: remove.index,
                key: IndexKey::new(remove.position, remove.key),
                entry: None,
                replaced: Some(Share::from(&remove.replaced)),
            },
            Effect::CreateIndex(fields) => Change::Control(Effect::CreateIndex(fields)),
            Effect::DropIndex(fields) => Change::Control(Effect::DropIndex(fields)),
            Effect::Assign(fields) => Change::Control(Effect::Assign(fields)),
            Effect::Lock(fields) => Change::Control(Effect::Lock(fields)),
            Effect::Release => Change::Control(Effect::Release),
            Effect::SetLimit(fields) => Change::Control(Effect::SetLimit(fields)),
        };
        let change = match &self.believed {
            Some(index) => believe(index.as_ref(), &self.view.overlay, change)?,
            None => change,
        };
        self.view.apply(change);
        self.records += 1;
        Ok(())
    }
}

/// A change that replaces what the index says.
fn believe(index: &dyn Index, overlay: &Overlay, change: Change) -> Result<Change> {
    let Change::Document { index: id, key, entry, .. } = change else { return Ok(change) };
    let held = match overlay.get(id, key.as_bytes()) {
        Some(held) => held,
        None => index.get(id, key.as_bytes())?,
    };
    Ok(Change::Document { index: id, key, entry, replaced: held.as_ref().map(Share::from) })
}
