//! The open regime of one entity: its running baseline, its drift, and when it ends.
//!
//! Mean and squared deviation per channel are Welford's (1962), in doubles. Drift is the root mean
//! square over channels of (x - mean) / unit. Beside it runs an exponentially weighted mean of the
//! signed residuals, in the manner of Roberts' control chart (1959): noise averages out of it, a slow
//! move does not, so its root mean square has a lower threshold. An observation beyond either threshold
//! waits; `hysteresis` of them in a row end the regime and begin the next one, fewer are taken back
//! into it as outliers.
//!
//! What happens here depends on the observations and the specification alone. No function of the
//! platform's mathematics library is used but the square root, which IEEE 754 fixes to the last bit.

use serde::{Deserialize, Serialize};

use crate::{
    collection::{CollectionSpec, SegmentPolicy, Units},
    distance::sum_of,
    observation::Metadata,
    payload::REGIME_BYTES_MAX,
    rows::Rows,
    scaled::Scaled,
    segment::to_f32,
};

/// What an entity is doing now.
pub(crate) struct Regime {
    policy: SegmentPolicy,
    state: State,
    noise: Option<Noise>,
    /// 1 / unit per channel, fixed while a regime lasts.
    inverse_unit: Vec<f64>,
    /// The newest observations, not yet known to be outliers or the next regime's first.
    waiting: Rows,
    waiting_drift: Vec<f64>,
    /// The regime's own observations, in collections that keep them.
    kept: Option<Rows>,
    /// Bytes of its first observations, which in a copy are not in `kept`.
    kept_elsewhere: usize,
}

/// The running sums of a regime.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub(crate) count: u32,
    pub(crate) start: i64,
    pub(crate) end: i64,
    #[serde(with = "crate::bytes::doubles")]
    pub(crate) mean: Vec<f64>,
    #[serde(with = "crate::bytes::doubles")]
    m2: Vec<f64>,
    #[serde(with = "crate::bytes::doubles")]
    slow: Vec<f64>,
    #[serde(with = "crate::bytes::floats")]
    first: Vec<f32>,
    #[serde(with = "crate::bytes::floats")]
    last: Vec<f32>,
    drift_sum: f64,
    drift_max: f64,
    /// Drift of the newest observation, waiting or not.
    pub(crate) drift_now: f64,
}

/// The typical step of each channel, learned from all observations of the entity.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Noise {
    seen: u32,
    #[serde(with = "crate::bytes::doubles")]
    step: Vec<f64>,
    #[serde(with = "crate::bytes::doubles")]
    magnitude: Vec<f64>,
    #[serde(with = "crate::bytes::floats")]
    before: Vec<f32>,
}

/// Everything of a [`Regime`] that a checkpoint keeps beside its specification.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RegimeRecord {
    state: State,
    noise: Option<Noise>,
    #[serde(with = "crate::bytes::doubles")]
    inverse_unit: Vec<f64>,
    waiting: Rows,
    #[serde(with = "crate::bytes::doubles")]
    waiting_drift: Vec<f64>,
    kept: Option<Rows>,
}

/// A regime that ended.
pub(crate) struct Sealed {
    pub(crate) count: u32,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) mean: Vec<f32>,
    pub(crate) spread: Scaled,
    pub(crate) first: Scaled,
    pub(crate) last: Scaled,
    pub(crate) drift_mean: f32,
    pub(crate) drift_max: f32,
    pub(crate) inverse_unit: Vec<f64>,
    pub(crate) rows: Option<Rows>,
}

impl Regime {
    /// Returns the regime of an entity that has not been observed yet.
    pub(crate) fn new(spec: &CollectionSpec) -> Self {
        let dim = spec.dim.get();
        Self {
            policy: spec.policy,
            state: State::new(dim),
            noise: (spec.units == Units::NoiseFloor).then(|| Noise::new(dim)),
            inverse_unit: match &spec.units {
                Units::Range { lower, upper } => inverse_of(lower, upper),
                Units::NoiseFloor => vec![1.0; dim],
            },
            waiting: Rows::new(dim),
            waiting_drift: Vec::new(),
            kept: spec.fidelity.keeps_observations().then(|| Rows::new(dim)),
            kept_elsewhere: 0,
        }
    }

    /// Returns the regime that a checkpoint kept, when it fits the specification.
    pub(crate) fn restore(spec: &CollectionSpec, record: RegimeRecord) -> Option<Self> {
        let RegimeRecord { state, noise, inverse_unit, waiting, waiting_drift, kept } = record;
        let dim = spec.dim.get();
        let fits = state.fits(dim)
            && noise.as_ref().is_none_or(|noise| noise.fits(dim))
            && noise.is_some() == (spec.units == Units::NoiseFloor)
            && inverse_unit.len() == dim
            && waiting.dim() == dim
            && waiting.count() == waiting_drift.len()
            && kept.is_some() == spec.fidelity.keeps_observations()
            && kept.as_ref().is_none_or(|kept| kept.dim() == dim);
        fits.then_some(Self {
            policy: spec.policy,
            state,
            noise,
            inverse_unit,
            waiting,
            waiting_drift,
            kept,
            kept_elsewhere: 0,
        })
    }

    /// Returns a copy that ends where this one does; of what was kept so far it knows the size alone.
    pub(crate) fn ahead(&self) -> Self {
        let kept = self.kept.as_ref();
        Self {
            policy: self.policy,
            state: self.state.clone(),
            noise: self.noise.clone(),
            inverse_unit: self.inverse_unit.clone(),
            waiting: self.waiting.clone(),
            waiting_drift: self.waiting_drift.clone(),
            kept: kept.map(|kept| Rows::new(kept.dim())),
            kept_elsewhere: self.kept_elsewhere + kept.map_or(0, Rows::byte_count),
        }
    }

    /// Returns what a checkpoint must keep.
    pub(crate) fn record(&self) -> RegimeRecord {
        RegimeRecord {
            state: self.state.clone(),
            noise: self.noise.clone(),
            inverse_unit: self.inverse_unit.clone(),
            waiting: self.waiting.clone(),
            waiting_drift: self.waiting_drift.clone(),
            kept: self.kept.clone(),
        }
    }

    /// Takes the next observation; returns the regime that it ended, if it did.
    pub(crate) fn observe(
        &mut self,
        time: i64,
        values: &[f32],
        metadata: Option<Metadata>,
    ) -> Option<Sealed> {
        let warming = self.is_warming();
        if warming || self.state.count == 0 {
            self.refresh_units();
        }
        let (drift, slow_drift) = self.measure(values);
        if let Some(noise) = &mut self.noise {
            noise.observe(values, self.policy.noise_weight);
        }
        let beyond = drift > self.policy.threshold || slow_drift > self.policy.slow_threshold;
        if beyond && !warming && self.state.count >= self.policy.observations_min {
            self.waiting.push(time, values, metadata);
            self.waiting_drift.push(drift);
            if self.waiting.count() >= self.policy.hysteresis as usize {
                return Some(self.begin_next());
            }
        } else {
            self.take_back_waiting();
            self.absorb(time, values, metadata, drift);
        }
        self.is_full().then(|| self.seal()).flatten()
    }

    /// Ends the regime now, with everything that waits; `None` when there is nothing.
    pub(crate) fn seal(&mut self) -> Option<Sealed> {
        self.take_back_waiting();
        (self.state.count > 0).then(|| self.take())
    }

    /// Returns the running sums; the waiting observations are not in them.
    pub(crate) const fn state(&self) -> &State {
        &self.state
    }

    /// Returns one over the unit of each channel.
    pub(crate) fn inverse_unit(&self) -> &[f64] {
        &self.inverse_unit
    }

    /// Returns whether the noise floor is still being learned, so that no distance means anything.
    pub(crate) fn is_warming(&self) -> bool {
        self.noise.as_ref().is_some_and(|noise| noise.seen < self.policy.noise_warmup)
    }

    /// Returns how many observations no segment holds yet.
    pub(crate) fn open_count(&self) -> u64 {
        u64::from(self.state.count) + self.waiting.count() as u64
    }

    /// Returns the regime's own observations, without what waits, in collections that keep them.
    pub(crate) const fn kept(&self) -> Option<&Rows> {
        self.kept.as_ref()
    }

    /// Returns the observations that no segment holds yet, in collections that keep them.
    pub(crate) fn open_rows(&self) -> Option<Rows> {
        let mut rows = self.kept.clone()?;
        rows.append(&self.waiting);
        Some(rows)
    }

    /// Returns the time of the newest observation, waiting or not.
    pub(crate) fn newest(&self) -> i64 {
        self.waiting.times().last().copied().unwrap_or(self.state.end)
    }

    /// Returns the drift of an observation and that of the decaying residual, which it moves.
    fn measure(&mut self, values: &[f32]) -> (f64, f64) {
        if self.state.count == 0 {
            return (0.0, 0.0);
        }
        let (mean, inverse) = (&self.state.mean, &self.inverse_unit);
        let drift = root_mean_square(values, mean, inverse, |_, residual| residual);
        // An outlier counts no more than the threshold here, or two of them would end the regime by
        // themselves while the decaying mean forgets them.
        let clip = (self.policy.threshold / drift).min(1.0);
        let (keep, add) = (self.policy.decay, (1.0 - self.policy.decay) * clip);
        let slow = &mut self.state.slow[..values.len()];
        let slow_drift = root_mean_square(values, mean, inverse, |channel, residual| {
            slow[channel] = keep * slow[channel] + add * residual;
            slow[channel]
        });
        self.state.drift_now = drift;
        (drift, slow_drift)
    }

    fn absorb(&mut self, time: i64, values: &[f32], metadata: Option<Metadata>, drift: f64) {
        self.state.absorb(time, values, drift);
        if let Some(kept) = &mut self.kept {
            kept.push(time, values, metadata);
        }
    }

    /// Takes the waiting observations into the regime: they were outliers.
    fn take_back_waiting(&mut self) {
        for index in 0..self.waiting.count() {
            let drift = self.waiting_drift[index];
            self.state.absorb(self.waiting.times()[index], self.waiting.row(index), drift);
        }
        if let Some(kept) = &mut self.kept {
            kept.append(&self.waiting);
        }
        self.waiting.clear();
        self.waiting_drift.clear();
    }

    /// Ends the regime before the waiting observations, which begin the next one.
    fn begin_next(&mut self) -> Sealed {
        let sealed = self.take();
        self.refresh_units();
        let waiting = std::mem::replace(&mut self.waiting, Rows::new(sealed.mean.len()));
        self.waiting_drift.clear();
        for (index, (time, values)) in waiting.iter().enumerate() {
            let (drift, _) = self.measure(values);
            self.absorb(time.0, values, waiting.metadata(index).cloned(), drift);
        }
        sealed
    }

    fn is_full(&self) -> bool {
        let kept = self
            .kept
            .as_ref()
            .map_or(0, |kept| self.kept_elsewhere + kept.byte_count() + self.waiting.byte_count());
        self.open_count() >= u64::from(self.policy.observations_max) || kept >= REGIME_BYTES_MAX
    }

    /// Returns the regime without what waits, and leaves none.
    fn take(&mut self) -> Sealed {
        let dim = self.state.mean.len();
        let state = std::mem::replace(&mut self.state, State::new(dim));
        let rows = self.kept.as_mut().map(|kept| std::mem::replace(kept, Rows::new(dim)));
        self.kept_elsewhere = 0;
        state.into_sealed(self.inverse_unit.clone(), rows)
    }

    fn refresh_units(&mut self) {
        let Some(noise) = &self.noise else { return };
        for (channel, inverse) in self.inverse_unit.iter_mut().enumerate() {
            *inverse = 1.0 / noise.unit(channel, &self.policy);
        }
    }
}

impl State {
    fn new(dim: usize) -> Self {
        Self {
            count: 0,
            start: 0,
            end: 0,
            mean: vec![0.0; dim],
            m2: vec![0.0; dim],
            slow: vec![0.0; dim],
            first: vec![0.0; dim],
            last: vec![0.0; dim],
            drift_sum: 0.0,
            drift_max: 0.0,
            drift_now: 0.0,
        }
    }

    fn fits(&self, dim: usize) -> bool {
        [self.mean.len(), self.m2.len(), self.slow.len(), self.first.len(), self.last.len()]
            .iter()
            .all(|len| *len == dim)
    }

    fn absorb(&mut self, time: i64, values: &[f32], drift: f64) {
        if self.count == 0 {
            self.start = time;
            self.first.copy_from_slice(values);
        }
        self.end = time;
        self.last.copy_from_slice(values);
        self.count += 1;
        self.drift_sum += drift;
        self.drift_max = self.drift_max.max(drift);
        let share = 1.0 / f64::from(self.count);
        for ((value, mean), m2) in values.iter().zip(&mut self.mean).zip(&mut self.m2) {
            let value = f64::from(*value);
            let before = value - *mean;
            *mean += before * share;
            *m2 += before * (value - *mean);
        }
    }

    fn into_sealed(self, inverse_unit: Vec<f64>, rows: Option<Rows>) -> Sealed {
        let count = f64::from(self.count);
        // The residuals refer to the mean that is stored, not to the one it was rounded from.
        let mean: Vec<f32> = self.mean.iter().copied().map(to_f32).collect();
        let residual = |values: &[f32]| {
            let pairs = values.iter().zip(&mean);
            Scaled::encode(pairs.map(|(value, mean)| f64::from(*value) - f64::from(*mean)))
        };
        Sealed {
            count: self.count,
            start: self.start,
            end: self.end,
            spread: Scaled::encode(self.m2.iter().map(|m2| (m2.max(0.0) / count).sqrt())),
            first: residual(&self.first),
            last: residual(&self.last),
            // Rounding the mean of equal drifts may pass their maximum by one bit.
            drift_mean: to_f32((self.drift_sum / count).min(self.drift_max)),
            drift_max: to_f32(self.drift_max),
            mean,
            inverse_unit,
            rows,
        }
    }
}

impl Noise {
    fn new(dim: usize) -> Self {
        Self { seen: 0, step: vec![0.0; dim], magnitude: vec![0.0; dim], before: vec![0.0; dim] }
    }

    fn fits(&self, dim: usize) -> bool {
        self.step.len() == dim && self.magnitude.len() == dim && self.before.len() == dim
    }

    fn observe(&mut self, values: &[f32], weight: f64) {
        // The first observations weigh equally, so that none of them dominates the estimate.
        let step_weight = weight.max(1.0 / f64::from(self.seen.max(1)));
        let weight = weight.max(1.0 / f64::from(self.seen + 1));
        for (channel, value) in values.iter().map(|value| f64::from(*value)).enumerate() {
            let magnitude = &mut self.magnitude[channel];
            *magnitude += weight * (value.abs() - *magnitude);
            if self.seen > 0 {
                let difference = (value - f64::from(self.before[channel])).abs();
                self.step[channel] += step_weight * (difference - self.step[channel]);
            }
        }
        self.before.copy_from_slice(values);
        self.seen = self.seen.saturating_add(1);
    }

    fn unit(&self, channel: usize, policy: &SegmentPolicy) -> f64 {
        let relative = policy.noise_relative_min * self.magnitude[channel];
        self.step[channel].max(relative).max(policy.noise_absolute_min)
    }
}

/// Returns the root mean square over channels of what `term` makes of (x - mean) / unit.
fn root_mean_square(
    values: &[f32],
    mean: &[f64],
    inverse_unit: &[f64],
    mut term: impl FnMut(usize, f64) -> f64,
) -> f64 {
    let dim = values.len();
    let (mean, inverse_unit) = (&mean[..dim], &inverse_unit[..dim]);
    let sum = sum_of(dim, |channel| {
        let value = (f64::from(values[channel]) - mean[channel]) * inverse_unit[channel];
        let term = term(channel, value);
        term * term
    });
    (sum / dim as f64).sqrt()
}

/// Returns one over the width of each range.
pub(crate) fn inverse_of(lower: &[f32], upper: &[f32]) -> Vec<f64> {
    let inverse = |(lower, upper): (&f32, &f32)| 1.0 / (f64::from(*upper) - f64::from(*lower));
    lower.iter().zip(upper).map(inverse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::Fidelity;
    use crate::collection::{CollectionName, Dim};

    fn spec(dim: u16, units: Option<Units>) -> CollectionSpec {
        let dim = Dim::new(dim).unwrap();
        let units = units.unwrap_or_else(|| Units::unit_range(dim));
        CollectionSpec::new(CollectionName::new("c").unwrap(), dim, units)
    }

    /// Feeds one-channel values one second apart and returns the sealed regimes.
    fn feed(regime: &mut Regime, values: impl IntoIterator<Item = f32>) -> Vec<Sealed> {
        let from = regime.newest();
        let timed = values.into_iter().enumerate();
        timed.filter_map(|(i, v)| regime.observe(from + 1 + i as i64, &[v], None)).collect()
    }

    #[test]
    fn a_step_seals_after_three_points_and_they_begin_the_next_regime() {
        let mut regime = Regime::new(&spec(1, None));
        assert!(feed(&mut regime, [0.5; 20]).is_empty());
        assert!(feed(&mut regime, [0.9; 2]).is_empty());
        let sealed = feed(&mut regime, [0.9]);
        assert_eq!((sealed[0].count, sealed[0].mean[0]), (20, 0.5));
        assert_eq!((regime.state().count, regime.state().mean[0] as f32), (3, 0.9));
    }

    #[test]
    fn a_copy_ends_where_the_regime_does_though_it_lacks_what_was_kept() {
        let wide = CollectionSpec { fidelity: Fidelity::Lossless, ..spec(4096, None) };
        let (mut regime, row) = (Regime::new(&wide), [0.5; 4096]);
        let full = REGIME_BYTES_MAX.div_ceil(8 + 4 * row.len()) as i64;
        for time in 0..full - 500 {
            assert!(regime.observe(time, &row, None).is_none());
        }
        let mut copy = regime.ahead().ahead();
        for time in full - 500..full - 1 {
            assert!(regime.observe(time, &row, None).is_none());
            assert!(copy.observe(time, &row, None).is_none());
        }
        let [ended, of_copy] = [&mut regime, &mut copy].map(|regime| {
            regime.observe(full - 1, &row, None).map(|sealed| (sealed.count, sealed.rows))
        });
        let (ended, of_copy) = (ended.unwrap(), of_copy.unwrap());
        assert_eq!((i64::from(ended.0), ended.0), (full, of_copy.0));
        assert_eq!(of_copy.1.map(|rows| rows.count()), Some(500));
        // What comes next is not short of anything.
        assert_eq!(copy.kept_elsewhere, 0);
    }

    #[test]
    fn outliers_shorter_than_the_hysteresis_are_taken_back() {
        let mut regime = Regime::new(&spec(1, None));
        feed(&mut regime, [0.5; 50]);
        assert!(feed(&mut regime, [0.9, 0.9, 0.5]).is_empty());
        assert_eq!(regime.state().count, 53);
        assert!((regime.state().drift_max - 0.4).abs() < 1e-6);
    }

    #[test]
    fn a_slow_move_below_the_threshold_is_seen() {
        let mut regime = Regime::new(&spec(1, None));
        feed(&mut regime, [0.5; 1000]);
        // 0.07 away is below the threshold of 0.08, and above the slow one.
        assert_eq!(feed(&mut regime, [0.57; 40]).len(), 1);
        let mut fast_only = spec(1, None);
        fast_only.policy.slow_threshold = 1e9;
        let mut regime = Regime::new(&fast_only);
        feed(&mut regime, [0.5; 1000]);
        assert!(feed(&mut regime, [0.57; 40]).is_empty());
    }

    #[test]
    fn the_noise_floor_is_learned_per_channel() {
        let mut regime = Regime::new(&spec(1, Some(Units::NoiseFloor)));
        let noise = |i: i32| 1000.0 + (i * 7919 % 13) as f32;
        assert!(feed(&mut regime, (0..500).map(noise)).is_empty());
        assert_eq!(feed(&mut regime, (0..10).map(|i| noise(i) + 200.0)).len(), 1);
    }

    #[test]
    fn a_regime_has_a_largest_size() {
        let mut small = spec(1, None);
        small.policy.observations_max = 10;
        let mut regime = Regime::new(&small);
        let sealed = feed(&mut regime, [0.5; 25]);
        assert_eq!(sealed.iter().map(|s| s.count).collect::<Vec<_>>(), [10, 10]);
        assert_eq!(regime.state().count, 5);
        assert_eq!(regime.seal().map(|s| s.count), Some(5));
        assert!(regime.seal().is_none());
    }

    #[test]
    fn a_checkpoint_keeps_everything() {
        let lossless = CollectionSpec { fidelity: Fidelity::Lossless, ..spec(1, None) };
        let mut regime = Regime::new(&lossless);
        feed(&mut regime, [0.5, 0.5, 0.5, 0.5, 0.9]);
        let bytes = dunlin_wire::cbor::encode(&regime.record()).unwrap();
        let record = dunlin_wire::cbor::decode(&bytes, 1 << 20).unwrap();
        let mut restored = Regime::restore(&lossless, record).unwrap();
        let (a, b) = (feed(&mut regime, [0.9, 0.9]), feed(&mut restored, [0.9, 0.9]));
        assert_eq!(a[0].rows, b[0].rows);
        assert_eq!(a[0].spread.to_bytes(), b[0].spread.to_bytes());
        assert!(regime.state() == restored.state());
        assert!(Regime::restore(&spec(1, None), regime.record()).is_none());
    }
}
