//! `sherd cluster`: which shards there are, and which owns what.

mod actions;
mod progress;
mod show;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use sherd_client::Client;
use sherd_protocol::{Plan, RangeMap};

use crate::error::Error;
use crate::output::{Output, json, say};
use crate::units::parse_size;

use self::actions::Actions;
use super::Context;

/// Plan and carry out which shard owns what, while all serve
#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    Plan(PlanOnly),
    Apply(Apply),
    Status(Status),
    /// End the moves: what is not handed over yet stays where it is
    Cancel,
    /// Stop the moves; `resume` lets them go on
    Pause,
    /// Let moves go on that were stopped
    Resume,
}

/// Print what would move, and change nothing
///
/// ACTION is one of these, and there may be several, each on what the one before leaves:
///
///   add NAME HOST:PORT  a `sherd shard` that waits for its first assignment
///   remove NAME         gives all that it has to the others, and leaves
///   split NAME          its upper half, or what lies from --at on, goes to another shard
///   merge A B           A gets all that B has
///   move START END TO   the range, its ends as fractions of the ring, goes to the shard TO
///   rebalance           each gets its share by its size
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct PlanOnly {
    #[command(flatten)]
    actions: Actions,
    /// Write the plan to a file, for `sherd cluster apply`
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// Carry out a plan from a file, or plan ACTION… and carry that out at once
///
/// `sherd help cluster plan` lists the actions. The moves go on by themselves, whoever is restarted;
/// interrupting this command does not end them.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    actions: Actions,
    /// How many bytes a second may move, such as 20MiB [as many as can]
    #[arg(long, value_name = "BYTES", value_parser = parse_size)]
    rate: Option<u64>,
    /// Do not wait for the moves
    #[arg(long)]
    detach: bool,
}

/// Print how far the moves are
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Go on until they are done
    #[arg(long)]
    watch: bool,
}

impl Cluster {
    /// Runs the subcommand.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        match self {
            Self::Plan(plan) => plan.run(context, &client).await,
            Self::Apply(apply) => apply.run(context, &client).await,
            Self::Status(Status { watch: true }) => progress::follow(&client).await,
            Self::Status(Status { watch: false }) => {
                let moves = client.moves().await?;
                let mut output = Output::new();
                if context.json {
                    output.json(&moves)?;
                } else {
                    show::moves(&mut output, &moves)?;
                }
                output.flush()
            }
            Self::Cancel => Ok(client.cancel_moves().await?),
            Self::Pause => Ok(client.pause_moves(true).await?),
            Self::Resume => Ok(client.pause_moves(false).await?),
        }
    }
}

impl PlanOnly {
    async fn run(self, context: &Context, client: &Client) -> Result<(), Error> {
        let plan = client.plan(self.actions.parse(&client.known_map())?).await?;
        if let Some(path) = &self.output {
            let text = json(&plan)? + "\n";
            fs::write(path, text).map_err(|error| {
                Error::Failed(format!("cannot write the plan to {}: {error}", path.display()))
            })?;
        }
        let mut output = Output::new();
        if context.json {
            output.json(&plan)?;
        } else {
            show::plan(&mut output, &plan)?;
        }
        output.flush()
    }
}

/// How long bootstrap may take to begin with a plan.
const APPLY_TIME: Duration = Duration::from_secs(30);

impl Apply {
    async fn run(self, context: &Context, client: &Client) -> Result<(), Error> {
        let plan = match self.actions.file() {
            Some(path) => read_plan(path)?,
            None => client.plan(self.actions.parse(&client.known_map())?).await?,
        };
        let after = plan.after.clone();
        let count = plan.moves.len();
        client.with_deadline(APPLY_TIME).apply(plan, self.rate).await?;
        if self.detach {
            say!("{count} moves; `sherd cluster status` says how far they are");
            return Ok(());
        }
        progress::follow(client).await?;
        let map: RangeMap = client.map().await?;
        if map.ranges != after {
            return Err(Error::Failed(
                "the moves were cancelled; `sherd map` says who owns what".to_owned(),
            ));
        }
        let mut output = Output::new();
        if context.json {
            output.json(&client.moves().await?)?;
        } else {
            output.line(format_args!("done: {count} moves, epoch {}", map.epoch))?;
        }
        output.flush()
    }
}

fn read_plan(path: &Path) -> Result<Plan, Error> {
    let failed = |what: String| Error::Failed(format!("{}: {what}", path.display()));
    let text = fs::read_to_string(path).map_err(|error| {
        failed(format!("{error} (one word is the file of a plan, or rebalance)"))
    })?;
    serde_json::from_str(&text)
        .map_err(|error| failed(format!("it is no plan of `sherd cluster plan -o`: {error}")))
}
