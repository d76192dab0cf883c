//! Decoding and resampling: what is right comes out right, what is wrong is said clearly.

use std::io::Cursor;
use std::time::{Duration, Instant};

use ecosight_models::audio::{AudioError, AudioReader, DecodeLimits, Resampler};
use flacenc::component::BitRepr as _;
use flacenc::error::Verify as _;
use proptest::prelude::*;

const OGG: &[u8] = include_bytes!("fixtures/burst.ogg");
const MP3: &[u8] = include_bytes!("fixtures/burst.mp3");
const M4A: &[u8] = include_bytes!("fixtures/burst.m4a");
const ADTS: &[u8] = include_bytes!("fixtures/burst.aac");
const MP3_NO_HEADER: &[u8] = include_bytes!("fixtures/burst-no-header.mp3");

fn limits() -> DecodeLimits {
    DecodeLimits { max_bytes: 1 << 26, max_seconds: 60.0 }
}

/// All blocks, and the error that ended them if one did.
fn read(bytes: &[u8], limits: &DecodeLimits) -> (Vec<f32>, Option<AudioError>) {
    let mut sound = Vec::new();
    let mut reader = match AudioReader::from_bytes(bytes.to_vec(), limits) {
        Ok(reader) => reader,
        Err(error) => return (sound, Some(error)),
    };
    loop {
        match reader.next_block() {
            Ok(Some(block)) => {
                assert!(!block.is_empty());
                sound.extend_from_slice(block);
            }
            Ok(None) => return (sound, None),
            Err(error) => {
                assert!(matches!(reader.next_block(), Ok(None)), "an error ends the stream");
                return (sound, Some(error));
            }
        }
    }
}

fn decoded(bytes: &[u8]) -> Vec<f32> {
    let (sound, error) = read(bytes, &limits());
    assert!(error.is_none(), "{}", error.unwrap());
    sound
}

fn refusal(bytes: &[u8]) -> AudioError {
    read(bytes, &limits()).1.expect("an error")
}

fn wav(
    spec: hound::WavSpec,
    write: impl FnOnce(&mut hound::WavWriter<&mut Cursor<Vec<u8>>>),
) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    write(&mut writer);
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// 16-bit WAV of frames whose channels all hold the same.
fn wav16(rate: u32, channels: u16, mono: &[f32]) -> Vec<u8> {
    let spec = hound::WavSpec {
        channels,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    wav(spec, |writer| {
        for sample in mono {
            for _ in 0..channels {
                writer.write_sample((sample * 32_767.0).round() as i16).unwrap();
            }
        }
    })
}

fn flac(rate: usize, channels: usize, samples: &[i32]) -> Vec<u8> {
    let config = flacenc::config::Encoder::default().into_verified().unwrap();
    let source = flacenc::source::MemSource::from_samples(samples, channels, 16, rate);
    let stream = flacenc::encode_with_fixed_block_size(&config, source, config.block_size).unwrap();
    let mut sink = flacenc::bitsink::ByteSink::new();
    stream.write(&mut sink).unwrap();
    sink.as_slice().to_vec()
}

fn sine(rate: u32, hz: f32, seconds: f32) -> Vec<f32> {
    let len = (seconds * rate as f32) as usize;
    let turn = std::f64::consts::TAU * f64::from(hz) / f64::from(rate);
    (0..len).map(|n| 0.5 * (turn * n as f64).sin() as f32).collect()
}

/// Silence, and from `onset_s` on a sine.
fn burst(rate: u32, onset_s: f32) -> Vec<f32> {
    let mut sound = vec![0.0; (onset_s * rate as f32) as usize];
    sound.extend(sine(rate, 1_000.0, 0.5));
    sound
}

fn rms(sound: &[f32]) -> f32 {
    (sound.iter().map(|s| s * s).sum::<f32>() / sound.len() as f32).sqrt()
}

/// First sample above a tenth of the burst's amplitude.
fn onset(sound: &[f32]) -> usize {
    sound.iter().position(|s| s.abs() > 0.05).expect("an onset")
}

#[test]
fn a_16_khz_mono_wav_passes_unchanged() {
    let samples: Vec<f32> =
        (0..5_000_i32).map(|n| (n * 37 % 65_536 - 32_768) as f32 / 32_768.0).collect();
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let bytes = wav(spec, |w| {
        samples.iter().for_each(|s| w.write_sample((s * 32_768.0) as i16).unwrap());
    });
    assert_eq!(decoded(&bytes), samples);
}

#[test]
fn every_format_gives_the_same_burst_at_the_same_time() {
    let mono = burst(22_050, 0.5);
    let stereo: Vec<i32> = mono.iter().flat_map(|s| [(s * 32_767.0) as i32; 2]).collect();
    let files = [
        ("wav", wav16(22_050, 2, &mono)),
        ("flac", flac(22_050, 2, &stereo)),
        ("ogg", OGG.to_vec()),
        ("mp3", MP3.to_vec()),
        ("mp3 without header", MP3_NO_HEADER.to_vec()),
        ("m4a", M4A.to_vec()),
        ("adts", ADTS.to_vec()),
    ];
    for (name, bytes) in files {
        let sound = decoded(&bytes);
        // Without its header an MP3 keeps the encoder's delay and padding, 0.1 s at most, and so
        // does AAC, three frames of 1,024; Vorbis smears an onset.
        let slack = match name {
            "mp3 without header" => 1_700,
            "m4a" | "adts" => 2_300,
            _ => 3,
        };
        let smear = if name == "ogg" { 120 } else { slack.max(20) };
        assert!(sound.len().abs_diff(16_000) <= slack, "{name}: {} samples", sound.len());
        let onset = onset(&sound);
        assert!(onset.abs_diff(8_000) <= smear, "{name}: onset at {onset}");
        let level = rms(&sound[onset + 400..onset + 6_400]);
        assert!((level / 0.3536 - 1.0).abs() < 0.1, "{name}: level {level}");
    }
}

#[test]
fn every_usual_rate_keeps_length_onset_level_and_nothing_that_folds_down() {
    for rate in [
        1_000,
        8_000,
        11_025,
        16_000,
        22_050,
        24_000,
        32_000,
        44_100,
        44_101,
        48_000,
        96_000,
        192_000,
        250_000,
        384_000_u32,
    ] {
        let hz = if rate == 1_000 { 200.0 } else { 1_000.0 };
        let mut input = vec![0.0; rate as usize / 2];
        input.extend(sine(rate, hz, 0.5));
        let sound = decoded(&wav16(rate, 1, &input));
        let expected = (input.len() as u64 * 16_000).div_ceil(u64::from(rate)) as usize;
        assert_eq!(sound.len(), expected, "{rate} Hz: length");
        let onset = onset(&sound);
        let tolerance = if rate == 1_000 { 24 } else { 6 };
        assert!(onset.abs_diff(8_000) <= tolerance, "{rate} Hz: onset at {onset}");
        let level = rms(&sound[10_000..14_000]);
        assert!((level / 0.3536 - 1.0).abs() < 0.01, "{rate} Hz: level {level}");
        if rate > 22_000 {
            let folding = sine(rate, 9_500.0, 1.0);
            let left = rms(&decoded(&wav16(rate, 1, &folding))[2_000..12_000]);
            assert!(left < 1e-4, "{rate} Hz: {left} of 9.5 kHz folds down");
        }
    }
}

#[test]
fn what_the_ears_listen_to_is_flat_up_to_7_5_khz() {
    for rate in [22_050, 44_100, 48_000, 192_000] {
        for hz in [125.0, 1_000.0, 4_000.0, 7_000.0, 7_500.0] {
            let sound = decoded(&wav16(rate, 1, &sine(rate, hz, 1.0)));
            let gain = 20.0 * (rms(&sound[2_000..14_000]) / 0.3536).log10();
            assert!(gain.abs() < 0.1, "{hz} Hz at {rate} Hz: {gain} dB");
        }
    }
}

#[test]
fn channels_are_averaged() {
    let spec = hound::WavSpec {
        channels: 3,
        sample_rate: 16_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let bytes = wav(spec, |w| {
        for _ in 0..4_000 {
            for sample in [0.25_f32, 0.5, 0.0] {
                w.write_sample(sample).unwrap();
            }
        }
    });
    let sound = decoded(&bytes);
    assert_eq!(sound.len(), 4_000);
    assert!(sound.iter().all(|s| (s - 0.25).abs() < 1e-6));
    for channels in [1, 2, 5, 26, 27, 32] {
        let sound = decoded(&wav16(16_000, channels, &sine(16_000, 500.0, 0.1)));
        assert_eq!(sound.len(), 1_600);
        assert!((rms(&sound) - 0.3536).abs() < 1e-3, "{channels} channels");
    }
}

#[test]
fn every_sample_format_of_a_wav_is_read() {
    let sound = sine(16_000, 700.0, 0.2);
    for bits in [8, 16, 24, 32] {
        let spec = hound::WavSpec {
            channels: 1,
            sample_rate: 16_000,
            bits_per_sample: bits,
            sample_format: hound::SampleFormat::Int,
        };
        let full = (1_i64 << (bits - 1)) as f32;
        let bytes = wav(spec, |w| {
            sound.iter().for_each(|s| w.write_sample((s * full) as i32).unwrap());
        });
        let got = decoded(&bytes);
        assert_eq!(got.len(), sound.len());
        let worst = got.iter().zip(&sound).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst <= 1.01 / full.min(1e6), "{bits} bits: {worst}");
    }
}

#[test]
fn a_wrong_extension_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("really-a-flac.wav");
    let samples: Vec<i32> =
        sine(16_000, 500.0, 0.3).iter().map(|s| (s * 32_767.0) as i32).collect();
    std::fs::write(&path, flac(16_000, 1, &samples)).unwrap();
    let mut reader = AudioReader::open(&path, &limits()).unwrap();
    assert_eq!(reader.source_rate_hz(), 16_000);
    let mut count = 0;
    while let Some(block) = reader.next_block().unwrap() {
        count += block.len();
    }
    assert_eq!(count, samples.len());
}

#[test]
fn what_is_no_sound_is_refused_by_what_it_is() {
    assert!(matches!(refusal(b""), AudioError::Empty(_)));
    assert!(matches!(refusal(&wav16(16_000, 1, &[])), AudioError::Empty(_)));
    for (bytes, hint) in [
        (&b"RIFF"[..], "fewer bytes"),
        (&[0; 4096], "zeros"),
        (b"time,species\n06:12,hornbill\n", "text"),
        ("Das ist ein längerer Text, in UTF-8.".as_bytes(), "text"),
        (b"RF64\xff\xff\xff\xffWAVEds64\x1c\x00\x00\x00", "64-bit WAV"),
        (b"RIFF\x10\x00\x00\x00AVI LIST", "not a WAV"),
        (b"PK\x03\x04\x14\x00\x00\x00\x08\x00\x00\x00", "archive"),
        (b"\x07\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b", "no known header"),
    ] {
        let error = refusal(bytes);
        assert!(matches!(error, AudioError::UnknownFormat(_)), "{error}");
        assert!(error.to_string().contains(hint), "{error} lacks {hint}");
        assert!(error.to_string().contains("use WAV, FLAC"), "{error} names no remedy");
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path().join("absent.wav"), dir.path().to_owned()] {
        match AudioReader::open(&path, &limits()) {
            Err(AudioError::Io(error)) => assert!(!error.to_string().is_empty()),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{} opened", path.display()),
        }
    }
}

/// Changes bytes of a WAV's header.
fn patched(mut bytes: Vec<u8>, at: usize, with: &[u8]) -> Vec<u8> {
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

#[test]
fn absurd_rates_and_channel_counts_are_refused() {
    let good = wav16(16_000, 1, &sine(16_000, 500.0, 0.1));
    for rate in [0, 1, 999, 384_001, u32::MAX] {
        let error = refusal(&patched(good.clone(), 24, &rate.to_le_bytes()));
        assert!(matches!(error, AudioError::Rate(r) if r == rate), "{error}");
    }
    for channels in [0_u16, 33, 255, u16::MAX] {
        let error = refusal(&patched(good.clone(), 22, &channels.to_le_bytes()));
        assert!(matches!(error, AudioError::Channels(c) if c == usize::from(channels)), "{error}");
    }
    assert!(matches!(Resampler::new(500, 1), Err(AudioError::Rate(500))));
    assert!(matches!(Resampler::new(48_000, 0), Err(AudioError::Channels(0))));
}

#[test]
fn a_truncated_file_gives_what_it_has_and_then_says_so() {
    let mono = burst(22_050, 0.5);
    let ints: Vec<i32> = mono.iter().map(|s| (s * 32_767.0) as i32).collect();
    for (name, bytes) in [
        ("wav", wav16(22_050, 2, &mono)),
        ("flac", flac(22_050, 1, &ints)),
        ("ogg", OGG.to_vec()),
        ("mp3", MP3.to_vec()),
    ] {
        let (sound, error) = read(&bytes[..bytes.len() * 8 / 10], &limits());
        let error = error.unwrap_or_else(|| panic!("{name}: cut off, and not said"));
        assert!(
            matches!(error, AudioError::Truncated { .. } | AudioError::Damaged { .. }),
            "{name}: {error}"
        );
        // This OGG is one page, and a page that is not whole is none.
        assert!(sound.len() > 4_000 || name == "ogg", "{name}: {} samples", sound.len());
        assert!(sound.len() < 16_000, "{name}");
    }
    // Every sample of a WAV that is there comes out.
    let bytes = wav16(16_000, 1, &sine(16_000, 500.0, 1.0));
    let (sound, error) = read(&bytes[..44 + 2 * 9_999 + 1], &limits());
    assert_eq!(sound.len(), 9_999);
    let error = error.unwrap();
    assert!(matches!(error, AudioError::Truncated { announced_s: Some(1.0), .. }), "{error}");
    assert_eq!(
        error.to_string(),
        "cut off or broken after 0.62 s of sound (1.00 s announced); copy it again"
    );
}

#[test]
fn a_wav_whose_header_was_never_finished_is_read_to_its_end() {
    let good = wav16(16_000, 1, &sine(16_000, 500.0, 0.5));
    let expected = decoded(&good);
    for (riff, data) in [(0, 0_u32), (u32::MAX, u32::MAX), (0x7fff_ffff, 0x7fff_ffdb)] {
        let bytes = patched(good.clone(), 4, &riff.to_le_bytes());
        let bytes = patched(bytes, 40, &data.to_le_bytes());
        assert_eq!(decoded(&bytes), expected);
    }
}

#[test]
fn chunks_of_recorders_before_and_after_the_sound_are_passed_over() {
    let good = wav16(16_000, 1, &sine(16_000, 500.0, 0.25));
    let expected = decoded(&good);
    let mut bytes = good[..36].to_vec();
    // An odd length is padded, and LIST announces more than it has.
    bytes.extend(b"guan\x05\x00\x00\x00abcde\x00LIST\x08\x00\x00\x00INFO\xff\xff\xff\xff");
    bytes.extend(&good[36..]);
    bytes.extend(b"LIST\x04\x00\x00\x00adtl");
    assert_eq!(decoded(&bytes), expected);
}

#[test]
fn samples_that_are_no_numbers_are_named() {
    let spec = hound::WavSpec {
        channels: 2,
        sample_rate: 16_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let bytes = wav(spec, |w| {
            for n in 0..8_000 {
                w.write_sample(0.1_f32).unwrap();
                w.write_sample(if n == 5_000 { bad } else { 0.1 }).unwrap();
            }
        });
        let (sound, error) = read(&bytes, &limits());
        assert_eq!(sound.len(), 5_000);
        match error {
            Some(AudioError::NonFinite { frame: 5_000, channel: 1 }) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_flac_whose_sound_is_not_that_of_its_checksum_is_damaged() {
    let ints: Vec<i32> = sine(16_000, 500.0, 0.5).iter().map(|s| (s * 32_767.0) as i32).collect();
    let good = flac(16_000, 1, &ints);
    decoded(&good);
    // The MD5 of the sound is the last field of STREAMINFO.
    let error = refusal(&patched(good.clone(), 4 + 4 + 18, &[0xab; 16]));
    assert!(matches!(error, AudioError::Damaged { .. }), "{error}");
    let mut broken = good.clone();
    let middle = broken.len() / 2;
    broken[middle] ^= 0x10;
    // The second of two frames is gone: the sound ends too early.
    let error = refusal(&broken);
    assert!(matches!(error, AudioError::Damaged { .. } | AudioError::Truncated { .. }), "{error}");
}

#[test]
fn limits_hold_while_the_file_streams() {
    let long = wav16(16_000, 1, &vec![0.0; 16_000 * 3]);
    let short = DecodeLimits { max_bytes: 1 << 20, max_seconds: 2.0 };
    assert!(matches!(
        AudioReader::from_bytes(long.clone(), &short),
        Err(AudioError::TooLong { limit_s: 2.0 })
    ));
    let small = DecodeLimits { max_bytes: 1_000, max_seconds: 60.0 };
    assert!(matches!(
        AudioReader::from_bytes(long, &small),
        Err(AudioError::TooLarge { limit: 1_000, .. })
    ));

    // A bomb: 10 minutes of silence in few bytes, whose header says nothing of its length.
    let bomb = flac(8_000, 1, &vec![0; 8_000 * 600]);
    assert!(bomb.len() < 40_000, "{} bytes", bomb.len());
    assert!(matches!(refusal(&bomb), AudioError::TooLong { limit_s: 60.0 }));
    let mut bomb = bomb;
    bomb[21] &= 0xf0;
    bomb[22..26].fill(0);
    let (sound, error) = read(&bomb, &limits());
    assert!(matches!(error, Some(AudioError::TooLong { .. })), "{error:?}");
    assert!(sound.len() <= 61 * 16_000, "{} samples", sound.len());
}

/// Small files of the formats that can be written here, each with the ways its header can differ.
fn made_seeds() -> [(&'static str, Vec<u8>); 5] {
    let mono = sine(8_000, 440.0, 0.05);
    let ints: Vec<i32> = mono.iter().flat_map(|s| [(s * 32_767.0) as i32; 2]).collect();
    let float = hound::WavSpec {
        channels: 2,
        sample_rate: 22_050,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let packed = hound::WavSpec {
        channels: 4,
        sample_rate: 8_000,
        bits_per_sample: 24,
        sample_format: hound::SampleFormat::Int,
    };
    [
        ("mono.wav", wav16(16_000, 1, &mono)),
        ("float.wav", wav(float, |w| mono.iter().for_each(|s| w.write_sample(*s).unwrap()))),
        ("packed.wav", wav(packed, |w| ints.iter().for_each(|s| w.write_sample(*s).unwrap()))),
        ("stereo.flac", flac(8_000, 2, &ints)),
        ("mono.flac", flac(16_000, 1, &ints)),
    ]
}

/// Small files of every format.
fn seeds() -> Vec<Vec<u8>> {
    let made = made_seeds().into_iter().map(|(_, file)| file);
    made.chain([OGG, MP3, MP3_NO_HEADER, M4A, ADTS].map(<[u8]>::to_vec)).collect()
}

/// The fuzzer begins with the same files; `ECOSIGHT_WRITE_SEEDS=1` writes them anew.
#[test]
#[allow(clippy::disallowed_methods, reason = "seeds need not be durable: git has them")]
fn the_fuzzers_seeds_are_those_of_this_test() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let write = std::env::var_os("ECOSIGHT_WRITE_SEEDS").is_some();
    for (name, file) in made_seeds() {
        let place = dir.join(name);
        if write {
            std::fs::create_dir_all(&dir).unwrap();
            std::fs::write(&place, &file).unwrap();
        }
        assert!(std::fs::read(&place).unwrap() == file, "{name} is not what this test makes");
        assert!(AudioReader::from_bytes(file, &limits()).is_ok(), "{name}");
    }
}

/// Peak resident memory of this process, KiB; 0 where the system does not tell.
fn peak_rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

#[test]
fn mutated_files_cost_no_panic_no_time_and_no_memory() {
    // More by hand or by night, as ECOSIGHT_MUTATIONS=1000000: the same seed goes on.
    let inputs = std::env::var("ECOSIGHT_MUTATIONS").map_or(24_000, |n| n.parse().unwrap());
    let seeds = seeds();
    let limits = DecodeLimits { max_bytes: 1 << 20, max_seconds: 2.0 };
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    let before_kib = peak_rss_kib();
    let mut slowest = Duration::ZERO;
    let (mut whole, mut refused) = (0, 0);
    for i in 0..inputs {
        let mut bytes = seeds[i % seeds.len()].clone();
        for _ in 0..=next(6) {
            // Headers are where the harm is: half of all changes hit the first 128 bytes.
            let reach = if next(2) == 0 { bytes.len().min(128) } else { bytes.len() };
            if reach == 0 {
                break;
            }
            let at = next(reach);
            match next(7) {
                0 => bytes[at] ^= 1 << next(8),
                1 => bytes[at] = next(256) as u8,
                2 => bytes[at] = [0, 0xff, 0x7f, 0x80][next(4)],
                3 => bytes.truncate(at),
                4 => {
                    let end = (at + 4).min(bytes.len());
                    bytes[at..end].fill([0xff, 0][next(2)]);
                }
                5 => {
                    let end = (at + next(64)).min(bytes.len());
                    let piece = bytes[at..end].to_vec();
                    let to = next(bytes.len());
                    bytes.splice(to..to, piece);
                }
                _ => {
                    let end = (at + next(64)).min(bytes.len());
                    bytes.drain(at..end);
                }
            }
        }
        let start = Instant::now();
        let (sound, error) = read(&bytes, &limits);
        slowest = slowest.max(start.elapsed());
        assert!(sound.len() <= 3 * 16_000, "input {i}: {} samples", sound.len());
        assert!(sound.iter().all(|s| s.is_finite()), "input {i}");
        match error {
            None => whole += 1,
            Some(AudioError::Io(error)) => panic!("input {i}: {error}"),
            Some(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(!text.contains("could not cope"), "input {i}: the decoder panicked");
            }
        }
    }
    let grown = (peak_rss_kib() - before_kib) / 1024;
    eprintln!("{whole} decoded, {refused} refused, slowest {slowest:?}, {grown} MiB more");
    assert!(whole > inputs / 20 && refused > inputs / 4, "{whole} decoded, {refused} refused");
    assert!(slowest < Duration::from_secs(5), "one input took {slowest:?}");
    assert!(grown < 128, "{grown} MiB more");
}

#[test]
#[ignore = "reads 4 h of real recordings; run it after a change of the decoder"]
fn every_real_recording_is_read_whole() {
    let Some(manifest) = crate::golden::shared("audio/manifest.csv") else { return };
    let mut seconds = 0.0;
    for line in std::fs::read_to_string(&manifest).unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let path = manifest.with_file_name(fields[0]);
        let mut reader = AudioReader::open(&path, &DecodeLimits::default()).unwrap();
        let announced_s = reader.announced_s().expect("a length");
        let mut samples = 0;
        while let Some(block) = reader.next_block().unwrap_or_else(|e| panic!("{}: {e}", fields[0]))
        {
            samples += block.len();
        }
        let heard_s = samples as f64 / 16_000.0;
        assert!((heard_s - announced_s).abs() < 1e-3, "{}: {heard_s} s", fields[0]);
        seconds += heard_s;
    }
    eprintln!("{:.2} h", seconds / 3_600.0);
    assert!(seconds > 3_600.0);
}

/// Output of one stream pushed in pieces.
fn resampled(rate: u32, channels: usize, samples: &[f32], sizes: &[usize]) -> Vec<f32> {
    let mut resampler = Resampler::new(rate, channels).unwrap();
    let mut out = Vec::new();
    let mut rest = samples;
    for &size in sizes.iter().cycle() {
        let (piece, after) = rest.split_at(size.min(rest.len()));
        resampler.push(piece, &mut out);
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    resampler.finish(&mut out);
    // It is then as new.
    let mut again = Vec::new();
    resampler.push(samples, &mut again);
    resampler.finish(&mut again);
    assert_eq!(again, out);
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn resampling_does_not_depend_on_how_the_stream_is_cut(
        rate in prop_oneof![
            prop::sample::select(vec![8_000, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000_u32]),
            1_000..60_000_u32,
        ],
        channels in 1..5_usize,
        samples in prop::collection::vec(-1.0..1.0_f32, 0..9_000),
        sizes in prop::collection::vec(1..3_000_usize, 1..6),
    ) {
        let out = resampled(rate, channels, &samples, &sizes);
        prop_assert_eq!(&out, &resampled(rate, channels, &samples, &[samples.len().max(1)]));
        let frames = (samples.len() / channels) as u64;
        prop_assert_eq!(out.len() as u64, (frames * 16_000).div_ceil(u64::from(rate)));
        prop_assert!(out.iter().all(|s| s.is_finite()));
    }

    #[test]
    fn at_16_khz_mono_nothing_changes(samples in prop::collection::vec(any::<f32>(), 0..2_000)) {
        let expected: Vec<f32> =
            samples.iter().map(|s| if s.is_finite() { s.clamp(-1e6, 1e6) } else { 0.0 }).collect();
        let got = resampled(16_000, 1, &samples, &[7, 300]);
        prop_assert!(got == expected);
    }

    #[test]
    fn an_impulse_stays_where_it_is(rate in 4_000..200_000_u32, at in 0.05..0.4_f64) {
        let mut samples = vec![0.0; rate as usize / 2];
        let position = (at * f64::from(rate)) as usize;
        samples[position] = 1.0;
        let out = resampled(rate, 1, &samples, &[4_096]);
        let (peak, _) =
            out.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
        let expected = position as f64 * 16_000.0 / f64::from(rate);
        prop_assert!((peak as f64 - expected).abs() <= 1.0, "{} instead of {}", peak, expected);
    }
}
