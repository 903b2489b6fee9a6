//! Cells: rows in lists around centroids, for rows whose nearest ones lie in few of these (IVF: Jegou et al. 2011, section
//! 4).
//!
//! All happens along axes that span the directions with the most variance, 64 or fewer. A search compares the vector with the
//! roots, then with the centroids of the nearest roots, then with the rows of the nearest cells, each time by code
//! (`lists.rs`). Cells that are too far away to hold what is near are left out. The nearest by code are for the caller to
//! compare exactly.

use super::{
    exact::Distances,
    graph::Spare,
    lists::{Lists, Near, Scratch},
    partition::Means,
    space::{Axes, Space},
};
use crate::{
    collection::Metric,
    simd::{self, Level},
};

/// Rows of a cell, in the mean.
pub(super) const CELL_ROWS: usize = 80;

/// How many times the cells that are wanted those of the visited roots are, and how many roots are at least visited.
const CENTROID_TIMES: usize = 12;
const ROOTS_MIN: usize = 3;

/// So many cells are visited at most for so much effort: about as many rows are found then as by a walk that keeps so many
/// candidates.
const CELLS_PER_EFFORT: (usize, usize) = (3, 5);

/// With so much effort cells are visited that are farther away than the nearest one by a radius, the larger of both; with `n`
/// times as much by the root of `n` radii. A row of a cell that is farther by some distance is itself away by at least half of
/// that, because it is nearer to its own centroid than to the other.
const EFFORT_PER_RADIUS: usize = 40;

/// For so much effort one row more is compared exactly than is asked for: codes are nearly right.
const EFFORT_PER_ROW: usize = 5;

/// A vector of which so much is off the axes, in parts of the square of the nearest cell's radius, is told apart less by codes,
/// which know nothing of that: one row more is compared exactly for each effort. One in a hundred rows of telemetry is.
const BEYOND_SHARE: f64 = 0.25;

/// Less than this part of a vector's square is off the axes by rounding alone.
const BEYOND_ROUNDED: f64 = 1e-5;

/// A vector whose norm along the axes is this many times that of the farthest row is outside of what cells are for.
const FAR_TIMES: f64 = 2.0;

/// Rows in cells.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cells {
    pub(super) space: Space,
    pub(super) axes: Axes,
    pub(super) centroids: Centroids,
    pub(super) rows: Lists,
    /// The largest norm of a row.
    reach: f64,
    /// How far the rows of each cell are from its centroid, a root mean square.
    radii: Vec<f32>,
    spare: Spare<Box<Visit>>,
}

/// Where cells are.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Centroids {
    /// One list: the roots, each the mean of its centroids.
    roots: Lists,
    /// The centroids of each root.
    pub(super) cells: Lists,
}

/// How much of the cells a search looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// Cells that are visited at most (`nprobe`).
    pub(super) nprobe: usize,
    /// By how many radii cells may be farther away than the nearest one; any when absent.
    pub(super) margin: Option<f32>,
    /// Rows that are to be found.
    pub(super) kept: usize,
    /// As many for a vector of which much is off the axes.
    pub(super) kept_beyond: usize,
}

/// What a search works on; kept between searches.
#[derive(Clone, Debug, Default)]
pub(super) struct Visit {
    scratch: Scratch,
    /// The vector that is asked about, without the mean and then along the axes.
    centered: Vec<f32>,
    pub(super) point: Vec<f32>,
    /// The square of what of it is off the axes.
    beyond: f64,
    roots: Vec<Near>,
    cells: Vec<Near>,
    rows: Vec<Near>,
    /// The nodes that were found, in no order.
    pub(super) found: Vec<u32>,
    /// Their distances.
    pub(super) distances: Distances,
}

impl Centroids {
    /// Returns these centroids: `values` has all, one after the other in the order of their roots, `counts` how many each
    /// root has, at least one.
    pub(super) fn new(width: usize, counts: &[u32], values: &[f32]) -> Self {
        let roots_of =
            (0..).zip(counts).flat_map(|(root, count)| std::iter::repeat_n(root, *count as usize));
        let roots_of: Vec<u32> = roots_of.collect();
        let mut means = Means::new(width, counts.len());
        for (root, value) in roots_of.iter().zip(values.chunks_exact(width)) {
            means.add(*root, value);
        }
        let origins = means.finish();
        let root = |root: usize| &origins[root * width..][..width];
        let roots = Lists::new(width, vec![0.0; width], &vec![0; counts.len()], root);
        let cell = |cell: usize| &values[cell * width..][..width];
        Self { roots, cells: Lists::new(width, origins.clone(), &roots_of, cell) }
    }

    /// Returns how many cells each root has.
    pub(super) fn counts(&self) -> Vec<u32> {
        self.cells.parts().0
    }

    /// Fills `visit` with at least the `wanted` cells nearest to its point, and not many more.
    fn near(&self, level: Level, wanted: usize, visit: &mut Visit) {
        let Visit { scratch, point, roots, cells, .. } = visit;
        let each = self.cells.member_count() / self.cells.count() + 1;
        let visited = (wanted.saturating_mul(CENTROID_TIMES) / each).max(ROOTS_MIN);
        self.roots.narrow(level, point, (&[(0, 0.0)], visited), ALL, (scratch, roots));
        self.cells.prefetch(roots);
        self.cells.narrow(level, point, (roots, wanted), ALL, (scratch, cells));
    }

    /// Returns the cell nearest to the point of a visit.
    pub(super) fn nearest(&self, level: Level, visit: &mut Visit) -> u32 {
        self.near(level, 1, visit);
        let nearest = visit.cells.iter().min_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        nearest.map_or(0, |(cell, _)| *cell)
    }
}

/// Every member passes.
pub(super) const ALL: Option<fn(u32) -> bool> = None;

impl Cells {
    /// Returns rows in these cells.
    pub(super) fn new(
        level: Level,
        (space, axes): (Space, Axes),
        centroids: Centroids,
        rows: Lists,
    ) -> Self {
        let (reach, radii, spare) = (rows.reach(level), rows.radii(), Spare::default());
        Self { space, axes, centroids, rows, reach, radii, spare }
    }

    /// Returns how many bytes of memory the cells take.
    pub(super) fn byte_count(&self) -> usize {
        let Centroids { roots, cells } = &self.centroids;
        let lists = roots.byte_count() + cells.byte_count() + self.rows.byte_count();
        self.space.byte_count() + self.axes.byte_count() + lists + 4 * self.radii.len()
    }

    /// Returns how many cells there are.
    pub(super) const fn count(&self) -> usize {
        self.rows.count()
    }

    /// Returns what a search works on.
    pub(super) fn begin(&self) -> Box<Visit> {
        self.spare.take().unwrap_or_default()
    }

    /// Takes it back.
    pub(super) fn end(&self, visit: Box<Visit>) {
        self.spare.put(visit);
    }

    /// Returns how much a search looks at that is to find `k` rows with so much effort.
    pub(super) fn extent(&self, k: usize, effort: usize) -> Extent {
        let nprobe = effort.saturating_mul(CELLS_PER_EFFORT.0).div_ceil(CELLS_PER_EFFORT.1);
        if nprobe >= self.count() {
            let all = usize::MAX;
            return Extent { nprobe: self.count(), margin: None, kept: all, kept_beyond: all };
        }
        let margin = Some((effort as f32 / EFFORT_PER_RADIUS as f32).sqrt());
        let (kept, kept_beyond) = (k + effort / EFFORT_PER_ROW, k.saturating_add(effort));
        Extent { nprobe, margin, kept, kept_beyond }
    }

    /// Prepares a visit for what is near a vector, and says whether that is one that cells are for: not far outside, and with
    /// a direction where these are compared.
    pub(super) fn turn_to(&self, level: Level, vector: &[f32], visit: &mut Visit) -> bool {
        if self.space.metric == Metric::Cosine && vector.iter().all(|value| *value == 0.0) {
            return false;
        }
        let Visit { centered, point, beyond, .. } = visit;
        self.space.set_along(level, &self.axes, vector, (centered, point));
        let norm = simd::norm(level, point);
        *beyond = simd::norm(level, centered) * (1.0 - BEYOND_ROUNDED) - norm;
        norm <= FAR_TIMES * FAR_TIMES * self.reach * self.reach
    }

    /// Leaves cells that are farther than the nearest by no more than so many radii of the larger of both.
    fn leave_out_far(&self, margin: f32, (nearest, square): Near, cells: &mut Vec<Near>) {
        let (distance, radius) = (square.max(0.0).sqrt(), self.radii[nearest as usize]);
        let mut kept = 0;
        for at in 0..cells.len() {
            // Written in any case, because which ones are near cannot be foreseen.
            let (cell, square) = cells[at];
            cells[kept] = (cell, square);
            let most = distance + margin * radius.max(self.radii[cell as usize]);
            kept += usize::from(square <= most * most);
        }
        cells.truncate(kept);
    }

    /// Fills the visit with the rows nearest by code in the cells nearest to the point it was turned to, of those that pass.
    /// Returns how many passed.
    pub(super) fn visit<P: Fn(u32) -> bool>(
        &self,
        level: Level,
        extent: Extent,
        passes: Option<P>,
        visit: &mut Visit,
    ) -> usize {
        self.centroids.near(level, extent.nprobe, visit);
        let Visit { scratch, point, beyond, cells, rows, found, .. } = visit;
        let mut kept = extent.kept;
        if let Some(nearest) = cells.iter().min_by(|a, b| a.1.total_cmp(&b.1)).copied() {
            if let Some(margin) = extent.margin {
                self.leave_out_far(margin, nearest, cells);
            }
            let radius = f64::from(self.radii[nearest.0 as usize]);
            if *beyond > BEYOND_SHARE * radius * radius {
                kept = extent.kept_beyond;
            }
        }
        self.rows.prefetch(cells);
        let wanted = (&cells[..], kept);
        let count = self.rows.narrow(level, point, wanted, passes, (scratch, rows));
        found.clear();
        found.extend(rows.iter().map(|(node, _)| *node));
        count
    }
}
