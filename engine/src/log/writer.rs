//! Appending to the log.
//!
//! The writer is used by one thread. It knows the place of each record before it is written, so
//! that effects can say where they will lie: [`LogWriter::make_room`] fixes the segment, then the
//! batch is built, then [`LogWriter::append`] writes it in one piece.
//!
//! The next segment is prepared in the background as the file `spare`: written with zeros and
//! synced. To take it into use, its header is written and synced under that name and only then it
//! is renamed, so a numbered segment has a whole header, also after a crash. What goes wrong on the
//! way for want of space or of file descriptors can be tried again; nothing more is appended to the
//! segment before, for the header says how long that one is.
//!
//! What grows the store is stopped early where there is no space for the next segment, and what
//! makes it smaller is not ([`Purpose`], [`crate::space`]).
//!
//! # Caveats
//! After a write that failed because the disk is full, the bytes behind the end are unknown, and
//! might later be taken for records. The segment is then sealed where it ends, and the next batch
//! begins a new one.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Arc, OnceLock};
use std::thread;

use crate::defect::{Defect, Defects};
use crate::engine::Options;
use crate::error::{Error, Result};
use crate::fs::{File, Fs, ZEROS_BYTES, write_zeros};
use crate::log::Lsn;
use crate::log::reader::SegmentEnd;
use crate::log::record::Checksum;
use crate::log::segment::{SEGMENT_HEADER_BYTES, Segment, SegmentHeader, Segments, segment_name};
use crate::space::Space;

/// The name of the segment prepared for use.
pub(crate) const SPARE: &str = "spare";

/// The last part of a segment, as a divisor of its length, is not given to what grows the store
/// before the next segment is there: with 8 MiB, it has room for some ten thousand removes.
const KEPT_SHARE: u32 = 8;

/// On a full disk, what gives space back gets a smaller segment where there is no room for a whole
/// one: this part of it.
const SMALL_SHARE: u32 = 4;

/// What room is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// For what grows the store: refused while there still is some space.
    Growth,
    /// For what makes it smaller, or must go on in any case: gets the last space, and the reserve.
    Upkeep,
}

/// Appends batches of records.
pub(crate) struct LogWriter {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    identity: u128,
    checksum: Checksum,
    segments: Arc<Segments>,
    /// How long the next segment is to be.
    next_bytes: u32,
    active: Active,
    next_lsn: Lsn,
    /// The last LSN known to be durable.
    durable_lsn: Lsn,
    next: Next,
    /// The next segment, on its way to its number.
    begun: Option<Begun>,
    space: Arc<Space>,
}

/// The next segment.
enum Next {
    /// Nobody prepares it.
    None,
    Ordered(Receiver<Result<Spare>>),
    Ready(Spare),
    Failed(Error),
}

/// A segment whose header is durable. It is to get its number.
struct Begun {
    spare: Spare,
    header: SegmentHeader,
    renamed: bool,
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
        last: Option<(Arc<Segment>, SegmentEnd)>,
        space: Arc<Space>,
        options: &Options,
    ) -> Result<Self> {
        // What is live is not counted yet.
        let next_bytes = options.segment_bytes_for(0);
        let (active, next_lsn) = match last {
            Some((segment, end)) => {
                let active = clean_tail(segment, end, options.defects)?;
                (active, end.next_lsn)
            }
            None => {
                let spare = prepare_spare(fs.as_ref(), &dir, next_bytes)?;
                let header =
                    SegmentHeader { number: 1, identity, first_lsn: 1, previous_length: 0 };
                let mut begun = begin(fs.as_ref(), &dir, spare, header)?;
                number(fs.as_ref(), &dir, &mut begun)?;
                (activate(&dir, &segments, begun), 1)
            }
        };
        let durable_lsn = next_lsn - 1;
        let mut writer = Self {
            fs,
            dir,
            identity,
            checksum: Checksum::of(identity),
            segments,
            next_bytes,
            active,
            next_lsn,
            durable_lsn,
            next: Next::None,
            begun: None,
            space,
        };
        writer.order_next();
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

    /// Whether what grows the store may take `bytes` more.
    ///
    /// # Errors
    /// [`Error::DiskFull`]
    pub(crate) fn check_growth(&mut self, bytes: usize) -> Result<()> {
        if self.begun.is_some() {
            // It is there, all but its name.
            return Ok(());
        }
        let kept = (self.active.capacity / KEPT_SHARE) as usize;
        let needs_next = bytes + kept > self.room();
        self.look_after_next(needs_next);
        let prepared = match &self.next {
            Next::Failed(Error::DiskFull { .. }) => self.prepare_next(),
            Next::Failed(_) | Next::None if needs_next => self.prepare_next(),
            Next::Failed(_) | Next::None | Next::Ordered(_) | Next::Ready(_) => Ok(()),
        };
        // Another failure is for those who cannot do without the segment.
        prepared.or_else(|error| match error {
            Error::DiskFull { .. } => Err(error),
            _ => Ok(()),
        })
    }

    /// Makes sure that the next batch may have `bytes`. Where that takes the next segment, the one after it will
    /// have `next_bytes`, or what the batch takes where that is more: others like it may come.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::NoDescriptors`]: nothing has changed, and it may be asked for
    /// again. [`Error::Io`].
    pub(crate) fn make_room(
        &mut self,
        bytes: usize,
        next_bytes: u32,
        purpose: Purpose,
    ) -> Result<()> {
        let needed = u32::try_from(SEGMENT_HEADER_BYTES + bytes).map_err(|_| Error::TooLarge {
            what: "a batch",
            size: bytes as u64,
            limit: u64::from(u32::MAX),
        })?;
        while bytes > self.room() {
            let mut begun = match self.begun.take() {
                Some(begun) => begun,
                None => self.begin_next(needed, purpose)?,
            };
            if let Err(error) = number(self.fs.as_ref(), &self.dir, &mut begun) {
                self.begun = Some(begun);
                return Err(error);
            }
            let sealed_at = begun.header.previous_length;
            let next = activate(&self.dir, &self.segments, begun);
            let sealed = std::mem::replace(&mut self.active, next).segment;
            // Not before the next one is there: a sealed segment may be deleted, and the log must
            // end with one that is not.
            _ = sealed.sealed.set(sealed_at);
            self.next_bytes = next_bytes.max(needed);
            self.order_next();
        }
        Ok(())
    }

    /// Ends the active segment, and gives the next one its header.
    fn begin_next(&mut self, needed: u32, purpose: Purpose) -> Result<Begun> {
        let spare = self.take_next(needed, purpose)?;
        // From here on what the header says of it must stay true.
        self.active.full = true;
        // The zeros behind the last record are not part of a sealed segment. Where this does not
        // survive a crash, recovery does it again: the next header tells the length.
        let sealed = Arc::clone(&self.active.segment);
        match sealed.file.set_len(u64::from(self.active.end)) {
            Ok(()) => {}
            Err(error) if Error::is_full(&error) => {
                tracing::debug!(%error, path = %sealed.path.display(), "not cut to its length");
            }
            Err(error) => return Err(Error::failed("seal a segment", &sealed.path, error)),
        }
        let header = SegmentHeader {
            number: sealed.number + 1,
            identity: self.identity,
            first_lsn: self.next_lsn,
            previous_length: self.active.end,
        };
        // Records acknowledged but not yet synced must not lie before ones that are.
        self.sync()?;
        begin(self.fs.as_ref(), &self.dir, spare, header)
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
    fn order_next(&mut self) {
        let (sender, receiver) = mpsc::channel();
        let (fs, dir, bytes) = (Arc::clone(&self.fs), self.dir.clone(), self.next_bytes);
        let space = Arc::clone(&self.space);
        let run = move || _ = sender.send(prepare_if_allowed(fs.as_ref(), &dir, bytes, &space));
        match thread::Builder::new().name("log-spare".to_owned()).spawn(run) {
            Ok(_) => self.next = Next::Ordered(receiver),
            Err(error) => {
                tracing::warn!(%error, "no thread to prepare a segment: it is made when needed");
                self.next = Next::None;
            }
        }
    }

    /// Takes note of what the thread came to; waits for it, if told to.
    fn look_after_next(&mut self, wait: bool) {
        let Next::Ordered(receiver) = &self.next else { return };
        let received = if wait {
            receiver.recv().map_err(|_| TryRecvError::Disconnected)
        } else {
            receiver.try_recv()
        };
        self.next = match received {
            Ok(Ok(spare)) => Next::Ready(spare),
            Ok(Err(error)) => Next::Failed(error),
            Err(TryRecvError::Empty) => return,
            Err(TryRecvError::Disconnected) => Next::None,
        };
    }

    /// Prepares the next segment here and now.
    fn prepare_next(&mut self) -> Result<()> {
        let prepared =
            prepare_if_allowed(self.fs.as_ref(), &self.dir, self.next_bytes, &self.space);
        let result = prepared.as_ref().map(|_| ()).map_err(Error::clone);
        self.next = prepared.map_or_else(Next::Failed, Next::Ready);
        result
    }

    /// The next segment, for `needed` bytes at least.
    fn take_next(&mut self, needed: u32, purpose: Purpose) -> Result<Spare> {
        self.look_after_next(true);
        if let Next::Ready(spare) = std::mem::replace(&mut self.next, Next::None)
            && spare.capacity >= needed
        {
            return Ok(spare);
        }
        // Not prepared, too small, or failed for want of something that there may be by now.
        let prepare = |least: u32| prepare_spare(self.fs.as_ref(), &self.dir, needed.max(least));
        let mut prepared = prepare(self.next_bytes);
        let is_full = |prepared: &Result<_>| matches!(prepared, Err(Error::DiskFull { .. }));
        if purpose == Purpose::Upkeep && is_full(&prepared) {
            if self.space.release("the log needs a segment for removes") {
                prepared = prepare(self.next_bytes);
            }
            if is_full(&prepared) {
                prepared = prepare(self.next_bytes / SMALL_SHARE);
            }
        }
        prepared
    }
}

impl Drop for LogWriter {
    /// Waits for the spare, so that nothing writes to the directory any more.
    fn drop(&mut self) {
        self.look_after_next(true);
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

/// Prepares a segment, unless the space for it is meant for something else.
fn prepare_if_allowed(fs: &dyn Fs, dir: &Path, capacity: u32, space: &Space) -> Result<Spare> {
    let prepared = space.check_segment(capacity).and_then(|()| prepare_spare(fs, dir, capacity));
    space.note_segment(match &prepared {
        Err(Error::DiskFull { what }) => Some(Arc::clone(what)),
        _ => None,
    });
    prepared
}

/// Gives a prepared segment its header.
fn begin(fs: &dyn Fs, dir: &Path, spare: Spare, header: SegmentHeader) -> Result<Begun> {
    let write = spare.file.write_all_at(&header.encode(), 0);
    write.and_then(|()| spare.file.sync_data()).map_err(|error| {
        // What a failed sync leaves is not known: another file is prepared.
        _ = fs.remove(&dir.join(SPARE));
        Error::io("begin a segment", dir.join(segment_name(header.number)), error)
    })?;
    Ok(Begun { spare, header, renamed: false })
}

/// Gives a segment its number, durably. Can be tried again after [`Error::DiskFull`] and
/// [`Error::NoDescriptors`].
fn number(fs: &dyn Fs, dir: &Path, begun: &mut Begun) -> Result<()> {
    let path = dir.join(segment_name(begun.header.number));
    if !begun.renamed {
        fs.rename(&dir.join(SPARE), &path)
            .map_err(|error| Error::io("begin a segment", &path, error))?;
        begun.renamed = true;
    }
    fs.sync_dir(dir).map_err(|error| {
        if Error::is_out_of_descriptors(&error) {
            // It was not even opened, so there is nothing that a failed sync could have lost.
            Error::io("sync the log's directory", dir, error)
        } else {
            Error::failed("sync the log's directory", dir, error)
        }
    })
}

fn activate(dir: &Path, segments: &Segments, Begun { spare, header, .. }: Begun) -> Active {
    let segment = segments.add(Segment {
        number: header.number,
        first_lsn: header.first_lsn,
        path: dir.join(segment_name(header.number)),
        file: spare.file,
        sealed: OnceLock::new(),
    });
    let end = SEGMENT_HEADER_BYTES as u32;
    Active { segment, end, capacity: spare.capacity, full: false }
}
