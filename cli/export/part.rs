//! One part of the ring, from the shards into a file.

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use sherd_client::{Digest, Item, ScanOptions};
use sherd_engine::content_hash;
use sherd_protocol::{Position, Range};

use super::block::{Blocks, Target};
use super::{Export, Wanted};
use crate::error::Error;
use crate::formats::{Fault, Fields, Writer};

/// How many pages of a part may be on their way: one that a shard reads, one that travels.
const PAGES_AHEAD: usize = 3;

/// A part of the ring.
pub(super) struct Part {
    pub(super) range: Range,
    /// Whether it begins the file.
    is_first: bool,
    /// What is in its file, as of its last whole block.
    place: Mutex<Place>,
    /// The position up to which documents were seen.
    seen_to: AtomicU32,
}

/// How far a part is.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// Position and key of the last document in the file.
    pub(super) after: Option<(Position, String)>,
    pub(super) documents: u64,
    pub(super) digest: Digest,
    /// The length of the file, and its CRC-32.
    pub(super) bytes: u64,
    pub(super) crc: u32,
    pub(super) is_done: bool,
}

impl Place {
    /// Both together, where `next` comes after this one.
    pub(super) fn with(&self, next: &Self) -> Self {
        let hasher = |place: &Self| crc32fast::Hasher::new_with_initial_len(place.crc, place.bytes);
        let mut crc = hasher(self);
        crc.combine(&hasher(next));
        Self {
            after: next.after.clone(),
            documents: self.documents + next.documents,
            digest: self.digest.with(next.digest),
            bytes: self.bytes + next.bytes,
            crc: crc.finalize(),
            is_done: self.is_done && next.is_done,
        }
    }
}

impl Part {
    /// A part of which nothing is done yet.
    pub(super) fn new(range: Range, is_first: bool) -> Self {
        Self::at(range, is_first, Place::default())
    }

    /// A part of which some is done.
    pub(super) fn at(range: Range, is_first: bool, place: Place) -> Self {
        let seen_to = match &place.after {
            _ if place.is_done => range.end,
            Some((position, _)) => position.0,
            None => range.start,
        };
        Self { range, is_first, place: Mutex::new(place), seen_to: AtomicU32::new(seen_to) }
    }

    pub(super) fn place(&self) -> Place {
        self.place.lock().clone()
    }

    pub(super) fn seen_to(&self) -> u32 {
        self.seen_to.load(Ordering::Relaxed)
    }

    /// Writes what is left of the part. Blocks.
    ///
    /// # Errors
    /// When a shard does not answer, a document does not fit the format, or it cannot be written.
    pub(super) fn run(&self, export: &Export, target: Target) -> Result<(), Error> {
        let wanted = &export.wanted;
        let mut place = self.place();
        if place.is_done {
            return Ok(());
        }
        let options =
            ScanOptions { range: self.range, after: place.after.clone(), ..ScanOptions::default() };
        // Its pages are asked for by tasks, which need the runtime.
        let _guard = export.runtime.enter();
        let mut pages = export.client.scan_ahead(&wanted.index, options, PAGES_AHEAD)?;
        let begun = (place.bytes, place.crc);
        let mut blocks = Blocks::new(target, wanted.compression, begun);
        let mut writer = Writer::new(wanted.format, wanted.shape());
        if self.is_first && place.bytes == 0 {
            writer.begin(&mut blocks.rows).map_err(|fault| wrong_columns(&fault))?;
        } else {
            writer.go_on();
        }
        let mut scratch = Vec::new();
        while let Some(items) = export.runtime.block_on(pages.next_page())? {
            if export.is_stopped() {
                return Ok(());
            }
            for item in &items {
                if !is_wanted(wanted, item) {
                    continue;
                }
                write_row(&mut writer, &mut blocks.rows, wanted, item)?;
                place.digest = place.digest.with(digest_of(&mut scratch, wanted, item));
                place.documents += 1;
                if blocks.is_full() {
                    place.after = Some((item.document.position, item.key.clone()));
                    self.write(&mut blocks, &mut place)?;
                }
            }
            if let Some(last) = items.last() {
                self.seen_to.store(last.document.position.0, Ordering::Relaxed);
            }
        }
        place.is_done = true;
        self.write(&mut blocks, &mut place)?;
        self.seen_to.store(self.range.end, Ordering::Relaxed);
        Ok(())
    }

    /// Writes an empty block, where a compressed file would have nothing: no bytes at all are no gzip member
    /// and no zstd frame. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn end_empty(&self, wanted: &Wanted, target: Target) -> Result<(), Error> {
        let mut place = self.place();
        let mut blocks = Blocks::new(target, wanted.compression, (place.bytes, place.crc));
        blocks.write_always()?;
        self.write(&mut blocks, &mut place)
    }

    /// Writes a block; what it has counts from then on.
    fn write(&self, blocks: &mut Blocks, place: &mut Place) -> Result<(), Error> {
        blocks.write()?;
        place.bytes = blocks.bytes;
        place.crc = blocks.crc.clone().finalize();
        *self.place.lock() = place.clone();
        Ok(())
    }
}

fn is_wanted(wanted: &Wanted, item: &Item) -> bool {
    wanted.prefix.as_ref().is_none_or(|prefix| item.key.starts_with(prefix))
}

fn write_row(
    writer: &mut Writer,
    rows: &mut Vec<u8>,
    wanted: &Wanted,
    Item { key, document }: &Item,
) -> Result<(), Error> {
    let expires_at = wanted.expires_at(document.expires_at);
    let fields = Fields {
        key,
        document: &document.bytes,
        version: Some(document.version),
        expires_at: Some(expires_at).filter(|&at| at != 0),
    };
    writer.write(rows, &fields).map_err(|fault| {
        let hint = match fault {
            Fault::ExpiryNotHeld => "; --without-expiry leaves that out",
            _ => "",
        };
        Error::Failed(format!(
            "the document under {key:?} of index {:?} cannot be written as {}: {fault}{hint}",
            wanted.index,
            wanted.format.name()
        ))
    })
}

/// For `map_err`: there can be no header of the columns that were asked for.
pub(super) fn wrong_columns(fault: &Fault) -> Error {
    Error::Usage(format!("--columns: {fault}"))
}

/// What a document adds to the digest of its index.
fn digest_of(scratch: &mut Vec<u8>, wanted: &Wanted, Item { key, document }: &Item) -> Digest {
    let expires_at = wanted.expires_at(document.expires_at);
    Digest(content_hash(scratch, &wanted.index, key.as_bytes(), expires_at, &document.bytes))
}
