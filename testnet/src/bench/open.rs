//! How soon a node with many segments answers after its start, and how much memory that takes.
//!
//! Segments are made through the engine as any node makes them: every entity changes its level after a
//! few observations. Levels are made up, or rows of given data in any order. Then a fresh process opens the folder, so that nothing is left in memory from before;
//! the system's cache of files may still hold it, as it does after a restart.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use dunlin_engine::{
    CollectionName, CollectionSpec, Config, Dim, Engine, EntityId, Exactness, HistoryQuery,
    Include, KnnQuery, Observation, TimeRange, Timestamp, Units,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};

use super::baselines::range_of;
use crate::vts1::Dataset;

/// Entities among whom the segments are spread.
const ENTITIES: u64 = 1_000;

/// Channels of every made-up vector.
const DIMS: u16 = 38;

/// Observations in one segment: twice what it takes to see that a level has changed.
const DWELL: u64 = 6;

/// Segments of each entity that are made in one batch.
const SEGMENTS_PER_BATCH: u64 = 100;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// This program, to open the folder in a fresh process.
    pub program: PathBuf,
    /// A folder of VTS1 data, whose rows are the levels; made-up levels when absent.
    pub data: Option<PathBuf>,
    /// About how many segments.
    pub segments: u64,
    /// Where to write; the system's folder for temporary files when absent.
    pub dir: Option<PathBuf>,
    /// Only open this folder, and print what was measured as one JSON object.
    pub reopen: Option<PathBuf>,
    /// Print the rows as JSON.
    pub json: bool,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Row {
    segments: u64,
    dims: u16,
    stored_mib: f64,
    open_ms: f64,
    /// From the start of opening to the first answer: the latest course of one entity.
    first_answer_ms: f64,
    /// Seconds to bring the index up to date from nothing, before.
    index_s: f64,
    /// The ten nearest of all segments by comparing all of them; the fastest.
    scan_ms: f64,
    /// The same by the index: the first time, which reads it, and the median afterwards.
    first_knn_ms: f64,
    knn_ms: f64,
    /// Share of the ten nearest that the index found.
    recall: f64,
    /// Resident memory at the end, and at its highest.
    resident_mib: f64,
    resident_max_mib: f64,
}

/// Makes the segments, opens them in a fresh process, and prints the row.
///
/// # Errors
///
/// Fails when the folder cannot be written, or the other process fails.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let levels = Levels::of(options.data.as_deref())?;
    if let Some(folder) = &options.reopen {
        println!("{}", serde_json::to_string(&reopen(folder, &levels)?)?);
        return Ok(());
    }
    let base = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::Builder::new().prefix("dunlin-bench-").tempdir_in(&base);
    let folder = folder.with_context(|| format!("cannot write to {}", base.display()))?;
    let index_s = fill(folder.path(), options.segments, &levels)?;
    let mut command = Command::new(&options.program);
    command.args(["bench", "open", "--reopen"]).arg(folder.path()).stderr(Stdio::inherit());
    if let Some(data) = &options.data {
        command.arg("--data").arg(data);
    }
    let output = command.output().context("cannot start this program again")?;
    ensure!(output.status.success(), "the process that opened the folder {}", output.status);
    let row: Row = serde_json::from_slice(&output.stdout)?;
    let row = Row { index_s, ..row };
    let header = [
        "segments",
        "dims",
        "stored MiB",
        "open ms",
        "first answer ms",
        "index s",
        "scan ms",
        "first knn ms",
        "knn ms",
        "recall@10",
        "resident MiB",
        "at most MiB",
    ];
    super::print(&[row], options.json, header, |row| {
        [
            row.segments.to_string(),
            row.dims.to_string(),
            format!("{:.0}", row.stored_mib),
            format!("{:.0}", row.open_ms),
            format!("{:.0}", row.first_answer_ms),
            format!("{:.1}", row.index_s),
            format!("{:.0}", row.scan_ms),
            format!("{:.0}", row.first_knn_ms),
            format!("{:.2}", row.knn_ms),
            format!("{:.3}", row.recall),
            format!("{:.0}", row.resident_mib),
            format!("{:.0}", row.resident_max_mib),
        ]
    })?;
    Ok(())
}

/// Makes about so many segments in a new folder; returns the seconds that their index took.
fn fill(folder: &Path, segments: u64, levels: &Levels) -> anyhow::Result<f64> {
    let engine = Engine::open(folder, Config::default())?;
    let spec = CollectionSpec::new(name()?, Dim::new(levels.dims)?, levels.units.clone());
    engine.create_collection(spec.clone())?;
    let progress = ProgressBar::new(segments);
    progress.set_style(ProgressStyle::with_template("{bar:30} {pos} of {len} segments, {eta}")?);
    let of_each = segments.div_ceil(ENTITIES);
    for first in (0..of_each).step_by(usize::try_from(SEGMENTS_PER_BATCH)?) {
        let count = SEGMENTS_PER_BATCH.min(of_each - first);
        for number in 0..ENTITIES {
            let entity = entity(number)?;
            let batch = (first * DWELL..(first + count) * DWELL)
                .map(|index| levels.observation(&entity, number, index))
                .collect();
            engine.ingest(&spec.name, batch)?;
            progress.inc(count);
        }
    }
    progress.finish_and_clear();
    let (start, spinner) = (Instant::now(), ProgressBar::new_spinner());
    spinner.set_message("making the index");
    spinner.enable_steady_tick(Duration::from_millis(200));
    while engine.maintain_index(&|| true)? {}
    let index_s = start.elapsed().as_secs_f64();
    spinner.finish_and_clear();
    engine.close()?;
    Ok(index_s)
}

/// Opens a folder that was filled, and asks it.
fn reopen(folder: &Path, levels: &Levels) -> anyhow::Result<Row> {
    let start = Instant::now();
    let engine = Engine::open(folder, Config::default())?;
    let open_ms = milliseconds(start);
    let last = engine.entity(&name()?, &entity(0)?)?.last;
    let history = HistoryQuery {
        collection: name()?,
        entity: entity(0)?,
        range: TimeRange::between(Timestamp(last.0 - 60_000_000), last),
        resolution_us: None,
    };
    ensure!(engine.history(&history)?.points.count() > 0, "an entity without a course");
    let first_answer_ms = milliseconds(start);
    let start = Instant::now();
    let coverage = engine.knn(&question(levels, 0)?)?.coverage;
    let first_knn_ms = milliseconds(start);
    let mut times = Vec::with_capacity(QUESTIONS);
    for number in 0..QUESTIONS {
        let start = Instant::now();
        engine.knn(&question(levels, number)?)?;
        times.push(milliseconds(start));
    }
    times.sort_by(f64::total_cmp);
    let (mut found, mut asked, mut scan_ms) = (0, 0, f64::INFINITY);
    for number in 0..QUESTIONS_EXACT {
        let near = engine.knn(&question(levels, number)?)?.neighbors;
        let start = Instant::now();
        let exact = KnnQuery { search: Exactness::Exact, ..question(levels, number)? };
        let exact = engine.knn(&exact)?.neighbors;
        scan_ms = milliseconds(start).min(scan_ms);
        asked += exact.len();
        found += exact.iter().filter(|one| near.contains(one)).count();
    }
    Ok(Row {
        segments: coverage.segments_scanned + coverage.segments_indexed,
        dims: levels.dims,
        stored_mib: size_of(folder)? as f64 / MIB,
        open_ms,
        first_answer_ms,
        index_s: 0.0,
        scan_ms,
        first_knn_ms,
        knn_ms: times[times.len() / 2],
        recall: found as f64 / asked as f64,
        resident_mib: resident_mib("VmRSS:").unwrap_or(f64::NAN),
        resident_max_mib: resident_mib("VmHWM:").unwrap_or(f64::NAN),
    })
}

/// Questions whose median time is shown, and those that are compared with the exact answer.
const QUESTIONS: usize = 200;
const QUESTIONS_EXACT: usize = 20;

/// A question for the regimes near an observation that is not in the folder, of an entity that is.
fn question(levels: &Levels, number: usize) -> anyhow::Result<KnnQuery> {
    let number = number as u64;
    let (entity, later) = (number % ENTITIES, (1 << 40) + number * DWELL);
    let seen = levels.observation(&self::entity(entity)?, entity, later);
    Ok(KnnQuery { include: Include::Sealed, ..KnnQuery::new(name()?, seen.vector, 10) })
}

const MIB: f64 = 1024.0 * 1024.0;

fn name() -> anyhow::Result<CollectionName> {
    Ok(CollectionName::new("bench")?)
}

fn entity(number: u64) -> anyhow::Result<EntityId> {
    Ok(EntityId::new(format!("entity-{number}"))?)
}

/// What entities do.
struct Levels {
    dims: u16,
    units: Units,
    /// Rows of data, one after the other; empty where levels are made up.
    rows: Vec<f32>,
}

impl Levels {
    fn of(data: Option<&Path>) -> anyhow::Result<Self> {
        let Some(folder) = data else {
            let dim = Dim::new(DIMS)?;
            return Ok(Self { dims: DIMS, units: Units::unit_range(dim), rows: Vec::new() });
        };
        let dataset = Dataset::open(folder)?;
        let set = dataset.sets().into_iter().next().context("the data have no entities")?;
        let series = dataset.read_set(&set).collect::<Result<Vec<_>, _>>()?;
        // One collection has one dimension.
        let alike = || series.iter().filter(|one| one.dims == series[0].dims);
        let rows = alike().flat_map(|one| (0..one.rows()).flat_map(|row| one.row(row)));
        let range = |channel| {
            let ranges = alike().map(|one| range_of(one, channel));
            ranges.fold((0.0, 1.0), |(a, b): (f32, f32), (c, d)| (a.min(c), b.max(d)))
        };
        let (lower, upper) = (0..series[0].dims).map(range).unzip();
        let units = Units::Range { lower, upper };
        Ok(Self { dims: series[0].dims.try_into()?, units, rows: rows.copied().collect() })
    }

    fn observation(&self, entity: &EntityId, number: u64, index: u64) -> Observation {
        let regime = number * 1_000_003 + index / DWELL;
        let dims = usize::from(self.dims);
        let vector = match (self.rows.len() / dims) as u64 {
            0 => {
                let channels = 0..u64::from(self.dims);
                let level = |channel| mixed(regime * u64::from(self.dims) + channel) >> 40;
                channels.map(|channel| level(channel) as f32 / (1 << 24) as f32).collect()
            }
            rows => self.rows[(mixed(regime) % rows) as usize * dims..][..dims].to_vec(),
        };
        let timestamp = Timestamp(i64::try_from(index).unwrap_or(i64::MAX / 1_000_000) * 1_000_000);
        Observation { entity: entity.clone(), timestamp, vector, metadata: None }
    }
}

/// Returns a number that looks like any other.
fn mixed(number: u64) -> u64 {
    let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// Returns the size of all files below a folder.
fn size_of(folder: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Returns what Linux says of this process's memory.
fn resident_mib(line: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let found = status.lines().find_map(|text| text.strip_prefix(line))?;
    let kib: f64 = found.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
