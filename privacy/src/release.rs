//! The private release: observations in, a few noised centroids out.
//!
//! Event level: the neighbouring relation adds or removes one observation. The whole of what leaves
//! (how many centroids, their values, their supports) is computed from noised values, with pure
//! epsilon differential privacy. `docs/privacy.md` derives every sensitivity.

use serde::{Deserialize, Serialize};

use crate::bounds::{Bounds, DIM_MAX};
use crate::dataset::Dataset;
use crate::epsilon::Epsilon;
use crate::ledger::{Ledger, Receipt, ReserveError};
use crate::noise::{Noise, NoiseError, OpenDp};
use crate::partition::{Cell, leaves, merge_small};
use crate::plan::Plan;

/// Most centroids in one release: one per leaf of the partition.
pub const TEMPLATES_MAX: usize = 16;

/// The least epsilon of a release. Below it no cell of a realistic collection passes its threshold.
pub const EPSILON_MIN: Epsilon = Epsilon::from_nanos(1_000_000);

/// A cell is dropped when it holds less than this part of all released cells' noisy counts.
const MASS_MIN: f64 = 0.01;

/// What one unit of privacy protects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Unit {
    /// One observation. What an entity did over many observations is not hidden.
    Observation,
}

/// How much to release.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReleaseConfig {
    /// Most centroids, from 1 to 16; the ones with the largest noisy support are kept. Default 16.
    /// Fewer cost the same: the choice is made after the noise.
    pub templates_max: usize,
    /// The widest standard deviation of a released centroid's channel, as a part of its range, above
    /// 0 and at most 1. Default 0.08, the drift at which a regime ends. Smaller drops more centroids
    /// and leaves more exact ones.
    pub centroid_noise_max: f64,
}

impl Default for ReleaseConfig {
    fn default() -> Self {
        Self { templates_max: TEMPLATES_MAX, centroid_noise_max: 0.08 }
    }
}

/// What may leave the node.
#[derive(Clone, Debug, PartialEq)]
pub struct Release {
    /// By falling noised support. Empty when no cell passed its threshold: too few observations for
    /// this epsilon, which costs as much as any other answer.
    pub centroids: Vec<ReleasedCentroid>,
    /// The public bounds that the centroids lie in.
    pub bounds: Bounds,
    /// What was written to the ledger for it.
    pub cost: Epsilon,
    /// What it protects.
    pub unit: Unit,
}

/// One noised centroid.
#[derive(Clone, Debug, PartialEq)]
pub struct ReleasedCentroid {
    /// Within the bounds.
    pub centroid: Vec<f32>,
    /// About how many observations it stands for, at least 1.
    pub noised_support: u64,
}

/// Why nothing was released. The budget named by the receipt stays spent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The receipt was made for other observations or bounds.
    #[error("the receipt is for other data")]
    OtherData,
    /// The receipt was made by another ledger.
    #[error("the receipt is from another ledger")]
    OtherLedger,
    /// The number of centroids is out of range.
    #[error("templates_max is {templates_max}, expected 1 to {TEMPLATES_MAX}")]
    TemplatesMax {
        /// What was asked for.
        templates_max: usize,
    },
    /// The centroids' widest noise is out of range.
    #[error("centroid_noise_max is {centroid_noise_max}, expected above 0 and at most 1")]
    CentroidNoiseMax {
        /// What was asked for.
        centroid_noise_max: f64,
    },
    /// The noise could not be drawn.
    #[error(transparent)]
    Noise(#[from] NoiseError),
    /// The ledger could not note that the release was made.
    #[error("the ledger could not note the release")]
    Ledger(#[source] ReserveError),
}

/// Releases noised centroids of `data`, once, for the budget that `receipt` stands for.
///
/// The receipt proves that the cost is on disk before the first noise is drawn. A crash from here on
/// wastes budget and releases nothing.
///
/// # Errors
///
/// If the receipt is not for this ledger and these data, or noise cannot be drawn.
///
/// # Privacy cost
///
/// The receipt's epsilon, with delta 0, for each observation.
pub fn release(
    ledger: &mut Ledger,
    receipt: Receipt,
    data: &Dataset,
    config: &ReleaseConfig,
) -> Result<Release, ReleaseError> {
    release_with(&mut OpenDp, ledger, receipt, data, config)
}

pub(crate) fn release_with(
    noise: &mut impl Noise,
    ledger: &mut Ledger,
    receipt: Receipt,
    data: &Dataset,
    config: &ReleaseConfig,
) -> Result<Release, ReleaseError> {
    let ReleaseConfig { templates_max, centroid_noise_max } = *config;
    if !(1..=TEMPLATES_MAX).contains(&templates_max) {
        return Err(ReleaseError::TemplatesMax { templates_max });
    }
    if !(f64::MIN_POSITIVE..=1.0).contains(&centroid_noise_max) {
        return Err(ReleaseError::CentroidNoiseMax { centroid_noise_max });
    }
    if receipt.data() != data.digest() {
        return Err(ReleaseError::OtherData);
    }
    if !ledger.has_issued(&receipt) {
        return Err(ReleaseError::OtherLedger);
    }
    let plan = Plan::new(receipt.epsilon(), data.dim(), centroid_noise_max);
    assert!(
        data.dim() <= DIM_MAX && plan.loss(data.dim())? <= receipt.epsilon().as_f64(),
        "the plan costs more than the receipt"
    );
    let cells = leaves(data, &plan, noise)?;
    let centroids = centroids(cells, &plan, data.bounds(), templates_max);
    let (cost, unit) = (receipt.epsilon(), receipt.unit());
    ledger.note_released(receipt).map_err(ReleaseError::Ledger)?;
    Ok(Release { centroids, bounds: data.bounds().clone(), cost, unit })
}

/// Chooses and scales what is worth releasing. Works on released values alone.
fn centroids(
    cells: Vec<Cell>,
    plan: &Plan,
    bounds: &Bounds,
    templates_max: usize,
) -> Vec<ReleasedCentroid> {
    let mut cells = merge_small(cells, plan.count_min.max(1.0));
    let total: f64 = cells.iter().map(|cell| cell.count).sum();
    cells.retain(|cell| cell.count >= MASS_MIN * total);
    cells.sort_by(|a, b| b.count.total_cmp(&a.count));
    cells.truncate(templates_max);
    cells
        .iter()
        .map(|cell| ReleasedCentroid {
            centroid: (cell.mean().iter().enumerate())
                .map(|(channel, &steps)| bounds.value_at(channel, steps))
                .collect(),
            noised_support: cell.count.round() as u64,
        })
        .collect()
}

#[cfg(test)]
mod tests;
