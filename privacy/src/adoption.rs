//! Whether foreign templates explain one's own life well enough to be used.
//!
//! A node splits its own history in two. If another's templates explain the second half almost as
//! well as the regimes of the first half do, the two live similar lives and the templates help; if
//! not, they would call the node's anomalies normal. A second condition guards against templates that
//! explain anything: they must do clearly better than themselves with shifted channels.
//!
//! Pure: no noise and no network. The history is the node's own, and the verdict stays with it.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::bounds::Bounds;

/// How strict the gate is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    /// How much wider the foreign 90 % distance may be than one's own. Default 1.25. Higher adopts
    /// more sets, and worse ones.
    pub ratio_max: f64,
    /// Added to it, in parts of the channels' ranges. Default 0.04, half of the threshold at which
    /// regimes are sealed: with a few hours of history one's own distance is partly chance.
    pub slack: f64,
    /// How much of the distance of the shifted set the true one may have. Default 0.75. 1 or more
    /// turns the control off, for channels that are all alike. It is off below 3 channels, where
    /// there is nothing to shift.
    pub shift_ratio_max: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { ratio_max: 1.25, slack: 0.04, shift_ratio_max: 0.75 }
    }
}

/// The part of one's own observations that must be explained.
const QUANTILE: f64 = 0.9;

/// Fewer channels than this have no usable shift.
const SHIFT_DIM_MIN: usize = 3;

/// Most shifts that are compared; of more, evenly spaced ones. Bounds the time at large dimensions.
const SHIFTS_MAX: usize = 64;

/// Fewer observations than this say nothing about one's own life.
const ROWS_MIN: usize = 10;

/// Most rows of history that are looked at; of a longer history, rows evenly spaced.
const ROWS_MAX: usize = 2_048;

/// Most values of history that are looked at, which lowers the number of rows at large dimensions.
const VALUES_MAX: usize = 1 << 18;

/// One's own history.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// Centroids of the regimes of the first half, row-major `[n, dim]`.
    pub regimes: &'a [f32],
    /// Observations of the second half, row-major `[n, dim]`.
    pub second_half: &'a [f32],
}

/// What the gate found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Whether to use the templates, or why not.
    pub reason: Reason,
    /// The distance within which 90 % of the second half lie of a regime of the first half; root mean
    /// square over channels, in parts of their ranges.
    pub own_q90: f64,
    /// The same for the nearest foreign template.
    pub foreign_q90: f64,
    /// The same for the templates with their channels cyclically shifted, the median over shifts;
    /// `None` if it was not needed.
    pub shifted_q90: Option<f64>,
}

/// Why a set was adopted or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It explains one's own life.
    Explains,
    /// There is too little history to judge by: no regimes, or fewer than 10 observations.
    NoHistory,
    /// The templates have another number of channels, or there are none.
    Shape,
    /// It is too far from one's own life.
    TooFar,
    /// With its channels shifted, it would do about as well.
    NoBetterThanShifted,
}

impl Verdict {
    /// Returns whether the set is to be used.
    #[must_use]
    pub fn is_adopted(&self) -> bool {
        self.reason == Reason::Explains
    }

    fn unknown(reason: Reason) -> Self {
        Self { reason, own_q90: f64::INFINITY, foreign_q90: f64::INFINITY, shifted_q90: None }
    }
}

/// Judges foreign `centroids` (row-major `[n, dim]`) by one's own history, in units of the ranges of
/// `bounds`.
#[must_use]
pub fn judge(history: History<'_>, centroids: &[f32], bounds: &Bounds, config: &Config) -> Verdict {
    let dim = bounds.dim();
    let shapes = [centroids.len(), history.regimes.len(), history.second_half.len()];
    if centroids.is_empty() || shapes.iter().any(|values| !values.is_multiple_of(dim)) {
        return Verdict::unknown(Reason::Shape);
    }
    if history.regimes.is_empty() || history.second_half.len() / dim < ROWS_MIN {
        return Verdict::unknown(Reason::NoHistory);
    }
    let scale = inverse_ranges(bounds);
    let rows = sample(history.second_half, dim);
    let own_q90 = distance_q90(&rows, history.regimes, &scale);
    let foreign_q90 = distance_q90(&rows, centroids, &scale);
    let verdict = |reason, shifted_q90| Verdict { reason, own_q90, foreign_q90, shifted_q90 };
    // Values that are not finite make infinite distances, never NaN: see `distance_q90`.
    if own_q90.is_infinite() {
        return verdict(Reason::NoHistory, None);
    }
    if foreign_q90 > config.ratio_max * own_q90 + config.slack {
        return verdict(Reason::TooFar, None);
    }
    if dim < SHIFT_DIM_MIN || config.shift_ratio_max >= 1.0 {
        return verdict(Reason::Explains, None);
    }
    let shifted_q90 = shifted_median(&rows, centroids, &scale);
    let is_better = foreign_q90 <= config.shift_ratio_max * shifted_q90;
    let reason = if is_better { Reason::Explains } else { Reason::NoBetterThanShifted };
    verdict(reason, Some(shifted_q90))
}

/// The median over cyclic shifts of the channels of what the 90 % distance would be. When one's own
/// first half does not explain the second, the first condition alone lets nearly anything pass; this
/// one does not.
fn shifted_median(rows: &[&[f32]], centroids: &[f32], scale: &[f64]) -> f64 {
    let dim = scale.len();
    let mut distances: Vec<f64> = (1..dim)
        .step_by((dim - 1).div_ceil(SHIFTS_MAX))
        .map(|by| {
            let shift = |row: &[f32]| [&row[by..], &row[..by]].concat();
            let shifted: Vec<f32> = centroids.chunks_exact(dim).flat_map(shift).collect();
            distance_q90(rows, &shifted, scale)
        })
        .collect();
    distances.sort_by(f64::total_cmp);
    let middle = distances.len() / 2;
    if distances.len().is_multiple_of(2) {
        distances[middle - 1].midpoint(distances[middle])
    } else {
        distances[middle]
    }
}

/// Returns `rows` (row-major `[n, dim]`) with their channels in another order, the same for every
/// row and fixed by `seed`: a control that has lost its meaning and kept its values.
///
/// # Panics
///
/// If `rows` are no whole rows.
#[must_use]
pub fn permuted(rows: &[f32], dim: usize, seed: u64) -> Vec<f32> {
    assert!(dim > 0 && rows.len().is_multiple_of(dim), "rows of {dim} channels");
    let order = permutation(dim, seed);
    rows.chunks_exact(dim).flat_map(|row| order.iter().map(|&channel| row[channel])).collect()
}

/// Fisher and Yates, as in Knuth's algorithm P, with ChaCha12 so that a seed means one order forever.
fn permutation(dim: usize, seed: u64) -> Vec<usize> {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    let mut order: Vec<usize> = (0..dim).collect();
    for last in (1..dim).rev() {
        // Multiply and shift: the bias is below 2^-51 for 4,096 channels.
        let chosen = (u128::from(rng.next_u64()) * (last as u128 + 1)) >> 64;
        order.swap(last, chosen as usize);
    }
    order
}

/// Returns how far each of `rows` is from the nearest of `centroids`, in parts of the channels' ranges.
pub(crate) fn distances_to(rows: &[f32], centroids: &[f32], bounds: &Bounds) -> Vec<f64> {
    let scale = inverse_ranges(bounds);
    rows.chunks_exact(scale.len()).map(|row| nearest(row, centroids, &scale)).collect()
}

fn inverse_ranges(bounds: &Bounds) -> Vec<f64> {
    let range = |(lower, upper): (&f32, &f32)| 1.0 / (f64::from(*upper) - f64::from(*lower));
    bounds.lower().iter().zip(bounds.upper()).map(range).collect()
}

fn sample(rows: &[f32], dim: usize) -> Vec<&[f32]> {
    let count = rows.len() / dim;
    let rows_max = (VALUES_MAX / dim).clamp(ROWS_MIN, ROWS_MAX);
    let step = count.div_ceil(rows_max).max(1);
    rows.chunks_exact(dim).step_by(step).collect()
}

/// The 90 % quantile over rows of the distance to the nearest centroid. A distance that is no number
/// is never the nearest, so a row without any other is infinitely far.
fn distance_q90(rows: &[&[f32]], centroids: &[f32], scale: &[f64]) -> f64 {
    let mut distances: Vec<f64> = rows.iter().map(|row| nearest(row, centroids, scale)).collect();
    distances.sort_by(f64::total_cmp);
    let rank = (QUANTILE * distances.len() as f64).ceil() as usize;
    distances[rank.max(1) - 1]
}

fn nearest(row: &[f32], centroids: &[f32], scale: &[f64]) -> f64 {
    centroids
        .chunks_exact(scale.len())
        .map(|centroid| mean_square(row, centroid, scale))
        .fold(f64::INFINITY, f64::min)
        .sqrt()
}

fn mean_square(row: &[f32], centroid: &[f32], scale: &[f64]) -> f64 {
    let term = |((&x, &c), &scale): ((&f32, &f32), &f64)| {
        let difference = (f64::from(x) - f64::from(c)) * scale;
        difference * difference
    };
    row.iter().zip(centroid).zip(scale).map(term).sum::<f64>() / scale.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 8;

    /// Two behaviours, far apart, that use the channels differently.
    fn life(rows: usize, shift: f32) -> Vec<f32> {
        let value = |row: usize, channel: usize| {
            let high = (channel < 3) == (row.is_multiple_of(2));
            let jitter = ((row * 31 + channel * 17) % 11) as f32 / 200.0;
            if high { 0.8 + jitter } else { 0.1 + jitter + shift }
        };
        (0..rows).flat_map(|row| (0..DIM).map(move |channel| value(row, channel))).collect()
    }

    fn bounds() -> Bounds {
        Bounds::uniform(DIM, 0.0, 1.0).unwrap()
    }

    fn judged(centroids: &[f32]) -> Verdict {
        let (regimes, second_half) = (life(2, 0.0), life(100, 0.0));
        let history = History { regimes: &regimes, second_half: &second_half };
        judge(history, centroids, &bounds(), &Config::default())
    }

    #[test]
    fn templates_of_a_similar_life_are_adopted() {
        let verdict = judged(&life(2, 0.03));
        assert_eq!(verdict.reason, Reason::Explains);
        assert!(verdict.foreign_q90 > verdict.own_q90 && verdict.foreign_q90 < 0.1);
        assert!(verdict.shifted_q90.unwrap() > 0.3);
    }

    #[test]
    fn shuffled_templates_are_refused() {
        let refused = (0..40)
            .map(|seed| permuted(&life(2, 0.0), DIM, 1_000 + seed))
            .filter(|centroids| !judged(centroids).is_adopted())
            .count();
        // Some shuffles of three channels among eight keep most of them in place.
        assert!(refused >= 36, "{refused}");
    }

    #[test]
    fn templates_that_fit_no_better_than_shifted_are_refused() {
        let centroids = [[0.5f32; DIM], [0.45; DIM]].concat();
        let config = Config { slack: 1.0, ..Config::default() };
        let (regimes, second_half) = (life(2, 0.0), life(100, 0.0));
        let history = History { regimes: &regimes, second_half: &second_half };
        let verdict = judge(history, &centroids, &bounds(), &config);
        assert_eq!(verdict.reason, Reason::NoBetterThanShifted);
    }

    #[test]
    fn without_the_control_or_enough_channels_distance_decides_alone() {
        let centroids = [[0.5f32; DIM], [0.45; DIM]].concat();
        let config = Config { slack: 1.0, shift_ratio_max: 1.0, ..Config::default() };
        let (regimes, second_half) = (life(2, 0.0), life(100, 0.0));
        let history = History { regimes: &regimes, second_half: &second_half };
        assert!(judge(history, &centroids, &bounds(), &config).is_adopted());
        let history = History { regimes: &[0.2, 0.8], second_half: &[0.2, 0.8].repeat(10) };
        let pair = Bounds::uniform(2, 0.0, 1.0).unwrap();
        let verdict = judge(history, &[0.21, 0.79], &pair, &Config::default());
        assert_eq!((verdict.reason, verdict.shifted_q90), (Reason::Explains, None));
    }

    #[test]
    fn median_of_an_even_number_of_shifts_is_their_midpoint() {
        let rows: Vec<&[f32]> = vec![&[0.0, 0.0, 0.0]];
        let median = shifted_median(&rows, &[0.0, 0.3, 0.6], &[1.0, 10.0, 100.0]);
        let distance = |row: [f64; 3]| {
            ((row[0].powi(2) + (10.0 * row[1]).powi(2) + (100.0 * row[2]).powi(2)) / 3.0).sqrt()
        };
        let expected = distance([0.3, 0.6, 0.0]).midpoint(distance([0.6, 0.0, 0.3]));
        assert!((median - expected).abs() < 1e-5, "{median} {expected}");
    }

    #[test]
    fn far_templates_are_refused() {
        let verdict = judged(&[[0.0f32; DIM], [1.0; DIM]].concat());
        assert_eq!(verdict.reason, Reason::TooFar);
    }

    #[test]
    fn odd_input_is_refused_without_panic() {
        assert_eq!(judged(&[]).reason, Reason::Shape);
        assert_eq!(judged(&[0.5; DIM + 1]).reason, Reason::Shape);
        assert_eq!(judged(&[f32::NAN; DIM]).reason, Reason::TooFar);
        let none = History { regimes: &[], second_half: &[] };
        let verdict = judge(none, &[0.5; DIM], &bounds(), &Config::default());
        assert_eq!(verdict.reason, Reason::NoHistory);
        let few = History { regimes: &[0.5; DIM], second_half: &[0.5; 9 * DIM] };
        let verdict = judge(few, &[0.5; DIM], &bounds(), &Config::default());
        assert_eq!(verdict.reason, Reason::NoHistory);
        let odd = History { regimes: &[f32::NAN; DIM], second_half: &[0.5; 10 * DIM] };
        let verdict = judge(odd, &[0.5; DIM], &bounds(), &Config::default());
        assert_eq!(verdict.reason, Reason::NoHistory);
    }

    #[test]
    fn permutation_is_fixed_by_its_seed() {
        assert_eq!(permutation(8, 7), permutation(8, 7));
        assert_ne!(permutation(8, 7), permutation(8, 8));
        let mut order = permutation(500, 3);
        order.sort_unstable();
        assert_eq!(order, (0..500).collect::<Vec<_>>());
        assert_eq!(permuted(&[1.0, 2.0], 1, 5), [1.0, 2.0]);
    }

    #[test]
    fn quantile_is_the_ceiling_rank() {
        let values: Vec<f32> = (1..=10).map(|value| value as f32 / 10.0).collect();
        let rows: Vec<&[f32]> = values.chunks(1).collect();
        let q90 = distance_q90(&rows, &[0.0], &[1.0]);
        assert!((q90 - 0.9).abs() < 1e-6, "{q90}");
    }
}
