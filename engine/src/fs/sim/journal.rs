//! The journal: everything that was asked of a simulated filesystem, in order.

use std::path::Path;
use std::sync::Arc;

/// Stands for a file, whatever its names.
pub type FileId = u32;

/// What changed a simulated filesystem, or made a change durable.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are the operation's arguments")]
pub enum Event {
    /// A directory was made.
    MakeDir { path: Arc<Path> },
    /// A file was created under a name.
    Create { path: Arc<Path>, file: FileId },
    /// Bytes were written.
    Write { file: FileId, offset: usize, bytes: Arc<[u8]> },
    /// A file was cut or extended with zeros.
    SetLength { file: FileId, length: usize },
    /// A name became another.
    Rename { from: Arc<Path>, to: Arc<Path> },
    /// A name was removed.
    Remove { path: Arc<Path> },
    /// A file was synced, or its sync failed.
    SyncFile { file: FileId, failed: bool },
    /// A directory was synced.
    SyncDir { dir: Arc<Path> },
    /// Durable bytes were replaced, as damage would.
    Damage { file: FileId, bytes: Arc<[u8]> },
    /// A test noted something here.
    Mark(u64),
}

/// An event and who brought it about.
#[derive(Clone, Debug)]
pub struct Step {
    /// The name of the thread.
    pub thread: Arc<str>,
    /// What it did.
    pub event: Event,
}

impl Event {
    /// The file that the event is on.
    pub fn file(&self) -> Option<FileId> {
        match self {
            Self::Create { file, .. }
            | Self::Write { file, .. }
            | Self::SetLength { file, .. }
            | Self::SyncFile { file, .. }
            | Self::Damage { file, .. } => Some(*file),
            _ => None,
        }
    }
}
