//! Clips: the right samples, without loss, on disk.

use std::time::Duration;

use ecosight_agent::clip::{
    Extent, Recording, Ring, encode, encode_with, guano, save, sweep, to_pcm,
};
use ecosight_agent::config;
use ecosight_agent::hearing::Onset;
use ecosight_models::audio::{AudioReader, DecodeLimits};
use ecosight_shared::{ClipFormat, TimeQuality};
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tempfile::tempdir;

use crate::support::{Random, START_US, identity};

const LIMITS: DecodeLimits = DecodeLimits { max_bytes: 1 << 30, max_seconds: 1e4 };

fn decoded(bytes: &[u8]) -> Vec<i16> {
    let mut reader = AudioReader::from_bytes(bytes.to_vec(), &LIMITS).expect("decodes");
    let mut samples = Vec::new();
    while let Some(block) = reader.next_block().expect("decodes") {
        samples.extend(block.iter().copied().map(to_pcm));
    }
    samples
}

/// A shot in noise: what a station keeps.
fn shot(len: usize) -> Vec<i16> {
    let mut random = Random(7);
    (0..len)
        .map(|i| {
            let noise = random.below(400) as f32 - 200.0;
            let since = i as f32 - len as f32 / 2.0;
            let blast = if since < 0.0 { 0.0 } else { 30_000.0 * (-since / 800.0).exp() };
            (noise + blast * (i as f32 * 0.37).sin()) as i16
        })
        .collect()
}

#[test]
fn a_clip_is_flac_and_holds_the_same_samples() {
    let samples = shot(160_000);
    let encoded = encode(&samples);
    assert_eq!(encoded.format, ClipFormat::Flac);
    assert!(encoded.bytes.len() < samples.len() * 2, "FLAC saves space");
    assert_eq!(decoded(&encoded.bytes), samples);
}

#[test]
fn clips_of_extremes_come_back_whole() {
    let full_scale: Vec<i16> =
        (0..20_000).map(|i| if i % 2 == 0 { i16::MAX } else { i16::MIN }).collect();
    for samples in [vec![0; 5_000], vec![-1; 3], vec![i16::MIN; 4_096], full_scale, shot(1)] {
        let encoded = encode(&samples);
        assert_eq!(decoded(&encoded.bytes), samples, "{} as {:?}", samples.len(), encoded.format);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_clip_comes_back_whole(
        seed: u64, len in 1_usize..30_000, amplitude in 0_i32..32_767, smooth in 1_usize..64,
    ) {
        let mut random = Random(seed | 1);
        let mut samples = Vec::with_capacity(len);
        let mut level = 0;
        for i in 0..len {
            if i % smooth == 0 {
                level = random.below(amplitude as u64 * 2 + 1) as i32 - amplitude;
            }
            samples.push(level as i16);
        }
        prop_assert_eq!(decoded(&encode(&samples).bytes), samples);
    }

    #[test]
    fn the_ring_cuts_exactly_what_it_was_given(
        blocks in prop::collection::vec(1_usize..900, 1..30),
        capacity in 1_usize..3_000,
        from in 0_u64..9_000,
        len in 0_u64..4_000,
        begin in 0_u64..1_000,
    ) {
        let mut ring = Ring::new(capacity);
        ring.clear(begin);
        let mut position = begin;
        let value = |position: u64| (position % 30_000) as i16;
        for block in blocks {
            let samples: Vec<f32> = (position..position + block as u64)
                .map(|p| f32::from(value(p)) / 32_768.0).collect();
            ring.push(&samples);
            position += block as u64;
        }
        prop_assert_eq!(ring.end(), position);
        let oldest = position.saturating_sub(capacity as u64).max(begin);
        let expected: Vec<i16> = (from.max(oldest)..(from + len).min(position)).map(value).collect();
        let (first, cut) = ring.cut(from, from + len);
        prop_assert_eq!(first, from.clamp(oldest, position));
        prop_assert_eq!(cut, expected);
    }
}

#[test]
fn sixteen_bit_samples_survive_the_way_through_the_station() {
    for sample in i16::MIN..=i16::MAX {
        assert_eq!(to_pcm(f32::from(sample) / 32_768.0), sample);
    }
    assert_eq!(to_pcm(2.0), i16::MAX);
    assert_eq!(to_pcm(-2.0), i16::MIN);
    assert_eq!(to_pcm(f32::NAN), 0);
}

#[test]
fn a_clip_spans_five_seconds_before_and_after_and_is_bounded() {
    let extent = Extent::of(&config::Clip::default());
    assert_eq!(extent.around(160_000, 176_000), (80_000, 256_000));
    assert_eq!(extent.around(16_000, 16_000), (0, 96_000));
    assert_eq!(extent.around(160_000, 16_000_000), (80_000, 80_000 + 30 * 16_000));
    let short = config::Clip {
        before: Duration::from_millis(500),
        after: Duration::ZERO,
        longest: Duration::from_secs(1),
    };
    assert_eq!(Extent::of(&short).around(16_000, 16_000), (8_000, 16_000));
}

#[test]
fn a_saved_clip_is_what_its_reference_says_and_nothing_is_left_beside_it() {
    let directory = tempdir().expect("a directory");
    let samples = shot(48_000);
    let clip = save(directory.path(), "gun_shot-1", &samples, "").expect("saved");
    let bytes = std::fs::read(directory.path().join(&clip.name)).expect("there");
    assert_eq!(clip.name, "gun_shot-1.flac");
    assert_eq!(clip.reference.bytes as usize, bytes.len());
    assert_eq!(clip.reference.sha256, <[u8; 32]>::from(Sha256::digest(&bytes)));
    assert_eq!(clip.reference.duration_ms, 3_000);
    assert_eq!(decoded(&bytes), samples);
    assert_eq!(std::fs::read_dir(directory.path()).expect("reads").count(), 1);
}

#[test]
fn a_clip_that_cannot_be_written_leaves_nothing() {
    let directory = tempdir().expect("a directory");
    // Below a file nothing can be made, whoever asks.
    let file = directory.path().join("file");
    std::fs::OpenOptions::new().create_new(true).write(true).open(&file).expect("made");
    assert!(save(&file, "gun_shot-1", &shot(100), "").is_err());
    assert_eq!(std::fs::read_dir(directory.path()).expect("reads").count(), 1);
}

#[test]
fn the_sweep_removes_what_no_row_names() {
    let directory = tempdir().expect("a directory");
    let kept = save(directory.path(), "a", &shot(100), "").expect("saved").name;
    save(directory.path(), "b", &shot(100), "").expect("saved");
    std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(directory.path().join(".c.flac.7.draft"))
        .expect("made");
    assert_eq!(sweep(directory.path(), std::slice::from_ref(&kept)).expect("swept"), 2);
    let left: Vec<_> = std::fs::read_dir(directory.path())
        .expect("reads")
        .map(|entry| entry.expect("reads").file_name().into_string().expect("UTF-8"))
        .collect();
    assert_eq!(left, [kept]);
}

#[test]
fn a_clip_says_of_itself_what_guano_says_and_sounds_the_same() {
    let samples = shot(48_000);
    let recording = Recording {
        samples: samples.clone(),
        time: Onset { unix_us: START_US, quality: TimeQuality::Network },
        redacted: vec![(16_000, 24_000)],
    };
    let onset = Onset { unix_us: START_US + 1_500_000, quality: TimeQuality::Network };
    let text = guano::of_event(&identity(), &recording, "gun_shot", 0.97, onset);
    for line in [
        "GUANO|Version: 1.0",
        "Timestamp: 2026-03-01T18:00:00.000Z",
        "Length: 3.000",
        "Samplerate: 16000",
        "EcoSight|Class: gun_shot",
        "EcoSight|Score: 0.9700",
        "EcoSight|Onset Seconds: 1.500",
        "EcoSight|Time Quality: network",
        "EcoSight|Speech Removed Seconds: 1.00-1.50",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let encoded = encode_with(&samples, &text);
    assert_eq!(encoded.format, ClipFormat::Flac);
    let needle = format!("GUANO={text}").into_bytes();
    assert!(encoded.bytes.windows(needle.len()).any(|part| part == needle));
    assert_eq!(decoded(&encoded.bytes), samples);
    // A clip of one sample is no FLAC to every decoder: then the chunk of a WAV says it.
    let wav = encode_with(&[], &text);
    assert_eq!(wav.format, ClipFormat::Wav);
    let riff_len = u32::from_le_bytes(wav.bytes[4..8].try_into().expect("four"));
    assert_eq!(riff_len as usize + 8, wav.bytes.len());
    assert_eq!(&wav.bytes[44..48], b"guan");
}
