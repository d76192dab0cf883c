//! Importing YAMNet: what is read, what is refused and how it is said, what is written.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use ecosight_models::KernelChoice;
use ecosight_models::yamnet::accept::{Likeness, SAME};
use ecosight_models::yamnet::{
    Backbone, CLASSES, EMBEDDING_LEN, Exit, ImportError, Network, conv_shapes, read_tflite, to_onnx,
};
use proptest::prelude::*;

use crate::golden::{self, shared};
use crate::tflite_writer::{self, Storage};

/// The program as users run it, with no data folder but `home`.
pub(crate) fn ecosight_models(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ecosight-models"))
        .args(arguments)
        .env_remove("ECOSIGHT_YAMNET")
        .env_remove("ECOSIGHT_BUNDLE")
        .env_remove("XDG_DATA_HOME")
        .env("HOME", home)
        .output()
        .unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The published int8 file and its network, read once.
pub(crate) fn yamnet() -> Option<&'static (Vec<u8>, Network)> {
    static READ: OnceLock<Option<(Vec<u8>, Network)>> = OnceLock::new();
    let read = || {
        let file = std::fs::read(shared("yamnet/yamnet.tflite")?).unwrap();
        let network = read_tflite(&file).unwrap();
        Some((file, network))
    };
    READ.get_or_init(read).as_ref()
}

/// Our ONNX of it in a file, for everything that takes a path.
pub(crate) fn imported() -> Option<&'static Path> {
    static WRITTEN: OnceLock<Option<(tempfile::TempDir, PathBuf)>> = OnceLock::new();
    let write = || {
        let (_, network) = yamnet()?;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("yamnet.onnx");
        ecosight_models::durable::write_file(&path, &to_onnx(network, "test")).unwrap();
        Some((dir, path))
    };
    WRITTEN.get_or_init(write).as_ref().map(|(_, path)| path.as_path())
}

/// A network of the right shape with weights of a small generator: not YAMNet.
pub(crate) fn stranger() -> Network {
    let mut state = 1_u32;
    let mut numbers = |count: usize, scale: f32| -> Vec<f32> {
        (0..count)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // 256 even steps, the lowest always there: exact in half precision and in int8.
                let step = if i == 0 { 0 } else { state >> 24 };
                scale * (step as f32 - 128.0) / 128.0
            })
            .collect()
    };
    let convs = conv_shapes()
        .into_iter()
        .map(|shape| ecosight_models::yamnet::Conv {
            shape,
            weight: numbers(shape.weights(), 0.25),
            bias: numbers(shape.output, 0.5),
        })
        .collect();
    Network {
        convs,
        class_weight: numbers(CLASSES * EMBEDDING_LEN, 0.25),
        class_bias: numbers(CLASSES, 0.5),
    }
}

#[test]
fn the_published_int8_file_is_yamnet() {
    let Some((_, network)) = yamnet() else { return };
    let written = to_onnx(network, "test");
    let likeness = Likeness::measure(&written).unwrap();
    assert!(likeness.lowest() > 0.9999, "{likeness:?}");
    assert!(likeness.lowest() >= SAME);
    // Its large matrices stay the 8-bit integers that they were.
    assert!(written.len() < 4_300_000, "{} bytes", written.len());
}

/// Embedding and scores of the golden recordings, from their golden log-mel: import, ONNX layout,
/// tract and all kernels that run here, one by one and in batches.
#[test]
fn the_network_gives_the_golden_embeddings_and_scores() {
    let (Some(cases), Some(path)) = (golden::cases(), imported()) else { return };
    let choices =
        [KernelChoice::Tract, KernelChoice::Portable, KernelChoice::Avx2, KernelChoice::Avx512];
    for (kernels, batching) in choices.iter().flat_map(|choice| [(*choice, false), (*choice, true)])
    {
        if let Err(error) = kernels.resolved() {
            eprintln!("skipped: {error}");
            continue;
        }
        let exits = [Exit::Embedding, Exit::Scores];
        let backbone = Backbone::load_with(Some(path), &exits, batching, kernels).unwrap();
        let (mut worst_cosine, mut worst_score) = (1.0_f32, 0.0_f32);
        for case in &cases {
            let arrays = golden::read_npz(&case.npz);
            let log_mel = &arrays["log_mel"];
            let (embedding, scores) = (&arrays["embedding"], &arrays["scores"]);
            let patches: Vec<&[f32]> = (0..embedding.shape[0])
                .map(|i| &log_mel.data[i * 48 * 64..(i * 48 + 96) * 64])
                .collect();
            let outputs = backbone.run(&patches).unwrap();
            assert_eq!(outputs.len(), patches.len());
            for (i, output) in outputs.iter().enumerate() {
                let (ours, our_scores) = output.split_at(EMBEDDING_LEN);
                let cosine = ecosight_models::yamnet::accept::cosine(ours, embedding.row(i));
                worst_cosine = worst_cosine.min(cosine);
                for (a, b) in our_scores.iter().zip(scores.row(i)) {
                    worst_score = worst_score.max((a - b).abs());
                }
            }
        }
        eprintln!("{kernels}, batching {batching}: cosine {worst_cosine}, scores {worst_score}");
        assert!(worst_cosine >= 0.99999, "{kernels}: {worst_cosine}");
        assert!(worst_score <= 1e-4, "{kernels}: {worst_score}");
    }
}

/// Every exit of a made-up network, whose weights are no small integers: tract and the quickest
/// kernels say the same, for one window, for several and for more than fit into a batch.
#[test]
fn kernels_agree_on_all_exits() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("stranger.onnx");
    ecosight_models::durable::write_file(&path, &to_onnx(&stranger(), "test")).unwrap();
    let load = |kernels| Backbone::load_with(Some(&path), &Exit::ALL, true, kernels).unwrap();
    let (tract, quickest) = (load(KernelChoice::Tract), load(KernelChoice::Automatic));
    let patches: Vec<Vec<f32>> = (0..ecosight_models::yamnet::BATCH * 2 + 3)
        .map(|n| (0..96 * 64).map(|i| ((i * 37 + n * 11) % 101) as f32 / 20.0 - 4.0).collect())
        .collect();
    for count in [0, 1, 3, 8, 19] {
        let patches: Vec<&[f32]> = patches[..count].iter().map(|patch| &patch[..]).collect();
        let (expected, actual) = (tract.run(&patches).unwrap(), quickest.run(&patches).unwrap());
        assert_eq!(actual.len(), count);
        for (actual, expected) in actual.iter().zip(&expected) {
            let scale = expected.iter().fold(1e-6_f32, |most, x| most.max(x.abs()));
            for (a, b) in actual.iter().zip(expected) {
                assert!((a - b).abs() <= 1e-5 * scale, "{a} {b}");
            }
        }
    }
}

#[test]
fn kernels_that_are_not_there_are_named() {
    let said = "sse9".parse::<KernelChoice>().unwrap_err().to_string();
    assert!(said.contains("`sse9`") && said.contains("auto, tract, portable"), "{said}");
    for choice in [KernelChoice::Avx2, KernelChoice::Avx512] {
        assert_eq!(choice.to_string().parse(), Ok(choice));
        if choice.resolved().is_err() {
            let missing = Path::new("absent.onnx");
            let said = Backbone::load_with(Some(missing), &[Exit::L14], false, choice).err();
            let said = said.unwrap().to_string();
            assert!(said.contains("can't run the kernels") && said.contains("auto"), "{said}");
        }
    }
    let home = tempfile::tempdir().unwrap();
    let sound = home.path().join("silence.wav");
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    hound::WavWriter::create(&sound, spec).unwrap().finalize().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ecosight-models"))
        .args(["classify", sound.to_str().unwrap()])
        .env(ecosight_models::KERNELS_ENV, "sse9")
        .env("HOME", home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("`sse9`") && said.contains(ecosight_models::KERNELS_ENV), "{said}");
}

/// The whole way from sound: our log-mel, our network.
#[test]
fn sound_gives_the_golden_embeddings_and_scores() {
    let (Some(cases), Some(path)) = (golden::cases(), imported()) else { return };
    let backbone = Backbone::load(Some(path), &[Exit::Embedding, Exit::Scores], true).unwrap();
    for case in &cases {
        let arrays = golden::read_npz(&case.npz);
        let mut windower = ecosight_models::Windower::new();
        windower.push(&golden::waveform(case, &arrays));
        windower.finish();
        let windows: Vec<_> = std::iter::from_fn(|| windower.next_window()).collect();
        let (embedding, scores) = (&arrays["embedding"], &arrays["scores"]);
        let patches: Vec<&[f32]> = windows.iter().map(|window| window.log_mel()).collect();
        assert_eq!(patches.len(), embedding.shape[0], "{}", case.name);
        for (i, output) in backbone.run(&patches).unwrap().iter().enumerate() {
            let (ours, our_scores) = output.split_at(EMBEDDING_LEN);
            let cosine = ecosight_models::yamnet::accept::cosine(ours, embedding.row(i));
            assert!(cosine >= 0.99999, "{} window {i}: cosine {cosine}", case.name);
            for (class, (a, b)) in our_scores.iter().zip(scores.row(i)).enumerate() {
                assert!((a - b).abs() <= 1e-4, "{} window {i} class {class}: {a} {b}", case.name);
            }
        }
    }
}

/// Pooled inner exits are the means and maxima of the layer, whatever else is computed beside them.
#[test]
fn inner_exits_do_not_depend_on_what_else_is_wanted() {
    let onnx = tempfile::tempdir().unwrap();
    let path = onnx.path().join("stranger.onnx");
    ecosight_models::durable::write_file(&path, &to_onnx(&stranger(), "test")).unwrap();
    let patch: Vec<f32> = (0..96 * 64).map(|i| ((i * 37 % 101) as f32) / 20.0 - 4.0).collect();
    let all = Backbone::load(Some(&path), &Exit::ALL, false).unwrap();
    let whole = &all.run(&[&patch]).unwrap()[0];
    assert_eq!(whole.len(), 1024 + 1024 + 1024 + 521);
    let mut start = 0;
    for exit in Exit::ALL {
        let part = &whole[start..start + exit.width()];
        start += exit.width();
        let alone = Backbone::load(Some(&path), &[exit], false).unwrap();
        let given = &alone.run(&[&patch]).unwrap()[0];
        let scale = part.iter().fold(1e-6_f32, |a, x| a.max(x.abs()));
        for (a, b) in part.iter().zip(given) {
            assert!((a - b).abs() <= 1e-5 * scale, "{exit:?}: {a} {b}");
        }
        if matches!(exit, Exit::L12 | Exit::L14) {
            let (means, maxima) = part.split_at(512);
            assert!(means.iter().zip(maxima).all(|(mean, max)| mean <= max));
            assert!(maxima.iter().any(|max| *max > 0.0), "a dead layer proves nothing");
        }
    }
}

/// However the same weights are stored, the same network is read.
#[test]
fn float32_and_float16_and_int8_are_read() {
    let network = stranger();
    for storage in [Storage::F32, Storage::F16, Storage::F16Buffers, Storage::Int8PerTensor] {
        let file = tflite_writer::write(&network, storage);
        let read = read_tflite(&file).unwrap_or_else(|error| panic!("{storage:?}: {error}"));
        assert!(read == network, "{storage:?} gave other weights");
    }
    let file = tflite_writer::write(&network, Storage::Int8PerChannel);
    let read = read_tflite(&file).unwrap();
    for (ours, theirs) in network.convs.iter().zip(&read.convs) {
        let worst = ours
            .weight
            .iter()
            .zip(&theirs.weight)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0_f32, f32::max);
        assert!(worst <= 0.25 / 127.0, "{worst}");
    }
}

/// Files differ in where bias and ReLU stand, and in their outputs.
#[test]
fn separate_bias_and_relu_are_read() {
    let network = stranger();
    let file = tflite_writer::write(&network, Storage::Unfused);
    assert!(read_tflite(&file).unwrap() == network);
}

/// The right shape is not enough: other weights hear otherwise, and nothing is written.
#[test]
fn another_network_of_the_same_shape_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("stranger.tflite");
    let bytes = tflite_writer::write(&stranger(), Storage::F32);
    ecosight_models::durable::write_file(&file, &bytes).unwrap();
    let output = ecosight_models(dir.path(), &["import-yamnet", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("does not hear like it"), "{}", stderr(&output));
    assert!(stderr(&output).contains("--download"));
    assert!(!dir.path().join(".local").exists(), "something was written");
}

/// Between the same and another: it is imported, and the difference is said.
#[test]
fn a_network_that_hears_a_little_otherwise_is_imported_with_a_warning() {
    let Some((_, network)) = yamnet() else { return };
    let noise = stranger();
    let perturbed = |strength: f32| {
        let mut other = network.clone();
        for (conv, noise) in other.convs.iter_mut().zip(&noise.convs) {
            for (weight, noise) in conv.weight.iter_mut().zip(&noise.weight) {
                *weight *= 1.0 + strength * noise;
            }
        }
        other
    };
    let (network, lowest) = [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.2, 1.6]
        .into_iter()
        .map(perturbed)
        .map(|other| {
            let lowest = Likeness::measure(&to_onnx(&other, "test")).unwrap().lowest();
            (other, lowest)
        })
        .find(|(_, lowest)| *lowest < 0.988)
        .unwrap();
    assert!(lowest > 0.952, "no strength gave a cosine in between: {lowest}");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("like.tflite");
    let bytes = tflite_writer::write(&network, Storage::F32);
    ecosight_models::durable::write_file(&file, &bytes).unwrap();
    let output = ecosight_models(dir.path(), &["import-yamnet", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stderr(&output).contains("hears a little unlike YAMNet v1"), "{}", stderr(&output));
    assert!(dir.path().join(".local/share/ecosight/yamnet.onnx").exists());
}

#[test]
fn the_relu6_file_is_refused_by_name() {
    let Some(path) = shared("yamnet/other/yamnet_relu6_classifier.tflite") else { return };
    let error = read_tflite(&std::fs::read(&path).unwrap()).unwrap_err();
    assert!(matches!(error, ImportError::Relu6 { op: 16, .. }), "{error:?}");
    let dir = tempfile::tempdir().unwrap();
    let output = ecosight_models(dir.path(), &["import-yamnet", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    for part in ["ReLU6 \"classification\" model", "another network", "kaggle.com", "--download"] {
        assert!(said.contains(part), "{part:?} is missing in {said}");
    }
}

#[test]
fn the_program_imports_to_the_users_data_folder_and_says_so() {
    let Some(path) = shared("yamnet/yamnet.tflite") else { return };
    let dir = tempfile::tempdir().unwrap();
    let output = ecosight_models(dir.path(), &["import-yamnet", path.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let written = dir.path().join(".local/share/ecosight/yamnet.onnx");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(written.to_str().unwrap()), "{said}");
    assert!(said.contains("687f226c147a2caab4706fbbab5e9cecb14b9a368264bf61108078b1fddf68f5"));
    let backbone = Backbone::load(Some(&written), &[Exit::L14], false).unwrap();
    assert!(backbone.source_sha256().starts_with("687f226c"));
    let left: Vec<_> = std::fs::read_dir(written.parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "drafts were left behind: {left:?}");
}

/// As Kaggle hands it out: a gzipped tar with one member.
#[test]
fn an_archive_is_unpacked() {
    let bytes = tflite_writer::write(&stranger(), Storage::Int8PerTensor);
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in [("README", &b"not it"[..]), ("1.tflite", &bytes)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, content).unwrap();
    }
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, &tar.into_inner().unwrap()).unwrap();
    let packed = gzip.finish().unwrap();
    assert!(ecosight_models::yamnet::unpack(packed.clone()).unwrap() == bytes);
    // Cut anywhere, it is an error, not a panic and not half a file.
    for cut in [3, 40, packed.len() / 2, packed.len() - 9] {
        assert!(ecosight_models::yamnet::unpack(packed[..cut].to_vec()).is_err(), "cut at {cut}");
    }
}

#[test]
fn what_is_no_tflite_is_named() {
    for (bytes, name) in [
        (&b""[..], "an empty file"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"PK\x03\x04....", "zip"),
    ] {
        let said = read_tflite(bytes).unwrap_err().to_string();
        assert!(said.contains(name) && said.contains("--download"), "{said}");
    }
}

/// Cut at any place, the file is refused.
#[test]
fn a_truncated_file_is_refused() {
    let file = tflite_writer::write(&stranger(), Storage::Int8PerTensor);
    let step = file.len() / 211;
    for len in (0..256).chain((256..file.len()).step_by(step)) {
        assert!(read_tflite(&file[..len]).is_err(), "cut at {len} of {}", file.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever is changed in the file, reading it ends without a panic, and what is read has the
    /// right size.
    #[test]
    fn a_mutated_file_never_panics(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>(), any::<bool>()), 1..6),
    ) {
        static FILE: OnceLock<(Vec<u8>, usize)> = OnceLock::new();
        let (file, structure) = FILE.get_or_init(|| {
            let file = tflite_writer::write(&stranger(), Storage::Int8PerTensor);
            let structure = tflite_writer::structure_len(&file);
            (file, structure)
        });
        let mut file = file.clone();
        for (at, value, word) in changes {
            // Structure is where a change does harm; weights are most of the file.
            let at = at.index(*structure);
            let bytes = value.to_le_bytes();
            let count = if word { 4 } else { 1 };
            for (target, byte) in file[at..].iter_mut().zip(&bytes[..count]) {
                *target = *byte;
            }
        }
        if let Ok(network) = read_tflite(&file) {
            prop_assert_eq!(network.class_weight.len(), CLASSES * EMBEDDING_LEN);
            for conv in &network.convs {
                prop_assert_eq!(conv.weight.len(), conv.shape.weights());
            }
        }
    }

    /// The same for arbitrary bytes behind the file's mark.
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 8..2048)) {
        bytes[4..8].copy_from_slice(b"TFL3");
        prop_assert!(read_tflite(&bytes).is_err());
    }
}

/// A file that is not ours, or cut, is refused when it is loaded, with the remedy.
#[test]
fn a_damaged_import_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let whole = to_onnx(&stranger(), "test");
    let refuse = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        ecosight_models::durable::write_file(&path, bytes).unwrap();
        let error = Backbone::load(Some(&path), &[Exit::L14], false).err().expect(name).to_string();
        assert!(error.contains(name) && error.contains("import-yamnet"), "{error}");
    };
    refuse("empty", b"");
    refuse("text", b"not a network at all");
    refuse("half", &whole[..whole.len() / 2]);
    refuse("short", &whole[..whole.len() - 1]);
    let error =
        Backbone::load(Some(&dir.path().join("absent")), &[Exit::L14], false).err().unwrap();
    assert!(error.to_string().contains("absent"));
}
