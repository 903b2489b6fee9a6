//! Data folders that earlier versions left behind in the middle of their work: they open, hold what they
//! held, and go on. `docs/formats/store.md` is the format.

use std::{collections::BTreeMap, fs, path::PathBuf};

use dunlin_engine::{
    CollectionName, CollectionSpec, CompactionBudget, CompactionPolicy, Engine, Fidelity,
    HistoryQuery, Metadata, Observation, SegmentPolicy, TimeRange, Timestamp,
    storage::{Simulated, Storage},
};

use crate::support::{course, entity, open, sealed, spec};

fn folder(version: u32) -> PathBuf {
    let tests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests");
    tests.join(format!("vectors/store-{version}"))
}

/// Reads what a version left behind: its database is compressed, all else is as it was.
fn left_behind(version: u32) -> Simulated {
    let (disk, folder) = (Simulated::new(), folder(version));
    disk.put("VERSION", fs::read(folder.join("VERSION")).unwrap());
    for file in fs::read_dir(folder.join("log")).unwrap() {
        let file = file.unwrap();
        let name = format!("log/{}", file.file_name().to_str().unwrap());
        disk.put(&name, fs::read(file.path()).unwrap());
    }
    let store = fs::read(folder.join("store.redb.zst")).unwrap();
    disk.put("store.redb", zstd::decode_all(&store[..]).unwrap());
    disk
}

fn named(collection: &str) -> CollectionName {
    CollectionName::new(collection).unwrap()
}

/// Something of every kind: a compacted past, metadata, late observations, a checkpoint; then every kind of
/// entry in the log.
fn fill(engine: &Engine, version: u32) {
    let policy = SegmentPolicy {
        threshold: 0.02,
        slow_threshold: 0.015,
        novelty_regimes_max: 1,
        ..spec(2).policy
    };
    let fans =
        CollectionSpec { name: named("fans"), fidelity: Fidelity::Summary, policy, ..spec(2) };
    let pumps = CollectionSpec { name: named("pumps"), lateness_us: 2_000_000, ..fans.clone() };
    let pumps = CollectionSpec { fidelity: Fidelity::Lossless, ..pumps };
    let note = |second: i64| {
        let note = BTreeMap::from([("second".to_owned(), second.to_string())]);
        (second % 10 == 0).then(|| Metadata::new(note).unwrap())
    };
    let noted = |observation: Observation| Observation {
        metadata: note(observation.timestamp.0 / 1_000_000),
        ..observation
    };
    let ingest = |collection: &str, id: &str, seconds| {
        let batch = course(id, seconds, 10).into_iter().map(noted).collect();
        engine.ingest(&named(collection), batch).unwrap();
    };
    engine.create_collection(fans.clone()).unwrap();
    engine.create_collection(pumps).unwrap();
    for collection in ["fans", "pumps"] {
        ingest(collection, "a", 0..710);
        ingest(collection, "b", 0..50);
    }
    let compaction = CompactionPolicy {
        before: Timestamp(690_000_000),
        budget: CompactionBudget::Nrmse(0.05),
        flag_drift_min: 0.16,
        segments_min: CompactionPolicy::SEGMENTS_MIN,
    };
    // Version 2 compacted no others than summaries.
    for collection in if version == 2 { &["fans"][..] } else { &["fans", "pumps"] } {
        let (collection, a) = (named(collection), entity("a"));
        engine.compact_course(&collection, &a, &compaction, &|_| true).unwrap().unwrap();
    }
    engine.checkpoint().unwrap();
    ingest("pumps", "a", 710..750);
    engine.seal(&named("fans"), &entity("a")).unwrap();
    engine.remove(&named("pumps"), &entity("b")).unwrap();
    engine.create_collection(CollectionSpec { name: named("empty"), ..fans }).unwrap();
}

/// Everything that an engine holds, by collection and entity, and the names of its segments.
fn held(engine: &Engine) -> (Vec<String>, Vec<String>) {
    let mut held = Vec::new();
    for spec in engine.collections().unwrap() {
        held.push(format!("{spec:?}"));
        for mut view in engine.entities(&spec.name, None, usize::MAX).unwrap() {
            // What the newest observation was near to is not kept over a restart.
            view.matched = None;
            let query = HistoryQuery {
                collection: spec.name.clone(),
                entity: view.entity.clone(),
                range: TimeRange::ALL,
                resolution_us: None,
            };
            let points = engine.history(&query).unwrap().points;
            let rows: Vec<_> = points.iter().map(|(time, row)| (time, row.to_vec())).collect();
            held.push(format!("{view:?} {rows:?}"));
        }
    }
    let segments = sealed(engine);
    (held, segments.iter().map(|stored| format!("{} {}", stored.number, stored.cid)).collect())
}

#[test]
fn data_folders_of_later_versions_open_as_if_they_had_been_made_now() {
    for version in [2, 3] {
        let disk = left_behind(version);
        let engine = open(&disk);
        assert_eq!(engine.recovery().replayed_records, 4, "version {version}");
        let new = open(&Simulated::new());
        fill(&new, version);
        assert_eq!(held(&engine), held(&new), "version {version}");
        // It goes on, and is of the newest version from here on.
        for engine in [&engine, &new] {
            let batch = course("a", 750..900, 10);
            engine.ingest(&named("pumps"), batch).unwrap();
        }
        assert_eq!(held(&engine), held(&new), "version {version}");
        engine.close().unwrap();
        drop(engine);
        assert_eq!(disk.content("VERSION").unwrap(), b"dunlin engine 3\n");
        assert_eq!(held(&open(&disk.crash())), held(&new), "version {version}");
    }
}

/// Makes the folder of the present version. When the format changes, this ran before: with the old code,
/// and `DUNLIN_MAKE_FOLDER` set to the version.
#[test]
#[ignore = "it makes what others read"]
fn a_folder_to_keep() {
    let version = std::env::var("DUNLIN_MAKE_FOLDER").unwrap().parse().unwrap();
    let disk = Simulated::new();
    let engine = open(&disk);
    fill(&engine, version);
    let folder = folder(version);
    fs::create_dir_all(folder.join("log")).unwrap();
    fs::write(folder.join("VERSION"), disk.content("VERSION").unwrap()).unwrap();
    for name in disk.list("log").unwrap() {
        let name = format!("log/{name}");
        fs::write(folder.join(&name), disk.content(&name).unwrap()).unwrap();
    }
    let store = zstd::encode_all(&disk.content("store.redb").unwrap()[..], 19).unwrap();
    fs::write(folder.join("store.redb.zst"), store).unwrap();
}

/// A checkpoint after 50 observations, and 40 more in the log.
#[test]
fn a_data_folder_of_the_first_version_opens() {
    let engine = open(&left_behind(1));
    assert_eq!(engine.recovery().replayed_records, 1);
    let cids: Vec<String> = sealed(&engine).iter().map(|stored| stored.cid.to_string()).collect();
    // The two newest were sealed from the log, so their payload has the newest version.
    assert_eq!(
        cids,
        [
            "bafyreicpf3727azm5mapehldd7q6ldiy2djkdwkxh4moxltpgpi4fr4rti",
            "bafyreidmoovi7y5jysxlqv75swen25kd5f6ws4cgqcttih47rf4px7akle",
            "bafyreicjirrdzlyuj2ek5erq6t2igiicilchcke7bpm4lbaiu5rg4hq7ua",
            "bafyreie2kirxslge5lr2dpnq3a7yjgk5sy5nj3qirtupd3utwun6ll2qo4",
        ]
    );
    let pumps = CollectionName::new("pumps").unwrap();
    let view = engine.entity(&pumps, &entity("pump-1")).unwrap();
    // The two newest observations wait in the lateness window.
    assert_eq!((view.observations, view.waiting), (90, 2));
    let rows = engine.observations(&pumps, &view.entity, TimeRange::ALL, 100).unwrap().rows;
    assert_eq!((rows.count(), rows.row(20)), (88, &[0.25, 0.0][..]));
}
