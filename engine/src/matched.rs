//! Which known behavior something is nearest to, for who asks.
//!
//! What an entity's newest observation is like was found when it came in (`matching.rs`). What its past was
//! like is found when it is asked for, from what had ended before each moment and from the references that
//! come with the question: what peers teach changes, and is in no segment.

use crate::{
    collection::CollectionName,
    engine::Engine,
    entity::Entity,
    error::ReadError,
    known::{Behavior, Known},
    matching::{Kept, Which},
    observation::{EntityId, Timestamp},
    preferred::{OWN, Preferred},
    question::{Detail, check_vector},
    references::Reference,
    rows::Rows,
    score::{Nearest, ScoreUnits, check_references},
    state::Collection,
    store::Reader,
};

/// Most references that observations are matched with as they come in. With more, each costs ingest tens of
/// microseconds where an entity jumps about.
pub const KEPT_REFERENCES_MAX: usize = 1_024;

/// The known behavior that is nearest to an observation or a regime, in the collection's own units.
#[derive(Clone, Debug, PartialEq)]
pub struct Matched {
    /// Which one.
    pub nearest: Nearest,
    /// How far it counts as being, over the policy's threshold: up to 1, it is as near as a regime's own
    /// observations are.
    pub distance: f64,
    /// How much farther the second nearest is, over the threshold: near 0, the match is one of several.
    /// `None` when only one is known.
    pub margin: Option<f64>,
}

/// A question for what points of an entity's life were nearest to.
#[derive(Clone, Debug, PartialEq)]
pub struct MatchesQuery {
    /// The collection.
    pub collection: CollectionName,
    /// The entity.
    pub entity: EntityId,
    /// Behaviors that count as known besides the entity's own past.
    pub references: Vec<Reference>,
    /// From how much own past on, in microseconds, references count no more; as in
    /// [`ScoresQuery`](crate::ScoresQuery).
    pub fade_us: Option<u64>,
}

impl Engine {
    /// Returns for each of `points`, in the order of their times, the known behavior that it was nearest to, of
    /// the entity's regimes that had ended then and of the query's references; `None` where nothing was
    /// known. Of a past that was compacted nothing is known any more.
    ///
    /// Takes time proportional to points times known behaviors times channels.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection or entity, or a reference or point does not fit the collection.
    pub fn matches(
        &self,
        query: &MatchesQuery,
        points: &Rows,
    ) -> Result<Vec<Option<Matched>>, ReadError> {
        self.matches_with(query, points, &OWN)
    }

    /// As [`Self::matches`], with what other nodes sealed in the place of some own segments.
    ///
    /// # Errors
    ///
    /// As [`Self::matches`].
    pub fn matches_with(
        &self,
        query: &MatchesQuery,
        points: &Rows,
        preferred: &Preferred<'_>,
    ) -> Result<Vec<Option<Matched>>, ReadError> {
        let entity = Some(&query.entity);
        let question = self.question(&query.collection, entity, Detail::Means, preferred)?;
        check_references(&question, &query.references)?;
        let asked = &question.entities[0];
        let Some(last) = points.times().last() else { return Ok(Vec::new()) };
        let sets = [query.references.clone()];
        let (fade, units) = (query.fade_us, ScoreUnits::Range);
        let mut known = Known::new(&question, &asked.inverse_unit, &sets, fade, units, 0);
        for stored in question.sealed(asked, (i64::MIN, *last))? {
            known.await_end(Behavior::sealed(&stored?));
        }
        let one = |(time, values): (Timestamp, &[f32])| {
            question.check_vector(values)?;
            let (nearest, distance, margin) = known.name_nearest(values, time.0);
            Ok(distance.map(|distance| Matched { nearest, distance, margin }))
        };
        points.iter().map(one).collect()
    }

    /// Keeps references that observations are matched with as they come in, in place of those from before.
    /// Of a collection without declared ranges none are used. They are in memory alone: after a restart there
    /// are none.
    ///
    /// # Errors
    ///
    /// Fails when there is no such collection, a reference does not fit it, or there are more than
    /// [`KEPT_REFERENCES_MAX`]; what was kept before still is.
    pub fn keep_references(
        &self,
        collection: &CollectionName,
        references: Vec<Reference>,
        fade_us: Option<u64>,
    ) -> Result<(), ReadError> {
        if references.len() > KEPT_REFERENCES_MAX {
            return Err(ReadError::TooManyRows { rows_max: KEPT_REFERENCES_MAX });
        }
        let missing = || ReadError::UnknownCollection { name: collection.clone() };
        let mut state = self.view_to_change()?;
        let found = state.collections.get_mut(collection).ok_or_else(missing)?;
        for reference in &references {
            check_vector(&found.spec, &reference.centroid)?;
        }
        let kept = &found.kept;
        if kept.references != references || kept.fade_us != fade_us {
            // Where nobody teaches before or after, what was found still holds.
            let is_alike = kept.references.is_empty() && references.is_empty();
            let epoch = kept.epoch + u64::from(!is_alike);
            found.kept = Kept::new(&found.spec, references, fade_us, epoch).into();
        }
        Ok(())
    }
}

impl Matched {
    /// Returns what an entity's newest observation is nearest to, unless the references have changed since.
    pub(crate) fn newest(
        collection: &Collection,
        entity: &Entity,
        reader: &Reader,
    ) -> Result<Option<Self>, ReadError> {
        let kept = &collection.kept;
        let found = entity.matching.newest.filter(|found| found.epoch == kept.epoch);
        let Some(found) = found else { return Ok(None) };
        let nearest = match found.nearest {
            Which::Own(number) => {
                let stored = reader.find((collection.number, number))?;
                stored.map(|stored| Nearest::Own(stored.cid))
            }
            Which::Reference(index) => {
                kept.references.get(index).map(|found| Nearest::Reference(found.id.clone()))
            }
        };
        let threshold = collection.spec.policy.threshold;
        let (distance, margin) = (found.distance / threshold, found.margin);
        let margin = margin.map(|margin| margin / threshold);
        Ok(nearest.map(|nearest| Self { nearest, distance, margin }))
    }
}
