//! The real filesystem.

use std::any::Any;
use std::fs::{self, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::{File, Fs};

/// The operating system's filesystem.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFs;

impl Fs for DiskFs {
    fn create_dir_all(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)
    }

    fn create(&self, path: &Path) -> Result<Arc<dyn File>> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        open(OpenOptions::new().read(true).write(true).create_new(true), path)
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
        open(OpenOptions::new().read(true).write(true), path)
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        fs::remove_file(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into())).collect()
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(HeldLock(file))),
            Err(TryLockError::WouldBlock) => Err(Error::from(ErrorKind::WouldBlock)),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

/// A lock that ends with this value. It has to be given up by name: a lock belongs to the open file, which a
/// process that is just being started holds as well until its program runs, so closing it here is not the end of it.
pub(super) struct HeldLock(pub(super) fs::File);

impl Drop for HeldLock {
    fn drop(&mut self) {
        // Where that fails, closing the file gives it up as well, maybe a moment later.
        _ = self.0.unlock();
    }
}

/// Opens a file of which the system need not note when it was read, where it lets us ask for that: of a small document
/// read from memory, that is a tenth of the time.
fn open(options: &OpenOptions, path: &Path) -> Result<Arc<dyn File>> {
    let file = options.open(path)?;
    #[cfg(target_os = "linux")]
    if let Ok(flags) = rustix::fs::fcntl_getfl(&file) {
        // Only the owner of a file may; for others all is as it was.
        _ = rustix::fs::fcntl_setfl(&file, flags | rustix::fs::OFlags::NOATIME);
    }
    Ok(Arc::new(DiskFile(file)))
}

struct DiskFile(fs::File);

impl File for DiskFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_all_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn sync_data(&self) -> Result<()> {
        self.0.sync_data()
    }

    fn set_len(&self, length: u64) -> Result<()> {
        self.0.set_len(length)
    }

    fn length(&self) -> Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_although_a_process_that_is_being_started_still_has_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        let held = DiskFs.lock(&path).unwrap();
        assert_eq!(DiskFs.lock(&path).unwrap_err().kind(), ErrorKind::WouldBlock);
        let inherited = held.downcast_ref::<HeldLock>().unwrap().0.try_clone().unwrap();
        drop(held);
        DiskFs.lock(&path).unwrap();
        drop(inherited);
    }

    /// A crash in the middle of a rename may leave a file both names. Creating the temporary file
    /// of the next replacement then cut the file itself to nothing.
    #[test]
    fn creating_a_file_leaves_alone_what_another_name_stands_for() {
        let dir = tempfile::tempdir().unwrap();
        let (manifest, temporary) = (dir.path().join("MANIFEST"), dir.path().join("MANIFEST.new"));
        fs::write(&manifest, "precious").unwrap();
        fs::hard_link(&manifest, &temporary).unwrap();
        let file = DiskFs.create(&temporary).unwrap();
        file.write_all_at(b"new", 0).unwrap();
        assert_eq!(fs::read(&manifest).unwrap(), b"precious");
        assert_eq!(fs::read(&temporary).unwrap(), b"new");
        DiskFs.create(&temporary).unwrap();
        assert_eq!(fs::read(&temporary).unwrap(), b"");
    }
}
