//! Counts that outlive a restart.

use super::{Store, StoreError, reading, writing};

impl Store {
    /// Adds to a count.
    ///
    /// # Errors
    /// [`StoreError`] as for every write; the caller adds it later.
    pub async fn add_to_counter(&self, name: &'static str, by: i64) -> Result<(), StoreError> {
        writing!(self, |tx| {
            sqlx::query(
                "INSERT INTO counters (name, value) VALUES ($1, $2) \
                 ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value",
            )
            .bind(name)
            .bind(by)
            .execute(&mut *tx)
            .await?;
        })
    }

    /// Raises a mark that only rises, such as the time up to which something was done; false if it
    /// was there or beyond already: somebody else did it.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn raise_mark(&self, name: &'static str, to: i64) -> Result<bool, StoreError> {
        writing!(self, |tx| {
            let raised = sqlx::query(
                "INSERT INTO counters (name, value) VALUES ($1, $2) \
                 ON CONFLICT (name) DO UPDATE SET value = excluded.value \
                 WHERE counters.value < excluded.value",
            )
            .bind(name)
            .bind(to)
            .execute(&mut *tx)
            .await?;
            raised.rows_affected() == 1
        })
    }

    /// A count; 0 if nothing was ever added.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn counter(&self, name: &'static str) -> Result<i64, StoreError> {
        let value: Option<(i64,)> = reading!(self, |pool| {
            sqlx::query_as("SELECT value FROM counters WHERE name = $1")
                .bind(name)
                .fetch_optional(pool)
                .await
        })?;
        Ok(value.map_or(0, |(value,)| value))
    }
}
