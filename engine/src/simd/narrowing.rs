//! What lists of points are narrowed down with: codes compared eight points side by side, and what is within a bound taken
//! out without sorting.

use super::*;

/// So many sums are taken out together; what is too much is written over.
const TAKEN_AT_A_TIME: usize = 4;

/// Sums that were taken out, and where they stood.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    sums: Vec<f32>,
    places: Vec<u32>,
    count: usize,
}

impl Taken {
    /// Returns how many there are.
    pub(crate) const fn count(&self) -> usize {
        self.count
    }

    /// Returns the sums.
    pub(crate) fn sums(&self) -> &[f32] {
        &self.sums[..self.count]
    }

    /// Returns where each stood, and the sum.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, f32)> {
        self.places.iter().copied().zip(self.sums().iter().copied())
    }

    /// Returns the `rank`-th of the sums, counted from 0; infinity when there are no more.
    pub(crate) fn at_rank(&mut self, level: Level, rank: u32) -> f32 {
        // There is room for whole eights.
        let eights = self.count.div_ceil(LANES);
        self.sums[self.count..eights * LANES].fill(f32::INFINITY);
        at_rank(level, &self.sums.as_chunks().0[..eights], rank)
    }

    /// Leaves those that are at most `most`.
    pub(crate) fn keep_within(&mut self, level: Level, most: f32) {
        self.count = match level.0 {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: a level is made only where the CPU has its instructions, and AVX-512 comes with AVX2.
            Set::Avx512 | Set::Avx2 => unsafe { self.keep_within_avx2(most) },
            _ => self.keep_within_plain(most),
        };
    }

    fn keep_within_plain(&mut self, most: f32) -> usize {
        let mut kept = 0;
        for at in 0..self.count {
            // Written in any case, because which ones are within cannot be foreseen; compared before that, so that nothing
            // waits for what was just written.
            let (sum, place) = (self.sums[at], self.places[at]);
            (self.sums[kept], self.places[kept]) = (sum, place);
            kept += usize::from(sum <= most);
        }
        kept
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,popcnt")]
    fn keep_within_avx2(&mut self, most: f32) -> usize {
        let eights = self.count.div_ceil(LANES);
        self.sums[self.count..eights * LANES].fill(f32::NAN);
        let (sums, places) = (&mut self.sums[..eights * LANES], &mut self.places[..eights * LANES]);
        let (most, mut kept) = (_mm256_set1_ps(most), 0);
        for at in (0..eights * LANES).step_by(LANES) {
            // SAFETY: both have whole eights, and of each eight before at most eight were kept, so that these are loaded from
            // and stored to where they have room.
            unsafe {
                let (here, stood) = (
                    _mm256_loadu_ps(sums.as_ptr().add(at)),
                    _mm256_loadu_si256(places.as_ptr().add(at).cast()),
                );
                let (set, lanes) = within(here, most);
                let here = _mm256_permutevar8x32_ps(here, lanes);
                let stood = _mm256_permutevar8x32_epi32(stood, lanes);
                _mm256_storeu_ps(sums.as_mut_ptr().add(kept), here);
                _mm256_storeu_si256(places.as_mut_ptr().add(kept).cast(), stood);
                kept += set.count_ones() as usize;
            }
        }
        kept
    }
}

/// Takes out the sums that are at most `most`.
pub(crate) fn take_within(level: Level, sums: &[[f32; LANES]], most: f32, taken: &mut Taken) {
    let Taken { sums: taken_sums, places, count } = taken;
    let room = LANES * sums.len() + TAKEN_AT_A_TIME;
    if places.len() < room {
        taken_sums.resize(room, 0.0);
        places.resize(room, 0);
    }
    *count = match level.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level is made only where the CPU has its instructions, and AVX-512 comes with AVX2.
        Set::Avx512 | Set::Avx2 => unsafe { take_within_avx2(sums, most, (taken_sums, places)) },
        _ => take_within_plain(sums, most, (taken_sums, places)),
    };
}

fn take_within_plain(
    sums: &[[f32; LANES]],
    most: f32,
    (taken, places): (&mut [f32], &mut [u32]),
) -> usize {
    let mut count = 0;
    for (place, sum) in (0..).zip(sums.as_flattened()).filter(|(_, sum)| **sum <= most) {
        (taken[count], places[count]) = (*sum, place);
        count += 1;
    }
    count
}

/// For each set of lanes those in it, rising, a byte each.
#[cfg(target_arch = "x86_64")]
static LANES_OF: [[u8; LANES]; 256] = {
    let mut all = [[0; LANES]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut lane, mut count) = (0, 0);
        while lane < LANES {
            if set >> lane & 1 == 1 {
                all[set][count] = lane as u8;
                count += 1;
            }
            lane += 1;
        }
        set += 1;
    }
    all
};

/// Returns the set of lanes that are at most `most`, and which they are, rising.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
#[inline]
fn within(sums: __m256, most: __m256) -> (u8, __m256i) {
    let set = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(sums, most)) as u8;
    // SAFETY: eight bytes are loaded.
    let lanes = unsafe { _mm_loadl_epi64(LANES_OF[usize::from(set)].as_ptr().cast()) };
    (set, _mm256_cvtepu8_epi32(lanes))
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,popcnt")]
fn take_within_avx2(
    sums: &[[f32; LANES]],
    most: f32,
    (taken, places): (&mut [f32], &mut [u32]),
) -> usize {
    assert!(taken.len().min(places.len()) >= LANES * sums.len() + TAKEN_AT_A_TIME, "there is room");
    let most = _mm256_set1_ps(most);
    let set_of = |eight: &[f32; LANES]| {
        // SAFETY: eight sums are loaded.
        let sums = unsafe { _mm256_loadu_ps(eight.as_ptr()) };
        _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(sums, most)) as u64
    };
    let (flat, mut count) = (sums.as_flattened(), 0);
    let mut take = |first: usize, mut set: u64| {
        let mut free = count;
        count += set.count_ones() as usize;
        loop {
            // More at a time than most have, because how many there are cannot be foreseen.
            for more in 0..TAKEN_AT_A_TIME {
                let place = (first + set.trailing_zeros() as usize).min(flat.len() - 1);
                // SAFETY: the place is one of the sums. At most as many were taken before as there are sums, and there is room
                // for that and what is taken at a time.
                unsafe {
                    *taken.get_unchecked_mut(free + more) = *flat.get_unchecked(place);
                    *places.get_unchecked_mut(free + more) = place as u32;
                }
                set &= set.wrapping_sub(1);
            }
            if set == 0 {
                break;
            }
            free += TAKEN_AT_A_TIME;
        }
    };
    // As many sums together as a set has bits.
    let (whole, rest) = sums.as_chunks::<LANES>();
    for (at, eights) in whole.iter().enumerate() {
        let mut set = 0;
        for (at, eight) in eights.iter().enumerate() {
            set |= set_of(eight) << (LANES * at);
        }
        take(LANES * LANES * at, set);
    }
    if !rest.is_empty() {
        let sets = rest.iter().rev().fold(0, |set, eight| set << LANES | set_of(eight));
        take(LANES * LANES * whole.len(), sets);
    }
    count
}

/// Returns the `rank`-th, as [`at_rank`] does, of the least of the eights 0, `step`, 2 `step` and so on, lane by lane, of 1,
/// `step + 1` and so on, up to `step` of them. A step is one to eight; any other is eight.
pub(crate) fn least_at_rank(level: Level, values: &[[f32; LANES]], step: usize, rank: u32) -> f32 {
    macro_rules! with {
        ($function:ident) => {
            // The number of eights as a constant, so that they stay in registers.
            match step {
                1 => $function::<1>(values, rank),
                2 => $function::<2>(values, rank),
                3 => $function::<3>(values, rank),
                4 => $function::<4>(values, rank),
                5 => $function::<5>(values, rank),
                6 => $function::<6>(values, rank),
                7 => $function::<7>(values, rank),
                _ => $function::<8>(values, rank),
            }
        };
    }
    match level.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level is made only where the CPU has its instructions, and AVX-512 comes with AVX2.
        Set::Avx512 | Set::Avx2 => unsafe { with!(least_at_rank_avx2) },
        _ => with!(least_at_rank_plain),
    }
}

fn least_at_rank_plain<const STEP: usize>(values: &[[f32; LANES]], rank: u32) -> f32 {
    at_rank_plain(&least_of::<STEP>(values), rank)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn least_at_rank_avx2<const STEP: usize>(values: &[[f32; LANES]], rank: u32) -> f32 {
    at_rank_avx2(&least_of::<STEP>(values), rank)
}

/// What is not a number counts nowhere; where there is none the least is infinite.
#[inline(always)]
fn least_of<const STEP: usize>(values: &[[f32; LANES]]) -> [[f32; LANES]; STEP] {
    let mut least = [[f32::INFINITY; LANES]; STEP];
    let (whole, rest) = values.as_chunks::<STEP>();
    for values in whole {
        for at in 0..STEP {
            for lane in 0..LANES {
                let value = values[at][lane];
                least[at][lane] = if value < least[at][lane] { value } else { least[at][lane] };
            }
        }
    }
    for (least, values) in least.iter_mut().zip(rest) {
        for (least, value) in least.iter_mut().zip(values) {
            *least = if value < least { *value } else { *least };
        }
    }
    least
}

/// Returns the least value that more than `rank` values are not above; infinity when there is none.
pub(super) fn at_rank(level: Level, values: &[[f32; LANES]], rank: u32) -> f32 {
    match level.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level is made only where the CPU has its instructions, and AVX-512 comes with AVX2.
        Set::Avx512 | Set::Avx2 => unsafe { at_rank_avx2(values, rank) },
        _ => at_rank_plain(values, rank),
    }
}

fn at_rank_plain(values: &[[f32; LANES]], rank: u32) -> f32 {
    let mut least = [f32::INFINITY; LANES];
    for values_here in values {
        let mut counts = [0_u32; LANES];
        for other in values.as_flattened() {
            for lane in 0..LANES {
                counts[lane] += u32::from(*other <= values_here[lane]);
            }
        }
        for lane in 0..LANES {
            let value = if counts[lane] > rank { values_here[lane] } else { f32::INFINITY };
            least[lane] = if value < least[lane] { value } else { least[lane] };
        }
    }
    least.into_iter().fold(f32::INFINITY, |least, value| if value < least { value } else { least })
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn at_rank_avx2(values: &[[f32; LANES]], rank: u32) -> f32 {
    let (mut least, rank) = (_mm256_set1_ps(f32::INFINITY), _mm256_set1_epi32(rank.cast_signed()));
    for here in values {
        // SAFETY: eight values are loaded.
        let here = unsafe { _mm256_loadu_ps(here.as_ptr()) };
        // Two sums, so that none waits for the one before it. A comparison that holds is -1.
        let (mut even, mut odd) = (_mm256_setzero_si256(), _mm256_setzero_si256());
        for pair in values.as_flattened().as_chunks::<2>().0 {
            let within = pair.map(|other| {
                _mm256_castps_si256(_mm256_cmp_ps::<_CMP_LE_OQ>(_mm256_set1_ps(other), here))
            });
            (even, odd) = (_mm256_sub_epi32(even, within[0]), _mm256_sub_epi32(odd, within[1]));
        }
        let is_beyond = _mm256_cmpgt_epi32(_mm256_add_epi32(even, odd), rank);
        let beyond = _mm256_set1_ps(f32::INFINITY);
        let value = _mm256_blendv_ps(beyond, here, _mm256_castsi256_ps(is_beyond));
        least = _mm256_min_ps(value, least);
    }
    let four = _mm_min_ps(_mm256_castps256_ps128(least), _mm256_extractf128_ps::<1>(least));
    let two = _mm_min_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)))
}

/// Codes of four values each of eight points that stand side by side, point by point.
pub(crate) type CodeFours = [u8; 4 * LANES];

/// What else there is of eight points: one line of memory.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Eight {
    /// The squares of their distances from the origin.
    pub(crate) norms: [f32; LANES],
    /// Who they are.
    pub(crate) members: [u32; LANES],
}

/// The largest code of a point, and of a query, whose codes have a sign: sums of eight products fit 16 bits.
pub(crate) const CODE_MAX: u8 = 127;
const QUERY_CODE_MAX: i8 = 31;

/// Codes of a query, four together.
#[derive(Clone, Debug)]
pub(crate) struct QueryCodes(pub(crate) [[i8; 4]; BLOCK / 4]);

impl Default for QueryCodes {
    fn default() -> Self {
        Self([[0; 4]; BLOCK / 4])
    }
}

/// With so much added a number's integer part stands in the lowest bits, rounded to the nearest.
const ROUNDING: f32 = 12_582_912.0;

/// Returns the step of codes for values up to `largest`, and one over it; `None` where it is too small for an inverse,
/// or without an end: there is no code for it.
fn query_step(largest: f32) -> Option<(f32, f32)> {
    let least = f32::MIN_POSITIVE * f32::from(QUERY_CODE_MAX);
    let has_step = largest > least && largest < f32::INFINITY;
    let most = f32::from(QUERY_CODE_MAX);
    has_step.then_some((largest / most, most / largest))
}

/// Sets `codes` to those of `vector - origin`, one of [`WIDTHS`]; returns their step, their sum, and the square of the
/// difference.
///
/// # Panics
///
/// Panics when there are other numbers of values.
pub(crate) fn query_codes(
    level: Level,
    vector: &[f32],
    origin: &[f32],
    codes: &mut QueryCodes,
) -> (f32, i32, f32) {
    let (vector, rest) = vector.as_chunks::<LANES>();
    let (origin, more) = origin.as_chunks::<LANES>();
    assert!(WIDTHS.contains(&(LANES * vector.len())) && rest.is_empty(), "{WIDTHS:?} values");
    assert!(origin.len() == vector.len() && more.is_empty(), "an origin is as long as a vector");
    match level.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level is made only where the CPU has its instructions, and AVX-512 comes with AVX2.
        Set::Avx512 | Set::Avx2 => unsafe {
            // The number of values as a constant, so that they stay in registers.
            match vector.len() {
                2 => query_codes_avx2::<2>(vector, origin, codes),
                3 => query_codes_avx2::<3>(vector, origin, codes),
                4 => query_codes_avx2::<4>(vector, origin, codes),
                6 => query_codes_avx2::<6>(vector, origin, codes),
                _ => query_codes_avx2::<8>(vector, origin, codes),
            }
        },
        _ => query_codes_plain(vector, origin, codes),
    }
}

fn query_codes_plain(
    vector: &[[f32; LANES]],
    origin: &[[f32; LANES]],
    codes: &mut QueryCodes,
) -> (f32, i32, f32) {
    let mut differences = [[0.0_f32; LANES]; BLOCK / LANES];
    let (mut most, mut squares) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    for (differences, (vector, origin)) in differences.iter_mut().zip(vector.iter().zip(origin)) {
        for lane in 0..LANES {
            differences[lane] = vector[lane] - origin[lane];
            squares[lane] += differences[lane] * differences[lane];
            let size = differences[lane].abs();
            most[lane] = if size > most[lane] { size } else { most[lane] };
        }
    }
    // By halves, as vector instructions do.
    for half in [4, 2, 1] {
        for lane in 0..half {
            squares[lane] += squares[lane + half];
        }
    }
    codes.0.fill([0; 4]);
    let Some((step, inverse)) = query_step(most.into_iter().fold(0.0, f32::max)) else {
        return (0.0, 0, squares[0]);
    };
    let mut sum = 0;
    let fours = codes.0.as_flattened_mut().as_chunks_mut::<LANES>().0;
    for (codes, differences) in fours.iter_mut().zip(&differences[..vector.len()]) {
        for lane in 0..LANES {
            let bits = (differences[lane] * inverse + ROUNDING).to_bits();
            let code = bits.wrapping_sub(ROUNDING.to_bits()) as i32;
            sum += code;
            codes[lane] = code as i8;
        }
    }
    (step, sum, squares[0])
}

/// With `EIGHTS` times eight values.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn query_codes_avx2<const EIGHTS: usize>(
    vector: &[[f32; LANES]],
    origin: &[[f32; LANES]],
    codes: &mut QueryCodes,
) -> (f32, i32, f32) {
    let mut differences = [_mm256_setzero_ps(); EIGHTS];
    let (mut most, mut squares) = (_mm256_setzero_ps(), _mm256_setzero_ps());
    let minus = _mm256_set1_ps(-0.0);
    for (difference, (vector, origin)) in differences.iter_mut().zip(vector.iter().zip(origin)) {
        // SAFETY: eight values each are loaded.
        let (vector, origin) =
            unsafe { (_mm256_loadu_ps(vector.as_ptr()), _mm256_loadu_ps(origin.as_ptr())) };
        *difference = _mm256_sub_ps(vector, origin);
        squares = _mm256_add_ps(squares, _mm256_mul_ps(*difference, *difference));
        most = _mm256_max_ps(_mm256_andnot_ps(minus, *difference), most);
    }
    let halves = |eight: __m256| (_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let (low, high) = halves(squares);
    let four = _mm_add_ps(low, high);
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    let square = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    let (low, high) = halves(most);
    let four = _mm_max_ps(low, high);
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    let largest = _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
    let Some((step, inverse)) = query_step(largest) else {
        codes.0.fill([0; 4]);
        return (0.0, 0, square);
    };
    let (inverse, rounding) = (_mm256_set1_ps(inverse), _mm256_set1_ps(ROUNDING));
    let mut sums = _mm256_setzero_si256();
    let halves_of_codes = codes.0.as_chunks_mut::<8>().0;
    for (at, codes) in halves_of_codes.iter_mut().enumerate() {
        let mut steps = [_mm256_setzero_si256(); 4];
        for (steps, difference) in steps.iter_mut().zip(differences.iter().skip(4 * at)) {
            let bits = _mm256_add_ps(_mm256_mul_ps(*difference, inverse), rounding);
            *steps = _mm256_sub_epi32(_mm256_castps_si256(bits), _mm256_castps_si256(rounding));
            sums = _mm256_add_epi32(sums, *steps);
        }
        let [first, second, third, fourth] = steps;
        let (front, back) = (_mm256_packs_epi32(first, second), _mm256_packs_epi32(third, fourth));
        // Each half of these has four codes of each of the four.
        let mixed = _mm256_packs_epi16(front, back);
        let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
        let bytes = _mm256_permutevar8x32_epi32(mixed, order);
        // SAFETY: 32 codes go to an array of 32.
        unsafe { _mm256_storeu_si256(codes.as_mut_ptr().cast(), bytes) };
    }
    let four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b_01_00_11_10>(four));
    let sum = _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b_10_11_00_01>(two)));
    (step, sum, square)
}

/// What turns the dot product of codes into the square of a distance: `norm + base - unit * (dot - offset)`, where the
/// norm is the point's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CodeScale {
    pub(crate) base: f32,
    pub(crate) unit: f32,
    pub(crate) offset: i32,
}

/// Sets `squares` to those of the distances of points that stand eight side by side to a query, as near to them as codes
/// are: one may be a little below zero.
///
/// # Panics
///
/// Panics when there are not the codes of eight points and eight squares for each eight of these, or not one of [`WIDTHS`]
/// values.
pub(crate) fn code_squares(
    level: Level,
    (codes, points): (&[CodeFours], &[Eight]),
    query: &[[i8; 4]],
    scale: CodeScale,
    squares: &mut [[f32; LANES]],
) {
    assert!(WIDTHS.contains(&(4 * query.len())) && codes.len() == points.len() * query.len());
    assert_eq!(squares.len(), points.len(), "there is room for all");
    match level.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level is made only where the CPU has its instructions, and AVX-512 comes with AVX2.
        Set::Avx512 | Set::Avx2 => unsafe {
            let lists = (codes, points);
            // The number of codes as a constant, so that they stay in registers.
            match query.len() {
                4 => code_squares_avx2::<4>(lists, query, scale, squares),
                6 => code_squares_avx2::<6>(lists, query, scale, squares),
                8 => code_squares_avx2::<8>(lists, query, scale, squares),
                _ => code_squares_avx2::<0>(lists, query, scale, squares),
            }
        },
        _ => code_squares_plain((codes, points), query, scale, squares),
    }
}

fn code_squares_plain(
    (codes, points): (&[CodeFours], &[Eight]),
    query: &[[i8; 4]],
    scale: CodeScale,
    squares: &mut [[f32; LANES]],
) {
    let eights = codes.chunks_exact(query.len()).zip(points);
    for ((codes, points), squares) in eights.zip(squares) {
        let mut dots = [0_i32; LANES];
        for (codes, query) in codes.iter().zip(query) {
            for (dot, codes) in dots.iter_mut().zip(codes.as_chunks::<4>().0) {
                for (code, query) in codes.iter().zip(query) {
                    *dot += i32::from(*code) * i32::from(*query);
                }
            }
        }
        *squares = std::array::from_fn(|lane| {
            let dot = (dots[lane] - scale.offset) as f32;
            (points.norms[lane] + scale.base) - scale.unit * dot
        });
    }
}

/// With the codes of a query in `FOURS` times four, which stay in registers then; 0 is any number.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn code_squares_avx2<const FOURS: usize>(
    (codes, points): (&[CodeFours], &[Eight]),
    query: &[[i8; 4]],
    scale: CodeScale,
    squares: &mut [[f32; LANES]],
) {
    // Of so many fours the products fit a sum of 16 bits.
    const SUMMED: usize = 4;
    let (unit, base) = (_mm256_set1_ps(scale.unit), _mm256_set1_ps(scale.base));
    let (ones, before) = (_mm256_set1_epi16(1), _mm256_set1_epi32(-scale.offset));
    let broadcast =
        |four: &[i8; 4]| _mm256_set1_epi32(i32::from_le_bytes(four.map(i8::cast_unsigned)));
    let kept: [_; FOURS] = std::array::from_fn(|at| broadcast(&query[at]));
    for ((codes, points), squares) in codes.chunks_exact(query.len()).zip(points).zip(squares) {
        let products = |at: usize| {
            let query = if FOURS > 0 { kept[at] } else { broadcast(&query[at]) };
            // SAFETY: 32 codes are loaded.
            _mm256_maddubs_epi16(unsafe { _mm256_loadu_si256(codes[at].as_ptr().cast()) }, query)
        };
        let (mut dots, mut first) = (before, 0);
        let end = if FOURS > 0 { FOURS } else { query.len() };
        while first < end {
            let mut sums = products(first);
            for at in first + 1..end.min(first + SUMMED) {
                sums = _mm256_add_epi16(sums, products(at));
            }
            dots = _mm256_add_epi32(dots, _mm256_madd_epi16(sums, ones));
            first += SUMMED;
        }
        let dots = _mm256_cvtepi32_ps(dots);
        // SAFETY: eight norms are loaded, and eight squares go to an array of eight.
        unsafe {
            let based = _mm256_add_ps(_mm256_loadu_ps(points.norms.as_ptr()), base);
            let square = _mm256_sub_ps(based, _mm256_mul_ps(unit, dots));
            _mm256_storeu_ps(squares.as_mut_ptr(), square);
        }
    }
}
