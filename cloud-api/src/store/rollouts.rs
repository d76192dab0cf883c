//! Rollouts as they are written down. Every step is one transaction that holds only if nobody else has
//! changed the rollout since it was read.

use sqlx::{FromRow, QueryBuilder};
use uuid::Uuid;

use super::audit::append_deed;
use super::bulk::ROWS;
use super::desired::wish;
use super::{Cursor, Deed, Store, StoreError, reading, writing};
use crate::rollout::{FieldCounts, Plan, Rollout, State, Step, Target};

/// A rollout as the database knows it.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of the table rollouts")]
pub struct RolloutRow {
    pub id: Uuid,
    pub release_id: Uuid,
    pub revert_release_id: Option<Uuid>,
    pub state: String,
    pub cohort: i64,
    pub reached_us: Option<i64>,
    pub since_us: i64,
    pub reason: Option<String>,
    pub plan: String,
    pub version: i64,
    pub created_us: i64,
    pub created_by: String,
    pub started_us: Option<i64>,
    pub finished_us: Option<i64>,
    pub updated_us: i64,
}

/// A station in a rollout, and what it last said of any release.
#[derive(Clone, Debug, PartialEq, Eq, FromRow)]
#[allow(missing_docs, reason = "the columns of rollout_devices, devices and device_updates")]
pub struct RolloutDeviceRow {
    pub device_id: Uuid,
    pub name: String,
    pub site_id: String,
    pub cohort: i64,
    pub step: String,
    pub offered_us: Option<i64>,
    pub heard_us: i64,
    pub seen_us: i64,
    pub known_us: i64,
    pub committed_us: Option<i64>,
    pub code: Option<String>,
    pub reason: Option<String>,
    pub said_manifest: Option<String>,
    pub said_step: Option<String>,
    pub said_code: Option<String>,
    pub said_reason: Option<String>,
    pub said_us: Option<i64>,
}

/// What a station's word changes in a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Who.
    pub device: Uuid,
    /// How far it is.
    pub step: Step,
    /// Which word it was: `received_us` of it.
    pub known_us: i64,
    /// Why, a word.
    pub code: Option<String>,
    /// Why, a sentence.
    pub reason: Option<String>,
}

/// One step of a rollout, to be written down as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutChange {
    /// Which.
    pub id: Uuid,
    /// As it was when the step was decided.
    pub version: i64,
    /// What it is then.
    pub rollout: Rollout,
    /// Its stations, where it is started by this step.
    pub assigned: Vec<(Target, usize)>,
    /// What stations said.
    pub heard: Vec<Heard>,
    /// Stations that get the release, and the wish they get.
    pub offer: (Vec<Uuid>, String),
    /// Stations that are told to stay as they are.
    pub withdraw: Vec<Uuid>,
    /// Stations that are told nothing any more.
    pub clear: Vec<Uuid>,
    /// Stations that get the release to go back by, and the wish they get.
    pub revert: (Vec<Uuid>, String),
    /// By whom.
    pub by: String,
    /// What the audit log says.
    pub deed: Option<Deed>,
    /// Now, µs.
    pub now_us: i64,
}

macro_rules! select_rollout {
    ($rest:literal) => {
        concat!(
            "SELECT id, release_id, revert_release_id, state, cohort, reached_us, since_us, reason, \
             plan, version, created_us, created_by, started_us, finished_us, updated_us \
             FROM rollouts ",
            $rest
        )
    };
}

impl RolloutRow {
    /// For the machine.
    #[must_use]
    pub fn rollout(&self) -> Rollout {
        Rollout {
            state: State::named(&self.state).unwrap_or(State::Halted),
            cohort: usize::try_from(self.cohort).unwrap_or(0),
            reached_us: self.reached_us,
            since_us: self.since_us,
            reason: self.reason.clone(),
        }
    }

    /// What was planned.
    #[must_use]
    pub fn plan(&self) -> Plan {
        // Written by this program from the same type.
        serde_json::from_str(&self.plan).unwrap_or_default()
    }

    /// Its place in the list.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        Cursor { listed_us: self.created_us, id: self.id }
    }
}

impl Store {
    /// Keeps a plan.
    ///
    /// # Errors
    /// [`StoreError`] as for every write.
    pub async fn plan_rollout(&self, row: RolloutRow, deed: Deed) -> Result<(), StoreError> {
        writing!(self, |tx| {
            sqlx::query(
                "INSERT INTO rollouts (id, release_id, revert_release_id, state, cohort, since_us, \
                 plan, version, created_us, created_by, updated_us) \
                 VALUES ($1, $2, $3, $4, 0, $5, $6, 1, $5, $7, $5)",
            )
            .bind(row.id)
            .bind(row.release_id)
            .bind(row.revert_release_id)
            .bind(row.state)
            .bind(row.created_us)
            .bind(row.plan)
            .bind(row.created_by)
            .execute(&mut *tx)
            .await?;
            append_deed!(tx, deed);
        })
    }

    /// A rollout.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn rollout(&self, id: Uuid) -> Result<Option<RolloutRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(select_rollout!("WHERE id = $1")).bind(id).fetch_optional(pool).await
        })?)
    }

    /// At most `limit` rollouts, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn rollouts(
        &self,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Vec<RolloutRow>, StoreError> {
        let Cursor { listed_us, id } = after.unwrap_or(Cursor::START);
        Ok(reading!(self, |pool| {
            sqlx::query_as(select_rollout!(
                "WHERE (created_us, id) < ($1, $2) ORDER BY created_us DESC, id DESC LIMIT $3"
            ))
            .bind(listed_us)
            .bind(id)
            .bind(limit)
            .fetch_all(pool)
            .await
        })?)
    }

    /// Rollouts that were started and not finished before `since_us`, oldest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn rollouts_under_way(&self, since_us: i64) -> Result<Vec<RolloutRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(select_rollout!(
                "WHERE state <> 'draft' AND (finished_us IS NULL OR finished_us > $1) \
                 ORDER BY created_us, id"
            ))
            .bind(since_us)
            .fetch_all(pool)
            .await
        })?)
    }

    /// Rollouts that changed after `after_us`, in that order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn rollouts_changed(&self, after_us: i64) -> Result<Vec<RolloutRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(select_rollout!("WHERE updated_us > $1 ORDER BY updated_us, id"))
                .bind(after_us)
                .fetch_all(pool)
                .await
        })?)
    }

    /// The stations of a rollout that are still there, by cohort.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn rollout_devices(&self, id: Uuid) -> Result<Vec<RolloutDeviceRow>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT r.device_id, d.name, d.site_id, r.cohort, r.step, r.offered_us, r.heard_us, \
                 d.last_seen_us AS seen_us, r.known_us, r.committed_us, r.code, r.reason, \
                 u.manifest_sha256 AS said_manifest, u.step AS said_step, u.code AS said_code, \
                 u.reason AS said_reason, u.received_us AS said_us \
                 FROM rollout_devices r JOIN devices d ON d.id = r.device_id \
                 LEFT JOIN device_updates u ON u.device_id = r.device_id \
                 WHERE r.rollout_id = $1 AND d.retired_us IS NULL \
                 ORDER BY r.cohort, d.site_id, d.name, r.device_id",
            )
            .bind(id)
            .fetch_all(pool)
            .await
        })?)
    }

    /// How many stations of a rollout are at which step: cohort, step, number.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn rollout_steps(&self, id: Uuid) -> Result<Vec<(i64, String, i64)>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT r.cohort, r.step, COUNT(*) FROM rollout_devices r \
                 JOIN devices d ON d.id = r.device_id \
                 WHERE r.rollout_id = $1 AND d.retired_us IS NULL \
                 GROUP BY r.cohort, r.step ORDER BY r.cohort, r.step",
            )
            .bind(id)
            .fetch_all(pool)
            .await
        })?)
    }

    /// Stations that are there: id and site.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn device_sites(&self) -> Result<Vec<(Uuid, String)>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as("SELECT id, site_id FROM devices WHERE retired_us IS NULL ORDER BY id")
                .fetch_all(pool)
                .await
        })?)
    }

    /// The rollout that such a station is in, of those that are running or paused.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn busy_devices(&self) -> Result<Vec<(Uuid, Uuid)>, StoreError> {
        Ok(reading!(self, |pool| {
            sqlx::query_as(
                "SELECT r.device_id, r.rollout_id FROM rollout_devices r \
                 JOIN rollouts o ON o.id = r.rollout_id \
                 WHERE o.state IN ('running', 'paused') AND r.step <> 'superseded'",
            )
            .fetch_all(pool)
            .await
        })?)
    }

    /// Writes a step down; false, and nothing is written, if the rollout is not what it was when the
    /// step was decided.
    ///
    /// # Errors
    /// [`StoreError`] as for every write; nothing is written then.
    pub async fn change_rollout(&self, change: RolloutChange) -> Result<bool, StoreError> {
        writing!(self, |tx| {
            let RolloutChange { id, rollout, now_us, by, .. } = &change;
            let finished = matches!(rollout.state, State::Done | State::RolledBack);
            let done = sqlx::query(
                "UPDATE rollouts SET state = $3, cohort = $4, reached_us = $5, since_us = $6, \
                 reason = $7, version = version + 1, updated_us = \
                 CASE WHEN updated_us < $8 THEN $8 ELSE updated_us + 1 END, \
                 started_us = CASE WHEN $3 = 'draft' THEN started_us \
                 ELSE COALESCE(started_us, $8) END, finished_us = CASE WHEN $9 \
                 THEN COALESCE(finished_us, $8) ELSE NULL END WHERE id = $1 AND version = $2",
            )
            .bind(id)
            .bind(change.version)
            .bind(rollout.state.name())
            .bind(rollout.cohort as i64)
            .bind(rollout.reached_us)
            .bind(rollout.since_us)
            .bind(&rollout.reason)
            .bind(now_us)
            .bind(finished)
            .execute(&mut *tx)
            .await?;
            let current = done.rows_affected() == 1;
            if current {
                write_stations!(tx, change, id, by, *now_us);
                if let Some(deed) = change.deed {
                    append_deed!(tx, deed);
                }
            }
            current
        })
    }

    /// What reviewers rejected on the stations that run a rollout's release, by the model that heard
    /// it: under the release since it was committed (or `since_us`), and under others in the
    /// `baseline_us` before it was offered.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn field_counts(
        &self,
        id: Uuid,
        model_tag: &str,
        since_us: i64,
        baseline_us: i64,
        now_us: i64,
    ) -> Result<FieldCounts, StoreError> {
        let spans: Vec<(i64, i64, i64)> = reading!(self, |pool| {
            sqlx::query_as(
                "SELECT r.committed_us, r.offered_us, d.first_seen_us FROM rollout_devices r \
                 JOIN devices d ON d.id = r.device_id WHERE r.rollout_id = $1 \
                 AND r.step = 'committed' AND r.committed_us IS NOT NULL \
                 AND r.offered_us IS NOT NULL",
            )
            .bind(id)
            .fetch_all(pool)
            .await
        })?;
        if spans.is_empty() {
            return Ok(FieldCounts::default());
        }
        let (rejected_new, rejected_old): (i64, i64) = reading!(self, |pool| {
            sqlx::query_as(
                "SELECT COUNT(CASE WHEN e.model_tag = $2 AND e.listed_us >= r.committed_us \
                 AND e.listed_us >= $3 THEN 1 END), \
                 COUNT(CASE WHEN e.model_tag <> $2 AND e.listed_us < r.offered_us \
                 AND e.listed_us >= r.offered_us - $4 THEN 1 END) FROM rollout_devices r \
                 JOIN events e ON e.device_id = r.device_id AND e.listed_us >= r.offered_us - $4 \
                 WHERE r.rollout_id = $1 AND r.step = 'committed' AND r.committed_us IS NOT NULL \
                 AND r.offered_us IS NOT NULL AND e.alert = TRUE AND e.canary = FALSE \
                 AND e.verdict = 'rejected'",
            )
            .bind(id)
            .bind(model_tag)
            .bind(since_us)
            .bind(baseline_us)
            .fetch_one(pool)
            .await
        })?;
        let days = |span_us: i64| span_us.max(0) as f64 / DAY_US as f64;
        let under_new = |(committed, _, _): &(i64, i64, i64)| now_us - (*committed).max(since_us);
        let before =
            |(_, offered, first): &(i64, i64, i64)| (offered - first).clamp(0, baseline_us);
        Ok(FieldCounts {
            rejected_new: u32::try_from(rejected_new).unwrap_or(u32::MAX),
            days_new: spans.iter().map(|span| days(under_new(span))).sum(),
            rejected_old: u32::try_from(rejected_old).unwrap_or(u32::MAX),
            days_old: spans.iter().map(|span| days(before(span))).sum(),
        })
    }
}

const DAY_US: i64 = 24 * 3_600 * 1_000_000;

/// Everything of a step that concerns stations.
macro_rules! write_stations {
    ($tx:ident, $change:ident, $id:ident, $by:ident, $now_us:expr) => {
        for chunk in $change.assigned.chunks(ROWS) {
            let mut query = QueryBuilder::<Db>::new(
                "INSERT INTO rollout_devices (rollout_id, device_id, site_id, cohort, step, \
                 heard_us, known_us) ",
            );
            query.push_values(chunk, |mut row, (target, cohort)| {
                row.push_bind(*$id).push_bind(target.device).push_bind(target.site.clone());
                row.push_bind(*cohort as i64).push_bind(Step::Waiting.name());
                row.push_bind($now_us).push("0");
            });
            query.build().persistent(false).execute(&mut *$tx).await?;
        }
        for heard in &$change.heard {
            sqlx::query(
                "UPDATE rollout_devices SET step = $3, heard_us = $4, known_us = $5, code = $6, \
                 reason = $7, committed_us = CASE WHEN $3 = 'committed' \
                 THEN COALESCE(committed_us, $4) ELSE committed_us END, \
                 offered_us = COALESCE(offered_us, $4) \
                 WHERE rollout_id = $1 AND device_id = $2 AND step <> 'superseded'",
            )
            .bind($id)
            .bind(heard.device)
            .bind(heard.step.name())
            .bind($now_us)
            .bind(heard.known_us)
            .bind(&heard.code)
            .bind(&heard.reason)
            .execute(&mut *$tx)
            .await?;
        }
        let (offer, model) = &$change.offer;
        move_stations!($tx, $id, offer, Step::Offered, $now_us);
        supersede!($tx, $id, offer);
        wish!($tx, offer, Some(model.clone()), $by, $now_us);
        move_stations!($tx, $id, $change.withdraw, Step::Withdrawn, $now_us);
        wish!($tx, $change.withdraw, None::<String>, $by, $now_us);
        wish!($tx, $change.clear, None::<String>, $by, $now_us);
        let (revert, model) = &$change.revert;
        move_stations!($tx, $id, revert, Step::Reverting, $now_us);
        wish!($tx, revert, Some(model.clone()), $by, $now_us);
    };
}

/// Notes what stations are told. What they said until then is no answer to it.
macro_rules! move_stations {
    ($tx:ident, $id:ident, $devices:expr, $step:expr, $now_us:expr) => {
        for chunk in $devices.chunks(ROWS) {
            let mut query = QueryBuilder::<Db>::new("UPDATE rollout_devices SET step = ");
            query.push_bind($step.name()).push(", heard_us = ").push_bind($now_us);
            query.push(", offered_us = COALESCE(offered_us, ").push_bind($now_us);
            query.push(
                "), code = NULL, reason = NULL, known_us = COALESCE((SELECT u.received_us \
                 FROM device_updates u WHERE u.device_id = rollout_devices.device_id), 0) \
                 WHERE rollout_id = ",
            );
            query.push_bind(*$id).push(" AND device_id IN (");
            let mut ids = query.separated(", ");
            for device in chunk {
                ids.push_bind(*device);
            }
            query.push(")");
            query.build().persistent(false).execute(&mut *$tx).await?;
        }
    };
}

/// A station follows the rollout that told it something last; whoever decided on another one with
/// this station in it decides again.
macro_rules! supersede {
    ($tx:ident, $id:ident, $devices:expr) => {
        for chunk in $devices.chunks(ROWS) {
            let mut query = QueryBuilder::<Db>::new(
                "UPDATE rollouts SET version = version + 1 WHERE id IN (SELECT rollout_id \
                 FROM rollout_devices WHERE step <> 'superseded' AND rollout_id <> ",
            );
            query.push_bind(*$id).push(" AND device_id IN (");
            let mut ids = query.separated(", ");
            for device in chunk {
                ids.push_bind(*device);
            }
            query.push("))");
            query.build().persistent(false).execute(&mut *$tx).await?;
            let mut query = QueryBuilder::<Db>::new(
                "UPDATE rollout_devices SET step = 'superseded' WHERE step <> 'superseded' \
                 AND rollout_id <> ",
            );
            query.push_bind(*$id).push(" AND device_id IN (");
            let mut ids = query.separated(", ");
            for device in chunk {
                ids.push_bind(*device);
            }
            query.push(")");
            query.build().persistent(false).execute(&mut *$tx).await?;
        }
    };
}

use {move_stations, supersede, write_stations};
