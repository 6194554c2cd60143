//! Clusters put together by hand: `sherd shard` and `sherd bootstrap` with a config file.

#![allow(clippy::unwrap_used, reason = "a helper fails its test by panicking")]

mod support;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use sherd_client::Client;
use support::history::{Answer, check};
use support::load::{Load, LoadOptions};
use support::{Cluster, Process, eventually, from_environment, run, sherd, signal};

/// The config file of Pyshard's README, byte for byte.
const SEED_CONFIG: &str = r#"{
  "shards": [
    {
      "name": "shard0-0.5",
      "start": 0.0,
      "end": 0.5,
      "size": 1024,
      "host": "127.0.0.1",
      "port": 5050
    },
    {
      "name": "shard0.5-1",
      "start": 0.5,
      "end": 1.0,
      "size": 1024,
      "host": "127.0.0.1",
      "port": 5051
    }
  ]
}
"#;

/// The ports that it names, and bootstrap's by default.
const SEED_PORTS: [u16; 3] = [5050, 5051, 9192];

/// Set in the process that has a network of its own.
const OWN_NETWORK: &str = "SHERD_TEST_OWN_NETWORK";

/// Runs the test of that name again in a network namespace of its own, where fixed ports clash
/// with nothing. `true` if this has been done; otherwise the caller is to go on itself, if the
/// ports happen to be free.
fn in_own_network(test: &str) -> bool {
    if std::env::var_os(OWN_NETWORK).is_some() {
        return false;
    }
    let unshare = |command: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(["--map-root-user", "--net", "--", "sh", "-c"]);
        unshare.arg(format!("ip link set lo up && {command}"));
        unshare
    };
    let probe = unshare("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        return false;
    }
    let mut again = unshare("exec \"$0\" \"$@\"");
    again.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    let output = again.env(OWN_NETWORK, "1").output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
    assert!(output.status.success(), "{test} failed in its own network: {}{}", said[0], said[1]);
    true
}

fn shard(dir: &Path, name: &str, port: u16) -> Process {
    let mut command = sherd();
    command.arg("shard").arg("--data").arg(dir.join(name)).args(["--port", &port.to_string()]);
    Process::start(&mut command)
}

fn bootstrap(dir: &Path, config: &str, port: Option<u16>) -> Process {
    let path = dir.join("config_example.json");
    std::fs::write(&path, config).unwrap();
    let mut command = sherd();
    command.arg("bootstrap").arg("--data").arg(dir.join("bootstrap")).arg("--config").arg(path);
    if let Some(port) = port {
        command.args(["--port", &port.to_string()]);
    }
    Process::start(&mut command)
}

/// Rows that fall on both shards of the seed's config, and what they look like.
fn write_and_read(dir: &Path) {
    let mut write = sherd();
    let written = run(write.args(["write", "test_index", "--force"]), "4|0.9\n1|test\n");
    assert_eq!(written.expect(0), "2 written, 0 existing, 0 failed\n");
    let cat = run(sherd().args(["cat", "test_index"]), "").expect(0);
    let rows = "4|{\"hash_\": 0.0900864, \"record\": 0.9}\n1|{\"hash_\": 0.8541952, \"record\": \"test\"}\n";
    assert_eq!(cat, rows, "{}", dir.display());
    let stat = run(sherd().args(["stat", "--json"]), "").expect(0);
    let stat: Value = serde_json::from_str(&stat).unwrap();
    for (name, start, end) in [("shard0-0.5", 0.0, 0.5), ("shard0.5-1", 0.5, 1.0)] {
        assert_eq!(stat[name]["start"], json!(start));
        assert_eq!(stat[name]["end"], json!(end));
        assert_eq!(stat[name]["empty"], json!(false));
        assert_eq!(stat[name]["max_size"], json!(1024));
    }
}

#[test]
fn the_seeds_config_unchanged_in_any_start_order() {
    if in_own_network("the_seeds_config_unchanged_in_any_start_order") {
        return;
    }
    if let Some(taken) =
        SEED_PORTS.iter().find(|port| TcpListener::bind(("127.0.0.1", **port)).is_err())
    {
        eprintln!("skipped: port {taken} is taken, and a network of its own is not permitted");
        return;
    }
    for bootstrap_first in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let start_bootstrap = || {
            let mut bootstrap = bootstrap(dir.path(), SEED_CONFIG, None);
            assert_eq!(bootstrap.wait_ready(), SocketAddr::from(([127, 0, 0, 1], 9192)));
            bootstrap
        };
        let start_shards = || {
            [5050, 5051].map(|port| {
                let mut shard = shard(dir.path(), &format!("shard{port}"), port);
                assert_eq!(shard.wait_ready(), SocketAddr::from(([127, 0, 0, 1], port)));
                shard
            })
        };
        let (mut bootstrap, mut shards);
        if bootstrap_first {
            bootstrap = start_bootstrap();
            shards = start_shards();
        } else {
            shards = start_shards();
            bootstrap = start_bootstrap();
        }
        write_and_read(dir.path());
        bootstrap.stop();
        shards.iter_mut().for_each(Process::stop);
    }
}

/// A config with the seed's shards on other ports.
/// Two shards on ports of their own, and bootstrap.
struct TwoShards {
    shards: [Process; 2],
    ports: [u16; 2],
    bootstrap: Process,
    address: SocketAddr,
}

impl TwoShards {
    fn start(dir: &Path) -> Self {
        let mut shards = ["shard0", "shard1"].map(|name| shard(dir, name, 0));
        let ports = [shards[0].wait_ready().port(), shards[1].wait_ready().port()];
        let mut bootstrap = bootstrap(dir, &config_on(ports).to_string(), Some(0));
        let address = bootstrap.wait_ready();
        Self { shards, ports, bootstrap, address }
    }
}

fn config_on(ports: [u16; 2]) -> Value {
    let mut config: Value = serde_json::from_str(SEED_CONFIG).unwrap();
    config["shards"][0]["port"] = json!(ports[0]);
    config["shards"][1]["port"] = json!(ports[1]);
    config
}

#[test]
fn each_fault_of_the_config_is_refused_with_shard_and_field() {
    type Change = fn(&mut Value);
    let faults: [(&str, Change, &[&str]); 14] = [
        (
            "duplicate name",
            |c| c["shards"][1]["name"] = json!("shard0-0.5"),
            &["shard0-0.5", "name"],
        ),
        (
            "some marked",
            |c| drop(c["shards"][1].as_object_mut().unwrap().remove("start")),
            &["shard0.5-1", "start"],
        ),
        ("gap", |c| c["shards"][1]["start"] = json!(0.6), &["shard0.5-1", "start"]),
        ("overlap", |c| c["shards"][1]["start"] = json!(0.4), &["shard0.5-1", "start"]),
        ("end before start", |c| c["shards"][1]["end"] = json!(0.25), &["shard0.5-1", "end"]),
        ("not ending at 1.0", |c| c["shards"][1]["end"] = json!(0.9), &["shard0.5-1", "end"]),
        ("not starting at 0.0", |c| c["shards"][0]["start"] = json!(0.1), &["shard0-0.5", "start"]),
        ("not a number", |c| c["shards"][0]["end"] = json!("half"), &["shard0-0.5", "end"]),
        ("unknown field", |c| c["shards"][1]["colour"] = json!("red"), &["shard0.5-1", "colour"]),
        (
            "no port",
            |c| drop(c["shards"][1].as_object_mut().unwrap().remove("port")),
            &["shard0.5-1", "port"],
        ),
        ("no name for a shard", |c| c["shards"][0]["name"] = json!("a b"), &["a b", "1 to 64"]),
        ("size too small", |c| c["shards"][0]["size"] = json!(1), &["shard0-0.5", "size", "256"]),
        ("size no number", |c| c["shards"][0]["size"] = json!(-1), &["shard0-0.5", "size"]),
        ("unknown field at the top", |c| c["colour"] = json!("red"), &["colour"]),
    ];
    let dir = tempfile::tempdir().unwrap();
    for (fault, change, named) in faults {
        let mut config = config_on([5050, 5051]);
        change(&mut config);
        let mut refused = bootstrap(dir.path(), &config.to_string(), Some(0));
        assert_eq!(refused.wait().code(), Some(1), "{fault}");
        let said = refused.stderr();
        for name in named {
            assert!(said.contains(name), "{fault}: {name:?} is not named in {said:?}");
        }
        assert!(said.lines().any(|line| line.starts_with("sherd: ")), "{said:?}");
        assert!(!said.contains("panicked"), "{said}");
    }
    let mut refused = bootstrap(dir.path(), "not json", Some(0));
    assert_eq!(refused.wait().code(), Some(1));
}

#[test]
fn shards_serve_after_a_restart_while_bootstrap_is_down() {
    let dir = tempfile::tempdir().unwrap();
    let TwoShards { mut shards, ports, mut bootstrap, address } = TwoShards::start(dir.path());
    let written =
        run(sherd().args(["-b", &address.to_string(), "write", "i", "--force"]), "4|0.9\n1|test\n");
    written.expect(0);

    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let client = connect(address).await;
        assert!(client.has("i", "1").await.unwrap().is_some());
        bootstrap.kill();
        for (name, port, process) in [("shard0", ports[0], 0), ("shard1", ports[1], 1)] {
            shards[process].kill();
            shards[process] = shard(dir.path(), name, port);
            shards[process].wait_ready();
        }
        for key in ["1", "4"] {
            assert!(client.has("i", key).await.unwrap().is_some(), "{key}");
        }
        client.write("i", "new", &b"\x01"[..], Default::default()).await.unwrap();
    });
}

/// A shard that was started on an empty directory was given its ranges, said of each document that it is not
/// there, and took new ones.
#[test]
fn a_shard_that_has_forgotten_all_is_left_alone_until_it_is_said_to_be_lost() {
    let dir = tempfile::tempdir().unwrap();
    let TwoShards { mut shards, ports, mut bootstrap, address } = TwoShards::start(dir.path());
    let at = address.to_string();
    let ask = |arguments: &[&str]| run(sherd().args(["-b", &at]).args(arguments), "");
    run(sherd().args(["-b", &at, "write", "i", "--force"]), "4|0.9\n1|test\n").expect(0);
    let path = dir.path().join("bootstrap/state.json");
    let state = || std::fs::read_to_string(&path).unwrap();
    assert!(eventually(|| state().contains(r#""met":["shard0-0.5","shard0.5-1"]"#)), "{}", state());
    // Also where both were started again meanwhile.
    bootstrap.kill();
    shards[1].kill();
    shards[1] = shard(dir.path(), "elsewhere", ports[1]);
    shards[1].wait_ready();
    let config = config_on(ports).to_string();
    let mut bootstrap = self::bootstrap(dir.path(), &config, Some(address.port()));
    bootstrap.wait_ready();
    let left_alone = "it was started on another data directory";
    assert!(eventually(|| bootstrap.stderr().contains(left_alone)), "{}", bootstrap.stderr());
    let stat = ask(&["stat"]);
    assert!(stat.stderr.contains("once with --lost shard0.5-1"), "{stat:?}");
    assert!(stat.stdout.contains("unassigned"), "{stat:?}");
    ask(&["read", "i", "4"]).expect(0);

    shards[1].stop();
    shards[1] = shard(dir.path(), "shard1", ports[1]);
    shards[1].wait_ready();
    ask(&["read", "i", "1"]).expect(0);

    shards[1].stop();
    std::fs::remove_dir_all(dir.path().join("shard1")).unwrap();
    shards[1] = shard(dir.path(), "shard1", ports[1]);
    shards[1].wait_ready();
    assert!(eventually(|| bootstrap.stderr().matches(left_alone).count() == 2));
    bootstrap.stop();
    let mut lost = sherd();
    lost.arg("bootstrap").arg("--data").arg(dir.path().join("bootstrap")).arg("--config");
    lost.arg(dir.path().join("config_example.json")).args(["--lost", "shard0.5-1"]);
    let mut bootstrap = Process::start(lost.args(["--port", &address.port().to_string()]));
    bootstrap.wait_ready();
    ask(&["read", "i", "1"]).expect(3);
    ask(&["read", "i", "4"]).expect(0);
    ask(&["write", "i", "1", "new"]).expect(0);
}

/// Bootstrap looks for it at the address of the map, and finds nobody there.
#[test]
fn a_shard_that_comes_back_on_another_port_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let TwoShards { mut shards, ports, bootstrap: _bootstrap, address } =
        TwoShards::start(dir.path());
    let address = address.to_string();
    run(sherd().args(["-b", &address, "index", "create", "i"]), "").expect(0);
    assert!(eventually(|| dir.path().join("shard0/FOUND_AT").exists()));
    shards[0].stop();
    let start_again = |port| {
        let mut shard = shard(dir.path(), "shard0", port);
        let at = shard.wait_ready();
        // What it says at its start it has said by the time that it is stopped.
        shard.stop();
        (at, shard.stderr())
    };
    let (elsewhere, said) = start_again(0);
    let registered = format!("127.0.0.1:{}", ports[0]);
    let start_with = format!("--host 127.0.0.1 --port {}", ports[0]);
    let warned = said.lines().find(|line| line.contains("WARN")).unwrap_or_default();
    for what in [&registered, &elsewhere.to_string(), &start_with] {
        assert!(warned.contains(what), "{what}: {said}");
    }
    let (_, said) = start_again(ports[0]);
    assert!(!said.contains("it is looked for"), "{said}");
}

#[test]
fn a_data_directory_in_use_is_named_once_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let mut first = shard(dir.path(), "shard0", 0);
    first.wait_ready();
    let mut second = shard(dir.path(), "shard0", 0);
    assert_eq!(second.wait().code(), Some(1));
    let said = second.stderr();
    assert_eq!(said.matches("data directory").count(), 1, "{said}");
    assert!(said.contains("is in use by another process; stop that first"), "{said}");
}

/// `SHERD_BOOTSTRAP_DOWN_SECONDS` has it be away for so long; among the tests it is for as long as some
/// thousand operations take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_client_meets_an_error_while_bootstrap_is_down() {
    let seconds = from_environment("SHERD_BOOTSTRAP_DOWN_SECONDS").unwrap_or(0);
    let seed = rand::random();
    println!("seed {seed}");
    let dir = tempfile::tempdir().unwrap();
    let mut shards = ["shard0", "shard1"].map(|name| shard(dir.path(), name, 0));
    let ports = [shards[0].wait_ready().port(), shards[1].wait_ready().port()];
    let mut config = config_on(ports);
    for i in 0..2 {
        config["shards"][i]["size"] = json!(1 << 24);
    }
    let config = config.to_string();
    let mut first = bootstrap(dir.path(), &config, Some(0));
    let address = first.wait_ready();
    let options = LoadOptions { seed, operations: u64::MAX, ..LoadOptions::default() };
    let load = Load::start(&address.to_string(), options).await;
    load.reach(1000).await;
    first.kill();
    let (down, before) = (Instant::now(), load.answers());
    while down.elapsed() < Duration::from_secs(seconds) {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    load.reach(load.answers() + 5000).await;
    let (while_down, took) = (load.answers() - before, down.elapsed());
    // Started again, it is found again.
    let mut second = bootstrap(dir.path(), &config, Some(address.port()));
    second.wait_ready();
    load.reach(load.answers() + 1000).await;
    let history = load.stop().await;
    println!("{while_down} operations in {took:.1?} without bootstrap, {} in all", history.len());
    assert!(history.iter().all(|operation| operation.answer != Answer::Unknown));
    check(&history).unwrap_or_else(|violation| panic!("{violation}"));
}

async fn connect(address: SocketAddr) -> Client {
    Client::connect(&address.to_string(), Default::default()).await.unwrap()
}

/// A backup was silent for a minute.
#[test]
fn what_waits_for_a_shard_that_is_away_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let TwoShards { mut shards, ports, bootstrap: _bootstrap, address } =
        TwoShards::start(dir.path());
    let address = address.to_string();
    run(sherd().args(["-b", &address, "index", "create", "i"]), "").expect(0);
    let backups = dir.path().join("backups").to_str().unwrap().to_owned();
    for command in [&["index", "set", "i", "--max-bytes", "1KiB"][..], &["backup", &backups]] {
        shards[1].kill();
        let mut waiting = Process::start(sherd().args(["-b", &address]).args(command));
        let said = || waiting.stderr().contains("a shard is away");
        assert!(eventually(said), "{command:?}: {}", waiting.stderr());
        shards[1] = shard(dir.path(), "shard1", ports[1]);
        shards[1].wait_ready();
        assert!(waiting.wait().success(), "{command:?}: {}", waiting.stderr());
    }
}

/// Nobody goes on with it then, and the old limit stays: that is what is said.
#[test]
fn a_limit_whose_command_is_interrupted_while_a_shard_is_away_is_not_set() {
    let dir = tempfile::tempdir().unwrap();
    let TwoShards { mut shards, ports, bootstrap: _bootstrap, address } =
        TwoShards::start(dir.path());
    let address = address.to_string();
    let ask =
        |arguments: &[&str]| run(sherd().args(["-b", &address]).args(arguments), "").expect(0);
    ask(&["index", "create", "i"]);
    let before = ask(&["--json", "index", "list"]);
    shards[1].kill();
    let mut set = sherd();
    let mut set =
        Process::start(set.args(["-b", &address, "index", "set", "i", "--max-bytes", "1KiB"]));
    assert!(eventually(|| set.stderr().contains("a shard is away")), "{}", set.stderr());
    // SIGINT may be ignored where tests run in the background.
    signal(set.pid(), Signal::TERM);
    assert!(!set.wait().success());
    let said = set.stderr();
    assert!(
        said.contains("it may not be done") && said.contains("the same command again"),
        "{said}"
    );
    shards[1] = shard(dir.path(), "shard1", ports[1]);
    shards[1].wait_ready();
    // Bootstrap is up to something else with the shard, so it has it again.
    ask(&["index", "create", "j"]);
    ask(&["index", "drop", "j"]);
    assert_eq!(ask(&["--json", "index", "list"]), before);
    ask(&["index", "set", "i", "--max-bytes", "1KiB"]);
    assert!(ask(&["--json", "index", "list"]).contains("\"max_bytes\": 1024"));
}

#[test]
fn a_config_that_differs_later_is_reported_and_not_applied() {
    let dir = tempfile::tempdir().unwrap();
    let mut shards = ["shard0", "shard1"].map(|name| shard(dir.path(), name, 0));
    let ports = [shards[0].wait_ready().port(), shards[1].wait_ready().port()];
    let mut config = config_on(ports);
    let mut first = bootstrap(dir.path(), &config.to_string(), Some(0));
    let map = |process: &mut Process| {
        let address = process.wait_ready().to_string();
        run(sherd().args(["-b", &address, "map", "--json"]), "").expect(0)
    };
    let before = map(&mut first);
    first.stop();
    config["shards"][0]["end"] = json!(0.25);
    config["shards"][1]["start"] = json!(0.25);
    let mut second = bootstrap(dir.path(), &config.to_string(), Some(0));
    assert_eq!(map(&mut second), before);
    assert!(eventually(|| second.stderr().contains("differs")), "{}", second.stderr());
}

/// However the documents lie and in whichever order they came, a digest tells whether they are the same.
#[test]
fn a_digest_is_the_same_whatever_the_shards_the_ranges_and_the_hash_method() {
    let dir = tempfile::tempdir().unwrap();
    let mut shards = ["shard0", "shard1"].map(|name| shard(dir.path(), name, 0));
    let ports = [shards[0].wait_ready().port(), shards[1].wait_ready().port()];
    let mut config = config_on(ports);
    config["hash_method"] = json!("xxh3");
    for i in 0..2 {
        config["shards"][i]["size"] = json!(1 << 20);
    }
    config["shards"][0]["end"] = json!(0.125);
    config["shards"][1]["start"] = json!(0.125);
    let mut bootstrap = bootstrap(dir.path(), &config.to_string(), Some(0));
    let address = bootstrap.wait_ready().to_string();
    let other = Cluster::start_with(["--port", "0", "--shards", "3"]);
    let on = |arguments: &[&str], input: &str| {
        run(sherd().args(["-b", &address]).args(arguments), input)
    };
    let there = |arguments: &[&str]| run(&mut other.command(arguments), "");
    let rows: Vec<String> = (0..200).map(|i| format!("key{i}|{{\"value\": {i}}}\n")).collect();
    on(&["write", "i", "--force"], &rows.concat()).expect(0);
    // Another order, some of them twice, one more that goes again.
    let reversed: String = rows.iter().rev().map(String::as_str).collect();
    other.feed(["write", "i", "--force"], "key7|7\nanother|0\n").expect(0);
    other.feed(["write", "i", "--overwrite"], &reversed).expect(0);
    let digest = on(&["digest"], "").expect(0);
    let is_hex = |digest: &str| {
        let digits = digest.strip_suffix('\n').unwrap_or_default();
        digits.len() == 32 && digits.chars().all(|digit| digit.is_ascii_hexdigit())
    };
    assert!(is_hex(&digest) && digest != format!("{:032x}\n", 0), "{digest:?}");
    assert_ne!(other.run(["digest"]).expect(0), digest, "one document more");
    other.run(["remove", "i", "another"]).expect(0);
    assert_eq!(other.run(["digest"]).expect(0), digest);
    assert_eq!(other.run(["digest", "i"]).expect(0), digest, "there is one index");

    // A document, a key, an index's name, a time to live: each makes another.
    for (change, back) in [
        (
            &["write", "i", "key7", "8", "--overwrite"][..],
            &["write", "i", "key7", "{\"value\": 7}", "--overwrite"][..],
        ),
        (&["touch", "i", "key7", "--ttl", "1h"], &["touch", "i", "key7", "--persist"]),
        (&["index", "create", "empty"], &["index", "drop", "empty"]),
    ] {
        there(change).expect(0);
        let changed = other.run(["digest", "--json"]).expect(0);
        let changed: Value = serde_json::from_str(&changed).unwrap();
        let same = changed["digest"] == digest.trim();
        assert_eq!(same, change[0] == "index", "{change:?}");
        assert_eq!(changed["documents"], json!(200));
        assert_eq!(changed["indexes"]["i"]["digest"], changed["digest"], "others are empty");
        there(back).expect(0);
        assert_eq!(other.run(["digest"]).expect(0), digest, "{back:?}");
    }

    // After a restart it is the same; without a shard there is none.
    shards[0].kill();
    let refused = on(&["digest"], "");
    let what_next =
        format!("without shard shard0-0.5 (127.0.0.1:{}): start it there and ask again", ports[0]);
    assert!(refused.stderr.contains(&what_next), "{}", refused.stderr);
    refused.expect(1);
    let refused = on(&["cluster", "plan", "rebalance"], "");
    let what_next = format!("start this one at 127.0.0.1:{}, and plan again", ports[0]);
    assert!(refused.stderr.contains(&what_next), "{}", refused.stderr);
    refused.expect(1);
    shards[0] = shard(dir.path(), "shard0", ports[0]);
    shards[0].wait_ready();
    assert_eq!(on(&["digest"], "").expect(0), digest);
    let missing = on(&["digest", "j"], "");
    assert!(missing.stderr.contains("\"j\""), "{}", missing.stderr);
    missing.expect(3);
    bootstrap.stop();
}
