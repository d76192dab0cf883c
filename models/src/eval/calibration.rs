//! Whether a score of 0.8 is right eight times in ten.

use serde::{Deserialize, Serialize};

/// Predictions whose confidence fell into one bin.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CalibrationBin {
    /// Lower edge of the bin; all bins are equally wide on 0..=1.
    pub from: f64,
    /// Predictions in the bin.
    pub count: u64,
    /// Their mean confidence.
    pub confidence: f64,
    /// Share of them that was right.
    pub accuracy: f64,
}

/// The reliability diagram: the bins that hold anything, lowest first.
///
/// `confidence` is clamped to 0..=1; 1.0 belongs to the last bin.
///
/// # Panics
/// When the slices differ in length or `bins` is 0.
pub fn reliability(confidence: &[f32], correct: &[bool], bins: usize) -> Vec<CalibrationBin> {
    assert_eq!(confidence.len(), correct.len(), "one outcome per confidence");
    assert!(bins > 0, "at least one bin");
    let mut sums = vec![(0u64, 0.0f64, 0u64); bins];
    for (&confidence, &correct) in confidence.iter().zip(correct) {
        let confidence = f64::from(confidence).clamp(0.0, 1.0);
        let bin = &mut sums[((confidence * bins as f64) as usize).min(bins - 1)];
        bin.0 += 1;
        bin.1 += confidence;
        bin.2 += u64::from(correct);
    }
    sums.iter()
        .enumerate()
        .filter(|(_, sum)| sum.0 > 0)
        .map(|(index, &(count, confidence, right))| CalibrationBin {
            from: index as f64 / bins as f64,
            count,
            confidence: confidence / count as f64,
            accuracy: right as f64 / count as f64,
        })
        .collect()
}

/// Mean distance between confidence and accuracy over the bins, weighted by their counts;
/// `None` without predictions.
pub fn expected_calibration_error(
    confidence: &[f32],
    correct: &[bool],
    bins: usize,
) -> Option<f64> {
    if confidence.is_empty() {
        return None;
    }
    let weighted: f64 = reliability(confidence, correct, bins)
        .iter()
        .map(|bin| bin.count as f64 * (bin.confidence - bin.accuracy).abs())
        .sum();
    Some(weighted / confidence.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_the_hand_computed_one() {
        // Bin 0..0.5: 0.2, 0.4 with one right: |0.3 - 0.5| = 0.2, two predictions.
        // Bin 0.5..1: 0.75, 1.0 both right: |0.875 - 1| = 0.125, two predictions.
        let error =
            expected_calibration_error(&[0.2, 0.4, 0.75, 1.0], &[true, false, true, true], 2);
        assert!((error.unwrap() - (2.0 * 0.2 + 2.0 * 0.125) / 4.0).abs() < 1e-6);
    }

    #[test]
    fn perfect_calibration_is_zero_and_nothing_is_none() {
        assert_eq!(expected_calibration_error(&[1.0, 0.0], &[true, false], 10), Some(0.0));
        assert_eq!(expected_calibration_error(&[], &[], 10), None);
    }
}
