//! How long to wait before trying again: doubling, with full jitter, so that many clients of one
//! broken server do not come back in the same instant.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Waits between attempts.
#[derive(Debug)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    failures: u32,
    rng: SmallRng,
}

impl Backoff {
    /// Waits between `shortest` and `longest`; `seed` makes those of two programs differ.
    #[must_use]
    pub fn new(shortest: Duration, longest: Duration, seed: u64) -> Self {
        Self { shortest, longest, failures: 0, rng: SmallRng::seed_from_u64(seed) }
    }

    /// Notes a failure and gives the time to wait after it.
    pub fn next_wait(&mut self) -> Duration {
        let doubled = self.shortest.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        let longest = doubled.min(self.longest).max(self.shortest);
        let spread = longest - self.shortest;
        self.shortest + spread.mul_f64(self.rng.random())
    }

    /// Whether no failure has been noted since the last success.
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.failures == 0
    }

    /// Notes a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    #[test]
    fn waits_grow_to_the_longest_and_begin_again_after_a_success() {
        let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(5));
        let mut backoff = Backoff::new(shortest, longest, 7);
        assert_eq!(backoff.next_wait(), shortest);
        let waits: Vec<Duration> = (0..200).map(|_| backoff.next_wait()).collect();
        assert!(waits.iter().all(|wait| (shortest..=longest).contains(wait)));
        assert!(waits[20..].iter().any(|wait| *wait > longest / 2));
        backoff.reset();
        assert_eq!(backoff.next_wait(), shortest);
    }
}
