//! `sherd cat`: the documents of an index as rows.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use clap::Args;
use sherd_client::{Client, Document, ScanOptions};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::Error;
use crate::formats::{BadRow, Keys};
use crate::output::{Output, say};
use crate::record::{Form, show};

use super::documents::missing;
use super::{Context, parse_index};

/// Documents of `--keys` asked for at a time; with the keys read ahead, all that is in memory.
const READS_UNDER_WAY: usize = 16;
const KEYS_READ_AHEAD: usize = 1000;

/// Pages on their way while one is printed.
const PAGES_AHEAD: usize = 2;

/// Print the documents of an index
///
/// Rows `key|{"hash_": …, "record": …}`, in ring order, as they come from the shards. With --json,
/// objects that hold the key too, safe also for keys with a `|` or a line break in them.
#[derive(Debug, Args)]
pub(crate) struct Cat {
    /// The index
    #[arg(value_name = "INDEX", value_parser = parse_index)]
    index: String,
    /// Only the keys in this file, one a line and in its order; - for standard input. Keys that
    /// are not there are named on standard error, and the exit status is 3
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
}

impl Cat {
    /// Prints the rows.
    pub(crate) async fn run(self, context: &Context) -> Result<(), Error> {
        let client = context.connect().await?;
        let form = Form::of_rows(context);
        match &self.keys {
            None => self.all(&client, form).await,
            Some(path) => self.listed(&client, form, path).await,
        }
    }

    async fn all(&self, client: &Client, form: Form) -> Result<(), Error> {
        let mut output = Output::new();
        let mut scan = client.scan_ahead(&self.index, ScanOptions::default(), PAGES_AHEAD)?;
        while let Some(items) = scan.next_page().await? {
            for item in items {
                show(&mut output, form, &item.key, &item.document)?;
            }
            output.flush()?;
        }
        Ok(())
    }

    /// Prints the documents of the keys in a file. Several are read at a time, and printed in
    /// order.
    async fn listed(&self, client: &Client, form: Form, path: &Path) -> Result<(), Error> {
        let mut output = Output::new();
        let mut keys = read_keys(path)?;
        let mut reads: VecDeque<(String, JoinHandle<_>)> = VecDeque::new();
        let (mut all_there, mut all_keys) = (true, true);
        loop {
            let next = match reads.len() {
                0 => {
                    // Nothing is held back while the next key is waited for.
                    output.flush()?;
                    match keys.recv().await {
                        None => break,
                        next => next,
                    }
                }
                READS_UNDER_WAY.. => None,
                _ => keys.try_recv().ok(),
            };
            match next {
                Some(Ok(Ok(key))) => {
                    let (client, index, wanted) = (client.clone(), self.index.clone(), key.clone());
                    let read = async move { client.read(&index, &wanted).await };
                    reads.push_back((key, tokio::spawn(read)));
                }
                Some(Ok(Err(BadRow { number: line, fault, .. }))) => {
                    say!("{} line {line}: {fault}", name_of(path));
                    all_keys = false;
                }
                Some(Err(error)) => return Err(Error::file("read", &*name_of(path))(error)),
                None => {
                    let Some((key, read)) = reads.pop_front() else { continue };
                    match finished(read).await? {
                        Some(document) => show(&mut output, form, &key, &document)?,
                        None => all_there = missing(&self.index, &key),
                    }
                }
            }
        }
        match (all_keys, all_there) {
            (false, _) => Err(Error::FailedSaid),
            (true, false) => Err(Error::DoesNotHoldSaid),
            (true, true) => Ok(()),
        }
    }
}

/// What the file of keys is called.
fn name_of(path: &Path) -> std::borrow::Cow<'_, str> {
    if path == Path::new("-") { "standard input".into() } else { path.to_string_lossy() }
}

type Found = Result<Option<Document>, sherd_client::Error>;

/// The result of a read under way.
async fn finished(read: JoinHandle<Found>) -> Found {
    match read.await {
        Ok(found) => found,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Reads keys in a thread of their own, until the input ends or nobody wants more. A thread and
/// not a task, for a runtime waits for reads even when nobody needs them any more.
fn read_keys(path: &Path) -> Result<mpsc::Receiver<io::Result<Result<String, BadRow>>>, Error> {
    let input: Box<dyn Read + Send> = match path.to_str() {
        Some("-") => Box::new(io::stdin()),
        _ => Box::new(File::open(path).map_err(Error::file("open", path))?),
    };
    let (sender, keys) = mpsc::channel(KEYS_READ_AHEAD);
    let read = move || {
        let mut keys = Keys::new(BufReader::new(input));
        while let Some(key) = keys.next().transpose() {
            let is_last = key.is_err();
            if sender.blocking_send(key).is_err() || is_last {
                break;
            }
        }
    };
    let thread = std::thread::Builder::new().name("keys".to_owned()).spawn(read);
    thread.map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))?;
    Ok(keys)
}
