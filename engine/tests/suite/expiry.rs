//! Times to live: when a document is gone, that it stays so, and that its space comes back.
//!
//! That an expired document is not returned needs nobody to have removed it; that it is removed is
//! the sweeper's, which tests wait for by its outcome. The time is set by the tests.

use std::collections::BTreeSet;

use bytes::Bytes;
use sherd_engine::index::IndexStore;
use sherd_engine::{
    Command, Condition, Engine, Expiry, IndexId, IndexSettings, Mutation, MutationOutcome, Options,
    Policy, Scan,
};

use crate::common::*;

const OTHER: IndexId = 2;
const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;

/// A machine with a time of its own.
#[derive(Default)]
struct World {
    machine: Machine,
    time: Time,
}

impl World {
    fn options(&self) -> Options {
        Options { clock: self.time.clock(), ..options() }
    }

    fn open(&self) -> Engine {
        self.machine.open_with(self.options()).unwrap().0
    }

    /// The power is cut, and the index lost where that is said.
    fn cut_and_open(&self, engine: Engine, index_lost: bool) -> Engine {
        drop(engine);
        self.machine.fs.crash(|| false);
        self.machine.index.crash(false);
        if index_lost {
            self.machine.index.set_aside().unwrap();
        }
        let (engine, recovery) = self.machine.open_with(self.options()).unwrap();
        assert!(index_lost || recovery.rebuilt.is_none(), "{recovery:?}");
        engine
    }
}

fn started() -> (World, Engine) {
    let world = World::default();
    let engine = world.open();
    set_up(&engine);
    (world, engine)
}

fn expires_at(engine: &Engine, name: &str) -> Option<u64> {
    Some(engine.read(INDEX, &key(name)).unwrap()?.expires_at)
}

fn touch(name: &str, version: u64, document: &str, expiry: Expiry) -> Mutation {
    let document = Bytes::copy_from_slice(document.as_bytes());
    Mutation::Touch { index: INDEX, key: key(name), version, document, expiry }
}

fn names(engine: &Engine) -> BTreeSet<String> {
    scan_index(engine, INDEX).into_keys().collect()
}

fn compact_all(engine: &Engine) -> usize {
    let mut rounds = 0;
    while engine.compact().unwrap().is_some() {
        rounds += 1;
        assert!(rounds < 1000, "compaction comes to no end");
    }
    rounds
}

// Being gone.

#[test]
fn an_expired_document_is_returned_by_nothing() {
    let (world, engine) = started();
    let version = put_until(&engine, INDEX, "k", "document", Expiry::After(5 * SECOND));
    put(&engine, "other", "stays");
    let there = |engine: &Engine| {
        let keys = Scan {
            index: INDEX,
            range: (0, RING),
            after: None,
            max_documents: 9,
            max_bytes: 1 << 20,
            keys_only: true,
        };
        let scanned = engine.scan(&keys).unwrap().items;
        let ways = [
            engine.read(INDEX, &key("k")).unwrap().is_some(),
            engine.version(INDEX, &key("k")).unwrap().is_some(),
            scan_index(engine, INDEX).contains_key("k"),
            scanned.iter().any(|(found, _)| *found == key("k")),
        ];
        assert_eq!(ways, [ways[0]; 4], "by read, version, scan, scan of keys");
        ways[0]
    };
    assert!(there(&engine));
    world.time.advance(5 * SECOND - 1);
    assert!(there(&engine));
    assert_eq!(expires_at(&engine, "k"), Some(Time::START + 5 * SECOND));
    world.time.advance(1);
    assert!(!there(&engine), "at the very millisecond");

    let try_write = |condition| one(&engine, write("k", "again", condition));
    let there_again = |outcome| assert!(matches!(outcome, MutationOutcome::Written(_)));
    assert_eq!(try_write(Condition::Present), MutationOutcome::ConditionFailed(None));
    assert_eq!(try_write(Condition::Version(version)), MutationOutcome::ConditionFailed(None));
    assert_eq!(one(&engine, remove("k")), MutationOutcome::Missing);
    let touched = one(&engine, touch("k", version, "document", Expiry::Never));
    assert_eq!(touched, MutationOutcome::Missing);
    there_again(try_write(Condition::Absent));
    assert_eq!(expires_at(&engine, "k"), Some(0), "what was written anew never expires");
    assert_eq!(recount(&engine)[&INDEX].len(), 2);
}

/// Whatever the document was last read from: the overlay, the cache, the log.
#[test]
fn an_expired_document_is_not_found_in_overlay_cache_or_index() {
    for (checkpoint, read_before) in [(false, false), (false, true), (true, false), (true, true)] {
        let (world, engine) = started();
        put_until(&engine, INDEX, "k", "document", Expiry::After(SECOND));
        if checkpoint {
            engine.checkpoint().unwrap();
        }
        if read_before {
            get(&engine, "k").unwrap();
        }
        world.time.advance(SECOND);
        assert_eq!(get(&engine, "k"), None, "{checkpoint} {read_before}");
    }
}

#[test]
fn later_mutations_of_a_batch_see_what_has_expired_before_them() {
    let (world, engine) = started();
    put_until(&engine, INDEX, "k", "document", Expiry::After(SECOND));
    world.time.advance(SECOND);
    let mutations = vec![
        write("k", "one", Condition::Absent),
        write_to(INDEX, "gone", "at once", Expiry::At(1)),
        write("gone", "again", Condition::Present),
        write("gone", "again", Condition::Absent),
    ];
    // A document that has expired when it is written is not there for the next either.
    let outcomes = mutate(&engine, mutations.clone(), true);
    assert_eq!(outcomes[2], MutationOutcome::ConditionFailed(None));
    assert_eq!(names(&engine).len(), 0, "all or none");
    let outcomes = mutate(&engine, mutations, false);
    assert_eq!(outcomes[2], MutationOutcome::ConditionFailed(None));
    let written = |outcome: &MutationOutcome| matches!(outcome, MutationOutcome::Written(_));
    assert_eq!(outcomes.iter().map(written).collect::<Vec<_>>(), [true, true, false, true]);
    assert_eq!(names(&engine).len(), 2);
}

#[test]
fn an_overwrite_sets_the_time_anew() {
    let (world, engine) = started();
    put_until(&engine, INDEX, "longer", "v", Expiry::After(SECOND));
    put_until(&engine, INDEX, "longer", "v", Expiry::After(HOUR));
    put_until(&engine, INDEX, "for ever", "v", Expiry::After(SECOND));
    put(&engine, "for ever", "v");
    put(&engine, "shorter", "v");
    put_until(&engine, INDEX, "shorter", "v", Expiry::After(SECOND));
    world.time.advance(2 * SECOND);
    wait_until("it is swept", || engine.stat().documents == 2);
    assert_eq!(names(&engine), BTreeSet::from(["longer".to_owned(), "for ever".to_owned()]));
    assert_eq!(engine.stat().counts.expired, 1);
}

// The sweeper.

#[test]
fn the_sweeper_gives_back_what_has_expired_and_only_that() {
    let (world, engine) = started();
    let mutations = (0..1000).map(|i| {
        let expiry = match i % 4 {
            0 => Expiry::Never,
            of => Expiry::After(of * 10 * SECOND),
        };
        write_to(INDEX, &format!("key{i}"), "document", expiry)
    });
    for chunk in mutations.collect::<Vec<_>>().chunks(10) {
        mutate(&engine, chunk.to_vec(), false);
    }
    for (expired, seconds) in [(250, 10), (500, 10), (750, 10)] {
        world.time.advance(seconds * SECOND);
        wait_until("they are swept", || engine.stat().documents == 1000 - expired);
        assert_eq!(recount(&engine)[&INDEX].len() as u64, 1000 - expired);
        assert_eq!(engine.stat().counts.expired, expired);
    }
    world.time.advance(24 * HOUR);
    assert_eq!(names(&engine).len(), 250);
    assert_eq!(engine.stat().tracked_documents, 0, "what never expires is not remembered");
}

#[test]
fn the_sweeper_finds_what_expired_while_the_shard_was_down() {
    for index_lost in [false, true] {
        let (world, engine) = started();
        for i in 0..100 {
            let expiry = if i % 2 == 0 { Expiry::After(HOUR) } else { Expiry::Never };
            put_until(&engine, INDEX, &format!("key{i}"), "document", expiry);
        }
        engine.checkpoint().unwrap();
        drop(engine);
        world.time.advance(2 * HOUR);
        if index_lost {
            world.machine.index.set_aside().unwrap();
        }
        let engine = world.open();
        assert_eq!(names(&engine).len(), 50, "not for a moment");
        wait_until("they are swept", || engine.stat().documents == 50);
        assert_eq!(engine.stat().counts.expired, 50);
        recount(&engine);
    }
}

// Times last.

/// When the documents of the next test expire.
fn times(count: u64) -> impl Iterator<Item = (String, u64)> {
    (0..count).map(|i| (format!("timed{i}"), if i % 5 == 0 { 0 } else { Time::START + i * HOUR }))
}

#[test]
fn times_survive_restarts_checkpoints_compaction_and_the_loss_of_the_index() {
    let (world, mut engine) = started();
    for (name, at) in times(20) {
        put(&engine, &format!("garbage {name}"), "goes");
        put_until(&engine, INDEX, &name, "document", Expiry::At(at));
        one(&engine, remove(&format!("garbage {name}")));
    }
    // Half of them by a touch, which lies in the log as a record of its own.
    for (name, at) in times(40).skip(20) {
        let version = put_until(&engine, INDEX, &name, "document", Expiry::After(HOUR));
        let touched = one(&engine, touch(&name, version, "document", Expiry::At(at)));
        assert_eq!(touched, MutationOutcome::Touched(version, at));
    }
    let versions: Vec<_> = scan_index(&engine, INDEX).into_values().map(|d| d.version).collect();
    let check = |engine: &Engine, after: &str| {
        for (name, at) in times(40) {
            assert_eq!(expires_at(engine, &name), Some(at), "{name} after {after}");
        }
        let found = recount(engine).remove(&INDEX).unwrap();
        let now: Vec<_> = found.into_values().map(|document| document.version).collect();
        assert_eq!(now, versions, "versions after {after}");
    };
    check(&engine, "nothing");
    engine = world.cut_and_open(engine, false);
    check(&engine, "a power cut");
    engine = world.cut_and_open(engine, true);
    check(&engine, "the loss of the index");
    engine.checkpoint().unwrap();
    check(&engine, "a checkpoint");
    for i in 0..60 {
        put(&engine, "hot", &format!("{i} fills segments"));
    }
    one(&engine, remove("hot"));
    assert!(compact_all(&engine) > 3);
    check(&engine, "compaction");
    engine.close().unwrap();
    drop(engine);
    engine = world.open();
    check(&engine, "a restart");
    engine = world.cut_and_open(engine, true);
    check(&engine, "the loss of the index behind a compaction");
    // And they are still kept: all of the first five hours but those that stay for ever.
    world.time.set(Time::START + 4 * HOUR);
    wait_until("they are swept", || engine.stat().documents == 36);
    assert_eq!(names(&engine).len(), 36);
}

// Touch.

#[test]
fn a_touch_sets_extends_and_removes_the_time_and_keeps_the_version() {
    let (world, engine) = started();
    let version = put(&engine, "k", "document");
    let touched = |expiry| one(&engine, touch("k", version, "document", expiry));
    let at = Time::START + 5 * SECOND;
    assert_eq!(touched(Expiry::After(5 * SECOND)), MutationOutcome::Touched(version, at));
    assert_eq!(expires_at(&engine, "k"), Some(at), "set");
    let at = Time::START + HOUR;
    assert_eq!(touched(Expiry::At(at)), MutationOutcome::Touched(version, at));
    world.time.advance(10 * SECOND);
    assert_eq!(expires_at(&engine, "k"), Some(at), "extended");
    assert_eq!(touched(Expiry::Never), MutationOutcome::Touched(version, 0));
    world.time.advance(2 * HOUR);
    assert_eq!(expires_at(&engine, "k"), Some(0), "removed");
    assert_eq!(engine.version(INDEX, &key("k")).unwrap(), Some(version));
    assert_eq!(get(&engine, "k").unwrap(), "document");
    let now = world.time.now();
    assert_eq!(touched(Expiry::After(0)), MutationOutcome::Touched(version, now));
    assert_eq!(get(&engine, "k"), None, "shortened to nothing");
    assert_eq!(touched(Expiry::Never), MutationOutcome::Missing, "it does not come back");
    world.time.advance(SECOND);
    wait_until("it is swept", || engine.stat().used == 0);
}

#[test]
fn a_touch_of_another_version_or_of_nothing_changes_nothing() {
    let (_world, engine) = started();
    let first = put(&engine, "k", "document");
    let second = put(&engine, "k", "document");
    let durable = engine.stat().durable_lsn;
    let stale = one(&engine, touch("k", first, "document", Expiry::After(SECOND)));
    assert_eq!(stale, MutationOutcome::ConditionFailed(Some(second)));
    let missing = one(&engine, touch("nobody", second, "document", Expiry::Never));
    assert_eq!(missing, MutationOutcome::Missing);
    // Its time already: nothing is to be written for it.
    let same = one(&engine, touch("k", second, "document", Expiry::Never));
    assert_eq!(same, MutationOutcome::Touched(second, 0));
    assert_eq!(engine.stat().durable_lsn, durable, "not a word of it in the log");
    // In an atomic group it fails the whole.
    let group = vec![write("a", "1", Condition::Any), touch("k", first, "document", Expiry::Never)];
    let outcomes = mutate(&engine, group, true);
    assert_eq!(outcomes[0], MutationOutcome::Abandoned);
    assert_eq!(recount(&engine)[&INDEX].len(), 1);
    assert_eq!(expires_at(&engine, "k"), Some(0));
}

/// A document keeps its version when it is touched, so a cached one must not be taken for it.
#[test]
fn what_was_cached_before_a_touch_does_not_tell_the_old_time() {
    for longer in [true, false] {
        let (world, engine) = started();
        let (before, after) = if longer { (10, 100) } else { (100, 10) };
        let expiry = |seconds: u64| Expiry::At(Time::START + seconds * SECOND);
        let version = put_until(&engine, INDEX, "k", "document", expiry(before));
        engine.checkpoint().unwrap();
        get(&engine, "k").unwrap();
        one(&engine, touch("k", version, "document", expiry(after)));
        engine.checkpoint().unwrap();
        world.time.advance(50 * SECOND);
        let found = expires_at(&engine, "k");
        assert_eq!(found, longer.then_some(Time::START + after * SECOND));
    }
}

#[test]
fn a_touch_that_was_cut_off_leaves_the_time_that_was() {
    let (world, engine) = started();
    let at = Time::START + HOUR;
    let version = put_until(&engine, INDEX, "k", "document", Expiry::At(at));
    world.machine.fs.fail(sherd_engine::fs::Fault::Sync, 0, std::io::ErrorKind::Other);
    let mutations = vec![touch("k", version, "document", Expiry::Never)];
    engine.execute(Command::Mutate { mutations, atomic: false }).unwrap_err();
    assert_eq!(expires_at(&engine, "k"), Some(at));
    world.machine.fs.heal();
    let engine = world.cut_and_open(engine, false);
    assert_eq!(expires_at(&engine, "k"), Some(at));
    world.time.advance(2 * HOUR);
    wait_until("it is swept", || engine.stat().documents == 0);
}

// Defaults.

#[test]
fn the_time_to_live_of_an_index_is_for_what_says_nothing_else() {
    let (world, engine) = started();
    let of = |ttl| IndexSettings { ttl, ..IndexSettings::default() };
    let set = |settings| Command::SetIndex { id: INDEX, settings, force: false };
    put(&engine, "before", "v");
    engine.execute(set(of(Some(10 * SECOND)))).unwrap();
    put(&engine, "default", "v");
    put_until(&engine, INDEX, "never", "v", Expiry::Never);
    put_until(&engine, INDEX, "longer", "v", Expiry::After(HOUR));
    engine.execute(set(of(Some(20 * SECOND)))).unwrap();
    put(&engine, "changed", "v");
    engine.execute(set(of(None))).unwrap();
    put(&engine, "after", "v");
    let version = put_until(&engine, INDEX, "touched", "v", Expiry::After(5 * SECOND));
    let touched = one(&engine, touch("touched", version, "v", Expiry::Default));
    assert_eq!(touched, MutationOutcome::Touched(version, 0));
    let times = ["before", "default", "never", "longer", "changed", "after"]
        .map(|name| expires_at(&engine, name).unwrap().saturating_sub(Time::START));
    assert_eq!(times, [0, 10 * SECOND, 0, HOUR, 20 * SECOND, 0]);
    // The settings are durable as well.
    engine.execute(set(of(Some(10 * SECOND)))).unwrap();
    let engine = world.cut_and_open(engine, true);
    put(&engine, "later", "v");
    assert_eq!(expires_at(&engine, "later"), Some(Time::START + 10 * SECOND));
}

#[test]
fn a_time_too_far_to_be_counted_is_as_good_as_never() {
    let (world, engine) = started();
    put_until(&engine, INDEX, "after", "v", Expiry::After(u64::MAX));
    put_until(&engine, INDEX, "at", "v", Expiry::At(u64::MAX));
    world.time.advance(50 * 365 * 24 * HOUR);
    assert_eq!(expires_at(&engine, "after"), Some(u64::MAX));
    let engine = world.cut_and_open(engine, true);
    assert_eq!(names(&engine).len(), 2);
    assert_eq!(engine.stat().counts.expired, 0);
}

// Clocks that are set.

#[test]
fn a_clock_that_is_set_back_lets_documents_expire_late_by_as_much() {
    let (world, engine) = started();
    put_until(&engine, INDEX, "gone", "v", Expiry::After(SECOND));
    put_until(&engine, INDEX, "soon", "v", Expiry::After(20 * SECOND));
    world.time.advance(10 * SECOND);
    assert_eq!(get(&engine, "gone"), None);
    world.time.set(world.time.now() - HOUR);
    assert_eq!(get(&engine, "gone"), None, "what has expired stays so");
    assert!(get(&engine, "soon").is_some());
    // Written meanwhile: its time runs from where the clock stands.
    put_until(&engine, INDEX, "meanwhile", "v", Expiry::After(SECOND));
    assert!(get(&engine, "meanwhile").is_some());
    world.time.advance(HOUR);
    assert!(get(&engine, "soon").is_some(), "the clock is where it was");
    world.time.advance(10 * SECOND);
    assert_eq!((get(&engine, "soon"), get(&engine, "meanwhile")), (None, None));
    wait_until("they are swept", || engine.stat().documents == 0);
    assert_eq!(engine.stat().counts.expired, 3);
}

#[test]
fn a_clock_that_is_set_back_before_a_restart_does_no_worse() {
    let (world, engine) = started();
    put_until(&engine, INDEX, "soon", "v", Expiry::After(20 * SECOND));
    world.time.set(world.time.now() - HOUR);
    let engine = world.cut_and_open(engine, false);
    put_until(&engine, INDEX, "hour ago", "v", Expiry::After(SECOND));
    world.time.advance(2 * SECOND);
    assert_eq!(get(&engine, "hour ago"), None);
    assert!(get(&engine, "soon").is_some());
    world.time.set(Time::START + 20 * SECOND);
    assert_eq!(get(&engine, "soon"), None);
    wait_until("they are swept", || engine.stat().documents == 0);
}

#[test]
fn a_clock_that_is_set_ahead_lets_documents_expire_early_by_as_much() {
    let (world, engine) = started();
    put_until(&engine, INDEX, "half an hour", "v", Expiry::After(HOUR / 2));
    put_until(&engine, INDEX, "two hours", "v", Expiry::After(2 * HOUR));
    put(&engine, "for ever", "v");
    world.time.advance(HOUR);
    assert_eq!(get(&engine, "half an hour"), None);
    wait_until("it is swept", || engine.stat().documents == 2);
    // Set right again: what is written now may live an hour too long, and no longer.
    world.time.set(Time::START);
    put_until(&engine, INDEX, "second", "v", Expiry::After(SECOND));
    assert!(get(&engine, "second").is_some());
    world.time.advance(HOUR + SECOND);
    assert_eq!(get(&engine, "second"), None);
    assert!(get(&engine, "two hours").is_some());
    world.time.advance(HOUR);
    assert_eq!(get(&engine, "two hours"), None);
    wait_until("they are swept", || engine.stat().documents == 1);
    assert_eq!(names(&engine), BTreeSet::from(["for ever".to_owned()]));
}

// Limits and counts.

fn limited(world: &World, policy: Policy) -> Engine {
    let engine = world.open();
    let mut assignment = assignment(1, &[(0, RING)], 100);
    assignment.policy = policy;
    engine.execute(Command::Assign(assignment)).unwrap();
    create_index(&engine, INDEX, IndexSettings::default());
    create_index(&engine, OTHER, IndexSettings { policy: Some(policy), ..Default::default() });
    engine
}

/// Under every policy, also one that evicts nothing, and whichever index they lie in.
#[test]
fn what_has_expired_makes_room_before_anything_else_does() {
    use Policy::{Fifo, Lfu, Lru, Random, Reject, Ttl};
    for policy in [Reject, Lru, Lfu, Fifo, Random, Ttl] {
        let world = World::default();
        let engine = limited(&world, policy);
        for i in 0..10 {
            let expiry = Expiry::After(if i % 3 == 1 { 5 * SECOND } else { HOUR });
            let index = if i == 4 { OTHER } else { INDEX };
            put_until(&engine, index, &format!("k{i}"), "document", expiry);
        }
        world.time.advance(5 * SECOND);
        for i in 0..3 {
            put(&engine, &format!("n{i}"), "document");
        }
        let stat = engine.stat();
        assert_eq!((stat.counts.expired, stat.counts.evicted), (3, 0), "{policy:?}");
        assert_eq!((stat.documents, stat.used), (10, 100));
        let all = recount(&engine);
        let left = ["k0", "k2", "k3", "k5", "k6", "k8", "k9", "n0", "n1", "n2"];
        assert!(all[&INDEX].keys().map(String::as_str).eq(left), "{policy:?}: {all:?}");
        assert!(all[&OTHER].is_empty());
    }
}

#[test]
fn an_expired_document_in_the_place_of_a_new_one_is_no_more() {
    let world = World::default();
    let engine = limited(&world, Policy::Fifo);
    for i in 0..10 {
        let expiry = if i == 9 { Expiry::After(SECOND) } else { Expiry::Never };
        put_until(&engine, INDEX, &format!("k{i}"), "document", expiry);
    }
    world.time.advance(SECOND);
    let again = one(&engine, write("k9", "again!", Condition::Absent));
    assert!(matches!(again, MutationOutcome::Written(_)));
    let stat = engine.stat();
    assert_eq!((stat.documents, stat.used, stat.counts.evicted), (10, 98, 0));
    recount(&engine);
}

#[test]
fn counts_say_what_happened_and_evictions_and_expiries_survive_restarts() {
    let world = World::default();
    let mut engine = limited(&world, Policy::Fifo);
    for i in 0..12 {
        put(&engine, &format!("{i:02}"), "document");
    }
    one(&engine, remove("11"));
    put_until(&engine, INDEX, "k0", "document", Expiry::After(SECOND));
    world.time.advance(SECOND);
    wait_until("it is swept", || engine.stat().counts.expired == 1);
    // Three hits, two misses; a scan and a write are neither.
    for name in ["05", "06"] {
        get(&engine, name).unwrap();
    }
    engine.version(INDEX, &key("07")).unwrap().unwrap();
    assert_eq!(get(&engine, "nobody"), None);
    assert_eq!(engine.version(INDEX, &key("00")).unwrap(), None);
    names(&engine);
    refused(&engine, write("large", &"x".repeat(100), Condition::Any));
    one(&engine, write("05", "x", Condition::Absent));
    let ever = |engine: &Engine| {
        let stat = engine.stat();
        (stat.counts.evicted, stat.counts.expired, stat.indexes[0].counts.evicted)
    };
    let counts = engine.stat().counts;
    assert_eq!((counts.rejected, counts.hits, counts.misses), (1, 3, 2));
    assert_eq!(engine.stat().indexes[0].counts, counts);
    assert_eq!(engine.stat().indexes[1].counts, sherd_engine::Counts::default());
    assert_eq!(ever(&engine), (2, 1, 2));
    for index_lost in [false, true] {
        engine = world.cut_and_open(engine, index_lost);
        assert_eq!(ever(&engine), (2, 1, 2), "index lost: {index_lost}");
        let counts = engine.stat().counts;
        assert_eq!((counts.rejected, counts.hits, counts.misses), (0, 0, 0), "of this start");
        engine.checkpoint().unwrap();
        compact_all(&engine);
    }
    engine.close().unwrap();
    drop(engine);
    engine = world.open();
    assert_eq!(ever(&engine), (2, 1, 2));
    // What happened in an index that is dropped has happened all the same.
    get(&engine, "05").unwrap();
    engine.execute(Command::DropIndex { id: INDEX }).unwrap();
    let counts = engine.stat().counts;
    assert_eq!((counts.evicted, counts.expired, counts.hits), (2, 1, 1));
    engine = world.cut_and_open(engine, true);
    let counts = engine.stat().counts;
    assert_eq!((counts.evicted, counts.expired), (2, 1));
    recount(&engine);
}
