//! Log-mel, windows and transient numbers.

use std::f32::consts::TAU;

use ecosight_models::logmel::{BANDS, FRAME_SAMPLES, LogMel, PATCH_FRAMES, PATCH_HOP};
use ecosight_models::{HOP_SAMPLES, SAMPLE_RATE_HZ, Window, Windower, transient};
use proptest::prelude::*;

use crate::golden;

/// All windows of a whole stream that is pushed in pieces of `sizes` samples, over and over.
fn windows_of(samples: &[f32], sizes: &[usize]) -> Vec<Window> {
    let mut windower = Windower::new();
    let mut windows = Vec::new();
    let mut rest = samples;
    for &size in sizes.iter().cycle() {
        let (piece, after) = rest.split_at(size.min(rest.len()));
        windower.push(piece);
        windows.extend(std::iter::from_fn(|| windower.next_window()));
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    windower.finish();
    windows.extend(std::iter::from_fn(|| windower.next_window()));
    windows
}

fn whole(samples: &[f32]) -> Vec<Window> {
    windows_of(samples, &[samples.len().max(1)])
}

/// White noise of this amplitude, the same for the same seed.
fn noise(seed: u32, amplitude: f32, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as f32 / u32::MAX as f32 * 2.0 - 1.0
    };
    (0..len).map(|_| amplitude * next()).collect()
}

/// Adds a decaying thud of 300 Hz.
fn add_thud(samples: &mut [f32], at: usize, amplitude: f32) {
    for (n, sample) in samples[at..].iter_mut().take(8_000).enumerate() {
        let t = n as f32 / SAMPLE_RATE_HZ as f32;
        *sample += amplitude * (-t / 0.08).exp() * (TAU * 300.0 * t).sin();
    }
}

fn number(window: &Window, name: &str) -> f32 {
    let at = transient::names().iter().position(|n| *n == name).expect("a known name");
    window.transient()[at]
}

#[test]
fn log_mel_and_window_counts_match_the_golden_vectors() {
    let Some(cases) = golden::cases() else { return };
    let mut worst = 0.0_f32;
    for case in cases {
        let arrays = golden::read_npz(&case.npz);
        let waveform = golden::waveform(&case, &arrays);
        let windows = whole(&waveform);
        assert_eq!(windows.len(), case.windows, "{}: windows", case.name);
        let golden = &arrays["log_mel"];
        assert_eq!(golden.shape, [(case.windows - 1) * PATCH_HOP + PATCH_FRAMES, BANDS]);
        for (i, window) in windows.iter().enumerate() {
            for (frame, got) in window.log_mel().chunks_exact(BANDS).enumerate() {
                for (got, want) in got.iter().zip(golden.row(i * PATCH_HOP + frame)) {
                    worst = worst.max((got - want).abs());
                }
            }
        }
    }
    eprintln!("largest log-mel difference: {worst:e}");
    assert!(worst <= 1e-3, "{worst:e}");
}

/// Holds where no golden vector is at hand: the transform is written out as its definition.
#[test]
fn log_mel_is_the_log_of_the_mel_weighted_magnitude_spectrum() {
    let samples: [f32; FRAME_SAMPLES] = std::array::from_fn(|n| {
        0.3 * (TAU * 1_000.0 * n as f32 / 16_000.0).sin() + 0.1 * (n as f32 * 1.7).cos()
    });
    let mut got = [0.0; BANDS];
    LogMel::new().frame(&samples, &mut got);

    let mel = |hz: f64| 1127.0 * (1.0 + hz / 700.0).ln();
    let (low, high) = (mel(125.0), mel(7_500.0));
    let edge = |i: usize| low + (high - low) * i as f64 / 65.0;
    for (band, got) in got.iter().enumerate() {
        let mut sum = 0.0;
        for bin in 1..=256_usize {
            let (mut re, mut im) = (0.0, 0.0);
            for (n, sample) in samples.iter().enumerate() {
                let hann = 0.5 - 0.5 * (std::f64::consts::TAU * n as f64 / 400.0).cos();
                let phase = std::f64::consts::TAU * bin as f64 * n as f64 / 512.0;
                re += f64::from(*sample) * hann * phase.cos();
                im -= f64::from(*sample) * hann * phase.sin();
            }
            let at = mel(bin as f64 * 31.25);
            let rising = (at - edge(band)) / (edge(band + 1) - edge(band));
            let falling = (edge(band + 2) - at) / (edge(band + 2) - edge(band + 1));
            sum += re.hypot(im) * rising.min(falling).max(0.0);
        }
        let want = (sum + 0.001).ln();
        assert!((f64::from(*got) - want).abs() < 3e-4, "band {band}: {got} instead of {want}");
    }
}

#[test]
fn windows_follow_one_another_every_hop_and_the_last_is_padded() {
    for (len, count) in
        [(0, 0), (1, 1), (15_600, 1), (15_601, 2), (23_280, 2), (23_281, 3), (160_000, 20)]
    {
        let windows = whole(&noise(1, 0.1, len));
        assert_eq!(windows.len(), count, "{len} samples");
        for (i, window) in windows.iter().enumerate() {
            assert_eq!(window.start_sample, (i * HOP_SAMPLES) as u64);
            assert_eq!(window.end_sample(), (window.start_sample + 15_600).min(len as u64));
            assert!((window.start_sample..window.end_sample()).contains(&window.peak_sample));
        }
    }
}

#[test]
fn a_gap_leaves_no_trace_of_the_sound_before_it() {
    let before = noise(2, 0.5, 100_000);
    let after = noise(3, 0.01, 60_000);
    let mut windower = Windower::new();
    windower.push(&before);
    while windower.next_window().is_some() {}
    windower.reset(500_000);
    windower.push(&after);
    windower.finish();
    let got: Vec<Window> = std::iter::from_fn(|| windower.next_window()).collect();
    let fresh = whole(&after);
    assert_eq!(got.len(), fresh.len());
    for (got, fresh) in got.iter().zip(&fresh) {
        assert_eq!(got.start_sample, fresh.start_sample + 500_000);
        assert_eq!(got.peak_sample, fresh.peak_sample + 500_000);
        assert_eq!(got.end_sample(), fresh.end_sample() + 500_000);
        assert_eq!(got.log_mel(), fresh.log_mel());
        assert_eq!(got.transient(), fresh.transient());
    }
}

#[test]
fn sound_after_the_end_starts_afresh_at_its_own_position() {
    let (first, second) = (noise(4, 0.1, 20_000), noise(5, 0.1, 20_000));
    let mut windower = Windower::new();
    windower.push(&first);
    windower.finish();
    windower.finish();
    assert_eq!(std::iter::from_fn(|| windower.next_window()).count(), 2);
    windower.push(&second);
    let window = windower.next_window().expect("a window");
    assert_eq!(window.start_sample, 20_000);
    assert_eq!(window.log_mel(), whole(&second)[0].log_mel());
}

#[test]
fn the_level_of_a_full_scale_sine_is_0_dbfs() {
    let sine: Vec<f32> = (0..32_000).map(|n| (TAU * 800.0 * n as f32 / 16_000.0).sin()).collect();
    let windows = whole(&sine);
    assert!(windows[0].level_dbfs.abs() < 0.2, "{}", windows[0].level_dbfs);
    assert!(windows[0].noise_floor_dbfs.abs() < 0.2, "{}", windows[0].noise_floor_dbfs);
}

#[test]
fn a_thud_is_found_where_it_is_and_measured_as_it_is() {
    for at in [60_000_usize, 63_217, 66_400] {
        let mut sound = noise(6, 0.01, 96_000);
        add_thud(&mut sound, at, 0.4);
        let windows = whole(&sound);
        let heard: Vec<&Window> = windows
            .iter()
            .filter(|w| w.start_sample as usize + 800 < at && at + 1_600 < w.end_sample() as usize)
            .collect();
        assert!(!heard.is_empty());
        for window in heard {
            let error = window.peak_sample as i64 - at as i64;
            assert!((-200..=400).contains(&error), "onset {at}: {error} samples off");
            assert!(number(window, "100_400.over_median") > 25.0);
            assert!(number(window, "100_400.onset") > 25.0);
            assert!(number(window, "low_minus_high") > 15.0);
            assert_eq!(number(window, "rivals"), 0.0);
            // 10 dB of exp(-t / 80 ms) take 92 ms, if the window lasts that long.
            let decay = number(window, "100_400.decay");
            let reach = number(window, "reach");
            assert!(reach < 0.11 || (0.06..=0.12).contains(&decay), "decay {decay}");
            assert!(number(window, "250_500.after_0_50") > number(window, "250_500.after_50_250"));
        }
        // A second before it there is nothing.
        let quiet = windows.iter().rfind(|w| w.end_sample() as usize + 1_600 < at).expect("one");
        assert!(number(quiet, "100_400.onset") < 15.0);
    }
}

/// Where a recording ends, padding makes a step of what it had of an offset.
#[test]
fn the_end_of_the_stream_is_no_transient() {
    for len in [15_000_usize, 15_700, 20_000, 23_279, 50_001] {
        let sound: Vec<f32> = noise(8, 0.001, len).iter().map(|s| s + 0.1).collect();
        for window in whole(&sound) {
            let thud = number(&window, "100_400.over_median");
            assert!(thud < 15.0, "{len}: {thud} dB at {}", window.peak_sample);
        }
    }
}

#[test]
fn rivals_are_counted_within_the_context_only() {
    let mut sound = noise(7, 0.001, 240_000);
    for at in [30_000, 150_000, 170_000, 190_000, 205_000] {
        add_thud(&mut sound, at, 0.3);
    }
    let windows = whole(&sound);
    let last = windows.iter().rfind(|w| w.start_sample < 203_000).expect("a window");
    assert_eq!(number(last, "rivals"), 3.0, "the thud of 11 s ago is forgotten");
}

#[test]
fn every_number_has_one_name() {
    let mut names = transient::names().to_vec();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), transient::LEN);
    assert!(names.iter().all(|name| !name.is_empty()));
}

/// Sound of all sorts: noise, silence, clicks, thuds, and numbers that are none.
fn any_sound() -> impl Strategy<Value = Vec<f32>> {
    let piece = prop_oneof![
        (any::<u32>(), 0.0..1.0_f32, 1..20_000_usize).prop_map(|(s, a, n)| noise(s, a, n)),
        (1..20_000_usize).prop_map(|n| vec![0.0; n]),
        (1..20_000_usize, any::<f32>()).prop_map(|(n, v)| vec![v; n]),
        (1..9_000_usize).prop_map(|n| {
            let mut click = vec![0.0; n];
            click[n / 2] = 1.0;
            click[n - 1] = -1.0;
            click
        }),
        (any::<u32>(), 8_001..20_000_usize).prop_map(|(s, n)| {
            let mut sound = noise(s, 0.002, n);
            add_thud(&mut sound, n / 3, 0.5);
            sound
        }),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn how_the_stream_is_cut_changes_no_bit(
        sound in any_sound(),
        sizes in prop::collection::vec(1..9_000_usize, 1..8),
    ) {
        prop_assert_eq!(windows_of(&sound, &sizes), whole(&sound));
    }

    #[test]
    fn all_features_of_any_sound_are_finite(sound in any_sound()) {
        for window in whole(&sound) {
            prop_assert!(window.log_mel().iter().all(|v| v.is_finite()));
            prop_assert!(window.transient().iter().all(|v| v.is_finite() && v.abs() <= 99.0));
            prop_assert!(window.level_dbfs.is_finite() && window.noise_floor_dbfs.is_finite());
            prop_assert!(window.peak_sample >= window.start_sample);
            prop_assert!(window.peak_sample < window.end_sample());
        }
    }

    /// 16-bit noise and louder, made 36 dB softer in floating point.
    #[test]
    fn gain_changes_no_number(seed in any::<u32>(), at in 20_000..60_000_usize, db in -36.0..20.0_f32) {
        let mut sound = noise(seed, 0.02, 80_000);
        add_thud(&mut sound, at, 0.3);
        let gain = 10f32.powf(db / 20.0);
        let other: Vec<f32> = sound.iter().map(|s| s * gain).collect();
        for (a, b) in whole(&sound).iter().zip(&whole(&other)) {
            for (name, (a, b)) in transient::names().iter().zip(a.transient().iter().zip(b.transient())) {
                prop_assert!((a - b).abs() < 0.05, "{}: {} and {}", name, a, b);
            }
            prop_assert!((b.level_dbfs - a.level_dbfs - db).abs() < 0.01);
        }
    }
}
