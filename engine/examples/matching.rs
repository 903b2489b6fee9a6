//! What it costs to match an observation against templates: 128 of them from 8 sources, 38 channels.
//!
//!     cargo run --release -p dunlin-engine --example matching

use std::{error::Error, sync::Arc, time::Instant};

use dunlin_engine::{
    CollectionName, CollectionSpec, Config, Dim, Engine, EntityId, Fidelity, Observation,
    Reference, ScoreUnits, ScoresQuery, TimeRange, Timestamp, Units, storage::Simulated,
};

const CHANNELS: u16 = 38;
const TEMPLATES: usize = 128;
const SOURCES: usize = 8;
const OBSERVATIONS: usize = 50_000;

/// One level of all channels, so that there is one regime and the templates are what is compared.
fn observation(entity: &EntityId, second: usize) -> Observation {
    let value = |channel: usize| 0.5 + ((second * 31 + channel * 17) % 11) as f32 / 1000.0;
    Observation {
        entity: entity.clone(),
        timestamp: Timestamp(second as i64 * 1_000_000),
        vector: (0..usize::from(CHANNELS)).map(value).collect(),
        metadata: None,
    }
}

fn template(at: usize) -> Reference {
    let value = |channel: usize| ((at * 13 + channel * 7) % 97) as f32 / 97.0;
    Reference {
        id: at.to_string(),
        source: (at % SOURCES).to_string(),
        is_witness: false,
        centroid: (0..usize::from(CHANNELS)).map(value).collect(),
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let engine = Engine::open_storage(Arc::new(Simulated::new()), Config::default())?;
    let (name, dim) = (CollectionName::new("matching")?, Dim::new(CHANNELS)?);
    let spec = CollectionSpec::new(name.clone(), dim, Units::unit_range(dim));
    engine.create_collection(CollectionSpec { fidelity: Fidelity::Lossless, ..spec })?;
    let entity = EntityId::new("a".to_owned())?;
    let seconds: Vec<usize> = (0..OBSERVATIONS).collect();
    for batch in seconds.chunks(1_000) {
        let batch = batch.iter().map(|second| observation(&entity, *second)).collect();
        engine.ingest(&name, batch)?;
    }
    let query = ScoresQuery {
        collection: name,
        entity,
        range: TimeRange::ALL,
        // Nothing of its own is known, so that all of the time is the templates'.
        known_until: Some(Timestamp(-1)),
        references: Vec::new(),
        fade_us: None,
        window: 10,
        units: ScoreUnits::Range,
        known_after_us: 0,
    };
    let timed = |templates: usize| -> Result<f64, Box<dyn Error>> {
        let sets = [(0..templates).map(template).collect::<Vec<_>>()];
        let mut best = f64::INFINITY;
        for _ in 0..5 {
            let began = Instant::now();
            let levels = engine.levels(&query, &sets)?;
            assert_eq!(levels[0].len(), OBSERVATIONS);
            best = best.min(began.elapsed().as_secs_f64() * 1e6 / OBSERVATIONS as f64);
        }
        Ok(best)
    };
    let (without, with) = (timed(0)?, timed(TEMPLATES)?);
    println!(
        "{with:.2} us per observation with {TEMPLATES} templates of {CHANNELS} channels from {SOURCES} \
         sources, {without:.2} us without: {:.2} us for the match",
        with - without
    );
    Ok(())
}
