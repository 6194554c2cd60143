//! The commands as people and scripts meet them: exit statuses, output, bad input.

#![allow(clippy::expect_used, reason = "a helper fails its test by panicking")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};
use sherd_client::Client;
use support::{Cluster, Process, eventually, run, run_fed, sherd, signal};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

#[test]
fn exit_statuses_tell_what_happened() {
    let cluster = Cluster::start();
    let status = |arguments: &[&str]| {
        let ran = run(&mut cluster.command(arguments), "");
        match ran.status {
            0 => assert_eq!(ran.stderr, "", "{arguments:?}"),
            // What is wrong is said, and not where results are.
            _ if ran.stdout == "false\n" => assert_eq!(arguments[0], "has"),
            _ => assert!(ran.stdout.is_empty() && !ran.stderr.is_empty(), "{ran:?}"),
        }
        ran.status
    };
    assert_eq!(status(&["index", "create", "i"]), 0);
    assert_eq!(status(&["write", "i", "k", "1"]), 0);
    assert_eq!(status(&["has", "i", "k"]), 0);
    assert_eq!(status(&["remove", "i", "k"]), 0);

    // Wrong usage.
    for wrong in [
        &["levitate"][..],
        &["read"],
        &["read", "i"],
        &["read", "not an index", "k"],
        &["read", "i", ""],
        &["read", "i", &"k".repeat(1025)],
        &["write", "i", "k"],
        &["write", "i", "k", "1", "--colour"],
        &["up", "--size", "64M"],
        &["up", "--shards", "0"],
        &["up", "--durability", "never"],
        &["-b", "nowhere", "map"],
    ] {
        assert_eq!(status(wrong), 2, "{wrong:?}");
    }

    // What is asked about does not hold.
    assert_eq!(status(&["write", "i", "k", "1"]), 0);
    for missing in [
        &["read", "i", "none"][..],
        &["read", "none", "k"],
        &["has", "i", "none"],
        &["has", "none", "k"],
        &["pop", "i", "none"],
        &["remove", "i", "none"],
        &["cat", "none"],
        &["keys", "none"],
        &["write", "i", "k", "2"],
        &["write", "none", "k", "1"],
        &["index", "create", "i"],
        &["index", "drop", "none"],
    ] {
        assert_eq!(status(missing), 3, "{missing:?}");
    }
    assert_eq!(status(&["write", "i", "k", "2", "--overwrite"]), 0);
    assert_eq!(status(&["index", "drop", "i"]), 0);

    // Whoever drops, exports or copies an index by a wrong name is not to make one of that name first.
    for command in [&["index", "drop", "none"][..], &["export", "none"], &["copy", "none", "i"]] {
        let missing = run(&mut cluster.command(command), "");
        assert!(missing.stderr.contains("`sherd index list` shows"), "{missing:?}");
        assert_eq!(missing.expect(3), "");
    }

    // Nobody there.
    let nobody = run(sherd().args(["-b", "127.0.0.1:1", "map"]), "");
    assert!(nobody.stderr.starts_with("sherd: "), "{nobody:?}");
    assert!(nobody.stderr.contains("127.0.0.1:1"), "{nobody:?}");
    assert_eq!(nobody.stderr.lines().count(), 1, "{nobody:?}");
    assert_eq!(nobody.expect(1), "");
}

#[test]
fn bad_rows_are_told_by_line_and_the_rest_is_written() {
    let cluster = Cluster::start();
    let long = "k".repeat(1025);
    let input = [
        b"good|1\nno separator\n|no key\n\nbad\xff|1\r\n".as_slice(),
        long.as_bytes(),
        b"|1\nalso good|two words\r\n",
    ]
    .concat();
    let ran = cluster.feed(["write", "i", "--force"], &input);
    let said: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(said.len(), 4, "{said:#?}");
    for (line, number) in said.iter().zip([2, 3, 5, 6]) {
        assert!(line.starts_with(&format!("sherd: line {number}: ")), "{line}");
    }
    assert_eq!(ran.expect(1), "2 written, 0 existing, 4 failed\n");
    let read = cluster.run(["read", "i", "good", "also good"]).expect(0);
    assert!(read.contains("\"two words\""), "{read}");

    // A document that no shard takes is the row's failure, not the command's.
    let large = cluster.feed(["write", "i"], format!("large|{}\nsmall|1\n", "x".repeat(16 << 20)));
    assert!(large.stderr.starts_with("sherd: line 1: "), "{}", large.stderr);
    assert_eq!(large.expect(1), "1 written, 0 existing, 1 failed\n");
}

#[test]
fn rows_over_the_limit_of_a_shard_fail_one_by_one() {
    let cluster = Cluster::start_with(["--port", "0", "--size", "1KB"]);
    let rows: String = (0..100).map(|n| format!("key{n}|{}\n", "x".repeat(90))).collect();
    let ran = cluster.feed(["write", "i", "--force", "--json"], rows);
    let summary = json(&ran.stdout);
    let written = summary["written"].as_u64().unwrap();
    assert!((10..=22).contains(&written), "{summary}");
    assert_eq!(summary["failed"], json!(100 - written));
    // Twenty are said, and how many others there were.
    assert_eq!(ran.stderr.lines().count(), 21, "{}", ran.stderr);
    let others = format!("{}", 100 - written - 20);
    assert!(ran.stderr.lines().last().unwrap().contains(&others), "{}", ran.stderr);
    assert!(ran.stderr.lines().all(|line| line.contains("full")), "{}", ran.stderr);
    ran.expect(1);
    // Removing makes room.
    let keys = cluster.run(["keys", "i"]).expect(0);
    for key in keys.lines() {
        cluster.run(["remove", "i", key]).expect(0);
    }
    cluster.feed(["write", "i"], "again|1\n").expect(0);
}

#[test]
fn of_rows_with_the_same_key_the_first_counts_or_with_overwrite_the_last() {
    let cluster = Cluster::start();
    let rows: String = (0..5000).map(|n| format!("{}|{n}\n", n % 7)).collect();
    let first = cluster.feed(["write", "i", "--force"], &rows).expect(0);
    assert_eq!(first, "7 written, 4993 existing, 0 failed\n");
    for n in 0..7 {
        let read = cluster.run(["read", "i", &n.to_string()]).expect(0);
        assert!(read.ends_with(&format!("\"record\": {n}}}\n")), "{read}");
    }
    let last = cluster.feed(["write", "i", "--overwrite"], &rows).expect(0);
    assert_eq!(last, "5000 written, 0 existing, 0 failed\n");
    for n in 0..7 {
        let read = cluster.run(["read", "i", &n.to_string()]).expect(0);
        let last = (0..5000).rev().find(|last| last % 7 == n).unwrap();
        assert!(read.ends_with(&format!("\"record\": {last}}}\n")), "{read}");
    }
}

#[test]
fn many_rows_come_back_in_ring_order() {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "3"]);
    let rows: String = (0..20_000).map(|n| format!("key-{n}|{{\"n\": {n}}}\n")).collect();
    let written = cluster.feed(["write", "i", "--force"], rows).expect(0);
    assert_eq!(written, "20000 written, 0 existing, 0 failed\n");
    let cat = cluster.run(["cat", "i"]).expect(0);
    let mut seen = vec![false; 20_000];
    let mut last = (0.0, String::new());
    for line in cat.lines() {
        let (key, record) = line.split_once('|').unwrap();
        let record = json(record);
        let place = (record["hash_"].as_f64().unwrap(), key.to_owned());
        assert!(last < place, "{last:?} before {place:?}");
        last = place;
        let n = record["record"]["n"].as_u64().unwrap();
        assert_eq!(key, format!("key-{n}"));
        seen[n as usize] = true;
    }
    assert!(seen.iter().all(|seen| *seen));
    let keys: Vec<_> = cat.lines().filter_map(|line| line.split('|').next()).collect();
    assert_eq!(cluster.run(["keys", "i"]).expect(0).lines().collect::<Vec<_>>(), keys);
}

#[test]
fn a_reader_that_goes_away_ends_the_command_quietly() {
    let cluster = Cluster::start();
    let rows: String = (0..10_000).map(|n| format!("{n}|{}\n", "x".repeat(100))).collect();
    cluster.feed(["write", "i", "--force"], rows).expect(0);
    for command in ["cat", "keys"] {
        let mut command = cluster.command([command, "i"]);
        let mut cat = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut first = String::new();
        BufReader::with_capacity(64, cat.stdout.take().unwrap()).read_line(&mut first).unwrap();
        let output = cat.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    }
}

#[test]
fn a_write_of_rows_that_is_interrupted_says_what_was_written() {
    let cluster = Cluster::start();
    cluster.run(["index", "create", "i"]).expect(0);
    for (asked, status) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let key = format!("k{status}");
        let mut write = cluster.command(["write", "i"]);
        write.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut write = write.spawn().unwrap();
        // It is left open: more rows may come.
        let mut rows = write.stdin.take().unwrap();
        rows.write_all(format!("{key}|1\n").as_bytes()).unwrap();
        assert!(eventually(|| cluster.run(["has", "i", &key]).status == 0));
        signal(write.id(), asked);
        let ended = write.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(status), "{said}");
        assert_eq!(ended.stdout, b"1 written, 0 existing, 0 failed\n", "{said}");
        assert!(said.contains("give the rows again for the rest"), "{said}");
        drop(rows);
    }
}

#[test]
fn several_keys_are_told_apart_and_missing_ones_named() {
    let cluster = Cluster::start();
    cluster.feed(["write", "i", "--force"], "1|one\n2|two\n").expect(0);
    let ran = cluster.run(["read", "i", "2", "none", "1"]);
    assert_eq!(ran.stderr, "sherd: key \"none\" is not in index \"i\"\n");
    let one = r#"{"hash_": 0.8541952, "record": "one"}"#;
    let two = r#"{"hash_": 0.7673856, "record": "two"}"#;
    assert_eq!(ran.expect(3), format!("2|{two}\n1|{one}\n"));
    assert_eq!(cluster.run(["has", "i", "1"]).expect(0), "true\n");
    assert_eq!(cluster.run(["has", "i", "none"]).expect(3), "false\n");
    assert_eq!(cluster.run(["has", "i", "1", "none"]).expect(3), "1|true\nnone|false\n");

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "2\n1\nnone\n\n1\n").unwrap();
    let path = file.path().to_str().unwrap();
    let ran = cluster.run(["cat", "i", "--keys", path]);
    assert_eq!(ran.stderr, "sherd: key \"none\" is not in index \"i\"\n");
    assert_eq!(ran.expect(3), format!("2|{two}\n1|{one}\n1|{one}\n"));
    assert_eq!(cluster.feed(["cat", "i", "--keys", "-"], "1\n").expect(0), format!("1|{one}\n"));
    let bad = cluster.feed(["cat", "i", "--keys", "-"], b"1\n\xff\n");
    assert!(bad.stderr.starts_with("sherd: standard input line 2: not UTF-8"), "{bad:?}");
    assert_eq!(bad.expect(1), format!("1|{one}\n"));

    let ran = cluster.run(["remove", "i", "1", "none"]);
    assert_eq!(ran.stderr, "sherd: key \"none\" is not in index \"i\"\n");
    ran.expect(3);
    assert_eq!(cluster.run(["keys", "i"]).expect(0), "2\n");
}

#[test]
fn json_output_is_for_programs() {
    let cluster = Cluster::start();
    let lines = |text: String| text.lines().map(json).collect::<Vec<_>>();
    let created = json(&cluster.run(["--json", "index", "create", "i"]).expect(0));
    assert_eq!(created["name"], json!("i"));
    let written = json(&cluster.run(["--json", "write", "i", "1", "one"]).expect(0));
    assert!(written["version"].as_u64() > Some(0));
    let summary = cluster.feed(["--json", "write", "i"], "1|again\n2|[2]\n").expect(0);
    assert_eq!(json(&summary), json!({"written": 1, "existing": 1, "failed": 0, "unknown": 0}));

    let cat = lines(cluster.run(["--json", "cat", "i"]).expect(0));
    assert_eq!(cat.len(), 2);
    assert_eq!(cat[0]["key"], json!("2"));
    assert_eq!(cat[0]["hash_"], json!(0.7673856));
    assert_eq!(cat[0]["record"], json!([2]));
    let read = lines(cluster.run(["--json", "read", "i", "2"]).expect(0));
    assert_eq!(read, cat[..1]);
    assert_eq!(read[0]["version"], cat[0]["version"]);
    assert_eq!(lines(cluster.run(["--json", "keys", "i"]).expect(0)), [json!("2"), json!("1")]);
    let has = lines(cluster.run(["--json", "has", "i", "1", "3"]).expect(3));
    assert_eq!(has, [json!({"key": "1", "has": true}), json!({"key": "3", "has": false})]);
    let indexes = lines(cluster.run(["--json", "index", "list"]).expect(0));
    assert_eq!(indexes, [created]);
    assert_eq!(cluster.run(["index", "list"]).expect(0), "i\n");
    let popped = lines(cluster.run(["--json", "pop", "i", "2"]).expect(0));
    assert_eq!(popped[0]["record"], json!([2]));

    let map = json(&cluster.run(["--json", "map"]).expect(0));
    assert!(map["epoch"].as_u64() >= Some(1), "{map}");
    assert_eq!(map["hash_method"], json!("md5"));
    assert_eq!(map["ranges"][1]["shard"], json!("shard1"));
    assert_eq!((&map["ranges"][1]["start"], &map["ranges"][1]["end"]), (&json!(0.5), &json!(1.0)));
}

#[test]
fn stat_has_the_seeds_fields_under_the_seeds_names() {
    let cluster = Cluster::start_with(["--port", "0", "--size", "1000B"]);
    cluster.feed(["write", "i", "--force"], "4|0.9\n1|true\n2|true\n").expect(0);
    let stat = json(&cluster.run(["stat", "--json"]).expect(0));
    // Of key and document: 1 + 9 bytes of a float, 1 + 1 of a boolean.
    let seed = |start, end, free, distribution: Value| {
        json!({"start": start, "end": end, "empty": false, "max_size": 1000, "free_mem": free,
            "distribution": distribution})
    };
    for (name, expected) in [
        ("shard0", seed(0.0, 0.5, 990, json!({"0.0": 1, "0.1": 0, "0.2": 0, "0.3": 0, "0.4": 0}))),
        ("shard1", seed(0.5, 1.0, 996, json!({"0.5": 0, "0.6": 0, "0.7": 1, "0.8": 1, "0.9": 0}))),
    ] {
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(stat[name][field], *value, "{name} {field}: {stat:#}");
        }
    }
    let pids: Vec<_> = cluster.members().iter().map(|member| member.pid).collect();
    assert_eq!(stat["shard0"]["pid"], json!(pids[1]));
    let table = cluster.run(["stat"]).expect(0);
    assert!(table.contains("shard0") && table.contains("shard1"), "{table}");
}

#[test]
fn every_type_of_document_and_every_key_is_printed() {
    let cluster = Cluster::start();
    cluster.run(["index", "create", "i"]).expect(0);
    let documents: &[(&str, &[u8], &str)] = &[
        ("nil", b"\xc0", "null"),
        ("false", b"\xc2", "false"),
        ("least", b"\xd3\x80\0\0\0\0\0\0\0", "-9223372036854775808"),
        ("most", b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", "18446744073709551615"),
        ("float", b"\xcb\x3f\xf0\0\0\0\0\0\0", "1.0"),
        ("nan", b"\xcb\x7f\xf8\0\0\0\0\0\0", r#"{"$float": "NaN"}"#),
        ("empty", b"\xa0", r#""""#),
        ("binary", b"\xc4\x02hi", r#"{"$binary": "aGk="}"#),
        ("nested", b"\x92\x81\xa1a\x90\x80", r#"[{"a": []}, {}]"#),
        ("numbered", b"\x81\x01\xa1x", r#"{"$map": [[1, "x"]]}"#),
        ("schlüssel 🗝", b"\xc3", "true"),
        ("a|b", b"\x01", "1"),
        ("line\nbreak", b"\x02", "2"),
    ];
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let client =
            Client::connect(&cluster.address.to_string(), Default::default()).await.unwrap();
        for (key, document, _) in documents {
            client.write("i", key, document, Default::default()).await.unwrap();
        }
    });
    for (key, _, printed) in documents {
        let read = cluster.run(["read", "i", "--", key]).expect(0);
        assert!(read.ends_with(&format!("\"record\": {printed}}}\n")), "{key}: {read}");
    }
    // Also where a key would be taken for something else in a row.
    let cat = cluster.run(["cat", "i", "--json"]).expect(0);
    assert_eq!(cat.lines().count(), documents.len());
    for (key, ..) in documents {
        assert!(cat.lines().any(|line| json(line)["key"] == **key), "{key}");
    }
    // And back in, from what was printed.
    for (key, document, printed) in documents {
        cluster.run(["write", "i", key, printed, "--overwrite"]).expect(0);
        let read = cluster.run(["read", "i", "--", key]).expect(0);
        assert!(read.ends_with(&format!("\"record\": {printed}}}\n")), "{document:?}: {read}");
    }
}

#[test]
fn a_token_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut up = sherd();
    up.args(["up", "--port", "0", "--data"]).arg(dir.path()).env("SHERD_TOKEN", "secret");
    let mut up = Process::start(&mut up);
    let address = up.wait_ready().to_string();
    let index = ["-b", &address, "index", "create", "i"];
    let refused = run(sherd().args(index), "");
    assert!(refused.stderr.contains("SHERD_TOKEN"), "{refused:?}");
    refused.expect(1);
    run(sherd().args(index).env("SHERD_TOKEN", "wrong"), "").expect(1);
    run(sherd().args(index).env("SHERD_TOKEN", "secret"), "").expect(0);
    up.stop();
}

#[test]
fn the_environment_names_the_bootstrap() {
    let cluster = Cluster::start();
    let map = run(sherd().arg("map").env("SHERD_BOOTSTRAP", cluster.address.to_string()), "");
    let map = map.expect(0);
    assert!(map.contains("shard0") && map.contains("[0.5, 1)"), "{map}");
}

#[test]
fn a_load_during_which_a_shard_is_killed_accounts_for_every_row() {
    // Now and then there is nothing under way just then, and then nothing is unknown.
    assert!((0..20).any(|_| load_and_kill() > 0), "nothing was ever under way");
}

/// Loads rows, kills a shard meanwhile, which is started again, and returns of how many rows it is unknown
/// whether they were written.
fn load_and_kill() -> u64 {
    const MOST_ROWS: u64 = 1_000_000;
    const BLOCK: u64 = 5000;
    let cluster = Cluster::start();
    cluster.run(["index", "create", "i"]).expect(0);
    let documents = || {
        let stat = json(&cluster.run(["--json", "stat"]).stdout);
        stat["shard0"]["documents"].as_u64().unwrap_or(0)
    };
    let killed = Arc::new(AtomicBool::new(false));
    let rows = Arc::new(AtomicU64::new(0));
    // Faster than they can be stored, as long as the shard lives, and then some more.
    let blocks: Vec<String> = (0..MOST_ROWS / BLOCK)
        .map(|block| block * BLOCK..(block + 1) * BLOCK)
        .map(|block| block.map(|n| format!("key-{n}|{n}\n")).collect())
        .collect();
    let feed = {
        let (killed, rows) = (Arc::clone(&killed), Arc::clone(&rows));
        move |stdin: &mut ChildStdin| {
            for block in blocks {
                let is_last = killed.load(Ordering::Acquire);
                stdin.write_all(block.as_bytes()).expect("rows are taken");
                rows.fetch_add(BLOCK, Ordering::Relaxed);
                if is_last {
                    break;
                }
            }
        }
    };
    let loaded = std::thread::scope(|scope| {
        let mut write = cluster.command(["--json", "write", "i"]);
        let load = scope.spawn(move || run_fed(&mut write, feed));
        assert!(eventually(|| documents() > 0));
        signal(cluster.members()[1].pid, Signal::KILL);
        killed.store(true, Ordering::Release);
        load.join().expect("the load is run")
    });
    let rows = rows.load(Ordering::Relaxed);
    let summary = json(&loaded.stdout);
    let count = |field: &str| summary[field].as_u64().expect("a count");
    let (written, unknown) = (count("written"), count("unknown"));
    assert_eq!(written + count("existing") + count("failed") + unknown, rows, "{summary}");
    let said = loaded.stderr.lines().filter(|line| line.contains("unknown")).count();
    assert_eq!(said as u64, unknown);
    loaded.expect(i32::from(unknown > 0));
    let there = cluster.run(["keys", "i"]).expect(0).lines().count() as u64;
    assert!((written..=written + unknown).contains(&there), "{there} documents: {summary}");
    unknown
}
