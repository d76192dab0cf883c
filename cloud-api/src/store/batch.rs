//! One batch of what stations sent, stored in one transaction.

use std::collections::{BTreeMap, HashSet};

use ecosight_shared::{ClipRef, RecordId, Telemetry, TimeQuality};
use sqlx::QueryBuilder;
use uuid::Uuid;

use super::bulk::{Bulk, Key, ROWS};
use super::devices::UPSERT_MODEL;
use super::hex;
use super::updates::{UpdateReport, note_updates};
use super::upkeep::QUARANTINE_LIMIT;
use super::{Store, StoreError, writing};

/// What came in, decoded and checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    /// Records, in the order of their arrival.
    pub records: Vec<StoredRecord>,
    /// Words of stations about themselves, in the order of their arrival.
    pub statuses: Vec<StationStatus>,
    /// Answers of stations to commands.
    pub answers: Vec<CommandAnswer>,
    /// Words of stations about releases, in the order of their arrival.
    pub updates: Vec<UpdateReport>,
    /// Payloads that are none of these.
    pub refused: Vec<Refused>,
    /// When the batch was taken, µs.
    pub received_us: i64,
}

/// What a station answers to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandAnswer {
    /// Of the command.
    pub id: Uuid,
    /// The station: nobody answers in another's name.
    pub device: Uuid,
    /// Its words, JSON.
    pub answer: String,
}

/// A record of a station.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredRecord {
    /// Which.
    pub id: RecordId,
    /// Site of the topic it came on.
    pub site: String,
    /// Word for its kind.
    pub kind: &'static str,
    /// Time in its header.
    pub unix_us: i64,
    /// Quality of that time.
    pub time_quality: TimeQuality,
    /// What it says.
    pub content: Content,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Something about an event.
    Event(EventDraft),
    /// How the station is.
    Telemetry(Telemetry),
}

/// What one record says about an event: an alert knows less than a detection.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the columns of the table events")]
pub struct EventDraft {
    pub id: Uuid,
    pub device: Uuid,
    pub site: String,
    pub class: Option<String>,
    pub class_index: Option<u8>,
    pub alert: bool,
    pub canary: bool,
    pub flags: u8,
    pub complete: bool,
    pub score: f64,
    pub onset_us: i64,
    pub time_quality: TimeQuality,
    pub listed_us: i64,
    pub duration_ms: Option<u32>,
    pub decided_after_ms: Option<u32>,
    pub windows: u16,
    pub level_dbfs: f64,
    pub noise_floor_dbfs: Option<f64>,
    pub scores: Option<Vec<u8>>,
    pub model_tag: String,
    pub clip: Option<ClipRef>,
}

/// A station's status document.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the fields are those of the document")]
pub struct StationStatus {
    pub device: Uuid,
    pub site: String,
    pub name: String,
    pub online: bool,
    pub agent_version: String,
    pub model_tag: String,
    pub model_name: String,
    pub model_version: String,
    pub classes: Vec<String>,
    pub location: Option<(f64, f64, Option<f32>)>,
    /// `StationHealth` in JSON; absent in a last will.
    pub health: Option<String>,
}

/// A payload that is no record, kept aside for a person to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The topic it came on.
    pub topic: String,
    /// Why it is none.
    pub reason: String,
    /// Its bytes.
    pub payload: Vec<u8>,
}

/// What a batch changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Records that were not there before.
    pub fresh: usize,
    /// Events that rangers must now be told of.
    pub alerts: Vec<Uuid>,
    /// Other events that are new or now complete.
    pub events: Vec<Uuid>,
    /// Stations that were heard from.
    pub devices: Vec<Uuid>,
    /// Whether a station said something new of a release.
    pub updates: bool,
}

impl Store {
    /// Stores a batch, all or nothing. Repeating it changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: repeat it later. [`StoreError::Refused`]: something in it can
    /// never be stored; try its parts one by one.
    pub async fn commit(&self, batch: Batch) -> Result<Committed, StoreError> {
        let received_us = batch.received_us;
        writing!(self, |tx| {
            for CommandAnswer { id, device, answer } in &batch.answers {
                sqlx::query(
                    "UPDATE commands SET answered_us = $3, answer = $4 \
                     WHERE id = $1 AND device_id = $2",
                )
                .bind(*id)
                .bind(*device)
                .bind(received_us)
                .bind(answer)
                .execute(&mut *tx)
                .await?;
            }
            for status in &batch.statuses {
                let classes = serde_json::Value::from(status.classes.as_slice()).to_string();
                sqlx::query(UPSERT_MODEL)
                    .bind(&status.model_tag)
                    .bind(&status.model_name)
                    .bind(&status.model_version)
                    .bind(classes)
                    .execute(&mut *tx)
                    .await?;
                name_events!(tx, status);
            }
            let devices = upsert_devices!(tx, batch, received_us);
            let updates = note_updates!(tx, batch.updates, received_us);
            let mut fresh: HashSet<RecordId> = HashSet::new();
            if !batch.records.is_empty() {
                let keys = <Db as Bulk>::insert_records(&mut *tx, &batch.records, received_us);
                fresh.extend(keys.await?.iter().map(record_id));
            }
            let is_fresh = |record: &&StoredRecord| fresh.contains(&record.id);
            insert_telemetry!(tx, batch.records.iter().filter(is_fresh), received_us);
            let mut drafts = fold(batch.records.iter().filter(is_fresh));
            resolve_classes!(tx, drafts);
            let list: Vec<EventDraft> = drafts.values().cloned().collect();
            let touched = if list.is_empty() {
                Vec::new()
            } else {
                <Db as Bulk>::join_events(&mut *tx, list, received_us).await?
            };
            let alerts = insert_notifications!(tx, touched, drafts, received_us);
            expect_clips!(tx, touched, drafts);
            quarantine!(tx, batch.refused, received_us);
            let events =
                touched.iter().map(|event| event.id).filter(|id| !alerts.contains(id)).collect();
            Committed { fresh: fresh.len(), alerts, events, devices, updates }
        })
    }
}

/// One draft for each event, what its records say put together.
fn fold<'r>(records: impl Iterator<Item = &'r StoredRecord>) -> BTreeMap<Uuid, EventDraft> {
    let mut drafts: BTreeMap<Uuid, EventDraft> = BTreeMap::new();
    for record in records {
        let Content::Event(draft) = &record.content else { continue };
        match drafts.get_mut(&draft.id) {
            None => drop(drafts.insert(draft.id, draft.clone())),
            Some(known) if known.device == draft.device => *known = joined(known, draft),
            // Another station's event under the same id is forged; the first one stands.
            Some(_) => {}
        }
    }
    drafts
}

/// What two records of one event say together, whichever came first. The statement in
/// [`Bulk::join_events`] joins a draft with a row by the same rule.
fn joined(a: &EventDraft, b: &EventDraft) -> EventDraft {
    let (base, other) = if b.complete && !a.complete { (b, a) } else { (a, b) };
    EventDraft {
        class: base.class.clone().or_else(|| other.class.clone()),
        class_index: base.class_index.or(other.class_index),
        alert: base.alert || other.alert,
        canary: base.canary || other.canary,
        listed_us: a.listed_us,
        ..base.clone()
    }
}

/// Gives a name to events whose model was not known when their alert came.
macro_rules! name_events {
    ($tx:ident, $status:ident) => {
        for (index, class) in $status.classes.iter().enumerate() {
            sqlx::query(
                "UPDATE events SET class = $1 \
                 WHERE class IS NULL AND model_tag = $2 AND class_index = $3",
            )
            .bind(class)
            .bind(&$status.model_tag)
            .bind(index as i64)
            .execute(&mut *$tx)
            .await?;
        }
    };
}

/// Notes every station of the batch; gives their ids.
macro_rules! upsert_devices {
    ($tx:ident, $batch:ident, $received_us:ident) => {{
        let records = $batch.records.iter().map(|r| (r.id.device.0, r.site.as_str()));
        let statuses = $batch.statuses.iter().map(|s| (s.device, s.site.as_str()));
        let updates = $batch.updates.iter().map(|u| (u.device_id, u.site_id.as_str()));
        let seen: BTreeMap<Uuid, &str> = records.chain(statuses).chain(updates).collect();
        let rows: Vec<(Uuid, String, String)> = seen
            .iter()
            .map(|(id, site)| (*id, (*site).to_owned(), provisional_name(*id)))
            .collect();
        if !rows.is_empty() {
            <Db as Bulk>::see_devices(&mut *$tx, rows, $received_us).await?;
        }
        for status in &$batch.statuses {
            sqlx::query(
                "UPDATE devices SET name = $2, state = $3, agent_version = $4, model_tag = $5, \
                 latitude = $6, longitude = $7, uncertainty_m = $8, \
                 health = coalesce($9, health) WHERE id = $1",
            )
            .bind(status.device)
            .bind(&status.name)
            .bind(if status.online { "online" } else { "offline" })
            .bind(&status.agent_version)
            .bind(&status.model_tag)
            .bind(status.location.map(|(latitude, _, _)| latitude))
            .bind(status.location.map(|(_, longitude, _)| longitude))
            .bind(status.location.and_then(|(_, _, radius_m)| radius_m).map(f64::from))
            .bind(&status.health)
            .execute(&mut *$tx)
            .await?;
        }
        seen.into_keys().collect::<Vec<Uuid>>()
    }};
}

/// What a station is called until it tells its name.
fn provisional_name(id: Uuid) -> String {
    format!("station-{}", &id.simple().to_string()[24..])
}

fn record_id(key: &Key) -> RecordId {
    // Both were u32 when they were written.
    RecordId {
        device: ecosight_shared::DeviceId(key.device_id),
        boot: key.boot as u32,
        seq: key.seq as u32,
    }
}

macro_rules! insert_telemetry {
    ($tx:ident, $records:expr, $received_us:ident) => {{
        let rows: Vec<(&StoredRecord, &Telemetry)> = $records
            .filter_map(|record| match &record.content {
                Content::Telemetry(telemetry) => Some((record, telemetry)),
                Content::Event(_) => None,
            })
            .collect();
        for rows in rows.chunks(ROWS) {
            let mut query = QueryBuilder::<Db>::new(
                "INSERT INTO telemetry (device_id, boot, seq, site_id, unix_us, received_us, \
                 agent_version, model_tag, uptime_s, windows, inference_p50_us, inference_p99_us, \
                 dropped_samples, gaps, outbox_records, outbox_oldest_s, outbox_dropped, \
                 clips_pending, disk_free_mib, cpu_temperature_c, noise_floor_dbfs, source) ",
            );
            query.push_values(rows, |mut row, (record, t)| {
                row.push_bind(record.id.device.0);
                row.push_bind(i64::from(record.id.boot)).push_bind(i64::from(record.id.seq));
                row.push_bind(record.site.clone()).push_bind(record.unix_us);
                row.push_bind($received_us);
                let [major, minor, patch] = t.agent;
                row.push_bind(format!("{major}.{minor}.{patch}")).push_bind(t.model.to_string());
                row.push_bind(i64::from(t.uptime_s)).push_bind(counter(t.windows));
                row.push_bind(i64::from(t.inference_p50_us));
                row.push_bind(i64::from(t.inference_p99_us));
                row.push_bind(counter(t.dropped_samples)).push_bind(i64::from(t.gaps));
                row.push_bind(i64::from(t.outbox_records));
                row.push_bind(i64::from(t.outbox_oldest_s));
                row.push_bind(i64::from(t.outbox_dropped));
                row.push_bind(i64::from(t.clips_pending)).push_bind(i64::from(t.disk_free_mib));
                row.push_bind(t.cpu_temperature_dc.map(|dc| f64::from(dc) / 10.0));
                row.push_bind(f64::from(t.noise_floor_dbfs)).push_bind(t.source.name());
            });
            query.push(" ON CONFLICT DO NOTHING");
            query.build().persistent(false).execute(&mut *$tx).await?;
        }
    }};
}

/// A count in a column of 63 bits.
fn counter(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Turns class indices into names, for models whose class list is known.
macro_rules! resolve_classes {
    ($tx:ident, $drafts:ident) => {
        let tags: HashSet<String> = $drafts
            .values()
            .filter(|draft| draft.class.is_none())
            .map(|draft| draft.model_tag.clone())
            .collect();
        for tag in tags {
            let classes: Option<(String,)> =
                sqlx::query_as("SELECT classes FROM models WHERE tag = $1")
                    .bind(&tag)
                    .fetch_optional(&mut *$tx)
                    .await?;
            let classes: Vec<String> =
                classes.and_then(|(text,)| serde_json::from_str(&text).ok()).unwrap_or_default();
            for draft in $drafts.values_mut().filter(|d| d.class.is_none() && d.model_tag == tag) {
                let index = draft.class_index.map(usize::from);
                draft.class = index.and_then(|index| classes.get(index).cloned());
            }
        }
    };
}

/// Notes alerts that rangers have not been told of; gives their events. A canary proves that a
/// station hears and is never one of them.
macro_rules! insert_notifications {
    ($tx:ident, $touched:ident, $drafts:ident, $received_us:ident) => {{
        let due: Vec<&EventDraft> = $touched
            .iter()
            .filter(|event| event.alert && !event.canary)
            .filter_map(|event| $drafts.get(&event.id))
            .collect();
        let mut alerts: Vec<Uuid> = Vec::new();
        if !due.is_empty() {
            let mut query = QueryBuilder::<Db>::new(
                "INSERT INTO notifications (event_id, site_id, created_us) ",
            );
            query.push_values(due, |mut row, draft| {
                row.push_bind(draft.id).push_bind(draft.site.clone()).push_bind($received_us);
            });
            query.push(" ON CONFLICT DO NOTHING RETURNING event_id");
            let query = query.build_query_scalar::<Uuid>().persistent(false);
            alerts = query.fetch_all(&mut *$tx).await?;
        }
        alerts
    }};
}

/// Notes the clips that detections tell of. What a station says over MQTT corrects what was declared
/// over HTTP, until the bytes are verified.
macro_rules! expect_clips {
    ($tx:ident, $touched:ident, $drafts:ident) => {
        for draft in $touched.iter().filter_map(|event| $drafts.get(&event.id)) {
            let Some(clip) = &draft.clip else { continue };
            sqlx::query(
                "INSERT INTO clips (id, site_id, device_id, sha256, bytes, duration_ms, format, \
                 status) VALUES ($1, $2, $3, $4, $5, $6, $7, 'expected') \
                 ON CONFLICT (id) DO UPDATE SET site_id = excluded.site_id, \
                 device_id = excluded.device_id, sha256 = excluded.sha256, bytes = excluded.bytes, \
                 duration_ms = excluded.duration_ms, format = excluded.format \
                 WHERE clips.status <> 'stored'",
            )
            .bind(draft.id)
            .bind(&draft.site)
            .bind(draft.device)
            .bind(hex(&clip.sha256))
            .bind(i64::from(clip.bytes))
            .bind(i64::from(clip.duration_ms))
            .bind(clip.format.extension())
            .execute(&mut *$tx)
            .await?;
        }
    };
}

macro_rules! quarantine {
    ($tx:ident, $refused:expr, $received_us:ident) => {
        for refused in &$refused {
            sqlx::query(
                "INSERT INTO quarantine (received_us, topic, reason, payload) \
                 VALUES ($1, $2, $3, $4)",
            )
            .bind($received_us)
            .bind(&refused.topic)
            .bind(&refused.reason)
            .bind(&refused.payload)
            .execute(&mut *$tx)
            .await?;
        }
        if !$refused.is_empty() {
            sqlx::query("DELETE FROM quarantine WHERE id <= (SELECT MAX(id) FROM quarantine) - $1")
                .bind(QUARANTINE_LIMIT)
                .execute(&mut *$tx)
                .await?;
        }
    };
}

use {
    expect_clips, insert_notifications, insert_telemetry, name_events, quarantine, resolve_classes,
    upsert_devices,
};
