//! Which neighbors merge first, and what is left after any number of merges.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use super::{Flag, Piece, stream::kept_drift};
use crate::segment::{Segment, to_f32};

/// The order in which the boundaries between segments go.
pub(super) struct Merging {
    /// For each boundary, behind which segment it stands by index, after how many merges it is gone.
    gone_after: Vec<usize>,
    /// How far apart the means on its sides are.
    drift: Vec<f32>,
    /// Squared error in widths after so many merges.
    error: Vec<f64>,
    /// Observations times channels.
    values: f64,
}

/// Neighboring segments as one.
#[derive(Clone)]
struct Run {
    count: f64,
    mean: Vec<f64>,
    before: Option<usize>,
    after: Option<usize>,
    /// Counts merges, so that older offers are known to be old.
    version: u32,
}

/// An offer to merge a run with the one behind it. The cheapest comes first, the oldest among equals.
struct Offer {
    cost: f64,
    at: usize,
    versions: (u32, u32),
}

impl Merging {
    /// Finds the order for segments of one course.
    pub(super) fn new(segments: &[Segment], widths: &[f32]) -> Self {
        let mut runs: Vec<Run> = segments
            .iter()
            .enumerate()
            .map(|(at, one)| Run::of(one, widths, at, segments.len()))
            .collect();
        let drift = (1..runs.len()).map(|at| drift(&runs[at - 1], &runs[at])).collect();
        let within: f64 = segments.iter().map(|segment| squares_within(segment, widths)).sum();
        let mut error = vec![within];
        let mut gone_after = vec![0; segments.len() - 1];
        let mut offers: BinaryHeap<Reverse<Offer>> =
            (0..segments.len() - 1).map(|at| Reverse(offer(&runs, at, at + 1))).collect();
        while let Some(Reverse(Offer { cost, at, versions })) = offers.pop() {
            let Some(next) = runs[at].after else { continue };
            if (runs[at].version, runs[next].version) != versions {
                continue;
            }
            error.push(error[error.len() - 1] + cost);
            gone_after[next - 1] = error.len() - 1;
            let absorbed = std::mem::replace(&mut runs[next], Run::GONE);
            runs[at].absorb(&absorbed);
            if let Some(after) = runs[at].after {
                runs[after].before = Some(at);
                offers.push(Reverse(offer(&runs, at, after)));
            }
            if let Some(before) = runs[at].before {
                offers.push(Reverse(offer(&runs, before, at)));
            }
        }
        let observations: f64 = segments.iter().map(|segment| f64::from(segment.count())).sum();
        Self { gone_after, drift, error, values: observations * widths.len() as f64 }
    }

    pub(super) const fn values(&self) -> f64 {
        self.values
    }

    /// Returns the largest number of merges with at most this squared error; 0 when there is none.
    pub(super) fn merges_within(&self, squares: f64) -> usize {
        self.error.partition_point(|error| *error <= squares).saturating_sub(1)
    }

    pub(super) fn error_after(&self, merges: usize) -> f64 {
        self.error[merges]
    }

    /// Returns the pieces after so many merges, and flags of all boundaries within them.
    pub(super) fn pieces(&self, segments: &[Segment], merges: usize) -> (Vec<Piece>, Vec<Flag>) {
        let (mut pieces, mut flags) = (Vec::new(), Vec::new());
        let mut from = 0;
        for at in 0..segments.len() {
            let last = self.gone_after.get(at).is_none_or(|gone| *gone > merges);
            if last {
                pieces.push(merged(&segments[from..=at]));
                from = at + 1;
            } else {
                let time = segments[at + 1].start();
                flags.push(Flag { time, drift: self.drift[at] });
            }
        }
        (pieces, flags)
    }
}

impl Run {
    const GONE: Self = Self { count: 0.0, mean: Vec::new(), before: None, after: None, version: 0 };

    fn of(segment: &Segment, widths: &[f32], at: usize, len: usize) -> Self {
        let mean = segment.mean().iter().zip(widths);
        Self {
            count: f64::from(segment.count()),
            mean: mean.map(|(mean, width)| f64::from(*mean) / f64::from(*width)).collect(),
            before: at.checked_sub(1),
            after: Some(at + 1).filter(|after| *after < len),
            version: 0,
        }
    }

    fn absorb(&mut self, next: &Self) {
        let count = self.count + next.count;
        for (mean, other) in self.mean.iter_mut().zip(&next.mean) {
            *mean += (other - *mean) * next.count / count;
        }
        self.count = count;
        self.after = next.after;
        self.version += 1;
    }
}

/// Returns what merging two runs adds to the squared error.
fn offer(runs: &[Run], at: usize, next: usize) -> Offer {
    let (left, right) = (&runs[at], &runs[next]);
    let apart: f64 = left.mean.iter().zip(&right.mean).map(|(a, b)| (a - b) * (a - b)).sum();
    let cost = apart * (left.count * right.count / (left.count + right.count));
    Offer { cost, at, versions: (left.version, right.version) }
}

/// Returns the root mean square distance of two means, as a flag keeps it.
fn drift(left: &Run, right: &Run) -> f32 {
    let apart: f64 = left.mean.iter().zip(&right.mean).map(|(a, b)| (a - b) * (a - b)).sum();
    kept_drift(to_f32((apart / left.mean.len() as f64).sqrt()))
}

/// Returns the squared error of a segment's mean, in widths.
fn squares_within(segment: &Segment, widths: &[f32]) -> f64 {
    let spread = segment.spread();
    let squares = spread.iter().zip(widths).map(|(spread, width)| {
        let share = f64::from(*spread) / f64::from(*width);
        share * share
    });
    squares.sum::<f64>() * f64::from(segment.count())
}

/// Returns neighboring segments as one piece (Chan, Golub and LeVeque 1979).
fn merged(segments: &[Segment]) -> Piece {
    let (first, last) = (&segments[0], &segments[segments.len() - 1]);
    let count: u64 = segments.iter().map(|segment| u64::from(segment.count())).sum();
    let dim = first.dim();
    let (mut seen, mut mean, mut m2) = (0.0, vec![0.0; dim], vec![0.0; dim]);
    for segment in segments {
        let more = f64::from(segment.count());
        let spread = segment.spread();
        for channel in 0..dim {
            let apart = f64::from(segment.mean()[channel]) - mean[channel];
            let spread = f64::from(spread[channel]);
            mean[channel] += apart * more / (seen + more);
            m2[channel] += spread * spread * more + apart * apart * seen * more / (seen + more);
        }
        seen += more;
    }
    Piece {
        start: first.start(),
        end: last.end(),
        count: u32::try_from(count).unwrap_or(u32::MAX),
        mean: mean.into_iter().map(to_f32).collect(),
        spread: m2.into_iter().map(|m2: f64| to_f32((m2 / seen).sqrt())).collect(),
    }
}

impl PartialEq for Offer {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Offer {}

impl PartialOrd for Offer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Offer {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |offer: &Self| (offer.at, offer.versions);
        self.cost.total_cmp(&other.cost).then_with(|| key(self).cmp(&key(other)))
    }
}
