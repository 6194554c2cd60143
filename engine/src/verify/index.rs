//! The index against the documents that the log amounts to.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::command::IndexId;
use crate::index::{Entry, Index, IndexKey};
use crate::log::{LOG_DIR, segment_name};

use super::live::LiveSet;
use super::log::Walked;
use super::{Fault, Faults};

/// What is copied at a time.
const PIECE_BYTES: usize = 256 * 1024;

/// Compares the entries of a part of the ring, and returns how many there are.
pub(super) fn compare(
    index: &dyn Index,
    dir: &Path,
    live: &mut LiveSet,
    walked: &Walked,
    faults: &mut Faults<'_>,
) -> u64 {
    let mut indexes: Vec<_> = live.indexes().map(|(id, name)| (id, Arc::clone(name))).collect();
    indexes.sort_unstable();
    let mut compared = 0;
    for (id, name) in indexes {
        compared += Comparison { index, dir, id, name, walked }.run(live, faults);
    }
    compared
}

struct Comparison<'a> {
    index: &'a dyn Index,
    dir: &'a Path,
    id: IndexId,
    name: Arc<str>,
    walked: &'a Walked,
}

impl Comparison<'_> {
    fn run(&self, live: &mut LiveSet, faults: &mut Faults<'_>) -> u64 {
        let part = live.part();
        let (start, end) = (part.start.to_be_bytes(), part.end.to_be_bytes());
        let entries = match self.index.range(self.id, Bound::Included(&start), &end) {
            Ok(entries) => entries,
            Err(error) => {
                faults.add(Fault::new(self.dir, None, error.to_string()));
                return 0;
            }
        };
        let table = live.table_mut(self.id);
        let mut compared = 0;
        for item in entries {
            let (key, entry) = match item {
                Ok(item) => item,
                Err(error) => {
                    let what = format!("the entries of index {:?} end: {error}", self.name);
                    faults.add(Fault::new(self.dir, None, what));
                    // What was not reached is not missing for sure.
                    return compared;
                }
            };
            compared += 1;
            let slot = table.get_mut(&key);
            let is_allowed = slot.as_ref().is_some_and(|slot| slot.allows(Some(&entry)));
            if !is_allowed {
                let last = slot.as_ref().and_then(|slot| slot.last());
                faults.add(self.wrong(&key, &entry, last));
            }
            if let Some(slot) = slot {
                slot.seen = true;
            }
        }
        let mut missing: Vec<_> = table
            .iter()
            .filter(|(_, slot)| !slot.seen && !slot.allows(None))
            .filter_map(|(key, slot)| slot.last().map(|entry| (key, entry)))
            .collect();
        missing.sort_unstable_by_key(|(key, _)| *key);
        for (key, entry) in missing {
            let what = format!(
                "{} has no entry; its document, {}, is at {}",
                self.show_key(key),
                show_version(entry),
                self.show_place(entry)
            );
            faults.add(Fault::new(self.dir, None, what));
        }
        compared
    }

    /// An entry that is not what the log amounts to.
    fn wrong(&self, key: &IndexKey, entry: &Entry, last: Option<&Entry>) -> Fault {
        let key = self.show_key(key);
        let (version, place) = (show_version(entry), self.show_place(entry));
        if self.walked.is_damaged(entry.segment, entry.offset) {
            let file = self.segment_path(entry.segment);
            let what = format!("{key}: its document, {version}, is among the damage");
            return Fault::new(file, u64::from(entry.offset), what);
        }
        let what = match last {
            None => format!("{key} has an entry for {version} at {place}, the log has no document"),
            Some(last) if show_version(last) == version && self.show_place(last) == place => {
                format!("the entry of {key}, {version} at {place}, has other details than the log")
            }
            Some(last) => format!(
                "the entry of {key} is for {version} at {place}, the log has {} at {}",
                show_version(last),
                self.show_place(last)
            ),
        };
        Fault::new(self.dir, None, what)
    }

    fn show_key(&self, key: &IndexKey) -> String {
        format!("key {:?} of index {:?}", String::from_utf8_lossy(key.key()), self.name)
    }

    fn show_place(&self, entry: &Entry) -> String {
        format!("{}:{}", self.segment_path(entry.segment).display(), entry.offset)
    }

    fn segment_path(&self, number: u32) -> PathBuf {
        let data = self.dir.parent().unwrap_or(self.dir);
        data.join(LOG_DIR).join(segment_name(number))
    }
}

fn show_version(entry: &Entry) -> String {
    format!("version {}", entry.version)
}

/// Why a copy was not made.
pub(super) enum CopyError {
    /// The original cannot be read.
    Read(PathBuf, io::Error),
    /// The copy cannot be written.
    Write(PathBuf, io::Error),
}

/// Copies the files below a directory.
pub(super) fn copy(from: &Path, to: &Path) -> Result<(), CopyError> {
    let unread = |error| CopyError::Read(from.to_owned(), error);
    for entry in fs::read_dir(from).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if entry.file_type().map_err(unread)?.is_dir() {
            fs::create_dir(&to).map_err(|error| CopyError::Write(to.clone(), error))?;
            copy(&from, &to)?;
        } else {
            copy_file(&from, &to)?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<(), CopyError> {
    let unread = |error| CopyError::Read(from.to_owned(), error);
    let unwritten = |error| CopyError::Write(to.to_owned(), error);
    let mut source = File::open(from).map_err(unread)?;
    let mut copy = File::create(to).map_err(unwritten)?;
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match source.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => copy.write_all(&piece[..count]).map_err(unwritten)?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unread(error)),
        }
    }
}
