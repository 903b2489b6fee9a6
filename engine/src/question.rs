//! What all questions share: a time range, a consistent view, and a statement of what was covered.

use std::{ops::ControlFlow, sync::Arc};

use dunlin_wire::Cid;
use serde::{Deserialize, Serialize};

use crate::{
    Config,
    collection::{CollectionName, CollectionSpec, Fidelity},
    engine::Engine,
    entity::Entity,
    error::{ReadError, StoreError},
    means::Kind,
    observation::{EntityId, Timestamp},
    payload,
    peers::PEERS_MAX,
    preferred::Preferred,
    rows::Rows,
    segment::{Segment, to_f32},
    state::Collection,
    store::Reader,
};

/// Most bytes of observations that one question may load.
const LOADED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// A stretch of time with both ends in it; without an end it is open there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeRange {
    /// The first moment.
    pub from: Option<Timestamp>,
    /// The last moment.
    pub to: Option<Timestamp>,
}

impl TimeRange {
    /// Everything.
    pub const ALL: Self = Self { from: None, to: None };

    /// Returns the range with both ends.
    #[must_use]
    pub const fn between(from: Timestamp, to: Timestamp) -> Self {
        Self { from: Some(from), to: Some(to) }
    }

    /// Returns the first and last microsecond.
    pub(crate) fn bounds(&self) -> Result<(i64, i64), ReadError> {
        let from = self.from.unwrap_or(Timestamp(i64::MIN));
        let to = self.to.unwrap_or(Timestamp(i64::MAX));
        if from > to { Err(ReadError::Range { from, to }) } else { Ok((from.0, to.0)) }
    }
}

/// What an answer rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// Sealed segments that were looked at one by one.
    pub segments_scanned: u64,
    /// Sealed segments that an index stood for: a walk compared those near the vector, and may have missed
    /// some of the nearest.
    pub segments_indexed: u64,
    /// Outlines of compacted segments that were looked at.
    pub outlines: u64,
    /// Open regimes that were looked at.
    pub hot_regimes: u64,
    /// The time range that was asked for.
    pub range: TimeRange,
    /// Whether a limit cut off nothing.
    pub complete: bool,
    /// Whether there are outlines in the range that this kind of question does not look at.
    pub is_compacted: bool,
    /// Segments of other nodes that are preferred and of which no more than the summary is here, where the question needs
    /// observations: the answer tells nothing of that time.
    pub unread: u64,
}

/// Where something in an answer comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The sealed segment of this name.
    Sealed(dunlin_wire::Cid),
    /// The outline of this name, which stands for compacted segments.
    Outlined(dunlin_wire::Cid),
    /// A regime that is still open.
    Open,
}

/// Sealed segments and open regimes of one collection at one moment.
pub(crate) struct Question<'a> {
    pub(crate) spec: Arc<CollectionSpec>,
    pub(crate) number: u32,
    pub(crate) kind: Kind,
    pub(crate) reader: Reader,
    pub(crate) entities: Vec<Asked>,
    pub(crate) preferred: &'a Preferred<'a>,
}

/// A part of what is known of an entity's observations.
pub(crate) enum Part<'a> {
    /// Observations, and the other node's segment that they are of, if it is one.
    Rows(&'a Rows, Option<Cid>),
    /// Another node's segment whose observations are not here.
    Summary(&'a Segment),
}

/// An entity as a question sees it.
pub(crate) struct Asked {
    pub(crate) id: EntityId,
    /// One over the unit of each channel, as of now.
    pub(crate) inverse_unit: Vec<f64>,
    pub(crate) open: Option<Unsealed>,
}

/// An open regime as a question sees it.
pub(crate) struct Unsealed {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) count: u32,
    pub(crate) mean: Vec<f32>,
    pub(crate) drift: f64,
    /// The observations that no segment holds yet, when they were asked for and are kept.
    pub(crate) rows: Option<Rows>,
}

/// How much of an open regime a question needs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    Names,
    Means,
    Rows,
}

impl Engine {
    /// Returns what a question about a collection, or one entity of it, looks at.
    pub(crate) fn question<'a>(
        &self,
        name: &CollectionName,
        entity: Option<&EntityId>,
        detail: Detail,
        preferred: &'a Preferred<'a>,
    ) -> Result<Question<'a>, ReadError> {
        self.question_about(name, preferred, |collection| match entity {
            None => {
                let all = collection.entities.iter();
                Ok(all.map(|(id, entity)| Asked::new(id, entity, detail)).collect())
            }
            Some(id) => Ok(vec![Asked::new(id, collection.known(id)?, detail)]),
        })
    }

    /// As [`Self::question`], about the entities that `ask` returns, in order.
    pub(crate) fn question_about<'a>(
        &self,
        name: &CollectionName,
        preferred: &'a Preferred<'a>,
        ask: impl FnOnce(&Collection) -> Result<Vec<Asked>, ReadError>,
    ) -> Result<Question<'a>, ReadError> {
        let view = self.view()?;
        let collection = view.collection(name)?;
        let expected = collection.spec.dim.get();
        if let Some(found) = preferred.other_dim(expected) {
            return Err(ReadError::Dim { expected, found });
        }
        let entities = ask(collection)?;
        Ok(Question {
            kind: view.kind(collection),
            spec: Arc::clone(&collection.spec),
            number: collection.number,
            reader: self.reader()?,
            entities,
            preferred,
        })
    }

    /// Returns the other entities that one is compared with, without their observations.
    pub(crate) fn neighbors(
        &self,
        name: &CollectionName,
        entity: &EntityId,
    ) -> Result<Vec<Asked>, ReadError> {
        use std::ops::Bound::{Excluded, Unbounded};
        let view = self.view()?;
        let entities = &view.collection(name)?.entities;
        let after = entities.range::<EntityId, _>((Excluded(entity), Unbounded));
        let before = entities.range::<EntityId, _>((Unbounded, Excluded(entity)));
        let others = after.chain(before).take(PEERS_MAX);
        Ok(others.map(|(id, entity)| Asked::new(id, entity, Detail::Means)).collect())
    }

    /// As [`Self::question`] about one entity whose observations are kept.
    pub(crate) fn lossless_question<'a>(
        &self,
        name: &CollectionName,
        entity: &EntityId,
        preferred: &'a Preferred<'a>,
    ) -> Result<Question<'a>, ReadError> {
        let question = self.question(name, Some(entity), Detail::Rows, preferred)?;
        question.need_lossless()?;
        Ok(question)
    }
}

impl Question<'_> {
    pub(crate) fn need_lossless(&self) -> Result<(), ReadError> {
        match self.spec.fidelity {
            Fidelity::Lossless => Ok(()),
            _ => Err(ReadError::NotLossless { name: self.spec.name.clone() }),
        }
    }

    /// Checks a vector that came with the question.
    pub(crate) fn check_vector(&self, vector: &[f32]) -> Result<(), ReadError> {
        check_vector(&self.spec, vector)
    }

    /// Returns that nothing was looked at yet, and all that should be preferred is.
    pub(crate) fn coverage(&self, range: TimeRange) -> Coverage {
        Coverage { range, complete: self.preferred.is_complete(), ..Coverage::default() }
    }

    /// Passes on what is known of an entity's observations within `from..=to`, compacted, sealed and open, in parts, for as
    /// long as `on` goes on.
    pub(crate) fn walk_rows(
        &self,
        asked: &Asked,
        (from, to): (i64, i64),
        coverage: &mut Coverage,
        mut on: impl FnMut(Part<'_>) -> Result<ControlFlow<()>, ReadError>,
    ) -> Result<(), ReadError> {
        coverage.hot_regimes = u64::from(asked.open_between(from, to).is_some());
        for (_, outline) in self.reader.outlines_of(self.number, &asked.id, from, to)? {
            coverage.outlines += 1;
            let blocks = self.reader.payload_of_outline(self.number, &outline)?;
            let rows = payload::decode_outlined(&outline, &blocks).map_err(StoreError::from)?;
            let rows = self.without_taken(asked, rows);
            if on(Part::Rows(&rows, None))?.is_break() {
                return Ok(());
            }
        }
        for stored in self.sealed(asked, (from, to))? {
            let stored = stored?;
            coverage.segments_scanned += 1;
            let foreign = stored.is_foreign().then_some(stored.cid);
            let rows = self.rows_of(&stored)?;
            let part = rows.as_ref().map(|rows| Part::Rows(rows, foreign));
            if on(part.unwrap_or(Part::Summary(&stored.segment)))?.is_break() {
                return Ok(());
            }
        }
        if let Some(open) = asked.open.as_ref().and_then(|open| open.rows.as_ref()) {
            on(Part::Rows(open, None))?.is_break();
        }
        Ok(())
    }

    /// Takes the rows of a part that are within `from..=to`, up to `limit` in all.
    pub(crate) fn take_between(
        &self,
        rows: &mut Rows,
        more: &Rows,
        (from, to): (i64, i64),
        limit: usize,
    ) -> Result<(), ReadError> {
        for (index, (time, values)) in more.iter().enumerate() {
            if (from..=to).contains(&time.0) && rows.count() < limit {
                rows.push(time.0, values, more.metadata(index).cloned());
            }
        }
        if rows.byte_count() > LOADED_BYTES_MAX {
            let row_bytes = self.spec.row_bytes() + size_of::<i64>();
            return Err(ReadError::TooManyRows { rows_max: LOADED_BYTES_MAX / row_bytes });
        }
        Ok(())
    }
}

/// Checks a vector that comes from outside.
pub(crate) fn check_vector(spec: &CollectionSpec, vector: &[f32]) -> Result<(), ReadError> {
    let expected = spec.dim.get();
    if vector.len() != expected {
        return Err(ReadError::Dim { expected, found: vector.len() });
    }
    match vector.iter().position(|value| !value.is_finite()) {
        Some(channel) => Err(ReadError::NotFinite { channel }),
        None => Ok(()),
    }
}

impl Asked {
    pub(crate) fn new(id: &EntityId, entity: &Entity, detail: Detail) -> Self {
        if detail == Detail::Names {
            return Self { id: id.clone(), inverse_unit: Vec::new(), open: None };
        }
        let regime = &entity.regime;
        let state = regime.state();
        let open = (regime.open_count() > 0).then(|| Unsealed {
            start: state.start,
            end: regime.newest(),
            count: state.count,
            mean: state.mean.iter().copied().map(to_f32).collect(),
            drift: state.drift_now,
            rows: (detail == Detail::Rows).then(|| regime.open_rows()).flatten(),
        });
        Self { id: id.clone(), inverse_unit: regime.inverse_unit().to_vec(), open }
    }

    /// Returns the open regime when it reaches into `from..=to`.
    pub(crate) fn open_between(&self, from: i64, to: i64) -> Option<&Unsealed> {
        self.open.as_ref().filter(|open| open.start <= to && open.end >= from)
    }
}

/// Returns a limit within what one answer may hold.
pub(crate) fn limited(limit: usize) -> usize {
    limit.min(Config::ANSWER_ROWS_MAX)
}

/// Keeps the best `count` of candidates in the order of `compare`, now and then or at the end.
pub(crate) fn keep_best<T>(
    candidates: &mut Vec<T>,
    count: usize,
    slack: usize,
    compare: impl Fn(&T, &T) -> std::cmp::Ordering,
) {
    if candidates.len() > count + slack {
        candidates.sort_by(&compare);
        candidates.truncate(count);
    }
}

/// How many candidates may wait beyond the best ones before they are sorted out.
pub(crate) const SLACK: usize = 1024;
