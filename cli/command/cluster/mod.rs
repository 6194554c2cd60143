//! `sherd cluster`: which shards there are, and which owns what.

mod actions;
mod file;
mod progress;
mod show;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use sherd_client::{Client, Error as ClientError};
use sherd_protocol::message::MovesStatus;
use sherd_protocol::{BadRequest, Plan, RangeMap, ShardInfo, WireError};

use crate::error::Error;
use crate::output::{Output, say};
use crate::units::{parse_rate, show_count, show_size};

use self::actions::Actions;
use self::file::PlanFile;
use super::Context;

/// Plan and carry out which shard owns what, while all serve
#[derive(Debug, Subcommand)]
pub(crate) enum Cluster {
    Plan(PlanOnly),
    Apply(Apply),
    Status(Status),
    /// End the moves: what is not handed over yet stays where it is, and a shard that was added and owns
    /// nothing yet is taken out again
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
    /// How many bytes a second `apply` is to move: for the time that it takes, and kept in the file
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    rate: Option<u64>,
}

/// Carry out a plan from a file, or plan ACTION… and carry that out at once
///
/// `sherd help cluster plan` lists the actions. The moves go on by themselves, whoever is restarted;
/// interrupting this command does not end them. With --json it prints the plan that was carried out, or,
/// with --detach, the moves that are left.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    actions: Actions,
    /// How many bytes a second may move, such as 20MiB [what the plan says, or as many as can]
    #[arg(long, value_name = "BYTES", value_parser = parse_rate)]
    rate: Option<u64>,
    /// Do not wait for the moves
    #[arg(long)]
    detach: bool,
}

/// Print how far the moves are
///
/// With --json and --watch, a line whenever that changes; the last one has no moves.
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
            Self::Status(Status { watch }) => {
                match (watch, context.json) {
                    (true, true) => return progress::print(&client).await,
                    (true, false) => progress::follow(&client).await?,
                    (false, _) => {}
                }
                print_moves(context, &client.moves().await?, |output, moves| {
                    show::moves(output, moves)
                })
            }
            Self::Cancel => cancel(context, &client).await,
            Self::Pause => pause(context, &client, true).await,
            Self::Resume => pause(context, &client, false).await,
        }
    }
}

/// Prints moves as JSON, or as `show` does.
fn print_moves(
    context: &Context,
    moves: &MovesStatus,
    show: impl FnOnce(&mut Output, &MovesStatus) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut output = Output::new();
    if context.json {
        output.json(moves)?;
    } else {
        show(&mut output, moves)?;
    }
    output.flush()
}

/// Ends the moves, and says what of them goes on.
async fn cancel(context: &Context, client: &Client) -> Result<(), Error> {
    let moves = client.moves().await?;
    if moves.moves.is_empty() {
        return print_moves(context, &moves, show::moves);
    }
    client.cancel_moves().await?;
    print_moves(context, &client.moves().await?, |output, left| {
        output.line("cancelled: what is not handed over stays where it is")?;
        show::handing_over(output, left)
    })
}

/// Stops the moves, or lets them go on, and says what goes on all the same.
async fn pause(context: &Context, client: &Client, paused: bool) -> Result<(), Error> {
    let moves = client.moves().await?;
    if moves.moves.is_empty() {
        return print_moves(context, &moves, show::moves);
    }
    client.pause_moves(paused).await?;
    print_moves(context, &client.moves().await?, |output, left| {
        if paused {
            output.line("paused: `sherd cluster resume` lets the moves go on")?;
            show::handing_over(output, left)
        } else {
            let (count, are) = (left.moves.len(), if left.moves.len() == 1 { "is" } else { "are" });
            output.line(format_args!("resumed: {} {are} left", show_count(count, "move")))
        }
    })
}

/// Why bootstrap does not plan or carry out what was asked for: what is wrong with the actions is wrong
/// usage.
fn refused(error: ClientError) -> Error {
    match error.wire() {
        Some(WireError::BadRequest(BadRequest { place, what })) => match place.as_str() {
            "actions" | "rate" => Error::Usage(what.clone()),
            "plan" => Error::Failed(what.clone()),
            _ => error.into(),
        },
        _ => error.into(),
    }
}

impl PlanOnly {
    async fn run(self, context: &Context, client: &Client) -> Result<(), Error> {
        if self.output.as_deref().is_some_and(|path| path == "-") {
            let why = "- is no file: --json prints the plan to standard output, ./- is a file of that name";
            return Err(Error::Usage(why.to_owned()));
        }
        let mut plan =
            client.plan(self.actions.parse(&client.known_map())?).await.map_err(refused)?;
        // They are of now, and neither part of what is agreed to nor of a file.
        for warning in std::mem::take(&mut plan.warnings) {
            say!("warning: {warning}");
        }
        let file = PlanFile { plan, rate: self.rate };
        if let Some(path) = &self.output {
            file.write(path)?;
        }
        let mut output = Output::new();
        if context.json {
            output.json(&file.plan)?;
        } else {
            show::plan(&mut output, &file.plan, self.rate)?;
        }
        output.flush()?;
        if let Some(path) = &self.output {
            let path = path.display();
            say!("the plan is in {path}: `sherd cluster apply {path}` carries it out");
        }
        Ok(())
    }
}

/// How long bootstrap may take to begin with a plan.
const APPLY_TIME: Duration = Duration::from_secs(30);

impl Apply {
    async fn run(self, context: &Context, client: &Client) -> Result<(), Error> {
        let (plan, rate) = match self.actions.file()? {
            Some(path) => {
                let file = PlanFile::read(path)?;
                (file.plan, self.rate.or(file.rate))
            }
            None => {
                let actions = self.actions.parse(&client.known_map())?;
                (client.plan(actions).await.map_err(refused)?, self.rate)
            }
        };
        let count = plan.moves.len();
        let applied = client.with_deadline(APPLY_TIME).apply(plan.clone(), rate).await;
        applied.map_err(refused)?;
        if plan.is_empty() {
            let mut output = Output::new();
            match (context.json, self.detach) {
                (true, true) => output.json(&client.moves().await?)?,
                (true, false) => output.json(&plan)?,
                (false, _) => output.line("nothing to do")?,
            }
            return output.flush();
        }
        if self.actions.file()?.is_some() && count > 0 {
            say!("{}", said_of_rate(rate));
        }
        if self.detach {
            return print_moves(context, &client.moves().await?, |_, _| {
                let moves = show_count(count, "move");
                say!("begun: {moves}; `sherd cluster status` says how far it is");
                Ok(())
            });
        }
        tokio::select! {
            followed = progress::follow(client) => followed?,
            interrupted = tokio::signal::ctrl_c() => {
                let failed = |error| Error::Failed(format!("cannot catch signals: {error}"));
                interrupted.map_err(failed)?;
                return Err(Error::Interrupted(
                    "interrupted; the moves go on: `sherd cluster status --watch` follows them, `sherd \
                     cluster cancel` ends them"
                        .to_owned(),
                ));
            }
        }
        let map: RangeMap = client.map().await?;
        if !is_carried_out(&plan, &map) {
            return Err(Error::Failed(
                "the plan was cancelled before all of it was done; `sherd map` says who owns what, \
                 `sherd cluster plan` what is left to do"
                    .to_owned(),
            ));
        }
        let mut output = Output::new();
        if context.json {
            output.json(&plan)?;
        } else {
            let moves = show_count(count, "move");
            output.line(format_args!("done: {moves}, epoch {}", map.epoch))?;
        }
        output.flush()
    }
}

/// Whether a map is the one that a plan leads to, with the shards that it leads to.
fn is_carried_out(plan: &Plan, map: &RangeMap) -> bool {
    let names = |shards: &[ShardInfo]| {
        shards.iter().map(|shard| shard.name.clone()).collect::<BTreeSet<_>>()
    };
    map.ranges == plan.after && names(&map.shards) == names(&plan.shards_after)
}

/// How fast a plan from a file is carried out.
fn said_of_rate(rate: Option<u64>) -> String {
    match rate {
        Some(rate) => format!("at most {} move a second", show_size(rate)),
        None => "as many bytes a second move as can; --rate bounds them".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use sherd_protocol::{Action, HashMethod, OwnedRange, Policy, RING_SIZE};

    use super::*;

    #[test]
    fn a_plan_whose_shard_did_not_leave_is_not_carried_out() {
        let shard = |name: &str| ShardInfo {
            name: name.to_owned(),
            host: "h".to_owned(),
            port: 1,
            size: 1,
            policy: Policy::Reject,
        };
        let after = vec![OwnedRange { start: 0, end: RING_SIZE, shard: "b".to_owned() }];
        let mut map = RangeMap {
            cluster: "c".to_owned(),
            epoch: 1,
            hash_method: HashMethod::Md5,
            shards: vec![shard("a"), shard("b")],
            ranges: after.clone(),
        };
        let plan = Plan {
            cluster: map.cluster.clone(),
            epoch: 1,
            actions: vec![Action::Remove { shard: "a".to_owned() }],
            moves: Vec::new(),
            before: Vec::new(),
            after,
            shards_after: vec![shard("b")],
            bytes: Vec::new(),
            warnings: Vec::new(),
        };
        // It was cancelled while the last of its ranges was handed over.
        assert!(!is_carried_out(&plan, &map));
        map.shards.remove(0);
        assert!(is_carried_out(&plan, &map));
        map.ranges[0].shard = "a".to_owned();
        assert!(!is_carried_out(&plan, &map));
    }
}
