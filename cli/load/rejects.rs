//! Rows that were not written: said, counted by their kind where there are many, and kept in a file.

use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::mem::{Discriminant, discriminant};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Serialize;
use sherd_protocol::WireError;

use crate::document::write_json;
use crate::error::Error;
use crate::formats::BadRow;
use crate::output::say;
use crate::units::show_count;

/// So many refusals are said one by one; of a full shard's, one a row, nobody reads more.
const REFUSALS_SAID: u64 = 20;

/// Reasons of a kind differ in keys and figures only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Bad,
    There,
    /// The client's error, and the node's in it, if there is one.
    Refused(Discriminant<sherd_client::Error>, Option<Discriminant<WireError>>),
}

/// Where rows go that were not written.
#[derive(Debug, Default)]
pub(crate) struct Rejects {
    /// The names of the inputs, where there may be several.
    names: Vec<String>,
    said: u64,
    /// What kind of reason, the first one of that kind, and how many. There are few kinds.
    others: Vec<(Kind, String, u64)>,
    file: Option<RejectsFile>,
}

/// Why a row was not written.
#[derive(Clone, Copy, Debug)]
pub(super) enum Why<'a> {
    Bad(&'a BadRow),
    /// Its key is there.
    There {
        number: u64,
        key: &'a str,
        row: &'a [u8],
    },
    Refused {
        number: u64,
        key: &'a str,
        row: &'a [u8],
        error: &'a sherd_client::Error,
    },
}

impl Rejects {
    /// Of inputs of these names; rows that are none are said as well when there are many, where there
    /// are no names.
    pub(crate) fn new(names: Vec<String>, file: Option<RejectsFile>) -> Self {
        Self { names, file, ..Self::default() }
    }

    /// A line of an input as it is said.
    pub(super) fn line(&self, input: usize, number: u64) -> String {
        match self.names.get(input) {
            Some(name) => format!("{name} line {number}"),
            None => format!("line {number}"),
        }
    }

    /// Takes note of a row of an input.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn add(&mut self, input: usize, why: Why<'_>) -> Result<(), Error> {
        let (number, row, reason, kind) = match why {
            Why::Bad(BadRow { number, fault, row }) => {
                (*number, row.as_slice(), fault.to_string(), Kind::Bad)
            }
            Why::Refused { number, key, row, error } => {
                let kind = Kind::Refused(discriminant(error), error.wire().map(discriminant));
                (number, row, format!("key {key:?}: {error}"), kind)
            }
            Why::There { number, key, row } => {
                (number, row, format!("key {key:?} is in the index already"), Kind::There)
            }
        };
        let name = self.names.get(input).map_or("", String::as_str);
        let line = self.line(input, number);
        if let Some(file) = &mut self.file {
            file.write(name, number, &reason, row)?;
        }
        let is_of_write = self.names.is_empty();
        if self.said < REFUSALS_SAID || (is_of_write && kind == Kind::Bad) {
            self.said += u64::from(kind != Kind::Bad || !is_of_write);
            say!("{line}: {reason}");
            return Ok(());
        }
        match self.others.iter_mut().find(|(of, ..)| *of == kind) {
            Some((.., count)) => *count += 1,
            None => self.others.push((kind, reason, 1)),
        }
        Ok(())
    }

    /// Takes note of a row of an input that is none.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn bad(&mut self, input: usize, row: &BadRow) -> Result<(), Error> {
        self.add(input, Why::Bad(row))
    }

    /// What is to be said at the end, if anything.
    fn rest(&self) -> Option<String> {
        let total: u64 = self.others.iter().map(|(.., count)| count).sum();
        let each = self.others.iter().map(|(_, error, count)| format!("{count} as in: {error}"));
        let each: Vec<_> = each.collect();
        let (count, verb) =
            (show_count(total, "more row"), if total == 1 { "was" } else { "were" });
        (total > 0).then(|| format!("{count} {verb} refused: {}", each.join("; ")))
    }

    /// Says how many others there were.
    pub(crate) fn say_rest(&self) {
        if let Some(rest) = self.rest() {
            say!("{rest}");
        }
    }

    /// Makes the file durable; its length.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn sync(&mut self) -> Result<u64, Error> {
        self.file.as_mut().map_or(Ok(0), RejectsFile::sync)
    }
}

/// A file of JSON lines: `{"file", "line", "reason", "row"}`, the row in base64 as `row_base64` where it
/// is no UTF-8.
#[derive(Debug)]
pub(crate) struct RejectsFile {
    path: PathBuf,
    writer: BufWriter<File>,
}

#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    line: u64,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    row: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    row_base64: Option<String>,
}

impl RejectsFile {
    /// Opens a file and leaves so many bytes of what is in it.
    ///
    /// # Errors
    /// When it cannot be opened, or has fewer.
    pub(crate) fn open(path: &Path, length: u64) -> Result<Self, Error> {
        let open = || {
            let mut options = File::options();
            let mut file = options.create(true).write(true).truncate(false).open(path)?;
            let found = file.metadata()?.len();
            if found < length {
                return Err(io::Error::other(format!(
                    "it has {found} bytes, and had {length} at the checkpoint"
                )));
            }
            file.set_len(length)?;
            file.seek(SeekFrom::End(0))?;
            Ok(file)
        };
        let file = open().map_err(Error::file("write", path))?;
        Ok(Self { path: path.to_owned(), writer: BufWriter::new(file) })
    }

    fn write(&mut self, file: &str, line: u64, reason: &str, row: &[u8]) -> Result<(), Error> {
        let text = std::str::from_utf8(row).ok();
        let row_base64 = text.is_none().then(|| BASE64.encode(row));
        let line = Line { file, line, reason, row: text, row_base64 };
        // A long row is not made into a line in memory, where it takes up to six times its length.
        let written = write_json(&mut self.writer, &line).map_err(io::Error::from);
        let written = written.and_then(|()| self.writer.write_all(b"\n"));
        written.map_err(Error::file("write", &self.path))
    }

    fn sync(&mut self) -> Result<u64, Error> {
        let mut sync = || {
            self.writer.flush()?;
            self.writer.get_ref().sync_data()?;
            self.writer.get_ref().metadata()
        };
        Ok(sync().map_err(Error::file("write", &self.path))?.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_refusals_the_first_are_said_and_the_others_counted_by_their_kind() {
        let refused = |error| sherd_client::Error::Refused { node: "n".to_owned(), error };
        let full = |used| refused(WireError::QuotaExceeded { used, limit: 9, needed: 1 });
        let away = || sherd_client::Error::Connect { node: "n".to_owned(), reason: "r".to_owned() };
        let mut rejects = Rejects::default();
        let mut add = |error: &sherd_client::Error| {
            let why = Why::Refused { number: 1, key: "k", row: b"", error };
            rejects.add(0, why).unwrap();
            (rejects.said, rejects.rest())
        };
        for i in 1..=REFUSALS_SAID {
            assert_eq!(add(&full(i)), (i, None));
        }
        let expected = format!("1 more row was refused: 1 as in: key \"k\": {}", away());
        assert_eq!(add(&away()), (REFUSALS_SAID, Some(expected)));
        for i in 1..10_000 {
            add(&if i % 4 == 0 { away() } else { full(i) });
        }
        let expected = format!(
            "10000 more rows were refused: 2500 as in: key \"k\": {}; 7500 as in: key \"k\": {}",
            away(),
            full(1)
        );
        assert_eq!(rejects.rest(), Some(expected));
    }
}
