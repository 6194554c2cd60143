//! `stat`: what the shard says of itself.

use sherd_node::Responder;
use sherd_protocol::Range;
use sherd_protocol::message::{BucketSums, Counts, IndexStat, ShardAnswer, ShardStat};

use super::settings;
use crate::shard::Shard;

pub(crate) fn stat(shard: &Shard, responder: Responder) {
    let stored = shard.engine.stat();
    let mut stat = ShardStat {
        used: stored.used,
        documents: stored.documents,
        distribution: stored.distribution,
        counts: counts(stored.counts),
        locked_by: stored.locked_by,
        incoming: shard.receiver.progress(stored.incoming.as_ref()),
        damaged: stored.damaged,
        poisoned: stored.poisoned,
        disk_full: stored.disk_full,
        checkpoint_error: stored.checkpoint_error,
        durable_lsn: stored.durable_lsn,
        checkpoint_lsn: stored.checkpoint_lsn,
        segments: stored.segments,
        log_bytes: stored.log_bytes,
        tracked_documents: stored.tracked_documents,
        tracked_bytes: stored.tracked_bytes,
        connections: shard.node.connections() as u64,
        pid: std::process::id(),
        ..ShardStat::default()
    };
    let indexes = stored.indexes.into_iter();
    stat.indexes = indexes
        .map(|index| IndexStat {
            id: index.id,
            name: index.name,
            documents: index.documents,
            used: index.used,
            settings: settings::on_the_wire(&index.settings),
            counts: counts(index.counts),
        })
        .collect();
    if let Some(assignment) = shard.engine.assignment() {
        stat.cluster.clone_from(&assignment.cluster);
        stat.name.clone_from(&assignment.name);
        stat.epoch = assignment.epoch;
        stat.lineage = assignment.lineage;
        stat.ranges = assignment.ranges.iter().map(|&(start, end)| Range { start, end }).collect();
        stat.max_size = assignment.limit;
        stat.policy = settings::policy_on_the_wire(assignment.policy);
    }
    responder.send(&ShardAnswer::Stat(Box::new(stat)));
}

/// What the documents of each bucket of the ring come to.
pub(crate) fn buckets(shard: &Shard, responder: Responder) {
    let mut sums = BucketSums::default();
    for bucket in shard.engine.buckets() {
        sums.documents.push(bucket.documents);
        sums.bytes.push(bucket.bytes);
    }
    responder.send(&ShardAnswer::Buckets(Box::new(sums)));
}

fn counts(counts: sherd_engine::Counts) -> Counts {
    let sherd_engine::Counts { evicted, expired, rejected, hits, misses } = counts;
    Counts { evicted, expired, rejected, hits, misses }
}
