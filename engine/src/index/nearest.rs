//! The `k` nearest so far.

/// How many more than `k` are kept before the farthest go: as many as `k`, and at least these.
const MORE_MIN: usize = 32;

/// The `k` with the smallest distances, ties by the smallest id.
#[derive(Clone, Debug)]
pub(super) struct Nearest<T> {
    k: usize,
    /// The `k` nearest so far are among them.
    kept: Vec<Ranked<T>>,
    /// What is not before this is none of the nearest.
    worst: Option<Ranked<T>>,
}

/// The bits of a distance, ordered as distances are, and an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ranked<T>(i64, T);

impl<T: Ord + Copy> Nearest<T> {
    /// Returns none, of at most `k`.
    pub(super) fn new(k: usize) -> Self {
        Self { k, kept: Vec::with_capacity(k + k.max(MORE_MIN)), worst: None }
    }

    /// Takes one in if it is among the nearest.
    #[inline]
    pub(super) fn offer(&mut self, distance: f64, id: T) {
        let ranked = Ranked(ordered(distance), id);
        if self.worst.is_none_or(|worst| ranked < worst) {
            self.kept.push(ranked);
            if self.kept.len() >= self.k + self.k.max(MORE_MIN) {
                self.tidy();
            }
        }
    }

    /// Returns them by rising distance.
    pub(super) fn finish(mut self) -> impl Iterator<Item = (f64, T)> {
        self.kept.sort_unstable();
        self.kept.truncate(self.k);
        self.kept.into_iter().map(|Ranked(order, id)| (distance_of(order), id))
    }

    fn tidy(&mut self) {
        if let Some(last) = self.k.checked_sub(1) {
            self.worst = Some(*self.kept.select_nth_unstable(last).1);
        }
        self.kept.truncate(self.k);
    }
}

/// Returns bits that are ordered as distances are. Zero has two signs, which are no order among ties.
const fn ordered(distance: f64) -> i64 {
    let bits = (distance + 0.0).to_bits().cast_signed();
    // Of two negative numbers that with the larger bits is the smaller one.
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

const fn distance_of(order: i64) -> f64 {
    f64::from_bits((order ^ ((order >> 63).cast_unsigned() >> 1).cast_signed()).cast_unsigned())
}
