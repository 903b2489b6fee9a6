//! The innermost loops, in the widest vector instructions that the CPU has, chosen at run time.
//!
//! This and the files in `simd` are those of the engine with unsafe code: calls of functions that need instructions the
//! CPU was asked for, loads and stores within arrays whose lengths are checked in sight, and prefetches.
//!
//! Every level gives the same bits. The integer sums are exact, and the floating-point sums have their
//! order written down, lane by lane, so that the compiler may widen but not reorder them. An index that
//! was built with AVX-512 is therefore byte for byte the one that a CPU without it builds.

#![expect(
    unsafe_code,
    reason = "instructions chosen at run time, what they load and store, and prefetches"
)]

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
#[cfg(target_arch = "aarch64")]
use std::arch::{aarch64::*, asm};

use crate::distance::LANES;

/// A cache line. Codes and neighbor lists are made of these, so that a row never shares one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [u8; LINE_BYTES]);

/// Bytes of a cache line.
pub(crate) const LINE_BYTES: usize = 64;

/// Bytes of a huge page.
#[cfg(target_os = "linux")]
const HUGE_BYTES: usize = 2 * 1024 * 1024;

/// Values that [`combine`] sums at a time; they fit the registers.
pub(crate) const BLOCK: usize = 64;

/// How many axes vectors may be seen along, rising.
pub(crate) const WIDTHS: [usize; 5] = [16, 24, 32, 48, 64];

/// Which instructions to use. It is made by [`Level::detect`] alone, so having one proves that the CPU
/// has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Level(Set);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Plain,
}

impl Level {
    /// Returns the best level of this CPU.
    pub(crate) fn detect() -> Self {
        Self::available().first().copied().unwrap_or(Self(Set::Plain))
    }

    /// Returns all levels of this CPU, the best first; the last one runs anywhere.
    pub(crate) fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("popcnt");
            if wide {
                levels.push(Self(Set::Avx512));
            }
            let wide = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("popcnt");
            if wide {
                levels.push(Self(Set::Avx2));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            levels.push(Self(Set::Neon));
        }
        levels.push(Self(Set::Plain));
        levels
    }
}

/// A number that a row may consist of.
pub(crate) trait Element: Copy {
    /// Returns the number.
    fn wide(self) -> f64;
}

impl Element for f32 {
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Element for u8 {
    #[inline(always)]
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

/// Compiles a function once for each level.
macro_rules! widened {
    (
        $(#[$doc:meta])*
        fn $name:ident $(<$generic:ident: $bound:ident>)? ($($arg:ident: $type:ty),*) $(-> $out:ty)?
        $body:block
    ) => {
        $(#[$doc])*
        pub(crate) fn $name $(<$generic: $bound>)? (level: Level, $($arg: $type),*) $(-> $out)? {
            #[inline(always)]
            fn plain $(<$generic: $bound>)? ($($arg: $type),*) $(-> $out)? $body
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
            fn avx512 $(<$generic: $bound>)? ($($arg: $type),*) $(-> $out)? {
                plain($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2 $(<$generic: $bound>)? ($($arg: $type),*) $(-> $out)? {
                plain($($arg),*)
            }
            match level.0 {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: a level is made only where the CPU has its instructions.
                Set::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                Set::Avx2 => unsafe { avx2($($arg),*) },
                #[cfg(target_arch = "aarch64")]
                // All that is compiled for this architecture may use NEON.
                Set::Neon => plain($($arg),*),
                Set::Plain => plain($($arg),*),
            }
        }
    };
}

/// Sums a term over two slices in the order of [`crate::distance::sum_of`]. A macro, because a closure
/// that is not inlined would not be compiled for the level.
macro_rules! lanes_summed {
    ($a:ident, $b:ident, |$x:ident, $y:ident| $term:expr) => {{
        let (a_whole, a_rest) = $a.as_chunks::<LANES>();
        let (b_whole, b_rest) = $b[..$a.len()].as_chunks::<LANES>();
        let mut lanes = [0.0_f64; LANES];
        for (a, b) in a_whole.iter().zip(b_whole) {
            for lane in 0..LANES {
                let ($x, $y) = (a[lane], b[lane]);
                lanes[lane] += $term;
            }
        }
        let mut rest = 0.0_f64;
        for (a, b) in a_rest.iter().zip(b_rest) {
            let ($x, $y) = (*a, *b);
            rest += $term;
        }
        lanes.iter().sum::<f64>() + rest
    }};
}

widened! {
    /// Returns the sum of the squared differences, added up as [`crate::distance()`] does.
    fn squares<T: Element>(a: &[f32], b: &[T]) -> f64 {
        lanes_summed!(a, b, |a, b| {
            let difference = f64::from(a) - b.wide();
            difference * difference
        })
    }
}

widened! {
    /// Returns the sum of the products, added up as [`crate::distance()`] does.
    fn products<T: Element>(a: &[f32], b: &[T]) -> f64 {
        lanes_summed!(a, b, |a, b| f64::from(a) * b.wide())
    }
}

widened! {
    /// Returns the sum of the squares, added up as [`crate::distance()`] does.
    fn norm<T: Element>(a: &[T]) -> f64 {
        lanes_summed!(a, a, |a, b| a.wide() * b.wide())
    }
}

widened! {
    /// Appends the values, each multiplied with `factor`.
    fn scale(values: &[f32], factor: f64, scaled: &mut Vec<f32>) {
        scaled.extend(values.iter().map(|value| (f64::from(*value) * factor) as f32));
    }
}

widened! {
    /// Adds `weights[i] * rows[i]` to `sum`, in order. Zero weights, common in sparse data, cost nothing.
    fn combine(sum: &mut [f32; BLOCK], rows: &[[f32; BLOCK]], weights: &[f32]) {
        let mut held = *sum;
        for (row, weight) in rows.iter().zip(weights) {
            if *weight != 0.0 {
                for (total, value) in held.iter_mut().zip(row) {
                    *total += *weight * *value;
                }
            }
        }
        *sum = held;
    }
}

widened! {
    /// Appends to `sums` what a vector is along axes, one of [`WIDTHS`], which stand eight side by side, value by value of
    /// vectors. With another number of axes it appends nothing.
    fn along(axes: &[[f32; LANES]], vector: &[f32], sums: &mut Vec<f32>) {
        // The number of axes as a constant, so that the sums stay in registers.
        match axes.len() / vector.len() {
            2 => sums.extend(along_of::<2>(axes, vector).as_flattened()),
            3 => sums.extend(along_of::<3>(axes, vector).as_flattened()),
            4 => sums.extend(along_of::<4>(axes, vector).as_flattened()),
            6 => sums.extend(along_of::<6>(axes, vector).as_flattened()),
            8 => sums.extend(along_of::<8>(axes, vector).as_flattened()),
            _ => {}
        }
    }
}

#[inline(always)]
fn along_of<const EIGHTS: usize>(axes: &[[f32; LANES]], vector: &[f32]) -> [[f32; LANES]; EIGHTS] {
    let mut sums = [[0.0; LANES]; EIGHTS];
    for (axes, value) in axes.as_chunks::<EIGHTS>().0.iter().zip(vector) {
        for (sums, axes) in sums.iter_mut().zip(axes) {
            for (sum, axis) in sums.iter_mut().zip(axes) {
                *sum += *value * *axis;
            }
        }
    }
    sums
}

widened! {
    /// Adds to `sums`, for rows that stand eight side by side, about the sum of the squared differences from a point in
    /// units: in single precision, several times faster than the exact sum. It is off by less than [`ROUGH`] in
    /// parts of it, and [`ROUGH_FLOOR`], where it is finite; where it is not, nothing is known.
    ///
    /// The point as it was observed, and one over the units, have a value for each channel.
    fn rough_squares(
        groups: &[[f32; LANES]],
        point: &[f32],
        inverse_unit: &[f32],
        sums: &mut Vec<[f32; LANES]>
    ) {
        let (points, last_point) = point.as_chunks::<2>();
        let (inverses, last_inverse) = inverse_unit.as_chunks::<2>();
        for group in groups.chunks_exact(point.len()) {
            let (pairs, last) = group.as_chunks::<2>();
            // Two sums, so that one addition need not wait for the one before.
            let (mut even, mut odd) = ([0.0_f32; LANES], [0.0_f32; LANES]);
            for ((rows, point), inverse) in pairs.iter().zip(points).zip(inverses) {
                for lane in 0..LANES {
                    let difference = (rows[0][lane] - point[0]) * inverse[0];
                    even[lane] += difference * difference;
                }
                for lane in 0..LANES {
                    let difference = (rows[1][lane] - point[1]) * inverse[1];
                    odd[lane] += difference * difference;
                }
            }
            for ((rows, point), inverse) in last.iter().zip(last_point).zip(last_inverse) {
                for lane in 0..LANES {
                    let difference = (rows[lane] - point) * inverse;
                    even[lane] += difference * difference;
                }
            }
            sums.push(std::array::from_fn(|lane| even[lane] + odd[lane]));
        }
    }
}

widened! {
    /// Returns the two least sums; infinity for each that is no finite number.
    fn two_least(sums: &[[f32; LANES]]) -> (f32, f32) {
        let (mut least, mut second) = ([f32::INFINITY; LANES], [f32::INFINITY; LANES]);
        for sums in sums {
            for lane in 0..LANES {
                let sum = if sums[lane] < f32::INFINITY { sums[lane] } else { f32::INFINITY };
                let greater = if sum > least[lane] { sum } else { least[lane] };
                second[lane] = if greater < second[lane] { greater } else { second[lane] };
                least[lane] = if sum < least[lane] { sum } else { least[lane] };
            }
        }
        let all = least.into_iter().chain(second);
        all.fold((f32::INFINITY, f32::INFINITY), |(least, second), sum| {
            if sum < least { (sum, least) } else { (least, second.min(sum)) }
        })
    }
}

widened! {
    /// Returns whether any sum is at most `most`, or no finite number.
    fn any_within(sums: &[f32; LANES], most: f32) -> bool {
        let is_beyond = sums.map(|sum| u32::from(sum > most) & u32::from(sum < f32::INFINITY));
        is_beyond.iter().sum::<u32>() < LANES as u32
    }
}

widened! {
    /// Appends, for rows that stand eight side by side, the sums of the squared differences from a point.
    fn squares_beside(groups: &[[f32; LANES]], point: &[f32], sums: &mut Vec<[f32; LANES]>) {
        let points = point.as_chunks::<2>().0;
        for group in groups.chunks_exact(point.len()) {
            // Two sums, so that one addition need not wait for the one before.
            let (mut even, mut odd) = ([0.0_f32; LANES], [0.0_f32; LANES]);
            for (rows, point) in group.as_chunks::<2>().0.iter().zip(points) {
                for lane in 0..LANES {
                    let difference = rows[0][lane] - point[0];
                    even[lane] += difference * difference;
                }
                for lane in 0..LANES {
                    let difference = rows[1][lane] - point[1];
                    odd[lane] += difference * difference;
                }
            }
            sums.push(std::array::from_fn(|lane| even[lane] + odd[lane]));
        }
    }
}

widened! {
    /// Returns the least sum and where it is, the first of several; infinity and 0 when no sum is finite.
    fn least_at(sums: &[[f32; LANES]]) -> (f32, u32) {
        let (mut least, mut at) = ([f32::INFINITY; LANES], [0_u32; LANES]);
        for (group, sums) in sums.iter().enumerate() {
            for lane in 0..LANES {
                let is_less = sums[lane] < least[lane];
                least[lane] = if is_less { sums[lane] } else { least[lane] };
                at[lane] = if is_less { group as u32 } else { at[lane] };
            }
        }
        let mut first = (f32::INFINITY, 0);
        for lane in 0..LANES {
            let place = at[lane] * LANES as u32 + lane as u32;
            if least[lane] < first.0 || (least[lane] == first.0 && place < first.1) {
                first = (least[lane], place);
            }
        }
        first
    }
}

mod grids;
mod narrowing;

pub(crate) use grids::{Weights, grid_squares_of, grid_steps, roots};
pub(crate) use narrowing::{
    CODE_MAX, CodeFours, CodeScale, Eight, QueryCodes, Taken, code_squares, least_at_rank,
    query_codes, take_within,
};

/// Three roundings of a term and those of a sum of at most 4,096 terms, each of 2^-24, stay far below this.
pub(crate) const ROUGH: f64 = 1e-3;

/// What terms that are too small for single precision add up to stays far below this.
pub(crate) const ROUGH_FLOOR: f64 = 1e-37;

/// Returns an empty vector with room for `capacity` values, on huge pages where the system has them: walks
/// jump around in memory, and each jump on small pages costs a look-up of its page.
pub(crate) fn roomy<T>(capacity: usize) -> Vec<T> {
    let room: Vec<T> = Vec::with_capacity(capacity);
    #[cfg(target_os = "linux")]
    {
        let start = room.as_ptr().addr().next_multiple_of(HUGE_BYTES);
        let end = (room.as_ptr().addr() + capacity * size_of::<T>()) / HUGE_BYTES * HUGE_BYTES;
        if end > start {
            let first = room.as_ptr().with_addr(start).cast_mut().cast();
            // SAFETY: the pages lie inside the room, and the advice changes no content. Whether it is
            // taken makes no difference to what is computed.
            unsafe { rustix::mm::madvise(first, end - start, rustix::mm::Advice::LinuxHugepage) }
                .ok();
        }
    }
    room
}

/// Asks for the line that a value begins in to be brought near.
#[inline(always)]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch changes nothing, and the reference is to memory that is there.
    unsafe {
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; the instruction touches no register, flag or stack.
    unsafe {
        let address = std::ptr::from_ref(value);
        asm!("prfm pldl1keep, [{}]", in(reg) address, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = value;
}

/// Asks for all lines of a slice to be brought near.
#[inline(always)]
pub(crate) fn prefetch_all<T>(values: &[T]) {
    let each = (LINE_BYTES / size_of::<T>()).max(1);
    values.iter().step_by(each).for_each(prefetch);
    values.last().into_iter().for_each(prefetch);
}

/// Sets `dots[i]` to the dot product of the query (signed bytes) with row `rows[i]` of `codes` (unsigned
/// bytes, `query.len()` lines a row).
///
/// # Panics
///
/// Panics when there is no such row, or `dots` is shorter than `rows`.
pub(crate) fn dots(level: Level, codes: &[Line], query: &[Line], rows: &[u32], dots: &mut [i32]) {
    let dots = &mut dots[..rows.len()];
    match level.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level is made only where the CPU has its instructions.
        Set::Avx512 => unsafe { dots_avx512(codes, query, rows, dots) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Set::Avx2 => unsafe { dots_avx2(codes, query, rows, dots) },
        #[cfg(target_arch = "aarch64")]
        // SAFETY: as above.
        Set::Neon => unsafe { dots_neon(codes, query, rows, dots) },
        Set::Plain => dots_plain(codes, query, rows, dots),
    }
}

#[inline(always)]
fn row_of(codes: &[Line], lines: usize, row: u32) -> &[Line] {
    &codes[row as usize * lines..][..lines]
}

fn dots_plain(codes: &[Line], query: &[Line], rows: &[u32], dots: &mut [i32]) {
    for (row, dot) in rows.iter().zip(dots) {
        let mut sum = 0;
        for (code, query) in row_of(codes, query.len(), *row).iter().zip(query) {
            for (code, query) in code.0.iter().zip(query.0) {
                sum += i32::from(*code) * i32::from(query.cast_signed());
            }
        }
        *dot = sum;
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn load(line: &Line) -> __m512i {
    // SAFETY: a line has the 64 bytes that are loaded, aligned.
    unsafe { _mm512_load_si512(std::ptr::from_ref(line).cast()) }
}

/// Returns four sums of four numbers each.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
#[inline]
fn quarter(sums: __m512i) -> __m128i {
    let half = _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64::<1>(sums));
    _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn dots_avx512(codes: &[Line], query: &[Line], rows: &[u32], dots: &mut [i32]) {
    let (fours, rest) = rows.as_chunks::<4>();
    let (dots_of_fours, dots_of_rest) = dots.as_chunks_mut::<4>();
    for (rows, dots) in fours.iter().zip(dots_of_fours) {
        let [a, b, c, d] = *rows;
        let (a, b) = (row_of(codes, query.len(), a), row_of(codes, query.len(), b));
        let (c, d) = (row_of(codes, query.len(), c), row_of(codes, query.len(), d));
        let mut sums = [_mm512_setzero_si512(); 4];
        for ((((a, b), c), d), query) in a.iter().zip(b).zip(c).zip(d).zip(query) {
            let query = load(query);
            sums[0] = _mm512_dpbusd_epi32(sums[0], load(a), query);
            sums[1] = _mm512_dpbusd_epi32(sums[1], load(b), query);
            sums[2] = _mm512_dpbusd_epi32(sums[2], load(c), query);
            sums[3] = _mm512_dpbusd_epi32(sums[3], load(d), query);
        }
        let ab = _mm_hadd_epi32(quarter(sums[0]), quarter(sums[1]));
        let cd = _mm_hadd_epi32(quarter(sums[2]), quarter(sums[3]));
        let sums = _mm_hadd_epi32(ab, cd);
        // SAFETY: four sums of four bytes go to an array of four.
        unsafe { _mm_storeu_si128(dots.as_mut_ptr().cast(), sums) };
    }
    for (row, dot) in rest.iter().zip(dots_of_rest) {
        let mut sum = _mm512_setzero_si512();
        for (code, query) in row_of(codes, query.len(), *row).iter().zip(query) {
            sum = _mm512_dpbusd_epi32(sum, load(code), load(query));
        }
        *dot = _mm512_reduce_add_epi32(sum);
    }
}

/// Lines that [`dots_avx2`] goes through at a time: a query of so many fits the registers twice over.
#[cfg(target_arch = "x86_64")]
const LINES_AT_A_TIME: usize = 4;

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn halves(line: &Line) -> [__m256i; 2] {
    let start = line.0.as_ptr();
    // SAFETY: a line has the twice 32 bytes that are loaded, aligned.
    unsafe { [_mm256_load_si256(start.cast()), _mm256_load_si256(start.add(32).cast())] }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn dots_avx2(codes: &[Line], query: &[Line], rows: &[u32], dots: &mut [i32]) {
    dots.fill(0);
    let mut first = 0;
    for part in query.chunks(LINES_AT_A_TIME) {
        // Widened to 16 bits, even bytes and odd ones apart: the instruction for bytes saturates.
        let mut wide = [[_mm256_setzero_si256(); 2]; 2 * LINES_AT_A_TIME];
        for (wide, half) in wide.iter_mut().zip(part.iter().flat_map(|line| halves(line))) {
            let even = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(half));
            *wide = [even, _mm256_srai_epi16::<8>(half)];
        }
        for (row, dot) in rows.iter().zip(dots.iter_mut()) {
            let row = &row_of(codes, query.len(), *row)[first..][..part.len()];
            let mut sums = [_mm256_setzero_si256(); 2];
            for (line, wide) in row.iter().zip(wide.as_chunks::<2>().0) {
                for (half, [even, odd]) in halves(line).into_iter().zip(wide) {
                    let codes = _mm256_and_si256(half, _mm256_set1_epi16(255));
                    sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(codes, *even));
                    let codes = _mm256_srli_epi16::<8>(half);
                    sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(codes, *odd));
                }
            }
            let sum = _mm256_add_epi32(sums[0], sums[1]);
            let (low, high) = (_mm256_castsi256_si128(sum), _mm256_extracti128_si256::<1>(sum));
            let half = _mm_add_epi32(low, high);
            let pair = _mm_add_epi32(half, _mm_unpackhi_epi64(half, half));
            *dot += _mm_cvtsi128_si32(_mm_hadd_epi32(pair, pair));
        }
        first += part.len();
    }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
#[inline]
fn load_part(part: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the part has the 16 bytes that are loaded.
    unsafe { vld1q_u8(part.as_ptr()) }
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn dots_neon(codes: &[Line], query: &[Line], rows: &[u32], dots: &mut [i32]) {
    for (row, dot) in rows.iter().zip(dots) {
        let mut sums = [vdupq_n_s32(0); 2];
        for (code, query) in row_of(codes, query.len(), *row).iter().zip(query) {
            let (codes, queries) = (code.0.as_chunks::<16>().0, query.0.as_chunks::<16>().0);
            for (code, query) in codes.iter().zip(queries) {
                // Widened to 16 bits: not every CPU multiplies unsigned bytes with signed ones.
                let (code, query) = (load_part(code), vreinterpretq_s8_u8(load_part(query)));
                let code_low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(code)));
                let code_high = vreinterpretq_s16_u16(vmovl_high_u8(code));
                let query_low = vmovl_s8(vget_low_s8(query));
                let query_high = vmovl_high_s8(query);
                let (low, high) = (vget_low_s16(code_low), vget_low_s16(code_high));
                sums[0] = vmlal_s16(sums[0], low, vget_low_s16(query_low));
                sums[1] = vmlal_high_s16(sums[1], code_low, query_low);
                sums[0] = vmlal_s16(sums[0], high, vget_low_s16(query_high));
                sums[1] = vmlal_high_s16(sums[1], code_high, query_high);
            }
        }
        *dot = vaddvq_s32(vaddq_s32(sums[0], sums[1]));
    }
}

#[cfg(test)]
mod tests {
    use super::{narrowing::at_rank, *};
    use crate::{collection::Metric, distance::distance, index::random::Random};

    #[test]
    fn every_level_gives_the_same_dot_products() {
        let mut random = Random::new(1);
        for lines in 1..6 {
            let mut line = || Line(std::array::from_fn(|_| random.below(256) as u8));
            let mut codes: Vec<Line> = (0..lines * 9).map(|_| line()).collect();
            let mut query: Vec<Line> = (0..lines).map(|_| line()).collect();
            codes[..lines].fill(Line([255; 64]));
            query[0] = Line([0x80; 64]);
            let rows = [3, 0, 8, 1, 1, 7, 2];
            let mut expected = [0; 7];
            dots_plain(&codes, &query, &rows, &mut expected);
            for level in Level::available() {
                let mut found = [0; 7];
                dots(level, &codes, &query, &rows, &mut found);
                assert_eq!(found, expected, "{level:?}");
            }
        }
    }

    #[test]
    fn every_level_gives_the_bits_of_the_plain_distance() {
        let mut random = Random::new(2);
        for dim in [1, 7, 8, 63, 64, 65, 784] {
            let mut values = || (0..dim).map(|_| random.unit() * 3.0 - 1.0).collect::<Vec<f32>>();
            let (a, b) = (values(), values());
            for level in Level::available() {
                assert_eq!(squares(level, &a, &b).sqrt(), distance(Metric::Euclidean, &a, &b));
                assert_eq!(-products(level, &a, &b), distance(Metric::Dot, &a, &b));
                assert_eq!(norm(level, &a), products(level, &a, &a));
            }
        }
    }

    #[test]
    fn rough_squares_are_nearly_the_squares_on_every_level() {
        let mut random = Random::new(4);
        for dim in [1, 7, 8, 19, 38, 4_096] {
            let mut values = |count: usize| (0..count).map(|_| random.unit()).collect::<Vec<f32>>();
            let (rows, point, inverse) = (values(2 * LANES * dim), values(dim), values(dim));
            let groups: Vec<[f32; LANES]> = (0..2 * dim)
                .map(|place| {
                    let (group, channel) = (place / dim, place % dim);
                    std::array::from_fn(|lane| rows[(group * LANES + lane) * dim + channel])
                })
                .collect();
            let of = |level| {
                let mut sums = Vec::new();
                rough_squares(level, &groups, &point, &inverse, &mut sums);
                sums
            };
            let sums = of(Level::detect());
            for level in Level::available() {
                assert_eq!(of(level), sums, "{level:?}");
            }
            for (row, sum) in rows.chunks_exact(dim).zip(sums.into_flattened()) {
                let difference =
                    |i: usize| (f64::from(row[i]) - f64::from(point[i])) * f64::from(inverse[i]);
                let exact: f64 = (0..dim).map(|i| difference(i) * difference(i)).sum();
                assert!((f64::from(sum) - exact).abs() <= ROUGH * exact, "{sum} {exact}");
            }
        }
    }

    #[test]
    fn the_least_sums_are_found_on_every_level() {
        let mut random = Random::new(5);
        for round in 0..200_usize {
            let mut sums: Vec<[f32; LANES]> =
                (0..round % 5).map(|_| std::array::from_fn(|_| random.unit())).collect();
            for (place, sum) in sums.as_flattened_mut().iter_mut().enumerate() {
                match (place * 7 + round) % 19 {
                    0 => *sum = f32::INFINITY,
                    1 => *sum = f32::NAN,
                    2 => *sum = 0.5,
                    _ => {}
                }
            }
            let mut sorted = sums.as_flattened().to_vec();
            sorted.retain(|sum| sum.is_finite());
            sorted.extend([f32::INFINITY; 2]);
            sorted.sort_by(f32::total_cmp);
            for level in Level::available() {
                assert_eq!(two_least(level, &sums), (sorted[0], sorted[1]), "{level:?}");
                for sums in &sums {
                    let any = sums.iter().any(|sum| !sum.is_finite() || *sum <= 0.5);
                    assert_eq!(any_within(level, sums, 0.5), any, "{level:?} {sums:?}");
                }
            }
        }
    }

    #[test]
    fn codes_are_compared_alike_on_every_level() {
        let mut random = Random::new(7);
        for width in WIDTHS {
            let mut values =
                |count: usize| (0..count).map(|_| random.unit() - 0.5).collect::<Vec<f32>>();
            let (vector, origin) = (values(width), values(width));
            let (step, norms) = (0.5 / 63.0, values(3 * LANES));
            // The extremes too: no sum may saturate.
            let code = |at: usize| [0, 127, 64, (at * 7 % 128) as u8][at / 5 % 4];
            let codes: Vec<CodeFours> = (0..3 * width / 4)
                .map(|four| std::array::from_fn(|at| code(four * 32 + at)))
                .collect();
            let norms = norms.as_chunks::<LANES>().0;
            let points: Vec<Eight> =
                norms.iter().map(|norms| Eight { norms: *norms, members: [0; LANES] }).collect();
            let of = |level| {
                let mut query = QueryCodes::default();
                let (query_step, sum, base) = query_codes(level, &vector, &origin, &mut query);
                let unit = 2.0 * step * query_step;
                let scale = CodeScale { base, unit, offset: 64 * sum };
                let mut squares = vec![[0.0; LANES]; 3];
                code_squares(level, (&codes, &points), &query.0[..width / 4], scale, &mut squares);
                (query.0, squares)
            };
            let (query, squares) = of(Level::detect());
            assert_eq!(query.as_flattened().iter().map(|code| code.unsigned_abs()).max(), Some(31));
            for level in Level::available() {
                assert_eq!(of(level), (query, squares.clone()), "{level:?}");
            }
            let difference: Vec<f64> =
                vector.iter().zip(&origin).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
            let base: f64 = difference.iter().map(|value| value * value).sum();
            let largest = difference.iter().fold(0.0_f64, |most, value| most.max(value.abs()));
            for (lane, square) in squares.as_flattened().iter().enumerate() {
                let value = |at: usize| {
                    let four = &codes[lane / LANES * width / 4 + at / 4];
                    (f64::from(four[lane % LANES * 4 + at % 4]) - 64.0) * f64::from(step)
                };
                let dot: f64 = (0..width).map(|at| value(at) * difference[at]).sum();
                let exact = base + f64::from(norms.as_flattened()[lane]) - 2.0 * dot;
                // The query's codes are off by half a step each.
                let most: f64 = (0..width).map(|at| value(at).abs()).sum();
                let bound = most * largest / 31.0 + 1e-4;
                assert!((f64::from(*square) - exact).abs() <= bound, "{square} {exact}");
            }
        }
        let mut query = QueryCodes::default();
        for level in Level::available() {
            assert_eq!(query_codes(level, &[0.5; 16], &[0.5; 16], &mut query), (0.0, 0, 0.0));
            assert_eq!(query.0[..4], [[0; 4]; 4]);
            let beyond = query_codes(level, &[f32::MAX; 16], &[-f32::MAX; 16], &mut query);
            assert_eq!(beyond, (0.0, 0, f32::INFINITY));
            assert_eq!(query.0[..4], [[0; 4]; 4]);
        }
    }

    #[test]
    fn the_nearest_are_taken_out_on_every_level() {
        let mut random = Random::new(8);
        for round in 0..200_usize {
            let mut sums: Vec<[f32; LANES]> =
                (0..round % 20).map(|_| std::array::from_fn(|_| random.below(20) as f32)).collect();
            if let Some(last) = sums.last_mut() {
                last[round % LANES..].fill(f32::INFINITY);
            }
            let flat = sums.as_flattened();
            let mut sorted = flat.to_vec();
            sorted.sort_by(f32::total_cmp);
            for level in Level::available() {
                let (least, at) = least_at(level, &sums);
                let first = flat
                    .iter()
                    .position(|sum| *sum == sorted[0])
                    .filter(|_| sorted[0] < f32::INFINITY);
                assert_eq!(
                    (least, at as usize),
                    first.map_or((f32::INFINITY, 0), |at| (sorted[0], at))
                );
                for rank in [0, 1, 5, 17] {
                    let expected = sorted.get(rank).copied().unwrap_or(f32::INFINITY);
                    assert_eq!(at_rank(level, &sums, rank as u32), expected, "{level:?} {rank}");
                    let mut taken = Taken::default();
                    take_within(level, &sums, 15.0, &mut taken);
                    take_within(level, &sums, 9.0, &mut taken);
                    let within = |most: f32| {
                        let places = (0_u32..).zip(flat).filter(move |(_, sum)| **sum <= most);
                        places.map(|(place, sum)| (place, *sum)).collect::<Vec<_>>()
                    };
                    assert_eq!(taken.iter().collect::<Vec<_>>(), within(9.0), "{level:?}");
                    let mut ranked = taken.sums().to_vec();
                    ranked.sort_by(f32::total_cmp);
                    ranked.push(f32::INFINITY);
                    for (rank, sum) in ranked.into_iter().enumerate() {
                        assert_eq!(taken.at_rank(level, rank as u32), sum, "{level:?}");
                    }
                    taken.keep_within(level, 4.0);
                    assert_eq!(taken.iter().collect::<Vec<_>>(), within(4.0), "{level:?}");
                    assert_eq!(taken.count(), taken.sums().len());
                }
            }
        }
    }

    #[test]
    fn the_least_of_each_are_ranked_on_every_level() {
        let mut random = Random::new(9);
        for round in 0..200_usize {
            let values: Vec<[f32; LANES]> =
                (0..round % 21).map(|_| std::array::from_fn(|_| random.below(90) as f32)).collect();
            for step in 1..=8 {
                let mut least = vec![f32::INFINITY; LANES * step];
                for (at, value) in values.as_flattened().iter().enumerate() {
                    let least = &mut least[at % (LANES * step)];
                    *least = least.min(*value);
                }
                least.sort_by(f32::total_cmp);
                for rank in [0, 1, 5, 17, 70] {
                    let expected = least.get(rank).copied().unwrap_or(f32::INFINITY);
                    for level in Level::available() {
                        let found = least_at_rank(level, &values, step, rank as u32);
                        assert_eq!(found, expected, "{level:?} {step} {rank}");
                    }
                }
            }
        }
    }

    #[test]
    fn vectors_are_seen_along_axes_alike_on_every_level() {
        let mut random = Random::new(10);
        for width in WIDTHS {
            let axes: Vec<[f32; LANES]> = (0..20 * width / LANES)
                .map(|_| std::array::from_fn(|_| random.unit() - 0.5))
                .collect();
            let vector: Vec<f32> = (0..20).map(|_| random.unit()).collect();
            let of = |level| {
                let mut sums = Vec::new();
                along(level, &axes, &vector, &mut sums);
                sums
            };
            let sums = of(Level::detect());
            assert!(Level::available().into_iter().all(|level| of(level) == sums));
            for (axis, sum) in sums.iter().enumerate() {
                let values = axes.as_flattened().chunks_exact(width).map(|row| row[axis]);
                let exact: f64 =
                    values.zip(&vector).map(|(a, b)| f64::from(a) * f64::from(*b)).sum();
                assert!((f64::from(*sum) - exact).abs() < 1e-5, "{sum} {exact}");
            }
            assert_eq!(sums.len(), width);
        }
    }

    #[test]
    fn every_level_combines_alike() {
        let mut random = Random::new(3);
        let rows: Vec<[f32; BLOCK]> =
            (0..50).map(|_| std::array::from_fn(|_| random.unit() - 0.5)).collect();
        let weights: Vec<f32> =
            (0..50).map(|i| if i % 3 == 0 { 0.0 } else { random.unit() }).collect();
        let sums = Level::available().into_iter().map(|level| {
            let mut sum = [0.25; BLOCK];
            combine(level, &mut sum, &rows, &weights);
            sum
        });
        assert!(sums.collect::<Vec<_>>().windows(2).all(|pair| pair[0] == pair[1]));
    }
}
