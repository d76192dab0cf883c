//! Alerts that the internet does not take, by whatever else the station has.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ecosight_agent::bearer::{Bearer, base64};
use ecosight_agent::clock::Clock;
use ecosight_agent::config::{self, Encoding};
use ecosight_agent::health::Health;
use ecosight_shared::{ALERT_FRAME_MAX_LEN, Envelope, Message};
use tempfile::{TempDir, tempdir};
use tokio_util::sync::CancellationToken;

use crate::station::write;
use crate::support::{Open, QUOTA, START_US, alert, silent_detection, until};

#[test]
fn base64_is_that_of_the_standard() {
    // RFC 4648, section 10.
    for (bytes, text) in [
        ("", ""),
        ("f", "Zg=="),
        ("fo", "Zm8="),
        ("foo", "Zm9v"),
        ("foob", "Zm9vYg=="),
        ("fooba", "Zm9vYmE="),
        ("foobar", "Zm9vYmFy"),
    ] {
        assert_eq!(base64(bytes.as_bytes()), text);
    }
    assert_eq!(base64(&[0xfb, 0xff, 0xfe]), "+//+");
}

struct Modem {
    directory: TempDir,
    script: PathBuf,
    health: Arc<Health>,
}

impl Modem {
    /// A modem that notes what it is given; `then` is the rest of its script.
    fn new(then: &str) -> Self {
        let directory = tempdir().expect("a directory");
        let script = directory.path().join("modem");
        let sent = directory.path().join("sent");
        write(
            &script,
            format!("#!/bin/sh\necho \"$1\" >> {}\n{then}\n", sent.display()).as_bytes(),
        );
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("set");
        Self { directory, script, health: Arc::default() }
    }

    fn sent(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.directory.path().join("sent")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn bearer(&self, open: &Open, data_dir: &Path, encoding: Encoding, per_day: u32) -> Bearer {
        let config = config::Bearer {
            command: Some(self.script.clone()),
            encoding,
            after: Duration::from_millis(300),
            timeout: Duration::from_secs(1),
            per_day,
        };
        Bearer {
            config,
            outbox: open.outbox.clone(),
            clock: Clock::from_fn(|| START_US),
            health: Arc::clone(&self.health),
            data_dir: data_dir.to_owned(),
        }
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digits).collect()
}

#[tokio::test]
async fn an_alert_that_waits_is_borne_once_and_stays_until_the_cloud_has_it() {
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    let modem = Modem::new("exit 0");
    open.outbox.append(vec![alert(1), silent_detection(2)], None).await.expect("written");
    let stop = CancellationToken::new();
    let bearer = modem.bearer(&open, directory.path(), Encoding::Hex, 20);
    let task = tokio::spawn(bearer.run(stop.clone()));
    until("the alert", async || modem.sent().len() == 1).await;
    // Not a second time, and only alerts.
    tokio::time::sleep(Duration::from_millis(900)).await;
    stop.cancel();
    task.await.expect("no panic").expect("no error");
    let frame = unhex(&modem.sent()[0]);
    assert!(frame.len() <= ALERT_FRAME_MAX_LEN);
    let envelope = Envelope::decode(&frame).expect("the very frame");
    assert!(matches!(envelope.message, Message::Alert(_)));
    assert_eq!(open.outbox.level().await.expect("reads").alerts, 1);
    assert_eq!(modem.health.borne_so_far(), 1);

    // A restart pays for it no second time, and a new alert goes in base64 as well.
    open.outbox.append(vec![alert(3)], None).await.expect("written");
    let stop = CancellationToken::new();
    let bearer = modem.bearer(&open, directory.path(), Encoding::Base64, 20);
    let task = tokio::spawn(bearer.run(stop.clone()));
    until("the new one", async || modem.sent().len() == 2).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    stop.cancel();
    task.await.expect("no panic").expect("no error");
    let rows = open.rows().await;
    assert_eq!(modem.sent()[1..], [base64(&rows[1].envelope)]);
    open.close().await;
}

#[tokio::test]
async fn what_was_not_sent_is_tried_again_and_no_day_costs_more_than_its_share() {
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    // Fails the first time.
    let modem = Modem::new("[ $(wc -l < \"$(dirname \"$0\")/sent\") -gt 1 ]");
    open.outbox.append(vec![alert(1), alert(2), alert(3)], None).await.expect("written");
    let stop = CancellationToken::new();
    let bearer = modem.bearer(&open, directory.path(), Encoding::Hex, 2);
    let task = tokio::spawn(bearer.run(stop.clone()));
    until("three attempts", async || modem.sent().len() == 3).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    stop.cancel();
    task.await.expect("no panic").expect("no error");
    let sent = modem.sent();
    assert_eq!(sent.len(), 3, "one failed, two are the day's share: {sent:?}");
    assert_eq!(sent[0], sent[1]);
    assert_ne!(sent[1], sent[2]);
    open.close().await;
}

#[tokio::test]
async fn a_bearer_that_hangs_or_is_gone_holds_nothing_up() {
    let directory = tempdir().expect("a directory");
    let open = Open::at(directory.path(), 1, QUOTA).await;
    let modem = Modem::new("exec sleep 600");
    open.outbox.append(vec![alert(1)], None).await.expect("written");
    let stop = CancellationToken::new();
    let bearer = modem.bearer(&open, directory.path(), Encoding::Hex, 20);
    let task = tokio::spawn(bearer.run(stop.clone()));
    until("two attempts", async || modem.sent().len() >= 2).await;
    assert_eq!(modem.health.borne_so_far(), 0);
    std::fs::remove_file(&modem.script).expect("removed");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert!(!task.is_finished(), "it goes on trying");
    stop.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(5), task).await;
    ended.expect("ends").expect("no panic").expect("no error");
    open.close().await;
}
