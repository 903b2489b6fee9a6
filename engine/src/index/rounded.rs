//! Rows rounded to 16 bits a value, on a grid of its own in each dimension.
//!
//! A dimension's grid goes from its least value to its largest in 65,535 steps; one that never varies takes no room
//! in rows. What rounding takes away from a row is at most [`Rounded::error`], so a distance to what is kept tells
//! within which bounds the distance to the row itself is ([`RoundedQuery::slack`]).

use crate::{
    collection::Metric,
    simd::{self, Level},
};

/// Steps between the least and the largest value of a dimension.
const STEPS: f64 = 65_535.0;

/// What single precision adds to distances over a grid: this part of the grid's steps, and of a distance. Terms are
/// off by 2^-9 steps or 2^-24 of themselves, and sums have at most 4,096 of them in sixteen lanes.
const STEP_SHARE: f64 = 0.01;
const DISTANCE_SHARE: f64 = 1e-5;

/// Rows, flat.
#[derive(Clone, PartialEq)]
pub(super) struct Rounded {
    /// Least value and step of each dimension; no step where it never varies.
    pub(super) lower: Vec<f32>,
    pub(super) step: Vec<f32>,
    /// Under the metric cosine the largest error of a row over its norm, or else the largest error of a row.
    pub(super) error: f64,
    /// Row by row, for each dimension that varies.
    pub(super) codes: Vec<u16>,
    /// The dimensions that vary, rising, and those that do not.
    varying: Vec<u32>,
    fixed: Vec<u32>,
    /// For each that varies the least value, one over the step, and the step in units in which squares fit single precision.
    least: Vec<f64>,
    inverse: Vec<f64>,
    weights: simd::Weights,
    /// The norm of all steps.
    step_norm: f64,
    /// What makes squares of them squares in units of rows: a power of two.
    square_scale: f64,
}

/// A query on the grid.
#[derive(Clone)]
pub(super) struct RoundedQuery<'a> {
    metric: Metric,
    values: &'a [f32],
    norm: f64,
    /// The query in steps, of the dimensions that vary.
    target: Vec<f32>,
    /// Squares that all rows have alike.
    constant: f64,
}

impl RoundedQuery<'_> {
    /// Returns whether distances come from the grid alone.
    pub(super) const fn is_on_grid(&self) -> bool {
        matches!(self.metric, Metric::Euclidean)
    }
}

impl std::fmt::Debug for Rounded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Vectors do not belong in a log.
        write!(f, "{} rounded rows", self.count())
    }
}

impl Rounded {
    /// Returns `count` rows, rounded; at least two are different.
    pub(super) fn new<R: AsRef<[f32]>>(
        metric: Metric,
        dim: usize,
        count: usize,
        row: impl Fn(usize) -> R,
    ) -> Self {
        let (mut lower, mut upper) = (row(0).as_ref().to_vec(), row(0).as_ref().to_vec());
        for values in (0..count).map(&row) {
            for ((lower, upper), value) in lower.iter_mut().zip(&mut upper).zip(values.as_ref()) {
                (*lower, *upper) = (lower.min(*value), upper.max(*value));
            }
        }
        let step = lower.iter().zip(&upper).map(|(lower, upper)| step_of(*lower, *upper));
        let mut rounded = Self::from_parts(lower.clone(), step.collect(), 0.0, Vec::new());
        rounded.codes = simd::roomy(count * rounded.varying.len());
        let mut largest = 0.0_f64;
        for values in (0..count).map(row) {
            let (mut error, mut norm) = (0.0_f64, 0.0_f64);
            for (place, value) in values.as_ref().iter().enumerate().take(dim) {
                let value = f64::from(*value);
                let (lower, step) =
                    (f64::from(rounded.lower[place]), f64::from(rounded.step[place]));
                let code = if step > 0.0 { ((value - lower) / step).round() } else { 0.0 };
                if step > 0.0 {
                    rounded.codes.push(code as u16);
                }
                let kept = lower + step * code;
                // What is off in either precision that distances may use.
                let off = (kept - value).abs().max((f64::from(kept as f32) - value).abs());
                error += off * off;
                norm += value * value;
            }
            let relative = if error > 0.0 && metric == Metric::Cosine { norm } else { 1.0 };
            largest = largest.max((error / relative).sqrt());
        }
        rounded.error = largest;
        rounded
    }

    /// Returns the rows with these parts.
    pub(super) fn from_parts(lower: Vec<f32>, step: Vec<f32>, error: f64, codes: Vec<u16>) -> Self {
        let widest = step.iter().fold(0.0_f32, |most, step| most.max(*step));
        let unit = super::space::unit_for(widest);
        let (varying, fixed): (Vec<u32>, Vec<u32>) =
            (0..step.len() as u32).partition(|place| step[*place as usize] > 0.0);
        let least = varying.iter().map(|place| f64::from(lower[*place as usize])).collect();
        let steps = || varying.iter().map(|place| f64::from(step[*place as usize]));
        Self {
            least,
            inverse: steps().map(|step| 1.0 / step).collect(),
            weights: simd::Weights::new(steps().map(|step| (step * unit) as f32).collect()),
            step_norm: steps().map(|step| step * step).sum::<f64>().sqrt(),
            lower,
            step,
            error,
            codes,
            varying,
            fixed,
            square_scale: (1.0 / unit) * (1.0 / unit),
        }
    }

    /// Returns some of the rows, as rows of their own.
    pub(super) fn of_rows(&self, rows: &[u32]) -> Self {
        let codes = rows.iter().flat_map(|row| self.row(*row)).copied().collect();
        Self::from_parts(self.lower.clone(), self.step.clone(), self.error, codes)
    }

    /// Returns how many rows there are.
    pub(super) const fn count(&self) -> usize {
        // Rows are different from each other, so some dimension varies.
        self.codes.len() / self.varying.len()
    }

    /// Returns how many values of a row are kept.
    pub(super) const fn width(&self) -> usize {
        self.varying.len()
    }

    /// Returns how many bytes of memory the rows take.
    pub(super) const fn byte_count(&self) -> usize {
        let each_varying = 2 * size_of::<f64>() * self.varying.len();
        let grid = each_varying + 4 * (2 * self.lower.len() + self.step.len());
        2 * self.codes.len() + self.weights.byte_count() + grid
    }

    /// Appends the values of a row, as they are kept, to `taken`.
    pub(super) fn append(&self, row: u32, taken: &mut Vec<f32>) {
        let start = taken.len();
        taken.extend_from_slice(&self.lower);
        for (place, code) in self.varying.iter().zip(self.row(row)) {
            let place = *place as usize;
            let kept =
                f64::from(self.lower[place]) + f64::from(self.step[place]) * f64::from(*code);
            taken[start + place] = kept as f32;
        }
    }

    /// Asks for a row to be brought near.
    #[inline(always)]
    pub(super) fn prefetch(&self, row: u32) {
        simd::prefetch_all(self.row(row));
    }

    /// Returns a query on the grid.
    pub(super) fn query<'a>(
        &self,
        level: Level,
        metric: Metric,
        values: &'a [f32],
    ) -> RoundedQuery<'a> {
        let norm = if metric == Metric::Euclidean { 0.0 } else { simd::norm(level, values) };
        let mut query = RoundedQuery { metric, values, norm, target: Vec::new(), constant: 0.0 };
        if metric == Metric::Euclidean {
            let above = |place: usize| f64::from(values[place]) - f64::from(self.lower[place]);
            query.target = self.target(level, values);
            let fixed = self.fixed.iter().map(|place| above(*place as usize));
            query.constant = fixed.map(|above| above * above).sum();
        }
        query
    }

    /// Returns a vector in steps of the grid, of the dimensions that vary.
    pub(super) fn target(&self, level: Level, values: &[f32]) -> Vec<f32> {
        let mut steps: Vec<f32> = if self.fixed.is_empty() {
            values.to_vec()
        } else {
            self.varying.iter().map(|place| values[*place as usize]).collect()
        };
        simd::grid_steps(level, &mut steps, &self.least, &self.inverse);
        steps
    }

    /// Returns a row in steps of the grid.
    pub(super) fn target_of(&self, row: u32) -> Vec<f32> {
        self.row(row).iter().map(|code| f32::from(*code)).collect()
    }

    /// Sets `squares[i]` to the square of the distance between what is kept of `rows[i]` and a target, in the dimensions that
    /// vary and in the square of a unit of the grid's own.
    pub(super) fn squares(&self, level: Level, target: &[f32], rows: &[u32], squares: &mut [f32]) {
        simd::grid_squares_of(level, target, &self.weights, &self.codes, rows, squares);
    }

    /// Returns the distance to what is kept of a row.
    pub(super) fn distance(&self, level: Level, query: &RoundedQuery<'_>, row: u32) -> f64 {
        if query.metric == Metric::Euclidean {
            let mut squares = [0.0];
            self.squares(level, &query.target, &[row], &mut squares);
            if squares[0].is_finite() {
                return (f64::from(squares[0]) * self.square_scale + query.constant).sqrt();
            }
        }
        // A query far outside, or a metric that needs the row itself.
        let mut kept = Vec::with_capacity(self.lower.len());
        self.append(row, &mut kept);
        super::exact::distance(level, query.metric, (query.values, query.norm), &kept)
    }

    /// Appends to `distances` those to what is kept of some rows, as [`Self::distance`] has them. `squares` has no meaning
    /// between uses.
    pub(super) fn distances(
        &self,
        level: Level,
        query: &RoundedQuery<'_>,
        rows: &[u32],
        (squares, distances): (&mut Vec<f32>, &mut Vec<f64>),
    ) {
        squares.resize(rows.len(), 0.0);
        self.squares(level, &query.target, rows, squares);
        if squares.iter().all(|square| square.is_finite()) {
            simd::roots(level, squares, self.square_scale, query.constant, distances);
        } else {
            distances.extend(rows.iter().map(|row| self.distance(level, query, *row)));
        }
    }

    /// Returns by how much a distance to what is kept of a row can differ from that to the row itself.
    pub(super) fn slack(&self, query: &RoundedQuery<'_>, distance: f64) -> f64 {
        let error = self.error + STEP_SHARE * self.step_norm;
        match query.metric {
            Metric::Euclidean => error + DISTANCE_SHARE * distance,
            Metric::Dot => error * query.norm.sqrt(),
            // An angle changes by at most about the error over the norm, and its cosine by no more.
            Metric::Cosine => 2.0 * self.error + STEP_SHARE * DISTANCE_SHARE,
        }
    }

    fn row(&self, row: u32) -> &[u16] {
        &self.codes[row as usize * self.width()..][..self.width()]
    }
}

/// Returns the least step that brings a grid from `lower` to `upper` or beyond.
fn step_of(lower: f32, upper: f32) -> f32 {
    let wanted = (f64::from(upper) - f64::from(lower)) / STEPS;
    let step = wanted as f32;
    if f64::from(step) < wanted { step.next_up() } else { step }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::distance::distance;

    const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Euclidean, Metric::Dot];

    fn rows() -> impl Strategy<Value = (usize, Vec<f32>, Vec<f32>)> {
        let scale = prop_oneof![Just(1.0_f32), Just(1e-40), Just(1e30), Just(1e-3)];
        (1_usize..40, scale).prop_flat_map(|(dim, scale)| {
            let value = prop_oneof![-1.0_f32..1.0, Just(0.0), Just(1.0), 100.0_f32..100.01];
            let value = value.prop_map(move |value| value * scale);
            let vector = prop::collection::vec(value.clone(), dim);
            (Just(dim), prop::collection::vec(value, dim * 2..dim * 9), vector)
        })
    }

    proptest! {
        #[test]
        fn distances_are_within_their_slack((dim, values, vector) in rows()) {
            let row = |index: usize| &values[index * dim..][..dim];
            let count = values.len() / dim;
            prop_assume!((1..count).any(|index| row(index) != row(0)));
            for metric in METRICS {
                let rounded = Rounded::new(metric, dim, count, row);
                prop_assert_eq!(rounded.count(), count);
                let query = rounded.query(Level::detect(), metric, &vector);
                let rows: Vec<u32> = (0..count as u32).collect();
                let one_by_one: Vec<f64> =
                    rows.iter().map(|row| rounded.distance(Level::detect(), &query, *row)).collect();
                if metric == Metric::Euclidean {
                    for level in Level::available() {
                        let (mut squares, mut together) = (Vec::new(), Vec::new());
                        rounded.distances(level, &query, &rows, (&mut squares, &mut together));
                        prop_assert_eq!(&together, &one_by_one);
                    }
                }
                for index in 0..count {
                    let claimed = rounded.distance(Level::detect(), &query, index as u32);
                    let really = distance(metric, &vector, row(index));
                    let slack = rounded.slack(&query, claimed);
                    prop_assert!((claimed - really).abs() <= slack, "{metric:?} {claimed} {really} {slack}");
                }
            }
        }
    }

    #[test]
    fn integers_of_a_few_bits_lose_nothing() {
        // The second dimension never varies.
        let values: Vec<f32> = [0.0, 0.1, 65_535.0, 0.1, 500.0, 0.1].to_vec();
        let rounded = Rounded::new(Metric::Euclidean, 2, 3, |row| &values[row * 2..][..2]);
        let mut kept = Vec::new();
        (0..3).for_each(|row| rounded.append(row, &mut kept));
        assert_eq!((rounded.error, rounded.width()), (0.0, 1));
        assert_eq!(kept, values);
    }
}
