//! Signed releases of models.

use std::io;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::io::ReaderStream;
use tracing::error;
use utoipa::ToSchema;
use uuid::Uuid;

use super::accounts::log;
use super::events::{Page, PageQuery, cursor, id, limit};
use super::range::{Ranged, ranged};
use super::{Api, Problem};
use crate::access::Caller;
use crate::clock::rfc3339;
use crate::releases::ReleaseError;
use crate::store::{ReleaseFileRow, ReleaseRow};

/// A signed release.
#[derive(Serialize, ToSchema)]
pub(super) struct ReleaseDocument {
    id: Uuid,
    name: String,
    version: String,
    /// Rises with every release; stations never go back.
    counter: i64,
    /// SHA-256 of the signed manifest: which release a station speaks of.
    manifest_sha256: String,
    /// Tag of the bundle, as events have it.
    model_tag: String,
    minimum_agent: String,
    /// From then on no station installs it.
    expires_at: String,
    /// The stations that it is for; empty for any.
    devices: Vec<Uuid>,
    /// The site that it is for; `null` for any.
    site: Option<String>,
    /// The one release that it leads back from.
    replaces: Option<ReplacedDocument>,
    bytes: i64,
    created_at: String,
    created_by: String,
}

/// A release that another leads back from.
#[derive(Serialize, ToSchema)]
struct ReplacedDocument {
    name: String,
    version: String,
    counter: i64,
}

/// A signed release with its files.
#[derive(Serialize, ToSchema)]
pub(super) struct ReleaseDetail {
    #[serde(flatten)]
    release: ReleaseDocument,
    files: Vec<ReleaseFileDocument>,
}

/// A file of a release.
#[derive(Serialize, ToSchema)]
struct ReleaseFileDocument {
    path: String,
    bytes: i64,
    sha256: String,
}

impl From<ReleaseRow> for ReleaseDocument {
    fn from(row: ReleaseRow) -> Self {
        let devices = row.device_ids();
        let replaces = row.replaces_name.map(|name| ReplacedDocument {
            name,
            version: row.replaces_version.unwrap_or_default(),
            counter: row.replaces_counter.unwrap_or_default(),
        });
        Self {
            id: row.id,
            name: row.name,
            version: row.version,
            counter: row.counter,
            manifest_sha256: row.manifest_sha256,
            model_tag: row.model_tag,
            minimum_agent: row.minimum_agent,
            expires_at: rfc3339(row.expires_us),
            devices,
            site: row.site_id,
            replaces,
            bytes: row.bytes,
            created_at: rfc3339(row.created_us),
            created_by: row.created_by,
        }
    }
}

impl From<ReleaseFileRow> for ReleaseFileDocument {
    fn from(ReleaseFileRow { path, bytes, sha256 }: ReleaseFileRow) -> Self {
        Self { path, bytes, sha256 }
    }
}

impl From<ReleaseError> for Problem {
    fn from(error: ReleaseError) -> Self {
        let status = match error {
            ReleaseError::Store(error) => return error.into(),
            ReleaseError::Disk(error) => return Self::of_disk(&error, "release"),
            ReleaseError::Refused(_)
            | ReleaseError::Differs { .. }
            | ReleaseError::Trailing
            | ReleaseError::TooWordy(_) => StatusCode::UNPROCESSABLE_ENTITY,
            ReleaseError::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
            ReleaseError::NoTrustedKey | ReleaseError::Behind { .. } => StatusCode::CONFLICT,
            ReleaseError::BrokenOff(_) => StatusCode::BAD_REQUEST,
        };
        Self::new(status, format!("{error}."))
    }
}

/// Takes a release, one file as `ecosight-models release sign` makes it
///
/// Its signature must be of a key in `releases.trusted_keys`. The same release again is no fault.
#[utoipa::path(
    post,
    path = "/api/v1/releases",
    operation_id = "take_release",
    tag = "releases",
    request_body(content = String, content_type = "application/octet-stream"),
    responses(
        (status = 201, body = ReleaseDocument),
        (status = 200, body = ReleaseDocument, description = "It was here before"),
        (status = 409, description = "Its counter is not above those that are here, or the server trusts no key"),
        (status = 413, description = "Longer than any release"),
        (status = 422, description = "The signature or a file is not as it should be"),
    )
)]
pub(super) async fn take(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response, Problem> {
    let by = caller.actor();
    let bytes = request.into_body().into_data_stream();
    let (row, is_new) = match api.releases.take(bytes, &by).await {
        Ok(taken) => taken,
        Err(error) => {
            if let ReleaseError::Refused(refusal) = &error {
                // Somebody who may upload sent what no trusted key signed.
                log(&api, by, "release.refuse", "", refusal.to_string()).await?;
            }
            return Err(error.into());
        }
    };
    if is_new {
        let detail = format!("{}, counter {}", row.title(), row.counter);
        log(&api, by, "release.take", &row.id.to_string(), detail).await?;
    }
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(ReleaseDocument::from(row))).into_response())
}

/// Releases that are here, newest first
#[utoipa::path(
    get,
    path = "/api/v1/releases",
    operation_id = "releases",
    tag = "releases",
    params(PageQuery),
    responses((status = 200, body = Page<ReleaseDocument>))
)]
pub(super) async fn releases(
    State(api): State<Arc<Api>>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Page<ReleaseDocument>>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let most = limit(query.limit.as_deref())?;
    let after = query.cursor.as_deref().map(cursor).transpose()?;
    let rows = api.store.releases(after, i64::from(most) + 1).await?;
    Ok(Json(Page::of(rows, most, ReleaseRow::cursor)))
}

/// A release with its files
#[utoipa::path(
    get,
    path = "/api/v1/releases/{id}",
    operation_id = "release",
    tag = "releases",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = ReleaseDetail), (status = 404, description = "No such release"))
)]
pub(super) async fn release(
    State(api): State<Arc<Api>>,
    Path(text): Path<String>,
) -> Result<Json<ReleaseDetail>, Problem> {
    let row = known(&api, &text).await?;
    let files = api.store.release_files(row.id).await?;
    let files = files.into_iter().map(Into::into).collect();
    Ok(Json(ReleaseDetail { release: row.into(), files }))
}

pub(super) async fn known(api: &Api, text: &str) -> Result<ReleaseRow, Problem> {
    let row = api.store.release(id("id", text)?).await?;
    row.ok_or_else(|| Problem::not_found(format!("There is no release {text}.")))
}

/// A file of a release, or a range of it
#[utoipa::path(
    get,
    path = "/api/v1/releases/{id}/files/{sha256}",
    operation_id = "release_file",
    tag = "releases",
    params(
        ("id" = Uuid, Path),
        ("sha256" = String, Path, description = "As the signed manifest has it"),
        ("Range" = Option<String>, Header, description = "bytes=FIRST-LAST"),
    ),
    responses(
        (status = 200, content_type = "application/octet-stream"),
        (status = 206, content_type = "application/octet-stream"),
        (status = 304, description = "The file that If-None-Match names"),
        (status = 404, description = "No such file, or not for this station"),
        (status = 416, description = "Outside the file"),
    )
)]
pub(super) async fn file(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path((text, sha256)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let missing = || Problem::not_found(format!("There is no file {sha256} in release {text}."));
    let row = known(&api, &text).await?;
    if matches!(&caller, Caller::Station { device, site } if !row.is_for(*device, site)) {
        return Err(missing());
    }
    let files = api.store.release_files(row.id).await?;
    let file = files.into_iter().find(|file| file.sha256 == sha256).ok_or_else(missing)?;
    let total = u64::try_from(file.bytes).unwrap_or(0);
    let head = match ranged(&headers, total, &file.sha256, "file")? {
        Ranged::Unchanged => return Ok(StatusCode::NOT_MODIFIED.into_response()),
        Ranged::Part(head) => head,
    };
    let opened = async {
        let mut opened = tokio::fs::File::open(api.releases.path(&file.sha256)).await?;
        opened.seek(io::SeekFrom::Start(head.first)).await?;
        Ok::<_, io::Error>(opened.take(head.len))
    };
    let opened = opened.await.map_err(|error| {
        error!(release = %row.id, file = file.path, %error, "a file of a release cannot be read");
        Problem::of_disk(&error, "release")
    })?;
    let body = Body::from_stream(ReaderStream::new(opened));
    Ok(head.answer("application/octet-stream", body))
}
