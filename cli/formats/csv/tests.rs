//! Records by hand, and what is wrong with them.

use std::io::{self, BufReader, Read};

use crate::document::parse;
use crate::formats::tests::{expect, keyed, read_with};
use crate::formats::{
    BadRow, Entry, Fault, Fields, Format, KEPT_OF_LONG_BYTES, MAX_LINE_BYTES, Place, ReadOptions,
    Reader, Shape, Writer,
};

#[test]
fn a_key_is_made_of_cells_that_have_one_text() {
    let input = "c,id,x\nCH,1,y\nCH,,y\nCH,\"\",y\nCH,1.10,y\nCH,007,y\nCH,\"1.10\",y\n";
    expect(
        input,
        Format::Csv,
        &keyed("{c}:{id}", ""),
        &[
            r#"2 CH:1 {"c": "CH", "id": 1, "x": "y"}"#,
            "3 bad: the field \"id\" of the key is null; use one that holds text or a number",
            r#"4 CH: {"c": "CH", "id": "", "x": "y"}"#,
            "5 bad: the field \"id\" of the key is a float, of which there are several texts; use one \
             that holds text or a number",
            r#"6 CH:007 {"c": "CH", "id": "007", "x": "y"}"#,
            r#"7 CH:1.10 {"c": "CH", "id": "1.10", "x": "y"}"#,
        ],
    );
}

#[test]
fn a_line_of_delimiters_is_one_bad_row() {
    let input = format!("key,x\n{}\na,1\n", ",".repeat(3_000_000));
    expect(
        &input,
        Format::Csv,
        &ReadOptions::default(),
        &["2 bad: over 65536 cells", r#"3 a {"x": 1}"#],
    );
}

#[test]
fn cells_are_inferred_or_as_the_schema_has_them() {
    let input = concat!(
        "\u{feff}key,n,f,b,s,zip\r\n",
        "a,1,0.5,true,text,007\r\n",
        "\r\n",
        "b,\"1\",,false,\"\",+1\n",
        "\"c,\"\"|\nd\",-1,1e3,True,\"x\ny\",1.10\n",
        "d,1\n",
        "e,1,1,1,\"x\"y,1\n",
        "f,18446744073709551616,1,1,\" x \", y ",
    );
    expect(
        input,
        Format::Csv,
        &ReadOptions::default(),
        &[
            r#"2 a {"n": 1, "f": 0.5, "b": true, "s": "text", "zip": "007"}"#,
            r#"4 b {"n": "1", "f": null, "b": false, "s": "", "zip": "+1"}"#,
            "5 c,\"|\nd {\"n\": -1, \"f\": 1000.0, \"b\": \"True\", \"s\": \"x\\ny\", \"zip\": 1.1}",
            "8 bad: 2 cells where the header has 6",
            "9 bad: text after the closing quote of cell 5",
            r#"10 f {"n": "18446744073709551616", "f": 1, "b": 1, "s": " x ", "zip": " y "}"#,
        ],
    );
    let input = "id\tn\tj\n07\t+1\t[1,NaN]\n8\t x \t[1]\n9\t\t[2]\n10\t007\t[1]\n";
    expect(
        input,
        Format::Tsv,
        &keyed("id", "id:string,n:int,j:json"),
        &[
            "2 bad: NaN is no JSON number; write {\"$float\": \"NaN\"}",
            "3 bad: column \"n\": \" x \" is no int",
            r#"4 9 {"id": "9", "n": null, "j": [2]}"#,
            r#"5 10 {"id": "10", "n": 7, "j": [1]}"#,
        ],
    );
    let input = "key,record,expires_at\na,\"{\"\"x\"\": 1}\",\nb,2,77\nc,{,\nd,1,x\n";
    expect(
        input,
        Format::Csv,
        &ReadOptions::default(),
        &[
            r#"2 a {"x": 1}"#,
            "3 b 2 77",
            "4 bad: not JSON: EOF while parsing an object at byte 1",
            "5 bad: column \"expires_at\": \"x\" is no int",
        ],
    );
    expect("", Format::Csv, &ReadOptions::default(), &[]);
    expect("a,\"key\"\n", Format::Csv, &ReadOptions::default(), &[]);
}

#[test]
fn a_header_that_is_wrong_stops_it_all() {
    for (header, options, expected) in [
        ("a,b\n", keyed("", ""), "no column \"key\"; say with --key which of a, b makes the key"),
        ("a,b\n", keyed("c", ""), "no column \"c\" for the key"),
        ("key,b\n", keyed("", "c:int"), "no column \"c\" of the schema"),
        ("key,b,b\n", keyed("", ""), "column \"b\" is there twice"),
        ("key,,b\n", keyed("", ""), "a column has no name"),
        ("key,\"b\n", keyed("", ""), "not closed"),
        ("key,\u{0}\n", keyed("x", ""), "no column \"x\""),
        ("key,a\rb,1\rc,2\r", keyed("", ""), "convert them first, as with tr '\\r' '\\n'"),
        ("\"key\",\"a\"\r\"b\",1\r", keyed("", ""), "if all lines end with CR alone"),
        ("key,a\rb,1\r\n", keyed("", ""), "a CR (\\r) without LF"),
        (
            "{\"key\": \"a\", \"record\": 1}\n",
            keyed("", ""),
            "like JSON lines, which --format jsonl",
        ),
        ("{\"a\": 1, \"b\": 1}\n", keyed("c", ""), "like JSON lines, which --format jsonl"),
        ("{\"a\": [1,1,1]}\n", keyed("", ""), "like JSON lines, which --format jsonl"),
        ("key;a\n", keyed("", ""), "it is one column: cells of csv are parted by commas"),
        ("key\ta\n", keyed("key", ""), "it is one column: cells of csv are parted by commas"),
    ] {
        let (rows, error) = read_with(header, Format::Csv, &options);
        assert_eq!(rows, []);
        assert!(error.as_ref().unwrap().contains(expected), "{header}: {error:?}");
    }
    let names: Vec<_> = (0..60_000).map(|n| format!("column{n}")).collect();
    let all_of = |key, schema| {
        let header = names.join(",") + "," + &"x".repeat(1000) + "\n";
        read_with(header, Format::Csv, &keyed(key, schema)).1.unwrap()
    };
    let list = "column0, column1, column2, column3, column4, column5, column6, column7, column8, \
                column9 and 59991 more";
    assert!(all_of("x", "").ends_with(&format!("for the key; it has {list}")));
    assert!(all_of("", "").ends_with(&format!("which of {list} makes the key")));
    assert!(all_of("column1", "x:int").ends_with(&format!("of the schema; it has {list}")));
    let (_, error) = read_with("x".repeat(1000), Format::Csv, &keyed("a", ""));
    assert!(error.unwrap().ends_with(&format!("it has {}…", "x".repeat(40))));
    // All of a file may be one line.
    let (_, error) = read_with("key,a\r".repeat(1 << 20), Format::Csv, &keyed("", ""));
    assert!(error.unwrap().contains("if all lines end with CR alone"));
    expect("key,\"a\rb\"\r\nk,1", Format::Csv, &keyed("", ""), &["2 k {\"a\\rb\": 1}"]);
    expect("key,a\r", Format::Csv, &keyed("", ""), &[]);
    let (_, error) = read_with(b"key,\xff\n", Format::Csv, &keyed("", ""));
    assert!(error.unwrap().contains("UTF-8"));
}

/// What is in records, and why they end.
fn read_records(input: impl Read) -> (Vec<Result<Entry, BadRow>>, String) {
    let input = BufReader::with_capacity(1 << 16, input);
    let mut reader =
        Reader::new(input, Format::Csv, &ReadOptions::default(), Place::default()).unwrap();
    let mut rows = Vec::new();
    loop {
        match reader.next() {
            Ok(row) => rows.push(row.expect("it does not come to the end")),
            Err(error) => return (rows, error.to_string()),
        }
    }
}

/// Of a table of one column, all of a file whose lines end with CR alone was a key.
#[test]
fn a_lone_return_outside_of_quotes_makes_a_bad_row() {
    let lone = "a CR (\\r) without LF (\\n), which is to be in quotes; where all lines end with CR alone, \
                convert them first, as with tr '\\r' '\\n'";
    let bad = |line: u64| format!("{line} bad: {lone}");
    expect("key\na\rb\rc\r", Format::Csv, &keyed("", ""), &[&bad(2)]);
    let rows = "key,a,b\nk,1\r,2\nl,1,\r\r\nm,1,\r\nn,5\" x,\"\r\"\r\n";
    let read = ["4 m {\"a\": 1, \"b\": null}", "5 n {\"a\": \"5\\\" x\", \"b\": \"\\r\"}"];
    expect(rows, Format::Csv, &keyed("", ""), &[&bad(2), &bad(3), read[0], read[1]]);
}

/// It was refused: its JSON fits into a row, but not with its quotes doubled.
#[test]
fn a_document_of_nothing_but_quotes_is_held_as_its_bytes() {
    let document = parse(&"\"".repeat(11 << 20)).unwrap();
    let fields = Fields {
        key: "k",
        document: &document,
        version: Some(u64::MAX),
        expires_at: Some(u64::MAX),
    };
    for format in [Format::Csv, Format::Tsv] {
        let mut out = Vec::new();
        Writer::new(format, Shape::Record).write(&mut out, &fields).unwrap();
        let input = BufReader::new(&out[..]);
        let mut reader =
            Reader::new(input, format, &ReadOptions::default(), Place::default()).unwrap();
        let read = reader.next().unwrap().unwrap().unwrap();
        assert!(read.document == document && read.key == "k");
        assert_eq!((read.version, read.expires_at), (Some(u64::MAX), Some(u64::MAX)));
    }
}

#[test]
fn a_quote_that_is_never_closed_ends_the_input_and_takes_bounded_memory() {
    // What comes behind it was read from the middle of a cell, and the rows in it were one bad row.
    let endless = io::repeat(b'x').take(3 * MAX_LINE_BYTES as u64);
    let input = (&b"key,a\nj,1\nk,\""[..]).chain(endless).chain(&b"\nz,1\n"[..]);
    let (rows, error) = read_records(input);
    assert_eq!(rows.len(), 1);
    let expected = "the quote that opens cell 2 in line 3 is not closed within the 31458305 bytes \
                    that a row may have; where the next row begins cannot be told: close the quote";
    assert!(error.starts_with(expected), "{error}");
    // Quotes of its text, written twice, may be all that there is at the end of what a row may have.
    for before in ["", "x"] {
        let quotes = "\"\"".repeat(MAX_LINE_BYTES);
        let (rows, error) = read_records(format!("key,a\nk,\"{before}{quotes}\nz,1\n").as_bytes());
        assert_eq!(rows.len(), 0);
        assert!(error.contains(" cell 2 in line 2 is not closed within"), "{error}");
    }
    // The quote may open behind the line on which its record begins.
    let row = "0123456789,abcde\n";
    let many = row.repeat(2 * MAX_LINE_BYTES / row.len());
    let (rows, error) = read_records(format!("key,a\n\"j\n\",\"k\n{many}").as_bytes());
    assert_eq!(rows.len(), 0);
    let lines = (MAX_LINE_BYTES + 1 - "\"j\n\",\"k\n".len()) / row.len() + 1;
    let expected = " cell 2 in line 3 is not closed within";
    assert!(error.contains(expected), "{error}");
    assert!(error.contains(&format!(", and the next {lines} lines went with it; ")), "{error}");
}

#[test]
fn lines_that_a_quote_takes_with_it_are_counted() {
    let header = "key,a\nj,1\n";
    for (rows, expected) in [
        ("k,\"x", "3 bad: the quote that opens cell 2 is not closed"),
        ("k,\"x\n", "3 bad: the quote that opens cell 2 is not closed"),
        (
            "k,\"x\nl,1",
            "3 bad: the quote that opens cell 2 is not closed, and the next line went with it",
        ),
        (
            "k,\"x\nl,1\nm,1\n",
            "3 bad: the quote that opens cell 2 is not closed, and the next 2 lines went with it",
        ),
        (
            "k,\"x\nl,1\nm,\"1\"\n",
            "3 bad: text after the closing quote of cell 2, and the next 2 lines went with it",
        ),
    ] {
        let input = header.to_owned() + rows;
        expect(input, Format::Csv, &ReadOptions::default(), &[r#"2 j {"a": 1}"#, expected]);
    }
}

#[test]
fn a_long_record_without_an_open_quote_is_one_bad_row() {
    let endless = io::repeat(b'x').take(3 * MAX_LINE_BYTES as u64);
    let input = (&b"key,a\nk,"[..]).chain(endless).chain(&b"\nz,1\n"[..]);
    let input = BufReader::with_capacity(1 << 16, input);
    let mut reader =
        Reader::new(input, Format::Csv, &ReadOptions::default(), Place::default()).unwrap();
    let bad = reader.next().unwrap().unwrap().unwrap_err();
    assert_eq!((bad.number, bad.fault), (2, Fault::TooLong(MAX_LINE_BYTES)));
    assert!(bad.row.len() <= KEPT_OF_LONG_BYTES, "{}", bad.row.len());
    let entry = reader.next().unwrap().unwrap().unwrap();
    assert_eq!((entry.number, entry.key.as_str()), (3, "z"));
}
