//! Records as a station makes them, and a station that sends them.

use std::collections::BTreeSet;
use std::time::Duration;

use ecosight_cloud::store::{Batch, Content, EventDraft, StationStatus, StoredRecord};
use ecosight_shared::json::{self, ConnectionState, ModelInfo, StationHealth, StatusDocument};
use ecosight_shared::{
    Alert, ClipFormat, ClipRef, Detection, DeviceId, Envelope, EventId, Flags, Header,
    MAX_ENVELOPE_LEN, Message, ModelTag, RecordId, SourceState, Telemetry, TimeQuality, Topic,
};
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, PublishOptions, SessionMode};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

pub(crate) const SITE: &str = "ridge";
pub(crate) const MODEL: ModelTag = ModelTag([0xAB, 0xCD, 0x01, 0x02]);
pub(crate) const CLASSES: [&str; 3] = ["gun_shot", "dog", "background"];
/// 2026-03-01T18:00:00Z
pub(crate) const START_US: i64 = 1_772_388_000_000_000;
pub(crate) const RECEIVED_US: i64 = START_US + 60_000_000;

/// Station number `n`.
pub(crate) fn device(n: u8) -> DeviceId {
    DeviceId(Uuid::from_bytes([n; 16]))
}

pub(crate) fn header(device: DeviceId, seq: u32) -> Header {
    let record = RecordId { device, boot: 1, seq };
    let unix_us = START_US + i64::from(seq) * 1_000_000;
    Header { record, unix_us, time_quality: TimeQuality::Network }
}

pub(crate) fn alert(device: DeviceId, seq: u32) -> Envelope {
    let message = Alert {
        class: 0,
        score: 230,
        level_dbfs: -12,
        windows: 2,
        flags: Flags::default(),
        model: MODEL,
    };
    Envelope { header: header(device, seq), message: Message::Alert(message) }
}

/// The detection of the event whose alert has `alert_seq`, as record `seq`.
pub(crate) fn detection(device: DeviceId, alert_seq: u32, seq: u32) -> Envelope {
    let alerted = header(device, alert_seq);
    let mut header = header(device, seq);
    header.unix_us = alerted.unix_us;
    let message = Detection {
        event: EventId::of(alerted.record, alerted.unix_us),
        class: "gun_shot".try_into().unwrap(),
        model: MODEL,
        score: 0.97,
        duration_ms: 1_440,
        decided_after_ms: 1_200,
        windows: 3,
        level_dbfs: -11.5,
        noise_floor_dbfs: -55.25,
        scores: [247, 3, 5].into_iter().collect(),
        flags: Flags::default(),
        clip: Some(ClipRef {
            sha256: [seq as u8; 32],
            bytes: 4_096,
            duration_ms: 8_000,
            format: ClipFormat::Flac,
        }),
    };
    Envelope { header, message: Message::Detection(message) }
}

/// A detection that no alert announced: of a class that does not alert.
pub(crate) fn quiet_detection(device: DeviceId, seq: u32) -> Envelope {
    let mut envelope = detection(device, seq, seq);
    if let Message::Detection(detection) = &mut envelope.message {
        detection.class = "dog".try_into().unwrap();
    }
    envelope
}

pub(crate) fn telemetry(device: DeviceId, seq: u32) -> Envelope {
    let message = Telemetry {
        agent: [0, 1, 0],
        model: MODEL,
        uptime_s: seq,
        windows: 1_000,
        inference_p50_us: 4_000,
        inference_p99_us: 9_000,
        dropped_samples: 0,
        gaps: 0,
        outbox_records: 1,
        outbox_oldest_s: 0,
        outbox_dropped: 0,
        clips_pending: 0,
        disk_free_mib: 5_000,
        cpu_temperature_dc: Some(415),
        noise_floor_dbfs: -60.5,
        source: SourceState::Healthy,
    };
    Envelope { header: header(device, seq), message: Message::Telemetry(message) }
}

pub(crate) fn bytes(envelope: &Envelope) -> Vec<u8> {
    envelope.encode(&mut [0; MAX_ENVELOPE_LEN]).unwrap().to_vec()
}

pub(crate) fn status(device: DeviceId, state: ConnectionState) -> StatusDocument {
    StatusDocument {
        schema: StatusDocument::SCHEMA.into(),
        state,
        device_id: device.0,
        device_name: format!("station-{}", device.0.as_bytes()[0]),
        site_id: SITE.into(),
        time: "2026-03-01T18:00:00Z".into(),
        agent_version: "0.1.0".into(),
        model: ModelInfo {
            name: "gunshot".into(),
            version: "1".into(),
            tag: MODEL.to_string(),
            classes: CLASSES.map(str::to_owned).to_vec(),
        },
        location: None,
    }
}

/// The status as ingest gives it to the store.
pub(crate) fn stored_status(device: DeviceId) -> StationStatus {
    let StatusDocument { device_name, model, agent_version, .. } =
        status(device, ConnectionState::Online);
    StationStatus {
        device: device.0,
        site: SITE.into(),
        name: device_name,
        online: true,
        agent_version,
        model_tag: model.tag,
        model_name: model.name,
        model_version: model.version,
        classes: model.classes,
        location: Some((-1.5, 36.25, Some(10.0))),
        health: None,
    }
}

/// The record as ingest gives it to the store.
pub(crate) fn stored(envelope: &Envelope) -> StoredRecord {
    let Header { record, unix_us, time_quality } = envelope.header;
    let empty = EventDraft {
        id: EventId::of(record, unix_us).0,
        device: record.device.0,
        site: SITE.into(),
        class: None,
        class_index: None,
        alert: true,
        canary: false,
        flags: 0,
        complete: false,
        score: 0.0,
        onset_us: unix_us,
        time_quality,
        listed_us: unix_us,
        duration_ms: None,
        decided_after_ms: None,
        windows: 0,
        level_dbfs: 0.0,
        noise_floor_dbfs: None,
        scores: None,
        model_tag: MODEL.to_string(),
        clip: None,
    };
    let (kind, content) = match &envelope.message {
        Message::Alert(alert) => (
            "alert",
            Content::Event(EventDraft {
                class_index: Some(alert.class),
                canary: alert.flags.contains(Flags::CANARY),
                flags: alert.flags.0,
                score: f64::from(alert.score) / 255.0,
                windows: alert.windows.into(),
                level_dbfs: alert.level_dbfs.into(),
                ..empty
            }),
        ),
        Message::Detection(detection) => (
            "detection",
            Content::Event(EventDraft {
                id: detection.event.0,
                class: Some(detection.class.as_str().to_owned()),
                alert: detection.event != EventId::of(record, unix_us),
                canary: detection.flags.contains(Flags::CANARY),
                flags: detection.flags.0,
                complete: true,
                score: detection.score.into(),
                duration_ms: Some(detection.duration_ms),
                decided_after_ms: Some(detection.decided_after_ms),
                windows: detection.windows,
                level_dbfs: detection.level_dbfs.into(),
                noise_floor_dbfs: Some(detection.noise_floor_dbfs.into()),
                scores: Some(detection.scores.to_vec()),
                clip: detection.clip,
                ..empty
            }),
        ),
        Message::Telemetry(telemetry) => ("telemetry", Content::Telemetry(*telemetry)),
        Message::Receipt(_) => panic!("stations send no receipts"),
    };
    StoredRecord { id: record, site: SITE.into(), kind, unix_us, time_quality, content }
}

pub(crate) fn batch(envelopes: &[Envelope]) -> Batch {
    let records = envelopes.iter().map(stored).collect();
    Batch { records, received_us: RECEIVED_US, ..Batch::default() }
}

/// A station's connection: sends what it is told, keeps what it gets.
pub(crate) struct Station {
    pub(crate) client: AsyncClient,
    messages: mpsc::UnboundedReceiver<(String, Vec<u8>)>,
    task: JoinHandle<()>,
}

impl Station {
    /// Connects and subscribes; comes back by itself when the broker is gone for a while.
    pub(crate) async fn connect(port: u16, name: &str, filters: &[String]) -> Self {
        let mut options = MqttOptions::new(name, ("127.0.0.1", port));
        options.set_keep_alive(5).set_session_mode(SessionMode::Persistent);
        options.set_max_packet_size(Some(1024 * 1024));
        let (client, mut eventloop) = AsyncClient::builder(options).capacity(4_096).build();
        let (sender, messages) = mpsc::unbounded_channel();
        let (ready, mut is_ready) = mpsc::unbounded_channel();
        let (filters, subscriber) = (filters.to_vec(), client.clone());
        let count = filters.len();
        let task = tokio::spawn(async move {
            loop {
                match eventloop.poll().await {
                    Ok(Event::Incoming(Packet::ConnAck(_))) => {
                        for filter in &filters {
                            subscriber.try_subscribe(filter, QoS::AtLeastOnce).unwrap();
                        }
                        if filters.is_empty() {
                            let _ = ready.send(());
                        }
                    }
                    Ok(Event::Incoming(Packet::SubAck(_))) => drop(ready.send(())),
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                        let _ = sender.send((topic, publish.payload.to_vec()));
                    }
                    Ok(_) => {}
                    Err(_) => sleep(Duration::from_millis(50)).await,
                }
            }
        });
        for _ in 0..count.max(1) {
            is_ready.recv().await.unwrap();
        }
        Self { client, messages, task }
    }

    /// Sends payloads to a topic with QoS 1.
    pub(crate) async fn send(&self, topic: &Topic<'_>, payload: Vec<u8>) {
        let options = PublishOptions::new(QoS::AtLeastOnce);
        self.client.publish(topic.to_string(), payload, options).await.unwrap();
    }

    pub(crate) async fn send_record(&self, envelope: &Envelope) {
        let device = envelope.header.record.device;
        self.send(&Topic::Up(SITE, device), bytes(envelope)).await;
    }

    pub(crate) async fn send_status(&self, document: &StatusDocument) {
        self.send_health(document, None).await;
    }

    /// The same with how it is.
    pub(crate) async fn send_health(
        &self,
        document: &StatusDocument,
        health: Option<StationHealth>,
    ) {
        let topic = Topic::Status(SITE, DeviceId(document.device_id));
        let options = PublishOptions::new(QoS::AtLeastOnce).retained();
        let document = json::StationStatus { status: document.clone(), health };
        let payload = serde_json::to_vec(&document).unwrap();
        self.client.publish(topic.to_string(), payload, options).await.unwrap();
    }

    /// The next message, if one comes in time.
    pub(crate) async fn next(&mut self, limit: Duration) -> Option<(String, Vec<u8>)> {
        timeout_at(Instant::now() + limit, self.messages.recv()).await.ok().flatten()
    }

    /// Waits for receipts until they cover `wanted` (boot, seq), for at most `limit`; gives what was
    /// covered.
    pub(crate) async fn receipts(
        &mut self,
        wanted: &BTreeSet<(u32, u32)>,
        limit: Duration,
    ) -> BTreeSet<(u32, u32)> {
        let deadline = Instant::now() + limit;
        let mut covered = BTreeSet::new();
        while !wanted.is_subset(&covered) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some((topic, payload)) = self.next(left).await else { break };
            if topic.ends_with("/receipt") {
                let Envelope { message, .. } = Envelope::decode(&payload).unwrap();
                let Message::Receipt(receipt) = message else { panic!("{message:?}") };
                for range in receipt.ranges {
                    covered.extend((range.first..=range.last).map(|seq| (range.boot, seq)));
                }
            }
        }
        covered
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The records' places in their station's history.
pub(crate) fn places(envelopes: &[Envelope]) -> BTreeSet<(u32, u32)> {
    envelopes.iter().map(|e| (e.header.record.boot, e.header.record.seq)).collect()
}
