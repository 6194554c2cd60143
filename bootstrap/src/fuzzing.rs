//! What the fuzzers drive, and the tests with the fuzzers' corpora: arbitrary text where an
//! operator would give a config.

use std::collections::HashSet;

use serde_json::json;
use sherd_protocol::ring::RING_SIZE;
use sherd_protocol::{Position, RangeMap};

use crate::config::ClusterConfig;

/// A config. Returns whether it is taken.
///
/// What is taken is a map that covers the ring, with each shard in it once; written out with all
/// ranges marked, it is taken again and means the same.
pub fn config(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let config = match ClusterConfig::parse(text) {
        Ok(config) => config,
        Err(fault) => {
            assert!(!fault.to_string().is_empty());
            return false;
        }
    };
    let ClusterConfig { host, port, hash_method, shards, ranges } = config.clone();
    let map = RangeMap {
        cluster: "fuzzed".to_owned(),
        epoch: 1,
        hash_method,
        shards: shards.clone(),
        ranges: ranges.clone(),
    };
    assert_eq!(map.check(), Ok(()));
    let names: HashSet<_> = shards.iter().map(|shard| &shard.name).collect();
    let addresses: HashSet<_> = shards.iter().map(sherd_protocol::ShardInfo::address).collect();
    let owners: HashSet<_> = ranges.iter().map(|range| &range.shard).collect();
    assert_eq!((names.len(), addresses.len()), (shards.len(), shards.len()));
    assert_eq!((&owners, ranges.len()), (&names, shards.len()), "a range for each shard");
    for position in [0, RING_SIZE / 3, RING_SIZE - 1] {
        assert!(map.owner(Position(position)).is_some());
    }

    let marked = shards.iter().map(|shard| {
        let range = map.ranges_of(&shard.name)[0];
        json!({
            "name": shard.name, "host": shard.host, "port": shard.port, "size": shard.size,
            "start": Position(range.start).fraction(), "end": Position(range.end).fraction(),
        })
    });
    let text = json!({
        "bootstrap": {"host": host, "port": port},
        "hash_method": hash_method.to_string(),
        "shards": marked.collect::<Vec<_>>(),
    });
    assert_eq!(ClusterConfig::parse(&text.to_string()), Ok(config));
    true
}
