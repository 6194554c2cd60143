//! What is asked of bootstrap, and its answers.

use serde::{Deserialize, Serialize};

use super::Index;
use crate::error::WireError;
use crate::limits::{IndexSettings, Policy, SettingsChange};
use crate::range_map::RangeMap;

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
    Done,
    Error(WireError),
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
