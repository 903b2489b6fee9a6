//! Operations on an engine, and what it must hold after them: the plain model of what it promises.
//!
//! A property test plays random operations, and a fuzz target plays those that its bytes stand for.

use std::{collections::BTreeMap, sync::Arc};

use dunlin_engine::{
    CollectionName, CollectionSpec, CompactionPolicy, Config, Dim, Engine, EntityId, Fidelity,
    HistoryQuery, Include, KnnQuery, Observation, SegmentPolicy, Source, TimeRange, Timestamp,
    Units, distance, storage::Simulated,
};

/// Something that a user does, or that happens to a user.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Ingests observations of one entity, one a second from a second on, around a level.
    Ingest { entity: u8, from: i64, count: u8, level: u8 },
    /// Ends the entity's open regime.
    Seal { entity: u8 },
    /// Forgets the entity.
    Remove { entity: u8 },
    /// Writes a checkpoint.
    Checkpoint,
    /// Brings the index up to date.
    Maintain,
    /// Puts outlines in place of the entity's segments, as far as that goes.
    Compact { entity: u8 },
    /// Ends the engine without a word, and opens it again.
    Restart,
    /// Takes the power away, and opens what is left.
    Crash,
    /// Asks something, which changes nothing.
    Ask { entity: u8, k: usize },
}

impl Operation {
    /// Returns the operation that four bytes stand for.
    pub(crate) fn from_bytes([kind, entity, a, b]: [u8; 4]) -> Self {
        let entity = entity % 3;
        match kind % 16 {
            0..=7 => {
                let from = i64::from(a) * 2 + i64::from(kind / 16);
                Self::Ingest { entity, from, count: b % 64, level: b / 26 }
            }
            8 => Self::Seal { entity },
            9 => Self::Remove { entity },
            10 => Self::Checkpoint,
            11 => Self::Maintain,
            12 => Self::Compact { entity },
            13 => Self::Restart,
            14 => Self::Crash,
            _ => Self::Ask { entity, k: if a == u8::MAX { usize::MAX } else { a.into() } },
        }
    }
}

/// What the engine should hold: each entity's observations in order, and where its regimes were ended.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) lives: BTreeMap<u8, Life>,
}

/// An entity's life since it was first seen, or last removed.
#[derive(Default)]
pub(crate) struct Life {
    pub(crate) observations: Vec<Observation>,
    /// How many observations there were each time that the open regime was ended.
    pub(crate) seals: Vec<usize>,
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

/// Plays operations on a new engine, and checks it against the model after each; returns both.
pub(crate) fn play(fidelity: Fidelity, operations: &[Operation]) -> (Engine, Model) {
    let mut disk = Simulated::new();
    let mut engine = open(&disk);
    engine.create_collection(spec(fidelity)).expect("a good specification");
    let mut model = Model::default();
    for operation in operations {
        match operation {
            Operation::Ingest { entity, from, count, level } => {
                let batch = batch(*entity, *from, *count, *level);
                let ack = engine.ingest(&name(), batch.clone()).expect("a good batch");
                let expected = model.ingest(*entity, &batch);
                assert_eq!((ack.accepted, ack.duplicate, ack.late), expected);
            }
            Operation::Seal { entity } => {
                let sealed = engine.seal(&name(), &id(*entity));
                let life = model.lives.get_mut(entity);
                assert_eq!(sealed.is_ok(), life.is_some());
                life.into_iter().for_each(|life| life.seals.push(life.observations.len()));
            }
            Operation::Remove { entity } => {
                let removed = engine.remove(&name(), &id(*entity));
                let life = model.lives.remove(entity);
                assert_eq!(
                    removed.ok().map(|removed| removed.observations),
                    life.map(|life| life.observations.len() as u64)
                );
            }
            Operation::Checkpoint => engine.checkpoint().expect("a disk that works"),
            Operation::Maintain => {
                while engine.maintain_index(&|| true).expect("a disk that works") {}
            }
            Operation::Compact { entity } => {
                compact(&engine, *entity, model.lives.contains_key(entity));
            }
            Operation::Restart => {
                drop(engine);
                engine = open(&disk);
            }
            Operation::Crash => {
                disk = disk.crash();
                engine = open(&disk);
            }
            Operation::Ask { entity, k } => {
                ask(&engine, *entity, *k, model.lives.contains_key(entity));
            }
        }
    }
    compare(&engine, fidelity, &model);
    (engine, model)
}

pub(crate) fn name() -> CollectionName {
    CollectionName::new("c").expect("a good name")
}

pub(crate) fn id(entity: u8) -> EntityId {
    EntityId::new(format!("entity-{entity}")).expect("a good id")
}

pub(crate) fn spec(fidelity: Fidelity) -> CollectionSpec {
    let dim = Dim::new(2).expect("a good dimension");
    let spec = CollectionSpec::new(name(), dim, Units::unit_range(dim));
    // Compaction leaves as many segments as regimes are compared with.
    let policy = SegmentPolicy { novelty_regimes_max: 2, ..spec.policy };
    CollectionSpec { fidelity, policy, ..spec }
}

pub(crate) fn open(disk: &Simulated) -> Engine {
    // Parts of a few segments, and checkpoints now and then.
    let config = Config {
        checkpoint_log_bytes: 20_000,
        index_tail_segments: 5,
        index_part_segments: 60,
        ..Config::default()
    };
    Engine::open_storage(Arc::new(disk.clone()), config).expect("a folder of ours")
}

fn batch(entity: u8, from: i64, count: u8, level: u8) -> Vec<Observation> {
    let noise = |second: i64| (second * 7919 % 13) as f32 / 1_000.0;
    // A level lasts for a few seconds, so that there are segments to compact.
    let level = |second: i64| f32::from(level) / 10.0 + (second / 5 % 3) as f32 / 4.0;
    let observation = |second: i64| Observation {
        entity: id(entity),
        timestamp: Timestamp(second * 1_000_000),
        vector: vec![level(second) + noise(second), 0.5],
        metadata: None,
    };
    (from..from + i64::from(count)).map(observation).collect()
}

/// Compacts the past of an entity in steps of a few segments.
fn compact(engine: &Engine, entity: u8, is_known: bool) {
    let before = Timestamp(i64::MAX);
    let policy = CompactionPolicy { before, nrmse: 0.05, flag_drift_min: 0.16, segments_min: 3 };
    loop {
        let step = engine.compact_course(&name(), &id(entity), &policy, &|_| true);
        assert_eq!(step.is_ok(), is_known, "{step:?}");
        let Ok(Some(done)) = step else { return };
        assert!(done.segments >= 3 && done.bytes_after < done.bytes_before, "{done:?}");
    }
}

/// Asks questions that must have the right answer or a typed refusal.
fn ask(engine: &Engine, asked: u8, k: usize, is_known: bool) {
    let query = |entity| KnnQuery {
        entity,
        include: Include::Sealed,
        ..KnnQuery::new(name(), vec![0.3, 0.5], k)
    };
    let answer = engine.knn(&query(Some(id(asked))));
    assert_eq!(answer.is_ok(), is_known, "{answer:?}");
    assert!(answer.map_or(0, |answer| answer.neighbors.len()) <= k);
    // So few segments are compared one by one, however they are kept.
    let all = engine.sealed_after(0, usize::MAX).expect("a store that works");
    let metric = spec(Fidelity::Summary).metric;
    let of = |mean: &[f32]| distance(metric, &[0.3, 0.5], mean);
    let mut expected: Vec<f64> = all.iter().map(|stored| of(stored.segment.mean())).collect();
    expected.sort_by(f64::total_cmp);
    expected.truncate(k);
    let found = engine.knn(&query(None)).expect("a good question").neighbors;
    assert!(found.iter().map(|near| near.distance).eq(expected));
    for near in &found {
        let Source::Sealed(cid) = near.source else { panic!("an open regime was not asked for") };
        assert!(all.iter().any(|stored| stored.cid == cid));
    }
}

/// Checks that the engine holds what the model does, and nothing else.
fn compare(engine: &Engine, fidelity: Fidelity, model: &Model) {
    let held = engine.entities(&name(), None, usize::MAX).expect("a collection");
    assert!(
        held.iter().map(|view| &view.entity).eq(model
            .lives
            .keys()
            .map(|n| id(*n))
            .collect::<Vec<_>>()
            .iter())
    );
    for (number, life) in &model.lives {
        let view = engine.entity(&name(), &id(*number)).expect("an entity");
        assert_eq!(view.observations, life.observations.len() as u64);
        if fidelity != Fidelity::Lossless {
            continue;
        }
        let query = HistoryQuery {
            collection: name(),
            entity: id(*number),
            range: TimeRange::ALL,
            resolution_us: None,
        };
        let points = engine.history(&query).expect("an entity").points;
        let held: Vec<_> = points.iter().map(|(time, row)| (time, row.to_vec())).collect();
        let sent = life.observations.iter().map(|sent| (sent.timestamp, sent.vector.clone()));
        assert_eq!(held, sent.collect::<Vec<_>>());
    }
}
