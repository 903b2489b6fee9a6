//! What each unit has lost so far, by composition over all entries that it may have been in.
//!
//! Losses are kept per unit of privacy. An observation or an entity's day was in the releases of its
//! time; an entity was in the releases that its tag stands in. A release counts differently for units
//! other than its own:
//!
//! - *The same unit*: as it is.
//! - *Coarser* (the release protects entities, the question is for an observation): removing an
//!   observation replaces its entity by another, which is one removed and one added. So a group of two:
//!   twice epsilon, or four times rho.
//! - *Finer* (the release protects observations, the question is for an entity): an entity may have any
//!   number of observations, so nothing is promised, and none of its budget is left.
//!
//! Losses of Laplace noise add up as epsilons, those of Gaussian noise as rhos. Where a delta is allowed,
//! all is counted as rho, too, and the smaller of the two bounds holds.

use std::collections::{BTreeMap, HashMap};

use crate::dataset::{EntityTag, Span};
use crate::epsilon::Epsilon;
use crate::rho::Rho;
use crate::terms::Unit;

use super::entry::{Entry, Paid};

/// How much any unit of a collection may lose, over all releases, for ever.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ceiling {
    /// The privacy loss.
    pub epsilon: Epsilon,
    /// The probability that it is larger; 0 for a promise without exception, which allows Laplace noise
    /// alone.
    pub delta: f64,
}

impl Ceiling {
    /// Returns the ceiling of pure privacy.
    #[must_use]
    pub const fn pure(epsilon: Epsilon) -> Self {
        Self { epsilon, delta: 0.0 }
    }
}

/// A composed loss. Sums are exact, and wide enough for more entries than a ledger holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Loss {
    /// Of Laplace noise, in nanos.
    pure: u128,
    /// The same, as a rho in picos.
    pure_rho: u128,
    /// Of Gaussian noise, in picos.
    rho: u128,
    /// Releases that promise nothing for this unit.
    unbounded: u64,
}

impl Loss {
    /// What `unit`s lose by a release that cost `paid` and protects `by`.
    fn of(paid: Paid, by: Option<Unit>, unit: Unit) -> Self {
        // Of a torn entry only the cost is known.
        let by = by.unwrap_or(unit);
        if by < unit {
            return Self { unbounded: 1, ..Self::default() };
        }
        let group = if by == unit { 1 } else { 2 };
        if paid.rho > Rho::ZERO {
            let rho = paid.rho.of_group(group).as_picos();
            return Self { rho: rho.into(), ..Self::default() };
        }
        let epsilon = Epsilon::from_nanos(paid.epsilon.as_nanos().saturating_mul(group));
        Self {
            pure: epsilon.as_nanos().into(),
            pure_rho: Rho::of_pure(epsilon).as_picos().into(),
            ..Self::default()
        }
    }

    fn add(&mut self, other: Self) {
        self.pure += other.pure;
        self.pure_rho += other.pure_rho;
        self.rho += other.rho;
        self.unbounded += other.unbounded;
    }

    fn remove(&mut self, other: Self) {
        self.pure -= other.pure;
        self.pure_rho -= other.pure_rho;
        self.rho -= other.rho;
        self.unbounded -= other.unbounded;
    }

    fn and(mut self, other: Self) -> Self {
        self.add(other);
        self
    }

    /// Returns the epsilon that holds but with probability `delta`; `None` if there is no bound.
    pub(super) fn epsilon(&self, delta: f64) -> Option<Epsilon> {
        if self.unbounded > 0 {
            return None;
        }
        let narrow = |wide: u128| u64::try_from(wide).unwrap_or(u64::MAX);
        let pure = Epsilon::from_nanos(narrow(self.pure));
        let at_delta = |picos: u128| Rho::from_picos(narrow(picos)).epsilon(delta);
        let added = match self.rho {
            0 => Some(pure),
            rho => at_delta(rho).map(|gaussian| pure.compose(gaussian)),
        };
        let concentrated = at_delta(self.pure_rho + self.rho);
        // `None` is the least of options, so no `min` of them.
        [added, concentrated].into_iter().flatten().min()
    }

    fn is_within(&self, ceiling: Ceiling) -> bool {
        self.epsilon(ceiling.delta).is_some_and(|epsilon| epsilon <= ceiling.epsilon)
    }
}

/// The losses of one kind of unit in one collection.
#[derive(Debug)]
pub(super) enum Account {
    /// By time: from each key on, until the next.
    ByTime(BTreeMap<i64, Loss>),
    /// By entity, besides what everyone lost.
    ByEntity { everyone: Loss, entities: HashMap<EntityTag, Loss> },
}

impl Account {
    /// Adds up `entries` of one collection for units of this kind.
    pub(super) fn of<'a>(entries: impl Iterator<Item = &'a Entry>, unit: Unit) -> Self {
        let loss = |entry: &Entry| {
            let paid = Paid { epsilon: entry.epsilon, rho: entry.rho };
            Loss::of(paid, entry.unit, unit)
        };
        match unit {
            Unit::Entity => Self::by_entity(entries.map(|entry| (entry, loss(entry)))),
            Unit::Observation => Self::by_time(entries.map(|entry| (entry.span, loss(entry)))),
            Unit::EntityDay => {
                // A day that a release touches was in it.
                Self::by_time(entries.map(|entry| (entry.span.in_days(), loss(entry))))
            }
        }
    }

    fn by_entity<'a>(losses: impl Iterator<Item = (&'a Entry, Loss)>) -> Self {
        let (mut everyone, mut entities) = (Loss::default(), HashMap::<EntityTag, Loss>::new());
        for (entry, loss) in losses {
            match &entry.cohort {
                None => everyone.add(loss),
                Some(cohort) => {
                    cohort.iter().for_each(|tag| entities.entry(*tag).or_default().add(loss));
                }
            }
        }
        Self::ByEntity { everyone, entities }
    }

    fn by_time(losses: impl Iterator<Item = (Span, Loss)>) -> Self {
        // What begins and what ends at each time.
        let mut changes: BTreeMap<i64, (Loss, Loss)> = BTreeMap::new();
        changes.entry(i64::MIN).or_default();
        for (span, loss) in losses {
            changes.entry(span.first_us).or_default().0.add(loss);
            if let Some(after) = span.last_us.checked_add(1) {
                changes.entry(after).or_default().1.add(loss);
            }
        }
        let mut now = Loss::default();
        let step = |(time, (begins, ends)): (i64, (Loss, Loss))| {
            now.add(begins);
            now.remove(ends);
            (time, now)
        };
        Self::ByTime(changes.into_iter().map(step).collect())
    }

    /// Returns the largest loss of any unit that is `among` these; `None` if it has no bound.
    pub(super) fn worst(&self, among: Among<'_>, delta: f64) -> Option<Epsilon> {
        let epsilons = self.losses(among).into_iter().map(|loss| loss.epsilon(delta));
        epsilons.collect::<Option<Vec<_>>>()?.into_iter().max().or(Some(Epsilon::ZERO))
    }

    /// Returns whether nothing can be promised for some unit that is `among` these.
    pub(super) fn is_unbounded(&self, among: Among<'_>) -> bool {
        self.losses(among).iter().any(|loss| loss.unbounded > 0)
    }

    /// Returns whether all units that are `among` these may lose `paid` more.
    pub(super) fn affords(&self, among: Among<'_>, paid: Paid, ceiling: Ceiling) -> bool {
        let asked = Loss::of(paid, None, Unit::Observation);
        self.losses(among).into_iter().all(|loss| loss.and(asked).is_within(ceiling))
    }

    /// Returns the time from which on every unit may lose `paid` more, if there is one.
    pub(super) fn affordable_from(&self, paid: Paid, ceiling: Ceiling) -> Option<i64> {
        let asked = Loss::of(paid, None, Unit::Observation);
        let Self::ByTime(losses) = self else { return None };
        let is_within = |loss: &Loss| loss.and(asked).is_within(ceiling);
        let mut from = None;
        for (&time, loss) in losses.iter().rev() {
            if !is_within(loss) {
                break;
            }
            from = Some(time);
        }
        from
    }

    /// The different losses of units that are `among` these.
    fn losses(&self, among: Among<'_>) -> Vec<Loss> {
        match self {
            Self::ByTime(losses) => {
                let Span { first_us, last_us } = among.span;
                let before = losses.range(..=first_us).next_back();
                let inside = losses.range(first_us..).take_while(|(time, _)| **time <= last_us);
                let mut all: Vec<Loss> = before.into_iter().chain(inside).map(|it| *it.1).collect();
                all.dedup();
                all
            }
            Self::ByEntity { everyone, entities } => match among.entities {
                Some(tags) => {
                    let of = |tag| entities.get(tag).copied().unwrap_or_default().and(*everyone);
                    distinct(tags.iter().map(of))
                }
                None => {
                    let known = entities.values().map(|loss| loss.and(*everyone));
                    distinct(known.chain([*everyone]))
                }
            },
        }
    }
}

/// Few distinct losses stand for many entities, and turning one into an epsilon is slow.
fn distinct(losses: impl Iterator<Item = Loss>) -> Vec<Loss> {
    let mut distinct: Vec<Loss> = Vec::new();
    for loss in losses {
        if !distinct.contains(&loss) {
            distinct.push(loss);
        }
    }
    distinct
}

/// Some units of a collection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Among<'a> {
    pub(super) span: Span,
    /// `None` for everyone.
    pub(super) entities: Option<&'a [EntityTag]>,
}

impl Among<'_> {
    pub(super) const ALL: Self = Self { span: Span::ALL, entities: None };
}
