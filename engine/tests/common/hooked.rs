//! An index that a test watches, lets fail or has something happen in when it is asked.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this module")]

use std::ops::Bound;
use std::sync::Arc;

use sherd_engine::index::{Change, Entries, Entry, Index, IndexStore};
use sherd_engine::{IndexId, Result};

/// What is asked of an index, or of its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Open,
    /// Set aside, or discarded.
    SetAside,
    Get,
    /// One change: those that come together are made one by one.
    Change,
    Range,
    DropIndex,
    Flush,
}

/// What happens when an index is asked something.
pub trait Hooks: Send + Sync + 'static {
    /// Before it is done. Where this fails it is not done.
    fn before(&self, _call: Call) -> Result<()> {
        Ok(())
    }

    /// After it was done.
    fn after(&self, _call: Call) {}
}

/// A store with hooks, and the index in it.
pub struct Hooked<S, H> {
    pub store: S,
    pub hooks: Arc<H>,
}

impl<S: Clone, H> Clone for Hooked<S, H> {
    fn clone(&self) -> Self {
        Self { store: self.store.clone(), hooks: Arc::clone(&self.hooks) }
    }
}

impl<S, H> Hooked<S, H> {
    pub fn over(store: S, hooks: H) -> Self {
        Self { store, hooks: Arc::new(hooks) }
    }
}

impl<S: IndexStore + Clone + 'static, H: Hooks> IndexStore for Hooked<S, H> {
    fn open(&self) -> Result<Arc<dyn Index>> {
        self.hooks.before(Call::Open)?;
        let index = self.store.open()?;
        self.hooks.after(Call::Open);
        Ok(Arc::new(HookedIndex { index, hooks: Arc::clone(&self.hooks) }))
    }

    fn share(&self) -> Arc<dyn IndexStore> {
        Arc::new(self.clone())
    }

    fn remove_unfinished(&self) -> Result<()> {
        self.store.remove_unfinished()
    }

    fn set_aside(&self) -> Result<()> {
        self.hooks.before(Call::SetAside)?;
        self.store.set_aside()?;
        self.hooks.after(Call::SetAside);
        Ok(())
    }

    fn discard(&self) -> Result<()> {
        self.hooks.before(Call::SetAside)?;
        self.store.discard()?;
        self.hooks.after(Call::SetAside);
        Ok(())
    }
}

struct HookedIndex<H> {
    index: Arc<dyn Index>,
    hooks: Arc<H>,
}

impl<H: Hooks> Index for HookedIndex<H> {
    fn get(&self, index: IndexId, key: &[u8]) -> Result<Option<Entry>> {
        self.hooks.before(Call::Get)?;
        let found = self.index.get(index, key)?;
        self.hooks.after(Call::Get);
        Ok(found)
    }

    fn apply(&self, index: IndexId, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<()> {
        for (key, entry) in changes {
            self.hooks.before(Call::Change)?;
            self.index.put(index, key, entry.as_ref())?;
            self.hooks.after(Call::Change);
        }
        Ok(())
    }

    fn range<'a>(
        &'a self,
        index: IndexId,
        from: Bound<&[u8]>,
        until: &[u8],
    ) -> Result<Entries<'a>> {
        self.hooks.before(Call::Range)?;
        let entries = self.index.range(index, from, until)?;
        self.hooks.after(Call::Range);
        Ok(entries)
    }

    fn drop_index(&self, index: IndexId) -> Result<()> {
        self.hooks.before(Call::DropIndex)?;
        self.index.drop_index(index)?;
        self.hooks.after(Call::DropIndex);
        Ok(())
    }

    fn indexes(&self) -> Result<Vec<IndexId>> {
        self.index.indexes()
    }

    fn flush(&self, checkpoint: u64) -> Result<()> {
        self.hooks.before(Call::Flush)?;
        self.index.flush(checkpoint)?;
        self.hooks.after(Call::Flush);
        Ok(())
    }

    fn checkpoint(&self) -> Result<u64> {
        self.index.checkpoint()
    }

    fn bytes_on_disk(&self) -> u64 {
        self.index.bytes_on_disk()
    }
}
