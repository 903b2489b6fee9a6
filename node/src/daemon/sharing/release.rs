//! Releasing templates: observations, the ledger, noise, a signature, an announcement.

use std::sync::{Arc, PoisonError};

use dunlin_archive::Pin;
use dunlin_engine::{CollectionName, ReadError, TimeRange, Timestamp};
use dunlin_privacy::{
    About, DataError, Dataset, Eligible, EntityTag, Epsilon, EpsilonError, Gather, Intent,
    Mechanism, ReleaseConfig, ReleaseError, ReserveError, Span, TemplateError, TemplateSet, Terms,
    TermsError, Unit, release,
};
use dunlin_wire::envelope::{self, SignError, Signed};

use super::{Held, channels, metric, segments};
use crate::daemon::{clock, shared::Shared};

/// Entities that are read at once.
pub(super) const ENTITIES_PAGE: usize = 1_000;

/// What a request for a release says; what it does not say is as configured.
#[derive(Clone, Debug, Default)]
pub(crate) struct ReleaseRequest {
    pub(crate) epsilon: Option<f64>,
    pub(crate) unit: Option<Unit>,
    pub(crate) mechanism: Option<Mechanism>,
    pub(crate) cells_max: Option<u8>,
    /// Leave out what has too little budget left, instead of refusing.
    pub(crate) fresh: bool,
}

/// What a release cost.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    /// What was released.
    pub(crate) held: Held,
    /// Whether it had been before.
    pub(crate) is_unchanged: bool,
    /// Privacy loss so far of the unit that lost most of those that took part; `None` if it has no bound.
    pub(crate) spent: Option<Epsilon>,
    /// Its ceiling.
    pub(crate) ceiling: Epsilon,
    /// From when on data took part, if older ones were left out.
    pub(crate) from_us: Option<i64>,
    /// How many entities were left out.
    pub(crate) entities_left_out: usize,
}

/// What takes part in a release, and what does not.
struct Gathered {
    data: Dataset,
    entities_left_out: usize,
}

impl Shared {
    /// Releases the templates of a collection and keeps the signed set. What was released before is
    /// announced again, at no cost.
    ///
    /// # Privacy cost
    ///
    /// That of the terms for each unit, spent as soon as the ledger has it, whatever happens then.
    #[tracing::instrument(skip_all, fields(collection = %name))]
    pub(crate) fn release_templates(
        &self,
        name: &CollectionName,
        request: &ReleaseRequest,
    ) -> Result<Release, SharingError> {
        let terms = self.terms(request)?;
        let eligible = request.fresh.then(|| self.sharing.ledger().eligible(name.as_str(), &terms));
        let now = clock::now().0;
        // By the clock, never by the newest observation: see `Span`.
        let until_us = i64::try_from(now.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let gathered = self.gather(name, terms.unit(), eligible.as_ref(), until_us)?;
        let intent = Intent {
            collection: name.as_str(),
            data: &gathered.data,
            terms,
            now_unix_ms: now,
            purpose: "templates",
        };
        let limits = self.release_config();
        // Held throughout, so that releases of this node take turns.
        let mut ledger = self.sharing.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        let released = match ledger.reserve(&intent) {
            Ok(receipt) => Some(release(&mut ledger, receipt, &gathered.data, &limits)?),
            Err(unchanged @ ReserveError::Unchanged { .. }) => {
                tracing::debug!(collection = %name, %unchanged, "announced again");
                None
            }
            Err(refusal) => return Err(refusal.into()),
        };
        let (spent, ceiling) =
            (ledger.spent_in(name.as_str(), &gathered.data), ledger.ceiling().epsilon);
        drop(ledger);
        let signed = match &released {
            Some(released) => self.signed(name, released)?,
            None => self.released_before(name, terms.unit())?,
        };
        self.keep(signed.clone()).map_err(SharingError::Store)?;
        self.news.notify_one();
        Ok(Release {
            held: Held { signed: Arc::new(signed), judged: None },
            is_unchanged: released.is_none(),
            spent,
            ceiling,
            from_us: eligible.and_then(|it| it.from_us).filter(|from| *from > i64::MIN),
            entities_left_out: gathered.entities_left_out,
        })
    }

    pub(super) fn terms(&self, request: &ReleaseRequest) -> Result<Terms, SharingError> {
        let config = &self.config.privacy;
        let mechanism = request.mechanism.unwrap_or(config.mechanism);
        let delta = match mechanism {
            Mechanism::Laplace => 0.0,
            Mechanism::Gaussian if config.delta <= 0.0 => return Err(ReserveError::NoDelta.into()),
            Mechanism::Gaussian => config.delta,
        };
        Ok(Terms::new(
            request.unit.unwrap_or(config.unit),
            mechanism,
            Epsilon::new(request.epsilon.unwrap_or(config.epsilon))?,
            delta,
            request.cells_max.unwrap_or(config.cells_max),
        )?)
    }

    fn release_config(&self) -> ReleaseConfig {
        ReleaseConfig {
            templates_max: self.config.privacy.templates_max,
            ..ReleaseConfig::default()
        }
    }

    fn signed(
        &self,
        name: &CollectionName,
        released: &dunlin_privacy::Release,
    ) -> Result<Signed<TemplateSet>, SharingError> {
        let spec = self.engine.collection(name)?;
        let now = clock::now().0;
        let about = About {
            collection: name.as_str(),
            metric: metric(spec.metric),
            channels: channels(&spec),
            issued_unix_ms: now,
            expires_unix_ms: self.expiry_of(now),
        };
        Ok(envelope::sign(&self.sharing.identity, TemplateSet::new(released, &about)?)?)
    }

    /// Returns the set that these data became before: the very bytes as long as they count, and after that
    /// the same values with a new life.
    fn released_before(
        &self,
        name: &CollectionName,
        unit: Unit,
    ) -> Result<Signed<TemplateSet>, SharingError> {
        let pin = Pin::templates(name.as_str(), &self.sharing.me());
        let read = || -> anyhow::Result<Option<Signed<TemplateSet>>> {
            let Some(cid) = self.archive.roots(&pin, None, 1)?.into_iter().next() else {
                return Ok(None);
            };
            let bytes = self.archive.get(&cid)?;
            Ok(bytes.and_then(|bytes| envelope::open::<TemplateSet>(&bytes).ok()))
        };
        let signed = read().map_err(SharingError::Store)?.ok_or(SharingError::Lost)?;
        if signed.value.privacy().unit != unit {
            // A later release of another unit took its place.
            return Err(SharingError::Lost);
        }
        let now = clock::now().0;
        if signed.value.is_current(now) {
            return Ok(signed);
        }
        Ok(envelope::sign(&self.sharing.identity, signed.value.renewed(now, self.expiry_of(now))?)?)
    }

    fn expiry_of(&self, now_ms: u64) -> u64 {
        let expiry_ms = u64::try_from(self.config.privacy.expiry.as_millis()).unwrap_or(u64::MAX);
        now_ms.saturating_add(expiry_ms)
    }

    /// Returns the observations of a collection until now, grouped by unit and clipped to its declared
    /// ranges: all of them, or those that are eligible. When nothing is, all: the ledger then says why it
    /// refuses.
    fn gather(
        &self,
        name: &CollectionName,
        unit: Unit,
        eligible: Option<&Eligible>,
        until_us: i64,
    ) -> Result<Gathered, SharingError> {
        let spec = self.engine.collection(name)?;
        let bounds = segments::bounds(&spec)?;
        let first_us = eligible.map_or(Some(i64::MIN), |eligible| eligible.from_us);
        let span = Span { first_us: first_us.unwrap_or(i64::MAX), last_us: until_us };
        let mut gather = Gather::new(bounds, unit, span);
        let (mut left_out, mut rows) = (0, 0);
        let mut after = None;
        loop {
            let page = self.engine.entities(name, after.as_ref(), ENTITIES_PAGE)?;
            for view in &page {
                let tag = EntityTag::of(view.entity.as_str());
                if eligible.is_some_and(|it| it.excluded.contains(&tag)) {
                    left_out += 1;
                    continue;
                }
                // One that has nothing in the span takes no part, and loses nothing.
                if view.last.0 < span.first_us || view.first.0 > span.last_us {
                    continue;
                }
                gather.begin(tag)?;
                rows += self.gather_entity(name, &view.entity, span, &mut gather)?;
            }
            match page.last() {
                Some(last) if page.len() == ENTITIES_PAGE => after = Some(last.entity.clone()),
                _ => break,
            }
        }
        if rows == 0 {
            return match eligible {
                Some(_) => self.gather(name, unit, None, until_us),
                None => Err(SharingError::Empty),
            };
        }
        Ok(Gathered { data: gather.finish(), entities_left_out: left_out })
    }

    /// Adds the observations of one entity; returns how many there were.
    pub(super) fn gather_entity(
        &self,
        name: &CollectionName,
        entity: &dunlin_engine::EntityId,
        span: Span,
        gather: &mut Gather,
    ) -> Result<usize, SharingError> {
        let (mut count, mut from) = (0, Timestamp(span.first_us));
        loop {
            let range = TimeRange::between(from, Timestamp(span.last_us));
            let answer = self.engine.observations(name, entity, range, usize::MAX)?;
            for (time, vector) in answer.rows.iter() {
                gather.push(time.0, vector)?;
            }
            count += answer.rows.count();
            let last = answer.rows.count().checked_sub(1).and_then(|last| answer.rows.time(last));
            match last {
                Some(last) if !answer.coverage.complete => {
                    from = Timestamp(last.0.saturating_add(1));
                }
                _ => return Ok(count),
            }
        }
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
    /// There are no observations.
    #[error("the collection has no observations that a release could be made of")]
    Empty,
    /// Epsilon is out of range.
    #[error(transparent)]
    Epsilon(#[from] EpsilonError),
    /// Other terms are out of range.
    #[error(transparent)]
    Terms(#[from] TermsError),
    /// The ledger does not allow it.
    #[error(transparent)]
    Reserve(#[from] ReserveError),
    /// The release failed after its cost was written down.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// These data were released before, and that set is not here any more.
    #[error(
        "nothing changed since a release whose set is not here any more; release again when it did"
    )]
    Lost,
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
