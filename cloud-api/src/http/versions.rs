//! Versions of the model: which there are, which serves, and changing that.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use ecosight_models::BundleFiles;
use ecosight_models::bundle::{EVALUATION_FILE, MODEL_CARD_FILE};
use ecosight_shared::json::SignedDocument;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::accounts::{log, unprocessable};
use super::events::{Page, PageQuery, cursor, id, limit};
use super::rollouts::whole_fleet;
use super::{Api, Problem};
use crate::access::Caller;
use crate::clock::rfc3339;
use crate::learn::COMPARED;
use crate::registry::RegistryError;
use crate::serving::SwitchError;
use crate::store::{ActivationRow, SignedBundle, VersionRow};
use crate::training::gate::Decision;

const REASON_MAX_BYTES: usize = 500;
const CHANGES: i64 = 20;

/// A version of the model.
#[derive(Serialize, ToSchema)]
pub(super) struct VersionDocument {
    id: Uuid,
    name: String,
    version: String,
    /// First bytes of its SHA-256, as on the wire.
    tag: String,
    /// Of its manifest, which holds the hashes of all its files.
    sha256: String,
    /// Whether it answers `/predict`.
    serving: bool,
    /// `builtin`, `configured`, `trained` or `imported`.
    origin: String,
    created_at: String,
    created_by: String,
    lineage: LineageDocument,
    /// What the gate measured and decided; `null` where it came by another way.
    gate: Option<Decision>,
    /// Releases in which somebody signed exactly this bundle for stations, the newest first.
    releases: Vec<SignedAs>,
}

/// A release of a version.
#[derive(Serialize, ToSchema)]
struct SignedAs {
    id: Uuid,
    /// As its maker calls it.
    version: String,
    counter: i64,
    /// Ids of the keys that signed it.
    keys: Vec<String>,
}

impl From<SignedBundle> for SignedAs {
    fn from(row: SignedBundle) -> Self {
        let signed: Option<SignedDocument> = serde_json::from_str(&row.signed).ok();
        let signatures = signed.into_iter().flat_map(|signed| signed.signatures);
        let keys = signatures.map(|signature| signature.key).collect();
        Self { id: row.id, version: row.version, counter: row.counter, keys }
    }
}

/// Where a version comes from.
#[derive(Serialize, ToSchema)]
struct LineageDocument {
    /// SHA-256 of the bundle that it was trained to replace.
    parent_sha256: Option<String>,
    /// The job that trained it.
    job_id: Option<Uuid>,
    /// Over path, class and group of every sample that it was trained on.
    data_sha256: Option<String>,
    samples: Option<i64>,
    seed: Option<i64>,
    /// The program that made it.
    code_version: String,
}

impl From<VersionRow> for VersionDocument {
    fn from(row: VersionRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            version: row.version,
            tag: row.tag,
            sha256: row.sha256,
            serving: false,
            origin: row.origin,
            created_at: rfc3339(row.created_us),
            created_by: row.created_by,
            lineage: LineageDocument {
                parent_sha256: row.parent_sha256,
                job_id: row.job_id,
                data_sha256: row.data_sha256,
                samples: row.samples,
                seed: row.seed,
                code_version: row.code_version,
            },
            gate: row.gate.and_then(|gate| serde_json::from_str(&gate).ok()),
            releases: Vec::new(),
        }
    }
}

/// A change of the version that serves.
#[derive(Serialize, ToSchema)]
pub(super) struct ChangeDocument {
    version_id: Uuid,
    /// The version that served before.
    before_id: Option<Uuid>,
    /// `start`, `gate`, `person` or `rollback`.
    cause: String,
    /// A sentence.
    reason: String,
    by: String,
    at: String,
}

impl From<ActivationRow> for ChangeDocument {
    fn from(row: ActivationRow) -> Self {
        Self {
            version_id: row.version_id,
            before_id: row.before_id,
            cause: row.cause,
            reason: row.reason,
            by: row.done_by,
            at: rfc3339(row.done_us),
        }
    }
}

/// A page of versions, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct VersionList {
    items: Vec<VersionDocument>,
    /// Cursor of the next page; `null` if this is the last.
    next: Option<String>,
    /// The last changes of the version that serves, newest first.
    changes: Vec<ChangeDocument>,
}

/// Versions of the model, newest first
#[utoipa::path(
    get,
    path = "/api/v1/models",
    tag = "models",
    params(PageQuery),
    responses((status = 200, body = VersionList))
)]
pub(super) async fn versions(
    State(api): State<Arc<Api>>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<VersionList>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let limit = limit(query.limit.as_deref())?;
    let after = query.cursor.as_deref().map(cursor).transpose()?;
    let rows = api.store.versions(after, i64::from(limit) + 1).await?;
    let serving = serving(&api).await?;
    let page: Page<VersionDocument> = Page::of(rows, limit, VersionRow::cursor);
    let (items, next) = page.into_parts();
    let mut signed = api.store.signed_bundles(None).await?;
    let items =
        items.into_iter().map(|version| version.marked(serving).released(&mut signed)).collect();
    let changes = api.store.activations(CHANGES).await?.into_iter().map(Into::into).collect();
    Ok(Json(VersionList { items, next, changes }))
}

impl VersionDocument {
    fn marked(self, serving: Option<Uuid>) -> Self {
        Self { serving: serving == Some(self.id), ..self }
    }

    /// With those of `signed` that are of this bundle; they are taken out.
    fn released(self, signed: &mut Vec<SignedBundle>) -> Self {
        let own = signed.extract_if(.., |row| row.bundle_sha256 == self.sha256);
        let releases = own.map(Into::into).collect();
        Self { releases, ..self }
    }
}

/// The version that the database says serves.
async fn serving(api: &Api) -> Result<Option<Uuid>, Problem> {
    Ok(api.store.serving().await?.map(|row| row.version_id))
}

/// A version with all that is known of it.
#[derive(Serialize, ToSchema)]
pub(super) struct VersionDetail {
    #[serde(flatten)]
    version: VersionDocument,
    classes: Vec<String>,
    /// Classes that it alerts by.
    alerting: Vec<String>,
    /// `evaluation.json` of its bundle.
    #[schema(value_type = Option<Object>)]
    evaluation: Option<Value>,
    /// What its makers say of it, Markdown.
    card: Option<String>,
}

/// One version, with its evaluation and card
#[utoipa::path(
    get,
    path = "/api/v1/models/{id}",
    tag = "models",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = VersionDetail), (status = 404, description = "No such version"))
)]
pub(super) async fn version(
    State(api): State<Arc<Api>>,
    Path(text): Path<String>,
) -> Result<Json<VersionDetail>, Problem> {
    let row = known(&api, &text).await?;
    Ok(Json(detail(&api, row).await?))
}

async fn detail(api: &Api, row: VersionRow) -> Result<VersionDetail, Problem> {
    let place = api.registry.path(&row);
    let read = tokio::task::spawn_blocking(move || BundleFiles::open(&place)).await;
    let files = read
        .map_err(|error| Problem::internal(&error))?
        .map_err(|error| Problem::from(RegistryError::from(error)))?;
    let bundle = &files.bundle;
    let rules = bundle.detector.rules.iter().filter(|rule| rule.alert);
    let text = |name: &str| files.file(name).map(|b| String::from_utf8_lossy(b).into_owned());
    let evaluation = files.file(EVALUATION_FILE);
    let mut signed = api.store.signed_bundles(Some(&row.sha256)).await?;
    let version = VersionDocument::from(row).marked(serving(api).await?);
    Ok(VersionDetail {
        version: version.released(&mut signed),
        classes: bundle.classes.clone(),
        alerting: rules.map(|rule| bundle.classes[rule.class].clone()).collect(),
        evaluation: evaluation.and_then(|bytes| serde_json::from_slice(bytes).ok()),
        card: text(MODEL_CARD_FILE),
    })
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct CompareQuery {
    /// One version.
    #[param(value_type = Uuid)]
    a: String,
    /// The other.
    #[param(value_type = Uuid)]
    b: String,
}

/// Two versions beside each other.
#[derive(Serialize, ToSchema)]
pub(super) struct Comparison {
    a: VersionDocument,
    b: VersionDocument,
    /// Classes that `b` knows and `a` does not.
    added_classes: Vec<String>,
    /// Classes that `a` knows and `b` does not.
    removed_classes: Vec<String>,
    /// Whether both were trained on the same samples; else their own evaluations are of different
    /// recordings, and only `gate` compares like with like.
    same_data: bool,
    lines: Vec<ComparedLine>,
    /// What the gate measured of both on the same sounds, where one was trained to replace the other.
    gate: Option<Decision>,
}

/// One number of both, each from its own evaluation.
#[derive(Serialize, ToSchema)]
struct ComparedLine {
    what: String,
    a: Option<f64>,
    b: Option<f64>,
}

/// Two versions beside each other
#[utoipa::path(
    get,
    path = "/api/v1/models/compare",
    tag = "models",
    params(CompareQuery),
    responses((status = 200, body = Comparison), (status = 404, description = "No such version"))
)]
pub(super) async fn compare(
    State(api): State<Arc<Api>>,
    query: Result<Query<CompareQuery>, QueryRejection>,
) -> Result<Json<Comparison>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let (a, b) = (known(&api, &query.a).await?, known(&api, &query.b).await?);
    let same_data = a.data_sha256.is_some() && a.data_sha256 == b.data_sha256;
    let trained_for =
        |one: &VersionRow, other: &VersionRow| one.parent_sha256.as_ref() == Some(&other.sha256);
    let gated = if trained_for(&b, &a) {
        Some(&b)
    } else if trained_for(&a, &b) {
        Some(&a)
    } else {
        None
    };
    let gate = gated.and_then(|row| serde_json::from_str(row.gate.as_deref()?).ok());
    let (a, b) = (detail(&api, a).await?, detail(&api, b).await?);
    let without = |these: &[String], those: &[String]| -> Vec<String> {
        these.iter().filter(|class| !those.contains(class)).cloned().collect()
    };
    let number = |of: &VersionDetail, place: &str| of.evaluation.as_ref()?.pointer(place)?.as_f64();
    let lines = COMPARED
        .into_iter()
        .map(|(what, place)| {
            let (a, b) = (number(&a, place), number(&b, place));
            ComparedLine { what: what.into(), a, b }
        })
        .collect();
    Ok(Json(Comparison {
        added_classes: without(&b.classes, &a.classes),
        removed_classes: without(&a.classes, &b.classes),
        same_data,
        lines,
        gate,
        a: a.version,
        b: b.version,
    }))
}

/// Why; may be left out.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct ChangeBody {
    #[schema(max_length = 500)]
    reason: Option<String>,
}

fn reason(body: Result<Bytes, BytesRejection>) -> Result<String, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let body: ChangeBody = match body.is_empty() {
        true => ChangeBody::default(),
        false => serde_json::from_slice(&body)
            .map_err(|error| Problem::bad_request(format!("The body: {error}.")))?,
    };
    let reason = body.reason.unwrap_or_default();
    if reason.len() > REASON_MAX_BYTES || reason.contains('\0') {
        return Err(unprocessable(format!(
            "reason: write at most {REASON_MAX_BYTES} bytes, without a NUL."
        )));
    }
    Ok(reason)
}

/// Makes a version the one that serves
///
/// It is proven in a process of its own first. Requests that are being answered are answered by the
/// model that took them; none is lost.
#[utoipa::path(
    post,
    path = "/api/v1/models/{id}/activate",
    operation_id = "activate_model",
    tag = "models",
    params(("id" = Uuid, Path)),
    request_body = ChangeBody,
    responses(
        (status = 200, body = ChangeDocument),
        (status = 403, description = "Every site is concerned, and the account is for some"),
        (status = 404, description = "No such version"),
        (status = 409, description = "Another came to serve meanwhile"),
        (status = 422, description = "It does not run on this server"),
    )
)]
pub(super) async fn activate(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ChangeDocument>, Problem> {
    whole_fleet(&caller)?;
    let (version, reason) = (id("id", &text)?, reason(body)?);
    log(&api, caller.actor(), "model.activate", &text, reason.clone()).await?;
    let (switch, by) = (api.switch.clone(), caller.actor());
    // A caller who goes away in the middle leaves a whole change.
    let work = tokio::spawn(async move { switch.activate(version, "person", reason, by).await });
    let changed = work.await.map_err(|error| Problem::internal(&error))??;
    api.live.publish("model", &ChangeDocument::from(changed.clone()));
    Ok(Json(changed.into()))
}

/// Goes back to the version that served before this one was chosen
#[utoipa::path(
    post,
    path = "/api/v1/models/rollback",
    operation_id = "roll_back_model",
    tag = "models",
    request_body = ChangeBody,
    responses(
        (status = 200, body = ChangeDocument),
        (status = 403, description = "Every site is concerned, and the account is for some"),
        (status = 404, description = "None served before"),
        (status = 422, description = "It does not run on this server"),
    )
)]
pub(super) async fn roll_back(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ChangeDocument>, Problem> {
    whole_fleet(&caller)?;
    let reason = reason(body)?;
    log(&api, caller.actor(), "model.rollback", "", reason.clone()).await?;
    let (switch, by) = (api.switch.clone(), caller.actor());
    let work = tokio::spawn(async move { switch.roll_back(reason, by).await });
    let changed = work.await.map_err(|error| Problem::internal(&error))??;
    api.live.publish("model", &ChangeDocument::from(changed.clone()));
    Ok(Json(changed.into()))
}

/// A version as one file
#[utoipa::path(
    get,
    path = "/api/v1/models/{id}/export",
    operation_id = "export_model",
    tag = "models",
    params(("id" = Uuid, Path)),
    responses(
        (status = 200, content_type = "application/gzip"),
        (status = 404, description = "No such version"),
    )
)]
pub(super) async fn export(
    State(api): State<Arc<Api>>,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    let row = known(&api, &text).await?;
    let name = format!("attachment; filename=\"{}-{}.ecosight.tar.gz\"", row.name, row.version);
    let packed = api.registry.export(row).await?;
    let headers = [(CONTENT_TYPE, "application/gzip".to_owned()), (CONTENT_DISPOSITION, name)];
    Ok((headers, packed).into_response())
}

/// Takes in a version that was exported
///
/// Every file is checked against the manifest. It serves only when somebody says so.
#[utoipa::path(
    post,
    path = "/api/v1/models/import",
    operation_id = "import_model",
    tag = "models",
    request_body(content = String, content_type = "application/gzip"),
    responses(
        (status = 200, body = VersionDocument),
        (status = 413, description = "Too long"),
        (status = 422, description = "No version, or a damaged one"),
    )
)]
pub(super) async fn import(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<VersionDocument>, Problem> {
    let body = body.map_err(|error| Problem::new(error.status(), error.body_text()))?;
    let row = api.registry.import(body.into(), caller.actor()).await?;
    log(&api, caller.actor(), "model.import", &row.id.to_string(), row.sha256.clone()).await?;
    let serving = serving(&api).await?;
    Ok(Json(VersionDocument::from(row).marked(serving)))
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let detail = error.to_string();
        match error {
            RegistryError::Bundle(_) | RegistryError::Packed(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
            }
            RegistryError::Disk(error) => Self::of_disk(&error, "version"),
            RegistryError::Store(error) => error.into(),
        }
    }
}

impl From<SwitchError> for Problem {
    fn from(error: SwitchError) -> Self {
        let detail = error.to_string();
        match error {
            SwitchError::Missing(_) => Self::not_found(detail),
            SwitchError::Unfit(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail),
            SwitchError::Overtaken => Self::new(StatusCode::CONFLICT, detail),
            SwitchError::Store(error) => error.into(),
        }
    }
}

async fn known(api: &Api, text: &str) -> Result<VersionRow, Problem> {
    let row = api.store.version(id("id", text)?).await?;
    row.ok_or_else(|| Problem::not_found(format!("There is no version {text} of the model.")))
}
