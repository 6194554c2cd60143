//! Writes to sled with no more behind them than its threads can do.
//!
//! sled writes its log and shortens its file on a pool of threads, seven at least. Whoever needs new space in the file
//! waits for a shortening of it with the lock of sled's segments held, which the threads want for each piece of the log that they have
//! written. Where all of them wait for it, and the shortening is queued behind what they do, nothing goes on any more. In sled
//! that was mended by a thread for it (pull request 1269), but the last release, 0.34.7, is from before. It came up where
//! the documents of a range that had moved away were removed, on a busy machine.
//!
//! So no more is left to the threads at a time than keeps six of them busy, by all trees together: the threads
//! are the same for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sled::{Db, IVec, Tree};

use super::guard;
use super::table::Blocks;
use crate::error::{Error, Result};

/// After so many bytes of its log the threads are waited for. Each piece that one of them writes has 64 KiB.
const LOG_BYTES_AT_A_TIME: u64 = 6 * 64 * 1024;

/// How many times its length a block may come to in the log: itself, the page of twelve that it is on, every tenth
/// time, and another page then, where sled clears a segment. With as many changes before, that may be the tenth time of every
/// page.
const TIMES_ITS_LENGTH: u64 = 1 + 12 + 12;

/// The same of a block behind the last one, which mostly is on the same page: of twelve there are two tenth
/// times at most.
const TIMES_THE_LENGTH_OF_THE_NEXT: u64 = 1 + 2 * (12 + 12) / 12;

/// What counts for the length of a shorter block: the others on its page need not be as short.
const LEAST_BYTES: u64 = 512;

/// What counts for the length of a block that is removed.
const REMOVED_BYTES: u64 = 1024;

/// What a dropped tree comes to for each of its blocks: 13 bytes or so for each page, and few pages have less
/// than four.
const DROPPED_BYTES: u64 = 4;

/// Of more blocks a tree is not dropped: it would come to more than may be left to the threads.
pub(super) const MOST_DROPPED_BLOCKS: usize = (LOG_BYTES_AT_A_TIME / DROPPED_BYTES) as usize;

/// What each tree takes of the page with the names of all, which is written with each one that is made or
/// dropped.
const NAME_BYTES: u64 = 32;

/// What that page comes to at most: a longer one is a file of its own.
const MOST_NAMES_BYTES: u64 = 16 * 1024;

/// May have come to sled's log since its threads were waited for.
#[derive(Clone, Default)]
pub(super) struct Pace {
    log_bytes: Arc<AtomicU64>,
}

impl Pace {
    fn write<T>(
        &self,
        tree: &Tree,
        log_bytes: u64,
        call: impl FnOnce() -> sled::Result<T>,
    ) -> Result<T> {
        if self.log_bytes.fetch_add(log_bytes, Ordering::Relaxed) + log_bytes > LOG_BYTES_AT_A_TIME
        {
            // That of all trees.
            guard(|| tree.flush()).map_err(of_a_write)?;
            self.log_bytes.store(log_bytes, Ordering::Relaxed);
        }
        guard(call).map_err(of_a_write)
    }

    /// Opens a tree, or makes it as one of so many.
    pub(super) fn open_tree(
        &self,
        db: &Db,
        trees: usize,
        name: impl AsRef<[u8]>,
    ) -> Result<PacedTree> {
        let tree = self.write(db, names_bytes(trees), || db.open_tree(name))?;
        Ok(PacedTree { tree, pace: self.clone() })
    }

    /// Drops a tree of so many blocks, one of so many trees, if it is there.
    pub(super) fn drop_tree(
        &self,
        db: &Db,
        trees: usize,
        (name, blocks): (impl AsRef<[u8]>, usize),
    ) -> Result<()> {
        let log_bytes = names_bytes(trees) + DROPPED_BYTES * blocks as u64;
        self.write(db, log_bytes, || db.drop_tree(name)).map(drop)
    }
}

/// A write that sled gave up half way leaves it unusable, whatever the reason. For want of a descriptor it is no
/// better than an index that is well and only could not be synced.
pub(super) fn of_a_write(error: Error) -> Error {
    match error {
        Error::NoDescriptors { what } => {
            Error::Index(format!("too many files are open: {what}").into())
        }
        error => error,
    }
}

/// What the names of so many trees may come to.
fn names_bytes(trees: usize) -> u64 {
    (NAME_BYTES * trees as u64).min(MOST_NAMES_BYTES)
}

/// The blocks of a tree of sled's.
pub(super) struct PacedTree {
    tree: Tree,
    pace: Pace,
}

impl PacedTree {
    #[cfg(test)]
    pub(super) fn new(tree: Tree) -> Self {
        Self { tree, pace: Pace::default() }
    }

    fn write<T>(&self, log_bytes: u64, call: impl FnOnce() -> sled::Result<T>) -> Result<()> {
        self.pace.write(&self.tree, log_bytes, call).map(drop)
    }
}

impl Blocks for PacedTree {
    fn get(&self, fence: &[u8]) -> Result<Option<IVec>> {
        guard(|| self.tree.get(fence))
    }

    fn insert(&self, fence: &[u8], block: IVec, is_next: bool) -> Result<()> {
        let times = if is_next { TIMES_THE_LENGTH_OF_THE_NEXT } else { TIMES_ITS_LENGTH };
        let bytes = (fence.len() + block.len()) as u64;
        self.write(times * bytes.max(LEAST_BYTES), || self.tree.insert(fence, block))
    }

    fn remove(&self, fence: &[u8]) -> Result<()> {
        let log_bytes = TIMES_THE_LENGTH_OF_THE_NEXT * (REMOVED_BYTES + fence.len() as u64);
        self.write(log_bytes, || self.tree.remove(fence))
    }

    fn fences(&self) -> Result<Vec<IVec>> {
        // Copied: sled's keys hold the page that they were read from.
        let copied = |key: sled::Result<IVec>| Ok(IVec::from(key?.as_ref()));
        guard(|| self.tree.iter().keys().map(copied).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::path::Path;
    use std::process::{self, Command, Stdio};
    use std::sync::mpsc::{self, RecvTimeoutError};
    use std::time::Duration;
    use std::{env, fs, thread};

    use crate::index::{Entry, IndexKey, IndexStore, SledStore};

    /// Set in the process of which the writes are slow.
    const IS_SLOW: &str = "SHERD_TEST_SLOW_WRITES";

    /// What it says before its id.
    const PROCESS: &str = "process ";

    /// How long nothing may be heard of that.
    const SILENCE: Duration = Duration::from_secs(60);

    /// Without the pacing it stands still in nearly every run.
    #[test]
    fn a_file_is_shortened_and_grows_again_where_all_threads_wait() {
        with_slow_writes(1, grow_and_shrink);
    }

    /// Where each had as much left to the threads as a large one, all of them were busy.
    #[test]
    fn many_small_indexes_leave_no_more_to_the_threads_than_a_large_one() {
        with_slow_writes(200, make_small_indexes);
    }

    /// Runs the calling test again in a process of which each write takes some milliseconds, and `run` there.
    fn with_slow_writes(milliseconds: u32, run: fn()) {
        if env::var_os(IS_SLOW).is_some() {
            println!("\n{PROCESS}{}", process::id());
            return run();
        }
        let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
        if !traced.is_ok_and(|traced| traced.status.success()) {
            println!("skipped: there is no strace, which makes writes slow");
            return;
        }
        let test = thread::current().name().expect("the test's name").to_owned();
        let mut slow = Command::new("strace")
            .args(["-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"])
            .args([
                "-e",
                "trace=pwrite64,ftruncate",
                "-e",
                &format!("inject=pwrite64:delay_enter={milliseconds}ms"),
            ])
            .arg(env::current_exe().unwrap())
            .args([&test, "--exact", "--nocapture"])
            .env(IS_SLOW, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (said, lines) = mpsc::channel();
        let output = BufReader::new(slow.stdout.take().unwrap());
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|l| said.send(l)));
        let (mut traced, mut last) = (None, String::new());
        let ended = loop {
            match lines.recv_timeout(SILENCE) {
                Ok(line) => {
                    traced = traced.or_else(|| line.strip_prefix(PROCESS).map(str::to_owned));
                    last = line;
                }
                Err(error) => break error == RecvTimeoutError::Disconnected,
            }
        };
        if !ended {
            let id = traced.expect("it said which it is");
            _ = Command::new("kill").args(["-KILL", &id]).status();
        }
        let status = slow.wait().unwrap();
        assert!(ended && status.success(), "{status}, after {last:?}");
    }

    fn make_small_indexes() {
        let dir = tempfile::tempdir().unwrap();
        let index = SledStore::new(dir.path().join("index"), 256 << 20).open().unwrap();
        let mut most = 0;
        for id in 0..20 {
            let keys: Vec<_> =
                (0..2500).map(|i| IndexKey::new(i * 16, b"key:0000000000")).collect();
            let entry = Entry { content_hash: u128::MAX.into(), ..Entry::of_version(1) };
            index.apply(id, &mut keys.iter().map(|key| (key, Some(entry)))).unwrap();
            most = most.max(writing_threads());
            println!("index {id}, {most} threads");
        }
        assert!((1..=6).contains(&most), "{most} threads of seven write at once");
    }

    /// How many of sled's threads are held in a write.
    fn writing_threads() -> usize {
        let read = |path: &Path, file| fs::read_to_string(path.join(file)).unwrap_or_default();
        let is_writing = |path: &Path| {
            let is_sleds = read(path, "comm").starts_with("sled-io");
            is_sleds && read(path, "stat").rsplit(')').next().unwrap().starts_with(" t")
        };
        let threads = fs::read_dir("/proc/self/task").unwrap();
        threads.filter(|thread| is_writing(&thread.as_ref().unwrap().path())).count()
    }

    fn grow_and_shrink() {
        let dir = tempfile::tempdir().unwrap();
        let index = SledStore::new(dir.path().join("index"), 256 << 20).open().unwrap();
        let key = |i: u32| IndexKey::new(i * 16, b"key:0000000000");
        let mut rng = fastrand::Rng::with_seed(1);
        let mut entry =
            |version| Entry { content_hash: rng.u128(..).into(), ..Entry::of_version(version) };
        for round in 0..120 {
            let most = if round % 2 == 0 { 40_000 } else { 8_000 };
            let changes = (0..40_000).map(|i| (key(i), (i < most).then(|| entry(round))));
            let changes: Vec<_> = changes.collect();
            index.apply(1, &mut changes.iter().map(|(key, entry)| (key, *entry))).unwrap();
            if round % 8 == 7 {
                index.flush(round).unwrap();
            }
            println!("round {round}");
        }
        let found = (0..40_000).filter(|i| index.get(1, key(*i).as_bytes()).unwrap().is_some());
        assert_eq!(found.count(), 8_000);
    }
}
