//! Latencies of a run, and what it was to show.

use std::process::ExitCode;
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

    /// The latency that `share` of all do not exceed, milliseconds; 0 if there are none.
    pub(crate) fn quantile_ms(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        let at = ((last as f64 * share).round() as usize).min(last);
        self.0.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1e3)
    }

    /// `p50 … p95 … p99 … max …`, milliseconds.
    pub(crate) fn summary(&mut self) -> String {
        if self.0.is_empty() {
            return "none".into();
        }
        let [p50, p95, p99, max] = [0.5, 0.95, 0.99, 1.0].map(|share| self.quantile_ms(share));
        format!("p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms, max {max:.1} ms")
    }
}

/// Figures that a run was to reach and did not.
#[derive(Debug, Default)]
pub(crate) struct Missed(Vec<&'static str>);

impl Missed {
    /// Notes a figure unless it was reached.
    pub(crate) fn unless(&mut self, reached: bool, figure: &'static str) {
        if !reached {
            self.0.push(figure);
        }
    }

    /// Names what was missed on standard output.
    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.0.is_empty() {
            return ExitCode::SUCCESS;
        }
        println!("missed       {}", self.0.join(", "));
        ExitCode::FAILURE
    }
}
