//! What the station knows of itself: counters that every part of the path feeds, read by
//! telemetry and by the watchdog.

mod histogram;
mod host;
mod report;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ecosight_shared::SourceState;

pub use histogram::Histogram;
pub use host::{cpu_temperature_dc, free_bytes};
pub use report::Reporter;

/// Counters since the agent started.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    source: AtomicU8,
    /// Reads of the source, whether they brought sound or not.
    reads: AtomicU64,
    frames: AtomicU64,
    windows: AtomicU64,
    failed_windows: AtomicU64,
    dropped_samples: AtomicU64,
    gaps: AtomicU32,
    clips_given_up: AtomicU64,
    minute: Mutex<Minute>,
}

/// What is reported per interval.
#[derive(Debug, Default)]
struct Minute {
    inference: Histogram,
    noise_floors_dbfs: Vec<f32>,
}

/// Noise floors kept for one report: ten minutes of windows.
const NOISE_FLOORS_MAX: usize = 1_250;

/// A moment's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pulse {
    /// Reads of the source.
    pub reads: u64,
    /// Samples heard.
    pub frames: u64,
    /// Windows classified.
    pub windows: u64,
    /// State of the source.
    pub source: SourceState,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            source: AtomicU8::new(SourceState::Starting as u8),
            reads: AtomicU64::new(0),
            frames: AtomicU64::new(0),
            windows: AtomicU64::new(0),
            failed_windows: AtomicU64::new(0),
            dropped_samples: AtomicU64::new(0),
            gaps: AtomicU32::new(0),
            clips_given_up: AtomicU64::new(0),
            minute: Mutex::new(Minute::default()),
        }
    }
}

impl Health {
    /// The source changed its state.
    pub fn set_source(&self, state: SourceState) {
        self.source.store(state as u8, Ordering::Relaxed);
    }

    /// State of the source.
    #[must_use]
    pub fn source(&self) -> SourceState {
        const STATES: [SourceState; 5] = [
            SourceState::Starting,
            SourceState::Healthy,
            SourceState::Recovering,
            SourceState::Failed,
            SourceState::Ended,
        ];
        let stored = self.source.load(Ordering::Relaxed);
        STATES.into_iter().find(|s| *s as u8 == stored).unwrap_or(SourceState::Failed)
    }

    /// The source was read, and brought so many samples.
    pub fn read(&self, samples: usize) {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.frames.fetch_add(samples as u64, Ordering::Relaxed);
    }

    /// Samples were lost between microphone and classifier.
    pub fn lost(&self, samples: u64) {
        self.dropped_samples.fetch_add(samples, Ordering::Relaxed);
    }

    /// The sound was interrupted.
    pub fn gap(&self) {
        self.gaps.fetch_add(1, Ordering::Relaxed);
    }

    /// Windows were classified together in `took`; these were their noise floors.
    pub fn classified(
        &self,
        took: Duration,
        noise_floors_dbfs: impl ExactSizeIterator<Item = f32>,
    ) {
        let count = noise_floors_dbfs.len() as u32;
        if count == 0 {
            return;
        }
        self.windows.fetch_add(u64::from(count), Ordering::Relaxed);
        let mut minute = self.minute();
        minute.inference.add(took / count, count);
        if minute.noise_floors_dbfs.len() < NOISE_FLOORS_MAX {
            minute.noise_floors_dbfs.extend(noise_floors_dbfs);
        }
    }

    /// Windows could not be classified.
    pub fn not_classified(&self, windows: usize) {
        self.failed_windows.fetch_add(windows as u64, Ordering::Relaxed);
    }

    /// A clip was not written, or removed before it was uploaded.
    pub fn clip_given_up(&self) {
        self.clips_given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// Clips given up so far.
    #[must_use]
    pub fn clips_given_up(&self) -> u64 {
        self.clips_given_up.load(Ordering::Relaxed)
    }

    /// Samples lost and gaps so far.
    #[must_use]
    pub fn losses(&self) -> (u64, u32) {
        (self.dropped_samples.load(Ordering::Relaxed), self.gaps.load(Ordering::Relaxed))
    }

    /// The counters that show progress.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        Pulse {
            reads: self.reads.load(Ordering::Relaxed),
            frames: self.frames.load(Ordering::Relaxed),
            windows: self.windows.load(Ordering::Relaxed),
            source: self.source(),
        }
    }

    /// Time since the agent started.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Takes what was gathered since the last report.
    fn take_minute(&self) -> Minute {
        std::mem::take(&mut *self.minute())
    }

    fn minute(&self) -> std::sync::MutexGuard<'_, Minute> {
        // Counters stay usable whatever happened to the thread that held them.
        self.minute.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
