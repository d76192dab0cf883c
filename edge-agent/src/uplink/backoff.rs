//! Pauses between attempts, so that a fleet does not come back in one instant.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng, rngs::StdRng};

/// Shortest pause.
const FIRST: Duration = Duration::from_secs(1);

/// Full jitter: each pause is drawn evenly between the shortest and a limit that doubles.
#[derive(Debug)]
pub struct Backoff {
    rng: StdRng,
    max: Duration,
    attempt: u32,
}

impl Backoff {
    /// Pauses of at most `max`; stations with different seeds pause differently.
    #[must_use]
    pub fn new(seed: u64, max: Duration) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), max, attempt: 0 }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let doubled = FIRST * 2_u32.pow(self.attempt.min(16));
        self.attempt += 1;
        let most = doubled.min(self.max).max(FIRST);
        FIRST + (most - FIRST).mul_f64(self.rng.random_range(0.0..=1.0))
    }

    /// The last attempt succeeded.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}
