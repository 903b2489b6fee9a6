//! Observations of one entity in a row: times, flat row-major values, and sparse metadata.

use serde::{Deserialize, Serialize};

use crate::observation::{Metadata, Timestamp};

/// Observations of one entity, in time order.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Encoded", into = "Encoded")]
pub struct Rows {
    dim: usize,
    times: Vec<i64>,
    values: Vec<f32>,
    /// Index of a row and what it carries, by rising index.
    metadata: Vec<(u32, Metadata)>,
    metadata_bytes: usize,
}

impl Rows {
    /// Returns no rows of `dim` values.
    #[must_use]
    pub const fn new(dim: usize) -> Self {
        Self { dim, times: Vec::new(), values: Vec::new(), metadata: Vec::new(), metadata_bytes: 0 }
    }

    /// Appends a row of `dim` values.
    pub(crate) fn push(&mut self, time: i64, values: &[f32], metadata: Option<Metadata>) {
        assert_eq!(values.len(), self.dim, "every row has as many values as the collection");
        if let Some(metadata) = metadata {
            let index = u32::try_from(self.times.len()).expect("a row index fits 32 bits");
            self.metadata_bytes += metadata.byte_count();
            self.metadata.push((index, metadata));
        }
        self.times.push(time);
        self.values.extend_from_slice(values);
    }

    /// Appends all of `other`.
    pub(crate) fn append(&mut self, other: &Self) {
        for index in 0..other.count() {
            self.push(other.times[index], other.row(index), other.metadata(index).cloned());
        }
    }

    /// Forgets the rows after the first `count`.
    pub fn truncate(&mut self, count: usize) {
        self.times.truncate(count);
        self.values.truncate(count * self.dim);
        self.metadata.retain(|(row, _)| (*row as usize) < count);
        self.metadata_bytes = self.metadata.iter().map(|(_, carried)| carried.byte_count()).sum();
    }

    /// Forgets all rows and keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.times.clear();
        self.values.clear();
        self.metadata.clear();
        self.metadata_bytes = 0;
    }

    /// Returns how many rows there are.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.times.len()
    }

    /// Returns whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Returns how many values a row has.
    #[must_use]
    pub const fn dim(&self) -> usize {
        self.dim
    }

    /// Returns the time of the row at `index`, when there is one.
    #[must_use]
    pub fn time(&self, index: usize) -> Option<Timestamp> {
        self.times.get(index).copied().map(Timestamp)
    }

    /// Returns the values of the row at `index`.
    ///
    /// # Panics
    ///
    /// Panics when there is no such row.
    #[must_use]
    pub fn row(&self, index: usize) -> &[f32] {
        &self.values[index * self.dim..(index + 1) * self.dim]
    }

    /// Returns what the row at `index` carries.
    #[must_use]
    pub fn metadata(&self, index: usize) -> Option<&Metadata> {
        let index = u32::try_from(index).ok()?;
        let at = self.metadata.binary_search_by_key(&index, |(row, _)| *row).ok()?;
        Some(&self.metadata[at].1)
    }

    /// Returns the rows with their times, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Timestamp, &[f32])> + '_ {
        self.times.iter().copied().map(Timestamp).zip(self.values.chunks_exact(self.dim))
    }

    /// Returns how many bytes times, values and metadata have.
    pub(crate) const fn byte_count(&self) -> usize {
        self.times.len() * (8 + 4 * self.dim) + self.metadata_bytes
    }

    pub(crate) fn times(&self) -> &[i64] {
        &self.times
    }

    pub(crate) fn values(&self) -> &[f32] {
        &self.values
    }

    /// Returns the metadata of rows `from..to`, counted from `from`.
    pub(crate) fn metadata_between(&self, from: usize, to: usize) -> Vec<(u32, Metadata)> {
        let inside = |row: &u32| (from..to).contains(&(*row as usize));
        let moved = |(row, metadata): &(u32, Metadata)| (row - from as u32, metadata.clone());
        self.metadata.iter().filter(|(row, _)| inside(row)).map(moved).collect()
    }
}

/// Rows as a checkpoint keeps them.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Encoded {
    dim: usize,
    metadata: Vec<(u32, Metadata)>,
    #[serde(with = "crate::bytes::times")]
    times: Vec<i64>,
    #[serde(with = "crate::bytes::floats")]
    values: Vec<f32>,
}

impl From<Rows> for Encoded {
    fn from(rows: Rows) -> Self {
        let Rows { dim, times, values, metadata, .. } = rows;
        Self { dim, metadata, times, values }
    }
}

impl TryFrom<Encoded> for Rows {
    type Error = &'static str;

    fn try_from(encoded: Encoded) -> Result<Self, Self::Error> {
        let Encoded { dim, metadata, times, values } = encoded;
        let rising = metadata.is_sorted_by(|(a, _), (b, _)| a < b);
        let inside = metadata.last().is_none_or(|(row, _)| (*row as usize) < times.len());
        if dim == 0 || times.len().checked_mul(dim) != Some(values.len()) || !rising || !inside {
            return Err("rows whose parts have different lengths");
        }
        let metadata_bytes = metadata.iter().map(|(_, carried)| carried.byte_count()).sum();
        Ok(Self { dim, times, values, metadata, metadata_bytes })
    }
}

impl std::fmt::Debug for Rows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("dim", &self.dim)
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}
