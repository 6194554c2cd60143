//! Opening the index where there is hardly any space.
//!
//! sled writes when it is opened, a snapshot at least, and cannot be opened on a full disk. A shard
//! that was killed on one must start all the same, so that documents can be read and removed: what
//! can be spared is deleted first.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Index, IndexStore};
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::space::Space;

/// What sled may need to be opened: a segment of its own, and a snapshot of some million keys.
const OPENING_BYTES: u64 = 4 * 1024 * 1024;

/// A store that makes space to open its index.
pub(crate) struct RoomyStore {
    store: Arc<dyn IndexStore>,
    space: Arc<Space>,
    fs: Arc<dyn Fs>,
    /// A file that nobody needs until the index is open.
    leftover: Option<PathBuf>,
}

impl RoomyStore {
    pub(crate) fn new(
        store: Arc<dyn IndexStore>,
        space: Arc<Space>,
        fs: Arc<dyn Fs>,
        leftover: PathBuf,
    ) -> Self {
        Self { store, space, fs, leftover: Some(leftover) }
    }

    /// Whether a failure may be for want of space: not all that sled says of a full disk says so.
    fn is_for_want_of_space(&self, error: &Error) -> bool {
        matches!(error, Error::DiskFull { .. })
            || self.space.free().is_some_and(|free| free < OPENING_BYTES)
    }
}

impl IndexStore for RoomyStore {
    fn open(&self) -> Result<Arc<dyn Index>> {
        let make_way: [&dyn Fn() -> bool; 2] =
            [&|| self.leftover.as_ref().is_some_and(|path| self.fs.remove(path).is_ok()), &|| {
                self.space.release("the index is opened on a full disk")
            }];
        let mut opened = self.store.open();
        for make_way in make_way {
            match &opened {
                Err(error) if self.is_for_want_of_space(error) => {}
                _ => return opened,
            }
            if make_way() {
                opened = self.store.open();
            }
        }
        opened.map_err(|error| match self.space.free() {
            Some(free) if self.is_for_want_of_space(&error) => {
                let what = format!(
                    "the index cannot be opened with {free} bytes free, {OPENING_BYTES} should do \
                     ({error})"
                );
                Error::DiskFull { what: what.into() }
            }
            _ => error,
        })
    }

    fn share(&self) -> Arc<dyn IndexStore> {
        Arc::new(Self {
            store: Arc::clone(&self.store),
            space: Arc::clone(&self.space),
            fs: Arc::clone(&self.fs),
            leftover: None,
        })
    }

    fn set_aside(&self) -> Result<()> {
        self.store.set_aside()
    }
}
