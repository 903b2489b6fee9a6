//! What regimes a fleet has: behaviours that are done again and again, and what is done but once.
//!
//! Every sealed segment is folded into one of a bounded number of *micro-clusters*, the nearest one when it is
//! near enough: counts and sums, as in Zhang, Ramakrishnan and Livny, "BIRCH: An Efficient Data Clustering Method
//! for Very Large Databases" (1996). When there are too many, what counts as near enough grows and they are
//! folded into one another. So a fleet is looked at segment by segment as it goes on, in the same memory.
//!
//! The micro-clusters are then clustered by density (`density.rs`): each dense group is a *behaviour*, and its
//! micro-clusters are its detail, for centers of dense groups alone say little: the daily cycle of a server
//! is one group. What is in no group is an *outlier*.
//!
//! # Privacy
//!
//! None of this is private, and none of it leaves the node: which segments form a group depends on every one
//! of them, whatever noise would be added to its center. What is released is made by [`release()`](crate::release()) alone,
//! whose partition does not depend on data.

mod density;
mod micro;

use self::micro::{Micro, Sum};
use crate::bounds::Bounds;

/// Micro-clusters of one fleet, at most. Clustering them takes time with their square: about a second for these.
pub const MICROS_MAX: usize = 2_048;

/// What counts as near enough at first, in parts of the channels' ranges: an eighth of the drift at which a
/// regime ends by default.
const RADIUS: f64 = 0.01;

/// By how much that grows when there are too many micro-clusters: enough that they become fewer quickly.
const GROWTH: f64 = 1.5;

/// How far outside its range a value counts, in widths of the range.
const OUTSIDE_MAX: f64 = 1.0;

/// Fewest segments of a behaviour, and the least part of all segments that it has: a hundredth, as a template must
/// stand for to be released.
const SEGMENTS_MIN: u64 = 5;
const SHARE_MIN: f64 = 0.01;

/// How many times sparser than the middle of its group a micro-cluster may be before it is an outlier.
const SPARSER_MAX: f64 = 3.0;

/// Outliers that are listed, the newest ones.
pub const OUTLIERS_MAX: usize = 100;

/// Channels by which a behaviour is described.
const TRAITS_MAX: usize = 3;

/// Least difference of such a channel from what is usual, in standard deviations of the fleet's segments.
const TRAIT_MIN: f64 = 0.5;

/// One sealed segment, as far as discovery looks at it.
#[derive(Clone, Copy)]
pub struct Stay<'a> {
    /// Its number.
    pub segment: u64,
    /// Whose it is: a number that stands for the entity, such as a hash of its name.
    pub entity: u64,
    /// Times of its first and last observation, in microseconds since the epoch.
    pub start_us: i64,
    /// See [`Self::start_us`].
    pub end_us: i64,
    /// How many observations it has.
    pub observations: u64,
    /// Their mean.
    pub mean: &'a [f32],
}

impl std::fmt::Debug for Stay<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stay").field("segment", &self.segment).finish_non_exhaustive()
    }
}

/// Everything that was seen of one collection, folded into little.
#[derive(Clone)]
pub struct Discovery {
    inverse_range: Vec<f64>,
    lower: Vec<f64>,
    /// Up to this distance a segment belongs to a micro-cluster.
    radius: f64,
    micros: Vec<Micro>,
    segments: u64,
}

/// What a fleet does.
#[derive(Clone, Debug, PartialEq)]
pub struct Behaviours {
    /// By falling number of segments.
    pub behaviours: Vec<Behaviour>,
    /// The newest of the micro-clusters that are in no behaviour.
    pub outliers: Vec<Outlier>,
    /// Segments in all of these.
    pub outlier_segments: u64,
    /// Segments that were looked at.
    pub segments: u64,
    /// Micro-clusters that they were folded into.
    pub micros: usize,
    /// How far apart, in parts of the ranges, two segments of one micro-cluster may be from its center.
    pub radius: f64,
}

/// Something that is done again and again.
#[derive(Clone, PartialEq)]
pub struct Behaviour {
    /// Mean of its segments, each channel in its own unit.
    pub centroid: Vec<f32>,
    /// Root mean square distance of its segments from that, in parts of the ranges.
    pub spread: f64,
    /// Its micro-clusters: how many segments, and the mean of these.
    pub details: Vec<(u64, Vec<f32>)>,
    /// How many segments it has.
    pub segments: u64,
    /// How many observations they have.
    pub observations: u64,
    /// How many entities were seen in it; at least, where [`Self::is_entities_cut`].
    pub entities: usize,
    /// Whether there may be more.
    pub is_entities_cut: bool,
    /// How long a stay lasts, in microseconds: the mean over its segments.
    pub dwell_us: u64,
    /// Which part of the time spent in it falls into each hour of the day, UTC.
    pub hours: [f64; 24],
    /// When it was seen first and last, in microseconds since the epoch.
    pub first_us: i64,
    /// See [`Self::first_us`].
    pub last_us: i64,
    /// The channels in which it differs most from what is usual, and by how many standard deviations of the
    /// fleet's segments; the most first.
    pub traits: Vec<(usize, f64)>,
}

impl std::fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Behaviour")
            .field("segments", &self.segments)
            .field("entities", &self.entities)
            .field("details", &self.details.len())
            .finish_non_exhaustive()
    }
}

/// Something that was done hardly ever.
#[derive(Clone, Debug, PartialEq)]
pub struct Outlier {
    /// The newest of its segments.
    pub segment: u64,
    /// Whose that is.
    pub entity: u64,
    /// When it ended, in microseconds since the epoch.
    pub end_us: i64,
    /// How many segments there are of it.
    pub segments: u64,
    /// Which behaviour is nearest to it, by place in the answer, and how far its nearest detail is, in parts of
    /// the ranges; `None` when there are none.
    pub nearest: Option<(usize, f64)>,
}

impl Discovery {
    /// Returns that nothing was seen yet. Distances are root mean squares over channels, in parts of `bounds`.
    #[must_use]
    pub fn new(bounds: &Bounds) -> Self {
        let pairs = || bounds.lower().iter().zip(bounds.upper());
        let width = |(lower, upper): (&f32, &f32)| f64::from(*upper) - f64::from(*lower);
        Self {
            inverse_range: pairs().map(|pair| 1.0 / width(pair)).collect(),
            lower: bounds.lower().iter().map(|lower| f64::from(*lower)).collect(),
            radius: RADIUS,
            micros: Vec::new(),
            segments: 0,
        }
    }

    /// Returns how many segments were seen.
    #[must_use]
    pub const fn segments(&self) -> u64 {
        self.segments
    }

    /// Takes a segment in. One of another dimension, or with a mean that is not finite, is passed over.
    pub fn add(&mut self, stay: &Stay<'_>) {
        let finite = stay.mean.iter().all(|value| value.is_finite());
        if stay.mean.len() != self.inverse_range.len() || !finite {
            return;
        }
        self.segments += 1;
        let scale = self.lower.iter().zip(&self.inverse_range);
        // Values may lie outside the ranges, but nothing is gained by telling far from farther.
        let scaled = |(value, (lower, inverse)): (&f32, (&f64, &f64))| {
            ((f64::from(*value) - lower) * inverse).clamp(-OUTSIDE_MAX, 1.0 + OUTSIDE_MAX)
        };
        let point = stay.mean.iter().zip(scale).map(scaled).collect();
        self.fold(&Micro::of(stay, point));
        while self.micros.len() > MICROS_MAX {
            self.radius *= GROWTH;
            for micro in std::mem::take(&mut self.micros) {
                self.fold(&micro);
            }
        }
    }

    /// Puts a micro-cluster into the nearest one, or beside them.
    fn fold(&mut self, micro: &Micro) {
        let mut bound = self.radius * self.radius * micro.center.len() as f64;
        let mut nearest = None;
        for (place, other) in self.micros.iter().enumerate() {
            if let Some(squares) = micro::squares_within(&other.center, &micro.center, bound) {
                (bound, nearest) = (squares, Some(place));
            }
        }
        match nearest {
            Some(place) => {
                self.micros[place].join(micro);
                self.micros[place].cut();
            }
            None => self.micros.push(micro.clone()),
        }
    }

    /// Returns what was found so far. Takes time with the square of the micro-clusters, whatever was folded into
    /// them.
    #[must_use]
    pub fn behaviours(&self) -> Behaviours {
        let least = (SHARE_MIN * self.segments as f64).ceil() as u64;
        let least = least.max(SEGMENTS_MIN);
        let mut groups =
            density::groups(&self.micros, self.radius, SEGMENTS_MIN, least, SPARSER_MAX);
        let segments = |group: &Vec<usize>| -> u64 {
            group.iter().map(|place| self.micros[*place].segments).sum()
        };
        // Stable: of equals the one that was seen first comes first.
        groups.sort_by_key(|group| std::cmp::Reverse(segments(group)));
        let mut behaviour_of = vec![None; self.micros.len()];
        for (behaviour, group) in groups.iter().enumerate() {
            group.iter().for_each(|place| behaviour_of[*place] = Some(behaviour));
        }
        let outside = self.micros.iter().zip(&behaviour_of).filter(|(_, of)| of.is_none());
        let mut outside: Vec<&Micro> = outside.map(|(micro, _)| micro).collect();
        let outlier_segments = outside.iter().map(|micro| micro.segments).sum();
        outside.sort_by_key(|micro| std::cmp::Reverse((micro.last_us, micro.segment)));
        outside.truncate(OUTLIERS_MAX);
        Behaviours {
            behaviours: self.described(&groups),
            outliers: outside.iter().map(|micro| self.outlier(micro, &behaviour_of)).collect(),
            outlier_segments,
            segments: self.segments,
            micros: self.micros.len(),
            radius: self.radius,
        }
    }

    fn described(&self, groups: &[Vec<usize>]) -> Vec<Behaviour> {
        let Some(usual) = Sum::of(self.micros.iter()) else { return Vec::new() };
        let describe = |group: &Vec<usize>| {
            let micros = group.iter().map(|place| &self.micros[*place]);
            Sum::of(micros.clone()).map(|sum| self.describe(&sum.micro, micros, &usual))
        };
        groups.iter().filter_map(describe).collect()
    }

    fn describe<'a>(
        &self,
        sum: &Micro,
        micros: impl Iterator<Item = &'a Micro>,
        usual: &Sum,
    ) -> Behaviour {
        let mut details: Vec<(u64, Vec<f32>)> =
            micros.map(|micro| (micro.segments, self.in_own_units(&micro.center))).collect();
        details.sort_by_key(|(segments, _)| std::cmp::Reverse(*segments));
        let (entities, is_entities_cut) = sum.entities();
        Behaviour {
            centroid: self.in_own_units(&sum.center),
            spread: sum.spread(),
            details,
            segments: sum.segments,
            observations: sum.observations,
            entities,
            is_entities_cut,
            dwell_us: sum.dwell_us(),
            hours: sum.hours(),
            first_us: sum.first_us,
            last_us: sum.last_us,
            traits: traits(sum, usual),
        }
    }

    fn outlier(&self, micro: &Micro, behaviour_of: &[Option<usize>]) -> Outlier {
        let mut nearest: Option<(usize, f64)> = None;
        for (other, of) in self.micros.iter().zip(behaviour_of) {
            let Some(behaviour) = of else { continue };
            let bound = nearest.map_or(f64::INFINITY, |(_, squares)| squares);
            if let Some(squares) = micro::squares_within(&other.center, &micro.center, bound) {
                nearest = Some((*behaviour, squares));
            }
        }
        let dim = self.inverse_range.len() as f64;
        Outlier {
            segment: micro.segment,
            entity: micro.entity,
            end_us: micro.last_us,
            segments: micro.segments,
            nearest: nearest.map(|(behaviour, squares)| (behaviour, (squares / dim).sqrt())),
        }
    }

    /// Returns values that are in parts of the ranges.
    #[expect(clippy::cast_possible_truncation, reason = "means of f32 values")]
    fn in_own_units(&self, center: &[f64]) -> Vec<f32> {
        let scale = self.lower.iter().zip(&self.inverse_range);
        center
            .iter()
            .zip(scale)
            .map(|(value, (lower, inverse))| (value / inverse + lower) as f32)
            .collect()
    }
}

/// Returns the channels in which a behaviour differs most from what is usual, in its deviations.
fn traits(sum: &Micro, usual: &Sum) -> Vec<(usize, f64)> {
    let pairs = sum.center.iter().zip(&usual.micro.center).zip(&usual.deviation);
    let differences = pairs.map(|((value, mean), deviation)| match *deviation > 0.0 {
        true => (value - mean) / deviation,
        false => 0.0,
    });
    let mut traits: Vec<(usize, f64)> = differences.enumerate().collect();
    traits.retain(|(_, difference)| difference.abs() >= TRAIT_MIN);
    traits.sort_by(|a, b| b.1.abs().total_cmp(&a.1.abs()));
    traits.truncate(TRAITS_MAX);
    traits
}

impl std::fmt::Debug for Discovery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Discovery")
            .field("segments", &self.segments)
            .field("micros", &self.micros.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIM: usize = 6;
    const HOUR_US: i64 = 3_600_000_000;

    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> f32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (self.0 >> 40) as f32 / (1_u64 << 24) as f32
        }
    }

    fn bounds() -> Bounds {
        Bounds::uniform(DIM, 0.0, 100.0).unwrap()
    }

    /// Ten servers: at night one behaviour, at daytime another, and now and then something else.
    fn fleet(days: i64, mut each: impl FnMut(&Stay<'_>)) {
        let mut numbers = Numbers(1);
        let mut segment = 0;
        for day in 0..days {
            for entity in 0..10_u64 {
                for part in 0..8 {
                    let start_us = (day * 24 + part * 3) * HOUR_US;
                    let is_odd = day % 7 == 3 && entity == 4 && part == 6;
                    let level = if part < 3 { 20.0 } else { 70.0 };
                    let value = |channel: usize, noise: f32| match (is_odd, channel) {
                        (true, _) => 100.0 * noise,
                        (_, 0 | 1) => level + 4.0 * noise,
                        _ => 40.0 + 4.0 * noise,
                    };
                    let mean: Vec<f32> =
                        (0..DIM).map(|channel| value(channel, numbers.next())).collect();
                    segment += 1;
                    let end_us = start_us + 2 * HOUR_US;
                    let observations = 120;
                    each(&Stay { segment, entity, start_us, end_us, observations, mean: &mean });
                }
            }
        }
    }

    #[test]
    fn what_a_fleet_does_again_and_again_is_named_and_the_rest_stands_apart() {
        let mut discovery = Discovery::new(&bounds());
        fleet(28, |stay| discovery.add(stay));
        let found = discovery.behaviours();
        assert_eq!((found.segments, found.behaviours.len()), (28 * 80, 2), "{found:?}");
        let (day, night) = (&found.behaviours[0], &found.behaviours[1]);
        assert_eq!((day.entities, night.entities, day.is_entities_cut), (10, 10, false));
        assert_eq!(found.outlier_segments, 4, "one for each week");
        assert_eq!(day.segments + night.segments + 4, found.segments);
        assert_eq!(day.observations, 120 * day.segments);
        assert!((day.centroid[0] - 72.0).abs() < 1.0 && (night.centroid[1] - 22.0).abs() < 1.0);
        assert_eq!((day.dwell_us, night.dwell_us), (2 * HOUR_US as u64, 2 * HOUR_US as u64));
        // Nights last from 0 to 8, two hours of each three.
        let of_night: f64 = night.hours[..8].iter().sum();
        assert!(of_night > 0.99 && day.hours[..8].iter().sum::<f64>() < 0.01, "{night:?}");
        let names = |traits: &[(usize, f64)]| {
            let mut channels: Vec<usize> = traits.iter().map(|(channel, _)| *channel).collect();
            channels.sort_unstable();
            channels
        };
        assert_eq!(names(&night.traits), [0, 1]);
        assert!(night.traits.iter().all(|(_, by)| *by < -1.0));
        let outlier = &found.outliers[0];
        assert_eq!((outlier.entity, outlier.segments), (4, 1));
        assert_eq!(outlier.end_us, (24 * 24 + 20) * HOUR_US, "the newest first");
        assert!(outlier.nearest.unwrap().1 > 0.1);
        // The details are of all segments, and near the whole.
        let of_details: u64 = night.details.iter().map(|(segments, _)| segments).sum();
        assert!(of_details == night.segments && night.details.len() > 1);
    }

    #[test]
    fn a_crowd_of_segments_is_folded_into_bounded_memory() {
        let mut discovery = Discovery::new(&bounds());
        let mut numbers = Numbers(2);
        for segment in 0..3 * MICROS_MAX as u64 {
            let mean: Vec<f32> = (0..DIM).map(|_| 100.0 * numbers.next()).collect();
            discovery.add(&Stay {
                segment,
                entity: segment,
                start_us: 0,
                end_us: 1,
                observations: 1,
                mean: &mean,
            });
            assert!(discovery.micros.len() <= MICROS_MAX);
        }
        assert!(discovery.radius > RADIUS);
        assert_eq!(discovery.micros.iter().map(|micro| micro.segments).sum::<u64>(), 6_144);
    }

    #[test]
    fn what_was_seen_before_a_question_is_in_the_answer_to_the_next() {
        let (mut step_by_step, mut at_once) =
            (Discovery::new(&bounds()), Discovery::new(&bounds()));
        fleet(14, |stay| {
            step_by_step.add(stay);
            if stay.segment.is_multiple_of(300) {
                assert_eq!(step_by_step.behaviours().segments, stay.segment);
            }
            at_once.add(stay);
        });
        assert_eq!(step_by_step.behaviours(), at_once.behaviours());
    }

    #[test]
    fn odd_segments_are_passed_over_and_nothing_is_no_behaviour() {
        let mut discovery = Discovery::new(&bounds());
        let odd =
            |mean| Stay { segment: 1, entity: 1, start_us: 0, end_us: 0, observations: 1, mean };
        discovery.add(&odd(&[1.0]));
        discovery.add(&odd(&[f32::NAN; DIM]));
        let found = discovery.behaviours();
        assert_eq!((found.segments, found.behaviours.len(), found.outliers.len()), (0, 0, 0));
        discovery.add(&odd(&[-1e30; DIM]));
        let found = discovery.behaviours();
        assert_eq!((found.outlier_segments, found.outliers[0].nearest), (1, None));
    }
}
