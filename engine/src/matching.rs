//! What is known that each incoming observation is nearest to.
//!
//! An observation is compared with the regimes of its entity that have ended and with the references that the
//! shell keeps here ([`Engine::keep_references`]), by the rules of `known.rs` in the collection's own units.
//! What is found is kept for the newest observation of each entity, and counted. It is in memory alone and
//! in no segment: references come and go with the peers that sent them, while segments depend on what was
//! observed. After a restart, or when the references change, it is there again with the next observation.
//!
//! Every row is compared, roughly and in vector instructions; those that may be the nearest after that are compared
//! exactly, so the answer is the one of a plain comparison. It costs the same however an entity moves.
//!
//! [`Engine::keep_references`]: crate::Engine::keep_references

use crate::{
    collection::{CollectionSpec, Units},
    distance::{rms_in_units, sum_of},
    interleaved::{Interleaved, Point},
    references::{Reference, Sources, left_of},
    regime::inverse_of,
    simd::Level,
};

/// Own regimes that an observation is compared with as it comes in, the newest: all 512 that questions look at would
/// take a third of the rate of ingest.
pub(crate) const OWN_LIVE_MAX: usize = 128;

/// The references of one collection, for what comes in.
pub(crate) struct Kept {
    pub(crate) references: Vec<Reference>,
    pub(crate) fade_us: Option<u64>,
    /// Another number for each change.
    pub(crate) epoch: u64,
    sources: Sources,
    level: Level,
}

/// The newest regimes of an entity that have ended, oldest first.
#[derive(Default)]
pub(crate) struct Past {
    pub(crate) means: Interleaved,
    pub(crate) ended: Vec<Ended>,
}

/// Which regime ended, and when.
#[derive(Clone, Copy)]
pub(crate) struct Ended {
    /// The number of its segment.
    pub(crate) number: u64,
    pub(crate) start: i64,
    pub(crate) end: i64,
}

/// What an entity's newest observation is like.
#[derive(Default)]
pub(crate) struct Matching {
    pub(crate) newest: Option<Match>,
}

/// The known behavior that is nearest to a point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Match {
    pub(crate) nearest: Which,
    /// In units.
    pub(crate) distance: f64,
    /// How much farther the second nearest is, in units; `None` when only one is known.
    pub(crate) margin: Option<f64>,
    /// Of the references that it was found among.
    pub(crate) epoch: u64,
}

/// A known behavior.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// The own segment of this number.
    Own(u64),
    /// The reference of this index.
    Reference(usize),
}

/// Everything that a point of one entity is compared with: its own regimes are group 0, and each source of
/// references that count is one more.
pub(crate) struct Field<'a> {
    means: &'a Interleaved,
    /// As many of the own regimes as count, the newest.
    ended: &'a [Ended],
    inverse_unit: &'a [f64],
    kept: &'a Kept,
    left: f64,
    groups: usize,
}

/// Room for what one observation is compared with. One serves many.
#[derive(Default)]
pub(crate) struct Scratch {
    point: Point,
    own: Vec<(f64, usize)>,
    /// Of each source.
    foreign: Vec<(f64, usize)>,
}

impl Kept {
    /// Returns the references of a collection; `epoch` tells them from others before. Without declared
    /// ranges each entity has its own units, and nothing from elsewhere has a place in them.
    pub(crate) fn new(
        spec: &CollectionSpec,
        references: Vec<Reference>,
        fade_us: Option<u64>,
        epoch: u64,
    ) -> Self {
        let sources = match &spec.units {
            Units::Range { lower, upper } => Sources::new(&references, &inverse_of(lower, upper)),
            Units::NoiseFloor => Sources::new(&[], &[]),
        };
        Self { references, fade_us, epoch, sources, level: Level::detect() }
    }

    /// Returns the instructions that comparisons use.
    pub(crate) const fn level(&self) -> Level {
        self.level
    }
}

impl Past {
    pub(crate) fn push(&mut self, mean: &[f32], ended: Ended) {
        self.means.push(mean);
        self.ended.push(ended);
    }

    /// Returns how far a regime with this mean is from the nearest of the newest `count` of these, in units; `None`
    /// when there are none.
    pub(crate) fn nearest(
        &self,
        mean: &[f32],
        inverse_unit: &[f64],
        count: usize,
        level: Level,
    ) -> Option<f64> {
        let (mut point, mut nearest) = (Point::default(), None);
        point.set(mean, inverse_unit);
        self.means.each_near(count, 1, &mut point, level, |row, _| {
            let distance = rms_in_units(&self.means.row(row), mean, inverse_unit);
            nearest = Some(nearest.map_or(distance, |nearest: f64| nearest.min(distance)));
        });
        nearest
    }

    /// Returns which of these are the newest `count`.
    fn newest(&self, count: usize) -> &[Ended] {
        &self.ended[self.ended.len().saturating_sub(count)..]
    }

    /// Forgets all but the newest `count`.
    pub(crate) fn forget_but(&mut self, count: usize) {
        self.means.forget_but(count);
        self.ended.drain(..self.ended.len().saturating_sub(count));
    }

    /// Returns how many bytes of memory a regime takes.
    pub(crate) const fn byte_count_each(dim: usize) -> usize {
        dim * size_of::<f32>() + size_of::<Ended>()
    }
}

impl Matching {
    /// Takes the newest observation of the entity.
    pub(crate) fn observe(&mut self, values: &[f32], field: &Field<'_>, scratch: &mut Scratch) {
        if field.ended.is_empty() && field.groups == 1 {
            return self.newest = None;
        }
        let Scratch { point, own, foreign } = scratch;
        point.set(values, field.inverse_unit);
        own.clear();
        field.nearest(0, point, 2, own);
        foreign.clear();
        for group in 1..field.groups {
            field.nearest(group, point, 1, foreign);
        }
        self.newest = field.name(own, foreign);
    }
}

impl<'a> Field<'a> {
    /// Returns what an entity is compared with that knows the newest `count` of its past.
    pub(crate) fn new(
        past: &'a Past,
        count: usize,
        inverse_unit: &'a [f64],
        kept: &'a Kept,
    ) -> Self {
        let ended = past.newest(count);
        let known_us = match (ended.first(), ended.last()) {
            (Some(first), Some(last)) => last.end.abs_diff(first.start),
            _ => 0,
        };
        let left = left_of(kept.fade_us, known_us);
        let sources = if kept.sources.counts(left) { kept.sources.count() } else { 0 };
        Self { means: &past.means, ended, inverse_unit, kept, left, groups: 1 + sources }
    }

    /// Returns how far a point is from the nearest reference that counts, and which that is.
    pub(crate) fn reference(&self, point: &[f64]) -> Option<(usize, f64)> {
        self.kept.sources.nearest(point, self.left)
    }

    /// Adds the distances and rows of the `most` (1 or 2) that are nearest in a group to those that were found, of
    /// equals those that came first.
    fn nearest(&self, group: usize, point: &mut Point, most: usize, found: &mut Vec<(f64, usize)>) {
        let (rows, count) = match group.checked_sub(1) {
            None => (self.means, self.ended.len()),
            Some(source) => (self.kept.sources.rows(source).0, usize::MAX),
        };
        let before = found.len();
        rows.each_near(count, most, point, self.kept.level, |row, exact| {
            let squares = self.squares(group, row, exact);
            let place = before + found[before..].partition_point(|(less, _)| *less <= squares);
            if place < before + most {
                found.truncate(before + most - 1);
                found.insert(place, (squares, row));
            }
        });
        for (distance, _) in &mut found[before..] {
            *distance = (*distance / self.inverse_unit.len() as f64).sqrt();
        }
    }

    /// Returns the sum of the squared differences of a row and a point.
    fn squares(&self, group: usize, row: usize, point: &[f64]) -> f64 {
        let dim = point.len();
        if let Some(source) = group.checked_sub(1) {
            let row = &self.kept.sources.rows(source).1[row * dim..][..dim];
            return sum_of(dim, |channel| {
                let difference = row[channel] - point[channel];
                difference * difference
            });
        }
        let inverse = &self.inverse_unit[..dim];
        sum_of(dim, |channel| {
            let mean = f64::from(self.means.value(row, channel));
            let difference = mean * inverse[channel] - point[channel];
            difference * difference
        })
    }

    /// Names what is nearest, of the nearest own rows and the nearest one of each source.
    fn name(&self, own: &[(f64, usize)], foreign: &[(f64, usize)]) -> Option<Match> {
        let older = self.means.len() - self.ended.len();
        // What is endlessly far away is not known.
        let own = own.iter().filter(|(distance, _)| distance.is_finite());
        let own =
            own.map(|(distance, row)| (*distance, Which::Own(self.ended[*row - older].number)));
        let nearest_of = |source: usize| {
            let (distance, row) = foreign[source];
            (row, distance)
        };
        let reference = match foreign {
            [] => None,
            _ => self.kept.sources.counted(self.left, nearest_of),
        };
        let reference = reference.map(|(index, distance)| (distance, Which::Reference(index)));
        let (mut nearest, mut second): (Option<(f64, Which)>, Option<f64>) = (None, None);
        for found in own.chain(reference) {
            // Of equals the own one is named.
            if nearest.is_none_or(|(distance, _)| found.0 < distance) {
                second = nearest.map(|(distance, _)| distance);
                nearest = Some(found);
            } else {
                second = Some(second.map_or(found.0, |second| second.min(found.0)));
            }
        }
        let (distance, which) = nearest?;
        let margin = second.map(|second| second - distance);
        Some(Match { nearest: which, distance, margin, epoch: self.kept.epoch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        collection::{CollectionName, Dim},
        distance::in_units,
    };

    const DIM: usize = 19;

    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> f32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 40) as f32 / (1_u64 << 24) as f32
        }

        fn row(&mut self) -> Vec<f32> {
            (0..DIM).map(|_| self.next()).collect()
        }
    }

    fn kept(references: Vec<Reference>, epoch: u64) -> Kept {
        let dim = Dim::new(DIM as u16).unwrap();
        let name = CollectionName::new("c").unwrap();
        let spec = CollectionSpec::new(name, dim, Units::unit_range(dim));
        Kept::new(&spec, references, Some(1_000_000), epoch)
    }

    fn references(numbers: &mut Numbers, sources: usize) -> Vec<Reference> {
        let reference = |index: usize| Reference {
            id: index.to_string(),
            source: (index % sources).to_string(),
            is_witness: index % sources == 1,
            centroid: numbers.row(),
        };
        (0..20 * sources).map(reference).collect()
    }

    /// Returns the two nearest of `rows`, as sums of squares and positions, compared one by one.
    fn plainly(
        rows: &[f32],
        point: &[f64],
        inverse_unit: &[f64],
        most: usize,
    ) -> Vec<(f64, usize)> {
        let squares = |row: &[f32]| {
            let row = in_units(row, inverse_unit);
            sum_of(point.len(), |i| (row[i] - point[i]) * (row[i] - point[i]))
        };
        let mut all: Vec<_> = rows.chunks_exact(point.len()).map(squares).zip(0..).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.truncate(most);
        all.iter().map(|(squares, row)| ((squares / point.len() as f64).sqrt(), *row)).collect()
    }

    /// Of all sizes: rows that differ in the last bits, copies, values and units that single precision has no room
    /// for.
    #[test]
    fn the_nearest_are_those_of_a_plain_comparison() {
        let mut numbers = Numbers(1);
        let kept = kept(Vec::new(), 1);
        for round in 0..400 {
            let (dim, count) = (1 + round % DIM, 1 + round % 13);
            let scale = [1.0, 1e-3, 1e-22, 1e-38, 1e19, 3e38][round % 6];
            let spread = [1.0, 1e-3, 1e-6][round % 3];
            let mut one = || (0..dim).map(|_| scale * numbers.next()).collect::<Vec<f32>>();
            let base = one();
            let mut near = || -> Vec<f32> {
                let other = one();
                base.iter()
                    .zip(&other)
                    .map(|(base, other)| base + spread * (other - base))
                    .collect()
            };
            let mut past = Past::default();
            for number in 0..count {
                past.push(&near(), Ended { number: number as u64, start: 0, end: 1 });
            }
            let first = past.means.row(0);
            past.push(&first, Ended { number: 99, start: 0, end: 1 });
            let values = near();
            for unit in [1.0, 1e-3, 1e-44, f64::from(scale)] {
                let inverse_unit = vec![1.0 / unit; dim];
                let field = Field::new(&past, 512, &inverse_unit, &kept);
                let (mut point, mut found) = (Point::default(), Vec::new());
                point.set(&values, &inverse_unit);
                field.nearest(0, &mut point, 2, &mut found);
                let (point, means) = (in_units(&values, &inverse_unit), past.means.newest(512));
                assert_eq!(found, plainly(&means, &point, &inverse_unit, 2), "{round} {unit}");
            }
        }
    }

    #[test]
    fn what_an_observation_is_like_is_the_nearest_of_all_that_is_known() {
        let mut numbers = Numbers(3);
        for sources in [1, 3, 5, 17] {
            let references = references(&mut numbers, sources);
            let (kept, mut past) = (kept(references.clone(), 1), Past::default());
            for number in 0..30 {
                past.push(&numbers.row(), Ended { number, start: 0, end: 1 });
            }
            let inverse_unit = [1.0; DIM];
            for _ in 0..50 {
                let values = numbers.row();
                let field = Field::new(&past, 512, &inverse_unit, &kept);
                let mut matching = Matching::default();
                matching.observe(&values, &field, &mut Scratch::default());
                let point = in_units(&values, &inverse_unit);
                let own = plainly(&past.means.newest(512), &point, &inverse_unit, 2);
                let own = own.iter().map(|(distance, row)| (*distance, Which::Own(*row as u64)));
                let foreign = field.reference(&point);
                let foreign = foreign.map(|(index, distance)| (distance, Which::Reference(index)));
                let mut all: Vec<_> = own.chain(foreign).collect();
                all.sort_by(|a, b| a.0.total_cmp(&b.0));
                let found = matching.newest.unwrap();
                assert_eq!((found.distance, found.nearest), all[0]);
                assert_eq!(found.margin, Some(all[1].0 - all[0].0));
            }
        }
    }

    #[test]
    fn references_that_changed_are_compared_anew() {
        let mut numbers = Numbers(2);
        let first = kept(references(&mut numbers, 3), 1);
        let second = kept(references(&mut numbers, 3), 2);
        let (point, inverse_unit) = (numbers.row(), [1.0; DIM]);
        let mut matching = Matching::default();
        let past = Past::default();
        let mut find = |kept: &Kept| {
            let field = Field::new(&past, 512, &inverse_unit, kept);
            matching.observe(&point, &field, &mut Scratch::default());
            matching.newest
        };
        let (before, after) = (find(&first).unwrap(), find(&second).unwrap());
        assert_eq!((before.epoch, after.epoch), (1, 2));
        assert_ne!(before.distance, after.distance);
        assert_eq!(find(&kept(Vec::new(), 3)), None);
    }

    #[test]
    fn the_past_forgets_its_oldest() {
        let mut past = Past::default();
        for number in 0..5 {
            past.push(&[number as f32; 2], Ended { number, start: 0, end: 1 });
        }
        past.forget_but(3);
        assert_eq!((past.newest(512).len(), past.newest(512)[0].number), (3, 2));
        assert_eq!(past.means.newest(2), [3.0, 3.0, 4.0, 4.0]);
    }
}
