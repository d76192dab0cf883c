//! Laws of the envelope: whatever is written is read back, and nothing else is accepted.

use ecosight_shared::{
    ALERT_FRAME_MAX_LEN, Alert, CRC_LEN, ClipFormat, ClipRef, DecodeError, Detection, DeviceId,
    Envelope, EventId, Flags, HEADER_LEN, Header, MAX_ENVELOPE_LEN, Message, ModelTag, Receipt,
    RecordId, SeqRange, SourceState, Telemetry, TimeQuality, version,
};
use proptest::collection::vec;
use proptest::prelude::*;
use uuid::Uuid;

use crate::samples;

fn encoded(envelope: &Envelope) -> Vec<u8> {
    let mut buffer = [0; MAX_ENVELOPE_LEN];
    envelope.encode(&mut buffer).expect("MAX_ENVELOPE_LEN suffices").to_vec()
}

fn headers() -> impl Strategy<Value = Header> {
    let quality = prop_oneof![
        Just(TimeQuality::Unknown),
        Just(TimeQuality::FreeRunning),
        Just(TimeQuality::Network),
        Just(TimeQuality::Gps),
    ];
    (any::<u128>(), any::<u32>(), any::<u32>(), any::<i64>(), quality).prop_map(
        |(device, boot, seq, unix_us, time_quality)| Header {
            record: RecordId { device: DeviceId(Uuid::from_u128(device)), boot, seq },
            unix_us,
            time_quality,
        },
    )
}

fn alerts() -> impl Strategy<Value = Message> {
    (any::<[u8; 3]>(), any::<i8>(), any::<u8>(), any::<[u8; 4]>()).prop_map(
        |([class, score, windows], level_dbfs, flags, model)| {
            Message::Alert(Alert {
                class,
                score,
                level_dbfs,
                windows,
                flags: Flags(flags),
                model: ModelTag(model),
            })
        },
    )
}

fn detections() -> impl Strategy<Value = Message> {
    let clip = proptest::option::of((any::<[u8; 32]>(), any::<u32>(), any::<u32>(), any::<bool>()));
    let numbers = (any::<u32>(), any::<u32>(), any::<u16>(), -200_f32..0.0, -200_f32..0.0);
    (any::<u128>(), "[a-z_]{1,24}", 0_f32..=1.0, numbers, vec(any::<u8>(), 0..=32), clip).prop_map(
        |(
            event,
            class,
            score,
            (duration_ms, decided_after_ms, windows, level, floor),
            scores,
            clip,
        )| {
            Message::Detection(Detection {
                event: EventId(Uuid::from_u128(event)),
                class: class.as_str().try_into().expect("at most 24 bytes"),
                model: ModelTag([0xFF; 4]),
                score,
                duration_ms,
                decided_after_ms,
                windows,
                level_dbfs: level,
                noise_floor_dbfs: floor,
                scores: scores.into_iter().collect(),
                flags: Flags(0xFF),
                clip: clip.map(|(sha256, bytes, duration_ms, wav)| ClipRef {
                    sha256,
                    bytes,
                    duration_ms,
                    format: if wav { ClipFormat::Wav } else { ClipFormat::Flac },
                }),
            })
        },
    )
}

fn telemetry() -> impl Strategy<Value = Message> {
    (any::<[u32; 9]>(), any::<[u64; 2]>(), any::<Option<i16>>(), -200_f32..0.0).prop_map(
        |(n, wide, cpu_temperature_dc, noise_floor_dbfs)| {
            Message::Telemetry(Telemetry {
                agent: [255, 255, 255],
                model: ModelTag([0xFF; 4]),
                uptime_s: n[0],
                windows: wide[0],
                inference_p50_us: n[1],
                inference_p99_us: n[2],
                dropped_samples: wide[1],
                gaps: n[3],
                outbox_records: n[4],
                outbox_oldest_s: n[5],
                outbox_dropped: n[6],
                clips_pending: n[7],
                disk_free_mib: n[8],
                cpu_temperature_dc,
                noise_floor_dbfs,
                source: SourceState::Ended,
            })
        },
    )
}

fn receipts() -> impl Strategy<Value = Message> {
    vec(any::<[u32; 3]>(), 0..=Receipt::MAX_RANGES).prop_map(|ranges| {
        let ranges = ranges.into_iter().map(|[boot, first, last]| SeqRange { boot, first, last });
        Message::Receipt(Receipt { ranges: ranges.collect() })
    })
}

fn messages() -> impl Strategy<Value = Message> {
    prop_oneof![alerts(), detections(), telemetry(), receipts()]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(header in headers(), message in messages()) {
        let envelope = Envelope { header, message };
        prop_assert_eq!(Envelope::decode(&encoded(&envelope)), Ok(envelope));
    }

    #[test]
    fn an_alert_fits_the_smallest_bearer(header in headers(), message in alerts()) {
        let frame = encoded(&Envelope { header, message });
        prop_assert!(frame.len() <= ALERT_FRAME_MAX_LEN);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..1_200)) {
        let _ = Envelope::decode(&bytes);
    }

    #[test]
    fn a_flipped_bit_is_refused(header in headers(), message in messages(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut bytes = encoded(&Envelope { header, message });
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(Envelope::decode(&bytes).is_err());
    }

    #[test]
    fn a_small_buffer_is_an_error(header in headers(), message in messages(), at in any::<prop::sample::Index>()) {
        let envelope = Envelope { header, message };
        let mut short = vec![0; at.index(encoded(&envelope).len())];
        prop_assert!(envelope.encode(&mut short).is_err());
    }

    #[test]
    fn receipts_cover_exactly_the_records(records in vec((0_u32..3, 0_u32..200), 0..300)) {
        let receipts = Receipt::covering(records.clone());
        let mut covered: Vec<_> = receipts
            .iter()
            .flat_map(|receipt| &receipt.ranges)
            .flat_map(|range| (range.first..=range.last).map(|seq| (range.boot, seq)))
            .collect();
        let mut expected = records;
        expected.sort_unstable();
        expected.dedup();
        covered.sort_unstable();
        prop_assert_eq!(covered, expected);
    }
}

#[test]
fn truncation_at_every_byte_is_refused() {
    for envelope in samples::all() {
        let bytes = encoded(&envelope);
        for len in 0..bytes.len() {
            assert!(Envelope::decode(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn each_fault_has_its_name() {
    let good = encoded(&samples::alert());
    let reseal = |mut bytes: Vec<u8>| {
        let content = bytes.len() - CRC_LEN;
        let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC).checksum(&bytes[..content]);
        bytes[content..].copy_from_slice(&crc.to_be_bytes());
        bytes
    };
    let altered = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        reseal(bytes)
    };
    let newer = version::CURRENT + 1;

    assert_eq!(Envelope::decode(&[]), Err(DecodeError::TooShort { len: 0 }));
    assert_eq!(Envelope::decode(&[0; 2_000]), Err(DecodeError::TooLong { len: 2_000 }));
    assert_eq!(Envelope::decode(&altered(0, 0)), Err(DecodeError::Magic));
    assert_eq!(Envelope::decode(&altered(2, newer)), Err(DecodeError::Version { found: newer }));
    assert_eq!(Envelope::decode(&altered(2, 0)), Err(DecodeError::Version { found: 0 }));
    assert_eq!(Envelope::decode(&altered(3, 200)), Err(DecodeError::Kind { found: 200 }));
    assert_eq!(Envelope::decode(&altered(36, 9)), Err(DecodeError::TimeQuality { found: 9 }));
    let mut longer = good.clone();
    longer.insert(HEADER_LEN, 1);
    assert_eq!(Envelope::decode(&reseal(longer)), Err(DecodeError::TrailingBytes { count: 1 }));
    let mut damaged = good;
    damaged[HEADER_LEN] ^= 1;
    assert_eq!(Envelope::decode(&damaged), Err(DecodeError::Crc));
}

#[test]
fn event_ids_are_uuid_v7_of_the_record_and_never_collide() {
    let at = 1_760_000_000_123_456;
    let mut seen = std::collections::HashSet::new();
    for device in 0..20_u128 {
        for boot in 1..4 {
            for seq in 1..200 {
                let record = RecordId { device: DeviceId(Uuid::from_u128(device)), boot, seq };
                let id = EventId::of(record, at);
                assert_eq!(id, EventId::of(record, at));
                assert_eq!(id.0.get_version_num(), 7);
                let (seconds, nanos) = id.0.get_timestamp().expect("v7 has one").to_unix();
                assert_eq!((seconds, nanos / 1_000_000), (1_760_000_000, 123));
                assert!(seen.insert(id), "{record} collides");
            }
        }
    }
}
