//! Releasing templates: observations, the ledger, noise, a signature, an announcement.

use std::sync::PoisonError;

use dunlin_engine::{CollectionName, ReadError, TimeRange, Units};
use dunlin_privacy::{
    About, Bounds, DataError, Dataset, Epsilon, EpsilonError, Intent, OBSERVATIONS_MAX,
    ReleaseConfig, ReleaseError, ReserveError, TemplateError, TemplateSet, Unit, release,
};
use dunlin_wire::envelope::{self, SignError};

use super::{Held, channels, metric};
use crate::daemon::{clock, shared::Shared};

/// What a release cost.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    /// What was released.
    pub(crate) held: Held,
    /// Privacy loss of the collection so far.
    pub(crate) spent: Epsilon,
    /// Its ceiling.
    pub(crate) ceiling: Epsilon,
}

impl Shared {
    /// Releases the templates of a collection, at this privacy loss, and keeps the signed set.
    ///
    /// # Privacy cost
    ///
    /// `epsilon` for each observation, spent as soon as the ledger has it, whatever happens then.
    pub(crate) fn release_templates(
        &self,
        name: &CollectionName,
        epsilon: f64,
    ) -> Result<Release, SharingError> {
        let data = self.dataset(name)?;
        let spec = self.engine.collection(name)?;
        let now = clock::now().0;
        let intent = Intent {
            collection: name.as_str(),
            data: &data,
            unit: Unit::Observation,
            epsilon: Epsilon::new(epsilon)?,
            now_unix_ms: now,
            purpose: "templates",
        };
        let limits = ReleaseConfig {
            templates_max: self.config.privacy.templates_max,
            ..ReleaseConfig::default()
        };
        // Held throughout, so that releases of this node take turns.
        let mut ledger = self.sharing.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let receipt = ledger.reserve(&intent)?;
        let released = release(&mut ledger, receipt, &data, &limits)?;
        let expiry_ms = u64::try_from(self.config.privacy.expiry.as_millis()).unwrap_or(u64::MAX);
        let about = About {
            collection: name.as_str(),
            metric: metric(spec.metric),
            channels: channels(&spec),
            issued_unix_ms: now,
            expires_unix_ms: now.saturating_add(expiry_ms),
        };
        let (spent, ceiling) = (ledger.spent(name.as_str()), ledger.epsilon_max());
        drop(ledger);
        if released.centroids.is_empty() {
            return Err(SharingError::TooFew { epsilon });
        }
        let signed = envelope::sign(&self.sharing.identity, TemplateSet::new(&released, &about)?)?;
        self.keep(signed.clone()).map_err(SharingError::Store)?;
        self.news.notify_one();
        Ok(Release { held: Held { signed: signed.into(), judged: None }, spent, ceiling })
    }

    /// Returns all observations of a collection, clipped to its declared ranges.
    fn dataset(&self, name: &CollectionName) -> Result<Dataset, SharingError> {
        let spec = self.engine.collection(name)?;
        let Units::Range { lower, upper } = &spec.units else { return Err(SharingError::NoRange) };
        let bounds = Bounds::new(lower.clone(), upper.clone()).map_err(DataError::from)?;
        let mut rows = Vec::new();
        for view in self.engine.entities(name, None, usize::MAX)? {
            let mut from = None;
            loop {
                let range = TimeRange { from, to: None };
                let answer = self.engine.observations(name, &view.entity, range, usize::MAX)?;
                for (_, vector) in answer.rows.iter() {
                    rows.extend_from_slice(vector);
                }
                if rows.len() / spec.dim.get() > OBSERVATIONS_MAX {
                    return Err(DataError::TooMany { rows: rows.len() / spec.dim.get() }.into());
                }
                let last =
                    answer.rows.count().checked_sub(1).and_then(|index| answer.rows.time(index));
                match last {
                    Some(last) if !answer.coverage.complete => {
                        from = Some(dunlin_engine::Timestamp(last.0.saturating_add(1)));
                    }
                    _ => break,
                }
            }
        }
        Ok(Dataset::new(&rows, spec.dim.get(), bounds)?)
    }
}

/// Why nothing was released.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum SharingError {
    /// The collection has no declared ranges.
    #[error(
        "the collection has no declared ranges; noise is scaled to them, so create it with a range"
    )]
    NoRange,
    /// The collection or its observations cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The observations are not fit for a release.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Epsilon is out of range.
    #[error(transparent)]
    Epsilon(#[from] EpsilonError),
    /// The ledger does not allow it.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    /// The release failed after its cost was written down.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// No behaviour has enough observations to stand out of the noise.
    #[error(
        "too few observations for a release at epsilon {epsilon}: nothing stands out of the noise; the cost is spent"
    )]
    TooFew {
        /// What was spent.
        epsilon: f64,
    },
    /// The set cannot be described.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The set cannot be signed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The set cannot be stored.
    #[error("the released set cannot be stored")]
    Store(#[source] anyhow::Error),
}
