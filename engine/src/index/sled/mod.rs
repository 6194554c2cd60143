//! The index in sled, one tree of [blocks](super::block) for each index of the catalogue.
//!
//! sled 0.34 is fast and ordered, and is not trusted with anything that cannot be rebuilt. What it
//! is known for is met here:
//!
//! * its `flush` does not fsync on Linux (issues 1351, 1452): [`Index::flush`] syncs its files;
//! * it may panic on damaged files, at opening and later (1533, 1527, 1166): every call is guarded,
//!   and a panic is an [`Error::Index`] like any other failure;
//! * where its files cannot be synced, it panics as it is closed, and where a page could not be written to a file of
//!   its own, that never comes to an end: it is closed on a thread that is waited for no longer than
//!   [`CLOSING_TIME`];
//! * it may come back from a crash with less or with more than was flushed: the caller compares
//!   [`Index::checkpoint`] and recounts;
//! * its threads may all wait for each other: [`pacing`];
//! * `apply_batch` and transactions take a process-wide lock, and `flush_async` and the flushing
//!   thread work behind the caller's back: none is used.

mod pacing;
mod table;

use std::cell::Cell;
use std::fs::{self, TryLockError};
use std::io::ErrorKind;
use std::ops::{Bound, Deref};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use sled::{Db, IVec, Mode};

use self::pacing::{MOST_DROPPED_BLOCKS, Pace, of_a_write};
use self::table::{Room, Table};
use super::{Change, Entries, Entry, Index, IndexKey, IndexStore};
use crate::command::IndexId;
use crate::error::{Error, Result};
use crate::hash::FastMap;
use crate::log::Lsn;

/// Under this key of the default tree lies the LSN of the last flush, little-endian.
const CHECKPOINT: &[u8] = b"checkpoint";

/// What the name of an index's tree begins with; its id follows in decimal.
const TREE_PREFIX: &str = "blocks-";

/// Of a tree that has an entry under each key instead of blocks, as early versions had.
const EARLY_TREE_PREFIX: &str = "index-";

/// How many entries of such a tree are converted at a time.
const CONVERTED_AT_A_TIME: usize = 10_000;

/// The size of sled's own segments. They come free as a whole, so small ones waste less; what is
/// longer than a quarter of one, as pages of blocks hardly are, is a file of its own. It cannot be
/// changed for files that there are.
const SLED_SEGMENT_BYTES: usize = 64 * 1024;

/// For how much of what sled may cache there is room for blocks outside of it, as a divisor.
const HELD_SHARE: u64 = 2;

/// The file that sled locks.
const LOCKED_FILE: &str = "db";

/// How long sled may take to let go of its files, and how often it is looked whether it has.
const RELEASE_TIME: Duration = Duration::from_secs(10);
const RELEASE_PAUSE: Duration = Duration::from_millis(1);

/// How long sled may take to be closed: it writes what is left in memory, and syncs its file.
const CLOSING_TIME: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 10 });

/// What the names of directories next to the index's end with: of one that was set aside, a number
/// behind it; of one that is to replace the index, and of the one that it replaces.
const SET_ASIDE: &str = ".damaged-";
const NEW: &str = ".new";
const OLD: &str = ".old";

/// Keeps the index in sled, in a directory of its own.
#[derive(Clone)]
pub struct SledStore {
    dir: PathBuf,
    cache_bytes: u64,
}

impl SledStore {
    /// An index in `dir`, which sled caches up to `cache_bytes` of in memory.
    pub fn new(dir: impl Into<PathBuf>, cache_bytes: u64) -> Self {
        Self { dir: dir.into(), cache_bytes }
    }

    /// A directory next to the index's.
    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.dir.file_name().unwrap_or_default().to_owned();
        name.push(suffix);
        self.dir.with_file_name(name)
    }

    /// The index that is made to replace this one, which stays what it is meanwhile: where the new
    /// one cannot be made, nothing has changed. What an earlier one left is removed.
    pub(crate) fn replacement(&self) -> Result<Self> {
        self.remove_unfinished()?;
        Ok(Self { dir: self.beside(NEW), cache_bytes: self.cache_bytes })
    }

    /// Puts the replacement in this index's place, and deletes the index that it replaces. Both
    /// must be closed. A process that is killed on the way leaves an index to be rebuilt.
    pub(crate) fn replace(&self) -> Result<()> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| Error::io("put the new index in the place of", path, error)
        };
        let (new, old) = (self.beside(NEW), self.beside(OLD));
        if self.dir.exists() {
            fs::rename(&self.dir, &old).map_err(failed(&self.dir))?;
        }
        fs::rename(&new, &self.dir).map_err(|error| {
            _ = fs::rename(&old, &self.dir);
            failed(&self.dir)(error)
        })?;
        if let Some(data) = self.dir.parent() {
            fs::File::open(data).and_then(|data| data.sync_all()).map_err(failed(&self.dir))?;
        }
        remove_dir(&old)
    }

    /// Waits until sled has let go of its files. Its threads may hold them for a moment after the last
    /// handle is dropped, and it would report that as it reports damage. Another process is not the
    /// cause: it would have been refused by the lock of the data directory.
    fn wait_for_release(&self) -> Result<()> {
        let path = self.dir.join(LOCKED_FILE);
        let failed = |error| Error::io("wait until sled has let go of", &path, error);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(failed(error)),
        };
        let until = Instant::now() + RELEASE_TIME;
        loop {
            match file.try_lock() {
                // By name: closing it is not the end of the lock where a process is just being started.
                Ok(()) => return file.unlock().map_err(failed),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    thread::sleep(RELEASE_PAUSE);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::Index("sled does not let go of its files".into()));
                }
                Err(error) => return Err(failed(error.into())),
            }
        }
    }

    /// The indexes that were set aside.
    pub(crate) fn all_set_aside(&self) -> Result<Vec<PathBuf>> {
        let (data, begin) = (self.dir.parent().unwrap_or(&self.dir), self.beside(SET_ASIDE));
        let failed = |error| Error::io("look for indexes that were set aside in", data, error);
        let begin = begin.file_name().unwrap_or_default().as_encoded_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir(data).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().as_encoded_bytes();
            let number = name.strip_prefix(begin).unwrap_or_default();
            if !number.is_empty() && number.iter().all(u8::is_ascii_digit) {
                found.push(path);
            }
        }
        Ok(found)
    }
}

impl IndexStore for SledStore {
    fn open(&self) -> Result<Arc<dyn Index>> {
        self.wait_for_release()?;
        let db = guard(|| {
            sled::Config::new()
                .path(&self.dir)
                .cache_capacity(self.cache_bytes)
                .mode(Mode::HighThroughput)
                .segment_size(SLED_SEGMENT_BYTES)
                .flush_every_ms(None)
                .open()
        })?;
        let index = SledIndex {
            db: OpenDb(Some(db)),
            dir: self.dir.clone(),
            room: Room::new(self.cache_bytes / HELD_SHARE),
            pace: Pace::default(),
            tables: RwLock::default(),
        };
        for name in index.db.tree_names() {
            if let Some(id) = tree_id(&name, TREE_PREFIX) {
                let table = index.open_table(&name)?;
                index.tables.write().insert(id, Arc::new(table));
            }
        }
        index.convert_early_trees()?;
        Ok(Arc::new(index))
    }

    fn share(&self) -> Arc<dyn IndexStore> {
        Arc::new(self.clone())
    }

    fn remove_unfinished(&self) -> Result<()> {
        remove_dir(&self.beside(NEW))?;
        remove_dir(&self.beside(OLD))
    }

    fn set_aside(&self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        // The earlier ones first: they take the space that the new index needs.
        for earlier in self.all_set_aside()? {
            remove_dir(&earlier)?;
        }
        fs::rename(&self.dir, self.beside(&format!("{SET_ASIDE}1")))
            .map_err(|error| Error::io("set the index aside", &self.dir, error))
    }

    fn discard(&self) -> Result<()> {
        remove_dir(&self.dir)
    }
}

fn remove_dir(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::io("remove an index that is not used any more", dir, error))
        }
        _ => Ok(()),
    }
}

struct SledIndex {
    /// Before `db`, which is closed with the last of what is in it.
    tables: RwLock<FastMap<IndexId, Arc<Table>>>,
    db: OpenDb,
    dir: PathBuf,
    /// For blocks outside of sled's cache.
    room: Room,
    pace: Pace,
}

/// Closes sled when it is dropped, without a panic, and not for ever.
struct OpenDb(Option<Db>);

impl Deref for OpenDb {
    type Target = Db;

    fn deref(&self) -> &Db {
        match &self.0 {
            Some(db) => db,
            None => unreachable!("it is there until it is dropped"),
        }
    }
}

impl Drop for OpenDb {
    fn drop(&mut self) {
        let db = self.0.take();
        let (done, is_done) = mpsc::sync_channel(1);
        let close = move || {
            let closed = guard(|| {
                drop(db);
                Ok(())
            });
            _ = done.send(closed);
        };
        let thread = thread::Builder::new().name("index-closer".to_owned());
        // Where there can be no thread for it, sled is closed by this one meanwhile.
        let Ok(Ok(_)) = guard(|| Ok(thread.spawn(close))) else { return };
        match is_done.recv_timeout(CLOSING_TIME) {
            Ok(Err(error)) => tracing::warn!(
                %error,
                "the index was not closed cleanly; what it lacks is read from the log when it is opened again"
            ),
            Err(RecvTimeoutError::Timeout) => tracing::error!(
                "the index cannot be closed after a failed write; restart the process before it is used again"
            ),
            _ => {}
        }
    }
}

impl SledIndex {
    fn table(&self, index: IndexId) -> Option<Arc<Table>> {
        self.tables.read().get(&index).cloned()
    }

    /// How many trees there are, with one that is being made or dropped, and sled's own.
    fn trees(&self) -> usize {
        self.tables.read().len() + 2
    }

    fn open_table(&self, name: impl AsRef<[u8]>) -> Result<Table> {
        let tree = self.pace.open_tree(&self.db, self.trees(), name)?;
        Table::open(tree, self.room.clone())
    }

    fn table_or_new(&self, index: IndexId) -> Result<Arc<Table>> {
        if let Some(table) = self.table(index) {
            return Ok(table);
        }
        let table = Arc::new(self.open_table(tree_name(index))?);
        self.tables.write().insert(index, Arc::clone(&table));
        Ok(table)
    }

    /// Makes blocks of what an early version left. A crash on the way leaves the tree, to be
    /// converted from its beginning.
    fn convert_early_trees(&self) -> Result<()> {
        for name in self.db.tree_names() {
            let Some(id) = tree_id(&name, EARLY_TREE_PREFIX) else { continue };
            self.drop_index(id)?;
            let table = self.table_or_new(id)?;
            let tree = guard(|| self.db.open_tree(&name))?;
            let mut entries = tree.iter();
            let mut count = 0;
            loop {
                let some = entries.by_ref().take(CONVERTED_AT_A_TIME);
                let some: Vec<_> = guard(|| some.collect::<sled::Result<_>>())?;
                if some.is_empty() {
                    break;
                }
                count += some.len();
                let decoded = some.iter().map(|(key, value)| {
                    let entry = Entry::take(&mut value.as_ref());
                    IndexKey::from_bytes(key).zip(entry).ok_or_else(|| {
                        Error::Index("an entry of an early version cannot be decoded".into())
                    })
                });
                let decoded = decoded.collect::<Result<Vec<_>>>()?;
                table.apply(&mut decoded.iter().map(|(key, entry)| (key, Some(*entry))))?;
            }
            self.pace.drop_tree(&self.db, self.trees(), (&name, count))?;
        }
        Ok(())
    }
}

impl Index for SledIndex {
    fn get(&self, index: IndexId, key: &[u8]) -> Result<Option<Entry>> {
        // The hot path: looks the table up without cloning it.
        let tables = self.tables.read();
        let Some(table) = tables.get(&index) else { return Ok(None) };
        table.get(key)
    }

    fn get_all(&self, index: IndexId, keys: &[&IndexKey]) -> Result<Vec<Option<Entry>>> {
        match self.table(index) {
            Some(table) => table.get_all(keys),
            None => Ok(vec![None; keys.len()]),
        }
    }

    fn apply(&self, index: IndexId, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<()> {
        self.table_or_new(index)?.apply(changes)
    }

    fn at(&self, index: IndexId, position: u32) -> Result<Vec<(IndexKey, Entry)>> {
        let Some(table) = self.table(index) else { return Ok(Vec::new()) };
        let (from, until) = (position.to_be_bytes(), (position + 1).to_be_bytes());
        let (mut all, mut next) = table.page(Bound::Included(&from), &until)?;
        // Mostly one block has them all.
        while let Some(from) = next {
            let (more, beyond) = table.page(Bound::Included(&from), &until)?;
            all.extend(more);
            next = beyond;
        }
        Ok(all)
    }

    fn range<'a>(
        &'a self,
        index: IndexId,
        from: Bound<&[u8]>,
        until: &[u8],
    ) -> Result<Entries<'a>> {
        let Some(table) = self.table(index) else { return Ok(Box::new(std::iter::empty())) };
        let until = until.to_vec();
        let (items, mut next) = table.page(from, &until)?;
        let mut items = items.into_iter();
        Ok(Box::new(std::iter::from_fn(move || {
            loop {
                if let Some(item) = items.next() {
                    return Some(Ok(item));
                }
                let from = next.take()?;
                match table.page(Bound::Included(&from), &until) {
                    Ok((page, beyond)) => (items, next) = (page.into_iter(), beyond),
                    Err(error) => return Some(Err(error)),
                }
            }
        })))
    }

    fn drop_index(&self, index: IndexId) -> Result<()> {
        let table = self.tables.write().remove(&index);
        let blocks = match table {
            Some(table) => table.remove_beyond(MOST_DROPPED_BLOCKS)?,
            None => 0,
        };
        self.pace.drop_tree(&self.db, self.trees(), (tree_name(index), blocks))
    }

    fn indexes(&self) -> Result<Vec<IndexId>> {
        Ok(self.tables.read().keys().copied().collect())
    }

    fn flush(&self, checkpoint: Lsn) -> Result<()> {
        guard(|| {
            self.db.insert(CHECKPOINT, &checkpoint.to_le_bytes())?;
            self.db.flush()
        })
        .map_err(of_a_write)?;
        sync_tree(&self.dir).map_err(|error| Error::io("sync the index", &self.dir, error))
    }

    fn checkpoint(&self) -> Result<Lsn> {
        let value = guard(|| self.db.get(CHECKPOINT))?;
        let bytes = value.as_deref().and_then(|value| value.first_chunk().copied());
        Ok(bytes.map_or(0, Lsn::from_le_bytes))
    }

    fn bytes_on_disk(&self) -> u64 {
        allocated(&self.dir)
    }
}

/// The bytes of the disk that the files below a directory take; what cannot be read counts nothing.
fn allocated(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let bytes = entries.flatten().filter_map(|entry| {
        let metadata = entry.metadata().ok()?;
        let blocks = || metadata.blocks() * 512;
        Some(if metadata.is_dir() { allocated(&entry.path()) } else { blocks() })
    });
    bytes.sum()
}

fn tree_name(index: IndexId) -> String {
    format!("{TREE_PREFIX}{index}")
}

fn tree_id(name: &IVec, prefix: &str) -> Option<IndexId> {
    std::str::from_utf8(name).ok()?.strip_prefix(prefix)?.parse().ok()
}

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether a panic on this thread is caught, and told as an error of the index: a panic hook need say nothing of
/// it.
pub fn is_guarded() -> bool {
    IS_GUARDED.get()
}

/// Runs a call into sled; its errors and its panics are errors of the index.
fn guard<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T> {
    // Unwind safety: what a panic leaves of sled's own state may be wrong, and that is what the
    // recount at the next opening is for; nothing of ours is touched in here.
    let was_guarded = IS_GUARDED.replace(true);
    let called = catch_unwind(AssertUnwindSafe(call));
    IS_GUARDED.set(was_guarded);
    let called = called.map(|result| {
        result.map_err(|error| match error {
            sled::Error::Io(error) => sled::Error::Io(as_it_was(error)),
            error => error,
        })
    });
    match called {
        Ok(Ok(value)) => Ok(value),
        // What the disk or the system refuses says nothing of what is in the index.
        Ok(Err(sled::Error::Io(error))) if !is_damage(&error) => {
            Err(Error::io("use the index", "sled's files", error))
        }
        Ok(Err(error)) => Err(Error::Index(error.to_string().into())),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            let what = format!("sled panicked: {}", text.unwrap_or("no message"));
            Err(Error::Index(what.into()))
        }
    }
}

/// An error of the system that sled has copied, of which it keeps what `Debug` prints alone: all errors after the
/// first are such copies, of an error on one of its threads the first is one as well.
fn as_it_was(error: std::io::Error) -> std::io::Error {
    const BEGIN: &str = "Os { code: ";
    let text = error.to_string();
    let code = text.split_once(BEGIN).and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
    match code {
        Some(code) if error.raw_os_error().is_none() => std::io::Error::from_raw_os_error(code),
        _ => error,
    }
}

/// Whether sled reports by an I/O error that its files are not what it wrote.
fn is_damage(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{InvalidData, InvalidInput, NotFound, Other, UnexpectedEof};
    matches!(error.kind(), InvalidData | InvalidInput | NotFound | Other | UnexpectedEof)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

/// Syncs every file below `dir`, and the directories.
fn sync_tree(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path())?;
        } else {
            match fs::File::open(entry.path()) {
                Ok(file) => file.sync_all()?,
                // sled replaces its snapshots while we look.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    use super::*;

    /// Keys of one position that begin alike, so that fences are as long, and pages become files of their own.
    fn long_key(i: u32) -> IndexKey {
        IndexKey::new(7, format!("{}{i:08}", "x".repeat(900)).as_bytes())
    }

    #[test]
    fn an_index_is_closed_although_a_page_could_not_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::new(dir.path().join("index"), 1 << 20);
        let index = store.open().unwrap();
        // Where pages of their own are to be written to there is nothing.
        fs::remove_dir_all(dir.path().join("index/blobs")).unwrap();
        let keys: Vec<_> = (0..1000).map(long_key).collect();
        let entry = Entry::of_version(1);
        let failed = index.apply(1, &mut keys.iter().map(|key| (key, Some(entry))));
        assert!(matches!(failed, Err(Error::Index(_))), "{failed:?}");
        let (closed, is_closed) = mpsc::channel();
        thread::spawn(move || {
            drop(index);
            closed.send(())
        });
        is_closed.recv_timeout(60 * CLOSING_TIME).expect("it is not waited for");
    }

    /// It was taken for a sync of ours, which leaves the index as good as it was.
    #[test]
    fn a_page_that_there_is_no_descriptor_for_is_a_failure_of_the_index() {
        const IS_LIMITED: &str = "SHERD_TEST_NO_DESCRIPTORS";
        if std::env::var_os(IS_LIMITED).is_none() {
            let test = thread::current().name().unwrap().to_owned();
            let mut limited = Command::new(std::env::current_exe().unwrap());
            let ran = limited.args([&test, "--exact"]).env(IS_LIMITED, "1").output().unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let index = SledStore::new(dir.path().join("index"), 1 << 20).open().unwrap();
        let keys: Vec<_> = (0..1000).map(long_key).collect();
        let entry = Entry::of_version(1);
        let limit = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: Some(0), ..limit }).unwrap();
        let failed = index.apply(1, &mut keys.iter().map(|key| (key, Some(entry))));
        setrlimit(Resource::Nofile, limit).unwrap();
        assert!(matches!(failed, Err(Error::Index(_))), "{failed:?}");
    }

    /// It was told as `Os { code: 5, ...`, and not taken for damage of the index.
    #[test]
    fn errors_of_the_disk_that_sled_has_copied_are_told_as_any_other() {
        let failed = |errno: rustix::io::Errno| {
            let error = sled::Error::Io(errno.into());
            guard(|| Err::<(), _>(error.clone().clone())).unwrap_err()
        };
        let error = failed(rustix::io::Errno::IO);
        assert!(matches!(error, Error::Index(_)), "{error:?}");
        assert!(error.to_string().ends_with("Input/output error (os error 5)"), "{error}");
        assert!(matches!(failed(rustix::io::Errno::NOSPC), Error::DiskFull { .. }));
        assert!(matches!(failed(rustix::io::Errno::MFILE), Error::NoDescriptors { .. }));
        assert!(matches!(failed(rustix::io::Errno::ACCESS), Error::Io { .. }));
    }

    /// What a key is after so many changes of it.
    fn nth(change: u32, key: u32) -> Option<Entry> {
        let entry = Entry { content_hash: u128::MAX.into(), ..Entry::of_version(change.into()) };
        (change > 0 && !(change + key).is_multiple_of(3)).then_some(entry)
    }

    #[test]
    fn readers_see_each_change_done_or_not_done_however_much_is_held() {
        for (cache_bytes, key) in
            [(1 << 16, short_key as fn(u32) -> IndexKey), (40_000, long_key), (1 << 22, short_key)]
        {
            let dir = tempfile::tempdir().unwrap();
            let store = SledStore::new(dir.path().join("index"), cache_bytes);
            readers_see_each_change(&store, key);
        }
    }

    fn short_key(i: u32) -> IndexKey {
        IndexKey::new(i / 4, format!("key-{i:06}").as_bytes())
    }

    fn readers_see_each_change(store: &SledStore, key: fn(u32) -> IndexKey) {
        const KEYS: u32 = 2000;
        let index = store.open().unwrap();
        let keys: Vec<_> = (0..KEYS).map(key).collect();
        let counts = || (0..KEYS).map(|_| AtomicU32::new(0)).collect::<Vec<_>>();
        let (begun, done, ended) = (counts(), counts(), AtomicBool::new(false));
        let check = |i: u32, before: u32, found: Option<Entry>| {
            let after = begun[i as usize].load(Ordering::SeqCst);
            let is_one = (before..=after).any(|change| nth(change, i) == found);
            assert!(is_one, "key {i}: {found:?} is none of the states {before} to {after}");
        };
        let read = |mut rng: fastrand::Rng| {
            while !ended.load(Ordering::SeqCst) {
                let first = rng.u32(..KEYS);
                let some = first..(first + rng.u32(1..200)).min(KEYS);
                let before: Vec<_> =
                    some.clone().map(|i| done[i as usize].load(Ordering::SeqCst)).collect();
                let these = &keys[some.start as usize..some.end as usize];
                let found = match rng.u8(..3) {
                    0 => these.iter().map(|key| index.get(1, key.as_bytes()).unwrap()).collect(),
                    1 => index.get_all(1, &these.iter().collect::<Vec<_>>()).unwrap(),
                    _ => {
                        let from = Bound::Included(these[0].as_bytes());
                        let until =
                            keys.get(some.end as usize).map_or(&[0xff; 8][..], IndexKey::as_bytes);
                        let range = index.range(1, from, until).unwrap();
                        let range: Vec<_> = range.collect::<Result<_>>().unwrap();
                        assert!(range.is_sorted_by(|a, b| a.0 < b.0));
                        let find = |key: &IndexKey| {
                            range.iter().find(|(found, _)| found == key).map(|(_, entry)| *entry)
                        };
                        these.iter().map(find).collect::<Vec<_>>()
                    }
                };
                for ((i, before), found) in some.zip(before).zip(found) {
                    check(i, before, found);
                }
            }
        };
        thread::scope(|scope| {
            for seed in 0..3 {
                scope.spawn(move || read(fastrand::Rng::with_seed(seed)));
            }
            let mut rng = fastrand::Rng::with_seed(9);
            for _ in 0..60 {
                // A part of the ring, from few of its keys to all of them.
                let (from, every) = (rng.u32(..KEYS), rng.u32(1..20));
                let changed: Vec<_> = (from..KEYS).step_by(every as usize).collect();
                let changes = changed.iter().map(|&i| {
                    let change = begun[i as usize].fetch_add(1, Ordering::SeqCst) + 1;
                    (&keys[i as usize], nth(change, i))
                });
                index.apply(1, &mut changes.collect::<Vec<_>>().into_iter()).unwrap();
                for &i in &changed {
                    done[i as usize].fetch_add(1, Ordering::SeqCst);
                }
            }
            ended.store(true, Ordering::SeqCst);
        });
        index.flush(1).unwrap();
        drop(index);
        let index = store.open().unwrap();
        for i in 0..KEYS {
            let found = index.get(1, keys[i as usize].as_bytes()).unwrap();
            assert_eq!(found, nth(done[i as usize].load(Ordering::SeqCst), i));
        }
    }
}
