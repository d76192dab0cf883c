//! Versions of the model: swapped under load, exported, imported, and trained against the gate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ecosight_cloud::store::Store;
use serde_json::{Value, json};

use crate::original::{bang, drone, upload};
use crate::predict::{hearing_server, hum, predict, yamnet};
use crate::program::{Server, run};

async fn post(server: &Server, path: &str, body: &Value) -> (u16, Value) {
    let response = server.client().post(server.url(path)).json(body).send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

pub(crate) async fn models(server: &Server) -> Value {
    server.json("/api/v1/models").await.1
}

/// The compact bundle as one file, exported from a server that runs it.
async fn packed_compact() -> Vec<u8> {
    let bundle = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/artifacts/compact-1");
    let server = Server::start(&["--bundle", bundle]).await;
    let list = models(&server).await;
    assert_eq!(list["items"].as_array().unwrap().len(), 1, "{list}");
    let version = &list["items"][0];
    assert_eq!((&version["origin"], &version["serving"]), (&"configured".into(), &true.into()));
    let path = format!("/api/v1/models/{}/export", version["id"].as_str().unwrap());
    let response = server.client().get(server.url(&path)).send().await.unwrap();
    assert_eq!(response.status().as_u16(), 200);
    response.bytes().await.unwrap().to_vec()
}

async fn import(server: &Server, packed: Vec<u8>) -> (u16, Value) {
    let request = server.client().post(server.url("/api/v1/models/import")).body(packed);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_handed_on_as_one_file_and_changed_ones_are_refused() {
    let packed = packed_compact().await;
    let server = Server::start(&["--yamnet", "/none"]).await;
    let without_yamnet = models(&server).await["items"].clone();
    assert_eq!(without_yamnet[0]["serving"], false, "what cannot be loaded does not serve");
    for (bad, what) in [
        (b"no archive".to_vec(), "version"),
        (packed[..packed.len() / 2].to_vec(), "version"),
        (Vec::new(), "version"),
        (changed(&packed), "differs"),
        (renamed(&packed, "bundle/head.onnx", "../../head.onnx"), "version"),
        (renamed(&packed, "lineage.json", "other.json"), "version"),
    ] {
        let (status, problem) = import(&server, bad).await;
        assert_eq!(status, 422, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(what), "{problem}");
    }
    assert_eq!(models(&server).await["items"], without_yamnet, "nothing was kept");
    let (status, version) = import(&server, packed.clone()).await;
    assert_eq!((status, &version["origin"]), (200, &"imported".into()), "{version}");
    assert_eq!(version["serving"], false);
    let id = version["id"].as_str().unwrap();
    assert_eq!(import(&server, packed).await.1["id"], version["id"], "the same is one version");
    let (_, detail) = server.json(&format!("/api/v1/models/{id}")).await;
    assert!(detail["evaluation"].is_object() && detail["card"].is_string(), "{detail}");
    assert_eq!(detail["alerting"], json!(["gun_shot"]));
    assert_eq!(server.json("/health").await.0, 503);
    let why = json!({"reason": "this machine has no YAMNet"});
    let (status, change) = post(&server, &format!("/api/v1/models/{id}/activate"), &why).await;
    assert_eq!((status, &change["cause"]), (200, &"person".into()), "{change}");
    assert_eq!(server.json("/health").await.0, 200, "it serves at once");
    assert_eq!(predict(&server, "file", hum()).await.1["model"]["tag"], version["tag"]);
    let (status, problem) = post(&server, "/api/v1/models/rollback", &json!({})).await;
    assert_eq!(status, 404, "{problem}");

    // The same from the terminal.
    let (folder, data) = (tempfile::TempDir::new().unwrap(), server.data_dir());
    let (file, data) = (folder.path().join("m.tar.gz"), data.to_str().unwrap().to_owned());
    let file = file.to_str().unwrap();
    let exported = run(&["models", "export", id, "--out", file, "--data-dir", &data]);
    assert!(exported.status.success(), "{}", String::from_utf8_lossy(&exported.stderr));
    let other = folder.path().join("other");
    let imported = run(&["models", "import", file, "--data-dir", other.to_str().unwrap()]);
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let listed = run(&["models", "list", "--data-dir", &data]);
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.starts_with("* ") && listed.contains(id), "{listed}");
    let missing = run(&["models", "activate", "9.9.9", "--data-dir", &data]);
    assert_eq!(missing.status.code(), Some(1));
}

/// The archive's entries, as (name, content).
fn entries(packed: &[u8]) -> Vec<(String, Vec<u8>)> {
    use std::io::Read as _;
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(packed));
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry: tar::Entry<'_, flate2::read::GzDecoder<&[u8]>> = entry.unwrap();
        let name = entry.path().unwrap().display().to_string();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (name, content)
    };
    archive.entries().unwrap().map(read).collect()
}

fn packed(entries: &[(String, Vec<u8>)]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(gzip);
    for (name, content) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        // Past the library's own check of names.
        let place = &mut header.as_gnu_mut().unwrap().name;
        place[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, &content[..]).unwrap();
    }
    archive.into_inner().unwrap().finish().unwrap()
}

/// One byte of the head is another.
fn changed(archive: &[u8]) -> Vec<u8> {
    let mut entries = entries(archive);
    let head = entries.iter_mut().find(|(name, _)| name.ends_with("head.onnx")).unwrap();
    let middle = head.1.len() / 2;
    head.1[middle] ^= 1;
    packed(&entries)
}

fn renamed(archive: &[u8], from: &str, to: &str) -> Vec<u8> {
    let mut entries = entries(archive);
    for (name, _) in &mut entries {
        if name == from {
            to.clone_into(name);
        }
    }
    packed(&entries)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_swaps_under_load_drop_no_request() {
    let Some(server) = hearing_server().await else { return };
    let (_, imported) = import(&server, packed_compact().await).await;
    let list = models(&server).await;
    let ids: Vec<String> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|version| version["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(ids[0], imported["id"].as_str().unwrap(), "newest first");
    // What each of them says to the hum, by its tag.
    let mut words = BTreeMap::new();
    for id in &ids {
        let (status, change) =
            post(&server, &format!("/api/v1/models/{id}/activate"), &json!({})).await;
        assert_eq!(status, 200, "{change}");
        let (_, answer) = predict(&server, "file", hum()).await;
        words.insert(answer["model"]["tag"].as_str().unwrap().to_owned(), probabilities(&answer));
    }
    let said: Vec<_> = words.values().collect();
    assert!(differ(said[0], said[1]), "the two can be told apart: {words:?}");
    let server = Arc::new(server);
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let (server, stop, answered) = (server.clone(), stop.clone(), answered.clone());
            let words = words.clone();
            tokio::spawn(async move {
                let mut tags = BTreeMap::<String, usize>::new();
                while !stop.load(Ordering::Relaxed) {
                    let (status, answer) = predict(&server, "file", hum()).await;
                    assert_eq!(status, 200, "{answer}");
                    // One model's name, and that model's words.
                    let tag = answer["model"]["tag"].as_str().unwrap().to_owned();
                    assert!(!differ(&probabilities(&answer), &words[&tag]), "{answer} {words:?}");
                    *tags.entry(tag).or_default() += 1;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
                tags
            })
        })
        .collect();
    for swap in 0..20 {
        let before = answered.load(Ordering::Relaxed);
        let id = &ids[swap % 2];
        let (status, change) =
            post(&server, &format!("/api/v1/models/{id}/activate"), &json!({})).await;
        assert_eq!(status, 200, "{change}");
        let (_, system) = server.json("/api/v1/system").await;
        let serving = models(&server).await["items"][swap % 2].clone();
        assert_eq!(system["model"]["tag"], serving["tag"], "what is said follows");
        assert_eq!(serving["serving"], true);
        let deadline = Instant::now() + Duration::from_secs(20);
        while answered.load(Ordering::Relaxed) < before + 6 {
            assert!(Instant::now() < deadline, "{}", server.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut tags = BTreeMap::<String, usize>::new();
    for client in clients {
        for (tag, count) in client.await.expect("a request failed") {
            *tags.entry(tag).or_default() += count;
        }
    }
    assert_eq!(tags.len(), 2, "both answered: {tags:?}");
    let (_, status) = server.json("/status").await;
    assert_eq!(status["total_predictions"], answered.load(Ordering::Relaxed) + 2);

    // The page's numbers are those of the model that serves, and a rollback goes back.
    let serving = |list: &Value| {
        let items = list["items"].as_array().unwrap();
        items.iter().find(|version| version["serving"] == true).unwrap()["id"].clone()
    };
    assert_eq!(serving(&models(&server).await), ids[1].as_str());
    let (status, change) =
        post(&server, "/api/v1/models/rollback", &json!({"reason": "odd"})).await;
    assert_eq!((status, &change["version_id"]), (200, &ids[0].as_str().into()), "{change}");
    assert_eq!(serving(&models(&server).await), ids[0].as_str());
    let (_, compared) =
        server.json(&format!("/api/v1/models/compare?a={}&b={}", ids[0], ids[1])).await;
    assert_eq!(compared["same_data"], false, "{compared}");
    assert!(compared["lines"][0]["a"].is_f64(), "{compared}");
    let data = server.data_dir();
    let told = run(&["models", "compare", &ids[0], &ids[1], "--data-dir", data.to_str().unwrap()]);
    let told = String::from_utf8(told.stdout).unwrap();
    assert!(
        told.contains("average precision of alerts") && told.contains("other samples"),
        "{told}"
    );
}

fn probabilities(answer: &Value) -> BTreeMap<String, f64> {
    serde_json::from_value(answer["all_probabilities"].clone()).unwrap()
}

/// Beyond what the order of sums in a batch may change.
fn differ(one: &BTreeMap<String, f64>, other: &BTreeMap<String, f64>) -> bool {
    let apart = |(class, value): (&String, &f64)| {
        other.get(class).is_none_or(|other| (value - other).abs() > 1e-3)
    };
    one.len() != other.len() || one.iter().any(apart)
}

/// Samples of which a head can be made, and judged.
pub(crate) async fn teach(server: &Server) {
    for n in 0..8 {
        let file = format!("{n}.wav");
        let (status, kept) = upload(server, bang(n), &file, &[("class_name", "gun_shot")]).await;
        assert_eq!(status, 200, "{kept}");
        assert_eq!(upload(server, drone(n), &file, &[("class_name", "background")]).await.0, 200);
    }
}

pub(crate) async fn ended(server: &Server, job: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(240);
    loop {
        let (_, job) = server.json(&format!("/api/v1/jobs/{job}")).await;
        if ["succeeded", "failed"].contains(&job["state"].as_str().unwrap()) {
            return job;
        }
        assert!(Instant::now() < deadline, "{job}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The same samples and seed give the same bytes, whatever is killed on the way; the gate decides by
/// recordings that were never trained on.
#[tokio::test(flavor = "multi_thread")]
async fn a_training_that_is_killed_begins_again_and_ends_the_same() {
    let Some(yamnet) = yamnet() else { return };
    let config = "[learning]\nlease = \"2s\"\nmin_new_samples = 0\n";
    let mut server =
        Server::start_with_config(config, &["--yamnet", yamnet.to_str().unwrap()]).await;
    teach(&server).await;
    let wish = json!({"min_new_samples": 1, "seed": 3});
    let (_, answer) = post(&server, "/retrain", &wish).await;
    let job = answer["job_id"].as_str().unwrap().to_owned();
    let (_, joined) = post(&server, "/retrain", &wish).await;
    assert_eq!((&joined["status"], &joined["job_id"]), (&"already_running".into(), &json!(job)));
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut seen = Vec::new();
    loop {
        let (_, now) = server.json(&format!("/api/v1/jobs/{job}")).await;
        if let Some(stage) = now["training"]["stage"].as_str() {
            seen.push(stage.to_owned());
            if stage == "features" && now["training"]["done"].as_u64() > Some(0) || stage == "folds"
            {
                break;
            }
        }
        assert!(Instant::now() < deadline, "{now} {seen:?}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    server.kill_9();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let trainers = trainers_of(&server.data_dir().display().to_string());
    assert!(trainers.is_empty(), "the trainer outlived its server: {trainers:?}");
    server.run().await;
    let first = ended(&server, &job).await;
    assert_eq!((&first["state"], &first["attempts"]), (&"succeeded".into(), &2.into()), "{first}");
    let gate = &first["result"]["gate"];
    assert!(gate["sentence"].as_str().unwrap().len() > 20, "{gate}");
    assert_eq!((&gate["positives"], &gate["positive_recordings"]), (&2.into(), &2.into()));
    assert_eq!(first["result"]["samples"], 12, "four of sixteen are set aside");
    // Two recordings of shots are too few to change the model without a person.
    assert_eq!(gate["passed"], false, "{gate}");
    assert_eq!(gate["alarms_per_hour"], 3.0, "the budget of the model that serves");

    // What the gate said is in the version's record and in the log, and nothing else serves than it
    // let through.
    let (_, history) = server.json("/training-history").await;
    let line = &history["retraining_log"][0];
    assert_eq!((&line["gate"], &line["gate_passed"]), (&gate["sentence"], &gate["passed"]));
    let id = line["version_id"].as_str().unwrap();
    let (_, version) = server.json(&format!("/api/v1/models/{id}")).await;
    assert_eq!(version["gate"]["test_sha256"], gate["test_sha256"]);
    assert_eq!(
        (&version["lineage"]["seed"], &version["lineage"]["samples"]),
        (&3.into(), &12.into())
    );
    assert_eq!(version["lineage"]["data_sha256"], first["result"]["data_sha256"]);
    assert_eq!(version["serving"], gate["passed"]);
    let epochs = version["evaluation"]["history"].as_array().unwrap();
    assert!(epochs.len() > 5 && epochs[0]["val_loss"].is_f64(), "{epochs:?}");
    // Made like the model that serves, with too few recordings to stop early by.
    let evaluation = &version["evaluation"];
    assert_eq!(
        evaluation["recipe"]["views"].as_array().unwrap().len(),
        4,
        "{}",
        evaluation["recipe"]
    );
    assert_eq!(evaluation["recipe"]["patience"], Value::Null);
    assert_eq!(evaluation["shipped"]["per_hour"], 3.0);

    // Another slice of a recording that is judged by comes too late: it changes nothing, and is counted.
    let store = Store::open("", &server.data_dir()).await.unwrap();
    let frozen = store.test_groups().await.unwrap()[0].0.clone();
    store.close().await;
    let fields = [("class_name", "gun_shot"), ("group", frozen.as_str())];
    assert_eq!(upload(&server, bang(40), "late.wav", &fields).await.0, 200);
    assert_eq!(first["result"]["set_aside_late"], 0);

    // Again: the same samples and seed, and the frozen recordings are still the same.
    let (_, answer) = post(&server, "/retrain", &json!({"min_new_samples": 0, "seed": 3})).await;
    let second = ended(&server, answer["job_id"].as_str().unwrap()).await;
    assert_eq!(second["state"], "succeeded", "{second}");
    assert_eq!(second["result"]["gate"]["test_sha256"], gate["test_sha256"]);
    assert_eq!(second["result"]["data_sha256"], first["result"]["data_sha256"]);
    assert_eq!(second["result"]["set_aside_late"], 1, "{second}");
    let (_, other) = server
        .json(&format!("/api/v1/models/{}", second["result"]["version_id"].as_str().unwrap()))
        .await;
    assert_eq!(other["evaluation"]["judgement"], version["evaluation"]["judgement"]);
    assert_eq!(other["evaluation"]["history"], version["evaluation"]["history"]);
    let [one, same] = [head(&server, &version).await, head(&server, &other).await];
    assert!(one == same, "the same samples, seed and parent give other weights");
}

/// The head of a version, to the byte.
async fn head(server: &Server, version: &Value) -> Vec<u8> {
    let path = format!("/api/v1/models/{}/export", version["id"].as_str().unwrap());
    let packed = server.client().get(server.url(&path)).send().await.unwrap();
    let entries = entries(&packed.bytes().await.unwrap());
    entries.into_iter().find(|(name, _)| name == "bundle/head.onnx").unwrap().1
}

/// Trainers and judges that work in a folder.
fn trainers_of(dir: &str) -> Vec<String> {
    let list = std::process::Command::new("ps").args(["-eo", "args"]).output().unwrap();
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let works =
        |line: &&str| line.contains(dir) && (line.contains(" train ") || line.contains(" judge "));
    list.lines().filter(works).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worse_candidate_stays_out_and_a_better_one_takes_over_by_itself() {
    let Some(yamnet) = yamnet() else { return };
    let config = "[learning]\nunattended_recordings = 2\nmin_new_samples = 0\n";
    let mut server =
        Server::start_with_config(config, &["--yamnet", yamnet.to_str().unwrap()]).await;
    teach(&server).await;
    let (_, answer) = post(&server, "/retrain", &json!({"min_new_samples": 1})).await;
    let first = ended(&server, answer["job_id"].as_str().unwrap()).await;
    assert_eq!(first["state"], "succeeded", "{first}\n{}", server.log());
    // What is judged by is chosen now. Somebody turns every other label round: what is learned is
    // the opposite of what is true.
    assert_eq!(server.terminate(Duration::from_secs(12)), Some(0));
    let store = Store::open("", &server.data_dir()).await.unwrap();
    let set_aside: BTreeSet<String> =
        store.test_groups().await.unwrap().into_iter().map(|(group, ..)| group).collect();
    assert_eq!(set_aside.len(), 4, "two of each");
    let before = store.serving().await.unwrap().unwrap().version_id.to_string();
    store.close().await;
    server.run().await;
    turn_round(&server, &set_aside).await;
    let (_, answer) = post(&server, "/retrain", &json!({"min_new_samples": 1})).await;
    let job = ended(&server, answer["job_id"].as_str().unwrap()).await;
    assert_eq!(job["state"], "succeeded", "{job}\n{}", server.log());
    let gate = &job["result"]["gate"];
    assert_eq!(gate["test_sha256"], first["result"]["gate"]["test_sha256"], "the same sounds");
    assert_eq!(gate["passed"], false, "{gate:#}");
    assert!(gate["sentence"].as_str().unwrap().contains(" stays: "), "{gate}");
    assert!(gate["flips"].as_u64() > Some(0), "{gate}");
    let list = models(&server).await;
    assert_eq!(list["changes"][0]["version_id"], before, "the incumbent serves");
    let line = &server.json("/training-history").await.1["retraining_log"][0];
    assert_eq!((&line["gate_passed"], &line["gate"]), (&false.into(), &gate["sentence"]));

    let id = job["result"]["version_id"].as_str().unwrap();
    let why = json!({"reason": "for once"});
    let (status, change) = post(&server, &format!("/api/v1/models/{id}/activate"), &why).await;
    assert_eq!((status, &change["reason"]), (200, &"for once".into()), "{change}");
    assert_eq!(predict(&server, "file", hum()).await.0, 200);

    // The labels are put right again: what is learned now is better than what serves.
    turn_round(&server, &set_aside).await;
    let (_, answer) = post(&server, "/retrain", &json!({"min_new_samples": 1})).await;
    let job = ended(&server, answer["job_id"].as_str().unwrap()).await;
    let gate = &job["result"]["gate"];
    assert_eq!(gate["passed"], true, "{gate:#}");
    assert!(gate["sentence"].as_str().unwrap().contains(" takes over: "), "{gate}");
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.json("/api/v1/system").await.1["model"]["tag"] != job["result"]["tag"] {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let change = models(&server).await["changes"][0].clone();
    assert_eq!((&change["cause"], &change["reason"]), (&"gate".into(), &gate["sentence"]));
    assert_eq!(change["before_id"], id);
    assert_eq!(predict(&server, "file", hum()).await.1["model"]["tag"], job["result"]["tag"]);
    let (_, history) = server.json("/training-history").await;
    assert_eq!(history["has_history"], true, "the version that serves tells of its epochs");
    let epochs = history["training_history"]["epochs"].as_u64().unwrap() as usize;
    for field in ["loss", "val_loss", "accuracy", "val_accuracy"] {
        assert_eq!(history["training_history"][field].as_array().unwrap().len(), epochs, "{field}");
    }
    // Back over the one that a person chose, to the one before.
    for expected in [id, &before] {
        let (_, change) = post(&server, "/api/v1/models/rollback", &json!({})).await;
        assert_eq!(change["version_id"], expected);
    }
}

/// Makes shots background and background shots, of what is learned from.
async fn turn_round(server: &Server, set_aside: &BTreeSet<String>) {
    let (_, samples) = server.json("/api/v1/samples").await;
    for sample in samples["items"].as_array().unwrap() {
        if set_aside.contains(sample["group"].as_str().unwrap()) {
            continue;
        }
        let shot = sample["class"] == "gun_shot";
        let class = json!({"class": if shot { "background" } else { "gun_shot" }});
        let path = format!("/api/v1/samples/{}", sample["id"].as_str().unwrap());
        let patched = server.client().patch(server.url(&path)).json(&class).send().await.unwrap();
        assert_eq!(patched.status().as_u16(), 200);
    }
}
