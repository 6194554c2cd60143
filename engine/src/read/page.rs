//! Pages of scans: the documents of a range in ring order.
//!
//! The entries of a page are listed first, and then their records are read in the order in which they lie in the
//! log: documents that were written as one batch, by an import say, mostly lie there in ring order as well, so that
//! one read fetches many.

use std::ops::{Bound, Range};

use bytes::Bytes;

use super::{check_readable, merged, read_at};
use crate::clock::has_expired;
use crate::command::{Document, IndexId, Key, Page, Scan, Version};
use crate::error::Result;
use crate::index::{Entry, IndexKey};
use crate::log::Segment;
use crate::shared::Shared;

/// How many entries of a page are looked up at a time: the sequencer cannot publish meanwhile.
const ENTRIES_AT_A_TIME: usize = 256;

/// How many bytes between two records are read with them: to pass over fewer takes a read more, and to keep more
/// takes memory until the page is sent.
const MAX_GAP: u64 = 512;

/// How many bytes are read at once, unless a single record is longer.
const MAX_RUN: u64 = 256 << 10;

impl Shared {
    /// A page of documents.
    pub(crate) fn scan(&self, scan: &Scan) -> Result<Page> {
        self.page(scan, self.clock.now())
    }

    /// A page of all documents there are, those that have expired and are not removed yet as well.
    pub(crate) fn export(&self, scan: &Scan) -> Result<Page> {
        // Nothing has expired by the beginning of time.
        self.page(scan, 0)
    }

    /// A page of what has not expired by `now`.
    fn page(&self, scan: &Scan, now: u64) -> Result<Page> {
        loop {
            let listed = self.list(scan, now)?;
            if scan.keys_only {
                return Ok(listed.into_keys());
            }
            let mut documents = Documents::new(self, scan.index, &listed.entries);
            documents.load()?;
            if self.have_gone_for_good(scan.index, &listed, &documents)? {
                let page = documents.into_page(listed.more);
                // Where all are gone, nobody could say where the next page is to begin.
                if !page.more || !page.items.is_empty() || listed.entries.is_empty() {
                    return Ok(page);
                }
            }
        }
    }

    /// Lists what a page has.
    fn list(&self, scan: &Scan, now: u64) -> Result<Listed> {
        let (first, until) = (scan.range.0.to_be_bytes(), scan.range.1.to_be_bytes());
        let mut after = scan.after.as_ref().map(IndexKey::from);
        let mut entries = Vec::new();
        let mut first_epoch = None;
        let mut size = 0;
        loop {
            let wanted = (scan.max_documents - entries.len()).min(ENTRIES_AT_A_TIME);
            let (found, epoch) = {
                let view = self.view.read();
                let start = after.as_ref().map_or(scan.range.0, IndexKey::position);
                check_readable(&view.state, scan.index, start, scan.range.1)?;
                let from = match &after {
                    Some(key) => Bound::Excluded(key.as_bytes()),
                    None => Bound::Included(&first[..]),
                };
                let on_disk = self.index.get()?;
                let merged = merged(&view.overlay, &*on_disk, scan.index, from, &until)?;
                (merged.take(wanted).collect::<Result<Vec<_>>>()?, view.state.epoch())
            };
            let epoch = *first_epoch.get_or_insert(epoch);
            let last_of_range = found.len() < wanted;
            after = found.last().map(|(key, _)| key.clone());
            for (key, entry) in found {
                if has_expired(entry.expires_at, now) {
                    continue;
                }
                if size >= scan.max_bytes {
                    return Ok(Listed { entries, epoch, more: true });
                }
                size += if scan.keys_only { key.key().len() } else { entry.bytes as usize };
                entries.push((key, entry));
            }
            if last_of_range || entries.len() >= scan.max_documents {
                return Ok(Listed { entries, epoch, more: !last_of_range });
            }
        }
    }

    /// Whether somebody asked for the removal of what was listed and is not there any more. Else its range may have
    /// been given up meanwhile, been cleared, and have come back.
    fn have_gone_for_good(
        &self,
        index: IndexId,
        listed: &Listed,
        found: &Documents<'_>,
    ) -> Result<bool> {
        for ((key, _), document) in listed.entries.iter().zip(&found.documents) {
            if document.is_none() && !self.is_as_of(listed.epoch, index, key.position())? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The entries of a page, in ring order.
struct Listed {
    entries: Vec<(IndexKey, Entry)>,
    /// As of when the first of them were looked up.
    epoch: u64,
    /// Whether there may be more behind them.
    more: bool,
}

impl Listed {
    /// The page without its documents.
    fn into_keys(self) -> Page {
        let mut bytes =
            Vec::with_capacity(self.entries.iter().map(|(key, _)| key.key().len()).sum());
        for (key, _) in &self.entries {
            bytes.extend_from_slice(key.key());
        }
        let mut bytes = Bytes::from(bytes);
        let item = |(key, entry): (IndexKey, Entry)| {
            let Entry { version, expires_at, .. } = entry;
            let of_key = Key { position: key.position(), bytes: bytes.split_to(key.key().len()) };
            (of_key, Document { version, expires_at, bytes: Bytes::new() })
        };
        Page { items: self.entries.into_iter().map(item).collect(), more: self.more }
    }
}

/// The documents of a page. Their records are read into one buffer, of which keys and documents are slices in the
/// end: a page of small documents would else be thousands of allocations.
struct Documents<'a> {
    shared: &'a Shared,
    index: IndexId,
    entries: &'a [(IndexKey, Entry)],
    buffer: Vec<u8>,
    /// By entry; `None` for those that were removed since they were listed.
    documents: Vec<Option<Loaded>>,
}

struct Loaded {
    position: u32,
    version: Version,
    expires_at: u64,
    /// Where the key lies in the buffer, and where the document.
    key: Range<usize>,
    document: Range<usize>,
}

/// Where the record of an entry lies, in the order of the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    segment: u32,
    offset: u32,
    /// Which entry of the page.
    entry: usize,
}

impl<'a> Documents<'a> {
    fn new(shared: &'a Shared, index: IndexId, entries: &'a [(IndexKey, Entry)]) -> Self {
        let mut documents = Vec::new();
        documents.resize_with(entries.len(), || None);
        Self { shared, index, entries, buffer: Vec::new(), documents }
    }

    fn load(&mut self) -> Result<()> {
        self.buffer.reserve(self.entries.iter().map(|(_, entry)| entry.record_bytes()).sum());
        let place = |(i, (_, entry)): (usize, &(IndexKey, Entry))| {
            let (segment, offset) = entry.place();
            Place { segment, offset, entry: i }
        };
        let mut places: Vec<_> = self.entries.iter().enumerate().map(place).collect();
        places.sort_unstable();
        for places in places.chunk_by(|a, b| a.segment == b.segment) {
            // Who holds a segment may read on, also once it is deleted.
            match self.shared.segments.get(places[0].segment) {
                Some(segment) => self.load_from(&segment, places)?,
                None => places.iter().try_for_each(|place| self.load_moved(place.entry))?,
            }
        }
        Ok(())
    }

    /// Reads documents of a segment.
    fn load_from(&mut self, segment: &Segment, mut places: &[Place]) -> Result<()> {
        while let Some(first) = places.first() {
            let mut end = self.end_of(first);
            let is_near = |next: &&Place| {
                let (gap, next_end) =
                    (u64::from(next.offset).saturating_sub(end), self.end_of(next));
                end = end.max(next_end);
                gap <= MAX_GAP && end - u64::from(first.offset) <= MAX_RUN
            };
            let length = 1 + places[1..].iter().take_while(is_near).count();
            let (run, rest) = places.split_at(length);
            self.load_run(segment, run)?;
            places = rest;
        }
        Ok(())
    }

    /// Where the record ends that lies at a place.
    fn end_of(&self, place: &Place) -> u64 {
        u64::from(place.offset) + self.entries[place.entry].1.record_bytes() as u64
    }

    /// Reads documents that lie close to each other.
    fn load_run(&mut self, segment: &Segment, run: &[Place]) -> Result<()> {
        let ends = run.iter().map(|place| self.end_of(place));
        let (Some(first), Some(end)) = (run.first(), ends.max()) else { return Ok(()) };
        let read = self.read(segment, first.offset, (end - u64::from(first.offset)) as usize);
        if read.is_err() && run.len() > 1 {
            // So that what is said is wrong is a document, or nothing is: it may lie between them.
            return run.chunks(1).try_for_each(|one| self.load_run(segment, one));
        }
        let start = read?;
        for place in run {
            let at = start + (place.offset - first.offset) as usize;
            self.add(place.entry, segment, &self.entries[place.entry].1, at)?;
        }
        Ok(())
    }

    /// Reads a document that compaction has moved since it was listed, unless it was removed as well.
    fn load_moved(&mut self, i: usize) -> Result<()> {
        let (key, entry) = &self.entries[i];
        let Some((segment, entry)) = self.shared.locate(self.index, key, *entry)? else {
            return Ok(());
        };
        let at = self.read(&segment, entry.offset, entry.record_bytes())?;
        self.add(i, &segment, &entry, at)
    }

    /// Reads a part of a segment, and says where in the buffer it lies.
    fn read(&mut self, segment: &Segment, offset: u32, length: usize) -> Result<usize> {
        let at = self.buffer.len();
        self.buffer.resize(at + length, 0);
        let read = read_at(segment, offset, &mut self.buffer[at..]);
        if read.is_err() {
            self.buffer.truncate(at);
        }
        read.map(|()| at)
    }

    /// Adds the document of an entry, whose record lies in the buffer.
    fn add(&mut self, i: usize, segment: &Segment, entry: &Entry, at: usize) -> Result<()> {
        let record = &self.buffer[at..at + entry.record_bytes()];
        let put = self.shared.put_of(segment, record, self.index, &self.entries[i].0, entry)?;
        let range_of = |part: &[u8]| {
            let before = part.as_ptr().addr() - record.as_ptr().addr();
            at + before..at + before + part.len()
        };
        self.documents[i] = Some(Loaded {
            position: put.position,
            version: put.version,
            expires_at: put.expires_at,
            key: range_of(put.key),
            document: range_of(put.document),
        });
        Ok(())
    }

    fn into_page(self, more: bool) -> Page {
        let buffer = Bytes::from(self.buffer);
        let item = |loaded: Loaded| {
            let Loaded { position, version, expires_at, key, document } = loaded;
            let key = Key { position, bytes: buffer.slice(key) };
            (key, Document { version, expires_at, bytes: buffer.slice(document) })
        };
        Page { items: self.documents.into_iter().flatten().map(item).collect(), more }
    }
}
