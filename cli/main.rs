//! `sherd`: the one binary, for those who run a cluster and those who use one.
//!
//! * `args`, `command`: what can be asked for, one module for each command;
//! * `document`, `record`, `formats`, `units`: how people and programs write and read what Sherd keeps;
//! * `load`: entries on their way into a cluster;
//! * `export`: documents on their way out of one; `copy`: from one index into another;
//! * `backup`: backups, taken, checked and restored;
//! * `node`, `cluster`: the processes, alone and together;
//! * `interrupt`: commands that are asked to end;
//! * `output`, `progress`, `error`: results on standard output, everything else on standard error, and
//!   the exit status.

/// Threads pass documents, keys and frames on to each other, which the allocator of the C library pays for with a
/// tenth of the processor's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod args;
mod backup;
mod cluster;
mod command;
mod copy;
mod document;
mod error;
mod export;
mod file;
mod formats;
#[cfg(test)]
mod fuzzing;
mod interrupt;
mod load;
mod node;
mod output;
mod progress;
mod record;
mod units;

use std::num::NonZero;
use std::process::ExitCode;

use clap::Parser;

use args::Cli;
use error::Error;
use output::say;

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if error.is_unsaid() {
                say!("{error}");
            }
            ExitCode::from(error.exit_status())
        }
    }
}

fn run(cli: Cli) -> Result<(), Error> {
    log_to_stderr(cli.command.default_log_level())?;
    let context = cli.context()?;
    if cli.command.gives_way() {
        give_way();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .enable_all()
        .build()
        .map_err(|error| Error::Failed(format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(cli.command.run(&context));
    // Without waiting for reads that nobody needs any more.
    runtime.shutdown_background();
    result
}

/// Has this process give way to those that answer callers. Threads have the priority of the one that
/// starts them, so it is before there are others.
fn give_way() {
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "it has the priority of all others");
    }
}

/// Of work that nobody waits for.
const NICENESS: i32 = 10;

/// One core is left to the thread that a shard writes on: with as many threads for connections as
/// there are cores, they take turns with it, and every write waits for one of these turns.
fn worker_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    cores.saturating_sub(1).max(1)
}

/// Sends the log to standard error, filtered by `SHERD_LOG`.
fn log_to_stderr(default: &str) -> Result<(), Error> {
    use std::io::IsTerminal;
    use tracing_subscriber::EnvFilter;

    let filter = match std::env::var("SHERD_LOG") {
        Ok(filter) if !filter.is_empty() => EnvFilter::try_new(&filter).map_err(|error| {
            Error::Usage(format!(
                "SHERD_LOG={filter} is no filter ({error}): use a level such as debug, or \
                 target=level pairs"
            ))
        })?,
        _ => EnvFilter::new(default),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // Complaining on a standard error that is closed would panic.
        .log_internal_errors(false)
        .init();
    // What sled panics with is told as an error, by who knows what it means.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !sherd_engine::index::is_guarded() {
            hook(panic);
        }
    }));
    Ok(())
}
