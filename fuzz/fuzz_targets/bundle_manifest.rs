//! Fuzzes `bundle_manifest` of `decoders.rs`.

#![no_main]

#[path = "../decoders.rs"]
mod decoders;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    decoders::run("bundle_manifest", data);
});
