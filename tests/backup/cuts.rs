//! What a backup has of a cluster that goes on: a prefix at each shard, and each document once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sherd_client::{Client, Condition, Options};
use sherd_engine::verify::{Moment, SegmentFile, ShardFiles, read_backup};

use crate::backups::*;
use crate::support::{Cluster, Process, eventually, run};

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
