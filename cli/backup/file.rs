//! What a backup says of itself: `BACKUP.json`.
//!
//! One JSON object of `format`, `crc32` (of the bytes of `backup` as they stand in the file) and
//! `backup`. `docs/format.md` has its fields.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sherd_engine::verify::{Fault, SegmentFile, ShardFiles};
use sherd_protocol::message::Index;
use sherd_protocol::{Range, RangeMap};

use crate::error::Error;

/// The version of the file's format.
const FORMAT_VERSION: u32 = 1;

/// The file that makes a directory a backup.
pub(super) const FILE: &str = "BACKUP.json";

/// The file that says which cluster's backup is to be in a directory, until it is there.
pub(super) const UNFINISHED: &str = "UNFINISHED";

/// The file while it is written.
const TEMPORARY_FILE: &str = "BACKUP.json.new";

/// The directory of the segments, in that of a shard.
pub(super) const LOG_DIR: &str = "log";

/// The name of a shard's manifest.
pub(super) const MANIFEST: &str = "MANIFEST";

/// A backup.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Backup {
    /// The name of its directory.
    pub(crate) id: String,
    /// When the cut began, by the clock of who took it, in milliseconds since 1970.
    pub(crate) cut_from: u64,
    /// When every shard had been cut.
    pub(crate) cut_until: u64,
    /// The version of the `sherd` that took it.
    pub(crate) sherd: String,
    /// The range map, with the cluster's id and the epoch of all cuts.
    pub(crate) map: RangeMap,
    /// The catalogue.
    pub(crate) indexes: Vec<Index>,
    /// What all documents come to.
    pub(crate) total: Sums,
    /// What there is of each shard.
    pub(crate) shards: Vec<ShardBackup>,
    /// The backups in the same directory whose files it shares.
    pub(crate) builds_on: Vec<String>,
}

/// What a backup has of a shard.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShardBackup {
    /// The shard's name.
    pub(crate) name: String,
    /// Its directory, in that of the backup.
    pub(crate) dir: String,
    /// The identity of its data directory: 32 hexadecimal digits.
    pub(crate) identity: String,
    /// The last LSN that is in it.
    pub(crate) lsn: u64,
    /// The shard's clock at the cut, in milliseconds since 1970; `None` in backups of before it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) clock: Option<u64>,
    /// Each batch of a higher LSN says when it was written. Left out where none does, or it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) timed_after: Option<u64>,
    /// What it owned, in ring order.
    pub(crate) ranges: Vec<Range>,
    /// What each index of the catalogue had there.
    pub(crate) indexes: Vec<IndexSums>,
    /// The manifest as of the cut.
    pub(crate) manifest: FileSum,
    /// The segments, in the order of their numbers.
    pub(crate) segments: Vec<SegmentBackup>,
    /// The backup before, since whose cut the segments here have everything: the shard can be restored to
    /// any moment in between. Left out where some of it was gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) follows: Option<Follows>,
}

/// A backup of the same shard before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Follows {
    /// The backup.
    pub(crate) backup: String,
    /// The LSN of its cut of the shard.
    pub(crate) lsn: u64,
    /// The last segment that it has.
    pub(crate) segment: u32,
}

/// What documents come to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Sums {
    pub(crate) documents: u64,
    /// Of their keys and of themselves.
    pub(crate) bytes: u64,
    /// 32 hexadecimal digits, as `sherd digest` prints them.
    pub(crate) digest: String,
}

impl Sums {
    /// As they are summed up.
    pub(crate) fn new(sums: sherd_engine::Sums) -> Self {
        let sherd_engine::Sums { documents, bytes, digest } = sums;
        Self { documents, bytes, digest: hex(digest) }
    }
}

/// What an index has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct IndexSums {
    pub(crate) id: u32,
    #[serde(flatten)]
    pub(crate) sums: Sums,
}

/// A file, as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileSum {
    /// In bytes.
    pub(crate) length: u64,
    /// The XXH3 of 128 bits, seed 0, of its bytes: 32 hexadecimal digits.
    pub(crate) sum: String,
}

/// A segment of a shard's log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SegmentBackup {
    pub(crate) number: u32,
    /// The LSN of its first record.
    pub(crate) first_lsn: u64,
    /// Whether the manifest names it.
    pub(crate) named: bool,
    #[serde(flatten)]
    pub(crate) file: FileSum,
    /// The backup whose file it shares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shared_with: Option<String>,
}

impl SegmentBackup {
    /// The name of its file.
    pub(super) fn file_name(&self) -> String {
        segment_file_name(self.number)
    }
}

/// The name of a segment's file.
pub(super) fn segment_file_name(number: u32) -> String {
    format!("{number:010}.log")
}

impl ShardBackup {
    /// Where its segments are, in a backup at `path`.
    pub(super) fn segment_path(&self, path: &Path, segment: &SegmentBackup) -> PathBuf {
        path.join(&self.dir).join(LOG_DIR).join(segment.file_name())
    }

    /// Where its manifest is.
    pub(super) fn manifest_path(&self, path: &Path) -> PathBuf {
        path.join(&self.dir).join(MANIFEST)
    }

    /// Whether all that was written since the backup that it follows says when.
    pub(crate) fn is_timed(&self) -> bool {
        let follows = self.follows.as_ref().zip(self.timed_after);
        follows.is_some_and(|(before, timed_after)| timed_after <= before.lsn)
    }

    /// What the engine reads of it.
    pub(super) fn files(&self, path: &Path) -> ShardFiles {
        let named = self.segments.iter().filter(|segment| segment.named);
        let segments = named.map(|segment| self.segment_file(path, segment)).collect();
        ShardFiles { manifest: self.manifest_path(path), segments }
    }

    /// What the engine reads of an earlier backup of the same shard and on to the cut of this one.
    pub(super) fn files_since(&self, path: &Path, base: &Self, base_path: &Path) -> ShardFiles {
        let last = base.segments.iter().map(|segment| segment.number).max().unwrap_or(0);
        let before = base.segments.iter().filter(|it| it.named && it.number < last);
        let before = before.map(|segment| base.segment_file(base_path, segment));
        let since = self.segments.iter().filter(|segment| segment.number >= last);
        let since = since.map(|segment| self.segment_file(path, segment));
        let manifest = base.manifest_path(base_path);
        ShardFiles { manifest, segments: before.chain(since).collect() }
    }

    fn segment_file(&self, path: &Path, segment: &SegmentBackup) -> SegmentFile {
        SegmentFile {
            number: segment.number,
            // A segment's length is of 32 bits; another one is a fault of its file.
            length: u32::try_from(segment.file.length).unwrap_or(u32::MAX),
            path: self.segment_path(path, segment),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    format: u32,
    crc32: u32,
    #[serde(borrow)]
    backup: &'a RawValue,
}

impl Backup {
    /// Writes it into its directory, durably: from then on that is a backup.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn write(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(FILE);
        let write = || {
            let body = serde_json::value::to_raw_value(self)?;
            let crc32 = crc32fast::hash(body.get().as_bytes());
            let envelope = Envelope { format: FORMAT_VERSION, crc32, backup: &body };
            let temporary = dir.join(TEMPORARY_FILE);
            let mut file = File::create(&temporary)?;
            file.write_all(&serde_json::to_vec(&envelope)?)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            sync_dir(dir)
        };
        write().map_err(Error::file("write", &path))
    }

    /// Reads that of a directory; `None` where there is none.
    ///
    /// # Errors
    /// The fault of a file that is damaged, or cannot be read.
    pub(crate) fn read(dir: &Path) -> Result<Option<Self>, Fault> {
        let path = dir.join(FILE);
        let fault = |offset: Option<u64>, what: String| Fault { file: path.clone(), offset, what };
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fault(None, format!("cannot be read: {error}"))),
        };
        // It has one checksum, so no byte of it is nearer to what is wrong than the first.
        let damaged = |what: String| fault(Some(0), what);
        let envelope: Envelope<'_> =
            serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        let Envelope { format, crc32, backup } = envelope;
        let body = backup.get().as_bytes();
        if crc32fast::hash(body) != crc32 {
            return Err(damaged("its checksum is wrong".to_owned()));
        }
        if format != FORMAT_VERSION {
            let what = format!("format version {format} is not known here, {FORMAT_VERSION} is");
            return Err(damaged(what));
        }
        let backup: Self =
            serde_json::from_slice(body).map_err(|error| damaged(error.to_string()))?;
        backup.check().map_err(damaged)?;
        Ok(Some(backup))
    }

    /// Checks what paths are made of, so that nothing outside of the backup is ever looked at.
    fn check(&self) -> Result<(), String> {
        self.map.check().map_err(|fault| fault.to_string())?;
        match self.shards.iter().find(|shard| !is_plain(&shard.dir)) {
            Some(shard) => Err(format!("{:?} is no directory of a shard", shard.dir)),
            None => Ok(()),
        }
    }

    /// The backup before it, since which it has everything that happened at every shard.
    pub(crate) fn follows(&self) -> Option<&str> {
        let mut all = self.shards.iter().map(|shard| shard.follows.as_ref());
        let first = &all.next()??.backup;
        let is_first = |it: Option<&Follows>| it.is_some_and(|it| it.backup == *first);
        all.all(is_first).then_some(first)
    }

    /// Whether all that was written since the backup that it follows says when, at every shard.
    pub(crate) fn is_timed(&self) -> bool {
        self.shards.iter().all(ShardBackup::is_timed)
    }

    /// When the first and when the last shard was cut, by the clock of each; by that of who took it where
    /// these are not known. All shards have what was written by a time before the one, none has what was
    /// written later than the other.
    pub(crate) fn cut_between(&self) -> (u64, u64) {
        let clocks: Option<Vec<u64>> = self.shards.iter().map(|shard| shard.clock).collect();
        let clocks = clocks.unwrap_or_default();
        let first = clocks.iter().copied().min().unwrap_or(self.cut_from);
        (first, clocks.iter().copied().max().unwrap_or(self.cut_until))
    }

    /// What it has of a data directory.
    pub(crate) fn shard(&self, identity: &str) -> Option<&ShardBackup> {
        self.shards.iter().find(|shard| shard.identity == identity)
    }

    /// The bytes of its files, and of those that it shares with other backups.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let segments = || self.shards.iter().flat_map(|shard| &shard.segments);
        let shared = segments().filter(|segment| segment.shared_with.is_some());
        let shared = shared.map(|segment| segment.file.length).sum();
        let manifests: u64 = self.shards.iter().map(|shard| shard.manifest.length).sum();
        (manifests + segments().map(|segment| segment.file.length).sum::<u64>(), shared)
    }
}

/// The sums that a file says, of which the digest is none where it is damaged.
pub(super) fn parse_sums(sums: &Sums) -> sherd_engine::Sums {
    let digest = u128::from_str_radix(&sums.digest, 16).unwrap_or_default();
    sherd_engine::Sums { documents: sums.documents, bytes: sums.bytes, digest }
}

/// Whether a name can be that of a directory in a backup.
pub(super) fn is_plain(name: &str) -> bool {
    let allowed = |char: char| char.is_ascii_alphanumeric() || "_.-".contains(char);
    !name.is_empty() && name.len() <= 200 && !name.starts_with('.') && name.chars().all(allowed)
}

/// A checksum as it is written.
pub(super) fn hex(sum: u128) -> String {
    format!("{sum:032x}")
}

/// Makes what was created, renamed and removed in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}
