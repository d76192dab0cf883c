//! What is done about a damaged file: it is moved aside, and what can still be read is saved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, Row as _};

use super::store::{Store, clip_row, open_event, options, priority, record_row};
use super::{ClipRow, OpenEvent, OutboxError, Priority, ReplayPosition, Row};

/// What could be read of a damaged file.
#[derive(Debug, Default)]
pub(super) struct Salvage {
    /// Records, in the order of their writing.
    pub(super) records: Vec<Row>,
    /// Clips that waited, each with its importance and the time of its event.
    pub(super) clips: Vec<(ClipRow, Priority, i64)>,
    /// Alerts whose detection was still to come.
    pub(super) open_events: Vec<OpenEvent>,
    /// How far a replay had come.
    pub(super) position: Option<ReplayPosition>,
    /// Highest boot that wrote into it.
    pub(super) last_boot: u32,
}

/// Moves the file, and what belongs to it, to `aside`.
pub(super) fn move_aside(path: &Path, aside: &Path) -> Result<(), OutboxError> {
    for suffix in ["-wal", "-shm", ""] {
        let with_suffix = |base: &Path| {
            let mut name = base.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let from = with_suffix(path);
        match std::fs::rename(&from, with_suffix(aside)) {
            // SQLite removes its side files itself when it could fold them in.
            Err(source) if source.kind() == std::io::ErrorKind::NotFound && !suffix.is_empty() => {}
            result => result.map_err(|source| OutboxError::Aside { path: from, source })?,
        }
    }
    ecosight_models::durable::sync_folder_of(path)
        .map_err(|source| OutboxError::Aside { path: path.into(), source })
}

/// Reads what can be read: of each table whole rows up to the first that fails, from either end.
/// Envelopes carry checksums, so that what is wrong in them is found out; the rest is of no use
/// without a file or an event that fits it.
pub(super) async fn salvage(path: &Path) -> Salvage {
    let mut saved = Salvage::default();
    let Ok(mut connection) = SqliteConnection::connect_with(&options(path)).await else {
        return saved;
    };
    let queries = [
        "SELECT id, boot, seq, priority, envelope, document FROM records ORDER BY id",
        "SELECT id, boot, seq, priority, envelope, document FROM records ORDER BY id DESC",
    ];
    let records = readable(&mut connection, queries, |row| {
        record_row(row).ok().map(|row| ((row.boot, row.seq), row))
    });
    saved.records = records.await;
    saved.records.sort_by_key(|row| row.id);
    let queries = ["SELECT * FROM clips ORDER BY rowid", "SELECT * FROM clips ORDER BY rowid DESC"];
    let clips = readable(&mut connection, queries, |row| {
        let clip = clip_row(row).ok().filter(|clip| is_plain(&clip.name))?;
        let created_us = row.try_get("created_us").ok()?;
        Some((clip.event.0, (clip, priority(row).ok()?, created_us)))
    });
    saved.clips = clips.await;
    let queries = [
        "SELECT * FROM open_events ORDER BY rowid",
        "SELECT * FROM open_events ORDER BY rowid DESC",
    ];
    let open = readable(&mut connection, queries, |row| {
        open_event(row).ok().flatten().map(|open| (open.event.0, open))
    });
    saved.open_events = open.await;
    let boot = sqlx::query_scalar::<_, i64>("SELECT max(boot) FROM boots");
    let boot = boot.fetch_one(&mut connection).await.map_or(0, |boot| boot as u32);
    saved.last_boot = saved.records.iter().map(|row| row.boot).fold(boot, u32::max);
    let mut store = Store::over(connection, path);
    saved.position = store.position().await.unwrap_or_default();
    let _ = store.close().await;
    saved
}

async fn readable<K: Ord, T>(
    connection: &mut SqliteConnection,
    queries: [&'static str; 2],
    of: impl Fn(&SqliteRow) -> Option<(K, T)>,
) -> Vec<T> {
    let mut found = BTreeMap::new();
    for query in queries {
        let mut rows = sqlx::query(query).fetch(&mut *connection);
        while let Some(Ok(row)) = rows.next().await {
            found.extend(of(&row));
        }
    }
    found.into_values().collect()
}

/// Whether a name is that of a file in the directory of clips and no way out of it.
fn is_plain(name: &str) -> bool {
    Path::new(name).file_name().is_some_and(|file| file == name)
}
