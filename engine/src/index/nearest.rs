//! The `k` nearest so far.

use std::cmp::Ordering;

use crate::distance::LANES;

/// How many more than `k` are kept before the farthest go: as many as `k`, and at least these.
const MORE_MIN: usize = 32;

/// Up to so many are put in order by counting for each how many are before it: what is before what cannot be foreseen.
/// There is room for their order too.
const COUNTED_MAX: usize = MORE_MIN;

/// The `k` with the smallest distances, ties by the smallest id.
#[derive(Clone, Debug)]
pub(super) struct Nearest<T> {
    k: usize,
    /// The `k` nearest so far are among them.
    kept: Vec<Ranked<T>>,
    /// What is not before this is none of the nearest.
    worst: Option<Ranked<T>>,
}

#[derive(Clone, Copy, Debug)]
struct Ranked<T> {
    distance: f64,
    id: T,
}

impl<T: Ord + Copy> Nearest<T> {
    /// Returns none, of at most `k`.
    pub(super) fn new(k: usize) -> Self {
        Self { k, kept: Vec::with_capacity(k + k.max(MORE_MIN)), worst: None }
    }

    /// Takes one in if it is among the nearest.
    #[inline(always)]
    pub(super) fn offer(&mut self, distance: f64, id: T) {
        let ranked = Ranked { distance, id };
        // Most are farther away, and need no more than that.
        if self.worst.is_none_or(|worst| distance <= worst.distance && ranked < worst) {
            self.kept.push(ranked);
            if self.kept.len() >= self.k + self.k.max(MORE_MIN) {
                self.tidy();
            }
        }
    }

    /// Returns them by rising distance.
    pub(super) fn finish(mut self) -> impl Iterator<Item = (f64, T)> {
        let count = self.kept.len();
        let skipped = if let Some(order) = self.order() {
            let first = order[..count].iter().take(self.k);
            first.for_each(|at| self.kept.push(self.kept[usize::from(*at)]));
            count
        } else {
            self.kept.sort_unstable();
            self.kept.truncate(self.k);
            0
        };
        self.kept.into_iter().skip(skipped).map(|ranked| (ranked.distance, ranked.id))
    }

    /// Returns where those that are kept stand in their order, when they are few and no two are alike.
    fn order(&self) -> Option<[u8; COUNTED_MAX]> {
        let count = self.kept.len();
        if count > COUNTED_MAX {
            return None;
        }
        let mut distances = [f64::INFINITY; COUNTED_MAX];
        for (distance, ranked) in distances.iter_mut().zip(&self.kept) {
            *distance = ranked.distance;
        }
        let mut befores = [0_i64; COUNTED_MAX];
        let eights = befores.as_chunks_mut::<LANES>().0.iter_mut();
        let eights = eights.zip(distances.as_chunks::<LANES>().0).take(count.div_ceil(LANES));
        for (befores, here) in eights {
            for other in &distances[..count] {
                for lane in 0..LANES {
                    befores[lane] += i64::from(*other < here[lane]);
                }
            }
        }
        let (mut order, mut taken) = ([0; COUNTED_MAX], 0_u64);
        for (at, before) in befores[..count].iter().enumerate() {
            order[*before as usize] = at as u8;
            taken |= 1 << before;
        }
        (taken.count_ones() as usize == count).then_some(order)
    }

    fn tidy(&mut self) {
        if let Some(last) = self.k.checked_sub(1) {
            self.worst = Some(*self.kept.select_nth_unstable(last).1);
        }
        self.kept.truncate(self.k);
    }
}

impl<T: Ord> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        // Zero has two signs, which are no order among ties.
        let distances = (self.distance + 0.0).total_cmp(&(other.distance + 0.0));
        distances.then_with(|| self.id.cmp(&other.id))
    }
}

impl<T: Ord> PartialOrd for Ranked<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T: Ord> PartialEq for Ranked<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<T: Ord> Eq for Ranked<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_come_back_as_they_were_and_zeros_are_ties() {
        let values = [0.0, -0.0, 2.5, -7.0, f64::INFINITY, -1e-300, f64::NEG_INFINITY, 1e-300];
        let offered: Vec<(f64, u32)> = (0..200)
            .map(|id| (values[(id * 5 + id / 8) as usize % values.len()], 200 - id))
            .collect();
        let mut sorted = offered.clone();
        sorted.sort_by(|a, b| (a.0 + 0.0).total_cmp(&(b.0 + 0.0)).then(a.1.cmp(&b.1)));
        for k in [0, 1, 7, 33, 60, 200, 300] {
            assert_eq!(nearest_of(&offered, k), bits(&sorted, k), "{k}");
        }
    }

    #[test]
    fn few_are_put_in_order_with_and_without_ties() {
        for count in 0..40_u32 {
            for spread in [1, 5, 37] {
                let offered: Vec<(f64, u32)> =
                    (0..count).map(|id| (f64::from(id * 7 % spread) - 2.0, 100 - id)).collect();
                let mut sorted = offered.clone();
                sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
                for k in [1, 10, 40] {
                    assert_eq!(nearest_of(&offered, k), bits(&sorted, k), "{count} {spread} {k}");
                }
            }
        }
    }

    fn nearest_of(offered: &[(f64, u32)], k: usize) -> Vec<(u64, u32)> {
        let mut nearest = Nearest::new(k);
        offered.iter().for_each(|(distance, id)| nearest.offer(*distance, *id));
        nearest.finish().map(|(distance, id)| (distance.to_bits(), id)).collect()
    }

    fn bits(sorted: &[(f64, u32)], k: usize) -> Vec<(u64, u32)> {
        sorted.iter().take(k).map(|(distance, id)| (distance.to_bits(), *id)).collect()
    }
}
