//! Batches of entries, read ahead of those that are sent.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::{Condvar, Mutex};
use serde::{Deserialize, Serialize};
use sherd_engine::content_hash;
use sherd_protocol::Digest;
use tokio::sync::mpsc;

use crate::error::Error;
use crate::formats::{self, BadRow, Entry, Format, Place, ReadError, ReadOptions, Reader, Source};

/// A batch is sent at this many rows or bytes: enough that a round trip costs little beside the
/// work in it. It may be over by one row.
const BATCH_ROWS: usize = 4000;
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// Batches that wait to be sent.
const BATCHES_READ_AHEAD: usize = 2;

/// The bytes of batches that are read and not answered, unless a single one has more: large rows are read
/// one by one. More than [`super::BYTES_UNDER_WAY`] and the batches ahead, where rows are small.
pub(super) const BYTES_HELD: usize = 24 * BATCH_BYTES;

/// What an entry takes in memory beside its key, its document and its row, about.
const ENTRY_OVERHEAD_BYTES: usize = 128;

/// Entries to be sent together, all of one input.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) entries: Vec<Entry>,
    /// Rows among them that are none.
    pub(crate) bad: Vec<BadRow>,
    /// What it takes in memory, about.
    pub(crate) bytes: usize,
    /// Where it ends.
    pub(crate) end: Point,
    /// A window ends with it.
    pub(crate) ends_window: bool,
    /// The input ends with it.
    pub(crate) ends_input: bool,
    /// Why nothing comes after it, if that is not the end of the inputs.
    pub(crate) error: Option<ReadError>,
    /// Its place in memory; without it, another one takes that.
    pub(super) held: Option<Held>,
}

/// How many bytes of batches are held, and who waits for fewer.
#[derive(Debug, Default)]
struct Room {
    held: Mutex<usize>,
    is_freed: Condvar,
}

/// The place of a batch in memory.
#[derive(Debug)]
pub(super) struct Held {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    /// Waits until so many bytes may be held. Blocks.
    fn take(self: &Arc<Self>, bytes: usize) -> Held {
        let mut held = self.held.lock();
        self.is_freed.wait_while(&mut held, |held| *held > 0 && *held + bytes > BYTES_HELD);
        *held += bytes;
        Held { room: Arc::clone(self), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        *self.room.held.lock() -= self.bytes;
        self.room.is_freed.notify_one();
    }
}

/// A place in a list of inputs, and what came before it in its input.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Which of the inputs, from 0.
    pub(crate) input: usize,
    pub(crate) place: Place,
    /// Of the bytes before it in its input, uncompressed. Earlier versions did not note it.
    #[serde(default)]
    pub(crate) crc32: Option<u32>,
    /// What the entries before it in the input come to, where that is to be known.
    pub(crate) documents: u64,
    pub(crate) digest: Digest,
}

/// How much is read between two checkpoints. A window ends behind the row with which one of the two
/// is reached, so that it ends in the same place whenever it begins in the same place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Window {
    pub(crate) rows: u64,
    /// Of the input, uncompressed.
    pub(crate) bytes: u64,
}

/// What is to be read.
#[derive(Clone, Debug)]
pub(crate) struct Input {
    pub(crate) source: Source,
    pub(crate) format: Format,
    /// The index of whose documents a digest is made.
    pub(crate) digest_of: Option<String>,
}

/// Reads inputs, one after the other, in a thread of its own, until they end or nobody wants more. A
/// thread and not a task, for a runtime waits for reads even when nobody needs them any more.
///
/// # Errors
/// When there cannot be a thread.
pub(crate) fn read_batches(
    inputs: Vec<Input>,
    options: ReadOptions,
    from: Point,
    window: Option<Window>,
    read: Arc<AtomicU64>,
) -> Result<mpsc::Receiver<Batch>, Error> {
    let (sender, batches) = mpsc::channel(BATCHES_READ_AHEAD);
    let mut batcher = Batcher::new(sender, from, window);
    let read = move || {
        for input in inputs.into_iter().skip(from.input) {
            let Point { place, crc32, .. } = batcher.at;
            let opened = formats::open(&input.source, Arc::clone(&read)).map_err(ReadError::from);
            let reader = opened
                .and_then(|it| Reader::new(it, input.format, &options, place))
                .and_then(|reader| known_again(reader, place, crc32));
            let goes_on = match reader {
                Ok(reader) => batcher.send_all(reader, &input),
                Err(error) => batcher.send(Batch { error: Some(error), ..Batch::default() }),
            };
            if !goes_on {
                break;
            }
        }
    };
    let thread = std::thread::Builder::new().name("rows".to_owned()).spawn(read);
    thread.map_err(|error| Error::Failed(format!("cannot start a thread: {error}")))?;
    Ok(batches)
}

/// A reader that has gone to `place`, if what it went over are the bytes of before.
fn known_again<R: Read>(
    mut reader: Reader<R>,
    place: Place,
    crc32: Option<u32>,
) -> Result<Reader<R>, ReadError> {
    let is_same = place.offset == 0 || crc32.is_none_or(|crc32| reader.crc32() == crc32);
    if is_same {
        return Ok(reader);
    }
    let Place { offset, row } = place;
    Err(ReadError::Format(format!(
        "its first {offset} bytes, up to the end of line {row}, are not those that were imported \
         before; give it the same bytes again"
    )))
}

/// Cuts what is read into batches.
struct Batcher {
    sender: mpsc::Sender<Batch>,
    room: Arc<Room>,
    at: Point,
    window: Option<Window>,
    /// What of the window has been read.
    of_window: Window,
    scratch: Vec<u8>,
}

impl Batcher {
    fn new(sender: mpsc::Sender<Batch>, at: Point, window: Option<Window>) -> Self {
        let of_window = Window { rows: 0, bytes: 0 };
        let (room, scratch) = (Arc::default(), Vec::new());
        Self { sender, room, at, window, of_window, scratch }
    }

    /// Sends all of an input; `false` when nothing is to follow.
    fn send_all(&mut self, mut reader: Reader<impl Read>, input: &Input) -> bool {
        // What comes from a person or a program is not held back until more comes.
        let is_eager = input.source == Source::Stdin;
        loop {
            let begun = self.at.place;
            let mut batch = self.read_batch(&mut reader, input, is_eager);
            if batch.error.is_none() {
                self.at.crc32 = Some(reader.crc32());
            } else if self.at.place != begun {
                // Not known: the reader has gone beyond the last row.
                self.at.crc32 = None;
            }
            let is_last = batch.ends_input || batch.error.is_some();
            batch.end = self.at;
            if batch.ends_input {
                self.at = Point { input: self.at.input + 1, ..Point::default() };
            }
            let goes_on = self.send(batch);
            if !goes_on || is_last {
                return goes_on;
            }
        }
    }

    /// `false` when nothing is to follow.
    fn send(&mut self, mut batch: Batch) -> bool {
        let is_last = batch.error.is_some();
        if is_last {
            batch.end = self.at;
        }
        batch.held = Some(self.room.take(batch.bytes));
        self.sender.blocking_send(batch).is_ok() && !is_last
    }

    /// Reads a batch. It ends early rather than wait for more input.
    fn read_batch(
        &mut self,
        reader: &mut Reader<impl Read>,
        input: &Input,
        is_eager: bool,
    ) -> Batch {
        let mut batch = Batch::default();
        loop {
            match reader.next() {
                Ok(Some(Ok(entry))) => {
                    if let Some(index) = &input.digest_of {
                        self.sum_up(index, &entry);
                    }
                    let Entry { key, document, row, .. } = &entry;
                    batch.bytes += ENTRY_OVERHEAD_BYTES + key.len() + document.len() + row.len();
                    batch.entries.push(entry);
                }
                Ok(Some(Err(bad))) => {
                    batch.bytes += ENTRY_OVERHEAD_BYTES + bad.row.len();
                    batch.bad.push(bad);
                }
                Ok(None) => batch.ends_input = true,
                Err(error) => batch.error = Some(error),
            }
            if !batch.ends_input && batch.error.is_none() {
                batch.ends_window = self.moves_to(reader.place());
            }
            let count = batch.entries.len() + batch.bad.len();
            if count >= BATCH_ROWS
                || batch.bytes >= BATCH_BYTES
                || batch.ends_window
                || batch.ends_input
                || batch.error.is_some()
                || (is_eager && !reader.has_more_at_hand())
            {
                return batch;
            }
        }
    }

    fn sum_up(&mut self, index: &str, entry: &Entry) {
        let Entry { key, document, expires_at, .. } = entry;
        let expires_at = expires_at.unwrap_or(0);
        let hash = content_hash(&mut self.scratch, index, key.as_bytes(), expires_at, document);
        self.at.documents += 1;
        self.at.digest = [self.at.digest, Digest(hash)].into_iter().sum();
    }

    /// Takes note of where a row ends; whether a window does.
    fn moves_to(&mut self, place: Place) -> bool {
        let before = std::mem::replace(&mut self.at.place, place);
        self.of_window.rows += place.row - before.row;
        self.of_window.bytes += place.offset - before.offset;
        let is_end = self.window.is_some_and(|window| {
            self.of_window.rows >= window.rows || self.of_window.bytes >= window.bytes
        });
        if is_end {
            self.of_window = Window { rows: 0, bytes: 0 };
        }
        is_end
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, BufReader};

    use super::*;

    fn batches_of(input: impl Read + Send + 'static, window: Option<Window>) -> Vec<Batch> {
        let (sender, mut batches) = mpsc::channel(BATCHES_READ_AHEAD);
        let (source, digest_of) = (Source::Stdin, Some("i".to_owned()));
        let options = ReadOptions::default();
        std::thread::spawn(move || {
            let input_of = Input { source, format: Format::Rows, digest_of };
            let reader =
                Reader::new(BufReader::new(input), Format::Rows, &options, Place::default())
                    .unwrap();
            Batcher::new(sender, Point::default(), window).send_all(reader, &input_of);
        });
        std::iter::from_fn(|| batches.blocking_recv()).collect()
    }

    fn sizes(batches: &[Batch]) -> Vec<(usize, usize, bool)> {
        let size = |it: &Batch| (it.entries.len(), it.bad.len(), it.error.is_some());
        batches.iter().map(size).collect()
    }

    #[test]
    fn batches_are_cut_by_rows_and_by_bytes() {
        let rows: String = (0..2 * BATCH_ROWS + 5).map(|n| format!("{n}|{n}\n")).collect();
        let batches = batches_of(BufReader::with_capacity(1 << 20, io::Cursor::new(rows)), None);
        let entries = batches.iter().map(|it| it.entries.len());
        assert!(entries.clone().all(|count| count <= BATCH_ROWS));
        assert_eq!(entries.sum::<usize>(), 2 * BATCH_ROWS + 5);
        assert!(batches.len() < 40, "{}", batches.len());
        let large = format!("{{}}|{}\n", "x".repeat(BATCH_BYTES)).repeat(2);
        let batches = batches_of(io::Cursor::new(large), None);
        assert!(batches.iter().all(|batch| batch.entries.len() <= 1));
    }

    #[test]
    fn rows_are_not_held_back_until_more_come() {
        let slow = io::Cursor::new("1|a\n2|b\n").chain(io::Cursor::new("bad\n3|c\n"));
        let batches = batches_of(slow, None);
        assert_eq!(sizes(&batches), [(2, 0, false), (1, 1, false), (0, 0, false)]);
    }

    #[test]
    fn an_input_that_fails_gives_what_came_before() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("unplugged"))
            }
        }
        let failing = io::Cursor::new("1|a\n").chain(Fails);
        assert_eq!(sizes(&batches_of(failing, None)), [(1, 0, false), (0, 0, true)]);
        // Of a batch that ends with the failure, what was read before its last row's end is not known.
        let rows = io::Cursor::new("1|a\n").chain(io::Cursor::new("2|b\n3|c")).chain(Fails);
        let batches = batches_of(rows, None);
        assert_eq!(sizes(&batches), [(1, 0, false), (1, 0, true)]);
        let sums = batches.iter().map(|batch| batch.end.crc32);
        assert!(sums.eq([Some(crc32fast::hash(b"1|a\n")), None]));
    }

    #[test]
    fn windows_end_behind_the_same_rows_whatever_the_batches() {
        let rows: String = (0..5000).map(|n| format!("{n}|{}\n\n", "x".repeat(n % 50))).collect();
        let ends = |step: usize, window| -> Vec<Place> {
            let rows = rows.clone();
            // A reader that gives little at a time ends batches early.
            struct Slow(io::Cursor<String>, usize);
            impl Read for Slow {
                fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                    let most = buffer.len().min(self.1);
                    self.0.read(&mut buffer[..most])
                }
            }
            let batches = batches_of(Slow(io::Cursor::new(rows), step), Some(window));
            let ends = batches.iter().filter(|batch| batch.ends_window);
            ends.map(|batch| batch.end.place).collect()
        };
        for window in [Window { rows: 700, bytes: 1 << 20 }, Window { rows: 1 << 20, bytes: 9000 }]
        {
            let expected = ends(1 << 20, window);
            assert!(expected.len() > 5);
            assert_eq!(ends(777, window), expected);
        }
    }

    #[test]
    fn what_is_read_is_summed_up_as_the_engine_does() {
        let batches = batches_of(io::Cursor::new("a|1\nbad\nb|2\n"), None);
        let end = batches.last().unwrap().end;
        let hash = |key: &[u8], document: &[u8]| {
            Digest(content_hash(&mut Vec::new(), "i", key, 0, document))
        };
        assert_eq!(end.documents, 2);
        assert_eq!(end.digest, [hash(b"a", &[1]), hash(b"b", &[2])].into_iter().sum());
    }
}
