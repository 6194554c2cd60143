//! Two shards on machines of their own, and the range that goes from one to the other.

use std::time::Duration;

use bytes::Bytes;
use sherd_engine::index::IndexStore;
use sherd_engine::{
    Assignment, Command, Condition, Engine, Error, Expiry, IndexId, IndexSettings, Key, Mutation,
    MutationOutcome, Options, Outcome, Policy,
};

use super::progress::Progress;
use crate::common::*;

pub(super) const INDEXES: [IndexId; 2] = [1, 2];
pub(super) const MIDDLE: u32 = RING / 2;
/// What moves to and fro.
pub(super) const MOVING: (u32, u32) = (MIDDLE, MIDDLE + 2_000_003);
pub(super) const MOVE: &str = "move";

/// A key somewhere in the ring, half of all in the range that moves.
pub(super) fn place(i: u32) -> Key {
    let position =
        if i.is_multiple_of(2) { i * 7919 % MIDDLE } else { MIDDLE + i * 7919 % 2_000_003 };
    Key { position, bytes: format!("key{i}").into() }
}

/// A shard on a machine of its own.
pub(super) struct Shard {
    name: &'static str,
    pub(super) machine: Machine,
    pub(super) engine: Option<Engine>,
    pub(super) time: Time,
    pub(super) policy: Policy,
    pub(super) limit: u64,
}

impl Shard {
    pub(super) fn new(name: &'static str, time: &Time, ranges: &[(u32, u32)]) -> Self {
        let machine = Machine::default();
        let (policy, limit) = (Policy::Reject, u64::MAX);
        let mut shard = Self { name, machine, engine: None, time: time.clone(), policy, limit };
        shard.open();
        shard.assign(1, ranges).unwrap();
        for id in INDEXES {
            create_index(shard.engine(), id, IndexSettings::default());
        }
        shard
    }

    fn open(&mut self) {
        let options = Options { clock: self.time.clock(), ..options() };
        self.engine = Some(self.machine.open_with(options).unwrap().0);
    }

    pub(super) fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    pub(super) fn cut_power(&mut self, index_lost: bool) {
        self.engine = None;
        self.machine.fs.crash(|| false);
        self.machine.index.crash(false);
        if index_lost {
            self.machine.index.set_aside().unwrap();
        }
        self.open();
    }

    fn assignment(&self, epoch: u64, ranges: &[(u32, u32)]) -> Assignment {
        let policy = self.policy;
        Assignment { name: self.name.to_owned(), policy, ..assignment(epoch, ranges, self.limit) }
    }

    pub(super) fn assign(&self, epoch: u64, ranges: &[(u32, u32)]) -> Result<Outcome, Error> {
        self.engine().execute(Command::Assign(self.assignment(epoch, ranges)))
    }

    pub(super) fn receive(&self) {
        let (id, ranges) = (MOVE.to_owned(), vec![MOVING]);
        // What it had of the range before may still be on its way out.
        wait_until("the range is cleared", || {
            let command = Command::Receive { id: id.clone(), ranges: ranges.clone() };
            match self.engine().execute(command) {
                Ok(_) => true,
                Err(Error::NotCleared { .. }) => {
                    self.engine().compact().unwrap();
                    false
                }
                Err(error) => panic!("{error}"),
            }
        });
    }

    pub(super) fn freeze(&self, at_most: Duration) -> u64 {
        let (id, ranges) = (MOVE.to_owned(), vec![MOVING]);
        match self.engine().execute(Command::Freeze { id, ranges, at_most }).unwrap() {
            Outcome::Frozen(lsn) => lsn,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn check_frozen(&self, id: &str, frozen_at: u64) -> Result<Outcome, Error> {
        self.engine().execute(Command::CheckFrozen { id: id.to_owned(), frozen_at })
    }

    pub(super) fn give_up(
        &self,
        epoch: u64,
        ranges: &[(u32, u32)],
        frozen_at: u64,
    ) -> Result<Outcome, Error> {
        let assignment = self.assignment(epoch, ranges);
        self.engine().execute(Command::GiveUp { assignment, id: MOVE.to_owned(), frozen_at })
    }
}

/// Two shards, of which one is to hand the moving range to the other, with a document in it.
pub(super) fn pair() -> (Shard, Shard) {
    let time = Time::default();
    let (source, target) =
        (Shard::new("home", &time, &[(0, RING)]), Shard::new("away", &time, &[]));
    let [key, other] = [place(1), place(2)];
    for key in [key, other] {
        let (document, expiry) = (Bytes::from_static(b"document"), Expiry::Never);
        let condition = Condition::Any;
        one(source.engine(), Mutation::Write { index: 1, key, document, condition, expiry });
    }
    (source, target)
}

pub(super) fn bring_all(source: &Shard, target: &Shard) -> Progress {
    target.receive();
    let mut progress = Progress::begin(source.engine());
    while !progress.step(source.engine(), target.engine()).unwrap() {}
    progress
}

pub(super) fn write_at(engine: &Engine, key: Key) -> MutationOutcome {
    let (document, expiry) = (Bytes::from_static(b"another"), Expiry::Never);
    let condition = Condition::Any;
    one(engine, Mutation::Write { index: 1, key, document, condition, expiry })
}
