//! Which known behavior an observation is nearest to: as it comes in, and when a history is asked about.

use dunlin_engine::{
    CollectionSpec, Config, Engine, Fidelity, HistoryQuery, KEPT_REFERENCES_MAX, Matched,
    MatchesQuery, Nearest, ReadError, Reference, Score, ScoreUnits, ScoresQuery, TimeRange, Units,
    storage::Simulated,
};

use crate::support::{cids, course, engine_with, entity, name, observation, open, spec};

const FADE_US: u64 = 1_000_000_000;

fn reference(id: &str, centroid: [f32; 2]) -> Reference {
    let source = id.split('/').next().unwrap_or_default().to_owned();
    let is_witness = source == "c";
    Reference { id: id.to_owned(), source, is_witness, centroid: centroid.to_vec() }
}

/// Two peers that teach, and one that bears witness.
fn taught() -> Vec<Reference> {
    [
        ("a/0", [0.1, 0.5]),
        ("a/1", [0.6, 0.5]),
        ("b/0", [0.12, 0.48]),
        ("b/1", [0.9, 0.9]),
        ("c/0", [0.5, 0.5]),
    ]
    .map(|(id, centroid)| reference(id, centroid))
    .to_vec()
}

fn query(references: Vec<Reference>) -> ScoresQuery {
    ScoresQuery {
        collection: name(),
        entity: entity("x"),
        range: TimeRange::ALL,
        known_until: None,
        references,
        fade_us: Some(FADE_US),
        window: 1,
        units: ScoreUnits::Range,
        known_after_us: 0,
    }
}

#[track_caller]
fn matched(engine: &Engine) -> Option<Matched> {
    let one = engine.entity(&name(), &entity("x")).unwrap().matched;
    let all = engine.entities(&name(), None, 10).unwrap();
    assert_eq!(one, all.into_iter().find(|view| view.entity == entity("x")).unwrap().matched);
    one
}

#[track_caller]
fn assert_same(matched: Option<&Matched>, score: &Score) {
    let factors = &score.factors;
    let Some(matched) = matched else {
        return assert_eq!((&factors.nearest, factors.distance), (&Nearest::None, None));
    };
    assert_eq!(matched.nearest, factors.nearest);
    assert!((matched.distance - factors.distance.unwrap()).abs() < 1e-9);
    match (matched.margin, factors.margin) {
        (Some(a), Some(b)) => assert!((a - b).abs() < 1e-9),
        (a, b) => assert_eq!(a, b),
    }
}

/// What is found while observations come in is what the anomaly score names afterwards, for any cut of the
/// batches, with the references that count less and less, and beyond the limit of what is looked back at.
#[test]
fn what_is_matched_at_ingest_is_what_a_score_names() {
    let mut short = spec(2);
    short.policy.novelty_regimes_max = 8;
    for (spec, taught) in [(spec(2), taught()), (spec(2), Vec::new()), (short, taught())] {
        let engine = engine_with(&spec);
        engine.keep_references(&name(), taught.clone(), Some(FADE_US)).unwrap();
        let observations = course("x", 0..1_300, 30);
        let (mut from, mut seen) = (0, [0; 3]);
        for size in [1, 29, 1, 2, 3, 64, 1, 7, 100, 250].into_iter().cycle() {
            let Some(batch) = observations.get(from..(from + size).min(observations.len())) else {
                break;
            };
            if batch.is_empty() {
                break;
            }
            engine.ingest(&name(), batch.to_vec()).unwrap();
            from += batch.len();
            let found = matched(&engine);
            let scores = engine.scores(&query(taught.clone())).unwrap().scores;
            assert_same(found.as_ref(), scores.last().unwrap());
            seen[match found.map(|found| found.nearest) {
                Some(Nearest::Own(_)) => 0,
                Some(Nearest::Reference(_)) => 1,
                _ => 2,
            }] += 1;
        }
        let expected = if taught.is_empty() { [true, false, true] } else { [true, true, false] };
        assert_eq!(seen.map(|count| count > 0), expected, "{seen:?}");
    }
}

#[test]
fn matching_changes_no_segment() {
    let (plain, matching) = (engine_with(&spec(2)), engine_with(&spec(2)));
    for (index, batch) in course("x", 0..2_000, 30).chunks(37).enumerate() {
        plain.ingest(&name(), batch.to_vec()).unwrap();
        // What is taught changes all the time.
        let taught = if index % 2 == 0 { taught() } else { Vec::new() };
        matching.keep_references(&name(), taught, None).unwrap();
        matching.ingest(&name(), batch.to_vec()).unwrap();
    }
    assert!(cids(&plain, "x").len() > 50);
    assert_eq!(cids(&plain, "x"), cids(&matching, "x"));
}

#[test]
fn a_restart_and_other_references_forget_what_the_newest_is_like() {
    // Of three sources two have to know a thing.
    let taught = || [taught(), vec![reference("c/1", [0.9, 0.89])]].concat();
    let disk = Simulated::new();
    let engine = open(&disk);
    engine.create_collection(spec(2)).unwrap();
    engine.ingest(&name(), course("x", 0..100, 30)).unwrap();
    assert!(matches!(matched(&engine), Some(Matched { nearest: Nearest::Own(_), .. })));
    // With the first word of a peer what was found without it does not stand.
    engine.keep_references(&name(), taught(), None).unwrap();
    assert_eq!(matched(&engine), None);
    engine.ingest(&name(), vec![observation("x", 100, &[0.9, 0.9])]).unwrap();
    let found = matched(&engine).unwrap();
    assert_eq!(found.nearest, Nearest::Reference("b/1".to_owned()));
    // The same ones again are no change.
    engine.keep_references(&name(), taught(), None).unwrap();
    assert_eq!(matched(&engine), Some(found));
    // A peer that is heard no more counts no more, from that moment on.
    let others = taught().into_iter().filter(|taught| taught.source != "b").collect();
    engine.keep_references(&name(), others, None).unwrap();
    assert_eq!(matched(&engine), None);
    drop(engine);
    let engine = open(&disk);
    assert_eq!(matched(&engine), None);
    engine.ingest(&name(), vec![observation("x", 101, &[0.9, 0.9])]).unwrap();
    assert!(matches!(matched(&engine), Some(Matched { nearest: Nearest::Own(_), .. })));
}

#[test]
fn only_the_newest_observation_says_what_an_entity_is_like_now() {
    let engine = engine_with(&CollectionSpec { lateness_us: 60_000_000, ..spec(2) });
    engine.keep_references(&name(), taught(), None).unwrap();
    engine.ingest(&name(), vec![observation("x", 10, &[0.9, 0.9])]).unwrap();
    engine.ingest(&name(), vec![observation("x", 5, &[0.1, 0.5])]).unwrap();
    assert_eq!(matched(&engine).unwrap().nearest, Nearest::Reference("b/1".to_owned()));
}

#[test]
fn without_room_for_pasts_no_match_is_claimed_and_segments_are_the_same() {
    let disk = Simulated::new();
    let config = Config { baseline_cache_bytes: 1, ..Config::default() };
    let engine = Engine::open_storage(std::sync::Arc::new(disk), config).unwrap();
    engine.create_collection(spec(2)).unwrap();
    let plain = engine_with(&spec(2));
    for batch in course("x", 0..600, 30).chunks(10) {
        engine.ingest(&name(), batch.to_vec()).unwrap();
        plain.ingest(&name(), batch.to_vec()).unwrap();
    }
    engine.ingest(&name(), course("x", 600..605, 30)).unwrap();
    plain.ingest(&name(), course("x", 600..605, 30)).unwrap();
    assert_eq!(cids(&engine, "x"), cids(&plain, "x"));
    assert!(matched(&plain).is_some());
    let scores = engine.scores(&query(Vec::new())).unwrap().scores;
    match matched(&engine) {
        None => {}
        found => assert_same(found.as_ref(), scores.last().unwrap()),
    }
}

#[test]
fn what_is_like_something_known_is_counted() {
    let engine = engine_with(&spec(2));
    let stay = |from: i64, level: f32| {
        (from..from + 20).map(move |second| observation("x", second, &[level, 0.5]))
    };
    // Nothing is known yet, then a regime that is unlike the only one before, then that one again.
    engine
        .ingest(&name(), stay(0, 0.2).chain(stay(20, 0.8)).chain(stay(40, 0.2)).collect())
        .unwrap();
    let counters = engine.counters();
    assert_eq!(counters.segments_sealed, 2);
    assert_eq!((counters.segments_like_own, counters.segments_unlike), (0, 1));
    // Regimes begin with three observations that come in before the one before has ended.
    assert_eq!(counters.observations_unlike, 18);
    assert_eq!(counters.observations_like_own, 18 + 2);
    engine.keep_references(&name(), vec![reference("a/0", [0.45, 0.5])], None).unwrap();
    engine.ingest(&name(), stay(60, 0.45).chain(stay(80, 0.2)).collect()).unwrap();
    let counters = engine.counters();
    assert_eq!(counters.segments_like_reference, 1);
    assert_eq!(counters.segments_like_own, 1);
    assert!(counters.observations_like_reference >= 20, "{counters:?}");
}

#[track_caller]
fn history(engine: &Engine) -> dunlin_engine::Rows {
    let (collection, entity) = (name(), entity("x"));
    let query = HistoryQuery { collection, entity, range: TimeRange::ALL, resolution_us: None };
    engine.history(&query).unwrap().points
}

fn matches(engine: &Engine, references: Vec<Reference>) -> Vec<Option<Matched>> {
    let (collection, entity) = (name(), entity("x"));
    let query = MatchesQuery { collection, entity, references, fade_us: Some(FADE_US) };
    engine.matches(&query, &history(engine)).unwrap()
}

#[test]
fn a_history_is_matched_with_what_was_known_at_each_moment() {
    let engine = engine_with(&spec(2));
    engine.ingest(&name(), course("x", 0..700, 30)).unwrap();
    let scores = engine.scores(&query(taught())).unwrap().scores;
    let found = matches(&engine, taught());
    assert_eq!(found.len(), scores.len());
    found.iter().zip(&scores).for_each(|(found, score)| assert_same(found.as_ref(), score));
}

#[test]
fn the_regimes_of_a_summary_are_matched_too() {
    let engine = engine_with(&CollectionSpec { fidelity: Fidelity::Summary, ..spec(2) });
    engine.ingest(&name(), course("x", 0..700, 30)).unwrap();
    let (points, cids) = (history(&engine), cids(&engine, "x"));
    let found = matches(&engine, Vec::new());
    // Start and end of the first regime: nothing had ended before.
    assert_eq!((points.count(), &found[..2]), (found.len(), &[None, None][..]));
    let Some(Matched { nearest: Nearest::Own(cid), margin: None, .. }) = &found[2] else {
        panic!("{:?}", found[2]);
    };
    assert_eq!(cid.to_string(), cids[0]);
    assert!(found[4..].iter().all(|found| found.as_ref().unwrap().margin.is_some()));
}

#[test]
fn references_that_do_not_fit_are_refused_and_the_old_ones_stay() {
    let engine = engine_with(&spec(2));
    engine.keep_references(&name(), taught(), None).unwrap();
    let short = Reference { centroid: vec![0.5], ..reference("a/0", [0.0; 2]) };
    let odd = reference("a/0", [f32::NAN, 0.0]);
    for (bad, is_it) in [
        (vec![short], (|e| matches!(e, ReadError::Dim { .. })) as fn(&ReadError) -> bool),
        (vec![odd], |e| matches!(e, ReadError::NotFinite { .. })),
        (vec![reference("a/0", [0.1; 2]); KEPT_REFERENCES_MAX + 1], |e| {
            matches!(e, ReadError::TooManyRows { .. })
        }),
    ] {
        assert!(is_it(&engine.keep_references(&name(), bad, None).unwrap_err()));
    }
    engine.ingest(&name(), vec![observation("x", 0, &[0.9, 0.9])]).unwrap();
    assert_eq!(matched(&engine).unwrap().nearest, Nearest::Reference("b/1".to_owned()));

    // Without declared ranges an entity's units are its own: nothing from elsewhere fits, and nothing
    // is said while they are being learned.
    let floor = engine_with(&CollectionSpec { units: Units::NoiseFloor, ..spec(2) });
    floor.keep_references(&name(), taught(), None).unwrap();
    floor.ingest(&name(), vec![observation("x", 0, &[0.9, 0.9])]).unwrap();
    assert_eq!(matched(&floor), None);
}
