//! Rows of codes of a byte a value, and queries that are compared with them.
//!
//! A row is some cache lines: one unsigned byte for each dimension, then in the last eight bytes its
//! scale and its bias. A value is `(byte - 128) * scale`; the scale is the row's own, so an outlier
//! costs itself precision and no other. The score of a row for a query is
//! `weight * bias - 2 * dot`, which ranks rows as the distance does (`space.rs`). The query's bytes over
//! the scale and the bias are zero, so dot products run over whole lines.

use crate::simd::{self, LINE_BYTES, Level, Line};

/// Bytes of a row that are not codes: scale and bias.
const TAIL_BYTES: usize = 8;

/// What a code has for zero.
const ZERO: i32 = 128;

/// Quantized rows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ByteCodes {
    lines: usize,
    store: Vec<Line>,
}

/// A query in the form that codes are compared with.
#[derive(Clone, Debug)]
pub(super) struct ByteQuery {
    lines: Vec<Line>,
    /// Twice the query's scale.
    scale: f32,
    /// What the dot product has too much because zero is not zero in codes.
    offset: i32,
    /// How much a row's bias counts.
    weight: f32,
}

/// Returns how many lines a row of `dim` values takes.
pub(super) const fn lines_for(dim: usize) -> usize {
    (dim + TAIL_BYTES).div_ceil(LINE_BYTES)
}

/// Returns how many values fit a row of `lines`.
pub(super) const fn dim_for(lines: usize) -> usize {
    lines * LINE_BYTES - TAIL_BYTES
}

impl ByteCodes {
    /// Returns no rows, of `dim` values.
    pub(super) fn new(dim: usize, capacity: usize) -> Self {
        let lines = lines_for(dim);
        Self { lines, store: simd::roomy(lines * capacity) }
    }

    /// Returns the rows that `store` holds, `lines` each.
    pub(super) const fn from_lines(lines: usize, store: Vec<Line>) -> Self {
        Self { lines, store }
    }

    /// Returns some of the rows, as rows of their own.
    pub(super) fn of_rows(&self, rows: &[u32]) -> Self {
        let row = |row: &u32| &self.store[*row as usize * self.lines..][..self.lines];
        Self { lines: self.lines, store: rows.iter().flat_map(row).copied().collect() }
    }

    /// Appends a row.
    pub(super) fn push(&mut self, values: &[f32], bias: f32) {
        let start = self.store.len();
        self.store.resize(start + self.lines, Line([ZERO as u8; LINE_BYTES]));
        let row = &mut self.store[start..];
        let (scale, inverse) = scale_of(values);
        for (index, value) in values.iter().enumerate() {
            let code = quantized(*value, inverse) + ZERO;
            row[index / LINE_BYTES].0[index % LINE_BYTES] = code as u8;
        }
        let tail = &mut row[self.lines - 1].0[LINE_BYTES - TAIL_BYTES..];
        tail[..4].copy_from_slice(&scale.to_le_bytes());
        tail[4..].copy_from_slice(&bias.to_le_bytes());
    }

    /// Returns how many rows there are.
    pub(super) fn count(&self) -> usize {
        self.store.len() / self.lines
    }

    /// Returns all rows, one after the other.
    pub(super) fn lines(&self) -> &[Line] {
        &self.store
    }

    /// Returns the scale and the bias of a row.
    #[inline(always)]
    pub(super) fn tail(&self, row: u32) -> (f32, f32) {
        let line = &self.store[(row as usize + 1) * self.lines - 1].0;
        let [.., a, b, c, d, e, f, g, h] = *line;
        (f32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h]))
    }

    /// Returns the largest bias of a row.
    pub(super) fn reach(&self) -> f32 {
        (0..self.count() as u32).map(|row| self.tail(row).1).fold(0.0, f32::max)
    }

    /// Returns how many bytes of memory the rows take.
    pub(super) const fn byte_count(&self) -> usize {
        self.store.len() * LINE_BYTES
    }

    /// Asks for a row to be brought near.
    #[inline(always)]
    pub(super) fn prefetch(&self, row: u32) {
        for line in &self.store[row as usize * self.lines..][..self.lines] {
            simd::prefetch(line);
        }
    }

    /// Returns a row as a query, for the distances between rows, and its bias.
    pub(super) fn as_query(&self, row: u32) -> (ByteQuery, f32) {
        let (scale, bias) = self.tail(row);
        let mut lines = self.store[row as usize * self.lines..][..self.lines].to_vec();
        lines[self.lines - 1].0[LINE_BYTES - TAIL_BYTES..].fill(ZERO as u8);
        let mut sum = 0;
        for line in &mut lines {
            for byte in &mut line.0 {
                // Unsigned with zero at 128 becomes signed when the highest bit is turned.
                *byte ^= ZERO as u8;
                sum += i32::from(byte.cast_signed());
            }
        }
        (ByteQuery { lines, scale: 2.0 * scale, offset: ZERO * sum, weight: 1.0 }, bias)
    }

    /// Replaces `scores` with the scores of `rows` for `query`; small is near. `dots` has no meaning between uses.
    pub(super) fn scores(
        &self,
        level: Level,
        query: &ByteQuery,
        rows: &[u32],
        dots: &mut Vec<i32>,
        scores: &mut Vec<f32>,
    ) {
        dots.resize(rows.len().max(dots.len()), 0);
        simd::dots(level, &self.store, &query.lines, rows, dots);
        scores.clear();
        scores.extend(rows.iter().zip(&*dots).map(|(row, dot)| {
            let (scale, bias) = self.tail(*row);
            query.weight * bias - query.scale * scale * (dot - query.offset) as f32
        }));
    }
}

impl ByteQuery {
    /// Returns the code of a query for rows of as many values. The bias of rows counts `weight` times.
    pub(super) fn new(values: &[f32], weight: f32) -> Self {
        let mut lines = vec![Line([0; LINE_BYTES]); lines_for(values.len())];
        let (scale, inverse) = scale_of(values);
        let mut sum = 0;
        for (index, value) in values.iter().enumerate() {
            let code = quantized(*value, inverse);
            sum += code;
            lines[index / LINE_BYTES].0[index % LINE_BYTES] = code as u8;
        }
        Self { lines, scale: 2.0 * scale, offset: ZERO * sum, weight }
    }
}

/// Returns the step between codes, so that the largest value has the largest code, and its inverse.
fn scale_of(values: &[f32]) -> (f32, f32) {
    let largest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    if largest > f32::MIN_POSITIVE * 127.0 {
        (largest / 127.0, 127.0 / largest)
    } else {
        (0.0, 0.0)
    }
}

/// Returns the code nearest to a value, from -127 to 127.
fn quantized(value: f32, inverse: f32) -> i32 {
    // Cut off above zero, which rounds to the nearest and needs no function call.
    ((value * inverse + 128.5) as i32 - ZERO).clamp(-127, 127)
}
