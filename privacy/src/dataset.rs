//! Observations that have been checked, bounded, grouped by unit of privacy and given a digest: all
//! that a release ever sees.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

use sha2::{Digest, Sha256};

use crate::bounds::{Bounds, BoundsError};
use crate::terms::Unit;

/// Most observations in one release: bounds memory (16 GiB at 4,096 dimensions is the shell's to
/// avoid) and keeps every sum below `2^19 * 2^31`, far inside an `i64`.
pub const OBSERVATIONS_MAX: usize = 1 << 31;

/// Microseconds of a day of UTC, which has no leap seconds here.
const DAY_US: i64 = 86_400_000_000;

/// Observations on the grid of their bounds.
///
/// Its `Debug` prints sizes alone: the content is private.
pub struct Dataset {
    bounds: Bounds,
    unit: Unit,
    /// Row-major `[count, dim]`, each within half the grid of the midpoint; a unit's rows are together.
    grid: Vec<i32>,
    /// Where each unit's rows end; empty if every row is a unit of its own.
    ends: Vec<usize>,
    /// Sorted; `None` if the caller did not say, which counts as everyone.
    entities: Option<Vec<EntityTag>>,
    /// Each entity and where its rows end, in the order in which they were gathered.
    groups: Vec<(EntityTag, usize)>,
    span: Span,
    digest: DataDigest,
}

/// The SHA-256 digest of a dataset, its bounds and its grouping: equal data need no second release.
///
/// It stays in the local ledger. Whoever can read it can confirm a guess of the whole dataset.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DataDigest(pub [u8; 32]);

/// Names an entity in the ledger: the first 8 bytes of its id's SHA-256 digest. Should two ids ever
/// share one, their losses are counted together, which is the cautious side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntityTag(pub [u8; 8]);

impl EntityTag {
    /// Returns the tag of an entity id.
    #[must_use]
    pub fn of(entity: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(entity.as_bytes()).into();
        Self(std::array::from_fn(|index| digest[index]))
    }
}

/// A stretch of time, both ends included, in microseconds since the Unix epoch.
///
/// A release takes what was observed within one, and every unit within it counts as released. So it must be
/// chosen without looking at the data (up to now, by the clock): were it to end with the newest observation,
/// that observation would decide what later releases leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its beginning.
    pub first_us: i64,
    /// Its end.
    pub last_us: i64,
}

impl Span {
    /// All of time.
    pub const ALL: Self = Self { first_us: i64::MIN, last_us: i64::MAX };

    /// Returns the whole days of UTC that it touches.
    pub(crate) fn in_days(self) -> Self {
        let first = self.first_us.div_euclid(DAY_US).checked_mul(DAY_US);
        let next = self.last_us.div_euclid(DAY_US).checked_add(1);
        let last = next.and_then(|day| day.checked_mul(DAY_US)).map(|end| end - 1);
        Self { first_us: first.unwrap_or(i64::MIN), last_us: last.unwrap_or(i64::MAX) }
    }
}

/// Why rows are no dataset. Nothing was computed from them.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The rows have another number of channels than the bounds.
    #[error("rows of {dim} channels, but bounds of {bounds}")]
    Dim {
        /// Channels of the rows.
        dim: usize,
        /// Channels of the bounds.
        bounds: usize,
    },
    /// The values do not fill whole rows.
    #[error("{values} values are no whole rows of {dim}")]
    Ragged {
        /// How many values.
        values: usize,
        /// Channels of a row.
        dim: usize,
    },
    /// A value is not finite. Clipping would hide what the caller should have refused.
    #[error("row {row}, channel {channel}: the value is not finite")]
    NotFinite {
        /// Which row, from 0.
        row: usize,
        /// Which channel, from 0.
        channel: usize,
    },
    /// More observations than a release takes.
    #[error("{rows} observations, but at most {OBSERVATIONS_MAX} are taken")]
    TooMany {
        /// How many.
        rows: usize,
    },
    /// An entity came twice: it would be two units, and each would be protected for itself alone.
    #[error("an entity was given twice")]
    EntityTwice,
    /// An observation is not from the time that the release is about.
    #[error("row {row}: the observation is outside of the time of the release")]
    OutsideSpan {
        /// Which row, from 0.
        row: usize,
    },
    /// An entity's observations are not in the order of time, so a day could become two units.
    #[error("row {row}: the observations of an entity must be in the order of time")]
    Order {
        /// Which row, from 0.
        row: usize,
    },
    /// The bounds are none.
    #[error(transparent)]
    Bounds(#[from] BoundsError),
}

impl Dataset {
    /// Checks `rows` (row-major `[n, dim]`, finite) and clips them to `bounds`: observations of unknown
    /// entities and times, each a unit of its own. [`Gather`] is for all else.
    ///
    /// # Errors
    ///
    /// If the shape does not fit, or a value is not finite.
    pub fn new(rows: &[f32], dim: usize, bounds: Bounds) -> Result<Self, DataError> {
        if dim != bounds.dim() {
            return Err(DataError::Dim { dim, bounds: bounds.dim() });
        }
        if !rows.len().is_multiple_of(dim) {
            return Err(DataError::Ragged { values: rows.len(), dim });
        }
        let mut gather = Gather::new(bounds, Unit::Observation, Span::ALL);
        for row in rows.chunks_exact(dim) {
            gather.add(row)?;
        }
        let mut data = gather.finish();
        data.entities = None;
        Ok(data)
    }

    /// Returns the bounds that the observations were clipped to.
    #[must_use]
    pub fn bounds(&self) -> &Bounds {
        &self.bounds
    }

    /// Returns the number of channels.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.bounds.dim()
    }

    /// Returns the digest of the observations as given, of their bounds and their grouping.
    #[must_use]
    pub fn digest(&self) -> DataDigest {
        self.digest
    }

    /// Returns what a unit of privacy is here.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.unit
    }

    /// Returns the time whose units count as released; whole days, if the unit is a day.
    pub(crate) fn span(&self) -> Span {
        if self.unit == Unit::EntityDay { self.span.in_days() } else { self.span }
    }

    /// Returns whose observations these are, sorted; `None` for everyone's.
    pub(crate) fn entities(&self) -> Option<&[EntityTag]> {
        self.entities.as_deref()
    }

    /// Returns the observations on the grid.
    pub(crate) fn grid_rows(&self) -> impl Iterator<Item = &[i32]> {
        self.grid.chunks_exact(self.dim())
    }

    /// Returns how many observations there are. Private.
    pub(crate) fn count(&self) -> usize {
        self.grid.len() / self.dim()
    }

    /// Returns how many units there are. Private.
    pub(crate) fn units(&self) -> usize {
        if self.unit == Unit::Observation { self.count() } else { self.ends.len() }
    }

    /// Returns the numbers of each unit's rows.
    pub(crate) fn unit_rows(&self) -> impl Iterator<Item = Range<usize>> {
        let start = |unit: usize| if unit == 0 { 0 } else { self.ends[unit - 1] };
        (0..self.units()).map(move |unit| match self.unit {
            Unit::Observation => unit..unit + 1,
            _ => start(unit)..self.ends[unit],
        })
    }

    /// Returns each entity with its observations on the grid, row-major; none if nobody said whose they are.
    pub(crate) fn entity_rows(&self) -> impl Iterator<Item = (EntityTag, &[i32])> {
        let dim = self.dim();
        (self.groups.iter()).scan(0, move |start, &(entity, end)| {
            let rows = &self.grid[*start * dim..end * dim];
            *start = end;
            Some((entity, rows))
        })
    }

    /// Replaces a grid value by one that no clipping would leave, to see that the audit notices.
    #[cfg(test)]
    pub(crate) fn set_unclipped(&mut self, row: usize, channel: usize, value: i32) {
        let at = row * self.dim() + channel;
        self.grid[at] = value;
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("dim", &self.dim())
            .field("unit", &self.unit)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for DataDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataDigest(..)")
    }
}

/// Gathers a dataset, entity by entity.
pub struct Gather {
    bounds: Bounds,
    unit: Unit,
    grid: Vec<i32>,
    ends: Vec<usize>,
    entities: HashSet<EntityTag>,
    groups: Vec<(EntityTag, usize)>,
    /// Whether whose the observations are is part of the digest.
    is_by_entity: bool,
    /// The time of the newest observation of the entity that is being gathered.
    newest_us: Option<i64>,
    span: Span,
    hash: Sha256,
}

impl Gather {
    /// Starts a dataset whose units of privacy are `unit`s, of what was observed within `span`.
    #[must_use]
    pub fn new(bounds: Bounds, unit: Unit, span: Span) -> Self {
        let prefix: &[u8] = match unit {
            // As version 1 of the ledger has it, so that what was released then is not paid for again.
            Unit::Observation => b"dunlin private dataset 1",
            Unit::EntityDay => b"dunlin private entity-days 1",
            Unit::Entity => b"dunlin private entities 1",
        };
        Self::with_prefix(prefix, bounds, unit, span)
    }

    /// Starts a dataset for [`release_segments`](crate::release_segments): each observation is a unit, and
    /// what is released is released for each entity.
    #[must_use]
    pub fn by_entity(bounds: Bounds, span: Span) -> Self {
        let prefix = b"dunlin private segments 1";
        let gather = Self::with_prefix(prefix, bounds, Unit::Observation, span);
        Self { is_by_entity: true, ..gather }
    }

    fn with_prefix(prefix: &[u8], bounds: Bounds, unit: Unit, span: Span) -> Self {
        let mut hash = Sha256::new_with_prefix(prefix);
        hash.update((bounds.dim() as u64).to_le_bytes());
        update(&mut hash, bounds.lower());
        update(&mut hash, bounds.upper());
        Self {
            bounds,
            unit,
            grid: Vec::new(),
            ends: Vec::new(),
            entities: HashSet::new(),
            groups: Vec::new(),
            is_by_entity: false,
            newest_us: None,
            span,
            hash,
        }
    }

    /// Begins the next entity: all of its observations follow.
    ///
    /// # Errors
    ///
    /// If it was given before.
    pub fn begin(&mut self, entity: EntityTag) -> Result<(), DataError> {
        self.newest_us = None;
        if !self.entities.insert(entity) {
            return Err(DataError::EntityTwice);
        }
        self.groups.push((entity, self.count()));
        Ok(())
    }

    /// Adds an observation of the entity that was begun last, and clips it to the bounds.
    ///
    /// # Errors
    ///
    /// If it has another number of channels, holds a value that is not finite, is older than the one
    /// before or outside of the span, or is one too many.
    ///
    /// # Panics
    ///
    /// If no entity was begun.
    pub fn push(&mut self, time_us: i64, row: &[f32]) -> Result<(), DataError> {
        assert!(!self.entities.is_empty(), "an observation belongs to an entity");
        let row_number = self.count();
        if !(self.span.first_us..=self.span.last_us).contains(&time_us) {
            return Err(DataError::OutsideSpan { row: row_number });
        }
        if self.newest_us.is_some_and(|newest| time_us < newest) {
            return Err(DataError::Order { row: row_number });
        }
        self.add(row)?;
        let is_same_unit = match (self.unit, self.newest_us) {
            (Unit::Observation, _) => true,
            (_, None) => false,
            (Unit::Entity, Some(_)) => true,
            (Unit::EntityDay, Some(newest)) => {
                newest.div_euclid(DAY_US) == time_us.div_euclid(DAY_US)
            }
        };
        if !is_same_unit {
            self.ends.push(row_number + 1);
        } else if let Some(end) = self.ends.last_mut() {
            *end = row_number + 1;
        }
        self.newest_us = Some(time_us);
        if let Some((_, end)) = self.groups.last_mut() {
            *end = row_number + 1;
        }
        Ok(())
    }

    /// Returns the dataset.
    #[must_use]
    pub fn finish(mut self) -> Dataset {
        if self.is_by_entity {
            for (entity, end) in &self.groups {
                self.hash.update(entity.0);
                self.hash.update((*end as u64).to_le_bytes());
            }
            // Without observations, windows differ in their time alone.
            self.hash.update(self.span.first_us.to_le_bytes());
            self.hash.update(self.span.last_us.to_le_bytes());
        }
        for end in &self.ends {
            self.hash.update((*end as u64).to_le_bytes());
        }
        let mut entities: Vec<EntityTag> = self.entities.into_iter().collect();
        entities.sort_unstable();
        Dataset {
            bounds: self.bounds,
            unit: self.unit,
            grid: self.grid,
            ends: self.ends,
            entities: Some(entities),
            groups: self.groups,
            span: self.span,
            digest: DataDigest(self.hash.finalize().into()),
        }
    }

    fn count(&self) -> usize {
        self.grid.len() / self.bounds.dim()
    }

    fn add(&mut self, row: &[f32]) -> Result<(), DataError> {
        let (dim, count) = (self.bounds.dim(), self.count());
        if row.len() != dim {
            return Err(DataError::Dim { dim: row.len(), bounds: dim });
        }
        if let Some(channel) = row.iter().position(|value| !value.is_finite()) {
            return Err(DataError::NotFinite { row: count, channel });
        }
        if count == OBSERVATIONS_MAX {
            return Err(DataError::TooMany { rows: count + 1 });
        }
        update(&mut self.hash, row);
        let bounds = &self.bounds;
        let on_grid = row.iter().enumerate().map(|(at, &value)| bounds.to_grid(at, value));
        self.grid.extend(on_grid);
        Ok(())
    }
}

impl fmt::Debug for Gather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gather").field("unit", &self.unit).finish_non_exhaustive()
    }
}

fn update(hash: &mut Sha256, values: &[f32]) {
    for value in values {
        hash.update(value.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(dim: usize) -> Bounds {
        Bounds::uniform(dim, 0.0, 1.0).unwrap()
    }

    #[test]
    fn values_that_are_not_finite_are_refused_before_anything() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let refused = Dataset::new(&[0.1, 0.2, 0.3, odd], 2, unit(2)).unwrap_err();
            assert_eq!(refused, DataError::NotFinite { row: 1, channel: 1 });
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        assert!(matches!(Dataset::new(&[0.0; 3], 2, unit(2)), Err(DataError::Ragged { .. })));
        assert!(matches!(Dataset::new(&[0.0; 3], 3, unit(2)), Err(DataError::Dim { .. })));
        assert!(Dataset::new(&[], 2, unit(2)).is_ok(), "no observations are data too");
    }

    #[test]
    fn values_are_clipped_to_the_bounds() {
        let data = Dataset::new(&[-5.0, 0.5, 7.0], 1, unit(1)).unwrap();
        let rows: Vec<_> = data.grid_rows().map(|row| row[0]).collect();
        assert_eq!(rows, [-(1 << 19), 0, 1 << 19]);
    }

    #[test]
    fn digest_tells_data_and_bounds_apart_and_prints_neither() {
        let data = |rows: &[f32], bounds| Dataset::new(rows, 1, bounds).unwrap();
        let one = data(&[0.1, 0.2], unit(1));
        assert_eq!(one.digest(), data(&[0.1, 0.2], unit(1)).digest());
        assert_ne!(one.digest(), data(&[0.2, 0.1], unit(1)).digest());
        let wider = Bounds::uniform(1, 0.0, 2.0).unwrap();
        assert_ne!(one.digest(), data(&[0.1, 0.2], wider).digest());
        assert_eq!(
            format!("{one:?} {:?}", one.digest()),
            "Dataset { dim: 1, unit: Observation, .. } DataDigest(..)"
        );
    }

    const SPAN: Span = Span { first_us: -1, last_us: 3 * DAY_US };

    /// Two entities over two days: four entity-days, two entities, five observations.
    fn gathered(of: Unit) -> Dataset {
        let mut gather = Gather::new(unit(1), of, SPAN);
        for (entity, times) in [("a", &[0, DAY_US - 1, DAY_US][..]), ("b", &[-1, 3 * DAY_US][..])] {
            gather.begin(EntityTag::of(entity)).unwrap();
            for &time in times {
                gather.push(time, &[0.25]).unwrap();
            }
        }
        gather.finish()
    }

    #[test]
    fn rows_are_grouped_by_the_unit() {
        let rows = |of| gathered(of).unit_rows().collect::<Vec<_>>();
        assert_eq!(rows(Unit::Observation), [0..1, 1..2, 2..3, 3..4, 4..5]);
        assert_eq!(rows(Unit::EntityDay), [0..2, 2..3, 3..4, 4..5], "a day is one of UTC");
        assert_eq!(rows(Unit::Entity), [0..3, 3..5]);
        let digests = Unit::ALL.map(|of| gathered(of).digest());
        assert!(digests[0] != digests[1] && digests[1] != digests[2]);
    }

    #[test]
    fn data_know_their_time_and_their_entities() {
        let data = gathered(Unit::Entity);
        assert_eq!(data.span(), SPAN);
        let days = Span { first_us: -DAY_US, last_us: 4 * DAY_US - 1 };
        assert_eq!(gathered(Unit::EntityDay).span(), days);
        let mut tags = [EntityTag::of("a"), EntityTag::of("b")];
        tags.sort();
        assert_eq!(data.entities(), Some(&tags[..]));
        assert_eq!(Dataset::new(&[0.5], 1, unit(1)).unwrap().entities(), None);
        assert_eq!(Span::ALL.in_days(), Span::ALL);
    }

    #[test]
    fn an_entity_that_comes_twice_is_refused() {
        let mut gather = Gather::new(unit(1), Unit::Entity, Span::ALL);
        gather.begin(EntityTag::of("a")).unwrap();
        gather.begin(EntityTag::of("b")).unwrap();
        assert_eq!(gather.begin(EntityTag::of("a")), Err(DataError::EntityTwice));
    }

    #[test]
    fn time_that_runs_backwards_is_refused() {
        let mut gather = Gather::new(unit(1), Unit::EntityDay, Span::ALL);
        gather.begin(EntityTag::of("a")).unwrap();
        gather.push(DAY_US, &[0.5]).unwrap();
        assert_eq!(gather.push(0, &[0.5]), Err(DataError::Order { row: 1 }));
        gather.begin(EntityTag::of("b")).unwrap();
        assert!(gather.push(0, &[0.5]).is_ok(), "another entity has a time of its own");
    }

    #[test]
    fn what_was_observed_at_another_time_is_refused() {
        let mut gather = Gather::new(unit(1), Unit::Observation, SPAN);
        gather.begin(EntityTag::of("a")).unwrap();
        assert_eq!(gather.push(-2, &[0.5]), Err(DataError::OutsideSpan { row: 0 }));
        assert!(gather.push(-1, &[0.5]).is_ok() && gather.push(3 * DAY_US, &[0.5]).is_ok());
        assert_eq!(gather.push(3 * DAY_US + 1, &[0.5]), Err(DataError::OutsideSpan { row: 2 }));
    }

    #[test]
    fn observations_have_one_digest_however_they_were_gathered() {
        let data = Dataset::new(&[0.25; 5], 1, unit(1)).unwrap();
        assert_eq!(data.digest(), gathered(Unit::Observation).digest());
    }
}
