//! What a threshold costs: the recall of the bundle's own evaluation.

use ecosight_models::bundle::{EVALUATION_FILE, RuleSpec};
use ecosight_models::classifier::Choice;
use ecosight_models::{BundleFiles, LoadError};

use super::log_odds;
use crate::config;

/// Recall by threshold of one class, on recordings that the head was not trained on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RecallCurve {
    /// Threshold and recall, by threshold.
    points: Vec<(f32, f64)>,
}

impl RecallCurve {
    /// A curve through `points` of threshold and recall.
    #[must_use]
    pub fn new(mut points: Vec<(f32, f64)>) -> Self {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        points.dedup_by(|a, b| a.0.total_cmp(&b.0).is_eq());
        Self { points }
    }

    /// The curve of the rule of a class: the points of the bundle's evaluation where it is the
    /// class that alerts, and the one at which its threshold was chosen.
    #[must_use]
    pub fn of(rule: &RuleSpec, evaluation: &serde_json::Value) -> Self {
        let mut points = Vec::new();
        if rule.alert {
            let rates = evaluation["judgement"]["rates"].as_array();
            for rate in rates.into_iter().flatten() {
                let threshold = rate["threshold"].as_f64();
                let (mut hits, mut clips) = (0.0, 0.0);
                for source in rate["recall"].as_array().into_iter().flatten() {
                    // Other forms, such as `quiet`, are the same recordings again.
                    if source["form"].as_str().is_none_or(|form| form == "plain") {
                        hits += source["hits"].as_f64().unwrap_or(0.0);
                        clips += source["clips"].as_f64().unwrap_or(0.0);
                    }
                }
                if let (Some(threshold), true) = (threshold, clips > 0.0) {
                    points.push((threshold as f32, hits / clips));
                }
            }
        }
        if let Some(chosen) = &rule.chosen_at {
            points.push((rule.threshold, chosen.recall));
        }
        Self::new(points)
    }

    /// Recall at `threshold`: between two points along log-odds, beyond the last that of the last;
    /// nothing below the lowest, where nothing was measured.
    #[must_use]
    pub fn at(&self, threshold: f32) -> Option<f64> {
        let (first, last) = (self.points.first()?, self.points.last()?);
        // The lowest point itself, through the rounding of a score and back.
        if threshold < first.0 - 1e-4 {
            return None;
        }
        // Of a single point no more is known than of itself.
        if self.points.len() == 1 && threshold > first.0 + 1e-4 {
            return None;
        }
        if log_odds(threshold) >= log_odds(last.0) - 1e-3 {
            return Some(last.1);
        }
        let above = self.points.iter().position(|(point, _)| *point > threshold)?.max(1);
        let ((x0, y0), (x1, y1)) = (self.points[above - 1], self.points[above]);
        let (x0, x1, x) = (log_odds(x0), log_odds(x1), log_odds(threshold));
        Some(y0 + (y1 - y0) * ((x - x0) / (x1 - x0)).clamp(0.0, 1.0))
    }

    /// Lowest threshold at which anything was measured.
    #[must_use]
    pub fn lowest(&self) -> Option<f32> {
        self.points.first().map(|(threshold, _)| *threshold)
    }

    /// Highest measured threshold with at least this recall.
    #[must_use]
    pub fn highest_with(&self, recall: f64) -> Option<f32> {
        let able = self.points.iter().rev().find(|(_, reached)| *reached >= recall);
        able.filter(|_| self.points.len() > 1).map(|(threshold, _)| *threshold)
    }
}

/// The evaluation of the bundle that the configuration chooses; nothing if it has none.
///
/// # Errors
/// The bundle cannot be read.
pub(crate) fn evaluation(config: &config::Model) -> Result<serde_json::Value, LoadError> {
    let files = match config.bundle.as_deref() {
        Some(directory) => BundleFiles::open(directory)?,
        None => Choice::builtin(config.yamnet.as_deref())?.1,
    };
    let bytes = files.file(EVALUATION_FILE).unwrap_or_default();
    Ok(serde_json::from_slice(bytes).unwrap_or_default())
}
