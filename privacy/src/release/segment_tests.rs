//! That noised segments cost what they say, and are as exact as they say.

use proptest::prelude::*;

use super::segments::{release_segments_with, *};
use super::tests::{Silent, Transcript, eps, ledger, observation, terms};
use super::*;
use crate::bounds::STEPS;
use crate::dataset::{EntityTag, Gather, Span};
use crate::ledger::{Intent, Outcome};
use crate::plan::COUNT_STEPS;
use crate::terms::Unit;

const WINDOW: Span = Span { first_us: 0, last_us: 999 };

const NOISE_MAX: f64 = 0.08;

/// For each entity, its observations in the window.
type Window = Vec<Vec<Vec<f32>>>;

fn tag(entity: usize) -> EntityTag {
    EntityTag::of(&entity.to_string())
}

fn window_data(window: &Window, dim: usize, span: Span) -> Dataset {
    let bounds = Bounds::uniform(dim, 0.0, 1.0).expect("a range");
    let mut gather = Gather::by_entity(bounds, span);
    for (entity, rows) in window.iter().enumerate() {
        gather.begin(tag(entity)).expect("given once");
        for row in rows {
            gather.push(span.first_us, row).expect("a row in order");
        }
    }
    gather.finish()
}

fn reserved(ledger: &mut Ledger, data: &Dataset, terms: Terms) -> Result<Receipt, ReserveError> {
    let purpose = "segments";
    ledger.reserve(&Intent { collection: "servers", data, terms, now_unix_ms: 1, purpose })
}

fn released(noise: &mut impl Noise, data: &Dataset, terms: Terms) -> Vec<ReleasedSegment> {
    let (_folder, mut ledger) = ledger();
    let receipt = reserved(&mut ledger, data, terms).expect("within the ceiling");
    release_segments_with(noise, &mut ledger, receipt, data, NOISE_MAX).expect("a release")
}

/// Returns the loss of the worst transcript seen, as the part of what was paid: see the tests of templates.
fn transcript_loss(data: &Dataset, neighbour: &Dataset, terms: Terms) -> f64 {
    let mut first = Transcript::default();
    let one = released(&mut first, data, terms);
    let mut second = Transcript { outputs: first.outputs.clone(), asked: Vec::new() };
    let other = released(&mut second, neighbour, terms);
    assert_eq!(one, other, "something un-noised reached the release");
    first.loss_beside(&second, terms)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Goal: the privacy loss is at most what was paid, for any two windows that differ in one observation.
    #[test]
    fn one_observation_less_or_more_costs_no_more_than_was_paid(
        (dim, window) in (1usize..4).prop_flat_map(|dim| {
            let row = prop::collection::vec(-0.5f32..1.5, dim);
            let entity = prop::collection::vec(row, 0..6);
            (Just(dim), prop::collection::vec(entity, 1..5))
        }),
        odd in prop_oneof![Just(-1e30f32), Just(1e30), 0f32..1.0],
        // Enough epsilon that even few observations pass the threshold.
        epsilon in prop_oneof![Just(1.0), Just(40.0), Just(99.0)],
        mechanism in prop_oneof![Just(Mechanism::Laplace), Just(Mechanism::Gaussian)],
    ) {
        let terms = terms(Unit::Observation, mechanism, epsilon, 1);
        let data = window_data(&window, dim, WINDOW);
        let check = |neighbour: &Window| {
            let part = transcript_loss(&data, &window_data(neighbour, dim, WINDOW), terms);
            prop_assert!(part <= 1.0, "{part}");
            Ok(())
        };
        for entity in 0..window.len() {
            for at in 0..window[entity].len() {
                let mut less = window.clone();
                less[entity].remove(at);
                check(&less)?;
            }
            let mut more = window.clone();
            more[entity].push(vec![odd; dim]);
            check(&more)?;
        }
    }
}

#[test]
fn the_worst_observation_spends_nearly_all_of_the_budget() {
    let window = vec![vec![vec![0.5; 6]; 2_000]];
    let mut more = window.clone();
    more[0].push(vec![1.0; 6]);
    for mechanism in [Mechanism::Laplace, Mechanism::Gaussian] {
        let terms = terms(Unit::Observation, mechanism, 8.0, 1);
        let (data, neighbour) = (window_data(&window, 6, WINDOW), window_data(&more, 6, WINDOW));
        let part = transcript_loss(&data, &neighbour, terms);
        assert!(part > 0.999 && part <= 1.0, "{mechanism:?}: {part}");
    }
}

#[test]
fn who_has_enough_observations_is_released_and_nobody_else() {
    let terms = observation(1.0);
    let needed = observations_needed(&terms, 2, NOISE_MAX) as usize;
    let rows = |value: f32, count| vec![vec![value, 1.0 - value]; count];
    let window =
        vec![rows(0.25, needed), rows(0.5, needed - 1), Vec::new(), rows(0.75, 3 * needed)];
    let found = released(&mut Silent, &window_data(&window, 2, WINDOW), terms);
    let segment = |entity, value: f32, count: usize| ReleasedSegment {
        entity: tag(entity),
        centroid: vec![value, 1.0 - value],
        noised_count: count as u64,
    };
    assert_eq!(found, [segment(0, 0.25, needed), segment(3, 0.75, 3 * needed)]);
}

/// Goal: a mean is as exact as was promised: its noise has the deviation that the threshold allows, neither
/// more nor, at as many observations as are needed, much less.
///
/// Method: 400 releases of as many observations as are needed, 16 channels each. The deviation of 6,400
/// draws is within 5 % of the true one but for a probability below 1e-6 (Laplace noise has a kurtosis of 6:
/// a standard error of 1.4 %). Half of the releases fall below the threshold, which their count alone decides.
#[test]
fn means_are_as_exact_as_the_threshold_promises() {
    for mechanism in [Mechanism::Laplace, Mechanism::Gaussian] {
        let terms = terms(Unit::Observation, mechanism, 2.0, 1);
        let needed = observations_needed(&terms, 16, NOISE_MAX);
        let window = vec![vec![vec![0.5; 16]; needed as usize]; 400];
        let found = released(&mut OpenDp, &window_data(&window, 16, WINDOW), terms);
        assert!((120..280).contains(&found.len()), "{} of 400 passed", found.len());
        let errors = found.iter().flat_map(|one| {
            // Times the count: by how much the sum was off.
            one.centroid.iter().map(|value| (f64::from(*value) - 0.5) * one.noised_count as f64)
        });
        let errors: Vec<f64> = errors.collect();
        let square = errors.iter().map(|error| error * error).sum::<f64>() / errors.len() as f64;
        let (_, sum_noise) =
            Plan::new(terms, Rho::within(terms.epsilon(), terms.delta()), 16, NOISE_MAX).single();
        let expected = sum_noise.deviation() / STEPS as f64;
        let ratio = square.sqrt() / expected;
        assert!((0.9..1.1).contains(&ratio), "{mechanism:?}: {ratio} of {expected}");
        assert!(expected / needed as f64 <= NOISE_MAX);
    }
}

#[test]
fn counts_are_noised_too() {
    let window = vec![vec![vec![0.5]; 5_000]; 100];
    let found = released(&mut OpenDp, &window_data(&window, 1, WINDOW), observation(1.0));
    let exact = found.iter().filter(|one| one.noised_count == 5_000).count();
    // A draw is 0 after rounding with a probability below .25.
    assert!(found.len() == 100 && exact < 60, "{exact} of {} counts are exact", found.len());
    let apart = found.iter().map(|one| one.noised_count.abs_diff(5_000)).max();
    let (count, _) = Plan::new(observation(1.0), Rho::ZERO, 1, NOISE_MAX).single();
    assert!(apart < Some((20.0 * count.deviation() / COUNT_STEPS as f64) as u64 + 1), "{apart:?}");
}

#[test]
fn windows_that_do_not_touch_cost_each_observation_once() {
    let (_folder, mut ledger) = ledger();
    let release = |ledger: &mut Ledger, first_us: i64| {
        let span = Span { first_us, last_us: first_us + 999 };
        let data = window_data(&vec![vec![vec![0.5]; 9]], 1, span);
        let receipt = reserved(ledger, &data, observation(30.0))?;
        Ok::<_, ReserveError>(release_segments(ledger, receipt, &data, NOISE_MAX).unwrap().len())
    };
    for window in 0..5 {
        // 150 in all, of 100; and 30 for each observation.
        assert!(release(&mut ledger, 1_000 * window).is_ok(), "window {window}");
    }
    assert_eq!(ledger.spent("servers", Unit::Observation), Some(eps(30.0)));
    // Half a window further on, the observations of its first half are in two.
    assert!(release(&mut ledger, 4_500).is_ok());
    assert_eq!(ledger.spent("servers", Unit::Observation), Some(eps(60.0)));
}

#[test]
fn the_same_window_is_not_paid_for_twice() {
    let (_folder, mut ledger) = ledger();
    let data = window_data(&vec![vec![vec![0.5]; 9]], 1, WINDOW);
    let receipt = reserved(&mut ledger, &data, observation(1.0)).unwrap();
    assert!(release_segments(&mut ledger, receipt, &data, NOISE_MAX).is_ok());
    let again = reserved(&mut ledger, &data, observation(1.0));
    assert!(matches!(again, Err(ReserveError::Unchanged { .. })), "{again:?}");
    // Empty windows are told apart by their time.
    for first_us in [10_000, 20_000] {
        let empty = window_data(&vec![Vec::new()], 1, Span { first_us, last_us: first_us + 9 });
        assert!(reserved(&mut ledger, &empty, observation(1.0)).is_ok());
    }
}

#[test]
fn a_receipt_for_other_data_releases_nothing() {
    let (_folder, mut ledger) = ledger();
    let data = window_data(&vec![vec![vec![0.5]; 9]], 1, WINDOW);
    let other = window_data(&vec![vec![vec![0.5]; 8]], 1, WINDOW);
    let receipt = reserved(&mut ledger, &data, observation(1.0)).unwrap();
    let refused = release_segments(&mut ledger, receipt, &other, NOISE_MAX);
    assert!(matches!(refused, Err(ReleaseError::OtherData)));
    let (_elsewhere_folder, mut elsewhere) = super::tests::ledger();
    let foreign = reserved(&mut elsewhere, &data, observation(2.0)).unwrap();
    let refused = release_segments(&mut ledger, foreign, &data, NOISE_MAX);
    assert!(matches!(refused, Err(ReleaseError::OtherLedger)));
    assert_eq!(ledger.entries()[0].outcome, Outcome::Prevented);
    let receipt = reserved(&mut ledger, &other, observation(1.0)).unwrap();
    let refused = release_segments(&mut ledger, receipt, &other, 0.0);
    assert!(matches!(refused, Err(ReleaseError::CentroidNoiseMax { .. })));
}
