//! Random operations against a plain model: whatever is done in whatever order, the engine holds what was
//! accepted, once, and seals the same segments however the observations were cut into batches.

use std::{collections::BTreeMap, sync::Arc};

use dunlin_engine::{
    CollectionSpec, Config, Engine, Fidelity, HistoryQuery, KnnQuery, Observation, TimeRange,
    storage::Simulated,
};
use proptest::prelude::*;

use crate::support::{cids, entity, name, observation, spec};

/// Something that a user does.
#[derive(Clone, Debug)]
enum Operation {
    /// Ingests observations of one entity, one a second from a second on, around a level.
    Ingest { entity: u8, from: i64, count: u8, level: u8 },
    /// Ends the entity's open regime.
    Seal { entity: u8 },
    /// Writes a checkpoint.
    Checkpoint,
    /// Ends the engine without a word, and opens it again.
    Restart,
    /// Asks something, which changes nothing.
    Ask { entity: u8, k: usize },
}

fn operation() -> impl Strategy<Value = Operation> {
    let entities = 0_u8..3;
    prop_oneof![
        6 => (entities.clone(), 0_i64..400, 0_u8..60, 0_u8..10)
            .prop_map(|(entity, from, count, level)| Operation::Ingest { entity, from, count, level }),
        1 => entities.clone().prop_map(|entity| Operation::Seal { entity }),
        1 => Just(Operation::Checkpoint),
        1 => Just(Operation::Restart),
        1 => (entities, prop_oneof![Just(0), 1_usize..5, Just(usize::MAX)])
            .prop_map(|(entity, k)| Operation::Ask { entity, k }),
    ]
}

fn id(entity: u8) -> String {
    format!("entity-{entity}")
}

fn batch(entity: u8, from: i64, count: u8, level: u8) -> Vec<Observation> {
    let noise = |second: i64| (second * 7919 % 13) as f32 / 1_000.0;
    (from..from + i64::from(count))
        .map(|s| observation(&id(entity), s, &[f32::from(level) / 10.0 + noise(s), 0.5]))
        .collect()
}

/// What the engine should hold: each entity's observations in order, and where its regimes were ended.
#[derive(Default)]
struct Model {
    lives: BTreeMap<u8, Life>,
}

#[derive(Default)]
struct Life {
    observations: Vec<Observation>,
    /// How many observations there were each time.
    seals: Vec<usize>,
}

impl Model {
    /// Takes a batch in by the rule that is documented: only what is newer than all before. Returns how
    /// many were accepted, known and late.
    fn ingest(&mut self, entity: u8, batch: &[Observation]) -> (u64, u64, u64) {
        let (mut accepted, mut known, mut late) = (0, 0, 0);
        for observation in batch {
            let life = self.lives.entry(entity).or_default();
            match life.observations.last().map(|last| observation.timestamp.cmp(&last.timestamp)) {
                None | Some(std::cmp::Ordering::Greater) => {
                    life.observations.push(observation.clone());
                    accepted += 1;
                }
                Some(std::cmp::Ordering::Equal) => known += 1,
                Some(std::cmp::Ordering::Less) => late += 1,
            }
        }
        (accepted, known, late)
    }
}

fn open(disk: &Simulated) -> Engine {
    Engine::open_storage(Arc::new(disk.clone()), Config::default()).unwrap()
}

/// Asks questions that must have an answer or a typed refusal.
fn ask(engine: &Engine, asked: u8, k: usize, is_known: bool) {
    let knn = KnnQuery {
        collection: name(),
        vector: vec![0.3, 0.5],
        k,
        range: TimeRange::ALL,
        entity: Some(entity(&id(asked))),
        include: dunlin_engine::Include::All,
    };
    let answer = engine.knn(&knn);
    assert_eq!(answer.is_ok(), is_known, "{answer:?}");
    assert!(answer.map_or(0, |answer| answer.neighbors.len()) <= k);
}

/// Checks that the engine holds what the model does.
fn compare(engine: &Engine, model: &Model) {
    for (number, life) in &model.lives {
        let query = HistoryQuery {
            collection: name(),
            entity: entity(&id(*number)),
            range: TimeRange::ALL,
            resolution_us: None,
        };
        let points = engine.history(&query).unwrap().points;
        let held: Vec<_> = points.iter().map(|(time, row)| (time, row.to_vec())).collect();
        let sent = life.observations.iter().map(|sent| (sent.timestamp, sent.vector.clone()));
        assert_eq!(held, sent.collect::<Vec<_>>());
    }
}

/// Feeds a life to a fresh engine in batches of `size`, with the same ends of regimes.
fn replayed(spec: &CollectionSpec, number: u8, life: &Life, size: usize) -> Vec<String> {
    let engine = open(&Simulated::new());
    engine.create_collection(spec.clone()).unwrap();
    let mut done = 0;
    for end in life.seals.iter().copied().chain([life.observations.len()]) {
        for batch in life.observations[done..end].chunks(size) {
            engine.ingest(&name(), batch.to_vec()).unwrap();
        }
        if end > 0 && life.seals.contains(&end) {
            engine.seal(&name(), &entity(&id(number))).unwrap();
        }
        done = end;
    }
    cids(&engine, &id(number))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_engine_holds_what_a_plain_model_holds(
        operations in prop::collection::vec(operation(), 1..40),
        size in 1_usize..50,
        fidelity in prop_oneof![Just(Fidelity::Summary), Just(Fidelity::Lossless)],
    ) {
        let spec = CollectionSpec { fidelity, ..spec(2) };
        let disk = Simulated::new();
        let mut engine = open(&disk);
        engine.create_collection(spec.clone()).unwrap();
        let mut model = Model::default();
        for operation in operations {
            match operation {
                Operation::Ingest { entity, from, count, level } => {
                    let batch = batch(entity, from, count, level);
                    let ack = engine.ingest(&name(), batch.clone()).unwrap();
                    let expected = model.ingest(entity, &batch);
                    prop_assert_eq!((ack.accepted, ack.duplicate, ack.late), expected);
                }
                Operation::Seal { entity: number } => {
                    let sealed = engine.seal(&name(), &entity(&id(number)));
                    if let Some(life) = model.lives.get_mut(&number) {
                        sealed.unwrap();
                        life.seals.push(life.observations.len());
                    } else {
                        prop_assert!(sealed.is_err());
                    }
                }
                Operation::Checkpoint => engine.checkpoint().unwrap(),
                Operation::Restart => {
                    drop(engine);
                    engine = open(&disk);
                }
                Operation::Ask { entity, k } => {
                    ask(&engine, entity, k, model.lives.contains_key(&entity));
                }
            }
        }
        if fidelity == Fidelity::Lossless {
            compare(&engine, &model);
        }
        for (number, life) in &model.lives {
            let all_at_once = replayed(&spec, *number, life, usize::MAX);
            prop_assert_eq!(&all_at_once, &cids(&engine, &id(*number)));
            prop_assert_eq!(&all_at_once, &replayed(&spec, *number, life, size));
        }
    }
}
