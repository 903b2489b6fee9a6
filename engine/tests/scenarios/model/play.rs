//! Operations on an engine, and what it must hold after them: the plain model of what it promises.
//!
//! A property test plays random operations, and a fuzz target plays those that its bytes stand for.

use std::{collections::BTreeMap, sync::Arc};

use dunlin_engine::{
    CollectionName, CollectionSpec, CompactionBudget, CompactionPolicy, Config, Dim, Engine,
    EntityId, ErrorBound, Fidelity, Metadata, Metric, Observation, SegmentPolicy, Timestamp, Units,
    WriteError, storage::Simulated,
};

use super::questions::ask;

/// Under what agreement a collection is played with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Setup {
    pub(crate) fidelity: Fidelity,
    pub(crate) metric: Metric,
    /// Whether a unit is the noise of the entity, in place of the declared range.
    pub(crate) is_in_noise: bool,
    pub(crate) lateness_s: u8,
    pub(crate) dim: u16,
}

impl Setup {
    /// Returns the agreement that two bytes stand for.
    pub(crate) fn from_bytes([one, other]: [u8; 2]) -> Self {
        Self {
            fidelity: [Fidelity::Summary, Fidelity::Bounded, Fidelity::Lossless][one as usize % 3],
            metric: [Metric::Euclidean, Metric::Cosine, Metric::Dot][one as usize / 3 % 3],
            is_in_noise: one / 9 % 2 == 1,
            lateness_s: [0, 0, 3, 40][one as usize / 18 % 4],
            dim: [1, 2, 3, 9][other as usize % 4],
        }
    }
}

/// Something that a user does, or that happens to a user.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    /// Ingests observations of one entity, one a second from a second on, around a level.
    Ingest { entity: u8, from: i64, count: u8, level: u8, shape: Shape },
    /// Sends what must be refused.
    Refused { entity: u8, what: u8 },
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
    Ask { entity: u8, k: usize, what: u8 },
}

/// What is unusual about a batch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// Nothing.
    Plain,
    /// The newest comes first.
    Backwards,
    /// Some observations carry metadata.
    Noted,
    /// Values, and sometimes times, at the edges of what numbers can hold.
    Strange,
}

impl Operation {
    /// Returns the operation that four bytes stand for.
    pub(crate) fn from_bytes([kind, entity, a, b]: [u8; 4]) -> Self {
        use Shape::{Backwards, Noted, Plain, Strange};
        let entity = entity % 3;
        match kind % 16 {
            0..=6 => Self::Ingest {
                entity,
                from: i64::from(a) * 2 + i64::from(kind / 16),
                count: b % 64,
                level: b / 26,
                shape: [Plain, Plain, Plain, Noted, Noted, Backwards, Strange][kind as usize % 16],
            },
            7 => Self::Refused { entity, what: a },
            8 => Self::Seal { entity },
            9 => Self::Remove { entity },
            10 => Self::Checkpoint,
            11 => Self::Maintain,
            12 => Self::Compact { entity },
            13 => Self::Restart,
            14 => Self::Crash,
            _ => Self::Ask { entity, k: if a == u8::MAX { usize::MAX } else { a.into() }, what: b },
        }
    }
}

/// What the engine should hold, by entity.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) lives: BTreeMap<u8, Life>,
}

/// An entity's life since it was first seen, or last removed.
#[derive(Default)]
pub(crate) struct Life {
    /// What was accepted, by time.
    pub(crate) accepted: BTreeMap<i64, Observation>,
    newest: i64,
    /// The newest that no older one can follow any more.
    released: Option<i64>,
    /// How many observations there were each time that the open regime was ended.
    pub(crate) seals: Vec<usize>,
}

impl Life {
    /// Returns what is in regimes, sealed or open: the rest waits for older ones.
    pub(crate) fn settled(&self) -> impl Iterator<Item = &Observation> {
        let is_settled = |(time, _): &(&i64, _)| self.released.is_some_and(|last| **time <= last);
        self.accepted.iter().take_while(is_settled).map(|(_, observation)| observation)
    }

    /// Returns what the entity was last said to be.
    pub(crate) fn metadata(&self) -> Metadata {
        let said = self.settled().filter_map(|observation| observation.metadata.clone());
        said.last().unwrap_or_default()
    }

    /// Takes an observation in by the rule that is documented; returns whether it was accepted, or else
    /// whether it was known.
    fn observe(&mut self, observation: &Observation, lateness_us: i64) -> Result<(), bool> {
        let time = observation.timestamp.0;
        if !self.accepted.is_empty() {
            let is_known = self.accepted.contains_key(&time) && self.released <= Some(time);
            let oldest = self.newest.saturating_sub(lateness_us);
            if is_known || time < oldest || Some(time) < self.released {
                return Err(is_known);
            }
            self.newest = self.newest.max(time);
        } else {
            self.newest = time;
        }
        self.accepted.insert(time, observation.clone());
        let until = self.newest.saturating_sub(lateness_us);
        let last = self.accepted.range(..=until).next_back().map(|(time, _)| *time);
        self.released = self.released.max(last);
        Ok(())
    }

    fn seal(&mut self) {
        self.seals.push(self.accepted.len());
        self.released = Some(self.newest);
    }
}

impl Model {
    /// Returns how many of a batch were accepted, known and late.
    fn ingest(&mut self, entity: u8, batch: &[Observation], lateness_s: u8) -> (u64, u64, u64) {
        let (mut accepted, mut known, mut late) = (0, 0, 0);
        for observation in batch {
            let life = self.lives.entry(entity).or_default();
            match life.observe(observation, i64::from(lateness_s) * 1_000_000) {
                Ok(()) => accepted += 1,
                Err(true) => known += 1,
                Err(false) => late += 1,
            }
        }
        (accepted, known, late)
    }
}

/// Plays operations on a new engine, and checks it against the model after each; returns both.
pub(crate) fn play(setup: Setup, operations: &[Operation]) -> (Engine, Model) {
    let mut disk = Simulated::new();
    let mut engine = open(&disk);
    engine.create_collection(spec(setup)).expect("a good specification");
    let mut model = Model::default();
    for operation in operations {
        match operation {
            Operation::Ingest { entity, from, count, level, shape } => {
                let batch = batch(setup, *entity, (*from, *count, *level), *shape);
                let ack = engine.ingest(&name(), batch.clone()).expect("a good batch");
                let expected = model.ingest(*entity, &batch, setup.lateness_s);
                assert_eq!((ack.accepted, ack.duplicate, ack.late), expected);
            }
            Operation::Refused { entity, what } => refuse(&engine, setup, *entity, *what),
            Operation::Seal { entity } => {
                let sealed = engine.seal(&name(), &id(*entity));
                let life = model.lives.get_mut(entity);
                assert_eq!(sealed.is_ok(), life.is_some());
                life.into_iter().for_each(Life::seal);
            }
            Operation::Remove { entity } => {
                let removed = engine.remove(&name(), &id(*entity));
                let life = model.lives.remove(entity);
                assert_eq!(
                    removed.ok().map(|removed| removed.observations),
                    life.map(|life| life.accepted.len() as u64)
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
            Operation::Ask { entity, k, what } => ask(&engine, setup, &model, (*entity, *k, *what)),
        }
    }
    compare(&engine, setup, &model);
    (engine, model)
}

pub(crate) fn name() -> CollectionName {
    CollectionName::new("c").expect("a good name")
}

pub(crate) fn id(entity: u8) -> EntityId {
    EntityId::new(format!("entity-{entity}")).expect("a good id")
}

pub(crate) fn spec(setup: Setup) -> CollectionSpec {
    let dim = Dim::new(setup.dim).expect("a good dimension");
    let units = match setup.is_in_noise {
        true => Units::NoiseFloor,
        false => Units::unit_range(dim),
    };
    let spec = CollectionSpec::new(name(), dim, units);
    // Compaction leaves as many segments as regimes are compared with; lives are short, so noise is known soon.
    let policy = SegmentPolicy { novelty_regimes_max: 2, noise_warmup: 8, ..spec.policy };
    let error_bound = match setup {
        Setup { fidelity: Fidelity::Bounded, is_in_noise: true, .. } => {
            Some(ErrorBound::Absolute(vec![0.01; dim.get()]))
        }
        Setup { fidelity: Fidelity::Bounded, .. } => Some(ErrorBound::OfRange(0.01)),
        _ => None,
    };
    CollectionSpec {
        fidelity: setup.fidelity,
        metric: setup.metric,
        lateness_us: u64::from(setup.lateness_s) * 1_000_000,
        error_bound,
        policy,
        ..spec
    }
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

/// Metadata that some observations carry.
pub(crate) fn note(which: i64) -> Metadata {
    let pairs = BTreeMap::from([("shift".to_owned(), (which % 2).to_string())]);
    Metadata::new(pairs).expect("small enough")
}

fn batch(
    setup: Setup,
    entity: u8,
    (from, count, level): (i64, u8, u8),
    shape: Shape,
) -> Vec<Observation> {
    const EDGES: [f32; 8] =
        [0.0, -0.0, f32::MAX, -f32::MAX, f32::MIN_POSITIVE, 1e-45, 1e30, -1e-30];
    let noise = |second: i64| (second * 7919 % 13) as f32 / 1_000.0;
    // A level lasts for a few seconds, so that there are segments to compact.
    let around = |second: i64| f32::from(level) / 10.0 + (second / 5 % 3) as f32 / 4.0;
    let value = |second: i64, channel: i64| match (shape, channel) {
        (Shape::Strange, _) => EDGES[((second / 5 + channel) % 8) as usize],
        (_, 0) => around(second) + noise(second),
        (_, channel) => 0.5 - noise(second * channel),
    };
    let begin = match (shape, level) {
        (Shape::Strange, 8) => i64::MIN,
        (Shape::Strange, 9) => i64::MAX - 1_000 * 1_000_000,
        _ => 0,
    };
    let observation = |second: i64| Observation {
        entity: id(entity),
        timestamp: Timestamp(begin + second * 1_000_000),
        vector: (0..i64::from(setup.dim)).map(|channel| value(second, channel)).collect(),
        metadata: (matches!(shape, Shape::Noted) && second % 7 == 0).then(|| note(second)),
    };
    let mut batch: Vec<_> = (from..from + i64::from(count)).map(observation).collect();
    if matches!(shape, Shape::Backwards) {
        batch.reverse();
    }
    batch
}

/// Writes what is refused, by name and with nothing taken in.
fn refuse(engine: &Engine, setup: Setup, entity: u8, what: u8) {
    let mut batch = batch(setup, entity, (900, 3, 5), Shape::Plain);
    let bad = &mut batch[2].vector;
    match what % 5 {
        0 => bad.push(0.5),
        1 => bad.clear(),
        2 => bad[0] = f32::NAN,
        3 => *bad.last_mut().expect("a channel") = f32::NEG_INFINITY,
        _ => {
            let other = CollectionName::new("other").expect("a good name");
            let refused = engine.ingest(&other, batch).expect_err("there is no such collection");
            assert!(matches!(refused, WriteError::UnknownCollection { .. }), "{refused}");
            engine.create_collection(spec(setup)).expect("the same once more");
            let changed = CollectionSpec { entities_max: 1, ..spec(setup) };
            let refused = engine.create_collection(changed).expect_err("another specification");
            assert!(matches!(refused, WriteError::OtherSpec { .. }), "{refused}");
            return;
        }
    }
    let refused = engine.ingest(&name(), batch).expect_err("a bad batch");
    assert!(matches!(refused, WriteError::BadObservation { index: 2, .. }), "{refused}");
}

/// Compacts the past of an entity in steps of a few segments.
fn compact(engine: &Engine, entity: u8, is_known: bool) {
    let before = Timestamp(i64::MAX);
    let budget = match entity {
        0 => CompactionBudget::Share(0.5),
        _ => CompactionBudget::Nrmse(0.05),
    };
    let policy = CompactionPolicy { before, budget, flag_drift_min: 0.16, segments_min: 3 };
    loop {
        let step = engine.compact_course(&name(), &id(entity), &policy, &|_| true);
        assert_eq!(step.is_ok(), is_known, "{step:?}");
        let Ok(Some(done)) = step else { return };
        assert!(done.segments >= 3 && done.bytes_after < done.bytes_before, "{done:?}");
    }
}

/// Checks that the engine holds what the model does, and nothing else.
fn compare(engine: &Engine, setup: Setup, model: &Model) {
    let held = engine.entities(&name(), None, usize::MAX).expect("a collection");
    let expected: Vec<EntityId> = model.lives.keys().map(|number| id(*number)).collect();
    assert!(held.iter().map(|view| &view.entity).eq(&expected), "{held:?}");
    for (number, life) in &model.lives {
        let view = engine.entity(&name(), &id(*number)).expect("an entity");
        assert_eq!(view.observations, life.accepted.len() as u64);
        assert_eq!(view.waiting, life.accepted.len() - life.settled().count());
        assert_eq!(view.metadata, life.metadata());
        // The nearest regimes, and all of the course.
        for what in [1, 5] {
            ask(engine, setup, model, (*number, 3, what));
        }
    }
}
