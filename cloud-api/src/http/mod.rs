//! Path: store, live, inference → **http** → page, programs, stations
//!
//! The API. Its shapes are documented where they are made, and `/openapi.json` is made from that;
//! errors are [`problem`] documents.

#![allow(unused_qualifications, reason = "utoipa's attributes write every path in full")]

mod accounts;
mod clips;
mod docs;
mod edge;
mod events;
mod export;
mod fleet;
mod form;
mod jobs;
mod listener;
mod live;
mod missed;
mod model;
mod page;
mod pictures;
mod predict;
mod problem;
mod range;
mod releases;
mod rollouts;
mod samples;
mod system;
mod verdicts;
mod versions;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{from_fn, from_fn_with_state};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, NotForContentType, Predicate};
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::access::{Guard, Passwords, guard};
use crate::chance::Chance;
use crate::clips::Clips;
use crate::clock::Clock;
use crate::config::{HttpConfig, LearningConfig};
use crate::disk::Disk;
use crate::inference::{Inference, MAX_FILE_BYTES};
use crate::link::Link;
use crate::live::Live;
use crate::registry::{MAX_PACKED_BYTES, Registry};
use crate::releases::Releases;
use crate::rollout::Rollouts;
use crate::samples::Samples;
use crate::serving::Switch;
use crate::store::Store;
use crate::tally::Tally;

pub use docs::openapi_json;
pub(crate) use jobs::JobDocument;
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
    /// Sounds to learn from.
    pub samples: Samples,
    /// Signed releases of models.
    pub releases: Releases,
    /// How they come to stations.
    pub rollouts: Rollouts,
    /// What happens now.
    pub live: Live,
    /// The model.
    pub inference: Inference,
    /// Its versions.
    pub registry: Registry,
    /// Changes which of them serves.
    pub switch: Switch,
    /// How the server learns.
    pub learning: LearningConfig,
    /// How much was classified.
    pub tally: Tally,
    /// Wakes the worker when a job is queued.
    pub jobs: Arc<Notify>,
    /// The connection with the broker.
    pub link: Link,
    /// `embedded` or `external`.
    pub broker: &'static str,
    /// What a station that enrols is told of the broker.
    pub introduction: Introduction,
    /// The server's own numbers; `None` where they are not measured.
    pub metrics: Option<PrometheusHandle>,
    /// Who may do what.
    pub guard: Guard,
    /// Passwords of people.
    pub passwords: Passwords,
    /// Pictures and exports made at one time.
    pub pictures: Arc<Semaphore>,
    /// The time.
    pub clock: Clock,
    /// Ids and secrets.
    pub chance: Chance,
    /// When the server started, µs.
    pub started_us: i64,
    /// Time between signs of life on a live stream.
    pub heartbeat: Duration,
    /// Room for what comes.
    pub disk: Disk,
    /// The server is about to end.
    pub leaving: CancellationToken,
    /// Ends the streams.
    pub stop: CancellationToken,
    /// Every path that is served; filled in by [`router`].
    pub endpoints: Arc<[String]>,
}

/// How stations reach the broker.
#[derive(Clone, Debug, Default)]
pub struct Introduction {
    /// Its address; `None`: the station's own settings say it.
    pub mqtt_url: Option<String>,
    /// The authority of its certificate, PEM; `None`: the system's.
    pub mqtt_ca: Option<String>,
}

impl Api {
    /// Whole seconds since the start.
    fn uptime_s(&self) -> i64 {
        ((self.clock.now_us() - self.started_us) / 1_000_000).max(0)
    }
}

/// Every route, each with its description.
fn routes(deadline: Duration) -> (Router<Arc<Api>>, OpenApi) {
    let forms = OpenApiRouter::new()
        .routes(routes!(predict::predict))
        .routes(routes!(samples::upload))
        .layer(DefaultBodyLimit::max(MAX_FORM_BYTES));
    let versions = OpenApiRouter::new()
        .routes(routes!(versions::import))
        .layer(DefaultBodyLimit::max(MAX_PACKED_BYTES));
    let quick = OpenApiRouter::with_openapi(docs::outline())
        .routes(routes!(page::root))
        .routes(routes!(system::health))
        .routes(routes!(system::status))
        .routes(routes!(system::livez))
        .routes(routes!(system::readyz))
        .routes(routes!(model::metrics))
        .routes(routes!(model::prometheus))
        .routes(routes!(model::model_metrics))
        .routes(routes!(model::training_history))
        .routes(routes!(jobs::retrain))
        .routes(routes!(jobs::jobs))
        .routes(routes!(jobs::job))
        .routes(routes!(verdicts::give, verdicts::withdraw, verdicts::history))
        .routes(routes!(verdicts::review))
        .routes(routes!(missed::report, missed::reports))
        .routes(routes!(missed::judge))
        .routes(routes!(versions::versions))
        .routes(routes!(versions::compare))
        .routes(routes!(versions::roll_back))
        .routes(routes!(versions::version))
        .routes(routes!(versions::activate))
        .routes(routes!(versions::export))
        .routes(routes!(samples::samples))
        .routes(routes!(samples::sample, samples::relabel, samples::forget))
        .routes(routes!(samples::data))
        .routes(routes!(samples::labels))
        .routes(routes!(events::alerts))
        .routes(routes!(events::alert))
        .routes(routes!(events::acknowledge))
        .routes(routes!(events::detections))
        .routes(routes!(events::detection))
        .routes(routes!(events::devices))
        .routes(routes!(events::device, fleet::retire))
        .routes(routes!(fleet::telemetry))
        .routes(routes!(fleet::desired, fleet::set_desired))
        .routes(routes!(fleet::commands, fleet::command))
        .routes(routes!(fleet::offer))
        .routes(routes!(fleet::enrol))
        .routes(routes!(fleet::sites))
        .routes(routes!(fleet::describe_site))
        .routes(routes!(releases::releases))
        .routes(routes!(releases::release))
        .routes(routes!(rollouts::rollouts, rollouts::plan))
        .routes(routes!(rollouts::rollout))
        .routes(routes!(rollouts::devices))
        .routes(routes!(rollouts::updates))
        .routes(routes!(rollouts::start))
        .routes(routes!(rollouts::pause))
        .routes(routes!(rollouts::resume))
        .routes(routes!(rollouts::halt))
        .routes(routes!(rollouts::roll_back))
        .routes(routes!(accounts::login))
        .routes(routes!(accounts::logout))
        .routes(routes!(accounts::me))
        .routes(routes!(accounts::change_password))
        .routes(routes!(accounts::users, accounts::create_user))
        .routes(routes!(accounts::disable_user))
        .routes(routes!(accounts::keys, accounts::create_key))
        .routes(routes!(accounts::revoke_key))
        .routes(routes!(accounts::audit))
        .routes(routes!(clips::declare))
        .routes(routes!(pictures::peaks))
        .routes(routes!(pictures::spectrogram))
        .routes(routes!(live::watch))
        .routes(routes!(system::system))
        .routes(routes!(docs::document))
        .routes(routes!(docs::reader))
        .routes(routes!(docs::asset))
        .merge(forms)
        .merge(versions)
        .layer(from_fn_with_state(deadline, edge::deadline));
    // A recording or a release over a thin link, or an export, may take long; they have rules of their
    // own.
    let patient = OpenApiRouter::new()
        .routes(routes!(clips::download, clips::offset, clips::upload))
        .routes(routes!(releases::take))
        .routes(routes!(releases::file))
        .routes(routes!(export::export));
    let (router, mut openapi) = quick.merge(patient).split_for_parts();
    docs::complete(&mut openapi);
    (router, openapi)
}

/// The API as a service.
pub fn router(mut api: Api, config: &HttpConfig) -> Router {
    let (router, openapi) = routes(config.request_timeout);
    api.endpoints = openapi.paths.paths.keys().cloned().collect();
    let (guarded, inference) = (api.guard.clone(), api.inference.clone());
    let run: Arc<str> = format!("{:x}", api.started_us / 1_000_000).into();
    let compressed = DefaultPredicate::new()
        .and(NotForContentType::const_new("audio/"))
        .and(NotForContentType::const_new("application/octet-stream"));
    router
        .fallback(page::asset)
        .method_not_allowed_fallback(edge::method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
        .layer(from_fn_with_state(guarded, guard))
        .layer(CatchPanicLayer::custom(edge::panicked))
        .layer(CompressionLayer::new().compress_when(compressed))
        .layer(from_fn_with_state(inference, edge::shed))
        .layer(cors(&config.cors_origins))
        .layer(from_fn(edge::drained))
        .layer(from_fn_with_state(run, edge::around))
        .with_state(Arc::new(api))
}

/// No other origin may read the API from a browser, unless the operator names it, or all with `*`.
fn cors(origins: &[String]) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let allowed = if origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        AllowOrigin::list(origins.iter().filter_map(|o| o.parse::<HeaderValue>().ok()))
    };
    CorsLayer::new()
        .allow_origin(allowed)
        .allow_headers(AllowHeaders::list([header::CONTENT_TYPE, header::AUTHORIZATION]))
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
}
