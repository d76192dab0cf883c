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
