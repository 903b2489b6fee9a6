//! The hot tier of a collection: the means of its open regimes, in one piece of memory, as they are now.
//!
//! Each observation moves a mean, so all are compared by every question; a graph over them would be wrong as soon as
//! it was made. `state.rs` keeps the tier up to date, `knn.rs` asks it.

use crate::{
    collection::CollectionSpec,
    entity::Entity,
    index::{EFFORT_EXACT, LiveIndex, LiveSearch},
    observation::EntityId,
    segment::to_f32,
};

/// The open regimes of a collection.
pub(crate) struct HotTier {
    /// By slot.
    means: LiveIndex,
    slots: Vec<Option<Hot>>,
    free: Vec<u32>,
    /// Where a mean is put together.
    scratch: Vec<f32>,
}

/// An open regime, but for its mean.
#[derive(Clone, Debug)]
pub(crate) struct Hot {
    pub(crate) entity: EntityId,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) count: u32,
}

impl HotTier {
    /// Returns one without regimes.
    pub(crate) fn new(spec: &CollectionSpec) -> Self {
        Self {
            means: LiveIndex::new(spec.metric, spec.dim),
            slots: Vec::new(),
            free: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Takes in how the open regime of an entity is now.
    pub(crate) fn update(&mut self, id: &EntityId, entity: &mut Entity) {
        let (regime, state) = (&entity.regime, entity.regime.state());
        if regime.open_count() == 0 {
            return self.remove(entity);
        }
        let slot = *entity.hot_slot.get_or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.slots.push(None);
                u32::try_from(self.slots.len() - 1).expect("entities have a limit far below")
            })
        });
        let (start, end, count) = (state.start, regime.newest(), state.count);
        match &mut self.slots[slot as usize] {
            Some(hot) => (hot.start, hot.end, hot.count) = (start, end, count),
            empty => *empty = Some(Hot { entity: id.clone(), start, end, count }),
        }
        self.scratch.clear();
        self.scratch.extend(state.mean.iter().copied().map(to_f32));
        let inserted = self.means.insert(slot.into(), &self.scratch);
        inserted.expect("a mean is finite and has the dimension of its collection");
    }

    /// Takes the open regime of an entity out.
    pub(crate) fn remove(&mut self, entity: &mut Entity) {
        if let Some(slot) = entity.hot_slot.take() {
            self.means.remove(slot.into());
            self.slots[slot as usize] = None;
            self.free.push(slot);
        }
    }

    /// Returns the open regime in a slot.
    pub(crate) fn get(&self, slot: u32) -> Option<&Hot> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Returns the `k` regimes nearest to a vector among those that pass, with their distances, and how many pass.
    pub(crate) fn nearest(
        &self,
        vector: &[f32],
        k: usize,
        passes: Option<&dyn Fn(&Hot) -> bool>,
    ) -> (Vec<(f64, &Hot)>, u64) {
        let passing = std::cell::Cell::new(0);
        let of = |slot: u64| self.slots[slot as usize].as_ref();
        let counted = |slot: u64| {
            let is_asked = of(slot).is_some_and(|hot| passes.is_none_or(|passes| passes(hot)));
            passing.set(passing.get() + u64::from(is_asked));
            is_asked
        };
        let filter = passes.map(|_| &counted as &dyn Fn(u64) -> bool);
        let search = LiveSearch { vector, k, effort: EFFORT_EXACT, filter };
        let found = self.means.search(&search).expect("a vector that was checked");
        let near = found.iter().filter_map(|hit| Some((hit.distance, of(hit.key)?))).collect();
        (near, if passes.is_some() { passing.get() } else { self.means.count() as u64 })
    }
}
