//! An export into a file: parts at the same time, checkpoints meanwhile, and then one file of all of them.
//!
//! | file | what |
//! | --- | --- |
//! | `FILE.partial` | the first part, in the end all of them; renamed to `FILE` when it is whole and synced |
//! | `FILE.partial.1` … | the other parts, until they are put behind it |
//! | `FILE.partial.json` | the checkpoint |
//! | `FILE.digest.json` | what is in `FILE`; there is none while `FILE` is replaced |

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::Advice;
use sherd_client::Client;
use sherd_protocol::{Position, Range, RangeMap};

use super::block::Target;
use super::checkpoint::Checkpoint;
use super::part::{Part, Place};
use super::{Export, Sidecar, Wanted, joined};
use crate::command::blocking;
use crate::error::Error;
use crate::file::{beside, remove_if_there, replace, sync_dir};
use crate::output::say;
use crate::units::show_count;

/// How often it is made durable how far the parts are: what is done again after a crash. Tests, which are
/// over soon, make more of them.
const CHECKPOINT_INTERVAL: Duration =
    if cfg!(debug_assertions) { Duration::from_millis(20) } else { Duration::from_millis(500) };

/// How much of a file is read at a time to be checked.
const READ_BYTES: usize = 1 << 18;

/// How much of a part is copied at a time.
const COPY_BYTES: u64 = 1 << 23;

/// Where an export into a file keeps what it has.
struct Files {
    file: PathBuf,
}

impl Files {
    fn part(&self, i: usize) -> PathBuf {
        match i {
            0 => beside(&self.file, ".partial"),
            _ => beside(&self.file, &format!(".partial.{i}")),
        }
    }

    fn checkpoint(&self) -> PathBuf {
        beside(&self.file, ".partial.json")
    }

    /// Removes what is there of an export of so many parts.
    fn remove(&self, parts: usize) -> Result<(), Error> {
        remove_if_there(&self.checkpoint())?;
        (0..parts).try_for_each(|i| remove_if_there(&self.part(i)))
    }

    fn sidecar(&self) -> PathBuf {
        Sidecar::path_of(&self.file)
    }
}

/// Exports to a file. With `resume`, goes on with an export that was interrupted, if there is one.
///
/// # Errors
/// With the file that cannot be written. What there is so far stays, for another attempt.
pub(crate) async fn to_file(
    client: &Client,
    wanted: &Wanted,
    path: &Path,
    resume: bool,
) -> Result<Sidecar, Error> {
    if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
        return Err(Error::Usage(format!(
            "{} is no regular file: name another one, or leave -o out for standard output",
            path.display()
        )));
    }
    wanted.check()?;
    let files = Files { file: path.to_owned() };
    let map = client.map().await?;
    let earlier = match resume {
        true => Checkpoint::read(&files.checkpoint(), &map.cluster, wanted)?,
        false => None,
    };
    // An attempt that went on after that may have left an empty one: it is what is locked.
    let is_named = fs::metadata(files.part(0)).map_or(true, |found| found.len() == 0);
    let _lock = lock(&files.part(0))?;
    let is_new = earlier.is_none();
    let (joined_before, parts) = match earlier {
        Some(earlier) => (earlier.joined, earlier.parts(&files.checkpoint())?),
        None => {
            // Of an earlier attempt that nobody goes on with.
            for i in 1..Checkpoint::parts_in(&files.checkpoint()) {
                remove_if_there(&files.part(i))?;
            }
            (0, parts_of(&map, wanted.range))
        }
    };
    let export = Export::new(client, wanted, parts);
    let total = export.total();
    if joined_before == export.parts.len() && is_named {
        // Interrupted when the file had its name already.
        if fs::metadata(path).is_ok_and(|found| found.len() == total.bytes) {
            let named = path.to_owned();
            blocking(move || check_file(&named, &total)).await?;
            fs::remove_file(files.part(0)).map_err(Error::file("remove", files.part(0)))?;
            return finish(&export, &files);
        }
    }
    if total.bytes > 0 {
        let (work, paths) = (Arc::clone(&export), Files { file: path.to_owned() });
        blocking(move || check_files(&work, &paths, joined_before)).await?;
    }
    if total.documents > 0 {
        let documents = show_count(total.documents, "document");
        say!("the export of {:?} goes on after {documents}", wanted.index);
    }
    if joined_before == 0 {
        Checkpoint::of(&export, 0).write(&files.checkpoint())?;
        if let Err(error) = read_parts(&export, &files).await {
            let is_refused = !matches!(error, Error::Client(_) | Error::File { .. });
            if is_refused && is_new && export.total().bytes == 0 {
                // Nothing to go on with, least of all with the options that it is refused for. Where this
                // fails, the next attempt does it.
                _ = files.remove(export.parts.len());
            } else {
                let how = if is_refused {
                    ", with the same options, once that is put right; with others begin anew"
                } else {
                    ""
                };
                say!("what there is of {} stays; --resume goes on with it{how}", path.display());
            }
            return Err(error);
        }
        export.check_index().await?;
    }
    let work = Arc::clone(&export);
    let putting_together = tokio::task::spawn_blocking(move || {
        join_parts(&work, &files, joined_before)?;
        finish(&work, &files)
    });
    joined(putting_together).await
}

/// Makes sure that the files have what the checkpoint says of them, of which so many parts are put together in
/// the first one: what was damaged since must not get the name of a whole file. Blocks.
fn check_files(export: &Export, files: &Files, joined: usize) -> Result<(), Error> {
    let (first, others) = export.parts.split_at(joined.max(1));
    let first = first.iter().fold(Place::default(), |first, part| first.with(&part.place()));
    check_file(&files.part(0), &first)?;
    for (i, part) in others.iter().enumerate() {
        check_file(&files.part(joined.max(1) + i), &part.place())?;
    }
    Ok(())
}

/// Reads what of a file was synced, and compares it with what was written. Blocks.
fn check_file(path: &Path, Place { bytes, crc, .. }: &Place) -> Result<(), Error> {
    let mut file = match File::open(path) {
        // Of one that has less than was synced, `open_at` tells.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        result => result.map_err(Error::file("read", path))?.take(*bytes),
    };
    let (mut hasher, mut buffer) = (crc32fast::Hasher::new(), vec![0; READ_BYTES]);
    let mut length = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => {
                hasher.update(&buffer[..read]);
                length += read as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::file("read", path)(error)),
        }
    }
    let found = hasher.finalize();
    if length == *bytes && found != *crc {
        return Err(Error::Failed(format!(
            "{} is damaged: its first {bytes} bytes have the CRC-32 {found:08x}, and those that were \
             written had {crc:08x}; without --resume the export begins anew",
            path.display()
        )));
    }
    Ok(())
}

/// Keeps others from the files as long as the guard lives.
fn lock(path: &Path) -> Result<File, Error> {
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let file = open.map_err(Error::file("write", path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            Err(Error::Failed(format!("{} is being written by another export", path.display())))
        }
        Err(TryLockError::Error(error)) => Err(Error::file("lock", path)(error)),
    }
}

/// The parts of a range, cut where the map is.
fn parts_of(map: &RangeMap, range: Range) -> Vec<Part> {
    let within = map
        .ranges
        .iter()
        .map(|owned| Range { start: owned.start.max(range.start), end: owned.end.min(range.end) });
    let parts = within.filter(|part| part.start < part.end).enumerate();
    let mut parts: Vec<_> = parts.map(|(i, part)| Part::new(part, i == 0)).collect();
    if parts.is_empty() {
        parts.push(Part::new(range, true));
    }
    parts
}

/// Reads all parts that are not done, several at a time, while checkpoints are made.
async fn read_parts(export: &Arc<Export>, files: &Files) -> Result<(), Error> {
    let queue = Arc::new(Mutex::new(in_turn(export)));
    let lanes: Vec<_> = (0..export.wanted.jobs.max(1))
        .map(|_| {
            let (export, queue) = (Arc::clone(export), Arc::clone(&queue));
            let files = Files { file: files.file.clone() };
            tokio::task::spawn_blocking(move || {
                loop {
                    let next = queue.lock().pop_front();
                    let Some(i) = next else { return Ok(()) };
                    let read = read_part(&export, &files, i);
                    if read.is_err() {
                        export.stop();
                    }
                    if read.is_err() || export.is_stopped() {
                        return read;
                    }
                }
            })
        })
        .collect();
    let (all_read, is_over) = mpsc::channel::<()>();
    let (work, paths) = (Arc::clone(export), Files { file: files.file.clone() });
    let checkpoints = tokio::task::spawn_blocking(move || {
        let made = checkpoint_often(&work, &paths, &is_over);
        if made.is_err() {
            work.stop();
        }
        made
    });
    let work = async {
        let mut result = Ok(());
        for lane in lanes {
            let read = joined(lane).await;
            result = result.and(read);
        }
        drop(all_read);
        let made = joined(checkpoints).await;
        result.and(made)
    };
    export.watch(work).await
}

/// The parts that are not done, those of different shards in turn: shards read at the same time.
fn in_turn(export: &Export) -> VecDeque<usize> {
    let map = export.client.known_map();
    let mut of_shards: BTreeMap<&str, VecDeque<usize>> = BTreeMap::new();
    for (i, part) in export.parts.iter().enumerate() {
        if !part.place().is_done {
            let owner = map.owner(Position(part.range.start));
            let shard = owner.map_or("", |owned| owned.shard.as_str());
            of_shards.entry(shard).or_default().push_back(i);
        }
    }
    let mut turns = VecDeque::new();
    while !of_shards.is_empty() {
        of_shards.retain(|_, parts| {
            turns.extend(parts.pop_front());
            !parts.is_empty()
        });
    }
    turns
}

fn read_part(export: &Export, files: &Files, i: usize) -> Result<(), Error> {
    let path = files.part(i);
    let part = &export.parts[i];
    let file = open_at(&path, part.place().bytes)?;
    part.run(export, Target::File(file, path))
}

/// Opens a file to go on after so many bytes; what lies behind them is cut off.
fn open_at(path: &Path, bytes: u64) -> Result<File, Error> {
    let open = OpenOptions::new().write(true).create(true).truncate(false).open(path);
    let mut file = open.map_err(Error::file("write", path))?;
    let found = file.metadata().map_err(Error::file("read", path))?.len();
    if found < bytes {
        return Err(Error::Failed(format!(
            "{} has {found} bytes, and {bytes} were synced; without --resume the export begins anew",
            path.display()
        )));
    }
    file.set_len(bytes).map_err(Error::file("cut", path))?;
    file.seek(SeekFrom::End(0)).map_err(Error::file("write", path))?;
    Ok(file)
}

/// Makes checkpoints until all parts were read, and one more then.
fn checkpoint_often(
    export: &Export,
    files: &Files,
    is_over: &mpsc::Receiver<()>,
) -> Result<(), Error> {
    loop {
        let waited = is_over.recv_timeout(CHECKPOINT_INTERVAL);
        // As far as the parts are now; the files are synced at least that far.
        let checkpoint = Checkpoint::of(export, 0);
        let of_first = export.parts[0].place().bytes;
        for i in 0..export.parts.len() {
            let path = files.part(i);
            match File::open(&path).and_then(|file| file.sync_data().map(|()| file)) {
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(Error::file("sync", path)(error)),
                // The others are read again when they are put behind it.
                Ok(file) if i == 0 => let_go(&file, 0, of_first),
                Ok(_) => {}
            }
        }
        checkpoint.write(&files.checkpoint())?;
        if waited != Err(RecvTimeoutError::Timeout) {
            return Ok(());
        }
    }
}

/// Puts the parts together in the first one's file.
fn join_parts(export: &Export, files: &Files, joined: usize) -> Result<(), Error> {
    if joined == 0 && export.lacks_a_block() {
        let path = files.part(0);
        let target = Target::File(open_at(&path, 0)?, path);
        export.parts[0].end_empty(&export.wanted, target)?;
    }
    let joined = joined.max(1);
    let length = |part: &Part| part.place().bytes;
    let before = export.parts[..joined].iter().map(length).sum();
    let whole = files.part(0);
    let mut file = open_at(&whole, before)?;
    for (i, part) in export.parts.iter().enumerate().skip(joined) {
        let path = files.part(i);
        let from = File::open(&path).map_err(Error::file("read", path.as_path()))?;
        let copied = move_behind(&from, &mut file).map_err(Error::file("write", &whole))?;
        if copied != length(part) {
            return Err(Error::Failed(format!(
                "{} has {copied} bytes, and {} were written",
                path.display(),
                length(part)
            )));
        }
        file.sync_data().map_err(Error::file("sync", &whole))?;
        Checkpoint::of(export, i + 1).write(&files.checkpoint())?;
        fs::remove_file(&path).map_err(Error::file("remove", path.as_path()))?;
    }
    file.sync_all().map_err(Error::file("sync", &whole))?;
    Checkpoint::of(export, export.parts.len()).write(&files.checkpoint())?;
    // The sidecar of the file that is replaced must not be taken for this one's.
    remove_if_there(&files.sidecar())?;
    sync_dir(&files.file)?;
    fs::rename(&whole, &files.file).map_err(Error::file("rename to", files.file.as_path()))
}

/// Copies a file that is not needed any more behind another one.
fn move_behind(from: &File, to: &mut File) -> io::Result<u64> {
    let mut copied = 0;
    loop {
        match io::copy(&mut from.take(COPY_BYTES), to)? {
            0 => return Ok(copied),
            bytes => {
                let_go(from, copied, bytes);
                copied += bytes;
            }
        }
    }
}

/// Has the kernel's cache let go of what is durable of a part of a file. An export may be larger than memory, and
/// is not to push out what shards on this machine read. What is let go of is used again at once, while memory
/// that was not used for long is slow to get where the machine is virtual.
fn let_go(file: &File, from: u64, bytes: u64) {
    if let Some(bytes) = NonZeroU64::new(bytes) {
        // It is advice: a file system that does not know it keeps what it has.
        _ = rustix::fs::fadvise(file, from, Some(bytes), Advice::DontNeed);
    }
}

/// Says what is in the file that has its name now.
fn finish(export: &Export, files: &Files) -> Result<Sidecar, Error> {
    let sidecar = Sidecar::new(export);
    let text =
        serde_json::to_string_pretty(&sidecar).map_err(|error| Error::Failed(error.to_string()))?;
    replace(&files.sidecar(), (text + "\n").as_bytes())?;
    remove_if_there(&files.checkpoint())?;
    for i in 1..export.parts.len() {
        remove_if_there(&files.part(i))?;
    }
    Ok(sidecar)
}

#[cfg(test)]
mod tests {
    use sherd_protocol::{HashMethod, OwnedRange, RING_SIZE};

    use super::*;

    #[test]
    fn a_file_is_moved_whole_behind_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let length = usize::try_from(COPY_BYTES * 2 + 1000).unwrap();
        let moved: Vec<_> = (0..length).map(|i| (i / 7) as u8).collect();
        fs::write(&first, b"what is there").unwrap();
        fs::write(&second, &moved).unwrap();
        let mut to = open_at(&first, 5).unwrap();
        let copied = move_behind(&File::open(&second).unwrap(), &mut to).unwrap();
        assert_eq!(copied, moved.len() as u64);
        let found = fs::read(&first).unwrap();
        assert!(found == [b"what ", moved.as_slice()].concat(), "{} bytes", found.len());
    }

    #[test]
    fn a_range_is_cut_where_the_map_is() {
        let owned = |start, end, shard: &str| OwnedRange { start, end, shard: shard.to_owned() };
        let map = RangeMap {
            cluster: "c".to_owned(),
            epoch: 1,
            hash_method: HashMethod::Md5,
            shards: Vec::new(),
            ranges: vec![owned(0, 5, "a"), owned(5, 9, "b"), owned(9, RING_SIZE, "a")],
        };
        let cut = |start, end| {
            let parts = parts_of(&map, Range { start, end });
            parts.iter().map(|part| (part.range.start, part.range.end)).collect::<Vec<_>>()
        };
        assert_eq!(cut(0, RING_SIZE), [(0, 5), (5, 9), (9, RING_SIZE)]);
        assert_eq!(cut(4, 7), [(4, 5), (5, 7)]);
        assert_eq!(cut(5, 9), [(5, 9)]);
        assert_eq!(cut(7, 7), [(7, 7)]);
    }
}
