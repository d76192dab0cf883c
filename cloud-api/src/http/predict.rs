//! `POST /predict`: what is heard in a file.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::multipart::{Field, MultipartError, MultipartRejection};
use axum::extract::{Multipart, State};
use axum::http::StatusCode;
use serde::Serialize;
use tokio::time::Instant;

use super::{Api, Problem};
use crate::clock::rfc3339;
use crate::inference::{Held, MAX_FILE_BYTES};

const FIELD: &str = "file";

#[derive(Serialize)]
pub(super) struct Prediction {
    success: bool,
    predicted_class: String,
    confidence: f64,
    all_probabilities: BTreeMap<String, f64>,
    /// Seconds from the end of the upload to the answer.
    processing_time: f64,
    timestamp: String,
}

/// Takes a sound file in the field `file` of a multipart form: WAV, FLAC, OGG Vorbis or MP3.
pub(super) async fn predict(
    State(api): State<Arc<Api>>,
    form: Result<Multipart, MultipartRejection>,
) -> Result<Json<Prediction>, Problem> {
    let form = form.map_err(|_| {
        Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Send a multipart form with a sound file in the field \"file\", as \
             curl -F file=@shot.wav does.",
        )
    })?;
    let classes = api.inference.bundle()?.classes.clone();
    let mut held = Held::nothing();
    let file = read_file(&api, form, &mut held).await?;
    let started = Instant::now();
    let heard = api.inference.predict(file, held).await?;
    let processing_time = started.elapsed().as_secs_f64();
    let best = heard.probabilities.iter().copied().enumerate();
    let (best, confidence) = best.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0));
    Ok(Json(Prediction {
        success: true,
        predicted_class: classes.get(best).cloned().unwrap_or_default(),
        confidence,
        all_probabilities: classes.into_iter().zip(heard.probabilities).collect(),
        processing_time,
        timestamp: rfc3339(api.clock.now_us()),
    }))
}

/// The field `file`, or the first field that is a file.
async fn read_file(api: &Api, mut form: Multipart, held: &mut Held) -> Result<Vec<u8>, Problem> {
    while let Some(field) = form.next_field().await.map_err(|error| broken_form(&error))? {
        if field.name() == Some(FIELD) || field.file_name().is_some() {
            let file = read_field(api, field, held).await?;
            return match file.len() {
                0 => Err(Problem::bad_request("The file is empty.")),
                _ => Ok(file),
            };
        }
    }
    Err(Problem::bad_request("The form has no field \"file\"."))
}

async fn read_field(api: &Api, mut field: Field<'_>, held: &mut Held) -> Result<Vec<u8>, Problem> {
    let mut file = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(|error| broken_form(&error))? {
        if file.len() + chunk.len() > MAX_FILE_BYTES {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("The file is longer than {} MiB.", MAX_FILE_BYTES / (1024 * 1024)),
            ));
        }
        api.inference.hold(held, chunk.len())?;
        file.extend_from_slice(&chunk);
    }
    Ok(file)
}

fn broken_form(error: &MultipartError) -> Problem {
    match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("The file is longer than {} MiB.", MAX_FILE_BYTES / (1024 * 1024)),
        ),
        _ => Problem::bad_request(format!("The form is broken: {}.", error.body_text())),
    }
}
