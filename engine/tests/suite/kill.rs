//! A real process, compacting all the time on a real disk with the real sled, killed with -9.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command as Process, Stdio};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_engine::{Condition, Engine, MutationOutcome, Options};

use crate::common::*;

/// How many data directories there are, each with processes of its own, side by side: most of the time goes
/// by with the disk.
const DIRS: u64 = 2;

/// Of each directory.
const ROUNDS: u32 = 6;
const WRITERS: u64 = 4;
const KEYS: u64 = 40;

/// In the environment of the process that is to be killed: the data directory, and where its
/// numbers go on.
const DIR: &str = "SHERD_TEST_KILL_DIR";
const FROM: &str = "SHERD_TEST_KILL_FROM";

fn open(dir: &Path) -> Engine {
    let options =
        Options { segment_bytes: 16 * 1024, checkpoint_keys: 200, compaction: true, ..options() };
    Engine::open(dir, options).unwrap().0
}

/// Each writer has keys of its own, and says of each number what it did with it, once that is
/// acknowledged; of a removal also before it is asked for, or nobody could tell from a lost document
/// one whose removal was not acknowledged any more.
fn write_for_ever(engine: &Engine, writer: u64, from: u64) {
    let mut rng = StdRng::seed_from_u64(from + writer);
    for number in (from..).step_by(WRITERS as usize).map(|number| number + writer) {
        let name = format!("writer{writer}-key{}", rng.random_range(0..KEYS));
        // One call a line, so that lines stay whole.
        let say = |what: &str| {
            let line = format!("{name} {number} {what}\n");
            std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
        };
        if rng.random_bool(0.2) {
            say("removing");
            one(engine, remove(&name));
            say("removed");
        } else {
            let document = format!("{number} {}", "x".repeat(rng.random_range(0..700)));
            let outcome = one(engine, write(&name, &document, Condition::Any));
            assert!(matches!(outcome, MutationOutcome::Written(_)), "{outcome:?}");
            say("written");
        }
    }
}

#[test]
#[ignore = "the process that the other test starts and kills"]
fn write_until_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let from = std::env::var(FROM).unwrap().parse().unwrap();
    let engine = open(Path::new(&dir));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let engine = &engine;
            scope.spawn(move || write_for_ever(engine, writer, from));
        }
    });
}

#[test]
fn a_process_killed_while_it_compacts_loses_nothing_and_brings_nothing_back() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    std::thread::scope(|scope| {
        for number in 0..DIRS {
            scope.spawn(move || kill_again_and_again(seed.wrapping_add(number)));
        }
    });
}

fn kill_again_and_again(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    set_up(&engine);
    engine.close().unwrap();
    drop(engine);
    // Of each key the last acknowledged number, and whether it was written.
    let mut acknowledged: HashMap<String, (u64, bool)> = HashMap::new();
    let mut highest = 0;
    for round in 0..ROUNDS {
        let mut child = Process::new(std::env::current_exe().unwrap())
            .args(["kill::write_until_killed", "--exact", "--ignored", "--nocapture"])
            .env(DIR, dir.path())
            .env(FROM, (highest + WRITERS).to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let most = rng.random_range(200..2500);
        let mut answers = 0;
        // The keys whose last line says that they are being removed.
        let mut removing = HashSet::new();
        for line in lines.map_while(Result::ok) {
            let words: Vec<_> = line.split(' ').collect();
            let [name, number, what @ ("written" | "removed" | "removing")] = words[..] else {
                continue;
            };
            let number: u64 = number.parse().unwrap();
            highest = highest.max(number);
            if what == "removing" {
                removing.insert(name.to_owned());
                continue;
            }
            removing.remove(name);
            acknowledged.insert(name.to_owned(), (number, what == "written"));
            answers += 1;
            if answers == most {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(answers >= most, "round {round}: the process ended by itself");
        if round % 3 == 2 {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let engine = open(dir.path());
        let found = contents(&engine);
        for (name, &(number, written)) in &acknowledged {
            let there = found.get(name);
            let there = there.map(|document| document.split(' ').next().unwrap().parse().unwrap());
            // One operation of each writer was under way: it may have happened or not.
            let later = there.is_some_and(|there: u64| there > number);
            let as_answered = if written { there == Some(number) } else { there.is_none() };
            let removed = removing.contains(name) && there.is_none();
            assert!(later || as_answered || removed, "{name}: {number} {written} {there:?}");
        }
        assert!(removing.len() as u64 <= WRITERS, "round {round}: {removing:?}");
        acknowledged.retain(|name, (_, written)| !*written || found.contains_key(name));
        engine.close().unwrap();
    }
    let mut segments: Vec<_> = std::fs::read_dir(dir.path().join("log"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".log"))
        .collect();
    segments.sort();
    let last: usize = segments.last().unwrap().trim_end_matches(".log").parse().unwrap();
    println!("{highest} operations, {} of {last} segments are left", segments.len());
    assert!(segments.len() * 4 < last, "it compacted: {} of {last} left", segments.len());
}
