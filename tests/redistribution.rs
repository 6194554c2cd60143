//! Ranges that move between real processes: what an operator does, and what becomes of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::fmt::Write as _;

use serde_json::Value;
use support::by_hand::Spare;
use support::{Cluster, Process, eventually, run, signal};

use rustix::process::Signal;

/// Two indexes with some thousand documents, some of which expire one day.
fn fill(cluster: &Cluster, documents: usize) {
    for (index, ttl) in [("plain", None), ("mortal", Some("7d"))] {
        let mut rows = String::new();
        for i in 0..documents {
            writeln!(rows, "{index}{i}|{{\"n\": {i}, \"text\": \"{}\"}}", "x".repeat(i % 90))
                .unwrap();
        }
        let mut arguments = vec!["write", index, "--force"];
        arguments.extend(ttl.iter().flat_map(|ttl| ["--ttl", ttl]));
        let ran = run(&mut cluster.command(arguments), rows);
        ran.expect(0);
    }
}

fn digest(cluster: &Cluster) -> String {
    cluster.run(["digest"]).expect(0)
}

/// All rows of an index.
fn rows(cluster: &Cluster, index: &str) -> Vec<String> {
    let mut rows: Vec<_> =
        cluster.run(["cat", index]).expect(0).lines().map(str::to_owned).collect();
    rows.sort();
    rows
}

fn json(cluster: &Cluster, arguments: &[&str]) -> Value {
    let ran = run(&mut cluster.command(["--json"].iter().chain(arguments)), "");
    serde_json::from_str(&ran.expect(0)).unwrap()
}

/// The names of the shards that own something, with how many ranges each.
fn owners(cluster: &Cluster) -> Vec<(String, usize)> {
    let map = json(cluster, &["map"]);
    let mut owners: Vec<(String, usize)> = Vec::new();
    for range in map["ranges"].as_array().unwrap() {
        let name = range["shard"].as_str().unwrap();
        match owners.iter_mut().find(|(known, _)| known == name) {
            Some((_, count)) => *count += 1,
            None => owners.push((name.to_owned(), 1)),
        }
    }
    owners.sort();
    owners
}

fn apply(cluster: &Cluster, actions: &[&str]) -> String {
    run(&mut cluster.command(["cluster", "apply"].iter().chain(actions)), "").expect(0)
}

#[test]
fn shards_join_and_leave_and_nothing_is_lost_or_doubled() {
    let cluster = Cluster::start();
    fill(&cluster, 3000);
    let before = (digest(&cluster), rows(&cluster, "plain"), rows(&cluster, "mortal"));
    let spare = Spare::start();
    let check = |what: &str| {
        let now = (digest(&cluster), rows(&cluster, "plain"), rows(&cluster, "mortal"));
        assert_eq!(now.0, before.0, "after {what}");
        assert!(now == before, "after {what}");
    };

    let mut add = cluster.command(["cluster", "apply", "add", "third", &spare.address]);
    let added = run(&mut add, "");
    assert!(!added.stderr.contains("not available"), "{}", added.stderr);
    added.expect(0);
    check("a shard was added");
    let stat = json(&cluster, &["stat"]);
    let documents = stat["third"]["documents"].as_u64().unwrap();
    assert!((1900..=2100).contains(&documents), "{documents} of 6000 documents, its fair third");
    assert_eq!(owners(&cluster).len(), 3);

    apply(&cluster, &["split", "third"]);
    check("a split");
    apply(&cluster, &["move", "0", "0.1", "third"]);
    check("a move");
    // Whoever asks meanwhile gets the same.
    let mut merge = cluster.command(["cluster", "apply", "merge", "shard0", "shard1"]);
    let merging = std::thread::spawn(move || run(&mut merge, ""));
    while !merging.is_finished() {
        assert_eq!(digest(&cluster), before.0, "during a merge");
    }
    merging.join().unwrap().expect(0);
    check("a merge");
    assert!(!owners(&cluster).iter().any(|(name, _)| name == "shard1"));
    apply(&cluster, &["rebalance"]);
    check("a rebalance");
    assert_eq!(owners(&cluster).len(), 3);
    let map = cluster.run(["--json", "map"]).expect(0);
    assert_eq!(apply(&cluster, &["rebalance"]), "nothing to do\n");
    assert_eq!(cluster.run(["--json", "map"]).expect(0), map, "nor is there a new epoch");

    // Written after a move, a document has a higher version than before.
    let version = |ran: String| ran.trim().rsplit(' ').next().unwrap().parse::<u64>().unwrap();
    let write = || version(cluster.run(["write", "plain", "plain7", "1", "--overwrite"]).expect(0));
    let first = write();
    apply(&cluster, &["merge", "third", "shard0", "merge", "third", "shard1"]);
    let second = write();
    apply(&cluster, &["rebalance"]);
    let third = write();
    assert!(first < second && second < third, "{first}, {second}, {third}");

    apply(&cluster, &["remove", "third"]);
    assert_eq!(owners(&cluster).len(), 2);
    assert_eq!(json(&cluster, &["stat"]).as_object().unwrap().len(), 2);
    let mut expected = before.1.clone();
    expected.retain(|row| !row.starts_with("plain7|"));
    let mut now = rows(&cluster, "plain");
    now.retain(|row| !row.starts_with("plain7|"));
    assert!(now == expected, "after all");
    let history = cluster.run(["map", "--history"]).expect(0);
    for what in ["shard \"third\" added", "from shard1 to shard0", "removed: third"] {
        assert!(history.contains(what), "{what}: {history}");
    }
    // Each of its moves ended as it should.
    let said = spare.process.stderr();
    assert!(!said.contains("is not brought now"), "{said}");
    drop(spare.process);
}

#[test]
fn a_plan_is_carried_out_as_it_was_shown_or_not_at_all() {
    let cluster = Cluster::start();
    fill(&cluster, 300);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plan.json");
    let file = file.to_str().unwrap();
    let arguments =
        ["cluster", "plan", "move", "0", "0.25", "shard1", "--rate", "3MiB", "-o", file];
    let planned = cluster.run(arguments);
    let carry_out = format!("`sherd cluster apply {file}`");
    assert!(planned.stderr.contains(&carry_out), "{planned:?}");
    let shown = planned.expect(0);
    assert!(shown.contains("[0, 0.25)  shard0  shard1"), "{shown}");
    let map = cluster.run(["map"]).expect(0);
    assert!(map.contains("[0, 0.5)"), "a plan changes nothing: {map}");
    // The catalogue does not matter, the map does.
    cluster.run(["index", "create", "another"]).expect(0);
    let applied = cluster.run(["cluster", "apply", file]);
    assert!(applied.stderr.contains("at most 3.0 MiB move a second"), "{applied:?}");
    applied.expect(0);
    assert!(cluster.run(["map"]).expect(0).contains("[0, 0.25)"));
    let again = cluster.run(["cluster", "apply", file]);
    for what in ["it was made for epoch ", ", and the map is at epoch ", "; plan again"] {
        assert!(again.stderr.contains(what), "{what}: {again:?}");
    }
    again.expect(1);

    let refused = [
        (&["remove", "nobody"][..], 2, "sherd: there is no shard \"nobody\""),
        (&["move", "0.5", "0.2", "shard0"], 2, "[0.5, 0.2)"),
        (&["move", "0", "2", "shard0"], 2, "fraction"),
        (&["add", "shard0", "127.0.0.1:1"], 2, "shard0"),
        (&["add", "a\tb", "127.0.0.1:1"], 2, "a shard's name has 1 to 64"),
        (&["remove", "shard0", "remove", "shard1"], 2, "shard1"),
        (&["split", "shard0", "--at", "0.9"], 2, "sherd: 0.9 is not inside"),
        (&["rebalance", "--at", "0.9"], 2, "--at"),
        (&["merge", "shard0", "shard1", "--size", "1GB"], 2, "--size"),
        (&[file, "--policy", "lru"], 2, "--policy"),
        (&["rebalance", "--rate", "0"], 2, "at least 1 byte"),
        (&["grow"], 1, "one word is the file of a plan"),
        (&["grow", "shard0"], 2, "is no action"),
    ];
    for (actions, status, what) in refused {
        let ran = run(&mut cluster.command(["cluster", "apply"].iter().chain(actions)), "");
        assert!(ran.stderr.contains(what), "{actions:?}: {ran:?}");
        ran.expect(status);
    }
}

/// The address of a shard, by another name for this machine than the map has.
fn address(cluster: &Cluster, shard: &str) -> String {
    let map = json(cluster, &["map"]);
    let ranges = map["ranges"].as_array().unwrap();
    let owned = ranges.iter().find(|owned| owned["shard"] == shard).unwrap();
    owned["address"].as_str().unwrap().replace("127.0.0.1", "localhost")
}

#[test]
fn only_what_is_a_new_shard_is_added() {
    let cluster = Cluster::start();
    let other = Cluster::start();
    let spare = Spare::start();
    apply(&cluster, &["add", "third", &spare.address]);
    apply(&cluster, &["remove", "third"]);
    let bootstrap = cluster.address.to_string();
    let refused: [(&str, &str); 5] = [
        ("127.0.0.1:1", "`sherd shard --host 127.0.0.1 --port 1 --data DIR`"),
        (&bootstrap, "listens bootstrap"),
        (&address(&cluster, "shard0"), "listens shard \"shard0\", which is in the map already"),
        (&address(&other, "shard1"), "listens shard \"shard1\", of another cluster"),
        (&spare.address, "listens shard \"third\", which was removed from this cluster"),
    ];
    let map = cluster.run(["map"]).expect(0);
    for (address, what) in refused {
        // Where nobody listens yet, somebody may when the plan is carried out.
        let planned = if address == "127.0.0.1:1" { 0 } else { 1 };
        for (command, status) in [("plan", planned), ("apply", 1)] {
            let ran = cluster.run(["cluster", command, "add", "new", address]);
            let said = &ran.stderr;
            assert!(said.contains(what) && said.contains(address), "{address}: {ran:?}");
            ran.expect(status);
        }
        assert_eq!(cluster.run(["map"]).expect(0), map);
    }
    apply(&cluster, &["add", "third", &spare.address]);
    assert_eq!(owners(&cluster).len(), 3);
}

#[test]
fn a_shard_that_owns_nothing_holds_nobody_up_when_it_is_away() {
    let cluster = Cluster::start();
    fill(&cluster, 300);
    let mut spare = Spare::start();
    let shards = || {
        let plan = json(&cluster, &["cluster", "plan", "rebalance"]);
        plan["shards_after"].as_array().unwrap().len()
    };
    // Cancelled, an addition is as if it had not been.
    apply(&cluster, &["add", "third", &spare.address, "--rate", "1KB", "--detach"]);
    assert_eq!(shards(), 3);
    spare.process.stop();
    cluster.run(["cluster", "cancel"]).expect(0);
    assert_eq!(shards(), 2);
    cluster.run(["index", "drop", "mortal"]).expect(0);

    let mut spare = Spare::start();
    apply(&cluster, &["add", "third", &spare.address]);
    apply(&cluster, &["merge", "shard0", "third"]);
    spare.process.stop();
    assert_eq!(shards(), 3);
    cluster.run(["index", "drop", "plain"]).expect(0);
    cluster.run(["index", "create", "plain"]).expect(0);
    apply(&cluster, &["remove", "third"]);
    assert_eq!(shards(), 2);
}

/// Each line that a command prints, as JSON.
fn json_lines(ran: &str) -> Vec<Value> {
    ran.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn what_becomes_of_a_plan_is_told_to_programs() {
    let cluster = Cluster::start();
    fill(&cluster, 300);
    let carried_out = json(&cluster, &["cluster", "apply", "merge", "shard1", "shard0"]);
    assert_eq!(carried_out["moves"].as_array().unwrap().len(), 1);
    assert_eq!(carried_out["after"][0]["shard"], "shard1");
    let arguments =
        ["cluster", "apply", "move", "0", "0.5", "shard0", "--rate", "20KB", "--detach"];
    let left = json(&cluster, &arguments);
    assert_eq!(left["moves"][0]["to"], "shard0");
    let watched = cluster.run(["--json", "cluster", "status", "--watch"]).expect(0);
    let watched = json_lines(&watched);
    assert!(watched.len() > 1, "{watched:?}");
    assert_eq!(watched[0]["moves"][0]["to"], "shard0");
    assert_eq!(watched[watched.len() - 1]["moves"], Value::Array(vec![]));
    assert_eq!(cluster.run(["cluster", "status", "--watch"]).expect(0), "nothing moves\n");
}

#[test]
fn a_move_that_is_cancelled_leaves_one_owner_and_nothing_behind() {
    let cluster = Cluster::start();
    fill(&cluster, 2000);
    let before = digest(&cluster);
    // So slow that it does not end by itself.
    apply(&cluster, &["merge", "shard1", "shard0", "--rate", "1KB", "--detach"]);
    let status = || json(&cluster, &["cluster", "status"])["moves"][0].clone();
    let begun = || status()["progress"]["documents"].as_u64().is_some_and(|it| it > 0);
    assert!(eventually(begun), "{}", status());
    let second = run(&mut cluster.command(["cluster", "apply", "rebalance"]), "");
    assert!(second.stderr.contains("another plan is being carried out"), "{second:?}");
    // What is on its way is not counted twice.
    assert_eq!(digest(&cluster), before);
    // Nor is it ended by whoever interrupts its command.
    cluster.run(["cluster", "cancel"]).expect(0);
    let mut waiting = Process::start(
        &mut cluster.command(["cluster", "apply", "merge", "shard1", "shard0", "--rate", "1KB"]),
    );
    assert!(eventually(|| waiting.stderr().contains("copying")), "{}", waiting.stderr());
    signal(waiting.pid(), Signal::INT);
    assert_eq!(waiting.wait().code(), Some(130));
    for what in ["the moves go on", "`sherd cluster status --watch`", "`sherd cluster cancel`"] {
        assert!(waiting.stderr().contains(what), "{what}: {}", waiting.stderr());
    }
    assert!(cluster.run(["cluster", "pause"]).expect(0).starts_with("paused: "));
    assert_eq!(json(&cluster, &["cluster", "status"])["paused"], true);
    assert_eq!(cluster.run(["cluster", "resume"]).expect(0), "resumed: 1 move is left\n");
    assert!(cluster.run(["cluster", "cancel"]).expect(0).starts_with("cancelled: "));
    for idle in ["cancel", "pause", "resume"] {
        assert_eq!(cluster.run(["cluster", idle]).expect(0), "nothing moves\n");
    }
    assert_eq!(cluster.run(["cluster", "status"]).expect(0), "nothing moves\n");
    assert_eq!(owners(&cluster).len(), 2);
    assert_eq!(digest(&cluster), before);
    let documents = || {
        let stat = json(&cluster, &["stat"]);
        let of = |name: &str| stat[name]["documents"].as_u64().unwrap();
        of("shard0") + of("shard1")
    };
    assert!(eventually(|| documents() == 4000), "{} documents are left", documents());
    // And it can be done all the same.
    apply(&cluster, &["merge", "shard1", "shard0"]);
    assert_eq!(owners(&cluster), [("shard1".to_owned(), 1)]);
    assert_eq!(digest(&cluster), before);
}

/// Whoever is killed comes back, and the move goes on.
#[test]
fn a_move_goes_on_whoever_is_killed_meanwhile() {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "3"]);
    fill(&cluster, 2000);
    let before = digest(&cluster);
    let victims = ["shard0", "shard1", "bootstrap"];
    for (round, victim) in victims.iter().cycle().take(6).enumerate() {
        let (from, to) = if round % 2 == 0 { ("shard0", "shard1") } else { ("shard1", "shard0") };
        // About half a second, in which the victim goes.
        apply(&cluster, &["merge", to, from, "--rate", "200KB", "--detach"]);
        let status = || run(&mut cluster.command(["--json", "cluster", "status"]), "").stdout;
        let begun = || status().contains("\"documents\": ") && !status().contains("\"moves\": []");
        assert!(eventually(begun), "round {round}");
        let pid = match *victim {
            "bootstrap" => bootstrap_pid(&cluster),
            name => json(&cluster, &["stat"])[name]["pid"].as_u64().unwrap() as u32,
        };
        signal(pid, Signal::KILL);
        let done = || status().contains("\"moves\": []");
        assert!(eventually(done), "round {round}, {victim} was killed: {}", status());
        assert!(!owners(&cluster).iter().any(|(name, _)| name == from), "round {round}");
        assert_eq!(digest(&cluster), before, "round {round}, {victim} was killed");
    }
}

/// The process id of the bootstrap that runs now: `up` starts it again when it is killed.
fn bootstrap_pid(cluster: &Cluster) -> u32 {
    let threads = std::fs::read_dir(format!("/proc/{}/task", cluster.up.pid())).unwrap();
    let children = threads.map(|thread| {
        std::fs::read_to_string(thread.unwrap().path().join("children")).unwrap_or_default()
    });
    let children = children.collect::<Vec<_>>().join(" ");
    let is_bootstrap = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"bootstrap")
    };
    children.split_whitespace().map(|pid| pid.parse().unwrap()).find(is_bootstrap).unwrap()
}
