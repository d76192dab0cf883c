//! A look at the outbox from outside, for support.

use std::path::Path;

use serde::Serialize;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};

use super::FILE;
use super::store::options;

/// What an outbox holds, seen from outside, also while the station runs.
#[derive(Debug, Default, Serialize)]
pub struct Survey {
    /// Records by kind: 1 alert, 2 detection, 3 telemetry.
    pub records: std::collections::BTreeMap<i64, i64>,
    /// Clips that wait for upload.
    pub clips: i64,
    /// Alerts whose detection is still to come.
    pub open_events: i64,
    /// Why it could not be looked at.
    pub problem: Option<String>,
}

/// Looks at the outbox in `data_dir`.
pub async fn survey(data_dir: &Path) -> Survey {
    let mut survey = Survey::default();
    if let Err(error) = look(&data_dir.join(FILE), &mut survey).await {
        survey.problem = Some(error.to_string());
    }
    survey
}

async fn look(path: &Path, survey: &mut Survey) -> sqlx::Result<()> {
    let mut connection = SqliteConnection::connect_with(&options(path)).await?;
    let rows = sqlx::query("SELECT kind, count(*) AS n FROM records GROUP BY kind")
        .fetch_all(&mut connection)
        .await?;
    for row in rows {
        survey.records.insert(row.try_get("kind")?, row.try_get("n")?);
    }
    survey.clips =
        sqlx::query_scalar("SELECT count(*) FROM clips").fetch_one(&mut connection).await?;
    survey.open_events =
        sqlx::query_scalar("SELECT count(*) FROM open_events").fetch_one(&mut connection).await?;
    connection.close().await
}
