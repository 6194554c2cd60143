//! Defects built in on purpose: they prove that the tests would find them.
//!
//! Each [`Defect`] is a mistake that an engine like this one could be shipped with. It is there
//! only with the feature `seeded-defects`, which only this crate's own tests turn on; without it
//! [`Defects`] is of no size and has none. Those that lie in what is asked of the filesystem are
//! made by a filesystem in between, the others stand where the mistake would.

/// Makes [`Defect`] of its variants, and a list that has each of them: what is not in it would never be
/// sown, and nobody would notice.
macro_rules! defects {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A mistake to make.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Defect {
            $($(#[$doc])* $name,)*
        }

        #[cfg(feature = "seeded-defects")]
        impl Defect {
            /// All of them.
            pub const ALL: [Self; [$(Self::$name),*].len()] = [$(Self::$name),*];
        }
    };
}

defects! {
    /// Answers come before the sync.
    AcknowledgeBeforeSync,
    /// Changes can be read before they are synced.
    PublishedBeforeSync,
    /// A failed sync is tried again, and its success believed.
    SyncRetriedAfterFailure,
    /// No directory is ever synced.
    NoDirectorySync,
    /// The manifest is written in its place.
    ManifestInPlace,
    /// A segment gets its name before its header is synced.
    HeaderNotSynced,
    /// Records are taken whatever their checksum is.
    ChecksumIgnored,
    /// Of an atomic batch each record stands for itself.
    BatchSplit,
    /// A record claims that its own batch was durable.
    BatchTestifiesForItself,
    /// What is torn behind the end of the log stays there.
    TornTailKept,
    /// What recovery read is served without being made durable.
    RecoveredNotSynced,
    /// A replay asks the index what was there before, and believes the sums.
    TotalsFromIndex,
    /// A checkpoint may be ahead of what is durable of the log.
    CheckpointBeforeSync,
    /// A compacted segment is deleted before the checkpoint that no longer needs it.
    DeletedBeforeCheckpoint,
    /// A segment is deleted with documents that the index points to.
    DeletedWhileInUse,
    /// A tombstone is dropped while an older record of its key is there.
    TombstoneDropped,
    /// A document that is moved forgets that older segments hold records of its key.
    FirstSegmentForgotten,
    /// An eviction stands for itself, and not in the group of the write that it makes room for.
    EvictionSplit,
    /// A victim that was found beforehand is evicted, whatever became of it since.
    StaleVictimEvicted,
    /// A rebuild takes the older of two records of a key.
    OlderRecordWins,
}

// Each is a bit of `Defects`.
#[cfg(feature = "seeded-defects")]
const _: () = assert!(Defect::ALL.len() <= u32::BITS as usize);

/// The mistakes that an engine makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Defects(#[cfg(feature = "seeded-defects")] u32);

impl Defects {
    /// Whether the mistake is made; without the feature it never is.
    pub(crate) const fn has(self, defect: Defect) -> bool {
        #[cfg(feature = "seeded-defects")]
        return self.0 & (1 << defect as u32) != 0;
        #[cfg(not(feature = "seeded-defects"))]
        {
            _ = defect;
            false
        }
    }
}

#[cfg(feature = "seeded-defects")]
pub(crate) use seeded::faulty_fs;

#[cfg(feature = "seeded-defects")]
mod seeded {
    use std::any::Any;
    use std::io::Result;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::{Defect, Defects};
    use crate::fs::{File, Fs};
    use crate::log::SEGMENT_HEADER_BYTES;

    impl From<Defect> for Defects {
        fn from(defect: Defect) -> Self {
            Self(1 << defect as u32)
        }
    }

    /// A filesystem of which less is asked than should be.
    pub(crate) fn faulty_fs(fs: Arc<dyn Fs>, defects: Defects) -> Arc<dyn Fs> {
        if defects == Defects::default() { fs } else { Arc::new(FaultyFs { fs, defects }) }
    }

    struct FaultyFs {
        fs: Arc<dyn Fs>,
        defects: Defects,
    }

    impl FaultyFs {
        /// Where a file is written.
        fn place(&self, path: &Path) -> std::path::PathBuf {
            let in_place = self.defects.has(Defect::ManifestInPlace);
            if in_place && path.ends_with("MANIFEST.new") {
                path.with_extension("")
            } else {
                path.to_owned()
            }
        }

        fn file(&self, file: Arc<dyn File>) -> Arc<dyn File> {
            Arc::new(FaultyFile { file, defects: self.defects, header_written: false.into() })
        }
    }

    impl Fs for FaultyFs {
        fn create_dir_all(&self, dir: &Path) -> Result<()> {
            self.fs.create_dir_all(dir)
        }

        fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
            let place = self.place(path);
            if place != path
                && let Ok(file) = self.fs.open(&place)
            {
                file.set_len(0)?;
                return Ok(self.file(file));
            }
            Ok(self.file(self.fs.create(&place)?))
        }

        fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
            Ok(self.file(self.fs.open(path)?))
        }

        fn rename(&self, from: &Path, to: &Path) -> Result<()> {
            if self.place(from) == to { Ok(()) } else { self.fs.rename(from, to) }
        }

        fn remove(&self, path: &Path) -> Result<()> {
            self.fs.remove(path)
        }

        fn list(&self, dir: &Path) -> Result<Vec<String>> {
            self.fs.list(dir)
        }

        fn sync_dir(&self, dir: &Path) -> Result<()> {
            if self.defects.has(Defect::NoDirectorySync) { Ok(()) } else { self.fs.sync_dir(dir) }
        }

        fn free_bytes(&self, dir: &Path) -> Result<u64> {
            self.fs.free_bytes(dir)
        }

        fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>> {
            self.fs.lock(path)
        }
    }

    struct FaultyFile {
        file: Arc<dyn File>,
        defects: Defects,
        /// Whether the last write was a segment's header.
        header_written: AtomicBool,
    }

    impl File for FaultyFile {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
            self.file.read_at(buffer, offset)
        }

        fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
            let header = offset == 0 && bytes.len() == SEGMENT_HEADER_BYTES;
            self.header_written.store(header, Ordering::Relaxed);
            self.file.write_all_at(bytes, offset)
        }

        fn sync_data(&self) -> Result<()> {
            let header = self.header_written.load(Ordering::Relaxed);
            if header && self.defects.has(Defect::HeaderNotSynced) {
                return Ok(());
            }
            let synced = self.file.sync_data();
            if synced.is_err() && self.defects.has(Defect::SyncRetriedAfterFailure) {
                return self.file.sync_data();
            }
            synced
        }

        fn set_len(&self, length: u64) -> Result<()> {
            self.file.set_len(length)
        }

        fn length(&self) -> Result<u64> {
            self.file.length()
        }
    }
}
