//! What comes of it: the engine beside the model.

use std::io::ErrorKind;
use std::sync::mpsc;

use bytes::Bytes;
use sherd_engine::fs::Fault;
use sherd_engine::{Command, Engine, Error, IndexId, IndexSettings, Key, Options, Outcome, Scan};

use crate::common::{Time, wait_until};
use crate::history::{KEYS, Operation, Restart, Step, key};
use crate::model::{Index, Model, bytes_of};
use crate::place::Place;

struct Run {
    place: Place,
    options: Options,
    time: Time,
    /// None between a stop and the next opening.
    engine: Option<Engine>,
    model: Model,
}

/// A command under way.
struct Submitted {
    command: Command,
    expected: Result<Outcome, Error>,
    /// The model after each group of effects of the command.
    trail: Vec<Model>,
    result: mpsc::Receiver<Result<Outcome, Error>>,
}

impl Run {
    fn new(place: Place, options: Options) -> Self {
        let time = Time::default();
        let engine = Some(place.open(Options { clock: time.clock(), ..options.clone() }));
        let model = Model { now: time.now(), ..Model::new() };
        let mut run = Self { place, options, time, engine, model };
        // So that histories are about documents more than about being refused.
        run.commands(&[
            Step::Assign { epoch: 1, lineage: 0, ranges: 0, limit: u64::MAX, foreign: false },
            Step::CreateIndex { id: 1, name: 0, settings: IndexSettings::default() },
            Step::CreateIndex { id: 2, name: 1, settings: IndexSettings::default() },
        ]);
        run
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn operate(&mut self, operation: &Operation) {
        match operation {
            Operation::Commands(steps) => self.commands(steps),
            Operation::Read { index, key: i } => self.check_read(*index, &key(*i)),
            Operation::Scan { index, range, documents, bytes, keys_only } => {
                let scan = Scan {
                    index: *index,
                    range: *range,
                    after: None,
                    max_documents: *documents,
                    max_bytes: *bytes,
                    keys_only: *keys_only,
                };
                self.check_scan(&scan);
            }
            Operation::Checkpoint => {
                self.engine().checkpoint().unwrap();
                self.place.remember_index();
            }
            Operation::Jump(by) => self.jump(*by),
            Operation::Compact => {
                self.engine().compact().unwrap();
                self.model.sweep();
                // What was moved took LSNs as well.
                self.model.next_lsn = self.engine().stat().durable_lsn + 1;
                self.check_all();
            }
            Operation::Restart(restart) => {
                if matches!(restart, Restart::Close) {
                    self.engine().close().unwrap();
                }
                self.reopen(restart);
                self.model.now = self.time.now();
                self.check_all();
            }
            Operation::Fault { steps, fault, after, restart } => {
                self.fault(steps, *fault, *after, restart);
            }
        }
    }

    fn reopen(&mut self, restart: &Restart) {
        // The last handle ends the engine, as a crash would.
        self.engine = None;
        self.place.stop(restart);
        // A clock that knows nothing of the one before.
        let options = Options { clock: self.time.clock(), ..self.options.clone() };
        self.engine = Some(self.place.open(options));
    }

    /// Sets the clock, and waits until what has expired is swept.
    fn jump(&mut self, by: i64) {
        self.time.set(self.time.now().saturating_add_signed(by));
        // It stands still where it would go back.
        self.model.now = self.model.now.max(self.time.now());
        self.model.expire();
        wait_until("what has expired is swept", || {
            self.engine().stat().durable_lsn + 1 >= self.model.next_lsn
        });
        self.check_all();
    }

    /// Submits the commands of these steps.
    fn submit(&self, model: &mut Model, steps: &[Step]) -> Vec<Submitted> {
        let submitted = steps.iter().map(|step| {
            let command = model.command(step);
            let mut trail = Vec::new();
            let expected = model.execute(&command, &mut trail);
            let (sender, result) = mpsc::channel();
            let done = Box::new(move |outcome| _ = sender.send(outcome));
            self.engine().submit(command.clone(), done);
            Submitted { command, expected, trail, result }
        });
        submitted.collect()
    }

    fn commands(&mut self, steps: &[Step]) {
        let mut model = self.model.clone();
        for Submitted { command, expected, result, .. } in self.submit(&mut model, steps) {
            assert_eq!(result.recv().unwrap(), expected, "{command:?}");
        }
        self.model = model;
        self.check_stat();
    }

    /// Runs steps on a disk that fails, and restarts.
    fn fault(&mut self, steps: &[Step], fault: Fault, after: u32, restart: &Restart) {
        let Place::Simulated { machine, .. } = &self.place else { return };
        machine.fs.fail(fault, after, ErrorKind::Other);
        let mut model = self.model.clone();
        // The states that recovery may come to.
        let mut possible = vec![self.model.clone()];
        for Submitted { command, expected, mut trail, result } in self.submit(&mut model, steps) {
            let result = result.recv().unwrap();
            if result == expected {
                // Acknowledged: there is no way back.
                if let Some(last) = trail.pop() {
                    possible = vec![last];
                }
                continue;
            }
            let error = result.unwrap_err();
            let failed = matches!(
                error,
                Error::OutcomeUnknown { .. } | Error::Poisoned { .. } | Error::Io { .. }
            );
            assert!(failed, "{command:?}: {error}");
            possible.extend(trail);
        }
        self.reopen(restart);
        let now = self.time.now();
        let durable_lsn = self.engine().stat().durable_lsn;
        let found = possible.iter().find(|model| model.next_lsn == durable_lsn + 1);
        let ends: Vec<_> = possible.iter().map(|model| model.next_lsn - 1).collect();
        let found = found.unwrap_or_else(|| panic!("LSN {durable_lsn} is none of {ends:?}"));
        self.model = Model { now, ..found.clone() };
        self.check_all();
    }

    fn check_read(&self, index: IndexId, key: &Key) {
        let expected = if !self.model.owns(key.position) {
            Err(Error::WrongShard { epoch: self.model.epoch() })
        } else if !self.model.indexes.contains_key(&index) {
            Err(Error::IndexNotFound(index))
        } else {
            Ok(self.model.document(index, key).cloned())
        };
        assert_eq!(self.engine().read(index, key), expected, "{index} {key:?}");
        let version = expected.map(|document| document.map(|document| document.version));
        assert_eq!(self.engine().version(index, key), version, "{index} {key:?}");
    }

    fn check_scan(&self, scan: &Scan) {
        let (start, end) = scan.range;
        let mut reached = start;
        for (from, until) in self.model.owned() {
            if (from..until).contains(&reached) {
                reached = until;
            }
        }
        if reached < end {
            let refused = Err(Error::WrongShard { epoch: self.model.epoch() });
            assert_eq!(self.engine().scan(scan), refused, "{scan:?}");
            return;
        }
        let Some(index) = self.model.indexes.get(&scan.index) else {
            assert_eq!(self.engine().scan(scan), Err(Error::IndexNotFound(scan.index)));
            return;
        };
        let alive = index.documents.iter().filter(|(_, document)| self.model.is_alive(document));
        let inside = alive.filter(|((position, _), _)| (start..end).contains(position));
        let mut expected = inside.map(|((position, key), document)| {
            let mut document = document.clone();
            if scan.keys_only {
                document.bytes = Bytes::new();
            }
            (Key { position: *position, bytes: key.clone() }, document)
        });
        let mut pages = scan.clone();
        loop {
            let page = self.engine().scan(&pages).unwrap();
            assert!(page.items.len() <= scan.max_documents);
            assert!(!page.items.is_empty() || !page.more, "a page that leads nowhere");
            for item in page.items {
                assert_eq!(Some(&item), expected.next().as_ref(), "{pages:?}");
                pages.after = Some(item.0);
            }
            if !page.more {
                break;
            }
        }
        assert_eq!(expected.next(), None, "{scan:?}");
    }

    fn check_stat(&self) {
        let stat = self.engine().stat();
        let model = &self.model;
        assert_eq!(stat.durable_lsn, model.next_lsn - 1);
        assert_eq!(stat.used, model.used());
        assert_eq!(stat.distribution, model.distribution());
        assert_eq!(stat.locked_by, model.locked_by);
        assert_eq!(stat.poisoned, None);
        let mut indexes: Vec<_> = stat.indexes.into_iter().collect();
        indexes.sort_by_key(|index| index.id);
        let counted: Vec<_> = indexes
            .iter()
            .map(|index| {
                (index.id, index.name.as_str(), index.documents, index.used, index.settings)
            })
            .collect();
        let expected: Vec<_> = model
            .indexes
            .iter()
            .map(|(&id, index)| {
                let Index { name, documents, settings, .. } = index;
                (id, name.as_str(), documents.len() as u64, bytes_of(documents), *settings)
            })
            .collect();
        assert_eq!(counted, expected);
        assert_eq!(stat.documents, expected.iter().map(|(_, _, documents, ..)| documents).sum());
        let removals = indexes.iter().map(|index| (index.counts.evicted, index.counts.expired));
        assert!(removals.eq(model.indexes.values().map(|index| (0, index.expired))));
        assert_eq!((stat.counts.evicted, stat.counts.expired), (0, model.expired));
    }

    fn check_all(&self) {
        self.check_stat();
        assert_eq!(self.engine().assignment().as_deref(), self.model.assignment.as_ref());
        for &index in self.model.indexes.keys() {
            for i in 0..KEYS {
                self.check_read(index, &key(i));
            }
            for range in self.model.owned() {
                let scan = Scan {
                    index,
                    range,
                    after: None,
                    max_documents: 5,
                    max_bytes: 1 << 20,
                    keys_only: false,
                };
                self.check_scan(&scan);
            }
        }
    }
}

pub(crate) fn run(place: Place, options: Options, history: &[Operation]) {
    let mut run = Run::new(place, options);
    for operation in history {
        run.operate(operation);
    }
    run.check_all();
    run.operate(&Operation::Restart(Restart::Close));
    run.operate(&Operation::Restart(Restart::IndexLost));
}
