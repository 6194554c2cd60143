//! `sherd restore DIR`: a backup into a cluster.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;
use sherd_protocol::message::Index;

use crate::backup::{
    At, Backup, Directory, Evicted, Restore, Restored, Source, sources, sources_at,
};
use crate::error::Error;
use crate::interrupt::unless_interrupted;
use crate::output::{Output, say};
use crate::units::{parse_time, show_count, show_size};

use super::{Context, blocking, parse_index};

/// Restore a backup into a running cluster
///
/// The cluster may have another number of shards, other ranges and another hash method. Creates the
/// indexes with their settings, writes all documents with their times of expiry, and proves itself: what
/// the cluster has then must come to the digests of the backup. Documents that have expired by now are
/// left out. Versions are new ones.
///
/// Nothing is restored into an index that has documents, unless --overwrite says so: to go on with a
/// restore that was interrupted. Nobody else may write to these indexes meanwhile.
#[derive(Debug, Args)]
pub(crate) struct RestoreBackup {
    /// The directory that holds the backups
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// The backup; the newest where none is named
    #[arg(value_name = "BACKUP")]
    backup: Option<String>,
    /// To this moment between two backups, the later of which has everything since the earlier one: as
    /// `2026-11-26 08:15:30.250`, in UTC, by the clocks of the shards. What was acknowledged by then is
    /// restored, and nothing that began later
    #[arg(long, value_name = "TIME", value_parser = parse_time, conflicts_with_all = ["backup", "at_lsn"])]
    at: Option<u64>,
    /// The same by an LSN of each shard
    #[arg(long, value_name = "SHARD=LSN", value_parser = parse_lsn, conflicts_with = "backup")]
    at_lsn: Vec<(String, u64)>,
    /// Only this index; may be given several times
    #[arg(long, value_name = "INDEX", value_parser = parse_index)]
    index: Vec<String>,
    /// Also into indexes that have documents
    #[arg(long)]
    overwrite: bool,
    /// How many batches are under way at a time
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
}

/// Parses `SHARD=LSN`.
fn parse_lsn(text: &str) -> Result<(String, u64), String> {
    let (shard, lsn) = text.rsplit_once('=').ok_or("expected SHARD=LSN")?;
    let lsn = lsn.parse().map_err(|_| format!("{lsn:?} is no LSN"))?;
    Ok((shard.to_owned(), lsn))
}

/// What was restored, for programs.
#[derive(Serialize)]
struct View<'a> {
    /// The one that is read; of a moment between two the later one.
    backup: &'a str,
    /// The moment, if it is not that of the backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    documents: u64,
    bytes: u64,
    digest: String,
    expired: u64,
    evicted: u64,
    indexes: BTreeMap<&'a str, IndexView>,
}

#[derive(Serialize)]
struct IndexView {
    documents: u64,
    digest: String,
    evicted: u64,
}

impl RestoreBackup {
    /// Restores it.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let at = self.moment()?;
        let (sources, indexes, id) = self.find(at.as_ref()).await?;
        let client = context.connect().await?;
        let restore = Restore {
            sources,
            indexes,
            only: self.index.clone(),
            overwrite: self.overwrite,
            jobs: usize::from(self.jobs),
        };
        let left = || {
            "interrupted; what was restored stays, and is not all: restore again with --overwrite"
                .to_owned()
        };
        let restored = unless_interrupted(restore.run(&client), left).await?;
        print(&id, at.as_ref(), &restored, context.json)
    }

    /// What is to be read, the indexes, and the backup that it is of.
    async fn find(&self, at: Option<&At>) -> Result<(Vec<Source>, Vec<Index>, String), Error> {
        let directory = Directory::new(&self.dir);
        let Some(at) = at else {
            let backup = self.backup().await?;
            let (sources, indexes) = sources(&directory, &backup);
            return Ok((sources, indexes, backup.id));
        };
        let held = blocking(move || directory.held()).await?;
        for fault in &held.faults {
            say!("{fault}");
        }
        let directory = Directory::new(&self.dir);
        let (sources, later, indexes) = sources_at(&directory, &held.backups, at)?;
        Ok((sources, indexes, later.id.clone()))
    }

    /// The moment, if it is not that of a backup.
    fn moment(&self) -> Result<Option<At>, Error> {
        if let Some(time) = self.at {
            return Ok(Some(At::Time(time)));
        }
        let mut lsns = BTreeMap::new();
        for (shard, lsn) in &self.at_lsn {
            if lsns.insert(shard.clone(), *lsn).is_some() {
                return Err(Error::Usage(format!("shard {shard} has two LSNs")));
            }
        }
        Ok((!lsns.is_empty()).then_some(At::Lsns(lsns)))
    }

    /// The backup that is named, or the newest.
    async fn backup(&self) -> Result<Backup, Error> {
        let directory = Directory::new(&self.dir);
        let mut held = blocking(move || directory.held()).await?;
        let wanted = self.backup.as_ref();
        for fault in &held.faults {
            // The newest may be the one that is damaged.
            say!("{fault}");
        }
        let place = match wanted {
            Some(id) => held.backups.iter().position(|backup| backup.id == *id),
            None if !held.faults.is_empty() => {
                return Err(Error::Failed(
                    "not every backup can be read: name the one to restore".to_owned(),
                ));
            }
            None => {
                if let (Some(id), Some(last)) = (held.unfinished_after_all(), held.backups.last()) {
                    return Err(Error::Failed(format!(
                        "{id} comes after the last backup, {}, and is none: it is being taken, was cut off, \
                         or has lost its BACKUP.json. Name the backup to restore",
                        last.id
                    )));
                }
                held.backups.len().checked_sub(1)
            }
        };
        let shown = self.dir.display();
        match (place, wanted) {
            (Some(place), _) => Ok(held.backups.swap_remove(place)),
            (None, Some(id)) => Err(Error::DoesNotHold(format!(
                "{shown} has no backup {id}; see `sherd backup list {shown}`"
            ))),
            (None, None) => Err(match held.lost(&Directory::new(&self.dir)) {
                None => Error::DoesNotHold(format!("{shown} has no backup")),
                Some(id) => Error::Failed(format!(
                    "{shown} has no backup: {id} is none, or has lost its BACKUP.json; if so, put that back \
                     from a copy"
                )),
            }),
        }
    }
}

fn print(id: &str, at: Option<&At>, restored: &Restored, json: bool) -> Result<(), Error> {
    let Restored { documents, bytes, digest, expired, indexes, evicted } = restored;
    let mut output = Output::new();
    if json {
        let indexes = indexes.iter().map(|(name, contents)| {
            let digest = contents.digest.to_string();
            let evicted = evicted.get(name).map_or(0, |it| it.documents);
            (name.as_str(), IndexView { documents: contents.documents, digest, evicted })
        });
        output.json(&View {
            backup: id,
            at: at.map(ToString::to_string),
            documents: *documents,
            bytes: *bytes,
            digest: digest.to_string(),
            expired: *expired,
            evicted: evicted.values().map(|it| it.documents).sum(),
            indexes: indexes.collect(),
        })?;
        return output.flush();
    }
    let what = at.map_or_else(|| id.to_owned(), |at| format!("the moment {at} before {id}"));
    output.line(format_args!(
        "restored {what}: {} of {} in {}, digest {digest}",
        show_count(*documents, "document"),
        show_size(*bytes),
        if indexes.len() == 1 {
            "1 index".to_owned()
        } else {
            format!("{} indexes", indexes.len())
        }
    ))?;
    if *expired > 0 {
        let expired = show_count(*expired, "document");
        output.line(format_args!("  {expired} that had expired left out"))?;
    }
    for (index, Evicted { documents, left }) in evicted {
        output.line(format_args!(
            "  {} of index {index:?} evicted, for which its limits, or those of a shard, leave no room: it has \
             {} with digest {}, which is not that of the backup",
            show_count(*documents, "document"),
            left.documents,
            left.digest
        ))?;
    }
    output.flush()
}
