//! Nearest vectors: an immutable index over a set of rows, and a mutable tier in front of it.
//!
//! [`GraphIndex`] answers small sets by comparing every row. From [`GRAPH_NODES_MIN`] distinct rows on it
//! walks a graph over quantized codes, of as many bits as near rows need to be told apart, or looks into the
//! nearest of many cells, and compares exactly what it found, so distances are
//! those of [`crate::distance()`], bit for bit, and only which rows are found is approximate. It also
//! compares every row where that would not pay or not be right: few rows pass the filter, a query is
//! zero or far outside, or the rows cannot be told apart by their codes.
//!
//! Cells are for rows that vary along few directions and whose nearest ones lie in few places, as those of
//! telemetry do: a search goes through some pieces of memory from end to end, where a walk jumps. Images
//! and windows over many observations are walked. Which it is to be is tried when the index is built.
//!
//! Where rows are stored elsewhere too, an index may keep them rounded ([`Form::Rounded`]), in half the memory. Its
//! distances are then off by a little, and [`GraphIndex::candidates`] says by how much at most.
//!
//! [`LiveIndex`] takes inserts, updates and deletes, visible at once, over a `GraphIndex` of older rows.
//!
//! In reading order: `exact.rs` and `rounded.rs` (the rows), `space.rs` (the space that searches look at), `byte_codes.rs`
//! and `codes.rs` (what walks compare), `graph.rs` (the walk), `build.rs` (how the graph is made), `lists.rs` and `cells.rs`
//! (cells, and how a search narrows down to the nearest), `partition.rs` (how these are made), `encoding.rs` (bytes; the
//! page is `docs/formats/index.md`), `candidates.rs` (what rounding asks for), `live.rs`, and `../simd.rs` (the
//! innermost loops).

mod build;
mod byte_codes;
mod candidates;
mod cells;
mod codes;
mod encoding;
mod exact;
mod graph;
mod groups;
mod lists;
mod live;
mod nearest;
mod partition;
pub(crate) mod random;
mod rounded;
mod row_set;
mod space;
#[cfg(test)]
mod tests;

pub use candidates::Candidate;
pub use encoding::{INDEX_VERSION, IndexError};
pub use live::{LiveIndex, LiveMatch, LiveSearch};
pub use row_set::RowSet;

use std::sync::Arc;

use self::{
    byte_codes::{ByteCodes, ByteQuery},
    cells::{ALL, Cells, Extent, Visit},
    codes::{Codes, QueryCode},
    exact::{Exact, ExactQuery, Values},
    graph::{Graph, Spare, Walk},
    groups::Groups,
    nearest::Nearest,
    rounded::Rounded,
    space::Space,
};
use crate::{
    collection::{Dim, Metric},
    simd::{self, Level},
};

/// Distinct rows from which on there is a graph or cells. Below, comparing all takes well under a millisecond.
pub const GRAPH_NODES_MIN: usize = 5_000;

/// Most rows of an index. A node and a flag share 32 bits.
pub const ROWS_MAX: usize = (1 << 31) - 2;

/// The effort that finds the nearest rows for certain, by comparing every one.
pub const EFFORT_EXACT: usize = usize::MAX;

/// A filter that at most one row of this many passes is answered by comparing those rows.
const SCANNED_ONE_OF: usize = 50;

/// Rows that are compared without asking for the share.
const SCANNED_MAX: usize = 1_000;

/// A filtered walk that has met this many nodes for each row that passes gives way to comparing those
/// rows: the filter and the query do not agree.
const MET_PER_PASSING_MAX: usize = 4;

/// By how much more cells are visited when those that were do not have enough rows.
const NPROBE_TIMES: usize = 4;

/// Rows that a new graph has to find: all but one in eight, or it is not used.
const CHECKED_ROWS: usize = 64;

/// Rows of the sample that tell whether cells find what is near, how many neighbors of each are looked for with which effort,
/// and the share of them that has to be found.
const NEIGHBORS_JUDGES: usize = 32;
const NEIGHBORS: usize = 10;
const NEIGHBORS_EFFORT: usize = 20;
const NEIGHBORS_FOUND_MIN: f64 = 0.95;

/// Under the metric dot a walk keeps this many times the candidates: rows with large dot products are
/// at the rim of the set, where neighbors are few.
const DOT_EFFORT_TIMES: usize = 2;

/// A query whose squared norm is this many times that of the farthest row is not told apart by codes.
const FAR_TIMES: f32 = 256.0;

/// A query that is so many steps away in any dimension is not told apart on a grid, which has 65,535.
const FAR_STEPS: f32 = 16.0 * 65_535.0;

/// A question for the rows nearest to a vector.
#[derive(Clone, Copy)]
pub struct Search<'a> {
    /// The vector: of the index's dimension, finite.
    pub vector: &'a [f32],
    /// How many rows to return; fewer when there are fewer.
    pub k: usize,
    /// How many candidates a walk keeps (`ef_search`), at least `k`; in cells about as much is found for it. A higher
    /// value finds more of the nearest rows and takes longer; 2 to 4 times `k` is usual. [`EFFORT_EXACT`] compares
    /// every row.
    pub effort: usize,
    /// Only these rows.
    pub filter: Option<&'a RowSet>,
}

impl std::fmt::Debug for Search<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Queries are the user's and do not belong in a log.
        f.debug_struct("Search")
            .field("dim", &self.vector.len())
            .field("k", &self.k)
            .field("effort", &self.effort)
            .finish_non_exhaustive()
    }
}

/// A row near the vector that was asked about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// The row's number.
    pub row: u32,
    /// Its distance in the index's metric, small is near: to what is kept of the row.
    pub distance: f64,
}

/// How the rows of an index are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// As they were given.
    #[default]
    Whole,
    /// Rounded to 16 bits a value, where there is a graph, that saves memory, and the rows can still be told apart.
    Rounded,
}

/// Why vectors or a question are not usable. Nothing changed; the same again will fail again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VectorError {
    /// The values are not whole rows, or a vector has another dimension.
    #[error("{found} values are no vectors of dimension {expected}")]
    Length {
        /// How many values were given.
        found: usize,
        /// The dimension.
        expected: usize,
    },
    /// A value is infinite or not a number.
    #[error("value {position} is not finite")]
    NotFinite {
        /// Where it is.
        position: usize,
    },
    /// More rows than [`ROWS_MAX`].
    #[error("{rows} rows are more than {ROWS_MAX}")]
    Rows {
        /// How many there are.
        rows: usize,
    },
}

/// An immutable index over the rows 0 to `count`.
pub trait Index {
    /// Returns the dimension of rows and queries.
    fn dim(&self) -> usize;

    /// Returns how many rows there are.
    fn count(&self) -> usize;

    /// Returns the rows nearest to a vector, by rising distance, ties by row.
    ///
    /// # Errors
    ///
    /// Fails when the vector has another dimension or is not finite.
    fn search(&self, search: &Search<'_>) -> Result<Vec<Match>, VectorError>;
}

/// Compares every row: always right, and what the others are measured by.
#[derive(Clone, Debug)]
pub struct ExactIndex {
    level: Level,
    metric: Metric,
    exact: Exact,
}

impl ExactIndex {
    /// Returns an index over `values`: row-major, `dim` values a row, finite.
    ///
    /// # Errors
    ///
    /// Fails when the values are not rows of such vectors.
    pub fn new(metric: Metric, dim: Dim, values: &[f32]) -> Result<Self, VectorError> {
        let dim = dim.get();
        check_rows(dim, values)?;
        Ok(Self { level: Level::detect(), metric, exact: Exact::new(dim, values) })
    }
}

impl Index for ExactIndex {
    fn dim(&self) -> usize {
        self.exact.dim
    }

    fn count(&self) -> usize {
        self.exact.count()
    }

    fn search(&self, search: &Search<'_>) -> Result<Vec<Match>, VectorError> {
        check_vector(self.dim(), search.vector)?;
        let query = self.exact.query(self.level, self.metric, search.vector);
        let mut nearest = Nearest::new(search.k.min(self.count()));
        for row in 0..self.count() as u32 {
            if search.filter.is_none_or(|filter| filter.contains(row)) {
                nearest.offer(self.exact.distance(self.level, &query, row), row);
            }
        }
        Ok(nearest.finish().map(|(distance, row)| Match { row, distance }).collect())
    }
}

/// Walks a graph over quantized codes, or looks into cells, and compares exactly what it finds.
///
/// The same rows give the same index, byte for byte, on every machine.
#[derive(Clone, PartialEq)]
pub struct GraphIndex {
    level: Level,
    metric: Metric,
    /// Distinct rows, which are the nodes.
    exact: Exact,
    /// Which rows each node stands for.
    groups: Groups,
    /// Without one every row is compared.
    way: Option<Way>,
}

/// How searches get near.
#[derive(Clone, Debug, PartialEq)]
enum Way {
    Graph(Box<Walked>),
    Cells(Box<Cells>),
}

/// Which way is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// Cells where these find what is near, else a graph.
    Best,
    #[cfg(test)]
    Graph,
    /// Cells wherever there can be any.
    #[cfg(test)]
    Cells,
}

/// What a walk needs.
#[derive(Clone, Debug, PartialEq)]
struct Walked {
    space: Space,
    codes: Codes,
    graph: Graph,
    /// The largest bias of a row, of rows in bytes.
    reach: f32,
    spare: Spare<Walk>,
}

impl std::fmt::Debug for GraphIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GraphIndex")
            .field("metric", &self.metric)
            .field("dim", &self.exact.dim)
            .field("count", &self.groups.row_count())
            .field("is_approximate", &self.is_approximate())
            .finish_non_exhaustive()
    }
}

impl GraphIndex {
    /// Returns whether searches look at a part of the rows, by a graph or by cells; else every row is compared.
    #[must_use]
    pub const fn is_approximate(&self) -> bool {
        self.way.is_some()
    }

    /// Returns the index over `values`: row-major, `dim` values a row, finite. Takes about 0.1 ms a row
    /// at 784 dimensions when there is a graph.
    ///
    /// # Errors
    ///
    /// Fails when the values are not rows of such vectors.
    pub fn build(metric: Metric, dim: Dim, values: &[f32]) -> Result<Self, VectorError> {
        let built = Self::build_while(metric, dim, Form::Whole, values, &|| true)?;
        Ok(built.expect("nobody said that it should not go on"))
    }

    /// As [`Self::build`], for as long as `going` says so; `None` when it did not to the end.
    ///
    /// # Errors
    ///
    /// As [`Self::build`].
    pub fn build_while(
        metric: Metric,
        dim: Dim,
        form: Form,
        values: &[f32],
        going: &dyn Fn() -> bool,
    ) -> Result<Option<Self>, VectorError> {
        let plan = (GRAPH_NODES_MIN, Wanted::Best);
        let built = Self::build_with(Level::detect(), plan, (metric, dim), values, going)?;
        Ok(built.map(|index| if form == Form::Rounded { index.rounded(values) } else { index }))
    }

    /// Returns the index of no rows.
    #[must_use]
    pub fn empty(metric: Metric, dim: Dim) -> Self {
        let exact = Exact::new(dim.get(), &[]);
        let groups = Groups::of_distinct_rows(0);
        Self { level: Level::detect(), metric, exact, groups, way: None }
    }

    /// Returns how many bytes of memory the index takes.
    #[must_use]
    pub fn byte_count(&self) -> usize {
        let way = match &self.way {
            Some(Way::Graph(walked)) => {
                let codes = if self.has_codes_once() { 0 } else { walked.codes.byte_count() };
                walked.space.byte_count() + codes + walked.graph.byte_count()
            }
            Some(Way::Cells(cells)) => cells.byte_count(),
            None => 0,
        };
        self.exact.byte_count() + self.groups.byte_count() + way
    }

    /// Returns whether walks compare the very rows that answers are made of.
    fn has_codes_once(&self) -> bool {
        match (self.walked().map(|walked| &walked.codes), &self.exact.values) {
            (Some(Codes::Grid(codes)), Values::Rounded(rows)) => Arc::ptr_eq(codes, rows),
            _ => false,
        }
    }

    /// Returns what walks need, where there is a graph.
    const fn walked(&self) -> Option<&Walked> {
        match &self.way {
            Some(Way::Graph(walked)) => Some(walked),
            Some(Way::Cells(_)) | None => None,
        }
    }

    /// Returns whether the rows are of this dimension and compared in this metric.
    pub(crate) fn is_over(&self, metric: Metric, dim: Dim) -> bool {
        self.metric == metric && self.exact.dim == dim.get()
    }

    /// Appends the values of a row, as they are kept.
    pub(crate) fn append_row(&self, row: u32, values: &mut Vec<f32>) {
        self.exact.append(self.groups.node_of(row), values);
    }

    fn build_with(
        level: Level,
        (nodes_min, wanted): (usize, Wanted),
        (metric, dim): (Metric, Dim),
        values: &[f32],
        going: &dyn Fn() -> bool,
    ) -> Result<Option<Self>, VectorError> {
        let dim = dim.get();
        check_rows(dim, values)?;
        let groups = Groups::of_equal_rows(dim, values);
        let row = |node: usize| {
            let row = groups.first(node as u32) as usize;
            &values[row * dim..][..dim]
        };
        let count = groups.node_count();
        let exact = Exact::from_rows(dim, count, row);
        if count < nodes_min.max(2) {
            return Ok(Some(Self { level, metric, exact, groups, way: None }));
        }
        let (space, sample) = Space::fit(level, metric, dim, count, row);
        let cells = match wanted {
            #[cfg(test)]
            Wanted::Graph => Some(None),
            _ => partition::cells(level, (&space, &sample), count, &row, going),
        };
        let Some(cells) = cells else { return Ok(None) };
        let way = cells.map(|cells| Way::Cells(Box::new(cells)));
        let mut index = Self { level, metric, exact, groups, way };
        if index.way.is_none() || (wanted == Wanted::Best && !index.finds_neighbors()) {
            let groups = &index.groups;
            let row = |node: usize| &values[groups.first(node as u32) as usize * dim..][..dim];
            let space = space.projected(level, &sample);
            let codes = coded(level, &space, &index.exact, row);
            let Some(graph) = build::build(level, &codes, going) else { return Ok(None) };
            index.way = Some(Way::Graph(Box::new(Walked::new(space, codes, graph))));
        }
        if !index.finds_its_rows() {
            index.way = None;
        }
        Ok(Some(index))
    }

    /// Returns whether a search in cells with little effort finds the nearest rows of a sample of rows.
    fn finds_neighbors(&self) -> bool {
        let count = self.groups.node_count();
        let judges = NEIGHBORS_JUDGES.min(count);
        let (mut found, mut wanted) = (0, 0);
        for judge in (0..judges).map(|judge| (judge * count / judges) as u32) {
            let mut vector = Vec::with_capacity(self.exact.dim);
            self.exact.append(judge, &mut vector);
            // The row itself is the first.
            let search =
                Search { vector: &vector, k: 1 + NEIGHBORS, effort: EFFORT_EXACT, filter: None };
            let Some(farthest) = self.search_unchecked(&search).last().map(|row| row.distance)
            else {
                continue;
            };
            let near = self.search_unchecked(&Search { effort: NEIGHBORS_EFFORT, ..search });
            let most = NEIGHBORS.min(self.groups.row_count() - 1);
            wanted += most;
            found += near
                .iter()
                .filter(|row| row.distance <= farthest)
                .count()
                .saturating_sub(1)
                .min(most);
        }
        found as f64 >= NEIGHBORS_FOUND_MIN * wanted as f64
    }

    /// Returns whether searches find a sample of the rows. It does not where one row is so large that the
    /// others have no precision left.
    fn finds_its_rows(&self) -> bool {
        if self.way.is_none() {
            return true;
        }
        let (count, checked) =
            (self.groups.node_count(), CHECKED_ROWS.min(self.groups.node_count()));
        let found = (0..checked).filter(|sample| {
            let node = sample * count / checked;
            let mut vector = Vec::with_capacity(self.exact.dim);
            self.exact.append(node as u32, &mut vector);
            let search = Search { vector: &vector, k: 1, effort: 64, filter: None };
            let wanted = if self.metric == Metric::Dot {
                // A row need not be the one with the largest dot product with itself.
                let mut least = f64::INFINITY;
                self.scan(&search, 1, &mut |distance, _| least = least.min(distance));
                least
            } else {
                self.exact.distance(self.level, &self.exact_query(&vector), node as u32)
            };
            self.search_unchecked(&search).first().is_some_and(|nearest| nearest.distance <= wanted)
        });
        found.count() * 8 >= checked * 7
    }

    fn search_unchecked(&self, search: &Search<'_>) -> Vec<Match> {
        let mut nearest = Nearest::new(search.k.min(self.groups.row_count()));
        self.look(search, &mut |distance, row| nearest.offer(distance, row));
        nearest.finish().map(|(distance, row)| Match { row, distance }).collect()
    }

    fn exact_query<'a>(&self, vector: &'a [f32]) -> ExactQuery<'a> {
        self.exact.query(self.level, self.metric, vector)
    }

    /// Passes the rows that a search looks at, of several equal ones not more than it is to find, with the
    /// distances to what is kept of them.
    fn look(&self, search: &Search<'_>, offer: &mut impl FnMut(f64, u32)) {
        let k = search.k.min(self.groups.row_count());
        if k == 0 {
            return;
        }
        let is_found = match self.way.as_ref().filter(|_| search.effort != EFFORT_EXACT) {
            Some(Way::Graph(walked)) => self.look_along(walked, (search, k), offer),
            Some(Way::Cells(cells)) => self.look_into(cells, (search, k), offer),
            None => false,
        };
        if !is_found {
            self.scan(search, k, offer);
        }
    }

    /// Looks along the graph, and says whether that is right for the search; nothing was passed otherwise.
    fn look_along(
        &self,
        walked: &Walked,
        (search, k): (&Search<'_>, usize),
        offer: &mut impl FnMut(f64, u32),
    ) -> bool {
        let Some(code) = walked.query(self.level, search.vector) else { return false };
        let times = if self.metric == Metric::Dot { DOT_EFFORT_TIMES } else { 1 };
        let ef = search.effort.saturating_mul(times).max(k);
        match search.filter {
            None => {
                self.walk(walked, &code, search.vector, (k, ef), offer);
                true
            }
            Some(filter) => {
                self.is_wide(filter)
                    && self.walk_filtered(walked, &code, (search.vector, filter), (k, ef), offer)
            }
        }
    }

    /// Looks into the nearest cells, and says whether that is right for the search; nothing was passed otherwise.
    fn look_into(
        &self,
        cells: &Cells,
        (search, k): (&Search<'_>, usize),
        offer: &mut impl FnMut(f64, u32),
    ) -> bool {
        if search.filter.is_some_and(|filter| !self.is_wide(filter)) {
            return false;
        }
        let extent = cells.extent(k, search.effort.max(k));
        let mut visit = cells.begin();
        let is_found = cells.turn_to(self.level, search.vector, &mut visit)
            && match search.filter {
                None => {
                    self.visit(cells, extent, &mut visit);
                    true
                }
                Some(filter) => self.visit_filtered(cells, extent, (filter, &mut visit)),
            };
        if is_found {
            self.offer_found(&mut visit, (search, k), offer);
        }
        cells.end(visit);
        is_found
    }

    /// Returns whether a filter leaves so many rows that a walk pays.
    fn is_wide(&self, filter: &RowSet) -> bool {
        filter.count() > SCANNED_MAX.max(self.groups.row_count() / SCANNED_ONE_OF)
    }

    fn walk(
        &self,
        walked: &Walked,
        code: &QueryCode,
        vector: &[f32],
        (k, ef): (usize, usize),
        offer: &mut impl FnMut(f64, u32),
    ) {
        let ef = ef.min(2 * self.groups.node_count());
        let mut walk = walked.begin(ef);
        walked.graph.walk(self.level, &walked.codes, code, &mut walk);
        let found = walk.pool.nearest().take(compared(k, ef));
        found.clone().for_each(|(_, node)| self.exact.prefetch(node));
        let query = self.exact_query(vector);
        for (_, node) in found {
            let distance = self.exact.distance(self.level, &query, node);
            self.groups.rows(node).take(k).for_each(|row| offer(distance, row));
        }
        walked.spare.put(walk);
    }

    /// Walks, and says whether it was worth it; nothing was offered otherwise.
    fn walk_filtered(
        &self,
        walked: &Walked,
        code: &QueryCode,
        (vector, filter): (&[f32], &RowSet),
        (k, ef): (usize, usize),
        offer: &mut impl FnMut(f64, u32),
    ) -> bool {
        let passes = |node| self.groups.rows(node).any(|row| filter.contains(row));
        let met_max = filter.count().saturating_mul(MET_PER_PASSING_MAX);
        let ef = ef.min(2 * self.groups.node_count());
        let mut walk = walked.begin(ef);
        let graph = &walked.graph;
        if !graph.walk_filtered(self.level, &walked.codes, code, &mut walk, (passes, met_max)) {
            return false;
        }
        let query = self.exact_query(vector);
        for (_, node) in walk.pool.nearest().take(compared(k, ef)) {
            let distance = self.exact.distance(self.level, &query, node);
            let passing = self.groups.rows(node).filter(|row| filter.contains(*row));
            passing.take(k).for_each(|row| offer(distance, row));
        }
        walked.spare.put(walk);
        true
    }

    /// Visits cells until there are enough rows, or all were visited.
    fn visit(&self, cells: &Cells, mut extent: Extent, visit: &mut Visit) {
        loop {
            cells.visit(self.level, extent, ALL, visit);
            if visit.found.len() >= extent.kept || extent.nprobe >= cells.count() {
                return;
            }
            extent = Extent {
                nprobe: extent.nprobe.saturating_mul(NPROBE_TIMES),
                margin: None,
                ..extent
            };
        }
    }

    /// Visits cells until as many rows passed as cells would have in the mean, and says whether it was worth it.
    fn visit_filtered(
        &self,
        cells: &Cells,
        mut extent: Extent,
        (filter, visit): (&RowSet, &mut Visit),
    ) -> bool {
        let passes = |node| self.groups.rows(node).any(|row| filter.contains(row));
        // As many as are left where some are too far away.
        let nprobe = extent.nprobe.div_ceil(2);
        let wanted = nprobe.saturating_mul(cells::CELL_ROWS).max(extent.kept);
        let met_max = filter.count().saturating_mul(MET_PER_PASSING_MAX);
        let times = self.groups.row_count() / filter.count().max(1) + 1;
        extent = Extent { nprobe: extent.nprobe.saturating_mul(times), margin: None, ..extent };
        loop {
            let count = cells.visit(self.level, extent, Some(passes), visit);
            if count >= wanted || extent.nprobe >= cells.count() {
                return true;
            }
            extent.nprobe = extent.nprobe.saturating_mul(NPROBE_TIMES);
            if extent.nprobe.saturating_mul(cells::CELL_ROWS) > met_max {
                return false;
            }
        }
    }

    /// Passes the rows that a visit found with their distances.
    fn offer_found(
        &self,
        visit: &mut Visit,
        (search, k): (&Search<'_>, usize),
        offer: &mut impl FnMut(f64, u32),
    ) {
        let Visit { found, distances, .. } = visit;
        found.iter().for_each(|node| self.exact.prefetch(*node));
        // Made while the rows are on their way.
        let query = self.exact_query(search.vector);
        self.exact.distances(self.level, &query, found, distances);
        for (node, distance) in found.iter().zip(&distances.values) {
            let rows = self.groups.rows(*node);
            let filter = search.filter;
            let passing = rows.filter(|row| filter.is_none_or(|filter| filter.contains(*row)));
            passing.take(k).for_each(|row| offer(*distance, row));
        }
    }

    /// Passes all rows, or all that pass the filter.
    fn scan(&self, search: &Search<'_>, k: usize, offer: &mut impl FnMut(f64, u32)) {
        let query = self.exact_query(search.vector);
        if let Some(filter) = search.filter {
            for row in filter.iter().take_while(|row| (*row as usize) < self.groups.row_count()) {
                let node = self.groups.node_of(row);
                offer(self.exact.distance(self.level, &query, node), row);
            }
            return;
        }
        for node in 0..self.groups.node_count() as u32 {
            let distance = self.exact.distance(self.level, &query, node);
            self.groups.rows(node).take(k).for_each(|row| offer(distance, row));
        }
    }
}

impl Index for GraphIndex {
    fn dim(&self) -> usize {
        self.exact.dim
    }

    fn count(&self) -> usize {
        self.groups.row_count()
    }

    fn search(&self, search: &Search<'_>) -> Result<Vec<Match>, VectorError> {
        check_vector(self.exact.dim, search.vector)?;
        Ok(self.search_unchecked(search))
    }
}

impl Walked {
    fn new(space: Space, codes: Codes, graph: Graph) -> Self {
        let reach = match &codes {
            Codes::Bytes(codes) => codes.reach(),
            Codes::Grid(_) => 0.0,
        };
        Self { space, codes, graph, reach, spare: Spare::default() }
    }

    /// Returns a walk that looks for the `ef` nearest.
    fn begin(&self, ef: usize) -> Walk {
        let mut walk = self.spare.take().unwrap_or_else(|| Walk::new(self.graph.count(), ef));
        walk.look_for(ef);
        walk
    }

    /// Returns the code of a query, unless codes cannot tell rows apart for it.
    fn query(&self, level: Level, vector: &[f32]) -> Option<QueryCode> {
        if self.space.metric != Metric::Euclidean && vector.iter().all(|value| *value == 0.0) {
            return None;
        }
        match &self.codes {
            Codes::Bytes(_) => {
                let (values, weight) = self.space.query(level, vector);
                let norm = simd::norm(level, &values) as f32;
                let is_near = weight == 0.0 || norm <= FAR_TIMES * self.reach;
                (is_near && norm.is_finite())
                    .then(|| QueryCode::Bytes(ByteQuery::new(&values, weight)))
            }
            Codes::Grid(rows) => {
                let target = rows.target(level, &self.space.on_grid(level, vector));
                let is_near = target.iter().all(|steps| steps.abs() <= FAR_STEPS);
                is_near.then_some(QueryCode::Grid(target))
            }
        }
    }
}

/// Returns rows as walks compare them.
fn coded<'a>(
    level: Level,
    space: &Space,
    exact: &Exact,
    row: impl Fn(usize) -> &'a [f32],
) -> Codes {
    let mut bytes = ByteCodes::new(space.dim_out(), exact.count());
    for node in 0..exact.count() {
        let (values, bias) = space.row(level, row(node));
        bytes.push(&values, bias);
    }
    let bytes = Codes::Bytes(bytes);
    // Rows with large dot products are seldom near each other.
    let is_enough = space.metric == Metric::Dot
        || space.is_projected()
        || bytes.tell_near_rows_apart(level, space.metric, exact);
    if is_enough {
        return bytes;
    }
    let on_grid = |node| space.on_grid(level, row(node));
    let grid = Rounded::new(Metric::Euclidean, exact.dim, exact.count(), on_grid);
    // Multiples of one vector have all one direction.
    if grid.width() == 0 { bytes } else { Codes::Grid(Arc::new(grid)) }
}

/// Returns how many of the `ef` nearest by code are compared exactly: the order of codes is nearly right,
/// so the farther half of a long list holds few of the nearest.
const fn compared(k: usize, ef: usize) -> usize {
    let wanted = k.saturating_add(ef / 2);
    if wanted < ef { wanted } else { ef }
}

fn check_rows(dim: usize, values: &[f32]) -> Result<(), VectorError> {
    if !values.len().is_multiple_of(dim) {
        return Err(VectorError::Length { found: values.len(), expected: dim });
    }
    if values.len() / dim > ROWS_MAX {
        return Err(VectorError::Rows { rows: values.len() / dim });
    }
    check_finite(values)
}

fn check_vector(dim: usize, vector: &[f32]) -> Result<(), VectorError> {
    if vector.len() != dim {
        return Err(VectorError::Length { found: vector.len(), expected: dim });
    }
    check_finite(vector)
}

fn check_finite(values: &[f32]) -> Result<(), VectorError> {
    // All at once first, without a way out of the loop: that is compiled to vector instructions.
    if !values.iter().fold(false, |any, value| any | !value.is_finite()) {
        return Ok(());
    }
    match values.iter().position(|value| !value.is_finite()) {
        Some(position) => Err(VectorError::NotFinite { position }),
        None => Ok(()),
    }
}
