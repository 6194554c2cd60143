//! Keeping the log between two backups: so that the shard can be restored to any moment in between.
//!
//! What comes after an LSN is kept from deletion, up to a number of bytes that the operator names:
//! compaction goes on, and the segments that it has condemned stay, from the first one that may have a
//! later record on. Meanwhile each batch says when it was written, so that a moment can be told from the
//! log.
//!
//! It is remembered in the file `KEEP` of the data directory. Where more would have to be kept, or the
//! disk is full, it ends, and the log with it: serving comes first.

use std::io::ErrorKind;
use std::path::Path;

use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::fs::{self, Fs};
use crate::log::Lsn;
use crate::log::record::{u32_at, u64_at};

const NAME: &str = "KEEP";
const MAGIC: &[u8; 8] = b"SHERDKEP";
const VERSION: u32 = 1;
const BYTES: usize = 32;

/// What of the log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    /// What has a higher LSN.
    pub(crate) after: Lsn,
    /// As long as what is kept in vain otherwise takes no more.
    pub(crate) max_bytes: u64,
}

impl Keep {
    fn encode(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.after.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.max_bytes.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let is_whole = bytes.len() == BYTES
            && &bytes[..8] == MAGIC
            && u32_at(bytes, 8) == VERSION
            && crc32fast::hash(&bytes[..28]) == u32_at(bytes, 28);
        is_whole.then(|| Self { after: u64_at(bytes, 12), max_bytes: u64_at(bytes, 20) })
    }
}

/// What of the log is kept, if anything is.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Option<Keep>>);

impl Kept {
    /// What a data directory remembers. A damaged file is none: it costs moments that a backup could
    /// have been restored to, and no document.
    pub(crate) fn open(fs: &dyn Fs, dir: &Path) -> Self {
        let path = dir.join(NAME);
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
                }
                None
            }
        };
        Self(Mutex::new(keep))
    }

    /// What is kept.
    pub(crate) fn get(&self) -> Option<Keep> {
        *self.0.lock()
    }

    /// Keeps what comes after an LSN, from now on, and what is kept already. In memory only.
    pub(crate) fn keep_as_well(&self, keep: Keep) {
        let mut kept = self.0.lock();
        let after = kept.map_or(keep.after, |kept| kept.after.min(keep.after));
        *kept = Some(Keep { after, ..keep });
    }

    /// Keeps this instead, durably.
    ///
    /// # Errors
    /// [`Error::DiskFull`], [`Error::Io`]: until the next restart it is kept.
    pub(crate) fn set(&self, fs: &dyn Fs, dir: &Path, keep: Option<Keep>) -> Result<()> {
        *self.0.lock() = keep;
        self.save(fs, dir)
    }

    /// Makes what is kept durable.
    ///
    /// # Errors
    /// As [`Kept::set`].
    pub(crate) fn save(&self, fs: &dyn Fs, dir: &Path) -> Result<()> {
        // The lock is held meanwhile, so that the file is what was set last.
        let kept = self.0.lock();
        let written = match *kept {
            Some(keep) => fs::replace(fs, dir, NAME, &keep.encode()),
            None => match fs.remove(&dir.join(NAME)) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        };
        written
            .map_err(|error| Error::io("remember what is kept of the log", dir.join(NAME), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::SimFs;

    #[test]
    fn what_is_kept_comes_back_and_damage_is_noticed() {
        let (fs, dir) = (SimFs::new(), Path::new("/data"));
        fs.create_dir_all(dir).unwrap();
        assert_eq!(Kept::open(&fs, dir).get(), None);
        let keep = Keep { after: 7, max_bytes: 1 << 30 };
        Kept::default().set(&fs, dir, Some(keep)).unwrap();
        let kept = Kept::open(&fs, dir);
        assert_eq!(kept.get(), Some(keep));
        kept.keep_as_well(Keep { after: 9, max_bytes: 5 });
        assert_eq!(kept.get(), Some(Keep { after: 7, max_bytes: 5 }));
        for byte in 0..BYTES {
            let mut bytes = keep.encode();
            bytes[byte] ^= 1;
            assert_eq!(Keep::decode(&bytes), None, "byte {byte}");
        }
        kept.set(&fs, dir, None).unwrap();
        assert_eq!(Kept::open(&fs, dir).get(), None);
    }
}
