//! Long work: `/retrain` and `/api/v1/jobs`.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::accounts::log;
use super::events::{Page, cursor, id, limit};
use super::{Api, Problem};
use crate::access::Caller;
use crate::clock::rfc3339;
use crate::store::JobRow;
use crate::training::progress::Progress;
use crate::training::{DEFAULT_SEED, RETRAIN, RetrainRequest, ask_for_training};

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
    /// Decides folds, augmentations and fits: the same samples and seed give the same model.
    #[schema(default = 1)]
    seed: Option<u64>,
}

/// What became of the wish.
#[derive(Serialize, ToSchema)]
pub(super) struct RetrainAnswer {
    /// Whether a training was queued.
    success: bool,
    message: String,
    /// `started`, `already_running` or `insufficient_samples`.
    status: &'static str,
    /// The job, also one that was under way before, to be looked at under `/api/v1/jobs/{id}`.
    job_id: Option<Uuid>,
}

/// Trains a candidate on the stored samples
///
/// A worker trains it, judges it by cross-validation, and compares it with the model that serves on
/// recordings that neither was trained on: it takes that one's place only if it is not worse. One
/// training at a time; `/training-history` tells the outcome.
#[utoipa::path(
    post,
    path = "/retrain",
    tag = "original",
    request_body = RetrainBody,
    responses((status = 200, body = RetrainAnswer))
)]
pub(super) async fn retrain(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
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
        trigger: "manual".into(),
        seed: wish.seed.unwrap_or(DEFAULT_SEED),
    };
    if let Some(job) = api.store.unfinished_job(RETRAIN).await? {
        return Ok(Json(joined(&job)));
    }
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
    let asked = ask_for_training(&api.store, &api.clock, &api.chance, &request).await?;
    log(&api, caller.actor(), "training.ask", "", request.trigger_reason).await?;
    Ok(Json(match asked {
        (true, Some(job)) => {
            api.jobs.notify_one();
            RetrainAnswer {
                success: true,
                message: format!("Training on {new} new samples has been queued."),
                status: "started",
                job_id: Some(job.id),
            }
        }
        (_, Some(job)) => joined(&job),
        (_, None) => {
            return Err(Problem::unavailable("Another training ended just now; try again."));
        }
    }))
}

/// There is one training at a time: who asks for a second is told of the first.
fn joined(job: &JobRow) -> RetrainAnswer {
    RetrainAnswer {
        success: false,
        message: "A training is queued or under way; follow it under job_id.".into(),
        status: "already_running",
        job_id: Some(job.id),
    }
}

/// When the newest training that succeeded was asked for; 0 if none was.
async fn last_training_us(api: &Api) -> Result<i64, Problem> {
    let jobs = api.store.jobs(Some(RETRAIN), None, 100).await?;
    let done = jobs.into_iter().find(|job| job.state == "succeeded");
    Ok(done.map_or(0, |job| job.created_us))
}

/// A job.
#[derive(Serialize, ToSchema)]
pub(crate) struct JobDocument {
    id: Uuid,
    kind: String,
    /// `queued`, `running`, `succeeded` or `failed`.
    state: String,
    created_at: String,
    started_at: Option<String>,
    finished_at: Option<String>,
    /// Attempts so far.
    attempts: i64,
    /// What is done at the moment, for people.
    progress: Option<String>,
    /// The same for programs.
    training: Option<Progress>,
    #[schema(value_type = Option<Object>)]
    result: Option<Value>,
    error: Option<String>,
}

impl From<JobRow> for JobDocument {
    fn from(row: JobRow) -> Self {
        let training = row.progress.as_deref().and_then(Progress::told);
        Self {
            progress: training.as_ref().map(Progress::text),
            training,
            id: row.id,
            kind: row.kind,
            state: row.state,
            created_at: rfc3339(row.created_us),
            started_at: row.started_us.map(rfc3339),
            finished_at: row.finished_us.map(rfc3339),
            attempts: row.attempts,
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
