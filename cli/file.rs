//! Files that say how far something is: replaced as a whole and durably, with others beside them.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

/// Replaces a file so that a crash leaves the old one or the new one.
///
/// # Errors
/// With the name of the file.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let new = new_path(path);
    let write = || {
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(Error::file("write", new.as_path()))?;
    fs::rename(&new, path).map_err(Error::file("rename to", path))?;
    sync_dir(path)
}

/// What a file is called while it is written, before it takes the place of that of the path.
pub(crate) fn new_path(path: &Path) -> PathBuf {
    beside(path, ".new")
}

/// Makes the names in the directory of a file durable.
///
/// # Errors
/// With the name of the directory.
pub(crate) fn sync_dir(path: &Path) -> Result<(), Error> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::file("sync", dir))
}

/// The path with something behind its name.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Removes a file, which may be gone.
///
/// # Errors
/// With its name.
pub(crate) fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}
