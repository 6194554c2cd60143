//! What is read to restore a backup, or a moment between two.

use std::collections::BTreeMap;

use sherd_engine::verify::Moment;
use sherd_protocol::message::Index;

use super::directory::Directory;
use super::file::{Backup, ShardBackup};
use super::restore::Source;
use crate::error::Error;
use crate::units::show_time;

/// A moment that is not that of a backup.
#[derive(Clone, Debug)]
pub(crate) enum At {
    /// In milliseconds since 1970, by the clocks of the shards.
    Time(u64),
    /// An LSN of each shard, by its name.
    Lsns(BTreeMap<String, u64>),
}

/// What is read of a backup as it was cut, and its catalogue.
pub(crate) fn sources(directory: &Directory, backup: &Backup) -> (Vec<Source>, Vec<Index>) {
    let dir = directory.of(&backup.id);
    let source = |shard: &ShardBackup| Source {
        name: shard.name.clone(),
        files: shard.files(&dir),
        at: Moment::Cut,
    };
    (backup.shards.iter().map(source).collect(), backup.indexes.clone())
}

/// What is read to come to a moment between two backups, the later of these, and what indexes there were
/// at one or the other, those of the later first.
///
/// # Errors
/// When there are no two backups between which all that happened is kept.
pub(crate) fn sources_at<'a>(
    directory: &Directory,
    backups: &'a [Backup],
    at: &At,
) -> Result<(Vec<Source>, &'a Backup, Vec<Index>), Error> {
    let (base, later) = find(backups, at)?;
    let (dir, base_dir) = (directory.of(&later.id), directory.of(&base.id));
    let mut sources = Vec::new();
    for shard in &later.shards {
        let missing =
            || Error::Failed(format!("backup {} has nothing of shard {}", base.id, shard.name));
        let before = base.shard(&shard.identity).ok_or_else(missing)?;
        let at = match at {
            At::Time(time) => Moment::Time(*time),
            At::Lsns(lsns) => Moment::Lsn(lsns.get(&shard.name).copied().unwrap_or(shard.lsn)),
        };
        let files = shard.files_since(&dir, before, &base_dir);
        sources.push(Source { name: shard.name.clone(), files, at });
    }
    let mut indexes = later.indexes.clone();
    let of_base = base.indexes.iter();
    indexes.extend(of_base.filter(|it| later.indexes.iter().all(|at| at.id != it.id)).cloned());
    Ok((sources, later, indexes))
}

/// The backups between which a moment lies.
fn find<'a>(backups: &'a [Backup], at: &At) -> Result<(&'a Backup, &'a Backup), Error> {
    let later = match at {
        At::Time(time) => {
            // A shard was cut somewhere between: before it or after it is not known.
            if let Some(backup) =
                backups.iter().find(|it| (it.cut_from..=it.cut_until).contains(time))
            {
                return Err(Error::Failed(format!(
                    "backup {} was cut just then: restore it, or a moment before {} or after {}",
                    backup.id,
                    show_milliseconds(backup.cut_from),
                    show_milliseconds(backup.cut_until)
                )));
            }
            backups.iter().find(|backup| backup.cut_from > *time)
        }
        At::Lsns(lsns) => {
            let names = |backup: &Backup| -> Vec<String> {
                backup.shards.iter().map(|shard| shard.name.clone()).collect()
            };
            let is_in = |backup: &&Backup| {
                let within = |shard: &ShardBackup| {
                    let lsn = lsns.get(&shard.name).copied();
                    let from = shard.follows.as_ref().map_or(u64::MAX, |before| before.lsn);
                    lsn.is_some_and(|lsn| (from..=shard.lsn).contains(&lsn))
                };
                names(backup).len() == lsns.len() && backup.shards.iter().all(within)
            };
            backups.iter().find(is_in)
        }
    };
    let nothing = |what: &str| {
        Error::DoesNotHold(format!(
            "{what}; `sherd backup --keep-log SIZE` has the log kept until the next backup"
        ))
    };
    let later = later.ok_or_else(|| nothing("no backup has what happened until then"))?;
    let base = later.follows().and_then(|id| backups.iter().find(|backup| backup.id == id));
    let base = base.ok_or_else(|| {
        nothing(&format!("backup {} has not all that happened before it", later.id))
    })?;
    match at {
        At::Time(time) if *time < base.cut_until => {
            Err(nothing(&format!("backup {} has what happened since {} only", later.id, base.id)))
        }
        // Without times the first batch that has one would be taken for all that comes before it.
        At::Time(_) => match later.shards.iter().find(|shard| !shard.is_timed()) {
            Some(shard) => Err(Error::DoesNotHold(format!(
                "shard {} did not note all the time between {} and {} when it wrote what: no moment \
                 between them can be told by its time, by --at-lsn it can. `sherd backup --keep-log SIZE` \
                 has the times noted from that backup on",
                shard.name, base.id, later.id
            ))),
            None => Ok((base, later)),
        },
        At::Lsns(_) => Ok((base, later)),
    }
}

fn show_milliseconds(time: u64) -> String {
    format!("{}.{:03}", show_time(time), time % 1000)
}
