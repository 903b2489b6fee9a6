//! Those who share: their data, and what they release.

use std::path::Path;

use anyhow::ensure;
use dunlin_privacy::{
    Bounds, Ceiling, DataError, Dataset, EntityTag, Epsilon, Gather, Intent, Ledger, Mechanism,
    ReleaseConfig, ReleaseError, Span, Terms, Unit, release,
};

use super::super::baselines::range_of;
use crate::vts1::Series;

/// Delta of Gaussian noise: far below one over the number of units of any fleet here.
const DELTA: f64 = 1e-6;

/// How many behaviours of a unit count at most: the configuration's default.
const CELLS_MAX: u8 = 4;

/// Days of each entity of a fleet that is made large by resampling.
const RESAMPLED_DAYS: usize = 3;

/// Observations of such a day, at most, evenly spaced. A unit gives each cell one mean, so more of them
/// change little and take long.
const RESAMPLED_ROWS_MAX: usize = 96;

/// Rounds of plain k-means.
const ROUNDS: usize = 10;

/// Rows that it looks at, evenly spaced.
const KMEANS_ROWS_MAX: usize = 4_000;

/// What is released.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Sharing {
    /// Centroids of plain k-means, without any noise.
    None,
    /// A private release, of so many resampled entities if they are the unit.
    Noised { unit: Unit, epsilon: Epsilon, entities: usize },
}

impl Sharing {
    pub(super) fn noised(unit: Unit, epsilon: f64, entities: usize) -> Self {
        let epsilon = Epsilon::new(epsilon).expect("a valid epsilon");
        Self::Noised { unit, epsilon, entities }
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

    /// Returns whether each peer is a node of its own. Days and entities are what the operator of all of
    /// them releases, in one set.
    pub(super) fn is_per_peer(self) -> bool {
        matches!(self, Self::None | Self::Noised { unit: Unit::Observation, .. })
    }
}

/// Gaussian noise is for units that touch many cells.
fn mechanism(unit: Unit) -> Mechanism {
    if unit == Unit::Observation { Mechanism::Laplace } else { Mechanism::Gaussian }
}

/// What one node released.
#[derive(Clone, Debug)]
pub(super) struct Released {
    /// Units in the release.
    pub(super) units: usize,
    /// Centroids, row-major; none of a release that was refused.
    pub(super) centroids: Vec<f32>,
}

/// Lets a node release what `peers` observed, once for each of `sharings`, which all have one unit, in at most
/// `templates_max` templates.
pub(super) fn release_all(
    peers: &[&Series],
    sharings: &[Sharing],
    templates_max: usize,
    seed: u64,
    folder: &Path,
) -> anyhow::Result<Vec<Released>> {
    // The data are the same for every epsilon, and take longer than the noise.
    let mut known: Option<((Unit, usize), Dataset, usize)> = None;
    let mut all = Vec::new();
    for sharing in sharings {
        let Sharing::Noised { unit, epsilon, entities } = *sharing else {
            let centroids = k_means(peers[0], templates_max, seed);
            all.push(Released { units: peers[0].rows_train, centroids });
            continue;
        };
        let of = (unit, if unit == Unit::Entity { entities } else { 0 });
        if known.as_ref().is_none_or(|known| known.0 != of) {
            let (data, units) = match unit {
                Unit::Observation => observations(peers[0])?,
                Unit::EntityDay => days(peers)?,
                Unit::Entity => (resampled(peers, entities, seed)?, entities),
            };
            known = Some((of, data, units));
        }
        let (_, data, units) = known.as_ref().expect("the data were made just now");
        let delta = if mechanism(unit) == Mechanism::Laplace { 0.0 } else { DELTA };
        let terms = Terms::new(unit, mechanism(unit), epsilon, delta, CELLS_MAX)?;
        let centroids = released(data, terms, templates_max, folder)?;
        all.push(Released { units: *units, centroids });
    }
    Ok(all)
}

/// Releases as a node does: through a ledger and OpenDP.
fn released(
    data: &Dataset,
    terms: Terms,
    templates_max: usize,
    folder: &Path,
) -> anyhow::Result<Vec<f32>> {
    let config = ReleaseConfig { templates_max, ..ReleaseConfig::default() };
    let folder = tempfile::tempdir_in(folder)?;
    let ceiling = Ceiling { epsilon: terms.epsilon(), delta: terms.delta() };
    let mut ledger = Ledger::open(&folder.path().join("ledger"), ceiling)?;
    let intent = Intent { collection: "bench", data, terms, now_unix_ms: 0, purpose: "templates" };
    let receipt = ledger.reserve(&intent)?;
    match release(&mut ledger, receipt, data, &config) {
        Ok(released) => Ok(released.centroids.into_iter().flat_map(|one| one.centroid).collect()),
        // That is the answer of a fleet that is too small.
        Err(ReleaseError::TooFew { .. }) => Ok(Vec::new()),
        Err(other) => Err(other.into()),
    }
}

fn bounds_of(series: &Series) -> anyhow::Result<Bounds> {
    let (lower, upper) = (0..series.dims).map(|channel| range_of(series, channel)).unzip();
    Ok(Bounds::new(lower, upper)?)
}

fn observations(series: &Series) -> anyhow::Result<(Dataset, usize)> {
    let mut gather = Gather::new(bounds_of(series)?, Unit::Observation, Span::ALL);
    gather.begin(EntityTag::of(&series.entity))?;
    push(&mut gather, series, 0..series.rows_train, 0, 0)?;
    Ok((gather.finish(), series.rows_train))
}

fn days(peers: &[&Series]) -> anyhow::Result<(Dataset, usize)> {
    let mut gather = Gather::new(bounds_of(peers[0])?, Unit::EntityDay, Span::ALL);
    let mut units = 0;
    for series in peers {
        ensure!(series.dims == peers[0].dims, "{} has other channels", series.entity);
        gather.begin(EntityTag::of(&series.entity))?;
        push(&mut gather, series, 0..series.rows_train, 0, 0)?;
        units += series.rows_train.div_ceil(rows_per_day(series));
    }
    Ok((gather.finish(), units))
}

/// A fleet made large: each entity is some days of one peer, drawn with replacement. It shows from what
/// number on the promise leaves a signal, not how unlike the entities of a real fleet are.
fn resampled(peers: &[&Series], entities: usize, seed: u64) -> anyhow::Result<Dataset> {
    let mut gather = Gather::new(bounds_of(peers[0])?, Unit::Entity, Span::ALL);
    let mut random = Random(seed);
    for entity in 0..entities {
        gather.begin(EntityTag::of(&entity.to_string()))?;
        let series = peers[random.below(peers.len())];
        let per_day = rows_per_day(series);
        for day in 0..RESAMPLED_DAYS {
            let start = random.below((series.rows_train / per_day).max(1)) * per_day;
            let rows = start..(start + per_day).min(series.rows_train);
            let step = per_day.div_ceil(RESAMPLED_ROWS_MAX);
            push(&mut gather, series, rows.step_by(step), start, day as i64)?;
        }
    }
    Ok(gather.finish())
}

/// Adds rows, timed from row `start` on as if that were the beginning of day `day`.
fn push(
    gather: &mut Gather,
    series: &Series,
    mut rows: impl Iterator<Item = usize>,
    start: usize,
    day: i64,
) -> Result<(), DataError> {
    let start = series.timestamp_us(start);
    rows.try_for_each(|row| {
        let time = series.timestamp_us(row) - start + day * 86_400_000_000;
        gather.push(time, series.row(row))
    })
}

fn rows_per_day(series: &Series) -> usize {
    usize::try_from(86_400 / series.step_s.clamp(1, 86_400)).unwrap_or(1)
}

fn k_means(series: &Series, centroids_max: usize, seed: u64) -> Vec<f32> {
    let step = series.rows_train.div_ceil(KMEANS_ROWS_MAX);
    let rows: Vec<&[f32]> =
        (0..series.rows_train).step_by(step).map(|row| series.row(row)).collect();
    centroids_of(&rows, centroids_max, seed)
}

/// Plain k-means (Lloyd), from rows that the seed chooses.
pub(super) fn centroids_of(rows: &[&[f32]], count: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut centroids: Vec<Vec<f32>> =
        (0..count).map(|_| rows[random.below(rows.len())].to_vec()).collect();
    for _ in 0..ROUNDS {
        let mut sums = vec![(0_u32, vec![0.0_f64; rows[0].len()]); centroids.len()];
        for row in rows {
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
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: usize) -> usize {
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
        let folder = tempfile::tempdir().unwrap();
        let release = |unit, epsilon| {
            let sharing = [Sharing::noised(unit, epsilon, 0)];
            release_all(&peers, &sharing, 6, 1, folder.path()).unwrap().remove(0)
        };
        let one = release(Unit::Observation, 1.0);
        assert_eq!(one.units, servers[0].rows_train);
        assert!((2..=6).contains(&(one.centroids.len() / servers[0].dims)), "{one:?}");
        // Sixty days are too few for a promise of a tenth.
        let all = release(Unit::EntityDay, 0.1);
        assert_eq!((all.centroids.len(), all.units), (0, 60));
    }

    #[test]
    fn a_fleet_made_large_is_as_large_as_it_says() {
        let servers = servers();
        let peers: Vec<&Series> = servers.iter().collect();
        let data = resampled(&peers, 50, 1).unwrap();
        assert_ne!(data.digest(), resampled(&peers, 50, 2).unwrap().digest());
        assert_eq!(data.digest(), resampled(&peers, 50, 1).unwrap().digest());
    }

    #[test]
    fn plain_centroids_lie_among_the_rows() {
        let servers = servers();
        let centroids = k_means(&servers[0], 6, 3);
        assert_eq!(centroids.len(), 6 * servers[0].dims);
        assert!(centroids.iter().all(|value| (0.0..=1.0).contains(value)));
        assert_ne!(centroids, k_means(&servers[0], 6, 4));
    }
}
