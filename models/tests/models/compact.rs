//! The compact network's picture of a window, and the bundle that needs nothing else.

use std::f32::consts::TAU;
use std::path::Path;
use std::sync::OnceLock;

use ecosight_models::audio::{AudioReader, DecodeLimits};
use ecosight_models::bundle::Builtin;
use ecosight_models::classifier::GOLDEN_TOLERANCE;
use ecosight_models::compact::{BANDS, PATCH_FRAMES};
use ecosight_models::scene::{Habitat, Scene, SceneConfig};
use ecosight_models::yamnet::golden::Sound;
use ecosight_models::{
    BundleFiles, Classifier, ClassifierOptions, Detector, DetectorOutput, Extras, HOP_SAMPLES,
    SAMPLE_RATE_HZ, Window, Windower,
};
use proptest::prelude::*;

use crate::import::{ecosight_models, imported, stderr};

fn windows_of(mut windower: Windower, samples: &[f32], size: usize) -> Vec<Window> {
    let mut windows = Vec::new();
    for piece in samples.chunks(size) {
        windower.push(piece);
        windows.extend(std::iter::from_fn(|| windower.next_window()));
    }
    windower.finish();
    windows.extend(std::iter::from_fn(|| windower.next_window()));
    windows
}

fn pictured(samples: &[f32], size: usize) -> Vec<Window> {
    windows_of(Windower::with(Extras { ahead: true, speech: false }), samples, size)
}

/// The plane of a patch that is relative to each band's median: `[frame][band]`.
fn relative(window: &Window) -> &[[f32; BANDS]] {
    let values = &window.compact().expect("a picture").values;
    values[PATCH_FRAMES * BANDS..].as_chunks::<BANDS>().0
}

fn compact() -> Classifier {
    let files = BundleFiles::builtin(Builtin::Compact).expect("shipped");
    Classifier::from_files(files, None, ClassifierOptions::default()).expect("it needs nothing")
}

/// The full one, where YAMNet is at hand.
fn full() -> Option<&'static Classifier> {
    static LOADED: OnceLock<Option<Classifier>> = OnceLock::new();
    let load = || {
        let files = BundleFiles::builtin(Builtin::Full).expect("shipped");
        let options = ClassifierOptions { audioset: false, batching: false };
        Some(Classifier::from_files(files, Some(imported()?), options).expect("it loads"))
    };
    LOADED.get_or_init(load).as_ref()
}

/// The windows are those of the other windower in all else; each comes a hop later, the last with
/// the end.
#[test]
fn the_picture_costs_one_hop_and_changes_nothing_else() {
    let sound = Sound::Bursts.render(3, 6.3);
    let plain = windows_of(Windower::new(), &sound, HOP_SAMPLES);
    let with = pictured(&sound, HOP_SAMPLES);
    assert_eq!(plain.len(), with.len());
    for (plain, with) in plain.iter().zip(&with) {
        assert_eq!(plain.start_sample, with.start_sample);
        assert_eq!(plain.log_mel(), with.log_mel());
        assert_eq!(plain.transient(), with.transient());
        let heard = (plain.end_sample() + HOP_SAMPLES as u64).min(sound.len() as u64);
        assert_eq!(with.end_sample(), heard);
    }
    let mut windower = Windower::with(Extras { ahead: true, speech: false });
    let mut heard = 0;
    for block in sound.chunks(160) {
        windower.push(block);
        heard += block.len() as u64;
        while let Some(window) = windower.next_window() {
            assert!(heard - window.end_sample() < 160, "as soon as its last sample is heard");
        }
    }
}

/// A click shows where it is, and in the right bands; silence around it and what the stream does
/// not hold are level.
#[test]
fn a_tone_burst_shows_in_its_place() {
    let at = 4 * SAMPLE_RATE_HZ as usize;
    let mut sound = Sound::Noise.render(1, 8.0);
    sound.iter_mut().for_each(|sample| *sample *= 0.01);
    for (n, sample) in sound[at..at + 1600].iter_mut().enumerate() {
        *sample += 0.3 * (TAU * 500.0 * n as f32 / SAMPLE_RATE_HZ as f32).sin();
    }
    let windows = pictured(&sound, 999);
    let window = windows
        .iter()
        .find(|w| w.start_sample + 3_000 < at as u64 && at as u64 + 3_000 < w.start_sample + 15_360)
        .expect("one holds it");
    let picture = relative(window);
    let brightest = |value: &dyn Fn(usize, usize) -> f32| {
        let all = (0..PATCH_FRAMES).flat_map(|f| (0..BANDS).map(move |b| (f, b)));
        all.max_by(|a, b| value(a.0, a.1).total_cmp(&value(b.0, b.1))).expect("numbers")
    };
    let (frame, band) = brightest(&|f, b| picture[f][b]);
    // The patch ends 72 frames of 20 ms behind the window's start.
    let seen = window.start_sample as i64 + (frame as i64 + 72 - PATCH_FRAMES as i64) * 320;
    assert!((seen - at as i64).abs() <= 1_600, "{seen} is not {at}");
    // 500 Hz is 606 mel; 60 to 3800 Hz are 93 to 2097 mel in 49 steps.
    assert!((11..=13).contains(&band), "{band}");
    let first = relative(&windows[0]);
    assert!(first[..24].iter().flatten().all(|x| *x == 0.0), "nothing is known before the start");
    let last = relative(windows.last().expect("some"));
    assert!(last[PATCH_FRAMES - 24..].iter().flatten().all(|x| *x == 0.0), "nor beyond the end");
}

/// With YAMNet nowhere the compact bundle runs, and says why; a place that was named is taken at
/// its word.
#[test]
fn without_yamnet_the_compact_bundle_runs_and_says_why() {
    let home = tempfile::tempdir().unwrap();
    let output = ecosight_models(home.path(), &["inspect"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    for part in ["compact: YAMNet is not imported", ".local/share/ecosight/yamnet.onnx", "golden"] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
    assert!(!said.contains("not played"), "{said}");
    let absent = home.path().join("absent.onnx");
    let output = ecosight_models(home.path(), &["inspect", "--yamnet", absent.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("absent.onnx"), "{}", stderr(&output));
}

#[test]
fn the_shipped_compact_bundle_gives_the_scores_that_it_was_made_with() {
    let worst = compact().golden_deviation().unwrap().expect("golden sounds");
    assert!(worst <= GOLDEN_TOLERANCE, "{worst}");
}

/// Clear shots of scenes that nobody trained on are heard, and soon enough.
#[test]
fn shots_of_a_scene_are_heard_within_a_second_and_a_half() {
    let classifier = compact();
    let (mut clear, mut heard, mut late, mut false_alarms) = (0, 0, 0, 0);
    for seed in [11, 12] {
        let mut scene = Scene::new(SceneConfig {
            seed,
            duration_s: Some(180.0),
            distance_m: 60.0..=400.0,
            habitat: Habitat::Rainforest,
            ..SceneConfig::default()
        });
        let mut sound = vec![0.0; 180 * SAMPLE_RATE_HZ as usize];
        scene.render(&mut sound);
        let (windows, scores) = classifier.classify_sound(&sound).unwrap();
        let mut detector = Detector::new(&classifier.bundle().detector);
        let events: Vec<_> = windows
            .iter()
            .zip(&scores)
            .flat_map(|(window, scores)| detector.push(window, scores))
            .filter_map(|output| match output {
                DetectorOutput::Confirmed(event) if event.alert => Some(event),
                _ => None,
            })
            .collect();
        let rate = f64::from(SAMPLE_RATE_HZ);
        let near = |onset_s: f64, at: u64| (at as f64 / rate - onset_s).abs() < 1.0;
        for shot in scene.truth().iter().filter(|event| event.kind.is_shot()) {
            if shot.transient_snr_db < 15.0 {
                continue;
            }
            clear += 1;
            if let Some(event) = events.iter().find(|e| near(shot.onset_s, e.onset_sample)) {
                heard += 1;
                late += usize::from(event.decided_sample as f64 / rate - shot.onset_s > 1.55);
            }
        }
        false_alarms += events
            .iter()
            .filter(|event| {
                !scene
                    .truth()
                    .iter()
                    .any(|shot| shot.kind.is_shot() && near(shot.onset_s, event.onset_sample))
            })
            .count();
    }
    eprintln!("{heard} of {clear} clear shots, {late} late, {false_alarms} false alarms");
    assert!(clear >= 6, "{clear}");
    assert!(heard * 10 >= clear * 7, "{heard} of {clear}");
    assert!(late * 4 <= heard, "{late} of {heard} were decided late");
    assert!(false_alarms <= 2, "{false_alarms}");
}

fn scores_of(classifier: &Classifier, samples: &[f32], size: usize) -> Vec<Vec<f32>> {
    let windows = windows_of(classifier.windower(), samples, size);
    classifier.classify(&windows).unwrap().into_iter().map(|scores| scores.classes).collect()
}

fn differ(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    assert_eq!(a.len(), b.len(), "windows");
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn write_wav(path: &Path, samples: &[f32], rate: u32, channels: u16) {
    let spec = hound::WavSpec {
        channels,
        sample_rate: rate,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for sample in samples {
        for _ in 0..channels {
            writer.write_sample((sample * 32_767.0).round() as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
}

fn read(path: &Path) -> Vec<f32> {
    let mut reader = AudioReader::open(path, &DecodeLimits::default()).unwrap();
    let mut samples = Vec::new();
    while let Some(block) = reader.next_block().unwrap() {
        samples.extend_from_slice(block);
    }
    samples
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// A sound has one score: in whatever pieces it comes, out of whatever container, and nearly so
    /// at whatever rate; by the compact ear also at whatever level.
    #[test]
    fn scores_do_not_depend_on_how_a_sound_comes(
        seed in 0_u64..1_000,
        size in 1_usize..20_000,
        rate in prop::sample::select(vec![22_050_u32, 32_000, 44_100, 48_000]),
        channels in 1_u16..3,
        gain_db in -24.0_f32..0.0,
    ) {
        let mut sound = Sound::Bursts.render(seed, 4.0);
        sound.iter_mut().zip(Sound::Hum.render(seed, 4.0)).for_each(|(a, b)| *a = 0.5 * *a + 0.2 * b);
        let classifier = compact();
        let gain = 10_f32.powf(gain_db / 20.0);
        let quieter: Vec<f32> = sound.iter().map(|sample| gain * sample).collect();
        let off = differ(
            &scores_of(&classifier, &sound, sound.len()),
            &scores_of(&classifier, &quieter, size),
        );
        prop_assert!(off < 0.02, "gain moves a score by {off}");

        let folder = tempfile::tempdir().unwrap();
        let wav = folder.path().join("sound.wav");
        write_wav(&wav, &sound, SAMPLE_RATE_HZ, channels);
        let written = read(&wav);
        // Up and down again: the same sound but for what the filters take.
        let mut faster = Vec::new();
        let mut up = UpSampler::new(rate);
        up.run(&sound, &mut faster);
        write_wav(&wav, &faster, rate, channels);
        let mut back = read(&wav);
        back.resize(sound.len(), 0.0);
        for classifier in std::iter::once(&classifier).chain(full()) {
            let name = &classifier.bundle().name;
            let reference = scores_of(classifier, &sound, sound.len());
            prop_assert_eq!(&reference, &scores_of(classifier, &sound, size));
            let off = differ(&reference, &scores_of(classifier, &written, size));
            prop_assert!(off < 0.02, "16-bit WAV moves a score of {name} by {off}");
            let off = differ(&reference, &scores_of(classifier, &back, size));
            prop_assert!(off < 0.1, "{rate} Hz moves a score of {name} by {off}");
        }
    }
}

/// Any rate from 16 kHz by a windowed sinc, slow and exact.
struct UpSampler {
    ratio: f64,
}

impl UpSampler {
    fn new(rate: u32) -> Self {
        Self { ratio: f64::from(rate) / f64::from(SAMPLE_RATE_HZ) }
    }

    fn run(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        const HALF: i64 = 24;
        let count = (samples.len() as f64 * self.ratio) as usize;
        out.extend((0..count).map(|n| {
            let at = n as f64 / self.ratio;
            let nearest = at.floor() as i64;
            (nearest - HALF + 1..=nearest + HALF)
                .filter_map(|k| {
                    let sample = *samples.get(usize::try_from(k).ok()?)?;
                    let x = at - k as f64;
                    let phase = std::f64::consts::PI * x;
                    let sinc = if x == 0.0 { 1.0 } else { phase.sin() / phase };
                    let window = 0.5 + 0.5 * (phase / (HALF as f64 + 1.0)).cos();
                    Some(f64::from(sample) * sinc * window)
                })
                .sum::<f64>() as f32
        }));
    }
}
