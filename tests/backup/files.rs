//! The files of backups: shared with earlier ones, damaged, cut off.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::backups::*;
use crate::support::{
    Cluster, Process, eventually, from_environment, is_running, run, sherd, signal,
};

/// Sealed segments never change: a second backup has their files from the first, and is whole without it.
#[test]
fn a_second_backup_shares_what_has_not_changed() {
    // That of the first row: none of them fits the segment that a new shard has.
    const SEALED: &str = "shard0/log/0000000002.log";
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
        fs::metadata(dir.join(SEALED)).unwrap()
    };
    assert_eq!(segment(&first).ino(), segment(&second).ino());
    backups.verify().expect(0);

    // A byte of the earlier one flips: that segment is fetched anew, and the new backup is whole.
    flip(&backups.path().join(first["backup"].as_str().unwrap()).join(SEALED), 10_000_000);
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
    let named = |line: &&str| !line.starts_with("note") && line.contains("0000000002.log:");
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

    // Who takes it is asked to end: it says what that leaves.
    let mut taking = Process::start(&mut backups.command(&cluster, &slow));
    assert!(eventually(fetching), "{}", taking.stderr());
    signal(taking.pid(), Signal::INT);
    assert_eq!(taking.wait().code(), Some(130), "{}", taking.stderr());
    assert!(taking.stderr().contains("there is no backup of it"), "{}", taking.stderr());
    assert!(backups.list().is_empty());
    let taken = backups.take(&cluster);
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
