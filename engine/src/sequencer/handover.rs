//! Ranges on their way from one shard to another: what the sequencers of both do.
//!
//! The target *receives* a range: what comes is stored like any document, and is neither seen nor
//! evicted before the shard owns it. The source goes on serving until the target has nearly all, then
//! *freezes* the range for a moment, and gives it up once the target has the rest: only if nothing
//! can have changed since it was frozen. A freeze is in memory alone and ends by itself, so whoever
//! dies meanwhile, the source serves again, or has given the range up durably.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;

use super::mutate::NewDocument;
use super::room::RoomForEvictions;
use super::{CONTROL_RECORD_BYTES, Sequencer};
use crate::clock::Clock;
use crate::command::{Assignment, Import, Imported, Incoming, Key, Outcome, Span, Version};
use crate::effect::{self, Effect, Reason};
use crate::error::{Error, Result};
use crate::index::{Entry, IndexKey};
use crate::log::{MAX_LSN, Purpose, record};
use crate::read;
use crate::shared::{Found, LookedUp};
use crate::state::Change;

/// How far LSNs go beyond a version that they are behind: the next versions of the other shard are
/// then not ahead at once.
const SKIP_AHEAD: u64 = 1 << 20;

/// How many documents that the other shard does not have any more are removed with one batch.
const GONE_AT_A_TIME: usize = 512;

/// What a skip's record takes at most.
const SKIP_BYTES: usize = 64;

/// Ranges that are about to be given up.
pub(super) struct Frozen {
    id: String,
    ranges: Vec<(u32, u32)>,
    /// The last LSN before.
    at: Version,
    /// Of the clock's elapsed time.
    until: Duration,
}

impl Frozen {
    fn is_in_force(&self, clock: &Clock) -> bool {
        clock.elapsed() < self.until
    }
}

impl Sequencer {
    /// Whether changes at a position are refused for now.
    pub(super) fn is_frozen(&self, position: u32) -> bool {
        let within = |&(start, end): &(u32, u32)| (start..end).contains(&position);
        self.frozen.as_ref().is_some_and(|frozen| {
            frozen.ranges.iter().any(within) && frozen.is_in_force(&self.shared.clock)
        })
    }

    /// Whether what lies at a position is not to be evicted, and not removed when it expires: the other
    /// shard must have the same there.
    pub(super) fn is_on_its_way(&self, position: u32) -> bool {
        self.state.is_incoming(position) || self.is_frozen(position)
    }

    /// Freezes owned ranges.
    pub(super) fn freeze_ranges(
        &mut self,
        id: String,
        ranges: Vec<(u32, u32)>,
        at_most: Duration,
    ) -> Result<Outcome> {
        self.settle()?;
        if !ranges.iter().all(|&(start, end)| self.state.owns(start, end)) {
            return Err(Error::WrongShard { epoch: self.state.epoch() });
        }
        // The other shard reads what is durable.
        self.sync_or_stop()?;
        let at = self.log.next_lsn() - 1;
        let until = self.shared.clock.elapsed() + at_most;
        self.set_frozen(Some(Frozen { id, ranges, at, until }));
        Ok(Outcome::Frozen(at))
    }

    pub(super) fn thaw(&mut self, id: &str) -> Outcome {
        if self.frozen.as_ref().is_some_and(|frozen| frozen.id == id) {
            self.set_frozen(None);
        }
        Outcome::Done
    }

    /// Freezes, or ends it, and lets callers see that.
    fn set_frozen(&mut self, frozen: Option<Frozen>) {
        *self.shared.frozen.write() =
            frozen.as_ref().map(|frozen| (frozen.ranges.clone(), frozen.until));
        self.frozen = frozen;
    }

    /// What is frozen for a move since then, if it is: nothing has changed in it.
    fn frozen_for(&self, id: &str, frozen_at: Version) -> Option<&Frozen> {
        let is_it = |frozen: &&Frozen| {
            frozen.id == id && frozen.at == frozen_at && frozen.is_in_force(&self.shared.clock)
        };
        self.frozen.as_ref().filter(is_it)
    }

    /// Checks that what was frozen for a move is so still.
    pub(super) fn check_still_frozen(&self, id: String, frozen_at: Version) -> Result<Outcome> {
        match self.frozen_for(&id, frozen_at) {
            Some(_) => Ok(Outcome::Done),
            None => Err(Error::NotFrozen { id }),
        }
    }

    /// Ends the freeze of what is not owned any more: it may come back.
    pub(super) fn forget_given_up(&mut self) {
        let owns =
            |frozen: &Frozen| frozen.ranges.iter().all(|&(start, end)| self.state.owns(start, end));
        if self.frozen.as_ref().is_some_and(|frozen| !owns(frozen)) {
            self.set_frozen(None);
        }
    }

    /// Checks that all that an assignment gives up is frozen for a move.
    pub(super) fn check_given_up_is_frozen(
        &self,
        id: &str,
        frozen_at: Version,
        offered: &Assignment,
    ) -> Result<()> {
        let frozen = self.frozen_for(id, frozen_at);
        let frozen = frozen.map_or(&[][..], |frozen| &frozen.ranges);
        let mut kept = [&offered.ranges[..], frozen].concat();
        kept.sort_unstable();
        let held = self.state.assignment.as_ref().map_or(&[][..], |held| &held.ranges);
        let covered = |&(start, end): &(u32, u32)| {
            let mut position = start;
            for &(from, until) in &kept {
                if from <= position {
                    position = position.max(until);
                }
            }
            position >= end
        };
        if held.iter().all(covered) { Ok(()) } else { Err(Error::NotFrozen { id: id.to_owned() }) }
    }

    /// The effect of beginning to receive ranges.
    pub(super) fn receive(
        &self,
        id: String,
        ranges: Vec<(u32, u32)>,
    ) -> Result<Option<Effect<'static>>> {
        match &self.state.incoming {
            Some(held) if held.id == id && held.ranges == ranges => return Ok(None),
            Some(held) => return Err(Error::Receiving { id: held.id.clone() }),
            None => {}
        }
        let owned_in_part = ranges.iter().any(|range| {
            let unowned = self.state.unowned(std::slice::from_ref(range));
            unowned != [*range]
        });
        if owned_in_part {
            return Err(Error::Owned { id });
        }
        // Documents of a time when the shard owned the range are not those that will come.
        self.check_cleared(&ranges)?;
        Ok(Some(Effect::Receive(Incoming { id, ranges, note: Vec::new() })))
    }

    /// Stores and removes what another shard has stored and removed, all or none.
    ///
    /// It goes with the batch of whoever else is there, so that callers wait for one sync, and not for one
    /// before and one behind it.
    pub(super) fn import(&mut self, import: &Import, found: Found) -> Result<Outcome> {
        if self.batch.sync {
            // What is not among the documents is looked for in what is published.
            self.settle()?;
        }
        if let Some(owner) = &self.state.locked_by {
            return Err(Error::Locked { owner: owner.clone() });
        }
        self.check_backlog()?;
        let Import { id, documents, whole, as_of, note } = import;
        let mut incoming = match &self.state.incoming {
            Some(held) if held.id == *id => Incoming::clone(held),
            _ => return Err(Error::NotReceiving { id: id.clone() }),
        };
        incoming.note.clone_from(note);
        let position = |imported: &Imported| imported.place().1.position;
        if !documents.iter().all(|it| self.state.is_incoming(position(it))) {
            return Err(Error::NotReceiving { id: id.clone() });
        }
        self.raise_lsn(documents.iter().map(Imported::version).fold(*as_of, Version::max))?;
        self.now = self.shared.clock.now();
        let (found, gone) = match whole {
            Some(span) => self.remove_most_of_gone(span, documents)?,
            None => (found, Vec::new()),
        };
        let of_incoming = incoming.id.len() + incoming.note.len() + incoming.ranges.len() * 16;
        let of_gone =
            gone.iter().map(|(key, _)| effect::record_bytes(key.key().len())).sum::<usize>();
        let bytes = documents.iter().map(record_bytes).sum::<usize>()
            + of_gone
            + of_incoming
            + CONTROL_RECORD_BYTES;
        let mut evictions = 0;
        loop {
            self.make_room(bytes + evictions, Purpose::Growth)?;
            let mark = self.mark();
            self.room_for_evictions = RoomForEvictions::new(evictions);
            let start = self.batch.bytes.len();
            let taken = self.take_over(import, &found, &gone);
            if let Some(more) = self.room_for_evictions.more() {
                evictions = more;
                self.roll_back(mark);
                continue;
            }
            if let Err(error) = taken {
                self.roll_back(mark);
                return Err(error);
            }
            let progress = Effect::Receive(incoming);
            self.record(&progress);
            let change = Change::Control(progress);
            self.state.apply(&change);
            self.batch.changes.push(change);
            record::seal(&mut self.batch.bytes[start..], self.log.checksum());
            // With another durability too: the other shard is about to forget what was taken over.
            self.batch.sync = true;
            return Ok(Outcome::Done);
        }
    }

    /// Removes what is there of a span and not among some documents, in batches of its own, until
    /// few are left for one, which are returned; and what is there of the documents. Where it ends before all is
    /// imported, the note does not say that it was, and the same page comes again.
    fn remove_most_of_gone(
        &mut self,
        span: &Span,
        documents: &[Imported],
    ) -> Result<(Found, Vec<(IndexKey, LookedUp)>)> {
        let (of_span, others): (Vec<_>, Vec<_>) = documents
            .iter()
            .map(Imported::place)
            .partition(|(index, key)| span.contains(*index, key));
        let kept: HashSet<IndexKey> = of_span.iter().map(|(_, key)| IndexKey::from(*key)).collect();
        // A page has none, if the other shard does as it should.
        let mut found = self.shared.look_up_places(others.into_iter())?;
        let mut span = span.clone();
        loop {
            let gone = self.visit(&span, &kept, &mut found)?;
            if gone.len() < GONE_AT_A_TIME {
                return Ok((found, gone));
            }
            let bytes = gone.iter().map(|(key, _)| effect::record_bytes(key.key().len()));
            self.make_room(bytes.sum(), Purpose::Growth)?;
            let (mark, start) = (self.mark(), self.batch.bytes.len());
            if let Err(error) = self.remove_gone(span.index, &gone) {
                // What is not sealed must not go to the log with the rest of the batch.
                self.roll_back(mark);
                return Err(error);
            }
            record::seal(&mut self.batch.bytes[start..], self.log.checksum());
            self.try_commit()?;
            span.after = gone.last().map(|(key, _)| Key {
                position: key.position(),
                bytes: Bytes::copy_from_slice(key.key()),
            });
        }
    }

    /// Takes down the published entries of some keys of a span, and returns those of others: as many as go with
    /// one batch.
    fn visit(
        &self,
        span: &Span,
        kept: &HashSet<IndexKey>,
        found: &mut Found,
    ) -> Result<Vec<(IndexKey, LookedUp)>> {
        let mut gone = Vec::new();
        let view = self.shared.view.read();
        let drops = view.overlay.drops;
        read::visit_span(&view, &*self.shared.index.get()?, span, |key, entry| {
            if kept.contains(&key) {
                found.insert((span.index, key), (Some(entry), drops));
            } else {
                gone.push((key, (entry, drops)));
            }
            gone.len() < GONE_AT_A_TIME
        })?;
        Ok(gone)
    }

    fn remove_gone(&mut self, index: crate::IndexId, gone: &[(IndexKey, LookedUp)]) -> Result<()> {
        for (key, found) in gone {
            if let Some(found) = self.current_again(index, key, *found)? {
                self.remove(index, key.clone(), &found, Reason::Asked);
            }
        }
        Ok(())
    }

    /// Adds what is imported to the batch, where nothing later is there.
    fn take_over(
        &mut self,
        import: &Import,
        found: &Found,
        gone: &[(IndexKey, LookedUp)],
    ) -> Result<()> {
        if let Some(span) = &import.whole {
            self.remove_gone(span.index, gone)?;
        }
        for imported in &import.documents {
            let (index, key) = imported.place();
            if !self.state.indexes.contains_key(&index) {
                // One that was created there and not here yet would lose documents.
                return Err(Error::IndexNotFound(index));
            }
            let place = (index, IndexKey::from(key));
            let found = match (self.batch.pending.get(&place), found.get(&place)) {
                (Some(entry), _) => *entry,
                (None, Some(found)) => self.shared.look_up_again(index, &place.1, *found)?,
                // All that there is of a span was found.
                (None, None) if import.whole.is_some() => None,
                (None, None) => self.shared.entry(index, &place.1)?,
            };
            let key = place.1;
            match imported {
                Imported::Put { version, expires_at, document, .. } => {
                    self.take_over_document(index, key, found, (*version, *expires_at), document)?;
                }
                Imported::Removed { version, .. } => {
                    if let Some(found) = found.filter(|found| found.version < *version) {
                        self.remove(index, key, &found, Reason::Asked);
                    }
                }
            }
        }
        Ok(())
    }

    fn take_over_document(
        &mut self,
        index: crate::IndexId,
        key: IndexKey,
        found: Option<Entry>,
        (version, expires_at): (Version, u64),
        document: &Bytes,
    ) -> Result<()> {
        let is_later = found.is_some_and(|found| {
            found.version > version || (found.version, found.expires_at) == (version, expires_at)
        });
        if is_later {
            return Ok(());
        }
        let bytes = (key.key().len() + document.len()) as u64;
        let found = self.make_way(index, &key, bytes, found)?;
        self.put(NewDocument { index, key, version, expires_at, document, found });
        Ok(())
    }

    /// Makes the next LSN higher than a version of another shard: no record may carry a version beyond
    /// its own LSN, or a removal would not outweigh it.
    fn raise_lsn(&mut self, version: Version) -> Result<()> {
        let next = self.log.next_lsn() + self.batch.records;
        if next > version {
            return Ok(());
        }
        if version > MAX_LSN / 2 {
            return Err(Error::ImpossibleVersion { version });
        }
        self.make_room(SKIP_BYTES, Purpose::Growth)?;
        let to = version + SKIP_AHEAD;
        let start = self.batch.bytes.len();
        let skip = Effect::Skip(to);
        self.record(&skip);
        // The batch takes all these LSNs.
        self.batch.records = to - self.log.next_lsn();
        record::seal(&mut self.batch.bytes[start..], self.log.checksum());
        self.batch.changes.push(Change::Control(skip));
        Ok(())
    }

    /// Syncs now, whatever the durability. After a failure nothing more is written.
    pub(super) fn sync_or_stop(&mut self) -> Result<()> {
        self.sync().inspect_err(|error| self.shared.poison.set(error))
    }
}

/// The bytes that the record of what is imported may take.
fn record_bytes(imported: &Imported) -> usize {
    match imported {
        Imported::Put { key, document, .. } => {
            effect::record_bytes(key.bytes.len() + document.len())
        }
        Imported::Removed { key, .. } => effect::record_bytes(key.bytes.len()),
    }
}
