//! What entities of simulated nodes do: one of a few kinds of life each, and the template sets that tell of them.
//!
//! Adoption is judged by the code of `privacy` against a node's own history. Nodes of one kind share one history, so that
//! what fits whom is known without asking that code.

use dunlin_privacy::{
    About, Bounds, ChannelsDigest, Epsilon, Metric, Release, ReleasedCentroid, TemplateSet, Terms,
    adoption::History,
};

use super::rng::{Chance, per_mille};

/// Kinds of life that nodes live; a set may also tell of none of them.
pub(super) const KINDS: usize = 2;

/// Behaviors of each kind, in channels of which each has the range 0 to 1.
const BEHAVIORS: [[[f32; 4]; 2]; KINDS] = [
    [[0.10, 0.80, 0.30, 0.60], [0.20, 0.90, 0.35, 0.50]],
    [[0.80, 0.25, 0.60, 0.10], [0.90, 0.10, 0.70, 0.20]],
];

/// What nobody does.
const JUNK: [[f32; 4]; 2] = [[0.50, 0.50, 0.95, 0.95], [0.45, 0.55, 0.05, 0.90]];

/// The collection of all.
const COLLECTION: &str = "servers";

/// Observations in the newer half of a history.
const ROWS: usize = 32;

/// How long a set counts, in milliseconds.
const LIFETIME_MS: u64 = 7 * 24 * 3_600_000;

/// One kind of life.
#[derive(Clone, Debug)]
pub(super) struct Life {
    regimes: Vec<f32>,
    second_half: Vec<f32>,
    pub(super) bounds: Bounds,
}

impl Life {
    /// Returns the life of a kind.
    pub(super) fn of(kind: usize) -> Self {
        let near = |row: usize, value: f32| value + [0.0, 0.015, -0.015, 0.01][row % 4];
        let row = |row: usize| BEHAVIORS[kind][row / 2 % 2].map(|value| near(row, value));
        Self {
            regimes: BEHAVIORS[kind].concat(),
            second_half: (0..ROWS).flat_map(row).collect(),
            bounds: Bounds::uniform(4, 0.0, 1.0).expect("a range"),
        }
    }

    /// Returns it as the adoption gate reads it.
    pub(super) fn history(&self) -> History<'_> {
        History { regimes: &self.regimes, second_half: &self.second_half }
    }

    /// Returns the regimes of the older half.
    pub(super) fn regimes(&self) -> &[f32] {
        &self.regimes
    }
}

/// Returns a set that tells of a kind of life, or of none. Its noise is a little chance of the run's own: what privacy
/// costs is not simulated.
pub(super) fn template_set(
    kind: Option<usize>,
    issued_unix_ms: u64,
    rng: &mut Chance,
) -> TemplateSet {
    let behaviors = kind.map_or(&JUNK, |kind| &BEHAVIORS[kind]);
    let mut noised = |value: &f32| if per_mille(rng, 500) { value + 0.01 } else { value - 0.01 };
    let centroids = behaviors.iter().zip([2_000, 1_000]).map(|(behavior, noised_support)| {
        ReleasedCentroid { centroid: behavior.iter().map(&mut noised).collect(), noised_support }
    });
    let epsilon = Epsilon::new(1.0).expect("a usual one");
    let release = Release {
        centroids: centroids.collect(),
        bounds: Bounds::uniform(4, 0.0, 1.0).expect("a range"),
        terms: Terms::observation(epsilon).expect("usual terms"),
    };
    let about = About {
        collection: COLLECTION,
        metric: Metric::Euclidean,
        channels: ChannelsDigest::of(&[]),
        issued_unix_ms,
        expires_unix_ms: issued_unix_ms + LIFETIME_MS,
    };
    TemplateSet::new(&release, &about).expect("two different behaviors within the bounds")
}

#[cfg(test)]
mod tests {
    use dunlin_privacy::adoption::{Config, judge};

    use super::*;
    use crate::sim::rng;

    #[test]
    fn a_set_fits_those_of_whose_life_it_tells_and_nobody_else() {
        let mut rng = rng::of_seed(1);
        for kind in [None, Some(0), Some(1)] {
            let centroids = template_set(kind, 0, &mut rng).centroids();
            for own in 0..KINDS {
                let life = Life::of(own);
                let verdict = judge(life.history(), &centroids, &life.bounds, &Config::default());
                assert_eq!(verdict.is_adopted(), kind == Some(own), "{kind:?} {own} {verdict:?}");
            }
        }
    }
}
