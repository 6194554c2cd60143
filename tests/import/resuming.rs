//! Imports that stop, are interrupted or killed, and go on.

use crate::*;

#[test]
fn rows_that_failed_before_the_checkpoint_count_when_an_import_goes_on() {
    // The second time it had none of its own that failed, and came to the end without a word.
    let (cluster, dir) = (Cluster::start(), Dir::new());
    let good: String = (0..20_000).map(|n| format!("{n}|{n}\n")).collect();
    let bad = dir.file("bad.rows", format!("bad\nbad\n{good}"));
    let there = dir.file("there.rows", format!("x|2\ny|2\n{good}"));
    for (index, file, on_conflict) in [("i", &bad, "skip"), ("j", &there, "fail")] {
        cluster.feed(["write", index, "--force"], "x|1\ny|1\n").expect(0);
        let import = ["import", index, file, "--on-conflict", on_conflict];
        let with = |more: &[&str]| dir.run(&cluster, &[&import, more].concat());
        let stopped = with(&["--max-errors", "1", "--checkpoint-rows", "1000"]);
        assert!(stopped.stderr.contains("more than 1 row failed"), "{}", stopped.stderr);
        stopped.expect(1);
        let before = cluster.run(["keys", index]).expect(0);
        let again = with(&["--max-errors", "1", "--resume"]);
        assert!(again.stderr.contains("more than 1 row failed"), "{}", again.stderr);
        assert!(again.stderr.contains("--resume goes on with a higher one"), "{}", again.stderr);
        again.expect(1);
        assert_eq!(cluster.run(["keys", index]).expect(0), before);
        let ended = with(&["--max-errors", "2", "--resume"]);
        assert_eq!(ended.expect(1), "20000 written, 0 existing, 2 failed\n");
    }
}

#[test]
fn a_command_that_read_no_row_leaves_no_checkpoint() {
    // It was in the way of the same command, put right.
    let (cluster, dir) = (Cluster::start(), Dir::new());
    cluster.run(["index", "create", "i"]).expect(0);
    dir.file("people.csv", "country,id\nCH,1\n");
    dir.file("a.jsonl", "{\"key\": \"a\", \"record\": 1}\n");
    dir.file("empty.csv", "");
    let mut damaged = gzip(b"a|1\n");
    // The kind of the first block, of which there are three.
    damaged[10] |= 0x06;
    dir.file("damaged.rows", damaged);
    for (arguments, expected) in [
        (&["people.csv", "--key", "contry"][..], "no column \"contry\" for the key"),
        (&["people.csv", "--key", "id", "--schema", "contry:int"], "no column \"contry\" of"),
        (&["empty.csv", "people.csv"], "no column \"key\""),
        (&["a.jsonl", "--format", "csv"], "no column \"key\""),
        (&["damaged.rows"], "damaged"),
        (&["none.rows"], "none.rows"),
    ] {
        let ran = dir.run(&cluster, &[&["import", "i"], arguments].concat());
        assert!(ran.stderr.contains(expected), "{arguments:?}: {}", ran.stderr);
        assert!(!ran.stderr.contains("--resume goes on"), "{arguments:?}: {}", ran.stderr);
        ran.expect(1);
        assert!(!dir.path("i.import").exists(), "{arguments:?}");
    }
    let ran = dir.run(&cluster, &["import", "i", "people.csv", "--key", "country"]);
    assert_eq!(ran.expect(0), "1 written, 0 existing, 0 failed\n");
    // A row that was read, and rejected, is to be counted when it goes on.
    let first = ["import", "i", "a.jsonl", "people.csv", "--key", "key"];
    dir.file("a.jsonl", "nonsense\n");
    dir.run(&cluster, &first).expect(1);
    assert!(dir.path("i.import").exists());
    dir.run(&cluster, &[&first[..], &["--resume"]].concat()).expect(1);
    assert!(dir.path("i.import").exists());
}

#[test]
fn the_rate_is_kept_and_an_interrupted_import_goes_on() {
    let (cluster, dir) = (Cluster::start(), Dir::new());
    let rows: String = (0..12_000).map(|n| format!("{n}|{n}\n")).collect();
    let file = dir.file("a.rows", &rows);
    for (index, input, by, status) in
        [("i", Some(file.as_str()), Signal::INT, 130), ("j", None, Signal::TERM, 143)]
    {
        let mut arguments = vec!["import", index, "--force", "--format", "rows", "--rate", "8000"];
        arguments.extend(input);
        let began = Instant::now();
        let mut child = dir
            .command(&cluster, &arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        let (all, fed) = (rows.clone(), input.is_none());
        let feeder = std::thread::spawn(move || _ = fed.then(|| stdin.write_all(all.as_bytes())));
        assert!(eventually(|| cluster.run(["keys", index]).stdout.lines().count() > 2000));
        signal(child.id(), by);
        let output = child.wait_with_output().expect("it ends");
        feeder.join().expect("fed");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        assert!(stderr.contains("--resume goes on"), "{stderr}");
        let written = cluster.run(["keys", index]).expect(0).lines().count();
        let most = began.elapsed().as_secs_f64() * 8000.0 + 1000.0;
        assert!(written < 12_000 && written as f64 <= most, "{written} of {most}");
        arguments.truncate(5);
        arguments.push("--resume");
        arguments.extend(input);
        let again = if input.is_none() { rows.as_str() } else { "" };
        let ran = dir.feed(&cluster, &arguments, again);
        assert_eq!(ran.expect(0), "12000 written, 0 existing, 0 failed\n");
    }
}

#[test]
fn an_input_that_goes_on_with_other_bytes_is_refused() {
    // Standard input has neither a length nor a time of change by which another one was known.
    let (cluster, dir) = (Cluster::start(), Dir::new());
    let rows: String = (0..5000).map(|n| format!("k{n}|{n}\n")).collect();
    let bad = rows.clone() + "bad\nz|1\n";
    let header = "key,a\n".to_owned();
    let csv = |rows: &str| header.clone() + &rows.replace('|', ",");
    for (index, format, input) in [("i", "rows", bad.clone()), ("j", "csv", csv(&bad))] {
        let import = ["import", index, "--force", "--format", format];
        let stopping = [&import[..], &["--max-errors", "0", "--checkpoint-rows", "1500"]].concat();
        dir.feed(&cluster, &stopping, &input).expect(1);
        let checkpoint =
            std::fs::read_to_string(dir.path(&format!("{index}.import"))).expect("one");
        let resume = [&import[..], &["--resume"]].concat();
        let first = input.find("k1").expect("a row");
        let mut changed = input.clone();
        changed.replace_range(first..first + 2, "q1");
        let mut inserted = input.clone();
        inserted.insert_str(first, "new,1\n");
        for other in [&changed, &inserted] {
            let refused = dir.feed(&cluster, &resume, other);
            let expected = "sherd: cannot read standard input: its first ";
            assert!(refused.stderr.contains(expected), "{}", refused.stderr);
            assert!(refused.stderr.contains("give it the same bytes again"), "{}", refused.stderr);
            refused.expect(1);
        }
        let refused = dir.feed(&cluster, &resume, &input[..first]);
        assert!(refused.stderr.contains("before the place to go on from"), "{}", refused.stderr);
        refused.expect(1);
        if index == "j" {
            // A checkpoint of an earlier version has no checksum, and is gone on from.
            let mut old = json(&checkpoint);
            let crc32 = old["at"].as_object_mut().and_then(|at| at.remove("crc32"));
            assert!(crc32.is_some_and(|crc32| crc32.is_u64()), "{checkpoint}");
            dir.file("j.import", old.to_string());
        }
        let ran = dir.feed(&cluster, &resume, &input);
        assert_eq!(ran.expect(1), "5001 written, 0 existing, 1 failed\n");
        assert_eq!(cluster.run(["keys", index]).expect(0).lines().count(), 5001);
    }
}

/// Rows of which some are bad, some keys come again, some documents are there before, and the others.
fn rows(rng: &mut StdRng, count: usize) -> String {
    let row = |n: usize| match n % 50 {
        7 => "bad row\n".to_owned(),
        11 => format!("{{\"key\": \"k{}\", \"record\": \"again {n}\"}}\n", rng.random_range(0..=n)),
        _ => format!("{{\"key\": \"k{n}\", \"record\": {{\"n\": {n}}}}}\n"),
    };
    (0..count).map(row).collect()
}

#[test]
fn an_import_that_is_killed_goes_on_and_counts_everything_once() {
    const ROWS: usize = 12_000;
    let seed = from_environment("SHERD_IMPORT_SEED").unwrap_or_else(rand::random);
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let wanted = from_environment("SHERD_IMPORT_KILLS");
    let cluster = Cluster::start_with(["--port", "0", "--shards", "3"]);
    let dir = Dir::new();
    let file = dir.file("a.jsonl.gz", gzip(rows(&mut rng, ROWS).as_bytes()));
    let there: String = (0..ROWS).step_by(7).map(|n| format!("k{n}|before\n")).collect();
    let (mut kills, mut round) = ((0, 0), 0);
    while wanted.map_or(round < 3, |wanted| kills.0 + kills.1 < wanted) {
        let on_conflict = ["skip", "overwrite", "fail"][round % 3];
        round += 1;
        let prepare = || {
            cluster.run(["index", "drop", "i"]);
            cluster.feed(["write", "i", "--force"], &there).expect(0);
            _ = std::fs::remove_file(dir.path("i.import"));
        };
        let arguments = [
            "--json",
            "import",
            "i",
            &file,
            "--on-conflict",
            on_conflict,
            "--rejects",
            "r.jsonl",
            "--checkpoint-rows",
            "1500",
        ];
        let sorted_rejects = || {
            let mut rejects: Vec<_> =
                dir.rejects("r.jsonl").iter().map(ToString::to_string).collect();
            rejects.sort();
            rejects
        };
        prepare();
        let clean = json(&dir.run(&cluster, &arguments).expect(1));
        let digest = cluster.run(["digest", "i"]).expect(0);
        let rejects = sorted_rejects();
        assert_eq!(rejects.len() as u64, clean["failed"].as_u64().expect("a number"));

        prepare();
        // Slow enough that there is a middle to kill it in.
        let slowly = [&arguments[..], &["--rate", "12000"]].concat();
        let found = loop {
            let mut command = dir.command(&cluster, &slowly);
            if dir.path("i.import").exists() {
                command.arg("--resume");
            }
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut tool = command.spawn().expect("it starts");
            let (mut moment, deadline) = (Instant::now(), Instant::now() + PATIENCE);
            let mut is_killed = false;
            while tool.try_wait().expect("waited for").is_none() {
                assert!(Instant::now() < deadline, "the import does not end");
                std::thread::sleep(Duration::from_millis(5));
                if Instant::now() < moment {
                    continue;
                }
                moment = Instant::now() + Duration::from_millis(rng.random_range(50..600));
                match rng.random_range(0..4) {
                    0 | 1 if !is_killed => {
                        is_killed = true;
                        kills.0 += 1;
                        tool.kill().expect("it is there");
                    }
                    2 => {
                        let stat = cluster.run(["stat", "--json"]);
                        let pids: Vec<u64> =
                            if stat.status == 0 { pids(&stat.stdout) } else { Vec::new() };
                        if let Some(pid) = pids.choose(&mut rng) {
                            kills.1 += 1;
                            signal(*pid as u32, Signal::KILL);
                        }
                    }
                    _ => {}
                }
            }
            let output = tool.wait_with_output().expect("it ends");
            if output.status.code().is_some() {
                let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
                assert_eq!(output.status.code(), Some(1), "{stderr}");
                assert!(!dir.path("i.import").exists(), "{stderr}");
                break json(&String::from_utf8_lossy(&output.stdout));
            }
        };
        assert_eq!(found, clean, "{on_conflict}");
        assert_eq!(cluster.run(["digest", "i"]).expect(0), digest, "{on_conflict}");
        assert_eq!(sorted_rejects(), rejects, "{on_conflict}");
    }
    println!("{round} rounds, {} kills of the import, {} of shards", kills.0, kills.1);
}

/// The process ids in the figures of shards.
fn pids(stat: &str) -> Vec<u64> {
    let stat = json(stat);
    let shards = stat.as_object().into_iter().flat_map(|shards| shards.values());
    shards.filter_map(|shard| shard["pid"].as_u64()).collect()
}

/// What it was checked against was the end of the file alone: it was said not to be what was exported.
#[test]
fn an_import_goes_on_only_with_what_it_was_checked_against_from_the_beginning() {
    let (cluster, dir) = (Cluster::start(), Dir::new());
    cluster.feed(["write", "source", "--force"], "a|1\nb|2\nc|3\n").expect(0);
    dir.run(&cluster, &["export", "source", "-o", "a.jsonl"]).expect(0);
    let exported = std::fs::read_to_string(dir.path("a.jsonl")).expect("it is there");
    let (first, others) = exported.split_once('\n').expect("lines");
    dir.file("a.jsonl", format!("{first}\nbad\n{others}"));
    let (sidecar, away) = (dir.path("a.jsonl.digest.json"), dir.path("away"));
    let moved = |from, to| std::fs::rename(from, to).expect("it is moved");
    let stops =
        ["import", "i", "a.jsonl", "--force", "--checkpoint-rows", "1", "--max-errors", "0"];
    let goes_on = ["import", "i", "a.jsonl", "--resume", "--max-errors", "1"];
    moved(&sidecar, &away);
    dir.run(&cluster, &stops).expect(1);
    moved(&away, &sidecar);
    let refused = dir.run(&cluster, &goes_on);
    assert!(refused.stderr.contains("a.jsonl.digest.json has changed since"), "{}", refused.stderr);
    refused.expect(1);
    moved(&sidecar, &away);
    assert_eq!(dir.run(&cluster, &goes_on).expect(1), "3 written, 0 existing, 1 failed\n");
    // From the beginning on it is checked as if nothing had happened.
    moved(&away, &sidecar);
    dir.run(&cluster, &stops).expect(1);
    let whole = dir.run(&cluster, &goes_on);
    assert!(!whole.stderr.contains("exported"), "{}", whole.stderr);
    assert_eq!(whole.expect(1), "0 written, 3 existing, 1 failed\n");
}

#[test]
fn a_checkpoint_is_of_one_import_at_a_time() {
    let (cluster, dir) = (Cluster::start(), Dir::new());
    cluster.run(["index", "create", "i"]).expect(0);
    // It waits for more of its standard input.
    let mut first =
        Process::start(&mut dir.command(&cluster, &["import", "i", "--format", "rows"]));
    assert!(eventually(|| dir.path("i.import").exists()), "it begins");
    dir.file("a.rows", "a|1\n");
    for resume in [None, Some("--resume")] {
        let mut arguments = vec!["import", "i", "a.rows"];
        arguments.extend(resume);
        let refused = dir.run(&cluster, &arguments);
        assert!(refused.stderr.contains("is under way"), "{}", refused.stderr);
        refused.expect(1);
    }
    dir.run(&cluster, &["import", "i", "a.rows", "--checkpoint", "other"]).expect(0);
    first.kill();
    let refused = dir.run(&cluster, &["import", "i", "a.rows"]);
    let expected = "did not end: --resume goes on with it, and after `rm i.import` it begins anew";
    assert!(refused.stderr.contains(expected), "{}", refused.stderr);
}
