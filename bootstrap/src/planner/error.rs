//! Why there is no plan.

use sherd_protocol::name::NameError;
use sherd_protocol::range_map::MapFault;
use sherd_protocol::{Position, Range, WireError};
use thiserror::Error;

/// Why an action cannot be planned, and what to do about it.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum PlanError {
    #[error("the map is damaged: {0}")]
    Map(#[from] MapFault),
    #[error("there is no shard {shard:?}; `sherd map` names them")]
    UnknownShard { shard: String },
    #[error("shard {shard:?} is gone by then: an action before this one removes it")]
    Gone { shard: String },
    #[error("{0}")]
    Name(#[from] NameError),
    #[error("shard {shard:?}: {field}: {what}")]
    Field { shard: String, field: &'static str, what: &'static str },
    #[error("shard {shard:?}: name: another shard has it; choose one that is new")]
    NameTaken { shard: String },
    #[error(
        "shard {shard:?}: port: shard {other:?} has {address} already; start the new one at another \
         address"
    )]
    AddressTaken { shard: String, other: String, address: String },
    #[error("shard {shard:?} is the last one and cannot be removed; add another one first")]
    LastShard { shard: String },
    #[error("there is no shard beside {shard:?} that could take a part; add one first")]
    NoOtherShard { shard: String },
    #[error("shard {shard:?} has no range that could be split; move one to it first")]
    NoRange { shard: String },
    #[error(
        "{} is not inside a range of shard {shard:?}, after the range's start; `sherd map` shows its \
         ranges", Position(*at).fraction()
    )]
    NotInside { shard: String, at: u32 },
    #[error("the range of shard {shard:?} has only one position and cannot be split")]
    TooNarrow { shard: String },
    #[error("shard {shard:?} cannot be merged into itself; name two shards")]
    IntoItself { shard: String },
    #[error("{range} is no range: it ends after its start and at most at 1")]
    NoSuchRange { range: Range },
    #[error(
        "shard {shard:?} would hold {bytes} bytes, more than its size, {size}; raise it with `sherd \
         shard set`, or add a shard"
    )]
    TooSmall { shard: String, bytes: u64, size: u64 },
    #[error(
        "shard {shard:?} would hold {bytes} bytes before it has given its own away, more than its \
         size, {size}; raise it until the moves are done, or plan fewer actions at once"
    )]
    TooSmallMeanwhile { shard: String, bytes: u64, size: u64 },
}

impl From<PlanError> for WireError {
    /// What is wrong with the actions is said of them; of the plan, what does not fit the cluster.
    fn from(error: PlanError) -> Self {
        let place = match &error {
            PlanError::Map(_)
            | PlanError::TooSmall { .. }
            | PlanError::TooSmallMeanwhile { .. } => "plan",
            _ => "actions",
        };
        Self::bad_request(place, error)
    }
}
