//! Proof that a shot would come through, which never alarms anybody.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use ecosight_agent::canary::{CONTEXT, Canary, Outcome, shot};
use ecosight_agent::config::Config;
use ecosight_agent::ear;
use ecosight_models::detector::DetectorConfig;
use ecosight_models::scene::{Scene, SceneConfig};
use ecosight_models::yamnet::candidates;
use ecosight_shared::Flags;
use tempfile::tempdir;

use crate::bundle::write_thud_bundle;
use crate::station::{AGENT, Place, terminate};
use crate::support::{Random, until};
use crate::uplink::{Cloud, broker};
use crate::uploads;

const RATE: usize = 16_000;

fn noise(len: usize) -> Vec<f32> {
    let mut random = Random(3);
    (0..len).map(|_| (random.below(2_000) as f32 / 1_000.0 - 1.0) * 0.002).collect()
}

/// Lets a canary hear `sound` behind its context; how it went.
fn try_out(config: &Config, rules: Option<DetectorConfig>, sound: &[f32]) -> Outcome {
    let classifier = ear::load(config).expect("a model");
    let rules = rules.unwrap_or_else(|| classifier.bundle().detector.clone());
    let (context, rest) = sound.split_at(CONTEXT as usize);
    let mut canary = Canary::new(classifier, &rules, context, 5_000_000);
    for block in rest.chunks(7_680) {
        match canary.hear(block) {
            Outcome::Open => {}
            outcome => return outcome,
        }
    }
    Outcome::Open
}

fn thud_config(folder: &std::path::Path) -> Config {
    write_thud_bundle(&folder.join("bundle"));
    let mut config = Config::default();
    config.model.bundle = Some(folder.join("bundle"));
    config.privacy.redact_speech = false;
    config
}

#[test]
fn the_shot_is_always_the_same_and_no_louder_than_it_should_be() {
    let first = shot();
    assert_eq!(first, shot());
    let highest = first.iter().fold(0.0_f32, |highest, s| highest.max(s.abs()));
    assert!((0.45..=0.5001).contains(&highest), "{highest}");
}

#[test]
fn a_station_that_hears_hears_it_and_one_that_does_not_says_so() {
    let folder = tempdir().expect("a directory");
    let config = thud_config(folder.path());
    let sound = noise(30 * RATE);
    let Outcome::Heard(event) = try_out(&config, None, &sound) else { panic!("not heard") };
    let expected = 5_000_000 + 6_400;
    assert!(event.onset_sample.abs_diff(expected) < 6_400, "{} {expected}", event.onset_sample);
    let mut deaf = ear::load(&config).expect("a model").bundle().detector.clone();
    for rule in &mut deaf.rules {
        rule.threshold = 2.0;
    }
    assert!(matches!(try_out(&config, Some(deaf), &sound), Outcome::Missed));
    // A real event of a moment ago is not taken for it.
    let mut busy = noise(30 * RATE);
    for (i, sample) in busy[CONTEXT as usize - 2 * RATE..][..4_000].iter_mut().enumerate() {
        *sample += 0.5 * (i as f32 * 0.16).sin();
    }
    if let Outcome::Heard(event) = try_out(&config, None, &busy) {
        assert!(event.onset_sample.abs_diff(expected) < 6_400, "{}", event.onset_sample);
    }
}

#[test]
fn the_shipped_model_hears_it_in_a_forest() {
    if !candidates().iter().any(|path| path.is_file()) {
        assert!(std::env::var_os("CI").is_none(), "YAMNet is not imported");
        eprintln!("skipped: needs the imported YAMNet");
        return;
    }
    for seed in 1..=4 {
        let scene = SceneConfig {
            seed,
            duration_s: Some(30.0),
            shots_per_hour: 0.0,
            first_shot_s: None,
            distractors: false,
            ..SceneConfig::default()
        };
        let mut sound = vec![0.0; 30 * RATE];
        Scene::new(scene).render(&mut sound);
        let outcome = try_out(&Config::default(), None, &sound);
        assert!(matches!(outcome, Outcome::Heard(_)), "forest {seed}: {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_canary_arrives_with_its_mark_and_the_station_is_verified() {
    let Some(broker) = broker() else { return };
    let (_server, url) = uploads::serve(&[]).await;
    let cloud = Cloud::start(&broker, "cloud", true);
    let place = Place::new("kind = \"stdin\"\nspeed = \"max\"", &broker.url(), &url);
    let mut child = Command::new(AGENT)
        .args(["run", "--config"])
        .arg(&place.config)
        .env("ECOSIGHT__CANARY__FIRST", "10s")
        .env("ECOSIGHT__CANARY__EVERY", "20s")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("starts");
    let mut pipe = child.stdin.take().expect("piped");
    let feeding = std::thread::spawn(move || {
        let sound: Vec<u8> =
            noise(50 * RATE).iter().flat_map(|s| ((s * 32_767.0) as i16).to_le_bytes()).collect();
        pipe.write_all(&sound).expect("taken");
        pipe
    });
    until("two canaries", async || cloud.look(|r| r.detections.len() == 2)).await;
    cloud.look(|r| {
        assert!(r.detections.values().all(|detection| detection.flags.contains(Flags::CANARY)));
        assert!(r.detections.values().all(|detection| detection.clip.is_none()));
        assert!(r.alert_times.is_empty() && r.documents.is_empty(), "nobody is alarmed");
    });
    until("verified", async || cloud.look(|r| r.status["health"]["last_verified"].is_string()))
        .await;
    let kept = std::fs::read_to_string(place.data().join("verified.txt")).expect("written");
    assert!(kept.trim().ends_with('Z'), "{kept}");
    drop(feeding.join().expect("fed"));
    terminate(&child);
    tokio::task::block_in_place(|| place.ends_well(child, Duration::from_secs(11)));
}
