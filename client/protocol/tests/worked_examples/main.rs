//! The worked examples of `docs/protocol.md` against the crate, byte for byte.
//!
//! Each fenced block that begins with `hex NAME` is one frame, its annotations after a `;`. The
//! message of that name in `examples`, `moves` or `cuts` must encode to exactly these bytes,
//! and they must decode to it. A block marked `hex NAME decodes` shows another encoding that a node
//! accepts: it only has to decode. Every block has its message and every message its block. The
//! worked computation of positions is compared step by step.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod cuts;
mod examples;
mod message;
mod moves;

use std::collections::BTreeMap;
use std::path::Path;

use md5::{Digest, Md5};
use sherd_protocol::HashMethod;

struct Block {
    name: String,
    only_decodes: bool,
    line: usize,
    bytes: Vec<u8>,
}

fn document() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/protocol.md");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The blocks of the document, and a check that what the annotations quote is what the bytes say.
fn blocks() -> Vec<Block> {
    let text = document();
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (number, line) in (1..).zip(text.lines()) {
        if let Some(block) = &mut open {
            if line == "```" {
                blocks.extend(open.take());
                continue;
            }
            let (hex, annotation) = line.split_once(';').unwrap_or((line, ""));
            let bytes: Vec<u8> = hex
                .split_whitespace()
                .map(|byte| {
                    assert_eq!(byte.len(), 2, "line {number}: {byte:?} is no byte in hex");
                    u8::from_str_radix(byte, 16).unwrap()
                })
                .collect();
            check_annotation(number, &bytes, annotation);
            block.bytes.extend(bytes);
        } else if let Some(marker) = line.strip_prefix("```hex ") {
            let (name, decodes) = marker.split_once(' ').unwrap_or((marker, ""));
            assert!(["", "decodes"].contains(&decodes), "line {number}: unknown mark {decodes:?}");
            open = Some(Block {
                name: name.to_owned(),
                only_decodes: !decodes.is_empty(),
                line: number,
                bytes: Vec::new(),
            });
        }
    }
    assert!(open.is_none(), "the last block is not closed");
    assert!(!blocks.is_empty(), "docs/protocol.md has no examples");
    blocks
}

/// Each quoted word of an annotation stands in the bytes of its line, in the same order.
fn check_annotation(number: usize, bytes: &[u8], annotation: &str) {
    let mut from = 0;
    for quoted in annotation.split('"').skip(1).step_by(2) {
        let found = bytes[from..].windows(quoted.len().max(1)).position(|w| w == quoted.as_bytes());
        from += found.unwrap_or_else(|| panic!("line {number}: {quoted:?} is not in the bytes"));
        from += quoted.len();
    }
}

#[test]
fn every_example_of_the_document_is_what_the_crate_says() {
    let messages: BTreeMap<_, _> = examples::examples()
        .into_iter()
        .chain(moves::examples_of_moves())
        .chain(cuts::examples_of_cuts())
        .collect();
    let mut unseen: Vec<_> = messages.keys().copied().collect();
    for block in blocks() {
        let at = format!("example {:?}, docs/protocol.md line {}", block.name, block.line);
        let message = messages
            .get(block.name.as_str())
            .unwrap_or_else(|| panic!("{at}: no message of that name to compare with"));
        if !block.only_decodes {
            let encoded = message.encode();
            assert_eq!(
                hex(&block.bytes),
                hex(&encoded),
                "{at}: left in the document, right encoded"
            );
            let index = unseen.iter().position(|name| *name == block.name);
            unseen.remove(index.unwrap_or_else(|| panic!("{at}: a second block of that name")));
        }
        assert_eq!(&message.decode_alike(block.bytes.leak()), message, "{at}: decoded");
    }
    let missing: Vec<_> =
        unseen.iter().map(|name| format!("{name}: {}", hex(&messages[name].encode()))).collect();
    assert!(missing.is_empty(), "messages without a block:\n{}", missing.join("\n"));
}

#[test]
fn the_worked_positions_of_the_document_are_right() {
    let text = document();
    let digest: [u8; 16] = Md5::digest(b"test").into();
    let number = u128::from_be_bytes(digest);
    let md5 = HashMethod::Md5.position("test").0;
    let hash = twox_hash::XxHash3_64::oneshot(b"test");
    let xxh3 = HashMethod::Xxh3.position("test").0;
    let steps = [
        format!("| MD5 | `{}` |", hex(&digest).replace(' ', "")),
        format!("| as an integer | {number} |"),
        format!("| rounded to a double | {} |", number as f64 as u128),
        format!("| modulo 10,000,000 | **{md5}** |"),
        format!("| as `hash_` | {} |", HashMethod::Md5.position("test").fraction()),
        format!("the result would be {},", number % 10_000_000),
        format!("| XXH3_64 | `{hash:016x}` |"),
        format!("| as an integer | {hash} |"),
        format!("| · 10,000,000 | {} |", u128::from(hash) * 10_000_000),
        format!("| / 2^64, rounded down | **{xxh3}** |"),
    ];
    for step in steps {
        assert!(text.contains(&step), "the document lacks {step:?}");
    }
    let table = text.split("```positions\n").nth(1).expect("a table of positions");
    let rows = table.lines().skip(1).take_while(|line| *line != "```");
    let mut count = 0;
    for row in rows {
        let columns: Vec<_> = row.split_whitespace().collect();
        let [key, md5, xxh3] = columns[..] else { panic!("not three columns: {row:?}") };
        assert_eq!(HashMethod::Md5.position(key).0.to_string(), md5, "{key}");
        assert_eq!(HashMethod::Xxh3.position(key).0.to_string(), xxh3, "{key}");
        count += 1;
    }
    assert!(count > 0, "the table of positions is empty");
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
