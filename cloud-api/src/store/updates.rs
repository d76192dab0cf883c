//! What stations say of releases: the newest word of each, and the last steps.

use sqlx::FromRow;
use uuid::Uuid;

use super::{Store, StoreError, reading};

/// Steps that are kept of a station: some ten updates.
pub(super) const STEPS_KEPT: i64 = 100;

/// A station's word about a release.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table device_updates")]
pub struct UpdateReport {
    pub device_id: Uuid,
    pub site_id: String,
    pub release: String,
    pub manifest_sha256: String,
    pub counter: Option<i64>,
    pub step: String,
    pub code: Option<String>,
    pub reason: Option<String>,
    pub at_us: i64,
    pub active_name: String,
    pub active_version: String,
    pub active_tag: String,
    pub trial: Option<String>,
}

/// A clock that was further ahead than this, by its own word, was wrong: what is said after it was set
/// counts although it claims to be older.
pub(super) const AHEAD_US: i64 = 5 * 60 * 1_000_000;

/// Keeps the newest word of each station; gives whether any was new. Words are ordered by the
/// station's clock, and those of one instant by how far the update was; a trial's figures come again and
/// again under the time at which it began. A repeated word changes nothing.
macro_rules! note_updates {
    ($tx:ident, $updates:expr, $received_us:ident) => {{
        let mut fresh = false;
        for update in &$updates {
            let done = sqlx::query(
                "INSERT INTO device_updates (device_id, site_id, release, manifest_sha256, counter, \
                 step, code, reason, at_us, received_us, active_name, active_version, active_tag, \
                 trial) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) \
                 ON CONFLICT (device_id) DO UPDATE SET site_id = excluded.site_id, \
                 release = excluded.release, manifest_sha256 = excluded.manifest_sha256, \
                 counter = excluded.counter, step = excluded.step, code = excluded.code, \
                 reason = excluded.reason, at_us = excluded.at_us, \
                 received_us = CASE WHEN excluded.received_us > device_updates.received_us \
                 THEN excluded.received_us ELSE device_updates.received_us + 1 END, \
                 active_name = excluded.active_name, active_version = excluded.active_version, \
                 active_tag = excluded.active_tag, trial = excluded.trial \
                 WHERE excluded.at_us > device_updates.at_us \
                 OR device_updates.at_us > device_updates.received_us + $15 \
                 OR (excluded.at_us = device_updates.at_us \
                 AND excluded.step = device_updates.step \
                 AND COALESCE(excluded.trial, '') <> COALESCE(device_updates.trial, '')) \
                 OR (excluded.at_us = device_updates.at_us \
                 AND excluded.step <> device_updates.step \
                 AND $16 > CASE device_updates.step WHEN 'accepted' THEN 0 WHEN 'downloading' THEN 1 \
                 WHEN 'verified' THEN 2 WHEN 'loaded' THEN 3 WHEN 'proved' THEN 4 \
                 WHEN 'trial' THEN 5 WHEN 'committed' THEN 6 ELSE 7 END)",
            )
            .bind(update.device_id)
            .bind(&update.site_id)
            .bind(&update.release)
            .bind(&update.manifest_sha256)
            .bind(update.counter)
            .bind(&update.step)
            .bind(&update.code)
            .bind(&update.reason)
            .bind(update.at_us)
            .bind($received_us)
            .bind(&update.active_name)
            .bind(&update.active_version)
            .bind(&update.active_tag)
            .bind(&update.trial)
            .bind($crate::store::updates::AHEAD_US)
            .bind($crate::store::updates::rank(&update.step))
            .execute(&mut *$tx)
            .await?;
            fresh |= done.rows_affected() > 0;
            $crate::store::updates::note_step!($tx, update, $received_us);
        }
        fresh
    }};
}

/// Keeps a step in the station's history, once, and forgets what is too long ago.
macro_rules! note_step {
    ($tx:ident, $update:ident, $received_us:ident) => {
        let noted = sqlx::query(
            "INSERT INTO device_update_steps (device_id, manifest_sha256, step, at_us, received_us, \
             release, counter, code, reason) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
             ON CONFLICT DO NOTHING",
        )
        .bind($update.device_id)
        .bind(&$update.manifest_sha256)
        .bind(&$update.step)
        .bind($update.at_us)
        .bind($received_us)
        .bind(&$update.release)
        .bind($update.counter)
        .bind(&$update.code)
        .bind(&$update.reason)
        .execute(&mut *$tx)
        .await?;
        if noted.rows_affected() > 0 {
            sqlx::query(
                "DELETE FROM device_update_steps WHERE device_id = $1 AND received_us < \
                 (SELECT received_us FROM device_update_steps WHERE device_id = $1 \
                 ORDER BY received_us DESC LIMIT 1 OFFSET $2)",
            )
            .bind($update.device_id)
            .bind($crate::store::updates::STEPS_KEPT - 1)
            .execute(&mut *$tx)
            .await?;
        }
    };
}

/// A step of an update, as the station said it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table device_update_steps")]
pub struct UpdateStepRow {
    pub release: String,
    pub manifest_sha256: String,
    pub counter: Option<i64>,
    pub step: String,
    pub code: Option<String>,
    pub reason: Option<String>,
    pub at_us: i64,
    pub received_us: i64,
}

impl Store {
    /// The last steps that a station said, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn update_steps(&self, device: Uuid) -> Result<Vec<UpdateStepRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT release, manifest_sha256, counter, step, code, reason, at_us, received_us \
                 FROM device_update_steps WHERE device_id = $1 \
                 ORDER BY received_us DESC, at_us DESC, step DESC LIMIT $2",
            )
            .bind(device)
            .bind(STEPS_KEPT)
            .fetch_all(pool)
            .await
        })?)
    }
}

/// How far an update was; the statement above says the same of a row.
pub(super) fn rank(step: &str) -> i64 {
    let order = ["accepted", "downloading", "verified", "loaded", "proved", "trial", "committed"];
    order.iter().position(|known| *known == step).unwrap_or(order.len()) as i64
}

pub(super) use {note_step, note_updates};
