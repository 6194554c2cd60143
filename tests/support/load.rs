//! A load of concurrent clients on few keys, whose history is taken down.
//!
//! Everything that a client can ask of one key is asked, with every condition; no two writes have
//! the same document. Whatever else happens to the cluster meanwhile is up to the test:
//!
//! ```text
//! let load = Load::start(&address, LoadOptions { seed, ..LoadOptions::default() }).await;
//! load.reach(1000).await; // then kill a node, or move a range, and so on
//! let history = load.finish().await; // or `stop`; both read everything at the end
//! check(&history).unwrap_or_else(|violation| panic!("{violation}"));
//! ```
//!
//! A client takes an unknown outcome for what it is and goes on; any other failure fails the test.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sherd_client::{Client, Condition, Document, Error, Options, ScanOptions};
use tokio::task::JoinHandle;

use super::history::{Answer, Call, Clock, History, Operation, Recorder, Value};

/// The index of the load.
pub(crate) const INDEX: &str = "load";

/// What a load does.
#[derive(Clone, Debug)]
pub(crate) struct LoadOptions {
    /// Draws what each client does; what comes of it depends on timing as well.
    pub(crate) seed: u64,
    pub(crate) clients: usize,
    /// Over the ring; some are used much more than others, so that clients meet there.
    pub(crate) keys: usize,
    /// The most operations of each client.
    pub(crate) operations: u64,
    /// How each client works. A restart must fit into its deadline.
    pub(crate) options: Options,
}

impl Default for LoadOptions {
    fn default() -> Self {
        // Longer than any restart takes on a machine that is busy with other tests.
        let options = Options { deadline: Duration::from_secs(60), ..Options::default() };
        Self { seed: 0, clients: 8, keys: 300, operations: 2000, options }
    }
}

/// Clients at work. Dropped, they go on to their last operation.
pub(crate) struct Load {
    running: Vec<JoinHandle<Recorder>>,
    shared: Arc<Shared>,
    client: Client,
}

/// What the clients have in common.
pub(crate) struct Shared {
    keys: Vec<Arc<str>>,
    /// How many clients there are.
    clients: usize,
    /// Of the history.
    clock: Clock,
    stopped: AtomicBool,
    answers: AtomicU64,
}

impl Shared {
    pub(crate) fn new(keys: usize, clients: usize, clock: Clock) -> Arc<Self> {
        let keys = (0..keys).map(|number| format!("key{number}").into()).collect();
        let (stopped, answers) = Default::default();
        Arc::new(Self { keys, clients, clock, stopped, answers })
    }

    /// Stops the clients, each after the operation it is at.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    /// How many operations were answered.
    pub(crate) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }
}

impl Load {
    /// Creates the index and lets the clients begin.
    pub(crate) async fn start(bootstrap: &str, options: LoadOptions) -> Self {
        let LoadOptions { seed, clients, keys, operations, options } = options;
        let connect =
            async || Client::connect(bootstrap, options.clone()).await.expect("the cluster serves");
        let client = connect().await;
        client.create_index(INDEX).await.expect("it is created");
        let shared = Shared::new(keys, clients, Clock::start());
        let mut rng = StdRng::seed_from_u64(seed);
        let mut workers = Vec::new();
        for id in 0..clients {
            workers.push(Worker::new(connect().await, id, rng.random(), Arc::clone(&shared)));
        }
        let running =
            workers.into_iter().map(|worker| tokio::spawn(worker.run(operations))).collect();
        Self { running, shared, client }
    }

    /// How many operations were answered.
    pub(crate) fn answers(&self) -> u64 {
        self.shared.answers()
    }

    /// Waits until so many operations were answered, or no client works any more.
    pub(crate) async fn reach(&self, answers: u64) {
        while self.answers() < answers && !self.running.iter().all(JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_micros(200)).await;
        }
    }

    /// Stops the clients, each after the operation it is at, and reads everything.
    pub(crate) async fn stop(self) -> History {
        self.shared.stop();
        self.finish().await
    }

    /// Waits until each client has done all its operations, and reads everything.
    pub(crate) async fn finish(self) -> History {
        let mut history = History::new();
        for worker in self.running {
            history.extend(worker.await.expect("no client fails").into_operations());
        }
        history.extend(read_everything(&self.client, &self.shared).await);
        history
    }
}

/// Reads every key, and scans them all.
pub(crate) async fn read_everything(client: &Client, shared: &Shared) -> Vec<Operation> {
    let mut last = Recorder::new(shared.clients, shared.clock.clone());
    for key in &shared.keys {
        last.record(key, Call::Read, ask(client, key, Call::Read)).await;
    }
    let mut read = last.into_operations();
    read.extend(scan(client, shared, shared.clients + 1).await);
    read
}

/// A scan of the index, as if each key had been read meanwhile.
async fn scan(client: &Client, shared: &Shared, id: usize) -> Vec<Operation> {
    let invoked = shared.clock.elapsed();
    let mut scan = client.scan(INDEX, ScanOptions::default()).expect("a name");
    let mut contents = BTreeMap::new();
    while let Some(item) = scan.next().await.expect("a scan") {
        let again = contents.insert(item.key.clone(), item.document);
        assert!(again.is_none(), "{} came twice", item.key);
    }
    let answered = shared.clock.elapsed();
    let operations = shared.keys.iter().map(|key| {
        let (answer, key) = (found(contents.remove(&**key)), Arc::clone(key));
        Operation { client: id, key, call: Call::Read, invoked, answer, answered }
    });
    let operations = operations.collect();
    assert!(contents.is_empty(), "keys that nobody wrote: {:?}", contents.keys());
    operations
}

/// One client.
pub(crate) struct Worker {
    client: Client,
    recorder: Recorder,
    rng: StdRng,
    /// Those of its writes.
    values: std::iter::StepBy<std::ops::RangeFrom<Value>>,
    /// The version of each key that it saw last, for its conditions.
    versions: HashMap<Arc<str>, u64>,
    shared: Arc<Shared>,
}

impl Worker {
    pub(crate) fn new(client: Client, id: usize, seed: u64, shared: Arc<Shared>) -> Self {
        let recorder = Recorder::new(id, shared.clock.clone());
        let values = (id as u64..).step_by(shared.clients);
        let (rng, versions) = (StdRng::seed_from_u64(seed), HashMap::new());
        Self { client, recorder, rng, values, versions, shared }
    }

    /// Works until it has done so many operations, or is stopped.
    pub(crate) async fn run(mut self, operations: u64) -> Recorder {
        for _ in 0..operations {
            if self.shared.stopped.load(Ordering::Relaxed) {
                break;
            }
            self.step().await;
            self.shared.answers.fetch_add(1, Ordering::Relaxed);
        }
        self.recorder
    }

    async fn step(&mut self) {
        // The third power makes a tenth of the keys get nearly half of the operations.
        let drawn = self.rng.random::<f64>().powi(3) * self.shared.keys.len() as f64;
        let key = Arc::clone(&self.shared.keys[drawn as usize]);
        let value = self.values.next().expect("there is no last one");
        let call = draw(&mut self.rng, value, self.versions.get(&key).copied());
        let asked = ask(&self.client, &key, call);
        let answer = self.recorder.record(&key, call, asked).await;
        if let Some(version) = answer.version() {
            self.versions.insert(key, version);
        }
    }
}

/// Draws what to ask of a key of which a version is known, or not.
pub(crate) fn draw(rng: &mut impl Rng, value: Value, known: Option<u64>) -> Call {
    let version = known.unwrap_or(1);
    match rng.random_range(0..100) {
        0..30 => Call::Read,
        30..37 => Call::Has,
        37..50 => Call::Write { value, condition: Condition::Any },
        50..62 => Call::Write { value, condition: Condition::Absent },
        62..70 => Call::Write { value, condition: Condition::Present },
        70..82 => Call::Write { value, condition: Condition::Version(version) },
        82..86 => Call::Remove { version: None },
        86..91 => Call::Remove { version: Some(version) },
        _ => Call::Pop,
    }
}

async fn ask(client: &Client, key: &str, call: Call) -> Answer {
    let missing = Answer::Missing;
    let asked = match call {
        Call::Read => client.read(INDEX, key).await.map(found),
        Call::Has => {
            let version = client.has(INDEX, key).await;
            version.map(|version| version.map_or(missing, |version| Answer::There { version }))
        }
        Call::Write { value, condition } => {
            let written = client.write(INDEX, key, &document(value), condition).await;
            written.map(|version| Answer::Written { version })
        }
        Call::Remove { version } => {
            let removed = client.remove(INDEX, key, version).await;
            removed.map(|version| version.map_or(missing, |version| Answer::Removed { version }))
        }
        Call::Pop => client.pop(INDEX, key).await.map(found),
    };
    match asked {
        Ok(answer) => answer,
        Err(Error::ConditionFailed { version, .. }) => Answer::ConditionFailed { version },
        Err(Error::OutcomeUnknown(_)) => Answer::Unknown,
        Err(error) => panic!("{key}: {call}: {error}"),
    }
}

/// The document of a value: of up to 600 bytes, so that a part of one is not taken for another.
fn document(value: Value) -> Vec<u8> {
    let filler = "x".repeat((value % 593) as usize);
    rmp_serde::to_vec(&(value, filler)).expect("it encodes")
}

fn found(answer: Option<Document>) -> Answer {
    let Some(found) = answer else { return Answer::Missing };
    let decoded: Result<(Value, String), _> = rmp_serde::from_slice(&found.bytes);
    let (value, _) = decoded.unwrap_or_else(|error| panic!("{error}: {:?}", found.bytes));
    assert_eq!(found.bytes, document(value), "a document that nobody wrote");
    Answer::Found { value, version: found.version }
}
