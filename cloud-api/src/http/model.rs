//! What is known of the model: `/metrics`, `/training-history`, `/api/v1/models`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use tracing::debug;
use utoipa::ToSchema;

use super::{Api, Problem};
use crate::clock::rfc3339;
use crate::metric;
use crate::store::JobRow;
use crate::training::progress::Progress;
use crate::training::{RETRAIN, Report, RetrainRequest};

/// How well the model does, measured where it was made on recordings that it was not trained on.
#[derive(Serialize, ToSchema)]
pub(super) struct Metrics {
    /// One number a class, in the order of `classes`. Where it is undefined, because the class was
    /// never called or never there, it is 0.
    precision: Vec<f64>,
    recall: Vec<f64>,
    f1_score: Vec<f64>,
    /// Rows: what it was; columns: what it was called.
    confusion_matrix: Vec<Vec<u64>>,
    per_class_metrics: BTreeMap<String, ClassMetrics>,
    classes: Vec<String>,
    accuracy: Option<f64>,
    /// How the recordings were split.
    protocol: Option<String>,
    /// False alarms per hour of background at the shipped threshold.
    false_alarms_per_hour: Option<f64>,
    model_name: String,
    model_version: String,
}

/// One class.
#[derive(Clone, Copy, Serialize, ToSchema)]
pub(super) struct ClassMetrics {
    precision: f64,
    recall: f64,
    f1_score: f64,
    /// Recordings of the class.
    support: u64,
}

/// How well the model does
///
/// JSON, or the server's own numbers for Prometheus where `Accept` names `text/plain` or
/// OpenMetrics.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "original",
    responses(
        (status = 200, description = "The model's evaluation, or Prometheus text by Accept",
         content((Metrics = "application/json"), (String = "text/plain"))),
        (status = 404, description = "The model's bundle holds no evaluation"),
    )
)]
pub(super) async fn metrics(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let accepts = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    let mut response = if accepts.contains("text/plain") || accepts.contains("openmetrics") {
        prometheus(State(api)).await
    } else {
        Json(evaluation(&api)?).into_response()
    };
    response.headers_mut().append(VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// The server's own numbers for Prometheus
#[utoipa::path(
    get,
    path = "/metrics/prometheus",
    tag = "operation",
    responses((status = 200, body = String, content_type = "text/plain"))
)]
pub(super) async fn prometheus(State(api): State<Arc<Api>>) -> Response {
    metric::broker(api.link.is_connected());
    match api.store.false_alarms().await {
        Ok(counts) => metric::false_alarms(&counts),
        Err(error) => debug!(%error, "false alarms are counted later"),
    }
    let text = api.metrics.as_ref().map(|handle| handle.render()).unwrap_or_default();
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(CONTENT_TYPE, kind)], text).into_response()
}

/// How well the model does
#[utoipa::path(
    get,
    path = "/api/v1/model/metrics",
    tag = "models",
    responses((status = 200, body = Metrics), (status = 404, description = "No evaluation"))
)]
pub(super) async fn model_metrics(State(api): State<Arc<Api>>) -> Result<Json<Metrics>, Problem> {
    evaluation(&api).map(Json)
}

fn evaluation(api: &Api) -> Result<Metrics, Problem> {
    let serving = api.inference.serving()?;
    let bundle = serving.bundle();
    let none = || Problem::not_found("The model's bundle holds no evaluation that can be read.");
    let evaluation = serving.evaluation().ok_or_else(none)?;
    let judgement = &evaluation["judgement"];
    let lines = judgement["classes"].as_array().ok_or_else(none)?;
    let number = |line: &Value, name: &str| line[name].as_f64().unwrap_or(0.0);
    let classes: Vec<(String, ClassMetrics)> = lines
        .iter()
        .map(|line| {
            let metrics = ClassMetrics {
                precision: number(line, "precision"),
                recall: number(line, "recall"),
                f1_score: number(line, "f1"),
                support: line["clips"].as_u64().unwrap_or(0),
            };
            (line["class"].as_str().unwrap_or("").to_owned(), metrics)
        })
        .collect();
    let column = |of: fn(&ClassMetrics) -> f64| classes.iter().map(|(_, m)| of(m)).collect();
    let shipped = &evaluation["shipped"];
    let hours = judgement["background_hours"].as_f64().filter(|hours| *hours > 0.0);
    let alarms = shipped["false_alarms"].as_f64();
    Ok(Metrics {
        precision: column(|m| m.precision),
        recall: column(|m| m.recall),
        f1_score: column(|m| m.f1_score),
        confusion_matrix: serde_json::from_value(judgement["confusion"].clone())
            .unwrap_or_default(),
        classes: classes.iter().map(|(name, _)| name.clone()).collect(),
        per_class_metrics: classes.into_iter().collect(),
        accuracy: judgement["accuracy"].as_f64(),
        protocol: evaluation["protocol"].as_str().map(str::to_owned),
        false_alarms_per_hour: alarms.zip(hours).map(|(alarms, hours)| alarms / hours),
        model_name: bundle.name.clone(),
        model_version: bundle.version.clone(),
    })
}

/// How the model came about, and what was tried since.
#[derive(Serialize, ToSchema)]
pub(super) struct TrainingHistory {
    /// Whether the model's bundle tells of its epochs.
    has_history: bool,
    training_history: Epochs,
    /// Training jobs, newest first.
    retraining_log: Vec<Retraining>,
}

/// One number an epoch; empty where the bundle does not tell.
#[derive(Default, Serialize, ToSchema)]
pub(super) struct Epochs {
    loss: Vec<f64>,
    val_loss: Vec<f64>,
    accuracy: Vec<f64>,
    val_accuracy: Vec<f64>,
    epochs: usize,
}

/// One training job.
#[derive(Serialize, ToSchema)]
pub(super) struct Retraining {
    job_id: uuid::Uuid,
    timestamp: String,
    trigger_reason: String,
    /// `queued`, `running`, `succeeded` or `failed`.
    status: String,
    finished_at: Option<String>,
    samples: Option<usize>,
    /// By networks that had not met the recording.
    accuracy: Option<f64>,
    /// The candidate.
    candidate_version: Option<String>,
    /// Whether the gate let it take the place of the model that served.
    gate_passed: Option<bool>,
    /// Why, in a sentence.
    gate: Option<String>,
    /// Its number in the registry, where its numbers and flipped samples are.
    version_id: Option<uuid::Uuid>,
    /// What is done at the moment, or why it failed.
    message: Option<String>,
}

const LOG_LEN: i64 = 100;

/// How the model came about, and what was tried since
#[utoipa::path(
    get,
    path = "/training-history",
    tag = "original",
    responses((status = 200, body = TrainingHistory))
)]
pub(super) async fn training_history(
    State(api): State<Arc<Api>>,
) -> Result<Json<TrainingHistory>, Problem> {
    let jobs = api.store.jobs(Some(RETRAIN), None, LOG_LEN).await?;
    let serving = api.inference.serving().ok();
    let epochs = serving.as_ref().and_then(|model| epochs(model.evaluation()?));
    Ok(Json(TrainingHistory {
        has_history: epochs.is_some(),
        training_history: epochs.unwrap_or_default(),
        retraining_log: jobs.into_iter().map(Retraining::from).collect(),
    }))
}

/// The epochs of an evaluation that tells of them.
fn epochs(evaluation: &Value) -> Option<Epochs> {
    let history = evaluation.get("history")?.as_array().filter(|epochs| !epochs.is_empty())?;
    let column = |name: &str| history.iter().filter_map(|epoch| epoch[name].as_f64()).collect();
    Some(Epochs {
        loss: column("loss"),
        val_loss: column("val_loss"),
        accuracy: column("accuracy"),
        val_accuracy: column("val_accuracy"),
        epochs: history.len(),
    })
}

impl From<JobRow> for Retraining {
    fn from(job: JobRow) -> Self {
        let request: Option<RetrainRequest> = serde_json::from_str(&job.payload).ok();
        let report: Option<Report> =
            job.result.as_deref().and_then(|r| serde_json::from_str(r).ok());
        let gate = report.as_ref().and_then(|report| report.gate.as_ref());
        Self {
            job_id: job.id,
            timestamp: rfc3339(job.created_us),
            trigger_reason: request.map(|request| request.trigger_reason).unwrap_or_default(),
            status: job.state,
            finished_at: job.finished_us.map(rfc3339),
            samples: report.as_ref().map(|report| report.samples),
            accuracy: report.as_ref().and_then(|report| report.accuracy),
            gate_passed: gate.map(|gate| gate.passed),
            gate: gate.map(|gate| gate.sentence.clone()),
            version_id: report.as_ref().and_then(|report| report.version_id),
            candidate_version: report.as_ref().map(|report| report.version.clone()),
            message: job.error.or_else(|| Some(Progress::told(job.progress.as_deref()?)?.text())),
        }
    }
}
