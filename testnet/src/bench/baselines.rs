//! The scorers that the engine's are measured against, as plainly as they can be written.

use super::{
    anomalies::WINDOW,
    eigen::{Eigen, symmetric},
};
use crate::vts1::Series;

/// Neighbors among the raw observations.
const NEIGHBORS: usize = 5;

/// Lowest standard deviation of a channel, in shares of its range: constant channels have none.
const DEVIATION_MIN: f64 = 0.01;

/// What is added to every variance, so that a covariance of constant channels has an inverse.
const RIDGE: f64 = 1e-4;

/// Share of the variance that the principal components explain; the rest is the residual.
const EXPLAINED: f64 = 0.95;

/// Drift that ends a segment of [`segment_z`], in standard deviations.
const Z_THRESHOLD: f64 = 0.5;

/// Drift that ends a regime of [`nearest_regime`], in shares of the past's range.
const RANGE_THRESHOLD: f64 = 0.08;

/// How many observations in a row must be beyond it.
const HYSTERESIS: usize = 3;

/// Least width of a channel's range, in its own values.
const WIDTH_MIN: f64 = 0.01;

/// The past and what is scored, in shares of a range; each row a slice of `dims`.
pub(super) struct Halves {
    pub(super) dims: usize,
    pub(super) train: Vec<f64>,
    pub(super) test: Vec<f64>,
}

impl Halves {
    /// Returns both in shares of each channel's declared range.
    pub(super) fn declared(series: &Series) -> Self {
        Self::of(series, range_of)
    }

    /// Returns both in shares of each channel's range in the past.
    pub(super) fn of_past(series: &Series) -> Self {
        Self::of(series, past_range)
    }

    fn of(series: &Series, range: fn(&Series, usize) -> (f32, f32)) -> Self {
        let widths: Vec<f64> =
            (0..series.dims).map(|channel| width_of(range(series, channel))).collect();
        let rows = |rows: std::ops::Range<usize>| {
            let in_range = |row| in_widths(series.row(row), &widths);
            rows.flat_map(in_range).collect()
        };
        Self {
            dims: series.dims,
            train: rows(0..series.rows_train),
            test: rows(series.rows_train..series.rows()),
        }
    }

    fn test_rows(&self) -> impl Iterator<Item = &[f64]> {
        self.test.chunks_exact(self.dims)
    }

    /// Returns both halves in the standard deviations of the past, around its mean.
    fn standardized(&self) -> Self {
        let moments = Moments::of(self);
        let scaled = |values: &[f64]| {
            let row = |row: &[f64]| -> Vec<f64> {
                let from_mean = row.iter().zip(&moments.mean).zip(&moments.deviation);
                from_mean.map(|((value, mean), deviation)| (value - mean) / deviation).collect()
            };
            values.chunks_exact(self.dims).flat_map(row).collect()
        };
        Self { dims: self.dims, train: scaled(&self.train), test: scaled(&self.test) }
    }

    /// Returns the mean of the past, and the principal axes of its covariance.
    fn axes(&self) -> (Vec<f64>, Eigen) {
        let (dims, mean) = (self.dims, Moments::of(self).mean);
        let mut covariance = vec![0.0; dims * dims];
        for row in self.train.chunks_exact(dims) {
            for (a, sums) in covariance.chunks_exact_mut(dims).enumerate() {
                let from_mean = row[a] - mean[a];
                sums.iter_mut()
                    .enumerate()
                    .for_each(|(b, sum)| *sum += from_mean * (row[b] - mean[b]));
            }
        }
        let count = (self.train.len() / dims) as f64;
        covariance.iter_mut().for_each(|sum| *sum /= count);
        (mean, symmetric(covariance, dims))
    }
}

struct Moments {
    mean: Vec<f64>,
    deviation: Vec<f64>,
}

impl Moments {
    fn of(halves: &Halves) -> Self {
        let count = (halves.train.len() / halves.dims) as f64;
        let mut mean = vec![0.0; halves.dims];
        for row in halves.train.chunks_exact(halves.dims) {
            mean.iter_mut().zip(row).for_each(|(mean, value)| *mean += value / count);
        }
        let mut variance = vec![0.0; halves.dims];
        for row in halves.train.chunks_exact(halves.dims) {
            let from_mean = row.iter().zip(&mean).map(|(value, mean)| value - mean);
            variance.iter_mut().zip(from_mean).for_each(|(sum, d)| *sum += d * d / count);
        }
        let deviation = variance.iter().map(|variance| variance.sqrt().max(DEVIATION_MIN));
        Self { deviation: deviation.collect(), mean }
    }
}

/// Returns the range in which a channel is declared: 0 to 1 when its past stays there, else that of its
/// past; a constant one gets a width of one.
pub(super) fn range_of(series: &Series, channel: usize) -> (f32, f32) {
    match past_range(series, channel) {
        (lower, upper) if lower >= 0.0 && upper <= 1.0 => (0.0, 1.0),
        (lower, upper) if lower < upper => (lower, upper),
        (lower, _) => (lower, lower + 1.0),
    }
}

fn past_range(series: &Series, channel: usize) -> (f32, f32) {
    let past = (0..series.rows_train).map(|row| series.row(row)[channel]);
    past.fold((f32::INFINITY, f32::NEG_INFINITY), |(lower, upper), value| {
        (lower.min(value), upper.max(value))
    })
}

fn width_of((lower, upper): (f32, f32)) -> f64 {
    (f64::from(upper) - f64::from(lower)).max(WIDTH_MIN)
}

fn in_widths(values: &[f32], widths: &[f64]) -> Vec<f64> {
    values.iter().zip(widths).map(|(value, width)| f64::from(*value) / width).collect()
}

/// Returns scores without any sense, the same in every run.
pub(super) fn random(count: usize) -> Vec<f64> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        // Xorshift, after Marsaglia (2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64
    };
    (0..count).map(|_| next()).collect()
}

/// Mahalanobis' distance from the mean of the past.
pub(super) fn mahalanobis(halves: &Halves) -> Vec<f64> {
    let (mean, axes) = halves.axes();
    let distance = |row: &[f64]| {
        let projected = axes.project(row, &mean);
        let squares = projected.iter().zip(&axes.values).map(|(p, value)| p * p / (value + RIDGE));
        squares.sum::<f64>().sqrt()
    };
    causal_means(&halves.test_rows().map(distance).collect::<Vec<_>>(), WINDOW)
}

/// What the principal components of the standardized past leave unexplained.
pub(super) fn pca_residual(halves: &Halves) -> Vec<f64> {
    let halves = halves.standardized();
    let (mean, axes) = halves.axes();
    let total: f64 = axes.values.iter().sum();
    let mut order: Vec<usize> = (0..halves.dims).collect();
    order.sort_by(|a, b| axes.values[*b].total_cmp(&axes.values[*a]));
    let mut explained = 0.0;
    let kept = order.iter().take_while(|axis| {
        let is_needed = explained < EXPLAINED * total;
        explained += axes.values[**axis];
        is_needed
    });
    let rest = order[kept.count()..].to_vec();
    let residual = |row: &[f64]| {
        let projected = axes.project(row, &mean);
        rest.iter().map(|axis| projected[*axis] * projected[*axis]).sum::<f64>().sqrt()
    };
    causal_means(&halves.test_rows().map(residual).collect::<Vec<_>>(), WINDOW)
}

/// The mean distance of the nearest observations of the past.
pub(super) fn raw_knn(halves: &Halves) -> Vec<f64> {
    let distance = |point: &[f64]| {
        // Squares of the nearest, the largest last.
        let mut nearest = [f64::INFINITY; NEIGHBORS];
        for row in halves.train.chunks_exact(halves.dims) {
            let square = square_below(row, point, nearest[NEIGHBORS - 1]);
            if square < nearest[NEIGHBORS - 1] {
                nearest[NEIGHBORS - 1] = square;
                nearest.sort_unstable_by(f64::total_cmp);
            }
        }
        nearest.iter().filter(|square| square.is_finite()).map(|square| square.sqrt()).sum()
    };
    causal_means(&halves.test_rows().map(distance).collect::<Vec<_>>(), WINDOW)
}

/// The distance to the nearest regime of the past.
pub(super) fn nearest_regime(halves: &Halves) -> Vec<f64> {
    let known = sealed(&halves.train, halves.dims, RANGE_THRESHOLD);
    let known: Vec<Vec<f64>> = known.into_iter().map(|(_, mean)| mean).collect();
    let distances: Vec<f64> = halves.test_rows().map(|row| nearest(&known, row)).collect();
    causal_means(&distances, WINDOW)
}

/// The distance of each segment's mean to the nearest segment of the past, both sealed in standard
/// deviations; each observation has that of its segment, so it looks ahead to the segment's end.
pub(super) fn segment_z(halves: &Halves) -> Vec<f64> {
    let halves = halves.standardized();
    let known = sealed(&halves.train, halves.dims, Z_THRESHOLD);
    let known: Vec<Vec<f64>> = known.into_iter().map(|(_, mean)| mean).collect();
    let test = sealed(&halves.test, halves.dims, Z_THRESHOLD);
    let distance = |(count, mean): &(usize, Vec<f64>)| vec![nearest(&known, mean); *count];
    test.iter().flat_map(distance).collect()
}

/// Returns count and mean of each segment.
fn sealed(values: &[f64], dims: usize, threshold: f64) -> Vec<(usize, Vec<f64>)> {
    let rows: Vec<&[f64]> = values.chunks_exact(dims).collect();
    let mut segments = Vec::new();
    let (mut start, mut beyond) = (0, 0);
    let mut sums = vec![0.0; dims];
    let add = |sums: &mut [f64], row: &[f64]| sums.iter_mut().zip(row).for_each(|(s, v)| *s += v);
    let mean = |sums: &[f64], count: usize| sums.iter().map(|sum| sum / count as f64).collect();
    for (index, row) in rows.iter().enumerate() {
        let count = index - beyond - start;
        let square = |(sum, value): (&f64, &f64)| (value - sum / count as f64).powi(2);
        let drift = sums.iter().zip(*row).map(square).sum::<f64>() / dims as f64;
        if count > 0 && drift.sqrt() > threshold {
            beyond += 1;
            if beyond < HYSTERESIS {
                continue;
            }
            segments.push((count, mean(&sums, count)));
            start += count;
            sums.fill(0.0);
            // The newest one is added as any other.
            beyond -= 1;
        }
        // Those that were beyond are the next segment's, or were outliers of this one.
        rows[index - beyond..=index].iter().for_each(|row| add(&mut sums, row));
        beyond = 0;
    }
    rows[rows.len() - beyond..].iter().for_each(|row| add(&mut sums, row));
    segments.push((rows.len() - start, mean(&sums, rows.len() - start)));
    segments
}

/// Returns the mean of the newest values at each place.
pub(super) fn causal_means(values: &[f64], window: usize) -> Vec<f64> {
    let newest = |end: usize| &values[(end + 1).saturating_sub(window)..=end];
    let mean = |newest: &[f64]| newest.iter().sum::<f64>() / newest.len() as f64;
    (0..values.len()).map(|end| mean(newest(end))).collect()
}

fn nearest(known: &[Vec<f64>], point: &[f64]) -> f64 {
    let nearest =
        known.iter().fold(f64::INFINITY, |least, row| square_below(row, point, least).min(least));
    // Without a past everything is equally new.
    if nearest.is_finite() { nearest.sqrt() } else { 0.0 }
}

/// Returns the squared distance, or something no smaller than `limit` when it is that large.
fn square_below(a: &[f64], b: &[f64], limit: f64) -> f64 {
    let mut sum = 0.0;
    for (a, b) in a.chunks(8).zip(b.chunks(8)) {
        sum += a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>();
        if sum >= limit {
            break;
        }
    }
    sum
}
