//! The client of a cluster.

use std::sync::Arc;
use std::time::Duration;

use sherd_protocol::message::{
    self, BootstrapAnswer, BootstrapOperation, ChangeIndex, Condition, Index, IndexName, KeyOf,
    NewIndex, SetShard, ShardOperation, ShardStat, ShardStatus,
};
use sherd_protocol::{
    Expiry, HashMethod, IndexSettings, Policy, Position, RangeMap, SettingsChange, ShardInfo,
    document, name,
};

use crate::call::{Call, Target, unexpected};
use crate::connection::ConnectOptions;
use crate::error::Error;
use crate::join::join_all;
use crate::reply::{Document, ShardReply};
use crate::retry::Deadline;
use crate::topology::MapCache;

/// How a client works. The defaults serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a call is attempted. Default 10 s: a shard that is restarted is back before.
    pub deadline: Duration,
    /// Connections kept to each shard, used in turn. Default 2: one that carries a large document
    /// does not hold up the others' answers.
    pub connections_per_shard: usize,
    /// How connections are made and kept, among it the cluster's token.
    pub connect: ConnectOptions,
}

impl Default for Options {
    fn default() -> Self {
        let (deadline, connect) = (Duration::from_secs(10), ConnectOptions::default());
        Self { deadline, connections_per_shard: 2, connect }
    }
}

/// A client of a cluster: routes each call to the shard that owns the key.
///
/// Documents are bytes holding one MessagePack value. Names and documents are checked before
/// anything is sent.
///
/// A call is attempted until its deadline, as far as that can do no harm: a change that was sent
/// and not answered fails with [`Error::OutcomeUnknown`]. Bootstrap is needed to connect, to change
/// and list indexes, and to find keys that moved; reads and writes go on without it.
///
/// Cheap to clone; all clones share the connections and the map.
#[derive(Clone)]
pub struct Client {
    pub(crate) cache: Arc<MapCache>,
    pub(crate) deadline: Duration,
}

/// What a shard said of itself.
#[derive(Clone, Debug)]
pub struct ShardView {
    /// The shard as the map names it.
    pub shard: ShardInfo,
    /// Its answer, or why there is none.
    pub stat: Result<ShardStat, Error>,
}

/// A document that was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Touched {
    /// Its version, which has not changed.
    pub version: u64,
    /// When it expires, in milliseconds since 1970; 0 for never.
    pub expires_at: u64,
}

impl Client {
    /// Connects to the bootstrap at `address` (`host:port`), and takes the range map from it.
    ///
    /// # Errors
    /// When bootstrap does not answer within the deadline, or refuses this client.
    pub async fn connect(address: &str, options: Options) -> Result<Self, Error> {
        let Options { deadline, connections_per_shard, connect } = options;
        let cache = MapCache::new(address.to_owned(), Arc::new(connect), connections_per_shard);
        let client = Self { cache: Arc::new(cache), deadline };
        client.cache.fetch(&client.call_of("connecting", "", "", false)).await?;
        Ok(client)
    }

    /// The same client with another deadline for each call.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { cache: Arc::clone(&self.cache), deadline }
    }

    /// Creates an index on all shards. A shard that is down gets it when it is back.
    ///
    /// # Errors
    /// [`Error::does_not_hold`] where it exists already.
    pub async fn create_index(&self, index: &str) -> Result<Index, Error> {
        self.create_index_with(index, IndexSettings::default()).await
    }

    /// Creates an index with limits, a policy or a time to live of its own. Its limits are of the
    /// whole: each shard has a share by the width of its ranges.
    ///
    /// # Errors
    /// As [`Client::create_index`].
    pub async fn create_index_with(
        &self,
        index: &str,
        settings: IndexSettings,
    ) -> Result<Index, Error> {
        name::check_index(index)?;
        let operation = BootstrapOperation::CreateIndex(NewIndex { name: index, settings });
        match self.ask_bootstrap("create index", index, true, &operation).await? {
            BootstrapAnswer::Index(index) => Ok(index),
            other => Err(unexpected(self.cache.bootstrap.node(), &other)),
        }
    }

    /// Changes settings of an index; returns it as it is then. Where a limit is lowered below what is
    /// used, the policy decides: it is refused, or done once enough is evicted.
    ///
    /// # Errors
    /// [`sherd_protocol::WireError::IndexFull`] where more is used and nothing is evicted;
    /// [`Error::Deadline`] where the shards still evict, or one is away: setting it again is safe.
    pub async fn set_index(&self, index: &str, change: SettingsChange) -> Result<Index, Error> {
        name::check_index(index)?;
        let operation = BootstrapOperation::SetIndex(ChangeIndex { name: index, change });
        // To set it twice is the same as once.
        match self.ask_bootstrap("set index", index, false, &operation).await? {
            BootstrapAnswer::Index(index) => Ok(index),
            other => Err(unexpected(self.cache.bootstrap.node(), &other)),
        }
    }

    /// Drops an index with its documents, on all shards. The index is gone from the catalogue at
    /// once, but the drop is not confirmed, nor the name free again, before every shard has done
    /// it.
    ///
    /// # Errors
    /// [`Error::does_not_hold`] where there is none of that name. While a shard is down it fails in
    /// the end, or its outcome is unknown: dropping again is safe.
    pub async fn drop_index(&self, index: &str) -> Result<(), Error> {
        name::check_index(index)?;
        let operation = BootstrapOperation::DropIndex(IndexName { name: index });
        match self.ask_bootstrap("drop index", index, true, &operation).await? {
            BootstrapAnswer::Index(_) => Ok(()),
            other => Err(unexpected(self.cache.bootstrap.node(), &other)),
        }
    }

    /// The indexes of the cluster, in the order in which they were created.
    ///
    /// # Errors
    /// When bootstrap does not answer.
    pub async fn indexes(&self) -> Result<Vec<Index>, Error> {
        let operation = BootstrapOperation::Indexes;
        match self.ask_bootstrap("listing the indexes", "", false, &operation).await? {
            BootstrapAnswer::Indexes(indexes) => Ok(indexes),
            other => Err(unexpected(self.cache.bootstrap.node(), &other)),
        }
    }

    /// The newest range map, from bootstrap.
    ///
    /// # Errors
    /// When bootstrap does not answer.
    pub async fn map(&self) -> Result<RangeMap, Error> {
        self.cache.fetch(&self.call_of("asking for the map", "", "", false)).await?;
        Ok(self.known_map())
    }

    /// The range map that this client works with, without asking anyone.
    pub fn known_map(&self) -> RangeMap {
        self.cache.known().map.clone()
    }

    /// Where a key falls on the ring.
    pub fn position(&self, key: &str) -> Position {
        self.hash_method().position(key)
    }

    /// How bootstrap sees the shards.
    ///
    /// # Errors
    /// When bootstrap does not answer.
    pub async fn status(&self) -> Result<Vec<ShardStatus>, Error> {
        let operation = BootstrapOperation::Status;
        match self.ask_bootstrap("asking for the status", "", false, &operation).await? {
            BootstrapAnswer::Status(shards) => Ok(shards),
            other => Err(unexpected(self.cache.bootstrap.node(), &other)),
        }
    }

    /// Sets how many bytes of keys and documents a shard may hold, and what becomes of a write for
    /// which there is no room; each where it is given. Where more is used, the policy decides: it is
    /// refused, or done once enough is evicted.
    ///
    /// # Errors
    /// [`sherd_protocol::WireError::QuotaExceeded`] where it holds more and nothing is evicted;
    /// [`Error::Deadline`] where the shard still evicts, or is away: setting it again is safe.
    pub async fn set_shard(
        &self,
        shard: &str,
        size: Option<u64>,
        policy: Option<Policy>,
    ) -> Result<(), Error> {
        let operation = BootstrapOperation::SetShard(SetShard { shard, size, policy });
        // To set it twice is the same as once.
        match self.ask_bootstrap("set shard", shard, false, &operation).await? {
            BootstrapAnswer::Done => Ok(()),
            other => Err(unexpected(self.cache.bootstrap.node(), &other)),
        }
    }

    /// Asks every shard for its figures, all at once; those that are down are in the result too.
    pub async fn stat(&self) -> Vec<ShardView> {
        let topology = self.cache.known();
        let asked = topology.map.shards.iter().map(async |shard| {
            let call = self.call_of("stat", "", &shard.name, false);
            let target = Target::Shard(&shard.name);
            let stat = match self.cache.ask_shard(&call, target, |_| ShardOperation::Stat).await {
                Ok(ShardReply::Stat(stat)) => Ok(*stat),
                Ok(other) => Err(unexpected(format!("shard {}", shard.name), &other)),
                Err(error) => Err(error),
            };
            ShardView { shard: shard.clone(), stat }
        });
        join_all(asked).await
    }

    /// Stores a document under a key if the condition holds; returns its version.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`]; [`Error::OutcomeUnknown`] when the shard was lost before it
    /// answered, or its log failed under the write.
    pub async fn write(
        &self,
        index: &str,
        key: &str,
        document: &[u8],
        condition: Condition,
    ) -> Result<u64, Error> {
        self.write_expiring(index, key, document, condition, Expiry::Default).await
    }

    /// [`Client::write`], with when the document expires instead of the time to live of its index.
    ///
    /// # Errors
    /// As [`Client::write`].
    pub async fn write_expiring(
        &self,
        index: &str,
        key: &str,
        document: &[u8],
        condition: Condition,
        expiry: Expiry,
    ) -> Result<u64, Error> {
        document::check(document)?;
        check_expiry(expiry)?;
        let write = message::Write { index, key, document, condition, expiry };
        let operation = ShardOperation::Write(write);
        match self.ask("write", index, key, true, &operation).await? {
            ShardReply::Written { version } => Ok(version),
            ShardReply::ConditionFailed { version } => {
                Err(condition_failed(index, key, condition, version))
            }
            other => Err(unexpected(self.node_of(self.position(key)), &other)),
        }
    }

    /// The document under a key, if there is one.
    ///
    /// # Errors
    /// When the index does not exist, or the shard does not answer within the deadline.
    pub async fn read(&self, index: &str, key: &str) -> Result<Option<Document>, Error> {
        let operation = ShardOperation::Read(KeyOf { index, key });
        match self.ask("read", index, key, false, &operation).await? {
            ShardReply::Document(document) => Ok(Some(document)),
            ShardReply::Missing => Ok(None),
            other => Err(unexpected(self.node_of(self.position(key)), &other)),
        }
    }

    /// The version of the document under a key, if there is one.
    ///
    /// # Errors
    /// As [`Client::read`].
    pub async fn has(&self, index: &str, key: &str) -> Result<Option<u64>, Error> {
        let operation = ShardOperation::Has(KeyOf { index, key });
        match self.ask("has", index, key, false, &operation).await? {
            ShardReply::Document(document) => Ok(Some(document.version)),
            ShardReply::Missing => Ok(None),
            other => Err(unexpected(self.node_of(self.position(key)), &other)),
        }
    }

    /// Changes when the document under a key expires, if there is one, and nothing else.
    ///
    /// # Errors
    /// As [`Client::read`]. A touch that was not answered is tried again.
    pub async fn touch(
        &self,
        index: &str,
        key: &str,
        expiry: Expiry,
    ) -> Result<Option<Touched>, Error> {
        check_expiry(expiry)?;
        let operation = ShardOperation::Touch(message::Touch { index, key, expiry });
        // To do it twice is the same as once, but for some seconds.
        match self.ask("touch", index, key, false, &operation).await? {
            ShardReply::Touched { version, expires_at } => {
                Ok(Some(Touched { version, expires_at }))
            }
            ShardReply::Missing => Ok(None),
            other => Err(unexpected(self.node_of(self.position(key)), &other)),
        }
    }

    /// Removes the document under a key and returns it, if there is one.
    ///
    /// # Errors
    /// As [`Client::read`], and [`Error::OutcomeUnknown`] when the shard was lost before it
    /// answered, or its log failed under the pop: the document may be gone.
    pub async fn pop(&self, index: &str, key: &str) -> Result<Option<Document>, Error> {
        let operation = ShardOperation::Pop(KeyOf { index, key });
        match self.ask("pop", index, key, true, &operation).await? {
            ShardReply::Document(document) => Ok(Some(document)),
            ShardReply::Missing => Ok(None),
            other => Err(unexpected(self.node_of(self.position(key)), &other)),
        }
    }

    /// Removes the document under a key, if it has the `version` where one is given. Returns the
    /// version of the removal; `None` where there was no document.
    ///
    /// # Errors
    /// [`Error::ConditionFailed`] where there is another version; as [`Client::pop`].
    pub async fn remove(
        &self,
        index: &str,
        key: &str,
        version: Option<u64>,
    ) -> Result<Option<u64>, Error> {
        let operation = ShardOperation::Remove(message::Remove { index, key, version });
        match self.ask("remove", index, key, true, &operation).await? {
            ShardReply::Removed { version } => Ok(Some(version)),
            ShardReply::Missing => Ok(None),
            ShardReply::ConditionFailed { version: found } => {
                let condition = version.map_or(Condition::Present, Condition::Version);
                Err(condition_failed(index, key, condition, found))
            }
            other => Err(unexpected(self.node_of(self.position(key)), &other)),
        }
    }

    /// A call that begins now.
    pub(crate) fn call_of<'a>(
        &self,
        operation: &'static str,
        index: &'a str,
        key: &'a str,
        changes: bool,
    ) -> Call<'a> {
        Call { operation, index, key, changes, deadline: Deadline::after(self.deadline) }
    }

    /// Asks the shard of a key.
    async fn ask(
        &self,
        operation: &'static str,
        index: &str,
        key: &str,
        changes: bool,
        request: &ShardOperation<'_>,
    ) -> Result<ShardReply, Error> {
        name::check_index(index)?;
        name::check_key(key)?;
        let call = self.call_of(operation, index, key, changes);
        let target = Target::Position(self.position(key));
        self.cache.ask_shard(&call, target, |_| request.clone()).await
    }

    pub(crate) async fn ask_bootstrap(
        &self,
        operation: &'static str,
        subject: &str,
        changes: bool,
        request: &BootstrapOperation<'_>,
    ) -> Result<BootstrapAnswer, Error> {
        let call = self.call_of(operation, subject, "", changes);
        self.cache.ask_bootstrap(&call, request).await
    }

    fn hash_method(&self) -> HashMethod {
        self.cache.known().map.hash_method
    }

    /// The shard of a key, for messages.
    pub(crate) fn node_of(&self, position: Position) -> String {
        let topology = self.cache.known();
        topology.owner(position).map_or_else(String::new, |(_, peer)| peer.node())
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let epoch = self.cache.known().map.epoch;
        f.debug_struct("Client")
            .field("bootstrap", &self.cache.bootstrap.address)
            .field("epoch", &epoch)
            .finish()
    }
}

/// Checks a time before anything is sent.
pub(crate) fn check_expiry(expiry: Expiry) -> Result<(), Error> {
    expiry.check().map_err(|what| Error::InvalidTime { what })
}

fn condition_failed(index: &str, key: &str, condition: Condition, version: Option<u64>) -> Error {
    let (index, key) = (index.to_owned(), key.to_owned());
    Error::ConditionFailed { index, key, condition, version }
}
