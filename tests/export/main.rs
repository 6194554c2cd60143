//! Exports from real clusters: what is in a file; `resuming`: what becomes of one that is interrupted.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod resuming;
#[path = "../support/mod.rs"]
mod support;
#[allow(dead_code, reason = "not every test needs every helper")]
#[path = "../../engine/tests/common/tmpfs.rs"]
mod tmpfs;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use flate2::read::{GzDecoder, MultiGzDecoder};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use serde_json::Value;
use sherd_client::{Client, Condition, Expiry, Mutation, Options};
use support::by_hand::{ByXxh3, Spare};
use support::nodes::Nodes;
use support::{Cluster, Process, eventually, is_running, run, sherd, signal};
use tmpfs::Tmpfs;

/// Enough for some tens of blocks, each of which an export can be gone on with after.
const LARGE_DOCUMENTS: u64 = 1600;
const LARGE_DOCUMENT_BYTES: usize = 16 << 10;

/// Runs client code from a test that is otherwise about processes.
fn with_client<T>(cluster: &Cluster, work: impl AsyncFnOnce(Client) -> T) -> T {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        work(Client::connect(&cluster.address.to_string(), Options::default()).await.unwrap()).await
    })
}

/// Documents that take their time to be exported, a few of which expire one day.
fn fill_large(cluster: &Cluster, index: &str) {
    with_client(cluster, async |client| {
        client.create_index(index).await.unwrap();
        let mut rng = StdRng::seed_from_u64(7);
        for first in (0..LARGE_DOCUMENTS).step_by(200) {
            let write = |i: u64| {
                // A binary, which is base64 in JSON.
                let mut document = vec![0xc5, (LARGE_DOCUMENT_BYTES >> 8) as u8, 0];
                document.resize(3 + LARGE_DOCUMENT_BYTES, 0);
                rng.fill(&mut document[3..]);
                Mutation::Write {
                    index: index.into(),
                    key: format!("key{i}"),
                    document: Bytes::from(document),
                    condition: Condition::Absent,
                    expiry: if i.is_multiple_of(9) {
                        Expiry::At(4_102_444_800_000)
                    } else {
                        Expiry::Never
                    },
                }
            };
            let batch: Vec<_> = (first..first + 200).map(write).collect();
            for written in client.batch(&batch).await {
                written.unwrap();
            }
        }
    });
}

/// Rows of small documents of several kinds.
fn fill_small(cluster: &Cluster, index: &str, documents: usize) {
    let rows: String = (0..documents)
        .map(|i| match i % 4 {
            0 => format!("{index}:{i}|{{\"n\": {i}, \"text\": \"a|b\\n\\\"c\\\" ü\"}}\n"),
            1 => format!("{index}:{i}|{i}.5\n"),
            2 => format!("other:{i}|[{i}, null, true]\n"),
            _ => format!("{index}:{i}|{{\"$binary\": \"aGk=\"}}\n"),
        })
        .collect();
    cluster.feed(["write", index, "--force"], rows).expect(0);
}

fn digest(cluster: &Cluster, index: &str) -> String {
    cluster.run(["digest", index]).expect(0).trim().to_owned()
}

fn sidecar(file: &Path) -> Value {
    let path = PathBuf::from(format!("{}.digest.json", file.display()));
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The keys of a file of JSON lines, in its order.
fn keys_of(lines: &str) -> Vec<String> {
    let key = |line: &str| {
        serde_json::from_str::<Value>(line).unwrap()["key"].as_str().unwrap().to_owned()
    };
    lines.lines().map(key).collect()
}

/// The names in a directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_has_all_documents_in_ring_order_and_says_what_it_has() {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "3"]);
    fill_small(&cluster, "i", 2000);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("i.jsonl");
    let path = file.to_str().unwrap();
    let said = cluster.run(["export", "i", "-o", path]).expect(0);
    assert!(said.starts_with("2000 documents of \"i\" exported to "), "{said}");
    let lines = fs::read_to_string(&file).unwrap();
    let in_ring_order = cluster.run(["keys", "i"]).expect(0);
    assert_eq!(keys_of(&lines), in_ring_order.lines().collect::<Vec<_>>());
    let says = sidecar(&file);
    assert_eq!(says["documents"], 2000);
    assert_eq!(says["digest"], digest(&cluster, "i"));
    assert_eq!(says["bytes"], lines.len());
    let crc = crc32fast::hash(lines.as_bytes());
    assert_eq!(says["crc32"], format!("{crc:08x}"));
    assert_eq!(names(dir.path()), ["i.jsonl", "i.jsonl.digest.json"], "nothing else is left");

    // The same to standard output, and what there is to say on standard error.
    let ran = cluster.run(["export", "i"]);
    assert_eq!(ran.stdout, lines);
    assert!(ran.stderr.contains(&digest(&cluster, "i")), "{ran:?}");
    let ran = cluster.run(["--json", "export", "i"]);
    assert_eq!(ran.stdout, lines);
    assert_eq!(serde_json::from_str::<Value>(&ran.stderr).unwrap(), says, "a line of JSON alone");

    // Compressed, it is the same inside; a file that is there is replaced.
    let compressed = dir.path().join("i.jsonl.gz");
    fs::write(&compressed, "before").unwrap();
    cluster.run(["export", "i", "-o", compressed.to_str().unwrap(), "--jobs", "1"]).expect(0);
    let mut unpacked = String::new();
    let reader = fs::File::open(&compressed).unwrap();
    MultiGzDecoder::new(reader).read_to_string(&mut unpacked).unwrap();
    assert_eq!(unpacked, lines);
    assert_eq!(sidecar(&compressed)["compression"], "gzip");
    assert_eq!(sidecar(&compressed)["digest"], says["digest"]);

    // As JSON, for programs.
    let said = cluster.run(["--json", "export", "i", "-o", path]).expect(0);
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap(), says);
    let missing = cluster.run(["export", "nothing"]);
    assert_eq!((missing.status, missing.stdout.as_str()), (3, ""), "{}", missing.stderr);
}

/// They were JSON lines under a name that said something else.
#[test]
fn a_file_is_what_its_name_says() {
    let cluster = Cluster::start();
    fill_small(&cluster, "i", 10);
    let dir = tempfile::tempdir().unwrap();
    let export = |name: &str, options: &[&str]| {
        let mut command = cluster.command(["export", "i", "-o"]);
        run(command.arg(dir.path().join(name)).args(options), "")
    };
    for (name, options, what) in [
        ("a.jsonl.bz2", &[][..], ".bz2 is none of gzip (.gz) and zstd (.zst)"),
        ("a.jsonl.LZ4", &["--format", "jsonl", "--compress", "plain"], ".lz4 is none of"),
        ("a.parquet", &[], "say it with --format, one of rows, jsonl, csv, tsv and msgpack"),
        ("a", &[], "say it with --format"),
        ("a.gz", &[], "say it with --format"),
        (
            "a.jsonl",
            &["--columns", "n,text"],
            "--columns is for csv and tsv, and this is to be jsonl",
        ),
        ("a.csv", &["--columns", "n,text", "--format", "rows"], "--columns is for csv and tsv"),
    ] {
        let ran = export(name, options);
        assert!(ran.stderr.contains(what), "{name} {options:?}: {ran:?}");
        ran.expect(2);
    }
    assert_eq!(names(dir.path()), [""; 0]);
    export("a.parquet", &["--format", "jsonl"]).expect(0);
    assert_eq!(sidecar(&dir.path().join("a.parquet"))["format"], "jsonl");
}

#[test]
fn parts_of_the_ring_and_of_the_keys_come_to_the_whole() {
    let cluster = Cluster::start();
    fill_small(&cluster, "i", 1000);
    let export = |options: &[&str]| {
        let ran = run(&mut cluster.command(["export", "i"].iter().chain(options)), "");
        ran.expect(0)
    };
    let all = export(&[]);
    let parts =
        ["0..0.3", "0.3..0.5", "0.5..0.7", "0.7..1"].map(|range| export(&["--range", range]));
    assert!(parts.iter().all(|part| !part.is_empty()));
    assert_eq!(parts.concat(), all);
    let (others, ours) = (export(&["--prefix", "other:"]), export(&["--prefix", "i:"]));
    assert_eq!(keys_of(&others).len(), 250);
    assert!(keys_of(&others).iter().all(|key| key.starts_with("other:")));
    assert_eq!(keys_of(&ours).len(), 750);
    assert_eq!(export(&["--prefix", "no"]), "");

    // What is said is of the part, not of the whole.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("part.jsonl");
    let path = file.to_str().unwrap();
    export(&["--range", "0.25..0.75", "--prefix", "i:", "-o", path]);
    let says = sidecar(&file);
    assert_eq!(says["range"], serde_json::json!([0.25, 0.75]));
    assert_eq!(says["prefix"], "i:");
    assert_eq!(says["documents"], fs::read_to_string(&file).unwrap().lines().count());
    assert_ne!(says["digest"], digest(&cluster, "i"));
    for range in ["0.5", "0.5..0.2", "0..2", "x..y"] {
        cluster.run(["export", "i", "--range", range]).expect(2);
    }
}

#[test]
fn all_indexes_go_to_a_directory_that_is_there_when_it_is_whole() {
    let cluster = Cluster::start();
    for (index, documents) in [("a", 100), ("b.c", 0), ("d", 300)] {
        cluster.run(["index", "create", index]).expect(0);
        fill_small(&cluster, index, documents);
    }
    let dir = tempfile::tempdir().unwrap();
    let all = dir.path().join("all");
    // With a slash, as shells complete it.
    let path = &format!("{}/", all.display());
    cluster.run(["export", "--all", "-o", path, "--compress", "gzip"]).expect(0);
    let files = ["a.jsonl.gz", "b.c.jsonl.gz", "d.jsonl.gz"];
    let with_sidecars = files.map(|file| [file.to_owned(), format!("{file}.digest.json")]).concat();
    assert_eq!(names(&all), with_sidecars);
    assert_eq!(names(dir.path()), ["all"]);
    for (file, index) in files.iter().zip(["a", "b.c", "d"]) {
        assert_eq!(sidecar(&all.join(file))["digest"], digest(&cluster, index));
    }
    let again = cluster.run(["export", "--all", "-o", path]);
    assert!(again.stderr.contains("is there already"), "{again:?}");
    again.expect(2);
    cluster.run(["export", "--all"]).expect(2);

    // Nothing is left of one that is refused before anything is whole, which no --resume could finish.
    cluster.run(["write", "a", "not|held", "1"]).expect(0);
    let third = dir.path().join("third");
    // Of that document alone: no other shard has anything to write meanwhile.
    let refused =
        ["export", "--all", "-o", third.to_str().unwrap(), "--format", "rows", "--prefix", "not"];
    for options in [&[][..], &["--resume"]] {
        let refused = run(cluster.command(refused).args(options), "");
        assert!(refused.stderr.contains("has no place in this format"), "{refused:?}");
        refused.expect(1);
        assert_eq!(names(dir.path()), ["all"]);
    }
    cluster.run(["remove", "a", "not|held"]).expect(0);

    // Of one that did not come to its end, what is whole stays as it is.
    cluster.run(["write", "d", "not|held", "1"]).expect(0);
    let (second, partial) = (dir.path().join("second"), dir.path().join("second.partial"));
    let second = second.to_str().unwrap();
    let of_rows = ["export", "--all", "-o", second, "--format", "rows"];
    let failed = cluster.run(of_rows);
    assert!(failed.stderr.contains("has no place in this format"), "{failed:?}");
    failed.expect(1);
    let refused = cluster.run(of_rows);
    assert!(refused.stderr.contains("--resume"), "{refused:?}");
    refused.expect(1);
    let resumed =
        |options: &[&str]| run(cluster.command(of_rows).arg("--resume").args(options), "");
    let other = resumed(&["--prefix", "key"]);
    assert!(other.stderr.contains("with other options"), "{other:?}");
    other.expect(1);
    fs::write(partial.join("a.rows"), "whole").unwrap();
    cluster.run(["remove", "d", "not|held"]).expect(0);
    resumed(&[]).expect(0);
    assert_eq!(fs::read_to_string(dir.path().join("second/a.rows")).unwrap(), "whole");
    let files = ["a.rows", "b.c.rows", "d.rows"];
    let with_sidecars = files.map(|file| [file.to_owned(), format!("{file}.digest.json")]).concat();
    assert_eq!(names(&dir.path().join("second")), with_sidecars);
    assert!(!partial.exists());
}

#[test]
fn shards_are_read_at_the_same_time() {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "3"]);
    fill_small(&cluster, "i", 600);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("i.jsonl");
    let members = cluster.members();
    let first = members.iter().find(|member| member.name == "shard0").unwrap().pid;
    signal(first, Signal::STOP);
    let mut export = cluster.command(["export", "i", "-o", file.to_str().unwrap()]);
    let exporting = std::thread::spawn(move || run(&mut export, ""));
    let checkpoint = dir.path().join("i.jsonl.partial.json");
    let done = || {
        let text = fs::read_to_string(&checkpoint).unwrap_or_default();
        let checkpoint: Value = serde_json::from_str(&text).unwrap_or_default();
        let parts = checkpoint["parts"].as_array().cloned().unwrap_or_default();
        parts.iter().map(|part| part["done"] == true).collect::<Vec<_>>()
    };
    // The others are done while the first one, whose documents come before theirs, does not answer.
    let others = eventually(|| done() == [false, true, true]);
    let was_there = file.exists();
    signal(first, Signal::CONT);
    exporting.join().unwrap().expect(0);
    assert!(others && !was_there);
    assert_eq!(sidecar(&file)["digest"], digest(&cluster, "i"));
    let in_ring_order = cluster.run(["keys", "i"]).expect(0);
    let lines = fs::read_to_string(&file).unwrap();
    assert_eq!(keys_of(&lines), in_ring_order.lines().collect::<Vec<_>>());
}

#[test]
fn nothing_is_lost_or_doubled_while_ranges_move() {
    let cluster = Cluster::start();
    fill_small(&cluster, "i", 3000);
    let expected = digest(&cluster, "i");
    let spare = Spare::start();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("i.jsonl");
    let mut exports = 0;
    for actions in
        [&["add", "third", &spare.address][..], &["merge", "shard0", "third"], &["rebalance"]]
    {
        let mut command = cluster.command(["cluster", "apply"].iter().chain(actions));
        let moving = std::thread::spawn(move || run(&mut command, ""));
        loop {
            let is_over = moving.is_finished();
            cluster.run(["export", "i", "-o", file.to_str().unwrap()]).expect(0);
            assert_eq!(sidecar(&file)["digest"], expected);
            let lines = fs::read_to_string(&file).unwrap();
            let mut keys = BTreeMap::new();
            for key in keys_of(&lines) {
                *keys.entry(key).or_insert(0) += 1;
            }
            assert_eq!((keys.len(), keys.values().sum::<i32>()), (3000, 3000));
            let streamed = cluster.run(["export", "i"]).expect(0);
            assert!(streamed == lines, "{actions:?}");
            exports += 1;
            if is_over {
                break;
            }
        }
        moving.join().unwrap().expect(0);
    }
    println!("{exports} exports");
    assert!(exports > 3);
}

#[test]
fn whoever_reads_the_output_may_go() {
    let cluster = Cluster::start();
    fill_large(&cluster, "i");
    let mut command = cluster.command(["export", "i"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    reader.read_line(&mut line).unwrap();
    assert_eq!(keys_of(&line).len(), 1);
    drop(reader);
    assert!(eventually(|| child.try_wait().unwrap().is_some()), "it goes on for nobody");
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(0));
}

/// Imports a file into a cluster, which has nothing else of the index.
fn import(address: &str, index: &str, file: &Path) -> String {
    let mut command = sherd();
    command.args(["-b", address, "import", index, "--force"]).arg(file);
    run(command.current_dir(file.parent().unwrap()), "").expect(0)
}

fn digest_at(address: &str, index: &str) -> String {
    let mut command = sherd();
    run(command.args(["-b", address, "digest", index]), "").expect(0).trim().to_owned()
}

#[test]
fn every_format_comes_back_as_it_was() {
    let cluster = Cluster::start();
    fill_small(&cluster, "i", 800);
    cluster.feed(["write", "i", "--ttl", "7d"], "mortal|1\nmortal2|{\"a\": [1.0]}\n").expect(0);
    let other = Cluster::start_with(["--port", "0", "--shards", "3"]);
    let there = other.address.to_string();
    let dir = tempfile::tempdir().unwrap();
    let comes_back = |index: &str, name: &str, options: &[&str]| {
        let file = dir.path().join(name);
        let mut export = cluster.command(["export", index, "-o"]);
        run(export.arg(&file).args(options), "").expect(0);
        import(&there, index, &file);
        assert_eq!(digest_at(&there, index), sidecar(&file)["digest"], "{name}");
        other.run(["index", "drop", index]).expect(0);
        sidecar(&file)["digest"].as_str().unwrap().to_owned()
    };
    let expected = digest(&cluster, "i");
    for name in ["i.jsonl", "i.msgpack", "i.csv", "i.tsv", "i.ndjson.gz", "i.msgpack.zst"] {
        assert_eq!(comes_back("i", name, &[]), expected, "{name}");
    }
    // Rows hold no time of expiry: that is said, and left out if it is to be.
    let ran = cluster.run(["export", "i", "--format", "rows"]);
    assert!(ran.stderr.contains("under \"mortal"), "{ran:?}");
    assert!(ran.stderr.contains("--without-expiry"), "{ran:?}");
    ran.expect(1);
    assert_ne!(comes_back("i", "i.rows", &["--without-expiry"]), expected);

    let table: String = (0..300)
        .map(|i| format!("k{i}|{{\"n\": {i}, \"text\": \"{i}\", \"more, or less\": null}}\n"))
        .collect();
    cluster.feed(["write", "table", "--force"], table).expect(0);
    let columns = ["--columns", "n,text", "--jobs", "2"];
    let ran = run(cluster.command(["export", "table", "--format", "csv"]).args(columns), "");
    assert!(ran.stderr.contains("cannot be written as csv"), "{ran:?}");
    ran.expect(1);
    let all =
        cluster.run(["export", "table", "--format", "tsv", "--columns", "n,text,more, or less"]);
    // A comma in a name is none of the option's.
    all.expect(1);
    cluster
        .feed(
            ["write", "t", "--force"],
            "k1|{\"n\": 1, \"text\": \"1\"}\nk2|{\"n\": 2, \"text\": \"\"}\n",
        )
        .expect(0);
    assert_eq!(comes_back("t", "t.csv", &columns), digest(&cluster, "t"));
    let lines = fs::read_to_string(dir.path().join("t.csv")).unwrap();
    assert_eq!(lines.lines().next(), Some("key,n,text"));
    assert_eq!(lines.lines().count(), 3, "one header, though two shards were read: {lines}");
    cluster.run(["index", "create", "empty"]).expect(0);
    let empty = cluster.run(["export", "empty", "--format", "csv"]).expect(0);
    assert_eq!(empty, "key,record,version,expires_at\n");
}

/// What was left had no option that could finish it.
#[test]
fn an_export_that_is_refused_for_its_options_leaves_nothing() {
    let cluster = Cluster::start();
    let table: String = (0..300).map(|i| format!("k{i}|{{\"n\": {i}}}\n")).collect();
    cluster.feed(["write", "i", "--force", "--ttl", "7d"], table).expect(0);
    let dir = tempfile::tempdir().unwrap();
    let export = |name: &str, options: &[&str]| {
        let mut command = cluster.command(["export", "i", "-o"]);
        run(command.arg(dir.path().join(name)).args(options), "")
    };
    for (name, options, what, status) in [
        ("i.rows", &[][..], "--without-expiry", 1),
        ("i.csv", &["--columns", "m", "--without-expiry"], "cannot be written as csv", 1),
        ("i.csv", &["--columns", "n,n"], "--columns: the field \"n\" is there twice", 2),
        ("i.csv", &["--columns", "key"], "--columns: the field \"key\" cannot be a column", 2),
    ] {
        let ran = export(name, options);
        assert!(ran.stderr.contains(what), "{name} {options:?}: {ran:?}");
        assert!(!ran.stderr.contains("stays"), "{ran:?}");
        ran.expect(status);
        assert_eq!(names(dir.path()), [""; 0], "{name} {options:?}");
    }
    let to_dash = cluster.run(["export", "i", "-o", "-", "--format", "jsonl"]);
    assert!(to_dash.stderr.contains("leave -o out for standard output"), "{to_dash:?}");
    to_dash.expect(2);
    export("i.rows", &["--without-expiry", "--resume"]).expect(0);
}

/// A file of no bytes is no gzip member and no zstd frame: `zcat` called it an unexpected end.
#[test]
fn an_empty_index_is_a_compressed_file_of_nothing() {
    let cluster = Cluster::start();
    cluster.run(["index", "create", "empty"]).expect(0);
    let dir = tempfile::tempdir().unwrap();
    for name in ["e.msgpack.gz", "e.jsonl.zst"] {
        let file = dir.path().join(name);
        cluster.run(["export", "empty", "-o", file.to_str().unwrap()]).expect(0);
        let written = fs::read(&file).unwrap();
        let mut unpacked = Vec::new();
        match name.ends_with("gz") {
            true => _ = GzDecoder::new(&written[..]).read_to_end(&mut unpacked).unwrap(),
            // The frame's magic number, and no content.
            false => assert_eq!(written[..4], [0x28, 0xb5, 0x2f, 0xfd]),
        }
        assert!(unpacked.is_empty());
        let crc = crc32fast::hash(&written);
        assert_eq!(sidecar(&file)["crc32"], format!("{crc:08x}"));
        assert_eq!(sidecar(&file)["bytes"], written.len());
        assert_eq!(sidecar(&file)["documents"], 0);
        let said = import(&cluster.address.to_string(), "empty", &file);
        assert_eq!(said, "0 written, 0 existing, 0 failed\n");
    }
    let mut to_stdout = cluster.command(["export", "empty", "--compress", "gzip"]);
    let output = to_stdout.output().unwrap();
    assert_eq!(output.stdout, fs::read(dir.path().join("e.msgpack.gz")).unwrap());
}

/// Real documents: the 171,075 places of `../shared/data/cities.jsonl.gz`. Skipped, with a printed reason,
/// where that file is not there.
#[test]
fn real_documents_come_through_two_clusters_unchanged() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/cities.jsonl.gz");
    if !path.exists() {
        println!("skipped: {} is not there", path.display());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let given = dir.path().join("cities.jsonl.gz");
    fs::copy(&path, &given).unwrap();
    let cluster = Cluster::start();
    let here = cluster.address.to_string();
    assert_eq!(import(&here, "cities", &given), "171075 written, 0 existing, 0 failed\n");
    let first = dir.path().join("first.msgpack.zst");
    cluster.run(["export", "cities", "-o", first.to_str().unwrap()]).expect(0);

    let data = tempfile::tempdir().unwrap();
    let other = ByXxh3::start(data.path(), &["s0", "s1", "s2"]);
    assert_eq!(import(&other.address, "cities", &first), "171075 written, 0 existing, 0 failed\n");
    let second = dir.path().join("second.jsonl.gz");
    let mut export = sherd();
    export.args(["-b", &other.address, "export", "cities", "-o"]).arg(&second);
    run(&mut export, "").expect(0);
    let expected = digest(&cluster, "cities");
    assert_eq!(digest_at(&other.address, "cities"), expected);
    for file in [&first, &second] {
        assert_eq!(sidecar(file)["digest"], expected);
        assert_eq!(sidecar(file)["documents"], 171_075);
    }
    assert_ne!(sidecar(&first)["hash_method"], sidecar(&second)["hash_method"]);
    assert_ne!(sidecar(&first)["cluster"], sidecar(&second)["cluster"]);
}
