//! Runs a fuzzer's corpus through its target, and random mutations of it: what the fuzzers found
//! stays found, with the stable toolchain.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// No longer than a mutation may grow: the fuzzers stay below as well.
const MAX_INPUT_BYTES: usize = 1 << 16;

/// Runs each file of the target's corpus, then as many mutations. `SHERD_FUZZ_SEED` repeats a run.
pub(crate) fn replay(target: &str, run: fn(&[u8]) -> bool, mutations: usize) {
    let corpus = corpus(target);
    let mut taken = 0;
    for (name, input) in &corpus {
        taken += usize::from(run_named(run, target, name, input));
    }
    // Else the corpus no longer gets behind the first check, or tests no refusal.
    assert!(taken > 0 && taken < corpus.len(), "{taken} of {} inputs are taken", corpus.len());

    let seed = match std::env::var("SHERD_FUZZ_SEED") {
        Ok(seed) => seed.parse().expect("SHERD_FUZZ_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let inputs: Vec<_> = corpus.values().collect();
    let mut taken = 0;
    for i in 0..mutations {
        let mut input = inputs.choose(&mut rng).expect("not empty").to_vec();
        for _ in 0..rng.random_range(1..=4) {
            let other = inputs.choose(&mut rng).expect("not empty");
            mutate(&mut rng, &mut input, other);
        }
        input.truncate(MAX_INPUT_BYTES);
        taken += usize::from(run_named(run, target, &format!("mutation-{i}"), &input));
    }
    println!("{target}: {} inputs, {taken} of {mutations} mutations were taken", corpus.len());
}

/// The corpus of a target, by name.
fn corpus(target: &str) -> BTreeMap<String, Vec<u8>> {
    let dir = [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", target].iter().collect::<PathBuf>();
    let files = std::fs::read_dir(&dir).expect("a corpus");
    files
        .map(|file| {
            let file = file.expect("a file of the corpus");
            let name = file.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(file.path()).expect("a file of the corpus"))
        })
        .collect()
}

/// Runs an input, and keeps it where it fails.
fn run_named(run: fn(&[u8]) -> bool, target: &str, name: &str, input: &[u8]) -> bool {
    struct Kept<'a>(&'a str, &'a str, &'a [u8]);
    impl Drop for Kept<'_> {
        fn drop(&mut self) {
            let Self(target, name, input) = self;
            if std::thread::panicking() {
                let path = std::env::temp_dir().join(format!("sherd-fuzz-{target}-{name}"));
                let kept = std::fs::write(&path, input);
                eprintln!("the input that failed: {} ({kept:?})", path.display());
            }
        }
    }
    let _kept = Kept(target, name, input);
    run(input)
}

/// One change of the kinds that fuzzers make.
fn mutate(rng: &mut StdRng, input: &mut Vec<u8>, other: &[u8]) {
    let place = rng.random_range(0..=input.len());
    let length = rng.random_range(1..=16.min(input.len() + 1));
    let end = (place + length).min(input.len());
    match rng.random_range(0..8) {
        0 if place < input.len() => input[place] ^= 1 << rng.random_range(0..8),
        1 if place < input.len() => input[place] = rng.random(),
        2 => _ = input.drain(place..end),
        3 => {
            let piece = input[place..end].to_vec();
            input.splice(place..place, piece);
        }
        4 => {
            let edge = *[0, 1, 0x7f, 0x80, 0xff].choose(rng).expect("not empty");
            input[place..end].fill(edge);
        }
        5 => {
            let noise: Vec<u8> = (0..length).map(|_| rng.random()).collect();
            input.splice(place..place, noise);
        }
        6 => input.truncate(place),
        _ => {
            let from = rng.random_range(0..=other.len());
            let until = rng.random_range(from..=other.len().min(from + 256));
            input.splice(place..end, other[from..until].iter().copied());
        }
    }
}
