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

mod log;
mod replay;

use std::any::Any;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};

use crate::cache::DocumentCache;
use crate::checkpoint;
use crate::cut::Cuts;
use crate::defect::{Defect, Defects};
use crate::engine::{INDEX_DIR, Options, Recovery};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::index::{self, Index, IndexStore, Leftover, ParkedIndex, RoomyStore};
use crate::kept::Kept;
use crate::log::{LOG_DIR, LogWriter, SPARE, Segment, SegmentEnd, segment_number};
use crate::manifest::{Manifest, SegmentInfo};
use crate::overlay::Overlay;
use crate::residents::Residents;
use crate::scout::Scout;
use crate::shared::{Poison, Shared, View};
use crate::space::Space;
use crate::tail::Pin;

use self::log::Log;
pub(crate) use self::replay::Replay;

/// The file whose lock keeps a second process out, in the data directory.
pub(crate) const LOCK_FILE: &str = "LOCK";

/// A recovered engine, not yet running.
pub(crate) struct Recovered {
    pub(crate) shared: Arc<Shared>,
    pub(crate) log: LogWriter,
    pub(crate) report: Recovery,
}

/// What becomes of the index that is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IndexUse {
    /// It is used, unless it is missing, damaged or stale.
    IfUsable,
    /// The store is empty, for an index that is to replace another: it is filled from the log,
    /// provided that this is whole.
    RebuiltAnyway,
}

/// Keeps other processes out of a data directory as long as a clone of it lives.
pub(crate) type Lock = Arc<dyn Any + Send + Sync>;

/// Makes the data directory `dir` if there is none, and takes its lock.
pub(crate) fn lock(fs: &dyn Fs, dir: &Path) -> Result<Lock> {
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
    Ok(lock.into())
}

/// Recovers the data directory `dir`, which is locked.
pub(crate) fn recover(
    fs: Arc<dyn Fs>,
    dir: &Path,
    lock: Lock,
    store: &dyn IndexStore,
    options: &Options,
    index_use: IndexUse,
) -> Result<Recovered> {
    let log_dir = dir.join(LOG_DIR);
    let manifest = read_or_make_manifest(fs.as_ref(), dir, &log_dir)?;
    let mut log = Log::open(fs.as_ref(), &log_dir, &manifest)?;
    log.checksum = log.checksum.with(options.defects);
    if index_use == IndexUse::RebuiltAnyway {
        log.check(&manifest)?;
    }
    let space = Arc::new(Space::open(
        Arc::clone(&fs),
        dir,
        options.reserve_bytes(),
        u64::from(options.segment_bytes),
    ));
    let leftover = match index_use {
        IndexUse::IfUsable => Leftover::Given(log_dir.join(SPARE)),
        IndexUse::RebuiltAnyway => Leftover::Kept,
    };
    let store = &RoomyStore::new(store.share(), Arc::clone(&space), Arc::clone(&fs), leftover);
    // It takes space.
    if let Err(error) = store.remove_unfinished() {
        tracing::warn!(%error, "what is left of a rebuild stays");
    }
    let residents = Residents::default();
    let mut parked = None;
    let mut in_memory = |what: Arc<str>| {
        tracing::warn!(dir = %dir.display(), %what, "the index is held in memory for now");
        let index = Arc::new(ParkedIndex::default());
        parked = Some(Arc::clone(&index));
        let in_its_place = Arc::clone(&index) as Arc<dyn Index>;
        let replayed = rebuild(in_its_place, dir, &log, &manifest, options, &residents)?;
        let needed = checkpoint::put_back_bytes(&index);
        space.note_parked(Some(needed));
        Ok::<_, Error>(replayed)
    };
    let used = match index_use {
        IndexUse::IfUsable => {
            use_index(store, &log, &manifest, options, &residents).map(|replayed| (replayed, None))
        }
        IndexUse::RebuiltAnyway => {
            let why = "a rebuild was asked for".to_owned();
            let index = store.open()?;
            Ok((rebuild(index, dir, &log, &manifest, options, &residents)?, Some(why)))
        }
    };
    let (replayed, rebuilt) = match used {
        Ok(used) => used,
        Err(Unusable::Log(Error::DiskFull { what })) => (in_memory(what)?, None),
        Err(Unusable::Index(why)) => {
            tracing::warn!(dir = %dir.display(), %why, "the index is rebuilt from the log");
            store.set_aside()?;
            let opened = store.open();
            let rebuilt =
                opened.and_then(|index| rebuild(index, dir, &log, &manifest, options, &residents));
            match rebuilt {
                Err(Error::DiskFull { what }) => {
                    store.discard()?;
                    (in_memory(what)?, None)
                }
                rebuilt => (rebuilt?, Some(why)),
            }
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
        end,
        Arc::clone(&space),
        options,
    )?;
    log.remove_leftovers(fs.as_ref());
    let durable_lsn = log_writer.durable_lsn();
    let mut checkpoint_lsn = manifest.checkpoint_lsn;
    let mut view = view;
    if rebuilt.is_some() {
        let wanted = index_use == IndexUse::RebuiltAnyway;
        // At once, or the next opening would rebuild again.
        checkpoint::drain(index.as_ref(), &std::mem::take(&mut view.overlay.active))
            .and_then(|()| index.flush(durable_lsn))
            .map_err(|error| if wanted { error } else { no_space(error, dir) })?;
        let segments = SegmentInfo::list(&log.segments, &view.usage.tombstones, &[]);
        Manifest::of(manifest.identity, durable_lsn, &view.state, segments)
            .write(fs.as_ref(), dir)?;
        checkpoint_lsn = durable_lsn;
    }
    let counted: u64 = view.state.distribution().iter().sum();
    let unowned = counted < view.state.documents();
    let index_bytes = index.bytes_on_disk();
    let shared = Arc::new(Shared {
        view: RwLock::new(view),
        index: match parked {
            Some(parked) => index::Handle::new_parked(parked, store.share()),
            None => index::Handle::new(index, store.share()),
        },
        segments: log.segments,
        cache: DocumentCache::new(options.document_cache_bytes),
        residents,
        scout: Scout::default(),
        clock: options.clock.clone(),
        poison: Poison::default(),
        condemned: Mutex::default(),
        pin: Pin::new(options.log_held),
        cuts: Cuts::new(options.log_held),
        kept: Kept::open(fs.as_ref(), dir),
        compaction_behind: AtomicBool::new(false),
        unowned: AtomicBool::new(unowned),
        active_bytes: AtomicU64::new(u64::from(log_writer.place().1)),
        index_bytes: AtomicU64::new(index_bytes),
        renewed_index_bytes: AtomicU64::new(0),
        damaged: Mutex::default(),
        space,
        frozen: RwLock::default(),
        checkpoint_error: Mutex::default(),
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

/// Why an index that is missing or damaged could not be made anew, with what can be done about it.
fn no_space(error: Error, dir: &Path) -> Error {
    let Error::DiskFull { what } = error else { return error };
    let what = format!(
        "{what}; {} is made anew from the log, as it was missing or damaged: free some space there \
         and start again; what is called index.damaged-1 there may be deleted",
        dir.join(INDEX_DIR).display()
    );
    Error::DiskFull { what: what.into() }
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
    residents: &Residents,
) -> std::result::Result<Replayed, Unusable> {
    let begun = Instant::now();
    let index = store.open()?;
    tracing::debug!(elapsed = ?begun.elapsed(), "opened the index");
    let used = try_index(&index, log, manifest, options.defects, residents);
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
    residents: &Residents,
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
    let mut replay = Replay { believed, ..Replay::new(manifest.view()) };
    let end = log.replay(checkpoint, |segment, located| replay.apply(segment, located))?;
    for id in index.indexes()? {
        if !replay.view.state.indexes.contains_key(&id) {
            replay.view.overlay.active.dropped.push(id);
        }
    }
    tracing::debug!(records = replay.records, elapsed = ?begun.elapsed(), "replayed the log");
    let begun = Instant::now();
    let counted = replay.recount(index.as_ref(), log, end.as_ref(), residents)?;
    tracing::debug!(
        documents = counted.state.documents(), elapsed = ?begun.elapsed(), "recounted the index"
    );
    let state = &replay.view.state;
    if !counted.state.same_totals(state) && replay.believed.is_none() {
        let why = format!(
            "it has {} documents of {} bytes where the log amounts to {} of {}",
            counted.state.documents(),
            counted.state.used,
            state.documents(),
            state.used
        );
        return Err(Unusable::Index(why));
    }
    replay.view.take_counts(counted);
    Ok((replay.view, end, replay.records))
}

/// Replays the whole log into an empty index.
fn rebuild(
    index: Arc<dyn Index>,
    dir: &Path,
    log: &Log,
    manifest: &Manifest,
    options: &Options,
    residents: &Residents,
) -> Result<Replayed> {
    let older_wins = options.defects.has(Defect::OlderRecordWins);
    let mut replay = Replay { older_wins, ..Replay::new(manifest.view()) };
    let drain = |overlay: &mut Overlay| {
        // Until the first flush says otherwise, this index counts as empty.
        checkpoint::drain(index.as_ref(), &std::mem::take(&mut overlay.active))
    };
    let checkpoint = manifest.checkpoint_lsn;
    log.read(1..=checkpoint, |segment, located| {
        replay.place(segment, located, index.as_ref(), &log.segments)?;
        let overlay = &mut replay.view.overlay;
        if overlay.active.keys >= options.checkpoint_keys { drain(overlay) } else { Ok(()) }
    })?;
    drain(&mut replay.view.overlay)?;
    let counted = replay.recount(index.as_ref(), log, None, residents)?;
    if !counted.state.same_totals(&replay.view.state) {
        let what = format!(
            "the log has {} documents of {} bytes at LSN {checkpoint} where the manifest says {} \
             of {}, or others; restore the shard's data",
            counted.state.documents(),
            counted.state.used,
            replay.view.state.documents(),
            replay.view.state.used
        );
        return Err(Error::corrupt(Manifest::path(dir), 0, &what));
    }
    // What comes now stays in the overlay: what stands in for an index is replaced by it later.
    let end = log.replay(checkpoint, |segment, located| replay.apply(segment, located))?;
    let counted = replay.recount(index.as_ref(), log, end.as_ref(), residents)?;
    if !counted.state.same_totals(&replay.view.state) {
        return Err(Error::Index("rebuilt, it does not count right".into()));
    }
    replay.view.take_counts(counted);
    Ok(Replayed { view: replay.view, index, end, records: replay.records })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::SimFs;
    use crate::index::MemoryStore;
    use crate::log::segment_name;
    use crate::{
        Assignment, Command, Condition, Engine, Expiry, IndexSettings, Key, Mutation, Policy,
    };

    const RING: u32 = 10_000_000;

    fn put(engine: &Engine, i: u32) {
        let key = Key { position: i % 10 * 166_000, bytes: format!("key{}", i % 10).into() };
        let document = format!("document {i}, {}", "x".repeat(200)).into();
        let (condition, expiry) = (Condition::Any, Expiry::Default);
        let mutation = Mutation::Write { index: 1, key, document, condition, expiry };
        engine.execute(Command::Mutate { mutations: vec![mutation], atomic: false }).unwrap();
    }

    /// The manifest alone says how long a segment is whose next one was deleted. One that said 0 had
    /// it cut to nothing.
    #[test]
    fn a_sealed_segment_without_a_length_is_refused_and_not_cut() {
        let (fs, store) = (SimFs::new(), MemoryStore::new());
        let dir = Path::new("/data");
        let options = Options { segment_bytes: 4096, compaction: false, ..Options::default() };
        let open = || {
            Engine::open_with(Arc::new(fs.clone()), &store, dir, options.clone())
                .map(|(engine, _)| engine)
        };
        let engine = open().unwrap();
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
        let settings = IndexSettings::default();
        engine.execute(Command::CreateIndex { id: 1, name: "i".to_owned(), settings }).unwrap();
        let mut written = 0;
        // Until a segment is followed by one that was deleted.
        let number = loop {
            assert!(written < 4000, "no segment between two others is deleted");
            for _ in 0..40 {
                written += 1;
                put(&engine, written);
            }
            engine.compact().unwrap();
            let manifest = Manifest::read(&fs, dir).unwrap().unwrap();
            let numbers: Vec<_> = manifest.segments.iter().map(|info| info.number).collect();
            let gap = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]);
            if let Some(gap) = gap {
                break gap[0];
            }
        };
        engine.close().unwrap();
        drop(engine);
        drop(open().unwrap());
        let path = dir.join(LOG_DIR).join(segment_name(number));
        let before = fs.bytes(&path).unwrap();
        let mut manifest = Manifest::read(&fs, dir).unwrap().unwrap();
        for info in manifest.segments.iter_mut().filter(|info| info.number == number) {
            assert!(info.length > 0);
            info.length = 0;
        }
        manifest.write(&fs, dir).unwrap();
        let error = open().map(drop).unwrap_err();
        assert!(matches!(&error, Error::Corrupt { file, .. } if *file == path), "{error}");
        assert!(fs.bytes(&path).unwrap() == before, "it was cut");
    }
}
