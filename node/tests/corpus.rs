//! Replays the corpus of every fuzz target through the same decoders, without a fuzzer: what was once
//! found stays mended, and what was once accepted still is.

#[path = "../../fuzz/decoders.rs"]
mod decoders;

use std::{fs, path::Path};

/// The folder with one folder of inputs for each target.
const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus");

#[test]
fn every_decoder_takes_its_corpus_without_a_panic() {
    for (target, _) in decoders::TARGETS {
        let (mut valid, mut refused) = (0, 0);
        for entry in fs::read_dir(Path::new(CORPUS).join(target)).unwrap() {
            let path = entry.unwrap().path();
            // Shown when a decoder panics.
            eprintln!("{}", path.display());
            let is_accepted = decoders::run(target, &fs::read(&path).unwrap());
            let name = path.file_name().unwrap().to_str().unwrap();
            if name.starts_with("valid-") {
                assert!(is_accepted, "{target} refuses {name}");
                valid += 1;
            }
            refused += u32::from(!is_accepted);
        }
        assert!(valid >= 1 && refused >= 1, "{target}: {valid} valid, {refused} refused");
    }
}

#[test]
fn every_corpus_and_every_fuzz_target_is_known() {
    let known: Vec<_> = decoders::TARGETS.map(|(target, _)| target).into();
    for (folder, suffix) in [("corpus", ""), ("fuzz_targets", ".rs")] {
        let path = Path::new(CORPUS).parent().unwrap().join(folder);
        let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
        let mut found = 0;
        for name in names {
            let name = name.into_string().unwrap();
            let target = name.strip_suffix(suffix).unwrap();
            assert!(known.contains(&target), "{folder}/{name} has no decoder");
            found += 1;
        }
        assert_eq!(found, known.len(), "{folder} lacks one");
    }
}
