//! What the log's entries add up to: collections and their entities.
//!
//! [`State::apply`] is the only place where anything changes. It runs in log order, live and in replay
//! alike, and decides by the entry and the state alone; so a replay makes the same segments with the
//! same numbers, and the way batches were cut or grouped leaves no trace.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dunlin_wire::Cid;

use crate::{
    Config,
    ahead::Payloads,
    batch::Entry,
    collection::{CollectionName, CollectionSpec},
    counters::Counters,
    distance::in_units,
    entity::{Admission, Entity, novelty},
    error::{ReadError, StoreError, WriteError},
    hot::HotTier,
    matching::{Ended, Field, Kept, Past, Scratch, Which},
    means::Kind,
    observation::{EntityId, Timestamp},
    regime::Sealed,
    rows::Rows,
    segment::{Measures, Segment, to_f32},
    store::{Checkpoint, NewSegment, Store},
};

/// Pasts that one batch may read from the store to match its observations: each takes milliseconds, in which
/// all writers wait. The others are read by later batches.
const PASTS_READ_MAX: usize = 16;

/// All collections, in memory.
pub(crate) struct State {
    pub(crate) collections: BTreeMap<CollectionName, Collection>,
    /// The number of the next segment.
    pub(crate) next_segment: u64,
    /// The last log record in the newest checkpoint.
    pub(crate) checkpointed: u64,
    pub(crate) counters: Counters,
    /// Entities whose records the newest checkpoint still has.
    pub(crate) removed: BTreeSet<(u32, EntityId)>,
    baseline_bytes: usize,
    baseline_bytes_max: usize,
    /// Whether observations are matched as they come in: not while the log is replayed, which nobody watches.
    pub(crate) is_matching: bool,
}

/// A collection with its entities.
pub(crate) struct Collection {
    pub(crate) number: u32,
    pub(crate) spec: Arc<CollectionSpec>,
    pub(crate) entities: BTreeMap<EntityId, Entity>,
    /// The open regimes of all of them.
    pub(crate) hot: HotTier,
    /// What observations are matched with besides each entity's own past.
    pub(crate) kept: Arc<Kept>,
}

/// Entries that are applied together.
pub(crate) struct Group<'a> {
    pub(crate) store: &'a Store,
    /// What was packed for them ahead.
    pub(crate) payloads: Payloads,
    /// The segments that they sealed, which are not in the store yet.
    pub(crate) sealed: Vec<NewSegment>,
}

/// What an entry did.
pub(crate) enum Outcome {
    /// Observations were taken in.
    Ingested(Ack),
    /// A regime was closed, unless there was nothing to close.
    Sealed(Option<Cid>),
    /// The collection exists.
    Created,
    /// An entity was forgotten, and the segments of these numbers.
    Removed { removed: Removed, kind: Kind, numbers: Vec<u64> },
    /// The state did not allow it, and is unchanged.
    Refused(WriteError),
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ack {
    /// Observations that are now durable.
    pub accepted: u64,
    /// Observations whose entity and time were known already; they changed nothing.
    pub duplicate: u64,
    /// Observations older than the collection's lateness allows; they were dropped.
    pub late: u64,
    /// Segments that the batch sealed.
    pub sealed: u64,
}

/// What became of an entity that was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Removed {
    /// Observations that were forgotten, sealed or not.
    pub observations: u64,
    /// Segments that were removed from this node's store.
    pub segments: u64,
}

impl Collection {
    /// Returns an entity for a question.
    pub(crate) fn known(&self, entity: &EntityId) -> Result<&Entity, ReadError> {
        let (collection, id) = (&self.spec.name, entity);
        let missing =
            || ReadError::UnknownEntity { collection: collection.clone(), entity: id.clone() };
        self.entities.get(entity).ok_or_else(missing)
    }
}

impl State {
    /// Returns a state without collections.
    pub(crate) fn new(checkpoint: Checkpoint, baseline_bytes_max: usize) -> Self {
        Self {
            collections: BTreeMap::new(),
            next_segment: checkpoint.next_segment,
            checkpointed: checkpoint.record,
            counters: Counters::default(),
            removed: BTreeSet::new(),
            baseline_bytes: 0,
            baseline_bytes_max,
            is_matching: false,
        }
    }

    /// Applies one entry; adds the segments that it sealed to those of its group.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be read; the state is then half changed and of no more use.
    pub(crate) fn apply(
        &mut self,
        entry: Entry,
        group: &mut Group<'_>,
    ) -> Result<Outcome, StoreError> {
        let before = group.sealed.len();
        let outcome = match entry {
            Entry::Create(spec) => self.create(*spec),
            Entry::Seal { collection, entity } => self.seal(collection, entity, group)?,
            Entry::Observations { collection, groups } => self.ingest(collection, groups, group)?,
            Entry::Remove { collection, entity, observations } => {
                return self.remove((collection, entity), observations, group);
            }
        };
        for NewSegment { block, payload, .. } in &group.sealed[before..] {
            self.counters.segments_sealed += 1;
            self.counters.segment_bytes += block.bytes().len() as u64;
            let bytes = payload.iter().map(|block| block.bytes().len() as u64);
            self.counters.payload_bytes += bytes.sum::<u64>();
        }
        Ok(outcome)
    }

    /// Takes note that a checkpoint has everything.
    pub(crate) fn was_checkpointed(&mut self, checkpoint: Checkpoint) {
        self.removed.clear();
        for collection in self.collections.values_mut() {
            collection.entities.values_mut().for_each(|entity| entity.changed = false);
        }
        self.checkpointed = checkpoint.record;
        self.counters.checkpoints += 1;
    }

    /// Drops the cached baselines when they are too many. Call it when every sealed segment is in the
    /// store, from where they are read again.
    pub(crate) fn limit_baselines(&mut self) {
        if self.baseline_bytes <= self.baseline_bytes_max {
            return;
        }
        self.counters.baseline_cache_drops += 1;
        self.baseline_bytes = 0;
        for collection in self.collections.values_mut() {
            for entity in collection.entities.values_mut() {
                entity.past = (entity.segments == 0).then(Past::default);
            }
        }
    }

    /// Adds a collection without entities.
    pub(crate) fn insert(&mut self, number: u32, spec: CollectionSpec) {
        let kept = Arc::new(Kept::new(&spec, Vec::new(), None, 0));
        let (entities, hot) = (BTreeMap::new(), HotTier::new(&spec));
        let collection = Collection { number, spec: Arc::new(spec), entities, hot, kept };
        self.collections.insert(collection.spec.name.clone(), collection);
    }

    /// Returns what the index must know of a collection.
    pub(crate) fn kind(&self, collection: &Collection) -> Kind {
        Kind::new(collection.number, &collection.spec, self.next_segment)
    }

    /// Returns a collection for a question.
    pub(crate) fn collection(&self, name: &CollectionName) -> Result<&Collection, ReadError> {
        let missing = || ReadError::UnknownCollection { name: name.clone() };
        self.collections.get(name).ok_or_else(missing)
    }

    fn create(&mut self, spec: CollectionSpec) -> Outcome {
        if let Some(existing) = self.collections.get(&spec.name) {
            return match *existing.spec == spec {
                true => Outcome::Created,
                false => Outcome::Refused(WriteError::OtherSpec { name: spec.name }),
            };
        }
        if self.collections.len() >= Config::COLLECTIONS_MAX {
            return Outcome::Refused(WriteError::TooManyCollections);
        }
        // Collections are never removed, so their count is the next free number.
        let number = u32::try_from(self.collections.len()).expect("bounded by COLLECTIONS_MAX");
        self.insert(number, spec);
        Outcome::Created
    }

    fn seal(
        &mut self,
        collection: CollectionName,
        entity: EntityId,
        group: &mut Group<'_>,
    ) -> Result<Outcome, StoreError> {
        let before = group.sealed.len();
        let Some(Collection { number, spec, entities, hot, kept }) =
            self.collections.get_mut(&collection)
        else {
            return Ok(Outcome::Refused(WriteError::UnknownCollection { name: collection }));
        };
        let Some(state) = entities.get_mut(&entity) else {
            return Ok(Outcome::Refused(WriteError::UnknownEntity { collection, entity }));
        };
        let mut regimes = Vec::new();
        state.seal(|regime| regimes.push(regime));
        hot.update(&entity, state);
        let mut sealing = Sealing { number: *number, spec, group, kept };
        let (next, counters) = (&mut self.next_segment, &mut self.counters);
        self.baseline_bytes += sealing.seal(&entity, state, regimes, next, counters)?;
        Ok(Outcome::Sealed(group.sealed[before..].last().map(|new| *new.block.cid())))
    }

    /// Forgets an entity. Its record stays in the store until the next checkpoint: a replay from the one
    /// before must find it, or it would seal other segments than there were.
    fn remove(
        &mut self,
        (collection, entity): (CollectionName, EntityId),
        observations: Option<u64>,
        group: &mut Group<'_>,
    ) -> Result<Outcome, StoreError> {
        let Some(Collection { number, spec, entities, hot, .. }) =
            self.collections.get_mut(&collection)
        else {
            return Ok(Outcome::Refused(WriteError::UnknownCollection { name: collection }));
        };
        let known = entities.get(&entity).map(|entity| entity.observations);
        if known.is_some_and(|known| observations.is_some_and(|expected| expected != known)) {
            return Ok(Outcome::Refused(WriteError::Changed { collection, entity }));
        }
        let Some(mut forgotten) = entities.remove(&entity) else {
            return Ok(Outcome::Refused(WriteError::UnknownEntity { collection, entity }));
        };
        hot.remove(&mut forgotten);
        let of_entity =
            |new: &NewSegment| new.place.0 == *number && *new.segment.entity() == entity;
        // What this record sealed is not in the store yet.
        group.sealed.retain(|new| !of_entity(new));
        let numbers = group.store.remove(*number, &entity)?;
        let kind = Kind::new(*number, spec, self.next_segment);
        self.removed.insert((*number, entity));
        self.counters.entities_removed += 1;
        let (observations, segments) = (forgotten.observations, forgotten.segments);
        let removed = Removed { observations, segments };
        Ok(Outcome::Removed { removed, kind, numbers })
    }

    fn ingest(
        &mut self,
        name: CollectionName,
        groups: Vec<(EntityId, Rows)>,
        group: &mut Group<'_>,
    ) -> Result<Outcome, StoreError> {
        let before = group.sealed.len();
        let Some(Collection { number, spec, entities, hot, kept }) =
            self.collections.get_mut(&name)
        else {
            return Ok(Outcome::Refused(WriteError::UnknownCollection { name }));
        };
        let new = groups.iter().filter(|(entity, _)| !entities.contains_key(entity)).count();
        let entities_max = spec.entities_max;
        if entities.len() + new > entities_max as usize {
            return Ok(Outcome::Refused(WriteError::TooManyEntities {
                collection: name,
                entities_max,
            }));
        }
        let mut ack = Ack::default();
        let mut sealing = Sealing { number: *number, spec, group, kept };
        let (next, counters) = (&mut self.next_segment, &mut self.counters);
        let mut scratch = Scratch::default();
        let mut reads = if self.is_matching { PASTS_READ_MAX } else { 0 };
        for (id, rows) in groups {
            if rows.dim() != spec.dim.get() {
                return Err(StoreError::Damaged { what: "a log record" });
            }
            let entity = entities.entry(id.clone()).or_insert_with(|| Entity::new(spec));
            // Half of the room is left to those that seal, so that reading pushes nothing out.
            let has_room = 2 * self.baseline_bytes <= self.baseline_bytes_max;
            if entity.past.is_none() && has_room && reads > 0 {
                reads -= 1;
                // What cannot be read now is matched with by nobody, and stops no writer.
                self.baseline_bytes += sealing.read_past(&id, entity).unwrap_or_default();
            }
            let mut regimes = Vec::new();
            for (index, (time, values)) in rows.iter().enumerate() {
                let carried = rows.metadata(index).cloned();
                let admission =
                    entity.observe(time.0, values, carried, |regime| regimes.push(regime));
                if !regimes.is_empty() {
                    // At once, so that the next observation finds them among what is known.
                    let ended = std::mem::take(&mut regimes);
                    self.baseline_bytes += sealing.seal(&id, entity, ended, next, counters)?;
                }
                match admission {
                    Admission::Accepted => ack.accepted += 1,
                    Admission::Duplicate => ack.duplicate += 1,
                    Admission::Late => ack.late += 1,
                }
                if self.is_matching && admission == Admission::Accepted && time.0 == entity.newest()
                {
                    entity.match_newest(values, sealing.regimes_max(), kept, &mut scratch);
                    count_match(counters, entity, spec.policy.threshold);
                }
            }
            hot.update(&id, entity);
        }
        ack.sealed = (group.sealed.len() - before) as u64;
        self.counters.observations_accepted += ack.accepted;
        self.counters.observations_duplicate += ack.duplicate;
        self.counters.observations_late += ack.late;
        Ok(Outcome::Ingested(ack))
    }
}

/// Counts what the newest observation of an entity is like.
fn count_match(counters: &mut Counters, entity: &Entity, threshold: f64) {
    let Some(found) = entity.matching.newest else { return };
    let counter = match found.nearest {
        _ if found.distance > threshold => &mut counters.observations_unlike,
        Which::Own(_) => &mut counters.observations_like_own,
        Which::Reference(_) => &mut counters.observations_like_reference,
    };
    *counter += 1;
}

/// Makes segments of ended regimes.
struct Sealing<'a, 'b> {
    number: u32,
    spec: &'a CollectionSpec,
    group: &'a mut Group<'b>,
    kept: &'a Kept,
}

impl Sealing<'_, '_> {
    /// Returns how many own regimes count as known.
    fn regimes_max(&self) -> usize {
        self.spec.policy.novelty_regimes_max as usize
    }

    /// Seals regimes of one entity, in order; returns by how much what is in memory of its past grew.
    fn seal(
        &mut self,
        id: &EntityId,
        entity: &mut Entity,
        regimes: Vec<Sealed>,
        next_segment: &mut u64,
        counters: &mut Counters,
    ) -> Result<usize, StoreError> {
        let (dim, regimes_max) = (self.spec.dim.get(), self.regimes_max());
        let threshold = self.spec.policy.threshold;
        let mut grown = 0;
        if !regimes.is_empty() && entity.past.is_none() {
            grown += self.read_past(id, entity)?;
        }
        for regime in regimes {
            let past = entity.past.get_or_insert_default();
            let (units, level) = (&regime.inverse_unit, self.kept.level());
            let nearest = past.nearest(&regime.mean, units, regimes_max, level);
            let field = Field::new(past, regimes_max, units, self.kept);
            let reference = field.reference(&in_units(&regime.mean, &regime.inverse_unit));
            count_sealed(counters, nearest, reference.map(|(_, distance)| distance), threshold);
            if past.ended.len() >= 2 * regimes_max {
                // Older ones are forgotten in one move for many regimes.
                past.forget_but(regimes_max);
            }
            let number = *next_segment;
            past.push(&regime.mean, Ended { number, start: regime.start, end: regime.end });
            grown += Past::byte_count_each(dim);
            entity.segments += 1;
            *next_segment += 1;
            let score = novelty(nearest, threshold);
            let new = self.new_segment((self.number, number), id, regime, score);
            self.group.sealed.push(new);
        }
        Ok(grown)
    }

    /// Reads the latest regimes of an entity; returns how many bytes they take. One that is damaged counts no more.
    fn read_past(&self, id: &EntityId, entity: &mut Entity) -> Result<usize, StoreError> {
        let reader = self.group.store.reader()?;
        let newest = reader.of_entity(self.number, id, i64::MIN, i64::MAX)?.rev();
        let is_whole = |read: &Result<_, StoreError>| {
            !matches!(read, Err(StoreError::Segment(_) | StoreError::Damaged { .. }))
        };
        let newest = newest.filter(is_whole).take(self.regimes_max());
        let mut read = newest.collect::<Result<Vec<_>, StoreError>>()?;
        read.reverse();
        let mut past = Past::default();
        for stored in &read {
            past.push(stored.segment.mean(), ended(stored.number, &stored.segment));
        }
        // What this record sealed before is not in the store yet.
        let own = |new: &&NewSegment| new.place.0 == self.number && new.segment.entity() == id;
        for new in self.group.sealed.iter().filter(own) {
            past.push(new.segment.mean(), ended(new.place.1, &new.segment));
        }
        let bytes = past.ended.len() * Past::byte_count_each(self.spec.dim.get());
        entity.past = Some(past);
        Ok(bytes)
    }

    fn new_segment(
        &self,
        place: (u32, u64),
        id: &EntityId,
        regime: Sealed,
        score: f64,
    ) -> NewSegment {
        let payload = regime.rows.as_ref().map(|rows| self.group.payloads.of(rows, self.spec));
        let payload = payload.unwrap_or_default();
        let segment = Segment {
            collection: self.spec.name.clone(),
            metric: self.spec.metric,
            entity: id.clone(),
            start: Timestamp(regime.start),
            end: Timestamp(regime.end),
            count: regime.count,
            mean: regime.mean,
            spread: regime.spread,
            first: regime.first,
            last: regime.last,
            measures: Measures {
                drift_mean: regime.drift_mean,
                drift_max: regime.drift_max,
                score: to_f32(score),
            },
            fidelity: self.spec.fidelity,
            payload: payload.iter().map(|block| *block.cid()).collect(),
        };
        NewSegment { place, block: segment.to_block(), segment, payload }
    }
}

fn ended(number: u64, segment: &Segment) -> Ended {
    Ended { number, start: segment.start().0, end: segment.end().0 }
}

/// Counts what a regime that ended is like: how far the nearest own regime is, and the nearest reference.
fn count_sealed(counters: &mut Counters, own: Option<f64>, reference: Option<f64>, threshold: f64) {
    let Some(nearest) = own.into_iter().chain(reference).reduce(f64::min) else { return };
    let counter = match own {
        _ if nearest > threshold => &mut counters.segments_unlike,
        Some(own) if own <= nearest => &mut counters.segments_like_own,
        _ => &mut counters.segments_like_reference,
    };
    *counter += 1;
}
