//! What the station knows of itself: counters that every part of the path feeds, read by
//! telemetry and by the watchdog.

mod histogram;
mod host;
mod live;
mod losses;
mod report;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ecosight_models::{Scores, Window};
use ecosight_shared::SourceState;
use ecosight_shared::json::{BudgetReport, CanaryReport, LossReport};

use crate::sound_check::Fault;
use crate::trace::EventRow;

pub use histogram::Histogram;
pub use host::{SYSFS, cpu_temperature_dc, free_bytes, power};
pub use live::{BANDS, Live};
pub use losses::Loss;
pub use report::Reporter;

use losses::Losses;

/// Counters since the agent started.
#[derive(Debug)]
pub struct Health {
    started: Instant,
    source: AtomicU8,
    /// Reads of the source, whether they brought sound or not.
    reads: AtomicU64,
    frames: AtomicU64,
    windows: AtomicU64,
    dropped_samples: AtomicU64,
    gaps: AtomicU32,
    losses: Losses,
    minute: Mutex<Minute>,
    /// What is wrong with sound that does arrive.
    faults: Mutex<Vec<Fault>>,
    budgets: Mutex<Vec<BudgetReport>>,
    live: Mutex<Live>,
    /// Counts what is worth telling at once.
    news: AtomicU64,
    connected: AtomicBool,
    clip_bytes_today: AtomicU64,
    borne: AtomicU64,
    model_slot: Mutex<&'static str>,
    canary: Mutex<Option<CanaryReport>>,
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
            dropped_samples: AtomicU64::new(0),
            gaps: AtomicU32::new(0),
            losses: Losses::default(),
            minute: Mutex::new(Minute::default()),
            faults: Mutex::default(),
            budgets: Mutex::default(),
            live: Mutex::default(),
            news: AtomicU64::new(0),
            connected: AtomicBool::new(false),
            clip_bytes_today: AtomicU64::new(0),
            borne: AtomicU64::new(0),
            model_slot: Mutex::default(),
            canary: Mutex::default(),
        }
    }
}

impl Health {
    /// The source changed its state.
    pub fn set_source(&self, state: SourceState) {
        if self.source.swap(state as u8, Ordering::Relaxed) != state as u8 {
            self.news.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// State of the source: healthy only if what arrives also sounds like a microphone.
    #[must_use]
    pub fn source(&self) -> SourceState {
        const STATES: [SourceState; 6] = [
            SourceState::Starting,
            SourceState::Healthy,
            SourceState::Recovering,
            SourceState::Failed,
            SourceState::Ended,
            SourceState::Escalated,
        ];
        let stored = self.source.load(Ordering::Relaxed);
        let state = STATES.into_iter().find(|s| *s as u8 == stored).unwrap_or(SourceState::Failed);
        let alarmed = state == SourceState::Healthy && !lock(&self.faults).is_empty();
        if alarmed { SourceState::Alarmed } else { state }
    }

    /// The test of the microphone found these faults now.
    pub fn set_faults(&self, faults: Vec<Fault>) {
        let names: Vec<&str> = faults.iter().map(|fault| fault.name()).collect();
        if let Some(worst) = faults.first() {
            let remedy = worst.remedy();
            tracing::error!(faults = names.join(", "), remedy, "the microphone does not hear well");
        } else {
            tracing::info!("the microphone hears well again");
        }
        *lock(&self.faults) = faults;
        self.news.fetch_add(1, Ordering::Relaxed);
    }

    /// What is wrong with the sound that arrives.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        lock(&self.faults).clone()
    }

    /// What the false-alarm budget does now.
    pub fn set_budgets(&self, budgets: Vec<BudgetReport>) {
        let mut known = lock(&self.budgets);
        for budget in &budgets {
            let before = known.iter().find(|other| other.class == budget.class);
            if before.is_some_and(|before| before.state != budget.state) {
                self.news.fetch_add(1, Ordering::Relaxed);
                let (class, per_week) = (&budget.class, budget.per_week);
                if budget.state == "cannot" {
                    tracing::warn!(
                        class,
                        per_week,
                        expected_per_week = budget.expected_per_week,
                        "the false-alarm budget cannot be met here: the highest sensible threshold \
                         is in use"
                    );
                }
            }
        }
        *known = budgets;
    }

    /// The same, to be told.
    #[must_use]
    pub fn budgets(&self) -> Vec<BudgetReport> {
        lock(&self.budgets).clone()
    }

    /// Sound came.
    pub fn heard(&self, samples: &[f32]) {
        lock(&self.live).heard(samples);
    }

    /// A window was judged.
    pub fn window(&self, window: &Window, scores: &Scores) {
        lock(&self.live).window(window, scores);
    }

    /// An event was confirmed.
    pub fn event(&self, event: &EventRow) {
        lock(&self.live).event(event);
    }

    /// Looks at the newest sound.
    pub fn look<T>(&self, look: impl FnOnce(&Live) -> T) -> T {
        look(&lock(&self.live))
    }

    /// Something else is worth telling at once.
    pub fn tell_news(&self) {
        self.news.fetch_add(1, Ordering::Relaxed);
    }

    /// The broker accepted, or is gone.
    pub fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    /// Whether there is a broker.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// So many bytes of clips were sent today.
    pub fn set_clip_bytes_today(&self, bytes: u64) {
        self.clip_bytes_today.store(bytes, Ordering::Relaxed);
    }

    /// Bytes of clips sent today.
    #[must_use]
    pub fn clip_bytes_today(&self) -> u64 {
        self.clip_bytes_today.load(Ordering::Relaxed)
    }

    /// The model in use lies there.
    pub fn set_model_slot(&self, slot: &'static str) {
        *lock(&self.model_slot) = slot;
        self.tell_news();
    }

    /// Where the model in use lies, see [`crate::update::Place::name`].
    #[must_use]
    pub fn model_slot(&self) -> &'static str {
        *lock(&self.model_slot)
    }

    /// A canary was heard.
    pub fn set_canary(&self, report: CanaryReport) {
        *lock(&self.canary) = Some(report);
    }

    /// The last one since the start.
    #[must_use]
    pub fn canary(&self) -> Option<CanaryReport> {
        lock(&self.canary).clone()
    }

    /// The bearer sent an alert.
    pub fn borne(&self) {
        self.borne.fetch_add(1, Ordering::Relaxed);
    }

    /// Alerts that the bearer sent since the start.
    #[must_use]
    pub fn borne_so_far(&self) -> u64 {
        self.borne.load(Ordering::Relaxed)
    }

    /// A number that changes with everything that is worth telling at once.
    #[must_use]
    pub fn news(&self) -> u64 {
        self.news.load(Ordering::Relaxed)
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

    /// Something was lost.
    pub fn count(&self, what: Loss, times: u64) {
        self.losses.add(what, times);
    }

    /// How often that was lost so far.
    #[must_use]
    pub fn lost_so_far(&self, what: Loss) -> u64 {
        self.losses.of(what)
    }

    /// So many records the outbox has given up, by priority.
    pub fn set_records_given_up(&self, dropped: [u64; 3]) {
        self.losses.set_records(dropped);
    }

    /// All that was lost since the start.
    #[must_use]
    pub fn loss_report(&self) -> LossReport {
        let (dropped_samples, gaps) = self.losses();
        self.losses.report(dropped_samples, gaps)
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

    fn minute(&self) -> MutexGuard<'_, Minute> {
        lock(&self.minute)
    }
}

/// What is counted stays usable whatever happened to the thread that held it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
