//! A simulation from its seed to its history.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, RngCore};
use sherd_client::{Client, Error};
use sherd_protocol::message::MoveStep;
use sherd_protocol::{Action, Policy, RING_SIZE, Range, RangeMap, ShardInfo, WireError};
use turmoil::{Builder, Sim};

use super::faults::Faults;
use super::hosts::{
    BOOTSTRAP, Disk, Left, SHARDS, Time, add_bootstrap, add_shard, connect, generator,
};
use super::network::PORT;
use super::support::history::{Clock, History};
use super::support::load::{INDEX, Shared, Worker, read_everything};

/// The hosts of the clients that ask and write.
const CLIENTS: [&str; 3] = ["client 1", "client 2", "client 3"];

/// The host from which ranges are moved.
const OPERATOR: &str = "operator";

const KEYS: usize = 16;

/// By then everything is over, however bad it was. Of simulated time.
const LONGEST: Duration = Duration::from_secs(900);

/// The deadline of calls: longer than all faults last.
const DEADLINE: Duration = Duration::from_secs(240);

/// Once nothing goes wrong any more, moves come to their end within so long.
const SETTLING_TIME: Duration = Duration::from_secs(60);

/// How long the simulated time is that the hosts run at a time.
const TICK: Duration = Duration::from_millis(10);

/// What came of a simulation.
pub(crate) struct Outcome {
    pub(crate) history: History,
    /// What the operator did and was told.
    pub(crate) log: Vec<String>,
    /// The map at the end.
    pub(crate) map: RangeMap,
    pub(crate) elapsed: Duration,
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
    /// Moves that were completed.
    pub(crate) moved: u64,
}

/// Simulates a cluster, whose disks may lie about what is synced.
///
/// # Errors
/// What went wrong: a client that was told of an error, a node that failed, or no end.
pub(crate) fn simulate(seed: u64, disks_lie: bool) -> Result<Outcome, String> {
    let data = tempfile::tempdir().map_err(|error| error.to_string())?;
    // For the pauses of clients; after the directory, whose name is drawn as often as one is taken.
    fastrand::seed(seed);
    let mut rng = generator(seed, 0);
    let mut sim = Builder::new()
        .rng_seed(rng.next_u64())
        .tick_duration(TICK)
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(rng.random_range(2..60)))
        .simulation_duration(LONGEST)
        .tcp_capacity(1 << 16)
        .enable_random_order()
        .build();
    let (disks, time) = (<[Disk; 3]>::default(), Time::default());
    add_bootstrap(&mut sim, data.path());
    for (shard, disk) in SHARDS.into_iter().zip(&disks) {
        add_shard(&mut sim, shard, disk, &time);
    }

    let clock = Clock::new(|| turmoil::sim_elapsed().unwrap_or_default());
    let shared = Shared::new(KEYS, CLIENTS.len(), clock);
    let history = Left::<History>::default();
    let (finished, is_ready) = (Rc::new(RefCell::new(0)), Rc::new(RefCell::new(false)));
    for (id, host) in CLIENTS.into_iter().enumerate() {
        let (shared, history, seed) = (shared.clone(), history.clone(), rng.next_u64());
        let (finished, is_ready) = (finished.clone(), is_ready.clone());
        sim.client(host, async move {
            let client = connect(DEADLINE).await?;
            while !*is_ready.borrow() {
                tokio::time::sleep(TICK).await;
            }
            let worker = Worker::new(client, id, seed, shared);
            let recorder = worker.run(u64::MAX).await;
            history.borrow_mut().extend(recorder.into_operations());
            *finished.borrow_mut() += 1;
            Ok(())
        });
    }
    let log = Left::<Vec<String>>::default();
    let map = Left::<Option<RangeMap>>::default();
    let quiet = Rc::new(RefCell::new(false));
    {
        let (log, map, quiet, rng) = (log.clone(), map.clone(), quiet.clone(), generator(seed, 1));
        let (shared, history) = (shared.clone(), history.clone());
        sim.client(OPERATOR, async move {
            let client = connect(DEADLINE).await?;
            create_index(&client).await?;
            *is_ready.borrow_mut() = true;
            let mut operator = Operator { client, rng, log };
            while !*quiet.borrow() {
                operator.step().await?;
            }
            operator.settle().await?;
            shared.stop();
            while *finished.borrow() < CLIENTS.len() {
                tokio::time::sleep(TICK).await;
            }
            let last = read_everything(&operator.client, &shared).await;
            history.borrow_mut().extend(last);
            *map.borrow_mut() = Some(operator.check().await?);
            Ok(())
        });
    }

    let hosts =
        [BOOTSTRAP, SHARDS[0], SHARDS[1], SHARDS[2], CLIENTS[0], CLIENTS[1], CLIENTS[2], OPERATOR];
    let end = Duration::from_millis(rng.random_range(1_000..4_000));
    let mut faults = Faults::draw(generator(seed, 2), &hosts, end, disks_lie);
    let drawn = faults.to_string();
    let ran = run(&mut sim, &mut faults, &disks, &time, end, &quiet);
    let log = log.take();
    ran.map_err(|error| format!("{error}\nfaults:\n{drawn}operator:\n{}", log.join("\n")))?;
    let moved = log.iter().filter(|line| line.contains("is done")).count() as u64;
    Ok(Outcome {
        history: history.take(),
        log,
        map: map.take().ok_or("the operator did not come to its end")?,
        elapsed: sim.elapsed(),
        crashes: faults.crashes,
        cuts: faults.cuts,
        moved,
    })
}

/// Steps until all clients have come to their end.
fn run(
    sim: &mut Sim<'_>,
    faults: &mut Faults,
    disks: &[Disk; 3],
    time: &Time,
    end: Duration,
    quiet: &RefCell<bool>,
) -> Result<(), String> {
    loop {
        time.set(sim.since_epoch());
        faults.pass(sim, disks);
        if sim.elapsed() >= end && faults.are_over() {
            *quiet.borrow_mut() = true;
        }
        let is_over = sim.step().map_err(|error| format!("at {:?}: {error}", sim.elapsed()))?;
        if is_over {
            return Ok(());
        }
    }
}

/// Creates the index of the load, though it may be unknown for a while whether it is.
async fn create_index(client: &Client) -> turmoil::Result {
    loop {
        match client.create_index(INDEX).await {
            Ok(_) | Err(Error::Refused { error: WireError::IndexExists { .. }, .. }) => {
                return Ok(());
            }
            Err(Error::OutcomeUnknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Moves ranges about.
struct Operator {
    client: Client,
    rng: StdRng,
    log: Left<Vec<String>>,
}

impl Operator {
    fn note(&self, what: impl fmt::Display) {
        let at = turmoil::sim_elapsed().unwrap_or_default();
        self.log.borrow_mut().push(format!("{at:?}: {what}"));
    }

    /// Does something with the ranges, and lets it go on for a while.
    async fn step(&mut self) -> turmoil::Result {
        let action = self.draw().await?;
        let planned = self.client.plan(vec![action.clone()]).await;
        let applied = match planned {
            Ok(plan) => {
                let rate = self.rng.random_bool(0.2).then(|| self.rng.random_range(1_000..100_000));
                self.client.apply(plan, rate).await
            }
            Err(error) => Err(error),
        };
        self.note(match &applied {
            Ok(()) => format!("{action:?} is begun"),
            Err(error) => format!("{action:?}: {error}"),
        });
        let until =
            tokio::time::Instant::now() + Duration::from_millis(self.rng.random_range(50..4_000));
        let mut is_over = false;
        while !is_over && tokio::time::Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(20..400))).await;
            is_over = self.client.moves().await?.moves.is_empty();
        }
        if is_over && applied.is_ok() {
            self.note("it is done");
        }
        match self.rng.random_range(0..10) {
            0..3 => {
                self.client.cancel_moves().await?;
                self.note("cancelled");
            }
            3 => {
                let paused = self.rng.random();
                self.client.pause_moves(paused).await?;
                self.note(format!("paused: {paused}"));
            }
            _ => {}
        }
        Ok(())
    }

    async fn draw(&mut self) -> turmoil::Result<Action> {
        let map = self.client.map().await?;
        let shards: Vec<_> = map.shards.iter().map(|shard| shard.name.clone()).collect();
        let absent = SHARDS.iter().find(|name| !shards.iter().any(|shard| shard == *name));
        let rng = &mut self.rng;
        let any = |rng: &mut StdRng| shards.choose(rng).cloned().unwrap_or_default();
        Ok(match (rng.random_range(0..6), absent) {
            (0..3, Some(name)) => Action::Add {
                shard: ShardInfo {
                    name: (*name).to_owned(),
                    host: (*name).to_owned(),
                    port: PORT,
                    size: 1 << 30,
                    policy: Policy::Reject,
                },
            },
            (0, _) => Action::Remove { shard: any(rng) },
            (1, _) => Action::Split { shard: any(rng), at: None },
            (2, _) => Action::Merge { into: any(rng), from: any(rng) },
            (3, _) => Action::Rebalance,
            _ => {
                let start = rng.random_range(0..RING_SIZE - 1);
                let end = rng.random_range(start + 1..=RING_SIZE);
                Action::Move { range: Range { start, end }, to: any(rng) }
            }
        })
    }

    /// Waits until nothing moves any more; what cannot go on is cancelled.
    async fn settle(&mut self) -> turmoil::Result {
        self.client.pause_moves(false).await?;
        let until = tokio::time::Instant::now() + SETTLING_TIME;
        loop {
            let moves = self.client.moves().await?.moves;
            if moves.is_empty() {
                self.note("settled");
                return Ok(());
            }
            if moves.iter().any(|one| one.step == MoveStep::Failed) {
                return Err(format!("a move has failed: {moves:?}").into());
            }
            if tokio::time::Instant::now() > until {
                return Err(format!("the moves do not come to an end: {moves:?}").into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Checks that each shard owns what the map says, and has nothing on its way; returns the map.
    async fn check(&mut self) -> turmoil::Result<RangeMap> {
        let until = tokio::time::Instant::now() + SETTLING_TIME;
        loop {
            let map = self.client.map().await?;
            let mut is_settled = true;
            for view in self.client.stat().await {
                let stat = view.stat?;
                let of_map = map.ranges.iter().filter(|range| range.shard == stat.name);
                let of_map: Vec<_> =
                    of_map.map(|range| Range { start: range.start, end: range.end }).collect();
                is_settled &= stat.ranges == of_map && stat.incoming.is_none();
            }
            if is_settled {
                return Ok(map);
            }
            if tokio::time::Instant::now() > until {
                return Err("the shards do not come to own what the map says".into());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
