//! The commands that answer questions, run as a technician runs them.

use std::io::Read as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Json, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use ecosight_agent::config::Config;
use ecosight_agent::logfile::{self, LogFile};
use ecosight_loadtest::built;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::station::{Place, THUDS, agent, errors, write};

const NOWHERE: &str = "mqtt://127.0.0.1:1";

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("UTF-8")
}

fn lines(bytes: Vec<u8>) -> Vec<Value> {
    text(bytes).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn classify_says_what_the_model_tool_says() {
    let place = Place::new("kind = \"mic\"", NOWHERE, "");
    let config = place.config.display().to_string();
    let folder = place.directory.path().join("files");
    std::fs::create_dir(&folder).expect("made");
    std::fs::copy(place.directory.path().join("night.wav"), folder.join("night.wav"))
        .expect("copied");
    write(&folder.join("text.wav"), b"not sound");
    let folder = folder.display().to_string();
    let ours = agent(&["classify", "--config", &config, "--json", "--windows", &folder], &[]);
    assert_eq!(ours.status.code(), Some(1), "one file is no sound: {}", errors(&ours));
    let judged = lines(ours.stdout.clone());
    assert_eq!(judged[0]["events"].as_array().map(Vec::len), Some(THUDS.len()));
    assert!(judged[1]["error"].is_string());

    let tool = built("ecosight-models");
    assert!(tool.exists(), "{} is built with the workspace", tool.display());
    let bundle = place.directory.path().join("bundle").display().to_string();
    let theirs = Command::new(tool)
        .args(["classify", "--bundle", &bundle, "--json", "--windows", &folder])
        .output()
        .expect("runs");
    assert_eq!(text(ours.stdout), text(theirs.stdout));

    let missing = agent(&["classify", "--config", &config, "/nonexistent.wav"], &[]);
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(missing.stdout).contains("/nonexistent.wav  error: "));
    // The operator's threshold counts, as it does when listening.
    let nervous = agent(
        &["classify", "--config", &config, "--json", &folder],
        &[("ECOSIGHT__MODEL__THRESHOLDS__THUD", "0.0")],
    );
    assert_eq!(lines(nervous.stdout)[0]["events"].as_array().map(Vec::len), Some(1), "one long");
}

#[test]
fn record_test_keeps_a_recording_and_says_what_is_wrong() {
    let place = Place::new("kind = \"file\"\npath = \"NIGHT\"", NOWHERE, "");
    let config = place.config.display().to_string();
    let out = place.directory.path().join("tests").display().to_string();
    let arguments = ["record-test", "--config", &config, "--seconds", "2", "--out", &out, "--json"];
    let output = agent(&arguments, &[]);
    assert!(output.status.success(), "{}", errors(&output));
    let answer = &lines(output.stdout)[0];
    assert_eq!(answer["passed"], true);
    assert!((answer["measured"]["seconds"].as_f64().expect("a number") - 2.0).abs() < 1e-9);
    let file = answer["file"].as_str().expect("a path").to_owned();
    let mut reader = ecosight_models::audio::AudioReader::open(
        file.as_ref(),
        &ecosight_models::audio::DecodeLimits::default(),
    )
    .expect("a recording");
    let mut samples = 0;
    while let Some(block) = reader.next_block().expect("decodes") {
        samples += block.len();
    }
    assert_eq!(samples, 32_000);
    assert!(!place.data().exists(), "a test keeps nothing of the station's own");

    let raw = [0_u8; 4 * 32_000];
    let mut child = Command::new(crate::station::AGENT)
        .args(["record-test", "--config", &config, "--seconds", "3", "--out", &out])
        .env("ECOSIGHT__SOURCE__KIND", "stdin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut pipe = child.stdin.take().expect("piped");
    let feeding = std::thread::spawn(move || {
        let _ = std::io::Write::write_all(&mut pipe, &raw);
    });
    let output = child.wait_with_output().expect("ends");
    feeding.join().expect("fed");
    assert_eq!(output.status.code(), Some(1), "a dead input fails");
    let report = text(output.stdout);
    assert!(
        report.contains("FAIL  flat line") && report.contains("→ the input is dead"),
        "{report}"
    );

    let listening = agent(
        &["record-test", "--config", &config, "--seconds", "1", "--out", &out],
        &[("ECOSIGHT__PRIVACY__REDACT_SPEECH", "true")],
    );
    assert!(listening.status.success(), "{}", errors(&listening));
    let said = errors(&listening);
    assert!(text(listening.stdout).contains("  speech"), "{said}");
    assert_eq!(agent(&["record-test", "--seconds", "0"], &[]).status.code(), Some(2));
}

#[test]
fn calibrate_shows_scores_and_what_budgets_cost() {
    let place = Place::new("kind = \"scene\"\nspeed = \"max\"", NOWHERE, "");
    let config = place.config.display().to_string();
    let environment = [("ECOSIGHT__SOURCE__SHOTS_PER_HOUR", "0")];
    let short = agent(&["calibrate", "--config", &config, "--duration", "2min"], &environment);
    assert!(short.status.success(), "{}", errors(&short));
    let report = text(short.stdout);
    assert!(report.contains("thud: 0.03 h of background"), "{report}");
    assert!(report.contains("too little to conclude anything"), "{report}");
    let long =
        agent(&["calibrate", "--config", &config, "--duration", "62min", "--json"], &environment);
    assert!(long.status.success(), "{}", errors(&long));
    let reports = lines(long.stdout);
    let budgets = reports[0][0]["budgets"].as_array().expect("budgets").clone();
    assert!(budgets.iter().all(|budget| budget["state"] != "learning"), "{budgets:?}");
    let thresholds: Vec<f64> =
        budgets.iter().map(|budget| budget["threshold"].as_f64().expect("a number")).collect();
    assert!(thresholds.is_sorted_by(|a, b| a >= b), "more alarms, lower threshold: {thresholds:?}");
    assert_eq!(agent(&["calibrate", "--duration", "long"], &[]).status.code(), Some(2));
}

#[test]
fn why_answers_after_a_run() {
    let source = format!(
        "kind = \"file\"\npath = \"NIGHT\"\nspeed = \"max\"\nstart_time = \"{}\"\nat_end = \"stay\"",
        crate::station::START
    );
    let place = Place::new(&source, NOWHERE, "");
    let config = place.config.display().to_string();
    let child = place.start();
    let started = std::time::Instant::now();
    let clips = place.data().join("clips");
    while std::fs::read_dir(&clips).map_or(0, Iterator::count) < THUDS.len() {
        assert!(started.elapsed().as_secs() < 60, "{}", place.log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    crate::station::terminate(&child);
    place.ends_well(child, std::time::Duration::from_secs(11));
    let ask = |at: &str| {
        let output =
            agent(&["why", "--config", &config, "--at", at, "--within", "4s", "--json"], &[]);
        assert!(output.status.success(), "{}", errors(&output));
        lines(output.stdout).remove(0)
    };
    let at_a_thud = ask("2026-03-01T18:00:23Z");
    assert!(
        at_a_thud["answer"].as_str().is_some_and(|a| a.contains("did alert: thud")),
        "{at_a_thud}"
    );
    let between = ask("2026-03-01T18:00:38Z");
    assert!(
        between["answer"].as_str().is_some_and(|a| a.contains("nothing came near")),
        "{between}"
    );
    assert_eq!(between["minutes"].as_array().map(Vec::len), Some(1), "{between}");
    let before = ask("2026-02-01T00:00:00Z");
    assert!(before["answer"].as_str().is_some_and(|a| a.contains("was not listening")), "{before}");
    let background = std::fs::read(place.data().join("background.json")).expect("written");
    let background: Value = serde_json::from_slice(&background).expect("JSON");
    assert!(background["classes"]["thud"][0]["blocks"].as_u64().is_some_and(|n| n >= 11));
    assert_eq!(agent(&["why", "--config", &config, "--at", "dawn"], &[]).status.code(), Some(2));
}

#[test]
fn support_packs_everything_but_secrets_and_sound() {
    let place = Place::new("kind = \"file\"\npath = \"NIGHT\"", NOWHERE, "");
    let config = place.config.display().to_string();
    let secret = place.directory.path().join("password");
    write(&secret, b"tiger-in-the-grass\n");
    let data = place.data();
    std::fs::create_dir_all(data.join("clips")).expect("made");
    let mut log = LogFile::open(&data, 100_000).expect("opens");
    std::io::Write::write_all(&mut log, b"\x1b[31mERROR\x1b[0m the river is high\n")
        .expect("taken");
    drop(log);
    let out = place.directory.path().join("support.tar");
    let output = agent(
        &["support", "--config", &config, "--out", &out.display().to_string()],
        &[
            ("ECOSIGHT__MQTT__USERNAME", "warden-seven"),
            ("ECOSIGHT__MQTT__PASSWORD_FILE", &secret.display().to_string()),
        ],
    );
    assert!(output.status.success(), "{}", errors(&output));
    assert_eq!(text(output.stdout).trim(), out.display().to_string());
    let bytes = std::fs::read(&out).expect("written");
    let mut files = std::collections::BTreeMap::new();
    for entry in tar::Archive::new(&bytes[..]).entries().expect("a tar") {
        let mut entry = entry.expect("whole");
        let name = entry.path().expect("a name").display().to_string();
        let mut content = String::new();
        entry.read_to_string(&mut content).expect("text");
        files.insert(name, content);
    }
    let file = |name: &str| files[&format!("ecosight-support/{name}")].as_str();
    assert!(file("settings.txt").contains("mqtt.username = (hidden)"), "{}", file("settings.txt"));
    assert!(file("settings.txt").contains("station.site = \"test\"  # agent.toml:2"));
    assert!(file("doctor.txt").contains("FAIL  broker"));
    assert!(file("messages.log").starts_with("ERROR the river is high\n"), "no colours");
    assert!(file("about.json").contains("\"redact_speech\": false"));
    for name in ["disk.txt", "outbox.json", "trace.json", "machine.txt"] {
        assert!(!file(name).is_empty(), "{name}");
    }
    let all = String::from_utf8_lossy(&bytes);
    assert!(!all.contains("tiger-in-the-grass") && !all.contains("warden-seven"));
}

#[test]
fn the_kept_log_is_bounded_and_the_newest_is_there() {
    let directory = tempdir().expect("a directory");
    for start in [0, 1_000] {
        let mut log = LogFile::open(directory.path(), 12_000).expect("opens");
        for number in start..start + 1_000 {
            std::io::Write::write_all(&mut log, format!("line {number}\n").as_bytes())
                .expect("taken");
        }
    }
    let kept = logfile::read(directory.path());
    assert!(kept.len() <= 12_100, "{} bytes", kept.len());
    assert!(kept.ends_with("line 1999\n") && kept.contains("line 1500\n"), "{kept}");
    assert!(!kept.contains("line 3\n"));
}

type Asked = Arc<Mutex<Vec<Value>>>;

async fn enrolment(State(asked): State<Asked>, Json(body): Json<Value>) -> Response {
    let code = body["code"].as_str().unwrap_or_default().to_owned();
    asked.lock().expect("fine").push(body);
    if code != "RIVER-42" {
        let problem = json!({"title": "Unknown code", "detail": "This code was used already."});
        return (StatusCode::CONFLICT, Json(problem)).into_response();
    }
    Json(json!({
        "device_id": "018f4d7e-0000-7000-8000-00000000abcd",
        "site_id": "gola",
        "device_name": "river-bend",
        "username": "018f4d7e-0000-7000-8000-00000000abcd",
        "password": "s3cret",
        "mqtt_url": "mqtts://broker.example:8883",
        "mqtt_ca": "-----BEGIN CERTIFICATE-----",
        "something_new": [1, 2, 3],
    }))
    .into_response()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_station_enrols_with_a_code_and_then_knows_its_place() {
    let asked = Asked::default();
    let app = Router::new().route("/api/v1/enrol", post(enrolment)).with_state(Arc::clone(&asked));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move { axum::serve(listener, app).await });
    let directory = tempdir().expect("a directory");
    let data = directory.path().join("data");
    let config = directory.path().join("agent.toml");
    // As the package installs it, where every default is spelled out.
    let toml = ecosight_agent::config::EXAMPLE
        .replace("/var/lib/ecosight", &data.display().to_string())
        .replace("name = \"station\"", "name = \"ridge-7\"");
    write(&config, toml.as_bytes());
    let path = config.display().to_string();
    let enroll = |code: &str| {
        let arguments = ["enroll", "--config", &path, "--url", &url, "--code", code];
        tokio::task::block_in_place(|| agent(&arguments, &[]))
    };
    let refused = enroll("WRONG");
    assert_eq!(refused.status.code(), Some(1));
    assert!(errors(&refused).contains("This code was used already."), "{}", errors(&refused));
    assert!(!data.exists(), "nothing is written");

    let done = enroll("RIVER-42");
    assert!(done.status.success(), "{}", errors(&done));
    let request = asked.lock().expect("fine")[1].clone();
    assert_eq!(request["code"], "RIVER-42");
    assert!(request["device_id"].as_str().is_some_and(|id| id.len() == 36), "{request}");
    assert_eq!(request.as_object().map(serde_json::Map::len), Some(2), "nothing else is sent");
    let settings = Config::load(Some(&config)).expect("valid");
    assert_eq!(settings.station.site.as_str(), "gola");
    assert_eq!(
        settings.station.id.expect("given").to_string(),
        "018f4d7e-0000-7000-8000-00000000abcd"
    );
    assert_eq!(settings.station.name.as_str(), "ridge-7", "what a person wrote counts more");
    assert_eq!(settings.cloud.url.as_deref(), Some(url.as_str()));
    assert_eq!(settings.mqtt.url, "mqtts://broker.example:8883");
    let ca = settings.mqtt.ca.expect("given");
    assert_eq!(std::fs::read_to_string(ca).expect("there"), "-----BEGIN CERTIFICATE-----");
    assert_eq!(settings.mqtt.username, settings.cloud.username);
    assert!(settings.mqtt.username.is_some());
    let token = settings.mqtt.password_file.expect("given");
    assert_eq!(Some(&token), settings.cloud.password_file.as_ref());
    assert_eq!(std::fs::read_to_string(&token).expect("there"), "s3cret");
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&token).expect("there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    let written = std::fs::read_to_string(data.join("enrolment.toml")).expect("there");
    assert!(!written.contains("s3cret"), "{written}");
    assert!(Config::parse(Some((&data, &written)), std::iter::empty()).is_ok(), "{written}");
}
