//! What docs/backup.md says, done.

use std::process::Command;
use std::time::Duration;

use ecosight_cloud::store::{Batch, Cursor, EventFilter, Store};

use crate::databases::{binaries, postgres};
use crate::fleet::{server_with_station, with_clip};
use crate::program::Server;
use crate::station::{RECEIVED_US, alert, detection, device, stored, stored_status};

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "{} is not copied", from.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_running_server_is_a_whole_server() {
    let (mut server, station, _) = server_with_station().await;
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
    copy(&data.join("clips"), &copied);
    copy(&data.join("samples"), &copied);
    server.kill_9();
    let dir = copied.to_str().unwrap();
    let restored = Server::start(&["--yamnet", "/none", "--data-dir", dir]).await;
    let (_, event) = restored.json(&format!("/api/v1/alerts/{id}")).await;
    assert_eq!(event["clip"]["status"], "stored", "{event}");
    for path in [format!("/api/v1/clips/{id}/data"), format!("/api/v1/samples/{sample}/data")] {
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
