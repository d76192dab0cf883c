//! How long a microphone has been away, and what is said of it: the rules, without a clock.

use std::time::Duration;

use ecosight_shared::SourceState;

/// Pauses between attempts to open: doubled from the first to the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// From so many failures in a row on, about a minute, a person should look.
const ESCALATE: u32 = 6;
/// From so many on, about ten minutes, it counts as failed. Attempts go on for ever.
const HOPELESS: u32 = 24;

/// Failures in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Supervision {
    failures: u32,
}

impl Supervision {
    /// An attempt to open failed: what to say, and how long to wait before the next.
    pub fn failed(&mut self) -> (SourceState, Duration) {
        self.failures = self.failures.saturating_add(1);
        let factor = 1_u32 << (self.failures - 1).min(5);
        (self.state(), (RETRY.0 * factor).min(RETRY.1))
    }

    /// Frames arrive.
    pub fn heard(&mut self) {
        self.failures = 0;
    }

    /// What to say while no frames arrive.
    #[must_use]
    pub fn state(&self) -> SourceState {
        match self.failures {
            0..ESCALATE => SourceState::Recovering,
            ESCALATE..HOPELESS => SourceState::Escalated,
            HOPELESS.. => SourceState::Failed,
        }
    }

    /// Failures in a row.
    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }
}
