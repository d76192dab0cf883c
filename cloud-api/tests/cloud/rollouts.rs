//! Releases and rollouts through the program: the API, the broker, and stations that update.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ecosight_cloud::chance::Chance;
use ecosight_loadtest::{Fate, Fleet, FleetOptions, SignedRelease, sign_release};
use ecosight_shared::DeviceId;
use ecosight_shared::release::SecretKey;
use futures_util::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::fleet::ask;
use crate::program::{Server, run};

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn config() -> String {
    format!("[releases]\ntrusted_keys = [\"{}\", \"{}\"]\n", key(1).public(), key(2).public())
}

async fn server() -> Server {
    Server::start_with_config(&config(), &["--yamnet", "/none"]).await
}

async fn upload(server: &Server, archive: Vec<u8>) -> (u16, Value) {
    let request = server.client().post(server.url("/api/v1/releases")).body(archive);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

fn signed(n: u8, version: &str, counter: u64) -> SignedRelease {
    sign_release(&key(n), version, counter, 20_000, None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_trusted_key_signed_is_taken_and_only_whole() {
    let server = server().await;
    let release = signed(1, "1", 5);
    let good = release.archive.clone();
    let at = |place: usize| {
        let mut archive = good.clone();
        archive[place] ^= 1;
        archive
    };
    let manifest = 19 + 4;
    let signature = manifest + release.signed.manifest.len() + 1 + 8;
    for (archive, status, word) in [
        (signed(3, "1", 5).archive, 422, "no key that is trusted"),
        (at(manifest + 20), 422, "signature does not hold"),
        (at(signature + 3), 422, "signature does not hold"),
        (at(good.len() - 1), 422, "head.onnx: SHA-256"),
        (good[..good.len() - 1].to_vec(), 422, "head.onnx: size"),
        (good[..40].to_vec(), 400, "ends early"),
        ([&good[..], b"x"].concat(), 422, "follows the last file"),
        (b"RIFF no release at all, but long enough".to_vec(), 422, "no release"),
        (Vec::new(), 400, "ends early"),
        ([&good[..19], &u32::MAX.to_le_bytes(), &[0; 100]].concat(), 422, "exceeds"),
    ] {
        let (found, problem) = upload(&server, archive).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(found == status && detail.contains(word), "{word}: {found} {detail}");
    }
    let left = std::fs::read_dir(server.data_dir().join("releases/partial")).unwrap().count();
    assert_eq!(left, 0, "nothing of what was refused stays");
    assert_eq!(server.json("/api/v1/releases").await.1["items"], json!([]));

    let (status, taken) = upload(&server, good.clone()).await;
    assert_eq!(status, 201, "{taken}");
    assert_eq!((&taken["counter"], &taken["name"]), (&5.into(), &"made-up".into()));
    let (status, again) = upload(&server, good).await;
    assert_eq!((status, &again["id"]), (200, &taken["id"]));
    let (status, behind) = upload(&server, signed(2, "2", 5).archive).await;
    assert_eq!(status, 409, "{behind}");
    assert_eq!(upload(&server, signed(2, "2", 6).archive).await.0, 201, "the next key");

    let path = format!("/api/v1/releases/{}", taken["id"].as_str().unwrap());
    let (_, detail) = server.json(&path).await;
    let file = &detail["files"][1];
    assert_eq!((&file["path"], &file["bytes"]), (&"head.onnx".into(), &20_000.into()));
    let url = server.url(&format!("{path}/files/{}", file["sha256"].as_str().unwrap()));
    let get = |range: &'static str| server.client().get(&url).header("range", range).send();
    let part = get("bytes=100-199").await.unwrap();
    assert_eq!(part.status().as_u16(), 206);
    assert_eq!(part.headers()["content-range"], "bytes 100-199/20000");
    let archive = &release.archive;
    let start = archive.len() - 20_000;
    assert_eq!(part.bytes().await.unwrap(), archive[start + 100..start + 200]);
    assert_eq!(get("bytes=20000-").await.unwrap().status().as_u16(), 416);
    let whole = server.client().get(&url).send().await.unwrap();
    assert_eq!(whole.bytes().await.unwrap(), archive[start..]);
    let other = server.url(&format!("{path}/files/{}", "0".repeat(64)));
    assert_eq!(server.client().get(other).send().await.unwrap().status().as_u16(), 404);
    let (_, audit) = server.json("/api/v1/audit").await;
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().map(|l| l["action"].as_str().unwrap()).collect();
    assert_eq!(actions.iter().filter(|action| **action == "release.take").count(), 2);
    assert!(actions.contains(&"release.refuse"));
}

#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::disallowed_methods, reason = "a release for a test need not be durable")]
async fn without_a_key_no_release_is_taken_and_the_command_takes_it_with_one() {
    let server = Server::start(&["--yamnet", "/none"]).await;
    let release = signed(1, "1", 5);
    let (status, problem) = upload(&server, release.archive.clone()).await;
    assert_eq!(status, 409);
    assert!(problem["detail"].as_str().unwrap().contains("releases.trusted_keys"));
    let folder = tempfile::TempDir::new().unwrap();
    let (file, config) = (folder.path().join("made-up-1.release"), folder.path().join("c.toml"));
    std::fs::write(&file, &release.archive).unwrap();
    std::fs::write(&config, self::config()).unwrap();
    let dir = server.data_dir();
    let settings = ["--config", config.to_str().unwrap(), "--data-dir", dir.to_str().unwrap()];
    let import = [&["releases"], &settings[..], &["import", file.to_str().unwrap()]].concat();
    let imported = run(&import);
    assert!(imported.status.success(), "{}", String::from_utf8_lossy(&imported.stderr));
    let id = String::from_utf8(imported.stdout).unwrap().trim().to_owned();
    assert_eq!(server.json("/api/v1/releases").await.1["items"][0]["id"], *id);
    let listed = run(&[&["releases"], &settings[..], &["list"]].concat());
    assert!(String::from_utf8(listed.stdout).unwrap().contains("made-up-1  5"));
    let body = json!({"release_id": id});
    let (_, rollout) = ask(&server, Method::POST, "/api/v1/rollouts", &body).await;
    let rollout = rollout["id"].as_str().unwrap().to_owned();
    let started = run(&[&["rollouts"], &settings[..], &["start", &rollout]].concat());
    let complaint = String::from_utf8(started.stderr).unwrap();
    assert!(complaint.contains("no station that this release is for"), "{complaint}");
    let listed = run(&[&["rollouts"], &settings[..], &["list"]].concat());
    assert!(String::from_utf8(listed.stdout).unwrap().contains("draft"));
}

fn options(server: &Server, devices: u32) -> FleetOptions {
    FleetOptions {
        mqtt: ("127.0.0.1".into(), server.mqtt_port),
        server: server.url(""),
        api_key: None,
        site: "ridge".into(),
        devices,
        connections: 4,
        // Not the same stations in every test.
        seed: u64::from_le_bytes(Chance::system().bytes()),
        trusted: vec![key(1).public()],
        trial: Duration::from_millis(50),
    }
}

/// Uploads, plans and starts; gives the rollout's address.
async fn rolled_out(
    server: &Server,
    release: &SignedRelease,
    cohorts: Value,
    revert: Value,
) -> String {
    let (status, taken) = upload(server, release.archive.clone()).await;
    assert!([200, 201].contains(&status), "{taken}");
    let body = json!({
        "release_id": taken["id"], "revert_release_id": revert, "cohorts": cohorts,
        "rules": {"soak_s": 1, "trial_s": 0, "silence_s": 120},
    });
    let (status, rollout) = ask(server, Method::POST, "/api/v1/rollouts", &body).await;
    assert_eq!((status, &rollout["state"]), (201, &"draft".into()), "{rollout}");
    let path = format!("/api/v1/rollouts/{}", rollout["id"].as_str().unwrap());
    let (status, rollout) = ask(server, Method::POST, &format!("{path}/start"), &json!({})).await;
    assert_eq!((status, &rollout["state"]), (200, &"running".into()), "{rollout}");
    path
}

async fn until(server: &Server, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let (_, now) = server.json(path).await;
        if wanted(&now) {
            return now;
        }
        assert!(Instant::now() < deadline, "{now}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn stations(server: &Server, count: usize) {
    server.wait_for_items("/api/v1/devices", count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_converges_though_the_server_is_killed_in_the_middle() {
    let mut server = server().await;
    let fleet = Fleet::start(options(&server, 100), |_| Fate::Commits).await.unwrap();
    stations(&server, 100).await;
    let release = signed(1, "1", 1);
    let cohorts = json!([{"percent": 10.0}, {"percent": 100.0}]);
    let path = rolled_out(&server, &release, cohorts, Value::Null).await;
    until(&server, &path, |now| now["cohort"] == 2).await;
    server.kill_9();
    server.run().await;
    server.wait_connected().await;
    let done = until(&server, &path, |now| now["state"] == "done").await;
    assert_eq!(done["reason"], Value::Null);
    let whole = until(&server, &path, |now| now["cohorts"][1]["steps"]["committed"] == 90).await;
    assert_eq!(whole["cohorts"][0]["steps"], json!({"committed": 10}));
    assert_eq!(fleet.running(release.signed.id()), 100);
    assert!(fleet.tally().bytes >= 100 * 20_000);
    // Later ones find nothing more to do, and one that is done cannot be paused.
    assert_eq!(ask(&server, Method::POST, &format!("{path}/pause"), &json!({})).await.0, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_stations_halt_it_and_the_halt_survives_a_kill() {
    let mut server = server().await;
    let options = options(&server, 100);
    let failing: BTreeSet<DeviceId> = Fleet::ids(&options).into_iter().step_by(4).collect();
    let fate = move |id| if failing.contains(&id) { Fate::FailsItsProof } else { Fate::Commits };
    let fleet = Fleet::start(options, fate).await.unwrap();
    stations(&server, 100).await;
    // A quarter fails: of twenty canaries not one in two draws of a thousand.
    let cohorts = json!([{"percent": 20.0}, {"percent": 100.0}]);
    let path = rolled_out(&server, &signed(1, "1", 1), cohorts, Value::Null).await;
    let halted = until(&server, &path, |now| now["state"] == "halted").await;
    assert_eq!(halted["cohort"], 1);
    assert!(halted["reason"].as_str().unwrap().contains("refused the release"), "{halted}");
    server.kill_9();
    server.run().await;
    server.wait_connected().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(server.json(&path).await.1["state"], "halted");
    assert!(fleet.tally().touched <= 20, "{:?}", fleet.tally());
    let (_, devices) = server.json(&format!("{path}/devices")).await;
    let refused = devices["items"].as_array().unwrap().iter().find(|d| d["step"] == "refused");
    let refused = refused.unwrap();
    assert_eq!((&refused["code"], &refused["cohort"]), (&"golden_clips".into(), &1.into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_pauses_resumes_and_sends_it_back() {
    let server = server().await;
    let fleet = Fleet::start(options(&server, 20), |_| Fate::Commits).await.unwrap();
    stations(&server, 20).await;
    let (old, new) = (signed(1, "1", 1), signed(1, "2", 2));
    let everyone = json!([{"percent": 100.0}]);
    let first = rolled_out(&server, &old, everyone, Value::Null).await;
    until(&server, &first, |now| now["state"] == "done").await;
    assert_eq!(fleet.running(old.signed.id()), 20);

    let stream = server.client().get(server.url("/api/v1/live")).send().await.unwrap();
    let mut stream = stream.bytes_stream();
    let (_, taken) = upload(&server, new.archive.clone()).await;
    let back = sign_release(&key(1), "1", 1, 20_000, Some(new.manifest.reference())).unwrap();
    let (status, back_taken) = upload(&server, back.archive.clone()).await;
    assert_eq!(status, 201, "{back_taken}");
    let wrong = json!({"release_id": back_taken["id"], "revert_release_id": taken["id"]});
    assert_eq!(ask(&server, Method::POST, "/api/v1/rollouts", &wrong).await.0, 422);
    let cohorts = json!([{"percent": 50.0}, {"percent": 100.0}]);
    let path = rolled_out(&server, &new, cohorts, back_taken["id"].clone()).await;
    let act = async |what: &str, body: Value| {
        ask(&server, Method::POST, &format!("{path}/{what}"), &body).await
    };
    assert_eq!(act("pause", json!({})).await.1["state"], "paused");
    until(&server, &path, |now| now["cohorts"][0]["steps"]["committed"] == 10).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(server.json(&path).await.1["cohort"], 1, "paused is paused");
    assert_eq!(act("resume", json!({})).await.1["state"], "running");
    assert_eq!(act("resume", json!({})).await.0, 409);
    until(&server, &path, |now| now["state"] == "done").await;
    until(&server, &path, |now| now["cohorts"][1]["steps"]["committed"] == 10).await;
    let (status, gone) = act("rollback", json!({"reason": "Rangers complain."})).await;
    assert_eq!((status, &gone["state"]), (200, &"rolled_back".into()));
    assert_eq!(
        gone["reason"],
        "Rangers complain; 20 stations get the signed release to go back by"
    );
    let whole = |now: &Value| (0..2).all(|n| now["cohorts"][n]["steps"] == json!({"reverted": 10}));
    until(&server, &path, whole).await;
    assert_eq!(fleet.running(back.signed.id()), 20);
    let mut text = String::new();
    while !(text.contains("event: rollout") && text.contains("\"state\":\"rolled_back\"")) {
        let chunk = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
        text.push_str(&String::from_utf8_lossy(&chunk.expect(&text).unwrap().unwrap()));
    }
    let plan = |body: Value| {
        let server = &server;
        async move { ask(server, Method::POST, "/api/v1/rollouts", &body).await.0 }
    };
    for (body, status) in [
        (json!({"release_id": taken["id"], "cohorts": []}), 422),
        (json!({"release_id": taken["id"], "cohorts": [{"percent": 0.0}]}), 422),
        (json!({"release_id": taken["id"], "rules": {"commit_share": 2.0}}), 422),
        (json!({"release_id": taken["id"], "rule": {}}), 400),
        (json!({"release_id": "018f4d7e-0000-7000-8000-000000000001"}), 404),
    ] {
        assert_eq!(plan(body.clone()).await, status, "{body}");
    }
}
