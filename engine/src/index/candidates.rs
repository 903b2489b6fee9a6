//! Rows that are rounded: when, and which of them may be among the nearest.

use std::sync::Arc;

use super::{
    CHECKED_ROWS, GraphIndex, Index, Search, VectorError, codes::Codes, exact::Values,
    rounded::Rounded,
};
use crate::collection::Metric;

/// Rows are not rounded when, for more than one in eight of [`CHECKED_ROWS`], rounding could take away more than
/// one part of this many of what tells the nearest of so many rows from the last.
const TOLD_APART_TIMES: f64 = 8.0;
const TOLD_APART_AMONG: usize = 10;

/// A row that may be among the nearest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// The row.
    pub row: u32,
    /// The distance to what is kept of it.
    pub distance: f64,
    /// By how much the distance to the row itself may differ; 0 where rows are kept whole.
    pub slack: f64,
}

impl GraphIndex {
    /// Returns the index with rows that are rounded, unless that does not pay or is not right.
    pub(super) fn rounded(mut self, values: &[f32]) -> Self {
        if self.way.is_none() || matches!(self.exact.values, Values::Bytes(_)) {
            return self;
        }
        let (dim, count) = (self.exact.dim, self.groups.node_count());
        let row = |node: usize| &values[self.groups.first(node as u32) as usize * dim..][..dim];
        let rounded = match self.walked().map(|walked| &walked.codes) {
            // Walks compare the very rows.
            Some(Codes::Grid(rounded)) if self.metric == Metric::Euclidean => Arc::clone(rounded),
            _ => Arc::new(Rounded::new(self.metric, dim, count, row)),
        };
        let (checked, mut told_apart) = (CHECKED_ROWS.min(count), 0);
        for vector in (0..checked).map(|sample| row(sample * count / checked)) {
            let search = Search { vector, k: 1 + TOLD_APART_AMONG, effort: 64, filter: None };
            let query = rounded.query(self.level, self.metric, vector);
            // The row itself is the first.
            if let [_, nearest, .., last] = self.search_unchecked(&search)[..] {
                let slack = rounded.slack(&query, last.distance);
                let is_told = last.distance - nearest.distance >= TOLD_APART_TIMES * slack;
                told_apart += usize::from(is_told);
            }
        }
        if told_apart * 8 >= checked * 7 {
            self.exact.values = Values::Rounded(rounded);
        }
        self
    }

    /// Returns the rows that may be among the `k` nearest of those that the search looks at, by rising distance, ties
    /// by row: where rows are kept whole the nearest, and else also those that are behind by no more than rounding
    /// may have put them. Of several equal rows not more than `k`.
    ///
    /// # Errors
    ///
    /// As [`Index::search`].
    pub fn candidates(&self, search: &Search<'_>) -> Result<Vec<Candidate>, VectorError> {
        let nearest = self.search(search)?;
        let query = self.exact_query(search.vector);
        let candidate =
            |row, distance| Candidate { row, distance, slack: self.exact.slack(&query, distance) };
        let found = nearest.iter().map(|found| candidate(found.row, found.distance));
        let farthest = found.clone().map(|found| found.distance + found.slack);
        let farthest = farthest.fold(f64::NEG_INFINITY, f64::max);
        if !matches!(self.exact.values, Values::Rounded(_)) || nearest.len() < search.k {
            return Ok(found.collect());
        }
        let mut all = Vec::new();
        self.look(search, &mut |distance, row| {
            let candidate = candidate(row, distance);
            if distance - candidate.slack <= farthest {
                all.push(candidate);
            }
        });
        all.sort_by(|a, b| a.distance.total_cmp(&b.distance).then(a.row.cmp(&b.row)));
        Ok(all)
    }
}
