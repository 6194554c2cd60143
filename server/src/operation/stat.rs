//! `stat`: what the shard says of itself.

use sherd_node::Responder;
use sherd_protocol::Range;
use sherd_protocol::message::{IndexStat, ShardAnswer, ShardStat};

use crate::shard::Shard;

pub(crate) fn stat(shard: &Shard, responder: Responder) {
    let stored = shard.engine.stat();
    let mut stat = ShardStat {
        used: stored.used,
        documents: stored.documents,
        distribution: stored.distribution,
        locked_by: stored.locked_by,
        poisoned: stored.poisoned,
        disk_full: stored.disk_full,
        checkpoint_error: stored.checkpoint_error,
        durable_lsn: stored.durable_lsn,
        checkpoint_lsn: stored.checkpoint_lsn,
        segments: stored.segments,
        log_bytes: stored.log_bytes,
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
        })
        .collect();
    if let Some(assignment) = shard.engine.assignment() {
        stat.cluster.clone_from(&assignment.cluster);
        stat.name.clone_from(&assignment.name);
        stat.epoch = assignment.epoch;
        stat.lineage = assignment.lineage;
        stat.ranges = assignment.ranges.iter().map(|&(start, end)| Range { start, end }).collect();
        stat.max_size = assignment.limit;
    }
    responder.send(&ShardAnswer::Stat(Box::new(stat)));
}
