//! How rows are put into cells: k-means in two steps on a sample, roots first and then the cells of each, and then rounds
//! over all rows.

use super::{
    cells::{CELL_ROWS, Cells, Centroids, Visit},
    lists::Lists,
    random::Random,
    space::Space,
};
use crate::{
    collection::Metric,
    distance::LANES,
    simd::{self, Level},
};

/// Rows of the sample for each cell.
const SAMPLED_EACH: usize = 16;

/// Rounds of k-means on the sample, and over all rows.
const SAMPLE_ROUNDS: usize = 8;
const ROUNDS: usize = 2;

/// So many times the root of the number of cells there are roots: fewer centroids of each are compared then.
const ROOTS: (usize, usize) = (3, 2);

/// Seed of the first centroids.
const SEED: u64 = 0x00ce_1150;

/// Rows that are put into cells before it is asked again whether to go on: some milliseconds.
const ASKED_EVERY: usize = 4_096;

/// Vectors of so many dimensions are seldom near each other along few axes; graphs project them.
const DIM_END: usize = 192;

/// Returns `count` rows in cells where there can be any: not under the metric dot, where rows that are near by its measure
/// are in no one place, and only where few axes hold nearly all of the variance. `None` when it was not to go on.
pub(super) fn cells<'a>(
    level: Level,
    (space, sample): (&Space, &[Vec<f32>]),
    count: usize,
    row: &dyn Fn(usize) -> &'a [f32],
    going: &dyn Fn() -> bool,
) -> Option<Option<Cells>> {
    if space.metric == Metric::Dot || space.dim >= DIM_END {
        return Some(None);
    }
    let Some(axes) = space.axes(level, sample) else { return Some(None) };
    let width = axes.width(space.dim);
    let point = |node: usize| space.along(level, &axes, row(node));
    let (centroids, rows) = partition(level, width, count, &point, going)?;
    Some(Some(Cells::new(level, (space.clone(), axes), centroids, rows)))
}

/// Returns `count` rows in cells; `None` when it was not to go on.
fn partition(
    level: Level,
    width: usize,
    count: usize,
    point: &dyn Fn(usize) -> Vec<f32>,
    going: &dyn Fn() -> bool,
) -> Option<(Centroids, Lists)> {
    let wanted = (count / CELL_ROWS).max(1);
    let sampled = count.min(wanted * SAMPLED_EACH);
    let mut sample = Vec::with_capacity(sampled * width);
    for row in 0..sampled {
        sample.extend_from_slice(&point(row * count / sampled));
    }
    let mut random = Random::new(SEED);
    let roots =
        split(level, width, &sample, (wanted.isqrt() * ROOTS.0 / ROOTS.1).max(1), &mut random);
    let mut of_roots = vec![Vec::new(); roots.len() / width];
    let (beside, mut sums) = (Beside::new(width, &roots), Vec::new());
    for point in sample.chunks_exact(width) {
        of_roots[beside.nearest(level, point, &mut sums) as usize].extend_from_slice(point);
    }
    let mut values = Vec::new();
    for points in &of_roots {
        let share = (points.len() * wanted / sample.len()).max(1);
        if !going() {
            return None;
        }
        values.extend(split(level, width, points, share, &mut random));
    }
    drop((sample, of_roots));
    for _ in 0..ROUNDS {
        let centroids = grouped(level, width, &roots, &values).0;
        let mut means = Means::new(width, values.len() / width);
        assigned(
            level,
            &centroids,
            count,
            going,
            &mut |_, cell, point| means.add(cell, point),
            point,
        )?;
        values = means.finish();
    }
    let (centroids, values) = grouped(level, width, &roots, &values);
    let mut cells = vec![0; count];
    assigned(level, &centroids, count, going, &mut |row, cell, _| cells[row] = cell, point)?;
    let (centroids, values) = without_empty(&centroids, &values, &mut cells);
    let rows = Lists::new(width, values, &cells, point);
    Some((centroids, rows))
}

/// Returns at most `count` centroids of points.
fn split(
    level: Level,
    width: usize,
    points: &[f32],
    count: usize,
    random: &mut Random,
) -> Vec<f32> {
    let all = points.len() / width;
    let order = random.order(all as u32);
    let first = order.iter().take(count);
    let mut centroids: Vec<f32> =
        first.flat_map(|row| &points[*row as usize * width..][..width]).copied().collect();
    let mut sums = Vec::new();
    for _ in 0..SAMPLE_ROUNDS {
        let beside = Beside::new(width, &centroids);
        let mut means = Means::new(width, centroids.len() / width);
        for point in points.chunks_exact(width) {
            means.add(beside.nearest(level, point, &mut sums), point);
        }
        centroids = means.finish();
    }
    centroids
}

/// Passes each row with its cell and its point; `None` when it was not to go on.
fn assigned(
    level: Level,
    centroids: &Centroids,
    count: usize,
    going: &dyn Fn() -> bool,
    each: &mut dyn FnMut(usize, u32, &[f32]),
    point: &dyn Fn(usize) -> Vec<f32>,
) -> Option<()> {
    let mut visit = Visit::default();
    for row in 0..count {
        if row.is_multiple_of(ASKED_EVERY) && !going() {
            return None;
        }
        visit.point = point(row);
        let cell = centroids.nearest(level, &mut visit);
        each(row, cell, &visit.point);
    }
    Some(())
}

/// Returns centroids in the order of the roots that are nearest to them.
fn grouped(level: Level, width: usize, roots: &[f32], values: &[f32]) -> (Centroids, Vec<f32>) {
    let (beside, mut squares) = (Beside::new(width, roots), Vec::new());
    let mut members = vec![Vec::new(); roots.len() / width];
    for value in values.chunks_exact(width) {
        members[beside.nearest(level, value, &mut squares) as usize].extend_from_slice(value);
    }
    members.retain(|members| !members.is_empty());
    let counts: Vec<u32> = members.iter().map(|members| (members.len() / width) as u32).collect();
    let values = members.concat();
    (Centroids::new(width, &counts, &values), values)
}

/// Returns the centroids without those that have no row.
fn without_empty(
    centroids: &Centroids,
    values: &[f32],
    cells: &mut [u32],
) -> (Centroids, Vec<f32>) {
    let width = centroids.cells.width;
    let mut has_rows = vec![false; values.len() / width];
    cells.iter().for_each(|cell| has_rows[*cell as usize] = true);
    let (mut counts, mut kept, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    let mut all = values.chunks_exact(width).zip(has_rows);
    for count in centroids.counts() {
        let before = kept.len();
        for (value, has_rows) in all.by_ref().take(count as usize) {
            numbers.push((kept.len() / width) as u32);
            if has_rows {
                kept.extend_from_slice(value);
            }
        }
        counts.push(((kept.len() - before) / width) as u32);
    }
    counts.retain(|count| *count > 0);
    cells.iter_mut().for_each(|cell| *cell = numbers[*cell as usize]);
    (Centroids::new(width, &counts, &kept), kept)
}

/// Points that stand eight side by side.
struct Beside(Vec<[f32; LANES]>);

impl Beside {
    /// Returns the points that `values` holds, `width` values each.
    fn new(width: usize, values: &[f32]) -> Self {
        let points: Vec<&[f32]> = values.chunks_exact(width).collect();
        let eights = points.chunks(LANES).flat_map(|points| {
            // What fills up is infinitely far.
            let value =
                |lane: usize, at: usize| points.get(lane).map_or(f32::MAX, |point| point[at]);
            (0..width).map(move |at| std::array::from_fn(|lane| value(lane, at)))
        });
        Self(eights.collect())
    }

    /// Returns which point is the nearest. `squares` has no meaning between uses.
    fn nearest(&self, level: Level, point: &[f32], squares: &mut Vec<[f32; LANES]>) -> u32 {
        squares.clear();
        simd::squares_beside(level, &self.0, point, squares);
        simd::least_at(level, squares).1
    }
}

/// Sums of points, to become means.
pub(super) struct Means {
    width: usize,
    sums: Vec<f64>,
    counts: Vec<u32>,
}

impl Means {
    pub(super) fn new(width: usize, count: usize) -> Self {
        Self { width, sums: vec![0.0; count * width], counts: vec![0; count] }
    }

    pub(super) fn add(&mut self, at: u32, point: &[f32]) {
        self.counts[at as usize] += 1;
        let sums = &mut self.sums[at as usize * self.width..][..self.width];
        for (sum, value) in sums.iter_mut().zip(point) {
            *sum += f64::from(*value);
        }
    }

    /// Returns the means, without those of no points.
    pub(super) fn finish(self) -> Vec<f32> {
        let sums = self.sums.chunks_exact(self.width).zip(&self.counts);
        let present = sums.filter(|(_, count)| **count > 0);
        present
            .flat_map(|(sums, count)| sums.iter().map(move |sum| (sum / f64::from(*count)) as f32))
            .collect()
    }
}
