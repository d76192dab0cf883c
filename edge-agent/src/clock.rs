//! The rim that reads the wall clock. Everything else is handed a [`Clock`].

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

use ecosight_shared::TimeQuality;
use tokio_util::sync::CancellationToken;

use crate::correction::{Correction, Steps};

/// Where time comes from, and what is known of how good it is.
#[derive(Clone)]
pub struct Clock {
    now: Arc<dyn Fn() -> i64 + Send + Sync>,
    /// A clock that nobody moves, from any beginning.
    steady: Arc<dyn Fn() -> i64 + Send + Sync>,
    known: Arc<Known>,
    steps: Arc<Mutex<Steps>>,
}

/// What the machine's time service says; written by [`Clock::watch`].
#[derive(Debug)]
struct Known {
    /// A [`TimeQuality`], or [`NOT_ASKED`].
    quality: AtomicU8,
    /// Offset in µs, or [`i64::MIN`].
    offset_us: AtomicI64,
}

const NOT_ASKED: u8 = u8::MAX;

/// 2024-01-01: a clock before it was never set, since no agent is older.
const EARLIEST_PLAUSIBLE_US: i64 = 1_704_067_200_000_000;

/// systemd-timesyncd makes this file when it has synchronised the clock.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

/// How often the time service is asked.
const ASK_EVERY: Duration = Duration::from_secs(60);

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(|| {
            #[allow(clippy::disallowed_methods, reason = "the rim that reads the clock")]
            let now = std::time::SystemTime::now();
            let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
        })
    }

    /// A clock that the caller moves.
    #[must_use]
    pub fn from_fn(now_us: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        let start = Instant::now();
        Self::from_fns(now_us, move || {
            i64::try_from(start.elapsed().as_micros()).unwrap_or(i64::MAX)
        })
    }

    /// A clock that the caller moves, beside one that is never set; both µs.
    #[must_use]
    pub fn from_fns(
        now_us: impl Fn() -> i64 + Send + Sync + 'static,
        steady_us: impl Fn() -> i64 + Send + Sync + 'static,
    ) -> Self {
        let known =
            Known { quality: AtomicU8::new(NOT_ASKED), offset_us: AtomicI64::new(i64::MIN) };
        let clock = Self {
            now: Arc::new(now_us),
            steady: Arc::new(steady_us),
            known: Arc::new(known),
            steps: Arc::default(),
        };
        clock.observe();
        clock
    }

    /// Looks whether the clock was set since the last look.
    pub fn observe(&self) {
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.observe((self.steady)(), self.unix_us());
    }

    /// What times before the last step have to be moved by, once the clock is kept by something that
    /// knows the time.
    #[must_use]
    pub fn correction(&self) -> Option<Correction> {
        if !matches!(self.quality(), TimeQuality::Network | TimeQuality::Gps) {
            return None;
        }
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).correction()
    }

    /// Microseconds since 1970 UTC.
    #[must_use]
    pub fn unix_us(&self) -> i64 {
        (self.now)()
    }

    /// How far [`Self::unix_us`] may be trusted.
    #[must_use]
    pub fn quality(&self) -> TimeQuality {
        if self.unix_us() < EARLIEST_PLAUSIBLE_US {
            return TimeQuality::Unknown;
        }
        match TimeQuality::try_from(self.known.quality.load(Ordering::Relaxed)) {
            Ok(quality) => quality,
            Err(_) if Path::new(SYNCHRONISED).exists() => TimeQuality::Network,
            Err(_) => TimeQuality::FreeRunning,
        }
    }

    /// Offset from the time service's reference, where it states one.
    #[must_use]
    pub fn offset_ms(&self) -> Option<f64> {
        let offset = self.known.offset_us.load(Ordering::Relaxed);
        (offset != i64::MIN).then_some(offset as f64 / 1e3)
    }

    /// Notes what a time service said.
    pub fn note(&self, discipline: Discipline) {
        self.known.quality.store(discipline.quality as u8, Ordering::Relaxed);
        let offset = discipline.offset_us.unwrap_or(i64::MIN);
        self.known.offset_us.store(offset, Ordering::Relaxed);
    }

    /// Asks the machine's time service once a minute until stopped.
    pub async fn watch(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(ASK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            // Programs are started and read: not in a task that others wait behind.
            if let Ok(discipline) = tokio::task::spawn_blocking(ask).await {
                self.note(discipline);
            }
        }
    }
}

/// What a time service says of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Discipline {
    /// Whether it is kept, and by what.
    pub quality: TimeQuality,
    /// Its offset, where stated, µs.
    pub offset_us: Option<i64>,
}

/// Asks chrony, which says most, then systemd, which knows the kernel's flag whatever program set
/// it (ntpd, timesyncd, chrony), then the file of timesyncd.
fn ask() -> Discipline {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    output("chronyc", &["-c", "tracking"])
        .and_then(|text| Discipline::of_chrony(&text))
        .or_else(|| {
            let text = output("timedatectl", &["show", "--property=NTPSynchronized", "--value"]);
            text.and_then(|text| Discipline::of_systemd(&text))
        })
        .unwrap_or_else(|| {
            let synchronised = Path::new(SYNCHRONISED).exists();
            let quality =
                if synchronised { TimeQuality::Network } else { TimeQuality::FreeRunning };
            Discipline { quality, offset_us: None }
        })
}

impl Discipline {
    /// What `chronyc -c tracking` says: fields separated by commas, among them the reference's name
    /// (second), the offset in seconds (fifth), and the leap status (last).
    #[must_use]
    pub fn of_chrony(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.trim().split(',').collect();
        let (name, offset, leap) = (fields.get(1)?, fields.get(4)?, fields.last()?);
        let offset_s: f64 = offset.parse().ok()?;
        if *leap == "Not synchronised" {
            return Some(Self { quality: TimeQuality::FreeRunning, offset_us: None });
        }
        // Reference clocks have the names that were given to them; these are the usual ones.
        let local = ["GPS", "PPS", "NMEA", "GNSS"];
        let gps = local.iter().any(|known| name.to_ascii_uppercase().starts_with(known));
        let quality = if gps { TimeQuality::Gps } else { TimeQuality::Network };
        Some(Self { quality, offset_us: Some((offset_s * 1e6).round() as i64) })
    }

    /// What `timedatectl show --property=NTPSynchronized --value` says.
    #[must_use]
    pub fn of_systemd(text: &str) -> Option<Self> {
        let quality = match text.trim() {
            "yes" => TimeQuality::Network,
            "no" => TimeQuality::FreeRunning,
            _ => return None,
        };
        Some(Self { quality, offset_us: None })
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// `unix_us` as RFC 3339 UTC with milliseconds; the earliest time if it is out of range.
#[must_use]
pub fn rfc3339(unix_us: i64) -> String {
    let time = jiff::Timestamp::from_microsecond(unix_us).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    format!("{time:.3}")
}
