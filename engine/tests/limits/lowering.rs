//! Limits that are set, and lowered below what is used.

use super::*;

fn set_limit(engine: &Engine, limit: u64) -> Result<Outcome> {
    engine.execute(Command::SetLimit { limit, policy: None })
}

fn set_index(engine: &Engine, settings: IndexSettings, force: bool) -> Result<Outcome> {
    engine.execute(Command::SetIndex { id: INDEX, settings, force })
}

#[test]
fn lowering_a_limit_is_refused_under_reject_and_changes_nothing() {
    let engine = bounded(&Machine::default(), Bound::Shard, Policy::Reject);
    fill(&engine);
    let full = Error::QuotaExceeded { used: 100, limit: 99, needed: 0 };
    assert_eq!(set_limit(&engine, 99), Err(full));
    let of_index = |max_bytes, max_documents| IndexSettings {
        max_bytes,
        max_documents,
        ttl: Some(1000),
        ..IndexSettings::default()
    };
    let full =
        |what, used, limit| Err(Error::IndexFull { id: INDEX, what, used, limit, needed: 0 });
    let bytes = set_index(&engine, of_index(Some(99), None), false);
    assert_eq!(bytes, full("bytes", 100, 99));
    let documents = set_index(&engine, of_index(Some(100), Some(9)), false);
    assert_eq!(documents, full("documents", 10, 9));
    assert_eq!(engine.assignment().unwrap().limit, 100);
    assert_eq!(engine.stat().indexes[0].settings, IndexSettings::default());
    assert_eq!(gone(&engine), [] as [usize; 0]);
    // What is met is taken.
    set_index(&engine, of_index(Some(100), Some(10)), false).unwrap();
    assert_eq!(engine.stat().indexes[0].settings, of_index(Some(100), Some(10)));
}

/// Neither does a policy that would have come with the limit.
#[test]
fn a_refused_limit_leaves_the_policy() {
    let machine = Machine::default();
    let engine = bounded(&machine, Bound::Shard, Policy::Fifo);
    fill(&engine);
    let lower = Command::SetLimit { limit: 50, policy: Some(Policy::Reject) };
    assert!(matches!(engine.execute(lower), Err(Error::QuotaExceeded { .. })));
    assert_eq!(engine.assignment().unwrap().policy, Policy::Fifo);
    let settings = IndexSettings {
        policy: Some(Policy::Reject),
        max_documents: Some(5),
        ttl: Some(1000),
        ..IndexSettings::default()
    };
    assert!(matches!(set_index(&engine, settings, false), Err(Error::IndexFull { .. })));
    assert_eq!(engine.stat().indexes[0].settings, IndexSettings::default());
    put(&engine, "n0", DOCUMENT);
    assert_eq!(gone(&engine), [0]);
}

#[test]
fn lowering_a_limit_evicts_what_is_over_it_and_no_more() {
    at_each_limit(Policy::Fifo, |engine, bound| {
        match bound {
            Bound::Shard => set_limit(engine, 75),
            Bound::IndexBytes => {
                let settings = IndexSettings { max_bytes: Some(75), ..Default::default() };
                set_index(engine, settings, false)
            }
            Bound::IndexDocuments => {
                let settings = IndexSettings { max_documents: Some(7), ..Default::default() };
                set_index(engine, settings, false)
            }
        }
        .unwrap();
        assert_eq!((gone(engine), evicted(engine)), (vec![0, 1, 2], 3), "{bound:?}");
        put(engine, "n0", DOCUMENT);
        assert_eq!(gone(engine), [0, 1, 2, 3], "{bound:?}");
    });
}

/// An engine with so many documents of ten bytes, under a limit of the shard.
fn with_thousands(machine: &Machine, documents: u64, policy: Policy) -> Engine {
    let (engine, _) = machine.open_with(thousands()).unwrap();
    assign(&engine, documents * 10, policy);
    create_index(&engine, INDEX, IndexSettings::default());
    for chunk in (0..documents).collect::<Vec<_>>().chunks(500) {
        let write = |i| write(&format!("{i:04}"), "docume", Condition::Any);
        mutate(&engine, chunk.iter().map(write).collect(), false);
    }
    assert_eq!(engine.stat().documents, documents);
    engine
}

fn thousands() -> Options {
    Options { segment_bytes: 4 << 20, ..options() }
}

/// Submits a command and gives back where its answer comes.
fn submit(engine: &Engine, command: Command) -> mpsc::Receiver<Result<Outcome>> {
    let (sender, answer) = mpsc::channel();
    engine.submit(command, Box::new(move |result| _ = sender.send(result)));
    answer
}

/// Calls `observer` before each write and sync of the writer. Another thread may be about to prepare a
/// segment, and the writer is not held with that one.
fn observe_writer(machine: &Machine, observer: impl Fn() + Send + Sync + 'static) {
    let is_writer = || std::thread::current().name() == Some("sequencer");
    machine.fs.observe(Some(Arc::new(move || {
        if is_writer() {
            observer();
        }
    })));
}

#[test]
fn lowering_goes_in_bounded_steps_and_is_answered_once_met() {
    for policy in [Policy::Lru, Policy::Lfu, Policy::Fifo, Policy::Random] {
        let machine = Machine::default();
        let engine = with_thousands(&machine, 2000, policy);
        // Before each write and sync it is noted what there is: it gets less bit by bit, and the
        // limit is not in force before it is met.
        let steps = Arc::new(Mutex::new(Vec::new()));
        let (seen, watched) = (Arc::clone(&steps), engine.clone());
        observe_writer(&machine, move || {
            let limit = watched.assignment().unwrap().limit;
            let used = watched.stat().used;
            assert!(used <= limit);
            seen.lock().unwrap().push(used / DOCUMENT_BYTES);
        });
        engine.execute(Command::SetLimit { limit: 5000, policy: None }).unwrap();
        machine.fs.observe(None);
        let stat = engine.stat();
        assert_eq!((stat.documents, stat.used), (500, 5000), "no more than needed");
        assert_eq!(engine.assignment().unwrap().limit, 5000);
        let steps = steps.lock().unwrap();
        assert!(steps.windows(2).all(|pair| pair[0] - pair[1] <= 256), "{policy:?}: {steps:?}");
        assert_eq!((steps[0], steps[steps.len() - 1]), (2000, 500), "{policy:?}: {steps:?}");
        recount(&engine);
    }
}

#[test]
fn a_second_lowering_to_the_same_joins_and_another_is_refused() {
    let machine = Machine::default();
    let engine = with_thousands(&machine, 2000, Policy::Fifo);
    // The writer is held in the midst of the first one until the others have come.
    let (reached, has_reached) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let may_go_on = Mutex::new(may_go_on);
    let held = AtomicBool::new(false);
    observe_writer(&machine, move || {
        if !held.swap(true, Ordering::Relaxed) {
            reached.send(()).unwrap();
            may_go_on.lock().unwrap().recv().unwrap();
        }
    });
    let lower = |limit| submit(&engine, Command::SetLimit { limit, policy: None });
    let first = lower(5000);
    has_reached.recv().unwrap();
    let same = lower(5000);
    let other = lower(4000);
    let settings = IndexSettings { max_documents: Some(10), ..IndexSettings::default() };
    let of_index = submit(&engine, Command::SetIndex { id: INDEX, settings, force: false });
    // What is met is no lowering, and documents are written meanwhile.
    let write = write("new", DOCUMENT, Condition::Absent);
    let written = submit(&engine, Command::Mutate { mutations: vec![write], atomic: false });
    go_on.send(()).unwrap();
    assert_eq!(other.recv().unwrap(), Err(Error::LoweringAnother));
    assert_eq!(of_index.recv().unwrap(), Err(Error::LoweringAnother));
    assert!(matches!(written.recv().unwrap(), Ok(Outcome::Mutated(_))));
    assert_eq!(first.recv().unwrap(), Ok(Outcome::Done));
    assert_eq!(same.recv().unwrap(), Ok(Outcome::Done));
    machine.fs.observe(None);
    assert_eq!(engine.assignment().unwrap().limit, 5000);
    let stat = engine.stat();
    assert!(stat.used <= 5000 && stat.documents >= 499, "{stat:?}");
    assert_eq!(stat.indexes[0].settings, IndexSettings::default());
    assert_eq!(get(&engine, "new").unwrap(), DOCUMENT);
    // It may be tried again.
    lower(4000).recv().unwrap().unwrap();
    assert!((3990..=4000).contains(&engine.stat().used), "by no document more");
}

#[test]
fn a_lowering_that_cannot_be_met_ends_with_the_figures() {
    let engine = bounded(&Machine::default(), Bound::Shard, Policy::Ttl);
    for i in 0..ROOM {
        let expiry = if i < 3 { Expiry::After(3_600_000) } else { Expiry::Never };
        put_until(&engine, INDEX, &format!("k{i}"), DOCUMENT, expiry);
    }
    set_limit(&engine, 80).unwrap();
    assert_eq!(gone(&engine), [0, 1]);
    let error = set_limit(&engine, 50).unwrap_err();
    assert_eq!(error, Error::QuotaExceeded { used: 70, limit: 50, needed: 0 });
    assert_eq!(engine.assignment().unwrap().limit, 80, "the limit is as it was");
    put(&engine, "n0", DOCUMENT);
    assert_eq!(engine.stat().used, 80);
}

#[test]
fn by_force_a_limit_holds_at_once_and_the_rest_is_evicted_in_the_background() {
    let machine = Machine::default();
    let engine = with_thousands(&machine, 2000, Policy::Fifo);
    let settings = IndexSettings { max_documents: Some(500), ..IndexSettings::default() };
    set_index(&engine, settings, true).unwrap();
    assert_eq!(engine.stat().indexes[0].settings, settings);
    wait_until("the limit is met", || engine.stat().documents <= 500);
    let left = names(&engine);
    assert_eq!((left.len(), evicted(&engine)), (500, 1500), "no more than needed");
    mostly_newer(&left, 1000);
}

#[test]
fn by_force_under_reject_nothing_goes_and_nothing_is_added() {
    let engine = bounded(&Machine::default(), Bound::Shard, Policy::Reject);
    fill(&engine);
    let settings = IndexSettings { max_bytes: Some(50), ..IndexSettings::default() };
    set_index(&engine, settings, true).unwrap();
    assert_eq!(engine.stat().indexes[0].settings, settings);
    refused(&engine, write("n0", "", Condition::Any));
    refused(&engine, write("k0", "documents", Condition::Any));
    put(&engine, "k0", "overwrit");
    put(&engine, "k1", "less");
    refused(&engine, write("k1", DOCUMENT, Condition::Any));
    assert_eq!((gone(&engine), evicted(&engine), engine.stat().used), (vec![], 0, 96));
    for i in 2..8 {
        one(&engine, remove(&format!("k{i}")));
    }
    put(&engine, "n0", DOCUMENT);
    assert_eq!(engine.stat().used, 46);
}

/// The bytes are to be lowered and the documents raised: until the bytes are met, neither is in force.
#[test]
fn a_limit_that_is_raised_beside_one_that_is_lowered_holds_until_both_are_set() {
    let (engine, _) = Machine::default().open_with(options()).unwrap();
    assign(&engine, u64::MAX, Policy::Fifo);
    let documents = |most| IndexSettings { max_documents: Some(most), ..Default::default() };
    create_index(&engine, INDEX, documents(4));
    // Its place takes many small ones.
    put(&engine, "big", &"x".repeat(1000));
    (1..4).for_each(|i| _ = put(&engine, &format!("k{i}"), DOCUMENT));
    let (go_on, held) = mpsc::channel();
    let hold = Command::Mutate { mutations: vec![remove("none")], atomic: false };
    engine.submit(hold, Box::new(move |_| _ = held.recv()));
    let settings = IndexSettings { max_bytes: Some(500), ..documents(10) };
    let set = Command::SetIndex { id: INDEX, settings, force: false };
    engine.submit(set, Box::new(|outcome| _ = outcome.unwrap()));
    let (seen, stats) = mpsc::channel();
    for i in 0..4 {
        let mutations = vec![write(&format!("n{i}"), DOCUMENT, Condition::Any)];
        let (watched, seen) = (engine.clone(), seen.clone());
        let done = move |_| _ = seen.send(watched.stat().indexes.remove(0));
        engine.submit(Command::Mutate { mutations, atomic: false }, Box::new(done));
    }
    drop(seen);
    go_on.send(()).unwrap();
    for stat in stats {
        assert!(stat.documents <= stat.settings.max_documents.unwrap(), "{stat:?}");
    }
    wait_until("both are set", || engine.stat().indexes[0].settings == settings);
}

#[test]
fn an_assignment_with_a_lower_limit_is_met_in_the_background() {
    let machine = Machine::default();
    let engine = with_thousands(&machine, 2000, Policy::Fifo);
    let mut lower = assignment(2, &[(0, RING)], 5000);
    lower.policy = Policy::Fifo;
    engine.execute(Command::Assign(lower)).unwrap();
    wait_until("the limit is met", || engine.stat().used <= 5000);
    assert_eq!((names(&engine).len(), evicted(&engine)), (500, 1500), "no more than needed");
}

#[test]
fn a_shard_that_crashed_over_its_limit_goes_on_to_meet_it() {
    for (index_lost, written) in [(false, false), (false, true), (true, false), (true, true)] {
        let machine = Machine::default();
        let engine = with_thousands(&machine, 2000, Policy::Fifo);
        // Else it would be a write of the sequencer's.
        let spare = || machine.fs.bytes(Path::new("/data/log/spare"));
        let prepared =
            || spare().is_some_and(|bytes| bytes.len() as u32 == thousands().segment_bytes);
        wait_until("the next segment", prepared);
        // The settings and two batches of evictions are written, the next fails.
        // A checkpoint may be writing as well.
        machine.fs.fail_once_on("sequencer", Fault::Write, 3, ErrorKind::Other);
        let settings = IndexSettings { max_documents: Some(500), ..IndexSettings::default() };
        set_index(&engine, settings, true).unwrap();
        wait_until("the disk fails", || engine.stat().poisoned.is_some());
        let half_way = engine.stat().documents;
        assert!((501..2000).contains(&half_way), "{half_way}");
        drop(engine);
        machine.fs.heal();
        machine.fs.crash(|| false);
        machine.index.crash(false);
        if index_lost {
            machine.index.set_aside().unwrap();
        }
        let (engine, _) = machine.open_with(thousands()).unwrap();
        if written {
            // A write meanwhile does not add to it, but makes its own room.
            put(&engine, "new", DOCUMENT);
            assert!(engine.stat().documents <= half_way);
        }
        wait_until("the limit is met", || engine.stat().documents <= 500);
        let left = names(&engine);
        let evictions = 1500 + u64::from(written);
        assert_eq!((left.len(), evicted(&engine)), (500, evictions), "no more than needed");
        assert_eq!(left.contains("new"), written);
        mostly_newer(&left, 1000);
        assert_eq!(engine.stat().indexes[0].settings, settings);
    }
}

/// A limit that was to be lowered, but not yet was, is the old one after a crash.
#[test]
fn a_lowering_that_was_not_answered_is_forgotten_by_a_crash() {
    let machine = Machine::default();
    let engine = with_thousands(&machine, 2000, Policy::Fifo);
    // A segment may still be prepared.
    machine.fs.fail_once_on("sequencer", Fault::Write, 2, ErrorKind::Other);
    let error = set_limit(&engine, 5000).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown { .. } | Error::Poisoned { .. }), "{error}");
    drop(engine);
    machine.fs.heal();
    machine.fs.crash(|| false);
    machine.index.crash(false);
    let (engine, _) = machine.open_with(thousands()).unwrap();
    assert_eq!(engine.assignment().unwrap().limit, 20_000);
    let stat = engine.stat();
    assert!((501..2000).contains(&stat.documents), "{}", stat.documents);
    assert_eq!(stat.documents + evicted(&engine), 2000);
    recount(&engine);
}

/// An index with the policy `ttl` evicts nothing that does not expire, however much it holds.
#[test]
fn a_lower_limit_of_the_shard_is_met_by_those_that_have_something_to_evict() {
    let (engine, _) = Machine::default().open().unwrap();
    assign(&engine, u64::MAX, Policy::Reject);
    let with_policy = |policy| IndexSettings { policy: Some(policy), ..IndexSettings::default() };
    create_index(&engine, INDEX, with_policy(Policy::Fifo));
    create_index(&engine, OTHER, with_policy(Policy::Ttl));
    fill(&engine);
    for i in 0..20 {
        let key = key(&format!("o{i}"));
        let (document, condition) = ("lasting".into(), Condition::Any);
        let expiry = Expiry::Never;
        one(&engine, Mutation::Write { index: OTHER, key, document, condition, expiry });
    }
    let used = engine.stat().used;
    set_limit(&engine, used - 50).unwrap();
    assert_eq!((gone(&engine), evicted(&engine)), ((0..5).collect(), 5));
    let error = set_limit(&engine, used - 150).unwrap_err();
    assert!(matches!(error, Error::QuotaExceeded { .. }), "{error}");
}
