//! What the fuzzer of formats drives, and the test with its corpus: arbitrary bytes as an input.
//!
//! Not a part of the command: the tests have it, and the fuzzer takes it with `formats` and
//! `document`.

use std::io::BufReader;

use sherd_protocol::document::check;
use sherd_protocol::name::check_key;

use crate::formats::{
    BadRow, Entry, Fields, Format, Keys, Place, ReadOptions, Reader, Shape, Writer,
};

/// How many bytes are read at a time, then what is read. Returns whether there is a row in it.
///
/// However the bytes arrive, the same entries are found, in the order of their lines, in each format.
/// Their keys and documents are such; and what is written of them is read as the same.
pub(crate) fn rows(data: &[u8]) -> bool {
    let Some((&at_a_time, input)) = data.split_first() else { return false };
    let at_a_time = usize::from(at_a_time).max(1);
    let mut has_rows = false;
    for format in [Format::Rows, Format::Jsonl, Format::Csv, Format::Msgpack] {
        let all = read(input, format, at_a_time);
        assert_eq!(all, read(input, format, 1 << 16));
        let number = |row: &_| match row {
            Ok(Entry { number, .. }) | Err(BadRow { number, .. }) => *number,
        };
        assert!(all.is_sorted_by(|before, after| number(before) < number(after)));
        let most = input.len() as u64 + 1;
        assert!(all.iter().all(|row| (1..=most).contains(&number(row))));
        for entry in all.iter().flatten() {
            written_and_read(entry, format);
        }
        has_rows |= format == Format::Rows && all.iter().any(Result::is_ok);
    }

    let mut keys = Keys::new(BufReader::new(input));
    while let Ok(Some(key)) = keys.next() {
        assert!(key.is_err() || key.is_ok_and(|key| check_key(&key).is_ok()));
    }
    has_rows
}

fn read(input: &[u8], format: Format, at_a_time: usize) -> Vec<Result<Entry, BadRow>> {
    let input = BufReader::with_capacity(at_a_time, input);
    let options = ReadOptions::default();
    let Ok(mut reader) = Reader::new(input, format, &options, Place::default()) else {
        return Vec::new();
    };
    std::iter::from_fn(|| reader.next().ok().flatten()).collect()
}

/// An entry that was read is written and read again.
fn written_and_read(entry: &Entry, format: Format) {
    let Entry { key, document, version, expires_at, .. } = entry;
    assert_eq!((check_key(key), check(document)), (Ok(()), Ok(())));
    let fields = Fields { key, document, version: *version, expires_at: *expires_at };
    let mut out = Vec::new();
    let written = Writer::new(format, Shape::Record).write(&mut out, &fields);
    assert!(written.is_ok(), "{written:?}");
    let again = read(&out, format, 1 << 16);
    let same = matches!(
        &again[..],
        [Ok(it)] if it.key == *key && it.document == *document && it.expires_at == *expires_at
    );
    assert!(same, "{out:?} is read as {again:?}");
}

#[cfg(test)]
#[path = "../fuzz/replay.rs"]
mod replay;

#[test]
fn the_corpus_of_rows() {
    replay::replay("rows", rows, 4_000);
}
