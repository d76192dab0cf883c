//! Bounds on what only grows.

use sqlx::QueryBuilder;
use uuid::Uuid;

use super::{ClipRow, Store, StoreError, reading, writing};

/// Payloads kept in quarantine.
pub(super) const QUARANTINE_LIMIT: i64 = 1_000;
/// Events forgotten in one transaction: ingest waits no longer than for one of its own batches.
const FORGOTTEN_AT_ONCE: i64 = 1_000;

/// Which events are forgotten.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Forget {
    /// Those of this class.
    Class(String),
    /// Those of no class, or of one that is not among these.
    AllBut(Vec<String>),
}

impl Store {
    /// Deletes telemetry received before `before_us`, and the memory of having received it; gives the
    /// number of rows.
    ///
    /// # Errors
    /// [`StoreError`] as for every write; the next round does it.
    pub async fn forget_telemetry(&self, before_us: i64) -> Result<u64, StoreError> {
        writing!(self, |tx| {
            sqlx::query(
                "DELETE FROM records WHERE (device_id, boot, seq) IN \
                 (SELECT device_id, boot, seq FROM telemetry WHERE received_us < $1)",
            )
            .bind(before_us)
            .execute(&mut *tx)
            .await?;
            sqlx::query("DELETE FROM telemetry WHERE received_us < $1")
                .bind(before_us)
                .execute(&mut *tx)
                .await?
                .rows_affected()
        })
    }

    /// Deletes the oldest events listed before `before_us`, at most a thousand, and gives their number.
    /// What a person has judged stays. Their recordings are no longer listed, but the files are still
    /// there: see [`Self::forgotten_clips`].
    ///
    /// # Errors
    /// [`StoreError`] as for every write; the next round does it.
    pub async fn forget_events(&self, which: Forget, before_us: i64) -> Result<usize, StoreError> {
        writing!(self, |tx| {
            let mut query = QueryBuilder::<Db>::new(
                "DELETE FROM events WHERE id IN (SELECT id FROM events \
                 WHERE verdict IS NULL AND NOT sample_due AND listed_us < ",
            );
            query.push_bind(before_us);
            match &which {
                Forget::Class(class) => {
                    query.push(" AND class = ").push_bind(class.clone());
                }
                Forget::AllBut(classes) => {
                    for class in classes {
                        query.push(" AND (class IS NULL OR class <> ").push_bind(class.clone());
                        query.push(")");
                    }
                }
            }
            query.push(" ORDER BY listed_us, id LIMIT ").push_bind(FORGOTTEN_AT_ONCE);
            query.push(") RETURNING id");
            let ids: Vec<Uuid> = query.build_query_scalar().fetch_all(&mut *tx).await?;
            if !ids.is_empty() {
                for statement in [
                    "DELETE FROM notifications WHERE event_id IN (",
                    "UPDATE clips SET status = 'forgotten' WHERE id IN (",
                ] {
                    let mut query = QueryBuilder::<Db>::new(statement);
                    let mut list = query.separated(", ");
                    for id in &ids {
                        list.push_bind(*id);
                    }
                    query.push(")");
                    query.build().persistent(false).execute(&mut *tx).await?;
                }
            }
            ids.len()
        })
    }

    /// Recordings whose event is gone and whose file may still be there.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn forgotten_clips(&self) -> Result<Vec<ClipRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT id, device_id, sha256, bytes, duration_ms, format, status FROM clips \
                 WHERE status = 'forgotten' ORDER BY id LIMIT $1",
            )
            .bind(FORGOTTEN_AT_ONCE)
            .fetch_all(pool)
            .await
        })?)
    }

    /// Forgets that a recording was ever there: its file is gone.
    ///
    /// # Errors
    /// [`StoreError`] as for every write; the next round does it.
    pub async fn drop_clip(&self, id: Uuid) -> Result<(), StoreError> {
        writing!(self, |tx| {
            sqlx::query("DELETE FROM clips WHERE id = $1 AND status = 'forgotten'")
                .bind(id)
                .execute(&mut *tx)
                .await?;
        })
    }
}
