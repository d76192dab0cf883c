//! What people say of events, what becomes of it, and which version of the model serves.

use std::time::Duration;

use ecosight_cloud::store::{
    Attempt, Cause, EventFilter, GivenVerdict, MissedShotRow, NewActivation, NewJob, PullRow,
    SampleRow, Verdict, VersionRow, before,
};
use ecosight_shared::json::{ConnectionState, PullCommand};
use ecosight_shared::{ClipFormat, ClipRef, Envelope, Message, Topic};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::databases::{Database, on_both_databases};
use crate::predict::wav;
use crate::program::Server;
use crate::station::{SITE, Station, alert, batch, detection, device, quiet_detection, status};

on_both_databases!(
    the_last_verdict_holds_and_all_are_kept,
    events_are_found_by_their_verdict,
    recordings_are_set_aside_once,
    of_two_who_change_the_model_one_comes_too_late,
    a_training_ends_whole_or_not_at_all,
    a_mark_is_raised_by_one,
    a_missed_shot_is_kept_with_what_was_asked,
    an_upload_that_turns_out_to_be_an_events_recording_is_that_events,
);

fn given(n: u8, event: Uuid, verdict: Option<Verdict>, cause: Option<Cause>) -> GivenVerdict {
    GivenVerdict {
        id: Uuid::from_bytes([n; 16]),
        event,
        verdict,
        cause,
        class: None,
        note: None,
        by: format!("user:{n}"),
        now_us: i64::from(n),
    }
}

async fn the_last_verdict_holds_and_all_are_kept(database: &Database) {
    let store = &database.store;
    let told = store.commit(batch(&[alert(device(1), 1)])).await.unwrap();
    let event = told.alerts[0];
    let give = |n, verdict, cause| store.give_verdict(given(n, event, verdict, cause));
    assert!(give(1, Some(Verdict::Rejected), Some(Cause::Thunder)).await.unwrap());
    assert!(give(2, Some(Verdict::Rejected), Some(Cause::Thunder)).await.unwrap(), "said again");
    assert!(give(3, Some(Verdict::Confirmed), None).await.unwrap());
    let row = store.event(event).await.unwrap().unwrap();
    assert_eq!((row.verdict.as_deref(), row.verdict_cause), (Some("confirmed"), None));
    assert_eq!((row.verdict_by.as_deref(), row.verdict_us), (Some("user:3"), Some(3)));
    assert!(give(4, None, None).await.unwrap());
    assert_eq!(store.event(event).await.unwrap().unwrap().verdict, None);
    let words: Vec<(String, i64)> = store
        .verdicts(event)
        .await
        .unwrap()
        .into_iter()
        .map(|row| (row.verdict, row.given_us))
        .collect();
    let word = |word: &str, us| (word.to_owned(), us);
    assert_eq!(words, [word("rejected", 1), word("confirmed", 3), word("withdrawn", 4)]);
    let nobody = Uuid::from_bytes([9; 16]);
    assert!(!store.give_verdict(given(5, nobody, None, None)).await.unwrap());
    // What a station sends later changes nothing of what a person said.
    give(6, Some(Verdict::Confirmed), None).await.unwrap();
    store.commit(batch(&[detection(device(1), 1, 2)])).await.unwrap();
    assert_eq!(store.event(event).await.unwrap().unwrap().verdict.as_deref(), Some("confirmed"));
    // A sample that follows an older word does not hide that a newer one waits.
    store.sample_followed(event, Some(3)).await.unwrap();
    assert!(store.is_sample_due(event).await.unwrap());
    store.sample_followed(event, Some(6)).await.unwrap();
    assert!(!store.is_sample_due(event).await.unwrap());
}

async fn events_are_found_by_their_verdict(database: &Database) {
    let store = &database.store;
    let envelopes: Vec<Envelope> = (1..=6).map(|seq| quiet_detection(device(1), seq)).collect();
    let told = store.commit(batch(&envelopes)).await.unwrap();
    let verdicts = [Verdict::Confirmed, Verdict::Rejected, Verdict::Rejected];
    for (n, (event, verdict)) in (1..).zip(told.events.iter().zip(verdicts)) {
        store.give_verdict(given(n, *event, Some(verdict), None)).await.unwrap();
    }
    let count = async |verdict| {
        let filter = EventFilter { verdict, ..EventFilter::default() };
        store.events(&filter, 100).await.unwrap().len()
    };
    assert_eq!(count(None).await, 6);
    assert_eq!(count(Some(None)).await, 3);
    assert_eq!(count(Some(Some(Verdict::Rejected))).await, 2);
    assert_eq!(count(Some(Some(Verdict::Relabelled))).await, 0);
}

async fn recordings_are_set_aside_once(database: &Database) {
    let store = &database.store;
    let groups = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    store.set_aside("shot".into(), groups(&["a", "b"]), 1).await.unwrap();
    store.set_aside("shot".into(), groups(&["c"]), 2).await.unwrap();
    store.set_aside("dog".into(), groups(&["b", "d"]), 3).await.unwrap();
    let all = store.test_groups().await.unwrap();
    let line = |group: &str, class: &str, at| (group.to_owned(), class.to_owned(), at);
    assert_eq!(all, [line("a", "shot", 1), line("b", "shot", 1), line("d", "dog", 3)]);
}

fn version(n: u8) -> VersionRow {
    VersionRow {
        id: Uuid::from_bytes([n; 16]),
        sha256: format!("{n:064}"),
        tag: "00".into(),
        name: "m".into(),
        version: n.to_string(),
        origin: "trained".into(),
        parent_sha256: None,
        job_id: None,
        data_sha256: None,
        samples: None,
        seed: None,
        code_version: "0".into(),
        gate: None,
        created_us: n.into(),
        created_by: "test".into(),
    }
}

fn activation(n: u8, instead_of: Option<u8>) -> NewActivation {
    NewActivation {
        version: Uuid::from_bytes([n; 16]),
        instead_of: instead_of.map(|n| Uuid::from_bytes([n; 16])),
        cause: "person",
        reason: String::new(),
        by: "test".into(),
        now_us: n.into(),
    }
}

async fn of_two_who_change_the_model_one_comes_too_late(database: &Database) {
    let store = &database.store;
    assert_eq!(store.serving().await.unwrap(), None);
    for n in 1..=3 {
        store.register_version(version(n)).await.unwrap();
    }
    let again = VersionRow { id: Uuid::from_bytes([8; 16]), ..version(1) };
    assert_eq!(
        store.register_version(again).await.unwrap(),
        version(1),
        "one content, one version"
    );
    store.activate_version(activation(1, None)).await.unwrap().unwrap();
    let both = [2, 3].map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.activate_version(activation(n, Some(1))).await.unwrap() })
    });
    let mut done = Vec::new();
    for one in both {
        done.extend(one.await.unwrap());
    }
    assert_eq!(done.len(), 1, "{done:?}");
    assert_eq!(store.serving().await.unwrap().unwrap(), done[0]);
    let changes = store.activations(10).await.unwrap();
    assert_eq!(before(&changes), Some(Uuid::from_bytes([1; 16])));
}

async fn a_training_ends_whole_or_not_at_all(database: &Database) {
    let store = &database.store;
    store.register_version(version(1)).await.unwrap();
    store.activate_version(activation(1, None)).await.unwrap();
    let job = NewJob {
        id: Uuid::from_bytes([7; 16]),
        kind: "retrain",
        payload: "{}".into(),
        unique_key: Some("retrain".into()),
        now_us: 1,
    };
    store.enqueue(job.clone()).await.unwrap().unwrap();
    assert!(
        store.enqueue(NewJob { id: Uuid::from_bytes([8; 16]), ..job }).await.unwrap().is_none()
    );
    assert_eq!(store.unfinished_job("retrain").await.unwrap().unwrap().id.as_bytes()[0], 7);
    let (_, dead) = store.claim_job("dead", 10, 20).await.unwrap().unwrap();
    let (_, next) = store.claim_job("next", 30, 90).await.unwrap().unwrap();
    let conclude = async |attempt: &Attempt, n: u8, instead_of| {
        let activation = activation(n, Some(instead_of));
        store
            .conclude_training(attempt, version(n), Some(activation), "{}".into(), 40)
            .await
            .unwrap()
    };
    assert_eq!(conclude(&dead, 2, 1).await, None, "its lease ran out");
    assert_eq!(store.version(Uuid::from_bytes([2; 16])).await.unwrap(), None);
    assert_eq!(store.serving().await.unwrap().unwrap().version_id.as_bytes()[0], 1);
    assert_eq!(
        conclude(&next, 3, 9).await,
        Some(false),
        "another serves than it was compared with"
    );
    assert!(store.version(Uuid::from_bytes([3; 16])).await.unwrap().is_some());
    assert_eq!(store.serving().await.unwrap().unwrap().version_id.as_bytes()[0], 1);
    assert_eq!(store.job(next.id).await.unwrap().unwrap().state, "succeeded");
    assert_eq!(conclude(&next, 4, 1).await, None, "it ended already");
    assert_eq!(store.unfinished_job("retrain").await.unwrap(), None);
}

async fn a_mark_is_raised_by_one(database: &Database) {
    let store = &database.store;
    let raised = (0..6).map(|_| {
        let store = store.clone();
        tokio::spawn(async move { store.raise_mark("mark", 5).await.unwrap() })
    });
    let mut count = 0;
    for one in raised.collect::<Vec<_>>() {
        count += usize::from(one.await.unwrap());
    }
    assert_eq!(count, 1);
    assert!(!store.raise_mark("mark", 4).await.unwrap());
    assert!(store.raise_mark("mark", 6).await.unwrap());
}

async fn a_missed_shot_is_kept_with_what_was_asked(database: &Database) {
    let store = &database.store;
    let (shot, pull) = (Uuid::from_bytes([1; 16]), Uuid::from_bytes([2; 16]));
    let row = MissedShotRow {
        id: shot,
        site_id: Some(SITE.into()),
        heard_us: 5,
        latitude: None,
        longitude: None,
        note: Some("two shots".into()),
        reported_by: "user:r".into(),
        reported_us: 9,
    };
    let asked = PullRow {
        id: pull,
        shot_id: shot,
        site_id: SITE.into(),
        device_id: device(1).0,
        device_name: None,
        from_us: 1,
        until_us: 8,
        heard: None,
        class: None,
        sample_id: None,
        judged_by: None,
        judged_us: None,
        sent_us: None,
        answer: None,
        clip_status: None,
    };
    store.report_missed_shot(row.clone(), vec![asked.clone()]).await.unwrap();
    assert_eq!(store.missed_shots(None, 10).await.unwrap(), std::slice::from_ref(&row));
    assert_eq!(store.missed_shot(shot).await.unwrap(), Some(row.clone()));
    assert_eq!(store.missed_shots(Some(row.cursor()), 10).await.unwrap(), []);
    assert_eq!(store.pulls(shot).await.unwrap(), [asked]);
    let sample = Uuid::from_bytes([3; 16]);
    let heard = Some(("gun_shot".to_owned(), sample));
    store.judge_pull(pull, heard, "user:r".into(), 10).await.unwrap();
    let judged = store.pull(pull).await.unwrap().unwrap();
    assert_eq!((judged.heard, judged.sample_id), (Some(true), Some(sample)));
    store.judge_pull(pull, None, "user:r".into(), 11).await.unwrap();
    assert_eq!(store.pull(pull).await.unwrap().unwrap().heard, Some(false));
}

async fn ask(server: &Server, method: Method, path: &str, body: Value) -> (u16, Value) {
    let request = server.client().request(method, server.url(path));
    let response = if body.is_null() { request } else { request.json(&body) }.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn put(server: &Server, path: &str, body: Value) -> (u16, Value) {
    ask(server, Method::PUT, path, body).await
}

/// Two seconds that no other recording has.
fn recording(n: u32) -> Vec<u8> {
    let turn = 0.02 + 0.003 * f64::from(n);
    wav(16_000, 1, (0..32_000).map(move |i| ((f64::from(i) * turn).sin() * 0.05) as f32))
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn with_clip(mut envelope: Envelope, sound: &[u8]) -> Envelope {
    if let Message::Detection(detection) = &mut envelope.message {
        detection.clip = Some(ClipRef {
            sha256: sha256(sound),
            bytes: sound.len() as u32,
            duration_ms: 2_000,
            format: ClipFormat::Wav,
        });
    }
    envelope
}

async fn upload_clip(server: &Server, id: &str, station: u8, sound: &[u8]) {
    let hex: String = sha256(sound).iter().map(|byte| format!("{byte:02x}")).collect();
    let body = json!({
        "event_id": id, "device_id": device(station).0, "sha256": hex, "bytes": sound.len(),
        "duration_ms": 2_000, "format": "wav",
    });
    let (status, answer) = ask(server, Method::POST, "/api/v1/clips", body).await;
    assert!(status == 200 || status == 201, "{answer}");
    let url = server.url(&format!("/api/v1/clips/{id}/data"));
    let stored = server.client().put(url).body(sound.to_vec()).send().await.unwrap();
    let stored: Value = stored.json().await.unwrap();
    assert_eq!(stored["status"], "stored", "{stored}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_makes_a_sample_that_changes_with_it() {
    let mut server = Server::start(&["--yamnet", "/none"]).await;
    let station = Station::connect(server.mqtt_port, "station", &[]).await;
    station.send_status(&status(device(1), ConnectionState::Online)).await;
    let sound = recording(1);
    station.send_record(&alert(device(1), 1)).await;
    station.send_record(&with_clip(detection(device(1), 1, 2), &sound)).await;
    let event = server.wait_for_items("/api/v1/alerts", 1).await[0].clone();
    let id = event["id"].as_str().unwrap().to_owned();
    assert_eq!(event["verdict"], Value::Null);
    let path = format!("/api/v1/detections/{id}/verdict");

    for (body, what) in [
        (json!({"verdict": "perhaps"}), "confirmed"),
        (json!({"verdict": "confirmed", "cause": "hail"}), "cause"),
        (json!({"verdict": "rejected", "cause": "ghosts"}), "thunder"),
        (json!({"verdict": "relabelled"}), "class"),
        (json!({"verdict": "rejected", "class": "dog"}), "class"),
        (json!({"verdict": "relabelled", "class": "a/b"}), "class"),
        (json!({"verdict": "confirmed", "note": "x".repeat(1_001)}), "note"),
    ] {
        let (status, problem) = put(&server, &path, body).await;
        assert_eq!(status, 422, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(what), "{problem}");
    }
    let nobody = path.replace(&id, "018f4d7e-0000-7000-8000-000000000001");
    assert_eq!(put(&server, &nobody, json!({"verdict": "confirmed"})).await.0, 404);

    // Before the recording has come, the word waits for it.
    let wish = json!({"verdict": "rejected", "cause": "thunder", "note": "storm over the ridge"});
    let (status, judged) = put(&server, &path, wish).await;
    assert_eq!((status, &judged["verdict"]["cause"]), (200, &"thunder".into()), "{judged}");
    assert_eq!(judged["verdict"]["by"], "local");
    let samples = async || server.json("/api/v1/samples").await.1["items"].clone();
    assert_eq!(samples().await, json!([]));
    upload_clip(&server, &id, 1, &sound).await;
    let sample = samples().await[0].clone();
    assert_eq!((&sample["class"], &sample["source"]), (&"thunder".into(), &"event".into()));
    assert_eq!(sample["event_id"], id);
    assert_eq!(sample["group"], format!("{}_2026-03-01", device(1).0));
    assert_eq!((&sample["verifier"], &sample["site_id"]), (&"local".into(), &SITE.into()));
    assert_eq!(sample["licence"], "own recording");

    assert_eq!(put(&server, &path, json!({"verdict": "confirmed"})).await.0, 200);
    let confirmed = samples().await[0].clone();
    assert_eq!((&confirmed["id"], &confirmed["class"]), (&sample["id"], &"gun_shot".into()));
    let wish = json!({"verdict": "relabelled", "class": "dog"});
    assert_eq!(put(&server, &path, wish).await.0, 200);
    assert_eq!(samples().await[0]["class"], "dog");

    let count = async |verdict: &str| {
        let path = format!("/api/v1/alerts?verdict={verdict}");
        server.json(&path).await.1["items"].as_array().unwrap().len()
    };
    assert_eq!((count("none").await, count("relabelled").await), (0, 1));
    assert_eq!(server.json("/api/v1/alerts?verdict=odd").await.0, 400);
    let csv = server.client().get(server.url("/api/v1/export/csv?verdict=relabelled"));
    let csv = csv.send().await.unwrap().text().await.unwrap();
    assert!(
        csv.lines().next().unwrap().ends_with("verdict,verdict_cause,verdict_class,verdict_by")
    );
    assert!(csv.lines().nth(1).unwrap().ends_with("relabelled,,dog,local"), "{csv}");

    let (_, history) = server.json(&path).await;
    let words: Vec<&str> = history["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(words, ["rejected", "confirmed", "relabelled"]);
    assert_eq!(history["sample_id"], sample["id"]);

    // A canary is nothing that was heard; and what was said can be taken back.
    let canary = json!({"verdict": "rejected", "cause": "canary"});
    assert_eq!(put(&server, &path, canary).await.0, 200);
    assert_eq!(samples().await, json!([]));
    assert_eq!(put(&server, &path, json!({"verdict": "confirmed"})).await.0, 200);
    assert_eq!(samples().await[0]["class"], "gun_shot");
    // A kill loses no word.
    server.kill_9();
    server.run().await;
    let (_, event) = server.json(&format!("/api/v1/detections/{id}")).await;
    assert_eq!(event["verdict"]["verdict"], "confirmed");
    assert_eq!(ask(&server, Method::DELETE, &path, Value::Null).await.0, 200);
    assert_eq!(server.json("/api/v1/samples").await.1["items"], json!([]));
    let (_, history) = server.json(&path).await;
    assert_eq!(history["items"].as_array().unwrap().len(), 6, "{history}");
    assert_eq!(history["items"][5]["verdict"], "withdrawn");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_review_proposes_what_nobody_judged_one_for_each_hour() {
    let server = Server::start(&["--yamnet", "/none"]).await;
    let station = Station::connect(server.mqtt_port, "station", &[]).await;
    // 2026-03-01 is long ago: the review looks back over the last 90 days.
    let now_s = i64::try_from(now().as_secs()).unwrap();
    let hour_us = now_s / 3_600 * 3_600_000_000;
    for (seq, score, hours_ago) in [(1, 0.99, 1), (2, 0.52, 1), (3, 0.9, 2), (4, 0.7, 3)] {
        let sound = recording(seq);
        let mut envelope = with_clip(quiet_detection(device(1), seq), &sound);
        envelope.header.unix_us = hour_us - hours_ago * 3_600_000_000 + i64::from(seq);
        if let Message::Detection(detection) = &mut envelope.message {
            detection.score = score;
            detection.event =
                ecosight_shared::EventId::of(envelope.header.record, envelope.header.unix_us);
        }
        station.send_record(&envelope).await;
        if let Message::Detection(detection) = &envelope.message {
            let id = detection.event.0.to_string();
            server.wait_for_items("/api/v1/detections", seq as usize).await;
            if seq != 4 {
                upload_clip(&server, &id, 1, &sound).await;
            }
        }
    }
    let (status, list) = server.json("/api/v1/review?limit=10").await;
    assert_eq!((status, &list["waiting"]), (200, &3.into()), "{list}");
    let scores: Vec<f64> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| (item["event"]["score"].as_f64().unwrap() * 100.0).round())
        .collect();
    assert_eq!(scores, [52.0, 90.0], "of one hour the least sure; without a recording none");
    assert_eq!(list["items"][0]["uncertainty"].as_f64().map(|u| u > 0.9), Some(true));
    let id = list["items"][0]["event"]["id"].as_str().unwrap();
    let path = format!("/api/v1/detections/{id}/verdict");
    assert_eq!(put(&server, &path, json!({"verdict": "confirmed"})).await.0, 200);
    let (_, list) = server.json("/api/v1/review?limit=1").await;
    assert_eq!((&list["waiting"], list["items"].as_array().unwrap().len()), (&2.into(), 1));
    assert_eq!(server.json("/api/v1/review?limit=0").await.0, 400);
}

#[allow(clippy::disallowed_methods, reason = "the server's clock is the system's")]
fn now() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
}

fn rfc3339(since: Duration) -> String {
    ecosight_cloud::clock::rfc3339(i64::try_from(since.as_micros()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_shot_is_asked_for_and_becomes_a_sample_once_it_is_heard() {
    let server = Server::start(&["--yamnet", "/none"]).await;
    let command = Topic::Command(SITE, device(1), "pull").to_string();
    let mut station = Station::connect(server.mqtt_port, "station", &[command]).await;
    let mut told = status(device(1), ConnectionState::Online);
    let location = |lat| ecosight_shared::json::Location { lat, lon: 36.8, uncertainty_m: None };
    told.location = Some(location(-1.2));
    station.send_status(&told).await;
    let mut far = status(device(2), ConnectionState::Online);
    far.location = Some(location(-2.2));
    station.send_status(&far).await;
    server.wait_for_items("/api/v1/devices", 2).await;
    let heard = now() - Duration::from_secs(300);
    let report = async |body: Value| ask(&server, Method::POST, "/api/v1/missed-shots", body).await;
    for (bad, what) in [
        (json!({"time": rfc3339(heard)}), "location"),
        (json!({"time": "2020-01-01T00:00:00Z", "site": SITE}), "seven days"),
        (json!({"time": rfc3339(heard), "location": {"lat": 40.0, "lon": 0.0}}), "in range"),
        (json!({"time": rfc3339(heard), "location": {"lat": 400.0, "lon": 0.0}}), "degrees"),
        (json!({"time": rfc3339(heard), "site": "nowhere"}), "in range"),
    ] {
        let (status, problem) = report(bad).await;
        assert_eq!(status, 422, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(what), "{problem}");
    }
    let body = json!({
        "time": rfc3339(heard), "location": {"lat": -1.21, "lon": 36.81}, "note": "one shot, north",
    });
    let (status, shot) = report(body).await;
    assert_eq!(status, 201, "{shot}");
    assert_eq!(shot["stations"].as_array().unwrap().len(), 1, "one is a hundred kilometres off");
    let asked = &shot["stations"][0];
    assert_eq!((&asked["state"], &asked["device_id"]), (&"asked".into(), &json!(device(1).0)));
    let (_, payload) = station.next(Duration::from_secs(5)).await.expect("the station is asked");
    let pull: PullCommand = serde_json::from_slice(&payload).unwrap();
    assert_eq!(pull.id.to_string(), asked["id"].as_str().unwrap());
    assert_eq!(
        (pull.from, pull.to),
        (rfc3339(heard - Duration::from_secs(30)), rfc3339(heard + Duration::from_secs(30)))
    );
    let state = async || {
        let (_, list) = server.json("/api/v1/missed-shots").await;
        list["items"][0]["stations"][0]["state"].as_str().unwrap().to_owned()
    };
    // The station may have nothing to give; and nobody says so in its name.
    let says = |id: &str, status: &str| {
        let problem = "ring.keep is 0";
        json!({"command": "pull", "id": id, "status": status, "problem": problem})
            .to_string()
            .into_bytes()
    };
    let id = pull.id.to_string();
    station.send(&Topic::Reply(SITE, device(2)), says(&id, "refused")).await;
    station.send(&Topic::Reply(SITE, device(1)), says("", "refused")).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(state().await, "asked");
    station.send(&Topic::Reply(SITE, device(1)), says(&id, "refused")).await;
    for _ in 0..100 {
        if state().await == "refused" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    assert_eq!(state().await, "refused");
    let (_, list) = server.json("/api/v1/missed-shots").await;
    assert!(list["items"][0]["stations"][0]["answer"].as_str().unwrap().contains("ring.keep"));
    let verdict = format!("/api/v1/missed-shots/{}/verdict", pull.id);
    assert_eq!(put(&server, &verdict, json!({"heard": true})).await.0, 409, "nothing to hear yet");
    let sound = recording(3);
    upload_clip(&server, &pull.id.to_string(), 1, &sound).await;
    assert_eq!(state().await, "arrived");
    assert_eq!(put(&server, &verdict, json!({"heard": true, "at_s": 3.0})).await.0, 422);
    let (status, judged) = put(&server, &verdict, json!({"heard": true, "at_s": 1.0})).await;
    assert_eq!((status, &judged["state"]), (200, &"heard".into()), "{judged}");
    let (_, samples) = server.json("/api/v1/samples").await;
    let sample = &samples["items"][0];
    assert_eq!((&sample["class"], &sample["source"]), (&"gun_shot".into(), &"missed".into()));
    assert_eq!(sample["id"], judged["sample_id"]);
    assert!(sample["group"].as_str().unwrap().starts_with(&device(1).0.to_string()));
    // Another mind.
    assert_eq!(put(&server, &verdict, json!({"heard": false})).await.1["state"], "not_heard");
    assert_eq!(server.json("/api/v1/samples").await.1["items"], json!([]));
}

fn sample(n: u8, labelled_us: i64) -> SampleRow {
    SampleRow {
        id: Uuid::from_bytes([n; 16]),
        class: "dog".into(),
        group_key: n.to_string(),
        source: "upload".into(),
        event_id: None,
        file_name: "x".into(),
        sha256: format!("{n:064}"),
        bytes: 1,
        duration_ms: 1,
        rate_hz: 16_000,
        channels: 1,
        created_us: labelled_us,
        labelled_us,
        site_id: None,
        device_id: None,
        licence: "own recording".into(),
        verifier: None,
    }
}

async fn an_upload_that_turns_out_to_be_an_events_recording_is_that_events(database: &Database) {
    let store = &database.store;
    let uploaded = sample(1, 5);
    store.keep_sample(uploaded.clone()).await.unwrap();
    let (event, station) = (Uuid::from_bytes([7; 16]), device(1).0);
    let same = SampleRow {
        id: Uuid::from_bytes([8; 16]),
        event_id: Some(event),
        site_id: Some(SITE.into()),
        device_id: Some(station),
        ..uploaded.clone()
    };
    let kept = store.keep_sample(same.clone()).await.unwrap();
    assert_eq!(kept, SampleRow { id: uploaded.id, ..same }, "one sound, one sample");
    // So that its station's share holds, and the verdict can take it back.
    assert_eq!(store.sample_of_event(event).await.unwrap(), Some(kept));
    let again = store.keep_sample(uploaded.clone()).await.unwrap();
    assert_eq!((again.event_id, again.device_id), (Some(event), Some(station)), "and stays so");
}

#[tokio::test(flavor = "multi_thread")]
async fn enough_new_samples_or_the_schedule_start_a_training() {
    use ecosight_cloud::chance::Chance;
    use ecosight_cloud::clips::Clips;
    use ecosight_cloud::clock::{Clock, parse_rfc3339};
    use ecosight_cloud::config::Config;
    use ecosight_cloud::samples::Samples;
    use ecosight_cloud::training::triggers::{Schedule, Triggers};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    let database = crate::databases::sqlite().await.unwrap();
    let (store, folder) = (database.store.clone(), tempfile::TempDir::new().unwrap());
    let start = parse_rfc3339("2026-03-01T02:00:00Z").unwrap();
    let time = Arc::new(AtomicI64::new(start));
    let clock = Clock::from_fn({
        let time = time.clone();
        move || time.load(Ordering::Relaxed)
    });
    let chance = Chance::system();
    let samples = folder.path().join("samples");
    let clips = Clips::open(folder.path().join("clips"), store.clone(), clock.clone());
    let mut learning = Config::default().learning;
    learning.min_new_samples = 3;
    let triggers = Triggers {
        samples: Samples::open(samples, store.clone(), clock.clone(), chance.clone()).unwrap(),
        clips: clips.await.unwrap(),
        store: store.clone(),
        learning,
        clock,
        chance,
        news: Arc::default(),
    };
    let schedule = Schedule::parse("0 3 * * *").unwrap();
    let due = async |schedule: Option<&Schedule>| {
        triggers.look(schedule).await.unwrap().map(|request| request.trigger)
    };
    store.raise_mark("learning.schedule_us", start).await.unwrap();
    assert_eq!(due(Some(&schedule)).await, None, "nothing is new, and it is two o'clock");
    let three = start + 3_600_000_000;
    time.store(three, Ordering::Relaxed);
    let fails = async |now_us: i64| {
        let claimed = store.claim_job("w", now_us, now_us + 60).await.unwrap();
        let (job, attempt) = claimed.expect("a job is queued");
        let failed = ecosight_cloud::store::Outcome::Failed("too few".into());
        assert!(store.end_attempt(&attempt, failed, now_us).await.unwrap());
        job.payload
    };
    assert_eq!(due(Some(&schedule)).await.as_deref(), Some("schedule"));
    assert_eq!(due(Some(&schedule)).await, None, "once");
    let payload = fails(three + 1).await;
    assert!(payload.contains("\"schedule\""), "queued together with the mark: {payload}");
    assert_eq!(due(Some(&schedule)).await, None, "once");
    for n in 1..=2 {
        store.keep_sample(sample(n, three + i64::from(n))).await.unwrap();
    }
    assert_eq!(due(None).await, None);
    store.keep_sample(sample(3, three + 3)).await.unwrap();
    time.store(three + 10, Ordering::Relaxed);
    assert_eq!(due(None).await.as_deref(), Some("threshold"));
    assert_eq!(due(None).await, None, "they are being learned from");
    for n in 4..=7 {
        store.keep_sample(sample(n, three + 20)).await.unwrap();
    }
    assert_eq!(due(None).await, None, "one training at a time");
    fails(three + 40).await;
    assert_eq!(due(None).await.as_deref(), Some("threshold"));
    fails(three + 50).await;
    // The schedule's next time comes while one is under way: it is not asked for a second time.
    time.store(three + 24 * 3_600_000_000, Ordering::Relaxed);
    for n in 8..=10 {
        store.keep_sample(sample(n, three + 60)).await.unwrap();
    }
    assert_eq!(due(None).await.as_deref(), Some("threshold"));
    assert_eq!(due(Some(&schedule)).await, None);
    fails(three + 24 * 3_600_000_000 + 1).await;
    assert_eq!(due(Some(&schedule)).await, None, "once");
}

/// A ZIP file with entries that are deflated, as most programs write them.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    use std::io::Write as _;
    let (mut file, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let mut deflated =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        deflated.write_all(content).unwrap();
        let packed = deflated.finish().unwrap();
        let mut crc = flate2::Crc::new();
        crc.update(content);
        let mut common: Vec<u8> =
            [20_u16, 0, 8, 0, 0x21].iter().flat_map(|w| w.to_le_bytes()).collect();
        for number in [crc.sum(), packed.len() as u32, content.len() as u32] {
            common.extend(number.to_le_bytes());
        }
        common.extend((name.len() as u16).to_le_bytes());
        common.extend([0, 0]);
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend((file.len() as u32).to_le_bytes());
        directory.extend(name.as_bytes());
        file.extend(b"PK\x03\x04");
        file.extend(&common);
        file.extend(name.as_bytes());
        file.extend(packed);
    }
    let (start, count) = (file.len() as u32, entries.len() as u16);
    file.extend(&directory);
    file.extend(b"PK\x05\x06\0\0\0\0");
    file.extend(count.to_le_bytes());
    file.extend(count.to_le_bytes());
    file.extend((directory.len() as u32).to_le_bytes());
    file.extend(start.to_le_bytes());
    file.extend([0, 0]);
    file
}

#[test]
#[allow(clippy::disallowed_methods, reason = "sounds for a test need not be durable")]
fn a_folder_and_a_zip_file_of_labelled_sounds_are_taken_in() {
    use crate::program::run;
    let folder = tempfile::TempDir::new().unwrap();
    let place = |name: &str| folder.path().join(name);
    std::fs::create_dir(place("sounds")).unwrap();
    std::fs::write(place("sounds/a.wav"), recording(1)).unwrap();
    std::fs::write(place("sounds/b.wav"), recording(2)).unwrap();
    std::fs::write(place("sounds/bad.wav"), b"no sound").unwrap();
    std::fs::write(
        place("list.csv"),
        "path,label,group,source,licence\na.wav,dog,yard 1,field day,CC0-1.0\n\
         b.wav,thunder,,,\nbad.wav,dog,,,\n",
    )
    .unwrap();
    let data = place("data");
    let import = |from: &str, list: &str| {
        let arguments = [
            "samples",
            "import",
            place(from).to_str().unwrap(),
            "--manifest",
            place(list).to_str().unwrap(),
            "--data-dir",
            data.to_str().unwrap(),
        ]
        .map(str::to_owned);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = run(&arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, told, complaints) = import("sounds", "list.csv");
    assert_eq!(code, Some(0), "{complaints}");
    assert!(told.starts_with("2 new, 0 known, 1 refused"), "{told}");
    assert!(complaints.contains("bad.wav: "), "{complaints}");

    let (one, two) = (recording(1), recording(3));
    let mut archive = zip(&[("x/a.wav", &one), ("x/c.wav", &two)]);
    std::fs::write(place("more.zip"), &archive).unwrap();
    let list = "path,label\nx/a.wav,dog\nx/c.wav,dog\nx/none.wav,dog\n";
    std::fs::write(place("more.csv"), list).unwrap();
    let (code, told, complaints) = import("more.zip", "more.csv");
    assert_eq!(code, Some(0), "{complaints}");
    assert!(told.starts_with("1 new, 1 known, 1 refused"), "{told}");
    assert!(complaints.contains("x/none.wav: not in the ZIP file"), "{complaints}");

    // A byte of an entry is another; the directory is cut off; there is none.
    archive[60] ^= 0x55;
    std::fs::write(place("bad.zip"), &archive).unwrap();
    let (code, told, _) = import("bad.zip", "more.csv");
    assert!(told.starts_with("0 new, 1 known, 2 refused") || code == Some(1), "{told}");
    std::fs::write(place("cut.zip"), &archive[..archive.len() - 30]).unwrap();
    let (code, _, complaints) = import("cut.zip", "more.csv");
    assert_eq!(code, Some(1));
    assert!(complaints.contains("neither folder nor ZIP file"), "{complaints}");

    let ask = || {
        let output = run(&["retrain", "--data-dir", data.to_str().unwrap()]);
        String::from_utf8(output.stdout).unwrap()
    };
    let (first, second) = (ask(), ask());
    assert!(first.ends_with(" queued\n"), "{first}");
    let id = first.split(' ').nth(1).unwrap();
    assert_eq!(second, format!("training {id} was queued or under way before\n"));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let store = ecosight_cloud::store::Store::open("", &data).await.unwrap();
        let samples = store.samples(Some("dog"), None, 10).await.unwrap();
        let first = samples.iter().find(|sample| sample.file_name == "a.wav").unwrap();
        assert_eq!((first.group_key.as_str(), first.source.as_str()), ("yard 1", "field day"));
        assert_eq!(
            (first.licence.as_str(), first.verifier.as_deref()),
            ("CC0-1.0", Some("operator"))
        );
        let other = samples.iter().find(|sample| sample.file_name == "c.wav").unwrap();
        assert_eq!((&other.group_key, other.source.as_str()), (&other.sha256, "import"));
    });
}
