//! What stations should run: settings and a model, published retained.
//!
//! The table is its own outbox. A row whose version is above what was published is still to be sent;
//! what a newer version says replaces what was not sent yet, as it would in the broker.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Store, StoreError, reading, writing};

/// What a station should run.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct DesiredRow {
    /// Rises with every change.
    pub version: i64,
    /// Settings, a JSON object.
    pub document: String,
    /// The model, JSON; `None`: the station keeps what it has.
    pub model: Option<String>,
    /// When it was changed, µs.
    pub updated_us: i64,
    /// By whom.
    pub updated_by: String,
}

/// A message that the broker has not taken yet.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
pub struct Publication {
    /// To whom.
    pub device_id: Uuid,
    /// Where that station is.
    pub site_id: String,
    /// What it is a version of.
    pub version: i64,
    /// Settings, a JSON object.
    pub document: String,
    /// The model, JSON.
    pub model: Option<String>,
    /// When the model was decided on, µs.
    pub model_us: i64,
}

impl Store {
    /// What a station should run, if anybody said.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn desired(&self, device: Uuid) -> Result<Option<DesiredRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT version, document, model, updated_us, updated_by FROM desired \
                 WHERE device_id = $1",
            )
            .bind(device)
            .fetch_optional(pool)
            .await
        })?)
    }

    /// Says which settings a station should have. With `version`, only if that is the one there (0 for
    /// none): `None` if it is not.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn set_desired(
        &self,
        device: Uuid,
        version: Option<i64>,
        document: String,
        by: String,
        now_us: i64,
    ) -> Result<Option<DesiredRow>, StoreError> {
        writing!(self, |tx| {
            let row: Option<DesiredRow> = sqlx::query_as(
                "INSERT INTO desired (device_id, version, document, updated_us, updated_by) \
                 SELECT $1, 1, $2, $3, $4 WHERE CAST($5 AS BIGINT) IS NULL OR $5 = 0 \
                 OR EXISTS (SELECT 1 FROM desired WHERE device_id = $1) \
                 ON CONFLICT (device_id) DO UPDATE SET version = desired.version + 1, \
                 document = excluded.document, updated_us = excluded.updated_us, \
                 updated_by = excluded.updated_by \
                 WHERE CAST($5 AS BIGINT) IS NULL OR desired.version = $5 \
                 RETURNING version, document, model, updated_us, updated_by",
            )
            .bind(device)
            .bind(document)
            .bind(now_us)
            .bind(by)
            .bind(version)
            .fetch_optional(&mut *tx)
            .await?;
            row
        })
    }

    /// At most `limit` messages that are to be sent, those that wait longest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn publications(&self, limit: i64) -> Result<Vec<Publication>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT w.device_id, d.site_id, w.version, w.document, w.model, w.model_us \
                 FROM desired w JOIN devices d ON d.id = w.device_id \
                 WHERE w.version > w.published_version AND d.retired_us IS NULL \
                 ORDER BY w.updated_us, w.device_id LIMIT $1",
            )
            .bind(limit)
            .fetch_all(pool)
            .await
        })?)
    }

    /// Notes that the broker has these versions.
    ///
    /// # Errors
    /// [`StoreError`] as for every write; they are then sent again.
    pub async fn mark_published(&self, taken: Vec<(Uuid, i64)>) -> Result<(), StoreError> {
        writing!(self, |tx| {
            for (device, version) in taken {
                sqlx::query(
                    "UPDATE desired SET published_version = $2 \
                     WHERE device_id = $1 AND published_version < $2",
                )
                .bind(device)
                .bind(version)
                .execute(&mut *tx)
                .await?;
            }
        })
    }

    /// Has everything sent again, to a broker that has forgotten it; gives the number of messages.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn publish_again(&self) -> Result<u64, StoreError> {
        writing!(self, |tx| {
            sqlx::query("UPDATE desired SET published_version = 0 WHERE published_version > 0")
                .execute(&mut *tx)
                .await?
                .rows_affected()
        })
    }

    /// Takes or renews a lease; false if another has it.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn take_lease(
        &self,
        name: &'static str,
        owner: &str,
        now_us: i64,
        until_us: i64,
    ) -> Result<bool, StoreError> {
        let owner = owner.to_owned();
        writing!(self, |tx| {
            sqlx::query(
                "INSERT INTO leases (name, owner, until_us) VALUES ($1, $2, $3) \
                 ON CONFLICT (name) DO UPDATE SET owner = excluded.owner, \
                 until_us = excluded.until_us \
                 WHERE leases.owner = excluded.owner OR leases.until_us < $4",
            )
            .bind(name)
            .bind(owner)
            .bind(until_us)
            .bind(now_us)
            .execute(&mut *tx)
            .await?
            .rows_affected()
                == 1
        })
    }

    /// Gives a lease back, for the next one to take at once.
    ///
    /// # Errors
    /// [`StoreError`] as for every write; it then ends by itself.
    pub async fn give_lease_back(&self, name: &'static str, owner: &str) -> Result<(), StoreError> {
        let owner = owner.to_owned();
        writing!(self, |tx| {
            sqlx::query("DELETE FROM leases WHERE name = $1 AND owner = $2")
                .bind(name)
                .bind(owner)
                .execute(&mut *tx)
                .await?;
        })
    }
}

/// Says which model stations should run, or (`None`) that they keep what they have.
macro_rules! wish {
    ($tx:ident, $devices:expr, $model:expr, $by:expr, $now_us:expr) => {
        for chunk in $devices.chunks($crate::store::bulk::ROWS) {
            let mut query = QueryBuilder::<Db>::new(
                "INSERT INTO desired (device_id, version, document, model, model_us, updated_us, \
                 updated_by) ",
            );
            query.push_values(chunk, |mut row, device| {
                row.push_bind(*device).push("1").push("'{}'").push_bind($model.clone());
                row.push_bind($now_us).push_bind($now_us).push_bind($by.clone());
            });
            query.push(
                " ON CONFLICT (device_id) DO UPDATE SET version = desired.version + 1, \
                 model = excluded.model, model_us = excluded.model_us, \
                 updated_us = excluded.updated_us, updated_by = excluded.updated_by",
            );
            query.build().persistent(false).execute(&mut *$tx).await?;
        }
    };
}

pub(super) use wish;
