//! Questions in the middle of a play: each has the right answer, or the refusal that it must have.

use dunlin_engine::{
    AnomaliesQuery, ChangeOrder, ChangesQuery, CollectionName, Course, Engine, Fidelity,
    HistoryQuery, Include, KnnQuery, Level, Metadata, ReadError, ScoreUnits, ScoresQuery, Source,
    TimeRange, Timestamp, TrajectoryQuery, distance,
};

use super::play::{Life, Model, Setup, id, name, note};

/// Asks one of all kinds of questions, about an entity or all of them.
pub(crate) fn ask(engine: &Engine, setup: Setup, model: &Model, asked: (u8, usize, u8)) {
    let (entity, k, what) = asked;
    let life = model.lives.get(&entity);
    // Half of the questions are about a stretch of time, which reaches as far as `k`.
    let until = i64::try_from(k).unwrap_or(i64::MAX).saturating_mul(2_000_000);
    let range = match what / 8 % 2 {
        0 => TimeRange::ALL,
        _ => TimeRange::between(Timestamp(0), Timestamp(until)),
    };
    match what % 8 {
        0 => knn(engine, setup, model, (Some(entity), k), Include::Sealed, range),
        1 => knn(engine, setup, model, (None, k), Include::All, range),
        2 => knn(engine, setup, model, (None, k), Include::Open, range),
        3 => anomalies(engine, setup, (entity, life), k, range),
        4 => changes(engine, (entity, life), k, range),
        5 => history(engine, setup, (entity, life), k, range),
        6 => courses(engine, setup, model, entity, range),
        _ => malformed(engine, setup),
    }
}

/// Returns whether a question about an entity fails as it must when nobody has heard of it.
#[track_caller]
fn is_answered<T>(answer: Result<T, ReadError>, life: Option<&Life>) -> Option<T> {
    match (answer, life) {
        (Ok(answer), Some(_)) => Some(answer),
        (Err(ReadError::UnknownEntity { .. }), None) => None,
        (Ok(_), None) => panic!("an answer about nobody"),
        (Err(error), _) => panic!("{error}"),
    }
}

/// Compares an answer with that of comparing everything, with and without a predicate.
fn knn(
    engine: &Engine,
    setup: Setup,
    model: &Model,
    (entity, k): (Option<u8>, usize),
    include: Include,
    range: TimeRange,
) {
    let dim = usize::from(setup.dim);
    let nobody = Life::default();
    let life = entity.map_or(Some(&nobody), |entity| model.lives.get(&entity));
    for metadata in [Metadata::default(), note(1)] {
        for vector in [vec![0.3; dim], vec![0.0; dim]] {
            let query = KnnQuery {
                entity: entity.map(id),
                range,
                include,
                metadata: metadata.clone(),
                ..KnnQuery::new(name(), vector.clone(), k)
            };
            let Some(answer) = is_answered(engine.knn(&query), life) else { continue };
            let mut expected = Vec::new();
            for (number, life) in &model.lives {
                if entity.is_some_and(|one| one != *number) || !life.metadata().has_all(&metadata) {
                    continue;
                }
                expected.extend(all_of(engine, setup, &query, *number));
            }
            expected.sort_by(f64::total_cmp);
            expected.truncate(k);
            // So few segments are compared one by one, however they are kept.
            let found: Vec<f64> = answer.neighbors.iter().map(|near| near.distance).collect();
            assert_eq!(found, expected, "{query:?}");
            for near in &answer.neighbors {
                match near.source {
                    Source::Sealed(cid) => {
                        assert!(include != Include::Open);
                        assert!(engine.segment(&cid).expect("a store that works").is_some());
                    }
                    Source::Open => assert!(include != Include::Sealed),
                    Source::Outlined(cid) => panic!("{cid} is an outline"),
                }
            }
        }
    }
}

/// Returns the distances of all regimes of an entity that a question is about.
fn all_of(engine: &Engine, setup: Setup, query: &KnnQuery, entity: u8) -> Vec<f64> {
    let (from, to) = (query.range.from, query.range.to);
    let overlaps = |start: Timestamp, end: Timestamp| {
        to.is_none_or(|to| start <= to) && from.is_none_or(|from| end >= from)
    };
    let of = |mean: &[f32]| distance(setup.metric, &query.vector, mean);
    let mut distances = Vec::new();
    if query.include != Include::Open {
        let sealed = engine.sealed_after(0, usize::MAX).expect("a store that works");
        let own = sealed.iter().map(|stored| &stored.segment);
        let own = own.filter(|segment| *segment.entity() == id(entity));
        let own = own.filter(|segment| overlaps(segment.start(), segment.end()));
        distances.extend(own.map(|segment| of(segment.mean())));
    }
    if query.include != Include::Sealed {
        let view = engine.entity(&name(), &id(entity)).expect("an entity");
        let open = view.open.filter(|open| overlaps(open.start, open.end));
        distances.extend(open.map(|open| of(&open.mean)));
    }
    distances
}

fn anomalies(
    engine: &Engine,
    setup: Setup,
    (entity, life): (u8, Option<&Life>),
    k: usize,
    range: TimeRange,
) {
    for level in [Level::Regimes, Level::Observations { window: 3 }] {
        for units in [ScoreUnits::Blended, ScoreUnits::Range, ScoreUnits::Z, ScoreUnits::Noise] {
            let query = AnomaliesQuery {
                collection: name(),
                entity: Some(id(entity)),
                range,
                k,
                references: Vec::new(),
                fade_us: Some(60_000_000),
                level,
                units,
                known_after_us: 0,
            };
            let answer = engine.anomalies(&query);
            if level != Level::Regimes && setup.fidelity != Fidelity::Lossless && life.is_some() {
                assert!(matches!(answer, Err(ReadError::NotLossless { .. })), "{answer:?}");
                continue;
            }
            let Some(answer) = is_answered(answer, life) else { continue };
            let scores: Vec<f64> = answer.anomalies.iter().map(|anomaly| anomaly.score).collect();
            assert!(scores.len() <= k && scores.is_sorted_by(|a, b| a >= b), "{scores:?}");
            assert!(scores.iter().all(|score| (0.0..=1.0).contains(score)), "{scores:?}");
        }
    }
}

fn changes(engine: &Engine, (entity, life): (u8, Option<&Life>), limit: usize, range: TimeRange) {
    for order in [ChangeOrder::Newest, ChangeOrder::Largest] {
        let (collection, entity) = (name(), Some(id(entity)));
        let query = ChangesQuery { collection, entity, range, limit, order };
        let Some(answer) = is_answered(engine.changes(&query), life) else { continue };
        let changes = answer.changes;
        let sorted = changes.is_sorted_by(|a, b| match order {
            ChangeOrder::Newest => a.at >= b.at,
            ChangeOrder::Largest => a.distance >= b.distance,
        });
        assert!(changes.len() <= limit && sorted, "{changes:?}");
    }
}

/// Compares the course of an entity with what was sent: bit for bit, or within the bound.
fn history(
    engine: &Engine,
    setup: Setup,
    (entity, life): (u8, Option<&Life>),
    k: usize,
    range: TimeRange,
) {
    let query = HistoryQuery { collection: name(), entity: id(entity), range, resolution_us: None };
    let Some(answer) = is_answered(engine.history(&query), life) else { return };
    let (from, to) = (range.from.unwrap_or(Timestamp(i64::MIN)), range.to);
    let is_asked = |time: Timestamp| time >= from && to.is_none_or(|to| time <= to);
    let points: Vec<_> = answer.points.iter().collect();
    assert!(points.iter().all(|(_, row)| row.iter().all(|value| value.is_finite())));
    if setup.fidelity != Fidelity::Summary {
        let sent = life.into_iter().flat_map(Life::settled);
        let sent: Vec<_> = sent.filter(|sent| is_asked(sent.timestamp)).collect();
        assert!(sent.iter().map(|sent| sent.timestamp).eq(points.iter().map(|(time, _)| *time)));
        for (sent, (_, row)) in sent.iter().zip(&points) {
            for (channel, (sent, kept)) in sent.vector.iter().zip(*row).enumerate() {
                let error_max = answer.error_max.as_ref().map_or(0.0, |max| max[channel]);
                let error = (f64::from(*sent) - f64::from(*kept)).abs();
                assert!(error <= f64::from(error_max), "{sent} was kept as {kept}");
                let is_exact = setup.fidelity == Fidelity::Lossless;
                assert!(!is_exact || sent.to_bits() == kept.to_bits(), "{sent} and {kept}");
            }
        }
    }
    let resolution_us = Some((k as u64).saturating_mul(1_000));
    match engine.history(&HistoryQuery { resolution_us, ..query }) {
        Ok(answer) => assert!(answer.points.iter().map(|(time, _)| time).is_sorted()),
        // A point a millisecond, for as long as there is time, is too many.
        Err(error) => assert!(matches!(error, ReadError::TooManyRows { .. }), "{error}"),
    }
}

/// Asks about single observations, and how two entities went.
fn courses(engine: &Engine, setup: Setup, model: &Model, entity: u8, range: TimeRange) {
    let life = model.lives.get(&entity);
    let query = ScoresQuery {
        collection: name(),
        entity: id(entity),
        range,
        known_until: None,
        references: Vec::new(),
        fade_us: None,
        window: 2,
        units: ScoreUnits::Blended,
        known_after_us: 0,
    };
    let answer = engine.scores(&query);
    if setup.fidelity == Fidelity::Lossless || life.is_none() {
        if let Some(answer) = is_answered(answer, life) {
            let scores = answer.scores.iter().map(|score| score.score);
            assert!(scores.clone().all(|score| (0.0..=1.0).contains(&score)));
            // What was compacted is known, and its observations are scored no more.
            let most = life.map_or(0, |life| life.settled().count());
            assert!(scores.count() <= most);
        }
    } else {
        assert!(matches!(answer, Err(ReadError::NotLossless { .. })), "{answer:?}");
    }
    for other in [entity, (entity + 1) % 3] {
        let course = |entity| Course { entity: id(entity), range };
        let query =
            TrajectoryQuery { collection: name(), a: course(entity), b: course(other), points: 16 };
        match engine.trajectory(&query) {
            Ok(answer) => {
                assert!((0.0..=1.0).contains(&answer.similarity) && answer.distance >= 0.0);
                assert!(other != entity || answer.distance == 0.0, "{answer:?}");
            }
            Err(ReadError::NothingKnown { .. }) => {}
            Err(ReadError::UnknownEntity { .. }) => {
                assert!(life.is_none() || !model.lives.contains_key(&other));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

/// Asks what nobody can answer.
fn malformed(engine: &Engine, setup: Setup) {
    let dim = usize::from(setup.dim);
    let good = KnnQuery::new(name(), vec![0.3; dim], 3);
    let ask = |query: KnnQuery| engine.knn(&query).expect_err("a question without an answer");
    let longer = ask(KnnQuery { vector: vec![0.3; dim + 1], ..good.clone() });
    assert!(matches!(longer, ReadError::Dim { .. }), "{longer}");
    let endless = ask(KnnQuery { vector: vec![f32::INFINITY; dim], ..good.clone() });
    assert!(matches!(endless, ReadError::NotFinite { channel: 0 }), "{endless}");
    let collection = CollectionName::new("other").expect("a good name");
    let unknown = ask(KnnQuery { collection, ..good.clone() });
    assert!(matches!(unknown, ReadError::UnknownCollection { .. }), "{unknown}");
    let range = TimeRange::between(Timestamp(2), Timestamp(1));
    let backwards = ask(KnnQuery { range, ..good });
    assert!(matches!(backwards, ReadError::Range { .. }), "{backwards}");
}
