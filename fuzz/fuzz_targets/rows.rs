//! The parsers of formats are a part of the command, which is no library.

#![no_main]

#[allow(dead_code, unused_imports, reason = "the command uses more of it")]
#[path = "../../cli/document/mod.rs"]
mod document;
#[allow(dead_code, unused_imports, reason = "the command uses more of it")]
#[path = "../../cli/formats/mod.rs"]
mod formats;
#[path = "../../cli/fuzzing.rs"]
mod fuzzing;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzzing::rows(data);
});
