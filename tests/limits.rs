//! Limits, eviction and time to live, as people meet them: real processes, the command line.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use serde_json::{Value, json};
use support::{Cluster, Process, eventually};

/// Two shards of 64 KiB, so that a few rows fill them.
const SHARD_BYTES: u64 = 64 * 1024;

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// What `stat --json` says, summed over the shards, for an index or for all.
fn total(cluster: &Cluster, index: Option<&str>, field: &str) -> u64 {
    let stat = json_of(&cluster.run(["stat", "--json"]).expect(0));
    let of_shard = |shard: &Value| match index {
        None => shard[field].as_u64(),
        Some(name) => {
            let indexes = shard["indexes"].as_array().unwrap();
            let found = indexes.iter().find(|index| index["name"] == name);
            found.and_then(|index| index[field].as_u64())
        }
    };
    stat.as_object().unwrap().values().filter_map(of_shard).sum()
}

/// Rows of about 120 bytes.
fn rows(numbers: std::ops::Range<u32>) -> String {
    numbers.map(|number| format!("key{number}|{}\n", "x".repeat(110))).collect()
}

#[test]
fn a_cache_evicts_what_is_not_used_and_says_so() {
    let cluster = Cluster::start_with(["--port", "0", "--size", "64KiB", "--policy", "lru"]);
    cluster.run(["index", "create", "cache"]).expect(0);
    cluster.feed(["write", "cache"], "hot|is read all the time\n").expect(0);
    for start in (0..2000).step_by(100) {
        let summary = cluster.feed(["write", "cache"], rows(start..start + 100)).expect(0);
        assert_eq!(summary, "100 written, 0 existing, 0 failed\n");
        cluster.run(["read", "cache", "hot"]).expect(0);
        assert!(total(&cluster, None, "used") <= 2 * SHARD_BYTES);
    }
    let documents = total(&cluster, Some("cache"), "documents");
    assert_eq!(total(&cluster, Some("cache"), "evicted"), 2001 - documents);
    assert!(total(&cluster, Some("cache"), "hits") >= 20);
    // What is told is what is there.
    let keys = cluster.run(["keys", "cache"]).expect(0);
    assert_eq!(keys.lines().count() as u64, documents);
    assert!(keys.lines().any(|key| key == "hot") && !keys.lines().any(|key| key == "key0"));

    // Evictions are counted for ever, also by processes that are killed.
    let evicted = total(&cluster, None, "evicted");
    for member in cluster.members().iter().filter(|member| member.role == "shard") {
        support::signal(member.pid, rustix::process::Signal::KILL);
    }
    assert!(eventually(|| {
        let ran = cluster.run(["stat", "--json"]);
        ran.status == 0 && total(&cluster, None, "documents") == documents
    }));
    assert_eq!(total(&cluster, None, "evicted"), evicted);
    assert_eq!(cluster.run(["keys", "cache"]).expect(0), keys);
}

#[test]
fn a_full_shard_refuses_until_its_size_or_policy_is_changed() {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "1", "--size", "64KiB"]);
    cluster.run(["index", "create", "i"]).expect(0);
    let refused = cluster.feed(["write", "i"], rows(0..1000));
    assert!(refused.stderr.contains("the shard is full"), "{}", refused.stderr);
    refused.expect(1);
    let (used, documents) = (total(&cluster, None, "used"), total(&cluster, None, "documents"));
    assert!(used <= SHARD_BYTES, "{used}");
    assert_eq!(total(&cluster, None, "rejected"), 1000 - documents);

    // Not below what is used, as nothing may be evicted.
    let refused = cluster.run(["shard", "set", "shard0", "--size", "1KiB"]);
    let why = format!(
        "shard \"shard0\": the shard uses {used} bytes, more than the new limit of 1024, and nothing"
    );
    assert!(refused.stderr.contains(&why), "{}", refused.stderr);
    refused.expect(1);
    cluster.run(["shard", "set", "shard0", "--size", "1MiB"]).expect(0);
    cluster.feed(["write", "i"], rows(0..1000)).expect(0);
    assert_eq!(total(&cluster, None, "documents"), 1000);

    // With a policy it may be.
    let set = cluster.run(["shard", "set", "shard0", "--policy", "fifo", "--size", "10KiB"]);
    let left = total(&cluster, None, "documents");
    let evicted = format!("{} documents evicted meanwhile, {left} left", 1000 - left);
    assert!(set.stderr.contains(&evicted), "{}", set.stderr);
    set.expect(0);
    assert!(total(&cluster, None, "used") <= 10 * 1024);
    let keys = cluster.run(["keys", "i"]).expect(0);
    assert!(keys.contains("key999") && !keys.lines().any(|key| key == "key0"), "{keys}");
    assert_eq!(total(&cluster, None, "max_size"), 10 * 1024);
    let stat = json_of(&cluster.run(["stat", "--json"]).expect(0));
    assert_eq!(stat["shard0"]["policy"], "fifo");

    // Both are kept, also by bootstrap, and `up` says so where it is told otherwise.
    let data = cluster.data().to_owned();
    let _kept = cluster.stop();
    let cluster = Cluster::start_on(&data, []);
    assert_eq!(total(&cluster, None, "max_size"), 10 * 1024);
    for (arguments, status, named) in [
        (&["shard", "set", "shard0"][..], 2, "--size"),
        (&["shard", "set", "shard0", "--size", "0"], 2, "--size"),
        (&["shard", "set", "shard0", "--size", "1"], 2, "256 bytes or more"),
        (&["shard", "set", "shard0", "--policy", "LRU"], 2, "lru"),
        (&["shard", "set", "none", "--size", "1MiB"], 3, "`sherd map`"),
        (&["shard", "set", "shard0", "--data", "d"], 2, "--data"),
    ] {
        let ran = support::run(&mut cluster.command(arguments), "");
        assert!(ran.stderr.contains(named), "{arguments:?}: {}", ran.stderr);
        ran.expect(status);
    }
}

#[test]
fn limits_of_an_index_are_shared_out_and_changed_while_it_is_used() {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "4"]);
    let created = cluster.run([
        "index",
        "create",
        "i",
        "--max-documents",
        "100",
        "--policy",
        "lru",
        "--ttl",
        "1h",
        "--json",
    ]);
    let expected = json!({
        "name": "i", "id": 1, "max_bytes": null, "max_documents": 100, "policy": "lru",
        "ttl": 3_600_000,
    });
    assert_eq!(json_of(&created.expect(0)), expected);
    cluster.run(["index", "create", "other"]).expect(0);
    cluster.feed(["write", "other"], rows(0..50)).expect(0);
    cluster.feed(["write", "i"], rows(0..1000)).expect(0);
    assert_eq!(total(&cluster, Some("i"), "max_documents"), 100);
    assert_eq!(total(&cluster, Some("i"), "documents"), 100);
    // What another index has is none of its business.
    assert_eq!(total(&cluster, Some("other"), "documents"), 50);

    let set = cluster.run(["index", "set", "i", "--max-documents", "8"]);
    assert!(set.stderr.contains("92 documents evicted meanwhile, 8 left"), "{}", set.stderr);
    set.expect(0);
    assert_eq!(total(&cluster, Some("i"), "documents"), 8);
    cluster.run(["index", "set", "i", "--max-documents", "none", "--policy", "none"]).expect(0);
    cluster.feed(["write", "i"], rows(0..100)).expect(0);
    assert!(total(&cluster, Some("i"), "documents") >= 100);
    // Without a policy that evicts, a lower limit is refused.
    let refused = cluster.run(["index", "set", "i", "--max-bytes", "1KiB"]);
    for what in ["index \"i\"", "bytes at shard \"shard", "more than its share of the new limit"] {
        assert!(refused.stderr.contains(what), "{what}: {}", refused.stderr);
    }
    refused.expect(1);
    let listed = cluster.run(["index", "list", "--json"]).expect(0);
    assert_eq!(json_of(listed.lines().next().unwrap())["max_bytes"], Value::Null);

    for (arguments, status) in [
        (&["index", "set", "i"][..], 2),
        (&["index", "set", "i", "--ttl", "0s"], 2),
        (&["index", "set", "i", "--max-documents", "-1"], 2),
        (&["index", "set", "i", "--policy", "best"], 2),
        (&["index", "set", "i", "--max-bytes", "0"], 2),
        (&["index", "set", "i", "--max-bytes", "1"], 2),
        (&["index", "create", "j", "--max-bytes", "1152921504606846977"], 2),
        (&["index", "create", "j", "--max-documents", "0"], 2),
        (&["index", "create", "j", "--max-documents", "many"], 2),
        (&["index", "set", "none", "--ttl", "1s"], 3),
        (&["index", "create", "j", "--max-documents", "3"], 1),
    ] {
        let ran = support::run(&mut cluster.command(arguments), "");
        assert!(!ran.stderr.is_empty(), "{arguments:?}");
        ran.expect(status);
    }
}

#[test]
fn documents_expire_and_are_touched() {
    let cluster = Cluster::start();
    cluster.run(["index", "create", "i", "--ttl", "1d"]).expect(0);
    cluster.run(["write", "i", "brief", "1", "--ttl", "1ms"]).expect(0);
    assert!(eventually(|| cluster.run(["has", "i", "brief"]).status == 3));
    cluster.run(["write", "i", "brief", "2"]).expect(0);
    let expires_at = |key| {
        let read = json_of(&cluster.run(["read", "i", key, "--json"]).expect(0));
        (read["version"].as_u64().unwrap(), read["expires_at"].as_u64())
    };
    let (version, by_default) = expires_at("brief");
    let hour = cluster.run(["touch", "i", "brief", "--ttl", "1h"]).expect(0);
    assert_eq!(hour, "expires in 1h\n");
    let (same, by_touch) = expires_at("brief");
    assert!(version == same && by_touch < by_default, "{by_touch:?}, {by_default:?}");
    assert_eq!(cluster.run(["touch", "i", "brief", "--persist"]).expect(0), "never expires\n");
    assert_eq!(expires_at("brief"), (version, None));
    cluster.run(["touch", "i", "none", "--ttl", "1s"]).expect(3);
    cluster.run(["touch", "i", "brief"]).expect(2);
    cluster.run(["touch", "i", "brief", "--ttl", "1s", "--persist"]).expect(2);

    // Rows too; whoever does not ask for them does not keep them.
    let summary = cluster.feed(["write", "i", "--ttl", "1ms"], rows(0..100)).expect(0);
    assert_eq!(summary, "100 written, 0 existing, 0 failed\n");
    assert!(eventually(|| total(&cluster, Some("i"), "expired") >= 100));
    assert_eq!(total(&cluster, Some("i"), "documents"), 1);
    assert_eq!(cluster.run(["keys", "i"]).expect(0), "brief\n");
}

#[test]
fn stat_draws_what_there_is_and_goes_on() {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "1", "--size", "64KiB"]);
    cluster.run(["index", "create", "i", "--max-bytes", "32KiB", "--ttl", "90s"]).expect(0);
    // Of one length: as many fit whichever come first.
    cluster.feed(["write", "i"], rows(1000..2000)).expect(1);
    let stat = cluster.run(["stat"]).expect(0);
    let mut lines = stat.lines();
    assert!(lines.next().unwrap().contains("FILL"), "{stat}");
    let shard = lines.next().unwrap();
    assert!(shard.contains("████░░░░░░ 49%") && shard.contains("reject"), "{stat}");
    let index = lines.last().unwrap();
    assert!(
        index.starts_with("i ") && index.contains("32.0 KiB") && index.contains("90s"),
        "{stat}"
    );

    // It is printed again and again, a line each for programs.
    let mut watch = Process::start(&mut cluster.command(["stat", "--watch=10ms", "--json"]));
    for _ in 0..3 {
        let line = watch.wait_for_line("{\"shard0\"");
        assert_eq!(json_of(&line)["shard0"]["max_size"], SHARD_BYTES);
    }
    watch.kill();
    cluster.run(["stat", "--watch=0s"]).expect(2);
}
