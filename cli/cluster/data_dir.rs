//! The data directory of a cluster: who holds it, and its `cluster.json`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::Error;

use super::plan::Plan;

/// A data directory, held against other processes until dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    /// Locked by the operating system, which lets go when the process ends, however it ends. The
    /// content, the holder's process id, is for people.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if there is none, and takes hold of it.
    ///
    /// # Errors
    /// When another process holds it, or it cannot be written.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        fs::create_dir_all(path).map_err(Error::file("make the directory", path))?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock_path)
            .map_err(Error::file("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(in_use(path, &mut lock)),
            Err(TryLockError::Error(error)) => return Err(Error::file("lock", lock_path)(error)),
        }
        let written = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id()));
        written.map_err(Error::file("write", lock_path))?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// The directory of one of the cluster's processes.
    pub(crate) fn child(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where the bootstrap config is.
    pub(crate) fn config(&self) -> PathBuf {
        self.path.join("cluster.json")
    }

    /// The plan as stored; `None` before the first start.
    ///
    /// # Errors
    /// When it cannot be read or is no bootstrap config.
    pub(crate) fn load(&self) -> Result<Option<Plan>, Error> {
        let path = self.config();
        match fs::read_to_string(&path) {
            Ok(text) => Plan::parse(&text).map(Some).map_err(|fault| {
                Error::Failed(format!(
                    "{} is no bootstrap config: {fault}; put it right or use another --data",
                    path.display()
                ))
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file("read", path)(error)),
        }
    }

    /// Stores the plan: whole, or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn save(&self, plan: &Plan) -> Result<(), Error> {
        let path = self.config();
        let new = self.path.join("cluster.json.new");
        let write = || {
            let mut file = File::create(&new)?;
            file.write_all(plan.to_json()?.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(Error::file("write", path.clone()))
    }
}

/// That the directory is held, and by whom.
fn in_use(path: &Path, lock: &mut File) -> Error {
    let mut holder = String::new();
    let read = lock.rewind().and_then(|()| lock.take(20).read_to_string(&mut holder));
    let holder = match (read, holder.trim()) {
        (Ok(_), pid) if !pid.is_empty() => format!("process {pid}"),
        _ => "another process".to_owned(),
    };
    Error::Failed(format!(
        "the cluster in {} is up already, run by {holder}: stop that or use another --data",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Options;

    #[test]
    fn a_directory_is_held_once_and_says_by_whom() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::open(dir.path()).unwrap();
        let error = DataDir::open(dir.path()).err().unwrap().to_string();
        assert!(error.contains(&format!("run by process {}", std::process::id())), "{error}");
        drop(held);
        DataDir::open(dir.path()).unwrap();
    }

    #[test]
    fn a_plan_is_stored_whole_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert!(data.load().unwrap().is_none());
        let plan = Plan::new(&Options { shards: Some(3), ..Options::default() }).unwrap();
        data.save(&plan).unwrap();
        assert_eq!(data.load().unwrap(), Some(plan));
        fs::write(data.config(), "{").unwrap();
        let error = data.load().unwrap_err().to_string();
        assert!(error.contains("cluster.json is no bootstrap config"), "{error}");
    }
}
