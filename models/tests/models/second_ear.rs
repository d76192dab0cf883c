//! A compact bundle taken into another as a second ear: what it adds, and that it never judges
//! recordings which it has met.

use std::collections::BTreeMap;
use std::path::Path;

use ecosight_models::bundle::{
    Calibration, HEAD_FILE, Manifest, Normalisation, StreamSpec, write_bundle,
};
use ecosight_models::compact::{BANDS, CHANNELS, NETWORK_FILE, PATCH_FRAMES, PATCH_LEN};
use ecosight_models::onnx::{Attribute, Dim, GraphWriter};
use ecosight_models::{Bundle, Classifier, transient};

use crate::bundle;
use crate::training::{Forest, sound, text};

const SHARE: f32 = 0.3;
const CLASSES: usize = 2;
/// Numbers of a window in the exported material.
const WIDTH: usize = 8 + 2 * transient::LEN + BANDS;

/// A compact bundle that was not trained: its network looks at a few places of the picture.
fn compact_bundle(dir: &Path) -> Bundle {
    let mut network = GraphWriter::new("compact");
    network.input(
        "patch",
        &[Dim::Batch, Dim::Fixed(CHANNELS), Dim::Fixed(PATCH_FRAMES), Dim::Fixed(BANDS)],
    );
    network.output("looked", &[Dim::Batch, Dim::Fixed(CLASSES)]);
    let weight: Vec<f32> =
        (0..PATCH_LEN * CLASSES).map(|n| ((n * 7 + 3) % 11) as f32 / 500.0 - 0.01).collect();
    network.constant("weight", &[PATCH_LEN, CLASSES], &weight);
    network.constant("bias", &[CLASSES], &[0.1, -0.1]);
    network.node("Flatten", &["patch"], "flat", &[Attribute::Int("axis", 1)]);
    network.node("Gemm", &["flat", "weight", "bias"], "looked", &[]);

    let streams =
        [("compact", CLASSES), ("transient", transient::LEN), ("transient.next", transient::LEN)];
    let features = CLASSES + 2 * transient::LEN;
    let mut head = GraphWriter::new("head");
    head.input("x", &[Dim::Batch, Dim::Fixed(features)]);
    head.output("logits", &[Dim::Batch, Dim::Fixed(CLASSES)]);
    let weight: Vec<f32> =
        (0..features * CLASSES).map(|n| ((n * 5 + 1) % 13) as f32 / 30.0 - 0.2).collect();
    head.constant("weight", &[features, CLASSES], &weight);
    head.constant("bias", &[CLASSES], &[0.0, 0.3]);
    head.node("Gemm", &["x", "weight", "bias"], "logits", &[]);

    let manifest = Manifest {
        name: "small".to_owned(),
        version: "3.1.0".to_owned(),
        streams: streams
            .map(|(name, len)| StreamSpec { name: name.to_owned(), len })
            .into_iter()
            .collect(),
        classes: vec!["gun_shot".to_owned(), "background".to_owned()],
        normalisation: Normalisation {
            mean: vec![0.5; features],
            scale: vec![0.2; features],
            limit: Some(1.5),
        },
        calibration: Calibration::Softmax { temperature: 1.0 },
        detector: Vec::new(),
        ..bundle::manifest(&["transient"])
    };
    let files = BTreeMap::from([
        (HEAD_FILE.to_owned(), head.encode()),
        (NETWORK_FILE.to_owned(), network.encode()),
    ]);
    write_bundle(dir, manifest, &files).unwrap()
}

/// A forest with a compact bundle, its material, and a cross-validation of it that knows shots.
fn prepared() -> Forest {
    let forest = Forest::new();
    compact_bundle(&forest.path("small"));
    let output = forest.run(&[
        "export-compact",
        "--data",
        "manifest.csv",
        "--labels",
        "labels.json",
        "--out",
        "work/material",
        "--folds",
        "3",
        "--scenes",
        "1",
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let windows = std::fs::read(forest.path("work/material/windows.f32")).unwrap();
    let said: Vec<u8> = windows
        .chunks_exact(4 * WIDTH)
        .flat_map(|window| {
            let number =
                |n: usize| f32::from_le_bytes(window[4 * n..4 * n + 4].try_into().unwrap());
            let shot = number(3) == 0.0 && number(4) > 0.0;
            let logit: f32 = if shot { 4.0 } else { -4.0 };
            [logit.to_le_bytes(), (-logit).to_le_bytes()].concat()
        })
        .collect();
    ecosight_models::durable::write_file(&forest.path("work/networks/oof.f32"), &said).unwrap();
    forest.write(
        "second.json",
        &format!(
            r#"{{"hidden":16,"epochs":30,"batch":32,"learning_rate":0.01,"second_share":{SHARE}}}"#
        ),
    );
    forest
}

const BESIDE: [&str; 4] = ["--compact", "small", "--compact-work", "work"];

/// Difference of the two classes' logits in every window.
fn margins(bundle: &Path, samples: &[f32]) -> Vec<f32> {
    let classifier = Classifier::load(Some(bundle), None).unwrap();
    let Calibration::Softmax { temperature } = classifier.bundle().manifest.calibration else {
        panic!("not a softmax");
    };
    let (_, scores) = classifier.classify_sound(samples).unwrap();
    scores.iter().map(|own| temperature * (own.classes[0] / own.classes[1]).ln()).collect()
}

#[test]
fn the_bundle_says_what_both_ears_say_in_their_shares() {
    let forest = prepared();
    let alone = forest.train_with("alone", "manifest.csv", "recipe.json", &[]);
    assert!(alone.status.success(), "{}", text(&alone.stderr));
    let both = forest.train_with("both", "manifest.csv", "second.json", &BESIDE);
    assert!(both.status.success(), "{}", text(&both.stderr));

    let bundle = Bundle::open(&forest.path("both")).unwrap();
    let streams: Vec<&str> =
        bundle.manifest.streams.iter().map(|stream| stream.name.as_str()).collect();
    assert_eq!(streams, ["transient", "compact", "transient.next"]);
    let second = bundle.manifest.second.as_ref().unwrap();
    assert_eq!((second.name.as_str(), second.version.as_str()), ("small", "3.1.0"));
    assert_eq!(second.streams, ["compact", "transient.next"]);
    assert_eq!(bundle.manifest.trained_streams(), ["transient"]);
    let classifier = Classifier::load(Some(&forest.path("both")), None).unwrap();
    assert!(classifier.golden_deviation().unwrap().unwrap() < 1e-5);

    let mut windows = 0;
    for seed in 2_000..2_006 {
        let samples = sound(seed, (seed % 2 == 0).then_some(0.1));
        let [both, own, small] =
            ["both", "alone", "small"].map(|name| margins(&forest.path(name), &samples));
        for ((both, own), small) in both.iter().zip(&own).zip(&small) {
            let expected = (1.0 - SHARE) * own + SHARE * small;
            // Beyond it a score has too few digits to be turned back.
            if expected.abs() < 6.0 && own.abs() < 8.0 {
                assert!((both - expected).abs() < 0.01, "{both}, not {expected}");
                windows += 1;
            }
        }
    }
    assert!(windows > 12, "{windows}");

    // Judged with what the networks of the folds said, which know every shot.
    let judged = |name: &str| {
        let bytes = std::fs::read(forest.path(name).join("evaluation.json")).unwrap();
        serde_json::from_slice::<ecosight_models::train::artifact::Evaluation>(&bytes).unwrap()
    };
    let (alone, both) = (judged("alone"), judged("both"));
    assert_eq!(both.second.as_ref().unwrap().bundle, "small 3.1.0");
    let area = |evaluation: &ecosight_models::train::artifact::Evaluation| {
        evaluation.judgement.average_precision.unwrap()
    };
    assert!(area(&both) > 0.99 && area(&both) >= area(&alone), "{} {}", area(&both), area(&alone));
    let card = std::fs::read_to_string(forest.path("both/model-card.md")).unwrap();
    assert!(card.contains("small 3.1.0 listens beside it, for 0.3 of the logits"), "{card}");
}

#[test]
fn there_is_no_second_ear_without_its_own_cross_validation_of_the_same_folds() {
    let forest = prepared();
    let refused = |recipe: &str, more: &[&str], expected: &[&str]| {
        let output = forest.train_with("refused", "manifest.csv", recipe, more);
        assert!(!output.status.success());
        let message = text(&output.stderr);
        for part in expected {
            assert!(message.contains(part), "{part:?} is missing in {message}");
        }
        assert!(!forest.path("refused").exists());
    };
    refused("second.json", &[], &["--compact-work"]);
    refused("second.json", &BESIDE[..2], &["--compact-work"]);
    refused("recipe.json", &BESIDE, &["second_share is 0"]);
    refused("second.json", &["--compact", "nowhere", "--compact-work", "work"], &["nowhere"]);
    refused("second.json", &["--compact", "small", "--compact-work", "idle"], &["train-compact"]);
    // Other folds: the networks have met what they would judge.
    refused(
        "second.json",
        &[&BESIDE[..], &["--seed", "2"]].concat(),
        &["in another fold", "train-compact"],
    );
    // A recording that they did not hear.
    let manifest = std::fs::read_to_string(forest.path("manifest.csv")).unwrap();
    std::fs::copy(forest.path("forest2.wav"), forest.path("other.wav")).unwrap();
    forest.write("more.csv", &(manifest + "other.wav,forest,recording0,made here,CC0\n"));
    let output = forest.train_with("refused", "more.csv", "second.json", &BESIDE);
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("train-compact"), "{}", text(&output.stderr));
    assert!(!forest.path("refused").exists());
}
