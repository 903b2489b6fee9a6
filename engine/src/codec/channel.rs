//! What the integers of one channel stand for.
//!
//! Telemetry is rarely as fine as the floats that carry it. Counters and percentages have a few decimal
//! digits; values that someone scaled to a range of 0 to 1 are j / n for a whole number n, which few
//! values suffice to find. Where the finest of these leaves a channel sparse, a dictionary of the values
//! that occur is cheaper. What is none of this is coded by its bits.

use std::collections::BTreeSet;

use super::{coder::BitCoder, levels, numbers::Numbers};

/// Most decimal digits that are tried: a float has no more that would be shorter than its bits.
const DIGITS_MAX: u32 = 7;

/// Largest whole number that a range may be divided into.
const GRID_MAX: i64 = 1 << 17;

/// How many divisions of a range are tried for each value of a channel: short blocks are made by the
/// thousand, and the search must not take longer than the coder.
const GRID_TRIES_PER_VALUE: i64 = 64;

/// Bits by which a dictionary must pay off for each value: what the coder learns without one.
const DICTIONARY_GAIN: u64 = 4;

/// How to read the integers of one channel.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Channel {
    meaning: Meaning,
    /// The integers that occur, rising; then cells are indices into them.
    dictionary: Option<Vec<i32>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Meaning {
    /// All values are this one, given by its bits.
    Constant(u32),
    /// An integer over a power of ten.
    Decimal { digits: u32 },
    /// A fraction `integer / grid`, rounded to decimal digits.
    Grid { digits: u32, grid: i64 },
    /// The bits of a float, so that integers rise with the values.
    Bits,
    /// A level of bounded error.
    Levels(levels::Scale),
}

impl Channel {
    /// Returns the shortest description of a column, and its integers: its levels where it was given some.
    pub(super) fn of(
        column: &[f32],
        leveled: Option<(levels::Scale, Vec<i32>)>,
    ) -> (Self, Vec<i32>) {
        let plain = |meaning| Self { meaning, dictionary: None };
        if column.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits()) {
            let bits = column.first().map_or(0, |value| value.to_bits());
            return (plain(Meaning::Constant(bits)), Vec::new());
        }
        if let Some((scale, cells)) = leveled {
            let channel = plain(Meaning::Levels(scale));
            if cells.windows(2).all(|pair| pair[0] == pair[1]) {
                let level = channel.value(cells[0]).unwrap_or(0.0);
                return (plain(Meaning::Constant(level.to_bits())), Vec::new());
            }
            return (channel, cells);
        }
        let (meaning, mut cells) = exact(column);
        let distinct: BTreeSet<i32> = cells.iter().copied().collect();
        let dictionary = dictionary(&distinct, &cells);
        if let Some(values) = &dictionary {
            for cell in &mut cells {
                *cell = values.partition_point(|value| value < cell) as i32;
            }
        }
        (Self { meaning, dictionary }, cells)
    }

    /// Returns a channel that a decoder fills.
    pub(super) const fn unknown() -> Self {
        Self { meaning: Meaning::Bits, dictionary: None }
    }

    /// Returns whether all values are the same, so that there are no cells.
    pub(super) const fn is_constant(&self) -> bool {
        matches!(self.meaning, Meaning::Constant(_))
    }

    /// Returns the value of a cell, when it has one.
    pub(super) fn value(&self, cell: i32) -> Option<f32> {
        let cell = match &self.dictionary {
            Some(values) => *values.get(usize::try_from(cell).ok()?)?,
            None => cell,
        };
        Some(match self.meaning {
            Meaning::Constant(bits) => f32::from_bits(bits),
            Meaning::Decimal { digits } => decimal(i64::from(cell), digits),
            Meaning::Grid { digits, grid } => {
                decimal(on_grid(i64::from(cell), digits, grid), digits)
            }
            Meaning::Bits => f32::from_bits(ordered(cell)),
            Meaning::Levels(scale) => scale.value(cell),
        })
    }
}

/// Returns the coarsest reading under which a column's values are integers, and those.
fn exact(column: &[f32]) -> (Meaning, Vec<i32>) {
    let bits =
        || column.iter().map(|value| ordered(value.to_bits().cast_signed()) as i32).collect();
    let Some((digits, cells)) = decimal_digits(column) else {
        return (Meaning::Bits, bits());
    };
    match grid_of(&cells, digits) {
        None => (Meaning::Decimal { digits }, cells),
        Some(grid) => {
            let cells = cells.iter().map(|cell| nearest_on_grid(i64::from(*cell), digits, grid));
            (Meaning::Grid { digits, grid }, cells.map(|cell| cell as i32).collect())
        }
    }
}

/// Returns the fewest decimal digits that tell a column's values exactly, and its integers.
fn decimal_digits(column: &[f32]) -> Option<(u32, Vec<i32>)> {
    (0..=DIGITS_MAX).find_map(|digits| Some((digits, decimals(column, digits)?)))
}

/// Returns the column as integers over a power of ten, when that is exact for every bit.
fn decimals(column: &[f32], digits: u32) -> Option<Vec<i32>> {
    let scale = 10_i64.pow(digits) as f64;
    let cell = |value: &f32| {
        // The conversion saturates, and the comparison finds out.
        let cell = (f64::from(*value) * scale).round() as i32;
        (decimal(i64::from(cell), digits).to_bits() == value.to_bits()).then_some(cell)
    };
    column.iter().map(cell).collect()
}

fn decimal(cell: i64, digits: u32) -> f32 {
    (cell as f64 / 10_i64.pow(digits) as f64) as f32
}

/// Returns the smallest whole number that a range of 1 was divided into, if that leaves fewer integers.
fn grid_of(cells: &[i32], digits: u32) -> Option<i64> {
    let distinct: BTreeSet<i32> = cells.iter().copied().collect();
    let (lowest, highest) = (*distinct.first()?, *distinct.last()?);
    let power = 10_i64.pow(digits);
    if lowest < 0 || i64::from(highest) > power {
        return None;
    }
    let tries = (cells.len() as i64 * GRID_TRIES_PER_VALUE).min(GRID_MAX).min(power / 2);
    let fits = |grid: &i64| {
        let fits = |cell: &i32| {
            let cell = i64::from(*cell);
            on_grid(nearest_on_grid(cell, digits, *grid), digits, *grid) == cell
        };
        distinct.iter().all(fits)
    };
    (1..=tries).find(fits)
}

/// Returns `cell / grid` in decimal digits, rounded half up.
fn on_grid(cell: i64, digits: u32, grid: i64) -> i64 {
    (2 * cell * 10_i64.pow(digits) + grid).div_euclid(2 * grid)
}

fn nearest_on_grid(decimal: i64, digits: u32, grid: i64) -> i64 {
    let power = 10_i64.pow(digits);
    (2 * decimal * grid + power).div_euclid(2 * power)
}

/// Maps the bits of a float to an integer that rises with it, and back.
const fn ordered(bits: i32) -> u32 {
    (if bits < 0 { bits ^ 0x7fff_ffff } else { bits }).cast_unsigned()
}

/// Returns the distinct integers when coding them once saves more than it costs.
fn dictionary(distinct: &BTreeSet<i32>, cells: &[i32]) -> Option<Vec<i32>> {
    let (first, last) = (*distinct.first()?, *distinct.last()?);
    let width = i64::from(last) - i64::from(first) + 1;
    let gap_bits = u64::from((width / distinct.len() as i64).max(1).ilog2());
    let changes = cells.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64;
    let cost = distinct.len() as u64 * (gap_bits + 2);
    (gap_bits > 0 && changes * gap_bits > cost * DICTIONARY_GAIN)
        .then(|| distinct.iter().copied().collect())
}

/// Kinds of numbers in a description.
const KIND: usize = 0;
const DIGITS: usize = 1;
const GRID: usize = 2;
const VALUE: usize = 3;
const DICTIONARY: usize = 4;
const GAP: usize = 5;
const SCALE: usize = 6;
const KINDS: usize = 7;

/// Codes descriptions of channels one after the other; they are often alike.
pub(super) struct ChannelCoder {
    numbers: Numbers,
    error_max: u32,
}

impl ChannelCoder {
    pub(super) fn new() -> Self {
        Self { numbers: Numbers::new(KINDS), error_max: 0 }
    }

    /// Codes a description, which a decoder fills; a dictionary has at most `count` entries.
    pub(super) fn code(&mut self, coder: &mut impl BitCoder, channel: &mut Channel, count: usize) {
        let kind = match channel.meaning {
            Meaning::Constant(_) => 0,
            Meaning::Decimal { .. } => 1,
            Meaning::Grid { .. } => 2,
            Meaning::Bits => 3,
            Meaning::Levels(_) => 4,
        };
        channel.meaning = match (self.numbers.code(coder, KIND, kind), channel.meaning) {
            (0, meaning) => {
                let bits = if let Meaning::Constant(bits) = meaning { bits } else { 0 };
                Meaning::Constant(self.numbers.code(coder, VALUE, u64::from(bits)) as u32)
            }
            (1, meaning) => Meaning::Decimal { digits: self.code_digits(coder, meaning) },
            (2, meaning) => {
                let digits = self.code_digits(coder, meaning);
                let grid = if let Meaning::Grid { grid, .. } = meaning { grid } else { 1 };
                let grid = self.numbers.code(coder, GRID, grid.cast_unsigned());
                Meaning::Grid { digits, grid: grid.clamp(1, GRID_MAX as u64).cast_signed() }
            }
            (3, _) => Meaning::Bits,
            (_, meaning) => Meaning::Levels(self.code_scale(coder, meaning)),
        };
        if !matches!(channel.meaning, Meaning::Constant(_) | Meaning::Levels(_)) {
            self.code_dictionary(coder, &mut channel.dictionary, count);
        }
    }

    fn code_digits(&mut self, coder: &mut impl BitCoder, meaning: Meaning) -> u32 {
        let digits = match meaning {
            Meaning::Decimal { digits } | Meaning::Grid { digits, .. } => digits,
            _ => 0,
        };
        let digits = self.numbers.code(coder, DIGITS, u64::from(digits));
        digits.min(u64::from(DIGITS_MAX)) as u32
    }

    fn code_scale(&mut self, coder: &mut impl BitCoder, meaning: Meaning) -> levels::Scale {
        let scale = if let Meaning::Levels(scale) = meaning { scale } else { levels::Scale::NONE };
        // Channels mostly share their error, so it is coded as a change of the one before.
        let changed = u64::from(scale.error_max.to_bits() ^ self.error_max);
        self.error_max ^= self.numbers.code(coder, VALUE, changed) as u32;
        let divisor = self.numbers.code(coder, SCALE, u64::from(scale.divisor));
        let divisor = divisor.clamp(1, u64::from(levels::DIVISOR_MAX)) as u32;
        levels::Scale { error_max: f32::from_bits(self.error_max), divisor }
    }

    fn code_dictionary(
        &mut self,
        coder: &mut impl BitCoder,
        dictionary: &mut Option<Vec<i32>>,
        count: usize,
    ) {
        let mut values = dictionary.take().unwrap_or_default();
        let len = self.numbers.code(coder, DICTIONARY, values.len() as u64).min(count as u64);
        values.resize(len as usize, 0);
        let mut before = 0_i64;
        for (index, value) in values.iter_mut().enumerate() {
            if coder.is_exhausted() {
                break;
            }
            let kind = if index == 0 { VALUE } else { GAP };
            before = before.wrapping_add(self.numbers.code_signed(
                coder,
                kind,
                i64::from(*value) - before,
            ));
            // What does not fit 32 bits was never written; it becomes some value.
            *value = before as i32;
            before = i64::from(*value);
        }
        *dictionary = (len > 0).then_some(values);
    }
}
