//! Writes the data folder that `tests/vectors` keeps of each version of the formats.
//!
//! `cargo run -p dunlin-engine --example golden_store -- FOLDER`; the store is packed with zstd
//! afterwards, because most of it is empty pages.

use std::{error::Error, path::Path};

use dunlin_engine::{
    CollectionName, CollectionSpec, Config, Dim, Engine, EntityId, Fidelity, Observation,
    Timestamp, Units,
};

fn batch(from: i64, to: i64) -> Result<Vec<Observation>, Box<dyn Error>> {
    let entity = EntityId::new("pump-1")?;
    let observation = |second: i64| Observation {
        entity: entity.clone(),
        timestamp: Timestamp(second * 1_000_000),
        vector: vec![(second / 20 % 3) as f32 * 0.25, (second % 4) as f32 / 64.0],
        metadata: None,
    };
    Ok((from..to).map(observation).collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = std::env::args_os().nth(1).ok_or("name the folder to write")?;
    let engine = Engine::open(Path::new(&folder), Config::default())?;
    let (name, dim) = (CollectionName::new("pumps")?, Dim::new(2)?);
    let spec = CollectionSpec::new(name.clone(), dim, Units::unit_range(dim));
    let spec = CollectionSpec { fidelity: Fidelity::Lossless, lateness_us: 2_000_000, ..spec };
    engine.create_collection(spec)?;
    engine.ingest(&name, batch(0, 50)?)?;
    engine.checkpoint()?;
    // The rest stands in the log alone, as after a crash.
    engine.ingest(&name, batch(50, 90)?)?;
    for stored in engine.sealed_after(0, 100)? {
        println!("{} {}", stored.number, stored.cid);
    }
    std::process::exit(0);
}
