//! What is asked of bootstrap, and its answers.

use serde::{Deserialize, Serialize};

use super::{Index, MoveProgress};
use crate::error::WireError;
use crate::limits::{IndexSettings, Policy, SettingsChange};
use crate::plan::{Action, Plan};
use crate::range_map::{Range, RangeMap};

/// What a client asks of bootstrap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BootstrapOperation<'a> {
    /// Answered `map`.
    Map,
    /// Answered `indexes`.
    Indexes,
    /// Answered `index`, or the error `index_exists`.
    #[serde(borrow)]
    CreateIndex(NewIndex<'a>),
    /// Changes settings of an index. Answered `index`. Where a limit is lowered, every shard must be
    /// there, and what [`SetIndex`](super::ShardOperation::SetIndex) is refused with refuses it.
    SetIndex(ChangeIndex<'a>),
    /// Answered `index`, or the error `index_not_found`.
    DropIndex(IndexName<'a>),
    /// Sets a shard's limit in bytes, and its policy. Answered `done`.
    SetShard(SetShard<'a>),
    /// Answered `status`.
    Status,
    /// What would move for some actions, by what the shards hold now; nothing is changed. Every shard
    /// must be there. Answered `plan`.
    Plan(PlanActions),
    /// Begins to carry out a plan. Answered `done`, or refused where the map has changed since.
    Apply(ApplyPlan),
    /// How far the moves are. Answered `moves`.
    Moves,
    /// Ends the moves: what is not handed over stays where it is. Answered `done`.
    CancelMoves,
    /// Stops moves, or lets them go on. Answered `done`.
    PauseMoves(PauseMoves),
    /// The maps before this one. Answered `history`.
    History,
}

/// What is to be planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanActions {
    /// The actions, each on what the one before leaves.
    pub actions: Vec<Action>,
}

/// A plan to carry out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyPlan {
    /// The plan.
    pub plan: Box<Plan>,
    /// How many bytes a second may move; as many as can where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
}

/// Whether moves stop or go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct PauseMoves {
    pub paused: bool,
}

/// The index to create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct NewIndex<'a> {
    pub name: &'a str,
    #[serde(default, skip_serializing_if = "IndexSettings::is_default")]
    pub settings: IndexSettings,
}

/// The index to change, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct ChangeIndex<'a> {
    pub name: &'a str,
    pub change: SettingsChange,
}

/// The index to drop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct IndexName<'a> {
    pub name: &'a str,
}

/// The new limit and policy of a shard, each where it is to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "described above")]
pub struct SetShard<'a> {
    pub shard: &'a str,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

/// What bootstrap answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "described with the operations")]
pub enum BootstrapAnswer {
    Map(RangeMap),
    Indexes(Vec<Index>),
    Index(Index),
    Status(Vec<ShardStatus>),
    Plan(Box<Plan>),
    Moves(MovesStatus),
    History(Vec<PastMap>),
    Done,
    Error(WireError),
}

/// What is left of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MovesStatus {
    /// The moves, the first of them under way.
    pub moves: Vec<MoveStatus>,
    /// None goes on until told.
    pub paused: bool,
    /// How many bytes a second may move, if that is bounded.
    pub rate: Option<u64>,
}

/// How far a move is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveStatus {
    /// Names it.
    pub id: String,
    /// What moves.
    pub range: Range,
    /// The name of the source.
    pub from: String,
    /// The name of the target.
    pub to: String,
    /// Where it stands.
    pub step: MoveStep,
    /// About how many documents the range had when it was planned.
    pub documents: u64,
    /// About how many bytes.
    pub bytes: u64,
    /// How far the target is, of the move under way and as far as it is known.
    pub progress: Option<MoveProgress>,
    /// Why it failed, if it did: the range stays with the source.
    pub why: Option<String>,
}

/// Where a move stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MoveStep {
    /// Another one is under way.
    Waiting,
    /// The target takes the documents over; the source serves the range.
    Copying,
    /// The source gives the range up, then the target serves it.
    HandingOver,
    /// It does not go on: cancel, and plan again.
    Failed,
}

/// A map that was replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PastMap {
    /// The map.
    pub map: RangeMap,
    /// When it was replaced, in milliseconds since 1970.
    pub until: u64,
    /// By what.
    pub why: String,
}

/// How bootstrap sees a shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// The shard's name.
    pub name: String,
    /// Whether it is connected and holds the newest assignment and catalogue.
    pub ready: bool,
    /// Why it is not ready.
    pub why: Option<String>,
}
