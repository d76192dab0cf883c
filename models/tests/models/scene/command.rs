//! `ecosight-models scene`.

use clap::Parser;
use ecosight_models::scene::cli::{SceneArgs, run};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    scene: SceneArgs,
}

fn args(line: &[&str]) -> SceneArgs {
    Command::try_parse_from(std::iter::once("scene").chain(line.iter().copied()))
        .unwrap()
        .scene
}

#[test]
fn it_writes_the_sound_and_its_truth() {
    let folder = tempfile::tempdir().unwrap();
    let (wav, json) = (folder.path().join("scene.wav"), folder.path().join("scene.json"));
    let line = [
        "--seed", "7", "--duration", "20s", "--first-shot", "6s", "--distance", "100..300",
        "--out", wav.to_str().unwrap(), "--truth", json.to_str().unwrap(),
    ];
    let summary = run(&args(&line)).unwrap();
    assert_eq!(summary.samples, 320_000);
    assert_eq!(summary.shots, 1);

    let reader = hound::WavReader::open(&wav).unwrap();
    assert_eq!(reader.len(), 320_000);
    assert_eq!((reader.spec().sample_rate, reader.spec().bits_per_sample), (16_000, 16));
    let truth: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(truth["audio"], "scene.wav");
    let shot = truth["events"]
        .as_array()
        .unwrap()
        .iter()
        .find(|event| event["sound"] == "gun_shot")
        .unwrap();
    assert_eq!(shot["onset_s"], 6.0);
    assert!((100.0..300.0).contains(&shot["distance_m"].as_f64().unwrap()));

    let before = std::fs::read(&wav).unwrap();
    run(&args(&line)).unwrap();
    assert!(before == std::fs::read(&wav).unwrap(), "the same command gave another file");
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
    assert_eq!(left.len(), 2, "drafts were left: {left:?}");
}

#[test]
fn wrong_settings_are_usage_errors_and_write_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let wav = folder.path().join("scene.wav");
    let out = wav.to_str().unwrap();
    for (line, word) in [
        (vec!["--distance", "800..100", "--out", out], "distance"),
        (vec!["--shots-per-hour", "-3", "--out", out], "shots_per_hour"),
        (vec!["--duration", "0", "--out", out], "duration"),
        (vec!["--duration", "90h", "--out", out], "WAV"),
        (vec!["--shots-per-hour", "900", "--min-gap", "1m", "--out", out], "fit"),
    ] {
        let parsed = Command::try_parse_from(
            ["scene"].into_iter().chain(line.iter().copied()),
        );
        let Ok(command) = parsed else {
            // clap itself refused it, which is a usage error too.
            continue;
        };
        let error = run(&command.scene).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{line:?}");
        assert!(error.to_string().contains(word), "{line:?}: {error}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    assert!(Command::try_parse_from(["scene", "--out", out, "--habitat", "moon"]).is_err());
    assert!(Command::try_parse_from(["scene", "--out", out, "--duration", "soon"]).is_err());
}

#[test]
fn a_place_that_cannot_be_written_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let wav = folder.path().join("missing").join("scene.wav");
    let error = run(&args(&["--duration", "1s", "--out", wav.to_str().unwrap()])).unwrap_err();
    assert_eq!(error.exit_code(), 1);
    assert!(error.to_string().contains("missing"), "{error}");
    let error = run(&args(&["--duration", "1s", "--out", folder.path().to_str().unwrap()])).unwrap_err();
    assert!(error.to_string().contains("directory"), "{error}");
}
