//! `sherd import` against real clusters: every format, conflicts, rejects, bad input; `resuming`: an import
//! that stops, or is killed, and goes on.
//!
//! The test with kills runs a few rounds among the tests; for more:
//!
//! ```sh
//! SHERD_IMPORT_KILLS=50 cargo test --release --test import -- --nocapture
//! ```
//!
//! `SHERD_IMPORT_SEED` repeats the choices of an earlier run (though not its timing).

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod resuming;
#[path = "../support/mod.rs"]
mod support;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Cluster, PATIENCE, Process, Ran, eventually, from_environment, run, sherd, signal};
use tempfile::TempDir;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text:?}"))
}

/// A directory for inputs, in which the commands run, so that checkpoints are there too.
struct Dir(TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), content).expect("the file is written");
        name.to_owned()
    }

    fn command(&self, cluster: &Cluster, arguments: &[&str]) -> Command {
        let mut command = cluster.command(arguments);
        command.current_dir(self.0.path());
        command
    }

    #[track_caller]
    fn run(&self, cluster: &Cluster, arguments: &[&str]) -> Ran {
        run(&mut self.command(cluster, arguments), "")
    }

    #[track_caller]
    fn feed(&self, cluster: &Cluster, arguments: &[&str], input: impl AsRef<[u8]>) -> Ran {
        run(&mut self.command(cluster, arguments), input)
    }

    /// The rejected rows of a file.
    fn rejects(&self, name: &str) -> Vec<Value> {
        std::fs::read_to_string(self.path(name)).expect("rejects").lines().map(json).collect()
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

fn item(value: &rmpv::Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).expect("memory");
    bytes
}

#[test]
fn the_same_documents_come_out_of_every_format() {
    let (cluster, dir) = (Cluster::start(), Dir::new());
    let (mut rows, mut lines, mut objects) = (String::new(), String::new(), String::new());
    let (mut csv, mut tsv) = ("key,id,name,x\r\n".to_owned(), "id\tname\tx\n".to_owned());
    let mut stream = Vec::new();
    for n in 0..3000 {
        let (name, x) = (format!("na,me \"{n}\"\nü|"), f64::from(n) / 8.0);
        let document = json!({"id": n, "name": name, "x": x});
        rows += &format!("k{n}|{document}\n");
        lines += &format!("{{\"key\": \"k{n}\", \"record\": {document}}}\n");
        objects += &format!("{document}\n");
        let quoted = format!("\"{}\"", name.replace('"', "\"\""));
        csv += &format!("k{n},{n},{quoted},{x:?}\r\n");
        tsv += &format!("{n}\t{quoted}\t{x:?}\n");
        let record = rmpv::Value::Map(vec![
            ("id".into(), n.into()),
            ("name".into(), name.as_str().into()),
            ("x".into(), x.into()),
        ]);
        let key = format!("k{n}");
        let entry = vec![("key".into(), key.as_str().into()), ("record".into(), record)];
        stream.extend(item(&rmpv::Value::Map(entry)));
    }
    let inputs: [(&[&str], Vec<u8>); 8] = [
        (&["a.rows"], rows.clone().into_bytes()),
        (&["b.jsonl"], lines.clone().into_bytes()),
        (&["c.ndjson.gz"], gzip(lines.as_bytes())),
        (&["d", "--format", "jsonl", "--key", "k{id}"], objects.into_bytes()),
        (&["e.csv"], csv.into_bytes()),
        (&["f.tsv", "--key", "k{id}", "--schema", "id:int,name:string"], tsv.into_bytes()),
        (&["g.msgpack"], stream),
        // What a file is compressed by is told by its content, whatever its name says.
        (
            &["h.rows"],
            [gzip(&rows.as_bytes()[..rows.len() / 2]), gzip(&rows.as_bytes()[rows.len() / 2..])]
                .concat(),
        ),
    ];
    let mut expected = None;
    for (n, (arguments, content)) in inputs.iter().enumerate() {
        dir.file(arguments[0], content);
        let index = format!("i{n}");
        let arguments = [&["import", &index, "--force"], *arguments].concat();
        let ran = dir.run(&cluster, &arguments);
        assert_eq!(ran.stderr, "", "{arguments:?}");
        assert_eq!(ran.expect(0), "3000 written, 0 existing, 0 failed\n", "{arguments:?}");
        let cat = cluster.run(["cat", &index]).expect(0);
        assert_eq!(cat.lines().count(), 3000);
        assert_eq!(expected.get_or_insert_with(|| cat.clone()), &cat, "{arguments:?}");
        assert!(!dir.path(&format!("{index}.import")).exists());
    }
    // From standard input, with a dash and without.
    for (index, arguments) in [("s0", &["-"][..]), ("s1", &[])] {
        let arguments = [&["import", index, "--force", "--format", "rows"], arguments].concat();
        let ran = dir.feed(&cluster, &arguments, gzip(rows.as_bytes()));
        assert_eq!(ran.expect(0), "3000 written, 0 existing, 0 failed\n");
    }
    // Several files, and a glob.
    let half = rows.len() / 2 + rows[rows.len() / 2..].find("\nk").expect("a row") + 1;
    dir.file("part-1.rows", &rows[..half]);
    dir.file("part-2.rows", &rows[half..]);
    for name in ["part-3.rows", "part-4.rows", "part-5.rows"] {
        std::fs::create_dir(dir.path(name)).expect("a directory");
    }
    let passed_over = "sherd: part-*.rows matches directories, which are passed over: part-3.rows and 2 \
                       others\n";
    for (index, files, told) in
        [("p0", &["part-*.rows"][..], passed_over), ("p1", &["part-2.rows", "part-1.rows"], "")]
    {
        let ran = dir.run(&cluster, &[&["import", index, "--force"], files].concat());
        assert_eq!(ran.stderr, told);
        assert_eq!(ran.expect(0), "3000 written, 0 existing, 0 failed\n");
        assert_eq!(cluster.run(["cat", index]).expect(0), expected.clone().expect("there"));
    }
}

#[test]
fn a_key_that_is_there_is_skipped_overwritten_or_rejected() {
    let (cluster, dir) = (Cluster::start(), Dir::new());
    let file = dir.file("a.rows", "1|new\n2|new\n3|new\n3|newer\n");
    let prepare = || {
        cluster.run(["index", "drop", "i"]);
        cluster.feed(["write", "i", "--force"], "1|old\n").expect(0);
    };
    let records = || -> Vec<String> {
        let cat = cluster.run(["--json", "cat", "i"]).expect(0);
        let mut all: Vec<_> = cat.lines().map(json).collect();
        all.sort_by_key(|it| it["key"].to_string());
        all.iter().map(|it| it["record"].as_str().unwrap().to_owned()).collect()
    };
    prepare();
    let ran = dir.run(&cluster, &["import", "i", &file]);
    assert_eq!(ran.expect(0), "2 written, 2 existing, 0 failed\n");
    assert_eq!(records(), ["old", "new", "new"]);

    prepare();
    let ran = dir.run(&cluster, &["import", "i", &file, "--on-conflict", "overwrite", "--json"]);
    let counts = json(&ran.expect(0));
    assert_eq!(counts, json!({"written": 4, "existing": 0, "expired": 0, "failed": 0}));
    assert_eq!(records(), ["new", "new", "newer"]);

    prepare();
    let arguments = ["import", "i", &file, "--on-conflict", "fail", "--rejects", "r.jsonl"];
    let ran = dir.run(&cluster, &arguments);
    assert_eq!(ran.stderr.lines().count(), 2, "{}", ran.stderr);
    assert_eq!(ran.expect(1), "2 written, 0 existing, 2 failed\n");
    assert_eq!(records(), ["old", "new", "new"]);
    let rejects = dir.rejects("r.jsonl");
    let rows: Vec<_> = rejects.iter().map(|it| (it["line"].clone(), it["row"].clone())).collect();
    assert_eq!(rows, [(json!(1), json!("1|new")), (json!(4), json!("3|newer"))]);
    assert!(
        rejects[0]["reason"].as_str().unwrap().contains("is in the index already"),
        "{rejects:?}"
    );
}

#[test]
fn rejected_rows_are_kept_as_they_were_and_too_many_end_the_import() {
    let (cluster, dir) = (Cluster::start(), Dir::new());
    let long = "k".repeat(1025);
    let lines = [
        &b"{\"key\": \"a\", \"record\": 1}\n{\"key\": \"b\", \"record\": NaN}\r\n\nnonsense\n\xff\n{\"key\": \""[..],
        long.as_bytes(),
        b"\", \"record\": 1}\n{\"key\": \"z\", \"record\": 1}",
    ];
    let file = dir.file("a.jsonl", lines.concat());
    let ran = dir.run(&cluster, &["import", "i", &file, "--force", "--rejects", "r.jsonl"]);
    assert_eq!(ran.stderr.lines().count(), 4, "{}", ran.stderr);
    let first = "sherd: a.jsonl line 2: NaN is no JSON number; write {\"$float\": \"NaN\"}\n";
    assert!(ran.stderr.starts_with(first), "{}", ran.stderr);
    assert_eq!(ran.expect(1), "2 written, 0 existing, 4 failed\n");
    let rejects = dir.rejects("r.jsonl");
    assert_eq!(
        rejects[0],
        json!({
            "file": "a.jsonl", "line": 2, "row": "{\"key\": \"b\", \"record\": NaN}",
            "reason": "NaN is no JSON number; write {\"$float\": \"NaN\"}",
        })
    );
    assert_eq!((&rejects[1]["line"], &rejects[1]["row"]), (&json!(4), &json!("nonsense")));
    assert_eq!((&rejects[2]["line"], &rejects[2]["row_base64"]), (&json!(5), &json!("/w==")));
    assert_eq!(rejects[3]["line"], json!(6));
    // What was rejected can be put right and imported, and nothing else is left to do.
    assert!(!dir.path("i.import").exists());

    // The rows before are written; the import can go on.
    let many: String = (0..5000)
        .map(|n| if n % 10 == 9 { "bad\n".to_owned() } else { format!("{n}|1\n") })
        .collect();
    let file = dir.file("many.rows", many);
    let stops = ["--force", "--max-errors", "99", "--rejects", "rows.jsonl"];
    let ran = dir.run(&cluster, &[&["import", "j", &file], &stops[..]].concat());
    assert!(ran.stderr.contains("more than 99 rows failed"), "{}", ran.stderr);
    // Twenty are said.
    assert!(ran.stderr.lines().count() <= 23, "{}", ran.stderr);
    ran.expect(1);
    let ran = dir.run(&cluster, &["import", "j", &file]);
    assert!(ran.stderr.contains("--resume goes on"), "{}", ran.stderr);
    ran.expect(1);
    // A dry run emptied the file of rejects, and there was no going on.
    let with_rejects = ["import", "j", &file, "--rejects", "rows.jsonl"];
    let ran = dir.run(&cluster, &[&with_rejects[..], &["--dry-run"]].concat());
    assert!(ran.stderr.contains("which --resume needs"), "{}", ran.stderr);
    ran.expect(2);
    let ran = dir.run(&cluster, &[&with_rejects[..], &["--resume"]].concat());
    assert_eq!(ran.expect(1), "4500 written, 0 existing, 500 failed\n");
    assert_eq!(dir.rejects("rows.jsonl").len(), 500);
    assert_eq!(cluster.run(["keys", "j"]).expect(0).lines().count(), 4500);
    assert!(!dir.path("j.import").exists());
}

#[test]
fn a_full_shard_rejects_rows_with_the_reason() {
    let (cluster, dir) = (Cluster::start_with(["--port", "0", "--size", "1KB"]), Dir::new());
    let rows: String = (0..100).map(|n| format!("key{n}|{}\n", "x".repeat(90))).collect();
    let file = dir.file("a.rows", rows);
    let arguments = ["import", "i", &file, "--force", "--json", "--rejects", "r.jsonl"];
    let counts = json(&dir.run(&cluster, &arguments).expect(1));
    let failed = counts["failed"].as_u64().unwrap();
    assert!((78..=90).contains(&failed), "{counts}");
    assert_eq!(counts["written"], json!(100 - failed));
    let rejects = dir.rejects("r.jsonl");
    assert_eq!(rejects.len() as u64, failed);
    let of = |it: &Value| format!("key{}|{}", it["line"].as_u64().unwrap() - 1, "x".repeat(90));
    assert!(rejects.iter().all(|it| it["row"] == json!(of(it))), "{rejects:?}");
    assert!(
        rejects.iter().all(|it| it["reason"].as_str().unwrap().contains("full")),
        "{rejects:?}"
    );
}

#[test]
fn documents_expire_when_the_input_says_or_after_a_time_from_the_beginning() {
    let (cluster, dir) = (Cluster::start(), Dir::new());
    let file = dir.file(
        "a.jsonl",
        "{\"key\": \"past\", \"record\": 1, \"expires_at\": 5}\n\
         {\"key\": \"future\", \"record\": 1, \"expires_at\": 4102444800000}\n\
         {\"key\": \"unsaid\", \"record\": 1}\n{\"key\": \"too\", \"record\": 1, \"expires_at\": 0}\n",
    );
    let ran = dir.run(&cluster, &["import", "i", &file, "--force", "--ttl", "1h"]);
    assert_eq!(ran.expect(0), "3 written, 0 existing, 0 failed, 1 expired\n");
    let cat = cluster.run(["--json", "cat", "i"]).expect(0);
    let at = |key: &str| {
        let mut items = cat.lines().map(json);
        items.find(|it| it["key"] == json!(key)).map(|it| it["expires_at"].as_u64())
    };
    assert_eq!((at("past"), at("future")), (None, Some(Some(4_102_444_800_000))));
    // The same moment for all.
    assert_eq!(at("unsaid"), at("too"));
    assert!(at("too").flatten().is_some());
}

#[test]
fn what_is_wrong_with_the_input_is_told_and_what_to_do() {
    let (cluster, dir) = (Cluster::start(), Dir::new());
    cluster.run(["index", "create", "i"]).expect(0);
    let rows: String = (0..20_000).map(|n| format!("{n}|{n}\n")).collect();
    let whole = gzip(rows.as_bytes());
    dir.file("cut.rows.gz", &whole[..whole.len() - 100]);
    dir.file("a.json", "{}");
    dir.file("a.csv", "a,b\n1,2\n");
    dir.file("a.msgpack", b"\x82\xa3key\xa1a\xc1");
    dir.file("a.rows", "1|1\n");
    dir.file("cr.csv", "key,a\rk,1\r");
    std::fs::create_dir(dir.path("dir-1")).expect("a directory");
    dir.file("a.jsonl.digest.json", "nonsense");
    dir.file("a.jsonl", "");
    for (arguments, status, expected) in [
        (&["none.rows"][..], 1, "none.rows"),
        (&["none-*.rows"], 1, "no file matches none-*.rows"),
        (&["dir-*"], 1, "dir-* matches a directory, which is passed over: dir-1\n"),
        (&["dir-*"], 1, "no file matches dir-*"),
        (&["a.json"], 2, "say it with --format"),
        (&["-", "-"], 2, "can be read once"),
        (&["."], 2, "is a directory"),
        (&["a.rows", "--key", "id"], 2, "--key is for objects"),
        (&["a.rows", "--schema", "id:int"], 2, "--schema is for columns"),
        (&["a.csv", "--schema", "id"], 2, "has no type"),
        (&["a.csv", "--key", "{id"], 2, "other half"),
        (&["a.rows", "--rate", "0"], 2, "never end"),
        (&["a.rows", "--format", "xml"], 2, "xml"),
        (&["a.rows", "--resume"], 1, "no checkpoint i.import to go on from"),
        (&["a.csv"], 1, "say with --key which of a, b"),
        (&["a.msgpack"], 1, "item 1 at byte 0: it is no MessagePack"),
        (&["a.jsonl"], 1, "a.jsonl.digest.json does not say"),
        (&["cr.csv"], 1, "if all lines end with CR alone"),
        (&["cut.rows.gz"], 1, "the compressed data are cut off"),
    ] {
        let ran = dir.run(&cluster, &[&["import", "i"], arguments].concat());
        assert_eq!(ran.status, status, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(expected), "{arguments:?}: {ran:?}");
        _ = std::fs::remove_file(dir.path("i.import"));
    }
    // Nothing behind a quote that is not closed is taken for a row, and what was before is written.
    let lines = "t,1\n".repeat(8 << 20);
    dir.file("open.csv", format!("key,a\nbefore,1\nopen,\"1\n{lines}"));
    let ran = dir.run(&cluster, &["import", "i", "open.csv", "--json"]);
    let told = "sherd: cannot read open.csv: the quote that opens cell 2 in line 3 is not closed";
    assert!(ran.stderr.contains(told), "{}", ran.stderr);
    assert_eq!(json(&ran.expect(1))["written"], json!(1));
    std::fs::remove_file(dir.path("i.import")).expect("it can go on");
    // What came before the fault is written.
    assert!(cluster.run(["keys", "i"]).expect(0).lines().count() > 1000);
    dir.run(&cluster, &["import", "none", "a.rows"]).expect(3);

    // An import that goes on is that of before.
    dir.file("b.csv", "key,a\n1,2\n");
    dir.file("c.csv", "a,b\n");
    dir.run(&cluster, &["import", "i", "b.csv", "c.csv"]).expect(1);
    for (arguments, expected) in [
        (
            &["b.csv"][..],
            "it began with 2 inputs, and this one has 1; go on with what it was, or begin anew after `rm i.import`",
        ),
        (
            &["c.csv", "b.csv"],
            "it began with b.csv as csv, and this one has c.csv as csv in its place",
        ),
        (
            &["b.csv", "c.csv", "--ttl", "1h"],
            "it began without --ttl, and this one is with --ttl 1h;",
        ),
        (
            &["b.csv", "c.csv", "--on-conflict", "fail"],
            "with --on-conflict skip, and this one is with --on-conflict fail",
        ),
        (
            &["b.csv", "c.csv", "--rejects", "r"],
            "it began without --rejects, and this one is with --rejects r",
        ),
        (&["b.csv", "c.csv", "--key", "a"], "it began without --key, and this one is with --key a"),
    ] {
        let ran = dir.run(&cluster, &[&["import", "i", "--resume"], arguments].concat());
        assert!(ran.stderr.contains(expected), "{arguments:?}: {ran:?}");
        ran.expect(1);
    }
    cluster.run(["index", "drop", "i"]).expect(0);
    cluster.run(["index", "create", "i"]).expect(0);
    let ran = dir.run(&cluster, &["import", "i", "--resume", "b.csv", "c.csv"]);
    assert!(ran.stderr.contains("was dropped and created again"), "{ran:?}");
    dir.file("b.csv", "key,a\n1,3\n");
    std::fs::remove_file(dir.path("i.import")).expect("there is one");
    dir.run(&cluster, &["import", "i", "b.csv", "c.csv"]).expect(1);
    dir.file("b.csv", "key,a\n1,30\n");
    let ran = dir.run(&cluster, &["import", "i", "--resume", "b.csv", "c.csv"]);
    assert!(ran.stderr.contains("b.csv has changed since"), "{ran:?}");
}

#[test]
fn a_dry_run_reads_everything_without_a_cluster() {
    let dir = Dir::new();
    dir.file("a.rows", "1|1\nbad\n2|2\n");
    dir.file("b.jsonl", "{\"key\": \"a\", \"record\": 1, \"expires_at\": 1}\n");
    let mut command = sherd();
    command.args(["-b", "127.0.0.1:1", "import", "i", "--dry-run", "*.*", "--rejects", "r"]);
    let ran = run(command.current_dir(dir.0.path()), "");
    assert_eq!(ran.expect(1), "2 rows to be written, 1 failed, 1 expired; nothing was written\n");
    assert_eq!(dir.rejects("r").len(), 1);
    assert!(!dir.path("i.import").exists());
}

/// The most memory that a process had resident so far, in bytes.
fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kilobytes: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    kilobytes * 1024
}

/// Rows of six million names took 600 MB, a string in the place of an entry 400 MB.
#[test]
fn long_rows_take_bounded_memory_whatever_is_in_them() {
    const MOST: u64 = 240 << 20;
    let dir = Dir::new();
    let one_name =
        format!("{{\"key\": \"k\", \"record\": {{{}\"\": 0}}}}\n", "\"\": 0,".repeat(4_800_000));
    let private = format!("\"{}\"\n", "\u{e000}".repeat(10_000_000));
    let rows = [
        ("jsonl", one_name.clone()),
        ("jsonl", private),
        ("jsonl", "[".repeat(30_000_000) + "\n"),
        ("rows", format!("k|{one_name}")),
        ("rows", "\u{1}".repeat(30_000_000) + "\n"),
    ];
    for (place, (format, row)) in rows.into_iter().enumerate() {
        let mut command = sherd();
        command.args(["import", "i", "--dry-run", "--rejects", "r", "--format", format]);
        command.current_dir(dir.path("")).stdin(Stdio::piped());
        let mut child =
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("starts");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        for _ in 0..2 {
            stdin.write_all(row.as_bytes()).expect("the row is taken");
        }
        // It waits for the end; all of the first row is read, and most of the second.
        let peak = peak_memory(child.id());
        drop(stdin);
        let ran = child.wait_with_output().expect("it ends");
        assert!(peak < MOST, "row {place} took {peak} bytes");
        // Of what is quoted of a row there is a bounded piece.
        assert!(ran.stderr.len() < 2000, "row {place}: {} bytes said", ran.stderr.len());
    }
}

#[test]
fn a_file_is_checked_against_what_was_exported() {
    let (cluster, dir) = (Cluster::start(), Dir::new());
    let lines: String =
        (0..2500).map(|n| format!("{{\"key\": \"{n}\", \"record\": [{n}]}}\n")).collect();
    dir.file("a.jsonl", &lines);
    dir.run(&cluster, &["import", "i", "a.jsonl", "--force"]).expect(0);
    let digest = cluster.run(["digest", "i"]).expect(0);
    let sidecar = |documents: u64, digest: &str| {
        let (digest, format) = (digest.trim(), "jsonl");
        let index = "i";
        json!({"index": index, "documents": documents, "digest": digest, "format": format})
            .to_string()
    };
    dir.file("a.jsonl.digest.json", sidecar(2500, &digest));
    // The name of the index is that of the export.
    let ran = dir.run(&cluster, &["import", "j", "a.jsonl", "--force"]);
    assert_eq!(ran.expect(0), "2500 written, 0 existing, 0 failed\n");
    for (documents, of, expected) in [
        (2499, &digest, "a.jsonl is not what was exported: it has 2500 documents, and had 2499"),
        (2500, &"0".repeat(32), "a.jsonl is not what was exported: its digest is"),
    ] {
        dir.file("a.jsonl.digest.json", sidecar(documents, of));
        let ran = dir.run(&cluster, &["import", "j", "a.jsonl"]);
        assert!(ran.stderr.contains(expected), "{ran:?}");
        assert_eq!(ran.expect(1), "0 written, 2500 existing, 0 failed\n");
    }
}

#[test]
fn an_export_that_is_read_by_other_keys_is_checked_for_its_count() {
    let (cluster, dir) = (Cluster::start(), Dir::new());
    let rows: String = (0..50).map(|n| format!("k{n}|{{\"id\": {n}, \"zip\": {n}}}\n")).collect();
    cluster.feed(["write", "i", "--force"], rows).expect(0);
    let export = ["export", "i", "-o", "a.csv", "--columns", "id,zip"];
    dir.run(&cluster, &export).expect(0);
    let unchecked = "sherd: a.csv has as many documents as were exported, 50; their digest cannot be \
                     checked, for --key or --schema makes others of them\n";
    for (index, options, told) in [
        ("j", &["--key", "{zip}:{id}"][..], unchecked),
        ("k", &["--schema", "zip:string"], unchecked),
        // The same documents as without.
        ("l", &["--schema", "zip:int"], ""),
    ] {
        let ran = dir.run(&cluster, &[&["import", index, "a.csv", "--force"], options].concat());
        assert_eq!(ran.stderr, told, "{options:?}");
        assert_eq!(ran.expect(0), "50 written, 0 existing, 0 failed\n");
    }
    let whole = std::fs::read_to_string(dir.path("a.csv")).expect("an export");
    dir.file("a.csv", &whole[..whole.trim_end().rfind('\n').expect("lines") + 1]);
    let ran = dir.run(&cluster, &["import", "m", "a.csv", "--force", "--key", "id"]);
    assert!(ran.stderr.contains("it has 49 documents, and had 50"), "{}", ran.stderr);
    ran.expect(1);
}

#[test]
fn what_is_cut_or_written_is_no_input() {
    let (cluster, dir) = (Cluster::start(), Dir::new());
    let rows = "{\"key\":\"a\",\"record\":1}\nbad\n";
    dir.file("a.jsonl", rows);
    std::os::unix::fs::symlink(dir.path("a.jsonl"), dir.path("same")).expect("a link");
    for (rejects, dry) in [("a.jsonl", false), ("same", true), ("i.import", false)] {
        let mut arguments = vec!["import", "i", "a.jsonl", "--force", "--rejects", rejects];
        arguments.extend(dry.then_some("--dry-run"));
        let refused = dir.run(&cluster, &arguments);
        assert!(refused.stderr.contains("would take the place of"), "{}", refused.stderr);
        refused.expect(2);
        assert_eq!(std::fs::read_to_string(dir.path("a.jsonl")).expect("it is there"), rows);
    }
    // What it wrote before does not become an input, so the same command says the same.
    for _ in 0..2 {
        let ran =
            dir.run(&cluster, &["import", "i", "*.jsonl", "--force", "--rejects", "bad.jsonl"]);
        assert!(ran.stdout.contains("1 failed"), "{}{}", ran.stdout, ran.stderr);
        ran.expect(1);
        assert_eq!(dir.rejects("bad.jsonl").len(), 1);
    }
}

#[test]
fn an_input_that_changes_and_an_index_that_is_dropped_are_told() {
    let (cluster, dir) = (Cluster::start(), Dir::new());
    let rows: String = (0..200).map(|n| format!("{n}|{n}\n")).collect();
    for (name, told) in
        [("changed", "was changed while it was read"), ("gone", "was dropped while")]
    {
        cluster.run(["index", "create", name]).expect(0);
        let file = dir.file(&format!("{name}.rows"), &rows);
        // The rate has it wait before it sends the rows, and end the input behind them.
        let arguments = ["import", name, &file, "--rate", "100"];
        let mut importing = Process::start(&mut dir.command(&cluster, &arguments));
        assert!(eventually(|| dir.path(&format!("{name}.import")).exists()), "it begins");
        if name == "changed" {
            dir.file(&file, rows.clone() + "more|1\n");
        } else {
            cluster.run(["index", "drop", name]).expect(0);
            cluster.run(["index", "create", name]).expect(0);
        }
        assert_eq!(importing.wait().code(), Some(1), "{}", importing.stderr());
        assert!(importing.stderr().contains(told), "{}", importing.stderr());
    }
}
