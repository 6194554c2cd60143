//! Checkpoints: the frozen part of the overlay goes into the index, and the manifest says so.
//!
//! The sequencer freezes the overlay between two batches and sends a [`Snapshot`]; this thread
//! drains it in key order, makes the index durable, then replaces the manifest, then drops the
//! frozen part. A crash in between leaves the old manifest and an index that may hold later
//! states; a replay from the old checkpoint comes to the same end.
//!
//! A checkpoint that fails is tried again: a full disk may get space. Meanwhile the frozen part
//! stays in memory and answers reads.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::index::Index;
use crate::log::Lsn;
use crate::manifest::{Manifest, SegmentInfo};
use crate::overlay::Generation;
use crate::shared::Shared;
use crate::state::State;
use crate::usage::BySegment;

/// How long a failed checkpoint waits before it is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What sled may write for a key, generously: an entry, and its share of the pages around it.
const INDEX_BYTES_PER_KEY: u64 = 1024;

/// What sled and the manifest may write besides.
const INDEX_RESERVE_BYTES: u64 = 8 * 1024 * 1024;

/// A frozen overlay and the state at its end.
pub(crate) struct Snapshot {
    pub(crate) lsn: Lsn,
    pub(crate) state: State,
    pub(crate) tombstones: BySegment,
    /// Segments to be deleted: the index, with this generation, points to none of them.
    pub(crate) condemned: Vec<u32>,
    pub(crate) generation: Arc<Generation>,
}

/// Works off snapshots until their sender is gone. Reports each failure and each end.
pub(crate) fn run(shared: &Shared, snapshots: &Receiver<Snapshot>, reports: &Sender<Result<()>>) {
    while let Ok(snapshot) = snapshots.recv() {
        while let Err(error) = checkpoint(shared, &snapshot) {
            tracing::error!(
                %error, dir = %shared.dir.display(), "a checkpoint failed and will be tried again"
            );
            _ = reports.send(Err(error));
            // The sequencer sends nothing more before this one is done, so a message would be a
            // mistake and a closed channel is the end of the engine.
            match snapshots.recv_timeout(RETRY_AFTER) {
                Err(RecvTimeoutError::Timeout) => {}
                _ => return,
            }
        }
        _ = reports.send(Ok(()));
    }
}

fn checkpoint(shared: &Shared, snapshot: &Snapshot) -> Result<()> {
    check_space(shared, &snapshot.generation)?;
    drain(shared.index.as_ref(), &snapshot.generation)?;
    shared.index.flush(snapshot.lsn)?;
    shared.index_bytes.store(shared.index.bytes_on_disk(), Ordering::Release);
    let segments = SegmentInfo::list(&shared.segments, &snapshot.tombstones, &snapshot.condemned);
    Manifest::of(shared.identity, snapshot.lsn, &snapshot.state, segments)
        .write(shared.fs.as_ref(), &shared.dir)?;
    shared.checkpoint_lsn.store(snapshot.lsn, Ordering::Release);
    // The order matters, see the cache: no reader that looked a key up before may cache it now,
    // then the cache forgets what the overlay had answers for, then the overlay does.
    shared.view.write().overlay.drops += 1;
    shared.cache.remove(&snapshot.generation);
    shared.view.write().overlay.frozen = None;
    delete(shared, &snapshot.condemned);
    Ok(())
}

/// Deletes segments that the manifest no longer names. A file that cannot be removed is left for
/// the next opening.
fn delete(shared: &Shared, condemned: &[u32]) {
    for &number in condemned {
        shared.view.write().usage.forget(number);
        shared.condemned.lock().remove(&number);
        // Who reads from it holds it open.
        let Some(segment) = shared.segments.remove(number) else { continue };
        if let Err(error) = shared.fs.remove(&segment.path) {
            tracing::warn!(path = %segment.path.display(), %error, "a deleted segment stays");
        }
    }
}

/// Refuses a checkpoint that the disk may be too full for. sled, once it has met a full disk, fails
/// for good, and reads with it; a checkpoint that waits costs memory only.
fn check_space(shared: &Shared, generation: &Generation) -> Result<()> {
    let failed = |error| Error::io("ask for the free space of", &shared.dir, error);
    let free = shared.fs.free_bytes(&shared.dir).map_err(failed)?;
    let needed = generation.keys as u64 * INDEX_BYTES_PER_KEY + INDEX_RESERVE_BYTES;
    if free < needed {
        let what = format!(
            "{free} bytes are free, a checkpoint asks for {needed} ({})",
            shared.dir.display()
        );
        return Err(Error::DiskFull { what: what.into() });
    }
    Ok(())
}

/// Puts a generation into the index, in key order: sled takes sorted entries half again as fast as
/// random ones.
pub(crate) fn drain(index: &dyn Index, generation: &Generation) -> Result<()> {
    for &dropped in &generation.dropped {
        index.drop_index(dropped)?;
    }
    for (&id, table) in &generation.tables {
        for (key, entry) in table {
            index.put(id, key.as_bytes(), entry.as_ref())?;
        }
    }
    Ok(())
}
