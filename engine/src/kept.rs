//! Keeping the log between two backups: so that the shard can be restored to any moment in between.
//!
//! What comes after an LSN is kept from deletion, up to a number of bytes that the operator names:
//! compaction goes on, and the segments that it has condemned stay, from the first one that may have a
//! later record on. Meanwhile each batch says when it was written, so that a moment can be told from the
//! log.
//!
//! It is remembered in the file `KEEP` of the data directory. Where more would have to be kept, or the
//! disk is full, it ends, and the log with it: serving comes first.
//!
//! Each batch has its time as long as this goes on without a gap, and only then a moment is one by its time:
//! so it is remembered as well since which LSN that is so.

use std::io::ErrorKind;
use std::path::Path;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::fs::{self, Fs};
use crate::log::Lsn;
use crate::log::record::{u32_at, u64_at};

const NAME: &str = "KEEP";
const MAGIC: &[u8; 8] = b"SHERDKEP";
const VERSION: u32 = 2;
const BYTES: usize = 40;

/// In the file, where it is not known since when each batch has its time.
const UNKNOWN: Lsn = Lsn::MAX;

/// What of the log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    /// What has a higher LSN.
    pub(crate) after: Lsn,
    /// As long as what is kept in vain otherwise takes no more.
    pub(crate) max_bytes: u64,
    /// Each batch of a higher LSN has its time behind it. `None` until a cut tells: where keeping begins
    /// beside the sequencer, a batch may be on its way that has none.
    pub(crate) timed_after: Option<Lsn>,
}

impl Keep {
    fn encode(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.after.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.max_bytes.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.timed_after.unwrap_or(UNKNOWN).to_le_bytes());
        let crc = crc32fast::hash(&bytes[..36]);
        bytes[36..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let is_whole = bytes.len() == BYTES
            && &bytes[..8] == MAGIC
            && u32_at(bytes, 8) == VERSION
            && crc32fast::hash(&bytes[..36]) == u32_at(bytes, 36);
        is_whole.then(|| Self {
            after: u64_at(bytes, 12),
            max_bytes: u64_at(bytes, 20),
            timed_after: Some(u64_at(bytes, 28)).filter(|&lsn| lsn != UNKNOWN),
        })
    }
}

/// What of the log is kept, if anything is.
#[derive(Default)]
pub(crate) struct Kept(Mutex<State>);

#[derive(Default)]
struct State {
    keep: Option<Keep>,
    /// Nothing is kept, and yet the file may be found at the next opening. What it says of times must be
    /// true then: until that they are recorded.
    may_come_back: bool,
}

impl Kept {
    /// What a data directory remembers. A damaged file is none: it costs moments that a backup could
    /// have been restored to, and no document.
    pub(crate) fn open(fs: &dyn Fs, dir: &Path) -> Self {
        let path = dir.join(NAME);
        let mut may_come_back = false;
        let keep = match fs::read_all(fs, &path) {
            Ok(bytes) => {
                let keep = Keep::decode(&bytes);
                if keep.is_none() {
                    tracing::warn!(
                        path = %path.display(),
                        "damaged, or of another version: the log is not kept for backups any more"
                    );
                }
                keep
            }
            Err(error) => {
                if error.kind() != ErrorKind::NotFound {
                    tracing::warn!(path = %path.display(), %error, "cannot be read");
                    may_come_back = true;
                }
                None
            }
        };
        Self(Mutex::new(State { keep, may_come_back }))
    }

    /// What is kept.
    pub(crate) fn get(&self) -> Option<Keep> {
        self.0.lock().keep
    }

    /// Whether each batch is to have its time.
    pub(crate) fn is_timed(&self) -> bool {
        let state = self.0.lock();
        state.keep.is_some() || state.may_come_back
    }

    /// At a cut, keeps what comes after it from now on, up to so many bytes where a number is given, as well
    /// as what is kept already. In memory only. Returns since which LSN each batch has its time; `None`
    /// where none will have one. Only the sequencer may ask, between two batches, `lsn` being that of the last.
    pub(crate) fn at_cut(&self, lsn: Lsn, max_bytes: Option<u64>) -> Option<Lsn> {
        let mut state = self.0.lock();
        if let Some(max_bytes) = max_bytes {
            let kept = state.keep.unwrap_or(Keep { after: lsn, max_bytes, timed_after: None });
            state.keep = Some(Keep { after: kept.after.min(lsn), max_bytes, ..kept });
        }
        state.keep.as_mut().map(|keep| *keep.timed_after.get_or_insert(lsn))
    }

    /// Keeps what comes after an LSN, and nothing before it, up to so many bytes, durably.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`]: until the next restart it is kept.
    pub(crate) fn set(&self, fs: &dyn Fs, dir: &Path, after: Lsn, max_bytes: u64) -> Result<()> {
        {
            let mut state = self.0.lock();
            let timed_after = state.keep.and_then(|kept| kept.timed_after);
            state.keep = Some(Keep { after, max_bytes, timed_after });
        }
        self.save(fs, dir)
    }

    /// Keeps nothing any more, durably.
    ///
    /// # Errors
    /// [`Error::Io`]: after a restart it may be kept again.
    pub(crate) fn end(&self, fs: &dyn Fs, dir: &Path) -> Result<()> {
        *self.0.lock() = State { keep: None, may_come_back: true };
        self.save(fs, dir)
    }

    /// Makes what is kept durable.
    ///
    /// # Errors
    /// As [`Kept::set`].
    pub(crate) fn save(&self, fs: &dyn Fs, dir: &Path) -> Result<()> {
        // The lock is held meanwhile, so that the file is what was set last.
        let mut state = self.0.lock();
        let written = match state.keep {
            Some(keep) => fs::replace(fs, dir, NAME, &keep.encode()),
            None => match fs.remove(&dir.join(NAME)) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => fs.sync_dir(dir),
            },
        };
        state.may_come_back = written.is_err();
        written
            .map_err(|error| Error::io("remember what is kept of the log", dir.join(NAME), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{Failure, FaultFs, Kind as FileKind, Operation, SimFs};

    #[test]
    fn what_is_kept_comes_back_and_damage_is_noticed() {
        let (fs, dir) = (SimFs::new(), Path::new("/data"));
        fs.create_dir_all(dir).unwrap();
        assert_eq!(Kept::open(&fs, dir).get(), None);
        let kept = Kept::default();
        assert_eq!(kept.at_cut(7, Some(1 << 30)), Some(7));
        kept.save(&fs, dir).unwrap();
        let keep = Keep { after: 7, max_bytes: 1 << 30, timed_after: Some(7) };
        let kept = Kept::open(&fs, dir);
        assert_eq!(kept.get(), Some(keep));
        assert_eq!(kept.at_cut(9, Some(5)), Some(7));
        assert_eq!(kept.get(), Some(Keep { max_bytes: 5, ..keep }));
        for byte in 0..BYTES {
            let mut bytes = keep.encode();
            bytes[byte] ^= 1;
            assert_eq!(Keep::decode(&bytes), None, "byte {byte}");
        }
        kept.end(&fs, dir).unwrap();
        assert_eq!(Kept::open(&fs, dir).get(), None);
    }

    #[test]
    fn each_gap_begins_anew_what_has_times() {
        let (fs, dir) = (SimFs::new(), Path::new("/data"));
        fs.create_dir_all(dir).unwrap();
        let kept = Kept::default();
        assert!(!kept.is_timed());
        assert_eq!(kept.at_cut(5, None), None);
        assert_eq!(kept.at_cut(10, Some(99)), Some(10));
        kept.set(&fs, dir, 10, 99).unwrap();
        assert_eq!(kept.at_cut(20, None), Some(10), "and so it is from backup to backup");
        kept.set(&fs, dir, 20, 99).unwrap();
        assert_eq!(Kept::open(&fs, dir).at_cut(30, Some(99)), Some(10), "over a restart");

        // It was given up between a cut and the end of the backup.
        kept.end(&fs, dir).unwrap();
        assert!(!kept.is_timed());
        kept.set(&fs, dir, 20, 99).unwrap();
        assert!(kept.is_timed());
        let opened = Kept::open(&fs, dir);
        assert_eq!(opened.get(), Some(Keep { after: 20, max_bytes: 99, timed_after: None }));
        for kept in [kept, opened] {
            assert_eq!(kept.at_cut(40, None), Some(40), "since the next cut, and not since 20");
        }

        // Damage is as if it had been given up.
        let file = fs.create(&dir.join(NAME)).unwrap();
        file.write_all_at(&[7; BYTES], 0).unwrap();
        let kept = Kept::open(&fs, dir);
        assert!(!kept.is_timed());
        assert_eq!(kept.at_cut(50, Some(99)), Some(50));
    }

    /// What was given up and is found again after a restart says that there were times all along.
    #[test]
    fn times_go_on_as_long_as_the_file_may_come_back() {
        let (fs, dir) = (FaultFs::new(SimFs::new()), Path::new("/data"));
        fs.create_dir_all(dir).unwrap();
        for site in [(Operation::Remove, FileKind::Other), (Operation::SyncDir, FileKind::DataDir)]
        {
            let kept = Kept::default();
            assert_eq!(kept.at_cut(10, Some(99)), Some(10));
            kept.save(&fs, dir).unwrap();
            fs.fail(site, 0, Failure { errno: 5, for_good: false, arrives: 0 });
            kept.end(&fs, dir).unwrap_err();
            assert_eq!(kept.get(), None, "{site:?}");
            assert!(kept.is_timed(), "{site:?}");
            kept.end(&fs, dir).unwrap();
            assert!(!kept.is_timed(), "{site:?}");
        }
        // It cannot be read for now.
        let kept = Kept::default();
        assert_eq!(kept.at_cut(10, Some(99)), Some(10));
        kept.save(&fs, dir).unwrap();
        fs.fail(
            (Operation::Open, FileKind::Other),
            0,
            Failure { errno: 5, for_good: false, arrives: 0 },
        );
        let kept = Kept::open(&fs, dir);
        assert!(kept.get().is_none() && kept.is_timed());
    }
}
