//! Appending to the log.
//!
//! The writer is used by one thread. It knows the place of each record before it is written, so
//! that effects can say where they will lie: [`LogWriter::make_room`] fixes the segment, then the
//! batch is built, then [`LogWriter::append`] writes it in one piece.
//!
//! The next segment is prepared in the background as the file `spare`: written with zeros and
//! synced. To take it into use, its header is written and synced under that name and only then it
//! is renamed, so a numbered segment has a whole header, also after a crash.
//!
//! # Caveats
//! After a write that failed because the disk is full, the bytes behind the end are unknown, and
//! might later be taken for records. The segment is then sealed where it ends, and the next batch
//! begins a new one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use crate::defect::{Defect, Defects};
use crate::error::{Error, Result};
use crate::fs::{File, Fs};
use crate::log::Lsn;
use crate::log::reader::SegmentEnd;
use crate::log::record::Checksum;
use crate::log::segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader, Segments, segment_name};

/// The name of the segment prepared for use.
const SPARE: &str = "spare";

/// Zeros are written in pieces of this size, so that a sync of the active segment does not wait
/// for more than one of them.
const ZEROS_BYTES: usize = 256 * 1024;

/// Appends batches of records.
pub(crate) struct LogWriter {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    identity: u128,
    checksum: Checksum,
    segments: Arc<Segments>,
    segment_bytes: u32,
    active: Active,
    next_lsn: Lsn,
    /// The last LSN known to be durable.
    durable_lsn: Lsn,
    spare: Option<Receiver<Result<Spare>>>,
}

struct Active {
    segment: Arc<Segment>,
    /// Where the next record goes.
    end: u32,
    /// How long the file is.
    capacity: u32,
    /// No more batches go here.
    full: bool,
}

struct Spare {
    file: Arc<dyn File>,
    capacity: u32,
}

impl LogWriter {
    /// Goes on after the last record of a recovered log: zeros what is torn behind it.
    pub(crate) fn resume(
        fs: Arc<dyn Fs>,
        dir: PathBuf,
        identity: u128,
        segments: Arc<Segments>,
        segment_bytes: u32,
        last: Option<(Arc<Segment>, SegmentEnd)>,
        defects: Defects,
    ) -> Result<Self> {
        let (active, next_lsn) = match last {
            Some((segment, end)) => {
                let active = clean_tail(segment, end, defects)?;
                (active, end.next_lsn)
            }
            None => {
                let spare = prepare_spare(fs.as_ref(), &dir, segment_bytes)?;
                let header =
                    SegmentHeader { number: 1, identity, first_lsn: 1, previous_length: 0 };
                (activate(fs.as_ref(), &dir, &segments, spare, header)?, 1)
            }
        };
        let durable_lsn = next_lsn - 1;
        let mut writer = Self {
            fs,
            dir,
            identity,
            checksum: Checksum::of(identity),
            segments,
            segment_bytes,
            active,
            next_lsn,
            durable_lsn,
            spare: None,
        };
        writer.order_spare();
        Ok(writer)
    }

    pub(crate) fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// For the records of a batch.
    pub(crate) fn checksum(&self) -> &Checksum {
        &self.checksum
    }

    pub(crate) fn durable_lsn(&self) -> Lsn {
        self.durable_lsn
    }

    /// How many more bytes fit the active segment; 0 when the next batch needs another.
    pub(crate) fn room(&self) -> usize {
        if self.active.full { 0 } else { (self.active.capacity - self.active.end) as usize }
    }

    /// The segment and offset at which the next batch begins.
    pub(crate) fn place(&self) -> (u32, u32) {
        (self.active.segment.number, self.active.end)
    }

    /// Makes sure that the next batch may have `bytes`.
    ///
    /// # Errors
    /// [`Error::DiskFull`] where there is no space for another segment: nothing has changed.
    /// [`Error::Io`].
    pub(crate) fn make_room(&mut self, bytes: usize) -> Result<()> {
        if bytes <= self.room() {
            return Ok(());
        }
        let needed = u32::try_from(SEGMENT_HEADER_BYTES + bytes).map_err(|_| Error::TooLarge {
            what: "a batch",
            size: bytes as u64,
            limit: u64::from(u32::MAX),
        })?;
        let prepared = self.spare.take().and_then(|spare| spare.recv().ok()).transpose();
        let spare = match prepared {
            Ok(Some(spare)) if spare.capacity >= needed => spare,
            // Not prepared, too small, or failed for want of space that there may be by now.
            _ => prepare_spare(self.fs.as_ref(), &self.dir, needed.max(self.segment_bytes))?,
        };
        // The zeros behind the last record are not part of a sealed segment. Where this does not
        // survive a crash, recovery does it again: the next header tells the length.
        let sealed = &self.active.segment;
        sealed
            .file
            .set_len(u64::from(self.active.end))
            .map_err(|error| Error::failed("seal a segment", &sealed.path, error))?;
        let header = SegmentHeader {
            number: sealed.number + 1,
            identity: self.identity,
            first_lsn: self.next_lsn,
            previous_length: self.active.end,
        };
        // Records acknowledged but not yet synced must not lie before ones that are.
        self.sync()?;
        self.active = activate(self.fs.as_ref(), &self.dir, &self.segments, spare, header)?;
        self.order_spare();
        Ok(())
    }

    /// Writes a batch of `records` records, which the caller has made room for. It is not durable
    /// before [`LogWriter::sync`].
    ///
    /// # Errors
    /// [`Error::DiskFull`]: the batch is not in the log. [`Error::Io`]: nothing is known.
    pub(crate) fn append(&mut self, batch: &[u8], records: u64) -> Result<()> {
        let segment = &self.active.segment;
        let written = segment.file.write_all_at(batch, u64::from(self.active.end));
        if let Err(error) = written {
            self.active.full = true;
            let error = Error::io("append to the log", &segment.path, error);
            if matches!(error, Error::DiskFull { .. }) {
                // What arrived of a batch that is about to be refused must not come back.
                self.cut_off()?;
            }
            return Err(error);
        }
        self.active.end += batch.len() as u32;
        self.next_lsn += records;
        Ok(())
    }

    /// Removes what lies behind the last batch, durably.
    fn cut_off(&self) -> Result<()> {
        let segment = &self.active.segment;
        let cut = segment.file.set_len(u64::from(self.active.end));
        cut.and_then(|()| segment.file.sync_data())
            .map_err(|error| Error::failed("cut off a failed batch", &segment.path, error))
    }

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// [`Error::Io`], after which nothing more may be appended: what the failed sync was for is
    /// lost or not, and a later sync would not tell.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.durable_lsn + 1 < self.next_lsn {
            let segment = &self.active.segment;
            segment
                .file
                .sync_data()
                .map_err(|error| Error::failed("sync the log", &segment.path, error))?;
            self.durable_lsn = self.next_lsn - 1;
        }
        Ok(())
    }

    /// Prepares the next segment on a thread of its own.
    fn order_spare(&mut self) {
        let (sender, receiver) = mpsc::channel();
        let (fs, dir, bytes) = (Arc::clone(&self.fs), self.dir.clone(), self.segment_bytes);
        let run = move || _ = sender.send(prepare_spare(fs.as_ref(), &dir, bytes));
        match thread::Builder::new().name("log-spare".to_owned()).spawn(run) {
            Ok(_) => self.spare = Some(receiver),
            Err(error) => {
                tracing::warn!(%error, "no thread to prepare a segment: it is made when needed");
            }
        }
    }
}

impl Drop for LogWriter {
    /// Waits for the spare, so that nothing writes to the directory any more.
    fn drop(&mut self) {
        if let Some(spare) = self.spare.take() {
            _ = spare.recv();
        }
    }
}

/// Takes the last segment into use again: behind its last record there must be zeros only.
fn clean_tail(segment: Arc<Segment>, end: SegmentEnd, defects: Defects) -> Result<Active> {
    let failed = |error| Error::io("clean the end of the log", &segment.path, error);
    let capacity = segment.file.length().map_err(failed)?;
    if end.torn && !defects.has(Defect::TornTailKept) {
        write_zeros(segment.file.as_ref(), u64::from(end.offset), capacity).map_err(failed)?;
    }
    // Also where nothing is torn: the last records may have been read from the cache of the
    // operating system, and nothing may be served that is not durable. A sync alone would not do:
    // where one failed before, Linux takes the bytes for clean and writes them no more.
    if !defects.has(Defect::RecoveredNotSynced) {
        rewrite(segment.file.as_ref(), end.offset).map_err(failed)?;
        segment.file.sync_data().map_err(failed)?;
    }
    let capacity = u32::try_from(capacity)
        .map_err(|_| Error::corrupt(&segment.path, 0, "the segment is over 4 GiB"))?;
    Ok(Active { end: end.offset, capacity: capacity.max(end.offset), full: false, segment })
}

/// Writes what a file holds up to `end` once more.
fn rewrite(file: &dyn File, end: u32) -> std::io::Result<()> {
    let mut piece = vec![0; ZEROS_BYTES];
    for start in (0..u64::from(end)).step_by(ZEROS_BYTES) {
        let count = (u64::from(end) - start).min(ZEROS_BYTES as u64) as usize;
        file.read_exact_at(&mut piece[..count], start)?;
        file.write_all_at(&piece[..count], start)?;
    }
    Ok(())
}

fn prepare_spare(fs: &dyn Fs, dir: &Path, capacity: u32) -> Result<Spare> {
    let path = dir.join(SPARE);
    let make = || {
        let file = fs.create(&path)?;
        write_zeros(file.as_ref(), 0, u64::from(capacity))?;
        file.sync_data()?;
        Ok(Spare { file, capacity })
    };
    make().map_err(|error| {
        // A half-made spare would keep the space that others need.
        _ = fs.remove(&path);
        Error::io("prepare a segment", &path, error)
    })
}

fn activate(
    fs: &dyn Fs,
    dir: &Path,
    segments: &Segments,
    spare: Spare,
    header: SegmentHeader,
) -> Result<Active> {
    let path = dir.join(segment_name(header.number));
    let rename = || {
        spare.file.write_all_at(&header.encode(), 0)?;
        spare.file.sync_data()?;
        fs.rename(&dir.join(SPARE), &path)?;
        fs.sync_dir(dir)
    };
    // Whether the new segment is there is not known: no error here may count as harmless.
    rename().map_err(|error| Error::failed("begin a segment", &path, error))?;
    let segment = segments.add(Segment {
        number: header.number,
        first_lsn: header.first_lsn,
        path,
        file: spare.file,
    });
    let end = SEGMENT_HEADER_BYTES as u32;
    Ok(Active { segment, end, capacity: spare.capacity, full: false })
}

fn write_zeros(file: &dyn File, start: u64, end: u64) -> std::io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut offset = start;
    while offset < end {
        let count = (end - offset).min(ZEROS_BYTES as u64);
        file.write_all_at(&zeros[..count as usize], offset)?;
        offset += count;
    }
    Ok(())
}
