//! The filesystem as the log and the manifest see it.
//!
//! All file I/O of the log and the manifest goes through [`Fs`], so that a test can stop the world
//! at any write, lose what was not synced, and start again ([`SimFs`]), or let one call of many
//! fail ([`FaultFs`]); the real one is [`DiskFs`]. sled does its own I/O and is not covered: what
//! it keeps can be rebuilt.
//!
//! What the medium is assumed to do:
//!
//! * bytes written before a successful [`File::sync_data`] of their file survive a crash; those
//!   written after it may survive wholly, in part, or in any mixture of old and new sectors;
//! * a rename, creation or removal survives a crash once its directory was synced, and before that
//!   it may or may not;
//! * after a failed sync nothing is known of the bytes it was for, and a later sync that succeeds
//!   does not vouch for them.

mod disk;
mod fault;
mod read_only;
mod sim;

pub use disk::DiskFs;
pub use fault::{Failure, FaultFs, Kind, Operation, Site};
pub use read_only::ReadOnlyFs;
pub use sim::{Event, Fault, FileId, Image, Medium, Observer, Pending, SimFs, Step};

use std::any::Any;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

/// A filesystem.
pub trait Fs: Send + Sync {
    /// Makes a directory and those above it, where missing.
    fn create_dir_all(&self, dir: &Path) -> Result<()>;

    /// Creates a file for reading and writing. A file that had the name loses it and is otherwise
    /// left alone: a crash in the middle of a rename may have left it another name.
    fn create(&self, path: &Path) -> Result<Arc<dyn File>>;

    /// Opens a file for reading and writing.
    fn open(&self, path: &Path) -> Result<Arc<dyn File>>;

    /// Renames a file or directory, replacing a file of the new name.
    fn rename(&self, from: &Path, to: &Path) -> Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> Result<()>;

    /// The names in a directory, in no order.
    fn list(&self, dir: &Path) -> Result<Vec<String>>;

    /// Makes creations, renames and removals in a directory durable.
    fn sync_dir(&self, dir: &Path) -> Result<()>;

    /// How many more bytes the filesystem of a directory has room for.
    fn free_bytes(&self, dir: &Path) -> Result<u64>;

    /// Takes the exclusive lock that a file stands for, until the guard is dropped or the process
    /// ends; `WouldBlock` when another holds it.
    fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>>;
}

/// An open file. Reads and writes name their offset, so that threads share one handle.
pub trait File: Send + Sync {
    /// Reads at most `buffer.len()` bytes; 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize>;

    /// Writes all of `bytes`, growing the file where needed.
    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()>;

    /// Makes the file's bytes and length durable.
    fn sync_data(&self) -> Result<()>;

    /// Cuts the file or extends it with zeros.
    fn set_len(&self, length: u64) -> Result<()>;

    /// The file's length.
    fn length(&self) -> Result<u64>;

    /// Fills `buffer`, or fails with `UnexpectedEof`.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => return Err(Error::from(ErrorKind::UnexpectedEof)),
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Zeros are written in pieces of this size, so that a sync of another file does not wait for more
/// than one of them.
pub(crate) const ZEROS_BYTES: usize = 256 * 1024;

/// Writes zeros from `start` to `end`.
pub(crate) fn write_zeros(file: &dyn File, start: u64, end: u64) -> Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut offset = start;
    while offset < end {
        let count = (end - offset).min(ZEROS_BYTES as u64);
        file.write_all_at(&zeros[..count as usize], offset)?;
        offset += count;
    }
    Ok(())
}

/// Reads a whole file.
pub(crate) fn read_all(fs: &dyn Fs, path: &Path) -> Result<Vec<u8>> {
    let file = fs.open(path)?;
    let mut bytes = vec![0; usize::try_from(file.length()?).map_err(Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Replaces a file by `bytes` so that a crash leaves the old ones or the new ones: temporary file,
/// sync, rename, directory sync.
pub(crate) fn replace(fs: &dyn Fs, dir: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let file = fs.create(&temporary)?;
    file.write_all_at(bytes, 0)?;
    file.sync_data()?;
    fs.rename(&temporary, &dir.join(name))?;
    fs.sync_dir(dir)
}
