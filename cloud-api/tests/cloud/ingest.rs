//! From a station's MQTT client to the database, the receipt and the ranger.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ecosight_loadtest::{Broker, BrokerError};
use ecosight_shared::json::{
    CanaryReport, ConnectionState, LossReport, PowerReport, StationHealth,
};
use ecosight_shared::{DeviceId, Envelope, EventId, Flags, Message, TimeQuality, Topic};
use sqlx::Connection as _;

use crate::databases;
use crate::program::Server;
use crate::station::{
    SITE, START_US, Station, alert, bytes, detection, device, places, quiet_detection, status,
    telemetry,
};

const LIMIT: Duration = Duration::from_secs(30);

fn receipts_of(device: DeviceId) -> Vec<String> {
    vec![Topic::Receipt(SITE, device).to_string()]
}

/// Mosquitto; `None`, said aloud, where it is not installed.
fn mosquitto() -> Option<Broker> {
    match Broker::start() {
        Ok(broker) => Some(broker),
        Err(BrokerError::NotInstalled) => {
            assert!(std::env::var_os("CI").is_none(), "CI needs mosquitto");
            eprintln!("skipped: mosquitto is not installed (package mosquitto)");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Alerts with their detections, each event's detection two records after its alert.
fn history(device: DeviceId, events: u32) -> Vec<Envelope> {
    (0..events)
        .flat_map(|n| {
            let seq = n * 3 + 1;
            [alert(device, seq), telemetry(device, seq + 1), detection(device, seq, seq + 2)]
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_stored_receipted_and_told_once_by_the_embedded_broker() {
    let server = Server::start(&[]).await;
    stored_receipted_and_told_once(&server, server.mqtt_port).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_stored_receipted_and_told_once_by_mosquitto_and_postgres() {
    let (Some(broker), Some(database)) = (mosquitto(), databases::postgres().await) else { return };
    let server = Server::start(&["--mqtt", &broker.url(), "--database", &database.url]).await;
    stored_receipted_and_told_once(&server, broker.port()).await;
    let (_, system) = server.json("/api/v1/system").await;
    assert_eq!((&system["database"], &system["broker"]), (&"postgres".into(), &"external".into()));
}

async fn stored_receipted_and_told_once(server: &Server, mqtt_port: u16) {
    let stations = [device(1), device(2)];
    let mut ranger =
        Station::connect(mqtt_port, "ranger", &[Topic::ALL_SITE_ALERTS.to_owned()]).await;
    for id in stations {
        let records = history(id, 10);
        let mut station =
            Station::connect(mqtt_port, &format!("station-{id}"), &receipts_of(id)).await;
        station.send_status(&status(id, ConnectionState::Online)).await;
        for round in 0..3_usize {
            for n in 0..records.len() {
                station.send_record(&records[(n * 7 + round) % records.len()]).await;
            }
            let covered = station.receipts(&places(&records), LIMIT).await;
            assert_eq!(covered, places(&records), "round {round}:\n{}", server.log());
        }
    }

    let alerts = server.wait_for_items("/api/v1/alerts?limit=100", 20).await;
    assert_eq!(alerts.len(), 20);
    let complete = |event: &&serde_json::Value| event["duration_ms"] == 1_440;
    assert_eq!(alerts.iter().filter(complete).count(), 20);
    let mut told = BTreeMap::new();
    while let Some((topic, payload)) = ranger.next(Duration::from_secs(2)).await {
        assert_eq!(topic, "ecosight/v1/ridge/alerts/gun_shot");
        let alert: serde_json::Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(alert["schema"], "ecosight.alert/1");
        *told.entry(alert["event_id"].as_str().unwrap().to_owned()).or_insert(0) += 1;
    }
    let ids: BTreeSet<&str> = alerts.iter().map(|event| event["id"].as_str().unwrap()).collect();
    assert_eq!(told.keys().map(String::as_str).collect::<BTreeSet<_>>(), ids);
    assert!(told.values().all(|&times| times == 1), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_station_says_it_is_is_kept_and_shown_also_when_it_is_gone() {
    let server = Server::start(&[]).await;
    let id = device(1);
    let station = Station::connect(server.mqtt_port, "station", &receipts_of(id)).await;
    let shown = async |state: &str| {
        for _ in 0..200 {
            let devices = server.wait_for_items("/api/v1/devices", 1).await;
            if devices[0]["state"] == state {
                return devices[0]["health"].clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("it is not shown as {state}:\n{}", server.log());
    };
    let health = StationHealth {
        last_verified: Some("2026-03-01T06:00:00Z".into()),
        time_quality: "network".into(),
        clock_offset_ms: Some(1.5),
        source_faults: vec!["flat line\0".into()],
        canary: Some(CanaryReport { score: 0.75, threshold: 0.5, ..CanaryReport::default() }),
        losses: LossReport { clips_given_up: 3, ..LossReport::default() },
        power: Some(PowerReport {
            limits: vec!["under-voltage".into()],
            supply_v: Some(4.75),
            ..PowerReport::default()
        }),
        ..StationHealth::default()
    };
    station.send_health(&status(id, ConnectionState::Online), Some(health)).await;
    let told = shown("online").await;
    assert_eq!(told["last_verified"], "2026-03-01T06:00:00Z");
    assert_eq!((&told["canary_score"], &told["canary_threshold"]), (&0.75.into(), &0.5.into()));
    assert_eq!(
        (&told["power_limits"][0], &told["supply_v"]),
        (&"under-voltage".into(), &4.75.into())
    );
    assert_eq!((&told["clock_offset_ms"], &told["time_quality"]), (&1.5.into(), &"network".into()));
    assert_eq!(told["losses"]["clips_given_up"], 3);
    assert_eq!(told["source_faults"][0], "flat line?");
    // A last will says nothing of it.
    station.send_status(&status(id, ConnectionState::Offline)).await;
    assert_eq!(shown("offline").await, told);
}

/// A station whose clock became known puts right the time of what still waits: of an event that nobody
/// was alerted of as well as of one whose alert has come before with the wrong time.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_was_put_right_replaces_the_wrong_one_and_makes_no_alert() {
    let server = Server::start(&[]).await;
    let id = device(1);
    let mut station = Station::connect(server.mqtt_port, "station", &receipts_of(id)).await;
    station.send_status(&status(id, ConnectionState::Online)).await;
    let (mut early, mut after, mut quiet) =
        (alert(id, 1), detection(id, 1, 2), quiet_detection(id, 3));
    let wrong_us = 3_600_000_000;
    let Message::Detection(dog) = &mut quiet.message else { panic!("no detection") };
    dog.event = EventId::of(quiet.header.record, wrong_us);
    dog.flags = Flags::TIME_CORRECTED;
    let Message::Detection(shot) = &mut after.message else { panic!("no detection") };
    shot.event = EventId::of(early.header.record, wrong_us);
    (early.header.unix_us, early.header.time_quality) = (wrong_us, TimeQuality::Unknown);
    for header in [&mut after.header, &mut quiet.header] {
        (header.unix_us, header.time_quality) = (START_US, TimeQuality::FreeRunning);
    }
    let records = [early, after, quiet];
    for record in &records {
        station.send_record(record).await;
    }
    assert_eq!(station.receipts(&places(&records), LIMIT).await, places(&records));
    let events = server.wait_for_items("/api/v1/detections", 2).await;
    for event in &events {
        assert_eq!(event["time"], "2026-03-01T18:00:00Z", "{event}");
        assert_eq!(event["time_quality"], "free-running");
        assert_eq!(event["recorded_time"], "1970-01-01T01:00:00Z");
        assert_eq!(event["alert"], event["class"] == "gun_shot", "{event}");
    }
    assert_eq!(events.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_payloads_are_set_aside_and_hold_nobody_up() {
    let server = Server::start(&[]).await;
    let id = device(1);
    let mut station = Station::connect(server.mqtt_port, "station", &receipts_of(id)).await;
    let up = Topic::Up(SITE, id);
    let good = bytes(&quiet_detection(id, 1));
    let mut newer = good.clone();
    newer[2] = 9;
    let mut damaged = good.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let mut impossible = quiet_detection(id, 7);
    if let Message::Detection(detection) = &mut impossible.message {
        detection.score = f32::NAN;
    }
    for payload in [
        newer,
        damaged,
        vec![],
        vec![0; 11_000],
        vec![0; 60_000],
        b"{}".to_vec(),
        bytes(&quiet_detection(device(2), 1)),
        bytes(&impossible),
    ] {
        station.send(&up, payload).await;
    }
    station.send(&Topic::Status(SITE, id), b"{\"schema\":\"\"}".to_vec()).await;
    station.send_record(&quiet_detection(id, 2)).await;

    // What can be told apart is receipted, though it was set aside: it would never be taken.
    let wanted = BTreeSet::from([(1, 2), (1, 7)]);
    let covered = station.receipts(&wanted, Duration::from_secs(10)).await;
    assert_eq!(covered, wanted, "{}", server.log());
    let (_, page) = server.json("/api/v1/detections").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 1);
    let log = server.log();
    for reason in ["version 9", "checksum", "the record is of station", "not between 0 and 1"] {
        assert!(log.contains(reason), "{reason:?} is not in the log:\n{log}");
    }
    assert!(!log.contains("lost the broker"), "a payload cost the connection:\n{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_broker_and_server_are_killed() {
    let Some(mut broker) = mosquitto() else { return };
    let mut server = Server::start(&["--mqtt", &broker.url()]).await;
    let id = device(1);
    let records = history(id, 100);
    let mut station = Station::connect(broker.port(), "station", &receipts_of(id)).await;
    station.send_status(&status(id, ConnectionState::Online)).await;
    let mut covered = BTreeSet::new();
    // As an agent does: what has no receipt is sent again.
    for round in 0..20 {
        let open: Vec<&Envelope> = records
            .iter()
            .filter(|e| !covered.contains(&(e.header.record.boot, e.header.record.seq)))
            .collect();
        if open.is_empty() {
            break;
        }
        for envelope in open {
            station.send_record(envelope).await;
        }
        let wait = if round < 5 { Duration::from_millis(40 * round) } else { LIMIT };
        covered.extend(station.receipts(&places(&records), wait).await);
        match round {
            0 | 2 => {
                broker.kill_9().unwrap();
                broker.run().unwrap();
            }
            1 | 3 => {
                server.kill_9();
                server.run().await;
            }
            _ => {}
        }
        covered.extend(station.receipts(&places(&records), Duration::from_secs(1)).await);
    }
    assert_eq!(covered, places(&records), "{}", server.log());
    assert_eq!(server.wait_for_items("/api/v1/alerts?limit=500", 100).await.len(), 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_keeps_what_the_database_has_not_taken() {
    let Some(broker) = mosquitto() else { return };
    let mut server = Server::start(&["--mqtt", &broker.url()]).await;
    let id = device(1);
    let mut station = Station::connect(broker.port(), "station", &receipts_of(id)).await;
    station.send_record(&quiet_detection(id, 1)).await;
    assert_eq!(station.receipts(&BTreeSet::from([(1, 1)]), LIMIT).await.len(), 1);

    let file = server.data_dir().join("ecosight.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
    let mut other = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    station.send_record(&quiet_detection(id, 2)).await;
    let while_locked = station.receipts(&BTreeSet::from([(1, 2)]), Duration::from_secs(1)).await;
    assert_eq!(while_locked, BTreeSet::new(), "a receipt for what is not stored");
    server.kill_9();
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();

    // Nobody sends it again: it must still be at the broker.
    server.run().await;
    assert_eq!(
        station.receipts(&BTreeSet::from([(1, 2)]), LIMIT).await.len(),
        1,
        "{}",
        server.log()
    );
    assert_eq!(server.wait_for_items("/api/v1/detections", 2).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_wait_for_a_broker_that_is_away() {
    let Some(mut broker) = mosquitto() else { return };
    let mut server = Server::start(&["--mqtt", &broker.url()]).await;
    let id = device(1);
    let station = Station::connect(broker.port(), "station", &[]).await;
    let mut ranger =
        Station::connect(broker.port(), "ranger", &[Topic::ALL_SITE_ALERTS.to_owned()]).await;
    station.send_status(&status(id, ConnectionState::Online)).await;
    station.send_record(&alert(id, 1)).await;
    let first = ranger.next(LIMIT).await;
    assert!(first.is_some(), "{}", server.log());
    server.terminate(Duration::from_secs(15));

    // An alert that was stored and not sent, as by a server that was killed in between.
    let file = server.data_dir().join("ecosight.db");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&file);
    let mut database = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    let update = "UPDATE notifications SET sent_us = NULL";
    assert_eq!(sqlx::query(update).execute(&mut database).await.unwrap().rows_affected(), 1);
    drop(database);
    broker.stop().unwrap();
    server.run().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (_, system) = server.json("/api/v1/system").await;
    assert_eq!(system["broker_connected"], false);
    broker.run().unwrap();
    assert_eq!(ranger.next(LIMIT).await, first, "{}", server.log());
}

/// The real clients of Mosquitto, in both versions of the protocol.
#[tokio::test(flavor = "multi_thread")]
async fn clients_of_both_versions_share_the_embedded_broker() {
    if !std::path::Path::new("/usr/bin/mosquitto_sub").exists() {
        assert!(std::env::var_os("CI").is_none(), "CI needs mosquitto-clients");
        eprintln!("skipped: mosquitto-clients is not installed");
        return;
    }
    let server = Server::start(&[]).await;
    let port = server.mqtt_port.to_string();
    let versions = ["mqttv311", "mqttv5"];
    for publisher in versions {
        for subscriber in versions {
            let topic = format!("test/{publisher}/{subscriber}");
            let publish = |payload: &str, retain: bool| {
                let mut arguments =
                    vec!["-p", &port, "-V", publisher, "-q", "1", "-t", &topic, "-m", payload];
                if retain {
                    arguments.push("-r");
                }
                client("mosquitto_pub", &arguments)
            };
            let subscribe = |extra: &[&str]| {
                let mut arguments = vec![
                    "-p", &port, "-V", subscriber, "-q", "1", "-t", &topic, "-C", "1", "-W", "5",
                ];
                arguments.extend(extra);
                client("mosquitto_sub", &arguments)
            };
            publish("kept", true);
            assert_eq!(subscribe(&["-F", "%r %p"]), "1 kept\n", "retained, {topic}");
            publish("", true);

            // A session that sleeps while its message comes.
            let session = if subscriber == "mqttv5" {
                vec!["-c", "-i", "sleeper", "-x", "600"]
            } else {
                vec!["-c", "-i", "sleeper"]
            };
            let mut first = session.clone();
            first.extend(["-E"]);
            subscribe(&first);
            publish("queued", false);
            assert_eq!(subscribe(&session), "queued\n", "queued, {topic}");
            client(
                "mosquitto_sub",
                &["-p", &port, "-V", subscriber, "-i", "sleeper", "-t", "x", "-E"],
            );
        }
    }
    last_will(&port, "mqttv5");
    last_will(&port, "mqttv311");
}

fn last_will(port: &str, version: &str) {
    let topic = format!("test/will/{version}");
    let mut doomed = std::process::Command::new("mosquitto_sub")
        .args(["-p", port, "-V", version, "-t", "test/none", "-k", "5"])
        .args([
            "--will-topic",
            &topic,
            "--will-payload",
            "gone",
            "--will-retain",
            "--will-qos",
            "1",
        ])
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    doomed.kill().unwrap();
    doomed.wait().unwrap();
    let arguments = ["-p", port, "-t", &topic, "-C", "1", "-W", "10", "-q", "1"];
    assert_eq!(client("mosquitto_sub", &arguments), "gone\n", "{version}");
}

fn client(program: &str, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
