//! Bytes that must not change: a changed vector here is a change of the format, which needs a new
//! version, a page in `docs/formats` that says so, and a way for what is on disk already.

use dunlin_engine::{
    CollectionName, CollectionSpec, Fidelity, Metric, Segment, TimeRange, Timestamp,
    storage::Simulated,
};

use crate::support::{engine_with, entity, name, observation, open, sealed, spec};

/// Seals four observations of three channels.
fn seal(fidelity: Fidelity) -> (Segment, Vec<u8>, Vec<Vec<u8>>) {
    let engine = engine_with(&CollectionSpec { fidelity, metric: Metric::Cosine, ..spec(3) });
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

/// The compressed part is what zstd 1.5.7 writes at level 3. If an update of it fails here, equal
/// observations would get other CIDs than before: that is a new payload version.
#[test]
fn a_lossless_segment_and_its_payload_are_these_bytes() {
    let expected = bytes(&[
        "01",       // version
        "0300",     // dimension
        "04000000", // rows
        "00000000", // bytes of metadata
        "28b52ffd 2050250100d800000f0f0f00424242004040403e00000080003c01000080804000031000958f578205",
    ]);
    let (segment, _, payload) = seal(Fidelity::Lossless);
    assert_eq!(payload, [expected]);
    let cid = "bafyreiaognt7wskxcnvtjryuefreye7nljvgxs3bbnkvwcyehmymwmfx2m";
    assert_eq!(segment.cid().to_string(), cid);
}

/// A data folder that the first version left behind in the middle of its work: a checkpoint after 50
/// observations, and 40 more in the log.
#[test]
fn a_data_folder_of_the_first_version_opens() {
    let disk = Simulated::new();
    disk.put("VERSION", include_bytes!("../vectors/store-1/VERSION").to_vec());
    let log = include_bytes!("../vectors/store-1/log/00000000000000000003.log");
    disk.put("log/00000000000000000003.log", log.to_vec());
    let store = include_bytes!("../vectors/store-1/store.redb.zst");
    disk.put("store.redb", zstd::decode_all(&store[..]).unwrap());

    let engine = open(&disk);
    assert_eq!(engine.recovery().replayed_records, 1);
    let cids: Vec<String> = sealed(&engine).iter().map(|stored| stored.cid.to_string()).collect();
    assert_eq!(
        cids,
        [
            "bafyreicpf3727azm5mapehldd7q6ldiy2djkdwkxh4moxltpgpi4fr4rti",
            "bafyreidmoovi7y5jysxlqv75swen25kd5f6ws4cgqcttih47rf4px7akle",
            "bafyreido6pgkjunuj56bjdefyhxjfmqiw7v372ufup5srwdydespfqs2zy",
            "bafyreicerehbhihkvmwt5k7pmncdxp5kltopd7ypriuxsvw7v5ypmwknku",
        ]
    );
    let pumps = CollectionName::new("pumps").unwrap();
    let view = engine.entity(&pumps, &entity("pump-1")).unwrap();
    // The two newest observations wait in the lateness window.
    assert_eq!((view.observations, view.waiting), (90, 2));
    let rows = engine.observations(&pumps, &view.entity, TimeRange::ALL, 100).unwrap().rows;
    assert_eq!((rows.count(), rows.row(20)), (88, &[0.25, 0.0][..]));
}
