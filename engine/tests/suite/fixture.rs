//! Data directories of the format versions that are read, kept as they were written: a later version
//! of the engine that reads them otherwise breaks with every directory there is.
//!
//! `tests/fixtures/format-N` was made by the test that is ignored. When the format changes, raise
//! the format's version, make a new one and leave the old ones:
//!
//! ```sh
//! cargo test -p sherd-engine --test suite fixture -- --ignored
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sherd_engine::verify::verify;
use sherd_engine::{
    Command, Condition, Engine, Error, Expiry, IndexId, IndexSettings, Key, Mutation, Policy,
    rebuild,
};

use crate::common::*;

/// The format versions that are read; the last is written.
const FORMATS: [u32; 2] = [2, 3];
const NEWEST: u32 = 3;

/// When documents of the fixture expire that do: in the year 2200.
const EXPIRES_AT: u64 = 7_258_118_400_000;

const DROPPED: IndexId = 2;
const PEOPLE: IndexId = 3;
const LATE: IndexId = 4;
const CACHE: IndexId = 5;

/// The fixture may have so much: it is kept in the repository.
const MAX_BYTES: u64 = 100_000;

type Documents = BTreeMap<(IndexId, String), String>;

fn fixture(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/format-{format}"))
}

/// Changes an engine, or nothing, and what is expected of it.
struct History<'a> {
    engine: Option<&'a Engine>,
    format: u32,
    expected: Documents,
}

impl History<'_> {
    fn control(&self, command: Command) {
        if let Some(engine) = self.engine {
            engine.execute(command).unwrap();
        }
    }

    fn put(&mut self, index: IndexId, name: &str, document: String) {
        self.put_until(index, name, document, 0);
    }

    fn put_until(&mut self, index: IndexId, name: &str, document: String, expires_at: u64) {
        let bytes = Bytes::from(document.clone().into_bytes());
        let write = Mutation::Write {
            index,
            key: key(name),
            document: bytes,
            condition: Condition::Any,
            expiry: Expiry::At(expires_at),
        };
        self.control(Command::Mutate { mutations: vec![write], atomic: false });
        self.expected.insert((index, name.to_owned()), document);
    }

    fn remove(&mut self, index: IndexId, name: &str) {
        let remove = Mutation::Remove { index, key: key(name), version: None };
        self.control(Command::Mutate { mutations: vec![remove], atomic: false });
        self.expected.remove(&(index, name.to_owned()));
    }

    /// Every kind of effect, over several segments of which some are compacted, with a checkpoint in
    /// the middle.
    fn run(&mut self) {
        self.control(Command::Assign(assignment(1, &[(0, RING)], 1 << 20)));
        for (id, name) in [(INDEX, "cities"), (DROPPED, "dropped"), (PEOPLE, "people")] {
            self.control(Command::CreateIndex {
                id,
                name: name.to_owned(),
                settings: IndexSettings::default(),
            });
        }
        for i in 0..40 {
            if i == 20 {
                // In a segment of which all else lives: none has less garbage, so it is the last to
                // be compacted, and until then the removal has to be repeated.
                self.put(INDEX, "removed", "is to stay so".to_owned());
            }
            self.put(INDEX, &format!("cold{i}"), format!("document {i} {}", "c".repeat(i)));
            self.put(DROPPED, &format!("key{i}"), "goes with its index".to_owned());
        }
        for i in 0..60 {
            self.put(PEOPLE, &format!("hot{}", i % 3), format!("overwritten {i} times"));
            if i == 20 {
                // In a segment that is nearly all garbage: it is the first.
                self.remove(INDEX, "removed");
            }
        }
        if let Some(engine) = self.engine {
            engine.checkpoint().unwrap();
            for _ in 0..4 {
                assert!(engine.compact().unwrap().is_some(), "there is garbage");
            }
        }
        self.control(Command::DropIndex { id: DROPPED });
        self.expected.retain(|(index, _), _| *index != DROPPED);
        self.control(Command::Assign(assignment(2, &[(0, 4_000_000), (4_000_000, RING)], 1 << 21)));
        self.control(Command::SetLimit { limit: 1 << 22, policy: None });
        self.control(Command::Lock { owner: "someone".to_owned() });
        self.control(Command::Release { owner: "someone".to_owned() });
        self.put(PEOPLE, "short", "lived".to_owned());
        if let Some(engine) = self.engine {
            engine.checkpoint().unwrap();
        }
        self.control(Command::CreateIndex {
            id: LATE,
            name: "late".to_owned(),
            settings: IndexSettings::default(),
        });
        self.put(LATE, "after", "the checkpoint".to_owned());
        if self.format >= 3 {
            self.run_cache();
        }
        self.put(INDEX, "cold1", "after the checkpoint".to_owned());
        self.put(INDEX, "żółć", String::new());
        self.remove(PEOPLE, "short");
        self.control(Command::Lock { owner: "fixture".to_owned() });
    }

    /// Settings, times to live and removals of each kind.
    fn run_cache(&mut self) {
        let settings = IndexSettings { max_documents: None, ..cache_settings() };
        self.control(Command::CreateIndex { id: CACHE, name: "cache".to_owned(), settings });
        self.control(Command::SetIndex { id: CACHE, settings: cache_settings(), force: false });
        for i in 0..5 {
            self.put_until(CACHE, &format!("cached{i}"), "x".to_owned(), EXPIRES_AT);
        }
        for evicted in 0..3 {
            self.expected.remove(&(CACHE, format!("cached{evicted}")));
        }
        let mutation = Mutation::Touch {
            index: CACHE,
            key: key("cached3"),
            version: self
                .engine
                .map_or(0, |engine| engine.version(CACHE, &key("cached3")).unwrap().unwrap()),
            document: Bytes::from_static(b"x"),
            expiry: Expiry::Never,
        };
        self.control(Command::Mutate { mutations: vec![mutation], atomic: false });
        self.put_until(LATE, "expired", "long ago".to_owned(), 1);
        self.expected.remove(&(LATE, "expired".to_owned()));
        if let Some(engine) = self.engine {
            while engine.stat().counts.expired == 0 {
                std::thread::yield_now();
            }
        }
    }
}

/// What the fixture's index with limits was given last.
fn cache_settings() -> IndexSettings {
    IndexSettings {
        max_bytes: Some(1 << 20),
        max_documents: Some(2),
        policy: Some(Policy::Fifo),
        ttl: Some(86_400_000),
    }
}

fn expected(format: u32) -> Documents {
    let mut history = History { engine: None, format, expected: Documents::new() };
    history.run();
    history.expected
}

fn scan(engine: &Engine) -> Documents {
    let mut found = Documents::new();
    for index in engine.stat().indexes {
        let page = engine.scan(&whole(index.id)).unwrap();
        assert!(!page.more);
        assert_eq!(page.items.len() as u64, index.documents);
        for (Key { position, bytes }, document) in page.items {
            let name = String::from_utf8(bytes.to_vec()).unwrap();
            assert_eq!(position, key(&name).position);
            let document = String::from_utf8(document.bytes.to_vec()).unwrap();
            found.insert((index.id, name), document);
        }
    }
    found
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let to = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(file, to).unwrap();
    }
}

/// A copy of the fixture.
fn copied(format: u32) -> (tempfile::TempDir, PathBuf) {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    copy(&fixture(format), &dir);
    (temporary, dir)
}

/// The kinds of the effects in a directory's log.
fn kinds(dir: &Path) -> BTreeSet<u8> {
    let mut kinds = BTreeSet::new();
    for file in files(&dir.join("log")) {
        let bytes = fs::read(file).unwrap();
        let mut offset = 64;
        while let Some(record) = bytes.get(offset..offset + 32) {
            let length = u32::from_le_bytes(record[4..8].try_into().unwrap()) as usize;
            if !(32..bytes.len()).contains(&length) {
                break;
            }
            kinds.insert(record[28]);
            offset += length;
        }
    }
    kinds
}

#[test]
#[ignore = "makes the fixture anew, once for each version of the format"]
fn make_the_fixture() {
    let temporary = tempfile::tempdir().unwrap();
    let dir = temporary.path().join("data");
    let (engine, _) = Engine::open(&dir, options()).unwrap();
    History { engine: Some(&engine), format: NEWEST, expected: Documents::new() }.run();
    // As a crash would end it.
    drop(engine);
    fs::remove_file(dir.join("log/spare")).unwrap();
    fs::remove_file(dir.join("LOCK")).unwrap();
    _ = fs::remove_dir_all(fixture(NEWEST));
    copy(&dir, &fixture(NEWEST));
    has_something_of_everything();
}

#[test]
fn the_fixture_has_something_of_everything() {
    has_something_of_everything();
}

fn has_something_of_everything() {
    let dir = fixture(NEWEST);
    assert_eq!(kinds(&dir), (1..=10).collect());
    let logs = fs::read_dir(dir.join("log")).unwrap();
    let numbers = logs.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let numbers: BTreeSet<u32> = numbers.map(|name| name[..10].parse().unwrap()).collect();
    assert!(numbers.len() >= 4, "{numbers:?}");
    let last = *numbers.last().unwrap();
    assert!((numbers.len() as u32) < last, "some were compacted: {numbers:?}");
    let bytes: u64 = files(&dir).iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(bytes <= MAX_BYTES, "{bytes}");
}

#[test]
fn the_fixture_opens_with_all_that_was_written() {
    let ways = [(false, false), (true, false), (false, true)];
    let all =
        FORMATS.into_iter().flat_map(|format| ways.map(|(lost, first)| (format, lost, first)));
    for (format, index_lost, rebuilt_first) in all {
        let (_temporary, dir) = copied(format);
        assert_eq!(verify(&dir, true, &mut |fault| panic!("{fault}")).unwrap().faults, 0);
        if index_lost {
            fs::remove_dir_all(dir.join("index")).unwrap();
        }
        if rebuilt_first {
            rebuild(&dir, &options()).unwrap();
        }
        let (engine, recovery) = Engine::open(&dir, options()).unwrap();
        assert_eq!(recovery.rebuilt.is_some(), index_lost, "{recovery:?}");
        assert_eq!(recovery.replayed > 0, !rebuilt_first, "there is a tail to replay");
        assert_eq!(scan(&engine), expected(format));
        let stat = engine.stat();
        let names: Vec<_> = stat.indexes.iter().map(|index| index.name.as_str()).collect();
        if format >= 3 {
            assert_eq!(names, ["cache", "cities", "late", "people"]);
            let cache = &stat.indexes[0];
            assert_eq!((cache.settings, cache.counts.evicted), (cache_settings(), 3));
            assert_eq!((stat.counts.evicted, stat.counts.expired), (3, 1));
            let expires_at = |name| engine.read(CACHE, &key(name)).unwrap().unwrap().expires_at;
            assert_eq!([expires_at("cached3"), expires_at("cached4")], [0, EXPIRES_AT]);
        } else {
            assert_eq!(names, ["cities", "late", "people"]);
        }
        assert_eq!(stat.locked_by.as_deref(), Some("fixture"));
        let held = engine.assignment().unwrap();
        let ranges = [(0, 4_000_000), (4_000_000, RING)];
        assert_eq!(*held, assignment(2, &ranges, 1 << 22));
        // It can be gone on with: ids are not given twice, versions grow.
        let newest = engine.version(INDEX, &key("cold1")).unwrap().unwrap();
        engine.execute(Command::Release { owner: "fixture".to_owned() }).unwrap();
        assert!(put(&engine, "more", "of it") > newest);
        let again = Command::CreateIndex {
            id: DROPPED,
            name: "again".to_owned(),
            settings: IndexSettings::default(),
        };
        assert!(matches!(engine.execute(again), Err(Error::IndexIdUsed { .. })));
        while engine.compact().unwrap().is_some() {}
        let mut now = expected(format);
        now.insert((INDEX, "more".to_owned()), "of it".to_owned());
        assert_eq!(scan(&engine), now);
        engine.close().unwrap();
        drop(engine);
        assert_eq!(verify(&dir, true, &mut |fault| panic!("{fault}")).unwrap().faults, 0);
    }
}

#[test]
fn another_version_of_the_format_is_refused_with_both_named() {
    // The CRC-32 of the manifest is at 16 and covers what is before and behind it; that of a
    // segment's header is at 60.
    let first = files(&fixture(NEWEST).join("log")).into_iter().min().unwrap();
    let first = first.strip_prefix(fixture(NEWEST)).unwrap().to_owned();
    for (name, crc_at) in [("MANIFEST".into(), 16), (first, 60)] {
        for other in [FORMATS[0] - 1, NEWEST + 1] {
            let (_temporary, dir) = copied(NEWEST);
            let path = dir.join(&name);
            let mut bytes = fs::read(&path).unwrap();
            assert_eq!(bytes[8..12], NEWEST.to_le_bytes());
            bytes[8..12].copy_from_slice(&other.to_le_bytes());
            let mut crc = crc32fast::Hasher::new();
            crc.update(&bytes[..crc_at]);
            if crc_at == 16 {
                crc.update(&bytes[20..]);
            }
            bytes[crc_at..crc_at + 4].copy_from_slice(&crc.finalize().to_le_bytes());
            fs::write(&path, bytes).unwrap();
            let named = format!("format version {other} is not known here, {NEWEST} is");
            let opened = Engine::open(&dir, options()).map(drop).unwrap_err();
            let rebuilt = rebuild(&dir, &options()).map(drop).unwrap_err();
            for error in [opened, rebuilt] {
                assert!(matches!(error, Error::UnknownFormat { .. }), "{error}");
                assert!(error.to_string().contains(&named), "{error}");
            }
            let mut said = Vec::new();
            match verify(&dir, false, &mut |fault| said.push(fault.to_string())) {
                Ok(_) => {}
                Err(error) => said.push(error.to_string()),
            }
            assert!(said.iter().any(|said| said.contains(&named)), "{said:?}");
        }
    }
}
