#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    sherd_bootstrap::fuzzing::config(data);
});
