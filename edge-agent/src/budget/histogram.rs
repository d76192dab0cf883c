//! Scores counted on the scale of their log-odds, where the tail of a background is nearly a
//! straight line.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Steps of one unit of log-odds.
const STEPS: f64 = 10.0;
/// Scores beyond ±12, 6 in a million from 0 or 1, are all the same.
const LIMIT: i16 = 120;

/// The log-odds of a score, kept within ±12.
#[must_use]
pub fn log_odds(score: f32) -> f64 {
    let limit = f64::from(LIMIT) / STEPS;
    let score = f64::from(score);
    (score / (1.0 - score)).ln().clamp(-limit, limit)
}

/// The score of log-odds.
#[must_use]
pub fn score(log_odds: f64) -> f32 {
    (1.0 / (1.0 + (-log_odds).exp())) as f32
}

/// Counts by log-odds in steps of 0.1: at most 241 numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram {
    counts: BTreeMap<i16, u32>,
}

impl Histogram {
    /// Counts one score, 0 to 1; what is no number is not counted.
    pub fn add(&mut self, score: f32) {
        if score.is_nan() {
            return;
        }
        let bin = (log_odds(score) * STEPS).floor() as i16;
        let count = self.counts.entry(bin.clamp(-LIMIT, LIMIT)).or_default();
        *count = count.saturating_add(1);
    }

    /// Adds another's counts.
    pub fn merge(&mut self, other: &Self) {
        for (bin, count) in &other.counts {
            let sum = self.counts.entry(*bin).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// All counts together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.counts.values().map(|count| u64::from(*count)).sum()
    }

    /// Lower edge, in log-odds, of the highest bin at or above which at least `count` scores lie, and
    /// how many do.
    #[must_use]
    pub fn level_of(&self, count: u64) -> Option<(f64, u64)> {
        let mut above = 0;
        for (bin, here) in self.counts.iter().rev() {
            above += u64::from(*here);
            if above >= count {
                return Some((f64::from(*bin) / STEPS, above));
            }
        }
        None
    }

    /// Scores at or above `log_odds`, to a step.
    #[must_use]
    pub fn at_or_above(&self, log_odds: f64) -> u64 {
        let bin = (log_odds * STEPS).floor() as i16;
        self.counts.range(bin..).map(|(_, count)| u64::from(*count)).sum()
    }
}
