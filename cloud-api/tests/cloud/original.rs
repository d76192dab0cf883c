//! The interface of the first EcoSight, as its clients use it.

use std::time::{Duration, Instant};

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::predict::{hearing_server, hum, predict, wav};
use crate::program::Server;

/// A burst of noise that decays, `n` tells it from others.
pub(crate) fn bang(n: u32) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32.wrapping_mul(n + 1);
    let samples = (0..32_000_u32).map(move |i| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let noise = f64::from(state) / f64::from(u32::MAX) - 0.5;
        let at = f64::from(i) - 8_000.0;
        let envelope = if at < 0.0 { 0.002 } else { (-at / 1_500.0).exp() };
        (noise * envelope) as f32
    });
    wav(16_000, 1, samples)
}

/// A hum of its own pitch.
pub(crate) fn drone(n: u32) -> Vec<u8> {
    let turn = 0.01 + 0.004 * f64::from(n);
    wav(16_000, 1, (0..32_000).map(move |i| ((f64::from(i) * turn).sin() * 0.05) as f32))
}

pub(crate) async fn upload(
    server: &Server,
    file: Vec<u8>,
    name: &str,
    texts: &[(&str, &str)],
) -> (u16, Value) {
    let mut form = Form::new().part("file", Part::bytes(file).file_name(name.to_owned()));
    for (field, text) in texts {
        form = form.text((*field).to_owned(), (*text).to_owned());
    }
    let response =
        server.client().post(server.url("/upload")).multipart(form).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// Keeps a sample; gives its id.
pub(crate) async fn upload_bang(server: &Server) -> String {
    let (status, kept) = upload(server, bang(7), "bang.wav", &[("class_name", "gun_shot")]).await;
    assert_eq!(status, 200, "{kept}");
    kept["sample_id"].as_str().unwrap().to_owned()
}

async fn retrain(server: &Server, body: &Value) -> (u16, Value) {
    let response = server.client().post(server.url("/retrain")).json(body).send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_has_the_fields_it_always_had() {
    let Some(mut server) = hearing_server().await else { return };
    let (_, root) = server.json("/").await;
    for endpoint in
        ["/predict", "/status", "/metrics", "/training-history", "/upload", "/retrain", "/health"]
    {
        assert!(root["endpoints"].as_array().unwrap().contains(&endpoint.into()), "{endpoint}");
    }
    for _ in 0..3 {
        assert_eq!(predict(&server, "file", hum()).await.0, 200);
    }
    let (status, answer) = server.json("/status").await;
    assert_eq!((status, &answer["status"]), (200, &"running".into()));
    assert_eq!(answer["total_predictions"], 3);
    assert_eq!(answer["model_loaded"], true);
    let uptime = answer["uptime"].as_str().unwrap();
    assert!(uptime.starts_with("0d 0h 0m ") && uptime.ends_with('s'), "{uptime}");
    let classes = answer["classes"].as_array().unwrap();
    assert_eq!(answer["num_classes"], classes.len());
    assert!(classes.contains(&"gun_shot".into()));
    assert!(answer["model_name"].is_string() && answer["training_date"].is_string());
    let accuracy = answer["test_accuracy"].as_f64().unwrap();
    assert!((0.5..=1.0).contains(&accuracy), "{accuracy}");

    let (status, metrics) = server.json("/metrics").await;
    assert_eq!(status, 200, "{metrics}");
    for field in ["precision", "recall", "f1_score", "confusion_matrix"] {
        assert_eq!(metrics[field].as_array().unwrap().len(), classes.len(), "{field}");
    }
    for class in classes {
        let line = &metrics["per_class_metrics"][class.as_str().unwrap()];
        for field in ["precision", "recall", "f1_score"] {
            assert!((0.0..=1.0).contains(&line[field].as_f64().unwrap()), "{class} {field}");
        }
        assert!(line["support"].is_u64());
    }
    assert_eq!(server.json("/api/v1/model/metrics").await.1, metrics);

    let (status, history) = server.json("/training-history").await;
    assert_eq!(status, 200);
    assert!(history["has_history"].is_boolean());
    for field in ["loss", "val_loss", "accuracy", "val_accuracy"] {
        assert!(history["training_history"][field].is_array(), "{field}");
    }
    assert!(history["training_history"]["epochs"].is_u64());
    assert_eq!(history["retraining_log"], json!([]));

    // The count outlives a restart.
    assert_eq!(server.terminate(Duration::from_secs(12)), Some(0), "{}", server.log());
    server.run().await;
    assert_eq!(server.json("/status").await.1["total_predictions"], 3);
}

/// What Prometheus 2 sends.
const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0,\
     application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";

#[tokio::test(flavor = "multi_thread")]
async fn metrics_are_text_for_prometheus_and_json_for_others() {
    let Some(server) = hearing_server().await else { return };
    assert_eq!(predict(&server, "file", hum()).await.0, 200);
    let request = server.client().get(server.url("/metrics")).header(ACCEPT, PROMETHEUS);
    let response = request.send().await.unwrap();
    let kind = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let text = response.text().await.unwrap();
    for part in [
        "ecosight_build_info{",
        "ecosight_predictions_total 1",
        "ecosight_http_requests_total{method=\"POST\",route=\"/predict\",status=\"200\"} 1",
        "ecosight_inference_duration_seconds_bucket{le=\"0.004\"}",
        "ecosight_ingest_records_total 0",
        "ecosight_broker_connected 1",
    ] {
        assert!(text.contains(part), "{part} is not in:\n{text}");
    }
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        assert!(line.starts_with("ecosight_"), "{line}");
    }
    let any = server.client().get(server.url("/metrics")).header(ACCEPT, "*/*");
    let kind = any.send().await.unwrap().headers()[CONTENT_TYPE].clone();
    assert_eq!(kind, "application/json");
    let direct = server.client().get(server.url("/metrics/prometheus")).send().await.unwrap();
    assert!(direct.text().await.unwrap().contains("ecosight_build_info"));
}

#[tokio::test(flavor = "multi_thread")]
async fn predictions_tell_more_on_request() {
    let Some(server) = hearing_server().await else { return };
    let (_, plain) = predict(&server, "file", hum()).await;
    assert!(plain.get("windows").is_none() && plain.get("heard").is_none(), "{plain}");
    assert_eq!(plain["model"]["tag"].as_str().unwrap().len(), 8);

    let form =
        Form::new().text("windows", "true").part("file", Part::bytes(hum()).file_name("hum.wav"));
    let url = server.url("/predict?heard=true");
    let response = server.client().post(url).multipart(form).send().await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let answer: Value = response.json().await.unwrap();
    assert_eq!(answer["request_id"], id);
    assert_eq!(answer["all_probabilities"], plain["all_probabilities"], "the same model");
    let windows = answer["windows"].as_array().unwrap();
    assert!(windows.len() >= 3, "{answer}");
    assert_eq!(windows[0]["start_s"], 0.0);
    assert_eq!(windows[1]["start_s"], 0.48);
    assert!(windows[0]["scores"]["gun_shot"].is_f64());
    let heard = answer["heard"].as_array().unwrap();
    assert_eq!(heard.len(), 5, "{answer}");
    assert!(heard[0]["class"].is_string());
    assert!(heard[0]["score"].as_f64() >= heard[4]["score"].as_f64());
    let (status, _) = {
        let form = Form::new().part("file", Part::bytes(hum()).file_name("hum.wav"));
        let url = server.url("/predict?windows=perhaps");
        let response = server.client().post(url).multipart(form).send().await.unwrap();
        (response.status().as_u16(), response.json::<Value>().await.unwrap())
    };
    assert_eq!(status, 400);
}

/// A phone's recording.
#[tokio::test(flavor = "multi_thread")]
async fn sounds_as_phones_record_them_are_heard() {
    let Some(server) = hearing_server().await else { return };
    let m4a = include_bytes!("../../../models/tests/models/fixtures/burst.m4a");
    let (status, answer) = predict(&server, "file", m4a.to_vec()).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_are_verified_kept_once_and_can_be_relabelled() {
    let server = Server::start(&["--yamnet", "/does/not/exist.onnx"]).await;
    let (status, kept) =
        upload(&server, bang(1), "../../etc/passwd", &[("class_name", "gun_shot")]).await;
    assert_eq!((status, &kept["success"]), (200, &true.into()), "{kept}");
    assert_eq!(kept["filename"], "passwd");
    assert_eq!(kept["duplicate"], false);
    let id = kept["sample_id"].as_str().unwrap().to_owned();

    let (status, again) = upload(&server, bang(1), "b.wav", &[("class_name", "thunder")]).await;
    assert_eq!(status, 200);
    assert_eq!((&again["duplicate"], &again["sample_id"]), (&true.into(), &kept["sample_id"]));
    let path = format!("/api/v1/samples/{id}");
    let (_, sample) = server.json(&path).await;
    assert_eq!(sample["class"], "thunder");
    assert_eq!((&sample["rate_hz"], &sample["duration_s"]), (&16_000.into(), &2.0.into()));
    let data = server.client().get(server.url(&format!("{path}/data"))).send().await.unwrap();
    assert_eq!(data.headers()[CONTENT_TYPE], "application/octet-stream");
    assert_eq!(data.bytes().await.unwrap(), bang(1));

    for (file, texts, expected) in [
        (vec![], vec![("class_name", "dog")], 400),
        (b"a text, whatever its name says".to_vec(), vec![("class_name", "dog")], 415),
        (bang(2)[..9_000].to_vec(), vec![("class_name", "dog")], 422),
        (bang(2), vec![], 422),
        (bang(2), vec![("class_name", "a/b")], 422),
        (bang(2), vec![("class_name", "dog"), ("group", "a,b")], 422),
    ] {
        let (status, problem) = upload(&server, file, "x.wav", &texts).await;
        assert_eq!(status, expected, "{texts:?}: {problem}");
        assert!(problem["detail"].is_string());
    }
    let group = [("class_name", "dog"), ("group", "yard 1")];
    assert_eq!(upload(&server, drone(1), "d1.wav", &group).await.0, 200);
    assert_eq!(upload(&server, drone(2), "d2.wav", &group).await.0, 200);
    let (_, labels) = server.json("/api/v1/labels").await;
    let expected = json!([
        {"class": "dog", "samples": 2, "groups": 1},
        {"class": "thunder", "samples": 1, "groups": 1},
    ]);
    assert_eq!(labels["items"], expected);
    let (_, first) = server.json("/api/v1/samples?limit=2").await;
    assert_eq!(first["items"].as_array().unwrap().len(), 2);
    let next = first["next"].as_str().unwrap();
    let (_, second) = server.json(&format!("/api/v1/samples?limit=2&cursor={next}")).await;
    assert_eq!((second["items"][0]["id"].as_str(), &second["next"]), (Some(&*id), &Value::Null));

    let patch = server.client().patch(server.url(&path)).json(&json!({"class": "gun_shot"}));
    assert_eq!(patch.send().await.unwrap().json::<Value>().await.unwrap()["class"], "gun_shot");
    let bad = server.client().patch(server.url(&path)).json(&json!({"class": ""}));
    assert_eq!(bad.send().await.unwrap().status().as_u16(), 422);
    let delete = || server.client().delete(server.url(&path)).send();
    assert_eq!(delete().await.unwrap().status().as_u16(), 204);
    assert_eq!(delete().await.unwrap().status().as_u16(), 404);
    assert_eq!(server.json(&path).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_runs_as_a_job_and_the_gate_decides_what_serves() {
    let Some(server) = hearing_server().await else { return };
    let live = server.json("/api/v1/system").await.1["model"].clone();
    let (status, answer) = retrain(&server, &json!({})).await;
    assert_eq!((status, &answer["status"]), (200, &"insufficient_samples".into()));
    assert_eq!(answer["success"], false);

    // Asked for with too little of everything: the job fails and says what is missing.
    assert_eq!(upload(&server, bang(0), "0.wav", &[("class_name", "gun_shot")]).await.0, 200);
    let (_, answer) = retrain(&server, &json!({"min_new_samples": 1})).await;
    assert_eq!((&answer["success"], &answer["status"]), (&true.into(), &"started".into()));
    let job = wait_for_job(&server, &answer).await;
    assert_eq!(job["state"], "failed", "{job}");
    assert!(job["error"].as_str().unwrap().contains("not enough samples"), "{job}");

    for n in 1..6 {
        let file = format!("{n}.wav");
        assert_eq!(upload(&server, bang(n), &file, &[("class_name", "gun_shot")]).await.0, 200);
        assert_eq!(upload(&server, drone(n), &file, &[("class_name", "background")]).await.0, 200);
    }
    let wish = json!({"trigger_reason": "a test", "min_new_samples": 10});
    let (_, answer) = retrain(&server, &wish).await;
    assert_eq!(answer["status"], "started", "{answer}");
    let (_, second) = retrain(&server, &wish).await;
    assert_eq!((&second["success"], &second["status"]), (&false.into(), &"already_running".into()));
    let job = wait_for_job(&server, &answer).await;
    assert_eq!(job["state"], "succeeded", "{job}\n{}", server.log());
    let result = &job["result"];
    assert_eq!(result["samples"], 7, "two of each are what it is judged by");
    assert_eq!(result["classes"], json!(["gun_shot", "background"]));
    // Eleven sounds are too few to set a threshold by; their order tells bangs from drones.
    assert!(result["average_precision"].as_f64().unwrap() >= 0.8, "{result}");
    let bundle = std::path::Path::new(result["bundle"].as_str().unwrap());
    assert!(bundle.join("manifest.json").exists());

    let (_, history) = server.json("/training-history").await;
    let log = &history["retraining_log"];
    assert_eq!(log.as_array().unwrap().len(), 2);
    assert_eq!((&log[0]["status"], &log[0]["samples"]), (&"succeeded".into(), &7.into()));
    assert_eq!(log[0]["gate"], result["gate"]["sentence"]);
    assert_eq!(log[0]["trigger_reason"], "a test");
    assert_eq!(log[1]["status"], "failed");
    let (passed, expected) = match result["gate"]["passed"].as_bool().unwrap() {
        true => (true, &result["tag"]),
        false => (false, &live["tag"]),
    };
    assert_eq!(log[0]["gate_passed"], passed);
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.json("/api/v1/system").await.1["model"]["tag"] != *expected {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, answer) = retrain(&server, &wish).await;
    assert_eq!(answer["status"], "insufficient_samples", "those were learned from already");
}

async fn wait_for_job(server: &Server, answer: &Value) -> Value {
    let path = format!("/api/v1/jobs/{}", answer["job_id"].as_str().unwrap());
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        let (_, job) = server.json(&path).await;
        if ["succeeded", "failed"].contains(&job["state"].as_str().unwrap()) {
            return job;
        }
        assert!(Instant::now() < deadline, "{job}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_are_as_the_operator_says() {
    let config = "[http]\ncors_origins = [\"https://map.example\"]\n";
    let server = Server::start_with_config(config, &["--yamnet", "/none"]).await;
    for (origin, allowed) in [("https://map.example", true), ("https://evil.example", false)] {
        let request = server.client().get(server.url("/status")).header("origin", origin);
        let headers = request.send().await.unwrap().headers().clone();
        assert_eq!(headers.contains_key("access-control-allow-origin"), allowed, "{origin}");
        let preflight = server
            .client()
            .request(reqwest::Method::OPTIONS, server.url("/predict"))
            .header("origin", origin)
            .header("access-control-request-method", "POST");
        let headers = preflight.send().await.unwrap().headers().clone();
        assert_eq!(headers.contains_key("access-control-allow-origin"), allowed, "{origin}");
    }
}
