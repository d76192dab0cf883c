//! Laws of whole scenes.

use ecosight_models::scene::{Habitat, Scene, SceneConfig, SceneConfigError, SceneEvent};

use super::{band_power, decibel, rendered};

fn short(seed: u64) -> SceneConfig {
    SceneConfig {
        seed,
        duration_s: Some(30.0),
        ..SceneConfig::default()
    }
}

#[test]
fn a_seed_gives_the_same_scene_whatever_the_blocks() {
    let (whole, scene) = rendered(short(5), 480_000);
    assert_eq!(whole.len(), 480_000);
    for block in [1, 77, 512, 16_000] {
        let (pieces, other) = rendered(short(5), block);
        assert!(whole == pieces, "blocks of {block} samples");
        assert_eq!(scene.truth(), other.truth(), "blocks of {block} samples");
    }
}

#[test]
fn seeds_and_habitats_differ() {
    let power = |a: &[f32], b: &[f32]| -> f32 { a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum() };
    let (one, first) = rendered(short(1), 16_000);
    let (two, second) = rendered(short(2), 16_000);
    let own: f32 = one.iter().map(|v| v * v).sum();
    assert!(power(&one, &two) > own * 0.5);
    assert_ne!(first.truth(), second.truth());
    for habitat in [Habitat::Night, Habitat::DryForest, Habitat::Savanna] {
        let (other, _) = rendered(SceneConfig { habitat, ..short(1) }, 16_000);
        assert!(power(&one, &other) > own * 0.1, "{habitat}");
    }
}

#[test]
fn samples_are_finite_and_within_range_even_where_shots_overload() {
    for habitat in Habitat::ALL {
        let config = SceneConfig {
            habitat,
            distance_m: 15.0..=40.0,
            shots_per_hour: 600.0,
            min_gap_s: 2.0,
            first_shot_s: Some(2.0),
            ..short(8)
        };
        let (samples, _) = rendered(config, 16_000);
        assert!(samples.iter().all(|v| v.is_finite() && v.abs() <= 1.0), "{habitat}");
        let loudest = samples.iter().fold(0.0_f32, |max, v| max.max(v.abs()));
        assert!(loudest > 0.8, "{habitat}: a shot at 15–40 m reaches only {loudest}");
    }
}

#[test]
fn ambience_has_a_plausible_level_and_no_holes() {
    for habitat in Habitat::ALL {
        for seed in 0..4 {
            let config = SceneConfig {
                habitat,
                shots_per_hour: 0.0,
                distractors: false,
                duration_s: Some(60.0),
                ..short(seed)
            };
            let (samples, _) = rendered(config, 16_000);
            let level = |samples: &[f32]| {
                let power: f32 = samples.iter().map(|v| v * v).sum::<f32>() / samples.len() as f32;
                10.0 * power.log10()
            };
            let whole = level(&samples);
            assert!((-66.0..-26.0).contains(&whole), "{habitat}, seed {seed}: {whole} dBFS");
            for second in samples.chunks(16_000) {
                assert!(level(second) > -72.0, "{habitat}, seed {seed}: {} dBFS", level(second));
            }
        }
    }
}

#[test]
fn insects_sing_in_their_bands() {
    // At night crickets and katydids hold 2.5–7.5 kHz; the octave around 1 kHz is quieter per hertz.
    let mut louder = 0;
    for seed in 0..6 {
        let config = SceneConfig {
            habitat: Habitat::Night,
            shots_per_hour: 0.0,
            distractors: false,
            duration_s: Some(20.0),
            ..short(seed)
        };
        let (samples, _) = rendered(config, 16_000);
        let density = |low: f64, high: f64| band_power(&samples, low, high) / (high - low);
        let margin = decibel(density(2_500.0, 7_500.0) / density(700.0, 1_400.0));
        louder += usize::from(margin > 0.0);
        let top = decibel(density(2_500.0, 7_500.0) / density(7_700.0, 7_950.0));
        assert!(top > 3.0, "seed {seed}: the converter's filter leaves {top} dB");
    }
    assert!(louder >= 4, "only {louder} of 6 nights have insects above the rest");
}

fn onsets(truth: &[SceneEvent]) -> Vec<f64> {
    truth
        .iter()
        .filter(|event| event.kind.is_shot())
        .map(|event| event.onset_s)
        .collect()
}

#[test]
fn truth_is_complete_sorted_and_keeps_the_gap() {
    let config = SceneConfig {
        duration_s: Some(1_800.0),
        shots_per_hour: 120.0,
        min_gap_s: 12.0,
        first_shot_s: Some(6.0),
        distance_m: 80.0..=1_200.0,
        ..SceneConfig::default()
    };
    let (_, scene) = rendered(config, 16_000);
    let truth = scene.truth();
    let shots = onsets(truth);
    assert_eq!(shots.len(), 60, "half an hour at 120 an hour");
    assert_eq!(shots[0], 6.0);
    assert!(shots.windows(2).all(|pair| pair[1] - pair[0] >= 12.0 - 1e-3));
    assert!(truth.windows(2).all(|pair| pair[0].onset_s <= pair[1].onset_s));
    assert!(truth.iter().any(|event| !event.kind.is_shot()), "no distractor in half an hour");
    for event in truth {
        assert!(event.end_s > event.onset_s && event.onset_s < 1_800.0, "{event:?}");
        assert!((-110.0..25.0).contains(&event.level_dbfs), "{event:?}");
        assert!((-60.0..90.0).contains(&event.transient_snr_db), "{event:?}");
    }
}

#[test]
fn truth_grows_as_the_scene_is_heard() {
    let mut scene = Scene::new(SceneConfig {
        duration_s: None,
        distractors: false,
        ..SceneConfig::default()
    });
    let mut block = vec![0.0; 16_000];
    for second in 1..=40_u32 {
        assert_eq!(scene.render(&mut block), 16_000);
        for event in scene.truth() {
            assert!(event.onset_s < f64::from(second));
        }
        assert_eq!(scene.truth().is_empty(), second <= 6, "second {second}");
    }
}

#[test]
fn an_endless_scene_has_its_rate() {
    let mut scene = Scene::new(SceneConfig {
        duration_s: None,
        shots_per_hour: 240.0,
        min_gap_s: 5.0,
        distractors: false,
        habitat: Habitat::Savanna,
        ..SceneConfig::default()
    });
    let mut block = vec![0.0; 160_000];
    for _ in 0..180 {
        scene.render(&mut block);
    }
    let shots = onsets(scene.truth());
    // 120 expected in half an hour, standard deviation under 11.
    assert!((80..=160).contains(&shots.len()), "{} shots", shots.len());
    assert!(shots.windows(2).all(|pair| pair[1] - pair[0] >= 5.0 - 1e-3));
}

/// Where the short-time energy of the scene rises most steeply near a listed onset.
fn rise_s(with: &[f32], onset_s: f64) -> f64 {
    let step = 32;
    let from = (onset_s * 16_000.0) as usize - 3_200;
    let energy: Vec<f32> = with[from..from + 6_400]
        .chunks_exact(step)
        .map(|piece| piece.iter().map(|v| v * v).sum())
        .collect();
    let loudest = energy.iter().copied().fold(0.0, f32::max);
    let first = energy.iter().position(|&value| value > loudest * 0.15).unwrap();
    onset_s - 0.2 + (first * step) as f64 / 16_000.0
}

#[test]
fn onsets_are_where_the_sound_rises() {
    let config = SceneConfig {
        duration_s: Some(400.0),
        shots_per_hour: 180.0,
        distance_m: 60.0..=250.0,
        distractors: false,
        ..SceneConfig::default()
    };
    let (samples, scene) = rendered(config, 16_000);
    let mut late = 0;
    for event in scene.truth() {
        let rise = rise_s(&samples, event.onset_s);
        // A bullet's shock wave may come before the blast and be louder.
        if rise < event.onset_s - 0.02 {
            assert!(is_rifle(event), "{event:?} rises at {rise}");
            continue;
        }
        assert!(rise - event.onset_s < 0.02, "{event:?} rises at {rise}");
        late += 1;
    }
    assert!(late >= 15, "only {late} of {} shots begin with their blast", scene.truth().len());
}

fn is_rifle(event: &SceneEvent) -> bool {
    use ecosight_models::scene::{SceneSound, WeaponKind};
    matches!(
        event.kind,
        SceneSound::GunShot {
            weapon: WeaponKind::HuntingRifle | WeaponKind::AssaultRifle,
            ..
        }
    )
}

#[test]
fn shots_move_no_other_sound() {
    // The same seed with and without shots differs only around the shots: what one part draws
    // shifts nothing else.
    let base = SceneConfig {
        duration_s: Some(60.0),
        first_shot_s: Some(30.0),
        shots_per_hour: 60.0,
        min_gap_s: 60.0,
        ..SceneConfig::default()
    };
    let (with, scene) = rendered(base.clone(), 16_000);
    let (without, _) = rendered(SceneConfig { shots_per_hour: 0.0, ..base }, 16_000);
    assert_eq!(onsets(scene.truth()), [30.0]);
    let quiet = (29.5 * 16_000.0) as usize;
    assert!(with[..quiet] == without[..quiet]);
    assert!(with[quiet..quiet + 16_000] != without[quiet..quiet + 16_000]);
}

/// Kilobytes of memory this process holds; 0 where the system does not say.
fn resident_kb() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or(0);
    pages * 4
}

#[test]
fn two_hours_need_no_more_memory_than_ten_minutes() {
    let mut scene = Scene::new(SceneConfig {
        duration_s: None,
        shots_per_hour: 240.0,
        ..SceneConfig::default()
    });
    let mut block = vec![0.0; 16_000];
    let mut minutes = |count: u32| {
        for _ in 0..count * 60 {
            assert_eq!(scene.render(&mut block), 16_000);
        }
        resident_kb()
    };
    let early = minutes(10);
    let late = minutes(110);
    // The sounds at hand differ from moment to moment by a few MB.
    assert!(late < early + 24_000, "{early} kB after 10 minutes, {late} kB after 2 hours");
}

#[test]
fn settings_that_no_scene_can_have_are_all_named() {
    let config = SceneConfig {
        duration_s: Some(-1.0),
        shots_per_hour: f64::NAN,
        first_shot_s: Some(f64::INFINITY),
        min_gap_s: -2.0,
        distance_m: 800.0..=100.0,
        ambience_db: 90.0,
        ..SceneConfig::default()
    };
    let faults = config.validate().unwrap_err();
    assert_eq!(faults.len(), 6, "{faults:?}");
    assert_eq!(faults[0], SceneConfigError::Duration(-1.0));
    // And a scene of them still plays.
    let mut scene = Scene::new(SceneConfig { duration_s: Some(5.0), ..config });
    let mut block = vec![0.0; 100_000];
    assert_eq!(scene.render(&mut block), 80_000);
    assert!(block.iter().all(|v| v.is_finite()));
    let crowded = SceneConfig {
        shots_per_hour: 1_000.0,
        min_gap_s: 10.0,
        ..SceneConfig::default()
    };
    assert!(crowded.validate().is_err());
    assert_eq!(SceneConfig::default().validate(), Ok(()));
}
