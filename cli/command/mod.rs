//! The commands, one module each.

mod backup;
mod bootstrap;
mod cat;
mod cluster;
mod copy;
mod digest;
mod documents;
mod evicted;
mod export;
mod has;
mod import;
mod index;
mod keys;
mod map;
mod pop;
mod read;
mod rebuild;
mod remove;
mod restore;
mod shard;
mod stat;
mod touch;
mod up;
mod verify;
mod write;

pub(crate) use verify::print_fault;

use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use clap::Subcommand;
use sherd_client::{Client, ConnectOptions, Options};
use sherd_protocol::{WireError, name};

use crate::error::Error;
use crate::output::say;

/// What all commands share.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The address of the cluster's bootstrap.
    pub(crate) bootstrap: String,
    /// Results are for programs.
    pub(crate) json: bool,
    /// The cluster's shared secret.
    pub(crate) token: Option<String>,
}

impl Context {
    /// Connects to the cluster.
    ///
    /// # Errors
    /// When bootstrap cannot be reached or refuses.
    pub(crate) async fn connect(&self) -> Result<Client, Error> {
        let connect = ConnectOptions { token: self.token.clone(), ..ConnectOptions::default() };
        let options = Options { deadline: CONNECT_PATIENCE, connect, ..Options::default() };
        match Client::connect(&self.bootstrap, options).await {
            Ok(client) => Ok(client.with_deadline(Options::default().deadline)),
            Err(error) => match reason_of_no_connection(&error) {
                Some(reason) => Err(Error::Failed(format!(
                    "no cluster answers at {}: {reason}; start one with `sherd up`, or name its \
                     bootstrap with --bootstrap",
                    self.bootstrap
                ))),
                None => Err(error.into()),
            },
        }
    }
}

/// How long bootstrap may take to answer first. One that `up` starts again is back in less.
const CONNECT_PATIENCE: Duration = Duration::from_secs(4);

/// Why nobody answered, if that is what the error is about.
fn reason_of_no_connection(error: &sherd_client::Error) -> Option<&str> {
    match error {
        sherd_client::Error::Connect { reason, .. } => Some(reason),
        sherd_client::Error::Deadline { last, .. } => reason_of_no_connection(last),
        _ => None,
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Up(up::Up),
    Shard(shard::Shard),
    Bootstrap(bootstrap::Bootstrap),
    #[command(subcommand)]
    Index(index::Index),
    Write(write::Write),
    Read(read::Read),
    Has(has::Has),
    Pop(pop::Pop),
    Remove(remove::Remove),
    Touch(touch::Touch),
    Cat(cat::Cat),
    Keys(keys::Keys),
    Import(import::Import),
    Stat(stat::Stat),
    Digest(digest::Digest),
    Export(export::Export),
    Copy(copy::CopyIndex),
    Map(map::Map),
    #[command(subcommand)]
    Cluster(cluster::Cluster),
    Backup(backup::Backup),
    Restore(restore::RestoreBackup),
    Verify(verify::Verify),
    Rebuild(rebuild::Rebuild),
}

impl Command {
    /// Nodes say what they do; other commands only what is wrong.
    pub(crate) fn default_log_level(&self) -> &'static str {
        match self {
            Self::Shard(shard) if shard.is_node() => "info",
            Self::Bootstrap(_) => "info",
            _ => "warn",
        }
    }

    /// Whether it is work in the background, which holds up nobody.
    pub(crate) fn gives_way(&self) -> bool {
        matches!(self, Self::Backup(backup) if backup.gives_way())
    }

    /// Runs the command.
    ///
    /// # Errors
    /// Why it did not do its work.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        match self {
            Self::Up(up) => up.run(context).await,
            Self::Shard(shard) => shard.run(context).await,
            Self::Bootstrap(bootstrap) => bootstrap.run(context).await,
            Self::Index(index) => index.run(context).await,
            Self::Write(write) => write.run(context).await,
            Self::Read(read) => read.run(context).await,
            Self::Has(has) => has.run(context).await,
            Self::Pop(pop) => pop.run(context).await,
            Self::Remove(remove) => remove.run(context).await,
            Self::Touch(touch) => touch.run(context).await,
            Self::Cat(cat) => cat.run(context).await,
            Self::Keys(keys) => keys.run(context).await,
            Self::Import(import) => import.run(context).await,
            Self::Stat(stat) => stat.run(context).await,
            Self::Digest(digest) => digest.run(context).await,
            Self::Export(export) => export.run(context).await,
            Self::Copy(copy) => copy.run(context).await,
            Self::Map(map) => map.run(context).await,
            Self::Cluster(cluster) => cluster.run(context).await,
            Self::Backup(backup) => backup.run(context).await,
            Self::Restore(restore) => restore.run(context).await,
            Self::Verify(verify) => verify.run(context).await,
            Self::Rebuild(rebuild) => rebuild.run(context).await,
        }
    }
}

/// Parses the name of an index.
fn parse_index(text: &str) -> Result<String, String> {
    name::check_index(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// Parses a key.
fn parse_key(text: &str) -> Result<String, String> {
    name::check_key(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

/// Creates an index unless it exists.
async fn ensure_index(client: &Client, index: &str) -> Result<(), Error> {
    match client.create_index(index).await {
        Err(error) if matches!(error.wire(), Some(WireError::IndexExists { .. })) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

/// The id of an index that must exist: asked beforehand, so that it is said once and not for each row.
async fn expect_index(client: &Client, index: &str) -> Result<u32, Error> {
    let indexes = client.indexes().await?;
    let found = indexes.iter().find(|it| it.name == index).map(|it| it.id);
    let missing =
        || Error::DoesNotHold(format!("index {index:?} does not exist; --force creates it"));
    found.ok_or_else(missing)
}

/// Checks that a directory is a shard's, for the commands that work on one.
fn shard_directory(dir: &Path) -> Result<(), Error> {
    if dir.join("MANIFEST").exists() || dir.join("log").is_dir() {
        return Ok(());
    }
    let dir_shown = dir.display();
    Err(Error::Failed(if dir.join("cluster.json").exists() {
        format!("{dir_shown} is of a whole cluster: name one of its shards, as {dir_shown}/shard0")
    } else {
        format!("{dir_shown} is not the data directory of a shard")
    }))
}

/// What the engine says of a directory that a command works on.
fn shard_error(error: sherd_engine::Error) -> Error {
    match error {
        sherd_engine::Error::InUse { .. } => {
            Error::Failed(format!("{error}; stop its shard first"))
        }
        error => Error::Failed(error.to_string()),
    }
}

/// How long a command may work without a word.
const SILENCE: Duration = Duration::from_secs(2);

/// Does what may take long, and then says what it is waiting for.
pub(crate) async fn saying<T>(work: impl Future<Output = T>, why: &str) -> T {
    let mut work = pin!(work);
    tokio::select! {
        biased;
        done = &mut work => return done,
        () = tokio::time::sleep(SILENCE) => say!("{why}"),
    }
    work.await
}

/// What setting a limit may wait for.
const SETTING: &str = "waiting until every shard has done it: documents may have to be evicted, or a shard is \
                       away (`sherd stat` shows it); if this is interrupted, it may not be done, and what was \
                       evicted is gone: give the same command again";

/// Runs what blocks for long, where it holds nobody up.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let failed = |error| Error::Failed(format!("the command failed: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}
