//! Stations as they are managed, and what they heard as others read it.

use std::io::Read as _;
use std::process::Command;
use std::time::Duration;

use ecosight_loadtest::{Program, free_port};
use ecosight_shared::Topic;
use ecosight_shared::json::ConnectionState;
use reqwest::Method;
use rumqttc::mqttbytes::QoS;
use rumqttc::mqttbytes::v5::Packet;
use rumqttc::{AsyncClient, Event, MqttOptions, PublishOptions};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::predict::wav;
use crate::program::{Server, run};
use crate::station::{
    Station, alert, bytes, detection, device, quiet_detection, status, telemetry,
};

pub(crate) async fn ask(server: &Server, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let request = server.client().request(method, server.url(path)).json(body);
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// A server with one station that was heard from.
pub(crate) async fn server_with_station() -> (Server, Station, String) {
    let server = Server::start(&["--yamnet", "/none"]).await;
    let station = Station::connect(server.mqtt_port, "station", &[]).await;
    station.send_status(&status(device(1), ConnectionState::Online)).await;
    for seq in 1..=3 {
        station.send_record(&telemetry(device(1), seq)).await;
    }
    server.wait_for_items("/api/v1/devices", 1).await;
    (server, station, format!("/api/v1/devices/{}", device(1).0))
}

/// What comes on a filter, for a moment.
async fn heard(port: u16, filter: &str) -> Vec<(String, Value)> {
    let (client, mut eventloop) =
        AsyncClient::builder(MqttOptions::new("listener", ("127.0.0.1", port)))
            .capacity(10)
            .build();
    client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    let mut messages = Vec::new();
    let listen = async {
        loop {
            if let Ok(Event::Incoming(Packet::Publish(publish))) = eventloop.poll().await {
                let topic = String::from_utf8(publish.topic.to_vec()).unwrap();
                messages.push((topic, serde_json::from_slice(&publish.payload).unwrap()));
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(1_500), listen).await;
    messages
}

#[tokio::test(flavor = "multi_thread")]
async fn a_station_is_told_what_to_run_and_finds_it_whenever_it_comes() {
    let (server, _station, path) = server_with_station().await;
    let desired = format!("{path}/desired");
    assert_eq!(server.json(&desired).await.0, 404);
    let (status, first) = ask(&server, Method::PUT, &desired, &json!({"gain_db": 3})).await;
    assert_eq!((status, &first["version"]), (200, &1.into()), "{first}");
    let stale = server.client().put(server.url(&desired)).header("if-match", "\"7\"");
    assert_eq!(stale.json(&json!({})).send().await.unwrap().status().as_u16(), 412);
    let fresh = server.client().put(server.url(&desired)).header("if-match", "\"1\"");
    let fresh = fresh.json(&json!({"gain_db": 6})).send().await.unwrap();
    assert_eq!(fresh.headers()["etag"], "\"2\"");
    assert_eq!(ask(&server, Method::PUT, &desired, &json!([1])).await.0, 400);
    // The listener comes after the word: it was kept for it.
    let topic = Topic::Desired("ridge", device(1)).to_string();
    let messages = heard(server.mqtt_port, &topic).await;
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(messages[0].1["version"], 2);
    assert_eq!(messages[0].1["desired"], json!({"gain_db": 6}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_reaches_its_station_and_is_remembered() {
    let (server, _station, path) = server_with_station().await;
    let topic = Topic::Command("ridge", device(1), "record").to_string();
    let listener = tokio::spawn({
        let port = server.mqtt_port;
        async move { heard(port, &topic).await }
    });
    tokio::time::sleep(Duration::from_millis(400)).await;
    let commands = format!("{path}/commands");
    let command = json!({"name": "record", "payload": {"seconds": 10}});
    let (status, sent) = ask(&server, Method::POST, &commands, &command).await;
    assert_eq!(status, 202, "{sent}");
    assert!(sent["sent_at"].is_string());
    let messages = listener.await.unwrap();
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].1["payload"], json!({"seconds": 10}));
    assert_eq!(messages[0].1["id"], sent["id"]);
    let (_, list) = server.json(&commands).await;
    assert_eq!(list["items"][0]["id"], sent["id"]);
    for bad in
        [json!({"name": "Not A Name"}), json!({"name": "a/b"}), json!({"name": "x", "payload": 5})]
    {
        let (status, _) = ask(&server, Method::POST, &commands, &bad).await;
        assert!([400, 422].contains(&status), "{bad}: {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stations_have_a_history_and_an_end() {
    let (server, _station, path) = server_with_station().await;
    let series = format!("{path}/telemetry?since=2026-01-01T00:00:00Z");
    let items = server.wait_for_items(&series, 3).await;
    assert_eq!(items[0]["uptime_s"], 3, "newest first");
    let part = format!("{path}/telemetry?since=2026-03-01T18:00:02Z&until=2026-03-01T18:00:03Z");
    assert_eq!(server.json(&part).await.1["items"].as_array().unwrap().len(), 1);
    let site = json!({"name": "North ridge", "time_zone": "Africa/Nairobi", "latitude": -1.5, "longitude": 36.0});
    assert_eq!(ask(&server, Method::PUT, "/api/v1/sites/ridge", &site).await.0, 204);
    let (_, sites) = server.json("/api/v1/sites").await;
    assert_eq!(sites["items"][0]["name"], "North ridge");
    assert_eq!(sites["items"][0]["devices"], 1);
    for bad in [
        json!({"name": "x", "time_zone": "Middle/Earth"}),
        json!({"name": "x", "time_zone": "UTC", "latitude": 91.0, "longitude": 0.0}),
        json!({"name": "x", "time_zone": "UTC", "latitude": 1.0}),
        json!({"name": "", "time_zone": "UTC"}),
    ] {
        assert_eq!(ask(&server, Method::PUT, "/api/v1/sites/ridge", &bad).await.0, 422, "{bad}");
    }
    let delete = || server.client().delete(server.url(&path)).send();
    assert_eq!(delete().await.unwrap().status().as_u16(), 204);
    assert_eq!(delete().await.unwrap().status().as_u16(), 404);
    assert_eq!(server.json("/api/v1/devices").await.1["items"], json!([]));
    assert_eq!(server.json(&path).await.0, 404);
}

/// A detection whose clip is here.
pub(crate) async fn with_clip(server: &Server, station: &Station) -> String {
    let sound = wav(16_000, 1, (0..32_000).map(|n| (n as f32 * 0.39).sin() * 0.5));
    let mut envelope = detection(device(1), 10, 11);
    let sha256: [u8; 32] = Sha256::digest(&sound).into();
    if let ecosight_shared::Message::Detection(detection) = &mut envelope.message {
        detection.clip = Some(ecosight_shared::ClipRef {
            sha256,
            bytes: sound.len() as u32,
            duration_ms: 2_000,
            format: ecosight_shared::ClipFormat::Wav,
        });
    }
    station.send_record(&alert(device(1), 10)).await;
    station.send_record(&envelope).await;
    let items = server.wait_for_items("/api/v1/alerts", 1).await;
    let id = items[0]["id"].as_str().unwrap().to_owned();
    let declaration = json!({
        "event_id": id, "device_id": device(1).0, "bytes": sound.len(), "duration_ms": 2_000,
        "sha256": sha256.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        "format": "wav",
    });
    let (status, answer) = ask(server, Method::POST, "/api/v1/clips", &declaration).await;
    assert!([200, 201].contains(&status), "{answer}");
    let put = server.client().put(server.url(&format!("/api/v1/clips/{id}/data"))).body(sound);
    assert_eq!(put.send().await.unwrap().status().as_u16(), 200);
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn recordings_can_be_looked_at() {
    let (server, station, _) = server_with_station().await;
    let id = with_clip(&server, &station).await;
    let (status, peaks) = server.json(&format!("/api/v1/clips/{id}/peaks?count=100")).await;
    assert_eq!(status, 200, "{peaks}");
    assert_eq!(peaks["duration_s"], 2.0);
    assert_eq!(peaks["peaks"].as_array().unwrap().len(), 100);
    assert!(peaks["peaks"][50][1].as_f64().unwrap() > 0.45);
    let picture = server.url(&format!("/api/v1/clips/{id}/spectrogram?width=300"));
    let picture = server.client().get(picture).send().await.unwrap();
    assert_eq!(picture.headers()["content-type"], "image/png");
    assert!(picture.bytes().await.unwrap().starts_with(b"\x89PNG"));
    assert_eq!(server.json(&format!("/api/v1/clips/{id}/peaks?count=0")).await.0, 400);
    let other = "018f4d7e-0000-7000-8000-000000000001";
    assert_eq!(server.json(&format!("/api/v1/clips/{other}/spectrogram")).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_heard_can_be_taken_elsewhere() {
    let (server, station, _) = server_with_station().await;
    let id = with_clip(&server, &station).await;
    station.send_record(&quiet_detection(device(1), 20)).await;
    server.wait_for_items("/api/v1/detections", 2).await;
    let export = async |path: &str| {
        let response = server.client().get(server.url(path)).send().await.unwrap();
        assert_eq!(response.status().as_u16(), 200, "{path}");
        response.bytes().await.unwrap()
    };
    let csv = String::from_utf8(export("/api/v1/export/csv").await.to_vec()).unwrap();
    assert_eq!(csv.lines().count(), 3, "{csv}");
    let stated = server.client().get(server.url("/api/v1/export/csv?class=dog")).send().await;
    assert_eq!(stated.unwrap().headers()["x-ecosight-matched"], "1");
    let columns = csv.lines().next().unwrap().split(',').count();
    assert!(csv.lines().all(|line| line.split(',').count() == columns), "{csv}");
    assert!(csv.contains(&id));
    let one = String::from_utf8(export("/api/v1/export/csv?class=dog").await.to_vec()).unwrap();
    assert_eq!(one.lines().count(), 2);
    let geojson: Value = serde_json::from_slice(&export("/api/v1/export/geojson").await).unwrap();
    assert_eq!(geojson["type"], "FeatureCollection");
    assert_eq!(geojson["features"], json!([]), "the station never said where it is");
    let counts = ["matched", "written", "without_position"].map(|count| geojson[count].clone());
    assert_eq!(counts, [2, 0, 2]);
    let raven = String::from_utf8(export("/api/v1/export/raven").await.to_vec()).unwrap();
    assert!(raven.starts_with("Selection\tView\tChannel\tBegin Time (s)"), "{raven}");
    assert!(raven.lines().all(|line| line.split('\t').count() == 12), "{raven}");
    let audacity = String::from_utf8(export("/api/v1/export/audacity").await.to_vec()).unwrap();
    assert_eq!(audacity.lines().count(), 4, "a label and its frequencies each");

    let archive = export("/api/v1/export/clips").await;
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("clips.zip");
    std::io::Write::write_all(
        &mut std::fs::OpenOptions::new().create(true).append(true).open(&file).unwrap(),
        &archive,
    )
    .unwrap();
    // Python's reader checks names, sizes and checksums of both directories.
    let check = "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); assert z.testzip() is None; \
                 print(z.namelist()[0]); print(z.read('manifest.json').decode()); \
                 z.extractall(sys.argv[2])";
    let listed = Command::new("python3").args(["-c", check]).arg(&file).arg(folder.path()).output();
    let listed = listed.unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8(listed.stdout).unwrap();
    let (name, manifest) = listed.split_once('\n').unwrap();
    let manifest: Value = serde_json::from_str(manifest).unwrap();
    let counts = ["matched", "written", "without_recording"].map(|count| manifest[count].clone());
    assert_eq!(counts, [2, 1, 1], "{manifest}");
    assert_eq!(name, format!("ridge_station-1_20260301T180010Z_{id}.wav"));
    let mut sound = Vec::new();
    std::fs::File::open(folder.path().join(name)).unwrap().read_to_end(&mut sound).unwrap();
    assert_eq!(hound::WavReader::new(&sound[..]).unwrap().len(), 32_000);
    let text = String::from_utf8_lossy(&sound);
    assert!(text.contains("GUANO|Version: 1.0"));
    assert!(text.contains(&format!("ECOSIGHT|Event: {id}")));

    for (path, status) in [
        ("/api/v1/export/xml", 404),
        ("/api/v1/export/csv?limit=5", 400),
        ("/api/v1/export/csv?since=x", 400),
    ] {
        assert_eq!(server.json(path).await.0, status, "{path}");
    }
    let dir = server.data_dir();
    let by_command = run(&["export", "csv", "--data-dir", dir.to_str().unwrap()]);
    assert_eq!(String::from_utf8(by_command.stdout).unwrap(), csv);
    let by_command = |filter: &[&str]| {
        let common = ["export", "csv", "--data-dir", dir.to_str().unwrap()];
        let output = run(&[&common[..], filter].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().count() - 1
    };
    let (one, other) = (device(1).to_string(), device(2).to_string());
    for (filter, rows) in [
        (["--device", one.as_str()], 2),
        (["--device", other.as_str()], 0),
        (["--min-score", "0.99"], 0),
        (["--state", "open"], 2),
        (["--verdict", "none"], 2),
        (["--verdict", "confirmed"], 0),
    ] {
        assert_eq!(by_command(&filter), rows, "{filter:?}");
    }
    let clips = run(&["export", "clips", "--data-dir", dir.to_str().unwrap()]);
    assert_eq!(clips.stdout, archive, "the command's ZIP is the server's");
}

/// The ACL that is written for Mosquitto confines a station to its own subtree.
#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::disallowed_methods, reason = "a configuration for a test's broker")]
async fn mosquitto_lets_a_station_speak_for_itself_only() {
    let Some(binary) = ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"]
        .iter()
        .find(|path| std::path::Path::new(path).exists())
    else {
        assert!(std::env::var_os("CI").is_none(), "CI needs Mosquitto");
        eprintln!("skipped: Mosquitto is not installed");
        return;
    };
    let server = Server::start(&["--yamnet", "/none"]).await;
    let (name, secret) = enrolled(&server).await;
    let folder = tempfile::TempDir::new().unwrap();
    let (out, dir) = (folder.path().join("broker"), server.data_dir());
    let password = folder.path().join("password");
    std::fs::write(&password, "the server's own\n").unwrap();
    let written = run(&[
        "mosquitto-acl",
        "--out",
        out.to_str().unwrap(),
        "--server-password-file",
        password.to_str().unwrap(),
        "--data-dir",
        dir.to_str().unwrap(),
    ]);
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let port = free_port().unwrap();
    let config = folder.path().join("mosquitto.conf");
    let place = out.display();
    std::fs::write(
        &config,
        format!(
            "listener {port} 127.0.0.1\nallow_anonymous false\nuser root\n\
             password_file {place}/passwords\nacl_file {place}/acl\n"
        ),
    )
    .unwrap();
    let arguments = ["-c", config.to_str().unwrap()];
    let _broker =
        Program::start("mosquitto", std::path::Path::new(binary), arguments, folder.path())
            .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let own = ("ecosight-cloud", "the server's own");
    let listener = tokio::spawn(everything(port, own, "ecosight/v1/#"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!connects(port, &name, "wrong", &[]).await);
    let topics = [
        Topic::Up("ridge", device(1)).to_string(),
        Topic::Up("ridge", device(2)).to_string(),
        Topic::Up("valley", device(1)).to_string(),
        Topic::Receipt("ridge", device(1)).to_string(),
    ];
    assert!(connects(port, &name, &secret, &topics).await);
    assert_eq!(listener.await.unwrap(), topics[..1], "its own word alone gets through");
}

/// Whether the broker lets somebody in, who then publishes on `topics`.
async fn connects(port: u16, name: &str, password: &str, topics: &[String]) -> bool {
    let mut options = MqttOptions::new("someone", ("127.0.0.1", port));
    options.set_credentials(name.to_owned(), password.as_bytes().to_vec());
    let (client, mut eventloop) = AsyncClient::builder(options).capacity(10).build();
    for topic in topics {
        let options = PublishOptions::new(QoS::AtLeastOnce);
        client.publish(topic, b"x".to_vec(), options).await.unwrap();
    }
    let mut connected = false;
    let talk = async {
        while let Ok(event) = eventloop.poll().await {
            connected |= matches!(event, Event::Incoming(Packet::ConnAck(_)));
        }
    };
    let _ = tokio::time::timeout(Duration::from_millis(800), talk).await;
    connected
}

/// Topics on which somebody hears anything of what matches `filter`, for a while.
async fn everything(port: u16, login: (&str, &str), filter: &'static str) -> Vec<String> {
    let mut options = MqttOptions::new("listener", ("127.0.0.1", port));
    options.set_credentials(login.0.to_owned(), login.1.as_bytes().to_vec());
    let (client, mut eventloop) = AsyncClient::builder(options).capacity(10).build();
    client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
    let mut topics = Vec::new();
    let listen = async {
        loop {
            if let Ok(Event::Incoming(Packet::Publish(publish))) = eventloop.poll().await {
                topics.push(String::from_utf8(publish.topic.to_vec()).unwrap());
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(4), listen).await;
    topics
}

/// The broker inside the server, told to ask for credentials, confines a station in the same way.
#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_broker_lets_a_station_speak_for_itself_only() {
    let config = "[mqtt]\nrequire_credentials = true\n";
    let server = Server::start_with_config(config, &["--yamnet", "/none"]).await;
    let (station, secret) = enrolled(&server).await;
    let key = json!({"name": "post", "role": "ranger"});
    let (made, key) = ask(&server, Method::POST, "/api/v1/keys", &key).await;
    assert_eq!(made, 201, "{key}");
    let key = key["secret"].as_str().unwrap().to_owned();
    let port = server.mqtt_port;
    assert!(!connects(port, &station, "wrong", &[]).await);
    assert!(!connects(port, "", "", &[]).await);
    assert!(!connects(port, "anybody", "esk_0", &[]).await);

    let ranger =
        tokio::spawn(
            async move { everything(port, ("anybody", &key), "ecosight/v1/+/alerts/+").await },
        );
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Names the classes of its model, without which the alert would wait.
    let online = serde_json::to_vec(&status(device(1), ConnectionState::Online)).unwrap();
    let topic = Topic::Status("ridge", device(1)).to_string();
    assert!(say(port, "someone", (&station, &secret), &topic, online).await);
    let own = Topic::Up("ridge", device(1)).to_string();
    let sent = say(port, "someone", (&station, &secret), &own, bytes(&alert(device(1), 1))).await;
    assert!(sent, "a station may speak");
    server.wait_for_items("/api/v1/alerts", 1).await;
    for (topic, number) in [
        (Topic::Up("ridge", device(2)), 2),
        (Topic::Up("valley", device(1)), 1),
        (Topic::SiteAlert("ridge", "gun_shot"), 1),
    ] {
        let payload = bytes(&alert(device(number), 2));
        let sent = say(port, "someone", (&station, &secret), &topic.to_string(), payload).await;
        assert!(!sent, "{topic} is not its own");
    }
    let heard = ranger.await.unwrap();
    assert_eq!(heard.len(), 1, "one alert, and nobody forged one: {heard:?}");
    assert!(heard[0].starts_with("ecosight/v1/ridge/alerts/"), "{heard:?}");
    // Under the name of the server's session, or of another station's, it would end that session.
    for id in ["ecosight-cloud".to_owned(), device(2).to_string()] {
        assert!(!say(port, &id, (&station, &secret), &own, Vec::new()).await, "{id}");
    }
    assert_eq!(server.json("/api/v1/alerts").await.1["items"].as_array().unwrap().len(), 1);
    let retired = server.client().delete(server.url(&format!("/api/v1/devices/{}", device(1))));
    assert_eq!(retired.send().await.unwrap().status().as_u16(), 204);
    assert!(!connects(port, &station, &secret, &[]).await, "its credentials have ended");
}

/// Whether the broker lets somebody in under `id` and acknowledges a message.
async fn say(port: u16, id: &str, login: (&str, &str), topic: &str, payload: Vec<u8>) -> bool {
    let mut options = MqttOptions::new(id, ("127.0.0.1", port));
    options.set_credentials(login.0.to_owned(), login.1.as_bytes().to_vec());
    let (client, mut eventloop) = AsyncClient::builder(options).capacity(10).build();
    let options = PublishOptions::new(QoS::AtLeastOnce);
    client.publish(topic, payload, options).await.unwrap();
    let talk = async {
        while let Ok(event) = eventloop.poll().await {
            if matches!(event, Event::Incoming(Packet::PubAck(_))) {
                return true;
            }
        }
        false
    };
    tokio::time::timeout(Duration::from_secs(5), talk).await.unwrap_or(false)
}

/// A station of site `ridge`, enrolled: its name and its password.
async fn enrolled(server: &Server) -> (String, String) {
    let offer = json!({"site": "ridge", "device_name": "one"});
    let (_, offer) = ask(server, Method::POST, "/api/v1/enrolments", &offer).await;
    let enrol = json!({"code": offer["code"], "device_id": device(1).0});
    let (status, enrolled) = ask(server, Method::POST, "/api/v1/enrol", &enrol).await;
    assert_eq!(status, 201, "{enrolled}");
    let text = |field: &str| enrolled[field].as_str().unwrap().to_owned();
    (text("username"), text("password"))
}
