//! How long questions wait while observations are kept bit for bit: four writers, 38 channels, steady telemetry whose
//! regimes end when they are full.
//!
//!     cargo run --release -p dunlin-engine --example questions_meanwhile

use std::{
    error::Error,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use dunlin_engine::{
    CollectionName, CollectionSpec, Config, Dim, Engine, EntityId, Fidelity, Include, KnnQuery,
    Observation, Timestamp, Units, WriteError,
};

const CHANNELS: u16 = 38;
const WRITERS: usize = 4;
const BATCH: usize = 1_000;
const BATCHES: usize = 120;

/// Levels that stay, with noise on three of four channels.
fn vector(writer: usize, second: usize) -> Vec<f32> {
    let value = |channel: usize| {
        let mixed = (writer << 40 | second << 8 | channel).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let noise = ((mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 54) as f32;
        0.5 + if channel.is_multiple_of(4) { 0.0 } else { noise / 50_000.0 }
    };
    (0..usize::from(CHANNELS)).map(value).collect()
}

fn write(engine: &Engine, name: &CollectionName, writer: usize) -> Result<(), WriteError> {
    let entity = EntityId::new(format!("entity-{writer}")).expect("it is short");
    for first in (0..BATCHES).map(|batch| batch * BATCH) {
        let observation = |second: usize| Observation {
            entity: entity.clone(),
            timestamp: Timestamp(second as i64 * 1_000_000),
            vector: vector(writer, second),
            metadata: None,
        };
        engine.ingest(name, (first..first + BATCH).map(observation).collect())?;
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let engine = Engine::open(folder.path(), Config::default())?;
    let (name, dim) = (CollectionName::new("meanwhile")?, Dim::new(CHANNELS)?);
    let spec = CollectionSpec::new(name.clone(), dim, Units::unit_range(dim));
    engine.create_collection(CollectionSpec { fidelity: Fidelity::Lossless, ..spec })?;
    let (began, done) = (Instant::now(), AtomicUsize::new(0));
    let mut waits = thread::scope(|scope| {
        let writers = (0..WRITERS).map(|writer| {
            let (engine, name, done) = (&engine, &name, &done);
            scope.spawn(move || {
                let written = write(engine, name, writer);
                done.fetch_add(1, Ordering::Relaxed);
                written
            })
        });
        let writers: Vec<_> = writers.collect();
        let mut waits = Vec::new();
        while done.load(Ordering::Relaxed) < WRITERS {
            let asked = Instant::now();
            let query = KnnQuery {
                include: Include::Open,
                ..KnnQuery::new(name.clone(), vector(0, waits.len()), 3)
            };
            engine.knn(&query)?;
            waits.push(asked.elapsed().as_secs_f64() * 1e3);
            thread::sleep(Duration::from_millis(1));
        }
        for writer in writers {
            writer.join().expect("no writer panics")?;
        }
        Ok::<_, Box<dyn Error>>(waits)
    })?;
    let seconds = began.elapsed().as_secs_f64();
    waits.sort_unstable_by(f64::total_cmp);
    let at = |share: usize| waits[(waits.len() - 1) * share / 1_000];
    println!(
        "{:.0} observations/s, {} segments",
        (WRITERS * BATCHES * BATCH) as f64 / seconds,
        engine.counters().segments_sealed
    );
    println!(
        "{} questions: {:.2} ms in the middle, {:.2} at 99 %, {:.0} at most",
        waits.len(),
        at(500),
        at(990),
        at(1_000)
    );
    Ok(())
}
