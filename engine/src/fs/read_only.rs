//! The real filesystem, which nothing here can change.

use std::any::Any;
use std::fs::{self, TryLockError};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::disk::HeldLock;
use super::{DiskFs, File, Fs};

/// The operating system's filesystem, to look at: files are opened for reading only, and whatever
/// would change anything fails with `ReadOnlyFilesystem`.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadOnlyFs;

fn refuse<T>() -> Result<T> {
    Err(Error::from(ErrorKind::ReadOnlyFilesystem))
}

impl Fs for ReadOnlyFs {
    fn create_dir_all(&self, _: &Path) -> Result<()> {
        refuse()
    }

    fn create(&self, _: &Path) -> Result<Arc<dyn File>> {
        refuse()
    }

    fn open(&self, path: &Path) -> Result<Arc<dyn File>> {
        Ok(Arc::new(ReadOnlyFile(fs::File::open(path)?)))
    }

    fn rename(&self, _: &Path, _: &Path) -> Result<()> {
        refuse()
    }

    fn remove(&self, _: &Path) -> Result<()> {
        refuse()
    }

    fn list(&self, dir: &Path) -> Result<Vec<String>> {
        DiskFs.list(dir)
    }

    fn sync_dir(&self, _: &Path) -> Result<()> {
        refuse()
    }

    fn free_bytes(&self, dir: &Path) -> Result<u64> {
        DiskFs.free_bytes(dir)
    }

    /// A shared lock: it keeps writers out, and not other readers. Where there is no file to lock,
    /// in a copy of a directory, there is nobody to keep out.
    fn lock(&self, path: &Path) -> Result<Box<dyn Any + Send + Sync>> {
        let file = match fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Box::new(())),
            Err(error) => return Err(error),
        };
        match file.try_lock_shared() {
            Ok(()) => Ok(Box::new(HeldLock(file))),
            Err(TryLockError::WouldBlock) => Err(Error::from(ErrorKind::WouldBlock)),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

struct ReadOnlyFile(fs::File);

impl File for ReadOnlyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_all_at(&self, _: &[u8], _: u64) -> Result<()> {
        refuse()
    }

    fn sync_data(&self) -> Result<()> {
        refuse()
    }

    fn set_len(&self, _: u64) -> Result<()> {
        refuse()
    }

    fn length(&self) -> Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let [path, other] = ["file", "other"].map(|name| dir.path().join(name));
        fs::write(&path, b"bytes").unwrap();
        let file = ReadOnlyFs.open(&path).unwrap();
        let refused = [
            ReadOnlyFs.create(&other).map(drop),
            ReadOnlyFs.create(&path).map(drop),
            ReadOnlyFs.create_dir_all(&other),
            ReadOnlyFs.rename(&path, &other),
            ReadOnlyFs.remove(&path),
            file.write_all_at(b"other", 0),
            file.set_len(1),
        ];
        for result in refused {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        }
        assert_eq!(ReadOnlyFs.open(&other).map(drop).unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(ReadOnlyFs.list(dir.path()).unwrap(), ["file"]);
        let mut bytes = [0; 5];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"bytes");
    }

    #[test]
    fn readers_keep_writers_out_and_not_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("LOCK");
        drop(ReadOnlyFs.lock(&path).unwrap());
        assert!(!path.exists());
        let writer = DiskFs.lock(&path).unwrap();
        assert_eq!(ReadOnlyFs.lock(&path).map(drop).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(writer);
        let readers = [ReadOnlyFs.lock(&path).unwrap(), ReadOnlyFs.lock(&path).unwrap()];
        assert_eq!(DiskFs.lock(&path).map(drop).unwrap_err().kind(), ErrorKind::WouldBlock);
        drop(readers);
        assert!(DiskFs.lock(&path).is_ok());
    }
}
