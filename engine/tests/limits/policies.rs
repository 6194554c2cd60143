//! What each policy evicts.

use super::*;

#[test]
fn reject_refuses_with_the_figures_and_evicts_nothing() {
    at_each_limit(Policy::Reject, |engine, bound| {
        let error = refused(engine, write("n0", DOCUMENT, Condition::Any));
        let (used, limit, needed) = (100, 100, 10);
        let expected = match bound {
            Bound::Shard => Error::QuotaExceeded { used, limit, needed },
            Bound::IndexBytes => Error::IndexFull { id: INDEX, what: "bytes", used, limit, needed },
            Bound::IndexDocuments => {
                Error::IndexFull { id: INDEX, what: "documents", used: 10, limit: 10, needed: 1 }
            }
        };
        assert_eq!(error, expected);
        assert_eq!((gone(engine), evicted(engine)), (vec![], 0));
        assert_eq!(engine.stat().counts.rejected, 1);
    });
}

#[test]
fn lru_evicts_what_was_not_read_or_written_for_the_longest_time() {
    at_each_limit(Policy::Lru, |engine, bound| {
        get(engine, "k0").unwrap();
        engine.version(INDEX, &key("k1")).unwrap().unwrap();
        put(engine, "k3", "overwrit");
        for i in 0..3 {
            put(engine, &format!("n{i}"), DOCUMENT);
        }
        assert_eq!(gone(engine), [2, 4, 5], "{bound:?}");
        assert_eq!(evicted(engine), 3);
    });
}

#[test]
fn lfu_evicts_what_is_read_and_written_least_often() {
    at_each_limit(Policy::Lfu, |engine, bound| {
        for i in (0..ROOM).filter(|i| ![7, 9].contains(i)) {
            for _ in 0..4 {
                get(engine, &format!("k{i}")).unwrap();
            }
        }
        // The latest are the rarest: by time alone they would stay.
        for name in ["k7", "k9"] {
            get(engine, name).unwrap();
        }
        put(engine, "n0", DOCUMENT);
        assert_eq!(gone(engine).len(), 1, "{bound:?}");
        // Or it would be the rarest now.
        for _ in 0..4 {
            get(engine, "n0").unwrap();
        }
        put(engine, "n1", DOCUMENT);
        assert_eq!(gone(engine), [7, 9], "{bound:?}");
        assert_eq!(evicted(engine), 2);
    });
}

#[test]
fn fifo_evicts_what_was_written_first_however_often_it_is_read() {
    at_each_limit(Policy::Fifo, |engine, bound| {
        for _ in 0..50 {
            get(engine, "k0").unwrap();
        }
        put(engine, "k1", "overwrit");
        for i in 0..3 {
            put(engine, &format!("n{i}"), DOCUMENT);
        }
        assert_eq!(gone(engine), [0, 2, 3], "{bound:?}");
        assert_eq!(evicted(engine), 3);
    });
}

#[test]
fn random_evicts_any_one_and_never_what_is_being_written() {
    at_each_limit(Policy::Random, |engine, bound| {
        let mut order = Vec::new();
        let mut before = names(engine);
        for i in 0..40 {
            let name = format!("m{}", char::from(b'0' + i));
            put(engine, &name, DOCUMENT);
            let now = names(engine);
            assert!(now.contains(&name) && now.len() == ROOM, "{bound:?}: {now:?}");
            order.extend(before.difference(&now).cloned());
            before = now;
        }
        assert_eq!((order.len() as u64, evicted(engine)), (40, 40), "one for each");
        // That chance should come to the order of the writes: one of 10^40.
        let in_order = (0..ROOM).map(|i| format!("k{i}"));
        assert_ne!(order[..ROOM], in_order.collect::<Vec<_>>());
    });
}

#[test]
fn ttl_evicts_what_expires_soonest_and_refuses_when_nothing_expires() {
    for bound in BOUNDS {
        let engine = bounded(&Machine::default(), bound, Policy::Ttl);
        // In no order, and 3 and 8 never.
        for (i, hours) in [5, 2, 9, 0, 1, 7, 3, 8, 0, 4].into_iter().enumerate() {
            let expiry = if hours == 0 { Expiry::Never } else { Expiry::After(hours * 3_600_000) };
            put_until(&engine, INDEX, &format!("k{i}"), DOCUMENT, expiry);
        }
        for i in 0..3 {
            put(&engine, &format!("n{i}"), DOCUMENT);
        }
        assert_eq!(gone(&engine), [1, 4, 6], "{bound:?}");
        for i in 3..8 {
            put(&engine, &format!("n{i}"), DOCUMENT);
        }
        assert_eq!(gone(&engine), [0, 1, 2, 4, 5, 6, 7, 9], "{bound:?}");
        refused(&engine, write("n8", DOCUMENT, Condition::Any));
        assert_eq!(gone(&engine), [0, 1, 2, 4, 5, 6, 7, 9], "{bound:?}");
        assert_eq!((evicted(&engine), engine.stat().counts.rejected), (8, 1));
    }
}

/// The order of `lru` and `fifo` begins anew with the versions.
#[test]
fn after_a_restart_the_oldest_versions_go_first() {
    for policy in [Policy::Lru, Policy::Lfu, Policy::Fifo] {
        let machine = Machine::default();
        let engine = bounded(&machine, Bound::Shard, policy);
        fill(&engine);
        put(&engine, "k0", "overwrit");
        drop(engine);
        let (engine, _) = machine.open().unwrap();
        for i in 0..3 {
            put(&engine, &format!("n{i}"), DOCUMENT);
            // So that it is neither the rarest nor the oldest.
            for _ in 0..32 {
                get(&engine, &format!("n{i}")).unwrap();
            }
        }
        if policy == Policy::Lfu {
            // Of one frequency, and their times lie within what it tells apart.
            assert_eq!(gone(&engine).len(), 3);
        } else {
            assert_eq!(gone(&engine), [1, 2, 3], "{policy:?}");
        }
    }
}

#[test]
fn a_policy_is_changed_while_running() {
    let engine = bounded(&Machine::default(), Bound::Shard, Policy::Reject);
    fill(&engine);
    refused(&engine, write("n0", DOCUMENT, Condition::Any));
    engine.execute(Command::SetLimit { limit: 100, policy: Some(Policy::Fifo) }).unwrap();
    put(&engine, "n0", DOCUMENT);
    assert_eq!(gone(&engine), [0]);
    let settings = IndexSettings { policy: Some(Policy::Reject), ..IndexSettings::default() };
    engine.execute(Command::SetIndex { id: INDEX, settings, force: false }).unwrap();
    refused(&engine, write("n1", DOCUMENT, Condition::Any));
    assert_eq!(gone(&engine), [0]);
}
