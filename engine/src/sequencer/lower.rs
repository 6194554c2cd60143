//! Limits that are set, and lowered below what is used.
//!
//! Who asks for a lower limit gets it once it is met: documents are evicted a few hundred at a
//! time, with other commands between, and only then is the limit recorded and the command answered. So what
//! is used is never seen above a limit that was acknowledged. Where no policy evicts, it is refused.
//!
//! A limit that comes with an assignment, or is set by force, is in force at once: what is used beyond
//! it is evicted in the background, also after a restart, and meanwhile no write adds to it.

use std::time::{Duration, Instant};

use super::Sequencer;
use super::room::{Measure, Shortage};
use crate::command::{IndexId, Outcome};
use crate::effect::{Effect, SetIndex, SetLimit};
use crate::engine::Completion;
use crate::error::{Error, Result};
use crate::limits::{IndexSettings, Policy};
use crate::state::{Change, IndexState, State};

/// How long evicting waits for a lower limit after a failure: of the index, say, or of the disk.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A limit that is recorded once it is met.
pub(super) struct Lowering {
    to: Limit,
    /// Who asked for it.
    done: Vec<Completion>,
}

/// A limit of the shard, or those of an index with all else that is set of it.
#[derive(Clone, Copy, PartialEq)]
enum Limit {
    Shard(u64),
    Index(IndexId, IndexSettings),
}

impl Sequencer {
    /// Sets the shard's limit and policy, the policy first: it decides whether there is evicted.
    pub(super) fn set_limit(&mut self, to: u64, policy: Option<Policy>, done: Completion) {
        let policy_set = self.settle().and_then(|()| {
            let Some(assignment) = &self.state.assignment else {
                return Err(Error::WrongShard { epoch: 0 });
            };
            let (held, limit) = (assignment.policy, assignment.limit);
            match policy.filter(|&policy| policy != held) {
                Some(_) => {
                    let effect = Effect::SetLimit(SetLimit { limit, policy });
                    self.record_before(effect, Limit::Shard(to))
                }
                None => Ok(Outcome::Done),
            }
        });
        self.lower_after(policy_set, Limit::Shard(to), done);
    }

    /// Sets what of an index's settings is no limit, then its limits.
    pub(super) fn set_index(&mut self, id: IndexId, settings: IndexSettings, done: Completion) {
        let rest_set = self.settle().and_then(|()| {
            let held = self.settings(id)?;
            let IndexSettings { max_bytes, max_documents, .. } = held;
            let first = IndexSettings { max_bytes, max_documents, ..settings };
            if first == held {
                return Ok(Outcome::Done);
            }
            let effect = Effect::SetIndex(SetIndex { id, settings: first });
            self.record_before(effect, Limit::Index(id, settings))
        });
        self.lower_after(rest_set, Limit::Index(id, settings), done);
    }

    /// Sets an index's settings as they are, whatever is used.
    pub(super) fn force_index(&mut self, id: IndexId, settings: IndexSettings) -> Result<Outcome> {
        self.settle()?;
        let outcome = self.record_settings(id, settings)?;
        self.over_limit = true;
        Ok(outcome)
    }

    fn settings(&self, id: IndexId) -> Result<IndexSettings> {
        let of_index = self.state.indexes.get(&id).ok_or(Error::IndexNotFound(id))?;
        Ok(of_index.settings)
    }

    fn record_settings(&mut self, id: IndexId, settings: IndexSettings) -> Result<Outcome> {
        if self.settings(id)? == settings {
            return Ok(Outcome::Done);
        }
        self.record_control(Effect::SetIndex(SetIndex { id, settings }))
    }

    /// Records what is set together with a limit and decides whether it may be met; nothing where
    /// the limit is refused.
    fn record_before(&mut self, effect: Effect<'static>, to: Limit) -> Result<Outcome> {
        let mut then = self.state.clone();
        then.apply(&Change::Control(effect.clone()));
        self.is_lowered(to, &then)?;
        self.record_control(effect)
    }

    /// Whether documents are to be evicted before a limit is set, in a state of the same documents;
    /// an error where the limit is refused.
    fn is_lowered(&self, to: Limit, state: &State) -> Result<bool> {
        let Some((_, shortage)) = self.excess(to) else { return Ok(false) };
        if !may_evict(state, to) {
            return Err(shortage.error());
        }
        match &self.lowering {
            Some(lowering) if lowering.to != to => Err(Error::LoweringAnother),
            _ => Ok(true),
        }
    }

    /// Sets a limit; where more is used, evicts first if that may help, and answers later.
    fn lower_after(&mut self, before: Result<Outcome>, to: Limit, done: Completion) {
        let result = match before.and_then(|_| self.is_lowered(to, &self.state)) {
            Ok(true) => {
                let new = Lowering { to, done: Vec::new() };
                self.lowering.get_or_insert(new).done.push(done);
                return;
            }
            Ok(false) => self.record_limit(to),
            Err(error) => Err(error),
        };
        self.batch.answers.push((done, result));
    }

    fn record_limit(&mut self, to: Limit) -> Result<Outcome> {
        match to {
            Limit::Shard(limit) if limit == self.state.limit() => Ok(Outcome::Done),
            Limit::Shard(limit) => {
                self.record_control(Effect::SetLimit(SetLimit { limit, policy: None }))
            }
            Limit::Index(id, settings) => self.record_settings(id, settings),
        }
    }

    /// What is used beyond a limit, and an index whose group is to make room.
    fn excess(&self, to: Limit) -> Option<(IndexId, Shortage)> {
        match to {
            Limit::Shard(limit) => {
                let used = self.state.used;
                if used <= limit {
                    return None;
                }
                let indexes = self.state.indexes.iter();
                // Where none evicts any of them may tell so.
                let by_bytes = |(id, of): &(&IndexId, &IndexState)| {
                    // Of an index with the policy `ttl` nothing may expire.
                    let any = self.shared.residents.documents(&[**id]) > 0;
                    (any && evicts(&self.state, of), of.totals.bytes)
                };
                let (&largest, _) = indexes.max_by_key(by_bytes)?;
                Some((largest, Shortage::Shard { used, limit, allowed: limit, needed: 0 }))
            }
            Limit::Index(id, settings) => {
                let (bytes, documents) = self.state.indexes.get(&id)?.owned();
                let limits = [
                    (Measure::Bytes, bytes, settings.max_bytes),
                    (Measure::Documents, documents, settings.max_documents),
                ];
                limits.into_iter().find_map(|(what, used, limit)| {
                    let limit = limit.filter(|&limit| used > limit)?;
                    Some((id, Shortage::Index { id, what, used, limit, allowed: limit, needed: 0 }))
                })
            }
        }
    }

    /// The first limit in force that is exceeded and that evicting may meet.
    fn excess_in_force(&self) -> Option<(IndexId, Shortage)> {
        let of_shard = std::iter::once(Limit::Shard(self.state.limit()));
        let indexes = self.state.indexes.iter();
        let of_indexes = indexes.map(|(&id, of_index)| Limit::Index(id, of_index.settings));
        let mut limits = of_shard.chain(of_indexes).filter(|&limit| may_evict(&self.state, limit));
        limits.find_map(|limit| self.excess(limit))
    }

    /// The limit of the shard for writes, and whether more may be used than that. While it is being
    /// lowered, they must not add to what is used, and need not make room for more than themselves.
    pub(super) fn limit_for_writes(&self) -> (u64, bool) {
        match &self.lowering {
            Some(Lowering { to: Limit::Shard(lower), .. }) => (*lower, true),
            _ => (self.state.limit(), self.over_limit),
        }
    }

    /// The settings of an index for writes, as [`Self::limit_for_writes`]. Until new ones are recorded, those in
    /// force hold as well: one limit may be lowered and the other raised.
    pub(super) fn settings_for_writes(
        &self,
        index: IndexId,
        of_index: &IndexState,
    ) -> (IndexSettings, bool) {
        match &self.lowering {
            Some(Lowering { to: Limit::Index(id, to), .. }) if *id == index => {
                let held = of_index.settings;
                let least = |to: Option<u64>, held: Option<u64>| to.into_iter().chain(held).min();
                let max_bytes = least(to.max_bytes, held.max_bytes);
                let max_documents = least(to.max_documents, held.max_documents);
                (IndexSettings { max_bytes, max_documents, ..*to }, true)
            }
            _ => (of_index.settings, self.over_limit),
        }
    }

    /// Whether documents are to be evicted for a lower limit: the next batch need not wait for a
    /// command.
    pub(super) fn is_lowering(&self) -> bool {
        self.lowering.is_some() || self.over_limit
    }

    /// Evicts some documents for a lower limit, and records it once it is met.
    pub(super) fn lower_on(&mut self) {
        if !self.is_lowering() || self.lower_again.is_some_and(|at| Instant::now() < at) {
            return;
        }
        self.lower_again = None;
        self.now = self.shared.clock.now();
        match self.lowering.take() {
            Some(lowering) => self.lower_as_asked(lowering),
            None => match self.lower_by(Self::excess_in_force) {
                Ok(goes_on) => self.over_limit = goes_on,
                Err(error @ (Error::QuotaExceeded { .. } | Error::IndexFull { .. })) => {
                    tracing::warn!(%error, "the shard stays over a limit: no policy evicts more");
                    self.over_limit = false;
                }
                // Only a restart helps, and that goes on with it.
                Err(Error::Poisoned { .. }) => self.over_limit = false,
                Err(error) => {
                    tracing::warn!(%error, "the shard stays over a limit for now");
                    self.lower_again = Some(Instant::now() + RETRY_AFTER);
                }
            },
        }
    }

    fn lower_as_asked(&mut self, lowering: Lowering) {
        let Lowering { to, done } = lowering;
        let result = match self.lower_by(|this| this.excess(to)) {
            Ok(true) => {
                self.lowering = Some(Lowering { to, done });
                return;
            }
            Ok(false) => self.record_limit(to),
            Err(error) => Err(error),
        };
        for done in done {
            done(result.clone());
        }
    }

    /// Evicts some documents because of an excess. `false` where there is none.
    fn lower_by(&mut self, excess: impl Fn(&Self) -> Option<(IndexId, Shortage)>) -> Result<bool> {
        let Some((_, shortage)) = excess(self) else { return Ok(false) };
        self.shared.poison.check()?;
        self.check_backlog()?;
        if !self.evict_some(excess)? {
            return Err(shortage.error());
        }
        self.try_commit()?;
        Ok(true)
    }
}

fn evicts(state: &State, of_index: &IndexState) -> bool {
    state.policy(of_index) != Policy::Reject
}

/// Whether evicting may bring what is used down to a limit.
fn may_evict(state: &State, to: Limit) -> bool {
    match to {
        Limit::Shard(limit) => {
            let evicting = state.indexes.values().filter(|of| evicts(state, of));
            let most: u64 = evicting.map(|of_index| of_index.totals.bytes).sum();
            state.used.saturating_sub(most) <= limit
        }
        Limit::Index(id, _) => state.indexes.get(&id).is_some_and(|of| evicts(state, of)),
    }
}
