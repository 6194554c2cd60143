//! Segments: their names, headers and open files.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | magic `SHERDLOG` |
//! | 8 | 4 | format version: 3 is written, 2 is read too |
//! | 12 | 4 | number of the segment |
//! | 16 | 16 | identity of the data directory |
//! | 32 | 8 | LSN of the first record |
//! | 40 | 4 | length of the segment before this one, 0 for the first |
//! | 44 | 16 | 0 |
//! | 60 | 4 | CRC-32 of the bytes before |

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;

use crate::error::{Error, Result};
use crate::fs::File;
use crate::log::record::{u32_at, u64_at, u128_at};
use crate::log::{Lsn, MAX_LSN};

/// The bytes before the first record.
pub(crate) const SEGMENT_HEADER_BYTES: usize = 64;

/// The version of the on-disk format: segments, records and effects.
pub(crate) const FORMAT_VERSION: u32 = 3;

/// The versions that can be read: 3 adds to 2 settings of indexes, and why documents were removed.
pub(crate) const FORMAT_VERSIONS_READ: RangeInclusive<u32> = 2..=FORMAT_VERSION;

const MAGIC: &[u8; 8] = b"SHERDLOG";
const EXTENSION: &str = ".log";

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub(crate) number: u32,
    pub(crate) identity: u128,
    pub(crate) first_lsn: Lsn,
    pub(crate) previous_length: u32,
}

impl SegmentHeader {
    pub(crate) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.identity.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.first_lsn.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.previous_length.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }
}

/// Decodes the header of the segment at `path`.
///
/// # Errors
/// [`Error::Corrupt`] or [`Error::UnknownFormat`].
pub(crate) fn read_header(path: &Path, bytes: &[u8]) -> Result<SegmentHeader> {
    let corrupt = |offset, what: &str| Error::corrupt(path, offset, what);
    let header = bytes
        .get(..SEGMENT_HEADER_BYTES)
        .ok_or_else(|| corrupt(bytes.len(), "the segment's header is cut off"))?;
    if &header[..8] != MAGIC {
        return Err(corrupt(0, "no segment of a Sherd log"));
    }
    let version = u32_at(header, 8);
    if crc32fast::hash(&header[..60]) != u32_at(header, 60) {
        return Err(corrupt(0, "the checksum of the segment's header is wrong"));
    }
    if !FORMAT_VERSIONS_READ.contains(&version) {
        return Err(Error::UnknownFormat {
            file: path.to_owned(),
            found: version,
            known: FORMAT_VERSION,
        });
    }
    let first_lsn = u64_at(header, 32);
    if !(1..=MAX_LSN).contains(&first_lsn) {
        return Err(corrupt(32, "the LSN in the segment's header is impossible"));
    }
    Ok(SegmentHeader {
        number: u32_at(header, 12),
        identity: u128_at(header, 16),
        first_lsn,
        previous_length: u32_at(header, 40),
    })
}

/// The name of a segment's file.
pub(crate) fn segment_name(number: u32) -> String {
    format!("{number:010}{EXTENSION}")
}

/// The number in the name of a segment's file; `None` for other files.
pub(crate) fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(EXTENSION)?;
    let number = digits.parse().ok()?;
    (segment_name(number) == name).then_some(number)
}

/// A segment that can be read.
pub(crate) struct Segment {
    pub(crate) number: u32,
    pub(crate) first_lsn: Lsn,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    /// Its length, once it is sealed.
    pub(crate) sealed: OnceLock<u32>,
}

/// The segments of a log, by number.
#[derive(Default)]
pub(crate) struct Segments(RwLock<BTreeMap<u32, Arc<Segment>>>);

impl Segments {
    pub(crate) fn add(&self, segment: Segment) -> Arc<Segment> {
        let segment = Arc::new(segment);
        self.0.write().insert(segment.number, Arc::clone(&segment));
        segment
    }

    pub(crate) fn get(&self, number: u32) -> Option<Arc<Segment>> {
        self.0.read().get(&number).map(Arc::clone)
    }

    /// The number of the first one; 0 where there is none.
    pub(crate) fn first(&self) -> u32 {
        self.0.read().keys().next().copied().unwrap_or(0)
    }

    /// Whether one in a range is as asked.
    pub(crate) fn any(&self, range: RangeInclusive<u32>, is: impl Fn(u32) -> bool) -> bool {
        // A record that lies may give a range that ends before it begins.
        !range.is_empty() && self.0.read().range(range).any(|(&number, _)| is(number))
    }

    /// Takes a segment out. Who holds it may read on.
    pub(crate) fn remove(&self, number: u32) -> Option<Arc<Segment>> {
        self.0.write().remove(&number)
    }

    /// All, in the order of their numbers.
    pub(crate) fn all(&self) -> Vec<Arc<Segment>> {
        self.0.read().values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_and_every_flipped_bit_is_noticed() {
        let header =
            SegmentHeader { number: 3, identity: 5 << 100, first_lsn: 77, previous_length: 4096 };
        let bytes = header.encode();
        let path = Path::new("log");
        assert_eq!(read_header(path, &bytes), Ok(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(read_header(path, &flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn an_unknown_format_is_refused_with_both_versions_named() {
        let header = SegmentHeader { number: 1, identity: 1, first_lsn: 1, previous_length: 0 };
        let mut bytes = header.encode();
        bytes[8] = 9;
        let crc = crc32fast::hash(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        let error = read_header(Path::new("x.log"), &bytes).unwrap_err();
        assert_eq!(error.to_string(), "x.log: format version 9 is not known here, 3 is");
    }

    #[test]
    fn only_names_of_segments_have_numbers() {
        assert_eq!(segment_number(&segment_name(42)), Some(42));
        for name in ["spare", "42.log", "0000000042.log.new", "00000000x2.log"] {
            assert_eq!(segment_number(name), None);
        }
    }
}
