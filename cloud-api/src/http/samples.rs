//! Sounds to learn from: `/upload` and `/api/v1/samples`.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::multipart::MultipartRejection;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Multipart, Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio_util::io::ReaderStream;
use tracing::error;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::accounts::{log, note_play};
use super::events::{Page, cursor, id, limit};
use super::{Api, Problem, form};
use crate::access::Caller;
use crate::clock::rfc3339;
use crate::samples::{NewSample, SampleError, checked_name};
use crate::store::{ClassCount, SampleRow, hex};

/// A sample was kept.
#[derive(Serialize, ToSchema)]
pub(super) struct Uploaded {
    success: bool,
    message: String,
    sample_id: Uuid,
    class_name: String,
    filename: String,
    sha256: String,
    duration_s: f64,
    /// The same content was here before; it now has this class.
    duplicate: bool,
    timestamp: String,
}

/// The form.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the form to the API's readers")]
pub(super) struct UploadForm {
    /// A sound: WAV, FLAC, OGG Vorbis, MP3, or AAC as M4A.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// What is heard in it.
    class_name: String,
    /// The recording it is a slice of: slices of one are never on both sides of a split.
    group: Option<String>,
    /// Where it comes from; `upload` if nothing is said.
    source: Option<String>,
    /// Terms of use; `own recording` if nothing is said.
    licence: Option<String>,
}

/// Keeps a sound to learn from
///
/// The file is decoded to its end first. The same content is one sample, which takes the class that it
/// was sent with last.
#[utoipa::path(
    post,
    path = "/upload",
    operation_id = "upload_sample",
    tag = "original",
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, body = Uploaded),
        (status = 409, description = "The same sound is a sample of another site"),
        (status = 413, description = "Too many bytes or too many seconds"),
        (status = 415, description = "No sound, or a format that is not taken"),
        (status = 422, description = "Damaged or cut off, or no class_name"),
    )
)]
pub(super) async fn upload(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Json<Uploaded>, Problem> {
    let mut form = form::read(&api, form).await?;
    let class = form.texts.remove("class_name").filter(|name| !name.trim().is_empty());
    let class = class.ok_or_else(|| {
        Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "class_name: say what is heard in the file, as in curl -F class_name=gun_shot.",
        )
    })?;
    let group = form.texts.remove("group").filter(|group| !group.trim().is_empty());
    own_or_new(&api, &caller, &form.file).await?;
    let new = NewSample {
        source: form.texts.remove("source").filter(|source| !source.trim().is_empty()),
        licence: form.texts.remove("licence").filter(|licence| !licence.trim().is_empty()),
        verifier: Some(caller.actor()),
        ..NewSample::sent(form.file, form.file_name, class, group)
    };
    let (sample, is_new) = api.samples.keep(new).await?;
    drop(form.held);
    log(&api, caller.actor(), "sample.upload", &sample.id.to_string(), sample.class.clone())
        .await?;
    let serving = api.inference.serving();
    let known = serving.is_ok_and(|model| model.bundle().classes.contains(&sample.class));
    let mut message = if is_new {
        format!("Kept as {}.", sample.class)
    } else {
        format!("The same sound was here; it is now {}.", sample.class)
    };
    if !known {
        message.push_str(" The model has no such class: it learns the sound as background.");
    }
    Ok(Json(Uploaded {
        success: true,
        message,
        sample_id: sample.id,
        class_name: sample.class,
        filename: sample.file_name,
        sha256: sample.sha256,
        duration_s: sample.duration_ms as f64 / 1_000.0,
        duplicate: !is_new,
        timestamp: rfc3339(sample.labelled_us),
    }))
}

/// The same content is one sample, which takes the class that it is sent with: whoever may not see it
/// may not change it so.
async fn own_or_new(api: &Api, caller: &Caller, file: &[u8]) -> Result<(), Problem> {
    if caller.sites().is_none() {
        return Ok(());
    }
    let there = api.store.sample_of_content(&hex(&Sha256::digest(file))).await?;
    if there.is_none_or(|sample| is_seen(caller, &sample)) {
        return Ok(());
    }
    Err(Problem::new(
        StatusCode::CONFLICT,
        "The same sound is here already, and is not of your sites: its class is not yours to set.",
    ))
}

impl From<SampleError> for Problem {
    fn from(error: SampleError) -> Self {
        let detail = error.to_string();
        match error {
            SampleError::Name(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
            SampleError::Audio(error) => Self::of_audio(&error),
            SampleError::Disk(error) => Self::of_disk(&error, "sample"),
            SampleError::Store(error) => error.into(),
        }
    }
}

/// A sample.
#[derive(Serialize, ToSchema)]
pub(super) struct SampleDocument {
    id: Uuid,
    class: String,
    group: String,
    /// `event`, `missed`, `upload`, or where it says it comes from.
    source: String,
    licence: String,
    /// Who said what is heard in it.
    verifier: Option<String>,
    site_id: Option<String>,
    device_id: Option<Uuid>,
    event_id: Option<Uuid>,
    file_name: String,
    sha256: String,
    bytes: i64,
    duration_s: f64,
    rate_hz: i64,
    channels: i64,
    created_at: String,
    labelled_at: String,
    /// Where its file is.
    url: String,
}

impl From<SampleRow> for SampleDocument {
    fn from(row: SampleRow) -> Self {
        Self {
            id: row.id,
            class: row.class,
            group: row.group_key,
            source: row.source,
            licence: row.licence,
            verifier: row.verifier,
            site_id: row.site_id,
            device_id: row.device_id,
            event_id: row.event_id,
            file_name: row.file_name,
            sha256: row.sha256,
            bytes: row.bytes,
            duration_s: row.duration_ms as f64 / 1_000.0,
            rate_hz: row.rate_hz,
            channels: row.channels,
            created_at: rfc3339(row.created_us),
            labelled_at: rfc3339(row.labelled_us),
            url: format!("/api/v1/samples/{}/data", row.id),
        }
    }
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct SampleQuery {
    /// Only this class.
    class: Option<String>,
    /// Most items of a page, 1 to 500.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 50)]
    limit: Option<String>,
    /// The `next` of the page before.
    cursor: Option<String>,
}

/// Samples, newest first
///
/// An account for some sites sees what their stations recorded; what somebody uploaded is of no site.
#[utoipa::path(
    get,
    path = "/api/v1/samples",
    tag = "samples",
    params(SampleQuery),
    responses((status = 200, body = Page<SampleDocument>))
)]
pub(super) async fn samples(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<SampleQuery>, QueryRejection>,
) -> Result<Json<Page<SampleDocument>>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let class = query.class.as_deref().map(|class| checked_name("class", class)).transpose()?;
    let limit = limit(query.limit.as_deref())?;
    let after = query.cursor.as_deref().map(cursor).transpose()?;
    let (sites, most) = (caller.sites(), i64::from(limit) + 1);
    let rows = api.store.samples_seen(sites, class.as_deref(), after, most).await?;
    Ok(Json(Page::of(rows, limit, SampleRow::cursor)))
}

/// How many samples there are of a class.
#[derive(Serialize, ToSchema)]
pub(super) struct ClassTotal {
    class: String,
    samples: i64,
    /// Recordings that they are slices of.
    groups: i64,
}

/// All classes.
#[derive(Serialize, ToSchema)]
pub(super) struct ClassTotals {
    items: Vec<ClassTotal>,
}

/// How many samples there are of each class
#[utoipa::path(
    get,
    path = "/api/v1/labels",
    tag = "samples",
    responses((status = 200, body = ClassTotals))
)]
pub(super) async fn labels(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<ClassTotals>, Problem> {
    let total = |ClassCount { class, samples, groups }| ClassTotal { class, samples, groups };
    let counts = api.store.sample_counts(caller.sites()).await?;
    let items = counts.into_iter().map(total).collect();
    Ok(Json(ClassTotals { items }))
}

/// One sample
#[utoipa::path(
    get,
    path = "/api/v1/samples/{id}",
    tag = "samples",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = SampleDocument), (status = 404, description = "No such sample"))
)]
pub(super) async fn sample(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<SampleDocument>, Problem> {
    Ok(Json(known(&api, &caller, &text).await?.into()))
}

/// What may be changed of a sample.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Relabel {
    /// What is heard in it.
    class: String,
}

/// Gives a sample another class
#[utoipa::path(
    patch,
    path = "/api/v1/samples/{id}",
    operation_id = "relabel_sample",
    tag = "samples",
    params(("id" = Uuid, Path)),
    request_body = Relabel,
    responses((status = 200, body = SampleDocument), (status = 404, description = "No such sample"))
)]
pub(super) async fn relabel(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    body: Result<Json<Relabel>, JsonRejection>,
) -> Result<Json<SampleDocument>, Problem> {
    let Json(Relabel { class }) = body.map_err(|error| Problem::of_json(&error))?;
    let class = checked_name("class", &class)?;
    let (id, now_us) = (known(&api, &caller, &text).await?.id, api.clock.now_us());
    // First: what cannot be logged is not done.
    log(&api, caller.actor(), "sample.relabel", &text, class.clone()).await?;
    let row = api.store.relabel_sample(id, class, caller.actor(), now_us).await?;
    Ok(Json(row.ok_or_else(|| missing(&text))?.into()))
}

/// Forgets a sample and its file
#[utoipa::path(
    delete,
    path = "/api/v1/samples/{id}",
    operation_id = "forget_sample",
    tag = "samples",
    params(("id" = Uuid, Path)),
    responses((status = 204), (status = 404, description = "No such sample"))
)]
pub(super) async fn forget(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<StatusCode, Problem> {
    let sample = known(&api, &caller, &text).await?;
    log(&api, caller.actor(), "sample.forget", &text, sample.class).await?;
    if api.samples.forget(sample.id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(missing(&text))
    }
}

/// A sample's file, as it was sent
#[utoipa::path(
    get,
    path = "/api/v1/samples/{id}/data",
    operation_id = "sample_data",
    tag = "samples",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, content_type = "application/octet-stream"),
        (status = 404, description = "No such sample"),
    )
)]
pub(super) async fn data(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    let sample = known(&api, &caller, &text).await?;
    note_play(&api, &caller, "sample.play", sample.id).await?;
    let file = tokio::fs::File::open(api.samples.path(&sample)).await.map_err(|error| {
        error!(sample = %sample.id, %error, "a sample's file cannot be read");
        Problem::of_disk(&error, "sample")
    })?;
    let headers = [
        // Its sender chose the bytes: nothing guesses what they are.
        (CONTENT_TYPE, "application/octet-stream".to_owned()),
        (CONTENT_LENGTH, sample.bytes.to_string()),
        (CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", sample.sha256)),
        (CACHE_CONTROL, "private, max-age=31536000, immutable".to_owned()),
    ];
    Ok((headers, Body::from_stream(ReaderStream::new(file))).into_response())
}

/// A sample that the caller may see.
async fn known(api: &Api, caller: &Caller, text: &str) -> Result<SampleRow, Problem> {
    let row = api.store.sample(id("id", text)?).await?;
    row.filter(|row| is_seen(caller, row)).ok_or_else(|| missing(text))
}

/// Whether a sample is the caller's to see: what no station recorded belongs to all sites together.
fn is_seen(caller: &Caller, sample: &SampleRow) -> bool {
    match &sample.site_id {
        Some(site) => caller.sees(site),
        None => caller.sites().is_none(),
    }
}

fn missing(text: &str) -> Problem {
    Problem::not_found(format!("There is no sample {text}."))
}
