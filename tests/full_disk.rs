//! Real processes on a disk that is full, and a shard that cannot finish cleanly.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;
#[path = "../engine/tests/common/tmpfs.rs"]
mod tmpfs;

use std::fs;
use std::path::Path;
use std::process::{Child, Command};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use support::*;
use tmpfs::Tmpfs;

/// Two segments, the reserve, sled, and one more segment.
const BYTES: u64 = 160 << 20;

/// More than a full disk has room for in the segments that are there.
const ROWS: usize = 1100;

fn stat(cluster: &Cluster) -> serde_json::Value {
    let all: serde_json::Value =
        serde_json::from_str(&cluster.run(["--json", "stat"]).expect(0)).unwrap();
    all["shard0"].clone()
}

#[test]
fn a_shard_on_a_full_disk_reads_removes_restarts_and_writes_again() {
    let Some(disk) = Tmpfs::mount(BYTES) else { return };
    let data = disk.path().join("cluster");
    let mut cluster = Cluster::start_on(&data, ["--port", "0", "--shards", "1"]);
    cluster.run(["index", "create", "test"]).expect(0);
    cluster.run(["write", "test", "small", "1"]).expect(0);
    let log = data.join("shard0/log");
    let prepared = || log.join("spare").exists() && data.join("shard0/reserve").exists();
    assert!(eventually(prepared), "the next segment and the reserve");

    disk.fill();
    let document = "x".repeat(7 << 20);
    let mut written = 0;
    let refused = loop {
        let row = format!("large{written}|{document}\n");
        let ran = cluster.feed(["write", "test"], row);
        if ran.status != 0 {
            break ran;
        }
        written += 1;
        assert!(written < 20, "the disk is full");
    };
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("disk is full"), "{}", refused.stderr);
    assert!(stat(&cluster)["disk_full"].is_string());
    assert_eq!(stat(&cluster)["poisoned"], serde_json::Value::Null);
    let table = cluster.run(["stat"]).expect(0);
    assert!(table.contains("disk full, no writes: "), "{table}");
    for i in 0..written {
        cluster.run(["has", "test", &format!("large{i}")]).expect(0);
    }
    cluster.run(["remove", "test", "large0"]).expect(0);

    // Killed and started again by `up`, all of it on the full disk.
    let shard = cluster.members().into_iter().find(|member| member.name == "shard0").unwrap();
    signal(shard.pid, Signal::KILL);
    cluster.up.wait_for_line("restarted shard0");
    cluster.up.wait_for_line("ready ");
    assert!(cluster.run(["read", "test", "small"]).expect(0).contains("\"record\": 1"));
    cluster.run(["has", "test", "large0"]).expect(3);
    cluster.run(["has", "test", "large1"]).expect(0);
    disk.fill();
    cluster.run(["remove", "test", "large1"]).expect(0);

    disk.free();
    cluster.run(["write", "test", "after", "2"]).expect(0);
    assert_eq!(stat(&cluster)["disk_full"], serde_json::Value::Null);
    for i in 2..written {
        cluster.run(["has", "test", &format!("large{i}")]).expect(0);
    }
    cluster.stop();
}

#[test]
fn an_import_stops_at_a_full_disk_and_goes_on() {
    let Some(disk) = Tmpfs::mount(2 * BYTES) else { return };
    let data = disk.path().join("cluster");
    let cluster = Cluster::start_on(&data, ["--port", "0", "--shards", "1"]);
    cluster.run(["index", "create", "test"]).expect(0);
    let dir = tempfile::tempdir().unwrap();
    let text = "x".repeat(100_000);
    let rows: String = (0..ROWS).map(|n| format!("{n}|{text}\n")).collect();
    fs::write(dir.path().join("test.rows"), rows).unwrap();
    let import = |resume: Option<&str>| {
        let mut command = cluster.command(["import", "test", "test.rows"]);
        run(command.args(resume).current_dir(dir.path()), "")
    };

    disk.fill();
    let stopped = import(None);
    assert_eq!(stopped.status, 1, "{}", stopped.stderr);
    assert!(stopped.stderr.contains("disk is full"), "{}", stopped.stderr);
    assert!(stopped.stdout.contains(" 0 failed"), "no row is at fault: {}", stopped.stdout);
    assert!(dir.path().join("test.import").exists());

    disk.free();
    let all = format!("{ROWS} written, 0 existing, 0 failed\n");
    assert_eq!(import(Some("--resume")).expect(0), all);
    assert_eq!(stat(&cluster)["documents"], ROWS);
    cluster.stop();
}

#[test]
fn a_shard_that_cannot_finish_cleanly_exits_with_1_and_so_does_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_on(dir.path(), ["--port", "0", "--shards", "1"]);
    cluster.run(["index", "create", "test"]).expect(0);
    cluster.run(["write", "test", "key", "1"]).expect(0);
    // Where the manifest is to be written there is something else: no checkpoint can be made.
    let in_the_way = dir.path().join("shard0/MANIFEST.new");
    fs::create_dir(&in_the_way).unwrap();
    cluster.up.terminate();
    let status = cluster.up.wait();
    assert_eq!(status.code(), Some(1), "{}", cluster.up.stderr());
    let stderr = cluster.up.stderr();
    assert!(stderr.contains("shard0 ended with exit status: 1"), "{stderr}");
    assert!(stderr.contains("MANIFEST"), "{stderr}");
    drop(cluster);
    fs::remove_dir(&in_the_way).unwrap();
    let cluster = Cluster::start_on(dir.path(), ["--port", "0"]);
    cluster.run(["has", "test", "key"]).expect(0);
    cluster.stop();
}

/// The system lets no file of the shard grow beyond some bytes, so that writes to its log fail, and
/// not for want of space.
#[test]
fn a_shard_whose_log_fails_says_so_reads_on_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("cluster");
    // Or the signal that comes with the error would end it.
    let mut ignoring = Command::new("sh");
    ignoring.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(sherd().get_program());
    for name in ["SHERD_BOOTSTRAP", "SHERD_TOKEN", "SHERD_LOG"] {
        ignoring.env_remove(name);
    }
    let mut cluster = Cluster::start_as(ignoring, &data, ["--port", "0", "--shards", "1"]);
    cluster.run(["index", "create", "test"]).expect(0);
    cluster.run(["write", "test", "before", "1"]).expect(0);
    let shard = cluster.members().into_iter().find(|member| member.name == "shard0").unwrap();
    let pid = Pid::from_raw(shard.pid.try_into().unwrap()).unwrap();
    let limit = Rlimit { current: Some(64), maximum: None };
    prlimit(Some(pid), Resource::Fsize, limit).unwrap();

    // Whether the first happened is not known; what comes after it is refused.
    let unknown = cluster.run(["write", "test", "during", "2"]);
    assert!(unknown.stderr.contains("unknown whether"), "{}", unknown.stderr);
    unknown.expect(1);
    let refused = cluster.run(["write", "test", "after", "3"]);
    assert!(refused.stderr.contains("stopped writing after a failure"), "{}", refused.stderr);
    refused.expect(1);
    cluster.run(["read", "test", "before"]).expect(0);
    cluster.run(["has", "test", "after"]).expect(3);
    assert!(stat(&cluster)["poisoned"].as_str().unwrap().contains(".log"));
    let table = cluster.run(["stat"]).expect(0);
    assert!(table.contains("poisoned, reads only: "), "{table}");
    cluster.up.terminate();
    assert_eq!(cluster.up.wait().code(), Some(1), "{}", cluster.up.stderr());

    let cluster = Cluster::start_on(&data, []);
    cluster.run(["read", "test", "before"]).expect(0);
    cluster.run(["has", "test", "after"]).expect(3);
    cluster.run(["write", "test", "after", "3"]).expect(0);
    assert_eq!(stat(&cluster)["poisoned"], serde_json::Value::Null);
}

/// It was reported as a panic of the checkpoint.
#[test]
fn a_shard_whose_index_cannot_be_synced_when_it_stops_says_so_and_loses_nothing() {
    let traced = Command::new("strace").args(["-o", "/dev/null", "true"]).output();
    if !traced.is_ok_and(|traced| traced.status.success()) {
        println!("skipped: there is no strace, which makes syncs fail");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_on(dir.path(), ["--port", "0", "--shards", "1"]);
    cluster.run(["index", "create", "test"]).expect(0);
    cluster.stop();
    for (key, exit) in [(None, 0), (Some("key"), 1)] {
        let mut cluster = Cluster::start_on(dir.path(), ["--port", "0"]);
        let mut strace = fail_syncs(&cluster, &dir.path().join("shard0/index/db"));
        if let Some(key) = key {
            cluster.run(["write", "test", key, "1"]).expect(0);
        }
        cluster.up.terminate();
        let status = cluster.up.wait();
        let stderr = cluster.up.stderr();
        assert_eq!(status.code(), Some(exit), "{stderr}");
        assert!(!stderr.contains("panicked at"), "{stderr}");
        let what =
            ["was not closed cleanly", "restart the shard to rebuild it"][usize::from(exit == 1)];
        assert!(stderr.contains(what), "{stderr}");
        strace.wait().unwrap();
    }
    let cluster = Cluster::start_on(dir.path(), ["--port", "0"]);
    cluster.run(["has", "test", "key"]).expect(0);
    cluster.stop();
}

/// From now on the shard cannot sync a file.
fn fail_syncs(cluster: &Cluster, file: &Path) -> Child {
    let shard = cluster.members().into_iter().find(|member| member.name == "shard0").unwrap();
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=fsync,fdatasync"])
        .args(["-e", "inject=fsync,fdatasync:error=EIO", "-P"])
        .arg(file)
        .args(["-p", &shard.pid.to_string()])
        .spawn()
        .unwrap();
    let tracer = format!("TracerPid:\t{}\n", strace.id());
    let is_traced = |thread: &Path| {
        // A thread that has ended meanwhile is none.
        fs::read_to_string(thread.join("status")).is_ok_and(|status| status.contains(&tracer))
    };
    let all_are_traced = || {
        let threads = fs::read_dir(format!("/proc/{}/task", shard.pid)).unwrap();
        threads.flatten().all(|thread| is_traced(&thread.path()))
    };
    assert!(eventually(all_are_traced), "the shard is traced");
    strace
}
