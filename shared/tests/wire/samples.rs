//! One envelope of each kind, with every field set to something telling.

use ecosight_shared::{
    Alert, ClipFormat, ClipRef, Detection, DeviceId, Envelope, EventId, Flags, Header, Message,
    ModelTag, Receipt, RecordId, SeqRange, SourceState, Telemetry, TimeQuality,
};
use uuid::Uuid;

pub(crate) fn header() -> Header {
    Header {
        record: RecordId {
            device: DeviceId(Uuid::from_u128(0x018f_4d7e_1122_7344_8566_7788_99aa_bbcc)),
            boot: 7,
            seq: 1_000_000,
        },
        unix_us: 1_760_000_000_123_456,
        time_quality: TimeQuality::Network,
    }
}

pub(crate) fn alert() -> Envelope {
    Envelope {
        header: header(),
        message: Message::Alert(Alert {
            class: 3,
            score: 250,
            level_dbfs: -31,
            windows: 2,
            flags: Flags::CANARY,
            model: ModelTag([0xDE, 0xAD, 0xBE, 0xEF]),
        }),
    }
}

pub(crate) fn detection() -> Envelope {
    Envelope {
        header: header(),
        message: Message::Detection(Detection {
            event: EventId::of(header().record, header().unix_us),
            class: "gun_shot".try_into().expect("fits"),
            model: ModelTag([0xDE, 0xAD, 0xBE, 0xEF]),
            score: 0.75,
            duration_ms: 1_440,
            decided_after_ms: 960,
            windows: 3,
            level_dbfs: -31.5,
            noise_floor_dbfs: -52.25,
            scores: [255, 0, 12].into_iter().collect(),
            flags: Flags(0),
            clip: Some(ClipRef {
                sha256: [0x11; 32],
                bytes: 180_000,
                duration_ms: 10_000,
                format: ClipFormat::Flac,
            }),
        }),
    }
}

pub(crate) fn telemetry() -> Envelope {
    Envelope {
        header: header(),
        message: Message::Telemetry(Telemetry {
            agent: [0, 1, 0],
            model: ModelTag([0xDE, 0xAD, 0xBE, 0xEF]),
            uptime_s: 86_400,
            windows: 180_000,
            inference_p50_us: 3_900,
            inference_p99_us: 9_000,
            dropped_samples: 160,
            gaps: 1,
            outbox_records: 12,
            outbox_oldest_s: 75,
            outbox_dropped: 0,
            clips_pending: 2,
            disk_free_mib: 11_000,
            cpu_temperature_dc: Some(-55),
            noise_floor_dbfs: -48.5,
            source: SourceState::Healthy,
        }),
    }
}

pub(crate) fn receipt() -> Envelope {
    let mut header = header();
    header.record.boot = 0;
    header.record.seq = 0;
    let ranges =
        [SeqRange { boot: 6, first: 1, last: 400 }, SeqRange { boot: 7, first: 3, last: 3 }];
    Envelope { header, message: Message::Receipt(Receipt { ranges: ranges.into_iter().collect() }) }
}

pub(crate) fn all() -> [Envelope; 4] {
    [alert(), detection(), telemetry(), receipt()]
}
