//! What is done around every request.

use std::any::Any;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::field::Empty;
use tracing::{Instrument as _, debug, debug_span, error};

use super::Problem;
use crate::inference::{Inference, PredictError};
use crate::log::TRACE;
use crate::metric;

/// Nothing from elsewhere, nothing inline; the player makes its sound and pictures itself.
const POLICY: &str = "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; \
     worker-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'self'; \
     frame-ancestors 'none'";

/// Most that is read on of a body whose request is answered already.
const MAX_DRAINED_BYTES: usize = 64 * 1024 * 1024;
const DRAIN_LIMIT: Duration = Duration::from_secs(10);
/// A client that sends less than this is not worth the wait, bytes a second after the first.
const MIN_DRAIN_RATE: usize = 16 * 1024;

static REQUESTS: AtomicU64 = AtomicU64::new(0);

/// Tells this request from all others of this server: in the header `X-Request-Id` of the answer, and
/// in the log.
#[derive(Clone, Debug)]
pub(super) struct RequestId(pub(super) Arc<str>);

/// What no route matches.
const NO_ROUTE: &str = "none";

/// Names and counts the request, finishes problem documents, sets the headers that every answer has.
/// `run` is the name of this run of the server.
pub(super) async fn around(
    State(run): State<Arc<str>>,
    mut request: Request,
    next: Next,
) -> Response {
    let number = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
    let id = RequestId(format!("{run}-{number}").into());
    request.extensions_mut().insert(id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or(NO_ROUTE, MatchedPath::as_str).to_owned();
    let traceparent = request.headers().get("traceparent").and_then(|value| value.to_str().ok());
    let span = debug_span!(
        target: TRACE,
        "request",
        name = format!("{method} {route}"),
        traceparent,
        http.request.method = method.as_str(),
        http.route = route,
        ecosight.request = &*id.0,
        http.response.status_code = Empty,
    );
    let started = Instant::now();
    let response = finished(next.run(request).instrument(span.clone()).await, &path);
    span.record("http.response.status_code", response.status().as_u16());
    let (status, elapsed) = (response.status().as_u16(), started.elapsed());
    metric::request(method.as_str(), &route, status, elapsed.as_secs_f64());
    let (id, ms) = (id.0, elapsed.as_millis() as u64);
    if response.status().is_server_error() && response.status() != StatusCode::SERVICE_UNAVAILABLE {
        error!(request = &*id, %method, path, status, ms, "answered");
    } else {
        debug!(request = &*id, %method, path, status, ms, "answered");
    }
    with_headers(response, &id)
}

/// Every error is a problem document, also those of the framework.
fn finished(response: Response, path: &str) -> Response {
    if let Some(problem) = response.extensions().get::<Problem>() {
        return problem.response(path);
    }
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let kind = response.headers().get(CONTENT_TYPE);
    // Health is JSON of its own shape, whatever its status.
    if !is_error || kind.is_some_and(|kind| kind == "application/json") {
        return response;
    }
    let headers = response.headers().clone();
    let mut finished = Problem::new(status, reason(status)).response(path);
    for (name, value) in &headers {
        if name != CONTENT_TYPE && name != axum::http::header::CONTENT_LENGTH {
            finished.headers_mut().insert(name, value.clone());
        }
    }
    finished
}

fn reason(status: StatusCode) -> &'static str {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => "The body is longer than is taken here.",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "The body's type is not taken here.",
        _ => "The request cannot be served.",
    }
}

fn with_headers(mut response: Response, id: &str) -> Response {
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::try_from(id) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// Turns a file away that could not be answered soon before anything else is done for it: nobody looks up
/// who sent it, and its body is only read to be thrown away.
pub(super) async fn shed(
    State(inference): State<Inference>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() == Method::POST
        && request.uri().path() == "/predict"
        && let Err(error @ PredictError::Overloaded { .. }) = inference.admits()
    {
        return Problem::from(error).into_response();
    }
    next.run(request).await
}

/// Reads on what a handler left of the body, for a while: a client that is still sending would
/// otherwise find its connection closed and never see the answer.
pub(super) async fn drained(request: Request, next: Next) -> Response {
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (give_back, left) = oneshot::channel();
    let request =
        request.map(|body| Body::new(Lent { body: Some(body), give_back: Some(give_back) }));
    let response = next.run(request).await;
    tokio::spawn(async move {
        if let Ok(body) = left.await {
            let _ = timeout(DRAIN_LIMIT, drain(body)).await;
        }
    });
    response
}

async fn drain(body: Body) {
    let mut stream = body.into_data_stream();
    let (started, mut taken) = (Instant::now(), 0);
    while let Ok(Some(Ok(chunk))) = timeout(Duration::from_secs(1), stream.next()).await {
        taken += chunk.len();
        let least = started.elapsed().as_secs() as usize * MIN_DRAIN_RATE;
        if taken < least || taken > MAX_DRAINED_BYTES {
            break;
        }
    }
}

/// A body that goes back where it came from when its reader has had enough.
struct Lent {
    body: Option<Body>,
    give_back: Option<oneshot::Sender<Body>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(give_back)) = (self.body.take(), self.give_back.take())
            && !body.is_end_stream()
        {
            // Nobody may be left to read on.
            let _ = give_back.send(body);
        }
    }
}

/// Gives a request up that takes too long: a client that sends its body a byte at a time, most
/// likely.
pub(super) async fn deadline(
    State(limit): State<Duration>,
    request: Request,
    next: Next,
) -> Response {
    match timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("The request was not done within {} s.", limit.as_secs()),
        )
        .into_response(),
    }
}

/// A fault of ours, which must not end the connection without a word.
#[allow(clippy::needless_pass_by_value, reason = "the layer's signature")]
pub(super) fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("");
    error!(panic = text, "a request handler panicked");
    Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "The server has a fault; see its log.")
        .into_response()
}

pub(super) async fn method_not_allowed() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "This address does not take that method.")
}
