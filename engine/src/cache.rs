//! The cache of documents, by index and key.
//!
//! A cached document must never be older than what is published. Three rules see to that:
//!
//! 1. A look-up that the overlay answers takes the cached document only if its version is the
//!    overlay's.
//! 2. A look-up that the overlay does not answer takes the cached document as it is: for every
//!    key whose overlay entry was dropped, the cached document was removed before.
//! 3. A document that was read is cached only if no frozen generation was dropped between its
//!    look-up and then ([`Overlay::drops`](crate::overlay::Overlay)). Otherwise a reader that was
//!    slow could bring back what rule 2 removed.

use bytes::Bytes;
use quick_cache::sync::Cache;
use quick_cache::{Equivalent, Weighter};

use crate::command::{Document, IndexId};
use crate::index::IndexKey;
use crate::overlay::Generation;

/// Charged for each document besides its key and bytes.
const OVERHEAD_BYTES: u64 = 96;

/// How many documents the cache is laid out for: the capacity divided by this many bytes.
const EXPECTED_DOCUMENT_BYTES: u64 = 512;

/// No document over this share of the cache is cached.
const LARGEST_SHARE: u64 = 16;

/// A bounded cache of documents.
pub(crate) struct DocumentCache {
    cache: Cache<(IndexId, IndexKey), Document, ByBytes>,
    capacity: u64,
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<(IndexId, IndexKey), Document> for ByBytes {
    fn weight(&self, (_, key): &(IndexId, IndexKey), document: &Document) -> u64 {
        OVERHEAD_BYTES + (key.as_bytes().len() + document.bytes.len()) as u64
    }
}

/// A key for look-ups that owns nothing.
#[derive(Hash)]
struct Borrowed<'a>(IndexId, &'a [u8]);

impl Equivalent<(IndexId, IndexKey)> for Borrowed<'_> {
    fn equivalent(&self, (index, key): &(IndexId, IndexKey)) -> bool {
        self.0 == *index && self.1 == key.as_bytes()
    }
}

impl DocumentCache {
    pub(crate) fn new(capacity: u64) -> Self {
        let expected = (capacity / EXPECTED_DOCUMENT_BYTES) as usize;
        Self { cache: Cache::with_weighter(expected, capacity, ByBytes), capacity }
    }

    pub(crate) fn get(&self, index: IndexId, key: &IndexKey) -> Option<Document> {
        self.cache.get(&Borrowed(index, key.as_bytes()))
    }

    /// The caller follows rule 3.
    pub(crate) fn insert(&self, index: IndexId, key: IndexKey, document: &Document) {
        if document.bytes.len() as u64 <= self.capacity / LARGEST_SHARE {
            // A copy of its own: the bytes may be a slice of something larger.
            let bytes = Bytes::copy_from_slice(&document.bytes);
            self.cache.insert((index, key), Document { bytes, ..document.clone() });
        }
    }

    /// Removes what a generation that is about to be dropped has answers for.
    pub(crate) fn remove(&self, generation: &Generation) {
        if self.cache.is_empty() {
            return;
        }
        for (&index, table) in &generation.tables {
            for key in table.keys() {
                self.cache.remove(&Borrowed(index, key.as_bytes()));
            }
        }
    }
}
