//! Path: deliveries → **decode** → batch
//!
//! What is wrong with a payload is found here, so that the database never refuses a whole batch for
//! one of its messages: a number that is none, a text with a NUL, a record in another station's name.

use std::collections::BTreeMap;

use ecosight_shared::json::{
    self, ActiveModel, CommandReply, ConnectionState, ModelInfo, StatusDocument, UpdateDocument,
};
use ecosight_shared::{
    Alert, CLASS_NAME_MAX_LEN, Detection, DeviceId, Envelope, EventId, Flags, Header, Message,
    ModelTag, SLUG_MAX_LEN, Slug, Telemetry, TimeQuality, Topic,
};
use uuid::Uuid;

use crate::clock::parse_rfc3339;
use crate::link::Delivery;
use crate::store::{
    Batch, CommandAnswer, Content, EventDraft, Refused, StationStatus, StoredRecord, UpdateReport,
};

/// Longest free text in a status document, in bytes.
const TEXT_MAX_LEN: usize = 128;
/// Longest sentence in which a station says why.
const REASON_MAX_LEN: usize = 1_024;
const CLASSES_MAX_LEN: usize = 256;
const STATUS_MAX_BYTES: usize = 64 * 1024;
/// Bytes of a bad payload that are kept.
const KEPT_BYTES: usize = 4 * 1024;
/// A clock that is ahead by more than this is not believed.
const AHEAD_LIMIT_US: i64 = 24 * 3_600 * 1_000_000;
/// 2020-01-01: no station recorded before; a clock that says so was never set.
const EARLIEST_US: i64 = 1_577_836_800_000_000;

/// A batch, and what stations are to be told once it is stored.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Decoded {
    pub(super) batch: Batch,
    /// Records (boot, seq) by site and station.
    pub(super) receipts: BTreeMap<(String, DeviceId), Vec<(u32, u32)>>,
}

/// Why a payload is no record. `record` names one that can be told apart all the same: it is set
/// aside for good, and its station may forget it.
struct Fault {
    reason: String,
    record: Option<(String, Header)>,
}

/// Takes deliveries apart, in their order.
pub(super) fn decode(deliveries: &[Delivery], received_us: i64) -> Decoded {
    let mut decoded =
        Decoded { batch: Batch { received_us, ..Batch::default() }, ..Decoded::default() };
    for delivery in deliveries {
        let topic = delivery.topic.as_deref().unwrap_or("");
        let result = match Topic::parse(topic) {
            Ok(Topic::Up(site, device)) => record(site, device, &delivery.payload, received_us)
                .map(|record| {
                    decoded.owe(site, record.id.device, (record.id.boot, record.id.seq));
                    decoded.batch.records.push(record);
                }),
            Ok(Topic::Status(site, device)) => status(site, device, &delivery.payload)
                .map(|status| decoded.batch.statuses.extend(status)),
            Ok(Topic::Reply(_, device)) => {
                answer(device, &delivery.payload).map(|answer| decoded.batch.answers.extend(answer))
            }
            Ok(Topic::Update(site, device)) => update(site, device, &delivery.payload)
                .map(|update| decoded.batch.updates.extend(update)),
            _ => Err(Fault::unknown("not a topic that a station sends on")),
        };
        if let Err(fault) = result {
            if let Some((site, header)) = &fault.record {
                let id = header.record;
                decoded.owe(site, id.device, (id.boot, id.seq));
            }
            decoded.batch.refused.push(refused(topic, fault.reason, &delivery.payload));
        }
    }
    decoded
}

/// A payload as it is set aside. Topics and reasons are texts from outside: a NUL in them would make
/// the database refuse the note itself.
pub(super) fn refused(topic: &str, reason: String, payload: &[u8]) -> Refused {
    let kept = &payload[..payload.len().min(KEPT_BYTES)];
    Refused { topic: topic.replace('\0', "?"), reason, payload: kept.to_vec() }
}

impl Decoded {
    fn owe(&mut self, site: &str, device: DeviceId, record: (u32, u32)) {
        self.receipts.entry((site.to_owned(), device)).or_default().push(record);
    }
}

fn record(
    site: &str,
    device: DeviceId,
    payload: &[u8],
    received_us: i64,
) -> Result<StoredRecord, Fault> {
    let Envelope { header, message } =
        Envelope::decode(payload).map_err(|error| Fault::unknown(&error.to_string()))?;
    let id = header.record;
    if id.device != device {
        // Not the sender's to give: no receipt in another station's name.
        return Err(Fault::unknown(&format!("the record is of station {}", id.device)));
    }
    let known = |reason: String| Fault { reason, record: Some((site.to_owned(), header)) };
    let (kind, content) = match message {
        Message::Alert(alert) => {
            ("alert", Content::Event(alert_draft(site, &header, &alert, received_us)))
        }
        Message::Detection(detection) => {
            let draft = detection_draft(site, &header, &detection, received_us).map_err(known)?;
            ("detection", Content::Event(draft))
        }
        Message::Telemetry(telemetry) => {
            ("telemetry", Content::Telemetry(checked(telemetry).map_err(known)?))
        }
        Message::Receipt(_) => {
            return Err(known("a receipt goes to stations, not from them".into()));
        }
    };
    Ok(StoredRecord {
        id,
        site: site.to_owned(),
        kind,
        unix_us: header.unix_us,
        time_quality: header.time_quality,
        content,
    })
}

fn alert_draft(site: &str, header: &Header, alert: &Alert, received_us: i64) -> EventDraft {
    EventDraft {
        id: EventId::of(header.record, header.unix_us).0,
        device: header.record.device.0,
        site: site.to_owned(),
        class: None,
        class_index: Some(alert.class),
        alert: true,
        canary: alert.flags.contains(Flags::CANARY),
        flags: alert.flags.0,
        complete: false,
        score: f64::from(alert.score) / 255.0,
        onset_us: header.unix_us,
        time_quality: header.time_quality,
        listed_us: listed_us(header, received_us),
        duration_ms: None,
        decided_after_ms: None,
        windows: u16::from(alert.windows),
        level_dbfs: f64::from(alert.level_dbfs),
        noise_floor_dbfs: None,
        scores: None,
        model_tag: alert.model.to_string(),
        clip: None,
    }
}

fn detection_draft(
    site: &str,
    header: &Header,
    detection: &Detection,
    received_us: i64,
) -> Result<EventDraft, String> {
    let Detection { score, level_dbfs, noise_floor_dbfs, .. } = *detection;
    if !(0.0..=1.0).contains(&score) {
        return Err(format!("a score of {score} is not between 0 and 1"));
    }
    finite("level", level_dbfs)?;
    finite("noise floor", noise_floor_dbfs)?;
    class_name(&detection.class)?;
    Ok(EventDraft {
        id: detection.event.0,
        device: header.record.device.0,
        site: site.to_owned(),
        class: Some(detection.class.as_str().to_owned()),
        class_index: None,
        // An event that was alerted of has its id from the alert's record, any other from its own.
        alert: detection.event != EventId::of(header.record, header.unix_us)
            && !detection.flags.contains(Flags::TIME_CORRECTED),
        canary: detection.flags.contains(Flags::CANARY),
        flags: detection.flags.0,
        complete: true,
        score: f64::from(score),
        onset_us: header.unix_us,
        time_quality: header.time_quality,
        listed_us: listed_us(header, received_us),
        duration_ms: Some(detection.duration_ms),
        decided_after_ms: Some(detection.decided_after_ms),
        windows: detection.windows,
        level_dbfs: f64::from(level_dbfs),
        noise_floor_dbfs: Some(f64::from(noise_floor_dbfs)),
        scores: (!detection.scores.is_empty()).then(|| detection.scores.to_vec()),
        model_tag: detection.model.to_string(),
        clip: detection.clip,
    })
}

/// Where an event stands in lists: at its onset, unless the station's clock was never set or runs far
/// ahead. Then it stands at its arrival, where somebody will see it.
fn listed_us(header: &Header, received_us: i64) -> i64 {
    let believed = header.time_quality != TimeQuality::Unknown
        && (EARLIEST_US..=received_us.saturating_add(AHEAD_LIMIT_US)).contains(&header.unix_us);
    if believed { header.unix_us } else { received_us }
}

fn checked(telemetry: Telemetry) -> Result<Telemetry, String> {
    finite("noise floor", telemetry.noise_floor_dbfs)?;
    Ok(telemetry)
}

fn finite(what: &str, value: f32) -> Result<(), String> {
    if value.is_finite() { Ok(()) } else { Err(format!("a {what} of {value} is no level")) }
}

/// A class becomes a level of a topic.
fn class_name(name: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ' ');
    if (1..=CLASS_NAME_MAX_LEN).contains(&name.len()) && name.chars().all(allowed) {
        Ok(())
    } else {
        Err(format!("{name:?} is no class name"))
    }
}

/// An empty payload takes a retained status away, and says nothing.
fn status(site: &str, device: DeviceId, payload: &[u8]) -> Result<Option<StationStatus>, Fault> {
    if payload.is_empty() {
        return Ok(None);
    }
    if payload.len() > STATUS_MAX_BYTES {
        return Err(Fault::unknown("the status is too long"));
    }
    let document: json::StationStatus = serde_json::from_slice(payload)
        .map_err(|error| Fault::unknown(&format!("the status is not as it should be: {error}")))?;
    let json::StationStatus { status, health } = document;
    let mut status =
        checked_status(site, device, status).map_err(|reason| Fault::unknown(&reason))?;
    // Written anew: what nobody knows of, and a NUL, does not get into the database. One that is too
    // long is no reason to doubt the rest.
    status.health = health
        .and_then(|health| serde_json::to_string(&health).ok())
        .map(|health| health.replace("\\u0000", "?"))
        .filter(|health| health.len() <= KEPT_BYTES);
    Ok(Some(status))
}

/// An answer to a command that had no id that could be read answers nothing.
fn answer(device: DeviceId, payload: &[u8]) -> Result<Option<CommandAnswer>, Fault> {
    if payload.len() > KEPT_BYTES {
        return Err(Fault::unknown("the answer is too long"));
    }
    let reply: CommandReply = serde_json::from_slice(payload)
        .map_err(|error| Fault::unknown(&format!("the answer is not as it should be: {error}")))?;
    let Ok(id) = Uuid::try_parse(&reply.id) else { return Ok(None) };
    // Written anew: what nobody knows of, and a NUL, does not get into the database.
    let answer = serde_json::to_string(&reply).unwrap_or_default().replace("\\u0000", "?");
    Ok(Some(CommandAnswer { id, device: device.0, answer }))
}

fn checked_status(
    site: &str,
    device: DeviceId,
    document: StatusDocument,
) -> Result<StationStatus, String> {
    let StatusDocument {
        schema,
        state,
        device_id,
        device_name,
        agent_version,
        model,
        location,
        ..
    } = document;
    if schema != StatusDocument::SCHEMA {
        return Err(format!("schema {schema:?} is not {}", StatusDocument::SCHEMA));
    }
    if device_id != device.0 {
        return Err(format!("the status is of station {device_id}"));
    }
    if !Slug::is_valid(&device_name) {
        return Err(format!(
            "{device_name:?} is no station's name (1 to {SLUG_MAX_LEN} of a-z, 0-9 and '-')"
        ));
    }
    let ModelInfo { name, version, tag, classes } = model;
    for text in [&name, &version, &agent_version] {
        if !is_plain(text, TEXT_MAX_LEN) {
            return Err(format!("{text:?} is too long or no plain text"));
        }
    }
    let tag: ModelTag = tag.parse().map_err(|error| format!("model tag {tag:?}: {error}"))?;
    if classes.len() > CLASSES_MAX_LEN {
        return Err(format!("{} classes are too many", classes.len()));
    }
    classes.iter().try_for_each(|class| class_name(class))?;
    if let Some(place) = location
        && !((-90.0..=90.0).contains(&place.lat) && (-180.0..=180.0).contains(&place.lon))
    {
        return Err(format!("{}, {} is no place on Earth", place.lat, place.lon));
    }
    Ok(StationStatus {
        device: device.0,
        site: site.to_owned(),
        name: device_name,
        online: state == ConnectionState::Online,
        agent_version,
        model_tag: tag.to_string(),
        model_name: name,
        model_version: version,
        classes,
        location: location.map(|place| (place.lat, place.lon, place.uncertainty_m)),
        health: None,
    })
}

/// An empty payload takes a retained word away, and says nothing.
fn update(site: &str, device: DeviceId, payload: &[u8]) -> Result<Option<UpdateReport>, Fault> {
    if payload.is_empty() {
        return Ok(None);
    }
    if payload.len() > STATUS_MAX_BYTES {
        return Err(Fault::unknown("the word about a release is too long"));
    }
    let document: UpdateDocument = serde_json::from_slice(payload).map_err(|error| {
        Fault::unknown(&format!("the word about a release is not as it should be: {error}"))
    })?;
    checked_update(site, device, document).map(Some).map_err(|reason| Fault::unknown(&reason))
}

fn checked_update(
    site: &str,
    device: DeviceId,
    document: UpdateDocument,
) -> Result<UpdateReport, String> {
    if document.v != UpdateDocument::VERSION {
        return Err(format!("version {} is not {}", document.v, UpdateDocument::VERSION));
    }
    if document.device != device.0 {
        return Err(format!("the word is of station {}", document.device));
    }
    let ActiveModel { name, version, tag } = document.active;
    let code = document.code.unwrap_or_default();
    let reason = document.reason.unwrap_or_default();
    let short = [&document.release, &document.manifest, &name, &version, &tag, &code];
    if let Some(text) = short.into_iter().find(|text| !is_plain(text, TEXT_MAX_LEN)) {
        return Err(format!("{text:?} is too long or no plain text"));
    }
    if !is_plain(&reason, REASON_MAX_LEN) {
        return Err("the reason is too long or no plain text".into());
    }
    let at_us = parse_rfc3339(&document.at)
        .ok_or_else(|| format!("{:?} is no time such as 2026-03-01T18:00:00Z", document.at))?;
    let trial = document.trial.and_then(|trial| serde_json::to_string(&trial).ok());
    let said = |text: String| (!text.is_empty()).then_some(text);
    Ok(UpdateReport {
        device_id: device.0,
        site_id: site.to_owned(),
        release: document.release,
        manifest_sha256: document.manifest,
        counter: document.counter.map(|counter| i64::try_from(counter).unwrap_or(i64::MAX)),
        step: document.step.name().to_owned(),
        code: said(code),
        reason: said(reason),
        at_us,
        active_name: name,
        active_version: version,
        active_tag: tag,
        trial,
    })
}

fn is_plain(text: &str, max_len: usize) -> bool {
    text.len() <= max_len && !text.chars().any(char::is_control)
}

impl Fault {
    fn unknown(reason: &str) -> Self {
        Self { reason: reason.to_owned(), record: None }
    }
}

/// The stations that a batch told something about.
pub(super) fn stations(batch: &Batch) -> Vec<Uuid> {
    let told = batch.statuses.iter().map(|status| status.device);
    let telemetry = batch.records.iter().filter(|record| record.kind == "telemetry");
    let mut stations: Vec<Uuid> = told.chain(telemetry.map(|record| record.id.device.0)).collect();
    stations.sort_unstable();
    stations.dedup();
    stations
}
