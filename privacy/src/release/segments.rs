//! Noised segments: what each entity did in one window of time, as a noised count and a noised mean.
//!
//! The window is the span of the data, and the entities are those that were gathered: both are taken for
//! public, so nothing about the partition has to be hidden or paid for. Every observation is of one entity
//! and in one window, so it takes part in one count and one mean, and a row of windows costs each
//! observation what one window does (parallel composition). `docs/privacy.md` derives the sensitivities.

use crate::bounds::Bounds;
use crate::dataset::{Dataset, EntityTag};
use crate::ledger::{Ledger, Receipt};
use crate::noise::{Noise, OpenDp};
use crate::partition::Cell;
use crate::plan::{COUNT_STEPS, Plan};
use crate::rho::Rho;
use crate::terms::Terms;

use super::{ReleaseError, check_loss, check_receipt, in_bounds};

/// What one entity did in the window.
#[derive(Clone, Debug, PartialEq)]
pub struct ReleasedSegment {
    /// Whose: the shell puts a pseudonym in its place.
    pub entity: EntityTag,
    /// The noised mean, within the bounds.
    pub centroid: Vec<f32>,
    /// About how many observations it is the mean of, at least 1.
    pub noised_count: u64,
}

/// Returns how many observations a window needs, noised, for its mean to be released: a public number, from
/// the noise and from how exact a mean has to be.
#[must_use]
pub fn observations_needed(terms: &Terms, dim: usize, centroid_noise_max: f64) -> u64 {
    let rho = Rho::within(terms.epsilon(), terms.delta());
    let plan = Plan::new(*terms, rho, dim, centroid_noise_max);
    let (count, sum) = plan.single();
    plan.count_min_with(count, sum).ceil() as u64
}

/// Releases a noised mean for each entity of `data` that has enough observations, once, for the budget that
/// `receipt` stands for. `data` come of [`Gather::by_entity`](crate::Gather::by_entity), and their span is
/// the window. `centroid_noise_max` is the widest standard deviation of a mean's channel, as a part of its
/// range: entities with fewer observations than that takes are left out.
///
/// # Errors
///
/// If the receipt is not for this ledger and these data, or if noise cannot be drawn.
///
/// # Privacy cost
///
/// What the receipt's terms say, for each observation. Which entities there are is not protected.
pub fn release_segments(
    ledger: &mut Ledger,
    receipt: Receipt,
    data: &Dataset,
    centroid_noise_max: f64,
) -> Result<Vec<ReleasedSegment>, ReleaseError> {
    release_segments_with(&mut OpenDp, ledger, receipt, data, centroid_noise_max)
}

pub(crate) fn release_segments_with(
    noise: &mut impl Noise,
    ledger: &mut Ledger,
    receipt: Receipt,
    data: &Dataset,
    centroid_noise_max: f64,
) -> Result<Vec<ReleasedSegment>, ReleaseError> {
    check_receipt(ledger, &receipt, data, centroid_noise_max)?;
    let (terms, paid) = (*receipt.terms(), receipt.paid());
    let plan = Plan::new(terms, paid.rho, data.dim(), centroid_noise_max);
    check_loss(plan.single_loss()?, paid, terms);
    let (count_noise, sum_noise) = plan.single();
    let count_min = plan.count_min_with(count_noise, sum_noise);
    let mut released = Vec::new();
    for (entity, rows) in data.entity_rows() {
        let count = (rows.len() / data.dim()) as i64 * COUNT_STEPS;
        let count = noise.add(vec![count], count_noise)?[0] as f64 / COUNT_STEPS as f64;
        // By the noised count alone, so that who is left out says nothing more.
        if count < count_min {
            continue;
        }
        let sums = noise.add(sums(rows, data.dim()), sum_noise)?;
        let cell = Cell { count, sums: sums.iter().map(|&sum| sum as f64).collect() };
        released.push(segment(entity, &cell, data.bounds()));
    }
    ledger.note_released(receipt).map_err(ReleaseError::Ledger)?;
    Ok(released)
}

/// Returns the sums of all channels, from the midpoint.
fn sums(rows: &[i32], dim: usize) -> Vec<i64> {
    let mut sums = vec![0; dim];
    for row in rows.chunks_exact(dim) {
        sums.iter_mut().zip(row).for_each(|(sum, &value)| *sum += i64::from(value));
    }
    sums
}

fn segment(entity: EntityTag, cell: &Cell, bounds: &Bounds) -> ReleasedSegment {
    ReleasedSegment {
        entity,
        centroid: in_bounds(&cell.mean(), bounds),
        noised_count: cell.count.round() as u64,
    }
}
