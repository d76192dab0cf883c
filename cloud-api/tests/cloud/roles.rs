//! The parts of the server, each in a process of its own.

use std::time::{Duration, Instant};

use ecosight_loadtest::{Broker, BrokerError, Program, free_port};
use ecosight_shared::json::ConnectionState;
use futures_util::StreamExt;

use crate::program::{Server, binary, run};
use crate::station::{Station, alert, device, status};

fn complaint(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run(arguments);
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[test]
fn parts_alone_need_a_broker_that_all_reach() {
    let folder = tempfile::TempDir::new().unwrap();
    let dir = folder.path().to_str().unwrap();
    let (code, text) = complaint(&["serve", "--roles", "http", "--data-dir", dir]);
    assert_eq!(code, Some(1));
    assert!(text.contains("--mqtt mqtt://"), "{text}");
    let (code, text) = complaint(&["serve", "--roles", "http,cook", "--data-dir", dir]);
    assert_eq!(code, Some(2));
    assert!(text.contains("\"cook\" is no role"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_takes_in_another_shows() {
    let broker = match Broker::start() {
        Ok(broker) => broker,
        Err(BrokerError::NotInstalled) => {
            assert!(std::env::var_os("CI").is_none(), "CI needs Mosquitto");
            eprintln!("skipped: Mosquitto is not installed");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let url = broker.url();
    let page = Server::start(&["--yamnet", "/none", "--mqtt", &url, "--roles", "http"]).await;
    let folder = tempfile::TempDir::new().unwrap();
    let dir = page.data_dir();
    let arguments = [
        "serve",
        "--roles",
        "ingest,worker",
        "--yamnet",
        "/none",
        "--mqtt",
        &url,
        "--listen",
        &format!("127.0.0.1:{}", free_port().unwrap()),
        "--data-dir",
        dir.to_str().unwrap(),
    ];
    let mut intake = Program::start("intake", binary(), arguments, folder.path()).unwrap();
    let stream = page.client().get(page.url("/api/v1/live")).send().await.unwrap();
    let mut stream = stream.bytes_stream();
    let station = Station::connect(broker.port(), "station", &[]).await;
    station.send_status(&status(device(1), ConnectionState::Online)).await;
    // The intake may still be on its way to the broker; a station repeats what has no receipt.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        station.send_record(&alert(device(1), 1)).await;
        if !page.json("/api/v1/alerts").await.1["items"].as_array().unwrap().is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", intake.log_tail());
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut text = String::new();
    while !text.contains("event: alert") {
        let chunk = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
        text.push_str(&String::from_utf8_lossy(&chunk.expect(&text).unwrap().unwrap()));
    }
    let ended = intake.terminate(Duration::from_secs(12)).unwrap();
    assert!(ended.success(), "{}", intake.log_tail());
}
