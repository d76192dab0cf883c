//! Rollouts as JSON: what the API and the live stream show.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Cohort, Plan, Rules};
use crate::clock::rfc3339;
use crate::store::{ReleaseRow, RolloutDeviceRow, RolloutRow, Store, StoreError, UpdateStepRow};

/// A rollout.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RolloutDocument {
    id: Uuid,
    release: ReleaseNameDocument,
    /// The signed release that stations go back by, if there is one.
    revert: Option<ReleaseNameDocument>,
    /// `draft`, `running`, `paused`, `halted`, `done` or `rolled_back`.
    state: String,
    /// Why it is halted or rolled back, a sentence.
    reason: Option<String>,
    /// The cohort that has its turn, from 1; 0 before the start.
    cohort: i64,
    cohorts: Vec<CohortDocument>,
    rules: Rules,
    created_at: String,
    created_by: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    updated_at: String,
}

/// Which release.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReleaseNameDocument {
    id: Uuid,
    name: String,
    version: String,
    counter: i64,
}

/// A cohort, and how far its stations are.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct CohortDocument {
    plan: Cohort,
    /// Its stations; 0 before the start.
    devices: i64,
    /// How many of them are at which step.
    steps: BTreeMap<String, i64>,
    /// Since when it has committed its share; only of the cohort that has its turn.
    reached_at: Option<String>,
}

/// A station in a rollout.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct RolloutDeviceDocument {
    device_id: Uuid,
    device_name: String,
    site_id: String,
    /// From 1.
    cohort: i64,
    /// `waiting`, `offered`, what the station says (`accepted` to `committed`, `refused`,
    /// `rolled_back`), `withdrawn`, `reverting`, `reverted`, `stuck` or `superseded`.
    step: String,
    offered_at: Option<String>,
    heard_at: String,
    committed_at: Option<String>,
    /// Why, a word.
    code: Option<String>,
    /// Why, a sentence.
    reason: Option<String>,
}

/// A step of an update, as a station said it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UpdateStepDocument {
    /// As its maker calls the release.
    release: String,
    counter: Option<i64>,
    /// `accepted` to `committed`, `refused` or `rolled_back`.
    step: String,
    /// Why, a word.
    code: Option<String>,
    /// Why, a sentence.
    reason: Option<String>,
    /// By the station's clock.
    at: String,
    received_at: String,
}

impl From<UpdateStepRow> for UpdateStepDocument {
    fn from(row: UpdateStepRow) -> Self {
        Self {
            release: row.release,
            counter: row.counter,
            step: row.step,
            code: row.code,
            reason: row.reason,
            at: rfc3339(row.at_us),
            received_at: rfc3339(row.received_us),
        }
    }
}

impl From<&ReleaseRow> for ReleaseNameDocument {
    fn from(row: &ReleaseRow) -> Self {
        Self {
            id: row.id,
            name: row.name.clone(),
            version: row.version.clone(),
            counter: row.counter,
        }
    }
}

impl From<RolloutDeviceRow> for RolloutDeviceDocument {
    fn from(row: RolloutDeviceRow) -> Self {
        Self {
            device_id: row.device_id,
            device_name: row.name,
            site_id: row.site_id,
            cohort: row.cohort + 1,
            step: row.step,
            offered_at: row.offered_us.map(rfc3339),
            heard_at: rfc3339(row.heard_us),
            committed_at: row.committed_us.map(rfc3339),
            code: row.code,
            reason: row.reason,
        }
    }
}

/// A rollout as it is shown; `None` if its release is gone.
///
/// # Errors
/// [`StoreError::Unavailable`].
pub async fn rollout(
    store: &Store,
    row: RolloutRow,
) -> Result<Option<RolloutDocument>, StoreError> {
    let Some(release) = store.release(row.release_id).await? else { return Ok(None) };
    let revert = match row.revert_release_id {
        Some(id) => store.release(id).await?,
        None => None,
    };
    let started = row.started_us.is_some();
    let Plan { cohorts, rules } = row.plan();
    let mut steps = vec![BTreeMap::new(); cohorts.len()];
    for (cohort, step, count) in store.rollout_steps(row.id).await? {
        if let Some(steps) = usize::try_from(cohort).ok().and_then(|cohort| steps.get_mut(cohort)) {
            steps.insert(step, count);
        }
    }
    let cohorts = cohorts.into_iter().zip(steps).zip(0..).map(|((plan, steps), place)| {
        let reached = row.reached_us.filter(|_| place == row.cohort);
        CohortDocument {
            plan,
            devices: steps.values().sum(),
            steps,
            reached_at: reached.map(rfc3339),
        }
    });
    Ok(Some(RolloutDocument {
        id: row.id,
        release: ReleaseNameDocument::from(&release),
        revert: revert.as_ref().map(ReleaseNameDocument::from),
        state: row.state,
        reason: row.reason,
        cohort: if started { row.cohort + 1 } else { 0 },
        cohorts: cohorts.collect(),
        rules,
        created_at: rfc3339(row.created_us),
        created_by: row.created_by,
        started_at: row.started_us.map(rfc3339),
        finished_at: row.finished_us.map(rfc3339),
        updated_at: rfc3339(row.updated_us),
    }))
}
