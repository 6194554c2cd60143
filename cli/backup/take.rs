//! Taking a backup: a cut of all shards, what is in it fetched or shared with an earlier backup, read
//! once more as a whole, and only then named a backup.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sherd_client::{Client, ClusterCut, Cut, CutSegment, FetchPiece, KeepLog};
use sherd_engine::verify::{Fault, Moment, check_backup, file_sum};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::check::check_history;
use super::directory::Directory;
use super::file::{
    Backup, FileSum, Follows, IndexSums, LOG_DIR, MANIFEST, SegmentBackup, ShardBackup, Sums, hex,
    is_plain, segment_file_name, sync_dir,
};
use super::pace::Pace;
use crate::command::{blocking, saying};
use crate::error::Error;
use crate::output::say;
use crate::units::{now, show_count, show_size};

/// How much is fetched at a time.
const PIECE_BYTES: u32 = 256 * 1024;

/// After so many bytes a file that is fetched is synced: what is written in one go at the end would hold
/// up whoever else uses the disk.
const SYNC_BYTES: u64 = 4 * 1024 * 1024;

/// How a backup is taken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub(crate) pace: Pace,
    /// Nothing is shared with earlier backups.
    pub(crate) full: bool,
    /// How much of its log each shard keeps for the next backup; 0 for nothing, `None` for as before.
    pub(crate) keep_log: Option<u64>,
}

/// How often it is said how far a backup is.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// What the cut may wait for.
const CUTTING: &str = "waiting until all shards are cut, for a minute at most: a shard is away (`sherd stat` shows it), or \
                       a range is being handed over (`sherd cluster status`)";

/// A backup that was taken.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) backup: Backup,
    /// The bytes that were fetched from shards.
    pub(crate) fetched: u64,
}

/// A file of an earlier backup, and what is known of it.
#[derive(Clone, Debug)]
struct Earlier {
    backup: String,
    path: PathBuf,
    file: FileSum,
}

/// The segments of earlier backups, by the identity of their data directory and their number, the newest
/// last.
type EarlierSegments = HashMap<(String, u32), Vec<Earlier>>;

/// The newest backup of a data directory.
struct Previous {
    follows: Follows,
    shard: ShardBackup,
    /// Of the backup.
    dir: PathBuf,
}

/// What the tasks of the shards share.
struct Job {
    client: Client,
    pace: Pace,
    earlier: EarlierSegments,
    /// The newest backup of each data directory, by its identity.
    previous: HashMap<String, Previous>,
    /// Of the backup.
    dir: PathBuf,
    fetched: AtomicU64,
}

/// Takes a backup of the cluster into a directory.
///
/// # Errors
/// When it did not come to its end. Nothing of it is left, or what the next one removes.
pub(crate) async fn take(
    client: &Client,
    directory: &Directory,
    Options { pace, full, keep_log }: Options,
) -> Result<Taken, Error> {
    let _lock = directory.lock()?;
    let held = directory.held()?;
    let cluster = client.known_map().cluster;
    directory.remove_unfinished(&held, &cluster)?;
    for fault in &held.faults {
        say!("{fault}; nothing is shared with that backup");
    }
    if let Some(other) = held.backups.iter().find(|backup| backup.map.cluster != cluster) {
        return Err(Error::Failed(format!(
            "{} has backups of another cluster, {}; use a directory for each cluster",
            directory.path.display(),
            other.map.cluster
        )));
    }
    let cut_from = now();
    // Here already, before anything is asked of the shards.
    directory.new_id(cut_from)?;
    let cut = saying(client.cut(keep_log), CUTTING).await?;
    let cut_until = now();
    let id = directory.begin(cut_until, &cluster)?;
    let job = Arc::new(Job {
        client: client.clone(),
        pace,
        earlier: if full { HashMap::new() } else { earlier_segments(directory, &held.backups) },
        previous: previous_cuts(directory, &held.backups),
        dir: directory.of(&id),
        fetched: AtomicU64::new(0),
    });
    let telling = tokio::spawn(tell(Arc::clone(&job)));
    let taken = job.run(&id, (cut_from, cut_until), cut).await;
    telling.abort();
    let finished = taken.and_then(|backup| {
        // Everything that it names is durable, and so are the names.
        backup.write(&job.dir)?;
        directory.sync()?;
        // Where this fails, the next backup does it.
        _ = directory.finish(&id);
        Ok(backup)
    });
    match finished {
        Ok(backup) => {
            if let Some(bytes) = keep_log {
                keep(client, &backup, bytes).await?;
            }
            let last = held.backups.last().filter(|_| keep_log.is_some_and(|bytes| bytes > 0));
            if let Some(last) = last.filter(|_| backup.follows().is_none()) {
                say!(
                    "{id} has not everything since {}, and no moment between the two can be restored: a \
                     shard was not told to keep its log since then, would have had to keep more than it \
                     may, is new or has another data directory, or was backed up into another directory \
                     meanwhile, where nothing is said above; its log says if it gave up",
                    last.id
                );
            }
            Ok(Taken { backup, fetched: job.fetched.load(Ordering::Relaxed) })
        }
        Err(error) => {
            // Where this fails as well, the next backup does it.
            _ = directory.remove(&id);
            Err(error)
        }
    }
}

/// Says how far it is, now and then.
async fn tell(job: Arc<Job>) {
    let mut interval = tokio::time::interval(TELL_EVERY);
    interval.tick().await;
    loop {
        interval.tick().await;
        say!("{} fetched", show_size(job.fetched.load(Ordering::Relaxed)));
    }
}

/// Has the shards keep what comes after the cut of a backup, which is complete.
async fn keep(client: &Client, backup: &Backup, bytes: u64) -> Result<(), Error> {
    for shard in &backup.shards {
        let kept = client.keep_log(&shard.name, KeepLog { after: shard.lsn, bytes }).await;
        kept.map_err(|error| {
            Error::Failed(format!(
                "backup {} is complete, but the log is not kept from there on: {error}",
                backup.id
            ))
        })?;
    }
    Ok(())
}

impl Job {
    /// Brings what is in the cut, and proves it.
    async fn run(
        self: &Arc<Self>,
        id: &str,
        (cut_from, cut_until): (u64, u64),
        cut: ClusterCut,
    ) -> Result<Backup, Error> {
        let ClusterCut { map, indexes, shards } = cut;
        let mut tasks = JoinSet::new();
        for (place, (name, cut)) in shards.into_iter().enumerate() {
            let dir = if is_plain(&name) { name.clone() } else { format!("shard-{place}") };
            let job = Arc::clone(self);
            tasks.spawn(async move {
                let id = cut.id;
                let brought = job.shard(&name, &dir, &cut).await;
                if let Err(error) = job.client.end_cut(&name, id).await {
                    tracing::debug!(%error, shard = name, "the cut lapses by itself");
                }
                Ok::<_, Error>((place, brought?, cut))
            });
        }
        let mut brought = BTreeMap::new();
        while let Some(ended) = tasks.join_next().await {
            let ended = ended.map_err(|error| Error::Failed(format!("a backup failed: {error}")));
            match ended.and_then(|ended| ended) {
                Ok((place, shard, cut)) => _ = brought.insert(place, (shard, cut)),
                Err(error) => {
                    // They must not write any more to what is removed.
                    tasks.shutdown().await;
                    return Err(error);
                }
            }
        }
        let job = Arc::clone(self);
        let catalogue: Vec<u32> = indexes.iter().map(|index| index.id).collect();
        let shards = blocking(move || {
            let dir = &job.dir;
            let prove = |(mut shard, cut): (ShardBackup, Cut)| {
                shard.indexes = prove(dir, &shard, &cut, &catalogue)?;
                job.prove_history(&mut shard);
                Ok(shard)
            };
            let shards: Result<Vec<_>, Error> = brought.into_values().map(prove).collect();
            sync_dir(dir).map_err(Error::file("sync", dir))?;
            shards
        });
        let shards = shards.await?;
        let mut total = sherd_engine::Sums::default();
        let mut builds_on: Vec<String> = Vec::new();
        for shard in &shards {
            for of_index in &shard.indexes {
                total += super::file::parse_sums(&of_index.sums);
            }
            builds_on.extend(shard.segments.iter().filter_map(|it| it.shared_with.clone()));
        }
        builds_on.sort_unstable();
        builds_on.dedup();
        Ok(Backup {
            id: id.to_owned(),
            cut_from,
            cut_until,
            sherd: env!("CARGO_PKG_VERSION").to_owned(),
            map,
            indexes,
            total: Sums::new(total),
            shards,
            builds_on,
        })
    }

    /// Reads what a shard did since the backup before, from that one on: it must lead to this one. Where it
    /// does not, the backup is whole, and follows none.
    fn prove_history(&self, shard: &mut ShardBackup) {
        let Some(before) = &shard.follows else { return };
        let Some(previous) = self.previous.get(&shard.identity) else { return };
        let mut first = None;
        let base = (&previous.shard, previous.dir.as_path());
        let checked = check_history(shard, &self.dir, base, &mut |fault| {
            first.get_or_insert(fault);
        });
        let fault = checked.err().map(|error| error.to_string());
        if let Some(fault) = fault.or(first.map(|fault| fault.to_string())) {
            say!(
                "no moment between {} and this backup can be restored of shard {}: {fault}",
                before.backup,
                shard.name
            );
            shard.follows = None;
        }
    }

    /// Brings the files of a shard.
    async fn shard(&self, name: &str, dir: &str, cut: &Cut) -> Result<ShardBackup, Error> {
        let path = self.dir.join(dir);
        let log = path.join(LOG_DIR);
        fs::create_dir_all(&log).map_err(Error::file("make", &log))?;
        let manifest_path = path.join(MANIFEST);
        let manifest = cut.manifest.clone();
        let manifest = blocking(move || {
            let write = || {
                let file = fs::File::create_new(&manifest_path)?;
                std::io::Write::write_all(&mut &file, &manifest)?;
                file.sync_all()
            };
            write().map_err(Error::file("write", &manifest_path))?;
            sum_of(&manifest_path)
        });
        let manifest = manifest.await?;
        // What the manifest does not name has nothing but history, which is worth having if it is whole.
        let previous = self.previous.get(&cut.identity).map(|previous| &previous.follows);
        let follows = previous.filter(|it| is_whole_since(cut, it));
        let is_history = |number| follows.is_some_and(|follows| number >= follows.segment);
        let mut segments = Vec::new();
        for segment in cut.segments.iter().filter(|it| it.named || is_history(it.number)) {
            segments.push(self.segment(name, cut, *segment, &log).await?);
        }
        for dir in [&log, &path] {
            sync_dir(dir).map_err(Error::file("sync", dir))?;
        }
        Ok(ShardBackup {
            name: name.to_owned(),
            dir: dir.to_owned(),
            identity: cut.identity.clone(),
            lsn: cut.lsn,
            clock: Some(cut.clock),
            timed_after: cut.timed_after,
            ranges: cut.ranges.clone(),
            indexes: Vec::new(),
            manifest,
            segments,
            follows: follows.cloned(),
        })
    }

    /// Shares a segment with an earlier backup, or fetches it.
    async fn segment(
        &self,
        shard: &str,
        cut: &Cut,
        segment: CutSegment,
        log: &Path,
    ) -> Result<SegmentBackup, Error> {
        let CutSegment { number, length, first_lsn, named } = segment;
        let path = log.join(segment_file_name(number));
        let shared = self.share(shard, cut, segment, &path).await?;
        let (file, shared_with) = match shared {
            Some(earlier) => (earlier.file, Some(earlier.backup)),
            None => {
                self.fetch(shard, cut.id, segment, &path).await?;
                let path = path.clone();
                (blocking(move || sum_of(&path)).await?, None)
            }
        };
        if file.length != u64::from(length) {
            return Err(Error::Failed(format!(
                "{} has {} bytes, not {length}: somebody else changes it",
                path.display(),
                file.length
            )));
        }
        Ok(SegmentBackup { number, first_lsn, named, file, shared_with })
    }

    /// Links the file of an earlier backup that has the same bytes. The shard says what they are: a
    /// directory that was put back from an older copy has other segments under the same numbers. The
    /// earlier file is read as well, for a byte of it may have flipped since.
    async fn share(
        &self,
        shard: &str,
        cut: &Cut,
        segment: CutSegment,
        path: &Path,
    ) -> Result<Option<Earlier>, Error> {
        let CutSegment { number, length, .. } = segment;
        let candidates = self.earlier.get(&(cut.identity.clone(), number));
        let length = u64::from(length);
        let candidates = candidates.into_iter().flatten();
        let alike: Vec<&Earlier> = candidates.filter(|it| it.file.length == length).collect();
        if alike.is_empty() {
            return Ok(None);
        }
        let begun = Instant::now();
        let sum = self.client.sum_segment(shard, cut.id, number).await?.to_string();
        self.rest((shard, cut.id, number), begun.elapsed(), length).await?;
        for earlier in alike.into_iter().rev().filter(|earlier| earlier.file.sum == sum) {
            let (from, to) = (earlier.path.clone(), path.to_owned());
            let wanted = earlier.file.clone();
            let linked = blocking(move || {
                let is_whole = sum_of(&from).is_ok_and(|found| found == wanted);
                Ok(is_whole && fs::hard_link(&from, &to).is_ok())
            });
            if linked.await? {
                return Ok(Some(earlier.clone()));
            }
            say!("{} cannot be shared: it is fetched anew", earlier.path.display());
        }
        Ok(None)
    }

    /// Rests after something was asked of a segment of a shard's cut, which is held on.
    async fn rest(
        &self,
        (shard, id, segment): (&str, u64, u32),
        took: Duration,
        bytes: u64,
    ) -> Result<(), Error> {
        for (i, slice) in self.pace.rest(took, bytes).enumerate() {
            if i > 0 {
                let nothing = FetchPiece { id, segment, offset: 0, length: 0 };
                self.client.fetch_piece(shard, nothing).await?;
            }
            sleep(slice).await;
        }
        Ok(())
    }

    /// Fetches a segment into a file, piece by piece, durably.
    async fn fetch(
        &self,
        shard: &str,
        id: u64,
        CutSegment { number, length, .. }: CutSegment,
        path: &Path,
    ) -> Result<(), Error> {
        let failed = || Error::file("write", path);
        let file = fs::File::create_new(path).map_err(failed())?;
        let mut file = tokio::fs::File::from_std(file);
        let (mut offset, mut synced) = (0u64, 0);
        while offset < u64::from(length) {
            let begun = Instant::now();
            let piece = FetchPiece {
                id,
                segment: number,
                // Both are below the length, of 32 bits.
                offset: offset as u32,
                length: PIECE_BYTES.min(length - offset as u32),
            };
            let bytes = self.client.fetch_piece(shard, piece).await?;
            if bytes.is_empty() {
                return Err(Error::Failed(format!(
                    "shard {shard} has {offset} bytes of segment {number}, not {length}; take \
                     another backup"
                )));
            }
            file.write_all(&bytes).await.map_err(failed())?;
            offset += bytes.len() as u64;
            self.fetched.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            if offset - synced >= SYNC_BYTES {
                file.sync_data().await.map_err(failed())?;
                synced = offset;
            }
            self.rest((shard, id, number), begun.elapsed(), bytes.len() as u64).await?;
        }
        file.sync_all().await.map_err(failed())
    }
}

/// Whether a cut has everything since an earlier one: no segment is gone of those that came then.
fn is_whole_since(cut: &Cut, earlier: &Follows) -> bool {
    let since = cut.segments.iter().map(|it| it.number).filter(|&it| it >= earlier.segment);
    let is_whole = since.eq(earlier.segment..=cut.segments.last().map_or(0, |last| last.number));
    is_whole && earlier.lsn <= cut.lsn
}

/// Reads what was brought of a shard as a restore would, and compares it with what the shard said at the
/// cut. Returns what each index of the catalogue has.
fn prove(
    dir: &Path,
    shard: &ShardBackup,
    cut: &Cut,
    catalogue: &[u32],
) -> Result<Vec<IndexSums>, Error> {
    let mut first = None;
    let mut on_fault = |fault: Fault| {
        first.get_or_insert(fault);
    };
    let files = shard.files(dir);
    let contents = check_backup(&files, Moment::Cut, &mut on_fault);
    let contents = contents.map_err(|error| Error::Failed(error.to_string()))?;
    let name = &shard.name;
    if let Some(fault) = first {
        return Err(Error::Failed(format!(
            "what was brought of shard {name} is not whole: {fault}; check the shard with `sherd \
             verify`, and take another backup"
        )));
    }
    let of_index = |id: u32| contents.indexes.get(&id).map(|it| it.sums).unwrap_or_default();
    for said in &cut.sums {
        let found = of_index(said.index);
        let same = (found.documents, found.bytes, found.digest)
            == (said.documents, said.bytes, said.digest.0);
        if !same || contents.lsn != cut.lsn {
            return Err(Error::Failed(format!(
                "of index {} shard {name} had {} with digest {} at LSN {}, and what was brought of it has \
                 {} with {} at LSN {}; please report this",
                said.index,
                show_count(said.documents, "document"),
                said.digest,
                cut.lsn,
                found.documents,
                hex(found.digest),
                contents.lsn
            )));
        }
    }
    let sums = |&id: &u32| IndexSums { id, sums: Sums::new(of_index(id)) };
    Ok(catalogue.iter().map(sums).collect())
}

fn sum_of(path: &Path) -> Result<FileSum, Error> {
    let (sum, length) = file_sum(path).map_err(Error::file("read", path))?;
    Ok(FileSum { length, sum: hex(sum) })
}

fn earlier_segments(directory: &Directory, backups: &[Backup]) -> EarlierSegments {
    let mut found: EarlierSegments = HashMap::new();
    for backup in backups {
        let dir = directory.of(&backup.id);
        for shard in &backup.shards {
            for segment in &shard.segments {
                let earlier = Earlier {
                    backup: backup.id.clone(),
                    path: shard.segment_path(&dir, segment),
                    file: segment.file.clone(),
                };
                found.entry((shard.identity.clone(), segment.number)).or_default().push(earlier);
            }
        }
    }
    found
}

fn previous_cuts(directory: &Directory, backups: &[Backup]) -> HashMap<String, Previous> {
    let mut found = HashMap::new();
    for backup in backups {
        for shard in &backup.shards {
            let segment = shard.segments.iter().map(|segment| segment.number).max().unwrap_or(0);
            let follows = Follows { backup: backup.id.clone(), lsn: shard.lsn, segment };
            let dir = directory.of(&backup.id);
            // The newest comes last.
            found.insert(shard.identity.clone(), Previous { follows, shard: shard.clone(), dir });
        }
    }
    found
}
