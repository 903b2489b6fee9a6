//! What lists of points are narrowed down with: codes compared eight points side by side, and what is within a bound taken
//! out without sorting.

use super::*;

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

    /// Leaves those that are at most `most`.
    pub(crate) fn keep_within(&mut self, most: f32) {
        let mut kept = 0;
        for at in 0..self.count {
            // Written in any case, because which ones are within cannot be foreseen; compared before that, so that nothing
            // waits for what was just written.
            let (sum, place) = (self.sums[at], self.places[at]);
            (self.sums[kept], self.places[kept]) = (sum, place);
            kept += usize::from(sum <= most);
        }
        self.count = kept;
    }
}

/// Takes out the sums that are at most `most`.
pub(crate) fn take_within(level: Level, sums: &[[f32; LANES]], most: f32, taken: &mut Taken) {
    let Taken { sums: taken_sums, places, count } = taken;
    let room = LANES * sums.len();
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

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,popcnt")]
fn take_within_avx2(
    sums: &[[f32; LANES]],
    most: f32,
    (taken, places): (&mut [f32], &mut [u32]),
) -> usize {
    let room = LANES * sums.len();
    assert!(taken.len() >= room && places.len() >= room, "there is room for all");
    let most = _mm256_set1_ps(most);
    let mut count = 0;
    for (eight, first) in sums.iter().zip((0..).step_by(LANES)) {
        // SAFETY: eight sums are loaded.
        let sums = unsafe { _mm256_loadu_ps(eight.as_ptr()) };
        let set = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LE_OQ>(sums, most)) as u8;
        // SAFETY: eight bytes are loaded.
        let lanes = unsafe { _mm_loadl_epi64(LANES_OF[usize::from(set)].as_ptr().cast()) };
        let lanes = _mm256_cvtepu8_epi32(lanes);
        // SAFETY: of each eight before at most eight were counted, so there is room for these.
        unsafe {
            let taken = taken.as_mut_ptr().add(count);
            _mm256_storeu_ps(taken, _mm256_permutevar8x32_ps(sums, lanes));
            let places = places.as_mut_ptr().add(count);
            let stood = _mm256_add_epi32(lanes, _mm256_set1_epi32(first));
            _mm256_storeu_si256(places.cast(), stood);
        }
        count += set.count_ones() as usize;
    }
    count
}

/// Returns the least value that more than `rank` values are not above; infinity when there is none.
pub(crate) fn at_rank(level: Level, values: &[[f32; LANES]], rank: u32) -> f32 {
    let least = match level.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level is made only where the CPU has its instructions, and AVX-512 comes with AVX2.
        Set::Avx512 | Set::Avx2 => unsafe { at_rank_avx2(values, rank) },
        _ => at_rank_plain(values, rank),
    };
    least.into_iter().fold(f32::INFINITY, |least, value| if value < least { value } else { least })
}

fn at_rank_plain(values: &[[f32; LANES]], rank: u32) -> [f32; LANES] {
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
    least
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn at_rank_avx2(values: &[[f32; LANES]], rank: u32) -> [f32; LANES] {
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
    let mut lanes = [0.0; LANES];
    // SAFETY: eight values go to an array of eight.
    unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), least) };
    lanes
}

/// Codes of four values each of eight points that stand side by side, point by point.
pub(crate) type CodeFours = [u8; 4 * LANES];

/// The largest code of a point, and of a query, whose codes have a sign: sums of four products fit 16 bits.
pub(crate) const CODE_MAX: u8 = 127;
const QUERY_CODE_MAX: i8 = 63;

/// Codes of a query, four together.
#[derive(Clone, Debug)]
pub(crate) struct QueryCodes(pub(crate) [[i8; 4]; BLOCK / 4]);

impl Default for QueryCodes {
    fn default() -> Self {
        Self([[0; 4]; BLOCK / 4])
    }
}

widened! {
    /// Sets `codes` to those of `vector - origin`, at most [`BLOCK`] values and a multiple of eight; returns their step,
    /// their sum, and the square of the difference.
    fn query_codes(vector: &[f32], origin: &[f32], codes: &mut QueryCodes) -> (f32, i32, f32) {
        // With so much added a number's integer part stands in the lowest bits, rounded to the nearest.
        const ROUNDING: f32 = 12_582_912.0;
        let mut differences = [[0.0_f32; LANES]; BLOCK / LANES];
        let (mut most, mut squares) = ([0.0_f32; LANES], [0.0_f32; LANES]);
        let eights = vector.as_chunks::<LANES>().0.iter().zip(origin.as_chunks::<LANES>().0);
        for (differences, (vector, origin)) in differences.iter_mut().zip(eights) {
            for lane in 0..LANES {
                differences[lane] = vector[lane] - origin[lane];
                squares[lane] += differences[lane] * differences[lane];
                let size = differences[lane].abs();
                most[lane] = if size > most[lane] { size } else { most[lane] };
            }
        }
        let largest = most.into_iter().fold(0.0, f32::max);
        // Too small for an inverse, or without an end: there is no code for it.
        let least = f32::MIN_POSITIVE * f32::from(QUERY_CODE_MAX);
        if !(largest > least && largest < f32::INFINITY) {
            codes.0.fill([0; 4]);
            return (0.0, 0, squares.iter().sum());
        }
        let inverse = f32::from(QUERY_CODE_MAX) / largest;
        let mut sums = [0_i32; LANES];
        let fours = codes.0.as_flattened_mut().as_chunks_mut::<LANES>().0;
        for (codes, differences) in fours.iter_mut().zip(&differences[..vector.len() / LANES]) {
            for lane in 0..LANES {
                let bits = (differences[lane] * inverse + ROUNDING).to_bits();
                let step = bits.wrapping_sub(ROUNDING.to_bits()) as i32;
                sums[lane] += step;
                codes[lane] = step as i8;
            }
        }
        (largest / f32::from(QUERY_CODE_MAX), sums.iter().sum(), squares.iter().sum())
    }
}

/// What turns the dot product of codes into the square of a distance: `norm + base - unit * (dot - offset)`, where the
/// norm is the point's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodeScale {
    pub(crate) base: f32,
    pub(crate) unit: f32,
    pub(crate) offset: i32,
}

/// Appends the squares of the distances of points that stand eight side by side to a query; none is below zero.
///
/// # Panics
///
/// Panics when there are not the codes of eight points for each eight norms, or not a multiple of eight values.
pub(crate) fn code_squares(
    level: Level,
    (codes, norms): (&[CodeFours], &[[f32; LANES]]),
    query: &[[i8; 4]],
    scale: CodeScale,
    squares: &mut Vec<[f32; LANES]>,
) {
    assert!(query.len().is_multiple_of(2) && codes.len() == norms.len() * query.len());
    match level.0 {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a level is made only where the CPU has its instructions, and AVX-512 comes with AVX2.
        Set::Avx512 | Set::Avx2 => unsafe {
            let lists = (codes, norms);
            match query.as_chunks::<2>().0 {
                query @ [_, _] => code_squares_avx2::<2>(lists, query, scale, squares),
                query @ [_, _, _, _] => code_squares_avx2::<4>(lists, query, scale, squares),
                query => code_squares_avx2::<0>(lists, query, scale, squares),
            }
        },
        _ => code_squares_plain((codes, norms), query, scale, squares),
    }
}

fn code_squares_plain(
    (codes, norms): (&[CodeFours], &[[f32; LANES]]),
    query: &[[i8; 4]],
    scale: CodeScale,
    squares: &mut Vec<[f32; LANES]>,
) {
    for (codes, norms) in codes.chunks_exact(query.len()).zip(norms) {
        let mut dots = [0_i32; LANES];
        for (codes, query) in codes.iter().zip(query) {
            for (dot, codes) in dots.iter_mut().zip(codes.as_chunks::<4>().0) {
                for (code, query) in codes.iter().zip(query) {
                    *dot += i32::from(*code) * i32::from(*query);
                }
            }
        }
        squares.push(std::array::from_fn(|lane| {
            let dot = (dots[lane] - scale.offset) as f32;
            let square = (norms[lane] + scale.base) - scale.unit * dot;
            if square > 0.0 { square } else { 0.0 }
        }));
    }
}

/// With the codes of a query in `PAIRS` pairs of four, which stay in registers then; 0 is any number.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn code_squares_avx2<const PAIRS: usize>(
    (codes, norms): (&[CodeFours], &[[f32; LANES]]),
    query: &[[[i8; 4]; 2]],
    scale: CodeScale,
    squares: &mut Vec<[f32; LANES]>,
) {
    let (unit, base) = (_mm256_set1_ps(scale.unit), _mm256_set1_ps(scale.base));
    let (ones, offset) = (_mm256_set1_epi16(1), _mm256_set1_epi32(scale.offset));
    let broadcast = |codes: [[i8; 4]; 2]| {
        codes.map(|four| _mm256_set1_epi32(i32::from_le_bytes(four.map(i8::cast_unsigned))))
    };
    let kept: [_; PAIRS] = std::array::from_fn(|at| broadcast(query[at]));
    let first = squares.len();
    squares.resize(first + norms.len(), [0.0; LANES]);
    let eights = codes.as_chunks::<2>().0.chunks_exact(query.len());
    for ((codes, norms), squares) in eights.zip(norms).zip(&mut squares[first..]) {
        let mut dots = _mm256_setzero_si256();
        let mut add = |codes: &[CodeFours; 2], query: [__m256i; 2]| {
            let products = |at: usize| {
                // SAFETY: 32 codes are loaded.
                let codes = unsafe { _mm256_loadu_si256(codes[at].as_ptr().cast()) };
                _mm256_maddubs_epi16(codes, query[at])
            };
            let products = _mm256_add_epi16(products(0), products(1));
            dots = _mm256_add_epi32(dots, _mm256_madd_epi16(products, ones));
        };
        if PAIRS > 0 {
            codes.iter().zip(kept).for_each(|(codes, query)| add(codes, query));
        } else {
            codes.iter().zip(query).for_each(|(codes, query)| add(codes, broadcast(*query)));
        }
        let dots = _mm256_cvtepi32_ps(_mm256_sub_epi32(dots, offset));
        // SAFETY: eight norms are loaded, and eight squares go to an array of eight.
        unsafe {
            let based = _mm256_add_ps(_mm256_loadu_ps(norms.as_ptr()), base);
            let square = _mm256_sub_ps(based, _mm256_mul_ps(unit, dots));
            _mm256_storeu_ps(squares.as_mut_ptr(), _mm256_max_ps(square, _mm256_setzero_ps()));
        }
    }
}
