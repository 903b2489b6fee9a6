//! How fast a node's engine takes observations in, durably, and how long each batch waits for its
//! acknowledgement.
//!
//! Telemetry is made up: every channel keeps a level with a little noise on it, and all levels change
//! after as many observations as a regime lasts on the servers of the ASD set. Each writer has an entity
//! of its own. Latency is that of one batch, from the call until it is on disk.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use dunlin_engine::{
    CollectionName, CollectionSpec, Config, Dim, Engine, EntityId, ErrorBound, Fidelity,
    Observation, Timestamp, Units, storage::Simulated,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// Observations in one request, as the target says.
const BATCH: usize = 1_000;

/// Observations in one regime.
const DWELL: usize = 30;

/// Batches of each writer whose payload is not kept; a tenth where it is, which takes longer.
const BATCHES: usize = 200;

/// Observations by which the cost of drift is measured.
const DRIFT_BATCHES: usize = 100;

/// What is measured: fidelity, channels, writers.
const CASES: [(Fidelity, u16, usize); 7] = [
    (Fidelity::Summary, 19, 1),
    (Fidelity::Summary, 38, 1),
    (Fidelity::Summary, 38, 4),
    (Fidelity::Summary, 128, 1),
    (Fidelity::Bounded, 38, 4),
    (Fidelity::Lossless, 38, 1),
    (Fidelity::Lossless, 38, 4),
];

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where to write; the system's folder for temporary files when absent.
    pub dir: Option<PathBuf>,
    /// Print the rows as JSON.
    pub json: bool,
}

/// One case.
#[derive(Clone, Debug, Serialize)]
struct Row {
    fidelity: Fidelity,
    dims: u16,
    batch: usize,
    writers: usize,
    observations_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Time that one observation takes in its regime: drift, noise floor, summary.
    drift_ns: f64,
}

/// Measures all cases and prints the rows.
///
/// # Errors
///
/// Fails when the folder cannot be written.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let base = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let progress = ProgressBar::new(CASES.len() as u64);
    progress.set_style(ProgressStyle::with_template("{bar:30} {pos} of {len}: {msg}")?);
    let mut rows = Vec::new();
    for (fidelity, dims, writers) in CASES {
        progress.set_message(format!("{fidelity:?}, {dims} channels, {writers} writers"));
        // Removed at the end, however that comes.
        let folder = tempfile::Builder::new().prefix("dunlin-bench-").tempdir_in(&base);
        let folder = folder.with_context(|| format!("cannot write to {}", base.display()))?;
        let (observations_per_s, latencies) = durable(folder.path(), fidelity, dims, writers)?;
        rows.push(Row {
            fidelity,
            dims,
            batch: BATCH,
            writers,
            observations_per_s,
            p50_ms: percentile(&latencies, 0.5),
            p99_ms: percentile(&latencies, 0.99),
            drift_ns: drift_ns(dims)?,
        });
        progress.inc(1);
    }
    progress.finish_and_clear();
    let header =
        ["fidelity", "dims", "batch", "writers", "observations/s", "p50 ms", "p99 ms", "drift ns"];
    super::print(&rows, options.json, header, |row| {
        [
            format!("{:?}", row.fidelity).to_lowercase(),
            row.dims.to_string(),
            row.batch.to_string(),
            row.writers.to_string(),
            format!("{:.0}", row.observations_per_s),
            format!("{:.2}", row.p50_ms),
            format!("{:.2}", row.p99_ms),
            format!("{:.0}", row.drift_ns),
        ]
    })?;
    Ok(())
}

/// Ingests with so many writers at once; returns observations per second, and how long each batch took.
fn durable(
    folder: &Path,
    fidelity: Fidelity,
    dims: u16,
    writers: usize,
) -> anyhow::Result<(f64, Vec<Duration>)> {
    let engine = Engine::open(folder, Config::default())?;
    let spec = spec(fidelity, dims)?;
    engine.create_collection(spec.clone())?;
    let batches = if fidelity == Fidelity::Summary { BATCHES } else { BATCHES / 10 };
    let work: Vec<Vec<Vec<Observation>>> = (0..writers)
        .map(|writer| {
            let mut telemetry = Telemetry::new(writer as u64, dims.into(), DWELL);
            (0..batches).map(|_| telemetry.next_batch()).collect()
        })
        .collect();
    let start = Instant::now();
    let latencies = std::thread::scope(|scope| {
        let ingest = |batches: Vec<Vec<Observation>>| {
            let (engine, name) = (&engine, &spec.name);
            scope.spawn(move || {
                let timed = |batch| {
                    let start = Instant::now();
                    engine.ingest(name, batch).map(|_| start.elapsed())
                };
                batches.into_iter().map(timed).collect::<Result<Vec<_>, _>>()
            })
        };
        let threads: Vec<_> = work.into_iter().map(ingest).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().expect("ingest does not panic"));
        joined.collect::<Result<Vec<_>, _>>()
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    engine.close()?;
    let mut latencies = latencies.concat();
    latencies.sort_unstable();
    Ok(((writers * batches * BATCH) as f64 / elapsed, latencies))
}

/// Returns what one observation costs in its regime: the time to take it in, without a disk below, less
/// the time of one that is known already and so never meets its regime.
fn drift_ns(dims: u16) -> anyhow::Result<f64> {
    let engine = Engine::open_storage(Arc::new(Simulated::new()), Config::default())?;
    let spec = spec(Fidelity::Summary, dims)?;
    engine.create_collection(spec.clone())?;
    let mut telemetry = Telemetry::new(0, dims.into(), usize::MAX);
    let mut in_regime = Vec::with_capacity(DRIFT_BATCHES);
    for _ in 0..DRIFT_BATCHES {
        let batch = telemetry.next_batch();
        let mut elapsed = [Duration::ZERO; 2];
        for (elapsed, batch) in elapsed.iter_mut().zip([batch.clone(), batch]) {
            let start = Instant::now();
            engine.ingest(&spec.name, batch)?;
            *elapsed = start.elapsed();
        }
        in_regime.push(elapsed[0].saturating_sub(elapsed[1]));
    }
    // The median: now and then the machine does something else in between.
    in_regime.sort_unstable();
    Ok(percentile(&in_regime, 0.5) * 1e6 / BATCH as f64)
}

fn spec(fidelity: Fidelity, dims: u16) -> anyhow::Result<CollectionSpec> {
    let dim = Dim::new(dims)?;
    let spec = CollectionSpec::new(CollectionName::new("bench")?, dim, Units::unit_range(dim));
    let error_bound = (fidelity == Fidelity::Bounded).then_some(ErrorBound::OfRange(0.05));
    Ok(CollectionSpec { fidelity, error_bound, ..spec })
}

/// Returns the value below which this share of sorted durations lies, in milliseconds.
fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (share * last as f64).round() as usize;
    sorted.get(index).map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
}

/// One entity's made-up life.
struct Telemetry {
    entity: EntityId,
    state: u64,
    level: Vec<f32>,
    dwell: usize,
    next: usize,
}

impl Telemetry {
    fn new(writer: u64, dims: usize, dwell: usize) -> Self {
        let entity = EntityId::new(format!("writer-{writer}")).expect("a short name");
        Self { entity, state: writer + 1, level: vec![0.5; dims], dwell, next: 0 }
    }

    /// Returns a number from 0 to 1: a linear congruential generator, the same in every run.
    fn random(&mut self) -> f32 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 40) as f32 / (1_u64 << 24) as f32
    }

    fn next_batch(&mut self) -> Vec<Observation> {
        (0..BATCH).map(|_| self.observe()).collect()
    }

    fn observe(&mut self) -> Observation {
        let dims = self.level.len();
        if self.next.is_multiple_of(self.dwell) {
            self.level = (0..dims).map(|_| self.random()).collect();
        }
        let noise: Vec<f32> = (0..dims).map(|_| 0.02 * self.random()).collect();
        let vector = self.level.iter().zip(noise).map(|(level, noise)| level + noise).collect();
        let timestamp = Timestamp(i64::try_from(self.next).unwrap_or(i64::MAX) * 1_000_000);
        self.next += 1;
        Observation { entity: self.entity.clone(), timestamp, vector, metadata: None }
    }
}
