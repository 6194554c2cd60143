//! What the fuzzers drive, and the tests with the fuzzers' corpora: arbitrary bytes where a disk
//! would give the log and the manifest.
//!
//! Each target panics where an invariant does not hold, and returns whether it took the bytes, so
//! that a corpus that no longer gets behind the first check is noticed. Checksums would stop a
//! fuzzer at once: the first byte says whether they are made right after the fuzzer had its say.
//!
//! The seeds, what the corpora began with, come from the encoders themselves.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::OnceLock;

use crate::command::{Assignment, Incoming};
use crate::effect::{
    CreateIndex, DropIndex, Effect, Lock, Put, Reason, Remove, Replaced, SetLimit, Tombstone,
};
use crate::error::Error;
use crate::fs::{Fs, SimFs};
use crate::limits::{IndexSettings, Policy};
use crate::log::record::{self, Checksum, u32_at, u64_at};
use crate::log::{
    Damage, Located, Lsn, MAX_LSN, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, Source,
    first_lsn_in, read_header, read_past_damage, read_segment,
};
use crate::manifest::{self, Manifest, SegmentInfo};
use crate::recovery::Replay;
use crate::state::{Buckets, IndexState, Removals, Totals};

/// The checksums of header and records are made right.
const RESEALED: u8 = 1;
/// The records are given the LSNs that the header promises.
const RENUMBERED: u8 = 2;
/// The segment is sealed, at its whole length.
const SEALED: u8 = 4;
/// The segment is sealed, at the length that the head says.
const SEALED_AT: u8 = 8;
/// One bit is flipped after all that.
const FLIPPED: u8 = 16;

/// Modes, then two 16-bit numbers, little-endian: the byte to flip, and the sealed length.
const LOG_HEAD_BYTES: usize = 5;
/// Modes, then a 16-bit number, little-endian: the byte to flip.
const MANIFEST_HEAD_BYTES: usize = 3;

/// A segment: five bytes of modes, then the file.
///
/// The reader's answer must be that of a second, naive reading: it visits exactly the records of
/// whole groups up to the first that does not check out, and refuses that one exactly where a
/// record behind it testifies that it was durable. Effects come back as they went, and the state
/// that they amount to can be written to a manifest.
pub fn log_reader(data: &[u8]) -> bool {
    let Some((head, file)) = data.split_at_checked(LOG_HEAD_BYTES) else { return false };
    let modes = head[0];
    let mut bytes = file.to_vec();
    if modes & RESEALED != 0 {
        reseal_segment(&mut bytes, modes & RENUMBERED != 0);
    }
    if modes & FLIPPED != 0 {
        flip(&mut bytes, &head[1..3]);
    }
    let path = Path::new("segment");
    let header = read_header(path, &bytes);
    past_damage(&bytes, header.as_ref().ok(), modes & SEALED != 0);
    let Ok(header) = header else { return false };
    let sealed = match modes & (SEALED | SEALED_AT) {
        0 => None,
        SEALED => Some(bytes.len() as u32),
        _ => Some(u32::from(u16_at(&head[3..5]))),
    };

    let checksum = Checksum::of(header.identity);
    let source = Source { path, bytes: &bytes, checksum: &checksum };
    let mut visited = Vec::new();
    let result = read_segment(source, header.first_lsn, sealed, |located| {
        visited.push((located.offset as usize, located.record.lsn));
        Ok(())
    });

    if sealed.is_some_and(|sealed| sealed as usize > bytes.len()) {
        assert!(matches!(result, Err(Error::Corrupt { .. })), "cut off: {result:?}");
        return false;
    }
    let used = &bytes[..sealed.map_or(bytes.len(), |sealed| sealed as usize)];
    let naive = Naive::read(used, header.identity, header.first_lsn);
    assert_eq!(visited, naive.whole, "whole groups only, and all of them");
    match &result {
        Ok(end) => {
            assert_eq!((end.offset as usize, end.next_lsn), (naive.end, naive.next_lsn));
            let rest = used.get(naive.end..).unwrap_or_default();
            assert_eq!(end.torn, rest.iter().any(|&byte| byte != 0));
            assert!(sealed.is_none() || end.offset as usize == used.len(), "sealed: no rest");
            assert!(sealed.is_some() || !naive.durable_behind, "what was durable is not cut");
        }
        Err(Error::Corrupt { offset, .. }) => {
            assert!(*offset as usize <= used.len(), "{offset}");
            assert!(sealed.is_some() || naive.durable_behind, "a torn end is no damage");
        }
        Err(error) => panic!("reading from memory failed: {error}"),
    }

    let records = visited.iter().map_while(|&(offset, _)| bytes.get(offset..));
    replay(header, records.map_while(|record| record::decode(record, &checksum).ok()));
    result.is_ok() && !visited.is_empty()
}

/// Reads a segment as `verify` does, on behind damage, also where its header is damaged. Whatever the
/// bytes are, it goes forward: no record and no LSN is seen twice.
fn past_damage(bytes: &[u8], header: Option<&SegmentHeader>, sealed: bool) {
    let checksum = Checksum::of(header.map_or(0, |header| header.identity));
    let first_lsn = header.map(|header| header.first_lsn);
    let Some(first_lsn) = first_lsn.or_else(|| first_lsn_in(bytes, &checksum)) else { return };
    let source = Source { path: Path::new("segment"), bytes, checksum: &checksum };
    let sealed = sealed.then_some(bytes.len() as u32);
    let (mut offset, mut lsn) = (SEGMENT_HEADER_BYTES, first_lsn);
    let visit = |located: Located<'_>| {
        let at = located.offset as usize;
        assert!(at >= offset && located.record.lsn >= lsn, "at {at}, where {offset} is next");
        (offset, lsn) = (at + located.record.length, located.record.lsn + 1);
        Ok(())
    };
    let damaged = |damage: Damage| {
        assert!(damage.offset <= bytes.len());
        assert!(damage.until.is_none_or(|(until, _)| damage.offset <= until));
        Ok(())
    };
    let end = read_past_damage(source, first_lsn, sealed, visit, damaged);
    assert!(end.is_ok_and(|end| end.next_lsn >= lsn && end.offset as usize >= offset));
}

/// A second reading of a segment, as plain as can be.
struct Naive {
    /// Offset and LSN of the records of whole groups.
    whole: Vec<(usize, Lsn)>,
    /// Where the last whole group ends, and the LSN after it.
    end: usize,
    next_lsn: Lsn,
    /// Whether a record behind the first bad one says that that one was durable.
    durable_behind: bool,
}

impl Naive {
    fn read(bytes: &[u8], identity: u128, first_lsn: Lsn) -> Self {
        let mut naive = Self {
            whole: Vec::new(),
            end: SEGMENT_HEADER_BYTES,
            next_lsn: first_lsn,
            durable_behind: false,
        };
        let mut group = Vec::new();
        let (mut offset, mut lsn) = (SEGMENT_HEADER_BYTES, first_lsn);
        while let Some(record) = checked(bytes, offset, identity).filter(|it| u64_at(it, 8) == lsn)
        {
            group.push((offset, lsn));
            offset += record.len();
            lsn = after(record, lsn);
            if record[29] & 1 != 0 {
                naive.whole.append(&mut group);
                (naive.end, naive.next_lsn) = (offset, lsn);
            }
        }
        naive.durable_behind = (offset + record::ALIGNMENT..bytes.len())
            .step_by(record::ALIGNMENT)
            .filter_map(|start| checked(bytes, start, identity))
            .map(|record| (u64_at(record, 8), u64_at(record, 16)))
            .any(|(found, durable)| lsn <= durable && durable < found && found <= MAX_LSN);
        naive
    }
}

/// The record at an offset, if it checks out.
fn checked(bytes: &[u8], offset: usize, identity: u128) -> Option<&[u8]> {
    let rest = bytes.get(offset..)?;
    let length = u32_at(rest.get(..record::HEADER_BYTES)?, 4) as usize;
    let fits = length >= record::HEADER_BYTES && length.is_multiple_of(record::ALIGNMENT);
    let record = rest.get(..length).filter(|_| fits)?;
    let known = u32_at(record, 24) == 1 && record[29] <= 1 && record[30] == 0 && record[31] == 0;
    (known && record_crc(record, identity) == u32_at(record, 0)).then_some(record)
}

fn record_crc(record: &[u8], identity: u128) -> u32 {
    crc32fast::hash(&[&identity.to_le_bytes(), &record[4..]].concat())
}

/// Makes the checksums right of the header and of the records, as far as their lengths go.
fn reseal_segment(bytes: &mut [u8], renumbered: bool) {
    let Some(header) = bytes.first_chunk_mut::<SEGMENT_HEADER_BYTES>() else { return };
    let known = SegmentHeader { number: 1, identity: 0, first_lsn: 0, previous_length: 0 }.encode();
    // Magic and version.
    header[..12].copy_from_slice(&known[..12]);
    let crc = crc32fast::hash(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    let Ok(SegmentHeader { identity, first_lsn, .. }) = read_header(Path::new("segment"), header)
    else {
        return;
    };
    let mut offset = SEGMENT_HEADER_BYTES;
    let mut lsn = first_lsn;
    while let Some(rest) = bytes.get_mut(offset..)
        && rest.len() >= record::HEADER_BYTES
    {
        let length = u32_at(rest, 4) as usize;
        if length < record::HEADER_BYTES {
            break;
        }
        let Some(record) = rest.get_mut(..length) else { break };
        if renumbered {
            record[8..16].copy_from_slice(&lsn.to_le_bytes());
        }
        let crc = record_crc(record, identity);
        record[..4].copy_from_slice(&crc.to_le_bytes());
        offset += length;
        lsn = after(record, lsn);
    }
}

/// The LSN behind a record: the next one, or what a skip says, if that is further on.
fn after(record: &[u8], lsn: Lsn) -> Lsn {
    let dense = lsn.wrapping_add(1);
    if record[28] != 11 || record.len() < record::HEADER_BYTES + 8 {
        return dense;
    }
    let next = u64_at(record, record::HEADER_BYTES);
    if (dense..=MAX_LSN).contains(&next) { next } else { dense }
}

/// Decodes the effects, and replays those that a log can have.
fn replay<'a>(header: SegmentHeader, records: impl Iterator<Item = record::Record<'a>>) {
    let path = Path::new("segment");
    let Ok(file) = SimFs::new().create(path) else { return };
    let SegmentHeader { number, first_lsn, identity, .. } = header;
    let sealed = OnceLock::new();
    let segment = Segment { number, first_lsn, path: path.to_owned(), file, sealed };
    let mut replay = Replay::new(Manifest::new(identity).view());
    for record in records {
        if let Ok(effect) = Effect::decode(record.kind, record.payload) {
            if let Effect::Put(Put { key, .. })
            | Effect::Remove(Remove { key, .. })
            | Effect::Tombstone(Tombstone { removal: Remove { key, .. }, .. }) = &effect
            {
                assert!(!key.is_empty(), "an empty key has no place in the index");
            }
            let mut payload = Vec::new();
            effect.encode(&mut payload);
            assert_eq!(Effect::decode(effect.kind(), &payload), Ok(effect));
        }
        let located = Located { offset: 64, record };
        if replay.apply(&segment, located).is_err() {
            break;
        }
    }
    let state = &replay.view.state;
    let mut manifest = Manifest::of(identity, first_lsn, state, vec![segment_info(number)]);
    for index in manifest.indexes.values_mut() {
        // Not persisted.
        index.distribution = Default::default();
        index.owned_bytes = 0;
        index.buckets = Buckets::default();
    }
    check_manifest(&manifest);
}

/// A manifest: three bytes of modes, then the file or, where the checksum is made right, its body.
///
/// What is taken comes back as it went, also by way of the state; a flipped bit is refused
/// wherever it is.
pub fn manifest(data: &[u8]) -> bool {
    let Some((head, file)) = data.split_at_checked(MANIFEST_HEAD_BYTES) else { return false };
    let mut bytes = file.to_vec();
    if head[0] & RESEALED != 0 {
        bytes = Manifest::with_header(file);
    }
    let path = Path::new("manifest");
    let intact = Manifest::decode(path, &bytes);
    if let Ok(manifest) = &intact {
        check_manifest(manifest);
        if head[0] & FLIPPED != 0 {
            flip(&mut bytes, &head[1..3]);
            assert!(Manifest::decode(path, &bytes).is_err(), "a flipped bit goes unnoticed");
        }
    }
    intact.is_ok()
}

fn check_manifest(manifest: &Manifest) {
    let state = manifest.state();
    let again =
        Manifest::of(manifest.identity, manifest.checkpoint_lsn, &state, manifest.segments.clone());
    assert_eq!(&again, manifest);
    let encoded = manifest.encode();
    let decoded = encoded.map(|bytes| Manifest::decode(Path::new("manifest"), &bytes));
    assert!(matches!(&decoded, Ok(Ok(decoded)) if decoded == manifest), "{decoded:?}");
    for position in [0, 1, 4_999_999, 9_999_999, u32::MAX - 1] {
        let owned = state.owns(position, position + 1);
        assert!(!owned || state.bin(position).is_some_and(|bin| bin < 5), "{position}");
    }
    assert!(
        state.documents()
            >= state.indexes.values().map(|it| it.totals.documents).max().unwrap_or(0)
    );
}

fn segment_info(number: u32) -> SegmentInfo {
    SegmentInfo { number, length: 4096, tombstones: 112 }
}

fn flip(bytes: &mut [u8], place: &[u8]) {
    let place = usize::from(u16_at(place));
    if !bytes.is_empty() {
        let bit = place % 8;
        let byte = place % bytes.len();
        bytes[byte] ^= 1 << bit;
    }
}

fn u16_at(bytes: &[u8]) -> u16 {
    u16::from(bytes[0]) | u16::from(bytes[1]) << 8
}

const IDENTITY: u128 = 0x0f1e_2d3c_4b5a_6978_8796_a5b4_c3d2_e1f0;

/// Batches of effects, each a group where it has several.
fn batches() -> Vec<Vec<Effect<'static>>> {
    let put = Put {
        index: 1,
        position: 1_671_936,
        version: 3,
        expires_at: 0,
        replaced: None,
        key: b"test",
        document: b"\xabhello world",
    };
    let replaced = Replaced {
        bytes: 16,
        segment: 1,
        first_segment: 1,
        content_hash: (u128::MAX / 3).into(),
        version: 3,
    };
    let removal =
        Remove { index: 1, position: 1_671_936, replaced, reason: Reason::Expired, key: b"test" };
    let other = Put { position: 8_204_544, version: 4, key: b"test1", document: b"\x01", ..put };
    vec![
        vec![Effect::Assign(assignment())],
        vec![Effect::CreateIndex(CreateIndex {
            id: 1,
            name: "cities".to_owned(),
            settings: IndexSettings::default(),
        })],
        vec![
            Effect::Put(put),
            Effect::Put(other),
            Effect::Put(Put { version: 5, key: b"k", ..put }),
        ],
        vec![Effect::Put(Put { version: 6, replaced: Some(replaced), document: b"", ..put })],
        vec![Effect::Remove(removal)],
        vec![Effect::Tombstone(Tombstone { version: 7, removal })],
        vec![Effect::Lock(Lock { owner: "bootstrap".to_owned() })],
        vec![Effect::Release],
        vec![Effect::Skip(1 << 20)],
        vec![Effect::Receive(Incoming { id: "1".to_owned(), ranges: vec![(1, 5)], note: vec![7] })],
        vec![Effect::StopReceiving],
        vec![Effect::SetLimit(SetLimit { limit: 7, policy: Some(Policy::Lru) })],
        vec![Effect::DropIndex(DropIndex { id: 1 })],
    ]
}

fn assignment() -> Assignment {
    Assignment {
        cluster: "cluster".to_owned(),
        name: "shard0-0.5".to_owned(),
        hash_method: "md5".to_owned(),
        epoch: 3,
        lineage: 5,
        ranges: vec![(0, 5_000_000), (8_000_000, 10_000_000)],
        limit: 1024,
        policy: Policy::Reject,
    }
}

/// A segment of these batches, and where each batch ends.
fn segment(batches: &[Vec<Effect<'_>>]) -> (Vec<u8>, Vec<usize>) {
    let header = SegmentHeader { number: 1, identity: IDENTITY, first_lsn: 1, previous_length: 0 };
    let mut bytes = header.encode().to_vec();
    let mut ends = vec![bytes.len()];
    let mut lsn = 1;
    for batch in batches {
        let (start, durable) = (bytes.len(), lsn - 1);
        for effect in batch {
            record::append(&mut bytes, lsn, durable, effect.kind(), |out| effect.encode(out));
            lsn = if let Effect::Skip(next) = effect { *next } else { lsn + 1 };
        }
        record::seal(&mut bytes[start..], &Checksum::of(IDENTITY));
        ends.push(bytes.len());
    }
    (bytes, ends)
}

/// What the corpus of [`log_reader`] begins with: name and bytes.
pub fn log_reader_seeds() -> Vec<(String, Vec<u8>)> {
    let (whole, ends) = segment(&batches());
    let seed = |modes: u8, numbers: [u16; 2], segment: &[u8]| {
        let [flipped, sealed] = numbers.map(u16::to_le_bytes);
        [&[modes][..], &flipped, &sealed, segment].concat()
    };
    let padded = [&whole[..], &[0; 256]].concat();
    let length = whole.len() as u16;
    // The last batch of several records, as the end of the log.
    let group = &whole[..ends[3]];
    let torn = |from: usize| [&group[..from], &[0; 128]].concat();
    let last_record = ends[3] - record::HEADER_BYTES - 72;
    let log_in_a_document = {
        let document = &whole[SEGMENT_HEADER_BYTES..];
        let put = Put {
            index: 1,
            position: 5,
            version: 2,
            expires_at: 0,
            replaced: None,
            key: b"log",
            document,
        };
        let create = Effect::CreateIndex(CreateIndex {
            id: 1,
            name: "i".to_owned(),
            settings: IndexSettings::default(),
        });
        segment(&[vec![create], vec![Effect::Put(put)]]).0
    };
    let mut seeds = vec![
        ("empty", seed(0, [0, 0], &whole[..SEGMENT_HEADER_BYTES])),
        ("whole", seed(0, [0, 0], &padded)),
        ("sealed", seed(SEALED, [0, 0], &whole)),
        ("sealed-inside-zeros", seed(SEALED_AT, [0, length], &padded)),
        ("sealed-and-cut-off", seed(SEALED_AT, [0, length], &whole[..ends[4]])),
        ("sealed-inside-a-group", seed(SEALED, [0, 0], &whole[..last_record])),
        ("sealed-inside-the-header", seed(SEALED_AT, [0, 10], &whole)),
        ("torn-tail", seed(0, [0, 0], &torn(ends[3] - 8))),
        ("torn-group", seed(0, [0, 0], &torn(last_record))),
        ("torn-first-record", seed(0, [0, 0], &torn(ends[2] + 40))),
        ("damaged-with-a-witness", seed(FLIPPED, [ends[2] as u16 + 50, 0], &padded)),
        ("damaged-at-the-end", seed(FLIPPED, [ends[8] as u16 + 9, 0], &padded)),
        ("damaged-and-sealed", seed(FLIPPED | SEALED, [ends[5] as u16, 0], &whole)),
        ("cut-in-the-header", seed(0, [0, 0], &whole[..60])),
        ("resealed", seed(RESEALED, [0, 0], &padded)),
        ("resealed-and-renumbered", seed(RESEALED | RENUMBERED, [0, 0], &padded)),
        ("resealed-and-sealed", seed(RESEALED | RENUMBERED | SEALED, [0, 0], &whole)),
        ("resealed-and-flipped", seed(RESEALED | FLIPPED, [ends[4] as u16 + 3, 0], &padded)),
        ("log-in-a-document", seed(0, [0, 0], &log_in_a_document)),
        ("log-in-a-torn-document", seed(FLIPPED, [ends[1] as u16 + 40, 0], &log_in_a_document)),
    ]
    .into_iter()
    .map(|(name, bytes)| (name.to_owned(), bytes))
    .collect::<Vec<_>>();
    for batch in batches() {
        let name = format!("effect-{}", batch[0].kind());
        let (bytes, _) = segment(&[batch]);
        seeds.push((name, seed(RESEALED | RENUMBERED, [0, 0], &bytes)));
    }
    let keyless = Effect::Put(Put {
        index: 1,
        position: 5,
        version: 1,
        expires_at: 0,
        replaced: None,
        key: b"",
        document: b"",
    });
    let (bytes, _) = segment(&[vec![keyless]]);
    seeds.push(("effect-1-without-a-key".to_owned(), seed(RESEALED, [0, 0], &bytes)));
    seeds
}

/// What the corpus of [`manifest`] begins with: name and bytes.
pub fn manifest_seeds() -> Vec<(String, Vec<u8>)> {
    let totals = Totals { documents: 3, bytes: 99, digest: u128::MAX / 3, versions: 9 };
    let index = |name: &str| IndexState {
        name: name.into(),
        totals,
        settings: IndexSettings::default(),
        removals: Removals::default(),
        distribution: [0; 5],
        owned_bytes: 0,
        buckets: Buckets::default(),
    };
    let empty = Manifest::new(IDENTITY);
    let full = Manifest {
        checkpoint_lsn: 12,
        indexes: BTreeMap::from([(4, index("cities")), (7, index("people"))]),
        assignment: Some(assignment()),
        locked_by: Some("bootstrap".to_owned()),
        highest_index_id: 9,
        ..Manifest::of(IDENTITY, 12, &empty.state(), [1, 2, 3].map(segment_info).to_vec())
    };
    let mut overflowing = full.clone();
    for index in overflowing.indexes.values_mut() {
        index.totals.documents = u64::MAX;
        index.totals.bytes = u64::MAX - 1;
    }
    let mut seeds = Vec::new();
    let named = [("empty", empty), ("full", full), ("overflowing", overflowing)];
    for (name, manifest) in named {
        let bytes = manifest.encode().unwrap_or_default();
        let body = &bytes[manifest::HEADER_BYTES.min(bytes.len())..];
        for (mode, head, bytes) in [
            ("raw", [0, 0, 0], &bytes[..]),
            ("flipped", [FLIPPED, 9, 0], &bytes[..]),
            ("cut", [0, 0, 0], &bytes[..bytes.len() / 2]),
            ("resealed", [RESEALED, 0, 0], body),
            ("resealed-and-flipped", [RESEALED | FLIPPED, 40, 0], body),
        ] {
            seeds.push((format!("{name}-{mode}"), [&head[..], bytes].concat()));
        }
    }
    seeds
}
