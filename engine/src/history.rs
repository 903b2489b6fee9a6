//! What an entity did: observations where they are kept, the regimes' means where they are not.

use std::{collections::BTreeMap, ops::ControlFlow};

use dunlin_wire::Cid;

use crate::{
    Config,
    collection::{CollectionName, Fidelity},
    course::Met,
    engine::Engine,
    error::ReadError,
    observation::{EntityId, Timestamp},
    preferred::{OWN, Preferred},
    question::{Asked, Coverage, Detail, Part, Question, Source, TimeRange, limited},
    rows::Rows,
};

/// A question for the course of one entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryQuery {
    /// The collection.
    pub collection: CollectionName,
    /// The entity.
    pub entity: EntityId,
    /// The stretch of time.
    pub range: TimeRange,
    /// One point per this many microseconds; `None` returns every observation of a collection that
    /// keeps them, and the start and end of each regime of a summary one.
    pub resolution_us: Option<u64>,
}

/// The course of an entity.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryAnswer {
    /// Times and vectors in time order. With a resolution, a point stands for the time since the one
    /// before it and holds what was newest in it; where nothing is known there is no point.
    pub points: Rows,
    /// Whether the vectors are observations (`Lossless`), within an error (`Bounded`), or regime means
    /// (`Summary`).
    pub fidelity: Fidelity,
    /// Largest error of each channel, in its own unit, when they are within one.
    pub error_max: Option<Vec<f32>>,
    /// What was looked at.
    pub coverage: Coverage,
    /// Points, by index, that are of another node's segment, which it is that they are of.
    pub foreign: BTreeMap<usize, Cid>,
}

/// Observations of one entity.
#[derive(Clone, Debug, PartialEq)]
pub struct ObservationsAnswer {
    /// In time order.
    pub rows: Rows,
    /// What was looked at; `complete` when the limit cut off nothing.
    pub coverage: Coverage,
}

/// A stretch during which one vector holds.
#[derive(Clone, Copy)]
struct Piece {
    start: i64,
    end: i64,
    /// Which row of the past it is: there may be tens of millions.
    row: usize,
}

impl Engine {
    /// Returns the course of an entity at the collection's fidelity: observations bit for bit or within
    /// the stated error, or the mean of each regime for as long as it lasted.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity, the range is not usable, or the answer would
    /// be too large.
    pub fn history(&self, query: &HistoryQuery) -> Result<HistoryAnswer, ReadError> {
        self.history_with(query, &OWN)
    }

    /// As [`Self::history`], with what other nodes sealed in the place of some own segments: by their observations, or by
    /// their means where those are not at hand.
    ///
    /// # Errors
    ///
    /// As [`Self::history`].
    pub fn history_with(
        &self,
        query: &HistoryQuery,
        preferred: &Preferred<'_>,
    ) -> Result<HistoryAnswer, ReadError> {
        let bounds = query.range.bounds()?;
        let entity = Some(&query.entity);
        let question = self.question(&query.collection, entity, Detail::Rows, preferred)?;
        let asked = &question.entities[0];
        let fidelity = question.spec.fidelity;
        let mut coverage = question.coverage(query.range);
        let past = match fidelity {
            Fidelity::Bounded | Fidelity::Lossless => {
                Past::observed(&question, asked, bounds, &mut coverage)?
            }
            Fidelity::Summary => Past::means(&question, asked, bounds, &mut coverage)?,
        };
        let mut pieces = past.pieces();
        pieces.sort_by_key(|piece| piece.start);
        let points = match query.resolution_us {
            None => native(&pieces, bounds),
            Some(resolution) => sampled(&pieces, query.range, resolution)?,
        };
        let (mut rows, mut foreign) = (Rows::new(past.rows.dim()), BTreeMap::new());
        for (index, (time, row)) in points.into_iter().enumerate() {
            foreign.extend(past.foreign.get(&row).map(|cid| (index, *cid)));
            rows.push(time, past.rows.row(row), None);
        }
        let error_max = question.spec.error_max();
        Ok(HistoryAnswer { points: rows, fidelity, error_max, coverage, foreign })
    }

    /// Returns the observations of an entity, sealed or not, at most `limit` from the start of the range.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity, it is not lossless, or the range is not usable.
    pub fn observations(
        &self,
        collection: &CollectionName,
        entity: &EntityId,
        range: TimeRange,
        limit: usize,
    ) -> Result<ObservationsAnswer, ReadError> {
        let bounds = range.bounds()?;
        let question = self.lossless_question(collection, entity, &OWN)?;
        let asked = &question.entities[0];
        let limit = limited(limit);
        let mut coverage = Coverage { range, ..Coverage::default() };
        let mut rows = Rows::new(question.spec.dim.get());
        question.walk_rows(asked, bounds, &mut coverage, |part| {
            let Part::Rows(more, _) = part else { return Ok(ControlFlow::Continue(())) };
            // One more than asked for tells whether the limit cut something off.
            question.take_between(&mut rows, more, bounds, limit + 1)?;
            let is_enough = rows.count() > limit;
            Ok(if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        coverage.complete = rows.count() <= limit;
        rows.truncate(limit);
        Ok(ObservationsAnswer { rows, coverage })
    }
}

/// What is known of a stretch of an entity's past: times with vectors, each with how long it holds and whose it is.
struct Past {
    rows: Rows,
    ends: Vec<i64>,
    /// The segments of other nodes that say so, by row.
    foreign: BTreeMap<usize, Cid>,
}

impl Past {
    fn new(question: &Question<'_>) -> Self {
        let rows = Rows::new(question.spec.dim.get());
        Self { rows, ends: Vec::new(), foreign: BTreeMap::new() }
    }

    /// Returns the observations in a range; of other nodes' segments whose observations are not here, the means.
    fn observed(
        question: &Question<'_>,
        asked: &Asked,
        bounds: (i64, i64),
        coverage: &mut Coverage,
    ) -> Result<Self, ReadError> {
        let mut past = Self::new(question);
        question.walk_rows(asked, bounds, coverage, |part| {
            match part {
                Part::Rows(rows, foreign) => {
                    question.take_between(&mut past.rows, rows, bounds, usize::MAX)?;
                    let new = past.ends.len();
                    past.ends.extend_from_slice(&past.rows.times()[new..]);
                    let rows = new..past.ends.len();
                    past.foreign.extend(rows.filter_map(|row| Some((row, foreign?))));
                }
                Part::Summary(segment) => {
                    let (start, end) = (segment.start().0, segment.end().0);
                    past.push((start, end), segment.mean(), Some(segment.cid()));
                }
            }
            Ok(ControlFlow::Continue(()))
        })?;
        Ok(past)
    }

    /// Returns the means of the regimes in a range.
    fn means(
        question: &Question<'_>,
        asked: &Asked,
        bounds: (i64, i64),
        coverage: &mut Coverage,
    ) -> Result<Self, ReadError> {
        let mut past = Self::new(question);
        question.walk_course(asked, bounds, coverage, |met| {
            if let Met::Stretch(stretch) = met {
                let foreign = match stretch.source {
                    Source::Sealed(cid) if stretch.is_foreign => Some(cid),
                    _ => None,
                };
                past.push((stretch.start, stretch.end), &stretch.mean, foreign);
            }
        })?;
        Ok(past)
    }

    fn push(&mut self, (start, end): (i64, i64), vector: &[f32], foreign: Option<Cid>) {
        self.foreign.extend(foreign.map(|cid| (self.ends.len(), cid)));
        self.rows.push(start, vector, None);
        self.ends.push(end);
    }

    fn pieces(&self) -> Vec<Piece> {
        let spans = self.rows.times().iter().zip(&self.ends).enumerate();
        spans.map(|(row, (start, end))| Piece { start: *start, end: *end, row }).collect()
    }
}

/// Returns the start and the end of each piece, within the range, with their rows.
fn native(pieces: &[Piece], (from, to): (i64, i64)) -> Vec<(i64, usize)> {
    let mut points = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (start, end) = (piece.start.max(from), piece.end.min(to));
        points.push((start, piece.row));
        if end > start {
            points.push((end, piece.row));
        }
    }
    points
}

/// Returns one point per `resolution` microseconds: the newest piece that overlaps the time since the
/// point before.
fn sampled(
    pieces: &[Piece],
    range: TimeRange,
    resolution: u64,
) -> Result<Vec<(i64, usize)>, ReadError> {
    let mut points = Vec::new();
    let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(points) };
    let from = range.from.unwrap_or(Timestamp(first.start)).0;
    let to = range.to.unwrap_or(Timestamp(last.end)).0;
    let step = i64::try_from(resolution.max(1)).unwrap_or(i64::MAX);
    let count = to.saturating_sub(from) / step;
    if count >= Config::ANSWER_ROWS_MAX as i64 {
        return Err(ReadError::TooManyRows { rows_max: Config::ANSWER_ROWS_MAX });
    }
    for index in 0..=count {
        let time = from + index * step;
        let before = pieces.partition_point(|piece| piece.start <= time);
        let newest = before.checked_sub(1).map(|index| &pieces[index]);
        if let Some(piece) = newest.filter(|piece| piece.end > time.saturating_sub(step)) {
            points.push((time, piece.row));
        }
    }
    Ok(points)
}
