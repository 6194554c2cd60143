//! Opening the index where there is hardly any space.
//!
//! sled writes when it is opened, a snapshot at least, and cannot be opened on a full disk. A shard
//! that was killed on one must start all the same, so that documents can be read and removed: what
//! can be spared is deleted first. Where that is not enough, recovery makes an index in memory that
//! stands in for it.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Index, IndexStore};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::space::Space;

/// What sled may need to be opened: a segment of its own, and a snapshot of some million keys.
const OPENING_BYTES: u64 = 2 * 1024 * 1024;

/// A store that makes space to open its index.
pub(crate) struct RoomyStore {
    store: Arc<dyn IndexStore>,
    space: Arc<Space>,
    fs: Arc<dyn Fs>,
    leftover: Leftover,
}

/// What is given up for space to open the index.
pub(crate) enum Leftover {
    /// This file, which nobody needs until the index is open, then the reserve.
    Given(PathBuf),
    /// The reserve.
    Used,
    /// Nothing: there is an index already, and this one is to replace it.
    Kept,
}

impl RoomyStore {
    pub(crate) fn new(
        store: Arc<dyn IndexStore>,
        space: Arc<Space>,
        fs: Arc<dyn Fs>,
        leftover: Leftover,
    ) -> Self {
        Self { store, space, fs, leftover }
    }
}

impl IndexStore for RoomyStore {
    /// # Errors
    /// [`Error::DiskFull`] before sled is asked: it may damage its own files when it meets a full
    /// disk on the way.
    fn open(&self) -> Result<Arc<dyn Index>> {
        let too_little = || self.space.free().filter(|&free| free < OPENING_BYTES);
        if too_little().is_some()
            && let Leftover::Given(path) = &self.leftover
        {
            _ = self.fs.remove(path);
        }
        if too_little().is_some() && !matches!(self.leftover, Leftover::Kept) {
            self.space.release("the index is opened on a full disk");
        }
        if let Some(free) = too_little() {
            let what = format!("{free} bytes are free, opening the index asks for {OPENING_BYTES}");
            return Err(Error::DiskFull { what: what.into() });
        }
        self.store.open()
    }

    fn share(&self) -> Arc<dyn IndexStore> {
        Arc::new(Self {
            store: Arc::clone(&self.store),
            space: Arc::clone(&self.space),
            fs: Arc::clone(&self.fs),
            leftover: Leftover::Used,
        })
    }

    fn remove_unfinished(&self) -> Result<()> {
        self.store.remove_unfinished()
    }

    fn set_aside(&self) -> Result<()> {
        self.store.set_aside()
    }

    fn discard(&self) -> Result<()> {
        self.store.discard()
    }
}
