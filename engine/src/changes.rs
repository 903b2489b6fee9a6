//! Regime boundaries as events: when an entity began to behave differently, how far it moved, and which
//! channels moved most.

use std::cmp::Ordering;

use crate::{
    collection::CollectionName,
    compact::Flag,
    course::{Met, Stretch},
    distance::{rms_in_units, squash},
    engine::Engine,
    error::ReadError,
    observation::{EntityId, Timestamp},
    preferred::{OWN, Preferred},
    question::{Asked, Coverage, Detail, Question, SLACK, Source, TimeRange, keep_best, limited},
};

/// Channels that a change names.
const MOVES_MAX: usize = 3;

/// A question for the moments at which entities began to behave differently.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangesQuery {
    /// The collection.
    pub collection: CollectionName,
    /// Only this entity.
    pub entity: Option<EntityId>,
    /// Only changes within this range.
    pub range: TimeRange,
    /// How many to return.
    pub limit: usize,
    /// Which of them when there are more.
    pub order: ChangeOrder,
}

/// Which changes come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChangeOrder {
    /// The newest.
    #[default]
    Newest,
    /// The largest.
    Largest,
}

/// The changes.
#[derive(Clone, Debug, PartialEq)]
pub struct ChangesAnswer {
    /// In the order that was asked for; ties by entity, then time.
    pub changes: Vec<Change>,
    /// What was looked at; `complete` when the limit cut off nothing.
    pub coverage: Coverage,
}

/// A moment at which an entity left one regime for another.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Whose it is.
    pub entity: EntityId,
    /// Time of the first observation of the new regime.
    pub at: Timestamp,
    /// The sealed regime that it left, this node's or the one that is preferred to it.
    pub from: Source,
    /// The regime that it went to.
    pub to: Source,
    /// Root mean square over channels of the difference of both means, in units.
    pub distance: f64,
    /// The same as a score, 0 to below 1: a distance of the policy's threshold scores one half.
    pub score: f64,
    /// Time between the last observation of the old regime and the first of the new one, in µs.
    pub gap_us: u64,
    /// The channels that moved furthest in units, up to three, the furthest first.
    pub moves: Vec<Move>,
}

/// How one channel moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Move {
    /// Index of the channel.
    pub channel: usize,
    /// Its mean in the old regime, in its own unit.
    pub from: f32,
    /// Its mean in the new one.
    pub to: f32,
}

impl Engine {
    /// Returns the moments at which entities began to behave differently.
    ///
    /// An entity's first regime is no change, nor is a boundary that the policy's largest regime or a
    /// [`seal`](Self::seal) made while the entity stayed as it was: such ones have a small distance.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity, or the range is not usable.
    pub fn changes(&self, query: &ChangesQuery) -> Result<ChangesAnswer, ReadError> {
        self.changes_with(query, &OWN)
    }

    /// As [`Self::changes`], with what other nodes sealed in the place of some own segments.
    ///
    /// # Errors
    ///
    /// As [`Self::changes`].
    pub fn changes_with(
        &self,
        query: &ChangesQuery,
        preferred: &Preferred<'_>,
    ) -> Result<ChangesAnswer, ReadError> {
        let entity = query.entity.as_ref();
        let question = self.question(&query.collection, entity, Detail::Means, preferred)?;
        let mut coverage = question.coverage(query.range);
        let limit = limited(query.limit);
        let order = |a: &Change, b: &Change| order(query.order, a, b);
        let (mut changes, mut found) = (Vec::new(), 0);
        for asked in &question.entities {
            found += changes_of(&question, asked, query.range, &mut coverage, |change| {
                changes.push(change);
                keep_best(&mut changes, limit, SLACK, order);
            })?;
        }
        changes.sort_by(order);
        changes.truncate(limit);
        coverage.complete &= found <= limit;
        Ok(ChangesAnswer { changes, coverage })
    }
}

/// Offers the changes of one entity in time order; returns how many there are.
fn changes_of(
    question: &Question,
    asked: &Asked,
    range: TimeRange,
    coverage: &mut Coverage,
    mut offer: impl FnMut(Change),
) -> Result<usize, ReadError> {
    let (from, to) = range.bounds()?;
    let mut before = question.stretch_before(asked, from)?;
    let mut found = 0;
    question.walk_course(asked, (from, to), coverage, |met| {
        let change = match met {
            Met::Flag(flag, source) => Some(flagged(question, asked, flag, source)),
            Met::Stretch(after) => {
                let is_in = (from..=to).contains(&after.start);
                let change = before.as_ref().filter(|_| is_in);
                let change = change.map(|before| change_between(question, asked, before, &after));
                before = Some(after);
                change
            }
        };
        if let Some(change) = change {
            found += 1;
            offer(change);
        }
    })?;
    Ok(found)
}

fn change_between(question: &Question, asked: &Asked, before: &Stretch, after: &Stretch) -> Change {
    let distance = rms_in_units(&before.mean, &after.mean, &asked.inverse_unit);
    Change {
        entity: asked.id.clone(),
        at: Timestamp(after.start),
        from: before.source,
        to: after.source,
        distance,
        score: squash(distance, question.spec.policy.threshold),
        // Where another node's version meets an open regime, the two may overlap.
        gap_us: after.start.max(before.end).abs_diff(before.end),
        moves: moves(&before.mean, &after.mean, &asked.inverse_unit),
    }
}

/// Returns the change that an outline remembers of a boundary: when it was and how far, but not in which
/// channels.
fn flagged(question: &Question, asked: &Asked, flag: &Flag, source: Source) -> Change {
    let distance = f64::from(flag.drift);
    Change {
        entity: asked.id.clone(),
        at: flag.time,
        from: source,
        to: source,
        distance,
        score: squash(distance, question.spec.policy.threshold),
        gap_us: 0,
        moves: Vec::new(),
    }
}

/// Returns the channels that moved furthest, without those that did not move.
fn moves(before: &[f32], after: &[f32], inverse_unit: &[f64]) -> Vec<Move> {
    let in_units = |m: &Move| (f64::from(m.to) - f64::from(m.from)).abs() * inverse_unit[m.channel];
    let channels = before.iter().zip(after).enumerate();
    let mut moves: Vec<Move> =
        channels.map(|(channel, (from, to))| Move { channel, from: *from, to: *to }).collect();
    moves.sort_by(|a, b| in_units(b).total_cmp(&in_units(a)).then(a.channel.cmp(&b.channel)));
    moves.truncate(MOVES_MAX);
    moves.retain(|m| m.from != m.to);
    moves
}

fn order(by: ChangeOrder, a: &Change, b: &Change) -> Ordering {
    let first = match by {
        ChangeOrder::Newest => b.at.cmp(&a.at),
        ChangeOrder::Largest => b.distance.total_cmp(&a.distance),
    };
    first.then_with(|| a.entity.cmp(&b.entity)).then_with(|| a.at.cmp(&b.at))
}
