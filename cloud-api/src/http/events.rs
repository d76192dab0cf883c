//! Alerts, detections and stations.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use serde::{Deserialize, Serialize};
use tracing::warn;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::accounts::log;
use super::{Api, Problem};
use crate::access::Caller;
use crate::clock::parse_rfc3339;
use crate::documents::{DeviceDocument, EventDocument};
use crate::live::show_event;
use crate::store::{Cursor, EventFilter, EventRow, Verdict};

/// The state of an alert that nobody took.
const OPEN: &str = "open";
const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 500;

/// A page of a list, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct Page<T> {
    items: Vec<T>,
    /// Cursor of the next page; `null` if this is the last.
    next: Option<String>,
}

impl<T> Page<T> {
    /// The page of `rows`, which are one more than asked for where there is a next page.
    pub(super) fn of<R: Into<T>>(
        mut rows: Vec<R>,
        limit: u16,
        cursor: impl Fn(&R) -> Cursor,
    ) -> Self {
        let more = rows.len() > usize::from(limit);
        rows.truncate(usize::from(limit));
        let next = rows.last().filter(|_| more).map(|row| cursor(row).to_string());
        Self { items: rows.into_iter().map(Into::into).collect(), next }
    }

    pub(super) fn from_parts(items: Vec<T>, next: Option<String>) -> Self {
        Self { items, next }
    }

    pub(super) fn into_parts(self) -> (Vec<T>, Option<String>) {
        (self.items, self.next)
    }
}

/// Which page of a list that has no filters.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// Most items of a page, 1 to 500.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 50)]
    pub(super) limit: Option<String>,
    /// The `next` of the page before.
    pub(super) cursor: Option<String>,
}

/// A list that is always whole.
#[derive(Serialize, ToSchema)]
pub(super) struct All<T> {
    items: Vec<T>,
}

impl<T> All<T> {
    pub(super) fn of<R: Into<T>>(rows: Vec<R>) -> Self {
        Self { items: rows.into_iter().map(Into::into).collect() }
    }
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Only this site.
    pub(super) site: Option<String>,
    /// Only this station.
    #[param(value_type = Option<Uuid>)]
    pub(super) device: Option<String>,
    /// Only this class.
    pub(super) class: Option<String>,
    /// With this score or a higher one, 0 to 1.
    #[param(value_type = Option<f64>, minimum = 0.0, maximum = 1.0)]
    pub(super) min_score: Option<String>,
    /// In this state: `open` or `acknowledged`.
    pub(super) state: Option<String>,
    /// `confirmed`, `rejected` or `relabelled`; `none` for those that nobody judged.
    pub(super) verdict: Option<String>,
    /// From this time on, RFC 3339.
    #[param(format = DateTime)]
    pub(super) since: Option<String>,
    /// Before this time, RFC 3339.
    #[param(format = DateTime)]
    pub(super) until: Option<String>,
    /// Most items of a page, 1 to 500.
    #[param(value_type = Option<u16>, minimum = 1, maximum = 500, default = 50)]
    pub(super) limit: Option<String>,
    /// The `next` of the page before.
    pub(super) cursor: Option<String>,
}

/// Events whose class alerts, newest first
#[utoipa::path(
    get,
    path = "/api/v1/alerts",
    tag = "events",
    params(ListQuery),
    responses((status = 200, body = Page<EventDocument>))
)]
pub(super) async fn alerts(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<EventDocument>>, Problem> {
    list(&api, &caller, query, true).await
}

/// All events, newest first
#[utoipa::path(
    get,
    path = "/api/v1/detections",
    tag = "events",
    params(ListQuery),
    responses((status = 200, body = Page<EventDocument>))
)]
pub(super) async fn detections(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<EventDocument>>, Problem> {
    list(&api, &caller, query, false).await
}

async fn list(
    api: &Api,
    caller: &Caller,
    query: Result<Query<ListQuery>, QueryRejection>,
    alerts_only: bool,
) -> Result<Json<Page<EventDocument>>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let limit = limit(query.limit.as_deref())?;
    let filter = filter(query, alerts_only, caller)?;
    // One more than asked for tells whether there is a next page.
    let rows = api.store.events(&filter, i64::from(limit) + 1).await?;
    let mut page: Page<EventDocument> = Page::of(rows, limit, EventRow::cursor);
    page.items = page.items.into_iter().map(|event| event.shown_to(caller)).collect();
    Ok(Json(page))
}

pub(super) fn limit(text: Option<&str>) -> Result<u16, Problem> {
    let Some(text) = text else { return Ok(DEFAULT_LIMIT) };
    text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
        Problem::bad_request(format!("limit: {text:?} is no number from 1 to {MAX_LIMIT}."))
    })
}

/// A time out of a request, µs.
pub(super) fn time(name: &str, text: Option<&str>) -> Result<Option<i64>, Problem> {
    let Some(text) = text else { return Ok(None) };
    parse_rfc3339(text).map(Some).ok_or_else(|| {
        Problem::bad_request(format!("{name}: {text:?} is no time such as 2026-03-01T18:00:00Z."))
    })
}

/// A text out of a request. PostgreSQL has no NUL in its texts.
pub(super) fn plain(name: &str, text: Option<String>) -> Result<Option<String>, Problem> {
    match text {
        Some(text) if text.contains('\0') => {
            Err(Problem::bad_request(format!("{name}: a NUL is in no name.")))
        }
        text => Ok(text),
    }
}

/// A place in a list out of a request.
pub(super) fn cursor(text: &str) -> Result<Cursor, Problem> {
    text.parse().map_err(|()| {
        Problem::bad_request("cursor: not one that this list gave; begin again without it.")
    })
}

pub(super) fn filter(
    query: ListQuery,
    alerts_only: bool,
    caller: &Caller,
) -> Result<EventFilter, Problem> {
    let number = |name: &str, text: Option<String>| {
        let number = |text: String| {
            let parsed = text.parse::<f64>().ok().filter(|number| number.is_finite());
            parsed.ok_or_else(|| Problem::bad_request(format!("{name}: expected a number.")))
        };
        text.map(number).transpose()
    };
    Ok(EventFilter {
        alerts_only,
        sites: caller.sites().map(<[String]>::to_vec),
        min_score: number("min_score", query.min_score)?,
        state: plain("state", query.state)?,
        verdict: query.verdict.as_deref().map(verdict).transpose()?,
        site: plain("site", query.site)?,
        device: query.device.map(|text| id("device", &text)).transpose()?,
        class: plain("class", query.class)?,
        since_us: time("since", query.since.as_deref())?,
        until_us: time("until", query.until.as_deref())?,
        after: query.cursor.as_deref().map(cursor).transpose()?,
    })
}

/// One event whose class alerts, or any other
#[utoipa::path(
    get,
    path = "/api/v1/alerts/{id}",
    tag = "events",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = EventDocument), (status = 404, description = "No such event"))
)]
pub(super) async fn alert(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<EventDocument>, Problem> {
    one(&api, &caller, &text).await
}

/// Takes an alert: others see who is on it
///
/// Of several who take it at one time the first one has it; the answer says who.
#[utoipa::path(
    post,
    path = "/api/v1/alerts/{id}/acknowledge",
    operation_id = "acknowledge_alert",
    tag = "events",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = EventDocument), (status = 404, description = "No such alert"))
)]
pub(super) async fn acknowledge(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<EventDocument>, Problem> {
    let missing = || Problem::not_found(format!("There is no alert {text}."));
    let mine = |row: &EventRow| row.alert && caller.sees(&row.site_id);
    let row = api.store.event(id("id", &text)?).await?.filter(mine).ok_or_else(missing)?;
    if row.state != OPEN {
        return Ok(Json(EventDocument::from(row).shown_to(&caller)));
    }
    // First: what cannot be logged is not done.
    log(&api, caller.actor(), "alert.acknowledge", &row.id.to_string(), String::new()).await?;
    if api.store.acknowledge(row.id, caller.actor(), api.clock.now_us()).await?
        && let Err(error) = show_event(&api.live, &api.store, "alert", row.id).await
    {
        warn!(event = %row.id, %error, "an acknowledgement is not shown live");
    }
    one(&api, &caller, &text).await
}

/// One event
#[utoipa::path(
    get,
    path = "/api/v1/detections/{id}",
    tag = "events",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = EventDocument), (status = 404, description = "No such event"))
)]
pub(super) async fn detection(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<EventDocument>, Problem> {
    one(&api, &caller, &text).await
}

async fn one(api: &Api, caller: &Caller, text: &str) -> Result<Json<EventDocument>, Problem> {
    let row = api.store.event(id("id", text)?).await?.filter(|row| caller.sees(&row.site_id));
    let row = row.ok_or_else(|| Problem::not_found(format!("There is no event {text}.")))?;
    Ok(Json(EventDocument::from(row).shown_to(caller)))
}

/// All stations, each with its newest telemetry
#[utoipa::path(
    get,
    path = "/api/v1/devices",
    tag = "devices",
    responses((status = 200, body = All<DeviceDocument>))
)]
pub(super) async fn devices(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
) -> Result<Json<All<DeviceDocument>>, Problem> {
    let now_us = api.clock.now_us();
    let mut rows = api.store.devices().await?;
    rows.retain(|(device, _)| caller.sees(&device.site_id));
    let document = |(row, telemetry)| DeviceDocument::new(row, telemetry, now_us).shown_to(&caller);
    Ok(Json(All { items: rows.into_iter().map(document).collect() }))
}

/// One station
#[utoipa::path(
    get,
    path = "/api/v1/devices/{id}",
    tag = "devices",
    params(("id" = Uuid, Path)),
    responses((status = 200, body = DeviceDocument), (status = 404, description = "No such station"))
)]
pub(super) async fn device(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
) -> Result<Json<DeviceDocument>, Problem> {
    let found = api.store.device(id("id", &text)?).await?;
    let (row, telemetry) = found
        .filter(|(row, _)| caller.sees(&row.site_id))
        .ok_or_else(|| Problem::not_found(format!("There is no station {text}.")))?;
    Ok(Json(DeviceDocument::new(row, telemetry, api.clock.now_us()).shown_to(&caller)))
}

/// A filter by verdict out of a request; the inner `None` for events that nobody judged.
fn verdict(text: &str) -> Result<Option<Verdict>, Problem> {
    if text == "none" {
        return Ok(None);
    }
    let verdict = text.parse().map(Some);
    verdict.map_err(|what| Problem::bad_request(format!("verdict: {what}, or \"none\".")))
}

/// A UUID out of a request.
pub(super) fn id(name: &str, text: &str) -> Result<Uuid, Problem> {
    Uuid::try_parse(text).map_err(|_| {
        Problem::bad_request(format!(
            "{name}: {text:?} is no UUID such as 018f4d7e-0000-7000-8000-000000000001."
        ))
    })
}
