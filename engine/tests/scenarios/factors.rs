//! What makes an anomaly score: units, what is known and since when, time of day, other entities.

use dunlin_engine::{
    AnomaliesQuery, CollectionSpec, Engine, Level, Nearest, Observation, Score, ScoreUnits,
    ScoresQuery, Source, TimeRange, Timestamp,
};

use crate::support::{engine_with, entity, name, observation, sealed, spec};

const HOUR_S: i64 = 3600;
const DAY_S: i64 = 24 * HOUR_S;

fn query(units: ScoreUnits) -> ScoresQuery {
    ScoresQuery {
        collection: name(),
        entity: entity("a"),
        range: TimeRange::ALL,
        known_until: None,
        references: Vec::new(),
        window: 1,
        units,
        known_after_us: 0,
        fade_us: None,
    }
}

fn regimes(k: usize) -> AnomaliesQuery {
    AnomaliesQuery {
        collection: name(),
        entity: None,
        range: TimeRange::ALL,
        k,
        references: Vec::new(),
        level: Level::Regimes,
        units: ScoreUnits::Blended,
        known_after_us: 0,
        fade_us: None,
    }
}

#[track_caller]
fn scored(engine: &Engine, query: &ScoresQuery) -> Vec<Score> {
    engine.scores(query).unwrap().scores
}

/// An engine with one entity of one channel, every `step` seconds.
#[track_caller]
fn course(step: i64, count: i64, level: impl Fn(i64) -> f32) -> Engine {
    let engine = engine_with(&spec(1));
    let batch = (0..count).map(|i| observation("a", i * step, &[level(i * step)])).collect();
    engine.ingest(&name(), batch).unwrap();
    engine
}

#[test]
fn units_decide_which_channel_matters() {
    let engine = engine_with(&spec(2));
    // The first channel swings within and between regimes, the second hardly moves.
    let wave = |s: i64| if s / 50 % 2 == 0 { 0.2 } else { 0.8 };
    let noise = |s: i64| (s * 7919 % 11 - 5) as f32 / 200.0;
    let mut batch: Vec<Observation> =
        (0..400).map(|s| observation("a", s, &[wave(s) + noise(s), 0.5])).collect();
    // From the second regime: by far in the first channel, then by little in the second.
    batch.push(observation("a", 400, &[0.9, 0.5]));
    batch.push(observation("a", 401, &[0.8, 0.56]));
    engine.ingest(&name(), batch).unwrap();
    let level = |units| {
        let scores = scored(&engine, &query(units));
        (scores[400].level, scores[401].level)
    };
    let (swing, creep) = level(ScoreUnits::Range);
    assert!(swing > creep, "{swing} {creep}");
    for units in [ScoreUnits::Z, ScoreUnits::Noise, ScoreUnits::Blended] {
        let (swing, creep) = level(units);
        assert!(creep > swing, "{units:?} {swing} {creep}");
    }
    let three = [ScoreUnits::Range, ScoreUnits::Z, ScoreUnits::Noise].map(|u| level(u).1);
    let mean = three.iter().product::<f64>().cbrt();
    // The nearest regime has more than 30 observations, so the blend is the geometric mean.
    assert!((level(ScoreUnits::Blended).1 - mean).abs() < 1e-9);
}

#[test]
fn in_the_blend_a_glimpse_does_not_make_a_place_normal() {
    let stray = |s: i64| (100..103).contains(&s) || s >= 200;
    let engine = course(1, 250, |s| if stray(s) { 0.9 } else { 0.2 });
    assert_eq!(sealed(&engine).iter().map(|s| s.segment.count()).collect::<Vec<_>>(), [100, 3, 97]);
    assert!(scored(&engine, &query(ScoreUnits::Range))[240].score < 1e-6);
    let blended = &scored(&engine, &query(ScoreUnits::Blended))[240];
    assert!(blended.score > 0.8, "{blended:?}");
    // Its nearest regime is the glimpse all the same.
    assert_eq!(blended.factors.nearest, Nearest::Own(sealed(&engine)[1].cid));
}

#[test]
fn an_incident_stays_one_until_it_is_known() {
    // Long enough to fill two segments.
    let bounded = CollectionSpec {
        policy: dunlin_engine::SegmentPolicy { observations_max: 60, ..spec(1).policy },
        ..spec(1)
    };
    let engine = engine_with(&bounded);
    let level = |s: i64| if s < 100 { 0.2 } else { 0.7 };
    let batch = (0..300).map(|s| observation("a", s, &[level(s)])).collect();
    engine.ingest(&name(), batch).unwrap();
    let at_once = scored(&engine, &query(ScoreUnits::Blended));
    assert!(at_once[150].score > 0.8 && at_once[250].score < 1e-6);
    let later = ScoresQuery { known_after_us: 120_000_000, ..query(ScoreUnits::Blended) };
    let later = scored(&engine, &later);
    // The first segment ended at 59 s and is known from 180 s on; the incident's first ends at 159 s.
    assert_eq!(later[150].factors.nearest, Nearest::None);
    assert!(later[250].score > 0.8 && later[290].score < 1e-6);
    let regimes = AnomaliesQuery { known_after_us: 120_000_000, ..regimes(9) };
    let top = &engine.anomalies(&regimes).unwrap().anomalies[0];
    assert_eq!((top.start, top.score > 0.8), (Timestamp(220_000_000), true));
}

#[test]
fn only_the_newest_regimes_are_known() {
    let few = CollectionSpec {
        policy: dunlin_engine::SegmentPolicy { novelty_regimes_max: 2, ..spec(1).policy },
        ..spec(1)
    };
    let engine = engine_with(&few);
    let level = |s: i64| [0.1, 0.4, 0.7, 0.1][(s / 50) as usize];
    let batch = (0..200).map(|s| observation("a", s, &[level(s)])).collect();
    engine.ingest(&name(), batch).unwrap();
    assert!(scored(&engine, &query(ScoreUnits::Range))[190].score > 0.7);
    let until = ScoresQuery { known_until: Some(Timestamp(149_000_000)), ..query(ScoreUnits::Z) };
    assert!(scored(&engine, &until)[10].score > 0.3);
    let open = engine.anomalies(&regimes(9)).unwrap().anomalies;
    let open = open.iter().find(|a| a.source == Some(Source::Open)).unwrap();
    assert!(open.score > 0.5, "{open:?}");
}

#[test]
fn a_behavior_at_an_unusual_hour_shows_in_timing() {
    // Ten days, by night at .2 and by day at .8; in the eleventh night as by day.
    let level = |s: i64| if s >= 10 * DAY_S || s % DAY_S >= 8 * HOUR_S { 0.8 } else { 0.2 };
    let engine = course(600, 10 * 144 + 40, level);
    let scores = scored(&engine, &query(ScoreUnits::Blended));
    let at = |day: i64, hour: i64| {
        let index = (day * DAY_S + hour * HOUR_S) / 600;
        scores[index as usize].factors.timing
    };
    assert_eq!(at(0, 3), None);
    assert!(at(9, 3).unwrap().hour < 0.1 && at(9, 12).unwrap().hour < 0.1);
    let night = at(10, 3).unwrap();
    assert!(night.hour > 0.85 && night.weekday < 0.2, "{night:?}");
    // It is nothing new, so only the timing tells.
    assert!(scores[10 * 144 + 18].score < 1e-6);
    let answer = engine.anomalies(&regimes(50)).unwrap();
    let open = answer.anomalies.iter().find(|a| a.source == Some(Source::Open)).unwrap();
    assert!(open.factors.timing.unwrap().hour < 0.5, "it began by day: {open:?}");
}

#[test]
fn a_behavior_on_an_unusual_weekday_shows_in_timing() {
    // Four weeks of quiet weekends; the epoch was a Thursday, so days 2 and 3 of each week are one.
    let is_weekend = |s: i64| matches!(s / DAY_S % 7, 2 | 3);
    let level = |s: i64| if s < 28 * DAY_S && is_weekend(s) { 0.2 } else { 0.8 };
    let engine = course(3600, 32 * 24, level);
    let scores = scored(&engine, &query(ScoreUnits::Blended));
    let on = |day: usize| scores[day * 24 + 12].factors.timing.unwrap();
    assert!(on(25).weekday < 0.2 && on(29).weekday < 0.2);
    assert!(on(30).weekday > 0.75, "{:?}", on(30));
    assert!(on(30).hour < 0.2, "{:?}", on(30));
}

/// Four servers under one load, each at its own level and swing; "d" leaves it from 900 s on.
fn fleet() -> Engine {
    let engine = engine_with(&spec(1));
    let load = |s: i64| [0.0, 1.0, 0.5][(s / 60 % 3) as usize];
    for (id, level, swing) in [("a", 0.1, 0.3), ("b", 0.5, 0.45), ("c", 0.2, 0.6), ("d", 0.3, 0.4)]
    {
        let stray = |s: i64| if id == "d" && s >= 900 { 1.0 - load(s) } else { load(s) };
        let batch = (0..1080).map(|s| observation(id, s, &[level + swing * stray(s)]));
        engine.ingest(&name(), batch.collect()).unwrap();
    }
    engine
}

#[test]
fn an_entity_that_leaves_its_peers_diverges() {
    let engine = fleet();
    let peers = |id: &str, second: usize| {
        let of = ScoresQuery { entity: entity(id), ..query(ScoreUnits::Blended) };
        scored(&engine, &of)[second].factors.peers
    };
    for id in ["a", "d"] {
        assert_eq!(peers(id, 30), None, "without a past nothing is usual");
        assert!(peers(id, 700).unwrap() < 0.1, "{:?}", peers(id, 700));
    }
    assert!(peers("a", 930).unwrap() < 0.1 && peers("d", 930).unwrap() > 0.6);
    let answer = engine.anomalies(&regimes(100)).unwrap();
    for anomaly in answer.anomalies.iter().filter(|a| a.start.0 >= 400_000_000) {
        let has_left = anomaly.entity == entity("d") && anomaly.start.0 >= 900_000_000;
        // At half load there is no telling; the mirror image is the same there.
        let is_half = anomaly.start.0 / 60_000_000 % 3 == 2;
        let divergence = anomaly.factors.peers.unwrap();
        assert_eq!(divergence > 0.5, has_left && !is_half, "{anomaly:?}");
    }
    let alone = course(1, 200, |s| if s < 100 { 0.2 } else { 0.7 });
    let scores = scored(&alone, &query(ScoreUnits::Blended));
    assert!(scores.iter().all(|score| score.factors.peers.is_none()));
    let answer = alone.anomalies(&regimes(9)).unwrap();
    assert!(answer.anomalies.iter().all(|anomaly| anomaly.factors.peers.is_none()));
}

#[test]
fn what_comes_later_changes_no_score() {
    let course = |seconds| crate::support::course("a", seconds, 20);
    let engine = engine_with(&spec(2));
    engine.ingest(&name(), course(0..300)).unwrap();
    engine.seal(&name(), &entity("a")).unwrap();
    for units in [ScoreUnits::Blended, ScoreUnits::Range, ScoreUnits::Z, ScoreUnits::Noise] {
        let query = ScoresQuery { window: 10, ..query(units) };
        let before = scored(&engine, &query);
        let later = engine_with(&spec(2));
        later.ingest(&name(), course(0..300)).unwrap();
        later.seal(&name(), &entity("a")).unwrap();
        later.ingest(&name(), course(300..500)).unwrap();
        assert_eq!(scored(&later, &query)[..300], before);
        // A later beginning gives the same scores too.
        let range = TimeRange { from: Some(Timestamp(150_000_000)), to: None };
        let part = scored(&later, &ScoresQuery { range, ..query });
        assert_eq!(part[..150], before[150..]);
    }
}
