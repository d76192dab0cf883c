//! Durations counted in buckets that grow by an eighth.

use std::time::Duration;

/// Buckets per doubling.
const PER_OCTAVE: f64 = 6.0;
/// Up to 2^26 µs, about a minute.
const BUCKETS: usize = 26 * PER_OCTAVE as usize + 1;

/// A histogram of durations; a quantile is right to about 6 %.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: [u32; BUCKETS],
    total: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

impl Histogram {
    /// Counts `times` events that took `each`.
    pub fn add(&mut self, each: Duration, times: u32) {
        let us = (each.as_secs_f64() * 1e6).max(1.0);
        let bucket = ((us.log2() * PER_OCTAVE) as usize).min(BUCKETS - 1);
        self.counts[bucket] = self.counts[bucket].saturating_add(times);
        self.total += u64::from(times);
    }

    /// Microseconds below which the part `q` of all events lies; 0 if there were none.
    #[must_use]
    pub fn quantile_us(&self, q: f64) -> u32 {
        let rank = (self.total as f64 * q).ceil() as u64;
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += u64::from(*count);
            if below >= rank && below > 0 {
                return (2_f64).powf((bucket as f64 + 0.5) / PER_OCTAVE) as u32;
            }
        }
        0
    }
}
