//! Effects: what the log records, the outcome of an operation and never the operation.
//!
//! An effect on a document carries what it replaced (its bytes, its place in the log, the hash of
//! its content), so that a replay keeps exact totals without asking the index, which may already
//! hold later states.
//!
//! Two effects change nothing and are there for compaction, which deletes what lay before them: a
//! put that *moves* a document replaces the document by itself, and a *tombstone* repeats a removal
//! as long as the log may hold an older record of the key.
//!
//! Payload of a *put* (kind 1), of a *remove* (kind 2) and of a *tombstone* (kind 9), little-endian:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | index id |
//! | 4 | 4 | position of the key |
//! | 8 | 8 | version of the document; of a remove 0, of a tombstone the LSN of the removal |
//! | 16 | 8 | when the document expires, in milliseconds since 1970; 0 for never |
//! | 24 | 4 | replaced: bytes of key and document, 0 where nothing was |
//! | 28 | 4 | replaced: number of the segment |
//! | 32 | 4 | replaced: first segment that may hold a record of the key's present life |
//! | 36 | 4 | length of the document; of a remove and of a tombstone 0 |
//! | 40 | 16 | replaced: content hash |
//! | 56 | 8 | replaced: version |
//! | 64 | 2 | length of the key |
//! | 66 | 1 | of a remove, why: 0 asked for, 1 evicted, 2 expired, 3 outside what the shard owns; else 0 |
//! | 67 | 5 | 0 |
//! | 72 | | the key, then the document |
//!
//! That of a *skip* (kind 11) is the LSN of the next record, 8 bytes; it changes nothing.
//!
//! The payload of the other kinds is a MessagePack map from field name to value.

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_128;

use crate::command::{Assignment, Incoming, IndexId, Version};
use crate::index::Entry;
use crate::limits::{IndexSettings, Policy};
use crate::log::Lsn;
use crate::log::record::{self, HEADER_BYTES, SKIP, u32_at, u64_at, u128_at};

const PUT: u8 = 1;
const REMOVE: u8 = 2;
const CREATE_INDEX: u8 = 3;
const DROP_INDEX: u8 = 4;
const ASSIGN: u8 = 5;
const LOCK: u8 = 6;
const RELEASE: u8 = 7;
const SET_LIMIT: u8 = 8;
const TOMBSTONE: u8 = 9;
const SET_INDEX: u8 = 10;
const RECEIVE: u8 = 12;
const STOP_RECEIVING: u8 = 13;
const TIME: u8 = 14;

/// The bytes of a put's or remove's payload before the key.
const DOCUMENT_FIXED_BYTES: usize = 72;

/// Where a removal says why.
const REASON_OFFSET: usize = 66;

/// A [`content_hash`] as it lies in memory: in halves, for a `u128` would have the millions of entries that hold
/// one aligned to 16 bytes, and padded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentHash {
    high: u64,
    low: u64,
}

impl From<u128> for ContentHash {
    fn from(hash: u128) -> Self {
        Self { high: (hash >> 64) as u64, low: hash as u64 }
    }
}

impl From<ContentHash> for u128 {
    fn from(ContentHash { high, low }: ContentHash) -> Self {
        Self::from(high) << 64 | Self::from(low)
    }
}

/// What an effect on a document took the place of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replaced {
    /// Bytes of key and document; never 0, for no key is empty.
    pub(crate) bytes: u32,
    pub(crate) segment: u32,
    /// See [`Entry::first_segment`](crate::index::Entry).
    pub(crate) first_segment: u32,
    pub(crate) content_hash: ContentHash,
    pub(crate) version: Version,
}

impl From<&Entry> for Replaced {
    fn from(entry: &Entry) -> Self {
        let Entry { bytes, segment, first_segment, content_hash, version, .. } = *entry;
        Self { bytes, segment, first_segment, content_hash, version }
    }
}

impl Replaced {
    /// The length of the replaced record.
    pub(crate) fn record_bytes(&self) -> usize {
        record_bytes(self.bytes as usize)
    }
}

/// A document stored: the latest under its key until another effect on the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Put<'a> {
    pub(crate) index: IndexId,
    pub(crate) position: u32,
    pub(crate) version: Version,
    pub(crate) expires_at: u64,
    pub(crate) replaced: Option<Replaced>,
    pub(crate) key: &'a [u8],
    pub(crate) document: &'a [u8],
}

/// Why a document was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reason {
    #[default]
    Asked = 0,
    Evicted = 1,
    Expired = 2,
    /// The shard does not own it: another one may have it, or had it all the time.
    Unowned = 3,
}

/// A document removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remove<'a> {
    pub(crate) index: IndexId,
    pub(crate) position: u32,
    pub(crate) replaced: Replaced,
    pub(crate) reason: Reason,
    pub(crate) key: &'a [u8],
}

/// A removal once more, without an effect of its own: until the last older record of the key is
/// deleted, a rebuild would bring the document back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone<'a> {
    /// The LSN of the removal: older records of the key are dead.
    pub(crate) version: Version,
    pub(crate) removal: Remove<'a>,
}

/// What the log records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect<'a> {
    Put(Put<'a>),
    Remove(Remove<'a>),
    Tombstone(Tombstone<'a>),
    CreateIndex(CreateIndex),
    SetIndex(SetIndex),
    DropIndex(DropIndex),
    Assign(Assignment),
    Lock(Lock),
    Release,
    SetLimit(SetLimit),
    /// The next record has this LSN.
    Skip(Lsn),
    /// Documents of ranges are being taken over from another shard, and so far they have come.
    Receive(Incoming),
    /// They are not, any more.
    StopReceiving,
    /// The records since the last one of these were written by then, in milliseconds since 1970.
    Time(u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CreateIndex {
    pub(crate) id: IndexId,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) settings: IndexSettings,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetIndex {
    pub(crate) id: IndexId,
    pub(crate) settings: IndexSettings,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DropIndex {
    pub(crate) id: IndexId,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lock {
    pub(crate) owner: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SetLimit {
    pub(crate) limit: u64,
    #[serde(default)]
    pub(crate) policy: Option<Policy>,
}

impl Effect<'_> {
    pub(crate) fn kind(&self) -> u8 {
        match self {
            Self::Put(_) => PUT,
            Self::Remove(_) => REMOVE,
            Self::Tombstone(_) => TOMBSTONE,
            Self::CreateIndex(_) => CREATE_INDEX,
            Self::SetIndex(_) => SET_INDEX,
            Self::DropIndex(_) => DROP_INDEX,
            Self::Assign(_) => ASSIGN,
            Self::Lock(_) => LOCK,
            Self::Release => RELEASE,
            Self::SetLimit(_) => SET_LIMIT,
            Self::Skip(_) => SKIP,
            Self::Receive(_) => RECEIVE,
            Self::StopReceiving => STOP_RECEIVING,
            Self::Time(_) => TIME,
        }
    }

    /// Appends the payload to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Put(put) => {
                let placed = (put.index, put.position, put.version, put.expires_at);
                let reason = Reason::Asked;
                encode_document(out, placed, put.replaced, reason, put.key, put.document);
            }
            Self::Remove(removal) => encode_removal(out, 0, removal),
            Self::Tombstone(Tombstone { version, removal }) => {
                encode_removal(out, *version, removal);
            }
            Self::CreateIndex(fields) => encode_fields(out, fields),
            Self::SetIndex(fields) => encode_fields(out, fields),
            Self::DropIndex(fields) => encode_fields(out, fields),
            Self::Assign(fields) => encode_fields(out, fields),
            Self::Lock(fields) => encode_fields(out, fields),
            Self::Release | Self::StopReceiving => {}
            Self::SetLimit(fields) => encode_fields(out, fields),
            Self::Skip(number) | Self::Time(number) => {
                out.extend_from_slice(&number.to_le_bytes());
            }
            Self::Receive(fields) => encode_fields(out, fields),
        }
    }

    /// Decodes the payload of a record whose checksum holds.
    ///
    /// # Errors
    /// When it is not what this version writes.
    pub(crate) fn decode(kind: u8, payload: &[u8]) -> Result<Effect<'_>, &'static str> {
        Ok(match kind {
            PUT => Effect::Put(decode_put(payload)?),
            REMOVE => Effect::Remove(decode_removal(payload)?.1),
            TOMBSTONE => {
                let (version, removal) = decode_removal(payload)?;
                Effect::Tombstone(Tombstone { version, removal })
            }
            CREATE_INDEX => Effect::CreateIndex(decode_fields(payload)?),
            SET_INDEX => Effect::SetIndex(decode_fields(payload)?),
            DROP_INDEX => Effect::DropIndex(decode_fields(payload)?),
            ASSIGN => Effect::Assign(decode_fields(payload)?),
            LOCK => Effect::Lock(decode_fields(payload)?),
            RELEASE => Effect::Release,
            SET_LIMIT => Effect::SetLimit(decode_fields(payload)?),
            SKIP if payload.len() >= 8 => Effect::Skip(u64_at(payload, 0)),
            TIME if payload.len() >= 8 => Effect::Time(u64_at(payload, 0)),
            SKIP | TIME => return Err("the payload is too short"),
            RECEIVE => Effect::Receive(decode_fields(payload)?),
            STOP_RECEIVING => Effect::StopReceiving,
            _ => return Err("the kind of the effect is unknown"),
        })
    }
}

/// The length of the record of a time.
pub(crate) const TIME_RECORD_BYTES: usize = HEADER_BYTES + 8;

/// The length of the record of a put of so many bytes of key and document; without a document,
/// of a remove and of a tombstone.
pub(crate) fn record_bytes(key_and_document_bytes: usize) -> usize {
    (HEADER_BYTES + DOCUMENT_FIXED_BYTES + key_and_document_bytes)
        .next_multiple_of(record::ALIGNMENT)
}

/// The hash that stands for a document's content, by index name, key, document and expiry: the
/// same on every shard and in every cluster. The digest of a set of documents is the sum of their
/// hashes, modulo 2^128. `expires_at` is 0 for a document that never does.
///
/// `scratch` is memory to work in, whatever it holds.
pub fn content_hash(
    scratch: &mut Vec<u8>,
    index: &str,
    key: &[u8],
    expires_at: u64,
    document: &[u8],
) -> u128 {
    scratch.clear();
    for part in [index.as_bytes(), key] {
        scratch.extend_from_slice(&(part.len() as u32).to_le_bytes());
        scratch.extend_from_slice(part);
    }
    scratch.extend_from_slice(&expires_at.to_le_bytes());
    scratch.extend_from_slice(document);
    XxHash3_128::oneshot(scratch)
}

fn encode_removal(out: &mut Vec<u8>, version: Version, removal: &Remove<'_>) {
    let placed = (removal.index, removal.position, version, 0);
    encode_document(out, placed, Some(removal.replaced), removal.reason, removal.key, b"");
}

fn encode_document(
    out: &mut Vec<u8>,
    (index, position, version, expires_at): (IndexId, u32, Version, u64),
    replaced: Option<Replaced>,
    reason: Reason,
    key: &[u8],
    document: &[u8],
) {
    let replaced = replaced.unwrap_or_default();
    out.extend_from_slice(&index.to_le_bytes());
    out.extend_from_slice(&position.to_le_bytes());
    out.extend_from_slice(&version.to_le_bytes());
    out.extend_from_slice(&expires_at.to_le_bytes());
    out.extend_from_slice(&replaced.bytes.to_le_bytes());
    out.extend_from_slice(&replaced.segment.to_le_bytes());
    out.extend_from_slice(&replaced.first_segment.to_le_bytes());
    out.extend_from_slice(&(document.len() as u32).to_le_bytes());
    out.extend_from_slice(&u128::from(replaced.content_hash).to_le_bytes());
    out.extend_from_slice(&replaced.version.to_le_bytes());
    out.extend_from_slice(&(key.len() as u16).to_le_bytes());
    out.push(reason as u8);
    out.extend_from_slice(&[0; 5]);
    out.extend_from_slice(key);
    out.extend_from_slice(document);
}

fn decode_put(payload: &[u8]) -> Result<Put<'_>, &'static str> {
    if payload.len() < DOCUMENT_FIXED_BYTES {
        return Err("the payload is too short");
    }
    let document_bytes = u32_at(payload, 36) as usize;
    let key_bytes = (u32_at(payload, 64) & 0xffff) as usize;
    let rest = &payload[DOCUMENT_FIXED_BYTES..];
    let (Some(key), Some(document)) =
        (rest.get(..key_bytes), rest.get(key_bytes..key_bytes.saturating_add(document_bytes)))
    else {
        return Err("the payload is shorter than the key and the document");
    };
    if key.is_empty() {
        return Err("the key is empty");
    }
    let replaced = Replaced {
        bytes: u32_at(payload, 24),
        segment: u32_at(payload, 28),
        first_segment: u32_at(payload, 32),
        content_hash: u128_at(payload, 40).into(),
        version: u64_at(payload, 56),
    };
    Ok(Put {
        index: u32_at(payload, 0),
        position: u32_at(payload, 4),
        version: u64_at(payload, 8),
        expires_at: u64_at(payload, 16),
        replaced: (replaced.bytes > 0).then_some(replaced),
        key,
        document,
    })
}

fn decode_removal(payload: &[u8]) -> Result<(Version, Remove<'_>), &'static str> {
    let Put { index, position, version, replaced, key, .. } = decode_put(payload)?;
    let replaced = replaced.ok_or("the removal replaces nothing")?;
    let reason = match payload[REASON_OFFSET] {
        0 => Reason::Asked,
        1 => Reason::Evicted,
        2 => Reason::Expired,
        3 => Reason::Unowned,
        _ => return Err("the reason of the removal is unknown"),
    };
    Ok((version, Remove { index, position, replaced, reason, key }))
}

fn encode_fields(out: &mut Vec<u8>, fields: &impl Serialize) {
    let mut serializer = rmp_serde::Serializer::new(&mut *out).with_struct_map();
    // Strings, integers and lists into memory: there is nothing to fail.
    let encoded = fields.serialize(&mut serializer);
    debug_assert!(encoded.is_ok());
}

fn decode_fields<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Result<T, &'static str> {
    rmp_serde::from_slice(payload).map_err(|_| "the fields of the effect are malformed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_come_back_as_they_went() {
        let content_hash = (u128::MAX - 1).into();
        let replaced =
            Replaced { bytes: 9, segment: 2, first_segment: 1, content_hash, version: 3 };
        let put = Put {
            index: 3,
            position: 9_999_999,
            version: u64::MAX,
            expires_at: 1,
            replaced: Some(replaced),
            key: b"key",
            document: b"document",
        };
        let removal =
            Remove { index: 3, position: 1, replaced, reason: Reason::Asked, key: b"key" };
        let settings = IndexSettings {
            max_bytes: Some(1 << 40),
            max_documents: Some(7),
            policy: Some(Policy::Lfu),
            ttl: Some(1),
        };
        let effects = [
            Effect::Put(put),
            Effect::Put(Put { replaced: None, document: b"", ..put }),
            Effect::Remove(removal),
            Effect::Remove(Remove { reason: Reason::Evicted, ..removal }),
            Effect::Remove(Remove { reason: Reason::Expired, ..removal }),
            Effect::Remove(Remove { reason: Reason::Unowned, ..removal }),
            Effect::Tombstone(Tombstone { version: 77, removal }),
            Effect::CreateIndex(CreateIndex { id: 1, name: "cities".to_owned(), settings }),
            Effect::SetIndex(SetIndex { id: 1, settings: IndexSettings::default() }),
            Effect::DropIndex(DropIndex { id: 1 }),
            Effect::Assign(Assignment {
                cluster: "c".to_owned(),
                name: "shard0".to_owned(),
                hash_method: "md5".to_owned(),
                epoch: 4,
                lineage: 0,
                ranges: vec![(0, 5), (7, 9)],
                limit: 1024,
                policy: Policy::Lru,
            }),
            Effect::Lock(Lock { owner: "bootstrap".to_owned() }),
            Effect::Release,
            Effect::SetLimit(SetLimit { limit: 7, policy: Some(Policy::Fifo) }),
            Effect::Skip(1 << 33),
            Effect::Receive(Incoming {
                id: "7".to_owned(),
                ranges: vec![(3, 5)],
                note: vec![1, 2, 3],
            }),
            Effect::StopReceiving,
            Effect::Time(1 << 41),
        ];
        for effect in effects {
            let mut bytes = Vec::new();
            record::append(&mut bytes, 1, 0, effect.kind(), |out| effect.encode(out));
            record::seal(&mut bytes, &record::Checksum::of(1));
            let record = record::decode(&bytes, &record::Checksum::of(1)).unwrap();
            assert_eq!(Effect::decode(record.kind, record.payload), Ok(effect));
        }
    }

    #[test]
    fn the_length_of_a_put_is_known_beforehand() {
        for (key, document) in [(1, 0), (7, 1), (8, 8), (1024, 1000)] {
            let effect = Effect::Put(Put {
                index: 1,
                position: 1,
                version: 1,
                expires_at: 0,
                replaced: None,
                key: &vec![b'k'; key],
                document: &vec![0; document],
            });
            let mut bytes = Vec::new();
            record::append(&mut bytes, 1, 0, effect.kind(), |out| effect.encode(out));
            assert_eq!(bytes.len(), record_bytes(key + document));
        }
    }
}
