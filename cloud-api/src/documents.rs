//! Events and stations as JSON: what the API and the live stream show.

use std::collections::BTreeMap;

use ecosight_shared::json::StationHealth;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::access::Caller;
use crate::alerts::UNKNOWN_CLASS;
use crate::clock::rfc3339;
use crate::store::{DeviceRow, EventRow, TelemetryRow};

/// A station that says it is online and has been silent for longer is not taken at its word: it
/// reports every minute.
const SILENCE_LIMIT_US: i64 = 180 * 1_000_000;

/// A class list may be as long as its bundle likes; scores are in 1/255.
const SCORE_SCALE: f64 = 255.0;

/// An event.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EventDocument {
    id: Uuid,
    device_id: Uuid,
    device_name: Option<String>,
    site_id: String,
    class: String,
    alert: bool,
    canary: bool,
    score: f64,
    time: String,
    time_quality: String,
    /// By the station's clock when it was heard, where that clock was put right before the event was
    /// sent: `time` is the better one.
    #[serde(skip_serializing_if = "Option::is_none")]
    recorded_time: Option<String>,
    received_at: String,
    duration_ms: Option<i64>,
    decided_after_ms: Option<i64>,
    windows: i64,
    level_dbfs: f64,
    noise_floor_dbfs: Option<f64>,
    scores: Option<BTreeMap<String, f64>>,
    model: ModelDocument,
    /// `open`, or `acknowledged` once somebody took the alert.
    state: String,
    /// Who took it; `null` if nobody did.
    acknowledged: Option<AcknowledgementDocument>,
    location: Option<LocationDocument>,
    clip: Option<ClipDocument>,
    /// What a person said of it; `null` if nobody did.
    verdict: Option<EventVerdict>,
}

/// Who took an alert.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct AcknowledgementDocument {
    by: String,
    at: String,
}

/// What a person said of an event.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct EventVerdict {
    /// `confirmed`, `rejected` or `relabelled`.
    verdict: String,
    /// What a false alarm was.
    cause: Option<String>,
    /// What it is, where it was relabelled.
    class: Option<String>,
    note: Option<String>,
    /// Who.
    by: String,
    at: String,
}

/// A station.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct DeviceDocument {
    id: Uuid,
    name: String,
    site_id: String,
    state: &'static str,
    last_seen: String,
    agent_version: Option<String>,
    model: Option<ModelDocument>,
    location: Option<LocationDocument>,
    telemetry: Option<TelemetryDocument>,
    health: Option<HealthDocument>,
}

/// How a station said it is when it last told.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct HealthDocument {
    /// When the whole path from sound to the server's receipt was last proved.
    last_verified: Option<String>,
    /// What is wrong with its sound; empty if nothing is.
    source_faults: Vec<String>,
    time_quality: String,
    clock_offset_ms: Option<f64>,
    /// What the last canary scored, and what an alarm needs.
    canary_score: Option<f32>,
    canary_threshold: Option<f32>,
    /// What holds its processor back now, e.g. `under-voltage`; empty also where it cannot tell.
    power_limits: Vec<String>,
    supply_v: Option<f32>,
    /// What it lost since its start, by name.
    losses: BTreeMap<String, u64>,
}

/// A model.
#[derive(Clone, Debug, Serialize, ToSchema)]
struct ModelDocument {
    name: String,
    version: String,
    tag: String,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct LocationDocument {
    lat: f64,
    lon: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    uncertainty_m: Option<f64>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
struct ClipDocument {
    id: Uuid,
    url: String,
    status: String,
    bytes: i64,
    duration_s: f64,
    format: String,
    sha256: String,
}

/// One minute's telemetry.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TelemetryDocument {
    time: String,
    uptime_s: i64,
    windows: i64,
    inference_p50_us: i64,
    inference_p99_us: i64,
    dropped_samples: i64,
    gaps: i64,
    outbox_records: i64,
    outbox_oldest_s: i64,
    clips_pending: i64,
    disk_free_mib: i64,
    cpu_temperature_c: Option<f64>,
    noise_floor_dbfs: f64,
    source: String,
}

impl From<EventRow> for EventDocument {
    fn from(row: EventRow) -> Self {
        let scores = scores(row.scores.as_deref(), row.model_classes.as_deref());
        let clip = row.clip_status.zip(row.clip_sha256).map(|(status, sha256)| ClipDocument {
            id: row.id,
            url: format!("/api/v1/clips/{}/data", row.id),
            status,
            bytes: row.clip_bytes.unwrap_or_default(),
            duration_s: row.clip_duration_ms.unwrap_or_default() as f64 / 1_000.0,
            format: row.clip_format.unwrap_or_default(),
            sha256,
        });
        let verdict = row.verdict.map(|verdict| EventVerdict {
            verdict,
            cause: row.verdict_cause,
            class: row.verdict_class,
            note: row.verdict_note,
            by: row.verdict_by.unwrap_or_default(),
            at: rfc3339(row.verdict_us.unwrap_or_default()),
        });
        let acknowledged = row.acknowledged_by.zip(row.acknowledged_us);
        let acknowledged =
            acknowledged.map(|(by, us)| AcknowledgementDocument { by, at: rfc3339(us) });
        Self {
            verdict,
            acknowledged,
            id: row.id,
            device_id: row.device_id,
            device_name: row.device_name,
            site_id: row.site_id,
            class: row.class.unwrap_or_else(|| UNKNOWN_CLASS.into()),
            alert: row.alert,
            canary: row.canary,
            score: row.score,
            time: rfc3339(row.onset_us),
            time_quality: row.time_quality,
            recorded_time: recorded_us(row.id, row.onset_us).map(rfc3339),
            received_at: rfc3339(row.received_us),
            duration_ms: row.duration_ms,
            decided_after_ms: row.decided_after_ms,
            windows: row.windows,
            level_dbfs: row.level_dbfs,
            noise_floor_dbfs: row.noise_floor_dbfs,
            scores,
            model: ModelDocument {
                name: row.model_name.unwrap_or_default(),
                version: row.model_version.unwrap_or_default(),
                tag: row.model_tag,
            },
            state: row.state,
            location: location(row.latitude, row.longitude, row.uncertainty_m),
            clip,
        }
    }
}

/// The time that the event's id was made from, where that is not its onset any more.
fn recorded_us(id: Uuid, onset_us: i64) -> Option<i64> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    let at_us = i64::try_from(seconds).ok()? * 1_000_000 + i64::from(nanos / 1_000);
    (at_us != onset_us.div_euclid(1_000) * 1_000).then_some(at_us)
}

/// Scores by class, where there are as many as the model has classes.
fn scores(scores: Option<&str>, classes: Option<&str>) -> Option<BTreeMap<String, f64>> {
    let scores: Vec<u8> = serde_json::from_str(scores?).ok()?;
    let classes: Vec<String> = serde_json::from_str(classes?).ok()?;
    if scores.len() != classes.len() {
        return None;
    }
    let named = classes.into_iter().zip(scores);
    Some(named.map(|(class, score)| (class, f64::from(score) / SCORE_SCALE)).collect())
}

/// Positions for those who may not know exactly: a tenth of a degree is 11 km.
const BLUR_DEG: f64 = 0.1;
const BLUR_M: f64 = 10_000.0;

/// A latitude or longitude as vague as that.
pub(crate) fn vague_deg(deg: f64) -> f64 {
    (deg / BLUR_DEG).round() * BLUR_DEG
}

fn blurred(location: Option<LocationDocument>) -> Option<LocationDocument> {
    location.map(|LocationDocument { lat, lon, .. }| LocationDocument {
        lat: vague_deg(lat),
        lon: vague_deg(lon),
        uncertainty_m: Some(BLUR_M),
    })
}

impl EventDocument {
    /// The event as the caller may see it.
    #[must_use]
    pub fn shown_to(mut self, caller: &Caller) -> Self {
        if !caller.sees_positions() {
            self.location = blurred(self.location);
        }
        self
    }
}

fn location(lat: Option<f64>, lon: Option<f64>, radius: Option<f64>) -> Option<LocationDocument> {
    let (lat, lon) = lat.zip(lon)?;
    Some(LocationDocument { lat, lon, uncertainty_m: radius })
}

impl DeviceDocument {
    /// The station as it is at `now_us`.
    #[must_use]
    pub fn new(row: DeviceRow, telemetry: Option<TelemetryRow>, now_us: i64) -> Self {
        let silent = now_us.saturating_sub(row.last_seen_us) > SILENCE_LIMIT_US;
        let state = match row.state.as_str() {
            "online" if !silent => "online",
            "offline" => "offline",
            _ => "unknown",
        };
        let model = row.model_tag.map(|tag| ModelDocument {
            name: row.model_name.unwrap_or_default(),
            version: row.model_version.unwrap_or_default(),
            tag,
        });
        Self {
            id: row.id,
            name: row.name,
            site_id: row.site_id,
            state,
            last_seen: rfc3339(row.last_seen_us),
            agent_version: row.agent_version,
            model,
            location: location(row.latitude, row.longitude, row.uncertainty_m),
            telemetry: telemetry.map(TelemetryDocument::from),
            health: row.health.and_then(|json| serde_json::from_str(&json).ok()).map(health),
        }
    }
}

fn health(health: StationHealth) -> HealthDocument {
    let losses = serde_json::to_value(&health.losses).and_then(serde_json::from_value);
    let (power_limits, supply_v) =
        health.power.map(|power| (power.limits, power.supply_v)).unwrap_or_default();
    HealthDocument {
        last_verified: health.last_verified,
        source_faults: health.source_faults,
        time_quality: health.time_quality,
        clock_offset_ms: health.clock_offset_ms,
        canary_score: health.canary.as_ref().map(|canary| canary.score),
        canary_threshold: health.canary.map(|canary| canary.threshold),
        power_limits,
        supply_v,
        losses: losses.unwrap_or_default(),
    }
}

impl DeviceDocument {
    /// The station as the caller may see it.
    #[must_use]
    pub fn shown_to(mut self, caller: &Caller) -> Self {
        if !caller.sees_positions() {
            self.location = blurred(self.location);
        }
        self
    }
}

/// Makes what an event or a station says of its place as vague as the caller may know it. `None` if
/// its site is not the caller's to see.
#[must_use]
pub fn json_shown_to(json: &str, caller: &Caller) -> Option<String> {
    let mut document: serde_json::Value = serde_json::from_str(json).ok()?;
    if !document["site_id"].as_str().is_some_and(|site| caller.sees(site)) {
        return None;
    }
    let place = document["location"]["lat"].as_f64().zip(document["location"]["lon"].as_f64());
    if let (Some((lat, lon)), false) = (place, caller.sees_positions()) {
        let vague = blurred(Some(LocationDocument { lat, lon, uncertainty_m: None }));
        document["location"] = serde_json::to_value(vague).ok()?;
    }
    Some(document.to_string())
}

impl From<TelemetryRow> for TelemetryDocument {
    fn from(row: TelemetryRow) -> Self {
        Self {
            time: rfc3339(row.unix_us),
            uptime_s: row.uptime_s,
            windows: row.windows,
            inference_p50_us: row.inference_p50_us,
            inference_p99_us: row.inference_p99_us,
            dropped_samples: row.dropped_samples,
            gaps: row.gaps,
            outbox_records: row.outbox_records,
            outbox_oldest_s: row.outbox_oldest_s,
            clips_pending: row.clips_pending,
            disk_free_mib: row.disk_free_mib,
            cpu_temperature_c: row.cpu_temperature_c,
            noise_floor_dbfs: row.noise_floor_dbfs,
            source: row.source,
        }
    }
}
