//! Behaviors known from elsewhere, and how much they count.
//!
//! References come from sources that nobody here controls, so each is believed within limits. Some sources
//! teach: a point near one of their references is known. All that are heard bear witness: the *majority
//! distance* is that within which more than half of them know the point. With `w` the part of the fading
//! time that is left,
//!
//! ```text
//! distance = max(least of the teachers, majority / reach) / w
//! reach = max(1, 2 w) where at least half of the sources teach and they are not three or four, or else 1
//! ```
//!
//! So a minority of sources, whatever it says, makes a point seem at most half as far as the majority has it
//! while nothing is known of the entity's own life, and no nearer than the majority has it when a part of the
//! own past is there. That one source knows what others have not met is credible among sources that live as
//! the entity does. Where most of them live otherwise, as those do that may only bear witness, the few that
//! seem alike get no credit: it may be what they are made for. Nor does anybody where there are three or four, for
//! one that lies is a large part of so few, and the others can contradict it; one or two cannot be contradicted.
//! And what others do is a guess that one's own past replaces: references move away as that grows, until they
//! count no more. `docs/privacy.md` has what this costs and what it withstands.

use crate::{
    distance::{in_units, nearest},
    interleaved::Interleaved,
};

/// How many times nearer than the majority has it one source may make a point, at most: at the very start.
const MINORITY_REACH: f64 = 2.0;

/// So many sources can contradict one of them, which is a large part of all: none brings a point nearer than the
/// majority has it.
const FEW: std::ops::RangeInclusive<usize> = 3..=4;

/// A behavior known from elsewhere, such as a peer's template.
#[derive(Clone, PartialEq)]
pub struct Reference {
    /// A name for the answer.
    pub id: String,
    /// Who vouches for it. Sources have one vote each, however many references they bring.
    pub source: String,
    /// Whether its source only bears witness: it makes nothing known, and is counted in the majority.
    pub is_witness: bool,
    /// Its center, in the collection's own values and dimension.
    pub centroid: Vec<f32>,
}

impl std::fmt::Debug for Reference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reference")
            .field("id", &self.id)
            .field("source", &self.source)
            .field("is_witness", &self.is_witness)
            .finish_non_exhaustive()
    }
}

/// The references of one set in one kind of unit, by source.
pub(crate) struct Sources(Vec<Source>);

#[derive(Default)]
struct Source {
    is_teacher: bool,
    /// Row-major, in units.
    rows: Vec<f64>,
    /// The same as they came.
    values: Interleaved,
    /// Which reference each row is.
    indices: Vec<usize>,
}

impl Sources {
    pub(crate) fn new(references: &[Reference], inverse_unit: &[f64]) -> Self {
        let mut names: Vec<&str> = Vec::new();
        let mut sources: Vec<Source> = Vec::new();
        for (index, reference) in references.iter().enumerate() {
            // Neighbors mostly share a source; there are few.
            let place = names.iter().rposition(|name| *name == reference.source);
            let place = place.unwrap_or_else(|| {
                names.push(&reference.source);
                sources.push(Source::default());
                sources.len() - 1
            });
            let source = &mut sources[place];
            source.is_teacher |= !reference.is_witness;
            source.rows.extend(in_units(&reference.centroid, inverse_unit));
            source.values.push(&reference.centroid);
            source.indices.push(index);
        }
        Self(sources)
    }

    /// Returns the nearest reference that counts and how far it counts as being, when this part of the
    /// fading time is left; `None` when nobody teaches anything, or nothing is left.
    pub(crate) fn nearest(&self, point: &[f64], left: f64) -> Option<(usize, f64)> {
        if !self.counts(left) {
            return None;
        }
        self.counted(left, |source| {
            nearest(&self.0[source].rows, point).expect("a source has a reference")
        })
    }

    /// Returns whether anything counts when this part of the fading time is left.
    pub(crate) fn counts(&self, left: f64) -> bool {
        left > 0.0 && self.0.iter().any(|source| source.is_teacher)
    }

    /// As [`Self::nearest`], where the caller knows which row of each source is nearest and how far that is.
    pub(crate) fn counted(
        &self,
        left: f64,
        nearest_of: impl Fn(usize) -> (usize, f64),
    ) -> Option<(usize, f64)> {
        let mut least: Option<(usize, f64)> = None;
        let mut distances = Vec::with_capacity(self.0.len());
        for (place, source) in self.0.iter().enumerate() {
            let (row, distance) = nearest_of(place);
            distances.push(distance);
            if source.is_teacher && least.is_none_or(|(_, least)| distance < least) {
                least = Some((source.indices[row], distance));
            }
        }
        let rank = distances.len() / 2;
        let (_, majority, _) = distances.select_nth_unstable_by(rank, f64::total_cmp);
        let teachers = self.0.iter().filter(|source| source.is_teacher).count();
        let is_alike = 2 * teachers >= self.0.len() && !FEW.contains(&self.0.len());
        let reach = if is_alike { (MINORITY_REACH * left).max(1.0) } else { 1.0 };
        let (index, distance) = least?;
        let counted = distance.max(*majority / reach) / left;
        // What is endlessly far away is not known.
        counted.is_finite().then_some((index, counted))
    }

    /// Returns how many sources there are.
    pub(crate) const fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns the rows of a source, as they came and, row-major, in units.
    pub(crate) fn rows(&self, source: usize) -> (&Interleaved, &[f64]) {
        (&self.0[source].values, &self.0[source].rows)
    }
}

/// Returns the part of the fading time that is left to an entity that knows `known_us` of its own past.
pub(crate) fn left_of(fade_us: Option<u64>, known_us: u64) -> f64 {
    match fade_us {
        None => 1.0,
        Some(fade_us) => fade_us.saturating_sub(known_us) as f64 / fade_us.max(1) as f64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference((source, value): &(&str, f32)) -> Reference {
        let (source, is_witness) = (source.trim_start_matches('!'), source.starts_with('!'));
        let id = format!("{source}/{value}");
        Reference { id, source: source.to_owned(), is_witness, centroid: vec![*value] }
    }

    /// A name that begins with `!` is a witness's; the point is at 0.
    fn distance(references: &[(&str, f32)], left: f64) -> Option<(usize, f64)> {
        let references: Vec<_> = references.iter().map(reference).collect();
        Sources::new(&references, &[1.0]).nearest(&[0.0], left)
    }

    #[test]
    fn the_nearest_teacher_counts_as_long_as_the_majority_is_not_far_away() {
        assert_eq!(distance(&[], 1.0), None);
        assert_eq!(distance(&[("a", 1.0)], 1.0), Some((0, 1.0)));
        assert_eq!(distance(&[("a", 1.0), ("b", 1.5)], 1.0), Some((0, 1.0)));
        let five = [("a", 1.0), ("b", 1.5), ("c", 1.8), ("d", 9.0), ("e", 9.0)];
        assert_eq!(distance(&five, 1.0), Some((0, 1.0)));
    }

    #[test]
    fn a_minority_brings_a_point_half_way_at_most_and_less_later() {
        let said = [("a", 0.0), ("b", 0.0), ("c", 4.0), ("d", 6.0), ("e", 8.0)];
        assert_eq!(distance(&said, 1.0), Some((0, 2.0)));
        // Nor any nearer than the majority has it, from half of the time on.
        assert_eq!(distance(&said, 0.5), Some((0, 8.0)));
    }

    #[test]
    fn a_source_has_one_vote_however_much_it_brings() {
        let crowd = [("a", 0.0), ("b", 4.0), ("a", 0.0), ("a", 0.0), ("c", 2.0)];
        assert_eq!(distance(&crowd, 1.0), Some((0, 2.0)));
    }

    #[test]
    fn witnesses_make_nothing_known_and_contradict() {
        assert_eq!(distance(&[("!a", 0.0)], 1.0), None);
        assert_eq!(distance(&[("!a", 0.0), ("b", 3.0)], 1.0), Some((1, 3.0)));
        assert_eq!(distance(&[("!a", 8.0), ("b", 3.0)], 1.0), Some((1, 4.0)));
    }

    #[test]
    fn few_teachers_among_many_witnesses_bring_a_point_no_nearer_than_the_majority_has_it() {
        assert_eq!(distance(&[("!a", 8.0), ("!b", 6.0), ("c", 0.0)], 1.0), Some((2, 6.0)));
        let most_teach = [("a", 8.0), ("!b", 6.0), ("c", 0.0), ("d", 9.0), ("!e", 9.0)];
        assert_eq!(distance(&most_teach, 1.0), Some((2, 4.0)));
    }

    #[test]
    fn of_three_or_four_nobody_brings_a_point_nearer_than_the_majority_has_it() {
        assert_eq!(distance(&[("a", 0.0), ("b", 3.0), ("c", 5.0)], 1.0), Some((0, 3.0)));
        let four = [("a", 0.0), ("b", 3.0), ("c", 5.0), ("d", 7.0)];
        assert_eq!(distance(&four, 1.0), Some((0, 5.0)));
    }

    #[test]
    fn references_move_away_with_the_own_past() {
        assert_eq!(distance(&[("a", 1.0)], 0.25), Some((0, 4.0)));
        assert_eq!(distance(&[("a", 1.0)], 0.0), None);
        assert_eq!(left_of(None, u64::MAX), 1.0);
        assert_eq!(left_of(Some(4), 1), 0.75);
        assert_eq!([left_of(Some(4), 4), left_of(Some(4), 9), left_of(Some(0), 0)], [0.0; 3]);
    }
}
