//! Fuzzes `bitswap_message` of `decoders.rs`.

#![no_main]

#[path = "../decoders.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    decoders::run("bitswap_message", data);
});
