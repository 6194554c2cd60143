//! Moves of ranges: what is remembered of them, and their steps.
//!
//! A plan becomes a queue of moves, of which the first is under way. It is *copied* until the target has
//! what the source has and the source has frozen the range; then it is *handed over*: the map names the
//! target, the source is asked to give the range up, and only when it has, the target is told. Where the
//! source was not frozen any more it refuses, has the range still, and the map is taken back. Each step
//! is persisted before anyone acts on it, so whoever dies, the move goes on from there.

use serde::{Deserialize, Serialize};
use sherd_protocol::message::{Frozen, MoveProgress, MoveStatus, MoveStep, MovesStatus};
use sherd_protocol::{Action, Plan, Range, RangeMap, WireError};

use crate::planner;
use crate::state::State;

/// The moves that are left of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Moves {
    /// The first is under way.
    pub(crate) queue: Vec<Move>,
    /// None goes on.
    pub(crate) paused: bool,
    /// How many bytes a second a move may bring.
    pub(crate) rate: Option<u64>,
    /// Shards that leave the map when all is moved.
    pub(crate) leaving: Vec<String>,
    /// Shards that the plan has added. Those that own nothing leave again if it is cancelled.
    pub(crate) joining: Vec<String>,
    /// What is being handed over goes on, and nothing after it.
    pub(crate) cancelled: bool,
}

/// A range on its way from one shard to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Move {
    /// No other move of the cluster has it.
    pub(crate) id: String,
    /// What moves.
    pub(crate) range: Range,
    /// The source.
    pub(crate) from: String,
    /// The target.
    pub(crate) to: String,
    /// About how much it was when it was planned.
    pub(crate) documents: u64,
    /// In bytes of keys and documents.
    pub(crate) bytes: u64,
    /// How far it is.
    pub(crate) step: Step,
}

/// How far a move is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// The target takes the documents over, and the source owns the range.
    Copying,
    /// The map names the target. The source is to give the range up, if nothing has changed in it since.
    HandingOver {
        /// The first epoch of that map.
        epoch: u64,
        /// The LSN of the source after which nothing may have changed.
        frozen_at: u64,
    },
    /// It does not go on; the source owns the range.
    Failed {
        /// Why.
        why: String,
    },
}

/// What becomes of the step that a move is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Transition {
    /// Target and source have the same, and the source is frozen.
    Copied {
        /// After which LSN.
        frozen_at: u64,
    },
    /// The source refused to give the range up.
    Refused,
    /// The target owns the range.
    Owned,
    /// It cannot go on.
    Failed {
        /// Why.
        why: String,
    },
}

impl Moves {
    /// The move under way.
    pub(crate) fn current(&self) -> Option<&Move> {
        self.queue.first()
    }

    /// What is told of it.
    pub(crate) fn status(&self, report: Option<&MoveProgress>) -> MovesStatus {
        let progress = |it: &Move| {
            let mut progress = report.filter(|report| report.id == it.id).cloned()?;
            if self.paused && it.step == Step::Copying {
                // It is of before, or of what nobody does now.
                progress.error = None;
            }
            Some(progress)
        };
        let status = |(i, it): (usize, &Move)| {
            let (step, why) = match &it.step {
                Step::Copying if i > 0 => (MoveStep::Waiting, None),
                Step::Copying => (MoveStep::Copying, None),
                Step::HandingOver { .. } => (MoveStep::HandingOver, None),
                Step::Failed { why } => (MoveStep::Failed, Some(why.clone())),
            };
            MoveStatus {
                id: it.id.clone(),
                range: it.range,
                from: it.from.clone(),
                to: it.to.clone(),
                step,
                documents: it.documents,
                bytes: it.bytes,
                progress: progress(it),
                why,
            }
        };
        let moves = self.queue.iter().enumerate().map(status).collect();
        MovesStatus { moves, paused: self.paused, rate: self.rate }
    }
}

impl Move {
    /// The freeze under which the source gives the range up, when it is to do so.
    pub(crate) fn frozen(&self) -> Option<Frozen> {
        match self.step {
            Step::HandingOver { frozen_at, .. } => {
                Some(Frozen { id: self.id.clone(), lsn: frozen_at })
            }
            _ => None,
        }
    }

    fn describe(&self) -> String {
        let Self { range, from, to, .. } = self;
        format!("{range} from {from} to {to}")
    }
}

/// What commands about moves make of the state. `next` is what comes of it, with the next epoch already.
impl State {
    pub(crate) fn cancel_moves(&self, next: &mut Self, at: u64) {
        // What is handed over goes on: the source may have given the range up.
        next.moves.queue.retain(|it| matches!(it.step, Step::HandingOver { .. }));
        if !self.moves.cancelled {
            // Nobody leaves that was to, and who was added for nothing does.
            next.moves.leaving = std::mem::take(&mut next.moves.joining);
        }
        next.moves.paused = false;
        next.moves.cancelled = !next.moves.queue.is_empty();
        next.let_go(&self.map, at);
    }

    pub(crate) fn pause_moves(&self, next: &mut Self, paused: bool) {
        next.moves.paused = paused && !self.moves.queue.is_empty();
    }

    pub(crate) fn start_moves(
        &self,
        next: &mut Self,
        plan: &Plan,
        rate: Option<u64>,
        at: u64,
    ) -> Result<(), WireError> {
        self.check_start(plan, rate)?;
        let mut why = Vec::new();
        for action in &plan.actions {
            match action {
                Action::Add { shard } => {
                    next.map.shards.push(shard.clone());
                    next.moves.joining.push(shard.name.clone());
                    why.push(format!("shard {:?} added", shard.name));
                }
                Action::Remove { shard } => next.moves.leaving.push(shard.clone()),
                _ => {}
            }
        }
        if !why.is_empty() {
            next.remember(&self.map, at, why.join(", "));
        }
        let moves = plan.moves.iter().enumerate().map(|(i, planned)| Move {
            id: format!("{}.{i}", next.map.epoch),
            range: planned.range,
            from: planned.from.clone(),
            to: planned.to.clone(),
            documents: planned.documents,
            bytes: planned.bytes,
            step: Step::Copying,
        });
        next.moves.queue = moves.collect();
        next.moves.rate = rate;
        next.moves.paused = false;
        next.moves.cancelled = false;
        next.let_go(&self.map, at);
        next.map.check().map_err(|fault| WireError::bad_request("plan", fault))
    }

    /// Checks that a plan can be carried out, at a rate.
    pub(crate) fn check_start(&self, plan: &Plan, rate: Option<u64>) -> Result<(), WireError> {
        self.check_plan(plan)?;
        if rate == Some(0) {
            let what = "at least 1 byte a second has to move; `sherd cluster pause` stops moves";
            return Err(WireError::bad_request("rate", what));
        }
        Ok(())
    }

    /// Checks that a plan is of this map, and can be carried out.
    fn check_plan(&self, plan: &Plan) -> Result<(), WireError> {
        let refused = |why: String| Err(WireError::bad_request("plan", why));
        if !self.moves.queue.is_empty() {
            return refused(
                "another plan is being carried out: `sherd cluster status` shows it, `sherd cluster \
                 cancel` ends it"
                    .to_owned(),
            );
        }
        if plan.cluster != self.map.cluster {
            return refused(format!("it is of another cluster, {}", plan.cluster));
        }
        // Epochs of the catalogue leave the map as it is.
        let replaced = self.history.last().map_or(0, |past| past.map.epoch);
        if plan.epoch <= replaced || plan.epoch > self.map.epoch || plan.before != self.map.ranges {
            return refused(format!(
                "it was made for epoch {}, and the map is at epoch {}: the plan was carried out \
                 already, or something else has changed the map since; plan again",
                plan.epoch, self.map.epoch
            ));
        }
        let shards = planner::shards_after(&self.map, &plan.actions)
            .map_err(|error| WireError::bad_request("plan", error))?;
        if shards != plan.shards_after {
            return refused("its actions do not lead to the shards that it shows".to_owned());
        }
        let stays = |name: &str| shards.iter().any(|shard| shard.name == name);
        // As it will be after each move.
        let mut after = self.clone();
        for action in &plan.actions {
            if let Action::Add { shard } = action {
                after.map.shards.push(shard.clone());
            }
        }
        for planned in &plan.moves {
            let Range { start, end } = planned.range;
            let owner = after.map.owner(sherd_protocol::Position(start));
            let owned = owner.is_some_and(|owned| {
                owned.shard == planned.from && owned.end >= end && start < end
            });
            if !owned || !stays(&planned.to) || planned.from == planned.to {
                let (range, from, to) = (planned.range, &planned.from, &planned.to);
                return refused(format!("{range} cannot move from {from:?} to {to:?}"));
            }
            after.map.give(planned.range, &planned.to);
        }
        if after.map.ranges != plan.after {
            return refused("its moves do not lead to the map that it shows".to_owned());
        }
        if let Some(owned) = after.map.ranges.iter().find(|owned| !stays(&owned.shard)) {
            let (range, shard) = (owned.range(), &owned.shard);
            return refused(format!("{shard:?} is to leave, and would own {range} still"));
        }
        self.check_limits(&after.map).or_else(refused)
    }

    pub(crate) fn advance_move(
        &self,
        next: &mut Self,
        id: &str,
        transition: &Transition,
        at: u64,
    ) -> Result<(), WireError> {
        let current = self.moves.current().filter(|current| current.id == id);
        let Some(current) = current else {
            return Err(WireError::bad_request("id", format!("the move {id} is not under way")));
        };
        match (&current.step, transition) {
            (Step::Copying, Transition::Copied { .. }) if self.moves.paused => {
                let what = format!("the move {id}");
                return Err(WireError::Unavailable { what, why: "it is paused".to_owned() });
            }
            (Step::Copying, Transition::Copied { frozen_at }) => {
                next.remember(&self.map, at, current.describe());
                next.map.give(current.range, &current.to);
                let epoch = next.map.epoch;
                next.moves.queue[0].step = Step::HandingOver { epoch, frozen_at: *frozen_at };
            }
            (Step::Copying, Transition::Failed { why }) => {
                next.moves.queue[0].step = Step::Failed { why: why.clone() };
            }
            (Step::HandingOver { .. }, Transition::Refused) => {
                next.remember(&self.map, at, format!("{} taken back", current.describe()));
                next.map.give(current.range, &current.from);
                if self.moves.cancelled {
                    next.moves.queue.remove(0);
                    next.moves.cancelled = false;
                    next.let_go(&self.map, at);
                } else {
                    next.moves.queue[0].step = Step::Copying;
                }
            }
            (Step::HandingOver { .. }, Transition::Owned) => {
                next.moves.queue.remove(0);
                next.moves.cancelled = false;
                next.let_go(&self.map, at);
            }
            (
                step @ (Step::Copying | Step::HandingOver { .. } | Step::Failed { .. }),
                Transition::Copied { .. }
                | Transition::Failed { .. }
                | Transition::Refused
                | Transition::Owned,
            ) => {
                let what = format!("the move {id} is at {step:?}, and cannot be {transition:?}");
                return Err(WireError::Internal { what });
            }
        }
        Ok(())
    }

    /// When all is moved, takes out of the map what is to leave. `past` is the map before.
    fn let_go(&mut self, past: &RangeMap, at: u64) {
        if !self.moves.queue.is_empty() {
            return;
        }
        self.moves.joining.clear();
        let leaving = std::mem::take(&mut self.moves.leaving);
        let empty = |name: &String| self.map.ranges_of(name).is_empty();
        let leaving: Vec<String> = leaving.into_iter().filter(empty).collect();
        if !leaving.is_empty() {
            self.map.shards.retain(|shard| !leaving.contains(&shard.name));
            self.remember(past, at, format!("removed: {}", leaving.join(", ")));
        }
    }

    /// Whether a shard owns nothing and is to own nothing: it serves nobody, whatever it holds.
    pub(crate) fn has_no_part(&self, shard: &str) -> bool {
        let is_of = |it: &Move| it.from == shard || it.to == shard;
        self.map.ranges_of(shard).is_empty() && !self.moves.queue.iter().any(is_of)
    }

    /// The ranges that a shard has room for: those that it owns, and the one that it is taking over.
    pub(crate) fn ranges_with_incoming(&self, shard: &str) -> Vec<Range> {
        let mut ranges = self.map.ranges_of(shard);
        if let Some(current) = self.moves.current()
            && current.to == shard
            && current.step == Step::Copying
        {
            ranges.push(current.range);
        }
        ranges
    }

    /// The epoch from which on a shard is a target of a hand-over: it may be told that it owns the range
    /// only when the source has given it up.
    pub(crate) fn awaits_source(&self, shard: &str) -> Option<u64> {
        self.handed_over().filter(|(current, _)| current.to == shard).map(|(_, epoch)| epoch)
    }

    /// The epoch from which on a shard is a source of a hand-over.
    pub(crate) fn hands_over(&self, shard: &str) -> Option<u64> {
        self.handed_over().filter(|(current, _)| current.from == shard).map(|(_, epoch)| epoch)
    }

    fn handed_over(&self) -> Option<(&Move, u64)> {
        match self.moves.current()? {
            current @ Move { step: Step::HandingOver { epoch, .. }, .. } => Some((current, *epoch)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use sherd_protocol::range_map::OwnedRange;
    use sherd_protocol::{IndexSettings, PlannedMove, RING_SIZE, ShardInfo};

    use super::*;
    use crate::config::ClusterConfig;
    use crate::state::Command;

    fn state() -> State {
        let text = r#"{"shards": [
            {"name": "a", "start": 0, "end": 0.5, "size": 10, "host": "h", "port": 1},
            {"name": "b", "start": 0.5, "end": 1, "size": 10, "host": "h", "port": 2}
        ]}"#;
        State::new(&ClusterConfig::parse(text).unwrap(), "c0ffee".to_owned())
    }

    fn owned(start: u32, end: u32, shard: &str) -> OwnedRange {
        OwnedRange { start, end, shard: shard.to_owned() }
    }

    /// A plan of moves from one shard to another.
    fn plan(state: &State, moves: &[(u32, u32, &str, &str)], actions: Vec<Action>) -> Box<Plan> {
        let moves: Vec<PlannedMove> = moves
            .iter()
            .map(|&(start, end, from, to)| PlannedMove {
                range: Range { start, end },
                from: from.to_owned(),
                to: to.to_owned(),
                documents: 1,
                bytes: 2,
            })
            .collect();
        let mut after = state.map.clone();
        moves.iter().for_each(|it| after.give(it.range, &it.to));
        let shards_after = planner::shards_after(&state.map, &actions).ok();
        Box::new(Plan {
            cluster: state.map.cluster.clone(),
            epoch: state.map.epoch,
            actions,
            moves,
            before: state.map.ranges.clone(),
            after: after.ranges,
            shards_after: shards_after.unwrap_or_default(),
            bytes: Vec::new(),
            warnings: Vec::new(),
        })
    }

    fn start(plan: Box<Plan>) -> Command {
        Command::StartMoves { plan, rate: None, at: 7 }
    }

    fn step(state: &State, transition: Transition) -> State {
        let id = state.moves.current().unwrap().id.clone();
        state.apply(&Command::AdvanceMove { id, transition, at: 7 }).unwrap()
    }

    const COPIED: Transition = Transition::Copied { frozen_at: 9 };

    #[test]
    fn the_target_is_told_only_what_the_source_has_given_up() {
        let started = state().apply(&start(plan(&state(), &[(0, 3, "a", "b")], vec![]))).unwrap();
        assert_eq!(started.map.ranges, state().map.ranges);
        assert_eq!(started.assignment("a").unwrap().gives_up, None);
        // Its share of limits counts at both, or it could not be brought.
        assert_eq!(started.ranges_with_incoming("b").len(), 2);
        let handed = step(&started, COPIED);
        let epoch = handed.map.epoch;
        assert_eq!(handed.map.ranges[0], owned(0, 3, "b"));
        let gives_up = handed.assignment("a").unwrap().gives_up.unwrap();
        assert_eq!((gives_up.id, gives_up.lsn), (started.moves.queue[0].id.clone(), 9));
        assert_eq!((handed.hands_over("a"), handed.awaits_source("b")), (Some(epoch), Some(epoch)));
        // The attempt is the same one after a change of the catalogue.
        let settings = IndexSettings::default();
        let changed =
            handed.apply(&Command::CreateIndex { name: "x".to_owned(), settings }).unwrap();
        assert!(changed.map.epoch > epoch);
        assert_eq!(changed.awaits_source("b"), Some(epoch));
        let done = step(&changed, Transition::Owned);
        assert_eq!((done.moves.current(), done.awaits_source("b")), (None, None));
        assert_eq!(done.map.ranges, handed.map.ranges);
    }

    #[test]
    fn a_refusal_takes_the_map_back_and_the_move_goes_on_unless_it_was_cancelled() {
        let moves = [(0, 3, "a", "b"), (6_000_000, 7_000_000, "b", "a")];
        let started = state().apply(&start(plan(&state(), &moves, vec![]))).unwrap();
        let handed = step(&started, COPIED);
        let back = step(&handed, Transition::Refused);
        assert_eq!(back.map.ranges, state().map.ranges);
        assert_eq!(back.moves.queue, started.moves.queue);
        let cancelled = handed.apply(&Command::CancelMoves { at: 7 }).unwrap();
        assert_eq!(cancelled.moves.queue.len(), 1, "what is handed over goes on");
        let back = step(&cancelled, Transition::Refused);
        assert_eq!((back.moves.current(), &back.map.ranges), (None, &state().map.ranges));
        let cancelled = started.apply(&Command::CancelMoves { at: 7 }).unwrap();
        assert_eq!(cancelled.moves.queue, []);
        // A step of what was cancelled comes too late.
        let id = started.moves.queue[0].id.clone();
        let late = cancelled.apply(&Command::AdvanceMove { id, transition: COPIED, at: 7 });
        assert!(late.is_err(), "{late:?}");
    }

    #[test]
    fn what_is_paused_is_not_handed_over() {
        let pause = |state: &State, paused| state.apply(&Command::PauseMoves { paused }).unwrap();
        let started = state().apply(&start(plan(&state(), &[(0, 3, "a", "b")], vec![]))).unwrap();
        let paused = pause(&started, true);
        let id = started.moves.queue[0].id.clone();
        let copied = Command::AdvanceMove { id, transition: COPIED, at: 7 };
        let error = paused.apply(&copied).unwrap_err().to_string();
        assert!(error.contains("is paused"), "{error}");
        assert!(pause(&paused, false).apply(&copied).is_ok());
        // What is handed over goes on.
        let handed = pause(&started.apply(&copied).unwrap(), true);
        assert_eq!(step(&handed, Transition::Owned).moves.queue, []);
        assert!(!pause(&state(), true).moves.paused, "where nothing moves nothing is paused");
        // Nor does it say why it did not go on before.
        let id = started.moves.queue[0].id.clone();
        let report = MoveProgress { id, error: Some("away".to_owned()), ..MoveProgress::default() };
        let why = |state: &State| state.moves.status(Some(&report)).moves.remove(0).progress?.error;
        assert_eq!((why(&started), why(&paused)), (Some("away".to_owned()), None));
    }

    #[test]
    fn a_plan_for_which_there_is_nothing_to_do_changes_nothing() {
        let empty = plan(&state(), &[], vec![Action::Rebalance]);
        assert_eq!(state().apply(&start(empty.clone())).as_ref(), Ok(&state()));
        let moved = state().apply(&start(plan(&state(), &[(0, 3, "a", "b")], vec![]))).unwrap();
        let moved = step(&step(&moved, COPIED), Transition::Owned);
        let error = moved.apply(&start(empty)).unwrap_err().to_string();
        let (made, now) = (state().map.epoch, moved.map.epoch);
        let why = format!("made for epoch {made}, and the map is at epoch {now}");
        assert!(error.contains(&why) && error.contains("plan again"), "{error}");
    }

    #[test]
    fn a_shard_that_is_removed_leaves_when_all_is_moved() {
        let actions = vec![Action::Remove { shard: "a".to_owned() }];
        let half = RING_SIZE / 2;
        let moves = [(0, 3, "a", "b"), (3, half, "a", "b")];
        let mut state = state().apply(&start(plan(&state(), &moves, actions))).unwrap();
        for _ in 0..2 {
            assert!(state.map.shard("a").is_some());
            state = step(&step(&state, COPIED), Transition::Owned);
        }
        assert!(state.map.shard("a").is_none());
        assert_eq!(state.map.ranges, [owned(0, RING_SIZE, "b")]);
        // A plan of the map that this left is of this map.
        let next = plan(&state, &[], vec![]);
        assert!(state.apply(&start(next)).is_ok());
    }

    #[test]
    fn a_shard_that_was_added_leaves_with_the_plan_unless_it_owns_something() {
        let name = "c".to_owned();
        let shard = ShardInfo { name, port: 3, ..state().map.shards[0].clone() };
        let actions = vec![Action::Add { shard }];
        let plan = plan(&state(), &[(0, 3, "a", "c"), (3, 6, "a", "c")], actions);
        let cancel = |state: &State| state.apply(&Command::CancelMoves { at: 7 }).unwrap();
        let names = |state: &State| state.map.shards.iter().map(|it| it.name.clone()).collect();
        let (two, three): (Vec<String>, Vec<String>) =
            (vec!["a".into(), "b".into()], vec!["a".into(), "b".into(), "c".into()]);
        let started = state().apply(&start(plan)).unwrap();
        assert_eq!(names(&started), three);
        assert!(!started.has_no_part("c"));
        assert_eq!(
            (names(&cancel(&started)), &cancel(&started).map.ranges),
            (two.clone(), &state().map.ranges)
        );
        // What is handed over decides, however often it is cancelled.
        let handed = step(&started, COPIED);
        let cancelled = cancel(&cancel(&handed));
        assert_eq!(names(&cancelled), three);
        assert_eq!(names(&step(&cancelled, Transition::Refused)), two);
        let owned = step(&cancelled, Transition::Owned);
        assert_eq!((names(&owned), owned.map.ranges_of("c").len()), (three, 1));
    }

    #[test]
    fn a_plan_that_is_not_of_this_map_or_contradicts_itself_is_refused() {
        let state = state();
        let good = || plan(&state, &[(0, 3, "a", "b")], vec![]);
        let refused = |plan: Box<Plan>, what: &str| {
            let error = state.apply(&start(plan)).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        };
        let mut old = good();
        old.epoch = 0;
        refused(old, "plan again");
        let mut other = good();
        other.cluster = "another".to_owned();
        refused(other, "another cluster");
        let mut twice = good();
        twice.moves.push(twice.moves[0].clone());
        refused(twice, "cannot move");
        let mut nowhere = good();
        nowhere.moves[0].to = "nobody".to_owned();
        refused(nowhere, "cannot move");
        let mut shown = good();
        shown.after = state.map.ranges.clone();
        refused(shown, "do not lead to the map");
        let mut others = good();
        others.shards_after.pop();
        refused(others, "do not lead to the shards");
        let new = ShardInfo { name: "c".to_owned(), port: 3, ..state.map.shards[0].clone() };
        let of = |actions| plan(&state, &[(0, 3, "a", "b")], actions);
        let add = |shard: ShardInfo| of(vec![Action::Add { shard }]);
        refused(add(ShardInfo { size: 0, ..new.clone() }), "at least 1 byte");
        refused(add(ShardInfo { port: 0, ..new.clone() }), "0 is not a port");
        refused(add(ShardInfo { port: 2, ..new.clone() }), "has h:2 already");
        refused(add(ShardInfo { name: "b".to_owned(), ..new.clone() }), "another shard has it");
        for name in ["", "c\u{1b}[2J", "c d", "c/d", &"c".repeat(65)] {
            let name = name.to_owned();
            refused(add(ShardInfo { name, ..new.clone() }), "a shard's name has 1 to 64");
        }
        let remove = |shard: &str| Action::Remove { shard: shard.to_owned() };
        refused(of(vec![remove("a")]), "\"a\" is to leave");
        refused(of(vec![remove("b")]), "cannot move");
        refused(of(vec![remove("a"), remove("b")]), "the last one");
        refused(of(vec![remove("a"), remove("a")]), "gone by then");
        let settings = IndexSettings { max_documents: Some(5), ..IndexSettings::default() };
        let create = Command::CreateIndex { name: "few".to_owned(), settings };
        let limited = state.apply(&create).unwrap();
        let half = RING_SIZE / 2;
        let sliver = plan(&limited, &[(3, half, "a", "b")], vec![]);
        let error = limited.apply(&start(sliver)).unwrap_err().to_string();
        for what in ["index \"few\"", "shard \"a\"", "sherd index set few --max-documents"] {
            assert!(error.contains(what), "{error}");
        }
        let begun = state.apply(&start(good())).unwrap();
        let error = begun.apply(&start(good())).unwrap_err().to_string();
        assert!(error.contains("another plan is being carried out"), "{error}");
    }
}
