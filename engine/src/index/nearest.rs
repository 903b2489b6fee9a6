//! The `k` nearest so far.

use std::{cmp::Ordering, collections::BinaryHeap};

/// The `k` with the smallest distances, ties by the smallest id.
#[derive(Clone, Debug)]
pub(super) struct Nearest<T> {
    k: usize,
    /// The worst on top.
    heap: BinaryHeap<Ranked<T>>,
}

#[derive(Clone, Debug)]
struct Ranked<T>(f64, T);

impl<T: Ord + Copy> Nearest<T> {
    /// Returns none, of at most `k`.
    pub(super) fn new(k: usize) -> Self {
        Self { k, heap: BinaryHeap::with_capacity(k + 1) }
    }

    /// Takes one in if it is among the nearest.
    pub(super) fn offer(&mut self, distance: f64, id: T) {
        let ranked = Ranked(distance, id);
        if self.heap.len() < self.k {
            self.heap.push(ranked);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && ranked < *worst
        {
            *worst = ranked;
        }
    }

    /// Returns them by rising distance.
    pub(super) fn finish(self) -> impl Iterator<Item = (f64, T)> {
        self.heap.into_sorted_vec().into_iter().map(|Ranked(distance, id)| (distance, id))
    }
}

impl<T: Ord> Ord for Ranked<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        // Zero has two signs, which are no order among ties.
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0)).then_with(|| self.1.cmp(&other.1))
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
