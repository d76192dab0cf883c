//! How the server is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, Problem};
use crate::clock::rfc3339;

/// Whether the server can do its work.
#[derive(Serialize, ToSchema)]
pub(super) struct Health {
    /// `healthy` or `unhealthy`.
    status: &'static str,
    timestamp: String,
    model_loaded: bool,
}

/// Healthy only if a model is loaded and the database answers
#[utoipa::path(
    get,
    path = "/health",
    tag = "original",
    responses((status = 200, body = Health), (status = 503, body = Health))
)]
pub(super) async fn health(State(api): State<Arc<Api>>) -> (StatusCode, Json<Health>) {
    let model_loaded = api.inference.serving().is_ok();
    let healthy = model_loaded && api.store.ping().await.is_ok();
    let (code, status) = if healthy {
        (StatusCode::OK, "healthy")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
    };
    let timestamp = rfc3339(api.clock.now_us());
    (code, Json(Health { status, timestamp, model_loaded }))
}

/// How the server is, as the original told it.
#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    /// `running`, or `no model`.
    status: &'static str,
    /// As in `2d 5h 30m 15s`.
    uptime: String,
    /// Files classified, over all restarts.
    total_predictions: i64,
    model_loaded: bool,
    model_name: Option<String>,
    /// RFC 3339.
    training_date: Option<String>,
    /// Share of recordings called right by networks that had not met them.
    test_accuracy: Option<f64>,
    num_classes: usize,
    classes: Vec<String>,
}

/// How the server is
#[utoipa::path(
    get,
    path = "/status",
    tag = "original",
    responses((status = 200, body = Status))
)]
pub(super) async fn status(State(api): State<Arc<Api>>) -> Result<Json<Status>, Problem> {
    let serving = api.inference.serving().ok();
    let bundle = serving.as_ref().map(|model| model.bundle());
    let accuracy = |value: &serde_json::Value| value["judgement"]["accuracy"].as_f64();
    Ok(Json(Status {
        status: if bundle.is_some() { "running" } else { "no model" },
        uptime: spelled(api.uptime_s()),
        total_predictions: api.tally.total().await?,
        model_loaded: bundle.is_some(),
        model_name: bundle.map(|bundle| bundle.name.clone()),
        training_date: bundle.map(|bundle| bundle.manifest.created.clone()),
        test_accuracy: serving.as_ref().and_then(|model| accuracy(model.evaluation()?)),
        num_classes: bundle.map_or(0, |bundle| bundle.classes.len()),
        classes: bundle.map(|bundle| bundle.classes.clone()).unwrap_or_default(),
    }))
}

fn spelled(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3_600);
    format!("{}d {}h {}m {}s", hours / 24, hours % 24, minutes % 60, seconds % 60)
}

/// The process runs
#[utoipa::path(get, path = "/livez", tag = "operation", responses((status = 200, body = String)))]
pub(super) async fn livez() -> &'static str {
    "ok"
}

/// The server can do its work: the database answers, the broker is there, the disk has room, and the
/// server was not told to end
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses((status = 200, body = String), (status = 503, description = "What is missing"))
)]
pub(super) async fn readyz(State(api): State<Arc<Api>>) -> Result<&'static str, Problem> {
    if api.leaving.is_cancelled() {
        return Err(Problem::unavailable("The server ends."));
    }
    if let Some(fault) = api.disk.fault() {
        return Err(Problem::unavailable(fault));
    }
    if let Err(error) = api.store.ping().await {
        return Err(Problem::unavailable(format!("The database does not answer: {error}")));
    }
    if !api.link.is_connected() {
        return Err(Problem::unavailable("There is no connection with the broker."));
    }
    Ok("ok")
}

/// What the server is made of.
#[derive(Serialize, ToSchema)]
pub(super) struct System {
    version: &'static str,
    model: Option<Model>,
    database: &'static str,
    broker: &'static str,
    broker_connected: bool,
    uptime_s: i64,
}

/// The live model.
#[derive(Serialize, ToSchema)]
struct Model {
    name: String,
    version: String,
    tag: String,
    /// The network below the head.
    backbone: &'static str,
    /// `named`, `full` or `compact`.
    choice: &'static str,
    /// Why that one.
    why: String,
}

/// What the server is made of
#[utoipa::path(
    get,
    path = "/api/v1/system",
    tag = "operation",
    responses((status = 200, body = System))
)]
pub(super) async fn system(State(api): State<Arc<Api>>) -> Json<System> {
    let model = api.inference.serving().ok().map(|serving| {
        let (classifier, bundle) = (serving.classifier(), serving.bundle());
        Model {
            name: bundle.name.clone(),
            version: bundle.version.clone(),
            tag: bundle.tag.to_string(),
            backbone: if classifier.backbone_sha256().is_some() { "yamnet" } else { "compact" },
            choice: classifier.choice().name(),
            why: classifier.choice().to_string(),
        }
    });
    Json(System {
        version: env!("CARGO_PKG_VERSION"),
        model,
        database: api.store.kind(),
        broker: api.broker,
        broker_connected: api.link.is_connected(),
        uptime_s: api.uptime_s(),
    })
}

#[cfg(test)]
mod tests {
    use super::spelled;

    #[test]
    fn uptime_is_spelled_as_the_original_did() {
        assert_eq!(spelled(2 * 86_400 + 5 * 3_600 + 30 * 60 + 15), "2d 5h 30m 15s");
        assert_eq!(spelled(0), "0d 0h 0m 0s");
    }
}
