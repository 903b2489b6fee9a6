//! Which received sets the others' and one's own past contradict.

use dunlin_engine::{
    CollectionSpec, EntityView, Fidelity, Reference, ScoreUnits, ScoresQuery, TimeRange,
};
use dunlin_privacy::{
    Bounds,
    doubt::{self, Doubt, SOURCES_MIN},
};

use super::{Held, adoption::recent, references};
use crate::daemon::shared::Shared;

/// Entities that are looked at: the first ones by id that have a past.
const ENTITIES_MAX: usize = 8;

/// From how much own past on an entity tells who whitelists, and after how long a regime is known: a day
/// shows every hour once, and an incident stays one while it lasts.
const DAY_US: u64 = 86_400_000_000;

/// Observations over which a level is the mean.
const WINDOW: usize = 10;

impl Shared {
    /// Returns for each set of a collection whether it is doubted, by what this node knows now.
    pub(super) fn doubts(
        &self,
        spec: &CollectionSpec,
        held: &[Held],
        own: &[f32],
        bounds: &Bounds,
    ) -> anyhow::Result<Vec<Option<Doubt>>> {
        if held.len() < SOURCES_MIN {
            return Ok(vec![None; held.len()]);
        }
        let centroids: Vec<Vec<f32>> =
            held.iter().map(|held| held.signed.value.centroids()).collect();
        let sets: Vec<&[f32]> = centroids.iter().map(Vec::as_slice).collect();
        let straying = doubt::straying(&sets, own, bounds);
        let whitelisting = doubt::whitelisting(&self.levels(spec, held)?);
        Ok(straying.into_iter().zip(whitelisting).map(|(stray, white)| stray.or(white)).collect())
    }

    /// Returns for each source the levels of some entities' newest observations, by the own past and that
    /// source alone.
    fn levels(&self, spec: &CollectionSpec, held: &[Held]) -> anyhow::Result<Vec<Vec<f64>>> {
        let sets: Vec<Vec<Reference>> = held.iter().map(|held| references(held, false)).collect();
        let mut levels = vec![Vec::new(); sets.len()];
        if spec.fidelity != Fidelity::Lossless {
            return Ok(levels);
        }
        let views = self.engine.entities(&spec.name, None, 8 * ENTITIES_MAX)?;
        let has_past = |view: &&EntityView| view.last.0.abs_diff(view.first.0) >= 2 * DAY_US;
        for view in views.iter().filter(has_past).take(ENTITIES_MAX) {
            let query = ScoresQuery {
                collection: spec.name.clone(),
                entity: view.entity.clone(),
                range: TimeRange { from: Some(recent(view)), to: None },
                known_until: None,
                references: Vec::new(),
                window: WINDOW,
                units: ScoreUnits::Range,
                known_after_us: DAY_US,
                // What counts no more for scores still tells who says what.
                fade_us: None,
            };
            let of_entity = self.engine.levels(&query, &sets)?;
            levels.iter_mut().zip(of_entity).for_each(|(all, more)| all.extend(more));
        }
        Ok(levels)
    }
}
