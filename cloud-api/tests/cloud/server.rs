//! Starting and stopping.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ecosight_loadtest::Program;
use ecosight_shared::json::ConnectionState;
use futures_util::future::join_all;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::predict::{hum, yamnet};
use crate::program::{Server, binary, run};
use crate::station::{Station, alert, device, status};

fn complaint(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_port_in_use_is_named_with_the_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let dir = folder.path().to_str().unwrap();
    for (flag, other) in [("--listen", "--mqtt-listen"), ("--mqtt-listen", "--listen")] {
        let arguments =
            ["serve", flag, &address.to_string(), other, "127.0.0.1:0", "--data-dir", dir];
        let output = run(&arguments);
        assert_eq!(output.status.code(), Some(1));
        let complaint = complaint(&output);
        for part in [address.port().to_string().as_str(), flag, "in use"] {
            assert!(complaint.contains(part), "{part:?} is not in: {complaint}");
        }
    }
}

#[test]
fn a_broker_that_others_can_reach_is_refused() {
    let output = run(&["serve", "--mqtt-listen", "0.0.0.0:0"]);
    assert_eq!(output.status.code(), Some(2));
    let complaint = complaint(&output);
    assert!(complaint.contains("no passwords") || complaint.contains("passwords"), "{complaint}");
    assert!(complaint.contains("mosquitto-acl"), "{complaint}");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a configuration for a test need not be durable")]
fn faults_of_the_configuration_are_told_all_at_once() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("cloud.toml");
    std::fs::write(&file, "[http]\nlisten = 5\n[mqqt]\n").unwrap();
    let output = run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let complaint = complaint(&output);
    assert!(complaint.contains("cloud.toml:2"), "{complaint}");
    assert!(complaint.contains("did you mean \"mqtt\"?"), "{complaint}");
    let missing = run(&["serve", "--config", "/does/not/exist.toml"]);
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a file in the way")]
fn a_data_directory_that_cannot_be_is_named() {
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let dir = file.join("data");
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--mqtt-listen", "127.0.0.1:0"];
    let output = run(&[&arguments[..], &["--data-dir", dir.to_str().unwrap()]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(complaint(&output).contains("--data-dir"), "{}", complaint(&output));
}

#[test]
fn the_default_configuration_is_printed() {
    let output = run(&["configfile"]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, ecosight_cloud::config::default_file());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_migrate_and_serve_change_older_tables() {
    let folder = tempfile::TempDir::new().unwrap();
    let dir = folder.path().to_str().unwrap();
    let made = run(&["create-admin", "root", "--data-dir", dir]);
    assert!(made.status.success(), "an empty database gets its tables: {}", complaint(&made));
    let file = folder.path().join("ecosight.db");
    let pool = ecosight_cloud::store::sqlite_writer(&file).await.unwrap();
    for older in [
        "ALTER TABLE events DROP COLUMN acknowledged_by",
        "ALTER TABLE events DROP COLUMN acknowledged_us",
        "DELETE FROM _sqlx_migrations WHERE version = 7",
    ] {
        sqlx::query(older).execute(&pool).await.unwrap();
    }
    pool.close().await;
    let export = ["export", "csv", "--data-dir", dir];
    for command in [
        &export[..],
        &["create-admin", "other", "--data-dir", dir],
        &["create-api-key", "key", "--data-dir", dir],
        &["doctor", "--data-dir", dir],
    ] {
        let refused = run(command);
        assert_eq!(refused.status.code(), Some(1), "{command:?}");
        let said = complaint(&refused) + &String::from_utf8(refused.stdout).unwrap();
        assert!(said.contains("ecosight-cloud migrate"), "{command:?}: {said}");
    }
    assert!(run(&["migrate", "--data-dir", dir]).status.success());
    let exported = run(&export);
    assert!(exported.status.success(), "{}", complaint(&exported));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_ends_it_in_order() {
    let mut server = Server::start(&[]).await;
    // An idle connection must not hold it up.
    let _idle = std::net::TcpStream::connect(server.address()).unwrap();
    assert_eq!(server.terminate(Duration::from_secs(12)), Some(0), "{}", server.log());
    server.run().await;
}

/// What `/readyz` says.
async fn readiness(server: &Server) -> (u16, String) {
    let response = server.client().get(server.url("/readyz")).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_ready_while_it_can_do_its_work() {
    let server = Server::start(&["--yamnet", "/none"]).await;
    assert_eq!(readiness(&server).await, (200, "ok".to_owned()));
    let config = "[storage]\nreserve_mib = 1000000000\n";
    let full = Server::start_with_config(config, &["--yamnet", "/none"]).await;
    let (status, text) = readiness(&full).await;
    assert_eq!(status, 503);
    assert!(text.contains("storage.reserve_mib"), "{text}");
    let live = full.client().get(full.url("/livez")).send().await.unwrap();
    assert_eq!(live.status().as_u16(), 200, "a full disk is no reason to kill it");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_broker_it_is_not_ready() {
    let Some(broker) = crate::roles::broker() else { return };
    let server = Server::start(&["--yamnet", "/none", "--mqtt", &broker.url()]).await;
    assert_eq!(readiness(&server).await.0, 200);
    drop(broker);
    let deadline = Instant::now() + Duration::from_secs(30);
    while readiness(&server).await.0 == 200 {
        assert!(Instant::now() < deadline, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (_, text) = readiness(&server).await;
    assert!(text.contains("broker"), "{text}");
}

/// Whoever shares requests out looks at `/readyz`: what it sends until then is answered.
#[tokio::test(flavor = "multi_thread")]
async fn a_signal_under_load_drops_no_request() {
    let Some(yamnet) = yamnet() else { return };
    let config = "[http]\ndrain_grace = \"2s\"\n";
    let mut server =
        Server::start_with_config(config, &["--yamnet", yamnet.to_str().unwrap()]).await;
    let (address, request) = (server.address(), request(&hum()));
    let leaving = AtomicBool::new(false);
    // A connection of its own for each, as from a proxy that keeps none.
    let send = async || {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(&request).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    };
    let user = async || {
        let mut answered = 0;
        while !leaving.load(Ordering::SeqCst) {
            send().await;
            answered += 1;
        }
        answered
    };
    let users = (0..4).map(|_| user());
    let look = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.ask_to_end();
        let asked = Instant::now();
        while readiness(&server).await.0 == 200 {
            assert!(asked.elapsed() < Duration::from_secs(1), "nobody learns that it ends");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        leaving.store(true, Ordering::SeqCst);
        // Begun while it listens, done when it does not any more.
        let (first, rest) = request.split_at(request.len() / 2);
        let mut late = TcpStream::connect(server.address()).await.unwrap();
        late.write_all(first).await.unwrap();
        while TcpStream::connect(server.address()).await.is_ok() {
            assert!(asked.elapsed() < Duration::from_secs(6), "it listens on and on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(asked.elapsed() >= Duration::from_millis(1_900), "there was no grace");
        late.write_all(rest).await.unwrap();
        let mut answer = String::new();
        late.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (answered, late) = futures_util::future::join(join_all(users), look).await;
    assert!(answered.iter().all(|answered| *answered > 0), "{answered:?}");
    assert!(late.starts_with("HTTP/1.1 200 "), "{late}");
    assert_eq!(server.wait_for_end(Duration::from_secs(12)), Some(0), "{}", server.log());
}

/// A request to `/predict` with a file, as bytes.
fn request(file: &[u8]) -> Vec<u8> {
    let head = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n";
    let tail = "\r\n--x--\r\n";
    let length = head.len() + file.len() + tail.len();
    let mut request = format!(
        "POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
         Content-Type: multipart/form-data; boundary=x\r\nContent-Length: {length}\r\n\r\n{head}"
    )
    .into_bytes();
    request.extend_from_slice(file);
    request.extend_from_slice(tail.as_bytes());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_shows_each_alert_once() {
    let server = Server::start(&[]).await;
    let (folder, id) = (tempfile::TempDir::new().unwrap(), device(1));
    let broker = format!("mqtt://127.0.0.1:{}", server.mqtt_port);
    let arguments = ["watch", "--json", "--client-id", "ranger", "--mqtt", &broker];
    let mut watch = Program::start("watch", binary(), arguments, folder.path()).unwrap();
    let started = |log: &str| log.contains("watching");
    while !started(&watch.log_tail()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let station = Station::connect(server.mqtt_port, "station", &[]).await;
    station.send_status(&status(id, ConnectionState::Online)).await;
    for seq in [1, 2, 1] {
        station.send_record(&alert(id, seq)).await;
    }
    server.wait_for_items("/api/v1/alerts", 2).await;
    let shown = || std::fs::read_to_string(folder.path().join("watch.out")).unwrap();
    for _ in 0..200 {
        if shown().lines().count() >= 2 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = watch.terminate(Duration::from_secs(5)).unwrap();
    assert!(status.success(), "{}", watch.log_tail());
    let lines: Vec<Value> =
        shown().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_ne!(lines[0]["event_id"], lines[1]["event_id"]);
}
