//! Codes a matrix of integers: time runs down, channels run across.
//!
//! A cell is coded as its difference from the cell above: whether there is one, its sign, the number of
//! its bits, and the bits. Each of these is predicted from what the channel did before and from what the
//! channels to its left, above all its *guide*, did in the same row: metrics of one machine move
//! together.

use super::{
    coder::BitCoder,
    mixing::{CONTEXTS, Mixer, hash},
};

/// Bits of a difference below the leading one that are predicted; those behind them are noise.
const BITS_PREDICTED: u32 = 12;

/// Kinds of bits, which have weights of their own in each channel.
const KINDS: usize = 4;
const CHANGE: usize = 0;
const SIGN: usize = 1;
const WIDTH: usize = 2;
const BITS: usize = 3;

/// Contexts that a cell of a large matrix brings; a table for a small one is quicker to clear.
const CONTEXTS_PER_CELL: usize = 16;
const CONTEXTS_MIN: usize = 1 << 12;
const CONTEXTS_MAX: usize = 1 << 22;

/// Codes `cells`, row-major, `guides.len()` to a row; a decoder fills them. `guides` names for each
/// channel the one on its left that moves most like it, or itself.
pub(crate) fn code(coder: &mut impl BitCoder, guides: &[u16], cells: &mut [i32]) {
    let channels = guides.len();
    let room = (cells.len() * CONTEXTS_PER_CELL).clamp(CONTEXTS_MIN, CONTEXTS_MAX);
    let mut mixer = Mixer::new(channels * KINDS, room);
    let mut states = vec![Channel::default(); channels];
    for row in cells.chunks_exact_mut(channels.max(1)) {
        let mut moved = Moved::default();
        for (at, cell) in row.iter_mut().enumerate() {
            let guide = &states[usize::from(guides[at])];
            let guide =
                if usize::from(guides[at]) == at { Guide::default() } else { guide.guide() };
            let state = &states[at];
            let place = Place { at, state, guide, moved };
            let step = place.code(&mut mixer, coder, cell.wrapping_sub(state.value));
            *cell = state.value.wrapping_add(step);
            states[at].learn(step);
            moved.learn(step);
        }
    }
}

/// What a channel did so far.
#[derive(Clone, Default)]
struct Channel {
    value: i32,
    before: i32,
    /// The latest step that was not zero.
    step: i32,
    /// The latest step, zero or not.
    step_now: i32,
    /// One bit per row, the newest lowest: whether there was a step.
    changes: u32,
    /// Rows since the latest step.
    run: u32,
    /// Slow mean of the values, times 16.
    level: i64,
    /// Mean bit width of the steps, times 16.
    width: u32,
}

/// What the guide did in this row.
#[derive(Clone, Copy, Default)]
struct Guide {
    value: i32,
    step: i32,
}

/// How many channels moved in this row so far.
#[derive(Clone, Copy, Default)]
struct Moved {
    seen: u32,
    moved: u32,
    latest: u32,
}

impl Channel {
    fn guide(&self) -> Guide {
        Guide { value: self.value, step: self.step_now }
    }

    fn learn(&mut self, step: i32) {
        self.before = self.value;
        self.value = self.value.wrapping_add(step);
        self.step_now = step;
        self.changes = self.changes << 1 | u32::from(step != 0);
        self.run = self.run.saturating_add(1);
        if step != 0 {
            self.step = step;
            self.run = 0;
            let width = width_of(step) << 4;
            self.width = (self.width * 7 + width) / 8;
        }
        self.level += (i64::from(self.value) * 16 - self.level) / 16;
    }

    /// Returns how far the value is above its slow mean.
    fn offset(&self) -> i64 {
        i64::from(self.value) - self.level / 16
    }
}

impl Moved {
    fn learn(&mut self, step: i32) {
        self.seen += 1;
        self.moved += u32::from(step != 0);
        self.latest = self.latest << 1 | u32::from(step != 0);
    }

    /// Returns the share that moved, in eighths.
    fn share(self) -> u32 {
        (self.moved * 8).checked_div(self.seen).unwrap_or(0)
    }
}

/// A cell and everything that predicts it.
struct Place<'a> {
    at: usize,
    state: &'a Channel,
    guide: Guide,
    moved: Moved,
}

impl Place<'_> {
    fn code(&self, mixer: &mut Mixer, coder: &mut impl BitCoder, step: i32) -> i32 {
        let set = self.at * KINDS;
        if !mixer.code(coder, set + CHANGE, &self.change_contexts(), step != 0) {
            return 0;
        }
        let contexts = self.step_contexts();
        let mut path = Path::new(&contexts);
        let mut bit = |kind: usize, bit: bool| {
            let bit = mixer.code(coder, set + kind, &path.hashes(), bit);
            path.walk(bit);
            bit
        };
        let negative = bit(SIGN, step < 0);
        let size = step.unsigned_abs();
        let mut width = 0;
        for at in (0..5).rev() {
            let upper = bit(WIDTH, (size.max(1).ilog2()) >> at & 1 == 1);
            width = width << 1 | u32::from(upper);
        }
        let predicted = width.min(BITS_PREDICTED);
        let plain = width - predicted;
        let mut size_read = 1;
        for at in (plain..width).rev() {
            size_read = size_read << 1 | u32::from(bit(BITS, size >> at & 1 == 1));
        }
        if plain > 0 {
            let low = coder.code_plain(size & ((1 << plain) - 1), plain);
            size_read = size_read << plain | low;
        }
        let step = size_read.cast_signed();
        if negative { step.wrapping_neg() } else { step }
    }

    fn change_contexts(&self) -> [u32; CONTEXTS] {
        let Self { state, guide, moved, .. } = self;
        let at = self.at as u32;
        let guided = signed_width(i64::from(guide.step));
        let run = state.run.min(15) + if state.run > 15 { state.run.ilog2() } else { 0 };
        [
            hash(0, [at, run, state.changes & 0xf]),
            hash(1, [at, state.changes & 0x3ff, 0]),
            hash(2, [at, state.value as u32, 0]),
            hash(3, [at, state.value as u32, state.before as u32]),
            hash(4, [at, moved.latest & 0x1f, moved.share()]),
            hash(5, [at, guided, state.changes & 3]),
            hash(6, [at, state.value as u32, guide.value as u32]),
            hash(7, [state.changes & 0x3f, moved.share(), run]),
        ]
    }

    fn step_contexts(&self) -> [u32; CONTEXTS] {
        let Self { state, guide, .. } = self;
        let at = self.at as u32;
        [
            hash(8, [at, state.width >> 3, 0]),
            hash(9, [at, state.value as u32, 0]),
            hash(10, [at, state.value as u32, state.before as u32]),
            hash(11, [at, state.step as u32, 0]),
            hash(12, [at, guide.step as u32, 0]),
            hash(13, [at, guide.value as u32, state.value as u32]),
            hash(14, [at, signed_width(state.offset()), signed_width(i64::from(guide.step))]),
            hash(15, [state.width >> 2, signed_width(state.offset()), 0]),
        ]
    }
}

/// The way through the bits of one step: a binary tree in each context, of which four levels at a time
/// lie beside each other, so that they share a line of the processor's cache.
struct Path<'a> {
    contexts: &'a [u32; CONTEXTS],
    /// All bits so far behind a leading 1.
    node: u32,
    /// The bits since the last four levels began, behind a leading 1.
    near: u32,
    bases: [u32; CONTEXTS],
}

impl<'a> Path<'a> {
    fn new(contexts: &'a [u32; CONTEXTS]) -> Self {
        let mut path = Self { contexts, node: 1, near: 1, bases: [0; CONTEXTS] };
        path.jump();
        path
    }

    fn hashes(&self) -> [u32; CONTEXTS] {
        self.bases.map(|base| base | self.near)
    }

    fn walk(&mut self, bit: bool) {
        self.node = self.node << 1 | u32::from(bit);
        self.near = self.near << 1 | u32::from(bit);
        if self.near > 0xf {
            self.near = 1;
            self.jump();
        }
    }

    /// Finds the place of the next four levels in every context.
    fn jump(&mut self) {
        let node = self.node.wrapping_mul(0x9e37_79b1);
        self.bases = self.contexts.map(|context| {
            let mixed = (context ^ node).wrapping_mul(0x85eb_ca6b);
            (mixed ^ mixed >> 15) & !0xf
        });
    }
}

const fn width_of(step: i32) -> u32 {
    32 - step.unsigned_abs().leading_zeros()
}

/// Returns the sign and twice the base-two logarithm of `value`, roughly, as one small number.
fn signed_width(value: i64) -> u32 {
    let size = value.unsigned_abs();
    if size == 0 {
        return 0;
    }
    let width = size.ilog2();
    let half = if width > 0 { (size >> (width - 1) & 1) as u32 } else { 0 };
    (width * 2 + half + 1) << 1 | u32::from(value < 0)
}
