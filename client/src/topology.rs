//! The range map as the client uses it, and the cache that keeps the newest.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use sherd_protocol::message::{BootstrapAnswer, BootstrapOperation, Role};
use sherd_protocol::range_map::OwnedRange;
use sherd_protocol::{HashMethod, Position, RangeMap};
use tokio::time::{Instant, timeout_at};

use crate::call::unexpected;
use crate::connection::ConnectOptions;
use crate::error::Error;
use crate::peer::Peer;
use crate::single_flight::SingleFlight;

/// A range map with the connections to its shards.
pub(crate) struct Topology {
    pub(crate) map: RangeMap,
    /// The shards, in the order of the map's.
    peers: Vec<Arc<Peer>>,
}

impl Topology {
    /// What is known before the first map: nothing.
    fn none() -> Self {
        let (cluster, shards, ranges) = Default::default();
        let hash_method = HashMethod::default();
        let map = RangeMap { cluster, epoch: 0, hash_method, shards, ranges };
        Self { map, peers: Vec::new() }
    }

    fn is_none(&self) -> bool {
        self.map.ranges.is_empty()
    }

    /// The shard that owns `position`, and its range around it.
    pub(crate) fn owner(&self, position: Position) -> Option<(&OwnedRange, &Arc<Peer>)> {
        let owned = self.map.owner(position)?;
        Some((owned, self.shard(&owned.shard)?))
    }

    /// The shard of that name.
    pub(crate) fn shard(&self, name: &str) -> Option<&Arc<Peer>> {
        let place = self.map.shards.iter().position(|shard| shard.name == name)?;
        self.peers.get(place)
    }
}

/// The newest map that the client has seen. Its epoch never goes back.
pub(crate) struct MapCache {
    pub(crate) bootstrap: Arc<Peer>,
    options: Arc<ConnectOptions>,
    connections: usize,
    current: RwLock<Arc<Topology>>,
    fetching: SingleFlight,
}

impl MapCache {
    pub(crate) fn new(bootstrap: String, options: Arc<ConnectOptions>, connections: usize) -> Self {
        let bootstrap =
            Peer::new(bootstrap, Role::Bootstrap, String::new(), Arc::clone(&options), 1);
        let (current, fetching) = (RwLock::new(Topology::none().into()), SingleFlight::default());
        Self { bootstrap: Arc::new(bootstrap), options, connections, current, fetching }
    }

    /// The newest map seen.
    pub(crate) fn known(&self) -> Arc<Topology> {
        Arc::clone(&self.current.read())
    }

    /// Asks bootstrap once for its map, or waits for the answer to somebody else who is asking.
    pub(crate) async fn refresh(&self, deadline: Instant) -> Result<(), Error> {
        let fetching = self.fetching.run(async || {
            let connection = self.bootstrap.connection(deadline).await?;
            match connection.bootstrap(&BootstrapOperation::Map, deadline).await? {
                BootstrapAnswer::Map(map) => self.install(map),
                other => Err(unexpected(self.bootstrap.node(), &other)),
            }
        });
        timeout_at(deadline, fetching).await.unwrap_or_else(|_| {
            let reason = "the deadline passed".to_owned();
            Err(Error::Unanswered { node: self.bootstrap.node(), reason })
        })
    }

    /// As [`MapCache::refresh`], where it only may help: within `most`, and its failure counts
    /// for nothing.
    pub(crate) async fn refresh_if_possible(&self, most: Duration) {
        if let Err(error) = self.refresh(Instant::now() + most).await {
            tracing::debug!(%error, "the map stays as it is");
        }
    }

    /// Makes `map` the current one unless a newer one is known.
    fn install(&self, map: RangeMap) -> Result<(), Error> {
        let node = || self.bootstrap.node();
        map.check().map_err(|fault| Error::Protocol { node: node(), what: fault.to_string() })?;
        let mut current = self.current.write();
        if !current.is_none() {
            if current.map.cluster != map.cluster {
                let (known, found) = (current.map.cluster.clone(), map.cluster);
                return Err(Error::WrongCluster { node: node(), known, found });
            }
            if current.map.epoch >= map.epoch {
                return Ok(());
            }
        }
        let peers = map.shards.iter().map(|shard| {
            let address = shard.address();
            let known = current.peers.iter().find(|peer| peer.is(&shard.name, &address));
            known.cloned().unwrap_or_else(|| {
                let (name, options) = (shard.name.clone(), Arc::clone(&self.options));
                Arc::new(Peer::new(address, Role::Shard, name, options, self.connections))
            })
        });
        let peers = peers.collect();
        tracing::debug!(epoch = map.epoch, "map taken");
        *current = Arc::new(Topology { map, peers });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use sherd_protocol::ring::RING_SIZE;
    use sherd_protocol::{Policy, ShardInfo};

    use super::*;

    fn map(cluster: &str, epoch: u64, port: u16) -> RangeMap {
        let (name, host) = ("s".to_owned(), "127.0.0.1".to_owned());
        RangeMap {
            cluster: cluster.to_owned(),
            epoch,
            hash_method: HashMethod::Md5,
            shards: vec![ShardInfo { name, host, port, size: 1, policy: Policy::Reject }],
            ranges: vec![OwnedRange { start: 0, end: RING_SIZE, shard: "s".to_owned() }],
        }
    }

    #[test]
    fn an_older_map_and_another_clusters_are_not_taken() {
        let cache = MapCache::new("127.0.0.1:1".to_owned(), Arc::default(), 1);
        let epoch = || cache.known().map.epoch;
        cache.install(map("c", 5, 1)).unwrap();
        cache.install(map("c", 4, 2)).unwrap();
        assert_eq!(epoch(), 5);
        cache.install(map("c", 6, 1)).unwrap();
        assert_eq!(epoch(), 6);
        let error = cache.install(map("d", 7, 1)).unwrap_err();
        assert!(matches!(error, Error::WrongCluster { .. }), "{error}");
        let mut gap = map("c", 8, 1);
        gap.ranges[0].start = 1;
        assert!(matches!(cache.install(gap), Err(Error::Protocol { .. })));
        assert_eq!(epoch(), 6);
    }

    #[test]
    fn connections_are_kept_while_a_shard_stays_where_it_is() {
        let cache = MapCache::new("127.0.0.1:1".to_owned(), Arc::default(), 1);
        let peer = || Arc::clone(cache.known().shard("s").unwrap());
        cache.install(map("c", 1, 1)).unwrap();
        let first = peer();
        cache.install(map("c", 2, 1)).unwrap();
        assert!(Arc::ptr_eq(&first, &peer()));
        cache.install(map("c", 3, 2)).unwrap();
        assert!(!Arc::ptr_eq(&first, &peer()));
    }
}
