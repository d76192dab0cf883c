//! Long work: `/retrain` and `/api/v1/jobs`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::events::{Page, cursor, id, limit};
use super::{Api, Problem};
use crate::clock::rfc3339;
use crate::store::{JobRow, NewJob};
use crate::training::{RETRAIN, RetrainRequest};

/// As in the original.
const DEFAULT_REASON: &str = "manual";
const DEFAULT_NEW_SAMPLES: u32 = 10;
const MAX_REASON_LEN: usize = 500;

/// What is asked for; all of it may be left out.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
pub(super) struct RetrainBody {
    /// Why.
    #[schema(max_length = 500, default = "manual")]
    trigger_reason: Option<String>,
    /// New samples that make it worth while.
    #[schema(default = 10)]
    min_new_samples: Option<u32>,
}

/// What became of the wish.
#[derive(Serialize, ToSchema)]
pub(super) struct RetrainAnswer {
    /// Whether a training was queued.
    success: bool,
    message: String,
    /// `started`, `already_running` or `insufficient_samples`.
    status: &'static str,
    /// The job, to be looked at under `/api/v1/jobs/{id}`.
    job_id: Option<Uuid>,
}

/// Trains a candidate on the stored samples
///
/// A worker trains and judges it by cross-validation; `/training-history` tells the outcome. The live
/// model stays as it is.
#[utoipa::path(
    post,
    path = "/retrain",
    tag = "original",
    request_body = RetrainBody,
    responses((status = 200, body = RetrainAnswer))
)]
pub(super) async fn retrain(
    State(api): State<Arc<Api>>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<RetrainAnswer>, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let wish: RetrainBody = if body.is_empty() {
        RetrainBody::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|error| Problem::bad_request(format!("The body: {error}.")))?
    };
    let reason = wish.trigger_reason.unwrap_or_else(|| DEFAULT_REASON.into());
    if reason.len() > MAX_REASON_LEN || reason.contains('\0') {
        return Err(Problem::bad_request(format!(
            "trigger_reason: write at most {MAX_REASON_LEN} bytes, without a NUL."
        )));
    }
    let request = RetrainRequest {
        trigger_reason: reason,
        min_new_samples: wish.min_new_samples.unwrap_or(DEFAULT_NEW_SAMPLES),
    };
    let new = api.store.samples_since(last_training_us(&api).await?).await?;
    if new < i64::from(request.min_new_samples) {
        return Ok(Json(RetrainAnswer {
            success: false,
            message: format!(
                "{new} samples came since the last training, {} are wanted; send more to /upload.",
                request.min_new_samples
            ),
            status: "insufficient_samples",
            job_id: None,
        }));
    }
    let payload =
        serde_json::to_string(&request).map_err(|error| Problem::bad_request(error.to_string()))?;
    let job = NewJob {
        id: api.chance.id(&api.clock),
        kind: RETRAIN,
        payload,
        unique_key: Some(RETRAIN.into()),
        now_us: api.clock.now_us(),
    };
    Ok(Json(match api.store.enqueue(job).await? {
        Some(job) => {
            api.jobs.notify_one();
            RetrainAnswer {
                success: true,
                message: format!("Training on {new} new samples has been queued."),
                status: "started",
                job_id: Some(job.id),
            }
        }
        None => RetrainAnswer {
            success: false,
            message: "A training is queued or under way; wait for its end.".into(),
            status: "already_running",
            job_id: None,
        },
    }))
}

/// When the newest training that succeeded was asked for; 0 if none was.
async fn last_training_us(api: &Api) -> Result<i64, Problem> {
    let jobs = api.store.jobs(Some(RETRAIN), None, 100).await?;
    let done = jobs.into_iter().find(|job| job.state == "succeeded");
    Ok(done.map_or(0, |job| job.created_us))
}

/// A job.
#[derive(Serialize, ToSchema)]
pub(super) struct JobDocument {
    id: Uuid,
    kind: String,
    /// `queued`, `running`, `succeeded` or `failed`.
    state: String,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    /// Attempts so far.
    attempts: i64,
    /// What is done at the moment.
    progress: Option<String>,
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    error: Option<String>,
}

impl From<JobRow> for JobDocument {
    fn from(row: JobRow) -> Self {
        Self {
            id: row.id,
            kind: row.kind,
            state: row.state,
            created_at: rfc3339(row.created_us),
            started_at: row.started_us.map(rfc3339),
            finished_at: row.finished_us.map(rfc3339),
            attempts: row.attempts,
            progress: row.progress,
            result: row.result.and_then(|result| serde_json::from_str(&result).ok()),
            error: row.error,
        }
    }
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct JobQuery {
    /// Only this kind, as in `retrain`.
    kind: Option<String>,
    /// Most items of a page, 1 to 500.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 50)]
    limit: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// Jobs, newest first
#[utoipa::path(
    get,
    path = "/api/v1/jobs",
    tag = "models",
    params(JobQuery),
    responses((status = 200, body = Page<JobDocument>))
)]
pub(super) async fn jobs(
    State(api): State<Arc<Api>>,
    query: Result<Query<JobQuery>, QueryRejection>,
) -> Result<Json<Page<JobDocument>>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let kind = super::events::plain("kind", query.kind)?;
    let limit = limit(query.limit.as_deref())?;
    let after = query.cursor.as_deref().map(cursor).transpose()?;
    let rows = api.store.jobs(kind.as_deref(), after, i64::from(limit) + 1).await?;
    Ok(Json(Page::of(rows, limit, JobRow::cursor)))
}

/// One job
#[utoipa::path(
    get,
    path = "/api/v1/jobs/{id}",
    tag = "models",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = JobDocument), (status = 404, description = "No such job"))
)]
pub(super) async fn job(
    State(api): State<Arc<Api>>,
    Path(text): Path<String>,
) -> Result<Json<JobDocument>, Problem> {
    let row = api.store.job(id("id", &text)?).await?;
    let row = row.ok_or_else(|| Problem::not_found(format!("There is no job {text}.")))?;
    Ok(Json(row.into()))
}
