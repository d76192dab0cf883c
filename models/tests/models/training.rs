//! From a folder of labelled sound files to a bundle that hears, through the program itself.
//! The sounds are made here and the head takes the `transient` stream alone, so that no network
//! is needed.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use ecosight_models::{Classifier, Detector, DetectorOutput, SAMPLE_RATE_HZ};

const RATE: usize = SAMPLE_RATE_HZ as usize;

/// A small generator of its own: the sounds must not change with a library's version.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> f32 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// Three seconds of hiss, and in it a thud that decays over `decay_s`, or none.
pub(crate) fn sound(seed: u64, thud: Option<f32>) -> Vec<f32> {
    let mut noise = Noise(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _ in 0..9 {
        noise.next();
    }
    let level = 0.002 + 0.01 * noise.next().abs();
    let mut samples: Vec<f32> = (0..3 * RATE).map(|_| level * noise.next()).collect();
    if let Some(decay_s) = thud {
        let at = RATE + (noise.next().abs() * 0.8 * RATE as f32) as usize;
        let loud = 0.2 + 0.5 * noise.next().abs();
        let mut smooth = 0.0;
        for (index, sample) in samples[at..].iter_mut().enumerate() {
            smooth = 0.8 * smooth + 0.4 * noise.next();
            *sample += loud * smooth * (-(index as f32) / (decay_s * RATE as f32)).exp();
        }
    }
    samples
}

fn write_wav(path: &Path, samples: &[f32]) {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: SAMPLE_RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec).unwrap();
    for sample in samples {
        writer.write_sample((sample.clamp(-1.0, 1.0) * 32767.0) as i16).unwrap();
    }
    writer.finalize().unwrap();
}

/// Labelled sounds in a folder.
pub(crate) struct Forest {
    dir: tempfile::TempDir,
}

impl Forest {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = String::from("path,label,recording_id,source,licence\n");
        for index in 0..36 {
            let (label, thud) = match index % 3 {
                0 => ("gun_shot", Some(0.15)),
                1 => ("door_slam", Some(0.004)),
                _ => ("forest", None),
            };
            let name = format!("{label}{index}.wav");
            write_wav(&dir.path().join(&name), &sound(index, thud));
            manifest += &format!("{name},{label},recording{},made here,CC0\n", index / 6);
        }
        let forest = Self { dir };
        forest.write("manifest.csv", &manifest);
        forest.write(
            "labels.json",
            r#"{"classes":[
                {"name":"gun_shot","labels":["gun_shot"],"sparse":true,"alert":true},
                {"name":"background","labels":[],"rest":true}]}"#,
        );
        forest.write("recipe.json", r#"{"hidden":16,"epochs":30,"batch":32,"learning_rate":0.01}"#);
        forest
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    #[allow(clippy::disallowed_methods, reason = "test fixtures need no durable write")]
    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ecosight-models"))
            .current_dir(self.dir.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .args(arguments)
            .output()
            .unwrap()
    }

    fn train(&self, out: &str, data: &str, recipe: &str) -> Output {
        self.train_with(out, data, recipe, &[])
    }

    pub(crate) fn train_with(&self, out: &str, data: &str, recipe: &str, more: &[&str]) -> Output {
        let arguments = [
            "train",
            "--data",
            data,
            "--labels",
            "labels.json",
            "--recipe",
            recipe,
            "--streams",
            "transient",
            "--networks",
            "2",
            "--folds",
            "3",
            "--out",
            out,
            "--name",
            "thud",
            "--version",
            "1.0.0",
        ];
        self.run(&[&arguments[..], more].concat())
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn labelled_files_become_a_bundle_that_hears() {
    let forest = Forest::new();
    let output = forest.train("bundle", "manifest.csv", "recipe.json");
    assert!(output.status.success(), "{}", text(&output.stderr));

    let classifier = Classifier::load(Some(&forest.path("bundle")), None).unwrap();
    let bundle = classifier.bundle();
    assert_eq!((bundle.name.as_str(), bundle.version.as_str()), ("thud", "1.0.0"));
    assert!(classifier.golden_deviation().unwrap().unwrap() < 1e-5);
    let confirmed = |samples: &[f32]| {
        let (windows, scores) = classifier.classify_sound(samples).unwrap();
        let mut detector = Detector::new(&bundle.detector);
        let mut events = 0;
        for (window, scores) in windows.iter().zip(&scores) {
            for output in detector.push(window, scores) {
                events += usize::from(matches!(output, DetectorOutput::Confirmed(_)));
            }
        }
        events
    };
    // Sounds that it was not trained on.
    let heard = (1000..1020).filter(|seed| confirmed(&sound(*seed, Some(0.15))) > 0).count();
    let fooled = (1000..1020).filter(|seed| confirmed(&sound(*seed, None)) > 0).count();
    assert!(heard >= 15, "{heard} of 20 heard");
    assert!(fooled <= 4, "{fooled} of 20 fooled it");

    // The card and the numbers say where it comes from.
    let card = std::fs::read_to_string(forest.path("bundle/model-card.md")).unwrap();
    assert!(card.contains("| made here | 36 | 6 | 12 | CC0 |"), "{card}");
    assert!(card.contains("Non-commercial"));
    let evaluation = std::fs::read(forest.path("bundle/evaluation.json")).unwrap();
    let evaluation: ecosight_models::train::artifact::Evaluation =
        serde_json::from_slice(&evaluation).unwrap();
    assert_eq!(evaluation.folds, 3);
    assert!(evaluation.judgement.average_precision.unwrap() > 0.8);

    // The manifest has the thresholds that were not taken too, keener and quieter.
    let rule = &bundle.manifest.detector[0];
    let names: Vec<&str> = rule.operating_points.iter().map(|point| point.name.as_str()).collect();
    assert_eq!(names, ["0.33/h", "1/h", "3/h", "10/h"]);
    for (point, rate) in rule.operating_points.iter().zip(&evaluation.judgement.rates) {
        assert_eq!(point.threshold, rate.threshold);
        let [low, high] = point.false_alarms_interval.unwrap();
        assert!(low <= point.false_alarms_per_hour && point.false_alarms_per_hour <= high);
        let [low, high] = point.recall_interval.unwrap();
        assert!(low <= point.recall && point.recall <= high);
    }
    let said = text(&forest.run(&["inspect", "bundle"]).stdout);
    assert!(said.contains("10/h     score ≥"), "{said}");

    // A second run from the warm cache makes the same head, bit by bit.
    let known = ["--report", "report", "--against", "bundle/evaluation.json"];
    let again = forest.train_with("again", "manifest.csv", "recipe.json", &known);
    assert!(again.status.success(), "{}", text(&again.stderr));
    assert_eq!(text(&output.stdout), text(&again.stdout));
    let head = |bundle: &str| std::fs::read(forest.path(bundle).join("head.onnx")).unwrap();
    assert_eq!(head("bundle"), head("again"));
    let file = |name: &str| std::fs::read(forest.path(name)).unwrap();
    assert_eq!(file("report/evaluation.json"), file("bundle/evaluation.json"));
    assert_eq!(file("report/evaluation.html"), file("bundle/evaluation.html"));

    // Figures that it does not reach again are told, and nothing is written.
    let mut better = evaluation.clone();
    better.shipped.recall[0].recall += 0.1;
    forest.write("better.json", &serde_json::to_string(&better).unwrap());
    let known = ["--against", "better.json", "--within", "0.05"];
    let output = forest.train_with("worse", "manifest.csv", "recipe.json", &known);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    assert!(said.contains("better.json") && said.contains("as shipped, made here"), "{said}");
    assert!(!forest.path("worse").exists());

    // And `evaluate` reads what `train` wrote.
    let output = forest.run(&[
        "evaluate",
        "--bundle",
        "bundle",
        "--data",
        "manifest.csv",
        "--labels",
        "labels.json",
        "--json",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["judgement"]["background_clips"], 24);
    assert!(report["shipped"]["recall"][0]["recall"].as_f64().unwrap() > 0.8);
}

#[test]
fn what_cannot_be_trained_is_refused_by_name_and_nothing_is_written() {
    let forest = Forest::new();
    let refused = |data: &str, recipe: &str, expected: &str| {
        let output = forest.train("bundle", data, recipe);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        let message = text(&output.stderr);
        assert!(message.contains(expected), "{message}");
        assert!(!forest.path("bundle").exists());
    };
    forest.write("typo.json", r#"{"hiden": 3}"#);
    refused("manifest.csv", "typo.json", "hiden");
    forest.write("wild.json", r#"{"dropout": 1.5}"#);
    refused("manifest.csv", "wild.json", "dropout");
    forest.write("missing.csv", "path,label\nnowhere.wav,gun_shot\n");
    refused("missing.csv", "recipe.json", "nowhere.wav");
    forest.write("torn.wav", "RIFF");
    forest.write("torn.csv", "path,label\ntorn.wav,gun_shot\nforest2.wav,forest\n");
    refused("torn.csv", "recipe.json", "torn.wav");
    forest.write("quiet.csv", "path,label\nforest2.wav,forest\nforest5.wav,forest\n");
    refused("quiet.csv", "recipe.json", "gun_shot");
}

/// A cross-validation that tests memory is not believed: the same sound under another name, in another
/// group.
#[test]
fn a_recording_on_both_sides_of_a_fold_is_refused_unless_that_is_allowed() {
    let forest = Forest::new();
    let mut manifest = std::fs::read_to_string(forest.path("manifest.csv")).unwrap();
    for index in [2, 5, 8, 11] {
        let (known, again) = (format!("forest{index}.wav"), format!("again{index}.wav"));
        std::fs::copy(forest.path(&known), forest.path(&again)).unwrap();
        manifest += &format!("{again},forest,again{index},made here,CC0\n");
    }
    forest.write("twice.csv", &manifest);
    let output = forest.train("bundle", "twice.csv", "recipe.json");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    for part in ["again", "(recording", "twice.csv", "--allow-leaks"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    assert!(!forest.path("bundle").exists());

    let more = ["--allow-leaks", "--random-split"];
    let output = forest.train_with("bundle", "twice.csv", "recipe.json", &more);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("on both sides of a fold"));
    let page = std::fs::read_to_string(forest.path("bundle/evaluation.html")).unwrap();
    for part in ["sound like one recording: ", "dealt to folds at random", "Calibration"] {
        assert!(page.contains(part), "{part} is missing in {page}");
    }
    let bytes = std::fs::read(forest.path("bundle/evaluation.json")).unwrap();
    let evaluation: ecosight_models::train::artifact::Evaluation =
        serde_json::from_slice(&bytes).unwrap();
    assert!(evaluation.likenesses_parted.unwrap() >= 1);
    let [low, high] = evaluation.shipped.interval_per_hour.unwrap();
    let per_hour = evaluation.shipped.false_alarms as f64 / evaluation.judgement.background_hours;
    assert!(low <= per_hour && per_hour <= high);
}

/// The shipped heads were trained when the name of a source said which recorders it is of: what the
/// manifest says of rates comes to the same for each clip.
#[test]
fn the_shipped_collection_is_treated_as_when_it_was_trained_on() {
    use ecosight_models::train::dataset::read_listed;
    use ecosight_models::train::labels::LabelMap;
    use ecosight_models::train::material::Library;
    let Some(manifest) = crate::golden::shared("audio/manifest.csv") else { return };
    let clips = read_listed(&manifest, manifest.parent().unwrap()).unwrap();
    let fold = vec![0; clips.len()];
    let library = Library::new(clips, fold, &LabelMap::builtin().unwrap());
    let mut narrow = 0;
    for (index, clip) in library.clips().iter().enumerate() {
        let elp = clip.source.starts_with("elp");
        assert_eq!(library.is_narrow(index), elp, "{}", clip.name);
        assert_eq!(library.is_far(index), elp, "{}", clip.name);
        narrow += usize::from(elp);
    }
    assert!(narrow > 1_000, "{narrow}");
}

/// Scenes and staged shots are learnt from, beside the recordings, and nothing is judged on them.
#[test]
fn synthetic_scenes_are_learnt_from_and_not_judged_on() {
    let forest = Forest::new();
    let evaluation = |out: &str, more: &[&str]| {
        let output = forest.train_with(out, "manifest.csv", "recipe.json", more);
        assert!(output.status.success(), "{}", text(&output.stderr));
        let bytes = std::fs::read(forest.path(out).join("evaluation.json")).unwrap();
        serde_json::from_slice::<ecosight_models::train::artifact::Evaluation>(&bytes).unwrap()
    };
    let plain = evaluation("plain", &[]);
    let more = evaluation("more", &["--scenes", "2", "--staged", "6"]);
    assert_eq!((more.copies.scenes, more.copies.staged), (2, 6));
    // Two minutes of 124 windows each, less those around ten shots, and six shots.
    let windows = more.windows - plain.windows;
    assert!((80..240).contains(&windows), "{windows}");
    assert_eq!(more.judgement.background_clips, plain.judgement.background_clips);
    let clips = |evaluation: &ecosight_models::train::artifact::Evaluation| -> Vec<usize> {
        evaluation.shipped.recall.iter().map(|line| line.clips).collect()
    };
    assert_eq!(clips(&more), clips(&plain));
}
