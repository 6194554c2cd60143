//! Comma- and tab-separated values under a header, as RFC 4180 has them.
//!
//! A cell in quotes is a string. One without is what it looks like, if it prints again as the same
//! number: an integer, a float, `true` or `false`; empty it is null; anything else is a string, such
//! as `007`, `+1` and numbers with more digits than a float keeps. A schema says what a column is
//! instead.
//!
//! | header | key | document |
//! | --- | --- | --- |
//! | `key` and `record`, `version`, `expires_at` or not | `key` | `record`, as JSON |
//! | `key` and others | `key` | an object of the others |
//! | any, where it is said what makes the key | that | an object of all |
//!
//! Written as columns are only objects of scalars that have exactly these fields, in this order; one
//! column `record` holds any document. The parser is our own, for those at hand do not tell cells in
//! quotes from others, nor bound what they hold of a record.
//!
//! * `read`: records into entries; `scan`: bytes into records and cells;
//! * `schema`: what a column is said to be; `cell`: what a cell is without that;
//! * `write`: entries into records.

mod cell;
mod read;
mod scan;
mod schema;
mod write;

#[cfg(test)]
mod tests;

pub(crate) use read::Records;
pub(crate) use schema::{Schema, Type};
pub(crate) use write::{Shape, Writer};

/// Said of a header that begins as an object does.
const OF_JSON_LINES: &str = "; it looks like JSON lines, which --format jsonl reads";

/// The columns of entries.
const KEY: &str = "key";
const RECORD: &str = "record";
const VERSION: &str = "version";
const EXPIRES_AT: &str = "expires_at";
const HASH: &str = "hash_";
