//! The index in memory while there is no space for it on the disk.
//!
//! On a full disk a segment comes back only behind a checkpoint, and a checkpoint of sled's may take
//! more space than there is. The index is derivable, so it need not be on the disk: parked, it takes
//! no space there, and gives back what sled took. Nothing of it survives the process, so an opening
//! rebuilds it from the log, unless it was put back on the disk before ([`Handle`](super::Handle)).

use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::RwLock;

use super::{Change, Entries, Entry, Index, IndexKey, LAST_KEY};
use crate::command::IndexId;
use crate::error::Result;
use crate::log::Lsn;

/// How many entries of a range are copied at a time: the checkpointer cannot put any meanwhile.
const ENTRIES_AT_A_TIME: usize = 256;

/// How many entries are copied from an index to another at a time.
const COPIED_AT_A_TIME: usize = 10_000;

type Table = BTreeMap<IndexKey, Entry>;

/// An index in memory alone.
#[derive(Default)]
pub(crate) struct ParkedIndex {
    tables: RwLock<BTreeMap<IndexId, Table>>,
    checkpoint: RwLock<Lsn>,
}

/// Copies all entries of an index into another, which is empty, and flushes it.
pub(crate) fn copy(from: &dyn Index, to: &dyn Index) -> Result<()> {
    for id in from.indexes()? {
        let mut all = from.range(id, Bound::Unbounded, &LAST_KEY)?;
        loop {
            let some = all.by_ref().take(COPIED_AT_A_TIME).collect::<Result<Vec<_>>>()?;
            if some.is_empty() {
                break;
            }
            to.apply(id, &mut some.iter().map(|(key, entry)| (key, Some(*entry))))?;
        }
    }
    to.flush(from.checkpoint()?)
}

impl ParkedIndex {
    /// The bytes of the keys, and how many there are.
    pub(crate) fn size(&self) -> (u64, u64) {
        let tables = self.tables.read();
        let keys = || tables.values().flat_map(BTreeMap::keys);
        (keys().map(|key| key.as_bytes().len() as u64).sum(), keys().count() as u64)
    }
}

impl Index for ParkedIndex {
    fn get(&self, index: IndexId, key: &[u8]) -> Result<Option<Entry>> {
        Ok(self.tables.read().get(&index).and_then(|table| table.get(key)).copied())
    }

    fn apply(&self, index: IndexId, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<()> {
        let mut tables = self.tables.write();
        let table = tables.entry(index).or_default();
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
        let mut from = from.map(<[u8]>::to_vec);
        let until = until.to_vec();
        let mut page = Vec::new().into_iter();
        let mut more = true;
        Ok(Box::new(std::iter::from_fn(move || {
            loop {
                if let Some(item) = page.next() {
                    return Some(Ok(item));
                }
                if !more {
                    return None;
                }
                let tables = self.tables.read();
                let start = from.as_ref().map(Vec::as_slice);
                let range = (start, Bound::Excluded(until.as_slice()));
                let table = tables.get(&index);
                let entries = table.map(|table| table.range::<[u8], _>(range));
                let copied: Vec<_> = entries
                    .into_iter()
                    .flatten()
                    .take(ENTRIES_AT_A_TIME)
                    .map(|(key, entry)| (key.clone(), *entry))
                    .collect();
                more = copied.len() == ENTRIES_AT_A_TIME;
                if let Some((last, _)) = copied.last() {
                    from = Bound::Excluded(last.as_bytes().to_vec());
                }
                page = copied.into_iter();
            }
        })))
    }

    fn drop_index(&self, index: IndexId) -> Result<()> {
        self.tables.write().remove(&index);
        Ok(())
    }

    fn indexes(&self) -> Result<Vec<IndexId>> {
        Ok(self.tables.read().keys().copied().collect())
    }

    fn flush(&self, checkpoint: Lsn) -> Result<()> {
        *self.checkpoint.write() = checkpoint;
        Ok(())
    }

    fn checkpoint(&self) -> Result<Lsn> {
        Ok(*self.checkpoint.read())
    }

    fn bytes_on_disk(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_whole_however_long_it_is() {
        let index = ParkedIndex::default();
        let keys: Vec<_> = (0..1000u32).map(|position| IndexKey::new(position, b"key")).collect();
        let entries = (1..).map(|version| Some(Entry::of_version(version)));
        index.apply(7, &mut keys.iter().zip(entries)).unwrap();
        let range = |from, until: &IndexKey| -> Vec<_> {
            let range = index.range(7, from, until.as_bytes()).unwrap();
            range.map(|item| item.unwrap().0.position()).collect()
        };
        let last = IndexKey::new(u32::MAX, b"key");
        assert_eq!(range(Bound::Unbounded, &last), (0..1000).collect::<Vec<_>>());
        let from = Bound::Excluded(keys[10].as_bytes());
        assert_eq!(range(from, &keys[700]), (11..700).collect::<Vec<_>>());
        let copy_of = ParkedIndex::default();
        copy(&index, &copy_of).unwrap();
        assert_eq!(copy_of.size(), (7 * 1000, 1000));
    }
}
