//! “We heard a shot and you did not”: the sound of that minute from every station in range, and a
//! sample to learn from once a person hears the shot in it.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, State};
use axum::http::StatusCode;
use ecosight_shared::json::PullCommand;
use ecosight_shared::{DeviceId, Topic};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tracing::warn;
use utoipa::ToSchema;
use uuid::Uuid;

use super::accounts::{log, unprocessable};
use super::events::{Page, PageQuery, cursor, id, limit, time};
use super::fleet::{checked_site, command_row, deliver};
use super::verdicts::note;
use super::{Api, Problem};
use crate::access::Caller;
use crate::clock::rfc3339;
use crate::export::wav;
use crate::samples::{NewSample, Origin, checked_name, group_of};
use crate::store::{ClipStatus, DeviceRow, MissedShotRow, PullRow};

/// Sound on either side of the time that was told: nobody looks at the clock at once.
const AROUND_US: i64 = 30 * 1_000_000;
/// A station keeps a day of sound; what is older is gone.
const MAX_AGE_US: i64 = 7 * 24 * 3_600 * 1_000_000;
/// Stations asked for one report.
const MAX_STATIONS: usize = 100;
/// Sound on either side of the shot that becomes a sample.
const SAMPLE_AROUND_S: f64 = 5.0;
const EARTH_RADIUS_M: f64 = 6_371_000.0;

/// A shot that somebody heard.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MissedShotBody {
    /// When, RFC 3339; half a minute before and after is listened to.
    #[schema(format = DateTime)]
    time: String,
    /// Where; or `site`.
    location: Option<Place>,
    /// Where; or `location`. With both, stations of that site in range.
    site: Option<String>,
    #[schema(max_length = 1000)]
    note: Option<String>,
}

/// A place.
#[derive(Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    #[schema(minimum = -90.0, maximum = 90.0)]
    lat: f64,
    #[schema(minimum = -180.0, maximum = 180.0)]
    lon: f64,
}

/// A report, with what stations were asked for.
#[derive(Serialize, ToSchema)]
pub(super) struct MissedShotDocument {
    id: Uuid,
    time: String,
    site: Option<String>,
    location: Option<Place>,
    note: Option<String>,
    reported_by: String,
    reported_at: String,
    stations: Vec<PullDocument>,
}

/// What a station was asked for.
#[derive(Serialize, ToSchema)]
pub(super) struct PullDocument {
    /// Also of the recording that it sends.
    id: Uuid,
    device_id: Uuid,
    device_name: Option<String>,
    site_id: String,
    from: String,
    until: String,
    /// `waiting` for the broker, `asked`, `refused`, `uploading`, `arrived`, `heard` or `not_heard`.
    state: &'static str,
    /// What the station said.
    answer: Option<String>,
    /// Where the recording is.
    url: String,
    class: Option<String>,
    sample_id: Option<Uuid>,
    judged_by: Option<String>,
}

impl From<PullRow> for PullDocument {
    fn from(row: PullRow) -> Self {
        let refused = row.answer.as_deref().is_some_and(|answer| answer.contains("\"refused\""));
        let state = match (row.heard, row.clip_status.as_deref()) {
            (Some(true), _) => "heard",
            (Some(false), _) => "not_heard",
            (None, Some("stored")) => "arrived",
            (None, Some(_)) => "uploading",
            (None, None) if refused => "refused",
            (None, None) if row.sent_us.is_some() => "asked",
            (None, None) => "waiting",
        };
        Self {
            id: row.id,
            device_id: row.device_id,
            device_name: row.device_name,
            site_id: row.site_id,
            from: rfc3339(row.from_us),
            until: rfc3339(row.until_us),
            state,
            answer: row.answer,
            url: format!("/api/v1/clips/{}/data", row.id),
            class: row.class,
            sample_id: row.sample_id,
            judged_by: row.judged_by,
        }
    }
}

impl MissedShotDocument {
    fn new(row: MissedShotRow, pulls: Vec<PullRow>, caller: &Caller) -> Self {
        let place = row.latitude.zip(row.longitude).filter(|_| caller.sees_positions());
        Self {
            id: row.id,
            time: rfc3339(row.heard_us),
            site: row.site_id,
            location: place.map(|(lat, lon)| Place { lat, lon }),
            note: row.note,
            reported_by: row.reported_by,
            reported_at: rfc3339(row.reported_us),
            stations: pulls
                .into_iter()
                .filter(|pull| caller.sees(&pull.site_id))
                .map(Into::into)
                .collect(),
        }
    }
}

/// Metres between two places, on a sphere.
fn distance_m(a: (f64, f64), b: (f64, f64)) -> f64 {
    let (lat_a, lat_b) = (a.0.to_radians(), b.0.to_radians());
    let (north, east) = ((lat_b - lat_a) / 2.0, (b.1 - a.1).to_radians() / 2.0);
    let chord = north.sin().powi(2) + lat_a.cos() * lat_b.cos() * east.sin().powi(2);
    2.0 * EARTH_RADIUS_M * chord.sqrt().min(1.0).asin()
}

/// Reports a shot that no station told of
///
/// Every station in range is asked for that minute of its sound.
#[utoipa::path(
    post,
    path = "/api/v1/missed-shots",
    operation_id = "report_missed_shot",
    tag = "learning",
    request_body = MissedShotBody,
    responses(
        (status = 201, body = MissedShotDocument),
        (status = 422, description = "Cannot be used, or no station is in range"),
    )
)]
pub(super) async fn report(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    body: Result<Json<MissedShotBody>, JsonRejection>,
) -> Result<(StatusCode, Json<MissedShotDocument>), Problem> {
    let Json(body) = body.map_err(|error| Problem::of_json(&error))?;
    let heard_us = time("time", Some(&body.time))?.unwrap_or_default();
    let now_us = api.clock.now_us();
    if heard_us > now_us || heard_us < now_us - MAX_AGE_US {
        return Err(unprocessable("time: of the last seven days; stations keep less than that."));
    }
    if let Some(site) = &body.site {
        checked_site(site)?;
    }
    if let Some(Place { lat, lon }) = body.location
        && !((-90.0..=90.0).contains(&lat) && (-180.0..=180.0).contains(&lon))
    {
        return Err(unprocessable("location: degrees north and east."));
    }
    if body.location.is_none() && body.site.is_none() {
        return Err(unprocessable("location, site: say where it was heard."));
    }
    let note = note(body.note)?;
    let stations = in_range(&api, &caller, body.location, body.site.as_deref()).await?;
    if stations.is_empty() {
        return Err(unprocessable("There is no station in range that you may see."));
    }
    let shot = MissedShotRow {
        id: api.chance.id(&api.clock),
        site_id: body.site,
        heard_us,
        latitude: body.location.map(|place| place.lat),
        longitude: body.location.map(|place| place.lon),
        note,
        reported_by: caller.actor(),
        reported_us: now_us,
    };
    let pulls: Vec<PullRow> = stations
        .iter()
        .map(|station| PullRow {
            id: api.chance.id(&api.clock),
            shot_id: shot.id,
            site_id: station.site_id.clone(),
            device_id: station.id,
            device_name: Some(station.name.clone()),
            from_us: heard_us - AROUND_US,
            until_us: (heard_us + AROUND_US).min(now_us.max(heard_us + 1_000_000)),
            heard: None,
            class: None,
            sample_id: None,
            judged_by: None,
            judged_us: None,
            sent_us: None,
            answer: None,
            clip_status: None,
        })
        .collect();
    api.store.report_missed_shot(shot.clone(), pulls.clone()).await?;
    let target = shot.id.to_string();
    let detail = format!("{} stations", pulls.len());
    log(&api, caller.actor(), "missed-shot.report", &target, detail).await?;
    for pull in &pulls {
        ask(&api, &caller, pull).await?;
    }
    let pulls = api.store.pulls(shot.id).await?;
    Ok((StatusCode::CREATED, Json(MissedShotDocument::new(shot, pulls, &caller))))
}

async fn in_range(
    api: &Api,
    caller: &Caller,
    place: Option<Place>,
    site: Option<&str>,
) -> Result<Vec<DeviceRow>, Problem> {
    let range_m = f64::from(api.learning.missed_shot_range_m);
    let mut near: Vec<(f64, DeviceRow)> = api
        .store
        .devices()
        .await?
        .into_iter()
        .map(|(station, _)| station)
        .filter(|station| caller.sees(&station.site_id))
        .filter(|station| site.is_none_or(|site| site == station.site_id))
        .filter_map(|station| {
            let Some(Place { lat, lon }) = place else { return Some((0.0, station)) };
            let at = station.latitude.zip(station.longitude);
            // A station that does not know where it is may be in range, if it is of that site.
            let away = at.map(|at| distance_m(at, (lat, lon)));
            match away {
                Some(away) => (away <= range_m).then_some((away, station)),
                None => site.is_some().then_some((range_m, station)),
            }
        })
        .collect();
    near.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.id.cmp(&b.1.id)));
    near.truncate(MAX_STATIONS);
    Ok(near.into_iter().map(|(_, station)| station).collect())
}

/// Sends `cmd/pull`. A broker that is not there is no fault of the reporter's: the report stands, and
/// the station is told to have been asked only when it was.
async fn ask(api: &Api, caller: &Caller, pull: &PullRow) -> Result<(), Problem> {
    let (from, to) = (rfc3339(pull.from_us), rfc3339(pull.until_us));
    let command = PullCommand { id: pull.id, from, to };
    let payload = json!({ "from": command.from, "to": command.to }).to_string();
    let now_us = api.clock.now_us();
    let row = command_row(pull.id, pull.device_id, "pull".into(), payload, caller, now_us);
    api.store.note_command(row).await?;
    let topic = Topic::Command(&pull.site_id, DeviceId(pull.device_id), "pull").to_string();
    let message = serde_json::to_value(&command).map_err(|error| Problem::internal(&error))?;
    match deliver(api, &topic, &message).await {
        Ok(()) => api.store.command_sent(pull.id, api.clock.now_us()).await?,
        Err(_) => warn!(station = %pull.device_id, "the broker did not take a request for sound"),
    }
    Ok(())
}

/// Reports of shots that no station told of, newest first
#[utoipa::path(
    get,
    path = "/api/v1/missed-shots",
    operation_id = "missed_shots",
    tag = "learning",
    params(PageQuery),
    responses((status = 200, body = Page<MissedShotDocument>))
)]
pub(super) async fn reports(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<PageQuery>, QueryRejection>,
) -> Result<Json<Page<MissedShotDocument>>, Problem> {
    let Query(query) = query.map_err(|error| Problem::bad_request(error.body_text()))?;
    let limit = limit(query.limit.as_deref())?;
    let after = query.cursor.as_deref().map(cursor).transpose()?;
    let rows = api.store.missed_shots(after, i64::from(limit) + 1).await?;
    let mut shown = Vec::new();
    for row in rows {
        let pulls = api.store.pulls(row.id).await?;
        shown.push((row, pulls));
    }
    // The page is cut by what there is; of that the caller sees what is of their sites.
    let page: Page<(MissedShotRow, Vec<PullRow>)> = Page::of(shown, limit, |(row, _)| row.cursor());
    let (items, next) = page.into_parts();
    let items = items
        .into_iter()
        .map(|(row, pulls)| MissedShotDocument::new(row, pulls, &caller))
        .filter(|report| caller.sites().is_none() || !report.stations.is_empty())
        .collect();
    Ok(Json(Page::from_parts(items, next)))
}

/// What a person hears in the recording.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PullVerdict {
    /// Whether the shot is in it.
    heard: bool,
    /// What is heard; `gun_shot` if nothing is said.
    class: Option<String>,
    /// Where in the recording, seconds: what is around it becomes the sample. Without it the whole
    /// recording does.
    at_s: Option<f64>,
}

/// Says whether the shot is in a recording that a station was asked for
///
/// If it is, the recording becomes a sample: the hardest there is, one that every model missed.
#[utoipa::path(
    put,
    path = "/api/v1/missed-shots/{id}/verdict",
    operation_id = "judge_missed_shot",
    tag = "learning",
    params(("id" = Uuid, Path, description = "Of the recording, as the report lists it")),
    request_body = PullVerdict,
    responses(
        (status = 200, body = PullDocument),
        (status = 404, description = "No station was asked under this id"),
        (status = 409, description = "The recording has not come yet"),
        (status = 422, description = "Cannot be said so"),
    )
)]
pub(super) async fn judge(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Path(text): Path<String>,
    body: Result<Json<PullVerdict>, JsonRejection>,
) -> Result<Json<PullDocument>, Problem> {
    let Json(body) = body.map_err(|error| Problem::of_json(&error))?;
    let missing = || Problem::not_found(format!("No station was asked for anything as {text}."));
    let pull = api.store.pull(id("id", &text)?).await?;
    let pull = pull.filter(|pull| caller.sees(&pull.site_id)).ok_or_else(missing)?;
    let clip = api.store.clip(pull.id).await?;
    let clip = clip.filter(|clip| clip.status() == ClipStatus::Stored).ok_or_else(|| {
        Problem::new(
            StatusCode::CONFLICT,
            "The recording has not come yet; nobody can have heard it.",
        )
    })?;
    let heard = match body.heard {
        false => None,
        true => {
            let class = checked_name("class", body.class.as_deref().unwrap_or("gun_shot"))?;
            let duration_s = clip.duration_ms as f64 / 1_000.0;
            if let Some(at_s) = body.at_s
                && !(0.0..=duration_s).contains(&at_s)
            {
                return Err(unprocessable(format!("at_s: from 0 to {duration_s}.")));
            }
            let path = api.clips.path(&clip);
            let at_s = body.at_s;
            let cut = tokio::task::spawn_blocking(move || {
                let sound = crate::picture::sound(&path)?;
                Ok::<_, crate::picture::PictureError>(wav(around(&sound, at_s)))
            });
            let file = cut.await.map_err(|error| Problem::internal(&error))?;
            let new = NewSample {
                file: file.map_err(|error| Problem::internal(&error))?,
                file_name: format!("missed-{}.wav", pull.id),
                class: class.clone(),
                group: Some(group_of(pull.device_id, pull.from_us)),
                origin: Some(Origin {
                    event: None,
                    site: pull.site_id.clone(),
                    device: pull.device_id,
                }),
                source: None,
                licence: None,
                verifier: Some(caller.actor()),
            };
            Some((class, api.samples.keep(new).await?.0.id))
        }
    };
    // Another mark, or another mind: what was made of it before goes.
    if let Some(before) = pull.sample_id
        && heard.as_ref().is_none_or(|(_, sample)| *sample != before)
    {
        api.samples.forget(before).await?;
    }
    let detail = if body.heard { "heard" } else { "not heard" };
    log(&api, caller.actor(), "missed-shot.verdict", &text, detail.into()).await?;
    api.store.judge_pull(pull.id, heard, caller.actor(), api.clock.now_us()).await?;
    Ok(Json(api.store.pull(pull.id).await?.ok_or_else(missing)?.into()))
}

fn around(sound: &[f32], at_s: Option<f64>) -> &[f32] {
    let Some(at_s) = at_s else { return sound };
    let place = |s: f64| (s.max(0.0) * f64::from(ecosight_models::SAMPLE_RATE_HZ)) as usize;
    let end = place(at_s + SAMPLE_AROUND_S).min(sound.len());
    &sound[place(at_s - SAMPLE_AROUND_S).min(end)..end]
}

#[cfg(test)]
mod tests {
    use super::{around, distance_m};

    #[test]
    fn metres_are_those_of_the_earth() {
        // A degree of latitude is 111.2 km; of longitude at 60° half that.
        assert!((distance_m((0.0, 36.0), (1.0, 36.0)) - 111_195.0).abs() < 10.0);
        assert!((distance_m((60.0, 0.0), (60.0, 1.0)) - 55_597.0).abs() < 20.0);
        assert_eq!(distance_m((-1.5, 36.2), (-1.5, 36.2)), 0.0);
    }

    #[test]
    fn what_is_around_a_mark_is_cut_at_the_ends() {
        let sound = vec![0.0; 60 * 16_000];
        assert_eq!(around(&sound, None).len(), sound.len());
        assert_eq!(around(&sound, Some(30.0)).len(), 160_000);
        assert_eq!(around(&sound, Some(0.0)).len(), 80_000);
        assert_eq!(around(&sound, Some(60.0)).len(), 80_000);
        assert_eq!(around(&sound[..100], Some(30.0)).len(), 0);
    }
}
