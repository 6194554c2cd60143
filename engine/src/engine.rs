//! The engine's face: opening, asking, closing.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::checkpoint;
use crate::clock::Clock;
use crate::command::{
    Assignment, Command, Compacted, Document, Import, Imported, Incoming, IndexId, Key, Outcome,
    Page, Scan, Stat, Version,
};
use crate::compaction::{Compactor, Request};
use crate::cut::Cut;
use crate::defect::Defects;
use crate::error::{Error, Result};
use crate::fs::{DiskFs, Fs};
use crate::index::{IndexStore, SledStore};
use crate::queue::{Queue, Task};
use crate::recovery::{self, IndexUse, Recovered};
use crate::scout;
use crate::sequencer::{Channels, Sequencer};
use crate::shared::{Found, Shared};
use crate::state::Sums;
use crate::sweeper::Sweeper;
use crate::tail::{self, Tail, TailCursor};

/// The directory of the index, in the data directory.
pub(crate) const INDEX_DIR: &str = "index";

/// Called once with the result of a command, on the sequencer's thread: it must be quick and must
/// not block.
pub type Completion = Box<dyn FnOnce(Result<Outcome>) + Send>;

/// When a mutation is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// After it is synced to disk.
    #[default]
    Always,
    /// After it is handed to the operating system, which is asked to sync at this interval. A
    /// crash of the process loses nothing, a power loss at most what came in since the last sync.
    Interval(Duration),
}

/// Tuning knobs; the defaults serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// When a mutation is acknowledged. Default: [`Durability::Always`].
    pub durability: Durability,
    /// The size of a segment of the log. Default 32 MiB: a batch of the largest documents fits,
    /// and preparing one takes a fraction of a second. At least 4 KiB. Where little is live segments are shorter,
    /// but of 8 MiB at least.
    pub segment_bytes: u32,
    /// How many changed keys start a checkpoint; with many documents up to six times as many. Default
    /// 100,000: some 20 MB of memory, and half a second of sled's time. At least 1.
    pub checkpoint_keys: usize,
    /// How long changes may wait for a checkpoint. Default 30 s.
    pub checkpoint_interval: Duration,
    /// How many bytes are kept in reserve, so that removes and checkpoints work on a full disk; 0
    /// for none. Default: a quarter of what a segment has.
    pub reserve_bytes: Option<u64>,
    /// What sled may cache, in bytes: the index of some three million documents with keys of 16 bytes; half as much
    /// may be held besides. Default 256 MiB.
    pub index_cache_bytes: u64,
    /// What documents may be cached. Default 64 MiB.
    pub document_cache_bytes: u64,
    /// Whether segments are compacted in the background. Default: yes.
    pub compaction: bool,
    /// The time by which documents expire. Default: the system's.
    pub clock: Clock,
    /// For how long the log is held for who reads it, see [`Engine::hold_log`]. Default: a minute.
    #[doc(hidden)]
    pub log_held: Duration,
    /// Whether [`Engine::submit`] returns only when the command is done, so that what a simulation of a
    /// single thread does is the same each time. Default: no.
    #[doc(hidden)]
    pub in_step: bool,
    /// Mistakes to make, where tests ask for them.
    #[doc(hidden)]
    pub defects: Defects,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            durability: Durability::Always,
            segment_bytes: 32 * 1024 * 1024,
            checkpoint_keys: 100_000,
            checkpoint_interval: Duration::from_secs(30),
            reserve_bytes: None,
            index_cache_bytes: 256 * 1024 * 1024,
            document_cache_bytes: 64 * 1024 * 1024,
            compaction: true,
            clock: Clock::default(),
            log_held: tail::PIN_TIME,
            in_step: false,
            defects: Defects::default(),
        }
    }
}

impl Options {
    const MIN_SEGMENT_BYTES: u32 = 4096;

    /// A shorter one would be full before the one behind it is prepared.
    const SHORT_SEGMENT_BYTES: u32 = 8 * 1024 * 1024;

    /// Of how many segments, all of them live, a log has at least, where they are not shorter than that. With few, each
    /// has some of all that lives on, and compaction copies most of what it picks.
    const SEGMENTS: u64 = 32;

    /// How long the next segment is to be, by the live bytes of the log.
    pub(crate) fn segment_bytes_for(&self, live: u64) -> u32 {
        let most = self.segment_bytes;
        let suited = u32::try_from(live / Self::SEGMENTS).unwrap_or(most);
        suited.clamp(most.min(Self::SHORT_SEGMENT_BYTES), most)
    }

    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.reserve_bytes.unwrap_or(u64::from(self.segment_bytes) / 4)
    }

    fn at_least_the_minimum(mut self) -> Self {
        self.segment_bytes = self.segment_bytes.max(Self::MIN_SEGMENT_BYTES);
        self.checkpoint_keys = self.checkpoint_keys.max(1);
        self
    }
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Records replayed from the log.
    pub replayed: u64,
    /// Whether and why the index was rebuilt from the whole log.
    pub rebuilt: Option<String>,
}

/// A shard's storage. Cheap to clone; all methods may be called from any thread.
///
/// Dropping the last handle without [`Engine::close`] ends it as a crash would: nothing
/// acknowledged is lost, and the next opening replays more.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

struct Inner {
    shared: Arc<Shared>,
    queue: Arc<Queue>,
    in_step: bool,
    threads: Mutex<Option<Threads>>,
}

struct Threads {
    sequencer: JoinHandle<Result<()>>,
    checkpointer: JoinHandle<()>,
    compactor: JoinHandle<()>,
    /// The compactor ends when no one can ask it any more.
    ask_compactor: Sender<Request>,
    sweeper: JoinHandle<()>,
    /// The sweeper ends when this is gone.
    keep_sweeping: Sender<()>,
    scout: JoinHandle<()>,
}

impl Engine {
    /// Opens a data directory, making it if needed, and recovers. Blocks.
    ///
    /// # Errors
    /// [`Error::InUse`] while another process has it open; [`Error::Corrupt`] when durable bytes
    /// of the log or the manifest have changed; [`Error::UnknownFormat`]; [`Error::Io`];
    /// [`Error::DiskFull`].
    pub fn open(dir: &Path, options: Options) -> Result<(Self, Recovery)> {
        let store = SledStore::new(dir.join(INDEX_DIR), options.index_cache_bytes);
        Self::open_with(Arc::new(DiskFs), &store, dir, options)
    }

    /// Opens a data directory in a filesystem, with an index, of the caller's choice.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open_with(
        fs: Arc<dyn Fs>,
        store: &dyn IndexStore,
        dir: &Path,
        options: Options,
    ) -> Result<(Self, Recovery)> {
        let options = options.at_least_the_minimum();
        let in_step = options.in_step;
        #[cfg(feature = "seeded-defects")]
        let fs = crate::defect::faulty_fs(fs, options.defects);
        let lock = recovery::lock(fs.as_ref(), dir)?;
        let Recovered { shared, log, report } =
            recovery::recover(fs, dir, lock, store, &options, IndexUse::IfUsable)?;
        // From here on it does not go back, whoever asks for it first.
        shared.clock.now();
        let queue = Arc::new(Queue::default());
        let (snapshot_sender, snapshots) = mpsc::channel();
        let (report_sender, reports) = mpsc::channel();
        let spawn_failed = |error| Error::failed("start a thread for", dir, error);
        let checkpointer = {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("checkpointer".to_owned())
                .spawn(move || {
                    give_way(NICENESS);
                    checkpoint::run(&shared, &snapshots, &report_sender);
                })
                .map_err(spawn_failed)?
        };
        let (ask_compactor, requests) = mpsc::channel();
        let compactor = {
            let (shared, queue) = (Arc::clone(&shared), Arc::clone(&queue));
            let options = options.clone();
            let (sweep, condemned_since) = (RefCell::default(), Cell::default());
            let compactor = Compactor { shared, queue, options, requests, sweep, condemned_since };
            let run = move || {
                give_way(NICENESS);
                compactor.run();
            };
            thread::Builder::new().name("compactor".to_owned()).spawn(run).map_err(spawn_failed)?
        };
        let (keep_sweeping, open) = mpsc::channel();
        let sweeper = {
            let (shared, queue) = (Arc::clone(&shared), Arc::clone(&queue));
            let run = move || {
                give_way(SWEEPERS_NICENESS);
                Sweeper { shared, queue, open }.run();
            };
            thread::Builder::new().name("sweeper".to_owned()).spawn(run).map_err(spawn_failed)?
        };
        let scout = {
            let shared = Arc::clone(&shared);
            let run = move || scout::run(&shared);
            thread::Builder::new().name("scout".to_owned()).spawn(run).map_err(spawn_failed)?
        };
        let sequencer = {
            let (shared, queue) = (Arc::clone(&shared), Arc::clone(&queue));
            let channels = Channels {
                snapshots: snapshot_sender,
                checkpointed: reports,
                compactor: ask_compactor.clone(),
            };
            let run = move || Sequencer::new(shared, queue, log, options, channels).run();
            thread::Builder::new().name("sequencer".to_owned()).spawn(run).map_err(spawn_failed)?
        };
        let threads = Mutex::new(Some(Threads {
            sequencer,
            checkpointer,
            compactor,
            ask_compactor,
            sweeper,
            keep_sweeping,
            scout,
        }));
        Ok((Self(Arc::new(Inner { shared, queue, in_step, threads })), report))
    }

    /// Queues a command; never blocks. `done` is called when its effects are durable and visible,
    /// or when it is refused. The caller bounds how many commands are queued.
    pub fn submit(&self, command: Command, done: Completion) {
        self.push(|done| Task::Command(command, done), done);
    }

    fn push(&self, task: impl FnOnce(Completion) -> Task, done: Completion) {
        if !self.0.in_step || self.0.is_sequencer() {
            return self.0.queue.push(task(done));
        }
        let (sender, receiver) = mpsc::sync_channel(1);
        let done = move |result| {
            done(result);
            _ = sender.send(());
        };
        self.0.queue.push(task(Box::new(done)));
        // Of a completion that is dropped nobody hears either way.
        _ = receiver.recv();
    }

    /// Submits a command and waits for its result. Blocks; not for async code.
    ///
    /// # Errors
    /// Why the command was refused as a whole.
    pub fn execute(&self, command: Command) -> Result<Outcome> {
        self.wait_for(|done| self.submit(command, done))
    }

    fn wait_for(&self, submit: impl FnOnce(Completion)) -> Result<Outcome> {
        let (sender, receiver) = mpsc::sync_channel(1);
        submit(Box::new(move |result| _ = sender.send(result)));
        receiver.recv().unwrap_or(Err(Error::Closed))
    }

    /// Takes documents over from another shard, all or none, and waits for it. What there is of them is looked up
    /// here, and not by the sequencer, which nobody then waits for. Blocks; not for async code.
    ///
    /// # Errors
    /// Why the import was refused.
    pub fn import(&self, import: Import) -> Result<Outcome> {
        // Of a span the sequencer visits all there is. An index that fails is for it to report.
        let found = match import.whole {
            Some(_) => Found::default(),
            None => {
                let places = import.documents.iter().map(Imported::place);
                self.0.shared.look_up_places(places).unwrap_or_default()
            }
        };
        self.wait_for(|done| self.push(|done| Task::Import(import, found, done), done))
    }

    /// The id of an index.
    pub fn index_id(&self, name: &str) -> Option<IndexId> {
        self.0.shared.view.read().state.index_id(name)
    }

    /// Reads a document: mostly from memory, at worst one read of the index and one of the log.
    ///
    /// # Errors
    /// [`Error::WrongShard`], [`Error::IndexNotFound`], [`Error::Corrupt`], [`Error::Index`],
    /// [`Error::IndexClosed`], [`Error::Io`].
    pub fn read(&self, index: IndexId, key: &Key) -> Result<Option<Document>> {
        self.0.shared.read(index, key).map_err(Error::of_a_read)
    }

    /// The version of a document, without reading it.
    ///
    /// # Errors
    /// As [`Engine::read`], except for the log's.
    pub fn version(&self, index: IndexId, key: &Key) -> Result<Option<Version>> {
        self.0.shared.version(index, key).map_err(Error::of_a_read)
    }

    /// A page of documents. Reads many documents: in async code, call it on a blocking thread.
    ///
    /// # Errors
    /// As [`Engine::read`]; [`Error::WrongShard`] where any of the range is not owned.
    pub fn scan(&self, scan: &Scan) -> Result<Page> {
        self.0.shared.scan(scan).map_err(Error::of_a_read)
    }

    /// A page of all documents of owned ranges, those that have expired and are not removed yet as well:
    /// for a shard that takes them over. Blocks.
    ///
    /// # Errors
    /// As [`Engine::scan`].
    pub fn export(&self, scan: &Scan) -> Result<Page> {
        self.0.shared.export(scan).map_err(Error::of_a_read)
    }

    /// Where the log goes on. A page of an export that is read from now on, and what [`Engine::tail`]
    /// finds from here on, together are all there is. What follows is held against compaction for a
    /// minute.
    pub fn tail_end(&self) -> TailCursor {
        self.0.shared.tail_end()
    }

    /// Holds what follows a place in the log against compaction for a minute from now on: for who reads
    /// pages of an export, which may take longer than that, and wants to read on there afterwards. Cheap.
    ///
    /// Tells whether all of it is still there; where not, nothing is held, and [`Engine::tail`] will be
    /// refused. On a full disk compaction may delete it all the same.
    pub fn hold_log(&self, from: TailCursor) -> bool {
        self.0.shared.hold_log(from)
    }

    /// What became of keys in ranges from a place in the log on, some `max_bytes` of it. What follows
    /// is held against compaction for a minute. Blocks.
    ///
    /// # Errors
    /// [`Error::LogGone`] where compaction has deleted some of it; [`Error::WrongShard`] where the ranges
    /// are not owned any more; [`Error::Corrupt`], [`Error::Io`].
    pub fn tail(&self, from: TailCursor, ranges: &[(u32, u32)], max_bytes: usize) -> Result<Tail> {
        self.0.shared.tail(from, ranges, max_bytes)
    }

    /// What the documents of ranges come to, by index; indexes without any are left out. Reads the
    /// index where a range cuts one of the 1,024 buckets of the ring. Blocks.
    ///
    /// # Errors
    /// [`Error::Index`], [`Error::IndexClosed`].
    pub fn sums(&self, ranges: &[(u32, u32)]) -> Result<BTreeMap<IndexId, Sums>> {
        self.0.shared.sums(ranges).map_err(Error::of_a_read)
    }

    /// What the documents of each of the 1,024 buckets of the ring come to, over all indexes; of buckets
    /// that are owned, or in part.
    pub fn buckets(&self) -> Vec<Sums> {
        self.0.shared.buckets()
    }

    /// Takes a cut: the shard as of now, between two batches. What of the log is in it is held for a
    /// minute after it was read from last. Never blocks; `done` is called on the sequencer's thread.
    ///
    /// With `keep`, what comes after it is kept as well as what is kept already, as long as that takes no
    /// more bytes, see [`Engine::keep_log`].
    pub fn cut(&self, keep: Option<u64>, done: impl FnOnce(Result<Cut>) + Send + 'static) {
        self.0.queue.push(Task::Cut(keep, Box::new(done)));
    }

    /// Some bytes of a segment of a cut, from an offset on: as many as are asked for, or as there are.
    /// Blocks.
    ///
    /// # Errors
    /// [`Error::CutGone`], [`Error::NotInCut`], [`Error::Io`].
    pub fn read_cut(&self, id: u64, segment: u32, offset: u32, most: usize) -> Result<Bytes> {
        self.0.shared.read_cut(id, segment, offset, most)
    }

    /// The XXH3 of 128 bits, seed 0, of what of a segment is in a cut. Reads all of it: blocks.
    ///
    /// # Errors
    /// As [`Engine::read_cut`].
    pub fn sum_cut(&self, id: u64, segment: u32) -> Result<u128> {
        self.0.shared.sum_cut(id, segment)
    }

    /// Lets go of a cut, if it is still held.
    pub fn release_cut(&self, id: u64) {
        self.0.shared.cuts.release(id);
    }

    /// Keeps the log after an LSN, the cut of a backup that is complete, as long as that takes no more
    /// bytes, over restarts; what was kept before it is not any more. With 0 bytes nothing is kept. Blocks.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`] when it cannot be remembered.
    pub fn keep_log(&self, after: Version, max_bytes: u64) -> Result<()> {
        self.0.shared.keep_log(after, max_bytes)
    }

    /// The assignment held.
    pub fn assignment(&self) -> Option<Arc<Assignment>> {
        self.0.shared.view.read().state.assignment.clone()
    }

    /// What is being taken over from another shard.
    pub fn incoming(&self) -> Option<Arc<Incoming>> {
        self.0.shared.view.read().state.incoming.clone()
    }

    /// Whether a change at a position would be refused for now, with [`Error::Frozen`].
    pub fn is_frozen(&self, position: u32) -> bool {
        let shared = &self.0.shared;
        let within = |&(start, end): &(u32, u32)| (start..end).contains(&position);
        shared.frozen.read().as_ref().is_some_and(|(ranges, until)| {
            ranges.iter().any(within) && shared.clock.elapsed() < *until
        })
    }

    /// Whether there are ranges of which [`Engine::is_frozen`] may hold.
    pub fn has_frozen(&self) -> bool {
        let frozen = self.0.shared.frozen.read();
        frozen.as_ref().is_some_and(|(_, until)| self.0.shared.clock.elapsed() < *until)
    }

    /// What is stored.
    pub fn stat(&self) -> Stat {
        self.0.shared.stat()
    }

    /// Brings the index up to all that is published. Blocks.
    ///
    /// # Errors
    /// [`Error::Poisoned`], [`Error::Closed`], or why the checkpoint failed.
    pub fn checkpoint(&self) -> Result<()> {
        let (sender, receiver) = mpsc::sync_channel(1);
        self.0.queue.push(Task::Checkpoint(sender));
        receiver.recv().unwrap_or(Err(Error::Closed))
    }

    /// Compacts the segment with the most garbage, however little, checkpoints and deletes it.
    /// `None` when no sealed segment has any. Blocks.
    ///
    /// # Errors
    /// As [`Engine::checkpoint`]; [`Error::Corrupt`] when the segment is damaged.
    pub fn compact(&self) -> Result<Option<Compacted>> {
        let (sender, receiver) = mpsc::sync_channel(1);
        let asked = match &*self.0.threads.lock() {
            Some(threads) => threads.ask_compactor.send(Request::Compact(sender)).is_ok(),
            None => false,
        };
        if !asked {
            return Err(Error::Closed);
        }
        receiver.recv().unwrap_or(Err(Error::Closed))
    }

    /// Finishes queued commands, checkpoints and stops; commands that come later get
    /// [`Error::Closed`], reads are still answered. Blocks. A second call does nothing.
    ///
    /// # Errors
    /// [`Error::Poisoned`] if the writer had stopped; why the checkpoint failed. In both cases
    /// nothing acknowledged is lost.
    pub fn close(&self) -> Result<()> {
        self.0.queue.close(false);
        self.0.join()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("dir", &self.0.shared.dir).finish_non_exhaustive()
    }
}

impl Inner {
    /// Whether it is the sequencer that asks, in a completion.
    fn is_sequencer(&self) -> bool {
        let threads = self.threads.lock();
        threads.as_ref().is_some_and(|it| it.sequencer.thread().id() == thread::current().id())
    }

    fn join(&self) -> Result<()> {
        let Some(threads) = self.threads.lock().take() else { return Ok(()) };
        if threads.sequencer.thread().id() == thread::current().id() {
            // The last handle was held by a completion: the sequencer ends by itself.
            return Ok(());
        }
        let ended = |what| Error::Poisoned { reason: format!("the {what} panicked").into() };
        drop((threads.ask_compactor, threads.keep_sweeping));
        let result = threads.sequencer.join().unwrap_or_else(|_| Err(ended("sequencer")));
        let checkpointer = threads.checkpointer.join().map_err(|_| ended("checkpointer"));
        let compactor = threads.compactor.join().map_err(|_| ended("compactor"));
        let sweeper = threads.sweeper.join().map_err(|_| ended("sweeper"));
        self.shared.scout.close();
        let scout = threads.scout.join().map_err(|_| ended("scout"));
        result.and(checkpointer).and(compactor).and(sweeper).and(scout)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close(true);
        _ = self.join();
    }
}

/// The niceness of checkpoints and compaction: what answers callers goes first, but where other
/// processes take all there is, they still get a third of what one of these does. With the least
/// priority they got a hundredth; writes went on, and the log grew.
const NICENESS: i32 = 5;

/// The niceness of the sweeper, which nobody waits for.
const SWEEPERS_NICENESS: i32 = 10;

/// Has the calling thread give way to those that answer callers. Only on Linux is a priority a
/// thread's own.
fn give_way(niceness: i32) {
    if cfg!(target_os = "linux")
        && let Err(error) = rustix::process::setpriority_process(None, niceness)
    {
        tracing::debug!(%error, "a thread in the background has the priority of all others");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_longer_where_more_is_live() {
        const MIB: u64 = 1 << 20;
        let long = Options::default();
        let suited = |live| u64::from(long.segment_bytes_for(live)) / MIB;
        assert_eq!([0, 100, 320, 1024, 1 << 20].map(|live| suited(live * MIB)), [8, 8, 10, 32, 32]);
        let short = Options { segment_bytes: 4096, ..Options::default() };
        assert_eq!([0, u64::MAX].map(|live| short.segment_bytes_for(live)), [4096, 4096]);
    }
}
