//! Sites, and how stations come, are told things, and go.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::header::{CACHE_CONTROL, ETAG, IF_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use ecosight_shared::{DeviceId, Slug, Topic};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::accounts::{log, unprocessable};
use super::events::{All, id, limit, time};
use super::{Api, Problem};
use crate::access::{
    Address, Attempt, Caller, Permission, Secret, hashed, mosquitto_hash, too_often,
};
use crate::clock::rfc3339;
use crate::documents::{TelemetryDocument, vague_deg};
use crate::samples::checked_name;
use crate::store::{CommandRow, DesiredRow, DeviceRow, Enrolment, SiteRow};

/// RELIABILITY: a code is typed in at the station, some days later perhaps.
const CODE_AGE_US: i64 = 72 * 3_600 * 1_000_000;
/// A command that a station has not had by then is stale.
const COMMAND_AGE_US: i64 = 24 * 3_600 * 1_000_000;
/// How long a request waits for the broker to take a message.
const BROKER_WAIT: Duration = Duration::from_secs(5);
const MAX_DOCUMENT_BYTES: usize = 16 * 1_024;
/// Telemetry is a line a minute: a day of it.
const SERIES_LEN: i64 = 1_440;
const DAY_US: i64 = 24 * 3_600 * 1_000_000;
const COMMANDS_LEN: i64 = 100;

/// A site.
#[derive(Serialize, ToSchema)]
pub(super) struct SiteDocument {
    id: String,
    name: String,
    /// IANA name.
    time_zone: String,
    /// For those who may not know exactly, to a tenth of a degree.
    latitude: Option<f64>,
    longitude: Option<f64>,
    /// Stations that are there.
    devices: i64,
}

impl From<SiteRow> for SiteDocument {
    fn from(row: SiteRow) -> Self {
        let SiteRow { id, name, time_zone, latitude, longitude, devices } = row;
        Self { id, name, time_zone, latitude, longitude, devices }
    }
}

impl SiteDocument {
    /// The site as the caller may see it.
    fn shown_to(mut self, caller: &Caller) -> Self {
        if !caller.sees_positions() {
            self.latitude = self.latitude.map(vague_deg);
            self.longitude = self.longitude.map(vague_deg);
        }
        self
    }
}

/// All sites that the caller may see
#[utoipa::path(
    get,
    path = "/api/v1/sites",
    tag = "devices",
    responses((status = 200, body = All<SiteDocument>))
)]
pub(super) async fn sites(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<All<SiteDocument>>, Problem> {
    let mut rows = api.store.sites().await?;
    rows.retain(|site| caller.sees(&site.id));
    let shown = rows.into_iter().map(|row| SiteDocument::from(row).shown_to(&caller)).collect();
    Ok(Json(All::of::<SiteDocument>(shown)))
}

/// What is to be known of a site.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SiteBody {
    name: String,
    /// IANA name, as in `Africa/Nairobi`.
    time_zone: String,
    #[schema(minimum = -90.0, maximum = 90.0)]
    latitude: Option<f64>,
    #[schema(minimum = -180.0, maximum = 180.0)]
    longitude: Option<f64>,
}

/// Describes a site
#[utoipa::path(
    put,
    path = "/api/v1/sites/{id}",
    tag = "devices",
    params(("id" = String, Path)),
    request_body = SiteBody,
    responses((status = 204), (status = 422, description = "Cannot be used"))
)]
pub(super) async fn describe_site(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(site): Path<String>,
    body: Result<Json<SiteBody>, JsonRejection>,
) -> Result<StatusCode, Problem> {
    let Json(body) = body.map_err(|error| Problem::of_json(&error))?;
    checked_site(&site)?;
    seen(&caller, &site)?;
    let place = body.latitude.zip(body.longitude);
    let on_earth =
        |(lat, lon): (f64, f64)| (-90.0..=90.0).contains(&lat) && (-180.0..=180.0).contains(&lon);
    if body.latitude.is_some() != body.longitude.is_some() || !place.is_none_or(on_earth) {
        return Err(unprocessable("latitude, longitude: give both, in degrees."));
    }
    if jiff::tz::TimeZone::get(&body.time_zone).is_err() {
        return Err(unprocessable("time_zone: no IANA name, as in Africa/Nairobi."));
    }
    let row = SiteRow {
        id: site.clone(),
        name: shown_text("name", &body.name)?,
        time_zone: body.time_zone,
        latitude: body.latitude,
        longitude: body.longitude,
        devices: 0,
    };
    api.store.describe_site(row, api.clock.now_us()).await?;
    log(&api, caller.actor(), "site.describe", &site, String::new()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A station that is to come.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EnrolmentBody {
    /// Where it belongs.
    site: String,
    /// What it is called.
    device_name: String,
}

/// A code for one station.
#[derive(Serialize, ToSchema)]
pub(super) struct EnrolmentOffer {
    /// To be typed in at the station; good once.
    code: String,
    expires_at: String,
}

/// Makes a code by which one station gets its credentials
#[utoipa::path(
    post,
    path = "/api/v1/enrolments",
    tag = "devices",
    request_body = EnrolmentBody,
    responses((status = 201, body = EnrolmentOffer), (status = 422, description = "Cannot be used"))
)]
pub(super) async fn offer(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<EnrolmentBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(EnrolmentBody { site, device_name }) =
        body.map_err(|error| Problem::of_json(&error))?;
    checked_site(&site)?;
    seen(&caller, &site)?;
    let (code, now_us) = (Secret::code(&api.chance), api.clock.now_us());
    let expires_us = now_us + CODE_AGE_US;
    let device_name = checked_name("device_name", &device_name)?;
    let target = format!("{site}/{device_name}");
    let code_sha256 = code.hashed();
    let enrolment = Enrolment { code_sha256, site, device_name, now_us, expires_us };
    api.store.offer_enrolment(enrolment).await?;
    log(&api, caller.actor(), "enrolment.offer", &target, String::new()).await?;
    let offer = EnrolmentOffer { code: code.reveal().to_owned(), expires_at: rfc3339(expires_us) };
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(offer)).into_response())
}

/// A station that comes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EnrolBody {
    code: String,
    /// As the station made it.
    device_id: Uuid,
}

/// What the station works with from then on.
#[derive(Serialize, ToSchema)]
pub(super) struct Enrolled {
    device_id: Uuid,
    site_id: String,
    device_name: String,
    /// For the broker, and with HTTP Basic for this server.
    username: String,
    /// Shown once.
    password: String,
    /// Where the broker is; left out if the server was not told.
    #[serde(skip_serializing_if = "Option::is_none")]
    mqtt_url: Option<String>,
    /// Certificate of the authority that the broker is checked with, PEM; the system's if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    mqtt_ca: Option<String>,
}

/// Uses a code: gives a station its credentials
#[utoipa::path(
    post,
    path = "/api/v1/enrol",
    tag = "devices",
    request_body = EnrolBody,
    responses(
        (status = 201, body = Enrolled),
        (status = 403, description = "No such code, used already, or too old"),
        (status = 429, description = "Too many attempts"),
    )
)]
pub(super) async fn enrol(
    State(api): State<Arc<Api>>,
    Extension(address): Extension<Address>,
    body: Result<Json<EnrolBody>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(EnrolBody { code, device_id }) = body.map_err(|error| Problem::of_json(&error))?;
    // 80 random bits: nobody guesses one within these attempts.
    api.guard.attempt(Attempt::Enrolment, &address).map_err(too_often)?;
    let secret = Secret::station(&api.chance);
    let mqtt_hash = mosquitto_hash(&secret, api.chance.bytes());
    let (code, now_us) = (hashed(&code.to_ascii_uppercase()), api.clock.now_us());
    let used = api.store.enrol(code, device_id, secret.hashed(), mqtt_hash, now_us).await?;
    let Some((site_id, device_name)) = used else {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "There is no such code, or it was used, or it is too old; ask for a new one.",
        ));
    };
    api.guard.succeeded(Attempt::Enrolment, &address);
    let target = format!("station:{device_id}");
    log(&api, target.clone(), "enrol", &target, site_id.clone()).await?;
    let enrolled = Enrolled {
        device_id,
        site_id,
        device_name,
        username: device_id.to_string(),
        password: secret.reveal().to_owned(),
        mqtt_url: api.introduction.mqtt_url.clone(),
        mqtt_ca: api.introduction.mqtt_ca.clone(),
    };
    Ok((StatusCode::CREATED, [(CACHE_CONTROL, "no-store")], Json(enrolled)).into_response())
}

/// Takes a station down: its credentials end, its history stays
#[utoipa::path(
    delete,
    path = "/api/v1/devices/{id}",
    tag = "devices",
    params(("id" = Uuid, Path)),
    responses((status = 204), (status = 404, description = "No such station"))
)]
pub(super) async fn retire(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<StatusCode, Problem> {
    let device = known(&api, &caller, &text).await?;
    if !api.store.retire_device(device.id, api.clock.now_us()).await? {
        return Err(missing(&text));
    }
    log(&api, caller.actor(), "device.retire", &text, device.name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct SeriesQuery {
    /// From this time on, RFC 3339; a day before now if left out.
    #[param(format = DateTime)]
    since: Option<String>,
    /// Before this time, RFC 3339.
    #[param(format = DateTime)]
    until: Option<String>,
    /// Most items, 1 to 500; a day of them if left out.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500)]
    limit: Option<String>,
}

/// A station's telemetry, newest first
#[utoipa::path(
    get,
    path = "/api/v1/devices/{id}/telemetry",
    tag = "devices",
    params(("id" = Uuid, Path), SeriesQuery),
    responses((status = 200, body = All<TelemetryDocument>), (status = 404, description = "No such station"))
)]
pub(super) async fn telemetry(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    query: Result<Query<SeriesQuery>, QueryRejection>,
) -> Result<Json<All<TelemetryDocument>>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let since_us = time("since", query.since.as_deref())?;
    let since_us = since_us.unwrap_or_else(|| api.clock.now_us() - DAY_US);
    let until_us = time("until", query.until.as_deref())?.unwrap_or(i64::MAX);
    let most = query.limit.as_deref().map(|text| limit(Some(text))).transpose()?;
    let device = known(&api, &caller, &text).await?;
    let most = most.map_or(SERIES_LEN, i64::from);
    let rows = api.store.telemetry_series(device.id, since_us, until_us, most).await?;
    Ok(Json(All::of(rows)))
}

/// What a station should run.
#[derive(Serialize, ToSchema)]
pub(super) struct DesiredDocument {
    /// Rises with every change; also the `ETag`.
    version: i64,
    /// Settings.
    #[schema(value_type = Object)]
    desired: Value,
    /// The model that a rollout wants it to run; `null`: the one that it has.
    #[schema(value_type = Object)]
    model: Option<Value>,
    updated_at: String,
    updated_by: String,
}

impl From<DesiredRow> for DesiredDocument {
    fn from(row: DesiredRow) -> Self {
        Self {
            version: row.version,
            desired: serde_json::from_str(&row.document).unwrap_or_default(),
            model: row.model.and_then(|model| serde_json::from_str(&model).ok()),
            updated_at: rfc3339(row.updated_us),
            updated_by: row.updated_by,
        }
    }
}

/// What a station should run
#[utoipa::path(
    get,
    path = "/api/v1/devices/{id}/desired",
    tag = "devices",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = DesiredDocument), (status = 404, description = "Nobody said"))
)]
pub(super) async fn desired(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Response, Problem> {
    let device = known(&api, &caller, &text).await?;
    if !caller.may(Permission::Manage)
        && !matches!(&caller, Caller::Station { device: own, .. } if *own == device.id)
    {
        return Err(missing(&text));
    }
    let row = api.store.desired(device.id).await?;
    let row = row.ok_or_else(|| Problem::not_found("Nobody said what it should run."))?;
    Ok(tagged(row))
}

fn tagged(row: DesiredRow) -> Response {
    let tag = format!("\"{}\"", row.version);
    ([(ETAG, tag)], Json(DesiredDocument::from(row))).into_response()
}

/// Says which settings a station should have; they are published retained, with the model that a
/// rollout wants it to run
#[utoipa::path(
    put,
    path = "/api/v1/devices/{id}/desired",
    tag = "devices",
    params(
        ("id" = Uuid, Path),
        ("If-Match" = Option<String>, Header, description = "The ETag that is to be replaced"),
    ),
    request_body = Object,
    responses(
        (status = 200, body = DesiredDocument),
        (status = 412, description = "Somebody else changed it"),
        (status = 404, description = "No such station"),
    )
)]
pub(super) async fn set_desired(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    headers: HeaderMap,
    body: Result<Json<Map<String, Value>>, JsonRejection>,
) -> Result<Response, Problem> {
    let Json(wish) = body.map_err(|error| Problem::of_json(&error))?;
    let document = small(&Value::from(wish))?;
    let version = match headers.get(IF_MATCH).map(|tag| tag.to_str().unwrap_or("")) {
        None | Some("*") => None,
        Some(tag) => Some(tag.trim_matches('"').parse().map_err(|_| {
            Problem::bad_request("If-Match: expected the ETag that this address gave.")
        })?),
    };
    let device = known(&api, &caller, &text).await?;
    let now_us = api.clock.now_us();
    let set = api.store.set_desired(device.id, version, document, caller.actor(), now_us).await?;
    let Some(row) = set else {
        return Err(Problem::new(
            StatusCode::PRECONDITION_FAILED,
            "Somebody else changed it; read it again.",
        ));
    };
    api.rollouts.tell();
    let detail = format!("version {}", row.version);
    log(&api, caller.actor(), "device.desired", &text, detail).await?;
    Ok(tagged(row))
}

/// A command to a station.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CommandBody {
    /// As in the topic: `a-z`, `0-9` and `-`.
    name: String,
    #[serde(default)]
    #[schema(value_type = Object)]
    payload: Map<String, Value>,
}

/// A command that was sent.
#[derive(Serialize, ToSchema)]
pub(super) struct CommandDocument {
    id: Uuid,
    name: String,
    #[schema(value_type = Object)]
    payload: Value,
    created_at: String,
    created_by: String,
    expires_at: String,
    /// When the broker took it.
    sent_at: Option<String>,
    answered_at: Option<String>,
    answer: Option<String>,
}

impl From<CommandRow> for CommandDocument {
    fn from(row: CommandRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            payload: serde_json::from_str(&row.payload).unwrap_or_default(),
            created_at: rfc3339(row.created_us),
            created_by: row.created_by,
            expires_at: rfc3339(row.expires_us),
            sent_at: row.sent_us.map(rfc3339),
            answered_at: row.answered_us.map(rfc3339),
            answer: row.answer,
        }
    }
}

/// The newest commands to a station
#[utoipa::path(
    get,
    path = "/api/v1/devices/{id}/commands",
    tag = "devices",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = All<CommandDocument>), (status = 404, description = "No such station"))
)]
pub(super) async fn commands(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<All<CommandDocument>>, Problem> {
    let device = known(&api, &caller, &text).await?;
    Ok(Json(All::of(api.store.commands(device.id, COMMANDS_LEN).await?)))
}

/// Sends a command to a station
#[utoipa::path(
    post,
    path = "/api/v1/devices/{id}/commands",
    tag = "devices",
    params(("id" = Uuid, Path)),
    request_body = CommandBody,
    responses(
        (status = 202, body = CommandDocument),
        (status = 404, description = "No such station"),
        (status = 503, description = "The broker did not take it"),
    )
)]
pub(super) async fn command(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    body: Result<Json<CommandBody>, JsonRejection>,
) -> Result<(StatusCode, Json<CommandDocument>), Problem> {
    let Json(CommandBody { name, payload }) = body.map_err(|error| Problem::of_json(&error))?;
    if name.parse::<Slug>().is_err() {
        return Err(unprocessable("name: write a-z, 0-9 and '-'."));
    }
    let payload = small(&Value::from(payload))?;
    let device = known(&api, &caller, &text).await?;
    let command = api.chance.id(&api.clock);
    let mut row = command_row(command, device.id, name, payload, &caller, api.clock.now_us());
    api.store.note_command(row.clone()).await?;
    log(&api, caller.actor(), "device.command", &text, row.name.clone()).await?;
    let topic = Topic::Command(&device.site_id, DeviceId(device.id), &row.name).to_string();
    let message = json!({
        "schema": "ecosight.command/1",
        "id": row.id,
        "expires_at": rfc3339(row.expires_us),
        "payload": serde_json::from_str::<Value>(&row.payload).unwrap_or_default(),
    });
    deliver(&api, &topic, &message).await?;
    row.sent_us = Some(api.clock.now_us());
    api.store.command_sent(row.id, api.clock.now_us()).await?;
    Ok((StatusCode::ACCEPTED, Json(row.into())))
}

/// A command that has not been sent yet.
pub(super) fn command_row(
    id: Uuid,
    device_id: Uuid,
    name: String,
    payload: String,
    caller: &Caller,
    now_us: i64,
) -> CommandRow {
    CommandRow {
        id,
        device_id,
        name,
        payload,
        created_us: now_us,
        created_by: caller.actor(),
        expires_us: now_us + COMMAND_AGE_US,
        sent_us: None,
        answered_us: None,
        answer: None,
    }
}

/// Publishes, and waits until the broker has it.
pub(super) async fn deliver(api: &Api, topic: &str, payload: &Value) -> Result<(), Problem> {
    let no_broker = || Problem::unavailable("The broker did not take the message; try again.");
    let publish = async {
        let payload = payload.to_string().into_bytes();
        let notice = api.link.publish_tracked(topic, payload, false).await.ok()?;
        notice.wait_completion_async().await.ok()
    };
    if !api.link.is_connected() {
        return Err(no_broker());
    }
    match timeout(BROKER_WAIT, publish).await {
        Ok(Some(_)) => Ok(()),
        _ => Err(no_broker()),
    }
}

/// A station that the caller may see.
pub(super) async fn known(api: &Api, caller: &Caller, text: &str) -> Result<DeviceRow, Problem> {
    let found = api.store.device(id("id", text)?).await?;
    let device = found.map(|(device, _)| device).filter(|device| caller.sees(&device.site_id));
    device.ok_or_else(|| missing(text))
}

fn missing(text: &str) -> Problem {
    Problem::not_found(format!("There is no station {text}."))
}

fn seen(caller: &Caller, site: &str) -> Result<(), Problem> {
    if caller.sees(site) {
        return Ok(());
    }
    Err(Problem::new(StatusCode::FORBIDDEN, format!("The site {site} is not one of yours.")))
}

/// The id of a site as it stands in topics.
pub(super) fn checked_site(site: &str) -> Result<(), Problem> {
    site.parse::<Slug>()
        .map(drop)
        .map_err(|error| unprocessable(format!("site: {site:?} is no id of a site: {error}.")))
}

fn shown_text(field: &str, text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.is_empty() || text.len() > 128 || text.chars().any(char::is_control) {
        return Err(unprocessable(format!("{field}: write 1 to 128 bytes on one line.")));
    }
    Ok(text.to_owned())
}

fn small(value: &Value) -> Result<String, Problem> {
    let text = value.to_string();
    if text.len() > MAX_DOCUMENT_BYTES || text.contains("\\u0000") {
        return Err(unprocessable(format!(
            "The document has more than {MAX_DOCUMENT_BYTES} bytes, or a NUL in a text."
        )));
    }
    Ok(text)
}
