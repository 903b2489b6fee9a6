//! That a release costs what it says and gives away nothing else.

use proptest::prelude::*;

use super::*;
use crate::dataset::{EntityTag, Gather, Span};
use crate::ledger::{Ceiling, Intent, Outcome};
use crate::noise::Scale;
use crate::terms::Unit;

/// No noise, so that the shape of the algorithm shows.
pub(super) struct Silent;

impl Noise for Silent {
    fn add(&mut self, values: Vec<i64>, _scale: Scale) -> Result<Vec<i64>, NoiseError> {
        Ok(values)
    }
}

/// Answers with fixed outputs and remembers what it was asked: the view of whoever sees the release.
#[derive(Default)]
pub(super) struct Transcript {
    pub(super) outputs: Vec<Vec<i64>>,
    pub(super) asked: Vec<(Vec<i64>, Scale)>,
}

impl Noise for Transcript {
    fn add(&mut self, values: Vec<i64>, scale: Scale) -> Result<Vec<i64>, NoiseError> {
        let call = self.asked.len();
        self.asked.push((values.clone(), scale));
        if call == self.outputs.len() {
            self.outputs.push(OpenDp.add(values, scale)?);
        }
        Ok(self.outputs[call].clone())
    }
}

impl Transcript {
    /// Returns the loss of this transcript, seen beside that of neighbouring data, as the part of what was paid.
    pub(super) fn loss_beside(&self, neighbour: &Self, terms: Terms) -> f64 {
        assert_eq!(self.asked.len(), neighbour.asked.len());
        let pairs = self.asked.iter().zip(&neighbour.asked);
        let loss: f64 = pairs
            .map(|((a, scale), (b, other_scale))| {
                assert_eq!((a.len(), scale), (b.len(), other_scale), "noise depends on the data");
                let apart = a.iter().zip(b).map(|(a, b)| a.abs_diff(*b) as f64);
                let steps = scale.steps as f64;
                match scale.mechanism {
                    Mechanism::Laplace => apart.sum::<f64>() / steps,
                    Mechanism::Gaussian => {
                        apart.map(|apart| apart * apart).sum::<f64>() / (2.0 * steps * steps)
                    }
                }
            })
            .sum();
        match terms.mechanism() {
            Mechanism::Laplace => loss / terms.epsilon().as_f64(),
            Mechanism::Gaussian => loss / Rho::within(terms.epsilon(), terms.delta()).as_f64(),
        }
    }
}

pub(super) fn eps(value: f64) -> Epsilon {
    Epsilon::new(value).expect("a valid epsilon")
}

const DELTA: f64 = 1e-6;

pub(super) fn terms(unit: Unit, mechanism: Mechanism, epsilon: f64, cells_max: u8) -> Terms {
    let delta = if mechanism == Mechanism::Laplace { 0.0 } else { DELTA };
    Terms::new(unit, mechanism, eps(epsilon), delta, cells_max).expect("valid terms")
}

pub(super) fn observation(epsilon: f64) -> Terms {
    Terms::observation(eps(epsilon)).expect("valid terms")
}

fn unit_data(rows: &[f32], dim: usize) -> Dataset {
    let bounds = Bounds::uniform(dim, 0.0, 1.0).expect("a range");
    Dataset::new(rows, dim, bounds).expect("a dataset")
}

/// A fleet: for each entity, its days; for each day, its observations.
type Fleet = Vec<Vec<Vec<Vec<f32>>>>;

fn fleet_data(fleet: &Fleet, unit: Unit, dim: usize) -> Dataset {
    let mut gather = Gather::new(Bounds::uniform(dim, 0.0, 1.0).expect("a range"), unit, Span::ALL);
    for (entity, days) in fleet.iter().enumerate() {
        gather.begin(EntityTag::of(&entity.to_string())).expect("given once");
        for (day, rows) in days.iter().enumerate() {
            for (at, row) in rows.iter().enumerate() {
                let time = day as i64 * 86_400_000_000 + at as i64;
                gather.push(time, row).expect("a row in order");
            }
        }
    }
    gather.finish()
}

/// A ledger in a folder that lives as long as it.
pub(super) fn ledger() -> (tempfile::TempDir, Ledger) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let ceiling = Ceiling { epsilon: eps(100.0), delta: DELTA };
    let ledger = Ledger::open(&folder.path().join("ledger"), ceiling).expect("a new ledger");
    (folder, ledger)
}

fn receipt(ledger: &mut Ledger, data: &Dataset, terms: Terms) -> Receipt {
    let intent =
        Intent { collection: "servers", data, terms, now_unix_ms: 1, purpose: "templates" };
    ledger.reserve(&intent).expect("within the ceiling")
}

fn released(noise: &mut impl Noise, data: &Dataset, terms: Terms) -> Result<Release, ReleaseError> {
    let (_folder, mut ledger) = ledger();
    let receipt = receipt(&mut ledger, data, terms);
    release_with(noise, &mut ledger, receipt, data, &ReleaseConfig::default())
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

/// Goal: the privacy loss of a release is at most what was paid, for any two neighbouring data sets.
///
/// Method: a mechanism of independent discrete Laplace noise is epsilon-private if, for every output,
/// the L1 distances between what the two data sets ask the noise to hide, each over its scale, add
/// up to at most epsilon. One of Gaussian noise is rho-zCDP if the squared L2 distances, each over twice
/// the squared scale, add up to at most rho. The second run answers with the first one's outputs, so both
/// see one transcript, adaptive choices included, and the sum is the true loss bound of that transcript.
/// Returns the part of what was paid that it makes up.
fn transcript_loss(data: &Dataset, neighbour: &Dataset, terms: Terms) -> f64 {
    let mut first = Transcript::default();
    let one = released(&mut first, data, terms);
    let mut second = Transcript { outputs: first.outputs.clone(), asked: Vec::new() };
    let other = released(&mut second, neighbour, terms);
    assert_eq!(format!("{one:?}"), format!("{other:?}"), "something un-noised reached the release");
    first.loss_beside(&second, terms)
}

/// Every fleet that has one unit less.
fn neighbours(fleet: &Fleet, unit: Unit) -> Vec<Fleet> {
    let mut all = Vec::new();
    for (entity, days) in fleet.iter().enumerate() {
        if unit == Unit::Entity {
            all.push(without(fleet, |less| {
                less.remove(entity);
            }));
            continue;
        }
        for (day, rows) in days.iter().enumerate() {
            if unit == Unit::EntityDay {
                all.push(without(fleet, |less| less[entity][day].clear()));
                continue;
            }
            for at in 0..rows.len() {
                all.push(without(fleet, |less| {
                    less[entity][day].remove(at);
                }));
            }
        }
    }
    all
}

fn without(fleet: &Fleet, remove: impl FnOnce(&mut Fleet)) -> Fleet {
    let mut less = fleet.clone();
    remove(&mut less);
    less
}

fn any_terms() -> impl Strategy<Value = Terms> {
    let unit = prop::sample::select(&Unit::ALL[..]);
    let mechanism = prop_oneof![Just(Mechanism::Laplace), Just(Mechanism::Gaussian)];
    // Enough epsilon that small data make all stages of a partition.
    let epsilon = prop_oneof![Just(1.0), Just(40.0), Just(99.0)];
    (unit, mechanism, epsilon, 1u8..=5).prop_map(|(unit, mechanism, epsilon, cells_max)| {
        terms(unit, mechanism, epsilon, cells_max)
    })
}

/// Small fleets whose values leave the bounds.
fn any_fleet(dim: usize) -> impl Strategy<Value = Fleet> {
    let row = prop::collection::vec(-0.5f32..1.5, dim);
    let day = prop::collection::vec(row, 1..6);
    let entity = prop::collection::vec(day, 1..4);
    prop::collection::vec(entity, 2..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn no_unit_less_costs_more_than_was_paid(
        (dim, fleet) in (1usize..4).prop_flat_map(|dim| (Just(dim), any_fleet(dim))),
        terms in any_terms(),
    ) {
        let data = fleet_data(&fleet, terms.unit(), dim);
        for neighbour in neighbours(&fleet, terms.unit()) {
            let neighbour = fleet_data(&neighbour, terms.unit(), dim);
            let part = transcript_loss(&data, &neighbour, terms);
            prop_assert!(part <= 1.0, "{part}");
        }
    }

    #[test]
    fn no_unit_more_costs_more_than_was_paid(
        (dim, fleet) in (1usize..4).prop_flat_map(|dim| (Just(dim), any_fleet(dim))),
        odd in prop_oneof![Just(-1e30f32), Just(1e30), 0f32..1.0],
        wild in prop::collection::vec(-9f32..9.0, 40),
        terms in any_terms(),
    ) {
        // One unit that is everywhere, or far out in one corner.
        for rows in [vec![vec![odd; dim]], wild.chunks_exact(dim).map(<[f32]>::to_vec).collect()] {
            let rows = if terms.unit() == Unit::Observation { rows[..1].to_vec() } else { rows };
            let mut more = fleet.clone();
            more.push(vec![rows]);
            let data = fleet_data(&fleet, terms.unit(), dim);
            let part = transcript_loss(&data, &fleet_data(&more, terms.unit(), dim), terms);
            prop_assert!(part <= 1.0, "{part}");
        }
    }
}

#[test]
fn the_worst_unit_spends_nearly_all_of_the_budget() {
    // In a corner of the bounds every sensitivity is reached, so the accounting wastes nothing. Of one channel: of more,
    // no corner lies farthest out across the directions of all levels.
    let rows = behaviours(300);
    let fleet: Fleet = rows.chunks_exact(6).map(|row| vec![vec![row[..1].to_vec()]]).collect();
    let mut more = fleet.clone();
    more.push(vec![vec![vec![1.0]]]);
    for unit in Unit::ALL {
        for mechanism in [Mechanism::Laplace, Mechanism::Gaussian] {
            // One cell each: a unit that is in a corner is in one cell only.
            let terms = terms(unit, mechanism, 8.0, 1);
            let (data, neighbour) = (fleet_data(&fleet, unit, 1), fleet_data(&more, unit, 1));
            let part = transcript_loss(&data, &neighbour, terms);
            assert!(part > 0.999 && part <= 1.0, "{unit} {mechanism:?}: {part}");
        }
    }
}

#[test]
fn without_noise_the_behaviours_are_found() {
    let data = unit_data(&behaviours(2_000), 6);
    let release = released(&mut Silent, &data, observation(1.0)).unwrap();
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
    // Each of 4,000 entities knows two of the four behaviours.
    let rows = behaviours(4_000);
    let fleet: Fleet = rows
        .chunks_exact(24)
        .map(|rows| vec![rows.chunks_exact(6).map(<[f32]>::to_vec).collect()])
        .collect();
    for mechanism in [Mechanism::Laplace, Mechanism::Gaussian] {
        let terms = terms(Unit::Entity, mechanism, 2.0, 4);
        let data = fleet_data(&fleet, Unit::Entity, 6);
        let release = released(&mut OpenDp, &data, terms).unwrap();
        for center in [[0.1, 0.9], [0.9, 0.1]] {
            let found = release.centroids.iter().any(|one| {
                // A leaf holds thousands; the noise of its channels has a deviation below 0.005, so 0.1
                // is 20 of them away.
                one.centroid
                    .iter()
                    .enumerate()
                    .all(|(i, x)| (x - center[i % 2] as f32).abs() < 0.15)
            });
            assert!(found, "{mechanism:?}: {center:?} in {:?}", release.centroids);
        }
        let supports = release.centroids.iter().map(|one| one.noised_support);
        assert!(supports.max() < Some(4_600), "an entity counts once in a cell");
    }
}

#[test]
fn too_few_units_are_refused_with_what_it_takes_and_only_the_count_is_paid_for() {
    for rows in [&[][..], &[0.5; 6]] {
        let (_folder, mut ledger) = ledger();
        let (data, terms) = (unit_data(rows, 6), observation(1.0));
        let receipt = receipt(&mut ledger, &data, terms);
        // A small count passes for a large one by noise once in a thousand times; with silent noise never.
        let config = ReleaseConfig::default();
        let refused = release_with(&mut Silent, &mut ledger, receipt, &data, &config).unwrap_err();
        let ReleaseError::TooFew { units_noised, units_needed: needed, cost, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!(units_noised, rows.len() as u64 / 6);
        assert_eq!(needed, units_needed(&terms, 6, &config));
        assert!(cost > eps(0.049) && cost <= eps(0.05), "{cost}");
        assert_eq!(ledger.spent("servers", Unit::Observation), Some(cost));
        assert!(matches!(ledger.entries()[0].outcome, Outcome::TooFew { .. }));
    }
}

/// Goal: the number of units that a refusal names is enough.
///
/// Method: as many units as named, half of them in each of two behaviours, released 40 times for each unit
/// and noise. One refusal in a thousand is chance, so more than two have a probability below 1e-5 for
/// each of the six.
#[test]
fn as_many_units_as_are_needed_are_not_refused() {
    for unit in Unit::ALL {
        for mechanism in [Mechanism::Laplace, Mechanism::Gaussian] {
            let terms = terms(unit, mechanism, 4.0, 1);
            let needed = units_needed(&terms, 2, &ReleaseConfig::default());
            let row = |at: u64| vec![vec![vec![if at.is_multiple_of(2) { 0.1 } else { 0.9 }; 2]]];
            let fleet: Fleet = (0..needed).map(row).collect();
            let data = fleet_data(&fleet, unit, 2);
            let refused = (0..40).filter(|_| {
                let plan = Plan::new(terms, Paid::for_terms(&terms).rho, 2, 0.08);
                let noised = probe(&data, plan.probe(), &mut OpenDp).unwrap();
                plan.depth(noised).is_none()
            });
            let refused = refused.count();
            assert!(refused <= 2, "{unit} {mechanism:?}: {refused} of 40");
        }
    }
}

#[test]
fn everything_released_lies_within_the_bounds() {
    let bounds = Bounds::new(vec![-3.0, 10.0], vec![-2.0, 1_000.0]).unwrap();
    let rows: Vec<f32> = (0..4_000).flat_map(|row| [row as f32, -(row as f32)]).collect();
    let data = Dataset::new(&rows, 2, bounds.clone()).unwrap();
    let release = released(&mut OpenDp, &data, observation(10.0)).unwrap();
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
    let (data, other) = (unit_data(&behaviours(2_000), 6), unit_data(&behaviours(11), 6));
    let config = ReleaseConfig::default();

    let wrong = receipt(&mut ledger, &data, observation(1.0));
    let refused = release(&mut ledger, wrong, &other, &config);
    assert!(matches!(refused, Err(ReleaseError::OtherData)));
    let spent = ledger.spent("servers", Unit::Observation);
    assert_eq!(spent, Some(eps(1.0)), "the receipt is gone and its budget with it");

    let (_other_folder, mut elsewhere) = super::tests::ledger();
    let foreign = receipt(&mut elsewhere, &data, observation(2.0));
    let refused = release(&mut ledger, foreign, &data, &config);
    assert!(matches!(refused, Err(ReleaseError::OtherLedger)));

    let right = receipt(&mut ledger, &data, observation(1.0));
    let release = release(&mut ledger, right, &data, &config).unwrap();
    assert_eq!(release.terms, observation(1.0));
    assert!(ledger.entries().iter().any(|entry| entry.outcome == Outcome::Released));
}

#[test]
fn number_of_templates_is_limited_after_the_noise() {
    let (_folder, mut ledger) = ledger();
    let data = unit_data(&behaviours(2_000), 6);
    for templates_max in [0, 17] {
        let receipt = receipt(&mut ledger, &data, observation(1.0));
        let config = ReleaseConfig { templates_max, ..ReleaseConfig::default() };
        let refused = release(&mut ledger, receipt, &data, &config);
        assert!(matches!(refused, Err(ReleaseError::TemplatesMax { .. })));
    }
    for centroid_noise_max in [0.0, -1.0, f64::NAN, 1.1] {
        let receipt = receipt(&mut ledger, &data, observation(1.0));
        let config = ReleaseConfig { centroid_noise_max, ..ReleaseConfig::default() };
        let refused = release(&mut ledger, receipt, &data, &config);
        assert!(matches!(refused, Err(ReleaseError::CentroidNoiseMax { .. })));
    }
    let receipt = receipt(&mut ledger, &data, observation(1.0));
    let config = ReleaseConfig { templates_max: 2, ..ReleaseConfig::default() };
    let release = release_with(&mut Silent, &mut ledger, receipt, &data, &config).unwrap();
    assert_eq!(release.centroids.len(), 2);
    let supports: Vec<u64> = release.centroids.iter().map(|one| one.noised_support).collect();
    assert!(supports.is_sorted_by(|a, b| a >= b), "{supports:?}");
    assert_eq!(supports.iter().sum::<u64>(), 8_000, "what is alike is merged, and nothing dropped");
}
