//! The engine's one error type.

use std::path::PathBuf;
use std::sync::Arc;

use rustix::io::Errno;
use thiserror::Error as ThisError;

use crate::command::IndexId;

/// Why the engine refused or failed.
#[derive(Clone, Debug, ThisError)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("index {0} does not exist")]
    IndexNotFound(IndexId),
    #[error("index {name:?} exists with id {id}")]
    IndexExists { id: IndexId, name: String },
    #[error("index {name:?} is to have id {id}, which an index had before")]
    IndexIdUsed { id: IndexId, name: String },
    #[error("{used} of {limit} bytes are used and {needed} more are needed")]
    QuotaExceeded { used: u64, limit: u64, needed: u64 },
    /// A limit of the index is met.
    #[error("{used} of {limit} {what} of index {id} are used and {needed} more are needed")]
    IndexFull { id: IndexId, what: &'static str, used: u64, limit: u64, needed: u64 },
    /// Nothing has changed, and it may be tried again.
    #[error("documents are still being evicted for another limit that was lowered; try again")]
    LoweringAnother,
    /// The position is outside the owned ranges of the assignment of `epoch`; 0 without one.
    #[error("the key is outside the ranges owned at epoch {epoch}")]
    WrongShard { epoch: u64 },
    #[error("locked by {owner:?}")]
    Locked { owner: String },
    #[error("{what} has {size} bytes, the limit is {limit}")]
    TooLarge { what: &'static str, size: u64, limit: u64 },
    #[error(
        "the assignment of epoch {offered} is older than that of epoch {held}, which is held, or of another history"
    )]
    StaleEpoch { offered: u64, held: u64 },
    #[error(
        "this is shard {name:?} of cluster {held}; the assignment is for {offered_name:?} of {offered}"
    )]
    WrongCluster { held: String, name: String, offered: String, offered_name: String },
    /// The assignment takes back a range that was given up before, and a document of that time is
    /// still there.
    #[error(
        "documents at position {position}, which the shard had given up, are still being removed; try again"
    )]
    NotCleared { position: u32 },
    /// For a moment; nothing has changed, and it may be tried again.
    #[error("the key's range is being handed over to another shard; try again")]
    Frozen,
    /// The range may have changed since whoever takes it over read it: it is not given up.
    #[error("the range is not frozen for the move {id}, or not any more")]
    NotFrozen { id: String },
    #[error("documents of another move, {id}, are being taken over")]
    Receiving { id: String },
    #[error("nothing is being taken over for the move {id}")]
    NotReceiving { id: String },
    #[error("a part of what the move {id} is to bring is owned already")]
    Owned { id: String },
    #[error("a document has the version {version}, which no log comes to")]
    ImpossibleVersion { version: u64 },
    /// Compaction has deleted what was asked for.
    #[error("the log has not all of what came after LSN {after} any more")]
    LogGone { after: u64 },
    /// It was let go: nobody read from it for long, or the disk is full.
    #[error("the cut {id} is not held any more; take another")]
    CutGone { id: u64 },
    #[error("segment {segment} is not in the cut")]
    NotInCut { segment: u32 },
    /// Each is let go a minute after it was read from last.
    #[error("{limit} cuts are held already; try again")]
    TooManyCuts { limit: usize },
    /// A write or a sync failed. Nothing more is written until the directory is opened anew.
    #[error("writing stopped: {reason}")]
    Poisoned { reason: Arc<str> },
    /// A write to the log or its sync failed under this command: whether it will be there after a
    /// restart is not known.
    #[error("whether it happened is unknown: {reason}")]
    OutcomeUnknown { reason: Arc<str> },
    #[error("the disk is full: {what}")]
    DiskFull { what: Arc<str> },
    /// Nothing has changed, and it may be tried again.
    #[error("too many files are open: {what}")]
    NoDescriptors { what: Arc<str> },
    /// Bytes that were durable have changed.
    #[error("{} is damaged at offset {offset}: {what}", file.display())]
    Corrupt { file: PathBuf, offset: u64, what: Arc<str> },
    #[error("the data directory {} is in use by another process", dir.display())]
    InUse { dir: PathBuf },
    #[error("{}: format version {found} is not known here, {known} is", file.display())]
    UnknownFormat { file: PathBuf, found: u32, known: u32 },
    #[error("{what} ({}): {error}", file.display())]
    Io { what: &'static str, file: PathBuf, error: Arc<std::io::Error> },
    /// sled failed or panicked; the log is not concerned, and the index is opened again, or rebuilt
    /// at the next opening. Also where it was opened again and only a rebuild helps.
    #[error("the index failed: {0}")]
    Index(Arc<str>),
    /// The index failed and is being opened again, which takes seconds. Nothing has changed, and it
    /// may be tried again.
    #[error("the index is closed for the moment: {why}")]
    IndexClosed { why: Arc<str> },
    #[error("the engine is closed")]
    Closed,
}

/// What the engine's functions return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Damage to bytes that were durable.
    pub(crate) fn corrupt(file: impl Into<PathBuf>, offset: usize, what: &str) -> Self {
        Self::Corrupt { file: file.into(), offset: offset as u64, what: what.into() }
    }

    /// An I/O error: what was being done to which file.
    pub(crate) fn io(what: &'static str, file: impl Into<PathBuf>, error: std::io::Error) -> Self {
        let file = file.into();
        let what_file = || format!("{what} ({})", file.display()).into();
        if Self::is_full(&error) {
            Self::DiskFull { what: what_file() }
        } else if Self::is_out_of_descriptors(&error) {
            Self::NoDescriptors { what: what_file() }
        } else {
            Self::failed(what, file, error)
        }
    }

    /// Whether there was no space.
    pub(crate) fn is_full(error: &std::io::Error) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(error.kind(), StorageFull | QuotaExceeded)
    }

    /// Whether the process, or the machine, has too many files open.
    pub(crate) fn is_out_of_descriptors(error: &std::io::Error) -> bool {
        let errors = [Errno::MFILE, Errno::NFILE].map(|errno| Some(errno.raw_os_error()));
        errors.contains(&error.raw_os_error())
    }

    /// For a read. What it is refused for want of space is the index, which met a full disk in a
    /// checkpoint and is about to be closed.
    pub(crate) fn of_a_read(self) -> Self {
        match self {
            Self::DiskFull { what } => Self::IndexClosed { why: what },
            error => error,
        }
    }

    /// An I/O error of any kind, a full disk included, where it must not be taken lightly.
    pub(crate) fn failed(
        what: &'static str,
        file: impl Into<PathBuf>,
        error: std::io::Error,
    ) -> Self {
        Self::Io { what, file: file.into(), error: Arc::new(error) }
    }
}

/// For tests and for outcomes that hold an error: equal when they say the same.
impl PartialEq for Error {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}
