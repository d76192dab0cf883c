//! Speech never reaches the disk.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use ecosight_agent::config::{self, Config, SourceKind, Speed};
use ecosight_agent::ear::{self, Ear};
use ecosight_agent::health::Health;
use ecosight_agent::hearing::{Heard, channel};
use ecosight_agent::speech::{Redaction, Speech};
use ecosight_models::audio::{AudioReader, DecodeLimits};
use ecosight_models::scene::{Scene, SceneConfig};
use ecosight_models::yamnet::candidates;
use proptest::prelude::*;
use tempfile::tempdir;
use tokio_util::sync::CancellationToken;

use crate::bundle::write_thud_bundle;
use crate::support::{hearing, write_sound};

const RATE: usize = 16_000;
const SECOND: u64 = 16_000;

proptest! {
    /// Whatever is heard and wherever a recording is cut: nothing within the margin of a window
    /// with speech is left, and nothing else is touched.
    #[test]
    fn exactly_the_marked_parts_are_silent(
        windows in prop::collection::vec(any::<bool>(), 1..60),
        margin in 0_u64..40_000,
        from in 0_u64..200_000,
        len in 1_usize..300_000,
    ) {
        let mut speech = Speech::new(margin);
        let mut marked = Vec::new();
        for (number, has_speech) in windows.iter().enumerate() {
            let start = number as u64 * 7_680;
            speech.note(start, start + 15_600, *has_speech);
            if *has_speech {
                marked.push((start.saturating_sub(margin), start + 15_600 + margin));
            }
        }
        let mut samples = vec![1_i16; len];
        let parts = speech.redact(from, &mut samples);
        for (at, sample) in samples.iter().enumerate() {
            let position = from + at as u64;
            let inside = marked.iter().any(|(start, end)| (*start..*end).contains(&position));
            prop_assert_eq!(*sample == 0, inside, "at {}", position);
        }
        let silent: u64 = parts.iter().map(|(start, end)| end - start).sum();
        prop_assert_eq!(silent, samples.iter().filter(|sample| **sample == 0).count() as u64);
    }
}

/// A model that hears speech, or nothing where YAMNet is not imported and tests need not be
/// complete.
fn yamnet() -> Option<PathBuf> {
    let found = candidates().into_iter().find(|path| path.is_file());
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "YAMNet is not imported");
        eprintln!("skipped: needs the imported YAMNet");
    }
    found
}

/// `text` as espeak-ng says it, 16 kHz, or nothing where it is not installed.
fn said(text: &str, voice: &str, folder: &Path) -> Option<Vec<f32>> {
    let path = folder.join("said.wav");
    let spoken = Command::new("espeak-ng").args(["-v", voice, "-w"]).arg(&path).arg(text).status();
    if !spoken.is_ok_and(|status| status.success()) {
        assert!(std::env::var_os("CI").is_none(), "espeak-ng is not installed");
        eprintln!("skipped: needs espeak-ng");
        return None;
    }
    let limits = DecodeLimits { max_bytes: 1 << 24, max_seconds: 60.0 };
    let mut reader = AudioReader::open(&path, &limits).expect("sound");
    let mut samples = Vec::new();
    while let Some(block) = reader.next_block().expect("decodes") {
        samples.extend_from_slice(block);
    }
    Some(samples)
}

fn forest(seconds: usize) -> Vec<f32> {
    let config = SceneConfig {
        seed: 5,
        duration_s: Some(seconds as f64),
        shots_per_hour: 0.0,
        first_shot_s: None,
        distractors: false,
        ..SceneConfig::default()
    };
    let mut samples = vec![0.0; seconds * RATE];
    let rendered = Scene::new(config).render(&mut samples);
    assert_eq!(rendered, samples.len());
    samples
}

fn level(samples: &[f32]) -> f32 {
    (samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32).sqrt()
}

fn settings(path: &Path) -> Config {
    Config {
        source: config::Source {
            kind: SourceKind::File,
            path: Some(path.to_owned()),
            speed: Speed::Maximum,
            ..config::Source::default()
        },
        ..Config::default()
    }
}

/// The marked parts of a recording, by the station's own ear.
fn marked(samples: &[f32], folder: &Path) -> Vec<(u64, u64)> {
    marked_with(&settings(&folder.join("unused.wav")), samples)
}

fn marked_with(config: &Config, samples: &[f32]) -> Vec<(u64, u64)> {
    let classifier = ear::load(config).expect("a model");
    let mut ear = Ear::new(classifier, config, Arc::new(Health::default())).expect("an ear");
    let _ = ear.hear(samples);
    let _ = ear.end();
    let Redaction::On(speech) = ear.redaction() else { panic!("redaction is on by default") };
    speech.redact(0, &mut vec![1; samples.len()])
}

#[test]
fn synthetic_speech_in_a_forest_is_taken_out_and_the_forest_is_kept() {
    let folder = tempdir().expect("a directory");
    if yamnet().is_none() {
        return;
    }
    let forest = forest(40);
    let kept = marked(&forest, folder.path());
    let lost: u64 = kept.iter().map(|(from, to)| to - from).sum();
    assert!(lost < 8 * SECOND, "of 40 s of forest without people {lost} samples were taken");
    let text = "There is a vehicle near the river. We walk along the ridge tonight and meet the \
                others before dawn.";
    for voice in ["en", "en+f3", "fr"] {
        let Some(speech) = said(text, voice, folder.path()) else { return };
        for over_forest_db in [20.0, 10.0, 5.0] {
            let gain = 10_f32.powf(over_forest_db / 20.0) * level(&forest) / level(&speech);
            let start = 12 * RATE;
            let mut mixed = forest.clone();
            for (sum, sample) in mixed[start..].iter_mut().zip(&speech) {
                *sum += sample * gain;
            }
            let end = (start + speech.len()).min(mixed.len());
            let parts = marked(&mixed, folder.path());
            let covered =
                |at: usize| parts.iter().any(|(from, to)| (*from..*to).contains(&(at as u64)));
            let said_s = (start..end).filter(|at| covered(*at)).count() as f64 / RATE as f64;
            let whole_s = (end - start) as f64 / RATE as f64;
            assert!(
                said_s > 0.999 * whole_s,
                "{voice} at {over_forest_db} dB over the forest: {said_s:.2} of {whole_s:.2} s"
            );
        }
    }
}

#[test]
fn a_clip_is_cut_only_when_everything_around_it_was_listened_to() {
    let folder = tempdir().expect("a directory");
    if yamnet().is_none() {
        return;
    }
    // People begin to speak just behind the end of the clip: the margin before them is silenced.
    let Some(speech) = said("Who is there? Come here at once.", "en", folder.path()) else {
        return;
    };
    let mut sound = forest(40);
    let gain = 0.2 / level(&speech);
    for (sum, sample) in sound[18 * RATE + 8_000..].iter_mut().zip(&speech) {
        *sum += sample * gain;
    }
    let path = folder.path().join("night.wav");
    write_sound(&path, &sound);
    let mut config = settings(&path);
    // Everything is a gunshot to it: events are wherever we want them.
    config.model.thresholds.insert("gun_shot".into(), 0.0);
    config.clip.longest = std::time::Duration::from_secs(18);
    let health = Arc::new(Health::default());
    let classifier = ear::load(&config).expect("a model");
    let ear = Ear::new(classifier, &config, Arc::clone(&health)).expect("an ear");
    let hearing = hearing(ear, &config, &health);
    let (heard, mut told) = channel();
    let listening = std::thread::spawn(move || hearing.listen(heard, &CancellationToken::new()));
    let mut recording = None;
    while let Some(heard) = told.blocking_recv() {
        // Other classes may have events of their own.
        if let Heard::Closed { event, recording: cut, .. } = heard
            && event.alert
        {
            recording = cut;
        }
    }
    listening.join().expect("no panic").expect("no error");
    let recording = recording.expect("a recording");
    assert_eq!(recording.samples.len(), 18 * RATE);
    // It ends half a second before the first word, within the margin of two seconds.
    let last = recording.samples[17 * RATE..].iter().all(|sample| *sample == 0);
    assert!(last, "the margin before speech: {:?}", recording.redacted);
    assert!(recording.samples[..8 * RATE].iter().any(|sample| *sample != 0), "the rest is kept");
}

#[test]
fn speech_is_taken_out_without_yamnet_too_unless_that_is_turned_off() {
    let folder = tempdir().expect("a directory");
    write_thud_bundle(&folder.path().join("bundle"));
    let mut config = settings(&folder.path().join("night.wav"));
    config.model.bundle = Some(folder.path().join("bundle"));
    let Some(speech) = said("There is a vehicle near the river.", "en", folder.path()) else {
        return;
    };
    let mut mixed = forest(30);
    let gain = 10_f32.powf(10.0 / 20.0) * level(&mixed) / level(&speech);
    let start = 12 * RATE;
    mixed[start..].iter_mut().zip(&speech).for_each(|(sum, sample)| *sum += sample * gain);
    let parts = marked_with(&config, &mixed);
    let silent = |at: usize| parts.iter().any(|(from, to)| (*from..*to).contains(&(at as u64)));
    assert!((start..start + speech.len()).all(silent), "{parts:?}");
    config.privacy.redact_speech = false;
    assert!(matches!(ear::redaction(&config.privacy), Redaction::Off));
}

#[test]
fn recordings_of_speech_are_recognised() {
    let shared = std::env::var_os("ECOSIGHT_SHARED")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"), PathBuf::from);
    let folder = shared.join("audio/speech");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    files.sort();
    if files.is_empty() || yamnet().is_none() {
        assert!(std::env::var_os("CI").is_none(), "no recordings at {}", folder.display());
        eprintln!("skipped: needs recordings of speech");
        return;
    }
    let (mut found, mut all) = (0, 0);
    for file in files.iter().take(25) {
        let limits = DecodeLimits { max_bytes: 1 << 24, max_seconds: 60.0 };
        let mut reader = AudioReader::open(file, &limits).expect("sound");
        let mut samples = Vec::new();
        while let Some(block) = reader.next_block().expect("decodes") {
            samples.extend_from_slice(block);
        }
        all += 1;
        found += usize::from(!marked(&samples, folder.as_path()).is_empty());
    }
    eprintln!("{found} of {all} recordings of speech are recognised");
    assert!(found * 10 >= all * 9, "{found} of {all}");
}

#[test]
fn what_either_of_two_models_took_for_speech_is_taken_out() {
    let (mut old, mut new) = (Speech::new(10), Speech::new(10));
    for (start, end) in [(100, 200), (500, 600)] {
        old.note(start, end, true);
    }
    for (start, end) in [(150, 250), (700, 800)] {
        new.note(start, end, true);
    }
    new.absorb(&old);
    let mut samples = [1_i16; 1_000];
    assert_eq!(new.redact(0, &mut samples), [(90, 260), (490, 610), (690, 810)]);
    assert_eq!(samples.iter().filter(|sample| **sample == 0).count(), 170 + 120 + 120);
    // What comes next goes on from there.
    new.note(805, 900, true);
    assert_eq!(new.redact(0, &mut samples).last(), Some(&(690, 910)));
}
