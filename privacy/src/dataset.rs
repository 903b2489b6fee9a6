//! Observations that have been checked, bounded and given a digest: all that a release ever sees.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::bounds::{Bounds, BoundsError};

/// Most observations in one release: bounds memory (16 GiB at 4,096 dimensions is the shell's to
/// avoid) and keeps every sum below `2^19 * 2^31`, far inside an `i64`.
pub const OBSERVATIONS_MAX: usize = 1 << 31;

/// Observations on the grid of their bounds.
///
/// Its `Debug` prints sizes alone: the content is private.
pub struct Dataset {
    bounds: Bounds,
    /// Row-major `[count, dim]`, each within half the grid of the midpoint.
    grid: Vec<i32>,
    digest: DataDigest,
}

/// The SHA-256 digest of a dataset and its bounds: equal data need no second release.
///
/// It stays in the local ledger. Whoever can read it can confirm a guess of the whole dataset.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DataDigest(pub [u8; 32]);

/// Why rows are no dataset. Nothing was computed from them.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The rows have another number of channels than the bounds.
    #[error("rows of {dim} channels, but bounds of {bounds}")]
    Dim {
        /// Channels of the rows.
        dim: usize,
        /// Channels of the bounds.
        bounds: usize,
    },
    /// The values do not fill whole rows.
    #[error("{values} values are no whole rows of {dim}")]
    Ragged {
        /// How many values.
        values: usize,
        /// Channels of a row.
        dim: usize,
    },
    /// A value is not finite. Clipping would hide what the caller should have refused.
    #[error("row {row}, channel {channel}: the value is not finite")]
    NotFinite {
        /// Which row, from 0.
        row: usize,
        /// Which channel, from 0.
        channel: usize,
    },
    /// More observations than a release takes.
    #[error("{rows} observations, but at most {OBSERVATIONS_MAX} are taken")]
    TooMany {
        /// How many.
        rows: usize,
    },
    /// The bounds are none.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
}

impl Dataset {
    /// Checks `rows` (row-major `[n, dim]`, finite) and clips them to `bounds`.
    ///
    /// # Errors
    ///
    /// If the shape does not fit, or a value is not finite.
    pub fn new(rows: &[f32], dim: usize, bounds: Bounds) -> Result<Self, DataError> {
        if dim != bounds.dim() {
            return Err(DataError::Dim { dim, bounds: bounds.dim() });
        }
        if !rows.len().is_multiple_of(dim) {
            return Err(DataError::Ragged { values: rows.len(), dim });
        }
        if rows.len() / dim > OBSERVATIONS_MAX {
            return Err(DataError::TooMany { rows: rows.len() / dim });
        }
        if let Some(index) = rows.iter().position(|value| !value.is_finite()) {
            return Err(DataError::NotFinite { row: index / dim, channel: index % dim });
        }
        let grid = rows
            .chunks_exact(dim)
            .flat_map(|row| row.iter().enumerate())
            .map(|(channel, &value)| bounds.to_grid(channel, value))
            .collect();
        let digest = digest_of(rows, &bounds);
        Ok(Self { bounds, grid, digest })
    }

    /// Returns the bounds that the observations were clipped to.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Returns the number of channels.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.bounds.dim()
    }

    /// Returns the digest of the observations as given, and of their bounds.
    #[must_use]
    pub fn digest(&self) -> DataDigest {
        self.digest
    }

    /// Returns the observations on the grid.
    pub(crate) fn grid_rows(&self) -> impl Iterator<Item = &[i32]> {
        self.grid.chunks_exact(self.dim())
    }

    pub(crate) fn count(&self) -> usize {
        self.grid.len() / self.dim()
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset").field("dim", &self.dim()).finish_non_exhaustive()
    }
}

impl fmt::Debug for DataDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataDigest(..)")
    }
}

fn digest_of(rows: &[f32], bounds: &Bounds) -> DataDigest {
    let mut hash = Sha256::new_with_prefix(b"dunlin private dataset 1");
    hash.update((bounds.dim() as u64).to_le_bytes());
    for values in [bounds.lower(), bounds.upper(), rows] {
        for chunk in values.chunks(1024) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
            hash.update(&bytes);
        }
    }
    DataDigest(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(dim: usize) -> Bounds {
        Bounds::uniform(dim, 0.0, 1.0).unwrap()
    }

    #[test]
    fn values_that_are_not_finite_are_refused_before_anything() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let refused = Dataset::new(&[0.1, 0.2, 0.3, odd], 2, unit(2)).unwrap_err();
            assert_eq!(refused, DataError::NotFinite { row: 1, channel: 1 });
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        assert!(matches!(Dataset::new(&[0.0; 3], 2, unit(2)), Err(DataError::Ragged { .. })));
        assert!(matches!(Dataset::new(&[0.0; 3], 3, unit(2)), Err(DataError::Dim { .. })));
        assert!(Dataset::new(&[], 2, unit(2)).is_ok(), "no observations are data too");
    }

    #[test]
    fn values_are_clipped_to_the_bounds() {
        let data = Dataset::new(&[-5.0, 0.5, 7.0], 1, unit(1)).unwrap();
        let rows: Vec<_> = data.grid_rows().map(|row| row[0]).collect();
        assert_eq!(rows, [-(1 << 19), 0, 1 << 19]);
    }

    #[test]
    fn digest_tells_data_and_bounds_apart_and_prints_neither() {
        let data = |rows: &[f32], bounds| Dataset::new(rows, 1, bounds).unwrap();
        let one = data(&[0.1, 0.2], unit(1));
        assert_eq!(one.digest(), data(&[0.1, 0.2], unit(1)).digest());
        assert_ne!(one.digest(), data(&[0.2, 0.1], unit(1)).digest());
        let wider = Bounds::uniform(1, 0.0, 2.0).unwrap();
        assert_ne!(one.digest(), data(&[0.1, 0.2], wider).digest());
        assert_eq!(format!("{one:?} {:?}", one.digest()), "Dataset { dim: 1, .. } DataDigest(..)");
    }
}
