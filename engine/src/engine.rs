//! The engine's face (signatures are final, bodies are being written).

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::*;

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
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// When a mutation is acknowledged.
    pub durability: Durability,
}

/// What opening found.
#[derive(Clone, Debug, Default)]
pub struct Recovery {
    /// Records replayed from the log after the checkpoint.
    pub replayed: u64,
    /// Whether and why the index was rebuilt from the whole log.
    pub rebuilt: Option<String>,
}

/// A shard's storage. Cheap to clone; all methods may be called from any thread.
#[derive(Clone)]
pub struct Engine {}

impl Engine {
    /// Opens a data directory, making it if needed, and recovers. Blocks.
    pub fn open(_dir: &Path, _options: Options) -> Result<(Self, Recovery)> {
        unimplemented!()
    }
    /// Queues a command; never blocks. `done` is called when its effects are durable and visible.
    /// The caller bounds how many commands are queued.
    pub fn submit(&self, _command: Command, _done: Completion) {
        unimplemented!()
    }
    /// Submits and waits. Blocks; not for async code.
    pub fn execute(&self, _command: Command) -> Result<Outcome> {
        unimplemented!()
    }
    /// The id of an index.
    pub fn index_id(&self, _name: &str) -> Option<IndexId> {
        unimplemented!()
    }
    /// Reads a document: mostly from memory, at worst one `pread`.
    pub fn read(&self, _index: IndexId, _key: &Key) -> Result<Option<Document>> {
        unimplemented!()
    }
    /// The version of a document, without reading it.
    pub fn version(&self, _index: IndexId, _key: &Key) -> Result<Option<Version>> {
        unimplemented!()
    }
    /// A page of documents. Reads many documents: in async code, call it on a blocking thread.
    pub fn scan(&self, _scan: &Scan) -> Result<Page> {
        unimplemented!()
    }
    /// The assignment held.
    pub fn assignment(&self) -> Option<Arc<Assignment>> {
        unimplemented!()
    }
    /// What is stored.
    pub fn stat(&self) -> Stat {
        unimplemented!()
    }
    /// Finishes queued commands, checkpoints and closes the files; later calls get `Closed`.
    /// Blocks. Returns `Poisoned` if the writer had stopped.
    pub fn close(&self) -> Result<()> {
        unimplemented!()
    }
}
