//! Recall at a stated number of false alarms per hour: the measure that a ranger feels.
//!
//! A clip's score is the highest mean of two neighbouring windows, which is what the detector
//! confirms by; a background clip whose score reaches the threshold is one false alarm.

/// Where a threshold lands on a set of background and of positive clips.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Operating {
    /// Scores at or above it alarm.
    pub threshold: f32,
    /// Background clips that alarm.
    pub false_alarms: usize,
    /// The same per hour of background.
    pub false_alarms_per_hour: f64,
    /// Positive clips that alarm.
    pub hits: usize,
    /// All positive clips.
    pub positives: usize,
}

impl Operating {
    /// Share of positives that alarm; `None` without positives.
    pub fn recall(&self) -> Option<f64> {
        (self.positives > 0).then(|| self.hits as f64 / self.positives as f64)
    }
}

/// Highest mean of `neighbours` consecutive windows. Fewer windows than that confirm nothing, as in
/// the detector: 0.
pub fn paired_peak(windows: &[f32], neighbours: usize) -> f32 {
    let width = neighbours.max(1);
    windows.windows(width).map(|run| run.iter().sum::<f32>() / width as f32).fold(0.0, f32::max)
}

/// Lowest threshold at which `background` (one score per clip, `hours` long together) gives at
/// most `per_hour` false alarms an hour: just above the first score that would be one too many.
///
/// `None` when `hours` is not positive. With fewer background clips than allowed alarms the
/// threshold is 0: anything alarms.
pub fn alarm_threshold(background: &[f32], hours: f64, per_hour: f64) -> Option<f32> {
    if hours.is_nan() || hours <= 0.0 || per_hour.is_nan() || per_hour < 0.0 {
        return None;
    }
    let allowed = (per_hour * hours).floor() as usize;
    let mut ordered = background.to_vec();
    ordered.sort_by(|a, b| b.total_cmp(a));
    Some(ordered.get(allowed).map_or(0.0, |score| score.next_up()))
}

/// Counts false alarms and hits at `threshold`. `hours` must be positive.
pub fn operating_point(
    threshold: f32,
    background: &[f32],
    hours: f64,
    positives: &[f32],
) -> Operating {
    let over = |scores: &[f32]| scores.iter().filter(|&&score| score >= threshold).count();
    let false_alarms = over(background);
    Operating {
        threshold,
        false_alarms,
        false_alarms_per_hour: false_alarms as f64 / hours,
        hits: over(positives),
        positives: positives.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKGROUND: [f32; 5] = [0.1, 0.9, 0.3, 0.7, 0.2];

    #[test]
    fn the_threshold_lets_exactly_the_allowed_alarms_through() {
        // Two hours at one an hour: .9 and .7 may alarm, .3 may not.
        let threshold = alarm_threshold(&BACKGROUND, 2.0, 1.0).unwrap();
        assert!(threshold > 0.3 && threshold < 0.300_001);
        let point = operating_point(threshold, &BACKGROUND, 2.0, &[0.3, 0.31, 0.95, 0.0]);
        assert_eq!((point.false_alarms, point.hits, point.positives), (2, 2, 4));
        assert_eq!(point.false_alarms_per_hour, 1.0);
        assert_eq!(point.recall(), Some(0.5));
    }

    #[test]
    fn ties_at_the_threshold_do_not_slip_through() {
        let threshold = alarm_threshold(&[0.5, 0.5, 0.5], 1.0, 1.0).unwrap();
        assert_eq!(operating_point(threshold, &[0.5, 0.5, 0.5], 1.0, &[]).false_alarms, 0);
    }

    #[test]
    fn a_rate_below_one_alarm_in_all_hours_allows_none() {
        let threshold = alarm_threshold(&BACKGROUND, 2.0, 0.4).unwrap();
        assert_eq!(operating_point(threshold, &BACKGROUND, 2.0, &[]).false_alarms, 0);
    }

    #[test]
    fn no_hours_is_no_threshold() {
        assert_eq!(alarm_threshold(&BACKGROUND, 0.0, 1.0), None);
        assert_eq!(alarm_threshold(&[], 1.0, 1.0), Some(0.0));
    }

    #[test]
    fn a_pair_must_be_neighbours() {
        assert_eq!(paired_peak(&[0.8, 0.0, 0.8, 0.2], 2), 0.5);
        assert_eq!(paired_peak(&[0.6], 2), 0.0);
        assert_eq!(paired_peak(&[], 2), 0.0);
        assert_eq!(paired_peak(&[0.2, 0.9], 1), 0.9);
    }
}
