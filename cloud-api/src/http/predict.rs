//! `POST /predict`: what is heard in a file.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::multipart::MultipartRejection;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Multipart, Query, State};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{Instrument as _, debug_span};
use utoipa::{IntoParams, ToSchema};

use super::edge::RequestId;
use super::{Api, Problem, form};
use crate::clock::rfc3339;
use crate::inference::{Heard, Wanted};
use crate::log::TRACE;

/// What was heard.
#[derive(Serialize, ToSchema)]
pub(super) struct Prediction {
    success: bool,
    /// The most probable class.
    predicted_class: String,
    /// Its probability.
    confidence: f64,
    /// Probability of each class; they sum to 1.
    all_probabilities: BTreeMap<String, f64>,
    /// Seconds from the end of the upload to the answer.
    processing_time: f64,
    /// RFC 3339, UTC.
    timestamp: String,
    model: ModelId,
    /// As in the header `X-Request-Id` and in the server's log.
    request_id: String,
    /// The AudioSet classes with the highest scores of any window, on request.
    #[serde(skip_serializing_if = "Option::is_none")]
    heard: Option<Vec<HeardClass>>,
    /// Each window of 0.96 s, one every 0.48 s, on request.
    #[serde(skip_serializing_if = "Option::is_none")]
    windows: Option<Vec<WindowDocument>>,
}

/// Which model answered.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelId {
    name: String,
    version: String,
    /// First bytes of its SHA-256, hexadecimal.
    tag: String,
}

/// A class of AudioSet.
#[derive(Serialize, ToSchema)]
pub(super) struct HeardClass {
    class: &'static str,
    score: f32,
}

/// One window.
#[derive(Serialize, ToSchema)]
pub(super) struct WindowDocument {
    start_s: f64,
    end_s: f64,
    /// Its loudest 20 ms.
    level_dbfs: f32,
    scores: BTreeMap<String, f32>,
}

/// The form.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes the form to the API's readers")]
pub(super) struct PredictForm {
    /// A sound: WAV, FLAC, OGG Vorbis, MP3, or AAC as M4A.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// Whether to give the scores of each window.
    windows: Option<bool>,
    /// Whether to name the AudioSet classes that were heard.
    heard: Option<bool>,
}

/// What may be asked for; the form's fields of the same names do the same.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PredictQuery {
    /// Whether to give the scores of each window.
    #[param(value_type = Option<bool>)]
    windows: Option<String>,
    /// Whether to name the AudioSet classes that were heard. Takes twice the time.
    #[param(value_type = Option<bool>)]
    heard: Option<String>,
}

/// Says what is heard in a sound file
///
/// The whole file is analysed, in windows of 0.96 s. A class that alerts is as probable as the highest
/// mean of neighbouring windows, which is what a station would raise an alert by.
#[utoipa::path(
    post,
    path = "/predict",
    tag = "original",
    params(PredictQuery),
    request_body(content = PredictForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, body = Prediction),
        (status = 413, description = "Too many bytes or too many seconds"),
        (status = 415, description = "No sound, or a format that is not taken"),
        (status = 422, description = "Damaged or cut off"),
        (status = 503, description = "Too many files wait; Retry-After says when to come back"),
    )
)]
pub(super) async fn predict(
    State(api): State<Arc<Api>>,
    Extension(request_id): Extension<RequestId>,
    query: Result<Query<PredictQuery>, QueryRejection>,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Json<Prediction>, Problem> {
    api.inference.admits()?;
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let form = form::read(&api, form).await?;
    let asked = |name: &str, query: Option<&str>| {
        form::choice(name, query.or_else(|| form.texts.get(name).map(String::as_str)))
    };
    let wanted = Wanted {
        windows: asked("windows", query.windows.as_deref())?,
        heard: asked("heard", query.heard.as_deref())?,
    };
    let started = Instant::now();
    let span = debug_span!(target: TRACE, "inference", bytes = form.file.len());
    let classified = api.inference.predict(form.file, form.held, wanted).instrument(span);
    let (heard, serving) = classified.await?;
    let processing_time = started.elapsed().as_secs_f64();
    api.tally.count();
    let bundle = serving.bundle();
    let best = heard.probabilities.iter().copied().enumerate();
    let (best, confidence) = best.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0));
    let classes = &bundle.classes;
    let Heard { probabilities, windows, audioset } = heard;
    Ok(Json(Prediction {
        success: true,
        predicted_class: classes.get(best).cloned().unwrap_or_default(),
        confidence,
        all_probabilities: classes.iter().cloned().zip(probabilities).collect(),
        processing_time,
        timestamp: rfc3339(api.clock.now_us()),
        model: ModelId {
            name: bundle.name.clone(),
            version: bundle.version.clone(),
            tag: bundle.tag.to_string(),
        },
        request_id: request_id.0.to_string(),
        heard: audioset.map(|heard| {
            heard.into_iter().map(|(class, score)| HeardClass { class, score }).collect()
        }),
        windows: wanted.windows.then(|| {
            let document = |window: crate::inference::WindowScores| WindowDocument {
                start_s: window.start_s,
                end_s: window.end_s,
                level_dbfs: window.level_dbfs,
                scores: classes.iter().cloned().zip(window.scores).collect(),
            };
            windows.into_iter().map(document).collect()
        }),
    }))
}
