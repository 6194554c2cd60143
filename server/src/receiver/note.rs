//! How far a move is, as the engine remembers it for the target: in one batch with what was brought.

use serde::{Deserialize, Serialize};
use sherd_protocol::message::{MoveProgress, TailCursor};

use super::source::Wanted;

/// The position and key of the document behind which a page of an index begins; `None` for its first page.
pub(super) type After = Option<(u32, String)>;

/// How far it is, as the engine remembers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// Where the log goes on.
    pub(super) tail: TailCursor,
    /// All indexes up to this id were read.
    pub(super) done: u32,
    /// The index that is being read, and from where on.
    pub(super) reading: Option<(u32, After)>,
    /// All indexes were.
    pub(super) copied: bool,
    /// What was brought.
    pub(super) documents: u64,
    pub(super) bytes: u64,
}

impl Note {
    /// What is to be asked for next; nothing where it is not known which index that is of.
    pub(super) fn wanted(&self) -> Option<Wanted> {
        if self.copied {
            return Some(Wanted::Tail(self.tail));
        }
        let (index, after) = self.reading.clone()?;
        Some(Wanted::Page { index, after, hold: self.tail })
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        rmp_serde::from_slice(bytes).ok()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // A plain structure into memory: there is nothing to fail.
        rmp_serde::to_vec_named(self).unwrap_or_default()
    }

    pub(super) fn progress(&self, id: &str) -> MoveProgress {
        let Self { copied, documents, bytes, .. } = *self;
        MoveProgress { id: id.to_owned(), copied, documents, bytes, ..MoveProgress::default() }
    }
}
