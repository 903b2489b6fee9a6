//! What peers may send that mean harm.

use serde::Serialize;

use super::{
    fleet::{Random, centroids_of},
    newcomer::Heard,
};
use crate::vts1::Series;

/// Templates of a set that a liar keeps of its own, so that the gate lets it in.
const KEPT: usize = 8;

/// Templates that cover the incidents, or that a junk set has.
const MADE: usize = 8;

/// All of them.
pub(super) const ATTACKS: [Attack; 4] =
    [Attack::Cover, Attack::Duplicates, Attack::Junk, Attack::Permuted];

/// What a liar sends in place of its set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Attack {
    /// Beside templates of its own, the centers of the newcomer's own incidents. No stranger knows these: it
    /// is the worst that whitelisting can be. Two liars send the same ones.
    Cover,
    /// One template of its own, sixteen times.
    Duplicates,
    /// Corners of the bounds.
    Junk,
    /// Its own set with other channels.
    Permuted,
}

impl Attack {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Cover => "cover",
            Self::Duplicates => "duplicates",
            Self::Junk => "junk",
            Self::Permuted => "permuted",
        }
    }

    /// Replaces the sets of the first `liars` sources.
    pub(super) fn replace(self, heard: &mut Heard, liars: usize, victim: &Series, seed: u64) {
        let dims = victim.dims;
        for (liar, set) in heard.iter_mut().take(liars).enumerate() {
            match self {
                Self::Cover => {
                    set.truncate(KEPT * dims);
                    set.extend(incidents(victim, seed));
                }
                Self::Duplicates => {
                    set.truncate(dims);
                    *set = set.repeat(2 * MADE);
                }
                Self::Junk => *set = corners(dims, seed + liar as u64),
                Self::Permuted => {
                    *set = dunlin_privacy::adoption::permuted(set, dims, seed ^ 0x5eed)
                }
            }
        }
    }
}

/// Returns centers of what is labelled.
fn incidents(victim: &Series, seed: u64) -> Vec<f32> {
    let labelled: Vec<&[f32]> = (victim.rows_train..victim.rows())
        .zip(victim.labels())
        .filter(|(_, label)| **label)
        .map(|(row, _)| victim.row(row))
        .collect();
    if labelled.is_empty() { Vec::new() } else { centroids_of(&labelled, MADE, seed) }
}

fn corners(dims: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    (0..2 * MADE * dims).map(|_| random.below(2) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vts1::Dataset;

    #[test]
    fn each_attack_replaces_the_sets_of_the_liars_alone() {
        let victim = Dataset::embedded().unwrap().read_alike(1).unwrap().remove(0);
        let honest: Heard = (0..3_usize)
            .map(|source| (0..9 * victim.dims).map(|at| (at + source) as f32 / 400.0).collect())
            .collect();
        for attack in ATTACKS {
            let mut heard = honest.clone();
            attack.replace(&mut heard, 2, &victim, 1);
            assert_eq!(heard[2], honest[2]);
            for set in &heard[..2] {
                assert!(!honest.contains(set), "{attack:?}");
                assert!(set.len().is_multiple_of(victim.dims) && set.len() <= 16 * victim.dims);
            }
        }
    }
}
