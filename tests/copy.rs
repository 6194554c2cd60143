//! Copies between real clusters.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use rustix::process::Signal;
use support::by_hand::ByXxh3;
use support::{Cluster, Process, eventually, is_running, run, sherd, signal};

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
fn what_is_there_already_stays_or_is_replaced_or_is_rejected() {
    let cluster = Cluster::start();
    fill(&cluster, "i", 500);
    cluster.feed(["write", "to", "--force"], "i3|3\ni7|7\nown|1\n").expect(0);
    let copy = |on_conflict: &str| cluster.run(["copy", "i", "to", "--on-conflict", on_conflict]);
    let refused = copy("fail");
    assert!(refused.stderr.contains("is in index \"to\" already; --on-conflict"), "{refused:?}");
    // The others are copied, and it is said how many that are.
    let rejected =
        "498 copied, 0 overwritten, 0 existing, 2 failed; the digest of \"to\" is right\n";
    assert_eq!(refused.expect(1), rejected);
    let again = cluster.run(["--json", "copy", "i", "to", "--on-conflict", "fail"]);
    assert_eq!(again.stderr.matches("already; --on-conflict").count(), 20, "{again:?}");
    assert!(again.stderr.contains("480 more of the keys are in index \"to\" already"), "{again:?}");
    let counts: serde_json::Value = serde_json::from_str(&again.expect(1)).unwrap();
    assert_eq!((&counts["written"], &counts["failed"]), (&0.into(), &500.into()));
    let said = copy("skip").expect(0);
    assert_eq!(said, "0 copied, 0 overwritten, 500 existing; the digest of \"to\" is right\n");
    let read = |key: &str| cluster.run(["read", "to", key]).expect(0);
    assert!(read("i3").contains("\"record\": 3}"), "{}", read("i3"));
    let said = copy("overwrite").expect(0);
    assert!(said.starts_with("0 copied, 500 overwritten, 0 existing; the digest"), "{said}");
    assert!(read("i3").contains("\"n\": 3"));
    assert!(read("own").contains("\"record\": 1}"));
    assert_eq!(cluster.run(["cat", "to"]).expect(0).lines().count(), 501);
}

/// Documents that are there are replaced by batches, and looked for together: page by page where both have one
/// order, and one by one where a few are among many or the order is another one.
#[test]
fn documents_are_replaced_among_others_and_in_another_order() {
    let cluster = Cluster::start();
    fill(&cluster, "i", 3000);
    let few: String = (0..3000).step_by(100).map(|i| format!("i{i}|\"other\"\n")).collect();
    cluster.feed(["write", "few", "--force"], few).expect(0);
    let overwrite =
        |from: &str, to: &str| cluster.run(["copy", from, to, "--on-conflict", "overwrite"]);
    let said = overwrite("few", "i").expect(0);
    assert_eq!(said, "0 copied, 30 overwritten, 0 existing; the digest of \"i\" is right\n");
    assert!(cluster.run(["read", "i", "i100"]).expect(0).contains("other"));

    let dir = tempfile::tempdir().unwrap();
    let other = ByXxh3::start(dir.path(), &["s0", "s1", "s2"]);
    let to = format!("{}/", other.address);
    cluster.run(["copy", "few", &format!("{to}i")]).expect(0);
    let said = overwrite("i", &to).expect(0);
    assert!(said.starts_with("2970 copied, 30 overwritten, 0 existing; the digest"), "{said}");
    // All of it was there.
    let said = overwrite("i", &to).expect(0);
    assert!(said.starts_with("0 copied, 3000 overwritten, 0 existing; the digest"), "{said}");
    assert_eq!(digest(&other.address, "i"), digest(&cluster.address.to_string(), "i"));
}

/// It ended without a word of what it had done.
#[test]
fn a_copy_that_ends_early_says_what_it_has_copied() {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "1"]);
    fill(&cluster, "i", 500);
    cluster.run(["index", "create", "full", "--max-documents", "100"]).expect(0);
    let ended = cluster.run(["copy", "i", "full"]);
    assert!(ended.stderr.contains("full"), "{ended:?}");
    assert!(ended.stdout.starts_with("100 copied, 0 overwritten, 0 existing\n"), "{ended:?}");
    assert!(ended.stderr.contains("the same command goes on"), "{ended:?}");
    ended.expect(1);
    assert_eq!(cluster.run(["keys", "full"]).expect(0).lines().count(), 100);
}

/// It ended without a word.
#[test]
fn a_copy_that_is_interrupted_says_what_it_has_copied() {
    let cluster = Cluster::start();
    let documents = 60_000;
    fill(&cluster, "i", documents);
    let shard = cluster.members().into_iter().find(|member| member.name == "shard1").unwrap().pid;
    for attempt in 0..20 {
        let to = format!("to{attempt}");
        let mut copy = Process::start(&mut cluster.command(["copy", "i", &to]));
        eventually(|| {
            let keys = cluster.run(["keys", &to]);
            !keys.stdout.is_empty() || !is_running(copy.pid())
        });
        // It does not come to its end before the signal.
        signal(shard, Signal::STOP);
        copy.terminate();
        let is_told = eventually(|| copy.stderr().contains("stopping") || !is_running(copy.pid()));
        signal(shard, Signal::CONT);
        assert!(is_told);
        if copy.wait().code() == Some(0) {
            continue;
        }
        assert_eq!(copy.wait().code(), Some(143), "{}", copy.stderr());
        assert!(copy.stderr().contains("the same command goes on"), "{}", copy.stderr());
        let copied = cluster.run(["keys", &to]).expect(0).lines().count();
        copy.wait_for_line(&format!("{copied} copied, 0 overwritten, 0 existing"));
        let rest = documents - copied;
        let said = cluster.run(["copy", "i", &to]).expect(0);
        assert!(
            said.starts_with(&format!("{rest} copied, 0 overwritten, {copied} existing")),
            "{said}"
        );
        return;
    }
    panic!("it was over each time before it could be interrupted");
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
