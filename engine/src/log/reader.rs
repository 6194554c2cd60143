//! Reading a segment from its first record to its end.

use std::path::Path;

use crate::error::{Error, Result};
use crate::log::record::{self, ALIGNMENT, Checksum, HEADER_BYTES, Record, u64_at};
use crate::log::segment::SEGMENT_HEADER_BYTES;
use crate::log::{Lsn, MAX_LSN};

/// A record and where it lies in its segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Located<'a> {
    pub(crate) offset: u32,
    pub(crate) record: Record<'a>,
}

/// Where the records of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentEnd {
    /// The offset after the last record of the last whole group.
    pub(crate) offset: u32,
    /// The LSN that the next record has.
    pub(crate) next_lsn: Lsn,
    /// Whether something other than zeros follows: the torn end of an unacknowledged batch.
    pub(crate) torn: bool,
}

/// A segment's file as it was read.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) path: &'a Path,
    pub(crate) bytes: &'a [u8],
    pub(crate) checksum: &'a Checksum,
}

/// Bytes that were durable and do not check out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Damage {
    pub(crate) offset: usize,
    pub(crate) what: &'static str,
    /// Where the next whole record begins and its LSN; `None` when there is none any more.
    pub(crate) until: Option<(usize, Lsn)>,
}

/// Visits the records of a segment, whole groups only, in the order of their LSNs.
///
/// `first_lsn` is what its header says. `sealed` is the length that the
/// next segment's header gives; the last segment has none, and only there may the end be torn.
///
/// # Errors
/// [`Error::Corrupt`] at the first record that was durable and does not check out; what `visit`
/// returns.
pub(crate) fn read_segment(
    source: Source<'_>,
    first_lsn: Lsn,
    sealed: Option<u32>,
    visit: impl FnMut(Located<'_>) -> Result<()>,
) -> Result<SegmentEnd> {
    read_past_damage(source, first_lsn, sealed, visit, |Damage { offset, what, .. }| {
        Err(Error::corrupt(source.path, offset, what))
    })
}

/// As [`read_segment`], but goes on behind damage as long as `damaged` does not fail, with the next
/// record that checks out. Of a group that is damaged in part, the rest is visited.
///
/// # Errors
/// What `visit` and `damaged` return.
pub(crate) fn read_past_damage(
    Source { bytes, checksum, .. }: Source<'_>,
    first_lsn: Lsn,
    sealed: Option<u32>,
    mut visit: impl FnMut(Located<'_>) -> Result<()>,
    mut damaged: impl FnMut(Damage) -> Result<()>,
) -> Result<SegmentEnd> {
    let limit = sealed.map_or(bytes.len(), |length| length as usize);
    let is_cut_off = bytes.len() < limit;
    if is_cut_off {
        damaged(Damage { offset: bytes.len(), what: "the segment is cut off", until: None })?;
    }
    let bytes = &bytes[..limit.min(bytes.len())];
    if limit < SEGMENT_HEADER_BYTES {
        let what = "the segment ends inside its header";
        damaged(Damage { offset: bytes.len(), what, until: None })?;
    }
    let mut offset = SEGMENT_HEADER_BYTES;
    let mut end = SegmentEnd { offset: offset as u32, next_lsn: first_lsn, torn: false };
    let mut next_lsn = first_lsn;
    let mut group = Vec::new();
    while offset < bytes.len() {
        let record = match record::decode(&bytes[offset..], checksum) {
            Ok(record) if record.lsn == next_lsn => record,
            _ if sealed.is_none() && !was_durable(bytes, checksum, offset, next_lsn) => break,
            found => {
                let until = next_record(bytes, checksum, offset, next_lsn);
                if is_cut_off && until.is_none() {
                    break;
                }
                let what = found.err().unwrap_or("the record's LSN is out of order");
                damaged(Damage { offset, what, until })?;
                for located in group.drain(..) {
                    visit(located)?;
                }
                (offset, next_lsn) = until.unwrap_or((bytes.len(), next_lsn));
                end = SegmentEnd { offset: offset as u32, next_lsn, torn: false };
                continue;
            }
        };
        group.push(Located { offset: offset as u32, record });
        offset += record.length;
        next_lsn = record.next_lsn();
        if record.last_of_group {
            for located in group.drain(..) {
                visit(located)?;
            }
            end = SegmentEnd { offset: offset as u32, next_lsn, torn: false };
        }
    }
    if sealed.is_some() && !group.is_empty() {
        let until = Some((offset, next_lsn));
        if !is_cut_off {
            let what = "a group of records is cut off";
            damaged(Damage { offset: end.offset as usize, what, until })?;
        }
        for located in group.drain(..) {
            visit(located)?;
        }
        end = SegmentEnd { offset: offset as u32, next_lsn, torn: false };
    }
    end.torn = bytes[(end.offset as usize).min(bytes.len())..].iter().any(|&byte| byte != 0);
    Ok(end)
}

/// The first record at or behind `offset` that checks out and may follow there: its offset and LSN.
fn next_record(
    bytes: &[u8],
    checksum: &Checksum,
    offset: usize,
    next_lsn: Lsn,
) -> Option<(usize, Lsn)> {
    let last_start = bytes.len().saturating_sub(HEADER_BYTES);
    // What is damaged may have been a skip.
    let plausible = |start: &usize| (next_lsn..=MAX_LSN).contains(&u64_at(&bytes[*start..], 8));
    (offset..=last_start).step_by(ALIGNMENT).filter(plausible).find_map(|start| {
        let record = record::decode(&bytes[start..], checksum).ok()?;
        Some((start, record.lsn))
    })
}

/// The LSN of the first record that checks out, of a segment whose header does not tell. The header
/// would not have had an impossible one either.
pub(crate) fn first_lsn_in(bytes: &[u8], checksum: &Checksum) -> Option<Lsn> {
    let last_start = bytes.len().saturating_sub(HEADER_BYTES);
    (SEGMENT_HEADER_BYTES..=last_start)
        .step_by(ALIGNMENT)
        .filter_map(|start| record::decode(&bytes[start..], checksum).ok())
        .map(|record| record.lsn)
        .find(|lsn| (1..=MAX_LSN).contains(lsn))
}

/// Whether a record behind `offset` testifies that the record `lsn` was durable.
///
/// Records of one batch say the same durable LSN, that of the batch before, so nothing in a torn
/// batch testifies for itself; and nothing is written behind a batch before it is durable.
fn was_durable(bytes: &[u8], checksum: &Checksum, offset: usize, lsn: Lsn) -> bool {
    let last_start = bytes.len().saturating_sub(HEADER_BYTES);
    let plausible = |start: &usize| {
        let bytes = &bytes[*start..];
        // Cheap tests first: most of a tail is zeros.
        let (found, durable) = (u64_at(bytes, 8), u64_at(bytes, 16));
        durable >= lsn && found > durable && found <= MAX_LSN
    };
    (offset + ALIGNMENT..=last_start)
        .step_by(ALIGNMENT)
        .filter(plausible)
        .any(|start| record::decode(&bytes[start..], checksum).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three batches of two records; each says that the one before was durable.
    fn segment() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
        let mut ends = vec![bytes.len()];
        for batch in 0..3 {
            let start = bytes.len();
            for record in 1..=2 {
                let payload = [record as u8; 24];
                record::append(&mut bytes, batch * 2 + record, batch * 2, 1, |out| {
                    out.extend_from_slice(&payload);
                });
            }
            record::seal(&mut bytes[start..], &Checksum::of(1));
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn read(bytes: &[u8], sealed: Option<u32>) -> Result<(SegmentEnd, u64)> {
        let mut visited = 0;
        let source = Source { path: Path::new("s"), bytes, checksum: &Checksum::of(1) };
        let end = read_segment(source, 1, sealed, |located| {
            visited += 1;
            assert_eq!(located.record.lsn, visited);
            Ok(())
        })?;
        Ok((end, visited))
    }

    #[test]
    fn a_cut_at_any_byte_leaves_the_whole_groups_before_it() {
        let (bytes, ends) = segment();
        for cut in SEGMENT_HEADER_BYTES..=bytes.len() {
            let groups = ends.iter().filter(|&&end| end <= cut).count() - 1;
            for zeros in [0, 64] {
                let tail = [&bytes[..cut], &vec![0; zeros][..]].concat();
                let (end, visited) = read(&tail, None).unwrap();
                assert_eq!(visited as usize, groups * 2, "cut at {cut}");
                assert_eq!(end.offset as usize, ends[groups]);
                assert_eq!(end.next_lsn, visited + 1);
            }
        }
    }

    #[test]
    fn a_flip_in_a_sealed_segment_is_found_wherever_it_is() {
        let (bytes, _) = segment();
        for byte in SEGMENT_HEADER_BYTES..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[byte] ^= 0x10;
            let error = read(&flipped, Some(bytes.len() as u32)).unwrap_err();
            let Error::Corrupt { offset, .. } = error else { panic!("{error}") };
            assert!(offset as usize <= byte && byte < offset as usize + 64);
        }
        let error = read(&bytes[..bytes.len() - 8], Some(bytes.len() as u32)).unwrap_err();
        assert!(error.to_string().contains("cut off"), "{error}");
    }

    #[test]
    fn a_flip_in_the_last_segment_is_damage_where_a_later_batch_testifies_and_torn_otherwise() {
        let (bytes, ends) = segment();
        for byte in SEGMENT_HEADER_BYTES..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[byte] ^= 0x10;
            if byte < ends[2] {
                let error = read(&flipped, None).unwrap_err();
                let Error::Corrupt { offset, .. } = error else { panic!("{error}") };
                assert!(offset as usize <= byte);
            } else {
                let (end, visited) = read(&flipped, None).unwrap();
                assert_eq!((end.offset as usize, visited, end.torn), (ends[2], 4, true));
            }
        }
    }

    /// One near 2^64 overflowed when the records behind it were counted.
    #[test]
    fn a_first_lsn_that_no_log_comes_to_is_not_taken() {
        let checksum = Checksum::of(1);
        for impossible in [0, MAX_LSN + 1, Lsn::MAX] {
            let mut bytes = vec![0; SEGMENT_HEADER_BYTES];
            record::append(&mut bytes, impossible, 0, 1, |out| out.extend_from_slice(&[1; 24]));
            let second = bytes.len();
            record::append(&mut bytes, 7, 6, 1, |out| out.extend_from_slice(&[2; 24]));
            record::seal(&mut bytes[SEGMENT_HEADER_BYTES..second], &checksum);
            assert_eq!(first_lsn_in(&bytes[..second], &checksum), None);
            record::seal(&mut bytes[second..], &checksum);
            assert_eq!(first_lsn_in(&bytes, &checksum), Some(7));
        }
    }
}
