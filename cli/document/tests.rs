//! The module's table, row by row, and that no bytes and no text upset it.

use proptest::prelude::*;
use rmpv::Value;
use sherd_protocol::document::{DocumentError, MAX_NESTING, check};

use super::{Printable, parse, to_json};

fn print(document: &[u8]) -> String {
    to_json(&Printable::new(document).unwrap()).unwrap()
}

fn encode(value: &Value) -> Vec<u8> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value).unwrap();
    bytes
}

fn parsed(text: &str) -> Value {
    rmpv::decode::read_value(&mut &parse(text).unwrap()[..]).unwrap()
}

/// Of very many fields some are looked at before all are read.
#[test]
fn of_many_fields_of_few_names_the_last_values_count_in_the_order_of_the_first() {
    let field = |n: usize| format!("\"f{}\": [{n}]", n % 1000);
    let all: Vec<_> = (0..200_500).map(field).collect();
    let last: Vec<_> = (200_000..200_500).chain(199_500..200_000).map(field).collect();
    let object = |fields: &[String]| format!("{{\"x\": {{{}}}, \"y\": 1}}", fields.join(", "));
    assert_eq!(print(&parse(&object(&all)).unwrap()), object(&last));
    let distinct: Vec<_> = (0..200_000).rev().map(|n| format!("\"f{n}\": [{n}]")).collect();
    assert_eq!(print(&parse(&object(&distinct)).unwrap()), object(&distinct));
}

#[test]
fn json_comes_back_as_python_would_print_it() {
    // Left what is written, right what json.dumps(json.loads(left), ensure_ascii=False) prints.
    for (text, printed) in [
        ("null", "null"),
        (" true ", "true"),
        ("42", "42"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("18446744073709551615", "18446744073709551615"),
        ("0.9", "0.9"),
        ("1.0", "1.0"),
        ("-0.0", "-0.0"),
        ("1e15", "1000000000000000.0"),
        ("1e16", "1e+16"),
        ("1.5e300", "1.5e+300"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("5e-324", "5e-324"),
        ("2.2250738585072011e-308", "2.225073858507201e-308"),
        ("123456789.123456789", "123456789.12345679"),
        (r#"{"b":1,"a":[1,{"c":null}],"b":2}"#, r#"{"b": 2, "a": [1, {"c": null}]}"#),
        ("[]", "[]"),
        ("{}", "{}"),
        (r#""\u00e4\n\t\u0001\u007f\"\\\/""#, "\"ä\\n\\t\\u0001\u{7f}\\\"\\\\/\""),
        (r#""\ud83d\ude00""#, "\"😀\""),
    ] {
        assert_eq!(print(&parse(text).unwrap()), printed, "{text}");
    }
}

#[test]
fn integers_beyond_64_bits_are_floats() {
    assert_eq!(parsed("18446744073709551616"), Value::F64(18446744073709551616.0));
    assert_eq!(parsed("-9223372036854775809"), Value::F64(-9223372036854775808.0));
}

#[test]
fn what_is_not_json_is_a_string() {
    for text in ["hello world", "", "nul", "1 2", "{", "[1,]", "NaN", "0x10", "01", "'a'", "1e999"]
    {
        assert_eq!(parsed(text), Value::from(text));
    }
    let open = "[".repeat(1_000_000);
    assert_eq!(parsed(&open), Value::from(open.as_str()));
}

#[test]
fn what_json_cannot_say_is_tagged_and_reads_back() {
    let map = |pairs: &[(Value, Value)]| Value::Map(pairs.to_vec());
    for (value, printed) in [
        (Value::Binary(b"hi".to_vec()), r#"{"$binary": "aGk="}"#),
        (Value::Binary(Vec::new()), r#"{"$binary": ""}"#),
        (Value::F64(f64::NAN), r#"{"$float": "NaN"}"#),
        (Value::F64(f64::INFINITY), r#"{"$float": "Infinity"}"#),
        (Value::F64(f64::NEG_INFINITY), r#"{"$float": "-Infinity"}"#),
        (map(&[(1.into(), "a".into())]), r#"{"$map": [[1, "a"]]}"#),
        (
            map(&[("a".into(), 1.into()), ("a".into(), 2.into())]),
            r#"{"$map": [["a", 1], ["a", 2]]}"#,
        ),
        (map(&[(map(&[]), Value::Nil)]), r#"{"$map": [[{}, null]]}"#),
        // What only looks like one of the forms is kept apart from them.
        (map(&[("$binary".into(), "aGk=".into())]), r#"{"$map": [["$binary", "aGk="]]}"#),
        (map(&[("$map".into(), 5.into())]), r#"{"$map": [["$map", 5]]}"#),
    ] {
        assert_eq!(print(&encode(&value)), printed);
        let back = parsed(printed);
        assert_eq!(format!("{back:?}"), format!("{value:?}"), "{printed}");
    }
}

#[test]
fn objects_that_resemble_a_tag_stay_objects() {
    let object = |key: &str, value: Value| Value::Map(vec![(key.into(), value)]);
    for (text, value) in [
        (r#"{"$binary": "not base64"}"#, object("$binary", "not base64".into())),
        (r#"{"$float": "1.0"}"#, object("$float", "1.0".into())),
        (r#"{"$map": [[1]]}"#, object("$map", Value::Array(vec![Value::Array(vec![1.into()])]))),
    ] {
        assert_eq!(parsed(text), value);
        assert_eq!(parsed(&print(&parse(text).unwrap())), value);
    }
    assert_eq!(
        print(&parse(r#"{"$binary": "aGk=", "b": 1}"#).unwrap()),
        r#"{"$binary": "aGk=", "b": 1}"#
    );
}

#[test]
fn a_32_bit_float_is_printed_with_its_exact_value() {
    assert_eq!(print(&encode(&Value::F32(0.1))), "0.10000000149011612");
}

#[test]
fn documents_nest_to_the_limit_and_not_beyond() {
    let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    assert_eq!(print(&parse(&deep(MAX_NESTING)).unwrap()), deep(MAX_NESTING));
    for depth in [MAX_NESTING + 1, 3 * MAX_NESTING, 1000, 1_000_000] {
        assert!(matches!(parse(&deep(depth)), Err(DocumentError::TooDeep { .. })), "{depth}");
    }
    // The deepest document there is, in the form that takes most levels of JSON.
    let mut value = Value::F64(f64::INFINITY);
    for _ in 0..MAX_NESTING {
        value = Value::Map(vec![(Value::Nil, value)]);
    }
    assert_eq!(parsed(&print(&encode(&value))), value);
}

#[test]
fn the_largest_document_parses_and_one_byte_more_does_not() {
    let text = "x".repeat(sherd_protocol::MAX_DOCUMENT_BYTES - 5);
    assert_eq!(parse(&text).unwrap().len(), sherd_protocol::MAX_DOCUMENT_BYTES);
    assert!(matches!(parse(&(text + "x")), Err(DocumentError::TooLarge { .. })));
}

fn any_value() -> impl Strategy<Value = Value> {
    let key = prop_oneof![Just("$binary".to_owned()), Just("$map".to_owned()), ".{0,4}"];
    let scalar = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        prop::num::f64::ANY.prop_map(Value::F64),
        key.prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Value::Binary),
    ];
    scalar.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::Array),
            prop::collection::vec((inner.clone(), inner), 0..20).prop_map(Value::Map),
        ]
    })
}

proptest! {
    #[test]
    fn every_document_reads_back_as_it_was_printed(value in any_value()) {
        let document = encode(&value);
        let printed = print(&document);
        prop_assert!(!printed.contains('\n'));
        let back = parsed(&printed);
        // By text, for NaN is not equal to itself.
        prop_assert_eq!(format!("{:?}", back), format!("{:?}", value));
    }

    #[test]
    fn any_bytes_print_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(Printable::new(&bytes).map(|_| ()), check(&bytes));
        if let Ok(printable) = Printable::new(&bytes) {
            prop_assert!(to_json(&printable).is_ok());
        }
    }

    #[test]
    fn any_text_is_some_document(text in r#"[\[\]{}":,0-9e.\-$ a\\]{0,60}"#) {
        let document = parse(&text).unwrap();
        prop_assert_eq!(parse(&print(&document)).unwrap(), document);
    }
}
