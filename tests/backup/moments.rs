//! Moments between two backups, for which the log was kept.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::Value;
use sherd_client::{Client, Condition, Options};

use crate::backups::*;
use crate::support::{Cluster, run, signal};

/// What was acknowledged by a moment is there, what began later is not: as writes tell, one after the other,
/// over a restart of a shard.
#[test]
fn a_moment_between_two_backups_is_restored_to_the_operation() {
    let cluster = Cluster::start();
    cluster.run(["index", "create", "before", "--ttl", "9d"]).expect(0);
    cluster.run(["write", "before", "old", "1"]).expect(0);
    let backups = Backups::new();
    let keeping = |cluster: &Cluster| {
        let options = ["--share", "100", "--keep-log", "1GiB"];
        let taken = run(&mut backups.command(cluster, &options), "").expect(0);
        serde_json::from_str::<Value>(&taken).unwrap()
    };
    let first = keeping(&cluster);
    assert_eq!(first.get("follows"), None);
    cluster.run(["index", "create", "load"]).expect(0);
    let address = cluster.address.to_string();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut written: Vec<Written> = Vec::new();
    let mut write_some = |count: usize| {
        runtime.block_on(async {
            let client = Client::connect(&address, Options::default()).await.unwrap();
            for _ in 0..count {
                let key = format!("key{}", written.len());
                let begun = milliseconds();
                client.write("load", &key, b"\x01", Condition::Absent).await.unwrap();
                written.push(Written { key, begun, done: milliseconds() });
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        });
    };
    write_some(150);
    let member = cluster.members().into_iter().find(|member| member.name == "shard1").unwrap();
    signal(member.pid, Signal::KILL);
    write_some(150);
    cluster.run(["remove", "before", "old"]).expect(0);
    let second = keeping(&cluster);
    assert_eq!(second["follows"], first["backup"]);
    backups.verify().expect(0);

    let other = Cluster::start_with(["--port", "0", "--shards", "3"]);
    let other_address = other.address.to_string();
    for place in [40, 170, 280] {
        // Between two writes that are not of one millisecond.
        let place = (place..299).find(|&it| written[it].done < written[it + 1].begun).unwrap();
        let moment = written[place].done;
        let at = show(moment);
        let said = backups.restore(&other_address, &["--at", &at]).expect(0);
        let which =
            format!("restored the moment {at} UTC before {}: ", second["backup"].as_str().unwrap());
        assert!(said.starts_with(&which), "{said}");
        let keys = other.run(["keys", "load"]).expect(0);
        let keys: BTreeSet<&str> = keys.lines().collect();
        for it in &written {
            let is_there = keys.contains(it.key.as_str());
            let what = format!("{} {}..{} at {moment} ({at})", it.key, it.begun, it.done);
            assert!(is_there || it.done > moment, "missing: {what}");
            assert!(!is_there || it.begun <= moment, "too late: {what}");
        }
        assert_eq!(keys.len(), place + 1);
        // It was removed after the last of these.
        assert_eq!(other.run(["keys", "before"]).expect(0), "old\n");
        for index in ["before", "load"] {
            other.run(["index", "drop", index]).expect(0);
        }
    }
    // By LSN, to the very cuts of the second.
    let says = backups.says(&second);
    let lsns = says["shards"].as_array().unwrap().iter().flat_map(|shard| {
        let name = shard["name"].as_str().unwrap();
        ["--at-lsn".to_owned(), format!("{name}={}", shard["lsn"])]
    });
    let lsns: Vec<String> = lsns.collect();
    let lsns: Vec<&str> = lsns.iter().map(String::as_str).collect();
    backups.restore(&other_address, &lsns).expect(0);
    assert_eq!(digest(&other_address)["digest"], second["digest"]);

    // Before the first and after the second nothing is known.
    for at in [show(written[0].begun - 3_600_000), show(milliseconds())] {
        let refused = backups.restore(&other_address, &["--at", &at, "--overwrite"]);
        assert!(refused.stderr.contains("--keep-log"), "{refused:?}");
        refused.expect(3);
    }
}

/// Where the log was not kept all the time, batches have no times: a moment would come to another state
/// than that which there was, and say nothing.
#[test]
fn a_moment_is_refused_where_the_log_was_not_kept_all_the_time() {
    let cluster = Cluster::start();
    let other = Cluster::start_with(["--port", "0", "--shards", "1"]);
    let other_address = other.address.to_string();
    let backups = Backups::new();
    let pause = || std::thread::sleep(std::time::Duration::from_millis(3));
    let write = |key: &str| -> u64 {
        cluster.run(["write", "load", key, "1", "--force"]).expect(0);
        pause();
        let written = milliseconds();
        pause();
        written
    };
    let keeping = || {
        let options = ["--share", "100", "--keep-log", "1GiB"];
        let ran = run(&mut backups.command(&cluster, &options), "");
        serde_json::from_str::<Value>(&ran.expect(0)).unwrap()
    };
    let restore = |moment: u64| backups.restore(&other_address, &["--at", &show(moment)]);
    let refused = |moment: u64| {
        let ran = restore(moment);
        assert!(ran.stderr.contains("--keep-log"), "{ran:?}");
        ran.expect(3);
    };
    write("zero");
    let first = backups.take(&cluster);
    let before_it_is_kept = write("one");
    write("two");
    let second = keeping();
    // Nothing of the log is gone: yet when what was written is not in it.
    assert_eq!(second["follows"], first["backup"]);
    refused(before_it_is_kept);

    let kept = write("three");
    write("four");
    assert_eq!(keeping()["follows"], second["backup"]);
    refused(before_it_is_kept);
    restore(kept).expect(0);
    let keys = other.run(["keys", "load"]).expect(0);
    let keys: BTreeSet<&str> = keys.lines().collect();
    assert_eq!(keys, BTreeSet::from(["zero", "one", "two", "three"]));

    // It ends, and begins anew: there are times only of the end.
    run(&mut backups.command(&cluster, &["--share", "100", "--keep-log", "0"]), "").expect(0);
    let in_the_gap = write("five");
    keeping();
    refused(in_the_gap);
    let kept = write("six");
    keeping();
    other.run(["index", "drop", "load"]).expect(0);
    restore(kept).expect(0);
    assert_eq!(other.run(["keys", "load"]).expect(0).lines().count(), 7);
}

/// A time as people write it.
fn show(milliseconds: u64) -> String {
    let out = std::process::Command::new("date")
        .args(["-u", "+%Y-%m-%d %H:%M:%S", "-d", &format!("@{}", milliseconds / 1000)])
        .output()
        .unwrap();
    let time = String::from_utf8(out.stdout).unwrap();
    format!("{}.{:03}", time.trim(), milliseconds % 1000)
}
