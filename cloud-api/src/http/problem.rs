//! Errors as RFC 9457 `application/problem+json`.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use ecosight_models::audio::AudioError;
use serde::Serialize;
use tracing::error;

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

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'static str,
    title: &'a str,
    status: u16,
    detail: &'a str,
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

    pub(crate) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The answer, which names the request that it is about.
    pub(super) fn response(&self, instance: &str) -> Response {
        let document = Document {
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
            ClipError::Disk(error) => {
                error!(%error, "cannot write a recording");
                let full = error.kind() == std::io::ErrorKind::StorageFull;
                let status = if full {
                    StatusCode::INSUFFICIENT_STORAGE
                } else {
                    StatusCode::INTERNAL_SERVER_ERROR
                };
                Self::new(status, "The server cannot write the recording; see its log.")
            }
            ClipError::Store(error) => error.into(),
        }
    }
}

impl From<PredictError> for Problem {
    fn from(error: PredictError) -> Self {
        let detail = error.to_string();
        match error {
            PredictError::NoModel(_) | PredictError::Overloaded => Self::unavailable(detail),
            PredictError::Audio(error) => Self::new(audio_status(&error), detail),
            PredictError::OffScale | PredictError::Empty => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
            }
            PredictError::TooSlow => Self::new(StatusCode::PAYLOAD_TOO_LARGE, detail),
            PredictError::Abandoned => Self::new(StatusCode::REQUEST_TIMEOUT, detail),
            PredictError::Failed(_) => {
                error!(detail, "a prediction failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "The model failed; see the log.")
            }
        }
    }
}

/// Sound that is not taken is its sender's fault.
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
