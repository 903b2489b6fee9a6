//! Distances over grids: codes of 16 bits a value, compared in single precision.

use super::*;

/// What the steps of a grid weigh.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Weights {
    each: Vec<f32>,
    /// Where the values are not whole eights, those of the last eight values. These begin among the eight before, which do not
    /// count again.
    last: [f32; LANES],
}

impl Weights {
    /// Returns the weights of these values.
    pub(crate) fn new(each: Vec<f32>) -> Self {
        let counted = each.len() / LANES * LANES;
        let begin = each.len().saturating_sub(LANES);
        let mut last = [0.0; LANES];
        for (place, weight) in each.iter().enumerate().skip(counted) {
            last[place - begin] = *weight;
        }
        Self { each, last }
    }

    /// Returns how many there are.
    pub(crate) const fn count(&self) -> usize {
        self.each.len()
    }

    /// Returns how many bytes of memory the weights take.
    pub(crate) const fn byte_count(&self) -> usize {
        size_of::<f32>() * self.each.len()
    }
}

/// Sets `squares[i]` to the sum of the squares of `(target - code) * weight` for row `rows[i]` of `codes`, which stand row by
/// row.
///
/// # Panics
///
/// Panics when there is no such row, or the target has another number of values.
pub(crate) fn grid_squares_of(
    level: Level,
    target: &[f32],
    weights: &Weights,
    codes: &[u16],
    rows: &[u32],
    squares: &mut [f32],
) {
    assert_eq!(target.len(), weights.count(), "a target has a value for each weight");
    match level.0 {
        #[cfg(target_arch = "x86_64")]
        Set::Avx512 | Set::Avx2 if target.len() >= LANES => {
            // SAFETY: a level is made only where the CPU has its instructions, and AVX-512 comes with AVX2.
            unsafe { grid_squares_avx2(target, weights, codes, rows, squares) }
        }
        _ => {
            for (row, square) in rows.iter().zip(squares) {
                let codes = &codes[*row as usize * target.len()..][..target.len()];
                *square = grid_squares_plain(target, weights, codes);
            }
        }
    }
}

fn grid_squares_plain(target: &[f32], weights: &Weights, codes: &[u16]) -> f32 {
    // Even eights and odd ones apart, so that none waits for the one before it.
    let mut sums = [[0.0_f32; LANES]; 2];
    let mut add = |sum: usize, target: &[f32], weight: &[f32], codes: &[u16]| {
        for (lane, ((target, weight), code)) in target.iter().zip(weight).zip(codes).enumerate() {
            let difference = (target - f32::from(*code)) * weight;
            sums[sum][lane] += difference * difference;
        }
    };
    let (eights, rest) = codes.as_chunks::<LANES>();
    let others = target.as_chunks::<LANES>().0.iter().zip(weights.each.as_chunks::<LANES>().0);
    for (at, (codes, (target, weight))) in eights.iter().zip(others).enumerate() {
        add(at % 2, target, weight, codes);
    }
    if !rest.is_empty() {
        match (target.last_chunk::<LANES>(), codes.last_chunk::<LANES>()) {
            (Some(target), Some(codes)) => add(eights.len() % 2, target, &weights.last, codes),
            _ => add(0, target, &weights.each, codes),
        }
    }
    let mut eight: [f32; LANES] = std::array::from_fn(|lane| sums[0][lane] + sums[1][lane]);
    // By halves, as vector instructions do.
    for half in [4, 2, 1] {
        for lane in 0..half {
            eight[lane] += eight[lane + half];
        }
    }
    eight[0]
}

widened! {
    /// Appends the roots of `squares * unit + more`.
    fn roots(squares: &[f32], unit: f64, more: f64, roots: &mut Vec<f64>) {
        roots.extend(squares.iter().map(|square| (f64::from(*square) * unit + more).sqrt()));
    }
}

widened! {
    /// Makes values steps of a grid: `(value - lower) * inverse`.
    fn grid_steps(values: &mut [f32], lower: &[f64], inverse: &[f64]) {
        for (value, (lower, inverse)) in values.iter_mut().zip(lower.iter().zip(inverse)) {
            *value = ((f64::from(*value) - lower) * inverse) as f32;
        }
    }
}

/// For targets of at least eight values.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn grid_squares_avx2(
    target: &[f32],
    weights: &Weights,
    codes: &[u16],
    rows: &[u32],
    squares: &mut [f32],
) {
    let added =
        |sum: __m256, target: &[f32; LANES], weight: &[f32; LANES], codes: &[u16; LANES]| {
            // SAFETY: eight values of each are loaded.
            let (target, weight, codes) = unsafe {
                let codes = _mm_loadu_si128(codes.as_ptr().cast());
                (_mm256_loadu_ps(target.as_ptr()), _mm256_loadu_ps(weight.as_ptr()), codes)
            };
            let code = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(codes));
            let difference = _mm256_mul_ps(_mm256_sub_ps(target, code), weight);
            _mm256_add_ps(sum, _mm256_mul_ps(difference, difference))
        };
    let (targets, each) = (target.as_chunks::<LANES>().0, weights.each.as_chunks::<LANES>().0);
    let is_whole = target.len().is_multiple_of(LANES);
    for (row, square) in rows.iter().zip(squares) {
        let codes = &codes[*row as usize * target.len()..][..target.len()];
        let (mut even, mut odd) = (_mm256_setzero_ps(), _mm256_setzero_ps());
        for ((codes, target), weight) in codes.as_chunks().0.iter().zip(targets).zip(each) {
            (even, odd) = (odd, added(even, target, weight, codes));
        }
        if !is_whole && let (Some(target), Some(codes)) = (target.last_chunk(), codes.last_chunk())
        {
            even = added(even, target, &weights.last, codes);
        }
        let eight = _mm256_add_ps(even, odd);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        *square = _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::random::Random;

    #[test]
    fn grids_are_compared_alike_on_every_level() {
        let mut random = Random::new(6);
        for width in (1..50).chain([304]) {
            let target: Vec<f32> = (0..width).map(|_| random.unit() * 65_535.0).collect();
            let weight: Vec<f32> = (0..width).map(|_| random.unit()).collect();
            let weights = Weights::new(weight.clone());
            let codes: Vec<u16> =
                (0..width * 7).map(|_| (random.unit() * 65_535.0) as u16).collect();
            let rows = [5, 0, 6, 3];
            let of = |level| {
                let mut squares = [0.0; 4];
                grid_squares_of(level, &target, &weights, &codes, &rows, &mut squares);
                squares
            };
            let squares = of(Level::detect());
            for level in Level::available() {
                assert_eq!(of(level), squares, "{level:?}");
            }
            for (row, square) in rows.iter().zip(squares) {
                let codes = &codes[*row as usize * width..][..width];
                assert_eq!(grid_squares_plain(&target, &weights, codes), square);
                let terms =
                    target.iter().zip(&weight).zip(codes).map(|((target, weight), code)| {
                        (f64::from(*target) - f64::from(*code)) * f64::from(*weight)
                    });
                let exact: f64 = terms.map(|term| term * term).sum();
                assert!((f64::from(square) - exact).abs() <= 1e-5 * exact, "{square} {exact}");
            }
        }
    }
}
