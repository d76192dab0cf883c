//! What the tests share: a station's outbox, records, a receiver that gives receipts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ecosight_agent::clip::Extent;
use ecosight_agent::config::Config;
use ecosight_agent::ear::Ear;
use ecosight_agent::health::Health;
use ecosight_agent::hearing::{Hearing, Timeline};
use ecosight_agent::outbox::{Draft, OpenDraft, Opened, Outbox, OutboxError, Quota, Row, Stamped};
use ecosight_agent::recorder::{Identity, InUse, Running};
use ecosight_agent::source::{self, Begin};
use ecosight_models::Event;
use ecosight_shared::json::{AlertDocument, ModelInfo};
use ecosight_shared::{
    Alert, Detection, DeviceId, EventId, Flags, ModelTag, SourceState, Telemetry, TimeQuality,
};
use tokio::task::JoinHandle;
use uuid::Uuid;

pub(crate) const DEVICE: DeviceId =
    DeviceId(Uuid::from_u128(0x018f_4d7e_0000_7000_8000_0000_0000_0001));
pub(crate) const START_US: i64 = 1_772_388_000_000_000;
pub(crate) const QUOTA: Quota = Quota { records: 100_000, telemetry: 1_440 };
pub(crate) const CLASSES: [&str; 3] = ["gun_shot", "vehicle", "dog"];

/// An open outbox and its task.
pub(crate) struct Open {
    pub(crate) outbox: Outbox,
    pub(crate) task: JoinHandle<Result<(), OutboxError>>,
}

impl Open {
    /// Opens the outbox in `directory` as the start numbered `boot`.
    pub(crate) async fn at(directory: &Path, boot: u32, quota: Quota) -> Self {
        let opened = Opened::open(directory, START_US).await.expect("the outbox opens");
        let (outbox, task) = opened.start(DEVICE, boot, quota);
        Self { outbox, task: tokio::spawn(task) }
    }

    /// Closes it in order.
    pub(crate) async fn close(self) {
        drop(self.outbox);
        self.task.await.expect("no panic").expect("closes");
    }

    /// Every record, the most urgent and oldest first.
    pub(crate) async fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for priority in ecosight_agent::outbox::Priority::ALL {
            rows.extend(self.outbox.next(priority, 0, 1_000_000).await.expect("reads"));
        }
        rows
    }
}

pub(crate) fn identity() -> Arc<Identity> {
    let config = Config::default();
    Arc::new(Identity {
        device: DEVICE,
        name: config.station.name,
        site: "test".parse().expect("a name"),
        location: None,
        model: Running::new(InUse {
            info: ModelInfo {
                name: "test".into(),
                version: "1".into(),
                tag: "01020304".into(),
                classes: CLASSES.map(String::from).to_vec(),
            },
            tag: ModelTag([1, 2, 3, 4]),
        }),
    })
}

pub(crate) fn stamped(draft: Draft, number: u64) -> Stamped {
    let unix_us = START_US + number as i64 * 1_000_000;
    Stamped { draft, unix_us, time_quality: TimeQuality::Network }
}

pub(crate) fn detection(event: EventId) -> Detection {
    Detection {
        event,
        class: "gun_shot".try_into().expect("short"),
        model: ModelTag([1, 2, 3, 4]),
        score: 0.9,
        duration_ms: 1_200,
        decided_after_ms: 1_100,
        windows: 3,
        level_dbfs: -20.5,
        noise_floor_dbfs: -60.0,
        scores: [230, 3, 1].into_iter().collect(),
        flags: Flags::default(),
        clip: None,
    }
}

pub(crate) fn alert(number: u64) -> Stamped {
    let identity = identity();
    let alert = Alert {
        class: 0,
        score: 230,
        level_dbfs: -20,
        windows: 2,
        flags: Flags::default(),
        model: identity.model.get().tag,
    };
    let document = AlertDocument {
        schema: AlertDocument::SCHEMA.into(),
        event_id: Uuid::nil(),
        device_id: DEVICE.0,
        device_name: identity.name.to_string(),
        site_id: identity.site.to_string(),
        class: "gun_shot".into(),
        score: 0.9,
        time: String::new(),
        time_quality: "network".into(),
        level_dbfs: -20.5,
        windows: 2,
        canary: false,
        model: ModelInfo::default(),
        location: None,
        url: None,
    };
    let open = OpenDraft {
        stream: "test".into(),
        class: "gun_shot".into(),
        onset_sample: number * 16_000,
        so_far: detection(EventId(Uuid::nil())),
    };
    stamped(Draft::Alert { alert, document: Box::new(document), open }, number)
}

pub(crate) fn silent_detection(number: u64) -> Stamped {
    let detection = Box::new(detection(EventId(Uuid::nil())));
    stamped(Draft::Detection { detection, alerted: false, clip: None }, number)
}

pub(crate) fn telemetry(number: u64) -> Stamped {
    let telemetry = Telemetry {
        agent: [0, 1, 0],
        model: ModelTag([1, 2, 3, 4]),
        uptime_s: number as u32,
        windows: 1,
        inference_p50_us: 4_000,
        inference_p99_us: 5_000,
        dropped_samples: 0,
        gaps: 0,
        outbox_records: 0,
        outbox_oldest_s: 0,
        outbox_dropped: 0,
        clips_pending: 0,
        disk_free_mib: 1_000,
        cpu_temperature_dc: None,
        noise_floor_dbfs: -60.0,
        source: SourceState::Healthy,
    };
    stamped(Draft::Telemetry(telemetry), number)
}

pub(crate) fn event(number: u64, class: usize, onset: u64, end: u64) -> Event {
    Event {
        number,
        class,
        alert: class == 0,
        onset_sample: onset,
        end_sample: end,
        decided_sample: onset + 20_000,
        score: 0.9,
        windows: 2,
        level_dbfs: -20.0,
        noise_floor_dbfs: -60.0,
        scores: vec![0.9, 0.05, 0.05],
    }
}

/// Writes 16-bit samples as mono WAV.
pub(crate) fn write_wav(path: &Path, rate: u32, samples: &[i16]) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).expect("made");
    for sample in samples {
        writer.write_sample(*sample).expect("written");
    }
    writer.finalize().expect("written");
}

/// The same of −1 to 1 at 16 kHz.
pub(crate) fn write_sound(path: &Path, samples: &[f32]) {
    let samples: Vec<i16> = samples.iter().map(|sample| (sample * 32_767.0) as i16).collect();
    write_wav(path, 16_000, &samples);
}

/// Listens with `ear` to what `config` names from its beginning, and tells nobody else of it.
pub(crate) fn hearing(ear: Ear, config: &Config, health: &Arc<Health>) -> Hearing {
    Hearing {
        source: source::open(&config.source, Begin::default(), health).expect("opens"),
        begin: Begin::default(),
        ear,
        extent: Extent::of(&config.clip),
        timeline: Timeline::Recorded(0),
        health: Arc::clone(health),
        is_replay: false,
        tracer: None,
        reel: None,
        canaries: None,
        orders: None,
    }
}

/// Waits until `condition` holds, or fails saying what did not come.
pub(crate) async fn until<F>(what: &str, mut condition: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let started = tokio::time::Instant::now();
    while !condition().await {
        assert!(started.elapsed() < Duration::from_secs(60), "did not come: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A small generator, so that a failure's seed repeats it.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number: xorshift64* (Vigna 2016).
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }
}
