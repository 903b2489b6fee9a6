//! Chance: one generator for a run, named by its algorithm so that seeds outlive upgrades.

use rand_chacha::{
    ChaCha12Rng,
    rand_core::{Rng as _, SeedableRng as _},
};

/// The generator.
pub(super) type Chance = ChaCha12Rng;

/// Returns the generator of a seed.
pub(super) fn of_seed(seed: u64) -> Chance {
    Chance::seed_from_u64(seed)
}

/// Returns a number below `end`, which is not 0. The bias of the remainder is below 2^-32 for what is drawn here.
pub(super) fn below(rng: &mut Chance, end: usize) -> usize {
    (rng.next_u64() % end as u64) as usize
}

/// Returns a number from `from` to below `to`.
pub(super) fn between(rng: &mut Chance, from: u64, to: u64) -> u64 {
    from + rng.next_u64() % (to - from).max(1)
}

/// Returns true so many times in a thousand.
pub(super) fn per_mille(rng: &mut Chance, chance: u64) -> bool {
    rng.next_u64() % 1_000 < chance
}
