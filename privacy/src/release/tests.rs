//! That a release costs what it says and gives away nothing else.

use proptest::prelude::*;

use super::*;
use crate::ledger::Intent;

/// No noise, so that the shape of the algorithm shows.
struct Silent;

impl Noise for Silent {
    fn laplace(&mut self, values: Vec<i64>, _scale: u64) -> Result<Vec<i64>, NoiseError> {
        Ok(values)
    }
}

/// Answers with fixed outputs and remembers what it was asked: the view of whoever sees the release.
#[derive(Default)]
struct Transcript {
    outputs: Vec<Vec<i64>>,
    asked: Vec<(Vec<i64>, u64)>,
}

impl Noise for Transcript {
    fn laplace(&mut self, values: Vec<i64>, scale: u64) -> Result<Vec<i64>, NoiseError> {
        let call = self.asked.len();
        self.asked.push((values.clone(), scale));
        if call == self.outputs.len() {
            self.outputs.push(OpenDp.laplace(values, scale)?);
        }
        Ok(self.outputs[call].clone())
    }
}

fn eps(value: f64) -> Epsilon {
    Epsilon::new(value).expect("a valid epsilon")
}

fn unit_data(rows: &[f32], dim: usize) -> Dataset {
    let bounds = Bounds::uniform(dim, 0.0, 1.0).expect("a range");
    Dataset::new(rows, dim, bounds).expect("a dataset")
}

/// A ledger in a folder that lives as long as it.
fn ledger() -> (tempfile::TempDir, Ledger) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ledger = Ledger::open(&folder.path().join("ledger"), eps(50.0)).expect("a new ledger");
    (folder, ledger)
}

fn receipt(ledger: &mut Ledger, data: &Dataset, epsilon: f64) -> Receipt {
    let intent = Intent {
        collection: "servers",
        data,
        unit: Unit::Observation,
        epsilon: eps(epsilon),
        now_unix_ms: 1,
        purpose: "templates",
    };
    ledger.reserve(&intent).expect("within the ceiling")
}

fn released(noise: &mut impl Noise, data: &Dataset, epsilon: f64) -> Release {
    let (_folder, mut ledger) = ledger();
    let receipt = receipt(&mut ledger, data, epsilon);
    release_with(noise, &mut ledger, receipt, data, &ReleaseConfig::default())
        .expect("a receipt for these data")
}

/// Four behaviours of six channels, each `count` times, with a little of their own.
fn behaviours(count: usize) -> Vec<f32> {
    let centers = [[0.1, 0.9], [0.9, 0.1], [0.1, 0.1], [0.9, 0.9]];
    (0..4 * count)
        .flat_map(|row| {
            let center: [f32; 2] = centers[row % 4];
            (0..6).map(move |channel| {
                center[channel % 2] + ((row * 7 + channel * 3) % 5) as f32 * 0.01 - 0.02
            })
        })
        .collect()
}

/// Goal: the privacy loss of a release is at most epsilon, for any two neighbouring data sets.
///
/// Method: a mechanism of independent discrete Laplace noise is epsilon-private if, for every output,
/// the L1 distances between what the two data sets ask the noise to hide, each over its scale, add
/// up to at most epsilon. The second run answers with the first one's outputs, so both see one
/// transcript, adaptive choices included, and the sum is the true loss bound of that transcript.
fn transcript_loss(rows: &[f32], neighbour: &[f32], dim: usize, epsilon: f64) -> f64 {
    let mut first = Transcript::default();
    let one = released(&mut first, &unit_data(rows, dim), epsilon);
    let mut second = Transcript { outputs: first.outputs.clone(), asked: Vec::new() };
    let other = released(&mut second, &unit_data(neighbour, dim), epsilon);
    assert_eq!(one, other, "something un-noised reached the release");
    assert_eq!(first.asked.len(), second.asked.len());
    let pairs = first.asked.iter().zip(&second.asked);
    pairs
        .map(|((a, scale), (b, other_scale))| {
            assert_eq!((a.len(), scale), (b.len(), other_scale), "noise depends on the data");
            let distance: u64 = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b)).sum();
            distance as f64 / *scale as f64
        })
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn one_observation_more_or_less_costs_at_most_epsilon(
        dim in 1usize..6,
        values in prop::collection::vec(-0.5f32..1.5, 30..400),
        odd in prop_oneof![Just(-1e30f32), Just(1e30), 0f32..1.0],
        at in any::<prop::sample::Index>(),
        epsilon in prop_oneof![Just(0.1), Just(1.0), Just(7.5)],
    ) {
        let rows = &values[..values.len() / dim * dim];
        let at = at.index(rows.len() / dim + 1) * dim;
        let mut more = rows.to_vec();
        more.splice(at..at, vec![odd; dim]);
        let loss = transcript_loss(rows, &more, dim, epsilon);
        prop_assert!(loss <= epsilon, "{loss}");
    }
}

#[test]
fn the_worst_observation_spends_nearly_all_of_epsilon() {
    // At a corner of the bounds every sensitivity is reached, so the accounting wastes nothing.
    let rows = behaviours(50);
    let more = [&rows[..], &[1.0; 6]].concat();
    let loss = transcript_loss(&rows, &more, 6, 1.0);
    assert!(loss > 0.999 && loss <= 1.0, "{loss}");
}

#[test]
fn without_noise_the_behaviours_are_found() {
    let data = unit_data(&behaviours(2_000), 6);
    let release = released(&mut Silent, &data, 1.0);
    for center in [[0.1, 0.9], [0.9, 0.1], [0.1, 0.1], [0.9, 0.9]] {
        let found = release.centroids.iter().any(|one| {
            one.centroid.iter().enumerate().all(|(i, x)| (x - center[i % 2] as f32).abs() < 0.05)
        });
        assert!(found, "{center:?} in {:?}", release.centroids);
    }
    let support: u64 = release.centroids.iter().map(|one| one.noised_support).sum();
    assert_eq!(support, 8_000);
}

#[test]
fn with_noise_the_behaviours_are_still_found() {
    let data = unit_data(&behaviours(5_000), 6);
    let release = released(&mut OpenDp, &data, 2.0);
    for center in [[0.1, 0.9], [0.9, 0.1]] {
        let found = release.centroids.iter().any(|one| {
            // A leaf holds thousands; the noise of its channels has a scale below 0.002, so 0.1 is
            // 50 scales away.
            one.centroid.iter().enumerate().all(|(i, x)| (x - center[i % 2] as f32).abs() < 0.15)
        });
        assert!(found, "{center:?} in {:?}", release.centroids);
    }
}

#[test]
fn hardly_any_observations_release_nothing() {
    for rows in [&[][..], &[0.5; 6]] {
        // An empty tree passes a threshold by noise once in a thousand for each of 31 cells; with
        // silent noise never.
        let release = released(&mut Silent, &unit_data(rows, 6), 1.0);
        assert_eq!(release.centroids, []);
        assert_eq!(release.cost, eps(1.0), "nothing found is an answer and costs as much");
    }
}

#[test]
fn everything_released_lies_within_the_bounds() {
    let bounds = Bounds::new(vec![-3.0, 10.0], vec![-2.0, 1_000.0]).unwrap();
    let rows: Vec<f32> = (0..4_000).flat_map(|row| [row as f32, -(row as f32)]).collect();
    let data = Dataset::new(&rows, 2, bounds.clone()).unwrap();
    let release = released(&mut OpenDp, &data, 10.0);
    assert!(!release.centroids.is_empty());
    for one in &release.centroids {
        for (channel, value) in one.centroid.iter().enumerate() {
            assert!((bounds.lower()[channel]..=bounds.upper()[channel]).contains(value));
        }
        assert!(one.noised_support >= 1);
    }
    assert!(release.centroids.is_sorted_by(|a, b| a.noised_support >= b.noised_support));
}

#[test]
fn a_receipt_is_worth_one_release_of_its_own_data() {
    let (_folder, mut ledger) = ledger();
    let (data, other) = (unit_data(&behaviours(10), 6), unit_data(&behaviours(11), 6));
    let config = ReleaseConfig::default();

    let wrong = receipt(&mut ledger, &data, 1.0);
    let refused = release(&mut ledger, wrong, &other, &config);
    assert!(matches!(refused, Err(ReleaseError::OtherData)));
    assert_eq!(ledger.spent("servers"), eps(1.0), "the receipt is gone and its budget with it");

    let (_other_folder, mut elsewhere) = super::tests::ledger();
    let foreign = receipt(&mut elsewhere, &data, 2.0);
    let refused = release(&mut ledger, foreign, &data, &config);
    assert!(matches!(refused, Err(ReleaseError::OtherLedger)));

    let right = receipt(&mut ledger, &data, 1.0);
    let release = release(&mut ledger, right, &data, &config).unwrap();
    assert_eq!(release.cost, eps(1.0));
    assert!(ledger.entries().iter().any(|entry| entry.is_released));
}

#[test]
fn number_of_templates_is_limited_after_the_noise() {
    let (_folder, mut ledger) = ledger();
    let data = unit_data(&behaviours(2_000), 6);
    for templates_max in [0, 17] {
        let receipt = receipt(&mut ledger, &data, 1.0);
        let config = ReleaseConfig { templates_max, ..ReleaseConfig::default() };
        let refused = release(&mut ledger, receipt, &data, &config);
        assert!(matches!(refused, Err(ReleaseError::TemplatesMax { .. })));
    }
    for centroid_noise_max in [0.0, -1.0, f64::NAN, 1.1] {
        let receipt = receipt(&mut ledger, &data, 1.0);
        let config = ReleaseConfig { centroid_noise_max, ..ReleaseConfig::default() };
        let refused = release(&mut ledger, receipt, &data, &config);
        assert!(matches!(refused, Err(ReleaseError::CentroidNoiseMax { .. })));
    }
    let receipt = receipt(&mut ledger, &data, 1.0);
    let config = ReleaseConfig { templates_max: 2, ..ReleaseConfig::default() };
    let release = release_with(&mut Silent, &mut ledger, receipt, &data, &config).unwrap();
    assert_eq!(release.centroids.len(), 2);
}
