//! What it costs to ask which of many entities are now nearest to a vector: 38 channels, ten nearest.
//!
//!     cargo run --release -p dunlin-engine --example open_regimes

use std::{error::Error, sync::Arc, time::Instant};

use dunlin_engine::{
    CollectionName, CollectionSpec, Config, Dim, Engine, EntityId, Include, KnnQuery, Observation,
    Timestamp, Units, distance, storage::Simulated,
};

const CHANNELS: u16 = 38;
const NEAREST: usize = 10;
const QUESTIONS: usize = 51;

/// A value between 0 and 1 for each channel.
fn level(seed: usize) -> Vec<f32> {
    let mixed = |channel: usize| {
        let mixed = (seed * 64 + channel).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40
    };
    (0..usize::from(CHANNELS)).map(|channel| mixed(channel) as f32 / (1 << 24) as f32).collect()
}

fn main() -> Result<(), Box<dyn Error>> {
    for entities in [1_000, 10_000, 100_000] {
        let engine = Engine::open_storage(Arc::new(Simulated::new()), Config::default())?;
        let (name, dim) = (CollectionName::new("open")?, Dim::new(CHANNELS)?);
        let spec = CollectionSpec::new(name.clone(), dim, Units::unit_range(dim));
        let (metric, entities_max) = (spec.metric, u32::try_from(entities)?);
        engine.create_collection(CollectionSpec { entities_max, ..spec })?;
        let all: Vec<usize> = (0..entities).collect();
        for part in all.chunks(1_000) {
            let observation = |entity: &usize| {
                let (entity, vector) = (EntityId::new(format!("entity-{entity}"))?, level(*entity));
                Ok(Observation { entity, timestamp: Timestamp(0), vector, metadata: None })
            };
            engine.ingest(
                &name,
                part.iter().map(observation).collect::<Result<_, Box<dyn Error>>>()?,
            )?;
        }
        let mut times = Vec::new();
        for question in 0..QUESTIONS {
            let vector = level(entities + question);
            let mut expected: Vec<f64> =
                all.iter().map(|entity| distance(metric, &vector, &level(*entity))).collect();
            expected.sort_unstable_by(f64::total_cmp);
            let query =
                KnnQuery { include: Include::Open, ..KnnQuery::new(name.clone(), vector, NEAREST) };
            let began = Instant::now();
            let answer = engine.knn(&query)?;
            times.push(began.elapsed().as_secs_f64() * 1e3);
            assert_eq!(answer.coverage.hot_regimes, entities as u64);
            let found = answer.neighbors.iter().map(|neighbor| neighbor.distance);
            assert!(
                found.eq(expected.into_iter().take(NEAREST)),
                "they are the nearest, bit for bit"
            );
        }
        times.sort_unstable_by(f64::total_cmp);
        println!("{entities} open regimes: {:.3} ms", times[QUESTIONS / 2]);
    }
    Ok(())
}
