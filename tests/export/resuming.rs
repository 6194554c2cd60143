//! Exports that are interrupted or killed, and go on.

use crate::*;

/// It ended without a word.
#[test]
fn an_export_that_is_interrupted_says_how_to_go_on() {
    let cluster = Cluster::start();
    fill_small(&cluster, "i", 600);
    let dir = tempfile::tempdir().unwrap();
    let first = cluster.members().iter().find(|member| member.name == "shard0").unwrap().pid;
    let file = dir.path().join("i.jsonl");
    let one = ["export", "i", "-o", file.to_str().unwrap()];
    let all = dir.path().join("all");
    let all = ["export", "--all", "-o", all.to_str().unwrap()];
    for (command, by, status, what) in [
        (&one[..], Signal::TERM, 143, "i.jsonl stays, and --resume goes on with it"),
        (&all, Signal::INT, 130, "all.partial, and --resume goes on with it"),
        (&["export", "i"], Signal::INT, 130, "not all of \"i\""),
    ] {
        // It does not come to its end before the signal.
        signal(first, Signal::STOP);
        let mut export = Process::start(&mut cluster.command(command));
        let begun = match command {
            ["export", "i"] => None,
            [.., "-o", path] => Some(PathBuf::from(format!("{path}.partial"))),
            _ => unreachable!(),
        };
        let has_begun = match begun {
            Some(partial) => eventually(|| partial.exists()),
            // Signals are caught before anything is asked for.
            None => eventually(|| catches_signals(export.pid())),
        };
        signal(export.pid(), by);
        let ended = export.wait().code();
        signal(first, Signal::CONT);
        assert!(has_begun);
        assert!(export.stderr().contains(what), "{}", export.stderr());
        assert_eq!(ended, Some(status), "{command:?}");
    }
    for command in [&one[..], &all] {
        run(cluster.command(command).arg("--resume"), "").expect(0);
    }
    assert_eq!(sidecar(&file)["digest"], digest(&cluster, "i"));
}

/// Whether a process has a handler for SIGTERM.
fn catches_signals(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (Signal::TERM.as_raw() - 1)) != 0)
}

#[test]
fn an_export_that_is_killed_goes_on_and_comes_to_the_same_file() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Cluster::start();
    fill_large(&cluster, "i");
    let (expected, address) = (digest(&cluster, "i"), cluster.address.to_string());
    let mut nodes = Nodes::of(cluster);
    let dir = tempfile::tempdir().unwrap();
    let export = |name: &str| {
        let mut command = sherd();
        command.args(["-b", &address, "export", "i", "--resume", "-o"]).arg(dir.path().join(name));
        command
    };
    for (name, clean) in [("i.jsonl", "clean.jsonl"), ("i.jsonl.gz", "clean.jsonl.gz")] {
        // A shard that is killed under it does no harm.
        let mut undisturbed = export(clean);
        let exporting = std::thread::spawn(move || run(&mut undisturbed, ""));
        nodes.kill(&["shard1".to_owned()]);
        exporting.join().unwrap().expect(0);
        let (mut kills, mut went_on) = (0, 0);
        let file = dir.path().join(name);
        while !file.exists() {
            let mut process = Process::start(&mut export(name));
            let pid = process.pid();
            // Until it has made a checkpoint anew, and then some.
            let checkpoint = dir.path().join(format!("{name}.partial.json"));
            let before = fs::read(&checkpoint).ok();
            eventually(|| {
                file.exists() || !is_running(pid) || fs::read(&checkpoint).ok() != before
            });
            std::thread::sleep(Duration::from_millis(rng.random_range(50..400)));
            if kills % 4 == 1 {
                nodes.kill(&["shard0".to_owned()]);
            }
            process.kill();
            went_on += u32::from(process.stderr().contains("goes on after "));
            kills += 1;
            assert!(kills < 100, "it never ends");
        }
        // Whole, or killed between its name and the last of the cleaning up.
        run(&mut export(name), "").expect(0);
        println!("{name}: {kills} kills, {went_on} times it went on after documents");
        assert!(went_on > 0, "{kills} kills and none went on");
        assert!(fs::read(&file).unwrap() == fs::read(dir.path().join(clean)).unwrap(), "{name}");
        assert_eq!(sidecar(&file)["digest"], expected);
        assert_eq!(sidecar(&file)["documents"], LARGE_DOCUMENTS);
        fs::remove_file(file).unwrap();
    }
}

#[test]
fn what_is_gone_on_with_is_the_same_export() {
    let cluster = Cluster::start();
    fill_large(&cluster, "i");
    fill_small(&cluster, "other", 10);
    let disk = Tmpfs::mount(24 << 20);
    let Some(disk) = disk else { return };
    let file = disk.path().join("i.jsonl");
    let path = file.to_str().unwrap();

    // The disk is too small: that is said with the file's name, and what is there stays.
    let ran = cluster.run(["export", "i", "-o", path]);
    assert!(ran.stderr.contains("i.jsonl.partial"), "{ran:?}");
    assert!(ran.stderr.contains("No space left on device"), "{ran:?}");
    assert!(ran.stderr.contains("--resume goes on with it"), "{ran:?}");
    ran.expect(1);
    assert!(!file.exists() && disk.path().join("i.jsonl.partial.json").exists());

    for other in [
        &["export", "other", "-o", path, "--resume"][..],
        &["export", "i", "-o", path, "--resume", "--prefix", "key1"],
        &["export", "i", "-o", path, "--resume", "--range", "0..0.5"],
        &["export", "i", "-o", path, "--resume", "--compress", "gzip"],
    ] {
        let ran = run(&mut cluster.command(other), "");
        assert!(ran.stderr.contains("without --resume the export begins anew"), "{ran:?}");
        ran.expect(1);
    }

    // On a larger one it goes on from where it was.
    let dir = tempfile::tempdir().unwrap();
    for name in names(disk.path()) {
        fs::copy(disk.path().join(&name), dir.path().join(&name)).unwrap();
    }
    let file = dir.path().join("i.jsonl");
    let ran = cluster.run(["export", "i", "-o", file.to_str().unwrap(), "--resume"]);
    assert!(ran.stderr.contains("goes on after "), "{ran:?}");
    ran.expect(0);
    assert_eq!(sidecar(&file)["digest"], digest(&cluster, "i"));
    assert_eq!(names(dir.path()), ["i.jsonl", "i.jsonl.digest.json"]);

    // A part that has lost what was synced is told.
    fs::write(dir.path().join("cut.jsonl.partial"), "").unwrap();
    let checkpoint = fs::read_to_string(disk.path().join("i.jsonl.partial.json")).unwrap();
    fs::write(dir.path().join("cut.jsonl.partial.json"), checkpoint).unwrap();
    let cut = dir.path().join("cut.jsonl");
    let ran = cluster.run(["export", "i", "-o", cut.to_str().unwrap(), "--resume"]);
    assert!(ran.stderr.contains("were synced"), "{ran:?}");
    ran.expect(1);
    // Anew it is whole.
    cluster.run(["export", "i", "-o", cut.to_str().unwrap()]).expect(0);
    assert_eq!(sidecar(&cut)["digest"], digest(&cluster, "i"));
}

/// An export went on after bytes that were not those that it had written, and called the file whole: its sidecar
/// had a checksum that was not the file's.
#[test]
fn a_part_that_was_damaged_meanwhile_is_not_gone_on_with() {
    let cluster = Cluster::start_with(["--port", "0", "--shards", "3"]);
    fill_small(&cluster, "i", 600);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("i.jsonl.gz");
    let path = file.to_str().unwrap();
    let members = cluster.members();
    let first = members.iter().find(|member| member.name == "shard0").unwrap().pid;
    // The others are done while the first one does not answer: so much is there when it is killed.
    signal(first, Signal::STOP);
    let mut export = Process::start(&mut cluster.command(["export", "i", "-o", path]));
    let done = || {
        let text = fs::read_to_string(dir.path().join("i.jsonl.gz.partial.json"));
        let checkpoint: Value = serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default();
        let parts = checkpoint["parts"].as_array().cloned().unwrap_or_default();
        parts.iter().filter(|part| part["done"] == true).count()
    };
    let others = eventually(|| done() == 2);
    export.kill();
    signal(first, Signal::CONT);
    assert!(others);

    let part = dir.path().join("i.jsonl.gz.partial.1");
    let written = fs::read(&part).unwrap();
    let mut damaged = written.clone();
    damaged[written.len() / 2] ^= 1;
    fs::write(&part, damaged).unwrap();
    let refused = cluster.run(["export", "i", "-o", path, "--resume"]);
    assert!(refused.stderr.contains("i.jsonl.gz.partial.1 is damaged"), "{refused:?}");
    assert!(refused.stderr.contains("without --resume the export begins anew"), "{refused:?}");
    refused.expect(1);
    assert!(!file.exists());

    fs::write(&part, written).unwrap();
    cluster.run(["export", "i", "-o", path, "--resume"]).expect(0);
    let crc = crc32fast::hash(&fs::read(&file).unwrap());
    assert_eq!(sidecar(&file)["crc32"], format!("{crc:08x}"));
    assert_eq!(sidecar(&file)["digest"], digest(&cluster, "i"));
}
