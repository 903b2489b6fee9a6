//! Which channel predicts which: metrics of one machine move together.

/// How many channels on its left a channel may take its guide from. More cost time in proportion.
const REACH: usize = 64;

/// How many steps of each channel are compared.
const STEPS_MAX: usize = 4096;

/// Smallest share of variance (squared correlation of steps) that makes a guide better than the
/// neighbor on the left.
const SHARE_MIN: f64 = 0.01;

/// Returns for each column the one on its left whose steps are most like its own; the first has itself.
pub(super) fn choose(columns: &[Vec<i32>]) -> Vec<u16> {
    let steps: Vec<Vec<f64>> = columns.iter().map(|column| sampled_steps(column)).collect();
    let powers: Vec<f64> = steps.iter().map(|steps| product(steps, steps)).collect();
    let guide = |at: usize| {
        let mut best = (SHARE_MIN, at.saturating_sub(1));
        for left in at.saturating_sub(REACH)..at {
            let both = product(&steps[at], &steps[left]);
            let share = both * both / (powers[at] * powers[left]).max(f64::MIN_POSITIVE);
            if share > best.0 {
                best = (share, left);
            }
        }
        u16::try_from(best.1).expect("a dimension is at most 4,096")
    };
    (0..columns.len()).map(guide).collect()
}

/// Returns evenly spaced differences of neighbors.
fn sampled_steps(column: &[i32]) -> Vec<f64> {
    let apart = column.len().div_ceil(STEPS_MAX).max(1);
    let step = |pair: &[i32]| f64::from(pair[1]) - f64::from(pair[0]);
    column.windows(2).step_by(apart).map(step).collect()
}

fn product(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(a, b)| a * b).sum()
}
