//! Fuzzes `console_request` of `decoders.rs`.

#![no_main]

#[path = "../decoders.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    decoders::run("console_request", data);
});
