//! `sherd backup`: the whole cluster, as of one moment, into a directory.

mod list;
mod take;
mod verify;

use clap::{Args, Subcommand};

use crate::error::Error;

use super::Context;

/// Back the cluster up into a directory, while it serves
///
/// Takes a cut of every shard between two of its batches: everything that was acknowledged before is in
/// it, and nothing that begins after it. Writes go on. What is in the cut is fetched bit by bit, and
/// read once more as a whole: it must come to what the shards said at the cut, by digest. Only then it
/// is a backup; one that is cut off, by whatever, is none, and the next one removes what it left.
///
/// DIR may hold any number of backups of one cluster. What an earlier one has already is not fetched
/// again, and takes no space twice: the files are hard links. So never change a file in DIR; a backup
/// that is not needed any more is deleted with its directory, whatever others share with it.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Backup {
    #[command(subcommand)]
    command: Option<BackupCommand>,
    #[command(flatten)]
    take: take::Take,
}

#[derive(Debug, Subcommand)]
enum BackupCommand {
    List(list::List),
    Verify(verify::Verify),
}

impl Backup {
    /// Takes, lists or checks backups.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        match self.command {
            None => self.take.run(context).await,
            Some(BackupCommand::List(list)) => list.run(context).await,
            Some(BackupCommand::Verify(verify)) => verify.run(context).await,
        }
    }

    /// Whether others are to be given way: all but who looks at a list.
    pub(crate) fn gives_way(&self) -> bool {
        !matches!(self.command, Some(BackupCommand::List(_)))
    }
}
