//! How many files were classified, over all restarts and replicas. Counted in memory and added to the
//! database every second: a kill loses at most the counts of that second, and no answer waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::store::{Store, StoreError};

const NAME: &str = "predictions";
const ROUND: Duration = Duration::from_secs(1);

/// The count. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Tally {
    store: Store,
    pending: Arc<AtomicI64>,
}

impl Tally {
    /// The count that `store` keeps.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, pending: Arc::default() }
    }

    /// Counts one more.
    pub fn count(&self) {
        self.pending.fetch_add(1, Ordering::Relaxed);
    }

    /// All that were ever counted.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn total(&self) -> Result<i64, StoreError> {
        let pending = self.pending.load(Ordering::Relaxed);
        Ok(self.store.counter(NAME).await? + pending)
    }

    /// Adds what was counted to the database; what it does not take is added later.
    pub async fn flush(&self) {
        let pending = self.pending.swap(0, Ordering::Relaxed);
        if pending == 0 {
            return;
        }
        if let Err(error) = self.store.add_to_counter(NAME, pending).await {
            debug!(%error, "predictions are counted later");
            self.pending.fetch_add(pending, Ordering::Relaxed);
        }
    }
}

/// Flushes until `stop`. The caller flushes once more when the last request has ended.
pub async fn run(tally: Tally, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(ROUND) => tally.flush().await,
        }
    }
}
