//! The index in memory, for tests: forgets at a crash what was not flushed.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use parking_lot::RwLock;

use super::{Change, Entries, Entry, Index, IndexKey, IndexStore};
use crate::command::IndexId;
use crate::error::Result;
use crate::log::Lsn;

type Tables = BTreeMap<IndexId, BTreeMap<IndexKey, Entry>>;

/// An index in memory. Clones share it, so that it outlives the engine that opened it.
#[derive(Clone, Default)]
pub struct MemoryStore(Arc<RwLock<State>>);

#[derive(Default)]
struct State {
    visible: (Lsn, Tables),
    durable: (Lsn, Tables),
}

impl MemoryStore {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// The entries as they are.
    pub fn snapshot(&self) -> Self {
        let state = self.0.read();
        let copy = State { visible: state.visible.clone(), durable: state.durable.clone() };
        Self(Arc::new(RwLock::new(copy)))
    }

    /// Goes back to older entries without saying so: an index that lost writes unnoticed.
    pub fn restore_entries(&self, older: &Self) {
        let older = older.0.read();
        let mut state = self.0.write();
        state.visible.1 = older.visible.1.clone();
        state.durable.1 = older.durable.1.clone();
    }

    /// Goes back, without saying so, to what another index has under the keys for which `takes`
    /// says so, be it an older entry or none.
    pub fn mix(&self, other: &Self, mut takes: impl FnMut() -> bool) {
        let other = other.0.read().visible.1.clone();
        let mut state = self.0.write();
        let mut mixed = state.visible.1.clone();
        for (index, table) in &mut mixed {
            let others = other.get(index);
            table.retain(|key, entry| {
                if takes() {
                    match others.and_then(|table| table.get(key)) {
                        Some(other) => *entry = *other,
                        None => return false,
                    }
                }
                true
            });
        }
        state.visible.1 = mixed.clone();
        state.durable.1 = mixed;
    }

    /// Forgets what was put since the last flush, or, where `unflushed` says so, keeps it: sled
    /// may do either.
    pub fn crash(&self, unflushed: bool) {
        let mut state = self.0.write();
        if unflushed {
            state.visible.0 = state.durable.0;
        } else {
            state.visible = state.durable.clone();
        }
    }
}

impl IndexStore for MemoryStore {
    fn open(&self) -> Result<Arc<dyn Index>> {
        Ok(Arc::new(self.clone()))
    }

    fn share(&self) -> Arc<dyn IndexStore> {
        Arc::new(self.clone())
    }

    fn set_aside(&self) -> Result<()> {
        self.discard()
    }

    fn discard(&self) -> Result<()> {
        *self.0.write() = State::default();
        Ok(())
    }
}

impl Index for MemoryStore {
    fn get(&self, index: IndexId, key: &[u8]) -> Result<Option<Entry>> {
        let state = self.0.read();
        Ok(state.visible.1.get(&index).and_then(|table| table.get(key)).copied())
    }

    fn apply(&self, index: IndexId, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<()> {
        let mut state = self.0.write();
        let table = state.visible.1.entry(index).or_default();
        for (key, entry) in changes {
            match entry {
                Some(entry) => _ = table.insert(key.clone(), entry),
                None => _ = table.remove(key),
            }
        }
        Ok(())
    }

    fn range<'a>(
        &'a self,
        index: IndexId,
        from: Bound<&[u8]>,
        until: &[u8],
    ) -> Result<Entries<'a>> {
        let state = self.0.read();
        let table = state.visible.1.get(&index);
        let range = table.map(|table| table.range::<[u8], _>((from, Bound::Excluded(until))));
        let entries: Vec<_> =
            range.into_iter().flatten().map(|(key, entry)| Ok((key.clone(), *entry))).collect();
        Ok(Box::new(entries.into_iter()))
    }

    fn drop_index(&self, index: IndexId) -> Result<()> {
        self.0.write().visible.1.remove(&index);
        Ok(())
    }

    fn indexes(&self) -> Result<Vec<IndexId>> {
        Ok(self.0.read().visible.1.keys().copied().collect())
    }

    fn flush(&self, checkpoint: Lsn) -> Result<()> {
        let mut state = self.0.write();
        state.visible.0 = checkpoint;
        state.durable = state.visible.clone();
        Ok(())
    }

    fn checkpoint(&self) -> Result<Lsn> {
        Ok(self.0.read().visible.0)
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }
}
