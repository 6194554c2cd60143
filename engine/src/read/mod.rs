//! Reading: documents, versions and what is published; pages of scans are in [`page`].
//!
//! A look-up asks the overlay, then the cache, then the index; a document that is not cached is
//! read from the log by its offset and its checksum, key and version are checked.
//!
//! That a document is not there is said only if the shard still owns its position: it may have given the
//! range up since it was asked, and begun to remove what is in it.

mod page;

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::{Arc, atomic};

use bytes::Bytes;

use crate::clock::has_expired;
use crate::command::{Document, IndexId, Key, Span, Version};
use crate::effect::{Effect, Put};
use crate::error::{Error, Result};
use crate::index::{Entry, Index, IndexKey, LAST_KEY};
use crate::log::{LOG_DIR, Segment, Segments, record, segment_name};
use crate::overlay::Overlay;
use crate::residents::Tag;
use crate::shared::{LookedUp, Shared, View};
use crate::state::{BINS, BUCKETS, Buckets, Share, State, Sums, Totals};
use crate::usage::Usage;

impl Shared {
    /// Reads a document.
    pub(crate) fn read(&self, index: IndexId, key: &Key) -> Result<Option<Document>> {
        let index_key = IndexKey::from(key);
        let document = self.find_document(index, &index_key)?;
        self.residents.note_read(index, &index_key, document.is_some());
        Ok(document)
    }

    fn find_document(&self, index: IndexId, key: &IndexKey) -> Result<Option<Document>> {
        let now = self.clock.now();
        loop {
            let (known, epoch) = {
                let view = self.view.read();
                check_readable(&view.state, index, key.position(), key.position() + 1)?;
                let known = (view.overlay.get(index, key), view.overlay.drops);
                (known, view.state.epoch())
            };
            let found = self.find_as_known(index, key, known, now)?;
            if found.is_some() || self.is_as_of(epoch, index, key.position())? {
                return Ok(found);
            }
        }
    }

    /// Whether a position is owned as it was in an epoch, so that what was not found there since is not
    /// there. `false` where it may have been given up and have come back.
    fn is_as_of(&self, epoch: u64, index: IndexId, position: u32) -> Result<bool> {
        let state = &self.view.read().state;
        check_readable(state, index, position, position + 1)?;
        Ok(state.epoch() == epoch)
    }

    /// Reads a document of which the overlay says something or nothing, and how many generations were
    /// dropped before.
    fn find_as_known(
        &self,
        index: IndexId,
        key: &IndexKey,
        (known, drops): (Option<Option<Entry>>, u64),
        now: u64,
    ) -> Result<Option<Document>> {
        let cached = self.cache.get(index, key);
        let alive = |document: Document| {
            Some(document).filter(|document| !has_expired(document.expires_at, now))
        };
        let entry = match (known, cached) {
            (Some(None), _) => return Ok(None),
            (None, Some(document)) => return Ok(alive(document)),
            (Some(Some(entry)), Some(document))
                if (document.version, document.expires_at) == (entry.version, entry.expires_at) =>
            {
                return Ok(alive(document));
            }
            (Some(Some(entry)), _) => entry,
            (None, None) => match self.index.get()?.get(index, key.as_bytes())? {
                Some(entry) => entry,
                None => return Ok(None),
            },
        };
        if has_expired(entry.expires_at, now) {
            return Ok(None);
        }
        let Some(document) = self.load(index, key, entry)? else { return Ok(None) };
        let view = self.view.read();
        if view.overlay.drops == drops {
            // Under the lock: no generation can be dropped meanwhile (rule 3 of the cache).
            self.cache.insert(index, key.clone(), &document);
        }
        Ok(alive(document))
    }

    /// The version of a document.
    pub(crate) fn version(&self, index: IndexId, key: &Key) -> Result<Option<Version>> {
        let index_key = IndexKey::from(key);
        let now = self.clock.now();
        let alive = loop {
            let epoch = {
                let state = &self.view.read().state;
                check_readable(state, index, key.position, key.position + 1)?;
                state.epoch()
            };
            let entry = self.entry(index, &index_key)?;
            let alive = entry.filter(|entry| !has_expired(entry.expires_at, now));
            if alive.is_some() || self.is_as_of(epoch, index, key.position)? {
                break alive;
            }
        };
        self.residents.note_read(index, &index_key, alive.is_some());
        Ok(alive.map(|entry| entry.version))
    }

    /// A published key of a tag, if there is one, and what is to be looked up again of it. The index is asked before
    /// the overlay: most documents have been there for longer than a checkpoint.
    pub(crate) fn any_of(&self, index: IndexId, tag: Tag) -> Result<Option<(IndexKey, LookedUp)>> {
        // Before the index is read: it may have more then, which will be looked up again.
        let drops = self.view.read().overlay.drops;
        let on_disk = self.index.get()?.at(index, tag.position())?;
        if let Some((key, entry)) = on_disk.into_iter().find(|(key, _)| Tag::of(key) == tag) {
            return Ok(Some((key, (entry, drops))));
        }
        let (entries, drops) = self.entries_of(index, tag)?;
        let found = entries.into_iter().next();
        Ok(found.map(|(key, entry)| (key, (entry, drops))))
    }

    /// The published keys of a tag with their entries, mostly there is one; and the state of
    /// [`Overlay::drops`] as of which they were.
    pub(crate) fn entries_of(
        &self,
        index: IndexId,
        tag: Tag,
    ) -> Result<(Vec<(IndexKey, Entry)>, u64)> {
        let (start, end) = (tag.position().to_be_bytes(), (tag.position() + 1).to_be_bytes());
        // All that is known of the keys of the tag, the latest first: they are few.
        let mut known: Vec<(IndexKey, Option<Entry>)> = Vec::new();
        let is_new = |known: &[(IndexKey, Option<Entry>)], key: &IndexKey| {
            Tag::of(key) == tag && known.iter().all(|(other, _)| other != key)
        };
        let drops = {
            let overlay = &self.view.read().overlay;
            for range in overlay.ranges(index, Bound::Included(&start), &end) {
                for (key, entry) in range {
                    if is_new(&known, key) {
                        known.push((key.clone(), *entry));
                    }
                }
            }
            overlay.drops
        };
        for (key, entry) in self.index.get()?.at(index, tag.position())? {
            if is_new(&known, &key) {
                known.push((key, Some(entry)));
            }
        }
        let entries = known.into_iter().filter_map(|(key, entry)| Some((key, entry?))).collect();
        Ok((entries, drops))
    }

    /// Makes the residents remember the published documents of an index.
    pub(crate) fn fill_residents(&self, view: &View, index: IndexId) -> Result<()> {
        let newest = self.durable_lsn.load(atomic::Ordering::Acquire);
        let on_disk = self.index.get()?;
        for item in merged(&view.overlay, &*on_disk, index, Bound::Unbounded, &LAST_KEY)? {
            let (key, entry) = item?;
            let side = view.state.side(key.position());
            self.residents.fill((index, side), &key, &entry, newest);
        }
        Ok(())
    }

    /// What the documents of ranges come to, by index.
    pub(crate) fn sums(&self, ranges: &[(u32, u32)]) -> Result<BTreeMap<IndexId, Sums>> {
        let view = self.view.read();
        let on_disk = self.index.get()?;
        let mut found = BTreeMap::new();
        for &id in view.state.indexes.keys() {
            let mut of_index = Sums::default();
            for &(start, end) in ranges {
                of_index += sums(&view, &*on_disk, id, start, end)?;
            }
            if of_index.documents > 0 {
                found.insert(id, of_index);
            }
        }
        Ok(found)
    }

    /// What the documents of each bucket of the ring come to, of those that are owned, or in part.
    pub(crate) fn buckets(&self) -> Vec<Sums> {
        let view = self.view.read();
        let mut sums = vec![Sums::default(); BUCKETS];
        let is_owned: Vec<bool> = (0..BUCKETS).map(|i| view.state.owns_any_of(i)).collect();
        for index in view.state.indexes.values() {
            let buckets = index.buckets.all().iter().zip(&is_owned);
            for (sum, (bucket, _)) in sums.iter_mut().zip(buckets).filter(|(_, (_, owned))| **owned)
            {
                *sum += *bucket;
            }
        }
        sums
    }

    /// Reads the document of a key, whose entry was `entry` a moment ago; `None` when it was removed
    /// since.
    ///
    /// # Errors
    /// [`Error::Corrupt`] when what lies there is not what the entry promises.
    fn load(&self, index: IndexId, key: &IndexKey, entry: Entry) -> Result<Option<Document>> {
        let Some((segment, entry)) = self.locate(index, key, entry)? else { return Ok(None) };
        let mut bytes = vec![0; entry.record_bytes()];
        read_at(&segment, entry.offset, &mut bytes)?;
        let bytes = Bytes::from(bytes);
        let put = self.put_of(&segment, &bytes, index, key, &entry)?;
        let document = bytes.slice_ref(put.document);
        Ok(Some(Document { version: put.version, expires_at: put.expires_at, bytes: document }))
    }

    /// The segment that has the record of a key, whose entry was `entry` a moment ago, and its entry
    /// now; `None` when it was removed since.
    fn locate(
        &self,
        index: IndexId,
        key: &IndexKey,
        mut entry: Entry,
    ) -> Result<Option<(Arc<Segment>, Entry)>> {
        loop {
            if let Some(segment) = self.segments.get(entry.segment) {
                return Ok(Some((segment, entry)));
            }
            // Compaction moved the document since it was looked up, and deleted the segment.
            match self.entry(index, key)? {
                None => return Ok(None),
                Some(now) if now == entry => {
                    let path = self.dir.join(LOG_DIR).join(segment_name(entry.segment));
                    return Err(Error::corrupt(
                        path,
                        entry.offset as usize,
                        "the segment is missing",
                    ));
                }
                Some(now) => entry = now,
            }
        }
    }

    /// The put in the record that an entry points to, once it has been found to be that.
    fn put_of<'a>(
        &self,
        segment: &Segment,
        record: &'a [u8],
        index: IndexId,
        key: &IndexKey,
        entry: &Entry,
    ) -> Result<Put<'a>> {
        let corrupt = |what: &str| Error::corrupt(&segment.path, entry.offset as usize, what);
        let record = record::decode(record, &self.checksum).map_err(corrupt)?;
        match Effect::decode(record.kind, record.payload).map_err(corrupt)? {
            Effect::Put(put)
                if put.index == index
                    && put.position == key.position()
                    && put.key == key.key()
                    && put.version == entry.version =>
            {
                Ok(put)
            }
            _ => Err(corrupt("another record lies where the index points")),
        }
    }
}

/// Reads what lies in a segment from an offset on.
fn read_at(segment: &Segment, offset: u32, bytes: &mut [u8]) -> Result<()> {
    let read = segment.file.read_exact_at(bytes, u64::from(offset));
    read.map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::corrupt(&segment.path, offset as usize, "the segment is cut off")
        }
        _ => Error::failed("read a document", &segment.path, error),
    })
}

/// Checks that an index exists and that all of `[start, end)` is owned.
fn check_readable(state: &State, index: IndexId, start: u32, end: u32) -> Result<()> {
    if !state.owns(start, end) {
        return Err(Error::WrongShard { epoch: state.epoch() });
    }
    if !state.indexes.contains_key(&index) {
        return Err(Error::IndexNotFound(index));
    }
    Ok(())
}

/// The published entries of an index between two keys, the second excluded, in ring order.
pub(crate) fn merged<'a>(
    overlay: &'a Overlay,
    on_disk: &'a dyn Index,
    index: IndexId,
    from: Bound<&'a [u8]>,
    until: &'a [u8],
) -> Result<impl Iterator<Item = Result<(IndexKey, Entry)>> + 'a> {
    let newest_first = overlay
        .ranges(index, from, until)
        .map(|range| {
            let items = range.map(|(key, entry)| Ok((key.clone(), *entry)));
            (Box::new(items) as Source<'a>).peekable()
        })
        .collect::<Vec<_>>();
    let on_disk = on_disk.range(index, from, until)?;
    let on_disk = on_disk.map(|item| item.map(|(key, entry)| (key, Some(entry))));
    let mut sources = newest_first;
    sources.push((Box::new(on_disk) as Source<'a>).peekable());
    Ok(std::iter::from_fn(move || next_merged(&mut sources)))
}

type Source<'a> = Box<dyn Iterator<Item = Result<(IndexKey, Option<Entry>)>> + 'a>;

/// Takes the least key off all sources that have it; the first source's entry counts. Removed keys
/// are passed over.
fn next_merged(sources: &mut [Peekable<Source<'_>>]) -> Option<Result<(IndexKey, Entry)>> {
    loop {
        let mut least: Option<usize> = None;
        for i in 0..sources.len() {
            let (before, rest) = sources.split_at_mut(i);
            let Some(item) = rest[0].peek() else { continue };
            let Ok((key, _)) = item else {
                let error = rest[0].next()?.err()?;
                return Some(Err(error));
            };
            let order = match least.and_then(|least| before[least].peek()) {
                Some(Ok((least_key, _))) => key.cmp(least_key),
                _ => Ordering::Less,
            };
            match order {
                Ordering::Less => least = Some(i),
                Ordering::Equal => _ = rest[0].next(),
                Ordering::Greater => {}
            }
        }
        let (key, entry) = sources[least?].next()?.ok()?;
        if let Some(entry) = entry {
            return Some(Ok((key, entry)));
        }
    }
}

/// The keys of documents outside the owned ranges and within others, by index and in ring order,
/// at most `count` of those after `after`.
pub(crate) fn unowned(
    view: &View,
    on_disk: &dyn Index,
    within: &[(u32, u32)],
    after: Option<&(IndexId, IndexKey)>,
    count: usize,
) -> Result<Vec<(IndexId, IndexKey)>> {
    let mut found = Vec::new();
    for &id in view.state.indexes.keys() {
        for (start, end) in view.state.unowned(within) {
            let (start, end) = (start.to_be_bytes(), end.to_be_bytes());
            let from = match after {
                Some((index, _)) if id < *index => continue,
                Some((index, key)) if id == *index && key.as_bytes() >= &start[..] => {
                    Bound::Excluded(key.as_bytes())
                }
                _ => Bound::Included(&start[..]),
            };
            if matches!(from, Bound::Excluded(key) if key >= &end[..]) {
                continue;
            }
            for item in merged(&view.overlay, on_disk, id, from, &end)? {
                found.push((id, item?.0));
                if found.len() == count {
                    return Ok(found);
                }
            }
        }
    }
    Ok(found)
}

/// Has `visit` see the published entries of a span, in ring order, as long as it says so.
pub(crate) fn visit_span(
    view: &View,
    on_disk: &dyn Index,
    span: &Span,
    mut visit: impl FnMut(IndexKey, Entry) -> bool,
) -> Result<()> {
    let (first, end) = (span.range.0.to_be_bytes(), span.range.1.to_be_bytes());
    let after = span.after.as_ref().map(IndexKey::from);
    let from = match &after {
        Some(key) => Bound::Excluded(key.as_bytes()),
        None => Bound::Included(&first[..]),
    };
    let until = span.until.as_ref().map(IndexKey::from);
    for item in merged(&view.overlay, on_disk, span.index, from, &end)? {
        let (key, entry) = item?;
        if until.as_ref().is_some_and(|until| key > *until) || !visit(key, entry) {
            break;
        }
    }
    Ok(())
}

/// What the published documents of an index in `[start, end)` come to.
pub(crate) fn sums(
    view: &View,
    on_disk: &dyn Index,
    index: IndexId,
    start: u32,
    end: u32,
) -> Result<Sums> {
    let Some(of_index) = view.state.indexes.get(&index) else { return Ok(Sums::default()) };
    let (mut sums, rest) = of_index.buckets.sums(start, end);
    for (start, end) in rest {
        let (start, end) = (start.to_be_bytes(), end.to_be_bytes());
        for item in merged(&view.overlay, on_disk, index, Bound::Included(&start), &end)? {
            sums.add(Share::from(&item?.1));
        }
    }
    Ok(sums)
}

/// The published documents of all indexes by fifths of the owned ranges, and the bytes of each index there.
pub(crate) fn distributions(
    view: &View,
    on_disk: &dyn Index,
) -> Result<BTreeMap<IndexId, ([u64; BINS], u64)>> {
    let bins = view.state.bins();
    let mut counted = BTreeMap::new();
    for &id in view.state.indexes.keys() {
        let (mut distribution, mut bytes) = ([0; BINS], 0);
        for (count, pieces) in distribution.iter_mut().zip(&bins) {
            for &(start, end) in pieces {
                let sums = sums(view, on_disk, id, start, end)?;
                *count += sums.documents;
                bytes += sums.bytes;
            }
        }
        counted.insert(id, (distribution, bytes));
    }
    Ok(counted)
}

/// What the published documents of all indexes, counted one by one, come to.
pub(crate) struct Recount {
    /// With the totals and the distribution of what was counted, else as published.
    pub(crate) state: State,
    /// The live bytes; removals are not counted.
    pub(crate) usage: Usage,
}

/// Counts the published documents, and shows each to `visit`.
///
/// # Errors
/// [`Error::Index`] also where an entry points to a segment that is not there.
pub(crate) fn recount(
    view: &View,
    on_disk: &dyn Index,
    segments: &Segments,
    mut visit: impl FnMut(IndexId, &IndexKey, &Entry),
) -> Result<Recount> {
    let known: HashSet<u32> = segments.all().iter().map(|segment| segment.number).collect();
    let mut state = view.state.clone();
    let mut usage = Usage::default();
    state.used = 0;
    for &id in view.state.indexes.keys() {
        let mut totals = Totals::default();
        let (mut distribution, mut owned_bytes) = ([0; BINS], 0);
        let mut buckets = Buckets::default();
        for item in merged(&view.overlay, on_disk, id, Bound::Unbounded, &LAST_KEY)? {
            let (key, entry) = item?;
            if !known.contains(&entry.segment) {
                let what = format!("an entry points to segment {}, which is gone", entry.segment);
                return Err(Error::Index(what.into()));
            }
            totals.add(Share::from(&entry));
            buckets.add(key.position(), Share::from(&entry));
            usage.add(id, &entry);
            visit(id, &key, &entry);
            if let Some(bin) = view.state.bin(key.position()) {
                distribution[bin] += 1;
                owned_bytes += u64::from(entry.bytes);
            }
        }
        state.used += totals.bytes;
        if let Some(index) = state.indexes.get_mut(&id) {
            index.totals = totals;
            index.distribution = distribution;
            index.owned_bytes = owned_bytes;
            index.buckets = buckets;
        }
    }
    Ok(Recount { state, usage })
}
