//! Rows for the distances of answers: as they were given, in the narrowest form that loses nothing, or rounded.

use std::sync::Arc;

use super::rounded::{Rounded, RoundedQuery};
use crate::{
    collection::Metric,
    simd::{self, Level},
};

/// Rows, flat.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exact {
    pub(super) dim: usize,
    pub(super) values: Values,
}

/// The numbers of all rows, row by row.
#[derive(Clone, PartialEq)]
pub(super) enum Values {
    /// Every value is an integer from 0 to 255.
    Bytes(Vec<u8>),
    /// Any others.
    Floats(Vec<f32>),
    /// Others, not as they were given.
    Rounded(Arc<Rounded>),
}

impl std::fmt::Debug for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Vectors do not belong in a log.
        match self {
            Self::Bytes(values) => write!(f, "{} bytes", values.len()),
            Self::Floats(values) => write!(f, "{} floats", values.len()),
            Self::Rounded(rows) => rows.fmt(f),
        }
    }
}

/// A query, with what its distances need again and again.
#[derive(Clone)]
pub(super) struct ExactQuery<'a> {
    metric: Metric,
    values: &'a [f32],
    norm: f64,
    rounded: Option<RoundedQuery<'a>>,
}

/// Where distances are put; kept between uses.
#[derive(Clone, Debug, Default)]
pub(super) struct Distances {
    pub(super) values: Vec<f64>,
    squares: Vec<f32>,
}

impl Exact {
    /// Returns the rows that `values` holds.
    pub(super) fn new(dim: usize, values: &[f32]) -> Self {
        Self::from_rows(dim, values.len() / dim, |row| &values[row * dim..][..dim])
    }

    /// Returns `count` rows.
    pub(super) fn from_rows<'a>(
        dim: usize,
        count: usize,
        row: impl Fn(usize) -> &'a [f32],
    ) -> Self {
        // Compared by bits: minus zero is no byte, and comes back as it was.
        let is_byte = |value: &f32| value.to_bits() == f32::from(*value as u8).to_bits();
        let values = if (0..count).all(|index| row(index).iter().all(is_byte)) {
            let mut bytes = simd::roomy(count * dim);
            for index in 0..count {
                bytes.extend(row(index).iter().map(|value| *value as u8));
            }
            Values::Bytes(bytes)
        } else {
            let mut floats = simd::roomy(count * dim);
            for index in 0..count {
                floats.extend_from_slice(row(index));
            }
            Values::Floats(floats)
        };
        Self { dim, values }
    }

    /// Returns a query for these rows.
    pub(super) fn query<'a>(
        &self,
        level: Level,
        metric: Metric,
        values: &'a [f32],
    ) -> ExactQuery<'a> {
        let norm = if metric == Metric::Cosine { simd::norm(level, values) } else { 0.0 };
        let rounded = match &self.values {
            Values::Rounded(rounded) => Some(rounded.query(level, metric, values)),
            Values::Bytes(_) | Values::Floats(_) => None,
        };
        ExactQuery { metric, values, norm, rounded }
    }

    /// Returns the rows that `values` holds, in a form that takes any others too.
    pub(super) const fn floats(dim: usize, values: Vec<f32>) -> Self {
        Self { dim, values: Values::Floats(values) }
    }

    /// Appends a row.
    ///
    /// # Panics
    ///
    /// Panics when rows are kept as bytes.
    pub(super) fn push(&mut self, row: &[f32]) {
        self.floats_mut().extend_from_slice(row);
    }

    /// Puts a row in the place of another.
    ///
    /// # Panics
    ///
    /// Panics when rows are kept as bytes, or there is no such row.
    pub(super) fn replace(&mut self, row: u32, values: &[f32]) {
        let start = row as usize * self.dim;
        self.floats_mut()[start..][..values.len()].copy_from_slice(values);
    }

    /// Takes a row out and puts the last one in its place.
    ///
    /// # Panics
    ///
    /// Panics when rows are kept as bytes, or there is no such row.
    pub(super) fn swap_remove(&mut self, row: u32) {
        let (dim, last) = (self.dim, self.count() - 1);
        let values = self.floats_mut();
        values.copy_within(last * dim.., row as usize * dim);
        values.truncate(last * dim);
    }

    /// Returns how many rows there are.
    pub(super) fn count(&self) -> usize {
        match &self.values {
            Values::Bytes(values) => values.len() / self.dim,
            Values::Floats(values) => values.len() / self.dim,
            Values::Rounded(values) => values.count(),
        }
    }

    /// Returns how many bytes of memory the rows take.
    pub(super) fn byte_count(&self) -> usize {
        match &self.values {
            Values::Bytes(values) => values.len(),
            Values::Floats(values) => 4 * values.len(),
            Values::Rounded(values) => values.byte_count(),
        }
    }

    /// Appends the values of a row, as they are kept, to `taken`.
    pub(super) fn append(&self, row: u32, taken: &mut Vec<f32>) {
        let start = row as usize * self.dim;
        match &self.values {
            Values::Bytes(values) => {
                taken.extend(values[start..][..self.dim].iter().map(|value| f32::from(*value)));
            }
            Values::Floats(values) => taken.extend_from_slice(&values[start..][..self.dim]),
            Values::Rounded(values) => values.append(row, taken),
        }
    }

    /// Asks for a row to be brought near.
    pub(super) fn prefetch(&self, row: u32) {
        let start = row as usize * self.dim;
        match &self.values {
            Values::Bytes(values) => simd::prefetch_all(&values[start..][..self.dim]),
            Values::Floats(values) => simd::prefetch_all(&values[start..][..self.dim]),
            Values::Rounded(values) => values.prefetch(row),
        }
    }

    /// Returns the distance of a row as it is kept. Of rows that are not rounded these are the very bits that
    /// [`crate::distance()`] returns.
    ///
    /// # Panics
    ///
    /// Panics when the query was made for rows in another form.
    pub(super) fn distance(&self, level: Level, query: &ExactQuery<'_>, row: u32) -> f64 {
        let start = row as usize * self.dim;
        let (metric, point) = (query.metric, (query.values, query.norm));
        match &self.values {
            Values::Bytes(values) => distance(level, metric, point, &values[start..][..self.dim]),
            Values::Floats(values) => distance(level, metric, point, &values[start..][..self.dim]),
            Values::Rounded(values) => {
                let query = query.rounded.as_ref().expect("a query is made for its rows");
                values.distance(level, query, row)
            }
        }
    }

    /// Replaces `distances` with those of some rows, as [`Self::distance`] has them.
    pub(super) fn distances(
        &self,
        level: Level,
        query: &ExactQuery<'_>,
        rows: &[u32],
        distances: &mut Distances,
    ) {
        let Distances { values, squares } = distances;
        values.clear();
        match (&self.values, &query.rounded) {
            (Values::Rounded(rounded), Some(query)) if query.is_on_grid() => {
                rounded.distances(level, query, rows, (squares, values));
            }
            _ => values.extend(rows.iter().map(|row| self.distance(level, query, *row))),
        }
    }

    /// Returns by how much a distance may differ from that to the row as it was given.
    pub(super) fn slack(&self, query: &ExactQuery<'_>, distance: f64) -> f64 {
        match (&self.values, &query.rounded) {
            (Values::Rounded(values), Some(query)) => values.slack(query, distance),
            _ => 0.0,
        }
    }

    fn floats_mut(&mut self) -> &mut Vec<f32> {
        match &mut self.values {
            Values::Floats(values) => values,
            Values::Bytes(_) | Values::Rounded(_) => panic!("rows that change are kept as floats"),
        }
    }
}

/// Returns the distance of a row to a point, which comes with its squared norm where the metric is cosine.
pub(super) fn distance<T: simd::Element>(
    level: Level,
    metric: Metric,
    (point, point_norm): (&[f32], f64),
    row: &[T],
) -> f64 {
    match metric {
        Metric::Dot => -simd::products(level, point, row),
        Metric::Euclidean => simd::squares(level, point, row).sqrt(),
        Metric::Cosine => {
            let norm = simd::norm(level, row);
            if point_norm == 0.0 || norm == 0.0 {
                return if point_norm == norm { 0.0 } else { 1.0 };
            }
            let dot = simd::products(level, point, row);
            1.0 - (dot / (point_norm.sqrt() * norm.sqrt())).clamp(-1.0, 1.0)
        }
    }
}
