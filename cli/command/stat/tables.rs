//! What the shards say of themselves, for people.

use std::collections::BTreeMap;

use sherd_client::ShardView;
use sherd_protocol::message::{Counts, ShardStat};
use sherd_protocol::{IndexSettings, Policy, Range};

use crate::error::Error;
use crate::output::{Output, table};
use crate::units::{show_duration, show_size};

/// How many cells a bar has.
const BAR_CELLS: u64 = 10;

/// The heights of a histogram's columns.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// A column of a histogram that is of nothing.
const NONE: char = '·';

pub(super) fn print(output: &mut Output, views: &[ShardView]) -> Result<(), Error> {
    print_shards(output, views)?;
    let indexes = indexes(views);
    if indexes.is_empty() {
        return Ok(());
    }
    output.line("")?;
    print_indexes(output, &indexes)
}

fn print_shards(output: &mut Output, views: &[ShardView]) -> Result<(), Error> {
    let mut shards = table([
        "NAME",
        "ADDRESS",
        "PID",
        "RANGES",
        "DOCUMENTS",
        "USED",
        "SIZE",
        "FILL",
        "SPREAD",
        "POLICY",
        "LOG",
        "STATE",
    ]);
    for ShardView { shard, stat } in views {
        let (name, address) = (shard.name.clone(), shard.address());
        match stat {
            Ok(stat) => shards.add_row([
                name,
                address,
                stat.pid.to_string(),
                stat.ranges.iter().map(Range::to_string).collect::<Vec<_>>().join(" "),
                stat.documents.to_string(),
                show_size(stat.used),
                show_size(stat.max_size),
                bar(stat.used, stat.max_size),
                histogram(&stat.distribution),
                stat.policy.to_string(),
                show_size(stat.log_bytes),
                state(stat),
            ]),
            Err(_) => {
                let unknown = || "?".to_owned();
                let mut row = vec![name, address];
                row.resize_with(6, unknown);
                row.push(show_size(shard.size));
                row.resize_with(9, unknown);
                row.extend([shard.policy.to_string(), unknown(), "no answer".to_owned()]);
                shards.add_row(row)
            }
        };
    }
    output.line(shards.trim_fmt())
}

fn state(stat: &ShardStat) -> String {
    if stat.cluster.is_empty() {
        return "unassigned".to_owned();
    }
    // The gravest first.
    let states = [
        ("poisoned, reads only: ", &stat.poisoned),
        ("disk full, no writes: ", &stat.disk_full),
        ("checkpoints fail: ", &stat.checkpoint_error),
        ("damaged, see `sherd verify`: ", &stat.damaged),
        ("locked by ", &stat.locked_by),
    ];
    let state = states.iter().find_map(|(what, why)| Some(format!("{what}{}", why.as_ref()?)));
    state.unwrap_or_else(|| "serving".to_owned())
}

/// How much of a limit is used: a bar, and the percentage rounded down.
fn bar(used: u64, limit: u64) -> String {
    let part = |of: u64| (u128::from(used) * u128::from(of)).checked_div(limit.into()).unwrap_or(0);
    let full = part(BAR_CELLS).min(BAR_CELLS.into()) as usize;
    let empty = BAR_CELLS as usize - full;
    format!("{}{} {}%", "█".repeat(full), "░".repeat(empty), part(100))
}

/// Documents by fifths of the ranges: the highest column is the most.
fn histogram(distribution: &[u64]) -> String {
    let most = distribution.iter().copied().max().unwrap_or(0);
    let column = |&documents: &u64| match documents {
        0 => NONE,
        _ => {
            let highest = HEIGHTS.len() as u128 - 1;
            HEIGHTS[(u128::from(documents) * highest / u128::from(most)) as usize]
        }
    };
    distribution.iter().map(column).collect()
}

/// An index on all shards together.
#[derive(Default)]
struct Index {
    documents: u64,
    used: u64,
    /// Of the shards that answered.
    settings: IndexSettings,
    policies: Vec<Policy>,
    counts: Counts,
}

fn indexes(views: &[ShardView]) -> BTreeMap<&str, Index> {
    let mut indexes: BTreeMap<&str, Index> = BTreeMap::new();
    for stat in views.iter().filter_map(|view| view.stat.as_ref().ok()) {
        for at_shard in &stat.indexes {
            let index = indexes.entry(&at_shard.name).or_default();
            let IndexSettings { max_bytes, max_documents, policy, ttl } = at_shard.settings;
            index.documents += at_shard.documents;
            index.used += at_shard.used;
            index.counts += at_shard.counts;
            let sum = |to: &mut Option<u64>, share: Option<u64>| {
                *to = share.map_or(*to, |share| Some(to.unwrap_or(0).saturating_add(share)));
            };
            sum(&mut index.settings.max_bytes, max_bytes);
            sum(&mut index.settings.max_documents, max_documents);
            index.settings.ttl = ttl;
            let policy = policy.unwrap_or(stat.policy);
            if !index.policies.contains(&policy) {
                index.policies.push(policy);
            }
        }
    }
    indexes
}

fn print_indexes(output: &mut Output, indexes: &BTreeMap<&str, Index>) -> Result<(), Error> {
    let mut rows = table([
        "INDEX",
        "DOCUMENTS",
        "USED",
        "LIMIT",
        "POLICY",
        "TTL",
        "EVICTED",
        "EXPIRED",
        "REJECTED",
        "HITS",
        "MISSES",
    ]);
    for (name, index) in indexes {
        let Index { documents, used, settings, policies, counts } = index;
        let policies: Vec<_> = policies.iter().map(Policy::to_string).collect();
        rows.add_row([
            (*name).to_owned(),
            documents.to_string(),
            show_size(*used),
            limits(settings),
            policies.join("/"),
            settings.ttl.map_or_else(|| "-".to_owned(), show_duration),
            counts.evicted.to_string(),
            counts.expired.to_string(),
            counts.rejected.to_string(),
            counts.hits.to_string(),
            counts.misses.to_string(),
        ]);
    }
    output.line(rows.trim_fmt())
}

fn limits(settings: &IndexSettings) -> String {
    let bytes = settings.max_bytes.map(show_size);
    let documents = settings.max_documents.map(|documents| format!("{documents} documents"));
    let limits: Vec<_> = [bytes, documents].into_iter().flatten().collect();
    if limits.is_empty() { "-".to_owned() } else { limits.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_full_when_the_limit_is_met() {
        assert_eq!(bar(0, 100), "░░░░░░░░░░ 0%");
        assert_eq!(bar(55, 100), "█████░░░░░ 55%");
        assert_eq!(bar(99, 100), "█████████░ 99%");
        assert_eq!(bar(100, 100), "██████████ 100%");
        assert_eq!(bar(u64::MAX, 1 << 40), "██████████ 1677721599%");
        assert_eq!(bar(0, 0), "░░░░░░░░░░ 0%");
    }

    #[test]
    fn the_highest_column_is_the_most() {
        assert_eq!(histogram(&[0, 1, 50, 100, 99]), "·▁▄█▇");
        assert_eq!(histogram(&[0; 5]), "·····");
        assert_eq!(histogram(&[u64::MAX, 0, 0, 0, 1]), "█···▁");
    }
}
