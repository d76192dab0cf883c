//! Recordings: declared, uploaded in parts, downloaded in ranges.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use ecosight_shared::ClipFormat;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;
use tracing::{debug, error};
use utoipa::ToSchema;
use uuid::Uuid;

use super::accounts::note_play;
use super::events::id;
use super::range::{Ranged, ranged};
use super::{Api, Problem};
use crate::access::Caller;
use crate::clips::{MAX_CLIP_BYTES, Part, Progress};
use crate::live::show_event;
use crate::store::{ClipDeclaration, ClipRow, ClipStatus, Declared};

const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_COMPLETE: HeaderName = HeaderName::from_static("upload-complete");

/// What a station says of a recording before it sends the bytes.
#[derive(Deserialize, ToSchema)]
pub(super) struct Declaration {
    event_id: Uuid,
    device_id: Uuid,
    /// 64 hexadecimal digits.
    sha256: String,
    bytes: u64,
    duration_ms: u32,
    /// `flac` or `wav`.
    format: String,
}

/// How far an upload is.
#[derive(Serialize, ToSchema)]
pub(super) struct Upload {
    id: Uuid,
    offset: u64,
    status: &'static str,
}

/// Declares a recording, whose bytes come by PUT
#[utoipa::path(
    post,
    path = "/api/v1/clips",
    operation_id = "declare_clip",
    tag = "clips",
    request_body = Declaration,
    responses(
        (status = 201, body = Upload),
        (status = 200, body = Upload, description = "It was declared before"),
        (status = 409, description = "The event has another recording"),
    )
)]
pub(super) async fn declare(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let declaration: Declaration = serde_json::from_slice(&body).map_err(|error| {
        Problem::bad_request(format!("The declaration is not as it should be: {error}."))
    })?;
    let declaration = checked(declaration)?;
    if matches!(&caller, Caller::Station { device, .. } if *device != declaration.device) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "device_id: a station declares its own recordings only.",
        ));
    }
    let (status, clip) = match api.store.declare_clip(&declaration).await? {
        Declared::New(clip) => (StatusCode::CREATED, clip),
        Declared::Known(clip) => (StatusCode::OK, clip),
        Declared::Conflict(clip) => {
            return Err(Problem::new(
                StatusCode::CONFLICT,
                format!("Event {} has another recording, with SHA-256 {}.", clip.id, clip.sha256),
            ));
        }
    };
    let progress = api.clips.progress(&clip).await?;
    show_if_stored(&api, &clip, progress).await;
    Ok((status, Json(upload_state(clip.id, progress))).into_response())
}

fn checked(declaration: Declaration) -> Result<ClipDeclaration, Problem> {
    let Declaration { event_id, device_id, sha256, bytes, duration_ms, format } = declaration;
    let bytes = match u32::try_from(bytes) {
        Ok(0) => return Err(Problem::bad_request("bytes: a recording is not empty.")),
        Ok(bytes) if bytes <= MAX_CLIP_BYTES => bytes,
        _ => {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("bytes: a recording has at most {MAX_CLIP_BYTES} bytes."),
            ));
        }
    };
    let sha256 = parse_sha256(&sha256)
        .ok_or_else(|| Problem::bad_request("sha256: expected 64 hexadecimal digits."))?;
    let formats = [ClipFormat::Flac, ClipFormat::Wav];
    let format = formats.into_iter().find(|known| known.extension() == format);
    let format = format.ok_or_else(|| Problem::bad_request("format: expected flac or wav."))?;
    Ok(ClipDeclaration { event: event_id, device: device_id, sha256, bytes, duration_ms, format })
}

fn parse_sha256(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, place) in hash.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(place..place + 2)?, 16).ok()?;
    }
    Some(hash)
}

fn upload_state(id: Uuid, progress: Progress) -> Upload {
    Upload { id, offset: progress.offset, status: progress.status.name() }
}

/// How far an upload is: `Upload-Offset`, `Upload-Complete`
#[utoipa::path(
    head,
    path = "/api/v1/clips/{id}/data",
    operation_id = "clip_offset",
    tag = "clips",
    params(("id" = Uuid, Path)),
    responses((status = 200), (status = 404))
)]
pub(super) async fn offset(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    let clip = known(&api, &caller, &text).await?;
    let progress = api.clips.progress(&clip).await?;
    show_if_stored(&api, &clip, progress).await;
    let complete = if progress.status == ClipStatus::Stored { "?1" } else { "?0" };
    let headers = [
        (UPLOAD_OFFSET, HeaderValue::from(progress.offset)),
        (UPLOAD_COMPLETE, HeaderValue::from_static(complete)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok(headers.into_response())
}

/// Takes a part of a recording, or all of it
#[utoipa::path(
    put,
    path = "/api/v1/clips/{id}/data",
    operation_id = "upload_clip",
    tag = "clips",
    params(
        ("id" = Uuid, Path),
        ("Content-Range" = Option<String>, Header, description = "bytes FIRST-LAST/TOTAL"),
    ),
    request_body(content = String, content_type = "application/octet-stream"),
    responses(
        (status = 200, body = Upload),
        (status = 409, description = "Send from Upload-Offset"),
        (status = 422, description = "Not what was declared; send it again"),
    )
)]
pub(super) async fn upload(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    request: Request,
) -> Result<Json<Upload>, Problem> {
    let clip = known(&api, &caller, &text).await?;
    let part = part(request.headers(), clip.bytes as u64)?;
    let bytes = request.into_body().into_data_stream();
    let progress = api.clips.take(&clip, part, bytes).await?;
    show_if_stored(&api, &clip, progress).await;
    Ok(Json(upload_state(clip.id, progress)))
}

/// The part that `Content-Range: bytes FIRST-LAST/TOTAL` announces; without it, the whole.
fn part(headers: &HeaderMap, total: u64) -> Result<Part, Problem> {
    let Some(range) = headers.get(CONTENT_RANGE) else {
        return Ok(Part { first: 0, len: total });
    };
    let parsed = range.to_str().ok().and_then(parse_content_range);
    let (first, last, announced) = parsed
        .ok_or_else(|| Problem::bad_request("Content-Range: expected bytes FIRST-LAST/TOTAL."))?;
    if announced != total {
        return Err(Problem::bad_request(format!(
            "Content-Range: the recording was declared with {total} bytes, not {announced}."
        )));
    }
    if last < first || last >= total {
        return Err(Problem::bad_request("Content-Range: the part lies outside the recording."));
    }
    Ok(Part { first, len: last - first + 1 })
}

fn parse_content_range(text: &str) -> Option<(u64, u64, u64)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, total.parse().ok()?))
}

/// Tells watchers when a recording has just become whole, and makes it a sample where a verdict waited
/// for it.
async fn show_if_stored(api: &Api, clip: &ClipRow, progress: Progress) {
    let is_new = progress.status == ClipStatus::Stored && clip.status() != ClipStatus::Stored;
    if is_new && let Err(error) = api.samples.follow_verdict(&api.clips, clip.id).await {
        debug!(%error, "a sample follows its verdict later");
    }
    if is_new && let Err(error) = show_event(&api.live, &api.store, "clip", clip.id).await {
        debug!(%error, "a recording was not shown");
    }
}

/// A recording, or a range of it
#[utoipa::path(
    get,
    path = "/api/v1/clips/{id}/data",
    operation_id = "download_clip",
    tag = "clips",
    params(
        ("id" = Uuid, Path),
        ("Range" = Option<String>, Header, description = "bytes=FIRST-LAST"),
    ),
    responses(
        (status = 200, content_type = "audio/flac"),
        (status = 206, content_type = "audio/flac"),
        (status = 304, description = "The recording that If-None-Match names"),
        (status = 404, description = "No such recording, or not here yet"),
        (status = 416, description = "Outside the recording"),
    )
)]
pub(super) async fn download(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let clip = stored(&api, &caller, &text).await?;
    // Also where the caller has it already: it plays it again.
    note_play(&api, &caller, "clip.play", clip.id).await?;
    let head = match ranged(&headers, clip.bytes as u64, &clip.sha256, "recording")? {
        Ranged::Unchanged => return Ok(StatusCode::NOT_MODIFIED.into_response()),
        Ranged::Part(head) => head,
    };
    let file = api.clips.read(&clip, head.first).await.map_err(|error| {
        error!(clip = %clip.id, %error, "a stored recording cannot be read");
        Problem::of_disk(&error, "recording")
    })?;
    let body = Body::from_stream(ReaderStream::new(file.take(head.len)));
    let format = clip.format();
    let mut response = head.answer(format.content_type(), body);
    let name = format!("inline; filename=\"{}.{}\"", clip.id, format.extension());
    if let Ok(name) = HeaderValue::try_from(name) {
        response.headers_mut().insert(CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

/// A recording that the caller may have to do with: a station with its own, an account with those of
/// its sites.
async fn known(api: &Api, caller: &Caller, text: &str) -> Result<ClipRow, Problem> {
    let missing = || Problem::not_found(format!("There is no recording {text}."));
    let clip = api.store.clip(id("id", text)?).await?.ok_or_else(missing)?;
    let own = match caller {
        Caller::Local => true,
        Caller::Anonymous => false,
        Caller::Station { device, .. } => *device == clip.device_id,
        Caller::Account(account) if account.sites.is_none() => true,
        Caller::Account(_) => {
            // It proves an event, or a station was asked for it.
            let site = match api.store.event(clip.id).await? {
                Some(event) => Some(event.site_id),
                None => api.store.pull(clip.id).await?.map(|pull| pull.site_id),
            };
            site.is_some_and(|site| caller.sees(&site))
        }
    };
    own.then_some(clip).ok_or_else(missing)
}

/// A recording that is whole.
pub(super) async fn stored(api: &Api, caller: &Caller, text: &str) -> Result<ClipRow, Problem> {
    let clip = known(api, caller, text).await?;
    if clip.status() == ClipStatus::Stored {
        return Ok(clip);
    }
    Err(Problem::not_found(format!(
        "The recording of event {} is not here yet: {}.",
        clip.id, clip.status
    )))
}

#[cfg(test)]
mod tests {
    use super::parse_sha256;

    #[test]
    fn a_hash_is_64_hexadecimal_digits() {
        assert_eq!(parse_sha256(&"0f".repeat(32)), Some([15; 32]));
        for text in ["", "0f", &"0g".repeat(32), &"é".repeat(32)] {
            assert_eq!(parse_sha256(text), None, "{text}");
        }
    }
}
