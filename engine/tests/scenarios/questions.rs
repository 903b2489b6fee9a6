//! Questions and their answers.

use dunlin_engine::{
    AnomaliesQuery, ChangeOrder, ChangesQuery, CollectionSpec, Course, ErrorBound, Fidelity,
    HistoryQuery, Include, KnnQuery, Level, Match, Metric, Nearest, ReadError, Reference,
    ScoreUnits, ScoresQuery, SegmentQuery, Source, TRAJECTORY_POINTS_MAX, TimeRange, Timestamp,
    TrajectoryQuery, WindowMissing, decode_payload, distance, knn_over,
};

use crate::support::{course, engine_with, entity, name, observation, sealed, spec};

fn seconds(from: i64, to: i64) -> TimeRange {
    TimeRange::between(Timestamp(from * 1_000_000), Timestamp(to * 1_000_000))
}

fn knn(vector: &[f32], k: usize) -> KnnQuery {
    KnnQuery::new(name(), vector.to_vec(), k)
}

fn scores(range: TimeRange) -> ScoresQuery {
    ScoresQuery {
        collection: name(),
        entity: entity("a"),
        range,
        known_until: None,
        references: Vec::new(),
        window: 1,
        units: ScoreUnits::Blended,
        known_after_us: 0,
        fade_us: None,
    }
}

fn reference(id: &str, centroid: Vec<f32>) -> Reference {
    Reference { id: id.to_owned(), source: "peer".to_owned(), is_witness: false, centroid }
}

#[test]
fn levels_with_several_sets_are_those_of_the_scores_with_each() {
    let engine = engine_with(&spec(2));
    engine.ingest(&name(), course("a", 0..330, 100)).unwrap();
    let honest = vec![reference("t", vec![0.95, 0.5]), reference("u", vec![0.2, 0.5])];
    let sets = [Vec::new(), honest, vec![reference("far", vec![9.0, 9.0])]];
    for units in [ScoreUnits::Blended, ScoreUnits::Range, ScoreUnits::Z, ScoreUnits::Noise] {
        let range = TimeRange { from: Some(Timestamp(120_000_000)), to: None };
        let query = ScoresQuery { units, window: 10, fade_us: Some(400_000_000), ..scores(range) };
        let levels = engine.levels(&query, &sets).unwrap();
        assert_eq!(levels.len(), sets.len());
        for (references, found) in sets.iter().zip(levels) {
            let query = ScoresQuery { references: references.clone(), ..query.clone() };
            let scores = engine.scores(&query).unwrap().scores;
            let expected: Vec<f64> = scores.iter().map(|score| score.level).collect();
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn a_match_says_how_much_farther_the_next_one_is() {
    let engine = engine_with(&spec(2));
    engine.ingest(&name(), course("a", 0..330, 100)).unwrap();
    let at = |references: Vec<Reference>| {
        let range = seconds(50, 50);
        let query = ScoresQuery { references, units: ScoreUnits::Range, ..scores(range) };
        engine.scores(&query).unwrap().scores[0].factors.margin
    };
    assert_eq!(at(vec![reference("t", vec![0.1, 0.5])]), None, "there is no second one");
    // Of one source the nearest alone counts, so what is own comes second.
    let later = ScoresQuery {
        references: vec![reference("t", vec![0.1, 0.5])],
        units: ScoreUnits::Range,
        ..scores(seconds(250, 250))
    };
    let factors = &engine.scores(&later).unwrap().scores[0].factors;
    assert!(factors.margin.is_some_and(|margin| margin >= 0.0), "{factors:?}");
}

#[test]
fn knn_agrees_with_brute_force_for_every_metric() {
    for metric in [Metric::Cosine, Metric::Euclidean, Metric::Dot] {
        let engine = engine_with(&CollectionSpec { metric, ..spec(2) });
        for (id, dwell) in [("a", 12), ("b", 19), ("zero", 23)] {
            engine.ingest(&name(), course(id, 0..600, dwell)).unwrap();
        }
        let stored = sealed(&engine);
        assert!(stored.len() > 50);
        for vector in [[0.3, 0.5], [0.0, 0.0], [-1.0, 2.0]] {
            let sealed_only = KnnQuery { include: Include::Sealed, ..knn(&vector, 7) };
            let answer = engine.knn(&sealed_only).unwrap();
            let mut expected: Vec<(f64, &str, Timestamp)> = stored
                .iter()
                .map(|s| {
                    (
                        distance(metric, &vector, s.segment.mean()),
                        s.segment.entity().as_str(),
                        s.segment.start(),
                    )
                })
                .collect();
            expected.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)).then(a.2.cmp(&b.2)));
            let found: Vec<_> =
                answer.neighbors.iter().map(|n| (n.distance, n.entity.as_str(), n.start)).collect();
            assert_eq!(found, expected[..7], "{metric:?} {vector:?}");
            assert_eq!(answer.coverage.segments_scanned, stored.len() as u64);
            // The same over segments from anywhere, which may be of another dimension too.
            let segments: Vec<_> = stored.iter().map(|s| s.segment.clone()).collect();
            assert_eq!(knn_over(metric, &vector, 7, &segments), answer.neighbors);
            assert!(knn_over(metric, &[0.0], 7, &segments).is_empty());
        }
    }
}

#[test]
fn knn_respects_its_filters() {
    let engine = engine_with(&spec(2));
    engine.ingest(&name(), course("a", 0..100, 20)).unwrap();
    engine.ingest(&name(), course("b", 0..100, 20)).unwrap();
    let all = engine.knn(&knn(&[0.0, 0.5], 100)).unwrap();
    assert_eq!((all.neighbors.len(), all.coverage.hot_regimes), (10, 2));
    let open = engine.knn(&KnnQuery { include: Include::Open, ..knn(&[0.0, 0.5], 100) }).unwrap();
    assert!(open.neighbors.iter().all(|n| n.source == Source::Open) && open.neighbors.len() == 2);
    let of_a =
        KnnQuery { entity: Some(entity("a")), range: seconds(25, 45), ..knn(&[0.0, 0.5], 100) };
    let of_a = engine.knn(&of_a).unwrap();
    let starts: Vec<i64> = of_a.neighbors.iter().map(|n| n.start.0 / 1_000_000).collect();
    assert_eq!((starts.len(), starts.contains(&20), starts.contains(&40)), (2, true, true));
    assert!(matches!(engine.knn(&knn(&[0.0], 1)), Err(ReadError::Dim { expected: 2, found: 1 })));
    assert!(matches!(
        engine.knn(&knn(&[0.0, f32::NAN], 1)),
        Err(ReadError::NotFinite { channel: 1 })
    ));
    let backwards = KnnQuery { range: seconds(2, 1), ..knn(&[0.0, 0.5], 1) };
    assert!(matches!(engine.knn(&backwards), Err(ReadError::Range { .. })));
    let missing = KnnQuery { entity: Some(entity("x")), ..knn(&[0.0, 0.5], 1) };
    assert!(matches!(engine.knn(&missing), Err(ReadError::UnknownEntity { .. })));
}

#[test]
fn segments_are_listed_in_pages_and_found_by_cid() {
    let engine = engine_with(&spec(2));
    engine.ingest(&name(), course("a", 0..200, 20)).unwrap();
    engine.ingest(&name(), course("b", 0..200, 20)).unwrap();
    let all = sealed(&engine);
    assert_eq!(all.iter().map(|s| s.number).collect::<Vec<_>>(), (1..=18).collect::<Vec<_>>());
    let mut query = SegmentQuery {
        collection: name(),
        entity: None,
        range: TimeRange::ALL,
        after: 0,
        limit: 5,
    };
    let mut seen = Vec::new();
    loop {
        let page = engine.segments(&query).unwrap();
        query.after = page.segments.last().map_or(query.after, |s| s.number);
        seen.extend(page.segments);
        if page.coverage.complete {
            break;
        }
    }
    assert_eq!(seen, all);
    query = SegmentQuery { entity: Some(entity("b")), range: seconds(50, 70), after: 0, ..query };
    let page = engine.segments(&query).unwrap();
    let starts: Vec<i64> = page.segments.iter().map(|s| s.segment.start().0 / 1_000_000).collect();
    assert_eq!(starts, [40, 60]);
    let blocks = engine.segment_blocks(&all[3].cid).unwrap().unwrap();
    assert_eq!(blocks.summary.cid(), &all[3].cid);
    let rows = decode_payload(&all[3].segment, &blocks.payload).unwrap();
    assert_eq!(rows.count(), all[3].segment.count() as usize);
    assert_eq!(engine.block(blocks.payload[0].cid()).unwrap().as_ref(), Some(&blocks.payload[0]));
    assert!(decode_payload(&all[4].segment, &blocks.payload).is_err());
    assert_eq!(engine.segment(blocks.payload[0].cid()).unwrap(), None);
}

#[test]
fn entities_say_what_they_do_now() {
    let engine = engine_with(&spec(2));
    for id in ["c", "a", "b"] {
        engine.ingest(&name(), course(id, 0..50, 20)).unwrap();
    }
    let ids = |after: Option<&str>, limit| {
        let after = after.map(entity);
        let page = engine.entities(&name(), after.as_ref(), limit).unwrap();
        page.into_iter().map(|view| view.entity.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(
        (ids(None, 2), ids(Some("b"), 2)),
        (vec!["a".to_owned(), "b".to_owned()], vec!["c".to_owned()])
    );
    let view = engine.entity(&name(), &entity("a")).unwrap();
    assert_eq!(view, engine.entities(&name(), None, 1).unwrap()[0]);
    assert_eq!((view.observations, view.segments), (50, 2));
    let all = engine.entities(&name(), None, usize::MAX).unwrap();
    let population = engine.population(&name()).unwrap();
    assert_eq!(population.entities, all.len() as u64);
    assert_eq!(population.observations, all.iter().map(|view| view.observations).sum::<u64>());
    assert_eq!(population.segments, all.iter().map(|view| view.segments).sum::<u64>());
    assert_eq!((view.first, view.last), (Timestamp(0), Timestamp(49_000_000)));
    let open = view.open.unwrap();
    assert_eq!((open.start, open.count), (Timestamp(40_000_000), 10));
    assert!(open.score.unwrap() > 0.5 && open.drift < 0.05);
}

#[test]
fn history_is_exact_or_the_mean_as_the_collection_chose() {
    let lossless = engine_with(&spec(2));
    let sent = course("a", 0..100, 20);
    lossless.ingest(&name(), sent.clone()).unwrap();
    let query = HistoryQuery {
        collection: name(),
        entity: entity("a"),
        range: seconds(30, 59),
        resolution_us: None,
    };
    let answer = lossless.history(&query).unwrap();
    let expected = sent[30..60].iter().map(|o| (o.timestamp, o.vector.as_slice()));
    assert!(answer.points.iter().eq(expected) && answer.fidelity == Fidelity::Lossless);

    let summary = engine_with(&CollectionSpec { fidelity: Fidelity::Summary, ..spec(2) });
    summary.ingest(&name(), sent).unwrap();
    let stored = sealed(&summary);
    let coarse = HistoryQuery { range: seconds(0, 99), resolution_us: Some(10_000_000), ..query };
    let answer = summary.history(&coarse).unwrap();
    assert_eq!((answer.points.count(), answer.fidelity), (10, Fidelity::Summary));
    assert_eq!(answer.points.row(3), stored[1].segment.mean());
    assert_eq!((answer.coverage.segments_scanned, answer.coverage.hot_regimes), (4, 1));
    let native = summary.history(&HistoryQuery { resolution_us: None, ..coarse.clone() }).unwrap();
    assert_eq!(native.points.count(), 10);
    let fine = HistoryQuery { resolution_us: Some(1), ..coarse };
    assert!(matches!(summary.history(&fine), Err(ReadError::TooManyRows { .. })));
    let refused = summary.observations(&name(), &entity("a"), TimeRange::ALL, 10);
    assert!(matches!(refused, Err(ReadError::NotLossless { .. })));
}

#[test]
fn observations_are_limited_and_say_so() {
    let engine = engine_with(&spec(2));
    engine.ingest(&name(), course("a", 0..100, 20)).unwrap();
    let part = engine.observations(&name(), &entity("a"), seconds(10, 90), 50).unwrap();
    assert_eq!((part.rows.count(), part.coverage.complete), (50, false));
    assert_eq!(part.rows.time(0), Some(Timestamp(10_000_000)));
    let rest = engine.observations(&name(), &entity("a"), seconds(60, 90), 50).unwrap();
    assert_eq!((rest.rows.count(), rest.coverage.complete), (31, true));
}

#[test]
fn what_was_never_seen_scores_high_and_what_was_seen_scores_low() {
    let engine = engine_with(&spec(1));
    let level = |s: i64| {
        if s < 100 {
            0.2
        } else if s < 200 {
            0.6
        } else if s < 300 {
            0.2
        } else {
            0.95
        }
    };
    let batch = (0..330).map(|s| observation("a", s, &[level(s)])).collect();
    engine.ingest(&name(), batch).unwrap();
    let answer = engine.scores(&scores(TimeRange::ALL)).unwrap();
    let at = |second: usize| &answer.scores[second];
    assert_eq!(answer.scores.len(), 330);
    // Nothing is known in the first regime.
    assert_eq!((at(50).score, &at(50).factors.nearest), (0.0, &Nearest::None));
    assert!(at(150).score > 0.8 && at(250).score < 1e-6 && at(320).score > 0.8);
    let first = sealed(&engine)[0].cid;
    assert_eq!(at(250).factors.nearest, Nearest::Own(first));
    // At the step the observation is far from the baseline before it, later it is not.
    assert!(at(100).factors.drift > 0.8 && at(150).factors.drift < 0.1);

    // A reference that looks like the last regime explains it.
    let template = reference("t", vec![0.95]);
    let with = ScoresQuery { references: vec![template], ..scores(seconds(300, 329)) };
    let explained = engine.scores(&with).unwrap();
    assert_eq!(explained.scores.len(), 30);
    assert!(explained.scores.iter().all(|s| s.score < 1e-6));
    assert_eq!(explained.scores[0].factors.nearest, Nearest::Reference("t".to_owned()));
    let bad = reference("bad", vec![0.5, 0.5]);
    let bad = ScoresQuery { references: vec![bad], ..scores(TimeRange::ALL) };
    assert!(matches!(engine.scores(&bad), Err(ReadError::Dim { .. })));
}

#[test]
fn known_until_stops_what_counts_as_known() {
    let engine = engine_with(&spec(1));
    let level = |s: i64| {
        if s < 100 {
            0.2
        } else if s < 200 {
            0.6
        } else {
            0.2
        }
    };
    let batch = (0..300).map(|s| observation("a", s, &[level(s)])).collect();
    engine.ingest(&name(), batch).unwrap();
    let until = |second: i64| ScoresQuery {
        known_until: Some(Timestamp(second * 1_000_000)),
        ..scores(TimeRange::ALL)
    };
    // At 50 s only the regime that was open then is known.
    let early = engine.scores(&until(50)).unwrap().scores;
    assert_eq!(early[10].factors.nearest, Nearest::Open);
    assert!(early[10].score < 1e-6 && early[150].score > 0.8 && early[250].score < 1e-6);
    // At 150 s the second one is known too, from its first half.
    let late = engine.scores(&until(150)).unwrap().scores;
    assert!(late.iter().all(|score| score.score < 1e-6));
    assert_eq!(late[199].factors.nearest, Nearest::Open);
    assert_eq!(late[250].factors.nearest, Nearest::Own(sealed(&engine)[0].cid));
}

#[test]
fn a_window_averages_the_newest_distances() {
    let engine = engine_with(&spec(1));
    let level = |s: i64| if s < 100 { 0.2 } else { 0.7 };
    let batch = (0..150).map(|s| observation("a", s, &[level(s)])).collect();
    engine.ingest(&name(), batch).unwrap();
    let windowed = ScoresQuery { window: 10, units: ScoreUnits::Range, ..scores(TimeRange::ALL) };
    let whole = engine.scores(&windowed).unwrap().scores;
    // 99 s is still known (from the first regime on nothing is), 100 s is the first distance of 0.5.
    let threshold = 0.08;
    assert!((whole[104].level - 0.25 / threshold).abs() < 1e-5, "{}", whole[104].level);
    assert!((whole[140].level - 0.5 / threshold).abs() < 1e-5);
    // A range that begins later looks back over the same window.
    let part = engine.scores(&ScoresQuery { range: seconds(103, 120), ..windowed }).unwrap().scores;
    assert_eq!(part, whole[103..=120]);
}

#[test]
fn anomalies_are_the_newest_kind_of_regime() {
    let engine = engine_with(&spec(1));
    let level =
        |s: i64| if (500..550).contains(&s) { 0.97 } else { [0.2, 0.4][(s / 50 % 2) as usize] };
    let batch = (0..1000).map(|s| observation("a", s, &[level(s)])).collect();
    engine.ingest(&name(), batch).unwrap();
    let query = AnomaliesQuery {
        collection: name(),
        entity: None,
        range: TimeRange::ALL,
        k: 3,
        references: Vec::new(),
        level: Level::Regimes,
        // As the score that a segment carries.
        units: ScoreUnits::Range,
        known_after_us: 0,
        fade_us: None,
    };
    let answer = engine.anomalies(&query).unwrap();
    let top = &answer.anomalies[0];
    assert_eq!((top.start, top.end), (Timestamp(500_000_000), Timestamp(549_000_000)));
    let Some(Source::Sealed(cid)) = top.source else { panic!("{:?}", top.source) };
    let segment = engine.segment(&cid).unwrap().unwrap().segment;
    assert!((f64::from(segment.score()) - top.score).abs() < 1e-6);
    assert_eq!(answer.anomalies.len(), 3);
    assert!(answer.anomalies.is_sorted_by(|a, b| a.score >= b.score));

    let observed = AnomaliesQuery { level: Level::Observations { window: 1 }, ..query.clone() };
    let observed = engine.anomalies(&observed).unwrap();
    assert!(observed.anomalies.iter().all(|a| (500..550).contains(&(a.start.0 / 1_000_000))));
    let template = reference("t", vec![0.97]);
    let explained =
        AnomaliesQuery { references: vec![template], range: seconds(400, 999), ..query };
    assert!(engine.anomalies(&explained).unwrap().anomalies.iter().all(|a| a.score < 0.1));
}

#[test]
fn quality_is_measured_where_observations_are_kept_and_estimated_elsewhere() {
    let lossless = engine_with(&spec(2));
    let summary = engine_with(&CollectionSpec { fidelity: Fidelity::Summary, ..spec(2) });
    for engine in [&lossless, &summary] {
        for id in ["a", "b"] {
            engine.ingest(&name(), course(id, 0..1000, 25)).unwrap();
        }
    }
    let exact = lossless.quality(&name(), None).unwrap();
    let estimate = summary.quality(&name(), None).unwrap();
    // The mean absolute noise of the course is a few thousandths of the range.
    assert!((0.002..0.01).contains(&exact.nrmse), "{exact:?}");
    assert!((exact.nrmse - estimate.nrmse).abs() < 1e-5 && (exact.r2 - estimate.r2).abs() < 1e-4);
    assert_eq!(
        (exact.observations, exact.raw_bytes),
        (estimate.observations, exact.observations * 8)
    );
    assert_eq!((exact.stored_bytes, exact.segments), (estimate.stored_bytes, 78));
    assert!(exact.payload_bytes > 0 && estimate.payload_bytes == 0);
    assert_eq!(estimate.window, Err(WindowMissing::NotLossless));
    // Windows that do not know where the regimes end must be shorter for the same error.
    let window = exact.window.unwrap();
    assert!(window.ratio < exact.ratio && window.observations < 25.0, "{window:?}");
    let of_a = lossless.quality(&name(), Some(&entity("a"))).unwrap();
    assert_eq!(of_a.segments, 39);
    let empty = engine_with(&spec(2)).quality(&name(), None).unwrap();
    assert_eq!(
        (empty.ratio, empty.nrmse, empty.window),
        (0.0, 0.0, Err(WindowMissing::OutOfReach))
    );
}

fn changes(range: TimeRange, order: ChangeOrder, limit: usize) -> ChangesQuery {
    ChangesQuery { collection: name(), entity: None, range, limit, order }
}

#[test]
fn changes_are_the_boundaries_between_regimes() {
    let engine = engine_with(&spec(2));
    let level = |second: i64| {
        if second < 50 {
            0.1
        } else if second < 90 {
            0.3
        } else {
            0.9
        }
    };
    let life = (0..130).map(|s| observation("pump", s, &[level(s), 0.5]));
    engine.ingest(&name(), life.collect()).unwrap();
    let calm = (0..130).map(|s| observation("valve", s, &[0.5, 0.5]));
    engine.ingest(&name(), calm.collect()).unwrap();

    let answer = engine.changes(&changes(TimeRange::ALL, ChangeOrder::Newest, 10)).unwrap();
    let told: Vec<_> = answer.changes.iter().map(|change| change.at.0 / 1_000_000).collect();
    assert_eq!(told, [90, 50], "the valve never changed");
    assert!(answer.coverage.complete);
    let newest = &answer.changes[0];
    assert_eq!(newest.to, Source::Open);
    assert_eq!(newest.gap_us, 1_000_000);
    assert_eq!(newest.moves.len(), 1, "{:?}", newest.moves);
    assert_eq!((newest.moves[0].channel, newest.moves[0].to), (0, 0.9));
    assert!((newest.distance - 0.6 / 2.0_f64.sqrt()).abs() < 1e-6, "{}", newest.distance);
    assert!(newest.score > 0.8 && answer.changes[1].score < newest.score);
    let sealed = sealed(&engine);
    assert_eq!(Source::Sealed(sealed[1].cid), answer.changes[1].to);
    assert_eq!(Source::Sealed(sealed[0].cid), answer.changes[1].from);

    // The change at the very start of a range counts, and what came before it is known.
    let range = seconds(50, 89);
    let one = engine.changes(&changes(range, ChangeOrder::Newest, 10)).unwrap();
    assert_eq!(one.changes, answer.changes[1..]);
    assert!(
        engine
            .changes(&changes(seconds(51, 89), ChangeOrder::Newest, 10))
            .unwrap()
            .changes
            .is_empty()
    );
    let largest = engine.changes(&changes(TimeRange::ALL, ChangeOrder::Largest, 1)).unwrap();
    assert_eq!(largest.changes, answer.changes[..1]);
    assert!(!largest.coverage.complete);
    assert!(
        engine
            .changes(&changes(TimeRange::ALL, ChangeOrder::Newest, 0))
            .unwrap()
            .changes
            .is_empty()
    );
}

#[test]
fn courses_are_alike_whatever_their_pace() {
    let engine = engine_with(&spec(2));
    let course = |id: &str, from: i64, pace: i64, levels: &[f32]| {
        let levels = levels.iter().zip(0..);
        let life = levels.flat_map(|(level, place): (&f32, i64)| {
            let start = from + place * pace;
            let level = *level;
            (start..start + pace).map(move |s| (s, level))
        });
        life.map(|(s, level)| observation(id, s, &[level, 0.5])).collect::<Vec<_>>()
    };
    let levels = [0.2, 0.6, 0.3, 0.9, 0.2];
    engine.ingest(&name(), course("slow", 0, 120, &levels)).unwrap();
    engine.ingest(&name(), course("fast", 10_000, 40, &levels)).unwrap();
    engine.ingest(&name(), course("other", 0, 120, &[0.9, 0.1, 0.9, 0.1, 0.9])).unwrap();
    let whole = |id: &str| Course { entity: entity(id), range: TimeRange::ALL };
    let ask = |a: Course, b: Course, points| {
        engine.trajectory(&TrajectoryQuery { collection: name(), a, b, points })
    };
    let alike = ask(whole("slow"), whole("fast"), 500).unwrap();
    assert!(alike.similarity > 0.95, "{}", alike.similarity);
    assert_eq!(alike.matches[0], Match { a: Timestamp(0), b: Timestamp(10_000_000_000) });
    let last = alike.matches.last().unwrap();
    assert_eq!((last.a.0, last.b.0), (599_000_000, 10_199_000_000));
    let unlike = ask(whole("slow"), whole("other"), 500).unwrap();
    assert!(unlike.similarity < 0.5, "{}", unlike.similarity);
    assert_eq!(ask(whole("slow"), whole("slow"), 100).unwrap().distance, 0.0);
    // One entity at two times: the first and the last level are the same.
    let part = |from, to| Course { entity: entity("slow"), range: seconds(from, to) };
    assert!(ask(part(0, 100), part(500, 599), 50).unwrap().similarity > 0.99);
    assert!(ask(part(0, 100), part(130, 230), 50).unwrap().similarity < 0.5);
    for points in [0, 1, TRAJECTORY_POINTS_MAX + 1] {
        assert!(matches!(
            ask(whole("slow"), whole("fast"), points),
            Err(ReadError::TooManyRows { .. })
        ));
    }
    assert!(matches!(
        ask(part(5_000, 6_000), whole("fast"), 9),
        Err(ReadError::NothingKnown { .. })
    ));
    assert!(matches!(ask(whole("none"), whole("fast"), 9), Err(ReadError::UnknownEntity { .. })));
}

#[test]
fn a_bounded_collection_answers_within_its_error() {
    let error_bound = Some(ErrorBound::Absolute(vec![0.05, 0.0]));
    let bounded = CollectionSpec { fidelity: Fidelity::Bounded, error_bound, ..spec(2) };
    let engine = engine_with(&bounded);
    let observed = course("a", 0..200, 20);
    engine.ingest(&name(), observed.clone()).unwrap();
    assert!(sealed(&engine).len() > 5);
    let query = HistoryQuery {
        collection: name(),
        entity: entity("a"),
        range: TimeRange::ALL,
        resolution_us: None,
    };
    let answer = engine.history(&query).unwrap();
    assert_eq!((answer.points.count(), answer.fidelity), (200, Fidelity::Bounded));
    assert_eq!(answer.error_max, Some(vec![0.05, 0.0]));
    let mut moved = 0;
    for ((time, point), observation) in answer.points.iter().zip(&observed) {
        assert_eq!(time, observation.timestamp);
        let error = (f64::from(point[0]) - f64::from(observation.vector[0])).abs();
        assert!(error <= f64::from(0.05_f32), "{error}");
        moved += usize::from(error > 0.0);
        assert_eq!(point[1].to_bits(), observation.vector[1].to_bits());
    }
    assert!(moved > 100, "an error that is allowed is used");
    let quality = engine.quality(&name(), None).unwrap();
    assert!(quality.payload_bytes > 0 && quality.nrmse > 0.0);
}
