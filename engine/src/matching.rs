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
    distance::{LANES, in_units, sum_of},
    references::{Reference, Sources, left_of},
    regime::inverse_of,
    simd::{self, Level, ROUGH, ROUGH_FLOOR},
};

/// Own regimes that an observation is compared with as it comes in, the newest: with all 512 that questions look
/// at, an entity that jumps about would take several times as long.
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
    /// Their means, row-major.
    pub(crate) means: Vec<f32>,
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
    means: &'a [f32],
    ended: &'a [Ended],
    inverse_unit: &'a [f64],
    kept: &'a Kept,
    left: f64,
    groups: usize,
}

/// A point as rows are compared with it.
struct Point {
    /// In units.
    exact: Vec<f64>,
    /// As it was observed, and one over the units, filled up with zeros.
    rough: Vec<[f32; LANES]>,
    inverse_unit: Vec<[f32; LANES]>,
}

/// The rows of a group that are nearest to a point so far: sums of squares, rising, and rows.
struct Ranked {
    most: usize,
    rows: Vec<(f64, usize)>,
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
}

impl Past {
    pub(crate) fn push(&mut self, mean: &[f32], ended: Ended) {
        self.means.extend_from_slice(mean);
        self.ended.push(ended);
    }

    /// Returns the newest `count` of these.
    pub(crate) fn newest(&self, count: usize, dim: usize) -> (&[f32], &[Ended]) {
        let first = self.ended.len().saturating_sub(count);
        (&self.means[first * dim..], &self.ended[first..])
    }

    /// Forgets all but the newest `count`.
    pub(crate) fn forget_but(&mut self, count: usize, dim: usize) {
        let first = self.ended.len().saturating_sub(count);
        self.means.drain(..first * dim);
        self.ended.drain(..first);
    }

    /// Returns how many bytes of memory a regime takes.
    pub(crate) const fn byte_count_each(dim: usize) -> usize {
        dim * size_of::<f32>() + size_of::<Ended>()
    }
}

impl Matching {
    /// Takes the newest observation of the entity.
    pub(crate) fn observe(&mut self, values: &[f32], field: &Field<'_>) {
        if field.ended.is_empty() && field.groups == 1 {
            return self.newest = None;
        }
        let point = Point::new(values, field.inverse_unit);
        let mut sums = Vec::new();
        let found: Vec<_> =
            (0..field.groups).map(|group| field.nearest(group, &point, &mut sums)).collect();
        self.newest = field.name(&found);
    }
}

impl Point {
    fn new(values: &[f32], inverse_unit: &[f64]) -> Self {
        Self {
            exact: in_units(values, inverse_unit),
            rough: in_lanes(values.iter().copied()),
            inverse_unit: in_lanes(inverse_unit.iter().map(|inverse| narrowed(*inverse))),
        }
    }
}

/// Returns the inverse of a unit in single precision; infinite, so that nothing rough is relied on, where that has
/// no such number.
fn narrowed(inverse: f64) -> f32 {
    let narrow = inverse as f32;
    let is_near = (f64::from(narrow) - inverse).abs() <= ROUGH / 100.0 * inverse;
    if is_near { narrow } else { f32::INFINITY }
}

/// Returns numbers in groups, the last one filled up with zeros.
fn in_lanes(values: impl ExactSizeIterator<Item = f32>) -> Vec<[f32; LANES]> {
    let mut lanes = vec![[0.0; LANES]; values.len().div_ceil(LANES)];
    for (lane, value) in lanes.as_flattened_mut().iter_mut().zip(values) {
        *lane = value;
    }
    lanes
}

/// Returns the largest of the rough sums that one of the `most` nearest rows, 1 or 2, can have.
fn farthest_rough(sums: &[f32], most: usize) -> f64 {
    let (mut least, mut second) = (f32::INFINITY, f32::INFINITY);
    for sum in sums {
        let sum = if sum.is_finite() { *sum } else { f32::INFINITY };
        second = second.min(least.max(sum));
        least = least.min(sum);
    }
    let farthest = if most == 1 { least } else { second };
    (f64::from(farthest) + ROUGH_FLOOR) * (1.0 + ROUGH) / (1.0 - ROUGH) + ROUGH_FLOOR
}

impl<'a> Field<'a> {
    /// Returns what an entity is compared with that knows these own regimes.
    pub(crate) fn new(
        (means, ended): (&'a [f32], &'a [Ended]),
        inverse_unit: &'a [f64],
        kept: &'a Kept,
    ) -> Self {
        let known_us = match (ended.first(), ended.last()) {
            (Some(first), Some(last)) => last.end.abs_diff(first.start),
            _ => 0,
        };
        let left = left_of(kept.fade_us, known_us);
        let sources = if kept.sources.counts(left) { kept.sources.count() } else { 0 };
        Self { means, ended, inverse_unit, kept, left, groups: 1 + sources }
    }

    /// Returns how far a point is from the nearest reference that counts, and which that is.
    pub(crate) fn reference(&self, point: &[f64]) -> Option<(usize, f64)> {
        self.kept.sources.nearest(point, self.left)
    }

    /// Returns the distances and rows of what is nearest in a group: of own regimes two, of a source's references one.
    /// Room for sums is kept between uses.
    fn nearest(&self, group: usize, point: &Point, sums: &mut Vec<f32>) -> Vec<(f64, usize)> {
        let most = if group == 0 { 2 } else { 1 };
        let dim = point.exact.len();
        let rows = match group.checked_sub(1) {
            None => self.means,
            Some(source) => self.kept.sources.rows(source).0,
        };
        sums.clear();
        simd::rough_squares(self.kept.level, rows, dim, &point.rough, &point.inverse_unit, sums);
        let farthest = farthest_rough(sums, most);
        let mut ranked = Ranked { most, rows: Vec::with_capacity(most) };
        for (row, rough) in sums.iter().enumerate() {
            if !rough.is_finite() || f64::from(*rough) <= farthest {
                ranked.offer(self.squares(group, row, &point.exact), row);
            }
        }
        ranked.into_distances(dim)
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
        let (mean, inverse) = (&self.means[row * dim..][..dim], &self.inverse_unit[..dim]);
        sum_of(dim, |channel| {
            let difference = f64::from(mean[channel]) * inverse[channel] - point[channel];
            difference * difference
        })
    }

    /// Names what is nearest, of the nearest rows of each group.
    fn name(&self, found: &[Vec<(f64, usize)>]) -> Option<Match> {
        let (own, foreign) = found.split_first()?;
        // What is endlessly far away is not known.
        let own = own.iter().filter(|(distance, _)| distance.is_finite());
        let own = own.map(|(distance, row)| (*distance, Which::Own(self.ended[*row].number)));
        let nearest_of = |source: usize| {
            let (distance, row) = foreign[source][0];
            (row, distance)
        };
        let reference = match foreign {
            [] => None,
            _ => self.kept.sources.counted(self.left, nearest_of),
        };
        let reference = reference.map(|(index, distance)| (distance, Which::Reference(index)));
        let mut nearest: Vec<(f64, Which)> = own.chain(reference).collect();
        // Stable: of equals the own one is named.
        nearest.sort_by(|a, b| a.0.total_cmp(&b.0));
        let (distance, which) = *nearest.first()?;
        let margin = nearest.get(1).map(|(second, _)| second - distance);
        Some(Match { nearest: which, distance, margin, epoch: self.kept.epoch })
    }
}

impl Ranked {
    /// Takes a row in if it is among the nearest; of equals, those that came first.
    fn offer(&mut self, squares: f64, row: usize) {
        let place = self.rows.partition_point(|(less, _)| *less <= squares);
        if place < self.most {
            self.rows.truncate(self.most - 1);
            self.rows.insert(place, (squares, row));
        }
    }

    fn into_distances(self, dim: usize) -> Vec<(f64, usize)> {
        let distance = |(squares, row): (f64, usize)| ((squares / dim as f64).sqrt(), row);
        self.rows.into_iter().map(distance).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collection::{CollectionName, Dim};

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
            let first = past.means[..dim].to_vec();
            past.push(&first, Ended { number: 99, start: 0, end: 1 });
            let values = near();
            for unit in [1.0, 1e-3, 1e-44, f64::from(scale)] {
                let inverse_unit = vec![1.0 / unit; dim];
                let field = Field::new(past.newest(512, dim), &inverse_unit, &kept);
                let found = field.nearest(0, &Point::new(&values, &inverse_unit), &mut Vec::new());
                let point = in_units(&values, &inverse_unit);
                assert_eq!(found, plainly(&past.means, &point, &inverse_unit, 2), "{round} {unit}");
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
                let field = Field::new(past.newest(512, DIM), &inverse_unit, &kept);
                let mut matching = Matching::default();
                matching.observe(&values, &field);
                let point = in_units(&values, &inverse_unit);
                let own = plainly(&past.means, &point, &inverse_unit, 2);
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
            matching.observe(&point, &Field::new(past.newest(512, DIM), &inverse_unit, kept));
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
        assert_eq!(past.newest(2, 2).0, [3.0, 3.0, 4.0, 4.0]);
        past.forget_but(3, 2);
        assert_eq!((past.ended.len(), past.ended[0].number, past.means.len()), (3, 2, 6));
        assert_eq!(past.newest(512, 2).1.len(), 3);
    }
}
