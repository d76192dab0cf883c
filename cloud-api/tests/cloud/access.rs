//! Who may do what: every route by every kind of caller.

use std::collections::BTreeSet;

use ecosight_cloud::access::policy::{Need, POLICY};
use ecosight_cloud::access::{Permission, Role};
use reqwest::header::{COOKIE, ORIGIN, RANGE, RETRY_AFTER, SET_COOKIE};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};

use crate::fleet::{server_with_station, with_clip};
use crate::live::Watcher;
use crate::program::{Server, run};
use crate::station::{Station, alert, device, quiet_detection, status};

const PASSWORD: &str = "correct horse battery";

/// A way to say who one is.
#[derive(Clone, Debug)]
enum Credential {
    None,
    Bearer(String),
    Cookie(String),
    Basic(String, String),
}

impl Credential {
    fn on(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::None => request,
            Self::Bearer(key) => request.bearer_auth(key),
            Self::Cookie(cookie) => request.header(COOKIE, cookie),
            Self::Basic(name, password) => request.basic_auth(name, Some(password)),
        }
    }
}

async fn ask(
    server: &Server,
    method: Method,
    path: &str,
    who: &Credential,
    body: Option<&Value>,
) -> (u16, Value) {
    let mut request = who.on(server.client().request(method, server.url(path)));
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request.send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

async fn get(server: &Server, path: &str, who: &Credential) -> (u16, Value) {
    ask(server, Method::GET, path, who, None).await
}

async fn post(server: &Server, path: &str, who: &Credential, body: Value) -> (u16, Value) {
    ask(server, Method::POST, path, who, Some(&body)).await
}

async fn log_in(server: &Server, name: &str, password: &str) -> (u16, Credential) {
    let login = server.client().post(server.url("/api/v1/login"));
    let response = login.json(&json!({"name": name, "password": password})).send().await.unwrap();
    let cookie = response.headers().get(SET_COOKIE).map(|cookie| {
        let cookie = cookie.to_str().unwrap().to_owned();
        for part in ["__Host-ecosight=", "Secure", "HttpOnly", "SameSite=Lax", "Path=/"] {
            assert!(cookie.contains(part), "{part} is not in {cookie}");
        }
        cookie.split(';').next().unwrap().to_owned()
    });
    let credential = cookie.map_or(Credential::None, Credential::Cookie);
    (response.status().as_u16(), credential)
}

/// A server with an administrator and no model.
async fn closed_server() -> (Server, Credential) {
    let server = Server::start(&["--yamnet", "/none"]).await;
    let admin = json!({"name": "root", "password": PASSWORD, "role": "admin"});
    let (status, answer) = post(&server, "/api/v1/users", &Credential::None, admin).await;
    assert_eq!(status, 201, "{answer}");
    let (status, admin) = log_in(&server, "root", PASSWORD).await;
    assert_eq!(status, 200);
    (server, admin)
}

async fn key(
    server: &Server,
    admin: &Credential,
    role: &str,
    sites: Value,
) -> (String, Credential) {
    let body = json!({"name": format!("{role} key"), "role": role, "sites": sites});
    let (status, key) = post(server, "/api/v1/keys", admin, body).await;
    assert_eq!(status, 201, "{key}");
    let secret = key["secret"].as_str().unwrap().to_owned();
    (key["id"].as_str().unwrap().to_owned(), Credential::Bearer(secret))
}

async fn enrolled(server: &Server, admin: &Credential, n: u8, site: &str) -> Credential {
    let body = json!({"site": site, "device_name": format!("station {n}")});
    let (status, offer) = post(server, "/api/v1/enrolments", admin, body).await;
    assert_eq!(status, 201, "{offer}");
    let body = json!({"code": offer["code"], "device_id": device(n).0});
    let (status, enrolled) = post(server, "/api/v1/enrol", &Credential::None, body.clone()).await;
    assert_eq!(status, 201, "{enrolled}");
    let (again, _) = post(server, "/api/v1/enrol", &Credential::None, body).await;
    assert_eq!(again, 403, "a code is good once");
    let text = |field: &str| enrolled[field].as_str().unwrap().to_owned();
    Credential::Basic(text("username"), text("password"))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_stands_in_the_policy_and_every_rule_has_its_route() {
    let server = Server::start(&["--yamnet", "/none"]).await;
    let (_, document) = server.json("/openapi.json").await;
    let mut served = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            served.insert((method.to_uppercase(), path.clone()));
        }
    }
    let ruled: BTreeSet<_> =
        POLICY.iter().map(|(method, path, _)| (method.to_string(), (*path).to_owned())).collect();
    assert_eq!(ruled.len(), POLICY.len(), "a rule stands twice");
    assert_eq!(served, ruled);
}

/// An administrator of one site.
const OF_SOME_SITES: &str = "key of admin for a site";
/// What concerns every site, and so is none of those who have some; what wants a body says so first.
const OF_ALL_SITES: &[(&str, &str)] = &[
    ("POST", "/api/v1/models/{id}/activate"),
    ("POST", "/api/v1/models/rollback"),
    ("GET", "/api/v1/rollouts"),
    ("GET", "/api/v1/rollouts/{id}"),
    ("GET", "/api/v1/rollouts/{id}/devices"),
    ("POST", "/api/v1/rollouts/{id}/start"),
    ("POST", "/api/v1/rollouts/{id}/pause"),
    ("POST", "/api/v1/rollouts/{id}/resume"),
    ("POST", "/api/v1/rollouts/{id}/halt"),
    ("POST", "/api/v1/rollouts/{id}/rollback"),
];

/// RELIABILITY P24: nobody reaches what is not theirs.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_does_what_their_role_does_not_allow() {
    let (server, admin) = closed_server().await;
    let mut callers: Vec<(String, Option<Role>, Credential)> = Vec::new();
    for role in Role::ALL {
        let (_, credential) = key(&server, &admin, role.name(), Value::Null).await;
        callers.push((format!("key of {}", role.name()), Some(role), credential));
    }
    let user = json!({"name": "vera", "password": PASSWORD, "role": "viewer"});
    assert_eq!(post(&server, "/api/v1/users", &admin, user).await.0, 201);
    let (_, vera) = log_in(&server, "vera", PASSWORD).await;
    callers.push(("session of viewer".into(), Some(Role::Viewer), vera));
    for (who, number, site) in [("station", 9, "ridge"), ("station elsewhere", 8, "valley")] {
        callers.push((who.into(), None, enrolled(&server, &admin, number, site).await));
    }
    let (_, ridge) = key(&server, &admin, "admin", json!(["ridge"])).await;
    callers.push((OF_SOME_SITES.into(), Some(Role::Admin), ridge));
    callers.push(("nobody".into(), None, Credential::None));
    let (id, revoked) = key(&server, &admin, "admin", Value::Null).await;
    let path = format!("/api/v1/keys/{id}");
    assert_eq!(ask(&server, Method::DELETE, &path, &admin, None).await.0, 204);
    callers.push(("revoked key".into(), None, revoked));
    let body = json!({"name": "old", "role": "admin", "expires_at": "2020-01-01T00:00:00Z"});
    let expired = post(&server, "/api/v1/keys", &admin, body).await.1;
    let expired = Credential::Bearer(expired["secret"].as_str().unwrap().into());
    callers.push(("expired key".into(), None, expired));
    callers.push(("made-up key".into(), None, Credential::Bearer("esk_00".into())));
    callers.push(("made-up session".into(), None, Credential::Cookie("__Host-ecosight=x".into())));

    let mut mismatches = Vec::new();
    for (method, path, need) in POLICY {
        let url = path
            .replace("{id}", "018f4d7e-0000-7000-8000-000000000001")
            .replace("{file}", "start.js")
            .replace("{sha256}", &"0".repeat(64))
            .replace("{format}", "csv");
        for (who, role, credential) in &callers {
            let bad = ["revoked key", "expired key", "made-up key"].contains(&who.as_str());
            let may = |permission: Permission| match role {
                Some(role) => role.has(permission),
                None => who.starts_with("station") && permission == Permission::Record,
            };
            let allowed = !bad
                && match need {
                    Need::Nothing => true,
                    Need::Account => role.is_some(),
                    Need::May(permission) => may(*permission),
                    Need::Either(one, other) => may(*one) || may(*other),
                };
            // What it says is of no matter here, and a stream does not end.
            let request = credential.on(server.client().request(method.clone(), server.url(&url)));
            let status = request.send().await.unwrap().status().as_u16();
            let refused = status == 401 || status == 403;
            let of_all =
                OF_ALL_SITES.iter().any(|(of, place)| *of == method.as_str() && place == path);
            if who == OF_SOME_SITES && of_all {
                if !refused {
                    mismatches.push(format!("{method} {path} by {who}: {status}"));
                }
                continue;
            }
            // A failed login, a spent code and a key without a password are refused by handlers.
            let by_handler = ["/api/v1/login", "/api/v1/enrol", "/api/v1/me/password"];
            if allowed == refused && !(allowed && by_handler.contains(path)) {
                mismatches.push(format!("{method} {path} by {who}: {status}"));
            }
            assert!(status != 500, "{method} {path} by {who}");
        }
    }
    assert!(mismatches.is_empty(), "{mismatches:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sites_and_positions_are_seen_by_those_who_may() {
    let (server, admin) = closed_server().await;
    let id = device(1);
    let station = Station::connect(server.mqtt_port, "station", &[]).await;
    let mut document = status(id, ecosight_shared::json::ConnectionState::Online);
    document.location = Some(ecosight_shared::json::Location {
        lat: -1.2345,
        lon: 36.789,
        uncertainty_m: Some(5.0),
    });
    station.send_status(&document).await;
    station.send_record(&alert(id, 1)).await;
    let (_, ranger) = key(&server, &admin, "ranger", Value::Null).await;
    let (_, viewer) = key(&server, &admin, "viewer", Value::Null).await;
    let (_, elsewhere) = key(&server, &admin, "ranger", json!(["valley"])).await;
    let mut alerts = Value::Null;
    for _ in 0..200 {
        alerts = get(&server, "/api/v1/alerts", &ranger).await.1;
        if alerts["items"].as_array().is_some_and(|items| !items.is_empty()) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(alerts["items"][0]["location"]["lat"], -1.2345);
    let event = alerts["items"][0]["id"].as_str().unwrap();
    for path in ["/api/v1/alerts".to_owned(), "/api/v1/detections".into(), "/api/v1/devices".into()]
    {
        let (_, list) = get(&server, &path, &viewer).await;
        let place = &list["items"][0]["location"];
        assert!((place["lat"].as_f64().unwrap() + 1.2).abs() < 1e-9, "{path}: {place}");
        assert_eq!(place["uncertainty_m"], 10_000.0, "{path}");
        let (_, list) = get(&server, &path, &elsewhere).await;
        assert_eq!(list["items"], json!([]), "{path}");
    }
    for path in [
        format!("/api/v1/alerts/{event}"),
        format!("/api/v1/detections/{event}"),
        format!("/api/v1/devices/{}", id.0),
        format!("/api/v1/devices/{}/telemetry", id.0),
    ] {
        assert_eq!(get(&server, &path, &elsewhere).await.0, 404, "{path}");
        assert_eq!(get(&server, &path, &viewer).await.0, 200, "{path}");
    }
    let (_, sites) = get(&server, "/api/v1/sites", &elsewhere).await;
    assert_eq!(sites["items"], json!([]));
    let site =
        json!({"name": "Ridge", "time_zone": "UTC", "latitude": -1.2345, "longitude": 36.789});
    let described = ask(&server, Method::PUT, "/api/v1/sites/ridge", &admin, Some(&site)).await;
    assert_eq!(described.0, 204);
    let (_, sites) = get(&server, "/api/v1/sites", &viewer).await;
    let site = &sites["items"][0];
    assert_eq!(site["id"], "ridge");
    assert!((site["latitude"].as_f64().unwrap() + 1.2).abs() < 1e-9, "{site}");
    assert!((site["longitude"].as_f64().unwrap() - 36.8).abs() < 1e-9, "{site}");
    let (_, sites) = get(&server, "/api/v1/sites", &ranger).await;
    assert_eq!(sites["items"][0]["latitude"], -1.2345);
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_are_seen_and_changed_by_those_of_their_site() {
    let (server, station, _) = server_with_station().await;
    let event = with_clip(&server, &station).await;
    let verdict = format!("/api/v1/detections/{event}/verdict");
    let confirmed = json!({"verdict": "confirmed"});
    let by_nobody = &Credential::None;
    assert_eq!(ask(&server, Method::PUT, &verdict, by_nobody, Some(&confirmed)).await.0, 200);
    let uploaded = crate::original::upload_bang(&server).await;
    let admin = json!({"name": "root", "password": PASSWORD, "role": "admin"});
    assert_eq!(post(&server, "/api/v1/users", by_nobody, admin).await.0, 201);
    let (_, admin) = log_in(&server, "root", PASSWORD).await;
    let (_, all) = key(&server, &admin, "reviewer", Value::Null).await;
    let (_, ridge) = key(&server, &admin, "reviewer", json!(["ridge"])).await;
    let (_, valley) = key(&server, &admin, "reviewer", json!(["valley"])).await;
    for (who, samples) in [(&all, 2), (&ridge, 1), (&valley, 0)] {
        let (_, list) = get(&server, "/api/v1/samples", who).await;
        assert_eq!(list["items"].as_array().unwrap().len(), samples, "{list}");
        let (_, labels) = get(&server, "/api/v1/labels", who).await;
        let classes = labels["items"].as_array().unwrap().iter();
        let counted: u64 = classes.map(|class| class["samples"].as_u64().unwrap()).sum();
        assert_eq!(counted, samples as u64, "{labels}");
    }
    let (_, list) = get(&server, "/api/v1/samples", &ridge).await;
    let sample = format!("/api/v1/samples/{}", list["items"][0]["id"].as_str().unwrap());
    let (relabel, data) = (json!({"class": "dog"}), format!("{sample}/data"));
    for (method, path, body) in [
        (Method::GET, &sample, None),
        (Method::GET, &data, None),
        (Method::PATCH, &sample, Some(&relabel)),
    ] {
        assert_eq!(ask(&server, method.clone(), path, &valley, body).await.0, 404, "{method}");
        assert_eq!(ask(&server, method.clone(), path, &ridge, body).await.0, 200, "{method}");
    }
    assert_eq!(ask(&server, Method::DELETE, &sample, &valley, None).await.0, 404);
    // What somebody uploaded is of no site, and so is not theirs.
    assert_eq!(get(&server, &format!("/api/v1/samples/{uploaded}"), &ridge).await.0, 404);
    // The same content would take another class.
    let file = ridge.on(server.client().get(server.url(&data))).send().await.unwrap();
    let file = file.bytes().await.unwrap().to_vec();
    let upload = async |who: &Credential| {
        let part = reqwest::multipart::Part::bytes(file.clone()).file_name("shot.wav");
        let form = reqwest::multipart::Form::new().text("class_name", "cat").part("file", part);
        let sent = who.on(server.client().post(server.url("/upload"))).multipart(form).send();
        sent.await.unwrap().status().as_u16()
    };
    assert_eq!(upload(&valley).await, 409);
    assert_eq!(get(&server, &sample, &ridge).await.1["class"], "dog");
    assert_eq!(upload(&ridge).await, 200);
    assert_eq!(ask(&server, Method::DELETE, &sample, &ridge, None).await.0, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_for_some_sites_gives_nobody_more() {
    let (server, admin) = closed_server().await;
    let (whole_id, _) = key(&server, &admin, "viewer", Value::Null).await;
    let (_, ridge) = key(&server, &admin, "admin", json!(["ridge"])).await;
    for (sites, status) in [
        (Value::Null, 403),
        (json!(["valley"]), 403),
        (json!(["ridge", "valley"]), 403),
        (json!(["ridge"]), 201),
        (json!([]), 201),
    ] {
        let name = format!("user {}", sites.to_string().replace(['[', ']', '"', ','], "-"));
        let user = json!({"name": name, "password": PASSWORD, "role": "admin", "sites": sites});
        let (made, answer) = post(&server, "/api/v1/users", &ridge, user).await;
        assert_eq!(made, status, "a user for {sites}: {answer}");
        let body = json!({"name": "key", "role": "admin", "sites": sites});
        assert_eq!(post(&server, "/api/v1/keys", &ridge, body).await.0, status, "key for {sites}");
    }
    let (_, users) = get(&server, "/api/v1/users", &ridge).await;
    assert!(users["items"].as_array().unwrap().iter().all(|user| user["name"] != "root"));
    let path = format!("/api/v1/keys/{whole_id}");
    assert_eq!(ask(&server, Method::DELETE, &path, &ridge, None).await.0, 404);
    assert_eq!(ask(&server, Method::DELETE, &path, &admin, None).await.0, 204);
    // The model that answers is every site's.
    for path in
        ["/api/v1/models/rollback".to_owned(), format!("/api/v1/models/{whole_id}/activate")]
    {
        assert_eq!(post(&server, &path, &ridge, json!({})).await.0, 403, "{path}");
        assert_ne!(post(&server, &path, &admin, json!({})).await.0, 403, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_station_sends_its_own_recordings_only() {
    let (server, admin) = closed_server().await;
    let (one, two) =
        (enrolled(&server, &admin, 1, "ridge").await, enrolled(&server, &admin, 2, "ridge").await);
    let event = "018f4d7e-0000-7000-8000-000000000001";
    let declaration = |n: u8| {
        json!({
            "event_id": event, "device_id": device(n).0, "sha256": "00".repeat(32),
            "bytes": 4, "duration_ms": 10, "format": "flac",
        })
    };
    assert_eq!(post(&server, "/api/v1/clips", &two, declaration(1)).await.0, 403);
    assert_eq!(post(&server, "/api/v1/clips", &one, declaration(1)).await.0, 201);
    let data = format!("/api/v1/clips/{event}/data");
    let put = |who: &Credential| who.on(server.client().put(server.url(&data))).body("abcd").send();
    assert_eq!(put(&two).await.unwrap().status().as_u16(), 404);
    // Its own is taken as far as its hash.
    assert_eq!(put(&one).await.unwrap().status().as_u16(), 422);
    let path = format!("/api/v1/devices/{}", device(1).0);
    assert_eq!(ask(&server, Method::DELETE, &path, &admin, None).await.0, 204);
    assert_eq!(put(&one).await.unwrap().status().as_u16(), 401, "retired");
    let (_, devices) = get(&server, "/api/v1/devices", &admin).await;
    assert_eq!(devices["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn passwords_are_not_guessed_and_sessions_end() {
    let (server, admin) = closed_server().await;
    let (_, me) = get(&server, "/api/v1/me", &admin).await;
    assert_eq!((&me["actor"], &me["role"]), (&"user:root".into(), &"admin".into()));
    let (_, me) = get(&server, "/api/v1/me", &Credential::None).await;
    assert_eq!((&me["actor"], &me["accounts"]), (&"anonymous".into(), &true.into()));
    let mut evaluated = 0;
    for n in 0..30 {
        let (status, _) = log_in(&server, "root", &format!("wrong password {n}")).await;
        match status {
            401 => evaluated += 1,
            429 => {}
            other => panic!("{other}"),
        }
    }
    assert!(evaluated <= 10, "{evaluated} guesses were evaluated");
    let foreign = server.client().post(server.url("/api/v1/logout"));
    let foreign = admin.on(foreign).header(ORIGIN, "https://evil.example").send().await.unwrap();
    assert_eq!(foreign.status().as_u16(), 403, "another site's page");
    let own = admin.on(server.client().post(server.url("/api/v1/logout")));
    let own = own.header(ORIGIN, format!("http://127.0.0.1:{}", server.http_port));
    assert_eq!(own.send().await.unwrap().status().as_u16(), 204);
    assert_eq!(get(&server, "/api/v1/users", &admin).await.0, 401, "the session has ended");
}

/// Lines of the audit log about an action: who, and to what.
async fn deeds(server: &Server, admin: &Credential, action: &str) -> Vec<(String, String)> {
    let (_, page) = get(server, "/api/v1/audit?limit=500", admin).await;
    let lines = page["items"].as_array().unwrap().iter();
    let text = |line: &Value, field: &str| line[field].as_str().unwrap().to_owned();
    lines
        .filter(|line| line["action"] == action)
        .map(|line| (text(line, "actor"), text(line, "target")))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_hears_a_recording_is_in_the_log_once() {
    let (server, station, _) = server_with_station().await;
    let event = with_clip(&server, &station).await;
    let (verdict, confirmed) =
        (format!("/api/v1/detections/{event}/verdict"), json!({"verdict": "confirmed"}));
    let by_nobody = &Credential::None;
    assert_eq!(ask(&server, Method::PUT, &verdict, by_nobody, Some(&confirmed)).await.0, 200);
    let admin = json!({"name": "root", "password": PASSWORD, "role": "admin"});
    assert_eq!(post(&server, "/api/v1/users", by_nobody, admin).await.0, 201);
    let (_, admin) = log_in(&server, "root", PASSWORD).await;
    let (_, ranger) = key(&server, &admin, "ranger", Value::Null).await;
    let data = server.url(&format!("/api/v1/clips/{event}/data"));
    // A player that begins in the middle has begun all the same.
    for range in ["bytes=100-", "bytes=0-99", "bytes=200-"] {
        let play = ranger.on(server.client().get(&data)).header(RANGE, range).send().await.unwrap();
        assert_eq!(play.status().as_u16(), 206);
    }
    let by_ranger = ("key:ranger key".to_owned(), event.clone());
    assert_eq!(deeds(&server, &admin, "clip.play").await, std::slice::from_ref(&by_ranger));
    admin.on(server.client().get(&data)).send().await.unwrap();
    let by_root = ("user:root".to_owned(), event.clone());
    assert_eq!(deeds(&server, &admin, "clip.play").await, [by_root.clone(), by_ranger.clone()]);
    let picture = format!("/api/v1/clips/{event}/spectrogram");
    assert_eq!(get(&server, &picture, &ranger).await.0, 200);
    assert_eq!(deeds(&server, &admin, "clip.look").await, [by_ranger]);
    let (_, samples) = get(&server, "/api/v1/samples", &admin).await;
    let sample = samples["items"][0]["id"].as_str().unwrap();
    let path = format!("/api/v1/samples/{sample}");
    assert_eq!(get(&server, &format!("{path}/data"), &admin).await.0, 200);
    let relabel = json!({"class": "dog"});
    assert_eq!(ask(&server, Method::PATCH, &path, &admin, Some(&relabel)).await.0, 200);
    assert_eq!(ask(&server, Method::DELETE, &path, &admin, None).await.0, 204);
    for action in ["sample.play", "sample.relabel", "sample.forget"] {
        let expected = [("user:root".to_owned(), sample.to_owned())];
        assert_eq!(deeds(&server, &admin, action).await, expected, "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ranger_takes_an_alert_and_everybody_sees_who() {
    let (server, station, _) = server_with_station().await;
    station.send_record(&alert(device(1), 20)).await;
    station.send_record(&quiet_detection(device(1), 21)).await;
    server.wait_for_items("/api/v1/detections", 2).await;
    let (_, alerts) = server.json("/api/v1/alerts").await;
    let event = alerts["items"][0]["id"].as_str().unwrap().to_owned();
    let (_, detections) = server.json("/api/v1/detections?class=dog").await;
    let quiet = detections["items"][0]["id"].as_str().unwrap().to_owned();
    let mut watcher = Watcher::open(&server, None).await;
    let admin = json!({"name": "root", "password": PASSWORD, "role": "admin"});
    assert_eq!(post(&server, "/api/v1/users", &Credential::None, admin).await.0, 201);
    let (_, admin) = log_in(&server, "root", PASSWORD).await;
    let take = async |event: &str, role: &str, sites: Value| {
        let (_, who) = key(&server, &admin, role, sites).await;
        post(&server, &format!("/api/v1/alerts/{event}/acknowledge"), &who, json!({})).await
    };
    for (role, sites, status) in [
        ("viewer", Value::Null, 403),
        ("technician", Value::Null, 403),
        ("ranger", json!(["valley"]), 404),
    ] {
        assert_eq!(take(&event, role, sites).await.0, status, "{role}");
    }
    assert_eq!(take(&quiet, "ranger", Value::Null).await.0, 404, "it alarmed nobody");
    let (status, taken) = take(&event, "ranger", json!(["ridge"])).await;
    assert_eq!((status, &taken["state"]), (200, &"acknowledged".into()), "{taken}");
    assert_eq!(taken["acknowledged"]["by"], "key:ranger key");
    let (status, again) = take(&event, "reviewer", Value::Null).await;
    assert_eq!((status, &again["acknowledged"]), (200, &taken["acknowledged"]), "who was first");
    assert_eq!(get(&server, "/api/v1/alerts?state=open", &admin).await.1["items"], json!([]));
    let (_, list) = get(&server, "/api/v1/alerts?state=acknowledged", &admin).await;
    assert_eq!(list["items"][0]["id"], event);
    // What came before may be shown first.
    while let Some(shown) = watcher.next(std::time::Duration::from_secs(10)).await {
        if shown.data["state"] == "acknowledged" {
            assert_eq!((shown.kind.as_str(), &shown.data["id"]), ("alert", &event.clone().into()));
            break;
        }
        assert_ne!(shown.data["id"], Value::Null, "it was never shown");
    }
    let by_ranger = ("key:ranger key".to_owned(), event);
    assert_eq!(deeds(&server, &admin, "alert.acknowledge").await, [by_ranger]);
}

/// A server behind a trusted proxy on this machine, with an administrator and no model.
async fn limited_server(config: &str) -> (Server, Credential) {
    let config = format!("[http]\ntrusted_proxies = [\"127.0.0.1\"]\n{config}\n");
    let server = Server::start_with_config(&config, &["--yamnet", "/none"]).await;
    // Waiting for it to come up was asking, too.
    tokio::time::sleep(std::time::Duration::from_millis(1_200)).await;
    let admin = json!({"name": "root", "password": PASSWORD, "role": "admin"});
    assert_eq!(post(&server, "/api/v1/users", &Credential::None, admin).await.0, 201);
    let (_, admin) = log_in(&server, "root", PASSWORD).await;
    (server, admin)
}

/// Asks as from `address`; gives the status and `Retry-After`.
async fn ask_from(
    server: &Server,
    address: &str,
    path: &str,
    who: &Credential,
) -> (u16, Option<u64>) {
    let request = who.on(server.client().get(server.url(path)));
    let response = request.header("x-forwarded-for", address).send().await.unwrap();
    let wait = response.headers().get(RETRY_AFTER);
    let wait_s = wait.map(|wait| wait.to_str().unwrap().parse().unwrap());
    (response.status().as_u16(), wait_s)
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_nobody_has_are_not_tried_without_limit() {
    let (server, admin) = limited_server("").await;
    let (_, good) = key(&server, &admin, "viewer", Value::Null).await;
    let bad = |n: usize| match n % 3 {
        0 => Credential::Bearer(format!("esk_{n}")),
        1 => Credential::Basic(device(7).to_string(), format!("esd_{n}")),
        _ => Credential::Cookie(format!("__Host-ecosight=ess_{n}")),
    };
    let (mut tried, mut turned_away) = (0, 0);
    for n in 0..150 {
        // What the client itself writes before the proxy's word counts for nothing.
        let from = format!("10.9.8.{n}, 198.51.100.1");
        match ask_from(&server, &from, "/api/v1/sites", &bad(n)).await {
            (401, None) => tried += 1,
            (429, Some(wait_s)) if wait_s > 0 => turned_away += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!((60..80).contains(&tried), "{tried} were looked up");
    assert!(turned_away > 0);
    // Good ones are not looked up from there either, and are from anywhere else.
    assert_eq!(ask_from(&server, "198.51.100.1", "/api/v1/sites", &good).await.0, 429);
    assert_eq!(ask_from(&server, "198.51.100.2", "/api/v1/sites", &good).await.0, 200);
    assert_eq!(ask_from(&server, "198.51.100.1", "/health", &Credential::None).await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_caller_has_a_rate_of_its_own() {
    let (server, admin) = limited_server("rate_limit = 5").await;
    // Two keys of one name are two callers.
    let (_, one) = key(&server, &admin, "viewer", Value::Null).await;
    let (_, two) = key(&server, &admin, "viewer", Value::Null).await;
    let mut limited = None;
    for _ in 0..30 {
        if let (429, wait_s) = ask_from(&server, "198.51.100.1", "/api/v1/sites", &one).await {
            limited = wait_s;
            break;
        }
    }
    assert_eq!(limited, Some(1), "a burst was not limited");
    assert_eq!(ask_from(&server, "198.51.100.1", "/api/v1/sites", &two).await.0, 200);
    // Those without a name are told apart by their address.
    let mut from = ["198.51.100.3"; 30].into_iter();
    let mut limited = false;
    while let (Some(address), false) = (from.next(), limited) {
        limited = ask_from(&server, address, "/livez", &Credential::None).await.0 == 429;
    }
    assert!(limited, "somebody without a name was not limited");
    assert_eq!(ask_from(&server, "198.51.100.4", "/livez", &Credential::None).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn codes_are_tried_by_each_address_for_itself() {
    let (server, admin) = limited_server("").await;
    let enrol = async |from: &str, code: &Value, n: u8| {
        let body = json!({"code": code, "device_id": device(n).0});
        let request = server.client().post(server.url("/api/v1/enrol")).json(&body);
        let answer = request.header("x-forwarded-for", from).send().await.unwrap();
        answer.status().as_u16()
    };
    let mut statuses = Vec::new();
    for _ in 0..15 {
        statuses.push(enrol("198.51.100.1", &"AAAA-BBBB-CCCC-DDDD".into(), 1).await);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 403).count(), 10, "{statuses:?}");
    assert_eq!(statuses.last(), Some(&429));
    let offer = json!({"site": "ridge", "device_name": "one"});
    let (_, offer) = post(&server, "/api/v1/enrolments", &admin, offer).await;
    assert_eq!(enrol("198.51.100.1", &offer["code"], 1).await, 429);
    assert_eq!(enrol("198.51.100.2", &offer["code"], 1).await, 201);
    // Names are tried from one address only so often, whichever they are.
    let mut evaluated = 0;
    for n in 0..70 {
        let body = json!({"name": format!("user {n}"), "password": "wrong wrong wrong"});
        let login = server.client().post(server.url("/api/v1/login")).json(&body);
        let answer = login.header("x-forwarded-for", "198.51.100.5").send().await.unwrap();
        evaluated += usize::from(answer.status().as_u16() == 401);
    }
    assert_eq!(evaluated, 50);
    assert_eq!(log_in(&server, "root", PASSWORD).await.0, 200, "from elsewhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_is_logged_and_a_changed_line_shows() {
    let (mut server, admin) = closed_server().await;
    key(&server, &admin, "ranger", Value::Null).await;
    let (_, page) = get(&server, "/api/v1/audit?limit=2", &admin).await;
    let actions: Vec<&str> =
        page["items"].as_array().unwrap().iter().map(|l| l["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["key.create", "login"]);
    assert_eq!(page["items"][0]["actor"], "user:root");
    let next = page["next"].as_i64().unwrap();
    let (_, rest) = get(&server, &format!("/api/v1/audit?before={next}"), &admin).await;
    assert_eq!(rest["items"][0]["action"], "user.create");
    assert_eq!(server.terminate(std::time::Duration::from_secs(12)), Some(0));
    let file = server.data_dir().join("ecosight.db");
    let pool = ecosight_cloud::store::sqlite_writer(&file).await.unwrap();
    let store = ecosight_cloud::store::Store::open("", &server.data_dir()).await.unwrap();
    assert_eq!(store.audit_fault().await.unwrap(), None);
    let changed = "UPDATE audit SET actor = 'user:somebody' WHERE number = 2";
    sqlx::query(changed).execute(&pool).await.unwrap();
    assert_eq!(store.audit_fault().await.unwrap(), Some(2));
}

#[test]
fn an_open_address_wants_an_administrator_first() {
    let folder = tempfile::TempDir::new().unwrap();
    let dir = folder.path().to_str().unwrap();
    let serve =
        ["serve", "--listen", "0.0.0.0:0", "--mqtt-listen", "127.0.0.1:0", "--data-dir", dir];
    let output = run(&serve);
    assert_eq!(output.status.code(), Some(1));
    let complaint = String::from_utf8(output.stderr).unwrap();
    assert!(complaint.contains("create-admin"), "{complaint}");
    let made = run(&["create-admin", "root", "--data-dir", dir]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    assert_eq!(String::from_utf8(made.stdout).unwrap().trim().len(), 19);
    let again = run(&["create-admin", "root", "--data-dir", dir]);
    assert_eq!(again.status.code(), Some(1));
    let key = run(&["create-api-key", "metrics", "--role", "viewer", "--data-dir", dir]);
    assert!(String::from_utf8(key.stdout).unwrap().starts_with("esk_"));
    let out = folder.path().join("mosquitto");
    let files = run(&["mosquitto-acl", "--out", out.to_str().unwrap(), "--data-dir", dir]);
    assert!(files.status.success(), "{}", String::from_utf8_lossy(&files.stderr));
    let acl = std::fs::read_to_string(out.join("acl")).unwrap();
    assert!(acl.contains("topic readwrite ecosight/v1/#"), "{acl}");
}
