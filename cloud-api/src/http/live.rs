//! Server-sent events.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{Stream, StreamExt, future, stream};
use tokio_stream::wrappers::BroadcastStream;

use super::Api;
use crate::live::{Happening, Live};

/// `GET /api/v1/live`
pub(super) async fn watch(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    let last_seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let happenings = happenings(&api.live, last_seen)
        .take_until(api.stop.clone().cancelled_owned())
        .map(|happening| Ok::<_, Infallible>(event(&happening)));
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

fn event(happening: &Happening) -> Event {
    Event::default().id(happening.id.to_string()).event(happening.kind).data(&*happening.json)
}
