//! What counts as known of one entity, and how far a point is from it.
//!
//! Known are the newest of the entity's own regimes that have ended, at most `novelty_regimes_max`, and
//! the references that came with the question, as `references.rs` has them count. A distance is the root mean
//! square over channels of (x - mean) / unit. Which unit is best differs from one kind of data to the next, so
//! there are three, all of them from means, spreads and counts of the known regimes alone:
//!
//! - `range`: the collection's own unit;
//! - `z`: the standard deviation of everything known, within regimes and between them;
//! - `noise`: the standard deviation within regimes.
//!
//! The blend is the geometric mean of the three distances. It needs no weights: what a unit is multiplied
//! by changes no ranking. In the blend a regime is known by as much as was seen of it: the distance is
//! the mean over the nearest [`KNOWN_OBSERVATIONS`] observations, each at its regime's mean, so three
//! observations that once went astray do not make their place normal. `docs/anomalies.md` has the measurements.

use std::collections::VecDeque;

use dunlin_wire::Cid;

use crate::{
    collection::{SegmentPolicy, Units},
    distance::{in_units, rms},
    question::{Question, Unsealed},
    references::{Reference, Sources, left_of},
    rows::Rows,
    score::{Nearest, ScoreUnits},
    segment::{Segment, to_f32},
    store::Stored,
    timing::{Presence, Timing, timing},
};

/// How many observations near a point make it fully known, in the blend: three windows of ten. Between
/// 10 and 100 the average precision moved by less than .01 on SMD and ASD.
const KNOWN_OBSERVATIONS: f64 = 30.0;

/// Lowest unit of `z` and `noise`, in shares of the declared range: steadier channels would turn their
/// last digit into an anomaly.
const RANGE_FLOOR: f64 = 0.01;

/// A distance in standard deviations that scores one half.
const Z_THRESHOLD: f64 = 1.0;

/// A distance in deviations within regimes that scores one half.
const NOISE_THRESHOLD: f64 = 3.0;

/// A regime, as far as scores look at it.
#[derive(Clone)]
pub(crate) struct Behavior {
    /// `None` for a regime that no segment holds yet.
    pub(crate) cid: Option<Cid>,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) count: f64,
    pub(crate) mean: Vec<f32>,
    pub(crate) spread: Vec<f32>,
}

/// Count, mean and squared deviations of several regimes together.
pub(crate) struct Pooled {
    pub(crate) count: f64,
    pub(crate) mean: Vec<f64>,
    /// Sums of squares around each regime's own mean.
    within: Vec<f64>,
    /// Sums of squares of the regimes' means around the common one.
    between: Vec<f64>,
}

/// The known regimes of an entity.
pub(crate) struct Known<'a> {
    /// Each set of references stands for itself, beside the entity's own regimes.
    sets: &'a [Vec<Reference>],
    fade_us: Option<u64>,
    inverse_unit: &'a [f64],
    floor: Vec<f64>,
    regimes_max: usize,
    known_after_us: u64,
    /// How many observations make a behavior fully known.
    quota: f64,
    /// Ended, but not long enough ago; oldest first.
    queue: VecDeque<Behavior>,
    own: VecDeque<Behavior>,
    presence: VecDeque<Presence>,
    /// One, or those of the blend; the first names the nearest.
    scales: Vec<Scale>,
    is_stale: bool,
}

/// Everything known in one kind of unit, row-major.
struct Scale {
    units: ScoreUnits,
    threshold: f64,
    inverse: Vec<f64>,
    own: Vec<f64>,
    /// One for each set of references.
    foreign: Vec<Sources>,
}

/// What was found about one point, with the first set of references.
pub(crate) struct Judged {
    /// Distances over their thresholds, one for each unit in use; 0 when nothing is known.
    pub(crate) levels: Vec<f64>,
    pub(crate) nearest: Nearest,
    /// How far the nearest known behavior counts as being, over the threshold; `None` when nothing is known.
    pub(crate) distance: Option<f64>,
    /// How much farther the second nearest known behavior is than the nearest, over the threshold; `None`
    /// when fewer than two are known.
    pub(crate) margin: Option<f64>,
    pub(crate) timing: Option<Timing>,
}

impl Behavior {
    /// Returns what scores need of a sealed regime.
    pub(crate) fn sealed(stored: &Stored) -> Self {
        let segment: &Segment = &stored.segment;
        Self {
            cid: Some(stored.cid),
            start: segment.start().0,
            end: segment.end().0,
            count: f64::from(segment.count()),
            mean: segment.mean().to_vec(),
            spread: segment.spread(),
        }
    }

    /// Returns what scores need of an open regime.
    pub(crate) fn open(open: &Unsealed) -> Self {
        Self {
            cid: None,
            start: open.start,
            end: open.end,
            count: f64::from(open.count),
            mean: open.mean.clone(),
            // Nothing is compared with it, so nobody asks how far it spreads.
            spread: Vec::new(),
        }
    }

    /// Returns the regime of the observations up to `until`; `None` when there are none.
    pub(crate) fn of_rows(rows: &Rows, until: i64) -> Option<Self> {
        let mut pooled = Pooled::new(rows.dim());
        let (mut start, mut end) = (None, 0);
        for (time, values) in rows.iter().filter(|(time, _)| time.0 <= until) {
            start.get_or_insert(time.0);
            end = time.0;
            pooled.add(values, None, 1.0);
        }
        let spread = pooled.between.iter().map(|squares| to_f32((squares / pooled.count).sqrt()));
        Some(Self {
            cid: None,
            start: start?,
            end,
            count: pooled.count,
            spread: spread.collect(),
            mean: pooled.mean.iter().copied().map(to_f32).collect(),
        })
    }
}

impl Pooled {
    pub(crate) fn new(dim: usize) -> Self {
        let zero = vec![0.0; dim];
        Self { count: 0.0, mean: zero.clone(), within: zero.clone(), between: zero }
    }

    pub(crate) fn add_regime(&mut self, regime: &Behavior) {
        self.add(&regime.mean, Some(&regime.spread), regime.count);
    }

    fn add(&mut self, mean: &[f32], spread: Option<&[f32]>, count: f64) {
        self.count += count;
        let share = count / self.count;
        for (channel, value) in mean.iter().enumerate() {
            let before = f64::from(*value) - self.mean[channel];
            self.mean[channel] += before * share;
            self.between[channel] += count * before * (f64::from(*value) - self.mean[channel]);
        }
        for (within, spread) in self.within.iter_mut().zip(spread.unwrap_or_default()) {
            *within += count * f64::from(*spread) * f64::from(*spread);
        }
    }

    /// Returns one over the standard deviation of everything, softly kept above `floor`.
    pub(crate) fn inverse_deviation(&self, floor: &[f64]) -> Vec<f64> {
        let squares =
            self.within.iter().zip(&self.between).map(|(within, between)| within + between);
        self.inverse_of(squares, floor)
    }

    /// Returns one over the standard deviation within regimes, softly kept above `floor`.
    fn inverse_noise(&self, floor: &[f64]) -> Vec<f64> {
        self.inverse_of(self.within.iter().copied(), floor)
    }

    fn inverse_of(&self, squares: impl Iterator<Item = f64>, floor: &[f64]) -> Vec<f64> {
        let count = self.count.max(1.0);
        squares.zip(floor).map(|(sum, floor)| 1.0 / (sum / count + floor * floor).sqrt()).collect()
    }
}

/// Returns the lowest unit of each channel in `z` and `noise`.
pub(crate) fn floor_of(units: &Units, inverse_unit: &[f64]) -> Vec<f64> {
    let share = match units {
        Units::Range { .. } => RANGE_FLOOR,
        // The unit is a noise floor already.
        Units::NoiseFloor => 1.0,
    };
    inverse_unit.iter().map(|inverse| share / inverse).collect()
}

impl<'a> Known<'a> {
    /// Returns that only the references are known, of which there is at least one set. Regimes become
    /// known `known_after_us` after they ended.
    pub(crate) fn new(
        question: &Question,
        inverse_unit: &'a [f64],
        sets: &'a [Vec<Reference>],
        fade_us: Option<u64>,
        units: ScoreUnits,
        known_after_us: u64,
    ) -> Self {
        let policy = &question.spec.policy;
        let parts: &[ScoreUnits] = match units {
            ScoreUnits::Blended => &[ScoreUnits::Range, ScoreUnits::Z, ScoreUnits::Noise],
            ScoreUnits::Range => &[ScoreUnits::Range],
            ScoreUnits::Z => &[ScoreUnits::Z],
            ScoreUnits::Noise => &[ScoreUnits::Noise],
        };
        Self {
            sets,
            fade_us,
            inverse_unit,
            floor: floor_of(&question.spec.units, inverse_unit),
            regimes_max: policy.novelty_regimes_max as usize,
            known_after_us,
            quota: if units == ScoreUnits::Blended { KNOWN_OBSERVATIONS } else { 1.0 },
            queue: VecDeque::new(),
            own: VecDeque::new(),
            presence: VecDeque::new(),
            scales: parts.iter().map(|part| Scale::new(*part, policy)).collect(),
            is_stale: true,
        }
    }

    /// Takes a regime that is known as soon as it is old enough; regimes come in order.
    pub(crate) fn await_end(&mut self, regime: Behavior) {
        self.queue.push_back(regime);
    }

    /// Takes a regime that is known from now on, and forgets the oldest beyond the policy's limit.
    pub(crate) fn learn(&mut self, regime: Behavior) {
        self.presence.push_back(Presence::between(regime.start, regime.end));
        self.own.push_back(regime);
        if self.own.len() > self.regimes_max {
            self.own.pop_front();
            self.presence.pop_front();
        }
        self.is_stale = true;
    }

    /// Compares a point with what is known at its start: the entity's own regimes, and the first set of
    /// references.
    pub(crate) fn judge(&mut self, point: &[f32], start: i64, end: i64) -> Judged {
        self.settle(start);
        let mut levels = Vec::with_capacity(self.scales.len());
        let (mut near, mut least, mut margin, mut when) = (Nearest::None, None, None, None);
        for (place, scale) in self.scales.iter().enumerate() {
            let point = in_units(point, &scale.inverse);
            let own = scale.own_distances(&point);
            let foreign = self.foreign(scale, 0, &point);
            let distance = self.distance(&self.nearest_own(&own), foreign.map(|found| found.1));
            levels.push(distance / scale.threshold);
            if place == 0 {
                (near, least, margin) = self.name(&own, foreign, scale.threshold);
                when = self.timing(&own, scale.threshold, Presence::between(start, end));
            }
        }
        Judged { levels, nearest: near, distance: least, margin, timing: when }
    }

    /// Returns which known behavior a point is nearest to, how far that is and how much farther the next one:
    /// what [`Self::judge`] says of the first unit, and no more.
    pub(crate) fn name_nearest(
        &mut self,
        point: &[f32],
        start: i64,
    ) -> (Nearest, Option<f64>, Option<f64>) {
        self.settle(start);
        let scale = &self.scales[0];
        let point = in_units(point, &scale.inverse);
        let foreign = self.foreign(scale, 0, &point);
        self.name(&scale.own_distances(&point), foreign, scale.threshold)
    }

    /// Returns the levels of a point with each set of references in turn, one for each unit in use.
    pub(crate) fn levels(&mut self, point: &[f32], start: i64) -> Vec<Vec<f64>> {
        self.settle(start);
        let mut levels = vec![Vec::with_capacity(self.scales.len()); self.sets.len()];
        for scale in &self.scales {
            let point = in_units(point, &scale.inverse);
            let own = self.nearest_own(&scale.own_distances(&point));
            for (set, levels) in levels.iter_mut().enumerate() {
                let foreign = self.foreign(scale, set, &point).map(|found| found.1);
                levels.push(self.distance(&own, foreign) / scale.threshold);
            }
        }
        levels
    }

    /// Learns what has become known by now.
    fn settle(&mut self, now: i64) {
        let after = self.known_after_us;
        let has_settled = |regime: &Behavior| regime.end.saturating_add_unsigned(after) < now;
        while self.queue.front().is_some_and(has_settled) {
            let settled = self.queue.pop_front();
            settled.into_iter().for_each(|regime| self.learn(regime));
        }
        self.refresh();
    }

    /// Returns which reference of a set counts as the nearest, and how far it counts as being: farther the
    /// longer the entity's own past is.
    fn foreign(&self, scale: &Scale, set: usize, point: &[f64]) -> Option<(usize, f64)> {
        let known_us = match (self.own.front(), self.own.back()) {
            (Some(first), Some(last)) => last.end.abs_diff(first.start),
            _ => 0,
        };
        scale.foreign[set].nearest(point, left_of(self.fade_us, known_us))
    }

    /// Returns distance and observations of the nearest own regimes, nearest first: as many as can count.
    fn nearest_own(&self, own: &[f64]) -> Vec<(f64, f64)> {
        let mut order: Vec<usize> = (0..own.len()).collect();
        let by_distance = |a: &usize, b: &usize| own[*a].total_cmp(&own[*b]);
        // Every regime has an observation, so no more regimes than the quota are ever looked at.
        let needed = self.quota as usize;
        if order.len() > needed {
            order.select_nth_unstable_by(needed, by_distance);
            order.truncate(needed);
        }
        order.sort_unstable_by(by_distance);
        order.into_iter().map(|index| (own[index], self.own[index].count)).collect()
    }

    /// Returns the mean distance of the nearest observations that fill the quota; a reference fills it
    /// whole. 0 when nothing is known.
    fn distance(&self, own: &[(f64, f64)], foreign: Option<f64>) -> f64 {
        let (mut sum, mut filled) = (0.0, 0.0);
        for (distance, count) in own {
            if filled >= self.quota || foreign.is_some_and(|foreign| foreign < *distance) {
                break;
            }
            let more = count.min(self.quota - filled);
            sum += more * distance;
            filled += more;
        }
        if let Some(foreign) = foreign {
            sum += (self.quota - filled) * foreign;
            filled = self.quota;
        }
        if filled > 0.0 { sum / filled } else { 0.0 }
    }

    /// Names what is nearest, and returns how far that is and how much farther the next one, over the threshold.
    fn name(
        &self,
        own: &[f64],
        foreign: Option<(usize, f64)>,
        threshold: f64,
    ) -> (Nearest, Option<f64>, Option<f64>) {
        let mut nearest: Option<(Option<usize>, f64)> = None;
        let mut second: Option<f64> = None;
        let own = own.iter().enumerate().map(|(index, distance)| (Some(index), *distance));
        for (index, distance) in own.chain(foreign.map(|(_, distance)| (None, distance))) {
            if nearest.is_none_or(|(_, least)| distance < least) {
                second = nearest.map(|(_, least)| least);
                nearest = Some((index, distance));
            } else if second.is_none_or(|least| distance < least) {
                second = Some(distance);
            }
        }
        let margin = nearest.zip(second).map(|((_, least), second)| (second - least) / threshold);
        let distance = nearest.map(|(_, least)| least / threshold);
        let name = match (nearest, foreign) {
            (None, _) => Nearest::None,
            (Some((None, _)), Some((index, _))) => self.reference(index),
            (Some((index, _)), _) => {
                let cid = index.and_then(|index| self.own[index].cid);
                cid.map_or(Nearest::Open, Nearest::Own)
            }
        };
        (name, distance, margin)
    }

    fn reference(&self, index: usize) -> Nearest {
        Nearest::Reference(self.sets[0][index].id.clone())
    }

    /// Returns how unusual the hour and weekday are for the regimes that are about as near as the
    /// nearest one.
    fn timing(&self, own: &[f64], threshold: f64, when: Presence) -> Option<Timing> {
        let nearest = own.iter().copied().reduce(f64::min)?;
        let alike = own.iter().map(|distance| *distance <= nearest + threshold);
        timing(&when, self.presence.iter().zip(alike))
    }

    fn refresh(&mut self) {
        if !std::mem::take(&mut self.is_stale) {
            return;
        }
        let mut pooled = Pooled::new(self.inverse_unit.len());
        self.own.iter().for_each(|regime| pooled.add_regime(regime));
        for scale in &mut self.scales {
            scale.inverse = match scale.units {
                ScoreUnits::Z => pooled.inverse_deviation(&self.floor),
                ScoreUnits::Noise => pooled.inverse_noise(&self.floor),
                ScoreUnits::Range | ScoreUnits::Blended => self.inverse_unit.to_vec(),
            };
            let inverse = &scale.inverse;
            scale.own = self.own.iter().flat_map(|known| in_units(&known.mean, inverse)).collect();
            scale.foreign = self.sets.iter().map(|set| Sources::new(set, inverse)).collect();
        }
    }
}

impl Scale {
    fn new(units: ScoreUnits, policy: &SegmentPolicy) -> Self {
        let threshold = match units {
            ScoreUnits::Range | ScoreUnits::Blended => policy.threshold,
            ScoreUnits::Z => Z_THRESHOLD,
            ScoreUnits::Noise => NOISE_THRESHOLD,
        };
        let (inverse, own, foreign) = (Vec::new(), Vec::new(), Vec::new());
        Self { units, threshold, inverse, own, foreign }
    }

    fn own_distances(&self, point: &[f64]) -> Vec<f64> {
        self.own.chunks_exact(point.len()).map(|row| rms(row, point)).collect()
    }
}

/// Returns the geometric mean of levels, the one level when there is one.
pub(crate) fn blend(levels: &[f64]) -> f64 {
    match levels {
        [level] => *level,
        [a, b, c] => (a * b * c).cbrt(),
        _ => unreachable!("a question is in one unit or in three"),
    }
}
