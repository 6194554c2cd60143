//! What the fuzzer of rows drives, and the test with its corpus: arbitrary bytes on standard input.
//!
//! Not a part of the command: the tests have it, and the fuzzer takes it with `rows` and
//! `document`.

use std::io::BufReader;

use sherd_protocol::document::check;
use sherd_protocol::name::check_key;

use crate::document::{Printable, to_json};
use crate::rows::{BadRow, Keys, Row, Rows};

/// How many bytes are read at a time, then what is read. Returns whether there is a row in it.
///
/// However the bytes arrive, the same rows are found, in the order of their lines. The key of a row
/// is one, so is its document; and the row as it would be printed is read as the same row.
pub(crate) fn rows(data: &[u8]) -> bool {
    let Some((&at_a_time, input)) = data.split_first() else { return false };
    let read = |at_a_time| -> Vec<Result<Row, BadRow>> {
        let mut rows = Rows::new(BufReader::with_capacity(at_a_time, input));
        std::iter::from_fn(|| rows.next().ok().flatten()).collect()
    };
    let all = read(usize::from(at_a_time).max(1));
    assert_eq!(all, read(1 << 16));
    let line = |row: &_| match row {
        Ok(Row { line, .. }) | Err(BadRow { line, .. }) => *line,
    };
    assert!(all.is_sorted_by(|before, after| line(before) < line(after)));
    let lines = input.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
    assert!(all.iter().all(|row| (1..=lines).contains(&line(row))));

    for Row { key, document, .. } in all.iter().flatten() {
        assert_eq!((check_key(key), check(document)), (Ok(()), Ok(())));
        let printed = Printable::new(document).map(|document| to_json(&document));
        assert!(matches!(printed, Ok(Ok(_))), "{printed:?}");
        let Ok(Ok(printed)) = printed else { continue };
        let text = format!("{key}|{printed}\r\n");
        let mut again = Rows::new(BufReader::new(text.as_bytes()));
        let row = again.next().ok().flatten();
        let same = matches!(&row, Some(Ok(row)) if row.key == *key && row.document == *document);
        assert!(same, "{text:?} is read as {row:?}");
    }

    let mut keys = Keys::new(BufReader::new(input));
    while let Ok(Some(key)) = keys.next() {
        assert!(key.is_err() || key.is_ok_and(|key| check_key(&key).is_ok()));
    }
    all.iter().any(Result::is_ok)
}

#[cfg(test)]
#[path = "../fuzz/replay.rs"]
mod replay;

#[test]
fn the_corpus_of_rows() {
    replay::replay("rows", rows, 40_000);
}
