//! The parts of the server, each in a process of its own.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use ecosight_loadtest::{Broker, BrokerError, Program, free_port};
use ecosight_shared::json::ConnectionState;
use futures_util::StreamExt;

use crate::databases::postgres;
use crate::live::Watcher;
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

/// Mosquitto; `None`, said aloud, where it is not installed.
pub(crate) fn broker() -> Option<Broker> {
    match Broker::start() {
        Ok(broker) => Some(broker),
        Err(BrokerError::NotInstalled) => {
            assert!(std::env::var_os("CI").is_none(), "CI needs Mosquitto");
            eprintln!("skipped: Mosquitto is not installed");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Records that a server has stored, by its own count.
async fn stored(server: &Server) -> u64 {
    let text = server.client().get(server.url("/metrics/prometheus")).send().await.unwrap();
    let text = text.text().await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("ecosight_ingest_records_total "));
    line.unwrap().parse().unwrap()
}

/// The ids of alerts on a stream, until there are `count` or none comes for a while.
async fn alerts_on(mut watcher: Watcher, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        let Some(shown) = watcher.next(Duration::from_secs(10)).await else { break };
        if shown.kind == "alert" {
            ids.push(shown.data["id"].as_str().unwrap().to_owned());
        }
    }
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_what_comes_and_each_shows_all() {
    const ALERTS: usize = 100;
    let (Some(broker), Some(database)) = (broker(), postgres().await) else { return };
    let url = broker.url();
    let extra = ["--yamnet", "/none", "--mqtt", &url, "--database", &database.url];
    let config =
        |name: &str| format!("[mqtt]\nclient_id = \"{name}\"\nshared_group = \"servers\"\n");
    let one = Server::start_with_config(&config("one"), &extra).await;
    let two = Server::start_with_config(&config("two"), &extra).await;
    let watchers = [Watcher::open(&one, None).await, Watcher::open(&two, None).await];
    let station = Station::connect(broker.port(), "station", &[]).await;
    station.send_status(&status(device(1), ConnectionState::Online)).await;
    one.wait_for_items("/api/v1/devices", 1).await;
    for seq in 1..=ALERTS as u32 {
        station.send_record(&alert(device(1), seq)).await;
        if seq % 10 == 0 {
            // Several batches at each.
            tokio::time::sleep(Duration::from_millis(60)).await;
        }
    }
    let items = two.wait_for_items("/api/v1/alerts?limit=500", ALERTS).await;
    let ids: BTreeSet<String> =
        items.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!((items.len(), ids.len()), (ALERTS, ALERTS));
    let shares = [stored(&one).await, stored(&two).await];
    assert_eq!(shares.iter().sum::<u64>(), ALERTS as u64, "{shares:?}");
    assert!(shares.iter().all(|share| *share > 0), "one does it all: {shares:?}");
    for watcher in watchers {
        let shown = alerts_on(watcher, ALERTS).await;
        assert_eq!(shown.len(), ALERTS, "of {shares:?}");
        assert_eq!(shown.into_iter().collect::<BTreeSet<_>>(), ids, "each once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_takes_in_another_shows() {
    let Some(broker) = broker() else { return };
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
