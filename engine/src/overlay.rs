//! The overlay: published effects that the index does not hold yet.
//!
//! Two generations. New effects go to the *active* one; a checkpoint freezes it, drains the
//! *frozen* one into the index while a new active one fills, and drops it. A look-up asks active,
//! then frozen, then the index.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::command::IndexId;
use crate::hash::FastMap;
use crate::index::{Entry, IndexKey};

/// The latest entries of keys; `None` for a key that was removed.
pub(crate) type Table = BTreeMap<IndexKey, Option<Entry>>;

// A node of a table's tree has eleven of each: what a `u128` among them would add is a fifth of the overlay's memory.
const _: () = assert!(size_of::<(IndexKey, Option<Entry>)>() <= 88);

/// Effects between two checkpoints.
#[derive(Default)]
pub(crate) struct Generation {
    pub(crate) tables: FastMap<IndexId, Table>,
    /// Indexes that were dropped and whose tables in the index are to go.
    pub(crate) dropped: Vec<IndexId>,
    /// How many keys the tables have.
    pub(crate) keys: usize,
    /// Their bytes, those of tables that were dropped included.
    pub(crate) key_bytes: usize,
}

/// Published effects that the index does not hold yet.
#[derive(Default)]
pub(crate) struct Overlay {
    pub(crate) active: Generation,
    pub(crate) frozen: Option<Arc<Generation>>,
    /// Counts the drops of frozen generations; see [`crate::cache`].
    pub(crate) drops: u64,
}

impl Overlay {
    /// What is known of a key: `None` to ask the index, `Some(None)` when it was removed.
    pub(crate) fn get(&self, index: IndexId, key: &IndexKey) -> Option<Option<Entry>> {
        let frozen = self.frozen.as_deref();
        [Some(&self.active), frozen]
            .into_iter()
            .flatten()
            .find_map(|generation| generation.tables.get(&index)?.get(key).copied())
    }

    pub(crate) fn put(&mut self, index: IndexId, key: IndexKey, entry: Option<Entry>) {
        let key_bytes = key.as_bytes().len();
        let new = self.active.tables.entry(index).or_default().insert(key, entry).is_none();
        if new {
            self.active.keys += 1;
            self.active.key_bytes += key_bytes;
        }
    }

    /// Forgets an index. Ids are never given again, so the frozen generation may keep its own.
    pub(crate) fn drop_index(&mut self, index: IndexId) {
        let table = self.active.tables.remove(&index);
        self.active.keys -= table.map_or(0, |table| table.len());
        self.active.dropped.push(index);
    }

    /// The known keys of an index between two, the second excluded, newest generation first.
    pub(crate) fn ranges<'a>(
        &'a self,
        index: IndexId,
        from: Bound<&'a [u8]>,
        until: &'a [u8],
    ) -> impl Iterator<Item = impl Iterator<Item = (&'a IndexKey, &'a Option<Entry>)>> {
        let from = from.map(IndexKey::bound);
        let generations = [Some(&self.active), self.frozen.as_deref()];
        generations
            .into_iter()
            .flatten()
            .filter_map(move |generation| generation.tables.get(&index))
            // That the end is told by looking is cheaper than to look for it as well.
            .map(move |table| {
                let range = table.range((from.clone(), Bound::Unbounded));
                range.take_while(move |(key, _)| key.as_bytes() < until)
            })
    }

    /// Makes the active generation the frozen one. There must be no frozen one.
    pub(crate) fn freeze(&mut self) -> Arc<Generation> {
        debug_assert!(self.frozen.is_none());
        let generation = Arc::new(std::mem::take(&mut self.active));
        self.frozen = Some(Arc::clone(&generation));
        generation
    }
}

impl Generation {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys == 0 && self.dropped.is_empty()
    }
}
