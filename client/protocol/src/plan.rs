//! Plans: which ranges are to move between shards, and to whom.
//!
//! A plan says everything that a person needs to agree to it, and everything that is needed to carry
//! it out: the map before and after, each range that moves, and how full the shards get meanwhile.
//! It is made from the map of one epoch and holds for that one only. It travels as MessagePack and
//! lies in files as JSON, with the same field names.

use serde::{Deserialize, Serialize};

use crate::range_map::{OwnedRange, Range, ShardInfo};

/// Something to be done to the shards of a cluster or to their ranges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A new shard joins and gets its share, by its size, from the others.
    Add {
        /// The shard; its name and address are no other's.
        shard: ShardInfo,
    },
    /// A shard gives all that it has to the others and leaves.
    Remove {
        /// The shard's name.
        shard: String,
    },
    /// The upper part of a shard's range goes to another shard: the one that is furthest below its
    /// share.
    Split {
        /// The shard's name.
        shard: String,
        /// The first position of the upper part; unless told where half of the bytes lie.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        at: Option<u32>,
    },
    /// All ranges of a shard go to another one. It stays, without ranges.
    Merge {
        /// The name of the shard that gets the ranges.
        into: String,
        /// The name of the shard that gives them.
        from: String,
    },
    /// A range goes to a shard, whoever owns parts of it.
    Move {
        /// The range.
        range: Range,
        /// The name of the shard that gets it.
        to: String,
    },
    /// The shards are evened out: each gets its share, by its size, of what is stored.
    Rebalance,
}

/// A range that moves, whole, from one shard to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    /// The range.
    pub range: Range,
    /// The name of the shard that owns it.
    pub from: String,
    /// The name of the shard that gets it.
    pub to: String,
    /// About how many documents are in it.
    pub documents: u64,
    /// About how many bytes of keys and documents.
    pub bytes: u64,
}

/// How many bytes of keys and documents a shard holds in the course of a plan, about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardBytes {
    /// The shard's name.
    pub shard: String,
    /// Before the first move.
    pub before: u64,
    /// At most, while the moves run one after the other: a target holds what it has and what it
    /// gets, a source keeps what it gives until the move is done.
    pub peak: u64,
    /// After the last move.
    pub after: u64,
}

/// What is to be done, and what moves for it.
///
/// Invariants: no position is in two moves; carried out on `before`, they give `after`, which covers
/// the ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The id of the cluster.
    pub cluster: String,
    /// The epoch of the map that the plan was made from.
    pub epoch: u64,
    /// What is to be done, each on what the one before leaves.
    pub actions: Vec<Action>,
    /// What moves, in the order in which it should: then nobody gets fuller than `bytes` says.
    pub moves: Vec<PlannedMove>,
    /// The ranges before, in ring order.
    pub before: Vec<OwnedRange>,
    /// The ranges after, in ring order; those of one owner that meet are one.
    pub after: Vec<OwnedRange>,
    /// The shards after.
    pub shards_after: Vec<ShardInfo>,
    /// How full each shard gets: those of the map, then those that are added.
    pub bytes: Vec<ShardBytes>,
    /// What speaks against carrying it out as things are, for people.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

impl Plan {
    /// Whether it leaves everything as it is: nothing moves, and nobody joins or leaves.
    pub fn is_empty(&self) -> bool {
        let is_of_members =
            |action: &Action| matches!(action, Action::Add { .. } | Action::Remove { .. });
        self.moves.is_empty() && !self.actions.iter().any(is_of_members)
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::frame;

    #[test]
    fn plans_travel() {
        let shard = ShardInfo {
            name: "b".to_owned(),
            host: "h".to_owned(),
            port: 2,
            size: 100,
            policy: crate::Policy::Lru,
        };
        let range = Range { start: 0, end: 5 };
        let (a, b) = (|| "a".to_owned(), || "b".to_owned());
        let plan = Plan {
            cluster: "c".to_owned(),
            epoch: 3,
            actions: vec![
                Action::Add { shard: shard.clone() },
                Action::Remove { shard: a() },
                Action::Split { shard: a(), at: Some(7) },
                Action::Split { shard: a(), at: None },
                Action::Merge { into: a(), from: b() },
                Action::Move { range, to: b() },
                Action::Rebalance,
            ],
            moves: vec![PlannedMove { range, from: a(), to: b(), documents: 1, bytes: 2 }],
            before: vec![OwnedRange { start: 0, end: 10_000_000, shard: a() }],
            after: vec![OwnedRange { start: 0, end: 10_000_000, shard: b() }],
            shards_after: vec![shard],
            bytes: vec![ShardBytes { shard: a(), before: 2, peak: 2, after: 0 }],
            warnings: vec!["b is away".to_owned()],
        };
        let mut frame = BytesMut::new();
        frame::encode(&mut frame, &plan, 1 << 20).unwrap();
        let body = frame::split(&mut frame, 1 << 20).unwrap().unwrap();
        assert_eq!(frame::decode::<Plan>(&body).unwrap(), plan);
    }
}
