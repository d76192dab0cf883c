//! The live stream.

use std::time::Duration;

use ecosight_shared::json::ConnectionState;
use serde_json::Value;
use tokio::time::timeout;

use crate::program::Server;
use crate::station::{Station, alert, detection, device, status};

/// One thing on the stream.
#[derive(Debug)]
pub(crate) struct Shown {
    id: String,
    pub(crate) kind: String,
    pub(crate) data: Value,
}

/// A watcher's connection, opened when this returns.
pub(crate) struct Watcher {
    response: reqwest::Response,
    text: String,
}

impl Watcher {
    pub(crate) async fn open(server: &Server, last_id: Option<&str>) -> Self {
        let client = reqwest::Client::new();
        let mut request = client.get(server.url("/api/v1/live"));
        if let Some(id) = last_id {
            request = request.header("Last-Event-ID", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next thing, if one comes in time.
    pub(crate) async fn next(&mut self, limit: Duration) -> Option<Shown> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| {
                    let line = block.lines().find_map(|line| line.strip_prefix(name));
                    line.map(|value| value.trim_start().to_owned())
                };
                if let (Some(id), Some(kind), Some(data)) =
                    (field("id:"), field("event:"), field("data:"))
                {
                    return Some(Shown { id, kind, data: serde_json::from_str(&data).unwrap() });
                }
                continue;
            }
            let chunk = timeout(limit, self.response.chunk()).await.ok()?.ok()??;
            self.text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_see_what_happens_and_what_they_missed() {
    const LIMIT: Duration = Duration::from_secs(10);
    let mut server = Server::start(&[]).await;
    let id = device(1);
    let station = Station::connect(server.mqtt_port, "station", &[]).await;
    let mut watcher = Watcher::open(&server, None).await;
    station.send_status(&status(id, ConnectionState::Online)).await;
    let shown = watcher.next(LIMIT).await.unwrap();
    assert_eq!((shown.kind.as_str(), &shown.data["state"]), ("device", &"online".into()));

    station.send_record(&alert(id, 1)).await;
    let told = watcher.next(LIMIT).await.unwrap();
    assert_eq!((told.kind.as_str(), &told.data["class"]), ("alert", &"gun_shot".into()));
    assert_eq!(told.data["duration_ms"], Value::Null);
    station.send_record(&detection(id, 1, 2)).await;
    let ended = watcher.next(LIMIT).await.unwrap();
    assert_eq!((ended.kind.as_str(), &ended.data["id"]), ("detection", &told.data["id"]));
    assert_eq!(ended.data["duration_ms"], 1_440);
    assert!(ended.id.parse::<u64>().unwrap() > told.id.parse::<u64>().unwrap());

    // Back after a while: the rest, in order. New: nothing of the past.
    let mut back = Watcher::open(&server, Some(&shown.id)).await;
    assert_eq!(back.next(LIMIT).await.unwrap().id, told.id);
    assert_eq!(back.next(LIMIT).await.unwrap().id, ended.id);
    let mut new = Watcher::open(&server, None).await;
    assert!(new.next(Duration::from_millis(300)).await.is_none());

    // Streams end when the server does, and hold it up no longer than they must.
    assert_eq!(server.terminate(Duration::from_secs(10)), Some(0), "{}", server.log());
    assert!(new.next(LIMIT).await.is_none());
    assert!(back.next(LIMIT).await.is_none());

    // Nobody knows any more what came after that: whoever comes back is told so, once.
    server.run().await;
    let mut back = Watcher::open(&server, Some(&ended.id)).await;
    let gap = back.next(LIMIT).await.unwrap();
    assert_eq!(gap.kind, "gap");
    assert!(gap.data["reason"].is_string());
    assert!(gap.id.parse::<u64>().unwrap() > ended.id.parse::<u64>().unwrap());
}
