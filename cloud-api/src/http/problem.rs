//! Errors as RFC 9457 `application/problem+json`.

use std::io;

use axum::extract::rejection::JsonRejection;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use ecosight_models::audio::AudioError;
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::clips::ClipError;
use crate::inference::PredictError;
use crate::store::StoreError;

/// What went wrong with a request.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    detail: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// Why a request was not served (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct ProblemDocument<'a> {
    r#type: &'static str,
    /// The status in words.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// What is wrong, and what to do.
    detail: &'a str,
    /// The path that was asked for.
    instance: &'a str,
}

/// Seconds after which a client that was turned away comes back.
const RETRY_S: u16 = 2;

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), headers: Vec::new() }
    }

    pub(crate) fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, detail)
    }

    pub(crate) fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with(RETRY_AFTER, RETRY_S.into())
    }

    /// A disk that does not take or give a `what`: the operator must act.
    pub(super) fn of_disk(error: &io::Error, what: &str) -> Self {
        error!(%error, what, "the disk fails");
        let status = match error.kind() {
            io::ErrorKind::StorageFull => StatusCode::INSUFFICIENT_STORAGE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, format!("The server cannot write or read the {what}; see its log."))
    }

    /// A fault of ours, which the log tells of.
    pub(super) fn internal(error: &dyn std::fmt::Display) -> Self {
        error!(%error, "a fault");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "The server has a fault; see its log.")
    }

    /// Sound that is not taken is its sender's fault.
    pub(super) fn of_audio(error: &AudioError) -> Self {
        Self::new(audio_status(error), error.to_string())
    }

    /// A body that is not the JSON it should be.
    pub(super) fn of_json(error: &JsonRejection) -> Self {
        let status = match error.status() {
            // The same fault of the sender's, whether the text or the shape is wrong.
            StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
            status => status,
        };
        Self::new(status, error.body_text())
    }

    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The answer, which names the request that it is about.
    pub(super) fn response(&self, instance: &str) -> Response {
        let document = ProblemDocument {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error"),
            status: self.status.as_u16(),
            detail: &self.detail,
            instance,
        };
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (self.status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        response
    }
}

/// The body is written by the outermost layer, which knows the request.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable(_) => {
                Self::unavailable("The database is not available; try again.")
            }
            StoreError::Refused(_) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "The database refuses the data.")
            }
            StoreError::Unusable(_) | StoreError::Abandoned(_) => {
                error!(%error, "a request failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "The server has a fault; see its log.")
            }
        }
    }
}

impl From<ClipError> for Problem {
    fn from(error: ClipError) -> Self {
        let offset_header = HeaderName::from_static("upload-offset");
        let detail = error.to_string();
        match error {
            ClipError::WrongOffset { offset } | ClipError::Busy { offset } => {
                Self::new(StatusCode::CONFLICT, detail).with(offset_header, offset.into())
            }
            ClipError::TooMany => Self::bad_request(detail),
            ClipError::BrokenOff(_) => Self::new(StatusCode::REQUEST_TIMEOUT, detail),
            ClipError::Mismatch { .. } => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with(offset_header, 0.into())
            }
            ClipError::Disk(error) => Self::of_disk(&error, "recording"),
            ClipError::Store(error) => error.into(),
        }
    }
}

impl From<PredictError> for Problem {
    fn from(error: PredictError) -> Self {
        let detail = error.to_string();
        match error {
            PredictError::NoModel(_) => Self::unavailable(detail),
            PredictError::Overloaded { retry_s } => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).with(RETRY_AFTER, retry_s.into())
            }
            PredictError::Audio(error) => Self::of_audio(&error),
            PredictError::OffScale | PredictError::Empty => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
            }
            PredictError::TooSlow => Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail),
            PredictError::Failed(_) => {
                error!(detail, "a prediction failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "The model failed; see the log.")
            }
        }
    }
}

fn audio_status(error: &AudioError) -> StatusCode {
    match error {
        AudioError::Empty(_) => StatusCode::BAD_REQUEST,
        AudioError::UnknownFormat(_) | AudioError::Unsupported(_) => {
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        }
        AudioError::TooLarge { .. } | AudioError::TooLong { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        AudioError::Damaged { .. }
        | AudioError::Truncated { .. }
        | AudioError::Rate(_)
        | AudioError::Channels(_)
        | AudioError::NonFinite { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        // The file is in memory: there is nothing to fail.
        AudioError::Io(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
