//! The space in which the graph is built and walked: every metric as a squared euclidean distance of
//! centered vectors, on fewer dimensions where there are many.
//!
//! - Euclidean: vectors are scaled by a power of two to at most one, and the mean is taken off.
//! - Cosine: vectors are divided by their norms first. The zero vector has distance 1 from all others,
//!   which its bias makes true.
//! - Dot: rows get one more dimension that brings all to one norm (Bachrach et al. 2014, section 3), so
//!   that the row with the largest dot product is the nearest one. Queries have nothing there.
//!
//! From [`DIM_PROJECTED_MIN`] dimensions on, rows are projected on their principal components, found on
//! a sample by orthogonal iteration, and turned in a random way so that all components have about the
//! same size: one scale for a row then suits all its codes. What the projection drops counts no more: rows that are
//! near each other have about the same there, and as a part of their norms alone it would look like distance.

use std::borrow::Cow;

use super::{byte_codes::dim_for, nearest::Nearest, random::Random};
use crate::{
    collection::Metric,
    distance::LANES,
    simd::{self, BLOCK, Level},
};

/// Dimensions from which on rows are projected: the projection of a query has to pay.
const DIM_PROJECTED_MIN: usize = 192;

/// Lines of a projected row, to be tried in turn: 120, 184 or 248 components and the tail.
const LINES_PROJECTED: [usize; 3] = [2, 3, 4];

/// Rows of the sample whose nearest neighbors tell whether a projection is good enough.
const JUDGES: usize = 32;

/// How many nearest neighbors each of them has.
const JUDGED_NEIGHBORS: usize = 10;

/// Among how many of the nearest after the projection these should be: as many as are compared exactly.
const JUDGED_AMONG: usize = 20;

/// Share of them that has to be there. Where no projection is good enough, rows are coded as they are.
/// What a projection keeps of the variance says less: clusters may have it all, and neighbors none.
const FOUND_MIN: f64 = 0.95;

/// Rows that the mean and the principal components are taken from.
const SAMPLE_ROWS_MAX: usize = 4_096;

/// Steps of the orthogonal iteration. The components need to span the right space, no more.
const ITERATIONS: usize = 6;

/// Seed of the directions that the search for axes begins with.
const AXES_SEED: u64 = 0x00a3_e500;

/// Share of the variance that axes may leave out.
const VARIANCE_LEFT_OUT: f64 = 1e-3;

/// Directions that span those along which rows vary most: eight side by side, row by row of dimensions.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axes {
    pub(super) values: Vec<[f32; LANES]>,
}

impl Axes {
    /// Returns how many axes there are for vectors of `dim` values.
    pub(super) const fn width(&self, dim: usize) -> usize {
        self.values.len() / dim * LANES
    }

    /// Returns how many bytes of memory the axes take.
    pub(super) const fn byte_count(&self) -> usize {
        self.values.len() * size_of::<[f32; LANES]>()
    }
}

/// How vectors become what is coded.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Space {
    pub(super) metric: Metric,
    /// Dimensions of vectors.
    pub(super) dim: usize,
    /// What vectors are multiplied with, a power of two.
    pub(super) unit: f64,
    /// Under the metric dot, the largest squared norm of a row in units.
    pub(super) peak: f64,
    /// Taken off, of [`Self::dim_in`] values.
    pub(super) mean: Vec<f32>,
    /// The projection, block by block of components, row by row of dimensions. Empty: none.
    pub(super) matrix: Vec<[f32; BLOCK]>,
    /// The projection of the mean.
    shift: Vec<f32>,
}

impl Space {
    /// Returns the space of `count` rows before any projection, and a sample of them, prepared.
    pub(super) fn fit<'a>(
        level: Level,
        metric: Metric,
        dim: usize,
        count: usize,
        row: impl Fn(usize) -> &'a [f32],
    ) -> (Self, Vec<Vec<f32>>) {
        let largest = (0..count).flat_map(&row).fold(0.0_f32, |most, value| most.max(value.abs()));
        let mut space = Self {
            metric,
            dim,
            unit: unit_for(largest),
            peak: 0.0,
            mean: vec![0.0; dim + usize::from(metric == Metric::Dot)],
            matrix: Vec::new(),
            shift: Vec::new(),
        };
        if metric == Metric::Dot {
            let norms = (0..count)
                .map(|index| simd::norm(level, &space.scaled(level, row(index), space.unit)));
            space.peak = norms.fold(0.0, f64::max);
        }
        let sampled = count.min(SAMPLE_ROWS_MAX);
        let sample: Vec<Vec<f32>> =
            (0..sampled).map(|index| space.prepared(level, row(index * count / sampled))).collect();
        space.mean = mean_of(&sample, space.dim_in());
        space.shift.clone_from(&space.mean);
        (space, sample)
    }

    /// Returns the space with a projection, where there are many dimensions and one is good enough for the sample.
    pub(super) fn projected(self, level: Level, sample: &[Vec<f32>]) -> Self {
        if self.dim < DIM_PROJECTED_MIN {
            return self;
        }
        let projected = LINES_PROJECTED.into_iter().find_map(|lines| {
            let mut space = self.clone();
            space.matrix = components(level, sample, &space.mean, dim_for(lines));
            space.shift = space.project(level, &space.mean, &[]);
            (space.found(level, sample) >= FOUND_MIN).then_some(space)
        });
        projected.unwrap_or(self)
    }

    /// Returns axes that span the directions with the most variance in a sample: of [`simd::WIDTHS`] the fewest that leave out
    /// no more than [`VARIANCE_LEFT_OUT`] of it; none when all leave out more.
    pub(super) fn axes(&self, level: Level, sample: &[Vec<f32>]) -> Option<Axes> {
        let [.., most] = simd::WIDTHS;
        let mut random = Random::new(AXES_SEED);
        let mut basis =
            principal(level, &mut random, (sample, &self.mean), most.min(self.dim_in()));
        let (mut all, mut along) = (0.0, vec![0.0; most]);
        for row in sample {
            let centered: Vec<f32> =
                row.iter().zip(&self.mean).map(|(value, mean)| value - mean).collect();
            all += simd::norm(level, &centered);
            for (sum, direction) in along.iter_mut().zip(&basis) {
                let value = simd::products(level, &centered, direction);
                *sum += value * value;
            }
        }
        let is_enough =
            |width: &usize| along[..*width].iter().sum::<f64>() >= all * (1.0 - VARIANCE_LEFT_OUT);
        let width = simd::WIDTHS.into_iter().find(is_enough)?;
        basis.truncate(width);
        let mut values = vec![[0.0; LANES]; self.dim_in() * width / LANES];
        for (axis, direction) in turned(level, &mut random, &basis).iter().enumerate() {
            for (row, value) in values.chunks_exact_mut(width / LANES).zip(direction) {
                row[axis / LANES][axis % LANES] = *value;
            }
        }
        Some(Axes { values })
    }

    /// Returns a vector along axes.
    pub(super) fn along(&self, level: Level, axes: &Axes, vector: &[f32]) -> Vec<f32> {
        let mut along = Vec::with_capacity(axes.width(self.dim_in()));
        self.set_along(level, axes, vector, (&mut Vec::with_capacity(self.dim_in()), &mut along));
        along
    }

    /// Sets `along` to a vector along axes. `centered` has no meaning between uses.
    pub(super) fn set_along(
        &self,
        level: Level,
        axes: &Axes,
        vector: &[f32],
        (centered, along): (&mut Vec<f32>, &mut Vec<f32>),
    ) {
        centered.clear();
        self.prepare(level, vector, centered);
        centered.iter_mut().zip(&self.mean).for_each(|(value, mean)| *value -= mean);
        along.clear();
        simd::along(level, &axes.values, centered, along);
    }

    /// Returns the space with these parts, as [`Self::fit`] made it once.
    pub(super) fn from_parts(
        level: Level,
        (metric, dim): (Metric, usize),
        (unit, peak): (f64, f64),
        mean: Vec<f32>,
        matrix: Vec<[f32; BLOCK]>,
    ) -> Self {
        let mut space = Self { metric, dim, unit, peak, mean, matrix, shift: Vec::new() };
        space.shift = space.project(level, &space.mean, &[]);
        space
    }

    /// Returns how many values are coded.
    pub(super) fn dim_out(&self) -> usize {
        let blocks = self.matrix.len() / self.dim_in();
        if blocks == 0 { self.dim_in() } else { dim_for(blocks) }
    }

    /// Returns whether rows are coded on fewer dimensions.
    pub(super) const fn is_projected(&self) -> bool {
        !self.matrix.is_empty()
    }

    /// Returns how many values a prepared row has.
    pub(super) const fn dim_in(&self) -> usize {
        self.mean.len()
    }

    /// Returns the values of a row that are coded, and its bias.
    pub(super) fn row(&self, level: Level, row: &[f32]) -> (Vec<f32>, f32) {
        let prepared = self.prepared(level, row);
        let values = self.project(level, &prepared, &self.shift);
        let mut bias = simd::norm(level, &values);
        if self.metric == Metric::Cosine && row.iter().all(|value| *value == 0.0) {
            bias += 1.0;
        }
        (values, bias as f32)
    }

    /// Returns the values of a query that are coded, and how much the bias of rows counts.
    pub(super) fn query(&self, level: Level, query: &[f32]) -> (Vec<f32>, f32) {
        match self.metric {
            Metric::Dot => {
                let mut prepared = self.scaled(level, query, self.unit);
                prepared.push(0.0);
                (self.project(level, &prepared, &[]), 0.0)
            }
            Metric::Euclidean | Metric::Cosine => {
                let prepared = self.prepared(level, query);
                (self.project(level, &prepared, &self.shift), 1.0)
            }
        }
    }

    /// Returns a row for a grid: under the metric cosine divided by its norm.
    pub(super) fn on_grid<'a>(&self, level: Level, row: &'a [f32]) -> Cow<'a, [f32]> {
        match self.metric {
            Metric::Cosine => self.prepared(level, row).into(),
            Metric::Euclidean | Metric::Dot => row.into(),
        }
    }

    /// Returns the share of true neighbors within a sample of prepared rows that are still near after the
    /// projection.
    fn found(&self, level: Level, sample: &[Vec<f32>]) -> f64 {
        let projected: Vec<(Vec<f32>, f64)> = sample
            .iter()
            .map(|row| {
                let values = self.project(level, row, &self.shift);
                let bias = simd::norm(level, &values);
                (values, bias)
            })
            .collect();
        let (judges, mut found, mut wanted) = (JUDGES.min(sample.len()), 0, 0);
        for judge in (0..judges).map(|judge| judge * sample.len() / judges) {
            let mut truly = Nearest::new(JUDGED_NEIGHBORS);
            let mut nearly = Nearest::new(JUDGED_AMONG);
            for (other, (values, bias)) in projected.iter().enumerate() {
                if other != judge {
                    truly.offer(simd::squares(level, &sample[judge], &sample[other]), other);
                    let dot = simd::products(level, &projected[judge].0, values);
                    nearly.offer(bias - 2.0 * dot, other);
                }
            }
            let nearly: Vec<usize> = nearly.finish().map(|(_, other)| other).collect();
            for (_, other) in truly.finish() {
                wanted += 1;
                found += usize::from(nearly.contains(&other));
            }
        }
        if wanted > 0 { f64::from(found as u32) / f64::from(wanted) } else { 1.0 }
    }

    /// Returns how many bytes of memory the space takes.
    pub(super) const fn byte_count(&self) -> usize {
        4 * (self.mean.len() + self.shift.len() + BLOCK * self.matrix.len())
    }

    fn scaled(&self, level: Level, row: &[f32], factor: f64) -> Vec<f32> {
        let mut scaled = Vec::with_capacity(self.dim_in());
        simd::scale(level, row, factor, &mut scaled);
        scaled
    }

    fn prepared(&self, level: Level, row: &[f32]) -> Vec<f32> {
        let mut prepared = Vec::with_capacity(self.dim_in());
        self.prepare(level, row, &mut prepared);
        prepared
    }

    /// Sets `prepared`, which is empty, to a row in this space before the mean is taken off.
    fn prepare(&self, level: Level, row: &[f32], prepared: &mut Vec<f32>) {
        let factor = if self.metric == Metric::Cosine {
            let norm = simd::norm(level, row).sqrt();
            if norm > 0.0 { 1.0 / norm } else { 0.0 }
        } else {
            self.unit
        };
        simd::scale(level, row, factor, prepared);
        if self.metric == Metric::Dot {
            let missing = self.peak - simd::norm(level, prepared);
            prepared.push(missing.max(0.0).sqrt() as f32);
        }
    }

    /// Returns `prepared` on the components, less `shift`.
    fn project(&self, level: Level, prepared: &[f32], shift: &[f32]) -> Vec<f32> {
        let mut projected = if self.matrix.is_empty() {
            prepared.to_vec()
        } else {
            applied(level, &self.matrix, prepared)
        };
        projected.truncate(self.dim_out());
        for (value, shift) in projected.iter_mut().zip(shift) {
            *value -= shift;
        }
        projected
    }
}

/// Returns the power of two that brings `largest` to between one half and one.
pub(super) fn unit_for(largest: f32) -> f64 {
    if largest == 0.0 {
        return 1.0;
    }
    // From the bits, because logarithms and powers may differ between systems. As a 64-bit float, every
    // 32-bit one has an exponent, and its inverse too.
    let biased = f64::from(largest).to_bits() >> 52;
    f64::from_bits((2 * 1_023 - 1 - biased) << 52)
}

fn mean_of(sample: &[Vec<f32>], dim: usize) -> Vec<f32> {
    let mut sums = vec![0.0_f64; dim];
    for row in sample {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += f64::from(*value);
        }
    }
    sums.iter().map(|sum| (sum / sample.len() as f64) as f32).collect()
}

/// Returns the product of a matrix (blocks of columns, row by row) and a row vector.
fn applied(level: Level, matrix: &[[f32; BLOCK]], weights: &[f32]) -> Vec<f32> {
    let mut sums = Vec::with_capacity(matrix.len() / weights.len() * BLOCK);
    for block in matrix.chunks_exact(weights.len()) {
        let mut sum = [0.0; BLOCK];
        simd::combine(level, &mut sum, block, weights);
        sums.extend_from_slice(&sum);
    }
    sums
}

/// Returns `count` directions that span the principal components of a sample, as a matrix in blocks.
fn components(level: Level, sample: &[Vec<f32>], mean: &[f32], count: usize) -> Vec<[f32; BLOCK]> {
    let mut random = Random::new(0x00d1_0471);
    let basis = principal(level, &mut random, (sample, mean), count);
    blocks_of(&turned(level, &mut random, &basis), mean.len())
}

/// Returns as many directions that span the same as a basis, turned at random: each has about as much of the variance then, and
/// codes that have one step for all of them lose the least.
fn turned(level: Level, random: &mut Random, basis: &[Vec<f32>]) -> Vec<Vec<f32>> {
    let mut turn: Vec<Vec<f32>> = basis.iter().map(|_| directions(random, basis.len())).collect();
    orthonormalize(level, &mut turn);
    let turned = turn.iter().map(|weights| {
        let mut direction = vec![0.0_f32; basis[0].len()];
        for (weight, base) in weights.iter().zip(basis) {
            for (sum, value) in direction.iter_mut().zip(base) {
                *sum += weight * value;
            }
        }
        direction
    });
    turned.collect()
}

/// Returns `count` directions, about the principal components of a sample, those with the most variance first.
fn principal(
    level: Level,
    random: &mut Random,
    (sample, mean): (&[Vec<f32>], &[f32]),
    count: usize,
) -> Vec<Vec<f32>> {
    let (rows, dim) = (sample.len(), mean.len());
    let mut centered = Vec::with_capacity(rows * dim);
    for row in sample {
        centered.extend(row.iter().zip(mean).map(|(value, mean)| value - mean));
    }
    let mut columns = vec![0.0_f32; rows * dim];
    for (row, values) in centered.chunks_exact(dim).enumerate() {
        for (column, value) in values.iter().enumerate() {
            columns[column * rows + row] = *value;
        }
    }
    let mut basis: Vec<Vec<f32>> = (0..count).map(|_| directions(random, dim)).collect();
    orthonormalize(level, &mut basis);
    for _ in 0..ITERATIONS {
        let scores = product(level, &centered, dim, &blocks_of(&basis, dim));
        let grown = product(level, &columns, rows, &scores);
        basis = (0..count).map(|index| column_of(&grown, dim, index)).collect();
        orthonormalize(level, &mut basis);
    }
    basis
}

/// Returns a random direction: sums of uniform numbers, which are near enough to normal.
fn directions(random: &mut Random, dim: usize) -> Vec<f32> {
    (0..dim).map(|_| (0..6).map(|_| random.unit() - 0.5).sum()).collect()
}

/// Returns the product of rows of `width` values and a matrix in blocks, in blocks.
fn product(level: Level, rows: &[f32], width: usize, matrix: &[[f32; BLOCK]]) -> Vec<[f32; BLOCK]> {
    let mut product = Vec::with_capacity(matrix.len() / width * (rows.len() / width));
    for block in matrix.chunks_exact(width) {
        for row in rows.chunks_exact(width) {
            let mut sum = [0.0; BLOCK];
            simd::combine(level, &mut sum, block, row);
            product.push(sum);
        }
    }
    product
}

fn blocks_of(columns: &[Vec<f32>], dim: usize) -> Vec<[f32; BLOCK]> {
    let mut blocks = vec![[0.0; BLOCK]; columns.len().div_ceil(BLOCK) * dim];
    for (index, column) in columns.iter().enumerate() {
        for (row, value) in column.iter().enumerate() {
            blocks[index / BLOCK * dim + row][index % BLOCK] = *value;
        }
    }
    blocks
}

fn column_of(blocks: &[[f32; BLOCK]], dim: usize, index: usize) -> Vec<f32> {
    blocks[index / BLOCK * dim..][..dim].iter().map(|row| row[index % BLOCK]).collect()
}

/// Makes directions orthogonal and of length one (modified Gram-Schmidt). One that the others span
/// already becomes zero.
fn orthonormalize(level: Level, basis: &mut [Vec<f32>]) {
    for index in 0..basis.len() {
        let (done, rest) = basis.split_at_mut(index);
        let direction = &mut rest[0];
        let before = simd::norm(level, direction).sqrt();
        for other in done {
            let along = simd::products(level, direction, other) as f32;
            for (value, other) in direction.iter_mut().zip(other.iter()) {
                *value -= along * other;
            }
        }
        let norm = simd::norm(level, direction).sqrt();
        let inverse = if norm > 1e-5 * before { 1.0 / norm } else { 0.0 };
        for value in direction.iter_mut() {
            *value = (f64::from(*value) * inverse) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_bring_values_to_between_one_half_and_one() {
        for largest in [f32::MAX, 255.0, 1.0, 0.75, f32::MIN_POSITIVE, f32::from_bits(1)] {
            let scaled = f64::from(largest) * unit_for(largest);
            assert!((0.5..1.0).contains(&scaled), "{largest}: {scaled}");
        }
        assert_eq!(unit_for(0.0), 1.0);
    }
}
