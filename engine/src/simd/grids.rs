//! Distances over grids: codes of 16 bits a value, compared in single precision.

use super::*;

/// Independent partial sums.
const WIDE: usize = 16;

/// What the steps of a grid weigh.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Weights {
    each: Vec<f32>,
    /// Those of the last run. Where the values are not whole runs it begins among those of the run before, which it does not
    /// count again.
    last: [f32; WIDE],
}

impl Weights {
    /// Returns the weights of these values.
    pub(crate) fn new(each: Vec<f32>) -> Self {
        let counted = each.len() / WIDE * WIDE;
        let begin = each.len().saturating_sub(WIDE);
        let mut last = [0.0; WIDE];
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
        Set::Avx512 | Set::Avx2 if target.len() >= WIDE => {
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
    let mut lanes = [0.0_f32; WIDE];
    let mut add = |target: &[f32; WIDE], weight: &[f32; WIDE], codes: &[u16; WIDE]| {
        for lane in 0..WIDE {
            let difference = (target[lane] - f32::from(codes[lane])) * weight[lane];
            lanes[lane] += difference * difference;
        }
    };
    let runs = codes.as_chunks::<WIDE>().0.iter().zip(target.as_chunks::<WIDE>().0);
    for ((codes, target), weight) in runs.zip(weights.each.as_chunks::<WIDE>().0) {
        add(target, weight, codes);
    }
    if !codes.len().is_multiple_of(WIDE) {
        match (target.last_chunk::<WIDE>(), codes.last_chunk::<WIDE>()) {
            (Some(target), Some(codes)) => add(target, &weights.last, codes),
            _ => {
                for (lane, (target, code)) in target.iter().zip(codes).enumerate() {
                    let difference = (target - f32::from(*code)) * weights.each[lane];
                    lanes[lane] += difference * difference;
                }
            }
        }
    }
    // By halves, so that lanes are summed together.
    let mut half = WIDE;
    while half > 1 {
        half /= 2;
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
    }
    lanes[0]
}

widened! {
    /// Appends `(values - lower) * inverse` to `steps`.
    fn grid_steps(values: &[f32], lower: &[f64], inverse: &[f64], steps: &mut Vec<f32>) {
        let grid = lower.iter().zip(inverse);
        let values = values.iter().zip(grid);
        steps.extend(
            values.map(|(value, (lower, inverse))| ((f64::from(*value) - lower) * inverse) as f32),
        );
    }
}

/// For targets of at least [`WIDE`] values.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn grid_squares_avx2(
    target: &[f32],
    weights: &Weights,
    codes: &[u16],
    rows: &[u32],
    squares: &mut [f32],
) {
    let add = |lanes: &mut [__m256; 2],
               target: &[f32; WIDE],
               weight: &[f32; WIDE],
               codes: &[u16; WIDE]| {
        for (lanes, at) in lanes.iter_mut().zip([0, LANES]) {
            // SAFETY: eight values of each sixteen are loaded, the first ones or the last.
            let (target, weight, codes) = unsafe {
                let codes = _mm_loadu_si128(codes.as_ptr().add(at).cast());
                let target = _mm256_loadu_ps(target.as_ptr().add(at));
                (target, _mm256_loadu_ps(weight.as_ptr().add(at)), codes)
            };
            let code = _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(codes));
            let difference = _mm256_mul_ps(_mm256_sub_ps(target, code), weight);
            *lanes = _mm256_add_ps(*lanes, _mm256_mul_ps(difference, difference));
        }
    };
    let (targets, weight_runs) = (target.as_chunks::<WIDE>().0, weights.each.as_chunks::<WIDE>().0);
    for (row, square) in rows.iter().zip(squares) {
        let codes = &codes[*row as usize * target.len()..][..target.len()];
        let mut lanes = [_mm256_setzero_ps(); 2];
        let runs = codes.as_chunks::<WIDE>().0.iter().zip(targets);
        for ((codes, target), weight) in runs.zip(weight_runs) {
            add(&mut lanes, target, weight, codes);
        }
        if !codes.len().is_multiple_of(WIDE)
            && let (Some(target), Some(codes)) = (target.last_chunk(), codes.last_chunk())
        {
            add(&mut lanes, target, &weights.last, codes);
        }
        let eight = _mm256_add_ps(lanes[0], lanes[1]);
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
