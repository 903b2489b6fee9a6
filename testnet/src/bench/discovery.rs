//! How long it takes to find out what a fleet does, and how well that is found.
//!
//! The fleet is made up: each entity goes through the same few behaviours by the hour, each of which moves along an
//! arc through the channels as the load of a day does, and one segment of a hundred is anywhere. So it is known
//! which segments belong together, and the adjusted Rand index (Hubert and Arabie, 1985) says how well that was found: 1
//! for the very same groups, 0 for groups by chance. With data, each row is a segment, and nobody knows better.

use std::{path::PathBuf, time::Instant};

use anyhow::ensure;
use dunlin_privacy::{
    Bounds,
    discovery::{Behaviours, Discovery, Stay},
};
use serde::Serialize;

use super::baselines::range_of;
use crate::vts1::{Dataset, Series};

/// Channels of the made-up fleet.
const DIMS: usize = 38;

/// What it does, and how many entities do it.
const BEHAVIOURS: usize = 12;
const ENTITIES: u64 = 500;

/// One segment of so many is anywhere.
const ODD_ONE_OF: usize = 100;

/// How far a behaviour moves along its arc, and how noisy it is, in parts of the ranges.
const ARC: f32 = 0.2;
const NOISE: f32 = 0.02;

/// How long a segment lasts.
const STAY_US: i64 = 1_200_000_000;

/// Segments whose group is looked up.
const LOOKED_UP: usize = 5_000;

/// What to measure.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder of VTS1 data whose rows are the segments; a made-up fleet when absent.
    pub data: Option<PathBuf>,
    /// How many segments.
    pub segments: usize,
    /// Print the rows as JSON.
    pub json: bool,
}

/// One fleet.
#[derive(Clone, Debug, Serialize)]
struct Row {
    set: String,
    dims: usize,
    segments: u64,
    /// Time to fold all segments in, one by one.
    fold_s: f64,
    /// Time to group what they were folded into.
    group_s: f64,
    micros: usize,
    behaviours: usize,
    outlier_segments: u64,
    /// Absent where nobody knows better.
    #[serde(skip_serializing_if = "Option::is_none")]
    adjusted_rand: Option<f64>,
}

/// Measures and prints the rows.
///
/// # Errors
///
/// Fails when the data cannot be read, or there are none.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    match &options.data {
        None => rows.push(made_up(options.segments)?),
        Some(folder) => {
            let dataset = Dataset::open(folder)?;
            for set in dataset.sets() {
                let all = dataset.read_set(&set).collect::<Result<Vec<_>, _>>()?;
                rows.push(of_data(set, &all, options.segments)?);
            }
        }
    }
    ensure!(!rows.is_empty(), "there is nothing to measure");
    let header =
        ["set", "dims", "segments", "fold s", "group s", "micros", "behaviours", "outliers", "ARI"];
    super::print(&rows, options.json, header, |row| {
        [
            row.set.clone(),
            row.dims.to_string(),
            row.segments.to_string(),
            format!("{:.2}", row.fold_s),
            format!("{:.2}", row.group_s),
            row.micros.to_string(),
            row.behaviours.to_string(),
            row.outlier_segments.to_string(),
            row.adjusted_rand.map_or("-".to_owned(), |index| format!("{index:.3}")),
        ]
    })?;
    Ok(())
}

fn made_up(segments: usize) -> anyhow::Result<Row> {
    let mut fleet = Fleet::new();
    // One behaviour more stands for what is anywhere.
    let all: Vec<(usize, Vec<f32>)> = (0..segments).map(|place| fleet.mean(place)).collect();
    let means = all.iter().map(|(_, mean)| &mean[..]);
    let bounds = Bounds::uniform(DIMS, 0.0, 1.0)?;
    let (mut row, found) = measured("made up", &bounds, means);
    let step = (segments / LOOKED_UP).max(1);
    let looked_up = all.iter().step_by(step).filter(|(behaviour, _)| *behaviour < BEHAVIOURS);
    let pairs: Vec<(usize, usize)> =
        looked_up.map(|(behaviour, mean)| (*behaviour, group_of(&found, mean))).collect();
    row.adjusted_rand = Some(adjusted_rand(&pairs));
    Ok(row)
}

fn of_data(set: String, all: &[Series], segments: usize) -> anyhow::Result<Row> {
    let dims = all[0].dims;
    let alike = || all.iter().filter(|series| series.dims == dims);
    let wider = |(a, b): (f32, f32), (c, d): (f32, f32)| (a.min(c), b.max(d));
    let range = |channel| {
        let ranges = alike().map(|series| range_of(series, channel));
        // A channel that never moves has a range too.
        let (lower, upper) = ranges.reduce(wider).unwrap_or((0.0, 1.0));
        (lower, if upper > lower { upper } else { lower + 1.0 })
    };
    let (lower, upper) = (0..dims).map(range).unzip();
    let bounds = Bounds::new(lower, upper)?;
    let rows = alike().flat_map(|series| (0..series.rows()).map(|row| series.row(row)));
    let mut row = measured(&set, &bounds, rows.take(segments)).0;
    row.set = set;
    Ok(row)
}

/// Folds segments in and groups them.
fn measured<'a>(
    set: &str,
    bounds: &Bounds,
    means: impl Iterator<Item = &'a [f32]>,
) -> (Row, Behaviours) {
    let mut discovery = Discovery::new(bounds);
    let start = Instant::now();
    for (place, mean) in (0_u32..).zip(means) {
        let start_us = i64::from(place) / 100 * STAY_US;
        discovery.add(&Stay {
            segment: place.into(),
            entity: u64::from(place) % ENTITIES,
            start_us,
            end_us: start_us + STAY_US,
            observations: 20,
            mean,
        });
    }
    let fold_s = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let found = discovery.behaviours();
    let row = Row {
        set: set.to_owned(),
        dims: bounds.dim(),
        segments: found.segments,
        fold_s,
        group_s: start.elapsed().as_secs_f64(),
        micros: found.micros,
        behaviours: found.behaviours.len(),
        outlier_segments: found.outlier_segments,
        adjusted_rand: None,
    };
    (row, found)
}

/// Returns the behaviour with the detail that is nearest to a segment.
fn group_of(found: &Behaviours, mean: &[f32]) -> usize {
    let squares = |centroid: &[f32]| -> f64 {
        centroid.iter().zip(mean).map(|(a, b)| f64::from((a - b) * (a - b))).sum()
    };
    let nearest = |place: usize| {
        let details = found.behaviours[place].details.iter();
        details.map(|(_, centroid)| squares(centroid)).fold(f64::INFINITY, f64::min)
    };
    let places = 0..found.behaviours.len();
    places.min_by(|a, b| nearest(*a).total_cmp(&nearest(*b))).unwrap_or(0)
}

/// Returns how well two groupings agree, beyond chance; each pair has a segment's group in both.
fn adjusted_rand(pairs: &[(usize, usize)]) -> f64 {
    let chosen = |counts: Vec<usize>| -> f64 {
        counts.into_iter().map(|count| count as f64 * (count as f64 - 1.0) / 2.0).sum()
    };
    let counted = |mut keys: Vec<(usize, usize)>| {
        keys.sort_unstable();
        keys.chunk_by(|a, b| a == b).map(<[_]>::len).collect::<Vec<_>>()
    };
    let both = chosen(counted(pairs.to_vec()));
    let first = chosen(counted(pairs.iter().map(|(a, _)| (*a, 0)).collect()));
    let second = chosen(counted(pairs.iter().map(|(_, b)| (*b, 0)).collect()));
    let all = chosen(vec![pairs.len()]);
    let expected = first * second / all;
    let most = f64::midpoint(first, second);
    if most > expected { (both - expected) / (most - expected) } else { 1.0 }
}

/// A fleet that is made up.
struct Fleet {
    state: u64,
    /// Where each behaviour is, and in which direction it moves.
    arcs: Vec<(Vec<f32>, Vec<f32>)>,
}

impl Fleet {
    fn new() -> Self {
        let mut fleet = Self { state: 1, arcs: Vec::new() };
        for _ in 0..BEHAVIOURS {
            let base = (0..DIMS).map(|_| 0.2 + 0.6 * fleet.random()).collect();
            let way = (0..DIMS).map(|_| ARC * (2.0 * fleet.random() - 1.0)).collect();
            fleet.arcs.push((base, way));
        }
        fleet
    }

    /// Returns the mean of a segment and which behaviour it is of.
    fn mean(&mut self, place: usize) -> (usize, Vec<f32>) {
        if place % ODD_ONE_OF == ODD_ONE_OF - 1 {
            return (BEHAVIOURS, (0..DIMS).map(|_| self.random()).collect());
        }
        let behaviour = (self.random() * BEHAVIOURS as f32) as usize % BEHAVIOURS;
        let along = std::f32::consts::TAU * self.random();
        let mean = (0..DIMS).map(|channel| {
            let noise = NOISE * self.random();
            let (base, way) = &self.arcs[behaviour];
            // Half of the channels lag behind, so that the arc is one and no line.
            let swing = if channel % 2 == 0 { along.sin() } else { along.cos() };
            base[channel] + way[channel] * swing + noise
        });
        (behaviour, mean.collect())
    }

    /// Returns a number from 0 to 1: a linear congruential generator, the same in every run.
    fn random(&mut self) -> f32 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 40) as f32 / (1_u64 << 24) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agreement_is_one_for_the_same_groups_by_any_name_and_about_zero_by_chance() {
        let same: Vec<_> = (0..300).map(|i| (i % 3, 7 - i % 3)).collect();
        assert_eq!(adjusted_rand(&same), 1.0);
        let chance: Vec<_> = (0..300).map(|i| (i % 3, i / 3 % 4)).collect();
        assert!(adjusted_rand(&chance).abs() < 0.05);
        let halved: Vec<_> = (0..300).map(|i| (i % 3, i % 6)).collect();
        assert!((0.3..0.9).contains(&adjusted_rand(&halved)));
    }

    #[test]
    fn the_groups_of_a_made_up_fleet_are_found() {
        let row = made_up(3_000).unwrap();
        assert_eq!((row.segments, row.behaviours), (3_000, BEHAVIOURS), "{row:?}");
        assert!(row.adjusted_rand.unwrap() > 0.95, "{row:?}");
    }
}
