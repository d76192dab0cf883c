//! Alerts on their way to rangers.

use sqlx::{FromRow, QueryBuilder};
use uuid::Uuid;

use super::{Store, StoreError, reading, writing};

/// An alert that the broker has not taken yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromRow)]
pub struct Pending {
    /// The event to tell of.
    pub event_id: Uuid,
    /// When it was stored.
    pub created_us: i64,
}

impl Store {
    /// The oldest alerts that are still to be sent.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn pending_notifications(&self, limit: i64) -> Result<Vec<Pending>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT event_id, created_us FROM notifications WHERE sent_us IS NULL \
                 ORDER BY created_us, event_id LIMIT $1",
            )
            .bind(limit)
            .fetch_all(pool)
            .await
        })?)
    }

    /// Notes that the broker has taken these.
    ///
    /// # Errors
    /// [`StoreError`] as for every write; the alerts are then sent again.
    pub async fn mark_notified(&self, events: &[Uuid], now_us: i64) -> Result<(), StoreError> {
        if events.is_empty() {
            return Ok(());
        }
        let events = events.to_vec();
        writing!(self, |tx| {
            let mut query = QueryBuilder::<Db>::new("UPDATE notifications SET sent_us = ");
            query.push_bind(now_us).push(" WHERE event_id IN (");
            let mut ids = query.separated(", ");
            for id in events {
                ids.push_bind(id);
            }
            query.push(")");
            query.build().persistent(false).execute(&mut *tx).await?;
        })
    }
}
