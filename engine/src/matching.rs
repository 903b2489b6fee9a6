//! What is known that each incoming observation is nearest to.
//!
//! An observation is compared with the regimes of its entity that have ended and with the references that the
//! shell keeps here ([`Engine::keep_references`]), by the rules of `known.rs` in the collection's own units.
//! What is found is kept for the newest observation of each entity, and counted. It is in memory alone and
//! in no segment: references come and go with the peers that sent them, while segments depend on what was
//! observed. After a restart, or when the references change, it is there again with the next observation.
//!
//! An entity mostly stays where it was. So with each full comparison the nearest rows are kept, by rising
//! distance from the point that was compared: its *anchor*. By the triangle inequality a row that was d away from
//! the anchor is at least d - m away from a point that moved by m, so a few rows are compared with the next
//! points, and the answer is the same as that of all.
//!
//! [`Engine::keep_references`]: crate::Engine::keep_references

use crate::{
    collection::{CollectionSpec, Units},
    distance::{ROUGH, in_units, rms, rough_squares, sum_of},
    references::{Reference, Sources, left_of},
    regime::inverse_of,
    segment::to_f32,
};

/// Own regimes that an observation is compared with as it comes in, the newest: with all 512 that questions look
/// at, an entity that jumps about would take several times as long.
pub(crate) const OWN_LIVE_MAX: usize = 128;

/// Own regimes that are kept with an anchor: the two that a match names, and some more to move among.
const OWN_KEPT: usize = 8;

/// References that are kept with an anchor, of each source, of which the nearest counts.
const REFERENCES_KEPT: usize = 2;

/// With more sources than this nothing is kept, so that an entity takes little memory: all rows are compared.
const SOURCES_KEPT_MAX: usize = 16;

/// What sums of rounded values may be off by, in parts of a distance: far more than they are.
const ROUNDING: f64 = 1e-9;

/// The references of one collection, for what comes in.
pub(crate) struct Kept {
    pub(crate) references: Vec<Reference>,
    pub(crate) fade_us: Option<u64>,
    /// Another number for each change.
    pub(crate) epoch: u64,
    sources: Sources,
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
    anchor: Option<Box<Anchor>>,
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

/// A point that was compared with everything, and what was nearest to it.
struct Anchor {
    epoch: u64,
    /// The newest regime that it was compared with.
    newest: Option<u64>,
    point: Vec<f64>,
    groups: Vec<Near>,
}

/// The rows of a group that are nearest to an anchor.
struct Near {
    /// Distances from the anchor, rising, and rows.
    rows: Vec<(f64, usize)>,
    /// No other row is nearer than this.
    horizon: f64,
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
        Self { references, fade_us, epoch, sources }
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
        let point = in_units(values, field.inverse_unit);
        let newest = field.ended.last().map(|ended| ended.number);
        let is_current = |anchor: &&Anchor| {
            anchor.epoch == field.kept.epoch
                && anchor.newest == newest
                && anchor.groups.len() == field.groups
        };
        let anchor = self.anchor.as_deref().filter(is_current);
        if let Some(found) = anchor.and_then(|anchor| anchor.nearest(&point, field)) {
            self.newest = field.name(&found);
            return;
        }
        let narrow: Vec<f32> = field.inverse_unit.iter().copied().map(to_f32).collect();
        let near = |group| field.near(group, values, &point, &narrow);
        let groups: Vec<Near> = (0..field.groups).map(near).collect();
        let found: Vec<&[(f64, usize)]> = groups.iter().map(|near| &near.rows[..]).collect();
        self.newest = field.name(&found);
        let is_kept = groups.len() <= 1 + SOURCES_KEPT_MAX;
        let anchor = || Box::new(Anchor { epoch: field.kept.epoch, newest, point, groups });
        self.anchor = is_kept.then(anchor);
    }
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

    /// Compares a point with all rows of a group: roughly with each, and exactly with those that may be kept.
    /// The point comes as it was observed and in units, the units in both widths.
    fn near(&self, group: usize, values: &[f32], point: &[f64], narrow: &[f32]) -> Near {
        let kept = if group == 0 { OWN_KEPT } else { REFERENCES_KEPT };
        let dim = point.len();
        let rows = match group.checked_sub(1) {
            None => self.means,
            Some(source) => self.kept.sources.rows(source).0,
        };
        // One more than is kept tells how far away all others are at least.
        let mut ranked = Ranked { most: kept + 1, rows: Vec::with_capacity(kept + 1) };
        let mut bound = f64::INFINITY;
        for (index, row) in rows.chunks_exact(dim).enumerate() {
            let rough = rough_squares(row, values, narrow);
            if rough.is_finite() && f64::from(rough) > bound * (1.0 + ROUGH) {
                continue;
            }
            let squares = self.squares(group, index, point);
            if squares < bound {
                ranked.insert(squares, index);
                bound = ranked.bound();
            }
        }
        let mut rows = ranked.into_distances(dim);
        let horizon = if rows.len() > kept { rows[kept].0 } else { f64::INFINITY };
        rows.truncate(kept);
        Near { rows, horizon }
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
    fn name(&self, found: &[impl AsRef<[(f64, usize)]>]) -> Option<Match> {
        let (own, foreign) = found.split_first()?;
        let own = own.as_ref().iter().take(2);
        let own = own.map(|(distance, row)| (*distance, Which::Own(self.ended[*row].number)));
        let nearest_of = |source: usize| {
            let (distance, row) = foreign[source].as_ref()[0];
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

impl Anchor {
    /// Returns what is nearest to a point in each group; `None` when rows that are not kept may be.
    fn nearest(&self, point: &[f64], field: &Field<'_>) -> Option<Vec<Vec<(f64, usize)>>> {
        let moved = rms(&self.point, point) * (1.0 + ROUNDING);
        let groups = self.groups.iter().enumerate();
        groups.map(|(group, near)| near.nearest(group, point, moved, field)).collect()
    }
}

impl Near {
    fn nearest(
        &self,
        group: usize,
        point: &[f64],
        moved: f64,
        field: &Field<'_>,
    ) -> Option<Vec<(f64, usize)>> {
        let dim = point.len();
        let most = if group == 0 { 2 } else { 1 };
        let mut ranked = Ranked { most, rows: Vec::with_capacity(most) };
        let is_farther = |there: f64, bound: f64| {
            let at_least = (there * (1.0 - ROUNDING) - moved).max(0.0);
            at_least * at_least * dim as f64 > bound
        };
        for (there, row) in &self.rows {
            let bound = ranked.bound();
            if is_farther(*there, bound) {
                break;
            }
            let squares = field.squares(group, *row, point);
            if squares < bound {
                ranked.insert(squares, *row);
            }
        }
        let is_sure = self.horizon.is_infinite() || is_farther(self.horizon, ranked.bound());
        is_sure.then(|| ranked.into_distances(dim))
    }
}

impl Ranked {
    /// What has a sum of squares of this or more is not among the nearest.
    fn bound(&self) -> f64 {
        if self.rows.len() < self.most { f64::INFINITY } else { self.rows[self.most - 1].0 }
    }

    fn insert(&mut self, squares: f64, row: usize) {
        let place = self.rows.partition_point(|(less, _)| *less <= squares);
        self.rows.truncate(self.most - 1);
        self.rows.insert(place, (squares, row));
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

    /// However an entity moves, what is found from an anchor is what a comparison with all rows finds, and
    /// small moves need no such comparison.
    #[test]
    fn from_an_anchor_the_same_is_found_as_among_all_rows() {
        let mut numbers = Numbers(1);
        let (mut from_anchors, mut all) = (0, 0);
        for sources in [1, 3, 5, SOURCES_KEPT_MAX + 1] {
            let kept = kept(references(&mut numbers, sources), 1);
            let (mut past, mut moving) = (Past::default(), Matching::default());
            let mut at = numbers.row();
            for step in 0..2_000_u64 {
                if step.is_multiple_of(100) {
                    let time = step as i64 * 50;
                    past.push(&numbers.row(), Ended { number: step, start: time, end: time + 1 });
                }
                // Now a little, now anywhere.
                let far = if step.is_multiple_of(37) { 1.0 } else { 0.01 };
                at.iter_mut().for_each(|value| *value += far * (numbers.next() - 0.5));
                let inverse_unit = [1.0; DIM];
                let field = Field::new(past.newest(512, DIM), &inverse_unit, &kept);
                let before = moving.anchor.as_ref().map(|anchor| anchor.point.clone());
                moving.observe(&at, &field);
                let mut fresh = Matching::default();
                fresh.observe(&at, &field);
                assert_eq!(moving.newest, fresh.newest);
                all += 1;
                let is_same = before.is_some()
                    && moving.anchor.as_ref().map(|anchor| &anchor.point) == before.as_ref();
                from_anchors += usize::from(is_same);
            }
        }
        assert!(from_anchors * 2 > all, "{from_anchors} of {all}");
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
