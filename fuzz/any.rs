//! Fuzzes the decoder of `decoders.rs` that `FUZZ_TARGET` names: one program to build for all of them.

#![no_main]

use std::sync::LazyLock;

#[path = "decoders.rs"]
mod decoders;

static TARGET: LazyLock<String> =
    LazyLock::new(|| std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a decoder"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    decoders::run(&TARGET, data);
});
