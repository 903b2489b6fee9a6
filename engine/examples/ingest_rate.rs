//! Prints how fast this machine takes observations in: drift alone, and durable ingest.
//!
//! `cargo run --release -p dunlin-engine --example ingest_rate [folder]`

use std::{error::Error, path::PathBuf, time::Instant};

use dunlin_engine::{
    CollectionName, CollectionSpec, Config, Dim, Engine, EntityId, Fidelity, Observation,
    Timestamp, Units, storage::Simulated,
};

/// Telemetry that stays calm for a while and then moves on, with a little noise on top.
struct Telemetry {
    state: u64,
    level: Vec<f32>,
    dim: usize,
}

impl Telemetry {
    fn new(dim: usize) -> Self {
        Self { state: 1, level: vec![0.5; dim], dim }
    }

    fn next(&mut self) -> f32 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.state >> 40) as f32 / (1_u64 << 24) as f32
    }

    fn batch(
        &mut self,
        entity: &EntityId,
        from: usize,
        count: usize,
        dwell: usize,
    ) -> Vec<Observation> {
        let observation = |index: usize| {
            if index.is_multiple_of(dwell) {
                self.level = (0..self.dim).map(|_| self.next()).collect();
            }
            let noise: Vec<f32> = (0..self.dim).map(|_| self.next() * 0.02).collect();
            let vector = self.level.iter().zip(noise).map(|(level, noise)| level + noise).collect();
            let timestamp = Timestamp(index as i64 * 1_000_000);
            Observation { entity: entity.clone(), timestamp, vector, metadata: None }
        };
        (from..from + count).map(observation).collect()
    }
}

fn spec(name: &str, dim: u16, fidelity: Fidelity) -> Result<CollectionSpec, Box<dyn Error>> {
    let dim = Dim::new(dim)?;
    let spec = CollectionSpec::new(CollectionName::new(name)?, dim, Units::unit_range(dim));
    Ok(CollectionSpec { fidelity, ..spec })
}

/// Ingests into memory, without a disk below, and returns nanoseconds per observation: all of it, and
/// what is left without the way of an observation that is known already, which never meets its regime.
fn drift(dim: u16) -> Result<(f64, f64), Box<dyn Error>> {
    let engine = Engine::open_storage(std::sync::Arc::new(Simulated::new()), Config::default())?;
    let spec = spec("c", dim, Fidelity::Summary)?;
    engine.create_collection(spec.clone())?;
    let entity = EntityId::new("e")?;
    let mut telemetry = Telemetry::new(dim.into());
    let mut elapsed = [0.0; 2];
    for round in 0..20 {
        let batch = telemetry.batch(&entity, round * 10_000, 10_000, usize::MAX);
        for (elapsed, batch) in elapsed.iter_mut().zip([batch.clone(), batch]) {
            let start = Instant::now();
            engine.ingest(&spec.name, batch)?;
            *elapsed += start.elapsed().as_secs_f64();
        }
    }
    let [all, known] = elapsed.map(|seconds| seconds / 200_000.0 * 1e9);
    Ok((all, all - known))
}

/// Ingests batches of 1,000 with `writers` threads and returns observations per second.
fn durable(
    folder: &std::path::Path,
    fidelity: Fidelity,
    writers: usize,
    dwell: usize,
) -> Result<f64, Box<dyn Error>> {
    let engine = Engine::open(folder, Config::default())?;
    let spec = spec("c", 38, fidelity)?;
    engine.create_collection(spec.clone())?;
    let batches = |writer: usize| {
        let entity = EntityId::new(format!("e{writer}")).expect("a short name");
        let mut telemetry = Telemetry::new(38);
        telemetry.state = writer as u64 + 1;
        (0..300).map(|i| telemetry.batch(&entity, i * 1000, 1000, dwell)).collect::<Vec<_>>()
    };
    let work: Vec<Vec<Vec<Observation>>> = (0..writers).map(batches).collect();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for batches in work {
            let (engine, name) = (&engine, &spec.name);
            scope.spawn(move || {
                for batch in batches {
                    engine.ingest(name, batch).expect("the disk has room");
                }
            });
        }
    });
    let rate = (writers * 300_000) as f64 / start.elapsed().as_secs_f64();
    println!("    {:?}", engine.counters());
    engine.close()?;
    Ok(rate)
}

fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    for dim in [19, 38, 128] {
        let (all, regime) = drift(dim)?;
        println!(
            "in memory, {dim:>3} channels: {all:.0} ns per observation, {regime:.0} in its regime"
        );
    }
    for (fidelity, writers, dwell) in [
        (Fidelity::Summary, 1, 1000),
        (Fidelity::Summary, 1, 25),
        (Fidelity::Summary, 4, 25),
        (Fidelity::Lossless, 1, 25),
        (Fidelity::Lossless, 4, 25),
    ] {
        let folder = base.join(format!("dunlin-ingest-rate-{}", std::process::id()));
        let rate = durable(&folder, fidelity, writers, dwell)?;
        println!(
            "durable, 38 channels, {fidelity:?}, {writers} writers, regimes of {dwell}: {rate:.0}/s"
        );
        std::fs::remove_dir_all(&folder)?;
    }
    Ok(())
}
