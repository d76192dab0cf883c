//! The rim that reads the wall clock. Everything else is handed a [`Clock`].

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use ecosight_shared::TimeQuality;

/// Where time comes from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

/// 2024-01-01: a clock before it was never set, since no agent is older.
const EARLIEST_PLAUSIBLE_US: i64 = 1_704_067_200_000_000;

/// systemd-timesyncd makes this file when it has synchronised the clock.
const SYNCHRONISED: &str = "/run/systemd/timesync/synchronized";

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(|| {
            #[allow(clippy::disallowed_methods, reason = "the rim that reads the clock")]
            let now = std::time::SystemTime::now();
            let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
        }))
    }

    /// A clock that the caller moves.
    #[must_use]
    pub fn from_fn(now_us: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_us))
    }

    /// Microseconds since 1970 UTC.
    #[must_use]
    pub fn unix_us(&self) -> i64 {
        (self.0)()
    }

    /// How far [`Self::unix_us`] may be trusted.
    #[must_use]
    pub fn quality(&self) -> TimeQuality {
        if self.unix_us() < EARLIEST_PLAUSIBLE_US {
            TimeQuality::Unknown
        } else if Path::new(SYNCHRONISED).exists() {
            TimeQuality::Network
        } else {
            TimeQuality::FreeRunning
        }
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
