//! Walking the log past its damage.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::effect::Effect;
use crate::error::{Error, Result};
use crate::fs::{self, Fs};
use crate::log::record::Checksum;
use crate::log::{
    Damage, LOG_DIR, Located, Lsn, SEGMENT_HEADER_BYTES, SegmentEnd, SegmentHeader, Source,
    first_lsn_in, read_header, read_past_damage, segment_name, segment_number,
};
use crate::manifest::Manifest;

use super::{Fault, Faults, Round, SegmentFile};

/// The segments as they are found.
pub(super) struct Log {
    dir: PathBuf,
    checksum: Checksum,
    /// In the order of their numbers.
    segments: Vec<Found>,
    /// Those of which no record can be read.
    lost: Vec<u32>,
    pub(super) notes: Vec<String>,
}

struct Found {
    number: u32,
    path: PathBuf,
    /// `None` when it is damaged.
    header: Option<SegmentHeader>,
    /// The length that is known without the next segment.
    listed_length: Option<u32>,
}

/// Where a record was found.
pub(super) struct Place<'a> {
    pub(super) segment: u32,
    pub(super) path: &'a Path,
    pub(super) located: Located<'a>,
    /// Whether records before it are missing.
    pub(super) behind_gap: bool,
}

/// What a walk came to.
#[derive(Default)]
pub(super) struct Walked {
    pub(super) segments: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// The LSN after the last record's.
    pub(super) next_lsn: Lsn,
    /// Where the log ends.
    pub(super) end: (PathBuf, u64),
    /// The bytes of which nothing is known, by segment.
    pub(super) gaps: Vec<(u32, Range<u64>)>,
    pub(super) notes: Vec<String>,
}

impl Walked {
    /// Whether a place lies where the log is damaged.
    pub(super) fn is_damaged(&self, segment: u32, offset: u32) -> bool {
        let offset = u64::from(offset);
        self.gaps.iter().any(|(number, range)| *number == segment && range.contains(&offset))
    }
}

impl Log {
    /// Finds the segments and checks their headers. Without a manifest, the identity is that of the
    /// first segment whose header is whole.
    pub(super) fn find(
        fs: &dyn Fs,
        dir: &Path,
        manifest: Option<&Manifest>,
        faults: &mut Faults<'_>,
    ) -> Result<Self> {
        let (data, dir) = (dir, dir.join(LOG_DIR));
        let names = match fs.list(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound && fs.list(data).is_ok() => {
                faults.add(Fault::new(&dir, None, "the directory of the log is missing"));
                Vec::new()
            }
            names => names.map_err(|error| Error::io("list the log", &dir, error))?,
        };
        let mut files: BTreeMap<u32, PathBuf> = BTreeMap::new();
        for name in names {
            if let Some(number) = segment_number(&name) {
                files.insert(number, dir.join(name));
            }
        }
        let listed = manifest.map(listed_segments).unwrap_or_default();
        let last_listed = listed.keys().next_back().copied().unwrap_or(0);
        let mut log = Self {
            checksum: Checksum::of(0),
            segments: Vec::new(),
            lost: Vec::new(),
            notes: Vec::new(),
            dir,
        };
        for &number in listed.keys().filter(|number| !files.contains_key(number)) {
            log.miss(number, "the segment is missing, which the manifest names", faults);
        }
        let mut identity = manifest.map(|manifest| manifest.identity);
        let last = files.keys().next_back().copied();
        for (number, path) in files {
            if manifest.is_some() && number < last_listed && !listed.contains_key(&number) {
                log.notes.push(format!("{}: left over, the next start removes it", path.display()));
                continue;
            }
            let is_next = log.segments.last().map_or(0, |found| found.number) + 1 == number;
            // Below the last one listed, the ones that are not were deleted.
            let is_missing = number > last_listed + 1 && manifest.is_some() && !is_next;
            if is_missing {
                log.miss(number - 1, "the segment is missing, though there is a later one", faults);
            }
            let may_be_cut_off = Some(number) == last && !listed.contains_key(&number);
            let header = match log.read_header(fs, &path, number, may_be_cut_off) {
                Ok(Header::Whole(header)) => Some(header),
                Ok(Header::CutOff) => continue,
                Err(error) => {
                    faults.add(error.into());
                    None
                }
            };
            let header = header.filter(|header| {
                let identity = *identity.get_or_insert(header.identity);
                let is_of_here = header.identity == identity;
                if !is_of_here {
                    let what = "the segment is of another data directory";
                    faults.add(Fault::new(&path, 16, what));
                }
                is_of_here
            });
            let listed_length = listed.get(&number).copied().filter(|&length| length > 0);
            log.segments.push(Found { number, path, header, listed_length });
        }
        log.checksum = Checksum::of(identity.unwrap_or_default());
        Ok(log)
    }

    /// The log that given files make. Every byte up to their lengths counts: nothing of it is torn.
    pub(super) fn of(
        fs: &dyn Fs,
        files: &[SegmentFile],
        manifest: &Manifest,
        faults: &mut Faults<'_>,
    ) -> Self {
        let dir = files.first().and_then(|file| file.path.parent()).unwrap_or(Path::new(""));
        let mut log = Self {
            checksum: Checksum::of(manifest.identity),
            segments: Vec::new(),
            lost: Vec::new(),
            notes: Vec::new(),
            dir: dir.to_owned(),
        };
        for info in &manifest.segments {
            if files.iter().all(|file| file.number != info.number) {
                let what = "the segment is missing, which the manifest names";
                log.miss(info.number, what, faults);
            }
        }
        for SegmentFile { number, length, path } in files {
            let header = match log.read_header(fs, path, *number, false) {
                Ok(Header::Whole(header)) if header.identity == manifest.identity => Some(header),
                Ok(_) => {
                    let what = "the segment is of another data directory";
                    faults.add(Fault::new(path, 16, what));
                    None
                }
                Err(error) => {
                    faults.add(error.into());
                    None
                }
            };
            let listed_length = Some(*length);
            log.segments.push(Found { number: *number, path: path.clone(), header, listed_length });
        }
        log
    }

    /// For the records.
    pub(super) fn checksum(&self) -> &Checksum {
        &self.checksum
    }

    /// The file of a segment.
    pub(super) fn path(&self, number: u32) -> PathBuf {
        let found = self.segments.iter().find(|found| found.number == number);
        found.map_or_else(|| self.dir.join(segment_name(number)), |found| found.path.clone())
    }

    fn miss(&mut self, number: u32, what: &str, faults: &mut Faults<'_>) {
        faults.add(Fault::new(self.dir.join(segment_name(number)), 0, what));
        self.lost.push(number);
    }

    fn read_header(
        &mut self,
        fs: &dyn Fs,
        path: &Path,
        number: u32,
        may_be_cut_off: bool,
    ) -> Result<Header> {
        let failed = |error| Error::io("read a segment's header", path, error);
        let file = fs.open(path).map_err(failed)?;
        let mut header = [0; SEGMENT_HEADER_BYTES];
        if file.length().map_err(failed)? < SEGMENT_HEADER_BYTES as u64 {
            if may_be_cut_off {
                let what = "cut off inside its header, it never held a record";
                self.notes.push(format!("{}: {what}", path.display()));
                return Ok(Header::CutOff);
            }
            return Err(Error::corrupt(path, 0, "the segment's header is cut off"));
        }
        file.read_exact_at(&mut header, 0).map_err(failed)?;
        let header = read_header(path, &header)?;
        if header.number != number {
            return Err(Error::corrupt(path, 12, "the segment has the name of another"));
        }
        Ok(Header::Whole(header))
    }

    /// Visits all records, each with its effect. The faults of the log itself are told in the first
    /// round.
    pub(super) fn walk(
        &self,
        fs: &dyn Fs,
        faults: &mut Faults<'_>,
        round: Round,
        mut visit: impl FnMut(&Place<'_>, &Effect<'_>, &mut Faults<'_>),
    ) -> Walked {
        let mut walk = Walk { log: self, fs, round, next_lsn: None, walked: Walked::default() };
        walk.walked.gaps = self.lost.iter().map(|&number| (number, 0..u64::MAX)).collect();
        walk.walked.next_lsn = 1;
        walk.walked.end = (self.dir.clone(), 0);
        for i in 0..self.segments.len() {
            walk.segment(i, faults, &mut visit);
        }
        walk.walked
    }
}

enum Header {
    Whole(SegmentHeader),
    /// Of the last segment, which was being made.
    CutOff,
}

/// The segments that a manifest names, with their lengths where it knows them, else 0.
fn listed_segments(manifest: &Manifest) -> BTreeMap<u32, u32> {
    manifest.segments.iter().map(|info| (info.number, info.length)).collect()
}

/// A walk on its way.
struct Walk<'a> {
    log: &'a Log,
    fs: &'a dyn Fs,
    round: Round,
    /// The LSN that the next segment begins with, if that is known.
    next_lsn: Option<Lsn>,
    walked: Walked,
}

impl Walk<'_> {
    fn tell(&self, faults: &mut Faults<'_>, fault: Fault) {
        if self.round == Round::First {
            faults.add(fault);
        }
    }

    fn segment(
        &mut self,
        i: usize,
        faults: &mut Faults<'_>,
        visit: &mut impl FnMut(&Place<'_>, &Effect<'_>, &mut Faults<'_>),
    ) {
        let found = &self.log.segments[i];
        let path = &found.path;
        let next = self.log.segments.get(i + 1);
        let follower = next.filter(|next| next.number == found.number + 1);
        let bytes = match fs::read_all(self.fs, path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.tell(faults, Fault::new(path, None, format!("cannot be read: {error}")));
                self.lose(found.number, 0..u64::MAX);
                self.next_lsn = None;
                return;
            }
        };
        self.walked.segments += 1;
        self.walked.bytes += bytes.len() as u64;
        self.check_chain(i, faults);
        let first_lsn = found.header.map(|header| header.first_lsn).or(self.next_lsn);
        let Some(first_lsn) = first_lsn.or_else(|| first_lsn_in(&bytes, &self.log.checksum)) else {
            self.lose(found.number, 0..u64::MAX);
            return;
        };
        let sealed = match follower.map(|next| next.header) {
            Some(Some(header)) => Some(header.previous_length),
            // Of the last one, and where the next header is damaged.
            _ => found.listed_length,
        };
        let end = self.records(found, &bytes, first_lsn, sealed, faults, visit);
        self.walked.next_lsn = end.next_lsn;
        self.walked.end = (path.clone(), u64::from(end.offset));
        let is_last = next.is_none();
        if is_last && end.torn {
            self.walked.notes.push(format!(
                "{}:{}: a batch behind the end of the log was never acknowledged; the next start \
                 removes it",
                path.display(),
                end.offset
            ));
        }
        let ends_in_gap = self.walked.gaps.last().is_some_and(|(number, range)| {
            *number == found.number && range.end >= u64::from(end.offset)
        });
        self.next_lsn = (follower.is_some() && !ends_in_gap).then_some(end.next_lsn);
    }

    /// Checks that a segment goes on where the one before it ended.
    fn check_chain(&mut self, i: usize, faults: &mut Faults<'_>) {
        let found = &self.log.segments[i];
        let Some(header) = found.header else { return };
        if self.next_lsn.is_some_and(|lsn| lsn != header.first_lsn) {
            let (path, offset) = self.walked.end.clone();
            let what = "the segment's last LSN is not the one before the next segment's first";
            self.tell(faults, Fault::new(path, offset, what));
        }
        let previous = i.checked_sub(1).map(|i| &self.log.segments[i]);
        let previous = previous.filter(|previous| previous.number + 1 == found.number);
        let listed = previous.and_then(|previous| previous.listed_length);
        if listed.is_some_and(|length| length != header.previous_length) {
            let what = "the manifest gives another length of the segment before";
            self.tell(faults, Fault::new(&found.path, 40, what));
        }
    }

    fn records(
        &mut self,
        found: &Found,
        bytes: &[u8],
        first_lsn: Lsn,
        sealed: Option<u32>,
        faults: &mut Faults<'_>,
        visit: &mut impl FnMut(&Place<'_>, &Effect<'_>, &mut Faults<'_>),
    ) -> SegmentEnd {
        let path = &found.path;
        let source = Source { path, bytes, checksum: &self.log.checksum };
        let (round, walked) = (self.round, std::cell::RefCell::new(&mut self.walked));
        let faults = std::cell::RefCell::new(faults);
        let tell = |fault| {
            if round == Round::First {
                faults.borrow_mut().add(fault);
            }
        };
        let end = read_past_damage(
            source,
            first_lsn,
            sealed,
            |located| {
                let Located { offset, record } = located;
                let behind_gap = {
                    let mut walked = walked.borrow_mut();
                    walked.records += 1;
                    !walked.gaps.is_empty()
                };
                match Effect::decode(record.kind, record.payload) {
                    Ok(effect) => {
                        let place = Place { segment: found.number, path, located, behind_gap };
                        visit(&place, &effect, *faults.borrow_mut());
                    }
                    Err(what) => tell(Fault::new(path, u64::from(offset), what)),
                }
                Ok(())
            },
            |Damage { offset, what, until }| {
                let begin = offset as u64;
                let gap = begin..until.map_or(u64::MAX, |(offset, _)| offset as u64);
                let what = match until {
                    Some((until, lsn)) => {
                        format!("{what}; the next whole record, LSN {lsn}, is at {until}")
                    }
                    None => format!("{what}; no whole record follows in the segment"),
                };
                tell(Fault::new(path, begin, what));
                walked.borrow_mut().gaps.push((found.number, gap));
                Ok(())
            },
        );
        // Neither of the two above fails.
        end.unwrap_or(SegmentEnd { offset: bytes.len() as u32, next_lsn: first_lsn, torn: false })
    }

    fn lose(&mut self, segment: u32, bytes: Range<u64>) {
        self.walked.gaps.push((segment, bytes));
    }
}
