//! How far an entity is from what the others of its collection do at the same time.
//!
//! Entities differ in level and liveliness, so each is first put into its own units: its state at the time
//! minus the mean of its past, over the standard deviation of its past. The others' common state is the
//! median in each channel; the divergence is the root mean square of the difference from it. What moves
//! the whole fleet, such as the load of a day, moves the median too and does not diverge.
//!
//! The state of another entity is the mean of the regimes that it was in at the time. Such a regime may
//! have gone on afterwards; that is the one place where a factor, though never a score, looks ahead.

use crate::{
    distance::{rms, squash},
    error::ReadError,
    known::{Behavior, Pooled, floor_of},
    question::{Asked, Question},
};

/// Most other entities that one is compared with: enough for a median, few enough to be read for each
/// question. They are the next ones by name, in a circle.
pub(crate) const PEERS_MAX: usize = 16;

/// A divergence, in standard deviations, that scores one half.
const THRESHOLD: f64 = 1.0;

/// An entity and those that it is compared with; asked about rising times.
pub(crate) struct Peers {
    own: Timeline,
    others: Vec<Timeline>,
}

/// The regimes of one entity in order, and what they were before the time asked about.
struct Timeline {
    regimes: Vec<Behavior>,
    /// The first regime that has not ended before the time.
    next: usize,
    past: Pooled,
    floor: Vec<f64>,
}

impl Peers {
    /// Reads what is needed about times from `from` to `to`.
    pub(crate) fn new(
        question: &Question,
        own: &Asked,
        others: &[Asked],
        from: i64,
        to: i64,
    ) -> Result<Self, ReadError> {
        let timeline = |asked: &Asked| Timeline::read(question, asked, from, to);
        let others = others.iter().map(timeline).collect::<Result<_, _>>()?;
        Ok(Self { own: timeline(own)?, others })
    }

    /// Returns how far `point` is from what the others do from `start` to `end`, 0 to 1; `None` when
    /// there are none, or one's own past does not say what is usual.
    pub(crate) fn divergence(&mut self, point: &[f32], start: i64, end: i64) -> Option<f64> {
        let point: Vec<f64> = point.iter().map(|value| f64::from(*value)).collect();
        self.own.advance(start);
        let own = self.own.standardized(&point)?;
        let states: Vec<Vec<f64>> =
            self.others.iter_mut().filter_map(|other| other.state(start, end)).collect();
        if states.is_empty() {
            return None;
        }
        let mut column = vec![0.0; states.len()];
        let medians: Vec<f64> = (0..own.len())
            .map(|channel| {
                column.iter_mut().zip(&states).for_each(|(to, state)| *to = state[channel]);
                median(&mut column)
            })
            .collect();
        Some(squash(rms(&own, &medians), THRESHOLD))
    }
}

impl Timeline {
    fn read(question: &Question, asked: &Asked, from: i64, to: i64) -> Result<Self, ReadError> {
        let before_max = question.spec.policy.novelty_regimes_max as usize;
        let of_entity = |from, to| question.sealed(asked, (from, to));
        let mut regimes = Vec::new();
        for stored in of_entity(i64::MIN, from)?.rev().take(before_max) {
            regimes.push(Behavior::sealed(&stored?));
        }
        regimes.reverse();
        let known = regimes.last().map(|regime| regime.start);
        for stored in of_entity(from, to)? {
            let regime = Behavior::sealed(&stored?);
            if known.is_none_or(|known| regime.start > known) {
                regimes.push(regime);
            }
        }
        regimes.extend(asked.open.as_ref().map(Behavior::open));
        let past = Pooled::new(asked.inverse_unit.len());
        let floor = floor_of(&question.spec.units, &asked.inverse_unit);
        Ok(Self { regimes, next: 0, past, floor })
    }

    /// Adds to the past what had ended before `time`.
    fn advance(&mut self, time: i64) {
        while let Some(regime) = self.regimes.get(self.next).filter(|regime| regime.end < time) {
            self.past.add_regime(regime);
            self.next += 1;
        }
    }

    /// Returns the entity's state from `start` to `end`, in its own units.
    fn state(&mut self, start: i64, end: i64) -> Option<Vec<f64>> {
        self.advance(start);
        let coming = self.regimes.get(self.next..)?;
        let mut sums = vec![0.0; self.floor.len()];
        let mut total = 0.0;
        for regime in coming.iter().take_while(|regime| regime.start <= end) {
            // A microsecond more, so that a moment has a length too.
            let (from, to) = (regime.start.max(start), regime.end.min(end));
            let length = to.abs_diff(from) as f64 + 1.0;
            total += length;
            sums.iter_mut().zip(&regime.mean).for_each(|(sum, m)| *sum += length * f64::from(*m));
        }
        if total > 0.0 {
            sums.iter_mut().for_each(|sum| *sum /= total);
            return self.standardized(&sums);
        }
        // Between two observations an entity is still in the regime of the first.
        let before = self.regimes.get(self.next.checked_sub(1)?).filter(|_| !coming.is_empty())?;
        let mean: Vec<f64> = before.mean.iter().map(|value| f64::from(*value)).collect();
        self.standardized(&mean)
    }

    fn standardized(&self, point: &[f64]) -> Option<Vec<f64>> {
        let inverse = self.past.inverse_deviation(&self.floor);
        let from_mean = point.iter().zip(&self.past.mean).zip(inverse);
        (self.past.count > 0.0)
            .then(|| from_mean.map(|((value, mean), inverse)| (value - mean) * inverse).collect())
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_between_the_middle_two() {
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&mut [4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
