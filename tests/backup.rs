//! Backups of real clusters: cut while they are written to, shared with earlier ones, cut off, damaged,
//! and restored into other clusters.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use sherd_client::{Client, Condition, Options};
use sherd_engine::verify::{Moment, SegmentFile, ShardFiles, read_backup};
use support::{
    Cluster, Process, Ran, eventually, from_environment, is_running, run, sherd, signal,
};

use rustix::process::Signal;

/// A directory for backups.
struct Backups(tempfile::TempDir);

impl Backups {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("backups")
    }

    /// `sherd backup DIR`, as fast as it goes.
    fn command(&self, cluster: &Cluster, options: &[&str]) -> std::process::Command {
        let mut command = cluster.command(["--json", "backup"]);
        command.arg(self.path()).args(options);
        command
    }

    #[track_caller]
    fn take(&self, cluster: &Cluster) -> Value {
        let taken = run(&mut self.command(cluster, &["--share", "100"]), "").expect(0);
        serde_json::from_str(&taken).unwrap()
    }

    fn verify(&self) -> Ran {
        run(sherd().args(["backup", "verify"]).arg(self.path()), "")
    }

    fn list(&self) -> Vec<Value> {
        let listed = run(sherd().args(["--json", "backup", "list"]).arg(self.path()), "").expect(0);
        listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn restore(&self, address: &str, options: &[&str]) -> Ran {
        let mut command = sherd();
        command.args(["-b", address, "restore"]).arg(self.path()).args(options);
        run(&mut command, "")
    }

    /// What a backup says of itself.
    fn says(&self, backup: &Value) -> Value {
        let path = self.path().join(backup["backup"].as_str().unwrap()).join("BACKUP.json");
        let says: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
        says["backup"].clone()
    }

    /// Its files, but for the lock.
    fn files(&self) -> Vec<PathBuf> {
        let (mut dirs, mut files) = (vec![self.path()], Vec::new());
        while let Some(dir) = dirs.pop() {
            // It may be removed just now.
            for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
                let path = entry.path();
                let is_lock = path.file_name().is_some_and(|name| name == "LOCK");
                if path.is_dir() {
                    dirs.push(path);
                } else if !is_lock {
                    files.push(path);
                }
            }
        }
        files.sort();
        files
    }
}

/// Three indexes: one with limits that are not met, one whose documents expire one day, an empty one.
fn fill(cluster: &Cluster, documents: usize) {
    cluster
        .run(["index", "create", "bounded", "--max-documents", "100000", "--policy", "lru"])
        .expect(0);
    cluster.run(["index", "create", "mortal", "--ttl", "7d"]).expect(0);
    cluster.run(["index", "create", "empty"]).expect(0);
    for index in ["bounded", "mortal"] {
        let mut rows = String::new();
        for i in 0..documents {
            let text = "x".repeat(i % 90);
            writeln!(rows, "{index}{i}|{{\"n\": {i}, \"text\": \"{text}\"}}").unwrap();
        }
        cluster.feed(["write", index], rows).expect(0);
    }
    // Some are overwritten, some go.
    cluster.feed(["write", "bounded", "--overwrite"], "bounded3|3\nbounded4|\"four\"\n").expect(0);
    cluster.run(["remove", "mortal", "mortal5"]).expect(0);
}

/// The settings of each index.
fn settings(cluster: &Cluster) -> BTreeMap<String, Value> {
    let listed = cluster.run(["--json", "index", "list"]).expect(0);
    let of_line = |line: &str| {
        let mut index: Value = serde_json::from_str(line).unwrap();
        index["id"].take();
        (index["name"].as_str().unwrap().to_owned(), index)
    };
    listed.lines().map(of_line).collect()
}

fn digest(address: &str) -> Value {
    let ran = run(sherd().args(["--json", "-b", address, "digest"]), "").expect(0);
    serde_json::from_str(&ran).unwrap()
}

/// Bootstrap and one shard with the other hash method.
struct Other {
    _processes: [Process; 2],
    address: String,
    _dir: tempfile::TempDir,
}

impl Other {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut shard = Process::start(
            sherd().args(["shard", "--port", "0", "--data"]).arg(dir.path().join("shard")),
        );
        let port = shard.wait_ready().port();
        let one = json!({"name": "only.one", "host": "127.0.0.1", "port": port, "size": 1 << 30});
        let config = json!({"hash_method": "xxh3", "shards": [one]});
        let config_path = dir.path().join("config.json");
        fs::write(&config_path, config.to_string()).unwrap();
        let mut bootstrap = Process::start(
            sherd()
                .args(["bootstrap", "--port", "0", "--data"])
                .arg(dir.path().join("bootstrap"))
                .arg("--config")
                .arg(config_path),
        );
        let address = bootstrap.wait_ready().to_string();
        Self { _processes: [shard, bootstrap], address, _dir: dir }
    }
}

#[test]
fn a_backup_is_restored_into_other_shards_and_another_hash_method_with_the_same_digest() {
    let cluster = Cluster::start();
    fill(&cluster, 2000);
    let address = cluster.address.to_string();
    let before = digest(&address);
    let indexes = cluster.run(["index", "list"]).expect(0);
    let backups = Backups::new();
    let taken = backups.take(&cluster);
    assert_eq!((&taken["digest"], &taken["documents"]), (&before["digest"], &json!(3999)));
    let verified = backups.verify().expect(0);
    assert!(verified.contains("no fault found"), "{verified}");
    // What comes later is not in it.
    cluster.run(["write", "bounded", "later", "1"]).expect(0);

    let refused = backups.restore(&address, &[]);
    assert!(refused.stderr.contains("\"bounded\" has 2001 documents"), "{}", refused.stderr);
    refused.expect(1);

    let three = Cluster::start_with(["--port", "0", "--shards", "3"]);
    let three_address = three.address.to_string();
    let restored = backups.restore(&three_address, &[]).expect(0);
    assert!(restored.contains("3999 documents"), "{restored}");
    assert_eq!(digest(&three_address), before);
    assert_eq!(three.run(["index", "list"]).expect(0), indexes);
    assert_eq!(settings(&three), settings(&cluster));
    // As after an interruption: what is there already comes to the same.
    backups.restore(&three_address, &["--overwrite"]).expect(0);
    assert_eq!(digest(&three_address), before);

    // As after one that was cut off before its end: the index is there, without its limits.
    three.run(["index", "drop", "bounded"]).expect(0);
    three.run(["write", "bounded", "bounded3", "3", "--force"]).expect(0);
    backups.restore(&three_address, &["--overwrite", "--index", "bounded"]).expect(0);
    assert_eq!(digest(&three_address), before);
    assert_eq!(settings(&three), settings(&cluster));
    // What somebody has set stays.
    three.run(["index", "set", "bounded", "--max-documents", "90000"]).expect(0);
    let restored = backups.restore(&three_address, &["--overwrite", "--index", "bounded"]);
    assert!(restored.stderr.contains("keeps its settings"), "{restored:?}");
    restored.expect(0);
    assert_eq!(settings(&three)["bounded"]["max_documents"], json!(90_000));

    // A backup of the one and restored into the other, by way of a shard with an odd name.
    let other = Other::start();
    let ran = backups.restore(&other.address, &["--index", "mortal"]);
    ran.expect(0);
    assert_eq!(digest(&other.address)["indexes"]["mortal"], before["indexes"]["mortal"]);
    let second = Backups::new();
    let mut command = sherd();
    command.args(["-b", &other.address, "backup", "--share", "100"]).arg(second.path());
    run(&mut command, "").expect(0);
    second.verify().expect(0);
    run(command.args(["--full"]), "").expect(0);
    assert_eq!(second.list().len(), 2);
    let mut elsewhere = cluster.command(["backup"]);
    let refused = run(elsewhere.arg(second.path()), "");
    assert!(refused.stderr.contains("another cluster"), "{}", refused.stderr);
    refused.expect(1);
}

fn milliseconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A write of a new key, in milliseconds since 1970.
struct Written {
    key: String,
    begun: u64,
    /// When it was acknowledged.
    done: u64,
}

/// Writes new keys one after the other, and after each the number of it under one key more.
async fn write_on(address: String, writer: usize, stop: Arc<AtomicBool>) -> Vec<Written> {
    let client = Client::connect(&address, Options::default()).await.unwrap();
    let mut written = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = written.len();
        let key = format!("{writer}:{number}");
        let begun = milliseconds();
        let document = rmp_serde::to_vec(&number).unwrap();
        client.write("load", &key, &document, Condition::Absent).await.unwrap();
        client.write("load", &format!("last{writer}"), &document, Condition::Any).await.unwrap();
        written.push(Written { key, begun, done: milliseconds() });
    }
    written
}

/// The documents of each shard of a backup, read from its files.
fn by_shard(backups: &Backups, backup: &Value) -> BTreeMap<String, BTreeMap<String, Vec<u8>>> {
    let dir = backups.path().join(backup["backup"].as_str().unwrap());
    let mut shards = BTreeMap::new();
    for shard in backups.says(backup)["shards"].as_array().unwrap() {
        let in_shard = dir.join(shard["dir"].as_str().unwrap());
        let segment = |it: &Value| {
            let number = it["number"].as_u64().unwrap() as u32;
            let path = in_shard.join(format!("log/{number:010}.log"));
            SegmentFile { number, length: it["length"].as_u64().unwrap() as u32, path }
        };
        let segments = shard["segments"].as_array().unwrap().iter().map(segment).collect();
        let files = ShardFiles { manifest: in_shard.join("MANIFEST"), segments };
        let mut documents = BTreeMap::new();
        read_backup(&files, Moment::Cut, &mut |found| {
            let key = String::from_utf8(found.key.bytes.to_vec()).unwrap();
            documents.insert(key, found.document.bytes.to_vec());
            Ok::<_, sherd_engine::Error>(())
        })
        .unwrap();
        shards.insert(shard["name"].as_str().unwrap().to_owned(), documents);
    }
    shards
}

/// Everything that was acknowledged before the cut is in it, nothing that begins after it, and of what one
/// writer did at a shard the first part.
#[test]
fn a_cut_under_load_is_a_prefix_of_what_was_acknowledged_at_each_shard() {
    const WRITERS: usize = 8;
    let cluster = Cluster::start_with(["--port", "0", "--shards", "2"]);
    cluster.run(["index", "create", "load"]).expect(0);
    let address = cluster.address.to_string();
    let backups = Backups::new();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| runtime.spawn(write_on(address.clone(), writer, Arc::clone(&stop))))
        .collect();
    let has = |key: &str| run(&mut cluster.command(["has", "load", key]), "").status == 0;
    assert!(eventually(|| has("0:20")), "nothing is written");
    let taken: Vec<_> = (0..3).map(|_| backups.take(&cluster)).collect();
    stop.store(true, Ordering::Relaxed);
    let written: Vec<_> =
        writers.into_iter().map(|writer| runtime.block_on(writer).unwrap()).collect();
    let map = runtime.block_on(async {
        Client::connect(&address, Options::default()).await.unwrap().known_map()
    });
    let owner = |key: &str| {
        let position = map.hash_method.position(key);
        let owned = map.ranges.iter().find(|owned| owned.range().contains(position));
        owned.unwrap().shard.clone()
    };
    for backup in &taken {
        let says = backups.says(backup);
        let (from, until) = (&says["cut_from"], &says["cut_until"]);
        let (from, until) = (from.as_u64().unwrap(), until.as_u64().unwrap());
        let shards = by_shard(&backups, backup);
        let (mut inside, mut outside) = (0, 0);
        for (writer, writes) in written.iter().enumerate() {
            // Of each shard, whether one was missing already.
            let mut ended = BTreeSet::new();
            for write in writes {
                let shard = owner(&write.key);
                let is_there = shards[&shard].contains_key(&write.key);
                let at =
                    format!("{} of [{from}, {until}]: {}..{}", write.key, write.begun, write.done);
                assert!(is_there || write.done >= from, "missing: {at}");
                assert!(!is_there || write.begun <= until, "too late: {at}");
                assert!(!is_there || !ended.contains(&shard), "{at} is behind one that is missing");
                if is_there {
                    inside += 1;
                } else {
                    outside += 1;
                }
                if !is_there {
                    ended.insert(shard);
                }
            }
            // The number of the last is as of the same moment as the keys beside it.
            let last = format!("last{writer}");
            let shard = owner(&last);
            let last: usize = rmp_serde::from_slice(&shards[&shard][&last]).unwrap();
            for (number, write) in
                writes.iter().enumerate().filter(|(_, it)| owner(&it.key) == shard)
            {
                let is_there = shards[&shard].contains_key(&write.key);
                assert!(is_there || number > last, "{} is missing, {last} is there", write.key);
                assert!(!is_there || number <= last + 1, "{} is there, and {last}", write.key);
            }
        }
        assert!(inside > 100 && outside > 0, "{inside} inside, {outside} outside: no load");
        let documents: usize = shards.values().map(BTreeMap::len).sum();
        assert_eq!(json!(documents), backup["documents"]);
    }
    backups.verify().expect(0);
}

/// Sealed segments never change: a second backup has their files from the first, and is whole without it.
#[test]
fn a_second_backup_shares_what_has_not_changed() {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "1"]);
    let large = "x".repeat(13_000_000);
    let rows = format!("a|{large}\nb|{large}\nc|{large}\n");
    cluster.feed(["write", "large", "--force"], rows).expect(0);
    let backups = Backups::new();
    let first = backups.take(&cluster);
    assert_eq!(first["shared_bytes"], json!(0));
    cluster.feed(["write", "small", "--force"], "1|one\n2|two\n").expect(0);
    let second = backups.take(&cluster);
    assert!(second["shared_bytes"].as_u64().unwrap() > 26_000_000, "{second}");
    assert!(second["fetched_bytes"].as_u64().unwrap() < 14_000_000, "{second}");
    assert_eq!(second["builds_on"], json!([first["backup"]]));
    let segment = |backup: &Value| {
        let dir = backups.path().join(backup["backup"].as_str().unwrap());
        fs::metadata(dir.join("shard0/log/0000000001.log")).unwrap()
    };
    assert_eq!(segment(&first).ino(), segment(&second).ino());
    backups.verify().expect(0);

    // A byte of the earlier one flips: that segment is fetched anew, and the new backup is whole.
    let path =
        backups.path().join(first["backup"].as_str().unwrap()).join("shard0/log/0000000001.log");
    flip(&path, 20_000_000);
    let options = ["--share", "100", "--keep-log", "1GiB"];
    let ran = run(&mut backups.command(&cluster, &options), "");
    assert!(ran.stderr.contains("no moment between"), "{ran:?}");
    assert!(ran.stderr.contains("has not everything since"), "{ran:?}");
    let third: Value = serde_json::from_str(&ran.expect(0)).unwrap();
    assert_eq!((&second["follows"], third.get("follows")), (&first["backup"], None));
    assert_ne!(segment(&third).ino(), segment(&first).ino());
    let third_alone = |third: &Value| {
        let id = third["backup"].as_str().unwrap();
        run(sherd().args(["backup", "verify"]).arg(backups.path()).arg(id), "").expect(0)
    };
    third_alone(&third);
    let ran = backups.verify();
    let named = |line: &&str| !line.starts_with("note") && line.contains("0000000001.log:");
    assert_eq!(ran.stdout.lines().filter(named).count(), 2, "in both: {}", ran.stdout);
    ran.expect(1);

    for backup in [&first, &second] {
        fs::remove_dir_all(backups.path().join(backup["backup"].as_str().unwrap())).unwrap();
    }
    let other = Cluster::start();
    backups.restore(&other.address.to_string(), &[]).expect(0);
    assert_eq!(digest(&other.address.to_string()), digest(&cluster.address.to_string()));
}

fn flip(path: &Path, offset: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset as usize] ^= 0x20;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_byte_is_found_and_named_wherever_it_is() {
    let seed = from_environment("SHERD_BACKUP_SEED").unwrap_or_else(rand::random);
    println!("SHERD_BACKUP_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Cluster::start();
    fill(&cluster, 50);
    let backups = Backups::new();
    backups.take(&cluster);
    backups.verify().expect(0);
    let other = Cluster::start_with(["--port", "0", "--shards", "1"]);
    let files = backups.files();
    assert_eq!(files.len(), 5, "{files:?}");
    for path in files {
        let original = fs::read(&path).unwrap();
        let length = original.len() as u64;
        for offset in [0, length - 1, rng.random_range(0..length), rng.random_range(0..length)] {
            flip(&path, offset);
            let ran = backups.verify();
            let named = format!("{}:", path.display());
            let line = ran.stdout.lines().find(|line| line.starts_with(&named));
            let at = format!("byte {offset} of {}: {ran:?}", path.display());
            let line = line.unwrap_or_else(|| panic!("not found: {at}"));
            let told: u64 = line[named.len()..].split(':').next().unwrap().parse().expect(&at);
            assert!(told <= offset, "{told} is not before it: {at}");
            assert_eq!(ran.status, 1, "{at}");
            assert!(!ran.stdout.contains("no fault"), "{at}");
            let restored = backups.restore(&other.address.to_string(), &[]);
            assert_eq!(restored.status, 1, "{at}: {restored:?}");
            fs::write(&path, &original).unwrap();
        }
        // Cut off, and gone.
        fs::write(&path, &original[..original.len() / 2]).unwrap();
        backups.verify().expect(1);
        fs::remove_file(&path).unwrap();
        assert_ne!(backups.verify().status, 0, "{} is gone", path.display());
        fs::write(&path, &original).unwrap();
    }
    backups.verify().expect(0);
}

/// Neither leaves anything that is taken for a backup, and the next one is whole.
#[test]
fn a_backup_that_is_cut_off_is_none() {
    let cluster = Cluster::start();
    // Several to each shard.
    let large = "x".repeat(1_000_000);
    let rows: String = (0..12).map(|i| format!("{i}|{large}\n")).collect();
    cluster.feed(["write", "large", "--force"], rows).expect(0);
    let address = cluster.address.to_string();
    let before = digest(&address);
    let backups = Backups::new();
    let slow = ["--rate", "512KiB"];
    let fetching =
        || backups.files().iter().any(|path| path.extension().is_some_and(|it| it == "log"));

    // The one who takes it.
    let mut taking = Process::start(&mut backups.command(&cluster, &slow));
    assert!(eventually(|| backups.path().is_dir() && fetching()), "{}", taking.stderr());
    let second = run(&mut backups.command(&cluster, &[]), "");
    assert!(second.stderr.contains("another backup is being taken"), "{second:?}");
    second.expect(1);
    taking.kill();
    assert!(backups.list().is_empty());
    let none = backups.verify();
    assert!(none.stderr.contains("has no backup"), "{none:?}");
    none.expect(3);
    backups.restore(&address, &[]).expect(3);
    // The next one removes what it left.
    let taken = backups.take(&cluster);
    assert_eq!(taken["digest"], before["digest"]);
    backups.verify().expect(0);
    let dirs =
        fs::read_dir(backups.path()).unwrap().filter(|it| it.as_ref().unwrap().path().is_dir());
    assert_eq!(dirs.count(), 1);
    fs::remove_dir_all(backups.path().join(taken["backup"].as_str().unwrap())).unwrap();

    // A shard of it.
    let mut taking = Process::start(&mut backups.command(&cluster, &slow));
    assert!(eventually(fetching), "{}", taking.stderr());
    let member = cluster.members().into_iter().find(|member| member.name == "shard0").unwrap();
    signal(member.pid, Signal::KILL);
    assert_eq!(taking.wait().code(), Some(1));
    assert!(taking.stderr().contains("does not hold the cut"), "{}", taking.stderr());
    assert!(!is_running(member.pid));
    assert!(backups.list().is_empty());
    assert_eq!(backups.files(), Vec::<PathBuf>::new());

    let taken = backups.take(&cluster);
    assert_eq!(taken["digest"], before["digest"]);
    assert_eq!(backups.list().len(), 1);
    backups.verify().expect(0);
}

/// What the cluster does while a backup is fetched makes no difference to it: documents are overwritten
/// and removed, and an index is dropped.
#[test]
fn what_changes_while_a_backup_is_fetched_is_not_in_it() {
    let cluster = Cluster::start();
    fill(&cluster, 300);
    let large = "x".repeat(2_000_000);
    cluster.feed(["write", "large", "--force"], format!("a|{large}\nb|{large}\n")).expect(0);
    let address = cluster.address.to_string();
    let before = digest(&address);
    let backups = Backups::new();
    let mut taking = Process::start(&mut backups.command(&cluster, &["--rate", "1MiB"]));
    let fetching =
        || backups.files().iter().any(|path| path.extension().is_some_and(|it| it == "log"));
    assert!(eventually(|| backups.path().is_dir() && fetching()), "{}", taking.stderr());
    cluster.run(["index", "drop", "mortal"]).expect(0);
    cluster.run(["write", "large", "a", "1", "--overwrite"]).expect(0);
    cluster.run(["remove", "bounded", "bounded7"]).expect(0);
    cluster.run(["index", "create", "new"]).expect(0);
    let line = taking.wait_for_line("{");
    assert!(taking.wait().success(), "{}", taking.stderr());
    let taken: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(taken["digest"], before["digest"]);
    backups.verify().expect(0);
    let other = Cluster::start_with(["--port", "0", "--shards", "1"]);
    backups.restore(&other.address.to_string(), &[]).expect(0);
    assert_eq!(digest(&other.address.to_string()), before);
}

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
        backups.restore(&other_address, &["--at", &at]).expect(0);
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

/// An older backup never passes for the newest, nor files of an older one for those of a newer one.
#[test]
fn an_older_state_is_not_restored_in_place_of_the_newest() {
    let cluster = Cluster::start();
    fill(&cluster, 60);
    let backups = Backups::new();
    let older = backups.take(&cluster);
    let rows: String = (0..40).map(|i| format!("new{i}|1\n")).collect();
    cluster.feed(["write", "mortal"], rows).expect(0);
    let taken = run(&mut backups.command(&cluster, &["--full", "--share", "100"]), "").expect(0);
    let newer: Value = serde_json::from_str(&taken).unwrap();
    let other = Cluster::start_with(["--port", "0", "--shards", "1"]);
    let other_address = other.address.to_string();
    let dir = |backup: &Value| backups.path().join(backup["backup"].as_str().unwrap());

    // The newest has lost what makes it a backup.
    let (there, away) = (dir(&newer).join("BACKUP.json"), backups.path().join("away"));
    fs::rename(&there, &away).unwrap();
    let refused = backups.restore(&other_address, &[]);
    assert!(refused.stderr.contains("Name the backup"), "{refused:?}");
    refused.expect(1);
    let ran = backups.verify();
    assert!(ran.stdout.contains("no fault found") && ran.stderr.contains("no BACKUP.json"));
    ran.expect(1);
    backups.restore(&other_address, &[older["backup"].as_str().unwrap()]).expect(0);
    for index in ["bounded", "mortal", "empty"] {
        other.run(["index", "drop", index]).expect(0);
    }
    // Nor does the next backup take that away.
    let mut command = backups.command(&cluster, &["--share", "100"]);
    let ran = run(&mut command, "");
    assert!(ran.stderr.contains("left alone"), "{ran:?}");
    let next: Value = serde_json::from_str(&ran.expect(0)).unwrap();
    fs::remove_dir_all(dir(&next)).unwrap();
    fs::rename(&away, &there).unwrap();
    backups.verify().expect(0);

    // A shard's log is read up to the cut of the older one: whole in itself.
    let [from, to] = [&older, &newer].map(|backup| dir(backup).join("shard0/MANIFEST"));
    fs::copy(from, to).unwrap();
    let refused = backups.restore(&other_address, &[]);
    assert!(refused.stderr.contains("is not what BACKUP.json says"), "{refused:?}");
    refused.expect(1);
    assert_eq!(digest(&other_address)["documents"], json!(0));
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

/// Two shards have the documents of a range that moves; a backup has each once.
#[test]
fn a_document_of_a_range_that_moves_is_in_a_backup_once() {
    let cluster = Cluster::start();
    fill(&cluster, 1500);
    let before = digest(&cluster.address.to_string());
    let backups = Backups::new();
    let moves: [&[&str]; 3] =
        [&["move", "0", "0.4", "shard1"], &["merge", "shard1", "shard0"], &["rebalance"]];
    let mut taken = 0;
    for action in moves {
        let mut apply = cluster.command(["cluster", "apply"].iter().chain(action));
        let applying = std::thread::spawn(move || run(&mut apply, ""));
        loop {
            let ended = applying.is_finished();
            let backup = backups.take(&cluster);
            assert_eq!(backup["digest"], before["digest"], "{action:?}");
            assert_eq!(backup["documents"], before["documents"], "{action:?}");
            taken += 1;
            if ended {
                break;
            }
        }
        applying.join().unwrap().expect(0);
    }
    assert!(taken > 3, "{taken} backups");
    backups.verify().expect(0);
}
