//! Distances: the three metrics of `knn`, and the root mean square in units that drift and novelty use.
//!
//! Sums run over eight fixed lanes. That lets the compiler vectorize them, and it fixes the order of
//! the additions: segments hold results of these sums, and equal inputs must give equal bits everywhere.

use crate::collection::Metric;

/// Independent partial sums.
pub(crate) const LANES: usize = 8;

/// Returns the sum of `term` over the indices below `count`.
pub(crate) fn sum_of(count: usize, mut term: impl FnMut(usize) -> f64) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let whole = count - count % LANES;
    for base in (0..whole).step_by(LANES) {
        for (lane, sum) in lanes.iter_mut().enumerate() {
            *sum += term(base + lane);
        }
    }
    let rest: f64 = (whole..count).map(term).sum();
    lanes.iter().sum::<f64>() + rest
}

/// Returns the distance between two vectors of the same length; small is near.
///
/// # Panics
///
/// Panics when the lengths differ.
#[must_use]
pub fn distance(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "vectors that are compared have one dimension");
    let dot = |a: &[f32], b: &[f32]| {
        let (a, b) = (&a[..a.len()], &b[..a.len()]);
        sum_of(a.len(), |i| f64::from(a[i]) * f64::from(b[i]))
    };
    match metric {
        Metric::Dot => -dot(a, b),
        Metric::Euclidean => {
            let b = &b[..a.len()];
            let difference = |i: usize| f64::from(a[i]) - f64::from(b[i]);
            sum_of(a.len(), |i| difference(i) * difference(i)).sqrt()
        }
        Metric::Cosine => {
            let (a_norm, b_norm) = (dot(a, a), dot(b, b));
            if a_norm == 0.0 || b_norm == 0.0 {
                return if a_norm == b_norm { 0.0 } else { 1.0 };
            }
            1.0 - (dot(a, b) / (a_norm.sqrt() * b_norm.sqrt())).clamp(-1.0, 1.0)
        }
    }
}

/// Returns the root mean square of the differences of two vectors that are already in units.
pub(crate) fn rms(a: &[f64], b: &[f64]) -> f64 {
    let b = &b[..a.len()];
    let sum = sum_of(a.len(), |i| (a[i] - b[i]) * (a[i] - b[i]));
    (sum / a.len() as f64).sqrt()
}

/// Returns the root mean square of the differences of two vectors, in units.
pub(crate) fn rms_in_units(a: &[f32], b: &[f32], inverse_unit: &[f64]) -> f64 {
    let (b, inverse_unit) = (&b[..a.len()], &inverse_unit[..a.len()]);
    let difference = |i: usize| (f64::from(a[i]) - f64::from(b[i])) * inverse_unit[i];
    let sum = sum_of(a.len(), |i| difference(i) * difference(i));
    (sum / a.len() as f64).sqrt()
}

/// Returns `values` in units.
pub(crate) fn in_units(values: &[f32], inverse_unit: &[f64]) -> Vec<f64> {
    let mut units = Vec::new();
    in_units_into(values, inverse_unit, &mut units);
    units
}

/// As [`in_units`], in place of what `units` held.
pub(crate) fn in_units_into(values: &[f32], inverse_unit: &[f64], units: &mut Vec<f64>) {
    let values = values.iter().zip(inverse_unit);
    units.clear();
    units.extend(values.map(|(value, inverse)| f64::from(*value) * inverse));
}

/// Returns the position and distance of the nearest of `rows` (row-major, in units) to `point`; the
/// first one of several.
pub(crate) fn nearest(rows: &[f64], point: &[f64]) -> Option<(usize, f64)> {
    let mut best: Option<(usize, f64)> = None;
    for (index, row) in rows.chunks_exact(point.len()).enumerate() {
        let distance = rms(row, point);
        if best.is_none_or(|(_, least)| distance < least) {
            best = Some((index, distance));
        }
    }
    best
}

/// Returns a distance in units as a score from 0 to below 1: `distance / (distance + threshold)`.
///
/// It rises strictly with the distance, so any ranking by score is the ranking by distance; a distance
/// of the policy's threshold scores one half.
pub(crate) fn squash(distance: f64, threshold: f64) -> f64 {
    // Distances so large that the quotient rounds to one, or is infinite over infinite, stay below it.
    (distance / (distance + threshold)).min(1.0 - f64::EPSILON)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_agree_with_their_definitions() {
        let (a, b) = ([3.0, 4.0, 0.0], [0.0, 4.0, 4.0]);
        assert_eq!(distance(Metric::Dot, &a, &b), -16.0);
        assert_eq!(distance(Metric::Euclidean, &a, &b), 5.0);
        let cosine = 1.0 - 16.0 / (5.0 * 32.0_f64.sqrt());
        assert!((distance(Metric::Cosine, &a, &b) - cosine).abs() < 1e-15);
    }

    #[test]
    fn zero_vectors_have_a_cosine_distance() {
        let (zero, one) = ([0.0, 0.0], [1.0, 0.0]);
        assert_eq!(distance(Metric::Cosine, &zero, &zero), 0.0);
        assert_eq!(distance(Metric::Cosine, &zero, &one), 1.0);
        assert_eq!(distance(Metric::Cosine, &one, &[-1.0, 0.0]), 2.0);
    }

    #[test]
    fn lanes_and_remainder_are_both_summed() {
        let a: Vec<f64> = (0..19).map(f64::from).collect();
        let expected = (a.iter().map(|v| v * v).sum::<f64>() / 19.0).sqrt();
        assert!((rms(&a, &[0.0; 19]) - expected).abs() < 1e-12);
    }

    #[test]
    fn squash_rises_and_stays_below_one() {
        let scores = [0.0, 1e-6, 0.08, 1.0, 1e6].map(|distance| squash(distance, 0.08));
        assert!(scores.is_sorted_by(|a, b| a < b) && scores[0] == 0.0 && scores[2] == 0.5);
        assert!(squash(f64::MAX, 0.08) < 1.0 && squash(f64::INFINITY, 0.08) < 1.0);
    }
}
