//! The API's contract, by real connections.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ecosight_shared::json::ConnectionState;
use ecosight_shared::{Flags, Message};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::Value;

use crate::program::Server;
use crate::station::{Station, alert, detection, device, quiet_detection, status, telemetry};

#[tokio::test(flavor = "multi_thread")]
async fn lists_hold_events_and_stations_as_documented() {
    let server = Server::start(&[]).await;
    let station = Station::connect(server.mqtt_port, "station", &[]).await;
    let id = device(1);
    station.send_status(&status(id, ConnectionState::Online)).await;
    for envelope in [alert(id, 1), detection(id, 1, 2), quiet_detection(id, 3), telemetry(id, 4)] {
        station.send_record(&envelope).await;
    }
    server.wait_for_items("/api/v1/detections", 2).await;
    let (_, alerts) = server.json("/api/v1/alerts").await;
    let event = &alerts["items"][0];
    assert_eq!(alerts["items"].as_array().unwrap().len(), 1);
    assert_eq!(alerts["next"], Value::Null);
    for (field, value) in [
        ("device_id", Value::from(id.to_string())),
        ("device_name", "station-1".into()),
        ("site_id", "ridge".into()),
        ("class", "gun_shot".into()),
        ("alert", true.into()),
        ("canary", false.into()),
        ("time", "2026-03-01T18:00:01Z".into()),
        ("time_quality", "network".into()),
        ("duration_ms", 1_440.into()),
        ("decided_after_ms", 1_200.into()),
        ("windows", 3.into()),
        ("level_dbfs", (-11.5).into()),
        ("noise_floor_dbfs", (-55.25).into()),
        ("state", "open".into()),
        ("location", Value::Null),
    ] {
        assert_eq!(event[field], value, "{field}");
    }
    assert!((event["scores"]["gun_shot"].as_f64().unwrap() - 247.0 / 255.0).abs() < 1e-9);
    assert_eq!(event["model"]["tag"], "abcd0102");
    assert_eq!(event["model"]["name"], "gunshot");
    let clip = &event["clip"];
    assert_eq!((&clip["status"], &clip["bytes"]), (&"expected".into(), &4_096.into()));
    assert_eq!(clip["url"], format!("/api/v1/clips/{}/data", clip["id"].as_str().unwrap()));
    let path = format!("/api/v1/alerts/{}", event["id"].as_str().unwrap());
    assert_eq!(&server.json(&path).await.1, event);

    let (_, device_document) = server.json(&format!("/api/v1/devices/{id}")).await;
    assert_eq!(device_document["state"], "online");
    assert_eq!(device_document["telemetry"]["cpu_temperature_c"], 41.5);
    assert_eq!(device_document["telemetry"]["source"], "healthy");
    let (_, devices) = server.json("/api/v1/devices").await;
    assert_eq!(devices["items"][0]["id"], device_document["id"]);

    for (query, count) in [
        ("site=ridge", 2),
        ("site=elsewhere", 0),
        ("class=dog", 1),
        ("since=2026-03-01T18:00:02Z", 1),
        ("until=2026-03-01T18:00:02Z", 1),
        ("limit=1", 1),
    ] {
        let (status, page) = server.json(&format!("/api/v1/detections?{query}")).await;
        assert_eq!(status, 200, "{query}: {page}");
        assert_eq!(page["items"].as_array().unwrap().len(), count, "{query}");
    }
    let (_, first) = server.json("/api/v1/detections?limit=1").await;
    let next = format!("/api/v1/detections?limit=1&cursor={}", first["next"].as_str().unwrap());
    let (_, second) = server.json(&next).await;
    assert_ne!(first["items"][0]["id"], second["items"][0]["id"]);
    assert_eq!(second["next"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_problem_documents() {
    let server = Server::start(&[]).await;
    let missing = "018f4d7e-0000-7000-8000-000000000001";
    for (path, status) in [
        ("/nothing".to_owned(), 404),
        (format!("/api/v1/alerts/{missing}"), 404),
        (format!("/api/v1/devices/{missing}"), 404),
        (format!("/api/v1/clips/{missing}/data"), 404),
        ("/api/v1/alerts/..%2f..%2fetc".to_owned(), 400),
        ("/api/v1/alerts?limit=0".to_owned(), 400),
        ("/api/v1/alerts?limit=x".to_owned(), 400),
        ("/api/v1/alerts?cursor=x".to_owned(), 400),
        ("/api/v1/alerts?since=yesterday".to_owned(), 400),
        ("/api/v1/alerts?stie=ridge".to_owned(), 400),
        ("/api/v1/alerts?site=%00".to_owned(), 400),
        ("/predict".to_owned(), 405),
    ] {
        let response = server.client().get(server.url(&path)).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json", "{path}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff");
        let problem: Value = response.json().await.unwrap();
        assert_eq!(problem["status"], status, "{path}");
        for member in ["type", "title", "detail", "instance"] {
            assert!(problem[member].is_string(), "{path}: {problem}");
        }
    }
    let post = server.client().post(server.url("/api/v1/clips"));
    let long = post.body("x".repeat(100_000)).send().await.unwrap();
    assert_eq!(long.status().as_u16(), 413);
    assert_eq!(long.headers()[CONTENT_TYPE], "application/problem+json");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_is_a_page_for_browsers_and_a_list_for_programs() {
    let server = Server::start(&[]).await;
    let (status, root) = server.json("/").await;
    assert_eq!(status, 200);
    for member in ["message", "version", "status"] {
        assert!(root[member].is_string(), "{root}");
    }
    assert!(root["endpoints"].as_array().unwrap().contains(&"/predict".into()));
    let browser = server.client().get(server.url("/")).header(ACCEPT, "text/html,*/*;q=0.8");
    let page = browser.send().await.unwrap();
    assert!(page.headers()[CONTENT_TYPE].to_str().unwrap().starts_with("text/html"));
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'self'"), "{policy}");
    assert!(page.text().await.unwrap().contains("EcoSight"));
    assert!(
        !server
            .client()
            .get(server.url("/"))
            .send()
            .await
            .unwrap()
            .headers()
            .contains_key("access-control-allow-origin")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_is_told_of_canaries_and_false_alarms() {
    let server = Server::start(&["--yamnet", "/none"]).await;
    let station = Station::connect(server.mqtt_port, "station", &[]).await;
    let id = device(1);
    station.send_status(&status(id, ConnectionState::Online)).await;
    let metrics = async || {
        let response = server.client().get(server.url("/metrics/prometheus")).send().await;
        response.unwrap().text().await.unwrap()
    };
    const CANARY: &str = "ecosight_last_canary_success_timestamp_seconds{site=\"ridge\"} ";
    station.send_record(&alert(id, 1)).await;
    let alerts = server.wait_for_items("/api/v1/alerts", 1).await;
    let text = metrics().await;
    assert!(!text.contains(CANARY), "an alert is no canary: {text}");
    assert!(text.contains("ecosight_false_alarms_total{cause=\"thunder\"} 0"), "{text}");
    let mut canary = alert(id, 2);
    if let Message::Alert(alert) = &mut canary.message {
        alert.flags = Flags::CANARY;
    }
    station.send_record(&canary).await;
    server.wait_for_items("/api/v1/detections", 2).await;
    let url = format!("/api/v1/detections/{}/verdict", alerts[0]["id"].as_str().unwrap());
    let thunder = serde_json::json!({"verdict": "rejected", "cause": "thunder"});
    let judged = server.client().put(server.url(&url)).json(&thunder).send().await.unwrap();
    assert_eq!(judged.status().as_u16(), 200);
    let text = metrics().await;
    assert!(text.contains("ecosight_false_alarms_total{cause=\"thunder\"} 1"), "{text}");
    let line = text.lines().find_map(|line| line.strip_prefix(CANARY));
    let seconds: f64 = line.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
    assert!(seconds > 1.7e9, "{seconds} is no Unix time of the day it came");
}

/// RELIABILITY: five kinds of clients that hold a connection and give nothing.
#[tokio::test(flavor = "multi_thread")]
async fn clients_that_give_nothing_are_cut() {
    let config =
        "[http]\nheader_timeout = \"1s\"\nidle_timeout = \"2s\"\nrequest_timeout = \"3s\"\n";
    let server = Server::start_with_config(config, &[]).await;
    let address = server.address();
    let kinds: [(&str, &[u8], Option<u8>); 5] = [
        ("nothing", b"", None),
        ("half a head", b"GET / HTTP/1.1\r\nHost: x\r\n", None),
        ("a head byte by byte", b"GET / HTTP/1.1\r\n", Some(b'x')),
        (
            "a body byte by byte",
            b"POST /api/v1/clips HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
            Some(b' '),
        ),
        ("a connection after its request", b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n", None),
    ];
    let threads = kinds.map(|(kind, first, then)| {
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            stream.write_all(first).unwrap();
            let started = Instant::now();
            let mut buffer = [0; 4_096];
            loop {
                match stream.read(&mut buffer) {
                    Ok(0) => return (kind, Some(started.elapsed())),
                    Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => {
                        return (kind, Some(started.elapsed()));
                    }
                    _ => {}
                }
                if started.elapsed() > Duration::from_secs(15) {
                    return (kind, None);
                }
                if let Some(byte) = then {
                    let _ = stream.write_all(&[byte]);
                }
            }
        })
    });
    for thread in threads {
        let (kind, cut) = thread.join().unwrap();
        assert!(cut.is_some_and(|after| after < Duration::from_secs(8)), "{kind}: {cut:?}");
    }
    assert_eq!(server.json("/").await.0, 200);
}
