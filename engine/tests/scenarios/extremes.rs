//! Input at the edges of what the types can hold: it is refused by name or answered right.

use std::collections::BTreeMap;

use dunlin_engine::{
    AnomaliesQuery, ChangeOrder, ChangesQuery, CollectionSpec, CompactionBudget, CompactionPolicy,
    Course, Dim, EntityId, ErrorBound, Fidelity, HistoryQuery, KnnQuery, Level, Metadata, Metric,
    Observation, ScoreUnits, ScoresQuery, SegmentQuery, TimeRange, Timestamp, TrajectoryQuery,
    Units, storage::Simulated,
};

use crate::support::{course, engine_with, entity, name, observation, open, spec};

const YEAR_US: i64 = 365 * 86_400_000_000;

fn at(time: i64, vector: &[f32]) -> Observation {
    let timestamp = Timestamp(time);
    Observation { entity: entity("a"), timestamp, vector: vector.to_vec(), metadata: None }
}

#[test]
fn a_clock_that_goes_back_by_years_spoils_nothing() {
    let engine = engine_with(&CollectionSpec { lateness_us: 5_000_000, ..spec(2) });
    let now = 55 * YEAR_US;
    let live = |from: i64, to: i64| (from..to).map(move |s| at(now + s * 1_000_000, &[0.5, 0.5]));
    engine.ingest(&name(), live(0, 50).collect()).unwrap();
    // The clock was reset to 1970 for a while; the same batch has good observations, too.
    let back: Vec<_> =
        (0..10).map(|s| at(s * 1_000_000, &[0.1, 0.9])).chain(live(50, 60)).collect();
    let ack = engine.ingest(&name(), back).unwrap();
    assert_eq!((ack.accepted, ack.duplicate, ack.late), (10, 0, 10));
    let view = engine.entity(&name(), &entity("a")).unwrap();
    assert_eq!(view.observations, 60);
    let history = engine.observations(&name(), &entity("a"), TimeRange::ALL, 100).unwrap();
    // The last five may still come in another order.
    assert_eq!(history.rows.count(), 55);
    let times: Vec<_> = history.rows.iter().map(|(time, _)| time.0).collect();
    assert!(times.is_sorted() && times[0] == now);
}

#[test]
fn names_vectors_and_metadata_have_limits() {
    assert!(Dim::new(0).is_err());
    assert!(EntityId::new("x".repeat(10_000)).is_err());
    let bomb = |pairs: usize, bytes: usize| {
        Metadata::new((0..pairs).map(|i| (i.to_string(), "x".repeat(bytes))).collect())
    };
    assert!(bomb(1_000_000, 0).is_err() && bomb(1, 100_000_000).is_err());
    // What is just within the limit is kept, and there is room for it in a segment.
    let engine = engine_with(&spec(2));
    let metadata = bomb(16, 62).unwrap();
    let full = |mut o: Observation| {
        o.metadata = Some(metadata.clone());
        o
    };
    engine.ingest(&name(), course("a", 0..2_000, 500).into_iter().map(full).collect()).unwrap();
    let rows = engine.observations(&name(), &entity("a"), TimeRange::ALL, 5_000).unwrap().rows;
    assert_eq!(rows.count(), 2_000);
    assert!((0..2_000).all(|row| rows.metadata(row) == Some(&metadata)));
    assert!(engine.ingest(&name(), vec![observation("a", 3_000, &[])]).is_err());
}

/// Asks everything there is to ask; whatever the answer, it is one.
fn ask_everything(engine: &dunlin_engine::Engine, vector: &[f32]) {
    let (collection, a) = (name(), entity("a"));
    let ranges = [
        TimeRange::ALL,
        TimeRange::between(Timestamp(i64::MIN), Timestamp(i64::MIN)),
        TimeRange::between(Timestamp(i64::MAX), Timestamp(i64::MAX)),
        TimeRange::between(Timestamp(-1), Timestamp(1)),
    ];
    for range in ranges {
        for k in [0, 1, usize::MAX] {
            let query = KnnQuery { range, ..KnnQuery::new(collection.clone(), vector.to_vec(), k) };
            let answer = engine.knn(&query).unwrap();
            assert!(answer.neighbors.len() <= k);
            assert!(answer.neighbors.iter().all(|near| !near.distance.is_nan()), "{answer:?}");
            for level in [Level::Regimes, Level::Observations { window: 3 }] {
                for units in [ScoreUnits::Range, ScoreUnits::Blended] {
                    let query = AnomaliesQuery {
                        collection: collection.clone(),
                        entity: None,
                        range,
                        k,
                        references: Vec::new(),
                        fade_us: Some(u64::MAX),
                        level,
                        units,
                        known_after_us: u64::MAX,
                    };
                    if let Ok(answer) = engine.anomalies(&query) {
                        assert!(answer.anomalies.iter().all(|anomaly| !anomaly.score.is_nan()));
                    }
                }
            }
            let order = ChangeOrder::Largest;
            let entity = Some(a.clone());
            let query =
                ChangesQuery { collection: collection.clone(), entity, range, limit: k, order };
            assert!(engine.changes(&query).unwrap().changes.len() <= k);
            let entity = Some(a.clone());
            let query =
                SegmentQuery { collection: collection.clone(), entity, range, after: 0, limit: k };
            assert!(engine.segments(&query).unwrap().segments.len() <= k);
        }
        for resolution_us in [None, Some(1), Some(u64::MAX)] {
            let (collection, entity) = (collection.clone(), a.clone());
            // A point a microsecond over 584,000 years is too many; that is what it has to say.
            let query = HistoryQuery { collection, entity, range, resolution_us };
            drop(engine.history(&query));
        }
        let query = ScoresQuery {
            collection: collection.clone(),
            entity: a.clone(),
            range,
            known_until: Some(Timestamp(i64::MAX)),
            references: Vec::new(),
            fade_us: Some(0),
            window: 1,
            units: ScoreUnits::Blended,
            known_after_us: u64::MAX,
        };
        if let Ok(answer) = engine.scores(&query) {
            assert!(answer.scores.iter().all(|score| !score.score.is_nan()));
        }
        let course = Course { entity: a.clone(), range };
        let query = TrajectoryQuery {
            collection: collection.clone(),
            a: course.clone(),
            b: course,
            points: 9,
        };
        drop(engine.trajectory(&query));
    }
    engine.quality(&collection, None).unwrap();
    engine.entities(&collection, None, usize::MAX).unwrap();
}

#[test]
fn the_largest_values_and_the_ends_of_time_are_held_and_asked_for() {
    let bounded = |spec: CollectionSpec| CollectionSpec {
        fidelity: Fidelity::Bounded,
        error_bound: Some(ErrorBound::Absolute(vec![0.5; 3])),
        ..spec
    };
    let summary = |spec: CollectionSpec| CollectionSpec { fidelity: Fidelity::Summary, ..spec };
    let range = Units::Range { lower: vec![-1.0; 3], upper: vec![1.0; 3] };
    let mut life = vec![at(i64::MIN, &[0.0, -0.0, 1e-45]), at(i64::MIN + 1, &[f32::MAX; 3])];
    life.extend((-20..20).map(|s| {
        let huge = if s % 2 == 0 { f32::MAX } else { f32::MIN };
        at(s * YEAR_US, &[huge, s as f32, f32::MIN_POSITIVE])
    }));
    life.extend([at(i64::MAX - 1, &[f32::MIN; 3]), at(i64::MAX, &[f32::MIN, f32::MAX, 0.0])]);
    for units in [range, Units::NoiseFloor] {
        for metric in [Metric::Cosine, Metric::Euclidean, Metric::Dot] {
            let base = CollectionSpec { units: units.clone(), metric, ..spec(3) };
            for spec in [base.clone(), summary(base.clone()), bounded(base)] {
                let disk = Simulated::new();
                let engine = open(&disk);
                engine.create_collection(spec.clone()).unwrap();
                for batch in life.chunks(7) {
                    let ack = engine.ingest(&name(), batch.to_vec()).unwrap();
                    assert_eq!(ack.accepted, batch.len() as u64, "{spec:?}");
                }
                engine.seal(&name(), &entity("a")).unwrap();
                ask_everything(&engine, &[f32::MAX, f32::MIN, 0.0]);
                if spec.fidelity == Fidelity::Lossless {
                    let asked = engine.observations(&name(), &entity("a"), TimeRange::ALL, 100);
                    let rows = asked.unwrap().rows;
                    let bits =
                        |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                    let told: Vec<_> = life.iter().flat_map(|o| bits(&o.vector)).collect();
                    let held: Vec<_> = rows.iter().flat_map(|(_, row)| bits(row)).collect();
                    assert_eq!(held, told);
                }
                let policy = CompactionPolicy {
                    before: Timestamp(i64::MAX),
                    budget: CompactionBudget::Nrmse(0.5),
                    flag_drift_min: 0.1,
                    segments_min: 1,
                };
                drop(engine.compact_course(&name(), &entity("a"), &policy, &|_| true));
                ask_everything(&engine, &[f32::MAX, f32::MIN, 0.0]);
                drop(engine);
                ask_everything(&open(&disk), &[0.0; 3]);
            }
        }
    }
}

#[test]
fn questions_for_more_than_there_is_get_what_there_is() {
    let engine = engine_with(&spec(2));
    engine.ingest(&name(), course("a", 0..100, 20)).unwrap();
    ask_everything(&engine, &[0.0, 0.0]);
    let all = engine.knn(&KnnQuery::new(name(), vec![0.1, 0.2], usize::MAX)).unwrap();
    assert_eq!(all.neighbors.len(), 5);
    let none = engine.knn(&KnnQuery::new(name(), vec![0.1, 0.2], 0)).unwrap();
    assert!(none.neighbors.is_empty() && none.coverage.complete);
    let few = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let metadata = Metadata::new(few).unwrap();
    let nobody = KnnQuery { metadata, ..KnnQuery::new(name(), vec![0.1, 0.2], 9) };
    assert!(engine.knn(&nobody).unwrap().neighbors.is_empty());
}
