//! What is done: operations, and how they are drawn.

use proptest::prelude::*;
use sherd_engine::fs::Fault;
use sherd_engine::{IndexId, IndexSettings, Key, Policy};

use crate::common::RING;

pub(crate) const KEYS: u8 = 14;
pub(crate) const NAMES: [&str; 3] = ["cities", "people", "c"];
pub(crate) const OWNERS: [&str; 2] = ["bootstrap", "someone"];

/// What a shard may own, from nothing to the whole ring.
pub(crate) const RANGES: [&[(u32, u32)]; 6] = [
    &[(0, RING)],
    &[(0, RING / 2)],
    &[(RING / 2, RING)],
    &[(0, RING / 4), (RING / 2, RING / 4 * 3)],
    &[(0, RING / 2), (RING / 2, RING)],
    &[],
];

/// The keys of the model; two share a position, one is as long as a key may be.
pub(crate) fn key(i: u8) -> Key {
    let position = u32::from(i / 2 * 2) * (RING / u32::from(KEYS)) + 1;
    let name = format!("key{i}");
    let bytes = if i == 3 { name.repeat(200) } else { name };
    Key { position, bytes: bytes.into() }
}

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Submitted one after the other without waiting, so that they may come into one batch.
    Commands(Vec<Step>),
    Read {
        index: IndexId,
        key: u8,
    },
    /// All pages of a range.
    Scan {
        index: IndexId,
        range: (u32, u32),
        documents: usize,
        bytes: usize,
        keys_only: bool,
    },
    Checkpoint,
    /// The clock is set, by so many milliseconds ahead or back.
    Jump(i64),
    /// A round of compaction.
    Compact,
    Restart(Restart),
    /// Commands while the disk fails for good after some operations, then a restart by force.
    Fault {
        steps: Vec<Step>,
        fault: Fault,
        after: u32,
        restart: Restart,
    },
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Mutate {
        mutations: Vec<Change>,
        atomic: bool,
    },
    CreateIndex {
        id: IndexId,
        name: usize,
        settings: IndexSettings,
    },
    SetIndex {
        id: IndexId,
        settings: IndexSettings,
        force: bool,
    },
    DropIndex {
        id: IndexId,
    },
    /// `epoch` is relative to the one held.
    Assign {
        epoch: i8,
        lineage: u64,
        ranges: usize,
        limit: u64,
        foreign: bool,
    },
    Lock {
        owner: usize,
    },
    Release {
        owner: usize,
    },
    SetLimit {
        limit: u64,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) index: IndexId,
    pub(crate) key: u8,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Write {
        fill: u8,
        length: usize,
        condition: When,
        life: Life,
    },
    /// Of the version that is there and its bytes, or not.
    Touch {
        version: bool,
        bytes: bool,
        life: Life,
    },
    Remove {
        version: Option<bool>,
    },
}

/// When a document expires, in milliseconds from now where it does: never at once, for then it
/// would not be known when it is swept.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Life {
    Default,
    Never,
    After(u64),
    At(u64),
}

/// A condition; of a version, whether it is the one that is there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum When {
    Absent,
    Any,
    Present,
    Version(bool),
}

#[derive(Clone, Debug)]
pub(crate) enum Restart {
    Close,
    /// The process is killed; the index may keep what was not flushed.
    Kill {
        unflushed: bool,
    },
    /// What was not synced is lost, in part, as the seed has it.
    PowerCut {
        seed: u64,
        unflushed: bool,
    },
    /// The index is gone.
    IndexLost,
    /// The index has entries of an earlier time, unnoticed.
    IndexOutdated,
}

fn any_life() -> impl Strategy<Value = Life> {
    // Mostly within the second that most histories take place in.
    let milliseconds = || prop_oneof![3 => 1..900u64, 1 => 900..10_000_000u64];
    prop_oneof![
        3 => Just(Life::Default),
        2 => Just(Life::Never),
        2 => milliseconds().prop_map(Life::After),
        1 => milliseconds().prop_map(Life::At),
    ]
}

fn any_settings() -> impl Strategy<Value = IndexSettings> {
    let max_bytes = prop::option::weighted(0.3, 0..4000u64);
    let max_documents = prop::option::weighted(0.3, 0..15u64);
    let policy = prop::option::weighted(0.3, Just(Policy::Reject));
    let ttl = prop::option::weighted(0.5, 1..1500u64);
    (max_bytes, max_documents, policy, ttl).prop_map(|(max_bytes, max_documents, policy, ttl)| {
        IndexSettings { max_bytes, max_documents, policy, ttl }
    })
}

pub(crate) fn any_change() -> impl Strategy<Value = Change> {
    let when = prop_oneof![
        2 => Just(When::Absent),
        4 => Just(When::Any),
        2 => Just(When::Present),
        2 => any::<bool>().prop_map(When::Version),
    ];
    let length = prop_oneof![4 => 0..60usize, 1 => 60..900usize];
    let kind = prop_oneof![
        6 => (any::<u8>(), length, when, any_life()).prop_map(|(fill, length, condition, life)| {
            Kind::Write { fill, length, condition, life }
        }),
        1 => (prop::bool::weighted(0.8), prop::bool::weighted(0.9), any_life())
            .prop_map(|(version, bytes, life)| Kind::Touch { version, bytes, life }),
        2 => any::<Option<bool>>().prop_map(|version| Kind::Remove { version }),
    ];
    // Mostly an index that there is.
    let index = prop_oneof![6 => Just(1), 3 => Just(2), 1 => 1..6u32];
    (index, 0..KEYS, kind).prop_map(|(index, key, kind)| Change { index, key, kind })
}

pub(crate) fn any_step() -> impl Strategy<Value = Step> {
    let limit = prop_oneof![4 => Just(u64::MAX), 1 => 0..3000u64];
    let ranges = prop_oneof![3 => Just(0usize), 2 => 0..RANGES.len()];
    let assign = (-1..3i8, 0..2u64, ranges, limit.clone(), prop::bool::weighted(0.1)).prop_map(
        |(epoch, lineage, ranges, limit, foreign)| Step::Assign {
            epoch,
            lineage,
            ranges,
            limit,
            foreign,
        },
    );
    prop_oneof![
        20 => (prop::collection::vec(any_change(), 1..5), any::<bool>())
            .prop_map(|(mutations, atomic)| Step::Mutate { mutations, atomic }),
        2 => (1..6u32, 0..NAMES.len(), any_settings())
            .prop_map(|(id, name, settings)| Step::CreateIndex { id, name, settings }),
        1 => (1..4u32, any_settings(), any::<bool>())
            .prop_map(|(id, settings, force)| Step::SetIndex { id, settings, force }),
        1 => (1..6u32).prop_map(|id| Step::DropIndex { id }),
        2 => assign,
        1 => (0..OWNERS.len()).prop_map(|owner| Step::Lock { owner }),
        3 => (0..OWNERS.len()).prop_map(|owner| Step::Release { owner }),
        1 => limit.prop_map(|limit| Step::SetLimit { limit }),
    ]
}

pub(crate) fn any_restart() -> impl Strategy<Value = Restart> {
    prop_oneof![
        Just(Restart::Close),
        any::<bool>().prop_map(|unflushed| Restart::Kill { unflushed }),
        (any::<u64>(), any::<bool>())
            .prop_map(|(seed, unflushed)| Restart::PowerCut { seed, unflushed }),
        Just(Restart::IndexLost),
        Just(Restart::IndexOutdated),
    ]
}

fn any_jump() -> impl Strategy<Value = i64> {
    const HOUR: i64 = 3_600_000;
    // Few go beyond the second, for that the sweeper has to be waited for.
    prop_oneof![120 => 1..20i64, 1 => 1..3000i64, 1 => Just(HOUR), 3 => Just(-HOUR)]
}

pub(crate) fn any_operation() -> impl Strategy<Value = Operation> {
    let range = prop_oneof![
        3 => (0..RANGES.len() - 1).prop_map(|i| RANGES[i][0]),
        1 => (0..RING, 0..RING).prop_map(|(a, b)| (a.min(b), a.max(b))),
    ];
    let scan = (1..4u32, range, 1..9usize, 1..2000usize, any::<bool>()).prop_map(
        |(index, range, documents, bytes, keys_only)| Operation::Scan {
            index,
            range,
            documents,
            bytes,
            keys_only,
        },
    );
    let fault = prop_oneof![Just(Fault::Write), Just(Fault::Sync), Just(Fault::Create)];
    let steps = || prop::collection::vec(any_step(), 1..5);
    prop_oneof![
        24 => steps().prop_map(Operation::Commands),
        3 => (1..6u32, 0..KEYS).prop_map(|(index, key)| Operation::Read { index, key }),
        3 => scan,
        3 => Just(Operation::Checkpoint),
        4 => any_jump().prop_map(Operation::Jump),
        2 => Just(Operation::Compact),
        2 => any_restart().prop_map(Operation::Restart),
        1 => (steps(), fault, 0..6u32, any_restart())
            .prop_map(|(steps, fault, after, restart)| {
                Operation::Fault { steps, fault, after, restart }
            }),
    ]
}
