//! Counts that outlive a restart.

use super::jobs::{JobRow, NewJob, enqueue};
use super::{Store, StoreError, reading, writing};

const RAISE: &str = "INSERT INTO counters (name, value) VALUES ($1, $2) \
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value \
                     WHERE counters.value < excluded.value";

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
            let raised = sqlx::query(RAISE).bind(name).bind(to).execute(&mut *tx).await?;
            raised.rows_affected() == 1
        })
    }

    /// Raises a mark and queues what is due at it, both or neither: `None` if the mark was there or
    /// beyond already, else the job, if none with its key was unfinished.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn enqueue_at_mark(
        &self,
        name: &'static str,
        to: i64,
        job: NewJob,
    ) -> Result<Option<Option<JobRow>>, StoreError> {
        writing!(self, |tx| {
            let raised = sqlx::query(RAISE).bind(name).bind(to).execute(&mut *tx).await?;
            match raised.rows_affected() {
                1 => Some(enqueue!(tx, job)),
                _ => None,
            }
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
