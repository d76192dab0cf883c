//! The page, embedded in the program, and the root of the API.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use rust_embed::{Embed, EmbeddedFile};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Api, Problem};

/// The built page. It may be missing where the program is built without Node.
#[derive(Embed)]
#[folder = "dashboard/dist/"]
#[allow_missing = true]
struct Built;

/// Shown instead of a page that was not built.
const NOTICE: &str = include_str!("notice.html");

/// What is here.
#[derive(Serialize, ToSchema)]
pub(super) struct Root {
    message: &'static str,
    version: &'static str,
    /// `running`, or `no model`.
    status: &'static str,
    endpoints: Vec<String>,
}

/// What is here; the page for browsers
#[utoipa::path(
    get,
    path = "/",
    tag = "original",
    responses((status = 200, content((Root = "application/json"), (String = "text/html"))))
)]
pub(super) async fn root(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let accepts = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
    let mut response = if accepts.contains("text/html") {
        page(&headers)
    } else {
        let status = if api.inference.serving().is_ok() { "running" } else { "no model" };
        let version = env!("CARGO_PKG_VERSION");
        let endpoints = api.endpoints.to_vec();
        Json(Root { message: "EcoSight cloud", version, status, endpoints }).into_response()
    };
    response.headers_mut().append(VARY, HeaderValue::from_static("accept"));
    response
}

fn page(headers: &HeaderMap) -> Response {
    match Built::get("index.html") {
        Some(file) => embedded("index.html", &file, headers),
        None => axum::response::Html(NOTICE).into_response(),
    }
}

/// A file of the page, or nothing.
pub(super) async fn asset(request: Request) -> Result<Response, Problem> {
    let path = request.uri().path().trim_start_matches('/');
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    match Built::get(path).filter(|_| read) {
        Some(file) => Ok(embedded(path, &file, request.headers())),
        None => Err(Problem::not_found(format!("There is nothing at /{path}."))),
    }
}

fn embedded(path: &str, file: &EmbeddedFile, headers: &HeaderMap) -> Response {
    let tag = format!("\"{}\"", crate::store::hex(&file.metadata.sha256_hash()[..16]));
    // Names under assets/ hold a hash of their content, so they never change.
    let cache = if path.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let seen = headers.get(IF_NONE_MATCH).is_some_and(|seen| seen.as_bytes() == tag.as_bytes());
    let mut response = if seen {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let kind = file.metadata.mimetype().to_owned();
        ([(CONTENT_TYPE, kind)], file.data.clone()).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(cache));
    if let Ok(tag) = tag.parse() {
        headers.insert(ETAG, tag);
    }
    response
}
