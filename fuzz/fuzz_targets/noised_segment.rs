//! Fuzzes `noised_segment` of `decoders.rs`.

#![no_main]

#[path = "../decoders.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    decoders::run("noised_segment", data);
});
