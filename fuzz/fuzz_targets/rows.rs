//! The parser of rows is a part of the command, which is no library.

#![no_main]

#[path = "../../cli/document/mod.rs"]
mod document;
#[path = "../../cli/fuzzing.rs"]
mod fuzzing;
#[allow(dead_code, reason = "the command uses more of it")]
#[path = "../../cli/rows.rs"]
mod rows;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzzing::rows(data);
});
