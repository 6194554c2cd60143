//! What is read to restore a backup, or a moment between two.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

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

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => write!(f, "{} UTC", show_milliseconds(*time)),
            Self::Lsns(lsns) => {
                let lsns: Vec<_> = lsns.iter().map(|(name, lsn)| format!("{name}={lsn}")).collect();
                f.write_str(&lsns.join(", "))
            }
        }
    }
}

/// What is read of a backup as it was cut, and its catalogue.
pub(crate) fn sources(directory: &Directory, backup: &Backup) -> (Vec<Source>, Vec<Index>) {
    let dir = directory.of(&backup.id);
    let source = |shard: &ShardBackup| Source {
        name: shard.name.clone(),
        files: shard.files(&dir),
        at: Moment::Cut,
        said: shard.clone(),
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
        sources.push(Source { name: shard.name.clone(), files, at, said: shard.clone() });
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
            // Of some shards it has what was written then, and of others not all.
            let is_within = |backup: &&Backup| {
                let (first, last) = backup.cut_between();
                (first..last).contains(time)
            };
            if let Some(backup) = backups.iter().find(is_within) {
                let (first, last) = backup.cut_between();
                return Err(Error::Failed(format!(
                    "backup {} was cut just then: restore it, or a moment before {} or from {} on",
                    backup.id,
                    show_milliseconds(first),
                    show_milliseconds(last)
                )));
            }
            backups.iter().find(|backup| backup.cut_between().0 > *time)
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
            let found = backups.iter().find(is_in);
            Some(found.ok_or_else(|| Error::DoesNotHold(why_not_at(backups, lsns)))?)
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
        At::Time(time) if *time < base.cut_between().1 => {
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

/// Why there is no state at these LSNs: which of them is wrong, and what there is.
fn why_not_at(backups: &[Backup], lsns: &BTreeMap<String, u64>) -> String {
    let shards = || backups.iter().flat_map(|backup| &backup.shards);
    let names: BTreeSet<&str> = shards().map(|shard| shard.name.as_str()).collect();
    if let Some(unknown) = lsns.keys().find(|name| !names.contains(name.as_str())) {
        let names: Vec<_> = names.into_iter().collect();
        return format!("no backup has a shard {unknown:?}; they have {}", names.join(", "));
    }
    for (name, &lsn) in lsns {
        let spans = spans_of(backups, name);
        if spans.is_empty() {
            return format!(
                "no backup has what shard {name} did before it; `sherd backup --keep-log SIZE` has the log \
                 kept until the next backup"
            );
        }
        if !spans.iter().any(|(from, to)| (*from..=*to).contains(&lsn)) {
            return format!("shard {name} has {}: LSN {lsn} is in none of it", show_spans(&spans));
        }
    }
    let left_out = |backup: &Backup| {
        let missing = backup.shards.iter().find(|shard| !lsns.contains_key(&shard.name));
        missing.map(|shard| shard.name.clone())
    };
    match backups.iter().rev().find_map(left_out) {
        Some(name) => format!(
            "--at-lsn says nothing of shard {name}, of which there is {}: name an LSN of every shard",
            show_spans(&spans_of(backups, &name))
        ),
        None => "no two backups have all of these LSNs between them: they are of different times"
            .to_owned(),
    }
}

/// From which LSN to which all is kept that a shard did, for each backup that has it since the one before;
/// those that follow each other are one.
fn spans_of(backups: &[Backup], name: &str) -> Vec<(u64, u64)> {
    let mut spans: Vec<(u64, u64)> = Vec::new();
    for shard in backups.iter().flat_map(|backup| &backup.shards).filter(|it| it.name == name) {
        let Some(before) = &shard.follows else { continue };
        match spans.last_mut() {
            Some(last) if last.1 == before.lsn => last.1 = shard.lsn,
            _ => spans.push((before.lsn, shard.lsn)),
        }
    }
    spans
}

fn show_spans(spans: &[(u64, u64)]) -> String {
    let spans: Vec<_> = spans.iter().map(|(from, to)| format!("LSN {from} to {to}")).collect();
    if spans.is_empty() { "nothing".to_owned() } else { spans.join(", ") }
}

fn show_milliseconds(time: u64) -> String {
    format!("{}.{:03}", show_time(time), time % 1000)
}

#[cfg(test)]
mod tests {
    use sherd_protocol::{HashMethod, RangeMap};

    use super::super::file::{FileSum, Follows, Sums};
    use super::*;

    /// A backup of shards, each with its LSN, its clock at the cut, and since when it has times, that was
    /// taken by somebody whose clock shows quite another time.
    fn backup(
        id: &str,
        follows: Option<&Backup>,
        shards: &[(u64, Option<u64>, Option<u64>)],
    ) -> Backup {
        let shard = |(place, &(lsn, clock, timed_after)): (usize, &(u64, _, _))| ShardBackup {
            name: format!("shard{place}"),
            dir: format!("shard{place}"),
            identity: place.to_string(),
            lsn,
            clock,
            timed_after,
            ranges: Vec::new(),
            indexes: Vec::new(),
            manifest: FileSum { length: 0, sum: String::new() },
            segments: Vec::new(),
            follows: follows.map(|before| Follows {
                backup: before.id.clone(),
                lsn: before.shards[place].lsn,
                segment: 1,
            }),
        };
        Backup {
            id: id.to_owned(),
            cut_from: 500_000,
            cut_until: 500_001,
            sherd: String::new(),
            map: RangeMap {
                cluster: "mine".to_owned(),
                epoch: 1,
                hash_method: HashMethod::Md5,
                shards: Vec::new(),
                ranges: Vec::new(),
            },
            indexes: Vec::new(),
            total: Sums::default(),
            shards: shards.iter().enumerate().map(shard).collect(),
            builds_on: Vec::new(),
        }
    }

    #[test]
    fn a_time_lies_between_two_cuts_by_the_clocks_of_the_shards() {
        let first = backup("first", None, &[(10, Some(1000), None), (20, Some(1005), Some(20))]);
        let second = [(30, Some(2007), Some(10)), (40, Some(2000), Some(15))];
        let second = backup("second", Some(&first), &second);
        let third = [(50, Some(3000), Some(31)), (60, Some(3000), Some(15))];
        let third = backup("third", Some(&second), &third);
        let backups = [first, second, third];
        let found = |time| find(&backups, &At::Time(time));
        let why = |time| found(time).map(drop).unwrap_err().to_string();
        for time in [1005, 1006, 1999] {
            let (base, later) = found(time).unwrap();
            assert_eq!((&*base.id, &*later.id), ("first", "second"), "at {time}");
        }
        for time in [1000, 1004, 2000, 2006] {
            assert!(why(time).contains("cut just then"), "at {time}: {}", why(time));
        }
        for time in [999, 3000, 500_000] {
            assert!(why(time).contains("--keep-log"), "at {time}: {}", why(time));
        }
        // One shard has no times of the first batch since.
        assert!(why(2500).contains("shard0 did not note"), "{}", why(2500));
        let lsns = [("shard0".to_owned(), 45), ("shard1".to_owned(), 55)];
        assert_eq!(find(&backups, &At::Lsns(lsns.into())).unwrap().1.id, "third");
    }

    #[test]
    fn lsns_that_there_is_nothing_of_are_told_with_their_shard_and_what_there_is() {
        let first = backup("first", None, &[(10, None, None), (20, None, None)]);
        let second = backup("second", Some(&first), &[(30, None, None), (40, None, None)]);
        let third = backup("third", Some(&second), &[(50, None, None), (60, None, None)]);
        let apart = backup("apart", None, &[(70, None, None), (80, None, None)]);
        let last = backup("last", Some(&apart), &[(75, None, None), (85, None, None)]);
        let backups = [first, second, third, apart, last];
        let why = |lsns: &[(&str, u64)]| {
            let lsns = lsns.iter().map(|(name, lsn)| ((*name).to_owned(), *lsn)).collect();
            let refused = find(&backups, &At::Lsns(lsns)).map(drop).unwrap_err();
            assert_eq!(refused.exit_status(), 3);
            refused.to_string()
        };
        assert_eq!(why(&[("nope", 2)]), "no backup has a shard \"nope\"; they have shard0, shard1");
        assert_eq!(
            why(&[("shard0", 60), ("shard1", 30)]),
            "shard shard0 has LSN 10 to 50, LSN 70 to 75: LSN 60 is in none of it"
        );
        assert_eq!(
            why(&[("shard0", 20)]),
            "--at-lsn says nothing of shard shard1, of which there is LSN 20 to 60, LSN 80 to 85: name an \
             LSN of every shard"
        );
        let apart = why(&[("shard0", 20), ("shard1", 50)]);
        assert!(apart.contains("of different times"), "{apart}");
        let nothing = At::Lsns([("shard0".to_owned(), 10), ("shard1".to_owned(), 20)].into());
        let kept = find(&backups[..1], &nothing).map(drop).unwrap_err().to_string();
        assert!(kept.contains("before it; `sherd backup --keep-log"), "{kept}");
    }

    /// Of early versions it is not known when anything was written.
    #[test]
    fn a_time_is_refused_where_the_backups_say_nothing_of_times() {
        let first = backup("first", None, &[(10, None, None)]);
        let mut second = backup("second", Some(&first), &[(30, None, None)]);
        (second.cut_from, second.cut_until) = (600_000, 600_001);
        let why = find(&[first, second], &At::Time(550_000)).map(drop).unwrap_err().to_string();
        assert!(why.contains("--keep-log"), "{why}");
    }
}
