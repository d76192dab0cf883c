//! The program `ecosight-models`: classify and inspect, as people and scripts use them.

use std::path::{Path, PathBuf};

use ecosight_models::yamnet::golden::Sound;

use crate::bundle;
use crate::import::{ecosight_models, imported, stderr};

fn write_wav(path: &Path, samples: &[f32]) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for sample in samples {
        writer.write_sample((sample * 32_000.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
}

/// A folder with a bundle that needs no network and three sounds.
fn scene() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let ear = dir.path().join("ear");
    bundle::write(&ear, &["transient"]);
    for (name, sound, seconds) in [
        ("c-long.wav", Sound::Bursts, 6.0),
        ("a-short.wav", Sound::Noise, 0.5),
        ("b-middle.wav", Sound::Hum, 2.0),
    ] {
        write_wav(&dir.path().join(name), &sound.render(5, seconds));
    }
    (dir, ear)
}

fn lines(output: &std::process::Output) -> Vec<serde_json::Value> {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

/// One object a line, in the order given, with a line for what can't be read; the exit code tells.
#[test]
fn json_lines_come_in_the_order_given() {
    let (dir, ear) = scene();
    ecosight_models::durable::write_file(&dir.path().join("broken.wav"), b"RIFF nothing").unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let named =
        ["c-long.wav", "broken.wav", "a-short.wav", "absent.flac", "b-middle.wav"].map(path);
    let mut arguments = vec!["classify", "--json", "--bundle", ear.to_str().unwrap()];
    arguments.extend(named.iter().map(String::as_str));
    let output = ecosight_models(dir.path(), &arguments);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let lines = lines(&output);
    assert_eq!(lines.len(), 5);
    for (line, name) in lines.iter().zip(&named) {
        assert_eq!(line["file"], name.as_str());
        let unreadable = name.contains("broken") || name.contains("absent");
        assert_eq!(line.get("error").is_some(), unreadable, "{line}");
        if unreadable {
            assert_eq!(line.as_object().unwrap().len(), 2, "{line}");
            continue;
        }
        assert_eq!(line["bundle"], "test-ear 0.0.1");
        let scores = line["scores"].as_object().unwrap();
        assert_eq!(scores.keys().collect::<Vec<_>>(), ["hiss", "thud"]);
        assert!(scores.values().all(|score| (0.0..=1.0).contains(&score.as_f64().unwrap())));
        assert!(line.get("windows").is_none());
    }
    assert_eq!(lines[0]["duration_s"], 6.0);
    assert_eq!(lines[2]["duration_s"], 0.5);
}

/// The bundle's threshold is 0, so every file is one event from its first onset on, and the highest
/// window score is the highest of `--windows`.
#[test]
fn windows_and_events_agree_with_the_scores() {
    let (dir, ear) = scene();
    let file = dir.path().join("c-long.wav");
    let arguments = [
        "classify",
        "--json",
        "--windows",
        "--bundle",
        ear.to_str().unwrap(),
        file.to_str().unwrap(),
    ];
    let output = ecosight_models(dir.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let line = &lines(&output)[0];
    let windows = line["windows"].as_array().unwrap();
    assert_eq!(windows.len(), 12, "6 s hold 11 whole windows and one padded");
    for class in ["thud", "hiss"] {
        let highest =
            windows.iter().map(|w| w["scores"][class].as_f64().unwrap()).fold(0.0, f64::max);
        assert_eq!(line["scores"][class].as_f64().unwrap(), highest);
    }
    assert_eq!(windows[1]["start_s"], 0.48);
    let events = line["events"].as_array().unwrap();
    assert_eq!(events.len(), 1, "{line}");
    assert_eq!(events[0]["class"], "hiss");
    let (start, end) =
        (events[0]["start_s"].as_f64().unwrap(), events[0]["end_s"].as_f64().unwrap());
    assert!(start < 1.0 && end > 5.0 && end <= 6.0, "{line}");
    assert!(events[0]["score"].as_f64().unwrap() <= line["scores"]["hiss"].as_f64().unwrap());
}

#[test]
fn a_directory_is_searched_by_name() {
    let (dir, ear) = scene();
    std::fs::create_dir(dir.path().join("b")).unwrap();
    write_wav(&dir.path().join("b/inner.WAV"), &Sound::Noise.render(1, 1.0));
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models/fixtures");
    for (from, to) in [
        ("burst.m4a", "d.m4a"),
        ("burst.m4a", "e.mp4"),
        ("burst.aac", "f.aac"),
        ("burst.mp3", "g.MP3"),
        ("burst.ogg", "h.ogg"),
        ("README.md", "notes.md"),
    ] {
        std::fs::copy(fixtures.join(from), dir.path().join(to)).unwrap();
    }
    let (bundle, root) = (ear.to_str().unwrap(), dir.path().to_str().unwrap());
    let output = ecosight_models(dir.path(), &["classify", "--json", "--bundle", bundle, root]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let names: Vec<String> = lines(&output)
        .iter()
        .map(|line| {
            let path = PathBuf::from(line["file"].as_str().unwrap());
            path.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned()
        })
        .collect();
    let wavs = ["a-short.wav", "b/inner.WAV", "b-middle.wav", "c-long.wav"];
    assert_eq!(names, [&wavs[..], &["d.m4a", "e.mp4", "f.aac", "g.MP3", "h.ogg"]].concat());
    let empty = dir.path().join("ear");
    let output =
        ecosight_models(dir.path(), &["classify", "--bundle", bundle, empty.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("no sound files inside"));
}

#[test]
fn without_yamnet_the_command_to_run_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let ear = dir.path().join("ear");
    bundle::write(&ear, &["yamnet.l14"]);
    let output =
        ecosight_models(dir.path(), &["classify", "--bundle", ear.to_str().unwrap(), "x.wav"]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("`ecosight-models import-yamnet --download`"), "{said}");
    assert!(said.contains(".local/share/ecosight/yamnet.onnx"), "{said}");
    assert!(output.stdout.is_empty());
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&["classify"][..], &["import-yamnet"], &["listen"], &[]] {
        let output = ecosight_models(dir.path(), arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    }
}

#[test]
fn inspect_tells_a_whole_bundle_from_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let ear = dir.path().join("ear");
    let written = bundle::write(&ear, &["transient"]);
    let output = ecosight_models(dir.path(), &["inspect", ear.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let stream = format!("transient ({})", bundle::T);
    for part in ["test-ear 0.0.1", &stream, "thud, hiss", "not measured"] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
    assert!(said.contains(&written.tag.to_string()));
    ecosight_models::durable::write_file(&ear.join("head.onnx"), b"other").unwrap();
    let output = ecosight_models(dir.path(), &["inspect", ear.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("head.onnx"), "{}", stderr(&output));
}

/// Real sound through a bundle on YAMNet's inner exit, imported by the program itself.
#[test]
fn recordings_go_through_the_network() {
    let (Some(yamnet), Some(clip)) =
        (imported(), crate::golden::shared("audio/dog/esc10_0029247fab.flac"))
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let ear = dir.path().join("ear");
    bundle::write(&ear, &["yamnet.l14", "transient"]);
    let arguments = [
        "classify",
        "--json",
        "--bundle",
        ear.to_str().unwrap(),
        "--yamnet",
        yamnet.to_str().unwrap(),
        clip.to_str().unwrap(),
    ];
    let output = ecosight_models(dir.path(), &arguments);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(lines(&output)[0]["duration_s"].as_f64().unwrap() > 1.0);
}
