//! Documents on their way out of a cluster, into a file or to standard output, in ring order.
//!
//! The range is cut where the map has it cut, and the parts are read at the same time, each into a file of
//! its own; in the end they are put together under the name that was asked for. Until then there is no
//! file of that name, or the one of before: a file is a whole export.
//!
//! * `part`: one part, from the shards into its file;
//! * `block`: rows, gathered, compressed and written;
//! * `checkpoint`: how far the parts are, durably, for an export that goes on after a crash;
//! * `sidecar`: what is said of a whole one.

mod block;
mod checkpoint;
mod file;
mod part;
mod sidecar;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sherd_client::Client;
use sherd_protocol::{Range, WireError};
use tokio::runtime::Handle;

use crate::error::Error;
use crate::formats::{Compression, Format, Shape, Writer};
use crate::progress::{Done, Watch, rate};
use crate::units::show_count;

pub(crate) use self::checkpoint::OfAll;
pub(crate) use self::file::to_file;
pub(crate) use self::sidecar::Sidecar;

use self::block::Target;
use self::part::{Part, Place, wrong_columns};

/// How many parts are read at a time at most, unless it is said: each takes a few megabytes, and some
/// hundred where documents are of the largest.
pub(crate) const DEFAULT_JOBS: usize = 4;

/// How often progress is looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// What is exported, and how.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// The index, and its id: one of the same name that was created anew is another one.
    pub(crate) index: String,
    pub(crate) id: u32,
    pub(crate) format: Format,
    pub(crate) compression: Compression,
    /// The columns of a table, where it is not to hold whole documents.
    pub(crate) columns: Option<Vec<String>>,
    /// Documents are written as if they never expired.
    pub(crate) without_expiry: bool,
    /// Only keys that begin so.
    pub(crate) prefix: Option<String>,
    pub(crate) range: Range,
    pub(crate) jobs: usize,
}

impl Wanted {
    /// The id that an index has now.
    ///
    /// # Errors
    /// When there is no such index.
    pub(crate) async fn id_of(client: &Client, index: &str) -> Result<u32, Error> {
        let indexes = client.indexes().await?;
        match indexes.iter().find(|known| known.name == index) {
            Some(known) => Ok(known.id),
            None => {
                let index = index.to_owned();
                Err(Error::DoesNotHold(WireError::IndexNotFound { index }.to_string()))
            }
        }
    }

    /// Makes sure that there is such a table, before anything is made for it.
    ///
    /// # Errors
    /// When its columns cannot be read as what they are.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let begun = Writer::new(self.format, self.shape()).begin(&mut Vec::new());
        begun.map_err(|fault| wrong_columns(&fault))
    }

    /// How documents become rows of a table.
    fn shape(&self) -> Shape {
        self.columns.clone().map_or(Shape::Record, Shape::Columns)
    }

    /// When a document expires in the file, that does so at a time.
    fn expires_at(&self, expires_at: u64) -> u64 {
        if self.without_expiry { 0 } else { expires_at }
    }
}

/// What the parts of an export share.
struct Export {
    client: Client,
    wanted: Wanted,
    /// In ring order.
    parts: Vec<Part>,
    /// There is no use in going on.
    stop: AtomicBool,
    runtime: Handle,
}

impl Export {
    fn new(client: &Client, wanted: &Wanted, parts: Vec<Part>) -> Arc<Self> {
        Arc::new(Self {
            client: client.clone(),
            wanted: wanted.clone(),
            parts,
            stop: AtomicBool::new(false),
            runtime: Handle::current(),
        })
    }

    /// Makes sure that all of it is of one index: what is asked for by its name may be another one by now.
    async fn check_index(&self) -> Result<(), Error> {
        let Wanted { index, id, .. } = &self.wanted;
        if Wanted::id_of(&self.client, index).await? == *id {
            return Ok(());
        }
        Err(Error::Failed(format!(
            "the index {index:?} was dropped and created again while it was exported; export it anew"
        )))
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// What is done of all parts.
    fn done(&self) -> Done {
        let mut done = Done::default();
        let mut seen = 0.0;
        for part in &self.parts {
            let place = part.place();
            done.documents += place.documents;
            done.bytes += place.bytes;
            seen += f64::from(part.seen_to().saturating_sub(part.range.start));
        }
        done.fraction = Some(seen / f64::from(self.wanted.range.width().max(1)));
        done
    }

    /// Whether it is whole and compressed, and there is nothing that a reader would take for that.
    fn lacks_a_block(&self) -> bool {
        self.wanted.compression != Compression::Plain && self.total().bytes == 0
    }

    /// What all parts come to.
    fn total(&self) -> Place {
        let places = self.parts.iter().map(Part::place);
        places.fold(Place::default(), |total, place| total.with(&place))
    }

    /// Shows how far it is until `work` is done.
    async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        let mut progress = Watch::new(format!("export of {}", self.wanted.index), self.done());
        tokio::pin!(work);
        loop {
            match tokio::time::timeout(WATCH_INTERVAL, &mut work).await {
                Ok(result) => {
                    progress.end();
                    return result;
                }
                Err(_) => progress.show(self.done()),
            }
        }
    }
}

/// Exports to standard output.
///
/// # Errors
/// [`Error::OutputClosed`] when nobody reads on.
pub(crate) async fn to_stdout(client: &Client, wanted: &Wanted) -> Result<Sidecar, Error> {
    let export = Export::new(client, wanted, vec![Part::new(wanted.range, true)]);
    let work = Arc::clone(&export);
    let reading = tokio::task::spawn_blocking(move || {
        let part = &work.parts[0];
        part.run(&work, Target::Stdout(io::stdout()))?;
        if work.lacks_a_block() {
            part.end_empty(&work.wanted, Target::Stdout(io::stdout()))?;
        }
        Ok(())
    });
    export.watch(joined(reading)).await?;
    export.check_index().await?;
    Ok(Sidecar::new(&export))
}

/// The result of work in a thread of its own.
async fn joined<T>(work: tokio::task::JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    work.await.map_err(|error| Error::Failed(format!("the export failed: {error}")))?
}

/// What was exported, for people.
pub(crate) fn summary(sidecar: &Sidecar, path: Option<&Path>, begun: Instant) -> String {
    let to = path.map_or_else(String::new, |path| format!(" to {}", path.display()));
    let Sidecar { documents, index, digest, .. } = sidecar;
    let rate = rate(*documents, begun.elapsed());
    let documents = show_count(*documents, "document");
    format!("{documents} of {index:?} exported{to}{rate}, digest {digest}")
}
