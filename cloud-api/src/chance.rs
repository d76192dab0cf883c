//! Chance, handed to whoever needs it: ids and secrets.

use std::sync::Arc;

use uuid::Uuid;

use crate::clock::Clock;

/// Random bytes from the system, or from a test.
#[derive(Clone)]
pub struct Chance(Arc<Source>);

/// Fills a buffer.
type Source = dyn Fn(&mut [u8]) + Send + Sync;

impl Chance {
    /// The system's. Where it has none the process cannot go on: a guessable secret is worse.
    #[must_use]
    pub fn system() -> Self {
        Self(Arc::new(|bytes| {
            if let Err(error) = getrandom::fill(bytes) {
                tracing::error!(%error, "the system gives no random numbers");
                std::process::abort();
            }
        }))
    }

    /// Bytes that `fill` makes.
    pub fn from_fn(fill: impl Fn(&mut [u8]) + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    /// As many random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        (self.0)(&mut bytes);
        bytes
    }

    /// A new id: a UUIDv7 of now.
    #[must_use]
    pub fn id(&self, clock: &Clock) -> Uuid {
        let now_ms = u64::try_from(clock.now_us() / 1_000).unwrap_or(0);
        uuid::Builder::from_unix_timestamp_millis(now_ms, &self.bytes()).into_uuid()
    }
}

impl std::fmt::Debug for Chance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chance")
    }
}
