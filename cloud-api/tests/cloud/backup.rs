//! What docs/backup.md says, done.

use std::process::Command;
use std::time::Duration;

use ecosight_cloud::store::{Batch, Cursor, EventFilter, Store};
use ecosight_loadtest::sign_release;
use ecosight_shared::json::ConnectionState;
use ecosight_shared::release::SecretKey;
use serde_json::Value;

use crate::databases::{binaries, postgres};
use crate::fleet::with_clip;
use crate::program::Server;
use crate::station::{
    RECEIVED_US, Station, alert, detection, device, status, stored, stored_status,
};

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "{} is not copied", from.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_running_server_is_a_whole_server() {
    let key = SecretKey::from_seed(&[1; 32]);
    let config = format!("[releases]\ntrusted_keys = [\"{}\"]\n", key.public());
    let mut server = Server::start_with_config(&config, &[]).await;
    let station = Station::connect(server.mqtt_port, "station", &[]).await;
    station.send_status(&status(device(1), ConnectionState::Online)).await;
    let release = sign_release(&key, "1", 5, 1_000, None).unwrap();
    let sent = server.client().post(server.url("/api/v1/releases")).body(release.archive).send();
    let release: Value = sent.await.unwrap().json().await.unwrap();
    let release = format!("/api/v1/releases/{}", release["id"].as_str().unwrap());
    let (_, detail) = server.json(&release).await;
    let file = format!("{release}/files/{}", detail["files"][1]["sha256"].as_str().unwrap());
    let (_, versions) = server.json("/api/v1/models").await;
    let version = versions["items"][0]["id"].as_str().unwrap().to_owned();
    let id = with_clip(&server, &station).await;
    let sample = crate::original::upload_bang(&server).await;
    let (folder, data) = (tempfile::TempDir::new().unwrap(), server.data_dir());
    let copied = folder.path().join("data");
    Command::new("mkdir").arg(&copied).status().unwrap();
    // As sqlite3's .backup does: what is committed, while others write.
    let pool = ecosight_cloud::store::sqlite_writer(&data.join("ecosight.db")).await.unwrap();
    let target = copied.join("ecosight.db").display().to_string();
    sqlx::query("VACUUM INTO $1").bind(target).execute(&pool).await.unwrap();
    pool.close().await;
    for folder in ["clips", "samples", "models", "releases"] {
        copy(&data.join(folder), &copied);
    }
    server.kill_9();
    let dir = copied.to_str().unwrap();
    let restored =
        Server::start_with_config(&config, &["--yamnet", "/none", "--data-dir", dir]).await;
    let (_, event) = restored.json(&format!("/api/v1/alerts/{id}")).await;
    assert_eq!(event["clip"]["status"], "stored", "{event}");
    for path in [
        format!("/api/v1/clips/{id}/data"),
        format!("/api/v1/samples/{sample}/data"),
        format!("/api/v1/models/{version}/export"),
        file,
    ] {
        let file = restored.client().get(restored.url(&path)).send().await.unwrap();
        assert_eq!(file.status().as_u16(), 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_of_postgres_is_restored_as_it_was() {
    let (Some(binaries), Some(from)) = (binaries(), postgres().await) else { return };
    let records =
        (1..=200).flat_map(|n| [alert(device(1), 2 * n), detection(device(1), 2 * n, 2 * n + 1)]);
    let batch = Batch {
        records: records.map(|envelope| stored(&envelope)).collect(),
        statuses: vec![stored_status(device(1))],
        received_us: RECEIVED_US,
        ..Batch::default()
    };
    from.store.commit(batch).await.unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let dump = folder.path().join("ecosight.dump");
    let dumped = Command::new(binaries.join("pg_dump"))
        .args(["--format=custom", "--file"])
        .arg(&dump)
        .arg(&from.url)
        .output()
        .unwrap();
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    let to = postgres().await.unwrap();
    let emptied = Command::new(binaries.join("psql"))
        .args(["--quiet", "--command", "DROP SCHEMA public CASCADE; CREATE SCHEMA public", &to.url])
        .output()
        .unwrap();
    assert!(emptied.status.success(), "{}", String::from_utf8_lossy(&emptied.stderr));
    let restored = Command::new(binaries.join("pg_restore"))
        .args(["--exit-on-error", "--dbname", &to.url])
        .arg(&dump)
        .output()
        .unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
    tokio::time::sleep(Duration::from_millis(100)).await;
    let again = Store::open(&to.url, folder.path()).await.unwrap();
    let all = async |store: &Store| {
        let (mut events, mut after) = (Vec::new(), None::<Cursor>);
        loop {
            let filter = EventFilter { after, ..EventFilter::default() };
            let page = store.events(&filter, 100).await.unwrap();
            let Some(last) = page.last() else { return events };
            after = Some(last.cursor());
            events.extend(page);
        }
    };
    let before = all(&from.store).await;
    assert_eq!(before.len(), 200);
    assert_eq!(all(&again).await, before);
}
