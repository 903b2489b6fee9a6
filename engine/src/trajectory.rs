//! How alike two courses are, whatever their pace: two entities, or one entity at two times.
//!
//! Each course is read off the regimes, sealed and open, at equally many moments of the time in which
//! anything is known, and the two are aligned elastically ([`crate::alignment`]). So the answer costs as
//! much as the number of points that is asked for, not as the number of observations.

use crate::{
    alignment::align,
    collection::CollectionName,
    course::{Met, Stretch},
    distance::{rms, squash},
    engine::Engine,
    error::ReadError,
    observation::{EntityId, Timestamp},
    preferred::{OWN, Preferred},
    question::{Asked, Coverage, Detail, Question, TimeRange},
};

/// Most points of a course.
pub const TRAJECTORY_POINTS_MAX: usize = 4_096;

/// One course: an entity in a stretch of time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Course {
    /// The entity.
    pub entity: EntityId,
    /// The stretch of time.
    pub range: TimeRange,
}

/// A question for how alike two courses are.
#[derive(Clone, Debug, PartialEq)]
pub struct TrajectoryQuery {
    /// The collection of both.
    pub collection: CollectionName,
    /// One course.
    pub a: Course,
    /// The other.
    pub b: Course,
    /// Points of each course, 2 to [`TRAJECTORY_POINTS_MAX`]; more see shorter regimes.
    pub points: usize,
}

/// How alike two courses are.
#[derive(Clone, Debug, PartialEq)]
pub struct TrajectoryAnswer {
    /// Mean over the alignment of the root mean square difference over channels, in units: small is alike.
    pub distance: f64,
    /// The same as a score, above 0 to 1: 1 for equal courses, one half at the policy's threshold.
    pub similarity: f64,
    /// Which moment of one is matched with which of the other, in order: where the pace changes.
    pub matches: Vec<Match>,
    /// What was looked at of the first course.
    pub coverage_a: Coverage,
    /// What was looked at of the second one.
    pub coverage_b: Coverage,
}

/// Two moments that are matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match {
    /// Moment of the first course.
    pub a: Timestamp,
    /// Moment of the second one.
    pub b: Timestamp,
}

/// A course at its points: times, and values in units, row-major.
struct Sampled {
    times: Vec<i64>,
    values: Vec<f64>,
    coverage: Coverage,
}

/// A stretch with one mean.
struct Piece {
    start: i64,
    end: i64,
    mean: Vec<f32>,
}

impl Engine {
    /// Returns how alike two courses are. Distances are in units: the declared ranges, or, where units are
    /// learned, the geometric mean of what both entities learned.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity, a range is not usable, nothing is known of one of
    /// the courses, or there are too many points.
    pub fn trajectory(&self, query: &TrajectoryQuery) -> Result<TrajectoryAnswer, ReadError> {
        self.trajectory_with(query, &OWN)
    }

    /// As [`Self::trajectory`], with what other nodes sealed in the place of some own segments.
    ///
    /// # Errors
    ///
    /// As [`Self::trajectory`].
    pub fn trajectory_with(
        &self,
        query: &TrajectoryQuery,
        preferred: &Preferred<'_>,
    ) -> Result<TrajectoryAnswer, ReadError> {
        if !(2..=TRAJECTORY_POINTS_MAX).contains(&query.points) {
            return Err(ReadError::TooManyRows { rows_max: TRAJECTORY_POINTS_MAX });
        }
        let of = |entity| self.question(&query.collection, Some(entity), Detail::Means, preferred);
        let (one, other) = (of(&query.a.entity)?, of(&query.b.entity)?);
        let (asked_a, asked_b) = (&one.entities[0], &other.entities[0]);
        let pairs = asked_a.inverse_unit.iter().zip(&asked_b.inverse_unit);
        let inverse_unit: Vec<f64> = pairs.map(|(a, b)| (a * b).sqrt()).collect();
        let a = sampled(&one, asked_a, query.a.range, query.points, &inverse_unit)?;
        let b = sampled(&other, asked_b, query.b.range, query.points, &inverse_unit)?;
        let alignment = align(&a.values, &b.values, inverse_unit.len(), rms);
        let at =
            |(i, j): (usize, usize)| Match { a: Timestamp(a.times[i]), b: Timestamp(b.times[j]) };
        Ok(TrajectoryAnswer {
            distance: alignment.distance,
            similarity: 1.0 - squash(alignment.distance, one.spec.policy.threshold),
            matches: turns(&alignment.path).into_iter().map(at).collect(),
            coverage_a: a.coverage,
            coverage_b: b.coverage,
        })
    }
}

/// Reads a course off its regimes.
fn sampled(
    question: &Question,
    asked: &Asked,
    range: TimeRange,
    points: usize,
    inverse_unit: &[f64],
) -> Result<Sampled, ReadError> {
    let (from, to) = range.bounds()?;
    let mut coverage = question.coverage(range);
    let mut pieces = Vec::new();
    question.walk_course(asked, (from, to), &mut coverage, |met| {
        if let Met::Stretch(Stretch { start, end, mean, .. }) = met {
            pieces.push(Piece { start: start.max(from), end: end.min(to), mean });
        }
    })?;
    if pieces.is_empty() {
        return Err(ReadError::NothingKnown { entity: asked.id.clone() });
    }
    let (mut times, mut values) = (Vec::with_capacity(points), Vec::new());
    for (time, piece) in moments(&pieces, points) {
        times.push(time);
        let mean = piece.mean.iter().zip(inverse_unit);
        values.extend(mean.map(|(value, inverse)| f64::from(*value) * inverse));
    }
    Ok(Sampled { times, values, coverage })
}

/// Returns equally spaced moments of the time in which something is known, each with its piece. Time
/// between pieces, in which nothing is known, is passed over.
fn moments(pieces: &[Piece], points: usize) -> impl Iterator<Item = (i64, &Piece)> {
    // A regime of one observation lasts a microsecond, so that every piece has its place.
    let lasts = |piece: &Piece| u128::from(piece.end.abs_diff(piece.start)) + 1;
    let total: u128 = pieces.iter().map(lasts).sum();
    let (mut index, mut before) = (0, 0_u128);
    (0..points).map(move |point| {
        // The first moment is the first one known, the last moment the last.
        let place = (total - 1) * point as u128 / (points as u128 - 1);
        while place >= before + lasts(&pieces[index]) {
            before += lasts(&pieces[index]);
            index += 1;
        }
        let offset = i128::try_from(place - before).expect("shorter than all time");
        let time = i128::from(pieces[index].start) + offset;
        (i64::try_from(time).expect("within the piece"), &pieces[index])
    })
}

/// Returns the first and last step of a path, and those at which its direction changes.
fn turns(path: &[(usize, usize)]) -> Vec<(usize, usize)> {
    let direction = |a: (usize, usize), b: (usize, usize)| (b.0 - a.0, b.1 - a.1);
    let mut turns = Vec::new();
    for (index, &step) in path.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| direction(path[before], step));
        let after = path.get(index + 1).map(|after| direction(step, *after));
        if before.is_none() || before != after {
            turns.push(step);
        }
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_spread_over_what_is_known() {
        let piece = |start, end| Piece { start, end, mean: Vec::new() };
        let pieces = [piece(0, 9), piece(1_000, 1_009)];
        let times: Vec<i64> = moments(&pieces, 5).map(|(time, _)| time).collect();
        assert_eq!(times, [0, 4, 9, 1_004, 1_009]);
        let whole = [piece(i64::MIN, i64::MAX)];
        let times: Vec<i64> = moments(&whole, 3).map(|(time, _)| time).collect();
        assert_eq!(times, [i64::MIN, -1, i64::MAX]);
        let short = [piece(7, 7)];
        assert_eq!(moments(&short, 2).map(|(time, _)| time).collect::<Vec<_>>(), [7, 7]);
    }

    #[test]
    fn only_turns_of_a_path_are_told() {
        let path = [(0, 0), (1, 1), (2, 2), (2, 3), (2, 4), (3, 5)];
        assert_eq!(turns(&path), [(0, 0), (2, 2), (2, 4), (3, 5)]);
        assert_eq!(turns(&[(0, 0)]), [(0, 0)]);
    }
}
