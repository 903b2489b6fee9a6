//! Two nodes saw different things of one time, and one version is preferred: every answer uses that one.

use dunlin_engine::{
    AnomaliesAnswer, AnomaliesQuery, ChangeOrder, ChangesQuery, CollectionSpec, CompactionBudget,
    CompactionPolicy, Course, Coverage, Engine, Fidelity, HistoryQuery, KnnQuery, Level, Matched,
    MatchesQuery, Observation, Preferred, ReadError, Rows, ScoreUnits, ScoresQuery, Segment,
    SegmentPolicy, Source, Stored, TimeRange, Timestamp, TrajectoryQuery, decode_payload,
};

use crate::support::{course, engine_with, entity, name, observation, sealed, spec};

/// The other node's payload, if it is at hand.
fn payload_of(engine: &Engine) -> impl Fn(&Segment) -> Option<Rows> + '_ {
    |segment| {
        let blocks = engine.segment_blocks(&segment.cid()).ok()??;
        decode_payload(segment, &blocks.payload).ok()
    }
}

/// Prefers all of the other node's segments about an entity to those of this node that they overlap.
fn prefer_all(preferred: &mut Preferred<'_>, own: &[Stored], others: &[Stored]) {
    for other in others {
        for loser in own.iter().filter(|own| contradict(&own.segment, &other.segment)) {
            preferred.prefer(other.segment.clone(), loser.cid);
        }
    }
}

fn contradict(a: &Segment, b: &Segment) -> bool {
    a.entity() == b.entity() && a.start() < b.end() && b.start() < a.end()
}

/// The same course on other levels.
fn otherwise(course: Vec<Observation>) -> Vec<Observation> {
    let move_up = |mut one: Observation| {
        one.vector.iter_mut().for_each(|value| *value = 1.0 - *value * 0.6);
        one
    };
    course.into_iter().map(move_up).collect()
}

/// A node with a past of `a` and of `b`, all of it sealed.
fn node(spec: &CollectionSpec, of_a: Vec<Observation>) -> Engine {
    let engine = engine_with(spec);
    for (id, course) in [("a", of_a), ("b", course("b", 0..400, 40))] {
        engine.ingest(&name(), course).unwrap();
        engine.seal(&name(), &entity(id)).unwrap();
    }
    engine
}

/// Answers to one question of each kind.
#[derive(Debug, PartialEq)]
struct Answers {
    history: (Rows, Vec<Option<Matched>>),
    scores: Vec<dunlin_engine::Score>,
    changes: Vec<dunlin_engine::Change>,
    trajectory: (f64, Vec<dunlin_engine::Match>),
    anomalies: AnomaliesAnswer,
    neighbors: Vec<dunlin_engine::Neighbor>,
}

fn history_query() -> HistoryQuery {
    HistoryQuery {
        collection: name(),
        entity: entity("a"),
        range: TimeRange::ALL,
        resolution_us: None,
    }
}

fn scores_query() -> ScoresQuery {
    ScoresQuery {
        collection: name(),
        entity: entity("a"),
        range: TimeRange::ALL,
        known_until: None,
        references: Vec::new(),
        fade_us: None,
        window: 10,
        units: ScoreUnits::Blended,
        known_after_us: 0,
    }
}

fn knn_query() -> KnnQuery {
    let query = KnnQuery::new(name(), vec![0.6, 0.6], 100);
    KnnQuery { entity: Some(entity("a")), ..query }
}

fn changes_query() -> ChangesQuery {
    ChangesQuery {
        collection: name(),
        entity: Some(entity("a")),
        range: TimeRange::ALL,
        limit: 1_000,
        order: ChangeOrder::Newest,
    }
}

fn anomalies_query() -> AnomaliesQuery {
    AnomaliesQuery {
        collection: name(),
        entity: None,
        range: TimeRange::ALL,
        k: 100,
        references: Vec::new(),
        fade_us: None,
        level: Level::Regimes,
        units: ScoreUnits::Blended,
        known_after_us: 0,
    }
}

#[track_caller]
fn ask(engine: &Engine, preferred: &Preferred<'_>) -> Answers {
    let history = engine.history_with(&history_query(), preferred).unwrap();
    let matches = MatchesQuery {
        collection: name(),
        entity: entity("a"),
        references: Vec::new(),
        fade_us: None,
    };
    let matched = engine.matches_with(&matches, &history.points, preferred).unwrap();
    let course = |id| Course { entity: entity(id), range: TimeRange::ALL };
    let trajectory =
        TrajectoryQuery { collection: name(), a: course("a"), b: course("b"), points: 64 };
    let trajectory = engine.trajectory_with(&trajectory, preferred).unwrap();
    Answers {
        history: (history.points, matched),
        scores: engine.scores_with(&scores_query(), preferred).unwrap().scores,
        changes: engine.changes_with(&changes_query(), preferred).unwrap().changes,
        trajectory: (trajectory.distance, trajectory.matches),
        anomalies: engine.anomalies_with(&anomalies_query(), preferred).unwrap(),
        neighbors: engine.knn_with(&knn_query(), preferred).unwrap().neighbors,
    }
}

#[test]
fn every_answer_is_that_of_the_node_whose_version_is_preferred() {
    let past = course("a", 0..400, 50);
    let (one, other) = (node(&spec(2), past.clone()), node(&spec(2), otherwise(past)));
    let (own, others) = (sealed(&one), sealed(&other));
    let mut preferred = Preferred::new(payload_of(&other));
    prefer_all(&mut preferred, &own, &others[..8]);
    assert!(others[..8].iter().all(|stored| *stored.segment.entity() == entity("a")));
    let (mine, theirs) = (ask(&one, &Preferred::default()), ask(&other, &Preferred::default()));
    assert_ne!(mine, theirs);
    assert_eq!(ask(&one, &preferred), theirs);

    // What other entities did is told by what is preferred, too.
    let of_b = ScoresQuery { entity: entity("b"), ..scores_query() };
    let expected = other.scores(&of_b).unwrap().scores;
    assert_ne!(one.scores(&of_b).unwrap().scores, expected, "`a` is a peer of `b`");
    assert_eq!(one.scores_with(&of_b, &preferred).unwrap().scores, expected);
}

#[test]
fn where_one_part_is_preferred_the_rest_stays_and_all_is_in_order() {
    let past = course("a", 0..400, 50);
    let one = node(&spec(2), past.clone());
    // The other node's clock of changes is another one: its third regime overlaps two of this node's.
    let other = node(&spec(2), otherwise(course("a", 0..400, 40)));
    let (own, others) = (sealed(&one), sealed(&other));
    let mut preferred = Preferred::new(payload_of(&other));
    prefer_all(&mut preferred, &own, &others[2..3]);
    let (start, end) = (others[2].segment.start(), others[2].segment.end());
    let is_of_winner = |at: Timestamp| (start..=end).contains(&at);
    let losers: Vec<_> =
        own.iter().filter(|own| contradict(&own.segment, &others[2].segment)).collect();
    assert_eq!(losers.len(), 2);

    let answers = ask(&one, &preferred);
    let times: Vec<_> = answers.history.0.iter().map(|(time, _)| time).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(times.iter().filter(|time| is_of_winner(**time)).count(), 40);
    let history = one.history_with(&history_query(), &preferred).unwrap();
    for (index, time) in times.iter().enumerate() {
        let expected = is_of_winner(*time).then_some(others[2].cid);
        assert_eq!(history.foreign.get(&index).copied(), expected);
        let is_lost = losers.iter().any(|own| {
            (own.segment.start()..=own.segment.end()).contains(time) && !is_of_winner(*time)
        });
        assert!(!is_lost, "what loses is passed over as a whole");
    }
    let scored: Vec<_> = answers.scores.iter().map(|score| score.timestamp).collect();
    assert_eq!(scored, times);
    let sources = |cid| answers.neighbors.iter().any(|one| one.source == Source::Sealed(cid));
    assert!(sources(others[2].cid) && losers.iter().all(|own| !sources(own.cid)));
    assert!(sources(own[0].cid) && sources(own[7].cid));
    let seen = answers.anomalies.anomalies.iter().filter(|one| one.entity == entity("a"));
    let seen: Vec<_> = seen.filter_map(|one| one.source).collect();
    assert!(seen.contains(&Source::Sealed(others[2].cid)));
    assert!(losers.iter().all(|own| !seen.contains(&Source::Sealed(own.cid))));
    let to_winner = answers.changes.iter().find(|change| change.at == start).unwrap();
    assert_eq!(to_winner.to, Source::Sealed(others[2].cid));
}

#[test]
fn of_what_is_here_as_a_summary_the_regime_counts_and_the_observations_are_said_to_be_missing() {
    let past = course("a", 0..400, 50);
    let (one, other) = (node(&spec(2), past.clone()), node(&spec(2), otherwise(past)));
    let (own, others) = (sealed(&one), sealed(&other));
    let mut preferred = Preferred::new(|_| None);
    prefer_all(&mut preferred, &own, &others[1..2]);
    let told = one.scores_with(&scores_query(), &preferred).unwrap();
    assert_eq!((told.coverage.unread, told.coverage.complete), (1, false));
    assert_eq!(told.scores.len(), 350, "one regime of fifty is not told");
    let last = told.scores.last().unwrap();
    assert!((last.timestamp.0 - 399_000_000).abs() < 1, "what comes later is");
    let history = one.history_with(&history_query(), &preferred).unwrap();
    assert_eq!(history.foreign.len(), 2, "its mean stands at its start and its end");
    assert!(history.coverage.complete);
    let answers = ask(&one, &preferred);
    let expected = ask(&other, &Preferred::default());
    let of = |changes: &[dunlin_engine::Change]| {
        changes.iter().map(|change| change.at).collect::<Vec<_>>()
    };
    assert_eq!(of(&answers.changes), of(&expected.changes));

    // In a collection of summaries, nothing is missing.
    let spec = CollectionSpec { fidelity: Fidelity::Summary, ..spec(2) };
    let past = course("a", 0..400, 50);
    let (one, other) = (node(&spec, past.clone()), node(&spec, otherwise(past)));
    let mut preferred = Preferred::default();
    prefer_all(&mut preferred, &sealed(&one), &sealed(&other)[..8]);
    let history = one.history_with(&history_query(), &preferred).unwrap();
    assert_eq!(history.points, other.history(&history_query()).unwrap().points);
    assert_eq!(history.foreign.len(), history.points.count());
}

#[test]
fn what_is_open_is_used_whatever_is_preferred() {
    let one = engine_with(&spec(2));
    one.ingest(&name(), course("a", 0..425, 50)).unwrap();
    // The other node saw the same entity on one level to the end.
    let other = engine_with(&spec(2));
    let steady = (350..500).map(|second| observation("a", second, &[0.95, 0.95])).collect();
    other.ingest(&name(), steady).unwrap();
    other.seal(&name(), &entity("a")).unwrap();
    let (own, others) = (sealed(&one), sealed(&other));
    assert_eq!((own.len(), others.len()), (8, 1));
    let mut preferred = Preferred::new(payload_of(&other));
    prefer_all(&mut preferred, &own, &others);

    let open = |answer: Vec<dunlin_engine::Neighbor>| {
        answer.into_iter().filter(|one| one.source == Source::Open).count()
    };
    assert_eq!(open(one.knn_with(&knn_query(), &preferred).unwrap().neighbors), 1);
    let seen = one.anomalies_with(&anomalies_query(), &preferred).unwrap();
    assert_eq!(seen.anomalies[..].iter().filter(|one| one.source == Some(Source::Open)).count(), 1);
    let points = one.history_with(&history_query(), &preferred).unwrap().points;
    // Seven regimes that nobody contradicts, the other's observations, and the open regime's.
    assert_eq!(points.count(), 350 + 150 + 25);
    assert!(points.iter().map(|(time, _)| time).is_sorted());
    let course = || Course { entity: entity("a"), range: TimeRange::ALL };
    let query = TrajectoryQuery { collection: name(), a: course(), b: course(), points: 100 };
    let answer = one.trajectory_with(&query, &preferred).unwrap();
    assert_eq!(answer.distance, 0.0);
    assert!(answer.matches.is_sorted_by_key(|found| found.a), "time goes on");
    let changes = one.changes_with(&changes_query(), &preferred).unwrap().changes;
    assert!(changes.iter().any(|change| change.to == Source::Open), "{changes:?}");
}

#[test]
fn no_answer_is_about_a_time_behind_the_range_though_what_is_preferred_reaches_further() {
    let summary = CollectionSpec { fidelity: Fidelity::Summary, ..spec(2) };
    let (one, other) = (engine_with(&summary), engine_with(&summary));
    let steady = |engine: &Engine, seconds: std::ops::Range<i64>, level: f32| {
        let batch = seconds.map(|second| observation("a", second, &[level, 0.5])).collect();
        engine.ingest(&name(), batch).unwrap();
    };
    steady(&one, 0..30, 0.3);
    one.seal(&name(), &entity("a")).unwrap();
    steady(&one, 50..200, 0.3);
    steady(&other, 0..100, 0.9);
    other.seal(&name(), &entity("a")).unwrap();
    let mut preferred = Preferred::new(payload_of(&other));
    prefer_all(&mut preferred, &sealed(&one), &sealed(&other));

    // The open regime begins before the end of the range, and the other's segment stands for longer than that.
    let last = Timestamp(60_000_000);
    let range = TimeRange { from: None, to: Some(last) };
    let query = HistoryQuery { range, ..history_query() };
    let points = one.history_with(&query, &preferred).unwrap().points;
    let times: Vec<_> = points.iter().map(|(time, _)| time).collect();
    assert_eq!(times, [Timestamp(0), last]);
    let course = || Course { entity: entity("a"), range };
    let query = TrajectoryQuery { collection: name(), a: course(), b: course(), points: 10 };
    let matches = one.trajectory_with(&query, &preferred).unwrap().matches;
    assert!(matches.iter().all(|found| found.a <= last && found.b <= last), "{matches:?}");
}

#[test]
fn outlines_stand_for_the_time_that_nothing_else_is_preferred_for() {
    let policy = SegmentPolicy { novelty_regimes_max: 8, ..spec(2).policy };
    for fidelity in [Fidelity::Lossless, Fidelity::Summary] {
        let spec = CollectionSpec { fidelity, policy, ..spec(2) };
        let one = engine_with(&spec);
        one.ingest(&name(), course("a", 0..2_000, 20)).unwrap();
        let other = engine_with(&spec);
        let apart = otherwise(course("a", 200..400, 20));
        other.ingest(&name(), apart).unwrap();
        other.seal(&name(), &entity("a")).unwrap();
        let (own, others) = (sealed(&one), sealed(&other));
        let compaction = CompactionPolicy {
            before: Timestamp(1_000_000_000),
            budget: CompactionBudget::Nrmse(0.05),
            flag_drift_min: 0.1,
            segments_min: 16,
        };
        let done = one.compact_course(&name(), &entity("a"), &compaction, &|_| true).unwrap();
        assert!(done.unwrap().segments >= 40, "what loses was compacted");
        let mut preferred = Preferred::new(payload_of(&other));
        prefer_all(&mut preferred, &own, &others);

        let query = HistoryQuery { resolution_us: Some(1_000_000), ..history_query() };
        let (mine, theirs) = (one.history(&query).unwrap(), other.history(&query).unwrap());
        let both = one.history_with(&query, &preferred).unwrap();
        assert_eq!(both.points.count(), 2_000);
        for (index, (time, row)) in both.points.iter().enumerate() {
            let from = if (200..400).contains(&(time.0 / 1_000_000)) { &theirs } else { &mine };
            let found = from.points.iter().find(|(at, _)| *at == time).unwrap();
            assert_eq!((index, row), (index, found.1), "{fidelity:?}");
        }
        let changes = one.changes_with(&changes_query(), &preferred).unwrap().changes;
        let within =
            changes.iter().filter(|change| (201..399).contains(&(change.at.0 / 1_000_000)));
        let is_theirs = |source: &Source| others.iter().any(|o| *source == Source::Sealed(o.cid));
        assert!(within.clone().count() >= 8 && within.clone().all(|c| is_theirs(&c.to)));
        // Each change is from what was before it: into that time from an outline, and out of it to one.
        let oldest_first = || changes.iter().rev().filter(|change| change.from != change.to);
        let into = oldest_first().find(|change| is_theirs(&change.to)).unwrap();
        assert!(matches!(into.from, Source::Outlined(_)), "{into:?}");
        assert_eq!(into.at, others[0].segment.start());
        let out = oldest_first().find(|change| is_theirs(&change.from) && !is_theirs(&change.to));
        let out = out.unwrap();
        assert!(matches!(out.to, Source::Outlined(_)), "{out:?}");
        assert!(out.at > others.last().unwrap().segment.end());
        let course = || Course { entity: entity("a"), range: TimeRange::ALL };
        let query = TrajectoryQuery { collection: name(), a: course(), b: course(), points: 500 };
        let alike = one.trajectory_with(&query, &preferred).unwrap();
        assert!(alike.matches.is_sorted_by_key(|found| found.a), "time goes on");
    }
}

#[test]
fn a_limit_on_what_is_preferred_shows_and_another_dimension_is_refused() {
    let one = node(&spec(2), course("a", 0..400, 50));
    let mut preferred = Preferred::default();
    preferred.cut();
    let is_complete = |coverage: Coverage| coverage.complete;
    assert!(!is_complete(one.history_with(&history_query(), &preferred).unwrap().coverage));
    assert!(!is_complete(one.scores_with(&scores_query(), &preferred).unwrap().coverage));
    assert!(!is_complete(one.changes_with(&changes_query(), &preferred).unwrap().coverage));
    assert!(!is_complete(one.anomalies_with(&anomalies_query(), &preferred).unwrap().coverage));
    assert!(!is_complete(one.knn_with(&knn_query(), &preferred).unwrap().coverage));

    let other = engine_with(&spec(1));
    let flat = (0..100).map(|second| observation("a", second, &[0.5])).collect();
    other.ingest(&name(), flat).unwrap();
    other.seal(&name(), &entity("a")).unwrap();
    let mut preferred = Preferred::default();
    prefer_all(&mut preferred, &sealed(&one), &sealed(&other));
    let refused = one.history_with(&history_query(), &preferred).unwrap_err();
    assert!(matches!(refused, ReadError::Dim { expected: 2, found: 1 }), "{refused}");
}
