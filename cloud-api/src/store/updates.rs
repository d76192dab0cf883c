//! What stations say of releases: the newest word of each.

use sqlx::FromRow;
use uuid::Uuid;

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
        }
        fresh
    }};
}

/// How far an update was; the statement above says the same of a row.
pub(super) fn rank(step: &str) -> i64 {
    let order = ["accepted", "downloading", "verified", "loaded", "proved", "trial", "committed"];
    order.iter().position(|known| *known == step).unwrap_or(order.len()) as i64
}

pub(super) use note_updates;
