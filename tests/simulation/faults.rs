//! What goes wrong in a simulation, drawn from its seed.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use turmoil::Sim;

use super::hosts::{BOOTSTRAP, Disk, SHARDS};

/// Something that goes wrong, and until when.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// A process ends, and is started again; of a shard perhaps with its machine.
    Crash { host: &'static str, power: bool },
    /// Nothing gets through between two hosts.
    Partition(Link),
    /// Nothing gets through from the first host to the second.
    OneWay(Link),
    /// All that is sent is kept, and arrives at the end.
    Hold(Link),
    /// What is sent is lost now and then; a connection that misses something stands still.
    Loss(Link, f64),
}

/// Two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link(&'static str, &'static str);

impl Link {
    fn overlaps(self, other: Self) -> bool {
        let Self(one, two) = other;
        self == other || self == Self(two, one)
    }
}

/// The faults of a simulation, and those that there are now.
pub(crate) struct Faults {
    /// By their beginning, the next one last.
    coming: Vec<(Duration, Duration, Fault)>,
    present: Vec<(Duration, Fault)>,
    rng: StdRng,
    /// Disks lose also what was synced.
    disks_lie: bool,
    /// How many there were.
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
}

impl Faults {
    /// Draws faults that are all over at `end`.
    pub(crate) fn draw(
        mut rng: StdRng,
        hosts: &[&'static str],
        end: Duration,
        disks_lie: bool,
    ) -> Self {
        let mut coming = Vec::new();
        for _ in 0..rng.random_range(0..8) {
            let begin = end.mul_f64(rng.random_range(0.05..0.95));
            let longest = if rng.random_bool(0.2) { end } else { end / 8 };
            let until = (begin + longest.mul_f64(rng.random::<f64>())).min(end);
            let nodes = [BOOTSTRAP, SHARDS[0], SHARDS[1], SHARDS[2]];
            let mut of =
                |hosts: &[&'static str]| hosts.choose(&mut rng).copied().unwrap_or(BOOTSTRAP);
            let host = of(&nodes);
            let others: Vec<_> = hosts.iter().copied().filter(|other| *other != host).collect();
            let link = Link(host, of(&others));
            let fault = match rng.random_range(0..10) {
                0..4 => Fault::Crash { host, power: rng.random() },
                4..6 => Fault::Partition(link),
                6 => Fault::OneWay(link),
                7 => Fault::Hold(link),
                _ => Fault::Loss(link, rng.random_range(0.01..0.2)),
            };
            coming.push((begin, until, fault));
        }
        coming.sort_by_key(|(begin, ..)| std::cmp::Reverse(*begin));
        Self { coming, present: Vec::new(), rng, disks_lie, crashes: 0, cuts: 0 }
    }

    /// Begins what is due, and ends what is over.
    pub(crate) fn pass(&mut self, sim: &mut Sim<'_>, disks: &[Disk; 3]) {
        let now = sim.elapsed();
        let (over, present) = self.present.iter().partition(|(until, _)| *until <= now);
        self.present = present;
        let over: Vec<(Duration, Fault)> = over;
        for (_, fault) in over {
            end(sim, fault);
        }
        while let Some(&(begin, until, fault)) = self.coming.last()
            && begin <= now
        {
            self.coming.pop();
            if self.present.iter().any(|(_, other)| collide(*other, fault)) {
                continue;
            }
            match fault {
                Fault::Crash { .. } => self.crashes += 1,
                _ => self.cuts += 1,
            }
            begin_fault(sim, fault, disks, &mut self.rng);
            if self.disks_lie
                && let Fault::Crash { host, power: true } = fault
                && let Some(shard) = SHARDS.iter().position(|shard| *shard == host)
            {
                disks[shard].lose_end_of_log();
            }
            self.present.push((until, fault));
        }
    }

    /// Whether nothing goes wrong any more.
    pub(crate) fn are_over(&self) -> bool {
        self.coming.is_empty() && self.present.is_empty()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (begin, until, fault) in self.coming.iter().rev() {
            writeln!(f, "{begin:?} to {until:?}: {fault:?}")?;
        }
        Ok(())
    }
}

/// Whether the end of one would end the other.
fn collide(one: Fault, other: Fault) -> bool {
    match (link_of(one), link_of(other)) {
        (Some(one), Some(other)) => one.overlaps(other),
        (None, None) => {
            matches!((one, other), (Fault::Crash { host: a, .. }, Fault::Crash { host: b, .. }) if a == b)
        }
        _ => false,
    }
}

fn link_of(fault: Fault) -> Option<Link> {
    match fault {
        Fault::Crash { .. } => None,
        Fault::Partition(link) | Fault::OneWay(link) | Fault::Hold(link) | Fault::Loss(link, _) => {
            Some(link)
        }
    }
}

fn begin_fault(sim: &mut Sim<'_>, fault: Fault, disks: &[Disk; 3], rng: &mut StdRng) {
    match fault {
        Fault::Crash { host, power } => {
            sim.crash(host);
            let shard = SHARDS.iter().position(|shard| *shard == host);
            if let (Some(shard), true) = (shard, power) {
                disks[shard].lose_power(rng);
            }
        }
        Fault::Partition(Link(one, two)) => sim.partition(one, two),
        Fault::OneWay(Link(from, to)) => sim.partition_oneway(from, to),
        Fault::Hold(Link(one, two)) => sim.hold(one, two),
        Fault::Loss(Link(one, two), rate) => sim.set_link_fail_rate(one, two, rate),
    }
}

fn end(sim: &mut Sim<'_>, fault: Fault) {
    match fault {
        Fault::Crash { host, .. } => sim.bounce(host),
        Fault::Hold(Link(one, two)) => sim.release(one, two),
        Fault::Partition(Link(one, two)) => sim.repair(one, two),
        Fault::OneWay(Link(from, to)) => sim.repair_oneway(from, to),
        Fault::Loss(Link(one, two), _) => {
            sim.set_link_fail_rate(one, two, 0.0);
            sim.repair(one, two);
        }
    }
}
