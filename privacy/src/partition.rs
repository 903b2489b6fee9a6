//! The private partition: a binary tree that splits every cell at its own noisy mean.
//!
//! Level by level each cell's noisy mean is computed, and its observations go left or right of the
//! hyperplane through that mean, across a public direction. Where an observation goes depends on the
//! observation, on public directions and on values already released, so the partition itself gives
//! nothing away, which the cells of a clustering run on the data would. The direction of a level is
//! a vector of random signs (Achlioptas, "Database-friendly random projections", 2003) from a fixed
//! public seed.
//!
//! The relatives of this tree are the LSH prefix tree of Google's `differential-privacy` library and
//! DP-Lloyd; both were tried on real telemetry and `docs/privacy.md` has the comparison.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::bounds::STEP_MAX;
use crate::dataset::Dataset;
use crate::noise::{Noise, NoiseError};
use crate::plan::{COUNT_STEPS, DEPTH, Plan, StageNoise};

/// The seed of the public directions: every node splits along the same ones.
const DIRECTIONS_SEED: u64 = 0x6475_6e6c_696e_0001;

/// A part of the data as it is known after noise. Nothing in it is private.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cell {
    /// Noisy; may be negative.
    pub(crate) count: f64,
    /// Noisy sums of grid values, per channel.
    pub(crate) sums: Vec<f64>,
}

impl Cell {
    /// The mean in grid steps from the midpoint; the midpoint itself when there is hardly anyone.
    pub(crate) fn mean(&self) -> Vec<f64> {
        let max = STEP_MAX as f64;
        let mean = |sum: &f64| if self.count >= 1.0 { sum / self.count } else { 0.0 };
        self.sums.iter().map(|sum| mean(sum).clamp(-max, max)).collect()
    }
}

/// Releases the leaves of the tree, from left to right.
pub(crate) fn leaves(
    data: &Dataset,
    plan: &Plan,
    noise: &mut impl Noise,
) -> Result<Vec<Cell>, NoiseError> {
    let directions = Directions::new(data.dim());
    let mut cell_of = vec![0u8; data.count()];
    let mut cells = stage(data, &cell_of, 1, plan.stages[0], noise)?;
    for level in 0..DEPTH {
        let signs = directions.of(level);
        let splits: Vec<f64> = cells.iter().map(|cell| project_mean(&cell.mean(), signs)).collect();
        for (cell, row) in cell_of.iter_mut().zip(data.grid_rows()) {
            let is_right = project(row, signs) > splits[usize::from(*cell)];
            *cell = 2 * *cell + u8::from(is_right);
        }
        cells = stage(data, &cell_of, 2 << level, plan.stages[level + 1], noise)?;
    }
    Ok(cells)
}

/// Releases the counts and sums of one stage's cells.
fn stage(
    data: &Dataset,
    cell_of: &[u8],
    cells: usize,
    scales: StageNoise,
    noise: &mut impl Noise,
) -> Result<Vec<Cell>, NoiseError> {
    let dim = data.dim();
    let mut counts = vec![0i64; cells];
    let mut sums = vec![0i64; cells * dim];
    for (&cell, row) in cell_of.iter().zip(data.grid_rows()) {
        let cell = usize::from(cell);
        counts[cell] += COUNT_STEPS;
        for (sum, &value) in sums[cell * dim..][..dim].iter_mut().zip(row) {
            *sum += i64::from(value);
        }
    }
    let counts = noise.laplace(counts, scales.count_scale)?;
    let sums = noise.laplace(sums, scales.sum_scale)?;
    let cell = |(&count, sums): (&i64, &[i64])| Cell {
        count: count as f64 / COUNT_STEPS as f64,
        sums: sums.iter().map(|&sum| sum as f64).collect(),
    };
    Ok(counts.iter().zip(sums.chunks_exact(dim)).map(cell).collect())
}

/// One vector of signs per level.
struct Directions {
    dim: usize,
    negative: Vec<bool>,
}

impl Directions {
    fn new(dim: usize) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(DIRECTIONS_SEED);
        let negative = (0..DEPTH * dim).map(|_| rng.next_u32() >> 31 == 1).collect();
        Self { dim, negative }
    }

    fn of(&self, level: usize) -> &[bool] {
        &self.negative[level * self.dim..][..self.dim]
    }
}

/// Exact: at most 4,096 channels of 2^19 steps.
fn project(row: &[i32], negative: &[bool]) -> f64 {
    let signed =
        |(&value, &negative): (&i32, &bool)| i64::from(if negative { -value } else { value });
    row.iter().zip(negative).map(signed).sum::<i64>() as f64
}

fn project_mean(mean: &[f64], negative: &[bool]) -> f64 {
    let signed = |(&value, &negative): (&f64, &bool)| if negative { -value } else { value };
    mean.iter().zip(negative).map(signed).sum()
}

/// Gives up leaves that are too small: siblings that both are become their parent, and one that is
/// beside a large one is dropped. `cells` are the leaves of a full binary tree from left to right.
/// Works on released values alone.
pub(crate) fn merge_small(cells: Vec<Cell>, count_min: f64) -> Vec<Cell> {
    let mut kept = Vec::new();
    // `None` is a place whose cell was kept below: its small remnants are not worth a template.
    let mut level: Vec<Option<Cell>> = cells.into_iter().map(Some).collect();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| {
                let (large, small): (Vec<&Cell>, Vec<&Cell>) =
                    pair.iter().flatten().partition(|cell| cell.count >= count_min);
                if large.is_empty() {
                    return small.into_iter().cloned().reduce(add);
                }
                kept.extend(large.into_iter().cloned());
                None
            })
            .collect();
    }
    kept.extend(level.into_iter().flatten().filter(|cell| cell.count >= count_min));
    kept
}

fn add(mut left: Cell, right: Cell) -> Cell {
    left.count += right.count;
    for (sum, other) in left.sums.iter_mut().zip(&right.sums) {
        *sum += other;
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(count: f64) -> Cell {
        Cell { count, sums: vec![count] }
    }

    fn merged(counts: &[f64]) -> Vec<f64> {
        let cells = counts.iter().map(|&count| cell(count)).collect();
        merge_small(cells, 10.0).into_iter().map(|cell| cell.count).collect()
    }

    #[test]
    fn large_leaves_stay_as_they_are() {
        assert_eq!(merged(&[10.0, 20.0, 30.0, 40.0]), [10.0, 20.0, 30.0, 40.0]);
    }

    #[test]
    fn small_siblings_become_their_parent() {
        assert_eq!(merged(&[6.0, 7.0, 3.0, 4.0]), [13.0]);
        assert_eq!(merged(&[3.0, 4.0, 2.0, 2.0]), [11.0]);
    }

    #[test]
    fn small_cell_beside_a_large_one_is_dropped() {
        assert_eq!(merged(&[10.0, 9.0, 1.0, 2.0]), [10.0]);
    }

    #[test]
    fn hardly_anyone_makes_no_cell() {
        assert_eq!(merged(&[1.0, -2.0, 3.0, 0.5]), [0.0; 0]);
        assert_eq!(cell(0.5).mean(), [0.0]);
    }
}
