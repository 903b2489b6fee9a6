//! What walks compare: a byte a value, or 16 bits where bytes do not tell near rows apart.
//!
//! Bytes say where a row is among all rows. Telemetry has many rows that are much nearer to each other than the
//! step of a byte; walks over bytes would have to keep far more of them than are asked for. Whether bytes do is
//! tried on a sample of the rows.

use std::sync::Arc;

use super::{
    byte_codes::{ByteCodes, ByteQuery},
    exact::Exact,
    nearest::Nearest,
    rounded::Rounded,
};
use crate::{collection::Metric, simd::Level};

/// Rows of the sample whose nearest neighbors tell whether bytes do.
const JUDGES: usize = 32;

/// How many nearest neighbors each of them has.
const JUDGED_NEIGHBORS: usize = 10;

/// Among how many of the nearest by bytes these should be: as many as are compared exactly.
const JUDGED_AMONG: usize = 20;

/// Share of them that has to be there.
const FOUND_MIN: f64 = 0.95;

/// Rows that are compared at a time.
const TOGETHER: usize = 1_024;

/// Rows as walks compare them.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Codes {
    /// In the space of the graph.
    Bytes(ByteCodes),
    /// On a grid: the rows, under the metric cosine divided by their norms. Where the index has the same rows for its
    /// answers they are there once.
    Grid(Arc<Rounded>),
}

/// A query in the form that codes are compared with.
#[derive(Clone, Debug)]
pub(super) enum QueryCode {
    Bytes(ByteQuery),
    /// In steps of the grid.
    Grid(Vec<f32>),
}

/// Where scores are put; kept between uses.
#[derive(Clone, Debug, Default)]
pub(super) struct Scores {
    pub(super) values: Vec<f32>,
    dots: Vec<i32>,
}

impl Codes {
    /// Returns how many rows there are.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Bytes(codes) => codes.count(),
            Self::Grid(rows) => rows.count(),
        }
    }

    /// Returns how many bytes of memory the rows take.
    pub(super) fn byte_count(&self) -> usize {
        match self {
            Self::Bytes(codes) => codes.byte_count(),
            Self::Grid(rows) => rows.byte_count(),
        }
    }

    /// Returns some of the rows, as rows of their own.
    pub(super) fn of_rows(&self, rows: &[u32]) -> Self {
        match self {
            Self::Bytes(codes) => Self::Bytes(codes.of_rows(rows)),
            Self::Grid(grid) => Self::Grid(Arc::new(grid.of_rows(rows))),
        }
    }

    /// Asks for a row to be brought near.
    #[inline(always)]
    pub(super) fn prefetch(&self, row: u32) {
        match self {
            Self::Bytes(codes) => codes.prefetch(row),
            Self::Grid(rows) => rows.prefetch(row),
        }
    }

    /// Returns a row as a query, for the distances between rows, and what scores lack of these.
    pub(super) fn as_query(&self, row: u32) -> (QueryCode, f32) {
        match self {
            Self::Bytes(codes) => {
                let (query, bias) = codes.as_query(row);
                (QueryCode::Bytes(query), bias)
            }
            Self::Grid(rows) => (QueryCode::Grid(rows.target_of(row)), 0.0),
        }
    }

    /// Replaces `scores` with the scores of `rows` for `query`; small is near.
    ///
    /// # Panics
    ///
    /// Panics when the query was made for codes of the other kind.
    pub(super) fn scores(
        &self,
        level: Level,
        query: &QueryCode,
        rows: &[u32],
        scores: &mut Scores,
    ) {
        let Scores { values, dots } = scores;
        match (self, query) {
            (Self::Bytes(codes), QueryCode::Bytes(query)) => {
                codes.scores(level, query, rows, dots, values);
            }
            (Self::Grid(grid), QueryCode::Grid(target)) => {
                values.resize(rows.len(), 0.0);
                grid.squares(level, target, rows, values);
            }
            _ => panic!("a query is made for its codes"),
        }
    }

    /// Returns whether the nearest rows of a sample of rows are also near by code.
    pub(super) fn tell_near_rows_apart(&self, level: Level, metric: Metric, exact: &Exact) -> bool {
        let count = exact.count();
        let judges = JUDGES.min(count);
        let (mut wanted, mut found) = (0, 0);
        for judge in (0..judges).map(|judge| (judge * count / judges) as u32) {
            let mut vector = Vec::with_capacity(exact.dim);
            exact.append(judge, &mut vector);
            let query = exact.query(level, metric, &vector);
            let mut nearest = Nearest::new(1 + JUDGED_NEIGHBORS);
            for row in 0..count as u32 {
                nearest.offer(exact.distance(level, &query, row), row);
            }
            let Some((farthest, _)) = nearest.finish().last() else { continue };
            let near = self.nearest(level, judge, 1 + JUDGED_AMONG);
            let near = near.filter(|row| exact.distance(level, &query, *row) <= farthest);
            let most = JUDGED_NEIGHBORS.min(count - 1);
            wanted += most;
            // The row itself is among them.
            found += near.count().saturating_sub(1).min(most);
        }
        found as f64 >= FOUND_MIN * wanted as f64
    }

    /// Returns the `count` rows that are nearest to a row by code.
    fn nearest(&self, level: Level, row: u32, count: usize) -> impl Iterator<Item = u32> {
        let (query, _) = self.as_query(row);
        let (all, mut scores) = (self.count() as u32, Scores::default());
        let mut nearest = Nearest::new(count);
        for first in (0..all).step_by(TOGETHER) {
            let rows: Vec<u32> = (first..all.min(first + TOGETHER as u32)).collect();
            self.scores(level, &query, &rows, &mut scores);
            for (row, score) in rows.into_iter().zip(&scores.values) {
                nearest.offer(f64::from(*score), row);
            }
        }
        nearest.finish().map(|(_, row)| row)
    }
}
