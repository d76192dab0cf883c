//! Bundles: written whole, read only if unchanged, refused with the file, the field and the remedy.

use std::collections::BTreeMap;
use std::path::Path;

use ecosight_models::bundle::{
    BackboneSpec, Calibration, GoldenClip, HEAD_FILE, MANIFEST_FILE, Manifest, Normalisation,
    RuleSpec, SCHEMA, SecondSpec, StreamSpec, write_bundle,
};
use ecosight_models::features::stream_len;
use ecosight_models::onnx::{Attribute, Dim, GraphWriter};
use ecosight_models::yamnet::golden::Sound;
use ecosight_models::{
    Bundle, BundleError, BundleFiles, Classifier, ClassifierOptions, LoadError, Windower,
};
use proptest::prelude::*;

use crate::import::imported;

/// Numbers of the stream `transient`.
pub(crate) const T: usize = ecosight_models::transient::LEN;

/// A linear head on `features` numbers for `classes`: the mean of the features, class by class
/// shifted, so that scores can be worked out by hand.
pub(crate) fn linear_head(features: usize, classes: usize) -> Vec<u8> {
    let mut graph = GraphWriter::new("head");
    graph.input("x", &[Dim::Batch, Dim::Fixed(features)]);
    let weight = vec![1.0 / features as f32; classes * features];
    let bias: Vec<f32> = (0..classes).map(|class| class as f32 * 0.5 - 1.0).collect();
    graph.constant("weight", &[classes, features], &weight);
    graph.constant("bias", &[classes], &bias);
    graph.node("Gemm", &["x", "weight", "bias"], "logits", &[Attribute::Int("transB", 1)]);
    graph.output("logits", &[Dim::Batch, Dim::Fixed(classes)]);
    graph.encode()
}

/// The manifest of a bundle on `streams` that hears `thud` and `hiss`.
pub(crate) fn manifest(streams: &[&str]) -> Manifest {
    let streams: Vec<StreamSpec> = streams
        .iter()
        .map(|name| StreamSpec { name: (*name).to_owned(), len: stream_len(name).unwrap() })
        .collect();
    let features: usize = streams.iter().map(|stream| stream.len).sum();
    let backbone = streams.iter().any(|stream| stream.name.starts_with("yamnet"));
    Manifest {
        schema: SCHEMA.to_owned(),
        name: "test-ear".to_owned(),
        version: "0.0.1".to_owned(),
        created: "2026-01-01T00:00:00Z".to_owned(),
        description: "For tests.".to_owned(),
        streams,
        classes: vec!["thud".to_owned(), "hiss".to_owned()],
        normalisation: Normalisation {
            mean: vec![0.5; features],
            scale: vec![0.1; features],
            limit: Some(3.0),
        },
        calibration: Calibration::Sigmoid { slope: vec![2.0, 1.0], offset: vec![0.0, 0.25] },
        detector: vec![RuleSpec {
            class: "hiss".to_owned(),
            threshold: 0.0,
            confirm_windows: 1,
            refractory_s: 1.0,
            alert: true,
            chosen_at: None,
            operating_points: Vec::new(),
        }],
        backbone: backbone.then(|| BackboneSpec {
            architecture: "yamnet-v1".to_owned(),
            trained_on_sha256: "0".repeat(64),
        }),
        second: None,
        golden: Vec::new(),
        files: Vec::new(),
    }
}

/// A second ear that hears a stream which no bundle of these tests declares.
fn second() -> SecondSpec {
    SecondSpec {
        name: "small".to_owned(),
        version: "1.0.0".to_owned(),
        share: 0.25,
        streams: vec!["compact".to_owned()],
    }
}

/// Writes such a bundle to `dir`.
pub(crate) fn write(dir: &Path, streams: &[&str]) -> Bundle {
    let manifest = manifest(streams);
    let head = linear_head(manifest.feature_len(), manifest.classes.len());
    let files = BTreeMap::from([
        (HEAD_FILE.to_owned(), head),
        ("model-card.md".to_owned(), b"# A test\n".to_vec()),
    ]);
    write_bundle(dir, manifest, &files).unwrap()
}

fn some_sound() -> Vec<f32> {
    Sound::Bursts.render(7, 2.0)
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ear");
    let written = write(&path, &["transient"]);
    let read = BundleFiles::open(&path).unwrap();
    assert_eq!(read.bundle.manifest, written.manifest);
    assert_eq!(read.bundle.sha256, written.sha256);
    assert_eq!(read.bundle.tag.0, written.sha256[..4]);
    assert_eq!(read.bundle.classes, ["thud", "hiss"]);
    assert_eq!(read.bundle.detector.rules[0].class, 1);
    assert_eq!(read.file("model-card.md"), Some(&b"# A test\n"[..]));
    // Writing again replaces it, and leaves nothing else behind.
    write(&path, &["transient"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_folder_that_is_no_bundle_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    ecosight_models::durable::write_file(&dir.path().join("photo.jpg"), b"dear").unwrap();
    let manifest = manifest(&["transient"]);
    let files = BTreeMap::from([(HEAD_FILE.to_owned(), linear_head(T, 2))]);
    assert!(write_bundle(dir.path(), manifest, &files).is_err());
    assert!(dir.path().join("photo.jpg").exists());
}

/// One byte changed, or the file cut, anywhere in any file: the bundle is refused by that file.
#[test]
fn a_changed_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ear");
    write(&path, &["transient"]);
    for name in [HEAD_FILE, "model-card.md"] {
        let file = path.join(name);
        let whole = std::fs::read(&file).unwrap();
        for at in [0, whole.len() / 2, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            ecosight_models::durable::write_file(&file, &changed).unwrap();
            let error = Bundle::open(&path).unwrap_err();
            assert!(matches!(error, BundleError::Differs { what: "SHA-256", .. }), "{error}");
            assert!(error.to_string().contains(name), "{error}");
        }
        ecosight_models::durable::write_file(&file, &whole[1..]).unwrap();
        let error = Bundle::open(&path).unwrap_err();
        assert!(matches!(error, BundleError::Differs { what: "size", .. }), "{error}");
        std::fs::remove_file(&file).unwrap();
        assert!(matches!(Bundle::open(&path).unwrap_err(), BundleError::Read { .. }));
        ecosight_models::durable::write_file(&file, &whole).unwrap();
    }
    Bundle::open(&path).unwrap();
}

/// Each law of the manifest, broken alone, is named by its field.
#[test]
fn a_broken_manifest_is_refused_by_field() {
    type Breakage = (&'static str, fn(&mut Manifest));
    let breakages: [Breakage; 20] = [
        ("schema", |m| m.schema = "ecosight.bundle/2".to_owned()),
        ("name", |m| m.name = "Ear One".to_owned()),
        ("version", |m| m.version = String::new()),
        ("streams", |m| m.streams.clear()),
        ("streams[0].name", |m| m.streams[0].name = "yamnet.l99".to_owned()),
        ("streams[0].len", |m| m.streams[0].len = 7),
        ("streams[1].name", |m| m.streams.push(m.streams[0].clone())),
        ("backbone", |m| m.streams[0] = StreamSpec { name: "yamnet.l14".to_owned(), len: 1024 }),
        ("classes", |m| m.classes.clear()),
        ("classes[1]", |m| m.classes[1] = "thud".to_owned()),
        ("classes[0]", |m| m.classes[0] = "../etc".to_owned()),
        ("normalisation.mean", |m| m.normalisation.mean.truncate(3)),
        ("normalisation.scale[2]", |m| m.normalisation.scale[2] = f32::MAX * 10.0),
        ("normalisation.limit", |m| m.normalisation.limit = Some(-1.0)),
        ("calibration.temperature", |m| {
            m.calibration = Calibration::Softmax { temperature: 0.0 };
        }),
        ("second.share", |m| m.second = Some(SecondSpec { share: 1.0, ..second() })),
        ("second.streams", |m| m.second = Some(second())),
        ("detector[0].class", |m| m.detector[0].class = "bang".to_owned()),
        ("detector[0].confirm_windows", |m| m.detector[0].confirm_windows = 0),
        ("golden[0].scores[0]", |m| {
            m.golden =
                vec![GoldenClip { sound: "noise".to_owned(), seed: 1, scores: vec![vec![0.5]] }];
        }),
    ];
    for (field, break_it) in breakages {
        let mut broken = manifest(&["transient"]);
        break_it(&mut broken);
        let dir = tempfile::tempdir().unwrap();
        let files = BTreeMap::from([(HEAD_FILE.to_owned(), linear_head(T, 2))]);
        let error = write_bundle(&dir.path().join("ear"), broken, &files).unwrap_err();
        assert!(error.to_string().contains(&format!("field `{field}`")), "{field}: {error}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "{field}: was written");
    }
}

#[test]
fn file_names_stay_inside_the_bundle() {
    for name in ["../head.onnx", "/etc/passwd", ".hidden", "a/b", "", "manifest.json"] {
        let dir = tempfile::tempdir().unwrap();
        let files = BTreeMap::from([
            (HEAD_FILE.to_owned(), linear_head(T, 2)),
            (name.to_owned(), b"x".to_vec()),
        ]);
        let error = write_bundle(&dir.path().join("ear"), manifest(&["transient"]), &files);
        assert!(matches!(error, Err(BundleError::Invalid { .. })), "{name}");
    }
}

/// Scores worked out by hand: features, normalisation, head, calibration.
#[test]
fn scores_are_what_the_manifest_says() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ear");
    write(&path, &["transient"]);
    let classifier = Classifier::load(Some(&path), None).unwrap();
    let (windows, scores) = classifier.classify_sound(&some_sound()).unwrap();
    assert!(windows.len() >= 3);
    for (window, scores) in windows.iter().zip(&scores) {
        let features = window.transient();
        let normal = |x: &f32| ((x - 0.5) * 0.1).clamp(-3.0, 3.0);
        let mean = features.iter().map(normal).sum::<f32>() / features.len() as f32;
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        let expected = [sigmoid(2.0 * (mean - 1.0)), sigmoid(mean - 0.5 + 0.25)];
        for (ours, expected) in scores.classes.iter().zip(expected) {
            assert!((ours - expected).abs() < 1e-5, "{ours} {expected}");
        }
        assert!(scores.audioset.is_none(), "no network, no AudioSet");
    }
}

/// The order of streams, the batch and the thread change nothing; AudioSet scores come if wanted.
#[test]
fn one_plan_serves_every_way_of_asking() {
    let Some(yamnet) = imported() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ear");
    write(&path, &["transient", "yamnet.l14", "yamnet.l12"]);
    let single = Classifier::load(Some(&path), Some(yamnet)).unwrap();
    let options = ClassifierOptions { audioset: false, batching: true };
    let batched = Classifier::load_with(Some(&path), Some(yamnet), options).unwrap();
    let sound = Sound::Chirps.render(3, 8.0);
    let (windows, expected) = single.classify_sound(&sound).unwrap();
    assert!(windows.len() > 10);
    let other = batched.classify(&windows).unwrap();
    let one_by_one: Vec<_> = std::thread::scope(|scope| {
        let tasks: Vec<_> = windows
            .iter()
            .map(|window| {
                let clone = single.clone();
                scope.spawn(move || clone.classify(std::slice::from_ref(window)).unwrap().remove(0))
            })
            .collect();
        tasks.into_iter().map(|task| task.join().unwrap()).collect()
    });
    assert_eq!(one_by_one, expected);
    for (a, b) in expected.iter().zip(&other) {
        assert!(a.audioset.as_ref().is_some_and(|scores| scores.len() == 521));
        assert!(b.audioset.is_none());
        for (x, y) in a.classes.iter().zip(&b.classes) {
            assert!((x - y).abs() < 1e-5, "{x} {y}");
        }
    }
}

/// The golden sounds prove a bundle; a changed score is noticed.
#[test]
fn golden_sounds_prove_the_bundle() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ear");
    write(&path, &["transient"]);
    let classifier = Classifier::load(Some(&path), None).unwrap();
    assert_eq!(classifier.golden_deviation().unwrap(), None);
    let mut proved = manifest(&["transient"]);
    proved.golden = Sound::ALL
        .into_iter()
        .map(|sound| GoldenClip {
            sound: sound.name().to_owned(),
            seed: 11,
            scores: classifier.golden_scores(sound, 11).unwrap(),
        })
        .collect();
    let files = BTreeMap::from([(HEAD_FILE.to_owned(), linear_head(T, 2))]);
    write_bundle(&path, proved.clone(), &files).unwrap();
    let classifier = Classifier::load(Some(&path), None).unwrap();
    assert!(classifier.golden_deviation().unwrap().unwrap() < 1e-6);
    proved.golden[2].scores[1][0] += 0.25;
    write_bundle(&path, proved, &files).unwrap();
    let classifier = Classifier::load(Some(&path), None).unwrap();
    let deviation = classifier.golden_deviation().unwrap().unwrap();
    assert!((deviation - 0.25).abs() < 1e-3, "{deviation}");
}

/// Heads that would harm, or do not fit, are refused when the bundle is loaded.
#[test]
fn a_hostile_or_unfit_head_is_refused() {
    let build = |fill: &dyn Fn(&mut GraphWriter)| {
        let mut graph = GraphWriter::new("head");
        graph.input("x", &[Dim::Batch, Dim::Fixed(T)]);
        fill(&mut graph);
        graph.encode()
    };
    let weight = vec![0.5; 2 * T];
    let gemm = |graph: &mut GraphWriter| {
        graph.constant("w", &[2, T], &weight);
        graph.node("Gemm", &["x", "w"], "y", &[Attribute::Int("transB", 1)]);
    };
    let out = [Dim::Batch, Dim::Fixed(2)];
    let heads: [(&str, Vec<u8>, &str); 11] = [
        ("empty", Vec::new(), "no ONNX"),
        ("text", b"hello, I am a head".to_vec(), ""),
        ("other size", linear_head(T - 1, 2), ""),
        ("other classes", linear_head(T, 3), "expected 2 classes"),
        (
            "claims a huge constant",
            build(&|g| {
                g.constant("w", &[1 << 31, 1 << 31], &[0.0]);
                g.node("Gemm", &["x", "w"], "y", &[]);
                g.output("y", &out);
            }),
            "constant `w`",
        ),
        (
            "grows",
            build(&|g| {
                g.int_constant("shape", &[1 << 20, 1 << 20]);
                g.node("Expand", &["x", "shape"], "y", &[]);
                g.output("y", &out);
            }),
            "Expand",
        ),
        (
            "input from nowhere",
            build(&|g| {
                g.node("Add", &["x", "z"], "y", &[]);
                g.output("y", &out);
            }),
            "nothing makes its input `z`",
        ),
        (
            "output from nowhere",
            build(&|g| {
                gemm(g);
                g.output("q", &out);
            }),
            "nothing makes output `q`",
        ),
        (
            "a slice to where the input says",
            build(&|g| {
                g.int_constant("x.from", &[0]);
                g.int_constant("x.axis", &[1]);
                g.node("Slice", &["x", "x.from", "x", "x.axis"], "y", &[]);
                g.output("y", &out);
            }),
            "node `y`",
        ),
        (
            "a slice backwards",
            build(&|g| {
                for (name, value) in [("x.from", 5), ("x.to", 3), ("x.axis", 1)] {
                    g.int_constant(name, &[value]);
                }
                g.node("Slice", &["x", "x.from", "x.to", "x.axis"], "y", &[]);
                g.output("y", &out);
            }),
            "node `y`",
        ),
        (
            "absurd padding",
            build(&|g| {
                g.node("Conv", &["x", "x"], "y", &[Attribute::Ints("pads", &[1 << 40, 1, 1, 1])]);
                g.output("y", &out);
            }),
            "attribute `pads`",
        ),
    ];
    for (what, head, named) in heads {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ear");
        let files = BTreeMap::from([(HEAD_FILE.to_owned(), head)]);
        write_bundle(&path, manifest(&["transient"]), &files).unwrap();
        match Classifier::load(Some(&path), None) {
            Err(error @ LoadError::Network { .. }) => {
                let said = error.to_string();
                assert!(said.contains("test-ear") && said.contains(named), "{what}: {said}");
            }
            Err(other) => panic!("{what}: {other}"),
            Ok(_) => panic!("{what}: was loaded"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever is changed in manifest or head, opening and loading end without a panic.
    #[test]
    fn a_mutated_bundle_never_panics(
        in_head in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ear");
        let mut head = linear_head(T, 2);
        if in_head {
            // The hash is made after the change, as an attacker would.
            for (at, byte) in changes {
                let at = at.index(head.len());
                head[at] = byte;
            }
            let files = BTreeMap::from([(HEAD_FILE.to_owned(), head)]);
            write_bundle(&path, manifest(&["transient"]), &files).unwrap();
            if let Ok(classifier) = Classifier::load(Some(&path), None) {
                let mut windower = Windower::new();
                windower.push(&[0.1; 16_000]);
                windower.finish();
                let window = windower.next_window().unwrap();
                let _ = classifier.classify(&[window]);
            }
        } else {
            write(&path, &["transient"]);
            let file = path.join(MANIFEST_FILE);
            let mut text = std::fs::read(&file).unwrap();
            for (at, byte) in changes {
                let at = at.index(text.len());
                text[at] = byte;
            }
            ecosight_models::durable::write_file(&file, &text).unwrap();
            let _ = Classifier::load(Some(&path), None);
        }
    }
}
