//! Eigenvalues and eigenvectors of a symmetric matrix by Jacobi's rotations (1846).

/// Sweeps over all pairs; ten are plenty for the few hundred channels that telemetry has.
const SWEEPS_MAX: usize = 30;

/// The axes of a symmetric matrix.
pub(super) struct Eigen {
    /// One for each axis, in no order.
    pub(super) values: Vec<f64>,
    /// Row-major; each column is an axis of length one.
    vectors: Vec<f64>,
}

impl Eigen {
    /// Returns the coordinates of a row, from `mean`, along the axes.
    pub(super) fn project(&self, row: &[f64], mean: &[f64]) -> Vec<f64> {
        let dims = self.values.len();
        let mut along = vec![0.0; dims];
        for (channel, axes) in self.vectors.chunks_exact(dims).enumerate() {
            let from_mean = row[channel] - mean[channel];
            along.iter_mut().zip(axes).for_each(|(sum, axis)| *sum += from_mean * axis);
        }
        along
    }
}

/// Returns the axes of a symmetric matrix, row-major.
pub(super) fn symmetric(mut matrix: Vec<f64>, dims: usize) -> Eigen {
    let mut vectors = vec![0.0; dims * dims];
    (0..dims).for_each(|axis| vectors[axis * dims + axis] = 1.0);
    for _ in 0..SWEEPS_MAX {
        let mut largest = 0.0_f64;
        for p in 0..dims {
            for q in p + 1..dims {
                largest = largest.max(rotate(&mut matrix, &mut vectors, dims, p, q));
            }
        }
        if largest < 1e-12 {
            break;
        }
    }
    Eigen { values: (0..dims).map(|axis| matrix[axis * dims + axis]).collect(), vectors }
}

/// Turns the plane of `p` and `q` so that their common element vanishes; returns how large it was beside
/// theirs.
fn rotate(matrix: &mut [f64], vectors: &mut [f64], dims: usize, p: usize, q: usize) -> f64 {
    let (pp, qq, pq) = (matrix[p * dims + p], matrix[q * dims + q], matrix[p * dims + q]);
    let size = pq.abs() / (pp * qq).abs().sqrt().max(f64::MIN_POSITIVE);
    if pq.abs() < f64::MIN_POSITIVE || size < 1e-15 {
        return 0.0;
    }
    let theta = (qq - pp) / (2.0 * pq);
    let tangent = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
    let cosine = 1.0 / (tangent * tangent + 1.0).sqrt();
    let sine = tangent * cosine;
    for k in 0..dims {
        let (a, b) = (matrix[k * dims + p], matrix[k * dims + q]);
        matrix[k * dims + p] = cosine * a - sine * b;
        matrix[k * dims + q] = sine * a + cosine * b;
        let (a, b) = (vectors[k * dims + p], vectors[k * dims + q]);
        vectors[k * dims + p] = cosine * a - sine * b;
        vectors[k * dims + q] = sine * a + cosine * b;
    }
    for k in 0..dims {
        let (a, b) = (matrix[p * dims + k], matrix[q * dims + k]);
        matrix[p * dims + k] = cosine * a - sine * b;
        matrix[q * dims + k] = sine * a + cosine * b;
    }
    size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_give_the_matrix_back() {
        let dims = 7;
        let element =
            |a: usize, b: usize| ((a * b + a + b) % 5) as f64 + if a == b { 3.0 } else { 0.0 };
        let matrix: Vec<f64> = (0..dims * dims).map(|at| element(at / dims, at % dims)).collect();
        let eigen = symmetric(matrix.clone(), dims);
        for (at, expected) in matrix.iter().enumerate() {
            let (row, column) = (at / dims * dims, at % dims * dims);
            let sum: f64 = (0..dims)
                .map(|k| eigen.vectors[row + k] * eigen.values[k] * eigen.vectors[column + k])
                .sum();
            assert!((sum - expected).abs() < 1e-10, "{sum} {expected}");
        }
    }
}
