//! The directory that holds backups.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sherd_engine::verify::Fault;

use super::file::{Backup, FILE, UNFINISHED, sync_dir};
use crate::error::Error;
use crate::output::say;

const LOCK_FILE: &str = "LOCK";

/// What marks a backup that is not finished, while it is written: in the directory of backups.
const NEW_UNFINISHED: &str = "UNFINISHED.new";

/// What a directory of a backup is called, by its length: `20261126T081530Z`, and `-2` and so on behind
/// where there are more of a second.
const ID_CHARS: usize = 16;

/// A directory of backups.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) path: PathBuf,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(crate) struct Held {
    /// The backups, oldest first.
    pub(crate) backups: Vec<Backup>,
    /// What is wrong with others.
    pub(crate) faults: Vec<Fault>,
    /// Those that were not finished, or are being taken.
    pub(crate) unfinished: Vec<String>,
}

impl Held {
    /// The newest that is not finished, or not any more, if it comes after all backups: the last of these is
    /// not what was backed up last.
    pub(crate) fn unfinished_after_all(&self) -> Option<&str> {
        let last = self.backups.last().map(|backup| order(&backup.id));
        self.unfinished.last().map(String::as_str).filter(|id| Some(order(id)) > last)
    }

    /// The newest that has been a backup of which nothing says so any more.
    pub(crate) fn lost(&self, directory: &Directory) -> Option<&str> {
        let unfinished = self.unfinished.iter().rev();
        unfinished.map(String::as_str).find(|id| !directory.is_begun(id))
    }
}

impl Directory {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// The directory of a backup.
    pub(crate) fn of(&self, id: &str) -> PathBuf {
        self.path.join(id)
    }

    /// What it holds.
    ///
    /// # Errors
    /// When it cannot be listed.
    pub(crate) fn held(&self) -> Result<Held, Error> {
        let mut held = Held::default();
        for id in self.ids()? {
            match Backup::read(&self.of(&id)) {
                Ok(Some(backup)) if backup.id == id => held.backups.push(backup),
                Ok(Some(backup)) => held.faults.push(Fault {
                    file: self.of(&id).join(FILE),
                    offset: Some(0),
                    what: format!("it is that of the backup {}", backup.id),
                }),
                Ok(None) => held.unfinished.push(id),
                Err(fault) => held.faults.push(fault),
            }
        }
        Ok(held)
    }

    /// What is called like a backup, oldest first.
    fn ids(&self) -> Result<Vec<String>, Error> {
        let failed = || Error::file("list", &self.path);
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed())? {
            let name = entry.map_err(failed())?.file_name();
            ids.extend(name.to_str().filter(|name| is_id(name)).map(str::to_owned));
        }
        ids.sort_unstable_by_key(|id| order(id));
        Ok(ids)
    }

    /// Whether what is not finished was begun by a backup.
    pub(crate) fn is_begun(&self, id: &str) -> bool {
        self.of(id).join(UNFINISHED).exists()
    }

    /// Makes it where it is missing, and keeps others from taking a backup into it.
    ///
    /// # Errors
    /// When it cannot be made, or another takes one.
    pub(super) fn lock(&self) -> Result<File, Error> {
        fs::create_dir_all(&self.path).map_err(Error::file("make", &self.path))?;
        let path = self.path.join(LOCK_FILE);
        let lock = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let lock = lock.map_err(Error::file("open", &path))?;
        match lock.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => Err(Error::Failed(format!(
                "another backup is being taken into {}; wait for its end",
                self.path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(Error::file("lock", path)(error)),
        }
    }

    /// Removes what backups of a cluster left that did not come to their end, and nothing else: a directory
    /// may be called like a backup, or be one that has lost what makes it one. Only under the lock.
    pub(super) fn remove_unfinished(&self, held: &Held, cluster: &str) -> Result<(), Error> {
        for id in &held.unfinished {
            let path = self.of(id);
            if fs::read(path.join(UNFINISHED)).is_ok_and(|begun| begun == cluster.as_bytes()) {
                say!("backup {id} was not finished: its files are removed");
                self.remove(id)?;
            } else if fs::remove_dir(&path).is_err() {
                say!(
                    "{} is no backup, and none of this cluster that was not finished: it is left alone; \
                     delete it unless it is of use",
                    path.display()
                );
            }
        }
        // Of those that were killed between their last two steps.
        for backup in &held.backups {
            self.finish(&backup.id)?;
        }
        Ok(())
    }

    /// Removes a backup that is not finished. What says so goes last, so that one who is killed meanwhile
    /// leaves nothing that nobody may remove.
    pub(super) fn remove(&self, id: &str) -> Result<(), Error> {
        let path = self.of(id);
        let remove = || {
            for entry in fs::read_dir(&path)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?;
                } else if entry.file_name() != UNFINISHED {
                    fs::remove_file(entry.path())?;
                }
            }
            sync_dir(&path)?;
            fs::remove_dir_all(&path)
        };
        match remove() {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// The name of a backup of that time. It comes after all that there are: the last one is the newest.
    ///
    /// # Errors
    /// When there is one of a later time.
    pub(super) fn new_id(&self, milliseconds: u64) -> Result<String, Error> {
        let time = id_of(milliseconds);
        let Some(newest) = self.ids()?.pop() else { return Ok(time) };
        let (of_newest, number) = order(&newest);
        if of_newest > time {
            return Err(Error::Failed(format!(
                "the clock of this machine shows {time}, and there is {} already, which would pass for \
                 the newer one: put the clock right, or use another directory",
                self.of(&newest).display()
            )));
        }
        let is_new = of_newest < time;
        Ok(if is_new { time } else { format!("{time}-{}", number.saturating_add(1)) })
    }

    /// Makes the directory of a new backup of a cluster, and names it after a time. Only under the lock.
    pub(super) fn begin(&self, milliseconds: u64, cluster: &str) -> Result<String, Error> {
        let id = self.new_id(milliseconds)?;
        let path = self.of(&id);
        fs::create_dir(&path).map_err(Error::file("make", &path))?;
        self.mark(&path, cluster).map_err(Error::file("begin", path))?;
        Ok(id)
    }

    /// Says of an empty directory that it is a backup to be, durably, before there is anything in it.
    fn mark(&self, path: &Path, cluster: &str) -> io::Result<()> {
        let temporary = self.path.join(NEW_UNFINISHED);
        let mut file = File::create(&temporary)?;
        file.write_all(cluster.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path.join(UNFINISHED))?;
        sync_dir(path)?;
        sync_dir(&self.path)
    }

    /// Says no more of a backup that it is not finished: it has what makes it one.
    pub(super) fn finish(&self, id: &str) -> Result<(), Error> {
        let path = self.of(id).join(UNFINISHED);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => {
                removed.and_then(|()| sync_dir(&self.of(id))).map_err(Error::file("remove", path))
            }
        }
    }

    /// Makes the names of its backups durable.
    pub(super) fn sync(&self) -> Result<(), Error> {
        sync_dir(&self.path).map_err(Error::file("sync", &self.path))
    }
}

/// The name of a backup of that time: `20261126T081530Z`.
fn id_of(milliseconds: u64) -> String {
    let shown = crate::units::show_time(milliseconds);
    let digits = |char: &char| char.is_ascii_digit() || *char == ' ';
    let packed: String = shown.chars().filter(digits).collect();
    format!("{}Z", packed.replace(' ', "T"))
}

fn is_id(name: &str) -> bool {
    let (time, number) = name.split_at_checked(ID_CHARS).unwrap_or(("", ""));
    let is_time = time.char_indices().all(|(place, char)| match place {
        8 => char == 'T',
        15 => char == 'Z',
        _ => char.is_ascii_digit(),
    });
    let is_number = |number: &str| number.parse::<u32>().is_ok_and(|number| number > 1);
    !time.is_empty()
        && is_time
        && (number.is_empty() || number.strip_prefix('-').is_some_and(is_number))
}

/// Backups of one second in the order in which they were begun.
fn order(id: &str) -> (String, u32) {
    let (time, number) = id.split_at(ID_CHARS);
    (time.to_owned(), number.trim_start_matches('-').parse().unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_backup_of_this_cluster_has_begun_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path());
        let begun = directory.begin(1_795_680_930_123, "mine").unwrap();
        fs::create_dir(directory.of(&begun).join("shard0")).unwrap();
        fs::write(directory.of(&begun).join("shard0/MANIFEST"), "").unwrap();
        let of_another = directory.begin(1_795_680_931_123, "another").unwrap();
        let empty = "20261126T081532Z";
        fs::create_dir(directory.of(empty)).unwrap();
        let photographs = "20261126T081533Z";
        fs::create_dir(directory.of(photographs)).unwrap();
        fs::write(directory.of(photographs).join("1.jpg"), "").unwrap();
        let held = directory.held().unwrap();
        assert_eq!(held.unfinished, [begun.as_str(), of_another.as_str(), empty, photographs]);
        directory.remove_unfinished(&held, "mine").unwrap();
        assert_eq!(directory.held().unwrap().unfinished, [of_another.as_str(), photographs]);
        assert!(directory.of(photographs).join("1.jpg").is_file());
        directory.finish(&of_another).unwrap();
        assert_eq!(fs::read_dir(directory.of(&of_another)).unwrap().count(), 0);
        directory.finish(&of_another).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_new_backup_comes_after_all_others() {
        const TIME: u64 = 1_795_680_930_123;
        let dir = tempfile::tempdir().unwrap();
        let directory = Directory::new(dir.path());
        let ids = [(TIME, ""), (TIME + 500, "-2"), (TIME + 1000, "")];
        for (time, number) in ids {
            assert_eq!(directory.begin(time, "mine").unwrap(), id_of(time) + number);
        }
        let refused = directory.begin(TIME, "mine").unwrap_err();
        assert!(refused.to_string().contains("20261126T081531Z"), "{refused}");
        // The number of one that was deleted does not come again.
        for id in ["20261126T081530Z", "20261126T081531Z"] {
            fs::remove_dir_all(directory.of(id)).unwrap();
        }
        assert_eq!(directory.begin(TIME, "mine").unwrap(), "20261126T081530Z-3");
    }

    #[test]
    fn ids_are_times_and_come_in_their_order() {
        assert_eq!(id_of(1_795_680_930_123), "20261126T081530Z");
        for id in ["20261126T081530Z", "20261126T081530Z-2", "20261126T081530Z-10"] {
            assert!(is_id(id), "{id}");
        }
        for other in ["", "LOCK", "20261126T081530", "20261126T081530Z-1", "20261126T081530Zx", "ä"]
        {
            assert!(!is_id(other), "{other}");
        }
        assert!(order("20261126T081530Z-10") > order("20261126T081530Z-2"));
        assert!(order("20261126T081531Z") > order("20261126T081530Z-2"));
    }
}
