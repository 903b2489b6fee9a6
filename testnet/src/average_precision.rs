//! Average precision: how well scores rank what is labelled above what is not.

/// Returns the average precision of `scores` against `labels`: the sum over distinct thresholds, from
/// the highest score down, of precision times the recall gained. Equal scores share one threshold, as in
/// scikit-learn's `average_precision_score`, so no order among them flatters the result.
///
/// `None` when nothing is labelled, or a score is not a number: there is nothing to measure then.
///
/// No point adjustment: each observation counts for itself.
pub(crate) fn average_precision(scores: &[f64], labels: &[bool]) -> Option<f64> {
    assert_eq!(scores.len(), labels.len(), "every score has a label");
    let positives = labels.iter().filter(|label| **label).count();
    if positives == 0 || scores.iter().any(|score| score.is_nan()) {
        return None;
    }
    let mut ranked: Vec<(f64, bool)> = scores.iter().copied().zip(labels.iter().copied()).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut found, mut seen, mut sum) = (0_usize, 0_usize, 0.0);
    for group in ranked.chunk_by(|a, b| a.0 == b.0) {
        let gained = group.iter().filter(|(_, label)| *label).count();
        found += gained;
        seen += group.len();
        sum += (gained as f64 / positives as f64) * (found as f64 / seen as f64);
    }
    Some(sum)
}

#[cfg(test)]
mod tests {
    use super::average_precision;

    #[track_caller]
    fn assert_ap(scores: &[f64], labels: &[u8], expected: f64) {
        let labels: Vec<bool> = labels.iter().map(|label| *label == 1).collect();
        let ap = average_precision(scores, &labels).unwrap();
        assert!((ap - expected).abs() < 1e-12, "{ap} is not {expected}");
    }

    #[test]
    fn cases_worked_out_by_hand() {
        assert_ap(&[0.9, 0.8, 0.1, 0.0], &[1, 1, 0, 0], 1.0);
        // Precision 1 at the first positive, 2/3 at the second.
        assert_ap(&[0.9, 0.8, 0.7, 0.1], &[1, 0, 1, 0], 0.5 + 0.5 * 2.0 / 3.0);
        // The example in scikit-learn's documentation.
        assert_ap(&[0.1, 0.4, 0.35, 0.8], &[0, 0, 1, 1], 0.833_333_333_333_333_4);
        assert_ap(&[0.9, 0.8, 0.1], &[0, 0, 1], 1.0 / 3.0);
    }

    #[test]
    fn equal_scores_share_a_threshold() {
        // A constant score is worth the share of positives, in whatever order they come.
        assert_ap(&[0.5; 4], &[1, 0, 0, 0], 0.25);
        assert_ap(&[0.5; 4], &[0, 0, 0, 1], 0.25);
        // One positive alone, then one among three equals: 1/2 + 1/2 * 2/4.
        assert_ap(&[0.9, 0.5, 0.5, 0.5], &[1, 0, 1, 0], 0.75);
    }

    #[test]
    fn nothing_labelled_is_nothing_measured() {
        assert_eq!(average_precision(&[0.1, 0.2], &[false, false]), None);
        assert_eq!(average_precision(&[], &[]), None);
        assert_eq!(average_precision(&[f64::NAN, 0.2], &[true, false]), None);
    }
}
