//! Latencies of a run.

use std::time::Duration;

/// All latencies, kept: exact quantiles, and a run has at most some millions.
#[derive(Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn add(&mut self, latency: Duration) {
        self.0.push(latency);
    }

    pub(crate) fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The latency that so great a share does not exceed.
    pub(crate) fn quantile(&mut self, share: f64) -> Option<Duration> {
        self.0.sort_unstable();
        let last = self.0.len().checked_sub(1)?;
        Some(self.0[((last as f64 * share).round() as usize).min(last)])
    }

    /// `p50 … p95 … p99 … max …`, milliseconds.
    pub(crate) fn summary(&mut self) -> String {
        if self.0.is_empty() {
            return "none".into();
        }
        let mut at = |share: f64| self.quantile(share).unwrap_or_default().as_secs_f64() * 1e3;
        format!(
            "p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            at(0.5),
            at(0.95),
            at(0.99),
            at(1.0)
        )
    }
}
