//! A table of the index: blocks in a tree of sled's.
//!
//! A block lies under its *fence*: it has the keys from there to the next fence. What else it holds,
//! from the next fence on, does not count: so a block is split by putting the right part under a
//! fence of its own, and then the left part alone; and merged by putting both under the left fence,
//! and then removing the right one. Wherever sled comes back to after a crash, each key is in one
//! block, and none is lost. A fence is never removed but so: what did not count before it would.
//!
//! The fences are in memory as well, for a look-up to find the block: some 120 bytes each, more where
//! keys at one position begin alike. So are the blocks that were asked for or written, as far as there is
//! [`Room`]: sled's way to a block takes longer than all else of a look-up. It is the same memory, as long as sled
//! has the block in its own cache.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::mem;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use sled::IVec;

use super::pacing::PacedTree;
use crate::error::{Error, Result};
use crate::index::block::{self, Item};
use crate::index::key::Head;
use crate::index::{Change, Entry, IndexKey};

/// A longer block is split, unless it is of a single entry. sled logs a block with each change of
/// it, and about every tenth time the some twelve that are on a page with it.
const MAX_BLOCK_BYTES: usize = 1024;

/// What the parts of a block that is split have about.
const SPLIT_BLOCK_BYTES: usize = MAX_BLOCK_BYTES * 3 / 4;

/// A shorter block is merged with the next one.
const MIN_BLOCK_BYTES: usize = MAX_BLOCK_BYTES / 4;

/// How many changes are made of a block at a time, which bounds the memory.
const MERGED_AT_A_TIME: usize = 10_000;

/// How many blocks are merged at a time.
const ABSORBED_AT_A_TIME: usize = 32;

/// Before every key.
const FIRST_FENCE: &[u8] = &[0];

/// Where blocks are kept by their fences. What was done last may be undone by a crash, and what
/// before it as well, but never only what was done before.
pub(super) trait Blocks {
    fn get(&self, fence: &[u8]) -> Result<Option<IVec>>;
    /// `is_next` says that the last write was of a block beside it, on either side.
    fn insert(&self, fence: &[u8], block: IVec, is_next: bool) -> Result<()>;
    /// Of a block beside the one that was written last.
    fn remove(&self, fence: &[u8]) -> Result<()>;
    fn fences(&self) -> Result<Vec<IVec>>;
}

/// Where a block begins. As of a key, the first bytes are there as numbers, which tell nearly all apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Fence {
    head: Head,
    bytes: IVec,
}

impl Fence {
    fn new(bytes: impl Into<IVec>) -> Self {
        let bytes = bytes.into();
        Self { head: Head::of(&bytes), bytes }
    }
}

/// For how many bytes of blocks there is room in memory, of all tables together.
#[derive(Clone)]
pub(super) struct Room {
    left: Arc<AtomicU64>,
}

impl Room {
    pub(super) fn new(bytes: u64) -> Self {
        Self { left: Arc::new(AtomicU64::new(bytes)) }
    }

    /// Whether most blocks would be too much.
    fn is_full(&self) -> bool {
        self.left.load(Ordering::Relaxed) < MAX_BLOCK_BYTES as u64
    }

    /// Takes the room of a block, if there is as much.
    fn hold(&self, block: IVec) -> Option<Held> {
        let take = |left: u64| left.checked_sub(block.len() as u64);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).ok()?;
        Some(Held { block, room: self.clone() })
    }
}

/// A block in memory.
struct Held {
    block: IVec,
    room: Room,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.left.fetch_add(self.block.len() as u64, Ordering::Relaxed);
    }
}

/// The block of a fence, if it is held. Whoever reads it from sled to hold it keeps this locked meanwhile, and
/// whoever writes it to sled puts it here afterwards: so it is never an older one that stays.
type Slot = Mutex<Option<Held>>;

/// Blocks in a tree of sled's.
pub(super) struct Table<B = PacedTree> {
    blocks: B,
    /// Written by the one who applies changes, which is one thread at a time.
    fences: RwLock<BTreeMap<Fence, Slot>>,
    room: Room,
}

impl<B: Blocks> Table<B> {
    pub(super) fn open(blocks: B, room: Room) -> Result<Self> {
        let fences = blocks.fences()?.into_iter().map(|fence| (Fence::new(fence), Slot::default()));
        Ok(Self { fences: RwLock::new(fences.collect()), blocks, room })
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Entry>> {
        // Held while the block is read: it is that of the fence.
        let fences = self.fences.read();
        let Some(fence) = before(&fences, &Fence::new(key)) else { return Ok(None) };
        block::find(&self.block(fence)?, key)
    }

    /// The entries of keys in their order; each block is read once.
    pub(super) fn get_all(&self, keys: &[&IndexKey]) -> Result<Vec<Option<Entry>>> {
        let mut found = Vec::with_capacity(keys.len());
        while let Some(first) = keys.get(found.len()) {
            // Held while the block is read: it is that of the fence.
            let fences = self.fences.read();
            let first = Fence::new(first.as_bytes());
            let next = after(&fences, &first).map(|next| next.bytes.as_ref());
            let is_here = |key: &&IndexKey| next.is_none_or(|next| key.as_bytes() < next);
            let here = &keys[found.len()..];
            let here = &here[..here.partition_point(is_here).max(1)];
            match before(&fences, &first) {
                Some(fence) => block::find_all(&self.block(fence)?, here, &mut found)?,
                None => found.resize(found.len() + here.len(), None),
            }
        }
        Ok(found)
    }

    /// The entries from a key on, as far as the block with them goes; and where the next begins, if
    /// that is before `until`.
    pub(super) fn page(
        &self,
        from: Bound<&[u8]>,
        until: &[u8],
    ) -> Result<(Vec<Item>, Option<IVec>)> {
        let fences = self.fences.read();
        let first = match from {
            Bound::Included(key) | Bound::Excluded(key) => key,
            Bound::Unbounded => FIRST_FENCE,
        };
        let first = Fence::new(first);
        let next = after(&fences, &first).map(|next| &next.bytes);
        let next = next.filter(|next| next.as_ref() < until);
        let Some(fence) = before(&fences, &first) else {
            return Ok((Vec::new(), next.cloned()));
        };
        let end = next.map_or(until, AsRef::as_ref);
        Ok((block::items(&self.block(fence)?, from, Some(end))?, next.cloned()))
    }

    /// Makes changes, which are in key order. Readers see each change done or not done, and all
    /// other entries all the while.
    pub(super) fn apply(&self, changes: &mut dyn Iterator<Item = Change<'_>>) -> Result<()> {
        let mut changes = changes.peekable();
        let mut next = None;
        while let Some(&(key, _)) = changes.peek() {
            next = self.apply_to_block(key, &mut changes, next.as_ref())?;
        }
        Ok(())
    }

    /// Removes what there is beyond so many blocks, of a table that is about to be dropped and that nobody is to read:
    /// whoever does meets an error. Returns how many are left.
    pub(super) fn remove_beyond(&self, most: usize) -> Result<usize> {
        let beyond: Vec<_> = self.fences.read().keys().skip(most).cloned().collect();
        beyond.iter().try_for_each(|fence| self.blocks.remove(&fence.bytes))?;
        Ok(self.fences.read().len() - beyond.len())
    }

    /// Makes the changes of the block that has `key`, the first one's; and of those after it as long
    /// as what is left of the block is short. `last` is the fence behind the block that was changed last; returns
    /// that behind this one.
    fn apply_to_block<'a>(
        &self,
        key: &IndexKey,
        changes: &mut Peekable<impl Iterator<Item = Change<'a>>>,
        last: Option<&Fence>,
    ) -> Result<Option<Fence>> {
        let (fence, mut old, mut next) = self.locate(&Fence::new(key.as_bytes()))?;
        let mut is_next = last == Some(&fence);
        let mut absorbed = Vec::new();
        loop {
            let whole = block::merge(
                &old,
                next.as_ref().map(|next| next.bytes.as_ref()),
                changes,
                MERGED_AT_A_TIME,
            )?;
            let beyond = next.take_if(|_| whole.len() < MIN_BLOCK_BYTES);
            let Some(beyond) = beyond else {
                self.replace(&fence, &absorbed, whole, is_next)?;
                return Ok(next);
            };
            if absorbed.len() == ABSORBED_AT_A_TIME {
                self.replace(&fence, &mem::take(&mut absorbed), whole.clone(), is_next)?;
                is_next = true;
            }
            let (_, more, beyond_it) = self.locate(&beyond)?;
            next = beyond_it;
            let until = next.as_ref().map(|next| next.bytes.as_ref());
            let more = block::items(&more, Bound::Unbounded, until)?;
            let mut items = block::items(&whole, Bound::Unbounded, None)?;
            items.extend(more);
            old = block::encode(&items).into();
            absorbed.push(beyond);
        }
    }

    /// The block that has a key, under its fence, and the fence after it. Where there is none yet it is
    /// empty, under the first fence.
    fn locate(&self, key: &Fence) -> Result<(Fence, IVec, Option<Fence>)> {
        // Held while the block is read: it is that of the fence.
        let fences = self.fences.read();
        let (fence, block) = match before(&fences, key) {
            Some(found) => (found.0.clone(), self.block(found)?),
            None => (Fence::new(FIRST_FENCE), IVec::default()),
        };
        Ok((fence, block, after(&fences, key).cloned()))
    }

    /// The block under a fence.
    fn block(&self, (fence, slot): (&Fence, &Slot)) -> Result<IVec> {
        let mut slot = slot.lock();
        if let Some(held) = &*slot {
            return Ok(held.block.clone());
        }
        let read = || {
            let missing = || Error::Index("a block that there was is missing".into());
            self.blocks.get(&fence.bytes)?.ok_or_else(missing)
        };
        if self.room.is_full() {
            // Others may read it at the same time.
            drop(slot);
            return read();
        }
        let block = read()?;
        *slot = self.room.hold(block.clone());
        Ok(block)
    }

    /// Puts a block, or several where it is too long, in the place of one and of those after it that
    /// were absorbed.
    fn replace(
        &self,
        fence: &Fence,
        absorbed: &[Fence],
        whole: Vec<u8>,
        mut is_next: bool,
    ) -> Result<()> {
        let blocks = if whole.len() <= MAX_BLOCK_BYTES {
            vec![(fence.clone(), whole)]
        } else {
            split(fence, &block::items(&whole, Bound::Unbounded, None)?)
        };
        let kept: BTreeSet<Fence> = blocks.iter().map(|(fence, _)| fence.clone()).collect();
        for (fence, block) in blocks.into_iter().rev() {
            self.put(fence, block.into(), is_next)?;
            is_next = true;
        }
        for fence in absorbed.iter().filter(|fence| !kept.contains(*fence)) {
            self.fences.write().remove(fence);
            self.blocks.remove(&fence.bytes)?;
        }
        Ok(())
    }

    /// Puts a block under its fence. sled may take its time: the fences are locked for themselves alone. Between
    /// any two steps each fence that there is has its keys up to the next one.
    fn put(&self, fence: Fence, block: IVec, is_next: bool) -> Result<()> {
        self.blocks.insert(&fence.bytes, block.clone(), is_next)?;
        if let Some(slot) = self.fences.read().get(&fence) {
            let mut slot = slot.lock();
            // Its room first.
            *slot = None;
            *slot = self.room.hold(block);
            return Ok(());
        }
        self.fences.write().insert(fence, Mutex::new(self.room.hold(block)));
        Ok(())
    }
}

/// Entries as several blocks, the first under the fence that there is.
fn split(fence: &Fence, items: &[Item]) -> Vec<(Fence, Vec<u8>)> {
    let mut blocks: Vec<(Fence, Vec<u8>)> = Vec::new();
    let mut first = 0;
    for (count, block) in block::split(items, SPLIT_BLOCK_BYTES) {
        let fence = match first {
            0 => fence.clone(),
            first => Fence::new(block::separator(&items[first - 1].0, &items[first].0)),
        };
        blocks.push((fence, block));
        first += count;
    }
    blocks
}

/// The fence of the block that has a key, which is given as a fence would be.
fn before<'a>(fences: &'a BTreeMap<Fence, Slot>, key: &Fence) -> Option<(&'a Fence, &'a Slot)> {
    fences.range((Bound::Unbounded, Bound::Included(key))).next_back()
}

/// The fence after a key.
fn after<'a>(fences: &'a BTreeMap<Fence, Slot>, key: &Fence) -> Option<&'a Fence> {
    fences.range((Bound::Excluded(key), Bound::Unbounded)).next().map(|(fence, _)| fence)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::collections::BTreeMap;

    use super::*;

    type Model = BTreeMap<IndexKey, Entry>;

    /// Blocks in memory, of which only so many writes more succeed.
    #[derive(Clone, Default)]
    struct Cut {
        blocks: RefCell<BTreeMap<IVec, IVec>>,
        writes: Cell<usize>,
    }

    impl Cut {
        fn write(&self) -> Result<()> {
            let left = self.writes.get().checked_sub(1).ok_or(Error::Closed)?;
            self.writes.set(left);
            Ok(())
        }
    }

    impl Blocks for Cut {
        fn get(&self, fence: &[u8]) -> Result<Option<IVec>> {
            Ok(self.blocks.borrow().get(fence).cloned())
        }

        fn insert(&self, fence: &[u8], block: IVec, _is_next: bool) -> Result<()> {
            self.write()?;
            self.blocks.borrow_mut().insert(fence.into(), block);
            Ok(())
        }

        fn remove(&self, fence: &[u8]) -> Result<()> {
            self.write()?;
            self.blocks.borrow_mut().remove(fence);
            Ok(())
        }

        fn fences(&self) -> Result<Vec<IVec>> {
            Ok(self.blocks.borrow().keys().cloned().collect())
        }
    }

    fn contents<B: Blocks>(table: &Table<B>) -> Model {
        let mut found = Model::new();
        let mut from = Some(IVec::from(&[0]));
        while let Some(fence) = from {
            let (items, next) = table.page(Bound::Included(&fence), &[0xff; 8]).unwrap();
            for (key, entry) in items {
                assert!(found.last_key_value().is_none_or(|(last, _)| *last < key), "{key:?}");
                assert_eq!(table.get(key.as_bytes()).unwrap(), Some(entry));
                found.insert(key, entry);
            }
            from = next;
        }
        found
    }

    /// Changes of keys of which many share a position; sometimes nearly all are removed.
    fn random_changes(
        rng: &mut fastrand::Rng,
        model: &Model,
        version: u64,
    ) -> BTreeMap<IndexKey, Option<Entry>> {
        let mut changes = BTreeMap::new();
        if rng.u8(..) < 40 {
            let (from, until) = (rng.u32(..300), rng.u32(..300));
            let gone = model.keys().filter(|key| (from..until).contains(&key.position()));
            changes.extend(gone.map(|key| (key.clone(), None)));
        }
        for _ in 0..rng.usize(1..200) {
            let length = if rng.u8(..) < 3 { 900 } else { 0 };
            let name = format!("key-{}{}", rng.u32(..8), "x".repeat(length));
            let entry = Entry {
                segment: rng.u32(1..200),
                offset: rng.u32(8..100_000) * 8,
                first_segment: 1,
                bytes: rng.u32(..2000),
                version,
                expires_at: 0,
                content_hash: rng.u128(..).into(),
            };
            let entry = (rng.u8(..) > 90).then_some(entry);
            changes.insert(IndexKey::new(rng.u32(..300), name.as_bytes()), entry);
        }
        changes
    }

    fn apply<B: Blocks>(
        table: &Table<B>,
        changes: &BTreeMap<IndexKey, Option<Entry>>,
    ) -> Result<()> {
        table.apply(&mut changes.iter().map(|(key, entry)| (key, *entry)))
    }

    #[test]
    fn a_table_is_the_map_of_its_changes_wherever_a_crash_stops_them() {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut model = Model::new();
        let mut blocks = Cut::default();
        let mut cuts = 0;
        for version in 1..120 {
            let changes = random_changes(&mut rng, &model, version);
            let mut after = model.clone();
            for (key, entry) in &changes {
                match entry {
                    Some(entry) => _ = after.insert(key.clone(), *entry),
                    None => _ = after.remove(key),
                }
            }
            // Cut off, opened again, and the changes made once more, as by a replay of the log.
            let room = Room::new(rng.u64(..20_000));
            for writes in [rng.usize(..20), rng.usize(..100), usize::MAX] {
                blocks.writes.set(writes);
                let table = Table::open(blocks.clone(), room.clone()).unwrap();
                if rng.bool() {
                    // Some of the blocks are held then.
                    contents(&table);
                }
                let whole = apply(&table, &changes).is_ok();
                if whole {
                    assert_eq!(contents(&table), after);
                }
                blocks = table.blocks;
                let table = Table::open(blocks.clone(), room.clone()).unwrap();
                let found = contents(&table);
                for key in model.keys().chain(after.keys()).chain(found.keys()) {
                    let states = [model.get(key), after.get(key)];
                    assert!(states.contains(&found.get(key)), "{key:?}");
                }
                let keys = [model.keys(), after.keys()].into_iter().flatten();
                let keys: Vec<_> = keys.collect::<BTreeSet<_>>().into_iter().collect();
                let one_by_one = keys.iter().map(|key| found.get(*key).copied());
                assert!(table.get_all(&keys).unwrap().into_iter().eq(one_by_one));
                cuts += u32::from(!whole);
                if whole {
                    assert_eq!(found, after);
                }
            }
            model = after;
        }
        assert!(cuts > 40, "{cuts}");
        let bytes: usize = blocks.blocks.borrow().values().map(|block| block.len()).sum();
        let blocks = blocks.blocks.borrow().len();
        assert!(bytes / blocks > MIN_BLOCK_BYTES, "{bytes} bytes in {blocks} blocks");
    }

    #[test]
    fn of_a_table_that_is_dropped_so_many_blocks_are_left() {
        let blocks = Cut { writes: Cell::new(usize::MAX), ..Cut::default() };
        let table = Table::open(blocks, Room::new(0)).unwrap();
        let key = |i: u32| IndexKey::new(i, b"key");
        let entries = (0..1000).map(|i| (key(i), Some(Entry::of_version(1)))).collect();
        apply(&table, &entries).unwrap();
        assert_eq!(table.remove_beyond(10).unwrap(), 10);
        assert_eq!(table.blocks.blocks.borrow().len(), 10);
        assert!(table.get(key(0).as_bytes()).unwrap().is_some());
        assert!(table.get(key(999).as_bytes()).is_err(), "not that it is not there");
    }

    #[test]
    fn readers_see_every_entry_that_stays_while_blocks_are_split_and_merged() {
        // For a part of the blocks.
        const ROOM: u64 = 100_000;
        let dir = tempfile::tempdir().unwrap();
        let db = sled::open(dir.path()).unwrap();
        let room = Room::new(ROOM);
        let table =
            Table::open(PacedTree::new(db.open_tree("blocks-1").unwrap()), room.clone()).unwrap();
        let entry = Entry::of_version;
        let key = |i: u32| IndexKey::new(i, b"key");
        let lasting: BTreeMap<_, _> = (0..200).map(|i| (key(i * 50), Some(entry(1)))).collect();
        apply(&table, &lasting).unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let passes = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut passes = 0;
                while !done.load(Ordering::Acquire) {
                    let found = contents_between(&table);
                    assert!(lasting.keys().all(|key| found.contains(key)));
                    for key in lasting.keys() {
                        assert!(table.get(key.as_bytes()).unwrap().is_some());
                    }
                    let keys: Vec<_> = lasting.keys().collect();
                    assert!(table.get_all(&keys).unwrap().iter().all(Option::is_some));
                    passes += 1;
                }
                passes
            });
            for round in 2..8 {
                let passing = (0..10_000).filter(|i| i % 50 != 0).map(key);
                let new: BTreeMap<_, _> = passing.map(|key| (key, Some(entry(round)))).collect();
                apply(&table, &new).unwrap();
                for (key, entry) in &new {
                    assert_eq!(table.get(key.as_bytes()).unwrap(), *entry, "{key:?}");
                }
                let gone = new.into_keys().map(|key| (key, None)).collect();
                apply(&table, &gone).unwrap();
            }
            done.store(true, Ordering::Release);
            reader.join().unwrap()
        });
        assert!(passes > 0);
        assert!(table.fences.read().len() < 60, "{} blocks", table.fences.read().len());
        assert!(room.left.load(Ordering::Relaxed) < ROOM, "none is held");
        drop(table);
        assert_eq!(room.left.load(Ordering::Relaxed), ROOM);
    }

    /// The keys as a scan finds them while they change.
    fn contents_between(table: &Table) -> BTreeSet<IndexKey> {
        let mut found = BTreeSet::new();
        let mut from = Some(IVec::from(&[0]));
        while let Some(fence) = from {
            let (items, next) = table.page(Bound::Included(&fence), &[0xff; 8]).unwrap();
            found.extend(items.into_iter().map(|(key, _)| key));
            from = next;
        }
        found
    }
}
