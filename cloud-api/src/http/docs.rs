//! The API's own description: `/openapi.json`, and a page to read and try it.

use std::sync::LazyLock;
use std::time::Duration;

use axum::Json;
use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY};
use axum::response::{Html, IntoResponse, Response};
use utoipa::openapi::response::{Response as Described, ResponseBuilder};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::{
    ContentBuilder, Info, License, OpenApi, OpenApiBuilder, Ref, RefOr, tag::TagBuilder,
};
use utoipa::{PartialSchema, ToSchema};

use super::Problem;
use super::problem::ProblemDocument;

/// Swagger UI (Apache-2.0) as its makers build it, compressed; see `cloud-api/docs-page/README.md`.
const SCRIPT: &[u8] = include_bytes!("../../docs-page/swagger-ui-bundle.js.gz");
const STYLE: &[u8] = include_bytes!("../../docs-page/swagger-ui.css.gz");
const START: &str = include_str!("../../docs-page/start.js");
const PAGE: &str = include_str!("../../docs-page/index.html");

static DOCUMENT: LazyLock<OpenApi> = LazyLock::new(|| super::routes(Duration::from_secs(60)).1);

/// What `/openapi.json` says, as a file.
///
/// # Errors
/// None that can be reached: the description is plain data.
pub fn openapi_json() -> Result<String, serde_json::Error> {
    DOCUMENT.to_pretty_json().map(|json| json + "\n")
}

/// Head and tags.
pub(super) fn outline() -> OpenApi {
    let tag =
        |name: &str, about: &str| TagBuilder::new().name(name).description(Some(about)).build();
    let mut info = Info::new("EcoSight cloud", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "Gathers what stations hear, warns rangers, answers what is in a sound file. Errors are \
         `application/problem+json` (RFC 9457). Times are RFC 3339 in UTC."
            .into(),
    );
    info.license = Some(License::new("Apache-2.0"));
    OpenApiBuilder::new()
        .info(info)
        .tags(Some([
            tag("original", "The interface of the first EcoSight, unchanged"),
            tag("events", "What stations heard"),
            tag("devices", "Stations"),
            tag("clips", "Recordings of events"),
            tag("samples", "Sounds to learn from"),
            tag("learning", "What people say of events, and what is learned from it"),
            tag("models", "Models and their training"),
            tag("releases", "Signed releases of models, and how they come to stations"),
            tag("accounts", "People and programs, and what they did"),
            tag("operation", "How the server is"),
        ]))
        .build()
}

/// Says of every operation how it fails.
pub(super) fn complete(openapi: &mut OpenApi) {
    let components = openapi.components.get_or_insert_with(Default::default);
    let cookie = ApiKey::Cookie(ApiKeyValue::new("__Host-ecosight"));
    for (name, scheme) in [
        ("key", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer))),
        ("session", SecurityScheme::ApiKey(cookie)),
        ("station", SecurityScheme::Http(Http::new(HttpAuthScheme::Basic))),
    ] {
        components.add_security_scheme(name, scheme);
    }
    openapi.security = Some(
        ["key", "session", "station"]
            .map(|name| SecurityRequirement::new(name, Vec::<String>::new()))
            .to_vec(),
    );
    components.schemas.insert(ProblemDocument::name().into(), ProblemDocument::schema());
    let failure: Described = ResponseBuilder::new()
        .description("Why not")
        .content(
            "application/problem+json",
            ContentBuilder::new()
                .schema(Some(RefOr::Ref(Ref::from_schema_name(ProblemDocument::name()))))
                .build(),
        )
        .build();
    for item in openapi.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
            &mut item.head,
            &mut item.patch,
        ];
        for operation in operations.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            for (status, response) in responses.iter_mut() {
                if let RefOr::T(response) = response
                    && status.starts_with(['4', '5'])
                    && response.content.is_empty()
                {
                    response.content = failure.content.clone();
                }
            }
            responses.entry("default".into()).or_insert_with(|| failure.clone().into());
        }
    }
}

/// This description
#[utoipa::path(
    get,
    path = "/openapi.json",
    operation_id = "openapi",
    tag = "operation",
    responses((status = 200, description = "OpenAPI 3.1", body = Object))
)]
pub(super) async fn document() -> Json<&'static OpenApi> {
    Json(&*DOCUMENT)
}

/// A page to read this description and to try it
#[utoipa::path(
    get,
    path = "/docs",
    operation_id = "docs",
    tag = "operation",
    responses((status = 200, content_type = "text/html", body = String))
)]
pub(super) async fn reader() -> Html<&'static str> {
    Html(PAGE)
}

/// A part of that page
#[utoipa::path(
    get,
    path = "/docs/{file}",
    operation_id = "docs_file",
    tag = "operation",
    params(("file" = String, Path)),
    responses((status = 200, content_type = "text/javascript", body = String), (status = 404))
)]
pub(super) async fn asset(Path(file): Path<String>) -> Result<Response, Problem> {
    // Every browser unpacks gzip; no other client has a use for these.
    let packed = |kind: &'static str, bytes: &'static [u8]| {
        let headers = [
            (CONTENT_TYPE, kind),
            (CONTENT_ENCODING, "gzip"),
            (CACHE_CONTROL, "public, max-age=86400"),
            (VARY, "accept-encoding"),
        ];
        (headers, bytes).into_response()
    };
    match file.as_str() {
        "swagger-ui-bundle.js" => Ok(packed("text/javascript; charset=utf-8", SCRIPT)),
        "swagger-ui.css" => Ok(packed("text/css; charset=utf-8", STYLE)),
        "start.js" => {
            Ok(([(CONTENT_TYPE, "text/javascript; charset=utf-8")], START).into_response())
        }
        _ => Err(Problem::not_found(format!("There is nothing at /docs/{file}."))),
    }
}
