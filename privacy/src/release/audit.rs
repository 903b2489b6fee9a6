//! Attacks on the release: does it keep its promise against somebody who knows all but one unit?
//!
//! The attacker knows the algorithm, the noise and both of two neighbouring data sets, sees every noised
//! number that a release draws, and says which of the two it was made of. That is more than anybody sees:
//! what leaves is computed from these numbers. If the release is (epsilon, delta)-private, then whatever
//! the attack, `P(says with | with) <= e^epsilon P(says with | without) + delta`. So from how often it is
//! right follows a lower bound on the epsilon that the release really has (Jagielski, Ullman and Oprea,
//! "Auditing Differentially Private Machine Learning", 2020). With Gaussian noise, where a promise at a tiny
//! delta leaves room that no 10,000 releases can measure, the bound is on rho, too, which leaves none.
//!
//! A pair of data sets is released 10,000 times, half of them each. The first half of these chooses the best of several statistics and its
//! threshold; the second half, which the choice has not seen, gives counts, and from them follow
//! Clopper-Pearson bounds. [`CONFIDENCE_LOST`] is the probability that an audit of a correct release fails.
//!
//! An audit that finds nothing proves little unless it finds what is there: `planted.rs` has mechanisms
//! with known bugs, and each must be caught by this very attack.

mod bound;
mod planted;

use super::*;
use crate::dataset::{EntityTag, Gather, Span};
use crate::noise::Scale;
use crate::terms::Unit;
use bound::{Counts, Measure};
use planted::Bug;

/// How often each of the two data sets is released.
const RELEASES: usize = 5_000;

/// The probability that a measure finds more than a correct release gives away: one in a million. Nine
/// are taken of correct releases, so this suite fails wrongly once in 100,000 runs at most.
const CONFIDENCE_LOST: f64 = 1e-6;

const DELTA: f64 = 1e-6;

/// Two data sets that differ in one unit, and what a release of them promises.
struct Pair {
    without: Dataset,
    with: Dataset,
    terms: Terms,
}

/// One query of a release: what was answered, and what each data set would have the noise hide.
struct Query {
    scale: Scale,
    answer: Vec<i64>,
    without: Vec<i64>,
    with: Vec<i64>,
}

/// Which data set a release was made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum World {
    Without,
    With,
}

#[test]
fn observations_are_hidden_by_laplace_noise() {
    audit_correct(Unit::Observation, Mechanism::Laplace);
}

#[test]
fn observations_are_hidden_by_gaussian_noise() {
    audit_correct(Unit::Observation, Mechanism::Gaussian);
}

#[test]
fn days_of_entities_are_hidden_by_laplace_noise() {
    audit_correct(Unit::EntityDay, Mechanism::Laplace);
}

#[test]
fn days_of_entities_are_hidden_by_gaussian_noise() {
    audit_correct(Unit::EntityDay, Mechanism::Gaussian);
}

#[test]
fn entities_are_hidden_by_laplace_noise() {
    audit_correct(Unit::Entity, Mechanism::Laplace);
}

#[test]
fn entities_are_hidden_by_gaussian_noise() {
    audit_correct(Unit::Entity, Mechanism::Gaussian);
}

/// Goal: the attack has power. Of a release whose promise is kept exactly it must find a good part.
///
/// Method: the same attack, had only a quarter of what is spent been promised, must find that broken. Of more
/// releases than elsewhere: of 10,000 it finds 0.4 to 1.5 of the 4 with Laplace noise, of 40,000 1.4 to 2.0, and
/// no choice of a test by chance brings that below 1.
#[test]
fn a_promise_that_is_too_strong_is_found_broken() {
    let pair = pair(Unit::Entity, Mechanism::Laplace, 4.0);
    let found = Views::of(&pair, Bug::None, 4 * RELEASES).prove(Measure::Epsilon(0.0));
    assert!(found > 1.0, "{found}");
    let pair = self::pair(Unit::Entity, Mechanism::Gaussian, 8.0);
    let found = Views::of(&pair, Bug::None, 2 * RELEASES).prove(Measure::Rho);
    assert!(found > Paid::for_terms(&pair.terms).rho.as_f64() / 4.0, "{found}");
}

#[test]
fn missing_clip_is_caught() {
    for mechanism in [Mechanism::Laplace, Mechanism::Gaussian] {
        // The observation is far outside the bounds, and nothing brings it back.
        let mut pair = pair(Unit::Observation, mechanism, 2.0);
        let last = pair.with.count() - 1;
        pair.with.set_unclipped(last, 0, 1 << 26);
        assert_caught(&pair, Bug::None, RELEASES / 5);
    }
}

/// The smallest of the bugs: sums cost twice what is paid for, which is two thirds of the whole. With Laplace
/// noise the loss is largest where the answers of three queries all lie beyond the unit's, which is one release
/// in eight, and the other world gets there once in two hundred: 25,000 releases of each prove 1.6 to 2.1 of a
/// promised 2, which is no proof. There the transcripts of neighbours show it, in `tests.rs`.
#[test]
fn uncentred_sum_is_caught() {
    let pair = pair(Unit::Observation, Mechanism::Gaussian, 2.0);
    assert_caught(&pair, Bug::UncentredSum, 3 * RELEASES);
}

#[test]
fn unnoised_count_is_caught() {
    for mechanism in [Mechanism::Laplace, Mechanism::Gaussian] {
        assert_caught(&pair(Unit::EntityDay, mechanism, 2.0), Bug::UnnoisedCount, RELEASES / 5);
    }
}

#[test]
fn noise_in_single_precision_is_caught() {
    // Wide noise, where single precision has the largest holes. It takes a large fleet, and few releases.
    let pair = pair(Unit::Observation, Mechanism::Laplace, 0.1);
    assert_caught(&pair, Bug::SinglePrecision, RELEASES / 5);
}

#[track_caller]
fn audit_correct(unit: Unit, mechanism: Mechanism) {
    let pair = pair(unit, mechanism, 2.0);
    let views = Views::of(&pair, Bug::None, RELEASES);
    for (found, promised) in views.found_and_promised(&pair.terms) {
        assert!(found <= promised, "{unit} {mechanism:?}: {found} of {promised}");
    }
}

#[track_caller]
fn assert_caught(pair: &Pair, bug: Bug, releases: usize) {
    let views = Views::of(pair, bug, releases);
    let all = views.found_and_promised(&pair.terms);
    let is_caught = all.iter().any(|(found, promised)| found > promised);
    assert!(is_caught, "{bug:?}: found and promised: {all:?}");
}

/// A fleet that is just large enough, in the middle of its range, and one unit more: at the corner, or, if
/// it has many observations, at both ends.
fn pair(unit: Unit, mechanism: Mechanism, epsilon: f64) -> Pair {
    let delta = if mechanism == Mechanism::Laplace { 0.0 } else { DELTA };
    let epsilon = Epsilon::new(epsilon).expect("a valid epsilon");
    let terms = Terms::new(unit, mechanism, epsilon, delta, 2).expect("valid terms");
    let entities = units_needed(&terms, 1, &ReleaseConfig::default());
    let data = |has_odd: bool| {
        let mut gather =
            Gather::new(Bounds::uniform(1, 0.0, 1.0).expect("a range"), unit, Span::ALL);
        for entity in 0..entities {
            gather.begin(EntityTag::of(&entity.to_string())).expect("given once");
            gather.push(0, &[0.4 + 0.2 * (entity % 2) as f32]).expect("a row in order");
        }
        if has_odd {
            gather.begin(EntityTag::of("odd")).expect("given once");
            let rows: &[f32] = if unit == Unit::Observation { &[1.0] } else { &[0.0, 1.0, 1.0] };
            for row in rows {
                gather.push(0, &[*row]).expect("a row in order");
            }
        }
        gather.finish()
    };
    Pair { without: data(false), with: data(true), terms }
}

/// The statistics of many releases of both data sets.
struct Views {
    without: Vec<Vec<f64>>,
    with: Vec<Vec<f64>>,
}

impl Views {
    fn of(pair: &Pair, bug: Bug, releases: usize) -> Self {
        let views = |world| (0..releases).map(|_| statistics(&view(pair, bug, world))).collect();
        Self { without: views(World::Without), with: views(World::With) }
    }

    /// Returns how much the release gives away at least, and how much it promised to, at most.
    fn found_and_promised(&self, terms: &Terms) -> Vec<(f64, f64)> {
        let epsilon = self.prove(Measure::Epsilon(terms.delta()));
        let mut all = vec![(epsilon, terms.epsilon().as_f64())];
        if terms.mechanism() == Mechanism::Gaussian {
            all.push((self.prove(Measure::Rho), Paid::for_terms(terms).rho.as_f64()));
        }
        all
    }

    /// Returns how much the release gives away at least: of the best test of the first half, by the
    /// counts of the second.
    fn prove(&self, measure: Measure) -> f64 {
        let half = self.with.len() / 2;
        let (statistic, threshold) = best_test(&self.without[..half], &self.with[..half], measure);
        let says_with = |views: &[Vec<f64>]| {
            views.iter().filter(|view| view[statistic] > threshold).count() as u64
        };
        let counts = Counts {
            releases: half as u64,
            false_alarms: says_with(&self.without[half..]),
            hits: says_with(&self.with[half..]),
        };
        counts.proves(measure, CONFIDENCE_LOST)
    }
}

/// Releases one of the two data sets, and computes what either would have asked given the answers.
fn view(pair: &Pair, bug: Bug, world: World) -> Vec<Query> {
    let run = |data: &Dataset, answers: Option<&[Vec<i64>]>| {
        let mut noise = planted::Noised::new(bug, answers);
        let paid = Paid::for_terms(&pair.terms);
        let plan = Plan::new(pair.terms, paid.rho, data.dim(), 0.08);
        draw(&mut noise, data, &plan, paid, pair.terms).expect("entropy");
        noise.into_asked()
    };
    let (data, other) = match world {
        World::Without => (&pair.without, &pair.with),
        World::With => (&pair.with, &pair.without),
    };
    let made = run(data, None);
    let answers: Vec<Vec<i64>> = made.iter().map(|asked| asked.answer.clone()).collect();
    let replayed = run(other, Some(&answers));
    let query = |(made, replayed): (planted::Asked, planted::Asked)| {
        let (without, with) = match world {
            World::Without => (made.values, replayed.values),
            World::With => (replayed.values, made.values),
        };
        Query { scale: made.scale, answer: made.answer, without, with }
    };
    made.into_iter().zip(replayed).map(query).collect()
}

/// Queries whose statistics are kept apart: probe, whole, and counts and sums of two levels.
const QUERIES: usize = 6;

/// What speaks for `with`: the log likelihood ratio of all queries, which is the best test there is if the
/// noise is what it claims to be; then of each query; then how many answers are exactly what `with` has; then
/// how many could have come from it by noise in single precision.
fn statistics(queries: &[Query]) -> Vec<f64> {
    let ratios: Vec<f64> = queries.iter().map(log_likelihood_ratio).collect();
    let of_each = (0..QUERIES).map(|at| ratios.get(at).copied().unwrap_or(0.0));
    let mut all = vec![ratios.iter().sum()];
    all.extend(of_each);
    let sum = |score: &dyn Fn(i64, i64, Scale) -> bool| -> f64 {
        let of_query = |query: &Query| {
            let answers = query.answer.iter().zip(query.without.iter().zip(&query.with));
            let score = |value, answer| f64::from(u8::from(score(value, answer, query.scale)));
            answers.map(|(&a, (&x, &y))| score(y, a) - score(x, a)).sum::<f64>()
        };
        queries.iter().map(of_query).sum()
    };
    all.push(sum(&|value, answer, _| value == answer));
    all.push(sum(&|value, answer, scale| planted::is_reachable(value, answer, scale.steps)));
    all
}

fn log_likelihood_ratio(query: &Query) -> f64 {
    let steps = query.scale.steps as f64;
    let answers = query.answer.iter().zip(query.without.iter().zip(&query.with));
    answers
        .map(|(&answer, (&without, &with))| {
            let (without, with) = ((answer - without) as f64, (answer - with) as f64);
            match query.scale.mechanism {
                Mechanism::Laplace => (without.abs() - with.abs()) / steps,
                Mechanism::Gaussian => (without * without - with * with) / (2.0 * steps * steps),
            }
        })
        .sum()
}

/// Returns the statistic and the threshold that tell the two worlds apart best.
fn best_test(without: &[Vec<f64>], with: &[Vec<f64>], measure: Measure) -> (usize, f64) {
    let sorted = |views: &[Vec<f64>], statistic: usize| {
        let mut values: Vec<f64> = views.iter().map(|view| view[statistic]).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let mut best = (f64::NEG_INFINITY, 0, 0.0);
    for statistic in 0..with[0].len() {
        let (without, with) = (sorted(without, statistic), sorted(with, statistic));
        // A hundred quantiles of either world are thresholds enough.
        let thresholds =
            [&without, &with].into_iter().flat_map(|it| it.iter().step_by(it.len() / 100));
        for &threshold in thresholds {
            let above = |values: &[f64]| {
                (values.len() - values.partition_point(|value| *value <= threshold)) as u64
            };
            let counts = Counts {
                releases: with.len() as u64,
                false_alarms: above(&without),
                hits: above(&with),
            };
            let found = counts.suggests(measure);
            if found > best.0 {
                best = (found, statistic, threshold);
            }
        }
    }
    (best.1, best.2)
}
