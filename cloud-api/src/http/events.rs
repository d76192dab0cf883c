//! Alerts, detections and stations.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Api, Problem};
use crate::clock::parse_rfc3339;
use crate::documents::{DeviceDocument, EventDocument};
use crate::store::EventFilter;

const DEFAULT_LIMIT: u16 = 50;
const MAX_LIMIT: u16 = 500;

/// A page of a list, newest first.
#[derive(Serialize)]
pub(super) struct Page<T> {
    items: Vec<T>,
    /// Cursor of the next page; `null` if this is the last.
    next: Option<String>,
}

/// A list that is always whole.
#[derive(Serialize)]
pub(super) struct All<T> {
    items: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    site: Option<String>,
    device: Option<String>,
    class: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<String>,
    cursor: Option<String>,
}

/// `GET /api/v1/alerts`
pub(super) async fn alerts(
    api: State<Arc<Api>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<EventDocument>>, Problem> {
    list(&api, query, true).await
}

/// `GET /api/v1/detections`
pub(super) async fn detections(
    api: State<Arc<Api>>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Json<Page<EventDocument>>, Problem> {
    list(&api, query, false).await
}

async fn list(
    api: &Api,
    query: Result<Query<ListQuery>, QueryRejection>,
    alerts_only: bool,
) -> Result<Json<Page<EventDocument>>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let limit = limit(query.limit.as_deref())?;
    let filter = filter(query, alerts_only)?;
    // One more than asked for tells whether there is a next page.
    let mut rows = api.store.events(&filter, i64::from(limit) + 1).await?;
    let more = rows.len() > usize::from(limit);
    rows.truncate(usize::from(limit));
    let next = rows.last().filter(|_| more).map(|row| row.cursor().to_string());
    Ok(Json(Page { items: rows.into_iter().map(EventDocument::from).collect(), next }))
}

fn limit(text: Option<&str>) -> Result<u16, Problem> {
    let Some(text) = text else { return Ok(DEFAULT_LIMIT) };
    text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
        Problem::bad_request(format!("limit: {text:?} is no number from 1 to {MAX_LIMIT}."))
    })
}

fn filter(query: ListQuery, alerts_only: bool) -> Result<EventFilter, Problem> {
    let time = |name: &str, text: Option<String>| match text {
        None => Ok(None),
        Some(text) => parse_rfc3339(&text).map(Some).ok_or_else(|| {
            Problem::bad_request(format!(
                "{name}: {text:?} is no time such as 2026-03-01T18:00:00Z."
            ))
        }),
    };
    let plain = |name: &str, text: Option<String>| match text {
        // PostgreSQL has no NUL in its texts.
        Some(text) if text.contains('\0') => {
            Err(Problem::bad_request(format!("{name}: a NUL is in no name.")))
        }
        text => Ok(text),
    };
    let cursor = |text: String| {
        text.parse().map_err(|()| {
            Problem::bad_request("cursor: not one that this list gave; begin again without it.")
        })
    };
    Ok(EventFilter {
        alerts_only,
        site: plain("site", query.site)?,
        device: query.device.map(|text| id("device", &text)).transpose()?,
        class: plain("class", query.class)?,
        since_us: time("since", query.since)?,
        until_us: time("until", query.until)?,
        after: query.cursor.map(cursor).transpose()?,
    })
}

/// `GET /api/v1/alerts/{id}`, `GET /api/v1/detections/{id}`
pub(super) async fn event(
    State(api): State<Arc<Api>>,
    Path(text): Path<String>,
) -> Result<Json<EventDocument>, Problem> {
    let row = api.store.event(id("id", &text)?).await?;
    let row = row.ok_or_else(|| Problem::not_found(format!("There is no event {text}.")))?;
    Ok(Json(row.into()))
}

/// `GET /api/v1/devices`
pub(super) async fn devices(
    State(api): State<Arc<Api>>,
) -> Result<Json<All<DeviceDocument>>, Problem> {
    let now_us = api.clock.now_us();
    let rows = api.store.devices().await?;
    let document = |(row, telemetry)| DeviceDocument::new(row, telemetry, now_us);
    Ok(Json(All { items: rows.into_iter().map(document).collect() }))
}

/// `GET /api/v1/devices/{id}`
pub(super) async fn device(
    State(api): State<Arc<Api>>,
    Path(text): Path<String>,
) -> Result<Json<DeviceDocument>, Problem> {
    let found = api.store.device(id("id", &text)?).await?;
    let (row, telemetry) =
        found.ok_or_else(|| Problem::not_found(format!("There is no station {text}.")))?;
    Ok(Json(DeviceDocument::new(row, telemetry, api.clock.now_us())))
}

/// A UUID out of a request.
pub(super) fn id(name: &str, text: &str) -> Result<Uuid, Problem> {
    Uuid::try_parse(text).map_err(|_| {
        Problem::bad_request(format!(
            "{name}: {text:?} is no UUID such as 018f4d7e-0000-7000-8000-000000000001."
        ))
    })
}
