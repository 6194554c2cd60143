//! Copies between real clusters.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use support::by_hand::ByXxh3;
use support::{Cluster, run, sherd};

fn fill(cluster: &Cluster, index: &str, documents: usize) {
    let rows = |from: usize, to: usize| {
        (from..to).map(|i| format!("{index}{i}|{{\"n\": {i}, \"more\": [null, 0.5]}}\n"))
    };
    let half = documents / 2;
    cluster.feed(["write", index, "--force"], rows(0, half).collect::<String>()).expect(0);
    let mortal = rows(half, documents).collect::<String>();
    cluster.feed(["write", index, "--ttl", "7d"], mortal).expect(0);
}

fn digest(address: &str, index: &str) -> String {
    run(sherd().args(["-b", address, "digest", index]), "").expect(0)
}

#[test]
fn an_index_comes_to_a_cluster_of_another_size_and_hash_as_it_was() {
    let cluster = Cluster::start();
    fill(&cluster, "i", 2000);
    cluster.run(["index", "set", "i", "--ttl", "30d"]).expect(0);
    let dir = tempfile::tempdir().unwrap();
    let other = ByXxh3::start(dir.path(), &["s0", "s1", "s2"]);
    let to = format!("{}/", other.address);
    let said = cluster.run(["copy", "i", &to]).expect(0);
    assert_eq!(said, "2000 copied, 0 overwritten, 0 existing; the digest of \"i\" is right\n");
    let here = cluster.address.to_string();
    assert_eq!(digest(&other.address, "i"), digest(&here, "i"));
    let settings =
        |address: &str| run(sherd().args(["-b", address, "index", "list"]), "").expect(0);
    assert_eq!(settings(&other.address), settings(&here), "created with the same settings");

    // And back, under another name, from a cluster that is named to one that is not.
    let from = format!("{}/i", other.address);
    cluster.run(["copy", &from, "back"]).expect(0);
    let cat = |index: &str| cluster.run(["cat", index]).expect(0);
    assert_eq!(cat("back"), cat("i"));
}

#[test]
fn what_is_there_already_stays_or_is_replaced_or_ends_the_copy() {
    let cluster = Cluster::start();
    fill(&cluster, "i", 500);
    cluster.feed(["write", "to", "--force"], "i3|3\ni7|7\nown|1\n").expect(0);
    let copy = |on_conflict: &str| cluster.run(["copy", "i", "to", "--on-conflict", on_conflict]);
    let refused = copy("fail");
    assert!(refused.stderr.contains("is in index \"to\" already; --on-conflict"), "{refused:?}");
    refused.expect(3);
    // Gone on with, it has all that was missing.
    let said = copy("skip").expect(0);
    assert!(said.contains("0 overwritten") && said.contains("the digest"), "{said}");
    let read = |key: &str| cluster.run(["read", "to", key]).expect(0);
    assert!(read("i3").contains("\"record\": 3}"), "{}", read("i3"));
    let said = copy("overwrite").expect(0);
    assert!(said.starts_with("0 copied, 500 overwritten, 0 existing; the digest"), "{said}");
    assert!(read("i3").contains("\"n\": 3"));
    assert!(read("own").contains("\"record\": 1}"));
    assert_eq!(cluster.run(["cat", "to"]).expect(0).lines().count(), 501);
}

#[test]
fn what_cannot_be_copied_is_refused_before_anything_is_done() {
    let cluster = Cluster::start();
    fill(&cluster, "i", 10);
    let here = cluster.address.to_string();
    for (from, to, status, what) in [
        ("i", "i", 2, "the same index"),
        ("i", &format!("{here}/") as &str, 2, "the same index"),
        ("nothing", "to", 3, "\"nothing\""),
        ("i", "nowhere/i", 2, "HOST:PORT"),
        ("i", "127.0.0.1:1/i", 1, "127.0.0.1:1"),
    ] {
        let ran = cluster.run(["copy", from, to]);
        assert!(ran.stderr.contains(what), "{from} {to}: {ran:?}");
        ran.expect(status);
    }
    assert_eq!(cluster.run(["--json", "index", "list"]).expect(0).matches("\"i\"").count(), 1);
    cluster.run(["digest", "to"]).expect(3);
}
