//! What the load tool prints.

use std::fmt;

use serde_json::{Value, json};

use crate::arguments::{Arguments, Operation, Target};
use crate::generator::Measured;
use crate::median::median;

/// The figures of a round.
pub(crate) struct Round {
    name: &'static str,
    arguments: Arguments,
    operations: u64,
    seconds: f64,
    /// Microseconds within which that part of the operations was answered.
    p50: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Round {
    pub(crate) fn new(name: &'static str, arguments: &Arguments, measured: &Measured) -> Self {
        let latencies = &measured.latencies;
        Self {
            name,
            arguments: arguments.clone(),
            operations: latencies.len(),
            seconds: measured.time.as_secs_f64(),
            p50: latencies.value_at_quantile(0.5),
            p99: latencies.value_at_quantile(0.99),
            p999: latencies.value_at_quantile(0.999),
            max: latencies.max(),
        }
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.operations as f64 / self.seconds
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "target": self.name,
            "operation": operation_name(self.arguments.operation),
            "connections": self.arguments.connections,
            "pipeline": self.arguments.pipeline,
            "documents": self.arguments.documents,
            "size": self.arguments.size,
            "seconds": self.seconds,
            "operations": self.operations,
            "per_second": self.per_second(),
            "p50_us": self.p50,
            "p99_us": self.p99,
            "p99_9_us": self.p999,
            "max_us": self.max,
        })
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |microseconds: u64| microseconds as f64 / 1000.0;
        write!(
            f,
            "{:5} {:5} {:3} x {:2} of {} B: {:8.0}/s, p50 {:.2} ms, p99 {:.2}, p99.9 {:.2}, \
             max {:.1}",
            self.name,
            operation_name(self.arguments.operation),
            self.arguments.connections,
            self.arguments.pipeline,
            self.arguments.size,
            self.per_second(),
            milliseconds(self.p50),
            milliseconds(self.p99),
            milliseconds(self.p999),
            milliseconds(self.max),
        )
    }
}

/// The rounds of both targets.
#[derive(Default)]
pub(crate) struct Comparison {
    pub(crate) sherd: Vec<Round>,
    pub(crate) redis: Vec<Round>,
}

impl Comparison {
    fn medians(&self) -> (f64, f64) {
        let median = |rounds: &[Round]| median(rounds.iter().map(Round::per_second).collect());
        (median(&self.sherd), median(&self.redis))
    }

    pub(crate) fn json(&self) -> Value {
        let (sherd, redis) = self.medians();
        let rounds = self.sherd.iter().chain(&self.redis).map(Round::json);
        json!({
            "rounds": rounds.collect::<Vec<_>>(),
            "sherd_per_second": sherd,
            "redis_per_second": redis,
            "ratio": sherd / redis,
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sherd, redis) = self.medians();
        let ratio = sherd / redis;
        write!(f, "medians: sherd {sherd:.0}/s, redis {redis:.0}/s, sherd / redis = {ratio:.2}")
    }
}

/// The rounds into an empty shard and into a full one, in pairs.
#[derive(Default)]
pub(crate) struct Filled {
    pub(crate) empty: Vec<Round>,
    pub(crate) full: Vec<Round>,
}

impl Filled {
    fn ratio(&self) -> f64 {
        let pairs = self.empty.iter().zip(&self.full);
        median(pairs.map(|(empty, full)| full.per_second() / empty.per_second()).collect())
    }

    pub(crate) fn json(&self) -> Value {
        let rounds = self.empty.iter().chain(&self.full).map(Round::json);
        json!({ "rounds": rounds.collect::<Vec<_>>(), "ratio": self.ratio() })
    }
}

impl fmt::Display for Filled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "full / empty = {:.2}, the median of the pairs", self.ratio())
    }
}

pub(crate) fn target_name(target: Target) -> &'static str {
    match target {
        Target::Sherd => "sherd",
        Target::Redis => "redis",
    }
}

fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Write => "write",
        Operation::Read => "read",
        Operation::Mixed => "mixed",
    }
}
