//! `/predict` and `/health`, with the real model.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use ecosight_loadtest::built;
use hound::{SampleFormat, WavSpec, WavWriter};
use reqwest::multipart::{Form, Part};
use serde_json::Value;
use tempfile::TempDir;

use crate::program::Server;

/// YAMNet, imported for this process; `None`, said aloud, where its file is not at hand.
pub(crate) fn yamnet() -> Option<&'static Path> {
    static IMPORTED: OnceLock<Option<(TempDir, PathBuf)>> = OnceLock::new();
    let imported = IMPORTED.get_or_init(|| {
        let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
        let shared = std::env::var_os("ECOSIGHT_SHARED").map_or(beside, PathBuf::from);
        let file = shared.join("yamnet/yamnet.tflite");
        if !file.exists() {
            assert!(std::env::var_os("CI").is_none(), "CI needs ../shared/yamnet");
            eprintln!("skipped: needs ../shared/yamnet/yamnet.tflite");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let place = folder.path().join("yamnet.onnx");
        let import = Command::new(built("ecosight-models"))
            .arg("import-yamnet")
            .arg(&file)
            .arg("--out")
            .arg(&place)
            .output()
            .expect("is ecosight-models built?");
        assert!(import.status.success(), "{}", String::from_utf8_lossy(&import.stderr));
        Some((folder, place))
    });
    imported.as_ref().map(|(_, place)| place.as_path())
}

pub(crate) async fn hearing_server() -> Option<Server> {
    let yamnet = yamnet()?;
    Some(Server::start(&["--yamnet", yamnet.to_str().unwrap()]).await)
}

pub(crate) fn wav(rate_hz: u32, channels: u16, samples: impl Iterator<Item = f32>) -> Vec<u8> {
    let spec = WavSpec {
        channels,
        sample_rate: rate_hz,
        bits_per_sample: 32,
        sample_format: SampleFormat::Float,
    };
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut bytes, spec).unwrap();
    for sample in samples {
        writer.write_sample(sample).unwrap();
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// Two seconds of a quiet hum.
pub(crate) fn hum() -> Vec<u8> {
    wav(16_000, 1, (0..32_000).map(|n| (n as f32 * 0.05).sin() * 0.01))
}

pub(crate) async fn predict(server: &Server, field: &'static str, file: Vec<u8>) -> (u16, Value) {
    let form = Form::new().part(field, Part::bytes(file).file_name("sound.wav"));
    let request = server.client().post(server.url("/predict")).multipart(form);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_classified_and_a_bad_one_is_its_senders_fault() {
    let Some(server) = hearing_server().await else { return };
    let (status, health) = server.json("/health").await;
    assert_eq!((status, &health["status"]), (200, &"healthy".into()), "{}", server.log());
    assert_eq!(health["model_loaded"], true);
    assert!(health["timestamp"].is_string());

    let (status, answer) = predict(&server, "file", hum()).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["success"], true);
    let probabilities = answer["all_probabilities"].as_object().unwrap();
    let sum: f64 = probabilities.values().map(|p| p.as_f64().unwrap()).sum();
    assert!((sum - 1.0).abs() < 1e-6, "{answer}");
    let class = answer["predicted_class"].as_str().unwrap();
    assert_eq!(probabilities[class], answer["confidence"]);
    assert_ne!(class, "gun_shot");
    assert!(answer["processing_time"].as_f64().unwrap() > 0.0);
    assert!(answer["timestamp"].is_string());
    assert_eq!(predict(&server, "sound", hum()).await.0, 200, "a file under another name");

    let silence = |n: usize| std::iter::repeat_n(0.0, n);
    let mut cut = hum();
    cut.truncate(cut.len() / 2);
    let mut broken = hum();
    broken.truncate(20);
    let mut not_a_number = vec![0.1_f32; 16_000];
    not_a_number[5_000] = f32::NAN;
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("nothing", vec![], &[400]),
        ("text", b"this is not a sound, whatever its name says".to_vec(), &[415]),
        ("zeros", vec![0; 1_000], &[415, 422]),
        ("half a file", cut, &[422]),
        ("half a header", broken, &[415, 422]),
        ("not a number", wav(16_000, 1, not_a_number.into_iter()), &[422]),
        (
            "too loud for numbers",
            wav(16_000, 1, (0..16_000).map(|n| if n % 2 == 0 { 3e38 } else { -3e38 })),
            &[422],
        ),
        ("no samples", wav(16_000, 1, silence(0)), &[400, 422]),
        ("one sample a second", wav(1, 1, silence(10)), &[422]),
        ("a rate beyond all", wav(1_000_000_000, 1, silence(1_000)), &[415, 422]),
        ("a hundred channels", wav(16_000, 100, silence(1_600)), &[415, 422]),
        ("eleven minutes", wav(8_000, 1, silence(8_000 * 60 * 11)), &[413]),
        ("33 MiB", vec![b'R'; 33 << 20], &[413]),
    ];
    for (name, file, expected) in cases {
        let (status, problem) = predict(&server, "file", file).await;
        assert!(expected.contains(&status), "{name}: {status} {problem}");
        assert!(
            problem["detail"].as_str().is_some_and(|text| text.len() > 10),
            "{name}: {problem}"
        );
    }
    let form = Form::new().text("name", "no file here");
    let request = server.client().post(server.url("/predict")).multipart(form);
    assert_eq!(request.send().await.unwrap().status().as_u16(), 400);
    let request = server.client().post(server.url("/predict")).body("plain");
    assert_eq!(request.send().await.unwrap().status().as_u16(), 415);
    assert_eq!(predict(&server, "file", hum()).await.0, 200, "it still works");
}

/// RELIABILITY: more than can be done is turned away at once, and what was taken is done.
#[tokio::test(flavor = "multi_thread")]
async fn too_much_at_once_is_turned_away() {
    let Some(yamnet) = yamnet() else { return };
    let config = "[model]\nthreads = 1\nqueue = 1\n";
    let server = Server::start_with_config(config, &["--yamnet", yamnet.to_str().unwrap()]).await;
    let minute = wav(16_000, 1, (0..960_000).map(|n| (n as f32 * 0.05).sin() * 0.01));
    let requests = (0..8).map(|_| predict(&server, "file", minute.clone()));
    let answers = futures_util::future::join_all(requests).await;
    let done = answers.iter().filter(|(status, _)| *status == 200).count();
    assert!((2..8).contains(&done), "{answers:?}");
    for (status, problem) in answers {
        assert!([200, 503].contains(&status), "{problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_model_says_so_and_takes_in_records() {
    let server = Server::start(&["--yamnet", "/does/not/exist.onnx"]).await;
    let (status, health) = server.json("/health").await;
    assert_eq!((status, &health["status"]), (503, &"unhealthy".into()));
    assert_eq!(health["model_loaded"], false);
    let (status, problem) = predict(&server, "file", hum()).await;
    assert_eq!(status, 503);
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("start the server again"), "{detail}");
    assert!(server.log().contains("NO MODEL"), "{}", server.log());
    // The answer comes early; a client that is still sending must see it all the same.
    for _ in 0..5 {
        assert_eq!(predict(&server, "file", vec![0; 16 << 20]).await.0, 503);
    }
    assert_eq!(server.json("/api/v1/alerts").await.0, 200);
}
