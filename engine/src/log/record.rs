//! Records: how one effect lies in the log.
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 4 | CRC-32 (IEEE) of the identity of the data directory (16 bytes) and of all that follows in the record, padding included |
//! | 4 | 4 | length of the record in bytes, a multiple of 8 |
//! | 8 | 8 | LSN |
//! | 16 | 8 | the last LSN that was durable when this record was written |
//! | 24 | 4 | term, 1 |
//! | 28 | 1 | kind of the effect |
//! | 29 | 1 | flags: bit 0, last of its group |
//! | 30 | 2 | 0; bit 0 is reserved for 16 more header bytes, the writer's identity and sequence |
//! | 32 | | payload, then zeros up to the length |
//!
//! Integers are little-endian. Records of one atomic batch form a *group*: consecutive LSNs, of
//! which the last carries the flag. A group whose last record is missing never happened.
//!
//! LSNs are dense, but for a record of kind 11, a *skip*: its payload begins with the LSN that the
//! next record has. So a shard takes documents over whose versions are ahead of its own LSNs.
//!
//! The identity makes the records of one directory unlike those of any other: a document may hold
//! the bytes of a log, and they must not be taken for records of this one.
//!
//! The durable LSN tells a torn tail from damage. A record that does not check out, with a later
//! record behind it that says it was durable, was damaged after it was synced; without such a
//! witness it belongs to a batch that was never acknowledged.

use crate::defect::{Defect, Defects};
use crate::fs::File;
use crate::log::{Lsn, MAX_LSN};

/// The bytes before the payload.
pub(crate) const HEADER_BYTES: usize = 32;

/// Records begin at multiples of this.
pub(crate) const ALIGNMENT: usize = 8;

/// The kind of a record behind which LSNs go on with a higher one.
pub(crate) const SKIP: u8 = 11;

const TERM: u32 = 1;
const LAST_OF_GROUP: u8 = 1;

/// A record that checked out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) lsn: Lsn,
    pub(crate) durable: Lsn,
    pub(crate) kind: u8,
    pub(crate) last_of_group: bool,
    /// With the padding.
    pub(crate) payload: &'a [u8],
    /// Of the whole record.
    pub(crate) length: usize,
}

impl Record<'_> {
    /// The LSN that the next record has.
    pub(crate) fn next_lsn(&self) -> Lsn {
        let dense = self.lsn + 1;
        if self.kind != SKIP || self.payload.len() < 8 {
            return dense;
        }
        // One that does not go forward, or too far, is no skip: what follows does not fit it.
        let next = u64_at(self.payload, 0);
        if (dense..=MAX_LSN).contains(&next) { next } else { dense }
    }
}

/// Computes the checksums of a data directory's records.
#[derive(Clone)]
pub(crate) struct Checksum {
    hasher: crc32fast::Hasher,
    defects: Defects,
}

impl Checksum {
    pub(crate) fn of(identity: u128) -> Self {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&identity.to_le_bytes());
        Self { hasher, defects: Defects::default() }
    }

    pub(crate) fn with(self, defects: Defects) -> Self {
        Self { defects, ..self }
    }

    fn sum(&self, record: &[u8]) -> u32 {
        let mut hasher = self.hasher.clone();
        hasher.update(&record[4..]);
        hasher.finalize()
    }
}

/// The LSN of the record at an offset of a segment, which was found to check out before.
pub(crate) fn lsn_at(file: &dyn File, offset: u32) -> std::io::Result<Lsn> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, u64::from(offset))?;
    Ok(u64_at(&header, 8))
}

/// Appends a record to `out`; `payload` appends its payload. The CRC is left for [`seal`], which
/// also says which record is the last of its group.
pub(crate) fn append(
    out: &mut Vec<u8>,
    lsn: Lsn,
    durable: Lsn,
    kind: u8,
    payload: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&lsn.to_le_bytes());
    out.extend_from_slice(&durable.to_le_bytes());
    out.extend_from_slice(&TERM.to_le_bytes());
    out.extend_from_slice(&[kind, 0, 0, 0]);
    payload(out);
    out.resize(start + (out.len() - start).next_multiple_of(ALIGNMENT), 0);
    let length = (out.len() - start) as u32;
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
}

/// Fills in the checksums of the records in `group` and marks the last.
pub(crate) fn seal(mut group: &mut [u8], checksum: &Checksum) {
    while !group.is_empty() {
        let length = u32_at(group, 4) as usize;
        let (record, rest) = group.split_at_mut(length);
        if rest.is_empty() {
            record[29] |= LAST_OF_GROUP;
        }
        let crc = checksum.sum(record);
        record[..4].copy_from_slice(&crc.to_le_bytes());
        group = rest;
    }
}

/// Decodes the record that `bytes` begin with.
///
/// # Errors
/// What does not check out.
pub(crate) fn decode<'a>(bytes: &'a [u8], checksum: &Checksum) -> Result<Record<'a>, &'static str> {
    if bytes.len() < HEADER_BYTES {
        return Err("the record's header is cut off");
    }
    let length = u32_at(bytes, 4) as usize;
    if length < HEADER_BYTES || !length.is_multiple_of(ALIGNMENT) {
        return Err("the record's length is impossible");
    }
    let Some(record) = bytes.get(..length) else { return Err("the record is cut off") };
    let ignored = checksum.defects.has(Defect::ChecksumIgnored);
    if checksum.sum(record) != u32_at(record, 0) && !ignored {
        return Err("the record's checksum is wrong");
    }
    if u32_at(record, 24) != TERM || record[29] & !LAST_OF_GROUP != 0 || record[30..32] != [0, 0] {
        return Err("the record has features of a later version");
    }
    Ok(Record {
        lsn: u64_at(record, 8),
        durable: u64_at(record, 16),
        kind: record[28],
        last_of_group: record[29] & LAST_OF_GROUP != 0,
        payload: &record[HEADER_BYTES..],
        length,
    })
}

/// Reads a little-endian integer; the caller has checked that it is there.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    let mut array = [0; 4];
    array.copy_from_slice(&bytes[offset..offset + 4]);
    u32::from_le_bytes(array)
}

/// Reads a little-endian integer; the caller has checked that it is there.
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> u64 {
    let mut array = [0; 8];
    array.copy_from_slice(&bytes[offset..offset + 8]);
    u64::from_le_bytes(array)
}

/// Reads a little-endian integer; the caller has checked that it is there.
pub(crate) fn u128_at(bytes: &[u8], offset: usize) -> u128 {
    let mut array = [0; 16];
    array.copy_from_slice(&bytes[offset..offset + 16]);
    u128::from_le_bytes(array)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Vec<u8> {
        let mut bytes = Vec::new();
        append(&mut bytes, 7, 6, 1, |out| out.extend_from_slice(b"first"));
        append(&mut bytes, 8, 6, 2, |out| out.extend_from_slice(b"the second"));
        seal(&mut bytes, &Checksum::of(1));
        bytes
    }

    #[test]
    fn records_come_back_and_the_last_of_a_group_is_marked() {
        let bytes = group();
        let first = decode(&bytes, &Checksum::of(1)).unwrap();
        assert_eq!((first.lsn, first.durable, first.kind), (7, 6, 1));
        assert_eq!(first.payload, b"first\0\0\0");
        assert!(!first.last_of_group);
        let second = decode(&bytes[first.length..], &Checksum::of(1)).unwrap();
        assert_eq!(second.payload, b"the second\0\0\0\0\0\0");
        assert!(second.last_of_group);
        assert_eq!(first.length + second.length, bytes.len());
    }

    #[test]
    fn a_skip_says_what_comes_next_and_never_goes_back() {
        for (to, next) in [(8, 8), (9, 9), (1 << 40, 1 << 40), (7, 8), (0, 8), (MAX_LSN + 1, 8)] {
            let mut bytes = Vec::new();
            append(&mut bytes, 7, 6, SKIP, |out| out.extend_from_slice(&Lsn::to_le_bytes(to)));
            seal(&mut bytes, &Checksum::of(1));
            assert_eq!(decode(&bytes, &Checksum::of(1)).unwrap().next_lsn(), next, "{to}");
        }
        assert_eq!(decode(&group(), &Checksum::of(1)).unwrap().next_lsn(), 8);
    }

    #[test]
    fn a_record_of_another_directory_is_none_here() {
        assert!(decode(&group(), &Checksum::of(2)).is_err());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let bytes = group();
        let first = decode(&bytes, &Checksum::of(1)).unwrap();
        for bit in 0..first.length * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, &Checksum::of(1)).is_err(), "bit {bit}");
        }
        for cut in 0..first.length {
            assert!(decode(&bytes[..cut], &Checksum::of(1)).is_err(), "cut at {cut}");
        }
    }
}
