//! The private partition: a binary tree that splits every cell at its own noisy mean.
//!
//! Level by level it is found out where each cell's noisy mean lies across a public direction, and its
//! observations go to one side of it or the other. Where an observation goes depends on the observation, on
//! public directions and on values already noised, so the partition itself gives nothing away, which the
//! cells of a clustering run on the data would. The direction of a level is a vector of random signs
//! (Achlioptas, "Database-friendly random projections", 2003) from a fixed public seed. Only the leaves are
//! asked for their whole means: one number for a cell costs as much as all of its channels do with Laplace
//! noise, and has the noise of one of them.
//!
//! A unit of privacy has many observations, in many cells. To each of at most `cells_max` cells of a
//! stage it contributes one vector: the mean of its observations there. So no unit counts more than
//! once in a cell, however long it was watched, and a cell's count is how many units know the behaviour.
//!
//! The relatives of this tree are the LSH prefix tree of Google's `differential-privacy` library and
//! DP-Lloyd; both were tried on real telemetry and `docs/privacy.md` has the comparison.

use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::bounds::STEP_MAX;
use crate::dataset::Dataset;
use crate::noise::{Noise, NoiseError, Scale};
use crate::plan::{COUNT_STEPS, DEPTH_MAX, StageNoise};

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

/// Returns how many units there are, noised.
pub(crate) fn probe(
    data: &Dataset,
    scale: Scale,
    noise: &mut impl Noise,
) -> Result<f64, NoiseError> {
    let units = noise.add(vec![data.units() as i64 * COUNT_STEPS], scale)?;
    Ok(units[0] as f64 / COUNT_STEPS as f64)
}

/// Returns the leaves of the tree, from left to right. `stages` are the noise of each level from the
/// whole to the leaves, `units_noised` is the answer of the probe, and a unit contributes to at most
/// `cells_max` cells of a stage.
pub(crate) fn leaves(
    data: &Dataset,
    cells_max: usize,
    units_noised: f64,
    stages: &[StageNoise],
    noise: &mut impl Noise,
) -> Result<Vec<Cell>, NoiseError> {
    let directions = Directions::new(data.dim());
    let mut cell_of = vec![0u8; data.count()];
    let (leaves, inner) = stages.split_last().expect("a partition has leaves");
    for (level, &scales) in inner.iter().enumerate() {
        let signs = directions.of(level);
        let exact = Contributions::of(data, &cell_of, 1 << level, cells_max);
        let splits = exact.splits(signs, scales, units_noised, noise)?;
        assign(data, signs, &splits, &mut cell_of);
    }
    let exact = Contributions::of(data, &cell_of, 1 << inner.len(), cells_max);
    exact.noised(*leaves, units_noised, noise)
}

/// Sends every observation to one of its cell's two halves.
fn assign(data: &Dataset, signs: &[bool], splits: &[f64], cell_of: &mut [u8]) {
    for (cell, row) in cell_of.iter_mut().zip(data.grid_rows()) {
        let values = row.iter().map(|value| i64::from(*value));
        let is_right = project(values, signs) as f64 > splits[usize::from(*cell)];
        *cell = 2 * *cell + u8::from(is_right);
    }
}

/// What all units contribute to the cells of one stage, exact and private.
struct Contributions {
    dim: usize,
    /// In steps.
    counts: Vec<i64>,
    /// Row-major `[cells, dim]`, from the midpoint.
    sums: Vec<i64>,
}

impl Contributions {
    fn of(data: &Dataset, cell_of: &[u8], cells: usize, cells_max: usize) -> Self {
        let dim = data.dim();
        let mut all = Self { dim, counts: vec![0; cells], sums: vec![0; cells * dim] };
        let mut unit = Self { dim, counts: vec![0; cells], sums: vec![0; cells * dim] };
        let mut rows = data.grid_rows().zip(cell_of);
        for range in data.unit_rows() {
            if range.len() == 1 {
                // Its own mean; by far the most common case when the unit is an observation.
                rows.by_ref().take(1).for_each(|(row, &cell)| all.add(usize::from(cell), row));
                continue;
            }
            unit.counts.fill(0);
            unit.sums.fill(0);
            for (row, &cell) in rows.by_ref().take(range.len()) {
                unit.counts[usize::from(cell)] += 1;
                let sums = &mut unit.sums[usize::from(cell) * dim..][..dim];
                sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += i64::from(value));
            }
            all.take_in(&unit, cells_max);
        }
        all
    }

    /// Adds the means of a unit's observations in the cells where it has most of them. Whatever the
    /// unit's observations are, no cell's count changes by more than one, and no sum by more than half
    /// a range: a mean of values within the bounds is within them.
    fn take_in(&mut self, unit: &Self, cells_max: usize) {
        let mut visited: Vec<usize> =
            (0..unit.counts.len()).filter(|&cell| unit.counts[cell] > 0).collect();
        if visited.len() > cells_max {
            // Stable, so of equals the first ones.
            visited.sort_by_key(|&cell| std::cmp::Reverse(unit.counts[cell]));
            visited.truncate(cells_max);
        }
        for cell in visited {
            self.counts[cell] += COUNT_STEPS;
            let (at, count) = (cell * self.dim, unit.counts[cell]);
            let sums = &mut self.sums[at..][..self.dim];
            for (sum, &of_unit) in sums.iter_mut().zip(&unit.sums[at..]) {
                // Towards zero: never farther from the midpoint.
                *sum += of_unit / count;
            }
        }
    }

    /// Adds a vector to a cell.
    fn add(&mut self, cell: usize, row: &[i32]) {
        self.counts[cell] += COUNT_STEPS;
        let sums = &mut self.sums[cell * self.dim..][..self.dim];
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += i64::from(value));
    }

    /// Returns where each cell is split: where its noisy mean lies across a direction.
    fn splits(
        self,
        signs: &[bool],
        scales: StageNoise,
        units_noised: f64,
        noise: &mut impl Noise,
    ) -> Result<Vec<f64>, NoiseError> {
        let counts = noised_counts(self.counts, scales, units_noised, noise)?;
        let across = |sums: &[i64]| project(sums.iter().copied(), signs);
        let sums = self.sums.chunks_exact(self.dim).map(across).collect();
        let sums = noise.add(sums, scales.sum)?;
        let mean =
            |(&count, &sum): (&f64, &i64)| if count >= 1.0 { sum as f64 / count } else { 0.0 };
        Ok(counts.iter().zip(&sums).map(mean).collect())
    }

    fn noised(
        self,
        scales: StageNoise,
        units_noised: f64,
        noise: &mut impl Noise,
    ) -> Result<Vec<Cell>, NoiseError> {
        let counts = noised_counts(self.counts, scales, units_noised, noise)?;
        let sums = noise.add(self.sums, scales.sum)?;
        let cell = |(&count, sums): (&f64, &[i64])| Cell {
            count,
            sums: sums.iter().map(|&sum| sum as f64).collect(),
        };
        Ok(counts.iter().zip(sums.chunks_exact(self.dim)).map(cell).collect())
    }
}

fn noised_counts(
    counts: Vec<i64>,
    scales: StageNoise,
    units_noised: f64,
    noise: &mut impl Noise,
) -> Result<Vec<f64>, NoiseError> {
    let Some(scale) = scales.count else { return Ok(vec![units_noised]) };
    let counts = noise.add(counts, scale)?;
    Ok(counts.iter().map(|&count| count as f64 / COUNT_STEPS as f64).collect())
}

/// One vector of signs per level.
struct Directions {
    dim: usize,
    negative: Vec<bool>,
}

impl Directions {
    fn new(dim: usize) -> Self {
        let mut rng = ChaCha12Rng::seed_from_u64(DIRECTIONS_SEED);
        let negative = (0..DEPTH_MAX * dim).map(|_| rng.next_u32() >> 31 == 1).collect();
        Self { dim, negative }
    }

    fn of(&self, level: usize) -> &[bool] {
        &self.negative[level * self.dim..][..self.dim]
    }
}

/// Returns where values lie across a direction. Exact, also for sums of as many observations as there may be: 2^31 of
/// 4,096 channels of 2^19 steps.
fn project(values: impl Iterator<Item = i64>, negative: &[bool]) -> i64 {
    let signed = |(value, &negative): (i64, &bool)| if negative { -value } else { value };
    values.zip(negative).map(signed).sum()
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

/// Merges cells until there are no more than `count_max`, always those two whose merging adds the least squared error
/// (Ward, 1963): what is alike becomes one, with less noise than either had. Works on released values alone.
pub(crate) fn merge_alike(mut cells: Vec<Cell>, count_max: usize) -> Vec<Cell> {
    while cells.len() > count_max {
        let pairs = (1..cells.len()).flat_map(|right| (0..right).map(move |left| (left, right)));
        let of = |(left, right)| (added_error(&cells[left], &cells[right]), left, right);
        let least = pairs.map(of).min_by(|a, b| a.0.total_cmp(&b.0));
        let Some((_, left, right)) = least else { break };
        let right = cells.remove(right);
        let merged = add(cells[left].clone(), right);
        cells[left] = merged;
    }
    cells
}

/// By how much the squared error grows when two cells become one.
fn added_error(left: &Cell, right: &Cell) -> f64 {
    let squares: f64 = left.mean().iter().zip(right.mean()).map(|(a, b)| (a - b) * (a - b)).sum();
    squares * left.count * right.count / (left.count + right.count)
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
    use crate::bounds::Bounds;
    use crate::dataset::{EntityTag, Gather, Span};
    use crate::terms::Unit;

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

    #[test]
    fn what_is_most_alike_becomes_one_cell() {
        let cell = |count: f64, mean: f64| Cell { count, sums: vec![count * mean] };
        let cells = vec![cell(10.0, 100.0), cell(30.0, 0.0), cell(20.0, 3.0), cell(5.0, -50.0)];
        let means = |most| {
            let cells = merge_alike(cells.clone(), most);
            cells.iter().map(|cell| (cell.count, cell.mean()[0])).collect::<Vec<_>>()
        };
        assert_eq!(means(4), means(16));
        assert_eq!(means(3), [(10.0, 100.0), (50.0, 1.2), (5.0, -50.0)]);
        assert_eq!(means(2).len(), 2);
        assert_eq!(means(1)[0].0, 65.0);
    }

    #[test]
    fn cells_are_split_where_their_means_lie_across_the_direction() {
        let bounds = Bounds::uniform(2, -1.0, 1.0).unwrap();
        let data = Dataset::new(&[1.0, 0.5, 0.5, -0.5, -1.0, -1.0], 2, bounds).unwrap();
        let mut splits = Contributions::of(&data, &[0, 0, 1], 2, 1);
        splits.counts = vec![2 * COUNT_STEPS, COUNT_STEPS];
        let scale = Scale { mechanism: crate::terms::Mechanism::Laplace, steps: 1 };
        let scales = StageNoise { count: Some(scale), sum: scale };
        let found = splits.splits(&[false, true], scales, 3.0, &mut Silent).unwrap();
        let max = STEP_MAX as f64;
        assert_eq!(found, [(0.5 + 1.0) * max / 2.0, 0.0]);
    }

    /// No noise at all.
    struct Silent;

    impl Noise for Silent {
        fn add(&mut self, values: Vec<i64>, _: Scale) -> Result<Vec<i64>, NoiseError> {
            Ok(values)
        }
    }

    /// One entity with three observations in cell 0, two in cell 1 and one each in cells 2 and 3.
    fn one_entity(cells_max: usize) -> Contributions {
        let bounds = Bounds::uniform(1, -1.0, 1.0).unwrap();
        let mut gather = Gather::new(bounds, Unit::Entity, Span::ALL);
        gather.begin(EntityTag::of("a")).unwrap();
        for (time, value) in [0.5, 1.0, 0.75, -1.0, -0.5, 0.25, 0.0].into_iter().enumerate() {
            gather.push(time as i64, &[value]).unwrap();
        }
        Contributions::of(&gather.finish(), &[0, 0, 0, 1, 1, 2, 3], 4, cells_max)
    }

    #[test]
    fn a_unit_gives_each_cell_one_mean() {
        let all = one_entity(4);
        assert_eq!(all.counts, [COUNT_STEPS; 4]);
        let max = STEP_MAX;
        assert_eq!(all.sums, [max * 3 / 4, -max * 3 / 4, max / 4, 0]);
    }

    #[test]
    fn a_unit_gives_only_to_the_cells_it_is_in_most() {
        assert_eq!(one_entity(2).counts, [COUNT_STEPS, COUNT_STEPS, 0, 0]);
        assert_eq!(one_entity(3).counts, [COUNT_STEPS, COUNT_STEPS, COUNT_STEPS, 0]);
    }

    #[test]
    fn every_observation_is_a_unit_when_it_shall_be() {
        let data = Dataset::new(&[0.5, 0.5, -0.5], 1, Bounds::uniform(1, -1.0, 1.0).unwrap());
        let all = Contributions::of(&data.unwrap(), &[0, 0, 1], 2, 1);
        assert_eq!(all.counts, [2 * COUNT_STEPS, COUNT_STEPS]);
        assert_eq!(all.sums, [STEP_MAX, -STEP_MAX / 2]);
    }
}
