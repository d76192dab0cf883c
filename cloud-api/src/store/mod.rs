//! Path: ingest → **store** → alerts, API
//!
//! Everything that is kept, on SQLite or PostgreSQL. All SQL of the program is in this folder. The
//! text is the same for both databases; [`reading!`] and [`writing!`] expand it once for each.
//!
//! Laws:
//! 1. A record is stored once, whatever is delivered how often and in which order.
//! 2. What a call reported as stored survives a power cut.
//! 3. A caller that goes away in the middle of a call harms no other: writes run in tasks of their
//!    own to their end, and a connection that is inside a transaction is never handed out.

mod access;
mod audit;
mod batch;
mod bulk;
mod clips;
mod counters;
mod desired;
mod devices;
mod events;
mod fleet;
mod jobs;
mod missed;
mod months;
mod notifications;
mod open;
mod releases;
mod rollouts;
mod samples;
mod updates;
mod upkeep;
mod verdicts;
mod versions;

use std::future::Future;

use sqlx::{PgPool, SqlitePool};

pub use access::{KeyRow, NewKey, NewUser, UserRow};
pub use audit::{AuditRow, Deed};
pub use batch::{
    Batch, CommandAnswer, Committed, Content, EventDraft, Refused, StationStatus, StoredRecord,
};
pub use clips::{ClipDeclaration, ClipRow, ClipStatus, Declared};
pub use desired::{DesiredRow, Publication};
pub use devices::{DeviceRow, TelemetryRow};
pub(crate) use ecosight_models::bundle::hex;
pub use events::{Cursor, EventFilter, EventRow};
pub use fleet::{CommandRow, CredentialRow, Enrolment, SiteRow};
pub use jobs::{Attempt, JobRow, NewJob, Outcome};
pub use missed::{MissedShotRow, PullRow};
pub use notifications::Pending;
pub use open::{postgres_pool, sqlite_reader, sqlite_writer};
pub use releases::{Kept, ReleaseFileRow, ReleaseRow, SignedBundle};
pub use rollouts::{Heard, RolloutChange, RolloutDeviceRow, RolloutRow};
pub use samples::{ClassCount, SampleRow};
pub use updates::{UpdateReport, UpdateStepRow};
pub use upkeep::Forget;
pub use verdicts::{Cause, GivenVerdict, Verdict, VerdictRow};
pub use versions::{ActivationRow, NewActivation, VersionRow, before};

/// The database. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    backend: Backend,
}

#[derive(Clone, Debug)]
enum Backend {
    /// One writer, so that no write ever finds the file locked, beside a few readers.
    Lite {
        read: SqlitePool,
        write: SqlitePool,
    },
    Pg {
        pool: PgPool,
    },
}

/// Why the database did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, is full, busy or read-only: try again later, lose nothing.
    #[error("the database is not available: {0}")]
    Unavailable(sqlx::Error),
    /// It refuses this data and would refuse it again: set the data aside.
    #[error("the database refuses the data: {0}")]
    Refused(sqlx::Error),
    /// The URL is wrong, or the file or its directory cannot be used. The operator must act.
    #[error("{0}")]
    Unusable(String),
    /// The write's own task died.
    #[error("a write was abandoned: {0}")]
    Abandoned(#[from] tokio::task::JoinError),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_refusal(&error) { Self::Refused(error) } else { Self::Unavailable(error) }
    }
}

/// Whether the same statement with the same data would fail for ever.
fn is_refusal(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else {
        return matches!(error, sqlx::Error::Encode(_));
    };
    let Some(code) = database.code() else { return false };
    if let Some(lite) = database.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
        // SQLITE_TOOBIG, CONSTRAINT, MISMATCH, RANGE: the low byte of the extended code.
        let code = sqlx::error::DatabaseError::code(lite).and_then(|code| code.parse::<u32>().ok());
        return matches!(code.map(|code| code & 0xff), Some(18 | 19 | 20 | 25));
    }
    // Classes 22 data exception, 23 integrity constraint.
    code.starts_with("22") || code.starts_with("23")
}

/// Expands a read for both databases. `$pool` is bound to the pool; the value is a `Result` of sqlx.
macro_rules! reading {
    ($store:expr, |$pool:ident| $body:expr) => {
        match &$store.backend {
            $crate::store::Backend::Lite { read: $pool, .. } => $body,
            $crate::store::Backend::Pg { pool: $pool } => $body,
        }
    };
}

/// Expands a transaction for both databases and runs it to its end in a task of its own. `$tx` is
/// bound to the connection and the type `Db` to the database; `?` in the body rolls back.
macro_rules! writing {
    ($store:expr, |$tx:ident| $body:block) => {{
        let backend = $store.backend.clone();
        $crate::store::to_the_end(async move {
            match backend {
                $crate::store::Backend::Lite { write, .. } => {
                    #[allow(dead_code, reason = "not every body builds a query")]
                    type Db = sqlx::Sqlite;
                    let mut connection = write.acquire().await?;
                    let mut transaction =
                        sqlx::Connection::begin_with(&mut *connection, "BEGIN IMMEDIATE").await?;
                    let $tx = &mut *transaction;
                    let value = $body;
                    transaction.commit().await?;
                    Ok(value)
                }
                $crate::store::Backend::Pg { pool } => {
                    #[allow(dead_code, reason = "not every body builds a query")]
                    type Db = sqlx::Postgres;
                    let mut connection = pool.acquire().await?;
                    let mut transaction = sqlx::Connection::begin(&mut *connection).await?;
                    let $tx = &mut *transaction;
                    let value = $body;
                    transaction.commit().await?;
                    Ok(value)
                }
            }
        })
        .await
    }};
}

pub(crate) use {reading, writing};

/// Runs a write in a task that nobody cancels, and waits for it.
async fn to_the_end<T, F>(write: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: Future<Output = Result<T, sqlx::Error>> + Send + 'static,
{
    Ok(tokio::spawn(write).await??)
}

impl Store {
    /// The word for the database in `/api/v1/system`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.backend {
            Backend::Lite { .. } => "sqlite",
            Backend::Pg { .. } => "postgres",
        }
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it does not.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let one: Result<(i64,), _> = reading!(self, |pool| {
            sqlx::query_as("SELECT CAST(1 AS BIGINT)").fetch_one(pool).await
        });
        Ok(one.map(drop)?)
    }

    /// Closes every connection after its work.
    pub async fn close(&self) {
        match &self.backend {
            Backend::Lite { read, write } => {
                read.close().await;
                write.close().await;
            }
            Backend::Pg { pool } => pool.close().await,
        }
    }
}
