//! What is to happen, in order of time, and of one moment in the order in which it was planned.
//!
//! Millions of messages wait here, nearly all for less than some seconds. So the next moments are slots in a ring, and
//! only what is further off stands in a tree.

use std::collections::{BTreeMap, VecDeque};

/// Milliseconds in the ring: nearly every message is on its way for less.
const RING_MS: usize = 1 << 12;

/// The queue.
#[derive(Debug)]
pub(super) struct Queue<T> {
    now_ms: u64,
    ring: Vec<VecDeque<T>>,
    /// What was planned when it was further off than the ring reaches: before all that the ring holds of its moment.
    far: BTreeMap<u64, VecDeque<T>>,
    in_ring: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        let ring = (0..RING_MS).map(|_| VecDeque::new()).collect();
        Self { now_ms: 0, ring, far: BTreeMap::new(), in_ring: 0 }
    }
}

impl<T> Queue<T> {
    /// Plans something. What should have happened already happens next.
    pub(super) fn push(&mut self, at_ms: u64, what: T) {
        let at_ms = at_ms.max(self.now_ms);
        if at_ms - self.now_ms < RING_MS as u64 {
            self.ring[slot(at_ms)].push_back(what);
            self.in_ring += 1;
        } else {
            self.far.entry(at_ms).or_default().push_back(what);
        }
    }

    /// Returns what happens next, and when.
    pub(super) fn pop(&mut self) -> Option<(u64, T)> {
        loop {
            if let Some(mut moment) = self.far.first_entry().filter(|far| *far.key() == self.now_ms)
            {
                let what = moment.get_mut().pop_front();
                if moment.get().is_empty() {
                    moment.remove();
                }
                return what.map(|what| (self.now_ms, what));
            }
            let here = &mut self.ring[slot(self.now_ms)];
            if let Some(what) = here.pop_front() {
                self.in_ring -= 1;
                return Some((self.now_ms, what));
            }
            // A burst leaves room behind that the next one takes elsewhere.
            here.shrink_to(64);
            self.now_ms = match self.far.first_key_value() {
                Some((far_ms, _)) if self.in_ring == 0 => *far_ms,
                None if self.in_ring == 0 => return None,
                _ => self.now_ms + 1,
            };
        }
    }
}

fn slot(at_ms: u64) -> usize {
    at_ms as usize % RING_MS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Each event plans others, near and far, as they are in a run.
        #[test]
        fn it_is_a_list_sorted_by_time_and_then_by_the_order_of_planning(
            first in prop::collection::vec(0_u64..20_000, 1..40),
            later in prop::collection::vec(prop::collection::vec(0_u64..9_000, 0..4), 0..80),
        ) {
            let mut queue = Queue::default();
            let mut model = BTreeMap::new();
            let mut number = 0_u64;
            let mut plan = |queue: &mut Queue<u64>, model: &mut BTreeMap<(u64, u64), ()>, at_ms: u64| {
                number += 1;
                queue.push(at_ms, number);
                model.insert((at_ms, number), ());
            };
            for at_ms in first {
                plan(&mut queue, &mut model, at_ms);
            }
            let mut later = later.into_iter();
            while let Some((at_ms, number)) = queue.pop() {
                let ((expected_ms, expected), ()) = model.pop_first().expect("as many");
                prop_assert_eq!((at_ms, number), (expected_ms, expected));
                for delay_ms in later.next().unwrap_or_default() {
                    plan(&mut queue, &mut model, at_ms + delay_ms);
                }
            }
            prop_assert!(model.is_empty());
        }
    }
}
