//! What is taken in, what is refused, and that nothing but the observations matters.

use std::collections::BTreeMap;

use dunlin_engine::{
    Ack, CollectionSpec, Config, ErrorBound, Fidelity, Metadata, Metric, Observation,
    ObservationError, TimeRange, Timestamp, Units, WriteError, storage::Simulated,
};
use proptest::prelude::*;

use crate::support::{cids, course, engine_with, entity, name, observation, open, sealed, spec};

#[track_caller]
fn counts(ack: Ack) -> (u64, u64, u64) {
    (ack.accepted, ack.duplicate, ack.late)
}

#[test]
fn a_bad_observation_refuses_its_whole_batch() {
    let engine = engine_with(&spec(2));
    let good = || course("a", 0..5, 10);
    for (bad, expected) in [
        (observation("a", 9, &[0.5]), ObservationError::Dim { expected: 2, found: 1 }),
        (observation("a", 9, &[0.5, f32::NAN]), ObservationError::NotFinite { channel: 1 }),
        (
            observation("a", 9, &[f32::NEG_INFINITY, 0.5]),
            ObservationError::NotFinite { channel: 0 },
        ),
    ] {
        let mut batch = good();
        batch.push(bad);
        batch.extend(course("a", 10..12, 10));
        match engine.ingest(&name(), batch) {
            Err(WriteError::BadObservation { index: 5, cause }) => assert_eq!(cause, expected),
            other => panic!("{other:?}"),
        }
    }
    assert!(engine.entities(&name(), None, 10).unwrap().is_empty());
    assert_eq!(counts(engine.ingest(&name(), good()).unwrap()), (5, 0, 0));
    assert_eq!(engine.counters().writes_refused, 3);
}

#[test]
fn limits_are_named() {
    let small = CollectionSpec { entities_max: 2, ..spec(2) };
    let engine = engine_with(&small);
    engine.ingest(&name(), course("a", 0..2, 10)).unwrap();
    let mut two_more = course("b", 0..2, 10);
    two_more.extend(course("c", 0..2, 10));
    let refused = engine.ingest(&name(), two_more).unwrap_err();
    assert!(matches!(refused, WriteError::TooManyEntities { entities_max: 2, .. }), "{refused}");
    engine.ingest(&name(), course("b", 0..2, 10)).unwrap();
    assert_eq!(engine.entities(&name(), None, 10).unwrap().len(), 2);

    let large = course("a", 0..Config::BATCH_OBSERVATIONS_MAX as i64 + 1, 10);
    assert!(matches!(engine.ingest(&name(), large), Err(WriteError::BatchTooLarge { .. })));
    let missing = dunlin_engine::CollectionName::new("missing").unwrap();
    assert!(matches!(
        engine.ingest(&missing, course("a", 0..1, 10)),
        Err(WriteError::UnknownCollection { .. })
    ));
    assert_eq!(engine.ingest(&name(), Vec::new()).unwrap(), Ack::default());
}

#[test]
fn a_specification_never_changes() {
    let engine = engine_with(&spec(2));
    engine.create_collection(spec(2)).unwrap();
    let other = CollectionSpec { metric: Metric::Cosine, ..spec(2) };
    let refused = engine.create_collection(other).unwrap_err();
    assert!(matches!(refused, WriteError::OtherSpec { .. }), "{refused}");
    let bounded = CollectionSpec { fidelity: Fidelity::Bounded, ..spec(2) };
    let refused = engine.create_collection(bounded).unwrap_err();
    assert!(refused.to_string().contains("the error bound is missing"), "{refused}");
    assert_eq!(*engine.collection(&name()).unwrap(), spec(2));
}

#[test]
fn sending_a_batch_again_changes_nothing() {
    let engine = engine_with(&CollectionSpec { lateness_us: 5_000_000, ..spec(2) });
    let batch = course("a", 0..100, 20);
    assert_eq!(counts(engine.ingest(&name(), batch.clone()).unwrap()), (100, 0, 0));
    let (before, open) = (sealed(&engine), engine.entity(&name(), &entity("a")).unwrap());
    // What has left the window is late, what is still known is a duplicate; neither is taken in.
    assert_eq!(counts(engine.ingest(&name(), batch).unwrap()), (0, 6, 94));
    assert_eq!(sealed(&engine), before);
    assert_eq!(engine.entity(&name(), &entity("a")).unwrap(), open);
}

#[test]
fn observations_may_be_late_within_the_window() {
    let ordered = engine_with(&CollectionSpec { lateness_us: 4_000_000, ..spec(2) });
    ordered.ingest(&name(), course("a", 0..100, 20)).unwrap();
    let shuffled = engine_with(&CollectionSpec { lateness_us: 4_000_000, ..spec(2) });
    let mut batch = course("a", 0..100, 20);
    batch.chunks_exact_mut(4).for_each(<[Observation]>::reverse);
    assert_eq!(counts(shuffled.ingest(&name(), batch).unwrap()), (100, 0, 0));
    assert_eq!(cids(&shuffled, "a"), cids(&ordered, "a"));
    assert!(!cids(&shuffled, "a").is_empty());
    let late = shuffled.ingest(&name(), course("a", 90..91, 20)).unwrap();
    assert_eq!(counts(late), (0, 0, 1));
    assert_eq!(shuffled.counters().observations_late, 1);
}

#[test]
fn lossless_collections_keep_every_bit() {
    let units = Units::Range { lower: vec![-1e38; 3], upper: vec![1e38; 3] };
    let engine = engine_with(&CollectionSpec { units, ..spec(3) });
    let odd = [-0.0, 0.0, f32::MIN_POSITIVE / 8.0, f32::MAX, f32::MIN, 1e-45, -1e-45, 0.1];
    let note = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let batch = (0..200).map(|s| {
        let at = |offset: usize| odd[(s as usize * 3 + offset) % odd.len()];
        let metadata = (s % 7 == 0).then(|| Metadata::new(note.clone()).unwrap());
        Observation { metadata, ..observation("a", s, &[at(0), at(1), at(2)]) }
    });
    let batch: Vec<Observation> = batch.collect();
    engine.ingest(&name(), batch.clone()).unwrap();
    engine.seal(&name(), &entity("a")).unwrap();
    assert!(!sealed(&engine).is_empty());
    let rows = engine.observations(&name(), &entity("a"), TimeRange::ALL, 1000).unwrap().rows;
    assert_eq!(rows.count(), 200);
    for (index, sent) in batch.iter().enumerate() {
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(rows.row(index)), bits(&sent.vector), "row {index}");
        assert_eq!(
            (rows.time(index), rows.metadata(index)),
            (Some(sent.timestamp), sent.metadata.as_ref())
        );
    }
}

#[test]
fn a_segment_has_a_largest_size() {
    let engine = engine_with(&spec(1));
    for start in [0_i64, 50_000, 100_000] {
        let calm = (start..start + 50_000).map(|s| observation("a", s, &[0.5])).collect();
        engine.ingest(&name(), calm).unwrap();
    }
    let counts: Vec<u32> = sealed(&engine).iter().map(|s| s.segment.count()).collect();
    assert_eq!(counts, [65_536, 65_536]);
    // 4,096 channels reach the limit on bytes first, and split their payload.
    let engine = engine_with(&spec(4096));
    for start in 0..3 {
        let calm = (start * 1000..start * 1000 + 1000).map(|s| observation("a", s, &[0.5; 4096]));
        engine.ingest(&name(), calm.collect()).unwrap();
    }
    let stored = sealed(&engine);
    assert_eq!(stored.len(), 1);
    let blocks = engine.segment_blocks(&stored[0].cid).unwrap().unwrap();
    assert!(blocks.payload.len() > 3 && stored[0].segment.count() > 2000);
    assert!(stored[0].segment.encode().len() <= dunlin_engine::SEGMENT_BYTES_MAX);
}

#[test]
fn noise_floor_units_find_regimes_in_any_scale() {
    let dim = dunlin_engine::Dim::new(2).unwrap();
    let spec = CollectionSpec::new(name(), dim, Units::NoiseFloor);
    let engine = engine_with(&spec);
    let wobble = |s: i64| (s * 7919 % 13) as f32;
    let value = |s: i64| if s < 500 { wobble(s) } else { wobble(s) + 300.0 };
    let batch = (0..1000).map(|s| observation("a", s, &[value(s) * 1e6, value(s) * 1e-6]));
    engine.ingest(&name(), batch.collect()).unwrap();
    let stored = sealed(&engine);
    assert_eq!((stored.len(), stored[0].segment.end()), (1, Timestamp(499_000_000)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Segments depend on each entity's observations alone: however they are cut into batches, mixed
    /// with another entity's, late within the window, interrupted by checkpoints or restarts, the CIDs are the same.
    #[test]
    fn batches_interleaving_and_restarts_leave_no_trace(
        cuts in prop::collection::vec((1usize..60, 1usize..60, 0u8..6), 1..40),
        dwell in 5i64..60,
        fidelity in prop::sample::select(vec![Fidelity::Summary, Fidelity::Bounded, Fidelity::Lossless]),
        metric in prop::sample::select(vec![Metric::Euclidean, Metric::Cosine, Metric::Dot]),
        (learns_noise, is_late, has_metadata) in any::<(bool, bool, bool)>(),
    ) {
        let units = if learns_noise { Units::NoiseFloor } else { spec(2).units };
        let error_bound = (fidelity == Fidelity::Bounded).then_some(ErrorBound::Absolute(vec![0.01; 2]));
        let lateness_us = if is_late { 3_000_000 } else { 0 };
        let spec = CollectionSpec { fidelity, error_bound, metric, units, lateness_us, ..spec(2) };
        let noted = |mut course: Vec<Observation>| {
            for observation in course.iter_mut().step_by(3).filter(|_| has_metadata) {
                let note = [("minute".to_owned(), (observation.timestamp.0 / 60_000_000).to_string())];
                observation.metadata = Some(Metadata::new(note.into()).unwrap());
            }
            course
        };
        let (a, b) = (noted(course("a", 0..400, dwell)), noted(course("b", 0..400, dwell + 7)));
        let whole = engine_with(&spec);
        whole.ingest(&name(), a.clone()).unwrap();
        whole.ingest(&name(), b.clone()).unwrap();

        let mut disk = Simulated::new();
        let mut engine = open(&disk);
        engine.create_collection(spec).unwrap();
        let (mut a_sent, mut b_sent) = (0, 0);
        for (a_count, b_count, event) in cuts.into_iter().chain([(400, 400, 0)]) {
            let (a_end, b_end) = ((a_sent + a_count).min(400), (b_sent + b_count).min(400));
            let mut batch = Vec::new();
            let longest = (a_end - a_sent).max(b_end - b_sent);
            for index in 0..longest {
                batch.extend(a[a_sent..a_end].get(index).cloned());
                batch.extend(b[b_sent..b_end].get(index).cloned());
            }
            if is_late {
                // Each comes at most three places, so seconds, late.
                batch.chunks_mut(4).for_each(<[Observation]>::reverse);
            }
            let sent = batch.len() as u64;
            prop_assert_eq!(counts(engine.ingest(&name(), batch).unwrap()), (sent, 0, 0));
            (a_sent, b_sent) = (a_end, b_end);
            match event {
                4 => engine.checkpoint().unwrap(),
                5 => {
                    disk = disk.crash();
                    engine = open(&disk);
                }
                _ => {}
            }
        }
        // Short regimes end; of those with a noise floor or by direction that is not promised.
        prop_assert!(learns_noise || metric != Metric::Euclidean || cids(&whole, "a").len() > 3);
        prop_assert_eq!(cids(&engine, "a"), cids(&whole, "a"));
        prop_assert_eq!(cids(&engine, "b"), cids(&whole, "b"));
    }
}
