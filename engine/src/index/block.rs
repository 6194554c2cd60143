//! Blocks: the entries of neighbouring keys as one value.
//!
//! sled keeps some two and a half times of what it is given, and takes microseconds for each value.
//! Twenty entries together take two thirds of the space that they take alone, and a tenth of the
//! time to be put and to be read.
//!
//! A block is its entries in key order, each as the varints of
//!
//! * the position, of which that of the entry before is subtracted,
//! * how many bytes the key begins with as the key before it does,
//! * how many bytes of it follow, and these,
//!
//! and the [`Entry`]. Nothing in between and nothing behind.

use std::iter::Peekable;
use std::ops::Bound;

use super::key::POSITION_BYTES;
use super::{Change, Entry, IndexKey, put_varint, take_varint};
use crate::error::{Error, Result};

/// A key with its entry.
pub(super) type Item = (IndexKey, Entry);

/// Reads a block from its beginning.
struct Reader<'a> {
    rest: &'a [u8],
    /// Of the entry read last: the position, big-endian, and the key, as [`IndexKey`] has them.
    key: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(block: &'a [u8]) -> Self {
        let mut key = Vec::with_capacity(64);
        key.resize(POSITION_BYTES, 0);
        Self { rest: block, key }
    }

    /// The next entry, encoded: most are passed over. `None` at the end. Its key is in `self.key`.
    fn next(&mut self) -> Result<Option<&'a [u8]>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        self.take().map(Some).ok_or_else(broken)
    }

    fn take(&mut self) -> Option<&'a [u8]> {
        let before = position_of(&self.key);
        let further = u32::try_from(take_varint(&mut self.rest)?).ok()?;
        let position = before.checked_add(further)?;
        let shared = usize::try_from(take_varint(&mut self.rest)?).ok()?;
        let new = usize::try_from(take_varint(&mut self.rest)?).ok()?;
        let (new, rest) = self.rest.split_at_checked(new)?;
        let kept = POSITION_BYTES.checked_add(shared)?;
        if kept > self.key.len() {
            return None;
        }
        self.key.truncate(kept);
        self.key[..POSITION_BYTES].copy_from_slice(&position.to_be_bytes());
        self.key.extend_from_slice(new);
        let (entry, rest) = rest.split_at_checked(Entry::encoded_bytes(rest)?)?;
        self.rest = rest;
        Some(entry)
    }
}

fn broken() -> Error {
    Error::Index("a block cannot be decoded".into())
}

fn decode(mut entry: &[u8]) -> Result<Entry> {
    Entry::take(&mut entry).ok_or_else(broken)
}

fn position_of(key: &[u8]) -> u32 {
    key.first_chunk().map_or(0, |position| u32::from_be_bytes(*position))
}

/// The entry of a key, if the block has it.
pub(super) fn find(block: &[u8], key: &[u8]) -> Result<Option<Entry>> {
    let mut reader = Reader::new(block);
    while let Some(entry) = reader.next()? {
        match reader.key.as_slice().cmp(key) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => return decode(entry).map(Some),
            std::cmp::Ordering::Greater => return Ok(None),
        }
    }
    Ok(None)
}

/// Appends what a block has of each of some keys, which are in their order.
pub(super) fn find_all(
    block: &[u8],
    keys: &[&IndexKey],
    found: &mut Vec<Option<Entry>>,
) -> Result<()> {
    let mut reader = Reader::new(block);
    let mut next = reader.next()?;
    for key in keys {
        while next.is_some() && reader.key.as_slice() < key.as_bytes() {
            next = reader.next()?;
        }
        let here = next.filter(|_| reader.key == key.as_bytes());
        found.push(here.map(decode).transpose()?);
    }
    Ok(())
}

/// The entries of a block between two keys; without the second, to the end.
pub(super) fn items(block: &[u8], from: Bound<&[u8]>, until: Option<&[u8]>) -> Result<Vec<Item>> {
    let mut items = Vec::new();
    let mut reader = Reader::new(block);
    while let Some(entry) = reader.next()? {
        let key = reader.key.as_slice();
        let before = match from {
            Bound::Included(from) => key < from,
            Bound::Excluded(from) => key <= from,
            Bound::Unbounded => false,
        };
        if before {
            continue;
        }
        if until.is_some_and(|until| key >= until) {
            break;
        }
        let key = IndexKey::from_bytes(key)
            .ok_or_else(|| Error::Index("a key in a block is too short".into()))?;
        items.push((key, decode(entry)?));
    }
    Ok(items)
}

/// Writes a block from its beginning.
#[derive(Default)]
struct Writer {
    block: Vec<u8>,
    /// The key written last, none at the beginning.
    key: Vec<u8>,
}

impl Writer {
    /// Appends an entry, which `encode` writes. Its key, as [`IndexKey`] has it, is greater than the
    /// one before.
    fn push(&mut self, key: &[u8], encode: impl FnOnce(&mut Vec<u8>)) {
        let further = position_of(key).wrapping_sub(position_of(&self.key));
        let before = self.key.get(POSITION_BYTES..).unwrap_or_default();
        let of_key = key.get(POSITION_BYTES..).unwrap_or_default();
        let shared = before.iter().zip(of_key).take_while(|(before, now)| before == now).count();
        let new = &of_key[shared..];
        put_varint(&mut self.block, u64::from(further));
        put_varint(&mut self.block, shared as u64);
        put_varint(&mut self.block, new.len() as u64);
        self.block.extend_from_slice(new);
        encode(&mut self.block);
        self.key.clear();
        self.key.extend_from_slice(key);
    }

    fn push_item(&mut self, (key, entry): &Item) {
        self.push(key.as_bytes(), |block| entry.encode_into(block));
    }

    /// What was written; begins anew.
    fn take(&mut self) -> Vec<u8> {
        self.key.clear();
        std::mem::take(&mut self.block)
    }
}

/// A block of entries in key order.
pub(super) fn encode(items: &[Item]) -> Vec<u8> {
    let mut writer = Writer::default();
    items.iter().for_each(|item| writer.push_item(item));
    writer.take()
}

/// Entries in key order as several blocks of about equal length, no longer than `bytes` unless an
/// entry alone is; each with the number of its entries.
pub(super) fn split(items: &[Item], bytes: usize) -> Vec<(usize, Vec<u8>)> {
    let whole = encode(items).len();
    let each = whole / whole.div_ceil(bytes).max(1);
    let mut blocks = Vec::new();
    let mut first = 0;
    let mut writer = Writer::default();
    for (i, item) in items.iter().enumerate() {
        let before = writer.block.len();
        writer.push_item(item);
        if before >= each || (before > 0 && writer.block.len() > bytes) {
            writer.block.truncate(before);
            blocks.push((i - first, writer.take()));
            first = i;
            writer.push_item(item);
        }
    }
    blocks.push((items.len() - first, writer.take()));
    blocks
}

/// A block of the entries of another one that come before `until`, with the first changes before
/// there made, some `most` of them.
pub(super) fn merge<'a>(
    old: &[u8],
    until: Option<&[u8]>,
    changes: &mut Peekable<impl Iterator<Item = Change<'a>>>,
    most: usize,
) -> Result<Vec<u8>> {
    let mut reader = Reader::new(old);
    let mut writer = Writer { block: Vec::with_capacity(old.len() + 64), ..Writer::default() };
    let mut next = reader.next()?;
    let is_here = |(key, _): &Change<'a>| until.is_none_or(|until| key.as_bytes() < until);
    for _ in 0..most {
        let Some((key, change)) = changes.next_if(is_here) else { break };
        while let Some(entry) = next
            && reader.key.as_slice() < key.as_bytes()
        {
            writer.push(&reader.key, |block| block.extend_from_slice(entry));
            next = reader.next()?;
        }
        if next.is_some() && reader.key == key.as_bytes() {
            next = reader.next()?;
        }
        if let Some(entry) = change {
            writer.push(key.as_bytes(), |block| entry.encode_into(block));
        }
    }
    while let Some(entry) = next
        && until.is_none_or(|until| reader.key.as_slice() < until)
    {
        writer.push(&reader.key, |block| block.extend_from_slice(entry));
        next = reader.next()?;
    }
    Ok(writer.take())
}

/// The least beginning of `key` that is greater than `before`, which is less than `key`.
pub(super) fn separator<'a>(before: &IndexKey, key: &'a IndexKey) -> &'a [u8] {
    let (before, key) = (before.as_bytes(), key.as_bytes());
    let shared = before.iter().zip(key).take_while(|(before, key)| before == key).count();
    &key[..(shared + 1).min(key.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items_of(count: u32) -> Vec<Item> {
        let mut items: Vec<_> = (0..count)
            .map(|i| {
                let key = IndexKey::new(i / 3 * 1000, format!("user:{}", i * 7919).as_bytes());
                let entry = Entry {
                    segment: i + 2,
                    offset: 64 + 8 * i,
                    first_segment: i / 2,
                    bytes: 100 + i,
                    version: u64::from(i) << 20,
                    expires_at: u64::from(i % 2) << 40,
                    content_hash: (u128::from(i) << 100 | 5).into(),
                };
                (key, entry)
            })
            .collect();
        items.sort_by(|a, b| a.0.cmp(&b.0));
        items
    }

    #[test]
    fn entries_come_back_and_are_found() {
        let all = items_of(100);
        let block = encode(&all);
        assert_eq!(items(&block, Bound::Unbounded, None).unwrap(), all);
        for (key, entry) in &all {
            assert_eq!(find(&block, key.as_bytes()).unwrap(), Some(*entry));
        }
        let missing = IndexKey::new(1000, b"user:");
        assert_eq!(find(&block, missing.as_bytes()).unwrap(), None);
        let (from, until) = (all[10].0.as_bytes(), all[20].0.as_bytes());
        let between = |from, until| items(&block, from, Some(until)).unwrap();
        assert_eq!(between(Bound::Included(from), until), all[10..20]);
        assert_eq!(between(Bound::Excluded(from), until), all[11..20]);
    }

    #[test]
    fn a_cut_block_is_refused_or_has_fewer_entries() {
        let all = items_of(5);
        let block = encode(&all);
        for cut in 0..block.len() {
            if let Ok(found) = items(&block[..cut], Bound::Unbounded, None) {
                assert_eq!(found, all[..found.len()]);
                assert!(found.len() < all.len());
            }
        }
        let ends = (0..block.len()).filter(|&cut| find(&block[..cut], b"zzzzz").is_ok());
        assert_eq!(ends.count(), 5, "at the beginning and between entries");
    }

    #[test]
    fn blocks_of_a_split_are_of_one_length_about() {
        let all = items_of(1000);
        let blocks = split(&all, 700);
        let mut rest = &all[..];
        for (count, block) in &blocks {
            let (these, others) = rest.split_at(*count);
            assert_eq!(items(block, Bound::Unbounded, None).unwrap(), these);
            rest = others;
        }
        assert!(rest.is_empty());
        let lengths = blocks.iter().map(|(_, block)| block.len());
        let (least, most) = (lengths.clone().min().unwrap(), lengths.max().unwrap());
        assert!(most <= 760 && least >= 300, "{least} to {most}");
    }

    #[test]
    fn a_separator_lies_between() {
        let keys = [(7, "a"), (7, "ab"), (7, "b"), (8, "a"), (512, "a")];
        let keys = keys.map(|(position, key)| IndexKey::new(position, key.as_bytes()));
        for pair in keys.windows(2) {
            let between = separator(&pair[0], &pair[1]);
            assert!(pair[0].as_bytes() < between && between <= pair[1].as_bytes());
        }
    }
}
