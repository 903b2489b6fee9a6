//! Compaction in the store: a past becomes an outline, and what is asked about it stays right, whatever
//! happens on the way.

use std::sync::Arc;

use dunlin_engine::{
    ChangeOrder, ChangesQuery, CollectionSpec, Compacted, CompactionBudget, CompactionError,
    CompactionPolicy, Config, Course, Engine, ErrorBound, Fidelity, HistoryQuery, KnnQuery,
    Metadata, Observation, Outline, Rows, SegmentPolicy, Source, Stored, TimeRange, Timestamp,
    TrajectoryQuery, storage::Simulated,
};

use crate::support::{course, engine_with, entity, name, open, sealed, spec};

/// Regimes that an entity is compared with, and that compaction leaves alone.
const KEPT: u32 = 8;

const DWELL: i64 = 10;

/// The bound of bounded collections, in shares of the range, which is 1.
const ERROR: f32 = 0.01;

fn summaries() -> CollectionSpec {
    keeping(Fidelity::Summary)
}

fn keeping(fidelity: Fidelity) -> CollectionSpec {
    let error_bound = (fidelity == Fidelity::Bounded).then_some(ErrorBound::OfRange(ERROR.into()));
    let spec = CollectionSpec { fidelity, error_bound, ..spec(2) };
    let policy = SegmentPolicy {
        threshold: 0.02,
        slow_threshold: 0.015,
        novelty_regimes_max: KEPT,
        ..spec.policy
    };
    CollectionSpec { policy, ..spec }
}

fn policy(before: i64) -> CompactionPolicy {
    CompactionPolicy {
        before: Timestamp(before * 1_000_000),
        budget: CompactionBudget::Nrmse(0.05),
        flag_drift_min: 0.16,
        segments_min: CompactionPolicy::SEGMENTS_MIN,
    }
}

fn past(id: &str) -> Vec<Observation> {
    course(id, 0..4_000, DWELL)
}

/// Compacts until there is no more to do.
fn compact_all(engine: &Engine, id: &str, policy: &CompactionPolicy) -> Vec<Compacted> {
    std::iter::from_fn(|| engine.compact_course(&name(), &entity(id), policy, &|_| true).unwrap())
        .collect()
}

fn of(engine: &Engine, id: &str) -> Vec<Stored> {
    sealed(engine).into_iter().filter(|stored| *stored.segment.entity() == entity(id)).collect()
}

fn history(engine: &Engine, id: &str) -> (Vec<(Timestamp, Vec<f32>)>, dunlin_engine::Coverage) {
    let query = HistoryQuery {
        collection: name(),
        entity: entity(id),
        range: TimeRange::between(Timestamp(0), Timestamp(3_999_000_000)),
        resolution_us: Some(1_000_000),
    };
    let answer = engine.history(&query).unwrap();
    (answer.points.iter().map(|(time, row)| (time, row.to_vec())).collect(), answer.coverage)
}

/// Returns the root mean square error of an entity's course against what was observed.
fn error_of(engine: &Engine, id: &str, observed: &[Observation]) -> f64 {
    let (points, _) = history(engine, id);
    assert_eq!(points.len(), observed.len());
    let squares = points.iter().zip(observed).flat_map(|((time, row), observation)| {
        assert_eq!(*time, observation.timestamp);
        let values = observation.vector.iter();
        row.iter()
            .zip(values)
            .map(|(mean, value)| f64::from(mean - value).powi(2))
            .collect::<Vec<_>>()
    });
    (squares.sum::<f64>() / (2 * observed.len()) as f64).sqrt()
}

fn changes(engine: &Engine, range: TimeRange) -> Vec<dunlin_engine::Change> {
    let query = ChangesQuery {
        collection: name(),
        entity: Some(entity("a")),
        range,
        limit: 10_000,
        order: ChangeOrder::Newest,
    };
    engine.changes(&query).unwrap().changes
}

#[test]
fn outlines_take_the_share_of_bytes_that_they_may() {
    let (observed, mut before) = (past("a"), (f64::INFINITY, 0));
    for share in [0.005, 0.02] {
        let engine = engine_with(&summaries());
        engine.ingest(&name(), observed.clone()).unwrap();
        let budget = CompactionBudget::Share(share);
        let done = compact_all(&engine, "a", &CompactionPolicy { budget, ..policy(4_000) });
        let (all, left) = (done[0].bytes_before as f64, done[0].bytes_after as f64);
        assert!(done.len() == 1 && left <= (share * all).ceil(), "{share}: {done:?}");
        // More bytes are used, and buy a smaller error.
        let now = (error_of(&engine, "a", &observed), done[0].bytes_after);
        assert!(now.0 < before.0 && now.1 > before.1, "{share}: {now:?} after {before:?}");
        before = now;
    }
    let engine = engine_with(&summaries());
    engine.ingest(&name(), observed).unwrap();
    for share in [0.0, -1.0, 1.5, f64::NAN, f64::INFINITY] {
        let nonsense = CompactionPolicy { budget: CompactionBudget::Share(share), ..policy(4_000) };
        let refused = engine.compact_course(&name(), &entity("a"), &nonsense, &|_| true);
        assert!(matches!(refused, Err(CompactionError::Setting(_))), "{share}: {refused:?}");
    }
}

#[test]
fn a_past_becomes_small_and_stays_known_within_the_error() {
    let engine = engine_with(&summaries());
    for id in ["a", "b"] {
        engine.ingest(&name(), past(id)).unwrap();
    }
    let (before, of_b) = (of(&engine, "a"), of(&engine, "b"));
    let (changed, exact) = (changes(&engine, TimeRange::ALL), error_of(&engine, "a", &past("a")));
    let done = compact_all(&engine, "a", &policy(3_000));
    assert_eq!(done.len(), 1);
    let (segments, kept) = (done[0].segments, of(&engine, "a"));
    assert!(segments > 200 && segments + kept.len() as u64 == before.len() as u64, "{done:?}");
    assert_eq!(kept, before[segments as usize..], "the newer ones are as they were");
    assert!(kept.iter().all(|stored| stored.segment.end().0 >= 3_000_000_000 - 10_000_000));
    assert!(done[0].bytes_after * 5 < done[0].bytes_before, "{done:?}");
    assert_eq!(of(&engine, "b"), of_b);

    // The course is within the error, and coverage says where it comes from.
    let error = error_of(&engine, "a", &past("a"));
    assert!(exact < error && error <= 0.05, "{exact} {error}");
    let coverage = history(&engine, "a").1;
    assert_eq!((coverage.outlines, coverage.segments_scanned), (1, kept.len() as u64));

    // Large changes are still events, at their time and about as far.
    let large = |changes: &[dunlin_engine::Change]| {
        let large = changes.iter().filter(|change| change.distance >= 0.2);
        large.map(|change| change.at).collect::<Vec<_>>()
    };
    let now = changes(&engine, TimeRange::ALL);
    let times: Vec<Timestamp> = now.iter().map(|change| change.at).collect();
    assert!(large(&changed).iter().all(|at| times.contains(at)));
    let outlined = now.iter().find(|change| matches!(change.to, Source::Outlined(_))).unwrap();
    let Source::Outlined(cid) = outlined.to else { unreachable!() };
    let block = engine.block(&cid).unwrap().unwrap();
    assert!(Outline::decode(block.bytes()).is_ok());
    // A range that begins behind the outline knows what was before.
    let first_kept = kept[0].segment.start();
    let range = TimeRange::between(first_kept, first_kept);
    assert!(matches!(changes(&engine, range)[0].from, Source::Outlined(_)));

    // The same course as before is still alike.
    let whole = |id: &str| Course { entity: entity(id), range: TimeRange::ALL };
    let query = TrajectoryQuery { collection: name(), a: whole("a"), b: whole("b"), points: 256 };
    let alike = engine.trajectory(&query).unwrap();
    assert!(alike.distance < 0.05 && alike.coverage_a.outlines == 1, "{}", alike.distance);

    // Questions that do not look at outlines say so; those about other times do not.
    let knn = KnnQuery::new(name(), vec![0.3, 0.5], 5);
    assert!(engine.knn(&knn).unwrap().coverage.is_compacted);
    let newer = TimeRange::between(first_kept, Timestamp(4_000_000_000));
    assert!(!engine.knn(&KnnQuery { range: newer, ..knn.clone() }).unwrap().coverage.is_compacted);
    let of_b = KnnQuery { entity: Some(entity("b")), ..knn };
    assert!(!engine.knn(&of_b).unwrap().coverage.is_compacted);
}

#[test]
fn what_is_new_unarchived_or_needed_stays() {
    let engine = engine_with(&summaries());
    engine.ingest(&name(), past("a")).unwrap();
    let before = of(&engine, "a");
    assert!(compact_all(&engine, "a", &policy(100)).is_empty(), "too few are that old");
    let archived = |cid: &_| before[..100].iter().any(|stored| stored.cid == *cid);
    let step = || engine.compact_course(&name(), &entity("a"), &policy(4_000), &archived).unwrap();
    assert_eq!(step().unwrap().segments, 100);
    assert!(step().is_none(), "the rest is not archived");
    compact_all(&engine, "a", &policy(4_000));
    let kept = of(&engine, "a");
    assert!((KEPT as usize..KEPT as usize + 64).contains(&kept.len()), "{}", kept.len());

    let nonsense = CompactionPolicy { budget: CompactionBudget::Nrmse(f64::NAN), ..policy(4_000) };
    let refused = engine.compact_course(&name(), &entity("a"), &nonsense, &|_| true);
    // With nothing left to compact, nobody looks at the settings.
    assert!(matches!(refused, Ok(None) | Err(CompactionError::Setting(_))));
    assert!(engine.compact_course(&name(), &entity("x"), &policy(1), &|_| true).is_err());
}

#[test]
fn what_is_sealed_later_does_not_depend_on_compaction() {
    let (plain, compacted) = (engine_with(&summaries()), Simulated::new());
    let config = || Config { baseline_cache_bytes: 1, ..Config::default() };
    let open = || Engine::open_storage(Arc::new(compacted.clone()), config()).unwrap();
    let mut engine = open();
    engine.create_collection(summaries()).unwrap();
    let observations = past("a");
    for (index, batch) in observations.chunks(400).enumerate() {
        plain.ingest(&name(), batch.to_vec()).unwrap();
        engine.ingest(&name(), batch.to_vec()).unwrap();
        compact_all(&engine, "a", &policy(4_000));
        if index % 3 == 2 {
            drop(engine);
            engine = open();
        }
    }
    let left = of(&engine, "a");
    assert!(left.len() < 80);
    let all = of(&plain, "a");
    assert_eq!(all[all.len() - left.len()..], left);
}

/// Returns all that an entity's history holds, at the collection's fidelity.
fn kept(engine: &Engine, id: &str, range: TimeRange) -> (Rows, dunlin_engine::Coverage) {
    let (collection, entity) = (name(), entity(id));
    let query = HistoryQuery { collection, entity, range, resolution_us: None };
    let answer = engine.history(&query).unwrap();
    (answer.points, answer.coverage)
}

/// Returns the outlines of an entity, by what changes say of them.
fn outlines(engine: &Engine) -> Vec<Outline> {
    let mut cids: Vec<_> = changes(engine, TimeRange::ALL)
        .into_iter()
        .filter_map(|change| match change.to {
            Source::Outlined(cid) => Some(cid),
            _ => None,
        })
        .collect();
    cids.sort_unstable();
    cids.dedup();
    let outline = |cid| Outline::decode(engine.block(&cid).unwrap().unwrap().bytes()).unwrap();
    cids.into_iter().map(outline).collect()
}

#[test]
fn observations_that_are_kept_stay_bit_for_bit_in_fewer_bytes() {
    let disk = Simulated::new();
    let engine = open(&disk);
    engine.create_collection(keeping(Fidelity::Lossless)).unwrap();
    let note = Metadata::new([("note".to_owned(), "spare".to_owned())].into()).unwrap();
    let mut observations = past("a");
    observations[777].metadata = Some(note.clone());
    engine.ingest(&name(), observations).unwrap();
    let all = |engine: &Engine| {
        engine.observations(&name(), &entity("a"), TimeRange::ALL, 10_000).unwrap()
    };
    let before = all(&engine).rows;
    let done = compact_all(&engine, "a", &policy(4_000));
    assert!(
        !done.is_empty() && done.iter().all(|one| one.bytes_after * 3 < one.bytes_before),
        "{done:?}"
    );
    assert_eq!(before.metadata(777), Some(&note));
    for engine in [engine, open(&disk.crash())] {
        let dunlin_engine::ObservationsAnswer { rows, coverage } = all(&engine);
        // Metadata too.
        assert_eq!(rows, before);
        let left = of(&engine, "a").len() as u64;
        assert_eq!((coverage.outlines, coverage.segments_scanned), (done.len() as u64, left));
        assert!(left < 80 && coverage.complete, "{coverage:?}");
        // A part of the past, from the middle of a regime to the middle of another.
        let part = TimeRange::between(Timestamp(504_000_000), Timestamp(517_000_000));
        let (after, _) = kept(&engine, "a", part);
        assert_eq!(after.count(), 14);
        assert!((0..14).all(|at| after.row(at) == before.row(504 + at)));
        let limited = engine.observations(&name(), &entity("a"), TimeRange::ALL, 100).unwrap();
        assert_eq!((limited.rows.count(), limited.coverage.complete), (100, false));
        // The outline names its observations, and whoever has the name can have them.
        for outline in outlines(&engine) {
            assert_eq!(outline.fidelity(), Fidelity::Lossless);
            let blocks = outline.payload().iter().map(|cid| engine.block(cid).unwrap());
            assert!(blocks.zip(outline.payload()).all(|(block, cid)| block.unwrap().cid() == cid));
        }
    }
}

#[test]
fn bounded_values_stay_within_the_one_error_when_they_are_compacted() {
    let engine = engine_with(&keeping(Fidelity::Bounded));
    engine.ingest(&name(), past("a")).unwrap();
    let (before, _) = kept(&engine, "a", TimeRange::ALL);
    let done = compact_all(&engine, "a", &policy(4_000));
    assert!(
        !done.is_empty() && done.iter().all(|one| one.bytes_after * 3 < one.bytes_before),
        "{done:?}"
    );
    let (after, coverage) = kept(&engine, "a", TimeRange::ALL);
    assert_eq!((coverage.outlines, after.count()), (done.len() as u64, before.count()));
    let mut moved = 0;
    for (at, observed) in past("a").iter().enumerate() {
        for (channel, observed) in observed.vector.iter().enumerate() {
            let (first, second) = (before.row(at)[channel], after.row(at)[channel]);
            assert!((observed - second).abs() <= ERROR, "{observed} {first} {second}");
            moved += usize::from(first != second);
            // Nothing that was moved is moved again.
            assert!(first == second || first == *observed, "{observed} {first} {second}");
        }
    }
    assert!(moved * 10 < before.count(), "{moved}");
}

#[test]
fn a_removed_entity_takes_its_outlines_along() {
    let disk = Simulated::new();
    let engine = open(&disk);
    engine.create_collection(keeping(Fidelity::Lossless)).unwrap();
    engine.ingest(&name(), past("a")).unwrap();
    compact_all(&engine, "a", &policy(4_000));
    let gone = outlines(&engine);
    assert!(!gone.is_empty());
    engine.remove(&name(), &entity("a")).unwrap();
    engine.ingest(&name(), course("a", 5_000..5_100, DWELL)).unwrap();
    for engine in [engine, open(&disk.crash())] {
        assert_eq!(
            changes(&engine, TimeRange::ALL).first().map(|c| c.at.0 >= 5_000_000_000),
            Some(true)
        );
        assert!(changes(&engine, TimeRange::ALL).iter().all(|c| c.at.0 >= 5_000_000_000));
        assert_eq!(kept(&engine, "a", TimeRange::ALL).0.count(), 100);
        let payload = gone.iter().flat_map(|outline| outline.payload());
        assert!(payload.map(|cid| engine.block(cid).unwrap()).all(|block| block.is_none()));
    }
}

#[test]
fn a_crash_at_any_write_leaves_segments_or_their_outline() {
    for fidelity in [Fidelity::Summary, Fidelity::Lossless] {
        crash_at_any_write(&keeping(fidelity));
    }
}

/// Returns an entity's observations as they went in.
fn rows_of(observations: &[Observation]) -> Vec<(Timestamp, &[f32])> {
    observations.iter().map(|one| (one.timestamp, one.vector.as_slice())).collect()
}

fn crash_at_any_write(spec: &CollectionSpec) {
    let run = |disk: &Simulated| -> Option<()> {
        let engine = Engine::open_storage(Arc::new(disk.clone()), Config::default()).ok()?;
        engine.create_collection(spec.clone()).ok()?;
        for part in past("a").chunks(1_000) {
            engine.ingest(&name(), part.to_vec()).ok()?;
            while engine
                .compact_course(&name(), &entity("a"), &policy(4_000), &|_| true)
                .ok()?
                .is_some()
            {}
        }
        engine.close().ok()
    };
    let undisturbed = Simulated::new();
    run(&undisturbed).unwrap();
    let steps = undisturbed.steps();
    assert!(steps > 40, "{steps}");
    for step in 0..steps {
        let disk = Simulated::new();
        disk.fail_after(step);
        let _finished = run(&disk);
        let left = disk.crash_keeping(|| step % 3 == 0);
        let engine = open(&left);
        engine.create_collection(spec.clone()).unwrap();
        // Everything again: what is known already changes nothing.
        for part in past("a").chunks(1_000) {
            engine.ingest(&name(), part.to_vec()).unwrap();
        }
        compact_all(&engine, "a", &policy(4_000));
        if spec.fidelity == Fidelity::Lossless {
            let (rows, coverage) = kept(&engine, "a", TimeRange::ALL);
            assert!(rows.iter().eq(rows_of(&past("a"))), "step {step}");
            assert!(coverage.outlines > 0, "step {step}");
        } else {
            let error = error_of(&engine, "a", &past("a"));
            assert!(error <= 0.05, "step {step}: {error}");
        }
    }
}
