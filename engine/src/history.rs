//! What an entity did: observations where they are kept, the regimes' means where they are not.

use std::collections::{BTreeMap, BTreeSet};

use dunlin_wire::Cid;

use crate::{
    Config,
    collection::{CollectionName, Fidelity},
    course::Met,
    engine::Engine,
    error::ReadError,
    observation::{EntityId, Timestamp},
    question::{Asked, Coverage, Detail, Question, TimeRange, limited},
    rows::Rows,
    segment::Segment,
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

/// Which segments of other nodes take the place of own ones in an answer about one entity.
#[derive(Clone, Debug, Default)]
pub struct Preferred {
    /// Own sealed segments that are passed over.
    pub without: BTreeSet<Cid>,
    /// What is used instead.
    pub instead: Vec<Foreign>,
}

/// A segment of another node.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// The segment, of the collection's dimension.
    pub segment: Segment,
    /// Its observations, where its payload is at hand; without them its mean is used.
    pub rows: Option<Rows>,
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
struct Piece<'a> {
    start: i64,
    end: i64,
    vector: &'a [f32],
    /// The segment of another node that says so.
    foreign: Option<Cid>,
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
        self.history_with(query, &Preferred::default())
    }

    /// As [`Self::history`], with what other nodes sealed in the place of some own segments. Parts of the past that were
    /// compacted, and the open regime, are the own ones whatever is preferred.
    ///
    /// # Errors
    ///
    /// As [`Self::history`].
    pub fn history_with(
        &self,
        query: &HistoryQuery,
        preferred: &Preferred,
    ) -> Result<HistoryAnswer, ReadError> {
        let (from, to) = query.range.bounds()?;
        let mut question = self.question(&query.collection, Some(&query.entity), Detail::Rows)?;
        question.without.clone_from(&preferred.without);
        let asked = &question.entities[0];
        let fidelity = question.spec.fidelity;
        let mut coverage = Coverage { range: query.range, complete: true, ..Coverage::default() };
        let (rows, ends) = match fidelity {
            Fidelity::Bounded | Fidelity::Lossless => {
                let rows = question.rows_between(asked, (from, to), usize::MAX, &mut coverage)?;
                let ends = rows.times().to_vec();
                (rows, ends)
            }
            Fidelity::Summary => means(&question, asked, (from, to), &mut coverage)?,
        };
        let own = rows.iter().zip(&ends);
        let own = own.map(|((start, vector), end)| Piece {
            start: start.0,
            end: *end,
            vector,
            foreign: None,
        });
        let mut pieces: Vec<Piece<'_>> = own.collect();
        for foreign in &preferred.instead {
            coverage.segments_scanned += 1;
            let within = |piece: &Piece<'_>| piece.start <= to && piece.end >= from;
            pieces.extend(foreign.pieces(rows.dim()).filter(within));
        }
        pieces.sort_by_key(|piece| piece.start);
        let points = match query.resolution_us {
            None => native(&pieces, from, to),
            Some(resolution) => sampled(&pieces, query.range, resolution)?,
        };
        let (mut rows, mut foreign) = (Rows::new(rows.dim()), BTreeMap::new());
        for (index, (time, piece)) in points.into_iter().enumerate() {
            foreign.extend(piece.foreign.map(|cid| (index, cid)));
            rows.push(time, piece.vector, None);
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
        let (from, to) = range.bounds()?;
        let question = self.lossless_question(collection, entity)?;
        let asked = &question.entities[0];
        let limit = limited(limit);
        let mut coverage = Coverage { range, ..Coverage::default() };
        // One more than asked for tells whether the limit cut something off.
        let mut rows = question.rows_between(asked, (from, to), limit + 1, &mut coverage)?;
        coverage.complete = rows.count() <= limit;
        rows.truncate(limit);
        Ok(ObservationsAnswer { rows, coverage })
    }
}

/// Returns the means of the regimes in a range with their starts, and their ends.
fn means(
    question: &Question,
    asked: &Asked,
    (from, to): (i64, i64),
    coverage: &mut Coverage,
) -> Result<(Rows, Vec<i64>), ReadError> {
    let mut rows = Rows::new(question.spec.dim.get());
    let mut ends = Vec::new();
    question.walk_course(asked, (from, to), coverage, |met| {
        if let Met::Stretch(stretch) = met {
            rows.push(stretch.start, &stretch.mean, None);
            ends.push(stretch.end);
        }
    })?;
    Ok((rows, ends))
}

impl Foreign {
    /// Returns what it says: observations, or its mean for as long as it lasted. Of another dimension it says nothing.
    fn pieces(&self, dim: usize) -> impl Iterator<Item = Piece<'_>> {
        let foreign = Some(self.segment.cid());
        let rows = self.rows.as_ref().filter(|rows| rows.dim() == dim);
        let observed = rows.into_iter().flat_map(Rows::iter).map(move |(time, vector)| Piece {
            start: time.0,
            end: time.0,
            vector,
            foreign,
        });
        let mean = self.segment.mean();
        let is_summary = rows.is_none() && mean.len() == dim;
        let (start, end) = (self.segment.start().0, self.segment.end().0);
        let summary = is_summary.then_some(Piece { start, end, vector: mean, foreign });
        observed.chain(summary)
    }
}

/// Returns the start and the end of each piece, within the range.
fn native<'a>(pieces: &[Piece<'a>], from: i64, to: i64) -> Vec<(i64, Piece<'a>)> {
    let mut points = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let (start, end) = (piece.start.max(from), piece.end.min(to));
        points.push((start, *piece));
        if end > start {
            points.push((end, *piece));
        }
    }
    points
}

/// Returns one point per `resolution` microseconds: the newest piece that overlaps the time since the
/// point before.
fn sampled<'a>(
    pieces: &[Piece<'a>],
    range: TimeRange,
    resolution: u64,
) -> Result<Vec<(i64, Piece<'a>)>, ReadError> {
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
            points.push((time, *piece));
        }
    }
    Ok(points)
}
