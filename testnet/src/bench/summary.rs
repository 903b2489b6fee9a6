//! Summaries: what is left when no observation is kept.
//!
//! Regimes are sealed early, at a small drift, and compacted to several errors. Beside them stand fixed
//! windows, as long as gives the same error, in the same format and with the same compaction; and
//! segments as they are sealed, before compaction.

use anyhow::ensure;
use dunlin_engine::{Budget, Compaction, Fidelity, Outline, Segment, Timestamp, compact};

use super::{
    compression::{Setting, Tally, Truth},
    stored::{Sealing, Stored},
};
use crate::vts1::Series;

/// Errors that summaries are compacted to, in shares of the range.
const NRMSE: [f64; 4] = [0.04, 0.05, 0.07, 0.1];

/// Drift at which regimes are sealed that will be compacted.
const THRESHOLD_EARLY: f64 = 0.03;

/// Boundaries that entities cross by more than this stay as flags: twice the default threshold.
pub(super) const FLAG_DRIFT_MIN: f64 = 0.16;

/// Window lengths that are tried, each longer by this than the one before.
const WINDOW_GROWTH: f64 = 1.05;

/// Measures summaries of one entity.
pub(super) fn measure(
    series: &Series,
    truth: &Truth,
    threshold: f64,
    tally: &mut Tally,
    say: &dyn Fn(String),
) -> anyhow::Result<()> {
    let entity = &series.entity;
    say(format!("{entity}: segments"));
    let seal = |sealing| Stored::seal(series, &truth.ranges, Fidelity::Summary, None, sealing);
    let early = seal(Sealing::Regimes(THRESHOLD_EARLY))?;
    for nrmse in NRMSE {
        say(format!("{entity}: summary within {nrmse}"));
        let outline = compacted(truth, &early.segments, nrmse)?;
        add(tally, ("dunlin-summary", nrmse), series, truth, &outline)?;
        let windows = seal(Sealing::Windows(window_length(series, truth, nrmse)))?;
        let outline = compacted(truth, &windows.segments, nrmse)?;
        add(tally, ("fixed-windows", nrmse), series, truth, &outline)?;
    }
    let sealed = seal(Sealing::Regimes(threshold))?;
    let length = series.rows().div_ceil(sealed.segments.len());
    let windows = seal(Sealing::Windows(u32::try_from(length)?))?;
    for (name, stored) in [("dunlin-summary-sealed", sealed), ("fixed-windows-sealed", windows)] {
        let pieces = stored.segments.iter().map(|one| (one.start(), one.end(), one.mean()));
        let values = spread_out(series, pieces)?;
        let measured = truth.measured(stored.bytes, values);
        tally.add(name, Setting::None, measured.in_segments(stored.segments.len()));
    }
    Ok(())
}

fn compacted(truth: &Truth, segments: &[Segment], nrmse: f64) -> anyhow::Result<Outline> {
    let widths: Vec<f32> = truth.ranges.iter().map(|(lower, upper)| upper - lower).collect();
    let budget = Budget::Nrmse(nrmse);
    let how = Compaction { budget, widths: &widths, flag_drift_min: FLAG_DRIFT_MIN };
    Ok(compact(segments, &how)?)
}

/// Adds what the decoded bytes of an outline say about every observation.
fn add(
    tally: &mut Tally,
    (name, nrmse): (&str, f64),
    series: &Series,
    truth: &Truth,
    outline: &Outline,
) -> anyhow::Result<()> {
    let bytes = outline.encode();
    let decoded = Outline::decode(&bytes)?;
    ensure!(decoded == *outline, "{}: {name} does not come back", series.entity);
    let pieces = decoded.pieces().iter().map(|one| (one.start, one.end, one.mean.as_slice()));
    let values = spread_out(series, pieces)?;
    let measured = truth.measured(bytes.len(), values);
    tally.add(name, Setting::Nrmse(nrmse), measured.in_segments(decoded.pieces().len()));
    Ok(())
}

/// Returns for each row of the series the mean of the piece that it is in, row-major.
fn spread_out<'a>(
    series: &Series,
    pieces: impl Iterator<Item = (Timestamp, Timestamp, &'a [f32])>,
) -> anyhow::Result<Vec<f64>> {
    let mut values = Vec::with_capacity(series.rows() * series.dims);
    let mut row = 0;
    for (start, end, mean) in pieces {
        while row < series.rows() && series.timestamp_us(row) <= end.0 {
            ensure!(series.timestamp_us(row) >= start.0, "{}: a gap", series.entity);
            values.extend(mean.iter().copied().map(f64::from));
            row += 1;
        }
    }
    ensure!(row == series.rows(), "{}: rows are missing", series.entity);
    Ok(values)
}

/// Returns the longest window whose means have at most this error.
fn window_length(series: &Series, truth: &Truth, nrmse: f64) -> u32 {
    let mut best = 4;
    let mut length = 4.0_f64;
    while length < series.rows() as f64 {
        let window = length as usize;
        let squares: f64 = truth
            .columns
            .iter()
            .zip(truth.widths())
            .map(|(column, width)| {
                let windows = column.chunks(window).map(|chunk| {
                    let mean =
                        chunk.iter().map(|x| f64::from(*x)).sum::<f64>() / chunk.len() as f64;
                    chunk.iter().map(|x| ((f64::from(*x) - mean) / width).powi(2)).sum::<f64>()
                });
                windows.sum::<f64>()
            })
            .sum();
        if (squares / truth.values.len() as f64).sqrt() > nrmse {
            break;
        }
        best = window as u32;
        length = (length * WINDOW_GROWTH).max(length + 1.0);
    }
    best
}
