//! Starting and stopping.

use std::net::TcpListener;
use std::time::Duration;

use ecosight_loadtest::Program;
use ecosight_shared::json::ConnectionState;
use serde_json::Value;

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
async fn a_signal_ends_it_in_order() {
    let mut server = Server::start(&[]).await;
    // An idle connection must not hold it up.
    let _idle = std::net::TcpStream::connect(server.address()).unwrap();
    assert_eq!(server.terminate(Duration::from_secs(12)), Some(0), "{}", server.log());
    server.run().await;
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
