//! The append log: the database itself.
//!
//! Numbered segments, each a header and then records (`record`). One thread appends
//! ([`LogWriter`]), any thread reads by offset ([`Segments`]). Only the last segment grows; the
//! others are *sealed*: the header of the segment after each says how long it is and with which
//! LSN it ends, so that a sealed segment that lost its end is noticed.
//!
//! Segments are written with zeros before they are used. A sync then has only data to write, which
//! on ext4 takes two thirds of the time it takes where blocks have to be allocated or converted.
//!
//! Reading a segment ([`read_segment`]) tells two kinds of bad bytes apart: the torn end of a
//! batch that was never acknowledged, which is cut, and damage to bytes that were durable, which is
//! reported with file and offset and never cut.

mod reader;
pub(crate) mod record;
mod segment;
mod writer;

pub(crate) use reader::{
    Damage, Located, SegmentEnd, Source, first_lsn_in, read_past_damage, read_segment,
};
pub(crate) use segment::{
    FORMAT_VERSION, FORMAT_VERSIONS_READ, SEGMENT_HEADER_BYTES, Segment, SegmentHeader, Segments,
    read_header, segment_name, segment_number,
};
pub(crate) use writer::{LogWriter, Purpose, SPARE};

/// The directory of the segments, in the data directory.
pub(crate) const LOG_DIR: &str = "log";

/// A log sequence number: dense from 1, one for each record.
pub(crate) type Lsn = u64;

/// The highest LSN that is believed where a file has one. No log comes near it, and what is counted
/// on from there does not overflow.
pub(crate) const MAX_LSN: Lsn = Lsn::MAX / 2;
