//! What the target asks of the source, over one connection.

use std::time::Duration;

use sherd_client::{ConnectOptions, Connection, Error as ClientError, Page, ShardReply, Tail};
use sherd_protocol::message::{
    Cursor, Export, Freeze, MoveId, RangeSum, ReadTail, ShardOperation, ShardStat, SourceOperation,
    SumUp, TailCursor,
};
use sherd_protocol::{Position, Range, WireError};
use tokio::time::Instant;

use super::note::After;
use super::unavailable;

/// How long the source may take for one request.
const REQUEST_TIME: Duration = Duration::from_secs(10);

/// How often it is measured how long an answer is under way.
const ROUND_TRIPS: usize = 3;

/// What comes next of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A page of an index. What the log has from `hold` on is kept meanwhile.
    Page { index: u32, after: After, hold: TailCursor },
    /// The log from there on.
    Tail(TailCursor),
}

/// What came of it.
pub(super) enum Brought {
    Page { index: u32, after: After, page: Page },
    Tail(Tail),
}

/// A source that is connected.
pub(super) struct SourceClient {
    connection: Connection,
    /// What is taken over from it.
    pub(super) range: Range,
    /// How long an answer takes that takes the source no time.
    pub(super) round_trip: Duration,
}

impl SourceClient {
    pub(super) async fn connect(
        address: &str,
        options: &ConnectOptions,
        range: Range,
    ) -> Result<Self, ClientError> {
        let connection = Connection::open(address, options).await?;
        let mut round_trip = REQUEST_TIME;
        for _ in 0..ROUND_TRIPS {
            let asked_at = Instant::now();
            connection.shard(&ShardOperation::Stat, asked_at + REQUEST_TIME).await?;
            round_trip = round_trip.min(asked_at.elapsed());
        }
        Ok(Self { connection, range, round_trip })
    }

    async fn ask(&self, operation: SourceOperation<'_>) -> Result<ShardReply, WireError> {
        let operation = ShardOperation::Source(operation);
        let asked = self.connection.shard(&operation, Instant::now() + REQUEST_TIME).await;
        asked.map_err(|error| self.failed(error))
    }

    fn failed(&self, error: ClientError) -> WireError {
        match error {
            ClientError::Refused { error, .. } => error,
            error => WireError::Unavailable {
                what: format!("the source, {}", self.connection.node()),
                why: error.to_string(),
            },
        }
    }

    fn unexpected(&self, reply: &ShardReply) -> WireError {
        let what = format!("{} answered {reply:?}", self.connection.node());
        WireError::Internal { what }
    }

    pub(super) async fn tail_end(&self) -> Result<TailCursor, WireError> {
        match self.ask(SourceOperation::TailEnd).await? {
            ShardReply::TailEnd(cursor) => Ok(cursor),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The first index of the source with a higher id.
    pub(super) async fn index_after(&self, id: u32) -> Result<Option<u32>, WireError> {
        let ids = self.indexes().await?.into_iter();
        Ok(ids.filter(|&found| found > id).min())
    }

    /// The ids of the source's indexes.
    pub(super) async fn indexes(&self) -> Result<Vec<u32>, WireError> {
        Ok(self.stat().await?.indexes.iter().map(|index| index.id).collect())
    }

    /// An LSN up to which what it answers from now on shows everything.
    pub(super) async fn done_lsn(&self) -> Result<u64, WireError> {
        Ok(self.stat().await?.durable_lsn)
    }

    async fn stat(&self) -> Result<ShardStat, WireError> {
        let until = Instant::now() + REQUEST_TIME;
        let stat = self.connection.shard(&ShardOperation::Stat, until).await;
        match stat.map_err(|error| self.failed(error))? {
            ShardReply::Stat(stat) => Ok(*stat),
            other => Err(self.unexpected(&other)),
        }
    }

    /// A page or a part of the log.
    pub(super) async fn bring(&self, wanted: &Wanted) -> Result<Brought, WireError> {
        let range = self.range;
        match wanted {
            Wanted::Page { index, after, hold } => {
                let (index, after, hold) = (*index, after.clone(), Some(*hold));
                let cursor = after.as_ref();
                let cursor = cursor.map(|(at, key)| Cursor { position: Position(*at), key });
                let export = Export { index, range, after: cursor, hold };
                match self.ask(SourceOperation::Export(export)).await? {
                    ShardReply::Page(page) => Ok(Brought::Page { index, after, page }),
                    other => Err(self.unexpected(&other)),
                }
            }
            Wanted::Tail(from) => {
                let read = ReadTail { from: *from, range };
                match self.ask(SourceOperation::Tail(read)).await? {
                    ShardReply::Tail(tail) => Ok(Brought::Tail(tail)),
                    other => Err(self.unexpected(&other)),
                }
            }
        }
    }

    /// Has the log held from there on, as far as it is there: the next that reads it hears of it.
    pub(super) async fn hold(&self, from: TailCursor) -> Result<(), WireError> {
        // An answer without any documents, for there is no position in its range.
        let range = Range { end: self.range.start, ..self.range };
        match self.ask(SourceOperation::Tail(ReadTail { from, range })).await {
            Ok(_) | Err(WireError::LogGone { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Has the range frozen for a time. Returns the LSN after which nothing changes.
    pub(super) async fn freeze(&self, id: &str, at_most: Duration) -> Result<u64, WireError> {
        let at_most = at_most.as_millis() as u64;
        let freeze = Freeze { id, range: self.range, at_most };
        match self.ask(SourceOperation::Freeze(freeze)).await? {
            ShardReply::Frozen { lsn } => Ok(lsn),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Has the range served as ever again.
    pub(super) async fn thaw(&self, id: &str) -> Result<(), WireError> {
        self.ask(SourceOperation::Thaw(MoveId { id })).await.map(drop)
    }

    /// What the range comes to, which was frozen with the answer `frozen_at` and is so still.
    pub(super) async fn sums(&self, id: &str, frozen_at: u64) -> Result<Vec<RangeSum>, WireError> {
        let wanted = SumUp { id, lsn: frozen_at, range: self.range };
        match self.ask(SourceOperation::Sums(wanted)).await {
            Ok(ShardReply::Sums(sums)) => Ok(sums),
            Ok(other) => Err(self.unexpected(&other)),
            // It can be tried again.
            Err(error @ WireError::NotFrozen { .. }) => Err(unavailable(id, error)),
            Err(error) => Err(error),
        }
    }
}
