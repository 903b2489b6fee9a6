//! How fast a node's engine takes observations in, durably, and how long each batch waits for its
//! acknowledgement.
//!
//! Telemetry is made up: every channel keeps a level with a little noise on it, and all levels change
//! after as many observations as a regime lasts on the servers of the ASD set. Its noise has all the bits of
//! a float, which is the hardest that a lossless collection can meet; with data, that is replayed instead.
//! Each writer has an entity of its own. Latency is that of one batch, from the call until it is on disk.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use dunlin_engine::{
    CollectionName, CollectionSpec, Config, Dim, Engine, EntityId, ErrorBound, Fidelity,
    Observation, Reference, Timestamp, Units, storage::Simulated,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::baselines::range_of;
use crate::vts1::{Dataset, Series};

/// Observations in one request, as the target says.
const BATCH: usize = 1_000;

/// Observations in one regime.
const DWELL: usize = 30;

/// Batches of each writer whose payload is not kept; a tenth where it is, which takes longer.
const BATCHES: usize = 200;

/// Observations by which the costs of drift and of matching are measured.
const DRIFT_BATCHES: usize = 100;

/// Templates that observations are matched with, and how many peers they are of.
const TEMPLATES: usize = 128;
const TEMPLATE_PEERS: usize = 4;

/// Own past regimes that they are matched with too, where there are any: as many as count by default.
const PAST: usize = 512;

/// Noise of a channel: values lie within so much above its level.
const NOISE: f32 = 0.02;

/// About as much noise as there can be before drift ends the regime.
const NOISE_MOST: f32 = 0.2;

/// What is made up: channels, writers.
const CASES: [(u16, usize); 4] = [(19, 1), (38, 1), (38, 4), (128, 1)];

/// Writers that replay each set of data.
const WRITERS: [usize; 2] = [1, 4];

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder of VTS1 data to replay; made-up telemetry when absent.
    pub data: Option<PathBuf>,
    /// What is kept of the observations.
    pub fidelity: Fidelity,
    /// Where to write; the system's folder for temporary files when absent.
    pub dir: Option<PathBuf>,
    /// Print the rows as JSON.
    pub json: bool,
}

/// What the writers of a case write.
#[derive(Clone)]
enum Source {
    MadeUp(u16),
    /// Each writer one of them, in turn.
    Replayed(Arc<Vec<Series>>),
}

/// One case.
#[derive(Clone, Debug, Serialize)]
struct Row {
    dims: u16,
    batch: usize,
    writers: usize,
    observations_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Time that one observation takes in its regime: drift, noise floor, summary.
    drift_ns: f64,
    /// Time that it takes more to match it with 128 templates of four peers, for an entity that goes on as before.
    match_ns: f64,
    /// The same with as much noise as fits a regime, so that all templates are compared each time.
    match_noisy_ns: f64,
    /// As `match_ns`, with 512 own past regimes as well.
    match_past_ns: f64,
    /// As `match_noisy_ns`, with 512 own past regimes as well.
    match_past_noisy_ns: f64,
}

/// The entity whose observations are matched.
#[derive(Clone, Copy)]
struct Life {
    /// How many regimes of it have ended.
    past: usize,
    /// How noisy the regime is that it is in then.
    noise: f32,
}

/// Measures all cases and prints the rows.
///
/// # Errors
///
/// Fails when the data cannot be read, or the folder cannot be written.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let base = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let cases = cases(options.data.as_deref())?;
    let progress = ProgressBar::new(cases.len() as u64);
    progress.set_style(ProgressStyle::with_template("{bar:30} {pos} of {len}: {msg}")?);
    let mut rows = Vec::new();
    for (source, writers) in cases {
        let spec = source.spec(options.fidelity)?;
        let dims = u16::try_from(spec.dim.get())?;
        progress.set_message(format!("{dims} channels, {writers} writers"));
        // Removed at the end, however that comes.
        let folder = tempfile::Builder::new().prefix("dunlin-bench-").tempdir_in(&base);
        let folder = folder.with_context(|| format!("cannot write to {}", base.display()))?;
        let (observations_per_s, latencies) = durable(folder.path(), &spec, &source, writers)?;
        let drift_ns = in_regime_ns(dims, Life { past: 0, noise: NOISE }, 0)?;
        let matched = |past, noise| {
            let matched = in_regime_ns(dims, Life { past, noise }, TEMPLATES)?;
            anyhow::Ok((matched - drift_ns).max(0.0))
        };
        rows.push(Row {
            dims,
            batch: BATCH,
            writers,
            observations_per_s,
            p50_ms: percentile(&latencies, 0.5),
            p99_ms: percentile(&latencies, 0.99),
            drift_ns,
            match_ns: matched(0, NOISE)?,
            match_noisy_ns: matched(0, NOISE_MOST)?,
            match_past_ns: matched(PAST, NOISE)?,
            match_past_noisy_ns: matched(PAST, NOISE_MOST)?,
        });
        progress.inc(1);
    }
    progress.finish_and_clear();
    let header = [
        "dims",
        "batch",
        "writers",
        "observations/s",
        "p50 ms",
        "p99 ms",
        "drift ns",
        "match ns",
        "noisy",
        "with past",
        "noisy",
    ];
    super::print(&rows, options.json, header, |row| {
        [
            row.dims.to_string(),
            row.batch.to_string(),
            row.writers.to_string(),
            format!("{:.0}", row.observations_per_s),
            format!("{:.2}", row.p50_ms),
            format!("{:.2}", row.p99_ms),
            format!("{:.0}", row.drift_ns),
            format!("{:.0}", row.match_ns),
            format!("{:.0}", row.match_noisy_ns),
            format!("{:.0}", row.match_past_ns),
            format!("{:.0}", row.match_past_noisy_ns),
        ]
    })?;
    Ok(())
}

/// Returns what to write, and how many writers do.
fn cases(data: Option<&Path>) -> anyhow::Result<Vec<(Source, usize)>> {
    let Some(folder) = data else {
        let made_up = |(dims, writers)| (Source::MadeUp(dims), writers);
        return Ok(CASES.into_iter().map(made_up).collect());
    };
    let dataset = Dataset::open(folder)?;
    let mut cases = Vec::new();
    for set in dataset.sets() {
        let mut series = dataset.read_set(&set).collect::<Result<Vec<_>, _>>()?;
        // One collection has one dimension.
        let dims = series[0].dims;
        series.retain(|one| one.dims == dims);
        let source = Source::Replayed(Arc::new(series));
        cases.extend(WRITERS.map(|writers| (source.clone(), writers)));
    }
    Ok(cases)
}

/// Ingests with so many writers at once; returns observations per second, and how long each batch took.
fn durable(
    folder: &Path,
    spec: &CollectionSpec,
    source: &Source,
    writers: usize,
) -> anyhow::Result<(f64, Vec<Duration>)> {
    let engine = Engine::open(folder, Config::default())?;
    engine.create_collection(spec.clone())?;
    let batches = if spec.fidelity == Fidelity::Summary { BATCHES } else { BATCHES / 10 };
    let work: Vec<Vec<Vec<Observation>>> = (0..writers)
        .map(|writer| {
            let mut telemetry = Telemetry::of(source, writer);
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

/// Returns what one observation costs in its regime, and to match it with so many templates: the time to take it
/// in, without a disk below, less the time of one that is known already and so never meets its regime.
fn in_regime_ns(dims: u16, life: Life, templates: usize) -> anyhow::Result<f64> {
    let engine = Engine::open_storage(Arc::new(Simulated::new()), Config::default())?;
    let spec = Source::MadeUp(dims).spec(Fidelity::Summary)?;
    engine.create_collection(spec.clone())?;
    // The last observation of the past begins the regime that all others are in.
    let mut past = Telemetry::made_up(0, dims.into(), DWELL);
    let before: Vec<Observation> = (0..=life.past * DWELL).map(|_| past.observe()).collect();
    for batch in before.chunks(BATCH) {
        engine.ingest(&spec.name, batch.to_vec())?;
    }
    engine.keep_references(&spec.name, made_up_templates(dims.into(), templates), None)?;
    past.stay(life.noise);
    let mut in_regime = Vec::with_capacity(DRIFT_BATCHES);
    for _ in 0..DRIFT_BATCHES {
        let batch = past.next_batch();
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

/// Returns so many templates of peers that all teach, anywhere in the range.
fn made_up_templates(dims: usize, count: usize) -> Vec<Reference> {
    let mut state = 77;
    let reference = |place: usize| Reference {
        id: place.to_string(),
        source: (place % TEMPLATE_PEERS).to_string(),
        is_witness: false,
        centroid: (0..dims).map(|_| random(&mut state)).collect(),
    };
    (0..count).map(reference).collect()
}

impl Source {
    /// Returns a collection for what it writes.
    fn spec(&self, fidelity: Fidelity) -> anyhow::Result<CollectionSpec> {
        let (dim, units) = match self {
            Self::MadeUp(dims) => {
                let dim = Dim::new(*dims)?;
                (dim, Units::unit_range(dim))
            }
            Self::Replayed(series) => {
                let dims = series[0].dims;
                let wider = |(a, b): (f32, f32), (c, d): (f32, f32)| (a.min(c), b.max(d));
                let range = |channel| {
                    let ranges = series.iter().map(|one| range_of(one, channel));
                    ranges.reduce(wider).unwrap_or((0.0, 1.0))
                };
                let (lower, upper) = (0..dims).map(range).unzip();
                (Dim::new(dims.try_into()?)?, Units::Range { lower, upper })
            }
        };
        let spec = CollectionSpec::new(CollectionName::new("bench")?, dim, units);
        let error_bound = (fidelity == Fidelity::Bounded).then_some(ErrorBound::OfRange(0.05));
        Ok(CollectionSpec { fidelity, error_bound, ..spec })
    }
}

/// Returns the value below which this share of sorted durations lies, in milliseconds.
fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let index = (share * last as f64).round() as usize;
    sorted.get(index).map_or(0.0, |duration| duration.as_secs_f64() * 1e3)
}

/// One entity's life.
struct Telemetry {
    entity: EntityId,
    next: usize,
    step_us: i64,
    course: Course,
}

enum Course {
    MadeUp {
        state: u64,
        level: Vec<f32>,
        dwell: usize,
        noise: f32,
    },
    /// The series of this index, again and again.
    Replayed(Arc<Vec<Series>>, usize),
}

impl Telemetry {
    fn of(source: &Source, writer: usize) -> Self {
        match source {
            Source::MadeUp(dims) => Self::made_up(writer, (*dims).into(), DWELL),
            Source::Replayed(all) => {
                let index = writer % all.len();
                let step_us =
                    i64::try_from(all[index].step_s).unwrap_or(1).saturating_mul(1_000_000);
                Self { step_us, ..Self::new(writer, Course::Replayed(Arc::clone(all), index)) }
            }
        }
    }

    fn made_up(writer: usize, dims: usize, dwell: usize) -> Self {
        let state = writer as u64 + 1;
        Self::new(writer, Course::MadeUp { state, level: vec![0.5; dims], dwell, noise: NOISE })
    }

    fn new(writer: usize, course: Course) -> Self {
        let entity = EntityId::new(format!("writer-{writer}")).expect("a short name");
        Self { entity, next: 0, step_us: 1_000_000, course }
    }

    /// Goes on at the same level for ever, with so much noise.
    fn stay(&mut self, more: f32) {
        if let Course::MadeUp { dwell, noise, .. } = &mut self.course {
            (*dwell, *noise) = (usize::MAX, more);
        }
    }

    fn next_batch(&mut self) -> Vec<Observation> {
        (0..BATCH).map(|_| self.observe()).collect()
    }

    fn observe(&mut self) -> Observation {
        let vector = match &mut self.course {
            Course::MadeUp { state, level, dwell, noise } => {
                if self.next.is_multiple_of(*dwell) {
                    level.fill_with(|| random(state));
                }
                level.iter().map(|level| level + *noise * random(state)).collect()
            }
            Course::Replayed(all, index) => {
                all[*index].row(self.next % all[*index].rows()).to_vec()
            }
        };
        let timestamp = Timestamp(i64::try_from(self.next).unwrap_or(i64::MAX) * self.step_us);
        self.next += 1;
        Observation { entity: self.entity.clone(), timestamp, vector, metadata: None }
    }
}

/// Returns a number from 0 to 1: a linear congruential generator, the same in every run.
fn random(state: &mut u64) -> f32 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 40) as f32 / (1_u64 << 24) as f32
}
