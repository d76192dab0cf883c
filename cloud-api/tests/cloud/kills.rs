//! A worker that is killed at every transition of a training.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ecosight_cloud::training::progress::Stage;
use ecosight_models::bundle::{EVALUATION_FILE, MANIFEST_FILE, hex};
use ecosight_models::{BundleFiles, durable};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::models::{ended, models, teach};
use crate::predict::yamnet;
use crate::program::Server;

/// Longest that an attempt takes to come where it dies, on a busy machine.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(120);
/// Attempts of a job that may die and leave it one to end with.
const DEATHS: usize = 4;

/// The built-in model with an evaluation that says that it was trained quickly: candidates are like it, and
/// there are a dozen trainings here.
fn quickly_trained(folder: &Path) -> PathBuf {
    let artifacts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/artifacts");
    let name = std::fs::read_to_string(artifacts.join("DEFAULT")).unwrap();
    let (from, to) = (artifacts.join(name.trim()), folder.join("bundle"));
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(from.join(name)).unwrap()).unwrap()
    };
    let (mut manifest, mut evaluation) = (read(MANIFEST_FILE), read(EVALUATION_FILE));
    evaluation["recipe"] = json!({"epochs": 6, "components": 16});
    let evaluation = serde_json::to_vec(&evaluation).unwrap();
    for entry in manifest["files"].as_array_mut().unwrap() {
        let name = entry["name"].as_str().unwrap().to_owned();
        let own = std::fs::read(from.join(&name)).unwrap();
        let content = if name == EVALUATION_FILE { &evaluation } else { &own };
        entry["bytes"] = content.len().into();
        entry["sha256"] = hex(&Sha256::digest(content)).into();
        durable::write_file(&to.join(name), content).unwrap();
    }
    let manifest = serde_json::to_vec(&manifest).unwrap();
    durable::write_file(&to.join(MANIFEST_FILE), &manifest).unwrap();
    to
}

/// The server ends itself as `kill -9` does when a training comes to this point; once.
fn die_at(server: &Server, point: &str) {
    durable::write_file(&server.data_dir().join("training/die-at"), point.as_bytes()).unwrap();
}

/// One version serves, each is whole, and nothing that has the name of one is half of one.
async fn all_is_whole(server: &Server, point: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while server.json("/health").await.0 != 200 {
        assert!(Instant::now() < deadline, "nothing serves after {point}:\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let list = models(server).await;
    let items = list["items"].as_array().unwrap();
    let serving = items.iter().filter(|version| version["serving"] == true).count();
    assert_eq!(serving, 1, "after {point}: {list}");
    for version in items {
        let path = format!("/api/v1/models/{}/export", version["id"].as_str().unwrap());
        let exported = server.client().get(server.url(&path)).send().await.unwrap();
        assert_eq!(exported.status().as_u16(), 200, "after {point}: {version}");
    }
    for entry in std::fs::read_dir(server.data_dir().join("models")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.len() == 64 && !name.starts_with('.') {
            BundleFiles::open(&path).unwrap_or_else(|error| panic!("after {point}: {error}"));
        }
    }
}

/// The tag of the version that serves.
async fn serving(server: &Server) -> Value {
    let list = models(server).await;
    let items = list["items"].as_array().unwrap();
    items.iter().find(|version| version["serving"] == true).unwrap()["tag"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_a_training_ends_once_and_a_whole_model_serves() {
    let Some(yamnet) = yamnet() else { return };
    let config = "[learning]\nlease = \"1s\"\nmin_new_samples = 0\nunattended_recordings = 2\n";
    let folder = tempfile::TempDir::new().unwrap();
    let bundle = quickly_trained(folder.path());
    let arguments = ["--yamnet", yamnet.to_str().unwrap(), "--bundle", bundle.to_str().unwrap()];
    let mut server = Server::start_with_config(config, &arguments).await;
    teach(&server).await;
    let mut points: Vec<String> = Stage::ALL
        .iter()
        .flat_map(|stage| ["before", "after"].map(|side| format!("{side} {}", stage.name())))
        .collect();
    // The version's files are there and no row is; all of it is in the database.
    points.extend(["written".to_owned(), "concluded".to_owned()]);
    for (nth, points) in points.chunks(DEATHS).enumerate() {
        let before = serving(&server).await;
        die_at(&server, &points[0]);
        // The answer may die with the server.
        let wish = json!({"min_new_samples": 0, "seed": 3});
        let _ = server.client().post(server.url("/retrain")).json(&wish).send().await;
        for (number, point) in points.iter().enumerate() {
            server.wait_ended(ATTEMPT_LIMIT).await;
            if let Some(next) = points.get(number + 1) {
                die_at(&server, next);
            }
            server.run().await;
            all_is_whole(&server, point).await;
            let now = serving(&server).await;
            assert!(now == before || point == "concluded", "{point}: {now} serves");
        }
        let (_, jobs) = server.json("/api/v1/jobs?kind=retrain&limit=100").await;
        let jobs = jobs["items"].as_array().unwrap();
        assert_eq!(jobs.len(), nth + 1, "one job for one wish: {jobs:?}");
        let job = ended(&server, jobs[0]["id"].as_str().unwrap()).await;
        assert_eq!(job["state"], "succeeded", "{job}\n{}", server.log());
        // What died after all was written needed no other attempt.
        let concluded = points.last().is_some_and(|point| point == "concluded");
        let attempts = points.len() + usize::from(!concluded);
        assert_eq!(job["attempts"], attempts, "{job}");
        all_is_whole(&server, "the end").await;
        let passed = job["result"]["gate"]["passed"] == true;
        let expected = if passed { job["result"]["tag"].clone() } else { before };
        let deadline = Instant::now() + Duration::from_secs(20);
        while serving(&server).await != expected {
            assert!(Instant::now() < deadline, "{job}\n{}", server.log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let of_job = models(&server).await["items"].as_array().unwrap().clone();
        let of_job = of_job.iter().filter(|version| version["tag"] == job["result"]["tag"]).count();
        assert_eq!(of_job, 1, "one job, one version");
        attempts_are_gone(&server.data_dir().join("training"), &job);
    }
}

/// Nothing is left of attempts that died, nor the drafts of the one that did not.
fn attempts_are_gone(dir: &Path, job: &Value) {
    let dir = dir.join(job["id"].as_str().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    let left = || -> Vec<String> {
        let entries = std::fs::read_dir(&dir).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let last = format!("attempt-{}", job["attempts"]);
    while left() != [last.as_str()] || dir.join(&last).join("bundle").exists() {
        assert!(Instant::now() < deadline, "{:?}", left());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(dir.join(&last).join("manifest.csv").exists(), "for who wants to know");
}
