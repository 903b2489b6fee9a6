//! Whose version of an entity's past answers use: another node's segment in the place of own ones, where that is
//! preferred.
//!
//! Which of two segments that contradict each other is preferred is for the caller to say. Every question reads sealed
//! segments through [`Question::sealed`] and observations through [`Question::rows_of`], so that all answers use the
//! same version:
//!
//! - a sealed own segment that loses is passed over, and the ones that it loses against stand in its place;
//! - an outline is used for the time that no such segment stands for: what it was made of lost for that time, too;
//! - an open regime is always used. Nobody has a version of it yet: it is compared with others when it is sealed.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    iter::Fuse,
};

use dunlin_wire::Cid;

use crate::{
    compact::Piece,
    error::{ReadError, StoreError},
    observation::EntityId,
    payload,
    question::{Asked, Question},
    rows::Rows,
    segment::Segment,
    store::Stored,
};

/// The number of another node's segment; own ones begin at 1.
const FOREIGN: u64 = 0;

/// Returns the observations of another node's segment, if they are at hand.
type Payload<'a> = Box<dyn Fn(&Segment) -> Option<Rows> + Send + Sync + 'a>;

/// Nothing is preferred to what this node sealed.
pub(crate) static OWN: Preferred<'static> =
    Preferred { of: BTreeMap::new(), payload: None, is_complete: true };

/// Segments of other nodes that answers use in the place of own ones.
pub struct Preferred<'a> {
    of: BTreeMap<EntityId, Instead>,
    payload: Option<Payload<'a>>,
    is_complete: bool,
}

/// What takes the place of segments of one entity.
#[derive(Default)]
struct Instead {
    without: BTreeSet<Cid>,
    /// By start.
    foreign: BTreeMap<(i64, Cid), Segment>,
}

impl<'a> Preferred<'a> {
    /// Returns that nothing is preferred yet. `payload` returns the observations of another node's segment, or
    /// `None` where nothing but its summary is at hand.
    #[must_use]
    pub fn new(payload: impl Fn(&Segment) -> Option<Rows> + Send + Sync + 'a) -> Self {
        Self { of: BTreeMap::new(), payload: Some(Box::new(payload)), is_complete: true }
    }

    /// Uses another node's segment in the place of an own one of the same entity. Questions about collections of another
    /// dimension fail.
    pub fn prefer(&mut self, foreign: Segment, loser: Cid) {
        let instead = self.of.entry(foreign.entity().clone()).or_default();
        instead.without.insert(loser);
        instead.foreign.insert((foreign.start().0, foreign.cid()), foreign);
    }

    /// Notes that there is more that should be preferred: answers say that they are incomplete.
    pub fn cut(&mut self) {
        self.is_complete = false;
    }

    /// Returns the dimension of a segment that is not of this one.
    pub(crate) fn other_dim(&self, dim: usize) -> Option<usize> {
        let all = self.of.values().flat_map(|instead| instead.foreign.values());
        all.map(Segment::dim).find(|found| *found != dim)
    }

    /// Returns the entities of which some segments of other nodes are preferred, in order.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &EntityId> {
        self.of.keys()
    }

    /// Returns whether all that should be preferred is.
    pub(crate) const fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Returns whether an own segment is passed over.
    pub(crate) fn passes_over(&self, stored: &Stored) -> bool {
        let instead = self.of.get(stored.segment.entity());
        instead.is_some_and(|instead| instead.without.contains(&stored.cid))
    }

    /// Returns the segments of other nodes about an entity that overlap `from..=to`, in time order.
    pub(crate) fn foreign(
        &self,
        entity: &EntityId,
        (from, to): (i64, i64),
    ) -> impl Iterator<Item = &Segment> {
        let all = self.of.get(entity).into_iter().flat_map(|instead| instead.foreign.values());
        all.filter(move |segment| segment.start().0 <= to && segment.end().0 >= from)
    }
}

impl Default for Preferred<'_> {
    fn default() -> Self {
        Self { of: BTreeMap::new(), payload: None, is_complete: true }
    }
}

impl fmt::Debug for Preferred<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preferred").field("entities", &self.of.len()).finish_non_exhaustive()
    }
}

impl Stored {
    fn foreign(segment: Segment) -> Self {
        Self { number: FOREIGN, cid: segment.cid(), segment }
    }

    /// Returns whether another node sealed it.
    pub(crate) const fn is_foreign(&self) -> bool {
        self.number == FOREIGN
    }
}

impl Question<'_> {
    /// Returns the segments that answers about an entity use of those that overlap `from..=to`, in time order.
    pub(crate) fn sealed(
        &self,
        asked: &Asked,
        (from, to): (i64, i64),
    ) -> Result<impl DoubleEndedIterator<Item = Result<Stored, StoreError>> + '_, ReadError> {
        let preferred = self.preferred;
        let own = self.reader.of_entity(self.number, &asked.id, from, to)?;
        let own = own
            .filter(|stored| stored.as_ref().map_or(true, |stored| !preferred.passes_over(stored)));
        let foreign = preferred.foreign(&asked.id, (from, to));
        let foreign = foreign.cloned().map(Stored::foreign).collect();
        Ok(Merged { own: own.fuse(), front: None, back: None, foreign })
    }

    /// Returns the segments of other nodes, about all entities that are asked about, that overlap `from..=to`.
    pub(crate) fn foreign(&self, (from, to): (i64, i64)) -> impl Iterator<Item = &Segment> {
        let asked = self.preferred.of.keys().filter(|id| self.asks(id));
        asked.flat_map(move |id| self.preferred.foreign(id, (from, to)))
    }

    /// Returns how many own segments of the entities that are asked about are passed over.
    pub(crate) fn losers(&self) -> usize {
        let asked = self.preferred.of.iter().filter(|(id, _)| self.asks(id));
        asked.map(|(_, instead)| instead.without.len()).sum()
    }

    fn asks(&self, entity: &EntityId) -> bool {
        self.entities.binary_search_by(|asked| asked.id.cmp(entity)).is_ok()
    }

    /// Returns the observations of a segment, unless it is another node's whose observations are not at hand.
    pub(crate) fn rows_of(&self, stored: &Stored) -> Result<Option<Rows>, ReadError> {
        if stored.is_foreign() {
            let at_hand = self.preferred.payload.as_ref();
            let rows = at_hand.and_then(|payload| payload(&stored.segment));
            return Ok(rows.filter(|rows| rows.dim() == stored.segment.dim()));
        }
        let blocks = self.reader.payload_of(stored)?;
        let rows = payload::decode(&stored.segment, &blocks).map_err(StoreError::from)?;
        Ok(Some(rows))
    }

    /// Returns the parts of an outline's piece for which no other node's segment stands. Between two such segments, as one
    /// follows the other, there is none, unless it is long enough for an observation of the piece to be in it.
    pub(crate) fn own_parts(&self, asked: &Asked, piece: &Piece) -> Vec<(i64, i64)> {
        let (start, end) = (piece.start.0, piece.end.0);
        let (mut parts, mut next) = (Vec::new(), Some(start));
        for foreign in self.preferred.foreign(&asked.id, (start, end)) {
            let Some(from) = next else { break };
            parts.extend(foreign.start().0.checked_sub(1).map(|last| (from, last)));
            next = foreign.end().0.checked_add(1).map(|after| after.max(from));
        }
        parts.extend(next.map(|from| (from, end)));
        let steps = u128::from(piece.count.saturating_sub(1));
        let length = |from: i64, to: i64| u128::from(to.abs_diff(from));
        parts.retain(|&(from, to)| {
            let has_an_end = from == start || to == end;
            from <= to && (has_an_end || length(from, to) * steps >= length(start, end))
        });
        parts
    }

    /// Returns those of an entity's observations for whose time no other node's segment stands.
    pub(crate) fn without_taken(&self, asked: &Asked, rows: Rows) -> Rows {
        let (Some(first), Some(last)) = (rows.times().first(), rows.times().last()) else {
            return rows;
        };
        if self.preferred.foreign(&asked.id, (*first, *last)).next().is_none() {
            return rows;
        }
        let mut own = Rows::new(rows.dim());
        for (index, (time, values)) in rows.iter().enumerate() {
            if !self.is_taken(asked, time.0) {
                own.push(time.0, values, rows.metadata(index).cloned());
            }
        }
        own
    }

    /// Returns whether another node's segment stands for a moment.
    pub(crate) fn is_taken(&self, asked: &Asked, at: i64) -> bool {
        self.preferred.foreign(&asked.id, (at, at)).next().is_some()
    }
}

/// Own segments and those of others, both in time order, as one row.
struct Merged<I> {
    own: Fuse<I>,
    /// An own one that was taken from the front and not handed out yet.
    front: Option<Stored>,
    /// Likewise from the back.
    back: Option<Stored>,
    foreign: VecDeque<Stored>,
}

impl<I: DoubleEndedIterator<Item = Result<Stored, StoreError>>> Iterator for Merged<I> {
    type Item = Result<Stored, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.front.is_none() {
            self.front = match self.own.next().transpose() {
                Ok(next) => next.or_else(|| self.back.take()),
                Err(error) => return Some(Err(error)),
            };
        }
        let foreign = self.foreign.front().map(|stored| stored.segment.start());
        match (&self.front, foreign) {
            (Some(own), Some(foreign)) if foreign < own.segment.start() => {
                self.foreign.pop_front().map(Ok)
            }
            (None, _) => self.foreign.pop_front().map(Ok),
            _ => self.front.take().map(Ok),
        }
    }
}

impl<I: DoubleEndedIterator<Item = Result<Stored, StoreError>>> DoubleEndedIterator for Merged<I> {
    fn next_back(&mut self) -> Option<Self::Item> {
        if self.back.is_none() {
            self.back = match self.own.next_back().transpose() {
                Ok(next) => next.or_else(|| self.front.take()),
                Err(error) => return Some(Err(error)),
            };
        }
        let foreign = self.foreign.back().map(|stored| stored.segment.start());
        match (&self.back, foreign) {
            (Some(own), Some(foreign)) if foreign >= own.segment.start() => {
                self.foreign.pop_back().map(Ok)
            }
            (None, _) => self.foreign.pop_back().map(Ok),
            _ => self.back.take().map(Ok),
        }
    }
}
