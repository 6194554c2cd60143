//! Limits during a move: what comes is neither evicted nor expires, and is counted once it is owned.

use std::time::Duration;

use bytes::Bytes;
use sherd_engine::{
    Command, Condition, Error, Expiry, Import, Imported, IndexSettings, Key, Mutation,
    MutationOutcome, Policy,
};

use super::shards::*;
use crate::common::*;

/// An eviction or the end of a time to live there would make it differ from what it comes from.
#[test]
fn what_is_being_taken_over_is_not_evicted_and_does_not_expire() {
    let (source, mut target) = pair();
    (target.policy, target.limit) = (Policy::Lru, 100);
    target.assign(2, &[(0, 1000)]).unwrap();
    let (document, expiry) = (Bytes::from_static(b"expires"), Expiry::After(1));
    let condition = Condition::Any;
    let key = place(3);
    one(source.engine(), Mutation::Write { index: 1, key, document, condition, expiry });
    bring_all(&source, &target);
    source.time.advance(10_000);
    let own = |i: u32| Key { position: i, bytes: format!("own{i}").into() };
    for i in 0..100 {
        let outcome = write_at(target.engine(), own(i));
        assert!(matches!(outcome, MutationOutcome::Written(_)), "{outcome:?}");
    }
    let brought = target.engine().sums(&[MOVING]).unwrap();
    assert_eq!(brought[&1].documents, 2);
    assert!(target.engine().stat().counts.evicted > 80);
    // Where there is room for nothing else, nothing else is stored.
    (target.policy, target.limit) = (Policy::Lru, 30);
    target.assign(3, &[(0, 1000)]).unwrap();
    let outcome = write_at(target.engine(), own(500));
    assert!(
        matches!(outcome, MutationOutcome::Refused(Error::QuotaExceeded { .. })),
        "{outcome:?}"
    );
    assert_eq!(target.engine().sums(&[MOVING]).unwrap(), brought);
}

/// An index's limit on a shard is a share for the ranges that it owns: the documents of others fill it no more.
#[test]
fn what_is_not_owned_does_not_count_against_the_limits_of_an_index() {
    let limits = |max_documents, policy| IndexSettings {
        max_documents: Some(max_documents),
        max_bytes: Some(max_documents * 20),
        policy: Some(policy),
        ..IndexSettings::default()
    };
    for policy in [Policy::Reject, Policy::Fifo] {
        let (source, mut target) = pair();
        let own = |i: u32| Key { position: i, bytes: format!("own{i}").into() };
        let written =
            |outcome: MutationOutcome| assert!(matches!(outcome, MutationOutcome::Written(_)));
        for i in 1..40 {
            written(write_at(source.engine(), place(i)));
        }
        for i in 0..4 {
            written(write_at(source.engine(), own(i)));
        }
        let set = |shard: &Shard, settings| {
            let command = Command::SetIndex { id: 1, settings, force: true };
            shard.engine().execute(command).unwrap();
        };
        // What arrives is another's: the target's share is smaller than that.
        target.assign(2, &[(0, 1000)]).unwrap();
        set(&target, limits(5, policy));
        bring_all(&source, &target);
        for i in 0..4 {
            written(write_at(target.engine(), own(i)));
        }
        target.cut_power(false);
        written(write_at(target.engine(), own(4)));
        let of_target = target.engine().sums(&[(0, 1000)]).unwrap()[&1].documents;
        assert_eq!(of_target, 5, "{policy:?}");
        assert_eq!(target.engine().stat().indexes[0].documents, 25, "its totals are of all");
        // What was given up is not there any more, removed or not.
        let frozen_at = source.freeze(Duration::from_secs(60));
        source.give_up(2, &[(0, MIDDLE), (MOVING.1, RING)], frozen_at).unwrap();
        set(&source, limits(30, policy));
        for i in 100..103 {
            written(write_at(source.engine(), own(i)));
        }
        let given_up = source.engine().sums(&[MOVING]).unwrap()[&1].documents;
        assert_eq!((given_up, source.engine().stat().counts.evicted), (20, 0), "{policy:?}");
        // Once owned, it counts.
        target.assign(3, &[(0, 1000), MOVING]).unwrap();
        let outcome = write_at(target.engine(), own(5));
        match policy {
            Policy::Reject => assert!(
                matches!(outcome, MutationOutcome::Refused(Error::IndexFull { .. })),
                "{outcome:?}"
            ),
            _ => wait_until("it is evicted", || target.engine().stat().indexes[0].documents == 5),
        }
    }
}

/// Where nearly all documents are arriving, and are older than the target's own, it took them all for victims,
/// gave up after a thousand, and refused the write.
#[test]
fn a_cache_that_receives_thousands_of_documents_goes_on_evicting_its_own() {
    const ARRIVING: u32 = 3_000;
    for policy in [Policy::Fifo, Policy::Lru, Policy::Ttl] {
        let time = Time::default();
        let mut target = Shard::new("away", &time, &[]);
        (target.policy, target.limit) = (policy, 60_000);
        target.assign(2, &[(0, 1000)]).unwrap();
        target.receive();
        let expires_at = time.now() + 1_000_000;
        let import = |i: u32| Imported::Put {
            index: 1,
            key: place(i * 2 + 1),
            version: u64::from(i) + 1,
            expires_at,
            document: Bytes::from_static(b"arriving"),
        };
        let bring = |target: &Shard, which: std::ops::Range<u32>| {
            let (id, note, whole) = (MOVE.to_owned(), Vec::new(), None);
            let documents = which.map(import).collect();
            let import = Import { id, documents, whole, as_of: u64::from(ARRIVING), note };
            target.engine().import(import).unwrap();
        };
        let own = |target: &Shard, i: u32| {
            let (document, expiry) = (Bytes::from_static(b"own"), Expiry::After(2_000_000));
            let key = Key { position: i % 1000, bytes: format!("own{i}").into() };
            let condition = Condition::Any;
            let write = Mutation::Write { index: 1, key, document, condition, expiry };
            let outcome = one(target.engine(), write);
            assert!(matches!(outcome, MutationOutcome::Written(_)), "{policy:?}: {outcome:?}");
        };
        bring(&target, 0..ARRIVING);
        let arrived = |target: &Shard| target.engine().sums(&[MOVING]).unwrap()[&1].documents;
        let of_its_own = |target: &Shard| target.engine().sums(&[(0, 1000)]).unwrap()[&1].documents;
        for i in 0..3_000 {
            own(&target, i);
        }
        // What comes makes its own go as well.
        let before = of_its_own(&target);
        bring(&target, ARRIVING..ARRIVING + 100);
        assert!(of_its_own(&target) < before, "{policy:?}");
        // And so after a restart, and when the index is rebuilt.
        for index_lost in [false, true] {
            target.cut_power(index_lost);
            for i in 3_000..3_200 {
                own(&target, i);
            }
        }
        assert_eq!(arrived(&target), u64::from(ARRIVING) + 100, "{policy:?}");
        let tracked = target.engine().stat().tracked_documents;
        assert_eq!(tracked, target.engine().stat().documents, "{policy:?}");
        // Once owned, what arrived goes first: it is older, and expires sooner.
        target.assign(3, &[(0, 1000), MOVING]).unwrap();
        let before = of_its_own(&target);
        for i in 5_000..5_300 {
            own(&target, i);
        }
        assert!(of_its_own(&target) >= before + 250, "{policy:?}");
        assert_eq!(target.engine().stat().tracked_documents, target.engine().stat().documents);
    }
}
