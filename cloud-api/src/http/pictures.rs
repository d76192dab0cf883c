//! Recordings to look at: peaks for a player, a spectrogram.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::accounts::note_play;
use super::clips::stored;
use super::{Api, Problem};
use crate::access::Caller;
use crate::picture::{self, Peaks, PictureError};

/// The id names one recording for ever, and how it is drawn changes with the program only.
const KEPT: &str = "private, max-age=86400";

/// Peaks of a recording.
#[derive(Serialize, ToSchema)]
pub(super) struct PeaksDocument {
    duration_s: f64,
    /// Lowest and highest sample of each span, −1 to 1.
    peaks: Vec<[f32; 2]>,
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct PeaksQuery {
    /// How many spans, 10 to 4000.
    #[param(value_type = Option<u16>, minimum = 10, maximum = 4000, default = 800)]
    count: Option<String>,
}

/// Peaks of a recording, for a player's waveform
#[utoipa::path(
    get,
    path = "/api/v1/clips/{id}/peaks",
    tag = "clips",
    params(("id" = Uuid, Path), PeaksQuery),
    responses((status = 200, body = PeaksDocument), (status = 404, description = "Not here"))
)]
pub(super) async fn peaks(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    query: Result<Query<PeaksQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let count = number("count", query.count.as_deref(), 800, 10..=4_000)?;
    let clip = stored(&api, &caller, &text).await?;
    let path = api.clips.path(&clip);
    let Peaks { duration_s, peaks } = drawn(&api, move || picture::peaks(&path, count)).await?;
    Ok(([(CACHE_CONTROL, KEPT)], Json(PeaksDocument { duration_s, peaks })).into_response())
}

#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct SpectrogramQuery {
    /// Columns of the picture, 50 to 4000.
    #[param(value_type = Option<u16>, minimum = 50, maximum = 4000, default = 1000)]
    width: Option<String>,
}

/// Spectrogram of a recording: 0 to 8 kHz from below, 256 rows
#[utoipa::path(
    get,
    path = "/api/v1/clips/{id}/spectrogram",
    tag = "clips",
    params(("id" = Uuid, Path), SpectrogramQuery),
    responses(
        (status = 200, content_type = "image/png", body = String),
        (status = 404, description = "Not here"),
    )
)]
pub(super) async fn spectrogram(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    query: Result<Query<SpectrogramQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let width = number("width", query.width.as_deref(), 1_000, 50..=4_000)?;
    let clip = stored(&api, &caller, &text).await?;
    note_play(&api, &caller, "clip.look", clip.id).await?;
    let path = api.clips.path(&clip);
    let png = drawn(&api, move || picture::spectrogram(&path, width)).await?;
    Ok(([(CONTENT_TYPE, "image/png"), (CACHE_CONTROL, KEPT)], png).into_response())
}

fn number(
    name: &str,
    text: Option<&str>,
    default: usize,
    allowed: std::ops::RangeInclusive<usize>,
) -> Result<usize, Problem> {
    let Some(text) = text else { return Ok(default) };
    text.parse().ok().filter(|number| allowed.contains(number)).ok_or_else(|| {
        let (least, most) = allowed.into_inner();
        Problem::bad_request(format!("{name}: expected a number from {least} to {most}."))
    })
}

/// Draws off the threads that serve, one picture at a time.
async fn drawn<T: Send + 'static>(
    api: &Api,
    draw: impl FnOnce() -> Result<T, PictureError> + Send + 'static,
) -> Result<T, Problem> {
    let place = api.pictures.clone().acquire_owned().await;
    let drawn = tokio::task::spawn_blocking(move || {
        let drawn = draw();
        drop(place);
        drawn
    });
    let fault = |error: &dyn std::fmt::Display| {
        tracing::error!(%error, "a recording cannot be drawn");
        Problem::new(
            axum::http::StatusCode::INTERNAL_SERVER_ERROR,
            "The recording cannot be drawn.",
        )
    };
    drawn.await.map_err(|error| fault(&error))?.map_err(|error| fault(&error))
}
