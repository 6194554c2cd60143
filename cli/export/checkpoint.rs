//! How far an export into a file is, for one that goes on after a crash.
//!
//! A checkpoint says of each part up to which document it is in its file, and how long the file is then. It
//! is written after the files were synced that far, so a file has at least what the last checkpoint says;
//! what lies behind that is cut off before the export goes on.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sherd_client::Digest;
use sherd_protocol::{Position, Range};

use super::part::{Part, Place};
use super::{Export, Wanted};
use crate::error::Error;
use crate::file::{new_path, remove_if_there, replace};
use crate::formats::{Compression, Format};

/// The version of the checkpoint.
const VERSION: u32 = 1;

/// A checkpoint as it lies on the disk.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    version: u32,
    cluster: String,
    #[serde(flatten)]
    wanted: Stored,
    /// How many parts are put together in the first one's file.
    pub(super) joined: usize,
    parts: Vec<PartAt>,
}

/// What must be the same when an export goes on.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Stored {
    index: String,
    index_id: u32,
    format: Format,
    compression: Compression,
    columns: Option<Vec<String>>,
    without_expiry: bool,
    prefix: Option<String>,
    range: Range,
}

/// What an export of all indexes is of, kept in its directory while it is not whole.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct OfAll {
    cluster: String,
    indexes: Vec<Stored>,
}

impl OfAll {
    pub(crate) fn new(cluster: String, indexes: &[Wanted]) -> Self {
        Self { cluster, indexes: indexes.iter().map(Stored::from).collect() }
    }

    fn path(dir: &Path) -> PathBuf {
        dir.join(".export.json")
    }

    /// Keeps it in a directory in which nothing is yet; of another one, makes sure that it is of this.
    ///
    /// # Errors
    /// When it is not, and with the name of a file.
    pub(crate) fn begin_or_go_on(&self, dir: &Path) -> Result<(), Error> {
        let path = Self::path(dir);
        let earlier = match fs::read(&path) {
            Ok(earlier) => earlier,
            // Interrupted before anything was exported.
            Err(error) if error.kind() == ErrorKind::NotFound && Self::is_empty(dir)? => {
                let text =
                    serde_json::to_vec(self).map_err(|error| Error::Failed(error.to_string()))?;
                return replace(&path, &text);
            }
            Err(error) => return Err(Error::file("read", path)(error)),
        };
        if serde_json::from_slice::<Self>(&earlier).is_ok_and(|earlier| earlier == *self) {
            return Ok(());
        }
        Err(Error::Failed(format!(
            "{} is of an export from another cluster, with other options, or of other indexes than \
             there are now; remove it to begin anew",
            dir.display()
        )))
    }

    /// Whether nothing is in a directory but what it is about to be kept in.
    fn is_empty(dir: &Path) -> Result<bool, Error> {
        let ours = new_path(&Self::path(dir));
        let mut entries = fs::read_dir(dir).map_err(Error::file("read", dir))?;
        Ok(entries.all(|entry| entry.is_ok_and(|entry| entry.path() == ours)))
    }

    /// Removes it with its directory, where nothing was exported: there is nothing to go on with.
    pub(crate) fn remove_unused(dir: &Path) {
        let path = Self::path(dir);
        let is_unused = fs::read_dir(dir).is_ok_and(|mut entries| {
            entries.all(|entry| entry.is_ok_and(|entry| entry.path() == path))
        });
        if is_unused {
            // What made the export fail is more than that an empty directory stays.
            _ = fs::remove_file(path).and_then(|()| fs::remove_dir(dir));
        }
    }

    /// Removes it: the export is whole.
    ///
    /// # Errors
    /// With the name of the file.
    pub(crate) fn remove(dir: &Path) -> Result<(), Error> {
        remove_if_there(&Self::path(dir))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct PartAt {
    range: Range,
    after: Option<(Position, String)>,
    documents: u64,
    digest: String,
    bytes: u64,
    crc32: u32,
    done: bool,
}

impl From<&Wanted> for Stored {
    fn from(wanted: &Wanted) -> Self {
        let Wanted { format, compression, without_expiry, range, .. } = *wanted;
        Self {
            index: wanted.index.clone(),
            index_id: wanted.id,
            format,
            compression,
            columns: wanted.columns.clone(),
            without_expiry,
            prefix: wanted.prefix.clone(),
            range,
        }
    }
}

impl From<&Part> for PartAt {
    fn from(part: &Part) -> Self {
        let Place { after, documents, digest, bytes, crc, is_done } = part.place();
        let (range, digest) = (part.range, digest.to_string());
        Self { range, after, documents, digest, bytes, crc32: crc, done: is_done }
    }
}

impl Checkpoint {
    /// How far an export is, of which so many parts are put together.
    pub(super) fn of(export: &Export, joined: usize) -> Self {
        Self {
            version: VERSION,
            cluster: export.client.known_map().cluster,
            wanted: Stored::from(&export.wanted),
            joined,
            parts: export.parts.iter().map(PartAt::from).collect(),
        }
    }

    /// Reads the checkpoint of an export that was interrupted; nothing where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is of another export than `wanted` from `cluster`.
    pub(super) fn read(path: &Path, cluster: &str, wanted: &Wanted) -> Result<Option<Self>, Error> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", path)(error)),
        };
        let failed = |what: String| {
            Error::Failed(format!(
                "{}: {what}; without --resume the export begins anew",
                path.display()
            ))
        };
        let checkpoint: Self = serde_json::from_slice(&bytes)
            .map_err(|error| failed(format!("it is no checkpoint of an export: {error}")))?;
        if checkpoint.version != VERSION {
            let version = checkpoint.version;
            return Err(failed(format!("its version is {version}, and {VERSION} is known here")));
        }
        if checkpoint.cluster != cluster {
            return Err(failed("it is of an export from another cluster".to_owned()));
        }
        if checkpoint.wanted != Stored::from(wanted) {
            let what = "it is of another index, or of an export with other options";
            return Err(failed(what.to_owned()));
        }
        if checkpoint.parts.is_empty() || checkpoint.joined > checkpoint.parts.len() {
            return Err(failed("it is damaged".to_owned()));
        }
        Ok(Some(checkpoint))
    }

    /// How many parts an export has that was interrupted, whichever it is of.
    pub(super) fn parts_in(path: &Path) -> usize {
        let earlier =
            fs::read(path).ok().and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok());
        earlier.map_or(0, |earlier| earlier.parts.len())
    }

    /// The parts as they were.
    ///
    /// # Errors
    /// When a digest is none.
    pub(super) fn parts(self, path: &Path) -> Result<Vec<Part>, Error> {
        let of_part = |(i, part): (usize, PartAt)| {
            let PartAt { range, after, documents, digest, bytes, crc32: crc, done } = part;
            let digest = u128::from_str_radix(&digest, 16).ok()?;
            let place =
                Place { after, documents, digest: Digest(digest), bytes, crc, is_done: done };
            Some(Part::at(range, i == 0, place))
        };
        let parts: Option<_> = self.parts.into_iter().enumerate().map(of_part).collect();
        parts.ok_or_else(|| Error::Failed(format!("{}: it is damaged", path.display())))
    }

    /// Replaces the checkpoint, durably.
    ///
    /// # Errors
    /// With the name of the file.
    pub(super) fn write(&self, path: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec(self).map_err(|error| Error::Failed(error.to_string()))?;
        replace(path, &text)
    }
}
