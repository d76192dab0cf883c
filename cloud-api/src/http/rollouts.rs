//! Rollouts: how releases come to stations, cohort by cohort.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::accounts::unprocessable;
use super::events::{All, Page, PageQuery, cursor, id, limit};
use super::{Api, Problem, fleet};
use crate::access::Caller;
use crate::rollout::documents::{self, RolloutDeviceDocument, RolloutDocument, UpdateStepDocument};
use crate::rollout::{Cohort, Input, Plan, RolloutError, Rules, State as Phase};
use crate::store::{Deed, RolloutRow};

/// Longest reason that a person may give.
const MAX_REASON_LEN: usize = 500;

/// What is to be rolled out, to whom, and under which rules.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RolloutBody {
    release_id: Uuid,
    /// The signed release that stations go back by: one that replaces exactly `release_id`.
    #[serde(default)]
    revert_release_id: Option<Uuid>,
    /// In their order; 10, 50 and 100 per cent if left out.
    #[serde(default)]
    #[schema(nullable = false)]
    cohorts: Option<Vec<Cohort>>,
    #[serde(default)]
    rules: Rules,
}

/// Why.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ReasonBody {
    /// In a sentence.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

impl From<RolloutError> for Problem {
    fn from(error: RolloutError) -> Self {
        match error {
            RolloutError::Missing => Self::not_found("There is no such rollout."),
            RolloutError::Impossible(_) | RolloutError::Plan(_) => {
                Self::new(StatusCode::CONFLICT, format!("{error}."))
            }
            RolloutError::Contended => {
                Self::unavailable("Others are changing the rollout; try again.")
            }
            RolloutError::Store(error) => error.into(),
        }
    }
}

/// Rollouts concern the whole fleet: whoever sees some sites only has no say, and no view.
pub(super) fn whole_fleet(caller: &Caller) -> Result<(), Problem> {
    if caller.sites().is_none() {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::FORBIDDEN,
        "This concerns every site, and your account is for some of them.",
    ))
}

/// Rollouts, newest first
#[utoipa::path(
    get,
    path = "/api/v1/rollouts",
    operation_id = "rollouts",
    tag = "releases",
    params(PageQuery),
    responses((status = 200, body = Page<RolloutDocument>))
)]
pub(super) async fn rollouts(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Page<RolloutDocument>>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let most = limit(query.limit.as_deref())?;
    let after = query.cursor.as_deref().map(cursor).transpose()?;
    whole_fleet(&caller)?;
    let rows = api.store.rollouts(after, i64::from(most) + 1).await?;
    let page: Page<RolloutRow> = Page::of(rows, most, RolloutRow::cursor);
    let (rows, next) = page.into_parts();
    let mut items = Vec::with_capacity(rows.len());
    for row in rows {
        items.extend(documents::rollout(&api.store, row).await?);
    }
    Ok(Json(Page::from_parts(items, next)))
}

/// Plans a rollout; it begins when it is started
#[utoipa::path(
    post,
    path = "/api/v1/rollouts",
    operation_id = "plan_rollout",
    tag = "releases",
    request_body = RolloutBody,
    responses(
        (status = 201, body = RolloutDocument),
        (status = 404, description = "No such release"),
        (status = 422, description = "The plan cannot be used"),
    )
)]
pub(super) async fn plan(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<RolloutBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(body) = body.map_err(|error| Problem::of_json(&error))?;
    whole_fleet(&caller)?;
    let cohorts = body.cohorts.unwrap_or_else(|| Plan::default().cohorts);
    let plan = Plan { cohorts, rules: body.rules };
    let faults = plan.faults();
    if !faults.is_empty() {
        return Err(unprocessable(format!("{}.", faults.join("; "))));
    }
    let missing = |id: Uuid| Problem::not_found(format!("There is no release {id}."));
    let release = api.store.release(body.release_id).await?;
    let release = release.ok_or_else(|| missing(body.release_id))?;
    if let Some(id) = body.revert_release_id {
        let revert = api.store.release(id).await?.ok_or_else(|| missing(id))?;
        if !revert.leads_back_from(&release) {
            return Err(unprocessable(format!(
                "revert_release_id: it does not replace {} with counter {}; sign one with \
                 `ecosight-models release sign --replaces`.",
                release.title(),
                release.counter
            )));
        }
    }
    let (now_us, actor) = (api.clock.now_us(), caller.actor());
    let row = RolloutRow {
        id: api.chance.id(&api.clock),
        release_id: release.id,
        revert_release_id: body.revert_release_id,
        state: Phase::Draft.name().to_owned(),
        cohort: 0,
        reached_us: None,
        since_us: now_us,
        reason: None,
        plan: serde_json::to_string(&plan)
            .map_err(|error| Problem::bad_request(error.to_string()))?,
        version: 1,
        created_us: now_us,
        created_by: actor.clone(),
        started_us: None,
        finished_us: None,
        updated_us: now_us,
    };
    let (target, detail) = (row.id.to_string(), release.title());
    let deed = Deed { at_us: now_us, actor, action: "rollout.plan", target, detail };
    api.store.plan_rollout(row.clone(), deed).await?;
    Ok((StatusCode::CREATED, Json(shown(&api, row).await?)).into_response())
}

async fn shown(api: &Api, row: RolloutRow) -> Result<RolloutDocument, Problem> {
    let document = documents::rollout(&api.store, row).await?;
    document.ok_or_else(|| Problem::not_found("The release of this rollout is gone."))
}

async fn known(api: &Api, caller: &Caller, text: &str) -> Result<RolloutRow, Problem> {
    whole_fleet(caller)?;
    let row = api.store.rollout(id("id", text)?).await?;
    row.ok_or_else(|| Problem::not_found(format!("There is no rollout {text}.")))
}

/// A rollout
#[utoipa::path(
    get,
    path = "/api/v1/rollouts/{id}",
    operation_id = "rollout",
    tag = "releases",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = RolloutDocument), (status = 404, description = "No such rollout"))
)]
pub(super) async fn rollout(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<RolloutDocument>, Problem> {
    let row = known(&api, &caller, &text).await?;
    Ok(Json(shown(&api, row).await?))
}

/// The stations of a rollout, by cohort, each with its step
#[utoipa::path(
    get,
    path = "/api/v1/rollouts/{id}/devices",
    operation_id = "rollout_devices",
    tag = "releases",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = All<RolloutDeviceDocument>),
        (status = 404, description = "No such rollout"),
    )
)]
pub(super) async fn devices(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<All<RolloutDeviceDocument>>, Problem> {
    let row = known(&api, &caller, &text).await?;
    Ok(Json(All::of(api.store.rollout_devices(row.id).await?)))
}

/// What a station said of releases, step by step, newest first; the last hundred
#[utoipa::path(
    get,
    path = "/api/v1/devices/{id}/updates",
    operation_id = "device_updates",
    tag = "releases",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = All<UpdateStepDocument>),
        (status = 404, description = "No such station"),
    )
)]
pub(super) async fn updates(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<All<UpdateStepDocument>>, Problem> {
    let station = fleet::known(&api, &caller, &text).await?;
    Ok(Json(All::of(api.store.update_steps(station.id).await?)))
}

async fn act(
    api: &Api,
    caller: &Caller,
    text: &str,
    input: Input,
) -> Result<Json<RolloutDocument>, Problem> {
    let row = known(api, caller, text).await?;
    let row = api.rollouts.act(row.id, &input, &caller.actor()).await?;
    Ok(Json(shown(api, row).await?))
}

fn reason(
    body: Result<Json<ReasonBody>, JsonRejection>,
    caller: &Caller,
) -> Result<String, Problem> {
    let given = match body {
        Ok(Json(body)) => body.reason,
        // Nothing at all is no reason, and no fault.
        Err(JsonRejection::MissingJsonContentType(_)) => None,
        Err(error) => return Err(Problem::of_json(&error)),
    };
    let given = given.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    match given {
        None => Ok(format!("{} decided so", caller.actor())),
        Some(text) if text.len() <= MAX_REASON_LEN && !text.chars().any(char::is_control) => {
            Ok(text)
        }
        Some(_) => {
            Err(unprocessable(format!("reason: write at most {MAX_REASON_LEN} bytes on one line.")))
        }
    }
}

/// Starts a rollout: decides who is in which cohort, and tells the first
#[utoipa::path(
    post,
    path = "/api/v1/rollouts/{id}/start",
    operation_id = "start_rollout",
    tag = "releases",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = RolloutDocument),
        (status = 404, description = "No such rollout"),
        (status = 409, description = "It cannot be started, or its cohorts do not fit the stations"),
    )
)]
pub(super) async fn start(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<RolloutDocument>, Problem> {
    act(&api, &caller, &text, Input::Start).await
}

/// Pauses a rollout: no further cohort gets the release
#[utoipa::path(
    post,
    path = "/api/v1/rollouts/{id}/pause",
    operation_id = "pause_rollout",
    tag = "releases",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = RolloutDocument),
        (status = 404, description = "No such rollout"),
        (status = 409, description = "It is not running"),
    )
)]
pub(super) async fn pause(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<RolloutDocument>, Problem> {
    act(&api, &caller, &text, Input::Pause).await
}

/// Lets a paused or halted rollout go on; failures before a halt are forgiven
#[utoipa::path(
    post,
    path = "/api/v1/rollouts/{id}/resume",
    operation_id = "resume_rollout",
    tag = "releases",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, body = RolloutDocument),
        (status = 404, description = "No such rollout"),
        (status = 409, description = "It is neither paused nor halted"),
    )
)]
pub(super) async fn resume(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<RolloutDocument>, Problem> {
    act(&api, &caller, &text, Input::Resume).await
}

/// Halts a rollout: stations that have not decided are told to stay as they are
#[utoipa::path(
    post,
    path = "/api/v1/rollouts/{id}/halt",
    operation_id = "halt_rollout",
    tag = "releases",
    params(("id" = Uuid, Path)),
    request_body(content = Option<ReasonBody>),
    responses(
        (status = 200, body = RolloutDocument),
        (status = 404, description = "No such rollout"),
        (status = 409, description = "It is not under way"),
    )
)]
pub(super) async fn halt(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    body: Result<Json<ReasonBody>, JsonRejection>,
) -> Result<Json<RolloutDocument>, Problem> {
    let reason = reason(body, &caller)?;
    act(&api, &caller, &text, Input::Halt(reason)).await
}

/// Sends every station back that took the release, by the signed release that was supplied; without
/// one, says what a person must do
#[utoipa::path(
    post,
    path = "/api/v1/rollouts/{id}/rollback",
    operation_id = "roll_back_rollout",
    tag = "releases",
    params(("id" = Uuid, Path)),
    request_body(content = Option<ReasonBody>),
    responses(
        (status = 200, body = RolloutDocument),
        (status = 404, description = "No such rollout"),
        (status = 409, description = "It was never started, or is rolled back"),
    )
)]
pub(super) async fn roll_back(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    body: Result<Json<ReasonBody>, JsonRejection>,
) -> Result<Json<RolloutDocument>, Problem> {
    let reason = reason(body, &caller)?;
    act(&api, &caller, &text, Input::RollBack(reason)).await
}
