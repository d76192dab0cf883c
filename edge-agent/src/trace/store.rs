//! All SQL of the trace.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous,
};
use sqlx::{Connection as _, Row as _};

use super::{Entry, KEPT_DAYS, ROWS_MAX};

/// Name of the file in the data directory.
pub const FILE: &str = "trace.db";

const SCHEMA: &str = include_str!("schema.sql");
const DAY_US: i64 = 86_400_000_000;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The station has never listened here.
    #[error(
        "{path} is not there: the station has not listened yet, or storage.data_dir is another"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// SQLite refuses.
    #[error("trace: {0}")]
    Disk(#[from] sqlx::Error),
}

/// A minute that was listened to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MinuteRow {
    /// Its beginning, unix µs.
    pub unix_us: i64,
    /// Windows judged, 125 in a whole minute.
    pub windows: u32,
    /// Those with speech.
    pub speech: u32,
    /// Lowest noise floor, dBFS.
    pub noise_floor_dbfs: Option<f32>,
    /// Highest score by class.
    pub highest: BTreeMap<String, f32>,
}

/// An event that was confirmed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EventRow {
    /// Onset, unix µs.
    pub unix_us: i64,
    /// Its class.
    pub class: String,
    /// Its score at confirmation.
    pub score: f32,
    /// The threshold in use.
    pub threshold: f32,
    /// Level, dBFS.
    pub level_dbfs: f32,
    /// Whether rangers were told.
    pub alert: bool,
}

/// A candidate that was stopped.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CandidateRow {
    /// Its best moment, unix µs.
    pub unix_us: i64,
    /// Its class.
    pub class: String,
    /// Best score of a single window.
    pub score: f32,
    /// Best confirmation score.
    pub confirmation: f32,
    /// The threshold in use.
    pub threshold: f32,
    /// `threshold`, `confirmation` or `budget`.
    pub stopped: String,
    /// Level, dBFS.
    pub level_dbfs: f32,
    /// Noise floor, dBFS.
    pub noise_floor_dbfs: f32,
    /// Windows near the threshold.
    pub windows: u32,
    /// Scores of its best window, in the order of the model's classes, to 1/255.
    pub scores: Vec<f32>,
}

/// What is remembered of a while.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Traces {
    /// By time.
    pub minutes: Vec<MinuteRow>,
    /// By time.
    pub events: Vec<EventRow>,
    /// By time.
    pub candidates: Vec<CandidateRow>,
}

/// The file, open for writing.
pub(super) struct Store {
    connection: SqliteConnection,
}

impl Store {
    pub(super) async fn open(path: &Path) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // The last minutes may be lost with the power; the card is spared.
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(Duration::from_secs(5));
        let mut connection = SqliteConnection::connect_with(&options).await?;
        sqlx::raw_sql("PRAGMA journal_size_limit = 1048576; PRAGMA cache_size = -256")
            .execute(&mut connection)
            .await?;
        sqlx::raw_sql(SCHEMA).execute(&mut connection).await?;
        Ok(Self { connection })
    }

    /// All or nothing, then what is too old or too much is removed.
    pub(super) async fn write(&mut self, entries: &[Entry]) -> Result<(), sqlx::Error> {
        let mut transaction = self.connection.begin().await?;
        let mut newest = i64::MIN;
        for entry in entries {
            let at_us = insert(&mut transaction, entry).await?;
            newest = newest.max(at_us);
        }
        for (delete_old, delete_excess) in REMOVALS {
            sqlx::query(delete_old)
                .bind(newest.saturating_sub(KEPT_DAYS * DAY_US))
                .execute(&mut *transaction)
                .await?;
            sqlx::query(delete_excess).bind(ROWS_MAX).execute(&mut *transaction).await?;
        }
        transaction.commit().await
    }

    pub(super) async fn close(self) {
        let _ = self.connection.close().await;
    }
}

const REMOVALS: [(&str, &str); 3] = [
    (
        "DELETE FROM candidates WHERE at_us < $1",
        "DELETE FROM candidates WHERE at_us <= \
         (SELECT at_us FROM candidates ORDER BY at_us DESC LIMIT 1 OFFSET $1)",
    ),
    (
        "DELETE FROM events WHERE at_us < $1",
        "DELETE FROM events WHERE at_us <= \
         (SELECT at_us FROM events ORDER BY at_us DESC LIMIT 1 OFFSET $1)",
    ),
    (
        "DELETE FROM minutes WHERE at_us < $1",
        "DELETE FROM minutes WHERE at_us <= \
         (SELECT at_us FROM minutes ORDER BY at_us DESC LIMIT 1 OFFSET $1)",
    ),
];

async fn insert(connection: &mut SqliteConnection, entry: &Entry) -> Result<i64, sqlx::Error> {
    match entry {
        Entry::Candidate { unix_us, class, candidate } => {
            let scores: Vec<u8> = candidate
                .scores
                .iter()
                .map(|s| (s.clamp(0.0, 1.0) * 255.0).round() as u8)
                .collect();
            sqlx::query(
                "INSERT INTO candidates (at_us, class, score, confirmation, threshold, stopped, \
                 level_dbfs, noise_floor_dbfs, windows, scores) \
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
            )
            .bind(unix_us)
            .bind(class)
            .bind(candidate.score)
            .bind(candidate.confirmation)
            .bind(candidate.threshold)
            .bind(candidate.stopped.name())
            .bind(candidate.level_dbfs)
            .bind(candidate.noise_floor_dbfs)
            .bind(i64::from(candidate.windows))
            .bind(scores)
            .execute(connection)
            .await?;
            Ok(*unix_us)
        }
        Entry::Event(event) => {
            sqlx::query(
                "INSERT INTO events (at_us, class, score, threshold, level_dbfs, alert) \
                 VALUES ($1, $2, $3, $4, $5, $6)",
            )
            .bind(event.unix_us)
            .bind(&event.class)
            .bind(event.score)
            .bind(event.threshold)
            .bind(event.level_dbfs)
            .bind(event.alert)
            .execute(connection)
            .await?;
            Ok(event.unix_us)
        }
        Entry::Minute(minute) => {
            // A minute that a restart, or a gap, cut in two is one again.
            let before = sqlx::query("SELECT * FROM minutes WHERE at_us = $1")
                .bind(minute.unix_us)
                .fetch_optional(&mut *connection)
                .await?;
            let minute = match before {
                Some(before) => joined(minute_row(&before)?, minute),
                None => minute.clone(),
            };
            sqlx::query(
                "INSERT OR REPLACE INTO minutes \
                 (at_us, windows, speech, noise_floor_dbfs, highest) VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(minute.unix_us)
            .bind(i64::from(minute.windows))
            .bind(i64::from(minute.speech))
            .bind(minute.noise_floor_dbfs)
            .bind(serde_json::to_string(&minute.highest).unwrap_or_default())
            .execute(connection)
            .await?;
            Ok(minute.unix_us)
        }
        Entry::Background(_) => Ok(i64::MIN),
    }
}

fn minute_row(row: &SqliteRow) -> Result<MinuteRow, sqlx::Error> {
    let highest: String = row.try_get("highest")?;
    Ok(MinuteRow {
        unix_us: row.try_get("at_us")?,
        windows: row.try_get("windows")?,
        speech: row.try_get("speech")?,
        noise_floor_dbfs: row.try_get("noise_floor_dbfs")?,
        highest: serde_json::from_str(&highest).unwrap_or_default(),
    })
}

/// Two parts of one minute.
fn joined(mut first: MinuteRow, second: &MinuteRow) -> MinuteRow {
    first.windows += second.windows;
    first.speech += second.speech;
    let floors = first.noise_floor_dbfs.into_iter().chain(second.noise_floor_dbfs);
    first.noise_floor_dbfs = floors.reduce(f32::min);
    for (class, score) in &second.highest {
        let highest = first.highest.entry(class.clone()).or_insert(*score);
        *highest = highest.max(*score);
    }
    first
}

/// What is remembered from `from_us` up to `to_us`, while the station may be running.
///
/// # Errors
/// There is no trace, or it cannot be read.
pub async fn read(data_dir: &Path, from_us: i64, to_us: i64) -> Result<Traces, TraceError> {
    let path = data_dir.join(FILE);
    if !path.is_file() {
        return Err(TraceError::Missing { path });
    }
    let options = SqliteConnectOptions::new()
        .filename(&path)
        .create_if_missing(false)
        .busy_timeout(Duration::from_secs(5));
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let mut traces = Traces::default();
    let rows = sqlx::query("SELECT * FROM minutes WHERE at_us BETWEEN $1 AND $2 ORDER BY at_us")
        .bind(from_us)
        .bind(to_us)
        .fetch_all(&mut connection)
        .await?;
    for row in rows {
        traces.minutes.push(minute_row(&row)?);
    }
    let rows = sqlx::query("SELECT * FROM events WHERE at_us BETWEEN $1 AND $2 ORDER BY at_us")
        .bind(from_us)
        .bind(to_us)
        .fetch_all(&mut connection)
        .await?;
    for row in rows {
        traces.events.push(EventRow {
            unix_us: row.try_get("at_us")?,
            class: row.try_get("class")?,
            score: row.try_get("score")?,
            threshold: row.try_get("threshold")?,
            level_dbfs: row.try_get("level_dbfs")?,
            alert: row.try_get("alert")?,
        });
    }
    let rows = sqlx::query("SELECT * FROM candidates WHERE at_us BETWEEN $1 AND $2 ORDER BY at_us")
        .bind(from_us)
        .bind(to_us)
        .fetch_all(&mut connection)
        .await?;
    for row in rows {
        let scores: Vec<u8> = row.try_get("scores")?;
        traces.candidates.push(CandidateRow {
            scores: scores.iter().map(|score| f32::from(*score) / 255.0).collect(),
            unix_us: row.try_get("at_us")?,
            class: row.try_get("class")?,
            score: row.try_get("score")?,
            confirmation: row.try_get("confirmation")?,
            threshold: row.try_get("threshold")?,
            stopped: row.try_get("stopped")?,
            level_dbfs: row.try_get("level_dbfs")?,
            noise_floor_dbfs: row.try_get("noise_floor_dbfs")?,
            windows: row.try_get("windows")?,
        });
    }
    connection.close().await?;
    Ok(traces)
}
