//! Bounds on what only grows.

use super::{Store, StoreError, writing};

/// Payloads kept in quarantine.
pub(super) const QUARANTINE_LIMIT: i64 = 1_000;

impl Store {
    /// Deletes telemetry received before `before_us`; gives the number of rows.
    ///
    /// # Errors
    /// [`StoreError`] as for every write; the next round does it.
    pub async fn forget_telemetry(&self, before_us: i64) -> Result<u64, StoreError> {
        writing!(self, |tx| {
            sqlx::query("DELETE FROM telemetry WHERE received_us < $1")
                .bind(before_us)
                .execute(&mut *tx)
                .await?
                .rows_affected()
        })
    }
}
