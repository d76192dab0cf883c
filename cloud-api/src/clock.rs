//! The time of day, handed to whoever needs it.

use std::sync::Arc;

use jiff::Timestamp;

/// Microseconds since 1970 UTC, from the system or from a test.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> i64 + Send + Sync>);

impl Clock {
    /// The system's clock.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    pub fn system() -> Self {
        Self(Arc::new(|| Timestamp::now().as_microsecond()))
    }

    /// A clock that reads what `now_us` gives.
    pub fn from_fn(now_us: impl Fn() -> i64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_us))
    }

    /// Now.
    #[must_use]
    pub fn now_us(&self) -> i64 {
        (self.0)()
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// `unix_us` as RFC 3339 in UTC with milliseconds or finer. A time that no calendar holds, as a broken
/// clock may send, becomes the nearest one that does.
#[must_use]
pub fn rfc3339(unix_us: i64) -> String {
    let nearest = if unix_us < 0 { Timestamp::MIN } else { Timestamp::MAX };
    Timestamp::from_microsecond(unix_us).unwrap_or(nearest).to_string()
}

/// Microseconds since 1970 of an RFC 3339 text.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(|time| time.as_microsecond())
}
