//! Server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, future, stream};
use tokio_stream::wrappers::BroadcastStream;

use super::Api;
use crate::access::Caller;
use crate::documents::json_shown_to;
use crate::live::{GAP, Happening, Live};

/// What happens now, as server-sent events
///
/// Events are `alert`, `detection`, `clip` (an event as JSON), `device` (a station as JSON), `rollout` (a
/// rollout as JSON), and, for those who see all sites, `training` (a job as JSON) and `model` (which
/// version serves). With `Last-Event-ID`, what came after it comes first. Where that is not known, because
/// it was long ago, before a restart or at another server, an event `gap` says so: ask for the lists
/// again.
#[utoipa::path(
    get,
    path = "/api/v1/live",
    tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "The last id that was seen")),
    responses((status = 200, content_type = "text/event-stream", body = String))
)]
pub(super) async fn watch(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Response {
    let last_seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let happenings =
        happenings(&api.live, last_seen).take_until(api.stop.clone().cancelled_owned()).filter_map(
            move |happening| future::ready(event(&happening, &caller).map(Ok::<_, Infallible>)),
        );
    let mut response =
        Sse::new(happenings).keep_alive(KeepAlive::new().interval(api.heartbeat)).into_response();
    // nginx would hold the stream back otherwise.
    let unbuffered = HeaderName::from_static("x-accel-buffering");
    response.headers_mut().insert(unbuffered, HeaderValue::from_static("no"));
    response
}

/// What a watcher missed, then what happens; ends when the watcher lags too far behind, which makes it
/// come back with the last id it saw.
fn happenings(live: &Live, last_seen: Option<u64>) -> impl Stream<Item = Happening> + use<> {
    let (missed, receiver) = live.watch(last_seen);
    let now = BroadcastStream::new(receiver)
        .take_while(|received| future::ready(received.is_ok()))
        .filter_map(|received| future::ready(received.ok()));
    stream::iter(missed).chain(now)
}

/// The happening as the caller may see it; `None` if it is not the caller's to see.
fn event(happening: &Happening, caller: &Caller) -> Option<Event> {
    let event = Event::default().id(happening.id.to_string()).event(happening.kind);
    // A rollout concerns every site, and tells of no place.
    let positions = caller.sees_positions() || happening.kind == "rollout";
    if happening.kind == GAP {
        return Some(event.data(&*happening.json));
    }
    if caller.sites().is_none() && positions {
        return Some(event.data(&*happening.json));
    }
    json_shown_to(&happening.json, caller).map(|json| event.data(json))
}
