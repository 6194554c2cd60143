//! How far an import is, on disk, so that it goes on exactly there.
//!
//! A checkpoint is made while nothing is under way: every row before it is answered, and none behind
//! it is sent. A run sends no more than a window of rows before it makes the next one, behind the same
//! row whoever runs (see [`Window`]). So a run that goes on from a checkpoint knows of the rows of one
//! window that they may have been written before, and of all others that they were not.
//!
//! Whether they were is told by versions. They are LSNs, which grow: what the shard held when the
//! checkpoint was made has at most the LSN that it had then, what was written later has more.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, TryLockError};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sherd_protocol::{OwnedRange, Position, RangeMap};

use crate::error::Error;
use crate::export::Sidecar;
use crate::file::{beside, new_path, replace, sync_dir};
use crate::output::shell_word;
use crate::units::{show_count, show_duration};

use super::batches::{Point, Window};
use super::{Conflict, Summary};

/// The version of the file's format.
const FORMAT_VERSION: u32 = 1;

/// What is on disk.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) version: u32,
    /// What was asked for, which must be the same when it goes on.
    pub(crate) asked: Asked,
    /// When the import began, in milliseconds since 1970: times to live count from then.
    pub(crate) began_at: u64,
    /// Everything before it is answered.
    pub(crate) at: Point,
    pub(crate) window: Window,
    pub(crate) marks: Marks,
    pub(crate) counts: Summary,
    /// The length of the file of rejects.
    pub(crate) rejects_bytes: u64,
    /// What inputs are not what they should be.
    pub(crate) mismatches: Vec<String>,
    /// All inputs are done.
    pub(crate) is_finished: bool,
}

/// What decides which documents are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// The id of the cluster.
    pub(crate) cluster: String,
    pub(crate) index: String,
    /// Another index may have the name by now.
    pub(crate) index_id: u32,
    pub(crate) inputs: Vec<InputIs>,
    pub(crate) on_conflict: Conflict,
    pub(crate) ttl: Option<u64>,
    pub(crate) key: Option<String>,
    pub(crate) schema: String,
    pub(crate) rejects: Option<PathBuf>,
}

/// An input as it was when the import began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InputIs {
    pub(crate) name: String,
    pub(crate) format: crate::formats::Format,
    pub(crate) bytes: u64,
    /// In nanoseconds since 1970.
    pub(crate) modified: u64,
    /// What it is checked against in the end; empty where there is nothing. Earlier versions did not note it.
    #[serde(default)]
    pub(crate) sidecar: Option<String>,
}

impl InputIs {
    /// Whether it is checked against something else. Only what is known from its beginning on can be summed up.
    fn has_other_sidecar(&self, now: &Self) -> bool {
        self.sidecar.is_some() && self.sidecar != now.sidecar
    }

    fn is_other(&self, now: &Self) -> bool {
        let Self { name, format, bytes, modified, .. } = self;
        (name, format, bytes, modified) != (&now.name, &now.format, &now.bytes, &now.modified)
    }
}

impl Asked {
    /// What is different, if anything is, in words and options as a person has them.
    pub(crate) fn difference(&self, now: &Self) -> Option<String> {
        if self.cluster != now.cluster {
            let (before, now) = (&self.cluster, &now.cluster);
            return Some(format!("it is of the cluster {before}, and this one of {now}"));
        }
        if self.index != now.index {
            let (before, now) = (&self.index, &now.index);
            return Some(format!("it is into the index {before}, and this one into {now}"));
        }
        if self.index_id != now.index_id {
            return Some(format!("the index {} was dropped and created again", now.index));
        }
        let mut inputs = self.inputs.iter().zip(&now.inputs);
        let is_other = |(before, now): &(&InputIs, &InputIs)| {
            before.is_other(now) || before.has_other_sidecar(now)
        };
        if let Some((before, now)) = inputs.find(is_other) {
            if before.name != now.name || before.format != now.format {
                let show = |it: &InputIs| format!("{} as {}", it.name, it.format.name());
                let (before, now) = (show(before), show(now));
                return Some(format!(
                    "it began with {before}, and this one has {now} in its place"
                ));
            }
            let sidecar = if before.is_other(now) { "" } else { Sidecar::SUFFIX };
            return Some(format!("{}{sidecar} has changed since", now.name));
        }
        let (before, count) = (self.inputs.len(), now.inputs.len());
        if before != count {
            let before = show_count(before, "input");
            return Some(format!("it began with {before}, and this one has {count}"));
        }
        let options = self.options().into_iter().zip(now.options());
        let (before, now) = options.into_iter().find(|(before, now)| before != now)?;
        Some(format!("it began {before}, and this one is {now}"))
    }

    /// The options that decide what is written, as they are typed.
    fn options(&self) -> [String; 5] {
        let option = |name: &str, value: Option<String>| match value {
            Some(value) => format!("with {name} {}", shell_word(&value)),
            None => format!("without {name}"),
        };
        let on_conflict = self.on_conflict.to_possible_value();
        let schema = Some(&self.schema).filter(|schema| !schema.is_empty()).cloned();
        let rejects = self.rejects.as_ref().map(|path| path.display().to_string());
        [
            option("--on-conflict", on_conflict.map(|value| value.get_name().to_owned())),
            option("--ttl", self.ttl.map(show_duration)),
            option("--key", self.key.clone()),
            option("--schema", schema),
            option("--rejects", rejects),
        ]
    }
}

/// What the shards had written when a window began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marks {
    pub(crate) epoch: u64,
    pub(crate) ranges: Vec<OwnedRange>,
    /// The last LSN of each shard.
    pub(crate) lsns: BTreeMap<String, u64>,
}

/// When a document was written that is found in the way of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    BeforeWindow,
    Since,
    /// Its range has moved, and its version may be of either shard.
    Unclear,
}

impl Marks {
    /// When the document of that version was written, as the map is now.
    pub(crate) fn written(&self, position: Position, version: u64, map: &RangeMap) -> Written {
        let owner = self.ranges.iter().find(|owned| owned.range().contains(position));
        let lsn = |shard: &str| self.lsns.get(shard).copied().unwrap_or(0);
        let then = owner.map_or(0, |owned| lsn(&owned.shard));
        if version > then {
            return Written::Since;
        }
        // Every change of the map has an epoch: without one, nothing has moved.
        let least = map.shards.iter().map(|shard| lsn(&shard.name)).min().unwrap_or(0);
        if map.epoch == self.epoch || version <= least {
            Written::BeforeWindow
        } else {
            Written::Unclear
        }
    }
}

/// Whether a file is the one of that name.
fn has_name(file: &File, path: &Path) -> bool {
    let is_it =
        |file: &Metadata, named: &Metadata| (file.dev(), file.ino()) == (named.dev(), named.ino());
    file.metadata().is_ok_and(|file| fs::metadata(path).is_ok_and(|named| is_it(&file, &named)))
}

/// Held by the import that a checkpoint is of; the file goes with it.
#[derive(Debug)]
pub(crate) struct CheckpointLock {
    _file: File,
    path: PathBuf,
}

impl Drop for CheckpointLock {
    fn drop(&mut self) {
        // One that is left is locked again by the next import.
        _ = fs::remove_file(&self.path);
    }
}

/// Where a checkpoint is kept: one file, replaced as a whole.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    path: PathBuf,
}

impl CheckpointFile {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Keeps other imports from the checkpoint for as long as the guard lives.
    ///
    /// # Errors
    /// When another one has it.
    pub(crate) fn lock(&self) -> Result<CheckpointLock, Error> {
        let path = self.lock_path();
        let file = File::options().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(Error::file("write", path.as_path()))?;
        match file.try_lock() {
            // Who had it may have removed it since it was opened, and another may have made it anew.
            Ok(()) if !has_name(&file, &path) => self.lock(),
            Ok(()) => Ok(CheckpointLock { _file: file, path }),
            Err(TryLockError::WouldBlock) => Err(Error::Failed(format!(
                "{} is of an import that is under way; wait for it, or name another file with \
                 --checkpoint",
                self.path.display()
            ))),
            Err(TryLockError::Error(error)) => Err(Error::file("lock", path)(error)),
        }
    }

    /// The command that removes it.
    pub(crate) fn removal(&self) -> String {
        format!("rm {}", shell_word(&self.path.display().to_string()))
    }

    /// All files that it may be in.
    pub(crate) fn paths(&self) -> [PathBuf; 3] {
        [self.path.clone(), new_path(&self.path), self.lock_path()]
    }

    fn lock_path(&self) -> PathBuf {
        beside(&self.path, ".lock")
    }

    /// The checkpoint, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub(crate) fn load(&self) -> Result<Option<Checkpoint>, Error> {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", &self.path)(error)),
        };
        let path = self.path.display();
        let checkpoint: Checkpoint = serde_json::from_slice(&bytes).map_err(|error| {
            Error::Failed(format!(
                "{path} is no checkpoint of an import ({error}); name another file with \
                 --checkpoint, or begin anew after `{}`",
                self.removal()
            ))
        })?;
        if checkpoint.version != FORMAT_VERSION {
            return Err(Error::Failed(format!(
                "{path} has version {}, {FORMAT_VERSION} is known here; go on with the sherd that \
                 wrote it",
                checkpoint.version
            )));
        }
        Ok(Some(checkpoint))
    }

    /// Replaces the checkpoint, durably.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn save(&self, checkpoint: &Checkpoint) -> Result<(), Error> {
        let checkpoint = Checkpoint { version: FORMAT_VERSION, ..checkpoint.clone() };
        let bytes =
            serde_json::to_vec(&checkpoint).map_err(|error| Error::Failed(error.to_string()))?;
        replace(&self.path, &bytes)
    }

    /// Removes the checkpoint.
    ///
    /// # Errors
    /// When that cannot be done.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        fs::remove_file(&self.path).map_err(Error::file("remove", &self.path))?;
        sync_dir(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use sherd_protocol::{HashMethod, Policy, ShardInfo};

    use super::*;

    fn marks() -> Marks {
        let owned = |start, end, shard: &str| OwnedRange { start, end, shard: shard.to_owned() };
        let lsns = [("a".to_owned(), 1000), ("b".to_owned(), 50)];
        let ranges = vec![owned(0, 5_000_000, "a"), owned(5_000_000, 10_000_000, "b")];
        Marks { epoch: 7, ranges, lsns: lsns.into_iter().collect() }
    }

    fn map(epoch: u64, shards: &[&str]) -> RangeMap {
        let shard = |name: &&str| ShardInfo {
            name: (*name).to_owned(),
            host: "h".to_owned(),
            port: 1,
            size: 1,
            policy: Policy::Reject,
        };
        RangeMap {
            cluster: String::new(),
            epoch,
            hash_method: HashMethod::Md5,
            shards: shards.iter().map(shard).collect(),
            ranges: Vec::new(),
        }
    }

    #[test]
    fn versions_tell_when_a_document_was_written() {
        let (marks, low, high) = (marks(), Position(1), Position(9_000_000));
        let same = map(7, &["a", "b"]);
        assert_eq!(marks.written(low, 1000, &same), Written::BeforeWindow);
        assert_eq!(marks.written(low, 1001, &same), Written::Since);
        assert_eq!(marks.written(high, 50, &same), Written::BeforeWindow);
        assert_eq!(marks.written(high, 51, &same), Written::Since);
        // It may have moved to the shard of lower LSNs, and been written there.
        let moved = map(8, &["a", "b"]);
        assert_eq!(marks.written(low, 1001, &moved), Written::Since);
        assert_eq!(marks.written(low, 50, &moved), Written::BeforeWindow);
        assert_eq!(marks.written(low, 51, &moved), Written::Unclear);
        assert_eq!(marks.written(high, 51, &moved), Written::Since);
        // Of a shard that is new nothing is known.
        assert_eq!(marks.written(low, 1, &map(8, &["a", "b", "c"])), Written::Unclear);
    }

    #[test]
    fn a_checkpoint_is_kept_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = CheckpointFile::new(dir.path().join("i.import"));
        assert_eq!(file.load().unwrap(), None);
        let asked = Asked {
            cluster: "c".to_owned(),
            index: "i".to_owned(),
            index_id: 1,
            inputs: Vec::new(),
            on_conflict: Conflict::Skip,
            ttl: None,
            key: None,
            schema: String::new(),
            rejects: None,
        };
        let window = Window { rows: 1, bytes: 2 };
        let (at, counts) = (Point { input: 3, ..Point::default() }, Summary::default());
        let checkpoint = Checkpoint {
            version: FORMAT_VERSION,
            asked: asked.clone(),
            began_at: 1,
            at,
            window,
            marks: marks(),
            counts,
            rejects_bytes: 9,
            mismatches: vec!["m".to_owned()],
            is_finished: false,
        };
        file.save(&checkpoint).unwrap();
        assert_eq!(file.load().unwrap(), Some(checkpoint));
        let other = Asked { index: "j".to_owned(), ..asked.clone() };
        assert_eq!(asked.difference(&asked), None);
        assert!(asked.difference(&other).unwrap().contains("index"));
        let with_key = |key: &str| Asked { key: Some(key.to_owned()), ..asked.clone() };
        let with_ttl = Asked { ttl: Some(18_000_000), ..asked.clone() };
        let with_schema = Asked { schema: "zip:string".to_owned(), ..asked.clone() };
        let overwriting = Asked { on_conflict: Conflict::Overwrite, ..asked.clone() };
        for (before, now, expected) in [
            (
                &with_key("contry"),
                &with_key("{country}:{id}"),
                "it began with --key contry, and this one is with --key '{country}:{id}'",
            ),
            (&asked, &with_ttl, "it began without --ttl, and this one is with --ttl 5h"),
            (
                &with_schema,
                &asked,
                "it began with --schema zip:string, and this one is without --schema",
            ),
            (
                &asked,
                &overwriting,
                "it began with --on-conflict skip, and this one is with --on-conflict overwrite",
            ),
        ] {
            assert_eq!(before.difference(now).as_deref(), Some(expected));
        }
        fs::write(file.path(), "{}").unwrap();
        assert!(file.load().unwrap_err().to_string().contains("no checkpoint"));
        file.remove().unwrap();
        assert_eq!(file.load().unwrap(), None);
    }
}
