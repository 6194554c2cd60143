//! What the engine promises of single documents, batches, limits and control commands.

use sherd_engine::{Command, Condition, Error, IndexSettings, MutationOutcome, Scan};

use crate::common::*;

#[test]
fn conditions_decide_over_what_is_there() {
    let (engine, _) = Machine::default().open().unwrap();
    set_up(&engine);
    let try_write = |condition| one(&engine, write("k", "v", condition));
    assert_eq!(try_write(Condition::Present), MutationOutcome::ConditionFailed(None));
    assert_eq!(try_write(Condition::Version(1)), MutationOutcome::ConditionFailed(None));
    let MutationOutcome::Written(first) = try_write(Condition::Absent) else { panic!() };
    assert_eq!(try_write(Condition::Absent), MutationOutcome::ConditionFailed(Some(first)));
    let MutationOutcome::Written(second) = try_write(Condition::Present) else { panic!() };
    assert!(second > first, "versions grow");
    assert_eq!(
        try_write(Condition::Version(first)),
        MutationOutcome::ConditionFailed(Some(second))
    );
    let MutationOutcome::Written(third) = try_write(Condition::Version(second)) else { panic!() };
    assert_eq!(engine.version(INDEX, &key("k")).unwrap(), Some(third));

    let remove_version = |version| {
        let mutation =
            sherd_engine::Mutation::Remove { index: INDEX, key: key("k"), version: Some(version) };
        one(&engine, mutation)
    };
    assert_eq!(remove_version(second), MutationOutcome::ConditionFailed(Some(third)));
    assert!(matches!(remove_version(third), MutationOutcome::Removed(lsn) if lsn > third));
    assert_eq!(one(&engine, remove("k")), MutationOutcome::Missing);
    assert_eq!(get(&engine, "k"), None);
    assert_eq!(engine.stat().used, 0);
}

#[test]
fn later_commands_of_a_batch_see_the_earlier_ones() {
    let (engine, _) = Machine::default().open().unwrap();
    set_up(&engine);
    let outcomes = mutate(
        &engine,
        vec![
            write("k", "one", Condition::Absent),
            write("k", "two", Condition::Absent),
            write("k", "three", Condition::Present),
            remove("k"),
            remove("k"),
            write("k", "four", Condition::Absent),
        ],
        false,
    );
    assert!(matches!(
        outcomes[..],
        [
            MutationOutcome::Written(first),
            MutationOutcome::ConditionFailed(Some(_)),
            MutationOutcome::Written(_),
            MutationOutcome::Removed(_),
            MutationOutcome::Missing,
            MutationOutcome::Written(last),
        ] if last == first + 3
    ));
    assert_eq!(contents(&engine)["k"], "four");
}

#[test]
fn an_atomic_batch_happens_as_a_whole_or_not_at_all() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    put(&engine, "there", "before");
    let failing = vec![
        write("a", "1", Condition::Absent),
        remove("there"),
        write("there", "again", Condition::Present),
        write("b", "2", Condition::Absent),
    ];
    let outcomes = mutate(&engine, failing, true);
    assert_eq!(
        outcomes,
        [
            MutationOutcome::Abandoned,
            MutationOutcome::Abandoned,
            MutationOutcome::ConditionFailed(None),
            MutationOutcome::Abandoned,
        ]
    );
    assert_eq!(
        contents(&engine).into_iter().collect::<Vec<_>>(),
        [("there".to_owned(), "before".to_owned())]
    );
    let outcomes = mutate(&engine, vec![write("a", "1", Condition::Absent), remove("there")], true);
    assert!(matches!(outcomes[..], [MutationOutcome::Written(_), MutationOutcome::Removed(_)]));
    drop(engine);
    let (engine, _) = machine.open().unwrap();
    assert_eq!(contents(&engine).keys().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn the_limit_counts_keys_and_documents_to_the_byte() {
    let (engine, _) = Machine::default().open().unwrap();
    set_up(&engine);
    engine.execute(Command::SetLimit { limit: 10, policy: None }).unwrap();
    put(&engine, "abc", "1234567");
    assert_eq!(engine.stat().used, 10);
    let refused = |name, document| match one(&engine, write(name, document, Condition::Any)) {
        MutationOutcome::Refused(Error::QuotaExceeded { used, limit, needed }) => {
            (used, limit, needed)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("d", ""), (10, 10, 1));
    assert_eq!(refused("abc", "12345678"), (10, 10, 1));
    put(&engine, "abc", "123");
    assert_eq!(refused("defg", "1"), (6, 10, 5));
    put(&engine, "def", "1");
    let error = engine.execute(Command::SetLimit { limit: 9, policy: None }).unwrap_err();
    assert_eq!(error, Error::QuotaExceeded { used: 10, limit: 9, needed: 0 });
    assert!(matches!(one(&engine, remove("abc")), MutationOutcome::Removed(_)));
    engine.execute(Command::SetLimit { limit: 9, policy: None }).unwrap();
    assert_eq!(contents(&engine).len(), 1);
}

#[test]
fn a_write_over_the_limit_undoes_an_atomic_batch_and_its_accounting() {
    let (engine, _) = Machine::default().open().unwrap();
    set_up(&engine);
    engine.execute(Command::SetLimit { limit: 10, policy: None }).unwrap();
    let batch =
        vec![write("a", "1234", Condition::Absent), write("b", "123456789", Condition::Absent)];
    let outcomes = mutate(&engine, batch, true);
    assert!(matches!(
        outcomes[..],
        [MutationOutcome::Abandoned, MutationOutcome::Refused(Error::QuotaExceeded { .. })]
    ));
    assert_eq!(contents(&engine).len(), 0);
    put(&engine, "c", "123456789");
}

#[test]
fn keys_outside_the_ranges_and_older_assignments_are_refused() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    let refused = one(&engine, write("k", "v", Condition::Any));
    assert_eq!(refused, MutationOutcome::Refused(Error::WrongShard { epoch: 0 }));
    set_up(&engine);
    put(&engine, "k", "v");
    let position = key("k").position;
    let elsewhere = assignment(7, &[(0, position), (position + 1, RING)], u64::MAX);
    engine.execute(Command::Assign(elsewhere.clone())).unwrap();
    let refused = one(&engine, write("k", "v", Condition::Any));
    assert_eq!(refused, MutationOutcome::Refused(Error::WrongShard { epoch: 7 }));
    assert_eq!(engine.read(INDEX, &key("k")), Err(Error::WrongShard { epoch: 7 }));
    let whole = Scan {
        index: INDEX,
        range: (0, RING),
        after: None,
        max_documents: 1,
        max_bytes: 1,
        keys_only: true,
    };
    assert_eq!(engine.scan(&whole), Err(Error::WrongShard { epoch: 7 }));
    let stale = engine.execute(Command::Assign(assignment(6, &[(0, RING)], 1)));
    assert_eq!(stale, Err(Error::StaleEpoch { offered: 6, held: 7 }));
    let mut stranger = elsewhere.clone();
    stranger.lineage = 1;
    let stranger = engine.execute(Command::Assign(stranger));
    assert_eq!(stranger, Err(Error::StaleEpoch { offered: 7, held: 7 }), "of another history");
    let mut foreign = assignment(9, &[(0, RING)], 1);
    foreign.cluster = "another".to_owned();
    let foreign = engine.execute(Command::Assign(foreign));
    assert!(matches!(foreign, Err(Error::WrongCluster { .. })), "{foreign:?}");
    drop(engine);
    let (engine, _) = machine.open().unwrap();
    assert_eq!(engine.assignment().as_deref(), Some(&elsewhere), "kept over a restart");
}

#[test]
fn a_lock_refuses_writes_and_survives_a_restart() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    put(&engine, "k", "v");
    let lock = |owner: &str| Command::Lock { owner: owner.to_owned() };
    engine.execute(lock("bootstrap")).unwrap();
    engine.execute(lock("bootstrap")).unwrap();
    let locked = Error::Locked { owner: "bootstrap".to_owned() };
    assert_eq!(engine.execute(lock("another")), Err(locked.clone()));
    let write = Command::Mutate { mutations: vec![remove("k")], atomic: false };
    assert_eq!(engine.execute(write.clone()), Err(locked.clone()));
    drop(engine);
    let (engine, _) = machine.open().unwrap();
    assert_eq!(engine.execute(write.clone()), Err(locked.clone()));
    assert_eq!(get(&engine, "k").as_deref(), Some("v"));
    assert_eq!(engine.execute(Command::Release { owner: "another".to_owned() }), Err(locked));
    engine.execute(Command::Release { owner: "bootstrap".to_owned() }).unwrap();
    engine.execute(write).unwrap();
}

#[test]
fn a_dropped_index_is_gone_for_good_and_its_name_can_be_used_again() {
    let machine = Machine::default();
    let (engine, _) = machine.open().unwrap();
    set_up(&engine);
    put(&engine, "k", "old");
    engine.checkpoint().unwrap();
    put(&engine, "l", "old");
    engine.execute(Command::DropIndex { id: INDEX }).unwrap();
    engine.execute(Command::DropIndex { id: INDEX }).unwrap();
    assert_eq!(engine.index_id("index"), None);
    assert_eq!(engine.read(INDEX, &key("k")), Err(Error::IndexNotFound(INDEX)));
    assert_eq!((engine.stat().documents, engine.stat().used), (0, 0));
    engine
        .execute(Command::CreateIndex {
            id: 2,
            name: "index".to_owned(),
            settings: IndexSettings::default(),
        })
        .unwrap();
    assert_eq!(engine.read(2, &key("k")).unwrap(), None);
    let taken = engine.execute(Command::CreateIndex {
        id: 3,
        name: "index".to_owned(),
        settings: IndexSettings::default(),
    });
    assert!(matches!(taken, Err(Error::IndexExists { .. })), "{taken:?}");
    let check = |engine: &sherd_engine::Engine| {
        assert_eq!(engine.index_id("index"), Some(2));
        assert_eq!(engine.read(2, &key("k")).unwrap(), None);
        assert_eq!(engine.stat().documents, 0);
    };
    drop(engine);
    let (engine, _) = machine.open().unwrap();
    check(&engine);
    engine.close().unwrap();
    drop(engine);
    let (engine, recovery) = machine.open().unwrap();
    check(&engine);
    assert_eq!(recovery.replayed, 0, "closed with a checkpoint");
}
