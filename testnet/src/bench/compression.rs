//! How small telemetry gets, and what that costs in error: the engine's three fidelities beside zstd,
//! pcodec and a plain quantizer.
//!
//! Ratios are bytes of the values as 32-bit floats over all bytes that are stored, both summed over the
//! entities of a set: a mean of their ratios would tell of little but the calmest one. For the engine,
//! stored bytes are its segment and payload blocks, and outlines, times included. Errors are in shares of
//! each channel's own range in the entity's data, bounds too. They and the counts of segments are means
//! over the entities, but the largest error, which is the largest.

use std::path::PathBuf;

use anyhow::ensure;
use dunlin_engine::{ErrorBound, Fidelity};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::{
    stored::{Sealing, Stored},
    summary,
};
use crate::vts1::Series;

/// Largest errors that lossy codecs are asked for, in shares of the range.
const BOUNDS: [f64; 3] = [0.01, 0.05, 0.1];

/// The level of zstd, its usual best.
const ZSTD_LEVEL: i32 = 19;

/// The level of pcodec, its default.
const PCODEC_LEVEL: usize = 8;

/// Drift at which a collection of servers seals by default, in shares of the range.
const THRESHOLD: f64 = 0.08;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder of VTS1 data; the built-in data when absent.
    pub data: Option<PathBuf>,
    /// Print the rows as JSON.
    pub json: bool,
}

/// One codec on one set.
#[derive(Clone, Debug, Serialize)]
struct Row {
    set: String,
    codec: String,
    /// Largest error that was asked for, in shares of the range.
    bound: Option<f64>,
    ratio: f64,
    nrmse: f64,
    r2: f64,
    max_error: f64,
    segments: Option<f64>,
}

/// Measures all codecs on all sets and prints the rows.
///
/// # Errors
///
/// Fails when the data cannot be read, or a codec breaks its own promise.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let dataset = super::dataset(options.data.as_deref())?;
    let progress = ProgressBar::new_spinner();
    progress.set_style(ProgressStyle::with_template("{spinner} {msg}")?);
    progress.enable_steady_tick(std::time::Duration::from_millis(200));
    let mut rows = Vec::new();
    for set in dataset.sets() {
        let mut tally = Tally::default();
        for series in dataset.read_set(&set) {
            measure(&series?, &mut tally, &|what| progress.set_message(format!("{set} {what}")))?;
        }
        rows.extend(tally.rows(&set));
    }
    progress.finish_and_clear();
    let header = ["set", "codec", "bound", "ratio", "nRMSE", "R2", "max error", "segments"];
    super::print(&rows, options.json, header, |row| {
        [
            row.set.clone(),
            row.codec.clone(),
            row.bound.map_or_else(String::new, |bound| bound.to_string()),
            format!("{:.2}", row.ratio),
            format!("{:.4}", row.nrmse),
            format!("{:.3}", row.r2),
            format!("{:.4}", row.max_error),
            row.segments.map_or_else(String::new, |segments| format!("{segments:.1}")),
        ]
    })?;
    Ok(())
}

/// Measures all codecs on one entity.
fn measure(series: &Series, tally: &mut Tally, say: &dyn Fn(String)) -> anyhow::Result<()> {
    let entity = &series.entity;
    let truth = Truth::of(series);
    say(format!("{entity}: zstd and pcodec"));
    tally.add("zstd-19", Setting::None, truth.exact(zstd_bytes(&truth.columns)?));
    tally.add("pcodec-8", Setting::None, truth.exact(pcodec_bytes(&truth.columns)?));
    for (name, sealing) in [
        ("dunlin-lossless", Sealing::Full),
        ("dunlin-lossless-regimes", Sealing::Regimes(THRESHOLD)),
        ("dunlin-lossless-compacted", Sealing::Compacted(THRESHOLD)),
    ] {
        say(format!("{entity}: {name}"));
        let stored = Stored::seal(series, &truth.ranges, Fidelity::Lossless, None, sealing)?;
        let history = stored.history()?;
        let same = |(row, (_, values)): (usize, (_, &[f32]))| {
            values.iter().zip(series.row(row)).all(|(a, b)| a.to_bits() == b.to_bits())
        };
        ensure!(history.count() == series.rows(), "{entity}: rows are missing");
        ensure!(history.iter().enumerate().all(same), "{entity}: {name} changed a value");
        tally.add(name, Setting::None, truth.exact(stored.bytes).in_segments(stored.count()));
    }
    summary::measure(series, &truth, THRESHOLD, tally, say)?;
    for bound in BOUNDS {
        say(format!("{entity}: bound {bound}"));
        let (bytes, values) = quantized(&truth, bound)?;
        tally.add("quantise-delta-zstd", Setting::Bound(bound), truth.measured(bytes, values));
        for (name, sealing) in [
            ("dunlin-bounded", Sealing::Full),
            ("dunlin-bounded-regimes", Sealing::Regimes(THRESHOLD)),
            ("dunlin-bounded-compacted", Sealing::Compacted(THRESHOLD)),
        ] {
            let error = Some(ErrorBound::OfRange(bound));
            let stored = Stored::seal(series, &truth.ranges, Fidelity::Bounded, error, sealing)?;
            let history = stored.history()?;
            ensure!(history.count() == series.rows(), "{entity}: rows are missing");
            let values = history.iter().flat_map(|(_, row)| row.iter().copied().map(f64::from));
            let result = truth.measured(stored.bytes, values);
            ensure!(result.max_error <= bound, "{entity}: an error of {}", result.max_error);
            tally.add(name, Setting::Bound(bound), result.in_segments(stored.count()));
        }
    }
    Ok(())
}

/// The data that codecs are measured against.
pub(super) struct Truth {
    pub(super) columns: Vec<Vec<f32>>,
    /// Row-major.
    pub(super) values: Vec<f32>,
    /// Lowest and highest value of each channel; of a constant one, the value and one more.
    pub(super) ranges: Vec<(f32, f32)>,
    /// Squared deviation from the means, in shares of the range, over all values.
    deviation: f64,
}

impl Truth {
    fn of(series: &Series) -> Self {
        let columns: Vec<Vec<f32>> =
            (0..series.dims).map(|channel| series.column(channel)).collect();
        let range = |column: &Vec<f32>| {
            let lower = column.iter().copied().fold(f32::INFINITY, f32::min);
            let upper = column.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            if lower < upper { (lower, upper) } else { (lower, lower + 1.0) }
        };
        let ranges: Vec<(f32, f32)> = columns.iter().map(range).collect();
        let deviation = columns.iter().zip(&ranges).map(|(column, range)| {
            let mean = column.iter().map(|x| f64::from(*x)).sum::<f64>() / column.len() as f64;
            column.iter().map(|x| ((f64::from(*x) - mean) / width(*range)).powi(2)).sum::<f64>()
        });
        let deviation = deviation.sum();
        let values = (0..series.rows()).flat_map(|row| series.row(row)).copied().collect();
        Self { columns, values, ranges, deviation }
    }

    /// Returns the width of each channel's range.
    pub(super) fn widths(&self) -> impl Iterator<Item = f64> {
        self.ranges.iter().map(|range| width(*range))
    }

    /// Returns the result of a codec that gives back every bit.
    fn exact(&self, bytes: usize) -> Measured {
        self.measured(bytes, self.values.iter().copied().map(f64::from))
    }

    /// Returns the result of a codec that gives back these values, row-major.
    pub(super) fn measured(&self, bytes: usize, back: impl IntoIterator<Item = f64>) -> Measured {
        let (mut squares, mut max_error) = (0.0, 0.0_f64);
        let widths: Vec<f64> = self.widths().collect();
        for ((value, back), width) in self.values.iter().zip(back).zip(widths.iter().cycle()) {
            let error = (f64::from(*value) - back).abs() / width;
            squares += error * error;
            max_error = max_error.max(error);
        }
        Measured {
            raw_bytes: (self.values.len() * size_of::<f32>()) as f64,
            bytes: bytes as f64,
            nrmse: (squares / self.values.len() as f64).sqrt(),
            r2: if self.deviation > 0.0 { 1.0 - squares / self.deviation } else { 1.0 },
            max_error,
            segments: None,
        }
    }
}

fn width((lower, upper): (f32, f32)) -> f64 {
    f64::from(upper) - f64::from(lower)
}

/// What one codec did on one entity.
#[derive(Clone, Copy)]
pub(super) struct Measured {
    raw_bytes: f64,
    bytes: f64,
    nrmse: f64,
    r2: f64,
    max_error: f64,
    segments: Option<f64>,
}

impl Measured {
    pub(super) fn in_segments(self, segments: usize) -> Self {
        Self { segments: Some(segments as f64), ..self }
    }
}

/// Results by codec and setting, in the order in which they first came.
#[derive(Default)]
pub(super) struct Tally {
    results: Vec<(String, Setting, Vec<Measured>)>,
}

/// What a codec was asked for.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Setting {
    /// Nothing: it has no choice.
    None,
    /// A largest error for every value.
    Bound(f64),
    /// A root mean square error over all values.
    Nrmse(f64),
}

impl Tally {
    pub(super) fn add(&mut self, codec: &str, setting: Setting, measured: Measured) {
        let same =
            |(name, other, _): &&mut (String, Setting, _)| name == codec && *other == setting;
        match self.results.iter_mut().find(same) {
            Some((.., results)) => results.push(measured),
            None => self.results.push((codec.to_owned(), setting, vec![measured])),
        }
    }

    fn rows(self, set: &str) -> impl Iterator<Item = Row> {
        self.results.into_iter().map(move |(codec, setting, results)| {
            let mean = |of: fn(&Measured) -> f64| {
                results.iter().map(of).sum::<f64>() / results.len() as f64
            };
            Row {
                set: set.to_owned(),
                codec,
                bound: if let Setting::Bound(bound) = setting { Some(bound) } else { None },
                ratio: mean(|result| result.raw_bytes) / mean(|result| result.bytes),
                nrmse: mean(|result| result.nrmse),
                r2: mean(|result| result.r2),
                max_error: results.iter().map(|result| result.max_error).fold(0.0, f64::max),
                segments: results[0]
                    .segments
                    .map(|_| mean(|result| result.segments.unwrap_or_default())),
            }
        })
    }
}

fn zstd_bytes(columns: &[Vec<f32>]) -> std::io::Result<usize> {
    let bytes: Vec<u8> = columns.iter().flatten().flat_map(|value| value.to_le_bytes()).collect();
    Ok(zstd::bulk::compress(&bytes, ZSTD_LEVEL)?.len())
}

fn pcodec_bytes(columns: &[Vec<f32>]) -> anyhow::Result<usize> {
    let config = pco::ChunkConfig::default().with_compression_level(PCODEC_LEVEL);
    let mut bytes = 0;
    for column in columns {
        bytes += pco::standalone::simple_compress(column, &config)?.len();
    }
    Ok(bytes)
}

/// Returns the bytes of each value's nearest multiple of twice the bound, as differences of neighbors
/// under zstd, and the multiples, row-major.
fn quantized(truth: &Truth, bound: f64) -> anyhow::Result<(usize, Vec<f64>)> {
    let (dims, rows) = (truth.columns.len(), truth.columns[0].len());
    let mut bytes = Vec::new();
    let mut values = vec![0.0; dims * rows];
    for (channel, (column, range)) in truth.columns.iter().zip(&truth.ranges).enumerate() {
        let (lower, step) = (f64::from(range.0), 2.0 * bound * width(*range));
        let mut before = 0_i16;
        for (row, value) in column.iter().enumerate() {
            let level = ((f64::from(*value) - lower) / step).round();
            values[row * dims + channel] = lower + level * step;
            let level = level as i16;
            bytes.extend(level.wrapping_sub(before).to_le_bytes());
            before = level;
        }
    }
    Ok((zstd::bulk::compress(&bytes, ZSTD_LEVEL)?.len(), values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_add_up_and_errors_are_means() {
        let measured = |bytes: f64, nrmse: f64| Measured {
            raw_bytes: 100.0,
            bytes,
            nrmse,
            r2: 1.0,
            max_error: nrmse,
            segments: Some(bytes),
        };
        let mut tally = Tally::default();
        tally.add("dunlin-summary", Setting::Nrmse(0.1), measured(1.0, 0.1));
        tally.add("dunlin-summary", Setting::Nrmse(0.2), measured(7.0, 0.2));
        tally.add("dunlin-summary", Setting::Nrmse(0.1), measured(3.0, 0.3));
        let rows: Vec<Row> = tally.rows("smd").collect();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].ratio, rows[0].nrmse, rows[0].max_error), (50.0, 0.2, 0.3));
        assert_eq!((rows[0].segments, rows[0].bound), (Some(2.0), None));
    }

    #[test]
    fn baseline_and_engine_keep_the_bound() {
        let dataset = super::super::dataset(None).unwrap();
        let set = dataset.sets().remove(0);
        let series = dataset.read_set(&set).next().unwrap().unwrap();
        let truth = Truth::of(&series);
        let (bytes, values) = quantized(&truth, 0.05).unwrap();
        let plain = truth.measured(bytes, values);
        let error = Some(ErrorBound::OfRange(0.05));
        let stored =
            Stored::seal(&series, &truth.ranges, Fidelity::Bounded, error, Sealing::Full).unwrap();
        let history = stored.history().unwrap();
        let values = history.iter().flat_map(|(_, row)| row.iter().copied().map(f64::from));
        let ours = truth.measured(stored.bytes, values);
        assert!(plain.max_error <= 0.05 + 1e-9 && ours.max_error <= 0.05);
        // The target of the engine is 1.2.
        assert!(ours.bytes * 1.2 < plain.bytes, "{} of {}", ours.bytes, plain.bytes);
    }
}
