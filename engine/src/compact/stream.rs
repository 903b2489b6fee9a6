//! An outline as bytes. `docs/formats/outline.md` is the format.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use dunlin_wire::{Cid, block::Codec};

use super::{CELLS_MAX, Flag, Outline, PIECES_MAX, Piece, VERSION, VERSION_KEEPING};
use crate::{
    codec::{
        coder::{BitCoder, Decoder, Encoder},
        guides, matrix,
        numbers::Numbers,
    },
    collection::{CollectionName, Dim, Fidelity},
    observation::{EntityId, Timestamp},
    segment::{DecodeError, PAYLOAD_LINKS_MAX, fidelity_code, fidelity_of, metric_code, metric_of},
};

/// Levels are integers of at most this size, which a float times its step tells apart.
pub(super) const LEVEL_MAX: i32 = 1 << 22;

/// The octave of no spread.
pub(super) const OCTAVE_NONE: i32 = -150;

/// Bits of a drift that are kept: exponent and three bits behind the leading one.
const DRIFT_SHIFT: u32 = 20;

/// Kinds of numbers.
const UNIT: usize = 0;
const GAP: usize = 1;
const LENGTH: usize = 2;
const COUNT: usize = 3;
const FLAG_PIECE: usize = 4;
const FLAG_TIME: usize = 5;
const FLAG_DRIFT: usize = 6;
const STEP: usize = 7;
const GUIDE: usize = 8;
const KINDS: usize = 9;

/// The list as it is encoded; the order of its items is the format.
#[derive(Serialize, Deserialize)]
pub(super) struct Encoded(u8, String, String, u16, u8, u32, u32, ByteBuf);

/// The same where observations are kept: with the fidelity, and links to them.
#[derive(Serialize, Deserialize)]
pub(super) struct EncodedKeeping(u8, String, String, u16, u8, u32, u32, ByteBuf, u8, Vec<Cid>);

/// The first byte of a list of ten items in canonical CBOR.
pub(super) const KEEPING_HEAD: u8 = 0x8a;

/// Returns the mean of a level.
pub(super) fn mean_of(step: f32, level: i32) -> f32 {
    (f64::from(step) * f64::from(level)).clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}

/// Returns the power of two nearest to a spread on a logarithmic scale.
pub(super) fn octave_of(spread: f32) -> i32 {
    if spread <= 0.0 {
        return OCTAVE_NONE;
    }
    let bits = f64::from(spread).to_bits();
    let exponent = ((bits >> 52) & 0x7ff) as i32 - 1023;
    // The mantissa of the square root of two.
    let upper = bits & ((1 << 52) - 1) >= 0x6_a09e_667f_3bcd;
    exponent + i32::from(upper)
}

/// Returns the spread of an octave, 0 for none.
pub(super) fn spread_of(octave: i32) -> f32 {
    if octave <= OCTAVE_NONE {
        return 0.0;
    }
    f64::from_bits(u64::from((octave.clamp(-149, 127) + 1023).unsigned_abs()) << 52) as f32
}

/// Returns a drift as it is kept.
pub(super) fn kept_drift(drift: f32) -> f32 {
    f32::from_bits(drift.to_bits() >> DRIFT_SHIFT << DRIFT_SHIFT)
}

pub(super) fn encode(outline: &Outline) -> Encoded {
    let dim = outline.steps.len();
    let mut coder = Encoder::new(Vec::new());
    let mut plain = Plain::of(outline);
    plain.code(&mut coder);
    let cells = |of: &dyn Fn(&Piece, usize) -> i32| -> Vec<i32> {
        let row = |piece| (0..dim).map(move |at| of(piece, at));
        outline.pieces.iter().flat_map(row).collect()
    };
    let level = |piece: &Piece, at: usize| {
        (f64::from(piece.mean[at]) / f64::from(outline.steps[at])).round() as i32
    };
    let mut levels = cells(&level);
    matrix::code(&mut coder, &plain.guides, &mut levels);
    let mut octaves = cells(&|piece, at| octave_of(piece.spread[at]));
    matrix::code(&mut coder, &plain.guides, &mut octaves);
    Encoded(
        VERSION,
        outline.collection.as_str().to_owned(),
        outline.entity.as_str().to_owned(),
        dim as u16,
        metric_code(outline.metric),
        outline.pieces.len() as u32,
        outline.flags.len() as u32,
        ByteBuf::from(coder.finish()),
    )
}

pub(super) fn encode_keeping(outline: &Outline) -> EncodedKeeping {
    let Encoded(_, collection, entity, dim, metric, pieces, flags, stream) = encode(outline);
    let fidelity = fidelity_code(outline.fidelity);
    let payload = outline.payload.clone();
    EncodedKeeping(
        VERSION_KEEPING,
        collection,
        entity,
        dim,
        metric,
        pieces,
        flags,
        stream,
        fidelity,
        payload,
    )
}

pub(super) fn decode_keeping(encoded: EncodedKeeping) -> Result<Outline, DecodeError> {
    let EncodedKeeping(
        version,
        collection,
        entity,
        dim,
        metric,
        pieces,
        flags,
        stream,
        code,
        payload,
    ) = encoded;
    if version != VERSION_KEEPING {
        return Err(DecodeError::Version { version });
    }
    let fidelity = fidelity_of(code).filter(|fidelity| *fidelity != Fidelity::Summary);
    let fidelity = fidelity.ok_or(DecodeError::Invalid { what: "fidelity" })?;
    let raw = payload.iter().all(|cid| Codec::of(cid) == Some(Codec::Raw));
    if !raw || !(1..=PAYLOAD_LINKS_MAX).contains(&payload.len()) {
        return Err(DecodeError::Invalid { what: "links" });
    }
    let plain = Encoded(VERSION, collection, entity, dim, metric, pieces, flags, stream);
    Ok(Outline { fidelity, payload, ..decode(plain)? })
}

pub(super) fn decode(encoded: Encoded) -> Result<Outline, DecodeError> {
    let Encoded(version, collection, entity, dim, metric, pieces, flags, stream) = encoded;
    if version != VERSION {
        return Err(DecodeError::Version { version });
    }
    let invalid = |what| DecodeError::Invalid { what };
    let dim = Dim::new(dim)?.get();
    let (pieces, flags) = (pieces as usize, flags as usize);
    if pieces == 0 || pieces > PIECES_MAX || pieces * dim > CELLS_MAX {
        return Err(invalid("number of pieces"));
    }
    if flags > PIECES_MAX {
        return Err(invalid("number of flags"));
    }
    let mut coder = Decoder::new(&stream);
    let mut plain = Plain::unknown(dim, pieces, flags);
    plain.code(&mut coder);
    let mut levels = vec![0; pieces * dim];
    matrix::code(&mut coder, &plain.guides, &mut levels);
    let mut octaves = vec![0; pieces * dim];
    matrix::code(&mut coder, &plain.guides, &mut octaves);
    if coder.is_exhausted() {
        return Err(invalid("length"));
    }
    if !plain.steps.iter().all(|step| step.is_finite() && *step > 0.0) {
        return Err(invalid("steps"));
    }
    let rows = levels.chunks_exact(dim).zip(octaves.chunks_exact(dim));
    let pieces = plain.spans.iter().zip(rows).map(|(span, (levels, octaves))| Piece {
        start: Timestamp(span.start),
        end: Timestamp(span.end),
        count: span.count,
        mean: levels.iter().zip(&plain.steps).map(|(level, step)| mean_of(*step, *level)).collect(),
        spread: octaves.iter().map(|octave| spread_of(*octave)).collect(),
    });
    let pieces: Vec<Piece> = pieces.collect();
    let in_order = pieces.is_sorted_by(|a, b| a.end < b.start)
        && pieces.iter().all(|piece| piece.start <= piece.end && piece.count > 0);
    if !in_order {
        return Err(invalid("times"));
    }
    let outline = Outline {
        collection: CollectionName::new(collection)?,
        metric: metric_of(metric).ok_or(invalid("metric"))?,
        entity: EntityId::new(entity)?,
        pieces,
        flags: plain.flags,
        steps: plain.steps,
        fidelity: Fidelity::Summary,
        payload: Vec::new(),
    };
    let sensible = |flag: &Flag| flag.drift.is_finite() && flag.drift >= 0.0;
    if outline.flags.iter().all(sensible) { Ok(outline) } else { Err(invalid("flags")) }
}

/// Everything but the matrices, in one shape for both directions.
struct Plain {
    /// All times are apart by multiples of this.
    unit: i64,
    spans: Vec<Span>,
    flags: Vec<Flag>,
    steps: Vec<f32>,
    guides: Vec<u16>,
}

#[derive(Clone, Copy)]
struct Span {
    start: i64,
    end: i64,
    count: u32,
}

impl Plain {
    fn of(outline: &Outline) -> Self {
        let span =
            |piece: &Piece| Span { start: piece.start.0, end: piece.end.0, count: piece.count };
        let spans: Vec<Span> = outline.pieces.iter().map(span).collect();
        let level = |piece: &Piece, at: usize| {
            (f64::from(piece.mean[at]) / f64::from(outline.steps[at])).round() as i32
        };
        let columns: Vec<Vec<i32>> = (0..outline.steps.len())
            .map(|at| outline.pieces.iter().map(|piece| level(piece, at)).collect())
            .collect();
        let times = spans.iter().flat_map(|span| [span.start, span.end]);
        let times = times.chain(outline.flags.iter().map(|flag| flag.time.0));
        Self {
            unit: unit_of(spans[0].start, times),
            flags: outline.flags.clone(),
            steps: outline.steps.clone(),
            guides: guides::choose(&columns),
            spans,
        }
    }

    fn unknown(dim: usize, pieces: usize, flags: usize) -> Self {
        Self {
            unit: 1,
            spans: vec![Span { start: 0, end: 0, count: 0 }; pieces],
            flags: vec![Flag { time: Timestamp(0), drift: 0.0 }; flags],
            steps: vec![0.0; dim],
            guides: vec![0; dim],
        }
    }

    fn code(&mut self, coder: &mut impl BitCoder) {
        let mut numbers = Numbers::new(KINDS);
        self.unit = numbers.code(coder, UNIT, self.unit.cast_unsigned()).cast_signed().max(1);
        let unit = self.unit;
        let mut before = 0;
        for (index, span) in self.spans.iter_mut().enumerate() {
            if index == 0 {
                span.start = numbers.code_signed(coder, UNIT, span.start);
            } else {
                span.start = multiple(&mut numbers, coder, GAP, before, span.start, unit);
            }
            span.end = multiple(&mut numbers, coder, LENGTH, span.start, span.end, unit);
            let steady = (span.end.wrapping_sub(span.start) / unit).wrapping_add(1);
            let missing = steady.wrapping_sub(i64::from(span.count));
            let missing = numbers.code_signed(coder, COUNT, missing);
            span.count = steady.wrapping_sub(missing).clamp(0, i64::from(u32::MAX)) as u32;
            before = span.end;
        }
        self.code_flags(coder, &mut numbers);
        let mut before = 0;
        for step in &mut self.steps {
            before ^= numbers.code(coder, STEP, u64::from(step.to_bits() ^ before)) as u32;
            *step = f32::from_bits(before);
        }
        for (at, guide) in self.guides.iter_mut().enumerate() {
            let away = (at as u64).wrapping_sub(u64::from(*guide));
            let away = numbers.code(coder, GUIDE, away);
            *guide = (at as u64).saturating_sub(away) as u16;
        }
    }

    /// Codes each flag by the piece that it is in and its time there.
    fn code_flags(&mut self, coder: &mut impl BitCoder, numbers: &mut Numbers) {
        let (mut piece, mut drift) = (0_usize, 0_u32);
        for flag in &mut self.flags {
            let inside = self.spans.partition_point(|span| span.start <= flag.time.0);
            let ahead = inside.saturating_sub(1).saturating_sub(piece);
            let ahead = numbers.code(coder, FLAG_PIECE, ahead as u64);
            piece = piece.saturating_add(ahead as usize).min(self.spans.len() - 1);
            let start = self.spans[piece].start;
            flag.time.0 = multiple(numbers, coder, FLAG_TIME, start, flag.time.0, self.unit);
            let bits = flag.drift.to_bits() >> DRIFT_SHIFT;
            let change = i64::from(bits) - i64::from(drift);
            let change = numbers.code_signed(coder, FLAG_DRIFT, change);
            drift = i64::from(drift).saturating_add(change).clamp(0, 0xfff) as u32;
            flag.drift = f32::from_bits(drift << DRIFT_SHIFT);
        }
    }
}

/// Codes a time as whole units after another.
fn multiple(
    numbers: &mut Numbers,
    coder: &mut impl BitCoder,
    kind: usize,
    from: i64,
    time: i64,
    unit: i64,
) -> i64 {
    let units = time.wrapping_sub(from) / unit;
    from.wrapping_add(numbers.code_signed(coder, kind, units).wrapping_mul(unit))
}

/// Returns the greatest common divisor of all distances from `origin`, at least 1.
fn unit_of(origin: i64, times: impl Iterator<Item = i64>) -> i64 {
    let mut unit = 0_u64;
    for time in times {
        let (mut large, mut small) = (time.abs_diff(origin), unit);
        while small > 0 {
            (large, small) = (small, large % small);
        }
        unit = large;
    }
    i64::try_from(unit.max(1)).unwrap_or(1)
}
