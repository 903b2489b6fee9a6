//! Whether a source of templates says what the others and one's own past contradict.
//!
//! Templates are noised, so nobody can check a single one. What can be seen is how a source stands among the
//! others, and there are two ways to stand apart. A source that *whitelists* explains what one's own past
//! and the majority of the sources find new: that is what a set made to hide an incident does. A source
//! that is *stray* says things that are far from what any two of the others or one's own past say: that is
//! what junk and shuffled channels do. Both are signs, no proof: a peer may know a rare behaviour
//! that others have not met. So they are slight evidence, and take at least three sources.
//!
//! Pure: levels and distances in, doubts out.

use crate::adoption::distances_to;
use crate::bounds::Bounds;

/// Fewer sources than this have no majority that one of them could stand apart from.
pub const SOURCES_MIN: usize = 3;

/// Fewest observations that are new, for a share of them to say anything.
const NOVEL_MIN: usize = 10;

/// The part of what is new to everyone else that a source may explain. On real servers honest ones explained
/// up to a sixth, and sets made to hide incidents from a quarter on: `docs/privacy.md`.
const WHITELISTED_MAX: f64 = 0.25;

/// How near a source's templates have to be to what others say, in parts of how near they would be with shifted
/// channels: as the adoption gate has it.
const SHIFT_RATIO_MAX: f64 = 0.75;

/// Fewer channels than this have no usable shift.
const SHIFT_DIM_MIN: usize = 3;

/// Shifts that are compared, at most, evenly spaced.
const SHIFTS_MAX: usize = 8;

/// Why a source is doubted.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Doubt {
    /// It explains this part of what one's own past and the majority find new.
    Whitelists {
        /// From 0 to 1.
        share: f64,
    },
    /// With its channels shifted it would be about as near to what others say.
    Stray {
        /// How near it is, in parts of how near it would be.
        ratio: f64,
        /// The same of the median source.
        median: f64,
    },
}

/// Returns which sources whitelist. `levels` are for each source those (distance over the threshold) of one's
/// own observations by one's own past and that source.
///
/// # Panics
///
/// If the sources have different numbers of levels.
#[must_use]
pub fn whitelisting(levels: &[Vec<f64>]) -> Vec<Option<Doubt>> {
    if levels.len() < SOURCES_MIN {
        return vec![None; levels.len()];
    }
    let rows = levels[0].len();
    assert!(
        levels.iter().all(|of_source| of_source.len() == rows),
        "a level for every observation"
    );
    let is_novel = |row: &usize| {
        let explaining = levels.iter().filter(|of_source| of_source[*row] <= 1.0).count();
        2 * explaining < levels.len()
    };
    let novel: Vec<usize> = (0..rows).filter(is_novel).collect();
    if novel.len() < NOVEL_MIN {
        return vec![None; levels.len()];
    }
    let doubt = |of_source: &Vec<f64>| {
        let explained = novel.iter().filter(|&&row| of_source[row] <= 1.0).count();
        let share = explained as f64 / novel.len() as f64;
        (share > WHITELISTED_MAX).then_some(Doubt::Whitelists { share })
    };
    levels.iter().map(doubt).collect()
}

/// Returns which `sources` (centroids, row-major `[n, dim]`) are stray among one another and `own`
/// behaviours. Where most of them are no better than shifted, they have nothing in common, and none is stray.
#[must_use]
pub fn straying(sources: &[&[f32]], own: &[f32], bounds: &Bounds) -> Vec<Option<Doubt>> {
    if sources.len() < SOURCES_MIN || bounds.dim() < SHIFT_DIM_MIN {
        return vec![None; sources.len()];
    }
    let ratios: Vec<f64> = (0..sources.len()).map(|at| ratio(sources, at, own, bounds)).collect();
    let median = middle(ratios.clone());
    let doubt = |ratio: &f64| {
        let is_stray = median <= SHIFT_RATIO_MAX && *ratio > SHIFT_RATIO_MAX;
        is_stray.then_some(Doubt::Stray { ratio: *ratio, median })
    };
    ratios.iter().map(doubt).collect()
}

/// How near a source is to what others say, in parts of how near it is with its channels cyclically shifted, the
/// median over shifts.
fn ratio(sources: &[&[f32]], at: usize, own: &[f32], bounds: &Bounds) -> f64 {
    let dim = bounds.dim();
    let shifts = (1..dim).step_by((dim - 1).div_ceil(SHIFTS_MAX));
    let shifted = shifts.map(|by| {
        let shift = |row: &[f32]| [&row[by..], &row[..by]].concat();
        let rows: Vec<f32> = sources[at].chunks_exact(dim).flat_map(shift).collect();
        apartness(&rows, sources, at, own, bounds)
    });
    let by_chance = middle(shifted.collect());
    let apart = apartness(sources[at], sources, at, own, bounds);
    if by_chance > 0.0 { apart / by_chance } else { 0.0 }
}

/// How far the middle one of some rows is from the second nearest of the sources but one, or from one's own
/// life: one accomplice does not make junk look common.
fn apartness(rows: &[f32], sources: &[&[f32]], but: usize, own: &[f32], bounds: &Bounds) -> f64 {
    let mut to_own = distances_to(rows, own, bounds);
    let others = sources.iter().enumerate().filter(|(other, _)| *other != but);
    let to_others: Vec<Vec<f64>> =
        others.map(|(_, other)| distances_to(rows, other, bounds)).collect();
    for (row, nearest) in to_own.iter_mut().enumerate() {
        let mut of_others: Vec<f64> = to_others.iter().map(|distances| distances[row]).collect();
        let (_, second, _) = of_others.select_nth_unstable_by(1, f64::total_cmp);
        *nearest = nearest.min(*second);
    }
    middle(to_own)
}

/// The median, the lower of two.
fn middle(mut values: Vec<f64>) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    *values.select_nth_unstable_by(last / 2, f64::total_cmp).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_explains_what_nobody_else_does_whitelists() {
        // The second half is new to all but the liar.
        let honest = [vec![0.5; 50], vec![2.0; 50]].concat();
        let liar = vec![0.5; 100];
        let doubts = whitelisting(&[honest.clone(), honest.clone(), liar.clone()]);
        assert_eq!(doubts, [None, None, Some(Doubt::Whitelists { share: 1.0 })]);
        let two = [honest.clone(), honest.clone(), honest.clone(), liar.clone(), liar.clone()];
        assert_eq!(whitelisting(&two).iter().filter(|doubt| doubt.is_some()).count(), 2);
        // Two sources cannot tell which of them is odd, and a few observations say nothing.
        assert_eq!(whitelisting(&[honest, liar.clone()]), [None; 2]);
        let few = [vec![0.5; 95], vec![2.0; 5]].concat();
        assert_eq!(whitelisting(&[few.clone(), few, liar]), [None; 3]);
    }

    #[test]
    fn a_source_that_explains_a_little_more_than_others_does_not() {
        let others = vec![2.0; 100];
        let rare = [vec![0.5; 20], vec![2.0; 80]].concat();
        assert_eq!(whitelisting(&[rare, others.clone(), others]), [None; 3]);
    }

    #[test]
    fn junk_is_stray_even_with_an_accomplice_and_neighbors_are_not() {
        const LEVELS: [f32; 6] = [0.05, 0.3, 0.9, 0.1, 0.6, 0.45];
        let bounds = Bounds::uniform(6, 0.0, 1.0).unwrap();
        // Nine behaviours around the same levels.
        let server = |shift: f32| -> Vec<f32> {
            let value = |row: u8, channel: u8| f32::from((row * 5 + channel * 3) % 7) / 70.0;
            let row =
                |row| (0..).zip(LEVELS).map(move |(at, level)| level + value(row, at) + shift);
            (0..9).flat_map(row).collect()
        };
        let (a, b, c) = (server(0.0), server(0.01), server(0.02));
        // The same with its channels in another order, which is no shift of theirs.
        let order = |row: &[f32]| [3, 5, 0, 4, 2, 1].map(|channel: usize| row[channel]);
        let shuffled: Vec<f32> = a.chunks_exact(6).flat_map(order).collect();
        let own = &a[..18];
        let doubts = straying(&[&a, &b, &c, &shuffled, &shuffled], own, &bounds);
        let is_doubted: Vec<bool> = doubts.iter().map(Option::is_some).collect();
        assert_eq!(is_doubted, [false, false, false, true, true]);
        assert_eq!(straying(&[&a, &shuffled], own, &bounds), [None; 2]);
    }

    #[test]
    fn sources_that_have_nothing_in_common_are_all_alike_in_that() {
        let bounds = Bounds::uniform(3, 0.0, 1.0).unwrap();
        let sources: [&[f32]; 3] = [&[0.9, 0.1, 0.1], &[0.1, 0.9, 0.1], &[0.1, 0.1, 0.9]];
        assert_eq!(straying(&sources, &[0.5, 0.5, 0.5], &bounds), [None; 3]);
    }
}
