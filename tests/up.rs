//! `sherd up` keeps a cluster running, stops it cleanly, and finds it again.

#![allow(clippy::expect_used, reason = "a helper fails its test by panicking")]

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Cluster, Member, Process, eventually, is_running, run, sherd, signal};

/// How soon a killed shard serves again.
const RESTART: Duration = Duration::from_secs(2);

fn member<'a>(members: &'a [Member], name: &str) -> &'a Member {
    members.iter().find(|member| member.name == name).expect("a member of that name")
}

#[test]
fn who_is_who_is_said_before_ready() {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "3"]);
    let members = cluster.members();
    let names: Vec<_> = members.iter().map(|m| (m.name.as_str(), m.role.as_str())).collect();
    let shards = [("shard0", "shard"), ("shard1", "shard"), ("shard2", "shard")];
    assert_eq!(names, [&[("bootstrap", "bootstrap")], &shards[..]].concat());
    assert_eq!(member(&members, "bootstrap").address, cluster.address.to_string());
    let mut pids: Vec<_> = members.iter().map(|member| member.pid).collect();
    pids.sort_unstable();
    pids.dedup();
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|pid| is_running(*pid) && *pid != cluster.up.pid()));
}

#[test]
fn each_killed_process_is_back_within_two_seconds_with_its_data() {
    let mut cluster = Cluster::start();
    cluster.feed(["write", "i", "--force"], "1|one\n4|four\n").expect(0);
    let before = cluster.run(["cat", "i"]).expect(0);
    for killed in cluster.members() {
        let start = Instant::now();
        signal(killed.pid, Signal::KILL);
        let line = cluster.up.wait_for_line("restarted");
        assert!(line.starts_with(&format!("restarted {} pid ", killed.name)), "{line}");
        assert!(!line.contains(&killed.pid.to_string()), "{line}");
        assert!(line.ends_with(&killed.address), "{line}");
        assert_eq!(cluster.up.wait_ready(), cluster.address);
        let took = start.elapsed();
        assert!(took < RESTART, "{} was back after {took:?}", killed.name);
        assert_eq!(cluster.run(["cat", "i"]).expect(0), before);
    }
}

#[test]
fn all_processes_killed_at_once_come_back() {
    let mut cluster = Cluster::start();
    cluster.feed(["write", "i", "--force"], "1|one\n4|four\n").expect(0);
    let before = cluster.run(["cat", "i"]).expect(0);
    for killed in cluster.members() {
        signal(killed.pid, Signal::KILL);
    }
    for _ in 0..3 {
        cluster.up.wait_for_line("restarted");
    }
    cluster.up.wait_ready();
    assert_eq!(cluster.run(["cat", "i"]).expect(0), before);
}

#[test]
fn sigterm_and_ctrl_c_stop_every_process_cleanly() {
    for stop in [Signal::TERM, Signal::INT] {
        let mut cluster = Cluster::start();
        let members = cluster.members();
        signal(cluster.up.pid(), stop);
        assert_eq!(cluster.up.wait().code(), Some(0), "{}", cluster.up.stderr());
        assert!(members.iter().all(|member| !is_running(member.pid)));
        let stderr = cluster.up.stderr();
        for member in &members {
            assert!(stderr.contains(&format!("{} | ", member.name)), "{stderr}");
            assert!(!stderr.contains(&format!("sherd: {}", member.name)), "{stderr}");
        }
        assert_eq!(stderr.matches("stopping on SIGTERM").count(), 3, "{stderr}");
    }
}

#[test]
fn children_of_a_killed_up_end_and_the_next_up_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start_on(dir.path(), ["--port", "0"]);
    cluster.feed(["write", "i", "--force"], "k|kept\n").expect(0);
    let members = cluster.members();
    cluster.up.kill();
    // At once: the children of the first may still be there.
    let next = Cluster::start_on(dir.path(), []);
    assert!(members.iter().all(|member| !is_running(member.pid)));
    assert_eq!(next.address, cluster.address);
    assert_eq!(
        next.run(["cat", "i"]).expect(0),
        "k|{\"hash_\": 0.4169728, \"record\": \"kept\"}\n"
    );
}

#[test]
fn a_second_start_reuses_what_the_first_has_fixed() {
    let dir = tempfile::tempdir().unwrap();
    let first = Cluster::start_on(dir.path(), ["--port", "0", "--shards", "3", "--size", "1MiB"]);
    let addresses = |cluster: &Cluster| -> Vec<_> {
        cluster.members().into_iter().map(|member| (member.name, member.address)).collect()
    };
    let before = addresses(&first);
    first.stop();
    let config = std::fs::read_to_string(dir.path().join("cluster.json")).unwrap();

    for options in [&[][..], &["--port", "0", "--shards", "3", "--size", "1048576"]] {
        let mut up = sherd();
        up.args(["up", "--data"]).arg(dir.path()).args(options);
        let mut up = Process::start(&mut up);
        let address = up.wait_ready();
        assert_eq!(address.to_string(), before[0].1);
        up.stop();
    }
    let second = Cluster::start_on(dir.path(), []);
    assert_eq!(addresses(&second), before);
    assert_eq!(std::fs::read_to_string(dir.path().join("cluster.json")).unwrap(), config);
}

#[test]
fn options_that_contradict_the_stored_cluster_are_refused_with_both_values() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_on(dir.path(), ["--port", "0"]);
    let port = cluster.address.port();
    cluster.stop();
    let port = [port.to_string(), (port ^ 1).to_string()];
    for (option, stored, given) in [
        ("--shards", "2 shards", "5"),
        ("--host", "127.0.0.1", "localhost"),
        ("--port", port[0].as_str(), port[1].as_str()),
        ("--size", "4294967296", "1GiB"),
    ] {
        let refused = run(sherd().args(["up", "--data"]).arg(dir.path()).args([option, given]), "");
        let given = if given == "1GiB" { "1073741824" } else { given };
        assert!(refused.stderr.contains(&format!("{option} {given}")), "{refused:?}");
        assert!(refused.stderr.contains(stored), "{refused:?}");
        assert_eq!(refused.expect(2), "");
    }
}

#[test]
fn a_second_up_on_the_same_data_is_refused() {
    let cluster = Cluster::start();
    let refused = run(sherd().args(["up", "--data"]).arg(cluster.data()), "");
    assert!(refused.stderr.contains(&cluster.up.pid().to_string()), "{refused:?}");
    refused.expect(1);
    cluster.run(["index", "create", "still_serving"]).expect(0);
}

#[test]
fn a_port_in_use_is_named_before_anything_is_started() {
    // Two neighbouring ports, of which the second is taken: bootstrap's would be free.
    let mut taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let found = eventually(|| {
        taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let below = taken.local_addr().unwrap().port() - 1;
        TcpListener::bind(("127.0.0.1", below)).is_ok()
    });
    assert!(found);
    let port = taken.local_addr().unwrap().port();
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let first = (port - 1).to_string();
    let refused = run(sherd().args(["up", "--port", &first, "--data"]).arg(&data), "");
    assert!(refused.stderr.contains(&format!("127.0.0.1:{port} for shard0")), "{refused:?}");
    assert_eq!(refused.expect(1), "");
    assert!(!data.join("cluster.json").exists());
}

#[test]
fn a_crash_loop_is_said_and_slows_down() {
    let dir = tempfile::tempdir().unwrap();
    Cluster::start_on(dir.path(), ["--port", "0"]).stop();
    // A file where the shard's directory was: it cannot start.
    std::fs::remove_dir_all(dir.path().join("shard1")).unwrap();
    std::fs::write(dir.path().join("shard1"), "").unwrap();
    let mut up = Process::start(sherd().args(["up", "--data"]).arg(dir.path()));
    assert!(eventually(|| up.stderr().contains("5 times in a row; next start in 800ms")));
    let stderr = up.stderr();
    assert!(stderr.contains("shard1 | sherd: "), "{stderr}");
    assert!(!stderr.contains("shard0 (process"), "{stderr}");
    up.stop();
}

#[test]
fn a_port_of_a_stored_cluster_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = Cluster::start_on(dir.path(), ["--port", "0"]);
    let address = cluster.address;
    cluster.stop();
    let taken = TcpListener::bind(address).unwrap();
    let mut up = Process::start(sherd().args(["up", "--data"]).arg(dir.path()));
    let waits = format!("{address} for bootstrap is in use: waiting");
    assert!(eventually(|| up.stderr().contains(&waits)), "{}", up.stderr());
    drop(taken);
    assert_eq!(up.wait_ready(), address);
    up.stop();
}

/// Each segment of the log is an open file: at the usual limit of 1024, a shard stopped writing
/// after some 30 GB of history.
#[test]
fn a_shard_opens_as_many_files_as_it_may() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let program = sherd().get_program().to_owned();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", "ulimit -Sn 64; exec \"$0\" shard --port 0 --data \"$1\""]);
    let mut shard = Process::start(shell.arg(program).arg(dir.path()));
    shard.wait_ready();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", shard.pid())).expect("/proc");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let numbers: Vec<_> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers[0], numbers[1], "soft and hard limit: {line}");
    shard.stop();
}
