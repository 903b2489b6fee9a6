//! The private release: observations in, a few noised centroids out.
//!
//! The neighbouring relation adds or removes one unit: an observation, an entity's day, an entity. The
//! whole of what leaves (how many centroids, their values, their supports) is computed from noised
//! values. `docs/privacy.md` derives every sensitivity.

use crate::bounds::{Bounds, DIM_MAX};
use crate::dataset::Dataset;
use crate::epsilon::Epsilon;
use crate::ledger::{Ledger, Paid, Receipt, ReserveError, Stopped};
use crate::noise::{Noise, NoiseError, OpenDp};
use crate::partition::{Cell, leaves, merge_alike, merge_small, probe};
use crate::plan::Plan;
use crate::rho::Rho;
use crate::terms::{Mechanism, Terms};

/// Most centroids in one release: one per leaf of the partition.
pub const TEMPLATES_MAX: usize = 16;

/// A cell is dropped when it holds less than this part of all released cells' noisy counts.
const MASS_MIN: f64 = 0.01;

/// How much to release.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReleaseConfig {
    /// Most centroids, from 1 to 16; those that are most alike are merged. Default 16.
    /// Fewer cost the same: that is done after the noise.
    pub templates_max: usize,
    /// The widest standard deviation of a released centroid's channel, as a part of its range, above
    /// 0 and at most 1. Default 0.08, the drift at which a regime ends. Smaller drops more centroids
    /// and leaves more exact ones, and more units are needed for any.
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
    /// By falling noised support; at least one.
    pub centroids: Vec<ReleasedCentroid>,
    /// The public bounds that the centroids lie in.
    pub bounds: Bounds,
    /// What was promised, and written to the ledger.
    pub terms: Terms,
}

/// One noised centroid.
#[derive(Clone, Debug, PartialEq)]
pub struct ReleasedCentroid {
    /// Within the bounds.
    pub centroid: Vec<f32>,
    /// About how many units know this behaviour, at least 1. A unit may know several.
    pub noised_support: u64,
}

/// Why nothing was released. Unless it says otherwise, the budget named by the receipt stays spent.
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
    /// The data are too few for the promise: no two behaviours would stand out of the noise. Mostly the
    /// first question shows that, and only its cost is spent.
    #[error(
        "about {units_noised} units of {unit}, but {units_needed} are needed at epsilon {epsilon}; \
         {cost} was spent on the count",
        unit = terms.unit(), epsilon = terms.epsilon()
    )]
    TooFew {
        /// What was asked for.
        terms: Terms,
        /// How many there are, noised.
        units_noised: u64,
        /// How many it takes.
        units_needed: u64,
        /// What was spent.
        cost: Epsilon,
    },
    /// The noise could not be drawn.
    #[error(transparent)]
    Noise(#[from] NoiseError),
    /// The ledger could not note how the release ended.
    #[error("the ledger could not note the release")]
    Ledger(#[source] ReserveError),
}

/// Returns how many units a release needs, whose data have `dim` channels: a public number, from the
/// noise and from how exact a centroid has to be. With as many it is refused less than once in a
/// thousand times, if every unit knows two behaviours or each of two is known by half of them.
#[must_use]
pub fn units_needed(terms: &Terms, dim: usize, config: &ReleaseConfig) -> u64 {
    let rho = Rho::within(terms.epsilon(), terms.delta());
    Plan::new(*terms, rho, dim, config.centroid_noise_max).units_needed()
}

/// Releases noised centroids of `data`, once, for the budget that `receipt` stands for.
///
/// The receipt proves that the cost is on disk before the first noise is drawn. A crash from here on
/// wastes budget and releases nothing.
///
/// # Errors
///
/// If the receipt is not for this ledger and these data, if these are too few, or if noise cannot be
/// drawn.
///
/// # Privacy cost
///
/// What the receipt's terms say, for each unit. When the data are too few, mostly a twentieth of it.
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
    check_receipt(ledger, &receipt, data, centroid_noise_max)?;
    let (terms, paid) = (*receipt.terms(), receipt.paid());
    let plan = Plan::new(terms, paid.rho, data.dim(), centroid_noise_max);
    let drawn = draw(noise, data, &plan, paid, terms)?;
    if drawn.centroids.is_empty() {
        let stopped = Stopped {
            paid: drawn.cost,
            units_noised: drawn.units_noised.max(0.0).round() as u64,
            units_needed: plan.units_needed(),
        };
        let Stopped { paid, units_noised, units_needed } = stopped;
        ledger.note_stopped(receipt, stopped).map_err(ReleaseError::Ledger)?;
        return Err(ReleaseError::TooFew { terms, units_noised, units_needed, cost: paid.epsilon });
    }
    let mut centroids = merge_alike(drawn.centroids, templates_max);
    centroids.sort_by(|a, b| b.count.total_cmp(&a.count));
    ledger.note_released(receipt).map_err(ReleaseError::Ledger)?;
    let bounds = data.bounds().clone();
    let centroids = centroids.iter().map(|cell| scaled(cell, &bounds)).collect();
    Ok(Release { centroids, bounds, terms })
}

/// Checks that a receipt is for these data, and from this ledger.
fn check_receipt(
    ledger: &Ledger,
    receipt: &Receipt,
    data: &Dataset,
    centroid_noise_max: f64,
) -> Result<(), ReleaseError> {
    if !(f64::MIN_POSITIVE..=1.0).contains(&centroid_noise_max) {
        return Err(ReleaseError::CentroidNoiseMax { centroid_noise_max });
    }
    if receipt.data() != data.digest() {
        return Err(ReleaseError::OtherData);
    }
    if !ledger.has_issued(receipt) {
        return Err(ReleaseError::OtherLedger);
    }
    Ok(())
}

/// What was drawn, and what it cost. Nothing in it is private.
struct Drawn {
    units_noised: f64,
    /// None when the data are too few.
    centroids: Vec<Cell>,
    cost: Paid,
}

fn draw(
    noise: &mut impl Noise,
    data: &Dataset,
    plan: &Plan,
    paid: Paid,
    terms: Terms,
) -> Result<Drawn, NoiseError> {
    let check = |loss: f64| check_loss(loss, paid, terms);
    assert!(data.dim() <= DIM_MAX, "{} channels", data.dim());
    let probe_loss = plan.probe_loss()?;
    check(probe_loss);
    let units_noised = probe(data, plan.probe(), noise)?;
    let Some(depth) = plan.depth(units_noised) else {
        let cost = paid.at_most(probe_loss, &terms);
        return Ok(Drawn { units_noised, centroids: Vec::new(), cost });
    };
    check(plan.loss(depth)?);
    let cells_max = usize::from(terms.cells_max());
    let cells = leaves(data, cells_max, units_noised, &plan.stages(depth), noise)?;
    Ok(Drawn { units_noised, centroids: chosen(cells, plan.count_min(depth)), cost: paid })
}

/// The last look before noise is drawn: what the plan costs is what was paid.
fn check_loss(loss: f64, paid: Paid, terms: Terms) {
    let limit = match terms.mechanism() {
        Mechanism::Laplace => paid.epsilon.as_f64(),
        Mechanism::Gaussian => paid.rho.as_f64(),
    };
    assert!(loss <= limit, "the plan costs {loss}, the receipt is for {limit}");
}

/// Chooses what is worth releasing. Works on noised values alone.
fn chosen(cells: Vec<Cell>, count_min: f64) -> Vec<Cell> {
    let mut cells = merge_small(cells, count_min);
    let total: f64 = cells.iter().map(|cell| cell.count).sum();
    cells.retain(|cell| cell.count >= MASS_MIN * total);
    cells
}

fn scaled(cell: &Cell, bounds: &Bounds) -> ReleasedCentroid {
    ReleasedCentroid {
        centroid: in_bounds(&cell.mean(), bounds),
        noised_support: cell.count.round() as u64,
    }
}

/// Returns a mean on the grid as values.
fn in_bounds(mean: &[f64], bounds: &Bounds) -> Vec<f32> {
    mean.iter().enumerate().map(|(channel, &steps)| bounds.value_at(channel, steps)).collect()
}

mod segments;

pub use segments::{ReleasedSegment, observations_needed, release_segments};

#[cfg(test)]
mod audit;
#[cfg(test)]
mod segment_tests;
#[cfg(test)]
mod tests;
