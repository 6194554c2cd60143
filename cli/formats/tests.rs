//! Every document through every format that can hold it, and what is wrong with rows by hand.

use std::io::{BufReader, Read, Write as _};
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use rmpv::Value;

use super::input::uncompressed;
use super::*;
use crate::document::parse;

/// What is in an input, or why it cannot be read on after what came before.
type All = (Vec<Result<Entry, BadRow>>, Option<String>);

fn read_from(input: impl Read, format: Format, options: &ReadOptions, place: Place) -> All {
    // A small buffer, so that boundaries are met.
    let input = BufReader::with_capacity(7, input);
    let mut reader = match Reader::new(input, format, options, place) {
        Ok(reader) => reader,
        Err(error) => return (Vec::new(), Some(error.to_string())),
    };
    let mut all = Vec::new();
    loop {
        match reader.next() {
            Ok(Some(row)) => all.push(row),
            Ok(None) => return (all, None),
            Err(error) => return (all, Some(error.to_string())),
        }
    }
}

pub(super) fn read_with(input: impl AsRef<[u8]>, format: Format, options: &ReadOptions) -> All {
    read_from(input.as_ref(), format, options, Place::default())
}

pub(super) fn keyed(key: &str, schema: &str) -> ReadOptions {
    let key = Some(key).filter(|key| !key.is_empty()).map(|key| key.parse().unwrap());
    let schema = if schema.is_empty() { Schema::default() } else { schema.parse().unwrap() };
    ReadOptions { key, schema, keep_rows: true }
}

/// Number, key and document as JSON of each row, or number and fault.
fn told(rows: &[Result<Entry, BadRow>]) -> Vec<String> {
    let told = |row: &Result<Entry, BadRow>| match row {
        Ok(Entry { number, key, document, version, expires_at, .. }) => {
            let document = crate::document::Printable::new(document).unwrap();
            let document = crate::document::to_json(&document).unwrap();
            let mut told = format!("{number} {key} {document}");
            for number in [version, expires_at].into_iter().flatten() {
                told += &format!(" {number}");
            }
            told
        }
        Err(BadRow { number, fault, .. }) => format!("{number} bad: {fault}"),
    };
    rows.iter().map(told).collect()
}

#[track_caller]
pub(super) fn expect(
    input: impl AsRef<[u8]>,
    format: Format,
    options: &ReadOptions,
    expected: &[&str],
) {
    let (rows, error) = read_with(input, format, options);
    assert_eq!((told(&rows), error), (expected.iter().map(|it| (*it).to_owned()).collect(), None));
}

#[test]
fn entries_in_json_lines() {
    let input = concat!(
        "\u{feff}{\"key\": \"a\", \"record\": {\"x\": [1, null]}}\r\n",
        "\n",
        "{\"version\": 7, \"hash_\": 0.5, \"record\": \"two\\nlines\", \"expires_at\": 99, \"key\": \"b|\"}\n",
        "{\"key\": \"c\", \"record\": 18446744073709551615, \"expires_at\": null}\n",
        "{\"key\": \"d\", \"record\": {\"$float\": \"NaN\"}, \"expires_at\": 0}",
    );
    expect(
        input,
        Format::Jsonl,
        &ReadOptions::default(),
        &[
            r#"1 a {"x": [1, null]}"#,
            r#"3 b| "two\nlines" 7 99"#,
            "4 c 18446744073709551615",
            r#"5 d {"$float": "NaN"}"#,
        ],
    );
}

#[test]
fn what_is_wrong_in_json_lines_is_told() {
    let none = ReadOptions::default();
    for (line, expected) in [
        (r#"{"key": "a", "record": NaN}"#, r#"NaN is no JSON number; write {"$float": "NaN"}"#),
        (r#"{"key": "a", "record": [1, -Infinity]}"#, "-Infinity is no JSON number"),
        (r#"{"key": "a", "record": {"x": Infinity}}"#, "Infinity is no JSON number"),
        (
            r#"{"key": "a", "record": 18446744073709551616}"#,
            "18446744073709551616 has more than 64",
        ),
        (
            r#"{"key": "a", "record": -9223372036854775809}"#,
            "-9223372036854775809 has more than 64",
        ),
        (r#"{"key": "a", "key": "b", "record": 1}"#, r#""key" is there twice"#),
        (r#"{"key": "a", "record": 1, "record": 1}"#, r#""record" is there twice"#),
        (r#"{"key": "a", "record": {"x": {"y": 1, "z": 2, "y": 3}}}"#, r#""y" is there twice"#),
        (r#"{"key": "a"}"#, r#"no field "record""#),
        (r#"{"record": 1}"#, r#"no field "key""#),
        (r#"{"key": 5, "record": 1}"#, "expected a string"),
        (r#"{"key": "a", "record": 1, "version": -1}"#, "expected u64"),
        (r#"{"key": "a", "record": 1, "other": 1}"#, r#""other" is not one of"#),
        (r#"{"key": "", "record": 1}"#, "key"),
        (r#"{"key": "a", "record": 1} x"#, "not JSON: trailing characters"),
        (r#"{"key": "a", "record": 1"#, "not JSON: EOF"),
        ("5", "expected an object"),
        ("[", "expected an object"),
        ("nonsense", "not JSON"),
        (r#"{"key": "a", "record": 1e999}"#, "number out of range"),
    ] {
        let (rows, error) = read_with(line, Format::Jsonl, &none);
        assert_eq!(error, None);
        let [Err(BadRow { number: 1, fault, row })] = &rows[..] else { panic!("{line}: {rows:?}") };
        assert!(fault.to_string().contains(expected), "{line}: {fault}");
        assert_eq!(row, line.as_bytes());
    }
    // What resembles a form of ours is neither it nor an object, at any depth.
    for (value, expected) in [
        (r#"{"$binary": "aGk"}"#, "\"$binary\" holds bytes in base64, padded"),
        (r#"{"$binary": "aG k="}"#, "\"$binary\" holds"),
        (r#"{"$binary": 5}"#, "\"$binary\" holds"),
        (r#"[{"x": {"$float": "nan"}}]"#, "\"$float\" holds \"NaN\", \"Infinity\" or"),
        (r#"{"$float": 1.0}"#, "\"$float\" holds"),
        (r#"{"$float32": 0.1}"#, "\"$float32\" holds a number with a point that 32 bits hold"),
        (r#"{"$float32": 1}"#, "\"$float32\" holds"),
        (r#"{"$msgpack": "wQ=="}"#, "\"$msgpack\" holds a whole document"),
        (
            r#"{"$map": [[1]]}"#,
            "one that is meant as an object is written {\"$map\": [[\"$map\", …]]}",
        ),
    ] {
        let line = format!("{{\"key\": \"a\", \"record\": {value}}}");
        let (rows, error) = read_with(&line, Format::Jsonl, &none);
        assert_eq!(error, None);
        assert!(told(&rows)[0].contains(expected), "{value}: {:?}", told(&rows));
        let csv = format!("key,record\na,\"{}\"\n", value.replace('"', "\"\""));
        let (rows, _) = read_with(csv, Format::Csv, &none);
        assert!(told(&rows)[0].contains(expected), "{value}: {:?}", told(&rows));
        // On the command line and in rows it is what it looks like, and its exact form reads back.
        let (rows, _) = read_with(format!("a|{value}"), Format::Rows, &none);
        let document = &rows[0].as_ref().unwrap().document;
        assert_eq!(*document, parse(value).unwrap());
        let fields = Fields { key: "a", document, version: None, expires_at: None };
        for format in [Format::Jsonl, Format::Csv, Format::Rows] {
            let mut out = Vec::new();
            let mut writer = Writer::new(format, Shape::Record);
            writer.write(&mut out, &fields).unwrap();
            let (rows, _) = read_with(&out, format, &none);
            assert_eq!(rows[0].as_ref().unwrap().document, *document, "{value} as {format:?}");
        }
    }
    // Two fields are not one, and other names are not ours.
    expect(
        r#"{"key": "a", "record": [{"$binary": "aGk", "b": 1}, {"$other": "x"}]}"#,
        Format::Jsonl,
        &none,
        &[r#"1 a [{"$binary": "aGk", "b": 1}, {"$other": "x"}]"#],
    );
    // The first byte is byte 1, whatever is wrong with it.
    for (line, expected) in [
        (&b"\xff"[..], "1 bad: not UTF-8 at byte 1"),
        (b"x", "1 bad: not JSON: expected value at byte 1"),
        (b"{\"\xff", "1 bad: not UTF-8 at byte 3"),
        (b"{\"\x01", "at byte 3"),
    ] {
        let (rows, _) = read_with(line, Format::Jsonl, &none);
        assert!(told(&rows)[0].ends_with(expected), "{:?}", told(&rows));
    }
    // Large floats are floats.
    expect(
        r#"{"key": "a", "record": [1e300, 18446744073709551616.0, "18446744073709551616"]}"#,
        Format::Jsonl,
        &none,
        &[r#"1 a [1e+300, 1.8446744073709552e+19, "18446744073709551616"]"#],
    );
    let deep = format!("{{\"key\": \"a\", \"record\": {}}}\n", "[".repeat(1_000_000));
    let (rows, _) = read_with(deep, Format::Jsonl, &none);
    assert!(told(&rows)[0].contains("nests deeper"), "{:?}", told(&rows)[0].get(..100));
}

#[test]
fn objects_whose_fields_make_the_key() {
    let input = "{\"id\": 1, \"c\": \"CH\"}\n{\"c\": \"DE\"}\n[]\n{\"id\": [], \"c\": \"x\"}\n";
    expect(
        input,
        Format::Jsonl,
        &keyed("{c}:{id}", ""),
        &[
            r#"1 CH:1 {"id": 1, "c": "CH"}"#,
            "2 bad: no field \"id\" for the key",
            "3 bad: the document is no object, and so has no field \"c\" for its key",
            "4 bad: the field \"id\" of the key is an array; use one that holds text or a number",
        ],
    );
}

fn item(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).unwrap();
    bytes
}

fn map(fields: &[(&str, Value)]) -> Value {
    Value::Map(fields.iter().map(|(name, value)| ((*name).into(), value.clone())).collect())
}

#[test]
fn items_of_a_stream() {
    let record = || ("record", Value::Array(vec![1.into(), Value::Binary(vec![0; 300])]));
    let items = [
        map(&[("key", "a".into()), record(), ("version", 5.into())]),
        map(&[record(), ("key", "b".into()), ("expires_at", 9.into()), ("hash_", 0.5.into())]),
        map(&[("key", "c".into())]),
        map(&[("key", 1.into()), record()]),
        map(&[("key", "d".into()), record(), record()]),
        map(&[("key", "e".into()), record(), ("x", 1.into())]),
        Value::from(7),
        map(&[("key", "f".into()), ("record", Value::Ext(1, vec![1, 2, 3]))]),
        map(&[("key", "g".into()), ("record", Value::Nil)]),
    ];
    let stream: Vec<u8> = items.iter().flat_map(item).collect();
    let (rows, error) = read_with(&stream, Format::Msgpack, &ReadOptions::default());
    assert_eq!(error, None);
    let told = told(&rows);
    assert!(told[0].starts_with("1 a [1, ") && told[0].ends_with("] 5"), "{}", told[0]);
    assert!(told[1].starts_with("2 b [1, ") && told[1].ends_with("] 9"), "{}", told[1]);
    assert_eq!(
        told[2..],
        [
            "3 bad: the item has no field \"record\"",
            "4 bad: the field \"key\" of the item is no string",
            "5 bad: the field \"record\" of the item is there twice",
            "6 bad: the field \"x\" of the item is not one of key, record, version and expires_at",
            "7 bad: the item is no map",
            "8 bad: byte 0 begins no document type (0xc7)",
            "9 g null",
        ]
    );
    // Cut off at every byte: the items before it, and then an error, unless it is between two.
    let ends: Vec<usize> = items
        .iter()
        .scan(0, |end, it| {
            *end += item(it).len();
            Some(*end)
        })
        .collect();
    for cut in 0..stream.len() {
        let (rows, error) = read_with(&stream[..cut], Format::Msgpack, &ReadOptions::default());
        assert_eq!(rows.len(), ends.iter().filter(|end| **end <= cut).count());
        assert_eq!(error.is_none(), cut == 0 || ends.contains(&cut), "{cut}: {error:?}");
    }
    let (rows, error) =
        read_with([&stream[..ends[0]], b"\xc1"].concat(), Format::Msgpack, &ReadOptions::default());
    assert_eq!(rows.len(), 1);
    assert!(error.as_ref().unwrap().contains(&format!("item 2 at byte {}", ends[0])), "{error:?}");
    // Documents themselves.
    let documents = item(&map(&[("id", 1.into()), ("x", 2.into())]));
    expect(documents, Format::Msgpack, &keyed("id", ""), &[r#"1 1 {"id": 1, "x": 2}"#]);
}

#[test]
fn an_item_that_is_too_large_takes_bounded_memory_and_stops_no_other() {
    let head =
        |length: u32| [b"\x82\xa3key\xa1k\xa6record\xc6", &length.to_be_bytes()[..]].concat();
    let large = 3 * MAX_ITEM_BYTES as u32;
    let first = head(large);
    let stream = (&first[..]).chain(io::repeat(7).take(u64::from(large)));
    let last = item(&map(&[("key", "z".into()), ("record", 1.into())]));
    let mut reader = Reader::new(
        BufReader::with_capacity(1 << 16, stream.chain(&last[..])),
        Format::Msgpack,
        &ReadOptions::default(),
        Place::default(),
    )
    .unwrap();
    let bad = reader.next().unwrap().unwrap().unwrap_err();
    assert_eq!((bad.number, bad.fault), (1, Fault::TooLong(MAX_ITEM_BYTES)));
    assert_eq!(bad.row.len(), KEPT_OF_LONG_BYTES);
    assert_eq!(reader.next().unwrap().unwrap().unwrap().key, "z");
}

#[test]
fn formats_by_the_names_of_files() {
    for (name, format, compression) in [
        ("a.jsonl", Some(Format::Jsonl), Compression::Plain),
        ("a.b.NDJSON.GZ", Some(Format::Jsonl), Compression::Gzip),
        ("/x.gz/cities.csv.zst", Some(Format::Csv), Compression::Zstd),
        ("a.tsv.zstd", Some(Format::Tsv), Compression::Zstd),
        ("a.msgpack.gzip", Some(Format::Msgpack), Compression::Gzip),
        ("a.rows", Some(Format::Rows), Compression::Plain),
        ("a.json", None, Compression::Plain),
        ("jsonl", None, Compression::Plain),
        ("a.gz", None, Compression::Gzip),
        ("", None, Compression::Plain),
    ] {
        let path = Path::new(name);
        assert_eq!(
            (Format::of_path(path), Compression::of_path(path)),
            (format, compression),
            "{name}"
        );
    }
}

fn compress(bytes: &[u8], compression: Compression) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), compression).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// What is uncompressed of a file, or why it is not.
fn expand(file: Vec<u8>) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    let mut input = uncompressed(Box::new(io::Cursor::new(file)), Arc::default())
        .map_err(|error| error.to_string())?;
    input.read_to_end(&mut all).map_err(|error| error.to_string())?;
    Ok(all)
}

#[test]
fn compression_is_told_by_the_content_and_its_end_by_more_than_the_end_of_the_file() {
    let text: Vec<u8> = (0..20_000u32).flat_map(u32::to_be_bytes).collect();
    for compression in [Compression::Plain, Compression::Gzip, Compression::Zstd] {
        let file = compress(&text, compression);
        assert_eq!(expand(file.clone()), Ok(text.clone()));
        if compression == Compression::Plain {
            continue;
        }
        if compression == Compression::Zstd {
            // As pzstd writes: the length of the frame that follows, in one that is passed over.
            let length = (file.len() as u32).to_le_bytes();
            let frame = [b"P*M\x18\x04\0\0\0", &length[..], &file].concat();
            assert_eq!(expand(frame.repeat(2)), Ok(text.repeat(2)));
            let error = expand(frame[..frame.len() - 1].to_vec()).unwrap_err();
            assert!(error.contains("cut off"), "{error}");
        }
        // Several members or frames follow each other.
        let twice = [file.clone(), file.clone()].concat();
        assert_eq!(expand(twice), Ok([text.clone(), text.clone()].concat()));
        // From the fourth byte on: before, nobody can tell that it was compressed.
        for cut in (4..40).chain((40..file.len()).step_by(997)).chain(file.len() - 12..file.len()) {
            let error = expand(file[..cut].to_vec()).unwrap_err();
            assert!(
                error.contains("cut off") && error.contains(&format!("byte {cut} ")),
                "{error}"
            );
        }
        for at in (20..file.len()).step_by(1009) {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert_ne!(expand(damaged), Ok(text.clone()), "{compression:?} {at}");
        }
        let error = expand([&file[..], b"garbage behind it"].concat()).unwrap_err();
        assert!(error.contains("damaged"), "{error}");
    }
    for short in [&b""[..], b"a", b"a|1", b"\x1f", b"\x28\xb5\x2f"] {
        assert_eq!(expand(short.to_vec()), Ok(short.to_vec()));
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused() {
    let record = parse(r#"{"a": 1, "b": "x"}"#).unwrap();
    fn fields<'a>(key: &'a str, document: &'a [u8], expires_at: Option<u64>) -> Fields<'a> {
        Fields { key, document, version: Some(3), expires_at }
    }
    let refused = |format, shape: Shape, fields: &Fields<'_>| {
        let mut out = b"before".to_vec();
        let fault = Writer::new(format, shape).write(&mut out, fields).unwrap_err().to_string();
        assert_eq!(out, b"before");
        fault
    };
    for key in ["a|b", "a\nb"] {
        let fault = refused(Format::Rows, Shape::Record, &fields(key, &record, None));
        assert!(fault.contains("no place in this format"), "{fault}");
    }
    let fault = refused(Format::Rows, Shape::Record, &fields("k", &record, Some(5)));
    assert!(fault.contains("expires"), "{fault}");
    let columns = || Shape::Columns(vec!["a".to_owned(), "b".to_owned()]);
    let fault = refused(Format::Csv, columns(), &fields("k", &record, Some(5)));
    assert!(fault.contains("expires"), "{fault}");
    for (document, expected) in [
        ("5", "no object"),
        (r#"{"a": 1}"#, "has 1 fields where there are 2 columns"),
        (r#"{"b": 1, "a": 1}"#, "\"b\" in the place of column \"a\""),
        (r#"{"a": [], "b": 1}"#, "\"a\" is an array"),
        (r#"{"a": {}, "b": 1}"#, "an object"),
        (r#"{"a": {"$binary": ""}, "b": 1}"#, "binary"),
        (r#"{"a": 1, "b": {"$float": "NaN"}}"#, "no number of CSV"),
        (r#"{"a": 1, "b": {"$float32": 0.5}}"#, "32-bit float"),
        (r#"{"$msgpack": "gqFhzAGhYgE="}"#, "not the shortest"),
    ] {
        let document = parse(document).unwrap();
        let fault = refused(Format::Csv, columns(), &fields("k", &document, None));
        assert!(fault.contains(expected), "{fault}");
    }
    for document in
        [r#"{"key": 1}"#, r#"{"record": 1}"#, r#"{"": 1}"#, r#"{"$map": [["a", 1], ["a", 2]]}"#]
    {
        let document = parse(document).unwrap();
        let fault = refused(Format::Csv, Shape::OfFirst, &fields("k", &document, None));
        assert!(fault.contains("cannot be a column"), "{fault}");
    }
}

/// Bytes of any document, also of those that are not the shortest.
fn any_document() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![
        Just("$binary".to_owned()),
        Just("$msgpack".to_owned()),
        Just("$float32".to_owned()),
        Just("007".to_owned()),
        Just("-1".to_owned()),
        Just("1.5".to_owned()),
        Just("true".to_owned()),
        Just(" x ".to_owned()),
        "[a|\",\r\n\té😀]{0,6}",
        ".{0,6}",
    ];
    let scalar = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (u64::MAX - 3..=u64::MAX).prop_map(Value::from),
        (1u64 << 53..(1 << 53) + 3).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::num::f64::ANY.prop_map(Value::F64),
        prop::num::f32::ANY.prop_map(Value::F32),
        text.clone().prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Binary),
    ];
    let tree = scalar.clone().prop_recursive(5, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
            prop::collection::vec((inner.clone(), inner), 0..20).prop_map(Value::Map),
        ]
    });
    let object =
        prop::collection::vec((text.prop_map(Value::from), scalar), 1..5).prop_map(Value::Map);
    let document = prop_oneof![tree, object].prop_map(|value| item(&value));
    let longer = document.clone().prop_map(|document| match document[0] {
        // The same value with a longer head.
        small @ 0x00..=0x7f => vec![0xcd, 0, small],
        string @ 0xa0..=0xbf => [&[0xda, 0, string & 0x1f], &document[1..]].concat(),
        array @ 0x90..=0x9f => [&[0xdc, 0, array & 0x0f], &document[1..]].concat(),
        map @ 0x80..=0x8f => [&[0xdf, 0, 0, 0, map & 0x0f], &document[1..]].concat(),
        _ => document,
    });
    prop_oneof![4 => document, 1 => longer]
}

fn any_key() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{1,8}", "[a|\",\r\n\t é😀]{1,6}", ".{1,6}"]
}

proptest! {
    #[test]
    fn documents_come_back_byte_for_byte_or_are_refused(
        entries in prop::collection::vec(
            (any_key(), any_document(), any::<Option<u64>>(), prop::option::of(1..u64::MAX)), 1..6),
    ) {
        let formats = [
            (Format::Rows, Shape::Record),
            (Format::Jsonl, Shape::Record),
            (Format::Msgpack, Shape::Record),
            (Format::Csv, Shape::Record),
            (Format::Tsv, Shape::Record),
            (Format::Csv, Shape::OfFirst),
            (Format::Tsv, Shape::OfFirst),
        ];
        for (format, shape) in formats {
            let mut writer = Writer::new(format, shape.clone());
            let (mut out, mut written, mut places) = (Vec::new(), Vec::new(), Vec::new());
            for (key, document, version, expires_at) in &entries {
                let fields = Fields { key, document, version: *version, expires_at: *expires_at };
                match writer.write(&mut out, &fields) {
                    Ok(()) => written.push((key.clone(), document.clone(), *version, *expires_at)),
                    // These hold everything.
                    Err(fault) => prop_assert!(
                        format == Format::Rows || shape == Shape::OfFirst, "{}: {:?}", fault, format
                    ),
                }
            }
            let keeps_versions = format != Format::Rows && shape == Shape::Record;
            let mut reader = Reader::new(
                BufReader::with_capacity(7, &out[..]), format, &ReadOptions::default(), Place::default(),
            ).unwrap();
            let mut read = Vec::new();
            loop {
                places.push(reader.place());
                match reader.next().unwrap() {
                    None => break,
                    Some(Err(bad)) => prop_assert!(false, "{:?}: {} in {:?}", format, bad.fault, bad.row),
                    Some(Ok(entry)) => read.push(entry),
                }
            }
            let expected: Vec<_> = written.into_iter().map(|(key, document, version, expires_at)| {
                (key, document, version.filter(|_| keeps_versions), expires_at)
            }).collect();
            let found: Vec<_> = read.iter().cloned().map(|entry| {
                (entry.key, entry.document, entry.version, entry.expires_at)
            }).collect();
            prop_assert_eq!(found, expected, "{:?} {:?}", format, String::from_utf8_lossy(&out));
            // From every place on it is the same as before.
            for (skipped, place) in places.into_iter().enumerate() {
                let (rest, error) = read_from(&out[..], format, &ReadOptions::default(), place);
                prop_assert_eq!(error, None);
                let rest: Vec<_> = rest.into_iter().map(Result::unwrap).collect();
                prop_assert_eq!(&rest[..], &read[skipped.min(read.len())..]);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..120),
        text in "[{}\\[\\]\"',:0-9a-z|\n\r\t.e$-]{0,120}",
    ) {
        for format in [Format::Rows, Format::Jsonl, Format::Csv, Format::Tsv, Format::Msgpack] {
            for options in [ReadOptions::default(), keyed("a", "")] {
                for input in [&bytes[..], text.as_bytes()] {
                    let (rows, _) = read_with(input, format, &options);
                    for entry in rows.into_iter().flatten() {
                        prop_assert!(sherd_protocol::document::check(&entry.document).is_ok());
                        prop_assert!(sherd_protocol::name::check_key(&entry.key).is_ok());
                    }
                }
            }
        }
    }
}
