//! Space in reserve, so that a full disk does not stop what makes it less full.
//!
//! Removes need room in the log, checkpoints need room for the index, compaction needs both, and
//! all three are the way out of a full disk. So writes are refused while there still is some space:
//!
//! * The file `reserve` in the data directory holds bytes that nobody else gets. A checkpoint that
//!   finds too little space deletes it and uses what that freed, and so does a remove for which
//!   there is no segment. It is made again when there is space for it and half as much besides.
//! * The next segment of the log is prepared as soon as one is taken into use. Where there is no
//!   space for it, nearly all of a segment is left, and the last eighth of one is
//!   never given to writes before the next one is there.
//! * Space for the next checkpoint is left, the reserve included: with more keys published, it takes
//!   more. Where it comes to be too little all the same, the index is parked in memory.
//!
//! As long as one of these is missing for want of space, what grows the store is refused with
//! [`Error::DiskFull`]; removes and control commands go on. That the reserve could not be made for
//! another reason keeps nobody from writing.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::fs::{self, Fs};

/// The name of the reserve, in the data directory.
const NAME: &str = "reserve";

/// The space of a data directory.
pub(crate) struct Space {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    reserve_bytes: u64,
    segment_bytes: u64,
    state: Mutex<State>,
    /// Whether anything is missing, without a lock.
    full: AtomicBool,
}

struct State {
    reserve: Reserve,
    /// What a checkpoint asks for that uses the reserve, or waits for space: the reserve is not made
    /// of that.
    wanted: u64,
    /// Why there is no next segment, where that is for want of space.
    no_segment: Option<Arc<str>>,
    /// Why there is no space for the next checkpoint.
    no_checkpoint: Option<Arc<str>>,
    /// What it takes to put the index back on the disk, where it is in memory.
    parked: Option<u64>,
    /// Why there is no space for that.
    no_index: Option<Arc<str>>,
}

#[derive(Debug)]
enum Reserve {
    Held,
    /// It was not made yet, or could not for another reason than space.
    Missing,
    /// There is no space for it, or it is in use.
    Released(Arc<str>),
}

impl Space {
    /// Looks whether the reserve is there.
    pub(crate) fn open(
        fs: Arc<dyn Fs>,
        dir: &Path,
        reserve_bytes: u64,
        segment_bytes: u64,
    ) -> Self {
        let there = fs.open(&dir.join(NAME)).and_then(|file| file.length());
        let mut reserve = Reserve::Missing;
        if there.is_ok_and(|length| length == reserve_bytes) || reserve_bytes == 0 {
            reserve = Reserve::Held;
        }
        let space = Self {
            fs,
            dir: dir.to_owned(),
            reserve_bytes,
            segment_bytes,
            state: Mutex::new(State {
                reserve,
                wanted: 0,
                no_segment: None,
                no_checkpoint: None,
                parked: None,
                no_index: None,
            }),
            full: AtomicBool::new(false),
        };
        if matches!(space.state.lock().reserve, Reserve::Missing)
            && let Err(why) = space.check_free(0)
        {
            space.change(|state| state.reserve = Reserve::Released(why));
        }
        space
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        let before = state.full();
        change(&mut state);
        let now = state.full();
        self.full.store(now.is_some(), Ordering::Release);
        match (before, now) {
            (None, Some(why)) => tracing::warn!(
                dir = %self.dir.display(), %why, "the disk is full: writes are refused"
            ),
            (Some(_), None) => {
                tracing::info!(dir = %self.dir.display(), "there is space again for writes");
            }
            _ => {}
        }
    }

    /// Why nothing may be written that grows the store.
    pub(crate) fn full(&self) -> Option<Arc<str>> {
        if self.is_full() { self.state.lock().full() } else { None }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Notes whether there is space for the next segment.
    pub(crate) fn note_segment(&self, why_not: Option<Arc<str>>) {
        self.change(|state| state.no_segment = why_not);
    }

    /// Notes that the index is in memory for want of space, and how much it takes to put it back; or
    /// that it is on the disk.
    pub(crate) fn note_parked(&self, needed: Option<u64>) {
        self.change(|state| {
            state.parked = needed;
            state.no_index = None;
        });
        _ = self.check_put_back();
    }

    /// Looks whether there is space for an index that is in memory. Whether there is such a one.
    ///
    /// # Errors
    /// [`Error::DiskFull`]
    pub(crate) fn check_put_back(&self) -> Result<bool> {
        let needed = {
            let state = self.state.lock();
            let Some(index) = state.parked else { return Ok(false) };
            // What else is missing comes first: an index that takes that space would be parked again.
            let segment = if state.no_segment.is_some() { self.segment_bytes } else { 0 };
            index + segment
        };
        let too_little = self.for_checkpoint().filter(|&free| free < needed);
        let why: Option<Arc<str>> = too_little.map(|free| {
            let dir = self.dir.display();
            format!(
                "{free} bytes are free, the index goes back on the disk when it is {needed} ({dir})"
            )
            .into()
        });
        self.change(|state| state.no_index.clone_from(&why));
        why.map_or(Ok(true), |what| Err(Error::DiskFull { what }))
    }

    /// Notes whether there is space for a checkpoint of what is published, with the reserve.
    ///
    /// # Errors
    /// [`Error::DiskFull`]
    pub(crate) fn note_checkpoint(&self, needed: u64) -> Result<()> {
        let too_little = self.for_checkpoint().filter(|&free| free < needed);
        let why: Option<Arc<str>> = too_little.map(|free| {
            let dir = self.dir.display();
            format!(
                "{free} bytes are free, the reserve included, and the next checkpoint may take \
                 {needed} ({dir})"
            )
            .into()
        });
        self.change(|state| state.no_checkpoint.clone_from(&why));
        why.map_or(Ok(()), |what| Err(Error::DiskFull { what }))
    }

    /// Notes what a checkpoint asks for that uses the reserve, or waits for space; 0 for none.
    pub(crate) fn set_wanted(&self, bytes: u64) {
        self.state.lock().wanted = bytes;
    }

    /// How many bytes a checkpoint may have: those that are free, and the reserve. `None` where that
    /// is not known.
    pub(crate) fn for_checkpoint(&self) -> Option<u64> {
        // Locked until both are known: else a reserve made meanwhile is counted as neither.
        let state = self.state.lock();
        let held = matches!(state.reserve, Reserve::Held);
        let reserve = if held { self.reserve_bytes } else { 0 };
        Some(self.free()?.saturating_add(reserve))
    }

    /// How many bytes are free, where that is known.
    pub(crate) fn free(&self) -> Option<u64> {
        self.fs.free_bytes(&self.dir).ok()
    }

    /// Whether another segment of this size may be prepared while the reserve is as it is.
    ///
    /// # Errors
    /// [`Error::DiskFull`]
    pub(crate) fn check_segment(&self, bytes: u32) -> Result<()> {
        if let Reserve::Released(why) = &self.state.lock().reserve {
            return Err(Error::DiskFull { what: Arc::clone(why) });
        }
        match self.fs.free_bytes(&self.dir) {
            Ok(free) if free < u64::from(bytes) => {
                let what = format!(
                    "{free} bytes are free, the next segment of the log takes {bytes} ({})",
                    self.dir.display()
                );
                Err(Error::DiskFull { what: what.into() })
            }
            // Not known: it is tried.
            _ => Ok(()),
        }
    }

    /// Gives the reserve to whoever needs it. Whether there was one.
    pub(crate) fn release(&self, why: &str) -> bool {
        let mut released = false;
        self.change(|state| {
            if self.reserve_bytes == 0 || matches!(state.reserve, Reserve::Released(_)) {
                return;
            }
            match self.fs.remove(&self.dir.join(NAME)) {
                Ok(()) => released = true,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::warn!(%error, "the reserve could not be released");
                    return;
                }
            }
            // The sync lets a filesystem with a journal give the blocks to others at once.
            _ = self.fs.sync_dir(&self.dir);
            state.reserve = Reserve::Released(format!("{why} ({})", self.dir.display()).into());
        });
        if released {
            tracing::warn!(dir = %self.dir.display(), why, "the reserve is released");
        }
        released
    }

    /// Makes the reserve if it is missing and there is space for it. It may take as long as
    /// writing its bytes takes.
    ///
    /// # Errors
    /// [`Error::DiskFull`] as long as there is not. That it could not be made for another reason is
    /// no error here.
    pub(crate) fn keep(&self) -> Result<()> {
        let mut result = Ok(());
        self.change(|state| {
            if matches!(state.reserve, Reserve::Held) {
                return;
            }
            state.reserve = match self.check_free(state.wanted).map(|()| self.make()) {
                Ok(Ok(())) => Reserve::Held,
                Ok(Err(Error::DiskFull { what })) | Err(what) => {
                    result = Err(Error::DiskFull { what: Arc::clone(&what) });
                    Reserve::Released(what)
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "there is no reserve for a full disk");
                    Reserve::Missing
                }
            };
        });
        result
    }

    /// Whether there is space for the reserve and, so that it is not released again at once, half
    /// as much, or what is wanted, besides.
    fn check_free(&self, wanted: u64) -> std::result::Result<(), Arc<str>> {
        let needed = self.reserve_bytes + wanted.max(self.reserve_bytes / 2);
        match self.fs.free_bytes(&self.dir) {
            Ok(free) if free < needed => Err(format!(
                "{free} bytes are free, writes go on when it is {needed} ({})",
                self.dir.display()
            )
            .into()),
            // Not known: it is tried.
            _ => Ok(()),
        }
    }

    fn make(&self) -> Result<()> {
        let path = self.dir.join(NAME);
        let make = || {
            let file = self.fs.create(&path)?;
            fs::write_zeros(file.as_ref(), 0, self.reserve_bytes)?;
            file.sync_data()
        };
        make().map_err(|error| {
            // Half of one is in the way of others.
            _ = self.fs.remove(&path);
            Error::io("make the reserve", &path, error)
        })
    }
}

impl State {
    fn full(&self) -> Option<Arc<str>> {
        match &self.reserve {
            Reserve::Released(why) => Some(Arc::clone(why)),
            Reserve::Held | Reserve::Missing => {
                let whys = [&self.no_segment, &self.no_checkpoint, &self.no_index];
                whys.into_iter().flatten().next().cloned()
            }
        }
    }
}
