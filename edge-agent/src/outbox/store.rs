//! The file of the outbox and its SQL.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ecosight_shared::{
    ClipFormat, DeviceId, Envelope, EventId, Header, MAX_ENVELOPE_LEN, Message, RecordId, SeqRange,
    TimeQuality,
};
use rustix::fs::{FallocateFlags, fallocate};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteRow};
use sqlx::{Connection, Row as _};
use uuid::Uuid;

use crate::correction::Correction;
use crate::health::free_bytes;

use super::repair::{Salvage, move_aside, salvage};
use super::{
    ClipRow, Damaged, Found, OpenDraft, OpenEvent, OutboxError, Priority, ReplayPosition, Row,
};

/// Name of the file in the data directory.
pub const FILE: &str = "outbox.db";

/// Space that is taken so that it can be given back: see [`Store::fill_ballast`].
const BALLAST_FILE: &str = "outbox.ballast";
/// As much as the log may have to put into the file: SQLite folds it at 1000 pages.
const BALLAST: u64 = 4 << 20;

const FORMAT: i64 = 1;
const SCHEMA: &str = include_str!("schema.sql");
/// Records that are in memory at once when all are gone through.
const PAGE: i64 = 256;

/// The WAL is folded into the file at 1000 pages (SQLite's default) and then cut to 4 MiB; 1 MiB of
/// cached pages is plenty for queries that each touch a few rows.
const SETTINGS: &str = "PRAGMA synchronous = FULL; \
                        PRAGMA journal_size_limit = 4194304; \
                        PRAGMA cache_size = -1024";

type Result<T, E = OutboxError> = std::result::Result<T, E>;

/// The file, open.
#[derive(Debug)]
pub(super) struct Store {
    connection: SqliteConnection,
    directory: PathBuf,
}

impl Store {
    pub(super) async fn open(data_dir: &Path, now_us: i64) -> Result<(Self, Found)> {
        let path = data_dir.join(FILE);
        match Self::open_checked(&path).await {
            Ok(mut store) => {
                let last_boot = store.last_boot().await?;
                Ok((store, Found { last_boot, damaged: None }))
            }
            Err(OutboxError::Damaged(error)) => {
                let aside = data_dir.join(format!("{FILE}.damaged-{}", now_us / 1_000_000));
                tracing::error!(%error, kept = %aside.display(), "outbox damaged, moved aside");
                move_aside(&path, &aside)?;
                let mut store = Self::open_checked(&path).await?;
                let saved = salvage(&aside).await;
                let records = store.take_over(&saved).await?;
                let (last_boot, clips) = (saved.last_boot, saved.clips.len() as u64);
                let damaged = Some(Damaged { aside, records, clips });
                Ok((store, Found { last_boot, damaged }))
            }
            Err(error) => Err(error),
        }
    }

    /// What is open already, as it is: for reading what is left of a damaged file.
    pub(super) fn over(connection: SqliteConnection, path: &Path) -> Self {
        Self { connection, directory: path.parent().unwrap_or(path).to_owned() }
    }

    async fn open_checked(path: &Path) -> Result<Self> {
        let connection =
            SqliteConnection::connect_with(&options(path).create_if_missing(true)).await?;
        let mut store = Self::over(connection, path);
        match store.prepare(path).await {
            Ok(()) => Ok(store),
            Err(error) => {
                // Dropped, it would be closed at a time of its own, and then remove the WAL by
                // name: that of the file which takes the place of a damaged one.
                let _ = store.close().await;
                Err(error)
            }
        }
    }

    /// Everything that reads the file for the first time.
    async fn prepare(&mut self, path: &Path) -> Result<()> {
        let connection = &mut self.connection;
        pragma(path, connection, "PRAGMA journal_mode = WAL", "journal_mode", "wal").await?;
        sqlx::raw_sql(SETTINGS).execute(&mut *connection).await?;
        pragma(path, connection, "PRAGMA synchronous", "synchronous", "2").await?;
        let check: String =
            sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(&mut *connection).await?;
        if check != "ok" {
            return Err(OutboxError::Damaged(sqlx::Error::Protocol(check)));
        }
        let format: i64 =
            sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
        match format {
            FORMAT => Ok(()),
            0 => self.create().await,
            found => {
                let path = path.into();
                Err(OutboxError::Newer { path, found, supported: FORMAT })
            }
        }
    }

    async fn create(&mut self) -> Result<()> {
        self.begin().await?;
        sqlx::raw_sql(SCHEMA).execute(&mut self.connection).await?;
        sqlx::raw_sql("PRAGMA user_version = 1").execute(&mut self.connection).await?;
        self.commit().await
    }

    pub(super) async fn begin(&mut self) -> Result<()> {
        sqlx::raw_sql("BEGIN IMMEDIATE").execute(&mut self.connection).await?;
        Ok(())
    }

    pub(super) async fn commit(&mut self) -> Result<()> {
        sqlx::raw_sql("COMMIT").execute(&mut self.connection).await?;
        Ok(())
    }

    /// Ends a transaction that failed; SQLite may have ended it already.
    pub(super) async fn rollback(&mut self) {
        let _ = sqlx::raw_sql("ROLLBACK").execute(&mut self.connection).await;
    }

    pub(super) async fn close(self) -> Result<()> {
        self.connection.close().await.map_err(OutboxError::of)
    }

    async fn last_boot(&mut self) -> Result<u32> {
        let boot: i64 = sqlx::query_scalar(
            "SELECT max(coalesce((SELECT max(boot) FROM boots), 0), \
                        coalesce((SELECT max(boot) FROM records), 0))",
        )
        .fetch_one(&mut self.connection)
        .await?;
        Ok(boot as u32)
    }

    pub(super) async fn note_boot(&mut self, boot: u32) -> Result<()> {
        sqlx::query("DELETE FROM boots").execute(&mut self.connection).await?;
        sqlx::query("INSERT INTO boots (boot) VALUES ($1)")
            .bind(i64::from(boot))
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    pub(super) async fn insert(
        &mut self,
        header: &Header,
        kind: u8,
        priority: Priority,
        envelope: &[u8],
        document: Option<&str>,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO records (boot, seq, kind, priority, created_us, envelope, document) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(i64::from(header.record.boot))
        .bind(i64::from(header.record.seq))
        .bind(i64::from(kind))
        .bind(priority as i64)
        .bind(header.unix_us)
        .bind(envelope)
        .bind(document)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    pub(super) async fn open_event(
        &mut self,
        event: EventId,
        device: DeviceId,
        unix_us: i64,
        time_quality: TimeQuality,
        open: &OpenDraft,
    ) -> Result<()> {
        // Kept as an envelope, because that format is versioned and checked.
        let envelope = Envelope {
            header: Header { record: RecordId { device, boot: 0, seq: 0 }, unix_us, time_quality },
            message: Message::Detection(open.so_far.clone()),
        };
        let mut buffer = [0; MAX_ENVELOPE_LEN];
        let so_far = envelope.encode(&mut buffer).map_err(|_| OutboxError::Encode)?;
        sqlx::query(
            "INSERT INTO open_events \
             (event, stream, class, onset_sample, unix_us, time_quality, so_far) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(&event.0.as_bytes()[..])
        .bind(&open.stream)
        .bind(&open.class)
        .bind(open.onset_sample as i64)
        .bind(unix_us)
        .bind(time_quality as i64)
        .bind(so_far)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    pub(super) async fn close_event(&mut self, event: EventId) -> Result<()> {
        sqlx::query("DELETE FROM open_events WHERE event = $1")
            .bind(&event.0.as_bytes()[..])
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    pub(super) async fn open_events(&mut self) -> Result<Vec<OpenEvent>> {
        let rows = sqlx::query("SELECT * FROM open_events ORDER BY unix_us, event")
            .fetch_all(&mut self.connection)
            .await?;
        // A row that cannot be read is of no event that could be completed.
        Ok(rows.iter().filter_map(|row| open_event(row).ok().flatten()).collect())
    }

    pub(super) async fn insert_clip(
        &mut self,
        clip: &ClipRow,
        priority: Priority,
        created_us: i64,
    ) -> Result<()> {
        sqlx::query(
            "INSERT INTO clips \
             (event, name, sha256, bytes, duration_ms, format, priority, created_us) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
        )
        .bind(&clip.event.0.as_bytes()[..])
        .bind(&clip.name)
        .bind(&clip.sha256[..])
        .bind(clip.bytes as i64)
        .bind(i64::from(clip.duration_ms))
        .bind(clip.format.extension())
        .bind(priority as i64)
        .bind(created_us)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    pub(super) async fn clips(&mut self) -> Result<Vec<ClipRow>> {
        let rows = sqlx::query("SELECT * FROM clips ORDER BY priority, created_us, event")
            .fetch_all(&mut self.connection)
            .await?;
        rows.iter().map(|row| clip_row(row).map_err(OutboxError::of)).collect()
    }

    /// The oldest of the least important clips.
    pub(super) async fn least_clip(&mut self) -> Result<Option<ClipRow>> {
        let row =
            sqlx::query("SELECT * FROM clips ORDER BY priority DESC, created_us, event LIMIT 1")
                .fetch_optional(&mut self.connection)
                .await?;
        row.map(|row| clip_row(&row).map_err(OutboxError::of)).transpose()
    }

    pub(super) async fn forget_clip(&mut self, event: EventId) -> Result<()> {
        sqlx::query("DELETE FROM clips WHERE event = $1")
            .bind(&event.0.as_bytes()[..])
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Removes records; returns how many of each priority.
    pub(super) async fn release(&mut self, range: SeqRange) -> Result<[u64; 3]> {
        let removed = sqlx::query_scalar::<_, i64>(
            "DELETE FROM records WHERE boot = $1 AND seq BETWEEN $2 AND $3 RETURNING priority",
        )
        .bind(i64::from(range.boot))
        .bind(i64::from(range.first))
        .bind(i64::from(range.last))
        .fetch_all(&mut self.connection)
        .await?;
        let mut counts = [0; 3];
        for priority in removed {
            counts[usize::try_from(priority).unwrap_or(2).min(2)] += 1;
        }
        Ok(counts)
    }

    pub(super) async fn next(
        &mut self,
        priority: Priority,
        after: i64,
        limit: usize,
    ) -> Result<Vec<Row>> {
        let rows = sqlx::query(
            "SELECT id, boot, seq, priority, envelope, document FROM records \
             WHERE priority = $1 AND id > $2 ORDER BY id LIMIT $3",
        )
        .bind(priority as i64)
        .bind(after)
        .bind(limit as i64)
        .fetch_all(&mut self.connection)
        .await?;
        rows.iter().map(|row| record_row(row).map_err(OutboxError::of)).collect()
    }

    pub(super) async fn row(&mut self, id: i64) -> Result<Option<Row>> {
        let row = sqlx::query(
            "SELECT id, boot, seq, priority, envelope, document FROM records WHERE id = $1",
        )
        .bind(id)
        .fetch_optional(&mut self.connection)
        .await?;
        row.map(|row| record_row(&row).map_err(OutboxError::of)).transpose()
    }

    /// Puts the times of one boot's records right, and those of open events; returns how many.
    pub(super) async fn correct(&mut self, boot: u32, correction: &Correction) -> Result<u64> {
        let (mut after, mut count) = (0, 0);
        loop {
            let rows = sqlx::query(
                "SELECT id, boot, seq, priority, envelope, document FROM records \
                 WHERE id > $1 ORDER BY id LIMIT $2",
            )
            .bind(after)
            .bind(PAGE)
            .fetch_all(&mut self.connection)
            .await?;
            let rows: Vec<Row> = rows.iter().map(record_row).collect::<sqlx::Result<_>>()?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            for row in rows.iter().filter(|row| row.boot == boot) {
                let Some(corrected) = correction.of_record(row) else { continue };
                sqlx::query(
                    "UPDATE records SET created_us = $2, envelope = $3, document = $4 WHERE id = $1",
                )
                .bind(row.id)
                .bind(corrected.unix_us)
                .bind(corrected.envelope)
                .bind(corrected.document)
                .execute(&mut self.connection)
                .await?;
                count += 1;
            }
        }
        for open in self.open_events().await? {
            let Some((unix_us, quality)) = correction.of(open.unix_us, open.time_quality) else {
                continue;
            };
            let device = DeviceId(Uuid::nil());
            self.close_event(open.event).await?;
            self.open_event(open.event, device, unix_us, quality, &open.known).await?;
        }
        Ok(count)
    }

    /// Gives up the oldest records of one priority.
    pub(super) async fn drop_oldest(&mut self, priority: Priority, count: u64) -> Result<u64> {
        let done = sqlx::query(
            "DELETE FROM records WHERE id IN \
             (SELECT id FROM records WHERE priority = $1 ORDER BY id LIMIT $2)",
        )
        .bind(priority as i64)
        .bind(count as i64)
        .execute(&mut self.connection)
        .await?;
        Ok(done.rows_affected())
    }

    pub(super) async fn count(&mut self, priority: Priority) -> Result<u64> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM records WHERE priority = $1")
            .bind(priority as i64)
            .fetch_one(&mut self.connection)
            .await?;
        Ok(count as u64)
    }

    /// When the oldest record was written; how many clips wait, and their bytes. Cheap, however
    /// full the outbox is.
    pub(super) async fn oldest_and_clips(&mut self) -> Result<(Option<i64>, u64, u64)> {
        let oldest = sqlx::query_scalar("SELECT created_us FROM records ORDER BY id LIMIT 1")
            .fetch_optional(&mut self.connection)
            .await?;
        let clips = sqlx::query("SELECT count(*) AS n, coalesce(sum(bytes), 0) AS b FROM clips")
            .fetch_one(&mut self.connection)
            .await?;
        Ok((oldest, unsigned(&clips, "n")?, unsigned(&clips, "b")?))
    }

    pub(super) async fn set_position(&mut self, position: &ReplayPosition) -> Result<()> {
        sqlx::query(
            "INSERT INTO replay (only, stream, sample, item, item_start) \
             VALUES (1, $1, $2, $3, $4) ON CONFLICT (only) DO UPDATE SET \
             stream = excluded.stream, sample = excluded.sample, item = excluded.item, \
             item_start = excluded.item_start",
        )
        .bind(&position.stream)
        .bind(position.sample as i64)
        .bind(position.item as i64)
        .bind(position.item_start as i64)
        .execute(&mut self.connection)
        .await?;
        sqlx::query("DELETE FROM replay_ends").execute(&mut self.connection).await?;
        for (class, end) in &position.ends {
            sqlx::query("INSERT INTO replay_ends (class, sample) VALUES ($1, $2)")
                .bind(class)
                .bind(*end as i64)
                .execute(&mut self.connection)
                .await?;
        }
        Ok(())
    }

    pub(super) async fn position(&mut self) -> Result<Option<ReplayPosition>> {
        let Some(row) =
            sqlx::query("SELECT * FROM replay").fetch_optional(&mut self.connection).await?
        else {
            return Ok(None);
        };
        let ends = sqlx::query("SELECT class, sample FROM replay_ends")
            .fetch_all(&mut self.connection)
            .await?;
        Ok(Some(ReplayPosition {
            stream: row.try_get("stream")?,
            sample: unsigned(&row, "sample")?,
            item: unsigned(&row, "item")?,
            item_start: unsigned(&row, "item_start")?,
            ends: ends
                .iter()
                .map(|row| Ok((row.try_get("class")?, unsigned(row, "sample")?)))
                .collect::<sqlx::Result<_>>()?,
        }))
    }

    /// Folds the log into the file and cuts it to nothing, as far as there is room; gives the bytes
    /// gained.
    pub(super) async fn fold(&mut self) -> u64 {
        let before = free_bytes(&self.directory).unwrap_or(0);
        let folded =
            sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_all(&mut self.connection).await;
        if let Err(error) = folded {
            tracing::debug!(%error, "the log is not folded");
        }
        self.free().saturating_sub(before)
    }

    /// Whether so many bytes are free beside those that a full disk needs. Without those nothing could be
    /// given up any more: that has to be written, too.
    pub(super) fn has_spare(&self, bytes: u64) -> bool {
        self.free() >= BALLAST + bytes
    }

    fn free(&self) -> u64 {
        free_bytes(&self.directory).unwrap_or(0)
    }

    /// Keeps room for what must be written on a full disk before anything can be given up; whether there
    /// is some.
    pub(super) fn fill_ballast(&self) -> bool {
        let path = self.directory.join(BALLAST_FILE);
        if path.exists() {
            return true;
        }
        if self.free() < 2 * BALLAST {
            return false;
        }
        let mut options = std::fs::OpenOptions::new();
        let filled = options
            .create_new(true)
            .write(true)
            .open(&path)
            .and_then(|file| Ok(fallocate(file, FallocateFlags::empty(), 0, BALLAST)?));
        if let Err(error) = &filled {
            tracing::debug!(%error, "no room is kept for a full disk");
            let _ = std::fs::remove_file(&path);
        }
        filled.is_ok()
    }

    pub(super) fn release_ballast(&self) {
        let _ = std::fs::remove_file(self.directory.join(BALLAST_FILE));
    }

    /// Writes what was saved of a damaged file; gives how many records still prove to be such.
    async fn take_over(&mut self, saved: &Salvage) -> Result<u64> {
        self.begin().await?;
        let mut taken = 0;
        for row in &saved.records {
            let Ok(envelope) = Envelope::decode(&row.envelope) else { continue };
            let kind = envelope.message.kind();
            let document = row.document.as_deref();
            self.insert(&envelope.header, kind as u8, Priority::of(kind), &row.envelope, document)
                .await?;
            taken += 1;
        }
        for (clip, priority, created_us) in &saved.clips {
            self.insert_clip(clip, *priority, *created_us).await?;
        }
        for open in &saved.open_events {
            let device = DeviceId(Uuid::nil());
            self.open_event(open.event, device, open.unix_us, open.time_quality, &open.known)
                .await?;
        }
        if let Some(position) = &saved.position {
            self.set_position(position).await?;
        }
        self.commit().await?;
        Ok(taken)
    }
}

/// Nothing here makes SQLite read the file: [`Store::prepare`] does, where a failure can be closed.
pub(super) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(uri(path)).busy_timeout(Duration::from_secs(5))
}

/// The name under which SQLite opens `path` so that a commit shares no sector with the one after it
/// (`psow=0`): a write that power cuts short may spoil the rest of its sector, and that must not be
/// the end of a commit that was called durable. See `docs/decisions/0009`.
///
/// A URI, in which every byte but letters and digits is escaped: whatever a path holds, it is the path.
fn uri(path: &Path) -> String {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() {
            uri.push(char::from(*byte));
        } else {
            // Writing into a text never fails.
            let _ = write!(uri, "%{byte:02X}");
        }
    }
    uri + "?psow=0"
}

async fn pragma(
    path: &Path,
    connection: &mut SqliteConnection,
    query: &'static str,
    name: &'static str,
    wanted: &str,
) -> Result<()> {
    let row = sqlx::query(query).fetch_one(connection).await?;
    let found =
        row.try_get::<String, _>(0).or_else(|_| row.try_get::<i64, _>(0).map(|n| n.to_string()))?;
    if wanted == found {
        Ok(())
    } else {
        Err(OutboxError::Pragma { path: path.into(), pragma: name, found })
    }
}

pub(super) fn priority(row: &SqliteRow) -> sqlx::Result<Priority> {
    let priority: i64 = row.try_get("priority")?;
    Ok(match priority {
        0 => Priority::Alert,
        1 => Priority::Detection,
        _ => Priority::Telemetry,
    })
}

pub(super) fn record_row(row: &SqliteRow) -> sqlx::Result<Row> {
    Ok(Row {
        id: row.try_get("id")?,
        boot: unsigned(row, "boot")? as u32,
        seq: unsigned(row, "seq")? as u32,
        priority: priority(row)?,
        envelope: row.try_get("envelope")?,
        document: row.try_get("document")?,
    })
}

pub(super) fn clip_row(row: &SqliteRow) -> sqlx::Result<ClipRow> {
    let sha256: Vec<u8> = row.try_get("sha256")?;
    let format: String = row.try_get("format")?;
    Ok(ClipRow {
        event: event_id(row)?,
        name: row.try_get("name")?,
        sha256: sha256.try_into().map_err(|_| sqlx::Error::Protocol("sha256".into()))?,
        bytes: unsigned(row, "bytes")?,
        duration_ms: unsigned(row, "duration_ms")? as u32,
        format: if format == "flac" { ClipFormat::Flac } else { ClipFormat::Wav },
    })
}

pub(super) fn open_event(row: &SqliteRow) -> sqlx::Result<Option<OpenEvent>> {
    let so_far: Vec<u8> = row.try_get("so_far")?;
    let Ok(Envelope { header, message: Message::Detection(so_far) }) = Envelope::decode(&so_far)
    else {
        return Ok(None);
    };
    Ok(Some(OpenEvent {
        event: event_id(row)?,
        unix_us: header.unix_us,
        time_quality: header.time_quality,
        known: OpenDraft {
            stream: row.try_get("stream")?,
            class: row.try_get("class")?,
            onset_sample: unsigned(row, "onset_sample")?,
            so_far,
        },
    }))
}

fn event_id(row: &SqliteRow) -> sqlx::Result<EventId> {
    let bytes: Vec<u8> = row.try_get("event")?;
    Uuid::from_slice(&bytes).map(EventId).map_err(|e| sqlx::Error::Protocol(e.to_string()))
}

fn unsigned(row: &SqliteRow, name: &str) -> sqlx::Result<u64> {
    row.try_get::<i64, _>(name).map(|number| number as u64)
}
