//! Predicts bits from several contexts at once, each with its own statistics.
//!
//! Every context has an adaptive probability. Their logits are added with weights that follow the
//! gradient of the coding cost (logistic mixing, Mahoney 2005). Everything is integer arithmetic or
//! single IEEE 754 operations in a fixed order, so that all machines predict the same: the bytes that
//! come out are named by their hash.

use std::sync::LazyLock;

use super::coder::{BitCoder, ONE};

/// How many contexts predict each bit.
pub(crate) const CONTEXTS: usize = 8;

/// Logits are kept in steps of 1/256 and reach 11: a bit costs at least 1/40,000.
const LOGIT_STEPS: f32 = 256.0;
const LOGIT_MAX: usize = 11 * 256;

/// Observations after which a context's statistics become a decaying mean. Telemetry is stationary for
/// long; 255 measured one percent better than 127 and the same as 1,023.
const COUNT_MAX: u16 = 255;

/// Where every weight begins: eight contexts that agree are trusted more than one.
const WEIGHT_FIRST: f32 = 0.3;

/// How fast weights move, at first and in the long run.
const RATE_FIRST: f32 = 0.02;
const RATE_LAST: f32 = 0.002;

/// The statistics of one context.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    /// Probability of a 1, out of [`ONE`].
    p1: u16,
    count: u16,
}

/// Weights of the contexts for one kind of bit.
#[derive(Clone)]
struct Weights {
    weights: [f32; CONTEXTS],
    rate: f32,
}

/// All statistics, which begin empty.
pub(crate) struct Mixer {
    slots: Vec<Slot>,
    mask: u32,
    sets: Vec<Weights>,
}

impl Mixer {
    /// Returns a mixer with `sets` sets of weights and room for about `contexts` contexts; more of them
    /// share their statistics.
    pub(crate) fn new(sets: usize, contexts: usize) -> Self {
        let slots = contexts.next_power_of_two();
        let fresh = Weights { weights: [WEIGHT_FIRST; CONTEXTS], rate: RATE_FIRST };
        Self {
            slots: vec![Slot::FRESH; slots],
            mask: u32::try_from(slots - 1).expect("a table of contexts is far below 2^32"),
            sets: vec![fresh; sets],
        }
    }

    /// Codes a bit that the contexts with these hashes predict, and learns from it.
    pub(crate) fn code(
        &mut self,
        coder: &mut impl BitCoder,
        set: usize,
        hashes: &[u32; CONTEXTS],
        bit: bool,
    ) -> bool {
        let tables = &*TABLES;
        let at = hashes.map(|hash| (hash & self.mask) as usize);
        let logits = at.map(|at| tables.logit[usize::from(self.slots[at].p1 >> 4)]);
        let set = &mut self.sets[set];
        let products: [f32; CONTEXTS] = std::array::from_fn(|i| logits[i] * set.weights[i]);
        let [a, b, c, d, e, f, g, h] = products;
        let p1 = tables.probability(((a + b) + (c + d)) + ((e + f) + (g + h)));
        let bit = coder.code(bit, p1);
        let target = if bit { ONE } else { 0 };
        let error = (target as f32 - p1 as f32) / ONE as f32 * set.rate;
        for (weight, logit) in set.weights.iter_mut().zip(logits) {
            *weight += error * logit;
        }
        set.rate += (RATE_LAST - set.rate) / 256.0;
        for at in at {
            self.slots[at].learn(bit, tables);
        }
        bit
    }
}

impl Slot {
    /// Nothing is known.
    pub(super) const FRESH: Self = Self { p1: 1 << 15, count: 0 };

    /// Codes a bit that this context alone predicts, and learns from it.
    pub(super) fn code(&mut self, coder: &mut impl BitCoder, bit: bool) -> bool {
        let bit = coder.code(bit, u32::from(self.p1).max(1));
        self.learn(bit, &TABLES);
        bit
    }

    fn learn(&mut self, bit: bool, tables: &Tables) {
        let target = if bit { i32::from(u16::MAX) } else { 0 };
        let share = tables.share[usize::from(self.count)];
        let moved = i32::from(self.p1) + (((target - i32::from(self.p1)) * share) >> 15);
        self.p1 = u16::try_from(moved).expect("between two 16-bit numbers");
        self.count = (self.count + 1).min(COUNT_MAX);
    }
}

/// The logistic function and its inverse, and the learning rates of contexts.
struct Tables {
    /// Probability by logit, from -[`LOGIT_MAX`] to [`LOGIT_MAX`].
    probability: Vec<u16>,
    /// Logit by the upper twelve bits of a probability.
    logit: Vec<f32>,
    /// Share of the difference that one observation moves a probability by, out of 2^15.
    share: Vec<i32>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(Tables::new);

impl Tables {
    fn new() -> Self {
        // e^(1/256) to the last bit, and products of it: the mathematics library's `exp` may differ
        // between platforms, a multiplication may not.
        let step = f64::from_bits(0x3ff0_1008_02ab_5577);
        let mut power = 1.0_f64;
        let mut upper = Vec::with_capacity(LOGIT_MAX + 1);
        for _ in 0..=LOGIT_MAX {
            upper.push((f64::from(ONE) * power / (1.0 + power)) as u32);
            power *= step;
        }
        let clamped = |p1: u32| u16::try_from(p1.clamp(1, ONE - 1)).expect("clamped to 16 bits");
        let lower = upper[1..].iter().rev().map(|p1| clamped(ONE - p1));
        let probability: Vec<u16> = lower.chain(upper.iter().map(|p1| clamped(*p1))).collect();
        let logit = |index: u16| {
            let at = probability.partition_point(|p1| *p1 < index << 4 | 8);
            (at as f32 - LOGIT_MAX as f32) / LOGIT_STEPS
        };
        let logit = (0..1 << 12).map(logit).collect();
        let share = (0..=i32::from(COUNT_MAX)).map(|count| (2 << 15) / (2 * count + 3)).collect();
        Self { probability, logit, share }
    }

    /// Returns the probability of a logit, out of [`ONE`], never 0 or all of it.
    fn probability(&self, logit: f32) -> u32 {
        let at = (logit * LOGIT_STEPS).clamp(-(LOGIT_MAX as f32), LOGIT_MAX as f32);
        u32::from(self.probability[(at as i32 + LOGIT_MAX as i32) as usize])
    }
}

/// Returns a hash of context number `kind` with these parts.
pub(crate) const fn hash(kind: u32, parts: [u32; 3]) -> u32 {
    let mut hash = kind.wrapping_mul(0x9e37_79b1) ^ 0x5bd1_e995;
    let mut at = 0;
    while at < parts.len() {
        hash = (hash ^ parts[at]).wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 15;
        at += 1;
    }
    hash
}
