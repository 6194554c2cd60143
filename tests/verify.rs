//! `sherd verify` names each damage to a shard's directory by file and offset and changes nothing;
//! `sherd rebuild` makes the index anew.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;
use sherd_engine::index::{IndexStore, SledStore};
use support::by_hand::start_shard;
use support::{Cluster, Ran, run, sherd};

/// A segment has room for one of these, and for no two.
const LARGE: usize = 5_000_000;

/// A shard's directory as a real cluster left it: a sealed segment and one behind it, an index.
struct Shard {
    dir: tempfile::TempDir,
    /// What `cat` says.
    rows: String,
}

impl Shard {
    fn new() -> Self {
        let cluster = Cluster::start_with(["--port", "0", "--shards", "1"]);
        let large = "x".repeat(LARGE);
        let rows = format!("a|{large}\nb|{large}\nc|{large}\n");
        cluster.feed(["write", "large", "--force"], rows).expect(0);
        cluster.feed(["write", "small", "--force"], "1|one\n2|two\n3|three\n").expect(0);
        cluster.run(["remove", "small", "3"]).expect(0);
        let busy = run(sherd().args(["verify", "--data"]).arg(cluster.data().join("shard0")), "");
        assert_eq!(busy.status, 1);
        assert!(busy.stderr.contains("in use by another process; stop"), "{busy:#?}");
        let mut dir = cluster.stop();
        // The compactor may have filled the last segment with one batch, for which nothing would
        // testify.
        for round in 0.. {
            assert!(round < 10, "no batch testifies for the one before");
            let data = dir.as_ref().expect("the cluster's own directory").path().join("data");
            let cluster = Cluster::start_on(&data, []);
            let value = round.to_string();
            cluster.run(["write", "small", "1", &value, "--overwrite"]).expect(0);
            let rows = cluster.run(["cat", "small"]).expect(0);
            cluster.stop();
            let shard = Self { dir: dir.take().expect("a directory"), rows };
            if shard.is_first_record_testified_for() {
                return shard;
            }
            dir = Some(shard.dir);
        }
        unreachable!("the rounds end");
    }

    /// Whether a record in the last segment says that its first one was durable.
    fn is_first_record_testified_for(&self) -> bool {
        let bytes = fs::read(self.last()).expect("a segment");
        let lsn_at = |offset: usize| {
            let bytes = bytes[offset..offset + 8].try_into().expect("8 bytes");
            u64::from_le_bytes(bytes)
        };
        let offsets = records(&bytes);
        let first = lsn_at(offsets[0] + 8);
        offsets.into_iter().any(|offset| lsn_at(offset + 16) >= first)
    }

    fn cluster(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn data(&self) -> PathBuf {
        self.cluster().join("shard0")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.data().join(name)
    }

    /// The segments of the log.
    fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.file("log")).expect("a directory");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut segments: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|e| e == "log")).collect();
        segments.sort_unstable();
        segments
    }

    fn last(&self) -> PathBuf {
        self.segments().pop().expect("a segment")
    }

    /// Runs a command on the directory; asserts that none of its bytes changes.
    #[track_caller]
    fn look<const N: usize>(&self, arguments: [&str; N]) -> Ran {
        let before = fingerprints(&self.data());
        let ran = self.run(arguments);
        assert_eq!(fingerprints(&self.data()), before, "{ran:#?}");
        ran
    }

    #[track_caller]
    fn run<const N: usize>(&self, arguments: [&str; N]) -> Ran {
        run(sherd().args(arguments).arg("--data").arg(self.data()), "")
    }

    /// Verifies; asserts that the first fault is in the file, at an offset if one is given.
    #[track_caller]
    fn expect_fault(&self, file: &Path, offset: Option<u64>) -> String {
        let ran = self.look(["verify"]);
        assert_eq!(ran.status, 1, "{ran:#?}");
        let offset = offset.map(|offset| format!("{offset}:")).unwrap_or_default();
        let start = format!("{}:{offset} ", file.display());
        let first = ran.stdout.lines().next().unwrap_or_default();
        assert!(first.starts_with(&start), "{start} {ran:#?}");
        assert!(ran.stdout.trim_end().ends_with("found"), "{ran:#?}");
        ran.stdout
    }
}

/// Each file below a directory: when it was changed, its length and a checksum.
fn fingerprints(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, usize, u32)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(fingerprints(&path));
        } else {
            let modified = path.metadata().and_then(|metadata| metadata.modified());
            let bytes = fs::read(&path).expect("a file");
            let fingerprint = (modified.expect("a time"), bytes.len(), crc32fast::hash(&bytes));
            files.insert(path, fingerprint);
        }
    }
    files
}

/// Damages a file for as long as `check` runs.
fn damaged(path: &Path, damage: impl FnOnce(&mut Vec<u8>), check: impl FnOnce()) {
    let bytes = fs::read(path).expect("a file");
    let mut changed = bytes.clone();
    damage(&mut changed);
    fs::write(path, changed).expect("the file is written");
    check();
    fs::write(path, bytes).expect("the file is written");
}

/// Takes a file or directory away for as long as `check` runs.
fn away(path: &Path, check: impl FnOnce()) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let outside = dir.path().join("away");
    fs::rename(path, &outside).expect("it is moved");
    check();
    fs::rename(outside, path).expect("it is moved");
}

/// Where the first record of a segment begins.
const FIRST_RECORD: u64 = 64;

#[test]
fn each_damage_is_named_and_nothing_is_changed() {
    let shard = Shard::new();
    let sound = shard.look(["verify"]);
    assert_eq!((sound.status, sound.stderr.as_str()), (0, ""), "{sound:#?}");
    assert!(sound.stdout.contains("documents: 5 of 14.3 MiB in 2 indexes"), "{sound:#?}");
    assert!(sound.stdout.contains("index: 5 entries"), "{sound:#?}");
    assert!(sound.stdout.ends_with("no fault found\n"), "{sound:#?}");

    let (sealed, last) = (shard.segments().swap_remove(0), shard.last());
    assert_ne!(sealed, last);
    let (manifest, index) = (shard.file("MANIFEST"), shard.file("index"));
    let bytes = fs::read(&sealed).expect("a segment");
    let last_record = records(&bytes).last().map(|&offset| offset as u64);
    damaged(
        &sealed,
        |bytes| *bytes.last_mut().expect("bytes") ^= 1,
        || {
            let found = shard.expect_fault(&sealed, last_record);
            assert!(found.contains("no whole record follows in the segment"), "{found}");
        },
    );
    damaged(
        &last,
        |bytes| bytes[1000] ^= 1,
        || {
            let found = shard.expect_fault(&last, Some(FIRST_RECORD));
            assert!(found.contains("its document, version"), "what it costs: {found}");
        },
    );
    damaged(&sealed, |bytes| bytes[20] ^= 1, || _ = shard.expect_fault(&sealed, Some(0)));
    damaged(&manifest, |bytes| bytes[30] ^= 1, || _ = shard.expect_fault(&manifest, Some(0)));
    away(&sealed, || _ = shard.expect_fault(&sealed, Some(0)));
    away(&index, || {
        assert!(shard.expect_fault(&index, None).contains("missing"));
        let without = shard.look(["verify", "--no-index"]);
        assert!(without.expect(0).contains("index: not checked"));
    });
    // Two at once, for programs.
    damaged(
        &sealed,
        |bytes| bytes[4000] ^= 1,
        || {
            damaged(
                &last,
                |bytes| bytes[1000] ^= 1,
                || {
                    let ran = shard.look(["verify", "--json", "--no-index"]);
                    let lines = ran.expect(1);
                    let parse = |line| serde_json::from_str::<Value>(line).expect("JSON");
                    let lines: Vec<Value> = lines.lines().map(parse).collect();
                    let files = [&sealed, &last].map(|path| Value::from(path.to_str()));
                    let found = [&lines[0], &lines[1]].map(|line| line["fault"]["file"].clone());
                    assert_eq!(found, files);
                    assert_eq!(lines[1]["fault"]["offset"], FIRST_RECORD);
                    assert_eq!((lines.len(), &lines[2]["checked"]["faults"]), (3, &2.into()));
                },
            );
        },
    );
    assert_eq!(shard.look(["verify"]).expect(0), sound.stdout);
}

/// Where the records of a segment begin.
fn records(segment: &[u8]) -> Vec<usize> {
    let mut offsets = Vec::new();
    let mut offset = FIRST_RECORD as usize;
    while let Some(length) = segment.get(offset + 4..offset + 8) {
        let length = u32::from_le_bytes(length.try_into().expect("4 bytes"));
        if length == 0 {
            break;
        }
        offsets.push(offset);
        offset += length as usize;
    }
    offsets
}

#[test]
fn a_rebuild_mends_an_index_that_lost_an_entry_and_the_shard_serves_again() {
    let shard = Shard::new();
    let store = SledStore::new(shard.file("index"), 1 << 20);
    let index = store.open().expect("the index opens");
    let small = *index.indexes().expect("indexes").iter().max().expect("an index");
    let keys: Vec<_> = {
        let entries = index.range(small, Bound::Unbounded, &[0xff; 8]).expect("entries");
        entries.map(|item| item.expect("an entry").0).collect()
    };
    assert_eq!(keys.len(), 2);
    let key = keys.iter().find(|key| key.as_bytes().ends_with(b"1")).expect("the key");
    index.put(small, key, None).expect("it is removed");
    index.flush(index.checkpoint().expect("a checkpoint")).expect("it is flushed");
    drop(index);
    let found = shard.expect_fault(&shard.file("index"), None);
    assert!(found.contains("key \"1\" of index \"small\" has no entry"), "{found}");
    let rebuilt = shard.run(["rebuild"]).expect(0);
    assert!(rebuilt.starts_with("rebuilt: 5 documents of 14.3 MiB from "), "{rebuilt}");
    assert!(!shard.file("index.damaged-1").exists() && !shard.file("index.new").exists());
    shard.look(["verify"]).expect(0);
    let json: Value = serde_json::from_str(&shard.run(["rebuild", "--json"]).expect(0)).expect("");
    assert_eq!((&json["documents"], &json["indexes"]), (&5.into(), &2.into()));
    let cluster = Cluster::start_on(&shard.cluster(), []);
    assert_eq!(cluster.run(["cat", "small"]).expect(0), shard.rows);
    let busy = shard.run(["rebuild"]);
    assert_eq!(busy.status, 1);
    assert!(busy.stderr.contains("in use by another process; stop its shard first"), "{busy:#?}");
}

#[test]
fn the_directory_kept_in_the_repository_is_verified_and_served() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/tests/fixtures/format-2");
    let dir = tempfile::tempdir().expect("a temporary directory");
    for name in ["", "log", "index"] {
        let to = dir.path().join(name);
        fs::create_dir_all(&to).expect("a directory");
        for entry in fs::read_dir(fixtures.join(name)).expect("a directory") {
            let from = entry.expect("an entry").path();
            if from.is_file() {
                fs::copy(&from, to.join(from.file_name().expect("a name"))).expect("a copy");
            }
        }
    }
    let ran = run(sherd().args(["verify", "--data"]).arg(dir.path()), "");
    assert!(ran.expect(0).ends_with("no fault found\n"));
    let mut shard = start_shard(dir.path());
    let line = shard.wait_for_line("ready ");
    assert!(line.ends_with(" replayed") && !line.ends_with(" 0 replayed"), "{line}");
    shard.stop();
    run(sherd().args(["verify", "--data"]).arg(dir.path()), "").expect(0);
}

#[test]
fn other_directories_and_other_versions_are_refused() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for command in ["verify", "rebuild"] {
        let ran = run(sherd().args([command, "--data"]).arg(dir.path()), "");
        assert_eq!(ran.status, 1);
        assert!(ran.stderr.contains("is not the data directory of a shard"), "{ran:#?}");
        assert_eq!(fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }
    let cluster = Cluster::start();
    for command in ["verify", "rebuild"] {
        let ran = run(sherd().args([command, "--data"]).arg(cluster.data()), "");
        assert_eq!(ran.status, 1);
        assert!(ran.stderr.contains("name one of its shards"), "{ran:#?}");
    }
    let dir = cluster.stop().expect("the cluster's own directory");
    let data = dir.path().join("data/shard0");
    // The CRC-32 of a manifest is at 16, that of a segment's header at 60.
    for (file, crc_at) in [("MANIFEST", 16), ("log/0000000001.log", 60)] {
        let path = data.join(file);
        let reseal = |bytes: &mut Vec<u8>| {
            let known = bytes[8];
            bytes[8] = 77;
            let mut hasher = crc32fast::Hasher::new();
            hasher.update(&bytes[..crc_at]);
            if crc_at == 16 {
                hasher.update(&bytes[20..]);
            }
            bytes[crc_at..crc_at + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
            assert!((1..77).contains(&known));
        };
        let known = fs::read(&path).expect("a file")[8];
        damaged(&path, reseal, || {
            let named = format!("format version 77 is not known here, {known} is");
            for command in [&["verify"][..], &["rebuild"], &["shard", "--port", "0"]] {
                let ran = run(sherd().args(command).arg("--data").arg(&data), "");
                assert_eq!(ran.status, 1, "{ran:#?}");
                let said = ran.stdout.clone() + &ran.stderr;
                assert!(said.contains(&named) && said.contains(file), "{ran:#?}");
            }
            let json = run(sherd().args(["verify", "--json", "--data"]).arg(&data), "");
            let fault: Value = serde_json::from_str(json.stdout.lines().next().expect("a line"))
                .expect("an object");
            assert_eq!(fault["fault"]["what"], named, "{json:#?}");
            assert_eq!(fault["fault"]["file"], path.display().to_string(), "{json:#?}");
        });
    }
}
