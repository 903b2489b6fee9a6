//! One entity: its lateness window, its open regime, and what is known of its past.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    Config,
    collection::CollectionSpec,
    distance::{rms_in_units, squash},
    matching::{Field, Kept, Matching, OWN_LIVE_MAX, Past, Scratch},
    observation::Metadata,
    regime::{Regime, RegimeRecord, Sealed},
    rows::Rows,
};

/// The state of one entity, changed by its observations alone.
pub(crate) struct Entity {
    pub(crate) regime: Regime,
    window: Window,
    /// Time of the first observation that was accepted.
    pub(crate) first: i64,
    /// Observations accepted so far, sealed, open and in the window.
    pub(crate) observations: u64,
    /// Regimes sealed so far.
    pub(crate) segments: u64,
    /// What the latest observation that carried any said about the entity.
    pub(crate) metadata: Metadata,
    /// The latest regimes, when they are in memory.
    pub(crate) past: Option<Past>,
    /// What the newest observation is like, when that is known.
    pub(crate) matching: Matching,
    /// Where the open regime is in the hot tier, when there is one.
    pub(crate) hot_slot: Option<u32>,
    /// Whether the newest checkpoint lacks something.
    pub(crate) changed: bool,
}

/// What becomes of an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Accepted,
    /// Its time is known already, so it is the same observation once more.
    Duplicate,
    /// It is older than the window reaches back.
    Late,
}

/// The observations that wait for older ones, by time.
#[derive(Clone)]
struct Window {
    lateness_us: i64,
    newest: Option<i64>,
    released: Option<i64>,
    waiting: BTreeMap<i64, (Arc<[f32]>, Option<Metadata>)>,
}

/// What a checkpoint keeps of an entity.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EntityRecord {
    version: u8,
    regime: RegimeRecord,
    first: i64,
    newest: Option<i64>,
    released: Option<i64>,
    waiting: Rows,
    observations: u64,
    segments: u64,
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    metadata: Metadata,
}

/// The version of [`EntityRecord`].
const RECORD_VERSION: u8 = 1;

impl Entity {
    /// Returns an entity that has not been observed yet.
    pub(crate) fn new(spec: &CollectionSpec) -> Self {
        Self {
            regime: Regime::new(spec),
            window: Window::new(spec),
            first: 0,
            observations: 0,
            segments: 0,
            metadata: Metadata::default(),
            past: Some(Past::default()),
            matching: Matching::default(),
            hot_slot: None,
            changed: true,
        }
    }

    /// Returns the entity that a checkpoint kept, when it fits the specification.
    pub(crate) fn restore(spec: &CollectionSpec, record: EntityRecord) -> Option<Self> {
        if record.version != RECORD_VERSION || record.waiting.dim() != spec.dim.get() {
            return None;
        }
        let mut window = Window::new(spec);
        (window.newest, window.released) = (record.newest, record.released);
        for (index, (time, values)) in record.waiting.iter().enumerate() {
            let carried = record.waiting.metadata(index).cloned();
            window.waiting.insert(time.0, (values.into(), carried));
        }
        Some(Self {
            regime: Regime::restore(spec, record.regime)?,
            window,
            first: record.first,
            observations: record.observations,
            segments: record.segments,
            metadata: record.metadata,
            past: (record.segments == 0).then(Past::default),
            matching: Matching::default(),
            hot_slot: None,
            changed: false,
        })
    }

    /// Returns a copy to see with which regimes end, and where. It lacks what the open regime kept so far, and
    /// what no regime depends on.
    pub(crate) fn ahead(&self) -> Self {
        Self {
            regime: self.regime.ahead(),
            window: self.window.clone(),
            first: self.first,
            observations: self.observations,
            segments: self.segments,
            metadata: self.metadata.clone(),
            past: None,
            matching: Matching::default(),
            hot_slot: None,
            changed: false,
        }
    }

    /// Returns what a checkpoint must keep.
    pub(crate) fn record(&self) -> EntityRecord {
        EntityRecord {
            version: RECORD_VERSION,
            regime: self.regime.record(),
            first: self.first,
            newest: self.window.newest,
            released: self.window.released,
            waiting: self.window.rows(self.regime.inverse_unit().len()),
            observations: self.observations,
            segments: self.segments,
            metadata: self.metadata.clone(),
        }
    }

    /// Takes one observation and passes every regime that it ends on.
    pub(crate) fn observe(
        &mut self,
        time: i64,
        values: &[f32],
        metadata: Option<Metadata>,
        mut on_sealed: impl FnMut(Sealed),
    ) -> Admission {
        let admission = self.window.admit(time);
        if admission != Admission::Accepted {
            return admission;
        }
        self.first = if self.observations == 0 { time } else { self.first.min(time) };
        self.observations += 1;
        self.changed = true;
        if self.window.lateness_us == 0 {
            // Without a window the newest observation is released at once, and nothing is copied.
            self.window.released = Some(time);
            self.take(time, values, metadata, &mut on_sealed);
            return admission;
        }
        self.window.waiting.insert(time, (values.into(), metadata));
        while let Some((time, values, metadata)) = self.window.next_released() {
            self.take(time, &values, metadata, &mut on_sealed);
        }
        admission
    }

    /// Takes an observation that no older one can follow.
    fn take(
        &mut self,
        time: i64,
        values: &[f32],
        metadata: Option<Metadata>,
        on_sealed: &mut impl FnMut(Sealed),
    ) {
        if let Some(said) = metadata.as_ref().filter(|said| **said != self.metadata) {
            self.metadata.clone_from(said);
        }
        if let Some(sealed) = self.regime.observe(time, values, metadata) {
            on_sealed(sealed);
        }
    }

    /// Ends the open regime, with everything in the window.
    pub(crate) fn seal(&mut self, mut on_sealed: impl FnMut(Sealed)) {
        self.changed = true;
        while let Some((time, values, metadata)) = self.window.next_waiting() {
            self.take(time, &values, metadata, &mut on_sealed);
        }
        if let Some(sealed) = self.regime.seal() {
            on_sealed(sealed);
        }
    }

    /// Compares the newest observation, just accepted, with all that is known; forgets what the one before
    /// was like when the past is not in memory, or the units are still being learned.
    pub(crate) fn match_newest(
        &mut self,
        values: &[f32],
        regimes_max: usize,
        kept: &Kept,
        scratch: &mut Scratch,
    ) {
        let past = self.past.as_ref().filter(|_| !self.regime.is_warming());
        let Some(past) = past else { return self.matching = Matching::default() };
        let count = regimes_max.min(OWN_LIVE_MAX);
        let field = Field::new(past, count, self.regime.inverse_unit(), kept);
        self.matching.observe(values, &field, scratch);
    }

    /// Returns the time of the newest observation that was accepted.
    pub(crate) fn newest(&self) -> i64 {
        self.window.newest.unwrap_or(self.first)
    }

    /// Returns how many observations wait for older ones.
    pub(crate) fn waiting(&self) -> usize {
        self.window.waiting.len()
    }
}

/// Returns how far a regime with this mean is from the nearest of `baselines`; `None` when there are none.
pub(crate) fn nearest_baseline(
    mean: &[f32],
    baselines: &[f32],
    inverse_unit: &[f64],
) -> Option<f64> {
    let distance = |row: &[f32]| rms_in_units(row, mean, inverse_unit);
    baselines.chunks_exact(mean.len()).map(distance).reduce(f64::min)
}

/// Returns that distance as a score, 0 to 1; 0 when there are no baselines.
pub(crate) fn novelty(nearest: Option<f64>, threshold: f64) -> f64 {
    nearest.map_or(0.0, |nearest| squash(nearest, threshold))
}

impl Window {
    fn new(spec: &CollectionSpec) -> Self {
        // The specification's limit is one day, which is far from the largest i64.
        let lateness_us = i64::try_from(spec.lateness_us).unwrap_or(i64::MAX);
        Self { lateness_us, newest: None, released: None, waiting: BTreeMap::new() }
    }

    fn admit(&mut self, time: i64) -> Admission {
        if let Some(newest) = self.newest {
            if self.released == Some(time) || self.waiting.contains_key(&time) {
                return Admission::Duplicate;
            }
            // A full window releases early, so what was released bounds it too.
            let oldest = newest.saturating_sub(self.lateness_us);
            if time < oldest.max(self.released.unwrap_or(i64::MIN)) {
                return Admission::Late;
            }
        }
        self.newest = self.newest.max(Some(time));
        Admission::Accepted
    }

    /// Removes the oldest observation when nothing older can come any more, or the window is full.
    fn next_released(&mut self) -> Option<(i64, Arc<[f32]>, Option<Metadata>)> {
        let (oldest, _) = self.waiting.first_key_value()?;
        let until = self.newest?.saturating_sub(self.lateness_us);
        let full = self.waiting.len() > Config::REORDER_OBSERVATIONS_MAX;
        (*oldest <= until || full).then(|| self.next_waiting()).flatten()
    }

    fn next_waiting(&mut self) -> Option<(i64, Arc<[f32]>, Option<Metadata>)> {
        let (time, (values, metadata)) = self.waiting.pop_first()?;
        self.released = Some(time);
        Some((time, values, metadata))
    }

    fn rows(&self, dim: usize) -> Rows {
        let mut rows = Rows::new(dim);
        for (time, (values, metadata)) in &self.waiting {
            rows.push(*time, values, metadata.clone());
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::{CollectionName, Dim, Units};

    fn entity(lateness_us: u64) -> Entity {
        let dim = Dim::new(1).unwrap();
        let name = CollectionName::new("c").unwrap();
        let spec = CollectionSpec {
            lateness_us,
            ..CollectionSpec::new(name, dim, Units::unit_range(dim))
        };
        Entity::new(&spec)
    }

    fn admit(entity: &mut Entity, times: &[i64]) -> Vec<Admission> {
        times.iter().map(|time| entity.observe(*time, &[0.5], None, |_| ())).collect()
    }

    #[test]
    fn without_lateness_times_must_rise() {
        use Admission::{Accepted, Duplicate, Late};
        let mut entity = entity(0);
        let seen = admit(&mut entity, &[5, 5, 4, 6, 5]);
        assert_eq!(seen, [Accepted, Duplicate, Late, Accepted, Late]);
        assert_eq!((entity.observations, entity.regime.open_count()), (2, 2));
    }

    #[test]
    fn within_the_lateness_order_does_not_matter() {
        use Admission::{Accepted, Duplicate, Late};
        let mut entity = entity(10);
        assert_eq!(
            admit(&mut entity, &[100, 95, 95, 90, 89]),
            [Accepted, Accepted, Duplicate, Accepted, Late]
        );
        // 90 was at the edge of the window and is released; so it is a duplicate there.
        assert_eq!((entity.regime.open_count(), entity.waiting()), (1, 2));
        assert_eq!(admit(&mut entity, &[90, 106, 95, 90]), [Duplicate, Accepted, Duplicate, Late]);
        assert_eq!((entity.regime.newest(), entity.first), (95, 90));
        entity.seal(|sealed| assert_eq!((sealed.count, sealed.end), (4, 106)));
        assert_eq!(admit(&mut entity, &[106, 105]), [Duplicate, Late]);
    }

    #[test]
    fn a_full_window_releases_its_oldest() {
        let mut entity = entity(86_400_000_000);
        let times: Vec<i64> =
            (0..=Config::REORDER_OBSERVATIONS_MAX as i64).map(|t| 10 + t).collect();
        admit(&mut entity, &times);
        assert_eq!((entity.regime.open_count(), entity.waiting()), (1, times.len() - 1));
        assert_eq!(admit(&mut entity, &[9, 10]), [Admission::Late, Admission::Duplicate]);
    }

    #[test]
    fn novelty_is_the_nearest_baseline() {
        let baselines = [0.0, 0.0, 1.0, 1.0];
        let of = |mean: &[f32], baselines: &[f32]| {
            novelty(nearest_baseline(mean, baselines, &[1.0; 2]), 0.1)
        };
        assert_eq!(of(&[0.9, 0.9], &[]), 0.0);
        let near = of(&[0.9, 0.9], &baselines);
        assert!((near - 0.5).abs() < 1e-6, "{near}");
        assert_eq!(of(&[1.0, 1.0], &baselines), 0.0);
    }
}
