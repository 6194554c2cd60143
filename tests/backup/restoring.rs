//! What is restored is what was backed up, or nothing is.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::backups::*;
use crate::support::by_hand::ByXxh3;
use crate::support::{Cluster, eventually, run, sherd};

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
    let data = tempfile::tempdir().unwrap();
    let other = ByXxh3::start(data.path(), &["only.one"]);
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

/// Where a document expires each millisecond, no digest is ever that of a whole second: it was waited for half a
/// minute, and then somebody else was said to write to the index.
#[test]
fn documents_that_expire_all_the_time_are_no_reason_to_doubt_a_restore() {
    let cluster = Cluster::start();
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let row = |i: u128| {
        let expires_at = begun + 3000 + i;
        format!("{{\"key\": \"k{i}\", \"record\": {i}, \"expires_at\": {expires_at}}}\n")
    };
    let rows: String = (0..60_000).map(row).collect();
    let dir = tempfile::tempdir().unwrap();
    let mut import = cluster.command(["import", "i", "--force", "--format", "jsonl"]);
    run(import.current_dir(dir.path()), rows + "{\"key\": \"stays\", \"record\": 1}\n").expect(0);
    let backups = Backups::new();
    backups.take(&cluster);
    let other = Cluster::start();
    let address = other.address.to_string();
    let some_expired = || {
        let stat = other.run(["--json", "stat"]).expect(0);
        stat.split("\"expired\": ").skip(1).any(|rest| !rest.starts_with('0'))
    };
    backups.restore(&address, &[]).expect(0);
    assert!(eventually(some_expired));
    backups.restore(&address, &["--overwrite"]).expect(0);
    other.run(["has", "i", "stays"]).expect(0);
    // What is there and was not restored is told from that.
    other.run(["write", "i", "another", "1"]).expect(0);
    let refused = backups.restore(&address, &["--overwrite"]);
    assert!(refused.stderr.contains("or it had others before"), "{}", refused.stderr);
    refused.expect(1);
}

/// A limit is shared out over the shards, so an index that fits into one may not fit into another one with as
/// many. It was said that all is restored, and after that, that somebody else writes to it.
#[test]
fn what_is_evicted_while_it_is_restored_is_said() {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "1"]);
    cluster.run(["index", "create", "i", "--max-documents", "1000", "--policy", "lru"]).expect(0);
    let rows: String = (0..1000).map(|i| format!("key{i}|{i}\n")).collect();
    cluster.feed(["write", "i"], rows).expect(0);
    let backups = Backups::new();
    let taken = backups.take(&cluster);

    let three = Cluster::start_with(["--port", "0", "--shards", "3"]);
    let address = three.address.to_string();
    let check = |options: &[&str]| {
        let said = backups.restore(&address, options).expect(0);
        let now = digest(&address);
        let left = now["documents"].as_u64().unwrap();
        assert!((900..1000).contains(&left), "{left} are left");
        assert!(said.contains("restored") && said.contains(": 1000 documents of"), "{said}");
        let digest = now["digest"].as_str().unwrap();
        let what = format!("it has {left} with digest {digest}, which is not that of the backup");
        assert!(
            said.contains("documents of index \"i\" evicted") && said.contains(&what),
            "{said}"
        );
        assert_ne!(now["digest"], taken["digest"]);
        (said, left)
    };
    let (said, left) = check(&[]);
    assert!(said.contains(&format!("  {} documents of index", 1000 - left)), "{said}");
    // It has the limits from the beginning now.
    check(&["--overwrite"]);
    let json = run(
        sherd().args(["--json", "-b", &address, "restore", "--overwrite"]).arg(backups.path()),
        "",
    );
    let counts: Value = serde_json::from_str(&json.expect(0)).unwrap();
    assert!(counts["evicted"].as_u64().unwrap() >= 1000 - left, "{counts}");
    assert_eq!(counts["indexes"]["i"]["evicted"], counts["evicted"]);

    // Others are told all the same.
    let rows: String = (0..1000).map(|i| format!("other{i}|{i}\n")).collect();
    three.run(["index", "set", "i", "--max-documents", "9000"]).expect(0);
    three.feed(["write", "i"], rows).expect(0);
    let refused = backups.restore(&address, &["--overwrite"]);
    assert!(refused.stderr.contains("it had others before"), "{refused:?}");
    refused.expect(1);
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
    // Nor does a directory pass for one without backups where all have lost it.
    let (first, first_away) = (dir(&older).join("BACKUP.json"), backups.path().join("first"));
    fs::rename(&first, &first_away).unwrap();
    let refused = backups.restore(&other_address, &[]);
    assert!(refused.stderr.contains("has lost its BACKUP.json"), "{refused:?}");
    refused.expect(1);
    let ran = backups.verify();
    assert_eq!(ran.stderr.matches("no BACKUP.json").count(), 2, "{ran:?}");
    ran.expect(1);
    fs::rename(&first_away, &first).unwrap();
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
