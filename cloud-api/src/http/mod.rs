//! Path: store, live, inference → **http** → page, programs, stations
//!
//! The API. Its shapes are documented where they are made; errors are [`problem`] documents.

mod clips;
mod edge;
mod events;
mod listener;
mod live;
mod page;
mod predict;
mod problem;
mod system;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::{get, post};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};
use tower_http::cors::CorsLayer;

use crate::clips::Clips;
use crate::clock::Clock;
use crate::config::HttpConfig;
use crate::inference::{Inference, MAX_FILE_BYTES};
use crate::link::Link;
use crate::live::Live;
use crate::store::Store;

pub use listener::{ListenError, bind, serve};
pub(crate) use problem::Problem;

/// JSON that a client sends.
const MAX_JSON_BYTES: usize = 64 * 1024;
/// A multipart form around a file.
const MAX_FORM_BYTES: usize = MAX_FILE_BYTES + 64 * 1024;

/// What the handlers work with.
#[derive(Clone)]
pub struct Api {
    /// Records.
    pub store: Store,
    /// Recordings.
    pub clips: Clips,
    /// What happens now.
    pub live: Live,
    /// The model.
    pub inference: Inference,
    /// The connection with the broker.
    pub link: Link,
    /// `embedded` or `external`.
    pub broker: &'static str,
    /// The time.
    pub clock: Clock,
    /// When the server started, µs.
    pub started_us: i64,
    /// Time between signs of life on a live stream.
    pub heartbeat: Duration,
    /// Ends the streams.
    pub stop: CancellationToken,
}

/// The API as a service.
pub fn router(api: Api, config: &HttpConfig) -> Router {
    let deadline = config.request_timeout;
    let quick = Router::new()
        .route("/", get(page::root))
        .route("/health", get(system::health))
        .route("/predict", post(predict::predict).layer(DefaultBodyLimit::max(MAX_FORM_BYTES)))
        .route("/api/v1/alerts", get(events::alerts))
        .route("/api/v1/alerts/{id}", get(events::event))
        .route("/api/v1/detections", get(events::detections))
        .route("/api/v1/detections/{id}", get(events::event))
        .route("/api/v1/devices", get(events::devices))
        .route("/api/v1/devices/{id}", get(events::device))
        .route("/api/v1/clips", post(clips::declare))
        .route("/api/v1/live", get(live::watch))
        .route("/api/v1/system", get(system::system))
        .layer(from_fn_with_state(deadline, edge::deadline));
    // A recording over a thin link may take long; it has a rule of its own.
    let patient = Router::new().route(
        "/api/v1/clips/{id}/data",
        get(clips::download).head(clips::offset).put(clips::upload),
    );
    let compressed = DefaultPredicate::new().and(NotForContentType::const_new("audio/"));
    quick
        .merge(patient)
        .fallback(page::asset)
        .method_not_allowed_fallback(edge::method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(CatchPanicLayer::custom(edge::panicked))
        .layer(CompressionLayer::new().compress_when(compressed))
        .layer(cors(&config.cors_origins))
        .layer(from_fn(edge::drained))
        .layer(from_fn(edge::around))
        .with_state(Arc::new(api))
}

/// No other origin may read the API from a browser, unless the operator names it.
fn cors(origins: &[String]) -> CorsLayer {
    let origins: Vec<HeaderValue> = origins.iter().filter_map(|o| o.parse().ok()).collect();
    if origins.is_empty() {
        return CorsLayer::new();
    }
    CorsLayer::new().allow_origin(origins).allow_methods([Method::GET, Method::HEAD, Method::POST])
}
