//! Both hash methods against positions that were computed outside this project.
//!
//! `ring.tsv` lies beside this file: key, position and `hash_` by MD5, the same by XXH3. Keys are
//! written with Python's `unicode_escape`, so that a tab or a control character stands in a table.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use sherd_protocol::HashMethod;

const VECTORS: &str = include_str!("ring.tsv");

#[test]
fn every_key_falls_where_the_table_says() {
    let mut checked = 0;
    for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
        let columns: Vec<_> = line.split('\t').collect();
        let [escaped, md5, md5_hash, xxh3, xxh3_hash] = columns[..] else {
            panic!("not five columns: {line:?}");
        };
        let key = unescape(escaped);
        for (method, position, hash) in
            [(HashMethod::Md5, md5, md5_hash), (HashMethod::Xxh3, xxh3, xxh3_hash)]
        {
            let computed = method.position(&key);
            assert_eq!(computed.0.to_string(), position, "{method} of {escaped:?}");
            assert_eq!(computed.fraction().to_string(), hash, "{method} of {escaped:?}");
        }
        checked += 1;
    }
    assert_eq!(checked, 62, "the table has lost or gained keys");
}

#[test]
fn md5_leaves_the_positions_that_are_multiples_of_128() {
    for key in 0..10_000 {
        assert_eq!(HashMethod::Md5.position(&key.to_string()).0 % 128, 0, "key {key}");
    }
}

/// Undoes Python's `unicode_escape`: `\t \n \r \\ \' \xNN \uNNNN \UNNNNNNNN`.
fn unescape(escaped: &str) -> String {
    let mut key = String::new();
    let mut rest = escaped.chars();
    while let Some(character) = rest.next() {
        if character != '\\' {
            key.push(character);
            continue;
        }
        let digits = match rest.next().unwrap() {
            't' => {
                key.push('\t');
                continue;
            }
            'n' => {
                key.push('\n');
                continue;
            }
            'r' => {
                key.push('\r');
                continue;
            }
            plain @ ('\\' | '\'') => {
                key.push(plain);
                continue;
            }
            'x' => 2,
            'u' => 4,
            'U' => 8,
            other => panic!("unknown escape \\{other} in {escaped:?}"),
        };
        let code: String = rest.by_ref().take(digits).collect();
        key.push(char::from_u32(u32::from_str_radix(&code, 16).unwrap()).unwrap());
    }
    key
}
