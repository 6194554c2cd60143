//! The source freezes the range for a moment, and gives it up: only if nothing can have changed in it since.

use std::time::Duration;

use sherd_engine::{Command, Error, Mutation, MutationOutcome, Outcome};

use super::shards::*;
use crate::common::*;

#[test]
fn a_frozen_range_refuses_changes_for_a_while_and_the_rest_does_not() {
    let (source, _) = pair();
    source.freeze(Duration::from_secs(3600));
    assert_eq!(write_at(source.engine(), place(1)), MutationOutcome::Refused(Error::Frozen));
    assert!(source.engine().read(1, &place(1)).unwrap().is_some(), "it can be read");
    assert!(matches!(write_at(source.engine(), place(2)), MutationOutcome::Written(_)));
    source.engine().execute(Command::Thaw { id: "another".to_owned() }).unwrap();
    assert_eq!(write_at(source.engine(), place(1)), MutationOutcome::Refused(Error::Frozen));
    source.engine().execute(Command::Thaw { id: MOVE.to_owned() }).unwrap();
    assert!(matches!(write_at(source.engine(), place(1)), MutationOutcome::Written(_)));
    // Nobody ends this one: it ends by itself.
    source.freeze(Duration::from_millis(1));
    assert_eq!(write_at(source.engine(), place(1)), MutationOutcome::Refused(Error::Frozen));
    source.time.advance(1);
    assert!(matches!(write_at(source.engine(), place(1)), MutationOutcome::Written(_)));
}

/// Whoever asked for it may be gone, and nobody would end it.
#[test]
fn a_range_opens_again_by_itself_when_nobody_freezes_it_anew() {
    let (source, target) = pair();
    bring_all(&source, &target);
    let changes_are_refused = || {
        assert!(source.engine().is_frozen(place(1).position) && source.engine().has_frozen());
        assert_eq!(write_at(source.engine(), place(1)), MutationOutcome::Refused(Error::Frozen));
        let removed = Mutation::Remove { index: 1, key: place(1), version: None };
        assert_eq!(one(source.engine(), removed), MutationOutcome::Refused(Error::Frozen));
    };
    let at_most = Duration::from_secs(1);
    for _ in 0..3 {
        source.freeze(at_most);
        source.time.advance(600);
        changes_are_refused();
    }
    let frozen_at = source.freeze(at_most);
    source.time.advance(999);
    changes_are_refused();
    source.time.advance(1);
    assert!(!source.engine().is_frozen(place(1).position) && !source.engine().has_frozen());
    // Before anything was written as well: it may have been.
    let error = source.give_up(2, &[(0, MIDDLE), (MOVING.1, RING)], frozen_at).unwrap_err();
    assert!(matches!(error, Error::NotFrozen { .. }), "{error}");
    assert!(matches!(write_at(source.engine(), place(1)), MutationOutcome::Written(_)));
    assert_eq!(source.engine().read(1, &place(1)).unwrap().unwrap().bytes, &b"another"[..]);
}

/// Sums of a range that has been changed since it was frozen would be taken for a fault of the target.
#[test]
fn what_is_not_frozen_any_more_is_not_said_to_be() {
    let (mut source, target) = pair();
    let is_frozen = |source: &Shard, frozen_at| {
        assert_eq!(source.check_frozen(MOVE, frozen_at), Ok(Outcome::Done));
    };
    let is_not = |source: &Shard, id: &str, frozen_at| {
        let error = source.check_frozen(id, frozen_at).unwrap_err();
        assert_eq!(error, Error::NotFrozen { id: id.to_owned() });
    };
    let minute = Duration::from_secs(60);
    is_not(&source, MOVE, 0);
    let frozen_at = source.freeze(minute);
    is_frozen(&source, frozen_at);
    is_not(&source, "another", frozen_at);
    is_not(&source, MOVE, frozen_at - 1);
    // A later one of the same LSN says that nothing has changed in between.
    assert_eq!(source.freeze(minute), frozen_at);
    is_frozen(&source, frozen_at);
    source.engine().execute(Command::Thaw { id: MOVE.to_owned() }).unwrap();
    is_not(&source, MOVE, frozen_at);
    write_at(source.engine(), place(1));
    let again = source.freeze(minute);
    is_frozen(&source, again);
    is_not(&source, MOVE, frozen_at);
    source.time.advance(59_999);
    is_frozen(&source, again);
    source.time.advance(1);
    is_not(&source, MOVE, again);
    let frozen_at = source.freeze(minute);
    source.cut_power(false);
    is_not(&source, MOVE, frozen_at);
    bring_all(&source, &target);
    let frozen_at = source.freeze(minute);
    source.give_up(2, &[(0, MIDDLE), (MOVING.1, RING)], frozen_at).unwrap();
    is_not(&source, MOVE, frozen_at);
}

#[test]
fn a_range_is_given_up_only_while_it_is_frozen_and_nothing_else_is() {
    let (source, target) = pair();
    bring_all(&source, &target);
    let others = [(0, MIDDLE), (MOVING.1, RING)];
    let refused = |epoch, ranges: &[(u32, u32)], frozen_at| {
        let error = source.give_up(epoch, ranges, frozen_at).unwrap_err();
        assert!(matches!(error, Error::NotFrozen { .. }), "{error}");
    };
    refused(2, &others, 0);
    let frozen_before = source.freeze(Duration::from_secs(3600));
    write_at(source.engine(), place(2));
    let frozen_at = source.freeze(Duration::from_secs(3600));
    refused(2, &others, frozen_before);
    refused(2, &[], frozen_at);
    refused(2, &[(0, MIDDLE)], frozen_at);
    source.give_up(2, &others, frozen_at).unwrap();
    // Its answer may have been lost, and the next epoch may have come.
    source.give_up(2, &others, frozen_at).unwrap();
    source.give_up(3, &others, frozen_at).unwrap();
    target.assign(2, &[MOVING]).unwrap();
    assert!(target.engine().read(1, &place(1)).unwrap().is_some());
}

/// A key that was there and is not any more brings nothing to the target but the LSN of its removal.
#[test]
fn a_key_that_was_removed_before_the_move_gets_no_version_that_it_had() {
    let (source, target) = pair();
    for i in 0..100 {
        put_to(source.engine(), 2, "hot", &format!("{i}"));
    }
    let gone = Mutation::Remove { index: 1, key: place(1), version: None };
    let MutationOutcome::Removed(removed) = one(source.engine(), gone) else {
        panic!("it was there")
    };
    bring_all(&source, &target);
    let frozen_at = source.freeze(Duration::from_secs(3600));
    source.give_up(2, &[(0, MIDDLE), (MOVING.1, RING)], frozen_at).unwrap();
    target.assign(2, &[MOVING]).unwrap();
    let MutationOutcome::Written(version) = write_at(target.engine(), place(1)) else {
        panic!("it is not written")
    };
    assert!(version > removed, "{version} after {removed}");
}

/// What the source removes of the range when it has given it up is no removal of the documents: the
/// target may read on before it is told that it owns the range.
#[test]
fn what_the_source_clears_away_is_not_cleared_away_at_the_target() {
    let (source, target) = pair();
    let progress = bring_all(&source, &target);
    let frozen_at = source.freeze(Duration::from_secs(3600));
    source.give_up(2, &[(0, MIDDLE), (MOVING.1, RING)], frozen_at).unwrap();
    wait_until("it is cleared away", || {
        source.engine().compact().unwrap();
        source.engine().stat().documents == 1
    });
    let error = source.engine().tail(progress.tail, &[MOVING], 100).unwrap_err();
    assert!(matches!(error, Error::WrongShard { .. }), "{error}");
    // The range comes back, and with it who reads the log from there on.
    target.assign(2, &[MOVING]).unwrap();
    source.assign(3, &[(0, RING)]).unwrap();
    let tail = source.engine().tail(progress.tail, &[MOVING], 100).unwrap();
    assert_eq!(tail.documents, []);
}
