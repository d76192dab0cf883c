//! How well a score orders positives above negatives: PR curve, average precision, ROC area.

/// One point of a precision-recall curve: what calling every score at or above `threshold`
/// positive would give.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// Lowest score called positive.
    pub threshold: f32,
    /// Share of what is called positive that is.
    pub precision: f64,
    /// Share of the positives that is called positive.
    pub recall: f64,
}

/// Points from the highest threshold to the lowest, one per distinct score: ties move together,
/// because no threshold can part them.
///
/// Empty when there is no positive. NaN scores sort below everything.
///
/// # Panics
/// When the two slices differ in length.
pub fn precision_recall_curve(scores: &[f32], positive: &[bool]) -> Vec<PrecisionRecall> {
    let total = positive.iter().filter(|&&p| p).count();
    if total == 0 {
        return Vec::new();
    }
    let order = descending(scores, positive);
    let mut curve = Vec::new();
    let (mut hits, mut called) = (0usize, 0usize);
    for (rank, &(score, is_positive)) in order.iter().enumerate() {
        called += 1;
        hits += usize::from(is_positive);
        let last_of_tie = order.get(rank + 1).is_none_or(|next| next.0 < score);
        if last_of_tie {
            curve.push(PrecisionRecall {
                threshold: score,
                precision: hits as f64 / called as f64,
                recall: hits as f64 / total as f64,
            });
        }
    }
    curve
}

/// Area under the precision-recall curve as the sum of precision over steps of recall (no
/// interpolation, which would flatter a poor ranking). `None` without positives.
pub fn average_precision(scores: &[f32], positive: &[bool]) -> Option<f64> {
    let curve = precision_recall_curve(scores, positive);
    curve.last()?;
    let mut before = 0.0;
    Some(
        curve
            .iter()
            .map(|point| {
                let step = point.recall - before;
                before = point.recall;
                step * point.precision
            })
            .sum(),
    )
}

/// Probability that a positive scores above a negative, ties counted half. `None` when either
/// kind is missing.
pub fn roc_auc(scores: &[f32], positive: &[bool]) -> Option<f64> {
    let order = descending(scores, positive);
    let positives = order.iter().filter(|entry| entry.1).count();
    let negatives = order.len() - positives;
    if positives == 0 || negatives == 0 {
        return None;
    }
    let (mut wins, mut positives_above) = (0.0, 0usize);
    let mut start = 0;
    while start < order.len() {
        let end = start
            + order[start..].iter().take_while(|e| e.0.total_cmp(&order[start].0).is_ge()).count();
        let tied_positives = order[start..end].iter().filter(|e| e.1).count();
        let tied_negatives = end - start - tied_positives;
        wins += tied_negatives as f64 * (positives_above as f64 + 0.5 * tied_positives as f64);
        positives_above += tied_positives;
        start = end;
    }
    Some(wins / (positives as f64 * negatives as f64))
}

fn descending(scores: &[f32], positive: &[bool]) -> Vec<(f32, bool)> {
    assert_eq!(scores.len(), positive.len(), "one label per score");
    let floor = |score: f32| if score.is_nan() { f32::NEG_INFINITY } else { score };
    let mut order: Vec<_> =
        scores.iter().zip(positive).map(|(&score, &label)| (floor(score), label)).collect();
    order.sort_by(|a, b| b.0.total_cmp(&a.0));
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    // Ranking + - + - : precision 1, 1/2, 2/3, 1/2 at recall 1/2, 1/2, 1, 1.
    const SCORES: [f32; 4] = [0.9, 0.8, 0.7, 0.1];
    const LABELS: [bool; 4] = [true, false, true, false];

    #[test]
    fn average_precision_is_the_hand_computed_sum() {
        let expected = 0.5 * 1.0 + 0.5 * (2.0 / 3.0);
        assert!((average_precision(&SCORES, &LABELS).unwrap() - expected).abs() < 1e-12);
    }

    #[test]
    fn roc_area_counts_ordered_pairs() {
        // Pairs (positive, negative): .9>.8, .9>.1, .7<.8, .7>.1: three of four.
        assert_eq!(roc_auc(&SCORES, &LABELS), Some(0.75));
        // All tied: every pair is worth a half.
        assert_eq!(roc_auc(&[0.5; 4], &LABELS), Some(0.5));
    }

    #[test]
    fn ties_move_together_whatever_the_order_of_the_input() {
        let forward = precision_recall_curve(&[0.5, 0.5, 0.2], &[true, false, true]);
        let backward = precision_recall_curve(&[0.2, 0.5, 0.5], &[true, false, true]);
        assert_eq!(forward, backward);
        assert_eq!(forward[0], PrecisionRecall { threshold: 0.5, precision: 0.5, recall: 0.5 });
        assert_eq!(forward.len(), 2);
    }

    #[test]
    fn undefined_measures_are_none() {
        assert_eq!(average_precision(&[0.1, 0.2], &[false, false]), None);
        assert_eq!(roc_auc(&[0.1, 0.2], &[true, true]), None);
        assert_eq!(roc_auc(&[], &[]), None);
    }

    #[test]
    fn a_nan_score_ranks_last() {
        assert_eq!(roc_auc(&[f32::NAN, 0.1], &[true, false]), Some(0.0));
    }
}
