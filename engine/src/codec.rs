//! Observations as few bytes: exact, or within an error that each channel states.
//!
//! Three steps. A channel's values become integers that tell them apart with as few bits as possible
//! (`channel`), or, where an error is allowed, levels that change as rarely as possible (`levels`). The
//! integers of all channels are predicted from each other and from their past (`matrix`, `mixing`). An
//! arithmetic coder writes what the prediction did not say (`coder`).
//!
//! Everything is deterministic on every platform: the bytes are part of CIDs.

mod channel;
pub(crate) mod coder;
pub(crate) mod guides;
mod levels;
pub(crate) mod matrix;
mod mixing;
pub(crate) mod numbers;

use self::{
    channel::{Channel, ChannelCoder},
    coder::{BitCoder, Decoder, Encoder},
    numbers::Numbers,
};

/// Kinds of numbers that times are made of.
const TIME_FIRST: usize = 0;
const TIME_CHANGE: usize = 1;
const TIME_KINDS: usize = 2;

/// How far values may be from what they were, with the largest error of each channel; zero is none.
#[derive(Clone, Copy)]
pub(crate) enum Tolerance<'a> {
    /// Not at all.
    Exact,
    /// As far as the error allows.
    Within(&'a [f32]),
    /// They are what an encoding within these errors gave back: its levels stay, or errors would add up. The
    /// rest are as they were observed, and may move.
    Again(&'a [f32]),
}

/// Appends an encoding of rows to `bytes`: rising `times`, and `values` row-major, `dim` to a row.
pub(crate) fn encode(
    bytes: Vec<u8>,
    times: &[i64],
    values: &[f32],
    tolerance: Tolerance<'_>,
) -> Vec<u8> {
    let dim = values.len() / times.len();
    let mut columns = Vec::with_capacity(dim);
    for at in 0..dim {
        let column: Vec<f32> = values.iter().skip(at).step_by(dim).copied().collect();
        let leveled = match tolerance {
            Tolerance::Exact => None,
            Tolerance::Within(errors) => levels::choose(&column, errors[at]),
            Tolerance::Again(errors) => levels::keep(&column, errors[at]),
        };
        columns.push(Channel::of(&column, leveled));
    }
    let mut coder = Encoder::new(bytes);
    code_times(&mut coder, &mut times.to_vec());
    let mut described = ChannelCoder::new();
    for (channel, _) in &mut columns {
        described.code(&mut coder, channel, times.len());
    }
    columns.retain(|(channel, _)| !channel.is_constant());
    let cells: Vec<Vec<i32>> = columns.into_iter().map(|(_, cells)| cells).collect();
    let mut guides = guides::choose(&cells);
    code_guides(&mut coder, &mut guides);
    let row = |row: usize| cells.iter().map(move |cells| cells[row]);
    let mut cells: Vec<i32> = (0..times.len()).flat_map(row).collect();
    matrix::code(&mut coder, &guides, &mut cells);
    coder.finish()
}

/// Returns `count` times and row-major values of `dim` channels from what [`encode`] appended.
///
/// Any bytes give something or a complaint, in time and memory in proportion to `count` x `dim`.
pub(crate) fn decode(
    bytes: &[u8],
    dim: usize,
    count: usize,
) -> Result<(Vec<i64>, Vec<f32>), &'static str> {
    let mut coder = Decoder::new(bytes);
    let mut times = vec![0; count];
    code_times(&mut coder, &mut times);
    if coder.is_exhausted() {
        return Err("length");
    }
    let mut described = ChannelCoder::new();
    let mut channels = Vec::with_capacity(dim);
    for _ in 0..dim {
        let mut channel = Channel::unknown();
        described.code(&mut coder, &mut channel, count);
        channels.push(channel);
    }
    let moving = channels.iter().filter(|channel| !channel.is_constant()).count();
    let mut guides = vec![0; moving];
    code_guides(&mut coder, &mut guides);
    let mut cells = vec![0; moving * count];
    matrix::code(&mut coder, &guides, &mut cells);
    if coder.is_exhausted() {
        return Err("length");
    }
    let mut cells = cells.into_iter();
    let mut values = Vec::with_capacity(count * dim);
    for _ in 0..count {
        for channel in &channels {
            let cell = if channel.is_constant() { 0 } else { cells.next().unwrap_or(0) };
            values.push(channel.value(cell).ok_or("values")?);
        }
    }
    Ok((times, values))
}

/// Codes rising times: telemetry comes at a steady pace, so what changes is the change.
fn code_times(coder: &mut impl BitCoder, times: &mut [i64]) {
    let mut numbers = Numbers::new(TIME_KINDS);
    let (mut before, mut pace) = (0_i64, 0_i64);
    for (index, time) in times.iter_mut().enumerate() {
        if coder.is_exhausted() {
            return;
        }
        let kind = if index == 0 { TIME_FIRST } else { TIME_CHANGE };
        let change = time.wrapping_sub(before).wrapping_sub(pace);
        let change = numbers.code_signed(coder, kind, change);
        let step = pace.wrapping_add(change);
        before = before.wrapping_add(step);
        // The first time is a distance from the epoch, which says nothing about the pace.
        pace = if index == 0 { 0 } else { step };
        *time = before;
    }
}

/// Codes for each channel how far on its left the guide is; 0 is none.
fn code_guides(coder: &mut impl BitCoder, guides: &mut [u16]) {
    let mut numbers = Numbers::new(1);
    for (at, guide) in guides.iter_mut().enumerate() {
        let away = numbers.code(coder, 0, (at as u64).wrapping_sub(u64::from(*guide)));
        *guide = (at as u64).saturating_sub(away) as u16;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Values of every size, and the kinds that telemetry is made of, in columns that repeat.
    fn value() -> impl Strategy<Value = f32> {
        prop_oneof![
            any::<f32>().prop_filter("finite", |value| value.is_finite()),
            (0_u8..100).prop_map(|percent| f32::from(percent) / 100.0),
            (0_u16..1000).prop_map(|count| (f64::from(count) / 997.0 * 1e6).round() as f32 / 1e6),
            (-5_i8..5).prop_map(f32::from),
            prop::sample::select(vec![
                -0.0,
                0.0,
                f32::MIN_POSITIVE / 8.0,
                1e-45,
                f32::MAX,
                f32::MIN
            ]),
        ]
    }

    fn columns() -> impl Strategy<Value = (Vec<i64>, Vec<f32>)> {
        (1_usize..6, 1_usize..40).prop_flat_map(|(dim, count)| {
            let one_kind = prop::collection::vec(value(), 1..8);
            let column = (one_kind, prop::collection::vec(any::<prop::sample::Index>(), count));
            let columns = prop::collection::vec(column, dim);
            (prop::collection::vec(any::<i64>(), count), columns).prop_map(
                move |(times, columns)| {
                    let cell = |(values, picks): &(Vec<f32>, Vec<prop::sample::Index>),
                                row: usize| {
                        values[picks[row].index(values.len())]
                    };
                    let row = |row| columns.iter().map(move |column| cell(column, row));
                    (times, (0..count).flat_map(row).collect())
                },
            )
        })
    }

    fn bits(values: &[f32]) -> Vec<u32> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #[test]
        fn every_bit_comes_back((times, values) in columns()) {
            let bytes = encode(Vec::new(), &times, &values, Tolerance::Exact);
            let (times_back, back) = decode(&bytes, values.len() / times.len(), times.len()).unwrap();
            prop_assert_eq!(times_back, times);
            prop_assert_eq!(bits(&back), bits(&values));
        }

        #[test]
        fn no_value_is_farther_away_than_its_error(
            (times, values) in columns(),
            errors in prop::collection::vec(prop_oneof![Just(0.0_f32), Just(1e-45), 1e-30_f32..1e30, 1e-3_f32..1.0, Just(f32::MAX)], 5),
        ) {
            let dim = values.len() / times.len();
            let bytes = encode(Vec::new(), &times, &values, Tolerance::Within(&errors[..dim]));
            let (times_back, back) = decode(&bytes, dim, times.len()).unwrap();
            prop_assert_eq!(times_back, times);
            for (at, (value, back)) in values.iter().zip(&back).enumerate() {
                let error = (f64::from(*value) - f64::from(*back)).abs();
                prop_assert!(error <= f64::from(errors[at % dim]), "{} {} {}", value, back, errors[at % dim]);
            }
        }

        #[test]
        fn what_was_encoded_within_an_error_gets_no_larger_one_the_second_time(
            (times, values) in columns(),
            errors in prop::collection::vec(prop_oneof![Just(0.0_f32), 1e-30_f32..1e30, 1e-3_f32..1.0], 5),
            cut in any::<prop::sample::Index>(),
        ) {
            let dim = values.len() / times.len();
            let errors = &errors[..dim];
            let again = |tolerance, times: &[i64], values: &[f32]| {
                let bytes = encode(Vec::new(), times, values, tolerance);
                decode(&bytes, dim, times.len()).unwrap().1
            };
            // Two blocks become one, as in compaction, and that one another, which changes nothing more.
            let cut = 1 + cut.index(times.len());
            let mut first = Vec::new();
            for rows in [0..cut, cut..times.len()].into_iter().filter(|rows| !rows.is_empty()) {
                let of_rows = &values[rows.start * dim..rows.end * dim];
                first.extend(again(Tolerance::Within(errors), &times[rows], of_rows));
            }
            let second = again(Tolerance::Again(errors), &times, &first);
            for (at, ((value, first), second)) in values.iter().zip(&first).zip(&second).enumerate() {
                let error = (f64::from(*value) - f64::from(*second)).abs();
                prop_assert!(error <= f64::from(errors[at % dim]), "{} {} {}", value, first, second);
                let is_kept = first.to_bits() == second.to_bits();
                prop_assert!(is_kept || first.to_bits() == value.to_bits(), "a level moved");
            }
            prop_assert_eq!(bits(&again(Tolerance::Again(errors), &times, &second)), bits(&second));
        }

        #[test]
        fn any_bytes_decode_to_something(bytes in any::<Vec<u8>>(), dim in 1_usize..9, count in 1_usize..200) {
            if let Ok((times, values)) = decode(&bytes, dim, count) {
                prop_assert_eq!((times.len(), values.len()), (count, count * dim));
            }
        }
    }

    #[test]
    fn values_halfway_between_levels_need_no_exception() {
        let mut state = 1_u32;
        let noise = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) % 101
        };
        let values: Vec<f32> = (0..2000).map(noise).map(|percent| percent as f32 / 100.0).collect();
        let times: Vec<i64> = (0..2000).collect();
        let exact = encode(Vec::new(), &times, &values, Tolerance::Exact).len();
        let bounded = encode(Vec::new(), &times, &values, Tolerance::Within(&[0.01])).len();
        assert!(bounded * 20 < exact * 19, "{bounded} of {exact} bytes");
    }

    #[test]
    fn a_steady_pace_costs_nothing() {
        let times: Vec<i64> = (0..10_000).map(|i| 1_700_000_000_000_000 + i * 60_000_000).collect();
        let bytes = encode(Vec::new(), &times, &vec![0.5; times.len()], Tolerance::Exact);
        assert!(bytes.len() < 64, "{}", bytes.len());
    }
}
