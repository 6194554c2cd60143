//! The log as it is found.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::replay::decode;
use crate::error::{Error, Result};
use crate::fs::Fs;
use crate::log::record::Checksum;
use crate::log::{
    Located, Lsn, SEGMENT_HEADER_BYTES, Segment, SegmentEnd, Segments, Source, read_header,
    read_segment, segment_name, segment_number,
};
use crate::manifest::Manifest;

/// The segments as they are found, before anything is replayed.
pub(super) struct Log {
    pub(super) dir: PathBuf,
    pub(super) segments: Arc<Segments>,
    pub(super) checksum: Checksum,
    /// In the order of their numbers. All but the last one are sealed.
    pub(super) found: Vec<Arc<Segment>>,
    /// Files of segments that were deleted, but for the file.
    pub(super) leftovers: Vec<PathBuf>,
}

impl Log {
    /// Opens the segments and checks that their headers make a chain and that none is missing
    /// that was not deleted.
    pub(super) fn open(fs: &dyn Fs, dir: &Path, manifest: &Manifest) -> Result<Self> {
        let failed = |error| Error::io("list the log", dir, error);
        let names = fs.list(dir).map_err(failed)?;
        let mut files: BTreeMap<u32, PathBuf> = BTreeMap::new();
        for name in names {
            if let Some(number) = segment_number(&name) {
                files.insert(number, dir.join(name));
            }
        }
        let listed: BTreeMap<u32, u32> =
            manifest.segments.iter().map(|segment| (segment.number, segment.length)).collect();
        if let Some(number) = listed.keys().find(|number| !files.contains_key(number)) {
            let path = dir.join(segment_name(*number));
            return Err(Error::corrupt(path, 0, "a segment that the manifest names is missing"));
        }
        let last_listed = listed.keys().next_back().copied().unwrap_or(0);
        let is_there = |number: &u32| listed.contains_key(number) || *number > last_listed;
        let (files, leftovers): (BTreeMap<_, _>, BTreeMap<_, _>) =
            files.into_iter().partition(|(number, _)| is_there(number));
        let last = files.keys().next_back().copied();
        let segments = Arc::new(Segments::default());
        let mut found: Vec<Arc<Segment>> = Vec::new();
        for (number, path) in files {
            let may_be_cut_off = Some(number) == last && number > last_listed;
            let Some((segment, previous_length)) =
                open_segment(fs, path, number, manifest, may_be_cut_off)?
            else {
                break;
            };
            let previous = found.last();
            let deleted_between = previous.map_or(0, |segment| segment.number) + 1 != number;
            if deleted_between && number > last_listed {
                let path = &segment.path;
                return Err(Error::corrupt(path, 0, "the segment before this one is missing"));
            }
            if let Some(previous) = previous {
                let listed_length = listed.get(&previous.number).copied().unwrap_or(0);
                if !deleted_between && listed_length > 0 && listed_length != previous_length {
                    let what = "the manifest gives another length of the segment before";
                    return Err(Error::corrupt(&segment.path, 40, what));
                }
                let length = if deleted_between { listed_length } else { previous_length };
                // It is cut to this length.
                if (length as usize) < SEGMENT_HEADER_BYTES {
                    let what =
                        format!("its length is given as {length}, though another follows it");
                    return Err(Error::corrupt(&previous.path, 0, &what));
                }
                _ = previous.sealed.set(length);
            }
            found.push(segments.add(segment));
        }
        let checksum = Checksum::of(manifest.identity);
        let leftovers = leftovers.into_values().collect();
        Ok(Self { dir: dir.to_owned(), segments, checksum, found, leftovers })
    }

    /// Cuts sealed segments to their length. What is behind was never part of them, see
    /// `LogWriter::make_room`.
    pub(super) fn cut_sealed(&self) -> Result<()> {
        for segment in &self.found {
            let Some(&sealed) = segment.sealed.get() else { continue };
            let cut = || {
                if segment.file.length()? > u64::from(sealed) {
                    segment.file.set_len(u64::from(sealed))?;
                }
                Ok(())
            };
            cut().map_err(|error| Error::io("seal a segment", &segment.path, error))?;
        }
        Ok(())
    }

    /// Removes the files of deleted segments. Where that fails, the next opening tries again.
    pub(super) fn remove_leftovers(&self, fs: &dyn Fs) {
        for path in &self.leftovers {
            if let Err(error) = fs.remove(path) {
                tracing::warn!(path = %path.display(), %error, "a deleted segment stays");
            }
        }
    }

    /// Reads the log to its end: whether the index can be rebuilt from it.
    pub(super) fn check(&self, manifest: &Manifest) -> Result<()> {
        let check = |segment: &Segment, located: Located<'_>| decode(segment, located).map(drop);
        self.read(1..=manifest.checkpoint_lsn, check)?;
        self.replay(manifest.checkpoint_lsn, check)?;
        Ok(())
    }

    /// Visits the records of `lsns`, in order, and returns where the last segment read ends.
    pub(super) fn read(
        &self,
        lsns: RangeInclusive<Lsn>,
        mut visit: impl FnMut(&Segment, Located<'_>) -> Result<()>,
    ) -> Result<Option<(Arc<Segment>, SegmentEnd)>> {
        let begin = self.found.partition_point(|segment| segment.first_lsn <= *lsns.start());
        let mut last: Option<(Arc<Segment>, SegmentEnd)> = None;
        for segment in &self.found[begin.saturating_sub(1)..] {
            if segment.first_lsn > *lsns.end() {
                break;
            }
            if let Some((previous, end)) = &last
                && previous.number + 1 == segment.number
                && end.next_lsn != segment.first_lsn
            {
                let what = "the segment's last LSN is not the one before the next segment's first";
                return Err(Error::corrupt(&previous.path, end.offset as usize, what));
            }
            let bytes = read_file(segment)?;
            let sealed = segment.sealed.get().copied();
            let source = Source { path: &segment.path, bytes: &bytes, checksum: &self.checksum };
            let end = read_segment(source, segment.first_lsn, sealed, |located| {
                if lsns.contains(&located.record.lsn) { visit(segment, located) } else { Ok(()) }
            })?;
            last = Some((Arc::clone(segment), end));
        }
        Ok(last)
    }

    /// Visits the records after `lsn` to the end of the log.
    pub(super) fn replay(
        &self,
        after: Lsn,
        visit: impl FnMut(&Segment, Located<'_>) -> Result<()>,
    ) -> Result<Option<(Arc<Segment>, SegmentEnd)>> {
        let last = self.read(after + 1..=Lsn::MAX, visit)?;
        let next_lsn = last.as_ref().map_or(1, |(_, end)| end.next_lsn);
        if next_lsn <= after {
            let (path, offset) = match &last {
                Some((segment, end)) => (segment.path.clone(), end.offset as usize),
                None => (self.dir.clone(), 0),
            };
            let what = format!(
                "the log ends with LSN {}, but everything to LSN {after} was durable",
                next_lsn - 1
            );
            return Err(Error::corrupt(path, offset, &what));
        }
        Ok(last)
    }
}

fn open_segment(
    fs: &dyn Fs,
    path: PathBuf,
    number: u32,
    manifest: &Manifest,
    may_be_cut_off: bool,
) -> Result<Option<(Segment, u32)>> {
    let failed = |error| Error::io("open a segment", &path, error);
    let file = fs.open(&path).map_err(failed)?;
    let mut header = [0; SEGMENT_HEADER_BYTES];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        // Cut off inside its header, it never held a record.
        Err(error) if error.kind() == ErrorKind::UnexpectedEof && may_be_cut_off => {
            return Ok(None);
        }
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(Error::corrupt(&path, 0, "the segment's header is cut off"));
        }
        Err(error) => return Err(failed(error)),
    }
    let header = read_header(&path, &header)?;
    if header.number != number {
        return Err(Error::corrupt(&path, 12, "the segment has the name of another"));
    }
    if header.identity != manifest.identity {
        return Err(Error::corrupt(&path, 16, "the segment is of another data directory"));
    }
    let first_lsn = header.first_lsn;
    let segment = Segment { number, first_lsn, path, file, sealed: OnceLock::new() };
    Ok(Some((segment, header.previous_length)))
}

fn read_file(segment: &Segment) -> Result<Vec<u8>> {
    let read = || {
        let length = usize::try_from(segment.file.length()?).map_err(std::io::Error::other)?;
        let mut bytes = vec![0; length];
        segment.file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    };
    read().map_err(|error| Error::io("read a segment", &segment.path, error))
}
