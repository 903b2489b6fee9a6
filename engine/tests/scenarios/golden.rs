//! Bytes that must not change: a changed vector here is a change of the format, which needs a new
//! version, a page in `docs/formats` that says so, and a way for what is on disk already.

use std::collections::BTreeMap;

use dunlin_engine::{
    Change, ChangeOrder, ChangesQuery, CollectionSpec, CompactionBudget, CompactionPolicy,
    ErrorBound, Fidelity, Metadata, Metric, Observation, Outline, Segment, SegmentPolicy, Source,
    TimeRange, Timestamp,
};
use dunlin_wire::block::{Codec, cid_of};

use crate::support::{course, engine_with, entity, name, observation, spec};

/// Seals four observations of three channels.
fn seal(fidelity: Fidelity) -> (Segment, Vec<u8>, Vec<Vec<u8>>) {
    let error_bound = (fidelity == Fidelity::Bounded).then_some(ErrorBound::OfRange(0.01));
    let spec = CollectionSpec { fidelity, error_bound, metric: Metric::Cosine, ..spec(3) };
    let engine = engine_with(&spec);
    let batch = (0..4).map(|s| observation("pump-1", s, &[0.25, s as f32 / 64.0, 0.0]));
    engine.ingest(&name(), batch.collect()).unwrap();
    let cid = engine.seal(&name(), &entity("pump-1")).unwrap().unwrap();
    let blocks = engine.segment_blocks(&cid).unwrap().unwrap();
    let payload = blocks.payload.iter().map(|block| block.bytes().to_vec()).collect();
    (engine.segment(&cid).unwrap().unwrap().segment, blocks.summary.into_bytes(), payload)
}

fn bytes(lines: &[&str]) -> Vec<u8> {
    let digits: String = lines.concat().split_whitespace().collect();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

#[test]
fn a_summary_segment_is_these_bytes() {
    let expected = bytes(&[
        "8f",                            // a list of fifteen
        "01",                            // version
        "61 63",                         // collection "c"
        "03",                            // dimension
        "00",                            // metric: cosine
        "66 70 75 6d 70 2d 31",          // entity "pump-1"
        "00",                            // start
        "1a 00 2d c6 c0",                // end: 3,000,000 us
        "04",                            // count
        "4c 0000803e 0000c03c 00000000", // mean: 0.25, 1.5 / 64, 0
        "47 ec 0000 7974 0000",          // spread: times 2^-20
        "47 ec 0000 00f6 0000",          // first minus mean: -1.5 / 64 in the second channel
        "47 ec 0000 0076 0000",          // last minus mean: 1.5 / 64
        "4c e146263c 3acd933c 00000000", // mean and largest drift, score
        "00",                            // fidelity: summary
        "80",                            // no links
    ]);
    let (segment, found, payload) = seal(Fidelity::Summary);
    assert_eq!((found, payload), (expected.clone(), Vec::new()));
    assert_eq!(Segment::decode(&expected).unwrap(), segment);
    let cid = "bafyreidt4tlpodmbwiq2nlixvnfpssmtrkbd6ldhnebzbj43bvr67qhl6i";
    assert_eq!(segment.cid().to_string(), cid);
    assert_eq!((segment.start(), segment.end()), (Timestamp(0), Timestamp(3_000_000)));
    assert_eq!(segment.first(), [0.25, 0.0, 0.0]);
}

#[test]
fn a_lossless_segment_and_its_payload_are_these_bytes() {
    let expected = bytes(&[
        "02",       // version
        "0300",     // dimension
        "04000000", // rows
        "00000000", // bytes of metadata
        "ffa85edffffff4cd94523f078fe9dbb1ffd54cfd",
    ]);
    let (segment, _, payload) = seal(Fidelity::Lossless);
    assert_eq!(payload, [expected]);
    let cid = "bafyreihpyabdeesf6nbook5jveerg7lo7lr6be7ifklo3w5zvffb32bixu";
    assert_eq!(segment.cid().to_string(), cid);
}

#[test]
fn a_bounded_segment_and_its_payload_are_these_bytes() {
    let expected = bytes(&[
        "02",       // version
        "0300",     // dimension
        "04000000", // rows
        "00000000", // bytes of metadata
        "ffa85edffffff4cd94523eeb56f49a2858ccdb9481",
    ]);
    let (segment, _, payload) = seal(Fidelity::Bounded);
    assert_eq!(payload, [expected]);
    let cid = "bafyreih24ivw7vqb724f7g7b5gbkk5e4uescz66wypr7nlxnuqr5vb7rye";
    assert_eq!(segment.cid().to_string(), cid);
}

/// The frame of the metadata is what zstd 1.5.7 writes at level 3. If an update of it fails here, equal
/// observations would get other CIDs than before: that is a new payload version.
#[test]
fn metadata_in_a_payload_are_these_bytes() {
    let engine = engine_with(&spec(1));
    let note = BTreeMap::from([("note".to_owned(), "spare".to_owned())]);
    let noted = Observation {
        metadata: Some(Metadata::new(note).unwrap()),
        ..observation("pump-1", 1, &[0.5])
    };
    engine.ingest(&name(), vec![observation("pump-1", 0, &[0.5]), noted]).unwrap();
    let cid = engine.seal(&name(), &entity("pump-1")).unwrap().unwrap();
    let payload = &engine.segment_blocks(&cid).unwrap().unwrap().payload[0];
    let expected = bytes(&[
        "02 0100 02000000", // version, dimension, rows
        "0f000000",         // bytes of metadata
        "18000000",         // bytes of its frame
        "28b52ffd200f790000818201a1646e6f7465657370617265ffa85edfffe107ffffff",
    ]);
    assert_eq!(payload.bytes(), expected);
}

/// Compacts a past of 70 regimes, and returns the outline's bytes and those of its payload.
fn compacted(fidelity: Fidelity) -> (Vec<u8>, Vec<Vec<u8>>) {
    let error_bound = (fidelity == Fidelity::Bounded).then_some(ErrorBound::OfRange(0.01));
    let policy = SegmentPolicy {
        threshold: 0.02,
        slow_threshold: 0.015,
        novelty_regimes_max: 1,
        ..spec(2).policy
    };
    let engine = engine_with(&CollectionSpec { fidelity, error_bound, policy, ..spec(2) });
    engine.ingest(&name(), course("pump-1", 0..710, 10)).unwrap();
    let policy = CompactionPolicy {
        before: Timestamp(i64::MAX),
        budget: CompactionBudget::Nrmse(0.05),
        flag_drift_min: 0.16,
        segments_min: CompactionPolicy::SEGMENTS_MIN,
    };
    engine.compact_course(&name(), &entity("pump-1"), &policy, &|_| true).unwrap().unwrap();
    let changes = ChangesQuery {
        collection: name(),
        entity: None,
        range: TimeRange::ALL,
        limit: 1_000,
        order: ChangeOrder::Newest,
    };
    let changes = engine.changes(&changes).unwrap().changes;
    let outlined = |change: &Change| match change.to {
        Source::Outlined(cid) => Some(cid),
        _ => None,
    };
    let outline = engine.block(&changes.iter().find_map(outlined).unwrap()).unwrap().unwrap();
    let links = Outline::decode(outline.bytes()).unwrap().payload().to_vec();
    let block = |cid| engine.block(cid).unwrap().unwrap().into_bytes();
    (outline.bytes().to_vec(), links.iter().map(block).collect())
}

#[test]
fn a_summary_outline_has_this_name_and_others_have_two_items_more() {
    for (fidelity, items, version) in
        [(Fidelity::Summary, 0x88, 1), (Fidelity::Bounded, 0x8a, 2), (Fidelity::Lossless, 0x8a, 2)]
    {
        let (outline, payload) = compacted(fidelity);
        assert_eq!((outline[0], outline[1]), (items, version), "{fidelity:?}");
        assert_eq!(payload.is_empty(), fidelity == Fidelity::Summary);
        assert_eq!(Outline::decode(&outline).unwrap().encode(), outline);
        if fidelity == Fidelity::Summary {
            let cid = "bafyreif64hbli44ownpozawk5a2pt5qwvkpgipcqnrmcfq2xhohxhmqlza";
            assert_eq!(cid_of(Codec::DagCbor, &outline).to_string(), cid);
        }
    }
}
