//! What was heard, in the forms that other tools read.

use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, RawQuery, State};
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{info, warn};

use super::accounts::log;
use super::events::{ListQuery, filter};
use super::{Api, Problem};
use crate::access::Caller;
use crate::export::{self, ExportError, ExportFormat, MAX_CLIPS, Sink};

/// How many events the filters pick.
const MATCHED: HeaderName = HeaderName::from_static("x-ecosight-matched");
/// Of the filters as they were asked for, in the audit log.
const ASKED_MAX_LEN: usize = 500;
/// Parts made ahead of the reader.
const AHEAD: usize = 4;

/// What was heard, as `csv`, `geojson`, `raven`, `audacity` or `clips` (a ZIP of WAV with GUANO)
///
/// Takes the filters of `/api/v1/detections`. Written as it is read: an answer that breaks off is no
/// whole file, and the connection says so. `X-Ecosight-Matched` says how many events the filters pick;
/// what is left out of a map, or of the recordings, is counted at its end: in members of the
/// collection, or in `manifest.json`.
#[utoipa::path(
    get,
    path = "/api/v1/export/{format}",
    tag = "events",
    params(("format" = String, Path), ListQuery),
    responses(
        (
            status = 200,
            content_type = "text/csv",
            body = String,
            headers(("X-Ecosight-Matched" = i64, description = "Events that the filters pick")),
        ),
        (status = 422, description = "Too many recordings for one file"),
        (status = 404, description = "No such form"),
    )
)]
pub(super) async fn export(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(format): Path<String>,
    RawQuery(asked): RawQuery,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let format: ExportFormat = format.parse().map_err(Problem::not_found)?;
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    if query.limit.is_some() || query.cursor.is_some() {
        return Err(Problem::bad_request("An export has no pages: leave out limit and cursor."));
    }
    let filter = filter(query, false, &caller)?;
    let matched = api.store.count_events(&filter).await?;
    if format == ExportFormat::Clips && matched > MAX_CLIPS {
        return Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            format!(
                "{matched} events match, and one file holds {MAX_CLIPS} recordings: name a shorter time."
            ),
        ));
    }
    let asked: String = asked.unwrap_or_default().chars().take(ASKED_MAX_LEN).collect();
    let detail = format!("{matched} events match {asked:?}");
    log(&api, caller.actor(), "export", format.name(), detail).await?;
    let (parts_in, parts) = mpsc::channel(AHEAD);
    let work = {
        let (api, actor) = (api.clone(), caller.actor());
        async move {
            let place = api.pictures.clone().acquire_owned().await;
            let mut sink = Parts(parts_in.clone());
            match export::write(&api.store, Some(&api.clips), format, filter, &mut sink).await {
                Ok(count) => {
                    info!(%format, %count, "exported");
                    let done = log(&api, actor, "export.done", format.name(), count.to_string());
                    if done.await.is_err() {
                        warn!(%format, %count, "the audit log does not tell of the end of an export");
                    }
                }
                Err(ExportError::Gone) => {}
                Err(error) => {
                    warn!(%format, %error, "an export broke off");
                    let _ = parts_in.send(Err(error.to_string())).await;
                }
            }
            drop(place);
        }
    };
    tokio::spawn(work);
    let body = ReceiverStream::new(parts).map(|part| part.map_err(std::io::Error::other));
    let name = format!("attachment; filename=\"ecosight.{}\"", format.extension());
    let headers = [
        (CONTENT_TYPE, format.content_type().to_owned()),
        (CONTENT_DISPOSITION, name),
        (MATCHED, matched.to_string()),
    ];
    Ok((headers, Body::from_stream(body)).into_response())
}

struct Parts(mpsc::Sender<Result<Bytes, String>>);

impl Sink for Parts {
    async fn take(&mut self, part: Vec<u8>) -> Result<(), ExportError> {
        if part.is_empty() {
            return Ok(());
        }
        self.0.send(Ok(part.into())).await.map_err(|_| ExportError::Gone)
    }
}
