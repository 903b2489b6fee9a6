//! Elastic alignment of two courses: dynamic time warping, exact for short ones and by refinement from
//! coarse to fine for long ones, as FastDTW does it (Salvador and Chan, "Toward accurate dynamic time
//! warping in linear time and space", 2007). Time and memory grow linearly with the length.
//!
//! Where we differ from the paper: the cost of a path is the mean over its steps weighted by how far they
//! go (1 for a step along one course, 2 along both, Sakoe and Chiba's symmetric form, 1978), so that long
//! and short courses compare.

/// Points up to which the alignment is exact.
const EXACT_MAX: usize = 128;

/// How far from the coarse path the fine one may lie, in points.
const RADIUS: usize = 8;

/// An alignment of two courses.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Alignment {
    /// Mean distance of the points that are matched.
    pub(crate) distance: f64,
    /// Which point of one is matched with which of the other, in order, from the first to the last.
    pub(crate) path: Vec<(usize, usize)>,
}

/// Aligns two courses of row-major points of `dim` values each.
///
/// # Panics
///
/// Panics when one of them is empty.
pub(crate) fn align(
    a: &[f64],
    b: &[f64],
    dim: usize,
    distance: impl Fn(&[f64], &[f64]) -> f64,
) -> Alignment {
    assert!(!a.is_empty() && !b.is_empty(), "courses that are aligned have points");
    align_by(a, b, dim, &distance)
}

fn align_by(
    a: &[f64],
    b: &[f64],
    dim: usize,
    distance: &impl Fn(&[f64], &[f64]) -> f64,
) -> Alignment {
    let (rows, columns) = (a.len() / dim, b.len() / dim);
    let window = if rows.min(columns) <= RADIUS + 2 || rows.max(columns) <= EXACT_MAX {
        Window::whole(rows, columns)
    } else {
        let coarse = align_by(&halved(a, dim), &halved(b, dim), dim, distance);
        Window::around(&coarse.path, rows, columns)
    };
    let cost = |i: usize, j: usize| distance(&a[i * dim..][..dim], &b[j * dim..][..dim]);
    warp(&window, cost)
}

/// Returns a course of half the points: the mean of each pair, and the last one as it is when it is left
/// over.
fn halved(course: &[f64], dim: usize) -> Vec<f64> {
    let mut half = Vec::with_capacity(course.len() / 2 + dim);
    for pair in course.chunks(2 * dim) {
        let (first, second) = pair.split_at(dim);
        let second = if second.is_empty() { first } else { second };
        half.extend(first.iter().zip(second).map(|(a, b)| 0.5 * (a + b)));
    }
    half
}

/// For each row, the columns that the path may go through. Both ends never fall from row to row.
struct Window {
    /// First column, and one past the last.
    columns: Vec<(usize, usize)>,
}

impl Window {
    fn whole(rows: usize, columns: usize) -> Self {
        Self { columns: vec![(0, columns); rows] }
    }

    /// Returns the cells within the radius of a path of half the resolution.
    fn around(coarse: &[(usize, usize)], rows: usize, columns: usize) -> Self {
        let mut window = Self { columns: vec![(columns, 0); rows] };
        for &(i, j) in coarse {
            let first = (2 * i).saturating_sub(RADIUS);
            let last = (2 * i + 1 + RADIUS).min(rows - 1);
            let from = (2 * j).saturating_sub(RADIUS);
            let to = (2 * j + 2 + RADIUS).min(columns);
            for row in &mut window.columns[first..=last] {
                *row = (row.0.min(from), row.1.max(to));
            }
        }
        window
    }
}

/// The way into a cell.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Both,
    Row,
    Column,
}

/// Returns the cheapest path from the first to the last cell within the window.
fn warp(window: &Window, cost: impl Fn(usize, usize) -> f64) -> Alignment {
    let mut steps: Vec<Vec<Step>> = Vec::with_capacity(window.columns.len());
    let mut above: (usize, Vec<f64>) = (0, Vec::new());
    for (i, &(from, to)) in window.columns.iter().enumerate() {
        let mut sums = Vec::with_capacity(to - from);
        let mut row = Vec::with_capacity(to - from);
        let at = |j: usize| {
            let index = j.checked_sub(above.0)?;
            above.1.get(index).copied()
        };
        for j in from..to {
            let cost = cost(i, j);
            let left = j.checked_sub(1).filter(|_| j > from).and_then(|_| sums.last().copied());
            let diagonal = j.checked_sub(1).and_then(at);
            let choices = [
                (Step::Both, diagonal.map(|sum: f64| sum + 2.0 * cost)),
                (Step::Row, at(j).map(|sum| sum + cost)),
                (Step::Column, left.map(|sum| sum + cost)),
            ];
            let reachable = choices.into_iter().filter_map(|(step, sum)| Some((step, sum?)));
            let best = reachable.min_by(|a, b| a.1.total_cmp(&b.1));
            let start = if (i, j) == (0, 0) { 2.0 * cost } else { f64::INFINITY };
            let (step, sum) = best.unwrap_or((Step::Both, start));
            row.push(step);
            sums.push(sum);
        }
        steps.push(row);
        above = (from, sums);
    }
    let total = above.1.last().copied().unwrap_or(f64::INFINITY);
    let rows = window.columns.len();
    let columns = window.columns.last().map_or(0, |(_, to)| *to);
    Alignment {
        distance: total / (rows + columns) as f64,
        path: trace(window, &steps, rows - 1, columns - 1),
    }
}

/// Follows the steps back from the last cell.
fn trace(window: &Window, steps: &[Vec<Step>], row: usize, column: usize) -> Vec<(usize, usize)> {
    let (mut i, mut j) = (row, column);
    let mut path = vec![(i, j)];
    while (i, j) != (0, 0) {
        match steps[i][j - window.columns[i].0] {
            Step::Both => (i, j) = (i - 1, j - 1),
            Step::Row => i -= 1,
            Step::Column => j -= 1,
        }
        path.push((i, j));
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn between(a: &[f64], b: &[f64]) -> f64 {
        crate::distance::rms(a, b)
    }

    /// Exact dynamic time warping by its definition.
    fn exact(a: &[f64], b: &[f64]) -> f64 {
        let mut sums = vec![vec![f64::INFINITY; b.len() + 1]; a.len() + 1];
        for i in 1..=a.len() {
            for j in 1..=b.len() {
                let cost = (a[i - 1] - b[j - 1]).abs();
                let before = (sums[i - 1][j - 1] + 2.0 * cost)
                    .min(sums[i - 1][j] + cost)
                    .min(sums[i][j - 1] + cost);
                sums[i][j] = if (i, j) == (1, 1) { 2.0 * cost } else { before };
            }
        }
        sums[a.len()][b.len()] / (a.len() + b.len()) as f64
    }

    fn wave(points: usize, stretch: impl Fn(f64) -> f64) -> Vec<f64> {
        (0..points).map(|i| (stretch(i as f64 / points as f64) * 20.0).sin()).collect()
    }

    #[test]
    fn what_is_stretched_in_time_is_alike_and_what_is_shifted_in_value_is_not() {
        let a = wave(1_000, |t| t);
        let slow_then_fast = wave(1_500, |t| t * t);
        let warped = align(&a, &slow_then_fast, 1, between).distance;
        let rigid: f64 =
            (0..1_000).map(|i| (a[i] - slow_then_fast[i * 3 / 2]).abs()).sum::<f64>() / 1_000.0;
        assert!(warped < 0.02 && rigid > 0.5, "{warped} {rigid}");
        let higher: Vec<f64> = a.iter().map(|value| value + 3.0).collect();
        assert!(align(&a, &higher, 1, between).distance > 1.0);
        assert_eq!(align(&a, &a, 1, between).distance, 0.0);
    }

    #[test]
    fn memory_and_work_grow_linearly() {
        let work = |points: usize| {
            let count = std::cell::Cell::new(0_usize);
            let (a, b) = (wave(points, |t| t), wave(points, |t| t * t));
            align(&a, &b, 1, |a, b| {
                count.set(count.get() + 1);
                between(a, b)
            });
            count.get() as f64 / points as f64
        };
        let (short, long) = (work(2_000), work(16_000));
        assert!(long < 1.5 * short, "{short} and {long} comparisons a point");
    }

    proptest! {
        #[test]
        fn short_courses_are_aligned_exactly(
            a in prop::collection::vec(-5.0_f64..5.0, 1..60),
            b in prop::collection::vec(-5.0_f64..5.0, 1..60),
        ) {
            let alignment = align(&a, &b, 1, between);
            prop_assert!((alignment.distance - exact(&a, &b)).abs() < 1e-9);
            prop_assert!((align(&b, &a, 1, between).distance - alignment.distance).abs() < 1e-9);
        }

        #[test]
        fn every_path_leads_from_the_first_to_the_last_by_single_steps(
            a in prop::collection::vec(-5.0_f64..5.0, 1..700),
            b in prop::collection::vec(-5.0_f64..5.0, 1..700),
        ) {
            let alignment = align(&a, &b, 1, between);
            prop_assert_eq!(alignment.path[0], (0, 0));
            prop_assert_eq!(*alignment.path.last().unwrap(), (a.len() - 1, b.len() - 1));
            for pair in alignment.path.windows(2) {
                let step = (pair[1].0 - pair[0].0, pair[1].1 - pair[0].1);
                prop_assert!(matches!(step, (0, 1) | (1, 0) | (1, 1)), "{:?}", step);
            }
            // Never better than the best.
            prop_assert!(alignment.distance >= exact(&a, &b) - 1e-9);
        }
    }
}
