//! How the server is.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;

use super::Api;
use crate::clock::rfc3339;

#[derive(Serialize)]
pub(super) struct Health {
    status: &'static str,
    timestamp: String,
    model_loaded: bool,
}

/// `GET /health`: healthy only if a model is loaded and the database answers.
pub(super) async fn health(State(api): State<Arc<Api>>) -> (StatusCode, Json<Health>) {
    let model_loaded = api.inference.bundle().is_ok();
    let healthy = model_loaded && api.store.ping().await.is_ok();
    let (code, status) = if healthy {
        (StatusCode::OK, "healthy")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "unhealthy")
    };
    let timestamp = rfc3339(api.clock.now_us());
    (code, Json(Health { status, timestamp, model_loaded }))
}

#[derive(Serialize)]
pub(super) struct System {
    version: &'static str,
    model: Option<Model>,
    database: &'static str,
    broker: &'static str,
    broker_connected: bool,
    uptime_s: i64,
}

#[derive(Serialize)]
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

/// `GET /api/v1/system`
pub(super) async fn system(State(api): State<Arc<Api>>) -> Json<System> {
    let model = api.inference.classifier().ok().map(|classifier| {
        let bundle = classifier.bundle();
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
        uptime_s: (api.clock.now_us() - api.started_us) / 1_000_000,
    })
}
