//! Those who share: their data, and what they release.

use std::fmt;

use anyhow::ensure;
use dunlin_privacy::{
    Bounds, Ceiling, DataError, Dataset, EntityTag, Epsilon, Gather, Intent, Ledger, Mechanism,
    ReleaseConfig, ReleaseError, Span, TEMPLATES_MAX, Terms, Unit, release,
};

use super::super::baselines::range_of;
use crate::vts1::Series;

/// Delta of Gaussian noise: far below one over the number of units of any fleet here.
const DELTA: f64 = 1e-6;

/// How many behaviours of a unit count at most: the configuration's default.
const CELLS_MAX: u8 = 4;

/// Entities of a fleet that is made large by resampling, and days of each.
const RESAMPLED: usize = 2_000;
const RESAMPLED_DAYS: usize = 3;

/// Rounds of plain k-means.
const ROUNDS: usize = 10;

/// Rows that it looks at, evenly spaced.
const KMEANS_ROWS_MAX: usize = 4_000;

/// What is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Sharing {
    /// Centroids of plain k-means, without any noise.
    None,
    /// A private release.
    Noised { unit: Unit, epsilon: Epsilon },
}

impl Sharing {
    pub(super) fn noised(unit: Unit, epsilon: f64) -> Self {
        let epsilon = Epsilon::new(epsilon).expect("a valid epsilon");
        Self::Noised { unit, epsilon }
    }

    pub(super) fn unit_name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Noised { unit, .. } => unit.name(),
        }
    }

    pub(super) fn epsilon(self) -> Option<f64> {
        match self {
            Self::None => None,
            Self::Noised { epsilon, .. } => Some(epsilon.as_f64()),
        }
    }

    pub(super) fn mechanism_name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Noised { unit, .. } => mechanism(unit).name(),
        }
    }
}

impl fmt::Display for Sharing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no noise"),
            Self::Noised { unit, epsilon } => write!(f, "{unit}, epsilon {epsilon}"),
        }
    }
}

/// Gaussian noise is for units that touch many cells.
fn mechanism(unit: Unit) -> Mechanism {
    if unit == Unit::Observation { Mechanism::Laplace } else { Mechanism::Gaussian }
}

/// What some peers released.
#[derive(Debug)]
pub(super) struct Fleet {
    /// Units in the largest release.
    pub(super) units: usize,
    /// Centroids of each set, row-major; none of a release that was refused.
    pub(super) sets: Vec<Vec<f32>>,
}

impl Fleet {
    /// Lets `peers` release. Without noise, or per observation, each is a node of its own; days and entities
    /// are what the operator of all of them releases, in one set.
    pub(super) fn release(peers: &[&Series], sharing: Sharing, seed: u64) -> anyhow::Result<Self> {
        let mut fleet = Self { units: 0, sets: Vec::new() };
        let (unit, epsilon) = match sharing {
            Sharing::None => {
                for series in peers {
                    fleet.units = fleet.units.max(series.rows_train);
                    fleet.sets.push(k_means(series, seed));
                }
                return Ok(fleet);
            }
            Sharing::Noised { unit, epsilon } => (unit, epsilon),
        };
        let delta = if mechanism(unit) == Mechanism::Laplace { 0.0 } else { DELTA };
        let terms = Terms::new(unit, mechanism(unit), epsilon, delta, CELLS_MAX)?;
        match unit {
            Unit::Observation => {
                for series in peers {
                    let (data, units) = observations(series)?;
                    fleet.add(&data, units, terms)?;
                }
            }
            Unit::EntityDay => {
                let (data, units) = days(peers)?;
                fleet.add(&data, units, terms)?;
            }
            Unit::Entity => {
                let data = resampled(peers, seed)?;
                fleet.add(&data, RESAMPLED, terms)?;
            }
        }
        Ok(fleet)
    }

    /// Returns how many templates there are in all.
    pub(super) fn templates(&self, dims: usize) -> usize {
        self.sets.iter().map(|set| set.len() / dims).sum()
    }

    fn add(&mut self, data: &Dataset, units: usize, terms: Terms) -> anyhow::Result<()> {
        self.units = self.units.max(units);
        let folder = tempfile::tempdir()?;
        let ceiling = Ceiling { epsilon: terms.epsilon(), delta: terms.delta() };
        let mut ledger = Ledger::open(&folder.path().join("ledger"), ceiling)?;
        let intent =
            Intent { collection: "bench", data, terms, now_unix_ms: 0, purpose: "templates" };
        let receipt = ledger.reserve(&intent)?;
        match release(&mut ledger, receipt, data, &ReleaseConfig::default()) {
            Ok(released) => {
                let centroids = released.centroids.into_iter().flat_map(|one| one.centroid);
                self.sets.push(centroids.collect());
                Ok(())
            }
            // That is the answer of a fleet that is too small.
            Err(ReleaseError::TooFew { .. }) => Ok(()),
            Err(other) => Err(other.into()),
        }
    }
}

fn bounds_of(series: &Series) -> anyhow::Result<Bounds> {
    let (lower, upper) = (0..series.dims).map(|channel| range_of(series, channel)).unzip();
    Ok(Bounds::new(lower, upper)?)
}

fn observations(series: &Series) -> anyhow::Result<(Dataset, usize)> {
    let mut gather = Gather::new(bounds_of(series)?, Unit::Observation, Span::ALL);
    gather.begin(EntityTag::of(&series.entity))?;
    push(&mut gather, series, 0..series.rows_train, 0)?;
    Ok((gather.finish(), series.rows_train))
}

fn days(peers: &[&Series]) -> anyhow::Result<(Dataset, usize)> {
    let mut gather = Gather::new(bounds_of(peers[0])?, Unit::EntityDay, Span::ALL);
    let mut units = 0;
    for series in peers {
        ensure!(series.dims == peers[0].dims, "{} has other channels", series.entity);
        gather.begin(EntityTag::of(&series.entity))?;
        push(&mut gather, series, 0..series.rows_train, 0)?;
        units += series.rows_train.div_ceil(rows_per_day(series));
    }
    Ok((gather.finish(), units))
}

/// A fleet made large: each entity is some days of one peer, drawn with replacement. It shows from what
/// number on the promise leaves a signal, not how unlike the entities of a real fleet are.
fn resampled(peers: &[&Series], seed: u64) -> anyhow::Result<Dataset> {
    let mut gather = Gather::new(bounds_of(peers[0])?, Unit::Entity, Span::ALL);
    let mut random = Random(seed);
    for entity in 0..RESAMPLED {
        gather.begin(EntityTag::of(&entity.to_string()))?;
        let series = peers[random.below(peers.len())];
        let per_day = rows_per_day(series);
        for day in 0..RESAMPLED_DAYS {
            let start = random.below((series.rows_train / per_day).max(1)) * per_day;
            let rows = start..(start + per_day).min(series.rows_train);
            push(&mut gather, series, rows, day as i64)?;
        }
    }
    Ok(gather.finish())
}

/// Adds rows; the place of each within its day stays, and the day is `day` if they are one.
fn push(
    gather: &mut Gather,
    series: &Series,
    rows: std::ops::Range<usize>,
    day: i64,
) -> Result<(), DataError> {
    let start = series.timestamp_us(rows.start);
    rows.into_iter().try_for_each(|row| {
        let time = series.timestamp_us(row) - start + day * 86_400_000_000;
        gather.push(time, series.row(row))
    })
}

fn rows_per_day(series: &Series) -> usize {
    usize::try_from(86_400 / series.step_s.clamp(1, 86_400)).unwrap_or(1)
}

/// Plain k-means (Lloyd), from rows that the seed chooses.
fn k_means(series: &Series, seed: u64) -> Vec<f32> {
    let step = series.rows_train.div_ceil(KMEANS_ROWS_MAX);
    let rows: Vec<&[f32]> =
        (0..series.rows_train).step_by(step).map(|row| series.row(row)).collect();
    let mut random = Random(seed);
    let mut centroids: Vec<Vec<f32>> =
        (0..TEMPLATES_MAX).map(|_| rows[random.below(rows.len())].to_vec()).collect();
    for _ in 0..ROUNDS {
        let mut sums = vec![(0_u32, vec![0.0_f64; series.dims]); centroids.len()];
        for row in &rows {
            let distance = |centroid: &[f32]| -> f32 {
                centroid.iter().zip(*row).map(|(a, b)| (a - b) * (a - b)).sum()
            };
            let distances = centroids.iter().map(|centroid| distance(centroid));
            let nearest = distances.enumerate().min_by(|a, b| a.1.total_cmp(&b.1));
            let (count, sum) = &mut sums[nearest.map_or(0, |(at, _)| at)];
            *count += 1;
            sum.iter_mut().zip(*row).for_each(|(sum, value)| *sum += f64::from(*value));
        }
        for (centroid, (count, sum)) in centroids.iter_mut().zip(&sums).filter(|it| it.1.0 > 0) {
            let mean = |sum: &f64| (sum / f64::from(*count)) as f32;
            *centroid = sum.iter().map(mean).collect();
        }
    }
    centroids.concat()
}

/// Splitmix64 (Steele, Lea and Flood, 2014): which rows are drawn is no secret.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vts1::Dataset as Vts1;

    /// Two servers of the built-in data.
    fn servers() -> Vec<Series> {
        Vts1::embedded().unwrap().read_alike(2).unwrap()
    }

    #[test]
    fn each_peer_releases_a_set_per_observation_and_a_small_fleet_none_per_day() {
        let servers = servers();
        let peers: Vec<&Series> = servers.iter().collect();
        let observations = Sharing::noised(Unit::Observation, 1.0);
        let fleet = Fleet::release(&peers, observations, 1).unwrap();
        assert_eq!((fleet.sets.len(), fleet.units), (2, servers[0].rows_train));
        let sizes = fleet.sets.iter().map(|set| set.len() / servers[0].dims);
        assert!(sizes.clone().all(|templates| (2..=16).contains(&templates)), "{fleet:?}");
        // Sixty days are too few for a promise of a tenth.
        let fleet = Fleet::release(&peers, Sharing::noised(Unit::EntityDay, 0.1), 1).unwrap();
        assert_eq!((fleet.sets.len(), fleet.units), (0, 60));
    }

    #[test]
    fn plain_centroids_lie_among_the_rows() {
        let servers = servers();
        let centroids = k_means(&servers[0], 3);
        assert_eq!(centroids.len(), TEMPLATES_MAX * servers[0].dims);
        assert!(centroids.iter().all(|value| (0.0..=1.0).contains(value)));
        assert_ne!(centroids, k_means(&servers[0], 4));
    }
}
