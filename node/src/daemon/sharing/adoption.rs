//! The adoption gate: whether a peer's templates explain the life of this node.

use dunlin_engine::{
    CollectionName, CollectionSpec, EntityView, Fidelity, Rows, SegmentQuery, TimeRange, Timestamp,
    Units,
};
use dunlin_privacy::{Bounds, adoption, doubt::Doubt};
use dunlin_protocols::PeerId;

use super::Held;
use crate::daemon::shared::Shared;

/// Observations of each entity that the gate looks at: about so many of its newest.
const ROWS_PER_ENTITY_MAX: usize = 4096;

/// Entities that the gate looks at: the first ones by id.
const ENTITIES_MAX: usize = 64;

/// Fewest observations of an entity that say anything about its life.
const ROWS_MIN: usize = 10;

/// How much a history must grow before the gate looks at it again.
const GROWTH: u64 = 2;

/// What the gate said of one set.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Judged {
    pub(crate) is_adopted: bool,
    pub(crate) own_q90: Option<f64>,
    pub(crate) foreign_q90: Option<f64>,
    pub(crate) reason: &'static str,
    /// Whether the operator took it back.
    pub(crate) is_set_aside: bool,
    /// What the others and the own past have against it.
    pub(crate) doubt: Option<Doubt>,
    /// How many observations the collection had then.
    observations: u64,
}

/// The node's own history in two halves.
#[derive(Debug, Default)]
struct Halves {
    regimes: Vec<f32>,
    second_half: Vec<f32>,
}

impl Shared {
    /// Puts the received sets of all collections before the gate again whose history has grown much
    /// since: a node that has just started knows too little of itself to judge by. Returns whom this makes
    /// doubtful.
    pub(crate) fn judge_again(&self) -> anyhow::Result<Vec<PeerId>> {
        let mut first = Ok(Vec::new());
        for spec in self.engine.collections()? {
            let held = self.sharing.current_of(&spec.name);
            let judged_at = |held: &Held| held.judged.as_ref().map(|judged| judged.observations);
            // `None`, the least: there is one that was never judged.
            let Some(oldest) = held.iter().map(judged_at).min() else { continue };
            let is_due = match oldest {
                None => true,
                Some(then) => self.observations(&spec.name)? >= (GROWTH * then).max(1),
            };
            // One collection that cannot be read is no reason to pass over the others.
            if is_due {
                first = match (first, self.judge_templates(&spec.name)) {
                    (Ok(doubted), Ok(more)) => Ok([doubted, more].concat()),
                    (Err(cause), _) | (_, Err(cause)) => Err(cause),
                };
            }
        }
        first
    }

    fn observations(&self, name: &CollectionName) -> anyhow::Result<u64> {
        Ok(self.engine.population(name)?.observations)
    }

    /// Puts all received sets of a collection before the gate, as the node's history is now. Returns who was
    /// not doubted before and is now.
    pub(crate) fn judge_templates(&self, name: &CollectionName) -> anyhow::Result<Vec<PeerId>> {
        let spec = self.engine.collection(name)?;
        let Units::Range { lower, upper } = &spec.units else { return Ok(Vec::new()) };
        let bounds = Bounds::new(lower.clone(), upper.clone())?;
        let halves = self.halves(&spec)?;
        let history =
            adoption::History { regimes: &halves.regimes, second_half: &halves.second_half };
        let config = adoption::Config {
            ratio_max: self.config.templates.gate_ratio,
            ..adoption::Config::default()
        };
        let observations = self.observations(name)?;
        let current = self.sharing.current_of(name);
        let doubts = self.doubts(&spec, &current, &halves.regimes, &bounds)?;
        let mut doubted = Vec::new();
        for (mut held, doubt) in current.into_iter().zip(doubts) {
            let verdict =
                adoption::judge(history, &held.signed.value.centroids(), &bounds, &config);
            let mut judged = Judged::new(&verdict, observations);
            judged.look_at(doubt, self.sharing.is_taken_back(&held));
            let was_doubted = held.judged.as_ref().is_some_and(|before| before.doubt.is_some());
            if doubt.is_some() && !was_doubted {
                doubted.push(held.signed.signer);
            }
            tracing::info!(peer = %held.signed.signer, reason = judged.reason, adopted = judged.is_adopted, "gate");
            held.judged = Some(judged);
            self.sharing.note_verdict(&held);
        }
        Ok(doubted)
    }

    /// Returns the regimes of the older half of every entity's history, and the newer half.
    fn halves(&self, spec: &CollectionSpec) -> anyhow::Result<Halves> {
        let mut halves = Halves::default();
        if spec.fidelity != Fidelity::Lossless {
            // Without observations there is no newer half to explain.
            return Ok(halves);
        }
        for view in self.engine.entities(&spec.name, None, ENTITIES_MAX)? {
            let range = TimeRange { from: Some(recent(&view)), to: None };
            let rows = self
                .engine
                .observations(&spec.name, &view.entity, range, 2 * ROWS_PER_ENTITY_MAX)?
                .rows;
            if rows.count() < ROWS_MIN {
                continue;
            }
            let query = SegmentQuery {
                collection: spec.name.clone(),
                entity: Some(view.entity),
                range,
                after: 0,
                limit: 2 * ROWS_PER_ENTITY_MAX,
            };
            let segments = self.engine.segments(&query)?.segments;
            let sealed =
                segments.iter().map(|stored| (stored.segment.end(), stored.segment.mean()));
            halves.add(&rows, sealed);
        }
        Ok(halves)
    }
}

impl Halves {
    /// Adds an entity: its regimes that ended in the older half, the rest of that half as one more, and
    /// the newer half as it was.
    fn add<'a>(&mut self, rows: &Rows, sealed: impl Iterator<Item = (Timestamp, &'a [f32])>) {
        let half = rows.count() / 2;
        let Some(middle) = rows.time(half) else { return };
        let mut covered = None;
        for (end, mean) in sealed.filter(|(end, _)| *end < middle) {
            self.regimes.extend_from_slice(mean);
            covered = covered.max(Some(end));
        }
        let older = rows.iter().take(half);
        let open: Vec<&[f32]> = older
            .filter(|(time, _)| covered.is_none_or(|end| *time > end))
            .map(|(_, row)| row)
            .collect();
        self.regimes.extend(mean(&open, rows.dim()));
        self.second_half.extend(rows.iter().skip(half).flat_map(|(_, row)| row));
    }
}

/// Returns the time from which an entity has about as many observations as the gate looks at.
pub(super) fn recent(view: &EntityView) -> Timestamp {
    let span = i128::from(view.last.0) - i128::from(view.first.0);
    let rows = i128::from(view.observations.max(1));
    let from = i128::from(view.last.0) - span * ROWS_PER_ENTITY_MAX as i128 / rows;
    Timestamp(i64::try_from(from).unwrap_or(i64::MIN).max(view.first.0))
}

/// Returns the mean of rows; nothing when there are none.
fn mean(rows: &[&[f32]], dim: usize) -> Vec<f32> {
    if rows.is_empty() {
        return Vec::new();
    }
    let mut sums = vec![0.0; dim];
    for row in rows {
        for (sum, value) in sums.iter_mut().zip(*row) {
            *sum += f64::from(*value);
        }
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "a mean of f32 values"
    )]
    sums.into_iter().map(|sum| (sum / rows.len() as f64) as f32).collect()
}

impl Judged {
    #[cfg(test)]
    pub(super) fn adopted() -> Self {
        Self {
            is_adopted: true,
            own_q90: None,
            foreign_q90: None,
            reason: "",
            is_set_aside: false,
            doubt: None,
            observations: 1,
        }
    }

    /// Takes in what is said against a set that the gate may have let in.
    fn look_at(&mut self, doubt: Option<Doubt>, is_set_aside: bool) {
        self.doubt = doubt;
        self.is_set_aside = is_set_aside;
        let objection = match doubt {
            _ if is_set_aside => "you took it back",
            Some(Doubt::Whitelists { .. }) => "it explains what our past and most peers find new",
            Some(_) => "it is as far from other peers as shuffled channels are",
            None => return,
        };
        self.is_adopted = false;
        self.reason = objection;
    }

    fn new(verdict: &adoption::Verdict, observations: u64) -> Self {
        let known = |value: f64| value.is_finite().then_some(value);
        Self {
            observations,
            is_set_aside: false,
            doubt: None,
            is_adopted: verdict.is_adopted(),
            own_q90: known(verdict.own_q90),
            foreign_q90: known(verdict.foreign_q90),
            reason: match verdict.reason {
                adoption::Reason::Explains => "it explains our own history",
                adoption::Reason::NoHistory => "too little own history to judge by",
                adoption::Reason::Shape => "it has another shape, or is empty",
                adoption::Reason::TooFar => "it is too far from our own history",
                adoption::Reason::NoBetterThanShifted => "shuffled channels explain us as well",
                _ => "refused",
            },
        }
    }
}
