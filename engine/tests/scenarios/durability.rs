//! Acknowledged is durable: whatever the disk does, nothing acknowledged is lost and nothing doubled.

use std::sync::Arc;

use dunlin_engine::{
    Config, Engine, OpenError, Recovery, Stored, TimeRange, WriteError,
    storage::{Simulated, Storage},
};

use crate::support::{cids, course, engine_with, entity, name, open, sealed, spec};

/// Checkpoints follow every few batches, so that crashes hit them too.
fn busy() -> Config {
    Config { checkpoint_log_bytes: 2000, ..Config::default() }
}

fn try_open(disk: &Simulated) -> Result<Engine, OpenError> {
    Engine::open_storage(Arc::new(disk.clone()), busy())
}

const BATCHES: i64 = 12;

fn batch(index: i64) -> Vec<dunlin_engine::Observation> {
    let mut batch = course("a", index * 20..index * 20 + 20, 15);
    batch.extend(course("b", index * 20..index * 20 + 20, 33));
    batch
}

/// Runs the workload until something fails; returns how many batches were acknowledged, if the
/// collection was.
fn run(disk: &Simulated) -> Option<i64> {
    let engine = try_open(disk).ok()?;
    engine.create_collection(spec(2)).ok()?;
    for index in 0..BATCHES {
        if engine.ingest(&name(), batch(index)).is_err() {
            return Some(index);
        }
    }
    engine.close().ok().map(|()| BATCHES)
}

/// What a run that nothing disturbs leaves.
fn undisturbed() -> (Vec<Stored>, u64) {
    let disk = Simulated::new();
    assert_eq!(run(&disk), Some(BATCHES));
    (sealed(&open(&disk)), disk.steps())
}

/// Opens what a crash left and checks it against what was acknowledged; then sends everything again.
#[track_caller]
fn recover(left: &Simulated, acknowledged: Option<i64>, expected: &[Stored], what: &str) {
    let engine = try_open(left).unwrap_or_else(|error| panic!("{what}: {error}"));
    if let Some(batches) = acknowledged {
        for id in ["a", "b"] {
            let found = engine.observations(&name(), &entity(id), TimeRange::ALL, usize::MAX);
            let times = found.map(|answer| answer.rows.count()).unwrap_or_default();
            // One more batch may have reached the disk without its acknowledgement.
            let range = batches * 20..=(batches + 1) * 20;
            assert!(range.contains(&(times as i64)), "{what}: {times} of {batches} batches");
        }
    }
    engine.create_collection(spec(2)).unwrap();
    let mut accepted = 0;
    for index in 0..BATCHES {
        accepted += engine.ingest(&name(), batch(index)).unwrap().accepted;
    }
    assert!(accepted <= (BATCHES - acknowledged.unwrap_or(0)) as u64 * 40, "{what}");
    assert_eq!(sealed(&engine), expected, "{what}");
    engine.close().unwrap();
    drop(engine);
    assert_eq!(sealed(&try_open(&left.crash()).unwrap()), expected, "{what}");
}

#[test]
fn a_crash_at_any_write_loses_nothing_acknowledged() {
    let (expected, steps) = undisturbed();
    assert!(expected.len() > 10 && steps > 100, "{} segments, {steps} steps", expected.len());
    for step in 0..steps {
        let disk = Simulated::new();
        disk.fail_after(step);
        let acknowledged = run(&disk);
        recover(&disk.crash(), acknowledged, &expected, &format!("step {step}"));
    }
}

#[test]
fn a_crash_that_keeps_some_of_the_unsynced_writes_loses_nothing_either() {
    let (expected, steps) = undisturbed();
    let mut state = 7_u64;
    let mut coin = move || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 63 == 1
    };
    for step in 0..steps {
        let disk = Simulated::new();
        disk.fail_after(step);
        let acknowledged = run(&disk);
        let left = disk.crash_keeping(&mut coin);
        recover(&left, acknowledged, &expected, &format!("step {step}"));
    }
}

#[test]
fn a_process_that_dies_between_writes_loses_nothing() {
    let (expected, _) = undisturbed();
    for batches in 0..=BATCHES {
        let disk = Simulated::new();
        let engine = try_open(&disk).unwrap();
        engine.create_collection(spec(2)).unwrap();
        for index in 0..batches {
            engine.ingest(&name(), batch(index)).unwrap();
        }
        // The machine lives on, so everything written is there, synced or not.
        recover(&disk.crash_keeping(|| true), Some(batches), &expected, "killed");
    }
}

#[test]
fn a_store_that_kept_more_than_its_checkpoint_goes_back_to_it() {
    let disk = Simulated::new();
    let engine = open(&disk);
    engine.create_collection(spec(2)).unwrap();
    engine.ingest(&name(), course("a", 0..200, 20)).unwrap();
    engine.checkpoint().unwrap();
    engine.ingest(&name(), course("a", 200..900, 20)).unwrap();
    let expected = sealed(&engine);
    // Dropping the database makes what it holds durable, beyond the checkpoint. Were those segments
    // still there in the replay, the ones before them would seem less new than they were.
    drop(engine);
    assert_eq!(sealed(&open(&disk)), expected);
}

#[test]
fn equal_payload_of_two_entities_survives_going_back() {
    let disk = Simulated::new();
    let engine = open(&disk);
    engine.create_collection(spec(2)).unwrap();
    engine.ingest(&name(), course("a", 0..50, 20)).unwrap();
    engine.checkpoint().unwrap();
    engine.ingest(&name(), course("b", 0..50, 20)).unwrap();
    let all = sealed(&engine);
    let (of_a, of_b) = (all[0].segment.payload()[0], all[2].segment.payload()[0]);
    assert_eq!((all.len(), of_a), (4, of_b));
    drop(engine);
    let engine = open(&disk);
    assert!(engine.block(&of_a).unwrap().is_some());
    for stored in sealed(&engine) {
        assert_eq!(engine.segment_blocks(&stored.cid).unwrap().unwrap().payload.len(), 1);
    }
}

#[test]
fn an_open_regime_goes_on_where_it_was() {
    let disk = Simulated::new();
    let engine = open(&disk);
    engine.create_collection(spec(2)).unwrap();
    engine.ingest(&name(), course("a", 0..100, 1000)).unwrap();
    let before = engine.entity(&name(), &entity("a")).unwrap();
    engine.checkpoint().unwrap();
    engine.ingest(&name(), course("a", 100..150, 1000)).unwrap();
    let engine = open(&disk.crash());
    assert_eq!(engine.recovery(), Recovery { replayed_records: 1, torn_bytes: 0 });
    let after = engine.entity(&name(), &entity("a")).unwrap();
    assert_eq!((before.observations, after.observations), (100, 150));
    assert_eq!(after.open.unwrap().count, 150);
}

#[test]
fn a_regime_that_was_sealed_on_demand_is_sealed_there_again() {
    let disk = Simulated::new();
    let engine = open(&disk);
    engine.create_collection(spec(2)).unwrap();
    engine.ingest(&name(), course("a", 0..30, 1000)).unwrap();
    let cid = engine.seal(&name(), &entity("a")).unwrap().unwrap();
    assert_eq!(engine.seal(&name(), &entity("a")).unwrap(), None);
    engine.ingest(&name(), course("a", 30..60, 1000)).unwrap();
    let again = open(&disk.crash());
    assert_eq!(sealed(&again), sealed(&engine));
    assert_eq!(again.segment(&cid).unwrap().unwrap().segment.count(), 30);
}

#[test]
fn a_full_disk_refuses_writes_until_the_restart() {
    let disk = Simulated::new();
    let engine = open(&disk);
    engine.create_collection(spec(2)).unwrap();
    engine.ingest(&name(), course("a", 0..50, 10)).unwrap();
    disk.fail_after(0);
    let refused = engine.ingest(&name(), course("a", 50..60, 10)).unwrap_err();
    assert!(matches!(refused, WriteError::Poisoned { .. }), "{refused}");
    assert!(refused.to_string().contains("restart"), "{refused}");
    // Room alone is not enough: nobody knows what the failed write left behind.
    disk.heal();
    assert!(matches!(
        engine.ingest(&name(), course("a", 50..60, 10)),
        Err(WriteError::Poisoned { .. })
    ));
    assert!(engine.close().is_err());
    assert_eq!(engine.counters().writes_refused, 2);
    // Questions are still answered, and a restart goes on.
    assert_eq!(engine.entity(&name(), &entity("a")).unwrap().observations, 50);
    drop(engine);
    let engine = open(&disk);
    assert_eq!(engine.ingest(&name(), course("a", 50..60, 10)).unwrap().accepted, 10);
}

#[test]
fn a_failed_sync_is_final_and_what_it_was_for_is_never_relied_on() {
    let observations = |engine: &Engine| engine.entity(&name(), &entity("a")).unwrap().observations;
    // Once it fails and the system forgets what was to be written; once it never happens.
    for fail in [|disk: &Simulated| disk.fail_sync_after(0), |disk: &Simulated| disk.fail_after(1)]
    {
        let disk = Simulated::new();
        let engine = open(&disk);
        engine.create_collection(spec(2)).unwrap();
        engine.ingest(&name(), course("a", 0..50, 10)).unwrap();
        fail(&disk);
        for _ in 0..3 {
            let refused = engine.ingest(&name(), course("a", 50..60, 10)).unwrap_err();
            assert!(matches!(refused, WriteError::Poisoned { .. }), "{refused}");
            // The disk is well from here on, and another sync would succeed.
            disk.heal();
        }
        assert_eq!(observations(&open(&disk.crash())), 50);
        drop(engine);
        // A new process still reads what was never written, takes the same batch in once more, and goes on.
        let engine = open(&disk);
        engine.ingest(&name(), course("a", 50..60, 10)).unwrap();
        assert_eq!(observations(&open(&disk.crash())), 60);
        engine.ingest(&name(), course("a", 60..70, 10)).unwrap();
        assert_eq!(observations(&open(&disk.crash())), 70);
    }
}

#[test]
fn no_failed_sync_leaves_a_folder_that_a_later_crash_ruins() {
    let (expected, _) = undisturbed();
    for further in [0, 2, BATCHES] {
        for syncs in 0.. {
            let disk = Simulated::new();
            let engine = try_open(&disk).unwrap();
            engine.create_collection(spec(2)).unwrap();
            disk.fail_sync_after(syncs);
            let is_taken = |index: &i64| engine.ingest(&name(), batch(*index)).is_ok();
            let taken = (0..BATCHES).take_while(is_taken).count() as i64;
            drop(engine);
            // A new process on the same system reads what was never written, and goes on with that for a
            // while, over checkpoints; then the power goes.
            let what = format!("sync {syncs}, {further} further");
            let engine = try_open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            let told = BATCHES.min(taken + further);
            for index in taken..told {
                engine.ingest(&name(), batch(index)).unwrap();
            }
            recover(&disk.crash(), Some(told), &expected, &what);
            if taken == BATCHES {
                // More than the batches themselves: checkpoints of log and store.
                assert!(syncs as i64 > BATCHES + 8, "{syncs} syncs");
                break;
            }
        }
    }
}

#[test]
fn a_closed_engine_answers_but_takes_nothing_in() {
    let engine = engine_with(&spec(2));
    engine.ingest(&name(), course("a", 0..50, 10)).unwrap();
    engine.close().unwrap();
    engine.close().unwrap();
    let refused = engine.ingest(&name(), course("a", 50..60, 10));
    assert!(matches!(refused, Err(WriteError::Closed)));
    assert!(!sealed(&engine).is_empty());
}

#[test]
fn after_a_clean_close_nothing_is_replayed() {
    let disk = Simulated::new();
    let engine = open(&disk);
    engine.create_collection(spec(2)).unwrap();
    engine.ingest(&name(), course("a", 0..50, 10)).unwrap();
    engine.close().unwrap();
    drop(engine);
    assert_eq!(open(&disk).recovery(), Recovery::default());
}

/// Four writers at once, each with an entity of its own; returns how many batches of each were acknowledged.
fn run_together(engine: &Engine) -> Vec<i64> {
    let write = |writer: usize| {
        let batch = |index: i64| course(&format!("w{writer}"), index * 10..index * 10 + 10, 15);
        let is_taken = |index: &i64| engine.ingest(&name(), batch(*index)).is_ok();
        (0..BATCHES).take_while(is_taken).count() as i64
    };
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..4).map(|writer| scope.spawn(move || write(writer))).collect();
        writers.into_iter().map(|writer| writer.join().unwrap()).collect()
    })
}

#[test]
fn a_crash_under_several_writers_loses_nothing_that_any_of_them_was_told() {
    let ids = [0, 1, 2, 3].map(|writer| format!("w{writer}"));
    let segments = |engine: &Engine| ids.each_ref().map(|id| cids(engine, id));
    let undisturbed = engine_with(&spec(2));
    run_together(&undisturbed);
    let expected = segments(&undisturbed);
    let mut shared = 0;
    for step in 0.. {
        let disk = Simulated::new();
        let engine = try_open(&disk).unwrap();
        engine.create_collection(spec(2)).unwrap();
        disk.fail_after(step);
        let acknowledged = run_together(&engine);
        let records = engine.counters().log_records;
        shared += u32::from((records as i64) < acknowledged.iter().sum());
        let left = disk.crash();
        let engine = try_open(&left).unwrap_or_else(|error| panic!("step {step}: {error}"));
        for (id, batches) in ids.iter().zip(&acknowledged) {
            let view = engine.entity(&name(), &entity(id));
            let there = view.map_or(0, |view| view.observations as i64);
            // The batch that failed may have reached the disk, alone or with those of others.
            let allowed = [batches * 10, (batches + 1) * 10];
            assert!(allowed.contains(&there), "step {step}: {there} of {batches} batches");
        }
        run_together(&engine);
        assert_eq!(segments(&engine), expected, "step {step}");
        if acknowledged.iter().all(|done| *done == BATCHES) {
            break;
        }
    }
    // Or else no group had more than one writer's batch in it, and nothing was shown.
    assert!(shared > 0);
}

#[test]
fn a_log_damaged_behind_the_checkpoint_refuses_to_open() {
    let disk = Simulated::new();
    let engine = open(&disk);
    engine.create_collection(spec(2)).unwrap();
    for index in 0..3 {
        engine.ingest(&name(), batch(index)).unwrap();
    }
    let left = disk.crash();
    let file = "log/00000000000000000001.log";
    let mut content = left.content(file).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    left.put(file, content);
    let refused = try_open(&left).unwrap_err();
    assert!(matches!(refused, OpenError::LogDamaged { .. }), "{refused}");
}

#[test]
fn a_damaged_segment_stops_no_writer() {
    let disk = Simulated::new();
    let engine = open(&disk);
    engine.create_collection(spec(2)).unwrap();
    engine.ingest(&name(), course("a", 0..200, 20)).unwrap();
    let damaged = sealed(&engine)[3].segment.to_block();
    engine.close().unwrap();
    drop(engine);
    let file = disk.open("store.redb").unwrap();
    let mut bytes = vec![0; file.byte_count().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    let found = bytes.windows(damaged.bytes().len()).position(|part| part == damaged.bytes());
    file.write_at(found.expect("it is stored as it is") as u64, &[0xff]).unwrap();
    file.sync().unwrap();
    drop(file);

    let engine = open(&disk);
    assert!(engine.segment(damaged.cid()).is_err());
    let ack = engine.ingest(&name(), course("a", 200..300, 20)).unwrap();
    assert_eq!((ack.accepted, ack.sealed), (100, 5));
    // Its segments are read again where no cache has them.
    drop(engine);
    let engine = open(&disk);
    assert_eq!(engine.recovery().replayed_records, 1);
    assert_eq!(engine.ingest(&name(), course("a", 300..400, 20)).unwrap().sealed, 5);
}
